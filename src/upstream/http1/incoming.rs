//! An answer on its way: its head, and what comes after it.
//!
//! Heads, and small bodies with them, are read into memory that all connections of a thread share, and copied from there to where they fit
//! exactly; large bodies are read to where they stay. So a connection that waits for an answer, or for a request, holds no buffer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::Http1Error;
use crate::rules::http1::answer::{self, Head, has_end};
use crate::rules::http1::body::{Decoded, Decoder};

/// Bytes that are read at once of a head and what comes with it.
const AT_FIRST: usize = 16 * 1024;

/// Bytes that are read at once of a body: of unknown length at first, and at most when it comes fast. Measured with 1 MiB: with 64 KiB a
/// page costs a third more, since the allocator then gives memory back after each.
const LEAST: usize = 8 * 1024;
const MOST: usize = 384 * 1024;

/// Bytes of room that are enough for another read, in what was made for one before.
const ENOUGH: usize = 64 * 1024;

/// Bytes that may be read before the head of an answer is over, interim answers included: far more than a head has, and what is read in
/// some hundredths of a second.
pub(super) const BEFORE_HEAD: usize = 512 * 1024;

thread_local! {
    /// Where heads are read, which is over before anybody else has a turn.
    static HEADS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a connection reads.
pub(super) struct Incoming {
    /// Bytes that may come before the head of the answer is over.
    room: usize,
    /// What was asked for is a head alone.
    answers_head: bool,
    /// A map that can be used again.
    spare: HeaderMap,
    /// What has come of a head that is not over.
    part: Vec<u8>,
    /// What has come, and is not yet read.
    input: Bytes,
    /// Where more of a body is read.
    buffer: BytesMut,
    /// Bytes that are read at once.
    at_once: usize,
    decoder: Decoder,
    keeps_alive: bool,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            room: 0,
            answers_head: false,
            spare: HeaderMap::new(),
            part: Vec::new(),
            input: Bytes::new(),
            buffer: BytesMut::new(),
            at_once: LEAST,
            decoder: Decoder::new(answer::Framing::Length(0)),
            keeps_alive: true,
        }
    }
}

impl Incoming {
    /// An answer follows.
    pub(super) fn begin(&mut self, answers_head: bool, spare: HeaderMap) {
        (self.room, self.answers_head, self.spare, self.at_once) = (BEFORE_HEAD, answers_head, spare, LEAST);
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Whether it is worth looking for more of the body at once. That one which ends with the connection is over is told later: else it
    /// would be a matter of luck whether the visitor is told its length.
    pub(super) fn is_at_hand(&self) -> bool {
        !self.input.is_empty() || !self.decoder.is_until_close()
    }

    /// Whether nothing has come but what was asked for, and another answer may follow.
    pub(super) const fn is_reusable(&self) -> bool {
        self.keeps_alive && self.input.is_empty() && self.part.is_empty()
    }

    /// What has come after an answer without a body: of the next protocol.
    pub(super) fn into_rest(self) -> Bytes {
        self.input
    }

    /// The head of the answer, once it is there.
    pub(super) fn poll_head<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<Head, Http1Error>> {
        loop {
            while !self.input.is_empty() {
                let Some((head, taken)) = answer::read(&self.input, std::mem::take(&mut self.spare)).map_err(Http1Error::Head)? else {
                    self.part = Vec::from(std::mem::take(&mut self.input));
                    break;
                };
                drop(self.input.split_to(taken));
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    self.spare = head.headers;
                    continue;
                }
                self.decoder = Decoder::new(head.framing(self.answers_head).map_err(Http1Error::Head)?);
                self.keeps_alive = head.keeps_alive();
                return Poll::Ready(Ok(head));
            }
            let read = ready!(self.poll_read_head(stream, cx)).map_err(Http1Error::Io)?;
            if read == 0 {
                return Poll::Ready(Err(Http1Error::Closed));
            }
            if self.room == 0 {
                return Poll::Ready(Err(Http1Error::Endless));
            }
            self.room = self.room.saturating_sub(read);
        }
    }

    fn poll_read_head<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut heads = HEADS.take();
        heads.resize(AT_FIRST, 0);
        let mut read = ReadBuf::new(&mut heads);
        let polled = Pin::new(stream).poll_read(cx, &mut read);
        let read = read.filled();
        if self.part.is_empty() {
            self.input = Bytes::copy_from_slice(read);
        } else {
            let new = self.part.len();
            self.part.extend_from_slice(read);
            // read only when it can be over: each time anew it would be the more work, the smaller the pieces are
            if has_end(&self.part[new.saturating_sub(3)..]) {
                self.input = Bytes::from(std::mem::take(&mut self.part));
            }
        }
        let bytes = read.len();
        HEADS.set(heads);
        polled.map_ok(|()| bytes)
    }

    /// The next piece of the body.
    pub(super) fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        loop {
            let frame = match self.decoder.decode(&mut self.input).map_err(Http1Error::Body)? {
                Decoded::Data(data) => Some(Frame::data(data)),
                Decoded::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Decoded::Over => None,
                Decoded::More => {
                    if ready!(self.poll_read_body(stream, cx)).map_err(Http1Error::Io)? == 0 {
                        self.keeps_alive = false;
                        self.decoder.end().map_err(Http1Error::Body)?;
                    }
                    continue;
                }
            };
            if self.decoder.is_over() {
                self.buffer = BytesMut::new();
            }
            return Poll::Ready(frame.map(Ok));
        }
    }

    fn poll_read_body<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = self.left().map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        let at_once = left.map_or(self.at_once, |left| left.min(MOST));
        if self.buffer.capacity() < at_once.min(ENOUGH) {
            self.buffer.reserve(at_once);
        }
        let room = self.buffer.capacity();
        let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut self.buffer))?;
        if read == room {
            self.at_once = (self.at_once * 2).min(MOST);
        }
        self.input = self.buffer.split().freeze();
        Poll::Ready(Ok(read))
    }
}
