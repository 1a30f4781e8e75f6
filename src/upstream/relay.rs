//! The body of an answer, taken from the upstream at the upstream's speed: the slot is free when the upstream is done, not when the
//! visitor's phone is. Up to `upstream.buffer.response` bytes are read ahead; never stored and forwarded, so a stream's first byte is
//! not delayed.
//!
//! A body that has come whole with its head (most pages of a small site) costs no task and no copy.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use tokio::task::coop::consume_budget;

use super::Slot;
use super::connection::{Connection, SiteBody, TransportError};
use super::pieces::Pieces;
use crate::metrics::OutcomeLabel;

/// The memory that all body buffers together may take.
#[derive(Debug)]
pub struct BufferMemory {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl BufferMemory {
    /// Room for so many bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }
    }

    /// A changed limit.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether there is room for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that are held from now on.
    pub fn hold(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are no longer held.
    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// It came whole: what is left of it.
    Whole(VecDeque<Frame<Bytes>>),
    /// In one piece, as most do.
    Piece(Option<Bytes>),
    /// It is still coming.
    Relayed(Relayed),
}

/// A body that is still coming; dropping it tells the pump that the client has left.
#[derive(Debug)]
pub struct Relayed {
    shared: Arc<Shared>,
    hint: SizeHint,
    /// It is a stream of events.
    of_events: bool,
    /// It has broken off, and what came before that is on its way.
    has_said_all: bool,
}

/// The answer broke off upstream; the client's connection is cut, so that half an answer is not taken for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the upstream server's answer broke off")]
pub struct BrokenOff;

/// What is held until the upstream is done.
pub(super) struct Held {
    /// Before the slot, which is given back when it is closed.
    pub(super) connection: Connection,
    pub(super) slot: Slot,
    pub(super) outcome: OutcomeLabel,
    pub(super) good: bool,
}

/// Bytes of a body that are taken at once, if they are there, and in how many pieces. What goes beyond is read ahead as there is memory.
const WITH_HEAD: usize = 64 * 1024;
const PIECES_WITH_HEAD: usize = 16;

/// The body of an answer whose head has just come.
///
/// # Errors
/// Nothing of it has come, and nothing will: better no answer than one of nothing.
pub(super) fn answer_body(mut body: SiteBody, mut held: Held, headers: &HeaderMap) -> Result<AnswerBody, TransportError> {
    if body.is_end_stream() {
        held.done();
        return Ok(AnswerBody::Piece(None));
    }
    let hint = body.size_hint();
    // what has come with the head is there already; who is woken is not yet known, and not needed
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = VecDeque::new();
    let most = held.slot.settings.response_buffer.min(WITH_HEAD);
    let mut bytes = 0;
    while held.connection.is_at_hand()
        && (frames.is_empty() || (bytes < most && frames.len() < PIECES_WITH_HEAD && held.slot.upstream.memory.has_room()))
    {
        match held.connection.poll_body(&mut body, &mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let over = body.is_end_stream();
                if over && frames.is_empty() && frame.is_data() {
                    held.done();
                    return Ok(AnswerBody::Piece(frame.into_data().ok()));
                }
                bytes += frame.data_ref().map_or(0, Bytes::len);
                frames.push_back(frame);
                if over {
                    held.done();
                    return Ok(AnswerBody::Whole(frames));
                }
            }
            Poll::Ready(None) => {
                held.done();
                return Ok(AnswerBody::Whole(frames));
            }
            Poll::Ready(Some(Err(error))) => {
                let memory = held.slot.upstream.memory.clone();
                held.broke(&error);
                if frames.is_empty() {
                    return Err(error);
                }
                let shared = Shared::new(memory, frames);
                shared.lock().ended = Some(Err(BrokenOff));
                return Ok(AnswerBody::Relayed(Relayed { shared, hint, of_events: false, has_said_all: false }));
            }
            Poll::Pending => break,
        }
    }
    held.slot.ended = None;
    let shared = Shared::new(held.slot.upstream.memory.clone(), frames);
    let of_events = is_stream_of_events(headers);
    tokio::spawn(pump(body, held, Arc::clone(&shared), of_events));
    Ok(AnswerBody::Relayed(Relayed { shared, hint, of_events, has_said_all: false }))
}

