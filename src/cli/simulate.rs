//! `tidegate simulate`: what the gate would do, before the day.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context as _, bail};
use clap::Args;

use super::UNUSABLE;
use crate::config;
use crate::simulate::figures::Run;
use crate::simulate::scenario::{self, Scenario, Slots};
use crate::simulate::{self, html, report};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// A file of scenarios; those that come with the gate if none is given
    #[arg(long, value_name = "FILE")]
    scenarios: Option<PathBuf>,
    /// Only the scenario of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Name the scenarios, and run none
    #[arg(long)]
    list: bool,
    /// How many runs of each, with different randomness
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Where the randomness starts: the same seed gives the same figures
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// A gate.yaml in place of what the scenarios say of the gate
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What the gate is told of the slots in every scenario: auto, workers (as many as the site has), or a number
    #[arg(long, value_name = "SLOTS", conflicts_with = "policy")]
    slots: Option<Slots>,
    /// Also let each crowd on the bare site
    #[arg(long)]
    without_gate: bool,
    /// Write a report to be read in a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write everything that was found, second by second
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the scenarios and prints the table. Exit status 1 if something did not come out as expected, 2 if a file can't be read.
pub(super) fn simulate(options: &Options, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let unusable = |error: &dyn std::fmt::Display| {
        drop(writeln!(std::io::stderr(), "{error}"));
        Ok(ExitCode::from(UNUSABLE))
    };
    let policy = match options.policy.as_deref().map(config::load).transpose() {
        Ok(policy) => policy,
        Err(errors) => return unusable(&errors),
    };
    let mut scenarios = match read(options.scenarios.as_deref())? {
        Ok(scenarios) => scenarios,
        Err(error) => return unusable(&error),
    };
    if let Some(unknown) = options.only.iter().find(|name| scenarios.iter().all(|scenario| scenario.name != **name)) {
        return unusable(&format!("there is no scenario {unknown:?}: --list names them"));
    }
    scenarios.retain(|scenario| options.only.is_empty() || options.only.contains(&scenario.name));
    if let Some(slots) = options.slots {
        scenarios.iter_mut().for_each(|scenario| scenario.slots = slots);
    }
    if options.list {
        scenarios.iter().try_for_each(|scenario| writeln!(out, "{}: {}", scenario.name, scenario.about))?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(out, "{}", report::HEADING)?;
    let jobs = jobs(&scenarios, options);
    let (mut runs, mut unexpected): (Vec<Run>, _) = (Vec::new(), Vec::new());
    let found = in_order(
        &jobs,
        |job| simulate::run(&scenarios[job.scenario], policy.as_ref(), job.seed, job.gate),
        |number, run| {
            runs.push(run.map_err(Unusable)?);
            // a row as soon as its last run is there
            let job = &jobs[number];
            if jobs.get(number + 1).is_none_or(|next| (next.scenario, next.gate) != (job.scenario, job.gate)) {
                let from = runs.len() - usize::try_from(options.seeds)?;
                let of: Vec<&Run> = runs[from..].iter().collect();
                write!(out, "{}", report::row(&of))?;
                out.flush()?;
                if job.gate {
                    unexpected.extend(report::unexpected(&scenarios[job.scenario], &of));
                }
            }
            Ok(())
        },
    );
    match found.map_err(|error| error.downcast::<Unusable>()) {
        Ok(()) => {}
        Err(Ok(Unusable(error))) => return unusable(&error),
        Err(Err(error)) => return Err(error),
    }
    if let Some(path) = &options.json {
        write_file(path, &serde_json::to_string(&runs)?)?;
    }
    if let Some(path) = &options.html {
        write_file(path, &html::html(&runs, "Simulation")?)?;
    }
    unexpected.iter().try_for_each(|fault| writeln!(out, "not as expected: {fault}"))?;
    Ok(if unexpected.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(file: Option<&Path>) -> anyhow::Result<Result<Vec<Scenario>, scenario::ScenarioError>> {
    let Some(path) = file else { return Ok(scenario::parse(scenario::BUILT_IN, "scenarios.yaml")) };
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: can't be read", path.display()))?;
    Ok(scenario::parse(&text, &path.display().to_string()))
}

/// A policy that a scenario can't be run with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

#[derive(Clone, Copy)]
struct Job {
    scenario: usize,
    seed: u64,
    gate: bool,
}

/// All runs, those of one row next to each other.
fn jobs(scenarios: &[Scenario], options: &Options) -> Vec<Job> {
    let gates: &[bool] = if options.without_gate { &[true, false] } else { &[true] };
    let seeds = options.seed..options.seed.saturating_add(options.seeds);
    let rows = (0..scenarios.len()).flat_map(|scenario| gates.iter().map(move |&gate| (scenario, gate)));
    rows.flat_map(|(scenario, gate)| seeds.clone().map(move |seed| Job { scenario, seed, gate })).collect()
}

/// Does all jobs, one a core at a time, and hands over what they came to in their order, each as soon as all before it are there.
fn in_order<J: Sync, R: Send>(
    jobs: &[J],
    work: impl Fn(&J) -> R + Sync,
    mut done: impl FnMut(usize, R) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..cores.min(jobs.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(job) = jobs.get(number)
                    // whoever no longer listens has met an error
                    && sender.send((number, work(job))).is_ok()
                {}
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut awaited = 0;
        for (number, result) in results {
            early.insert(number, result);
            while let Some(result) = early.remove(&awaited) {
                done(awaited, result)?;
                awaited += 1;
            }
        }
        Ok(())
    })
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if path.as_os_str().is_empty() {
        bail!("a file has no name");
    }
    std::fs::write(path, text).with_context(|| format!("{}: can't be written", path.display()))
}
