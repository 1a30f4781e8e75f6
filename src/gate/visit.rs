//! A visit, and what becomes of it: what goes into a decision, and what comes out.

use std::time::Duration;

use crate::rules::decide::{Ended, Reason, Verdict};
use crate::rules::line::Place;
use crate::rules::outlook::Wait;
use crate::rules::token::{Pass, Ticket, VisitorId};

/// What the gate needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// The route is gated.
    pub gated: bool,
    /// The route's answers say something about the load.
    pub signal: bool,
    /// The genuine pass that came with it.
    pub pass: Option<Pass>,
    /// The genuine ticket that came with it.
    pub ticket: Option<Ticket>,
    /// The method is not safe (RFC 9110, 9.2.1).
    pub unsafe_method: bool,
    /// A navigation or an API call: the parts of a page get no tickets and draw none.
    pub may_draw: bool,
    /// Keyed hash of the client prefix.
    pub client: u64,
    /// A random number: the id of a new ticket.
    pub entropy: u64,
}

/// What becomes of a visit.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The mode is `observe`: the verdict is counted, and the request goes to the site whatever it is.
    pub observed: bool,
    /// A pass to be set with the answer.
    pub set_pass: Option<Pass>,
    /// A ticket to be set with the answer.
    pub set_ticket: Option<Ticket>,
    /// When a waiting visitor comes back.
    pub retry_after: Duration,
    /// How long it still waits, in a lottery.
    pub wait: Option<Wait>,
    /// How it stands in the line, if there is one.
    pub place: Option<Place>,
    /// The pass that asks for a slot.
    pub pass: Option<VisitorId>,
    /// How long a newcomer waited, if this lets it in.
    pub waited: Option<Duration>,
    /// The slot time and the outcome count.
    pub counts: bool,
    /// A pass that came and no longer holds.
    pub pass_ended: Option<Ended>,
    /// A ticket that came and no longer holds.
    pub ticket_void: bool,
    /// The pass has asked too often: 429, and when to come back.
    pub too_often: Option<Duration>,
}

impl Decision {
    pub(super) const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self {
            verdict,
            reason,
            observed: false,
            set_pass: None,
            set_ticket: None,
            retry_after: Duration::ZERO,
            wait: None,
            place: None,
            pass: None,
            waited: None,
            counts: false,
            pass_ended: None,
            ticket_void: false,
            too_often: None,
        }
    }

    /// Whether the request goes to the site.
    #[must_use]
    pub const fn enters(&self) -> bool {
        self.observed || !matches!(self.verdict, Verdict::Wait | Verdict::Shed)
    }
}
