//! What is read of a connection.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::rules::http1::fields::has_end;

/// Bytes that are read at once of a head and what comes with it.
const AT_FIRST: usize = 16 * 1024;

/// Bytes that are read at once of a body of unknown length at first.
const LEAST: usize = 8 * 1024;

/// Bytes of room that are enough for another read, at most, in what was made for one before. To make room anew for each would be a waste:
/// a piece that is kept keeps all of it.
const ENOUGH: usize = 64 * 1024;

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
        let enough = (at_once / 4).clamp(1, ENOUGH);
        if self.buffer.capacity() < enough {
            self.buffer.reserve(at_once);
        }
        // one that nobody keeps any more is had whole again, which may be more
        let room = self.buffer.capacity().min(most);
        let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut (&mut self.buffer).limit(room)))?;
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn head(reading: &mut Reading, near: &mut DuplexStream, far: &mut DuplexStream, bytes: &[u8]) {
        far.write_all(bytes).await.unwrap();
        assert_eq!(poll_fn(|cx| reading.poll_head(near, cx)).await.unwrap(), bytes.len());
    }

    /// Whether one begins where the other ends.
    fn are_neighbours(one: &Bytes, other: &Bytes) -> bool {
        one.as_ptr().wrapping_add(one.len()) == other.as_ptr()
    }

    #[test]
    fn a_part_of_a_head_is_kept_until_there_can_be_an_end() {
        run(async {
            let ((mut near, mut far), mut reading) = (duplex(100), Reading::default());
            head(&mut reading, &mut near, &mut far, b"GET / HT").await;
            assert_eq!(&reading.input[..], b"GET / HT", "the first is looked at");
            reading.is_part();
            for (piece, part) in [(&b"TP/1.1\r\n"[..], 16), (b"a: b\r\n\r", 23)] {
                head(&mut reading, &mut near, &mut far, piece).await;
                assert_eq!((reading.input.len(), reading.part()), (0, part));
            }
            head(&mut reading, &mut near, &mut far, b"\nGET").await;
            assert_eq!((&reading.input[..], reading.part()), (&b"GET / HTTP/1.1\r\na: b\r\n\r\nGET"[..], 0));
            assert!(!reading.is_empty());
            assert_eq!(reading.into_rest(), "GET / HTTP/1.1\r\na: b\r\n\r\nGET");
        });
    }

    #[test]
    fn small_heads_stand_together_and_large_ones_by_themselves() {
        run(async {
            let (mut near, mut far) = duplex(AT_FIRST);
            let mut kept = Vec::new();
            for bytes in [1, 700, LITTLE, LITTLE + 1, 10] {
                let mut reading = Reading::default();
                head(&mut reading, &mut near, &mut far, &vec![b'a'; bytes]).await;
                kept.push(reading.input);
            }
            assert!(are_neighbours(&kept[0], &kept[1]) && are_neighbours(&kept[1], &kept[2]));
            assert!(!are_neighbours(&kept[2], &kept[3]) && are_neighbours(&kept[2], &kept[4]));
            assert!(kept.iter().all(|bytes| bytes.iter().all(|&byte| byte == b'a')));
        });
    }

    /// Whoever keeps the pieces of a body keeps what they were read into: that is to be little more than they are.
    #[test]
    fn a_body_that_comes_in_small_pieces_takes_few_buffers() {
        run(async {
            for (left, most) in [(Some(1 << 20), 32 * 1024), (Some(1 << 20), 384 * 1024), (None, 32 * 1024)] {
                let ((mut near, mut far), mut reading) = (duplex(AT_FIRST), Reading::default());
                let mut kept: Vec<Bytes> = Vec::new();
                for _ in 0..200 {
                    far.write_all(&[b'a'; 2500]).await.unwrap();
                    assert_eq!(poll_fn(|cx| reading.poll_body(&mut near, cx, left, most)).await.unwrap(), 2500);
                    kept.push(std::mem::take(&mut reading.input));
                }
                let buffers = 1 + kept.windows(2).filter(|two| !are_neighbours(&two[0], &two[1])).count();
                let at_once = if left.is_some() { most } else { LEAST };
                assert!(buffers * at_once <= 2 * 200 * 2500, "{buffers} buffers of {at_once} bytes");
            }
        });
    }

    #[test]
    fn more_is_read_at_once_of_what_comes_fast_and_no_more_than_there_is_to_come() {
        run(async {
            let ((mut near, mut far), mut reading) = (duplex(1 << 20), Reading::default());
            far.write_all(&[b'a'; 1 << 19]).await.unwrap();
            let mut reads = Vec::new();
            for left in [None, None, None, None, Some(5), Some(1 << 20)] {
                reads.push(poll_fn(|cx| reading.poll_body(&mut near, cx, left, 32 * 1024)).await.unwrap());
                reading.input = Bytes::new();
            }
            assert_eq!(reads[..4], [LEAST, 2 * LEAST, 4 * LEAST, 4 * LEAST]);
            assert!(reads[5] <= 32 * 1024);
            reading.is_over();
            assert_eq!(poll_fn(|cx| reading.poll_body(&mut near, cx, None, 32 * 1024)).await.unwrap(), LEAST, "the next begins anew");
        });
    }
}
