//! The report as one page: sentences, a table, plots. It holds no script and asks for nothing from elsewhere, so that it can be mailed,
//! printed and kept.
//!
//! Runs that differ only in their seed are one row: the median, and from the lowest to the highest. A long run is drawn in at most
//! [`POINTS_MAX`] points a line, each the mean of its seconds (of p99: the highest). What isn't finite is a gap in a line and a dash
//! in a table. Names come from a file: the template escapes all text.

use std::fmt::Write as _;

use minijinja::Environment;
use serde::Serialize;

use super::figures::{Figures, Run, Second};

const PAGE: &str = include_str!("report.html");

/// The most points of a line: a page of an hour stays small, and no screen shows more.
const POINTS_MAX: usize = 600;

/// Height of a plot, in pixels; its width follows the page.
const HEIGHT: f64 = 160.0;

/// Demand may be many times what the site can do; drawn to its top it would press all else flat.
const TALL_MAX: f64 = 2.5;

/// Above anything that can be simulated; keeps arithmetic on scales finite.
const VALUE_MAX: f64 = 1e12;

/// Shown where nothing is known.
const DASH: &str = "–";

/// The report: one page without anything from elsewhere.
///
/// # Errors
/// Only if the built-in template is broken, which the tests of this file rule out.
pub fn html(runs: &[Run], title: &str) -> Result<String, minijinja::Error> {
    let view = View { title, version: env!("CARGO_PKG_VERSION"), columns: &COLUMNS, scenarios: scenarios(runs) };
    // the name ends in .html: that is what turns escaping on
    Environment::new().render_named_str("report.html", PAGE, minijinja::value::Serde(view))
}

/// What the template prints: text, already in the form in which it is read.
#[derive(Serialize)]
struct View<'r> {
    title: &'r str,
    version: &'static str,
    columns: &'static [Column],
    scenarios: Vec<Scenario<'r>>,
}

#[derive(Serialize)]
struct Scenario<'r> {
    name: &'r str,
    about: &'r str,
    /// With the gate, without it; only those that were run.
    sides: Vec<Side>,
    seed: u64,
    /// From where to where was measured, in words; none if nothing of it was recorded.
    measured: Option<String>,
    /// How many seconds are one point.
    bucket_s: usize,
    plots: Vec<Plot>,
}

/// All seeds of a scenario, with the gate or without it.
#[derive(Serialize)]
struct Side {
    gate: bool,
    seeds: usize,
    goodput: Cell,
    /// Length of a bar, in percent.
    bar: String,
    sentence: String,
    cells: Vec<Cell>,
}

fn scenarios(runs: &[Run]) -> Vec<Scenario<'_>> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.scenario.as_str()) {
            names.push(&run.scenario);
        }
    }
    names.into_iter().filter_map(|name| Scenario::of(name, runs)).collect()
}

impl<'r> Scenario<'r> {
    fn of(name: &'r str, runs: &'r [Run]) -> Option<Self> {
        let (gated, bare): (Vec<&Run>, Vec<&Run>) = runs.iter().filter(|run| run.scenario == name).partition(|run| run.gate);
        let shown = *gated.first().or_else(|| bare.first())?;
        let mut plots = Vec::new();
        if let Some(run) = gated.first() {
            plots.extend([&REQUESTS, &VISITORS, &PROBABILITY, &LATENCY].into_iter().filter_map(|spec| Plot::of(spec, run)));
        }
        if let Some(run) = bare.first() {
            plots.extend([&REQUESTS_BARE, &LATENCY_BARE].into_iter().filter_map(|spec| Plot::of(spec, run)));
        }
        let measured = band(shown).map(|(from, to)| format!("{} to {} minutes", trimmed(from / 60.0), trimmed(to / 60.0)));
        let sides = [gated, bare].iter().filter(|side| !side.is_empty()).map(|side| Side::of(side)).collect();
        Some(Self { name, about: &shown.about, sides, seed: shown.seed, measured, bucket_s: bucket_s(shown.seconds.len()), plots })
    }
}

impl Side {
    fn of(runs: &[&Run]) -> Self {
        let goodput = Spread::of(runs, |figures| figures.goodput);
        Self {
            gate: runs.iter().any(|run| run.gate),
            seeds: runs.len(),
            bar: format!("{:.1}", goodput.as_ref().map_or(0.0, |spread| spread.median.clamp(0.0, 1.0) * 100.0)),
            goodput: Cell::of(goodput.as_ref(), percent),
            sentence: sentence(runs),
            cells: COLUMNS.iter().map(|column| Cell::of(Spread::of(runs, column.of).as_ref(), column.form)).collect(),
        }
    }
}

