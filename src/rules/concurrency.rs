//! How many requests a site takes at once (`max_in_flight: auto`), found from outside and followed when it changes.
//!
//! A site with M workers answers as fast with M requests in flight as with one; beyond M the same work only takes longer. So two
//! limits are compared by turns, in slices of a few seconds, and each answer tells how many requests were in flight while it was made
//! and how long it took. The slope of ln(time) over ln(in flight) is 0 where workers are idle and 1 or more where requests only share
//! them; 1 less the slope is the elasticity of the throughput. Both limits meet the same crowd and the same site, so a deploy that
//! makes every page slower moves neither; a limit is only judged while it binds, since otherwise slow answers are what makes many be
//! in flight, and not the reverse.
//!
//! Absent: slots (`slots.rs` holds the limit that is found here) and the law (`controller.rs`), which is told [`Concurrency::sustained`].

/// Answers as a regression of ln(seconds) on ln(in flight) needs them: sums since some beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// How many.
    pub count: f64,
    load: f64,
    time: f64,
    load_squared: f64,
    time_squared: f64,
    both: f64,
}

impl Timings {
    /// No answers.
    pub const NONE: Self = Self { count: 0.0, load: 0.0, time: 0.0, load_squared: 0.0, time_squared: 0.0, both: 0.0 };

    /// An answer that took `seconds`, with so many requests in flight at its server in the mean, itself among them.
    pub fn add(&mut self, seconds: f64, in_flight: f64) {
        // a clock's grain, and never the logarithm of nothing
        let (time, load) = (seconds.max(1e-5).ln(), in_flight.max(1.0).ln());
        self.count += 1.0;
        self.load += load;
        self.time += time;
        self.load_squared += load * load;
        self.time_squared += time * time;
        self.both += load * time;
    }

