//! Visitors who have what they came for, and keep their connections.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::line::{self, Line};
use super::load::{Connection, Visitors};
use super::streams::{self, Session};

/// What they do.
#[derive(Serialize, Deserialize)]
pub(super) struct Idle {
    pub(super) visitors: Visitors,
    /// How long the last of them has been idle when memory is read.
    pub(super) idle_ms: u64,
    /// The processes whose memory is read.
    pub(super) watched: Vec<u32>,
}

/// Memory of processes, in bytes.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// All that is there.
    pub(super) rss: u64,
    /// What several share is divided among them.
    pub(super) pss: u64,
    /// What is theirs alone.
    pub(super) uss: u64,
}

/// Before they came, and while they were idle.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) before: Memory,
    pub(super) idle: Memory,
}

impl Idle {
    pub(super) async fn run(&self) -> anyhow::Result<Kept> {
        let cookies = self.visitors.cookies()?;
        // what is made for the first of all, and what is kept for those that come at a time
        drop(self.come(&cookies[..AT_ONCE.min(cookies.len())]).await?);
        tokio::time::sleep(Duration::from_millis(self.idle_ms)).await;
        let before = self.memory()?;
        let mut kept = self.come(&cookies).await?;
        tokio::time::sleep(Duration::from_millis(self.idle_ms)).await;
        let idle = self.memory()?;
        for (number, kept) in kept.iter_mut().enumerate() {
            ensure!(
                kept.is_open().await,
                "connection {number} was closed while it was idle: is the limit of connections or a timeout too low?"
            );
        }
        Ok(Kept { before, idle })
    }

    /// Lets them come, some at a time.
    async fn come(&self, cookies: &[Vec<String>]) -> anyhow::Result<Vec<Stays>> {
        let next = Rc::new(Cell::new(0));
        let cookies: Rc<[String]> = cookies.iter().map(|cookies| cookies.first().cloned().unwrap_or_default()).collect();
        let mut coming = JoinSet::new();
        for number in 0..AT_ONCE {
            let (next, cookies, visitors) = (Rc::clone(&next), Rc::clone(&cookies), self.visitors.clone());
            let way = self.visitors.way(number)?;
            coming.spawn_local(async move {
                let mut stays = Vec::new();
                while let Some(cookie) = cookies.get(next.replace(next.get() + 1)) {
                    let stream = way.connect().await.with_context(|| format!("connection {}", next.get()))?;
                    stays.push(visitors.come_once(stream, cookie).await?);
                }
                anyhow::Ok(stays)
            });
        }
        let mut all = Vec::new();
        while let Some(stays) = coming.join_next().await {
            all.extend(stays??);
        }
        Ok(all)
    }

    fn memory(&self) -> anyhow::Result<Memory> {
        let mut sum = Memory::default();
        for process in &self.watched {
            let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            for line in rollup.lines() {
                let mut fields = line.split_whitespace();
                let (Some(name), Some(Ok(kib))) = (fields.next(), fields.next().map(str::parse::<u64>)) else { continue };
                match name {
                    "Rss:" => sum.rss += kib * 1024,
                    "Pss:" => sum.pss += kib * 1024,
                    "Private_Clean:" | "Private_Dirty:" => sum.uss += kib * 1024,
                    _ => {}
                }
            }
        }
        ensure!(sum.rss > 0, "/proc says nothing of the memory of {:?}", self.watched);
        Ok(sum)
    }
}

impl Visitors {
    /// One request.
    async fn come_once(&self, stream: Box<dyn Connection>, cookie: &str) -> anyhow::Result<Stays> {
        if self.streams.is_some() {
            let session = Session::new(stream).await?;
            session.ask(&streams::request(&self.path, cookie)?, self.status).await?;
            return Ok(Stays::Session(session));
        }
        let mut line = Line::new(stream, self.status);
        line.ask(&line::request(&self.path, cookie)).await?;
        // what a line reads into would be the most of this process's memory
        Ok(Stays::Line(line.into_stream()))
    }
}

/// A connection that is kept.
enum Stays {
    Line(Box<dyn Connection>),
    Session(Session),
}

impl Stays {
    async fn is_open(&mut self) -> bool {
        match self {
            Self::Session(session) => !session.has_ended(),
            Self::Line(stream) => {
                let mut piece = [0; 16];
                let mut reading = pin!(stream.read(&mut piece));
                poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await
            }
        }
    }
}

/// So many are on their way in at a time.
const AT_ONCE: usize = 64;
