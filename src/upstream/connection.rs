//! How a server is reached, and what carries one request to it: a connection of HTTP/1.1 that is its own meanwhile (`http1/`), or a
//! stream of one of HTTP/2 that it shares (`http2.rs`).

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Empty, Full};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::http1::{Http1, Http1Error};
use super::http2::{Http2, Http2Body, Ride};
use crate::deadlines::{Deadline, Deadlines};
use crate::rules::http1::body::BadBody;
use crate::tcp::Tcp;
use crate::tls::client::{ALPN_HTTP2, HandshakeError, Offer, ServerTls};

/// What carries a request body to a server.
pub type RequestBody = Either<Either<Empty<Bytes>, Full<Bytes>>, UnsyncBoxBody<Bytes, BodyFailure>>;

/// The body of a request that has none.
#[must_use]
pub fn no_body() -> RequestBody {
    Either::Left(Either::Left(Empty::new()))
}

/// A request body that is streamed could not be read to its end: the client left, stalled, or sent what is not HTTP.
#[derive(Debug, thiserror::Error)]
pub enum BodyFailure {
    /// What went wrong on the client's side, over HTTP/2.
    #[error("the request body ended early")]
    Broken(#[source] hyper::Error),
    /// The client's connection broke, over HTTP/1.1.
    #[error("the client's connection broke within the request body")]
    Io(#[source] io::Error),
    /// What came is no body, or it ended early, over HTTP/1.1.
    #[error("the request body can't be read")]
    Bad(#[source] BadBody),
    /// No piece of it came in time.
    #[error("the request body stood still")]
    Stalled,
    /// It ended before its length.
    #[error("the request body is shorter than its Content-Length")]
    Short,
    /// Its stream is over, and it is not.
    #[error("the request body was given up")]
    GivenUp,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None within `upstream.timeouts.connect`, TLS included, and of HTTP/2 the server's settings.
    #[error("no connection in time")]
    Timeout,
    /// Nor was that one made in time which another request was making, and which this one has waited for.
    #[error("no connection in time, of another request's")]
    Awaited,
    /// The server's name has no address, as far as is known.
    #[error("the name has no address")]
    NoAddress,
    /// No TCP connection.
    #[error("no connection")]
    Socket(#[source] io::Error),
    /// TCP, and no TLS over it.
    #[error("no TLS")]
    Tls(#[source] HandshakeError),
    /// TLS, and no HTTP/2 within it, though the server has agreed on it.
    #[error("no HTTP/2")]
    Http2(#[source] h2::Error),
}

impl ConnectError {
    /// Whether an attempt of one's own has failed: several who have waited for the same one prove no more than that.
    pub(super) const fn is_own(&self) -> bool {
        !matches!(self, Self::Awaited)
    }
}

/// What an exchange has ended with.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// On a connection of its own.
    #[error(transparent)]
    Http1(Http1Error),
    /// On a stream.
    #[error(transparent)]
    Http2(h2::Error),
    /// The request body ended it.
    #[error(transparent)]
    Body(BodyFailure),
}

impl TransportError {
    /// Whether what came from the server was not HTTP as it should be.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_protocol(),
            Self::Http2(error) => error.is_library(),
            Self::Body(_) => false,
        }
    }

    /// Whether the connection is what failed, and not this exchange on it alone.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            // an answer that is none has come on a connection that works
            Self::Http1(_) => !self.is_protocol(),
            Self::Http2(error) => !error.is_reset(),
            Self::Body(_) => false,
        }
    }

    /// Whether the server wants the request over HTTP/1.1, as one that knows its visitors by their connections (NTLM) does.
    pub(super) fn wants_http1(&self) -> bool {
        match self {
            Self::Http2(error) => error.is_remote() && error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED),
            Self::Http1(_) | Self::Body(_) => false,
        }
    }

    /// Whether the request body, streamed from the client, is what failed.
    #[must_use]
    pub const fn is_clients(&self) -> bool {
        matches!(self, Self::Body(_))
    }
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) addresses: Arc<[SocketAddr]>,
    /// `None` if it is spoken to in plaintext.
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) offer: Offer,
}

/// A connection on which a server was reached.
pub(super) enum Stream {
    Plain(Tcp),
    /// On the heap, so that plaintext costs no more than without it.
    Tls(Box<TlsStream<Tcp>>),
}

impl Stream {
    /// What it is a connection of.
    fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// What a new connection speaks.
pub(super) enum Opened {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

/// What carries one request.
#[derive(Debug)]
pub(super) enum Connection {
    /// On the heap, since it goes from hand to hand with each request.
    Http1(Box<Http1>),
    Http2(Ride),
}

/// The answer to a request, or why there is none.
pub(super) type Sent = Result<Response<SiteBody>, SendError>;

/// A request had no answer.
#[derive(Debug)]
pub(super) struct SendError {
    /// The request, if it may be sent again at all.
    pub(super) request: Option<Box<Request<RequestBody>>>,
    /// The server has done nothing with it: not a byte of it was sent, or the server has said so.
    pub(super) is_untouched: bool,
    pub(super) error: TransportError,
}

impl Opened {
    /// Connects to the first of the addresses that answers, and begins to speak what was agreed on.
    pub(super) async fn at(way: Way, patience: Duration, deadlines: &Deadlines, worker: usize) -> Result<Self, ConnectError> {
        let stream = begin(&way).await?;
        let deadline = deadlines.watch();
        match (stream, way.tls) {
            (Stream::Tls(stream), tls) if stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) => {
                Http2::begin(stream, tls, deadline, patience, worker).await.map(Self::Http2)
            }
            (stream, tls) => Ok(Self::Http1(Box::new(Http1::begin(stream, tls, deadline, worker)))),
        }
    }
}

impl Connection {
    /// The response deadline; when it falls due, what carries the request is closed.
    pub(super) const fn deadline(&self) -> &Arc<Deadline> {
        match self {
            Self::Http1(connection) => &connection.deadline,
            Self::Http2(ride) => &ride.deadline,
        }
    }

