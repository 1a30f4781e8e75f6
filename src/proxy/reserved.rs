//! The reserved paths, all under `/.tidegate/`: none of them ever reaches the site.

use bytes::Bytes;
use http::header::{ALLOW, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use hyper::body::Incoming;

use super::Worker;
use super::connections::State;
use super::form::{self, field, is_local, is_own_origin};
use super::handle::Peer;
use super::respond::{self, Answer, status};
use super::{email, facts};
use crate::gate::Regime;
use crate::metrics::{Count, Refusal};
use crate::page::{FailureKind, LandingState, LandingView, PageKind};
use crate::rules::decide::{Ended, Reason, judge_pass, judge_ticket, ticket_holds, with_pass};
use crate::rules::draw::FIRST_RETURN;
use crate::rules::headers::cookies::{self, Attributes, Kind};
use crate::rules::headers::forwarded;
use crate::rules::negotiate::{self, Form};
use crate::rules::policy::{Mode, Order};
use crate::rules::time::Now;
use crate::rules::token::{Pass, PassKind, Ticket};

/// What they all begin with.
pub(super) const PREFIX: &str = "/.tidegate/";

/// Answers a request for a reserved path.
pub(super) async fn answer(peer: &Peer, regime: &Regime, parts: &Parts, body: Incoming, now: Now) -> Answer {
    let worker = &*peer.worker;
    let path = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    match (path, &parts.method) {
        ("healthz", &Method::GET | &Method::HEAD) => health(worker),
        ("status", &Method::GET | &Method::HEAD) => own_status(peer, regime, parts, now),
        ("invitation", &Method::GET | &Method::HEAD) => landing(worker, regime, &parts.uri, now),
        ("invitation", &Method::POST) => redeem(worker, &peer.state, regime, parts, body, now).await,
        ("email", &Method::GET | &Method::HEAD) => email::ask(peer, regime, parts, now),
        ("email", &Method::POST) => email::post(peer, regime, parts, body, now).await,
        ("healthz" | "status", _) => refused(worker, regime, parts, FailureKind::MethodNotAllowed, Refusal::Method, Some("GET, HEAD")),
        ("invitation" | "email", _) => {
            refused(worker, regime, parts, FailureKind::MethodNotAllowed, Refusal::Method, Some("GET, HEAD, POST"))
        }
        _ => refused(worker, regime, parts, FailureKind::NotFound, Refusal::NotFound, None),
    }
}

/// For load balancers: whether this gate takes traffic.
fn health(worker: &Worker) -> Answer {
    if worker.is_draining() {
        respond::text(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"draining\n"))
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

/// The landing page of a link. A GET never lets anyone in: mail scanners follow links.
fn landing(worker: &Worker, regime: &Regime, uri: &Uri, now: Now) -> Answer {
    let query = uri.query().unwrap_or_default().as_bytes();
    let code = field(query, "code").filter(|code| !code.is_empty());
    let next = field(query, "next").filter(|next| is_local(next));
    let state = match &code {
        None => LandingState::Ask,
        Some(code) => match code_of(regime, code, now) {
            Ok(_) => LandingState::Ready { code },
            Err(state) => state,
        },
    };
    landing_page(worker, regime, state, next.as_deref(), StatusCode::OK)
}

/// The button of the landing page: sets the pass, and goes to the page first asked for.
async fn redeem(worker: &Worker, state: &State, regime: &Regime, parts: &Parts, body: Incoming, now: Now) -> Answer {
    if !is_own_origin(parts) {
        return refused(worker, regime, parts, FailureKind::Forbidden, Refusal::BadRequest, None);
    }
    let form = match form::read(state, body).await {
        Ok(form) => form,
        Err(broken) => return unread(worker, regime, parts, broken),
    };
    let code = field(&form, "code").unwrap_or_default();
    let next = field(&form, "next").filter(|next| is_local(next));
    let pass = match code_of(regime, &code, now) {
        Ok(pass) => pass,
        Err(state) => return landing_page(worker, regime, state, next.as_deref(), StatusCode::FORBIDDEN),
    };
    let secure = forwarded::client_address(state.peer, false, &parts.headers, &regime.policy.client.trusted_proxies).scheme_https;
    let max_age = pass.expires.map_or(regime.policy.session.limit, |end| end.since(now.wall));
    let attributes = Attributes { secure, domain: regime.policy.session.domain.as_deref(), max_age };
    let mut answer = respond::empty(StatusCode::SEE_OTHER);
    let to = next.and_then(|next| HeaderValue::try_from(next).ok()).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(LOCATION, to);
    answer.headers_mut().append(SET_COOKIE, cookies::set_cookie(Kind::Pass, regime.keys.sign_pass(&pass).as_bytes(), attributes));
    answer
}

/// The pass that a code stands for: one minted by the operator is its own code.
fn code_of<'a>(regime: &Regime, code: &str, now: Now) -> Result<Pass, LandingState<'a>> {
    let pass = regime.keys.verify_pass(code.trim().as_bytes()).map_err(|_| LandingState::Invalid)?;
    if pass.kind == PassKind::Admitted {
        return Err(LandingState::Invalid);
    }
    match judge_pass(&pass, now, &regime.policy.session, &regime.policy.bypass, false) {
        Ok(_) => Ok(pass),
        Err(Ended::Expired) => Err(LandingState::Expired),
        Err(Ended::Revoked) => Err(LandingState::Revoked),
    }
}

fn landing_page(worker: &Worker, regime: &Regime, state: LandingState<'_>, next: Option<&str>, code: StatusCode) -> Answer {
    match regime.pages.landing(&LandingView { state, next }) {
        Ok(body) => respond::html(code, body, regime.pages.content_security_policy(PageKind::Landing)),
        Err(error) => {
            tracing::error!(%error, "the landing page could not be rendered");
            worker.shard.count(Count::Refused(Refusal::Internal));
            respond::failure(&regime.pages, FailureKind::Internal, Form::Page, status::INTERNAL)
        }
    }
}

/// A form that did not come whole.
pub(super) fn unread(worker: &Worker, regime: &Regime, parts: &Parts, broken: form::Broken) -> Answer {
    match broken {
        form::Broken::TooLarge => {
            let mut answer = refused(worker, regime, parts, FailureKind::TooLarge, Refusal::BodyTooLarge, None);
            respond::close(&mut answer);
            answer
        }
        form::Broken::Off => refused(worker, regime, parts, FailureKind::RequestTimeout, Refusal::BodyTimeout, None),
    }
}

fn refused(worker: &Worker, regime: &Regime, parts: &Parts, kind: FailureKind, refusal: Refusal, allow: Option<&'static str>) -> Answer {
    worker.shard.count(Count::Refused(refusal));
    let mut answer = respond::failure(&regime.pages, kind, negotiate::form(&parts.headers), status::REQUEST);
    if let Some(allow) = allow {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    answer
}
