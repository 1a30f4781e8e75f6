//! What happens next in virtual time: a wheel of short buckets for the next minute, and a heap for what is later. Millions of polls are
//! due seconds ahead: in one heap each would be compared with its neighbours twenty times.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Microseconds since the start.
pub(super) type Micros = u64;

/// Width of a bucket: short enough to hold few events, and long enough that few are empty.
const BUCKET: Micros = 8192;

/// The wheel reaches this many buckets ahead: 67 s.
const BUCKETS: u64 = 8192;

/// Events in the order of their time, and among those of one time in the order in which they were set.
#[derive(Debug)]
pub(super) struct Timeline<E> {
    /// Of the current bucket, and of any before it.
    near: BinaryHeap<Reverse<Entry<E>>>,
    wheel: Vec<Vec<Entry<E>>>,
    far: BinaryHeap<Reverse<Entry<E>>>,
    /// The bucket that `near` holds.
    current: u64,
    in_wheel: usize,
    order: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Micros,
    order: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<E> Timeline<E> {
    pub(super) fn new() -> Self {
        let wheel = (0..BUCKETS).map(|_| Vec::new()).collect();
        Self { near: BinaryHeap::new(), wheel, far: BinaryHeap::new(), current: 0, in_wheel: 0, order: 0 }
    }

    pub(super) fn set(&mut self, at: Micros, event: E) {
        let order = self.order;
        self.order += 1;
        let bucket = at / BUCKET;
        let entry = Entry { at, order, event };
        if bucket <= self.current {
            self.near.push(Reverse(entry));
        } else if bucket < self.current + BUCKETS {
            self.in_wheel += 1;
            self.slot(bucket).push(entry);
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// When the next event is; none if there is none.
    pub(super) fn next_at(&mut self) -> Option<Micros> {
        self.fill();
        self.near.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<(Micros, E)> {
        self.fill();
        self.near.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }

    /// Turns the wheel until there is something near.
    fn fill(&mut self) {
        while self.near.is_empty() {
            if self.in_wheel == 0 {
                // nothing for a minute: on to what is far
                let Some(Reverse(next)) = self.far.peek() else { return };
                self.current = next.at / BUCKET;
            } else {
                self.current += 1;
            }
            let bucket = self.current;
            let mut due = std::mem::take(self.slot(bucket));
            self.in_wheel -= due.len();
            self.near.extend(due.drain(..).map(Reverse));
            // its memory serves again
            *self.slot(bucket) = due;
            while let Some(Reverse(next)) = self.far.peek()
                && next.at / BUCKET < self.current + BUCKETS
                && let Some(Reverse(entry)) = self.far.pop()
            {
                let bucket = entry.at / BUCKET;
                if bucket <= self.current {
                    self.near.push(Reverse(entry));
                } else {
                    self.in_wheel += 1;
                    self.slot(bucket).push(entry);
                }
            }
        }
    }

    fn slot(&mut self, bucket: u64) -> &mut Vec<Entry<E>> {
        let slots = self.wheel.len();
        &mut self.wheel[usize::try_from(bucket).unwrap_or(0) % slots]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::random::Random;

    #[test]
    fn events_come_in_the_order_of_time_however_they_were_set() {
        let mut timeline = Timeline::new();
        let mut random = Random::seeded(1);
        let mut expected: Vec<(Micros, u64)> = Vec::new();
        let mut now = 0;
        let mut number = 0;
        let mut seen = Vec::new();
        for _ in 0..2000 {
            for _ in 0..random.below(4) {
                // now, soon, within the wheel, and far beyond it
                let range = [1, 5_000, 60_000_000, 400_000_000][usize::try_from(random.below(4)).unwrap()];
                let ahead = random.below(range);
                timeline.set(now + ahead, number);
                expected.push((now + ahead, number));
                number += 1;
            }
            if random.chance(0.6)
                && let Some((at, event)) = timeline.pop()
            {
                assert!(at >= now, "time does not go back");
                now = at;
                seen.push((at, event));
            }
        }
        while let Some(next) = timeline.next_at() {
            let (at, event) = timeline.pop().unwrap();
            assert_eq!(at, next);
            seen.push((at, event));
        }
        assert!(seen.is_sorted());
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}
