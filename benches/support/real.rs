//! A scenario of the simulator in real time: the same site, crowd and policy, over real sockets, and what came of it in the same words.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use tidegate::clock::Clock;
use tidegate::demo::crowd::{Crowd, CrowdSettings, Pages};
use tidegate::demo::site::SiteSettings;
use tidegate::demo::start_crowd;
use tidegate::models::arrivals::Step;
use tidegate::models::histogram::Histogram;
use tidegate::models::random::Span;
use tidegate::simulate;
use tidegate::simulate::figures::{Run, Second};
use tidegate::simulate::scenario::{Change, Health, Scenario};

use super::cpu::{Cpu, Used};
use super::fronts::Front;
use super::site::{Fault, SiteProcess};
use super::support::{Directory, pause};

/// What a run came to, in the part that is measured.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcome {
    /// Answers within `good_within` of their request, as a share of what could have been answered.
    pub(super) goodput: f64,
    /// Pages within that of when their visitor first asked for them, as a share of the same.
    pub(super) in_time: f64,
    /// Requests that failed, and visitors who saw all of their pages.
    pub(super) failed: f64,
    pub(super) done: f64,
    /// Latency of answers, from the request to the last byte, in seconds; 0 without an answer.
    pub(super) p50_s: f64,
    pub(super) p95_s: f64,
    pub(super) p99_s: f64,
    pub(super) shed: f64,
    /// Visitors who were inside and then had to wait.
    pub(super) diverted: f64,
    /// Visitors who were inside and left because pages failed.
    pub(super) lost: f64,
    /// Visitors who were shown the waiting room, and the wait of those of them who were let in, in seconds.
    pub(super) waited: f64,
    pub(super) wait_p50_s: f64,
    pub(super) wait_p95_s: f64,
}

/// Several simulated runs.
pub(super) struct Simulated {
    pub(super) mean: Outcome,
    /// The least and the most goodput of them.
    pub(super) goodput: (f64, f64),
    /// The good answers that the site could have given.
    pub(super) could: f64,
}

/// Simulates a scenario several times.
pub(super) fn simulated(scenario: &Scenario, with_gate: bool, seeds: u64) -> anyhow::Result<Simulated> {
    let runs = (1..=seeds).map(|seed| simulate::run(scenario, None, seed, with_gate).map_err(anyhow::Error::msg));
    let runs: Vec<Run> = runs.collect::<anyhow::Result<_>>()?;
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let could = |run: &Run| -> f64 {
        let (from, to) = measured(run);
        run.seconds[from..to].iter().map(|second: &Second| second.could).sum()
    };
    let outcome = Outcome {
        goodput: mean(&|run| run.figures.goodput),
        in_time: mean(&|run| run.figures.in_time),
        failed: mean(&|run| {
            let (from, to) = measured(run);
            run.seconds[from..to].iter().map(|second| f64::from(second.failed)).sum()
        }),
        done: mean(&|run| run.figures.sessions_done.into()),
        p50_s: mean(&|run| run.figures.p50_s),
        p95_s: mean(&|run| run.figures.p95_s),
        p99_s: mean(&|run| run.figures.p99_s),
        shed: mean(&|run| run.figures.shed.into()),
        diverted: mean(&|run| run.figures.diverted_inside.into()),
        lost: mean(&|run| run.figures.sessions_failed.into()),
        waited: mean(&|run| run.figures.waited.into()),
        wait_p50_s: mean(&|run| run.figures.wait_p50_s),
        wait_p95_s: mean(&|run| run.figures.wait_p95_s),
    };
    let goodput = runs.iter().map(|run| run.figures.goodput).fold((f64::MAX, f64::MIN), |(least, most), of| (least.min(of), most.max(of)));
    Ok(Simulated { mean: outcome, goodput, could: mean(&could) })
}

fn measured(run: &Run) -> (usize, usize) {
    (run.from_s as usize, (run.to_s as usize).min(run.seconds.len()))
}

