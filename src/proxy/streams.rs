//! The streams of an HTTP/2 connection: how many are open, what each client is given time for, and how much work a connection may make
//! that is no request.
//!
//! A stream has a deadline while its client is waited for: one for a piece of the request body, another for room for a piece of the
//! answer, since both may go on at once. The connection has one while it has no stream, and while its client does not take all that there
//! is. Bytes pay for time by `limits.min_rate`: those of a request body for its stream, and those that leave for the connection, as much
//! for each open stream; a stream is not blamed for what its connection can't take.
//!
//! A request body that nobody reads is left here, and taken before the answer ends.
//!
//! A head is seen only when it is whole, so one that stops in its middle is as good as none: the connection has the time of one that has
//! not asked yet, or of an idle one, or (it can't answer a PING within a head) that of hyper's keep-alive.
//!
//! What the h2 crate bounds by itself: frames of a header block, the block's size, streams at once, streams reset before they were seen,
//! streams that it has to reset, empty and small DATA frames. What it answers for as long as somebody asks is bounded here: frames
//! that are no request and no body (PING, SETTINGS, WINDOW_UPDATE, PRIORITY), by their bytes beyond what requests and bodies have paid for;
//! and requests whose answer nobody waits for.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::rt::Executor;

use super::account::Account;
use super::handle::Peer;
use super::http2::LINGER;
use super::respond::Answer;
use super::state::Phase;
use crate::deadlines::Deadline;
use crate::rules::patience::Patience;
use crate::rules::policy::Limits;
use crate::rules::time::Moment;
use crate::upstream::BodyFailure;

/// Bytes that may be read beyond those that a request, a piece of a body, or an answer to give has paid for: as much as the window lets
/// clients send for requests that were answered without their bodies, and the heads of all those frames.
const UNPRODUCTIVE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Reads beyond those that were paid for: each can be a packet with one byte of window. A client that answers a PING every 15 s on a
/// stream that says nothing has 17 h.
const UNPRODUCTIVE_READS_MAX: u32 = 4096;

/// What a piece pays for beside its own bytes: a little window given back, a PING, and the heads of frames. Its bytes may have come, or
/// be acknowledged, in small packets.
const PIECE_PAYS: usize = 512;
const BYTES_A_READ: usize = 64;

/// Heads of `limits.header_bytes` that one may take before the h2 crate refuses it: what it does is not told and not counted, so heads
/// that are a little too large are refused by the gate.
pub(super) const HEADS: usize = 2;

/// Answers that may go unheard, less those that were heard: two whole pages of requests at once, left before anything had come.
const UNHEARD_MAX: u32 = 200;

/// Bytes of a request body that are read though nobody needs them: a photograph.
pub(super) const UNREAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A longer piece of an answer is handed over in several, so that a slow client is seen to take them.
const PIECE_BYTES: usize = 16 * 1024;

/// What the streams of one connection share.
#[derive(Debug)]
pub(super) struct Session {
    peer: Arc<Peer>,
    open: AtomicUsize,
    has_begun: AtomicBool,
    /// A write has found the client's window closed.
    is_stuck: AtomicBool,
    /// For what the client takes.
    answer: Account,
    /// Microseconds that it was stuck for, up to `stuck_since` if it is now.
    stuck_us: AtomicU64,
    stuck_since: AtomicU64,
    is_leaving: AtomicBool,
    is_abusive: AtomicBool,
    unheard: AtomicU32,
    bytes: AtomicUsize,
    reads: AtomicU32,
    /// The request whose task is about to be spawned.
    newest: Mutex<Option<Arc<Stream>>>,
}

impl Session {
    pub(super) fn new(peer: Arc<Peer>) -> Arc<Self> {
        let session = Self {
            peer,
            open: AtomicUsize::new(0),
            has_begun: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            answer: Account::default(),
            stuck_us: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
            is_abusive: AtomicBool::new(false),
            unheard: AtomicU32::new(0),
            bytes: AtomicUsize::new(0),
            reads: AtomicU32::new(0),
            newest: Mutex::new(None),
        };
        session.set_deadline();
        Arc::new(session)
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, is_head: bool) -> Arc<Stream> {
        // its head may have been as large as this
        self.paid(HEADS * self.peer.state.limits(|limits| limits.header_bytes));
        self.has_begun.store(true, Ordering::Relaxed);
        if self.open.fetch_add(1, Ordering::Relaxed) == 0 {
            self.set_deadline();
        }
        let stream = Arc::new(Stream::new(Arc::clone(self), is_head));
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
        stream
    }

