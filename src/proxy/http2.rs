//! One connection that speaks HTTP/2: hyper's own server, with our deadlines and bounds (`streams.rs`).
//!
//! Absent: HTTP/2 without TLS, and server push; tunnels (CONNECT).

use std::error::Error;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Worker;
use super::answering::Answering;
use super::corked::Corked;
use super::exchange::{Exchange, Upload};
use super::handle::Peer;
use super::streams::{HEADS, Session, Streams};
use super::wire::Wire;
use crate::metrics::{Count, Refusal};

/// Streams at once: the least that RFC 9113 recommends (section 6.5.2), and a page with all that is on it.
const STREAMS_MAX: u32 = 100;

/// Bytes of one request body on the way. Envoy's advice for an edge; at 100 ms, 640 kB/s.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Bytes of all request bodies of a connection on the way, which is what can be held of them here beyond `limits.buffer_memory`.
/// Envoy's advice for an edge, and hyper's default.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The least that there is: a large frame keeps all other streams waiting on a slow line.
const FRAME_BYTES: u32 = 16 * 1024;

/// Bytes of an answer that wait for the client's window, for each stream: hyper's 400 KiB times 100 streams is too much for a phone that
/// sleeps.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset before the gate came to see them: a page that is left at once.
const RESETS_PENDING_MAX: usize = STREAMS_MAX as usize;

/// Streams that a client made the gate reset, in the life of a connection ("MadeYouReset"): a client without a fault makes none, but for
/// those it opened before it was told [`STREAMS_MAX`].
const ERROR_RESETS_MAX: usize = STREAMS_MAX as usize;

/// Serves a connection until it ends.
pub(super) async fn serve(peer: Arc<Peer>, io: Box<Wire>) {
    let session = Session::new(Arc::clone(&peer));
    let _guard = Forgetful(&session);
    let service = service_fn(|request| {
        let exchange = Exchange::Stream(session.begin(request.method() == Method::HEAD));
        let request: Request<Incoming> = request;
        let request = request.map(|body| Upload::of_stream(body, &exchange));
        Answering::to(&peer, exchange, request)
    });
    let metered = Metered { line: Arc::new(Mutex::new(Corked::new(io))), session: Arc::clone(&session) };
    let ended = {
        let connection = settings(&session, &peer).serve_connection(TokioIo::new(metered.clone()), service);
        let mut connection = pin!(connection);
        let (mut has_left, mut is_closing) = (false, false);
        poll_fn(|cx| {
            let deadline = &peer.state.deadline;
            deadline.wakes(cx.waker());
            if !is_closing && peer.worker.is_closing() {
                is_closing = true;
                session.leave();
                // whoever is told already has less time left, too
                session.set_deadline();
            }
            if deadline.has_fired() {
                deadline.rearm();
                if session.is_stuck() || !session.has_begun() || (session.is_idle() && session.is_leaving()) {
                    return Poll::Ready(None);
                }
                if session.is_idle() {
                    session.leave();
                    session.set_deadline();
                }
            }
            if session.makes_room() && !session.is_leaving() {
                // who is there is told by a GOAWAY, and has a round trip to take it
                session.leave();
                deadline.set(FAREWELL);
            }
            loop {
                if session.is_abusive() {
                    return Poll::Ready(None);
                }
                if session.is_leaving() && !has_left {
                    has_left = true;
                    connection.as_mut().graceful_shutdown();
                }
                let polled = connection.as_mut().poll(cx);
                metered.drain(cx);
                if let Poll::Ready(ended) = polled {
                    return Poll::Ready(Some(ended));
                }
                // an answer that was there at once may have said that it is the last
                if has_left || !session.is_leaving() {
                    return Poll::Pending;
                }
            }
        })
        .await
    };
    // before the socket is gone: who sees it go may look at the figures
    count_end(&peer.worker, &session, &ended);
    if let Some(Ok(())) = ended {
        // it goes by itself, and in a moment
        peer.state.deadline.works();
        // on the heap, since it takes room that no connection needs while it lasts
        Box::pin(linger(&metered.line)).await;
    }
}

