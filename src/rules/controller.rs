//! The law (layer 1): admit what is left over.
//!
//! Each tick, the site's capacity less what those already in will ask for, less the excess of the slot queue, is the rate at which
//! newcomers may enter. It needs no latency threshold, no learned baseline and no number from the operator but the slots of the
//! site.
//!
//! What those already in will ask for is foreseen, not waited for: how many requests a visitor makes in the n-th second after its
//! admission is measured (the profile), and who was admitted when is known. A rate that is only measured comes seconds late; with
//! sessions of half a minute, and pages four seconds apart, a law that waits for it swings between a full queue and an idle site.
//!
//! Absent: who the newcomers are (`draw.rs` and `decide.rs` turn the rate into odds).

use std::collections::VecDeque;
use std::time::Duration;

/// The window over which rates are read: short enough to follow a surge, long enough to hold a few answers of a small site. A site that
/// was sent nothing for as long is probed.
const WINDOW: Duration = Duration::from_secs(5);

/// The window is stretched until it holds this many good answers: fewer say too little about the mean.
const ANSWERS: u32 = 20;

/// But no further than this: what was a minute ago is no longer so.
const WINDOW_MAX: Duration = Duration::from_secs(60);

/// More failures than this are a site that fails, and not a part of it that always does.
const GOOD_SHARE_MIN: f64 = 0.5;

/// The excess of the slot queue is worked off within this.
const SETTLE: Duration = Duration::from_secs(2);

/// How fast what is known of the profile is forgotten: half of it is of the last twenty seconds.
const PROFILE_MEMORY: Duration = Duration::from_secs(30);

/// Ticks after its admission for which a visitor's requests are foreseen by the profile; what older ones ask for is measured. As
/// long as the longest window: what a minute does not show is no transient.
pub const AGES: usize = 60;

/// The weight of the mean over all ages in each age's rate, in visitors: an age that hardly anyone has reached yet says little.
const PROFILE_PRIOR: f64 = 10.0;

/// What happened in one tick, and how things stand at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Length of the tick in seconds.
    pub seconds: f64,
    /// Good answers to requests that count: not 5xx, not a connect error, not a timeout.
    pub good: u32,
    /// All answers to requests that count.
    pub answers: u32,
    /// Slot-seconds used by requests that count.
    pub slot_seconds: f64,
    /// Slot-seconds used by all others: open routes, and routes whose answers say nothing about the load.
    pub other_slot_seconds: f64,
    /// Requests that count, by how many ticks ago their visitor was admitted; 0 is this tick.
    pub by_age: [u32; AGES],
    /// Requests that count, of visitors admitted before that, invited or of the staff.
    pub returning: u32,
    /// Newcomers admitted.
    pub admitted: u32,
    /// Requests sent to the site, of any kind.
    pub sent: u32,
    /// Requests at the site now.
    pub in_flight: u32,
    /// Requests that wait for a slot of the site now.
    pub queued: usize,
    /// Slots of the site, over time.
    pub slots: f64,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            seconds: 0.0,
            good: 0,
            answers: 0,
            slot_seconds: 0.0,
            other_slot_seconds: 0.0,
            by_age: [0; AGES],
            returning: 0,
            admitted: 0,
            sent: 0,
            in_flight: 0,
            queued: 0,
            slots: 0.0,
        }
    }
}

/// What the operator says about the law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Work kept waiting for a slot: less, and workers idle between ticks; more is only latency.
    pub queue_wait: Duration,
    /// Newcomers a second that a silent site is probed with.
    pub probe_rate: f64,
}

/// What the law says for the next tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Law {
    /// Good answers a second that the site can give now.
    pub capacity: f64,
    /// Requests a second asked for by those already in, as a share of the capacity.
    pub load: f64,
    /// Requests a second that those already in will ask for in the next tick.
    pub committed: f64,
    /// Newcomers a second that may enter.
    pub newcomers: f64,
    /// Requests that a newcomer makes at once; 1 or more.
    pub requests_per_newcomer: f64,
    /// Requests a second, well answered or not, that the site can be asked for now.
    pub requests: f64,
}

