//! How many tickets drew in the last epoch, and what they weigh together: each is counted once an epoch, by a bitmap over ids and not
//! by what its cookie says, so that a replayed old cookie does not inflate the count. No memory of any visitor but a bit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::window::Window;
use crate::rules::draw::Epoch;
use crate::rules::time::UnixTime;

/// Bits of one bitmap: 100,000 tickets fall on a bit already set in 1 of 100 cases, a million in 1 of 16.
const BITS: u64 = 1 << 23;

/// Tickets are in at most two epochs at a time, since phases differ by less than one; the third map is the next one, and empty.
const MAPS: u64 = 3;

/// Bits for those who have won and wait for a token: each is counted once a tick, however often it asks. More than 65,536 of them
/// would count for too few, when there is nothing left to draw for anyway.
const HELD_BITS: u64 = 1 << 16;

/// A weight of 1, in the fixed point of the shared sum.
const UNIT: f64 = 1024.0;

/// The crowd as counted by all workers.
#[derive(Debug)]
pub(super) struct Crowd {
    maps: Vec<Bits>,
    held: Bits,
    weights: AtomicU64,
    squares: AtomicU64,
    tickets: AtomicU64,
    returned: AtomicU64,
}

/// A set of ids, by one bit of a hash of each.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    fn new(bits: u64) -> Self {
        Self((0..bits / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether the id was not there yet; it is now.
    fn insert(&self, id: u64) -> bool {
        let hash = mix(id);
        let word = &self.0[usize::try_from(hash / 64).unwrap_or(0) % self.0.len()];
        let mask = 1 << (hash % 64);
        word.load(Ordering::Relaxed) & mask == 0 && word.fetch_or(mask, Ordering::Relaxed) & mask == 0
    }

    /// Empties it. Returns how many bits there were.
    fn clear(&self) -> u32 {
        self.0.iter().map(|word| if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Relaxed).count_ones() }).sum()
    }
}

impl Crowd {
    pub(super) fn new() -> Self {
        Self {
            maps: (0..MAPS).map(|_| Bits::new(BITS)).collect(),
            held: Bits::new(HELD_BITS),
            weights: AtomicU64::new(0),
            squares: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        }
    }

    /// Counts a ticket, unless it has been counted in this epoch. `returned`: it was issued before. Returns whether it had not been counted.
    pub(super) fn count(&self, id: u64, epoch: Epoch, length: Duration, weight: f64, returned: bool) -> bool {
        let first = self.maps[index(generation(epoch.began, length))].insert(id);
        if first {
            self.weights.fetch_add(fixed(weight), Ordering::Relaxed);
            self.squares.fetch_add(fixed(weight * weight), Ordering::Relaxed);
            self.tickets.fetch_add(1, Ordering::Relaxed);
            self.returned.fetch_add(u64::from(returned), Ordering::Relaxed);
        }
        first
    }

    /// Counts a ticket that has won and found no token, once a tick.
    pub(super) fn hold(&self, id: u64) {
        self.held.insert(id);
    }

    /// How many tickets were held in this tick.
    pub(super) fn take_held(&self) -> u32 {
        self.held.clear()
    }

    #[expect(clippy::cast_precision_loss, reason = "sums of one tick")]
    fn take(&self) -> Sum {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed) as f64;
        let (weights, squares) = (take(&self.weights) / UNIT, take(&self.squares) / UNIT);
        Sum { weights, squares, tickets: take(&self.tickets), returned: take(&self.returned) }
    }

    fn clear(&self, map: u64) {
        self.maps[index(map)].clear();
    }
}

/// The tickets of some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    /// What they weigh together.
    pub(super) weights: f64,
    /// The sum of the squares of their weights.
    pub(super) squares: f64,
    pub(super) tickets: f64,
    /// Tickets that have come back in an epoch after that in which they were issued: whoever throws tickets away and takes new ones is
    /// not the crowd that the refresh interval is made for.
    pub(super) returned: f64,
}

impl Sum {
    fn plus(self, other: Self, share: f64) -> Self {
        Self {
            weights: self.weights + other.weights * share,
            squares: self.squares + other.squares * share,
            tickets: self.tickets + other.tickets * share,
            returned: self.returned + other.returned * share,
        }
    }
}

/// The sums of the last epoch, tick by tick. The ticker's own.
#[derive(Debug)]
pub(super) struct Sums {
    ticks: Window<Sum>,
    cleared: Option<(u64, Duration)>,
}

impl Sums {
    /// Sums of a crowd that is empty yet.
    pub(super) fn new(length: Duration, wall: UnixTime) -> Self {
        Self { ticks: Window::default(), cleared: Some((generation(wall, length) + 1, length)) }
    }

