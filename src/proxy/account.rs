//! The time that one client still has in one direction of its bytes: [`Patience`] has the rule, and this is where it is kept.
//!
//! Its clock is that of the deadlines, which is read ten times a second: what is spent within a tick is nothing, or the whole tick, and
//! as often one as the other. So there is one tick more than the rule has, once: one more for each turn would be all that a client needs
//! that takes a little in each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::deadlines::{Deadline, SWEEP};
use crate::rules::patience::Patience;
use crate::rules::time::Moment;

/// One account.
#[derive(Debug)]
pub(super) struct Account {
    /// What was left at `since`, or when it was last the client's turn; microseconds.
    left: AtomicU64,
    /// The client is waited for, and what it has done is reckoned up to here.
    since: AtomicU64,
}

/// Of `left`: all that there can be.
const FULL: u64 = u64::MAX;

/// Of `since`: it is not the client's turn.
const RESTS: u64 = u64::MAX;

impl Default for Account {
    fn default() -> Self {
        Self { left: AtomicU64::new(FULL), since: AtomicU64::new(RESTS) }
    }
}

impl Account {
    /// It is the client's turn, until `deadline`.
    pub(super) fn awaits(&self, deadline: &Deadline, patience: Patience) {
        let now = deadline.now();
        let left = self.settle(now, patience, 0);
        self.since.store(now.as_micros(), Ordering::Relaxed);
        set(deadline, left);
    }

    /// The client has moved so many bytes, in its turn or ahead of it.
    pub(super) fn moved(&self, bytes: u64, deadline: &Deadline, patience: Patience) {
        let left = self.settle(deadline.now(), patience, bytes);
        if self.is_awaiting() {
            set(deadline, left);
        }
    }

    /// It is not the client's turn any more. The deadline is the caller's to clear.
    pub(super) fn rests(&self, now: Moment, patience: Patience) {
        if self.is_awaiting() {
            self.settle(now, patience, 0);
            self.since.store(RESTS, Ordering::Relaxed);
        }
    }

    /// What comes next has nothing to do with what was.
    pub(super) fn renew(&self) {
        self.left.store(FULL, Ordering::Relaxed);
        self.since.store(RESTS, Ordering::Relaxed);
    }

    /// Nothing was spent of it: bytes earn nothing.
    pub(super) fn is_full(&self) -> bool {
        self.left.load(Ordering::Relaxed) == FULL && !self.is_awaiting()
    }

    pub(super) fn is_awaiting(&self) -> bool {
        self.since.load(Ordering::Relaxed) != RESTS
    }

    /// Reckons up to now.
    fn settle(&self, now: Moment, patience: Patience, bytes: u64) -> Duration {
        let patience = Patience { longest: patience.longest.saturating_add(SWEEP), ..patience };
        let since = self.since.load(Ordering::Relaxed);
        let waited = if since == RESTS { Duration::ZERO } else { now.since(Moment::from_micros(since)) };
        let left = patience.left(Duration::from_micros(self.left.load(Ordering::Relaxed)), waited, bytes);
        let is_all = left == patience.longest;
        let micros = if is_all { FULL } else { u64::try_from(left.as_micros()).unwrap_or(FULL) };
        self.left.store(micros, Ordering::Relaxed);
        if since != RESTS {
            self.since.store(now.as_micros(), Ordering::Relaxed);
        }
        left
    }
}

/// Until nothing is left. A deadline has a tick beyond what it is set to, which is in the account already.
fn set(deadline: &Deadline, left: Duration) {
    deadline.set(left.saturating_sub(SWEEP));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadlines::Deadlines;

    const USUAL: Patience = Patience { longest: Duration::from_secs(30), rate: 240 };

    /// Sweeps at each of these seconds in turn, doing so; the second at which it was due.
    fn due_at(seconds: impl Iterator<Item = u64>, act: impl Fn(&Account, &Deadline, u64)) -> Option<u64> {
        let (deadlines, account) = (Deadlines::default(), Account::default());
        let deadline = deadlines.watch();
        for second in seconds {
            deadlines.sweep(Moment::from_secs(second));
            if deadline.has_fired() {
                return Some(second);
            }
            act(&account, &deadline, second);
        }
        None
    }

    #[test]
    fn turns_are_added_up() {
        // awaited each second second, and a byte at the end of each
        let turns = |bytes| {
            due_at(0..1000, move |account, deadline, second| {
                if second % 2 == 0 {
                    account.awaits(deadline, USUAL);
                } else {
                    account.moved(bytes, deadline, USUAL);
                    account.rests(deadline.now(), USUAL);
                    deadline.clear();
                }
            })
        };
        assert_eq!(turns(1), Some(61), "thirty seconds of its turns, and a tick");
        assert_eq!(turns(240), None);
    }

    #[test]
    fn turns_of_a_tick_are_added_up_too() {
        // of who takes a little again and again, and is awaited in between
        let due_after = |bytes| {
            let (deadlines, account) = (Deadlines::default(), Account::default());
            let deadline = deadlines.watch();
            (0..10_000).find(|tick| {
                deadlines.sweep(Moment::from_micros(100_000 * tick));
                let is_due = deadline.has_fired();
                account.moved(bytes, &deadline, USUAL);
                account.rests(deadline.now(), USUAL);
                deadline.clear();
                account.awaits(&deadline, USUAL);
                is_due
            })
        };
        assert_eq!(due_after(0), Some(301), "thirty seconds, and a tick");
        assert_eq!(due_after(12), Some(601), "half of the rate");
        assert_eq!(due_after(24), None);
    }

    #[test]
    fn what_comes_ahead_of_a_turn_counts() {
        let due = due_at(0..1000, |account, deadline, second| match second % 10 {
            0 => account.moved(10 * 240, deadline, USUAL),
            1 => account.awaits(deadline, USUAL),
            9 => account.rests(deadline.now(), USUAL),
            _ => {}
        });
        assert_eq!(due, None);
    }

    #[test]
    fn a_renewed_account_is_full() {
        let deadlines = Deadlines::default();
        let (deadline, account) = (deadlines.watch(), Account::default());
        deadlines.sweep(Moment::from_secs(1));
        account.awaits(&deadline, USUAL);
        deadlines.sweep(Moment::from_secs(30));
        assert!(!account.is_full());
        account.renew();
        assert!(account.is_full());
        account.awaits(&deadline, USUAL);
        deadlines.sweep(Moment::from_secs(60));
        assert!(!deadline.has_fired());
        deadlines.sweep(Moment::from_secs(61));
        assert!(deadline.has_fired());
    }
}
