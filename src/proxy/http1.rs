//! One connection that speaks HTTP/1: hyper's own server, with our deadlines; and the WebSocket that it may become.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::answering::Answering;
use super::connections::{Phase, Socket, State};
use super::exchange::Exchange;
use super::handle::Peer;
use super::{Stage, Worker, until};
use crate::metrics::{Count, Refusal};

/// Serves a connection until it ends.
pub(super) async fn serve(peer: Arc<Peer>, socket: Socket, mut stage: watch::Receiver<Stage>) {
    let state = Arc::clone(&peer.state);
    let header_bytes = peer.worker.gate.regime().policy.limits.header_bytes;
    let io = TokioIo::new(socket);
    let service = service_fn(|request| Answering::to(&peer, Exchange::Alone(Arc::clone(&state)), request));
    let mut http = http1::Builder::new();
    http.max_buf_size(header_bytes).max_header_size(header_bytes);
    let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
    let mut closing = false;
    let mut draining = pin!(async move { until(&mut stage, Stage::Closing).await });
    let ended = poll_fn(|cx| {
        if !closing && draining.as_mut().poll(cx).is_ready() {
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
        state.deadline.wakes(cx.waker());
        // a head or a body that takes too long is answered, if there is somebody to take it; anything else just closes
        if state.deadline.has_fired() && (state.is_stalled() || matches!(state.phase(), Phase::Idle | Phase::Busy)) {
            return Poll::Ready(None);
        }
        let polled = connection.as_mut().poll(cx).map(Some);
        // only now, when all that has come is read
        if polled.is_pending() && state.makes_room() { Poll::Ready(None) } else { polled }
    })
    .await;
    match ended {
        // on the heap, since hardly any connection needs the room
        Some(Ok(())) => {
            if let Some(upgraded) = peer.take_upgraded() {
                Box::pin(upgraded.run(&peer)).await;
            }
        }
        Some(Err(error)) => count_error(&peer.worker, &state, &error),
        None => {}
    }
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
