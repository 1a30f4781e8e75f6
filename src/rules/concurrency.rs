//! How many requests a site takes at once (`max_in_flight: auto`), found from outside and followed when it changes.
//!
//! A site with M workers answers as fast with M requests in flight as with one; beyond M the same work only takes longer. So two
//! limits are compared by turns, in slices of a few seconds, and each answer tells how many requests were in flight while it was made
//! and how long it took. The slope of ln(time) over ln(in flight) is 0 where workers are idle and 1 or more where requests only share
//! them; 1 less the slope is the elasticity of the throughput. Both limits meet the same crowd and the same site, so a deploy that
//! makes every page slower moves neither; a limit is only judged while it binds, since otherwise slow answers are what makes many be
//! in flight, and not the reverse.
//!
//! Absent: slots (`slots.rs` holds the limit that is found here) and the law (`controller.rs`), which is told [`ServerLimit::sustained`].
//! Sums of answers and their slope are in `timings.rs`.

use super::timings::{Timings, slope};

/// The limit in force for each server, and what is to be learned under it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerLimit {
    /// Requests in flight, at the most.
    pub per_server: u32,
    /// That over time, while two limits are in force by turns: so much others can be let in for.
    pub sustained: f64,
    /// Only answers that were made with as many in flight, in the mean, tell something: what was begun under other limits does not.
    pub from: f64,
    /// And no more.
    pub to: f64,
}

impl ServerLimit {
    /// One that is told: nothing is to be learned.
    #[must_use]
    pub const fn told(per_server: u32) -> Self {
        Self { per_server, sustained: per_server as f64, from: f64::INFINITY, to: f64::INFINITY }
    }
}

/// What a tick has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Length of the tick.
    pub seconds: f64,
    /// Requests in flight at each server, in the mean over the tick.
    pub in_flight: f64,
    /// Good answers of the tick.
    pub timings: Timings,
}

/// The limit of a site of which nothing is known: two workers are not hurt much by it, and thirty are found within four steps.
const FIRST: u32 = 4;

/// No smaller limit is tried. One in place of two halves what a site of two workers can do for as long as it takes to see that, and two
/// in place of one cost a site of one worker a few points.
const LIMIT_MIN: u32 = 2;

/// No limit is above this: no server of a site that needs a gate has more workers, and a mistake has an end.
pub const LIMIT_MAX: u32 = 2048;

/// Between idle workers and shared ones the elasticity falls from 1 to 0 or less: a half is what it is told from soonest.
const ELASTICITY: f64 = 0.5;

/// An elasticity up to this is none: what an answer takes on its way, outside every worker, makes for so much however many there are.
const NOTHING: f64 = 0.12;

/// Beyond its workers a site's throughput falls a little with each further request. Where it does not, this makes the limit a little too
/// large, which costs less than too small a one.
const CONGESTION: f64 = 0.15;

/// A judgement is passed when the elasticity is so many standard errors from that; and the workers are taken to be where it says, between
/// the two limits.
const SURE: f64 = 2.0;

/// A limit is judged while so much of it is used, in the mean over a tick.
const FILLED: f64 = 0.9;

/// A slice of a trial lasts for as many usual answers, one after the other, and gives so many.
const SLICE_TIMES: f64 = 1.5;
const SLICE_ANSWERS: f64 = 5.0;

/// A slice that has not seen its answers after this has met something else.
const SLICE_MAX_S: f64 = 30.0;

/// A trial that is not filled for so long is given up until it is.
const UNFILLED_MAX_S: f64 = 5.0;

/// A trial has at least this many cycles of four slices, and is judged by what it has after the most, sure or not.
const CYCLES_MIN: usize = 2;
const CYCLES_MAX: usize = 12;

/// A step is as wide as it must be for so many cycles to tell the elasticity to within this standard error, between these bounds.
const CYCLES: f64 = 3.0;
const ERROR: f64 = 0.25;
const STEP_MIN: f64 = 0.25;
const STEP_MAX: f64 = 1.0;

/// The elasticity need not be known better than this.
const ERROR_MIN: f64 = 0.12;

/// What is known of how many answers come, and of how they differ, is forgotten in this time.
const MEMORY_S: f64 = 30.0;

