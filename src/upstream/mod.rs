//! The site: its servers, their slots, and the connections to them.
//!
//! One short lock over slots, idle connections and the queue; nothing waits while holding it. A slot is given back when the upstream
//! has really finished: also when the client has left, which frees no worker of the site.
//!
//! Always holds: requests at a server are never more than its slots, of all workers and over whatever they go; nor are they together with
//! the idle connections of HTTP/1, each of which holds a worker of a prefork server. But for requests that must not be held up, which come
//! beside. A connection that has switched protocols is beside them, too: its request was over with the answer, and what a site keeps for
//! an open WebSocket is no worker that others wait for. `limits.upgrades` counts those.
//!
//! An idle connection of HTTP/2 takes no slot: a server that speaks it serves its connections by events, and has workers for requests
//! (Apache refuses HTTP/2 under prefork). So those are beside the slots, and bounded by themselves: they are never more than the slots,
//! but that each worker may keep one. A worker's requests share one for as long as the server takes more on it.

mod answer;
mod connection;
mod http1;
mod http2;
mod names;
mod pieces;
mod relay;
mod servers;
mod upload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::gate::{Gate, Site};
use crate::metrics::{Count, Metrics, OutcomeLabel, Shard, Timing};
use crate::rules::concurrency::ServerLimit;
use crate::rules::policy;
use crate::rules::slots::{Answer, Ask, Bounds, Grant, Slots};
use crate::rules::time::Moment;
use crate::tls::client::{ClientTls, Offer};

pub use answer::{Answered, Asked, Failure, Sending, send};
pub use connection::{BodyFailure, Carrier, ConnectError, RequestBody, Switched, TransportError, no_body};
pub use http1::Http1Error;
pub use names::{Found, find, named};
pub use pieces::Pieces;
pub use relay::{AnswerBody, BrokenOff, BufferMemory};
pub use servers::{Protocol, ServerStatus, maintain};

use connection::Connection;
use servers::Peer;

/// The site as all workers share it.
#[derive(Debug)]
pub struct Upstream {
    inner: Mutex<Inner>,
    gate: Arc<Gate>,
    clock: Arc<Clock>,
    workers: Vec<Worker>,
    memory: Arc<BufferMemory>,
}

/// What each worker has of its own.
#[derive(Debug)]
struct Worker {
    deadlines: Arc<Deadlines>,
    shard: Arc<Shard>,
}

#[derive(Debug)]
struct Inner {
    slots: Slots<Waiter>,
    peers: Vec<Peer>,
    settings: Settings,
    draws: u64,
}

/// What of the policy a request needs once it has a slot.
#[derive(Clone, Copy, Debug)]
struct Settings {
    timeouts: policy::Timeouts,
    response_buffer: usize,
    /// What servers are offered, but for WebSockets.
    offer: Offer,
}

/// Someone who waits for a slot.
#[derive(Debug)]
struct Waiter {
    worker: usize,
    ask: Ask,
    granted: oneshot::Sender<Slot>,
}

/// A slot of a server, given back when dropped. While it is held, a worker of the site is taken to be busy.
#[derive(Debug)]
pub struct Slot {
    upstream: Arc<Upstream>,
    grant: Grant,
    ask: Ask,
    worker: usize,
    settings: Settings,
    connection: Option<Connection>,
    /// When whoever asked for it had it.
    taken: Moment,
    /// When the upstream was done, if it is dropped in the same moment: one reading of the clock less.
    ended: Option<Moment>,
    /// What to tell the server's health.
    outcome: Option<bool>,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// None came free before the deadline.
    Deadline,
    /// Too many wait already.
    QueueFull,
}

