//! What a surge does to a site, with nothing, HAProxy or the gate in front of it. In real time, over real sockets.
//!
//! The case: a site of 8 workers at 80 ms a page, so 100 pages a second; a crowd of three times that in visitors (50 a second, who
//! came for 6 pages each, 4 s apart) for two minutes; a waiting room that refreshes every 5 s. What counts is how many pages a second
//! came within 1 s of when their visitor meant to have them, in the second minute, as a share of the site's capacity.
//!
//! Site, proxy and crowd are processes of their own: this file starts itself again as the site, and is the crowd. Everything
//! listens on free ports of 127.0.0.1, and ends with this process.
//!
//! Beside the surge there are four calmer cases, for the gate alone: half of the capacity, and nobody may have to wait after the first ten
//! seconds; ten times the capacity from one second to the next, and the waiting room must open at once; a site of which 6 % of the pages
//! take 3 s more, and one of which more than a quarter of the pages always fails, both at 0.3 of what they can do, and nobody may have to wait.
//!
//! ```text
//! cargo bench --bench surge                          # all, ten minutes
//! cargo bench --bench surge -- --scenario half
//! cargo bench --bench surge -- --only none --multiple 5
//! cargo bench --bench surge -- --smoke               # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tidegate::clock::Clock;
use tidegate::demo::crowd::{Crowd, CrowdSettings, Pages};
use tidegate::demo::report::CrowdReport;
use tidegate::demo::site::{Site, SiteSettings, SlowPlace};
use tidegate::demo::{start_crowd, start_site};
use tidegate::models::arrivals::Step;
use tidegate::models::random::Span;

use support::{Directory, Process, free_address, loopback};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Site { workers, service_ms, fault }) = arguments.part {
        return be_the_site(SiteSettings { workers, service: Duration::from_millis(service_ms), ..SiteSettings::default() }, fault);
    }
    if !arguments.bench && !arguments.smoke && arguments.only.is_none() && arguments.scenario.is_none() {
        // `cargo test --all-targets` runs every target: six minutes of load are not a test
        println!("run me with `cargo bench --bench surge`");
        return Ok(());
    }
    raise_descriptor_limit()?;
    if arguments.scenario.is_none_or(|scenario| scenario == Scenario::Surge) {
        let case = Case {
            site: SiteSettings::default(),
            pages: 6,
            multiple: arguments.multiple,
            seconds: if arguments.smoke { SMOKE_S } else { arguments.seconds },
        };
        let fronts = arguments.only.map_or_else(|| Front::value_variants().to_vec(), |only| vec![only]);
        println!("{}", case.describe());
        println!("{HEADING}");
        for front in fronts {
            println!("{}", case.row(front)?);
        }
    }
    if arguments.only.is_none() {
        println!("\n{CALM_HEADING}");
        let chosen = |scenario: &&Scenario| arguments.scenario.is_none_or(|wanted| wanted == **scenario);
        for scenario in Scenario::value_variants().iter().filter(|&&scenario| scenario != Scenario::Surge).filter(chosen) {
            println!("{}", scenario.row(if arguments.smoke { SMOKE_S } else { CALM_S })?);
        }
    }
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Ten seconds each, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    /// One row of the table.
    #[arg(long)]
    only: Option<Front>,
    /// One of the cases; without it, all.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// How many times the site's capacity is asked for in the surge.
    #[arg(long, default_value_t = 3.0)]
    multiple: f64,
    /// How long the crowd comes; the second half is what counts.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Be the site: say the address on standard output, and end when standard input does.
    #[command(hide = true)]
    Site { workers: u32, service_ms: u64, fault: SiteFault },
}

/// What is wrong with the site all along.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum SiteFault {
    None,
    SlowPages,
    FailingPages,
}

/// What the crowd and the site are like.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Scenario {
    /// More than the site can do, with and without something in front of it.
    Surge,
    /// Half of the capacity.
    Half,
    /// Ten times the capacity, from one second to the next.
    Tenfold,
    /// 6 % of the pages take 3 s more.
    SlowPages,
    /// More than a quarter of the pages always fails.
    FailingPages,
}

impl Scenario {
    /// When the crowd of [`Scenario::Tenfold`] comes; and before that nobody is a stranger to the gate any more.
    const STEP_S: u64 = 20;

    const fn fault(self) -> SiteFault {
        match self {
            Self::Surge | Self::Half | Self::Tenfold => SiteFault::None,
            Self::SlowPages => SiteFault::SlowPages,
            Self::FailingPages => SiteFault::FailingPages,
        }
    }

    /// Pages a second that the site can do, slow ones among them.
    fn capacity(self, site: &SiteSettings) -> f64 {
        let mean_s = site.service.as_secs_f64() + if self == Self::SlowPages { SLOW_SHARE * SLOW_S } else { 0.0 };
        f64::from(site.workers) / mean_s
    }