/// A rest after a limit was found; twice as long after each in which nothing has changed.
const REST_S: f64 = 10.0;
const REST_MAX_S: f64 = 160.0;

/// A smaller limit wastes what it is tried on if the one in force is right, so it is tried after one rest in so many.
const DOWN_AFTER_RESTS: u32 = 8;

/// Answers that take longer, or shorter, by this factor than when the limit was judged are of another site.
const CHANGED: f64 = 1.4;
const CHANGED_WINDOW_S: f64 = 3.0;

/// A step of the climb is judged by at least so many answers, and without being sure at so many.
const CLIMB_ANSWERS: f64 = 20.0;
const CLIMB_ANSWERS_MAX: f64 = 200.0;

/// A new limit of the climb is let in for within this time.
const CLIMB_TRUSTED_S: f64 = 2.0;

/// What was seen with so much of the limit used, or less, is what the climb compares with: far enough for ln(in flight) to differ by so
/// much.
const CLIMB_FREE: f64 = 0.65;
const CLIMB_MORE: f64 = 0.35;

/// Of what is a half of the limit, or little more, nothing is left to be tried above it.
const CLIMB_HALF: f64 = 0.55;

/// The search for the limit, and its memory.
#[derive(Clone, Debug)]
pub struct Concurrency {
    limit: u32,
    /// A smaller limit was tried, and was worse.
    below_known: bool,
    /// A larger one was, and was no better.
    above_known: bool,
    /// Steps are so many times as wide as they must be: a direction that was right is gone on in faster.
    stride: f64,
    rest_s: f64,
    rests: u32,
    /// Spent with trials since the last rest: a rest is as long at least.
    tried_s: f64,
    /// Recent answers while the limit was filled, and the time that they came in.
    recent: Timings,
    recent_s: f64,
    /// Mean of ln(seconds) at the limit in force, when it was set.
    usual: Option<f64>,
    /// How many times in a row it was otherwise.
    otherwise: u32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Climb(Climb),
    Try(Trial),
    Rest { left_s: f64, window: Timings, window_s: f64 },
}

/// Nothing is known yet: the limit doubles while answers do not take longer for it.
#[derive(Clone, Debug, Default)]
struct Climb {
    /// At the limit before, or while this one was not filled.
    before: Timings,
    here: Timings,
    /// Until answers are of the new limit.
    settle_s: f64,
    /// Since the last step, if there was one.
    stepped_s: Option<f64>,
}

/// Two limits by turns: this one, that one twice, this one.
#[derive(Clone, Debug)]
struct Trial {
    other: u32,
    slice: u8,
    slice_s: f64,
    slice_answers: f64,
    unfilled_s: f64,
    /// Answers of this cycle, and of those those at the limit in force.
    cycle: Timings,
    base: Timings,
    cycles: Vec<Timings>,
}

/// How answers are otherwise than they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Slower,
    Faster,
}

impl Concurrency {
    /// A search that knows nothing, or the limit that was saved.
    #[must_use]
    pub fn new(saved: Option<u32>) -> Self {
        let limit = saved.map_or(FIRST, |limit| limit.clamp(1, LIMIT_MAX));
        let state = match saved {
            Some(_) => State::Try(Trial::of(above(limit, STEP_MIN))),
            None => State::Climb(Climb::default()),
        };
        Self {
            limit,
            below_known: false,
            above_known: false,
            stride: 1.0,
            rest_s: REST_S,
            rests: 0,
            tried_s: 0.0,
            recent: Timings::NONE,
            recent_s: 0.0,
            usual: None,
            otherwise: 0,
            state,
        }
    }

    /// The limit in force until the next tick.
    #[must_use]
    pub fn limit(&self) -> ServerLimit {
        let limit = f64::from(self.limit);
        match &self.state {
            State::Try(trial) => {
                let other = f64::from(trial.other);
                ServerLimit {
                    per_server: if trial.is_at_other() { trial.other } else { self.limit },
                    sustained: if trial.is_under_way() { f64::midpoint(limit, other) } else { limit },
                    from: limit.min(other) * FILLED,
                    to: limit.max(other) / FILLED,
                }
            }
            State::Climb(climb) => ServerLimit { per_server: self.limit, sustained: limit * climb.trusted(), from: 0.0, to: f64::INFINITY },
            State::Rest { .. } => ServerLimit { per_server: self.limit, sustained: limit, from: 0.0, to: f64::INFINITY },
        }
    }

