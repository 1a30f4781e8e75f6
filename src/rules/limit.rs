//! What keeps newcomers out: the one word behind a rate, for logs and for the operator.

use super::controller::Law;
use super::policy::Mode;

/// What keeps newcomers out now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// Nothing does.
    #[default]
    None,
    /// Those inside ask for nearly all that the site can do.
    Committed,
    /// More than the site can do waits for a slot already, and is worked off first.
    Queue,
    /// The site gives no good answers, and is only tried.
    Probe,
    /// The operator's mode, and no measurement.
    Mode,
}

impl Limit {
    /// What limits under this law, when draws are won with this probability.
    #[must_use]
    pub fn of(law: &Law, mode: Mode, probability: f64) -> Self {
        match mode {
            Mode::Closed | Mode::Fixed(_) => return Self::Mode,
            Mode::Open => return Self::None,
            Mode::Auto | Mode::Observe => {}
        }
        if probability >= 1.0 {
            return Self::None;
        }
        let entering = law.newcomers * law.requests_per_newcomer;
        let left = law.requests - law.committed;
        if law.capacity < ALIVE {
            Self::Probe
        } else if left - entering > entering.max(SOME_SHARE * law.requests) {
            Self::Queue
        } else {
            Self::Committed
        }
    }

    /// The word for it in logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Committed => "committed",
            Self::Queue => "queue",
            Self::Probe => "probe",
            Self::Mode => "mode",
        }
    }
}

/// Good answers a second below which a site is as good as dead.
const ALIVE: f64 = 0.1;

/// A queue that takes less than this share of what the site can do is the usual one, which keeps the site busy.
const SOME_SHARE: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Law = Law { capacity: 100.0, load: 0.95, committed: 92.0, newcomers: 8.0, requests_per_newcomer: 1.0, requests: 100.0 };

    fn limit(law: Law) -> Limit {
        Limit::of(&law, Mode::Auto, 0.2)
    }

    #[test]
    fn with_room_for_everyone_nothing_limits() {
        assert_eq!(Limit::of(&FULL, Mode::Observe, 1.0), Limit::None);
        assert_eq!(Limit::of(&FULL, Mode::Open, 1.0), Limit::None);
    }

    #[test]
    fn a_full_site_is_told_from_a_long_queue_and_from_a_dead_one() {
        assert_eq!(limit(FULL), Limit::Committed);
        assert_eq!(limit(Law { committed: 120.0, newcomers: 0.0, ..FULL }), Limit::Committed);
        assert_eq!(limit(Law { committed: 40.0, newcomers: 10.0, ..FULL }), Limit::Queue);
        assert_eq!(limit(Law { committed: 40.0, newcomers: 0.0, ..FULL }), Limit::Queue);
        assert_eq!(limit(Law { capacity: 0.0, requests: 0.0, newcomers: 0.2, ..FULL }), Limit::Probe);
    }

    #[test]
    fn the_operators_odds_are_no_measurement() {
        assert_eq!(Limit::of(&FULL, Mode::Closed, 0.0), Limit::Mode);
        assert_eq!(Limit::of(&FULL, Mode::Fixed(0.5), 0.5), Limit::Mode);
    }
}