impl Upstream {
    /// The servers of a policy, spoken to over TLS if there is what it needs. `deadlines` are those of the workers, in order.
    #[must_use]
    pub fn new(
        policy: &policy::Policy,
        tls: Option<&ClientTls>,
        gate: Arc<Gate>,
        clock: Arc<Clock>,
        metrics: &Metrics,
        deadlines: &[Arc<Deadlines>],
        memory: Arc<BufferMemory>,
    ) -> Arc<Self> {
        let peers: Vec<Peer> = policy.upstream.servers.iter().map(|server| Peer::new(server.clone(), tls)).collect();
        let slots = Slots::new(bounds(policy, &gate), peers.len(), clock.moment());
        let workers = deadlines
            .iter()
            .enumerate()
            .map(|(worker, deadlines)| Worker { deadlines: Arc::clone(deadlines), shard: metrics.shard(worker) })
            .collect();
        let draws = clock.now().wall.as_millis() | 1;
        let inner = Inner { slots, peers, settings: settings(policy), draws };
        Arc::new(Self { inner: Mutex::new(inner), gate, clock, workers, memory })
    }

    /// Takes over a new policy, what its TLS needs, and where those of its servers are that were [`Upstream::unknown`]; requests under way
    /// finish where they are.
    pub fn apply(self: &Arc<Self>, policy: &policy::Policy, tls: Option<&ClientTls>, found: Found) {
        let now = self.clock.moment();
        let mut inner = self.lock();
        let kept: Vec<Option<usize>> =
            policy.upstream.servers.iter().map(|server| inner.peers.iter().position(|peer| peer.server == *server)).collect();
        let places = inner.slots.reconfigure(bounds(policy, &self.gate), &kept);
        for peer in &mut inner.peers {
            peer.live = false;
        }
        for (server, place) in policy.upstream.servers.iter().zip(places) {
            if place == inner.peers.len() {
                inner.peers.push(Peer::new(server.clone(), tls));
            }
            let peer = &mut inner.peers[place];
            peer.live = true;
            peer.follow(tls);
        }
        inner.know(found, now);
        inner.settings = settings(policy);
        let offer = inner.settings.offer;
        for peer in &mut inner.peers {
            if !peer.live {
                peer.idle.clear();
            }
            if !peer.live || offer == Offer::Http1 {
                // what is under way on them goes on
                peer.shared.clear();
            }
        }
        inner.close_idle_above_slots();
        let granted = self.grant(&mut inner, now);
        drop(inner);
        hand_out(granted);
    }

    /// A slot, if one is free and nobody else is next.
    pub fn slot_now(self: &Arc<Self>, ask: Ask, worker: usize, now: Moment) -> Option<Slot> {
        let mut inner = self.lock();
        let draws = inner.draw();
        let grant = inner.slots.ask_now(ask, draws, now)?;
        let slot = self.slot_of(&mut inner, grant, ask, worker, now);
        drop(inner);
        self.workers[worker].shard.observe(Timing::SlotWait, Duration::ZERO);
        Some(slot)
    }

