//! The servers behind the gate: their addresses, their idle connections, their way back after an ejection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Upstream;
use super::connection::{ConnectError, Connection, Opened, Way, reach};
use super::http1::Http1;
use super::http2::{Http2, Ride};
use super::names;
use crate::deadlines::Deadlines;
use crate::rules::policy::Server;
use crate::rules::time::Moment;
use crate::store::chain;
use crate::tls::client::{ClientTls, Offer, ServerTls};

/// One server.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) server: Server,
    /// None of a name that was not found yet.
    pub(super) addresses: Arc<[SocketAddr]>,
    /// `None` if it is spoken to in plaintext.
    pub(super) tls: Option<Arc<ServerTls>>,
    /// Oldest first; the newest is used first, so that the oldest can fall idle.
    pub(super) idle: Vec<Idle>,
    /// Those of HTTP/2, idle or not. Oldest first, and used first, so that the newest can fall idle.
    pub(super) shared: Vec<Arc<Http2>>,
    /// For which workers one is being made that others wait for; over when the sender is gone.
    making: Vec<(usize, watch::Receiver<()>)>,
    /// What the last connection spoke that could have spoken either.
    speaks: Option<Protocol>,
    /// Still named by the policy.
    pub(super) live: bool,
    /// When its name was looked up; `None` if that is due.
    pub(super) resolved: Option<Moment>,
    busy_with_probe: bool,
    /// Why no connection could be made to it; `None` since one was.
    trouble: Option<String>,
    /// When the log was last told of trouble.
    told: Option<Moment>,
}

/// A connection of HTTP/1 that nobody uses. Whose it is stands beside it, so that to find one's own no other is touched.
#[derive(Debug)]
pub(super) struct Idle {
    worker: usize,
    connection: Box<Http1>,
}

/// What a server is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As it is usually called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How a request comes to a connection that may be shared.
pub(super) enum Join {
    /// There is one.
    Ride(Ride),
    /// Somebody makes one: look again when the sender is gone, or make one if it sends: then that has failed.
    Wait(watch::Receiver<()>),
    /// Make one; others wait until this is dropped, if it is there.
    Lead(Option<watch::Sender<()>>),
}

/// A server as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// As written in gate.yaml.
    pub label: String,
    /// Not ejected.
    pub up: bool,
    /// Requests at it.
    pub in_flight: u32,
    /// Idle connections to it.
    pub idle: usize,
    /// What it is spoken to in; `None` until that is agreed on.
    pub protocol: Option<Protocol>,
    /// Why the last connection to it could not be made; `None` if it could.
    pub trouble: Option<String>,
}

