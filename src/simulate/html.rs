//! The report as one page: sentences, a table, plots. It holds no script and asks for nothing from elsewhere, so that it can be mailed,
//! printed and kept.
//!
//! Runs that differ only in their seed are one row: the median, and from the lowest to the highest. A long run is drawn in at most
//! 600 points a line, each the mean of its seconds (of p99: the highest). What isn't finite is a gap in a line and a dash
//! in a table. Names come from a file: the template escapes all text.

use minijinja::Environment;
use serde::Serialize;

use super::figures::{Figures, Run};
use super::plot::{self, Plot};
use super::words::{count, percent, rough, span, span_short};

const PAGE: &str = include_str!("report.html");

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
            plots.extend(
                [&plot::REQUESTS, &plot::VISITORS, &plot::PROBABILITY, &plot::LATENCY].into_iter().filter_map(|spec| Plot::of(spec, run)),
            );
        }
        if let Some(run) = bare.first() {
            plots.extend([&plot::REQUESTS_BARE, &plot::LATENCY_BARE].into_iter().filter_map(|spec| Plot::of(spec, run)));
        }
        let measured = plot::band(shown).map(|(from, to)| format!("from {} to {}", span(from), span(to)));
        let sides = [gated, bare].iter().filter(|side| !side.is_empty()).map(|side| Side::of(side)).collect();
        Some(Self { name, about: &shown.about, sides, seed: shown.seed, measured, bucket_s: plot::bucket_s(shown.seconds.len()), plots })
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

/// One figure of a run.
type Take = fn(&Figures) -> f64;

/// What became of the email queue, if there was one.
fn invitations(runs: &[&Run]) -> Option<String> {
    let words = |of: Take, form: fn(f64) -> String| Spread::of(runs, of).map(|spread| Cell::of(Some(&spread), form).in_words());
    let sent = words(|f| f.invited.map_or(f64::NAN, |invited| invited.sent.into()), count)?;
    let within = words(|f| f.invited.and_then(|invited| invited.hours).map_or(f64::NAN, |hours| 3600.0 * hours), span);
    let within = within.map_or_else(|| "not all that there were".to_owned(), |within| format!("all within {within}"));
    let above = words(|f| f.invited.map_or(f64::NAN, |invited| invited.minutes_above.into()), count)?;
    Some(format!("invitations sent: {sent}, {within}; minutes in which someone was turned away meanwhile: {above}"))
}

/// What happened, for who doesn't read tables.
fn sentence(runs: &[&Run]) -> String {
    let words = |of: Take, form: fn(f64) -> String| Cell::of(Spread::of(runs, of).as_ref(), form).in_words();
    let any = |of: Take| Spread::of(runs, of).is_some_and(|spread| spread.high > 0.0);
    let gate = runs.iter().any(|run| run.gate);
    let mut parts = vec![format!("of what the site could have answered, {} was answered well", words(|f| f.goodput, percent))];
    if any(|f| f.p99_s) {
        parts.push(format!("99\u{a0}% of the answers came within {}", words(|f| f.p99_s, span)));
    }
    let refused: [(&str, Take); 3] = [
        ("requests of visitors inside that were shed", |f| f.shed.into()),
        ("waiting pages shown to visitors inside", |f| f.diverted_inside.into()),
        ("requests of visitors inside that came above the rate of their pass", |f| f.too_often.into()),
    ];
    if gate && !refused.iter().any(|(_, of)| any(*of)) {
        parts.push("nobody inside was turned away".to_owned());
    }
    parts.extend(refused.iter().filter(|(_, of)| any(*of)).map(|(what, of)| format!("{what}: {}", words(*of, count))));
    parts.extend(invitations(runs));
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
    of: Take,
    #[serde(skip)]
    form: fn(f64) -> String,
}

const COLUMNS: [Column; 16] = [
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
    Column { group: "Wait", name: "same minute p95 ÷ p50", of: |f| f.wait_spread.unwrap_or(f64::NAN), form: rough },
    Column { group: "Wait", name: "inversion", of: |f| wait(f, f.inversion_max_s), form: span_short },
    Column { group: "Told", name: "half", of: |f| f.told_half.unwrap_or(f64::NAN), form: percent },
    Column { group: "Told", name: "nine of ten", of: |f| f.told_nine_of_ten.unwrap_or(f64::NAN), form: percent },
    Column { group: "Told", name: "error", of: |f| f.told_error_p50.unwrap_or(f64::NAN), form: percent },
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
    fn of(runs: &[&Run], of: Take) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::figures::Second;

    fn run(scenario: &str, seed: u64, gate: bool, seconds: usize) -> Run {
        let second = Second { capacity: 100.0, demand: 900.0, good: 95, probability: 0.1, p99_s: Some(1.2), ..Second::default() };
        let figures = Figures { goodput: 0.99, p99_s: 1.25, sessions_done: 900, waited: 40, ..Figures::default() };
        let figures = Figures { wait_p50_s: 65.0, wait_max_s: 540.0, ..figures };
        let to_s = u32::try_from(seconds).unwrap();
        let (scenario, about) = (scenario.to_owned(), "A rush.".to_owned());
        Run { scenario, about, seed, gate, from_s: 10, to_s, figures, seconds: vec![second; seconds] }
    }

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
        run.figures = Figures { shed: 12, too_often: 2, sessions_failed: 1, sessions_done: 3, ..Figures::default() };
        let text = sentence(&[&run]).replace('\u{a0}', " ");
        assert!(text.ends_with("were shed: 12; requests of visitors inside that came above the rate of their pass: 2; 25 % of the visits inside failed; nobody had to wait."), "{text}");
    }

    #[test]
    fn the_page_of_an_hour_is_small() {
        assert!(page(&[run("rush", 1, true, 3601)]).len() < 150_000);
    }

    #[test]
    fn a_run_without_seconds_and_a_report_without_runs_are_pages() {
        let mut empty = run("empty", 1, false, 0);
        empty.to_s = 600;
        empty.figures = Figures::default();
        assert!(page(&[empty]).contains("no seconds were recorded"));
        assert!(page(&[]).contains("</html>"));
    }
}
