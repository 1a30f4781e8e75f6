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
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

use crate::deadlines::{Deadline, Deadlines};
use crate::rules::time::Moment;
use crate::tls::client::{HandshakeError, ServerTls};

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

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None within `upstream.timeouts.connect`, TLS included.
    #[error("no connection in time")]
    Timeout,
    /// No TCP connection.
    #[error("no connection")]
    Socket(#[source] io::Error),
    /// TCP, and no TLS over it.
    #[error("no TLS")]
    Tls(#[source] HandshakeError),
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) addresses: Arc<[SocketAddr]>,
    /// `None` if it is spoken to in plaintext.
    pub(super) tls: Option<Arc<ServerTls>>,
}

/// A connection on which a server was reached.
pub(super) enum Stream {
    Plain(TcpStream),
    /// On the heap, so that plaintext costs no more than without it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
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

/// The answer to a request, or the request back if not a byte of it was sent.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl Connection {
    /// Connects to the first of the addresses that answers.
    pub(super) async fn open(way: Way, timeout: Duration, deadlines: &Deadlines, worker: usize) -> Result<Self, ConnectError> {
        let stream = reach(&way, timeout).await?;
        let deadline = deadlines.watch();
        let driven = match stream {
            Stream::Plain(stream) => drive(stream, Arc::clone(&deadline)).await,
            Stream::Tls(stream) => drive(stream, Arc::clone(&deadline)).await,
        };
        let (sender, ended) = driven.map_err(|error| ConnectError::Socket(io::Error::other(error)))?;
        Ok(Self { sender, tls: way.tls, deadline, worker, reused: false, idle_since: Moment::default(), ended })
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

/// A connection to a server that has switched protocols: it is no longer one of requests, and holds no slot. Dropping it closes it.
#[derive(Debug)]
pub struct Switched {
    upgrade: OnUpgrade,
}

/// What such a connection is carried by, within TLS or not.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Carrier for S {}

impl Switched {
    pub(super) fn of(answer: &mut Response<Incoming>) -> Self {
        Self { upgrade: hyper::upgrade::on(answer) }
    }

    /// The connection, and what the server has sent on it straight after its answer; `None` if it has closed meanwhile.
    pub async fn stream(self) -> Option<(Box<dyn Carrier>, Bytes)> {
        match self.upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => Some((Box::new(parts.io.into_inner()), parts.read_buf)),
            Err(upgraded) => {
                let parts = upgraded.downcast::<TokioIo<Box<TlsStream<TcpStream>>>>().ok()?;
                Some((parts.io.into_inner(), parts.read_buf))
            }
        }
    }
}

/// Connects to the first of the addresses that answers, and begins TLS on it if the server is spoken to so.
pub(super) async fn reach(way: &Way, timeout: Duration) -> Result<Stream, ConnectError> {
    let reaching = async {
        let stream = connect(&way.addresses).await.map_err(ConnectError::Socket)?;
        stream.set_nodelay(true).map_err(ConnectError::Socket)?;
        match &way.tls {
            None => Ok(Stream::Plain(stream)),
            Some(tls) => tls.handshake(stream).await.map(|stream| Stream::Tls(Box::new(stream))).map_err(ConnectError::Tls),
        }
    };
    tokio::time::timeout(timeout, reaching).await.unwrap_or(Err(ConnectError::Timeout))
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