    /// Takes in one tick. Returns the tickets that drew in the last epoch.
    pub(super) fn tick(&mut self, crowd: &Crowd, length: Duration, seconds: f64, wall: UnixTime) -> Sum {
        self.ticks.push(seconds, crowd.take(), length);
        self.make_room(crowd, length, wall);
        self.sum()
    }

    /// Epochs have another length from now on.
    pub(super) fn change_length(&mut self, crowd: &Crowd, length: Duration, wall: UnixTime) {
        let sum = self.sum();
        self.ticks.spread(length, |share| Sum::default().plus(sum, share));
        self.make_room(crowd, length, wall);
    }

    fn sum(&self) -> Sum {
        self.ticks.seen().fold(Sum::default(), |sum, &tick| sum.plus(tick, 1.0))
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
        let mut sums = Sums::new(E, wall(0));
        sums.tick(&crowd, E, 1.0, wall(0));
        for _ in 0..50 {
            for id in 0..1000 {
                crowd.count(id, Epoch::of(wall(1), E, id * 7), E, 2.0, true);
            }
        }
        let Sum { weights, tickets, .. } = sums.tick(&crowd, E, 1.0, wall(1));
        assert!((tickets - 1000.0).abs() < 1.0 && (weights - 2000.0).abs() < 2.0, "{tickets} {weights}");
    }

    #[test]
    fn the_first_tick_forgets_nobody() {
        let crowd = Crowd::new();
        let mut sums = Sums::new(E, wall(1));
        for _ in 0..2 {
            crowd.count(7, Epoch::of(wall(1), E, 0), E, 1.0, true);
            let Sum { tickets, .. } = sums.tick(&crowd, E, 1.0, wall(1));
            assert!((tickets - 1.0).abs() < 1e-9, "{tickets}");
        }
    }

    #[test]
    fn over_many_epochs_the_count_is_that_of_one() {
        let crowd = Crowd::new();
        let mut sums = Sums::new(E, wall(0));
        let mut last = Sum::default();
        for second in 0..65 {
            // each of 1000 tickets comes back every ten seconds, at its own second
            for id in (0..1000u64).filter(|id| id % 10 == second % 10) {
                crowd.count(id, Epoch::of(wall(second), E, id.wrapping_mul(0x9e37_79b9)), E, 1.0, second >= 10);
            }
            last = sums.tick(&crowd, E, 1.0, wall(second));
        }
        assert!((last.tickets - 1000.0).abs() <= 10.0 && (last.returned - last.tickets).abs() < 1e-9, "{last:?}");
    }

    #[test]
    fn a_new_length_keeps_the_crowd() {
        let crowd = Crowd::new();
        let mut sums = Sums::new(E, wall(0));
        for id in 0..1000 {
            crowd.count(id, Epoch::of(wall(0), E, id * 7), E, 2.0, true);
        }
        sums.tick(&crowd, E, 1.0, wall(0));
        let twenty = Duration::from_secs(20);
        sums.change_length(&crowd, twenty, wall(1));
        for second in 1..=5 {
            let Sum { weights, tickets, .. } = sums.tick(&crowd, twenty, 1.0, wall(second));
            let left = 1000.0 - 50.0 * f64::from(u32::try_from(second).unwrap());
            assert!((tickets - left).abs() < 1.0 && (weights - 2.0 * left).abs() < 2.0, "{second}: {weights} {tickets}");
        }
        crowd.count(1, Epoch::of(wall(2), twenty, 0), twenty, 1.0, true);
        let Sum { tickets, .. } = sums.tick(&crowd, twenty, 1.0, wall(6));
        assert!((tickets - 701.0).abs() < 1.0, "{tickets}");
    }

    #[test]
    fn a_late_tick_does_not_forget_the_crowd() {
        let crowd = Crowd::new();
        let mut sums = Sums::new(E, wall(0));
        for id in 0..1000 {
            crowd.count(id, Epoch::of(wall(0), E, id * 7), E, 1.0, true);
        }
        sums.tick(&crowd, E, 1.0, wall(1));
        assert!((sums.tick(&crowd, E, 60.0, wall(61)).tickets - 1000.0).abs() < 2.0);
    }

    #[test]
    fn who_is_held_counts_once_a_tick() {
        let crowd = Crowd::new();
        for _ in 0..100 {
            (0..10).for_each(|id| crowd.hold(id));
        }
        assert_eq!((crowd.take_held(), crowd.take_held()), (10, 0));
    }
}
