//! Deadlines of many connections by one sweep a worker, instead of a timer a request: setting one is a store.
//!
//! A timer wheel costs an insertion and a removal a request on both sides, for deadlines of seconds that hardly ever fall due. The
//! sweep reads every connection ten times a second; a deadline falls due up to [`SWEEP`] late, and never early.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::rules::time::Moment;

/// How often the deadlines are read.
pub const SWEEP: Duration = Duration::from_millis(100);

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// Time of the last sweep, microseconds: near enough for deadlines, and read without a system call.
    now: Arc<AtomicU64>,
    watched: Mutex<Vec<Weak<Deadline>>>,
}

impl Deadlines {
    /// A deadline of one connection, not set yet.
    #[must_use]
    pub fn watch(&self) -> Arc<Deadline> {
        let deadline = Arc::new(Deadline {
            now: Arc::clone(&self.now),
            due: AtomicU64::new(NEVER),
            fired: AtomicBool::new(false),
            waker: OnceLock::new(),
        });
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&deadline));
        deadline
    }

    /// Fires what is due, and forgets connections that are gone.
    pub fn sweep(&self, now: Moment) {
        self.now.store(now.as_micros(), Ordering::Relaxed);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|weak| {
            let Some(deadline) = weak.upgrade() else { return false };
            if deadline.due.load(Ordering::Relaxed) <= now.as_micros() {
                deadline.fire();
            }
            true
        });
    }
}

/// The deadline of one connection.
#[derive(Debug)]
pub struct Deadline {
    now: Arc<AtomicU64>,
    due: AtomicU64,
    fired: AtomicBool,
    waker: OnceLock<Waker>,
}

impl Deadline {
    /// Sets the deadline; the sweep's granularity is added so that it never falls due early.
    pub fn set(&self, after: Duration) {
        self.due.store(self.now().plus(after).plus(SWEEP).as_micros(), Ordering::Relaxed);
    }

    /// The time of the last sweep.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::from_micros(self.now.load(Ordering::Relaxed))
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.due.store(NEVER, Ordering::Relaxed);
    }

    /// Makes it due now.
    pub fn fire(&self) {
        self.due.store(NEVER, Ordering::Relaxed);
        self.fired.store(true, Ordering::Release);
        self.wake();
    }

    /// Lets it fall due once more.
    pub fn rearm(&self) {
        self.fired.store(false, Ordering::Release);
    }

    /// Wakes who it would wake, without falling due.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Whether it has fallen due.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Who is woken when it falls due: the task that owns the connection. The first waker stays, as a task has the same one for life.
    pub fn wakes(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_falls_due_once_and_never_early() {
        let deadlines = Deadlines::default();
        deadlines.sweep(Moment::from_secs(10));
        let deadline = deadlines.watch();
        deadline.set(Duration::from_secs(2));
        deadlines.sweep(Moment::from_secs(12));
        assert!(!deadline.has_fired(), "set between two sweeps, it has not lasted its time");
        deadlines.sweep(Moment::from_micros(12_100_000));
        assert!(deadline.has_fired());
    }

    #[test]
    fn a_cleared_deadline_never_falls_due() {
        let deadlines = Deadlines::default();
        let deadline = deadlines.watch();
        deadline.set(Duration::from_secs(1));
        deadline.clear();
        deadlines.sweep(Moment::from_secs(100));
        assert!(!deadline.has_fired());
    }

    #[test]
    fn what_is_armed_again_falls_due_again_and_not_before() {
        let deadlines = Deadlines::default();
        let deadline = deadlines.watch();
        deadline.set(Duration::from_secs(1));
        deadlines.sweep(Moment::from_secs(2));
        assert!(deadline.has_fired());
        deadline.rearm();
        deadlines.sweep(Moment::from_secs(100));
        assert!(!deadline.has_fired(), "nothing was set");
        deadline.set(Duration::from_secs(1));
        deadlines.sweep(Moment::from_secs(102));
        assert!(deadline.has_fired());
    }

    #[test]
    fn connections_that_are_gone_are_forgotten() {
        let deadlines = Deadlines::default();
        drop(deadlines.watch());
        let kept = deadlines.watch();
        deadlines.sweep(Moment::from_secs(1));
        assert_eq!(deadlines.watched.lock().unwrap().len(), 1);
        drop(kept);
    }
}
