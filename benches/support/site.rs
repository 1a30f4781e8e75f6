//! The model site as a process of its own: this bench starts itself again as it, and tells it what happens to it.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tidegate::clock::Clock;
use tidegate::demo::site::{Faults, Health, Site, SiteSettings, SlowPlace};
use tidegate::demo::start_site;

use super::support::{Process, loopback};

/// What the site is told at its start.
#[derive(Args)]
pub(super) struct Told {
    workers: u32,
    service_us: u64,
    variation: f64,
    congestion: f64,
    threads: usize,
    backlog: usize,
    fault: Fault,
}

/// What is wrong with the site all along.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    None,
    SlowPages,
    FailingPages,
}

/// Of [`Fault::SlowPages`].
pub(super) const SLOW_SHARE: f64 = 0.06;
pub(super) const SLOW_S: f64 = 3.0;

/// Says the address on standard output, does what standard input says, and ends when that does.
pub(super) fn be_the_site(told: &Told) -> anyhow::Result<()> {
    let settings = SiteSettings {
        workers: told.workers,
        service: Duration::from_micros(told.service_us),
        service_variation: told.variation,
        congestion: told.congestion,
        threads: told.threads,
        backlog: told.backlog,
        ..SiteSettings::default()
    };
    let site = Site::new(settings, Arc::new(Clock::start()));
    site.change(|faults| match told.fault {
        Fault::None => {}
        Fault::SlowPages => (faults.slow, faults.slow_place) = (SLOW_SHARE, SlowPlace::Inside),
        // 1 and 10 to 19 of 40
        Fault::FailingPages => faults.failing_prefix = Some("/page/1".to_owned()),
    });
    let (address, _running) = start_site(&site, loopback())?;
    writeln!(std::io::stdout(), "{address}")?;
    // whoever started this holds the other end, and can't leave it open by dying
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, value) = line.split_once(' ').with_context(|| format!("{line:?} is no order"))?;
        let mut unknown = false;
        let number: f64 = value.parse().unwrap_or(1.0);
        site.change(|faults: &mut Faults| match (what, value) {
            ("workers", _) => faults.workers = number,
            ("slower", _) => faults.slowdown = number,
            ("health", "up") => faults.health = Health::Alive,
            ("health", "hangs") => faults.health = Health::Hanging,
            ("health", "refuses") => faults.health = Health::Refusing,
            _ => unknown = true,
        });
        if unknown {
            bail!("{line:?} is no order");
        }
    }
    Ok(())
}

/// The process, seen from the bench.
pub(super) struct SiteProcess {
    pub(super) address: SocketAddr,
    pub(super) process: Process,
}

impl SiteProcess {
    pub(super) fn start(settings: &SiteSettings, fault: Fault) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let SiteSettings { workers, service, service_variation, congestion, threads, backlog, .. } = settings;
        let fault = fault.to_possible_value().context("a fault without a name")?;
        command.args(["site", &workers.to_string(), &service.as_micros().to_string(), &service_variation.to_string()]);
        command.args([&congestion.to_string(), &threads.to_string(), &backlog.to_string(), fault.get_name()]);
        let (address, _output, process) = Process::start_part(&mut command).context("the site")?;
        Ok(Self { address, process })
    }

    /// Tells it what happens: `workers 0.5`, `slower 2`, `health hangs`.
    pub(super) fn order(&mut self, order: &str) -> anyhow::Result<()> {
        let input = self.process.0.stdin.as_mut().context("the site takes no orders")?;
        Ok(writeln!(input, "{order}")?)
    }
}
