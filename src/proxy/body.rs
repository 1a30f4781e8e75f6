//! Bodies on the client's side: requests read before a slot is taken, answers told from what the gate composes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full};

use super::exchange::{Exchange, Upload};
use super::state::Phase;
use super::streams::Stream;
use crate::rules::headers::hop;
use crate::upstream::{AnswerBody, BodyFailure, BufferMemory, Pieces, RequestBody, no_body};

/// The body of an answer to a client.
#[derive(Debug)]
pub(super) struct ClientBody {
    content: Content,
    /// Of HTTP/2, the stream that it is sent on.
    stream: Option<Arc<Stream>>,
}

#[derive(Debug)]
enum Content {
    Composed(Option<Bytes>),
    /// One after the other: those of a page that many share are not copied for each.
    Joined {
        pieces: Box<[Bytes]>,
        next: usize,
    },
    Site(AnswerBody),
}

impl ClientBody {
    pub(super) fn composed(bytes: Bytes) -> Self {
        Self { content: Content::Composed((!bytes.is_empty()).then_some(bytes)), stream: None }
    }

    /// None of them may be empty.
    pub(super) fn joined(pieces: impl Into<Box<[Bytes]>>) -> Self {
        Self { content: Content::Joined { pieces: pieces.into(), next: 0 }, stream: None }
    }

    pub(super) const fn site(body: AnswerBody) -> Self {
        Self { content: Content::Site(body), stream: None }
    }

    /// Tells its stream when it has been handed over whole.
    pub(super) fn of(mut self, stream: Arc<Stream>) -> Self {
        self.stream = Some(stream);
        self
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // one without a body is never asked for it
        if let Some(stream) = self.stream.as_ref().filter(|_| self.is_end_stream()) {
            stream.heard();
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = crate::upstream::BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { content, stream } = self.get_mut();
        let Some(stream) = stream else { return content.poll(cx) };
        if let Some(piece) = stream.next_piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match content.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match frame.into_data() {
                    Ok(data) => Frame::data(stream.piece(data)),
                    Err(trailers) => {
                        stream.heard();
                        trailers
                    }
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(broken))) => {
                stream.heard();
                Poll::Ready(Some(Err(broken)))
            }
            Poll::Ready(None) => {
                stream.heard();
                stream.poll_unread(cx).map(|()| None)
            }
            Poll::Pending => {
                stream.awaits_site();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_last = match &self.content {
            Content::Composed(bytes) => bytes.is_none(),
            Content::Joined { pieces, next } => *next >= pieces.len(),
            Content::Site(body) => body.is_end_stream(),
        };
        is_last && !self.stream.as_ref().is_some_and(|stream| stream.has_rest() || stream.has_unread())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Composed(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Joined { pieces, .. } => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Content::Site(body) => body.size_hint(),
        }
    }
}

impl Content {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, crate::upstream::BrokenOff>>> {
        match self {
            Self::Composed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Joined { pieces, next } => {
                let piece = pieces.get_mut(*next).map(std::mem::take);
                *next += 1;
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            Self::Site(body) => Pin::new(body).poll_frame(cx).map_ok(without_hop),
        }
    }
}

/// Trailers, without what is of the site's connection.
fn without_hop(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers_of_site(trailers);
    }
    frame
}

/// A request body as far as it was read ahead; what it holds of the buffers' memory goes with it.
#[derive(Debug)]
pub(super) struct ReadAhead {
    pieces: Pieces,
    bytes: usize,
    rest: Option<Upload>,
    memory: Arc<BufferMemory>,
}

/// Reads a request body, up to `most` bytes, before a slot is taken: a slow client must not hold one.
///
/// # Errors
/// The client left, stalled for `limits.body_timeout`, or sent what is not HTTP.
pub(super) async fn read_ahead(
    mut body: Upload,
    most: usize,
    memory: &Arc<BufferMemory>,
    exchange: &Exchange,
) -> Result<ReadAhead, BodyFailure> {
    let mut read = ReadAhead::new(memory);
    if body.is_end_stream() {
        return Ok(read);
    }
    exchange.enter(Phase::Body);
    while read.bytes < most && memory.has_room() {
        let Some(frame) = body.frame().await else {
            exchange.enter(Phase::Busy);
            return Ok(read);
        };
        read.keep(cleaned(frame?));
        if body.is_end_stream() {
            exchange.enter(Phase::Busy);
            return Ok(read);
        }
    }
    // the rest streams while a slot is held; the client is timed while it is waited for, not while the site takes its time
    read.rest = Some(body);
    exchange.enter(Phase::Busy);
    Ok(read)
}

/// Trailers, without what a client must not say to the site.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers(trailers);
    }
    frame
}

impl ReadAhead {
    fn new(memory: &Arc<BufferMemory>) -> Self {
        Self { pieces: Pieces::default(), bytes: 0, rest: None, memory: Arc::clone(memory) }
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
        let bytes = self.pieces.push(frame);
        self.memory.hold(bytes);
        self.bytes += bytes;
    }

    /// What is sent to the site. The length is told if it is known.
    pub(super) fn into_request_body(mut self) -> RequestBody {
        if self.rest.is_none() {
            if self.pieces.is_empty() {
                return no_body();
            }
            if let Some(data) = self.pieces.take_only() {
                return Either::Left(Either::Right(Full::new(data)));
            }
        }
        Either::Right(self.boxed_unsync())
    }
}

impl Body for ReadAhead {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if let Some((frame, bytes)) = self.pieces.pop() {
            self.memory.release(bytes);
            self.bytes -= bytes;
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *rest).poll_frame(cx).map_ok(cleaned);
        match (&polled, rest.exchange.phase()) {
            (Poll::Pending, Phase::Busy) => rest.exchange.enter(Phase::Body),
            (Poll::Ready(None | Some(Ok(_))), Phase::Body) => rest.exchange.enter(Phase::Busy),
            // with an error the phase tells what the client was doing
            (Poll::Pending | Poll::Ready(_), _) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let (ahead, trailers) = (self.pieces.bytes() as u64, self.pieces.has_trailers());
        match &self.rest {
            None if !trailers => SizeHint::with_exact(ahead),
            Some(rest) => rest.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(ahead + rest)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
        // nobody waits for the rest any more: the site has answered without it
        let Some(Upload { exchange, .. }) = &self.rest else { return };
        if exchange.phase() == Phase::Body && !exchange.has_stalled() {
            exchange.enter(Phase::Busy);
        }
    }
}