/// The memory of the law.
#[derive(Clone, Debug)]
pub struct Controller {
    window: VecDeque<Window>,
    capacity: Option<f64>,
    profile: Profile,
    quiet_s: f64,
}

impl Controller {
    /// A controller that knows nothing yet, or the capacity that was saved.
    #[must_use]
    pub fn new(saved_capacity: Option<f64>) -> Self {
        Self {
            window: VecDeque::new(),
            capacity: saved_capacity.filter(|capacity| capacity.is_finite() && *capacity > 0.0),
            profile: Profile::default(),
            quiet_s: 0.0,
        }
    }

    /// Takes in one tick and says what follows.
    pub fn tick(&mut self, reading: &Reading, settings: &Settings) -> Law {
        self.remember(reading);
        let window = self.sum();
        let capacity = self.measure(&window, reading.slots);
        self.profile.tick(reading);
        let committed = window.returning / window.seconds + self.profile.foreseen();
        let requests_per_newcomer = self.profile.at_once();

        // visitors ask for all of them, whether they are answered well or not
        let requests = capacity / window.good_share();
        let excess = f64_of(reading.queued) - settings.queue_wait.as_secs_f64() * requests;
        let left = requests - committed - excess / SETTLE.as_secs_f64();
        let mut newcomers = (left / requests_per_newcomer).max(0.0);
        if self.is_quiet(reading) {
            newcomers = newcomers.max(settings.probe_rate);
        }
        Law { capacity, load: share(window.asked / window.seconds, requests), committed, newcomers, requests_per_newcomer, requests }
    }

    /// The capacity as last measured, to be saved.
    #[must_use]
    pub const fn capacity(&self) -> Option<f64> {
        self.capacity
    }

    fn remember(&mut self, reading: &Reading) {
        self.window.push_front(Window::of(reading));
        let mut seconds = 0.0;
        let within = self.window.iter().take_while(|reading| {
            let before = seconds;
            seconds += reading.seconds;
            before < WINDOW_MAX.as_secs_f64()
        });
        let keep = within.count();
        self.window.truncate(keep);
    }

    fn sum(&self) -> Window {
        let mut window = Window::default();
        for reading in &self.window {
            let long_enough = window.seconds >= WINDOW.as_secs_f64() && window.good >= f64::from(ANSWERS);
            if long_enough || window.seconds >= WINDOW_MAX.as_secs_f64() {
                break;
            }
            window.add(reading);
        }
        window.seconds = window.seconds.max(f64::EPSILON);
        window
    }

    fn measure(&mut self, window: &Window, slots: f64) -> f64 {
        let kept = self.capacity.unwrap_or(slots);
        // requests that don't count hold slots too: what they hold is not there for those that do
        let free = (slots - window.other_slot_seconds / window.seconds).max(slots.min(1.0));
        let found = |slot_seconds: f64| free * window.good / slot_seconds.max(1e-6);
        let capacity = if window.answers >= f64::from(ANSWERS) || window.slot_seconds >= slots {
            found(window.slot_seconds)
        } else if window.good > 0.0 {
            // few answers prove their share of what they promise: so a silent site that is probed comes back, however small
            let proven = found(window.slot_seconds) * window.good / f64::from(ANSWERS);
            kept.max(proven)
        } else {
            kept
        };
        if window.answers > 0.0 || window.slot_seconds >= slots {
            self.capacity = Some(capacity);
        }
        capacity
    }

    fn is_quiet(&mut self, reading: &Reading) -> bool {
        let busy = reading.in_flight > 0 || reading.sent > 0 || reading.answers > 0;
        self.quiet_s = if busy { 0.0 } else { self.quiet_s + reading.seconds };
        self.quiet_s >= WINDOW.as_secs_f64()
    }
}

