//! Plots of a run as curves and ticks, which the template draws. No value that is not a number gets here.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Run, Second};
use super::words::{axis, rough, span, trimmed};

/// The most points of a line: a page of an hour stays small, and no screen shows more.
const POINTS_MAX: usize = 600;

/// Height of a plot, in pixels; its width follows the page.
const HEIGHT: f64 = 160.0;

/// Demand may be many times what the site can do; drawn to its top it would press all else flat.
const TALL_MAX: f64 = 2.5;

/// Above anything that can be simulated; keeps arithmetic on scales finite.
const VALUE_MAX: f64 = 1e12;

/// A plot: what is drawn, and how.
pub(super) struct Spec {
    title: &'static str,
    scale: Scale,
    fold: Fold,
    lines: &'static [Line],
}

enum Scale {
    /// From 0 to a round number that is not below this.
    Linear(f64),
    /// From 0 to 1 by the square root: what a gate does near 0.01 is as visible as what it does near 1.
    Odds,
}

/// What becomes of the seconds of one point.
#[derive(Clone, Copy)]
pub(super) enum Fold {
    Mean,
    Highest,
}

struct Line {
    name: &'static str,
    /// Its colour and its dashes.
    class: &'static str,
    of: fn(&Second) -> f64,
    /// Whether it may leave the plot at the top.
    tall: bool,
}

const CAPACITY: Line = Line { name: "capacity", class: "capacity", of: |second| second.capacity, tall: false };
const DEMAND: Line = Line { name: "demand", class: "demand", of: |second| second.demand, tall: true };
const GOOD: Line = Line { name: "good", class: "good", of: |second| second.good as f64, tall: false };
const LOST: Line =
    Line { name: "shed or failed", class: "lost", of: |second| f64::from(second.shed) + f64::from(second.failed), tall: true };
const LATE: Line = Line { name: "too late", class: "late", of: |second| second.late as f64, tall: true };
const P99: Line = Line { name: "p99", class: "latency", of: |second| second.p99_s.unwrap_or(f64::NAN), tall: false };

pub(super) const REQUESTS: Spec =
    Spec { title: "Requests a second", scale: Scale::Linear(1.0), fold: Fold::Mean, lines: &[CAPACITY, DEMAND, GOOD, LOST] };
pub(super) const REQUESTS_BARE: Spec = Spec {
    title: "Without the gate: requests a second",
    scale: Scale::Linear(1.0),
    fold: Fold::Mean,
    lines: &[CAPACITY, DEMAND, GOOD, LATE, LOST],
};
pub(super) const VISITORS: Spec = Spec {
    title: "Visitors",
    scale: Scale::Linear(4.0),
    fold: Fold::Mean,
    lines: &[
        Line { name: "inside", class: "inside", of: |second| second.inside as f64, tall: false },
        Line { name: "waiting", class: "waiting", of: |second| second.waiting as f64, tall: false },
    ],
};
pub(super) const PROBABILITY: Spec = Spec {
    title: "Probability of being let in, a draw (square-root scale)",
    scale: Scale::Odds,
    fold: Fold::Mean,
    lines: &[Line { name: "probability", class: "odds", of: |second| second.probability, tall: false }],
};
pub(super) const LATENCY: Spec =
    Spec { title: "p99 of answers, in seconds", scale: Scale::Linear(0.1), fold: Fold::Highest, lines: &[P99] };
pub(super) const LATENCY_BARE: Spec = Spec { title: "Without the gate: p99 of answers, in seconds", ..LATENCY };

/// A plot in the form in which the template draws it: x in seconds, y in pixels from the top.
#[derive(Debug, Serialize)]
pub(super) struct Plot {
    title: &'static str,
    /// What it shows, for who can't see it.
    label: String,
    /// Lines that leave the plot at the top.
    note: Option<String>,
    width: usize,
    band: Option<(f64, f64)>,
    values: Vec<Tick>,
    minutes: Vec<Tick>,
    curves: Vec<Curve>,
}

