//! What each adds to the time that an answer takes, at a steady rate that is no strain for any of them.
//!
//! Requests come at random, at one rate for all: half of what the slowest of them has just done on its core, of each kind: over HTTP/1 to
//! the site, turned away, within TLS, over HTTP/2. Their time counts from when
//! they were due (`paced.rs`). Each round begins with the site itself, and what a front adds is what its quantile is above that of the
//! site in the same round. If the crowd itself was late, the machine was busy with something else, and the figures are worth as much.

use anyhow::Context;

use super::crowd::{Crowd, Measured};
use super::load::{Order, Visitors};
use super::paced::{Latencies, Paced};
use super::table::Case;
use super::world::World;
use super::{Length, spread};

/// What is measured, one after the other.
const CASES: [Case; 4] = [Case::Proxied, Case::Diverted, Case::Tls, Case::Http2];

/// Prints a table. `rate` is in requests a second.
pub(super) fn measure(world: &mut World, rate: Option<f64>, length: Length) -> anyhow::Result<()> {
    println!("\n{HEADING}");
    let rates = CASES.map(|case| measure_case(world, case, rate, length).with_context(|| case.name()));
    for rate in rates {
        println!("{}", rate?);
    }
    Ok(())
}

/// Prints the rows of a case, and returns at what rate they were measured.
fn measure_case(world: &mut World, case: Case, rate: Option<f64>, length: Length) -> anyhow::Result<String> {
    let at_fronts = world.fronts.iter().filter_map(|front| case.visitors(world, front).map(|visitors| (front.name, visitors)));
    // who is turned away never comes to the site: all of the time is the front's
    let at_site = (!case.is_diverted()).then(|| (SITE, world.with_passes(world.site)));
    let ways: Vec<(&str, Visitors)> = at_site.into_iter().chain(at_fronts).collect();
    let rate = match rate {
        Some(rate) => rate,
        None => half_of_the_slowest(world, &ways, length)?,
    };
    let mut seen: Vec<Vec<Latencies>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..length.rounds {
        for ((name, visitors), seen) in ways.iter().zip(&mut seen) {
            let paced = Paced { visitors: visitors.clone(), rate, seed: round as u64, window_ms: length.window_ms };
            seen.push(world.load.order(&Order::Paced(paced)).context(*name)?);
        }
    }
    let late = seen.iter().flatten().map(|seen| seen.late_p99_us).max().unwrap_or_default();
    let (p50, p99): (Quantile, Quantile) = (|seen| seen.p50_us, |seen| seen.p99_us);
    let added = |of: Quantile, there: &[Latencies]| {
        let site = |round: usize| if case.is_diverted() { 0.0 } else { of(&seen[0][round]) as f64 };
        spread(there.iter().enumerate().map(|(round, seen)| of(seen) as f64 - site(round)))
    };
    let bar = ways.iter().position(|(name, _)| *name == BAR).map(|place| added(p99, &seen[place]).0);
    for ((name, _), there) in ways.iter().zip(&seen) {
        let all = |of: Quantile| spread(there.iter().map(|seen| of(seen) as f64)).0;
        let more = |of: Quantile| {
            let (median, least, most) = added(of, there);
            if *name == SITE { String::new() } else { format!("{median:.0} ({least:.0}–{most:.0})") }
        };
        let bar = bar.filter(|_| GATES.contains(name)).map_or_else(String::new, |bar| format!("{bar:.0}"));
        let case = case.name();
        println!("| {case:8} | {name:12} | {:>6.0} | {:>6.0} | {:18} | {:18} | {bar:>8} |", all(p50), all(p99), more(p50), more(p99));
    }
    Ok(format!("{}: {rate:.0} requests a second; the crowd itself was {late} µs late at worst (p99)", case.name()))
}

type Quantile = fn(&Latencies) -> u64;

fn half_of_the_slowest(world: &mut World, ways: &[(&str, Visitors)], length: Length) -> anyhow::Result<f64> {
    let mut slowest = f64::MAX;
    for (name, visitors) in ways {
        let crowd = Crowd { visitors: visitors.clone(), window_ms: length.window_ms, watched: Vec::new() };
        let Measured { requests, elapsed_ns, .. } = world.load.order(&Order::Crowd(crowd)).with_context(|| (*name).to_owned())?;
        slowest = slowest.min(requests as f64 * 1e9 / elapsed_ns as f64);
    }
    Ok(slowest / 2.0)
}

/// Asked directly.
const SITE: &str = "the site";

/// What it adds to the 99th percentile, a gate may.
const BAR: &str = "nginx";
const GATES: [&str; 2] = ["tidegate", "against"];

/// In µs.
const HEADING: &str = "\
| requests | in front     | p50 µs | p99 µs | added to p50       | added to p99       | at most  |
|----------|--------------|--------|--------|--------------------|--------------------|----------|";