    fn ended(&self, was_heard: bool) {
        if was_heard {
            // one less, but never less than none: nothing else happens to an error
            let _less = self.unheard.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unheard| unheard.checked_sub(1));
        } else if self.unheard.fetch_add(1, Ordering::Relaxed) >= UNHEARD_MAX {
            self.is_abusive.store(true, Ordering::Relaxed);
            self.peer.state.deadline.wake();
        }
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set_deadline();
        }
    }

    /// No stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// It is to go for others.
    pub(super) fn makes_room(&self) -> bool {
        self.is_idle() && self.peer.state.deadline.is_unwanted()
    }

    pub(super) fn is_abusive(&self) -> bool {
        self.is_abusive.load(Ordering::Relaxed)
    }

    /// No further requests: those under way are finished.
    pub(super) fn leave(&self) {
        if !self.is_leaving.swap(true, Ordering::Relaxed) {
            self.peer.state.deadline.wake();
        }
    }

    /// Sets the connection's deadline for what it is doing now.
    pub(super) fn set_deadline(&self) {
        let state = &self.peer.state;
        let limits = |of: fn(&Limits) -> Duration| state.limits(of);
        if self.is_stuck() || !self.is_idle() {
            state.deadline.works();
        } else if !self.is_leaving() {
            state.deadline.idles(state.place.has_pass());
        }
        if self.is_stuck() || (self.is_idle() && self.is_leaving()) {
            return self.answer.awaits(&state.deadline, self.patience());
        }
        if self.is_idle() {
            self.answer.renew();
        } else {
            self.answer.rests(state.deadline.now(), self.patience());
        }
        if !self.is_idle() {
            state.deadline.clear();
        } else if self.has_begun() {
            state.deadline.set(limits(|limits| limits.idle_timeout));
        } else {
            state.deadline.set(limits(|limits| limits.header_timeout));
        }
    }

    /// Whether so many more bytes may be read.
    pub(super) fn may_read(&self, bytes: usize) -> bool {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        if bytes > UNPRODUCTIVE_BYTES_MAX || reads >= UNPRODUCTIVE_READS_MAX {
            self.is_abusive.store(true, Ordering::Relaxed);
        }
        !self.is_abusive()
    }

    /// A request whose task was never spawned, and which keeps the session for ever.
    pub(super) fn forget_newest(&self) {
        drop(self.newest.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// So many bytes were of use. They do not wipe out all that was read beside them, or a request now and then would pay for any flood.
    fn paid(&self, bytes: usize) {
        let bytes = bytes + PIECE_PAYS;
        let reads = u32::try_from(bytes / BYTES_A_READ).unwrap_or(u32::MAX);
        // never less than none: nothing else happens to an error
        let _less = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |read| Some(read.saturating_sub(bytes)));
        let _less = self.reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |read| Some(read.saturating_sub(reads)));
    }

    /// So many bytes have left for the client, and whether more would have if it had taken them.
    pub(super) fn was_written(&self, bytes: u64, pending: bool) {
        // time is spent since the client last took all that there was, not since each attempt
        if pending && !self.is_stuck.swap(true, Ordering::Relaxed) {
            self.stuck_since.store(self.now().as_micros(), Ordering::Relaxed);
            self.set_deadline();
        }
        if bytes > 0 && !self.answer.is_full() {
            self.answer.moved(bytes, &self.peer.state.deadline, self.patience());
        }
    }

    /// The client has taken all that there was.
    pub(super) fn was_flushed(&self) {
        if self.is_stuck() {
            let stuck = u64::try_from(self.stuck().as_micros()).unwrap_or(u64::MAX);
            self.stuck_us.store(stuck, Ordering::Relaxed);
            self.is_stuck.store(false, Ordering::Relaxed);
            self.set_deadline();
        }
    }

    /// How long it was stuck for, in all its life.
    fn stuck(&self) -> Duration {
        let now =
            if self.is_stuck() { self.now().since(Moment::from_micros(self.stuck_since.load(Ordering::Relaxed))) } else { Duration::ZERO };
        Duration::from_micros(self.stuck_us.load(Ordering::Relaxed)) + now
    }

    fn now(&self) -> Moment {
        self.peer.state.deadline.now()
    }

    /// However many streams are open: they share one line, and a phone that takes a page with much on it takes all of it at once.
    ///
    /// When the gate closes, a client with nothing under way may have the end of its last answer to take. One that takes nothing for a
    /// while is gone: a phone that sleeps must not hold up a restart.
    fn patience(&self) -> Patience {
        let patience = self.peer.state.limits(Limits::patience);
        let is_taking_leave = self.is_leaving() && self.is_idle() && !self.is_stuck() && self.peer.worker.is_closing();
        if is_taking_leave { Patience { longest: patience.longest.min(LINGER), ..patience } } else { patience }
    }
}