    fn schedule(self, capacity: f64) -> Vec<Step> {
        let step = |at_s, share| Step { at_s, visitors_per_s: share * capacity / f64::from(PAGES) };
        match self {
            Self::Surge | Self::Half => vec![step(0.0, 0.5)],
            Self::Tenfold => vec![step(0.0, 0.3), step(Self::STEP_S as f64, 10.0)],
            Self::SlowPages | Self::FailingPages => vec![step(0.0, 0.3)],
        }
    }

    /// A row for the gate in front of the site.
    fn row(self, seconds: u64) -> anyhow::Result<String> {
        let site = SiteSettings::default();
        let (site_address, _site) = start_site_process(&site, self.fault())?;
        let directory = Directory::new(Front::Tidegate.name())?;
        let (address, _gate) = start_gate(directory.path(), site_address, site.workers)?;
        let capacity = self.capacity(&site);
        let settings = CrowdSettings {
            schedule: self.schedule(capacity),
            duration: Duration::from_secs(seconds),
            pages: Pages::Fixed(PAGES),
            think: Span::Fixed(Duration::from_secs(4)),
            ..CrowdSettings::of(address)
        };
        let crowd = Crowd::new(settings, Arc::new(Clock::start()));
        start_crowd(&crowd)?.join();
        let report = crowd.report();
        let from = if self == Self::Tenfold { Self::STEP_S } else { LEARNING_S };
        let first_wait =
            report.seconds().find(|(second, window)| *second >= from && window.counts.waits > 0).map(|(second, _)| second - from);
        let after = report.window(from, seconds);
        let p95 = after.latency.quantile(0.95).map_or_else(|| "-".to_owned(), |at| format!("{:.2} s", at.as_secs_f64()));
        let name = self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        Ok(format!(
            "| {name:13} | {:>10.1} | {:>5} | {p95:>8} | {:>6} | {:>6} | {:>6} | {:>8} | {:>10} |",
            capacity,
            after.counts.pages(),
            after.counts.failed,
            after.counts.sheds,
            after.counts.waits,
            after.counts.diverted,
            first_wait.map_or_else(|| "never".to_owned(), |second| format!("second {}", second + 1)),
        ))
    }
}

/// How long a calm case takes.
const CALM_S: u64 = 60;

/// A gate that knows nothing yet may make some wait.
const LEARNING_S: u64 = 10;

/// Of every visitor.
const PAGES: u32 = 6;

/// Of [`Scenario::SlowPages`].
const SLOW_SHARE: f64 = 0.06;
const SLOW_S: f64 = 3.0;

/// All counts are from the tenth second on, or from the step of `tenfold`, which is also where its first wait counts from.
const CALM_HEADING: &str = "\
| with the gate | capacity/s | pages | p95      | failed | sheds  | waits  | diverted | first wait |
|---------------|------------|-------|----------|--------|--------|--------|----------|------------|";

/// What stands in front of the site.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Front {
    None,
    Haproxy,
    Tidegate,
}

struct Case {
    site: SiteSettings,
    pages: u32,
    multiple: f64,
    seconds: u64,
}

impl Case {
    fn describe(&self) -> String {
        format!(
            "site of {} workers at {} ms, {:.0} pages/s; {:.1} visitors/s for {} s, {} pages each, 4 s apart",
            self.site.workers,
            self.site.service.as_millis(),
            self.site.capacity(),
            self.visitors_per_s(),
            self.seconds,
            self.pages,
        )
    }

    fn visitors_per_s(&self) -> f64 {
        self.multiple * self.site.capacity() / f64::from(self.pages)
    }

    fn row(&self, front: Front) -> anyhow::Result<String> {
        let (site_address, _site) = start_site_process(&self.site, SiteFault::None)?;
        let directory = Directory::new(front.name())?;
        let (address, _front) = match front {
            Front::None => (site_address, None),
            Front::Tidegate => {
                let (address, gate) = start_gate(directory.path(), site_address, self.site.workers)?;
                (address, Some(gate))
            }
            Front::Haproxy => match start_haproxy(directory.path(), site_address, self.site.workers)? {
                Some((address, haproxy)) => (address, Some(haproxy)),
                None => return Ok(format!("| {:8} | not installed |", front.name())),
            },
        };
        let settings = CrowdSettings {
            schedule: vec![Step { at_s: 0.0, visitors_per_s: self.visitors_per_s() }],
            duration: Duration::from_secs(self.seconds),
            pages: Pages::Fixed(self.pages),
            think: Span::Fixed(Duration::from_secs(4)),
            ..CrowdSettings::of(address)
        };
        let crowd = Crowd::new(settings, Arc::new(Clock::start()));
        start_crowd(&crowd)?.join();
        let report = crowd.report();
        if report.total.counts.started == 0 {
            bail!("nobody came");
        }
        Ok(self.format(front, &report))
    }

