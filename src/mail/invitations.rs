//! The invitations, for who asks about one: the landing page, the button, the operator. `inviter.rs` does the work.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::inviter::{self, Inviter};
use crate::rules::invites::Code;
use crate::rules::ledger::{NoEntry, Totals};
use crate::rules::pacing::Held;
use crate::rules::time::UnixTime;
use crate::rules::token::{Pass, VisitorId};

pub use inviter::Parts as InviterParts;

/// The invitations, shared by all workers. Their thread ends when this is dropped, after what it knows is written.
#[derive(Debug)]
pub struct Invitations {
    asks: mpsc::Sender<Ask>,
    standing: Arc<ArcSwap<Standing>>,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    ended: std::sync::mpsc::Receiver<()>,
}

/// How inviting stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// How they are handed over: `smtp`, `spool`, or not at all.
    pub by: Option<&'static str>,
    /// Paused by the operator.
    pub paused: bool,
    /// Why none is sent now.
    pub held: Option<WhyNone>,
    /// Why the last could not be handed over, if none has been since.
    pub trouble: Option<String>,
    /// Addresses in the queue.
    pub addresses: u64,
    /// Those of them that are not yet invited.
    pub waiting: u64,
    /// When the first of those was taken.
    pub oldest: Option<UnixTime>,
    /// Of what was tried.
    pub totals: Totals,
    /// Sent, and neither redeemed nor expired.
    pub outstanding: u64,
    /// Visits that are expected of those, and how many may be.
    pub expected: f64,
    /// So many may be expected; then it waits.
    pub expected_max: f64,
}

/// Why no invitation is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNone {
    /// The ledger can't be kept.
    Storage,
    /// The policy names no way out.
    NotSetUp,
    /// They can't be handed over.
    Delivery,
    /// The pacing says so.
    Pace(Held),
}

impl WhyNone {
    /// The word for it in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::NotSetUp => "not_set_up",
            Self::Delivery => "delivery",
            Self::Pace(held) => held.name(),
        }
    }
}

/// Why a code opens no door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpen {
    /// As the ledger says.
    Ledger(NoEntry),
    /// The operator has revoked it.
    Revoked,
    /// The site has no room; it is not used up.
    NoRoom,
    /// The ledger can't be read, or not be written; it is not used up.
    Unavailable,
}

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// Whether a code would let someone in.
    Look { code: Code, ticket: Option<VisitorId>, answer: oneshot::Sender<Result<(), NotOpen>> },
    /// To let someone in.
    Redeem { code: Code, ticket: Option<VisitorId>, answer: oneshot::Sender<Result<Pass, NotOpen>> },
    /// To delete the address of a row.
    Leave { id: VisitorId, answer: oneshot::Sender<Result<(), NotOpen>> },
    /// To send none until told otherwise, or to go on.
    Pause { paused: bool, answer: oneshot::Sender<Result<(), String>> },
    /// To end.
    End,
}

/// Asks that wait; more are told that it can't be done now.
const ASKS_MAX: usize = 4096;

/// What the disk has not taken in this time is told so. It may be done all the same.
const PATIENCE: Duration = Duration::from_secs(10);

impl Invitations {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread or no runtime.
    pub fn start(parts: InviterParts) -> std::io::Result<Self> {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let standing = Arc::<ArcSwap<Standing>>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(BLOCKING).enable_all().build()?;
        let inviter = Inviter::new(parts, Arc::clone(&standing));
        let (ending, ended) = std::sync::mpsc::channel::<()>();
        let handle = std::thread::Builder::new().name("tidegate-invite".to_owned()).spawn(move || {
            // dropped when it ends, whichever way
            let _ending = ending;
            runtime.block_on(inviter.run(asked));
            runtime.shutdown_background();
        })?;
        Ok(Self { asks, standing, thread: Mutex::new(Some(Thread { handle, ended })) })
    }

    /// How inviting stands.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Whether this code would let someone in who shows this ticket. It is not used up.
    ///
    /// # Errors
    /// Why not.
    pub async fn look(&self, code: Code, ticket: Option<VisitorId>) -> Result<(), NotOpen> {
        self.ask(|answer| Ask::Look { code, ticket, answer }).await.unwrap_or(Err(NotOpen::Unavailable))
    }

    /// The pass of an invitation, which is used up by it: that is on disk when this returns. The same ticket gets the same pass again for
    /// ten minutes.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn redeem(&self, code: Code, ticket: Option<VisitorId>) -> Result<Pass, NotOpen> {
        self.ask(|answer| Ask::Redeem { code, ticket, answer }).await.unwrap_or(Err(NotOpen::Unavailable))
    }

    /// Writes nothing more to the address of a row, and deletes it within the hour. The wish is on disk when this returns.
    ///
    /// # Errors
    /// It can't be written down now.
    pub async fn leave(&self, id: VisitorId) -> Result<(), NotOpen> {
        self.ask(|answer| Ask::Leave { id, answer }).await.unwrap_or(Err(NotOpen::Unavailable))
    }

    /// Sends none from now on, also after a restart; or goes on.
    ///
    /// # Errors
    /// Why that can't be kept.
    pub async fn pause(&self, paused: bool) -> Result<(), String> {
        self.ask(|answer| Ask::Pause { paused, answer }).await.unwrap_or_else(|| Err("the disk does not answer".to_owned()))
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(ask(answer)).ok()?;
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    /// Ends the thread: what is being sent is let finish for a moment, and what is known is written.
    pub fn end(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { handle, ended }) = thread else { return };
        // if there is no room for it the thread hangs, and is not waited for
        self.asks.try_send(Ask::End).ok();
        if ended.recv_timeout(ENDS_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the thread of the invitations hangs, and is cut off: what is not in the ledger is sent again");
        } else if handle.join().is_err() {
            tracing::error!("the thread of the invitations has panicked");
        }
    }
}

impl Drop for Invitations {
    fn drop(&mut self) {
        self.end();
    }
}

/// Threads for files that are rewritten, the spool, and names that are looked up.
const BLOCKING: usize = 4;

/// For the thread to end: longer than it waits for messages, and not for ever on a disk that hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
