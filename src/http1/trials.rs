//! What the tests of both sides have in common: messages that are nearly right, and a stream that takes little at a time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How lines end, mostly as they must.
pub(crate) const ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"];

/// Bodies, of which some are in chunks and some are none.
pub(crate) const BODIES: &[&str] = &[
    "",
    "body",
    "body and more",
    "bo",
    "4\r\nbody\r\n0\r\n\r\n",
    "4;a=b\r\nbody\r\n0\r\nx: y\r\n\r\n",
    "2\r\nbo\r\n02\r\ndy\r\n0\r\n\r\n",
    "2\r\nbo\r\n02\r\ndy\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "4 \r\nbody\r\n0\r\n\r\n",
    "4\nbody\n0\n\n",
    "5\r\nbody\r\n0\r\n\r\n",
    "4\r\nbody0\r\n\r\n",
    "fffffffffffffffff\r\n",
    "0x4\r\nbody\r\n0\r\n\r\n",
    "4;\nbody\r\n0\r\n\r\n",
    "0\r\nx : y\r\n\r\n",
    "0\r\nx: y\nz: q\r\n\r\n",
    "0\r\nx: y\rz: q\r\n\r\n",
    "0\r\nx: y\r\n",
    "0\r\n\n",
    "0\r\nx: y\n\n",
];

/// The same, with a byte changed, or cut off.
pub(crate) fn nearly(text: impl Strategy<Value = Vec<u8>> + Clone) -> impl Strategy<Value = Vec<u8>> {
    let changed = (text.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut text, place, byte)| {
        let place = place.index(text.len());
        text[place] = byte;
        text
    });
    let cut = (text.clone(), any::<prop::sample::Index>()).prop_map(|(mut text, place)| {
        text.truncate(place.index(text.len()));
        text
    });
    prop_oneof![4 => text, 2 => changed, 1 => cut]
}

/// Whether a coding is named, and a line ends otherwise than it must: the trailers of a body in chunks are read more strictly than hyper
/// reads them, by intent.
pub(crate) fn may_have_odd_trailers(message: &[u8]) -> bool {
    let names_coding = memchr::memmem::find(&message.to_ascii_lowercase(), b"transfer-encoding").is_some();
    names_coding && message.windows(2).any(|two| (two[0] == b'\r') != (two[1] == b'\n'))
}

/// A stream that takes as many bytes as there is room for.
#[derive(Default)]
pub(crate) struct Narrow {
    pub(crate) room: usize,
    pub(crate) taken: Vec<u8>,
    pub(crate) writes: usize,
    pub(crate) flushes: usize,
    pub(crate) is_gone: bool,
}

impl AsyncRead for Narrow {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Narrow {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.room == 0 {
            return Poll::Pending;
        }
        self.writes += 1;
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(self.room).collect();
        self.room -= bytes.len();
        self.taken.extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
