//! One connection to a server: made, driven by a task of its own, used for one request at a time.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::deadlines::{Deadline, Deadlines};
use crate::rules::time::Moment;

/// What carries a request body to a server.
pub type RequestBody = Either<Either<Empty<Bytes>, Full<Bytes>>, UnsyncBoxBody<Bytes, BodyFailure>>;

/// A request body that is streamed could not be read to its end: the client left, stalled, or sent what is not HTTP.
#[derive(Debug, thiserror::Error)]
pub enum BodyFailure {
    /// What went wrong on the client's side.
    #[error("the request body ended early")]
    Broken(#[source] hyper::Error),
    /// No piece of it came in time.
    #[error("the request body stood still")]
    Stalled,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// The response deadline; the driver closes the connection when it falls due.
    pub(super) deadline: Arc<Deadline>,
    /// The worker whose runtime drives it.
    pub(super) worker: usize,
    /// It has carried a request before.
    pub(super) reused: bool,
    /// When it was last given back.
    pub(super) idle_since: Moment,
    /// Closed by the driver, once it has closed the socket.
    ended: oneshot::Receiver<()>,
}

/// The answer to a request, or the request back if not a byte of it was sent.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl Connection {
    /// Connects to the first of the addresses that answers.
    pub(super) async fn open(addresses: &[SocketAddr], timeout: Duration, deadlines: &Deadlines, worker: usize) -> io::Result<Self> {
        let stream = match tokio::time::timeout(timeout, connect(addresses)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let deadline = deadlines.watch();
        let watched = Arc::clone(&deadline);
        let (running, ended) = oneshot::channel();
        tokio::spawn(async move {
            // dropped after the connection
            let _running: oneshot::Sender<()> = running;
            let mut connection = pin!(connection);
            poll_fn(|cx| {
                watched.wakes(cx.waker());
                if watched.has_fired() {
                    return Poll::Ready(());
                }
                // how it ended is told to the request that was under way
                connection.as_mut().poll(cx).map(drop)
            })
            .await;
        });
        Ok(Self { sender, deadline, worker, reused: false, idle_since: Moment::default(), ended })
    }

    /// Closes it, whatever is under way, and returns when it is closed.
    pub(super) async fn close(self) {
        self.deadline.fire();
        // an error is what the end of the driver looks like
        drop(self.ended.await);
    }

    /// Sends a request. The future must be polled to its end, or the connection closes.
    pub(super) fn send(&mut self, request: Request<RequestBody>) -> Pin<Box<dyn Future<Output = Sent> + Send>> {
        Box::pin(self.sender.try_send_request(request))
    }

    /// Waits until it can take a request; `false` if it never will.
    pub(super) async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.deadline.has_fired()
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}