    /// What came after `earlier`, if this is the later of two sums from one beginning.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.plus(earlier, -1.0)
    }

    fn plus(&self, other: &Self, times: f64) -> Self {
        Self {
            count: self.count + times * other.count,
            load: self.load + times * other.load,
            time: self.time + times * other.time,
            load_squared: self.load_squared + times * other.load_squared,
            time_squared: self.time_squared + times * other.time_squared,
            both: self.both + times * other.both,
        }
    }

    fn mean_load(&self) -> f64 {
        self.load / self.count.max(1.0)
    }

    /// Mean of ln(seconds).
    fn mean_time(&self) -> f64 {
        self.time / self.count.max(1.0)
    }

    /// The geometric mean in seconds.
    fn usual_s(&self) -> f64 {
        if self.count > 0.0 { self.mean_time().exp() } else { 0.0 }
    }

    /// Sums of squares and products around the means: of load, of time, of both.
    fn around_mean(&self) -> (f64, f64, f64) {
        let count = self.count.max(1.0);
        (
            (self.load_squared - self.load * self.load / count).max(0.0),
            (self.time_squared - self.time * self.time / count).max(0.0),
            self.both - self.load * self.time / count,
        )
    }

    /// The square of the standard error of [`Self::mean_time`].
    fn error_squared(&self) -> f64 {
        self.around_mean().1 / (self.count * (self.count - 1.0)).max(1.0)
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

/// No limit is above this: no server of a site that needs a gate has more workers, and a mistake has an end.
pub const LIMIT_MAX: u32 = 2048;

/// Throughput that grows by less than this share of what the limit grows by is not worth the time that every answer takes longer.
const ELASTICITY: f64 = 0.2;

/// A judgement is passed when the elasticity is so many standard errors from that.
const SURE: f64 = 1.5;

/// A limit is judged while so much of it is used, in the mean over a tick.
const FILLED: f64 = 0.9;

/// A limit that is tried above the one in force may fill more slowly, since nobody has been let in for it yet.
const FILLED_ABOVE: f64 = 0.75;

/// A slice of a trial lasts for as many usual answers, one after the other, and gives so many.
const SLICE_TIMES: f64 = 4.0;
const SLICE_ANSWERS: f64 = 10.0;

/// A slice that has not seen its answers after this has met something else.
const SLICE_MAX_S: f64 = 30.0;

/// A trial has at least this many cycles, and if it is not sure after the most nothing changes.
const CYCLES_MIN: usize = 3;
const CYCLES_MAX: usize = 12;

/// A trial steps by this share; after it was right by twice as much, up to the whole.
const STEP: f64 = 0.25;
const STEP_MAX: f64 = 1.0;

/// A rest after two trials that changed nothing; twice as long after each.
const REST_S: f64 = 10.0;
const REST_MAX_S: f64 = 160.0;

/// Answers that take longer, or shorter, by this factor than when the limit was judged are of another site.
const CHANGED: f64 = 1.4;
const CHANGED_WINDOW_S: f64 = 3.0;

/// A step of the climb is judged by at least so many answers, and without being sure at so many.
const CLIMB_ANSWERS: f64 = 20.0;
const CLIMB_ANSWERS_MAX: f64 = 200.0;

/// The search for the limit, and its memory.
#[derive(Clone, Debug)]
pub struct Concurrency {
    limit: u32,
    /// From below it is known to be worth it: the last judgement about going down was no.
    below_known: bool,
    above_known: bool,
    step: f64,
    rest_s: f64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Climb(Climb),
    Try(Trial),
    Rest(Rest),
}

/// Nothing is known yet: the limit doubles while answers do not take longer for it.
#[derive(Clone, Debug, Default)]
struct Climb {
    before: Option<Timings>,
    here: Timings,
    /// Until answers are of the new limit.
    settle_s: f64,
}

/// Two limits by turns: this one, that one twice, this one.
#[derive(Clone, Debug)]
struct Trial {
    other: u32,
    slice: u8,
    slice_s: f64,
    slice_answers: f64,
    cycle: Timings,
    cycles: Vec<Timings>,
}

#[derive(Clone, Debug)]
struct Rest {
    left_s: f64,
    /// What answers took when the rest began.
    usual: Option<f64>,
    window: Timings,
    window_s: f64,
    /// Windows in a row that were otherwise.
    otherwise: u32,
}

impl Concurrency {
    /// A search that knows nothing, or the limit that was saved.
    #[must_use]
    pub fn new(saved: Option<u32>) -> Self {
        let (limit, state) = match saved {
            Some(limit) => {
                let limit = limit.clamp(1, LIMIT_MAX);
                (limit, State::Try(Trial::of(above(limit, STEP))))
            }
            None => (FIRST, State::Climb(Climb::default())),
        };
        Self { limit, below_known: false, above_known: false, step: STEP, rest_s: REST_S, state }
    }

    /// The limit in force for each server until the next tick.
    #[must_use]
    pub fn limit(&self) -> u32 {
        match &self.state {
            State::Try(trial) if trial.slice == 1 || trial.slice == 2 => trial.other,
            State::Try(_) | State::Climb(_) | State::Rest(_) => self.limit,
        }
    }

    /// The limit over time, that others can be let in for.
    #[must_use]
    pub fn sustained(&self) -> f64 {
        match &self.state {
            State::Try(trial) if trial.is_under_way() => f64::from(self.limit + trial.other) / 2.0,
            State::Try(_) | State::Climb(_) | State::Rest(_) => f64::from(self.limit),
        }
    }

    /// The limit as judged, to be saved; none while nothing is known.
    #[must_use]
    pub const fn found(&self) -> Option<u32> {
        match self.state {
            State::Climb(_) => None,
            State::Try(_) | State::Rest(_) => Some(self.limit),
        }
    }

    /// Takes in one tick.
    pub fn tick(&mut self, sample: &Sample) {
        let fill = sample.in_flight / f64::from(self.limit());
        match &mut self.state {
            State::Climb(climb) if fill >= FILLED => {
                if let Some(after) = climb.tick(self.limit, sample) {
                    self.climbed(after);
                }
            }
            State::Climb(_) => {}
            State::Try(trial) => {
                let enough = if trial.other > self.limit && trial.slice > 0 { FILLED_ABOVE } else { FILLED };
                if fill < enough {
                    trial.start_again();
                } else if trial.tick(sample)
                    && let Some(verdict) = trial.judge()
                {
                    self.judged(verdict);
                }
            }
            State::Rest(rest) => {
                let changed = if fill >= FILLED { rest.compare(sample) } else { None };
                rest.left_s -= sample.seconds;
                if let Some(changed) = changed {
                    self.site_changed(changed);
                } else if rest.left_s <= 0.0 {
                    (self.below_known, self.above_known) = (false, false);
                    self.state = State::Try(Trial::of(above(self.limit, STEP)));
                }
            }
        }
    }

    fn climbed(&mut self, after: Climbed) {
        match after {
            Climbed::Higher if self.limit < LIMIT_MAX => {
                self.limit = (self.limit * 2).min(LIMIT_MAX);
            }
            Climbed::Higher => self.state = State::Try(Trial::of(below(self.limit, STEP))),
            Climbed::Between(limit) => {
                (self.limit, self.below_known) = (limit, true);
                self.state = State::Try(Trial::of(above(limit, STEP)));
            }
            Climbed::Below => {
                self.limit = (self.limit / 2).max(1);
                self.turn_down(STEP);
            }
        }
    }

    fn turn_down(&mut self, step: f64) {
        (self.above_known, self.below_known) = (true, false);
        self.step = step;
        if self.limit > 1 {
            self.state = State::Try(Trial::of(below(self.limit, step)));
        } else {
            self.below_known = true;
            self.rest();
        }
    }

    fn judged(&mut self, verdict: Judgement) {
        let State::Try(trial) = &self.state else { return };
        let (other, up) = (trial.other, trial.other > self.limit);
        match (verdict, up) {
            (Judgement::Worth, true) => {
                self.limit = other;
                (self.below_known, self.above_known) = (true, false);
                self.step = (self.step * 2.0).min(STEP_MAX);
                self.rest_s = REST_S;
                self.try_up();
            }
            (Judgement::NotWorth, false) => {
                self.limit = other;
                self.step = STEP;
                self.rest_s = REST_S;
                self.turn_down(STEP);
            }
            // too wide a step may have gone over the top of it
            (Judgement::NotWorth | Judgement::Unsure, true) if self.step > STEP => {
                self.step = STEP;
                self.try_up();
            }
            (_, true) => {
                self.above_known = true;
                if self.below_known { self.rest() } else { self.try_down() }
            }
            (_, false) => {
                self.below_known = true;
                self.step = STEP;
                if self.above_known { self.rest() } else { self.try_up() }
            }
        }
    }

    fn try_up(&mut self) {
        if self.limit >= LIMIT_MAX {
            self.rest();
        } else {
            self.state = State::Try(Trial::of(above(self.limit, self.step)));
        }
    }

    fn try_down(&mut self) {
        if self.limit > 1 {
            self.state = State::Try(Trial::of(below(self.limit, STEP)));
        } else {
            self.below_known = true;
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.step = STEP;
        self.state = State::Rest(Rest { left_s: self.rest_s, usual: None, window: Timings::default(), window_s: 0.0, otherwise: 0 });
        self.rest_s = (self.rest_s * 2.0).min(REST_MAX_S);
    }

    fn site_changed(&mut self, changed: Changed) {
        self.rest_s = REST_S;
        (self.below_known, self.above_known) = (false, false);
        if changed == Changed::Slower {
            // either every page takes longer, or workers are lost: as many as that may well be
            self.turn_down(STEP_MAX);
            self.above_known = false;
        } else {
            self.step = STEP;
            self.try_up();
        }
    }
}

/// What a step of the climb comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Climbed {
    Higher,
    /// The limit is between this one and half of it.
    Between(u32),
    /// Half of it was too much already.
    Below,
}

impl Climb {
    fn tick(&mut self, limit: u32, sample: &Sample) -> Option<Climbed> {
        self.settle_s -= sample.seconds;
        if self.settle_s > -1e-9 {
            return None;
        }
        self.here = self.here.plus(&sample.timings, 1.0);
        if self.here.count < CLIMB_ANSWERS {
            return None;
        }
        let after = match &self.before {
            None => Climbed::Higher,
            Some(before) => {
                let longer = self.here.mean_time() - before.mean_time();
                let more = (self.here.mean_load() - before.mean_load()).max(0.1);
                let elasticity = 1.0 - longer / more;
                let error = (self.here.error_squared() + before.error_squared()).sqrt() / more;
                if elasticity - SURE * error > ELASTICITY {
                    Climbed::Higher
                } else if elasticity + SURE * error < ELASTICITY || self.here.count > CLIMB_ANSWERS_MAX {
                    // with as many requests for each worker as answers take longer
                    let workers = f64::from(limit) * (-longer).exp();
                    if workers < 0.55 * f64::from(limit) { Climbed::Below } else { Climbed::Between(whole(workers).min(limit)) }
                } else {
                    return None;
                }
            }
        };
        let usual_s = self.here.usual_s();
        *self = Self { before: Some(self.here), here: Timings::default(), settle_s: (2.0 * usual_s).max(0.5) };
        Some(after)
    }
}

/// What a trial says about the larger of two limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Worth,
    NotWorth,
    Unsure,
}

