//! The front: one worker a core, each with a runtime and a listening socket of its own, and the connections that it accepts.
//!
//! `preamble.rs` reads what comes before it, `wire.rs` carries a connection, with TLS or without, and `http1/` or `http2.rs` drives it;
//! `connections.rs` has the limits, `state.rs` the deadlines, `handle.rs` the life of a request, `upgrade.rs` that of a WebSocket.
//! Absent: decisions (the gate's), and timers (one sweep has all deadlines).

mod account;
mod answering;
mod body;
mod cleaned;
mod clients;
mod connections;
mod corked;
mod date;
mod email;
mod exchange;
mod facts;
mod failures;
mod form;
mod handle;
mod http1;
mod http2;
mod interned;
mod invitation;
mod places;
mod preamble;
mod refusal;
mod reserved;
mod respond;
mod socket;
mod state;
mod streams;
mod tokens;
mod told;
mod tunnel;
mod unsubscribe;
mod upgrade;
mod verified;
mod wire;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::coop::unconstrained;
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::clock::Clock;
use crate::deadlines::{Deadlines, SWEEP, Wanted};
use crate::gate::Gate;
use crate::mail::{Invitations, Mail};
use crate::metrics::{Count, Refusal, Shard};
use crate::rules::headers::forwarded::{PeerValues, client_prefix, is_trusted};
use crate::upstream::{BufferMemory, Upstream};
use crate::{tcp, tls};

pub use connections::Connections;

use connections::Place;
use date::Dated;
use handle::Peer;
use interned::Interned;
use preamble::Named;
use respond::PageCache;
use socket::Socket;
use state::State;
use verified::Verified;
use wire::{Counted, Wire};

/// What a worker needs; all but its own parts is shared by all workers.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// The gate.
    pub gate: Arc<Gate>,
    /// The site.
    pub upstream: Arc<Upstream>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Its own counters.
    pub shard: Arc<Shard>,
    /// Its own deadlines, of both sides.
    pub deadlines: Arc<Deadlines>,
    /// All client connections.
    pub connections: Arc<Connections>,
    /// The memory of body buffers.
    pub memory: Arc<BufferMemory>,
    /// The email queue.
    pub mail: Arc<Mail>,
    /// Its invitations.
    pub invitations: Arc<Invitations>,
    /// How far the end has come.
    pub stage: watch::Receiver<Stage>,
    pages: PageCache,
    interned: Interned,
    dated: Dated,
    random: AtomicU64,
}

/// The stages of an end, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Taking traffic.
    Serving,
    /// Health is down, so that load balancers look elsewhere; traffic is still taken.
    Draining,
    /// No new connections; those that are open end with their request.
    Closing,
    /// The end: what is still open is cut off.
    Closed,
}

impl Worker {
    /// A worker. `seed` is random: the ids of its tickets come from it.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts that app.rs wires")]
    pub fn new(
        index: usize,
        gate: Arc<Gate>,
        upstream: Arc<Upstream>,
        clock: Arc<Clock>,
        shard: Arc<Shard>,
        deadlines: Arc<Deadlines>,
        connections: Arc<Connections>,
        memory: Arc<BufferMemory>,
        mail: Arc<Mail>,
        invitations: Arc<Invitations>,
        stage: watch::Receiver<Stage>,
        seed: u64,
    ) -> Self {
        let dated = Dated::new(clock.now().wall);
        Self {
            index,
            gate,
            upstream,
            clock,
            shard,
            deadlines,
            connections,
            memory,
            mail,
            invitations,
            stage,
            pages: PageCache::default(),
            interned: Interned::default(),
            dated,
            random: AtomicU64::new(seed),
        }
    }

    fn is_draining(&self) -> bool {
        self.has_come_to(Stage::Draining)
    }

    /// Whether connections end with the request that is under way. Each is woken when it begins, and asks whenever it is polled.
    fn is_closing(&self) -> bool {
        self.has_come_to(Stage::Closing)
    }

    fn has_come_to(&self, stage: Stage) -> bool {
        // asked by every request: the first question takes no lock that all workers share
        self.stage.has_changed().unwrap_or(true) && *self.stage.borrow() >= stage
    }

