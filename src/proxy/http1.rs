//! One connection that speaks HTTP/1: hyper's own server, with our deadlines; and the WebSocket that it may become.
//!
//! hyper keeps ten kilobytes and more of buffers for a connection, and most connections are between two requests. One that is so when the
//! sweep of the deadlines comes by, ten times a second, is taken out of hyper's hands, and is no more than a socket until something comes;
//! one that has just come from a long rest, at once, or thousands of visitors who ask once in a minute would leave the memory of all their
//! buffers in pieces.
//!
//! Always holds: only a connection that has nothing under way is taken apart (`State::may_rest`). What was left of a body would else be
//! read as a request.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;

use super::Worker;
use super::answering::Answering;
use super::connections::{Phase, Socket, State};
use super::exchange::Exchange;
use super::handle::{Entered, Peer};
use super::http2::LINGER;
use super::streams::UNREAD_BYTES_MAX;
use super::wire::Wire;
use crate::metrics::{Count, Refusal};
use crate::rules::headers::forwarded::is_trusted;

/// How hyper's hold on a connection ends.
enum Held {
    Ended(hyper::Result<()>),
    /// There is nothing to do.
    Rests,
    /// Too late, or in the way of others.
    Cut,
}

/// How the rest of a connection ends.
enum Rested {
    Readable,
    Closing,
    /// Too late, or in the way of others.
    Cut,
}

/// Serves a connection until it ends.
pub(super) async fn serve(peer: Arc<Peer>, mut socket: Box<Socket>) {
    let state = Arc::clone(&peer.state);
    let header_bytes = peer.worker.gate.regime().policy.limits.header_bytes;
    let service = service_fn(|request| Answering::<Entered>::to(&peer, Exchange::Alone(Arc::clone(&state)), request));
    let take = |socket| {
        let mut http = http1::Builder::new();
        http.max_buf_size(header_bytes).max_header_size(header_bytes);
        Box::new(http.serve_connection(TokioIo::new(socket), service))
    };
    let (ended, parts) = loop {
        // nothing of hyper's may be left while the connection rests, not even its place on the heap
        let parts = {
            let mut connection = take(socket);
            state.rises();
            let mut closing = false;
            let held = poll_fn(|cx| {
                state.deadline.wakes(cx.waker());
                // a head or a body that takes too long is answered, if there is somebody to take it; anything else just closes
                if state.deadline.has_fired() && (state.is_stalled() || matches!(state.phase(), Phase::Idle | Phase::Busy)) {
                    return Poll::Ready(Held::Cut);
                }
                if let Poll::Ready(ended) = poll_end(&mut *connection, &peer, cx) {
                    return Poll::Ready(Held::Ended(ended));
                }
                // a request that is here already is answered
                if !closing && peer.worker.is_closing() {
                    closing = true;
                    Pin::new(&mut *connection).graceful_shutdown();
                    if let Poll::Ready(ended) = poll_end(&mut *connection, &peer, cx) {
                        return Poll::Ready(Held::Ended(ended));
                    }
                }
                // only now, when all that has come is read
                if state.makes_room() {
                    return Poll::Ready(Held::Cut);
                }
                if state.may_rest() && !closing && !peer.is_upgrading() { Poll::Ready(Held::Rests) } else { Poll::Pending }
            });
            match held.await {
                Held::Ended(ended) => break (ended, connection.into_parts()),
                Held::Cut => return,
                Held::Rests => connection.into_parts(),
            }
        };
        socket = parts.io.into_inner();
        socket.unread(parts.read_buf);
        state.rests();
        let rested = poll_fn(|cx| {
            if state.deadline.has_fired() {
                return Poll::Ready(Rested::Cut);
            }
            match socket.poll_readable(cx) {
                Poll::Ready(()) => Poll::Ready(Rested::Readable),
                Poll::Pending if peer.worker.is_closing() => Poll::Ready(Rested::Closing),
                Poll::Pending if state.makes_room() => Poll::Ready(Rested::Cut),
                Poll::Pending => Poll::Pending,
            }
        });
        match rested.await {
            Rested::Readable => {}
            Rested::Cut => return,
            Rested::Closing => return poll_fn(|cx| poll_close(&mut socket, cx)).await,
        }
    };
    let wire = parts.io.into_inner().wire;
    match &ended {
        Ok(()) => {
            if let Some(upgraded) = peer.take_upgraded() {
                // on the heap, since hardly any connection needs the room
                return Box::pin(upgraded.run(&peer, wire, parts.read_buf)).await;
            }
        }
        Err(error) => count_error(&peer.worker, &state, error),
    }
    // but for who was too slow with it
    let has_more = !state.deadline.has_fired() && (state.has_unread() || ended.is_err_and(|error| error.is_parse()));
    if has_more {
        state.deadline.works();
        state.deadline.clear();
        Box::pin(linger(&peer, wire)).await;
    }
}

