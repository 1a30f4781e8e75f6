//! The visitor's side of the email queue: the form on a page of its own, and what is posted.
//!
//! Always holds: an address is said to be taken only when it has been written down, and the answer does not tell whether it was there
//! before. Every address that is refused is counted, by its reason.

use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::exchange::{Exchange, Upload};
use super::facts;
use super::form::{self, field, is_local, is_own_origin, proves};
use super::handle::Peer;
use super::reserved::unread;
use super::respond::{self, Answer};
use crate::gate::Regime;
use crate::mail::{NotTaken, Posted};
use crate::metrics::{Count, EmailRefusal, Refusal};
use crate::page::{EmailState, EmailView, FormFields};
use crate::rules::decide::{judge_ticket, ticket_holds};
use crate::rules::email::Address;
use crate::rules::headers::cookies;
use crate::rules::negotiate::{self, Form};
use crate::rules::time::Now;
use crate::rules::token::{Ticket, VisitorId};

/// What the form carries for a visitor with this ticket.
pub(super) fn fields<'a>(regime: &Regime, ticket: VisitorId, next: &'a str) -> FormFields<'a> {
    FormFields { next, check: regime.keys.form_check(ticket, next) }
}

/// The page asked for, if it is one of this site and not too long to be kept; else the front page.
pub(super) fn page_asked_for(next: &str) -> &str {
    if next.len() <= NEXT_BYTES_MAX && is_local(next) { next } else { "/" }
}

/// The longest path and query that is kept with an address.
const NEXT_BYTES_MAX: usize = 1024;

/// The form, or after a post the thanks for it.
pub(super) fn ask(peer: &Peer, regime: &Regime, parts: &Parts, now: Now) -> Answer {
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let next = field(query, "next").unwrap_or_default();
    let next = page_asked_for(&next);
    let show = |state, fields| page(regime, state, fields, parts, now);
    // no address is refused with it
    let refuse = |state, refusal| {
        peer.worker.shard.count(Count::Refused(refusal));
        show(state, back_to(next))
    };
    if !regime.policy.email_queue.enabled {
        return refuse(EmailState::Disabled, Refusal::NotFound);
    }
    if field(query, "done").is_some() {
        return show(EmailState::Taken, back_to(next));
    }
    let Some(ticket) = unbroken_ticket(peer, regime, parts, now) else {
        return refuse(EmailState::NoTicket, Refusal::Ticket);
    };
    let given = fields(regime, ticket.id, next);
    // a link that somebody else has made leads to the form, and to no page that they have chosen
    let fits = field(query, "check").is_some_and(|check| proves(&check, given.check));
    show(EmailState::Asks, if fits { given } else { fields(regime, ticket.id, "/") })
}

/// Takes an address.
pub(super) async fn post(peer: &Peer, exchange: &Exchange, regime: &Regime, parts: &Parts, body: Option<Upload>, now: Now) -> Answer {
    let worker = &*peer.worker;
    let refuse = |state: EmailState<'_>, refusal, fields: FormFields<'_>| {
        worker.shard.count(Count::EmailRefused(refusal));
        page(regime, state, fields, parts, now)
    };
    let queue = regime.policy.email_queue;
    if !queue.enabled {
        return refuse(EmailState::Disabled, EmailRefusal::Disabled, back_to("/"));
    }
    if !is_own_origin(parts) {
        return refuse(EmailState::NotOurs, EmailRefusal::Origin, back_to("/"));
    }
    let (_, client) = facts::counted_client(&peer.state, &parts.headers, regime);
    if let Err(wait) = worker.gate.posts(regime, client, now.mono) {
        let retry_s = respond::seconds(wait);
        return refuse(EmailState::TooMany { retry_s }, EmailRefusal::ClientRate, back_to("/"));
    }
    let posted = match form::read(exchange, body).await {
        Ok(posted) => posted,
        Err(broken) => return unread(worker, exchange, regime, parts, broken),
    };
    let next = field(&posted, "next").unwrap_or_default();
    let next = page_asked_for(&next);
    let Some(ticket) = unbroken_ticket(peer, regime, parts, now) else {
        return refuse(EmailState::NoTicket, EmailRefusal::Ticket, back_to(next));
    };
    let given = fields(regime, ticket.id, next);
    if !field(&posted, "check").is_some_and(|check| proves(&check, given.check)) {
        return refuse(EmailState::NotOurs, EmailRefusal::Ticket, back_to(next));
    }
    let typed = field(&posted, "email").unwrap_or_default();
    let address = match Address::parse(&typed) {
        Ok(address) => address,
        Err(why) => return refuse(EmailState::Invalid { typed: &typed, why }, EmailRefusal::Address, given),
    };
    let language = negotiate::language(&parts.headers).map(str::to_owned);
    let posted = Posted { address, language, path: Some(next.to_owned()), ticket: ticket.id, client };
    match worker.mail.post(posted, queue.addresses_per_ticket).await {
        Ok(()) => {
            worker.shard.count(Count::EmailAccepted);
            taken(regime, next, parts, now)
        }
        Err(NotTaken::TicketFull) => refuse(EmailState::TicketFull, EmailRefusal::TicketRate, back_to(next)),
        Err(NotTaken::Unavailable) => refuse(EmailState::Unavailable { typed: &typed }, EmailRefusal::Storage, given),
    }
}

/// To the thanks, so that who reloads them does not post again.
fn taken(regime: &Regime, next: &str, parts: &Parts, now: Now) -> Answer {
    if negotiate::form(&parts.headers) != Form::Page {
        return page(regime, EmailState::Taken, back_to(next), parts, now);
    }
    let mut to = "/.tidegate/email?done&next=".to_owned();
    to.extend(form_urlencoded::byte_serialize(next.as_bytes()));
    let mut answer = respond::empty(StatusCode::SEE_OTHER);
    let to = HeaderValue::try_from(to).unwrap_or(HeaderValue::from_static("/.tidegate/email?done"));
    answer.headers_mut().insert(LOCATION, to);
    answer
}

fn unbroken_ticket(peer: &Peer, regime: &Regime, parts: &Parts, now: Now) -> Option<Ticket> {
    let ours = cookies::find(&parts.headers);
    let ticket = facts::find_ticket(&ours, &peer.verified, regime, &peer.worker.shard);
    ticket.filter(|ticket| judge_ticket(ticket, now, regime.refresh_max(now.mono)).is_ok())
}

/// Of a page without a form.
const fn back_to(next: &str) -> FormFields<'_> {
    FormFields { next, check: 0 }
}

fn page(regime: &Regime, state: EmailState<'_>, fields: FormFields<'_>, parts: &Parts, now: Now) -> Answer {
    let view = EmailView { state, fields, void_after: ticket_holds(regime.refresh_max(now.mono)) };
    respond::email(&regime.pages, &view, negotiate::form(&parts.headers))
}
