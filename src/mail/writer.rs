//! The thread that writes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::tickets::Tickets;
use super::{Failing, NotTaken, Parts, Posted, Settings, random};
use crate::metrics::Gauge;
use crate::rules::email::fold;
use crate::rules::time::{Moment, UnixTime};
use crate::rules::token::VisitorId;
use crate::store::email_queue::{EmailQueue, Row, directory_of};
use crate::store::{StoreError, chain};

/// What the thread is told.
pub(super) enum Command {
    Post(Job),
    End,
}

/// A post, and who waits for its answer.
pub(super) struct Job {
    pub(super) posted: Posted,
    pub(super) per_ticket: u32,
    pub(super) answer: oneshot::Sender<Result<(), NotTaken>>,
}

/// The thread's own.
pub(super) struct Writer {
    parts: Parts,
    settings: Arc<Settings>,
    /// None until it has been read, and while it can't be.
    queue: Option<EmailQueue>,
    /// Addresses are taken, or have been.
    wanted: bool,
    tickets: Tickets,
    failing: Failing,
    expired: Option<Moment>,
}

/// Rows that are written together at the most.
const BATCH: usize = 1024;

/// How often the thread looks around when nobody posts.
const ROUND: Duration = Duration::from_secs(1);

/// How often it looks for rows that are too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

impl Writer {
    pub(super) fn new(parts: Parts, settings: Arc<Settings>) -> Self {
        let wanted = directory_of(&parts.data).exists();
        Self { parts, settings, queue: None, wanted, tickets: Tickets::default(), failing: Failing::default(), expired: None }
    }

    /// Until it is told to end, or everyone who could post has gone.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        self.look_around();
        let mut looked = self.parts.clock.moment();
        loop {
            let mut jobs = Vec::new();
            let mut command = commands.recv_timeout(ROUND);
            while let Ok(Command::Post(job)) = command {
                jobs.push(job);
                if jobs.len() >= BATCH {
                    command = Err(RecvTimeoutError::Timeout);
                    break;
                }
                command = commands.try_recv().map_err(|_| RecvTimeoutError::Timeout);
            }
            if !jobs.is_empty() {
                self.write(jobs);
            }
            if matches!(command, Ok(Command::End) | Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let now = self.parts.clock.moment();
            if now.since(looked) >= ROUND {
                looked = now;
                self.look_around();
            }
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        self.wanted = true;
        let hash = self.parts.hash;
        let at = self.parts.clock.now().wall;
        let mut rows = Vec::with_capacity(jobs.len());
        let mut answers = Vec::with_capacity(jobs.len());
        for Job { posted, per_ticket, answer } in jobs {
            #[expect(clippy::cast_possible_truncation, reason = "either half of a hash is one")]
            let address = hash.of(&fold(posted.address.as_str())) as u64;
            if !self.tickets.may_bring(posted.ticket.0, address, per_ticket) {
                answer.send(Err(NotTaken::TicketFull)).ok();
            } else if let Some(id) = random() {
                rows.push(row(posted, VisitorId(id), at));
                answers.push(answer);
            } else {
                answer.send(Err(NotTaken::Unavailable)).ok();
            }
        }
        if rows.is_empty() {
            return;
        }
        let mut answered = Err(NotTaken::Unavailable);
        if let Some(queue) = self.open() {
            let added = queue.add(&rows);
            self.failing(added.as_ref().err());
            answered = added.map(drop).map_err(|_| NotTaken::Unavailable);
        }
        for answer in answers {
            // who has left is not told
            answer.send(answered).ok();
        }
        self.show();
    }

    fn look_around(&mut self) {
        // turned on by a reload, the queue has to be ready before somebody posts
        self.wanted |= self.settings.enabled.load(Ordering::Relaxed);
        if !self.wanted {
            return;
        }
        let now = self.parts.clock.now();
        let retention = Duration::from_secs(self.settings.retention_s.load(Ordering::Relaxed));
        let is_due = self.expired.is_none_or(|last| now.mono.since(last) >= EXPIRE_EVERY);
        let failing = self.failing.is();
        let Some(queue) = self.open() else { return };
        let looked = if failing { queue.probe() } else { queue.look() };
        if failing || looked.is_err() {
            self.failing(looked.as_ref().err());
        } else if is_due {
            let expired = queue.expire(now.wall.minus(retention + now.doubt));
            self.expired = Some(now.mono);
            match expired {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "email addresses older than email_queue.retention deleted"),
                Err(error) => tracing::error!(error = %chain(&error), "old email addresses could not be deleted"),
            }
        }
        self.show();
    }

    /// The queue; read now if it has not been.
    fn open(&mut self) -> Option<&mut EmailQueue> {
        if self.queue.is_none() {
            match EmailQueue::open(&self.parts.data, self.parts.hash) {
                Ok((queue, found)) => {
                    for path in &found.torn {
                        tracing::warn!(path = %path.display(), "the end of a file of the email queue was cut off, and is set aside");
                    }
                    if let Some(first) = &found.first_fault {
                        tracing::warn!(lines = found.not_rows, first, "lines of the email queue that are no rows are left as they are");
                    }
                    tracing::info!(rows = found.rows, "email queue read");
                    self.queue = Some(queue);
                    self.failing(None);
                }
                Err(error) => self.failing(Some(&error)),
            }
        }
        self.queue.as_mut()
    }

    /// How the last attempt has ended.
    fn failing(&mut self, error: Option<&StoreError>) {
        self.failing.note(
            error,
            "email addresses can't be written down, and the form says so",
            "email addresses can be written down again",
        );
    }

    fn show(&self) {
        let writable = self.queue.is_some() && !self.failing.is();
        self.parts.metrics.set(Gauge::EmailWritable, f64::from(u8::from(writable)));
        let rows = self.queue.as_ref().map_or(0, EmailQueue::len);
        self.parts.addresses.store(u64::try_from(rows).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn row(posted: Posted, id: VisitorId, at: UnixTime) -> Row<'static> {
    Row {
        id,
        at,
        email: Cow::Owned(posted.address.into()),
        language: posted.language.map(Cow::Owned),
        path: posted.path.map(Cow::Owned),
        ticket: posted.ticket,
        client: posted.client,
    }
}