/// Sums over ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    seconds: f64,
    good: f64,
    answers: f64,
    slot_seconds: f64,
    other_slot_seconds: f64,
    returning: f64,
    asked: f64,
}

impl Window {
    fn of(reading: &Reading) -> Self {
        let young: f64 = reading.by_age.iter().copied().map(f64::from).sum();
        Self {
            seconds: reading.seconds,
            good: f64::from(reading.good),
            answers: f64::from(reading.answers),
            slot_seconds: reading.slot_seconds,
            other_slot_seconds: reading.other_slot_seconds,
            returning: f64::from(reading.returning),
            asked: f64::from(reading.returning) + young,
        }
    }

    /// How many of the requests are answered well, as far as the others may be taken for a part of the site that always fails. Where most
    /// fail the site does, and what it can do is what it answers well.
    fn good_share(&self) -> f64 {
        if self.answers < f64::from(ANSWERS) { 1.0 } else { (self.good / self.answers).max(GOOD_SHARE_MIN) }
    }

    fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.good += other.good;
        self.answers += other.answers;
        self.slot_seconds += other.slot_seconds;
        self.other_slot_seconds += other.other_slot_seconds;
        self.returning += other.returning;
        self.asked += other.asked;
    }
}

/// What visitors ask for, by their age: for each age in ticks, requests seen and visitors who reached it, both slowly forgotten.
#[derive(Clone, Debug)]
struct Profile {
    asked: [f64; AGES],
    reached: [f64; AGES],
    /// Newcomers admitted so many ticks ago.
    admitted: VecDeque<f64>,
}

impl Default for Profile {
    fn default() -> Self {
        Self { asked: [0.0; AGES], reached: [0.0; AGES], admitted: VecDeque::from([0.0; AGES]) }
    }
}

impl Profile {
    fn tick(&mut self, reading: &Reading) {
        // a tick that came late stands for several, in which nobody can be told to have come
        let missed = whole(reading.seconds.round().clamp(1.0, f64_of(AGES))) - 1;
        for _ in 0..missed {
            self.admitted.push_front(0.0);
        }
        self.admitted.push_front(f64::from(reading.admitted));
        self.admitted.truncate(AGES);
        let kept = (-reading.seconds / PROFILE_MEMORY.as_secs_f64()).exp();
        let ages = self.asked.iter_mut().zip(&mut self.reached).zip(&self.admitted);
        for (((asked, reached), admitted), now) in ages.zip(reading.by_age) {
            *asked = *asked * kept + f64::from(now);
            *reached = *reached * kept + admitted;
        }
    }

    /// Requests in the next tick of all who were admitted in the last [`AGES`].
    fn foreseen(&self) -> f64 {
        let (asked, reached) = (self.asked[1..].iter().sum::<f64>(), self.reached[1..].iter().sum::<f64>());
        let mean = if reached < 1.0 { 0.0 } else { asked / reached };
        let rates = self.asked[1..].iter().zip(&self.reached[1..]);
        rates
            .zip(&self.admitted)
            .map(|((asked, reached), admitted)| admitted * (asked + PROFILE_PRIOR * mean) / (reached + PROFILE_PRIOR))
            .sum()
    }

    /// Requests that a newcomer makes in the tick of its admission; 1 or more.
    fn at_once(&self) -> f64 {
        if self.reached[0] < 1.0 { 1.0 } else { (self.asked[0] / self.reached[0]).max(1.0) }
    }
}

/// The tokens of newcomers: a bucket of one tick. It holds whatever the odds say, so that odds of 1 can't dump the crowd on the site.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tokens {
    fraction: f64,
}

/// The most that is left over from one tick to the next: dropping it would shut a tiny site for ever, and a probe that nobody came for
/// in this second is there in the next.
const LEFT_OVER_MAX: f64 = 1.0;

/// A tick that came later than this is no reason to let in all at once whom it kept waiting.
const TICK_MAX_S: f64 = 2.0;

