//! Whether a server may be sent requests: passive outlier ejection by consecutive failures, and the way back through a probe and a trial.

use std::time::Duration;

use super::time::Moment;

/// Failures in a row that eject a server. Envoy's `consecutive_5xx` uses the same.
const FAILURES_MAX: u32 = 5;

/// The first ejection; each further one without a good answer between lasts twice as long.
const EJECTION: Duration = Duration::from_secs(1);

/// The longest ejection: a server that is back serves again within this and one probe.
const EJECTION_MAX: Duration = Duration::from_secs(16);

/// The health of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    failures: u32,
    ejections: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Up,
    Ejected {
        probe_at: Moment,
    },
    /// The probe connected: one request at a time until one is good.
    Trial,
}

/// How many requests a server may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// As many as it has slots.
    All,
    /// One at a time.
    One,
    /// None.
    None,
}

impl Health {
    /// What the server may be given.
    #[must_use]
    pub const fn takes(&self) -> Takes {
        match self.state {
            State::Up => Takes::All,
            State::Trial => Takes::One,
            State::Ejected { .. } => Takes::None,
        }
    }

    /// Whether it is in use.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// A request ended well. Returns whether the server is back by it.
    pub const fn good(&mut self) -> bool {
        let was_up = self.is_up();
        *self = Self { failures: 0, ejections: 0, state: State::Up };
        !was_up
    }

    /// A request failed (5xx, connect error, reset, timeout). Returns whether this ejects the server.
    pub fn bad(&mut self, now: Moment) -> bool {
        self.failures = self.failures.saturating_add(1);
        let ejects = match self.state {
            State::Up => self.failures >= FAILURES_MAX,
            State::Trial => true,
            State::Ejected { .. } => false,
        };
        if ejects {
            self.eject(now);
        }
        ejects
    }

    /// Whether it is time to try a connection to an ejected server.
    #[must_use]
    pub fn wants_probe(&self, now: Moment) -> bool {
        matches!(self.state, State::Ejected { probe_at } if now >= probe_at)
    }

    /// What the probe found.
    pub fn probed(&mut self, connected: bool, now: Moment) {
        if !matches!(self.state, State::Ejected { .. }) {
            return;
        }
        if connected {
            self.state = State::Trial;
        } else {
            self.eject(now);
        }
    }

    fn eject(&mut self, now: Moment) {
        let lasts = EJECTION.saturating_mul(1 << self.ejections.min(8)).min(EJECTION_MAX);
        self.ejections = self.ejections.saturating_add(1);
        self.state = State::Ejected { probe_at: now.plus(lasts) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_secs(secs)
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_good_answer_between_does_not() {
        let mut health = Health::default();
        for _ in 0..4 {
            assert!(!health.bad(at(1)));
        }
        assert!(!health.good(), "it was not gone");
        for _ in 0..4 {
            assert!(!health.bad(at(2)));
        }
        assert!(health.bad(at(2)));
        assert_eq!(health.takes(), Takes::None);
    }

    #[test]
    fn the_way_back_is_a_probe_then_a_trial() {
        let mut health = Health::default();
        for _ in 0..5 {
            health.bad(at(10));
        }
        assert!(!health.wants_probe(at(10)));
        assert!(health.wants_probe(at(11)));
        health.probed(true, at(11));
        assert_eq!(health.takes(), Takes::One);
        assert!(health.good());
        assert!(health.is_up());
        assert!(!health.good(), "it is back but once");
    }

    #[test]
    fn ejections_grow_to_a_bound_and_a_good_answer_resets_them() {
        let mut health = Health::default();
        for _ in 0..5 {
            health.bad(at(0));
        }
        let mut now = at(0);
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let start = now;
            while !health.wants_probe(now) {
                now = now.plus(Duration::from_millis(500));
            }
            lengths.push(now.since(start).as_secs());
            health.probed(false, now);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn a_failed_trial_ejects_again() {
        let mut health = Health::default();
        for _ in 0..5 {
            health.bad(at(0));
        }
        health.probed(true, at(1));
        assert!(health.bad(at(1)));
        assert!(!health.wants_probe(at(2)));
        assert!(health.wants_probe(at(3)));
    }
}
