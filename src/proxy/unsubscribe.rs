//! The link in an invitation by which its address is deleted (RFC 8058): mail programs post to it, people see a page with a button.
//!
//! Always holds: a GET deletes nothing, since mail scanners follow links; and a link that is not ours does nothing. Whoever has the link may
//! use it from anywhere, so where the form comes from is not asked.

use http::request::Parts;

use super::exchange::{Exchange, Upload};
use super::facts;
use super::form::{self, field, proves};
use super::handle::Peer;
use super::invitation::could_not_render;
use super::reserved::{refused, refuses, unread};
use super::respond::{self, Answer, status};
use crate::gate::Regime;
use crate::metrics::Refusal;
use crate::page::{FailureKind, LeaveState, PageKind};
use crate::rules::time::Now;
use crate::rules::token::VisitorId;

/// The page with the button.
pub(super) fn ask(peer: &Peer, regime: &Regime, parts: &Parts) -> Answer {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let (id, check) = (field(query, "id").unwrap_or_default(), field(query, "check").unwrap_or_default());
    let state = if row(regime, query).is_some() { LeaveState::Asks { id: &id, check: &check } } else { LeaveState::Invalid };
    page(peer, regime, state)
}

/// Deletes the address.
pub(super) async fn leave(peer: &Peer, exchange: &Exchange, regime: &Regime, parts: &Parts, body: Option<Upload>, now: Now) -> Answer {
    let worker = &*peer.worker;
    let (_, client) = facts::counted_client(&peer.state, &parts.headers, regime);
    if let Err(wait) = worker.gate.posts(regime, client, now.mono) {
        let retry_s = respond::seconds(wait);
        return refused(worker, regime, parts, FailureKind::TooManyRequests { retry_s }, Refusal::LeaveRate, None);
    }
    let form = match form::read(exchange, body).await {
        Ok(form) => form,
        Err(broken) => return unread(worker, exchange, regime, parts, broken),
    };
    // mail programs post to the link itself, with nothing of it in the form
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let state = match row(regime, &form).or_else(|| row(regime, query)) {
        None => LeaveState::Invalid,
        Some(id) => worker.invitations.leave(id).await.map_or(LeaveState::Unavailable, |()| LeaveState::Done),
    };
    page(peer, regime, state)
}

/// The row of the queue that a link of ours names.
fn row(regime: &Regime, fields: &[u8]) -> Option<VisitorId> {
    let id: VisitorId = field(fields, "id")?.parse().ok()?;
    proves(&field(fields, "check")?, regime.keys.leave_check(id)).then_some(id)
}

fn page(peer: &Peer, regime: &Regime, state: LeaveState<'_>) -> Answer {
    let mut answer = match regime.pages.leave(state) {
        Ok(body) => respond::html(state.status(), body, regime.pages.content_security_policy(PageKind::Landing)),
        Err(error) => return could_not_render(peer, regime, &error),
    };
    let refused = match state {
        LeaveState::Asks { .. } | LeaveState::Done => None,
        LeaveState::Invalid => Some((Refusal::Link, status::REQUEST)),
        LeaveState::Unavailable => Some((Refusal::Storage, status::INTERNAL)),
    };
    refuses(&peer.worker, &mut answer, refused);
    answer
}