impl Tokens {
    /// The tokens of the next tick, after one that lasted `seconds` and left `unspent`.
    pub fn next(&mut self, newcomers_per_second: f64, seconds: f64, unspent: u32) -> u32 {
        let left_over = (self.fraction + f64::from(unspent)).min(LEFT_OVER_MAX);
        let tokens = (newcomers_per_second * seconds.min(TICK_MAX_S)).clamp(0.0, f64::from(u32::MAX)) + left_over;
        self.fraction = tokens.fract();
        whole(tokens)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped by the caller; `as` saturates")]
const fn whole(tokens: f64) -> u32 {
    tokens as u32
}

#[expect(clippy::cast_precision_loss, reason = "a queue of 2^52 does not exist")]
const fn f64_of(count: usize) -> f64 {
    count as f64
}

/// A share that stays finite when the capacity is nothing: nothing asked is no load, anything asked of a dead site is far too much.
fn share(asked: f64, capacity: f64) -> f64 {
    if asked <= 0.0 { 0.0 } else { (asked / capacity.max(1e-9)).min(LOAD_MAX) }
}

/// The load that is shown for a site without capacity.
const LOAD_MAX: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { queue_wait: Duration::from_millis(200), probe_rate: 0.2 };

    /// A site of 8 workers at 80 ms: 100 good answers a second at most.
    fn answered(good: u32) -> Reading {
        Reading { seconds: 1.0, good, answers: good, sent: good, slot_seconds: f64::from(good) * 0.08, slots: 8.0, ..Reading::default() }
    }

    fn at_age(age: usize, requests: u32) -> [u32; AGES] {
        let mut by_age = [0; AGES];
        by_age[age] = requests;
        by_age
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn capacity_is_found_at_any_utilisation() {
        for good in [20, 50, 100] {
            let mut controller = Controller::new(None);
            let law = controller.tick(&answered(good), &SETTINGS);
            assert!(close(law.capacity, 100.0), "{good}: {}", law.capacity);
        }
    }

    #[test]
    fn a_cold_start_assumes_one_request_a_second_a_slot_and_learns_from_its_first_answers() {
        let mut controller = Controller::new(None);
        assert!(close(controller.tick(&Reading { seconds: 1.0, slots: 8.0, ..Reading::default() }, &SETTINGS).capacity, 8.0));
        let some = controller.tick(&answered(10), &SETTINGS).capacity;
        assert!(close(some, 50.0), "half of the answers that it takes prove half: {some}");
        assert!(close(controller.tick(&answered(10), &SETTINGS).capacity, 100.0));
    }

    #[test]
    fn a_saved_capacity_is_kept_until_something_is_known() {
        let mut controller = Controller::new(Some(70.0));
        assert!(close(controller.tick(&answered(0), &SETTINGS).capacity, 70.0));
        assert!(close(controller.tick(&answered(1), &SETTINGS).capacity, 70.0));
        assert!(Controller::new(Some(f64::NAN)).capacity().is_none());
    }

    #[test]
    fn newcomers_are_what_is_left_over() {
        let mut controller = Controller::new(None);
        let law = controller.tick(&Reading { returning: 60, queued: 20, ..answered(100) }, &SETTINGS);
        // 100 - 60, and the 20 that wait are just the work to be kept waiting
        assert!(close(law.newcomers, 40.0), "{}", law.newcomers);
        assert!(close(law.committed, 60.0));
    }

    #[test]
    fn a_queue_that_is_too_long_is_worked_off_in_two_seconds() {
        let mut controller = Controller::new(None);
        let law = controller.tick(&Reading { returning: 60, queued: 60, ..answered(100) }, &SETTINGS);
        assert!(close(law.newcomers, 20.0), "{}", law.newcomers);
        let law = controller.tick(&Reading { returning: 60, queued: 500, ..answered(100) }, &SETTINGS);
        assert!(close(law.newcomers, 0.0));
    }

    #[test]
    fn a_newcomer_is_counted_with_all_that_it_asks_for_at_once() {
        let mut controller = Controller::new(None);
        let law = controller.tick(&Reading { admitted: 5, by_age: at_age(0, 20), queued: 20, ..answered(100) }, &SETTINGS);
        assert!(close(law.requests_per_newcomer, 4.0));
        assert!(close(law.newcomers, 25.0));
    }

    #[test]
    fn what_newcomers_will_ask_for_is_foreseen_from_what_others_asked_for_at_their_age() {
        let mut controller = Controller::new(None);
        // each asks for one page at once, and for one four ticks later
        let tick = |ticks: usize| Reading {
            admitted: 10,
            by_age: if ticks < 4 { at_age(0, 10) } else { std::array::from_fn(|age| if age == 0 || age == 4 { 10 } else { 0 }) },
            ..answered(100)
        };
        let mut law = Law::default();
        for ticks in 0..200 {
            law = controller.tick(&tick(ticks), &SETTINGS);
        }
        assert!((law.committed - 10.0).abs() < 0.5, "{}", law.committed);
        // nobody comes any more: the last ones are still foreseen, until they have asked
        let empty = Reading { by_age: at_age(4, 10), ..answered(100) };
        for _ in 0..3 {
            law = controller.tick(&empty, &SETTINGS);
        }
        assert!(law.committed > 8.0, "{}", law.committed);
        law = controller.tick(&empty, &SETTINGS);
        assert!(law.committed < 2.0, "{}", law.committed);
    }

    #[test]
    fn a_late_tick_moves_the_ages_by_as_many_ticks_as_it_missed() {
        let mut controller = Controller::new(None);
        controller.tick(&Reading { admitted: 10, by_age: at_age(0, 10), ..answered(100) }, &SETTINGS);
        controller.tick(&Reading { seconds: 7.2, ..answered(100) }, &SETTINGS);
        assert!(close(controller.profile.admitted[7], 10.0), "{:?}", controller.profile.admitted);
        controller.tick(&Reading { seconds: 1e9, ..answered(100) }, &SETTINGS);
        assert!(controller.profile.admitted.iter().all(|&admitted| close(admitted, 0.0)));
    }

    #[test]
    fn what_always_fails_is_a_part_of_what_visitors_ask_for() {
        let half_used = |good| Reading { good, returning: 60, queued: 20, ..answered(100) };
        let law = Controller::new(None).tick(&half_used(70), &SETTINGS);
        assert!(close(law.capacity, 70.0), "70 of 100 requests can be answered well: {}", law.capacity);
        assert!(close(law.newcomers, 40.0), "and all 100 be asked for: {}", law.newcomers);
        assert!(close(law.load, 0.6), "{}", law.load);
        let law = Controller::new(None).tick(&half_used(10), &SETTINGS);
        assert!(close(law.newcomers, 0.0), "a site that fails is not given more: {}", law.newcomers);
    }

    #[test]
    fn a_site_that_fails_fast_has_little_capacity() {
        let mut controller = Controller::new(None);
        let failing = Reading { good: 2, answers: 100, slot_seconds: 8.0, ..answered(0) };
        assert!(close(controller.tick(&failing, &SETTINGS).capacity, 2.0));
    }

    #[test]
    fn a_site_that_hangs_has_none() {
        let mut controller = Controller::new(Some(100.0));
        let hanging = Reading { seconds: 1.0, slots: 8.0, slot_seconds: 8.0, in_flight: 8, queued: 3, ..Reading::default() };
        let law = controller.tick(&hanging, &SETTINGS);
        assert!(close(law.capacity, 0.0));
        assert!(close(law.newcomers, 0.0));
    }

    #[test]
    fn a_silent_dead_site_is_probed_and_comes_back() {
        let mut controller = Controller::new(Some(100.0));
        let hanging = Reading { seconds: 1.0, slots: 8.0, slot_seconds: 8.0, in_flight: 8, ..Reading::default() };
        for _ in 0..70 {
            controller.tick(&hanging, &SETTINGS);
        }
        let silent = Reading { seconds: 1.0, slots: 8.0, ..Reading::default() };
        let rates: Vec<f64> = (0..6).map(|_| controller.tick(&silent, &SETTINGS).newcomers).collect();
        assert!(close(rates[3], 0.0) && close(rates[4], 0.2) && close(rates[5], 0.2), "{rates:?}");
        // the probes of a minute are forgotten with the dead minute behind them, and what they show is believed by and by
        let mut capacity = 0.0;
        for tick in 0..75 {
            let probe = if tick % 5 == 0 { answered(1) } else { silent };
            capacity = controller.tick(&probe, &SETTINGS).capacity;
        }
        assert!(capacity > 30.0, "{capacity}");
    }

    #[test]
    fn requests_that_do_not_count_take_slots_away() {
        let mut controller = Controller::new(None);
        let law = controller.tick(&Reading { other_slot_seconds: 4.0, ..answered(50) }, &SETTINGS);
        assert!(close(law.capacity, 50.0), "{}", law.capacity);
    }

    #[test]
    fn the_window_holds_five_seconds_and_stretches_for_a_sparse_site() {
        let mut controller = Controller::new(None);
        for _ in 0..10 {
            controller.tick(&answered(100), &SETTINGS);
        }
        let slow = Reading { slot_seconds: 8.0, ..answered(50) };
        for _ in 0..5 {
            controller.tick(&slow, &SETTINGS);
        }
        assert!(close(controller.tick(&slow, &SETTINGS).capacity, 50.0));
        let mut sparse = Controller::new(None);
        let mut law = Law::default();
        for _ in 0..30 {
            law = sparse.tick(&Reading { returning: 1, ..answered(1) }, &SETTINGS);
        }
        assert!(close(law.capacity, 100.0) && close(law.committed, 1.0));
    }

    #[test]
    fn load_is_the_share_asked_for_by_those_already_in() {
        let mut controller = Controller::new(None);
        let law = controller.tick(&Reading { returning: 40, by_age: at_age(0, 10), admitted: 10, ..answered(50) }, &SETTINGS);
        assert!(close(law.load, 0.5));
        assert!(close(share(1.0, 0.0), LOAD_MAX) && close(share(0.0, 0.0), 0.0));
    }

    #[test]
    fn tokens_carry_the_fraction() {
        let mut tokens = Tokens::default();
        let given: Vec<u32> = (0..6).map(|_| tokens.next(0.4, 1.0, 0)).collect();
        assert_eq!(given, [0, 0, 1, 0, 1, 0]);
        assert_eq!(tokens.next(10.0, 1.0, 0), 10);
        assert_eq!(tokens.next(0.0, 1.0, 0), 0);
        assert_eq!(tokens.next(f64::INFINITY, 1.0, 0), u32::MAX);
        assert_eq!(tokens.next(f64::INFINITY, 1.0, u32::MAX), u32::MAX);
    }

    #[test]
    fn a_token_that_nobody_came_for_stays_and_a_bucket_of_them_does_not() {
        let mut tokens = Tokens::default();
        let given: Vec<u32> = (0..3).map(|_| tokens.next(0.5, 1.0, 0)).collect();
        assert_eq!(given, [0, 1, 0]);
        assert_eq!(tokens.next(0.5, 1.0, 0), 1);
        assert_eq!(tokens.next(0.5, 1.0, 1), 1);
        assert_eq!(tokens.next(10.0, 1.0, 1), 11);
        assert_eq!(tokens.next(0.0, 1.0, 11), 1);
    }

    #[test]
    fn a_late_tick_gives_no_more_than_two() {
        assert_eq!(Tokens::default().next(10.0, 60.0, 0), 20);
    }
}
