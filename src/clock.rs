//! The only room that reads a clock; a lint bans it elsewhere.
//!
//! Wall time is the wall clock at start moved on by the monotonic clock, so that a clock that is set while the gate runs ends nobody's
//! session. [`Clock::follow`], called by the ticker, takes over what the wall clock says: small differences silently, a jump
//! forward with [`Now::doubt`] so that an expiry that may be the jump's doing is decided for the visitor.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::rules::time::{Moment, Now, UnixTime};

/// A difference between the two clocks that is taken over silently: more than NTP slews in a second, less than anyone notices.
const DRIFT_MAX: Duration = Duration::from_millis(500);

/// How long a jump forward is held against expiries: as long as the longest session that it could have cut by default.
const DOUBT_KEPT: Duration = Duration::from_secs(4 * 3600);

/// The process's clock. Shared by every thread.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    /// Wall time of `origin`, milliseconds since 1970.
    wall_at_origin_ms: AtomicI64,
    doubt_ms: AtomicU64,
    doubt_until_ms: AtomicU64,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub fn start() -> Self {
        let wall = millis(SystemTime::now());
        Self {
            origin: Instant::now(),
            wall_at_origin_ms: AtomicI64::new(wall),
            doubt_ms: AtomicU64::new(0),
            doubt_until_ms: AtomicU64::new(0),
        }
    }

    /// Both clocks, by one system reading.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = self.elapsed();
        let doubt_ms = self.doubt_ms.load(Ordering::Relaxed);
        Now { mono: moment(elapsed), wall: UnixTime::from_millis(self.wall_ms(elapsed)), doubt: Duration::from_millis(doubt_ms) }
    }

    /// The monotonic clock alone.
    #[must_use]
    pub fn moment(&self) -> Moment {
        moment(self.elapsed())
    }

    /// Takes over what the wall clock says. Returns by how many milliseconds it has jumped, if it has.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    pub fn follow(&self) -> Option<i64> {
        self.follow_wall(millis(SystemTime::now()))
    }

    fn follow_wall(&self, wall_ms: i64) -> Option<i64> {
        let elapsed = self.elapsed();
        let ours = i64::try_from(self.wall_ms(elapsed)).unwrap_or(i64::MAX);
        let ahead = wall_ms.saturating_sub(ours);
        self.wall_at_origin_ms.fetch_add(ahead, Ordering::Relaxed);
        let elapsed_ms = whole_millis(elapsed);
        if elapsed_ms >= self.doubt_until_ms.load(Ordering::Relaxed) {
            self.doubt_ms.store(0, Ordering::Relaxed);
        }
        if u128::from(ahead.unsigned_abs()) <= DRIFT_MAX.as_millis() {
            return None;
        }
        if let Ok(forward) = u64::try_from(ahead) {
            self.doubt_ms.fetch_add(forward, Ordering::Relaxed);
            self.doubt_until_ms.store(elapsed_ms + whole_millis(DOUBT_KEPT), Ordering::Relaxed);
        }
        Some(ahead)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
    fn elapsed(&self) -> Duration {
        Instant::now().duration_since(self.origin)
    }

    fn wall_ms(&self, elapsed: Duration) -> u64 {
        let origin = self.wall_at_origin_ms.load(Ordering::Relaxed);
        u64::try_from(origin).unwrap_or(0) + whole_millis(elapsed)
    }
}

fn moment(elapsed: Duration) -> Moment {
    Moment::default().plus(elapsed)
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis(time: SystemTime) -> i64 {
    // a wall clock before 1970 is a machine without one: count from 1970, and follow when it is set
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_forward_is_followed_and_put_in_doubt() {
        let clock = Clock::start();
        let before = clock.now().wall;
        let target = i64::try_from(before.as_millis()).unwrap() + 3_600_000;
        let jumped = clock.follow_wall(target).unwrap();
        assert!((3_599_000..=3_600_000).contains(&jumped), "{jumped}");
        let now = clock.now();
        assert!(now.wall.since(before) >= Duration::from_secs(3599));
        assert!(now.doubt >= Duration::from_secs(3599));
    }

    #[test]
    fn a_jump_back_leaves_no_doubt() {
        let clock = Clock::start();
        let before = clock.now().wall;
        let target = i64::try_from(before.as_millis()).unwrap() - 3_600_000;
        assert!(clock.follow_wall(target).unwrap() < -3_590_000);
        assert_eq!(clock.now().doubt, Duration::ZERO);
    }

    #[test]
    fn drift_is_followed_silently() {
        let clock = Clock::start();
        let target = i64::try_from(clock.now().wall.as_millis()).unwrap() + 100;
        assert_eq!(clock.follow_wall(target), None);
        assert_eq!(clock.now().doubt, Duration::ZERO);
    }
}
