//! WebSockets: who may ask the site for one, and what becomes of the connection when the site has switched.
//!
//! Always holds: nothing of the client's but the head of its request reaches the site before the site's own 101: until then what has come
//! is kept, and afterwards handed over with the connection. A WebSocket is one of `limits.upgrades` from before the site is asked
//! until it ends, and one of `limits.connections` all the while; it holds no slot: see [`crate::upstream`].

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;

use super::connections::UpgradePlace;
use super::handle::Peer;
use super::tunnel::{Patience, Tunnel};
use super::wire::Wire;
use super::{Stage, until};
use crate::gate::Regime;
use crate::rules::headers::forwarded::client_prefix;
use crate::rules::headers::upgrade::asks_for_websocket;
use crate::rules::token::VisitorId;
use crate::upstream::Switched;

/// A request that asks for a WebSocket, and has a place for it.
#[derive(Debug)]
pub(super) struct Upgrade {
    place: UpgradePlace,
}

/// There is no place for a WebSocket.
#[derive(Debug)]
pub(super) struct Full;

/// The site's end of a WebSocket; the client's is its connection, once that is no longer one of requests.
#[derive(Debug)]
pub(super) struct Upgraded {
    site: Switched,
    /// Held until it ends.
    _place: UpgradePlace,
}

impl Upgrade {
    /// The WebSocket that a request asks for, if it does.
    ///
    /// # Errors
    /// It does, and there is no place for it: a WebSocket stays, so it may take neither the last places of those with a pass nor the time
    /// of a gate that closes; and when places run short, no more than its share.
    pub(super) fn of(
        peer: &Peer,
        regime: &Regime,
        parts: &Parts,
        has_body: bool,
        address: IpAddr,
        pass: Option<VisitorId>,
    ) -> Result<Option<Self>, Full> {
        if has_body || !asks_for_websocket(&parts.method, parts.version, &parts.headers) {
            return Ok(None);
        }
        let (worker, limits) = (&peer.worker, &regime.policy.limits);
        let is_reserved = worker.connections.is_reserved(limits.connections) && !peer.state.place.has_pass();
        if is_reserved || *worker.stage.borrow() >= Stage::Closing {
            return Err(Full);
        }
        // as many as it may have requests at the site at a time
        let of_pass = usize::try_from(regime.policy.session.in_flight).unwrap_or(usize::MAX);
        let place = worker.connections.upgrade(limits.upgrades, of_pass, client_prefix(address), pass).ok_or(Full)?;
        Ok(Some(Self { place }))
    }

    /// The site has switched; the client is told by the answer that is on its way.
    pub(super) fn switched(self, site: Switched) -> Box<Upgraded> {
        Box::new(Upgraded { site, _place: self.place })
    }
}

impl Upgraded {
    /// Carries bytes both ways until the end, `ahead` first: what the client has sent after the request. To be called when the client's
    /// connection of requests has ended, from the task that served it: whom the connection's deadline wakes is settled for life.
    pub(super) async fn run(self: Box<Self>, peer: &Peer, client: Wire, ahead: Bytes) {
        let Self { site, _place } = *self;
        let worker = &peer.worker;
        let patience = || {
            let policy = &worker.gate.regime().policy;
            let (limits, shutdown) = (policy.limits, policy.shutdown);
            // half of the time that there is: the rest is for what ends only then
            Patience { idle: limits.upgrade_idle, stalled: limits.body_timeout, closing: shutdown.deadline / 2 }
        };
        let stalled = patience().stalled;
        client.tcp().give_up_after(Some(stalled));
        let site = site.stream(stalled);
        peer.state.deadline.works();
        let deadlines = [Arc::clone(&peer.state.deadline), worker.deadlines.watch(), worker.deadlines.watch()];
        let mut stage = worker.stage.clone();
        Tunnel::new((client, ahead), site, deadlines).run(until(&mut stage, Stage::Closing), patience).await;
    }
}
