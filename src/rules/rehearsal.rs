//! What cannot be seen while the gate only observes, since nobody is held back: the line that would have formed, and the slot queue of
//! those who would be inside.
//!
//! Both are a balance of requests asked for against requests that the site can answer. A line begins when more is asked for than the site
//! can do. From then on it is counted by those who come, at so many requests a visit as before: what they ask for is no measure any more,
//! since a site that is not protected is slow, and keeps them from asking. The wait is the time that the site needs for the line. That
//! takes every visitor to be patient: those who would have left are counted as waiting. Absent: any memory of a visitor.

use std::collections::VecDeque;
use std::time::Duration;

use super::controller::Law;
use super::draw::{self, FIRST_RETURN};
use super::time::UnixTime;

/// What was asked for in one tick, in requests that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Length of the tick in seconds.
    pub seconds: f64,
    /// By those who would be inside, without what would have been shed.
    pub inside: f64,
    /// By those who would wait.
    pub outside: f64,
    /// Newcomers at their first request, whatever would have become of them.
    pub newcomers: f64,
}

/// The memory of a rehearsal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rehearsal {
    /// Requests put off.
    line: f64,
    /// There are so many of them that visitors would wait.
    waits: bool,
    /// Requests of those who would be inside that wait for a slot.
    queue: f64,
    /// Requests a second of everyone, smoothed.
    asked: Option<f64>,
    /// Slot-seconds used and good answers while no more ran than there are slots, both slowly forgotten.
    within: (f64, f64),
    /// Requests and newcomers while there was no line, both slowly forgotten.
    visits: (f64, f64),
    /// Newcomers of the last ticks, the newest last: a visitor's requests come later than the visitor.
    came: VecDeque<f64>,
}

/// What a rehearsal has come to by now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rehearsed {
    /// Requests a second that everyone asks for: those who would be inside and those who would wait.
    pub asked: f64,
    /// How long a newcomer of now would wait, if nobody before it gave up; zero if there would be no line, `None` for a site that can do
    /// nothing.
    pub wait: Option<Duration>,
    /// Visitors in that line.
    pub waiting: f64,
    /// Requests that a visit has; 1 or more.
    pub visit: f64,
    /// Requests of those who would be inside that would wait for a slot.
    pub queued: f64,
    /// A request of now would find no slot before the deadline.
    pub sheds: bool,
}

impl Rehearsal {
    /// The gate holds back: all is forgotten but what an answer costs the site, which a rehearsal in the middle of a surge can't find out.
    pub fn rest(&mut self) {
        *self = Self { within: self.within, ..Self::default() };
    }

    /// The slot-seconds that count for so many good answers. `used` were used by requests that count, and `over` by what ran beyond the
    /// slots.
    ///
    /// Beyond them either the site has become slower, or it has more workers than it has slots. Held back, no more would run than there
    /// are slots, each as fast as before; but never more would be answered than are.
    pub fn slot_seconds(&mut self, seconds: f64, used: f64, over: f64, good: u32) -> f64 {
        let good = f64::from(good);
        if over > 0.0 {
            return if self.within.1 < 1.0 { used } else { used.max(good * self.within.0 / self.within.1) };
        }
        let kept = (-seconds / WITHIN_MEMORY.as_secs_f64()).exp();
        self.within = (self.within.0 * kept + used, self.within.1 * kept + good);
        used
    }

    /// Takes in one tick. `requests` is what the site can be asked for a second, `deadline` how long a request waits for a slot.
    pub fn tick(&mut self, asked: &Asked, requests: f64, deadline: Duration) -> Rehearsed {
        let all = asked.inside + asked.outside;
        let could = requests * asked.seconds;
        self.came.push_back(asked.newcomers);
        let came = if self.came.len() > LATER { self.came.pop_front() } else { None };
        if let Some(came) = came.filter(|_| !self.waits) {
            let kept = (-asked.seconds / VISIT_MEMORY.as_secs_f64()).exp();
            self.visits = (self.visits.0 * kept + all, self.visits.1 * kept + came);
        }
        let visit = (self.visits.0 / self.visits.1.max(1.0)).max(1.0);
        let comes = if self.waits { asked.newcomers * visit } else { all };
        self.line = (self.line + comes - could).clamp(0.0, WORK_MAX);
        // what the site can work off in a moment is what its slots are for
        let wait = Duration::try_from_secs_f64(self.line / requests).ok();
        self.waits = self.line > 0.0 && wait.is_none_or(|wait| self.waits || wait >= FIRST_RETURN);
        self.queue = (self.queue + asked.inside - could).clamp(0.0, WORK_MAX);
        let rate = all / asked.seconds.max(f64::EPSILON);
        let news = 1.0 - (-asked.seconds / SMOOTHED.as_secs_f64()).exp();
        let smooth = self.asked.map_or(rate, |before| before + (rate - before) * news);
        self.asked = Some(smooth);
        Rehearsed {
            asked: smooth,
            wait: if self.waits { wait } else { wait.map(|_| Duration::ZERO) },
            waiting: if self.waits { self.line / visit } else { 0.0 },
            visit,
            queued: self.queue,
            sheds: self.queue > (deadline.as_secs_f64() * requests).max(1.0),
        }
    }
}

