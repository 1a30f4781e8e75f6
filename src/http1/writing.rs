//! What is written to a connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

use super::spare;

/// Bytes of a piece that is put behind the lines before it, and of them all then. Measured with a waiting page: to copy it costs less than
/// to tell the kernel of each piece.
const LITTLE: usize = 4 * 1024;
const TOGETHER: usize = 16 * 1024;

/// Bytes that are held before some of them must have left, and pieces.
const ENOUGH: usize = 16 * 1024;
const PIECES: usize = 15;

/// What is to be written, in order: lines, and then pieces.
#[derive(Debug, Default)]
pub struct Writing {
    lines: Vec<u8>,
    /// How much of them is written.
    written: usize,
    pieces: VecDeque<Bytes>,
    /// Bytes of the pieces.
    queued: usize,
    /// The stream may hold some of it back.
    is_to_flush: bool,
    /// The lines are needed when they are written, too.
    keeps_lines: bool,
}

impl Writing {
    /// Begins with the lines of a head; what was left of anything before is forgotten. `is_kept`: they stay until the next begins.
    pub fn begin(&mut self, is_kept: bool) -> &mut Vec<u8> {
        self.breaks();
        self.make_room();
        (self.written, self.keeps_lines) = (0, is_kept);
        &mut self.lines
    }

    /// The lines that were begun with, if they are kept.
    #[must_use]
    pub fn kept(&self) -> Option<&[u8]> {
        self.keeps_lines.then_some(&self.lines)
    }

