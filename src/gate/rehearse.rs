//! Mode `observe`: what is counted of those who are let through, and would not have been.

use std::sync::atomic::Ordering;

use super::{Control, Decision, Gate, Regime, Visit};
use crate::rules::controller::Reading;
use crate::rules::decide::Verdict;
use crate::rules::rehearsal::{Asked, Rehearsed};

impl Gate {
    /// Under `observe`, a visitor without a pass goes to the site whatever the verdict.
    pub(super) fn let_through(&self, worker: usize, visit: &Visit, decision: &mut Decision) {
        let seen = self.seen(worker);
        if decision.newcomer {
            seen.newcomers.fetch_add(1, Ordering::Relaxed);
        }
        // its answer tells what the site can do; but it is none of those whose requests leave no room for others
        if decision.verdict == Verdict::Wait && visit.signal {
            decision.counts = true;
            seen.outside.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Under `observe`, whether a request of one who would be inside would have found a slot in time.
    pub(super) fn rehearse_slot(&self, worker: usize, regime: &Regime, decision: &mut Decision) {
        if regime.observes() && regime.rehearsed.is_some_and(|rehearsed| rehearsed.sheds) {
            decision.sheds = true;
            self.seen(worker).sheds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Under `observe`: what would have come of holding back, as of this tick.
    pub(super) fn rehearse(&self, control: &mut Control, old: &Regime, reading: &Reading) -> Option<Rehearsed> {
        let (outside, sheds) = (self.drain(|seen| &seen.outside), self.drain(|seen| &seen.sheds));
        let newcomers = self.drain(|seen| &seen.newcomers);
        if !old.observes() {
            control.rehearsal.rest();
            return None;
        }
        let inside = reading.by_age.iter().fold(reading.returning, |sum, count| sum.saturating_add(*count));
        let asked = Asked {
            seconds: reading.seconds,
            inside: f64::from(inside.saturating_sub(sheds)),
            outside: f64::from(outside),
            newcomers: f64::from(newcomers),
        };
        Some(control.rehearsal.tick(&asked, old.law.requests, old.policy.upstream.queue.deadline))
    }
}
