//! How long a draw takes: what visitors of a lottery are told of their wait.
//!
//! The odds of now do not last. As long as more come than enter the crowd grows, and everyone in it grows older, so that the odds of each
//! fall while one's own weight rises. The crowd is carried forward as it goes now, once a tick; each ticket then reads its own times
//! from what that comes to.
//!
//! Absent: what was measured (the gate's), and the words for it (the page's).

use std::time::Duration;

use super::draw::AGEING;

/// A crowd that draws, as measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crowd {
    /// Tickets that attend.
    pub tickets: f64,
    /// By how many more it is each second.
    pub tickets_growth: f64,
    /// What they weigh together.
    pub weights: f64,
    /// The sum of the squares of their weights: who is drawn weighs more than the mean.
    pub squares: f64,
    /// How many of them enter a second.
    pub entering: f64,
    /// The length of an epoch, in seconds.
    pub epoch_s: f64,
}

impl Crowd {
    /// The crowd so much later, if it goes on as it does: small steps only.
    #[must_use]
    pub fn later(&self, seconds: f64) -> Self {
        let tickets = self.tickets.max(1.0);
        let weights = self.weights.max(tickets);
        let heavier = self.heavier();
        let arriving = self.tickets_growth + self.entering;
        let leaving = self.entering * heavier * weights / tickets;
        let growth = arriving + tickets / AGEING.as_secs_f64() - leaving;
        let tickets = (tickets + self.tickets_growth * seconds).max(1.0);
        let weights = (weights + growth * seconds).max(tickets);
        Self { tickets, weights, squares: heavier * weights * weights / tickets, ..*self }
    }

    /// By how much who is drawn weighs more than the mean.
    fn heavier(&self) -> f64 {
        let weights = self.weights.max(1.0);
        (self.squares * self.tickets / (weights * weights)).clamp(1.0, HEAVIER_MAX)
    }

    /// The rate at which a ticket of weight 1 is drawn.
    fn rate(&self) -> f64 {
        certain(self.entering * self.epoch_s / self.tickets.max(1.0)) * self.entering / self.weights.max(1.0)
    }
}

/// How long a ticket still waits, if the crowd goes on as it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// Half of those like it are in within this; four hours stand for more.
    pub half: Duration,
    /// Nine of ten are in within this; four hours stand for more.
    pub nine_of_ten: Duration,
}

/// What is to come, for every ticket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    /// In the order of time; none while no one is let in.
    points: Vec<Point>,
    /// What a draw comes later than it counts from.
    delay_s: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Point {
    at_s: f64,
    /// The rate at which a ticket of weight 1 is drawn, summed up to here.
    drawn: f64,
    /// The same, for the weight that is added from now on.
    drawn_by_age: f64,
}

impl Outlook {
    /// That of a crowd.
    #[must_use]
    pub fn of(crowd: &Crowd) -> Self {
        if crowd.entering < NOBODY {
            return Self::default();
        }
        let mut crowd = *crowd;
        let points = Self::points(|at_s, seconds| {
            // as in the middle of the step, so that a step of many seconds is as good as many of one
            let middle = crowd.later(seconds / 2.0);
            let slope = (middle.later(1.0).weights - middle.weights).max(1.0 - middle.weights);
            let ends = crowd.later(seconds);
            let weights = (crowd.weights + slope * seconds).max(ends.tickets);
            let squares = crowd.heavier() * weights * weights / ends.tickets;
            crowd = Crowd { weights, squares, ..ends };
            let rate = middle.rate();
            (rate, rate * (at_s + seconds / 2.0) / AGEING.as_secs_f64())
        });
        Self { points, delay_s: crowd.epoch_s / 2.0 }
    }

    /// That of odds which the operator has set: they stay, and weights do not count.
    #[must_use]
    pub fn fixed(odds: f64, epoch: Duration) -> Self {
        if odds <= 0.0 {
            return Self::default();
        }
        let epoch_s = epoch.as_secs_f64();
        let rate = certain(odds) * odds / epoch_s;
        Self { points: Self::points(|_, _| (rate, 0.0)), delay_s: epoch_s / 2.0 }
    }