#[derive(Debug, Serialize)]
struct Tick {
    /// Pixels from the top, or percent from the left.
    at: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct Curve {
    name: &'static str,
    class: &'static str,
    /// Its highest value; none if it has no value.
    highest: Option<String>,
    path: String,
    area: Option<String>,
}

impl Plot {
    /// `None` if the run recorded no seconds.
    pub(super) fn of(spec: &Spec, run: &Run) -> Option<Self> {
        let width = run.seconds.len();
        if width == 0 {
            return None;
        }
        let traces: Vec<Vec<Point>> = spec.lines.iter().map(|line| points(&run.seconds, line.of, spec.fold)).collect();
        let (top, ticks) = match spec.scale {
            Scale::Odds => (1.0, vec![0.0, 0.01, 0.1, 0.25, 0.5, 1.0]),
            Scale::Linear(least) => nice_ticks(top(spec.lines, &traces).max(least), 5.0),
        };
        let y = |value: f64| match spec.scale {
            Scale::Odds => HEIGHT * (1.0 - value.min(1.0).sqrt()),
            Scale::Linear(_) => HEIGHT * (1.0 - value / top),
        };
        let mut minutes = nice_ticks(width as f64 / 60.0, 6.0).1;
        minutes.retain(|minute| minute * 60.0 <= width as f64);
        let last = minutes.len().saturating_sub(1);
        // the unit stands once: on a narrow page there is no room for more
        let unit = |index: usize| if index == last { " min" } else { "" };
        let notes: Vec<String> = (spec.lines.iter().zip(&traces))
            .filter(|(_, trace)| highest(trace) > top)
            .map(|(line, trace)| format!("{} goes up to {}, above the plot", line.name, rough(highest(trace))))
            .collect();
        Some(Self {
            title: spec.title,
            label: label(spec, &traces, width),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            width,
            band: band(run).map(|(from, to)| (from, to - from)),
            values: ticks.into_iter().map(|value| Tick { at: format!("{:.1}", y(value)), text: axis(value) }).collect(),
            minutes: (minutes.into_iter().enumerate())
                .map(|(index, minute)| Tick {
                    at: format!("{:.2}", minute * 6000.0 / width as f64),
                    text: format!("{}{}", trimmed(minute), unit(index)),
                })
                .collect(),
            curves: (spec.lines.iter().zip(&traces))
                .map(|(line, trace)| {
                    let (path, area) = paths(trace, y);
                    let highest = trace.iter().any(|point| point.value.is_some()).then(|| rough(highest(trace)));
                    Curve { name: line.name, class: line.class, highest, path, area: (line.class == "capacity").then_some(area) }
                })
                .collect(),
        })
    }
}

fn label(spec: &Spec, traces: &[Vec<Point>], width: usize) -> String {
    let mut label = format!("{}, over {}", spec.title, span(width as f64));
    for (line, trace) in spec.lines.iter().zip(traces) {
        let values: Vec<f64> = trace.iter().filter_map(|point| point.value).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let _ = if values.is_empty() {
            write!(label, "; {}: nothing recorded", line.name)
        } else {
            write!(label, "; {}: from {} to {}", line.name, rough(low), rough(highest(trace)))
        };
    }
    label
}

/// The part of the seconds that is measured: from, to.
pub(super) fn band(run: &Run) -> Option<(f64, f64)> {
    let (from, to) = (f64::from(run.from_s), f64::from(run.to_s).min(run.seconds.len() as f64));
    (from < to).then_some((from, to))
}

/// The largest value that a plot must hold.
fn top(lines: &[Line], traces: &[Vec<Point>]) -> f64 {
    let of =
        |tall: bool| lines.iter().zip(traces).filter(|(line, _)| line.tall <= tall).map(|(_, trace)| highest(trace)).fold(0.0, f64::max);
    let (all, steady) = (of(true), of(false));
    if steady > 0.0 { all.min(steady * TALL_MAX) } else { all }
}

/// One point of a line; a gap if nothing is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    x: f64,
    value: Option<f64>,
}

pub(super) const fn bucket_s(seconds: usize) -> usize {
    let width = seconds.div_ceil(POINTS_MAX);
    if width == 0 { 1 } else { width }
}

pub(super) fn points(seconds: &[Second], of: fn(&Second) -> f64, fold: Fold) -> Vec<Point> {
    let width = bucket_s(seconds.len());
    let of_chunk = |(index, chunk): (usize, &[Second])| {
        let known = || chunk.iter().map(of).filter(|value| value.is_finite()).map(|value| value.clamp(0.0, VALUE_MAX));
        let value = match fold {
            Fold::Mean => known().sum::<f64>() / known().count().max(1) as f64,
            Fold::Highest => known().fold(0.0, f64::max),
        };
        Point { x: (index * width) as f64 + chunk.len() as f64 / 2.0, value: known().next().map(|_| value) }
    };
    seconds.chunks(width).enumerate().map(of_chunk).collect()
}

fn highest(trace: &[Point]) -> f64 {
    trace.iter().filter_map(|point| point.value).fold(0.0, f64::max)
}

