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

/// A draw, as it can be retold: it is won if `draw < probability × weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The keyed hash of ticket and epoch, in [0, 1). It tells nothing about the key, nor about any other draw.
    pub draw: f64,
    /// The odds of weight 1, as they stood when the ticket's epoch began.
    pub probability: f64,
    /// The weight of the ticket, as of then.
    pub weight: f64,
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
    /// Under `observe`, the request of one who would be inside: it would have found no slot in time.
    pub sheds: bool,
    /// A visitor's first request, as far as can be told: it came with neither a pass nor a ticket that holds.
    pub newcomer: bool,
    /// The draw, if there was one.
    pub drawn: Option<Drawn>,
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
            sheds: false,
            newcomer: false,
            drawn: None,
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
