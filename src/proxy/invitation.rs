//! The page of an invitation: the link leads to it, its button lets in.
//!
//! Always holds: a GET uses nothing up, since mail scanners follow links. A code that finds no room, or a gate that can't write, is as good
//! as it was.

use std::time::Duration;

use http::header::{LOCATION, REFRESH, RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::exchange::{Exchange, Upload};
use super::facts;
use super::form::{self, field, is_local, is_own_origin, proves};
use super::handle::Peer;
use super::reserved::{refused, refuses, unread};
use super::respond::{self, Answer, status};
use crate::gate::Regime;
use crate::mail::NotOpen;
use crate::metrics::{Count, Refusal};
use crate::page::{FailureKind, LandingState, LandingView, PageError, PageKind, landing_link};
use crate::rules::decide::{Ended, judge_pass, ticket_holds};
use crate::rules::headers::cookies::{self, Attributes, Kind};
use crate::rules::headers::forwarded::Client;
use crate::rules::invites::Code;
use crate::rules::ledger::{NoEntry, REPEAT};
use crate::rules::negotiate::Form;
use crate::rules::time::Now;
use crate::rules::token::{Pass, PassKind, Ticket};

/// A code, as it was sent in.
#[derive(Clone, Copy)]
enum Shown {
    /// A staff pass that was minted: it is its own code.
    Minted(Pass),
    /// Of an invitation, perhaps.
    Invited(Code),
}

/// What came with a code.
struct Came<'a> {
    peer: &'a Peer,
    regime: &'a Regime,
    client: Client,
    hash: u64,
    /// The ticket that was shown.
    ticket: Option<Ticket>,
    /// The code, as it was typed.
    typed: &'a str,
    now: Now,
}

/// The landing page of a link.
pub(super) async fn landing(peer: &Peer, regime: &Regime, parts: &Parts, now: Now) -> Answer {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let code = field(query, "code").filter(|code| !code.is_empty());
    let came = Came::new(peer, regime, parts, code.as_deref().unwrap_or_default(), now);
    let Some(code) = &code else {
        let next = field(query, "next").filter(|next| is_local(next));
        let mut answer = came.page(LandingState::Ask, next.as_deref(), None, false);
        came.give_ticket(&mut answer);
        return answer;
    };
    let (state, next, check) = match shown(regime, code, now) {
        Err(state) => (state, None, None),
        Ok(Shown::Minted(_)) => (LandingState::Ready { code }, field(query, "next").filter(|next| is_local(next)), None),
        Ok(Shown::Invited(code_shown)) => {
            let (next, check) = came.page_asked_for(query, code_shown).unzip();
            let found = match came.may_guess() {
                Err(state) => Err(state),
                Ok(()) => came.told(peer.worker.invitations.look(code_shown, came.ticket.map(|ticket| ticket.id)).await, code),
            };
            (found.map_or_else(|state| state, |()| LandingState::Ready { code }), next, check)
        }
    };
    let mut answer = came.page(state, next.as_deref(), check.as_deref(), false);
    if matches!(state, LandingState::Ready { .. } | LandingState::NoRoom { .. } | LandingState::Invalid) && is_typed(code) {
        came.give_ticket(&mut answer);
    }
    answer
}

/// The button of the landing page: sets the pass, and goes to the page first asked for.
pub(super) async fn redeem(peer: &Peer, exchange: &Exchange, regime: &Regime, parts: &Parts, body: Option<Upload>, now: Now) -> Answer {
    let worker = &*peer.worker;
    if !is_own_origin(parts) {
        return refused(worker, regime, parts, FailureKind::Forbidden, Refusal::Origin, None);
    }
    let form = match form::read(exchange, body).await {
        Ok(form) => form,
        Err(broken) => return unread(worker, exchange, regime, parts, broken),
    };
    let code = field(&form, "code").unwrap_or_default();
    let came = Came::new(peer, regime, parts, &code, now);
    let (pass, next) = match shown(regime, &code, now) {
        Err(state) => return came.page(state, None, None, true),
        Ok(Shown::Minted(pass)) => (pass, field(&form, "next").filter(|next| is_local(next))),
        Ok(Shown::Invited(code_shown)) => {
            let (next, check) = came.page_asked_for(&form, code_shown).unzip();
            if let Err(state) = came.may_guess() {
                return came.page(state, None, None, true);
            }
            let redeemed = worker.invitations.redeem(code_shown, came.ticket.map(|ticket| ticket.id)).await;
            match came.told(redeemed, &code) {
                Ok(pass) => (pass, next),
                Err(state) => return came.page(state, next.as_deref(), check.as_deref(), true),
            }
        }
    };
    let mut answer = respond::empty(StatusCode::SEE_OTHER);
    let to = next.and_then(|next| HeaderValue::try_from(next).ok()).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(LOCATION, to);
    let max_age = pass.expires.map_or(regime.policy.session.limit, |end| end.since(now.wall));
    came.set_cookie(&mut answer, Kind::Pass, regime.keys.sign_pass(&pass).as_bytes(), max_age);
    answer
}

/// Whether a text is a code of the kind that people type, or was meant to be: staff passes are their own codes, and need no ticket.
fn is_typed(code: &str) -> bool {
    code.len() < TYPED_BYTES_MAX
}

/// Shorter than any pass.
const TYPED_BYTES_MAX: usize = 64;

