//! When visitors come: a Poisson process whose rate changes in steps. Open loop: nobody comes later because the site is slow. Pure.

use super::random::Random;

/// From when on how many visitors come in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Seconds since the crowd's start.
    pub at_s: f64,
    /// Visitors a second, 0 or more.
    pub visitors_per_s: f64,
}

/// The arrivals of a schedule, in order.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Sorted by time. Nobody comes before the first.
    steps: Vec<Step>,
    /// Up to when arrivals have been drawn, in seconds.
    drawn_to_s: f64,
    random: Random,
}

impl Arrivals {
    /// The arrivals of a schedule in any order.
    #[must_use]
    pub fn new(steps: Vec<Step>, random: Random) -> Self {
        let mut arrivals = Self { steps, drawn_to_s: 0.0, random };
        arrivals.sort();
        arrivals
    }

    /// Another schedule from now on. The process has no memory, so what was drawn for later is forgotten.
    pub fn reschedule(&mut self, now_s: f64, steps: Vec<Step>) {
        self.steps = steps;
        self.drawn_to_s = now_s;
        self.sort();
    }

    /// Draws when the next visitor comes, in seconds; none if nobody comes any more.
    pub fn draw(&mut self) -> Option<f64> {
        loop {
            let later = self.steps.partition_point(|step| step.at_s <= self.drawn_to_s);
            let rate = later.checked_sub(1).map_or(0.0, |current| self.steps[current].visitors_per_s);
            let until_s = self.steps.get(later).map(|step| step.at_s);
            if rate > 0.0 {
                let at_s = self.drawn_to_s + self.random.exponential() / rate;
                // without memory, a gap that reaches into the next step is simply drawn again from there
                if until_s.is_none_or(|until_s| at_s < until_s) {
                    self.drawn_to_s = at_s;
                    return Some(at_s);
                }
            }
            self.drawn_to_s = until_s?;
        }
    }

    fn sort(&mut self) {
        self.steps.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at_s: f64, visitors_per_s: f64) -> Step {
        Step { at_s, visitors_per_s }
    }

    fn draw_until(arrivals: &mut Arrivals, end_s: f64) -> Vec<f64> {
        std::iter::from_fn(|| arrivals.draw()).take_while(|at_s| *at_s < end_s).collect()
    }

    #[test]
    fn each_step_has_its_rate() {
        let schedule = vec![step(300.0, 0.0), step(100.0, 10.0), step(200.0, 50.0), step(400.0, 5.0)];
        let times = draw_until(&mut Arrivals::new(schedule, Random::seeded(4)), 500.0);
        let between = |from: f64, to: f64| times.iter().filter(|at| (from..to).contains(at)).count();
        assert_eq!(between(0.0, 100.0), 0);
        assert!((900..1100).contains(&between(100.0, 200.0)), "{}", between(100.0, 200.0));
        assert!((4750..5250).contains(&between(200.0, 300.0)), "{}", between(200.0, 300.0));
        assert_eq!(between(300.0, 400.0), 0);
        assert!((430..570).contains(&between(400.0, 500.0)), "{}", between(400.0, 500.0));
        assert!(times.is_sorted());
    }

    #[test]
    fn gaps_vary_as_those_of_a_poisson_process() {
        let times = draw_until(&mut Arrivals::new(vec![step(0.0, 10.0)], Random::seeded(8)), 2000.0);
        let before = |second: u32| times.partition_point(|at_s| *at_s < f64::from(second));
        let per_second: Vec<f64> = (0..2000).map(|second| (before(second + 1) - before(second)) as f64).collect();
        let mean = per_second.iter().sum::<f64>() / 2000.0;
        let variance = per_second.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 2000.0;
        assert!((variance / mean - 1.0).abs() < 0.1, "{variance} / {mean}");
    }

    #[test]
    fn an_empty_or_ended_schedule_brings_nobody() {
        assert_eq!(Arrivals::new(Vec::new(), Random::seeded(1)).draw(), None);
        assert_eq!(Arrivals::new(vec![step(5.0, 0.0)], Random::seeded(1)).draw(), None);
    }

    #[test]
    fn another_schedule_holds_from_then_on() {
        let mut arrivals = Arrivals::new(vec![step(0.0, 0.001)], Random::seeded(2));
        arrivals.reschedule(50.0, vec![step(0.0, 1000.0)]);
        let next = arrivals.draw().unwrap();
        assert!((50.0..50.1).contains(&next), "{next}");
    }
}
