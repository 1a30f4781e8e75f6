//! Seeded randomness for the models: the same seed gives the same crowd. Not for secrets.
//!
//! SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014; the constants are Vigna's): eight bytes of
//! state for each visitor, every seed is a good one, and streams are independent enough for a crowd.

use std::time::Duration;

use crate::rules::uniform::unit;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// One of the many streams of a seed: each visitor has its own, so that one visitor's luck does not depend on another's pace.
    #[must_use]
    pub const fn stream(seed: u64, index: u64) -> Self {
        Self(mix(seed ^ mix(index.wrapping_add(GAMMA))))
    }

    /// Any 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// From 0 up to, but not, 1; in steps of 2^-53.
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// From 0 up to, but not, `bound`; 0 if `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// Exponentially distributed with mean 1: the gaps between the arrivals of a Poisson process of rate 1. At most 37.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Log-normally distributed; `variation` is the standard deviation as a share of the mean. The mean itself if that is 0.
    pub fn log_normal(&mut self, mean: f64, variation: f64) -> f64 {
        let sigma_squared = (variation * variation).ln_1p();
        mean * (self.normal() * sigma_squared.sqrt() - sigma_squared / 2.0).exp()
    }

    /// Geometrically distributed from 1 on; always 1 for a mean of 1 or less.
    pub fn geometric(&mut self, mean: f64) -> u32 {
        if mean <= 1.0 {
            return 1;
        }
        let tries = (1.0 - self.unit()).ln() / (-1.0 / mean).ln_1p();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 37 times the mean, and `as` saturates")]
        let tries = tries as u32;
        tries.saturating_add(1)
    }

    /// Box and Muller's transform. The second value of each pair is thrown away: the models draw too few to care.
    fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A length of time, as a person or a page takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Always the same.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
}

impl Span {
    /// One draw.
    pub fn draw(self, random: &mut Random) -> Duration {
        match self {
            Self::Fixed(length) => length,
            Self::Exponential(mean) => Duration::try_from_secs_f64(mean.as_secs_f64() * random.exponential()).unwrap_or(mean),
        }
    }
}

const fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_deviation(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let draws: Vec<f64> = (0..100_000).map(|_| draw()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn gives_the_published_sequence() {
        let mut random = Random::seeded(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn draws_have_the_moments_that_were_asked_for() {
        let mut random = Random::seeded(1);
        let (mean, deviation) = mean_and_deviation(|| random.exponential());
        assert!((mean - 1.0).abs() < 0.02 && (deviation - 1.0).abs() < 0.03, "{mean} {deviation}");
        let (mean, deviation) = mean_and_deviation(|| random.log_normal(0.08, 0.5));
        assert!((mean - 0.08).abs() < 0.001 && (deviation - 0.04).abs() < 0.002, "{mean} {deviation}");
        let (mean, deviation) = mean_and_deviation(|| f64::from(random.geometric(10.0)));
        assert!((mean - 10.0).abs() < 0.2 && (deviation - 90_f64.sqrt()).abs() < 0.3, "{mean} {deviation}");
    }

    #[test]
    fn no_variation_is_the_mean_itself() {
        assert!((Random::seeded(3).log_normal(0.08, 0.0) - 0.08).abs() < 1e-12);
        assert_eq!(Random::seeded(3).geometric(1.0), 1);
        assert_eq!(Random::seeded(3).below(0), 0);
    }

    #[test]
    fn bounded_draws_reach_every_value_and_no_other() {
        let mut random = Random::seeded(5);
        let mut seen = [0_u32; 6];
        for _ in 0..6000 {
            seen[usize::try_from(random.below(6)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(Random::stream(1, 0).bits(), Random::stream(1, 1).bits());
        assert_ne!(Random::stream(1, 0).bits(), Random::stream(2, 0).bits());
    }
}