/// What a text is the code of.
fn shown<'a>(regime: &Regime, code: &str, now: Now) -> Result<Shown, LandingState<'a>> {
    if let Ok(code) = Code::parse(code) {
        return Ok(Shown::Invited(code));
    }
    let pass = regime.keys.verify_pass(code.trim().as_bytes()).map_err(|_| LandingState::Invalid)?;
    // any other pass that is copied would be let in twice
    if pass.kind != PassKind::Staff {
        return Err(LandingState::Invalid);
    }
    match judge_pass(&pass, now, &regime.policy.session, &regime.policy.bypass, false) {
        Ok(_) => Ok(Shown::Minted(pass)),
        Err(Ended::Expired) => Err(LandingState::Expired),
        Err(Ended::Revoked) => Err(LandingState::Revoked),
    }
}

impl<'a> Came<'a> {
    fn new(peer: &'a Peer, regime: &'a Regime, parts: &Parts, code: &'a str, now: Now) -> Self {
        let (client, hash) = facts::counted_client(&peer.state, &parts.headers, regime);
        let ticket = facts::find_ticket(&cookies::find(&parts.headers), &peer.verified, regime, &peer.worker.shard);
        Self { peer, regime, client, hash, ticket, typed: if is_typed(code) { code } else { "" }, now }
    }

    /// The page asked for, and the proof that the link with it was ours.
    fn page_asked_for(&self, fields: &[u8], code: Code) -> Option<(String, String)> {
        let (next, check) = (field(fields, "next")?, field(fields, "check")?);
        let fits = is_local(&next) && proves(&check, self.regime.keys.page_check(code, &next));
        fits.then_some((next, check))
    }

    fn may_guess(&self) -> Result<(), LandingState<'static>> {
        let may = self.peer.worker.gate.may_guess(self.hash, self.now.mono);
        may.map_err(|wait| LandingState::TooMany { retry_s: respond::seconds(wait) })
    }

    /// What the ledger has said, for the visitor.
    fn told<'c, T>(&self, found: Result<T, NotOpen>, code: &'c str) -> Result<T, LandingState<'c>> {
        found.map_err(|why| match why {
            NotOpen::Ledger(NoEntry::Unknown) => {
                self.peer.worker.gate.guessed(self.hash, self.now.mono);
                LandingState::Invalid
            }
            NotOpen::Ledger(NoEntry::Expired) => LandingState::Expired,
            NotOpen::Ledger(NoEntry::Used) => LandingState::Used,
            NotOpen::Revoked => LandingState::Revoked,
            NotOpen::NoRoom => LandingState::NoRoom { code },
            NotOpen::Unavailable => LandingState::Unavailable { code },
        })
    }

    fn page(&self, state: LandingState<'_>, next: Option<&str>, check: Option<&str>, posted: bool) -> Answer {
        let Self { peer, regime, .. } = *self;
        let body = match regime.pages.landing(&LandingView { state, next, check, typed: self.typed }) {
            Ok(body) => body,
            Err(error) => return could_not_render(peer, regime, &error),
        };
        let code = state.status(posted);
        let mut answer = respond::html(code, body, regime.pages.content_security_policy(PageKind::Landing));
        refuses(&peer.worker, &mut answer, refusal(state).filter(|_| code != StatusCode::OK));
        let headers = answer.headers_mut();
        if let Some(retry_s) = state.retry_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_s));
            if let Some(again) = again(state, next, check, retry_s) {
                headers.insert(REFRESH, again);
            }
        }
        answer
    }

    /// A ticket, by which a lost answer can be asked for again.
    fn give_ticket(&self, answer: &mut Answer) {
        let Self { peer, regime, now, .. } = *self;
        if self.ticket.is_some() {
            return;
        }
        if let Some(ticket) = peer.worker.gate.ticket(regime, self.hash, peer.worker.entropy(), now) {
            let max_age = ticket_holds(regime.policy.waiting_room.refresh_max).max(REPEAT);
            self.set_cookie(answer, Kind::Ticket, regime.keys.sign_ticket(&ticket).as_bytes(), max_age);
        }
    }

    fn set_cookie(&self, answer: &mut Answer, kind: Kind, token: &[u8], max_age: Duration) {
        let attributes = Attributes { secure: self.client.scheme_https, domain: self.regime.policy.session.domain.as_deref(), max_age };
        answer.headers_mut().append(SET_COOKIE, cookies::set_cookie(kind, token, attributes));
    }
}

/// Why a page with this in it lets nobody in, unless it merely tells what is known of a code.
const fn refusal(state: LandingState<'_>) -> Option<(Refusal, HeaderValue)> {
    match state {
        LandingState::Ready { .. } | LandingState::Ask => None,
        LandingState::Invalid | LandingState::Expired | LandingState::Revoked | LandingState::Used => Some((Refusal::Code, status::CODE)),
        LandingState::NoRoom { .. } => Some((Refusal::NoRoom, status::NO_ROOM)),
        LandingState::TooMany { .. } => Some((Refusal::GuessRate, status::RATE)),
        LandingState::Unavailable { .. } => Some((Refusal::Storage, status::INTERNAL)),
    }
}

/// The page looks again by itself, without sending the form again.
fn again(state: LandingState<'_>, next: Option<&str>, check: Option<&str>, retry_s: u32) -> Option<HeaderValue> {
    let LandingState::NoRoom { code } = state else { return None };
    HeaderValue::try_from(format!("{retry_s}; url={}", landing_link(code, next.zip(check)))).ok()
}

/// A page that could not be made.
pub(super) fn could_not_render(peer: &Peer, regime: &Regime, error: &PageError) -> Answer {
    tracing::error!(%error, "a page of an invitation could not be rendered");
    peer.worker.shard.count(Count::Refused(Refusal::Internal));
    respond::failure(&regime.pages, FailureKind::Internal, Form::Page, status::INTERNAL)
}
