//! Cases in which nobody, or everybody, has to wait: half of the capacity, and nobody may have to wait after the first ten seconds; ten
//! times the capacity from one second to the next, and the waiting room must open at once; a site of which 6 % of the pages take 3 s
//! more, and one of which more than a quarter of the pages always fails, both at 0.3 of what they can do, and nobody may have to wait.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tidegate::clock::Clock;
use tidegate::demo::crowd::{Crowd, CrowdSettings, Pages};
use tidegate::demo::site::SiteSettings;
use tidegate::demo::start_crowd;
use tidegate::models::arrivals::Step;
use tidegate::models::random::Span;

use super::fronts::start_gate;
use super::site::{Fault, SLOW_S, SLOW_SHARE, SiteProcess};
use super::support::Directory;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Calm {
    /// Half of the capacity.
    Half,
    /// Ten times the capacity, from one second to the next.
    Tenfold,
    /// 6 % of the pages take 3 s more.
    SlowPages,
    /// More than a quarter of the pages always fails.
    FailingPages,
}

impl Calm {
    /// When the crowd of [`Calm::Tenfold`] comes; and before that nobody is a stranger to the gate any more.
    const STEP_S: u64 = 20;

    const fn name(self) -> &'static str {
        match self {
            Self::Half => "half the load",
            Self::Tenfold => "tenfold at once",
            Self::SlowPages => "slow pages",
            Self::FailingPages => "failing pages",
        }
    }

    const fn fault(self) -> Fault {
        match self {
            Self::Half | Self::Tenfold => Fault::None,
            Self::SlowPages => Fault::SlowPages,
            Self::FailingPages => Fault::FailingPages,
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
            Self::Half => vec![step(0.0, 0.5)],
            Self::Tenfold => vec![step(0.0, 0.3), step(Self::STEP_S as f64, 10.0)],
            Self::SlowPages | Self::FailingPages => vec![step(0.0, 0.3)],
        }
    }

    /// A row for the gate in front of the site.
    pub(super) fn row(self, seconds: u64) -> anyhow::Result<String> {
        let site = SiteSettings::default();
        let process = SiteProcess::start(&site, self.fault())?;
        let directory = Directory::new("calm")?;
        let gate = start_gate(directory.path(), process.address, &site.workers.to_string(), "waiting_room: { refresh: 5s }")?;
        let capacity = self.capacity(&site);
        let settings = CrowdSettings {
            schedule: self.schedule(capacity),
            duration: Duration::from_secs(seconds),
            pages: Pages::Fixed(PAGES),
            think: Span::Fixed(Duration::from_secs(4)),
            ..CrowdSettings::of(gate.address)
        };
        let crowd = Crowd::new(settings, Arc::new(Clock::start()));
        start_crowd(&crowd)?.join();
        let report = crowd.report();
        let from = if self == Self::Tenfold { Self::STEP_S } else { LEARNING_S };
        let first_wait =
            report.seconds().find(|(second, window)| *second >= from && window.counts.waits > 0).map(|(second, _)| second - from);
        let after = report.window(from, seconds);
        let p95 = after.latency.quantile(0.95).map_or_else(|| "–".to_owned(), |at| format!("{:.2}", at.as_secs_f64()));
        Ok(format!(
            "| {} | {capacity:.1} | {} | {p95} | {} | {} | {} | {} | {} |",
            self.name(),
            after.counts.pages(),
            after.counts.failed,
            after.counts.sheds,
            after.counts.waits,
            after.counts.diverted,
            first_wait.map_or_else(|| "never".to_owned(), |second| format!("second {}", second + 1)),
        ))
    }
}

/// A gate that knows nothing yet may make some wait.
const LEARNING_S: u64 = 10;

/// Of every visitor.
const PAGES: u32 = 6;

/// All counts are from the tenth second on, or from the step of `tenfold`, which is also where its first wait counts from.
pub(super) const HEADING: &str = "\
| with the gate | capacity/s | pages | p95 s | failed | shed | waits | diverted | first wait |
|---|---|---|---|---|---|---|---|---|";