/// How often the log says that a server can't be reached, and why: each request finds it out anew.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Characters of the reason why a server can't be reached.
const WHY_CHARS_MAX: usize = 500;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Peer {
    pub(super) fn new(server: Server, tls: Option<&ClientTls>) -> Self {
        let addresses = names::literal(&server).into_iter().collect();
        let tls = tls.map(|tls| Arc::new(tls.towards(&server.host)));
        Self {
            server,
            addresses,
            tls,
            idle: Vec::new(),
            shared: Vec::new(),
            making: Vec::new(),
            speaks: None,
            live: true,
            resolved: None,
            busy_with_probe: false,
            trouble: None,
            told: None,
        }
    }

    /// The settings of a policy. If they have changed, what was connected by the old ones is not used again.
    pub(super) fn follow(&mut self, tls: Option<&ClientTls>) {
        if self.tls.as_deref().zip(tls).is_some_and(|(own, tls)| own.is_of(tls)) {
            return;
        }
        self.tls = tls.map(|tls| Arc::new(tls.towards(&self.server.host)));
        self.idle.retain(|idle| idle.connection.is_by(self.tls.as_ref()));
        self.shared.retain(|connection| connection.is_by(self.tls.as_ref()));
    }

    fn way(&self, offer: Offer) -> Way {
        Way { addresses: Arc::clone(&self.addresses), tls: self.tls.clone(), offer }
    }

    /// A place on a connection of HTTP/2 of the worker, if there is one.
    pub(super) fn board(&mut self, worker: usize, deadlines: &Deadlines) -> Option<Ride> {
        if self.shared.is_empty() {
            return None;
        }
        self.shared.retain(|shared| shared.worker != worker || !shared.is_leaving());
        let shared = self.shared.iter().find(|shared| shared.worker == worker && shared.has_room())?;
        Some(shared.board(deadlines.watch()))
    }

    /// A request has left a connection of HTTP/2. `room` is how many idle ones there may be, but for one of each worker.
    pub(super) fn alight(&mut self, left: &Arc<Http2>, room: u32) {
        if !left.is_idle() {
            return;
        }
        if left.is_doubtful() || (self.idle_shared() > room as usize && !self.is_only_of_worker(left)) {
            self.shared.retain(|shared| !Arc::ptr_eq(shared, left));
        }
    }

    /// Closes idle connections of HTTP/1 that are too many: each holds a worker.
    pub(super) fn close_idle_above(&mut self, room: u32) {
        self.idle.drain(..self.idle.len().saturating_sub(room as usize));
    }

    /// Closes idle connections of HTTP/2 that are too many, as when they are left one by one.
    pub(super) fn close_shared_above(&mut self, room: u32) {
        let mut too_many = self.idle_shared().saturating_sub(room as usize);
        for place in (0..self.shared.len()).rev() {
            if too_many > 0 && self.shared[place].is_idle() && !self.is_only_of_worker(&self.shared[place]) {
                self.shared.remove(place);
                too_many -= 1;
            }
        }
    }

    /// Connections of HTTP/2 without a request.
    fn idle_shared(&self) -> usize {
        self.shared.iter().filter(|shared| shared.is_idle()).count()
    }

    fn is_only_of_worker(&self, one: &Http2) -> bool {
        self.shared.iter().filter(|shared| shared.worker == one.worker).nth(1).is_none()
    }

    /// An idle connection for a worker: its own newest; another's, if there is no room for one more connection. Those that are found to
    /// have closed are dropped on the way.
    ///
    /// `room` is how many connections may exist beside the busy ones, the one asked for not counted.
    pub(super) fn take_idle(&mut self, worker: usize, room: u32) -> Option<Box<Http1>> {
        loop {
            let own = self.idle.iter().rposition(|idle| idle.worker == worker);
            if own.is_none() && self.idle.len() <= room as usize {
                return None;
            }
            let taken = own.or_else(|| self.idle.len().checked_sub(1))?;
            let Idle { connection, .. } = self.idle.remove(taken);
            if !connection.is_closed() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next who needs one.
    pub(super) fn put_idle(&mut self, connection: Box<Http1>) {
        self.idle.push(Idle { worker: connection.worker, connection });
    }
}

impl Upstream {
    /// The servers named by the policy.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let inner = self.lock();
        let live = inner.peers.iter().enumerate().filter(|(_, peer)| peer.live);
        live.map(|(place, peer)| ServerStatus {
            label: peer.server.label.clone(),
            up: inner.slots.is_up(place),
            in_flight: inner.slots.busy(place),
            idle: peer.idle.len() + peer.idle_shared(),
            protocol: match inner.settings.offer {
                Offer::Http1 => Some(Protocol::Http1),
                Offer::Http2 => peer.speaks,
            },
            trouble: peer.trouble.clone(),
        })
        .collect()
    }

    /// How a server is reached, and whether it could not be the last time.
    pub(super) fn way_to(&self, server: usize, offer: Offer) -> (Way, bool) {
        let inner = self.lock();
        let peer = &inner.peers[server];
        (peer.way(offer), peer.trouble.is_some())
    }

    /// A place on a connection that the requests of a worker share, or who makes one: one does, and not each of those that come at once.
    pub(super) fn join(&self, server: usize, worker: usize) -> Join {
        let mut inner = self.lock();
        let peer = &mut inner.peers[server];
        if let Some(ride) = peer.board(worker, &self.workers[worker].deadlines) {
            return Join::Ride(ride);
        }
        if peer.speaks == Some(Protocol::Http1) {
            return Join::Lead(None);
        }
        peer.making.retain(|(_, made)| made.has_changed().is_ok());
        if let Some((_, made)) = peer.making.iter().find(|(of, _)| *of == worker) {
            return Join::Wait(made.clone());
        }
        let (lead, made) = watch::channel(());
        peer.making.push((worker, made));
        Join::Lead(Some(lead))
    }

    /// An idle connection of HTTP/1, for a request that can't have a place on one of HTTP/2.
    pub(super) fn take_idle(&self, server: usize, worker: usize) -> Option<Connection> {
        let mut inner = self.lock();
        let room = inner.slots.room(server);
        inner.peers[server].take_idle(worker, room).map(Connection::Http1)
    }

    /// A connection to a server was made. One of HTTP/2 is shared from now on, unless the policy has changed meanwhile.
    pub(super) fn opened(&self, server: usize, opened: Opened, offer: Offer, troubled: bool, worker: usize) -> Connection {
        if troubled {
            self.reached(server);
        }
        match opened {
            Opened::Http1(connection) => {
                if offer == Offer::Http2 {
                    self.lock().peers[server].speaks = Some(Protocol::Http1);
                }
                Connection::Http1(connection)
            }
            Opened::Http2(shared) => {
                let ride = shared.board(self.workers[worker].deadlines.watch());
                let mut inner = self.lock();
                let is_wanted = inner.settings.offer == Offer::Http2;
                let peer = &mut inner.peers[server];
                peer.speaks = Some(Protocol::Http2);
                if is_wanted && peer.live && shared.is_by(peer.tls.as_ref()) {
                    peer.shared.push(shared);
                }
                Connection::Http2(ride)
            }
        }
    }

    /// A connection to a server was made.
    pub(super) fn reached(&self, server: usize) {
        self.lock().peers[server].trouble = None;
    }

    /// No connection to a server could be made.
    pub(super) fn unreached(&self, server: usize, error: &ConnectError) {
        let now = self.clock.moment();
        // a certificate can list hundreds of names that it is for
        let why: String = chain(error).chars().take(WHY_CHARS_MAX).collect();
        let mut inner = self.lock();
        let peer = &mut inner.peers[server];
        let tell = peer.told.is_none_or(|told| now.since(told) >= TELL_EVERY);
        if tell {
            peer.told = Some(now);
            tracing::warn!(server = peer.server.label, why, "the server can't be reached");
        }
        peer.trouble = Some(why);
    }

    /// Looks up again soon a name whose server did not answer.
    pub(super) fn doubt_address(&self, server: usize) {
        self.lock().peers[server].resolved = None;
    }

    /// There was no answer in time to what was sent at this moment on a connection that had been used before. If that is because what it
    /// went by is gone without a word, a firewall's memory or the server itself, so are others; those that have not carried an answer since
    /// would each cost somebody as long, and are closed. A server that is only slow has to take new ones.
    pub(super) fn doubt_idle(&self, server: usize, sent: Moment) {
        self.lock().peers[server].idle.retain(|idle| idle.connection.idle_since > sent);
    }

    fn close_idle(&self, now: Moment) {
        let mut inner = self.lock();
        let keep = inner.settings.timeouts.idle;
        for peer in &mut inner.peers {
            peer.idle.retain_mut(|Idle { connection, .. }| now.since(connection.idle_since) < keep && connection.is_alive());
            peer.shared.retain(|shared| !shared.is_leaving() && !shared.is_idle_for(keep, now));
        }
    }

    fn servers_to_probe(&self, now: Moment) -> Vec<(usize, Way)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let offer = inner.settings.offer;
        let mut due = Vec::new();
        for (place, peer) in inner.peers.iter_mut().enumerate() {
            if peer.live && !peer.busy_with_probe && inner.slots.health(place).wants_probe(now) {
                peer.busy_with_probe = true;
                due.push((place, peer.way(offer)));
            }
        }
        due
    }

    fn probed(self: &Arc<Self>, place: usize, connected: &Result<(), ConnectError>) {
        match connected {
            Ok(()) => self.reached(place),
            Err(error) => self.unreached(place, error),
        }
        let now = self.clock.moment();
        let mut inner = self.lock();
        inner.peers[place].busy_with_probe = false;
        inner.slots.health(place).probed(connected.is_ok(), now);
        let granted = self.grant(&mut inner, now);
        drop(inner);
        super::hand_out(granted);
    }
}

/// What is done for the servers once a tick, on the control thread: names looked up, ejected servers probed, idle connections closed.
pub fn maintain(upstream: &Arc<Upstream>) {
    let now = upstream.clock.moment();
    upstream.close_idle(now);
    names::keep(upstream, now);
    for (place, way) in upstream.servers_to_probe(now) {
        let upstream = Arc::clone(upstream);
        tokio::spawn(async move {
            let connected = reach(&way, PROBE_TIMEOUT).await.map(drop);
            upstream.probed(place, &connected);
        });
    }
}