    fn format(&self, front: Front, report: &CrowdReport) -> String {
        let measured = report.window(self.seconds / 2, self.seconds);
        let latency = |share| measured.latency.quantile(share).map_or_else(|| "-".to_owned(), |at| format!("{:.2} s", at.as_secs_f64()));
        let (counts, all) = (measured.counts, report.total.counts);
        format!(
            "| {:8} | ×{:<4.1} | {:>8.1} % | {:>7.1} % | {:>8} | {:>8} | {:>6} | {:>6} | {:>6} | {:>8} | {:>6} | {:>5} / {:<5} |",
            front.name(),
            self.multiple,
            100.0 * measured.goodput_1s() / self.site.capacity(),
            100.0 * counts.pages() as f64 / measured.seconds.max(1) as f64 / self.site.capacity(),
            latency(0.5),
            latency(0.95),
            all.failed,
            all.waits,
            all.sheds,
            all.diverted,
            all.left_inside,
            all.completed,
            all.started,
        )
    }
}

/// Pages as shares of what the site can do, and their latencies, in the second half; the rest counts from the start. Diverted are
/// visitors who were inside and then had to wait; lost are visitors who were inside and left because pages failed or kept them waiting.
const HEADING: &str = "\
| in front | offer | within 1 s | all pages | p50      | p95      | failed | waits  | sheds  | diverted | lost   | sessions done |
|----------|-------|------------|-----------|----------|----------|--------|--------|--------|----------|--------|---------------|";

// the site

fn be_the_site(settings: SiteSettings, fault: SiteFault) -> anyhow::Result<()> {
    let site = Site::new(settings, Arc::new(Clock::start()));
    site.change(|faults| match fault {
        SiteFault::None => {}
        SiteFault::SlowPages => (faults.slow, faults.slow_place) = (SLOW_SHARE, SlowPlace::Inside),
        // 1 and 10 to 19 of 40
        SiteFault::FailingPages => faults.failing_prefix = Some("/page/1".to_owned()),
    });
    let (address, _running) = start_site(&site, loopback())?;
    println!("{address}");
    // whoever started this holds the other end, and can't leave it open by dying
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn start_site_process(settings: &SiteSettings, fault: SiteFault) -> anyhow::Result<(SocketAddr, Process)> {
    let mut command = Command::new(std::env::current_exe()?);
    let fault = fault.to_possible_value().context("a fault without a name")?;
    command.arg("site").arg(settings.workers.to_string()).arg(settings.service.as_millis().to_string()).arg(fault.get_name());
    let (address, _output, site) = Process::start_part(&mut command).context("the site")?;
    Ok((address, site))
}

// what stands in front of it

fn start_gate(directory: &Path, site: SocketAddr, workers: u32) -> anyhow::Result<(SocketAddr, Process)> {
    let (address, admin) = (free_address()?, free_address()?);
    let config = directory.join("gate.yaml");
    fs::write(&config, gate_yaml(address, admin, &directory.join("data"), site, workers))?;
    let log = File::create(directory.join("log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).stdout(log.try_clone()?).stderr(log);
    let mut gate = Process::start(&mut command).context("the gate")?;
    gate.wait_until_ready(admin, "/readyz").with_context(|| fs::read_to_string(directory.join("log")).unwrap_or_default())?;
    Ok((address, gate))
}

fn gate_yaml(address: SocketAddr, admin: SocketAddr, data: &Path, site: SocketAddr, workers: u32) -> String {
    format!(
        "listen: {{ http: {address} }}\n\
         admin: {{ listen: {admin} }}\n\
         data: {data:?}\n\
         upstream: {{ servers: [\"http://{site}\"], max_in_flight: {workers} }}\n\
         waiting_room: {{ refresh: 5s }}\n\
         shutdown: {{ delay: 0s, deadline: 0s }}\n"
    )
}

/// The same slots, requests whose client has left thrown out of the queue, and the queue timeout that did best at ×3: within 1 s 71 % with
/// 200 ms, 65 % with 500 ms, 1 % with 1 s, 0 % with 10 s, at which the site collapses behind it. None if it is not installed.
fn start_haproxy(directory: &Path, site: SocketAddr, workers: u32) -> anyhow::Result<Option<(SocketAddr, Process)>> {
    let address = free_address()?;
    let config = directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n  maxconn 9000\n\
             defaults\n  mode http\n  option abortonclose\n  timeout connect 2s\n  timeout client 75s\n  timeout server 60s\n  \
             timeout queue 200ms\n\
             frontend front\n  bind {address}\n  default_backend site\n\
             backend site\n  server site {site} maxconn {workers}\n"
        ),
    )?;
    let mut haproxy = match Process::start(Command::new("haproxy").args(["-db", "-q", "-f"]).arg(&config)) {
        Ok(started) => started,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("haproxy"),
    };
    haproxy.wait_until_ready(address, "/healthz")?;
    Ok(Some((address, haproxy)))
}

impl Front {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Haproxy => "haproxy",
            Self::Tidegate => "tidegate",
        }
    }
}

/// Every visitor has a socket, and so has the site.
fn raise_descriptor_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

const SMOKE_S: u64 = 10;
