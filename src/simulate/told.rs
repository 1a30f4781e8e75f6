//! What visitors were told of their wait, against what came true.
//!
//! Some are never seen to enter. Who gave up counts for as long as they waited (Kaplan and Meier: Nonparametric estimation from incomplete
//! observations, 1958): leaving them out would count the lucky alone. What was told for a time after the end of the simulation is left
//! out, whatever became of it.

use super::book::seconds;
use super::timeline::Micros;
use crate::gate::Decision;

/// What someone was told, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    at: Micros,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// In a lottery: half get in within this, and nine of ten within that, in seconds.
    Drawn(f64, f64),
    /// In a line: the wait in seconds.
    InLine(f64),
}

impl Told {
    /// What a waiting page says, if it gives a figure.
    pub(super) fn by(decision: &Decision, at: Micros) -> Option<Self> {
        let drawn = decision.wait.map(|wait| What::Drawn(wait.half.as_secs_f64(), wait.nine_of_ten.as_secs_f64()));
        let in_line = || Some(What::InLine(decision.place?.wait?.as_secs_f64()));
        Some(Self { at, what: drawn.or_else(in_line)? })
    }
}

/// All that was told, and what became of it.
#[derive(Debug)]
pub(super) struct Record {
    /// The end of the simulation.
    end: Micros,
    half: Vec<Outcome>,
    nine_of_ten: Vec<Outcome>,
    in_line: Vec<Outcome>,
}

/// How long it took as a share of what was told.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    ratio: f64,
    entered: bool,
}

/// Pages give no figure for more.
const FIGURE_MAX_S: f64 = 7200.0;

impl Record {
    pub(super) fn new(end: Micros) -> Self {
        Self { end, half: Vec::new(), nine_of_ten: Vec::new(), in_line: Vec::new() }
    }

    /// Someone entered, or was last seen waiting.
    pub(super) fn ends(&mut self, told: Told, at: Micros, entered: bool) {
        let took = seconds(at.saturating_sub(told.at));
        let watched = seconds(self.end.saturating_sub(told.at)).min(FIGURE_MAX_S);
        let outcome = |told_s: f64| (told_s < watched).then(|| Outcome { ratio: took / told_s.max(1e-3), entered });
        match told.what {
            What::Drawn(half, nine_of_ten) => {
                self.half.extend(outcome(half));
                self.nine_of_ten.extend(outcome(nine_of_ten));
            }
            What::InLine(wait) => self.in_line.extend(outcome(wait)),
        }
    }

    /// The share of those who got in within the half-time that they were told.
    pub(super) fn within_half(&mut self) -> Option<f64> {
        within(&mut self.half)
    }

    /// The same of the time in which nine of ten are said to get in.
    pub(super) fn within_nine_of_ten(&mut self) -> Option<f64> {
        within(&mut self.nine_of_ten)
    }

    /// Half of those in a line waited for a time that differs from what they were told by no more than this share of it. Who was not seen
    /// to enter counts with the least that it can be.
    pub(super) fn error_in_line(&self) -> Option<f64> {
        let error = |outcome: &Outcome| {
            let known = outcome.entered || outcome.ratio > 1.0;
            known.then(|| (1.0 - 1.0 / outcome.ratio.max(1e-9)).abs())
        };
        let mut errors: Vec<f64> = self.in_line.iter().filter_map(error).collect();
        errors.sort_by(f64::total_cmp);
        enough(errors.len()).then(|| errors[errors.len() / 2])
    }
}

/// Fewer say nothing.
const fn enough(count: usize) -> bool {
    count >= 100
}

/// The share that entered within what they were told.
fn within(outcomes: &mut [Outcome]) -> Option<f64> {
    outcomes.sort_by(|one, other| one.ratio.total_cmp(&other.ratio));
    let (mut outside, mut left) = (1.0, outcomes.len() as f64);
    let mut last = 0.0;
    for outcome in outcomes.iter().take_while(|outcome| outcome.ratio <= 1.0) {
        if outcome.entered {
            outside *= 1.0 - 1.0 / left;
        }
        left -= 1.0;
        last = outcome.ratio;
    }
    // with nobody left to be seen so late, nothing is known of it
    let known = outcomes.last().is_some_and(|outcome| outcome.ratio > 1.0) || last >= 1.0;
    (enough(outcomes.len()) && known).then_some(1.0 - outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn drawn(half: f64) -> Told {
        Told { at: 10 * SECOND, what: What::Drawn(half, 4.0 * half) }
    }

    #[test]
    fn who_gave_up_counts_for_as_long_as_they_waited() {
        let mut record = Record::new(3600 * SECOND);
        // of each hundred: forty enter in time, forty give up at half of the time, and of the twenty left ten enter late
        for number in 0..400 {
            let (after, entered) = match number % 10 {
                0..4 => (1, true),
                4..8 => (5, false),
                8 => (11, true),
                _ => (50, false),
            };
            record.ends(drawn(10.0), (10 + after) * SECOND, entered);
        }
        assert!((record.within_half().unwrap() - 0.4).abs() < 1e-9);
        // within 40 s half of those who could still be seen are in: 0.6 × 0.5 are not
        assert!((record.within_nine_of_ten().unwrap() - 0.7).abs() < 1e-9);
        assert_eq!(record.error_in_line(), None);
    }

    #[test]
    fn nothing_is_said_of_times_that_nobody_was_watched_for() {
        let mut record = Record::new(3600 * SECOND);
        (0..200).for_each(|_| record.ends(drawn(100.0), 20 * SECOND, false));
        assert_eq!(record.within_half(), None);
    }

    #[test]
    fn what_is_told_for_a_time_after_the_end_is_left_out() {
        let mut record = Record::new(30 * SECOND);
        (0..200).for_each(|number| record.ends(drawn(10.0), (11 + number % 20) * SECOND, true));
        assert_eq!(record.within_nine_of_ten(), None, "it would have been known 50 seconds after the start");
        assert!((record.within_half().unwrap() - 0.5).abs() < 0.06);
    }

    #[test]
    fn an_error_is_a_share_of_what_came_true() {
        let mut record = Record::new(3600 * SECOND);
        for number in 0..300 {
            let told = Told { at: 0, what: What::InLine(100.0) };
            let (after, entered) = [(80, true), (125, true), (200, false)][number % 3];
            record.ends(told, after * SECOND, entered);
        }
        assert!((record.error_in_line().unwrap() - 0.25).abs() < 1e-9, "{:?}", record.error_in_line());
    }
}
