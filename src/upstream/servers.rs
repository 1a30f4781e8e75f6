//! The servers behind the gate: their addresses, their idle connections, their way back after an ejection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;

use super::Upstream;
use super::connection::{ConnectError, Connection, Way, reach};
use crate::rules::policy::Server;
use crate::rules::time::Moment;
use crate::store::chain;
use crate::tls::client::{ClientTls, ServerTls};

/// One server.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) server: Server,
    addresses: Arc<[SocketAddr]>,
    /// `None` if it is spoken to in plaintext.
    pub(super) tls: Option<Arc<ServerTls>>,
    /// Oldest first; the newest is used first, so that the oldest can fall idle.
    pub(super) idle: Vec<Connection>,
    /// Still named by the policy.
    pub(super) live: bool,
    resolved: Option<Moment>,
    busy_with_probe: bool,
    /// Why no connection could be made to it; `None` since one was.
    trouble: Option<String>,
    /// When the log was last told of trouble.
    told: Option<Moment>,
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
    /// Why the last connection to it could not be made; `None` if it could.
    pub trouble: Option<String>,
}

/// How often a name is looked up again, as most resolvers' least time to live.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How often the log says that a server can't be reached, and why: each request finds it out anew.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Characters of the reason why a server can't be reached.
const WHY_CHARS_MAX: usize = 500;

/// How long a look-up or a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Peer {
    pub(super) fn new(server: Server, tls: Option<&ClientTls>) -> Self {
        let literal = server.host.parse::<IpAddr>().ok();
        let addresses = literal.map(|ip| SocketAddr::new(ip, server.port)).into_iter().collect();
        let tls = tls.map(|tls| Arc::new(tls.towards(&server.host)));
        let (idle, live, busy_with_probe) = (Vec::new(), true, false);
        Self { server, addresses, tls, idle, live, resolved: None, busy_with_probe, trouble: None, told: None }
    }

    /// The settings of a policy. If they have changed, what was connected by the old ones is not used again.
    pub(super) fn follow(&mut self, tls: Option<&ClientTls>) {
        if self.tls.as_deref().zip(tls).is_some_and(|(own, tls)| own.is_of(tls)) {
            return;
        }
        self.tls = tls.map(|tls| Arc::new(tls.towards(&self.server.host)));
        self.idle.retain(|connection| connection.is_by(self.tls.as_ref()));
    }

    fn way(&self) -> Way {
        Way { addresses: Arc::clone(&self.addresses), tls: self.tls.clone() }
    }

    /// An idle connection for a worker: its own newest; another's, if there is no room for one more connection.
    ///
    /// `room` is how many connections may exist beside the busy ones, the one asked for not counted.
    pub(super) fn take_idle(&mut self, worker: usize, room: u32) -> Option<Connection> {
        if self.idle.is_empty() {
            return None;
        }
        self.idle.retain(|connection| !connection.is_closed());
        let own = self.idle.iter().rposition(|connection| connection.worker == worker);
        if own.is_none() && self.idle.len() <= room as usize {
            return None;
        }
        let taken = own.or_else(|| self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(taken))
    }

    fn is_literal(&self) -> bool {
        self.server.host.parse::<IpAddr>().is_ok()
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
            idle: peer.idle.len(),
            trouble: peer.trouble.clone(),
        })
        .collect()
    }

    /// How a server is reached, and whether it could not be the last time.
    pub(super) fn way_to(&self, server: usize) -> (Way, bool) {
        let inner = self.lock();
        let peer = &inner.peers[server];
        (peer.way(), peer.trouble.is_some())
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

    fn close_idle(&self, now: Moment) {
        let mut inner = self.lock();
        let keep = inner.settings.timeouts.idle;
        for peer in &mut inner.peers {
            peer.idle.retain(|connection| !connection.is_closed() && now.since(connection.idle_since) < keep);
        }
    }

    fn names_to_look_up(&self, now: Moment) -> Vec<(usize, String, u16)> {
        let mut inner = self.lock();
        let due = inner.peers.iter_mut().enumerate().filter(|(_, peer)| {
            peer.live && !peer.is_literal() && peer.resolved.is_none_or(|resolved| now.since(resolved) >= RESOLVE_EVERY)
        });
        due.map(|(place, peer)| {
            peer.resolved = Some(now);
            (place, peer.server.host.clone(), peer.server.port)
        })
        .collect()
    }

    fn servers_to_probe(&self, now: Moment) -> Vec<(usize, Way)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut due = Vec::new();
        for (place, peer) in inner.peers.iter_mut().enumerate() {
            if peer.live && !peer.busy_with_probe && inner.slots.health(place).wants_probe(now) {
                peer.busy_with_probe = true;
                due.push((place, peer.way()));
            }
        }
        due
    }

    fn looked_up(&self, place: usize, found: std::io::Result<Vec<SocketAddr>>) {
        let mut inner = self.lock();
        let peer = &mut inner.peers[place];
        match found {
            // a name that vanished keeps its last addresses: a resolver's bad minute is not the site's
            Ok(addresses) if !addresses.is_empty() => {
                peer.addresses = addresses.into();
                return;
            }
            Ok(_) => tracing::warn!(server = peer.server.label, "the name has no address"),
            Err(error) => tracing::warn!(server = peer.server.label, %error, "the name could not be looked up"),
        }
        if peer.addresses.is_empty() {
            // a server that was never found is looked for at each tick
            peer.resolved = None;
        }
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
    for (place, host, port) in upstream.names_to_look_up(now) {
        let upstream = Arc::clone(upstream);
        tokio::spawn(async move {
            let found = tokio::time::timeout(PROBE_TIMEOUT, lookup_host((host.as_str(), port))).await;
            let found = found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            upstream.looked_up(place, found.map(Iterator::collect));
        });
    }
    for (place, way) in upstream.servers_to_probe(now) {
        let upstream = Arc::clone(upstream);
        tokio::spawn(async move {
            let connected = reach(&way, PROBE_TIMEOUT).await.map(drop);
            upstream.probed(place, &connected);
        });
    }
}
