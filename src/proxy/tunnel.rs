//! Bytes both ways between a client and the site, for as long as either has something to say: what is left of a connection once the
//! site has switched protocols.
//!
//! Always holds: what is read is written in the same order, or the tunnel ends; no more is held for either side than one piece, or than had
//! come before there was a tunnel. An idle one holds no buffer: pieces are read onto the stack, and kept only if the other side takes less
//! at once.
//! Absent: any idea of what the bytes mean.

use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::deadlines::Deadline;

/// How long a tunnel may take for what it does. Asked for each time, so that a reload holds for those that are open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Nothing goes either way.
    pub(super) idle: Duration,
    /// One side takes nothing of what there is for it.
    pub(super) stalled: Duration,
    /// The gate closes.
    pub(super) closing: Duration,
}

/// A tunnel. It ends when both sides have, or a deadline falls due: then both connections are dropped with it.
#[derive(Debug)]
pub(super) struct Tunnel<C, S> {
    client: C,
    site: S,
    to_site: Flow,
    to_client: Flow,
    /// Nothing has gone either way for too long, or what was to end has not.
    deadline: Arc<Deadline>,
    stage: Stage,
}

/// How far its end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// One side says nothing more: the other has [`LINGER`] left.
    HalfClosed,
    /// The gate closes.
    Closing,
}

impl<C, S> Tunnel<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A tunnel between two connections. What comes with them was read from that side, and not yet handed on. The three deadlines are
    /// for the whole, for the site and for the client.
    pub(super) fn new((client, of_client): (C, Bytes), (site, of_site): (S, Bytes), deadlines: [Arc<Deadline>; 3]) -> Self {
        let [deadline, site_stalled, client_stalled] = deadlines;
        Self {
            client,
            site,
            to_site: Flow::new(of_client, site_stalled),
            to_client: Flow::new(of_site, client_stalled),
            deadline,
            stage: Stage::Open,
        }
    }

    /// Carries bytes until the end. `closing` is ready when the gate closes, and never polled again.
    pub(super) async fn run(mut self, closing: impl Future<Output = ()>, patience: impl Fn() -> Patience) {
        let mut closing = std::pin::pin!(closing);
        self.deadline.set(patience().idle);
        std::future::poll_fn(|cx| {
            if self.stage != Stage::Closing && closing.as_mut().poll(cx).is_ready() {
                let closing = patience().closing;
                self.deadline.set(if self.stage == Stage::HalfClosed { closing.min(LINGER) } else { closing });
                self.stage = Stage::Closing;
            }
            self.poll(cx, &patience)
        })
        .await;
        // told to both while both are there, since a connection that is dropped with something unread is reset; one that has gone
        // can't be told
        std::future::poll_fn(|cx| {
            drop(Pin::new(&mut self.client).poll_shutdown(cx));
            drop(Pin::new(&mut self.site).poll_shutdown(cx));
            Poll::Ready(())
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, patience: &impl Fn() -> Patience) -> Poll<()> {
        for deadline in [&self.deadline, &self.to_site.deadline, &self.to_client.deadline] {
            deadline.wakes(cx.waker());
            if deadline.has_fired() {
                return Poll::Ready(());
            }
        }
        let mut moved = false;
        let to_site = self.to_site.poll(cx, &mut self.client, &mut self.site, &mut moved, patience);
        let to_client = self.to_client.poll(cx, &mut self.site, &mut self.client, &mut moved, patience);
        match (to_site, to_client) {
            (Poll::Ready(Over::Broken), _) | (_, Poll::Ready(Over::Broken)) => return Poll::Ready(()),
            (Poll::Ready(Over::Ended), Poll::Ready(Over::Ended)) => return Poll::Ready(()),
            (Poll::Ready(Over::Ended), Poll::Pending) | (Poll::Pending, Poll::Ready(Over::Ended)) => {
                if self.stage == Stage::Open {
                    self.stage = Stage::HalfClosed;
                    self.deadline.set(LINGER);
                }
            }
            (Poll::Pending, Poll::Pending) => {
                if moved && self.stage == Stage::Open {
                    self.deadline.set(patience().idle);
                }
            }
        }
        Poll::Pending
    }
}

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Read, and not written yet.
    held: Bytes,
    /// Who should take it takes nothing.
    deadline: Arc<Deadline>,
    is_stalled: bool,
    /// What was written may still be on its way out of TLS.
    is_unflushed: bool,
    has_ended: bool,
}

/// How a direction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// All was handed on, and its end.
    Ended,
    /// A connection broke.
    Broken,
}

impl Flow {
    const fn new(held: Bytes, deadline: Arc<Deadline>) -> Self {
        Self { held, deadline, is_stalled: false, is_unflushed: false, has_ended: false }
    }