    /// Sums up rates: of weight 1, and of what is added to it.
    fn points(mut rates: impl FnMut(f64, f64) -> (f64, f64)) -> Vec<Point> {
        let mut point = Point::default();
        let mut points = vec![point];
        let horizon_s = HORIZON.as_secs_f64();
        while point.at_s < horizon_s {
            let seconds = (point.at_s * STEP).clamp(1.0, horizon_s - point.at_s + 1.0);
            let (drawn, drawn_by_age) = rates(point.at_s, seconds);
            point.at_s += seconds;
            point.drawn += drawn * seconds;
            point.drawn_by_age += drawn_by_age * seconds;
            points.push(point);
        }
        points
    }

    /// The wait of a ticket that weighs so much now; `None` while no one is let in.
    #[must_use]
    pub fn wait(&self, weight: f64) -> Option<Wait> {
        if self.points.is_empty() {
            return None;
        }
        Some(Wait { half: self.time(weight, 0.5), nine_of_ten: self.time(weight, 0.1) })
    }

    /// The time after which the chance to be still outside is `outside`.
    fn time(&self, weight: f64, outside: f64) -> Duration {
        let needed = -outside.ln();
        let drawn = |point: &Point| weight * point.drawn + point.drawn_by_age;
        let after = self.points.partition_point(|point| drawn(point) < needed);
        let time_s = match (after.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(after)) {
            (Some(before), Some(after)) => {
                let share = (needed - drawn(before)) / (drawn(after) - drawn(before)).max(f64::MIN_POSITIVE);
                before.at_s + (after.at_s - before.at_s) * share
            }
            (None, _) => 0.0,
            (Some(_), None) => HORIZON.as_secs_f64(),
        };
        Duration::try_from_secs_f64(time_s + self.delay_s).unwrap_or(HORIZON)
    }
}

/// By how much more often a ticket is drawn whose chance in an epoch is this than a rate of as much would say: draws are few and large
/// where the crowd is small.
fn certain(chance: f64) -> f64 {
    let chance = chance.clamp(1e-9, 0.99);
    -(-chance).ln_1p() / chance
}

/// Beyond this nobody is told a figure.
const HORIZON: Duration = Duration::from_secs(4 * 3600);

/// Steps grow with the time that they are ahead: a hundred of them reach the horizon.
const STEP: f64 = 0.1;

/// Who is drawn weighs more than the mean by this factor at the most: a third in a crowd of all ages, and more only in one that came in
/// two waves.
const HEAVIER_MAX: f64 = 3.0;