    /// The limit as judged, to be saved; none while nothing is known.
    #[must_use]
    pub const fn found(&self) -> Option<u32> {
        match self.state {
            State::Climb(_) => None,
            State::Try(_) | State::Rest { .. } => Some(self.limit),
        }
    }

    /// Takes in one tick.
    pub fn tick(&mut self, sample: &Sample) {
        let fill = sample.in_flight / f64::from(self.limit().per_server);
        if fill >= FILLED {
            let kept = (-sample.seconds / MEMORY_S).exp();
            self.recent = self.recent.faded(kept).plus(&sample.timings, 1.0);
            self.recent_s = self.recent_s * kept + sample.seconds;
        }
        match &mut self.state {
            State::Climb(climb) => {
                if let Some(after) = climb.tick(self.limit, fill, sample) {
                    self.climbed(after);
                }
            }
            State::Try(trial) => {
                // a larger limit need not be filled, since nobody has been let in for it yet; but it must be used
                let over = trial.is_at_other() && trial.other > self.limit;
                let filled = if over { sample.in_flight >= f64::from(self.limit) } else { fill >= FILLED };
                if !filled {
                    trial.unfilled(sample.seconds);
                    return;
                }
                self.tried_s += sample.seconds;
                let Some(base) = trial.tick(sample) else { return };
                let knee = trial.judge(self.limit);
                if let Some(changed) = self.compare(&base) {
                    self.site_changed(changed);
                } else if let Some(knee) = knee {
                    self.judged(knee);
                }
            }
            State::Rest { left_s, window, window_s } => {
                *left_s -= sample.seconds;
                let over = *left_s <= 0.0;
                if fill >= FILLED {
                    *window = window.plus(&sample.timings, 1.0);
                    *window_s += sample.seconds;
                }
                let mut changed = None;
                if *window_s >= CHANGED_WINDOW_S && window.count >= CLIMB_ANSWERS {
                    let whole = std::mem::take(window);
                    *window_s = 0.0;
                    changed = self.compare(&whole);
                }
                if let Some(changed) = changed {
                    self.site_changed(changed);
                } else if over {
                    self.rests += 1;
                    self.above_known = false;
                    self.below_known = !self.rests.is_multiple_of(DOWN_AFTER_RESTS);
                    self.go_on();
                }
            }
        }
    }

    fn climbed(&mut self, after: Climbed) {
        match after {
            Climbed::Higher => {
                self.limit = (self.limit * 2).min(LIMIT_MAX);
                if self.limit == LIMIT_MAX {
                    self.go_on();
                }
            }
            Climbed::Enough { limit, before_was_too_much } => {
                (self.limit, self.above_known) = (limit.max(1), before_was_too_much);
                self.go_on();
            }
        }
    }

    fn judged(&mut self, knee: Knee) {
        let State::Try(trial) = &self.state else { return };
        let (other, before) = (trial.other, self.limit);
        let up = other > before;
        // what is between two limits that are far apart is not known well, nor how far past one of them
        let (smaller, larger) = (f64::from(other.min(before)), f64::from(other.max(before)));
        let near = larger <= smaller * (1.0 + 2.0 * STEP_MIN);
        match knee {
            Knee::Above if up => {
                self.limit = other;
                (self.below_known, self.above_known) = (near, false);
            }
            Knee::Below if !up => {
                self.limit = other;
                (self.below_known, self.above_known) = (false, near);
            }
            Knee::Below => self.above_known = true,
            Knee::Above => self.below_known = true,
            Knee::At { limit, above_smaller, below_larger } => {
                self.limit = limit;
                self.below_known = near && (above_smaller || (up && self.below_known));
                self.above_known = near && (below_larger || (!up && self.above_known));
            }
        }
        if self.limit == other {
            self.stride *= 2.0;
            self.rest_s = REST_S;
        } else {
            self.stride = 1.0;
        }
        if self.limit != before {
            (self.usual, self.otherwise) = (None, 0);
        }
        self.go_on();
    }

