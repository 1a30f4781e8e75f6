//! A little memory for each of many keys: sharded, bounded, swept. For the rate of each pass and of each client prefix.
//!
//! Always holds: a shard has at most [`SHARD_MAX`] keys; what finds no place is let through unmeasured, since a full table must not
//! become a way to shut the gate for others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::rules::rate::Rate;
use crate::rules::time::Moment;
use crate::rules::uniform::Uniform;

/// Shards: many times the cores, so that two workers seldom meet at one lock.
const SHARDS: usize = 64;

/// Keys of one shard: a million in all, in about 64 MiB.
const SHARD_MAX: usize = 16_384;

/// What is remembered of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Theoretical arrival time of the rate.
    due: Moment,
    first: Moment,
    seen: Moment,
}

/// The table. Keys are already uniform: keyed hashes, or random ids.
#[derive(Debug)]
pub(super) struct Keyed {
    shards: Vec<Mutex<HashMap<u64, Entry, Uniform>>>,
}

impl Keyed {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// One event of a key, against its rate.
    ///
    /// # Errors
    /// How long until the next event conforms.
    pub(super) fn take(&self, key: u64, rate: Rate, now: Moment) -> Result<(), Duration> {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.get_mut(&key) {
            entry.seen = now;
            entry.due = rate.take(entry.due, now)?;
            return Ok(());
        }
        if shard.len() < SHARD_MAX {
            let due = rate.take(Moment::default(), now).unwrap_or(now);
            shard.insert(key, Entry { due, first: now, seen: now });
        }
        Ok(())
    }

    /// Forgets keys not seen for `keep`. Returns how many of those left have been seen more than once.
    pub(super) fn sweep(&self, keep: Duration, now: Moment) -> usize {
        let oldest = now.minus(keep);
        let mut returned = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, entry| now.since(entry.seen) < keep || entry.seen > oldest);
            returned += shard.values().filter(|entry| entry.seen > entry.first).count();
            if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
                shard.shrink_to_fit();
            }
        }
        returned
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Entry, Uniform>> {
        // the low bits choose the bucket within the map, so the shard is chosen by high ones
        &self.shards[usize::try_from(key >> 58).unwrap_or(0) % SHARDS]
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
        let rate = Rate::per_minute(RATE);
        for key in [1, 2, 3] {
            keyed.take(key, rate, at(10)).unwrap();
        }
        assert_eq!(keyed.sweep(Duration::from_secs(60), at(11)), 0, "no one has returned");
        keyed.take(2, rate, at(20)).unwrap();
        keyed.take(3, rate, at(100)).unwrap();
        assert_eq!(keyed.sweep(Duration::from_secs(60), at(69)), 2);
        assert_eq!(keyed.sweep(Duration::from_secs(60), at(110)), 1);
    }

    #[test]
    fn a_full_table_lets_through_unmeasured() {
        let keyed = Keyed::new();
        let rate = Rate::per_minute(1);
        for key in 0..SHARD_MAX as u64 + 10 {
            assert!(keyed.take(key, rate, at(1)).is_ok());
        }
        assert!(keyed.take(SHARD_MAX as u64 + 5, rate, at(1)).is_ok());
        assert!(keyed.take(5, rate, at(1)).is_err());
        let held: usize = keyed.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(held, SHARD_MAX);
    }
}