/// The line, and the area below it. Where a value is missing, the line is broken.
pub(super) fn paths(trace: &[Point], y: impl Fn(f64) -> f64) -> (String, String) {
    let (mut path, mut area) = (String::new(), String::new());
    for known in trace.split(|point| point.value.is_none()).filter(|known| !known.is_empty()) {
        let mut line = String::new();
        for point in known {
            let _ = write!(line, "{}{:.1} {:.1}", if line.is_empty() { "" } else { "L" }, point.x, y(point.value.unwrap_or(0.0)));
        }
        if let (Some(first), Some(last)) = (known.first(), known.last()) {
            let _ = write!(area, "M{:.1} {HEIGHT:.1}L{line}L{:.1} {HEIGHT:.1}Z", first.x, last.x);
        }
        // a step of nothing: with round ends, a lone point is a dot
        let _ = write!(path, "M{line}{}", if known.len() == 1 { "h0" } else { "" });
    }
    (path, area)
}

/// The end of a scale that holds `max`, and its ticks: steps of 1, 2 or 5 times a power of ten, about `steps` of them.
pub(super) fn nice_ticks(max: f64, steps: f64) -> (f64, Vec<f64>) {
    let max = max.clamp(1e-6, VALUE_MAX * 10.0);
    let power = 10_f64.powf((max / steps).log10().floor());
    // a hair of tolerance: the logarithm of a power of ten need not be whole
    let step = [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| step * steps >= max * 0.999_999).unwrap_or(power * 10.0);
    let count = (max / step - 1e-6).ceil().max(1.0);
    let ticks: Vec<f64> = (0_u8..=16).map(f64::from).take_while(|index| *index <= count).map(|index| index * step).collect();
    (count * step, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::figures::Figures;

    fn run(seconds: usize) -> Run {
        let second = Second { capacity: 100.0, demand: 900.0, good: 95, probability: 0.1, p99_s: Some(1.2), ..Second::default() };
        let (scenario, about, to_s) = ("rush".to_owned(), String::new(), u32::try_from(seconds).unwrap());
        Run { scenario, about, seed: 1, gate: true, from_s: 10, to_s, figures: Figures::default(), seconds: vec![second; seconds] }
    }

    #[test]
    fn a_long_run_is_drawn_in_few_points_that_keep_totals_and_the_highest_p99() {
        let mut long = run(3601);
        for (index, second) in (0_u32..).zip(&mut long.seconds) {
            second.good = index % 97;
            second.p99_s = (index != 1800).then_some(if index == 2000 { 7.5 } else { 1.0 });
        }
        let (good, width) = (points(&long.seconds, GOOD.of, Fold::Mean), bucket_s(3601));
        assert!(good.len() <= POINTS_MAX);
        let drawn: f64 = good.iter().zip(long.seconds.chunks(width)).map(|(point, chunk)| point.value.unwrap() * chunk.len() as f64).sum();
        let total: u32 = long.seconds.iter().map(|second| second.good).sum();
        assert!((drawn - f64::from(total)).abs() < 1e-6);
        assert!((highest(&points(&long.seconds, P99.of, Fold::Highest)) - 7.5).abs() < 1e-9);
    }

    #[test]
    fn a_missing_value_breaks_the_line() {
        let trace = [Some(1.0), None, Some(0.0), Some(0.5)].map(|value| Point { x: 1.0, value });
        assert_eq!(paths(&trace, |value| value * 10.0).0, "M1.0 10.0h0M1.0 0.0L1.0 5.0");
    }

    #[test]
    fn ticks_are_round_and_hold_the_highest() {
        for (max, steps, end, count) in
            [(1.0, 5.0, 1.0, 6), (97.0, 5.0, 100.0, 6), (1050.0, 5.0, 1500.0, 4), (0.03, 5.0, 0.03, 4), (60.0, 6.0, 60.0, 7)]
        {
            let (top, ticks) = nice_ticks(max, steps);
            assert!((top - end).abs() < 1e-9, "{max}: {top}");
            assert_eq!(ticks.len(), count, "{max}: {ticks:?}");
        }
        for exponent in -7..40 {
            let max = 3.3 * 10_f64.powi(exponent);
            let (top, ticks) = nice_ticks(max, 5.0);
            assert!(top.is_finite() && (top >= max.min(VALUE_MAX)) && (2..=7).contains(&ticks.len()), "{max}: {ticks:?}");
        }
    }

    #[test]
    fn demand_far_above_the_capacity_leaves_the_plot_and_is_named() {
        let plot = Plot::of(&REQUESTS, &run(60)).unwrap();
        assert_eq!(plot.note.as_deref(), Some("demand goes up to 900, above the plot"));
        assert_eq!(plot.values.last().unwrap().text, "250");
        assert_eq!(plot.band, Some((10.0, 50.0)));
    }
}