    /// The next trial in a direction of which nothing is known; a rest if both are.
    fn go_on(&mut self) {
        let step = (self.step() * self.stride).min(STEP_MAX);
        if !self.above_known && self.limit < LIMIT_MAX {
            self.state = State::Try(Trial::of(above(self.limit, step)));
        } else if !self.below_known && self.limit > LIMIT_MIN {
            self.state = State::Try(Trial::of(below(self.limit, step)));
        } else {
            self.stride = 1.0;
            let left_s = self.rest_s.max(std::mem::take(&mut self.tried_s).min(REST_MAX_S));
            self.state = State::Rest { left_s, window: Timings::NONE, window_s: 0.0 };
            self.rest_s = (self.rest_s * 2.0).min(REST_MAX_S);
        }
    }

    /// How wide a step must be for a trial of a few cycles to see its effect: wider the fewer answers there are, and the more they differ.
    fn step(&self) -> f64 {
        let rate = self.recent.count / self.recent_s.max(1.0);
        if rate <= 0.0 {
            return STEP_MIN;
        }
        let slice_s = (SLICE_TIMES * self.recent.usual_s()).max(SLICE_ANSWERS / rate).max(1.0);
        let answers = CYCLES * 4.0 * slice_s * rate;
        // the limits' logarithms lie a half of the step's on each side of their mean
        (2.0 * self.recent.deviation() / (ERROR * answers.sqrt())).exp_m1().clamp(STEP_MIN, STEP_MAX)
    }

    /// Whether answers at the limit in force are no longer what they were.
    fn compare(&mut self, window: &Timings) -> Option<Changed> {
        let mean = window.mean_time();
        let Some(usual) = self.usual else {
            self.usual = Some(mean);
            return None;
        };
        let by = mean - usual;
        if by.abs() < CHANGED.ln() + SURE * window.error_squared().sqrt() {
            self.otherwise = 0;
        } else {
            self.otherwise += 1;
        }
        (self.otherwise >= 2).then_some(if by > 0.0 { Changed::Slower } else { Changed::Faster })
    }

    /// Either every page takes longer now, or workers are lost: as many as that may well be. Or the reverse.
    fn site_changed(&mut self, changed: Changed) {
        (self.usual, self.otherwise) = (None, 0);
        (self.rest_s, self.rests, self.stride) = (REST_S, 0, STEP_MAX / STEP_MIN);
        (self.below_known, self.above_known) = (false, changed == Changed::Slower);
        self.go_on();
        // for the direction after this one
        self.above_known = false;
    }
}

/// What a step of the climb comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Climbed {
    Higher,
    /// There are about so many workers; half of the limit, where it stood before, may have been too much already.
    Enough {
        limit: u32,
        before_was_too_much: bool,
    },
}

impl Climb {
    /// How much of the limit others may be let in for: a step that was too wide has let in twice as many as there is room for.
    fn trusted(&self) -> f64 {
        self.stepped_s.map_or(1.0, |since| (0.5 + 0.5 * since / CLIMB_TRUSTED_S).min(1.0))
    }

    fn tick(&mut self, limit: u32, fill: f64, sample: &Sample) -> Option<Climbed> {
        self.settle_s -= sample.seconds;
        self.stepped_s = self.stepped_s.map(|since| since + sample.seconds);
        if fill <= CLIMB_FREE {
            self.before = self.before.faded((-sample.seconds / MEMORY_S).exp()).plus(&sample.timings, 1.0);
        }
        if fill < FILLED || self.settle_s > -1e-9 {
            return None;
        }
        self.here = self.here.plus(&sample.timings, 1.0);
        if self.here.count < CLIMB_ANSWERS {
            return None;
        }
        let longer = self.here.mean_time() - self.before.mean_time();
        let more = self.here.mean_load() - self.before.mean_load();
        let elasticity = 1.0 - longer / more;
        let error = (self.here.error_squared() + self.before.error_squared()).sqrt() / more;
        let nothing_known = self.before.count < CLIMB_ANSWERS || more < CLIMB_MORE;
        let sure = (elasticity - ELASTICITY).abs() >= SURE * error || self.here.count > CLIMB_ANSWERS_MAX;
        let after = if nothing_known || (sure && elasticity > ELASTICITY) {
            Climbed::Higher
        } else if sure {
            // of as many as there are, each takes as much longer as there are more than workers
            let share = (-longer).exp();
            Climbed::Enough { limit: whole(share.min(1.0) * f64::from(limit)), before_was_too_much: share < CLIMB_HALF }
        } else {
            return None;
        };
        *self = Self { before: self.here, here: Timings::NONE, settle_s: (2.0 * self.here.usual_s()).max(0.5), stepped_s: Some(0.0) };
        Some(after)
    }
}

