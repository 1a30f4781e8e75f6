//! The pass and the ticket that go with an answer.

use std::time::Duration;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use super::facts::Facts;
use crate::gate::{Decision, Regime};
use crate::rules::decide::ticket_holds;
use crate::rules::headers::PASS_HEADER;
use crate::rules::headers::cookies::{self, Attributes, Kind};
use crate::rules::time::UnixTime;
use crate::rules::token::{Pass, Ticket};

/// The pass and the ticket that were decided on, to be set with the answer.
pub(super) struct Tokens {
    pass: Option<Pass>,
    ticket: Option<Ticket>,
    pass_in_header: bool,
    secure: bool,
    now: UnixTime,
}

impl Tokens {
    pub(super) const fn of(facts: &Facts, decision: &Decision, now: UnixTime) -> Self {
        Self {
            pass: decision.set_pass,
            ticket: decision.set_ticket,
            pass_in_header: facts.pass_in_header,
            secure: facts.client.scheme_https,
            now,
        }
    }

    /// Sets them, and says whether there is one: then an answer of the site must be made private, or a cache hands one visitor's to
    /// another. What the gate composes is never kept.
    pub(super) fn set(&self, regime: &Regime, headers: &mut HeaderMap) -> bool {
        if let Some(pass) = self.pass {
            let token = regime.keys.sign_pass(&pass);
            if self.pass_in_header {
                if let Ok(value) = HeaderValue::from_bytes(token.as_bytes()) {
                    headers.insert(PASS_HEADER, value);
                }
            } else {
                // kept by the browser for as long as it could be revived by a form; the gate itself judges by the times within
                let max_age = regime.policy.session.limit.saturating_sub(self.now.since(pass.issued));
                headers.append(SET_COOKIE, cookies::set_cookie(Kind::Pass, token.as_bytes(), attributes(regime, self.secure, max_age)));
            }
        }
        if let Some(ticket) = self.ticket {
            headers.append(SET_COOKIE, ticket_cookie(regime, self.secure, &ticket));
        }
        self.pass.is_some() || self.ticket.is_some()
    }
}

/// The cookie that sets a ticket.
pub(super) fn ticket_cookie(regime: &Regime, secure: bool, ticket: &Ticket) -> HeaderValue {
    let max_age = ticket_holds(regime.policy.waiting_room.refresh_max);
    cookies::set_cookie(Kind::Ticket, regime.keys.sign_ticket(ticket).as_bytes(), attributes(regime, secure, max_age))
}

fn attributes(regime: &Regime, secure: bool, max_age: Duration) -> Attributes<'_> {
    Attributes { secure, domain: regime.policy.session.domain.as_deref(), max_age }
}