/// One request of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    session: Arc<Session>,
    is_head: bool,
    has_begun: AtomicBool,
    phase: AtomicU8,
    /// For the next piece of the request body. Few streams need one.
    upload: OnceLock<Arc<Deadline>>,
    upload_account: Account,
    /// For room for the next piece of the answer.
    answer: OnceLock<Arc<Deadline>>,
    /// How long the connection had been stuck for when this was last set, in microseconds.
    stuck_before: AtomicU64,
    /// Its task.
    task: OnceLock<Waker>,
    /// Who reads the request body: its own task, or that of the connection to the site.
    reader: Mutex<Option<Waker>>,
    has_stalled: AtomicBool,
    /// What is left of a piece of the answer.
    rest: Mutex<Bytes>,
    /// What is left of a request body that nobody reads, and how many bytes of it are read all the same.
    unread: Mutex<Option<(Incoming, usize)>>,
    /// A piece was handed over since the task has last looked.
    was_handed: AtomicBool,
    was_heard: AtomicBool,
}

impl Stream {
    fn new(session: Arc<Session>, is_head: bool) -> Self {
        Self {
            session,
            is_head,
            has_begun: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Busy as u8),
            upload: OnceLock::new(),
            upload_account: Account::default(),
            answer: OnceLock::new(),
            stuck_before: AtomicU64::new(0),
            task: OnceLock::new(),
            reader: Mutex::new(None),
            has_stalled: AtomicBool::new(false),
            rest: Mutex::new(Bytes::new()),
            unread: Mutex::new(None),
            was_handed: AtomicBool::new(false),
            was_heard: AtomicBool::new(false),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        if phase == Phase::Body {
            self.upload_account.awaits(self.deadline(&self.upload), self.patience());
        } else if let Some(deadline) = self.upload.get() {
            self.upload_account.rests(deadline.now(), self.patience());
            deadline.clear();
        }
    }

    pub(super) fn has_stalled(&self) -> bool {
        self.has_stalled.load(Ordering::Relaxed)
    }

