//! What the ticker and `publish` remember from one to the next, and what the workers have seen in between.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::attending::LastEpoch;
use super::crowd::{Sum, Sums};
use super::standing::Pace;
use crate::rules::concurrency::Concurrency;
use crate::rules::controller::{AGES, Controller, Tokens};
use crate::rules::outlook::Crowd;
use crate::rules::pacing::Visits;
use crate::rules::policy::{Mode, Policy};
use crate::rules::rehearsal::Rehearsal;
use crate::rules::slots::Usage;
use crate::rules::time::{Moment, Now};

/// What a worker has seen, appended by its requests and read by the ticker. One a worker, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Seen {
    pub(super) good: AtomicU32,
    pub(super) answers: AtomicU32,
    pub(super) sent: AtomicU32,
    /// By how many ticks ago the visitor was admitted.
    pub(super) by_age: [AtomicU32; AGES],
    pub(super) returning: AtomicU32,
    /// Of these, requests of the invited and the staff.
    pub(super) bypass: AtomicU32,
    pub(super) admitted: AtomicU32,
    pub(super) turned_away: AtomicU32,
    /// Under `observe`: requests of those who would wait, of those inside that would have been shed, and newcomers.
    pub(super) outside: AtomicU32,
    pub(super) sheds: AtomicU32,
    pub(super) newcomers: AtomicU32,
}

impl Default for Seen {
    fn default() -> Self {
        let zero = || AtomicU32::new(0);
        Self {
            good: zero(),
            answers: zero(),
            sent: zero(),
            by_age: [const { AtomicU32::new(0) }; AGES],
            returning: zero(),
            bypass: zero(),
            admitted: zero(),
            turned_away: zero(),
            outside: zero(),
            sheds: zero(),
            newcomers: zero(),
        }
    }
}

/// The memory of the ticker and of `publish`; never touched by a request.
pub(super) struct Control {
    pub(super) controller: Controller,
    pub(super) concurrency: Concurrency,
    pub(super) tokens: Tokens,
    pub(super) sums: Sums,
    pub(super) last_epoch: LastEpoch,
    /// As last measured.
    pub(super) crowd: Crowd,
    /// Since when those who stood in a saved line have been coming back.
    pub(super) restored: Option<Moment>,
    pub(super) usage: Usage,
    pub(super) rehearsal: Rehearsal,
    pub(super) visits: Visits,
    pub(super) ticked: Moment,
    /// Since when epochs have another length than at the start.
    pub(super) stretched: Option<Moment>,
    /// When a newcomer was last turned away.
    pub(super) turned_away: Moment,
}

impl Control {
    /// Until everyone has come back at a new pace, the crowd is counted for more or less than it is.
    pub(super) fn is_settling(&self, epoch: Duration, now: Now) -> bool {
        self.stretched.is_some_and(|since| now.mono.since(since) < epoch * SETTLED_AFTER)
    }

    /// The crowd that draws, as it goes by and large.
    pub(super) fn measure(&mut self, sum: &Sum, tickets: f64, entering: f64, seconds: f64, epoch: Duration, now: Now) -> Crowd {
        let &Sum { weights, squares, .. } = sum;
        if self.is_settling(epoch, now) {
            self.crowd = Crowd { entering, epoch_s: epoch.as_secs_f64(), ..self.crowd.later(seconds) };
            return self.crowd;
        }
        let growth = (tickets - self.crowd.tickets) / seconds;
        let forgotten = 1.0 - (-seconds / GROWTH.as_secs_f64()).exp();
        let tickets_growth = self.crowd.tickets_growth + (growth - self.crowd.tickets_growth) * forgotten;
        self.crowd = Crowd { tickets, tickets_growth, weights, squares, entering, epoch_s: epoch.as_secs_f64() };
        self.crowd
    }

    pub(super) fn pace(&self, mode: Mode, held: f64, policy: &Policy, epoch: Duration, now: Now) -> Pace {
        // a crowd that stood in a saved line comes back as it was told to
        let returning = self.restored.is_some_and(|since| now.mono.since(since) < policy.waiting_room.refresh_max);
        Pace { mode, held, all_counted: !returning, epoch }
    }
}

/// The memory of how fast the crowd grows: a surge shows in it within seconds.
const GROWTH: Duration = Duration::from_secs(5);

/// So many epochs after their length has changed, the crowd is counted as it is again.
const SETTLED_AFTER: u32 = 2;
