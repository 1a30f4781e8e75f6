//! The reserved paths, all under `/.tidegate/`: none of them ever reaches the site.

use bytes::Bytes;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use super::Worker;
use super::exchange::{Exchange, Upload};
use super::form;
use super::handle::Peer;
use super::respond::{self, Answer, status};
use super::{email, facts, invitation, unsubscribe};
use crate::gate::Regime;
use crate::metrics::{Count, Refusal};
use crate::page::FailureKind;
use crate::rules::decide::{Reason, judge_ticket, ticket_holds, with_pass};
use crate::rules::draw::FIRST_RETURN;
use crate::rules::headers::cookies;
use crate::rules::negotiate;
use crate::rules::policy::{Mode, Order};
use crate::rules::time::Now;
use crate::rules::token::Ticket;

/// What they all begin with.
pub(super) const PREFIX: &str = "/.tidegate/";

/// The one that is asked for in plaintext, whatever is sent to TLS.
pub(super) const HEALTH: &str = "/.tidegate/healthz";

/// Answers a request for a reserved path.
pub(super) async fn answer(peer: &Peer, exchange: &Exchange, regime: &Regime, parts: &Parts, body: Option<Upload>, now: Now) -> Answer {
    let worker = &*peer.worker;
    let path = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    match (path, &parts.method) {
        ("healthz", &Method::GET | &Method::HEAD) => health(worker),
        ("status", &Method::GET | &Method::HEAD) => own_status(peer, regime, parts, now),
        ("invitation", &Method::GET | &Method::HEAD) => invitation::landing(peer, regime, parts, now).await,
        ("invitation", &Method::POST) => invitation::redeem(peer, exchange, regime, parts, body, now).await,
        ("unsubscribe", &Method::GET | &Method::HEAD) => unsubscribe::ask(peer, regime, parts),
        ("unsubscribe", &Method::POST) => unsubscribe::leave(peer, exchange, regime, parts, body, now).await,
        ("email", &Method::GET | &Method::HEAD) => email::ask(peer, regime, parts, now),
        ("email", &Method::POST) => email::post(peer, exchange, regime, parts, body, now).await,
        ("healthz" | "status", _) => refused(worker, regime, parts, FailureKind::MethodNotAllowed, Refusal::Method, Some("GET, HEAD")),
        ("invitation" | "email" | "unsubscribe", _) => {
            refused(worker, regime, parts, FailureKind::MethodNotAllowed, Refusal::Method, Some("GET, HEAD, POST"))
        }
        _ => refused(worker, regime, parts, FailureKind::NotFound, Refusal::NotFound, None),
    }
}

/// For load balancers: whether this gate takes traffic.
fn health(worker: &Worker) -> Answer {
    if worker.is_draining() {
        let mut answer = respond::text(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"draining\n"));
        answer.headers_mut().insert(status::NAME, status::DRAINING);
        answer
    } else {
        respond::text(StatusCode::OK, Bytes::from_static(b"ok\n"))
    }
}

/// How the caller itself stands. It draws nothing and renews nothing.
fn own_status(peer: &Peer, regime: &Regime, parts: &Parts, now: Now) -> Answer {
    let worker = &*peer.worker;
    let ours = cookies::find(&parts.headers);
    let shown = facts::find_pass(&parts.headers, &ours, &peer.verified, regime, now, false, &worker.shard);
    let pass = shown.pass.filter(|_| shown.holds);
    let refresh_max = regime.refresh_max(now.mono);
    let ticket =
        || facts::find_ticket(&ours, &peer.verified, regime, &worker.shard).filter(|ticket| judge_ticket(ticket, now, refresh_max).is_ok());
    let json = if let Some(pass) = pass {
        let (verdict, reason) = with_pass(pass.kind);
        serde_json::json!({ "verdict": verdict.name(), "reason": reason.name(), "pass": pass.id.to_string() })
    } else if let Some(ticket) = ticket() {
        let place = regime.place(&ticket, regime.epoch);
        let wait = regime.wait(&ticket, now.wall).map(|wait| wait.half).or_else(|| place?.wait);
        serde_json::json!({
            "verdict": "wait",
            "reason": waits_because(regime, &ticket, now).name(),
            "observed": regime.observes(),
            "ticket": ticket.id.to_string(),
            "retry_after_s": respond::seconds(regime.epoch),
            "waited_s": regime.waited(&ticket, now.wall).as_secs(),
            "expected_wait_s": wait.map(|wait| wait.as_secs()),
            "position": place.map(|place| place.number()),
            "void_after_s": ticket_holds(refresh_max).as_secs(),
        })
    } else {
        serde_json::json!({ "verdict": null, "reason": null, "retry_after_s": respond::seconds(regime.epoch) })
    };
    respond::json(StatusCode::OK, Bytes::from(json.to_string()))
}

/// Why a ticket waits.
fn waits_because(regime: &Regime, ticket: &Ticket, now: Now) -> Reason {
    if regime.mode.mode == Mode::Closed {
        Reason::Closed
    } else if ticket.won {
        Reason::NoToken
    } else if regime.waited(ticket, now.wall) < FIRST_RETURN {
        Reason::NoTicket
    } else {
        match regime.order() {
            Order::Lottery => Reason::NotDrawn,
            Order::Arrival => Reason::InLine,
        }
    }
}

/// A form that did not come whole.
pub(super) fn unread(worker: &Worker, exchange: &Exchange, regime: &Regime, parts: &Parts, broken: form::Broken) -> Answer {
    let (kind, refusal) = match broken {
        form::Broken::TooLarge => (FailureKind::TooLarge, Refusal::BodyTooLarge),
        form::Broken::Late => (FailureKind::RequestTimeout, Refusal::BodyTimeout),
        form::Broken::Malformed => (FailureKind::BadRequest, Refusal::BadRequest),
    };
    let mut answer = refused(worker, regime, parts, kind, refusal, None);
    exchange.end_in_doubt(&mut answer);
    answer
}

/// A page that refuses says so in `Proxy-Status`, too, and is counted.
pub(super) fn refuses(worker: &Worker, page: &mut Answer, refused: Option<(Refusal, HeaderValue)>) {
    if let Some((refusal, proxy_status)) = refused {
        worker.shard.count(Count::Refused(refusal));
        page.headers_mut().insert(status::NAME, proxy_status);
    }
}

/// The answer to what can't be answered with a page of its own.
pub(super) fn refused(
    worker: &Worker,
    regime: &Regime,
    parts: &Parts,
    kind: FailureKind,
    refusal: Refusal,
    allow: Option<&'static str>,
) -> Answer {
    worker.shard.count(Count::Refused(refusal));
    let proxy_status = if matches!(kind, FailureKind::TooManyRequests { .. }) { status::RATE } else { status::REQUEST };
    let mut answer = respond::failure(&regime.pages, kind, negotiate::form(&parts.headers), proxy_status);
    if let Some(allow) = allow {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    answer
}