impl Rehearsed {
    /// Whether there would be a line.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.wait != Some(Duration::ZERO)
    }

    /// The law under a line of which most have left again, since they were not held back. They would be inside by and by, and the site
    /// would be full of them; of those who are inside now there are too few to show it.
    #[must_use]
    pub fn law(&self, law: Law) -> Law {
        if !self.has_line() {
            return law;
        }
        let newcomers = law.newcomers.min(law.requests / self.visit);
        let committed = law.committed.max(law.requests - newcomers * law.requests_per_newcomer);
        Law { newcomers, committed, load: law.load.max(1.0), ..law }
    }

    /// The odds under such a line: whoever is still there to draw has no better ones than if all were.
    #[must_use]
    pub fn odds(&self, odds: f64, epoch: Duration) -> f64 {
        let Some(wait) = self.wait.filter(|_| self.has_line()) else { return odds };
        // half of the line has waited longer, and half of it less
        let (start, half) = (UnixTime::default(), wait / 2);
        let weight = draw::weight(start, start.plus(half));
        odds.min(epoch.as_secs_f64() / (wait.as_secs_f64() * weight)).min(NOT_ALL)
    }
}

/// Fast enough to be of now, slow enough not to be of one page.
const SMOOTHED: Duration = Duration::from_secs(5);

/// How fast the length of a visit is forgotten: slowly, for as a surge begins its visitors have come and most of their requests have not.
const VISIT_MEMORY: Duration = Duration::from_secs(3600);

/// How fast the cost of an answer is forgotten.
const WITHIN_MEMORY: Duration = Duration::from_secs(60);

/// By so many ticks requests are later than those who make them: about half a visit of a few minutes.
const LATER: usize = 60;

/// The most work that is remembered: nothing becomes infinite.
const WORK_MAX: f64 = 1e12;

