//! What a simulation has found, as a table for a terminal, and what of it was not expected.

use super::figures::{Figures, Run};
use super::invitations::Invited;
use super::pairs::Ahead;
use super::scenario::{Expect, Scenario};

/// The head of the table.
pub const HEADING: &str = "\
| scenario | gate | seeds | goodput % | spread | p50 s | p95 s | p99 s | worst p99 s | shed | failed | done | waited | wait p50 s | p95 | p99 | max | same minute p95/p50 | inversion s | told half % | told nine of ten % | told error % | reloading gains | new tickets gain | first page s | invited | redeemed | held | minutes above | highest load | all invited h |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// One row: the mean of the runs of one scenario, with the gate or without it.
#[must_use]
pub fn row(runs: &[&Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let mean = |of: &dyn Fn(&Figures) -> f64| runs.iter().map(|run| of(&run.figures)).sum::<f64>() / runs.len() as f64;
    let limiting: Vec<f64> = runs.iter().filter_map(|run| run.figures.limiting_after_s).collect();
    let mut row = format!(
        "| {} | {} | {} | {:.1} | {:.1} |",
        first.scenario,
        if first.gate { "yes" } else { "no" },
        runs.len(),
        100.0 * mean(&|figures| figures.goodput),
        100.0 * spread(runs),
    );
    let times: [&dyn Fn(&Figures) -> f64; 4] = [&|f| f.p50_s, &|f| f.p95_s, &|f| f.p99_s, &|f| f.worst_p99_s];
    let counts: [&dyn Fn(&Figures) -> f64; 4] =
        [&|f| f.shed.into(), &|f| f.sessions_failed.into(), &|f| f.sessions_done.into(), &|f| f.waited.into()];
    let waits: [&dyn Fn(&Figures) -> f64; 4] = [&|f| f.wait_p50_s, &|f| f.wait_p95_s, &|f| f.wait_p99_s, &|f| f.wait_max_s];
    times.iter().for_each(|of| row.push_str(&format!(" {:.2} |", mean(of))));
    counts.iter().chain(&waits).for_each(|of| row.push_str(&format!(" {:.0} |", mean(of))));
    let same_minute: Vec<f64> = runs.iter().filter_map(|run| run.figures.wait_spread).collect();
    let inversion = mean(&|figures| figures.inversion_max_s);
    row.push_str(&format!(" {} | {inversion:.0} |", mean_of(&same_minute, 2)));
    let told: [Known<f64>; 3] = [|f| f.told_half, |f| f.told_nine_of_ten, |f| f.told_error_p50];
    for of in told {
        let known: Vec<f64> = runs.iter().filter_map(|run| of(&run.figures).map(|share| 100.0 * share)).collect();
        row.push_str(&format!(" {} |", mean_of(&known, 1)));
    }
    let ahead: [Known<Ahead>; 2] = [|f| f.reloaders_ahead, |f| f.churners_ahead];
    for of in ahead {
        let known: Vec<Ahead> = runs.iter().filter_map(|run| of(&run.figures)).collect();
        row.push_str(&joined(&known).map_or_else(|| " – |".to_owned(), |(ratio, error)| format!(" {ratio:.3} ± {error:.3} |")));
    }
    row.push_str(&format!(" {} |", mean_of(&limiting, 1)));
    let counts: [fn(&Invited) -> u32; 4] = [|i| i.sent, |i| i.redeemed, |i| i.held, |i| i.minutes_above];
    let of_invited: Vec<Invited> = runs.iter().filter_map(|run| run.figures.invited).collect();
    for of in counts {
        let known: Vec<f64> = of_invited.iter().map(|invited| of(invited).into()).collect();
        row.push_str(&format!(" {} |", mean_of(&known, 0)));
    }
    let loads: Vec<f64> = of_invited.iter().map(|invited| invited.load_max).collect();
    let hours: Vec<f64> = of_invited.iter().filter_map(|invited| invited.hours).collect();
    row + &format!(" {} | {} |\n", mean_of(&loads, 2), mean_of(&hours, 1))
}

/// A figure that not every run has.
type Known<T> = fn(&Figures) -> Option<T>;

/// The mean of several ratios, and its standard error.
fn joined(ahead: &[Ahead]) -> Option<(f64, f64)> {
    let count = ahead.len() as f64;
    let ratio = ahead.iter().map(|ahead| ahead.ratio).sum::<f64>() / count;
    let error = ahead.iter().map(|ahead| ahead.error.powi(2)).sum::<f64>().sqrt() / count;
    (!ahead.is_empty()).then_some((ratio, error))
}

/// A dash if there is none.
fn mean_of(values: &[f64], places: usize) -> String {
    if values.is_empty() { "–".to_owned() } else { format!("{:.places$}", values.iter().sum::<f64>() / values.len() as f64) }
}

/// By how much the goodput of the seeds differs.
fn spread(runs: &[&Run]) -> f64 {
    let goodput = || runs.iter().map(|run| run.figures.goodput);
    goodput().fold(0.0, f64::max) - goodput().fold(f64::INFINITY, f64::min).min(f64::MAX)
}

/// What the runs with the gate should have come to, and did not: a sentence each.
#[must_use]
pub fn unexpected(scenario: &Scenario, runs: &[&Run]) -> Vec<String> {
    let expect = scenario.expect;
    let Expect { goodput, p99, worst_p99, sessions_failed, shed, waited, limiting_after, spread: most_spread, .. } = expect;
    let mut found = Vec::new();
    for run in runs {
        let figures = &run.figures;
        let mut fault = |what: &str, is: f64, bound: &str, limit: f64| {
            found.push(format!("{}, seed {}: {what} is {is}, {bound} {limit}", run.scenario, run.seed));
        };
        if let Some(least) = goodput.filter(|least| figures.goodput < least.0) {
            fault("goodput", round(figures.goodput), "below", least.0);
        }
        let times = [
            ("p99_s", figures.p99_s, p99),
            ("worst_p99_s", figures.worst_p99_s, worst_p99),
            ("inversion_max_s", figures.inversion_max_s, expect.inversion_max),
        ];
        for (what, is, most) in times {
            if let Some(most) = most.filter(|most| is > most.seconds()) {
                fault(what, round(is), "above", most.seconds());
            }
        }
        let counts = [
            ("sessions_failed", figures.sessions_failed, sessions_failed),
            ("shed", figures.shed, shed),
            ("waited", figures.waited, waited),
        ];
        for (what, is, most) in counts {
            if let Some(most) = most.filter(|most| is > most.0) {
                fault(what, is.into(), "above", most.0.into());
            }
        }
        if let Some(most) = expect.wait_spread.filter(|most| figures.wait_spread.is_none_or(|is| is > most.0)) {
            fault("wait_spread", figures.wait_spread.map_or(f64::NAN, round), "above", most.0);
        }
        if let Some(most) = expect.told_error_p50.filter(|most| figures.told_error_p50.is_none_or(|is| is > most.0)) {
            fault("told_error_p50", figures.told_error_p50.map_or(f64::NAN, round), "above", most.0);
        }
        let invited = figures.invited.unwrap_or_default();
        if let Some(most) = expect.minutes_above.filter(|most| invited.minutes_above > most.0) {
            fault("minutes_above", invited.minutes_above.into(), "above", most.0.into());
        }
        if let Some(most) = expect.invited_within {
            let within_h = invited.hours.unwrap_or(f64::INFINITY);
            if within_h * 3600.0 > most.seconds() {
                fault("hours until all were invited", round(within_h), "above", round(most.seconds() / 3600.0));
            }
        }
        if figures.diverted_inside > 0 {
            fault("diverted_inside", figures.diverted_inside.into(), "above", 0.0);
        }
        if let Some(latest) = limiting_after {
            match figures.limiting_after_s {
                Some(after) if after <= latest.seconds() => {}
                after => fault("limiting_after_s", after.map_or(f64::INFINITY, round), "above", latest.seconds()),
            }
        }
    }
    let told: [(&str, Known<f64>, _); 2] =
        [("told_half", |f| f.told_half, expect.told_half), ("told_nine_of_ten", |f| f.told_nine_of_ten, expect.told_nine_of_ten)];
    for (what, of, bounds) in told {
        let Some((least, most)) = bounds else { continue };
        let known: Vec<f64> = runs.iter().filter_map(|run| of(&run.figures)).collect();
        // a share of those who came: of all seeds together, as it is told to all
        let is = round(known.iter().sum::<f64>() / known.len() as f64);
        if is < least.0 || is.is_nan() {
            found.push(format!("{}: {what} is {is}, below {}", scenario.name, least.0));
        }
        if is > most.0 {
            found.push(format!("{}: {what} is {is}, above {}", scenario.name, most.0));
        }
    }
    let gains: [(&str, Known<Ahead>, _); 2] = [
        ("reloaders_ahead", |f| f.reloaders_ahead, expect.reloaders_ahead),
        ("churners_ahead", |f| f.churners_ahead, expect.churners_ahead),
    ];
    for (what, of, most) in gains {
        let Some(most) = most else { continue };
        let known: Vec<Ahead> = runs.iter().filter_map(|run| of(&run.figures)).collect();
        let most_likely = joined(&known).map_or(f64::INFINITY, |(ratio, error)| ratio + 3.0 * error);
        if most_likely > most.0 {
            found.push(format!("{}: {what} with three standard errors is {}, above {}", scenario.name, round(most_likely), most.0));
        }
    }
    let differ = spread(runs);
    if let Some(most) = most_spread.filter(|most| differ > most.0) {
        found.push(format!("{}: the seeds' goodput differs by {}, above {}", scenario.name, round(differ), most.0));
    }
    found
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::scenario;

    fn run(goodput: f64, shed: u32) -> Run {
        let figures = Figures { goodput, shed, p99_s: 1.04, ..Figures::default() };
        Run { scenario: "a".to_owned(), about: String::new(), seed: 3, gate: true, from_s: 0, to_s: 1, figures, seconds: Vec::new() }
    }

    #[test]
    fn what_is_not_as_expected_is_named_with_its_bound() {
        let text = "- name: a\n  expect: { goodput: 0.97, p99: 1.2s, shed: 0, spread: 0.02, limiting_after: 2s }\n";
        let scenario = &scenario::parse(text, "f").unwrap()[0];
        let (good, bad) = (run(0.99, 0), run(0.95, 2));
        assert_eq!(unexpected(scenario, &[&good]), ["a, seed 3: limiting_after_s is inf, above 2"]);
        let found = unexpected(scenario, &[&good, &bad]).join("\n");
        for fault in ["goodput is 0.95, below 0.97", "shed is 2, above 0", "differs by 0.04, above 0.02"] {
            assert!(found.contains(fault), "{found}");
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_heading() {
        let (one, two) = (run(0.99, 0), run(0.97, 2));
        let row = row(&[&one, &two]);
        assert_eq!(row.matches('|').count(), HEADING.lines().next().unwrap().matches('|').count());
        assert!(row.starts_with("| a | yes | 2 | 98.0 | 2.0 |"), "{row}");
    }
}
