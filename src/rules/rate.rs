//! A rate limit for one key in one number: the generic cell rate algorithm (ITU-T I.371), in its virtual scheduling form.

use std::time::Duration;

use super::time::Moment;

/// So many events a minute, and as many at once as a tenth of a minute holds (at least `BURST_MIN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    tolerance: Duration,
}

/// The least burst: a page with its sub-requests comes at once, however low the rate.
const BURST_MIN: u32 = 20;

impl Rate {
    /// A rate of `events` a minute; at least one.
    #[must_use]
    pub fn per_minute(events: u32) -> Self {
        let events = events.max(1);
        let interval = Duration::from_secs(60) / events;
        Self { interval, tolerance: interval * (events / 10).max(BURST_MIN.min(events)) }
    }

    /// One event at `now`, for a key whose theoretical arrival time was `due`: the new arrival time, or how long to wait.
    ///
    /// # Errors
    /// The time until the next event conforms.
    pub fn take(self, due: Moment, now: Moment) -> Result<Moment, Duration> {
        let next = due.max(now).plus(self.interval);
        let earliest = next.minus(self.tolerance);
        if earliest > now { Err(earliest.since(now)) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rate: Rate, times_ms: impl Iterator<Item = u64>) -> usize {
        let mut due = Moment::default();
        times_ms
            .filter(|&ms| match rate.take(due, Moment::from_micros(ms * 1000)) {
                Ok(next) => {
                    due = next;
                    true
                }
                Err(_) => false,
            })
            .count()
    }

    #[test]
    fn a_burst_of_a_tenth_of_a_minute_passes_and_no_more() {
        assert_eq!(passed(Rate::per_minute(600), std::iter::repeat_n(1000, 500)), 60);
    }

    #[test]
    fn over_time_the_rate_holds() {
        // 100 a second asked for over 10 minutes, 10 a second allowed, and the first burst
        assert_eq!(passed(Rate::per_minute(600), (0..60_000).map(|i| i * 10)), 60 + 5999);
    }

    #[test]
    fn a_low_rate_lets_a_page_with_its_parts_through() {
        assert_eq!(passed(Rate::per_minute(30), std::iter::repeat_n(1000, 100)), 20);
        assert_eq!(passed(Rate::per_minute(3), std::iter::repeat_n(1000, 100)), 3);
    }

    #[test]
    fn a_refusal_says_how_long() {
        let rate = Rate::per_minute(60);
        let due = (0..20).fold(Moment::default(), |due, _| rate.take(due, Moment::default()).unwrap());
        assert_eq!(rate.take(due, Moment::default()), Err(Duration::from_secs(1)));
        assert!(rate.take(due, Moment::from_secs(1)).is_ok());
    }
}
