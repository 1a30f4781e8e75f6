//! How long answers took, and among how many: what `concurrency.rs` judges limits by.

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

    pub(super) fn plus(&self, other: &Self, times: f64) -> Self {
        Self {
            count: self.count + times * other.count,
            load: self.load + times * other.load,
            time: self.time + times * other.time,
            load_squared: self.load_squared + times * other.load_squared,
            time_squared: self.time_squared + times * other.time_squared,
            both: self.both + times * other.both,
        }
    }

    pub(super) fn faded(&self, kept: f64) -> Self {
        Self::NONE.plus(self, kept)
    }

    pub(super) fn mean_load(&self) -> f64 {
        self.load / self.count.max(1.0)
    }

    /// Mean of ln(seconds).
    pub(super) fn mean_time(&self) -> f64 {
        self.time / self.count.max(1.0)
    }

    /// The geometric mean in seconds.
    pub(super) fn usual_s(&self) -> f64 {
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

    /// Standard deviation of ln(seconds).
    pub(super) fn deviation(&self) -> f64 {
        (self.around_mean().1 / (self.count - 1.0).max(1.0)).sqrt()
    }

    /// The square of the standard error of [`Self::mean_time`].
    pub(super) fn error_squared(&self) -> f64 {
        self.around_mean().1 / (self.count * (self.count - 1.0)).max(1.0)
    }
}

/// The spread of cycles is known badly from few of them, and what the answers' own spread says weighs as much as so many cycles.
const ANSWERS_WEIGH: f64 = 4.0;

/// The slope of ln(time) over ln(in flight) within cycles, and its standard error. Answers of one moment are alike, so their own spread
/// makes too little of it, and the more cycles there are, the more theirs counts.
pub(super) fn slope(cycles: &[Timings]) -> Option<(f64, f64)> {
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
    let weight = (groups - 1.0) / (groups - 1.0 + ANSWERS_WEIGH);
    let error = (of_cycles.powi(2) * weight + of_answers.powi(2) * (1.0 - weight)).sqrt();
    Some((slope, error))
}

#[expect(clippy::cast_precision_loss, reason = "a few cycles")]
const fn f64_of(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line_within_cycles() {
        let cycle = |height: f64| {
            let mut cycle = Timings::NONE;
            for (n, in_flight) in [(0, 10.0), (1, 20.0), (2, 20.0), (3, 10.0)] {
                let noise = [0.01, -0.01, 0.01, -0.01][n];
                cycle.add((height + 0.7 * f64::ln(in_flight) + noise).exp(), in_flight);
            }
            cycle
        };
        let (slope, error) = slope(&[cycle(-3.0), cycle(-2.0), cycle(-1.0)]).unwrap();
        assert!((slope - 0.7).abs() < 1e-6 && error < 0.02, "{slope} {error}");
        assert!(super::slope(&[Timings::NONE]).is_none());
    }
}