    /// Whether there is room for more, before some of it has left.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queued + self.lines.len() - self.written < ENOUGH && self.pieces.len() < PIECES
    }

    /// Whether all is written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.written == self.lines.len() && self.pieces.is_empty()
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_written() && !self.is_to_flush
    }

    /// Adds lines.
    pub fn add_lines<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.pieces.is_empty() && !self.keeps_lines {
            self.make_room();
            return write(&mut self.lines);
        }
        let mut lines = Vec::new();
        let written = write(&mut lines);
        self.push(Bytes::from(lines));
        written
    }

    /// Adds a piece.
    pub fn add(&mut self, piece: Bytes) {
        if piece.len() <= LITTLE && self.pieces.is_empty() && !self.keeps_lines {
            self.make_room();
            if self.lines.len() + piece.len() <= TOGETHER {
                return self.lines.extend_from_slice(&piece);
            }
        }
        self.push(piece);
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queued += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Lines that are written make room for others.
    fn make_room(&mut self) {
        if self.lines.capacity() == 0 {
            self.lines = spare::lines();
        }
        if self.written == self.lines.len() {
            self.lines.clear();
            self.written = 0;
        }
    }

    /// Writes all that there is, and has it leave.
    pub fn poll<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let stream = Pin::new(&mut *stream);
            let lines = &self.lines[self.written..];
            let polled = if self.pieces.is_empty() {
                stream.poll_write(cx, lines)
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES + 2];
                let mut count = 0;
                for piece in [lines].into_iter().chain(self.pieces.iter().map(|piece| &piece[..])).filter(|piece| !piece.is_empty()) {
                    let Some(slice) = slices.get_mut(count) else { break };
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                stream.poll_write_vectored(cx, &slices[..count])
            };
            match ready!(polled)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.advance(bytes),
            }
        }
        if self.is_to_flush {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.is_to_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut bytes: usize) {
        self.is_to_flush = true;
        let of_lines = bytes.min(self.lines.len() - self.written);
        self.written += of_lines;
        bytes -= of_lines;
        self.queued -= bytes;
        while let Some(piece) = self.pieces.front_mut().filter(|_| bytes > 0) {
            let of_piece = bytes.min(piece.len());
            piece.advance(of_piece);
            bytes -= of_piece;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// All is written, and nothing follows for now: others can have the room.
    pub fn rests(&mut self) {
        debug_assert!(self.is_written(), "what is not written is needed");
        if self.pieces.capacity() > 0 {
            self.pieces = VecDeque::new();
        }
        (self.written, self.keeps_lines) = (0, false);
        spare::give_lines(std::mem::take(&mut self.lines));
    }

    /// Nothing of it is written any more; lines that are kept stay.
    pub fn breaks(&mut self) {
        self.pieces.clear();
        (self.written, self.queued, self.is_to_flush) = (self.lines.len(), 0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::http1::trials::Narrow;

    /// Goes on once there is room for so many bytes more.
    fn go_on(writing: &mut Writing, stream: &mut Narrow, at_a_time: usize) -> bool {
        stream.room = at_a_time;
        writing.poll(stream, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn run(writing: &mut Writing, stream: &mut Narrow, at_a_time: usize) {
        (0..1_000_000).find(|_| go_on(writing, stream, at_a_time)).unwrap();
    }

    #[test]
    fn small_pieces_leave_with_the_head_in_one_write() {
        let (mut writing, mut stream) = (Writing::default(), Narrow::default());
        writing.begin(false).extend_from_slice(b"head ");
        for piece in ["one ", "", "two "] {
            writing.add(Bytes::from_static(piece.as_bytes()));
        }
        writing.add_lines(|lines| lines.extend_from_slice(b"end"));
        assert!(writing.pieces.is_empty() && !writing.is_written());
        run(&mut writing, &mut stream, usize::MAX);
        assert_eq!((stream.taken.as_slice(), stream.writes, stream.flushes), (&b"head one two end"[..], 1, 1));
        assert!(writing.is_done());
        run(&mut writing, &mut stream, usize::MAX);
        assert_eq!((stream.writes, stream.flushes), (1, 1), "there was nothing to do");
    }

    #[test]
    fn bytes_keep_their_order_however_few_are_taken() {
        let pieces: Vec<Bytes> = (0..60_u32)
            .map(|number| {
                (0..(number * 7919) % 9000).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(number) >> 11).to_le_bytes()[0]).collect()
            })
            .collect();
        for at_a_time in [1, 7, 1000, 4096, 70_000, usize::MAX] {
            for is_kept in [false, true] {
                let (mut writing, mut stream) = (Writing::default(), Narrow::default());
                writing.begin(is_kept).extend_from_slice(b"head");
                for piece in &pieces {
                    writing.add_lines(|lines| lines.extend_from_slice(b"|"));
                    writing.add(piece.clone());
                    while !writing.has_room() {
                        go_on(&mut writing, &mut stream, at_a_time);
                    }
                }
                run(&mut writing, &mut stream, at_a_time);
                let expected: Vec<u8> =
                    b"head".iter().copied().chain(pieces.iter().flat_map(|piece| [b"|", &piece[..]].concat())).collect();
                assert!(stream.taken == expected, "{at_a_time} at a time");
                assert_eq!((writing.queued, writing.kept()), (0, is_kept.then_some(&b"head"[..])));
                writing.rests();
                assert_eq!((writing.lines.capacity(), writing.pieces.capacity()), (0, 0));
            }
        }
    }

    #[test]
    fn large_pieces_are_not_copied_and_are_bounded() {
        let mut writing = Writing::default();
        writing.begin(false).extend_from_slice(b"head");
        let large = Bytes::from(vec![b'l'; LITTLE + 1]);
        let mut count = 0;
        while writing.has_room() {
            writing.add(large.clone());
            count += 1;
        }
        assert_eq!((count, writing.pieces.len()), (4, 4), "up to {ENOUGH} bytes");
        assert!(writing.pieces.iter().all(|piece| piece.as_ptr() == large.as_ptr()));
        let mut writing = Writing::default();
        writing.begin(false);
        writing.add(large);
        let small = (0..).find(|_| {
            writing.add(Bytes::from_static(b"s"));
            !writing.has_room()
        });
        assert_eq!((small, writing.pieces.len()), (Some(PIECES - 2), PIECES), "or so many, however small");
    }

    #[test]
    fn what_has_broken_writes_nothing_more_and_keeps_its_lines() {
        let (mut writing, mut stream) = (Writing::default(), Narrow::default());
        writing.begin(true).extend_from_slice(b"head");
        writing.add(Bytes::from_static(b"piece"));
        writing.breaks();
        run(&mut writing, &mut stream, usize::MAX);
        assert_eq!((writing.kept(), stream.writes, writing.is_done()), (Some(&b"head"[..]), 0, true));
    }
}
