//! A crowd: who comes asks again as soon as there is an answer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use tidegate::clock::Clock;
use tokio::task::{JoinSet, yield_now};

use super::line::{self, Line};
use super::load::{Visitors, WARM_UP, Way};
use super::streams::{self, Session};

/// What a crowd does.
#[derive(Serialize, Deserialize)]
pub(super) struct Crowd {
    pub(super) visitors: Visitors,
    pub(super) window_ms: u64,
    /// The processes whose CPU time is read.
    pub(super) watched: Vec<u32>,
}

/// What a crowd has seen within its window.
#[derive(Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) requests: u64,
    pub(super) cpu_ns: u64,
    pub(super) elapsed_ns: u64,
}

impl Crowd {
    /// Lets the crowd come for its window, and a little before it.
    pub(super) async fn run(&self) -> anyhow::Result<Measured> {
        let clock = Clock::start();
        let answers = Rc::new(Cell::new(0));
        let mut asking = JoinSet::new();
        for (number, cookies) in self.visitors.cookies()?.into_iter().enumerate() {
            let (status, streams, answers) = (self.visitors.status, self.visitors.streams, Rc::clone(&answers));
            let (way, path) = (self.visitors.way(number)?, self.visitors.path.clone());
            asking.spawn_local(async move {
                let asked = match streams {
                    None => ask_on(&way, &path, &cookies, status, &answers).await,
                    Some(streams) => ask_at_once(&way, &path, &cookies, streams, status, &answers).await,
                };
                asked.err().unwrap_or_else(|| anyhow::anyhow!("there was nothing to ask"))
            });
        }
        let measured = async {
            tokio::time::sleep(WARM_UP).await;
            let (started, cpu_ns, requests) = (clock.moment(), self.cpu_ns()?, answers.get());
            tokio::time::sleep(Duration::from_millis(self.window_ms)).await;
            let elapsed = clock.moment().since(started);
            anyhow::Ok(Measured {
                requests: answers.get() - requests,
                cpu_ns: self.cpu_ns()? - cpu_ns,
                elapsed_ns: u64::try_from(elapsed.as_nanos())?,
            })
        };
        tokio::select! {
            measured = measured => measured,
            // a connection ends only if something is wrong
            Some(ended) = asking.join_next() => Err(ended?),
            () = stay_awake() => bail!("fell asleep"),
        }
    }

    /// CPU time that the watched processes have used, by what the scheduler has counted for each of their threads.
    fn cpu_ns(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for process in &self.watched {
            for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let counted = std::fs::read_to_string(thread?.path().join("schedstat"))?;
                sum += counted.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(sum)
    }
}

pub(super) async fn stay_awake() {
    loop {
        yield_now().await;
    }
}

/// One request after the other.
async fn ask_on(way: &Way, path: &str, cookies: &[String], status: u16, answers: &Cell<u64>) -> anyhow::Result<()> {
    let requests: Vec<Vec<u8>> = cookies.iter().map(|cookies| line::request(path, cookies)).collect();
    let mut line = Line::new(way.connect().await?, status);
    let mut is_new = true;
    for request in requests.iter().cycle() {
        if way.fresh && !std::mem::take(&mut is_new) {
            line.turn_to(way.connect().await?);
        }
        line.ask(request).await?;
        answers.set(answers.get() + 1);
    }
    Ok(())
}

/// Several at a time.
async fn ask_at_once(
    way: &Way,
    path: &str,
    cookies: &[String],
    streams: usize,
    status: u16,
    answers: &Rc<Cell<u64>>,
) -> anyhow::Result<()> {
    let requests: Vec<_> = cookies.iter().map(|cookie| streams::request(path, cookie)).collect::<anyhow::Result<_>>()?;
    Err(Session::new(way.connect().await?).await?.ask_all(&requests, streams, status, answers).await)
}