/// Fewer than this a second are nobody: a mean over the recent past is never nothing again.
pub(super) const NOBODY: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::super::draw;
    use super::super::time::UnixTime;
    use super::*;

    const E: f64 = 10.0;

    /// A crowd that neither grows nor grows older by much: so many tickets of weight 1, of which as many enter as come.
    fn steady(tickets: f64, entering: f64) -> Crowd {
        Crowd { tickets, tickets_growth: 0.0, weights: tickets, squares: tickets, entering, epoch_s: E }
    }

    #[test]
    fn nobody_can_say_how_long_while_no_one_is_let_in() {
        assert_eq!(Outlook::of(&steady(100.0, 0.0)).wait(1.0), None);
        assert_eq!(Outlook::fixed(0.0, Duration::from_secs(10)).wait(1.0), None);
    }

    #[test]
    fn the_wait_of_fixed_odds_is_that_of_repeated_draws() {
        for odds in [0.002, 0.02, 0.3] {
            let wait = Outlook::fixed(odds, Duration::from_secs(10)).wait(1.0).unwrap();
            let draws = |outside: f64| 10.0 * outside.ln() / f64::ln_1p(-odds);
            for (told, true_s) in [(wait.half, draws(0.5)), (wait.nine_of_ten, draws(0.1))] {
                assert!((told.as_secs_f64() - true_s - E / 2.0).abs() <= 0.02 * true_s + 1.0, "{odds}: {told:?} for {true_s}");
            }
        }
    }

    #[test]
    fn who_is_older_waits_less_and_a_crowd_without_end_is_told_the_horizon() {
        let outlook = Outlook::of(&steady(5000.0, 20.0));
        let halves: Vec<Duration> = [1.0, 2.0, 5.0, 61.0].map(|weight| outlook.wait(weight).unwrap().half).to_vec();
        assert!(halves.windows(2).all(|pair| pair[0] > pair[1]), "{halves:?}");
        let endless = Outlook::of(&Crowd { tickets_growth: 1e6, ..steady(1e9, 0.02) }).wait(1.0).unwrap();
        assert!(endless.half >= Duration::from_secs(4 * 3600) && endless.nine_of_ten == endless.half);
    }

    #[test]
    fn what_is_measured_amiss_is_no_reason_to_stop() {
        for value in [0.0, 1e-300, 1e300, -5.0] {
            let crowd = Crowd { tickets: value, tickets_growth: value, weights: value, squares: value, entering: 1e6, epoch_s: 600.0 };
            assert!(Outlook::of(&crowd).wait(1.0).is_some(), "{value}");
        }
    }

    /// Played out: a crowd that draws by the rules, from which so many a second enter, and to which more come.
    #[test]
    fn as_many_get_in_within_what_they_are_told_as_are_said_to() {
        for (arriving, entering) in [(36.0, 20.0), (24.0, 20.0), (100.0, 20.0)] {
            let (half, nine) = played(arriving, entering);
            println!("{arriving} a second come, {entering} enter: {half:.3} within the half-time, {nine:.3} within the other");
            assert!((0.45..=0.55).contains(&half), "{arriving}: {half}");
            // in the largest crowd nobody is told a time that comes to pass before the end
            assert!((0.85..=0.95).contains(&nine) || nine.is_nan() && arriving > 50.0, "{arriving}: {nine}");
        }
    }

    /// Of those who were told a time that comes to pass before the end: how many get in within it.
    fn played(arriving: f64, entering: f64) -> (f64, f64) {
        const END: u64 = 1500;
        let at = |second: u64| UnixTime::from_secs(1_800_000_000 + second);
        let mut state = 7_u64;
        let mut unit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 31)
        };
        // when it came, and what it was told
        let mut crowd: Vec<(u64, Wait)> = Vec::new();
        let (mut halves, mut nines) = ((0, 0), (0, 0));
        let mut note = |came: u64, told: &Wait, took: Duration| {
            let watched = Duration::from_secs(END - came);
            if came > 100 && told.half < watched {
                halves = (halves.0 + u32::from(took <= told.half), halves.1 + 1);
            }
            if came > 100 && told.nine_of_ten < watched {
                nines = (nines.0 + u32::from(took <= told.nine_of_ten), nines.1 + 1);
            }
        };
        let mut due = 0.0;
        for second in 1..END {
            let weights: Vec<f64> = crowd.iter().map(|(came, _)| draw::weight(at(*came), at(second))).collect();
            let sum: f64 = weights.iter().sum();
            let measured = Crowd {
                tickets: weights.len() as f64,
                tickets_growth: arriving - entering,
                weights: sum,
                squares: weights.iter().map(|weight| weight * weight).sum(),
                entering,
                epoch_s: 1.0,
            };
            let mut index = 0;
            crowd.retain(|(came, told)| {
                let enters = unit() * sum < entering * weights[index];
                index += 1;
                if enters {
                    note(*came, told, Duration::from_secs(second - came));
                }
                !enters
            });
            due += arriving;
            let outlook = Outlook::of(&measured);
            while due >= 1.0 {
                due -= 1.0;
                crowd.extend(outlook.wait(1.0).map(|wait| (second, wait)));
            }
        }
        crowd.iter().for_each(|(came, told)| note(*came, told, Duration::MAX));
        let share = |(within, of): (u32, u32)| f64::from(within) / f64::from(of);
        (share(halves), share(nines))
    }
}
