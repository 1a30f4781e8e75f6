//! When a connection between two requests gives its buffers back.
//!
//! Any does when a sweep of the deadlines comes by and finds it with nothing to do. One that comes from a long rest does so straight after
//! its answer: who waits asks once in a minute, and the buffers of thousands, each kept for a moment, would leave the memory in pieces.

use std::time::Duration;

/// Who has rested for so long waits, and asks now and then. Who has not is reading.
const LONG: Duration = Duration::from_secs(2);

/// Requests on a connection since it came from a long rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Asked {
    /// None yet.
    Nothing,
    /// One: there may be no other for long.
    Once,
    /// More; or its rest was a short one.
    Often,
}

impl Asked {
    /// Of a connection that has rested for so long.
    #[must_use]
    pub fn after(rested: Duration) -> Self {
        if rested < LONG { Self::Often } else { Self::Nothing }
    }

    /// Of one that asks again.
    #[must_use]
    pub const fn again(self) -> Self {
        match self {
            Self::Nothing => Self::Once,
            Self::Once | Self::Often => Self::Often,
        }
    }

    /// That of this number.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Nothing,
            1 => Self::Once,
            _ => Self::Often,
        }
    }

    /// Whether it is time to rest, if there is nothing to do. `swept`: a sweep has come by since there was.
    #[must_use]
    pub const fn is_to_rest(self, swept: bool) -> bool {
        swept || matches!(self, Self::Once)
    }
}

/// What a connection has under way when all is read and written that there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a reason of its own")]
pub struct Standing {
    /// No byte of a request has come.
    pub idle: bool,
    /// The client has not taken all of an answer.
    pub stalled: bool,
    /// The last request had a body. What may be left of it must not be read as a request.
    pub had_body: bool,
    /// It is being closed.
    pub ending: bool,
}

impl Standing {
    /// Whether that is nothing at all.
    #[must_use]
    pub const fn is_nothing(self) -> bool {
        self.idle && !self.stalled && !self.had_body && !self.ending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Standing = Standing { idle: true, stalled: false, had_body: false, ending: false };

    #[test]
    fn who_comes_from_a_long_rest_rests_again_after_one_answer() {
        let asked = Asked::after(Duration::from_secs(2));
        assert!(!asked.is_to_rest(false), "a part of a record has woken it, and its request is still to come");
        assert!(asked.again().is_to_rest(false));
    }

    #[test]
    fn who_goes_on_asking_rests_when_a_sweep_comes_by() {
        let asked = Asked::after(Duration::from_secs(60)).again().again();
        assert!(!asked.is_to_rest(false));
        assert!(asked.is_to_rest(true));
        assert!(!asked.again().is_to_rest(false));
    }

    #[test]
    fn who_has_just_rested_waits_for_the_sweep() {
        let asked = Asked::after(Duration::from_millis(1999));
        assert!(!asked.is_to_rest(false) && !asked.again().is_to_rest(false) && asked.again().is_to_rest(true));
    }

    #[test]
    fn a_sweep_lays_to_rest_who_has_not_asked_for_anything() {
        assert!(Asked::Nothing.is_to_rest(true));
    }

    #[test]
    fn what_is_under_way_keeps_it_awake() {
        assert!(NOTHING.is_nothing());
        let under_way = [
            Standing { idle: false, ..NOTHING },
            Standing { stalled: true, ..NOTHING },
            Standing { had_body: true, ..NOTHING },
            Standing { ending: true, ..NOTHING },
        ];
        assert!(under_way.iter().all(|standing| !standing.is_nothing()));
    }

    #[test]
    fn a_number_is_read_as_it_was_written() {
        for asked in [Asked::Nothing, Asked::Once, Asked::Often] {
            assert_eq!(Asked::of(asked as u8), asked);
        }
    }
}
