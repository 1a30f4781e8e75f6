//! The names of servers: at which addresses they are, and when that is looked up.
//!
//! A server is not in use before its name was looked up: not the gate's first visitor, nor the first after a reload, pays for the resolver.
//! But neither a start nor a reload waits for a resolver for longer than [`LOOK_UP_TIMEOUT`], or fails for it: a name that is not found is
//! tried again at each tick.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Inner, Upstream};
use crate::rules::policy::Server;
use crate::rules::time::Moment;

/// Where servers are, as far as that was found out.
#[derive(Debug, Default)]
pub struct Found(Vec<(Server, io::Result<Vec<SocketAddr>>)>);

/// How often a name is looked up again, as most resolvers' least time to live.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How long a look-up may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The servers that have to be looked up: those that are not written as an address.
#[must_use]
pub fn named(servers: &[Server]) -> Vec<Server> {
    servers.iter().filter(|server| literal(server).is_none()).cloned().collect()
}

/// Looks up servers, all at once.
pub async fn find(servers: Vec<Server>) -> Found {
    let mut looking = JoinSet::new();
    for server in servers {
        looking.spawn(async move {
            let found = look_up(&server).await;
            (server, found)
        });
    }
    let mut found = Found::default();
    while let Some(looked) = looking.join_next().await {
        found.0.extend(looked);
    }
    found
}

/// Where a server is whose name is an address.
pub(super) fn literal(server: &Server) -> Option<SocketAddr> {
    server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port))
}

/// Looks up the names that are due, on the control thread. One that takes its time keeps no other waiting.
pub(super) fn keep(upstream: &Arc<Upstream>, now: Moment) {
    let due = upstream.lock().due(now);
    for server in due {
        let upstream = Arc::clone(upstream);
        tokio::spawn(async move {
            let found = look_up(&server).await;
            upstream.know(Found(vec![(server, found)]));
        });
    }
}

async fn look_up(server: &Server) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(LOOK_UP_TIMEOUT, lookup_host((server.host.as_str(), server.port))).await;
    found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(Iterator::collect)
}

impl Upstream {
    /// Those of the servers of a policy that have to be looked up before it is in force. What is in use stays where it was found.
    pub fn unknown(&self, servers: &[Server]) -> Vec<Server> {
        let inner = self.lock();
        let is_known = |server: &Server| inner.peers.iter().any(|peer| peer.live && !peer.addresses.is_empty() && peer.server == *server);
        named(servers).into_iter().filter(|server| !is_known(server)).collect()
    }

    /// Takes over what was found.
    pub fn know(&self, found: Found) {
        self.lock().know(found, self.clock.moment());
    }
}

impl Inner {
    fn due(&mut self, now: Moment) -> Vec<Server> {
        let due = self.peers.iter_mut().filter(|peer| {
            peer.live && literal(&peer.server).is_none() && peer.resolved.is_none_or(|resolved| now.since(resolved) >= RESOLVE_EVERY)
        });
        due.map(|peer| {
            peer.resolved = Some(now);
            peer.server.clone()
        })
        .collect()
    }

    pub(super) fn know(&mut self, found: Found, now: Moment) {
        for (server, found) in found.0 {
            let Some(peer) = self.peers.iter_mut().find(|peer| peer.server == server) else { continue };
            match found {
                // a name that vanished keeps its last addresses: a resolver's bad minute is not the site's
                Ok(addresses) if !addresses.is_empty() => {
                    peer.addresses = addresses.into();
                    peer.resolved = Some(now);
                    continue;
                }
                Ok(_) => tracing::warn!(server = server.label, "the name has no address"),
                Err(error) => tracing::warn!(server = server.label, %error, "the name could not be looked up"),
            }
            if peer.addresses.is_empty() {
                // a server that was never found is looked for at each tick
                peer.resolved = None;
            }
        }
    }
}