    /// Hands on what there is. `moved` becomes true if that is anything.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        moved: &mut bool,
        patience: &impl Fn() -> Patience,
    ) -> Poll<Over> {
        for _ in 0..PIECES {
            if self.has_ended {
                return Poll::Ready(Over::Ended);
            }
            while !self.held.is_empty() {
                let Ok(written) = ready!(self.write(cx, to, None, patience)) else { return Poll::Ready(Over::Broken) };
                self.held.advance(written);
                *moved = true;
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut piece = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Over::Broken),
                Poll::Pending => return self.flush(cx, to, patience),
            }
            let piece = piece.filled();
            if piece.is_empty() {
                // an end that can't be told is the end of a connection that is gone
                if ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err() {
                    return Poll::Ready(Over::Broken);
                }
                self.has_ended = true;
                return Poll::Ready(Over::Ended);
            }
            *moved = true;
            let written = match self.write(cx, to, Some(piece), patience) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(Gone)) => return Poll::Ready(Over::Broken),
                Poll::Pending => 0,
            };
            self.held = Bytes::copy_from_slice(&piece[written..]);
        }
        // there may be more, once the other direction has had its turn
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing more is there to write: what was written is to arrive.
    fn flush(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin), patience: &impl Fn() -> Patience) -> Poll<Over> {
        if self.is_unflushed {
            let flushed = Pin::new(to).poll_flush(cx);
            if ready!(self.watch(flushed, patience)).is_err() {
                return Poll::Ready(Over::Broken);
            }
            self.is_unflushed = false;
        }
        Poll::Pending
    }

    /// Writes a piece, or what is held.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        piece: Option<&[u8]>,
        patience: &impl Fn() -> Patience,
    ) -> Poll<Result<usize, Gone>> {
        let written = Pin::new(to).poll_write(cx, piece.unwrap_or(&self.held));
        match ready!(self.watch(written, patience)) {
            Ok(0) | Err(_) => Poll::Ready(Err(Gone)),
            Ok(written) => {
                self.is_unflushed = true;
                Poll::Ready(Ok(written))
            }
        }
    }

    /// Watches how long something takes: from the last byte that was taken, not from each attempt.
    fn watch<T>(&mut self, taken: Poll<T>, patience: &impl Fn() -> Patience) -> Poll<T> {
        match (taken.is_pending(), self.is_stalled) {
            (true, false) => {
                self.is_stalled = true;
                self.deadline.set(patience().stalled);
            }
            (false, true) => {
                self.is_stalled = false;
                self.deadline.clear();
            }
            (true, true) | (false, false) => {}
        }
        taken
    }
}

/// A connection takes nothing any more.
struct Gone;

/// How long one side may go on when the other has said its last: a WebSocket that closes needs one round trip.
const LINGER: Duration = Duration::from_secs(5);

/// The most that is read at once: the messages of most pages, and little enough for a stack.
const PIECE: usize = 8 << 10;

