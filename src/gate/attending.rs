//! Who waits and attends, by position in the order of arrival: a histogram of the tickets that checked in during the last epoch and
//! did not enter. `crowd.rs` sees to it that a ticket counts once an epoch. It is kept in both orders, so that a change from one to the
//! other passes nobody over. No memory of any visitor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::window::Window;
use crate::rules::line::{Attending, Position};

/// Bins of the histogram: 45 hours of arrivals, in 512 KiB, so that a crowd is told apart also when the clock has jumped by a day. Who
/// came before counts with the oldest of them.
const BINS: u64 = 1 << 17;

/// Bins ahead of now: a worker's clock is a moment ahead of the ticker's.
const AHEAD: u64 = 16;

/// One ticket, in the fixed point of the shared counts.
const UNIT: f64 = 256.0;

/// What the workers have counted since the last tick.
#[derive(Debug)]
pub(super) struct CheckedIn {
    bins: Vec<AtomicU32>,
    /// The oldest bin.
    first: AtomicU64,
}

impl CheckedIn {
    pub(super) fn new(now: Position) -> Self {
        Self { bins: (0..BINS).map(|_| AtomicU32::new(0)).collect(), first: AtomicU64::new(first(now)) }
    }

    /// Counts a ticket that checked in and waits on. `share`: the part of an epoch for which it counts.
    pub(super) fn count(&self, position: Position, share: f64) {
        let first = self.first.load(Ordering::Relaxed);
        let bin = position.bin().clamp(first, first + BINS - 1);
        self.bins[index(bin)].fetch_add(fixed(share), Ordering::Relaxed);
    }

    /// What was counted, in the order of bins.
    fn take(&self, now: Position) -> Vec<(u64, f64)> {
        let old = self.first.swap(first(now), Ordering::Relaxed);
        let counts = (old..old + BINS).filter_map(|bin| {
            let count = &self.bins[index(bin)];
            let taken = if count.load(Ordering::Relaxed) == 0 { 0 } else { count.swap(0, Ordering::Relaxed) };
            (taken > 0).then(|| (bin, f64::from(taken) / UNIT))
        });
        counts.collect()
    }
}

/// The last epoch, tick by tick. The ticker's own.
#[derive(Debug, Default)]
pub(super) struct LastEpoch {
    ticks: Window<Tick>,
    sums: BTreeMap<u64, f64>,
}

#[derive(Debug)]
struct Tick {
    counts: Arc<[(u64, f64)]>,
    /// The part of the counts that stands for this tick.
    share: f64,
}

/// Less than this is what the addition of fractions leaves.
const NOBODY: f64 = 1e-6;

impl LastEpoch {
    /// Takes in one tick. Returns who attends, and in how many seconds they were counted.
    pub(super) fn tick(&mut self, checked_in: &CheckedIn, length: Duration, seconds: f64, now: Position) -> (Attending, f64) {
        let tick = Tick { counts: checked_in.take(now).into(), share: 1.0 };
        for (bin, count) in &*tick.counts {
            *self.sums.entry(*bin).or_default() += count;
        }
        for over in self.ticks.push(seconds, tick, length) {
            self.forget(&over);
        }
        (self.attending(), self.ticks.covered())
    }

    /// Epochs have another length from now on.
    pub(super) fn change_length(&mut self, length: Duration) {
        let counts: Arc<[(u64, f64)]> = self.sums.iter().map(|(&bin, &count)| (bin, count)).collect();
        self.ticks.spread(length, |share| Tick { counts: Arc::clone(&counts), share });
    }

    pub(super) fn attending(&self) -> Attending {
        Attending::new(self.sums.iter().map(|(&bin, &count)| (bin, count)))
    }

    fn forget(&mut self, tick: &Tick) {
        for (bin, count) in &*tick.counts {
            if let Some(sum) = self.sums.get_mut(bin) {
                *sum -= count * tick.share;
                if *sum < NOBODY {
                    self.sums.remove(bin);
                }
            }
        }
    }
}

