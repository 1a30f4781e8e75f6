//! WebSockets: who may ask the site for one, and what becomes of the connection when the site has switched.
//!
//! Always holds: nothing of the client's but the head of its request reaches the site before the site's own 101: until then hyper keeps
//! what has come, and afterwards hands it over with the connection. A WebSocket is one of `limits.upgrades` from before the site is asked
//! until it ends, and one of `limits.connections` all the while; it holds no slot: see [`crate::upstream`].

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::connections::{Socket, UpgradePlace};
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
    client: OnUpgrade,
    place: UpgradePlace,
}

/// There is no place for a WebSocket.
#[derive(Debug)]
pub(super) struct Full;

/// Both ends of a WebSocket, once the connection of the client has given its own up.
#[derive(Debug)]
pub(super) struct Upgraded {
    client: OnUpgrade,
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
        parts: &mut Parts,
        has_body: bool,
        address: IpAddr,
        pass: Option<VisitorId>,
    ) -> Result<Option<Self>, Full> {
        // put there by hyper if there is an `Upgrade`: for all others this is the whole price
        let Some(client) = parts.extensions.remove::<OnUpgrade>() else { return Ok(None) };
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
        Ok(Some(Self { client, place }))
    }

    /// The site has switched; the client is told by the answer that is on its way.
    pub(super) fn switched(self, site: Switched) -> Box<Upgraded> {
        Box::new(Upgraded { client: self.client, site, _place: self.place })
    }
}

impl Upgraded {
    /// Carries bytes both ways until the end. To be called when the client's connection of requests has ended, from the task that served
    /// it: whom the connection's deadline wakes is settled for life.
    pub(super) async fn run(self: Box<Self>, peer: &Peer) {
        let Self { client, site, _place } = *self;
        let worker = &peer.worker;
        let patience = || {
            let policy = &worker.gate.regime().policy;
            let (limits, shutdown) = (policy.limits, policy.shutdown);
            // half of the time that there is: the rest is for what ends only then
            Patience { idle: limits.upgrade_idle, stalled: limits.body_timeout, closing: shutdown.deadline / 2 }
        };
        let Some(client) = stream(client).await else { return };
        let stalled = patience().stalled;
        client.0.tcp().give_up_after(Some(stalled));
        let site = site.stream(stalled);
        peer.state.deadline.works();
        // between two requests it was, and is no more
        peer.state.deadline.has_looked();
        let deadlines = [Arc::clone(&peer.state.deadline), worker.deadlines.watch(), worker.deadlines.watch()];
        let mut stage = worker.stage.clone();
        Tunnel::new(client, site, deadlines).run(until(&mut stage, Stage::Closing), patience).await;
    }
}

/// The connection of a client, and what it has sent after the request.
async fn stream(client: OnUpgrade) -> Option<(Wire, Bytes)> {
    let parts = client.await.ok()?.downcast::<TokioIo<Box<Socket>>>().ok()?;
    // its limits are those of a tunnel from here on
    Some((parts.io.into_inner().wire, parts.read_buf))
}
