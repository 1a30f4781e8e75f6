//! What is read of a connection.

use std::cell::Cell;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::rules::http1::fields::has_end;

/// Bytes that are read at once of a head and what comes with it.
const AT_FIRST: usize = 16 * 1024;

/// Bytes that are read at once of a body of unknown length at first.
const LEAST: usize = 8 * 1024;

/// Bytes of room that are enough for another read, in what was made for one before: each piece that is kept keeps all of that.
const ENOUGH: RangeInclusive<usize> = LEAST..=64 * 1024;

/// Bytes of a head, and what comes with it, that stands with others in one block, and of such a block. To allocate memory for each costs
/// twice as much as to read what is in it (callgrind). Whoever keeps one keeps the block, so that what is larger stands by itself.
const LITTLE: usize = 2 * 1024;
const BLOCK: usize = 16 * 1024;

/// Where heads are read, which is over before anybody else has a turn; and where they stand then.
#[derive(Default)]
struct Heads {
    read: Vec<u8>,
    block: BytesMut,
}

impl Heads {
    /// These bytes of what was read, for as long as somebody needs them.
    fn keep(&mut self, bytes: usize) -> Bytes {
        let read = &self.read[..bytes];
        if bytes > LITTLE {
            return Bytes::copy_from_slice(read);
        }
        if self.block.capacity() < bytes {
            self.block = BytesMut::with_capacity(BLOCK);
        }
        self.block.extend_from_slice(read);
        self.block.split().freeze()
    }
}

thread_local! {
    static HEADS: Cell<Heads> = Cell::new(Heads::default());
}

/// What is read of a connection. Between two messages it holds no buffer.
#[derive(Debug, Default)]
pub struct Reading {
    /// What has come, and is still to be looked at.
    pub input: Bytes,
    /// What has come of a head that is not over.
    part: Vec<u8>,
    /// Where more of a body is read.
    buffer: BytesMut,
    /// Bytes that are read at once of a body of unknown length.
    at_once: usize,
}

impl Reading {
    /// Whether nothing has come that was not taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.input.is_empty() && self.part.is_empty()
    }

    /// Bytes of a head that is not over.
    #[must_use]
    pub const fn part(&self) -> usize {
        self.part.len()
    }

    /// What has come is not all of a head.
    pub fn is_part(&mut self) {
        self.part = Vec::from(std::mem::take(&mut self.input));
    }

    /// Reads more of a head, or of whatever else comes. What has come is to be looked at when it may be all of one.
    pub fn poll_head<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut heads = HEADS.take();
        heads.read.resize(AT_FIRST, 0);
        let mut read = ReadBuf::new(&mut heads.read);
        let polled = Pin::new(stream).poll_read(cx, &mut read);
        let bytes = read.filled().len();
        if bytes > 0 && self.part.is_empty() {
            self.input = heads.keep(bytes);
        } else if bytes > 0 {
            let new = self.part.len();
            self.part.extend_from_slice(&heads.read[..bytes]);
            // looked at only when it can be over: each time anew it would be the more work, the smaller the pieces are
            if has_end(&self.part[new.saturating_sub(3)..]) {
                self.input = Bytes::from(std::mem::take(&mut self.part));
            }
        }
        HEADS.set(heads);
        polled.map_ok(|()| bytes)
    }

    /// Reads more of a body, of which so many bytes are still to come if that is known, and no more than so many at once.
    pub fn poll_body<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        left: Option<u64>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let left = left.map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        let at_once = left.unwrap_or_else(|| self.at_once.max(LEAST)).min(most);
        let enough = (at_once / 4).clamp(*ENOUGH.start(), *ENOUGH.end()).min(at_once);
        if self.buffer.capacity() < enough {
            self.buffer.reserve(at_once);
        }
        let room = self.buffer.capacity();
        let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut self.buffer))?;
        if read == room {
            self.at_once = (self.at_once.max(LEAST) * 2).min(most);
        }
        self.input = self.buffer.split().freeze();
        Poll::Ready(Ok(read))
    }

    /// The body is over.
    pub fn is_over(&mut self) {
        (self.buffer, self.at_once) = (BytesMut::new(), LEAST);
        // an empty one may still hold all of the buffer that it was a part of
        if self.input.is_empty() {
            self.input = Bytes::new();
        }
    }

    /// What has come and was not taken.
    #[must_use]
    pub fn into_rest(self) -> Bytes {
        if self.part.is_empty() { self.input } else { Bytes::from(self.part) }
    }
}
