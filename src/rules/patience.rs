//! How long a client is waited for that gives or takes its bytes slowly: an account of time, into which bytes pay.
//!
//! A deadline for each byte alone would let who sends one just before it hold a connection for ever. Here waiting spends time and each
//! byte earns 1/`rate` of a second, up to what a client has at first: who keeps the rate never runs out, whatever its pauses within
//! that; who drips is cut after about as long as one who does nothing. The time in which it is not the client's turn is not spent.
//! Kestrel judges by the same rate from a timer (`MinRequestBodyDataRate`), Apache by extending a deadline (`mod_reqtimeout`).

use std::time::Duration;

/// The terms on which clients are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// What there is at first, and at most.
    pub longest: Duration,
    /// Bytes a second. 0: any byte gives all of the time again.
    pub rate: usize,
}

impl Patience {
    /// What is left to a client that had `left` when it began to be waited for, was waited for `waited`, and has then moved `bytes`.
    #[must_use]
    pub fn left(self, left: Duration, waited: Duration, bytes: u64) -> Duration {
        let spent = left.min(self.longest).saturating_sub(waited);
        spent.saturating_add(self.earned(bytes)).min(self.longest)
    }

    fn earned(self, bytes: u64) -> Duration {
        match bytes.saturating_mul(MICROS).checked_div(self.rate as u64) {
            Some(micros) => Duration::from_micros(micros),
            None if bytes == 0 => Duration::ZERO,
            None => self.longest,
        }
    }
}

/// Of a second.
const MICROS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Patience = Patience { longest: Duration::from_secs(30), rate: 240 };

    /// When a client is cut that moves `bytes` every so many milliseconds, in seconds; none if it is not within a day.
    fn cut_s(patience: Patience, bytes: u64, every_ms: u64) -> Option<u64> {
        let every = Duration::from_millis(every_ms);
        let mut left = patience.longest;
        for number in 1..=86_400_000 / every_ms {
            if left < every {
                return Some((every_ms * (number - 1) + u64::try_from(left.as_millis()).unwrap()) / 1000);
            }
            left = patience.left(left, every, bytes);
        }
        None
    }

    #[test]
    fn who_does_nothing_has_the_whole_time_and_no_more() {
        assert_eq!(cut_s(USUAL, 0, 1000), Some(30));
        assert_eq!(USUAL.left(USUAL.longest, Duration::from_secs(31), 0), Duration::ZERO);
    }

    #[test]
    fn who_drips_is_cut_as_if_it_did_nothing() {
        // just before each deadline, each second, and a byte in each of many packets
        assert_eq!(cut_s(USUAL, 1, 29_000), Some(30));
        assert_eq!(cut_s(USUAL, 1, 1000), Some(30));
        assert_eq!(cut_s(USUAL, 1, 10), Some(51), "100 bytes a second");
    }

    #[test]
    fn who_keeps_the_rate_is_never_cut_and_may_pause() {
        assert_eq!(cut_s(USUAL, 500, 1000), None);
        assert_eq!(cut_s(USUAL, 240, 1000), None);
        assert_eq!(cut_s(USUAL, 29 * 240, 29_000), None, "in one piece of seven kilobytes each half minute");
        assert_eq!(cut_s(USUAL, 200, 1000), Some(174), "five sixths of it");
    }

    #[test]
    fn nothing_is_saved_up_beyond_the_whole_time() {
        assert_eq!(USUAL.left(Duration::from_secs(29), Duration::ZERO, 1 << 30), USUAL.longest);
        assert_eq!(
            USUAL.left(Duration::from_secs(3600), Duration::from_secs(1), 0),
            Duration::from_secs(29),
            "it was more before a reload"
        );
        assert_eq!(USUAL.left(Duration::from_secs(1), Duration::ZERO, u64::MAX), USUAL.longest);
    }

    #[test]
    fn without_a_rate_each_byte_gives_the_whole_time() {
        let any = Patience { rate: 0, ..USUAL };
        assert_eq!(cut_s(any, 1, 29_000), None);
        assert_eq!(cut_s(any, 0, 1000), Some(30));
    }
}