impl Trial {
    const fn of(other: u32) -> Self {
        Self { other, slice: 0, slice_s: 0.0, slice_answers: 0.0, cycle: Timings::NONE, cycles: Vec::new() }
    }

    fn is_under_way(&self) -> bool {
        self.slice > 0 || !self.cycles.is_empty()
    }

    fn start_again(&mut self) {
        (self.slice, self.slice_s, self.slice_answers, self.cycle) = (0, 0.0, 0.0, Timings::NONE);
    }

    /// Whether a cycle is over.
    fn tick(&mut self, sample: &Sample) -> bool {
        self.cycle = self.cycle.plus(&sample.timings, 1.0);
        self.slice_s += sample.seconds;
        self.slice_answers += sample.timings.count;
        if self.slice_s < SLICE_TIMES * self.cycle.usual_s() || self.slice_answers < SLICE_ANSWERS {
            if self.slice_s > SLICE_MAX_S {
                self.start_again();
            }
            return false;
        }
        (self.slice_s, self.slice_answers) = (0.0, 0.0);
        self.slice += 1;
        if self.slice < 4 {
            return false;
        }
        self.cycles.push(self.cycle);
        self.start_again();
        true
    }

    fn judge(&self) -> Option<Judgement> {
        if self.cycles.len() < CYCLES_MIN {
            return None;
        }
        let (slope, error) = slope(&self.cycles)?;
        let elasticity = 1.0 - slope;
        if elasticity - SURE * error > ELASTICITY {
            Some(Judgement::Worth)
        } else if elasticity + SURE * error < ELASTICITY {
            Some(Judgement::NotWorth)
        } else {
            (self.cycles.len() >= CYCLES_MAX).then_some(Judgement::Unsure)
        }
    }
}