/// Where workers begin to be shared, as two limits tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knee {
    /// At the smaller, or below it.
    Below,
    /// Between them, as far as is known; and whether it is sure to be on this side of each.
    At { limit: u32, above_smaller: bool, below_larger: bool },
    /// At the larger, or above it.
    Above,
}

impl Trial {
    const fn of(other: u32) -> Self {
        Self {
            other,
            slice: 0,
            slice_s: 0.0,
            slice_answers: 0.0,
            unfilled_s: 0.0,
            cycle: Timings::NONE,
            base: Timings::NONE,
            cycles: Vec::new(),
        }
    }

    const fn is_at_other(&self) -> bool {
        self.slice == 1 || self.slice == 2
    }

    fn is_under_way(&self) -> bool {
        self.slice > 0 || !self.cycles.is_empty()
    }

    /// Nothing can be told from this tick.
    fn unfilled(&mut self, seconds: f64) {
        self.unfilled_s += seconds;
        if self.unfilled_s >= UNFILLED_MAX_S {
            self.start_again();
        }
    }

    fn start_again(&mut self) {
        *self = Self { cycles: std::mem::take(&mut self.cycles), ..Self::of(self.other) };
    }

    /// Takes in one tick. If a cycle is over by it: what was answered at the limit in force.
    fn tick(&mut self, sample: &Sample) -> Option<Timings> {
        self.unfilled_s = 0.0;
        self.cycle = self.cycle.plus(&sample.timings, 1.0);
        if !self.is_at_other() {
            self.base = self.base.plus(&sample.timings, 1.0);
        }
        self.slice_s += sample.seconds;
        self.slice_answers += sample.timings.count;
        if self.slice_s < SLICE_TIMES * self.cycle.usual_s() || self.slice_answers < SLICE_ANSWERS {
            if self.slice_s > SLICE_MAX_S {
                self.start_again();
            }
            return None;
        }
        (self.slice_s, self.slice_answers) = (0.0, 0.0);
        self.slice += 1;
        if self.slice < 4 {
            return None;
        }
        self.cycles.push(self.cycle);
        let base = self.base;
        self.start_again();
        Some(base)
    }

    /// What it says of the limit in force and the other, once it is sure.
    fn judge(&self, limit: u32) -> Option<Knee> {
        if self.cycles.len() < CYCLES_MIN {
            return None;
        }
        let (slope, error) = slope(&self.cycles)?;
        let elasticity = 1.0 - slope;
        let sure = SURE * error;
        if (elasticity - ELASTICITY).abs() < sure && error > ERROR_MIN && self.cycles.len() < CYCLES_MAX {
            return None;
        }
        // up to the workers throughput grows as the limit does, and beyond them it falls
        let share = (elasticity + CONGESTION) / (1.0 + CONGESTION);
        Some(if elasticity <= NOTHING {
            Knee::Below
        } else if share >= 1.0 - error {
            Knee::Above
        } else {
            let (smaller, larger) = (f64::from(limit.min(self.other)), f64::from(limit.max(self.other)));
            Knee::At {
                limit: whole(smaller * (larger / smaller).powf(share)),
                above_smaller: elasticity > SURE * error,
                below_larger: elasticity < 1.0 - SURE * error,
            }
        })
    }
}

fn above(limit: u32, step: f64) -> u32 {
    whole(f64::from(limit) * (1.0 + step)).clamp(limit + 1, LIMIT_MAX.max(limit + 1))
}

