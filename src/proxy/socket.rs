//! What comes and goes on a connection of HTTP/1, told to its state.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::State;
use super::wire::Wire;

/// A client's socket: tells the state of what comes and goes, and ends a head or a body that takes too long.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) wire: Wire,
    pub(super) state: Arc<State>,
    /// It ends by itself if what is sent is not taken.
    is_watched: bool,
}

impl Socket {
    pub(super) const fn new(wire: Wire, state: Arc<State>) -> Self {
        Self { wire, state, is_watched: false }
    }

    /// Writes somehow, and tells what has left by it.
    fn write<R>(&mut self, write: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let streams = self.state.is_streaming();
        if streams != self.is_watched {
            self.is_watched = streams;
            let patience = self.state.limits(|limits| limits.body_timeout);
            self.wire.tcp().give_up_after(streams.then_some(patience));
        }
        let before = self.wire.sent();
        let polled = write(Pin::new(&mut self.wire));
        self.state.was_written(self.wire.sent() - before, polled.is_pending());
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.state.deadline.has_fired() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            self.state.was_read(bytes as u64);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write(|wire| wire.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire {
            Wire::Plain(_) => Pin::new(&mut self.wire).poll_flush(cx),
            // what TLS takes has not left yet: that it is on its way is seen here
            Wire::Tls(_) => self.write(|wire| wire.poll_flush(cx)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|wire| wire.poll_shutdown(cx))
    }
}