fn settings(session: &Arc<Session>, peer: &Peer) -> http2::Builder<Streams> {
    let (idle_timeout, header_bytes) = peer.state.limits(|limits| (limits.idle_timeout, limits.header_bytes));
    let mut builder = http2::Builder::new(Streams(Arc::clone(session)));
    builder
        .timer(TokioTimer::new())
        // who is idle for so long is closed, so this asks only after those for whom the site takes its time
        .keep_alive_interval(idle_timeout)
        .keep_alive_timeout(idle_timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(HEADS * header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX);
    builder
}

/// Breaks the ring between a session and its newest stream, if a panic has left it behind.
struct Forgetful<'a>(&'a Session);

impl Drop for Forgetful<'_> {
    fn drop(&mut self) {
        self.0.forget_newest();
    }
}

fn count_end(worker: &Worker, session: &Session, ended: &Option<hyper::Result<()>>) {
    let refusal = match ended {
        _ if session.is_abusive() => Refusal::H2Abuse,
        None if !session.has_begun() && !session.makes_room() => Refusal::HeaderTimeout,
        Some(Err(error)) => {
            tracing::debug!(error = error as &dyn Error, "an HTTP/2 connection ended");
            // the crate beneath hyper is not seen from here, but by its words
            let Some(words) = error.source().map(ToString::to_string).filter(|words| words.starts_with(DETECTED)) else { return };
            if words.contains(CALM) { Refusal::H2Abuse } else { Refusal::BadRequest }
        }
        None | Some(Ok(())) => return,
    };
    worker.shard.count(Count::Refused(refusal));
}

/// How the h2 crate tells what it has found from what it was told.
const DETECTED: &str = "connection error detected";

/// And how it calls ENHANCE_YOUR_CALM.
const CALM: &str = "excessive load";

/// Reads on for a moment once all has been said. A client answers to what it gets (with room for more of it), and a socket that is closed
/// with that unread is reset, which takes from the client what it has not read yet.
///
/// What it reads is not held against its client: there is no more work to be made.
async fn linger(line: &Line) {
    let mut piece = [0; 512];
    // a client that has nothing more to say closes too; who goes on talking is not listened to for ever
    let reading = poll_fn(|cx| {
        loop {
            let mut piece = ReadBuf::new(&mut piece);
            match ready!(lock(line).poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    });
    drop(tokio::time::timeout(LINGER, reading).await);
}

/// How long a connection has that is told to go for others.
const FAREWELL: Duration = Duration::from_secs(1);

/// As nginx has it (`lingering_timeout`).
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// A client's connection, whose bytes are counted.
#[derive(Clone)]
struct Metered {
    line: Arc<Line>,
    session: Arc<Session>,
}

/// Shared by what speaks on it and who drives that.
type Line = Mutex<Corked<Box<Wire>>>;

impl Metered {
    /// Writes somehow, and counts what has left by it.
    fn write<R>(&self, write: impl FnOnce(&mut Corked<Box<Wire>>) -> Poll<R>) -> Poll<R> {
        let mut line = lock(&self.line);
        let before = line.wire().sent();
        let polled = write(&mut line);
        self.session.was_written(line.wire().sent() - before, polled.is_pending());
        polled
    }

    /// Sends what was said, but for what the client does not take yet.
    fn drain(&self, cx: &mut Context<'_>) {
        if self.write(|line| line.poll_drain(cx)).is_ready() && lock(&self.line).is_empty() {
            self.session.was_flushed();
        }
    }
}

fn lock(line: &Line) -> MutexGuard<'_, Corked<Box<Wire>>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = lock(&self.line).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 && !self.session.may_read(bytes) {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write(|line| line.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is held is sent by who drives the connection.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|line| line.poll_shutdown(cx))
    }
}
