//! An answer on its way: its head, and what comes after it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tokio::io::AsyncRead;

use super::Http1Error;
use crate::http1::{Reading, spare};
use crate::rules::http1::body::{Decoded, Decoder, Framing};
use crate::rules::http1::from_site::{self, Head};

/// Bytes that are read at most at once of a body. Measured with 1 MiB: with 64 KiB a page costs a third more, since the allocator then
/// gives memory back after each.
const MOST: usize = 384 * 1024;

/// Bytes that may be read before the head of an answer is over, interim answers included: far more than a head has, and what is read in
/// some hundredths of a second.
pub(super) const BEFORE_HEAD: usize = 512 * 1024;

/// What a connection reads.
pub(super) struct Incoming {
    /// Bytes that may come before the head of the answer is over.
    room: usize,
    /// What was asked for is a head alone.
    answers_head: bool,
    /// A map that can be used again.
    spare: HeaderMap,
    reading: Reading,
    decoder: Decoder,
    keeps_alive: bool,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            room: 0,
            answers_head: false,
            spare: HeaderMap::new(),
            reading: Reading::default(),
            decoder: Decoder::new(Framing::Length(0)),
            keeps_alive: true,
        }
    }
}

impl Incoming {
    /// An answer follows.
    pub(super) fn begin(&mut self, answers_head: bool, spare: HeaderMap) {
        (self.room, self.answers_head, self.spare) = (BEFORE_HEAD, answers_head, spare);
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Whether it is worth looking for more of the body at once. That one which ends with the connection is over is told later: else it
    /// would be a matter of luck whether the visitor is told its length.
    pub(super) fn is_at_hand(&self) -> bool {
        !self.reading.input.is_empty() || !self.decoder.is_until_close()
    }

    /// Whether nothing has come but what was asked for, and another answer may follow.
    pub(super) const fn is_reusable(&self) -> bool {
        self.keeps_alive && self.reading.is_empty()
    }

    /// What has come after an answer without a body: of the next protocol.
    pub(super) fn into_rest(self) -> Bytes {
        self.reading.into_rest()
    }

    /// The head of the answer, once it is there.
    pub(super) fn poll_head<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<Head, Http1Error>> {
        loop {
            while !self.reading.input.is_empty() {
                let spare = std::mem::take(&mut self.spare);
                let read = spare::with_names(|names| from_site::read(&self.reading.input, spare, names));
                let Some((head, taken)) = read.map_err(Http1Error::Head)? else {
                    self.reading.is_part();
                    break;
                };
                drop(self.reading.input.split_to(taken));
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    self.spare = head.headers;
                    continue;
                }
                self.decoder = Decoder::new(head.framing(self.answers_head).map_err(Http1Error::Head)?);
                self.keeps_alive = head.keeps_alive();
                return Poll::Ready(Ok(head));
            }
            let read = ready!(self.reading.poll_head(stream, cx)).map_err(Http1Error::Io)?;
            if read == 0 {
                return Poll::Ready(Err(Http1Error::Closed));
            }
            if self.room == 0 {
                return Poll::Ready(Err(Http1Error::Endless));
            }
            self.room = self.room.saturating_sub(read);
        }
    }

    /// The next piece of the body.
    pub(super) fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        loop {
            let frame = match self.decoder.decode(&mut self.reading.input).map_err(Http1Error::Body)? {
                Decoded::Data(data) => Some(Frame::data(data)),
                Decoded::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Decoded::Over => None,
                Decoded::More => {
                    if ready!(self.reading.poll_body(stream, cx, self.decoder.left(), MOST)).map_err(Http1Error::Io)? == 0 {
                        self.keeps_alive = false;
                        self.decoder.end().map_err(Http1Error::Body)?;
                    }
                    continue;
                }
            };
            if self.decoder.is_over() {
                self.reading.is_over();
            }
            return Poll::Ready(frame.map(Ok));
        }
    }
}