/// Goes on until hyper has nothing more to do. If a request had an `Upgrade`, hyper leaves the end of the connection to who takes it over,
/// and what is not written yet with it. Unless somebody does, it is asked once more, and sees to both.
fn poll_end<F>(connection: &mut F, peer: &Peer, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>
where
    F: Future<Output = hyper::Result<()>> + Unpin,
{
    let polled = Pin::new(&mut *connection).poll(cx);
    let is_left = matches!(polled, Poll::Ready(Ok(()))) && !peer.is_upgrading() && !peer.state.is_ending();
    if is_left { Pin::new(connection).poll(cx) } else { polled }
}

/// Reads on for a while once all has been said, what of a request was not read or not understood. A socket that is closed with something
/// unread is reset, which takes from the client what it has not read yet, or has its next write fail: balancers then give an error in place of
/// the answer, and take the gate to be broken; or they try the next server with the request, which may be the site.
async fn linger(peer: &Peer, wire: Wire) {
    let Peer { worker, state, .. } = peer;
    let socket = wire.tcp().socket();
    // what TLS has in it is not of interest
    let mut piece = vec![0; PIECE_BYTES];
    // others need the place more, but for a proxy in front: it has at hand what it sends, and would go round the gate with it
    let is_in_the_way = || {
        let policy = &worker.gate.regime().policy;
        worker.connections.is_short(policy.limits.connections) && !is_trusted(state.peer, &policy.client.trusted_proxies)
    };
    let reading = async {
        let mut left = UNREAD_BYTES_MAX;
        while !is_in_the_way() {
            let read = async {
                loop {
                    socket.readable().await?;
                    match socket.try_read(&mut piece) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        read => return read,
                    }
                }
            };
            match tokio::time::timeout(LINGER, read).await {
                Ok(Ok(bytes)) if bytes > 0 && bytes <= left => left -= bytes,
                Ok(Ok(_) | Err(_)) | Err(_) => return,
            }
        }
    };
    drop(tokio::time::timeout(LINGER_LONGEST, reading).await);
}

const PIECE_BYTES: usize = 16 * 1024;

/// Of a connection that has ended, in all; [`LINGER`] is for each pause. A phone takes so long for a photograph, and nginx has it so
/// (`lingering_time`).
const LINGER_LONGEST: Duration = Duration::from_secs(30);

/// Says that nothing follows, for as long as the client has time to take it.
fn poll_close(socket: &mut Socket, cx: &mut Context<'_>) -> Poll<()> {
    if socket.state.deadline.has_fired() {
        return Poll::Ready(());
    }
    Pin::new(socket).poll_shutdown(cx).map(drop)
}

/// What hyper answers by itself: 400, 414, 431; and the 408 of a head that takes too long.
fn count_error(worker: &Worker, state: &State, error: &hyper::Error) {
    let refusal = if state.deadline.has_fired() && state.phase() == Phase::Head {
        Refusal::HeaderTimeout
    } else if error.is_parse_too_large() {
        // hyper tells the two apart by their words alone
        if error.to_string() == URI_TOO_LONG { Refusal::UriTooLong } else { Refusal::HeadTooLarge }
    } else if error.is_parse() {
        Refusal::BadRequest
    } else {
        return;
    };
    worker.shard.count(Count::Refused(refusal));
}

const URI_TOO_LONG: &str = "URI too long";