/// Odds that are just no room for everyone.
const NOT_ALL: f64 = 0.99;

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);
    const EPOCH: Duration = Duration::from_secs(10);

    fn second(inside: f64, outside: f64) -> Asked {
        Asked { seconds: 1.0, inside, outside, newcomers: (inside + outside) / 10.0 }
    }

    fn after(seconds: u32, asked: Asked) -> (Rehearsal, Rehearsed) {
        let mut rehearsal = Rehearsal::default();
        let last = (0..seconds).map(|_| rehearsal.tick(&asked, 100.0, DEADLINE)).last();
        (rehearsal, last.unwrap())
    }

    #[test]
    fn below_the_limit_nobody_would_wait() {
        let (_, told) = after(600, second(90.0, 0.0));
        assert_eq!((told.wait, told.waiting, told.sheds), (Some(Duration::ZERO), 0.0, false));
        assert!((told.asked - 90.0).abs() < 1e-6 && (told.odds(1.0, EPOCH) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_line_is_counted_by_those_who_come_and_worked_off_later() {
        let (mut rehearsal, told) = after(300, second(80.0, 0.0));
        assert!((told.visit - 10.0).abs() < 1e-6, "{told:?}");
        // three times what the site can do comes for 50 s; being slow, it keeps its visitors from asking for all of it
        let mut tick = |asked, newcomers| rehearsal.tick(&Asked { newcomers, ..second(asked, 0.0) }, 100.0, DEADLINE);
        let told = (0..50).map(|_| tick(140.0, 30.0)).last().unwrap();
        // it begins in the fifth second, with the work of two seconds put off; from then on as much more comes in each
        let wait = told.wait.unwrap();
        assert!((90..=96).contains(&wait.as_secs()), "{wait:?}");
        assert!((told.visit - 10.0).abs() < 0.5, "{told:?}");
        assert!((told.waiting - wait.as_secs_f64() * 100.0 / told.visit).abs() < 1.0, "ten visitors a second can be served: {told:?}");
        // at 0.6 of what it can do, the rest works it off
        let waits: Vec<bool> = (0..300).map(|_| tick(60.0, 6.0).has_line()).collect();
        let ends = waits.iter().position(|waits| !waits).unwrap();
        assert!((225..=245).contains(&ends), "{ends}");
        assert!(waits[ends..].iter().all(|waits| !waits), "and it stays away");
    }

    #[test]
    fn under_a_line_the_site_would_be_full_and_the_odds_those_of_all_in_it() {
        let law = Law { capacity: 100.0, load: 0.3, committed: 30.0, newcomers: 70.0, requests_per_newcomer: 1.0, requests: 100.0 };
        let told = Rehearsed { wait: Some(Duration::from_secs(120)), waiting: 1200.0, visit: 10.0, ..Rehearsed::default() };
        let full = told.law(law);
        assert_eq!((full.newcomers, full.committed, full.load, full.capacity), (10.0, 90.0, 1.0, 100.0));
        // a twelfth of the line enters in an epoch, and weighs twice what a new ticket does
        assert!((told.odds(1.0, EPOCH) - 1.0 / 24.0).abs() < 1e-12, "{}", told.odds(1.0, EPOCH));
        assert!((told.odds(0.01, EPOCH) - 0.01).abs() < 1e-12, "the law's own are kept where they are lower");
        let none = Rehearsed { wait: Some(Duration::ZERO), ..told };
        assert_eq!((none.law(law), none.odds(1.0, EPOCH).to_bits()), (law, 1f64.to_bits()));
    }

    #[test]
    fn those_inside_would_be_shed_when_their_queue_outlasts_the_deadline() {
        let (mut rehearsal, told) = after(9, second(110.0, 300.0));
        assert!(!told.sheds && (told.queued - 90.0).abs() < 1e-6, "{told:?}");
        assert!(rehearsal.tick(&second(120.0, 0.0), 100.0, DEADLINE).sheds);
        assert!(!rehearsal.tick(&second(50.0, 300.0), 100.0, DEADLINE).sheds, "those who would wait ask for no slot");
    }

    #[test]
    fn what_runs_beyond_the_slots_makes_no_site_larger() {
        // eight slots, and 80 ms for an answer
        let mut rehearsal = Rehearsal::default();
        let capacity = |slot_seconds: f64, good: u32| 8.0 * f64::from(good) / slot_seconds;
        assert!((rehearsal.slot_seconds(1.0, 8.0, 1.0, 60) - 8.0).abs() < 1e-9, "nothing else is known yet");
        rehearsal.slot_seconds(1.0, 4.0, 0.0, 50);
        assert!((capacity(rehearsal.slot_seconds(1.0, 8.0, 12.0, 250), 250) - 100.0).abs() < 1e-9, "it has more workers than slots");
        assert!((capacity(rehearsal.slot_seconds(1.0, 8.0, 12.0, 100), 100) - 100.0).abs() < 1e-9, "it is full");
        assert!((capacity(rehearsal.slot_seconds(1.0, 8.0, 12.0, 40), 40) - 40.0).abs() < 1e-9, "it has become slower");
        rehearsal.tick(&second(200.0, 0.0), 100.0, DEADLINE);
        rehearsal.rest();
        assert!((capacity(rehearsal.slot_seconds(1.0, 8.0, 12.0, 250), 250) - 100.0).abs() < 1e-9);
        assert_eq!(rehearsal.tick(&second(10.0, 0.0), 100.0, DEADLINE).wait, Some(Duration::ZERO));
    }

    #[test]
    fn a_dead_site_has_no_wait_that_could_be_told() {
        let mut rehearsal = Rehearsal::default();
        let told = rehearsal.tick(&second(1.0, 5.0), 0.0, DEADLINE);
        assert_eq!((told.wait, told.odds(0.3, EPOCH).to_bits()), (None, 0.3f64.to_bits()));
        let law = told.law(Law::default());
        assert!(law.newcomers.is_finite() && law.committed.is_finite());
        let told = rehearsal.tick(&second(0.0, 0.0), 0.0, DEADLINE);
        assert!(told.waiting.is_finite() && told.asked.is_finite());
    }
}
