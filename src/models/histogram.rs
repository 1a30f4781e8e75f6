//! Durations in buckets whose bounds grow by a twentieth, from a millisecond to twenty minutes: small enough for one a second.

use std::time::Duration;

/// How often which duration was seen. A quantile is within 2.5 % of the true one, or half a millisecond below a millisecond.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Grown to the longest duration seen.
    buckets: Vec<u32>,
    count: u64,
}

impl Histogram {
    /// Counts one duration.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and `as` saturates")]
    pub fn record(&mut self, duration: Duration) {
        let millis = (duration.as_secs_f64() * 1000.0).max(1.0);
        let bucket = ((millis.ln() / GROWTH.ln()) as usize).min(BUCKET_LAST);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count += 1;
    }

    /// Counts what the other one has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
    }

    /// How many durations were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The duration that this share (0 to 1) of all is not above, by nearest rank; none if nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.count as f64).ceil().max(1.0);
        let mut below = 0_u64;
        let bucket = self.buckets.iter().position(|&count| {
            below += u64::from(count);
            below as f64 >= rank
        })?;
        Some(Duration::from_secs_f64(GROWTH.powf(bucket as f64 + 0.5) / 1000.0))
    }
}

const GROWTH: f64 = 1.05;

/// Holds what is longer than 20 minutes: 1.05^287 ms.
const BUCKET_LAST: usize = 287;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::random::Random;

    #[test]
    fn quantiles_are_within_the_promised_error() {
        let mut random = Random::seeded(9);
        let mut histogram = Histogram::default();
        let mut durations: Vec<Duration> = (0..20_000).map(|_| Duration::from_secs_f64(random.log_normal(0.3, 3.0).max(0.001))).collect();
        for duration in &durations {
            histogram.record(*duration);
        }
        durations.sort_unstable();
        for (share, index) in [(0.01, 199), (0.5, 9_999), (0.95, 18_999), (0.99, 19_799), (1.0, 19_999)] {
            let (exact, told) = (durations[index].as_secs_f64(), histogram.quantile(share).unwrap().as_secs_f64());
            assert!((told / exact - 1.0).abs() < 0.025, "{share}: {told} for {exact}");
        }
    }

    #[test]
    fn the_extremes_are_kept() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert!(histogram.quantile(0.5).unwrap() < Duration::from_millis(2));
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(1200));
    }

    #[test]
    fn merging_is_counting_both() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_millis(10));
        two.record(Duration::from_secs(10));
        two.record(Duration::from_secs(10));
        one.merge(&two);
        assert_eq!(one.count(), 3);
        assert!(one.quantile(0.5).unwrap() > Duration::from_secs(9));
    }
}
