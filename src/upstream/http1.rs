//! One connection to a server that speaks HTTP/1.1: driven by a task of its own, used for one request at a time.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::Request;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::connection::{ConnectError, RequestBody, SendError, Sent, SiteBody, Stream, TransportError};
use crate::deadlines::Deadline;
use crate::rules::time::Moment;
use crate::tls::client::ServerTls;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    /// By which settings it was made.
    tls: Option<Arc<ServerTls>>,
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

impl Http1 {
    /// Begins to speak on a stream.
    pub(super) async fn begin(
        stream: Stream,
        tls: Option<Arc<ServerTls>>,
        deadline: Arc<Deadline>,
        worker: usize,
    ) -> Result<Self, ConnectError> {
        let driven = match stream {
            Stream::Plain(stream) => drive(stream, Arc::clone(&deadline)).await,
            Stream::Tls(stream) => drive(stream, Arc::clone(&deadline)).await,
        };
        let (sender, ended) = driven.map_err(|error| ConnectError::Socket(io::Error::other(error)))?;
        Ok(Self { sender, tls, deadline, worker, reused: false, idle_since: Moment::default(), ended })
    }

    /// Whether it was made by these settings, and not by what stood in a policy or in a file before.
    pub(super) fn is_by(&self, tls: Option<&Arc<ServerTls>>) -> bool {
        match (&self.tls, tls) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Closes it, whatever is under way, and returns when it is closed.
    pub(super) async fn close(self) {
        self.deadline.fire();
        // an error is what the end of the driver looks like
        drop(self.ended.await);
    }

    /// Sends a request. The future must be polled to its end, or the connection closes.
    pub(super) fn send(&mut self, request: Request<RequestBody>) -> Pin<Box<dyn Future<Output = Sent> + Send>> {
        let sending = self.sender.try_send_request(request);
        Box::pin(async move {
            match sending.await {
                Ok(answer) => Ok(answer.map(SiteBody::Http1)),
                Err(failed) => Err(SendError::of_http1(failed)),
            }
        })
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

impl SendError {
    fn of_http1(mut failed: TrySendError<Request<RequestBody>>) -> Self {
        let request = failed.take_message().map(Box::new);
        Self { request, error: TransportError::Http1(failed.into_error()) }
    }
}

/// Speaks HTTP on a stream, in a task of its own, until the stream ends or the deadline falls due. The receiver is closed when it is over.
async fn drive<S>(stream: S, watched: Arc<Deadline>) -> hyper::Result<(http1::SendRequest<RequestBody>, oneshot::Receiver<()>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    let (running, ended) = oneshot::channel();
    tokio::spawn(async move {
        // dropped after the connection
        let _running: oneshot::Sender<()> = running;
        let mut connection = pin!(connection.with_upgrades());
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
    Ok((sender, ended))
}
