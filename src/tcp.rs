//! A TCP connection that sends little things with the cheaper call: `send` costs the kernel a fifth of a microsecond less than `writev`,
//! and putting a small head and a small body together costs next to nothing. It can be told to give up on who is gone without a word, and to
//! let the kernel hold little, so that it is seen what the other side takes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes in all, up to which pieces are put together.
const LITTLE: usize = 8192;

thread_local! {
    /// Where pieces are put together, which is over before anybody else has a turn.
    static TOGETHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The least that a connection is given: so long a network may be gone for, or lose packets one after the other.
const GIVEN_LEAST: Duration = Duration::from_secs(10);

/// Bytes that the kernel holds and has not sent: next to nothing for who takes them fast, a few seconds for a phone at the edge of its
/// network.
const UNSENT: u32 = 16 * 1024;

/// Has the kernel take more only when nearly all of what it has is on its way. By itself it takes megabytes where the network is near (a
/// balancer in front), and more only when a third of them has left: of who takes 20 kB/s nothing would be seen for half a minute.
pub fn send_in_small_steps(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    // one that is not connected any more says so at the next read
    drop(socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT));
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, UNSENT);
}

/// A connection.
#[derive(Debug)]
pub struct Tcp(TcpStream);

impl Tcp {
    /// What such a connection is made of.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Ends the connection, with an error for who reads or writes, once something has been sent for twice as long in vain: the other side
    /// is gone without a word, as when its network is. The kernel by itself would try for a quarter of an hour. Twice, since the last try
    /// before the end may be made when half of it is over. `None`: as the kernel does.
    ///
    /// Only for what is taken as it comes, as events are. Of who makes room only now and then, in small steps, the kernel thinks that
    /// nothing is taken.
    pub fn give_up_after(&self, patience: Option<Duration>) {
        #[cfg(target_os = "linux")]
        // one that is not connected any more says so at the next read
        drop(socket2::SockRef::from(&self.0).set_tcp_user_timeout(patience.map(|patience| (2 * patience).max(GIVEN_LEAST))));
        #[cfg(not(target_os = "linux"))]
        let _ = patience;
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = bufs {
            return stream.poll_write(cx, only);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > LITTLE {
            return stream.poll_write_vectored(cx, bufs);
        }
        let mut together = TOGETHER.take();
        together.clear();
        bufs.iter().for_each(|buf| together.extend_from_slice(buf));
        let polled = stream.poll_write(cx, &together);
        TOGETHER.set(together);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn pieces_arrive_in_order_however_many_and_large_they_are() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
            let (mut near, mut far) = (Tcp::new(near.unwrap()), far.unwrap().0);
            for lengths in
                [&[0][..], &[1], &[5000], &[0, 0], &[1, 0, 2], &[159, 1024], &[LITTLE, 0], &[LITTLE, 1], &[1, LITTLE], &[700, 700, 648]]
            {
                let pieces: Vec<Vec<u8>> = (b'a'..).zip(lengths).map(|(letter, &length)| vec![letter; length]).collect();
                let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                let sent = poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &slices)).await.unwrap();
                assert_eq!(sent, lengths.iter().sum::<usize>(), "{lengths:?} fit into an empty socket");
                let mut arrived = vec![0; sent];
                far.read_exact(&mut arrived).await.unwrap();
                assert!(arrived == pieces.concat(), "{lengths:?}");
            }
        });
    }
}