fn first(now: Position) -> u64 {
    (now.bin() + AHEAD).saturating_sub(BINS)
}

fn index(bin: u64) -> usize {
    usize::try_from(bin % BINS).unwrap_or(0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of one")]
fn fixed(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * UNIT).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::time::UnixTime;

    const E: Duration = Duration::from_secs(10);

    fn position(secs: u64) -> Position {
        Position::at(UnixTime::from_secs(1_800_000_000 + secs))
    }

    #[test]
    fn over_many_epochs_each_who_attends_counts_once() {
        let checked_in = CheckedIn::new(position(1000));
        let mut last = LastEpoch::default();
        for second in 0..100 {
            // each of 100 comes back every ten seconds, those of the first half for half of the time only
            let here = (0..100u64).filter(|id| id % 10 == second % 10 && (*id >= 50 || second < 50));
            here.for_each(|id| checked_in.count(position(id), 1.0));
            let (attending, covered) = last.tick(&checked_in, E, 1.0, position(1000 + second));
            if second >= 10 {
                assert!((covered - 10.0).abs() < 0.6, "{covered}");
            }
            let expected = [(10..50, 100.0), (60..100, 50.0)].into_iter().find(|(seconds, _)| seconds.contains(&second));
            if let Some((_, expected)) = expected {
                assert!((attending.count() - expected).abs() < 0.1, "{second}: {}", attending.count());
                assert!((attending.ahead(position(50)) - (expected - 50.0)).abs() < 1.0, "{second}: {attending:?}");
            }
        }
    }

    #[test]
    fn a_new_length_keeps_everyone_in_place() {
        let checked_in = CheckedIn::new(position(100));
        let mut last = LastEpoch::default();
        (0..100).for_each(|id| checked_in.count(position(id), 1.0));
        last.tick(&checked_in, E, 1.0, position(100));
        let twenty = Duration::from_secs(20);
        last.change_length(twenty);
        let attending = last.attending();
        assert!((attending.count() - 100.0).abs() < 1e-6 && (attending.ahead(position(50)) - 50.0).abs() < 1.0, "{attending:?}");
        for second in 1..=20 {
            let (attending, covered) = last.tick(&checked_in, twenty, 1.0, position(100 + second));
            #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
            let expected = 100.0 - 5.0 * second as f64;
            assert!((attending.count() - expected).abs() < 1e-6 && (covered - 20.0).abs() < 1e-6, "{second}: {}", attending.count());
        }
        assert_eq!(last.attending(), Attending::default());
    }

    #[test]
    fn part_of_an_epoch_counts_for_part_of_a_ticket() {
        let checked_in = CheckedIn::new(position(0));
        (0..10).for_each(|_| checked_in.count(position(5), 0.25));
        let (attending, _) = LastEpoch::default().tick(&checked_in, E, 1.0, position(9));
        assert!((attending.count() - 2.5).abs() < 0.1, "{attending:?}");
    }

    #[test]
    fn what_is_out_of_range_counts_at_its_end() {
        let checked_in = CheckedIn::new(position(400_000));
        for at in [position(0), position(399_999), position(500_000)] {
            checked_in.count(at, 1.0);
        }
        let (attending, _) = LastEpoch::default().tick(&checked_in, E, 1.0, position(400_001));
        assert!((attending.count() - 3.0).abs() < 1e-9);
        assert!((attending.ahead(position(300_000)) - 1.0).abs() < 1e-9, "a day-old crowd is told apart, a week-old one is not");
        assert!((attending.ahead(position(400_000)) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_late_tick_forgets_nobody() {
        let checked_in = CheckedIn::new(position(0));
        let mut last = LastEpoch::default();
        checked_in.count(position(0), 1.0);
        last.tick(&checked_in, E, 1.0, position(1));
        assert!((last.tick(&checked_in, E, 60.0, position(61)).0.count() - 1.0).abs() < 1e-9);
    }
}