/// Runs it for real. `could` is how many good answers the site could have given. None if the front is not installed.
pub(super) fn run(scenario: &Scenario, front: Front, could: f64) -> anyhow::Result<Option<(Outcome, Used)>> {
    let settings = site(scenario)?;
    let mut site = SiteProcess::start(&settings, Fault::None)?;
    let directory = Directory::new("surge")?;
    let Some(standing) = front.start(directory.path(), site.address, settings.workers, &scenario.max_in_flight(), &scenario.policy)? else {
        return Ok(None);
    };
    let crowd = Crowd::new(crowd(scenario, &settings, standing.address)?, Arc::new(Clock::start()));
    let fronts: Vec<u32> = standing.process.iter().map(|process| process.0.id()).collect();
    let models = [std::process::id(), site.process.0.id()];
    let cpu = Cpu::start(&models, &fronts)?;
    let running = start_crowd(&crowd)?;
    let mut at = Duration::ZERO;
    for (then, order) in orders(scenario, &settings)? {
        pause(then.saturating_sub(at));
        at = then;
        site.order(&order)?;
    }
    running.join();
    let cpu = cpu.used()?;
    let report = crowd.report();
    let (from, to) = window(scenario);
    let window = report.window(from, to);
    ensure!(window.counts.started > 0, "nobody came");
    ensure!(window.counts.left_out == 0, "{} visitors found no room in the model", window.counts.left_out);
    let seconds = |histogram: &Histogram, share| histogram.quantile(share).map_or(0.0, |at| at.as_secs_f64());
    let counts = window.counts;
    let outcome = Outcome {
        goodput: counts.good as f64 / could.max(1.0),
        in_time: counts.within_2s as f64 / could.max(1.0),
        failed: counts.failed as f64,
        done: counts.completed as f64,
        p50_s: seconds(&window.answer, 0.5),
        p95_s: seconds(&window.answer, 0.95),
        p99_s: seconds(&window.answer, 0.99),
        shed: counts.sheds as f64,
        diverted: counts.diverted as f64,
        lost: counts.left_inside as f64,
        waited: counts.kept_waiting as f64,
        wait_p50_s: seconds(&window.waited, 0.5),
        wait_p95_s: seconds(&window.waited, 0.95),
    };
    Ok(Some((outcome, cpu)))
}

fn window(scenario: &Scenario) -> (u64, u64) {
    let seconds = |span: Option<simulate::scenario::Span>, usual: u64| span.map_or(usual, |span| span.0.as_secs());
    (seconds(scenario.measure.from, 0), seconds(scenario.measure.to, scenario.length.0.as_secs()))
}

fn site(scenario: &Scenario) -> anyhow::Result<SiteSettings> {
    let site = &scenario.site;
    ensure!(site.kinds.is_empty() && site.workers.0.fract() == 0.0, "{}: such a site can only be simulated", scenario.name);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number up to a million")]
    let workers = site.workers.0 as u32;
    Ok(SiteSettings {
        workers,
        service: site.service.0,
        service_variation: site.variation.0,
        congestion: site.congestion.0,
        threads: site.threads.0 as usize,
        backlog: site.backlog.0 as usize,
        seed: 1,
    })
}

fn crowd(scenario: &Scenario, site: &SiteSettings, server: std::net::SocketAddr) -> anyhow::Result<CrowdSettings> {
    let crowd = &scenario.crowd;
    ensure!(crowd.good_within.0 == Duration::from_secs(2), "{}: in real time, good is within 2 s", scenario.name);
    let visitors_per_s = site.capacity() / crowd.pages.0;
    let schedule = crowd.arrivals.iter().map(|step| {
        ensure!(!step.ramp && step.pulse.is_none(), "{}: such arrivals can only be simulated", scenario.name);
        let rate = step.load.map_or(0.0, |load| load.0 * visitors_per_s) + step.visitors.map_or(0.0, |visitors| visitors.0);
        Ok(Step { at_s: step.at.0.as_secs_f64(), visitors_per_s: rate })
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pages of a visit")]
    let pages = if crowd.same_pages { Pages::Fixed(crowd.pages.0.round() as u32) } else { Pages::Geometric(crowd.pages.0) };
    let think = if crowd.same_think { Span::Fixed(crowd.think.0) } else { Span::Exponential(crowd.think.0) };
    Ok(CrowdSettings {
        schedule: schedule.collect::<anyhow::Result<_>>()?,
        duration: scenario.length.0,
        pages,
        think,
        patience: crowd.patience.0,
        answer_timeout: crowd.timeout.0,
        reload_probability: 1.0,
        tries: crowd.tries.0,
        reload_pause: Span::Exponential(RETRY),
        ..CrowdSettings::of(server)
    })
}

/// When what happens to the site, in order of time.
fn orders(scenario: &Scenario, site: &SiteSettings) -> anyhow::Result<Vec<(Duration, String)>> {
    let mut orders = Vec::new();
    for change in &scenario.changes {
        let Change { at, lasts, every, workers, slower, more_work, latency, health, think, returning, burst } = change;
        if every.is_some() || more_work.is_some() || latency.is_some() || think.is_some() || returning.is_some() || burst.is_some() {
            bail!("{}: such a change can only be simulated", scenario.name);
        }
        let word = |health| match health {
            Health::Up => "health up",
            Health::Hangs => "health hangs",
            Health::Refuses => "health refuses",
        };
        let share = workers.map(|workers| (format!("workers {}", workers.0 / f64::from(site.workers)), "workers 1".to_owned()));
        let slower = slower.map(|slower| (format!("slower {}", slower.0), "slower 1".to_owned()));
        let health = health.map(|to| (word(to).to_owned(), word(Health::Up).to_owned()));
        for (then, back) in [share, slower, health].into_iter().flatten() {
            orders.push((at.0, then));
            orders.extend(lasts.map(|lasts| (at.0 + lasts.0, back)));
        }
    }
    orders.sort_by_key(|order| order.0);
    Ok(orders)
}

/// The mean pause before a page that has failed is asked for again, as in the simulation.
const RETRY: Duration = Duration::from_secs(5);