    /// The next number of splitmix64: distinct for 2^64 calls, and no secret, since what it names is signed.
    fn entropy(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Where connections come in.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What is agreed on it with visitors; plaintext without.
    pub tls: Option<Arc<tls::server::Server>>,
}

/// Accepts until its stage says to close, then lets what is under way finish. Returns when the last connection has ended; the caller
/// bounds how long that may take. The deadlines fall due for as long as the runtime is there: other workers may use connections to the
/// site that were made here.
pub async fn serve(worker: Arc<Worker>, listeners: Vec<Listener>) {
    worker.connections.join();
    drop(tokio::spawn(sweep(Arc::clone(&worker))));
    let mut doors: JoinSet<()> = listeners.into_iter().map(|listener| accept(Arc::clone(&worker), listener)).collect();
    while let Some(ended) = doors.join_next().await {
        // a listener that is gone without a word would be the worst of all faults
        if let Err(panic) = ended.map_err(JoinError::try_into_panic) {
            std::panic::resume_unwind(panic.unwrap_or_else(|error| Box::new(error.to_string())));
        }
    }
}

async fn accept(worker: Arc<Worker>, Listener { socket: listener, tls }: Listener) {
    let mut stage = worker.stage.clone();
    let (alive, mut all_ended) = mpsc::channel(1);
    loop {
        let limit = || worker.gate.regime().policy.limits.connections;
        let place = tokio::select! {
            biased;
            () = until(&mut stage, Stage::Closing) => break,
            place = worker.connections.enter(limit) => place,
        };
        let accepted = tokio::select! {
            biased;
            () = until(&mut stage, Stage::Closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                spawn(&worker, tls.clone(), stream, peer, place.opened(), Open(alive.clone()));
            }
            Err(error) => accept_failed(&worker, &error).await,
        }
    }
    // clients that the kernel has accepted already must not be reset: they get their answer, and no more. Of the last of them tokio hears
    // when all tasks have had their turn
    tokio::task::yield_now().await;
    for _ in 0..QUEUED_MAX {
        // unconstrained, or tokio would say after a hundred in a row that there is nobody, so that others have a turn
        match now_or_never(unconstrained(listener.accept())).await {
            Some(Ok((stream, peer))) => {
                let place = worker.connections.enter(|| usize::MAX).await;
                spawn(&worker, tls.clone(), stream, peer, place.opened(), Open(alive.clone()));
            }
            Some(Err(error)) if is_of_one_client(error.kind()) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "clients that wait to be accepted are cut off");
                break;
            }
            None => break,
        }
    }
    drop(listener);
    drop(alive);
    // nothing is ever sent: it ends with the last connection
    all_ended.recv().await;
}