/// What happened, for who doesn't read tables.
fn sentence(runs: &[&Run]) -> String {
    let words = |of: fn(&Figures) -> f64, form: fn(f64) -> String| Cell::of(Spread::of(runs, of).as_ref(), form).in_words();
    let any = |of: fn(&Figures) -> f64| Spread::of(runs, of).is_some_and(|spread| spread.high > 0.0);
    let gate = runs.iter().any(|run| run.gate);
    let mut parts = vec![format!("of what the site could have answered, {} was answered well", words(|f| f.goodput, percent))];
    if any(|f| f.p99_s) {
        parts.push(format!("99 % of the answers came within {}", words(|f| f.p99_s, span)));
    }
    match (any(|f| f.shed.into()), any(|f| f.diverted_inside.into())) {
        (false, false) if gate => parts.push("nobody inside was turned away".to_owned()),
        (false, false) => {}
        (shed, diverted) => {
            if shed {
                parts.push(format!("requests of visitors inside that were shed: {}", words(|f| f.shed.into(), count)));
            }
            if diverted {
                parts.push(format!("waiting pages shown to visitors inside: {}", words(|f| f.diverted_inside.into(), count)));
            }
        }
    }
    if any(|f| f.sessions_failed.into()) {
        parts.push(format!("{} of the visits inside failed", words(failed_share, percent)));
    } else if any(|f| f.sessions_done.into()) {
        parts.push("no visit inside failed".to_owned());
    }
    if !gate {
    } else if !any(|f| f.waited.into()) {
        parts.push("nobody had to wait".to_owned());
    } else {
        let gave_up = if any(|f| f.gave_up.into()) { words(|f| f.gave_up.into(), count) } else { "none".to_owned() };
        parts.push(format!("{} visitors were shown the waiting room, and {gave_up} of them gave up", words(|f| f.waited.into(), count)));
        match Spread::of(runs, |f| wait(f, f.wait_max_s)) {
            None => parts.push("none of them was let in".to_owned()),
            Some(longest) => parts.push(format!(
                "half of those who waited and got in were in within {}, the longest wait was {}",
                words(|f| wait(f, f.wait_p50_s), span),
                span(longest.high)
            )),
        }
    }
    format!("{}.", parts.join("; "))
}

fn failed_share(figures: &Figures) -> f64 {
    f64::from(figures.sessions_failed) / (f64::from(figures.sessions_failed) + f64::from(figures.sessions_done))
}

/// A wait is known only if somebody waited and was let in.
fn wait(figures: &Figures, wait_s: f64) -> f64 {
    if figures.waited > 0 && figures.wait_max_s > 0.0 { wait_s } else { f64::NAN }
}

/// A column of the table.
#[derive(Serialize)]
struct Column {
    group: &'static str,
    name: &'static str,
    #[serde(skip)]
    of: fn(&Figures) -> f64,
    #[serde(skip)]
    form: fn(f64) -> String,
}

const COLUMNS: [Column; 11] = [
    Column { group: "", name: "Goodput", of: |f| f.goodput, form: percent },
    Column { group: "Latency", name: "p50", of: |f| f.p50_s, form: span_short },
    Column { group: "Latency", name: "p95", of: |f| f.p95_s, form: span_short },
    Column { group: "Latency", name: "p99", of: |f| f.p99_s, form: span_short },
    Column { group: "Latency", name: "worst p99", of: |f| f.worst_p99_s, form: span_short },
    Column { group: "", name: "Shed", of: |f| f.shed as f64, form: count },
    Column { group: "", name: "Failed sessions", of: |f| f.sessions_failed as f64, form: count },
    Column { group: "", name: "Waited", of: |f| f.waited as f64, form: count },
    Column { group: "Wait", name: "p50", of: |f| wait(f, f.wait_p50_s), form: span_short },
    Column { group: "Wait", name: "p95", of: |f| wait(f, f.wait_p95_s), form: span_short },
    Column { group: "Wait", name: "max", of: |f| wait(f, f.wait_max_s), form: span_short },
];

