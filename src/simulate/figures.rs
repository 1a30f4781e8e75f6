//! What a simulation has found: second by second, and summed up.

use serde::Serialize;

use super::invitations::Invited;
use super::pairs::Ahead;

/// One scenario, once.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Its name in the file.
    pub scenario: String,
    /// What it shows, in a sentence; may be empty.
    pub about: String,
    /// What the randomness came from.
    pub seed: u64,
    /// Whether the gate stood in front of the site.
    pub gate: bool,
    /// The part that the figures are of, in seconds from the start.
    pub from_s: u32,
    /// Its end.
    pub to_s: u32,
    /// The sums.
    pub figures: Figures,
    /// Second by second, from the start.
    pub seconds: Vec<Second>,
}

/// What happened in one second, and how things stood at its end.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Second {
    /// Good requests that the site could answer in this second.
    pub capacity: f64,
    /// Requests that visitors would have made in this second, had nobody ever waited.
    pub demand: f64,
    /// Good requests that could have been answered: no more than the capacity, nor than has been asked for by then, had nobody ever waited.
    pub could: f64,
    /// Requests answered well, and soon enough.
    pub good: u32,
    /// Requests answered well, but too late to be counted as good.
    pub late: u32,
    /// Requests that failed.
    pub failed: u32,
    /// Requests of those inside that found no slot in time.
    pub shed: u32,
    /// Newcomers admitted.
    pub admitted: u32,
    /// Waiting pages shown.
    pub diverted: u32,
    /// Invitations sent.
    pub invited: u32,
    /// Visitors in the middle of their visit.
    pub inside: u32,
    /// Visitors who wait to be let in.
    pub waiting: u32,
    /// Requests at the site.
    pub in_flight: u32,
    /// Requests that wait for a slot.
    pub queued: u32,
    /// Slots of the gate.
    pub slots: u32,
    /// The odds of a draw of weight 1; 1 without a gate.
    pub probability: f64,
    /// What the law takes for the capacity; 0 without a gate.
    pub measured: f64,
    /// Requests a second of those inside, as a share of what the site can do; 0 without a gate.
    pub load: f64,
    /// Under `observe`: how long a newcomer would wait, in seconds; infinite if the site can do nothing.
    pub would_wait_s: f64,
    /// The longest of 99 % of this second's answers, in seconds; none if there was no answer.
    pub p99_s: Option<f64>,
}

/// A run summed up over the part that is measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Good answers, as a share of what could have been answered.
    pub goodput: f64,
    /// Pages that came well within `good_within` of when their visitor first asked for them, as a share of the same: what was shed or has
    /// failed before is part of it, and the waiting room is not.
    pub in_time: f64,
    /// Latency of the answers to those inside, in seconds: of single requests, the wait for a slot included. One that was shed or has failed
    /// is asked for again by a request of its own.
    pub p50_s: f64,
    /// 95 % are not above it.
    pub p95_s: f64,
    /// 99 % are not above it.
    pub p99_s: f64,
    /// The worst five seconds' p99.
    pub worst_p99_s: f64,
    /// Visitors who were let in and left before their last page, because pages failed.
    pub sessions_failed: u32,
    /// Visitors who saw their last page.
    pub sessions_done: u32,
    /// Requests of those inside that found no slot in time.
    pub shed: u32,
    /// Waiting pages shown to visitors who were inside.
    pub diverted_inside: u32,
    /// Requests of those inside that came above the rate of a pass, and were answered with 429.
    pub too_often: u32,
    /// Visitors who were shown the waiting room.
    pub waited: u32,
    /// Under `observe`: visitors who would have been shown the waiting room at their first request.
    pub would_wait: u32,
    /// Visitors who left the waiting room without having been let in.
    pub gave_up: u32,
    /// Wait of those who were shown the waiting room and let in, in seconds.
    pub wait_p50_s: f64,
    /// 95 % did not wait longer.
    pub wait_p95_s: f64,
    /// 99 % did not wait longer.
    pub wait_p99_s: f64,
    /// The longest wait.
    pub wait_max_s: f64,
    /// Wait of 95 % over that of half, of those who kept their ticket, came in the same minute and waited: the median of the minutes with at
    /// least 100 of them; none if there was no such minute.
    pub wait_spread: Option<f64>,
    /// By how much someone who was let in before came later, at the most, in seconds: of those who kept their ticket.
    pub inversion_max_s: f64,
    /// By lot: the share of those who kept their ticket and got in within the time in which half were said to. Of what they were told when
    /// they were first given a figure, and of a sample of later times.
    pub told_half: Option<f64>,
    /// The same of the time in which nine of ten were said to.
    pub told_nine_of_ten: Option<f64>,
    /// By order of arrival: by what share of the wait that came true the told one was off, for half of them.
    pub told_error_p50: Option<f64>,
    /// What reloading gains, if some visitors were run twice.
    pub reloaders_ahead: Option<Ahead>,
    /// What throwing tickets away gains, if some visitors were run twice.
    pub churners_ahead: Option<Ahead>,
    /// What became of the invitations, if there were any.
    pub invited: Option<Invited>,
    /// From the first second of the measured part to the first waiting page; none if there was none.
    pub limiting_after_s: Option<f64>,
}
