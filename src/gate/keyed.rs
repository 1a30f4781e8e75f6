//! A little memory for each of many keys: sharded, bounded, swept. For the rate of each pass and of each client prefix.
//!
//! Always holds: a shard has at most [`SHARD_MAX`] keys; what finds no place is let through unmeasured, since a full table must not
//! become a way to shut the gate for others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rules::rate::Rate;
use crate::rules::time::Moment;
use crate::rules::uniform::Uniform;

/// Shards: many times the cores, so that two workers seldom meet at one lock.
const SHARDS: usize = 64;

/// Keys of one shard: a million in all, in about 64 MiB.
const SHARD_MAX: usize = 16_384;

/// How long a pass that has not come back yet is remembered: clients without cookies never do, and must not fill the table.
const PENDING: Duration = Duration::from_secs(15);

/// What is remembered of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Theoretical arrival time of the rate.
    due: Moment,
    seen: Moment,
    /// It has been seen after it was admitted.
    returned: bool,
}

/// The table. Keys are already uniform: keyed hashes, or random ids.
#[derive(Debug)]
pub(super) struct Keyed {
    shards: Vec<Mutex<Shard>>,
}

type Shard = HashMap<u64, Entry, Uniform>;

impl Keyed {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// One event of a key, against its rate.
    ///
    /// # Errors
    /// How long until the next event conforms.
    pub(super) fn take(&self, key: u64, rate: Rate, now: Moment) -> Result<(), Duration> {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.get_mut(&key) {
            (entry.seen, entry.returned) = (now, true);
            entry.due = rate.take(entry.due, now)?;
            return Ok(());
        }
        if shard.len() < SHARD_MAX {
            let due = rate.take(Moment::default(), now).unwrap_or(now);
            shard.insert(key, Entry { due, seen: now, returned: true });
        }
        Ok(())
    }

    /// Whether an event of a key would conform to a rate.
    ///
    /// # Errors
    /// How long until it does.
    pub(super) fn would_take(&self, key: u64, rate: Rate, now: Moment) -> Result<(), Duration> {
        self.shard(key).get(&key).map_or(Ok(()), |entry| rate.take(entry.due, now).map(drop))
    }

    /// A key is admitted: known for a while, even if it does not come back.
    pub(super) fn admit(&self, key: u64, now: Moment) {
        let mut shard = self.shard(key);
        if shard.len() < SHARD_MAX {
            shard.entry(key).or_insert_with(|| Entry { due: Moment::default(), seen: now, returned: false });
        }
    }

    /// Whether a key is remembered.
    pub(super) fn knows(&self, key: u64) -> bool {
        self.shard(key).contains_key(&key)
    }

    /// Forgets keys not seen for `keep`, unless their rate is not forgiven yet: a short memory must not be a way around it. Returns how
    /// many of those seen since have come back after they were admitted.
    pub(super) fn sweep(&self, keep: Duration, now: Moment) -> usize {
        let mut returned = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, entry| {
                let keep = if entry.returned { keep } else { keep.min(PENDING) };
                now.since(entry.seen) < keep || entry.due > now
            });
            returned += shard.values().filter(|entry| entry.returned && now.since(entry.seen) < keep).count();
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
        }
        returned
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        // the low bits choose the bucket within the map, so the shard is chosen by high ones
        let shard = &self.shards[usize::try_from(key >> 58).unwrap_or(0) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 600;

    fn at(secs: u64) -> Moment {
        Moment::from_secs(secs)
    }

    #[test]
    fn each_key_has_its_own_rate() {
        let keyed = Keyed::new();
        let rate = Rate::per_minute(RATE);
        let passed = |key| (0..100).filter(|_| keyed.take(key, rate, at(1)).is_ok()).count();
        assert_eq!((passed(1), passed(2), passed(u64::MAX)), (60, 60, 60));
    }

    #[test]
    fn a_sweep_forgets_the_unseen_and_counts_those_who_returned() {
        let keyed = Keyed::new();
        let (rate, minute) = (Rate::per_minute(RATE), Duration::from_secs(60));
        for key in [1, 2, 3] {
            keyed.admit(key, at(10));
        }
        assert_eq!(keyed.sweep(minute, at(11)), 0, "no one has returned");
        keyed.take(2, rate, at(20)).unwrap();
        keyed.take(3, rate, at(20)).unwrap();
        assert_eq!(keyed.sweep(minute, at(24)), 2);
        assert!(keyed.knows(1) && !keyed.knows(4));
        assert_eq!(keyed.sweep(minute, at(25)), 2);
        assert!(!keyed.knows(1), "who does not come back is forgotten soon");
        keyed.take(3, rate, at(70)).unwrap();
        assert_eq!(keyed.sweep(minute, at(79)), 2);
        assert_eq!(keyed.sweep(minute, at(81)), 1);
    }

    #[test]
    fn a_short_memory_is_no_way_around_a_rate() {
        let keyed = Keyed::new();
        let rate = Rate::per_minute(1);
        keyed.take(1, rate, at(10)).unwrap();
        for second in 11..70 {
            keyed.sweep(Duration::from_secs(1), at(second));
            assert!(keyed.take(1, rate, at(second)).is_err(), "{second}");
        }
        assert!(keyed.take(1, rate, at(70)).is_ok());
    }

    #[test]
    fn a_full_table_lets_through_unmeasured() {
        let keyed = Keyed::new();
        let rate = Rate::per_minute(1);
        // of one shard, and otherwise uniform, as ids are
        let key = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 6;
        for index in 0..SHARD_MAX as u64 + 10 {
            assert!(keyed.take(key(index), rate, at(1)).is_ok());
        }
        assert!(keyed.take(key(SHARD_MAX as u64 + 5), rate, at(1)).is_ok());
        assert!(keyed.take(key(5), rate, at(1)).is_err());
        let held: usize = keyed.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(held, SHARD_MAX);
    }
}
