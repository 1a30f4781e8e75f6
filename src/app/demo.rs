//! `tidegate demo`: a model of a legacy site, the real gate, and a crowd that surges, on this machine alone.
//!
//! The crowd comes in tides: calm, a surge of three times what the site can do, calm again, until Ctrl-C. A person with a browser is one
//! more visitor, and sees the waiting room come and go.

use std::io::{self, IsTerminal as _, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Running, Start, listen, listen_alone, start, workers};
use crate::clock::Clock;
use crate::config;
use crate::demo::crowd::{Crowd, CrowdSettings};
use crate::demo::site::{Site, SiteSettings};
use crate::demo::{start_crowd, start_site};
use crate::models::arrivals::Step;
use crate::rules::policy::Log;
use crate::telemetry;

/// The site of the demo: eight workers at 80 ms a page, so 100 pages a second.
const WORKERS: u32 = 8;

/// Calm before the first surge: long enough to see that everyone gets in.
const CALM_S: f64 = 12.0;

/// A surge: long enough to see the waiting room fill, and people get in from it.
const SURGE_S: f64 = 45.0;

/// Between two surges: the crowd that waits gets in, and the waiting room goes away.
const EBB_S: f64 = 75.0;

/// Shares of the site's capacity that visitors ask for.
const CALM: f64 = 0.4;
const SURGE: f64 = 3.0;

/// Runs until Ctrl-C.
///
/// # Errors
/// If a port, a directory or a thread can't be had.
pub fn run(clock: Clock) -> anyhow::Result<()> {
    let clock = Arc::new(clock);
    let scratch = Scratch::make().context("no directory for the demo's data")?;
    // the live line is the log, unless someone asks for more
    let _logging = match std::env::var_os(telemetry::LEVEL_VARIABLE) {
        Some(_) => Some(telemetry::start(&Log { format: crate::rules::policy::LogFormat::Auto, access: 0.0 }, &clock)?),
        None => None,
    };
    let settings = SiteSettings { workers: WORKERS, ..SiteSettings::default() };
    let capacity = settings.capacity();
    let site = Site::new(settings, Arc::clone(&clock));
    let (site_address, _site) = start_site(&site, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let gate = start_gate(&clock, &scratch.path, site_address)?;

    let mut crowd = CrowdSettings::of(gate.http);
    // 3 pages a visitor in the mean of those who don't give up: the rate of visitors is that of pages by six
    crowd.schedule = tides(capacity / 6.0);
    let crowd = Crowd::new(crowd, Arc::clone(&clock));
    let _crowd = start_crowd(&crowd)?;
    greet(&gate, site_address)?;

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(watch(&gate, &clock))?;
    let mut out = io::stdout().lock();
    writeln!(out, "\nThe crowd goes home.")?;
    crowd.stop();
    gate.drain(Duration::ZERO, Duration::from_secs(2));
    Ok(())
}

/// The rates of visitors, for a day: nobody watches longer.
fn tides(visitors_per_s: f64) -> Vec<Step> {
    let mut steps = vec![Step { at_s: 0.0, visitors_per_s: CALM * visitors_per_s }];
    let mut at_s = CALM_S;
    while at_s < 86_400.0 {
        steps.push(Step { at_s, visitors_per_s: SURGE * visitors_per_s });
        steps.push(Step { at_s: at_s + SURGE_S, visitors_per_s: CALM * visitors_per_s });
        at_s += SURGE_S + EBB_S;
    }
    steps
}

fn start_gate(clock: &Arc<Clock>, data: &Path, site: SocketAddr) -> anyhow::Result<Running> {
    let text = format!(
        "listen: {{ http: 127.0.0.1:8080 }}\n\
         admin: {{ listen: 127.0.0.1:9090 }}\n\
         data: {data:?}\n\
         upstream: {{ servers: [\"http://{site}\"], max_in_flight: {WORKERS} }}\n\
         waiting_room: {{ refresh: 5s }}\n\
         # the whole crowd comes from this machine\n\
         limits: {{ tickets_per_client: 1000000 }}\n"
    );
    let policy = config::parse(&text, "demo", data).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let http = match listen("listen.http", policy.listen.http, workers(&policy)) {
        Ok(listeners) => listeners,
        Err(taken) => {
            note(&format!("{taken}; taking another port"))?;
            listen("listen.http", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), workers(&policy))?
        }
    };
    let admin = match listen_alone("admin.listen", policy.admin.listen) {
        Ok(listener) => listener,
        Err(taken) => {
            note(&format!("{taken}; taking another port"))?;
            listen_alone("admin.listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?
        }
    };
    Ok(start(Start { policy, file: None, clock: Arc::clone(clock), http, admin })?)
}

fn note(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

fn greet(gate: &Running, site: SocketAddr) -> io::Result<()> {
    writeln!(
        io::stdout().lock(),
        "\n  the site behind the gate   http://{}/   open it in a browser\n  \
         the operator's dashboard   http://{}/\n  \
         the bare site              http://{site}/   (a model: {WORKERS} workers, 80 ms a page)\n\n\
         In {CALM_S} s a crowd comes for three times what the site can do. Ctrl-C ends it.\n",
        gate.http,
        gate.admin_address
    )
}

/// One live line a second, until Ctrl-C.
async fn watch(gate: &Running, clock: &Clock) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let live = io::stdout().is_terminal();
    let started = clock.moment();
    let mut limiting = false;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let regime = gate.regime();
        let at = clock.moment().since(started).as_secs();
        let mut out = io::stdout().lock();
        let (clear, end) = if live { ("\r\x1b[K", "") } else { ("", "\n") };
        if regime.limiting != limiting {
            limiting = regime.limiting;
            let what =
                if limiting { "the site is full: the waiting room opens" } else { "there is room for everyone: the waiting room closes" };
            writeln!(out, "{clear}{at:>5} s  {what}")?;
        }
        let law = &regime.law;
        write!(
            out,
            "{clear}{at:>5} s  load {:>4.0} %  capacity {:>5.1}/s  probability {:>5.3}  active {:>5}  waiting {:>5}{end}",
            law.load * 100.0,
            law.capacity,
            regime.probability(),
            regime.active,
            regime.waiting
        )?;
        out.flush()?;
    }
}

/// A directory that goes away with the demo.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what can't be removed is the system's to clean up
        drop(std::fs::remove_dir_all(&self.path));
    }
}