    pub(super) fn poll_begin(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_begun.swap(true, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What became of an attempt to read a piece of the request body.
    pub(super) fn body_polled(
        &self,
        polled: Poll<Option<Result<Frame<Bytes>, BodyFailure>>>,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if let Poll::Ready(came) = &polled {
            let frame = came.as_ref().and_then(|frame| frame.as_ref().ok());
            self.session.paid(data_bytes(frame));
            self.came(frame);
        } else if self.has_stalled() {
            return Poll::Ready(Some(Err(BodyFailure::Stalled)));
        } else {
            *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        polled
    }

    /// A frame of the request body has come.
    fn came(&self, frame: Option<&Frame<Bytes>>) {
        let Some(deadline) = self.upload.get() else { return };
        self.upload_account.moved(data_bytes(frame) as u64, deadline, self.patience());
    }

    /// A piece of the answer waits for room with the client.
    fn await_room(&self) {
        let stuck = u64::try_from(self.session.stuck().as_micros()).unwrap_or(u64::MAX);
        self.stuck_before.store(stuck, Ordering::Relaxed);
        self.deadline(&self.answer).set(self.patience().longest);
    }

    /// Whether there was none for too long, not counting the time in which the connection itself was stuck: that is the connection's.
    fn is_without_room(&self) -> bool {
        let Some(deadline) = self.answer.get().filter(|deadline| deadline.has_fired()) else { return false };
        let stuck = self.session.stuck();
        let more = stuck.saturating_sub(Duration::from_micros(self.stuck_before.load(Ordering::Relaxed)));
        if more.is_zero() {
            return true;
        }
        deadline.rearm();
        self.stuck_before.store(u64::try_from(stuck.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        deadline.set(more);
        false
    }

    fn deadline<'a>(&self, deadline: &'a OnceLock<Arc<Deadline>>) -> &'a Arc<Deadline> {
        deadline.get_or_init(|| {
            let deadline = self.session.peer.worker.deadlines.watch();
            if let Some(task) = self.task.get() {
                deadline.wakes(task);
            }
            deadline
        })
    }

    fn patience(&self) -> Patience {
        self.session.peer.state.limits(Limits::patience)
    }

    /// What is left of the last piece of the answer.
    pub(super) fn next_piece(&self) -> Option<Bytes> {
        let rest = self.take_rest();
        (!rest.is_empty()).then(|| self.piece(rest))
    }

    pub(super) fn has_rest(&self) -> bool {
        !self.rest.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// As much of it as is handed over at once.
    pub(super) fn piece(&self, mut bytes: Bytes) -> Bytes {
        self.session.paid(bytes.len().min(PIECE_BYTES));
        self.was_handed.store(true, Ordering::Relaxed);
        if bytes.len() > PIECE_BYTES {
            self.session.peer.worker.memory.hold(bytes.len() - PIECE_BYTES);
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = bytes.split_off(PIECE_BYTES);
        }
        bytes
    }

    /// What is left, no longer counted as held.
    fn take_rest(&self) -> Bytes {
        let rest = std::mem::take(&mut *self.rest.lock().unwrap_or_else(PoisonError::into_inner));
        self.session.peer.worker.memory.release(rest.len());
        rest
    }

    /// The client has taken what there is, and waits for the site.
    pub(super) fn awaits_site(&self) {
        self.was_handed.store(false, Ordering::Relaxed);
        if let Some(deadline) = self.answer.get() {
            deadline.clear();
        }
    }

    /// Nobody reads this any more.
    pub(super) fn leave_unread(&self, body: Incoming) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some((body, UNREAD_BYTES_MAX));
    }

    pub(super) fn has_unread(&self) -> bool {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes what is left of the request body before the answer ends: a stream that ends before its request has is reset, and some
    /// clients then throw the answer away with it.
    pub(super) fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((body, left)) = &mut *unread {
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.session.paid(data_bytes(Some(&frame)));
                    self.enter(Phase::Body);
                    self.came(Some(&frame));
                    match left.checked_sub(data_bytes(Some(&frame))) {
                        Some(less) => *left = less,
                        None => *unread = None,
                    }
                }
                Poll::Pending if !self.has_stalled() => {
                    // the answer is there, whole: it is the client's turn
                    self.awaits_site();
                    if self.phase() != Phase::Body {
                        self.enter(Phase::Body);
                    }
                    return Poll::Pending;
                }
                Poll::Pending | Poll::Ready(None | Some(Err(_))) => *unread = None,
            }
        }
        self.enter(Phase::Busy);
        Poll::Ready(())
    }

    /// The answer was handed over whole, or it is not the client's fault that it was not.
    pub(super) fn heard(&self) {
        self.was_heard.store(true, Ordering::Relaxed);
    }

    /// An answer as HTTP/2 has it: a connection ends by a frame, and HEAD has no body and 204 no length (RFC 9110, section 8.6), which
    /// HTTP/1 knows by itself.
    pub(super) fn translate(&self, mut answer: Answer) -> Answer {
        if answer.status() == StatusCode::NO_CONTENT {
            answer.headers_mut().remove(CONTENT_LENGTH);
        }
        if answer.headers_mut().remove(CONNECTION).is_some() {
            self.session.leave();
        }
        self.session.peer.worker.interned.detach(answer.headers_mut());
        if self.is_head { super::respond::without_body(answer) } else { answer }
    }

    /// Whether its client has let it stand for too long. A body that stands still is answered.
    fn is_over(&self) -> bool {
        if let Some(upload) = self.upload.get().filter(|upload| upload.has_fired()) {
            upload.rearm();
            // a piece may have come in this very moment
            if self.phase() == Phase::Body {
                self.end_upload();
            }
        }
        self.is_without_room()
    }

    /// Nothing more of the request body is waited for.
    fn end_upload(&self) {
        self.has_stalled.store(true, Ordering::Relaxed);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.take_rest());
    }
}

fn data_bytes(frame: Option<&Frame<Bytes>>) -> usize {
    frame.and_then(Frame::data_ref).map_or(0, Bytes::len)
}

/// Runs a stream to its end, or until its client has let it stand for too long: dropped unfinished, it is reset.
async fn drive(answering: impl Future<Output = ()>, stream: Arc<Stream>) {
    let open = Open(stream);
    let mut answering = pin!(answering);
    std::future::poll_fn(|cx| {
        let stream = &open.0;
        stream.task.get_or_init(|| cx.waker().clone());
        if stream.is_over() {
            return Poll::Ready(());
        }
        let polled = answering.as_mut().poll(cx);
        // it waits with a piece in hand: for the client
        if polled.is_pending() && stream.was_handed.swap(false, Ordering::Relaxed) {
            stream.await_room();
        }
        polled
    })
    .await;
}

/// A stream that counts as open.
struct Open(Arc<Stream>);

impl Drop for Open {
    fn drop(&mut self) {
        // who answers without the whole request holds its slot until the rest has come, for which nobody is timed any more
        self.0.end_upload();
        self.0.session.ended(self.0.was_heard.load(Ordering::Relaxed));
    }
}

/// Runs each stream as a task of the worker.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) Arc<Session>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, answering: F) {
        // hyper calls the service and spawns what it returns in one go
        let newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stream) = newest {
            drop(tokio::spawn(drive(answering, stream)));
        }
    }
}
