//! What HTTP/2 says in one go, sent in one go. The h2 crate flushes after each frame of some length, which would be a TLS record and a
//! system call for each.
//!
//! Always holds: whoever polls the connection drains what was said ([`Corked::poll_drain`]) before it waits.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held at most.
const HELD_BYTES: usize = 32 * 1024;

thread_local! {
    /// Room for what is held, which connections have in turn: one that waits has none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection, and what is to be sent on it.
#[derive(Debug)]
pub(super) struct Corked<W> {
    wire: W,
    held: Vec<u8>,
    /// How many of them have been sent.
    sent: usize,
    /// Something was sent since the last flush.
    is_unflushed: bool,
    /// The last write was told to wait.
    is_full: bool,
    /// Why nothing can be sent any more, until it is told.
    broken: Option<io::Error>,
}

impl<W: AsyncRead + AsyncWrite + Unpin> Corked<W> {
    pub(super) const fn new(wire: W) -> Self {
        Self { wire, held: Vec::new(), sent: 0, is_unflushed: false, is_full: false, broken: None }
    }

    /// What carries it.
    pub(super) const fn wire(&self) -> &W {
        &self.wire
    }

    /// Whether all has been sent that there was to say.
    pub(super) const fn is_empty(&self) -> bool {
        self.held.is_empty() && !self.is_unflushed && !self.is_full
    }

    /// Sends what is held. What goes wrong is told to who next writes or reads.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let drained = ready!(self.poll_send_all(cx));
        if let Err(error) = drained {
            self.release();
            self.is_unflushed = false;
            self.broken = Some(error);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(())
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }

    pub(super) fn poll_write_vectored(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        loop {
            self.is_full = self.held.len() + bytes > HELD_BYTES;
            if !self.is_full {
                break;
            }
            // without being held first: what is large is not copied
            let sent = ready!(self.poll_send(cx, pieces))?;
            if sent > 0 {
                self.is_full = false;
                return Poll::Ready(Ok(sent));
            }
        }
        if self.held.capacity() == 0 {
            self.held = SPARE.take();
        }
        pieces.iter().for_each(|piece| self.held.extend_from_slice(piece));
        Poll::Ready(Ok(bytes))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_all(cx))?;
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }

    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            ready!(self.poll_send(cx, &[]))?;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.wire).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what can be sent at once of what is held, and then of these pieces; how many bytes of the pieces.
    fn poll_send(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // a frame's head and its payload; what goes beyond is sent next time
        let piece = |number: usize| IoSlice::new(pieces.get(number).map_or(&[], |piece| piece));
        let held = &self.held[self.sent..];
        let bytes = held.len();
        let all = [IoSlice::new(held), piece(0), piece(1)];
        let sent = ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &all))?;
        if sent == 0 && all.iter().any(|piece| !piece.is_empty()) {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.is_unflushed = true;
        if sent < bytes {
            self.sent += sent;
            return Poll::Ready(Ok(0));
        }
        self.release();
        Poll::Ready(Ok(sent - bytes))
    }

    /// Nothing is held any more.
    fn release(&mut self) {
        self.held.clear();
        self.sent = 0;
        // one that held nothing has no room to give back
        if self.held.capacity() > 0 {
            SPARE.set(mem::take(&mut self.held));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::http1::trials::Narrow;

    fn corked(room: usize) -> Corked<Narrow> {
        Corked::new(Narrow { room, ..Narrow::default() })
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(corked: &mut Corked<Narrow>, pieces: &[&[u8]]) -> Poll<io::Result<usize>> {
        let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        corked.poll_write_vectored(&mut cx(), &pieces)
    }

    #[test]
    fn small_frames_leave_together_and_only_when_drained() {
        let mut corked = corked(usize::MAX);
        for piece in [&b"head"[..], b"and", b"body"] {
            assert!(matches!(write(&mut corked, &[piece, b"."]), Poll::Ready(Ok(bytes)) if bytes == piece.len() + 1));
        }
        assert!(corked.wire.taken.is_empty() && !corked.is_empty());
        assert!(corked.poll_drain(&mut cx()).is_ready());
        assert_eq!((corked.wire.taken.as_slice(), corked.wire.writes, corked.wire.flushes), (&b"head.and.body."[..], 1, 1));
        assert!(corked.is_empty());
        assert!(corked.poll_drain(&mut cx()).is_ready());
        assert_eq!((corked.wire.writes, corked.wire.flushes), (1, 1), "there was nothing to do");
    }

    #[test]
    fn a_large_one_goes_with_what_is_held_before_it() {
        let mut corked = corked(usize::MAX);
        let large = vec![b'l'; HELD_BYTES + 1];
        assert!(matches!(write(&mut corked, &[b"small"]), Poll::Ready(Ok(5))));
        assert!(matches!(write(&mut corked, &[b"large", &large]), Poll::Ready(Ok(bytes)) if bytes == 5 + large.len()));
        assert_eq!((corked.wire.taken.len(), corked.wire.writes), (10 + large.len(), 1));
        assert!(corked.wire.taken.starts_with(b"smalllargell"));
    }

    #[test]
    fn bytes_keep_their_order_however_few_are_taken() {
        let text: Vec<u8> = (0..5 * HELD_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect();
        for (room, frame) in [(1, 500), (7, 3000), (1000, 11), (4096, 20_000), (16_384, 40_000), (100_000, 9)] {
            let mut corked = corked(0);
            let mut said = 0;
            while corked.wire.taken.len() < text.len() {
                corked.wire.room = room;
                let frame = &text[said..text.len().min(said + frame)];
                let (head, rest) = frame.split_at(frame.len().min(9));
                if !frame.is_empty()
                    && let Poll::Ready(written) = write(&mut corked, &[head, rest])
                {
                    said += written.unwrap();
                }
                assert!(corked.held.len() <= HELD_BYTES);
                assert_eq!(corked.poll_drain(&mut cx()).is_ready(), corked.held.is_empty());
            }
            assert!(corked.wire.taken == text, "{room} bytes at a time, of frames of {frame}");
        }
    }

    #[test]
    fn who_is_told_to_wait_has_more_to_say() {
        let mut corked = corked(0);
        let full = vec![b'f'; HELD_BYTES];
        assert!(write(&mut corked, &[&full]).is_ready());
        assert!(write(&mut corked, &[b"more"]).is_pending());
        assert!(corked.poll_drain(&mut cx()).is_pending());
        corked.wire.room = usize::MAX;
        assert!(corked.poll_drain(&mut cx()).is_ready());
        assert!(!corked.is_empty(), "the rest is still to be said");
        assert!(write(&mut corked, &[b"more"]).is_ready());
        assert!(corked.poll_drain(&mut cx()).is_ready() && corked.is_empty());
    }

    #[test]
    fn what_can_not_be_drained_is_told_to_the_next() {
        for reads in [false, true] {
            let mut corked = corked(0);
            corked.wire.is_gone = true;
            assert!(write(&mut corked, &[b"lost"]).is_ready());
            assert!(corked.poll_drain(&mut cx()).is_ready());
            let mut nothing = [0; 8];
            let told = if reads {
                corked.poll_read(&mut cx(), &mut ReadBuf::new(&mut nothing)).map_ok(|()| 0)
            } else {
                write(&mut corked, &[b"next"])
            };
            assert!(matches!(told, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
        }
    }

    #[test]
    fn the_end_comes_after_what_is_held() {
        let mut corked = corked(2);
        assert!(write(&mut corked, &[b"last"]).is_ready());
        assert!(corked.poll_shutdown(&mut cx()).is_pending());
        corked.wire.room = 2;
        assert!(matches!(corked.poll_shutdown(&mut cx()), Poll::Ready(Ok(()))));
        assert_eq!(corked.wire.taken, b"last");
    }
}