/// A connection that has not ended.
struct Open(#[expect(dead_code, reason = "held, not used")] mpsc::Sender<()>);

async fn until(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    // a sender that is gone ends everything
    drop(stage.wait_for(|stage| *stage >= wanted).await);
}

async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Running out of descriptors is waited out, or the loop would spin.
async fn accept_failed(worker: &Worker, error: &io::Error) {
    if is_of_one_client(error.kind()) {
        return;
    }
    worker.shard.count(Count::Refused(Refusal::Connections));
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Whether an accept has failed for its client's sake, who was gone before, and the next one need not.
const fn is_of_one_client(failed: io::ErrorKind) -> bool {
    matches!(failed, io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

/// As many as the kernel lets wait: on a socket that outlives the gate, who comes later is for the next one.
const QUEUED_MAX: usize = 4096;

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn sweep(worker: Arc<Worker>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut closing, mut idle_before) = (false, 0);
    loop {
        ticks.tick().await;
        let now = worker.clock.moment();
        let idle = worker.deadlines.sweep(now);
        worker.connections.are_idle(std::mem::replace(&mut idle_before, idle), idle);
        worker.dated.set(worker.clock.now().wall);
        let wanted = worker.connections.wanted(worker.gate.regime().policy.limits.connections);
        if wanted != Wanted::default() {
            for _ in 0..worker.deadlines.make_room(now, wanted) {
                worker.shard.count(Count::IdleClosed);
            }
        }
        if !closing && worker.is_closing() {
            closing = true;
            worker.deadlines.wake_all();
        }
    }
}

/// Serves a connection as a task of its own. How it begins is on the heap until it has: a task has the room of all that it ever holds, and
/// what it was called with besides, for as long as it is there.
fn spawn(worker: &Arc<Worker>, tls: Option<Arc<tls::server::Server>>, stream: TcpStream, address: SocketAddr, place: Place, open: Open) {
    let beginning = Box::pin(begin(Arc::clone(worker), tls, stream, address, place));
    tokio::spawn(async move {
        let _open = open;
        match beginning.await {
            Some(Begun::Http1(peer, socket)) => http1::serve(peer, socket).await,
            Some(Begun::Http2(peer, wire)) => Box::pin(http2::serve(peer, wire)).await,
            None => {}
        }
    });
}

/// A connection on which requests are awaited.
enum Begun {
    Http1(Arc<Peer>, Socket),
    Http2(Arc<Peer>, Box<Wire>),
}

/// What comes before the first request, or nothing: the client is told, if it is.
async fn begin(
    worker: Arc<Worker>,
    tls: Option<Arc<tls::server::Server>>,
    mut stream: TcpStream,
    address: SocketAddr,
    mut place: Place,
) -> Option<Begun> {
    // a socket whose client is gone already says so at the first read
    drop(stream.set_nodelay(true));
    tcp::send_in_small_steps(&stream);
    let Named { peer, tls: said_tls, is_unnamed } = preamble::read(&worker, &mut stream, address.ip().to_canonical()).await?;
    let is_one_too_many = {
        let policy = &worker.gate.regime().policy;
        !is_trusted(peer, &policy.client.trusted_proxies) && place.belongs_to(client_prefix(peer), &policy.limits).is_err()
    };
    if is_one_too_many {
        // before TLS, which costs more than all else; an answer in plaintext would mostly be lost with the request that nobody reads
        worker.shard.count(Count::Refused(Refusal::ClientConnections));
        return None;
    }
    let is_tls = tls.is_some() || said_tls;
    let wire = match tls {
        None => Wire::Plain(Counted::new(stream)),
        Some(tls) => Wire::Tls(handshake(&worker, &tls, stream).await?),
    };
    let state = State::new(worker.deadlines.watch(), place, peer, is_tls, is_unnamed, Arc::clone(&worker.gate));
    let peer = Arc::new(Peer {
        worker,
        state: Arc::clone(&state),
        values: Mutex::new(PeerValues::new(peer)),
        verified: Verified::default(),
        upgraded: Mutex::default(),
    });
    Some(if wire.is_http2() { Begun::Http2(peer, Box::new(wire)) } else { Begun::Http1(peer, Socket::new(wire, state)) })
}

/// TLS with a visitor, or nothing: what went wrong is counted, and who made it go wrong has been told by TLS itself.
async fn handshake(worker: &Worker, tls: &tls::server::Server, stream: TcpStream) -> Option<Box<TlsStream<Counted>>> {
    let within = worker.gate.regime().policy.limits.handshake_timeout;
    let refusal = match tokio::time::timeout(within, TlsAcceptor::from(tls.config()).accept(Counted::new(stream))).await {
        Ok(Ok(stream)) => return Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            Refusal::Handshake
        }
        Err(_) => Refusal::HandshakeTimeout,
    };
    worker.shard.count(Count::Refused(refusal));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_left_before_it_was_accepted_is_no_want_of_descriptors() {
        // ECONNABORTED, ECONNRESET, EINTR; EMFILE, ENFILE, ENOBUFS, ENOMEM
        for (codes, expected) in [(&[103, 104, 4][..], true), (&[24, 23, 105, 12], false)] {
            for &code in codes {
                let error = io::Error::from_raw_os_error(code);
                assert_eq!(is_of_one_client(error.kind()), expected, "{error}");
            }
        }
    }
}
