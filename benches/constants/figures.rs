//! Figures of a simulation, and by what they differ from those of other runs with the same seeds.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Figures by scenario and name, each with one value a seed.
pub(super) type Found = BTreeMap<(String, &'static str), Vec<f64>>;

/// What is read of a run.
#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) scenario: String,
    figures: BTreeMap<String, Value>,
    seconds: Vec<Second>,
}

#[derive(Deserialize)]
struct Second {
    diverted: f64,
}

pub(super) struct Figure {
    /// As in `--json`.
    pub(super) name: &'static str,
    better: Better,
    /// A smaller difference is none: an absolute one, and as a share.
    least: (f64, f64),
    /// What it is shown with: a factor, and digits.
    shown: (f64, usize),
}

enum Better {
    More,
    Less,
    Near(f64),
    /// It only shows that something differs.
    Unknown,
}

const fn figure(name: &'static str, better: Better, least: (f64, f64), shown: (f64, usize)) -> Figure {
    Figure { name, better, least, shown }
}

pub(super) const FIGURES: &[Figure] = &[
    figure("goodput", Better::More, (0.003, 0.0), (100.0, 1)),
    figure("in_time", Better::More, (0.003, 0.0), (100.0, 1)),
    figure("p99_s", Better::Less, (0.02, 0.02), (1.0, 2)),
    figure("worst_p99_s", Better::Less, (0.02, 0.05), (1.0, 2)),
    figure("shed", Better::Less, (20.0, 0.05), (1.0, 0)),
    figure("wait_p50_s", Better::Less, (1.0, 0.03), (1.0, 0)),
    figure("wait_p95_s", Better::Less, (1.0, 0.03), (1.0, 0)),
    figure("wait_max_s", Better::Less, (1.0, 0.03), (1.0, 0)),
    figure("wait_spread", Better::Less, (0.01, 0.01), (1.0, 2)),
    figure("inversion_max_s", Better::Less, (1.0, 0.05), (1.0, 0)),
    figure("told_half", Better::Near(0.5), (0.01, 0.0), (100.0, 1)),
    figure("told_nine_of_ten", Better::Near(0.9), (0.01, 0.0), (100.0, 1)),
    figure("told_error_p50", Better::Less, (0.005, 0.0), (100.0, 1)),
    figure("would_wait", Better::Unknown, (20.0, 0.02), (1.0, 0)),
    figure("polls", Better::Less, (20.0, 0.05), (1.0, 0)),
];

impl Figure {
    /// That of a run; not a number if it has none.
    pub(super) fn read(&self, run: &Run) -> f64 {
        if self.name == "polls" {
            // waiting pages a second
            return mean(&run.seconds.iter().map(|second| second.diverted).collect::<Vec<_>>());
        }
        run.figures.get(self.name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    pub(super) fn of<'a>(&self, scenario: &str, found: &'a Found) -> &'a [f64] {
        found.get(&(scenario.to_owned(), self.name)).map_or(&[], Vec::as_slice)
    }

    /// Its mean over the seeds, in words.
    pub(super) fn shown(&self, scenario: &str, found: &Found) -> String {
        let known: Vec<f64> = self.of(scenario, found).iter().copied().filter(|value| value.is_finite()).collect();
        let (factor, digits) = self.shown;
        format!("{scenario} {} {:.digits$}", self.name, factor * mean(&known))
    }

    /// How it is otherwise, seed by seed.
    pub(super) fn compare(&self, scenario: &str, committed: &Found, other: &Found) -> (Differs, String) {
        let pairs =
            self.of(scenario, committed).iter().zip(self.of(scenario, other)).filter(|(one, two)| one.is_finite() && two.is_finite());
        let good = |value: f64| match self.better {
            Better::More | Better::Unknown => value,
            Better::Less => -value,
            Better::Near(wanted) => -(value - wanted).abs(),
        };
        let (plain, gains): (Vec<f64>, Vec<f64>) = pairs.clone().map(|(one, two)| (two - one, good(*two) - good(*one))).unzip();
        let ((by, error), (gain, gain_error)) = (mean_and_error(&plain), mean_and_error(&gains));
        let of = mean(&pairs.map(|(one, _)| *one).collect::<Vec<_>>());
        let seen = gain.abs() > student(gains.len()) * gain_error && gain.abs() > self.least.0.max(self.least.1 * of.abs());
        let differs = match self.better {
            _ if plain.iter().all(|by| *by == 0.0) => Differs::Same,
            _ if !seen => Differs::Noise,
            Better::Unknown => Differs::Mixed,
            _ if gain > 0.0 => Differs::Better,
            Better::More | Better::Less | Better::Near(_) => Differs::Worse,
        };
        let (factor, digits) = self.shown;
        let (by, error) = (factor * by, factor * error);
        let text = match differs {
            Differs::Same => "=".to_owned(),
            Differs::Noise => format!("{by:+.digits$} ± {error:.digits$}"),
            Differs::Better | Differs::Worse | Differs::Mixed => format!("**{by:+.digits$} ± {error:.digits$}**"),
        };
        (differs, format!("{scenario} {} {text}", self.name))
    }
}

/// What another value is beside the committed one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Differs {
    /// All runs are the same to the last digit.
    Same,
    Noise,
    Better,
    Worse,
    /// Better in one figure and worse in another.
    Mixed,
}

impl Differs {
    pub(super) fn all(figures: &[Self]) -> Self {
        let any = |what| figures.contains(&what);
        match (any(Self::Better), any(Self::Worse)) {
            (true, true) => Self::Mixed,
            _ if any(Self::Mixed) => Self::Mixed,
            (true, false) => Self::Better,
            (false, true) => Self::Worse,
            (false, false) if any(Self::Noise) => Self::Noise,
            (false, false) => Self::Same,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Noise => "noise",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Mixed => "mixed",
        }
    }

    /// The word for the committed value, by what its neighbours are.
    pub(super) fn committed(neighbours: &[Self]) -> &'static str {
        let any = |what| neighbours.contains(&what);
        if any(Self::Better) {
            "worse"
        } else if neighbours.iter().all(|neighbour| *neighbour == Self::Worse) {
            "best"
        } else if any(Self::Mixed) {
            "trade"
        } else if any(Self::Worse) {
            "bound"
        } else if any(Self::Noise) {
            "noise"
        } else {
            "idle"
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean, and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let (mean, count) = (mean(values), values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

/// How many standard errors a mean of so many is within, at 95 % (Student's t).
fn student(count: usize) -> f64 {
    const T: [f64; 10] = [f64::INFINITY, f64::INFINITY, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31];
    T.get(count).copied().unwrap_or(2.26)
}
