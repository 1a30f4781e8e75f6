//! Visitors who come at a rate of their own, whatever becomes of those before them: what is late is late for all who come meanwhile, and
//! counts as that. (Who only asks when the last answer is there never sees what a stall does to others.)

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use http::Request;
use serde::{Deserialize, Serialize};
use tidegate::clock::Clock;
use tidegate::models::random::Random;
use tidegate::rules::time::Moment;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};

use super::crowd::stay_awake;
use super::line::{self, Line};
use super::load::{Visitors, WARM_UP};
use super::streams::{self, Session};

/// What they do.
#[derive(Serialize, Deserialize)]
pub(super) struct Paced {
    pub(super) visitors: Visitors,
    /// Requests a second, at exponential intervals: a Poisson process, as many who know nothing of each other are.
    pub(super) rate: f64,
    pub(super) seed: u64,
    pub(super) window_ms: u64,
}

/// From when each request was due to the last byte of its answer, over the window.
#[derive(Serialize, Deserialize)]
pub(super) struct Latencies {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// How late they themselves were, which is a fault of this process.
    pub(super) late_p99_us: u64,
}

/// Requests that are due, in order, and what came of those that were made.
#[derive(Default)]
struct Due {
    waiting: VecDeque<Moment>,
    took: Vec<(Moment, Duration)>,
}

impl Paced {
    pub(super) async fn run(&self) -> anyhow::Result<Latencies> {
        let clock = Rc::new(Clock::start());
        let (due, wanted) = (Rc::new(RefCell::new(Due::default())), Rc::new(Semaphore::new(0)));
        let mut asking = JoinSet::new();
        for mut asker in self.askers().await? {
            let (clock, due, wanted) = (Rc::clone(&clock), Rc::clone(&due), Rc::clone(&wanted));
            asking.spawn_local(async move {
                loop {
                    // whoever has waited longest is next
                    let Ok(permit) = wanted.acquire().await else { return anyhow!("nobody is wanted any more") };
                    permit.forget();
                    let Some(at) = due.borrow_mut().waiting.pop_front() else { return anyhow!("nothing was due") };
                    if let Err(error) = asker.ask().await {
                        return error;
                    }
                    due.borrow_mut().took.push((at, clock.moment().since(at)));
                }
            });
        }
        let coming = async {
            let mut random = Random::seeded(self.seed);
            let (start, mut late) = (clock.moment().plus(WARM_UP), Vec::new());
            let (mut at, end) = (clock.moment(), start.plus(Duration::from_millis(self.window_ms)));
            let mut made = 0;
            while at < end {
                let now = until(&clock, at).await;
                if at >= start {
                    late.push(now.since(at));
                }
                due.borrow_mut().waiting.push_back(at);
                wanted.add_permits(1);
                made += 1;
                at = at.plus(Duration::from_secs_f64(random.exponential() / self.rate));
            }
            while due.borrow().took.len() < made {
                yield_now().await;
            }
            let took: Vec<Duration> = due.borrow().took.iter().filter(|(at, _)| *at >= start).map(|(_, took)| *took).collect();
            (took, late)
        };
        tokio::select! {
            (took, late) = coming => Latencies::of(took, late),
            // a connection ends only if something is wrong
            Some(ended) = asking.join_next() => Err(ended?),
            () = tokio::time::sleep(Duration::from_millis(self.window_ms) + PATIENCE) => bail!("not all were answered in {PATIENCE:?}"),
            () = stay_awake() => bail!("fell asleep"),
        }
    }
}

/// Who can ask for one page at a time.
enum Asker {
    Line(Line, Vec<u8>),
    Stream(Rc<Session>, Request<()>, u16),
}

impl Asker {
    async fn ask(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Line(line, request) => line.ask(request).await,
            Self::Stream(session, request, status) => session.ask(request, *status).await,
        }
    }
}

impl Paced {
    /// All of them, connected.
    async fn askers(&self) -> anyhow::Result<Vec<Asker>> {
        let Visitors { path, status, streams, .. } = &self.visitors;
        let mut askers = Vec::new();
        for (number, cookies) in self.visitors.cookies()?.into_iter().enumerate() {
            let stream = self.visitors.way(number)?.connect().await?;
            let Some(streams) = *streams else {
                let cookie = cookies.into_iter().next().unwrap_or_default();
                askers.push(Asker::Line(Line::new(stream, *status), line::request(path, &cookie)));
                continue;
            };
            let session = Rc::new(Session::new(stream).await?);
            for cookie in cookies.iter().cycle().take(streams) {
                askers.push(Asker::Stream(Rc::clone(&session), streams::request(path, cookie)?, *status));
            }
        }
        Ok(askers)
    }
}

/// Without falling asleep.
async fn until(clock: &Clock, at: Moment) -> Moment {
    loop {
        let now = clock.moment();
        if now >= at {
            return now;
        }
        yield_now().await;
    }
}

impl Latencies {
    fn of(took: Vec<Duration>, late: Vec<Duration>) -> anyhow::Result<Self> {
        let quantile = |values: &[Duration], share: f64| -> anyhow::Result<u64> {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among them")]
            let place = (values.len() as f64 * share) as usize;
            let at = values.get(place).ok_or_else(|| anyhow!("the window was too short for anybody to come"))?;
            Ok(u64::try_from(at.as_micros())?)
        };
        let sorted = |mut values: Vec<Duration>| {
            values.sort_unstable();
            values
        };
        let (took, late) = (sorted(took), sorted(late));
        Ok(Self { p50_us: quantile(&took, 0.5)?, p99_us: quantile(&took, 0.99)?, late_p99_us: quantile(&late, 0.99)? })
    }
}

/// Beyond the window.
const PATIENCE: Duration = Duration::from_secs(10);
