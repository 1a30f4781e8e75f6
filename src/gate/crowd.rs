//! How many tickets drew in the last epoch, and what they weigh together: each is counted once an epoch, by a bitmap over ids and not
//! by what its cookie says, so that a replayed old cookie does not inflate the count. No memory of any visitor but a bit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rules::draw::Epoch;
use crate::rules::time::{Moment, UnixTime};

/// Bits of one bitmap: 100,000 tickets fall on a bit already set in 1 of 100 cases, a million in 1 of 16.
const BITS: u64 = 1 << 23;

/// Tickets are in at most two epochs at a time, since phases differ by less than one; the third map is the next one, and empty.
const MAPS: u64 = 3;

/// A weight of 1, in the fixed point of the shared sum.
const UNIT: f64 = 1024.0;

/// The crowd as counted by all workers.
#[derive(Debug)]
pub(super) struct Crowd {
    maps: Vec<Vec<AtomicU64>>,
    weights: AtomicU64,
    tickets: AtomicU64,
}

impl Crowd {
    pub(super) fn new() -> Self {
        let map = || (0..BITS / 64).map(|_| AtomicU64::new(0)).collect();
        Self { maps: (0..MAPS).map(|_| map()).collect(), weights: AtomicU64::new(0), tickets: AtomicU64::new(0) }
    }

    /// Counts a ticket, unless it has been counted in this epoch.
    pub(super) fn count(&self, id: u64, epoch: Epoch, length: Duration, weight: f64) {
        let bit = mix(id) % BITS;
        let map = &self.maps[index(generation(epoch.began, length))];
        let word = &map[usize::try_from(bit / 64).unwrap_or(0)];
        let mask = 1 << (bit % 64);
        if word.load(Ordering::Relaxed) & mask != 0 || word.fetch_or(mask, Ordering::Relaxed) & mask != 0 {
            return;
        }
        self.weights.fetch_add(fixed(weight), Ordering::Relaxed);
        self.tickets.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> (f64, u64) {
        #[expect(clippy::cast_precision_loss, reason = "a sum of weights of one tick")]
        let weights = self.weights.swap(0, Ordering::Relaxed) as f64 / UNIT;
        (weights, self.tickets.swap(0, Ordering::Relaxed))
    }

    fn clear(&self, map: u64) {
        for word in &self.maps[index(map)] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The sums of the last epoch, tick by tick. The ticker's own.
#[derive(Debug, Default)]
pub(super) struct Sums {
    ticks: VecDeque<(Moment, f64, u64)>,
    cleared: Option<(u64, Duration)>,
}

impl Sums {
    /// Takes in one tick. Returns the weights and the number of the tickets that drew in the last epoch.
    pub(super) fn tick(&mut self, crowd: &Crowd, length: Duration, mono: Moment, wall: UnixTime) -> (f64, f64) {
        let (weights, tickets) = crowd.take();
        self.ticks.push_back((mono, weights, tickets));
        while self.ticks.front().is_some_and(|&(time, ..)| mono.since(time) >= length) {
            self.ticks.pop_front();
        }
        self.make_room(crowd, length, wall);
        #[expect(clippy::cast_precision_loss, reason = "a count of tickets")]
        let sum = self.ticks.iter().fold((0.0, 0.0), |sum, &(_, w, t)| (sum.0 + w, sum.1 + t as f64));
        sum
    }

    /// Empties the map of the next epoch before anyone is in it.
    fn make_room(&mut self, crowd: &Crowd, length: Duration, wall: UnixTime) {
        let current = generation(wall, length);
        match self.cleared {
            Some((cleared, same)) if same == length && cleared == current + 1 => return,
            // the usual step to the next epoch
            Some((cleared, same)) if same == length && cleared == current => crowd.clear(current + 1),
            // the first tick: what is in the maps was counted just now, and would be counted again
            None => {}
            // a new length, or a jump of the clock: nothing that was counted names an epoch of now
            Some(_) => (0..MAPS).for_each(|map| crowd.clear(map)),
        }
        self.cleared = Some((current + 1, length));
    }
}

fn generation(time: UnixTime, length: Duration) -> u64 {
    time.as_millis() / u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn index(map: u64) -> usize {
    usize::try_from(map % MAPS).unwrap_or(0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "weights are small and positive; `as` saturates")]
fn fixed(weight: f64) -> u64 {
    (weight * UNIT) as u64
}

/// Ids are random but chosen by who signs them; the mix keeps the shard and the bit apart (splitmix64's finaliser).
const fn mix(id: u64) -> u64 {
    let mut z = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Duration = Duration::from_secs(10);

    fn wall(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_700_000_000 + secs)
    }

    #[test]
    fn a_ticket_counts_once_an_epoch_however_often_it_is_shown() {
        let crowd = Crowd::new();
        let mut sums = Sums::default();
        sums.tick(&crowd, E, Moment::from_secs(0), wall(0));
        for _ in 0..50 {
            for id in 0..1000 {
                crowd.count(id, Epoch::of(wall(1), E, id * 7), E, 2.0);
            }
        }
        let (weights, tickets) = sums.tick(&crowd, E, Moment::from_secs(1), wall(1));
        assert!((tickets - 1000.0).abs() < 1.0 && (weights - 2000.0).abs() < 2.0, "{tickets} {weights}");
    }

    #[test]
    fn the_first_tick_forgets_nobody() {
        let crowd = Crowd::new();
        let mut sums = Sums::default();
        for tick in 0..2 {
            crowd.count(7, Epoch::of(wall(1), E, 0), E, 1.0);
            let (_, tickets) = sums.tick(&crowd, E, Moment::from_secs(tick), wall(1));
            assert!((tickets - 1.0).abs() < 1e-9, "{tickets}");
        }
    }

    #[test]
    fn over_many_epochs_the_count_is_that_of_one() {
        let crowd = Crowd::new();
        let mut sums = Sums::default();
        let mut last = (0.0, 0.0);
        for second in 0..65 {
            // each of 1000 tickets comes back every ten seconds, at its own second
            for id in (0..1000u64).filter(|id| id % 10 == second % 10) {
                crowd.count(id, Epoch::of(wall(second), E, id.wrapping_mul(0x9e37_79b9)), E, 1.0);
            }
            last = sums.tick(&crowd, E, Moment::from_secs(second), wall(second));
        }
        assert!((last.1 - 1000.0).abs() <= 10.0, "{last:?}");
    }

    #[test]
    fn a_new_length_starts_afresh() {
        let crowd = Crowd::new();
        let mut sums = Sums::default();
        sums.tick(&crowd, E, Moment::from_secs(0), wall(0));
        crowd.count(1, Epoch::of(wall(0), E, 0), E, 1.0);
        sums.tick(&crowd, E, Moment::from_secs(1), wall(1));
        let twenty = Duration::from_secs(20);
        sums.tick(&crowd, twenty, Moment::from_secs(2), wall(2));
        crowd.count(1, Epoch::of(wall(2), twenty, 0), twenty, 1.0);
        let (_, tickets) = sums.tick(&crowd, twenty, Moment::from_secs(3), wall(3));
        assert!((tickets - 2.0).abs() < 1e-9, "{tickets}");
    }
}
