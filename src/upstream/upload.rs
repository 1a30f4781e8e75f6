//! A request body on its way to a server over HTTP/2, and what was sent of it, for as long as it may have to be sent again.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either};

use super::connection::{BodyFailure, RequestBody, no_body};

/// Bytes of a body that are kept once they are sent, but for what goes beyond with the last piece. A server that does nothing with a
/// request does not widen its window either, and most begin with 64 KiB.
const KEPT_BYTES: usize = 128 * 1024;

/// A body, sent as the server takes it.
pub(super) struct Upload {
    /// What is still to be read; `None` once it is read, or nobody takes it.
    body: Option<RequestBody>,
    /// Read, and not sent yet.
    piece: Option<Bytes>,
    /// That piece is the last.
    is_last: bool,
    /// All that was read, unless that is too much.
    kept: Option<Kept>,
    /// The stream takes nothing more, though not all was sent. What is left of the body may be needed for the next.
    is_closed: bool,
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
}

impl Upload {
    /// `None` is a request without a body.
    pub(super) fn new(body: Option<RequestBody>) -> Self {
        Self { body, piece: None, is_last: false, kept: Some(Kept::default()), is_closed: false }
    }

    /// Sends what can be sent; over when all is sent, or the stream is closed: why, is told to who waits for the answer.
    pub(super) fn poll(&mut self, stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailure>> {
        loop {
            if self.is_closed {
                return Poll::Ready(Ok(()));
            }
            while self.piece.is_some() && stream.capacity() == 0 {
                let Some(Ok(_)) = ready!(stream.poll_capacity(cx)) else {
                    self.close();
                    return Poll::Ready(Ok(()));
                };
            }
            if let Some(piece) = self.piece.take() {
                self.send(stream, piece);
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => {
                    self.is_last = true;
                    self.send(stream, Bytes::new());
                    continue;
                }
            };
            self.is_last = body.is_end_stream();
            match frame.into_data() {
                // needs no room on the stream
                Ok(piece) if piece.is_empty() => self.send(stream, piece),
                Ok(piece) => {
                    self.keep(&piece);
                    // as little as starts it: what is asked for is kept from other streams, and the piece itself asks for the rest
                    stream.reserve_capacity(1);
                    self.piece = Some(piece);
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    if let Some(kept) = &mut self.kept {
                        kept.trailers = Some(trailers.clone());
                    }
                    // it fails only on a stream that is closed
                    drop(stream.send_trailers(trailers));
                    self.stop();
                }
            }
        }
    }

    /// It need not be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
        if self.is_closed {
            self.body = None;
        }
    }

    /// The body as it was before any of it was read, if that much is kept.
    pub(super) fn give_back(&mut self) -> Option<RequestBody> {
        let Kept { pieces, trailers, .. } = self.kept.take()?;
        let rest = self.body.take();
        if pieces.is_empty() && trailers.is_none() {
            return Some(rest.unwrap_or_else(no_body));
        }
        Some(Either::Right(Again { pieces, trailers, rest }.boxed_unsync()))
    }

    fn send(&mut self, stream: &mut SendStream<Bytes>, piece: Bytes) {
        if piece.is_empty() && !self.is_last {
            return;
        }
        let is_sent = stream.send_data(piece, self.is_last).is_ok();
        if self.is_last {
            self.stop();
        } else if !is_sent {
            self.close();
        }
    }

    fn keep(&mut self, piece: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        if kept.bytes >= KEPT_BYTES {
            self.kept = None;
            return;
        }
        kept.bytes += piece.len();
        kept.pieces.push_back(piece.clone());
    }

    /// The stream is over before the body is.
    fn close(&mut self) {
        (self.piece, self.is_closed) = (None, true);
        if self.kept.is_none() {
            self.body = None;
        }
    }

    fn stop(&mut self) {
        (self.body, self.piece) = (None, None);
    }
}

/// What the error of a body is, whose kind is lost on the way. One that is in memory has none.
pub(super) fn failure(error: Box<dyn Error + Send + Sync>) -> BodyFailure {
    error.downcast::<BodyFailure>().map_or(BodyFailure::Stalled, |failure| *failure)
}

/// A body of which some was read before.
struct Again {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// `None` if all was read.
    rest: Option<RequestBody>,
}

impl Body for Again {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(rest) = &mut self.rest {
            return Pin::new(rest).poll_frame(cx).map_err(failure);
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        let rest = self.rest.as_ref().map_or(Some(0), |rest| rest.size_hint().exact());
        rest.filter(|_| self.trailers.is_none()).map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest))
    }
}