fn below(limit: u32, step: f64) -> u32 {
    whole(f64::from(limit) / (1.0 + step)).clamp(LIMIT_MIN, limit.saturating_sub(1).max(LIMIT_MIN))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small; `as` saturates")]
fn whole(limit: f64) -> u32 {
    limit.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site whose requests share its workers, seen a tick of a second at a time; while it is busy the limit is full.
    struct Site {
        workers: f64,
        service_s: f64,
        /// Beside the work: time in which no worker is held.
        apart_s: f64,
        congestion: f64,
        state: u64,
    }

    const SITE: Site = Site { workers: 32.0, service_s: 0.16, apart_s: 0.0, congestion: 0.15, state: 1 };

    impl Site {
        fn seconds(&self, in_flight: f64) -> f64 {
            // with time apart the workers see only some of them: the number that they have in the long run
            let free = self.apart_s + self.service_s;
            let slowed = |working: f64| {
                self.service_s * (working / self.workers).max(1.0) * (1.0 + self.congestion * (working / self.workers - 1.0).max(0.0))
            };
            if self.apart_s == 0.0 {
                return slowed(in_flight);
            }
            let working = (in_flight * self.service_s / free).max(in_flight - self.apart_s * self.workers / self.service_s);
            self.apart_s + slowed(working)
        }

        fn unit(&mut self) -> f64 {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (f64::from(u32::try_from(self.state >> 33).unwrap()) + 0.5) / 2f64.powi(31)
        }

        /// A second with so many in flight.
        fn second(&mut self, in_flight: f64) -> Sample {
            let seconds = self.seconds(in_flight);
            let mut timings = Timings::NONE;
            let answers = in_flight / seconds;
            let whole_answers = (0..10_000).take_while(|&n| f64::from(n) + self.unit() < answers).count();
            for _ in 0..whole_answers {
                // the sum of 12 draws is as good as normal; the spread is that of pages whose deviation is their mean
                let normal: f64 = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
                timings.add(seconds * (0.83 * normal - 0.35).exp(), in_flight);
            }
            Sample { seconds: 1.0, in_flight, timings }
        }

        /// So many seconds in which everyone asks.
        fn busy(&mut self, found: &mut Concurrency, seconds: u32) {
            for _ in 0..seconds {
                let sample = self.second(f64::from(found.limit().per_server));
                found.tick(&sample);
            }
        }
    }

    fn near(found: &Concurrency, workers: f64) -> bool {
        let limit = f64::from(found.limit);
        (0.85 * workers..=1.3 * workers).contains(&limit)
    }

    #[test]
    fn the_workers_are_found_from_nothing() {
        for (workers, service_s) in [(8.0, 0.08), (32.0, 0.16), (320.0, 0.16), (100.0, 0.5)] {
            for state in 1..=5 {
                let mut site = Site { workers, service_s, state, ..SITE };
                let mut found = Concurrency::new(None);
                site.busy(&mut found, 180);
                assert!(near(&found, workers), "{workers} {state}: {}", found.limit);
                assert_eq!(found.found(), Some(found.limit));
            }
        }
    }

    #[test]
    fn a_site_that_only_queues_is_not_left_with_a_queue() {
        // no congestion: a limit that is too large costs nothing but time, and is still too large
        for state in 1..=5 {
            let mut site = Site { workers: 8.0, service_s: 0.05, congestion: 0.0, state, ..SITE };
            let mut found = Concurrency::new(Some(24));
            site.busy(&mut found, 200);
            assert!(near(&found, 8.0), "{state}: {}", found.limit);
        }
    }

    #[test]
    fn two_workers_are_found_too() {
        for state in 1..=5 {
            let mut site = Site { workers: 2.0, service_s: 0.45, state, ..SITE };
            let mut found = Concurrency::new(None);
            site.busy(&mut found, 600);
            assert!((1..=3).contains(&found.limit), "{state}: {}", found.limit);
        }
    }

    #[test]
    fn one_is_never_tried_in_place_of_two() {
        for workers in [1.0, 2.0, 3.0] {
            let mut site = Site { workers, service_s: 1.1, ..SITE };
            let mut found = Concurrency::new(Some(2));
            let tried: Vec<u32> = (0..3600)
                .map(|_| {
                    site.busy(&mut found, 1);
                    found.limit().per_server
                })
                .collect();
            assert!(tried.iter().all(|&limit| limit >= 2) && tried.contains(&3), "{workers}: {tried:?}");
        }
    }

    #[test]
    fn workers_that_are_lost_are_noticed() {
        let mut site = SITE;
        let mut found = Concurrency::new(Some(32));
        site.busy(&mut found, 120);
        site.workers = 16.0;
        site.busy(&mut found, 120);
        assert!(near(&found, 16.0), "{}", found.limit);
        site.workers = 32.0;
        site.busy(&mut found, 400);
        assert!(near(&found, 32.0), "{}", found.limit);
    }

    #[test]
    fn pages_that_are_slower_are_not_workers_that_are_lost() {
        for state in 1..=5 {
            let mut site = Site { state, ..SITE };
            let mut found = Concurrency::new(Some(32));
            site.busy(&mut found, 120);
            site.service_s *= 2.0;
            site.busy(&mut found, 120);
            assert!(near(&found, 32.0), "{state}: {}", found.limit);
        }
    }

    #[test]
    fn time_outside_the_workers_is_made_up_for() {
        let mut site = SITE;
        let mut found = Concurrency::new(Some(32));
        site.busy(&mut found, 60);
        site.apart_s = 0.3;
        site.busy(&mut found, 300);
        assert!(near(&found, 92.0), "{}", found.limit);
    }

    #[test]
    fn a_limit_that_does_not_bind_is_left_alone() {
        let mut site = SITE;
        let mut found = Concurrency::new(Some(32));
        for _ in 0..600 {
            let sample = site.second(19.0);
            found.tick(&sample);
            assert_eq!((found.limit().per_server, found.found()), (32, Some(32)));
        }
    }

    #[test]
    fn an_unused_site_is_known_no_better_for_it() {
        let mut found = Concurrency::new(None);
        for _ in 0..100 {
            found.tick(&Sample { seconds: 1.0, ..Sample::default() });
        }
        assert_eq!((found.limit().per_server, found.found()), (FIRST, None));
    }

    #[test]
    fn a_site_that_answers_nothing_moves_no_limit() {
        let mut site = SITE;
        let mut found = Concurrency::new(Some(32));
        site.busy(&mut found, 60);
        let before = found.limit;
        for _ in 0..120 {
            let in_flight = f64::from(found.limit().per_server);
            found.tick(&Sample { seconds: 1.0, in_flight, timings: Timings::NONE });
        }
        assert_eq!(found.limit, before);
    }

    #[test]
    fn the_limit_stays_within_its_bounds_whatever_is_seen() {
        let mut site = SITE;
        let mut found = Concurrency::new(Some(0));
        for second in 0..5000u32 {
            let in_flight = f64::from(found.limit().per_server) * [1.0, 0.0, 3.0, 0.95][second as usize % 4];
            let seconds = [0.0, 1.0, 60.0, 1e9][second as usize / 4 % 4];
            let mut timings = Timings::NONE;
            for _ in 0..30 {
                timings.add([0.0, 1e-9, 1.0, 1e12][second as usize / 16 % 4] * site.unit(), [0.0, 1e12, 5.0][second as usize % 3]);
            }
            found.tick(&Sample { seconds, in_flight, timings });
            assert!((1..=LIMIT_MAX).contains(&found.limit().per_server), "{}", found.limit().per_server);
            assert!(found.limit().sustained.is_finite() && found.limit().sustained > 0.0);
        }
    }

    #[test]
    fn while_two_limits_are_compared_people_are_let_in_for_their_mean() {
        let mut found = Concurrency::new(Some(32));
        assert!((found.limit().sustained - 32.0).abs() < 1e-9);
        let mut site = SITE;
        site.busy(&mut found, 1);
        assert_eq!(found.limit(), ServerLimit { per_server: 40, sustained: 36.0, from: 32.0 * FILLED, to: 40.0 / FILLED });
    }
}