    /// Whether what carries the request has carried another before: it may have been closing all the while.
    pub(super) const fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(ride) => ride.reused,
        }
    }

    /// Ends what carries the request, whatever is under way: a connection of its own is closed, a stream reset. If that takes a while,
    /// what is returned ends when it is done.
    pub(super) fn close(self) -> Option<impl Future<Output = ()> + Send + use<>> {
        match self {
            // dropped, it is closed
            Self::Http1(_) => None,
            Self::Http2(ride) => Some(ride.close()),
        }
    }

    /// The request is over, and what is left is not a connection of requests any more.
    pub(super) fn switched(self) -> Option<Switched> {
        match self {
            Self::Http1(connection) => Some(connection.switched()),
            // a stream switches to nothing
            Self::Http2(_) => None,
        }
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: Request<RequestBody>) {
        match self {
            Self::Http1(connection) => connection.send(request),
            Self::Http2(ride) => ride.send(request),
        }
    }

    /// Goes on with what is under way, but for the answer.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(connection) => connection.drive(cx),
            // its task does
            Self::Http2(_) => {}
        }
    }

    /// The answer to the request that was sent on it.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        match self {
            Self::Http1(connection) => connection.poll_answer(cx),
            Self::Http2(ride) => ride.poll_answer(cx),
        }
    }

    /// The next piece of the body of that answer.
    pub(super) fn poll_body(&mut self, body: &mut SiteBody, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        match (self, body) {
            (Self::Http1(connection), SiteBody::Http1 { left }) => {
                let piece = connection.poll_body(cx);
                *left = connection.left();
                piece
            }
            (Self::Http2(_), SiteBody::Http2(body)) => Pin::new(body).poll_frame(cx).map_err(TransportError::Http2),
            // an answer comes on what has carried its request
            (Self::Http1(_), SiteBody::Http2(_)) | (Self::Http2(_), SiteBody::Http1 { .. }) => Poll::Ready(None),
        }
    }

    /// Whether it is worth looking for more of that body at once.
    pub(super) fn is_at_hand(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_at_hand(),
            Self::Http2(_) => true,
        }
    }

    /// Waits until it can take a request; `false` if it never will.
    pub(super) fn poll_usable(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Http1(connection) => connection.poll_usable(cx),
            Self::Http2(_) => Poll::Ready(true),
        }
    }

    /// Whether it can take a request at once, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_ready(),
            Self::Http2(_) => true,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_closed(),
            Self::Http2(_) => false,
        }
    }
}

/// The body of an answer, as it comes from a server.
#[derive(Debug)]
pub(super) enum SiteBody {
    /// It is read from the connection.
    Http1 {
        /// Bytes that are still to come, if that is known.
        left: Option<u64>,
    },
    Http2(Http2Body),
}

impl SiteBody {
    /// Whether nothing more will come.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1 { left } => *left == Some(0),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { left } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A connection to a server that has switched protocols: it is no longer one of requests, and holds no slot. Dropping it closes it.
pub struct Switched {
    pub(super) stream: Stream,
    /// What the server has sent straight after its answer.
    pub(super) rest: Bytes,
}

impl std::fmt::Debug for Switched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}

/// What such a connection is carried by, within TLS or not.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Carrier for S {}

impl Switched {
    /// The connection, and what the server has sent on it straight after its answer. It ends by itself if the server takes nothing:
    /// [`Tcp::give_up_after`].
    #[must_use]
    pub fn stream(self, patience: Duration) -> (Box<dyn Carrier>, Bytes) {
        let Self { stream, rest } = self;
        stream.tcp().give_up_after(Some(patience));
        match stream {
            Stream::Plain(tcp) => (Box::new(tcp), rest),
            Stream::Tls(tls) => (tls, rest),
        }
    }
}

/// Connects to the first of the addresses that answers, and begins TLS on it if the server is spoken to so, within a time.
pub(super) async fn reach(way: &Way, timeout: Duration) -> Result<Stream, ConnectError> {
    tokio::time::timeout(timeout, begin(way)).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn begin(way: &Way) -> Result<Stream, ConnectError> {
    let stream = connect(&way.addresses).await?;
    stream.set_nodelay(true).map_err(ConnectError::Socket)?;
    let stream = Tcp::new(stream);
    match &way.tls {
        None => Ok(Stream::Plain(stream)),
        Some(tls) => tls.handshake(stream, way.offer).await.map(|stream| Stream::Tls(Box::new(stream))).map_err(ConnectError::Tls),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut last = ConnectError::NoAddress;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ConnectError::Socket(error),
        }
    }
    Err(last)
}