/// One figure over several seeds.
#[derive(Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    /// `None` if it is known of no run.
    fn of(runs: &[&Run], of: fn(&Figures) -> f64) -> Option<Self> {
        let mut values: Vec<f64> = runs.iter().map(|run| of(&run.figures)).filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&low, &high) = (values.first()?, values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { low, median: f64::midpoint(lower, upper), high })
    }
}

#[derive(Serialize)]
struct Cell {
    value: String,
    /// From the lowest to the highest; none if they read the same.
    range: Option<String>,
}

impl Cell {
    fn of(spread: Option<&Spread>, form: fn(f64) -> String) -> Self {
        let Some(spread) = spread else { return Self { value: DASH.to_owned(), range: None } };
        let (low, high) = (form(spread.low), form(spread.high));
        Self { value: form(spread.median), range: (low != high).then(|| format!("{low} to {high}")) }
    }

    fn in_words(&self) -> String {
        self.range.as_ref().map_or_else(|| self.value.clone(), |range| format!("{} ({range})", self.value))
    }
}

/// A plot: what is drawn, and how.
struct Spec {
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
enum Fold {
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

const REQUESTS: Spec =
    Spec { title: "Requests a second", scale: Scale::Linear(1.0), fold: Fold::Mean, lines: &[CAPACITY, DEMAND, GOOD, LOST] };
const REQUESTS_BARE: Spec = Spec {
    title: "Without the gate: requests a second",
    scale: Scale::Linear(1.0),
    fold: Fold::Mean,
    lines: &[CAPACITY, DEMAND, GOOD, LATE, LOST],
};
const VISITORS: Spec = Spec {
    title: "Visitors",
    scale: Scale::Linear(4.0),
    fold: Fold::Mean,
    lines: &[
        Line { name: "inside", class: "inside", of: |second| second.inside as f64, tall: false },
        Line { name: "waiting", class: "waiting", of: |second| second.waiting as f64, tall: false },
    ],
};
const PROBABILITY: Spec = Spec {
    title: "Probability of being let in, a draw (square-root scale)",
    scale: Scale::Odds,
    fold: Fold::Mean,
    lines: &[Line { name: "probability", class: "odds", of: |second| second.probability, tall: false }],
};
const LATENCY: Spec = Spec { title: "p99 of answers, in seconds", scale: Scale::Linear(0.1), fold: Fold::Highest, lines: &[P99] };
const LATENCY_BARE: Spec = Spec { title: "Without the gate: p99 of answers, in seconds", ..LATENCY };

/// A plot in the form in which the template draws it: x in seconds, y in pixels from the top.
#[derive(Debug, Serialize)]
struct Plot {
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
    path: String,
    area: Option<String>,
}

impl Plot {
    /// `None` if the run recorded no seconds.
    fn of(spec: &Spec, run: &Run) -> Option<Self> {
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
        let minutes = nice_ticks(width as f64 / 60.0, 6.0).1.into_iter().filter(|minute| minute * 60.0 <= width as f64);
        let notes: Vec<String> = (spec.lines.iter().zip(&traces))
            .filter(|(_, trace)| highest(trace) > top)
            .map(|(line, trace)| format!("{} goes up to {}, above the plot", line.name, axis(highest(trace).round())))
            .collect();
        Some(Self {
            title: spec.title,
            label: label(spec, &traces, width),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            width,
            band: band(run).map(|(from, to)| (from, to - from)),
            values: ticks.into_iter().map(|value| Tick { at: format!("{:.1}", y(value)), text: axis(value) }).collect(),
            minutes: minutes
                .map(|minute| Tick { at: format!("{:.2}", minute * 6000.0 / width as f64), text: format!("{} min", trimmed(minute)) })
                .collect(),
            curves: (spec.lines.iter().zip(&traces))
                .map(|(line, trace)| {
                    let (path, area) = paths(trace, y);
                    Curve { name: line.name, class: line.class, path, area: (line.class == "capacity").then_some(area) }
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
            write!(label, "; {}: from {} to {}", line.name, trimmed(low), trimmed(highest(trace)))
        };
    }
    label
}

/// The part of the seconds that is measured: from, to.
fn band(run: &Run) -> Option<(f64, f64)> {
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
struct Point {
    x: f64,
    value: Option<f64>,
}

const fn bucket_s(seconds: usize) -> usize {
    let width = seconds.div_ceil(POINTS_MAX);
    if width == 0 { 1 } else { width }
}

fn points(seconds: &[Second], of: fn(&Second) -> f64, fold: Fold) -> Vec<Point> {
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
fn paths(trace: &[Point], y: impl Fn(f64) -> f64) -> (String, String) {
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
fn nice_ticks(max: f64, steps: f64) -> (f64, Vec<f64>) {
    let max = max.clamp(1e-6, VALUE_MAX * 10.0);
    let power = 10_f64.powf((max / steps).log10().floor());
    // a hair of tolerance: the logarithm of a power of ten need not be whole
    let step = [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| step * steps >= max * 0.999_999).unwrap_or(power * 10.0);
    let count = (max / step - 1e-6).ceil().max(1.0);
    let ticks: Vec<f64> = (0_u8..=16).map(f64::from).take_while(|index| *index <= count).map(|index| index * step).collect();
    (count * step, ticks)
}

/// `97.3 %`. Never rounded to all or to nothing.
fn percent(ratio: f64) -> String {
    let value = ratio * 100.0;
    if value > 0.0 && value < 0.05 {
        "<0.1\u{a0}%".to_owned()
    } else if value < 100.0 && value >= 99.95 {
        "99.9\u{a0}%".to_owned()
    } else {
        format!("{}\u{a0}%", strip(&format!("{value:.1}")))
    }
}

/// `1,204`; a median between two seeds may be `0.5`.
fn count(value: f64) -> String {
    let digits = format!("{value:.1}");
    let (whole, rest) = digits.split_once('.').unwrap_or((&digits, "0"));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if rest == "0" { text } else { format!("{text}.{rest}") }
}

/// `0.32 s`, `42 s`, `1 minute 5 s`, `2 hours 10 minutes`.
fn span(seconds: f64) -> String {
    let several = |value: f64, unit: &str| format!("{value:.0}\u{a0}{unit}{}", if value > 1.5 { "s" } else { "" });
    let whole = seconds.round();
    let (hours, minutes) = ((whole / 3600.0).floor(), (whole % 3600.0 / 60.0).floor());
    let small = match (hours > 0.0, minutes > 0.0) {
        _ if seconds < 0.1 => format!("{}\u{a0}s", trimmed(seconds)),
        _ if seconds < 9.995 => format!("{}\u{a0}s", strip(&format!("{seconds:.2}"))),
        (false, false) => format!("{whole:.0}\u{a0}s"),
        (false, true) if whole % 60.0 > 0.0 => format!("{} {:.0}\u{a0}s", several(minutes, "minute"), whole % 60.0),
        (false, true) => several(minutes, "minute"),
        (true, true) => format!("{} {}", several(hours, "hour"), several(minutes, "minute")),
        (true, false) => several(hours, "hour"),
    };
    small
}

fn span_short(seconds: f64) -> String {
    span(seconds).replace("minutes", "min").replace("minute", "min")
}

/// A number beside a tick.
fn axis(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if value >= 1000.0 {
        count(value)
    } else {
        trimmed(value)
    }
}

/// At most three places after the point.
fn trimmed(value: f64) -> String {
    strip(&format!("{value:.3}")).to_owned()
}

fn strip(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(scenario: &str, seed: u64, gate: bool, seconds: usize) -> Run {
        let second = Second { capacity: 100.0, demand: 900.0, good: 95, probability: 0.1, p99_s: Some(1.2), ..Second::default() };
        let figures = Figures { goodput: 0.99, p99_s: 1.25, sessions_done: 900, waited: 40, ..Figures::default() };
        let figures = Figures { wait_p50_s: 65.0, wait_max_s: 540.0, ..figures };
        let to_s = u32::try_from(seconds).unwrap();
        let (scenario, about) = (scenario.to_owned(), "A rush.".to_owned());
        Run { scenario, about, seed, gate, from_s: 10, to_s, figures, seconds: vec![second; seconds] }
    }

    /// The page as it is read: entities of the escaper that stand in its own words are put back.
    fn page(runs: &[Run]) -> String {
        html(runs, "Launch").unwrap()
    }

    #[test]
    fn names_from_the_file_are_escaped_and_nothing_is_fetched() {
        let page = html(&[run("<script>alert(1)</script>", 1, true, 60)], "\"><img src=http://x>").unwrap();
        for forbidden in ["<script", "<img", "http://", "https://", "url(", "@import", "<link", " src="] {
            assert!(!page.replace("src=http:&#x2f;", "").contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn what_is_not_finite_never_reaches_the_page() {
        let mut odd = run("odd", 1, true, 50);
        for (second, value) in odd.seconds.iter_mut().zip([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, f64::MAX].into_iter().cycle())
        {
            *second = Second { capacity: value, demand: value, probability: value, p99_s: Some(value), ..Second::default() };
        }
        odd.figures.goodput = f64::NAN;
        odd.figures.p99_s = f64::INFINITY;
        odd.figures.wait_p50_s = f64::NAN;
        let page = page(&[odd]);
        assert!(!page.contains("NaN"));
        let numbers = page.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for path in numbers {
            assert!(path.chars().all(|c| c.is_ascii_digit() || "MLZh .-".contains(c)), "{path}");
        }
    }

    #[test]
    fn seeds_are_one_row_with_median_and_range_beside_the_run_without_the_gate() {
        let mut runs = vec![run("rush", 1, true, 60), run("calm", 1, true, 60), run("rush", 2, true, 60), run("rush", 3, true, 60)];
        runs.push(run("rush", 1, false, 60));
        for (run, goodput) in runs.iter_mut().zip([0.991, 0.5, 0.98, 0.999, 0.031]) {
            run.figures.goodput = goodput;
        }
        let scenarios = scenarios(&runs);
        assert_eq!(scenarios.iter().map(|scenario| (scenario.name, scenario.sides.len())).collect::<Vec<_>>(), [("rush", 2), ("calm", 1)]);
        let rush = &scenarios[0];
        assert_eq!((rush.sides[0].seeds, rush.sides[0].goodput.in_words()), (3, "99.1\u{a0}% (98\u{a0}% to 99.9\u{a0}%)".to_owned()));
        assert_eq!((rush.sides[1].gate, rush.sides[1].goodput.in_words()), (false, "3.1\u{a0}%".to_owned()));
        assert_eq!((rush.plots.len(), scenarios[1].plots.len()), (6, 4));
        let two = Spread::of(&[&runs[0], &runs[2]], |f| f.goodput).unwrap();
        assert!((two.median - 0.9855).abs() < 1e-9);
    }

    #[test]
    fn the_sentence_says_what_happened() {
        let mut run = run("rush", 1, true, 60);
        let text = sentence(&[&run]).replace('\u{a0}', " ");
        assert_eq!(
            text,
            "of what the site could have answered, 99 % was answered well; 99 % of the answers came within 1.25 s; nobody inside was turned \
             away; no visit inside failed; 40 visitors were shown the waiting room, and none of them gave up; half of those who waited and \
             got in were in within 1 minute 5 s, the longest wait was 9 minutes."
        );
        run.figures = Figures { shed: 12, sessions_failed: 1, sessions_done: 3, ..Figures::default() };
        let text = sentence(&[&run]).replace('\u{a0}', " ");
        assert!(text.ends_with("were shed: 12; 25 % of the visits inside failed; nobody had to wait."), "{text}");
    }

    #[test]
    fn a_long_run_is_drawn_in_few_points_that_keep_totals_and_the_highest_p99() {
        let mut long = run("rush", 1, true, 3601);
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
        assert!(page(&[long]).len() < 150_000);
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
        let plot = Plot::of(&REQUESTS, &run("rush", 1, true, 60)).unwrap();
        assert_eq!(plot.note.as_deref(), Some("demand goes up to 900, above the plot"));
        assert_eq!(plot.values.last().unwrap().text, "300");
        assert_eq!(plot.band, Some((10.0, 50.0)));
    }

    #[test]
    fn a_run_without_seconds_and_a_report_without_runs_are_pages() {
        let mut empty = run("empty", 1, false, 0);
        empty.to_s = 600;
        empty.figures = Figures::default();
        assert!(page(&[empty]).contains("no seconds were recorded"));
        assert!(page(&[]).contains("</html>"));
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        let texts = [percent(0.9999), percent(1.0), percent(0.0), percent(0.0001), percent(0.973), count(1_204.0), count(0.5), count(1e6)];
        assert_eq!(
            texts.map(|text| text.replace('\u{a0}', " ")),
            ["99.9 %", "100 %", "0 %", "<0.1 %", "97.3 %", "1,204", "0.5", "1,000,000"]
        );
        let texts = [0.045, 0.32, 42.0, 59.7, 65.0, 540.0, 3600.0, 7800.0].map(|seconds| span(seconds).replace('\u{a0}', " "));
        assert_eq!(texts, ["0.045 s", "0.32 s", "42 s", "1 minute", "1 minute 5 s", "9 minutes", "1 hour", "2 hours 10 minutes"]);
    }
}