    /// A slot within `deadline`, for who could not have one at once.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn slot(self: &Arc<Self>, ask: Ask, worker: usize, deadline: Duration) -> Result<Slot, NoSlot> {
        let asked = self.clock.moment();
        let (number, granted) = {
            let mut inner = self.lock();
            let draws = inner.draw();
            let (sender, receiver) = oneshot::channel();
            match inner.slots.ask(ask, draws, asked, Waiter { worker, ask, granted: sender }) {
                Answer::Granted(grant) => {
                    self.workers[worker].shard.observe(Timing::SlotWait, Duration::ZERO);
                    return Ok(self.slot_of(&mut inner, grant, ask, worker, asked));
                }
                Answer::Queued(number) => (number, receiver),
                Answer::Full(_) => return Err(NoSlot::QueueFull),
            }
        };
        let mut waiting = Waiting { upstream: self, number, ask, over: false };
        let waited = tokio::time::timeout(deadline, granted).await;
        let now = self.clock.moment();
        self.workers[worker].shard.observe(Timing::SlotWait, now.since(asked));
        match waited {
            Ok(Ok(mut slot)) => {
                waiting.over = true;
                slot.taken = now;
                Ok(slot)
            }
            // a slot that was granted in this very moment is in the dropped receiver, and gives itself back
            Ok(Err(_)) | Err(_) => Err(NoSlot::Deadline),
        }
    }

    /// So many slots of each server from now on.
    pub fn limit(self: &Arc<Self>, limit: ServerLimit) {
        let mut inner = self.lock();
        if !inner.slots.limit(limit) {
            return;
        }
        inner.close_idle_above_slots();
        let granted = self.grant(&mut inner, self.clock.moment());
        drop(inner);
        hand_out(granted);
    }

    /// Slots of the servers that are in use.
    pub fn slots(&self) -> u32 {
        self.lock().slots.total()
    }

    /// A slot at once, though none may be free: for who must not be held up.
    pub fn slot_anyway(self: &Arc<Self>, ask: Ask, worker: usize) -> Slot {
        let now = self.clock.moment();
        let mut inner = self.lock();
        let draws = inner.draw();
        let grant = inner.slots.take_anyway(ask, draws, now);
        self.workers[worker].shard.observe(Timing::SlotWait, Duration::ZERO);
        self.slot_of(&mut inner, grant, ask, worker, now)
    }

    /// How the site stands, for the law.
    pub fn site(&self) -> Site {
        let now = self.clock.moment();
        let mut inner = self.lock();
        Site {
            in_flight: inner.slots.in_flight(),
            queued: inner.slots.queued_for_the_site(),
            servers: inner.slots.in_use(),
            usage: inner.slots.usage(now),
        }
    }

    /// Requests that wait for a slot, of whatever kind.
    pub fn queued(&self) -> usize {
        self.lock().slots.queued()
    }

    fn slot_of(self: &Arc<Self>, inner: &mut Inner, grant: Grant, ask: Ask, worker: usize, now: Moment) -> Slot {
        let connection = self.connection_of(inner, grant, worker);
        let (upstream, settings) = (Arc::clone(self), inner.settings);
        Slot { upstream, grant, ask, worker, settings, connection, taken: now, ended: None, outcome: None }
    }

    /// What comes with a slot.
    fn connection_of(&self, inner: &mut Inner, grant: Grant, worker: usize) -> Option<Connection> {
        let room = inner.slots.room(grant.server);
        let peer = &mut inner.peers[grant.server];
        if let Some(ride) = peer.board(worker, &self.workers[worker].deadlines) {
            peer.close_idle_above(room);
            Some(Connection::Http2(ride))
        } else {
            peer.take_idle(worker, room).map(Connection::Http1)
        }
    }

    /// Takes slots for those who are next, while the lock is held; [`hand_out`] tells them when it no longer is.
    fn grant(self: &Arc<Self>, inner: &mut Inner, now: Moment) -> Vec<(oneshot::Sender<Slot>, Slot)> {
        let mut granted = Vec::new();
        while inner.slots.queued() > 0 {
            let draws = inner.draw();
            let Some((waiter, grant)) = inner.slots.next(draws, now) else { break };
            let slot = self.slot_of(inner, grant, waiter.ask, waiter.worker, now);
            granted.push((waiter.granted, slot));
        }
        granted
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells those who have a slot now. One whose waiter has left in this very moment is dropped, and so given to the next.
fn hand_out(granted: Vec<(oneshot::Sender<Slot>, Slot)>) {
    for (waiter, slot) in granted {
        drop(waiter.send(slot));
    }
}

impl Inner {
    /// Two random numbers (xorshift64): which servers are compared is no secret.
    const fn draw(&mut self) -> [u32; 2] {
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        [self.draws as u32, (self.draws >> 32) as u32]
    }

    /// Closes the idle connections that are too many, now that there may be fewer slots.
    fn close_idle_above_slots(&mut self) {
        for (place, peer) in self.peers.iter_mut().enumerate() {
            let room = self.slots.room(place);
            peer.close_idle_above(room);
            peer.close_shared_above(room);
        }
    }

    /// A request at a server has ended well.
    fn went_well(&mut self, server: usize) {
        if self.slots.health(server).good() {
            tracing::info!(server = self.peers[server].server.label, "server is back");
        }
    }

    /// A request at a server has failed.
    fn failed(&mut self, server: usize, now: Moment) {
        if self.slots.health(server).bad(now) {
            tracing::warn!(server = self.peers[server].server.label, "server ejected");
        }
    }
}

impl Slot {
    /// Gives the slot back, with its connection for the next.
    fn finish(mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Gives the slot back when its connection is closed: another one that was made sooner would be one too many.
    fn finish_closed(mut self, connection: Connection) {
        if let Some(closing) = connection.close() {
            self.ended = None;
            tokio::spawn(async move {
                closing.await;
                drop(self);
            });
        }
    }

    const fn good(&mut self, good: bool) {
        self.outcome = Some(good);
    }

    /// Moves to another server, as the one that it is of can't be reached, if there is another that has a slot at once. The lock is held
    /// from giving one back to having the other. `is_own`: an attempt of its own has failed.
    fn move_on(&mut self, is_own: bool) -> bool {
        let Self { upstream, grant, ask, worker, .. } = self;
        let now = upstream.clock.moment();
        let mut inner = upstream.lock();
        let draws = inner.draw();
        let moved = if upstream.gate.regime().observes() {
            inner.slots.move_anyway(*grant, *ask, draws, now)
        } else {
            inner.slots.move_on(*grant, *ask, draws, now)
        };
        let Some(moved) = moved else { return false };
        if is_own {
            inner.failed(grant.server, now);
        }
        self.connection = upstream.connection_of(&mut inner, moved, *worker);
        (self.grant, self.taken) = (moved, now);
        let granted = upstream.grant(&mut inner, now);
        drop(inner);
        hand_out(granted);
        true
    }

    fn count(&self, outcome: OutcomeLabel) {
        self.upstream.workers[self.worker].shard.count(Count::Outcome(outcome));
    }

    /// The client broke it off before there was an answer: it says nothing about the site.
    fn aborted(&self) {
        self.count(OutcomeLabel::Aborted);
    }

    /// Counts how the request ended; tells the law, if it counts.
    fn observe(&self, outcome: OutcomeLabel, good: bool) {
        self.count(outcome);
        self.tell_law(good);
    }

    fn tell_law(&self, good: bool) {
        if self.ask.counts {
            self.upstream.gate.answered(self.worker, good);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Self { upstream, grant, ask, connection, ended, outcome, .. } = self;
        let now = ended.unwrap_or_else(|| upstream.clock.moment());
        let mut inner = upstream.lock();
        let server = grant.server;
        inner.slots.release(*grant, *ask, *outcome == Some(true), now);
        match outcome {
            Some(true) => inner.went_well(server),
            Some(false) => inner.failed(server, now),
            None => {}
        }
        match connection.take() {
            Some(Connection::Http1(mut connection)) => {
                let free = inner.slots.room(server);
                let peer = &mut inner.peers[server];
                let is_good = !connection.is_closed() && connection.is_by(peer.tls.as_ref());
                if peer.live && is_good && peer.idle.len() < free as usize {
                    connection.idle_since = now;
                    connection.reused = true;
                    peer.put_idle(connection);
                }
            }
            Some(Connection::Http2(ride)) => {
                let shared = Arc::clone(&ride.connection);
                drop(ride);
                let free = inner.slots.room(server);
                inner.peers[server].alight(&shared, free);
            }
            None => {}
        }
        let granted = upstream.grant(&mut inner, now);
        drop(inner);
        hand_out(granted);
    }
}

/// Leaves the queue when dropped.
struct Waiting<'a> {
    upstream: &'a Arc<Upstream>,
    number: u64,
    ask: Ask,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.upstream.lock().slots.leave(self.number, self.ask);
        }
    }
}

fn bounds(policy: &policy::Policy, gate: &Gate) -> Bounds {
    Bounds { server: gate.regime().server_limit, queue: policy.upstream.queue.length, per_pass: policy.session.in_flight }
}

const fn settings(policy: &policy::Policy) -> Settings {
    let offer = match (policy.upstream.http2, &policy.upstream.tls) {
        (policy::UpstreamHttp2::Auto, Some(_)) => Offer::Http2,
        (policy::UpstreamHttp2::Auto, None) | (policy::UpstreamHttp2::Off, _) => Offer::Http1,
    };
    Settings { timeouts: policy.upstream.timeouts, response_buffer: policy.upstream.buffer.response, offer }
}
