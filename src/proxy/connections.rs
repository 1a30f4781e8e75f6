//! The connections of clients: how many there are, who of them may stay, and how long each may take for what it does.
//!
//! Waiting visitors are many, and must not crowd out those who may enter: above half of the limit a waiting answer closes its
//! connection, and one client may have no more than `limits.connections_per_client`; the last tenth is kept for connections that showed
//! a pass: one that comes without is answered and closed. To have that tenth free, idle connections without a pass are closed above
//! nine tenths, the longest idle first; and when none is left, a hundredth of all, those with a pass among them, so that who comes gets in.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::account::Account;
use super::clients::Clients;
use super::wire::Wire;
use crate::deadlines::{Deadline, Wanted};
use crate::gate::Gate;
use crate::rules::headers::forwarded::ClientPrefix;
use crate::rules::patience::Patience;
use crate::rules::policy::Limits;
use crate::rules::token::VisitorId;

/// All connections of clients.
#[derive(Debug, Default)]
pub struct Connections {
    /// Those that are open, and one for each worker that waits for a client.
    taken: AtomicUsize,
    open: AtomicUsize,
    with_pass: AtomicUsize,
    idle: AtomicUsize,
    upgrades: AtomicUsize,
    upgrades_of_clients: Clients,
    upgrades_of_passes: Clients<VisitorId>,
    closed: Notify,
    clients: Clients,
    /// Workers, and listeners that have no place for whom they would accept next.
    workers: AtomicUsize,
    shut_out: AtomicUsize,
}

impl Connections {
    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until there are fewer than `limit`, and takes a place for one more. While it waits, clients wait in the kernel's queue.
    pub(super) async fn enter(self: &Arc<Self>, limit: impl Fn() -> usize) -> Place {
        loop {
            // registered before the count is read, so that no closing is missed
            let closed = self.closed.notified();
            let entered = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit()).then_some(taken + 1));
            if entered.is_ok() {
                return Place { all: Arc::clone(self), is_open: false, has_pass: AtomicBool::new(false), client: None };
            }
            let _waits = Raised::new(&self.shut_out);
            closed.await;
        }
    }

    /// Those between two requests, as of the last sweeps.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// A worker has as many now, and had as many before.
    pub(super) fn are_idle(&self, before: usize, now: usize) {
        self.idle.fetch_add(now, Ordering::Relaxed);
        self.idle.fetch_sub(before, Ordering::Relaxed);
    }

    /// One more worker takes its part in making room.
    pub(super) fn join(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many idle connections each worker is to close.
    pub(super) fn wanted(&self, limit: usize) -> Wanted {
        let of_others = self.open().saturating_sub(limit - limit.div_ceil(10));
        let of_all = if self.shut_out.load(Ordering::Relaxed) > 0 { limit.div_ceil(100) } else { 0 };
        let workers = self.workers.load(Ordering::Relaxed).max(1);
        Wanted { of_others: of_others.div_ceil(workers), of_all: of_all.div_ceil(workers) }
    }

    /// Those that are WebSockets, or ask the site to be.
    #[must_use]
    pub fn upgrades(&self) -> usize {
        self.upgrades.load(Ordering::Relaxed)
    }

    /// Takes a place for one more WebSocket, if there are fewer than `limit`. Once more than half are taken, a pass may have no more than
    /// `of_pass`, and a client no more than a tenth, but as many as a pass: who is given a new pass each time is one client all the same.
    pub(super) fn upgrade(
        self: &Arc<Self>,
        limit: usize,
        of_pass: usize,
        client: ClientPrefix,
        pass: Option<VisitorId>,
    ) -> Option<UpgradePlace> {
        let taken = self.upgrades.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1));
        let are_short = taken.ok()? >= limit / 2;
        let client_has = self.upgrades_of_clients.one_more(client);
        let pass_has = pass.map_or(0, |pass| self.upgrades_of_passes.one_more(pass));
        // it gives back all of this if it is dropped here
        let place = UpgradePlace { all: Arc::clone(self), client, pass };
        let is_one_too_many = pass_has > of_pass || client_has > limit.div_ceil(10).max(of_pass);
        (!(are_short && is_one_too_many)).then_some(place)
    }

    /// Whether connections are short: a waiting answer closes its own, and one client may not have any number.
    pub(super) fn is_short(&self, limit: usize) -> bool {
        self.open() > limit / 2
    }

    /// Whether a connection without a pass may not stay.
    pub(super) fn is_reserved(&self, limit: usize) -> bool {
        let without = self.open().saturating_sub(self.with_pass.load(Ordering::Relaxed));
        without > limit - limit.div_ceil(10)
    }
}

