//! What one connection is doing, and how long it may take for that.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::account::Account;
use super::connections::Place;
use crate::deadlines::Deadline;
use crate::gate::Gate;
use crate::rules::patience::Patience;
use crate::rules::policy::Limits;

/// What a connection of HTTP/1, or a stream of HTTP/2, is doing; each has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between requests: `limits.idle_timeout`.
    Idle,
    /// A request head has begun: `limits.header_timeout`.
    Head,
    /// A request is being answered: no deadline of the client's.
    Busy,
    /// A request body is awaited: `limits.body_timeout`, into which its bytes pay by `limits.min_rate`.
    Body,
}

impl Phase {
    /// The phase of this number.
    pub(super) const fn of(number: u8) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Head,
            2 => Self::Busy,
            _ => Self::Body,
        }
    }
}

/// The state of one connection, shared by its socket, its requests and its task.
#[derive(Debug)]
pub(super) struct State {
    pub(super) deadline: Arc<Deadline>,
    pub(super) place: Place,
    pub(super) peer: IpAddr,
    /// The connection to us is over TLS.
    pub(super) tls: bool,
    /// Who passed the connection on can't say from whom: what it says of others is anybody's word.
    pub(super) is_unnamed: bool,
    phase: AtomicU8,
    gate: Arc<Gate>,
    /// A write has found the client's window closed.
    stalled: AtomicBool,
    /// Not all of the body of this request has been read.
    has_unread: AtomicBool,
    /// The answer is a stream of events.
    streams: AtomicBool,
    /// For the body of this request.
    upload: Account,
    /// For what the client takes.
    answer: Account,
}

impl State {
    pub(super) fn new(deadline: Arc<Deadline>, place: Place, peer: IpAddr, tls: bool, is_unnamed: bool, gate: Arc<Gate>) -> Arc<Self> {
        let state = Self {
            deadline,
            place,
            peer,
            tls,
            is_unnamed,
            phase: AtomicU8::new(Phase::Idle as u8),
            gate,
            stalled: AtomicBool::new(false),
            has_unread: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            upload: Account::default(),
            answer: Account::default(),
        };
        // one that never sends a byte is no better than one that never ends its head
        state.deadline.set(state.limits(|limits| limits.header_timeout));
        state.deadline.idles(false);
        Arc::new(state)
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    pub(super) fn enter(&self, phase: Phase) {
        let before = self.phase();
        self.phase.store(phase as u8, Ordering::Relaxed);
        if phase == Phase::Idle {
            self.upload.renew();
            self.answer.renew();
        } else if before == Phase::Body {
            self.upload.rests(self.deadline.now(), self.patience());
        }
        self.set_deadline(phase);
    }

    /// A request has come.
    pub(super) fn begin(&self, has_body: bool) {
        self.enter(Phase::Busy);
        self.has_unread.store(has_body, Ordering::Relaxed);
        self.streams.store(false, Ordering::Relaxed);
    }

    /// All of its body is here.
    pub(super) fn was_uploaded(&self) {
        self.has_unread.store(false, Ordering::Relaxed);
    }

    /// Whether a part of its body may still come, or be here and not read: its connection ends with the answer.
    pub(super) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Whether the answer is one, which is watched for a client that is gone without a word.
    pub(super) fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// The answer to it is a stream of events.
    pub(super) fn streams(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    /// Whether it is to go for others. One whose client has asked for something meanwhile is not.
    pub(super) fn makes_room(&self) -> bool {
        self.deadline.is_unwanted() && self.phase() == Phase::Idle && !self.is_stalled()
    }

    /// Whether the client takes nothing of what there is for it.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    fn set_deadline(&self, phase: Phase) {
        // who takes nothing is held to that, whatever else comes from it
        if self.is_stalled() {
            return;
        }
        if phase == Phase::Idle {
            self.deadline.idles(self.place.has_pass());
        } else {
            self.deadline.works()
        }
        match phase {
            Phase::Idle => self.deadline.set(self.limits(|limits| limits.idle_timeout)),
            Phase::Head => self.deadline.set(self.limits(|limits| limits.header_timeout)),
            Phase::Body => self.upload.awaits(&self.deadline, self.patience()),
            Phase::Busy => self.deadline.clear(),
        }
    }

    /// So many bytes have come.
    pub(super) fn was_read(&self, bytes: u64) {
        match self.phase() {
            Phase::Idle => self.enter(Phase::Head),
            // while it is stalled this account rests, and its bytes set no deadline
            Phase::Body => self.upload.moved(bytes, &self.deadline, self.patience()),
            // ahead of its turn
            Phase::Busy if !self.upload.is_full() => self.upload.moved(bytes, &self.deadline, self.patience()),
            Phase::Head | Phase::Busy => {}
        }
    }

    /// So many bytes have left for the client, and whether more would have if it had taken them.
    pub(super) fn was_written(&self, bytes: u64, pending: bool) {
        if pending {
            // time is spent from the first attempt, not from each, and earned by what leaves
            if !self.stalled.swap(true, Ordering::Relaxed) {
                self.deadline.works();
                self.upload.rests(self.deadline.now(), self.patience());
                self.answer.awaits(&self.deadline, self.patience());
            }
            if bytes > 0 {
                self.answer.moved(bytes, &self.deadline, self.patience());
            }
        } else if self.is_stalled() {
            self.stalled.store(false, Ordering::Relaxed);
            self.answer.moved(bytes, &self.deadline, self.patience());
            self.answer.rests(self.deadline.now(), self.patience());
            self.set_deadline(self.phase());
        } else if !self.answer.is_full() {
            self.answer.moved(bytes, &self.deadline, self.patience());
        }
    }

    fn patience(&self) -> Patience {
        self.limits(Limits::patience)
    }

    pub(super) fn limits<T>(&self, of: impl Fn(&Limits) -> T) -> T {
        of(&self.gate.regime().policy.limits)
    }
}