/// Whether it goes on for as long as somebody reads it.
fn is_stream_of_events(headers: &HeaderMap) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().get(..KIND.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(KIND))
}

/// Reads ahead of the client.
///
/// Once the client has left, the server is still busy with what it has begun: its worker would not be free if the connection were closed.
/// So what is left is taken, in so far as it comes within one response timeout and is no more than what would be read ahead. A stream of
/// events, which would not end by itself, is ended.
async fn pump(mut body: SiteBody, mut held: Held, shared: Arc<Shared>, of_events: bool) {
    let most = held.slot.settings.response_buffer;
    let timeout = held.slot.settings.timeouts.response;
    let mut drained = None;
    loop {
        if drained.is_none() {
            // while the client is slow, the upstream is not to blame; and a client may first have to get rid of its upload
            held.connection.deadline().clear();
            poll_fn(|cx| {
                let room = shared.poll_room(most, cx);
                if room.is_pending() {
                    held.connection.drive(cx);
                    held.connection.deadline().clear();
                }
                room
            })
            .await;
            held.connection.deadline().set(timeout);
        }
        let next = poll_fn(|cx| {
            if drained.is_none() && shared.is_left(cx) {
                if of_events {
                    return Poll::Ready(None);
                }
                drained = Some(0);
                held.connection.deadline().set(timeout);
            }
            held.connection.poll_body(&mut body, cx).map(Some)
        });
        let Some(next) = next.await else { return held.cut() };
        match (next, &mut drained) {
            (Some(Ok(frame)), Some(drained)) => {
                *drained += frame.data_ref().map_or(0, Bytes::len);
                if *drained > most {
                    return held.cut();
                }
                // what is in memory already is taken without waiting, and others are to have their turn
                consume_budget().await;
            }
            (Some(Ok(frame)), None) => {
                shared.push(frame);
                consume_budget().await;
            }
            (Some(Err(error)), drained) => {
                shared.end(Err(BrokenOff));
                return if drained.is_some() { held.cut() } else { held.broke(&error) };
            }
            (None, _) => {
                shared.end(Ok(()));
                return held.done();
            }
        }
    }
}

impl Held {
    /// The upstream is done: the connection can be used again, at once or as soon as it says so.
    fn done(mut self) {
        self.slot.observe(self.outcome, self.good);
        self.connection.deadline().clear();
        if self.connection.is_closed() {
            return self.slot.finish_closed(self.connection);
        }
        if self.connection.is_ready() {
            return self.slot.finish(self.connection);
        }
        self.slot.ended = None;
        // a server that has answered and takes nothing more of the upload
        self.connection.deadline().set(self.slot.settings.timeouts.response);
        tokio::spawn(async move {
            if poll_fn(|cx| self.connection.poll_usable(cx)).await {
                self.connection.deadline().clear();
                self.slot.finish(self.connection);
            } else {
                self.slot.finish_closed(self.connection);
            }
        });
    }

    /// The answer broke off, or stood still for the response timeout; or the upload did that it came beside, for which the server is not
    /// to blame.
    fn broke(mut self, error: &TransportError) {
        if error.is_clients() {
            return self.cut();
        }
        let outcome = if self.connection.deadline().has_fired() { OutcomeLabel::Timeout } else { OutcomeLabel::Error };
        self.slot.good(false);
        self.slot.observe(outcome, false);
        self.slot.finish_closed(self.connection);
    }