/// How answers are otherwise than they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Slower,
    Faster,
}

impl Rest {
    /// Whether the site has become another one.
    fn compare(&mut self, sample: &Sample) -> Option<Changed> {
        self.window = self.window.plus(&sample.timings, 1.0);
        self.window_s += sample.seconds;
        if self.window_s < CHANGED_WINDOW_S || self.window.count < CLIMB_ANSWERS {
            return None;
        }
        let (mean, error) = (self.window.mean_time(), self.window.error_squared().sqrt());
        (self.window, self.window_s) = (Timings::NONE, 0.0);
        let Some(usual) = self.usual else {
            self.usual = Some(mean);
            return None;
        };
        let by = mean - usual;
        if by.abs() < CHANGED.ln() + 2.0 * error {
            self.otherwise = 0;
        } else {
            self.otherwise += 1;
        }
        (self.otherwise >= 2).then_some(if by > 0.0 { Changed::Slower } else { Changed::Faster })
    }
}

/// The slope of ln(time) over ln(in flight) within cycles, and its standard error: the larger of what the spread of the answers and
/// of what the spread of the cycles says, since answers of one moment are alike.
fn slope(cycles: &[Timings]) -> Option<(f64, f64)> {
    let parts: Vec<(f64, f64, f64)> = cycles.iter().map(Timings::around_mean).collect();
    let (loads, times, both) = parts.iter().fold((0.0, 0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1, sum.2 + part.2));
    if loads <= 1e-6 {
        return None;
    }
    let slope = both / loads;
    let (count, groups): (f64, f64) = (cycles.iter().map(|cycle| cycle.count).sum(), f64_of(cycles.len()));
    let spread = (times - slope * both).max(0.0) / (count - groups - 1.0).max(1.0);
    let of_answers = (spread / loads).sqrt();
    let between: f64 = parts.iter().map(|part| (part.2 - slope * part.0).powi(2)).sum();
    let of_cycles = (between * groups / (groups - 1.0).max(1.0)).sqrt() / loads;
    Some((slope, of_answers.max(of_cycles)))
}

fn above(limit: u32, step: f64) -> u32 {
    whole(f64::from(limit) * (1.0 + step)).clamp(limit + 1, LIMIT_MAX.max(limit + 1))
}

fn below(limit: u32, step: f64) -> u32 {
    whole(f64::from(limit) / (1.0 + step)).clamp(1, limit.saturating_sub(1).max(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small; `as` saturates")]
fn whole(limit: f64) -> u32 {
    limit.round() as u32
}

#[expect(clippy::cast_precision_loss, reason = "a few cycles")]
const fn f64_of(count: usize) -> f64 {
    count as f64
}