/// One more, until dropped.
struct Raised<'a>(&'a AtomicUsize);

impl<'a> Raised<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one connection among all; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<Connections>,
    is_open: bool,
    has_pass: AtomicBool,
    /// Whose it is, if that is counted.
    client: Option<ClientPrefix>,
}

/// A client has as many connections as it may.
#[derive(Debug)]
pub(super) struct TooMany;

impl Place {
    /// Its client has come.
    pub(super) fn opened(mut self) -> Self {
        self.is_open = true;
        self.all.open.fetch_add(1, Ordering::Relaxed);
        self
    }

    /// It is known whose it is.
    ///
    /// # Errors
    /// The client has as many as it may, and connections are short: a crowd behind one address is no attack while there is room.
    pub(super) fn belongs_to(&mut self, client: ClientPrefix, limits: &Limits) -> Result<(), TooMany> {
        let count = self.all.clients.one_more(client);
        self.client = Some(client);
        if count > limits.connections_per_client && self.all.is_short(limits.connections) { Err(TooMany) } else { Ok(()) }
    }

    pub(super) fn has_pass(&self) -> bool {
        self.has_pass.load(Ordering::Relaxed)
    }

    /// It has shown a pass.
    pub(super) fn showed_pass(&self) {
        if !self.has_pass.load(Ordering::Relaxed) && !self.has_pass.swap(true, Ordering::Relaxed) {
            self.all.with_pass.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.all.clients.one_less(client);
        }
        if self.has_pass.load(Ordering::Relaxed) {
            self.all.with_pass.fetch_sub(1, Ordering::Relaxed);
        }
        if self.is_open {
            self.all.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.all.taken.fetch_sub(1, Ordering::Relaxed);
        self.all.closed.notify_one();
    }
}

/// The place of one WebSocket; given back when dropped.
#[derive(Debug)]
pub(super) struct UpgradePlace {
    all: Arc<Connections>,
    client: ClientPrefix,
    pass: Option<VisitorId>,
}

impl Drop for UpgradePlace {
    fn drop(&mut self) {
        self.all.upgrades_of_clients.one_less(self.client);
        if let Some(pass) = self.pass {
            self.all.upgrades_of_passes.one_less(pass);
        }
        self.all.upgrades.fetch_sub(1, Ordering::Relaxed);
    }
}

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

    fn was_read(&self, bytes: u64) {
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
    fn was_written(&self, bytes: u64, pending: bool) {
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

/// A client's socket: tells the state of what comes and goes, and ends a head or a body that takes too long.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) wire: Wire,
    pub(super) state: Arc<State>,
    /// It ends by itself if what is sent is not taken.
    is_watched: bool,
}

impl Socket {
    pub(super) const fn new(wire: Wire, state: Arc<State>) -> Self {
        Self { wire, state, is_watched: false }
    }

    /// Writes somehow, and tells what has left by it.
    fn write<R>(&mut self, write: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let streams = self.state.streams.load(Ordering::Relaxed);
        if streams != self.is_watched {
            self.is_watched = streams;
            let patience = self.state.gate.regime().policy.limits.body_timeout;
            self.wire.tcp().give_up_after(streams.then_some(patience));
        }
        let before = self.wire.sent();
        let polled = write(Pin::new(&mut self.wire));
        self.state.was_written(self.wire.sent() - before, polled.is_pending());
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.state.deadline.has_fired() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            self.state.was_read(bytes as u64);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write(|wire| wire.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire {
            Wire::Plain(_) => Pin::new(&mut self.wire).poll_flush(cx),
            // what TLS takes has not left yet: that it is on its way is seen here
            Wire::Tls(_) => self.write(|wire| wire.poll_flush(cx)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|wire| wire.poll_shutdown(cx))
    }
}