/// Pieces of one direction before the other has its turn, and every other connection.
const PIECES: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::oneshot;

    use super::*;
    use crate::deadlines::Deadlines;
    use crate::rules::time::Moment;

    const PATIENCE: Patience =
        Patience { idle: Duration::from_secs(100), stalled: Duration::from_secs(30), closing: Duration::from_secs(15) };

    /// A tunnel that runs, seen from outside: what the client has, what the site has, and the clock.
    struct World {
        client: DuplexStream,
        site: DuplexStream,
        deadlines: Deadlines,
        closes: Option<oneshot::Sender<()>>,
        tunnel: tokio::task::JoinHandle<()>,
    }

    impl World {
        /// Each side takes so many bytes that are not read.
        fn start(room: usize, of_client: &'static [u8], of_site: &'static [u8]) -> Self {
            Self::through(room, of_client, of_site, |near| near)
        }

        /// The same with something between the tunnel and each side.
        fn through<W>(room: usize, of_client: &'static [u8], of_site: &'static [u8], wrap: fn(DuplexStream) -> W) -> Self
        where
            W: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        {
            let ((client, near_client), (site, near_site)) = (duplex(room), duplex(room));
            let deadlines = Deadlines::default();
            let watched = [deadlines.watch(), deadlines.watch(), deadlines.watch()];
            let (closes, closing) = oneshot::channel();
            let client_side = (wrap(near_client), Bytes::from_static(of_client));
            let site_side = (wrap(near_site), Bytes::from_static(of_site));
            let tunnel = Tunnel::new(client_side, site_side, watched);
            let closing = async {
                if closing.await.is_err() {
                    std::future::pending().await
                }
            };
            let tunnel = tokio::spawn(tunnel.run(closing, || PATIENCE));
            Self { client, site, deadlines, closes: Some(closes), tunnel }
        }

        /// The clock says so many seconds, and everyone has done what there is to do.
        async fn at(&self, seconds: u64) {
            self.deadlines.sweep(Moment::from_secs(seconds));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }

        async fn say(&mut self, words: &'static str) {
            self.client.write_all(words.as_bytes()).await.unwrap();
            assert_eq!(said(&mut self.site, words.len()).await, words);
        }

        async fn answer(&mut self, words: &'static str) {
            self.site.write_all(words.as_bytes()).await.unwrap();
            assert_eq!(said(&mut self.client, words.len()).await, words);
        }
    }

    async fn said(by: &mut DuplexStream, length: usize) -> String {
        let mut words = vec![0; length];
        by.read_exact(&mut words).await.unwrap();
        String::from_utf8(words).unwrap()
    }

    fn test(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn what_came_with_a_connection_goes_first_and_all_of_it() {
        test(async {
            // less room than there is to say
            let mut world = World::start(3, b"from the client", b"from the site");
            assert_eq!(said(&mut world.site, 15).await, "from the client");
            assert_eq!(said(&mut world.client, 13).await, "from the site");
            world.say("and").await;
            world.answer("on").await;
        });
    }

    #[test]
    fn nothing_waits_in_between_for_more_to_come() {
        test(async {
            // as TLS may do: what is written is on its way once it is flushed
            let mut world = World::through(64, b"hello", b"", tokio::io::BufStream::new);
            assert_eq!(said(&mut world.site, 5).await, "hello");
            world.answer("who is there").await;
            world.say("me").await;
        });
    }

    #[test]
    fn what_does_not_get_out_ends_it() {
        test(async {
            let mut world = World::through(4, b"", b"", tokio::io::BufStream::new);
            world.at(0).await;
            world.client.write_all(b"more than four bytes").await.unwrap();
            world.at(0).await;
            world.at(29).await;
            assert!(!world.tunnel.is_finished());
            world.at(31).await;
            assert!(world.tunnel.is_finished());
        });
    }

    #[test]
    fn every_byte_comes_in_order_through_little_room() {
        test(async {
            let world = World::start(7, b"", b"");
            let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect();
            let (mut from_client, mut to_client) = tokio::io::split(world.client);
            let (mut from_site, mut to_site) = tokio::io::split(world.site);
            let (up, down) = (bytes.clone(), bytes.clone());
            tokio::spawn(async move { to_client.write_all(&up).await.and(to_client.shutdown().await) });
            tokio::spawn(async move { to_site.write_all(&down).await.and(to_site.shutdown().await) });
            let (mut at_site, mut at_client) = (Vec::new(), Vec::new());
            let read = tokio::join!(from_site.read_to_end(&mut at_site), from_client.read_to_end(&mut at_client));
            assert!(read.0.is_ok() && read.1.is_ok() && at_site == bytes && at_client == bytes);
            world.tunnel.await.unwrap();
        });
    }

    #[test]
    fn a_byte_in_either_direction_keeps_it_open() {
        test(async {
            let mut world = World::start(64, b"", b"");
            world.at(0).await;
            world.at(99).await;
            world.say("still here").await;
            world.at(198).await;
            world.answer("so am I").await;
            world.at(297).await;
            assert!(!world.tunnel.is_finished());
            world.at(299).await;
            assert!(world.tunnel.is_finished(), "100 s after the last byte");
            assert_eq!((world.client.read(&mut [0]).await.unwrap(), world.site.read(&mut [0]).await.unwrap()), (0, 0));
        });
    }

    #[test]
    fn who_takes_nothing_ends_it_and_who_takes_little_does_not() {
        test(async {
            let mut world = World::start(8, b"more than eight bytes", b"");
            world.at(0).await;
            world.at(29).await;
            assert_eq!(said(&mut world.site, 1).await, "m");
            // what the other side says makes no difference
            world.answer("hello").await;
            world.at(58).await;
            assert!(!world.tunnel.is_finished(), "29 s after the last byte that was taken");
            world.at(60).await;
            assert!(world.tunnel.is_finished());
        });
    }

    #[test]
    fn once_one_side_has_said_the_last_the_other_has_a_moment() {
        test(async {
            let mut world = World::start(64, b"", b"");
            world.at(0).await;
            world.client.shutdown().await.unwrap();
            assert_eq!(world.site.read(&mut [0]).await.unwrap(), 0);
            world.at(4).await;
            world.answer("wait").await;
            world.at(5).await;
            world.answer("I have not").await;
            world.at(6).await;
            assert!(world.tunnel.is_finished(), "however much there is still to say");
        });
    }

    #[test]
    fn a_gate_that_closes_leaves_its_share_of_the_time() {
        test(async {
            let mut world = World::start(64, b"", b"");
            world.at(1000).await;
            world.closes.take().unwrap().send(()).unwrap();
            world.at(1000).await;
            world.at(1014).await;
            world.say("nearly done").await;
            world.at(1015).await;
            assert!(!world.tunnel.is_finished());
            world.at(1016).await;
            assert!(world.tunnel.is_finished(), "however much there is still to say");
        });
    }

    #[test]
    fn a_gate_that_closes_does_not_prolong_an_end() {
        test(async {
            let mut world = World::start(64, b"", b"");
            world.at(0).await;
            world.site.shutdown().await.unwrap();
            world.at(1).await;
            world.closes.take().unwrap().send(()).unwrap();
            world.at(1).await;
            world.at(7).await;
            assert!(world.tunnel.is_finished());
        });
    }
}
