//! Deadlines of many connections by one sweep a worker, instead of a timer a request: setting one is a store.
//!
//! A timer wheel costs an insertion and a removal a request on both sides, for deadlines of seconds that hardly ever fall due. The
//! sweep reads every connection ten times a second; a deadline falls due up to [`SWEEP`] late, and never early.
//!
//! Since all are seen here, this is also where those are found that do nothing, when others need their places.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::rules::time::Moment;

/// How often the deadlines are read.
pub const SWEEP: Duration = Duration::from_millis(100);

/// No deadline.
const NEVER: u64 = u64::MAX;

/// Not idle. The highest of numbers, so that it is never the oldest.
const BUSY: u64 = u64::MAX;

/// In the number of one that is idle: it is kept for as long as there are others. Below it, microseconds.
const KEPT: u64 = 1 << 63;

/// Idle for less, a connection stays: a page asks for its parts at once, and the first request of a new one may be on its way.
const IDLE_LEAST: Duration = Duration::from_secs(1);

/// How many connections are to go for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of those that are not kept.
    pub of_others: usize,
    /// In all, those that are kept among them if there must be.
    pub of_all: usize,
}

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
            waker: Mutex::new(None),
            idle: AtomicU64::new(BUSY),
            unwanted: AtomicBool::new(false),
        });
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&deadline));
        deadline
    }

    /// Fires what is due, and forgets connections that are gone. Returns how many are idle.
    pub fn sweep(&self, now: Moment) -> usize {
        let mut idle = 0;
        self.now.store(now.as_micros(), Ordering::Relaxed);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|weak| {
            let Some(deadline) = weak.upgrade() else { return false };
            if deadline.due.load(Ordering::Relaxed) <= now.as_micros() {
                deadline.fire();
            }
            idle += usize::from(deadline.idle.load(Ordering::Relaxed) != BUSY);
            true
        });
        idle
    }

    /// Wakes everybody, without anything falling due.
    pub fn wake_all(&self) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.iter().filter_map(Weak::upgrade).for_each(|deadline| deadline.wake());
    }

    /// Tells idle connections to go: those that are not kept before those that are, and of each the longest idle first. Those that were
    /// told before and are still there count as if they were told now. Returns how many were told.
    pub fn make_room(&self, now: Moment, wanted: Wanted) -> usize {
        let mut told_before = 0;
        let mut idle = Vec::new();
        for deadline in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            let since = deadline.idle.load(Ordering::Relaxed);
            if since == BUSY {
                continue;
            }
            if deadline.is_unwanted() {
                told_before += 1;
            } else if now.since(Moment::from_micros(since & !KEPT)) >= IDLE_LEAST {
                idle.push((since, idle.len(), deadline));
            }
        }
        let others = idle.iter().filter(|(since, ..)| since & KEPT == 0).count();
        let of_others = wanted.of_others.saturating_sub(told_before).min(others);
        let count = of_others.max(wanted.of_all.saturating_sub(told_before)).min(idle.len());
        if count > 0 && count < idle.len() {
            // of those of one tick, who came first
            idle.select_nth_unstable_by_key(count, |&(since, number, _)| (since, number));
        }
        for (.., deadline) in &idle[..count] {
            deadline.unwanted.store(true, Ordering::Relaxed);
            deadline.wake();
        }
        count
    }
}

/// The deadline of one connection.
#[derive(Debug)]
pub struct Deadline {
    now: Arc<AtomicU64>,
    due: AtomicU64,
    fired: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Since when its connection is idle, with [`KEPT`].
    idle: AtomicU64,
    unwanted: AtomicBool,
}

impl Deadline {
    /// Sets the deadline; the sweep's granularity is added so that it never falls due early.
    pub fn set(&self, after: Duration) {
        self.due.store(self.now().plus(after).plus(SWEEP).as_micros(), Ordering::Relaxed);
    }

    /// Whether there is one that has not fallen due.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.due.load(Ordering::Relaxed) != NEVER
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

    /// Its connection is idle from now on: nothing would be lost with it. `is_kept`: after all that are not.
    pub fn idles(&self, is_kept: bool) {
        let kept = if is_kept { KEPT } else { 0 };
        self.idle.store(self.now.load(Ordering::Relaxed) | kept, Ordering::Relaxed);
    }

    /// Its connection is not idle any more, whatever it was told.
    pub fn works(&self) {
        self.idle.store(BUSY, Ordering::Relaxed);
        self.unwanted.store(false, Ordering::Relaxed);
    }

    /// Whether its connection is idle, and to go for others.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
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
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            waker.wake();
        }
    }

    /// Whether it has fallen due.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Who is woken when it falls due: the task that owns the connection, until another one does.
    pub fn wakes(&self, waker: &Waker) {
        let mut woken = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !woken.as_ref().is_some_and(|woken| woken.will_wake(waker)) {
            *woken = Some(waker.clone());
        }
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

    /// Deadlines whose connections are idle since these seconds, and kept or not; then, in which order they are told to go.
    fn idle(connections: &[(u64, bool)]) -> (Deadlines, Vec<Arc<Deadline>>) {
        let deadlines = Deadlines::default();
        let watched = connections.iter().map(|&(since, is_kept)| {
            deadlines.sweep(Moment::from_secs(since));
            let deadline = deadlines.watch();
            deadline.idles(is_kept);
            deadline
        });
        let watched = watched.collect();
        (deadlines, watched)
    }

    fn told(watched: &[Arc<Deadline>]) -> Vec<usize> {
        (0..watched.len()).filter(|&number| watched[number].is_unwanted()).collect()
    }

    const fn wanted(of_others: usize, of_all: usize) -> Wanted {
        Wanted { of_others, of_all }
    }

    #[test]
    fn the_longest_idle_go_first_and_those_that_are_kept_last() {
        let (deadlines, watched) = idle(&[(5, false), (1, true), (3, false), (4, false), (2, true)]);
        let now = Moment::from_secs(10);
        assert_eq!((deadlines.make_room(now, wanted(1, 0)), told(&watched)), (1, vec![2]));
        assert_eq!((deadlines.make_room(now, wanted(2, 0)), told(&watched)), (1, vec![2, 3]), "one is on its way");
        assert_eq!((deadlines.make_room(now, wanted(5, 2)), told(&watched)), (1, vec![0, 2, 3]));
        assert_eq!((deadlines.make_room(now, wanted(0, 4)), told(&watched)), (1, vec![0, 1, 2, 3]));
        assert_eq!((deadlines.make_room(now, wanted(9, 9)), told(&watched)), (1, vec![0, 1, 2, 3, 4]));
        assert_eq!(deadlines.make_room(now, wanted(9, 9)), 0);
    }

    #[test]
    fn what_is_busy_or_has_just_been_stays() {
        let (deadlines, watched) = idle(&[(1, false), (2, false), (9, false)]);
        watched[0].works();
        drop(deadlines.watch());
        let never_idle = deadlines.watch();
        assert_eq!(deadlines.make_room(Moment::from_micros(9_900_000), wanted(9, 9)), 1);
        assert_eq!(told(&watched), [1]);
        watched[1].works();
        assert!(!watched[1].is_unwanted(), "its client has asked for something");
        assert!(!never_idle.is_unwanted());
    }
}