    /// The client has left, and what is left of the answer is not worth the slot: the connection closes, or of HTTP/2 the stream.
    fn cut(self) {
        self.slot.observe(OutcomeLabel::Aborted, self.good);
        self.slot.finish_closed(self.connection);
    }
}

/// What the pump and the client's connection share.
#[derive(Debug)]
struct Shared {
    memory: Arc<BufferMemory>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pieces: Pieces,
    bytes: usize,
    ended: Option<Result<(), BrokenOff>>,
    abandoned: bool,
    reader: Option<Waker>,
    pump: Option<Waker>,
    /// The pump waits for it.
    wants_room: bool,
}

impl Shared {
    fn new(memory: Arc<BufferMemory>, frames: VecDeque<Frame<Bytes>>) -> Arc<Self> {
        let shared = Arc::new(Self { memory, state: Mutex::default() });
        for frame in frames {
            shared.push(frame);
        }
        shared
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more piece, or the client has left.
    fn poll_room(&self, most: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        // one piece is always held, or nothing would flow when memory is short
        if state.abandoned || state.bytes == 0 || (state.bytes < most && self.memory.has_room()) {
            return Poll::Ready(());
        }
        state.wants_room = true;
        state.pumped_by(cx);
        Poll::Pending
    }

    /// Whether the client has left; the pump is woken when it does.
    fn is_left(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        state.wants_room = false;
        state.pumped_by(cx);
        state.abandoned
    }

    fn push(&self, frame: Frame<Bytes>) {
        let mut state = self.lock();
        if state.abandoned {
            return;
        }
        let bytes = state.pieces.push(frame);
        self.memory.hold(bytes);
        state.bytes += bytes;
        wake(state.reader.take(), state);
    }

    fn end(&self, how: Result<(), BrokenOff>) {
        let mut state = self.lock();
        state.ended = Some(how);
        wake(state.reader.take(), state);
    }
}

impl State {
    fn pumped_by(&mut self, cx: &Context<'_>) {
        if !self.pump.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.pump = Some(cx.waker().clone());
        }
    }
}

/// Wakes with the lock given back.
fn wake(waker: Option<Waker>, state: MutexGuard<'_, State>) {
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Relayed {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut state = self.shared.lock();
        if let Some((frame, bytes)) = state.pieces.pop() {
            state.bytes -= bytes;
            self.shared.memory.release(bytes);
            let pump = if state.wants_room { state.pump.take() } else { None };
            wake(pump, state);
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.ended.take() {
            Some(Ok(())) => {
                state.ended = Some(Ok(()));
                Poll::Ready(None)
            }
            // over HTTP/2, hyper drops at an error what it has not sent yet, and sends when it has to wait
            Some(Err(broken)) if !self.has_said_all => {
                self.has_said_all = true;
                state.ended = Some(Err(broken));
                drop(state);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.abandoned = true;
        self.shared.memory.release(state.bytes);
        state.bytes = 0;
        state.pieces = Pieces::default();
        wake(state.pump.take(), state);
    }
}

impl AnswerBody {
    /// Whether it is a stream of events, and goes on.
    #[must_use]
    pub const fn is_stream_of_events(&self) -> bool {
        matches!(self, Self::Relayed(Relayed { of_events: true, .. }))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Piece(piece) => Poll::Ready(piece.take().map(|piece| Ok(Frame::data(piece)))),
            Self::Whole(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Self::Relayed(relayed) => relayed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Piece(piece) => piece.is_none(),
            Self::Whole(frames) => frames.is_empty(),
            Self::Relayed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Piece(piece) => SizeHint::with_exact(piece.as_ref().map_or(0, |piece| piece.len() as u64)),
            Self::Whole(frames) if frames.iter().all(Frame::is_data) => {
                SizeHint::with_exact(frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
            }
            // with trailers the body is chunked, and its length is not told ahead
            Self::Whole(_) => SizeHint::default(),
            Self::Relayed(relayed) => relayed.hint,
        }
    }
}
