//! Points in time as plain numbers, so that a rule can be tested with literal times. Nothing here reads a clock: `clock.rs` does.

use std::time::Duration;

/// A point on the monotonic clock: microseconds since the process's clock was made. For durations within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment so many microseconds after the clock was made.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The moment so many whole seconds after the clock was made.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    /// Microseconds since the clock was made.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Seconds since the clock was made.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact to the microsecond for 285 years")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved later; sticks at the end of time.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This moment moved earlier; sticks at zero.
    #[must_use]
    pub const fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

/// A point on the wall clock: milliseconds since 1970-01-01T00:00:00Z. For what must hold across restarts and machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// From milliseconds since 1970.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since 1970.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero if `earlier` is later, so that a clock set back makes nothing old.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time moved later; sticks at the end of time.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration) / 1000))
    }

    /// This time moved earlier; sticks at 1970.
    #[must_use]
    pub const fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration) / 1000))
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Moment,
    /// The wall clock.
    pub wall: UnixTime,
    /// How far the wall clock has recently jumped forward: an expiry that falls within it is in doubt, and is decided for the visitor.
    pub doubt: Duration,
}

#[expect(clippy::cast_possible_truncation, reason = "saturates above the range of u64")]
const fn micros(duration: Duration) -> u64 {
    let micros = duration.as_micros();
    if micros > u64::MAX as u128 { u64::MAX } else { micros as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_between_moments_never_go_below_zero() {
        let early = Moment::from_secs(1);
        let late = Moment::from_secs(3);
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn moving_sticks_at_both_ends() {
        assert_eq!(Moment::from_secs(1).minus(Duration::from_secs(5)), Moment::default());
        assert_eq!(Moment::from_secs(1).plus(Duration::MAX), Moment::from_micros(u64::MAX));
        assert_eq!(UnixTime::from_secs(1).minus(Duration::from_secs(5)), UnixTime::default());
    }
}
