//! One connection to a server that speaks HTTP/2: driven by a task of its own, and shared by the requests of one worker, each on a
//! stream.
//!
//! Always holds: the windows of all streams together are not larger than that of the connection, so an answer that nobody takes keeps no
//! other waiting. A request that ends early takes its stream with it, and never the connection. A connection is not used before the
//! server has told how many streams it takes at once, and is given no more than that.
//!
//! The h2 crate itself, and not hyper's client above it, which tells neither why a stream ended but in words, nor how many streams there
//! may be, and which goes on sending a body when the answer to it is over.
//!
//! Absent: HTTP/2 in plaintext, server push, priorities, and CONNECT: WebSockets are asked for over HTTP/1.1.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::connection::{ConnectError, RequestBody, SendError, Sent, SiteBody, TransportError};
use super::http1::may_be_repeated;
use super::upload::Upload;
use crate::deadlines::Deadline;
use crate::rules::headers::http2::to_http2;
use crate::rules::time::Moment;
use crate::tls::client::{HandshakeError, ServerTls};

/// Streams of a connection at once, if the server takes more: what most servers take, and a bound to what hangs on one connection.
const STREAMS_MAX: u32 = 100;

/// Bytes of one answer on the way, beside what is read ahead of its visitor: at 5 ms, 50 MB/s.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes of all answers on the way: as many as all streams may have.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX;

/// Bytes of the head of an answer, each header with 32 more (RFC 9113, section 6.5.2): far above what sites send and servers before them
/// let through (nginx: 4 or 8 KiB).
const HEAD_BYTES: u32 = 128 * 1024;

/// Streams that were reset a moment ago and are still known, so that frames for them, which were on their way, are no fault of the server's:
/// a page that a crowd leaves at once.
const RESETS_REMEMBERED: usize = 1000;

/// Silence after which a connection with requests on it is asked whether it is still there, at most. After as much again it is doubted,
/// and given no more of them; before a request is over that may take four times as long.
const SILENCE: Duration = Duration::from_secs(5);

/// The least of it: any server is silent now and then for as long as a page takes, and who is doubted costs a connection more.
const SILENCE_LEAST: Duration = Duration::from_secs(1);

/// How long a connection that is not needed any more may take for its goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// A connection to a server. Once it is dropped, and all that rides on it, it is closed.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    /// The worker whose runtime drives it.
    pub(super) worker: usize,
    /// By which settings it was made.
    tls: Option<Arc<ServerTls>>,
    pulse: Arc<Pulse>,
    /// Since when it has been seen to carry nothing, in microseconds; 0 if it was not.
    idle_since: AtomicU64,
}

/// What a connection's driver and those who use it know of it.
#[derive(Debug)]
struct Pulse {
    /// Of the connection: when to look after it again.
    deadline: Arc<Deadline>,
    /// How long it may be silent before it is asked, and again before it is doubted.
    silence: Duration,
    /// Requests on it.
    riders: AtomicUsize,
    /// It has carried a request before.
    reused: AtomicBool,
    /// Reads that brought something.
    reads: AtomicUsize,
    /// It was asked whether it is there, and has not answered yet.
    is_doubtful: AtomicBool,
    /// The server's word that it does not want us, of which h2 keeps the text alone.
    refused: Mutex<Option<HandshakeError>>,
}

impl Http2 {
    /// Begins to speak on a stream; over when the server has told its settings.
    pub(super) async fn begin<S>(
        stream: S,
        tls: Option<Arc<ServerTls>>,
        deadline: Arc<Deadline>,
        patience: Duration,
        worker: usize,
    ) -> Result<Arc<Self>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pulse = Arc::new(Pulse {
            deadline,
            silence: (patience / 4).clamp(SILENCE_LEAST, SILENCE),
            riders: AtomicUsize::new(0),
            reused: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            is_doubtful: AtomicBool::new(false),
            refused: Mutex::new(None),
        });
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            // until the server's settings are there
            .initial_max_send_streams(0)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES)
            // a page that is always broken must not cost all others their connection: who asks for it is not the server's enemy
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(RESETS_REMEMBERED);
        let io = Listened { io: stream, pulse: Arc::clone(&pulse) };
        let (sender, connection) = builder.handshake(io).await.map_err(ConnectError::Http2)?;
        let shared = Arc::new(Self { sender, worker, tls, pulse: Arc::clone(&pulse), idle_since: AtomicU64::new(0) });
        let (told, settled) = oneshot::channel();
        let driver = Driver {
            connection,
            pulse,
            user: Arc::downgrade(&shared),
            settled: Some(told),
            ping: None,
            reads: 0,
            patience,
            state: Watch::Listening,
        };
        tokio::spawn(driver.run());
        match settled.await {
            Ok(Ok(())) => Ok(shared),
            Ok(Err(error)) => {
                let refused = shared.pulse.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(refused.map_or(ConnectError::Http2(error), ConnectError::Tls))
            }
            Err(_) => Err(ConnectError::Socket(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    /// Whether it was made by these settings, and not by what stood in a policy or in a file before.
    pub(super) fn is_by(&self, tls: Option<&Arc<ServerTls>>) -> bool {
        self.tls.as_ref().zip(tls).is_some_and(|(own, other)| Arc::ptr_eq(own, other))
    }

    /// Whether it takes no further requests, for ever: the server has said so, or it has ended.
    pub(super) fn is_leaving(&self) -> bool {
        // each clone is asked for itself, and none of them has anything pending
        let asked = self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(asked, Poll::Ready(Err(_)))
    }

    /// Whether it takes a further request now.
    pub(super) fn has_room(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(STREAMS_MAX as usize);
        self.pulse.riders.load(Ordering::Relaxed) < most && !self.is_doubtful()
    }

    /// Whether it may be dead.
    pub(super) fn is_doubtful(&self) -> bool {
        self.pulse.is_doubtful.load(Ordering::Relaxed)
    }

    /// Whether it carries no request.
    pub(super) fn is_idle(&self) -> bool {
        self.pulse.riders.load(Ordering::Relaxed) == 0
    }

    /// Whether it has carried none for so long. To be asked again and again.
    pub(super) fn is_idle_for(&self, time: Duration, now: Moment) -> bool {
        if !self.is_idle() {
            self.idle_since.store(0, Ordering::Relaxed);
            return false;
        }
        match self.idle_since.load(Ordering::Relaxed) {
            0 => {
                self.idle_since.store(now.as_micros().max(1), Ordering::Relaxed);
                false
            }
            since => now.since(Moment::from_micros(since)) >= time,
        }
    }

    /// Takes a place on it for a request, with the deadline of its answer.
    pub(super) fn board(self: &Arc<Self>, deadline: Arc<Deadline>) -> Ride {
        let pulse = &self.pulse;
        self.idle_since.store(0, Ordering::Relaxed);
        // what was set for those before holds for whoever comes next
        if pulse.riders.fetch_add(1, Ordering::Relaxed) == 0 && !pulse.deadline.is_set() {
            pulse.deadline.set(pulse.silence);
        }
        let reused = pulse.reused.swap(true, Ordering::Relaxed);
        Ride { connection: Arc::clone(self), deadline, reused, task: None, awaited: None }
    }
}

/// What drives a connection.
struct Driver<S> {
    connection: Connection<Listened<S>, Bytes>,
    pulse: Arc<Pulse>,
    user: Weak<Http2>,
    /// Until the server's settings are there.
    settled: Option<oneshot::Sender<Result<(), h2::Error>>>,
    ping: Option<PingPong>,
    /// As many as there were when it was last looked after.
    reads: usize,
    /// How long it may be silent once it was asked.
    patience: Duration,
    state: Watch,
}

/// Whether a connection is there.
enum Watch {
    /// It is, or nobody needs it.
    Listening,
    /// It was asked so long ago.
    Asked(Duration),
    /// Nobody will need it any more.
    Leaving,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Until the connection ends. Who is on it then is told by h2.
    async fn run(mut self) {
        self.ping = self.connection.ping_pong();
        let pulse = Arc::clone(&self.pulse);
        poll_fn(|cx| {
            pulse.deadline.wakes(cx.waker());
            let ended = Pin::new(&mut self.connection).poll(cx);
            if let Poll::Ready(ended) = ended {
                if let Some(settled) = self.settled.take() {
                    // a server that says goodbye before it has said hello
                    drop(settled.send(ended.and(Err(Reason::NO_ERROR.into()))));
                }
                return Poll::Ready(());
            }
            if self.connection.max_concurrent_send_streams() > 0
                && let Some(settled) = self.settled.take()
            {
                // who has asked for it may have left
                drop(settled.send(Ok(())));
            }
            self.listen(cx)
        })
        .await;
    }

    fn listen(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.user.strong_count() == 0 && !matches!(self.state, Watch::Leaving) {
            self.state = Watch::Leaving;
            self.pulse.deadline.set(GOODBYE);
        }
        // an answer makes room for the next question; that there was one is seen by its bytes
        if let Some(ping) = &mut self.ping {
            while matches!(ping.poll_pong(cx), Poll::Ready(Ok(_))) {}
        }
        let reads = self.pulse.reads.load(Ordering::Relaxed);
        if let Watch::Asked(_) = self.state
            && reads != self.reads
        {
            self.hear(reads);
        }
        if !self.pulse.deadline.has_fired() {
            return Poll::Pending;
        }
        self.pulse.deadline.rearm();
        let silence = self.pulse.silence;
        match self.state {
            Watch::Leaving => return Poll::Ready(()),
            Watch::Listening if self.pulse.riders.load(Ordering::Relaxed) == 0 => return Poll::Pending,
            Watch::Listening if reads != self.reads => self.hear(reads),
            Watch::Listening => {
                self.state = Watch::Asked(Duration::ZERO);
                if let Some(ping) = &mut self.ping {
                    // it can fail only on a connection that is about to end
                    drop(ping.send_ping(Ping::opaque()));
                }
            }
            Watch::Asked(waited) if waited + silence >= self.patience.max(2 * silence) => return Poll::Ready(()),
            Watch::Asked(waited) => {
                self.pulse.is_doubtful.store(true, Ordering::Relaxed);
                self.state = Watch::Asked(waited + silence);
            }
        }
        self.pulse.deadline.set(silence);
        Poll::Pending
    }

    fn hear(&mut self, reads: usize) {
        self.reads = reads;
        self.state = Watch::Listening;
        self.pulse.is_doubtful.store(false, Ordering::Relaxed);
    }
}

/// A place on a connection: one request and its answer. Dropping it resets what is left of its stream.
pub(super) struct Ride {
    pub(super) connection: Arc<Http2>,
    /// The response deadline; the stream is reset when it falls due.
    pub(super) deadline: Arc<Deadline>,
    /// The connection has carried a request before.
    pub(super) reused: bool,
    /// Drives the stream.
    task: Option<JoinHandle<()>>,
    /// The request that was sent on it, until its answer is there.
    awaited: Option<Pin<Box<dyn Future<Output = Sent> + Send>>>,
}

impl std::fmt::Debug for Ride {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ride").field("connection", &self.connection).field("reused", &self.reused).finish_non_exhaustive()
    }
}

impl Drop for Ride {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.connection.pulse.riders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ride {
    /// Resets the stream, and returns when that is on its way.
    pub(super) async fn close(mut self) {
        self.deadline.fire();
        if let Some(task) = self.task.take() {
            // it ends by itself, or has panicked
            drop(task.await);
        }
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: Request<RequestBody>) {
        self.awaited = Some(self.sent(request));
    }

    /// The answer to it.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        let Some(awaited) = &mut self.awaited else { return Poll::Pending };
        let sent = ready!(awaited.as_mut().poll(cx));
        self.awaited = None;
        Poll::Ready(sent)
    }

    fn sent(&mut self, request: Request<RequestBody>) -> Pin<Box<dyn Future<Output = Sent> + Send>> {
        let (head, body) = request.into_parts();
        let mut sent = Request::new(());
        *sent.method_mut() = head.method.clone();
        *sent.headers_mut() = head.headers.clone();
        *sent.uri_mut() = to_http2(head.uri.clone(), sent.headers_mut());
        if let Some(length) = body.size_hint().exact().filter(|length| *length > 0)
            && !sent.headers().contains_key(CONTENT_LENGTH)
        {
            sent.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let is_head = head.method == Method::HEAD;
        let is_whole = body.is_end_stream();
        let (answer, stream) = match self.connection.sender.clone().send_request(sent, is_whole) {
            Ok(sent) => sent,
            Err(error) => {
                let request = Some(Box::new(Request::from_parts(head, body)));
                return Box::pin(std::future::ready(Err(SendError { request, is_untouched: true, error: TransportError::Http2(error) })));
            }
        };
        let (told, answered) = oneshot::channel();
        let upload = Upload::new((!is_whole).then_some(body));
        let carrying = Carrying { deadline: Arc::clone(&self.deadline), stream, upload, awaited: Some(Awaited { answer, head, told }) };
        self.task = Some(tokio::spawn(carrying.run()));
        Box::pin(async move {
            // the task ends without a word only if it panics
            let error = || TransportError::Http2(Reason::INTERNAL_ERROR.into());
            let gone = || Err(SendError { request: None, is_untouched: false, error: error() });
            let answer = answered.await.unwrap_or_else(|_| gone())?;
            let has_no_body = is_head || matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let told = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            let left = if has_no_body { Some(0) } else { told };
            Ok(answer.map(|stream| SiteBody::Http2(Http2Body { stream, left, has_none: has_no_body })))
        })
    }
}

/// One stream, until it is reset or nobody needs it any more.
struct Carrying {
    deadline: Arc<Deadline>,
    stream: SendStream<Bytes>,
    upload: Upload,
    /// Until the head of the answer is there.
    awaited: Option<Awaited>,
}

struct Awaited {
    answer: ResponseFuture,
    /// Of the request, in case that it has to be sent again.
    head: request::Parts,
    told: oneshot::Sender<Result<Response<RecvStream>, SendError>>,
}

impl Carrying {
    /// Ends when the stream is over for sure. If all goes well, whoever has the answer ends it.
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.wakes(cx.waker());
        if self.deadline.has_fired() {
            return self.reset(TransportError::Http2(Reason::CANCEL.into()));
        }
        if let Poll::Ready(Err(failure)) = self.upload.poll(&mut self.stream, cx) {
            return self.reset(TransportError::Body(failure));
        }
        let Some(awaited) = &mut self.awaited else { return Poll::Pending };
        let answer = ready!(Pin::new(&mut awaited.answer).poll(cx));
        let Some(Awaited { head, told, .. }) = self.awaited.take() else { return Poll::Pending };
        match answer {
            Ok(answer) => {
                self.upload.forget();
                // who does not take it drops it, and so resets the stream
                drop(told.send(Ok(answer)));
                Poll::Pending
            }
            Err(error) => {
                let is_untouched = is_unprocessed(&error);
                let request = self.upload.give_back().map(|body| Box::new(Request::from_parts(head, body)));
                let request = request.filter(|request| is_untouched || may_be_repeated(request));
                drop(told.send(Err(SendError { request, is_untouched, error: TransportError::Http2(error) })));
                Poll::Ready(())
            }
        }
    }

    fn reset(&mut self, error: TransportError) -> Poll<()> {
        self.stream.send_reset(Reason::CANCEL);
        if let Some(Awaited { told, .. }) = self.awaited.take() {
            drop(told.send(Err(SendError { request: None, is_untouched: false, error })));
        }
        Poll::Ready(())
    }
}

/// Whether a server has done nothing with a request and will not, so that it can be sent again whatever it is (RFC 9113, section 8.7):
/// it has refused the stream, or wants it over HTTP/1.1, or has gone away and named the last one that it has seen.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED)))
}

/// The body of an answer. What has not been taken of it holds its window.
#[derive(Debug)]
pub(super) struct Http2Body {
    stream: RecvStream,
    /// Bytes still to come, if it was told.
    left: Option<u64>,
    /// The answer has no body: its end need not be waited for, and what a server sends all the same is nobody's.
    has_none: bool,
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { stream, left, has_none } = self.get_mut();
        if *has_none {
            return Poll::Ready(None);
        }
        if let Some(piece) = ready!(stream.poll_data(cx)) {
            let piece = piece?;
            // nothing else is left to be done if the stream has ended meanwhile
            drop(stream.flow_control().release_capacity(piece.len()));
            *left = left.map(|left| left.saturating_sub(piece.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        stream.poll_trailers(cx).map(|trailers| trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_none || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A socket whose driver sees that something has come.
struct Listened<S> {
    io: S,
    pulse: Arc<Pulse>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => {
                self.pulse.reads.fetch_add(1, Ordering::Relaxed);
            }
            // in TLS 1.3 a server looks at our certificate when for us the handshake is over
            Poll::Ready(Err(error)) => {
                *self.pulse.refused.lock().unwrap_or_else(PoisonError::into_inner) = HandshakeError::late(error);
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::deadlines::Deadlines;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A connection as it looks to its driver, with the clock in hand. The server is polled only when it is told to.
    struct World {
        deadlines: Deadlines,
        connection: Option<Arc<Http2>>,
        server: h2::server::Connection<DuplexStream, Bytes>,
    }

    impl World {
        async fn start() -> Self {
            Self::of(64 * 1024, PATIENCE).await
        }

        /// Each side takes so many bytes that are not read.
        async fn of(room: usize, patience: Duration) -> Self {
            let (near, far) = duplex(room);
            let deadlines = Deadlines::default();
            deadlines.sweep(Moment::from_secs(0));
            let watched = deadlines.watch();
            let (connection, server) = tokio::join!(Http2::begin(near, None, watched, patience, 0), h2::server::handshake(far));
            Self { deadlines, connection: Some(connection.unwrap()), server: server.unwrap() }
        }

        fn connection(&self) -> &Arc<Http2> {
            self.connection.as_ref().unwrap()
        }

        fn ride(&self) -> Ride {
            self.connection().board(self.deadlines.watch())
        }

        /// The clock says so many seconds, and everyone on this side has done what there is to do.
        async fn at(&self, seconds: u64) {
            self.at_ms(seconds * 1000).await;
        }

        async fn at_ms(&self, ms: u64) {
            self.deadlines.sweep(Moment::from_micros(ms * 1000));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }

        /// The server does what there is to do, as to answer a ping.
        async fn serve(&mut self) {
            for _ in 0..20 {
                let polled = self.server.poll_closed(&mut Context::from_waker(Waker::noop()));
                assert!(polled.is_pending());
                tokio::task::yield_now().await;
            }
        }
    }

    fn test(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn a_server_that_is_silent_is_asked_doubted_and_left() {
        test(async {
            let world = World::start().await;
            let _ride = world.ride();
            let connection = Arc::clone(world.connection());
            // what came before counts once
            world.at(6).await;
            world.at(12).await;
            assert!(connection.has_room(), "asked, and not doubted yet");
            world.at(18).await;
            assert!(!connection.has_room(), "doubted: others take another connection");
            world.at(24).await;
            assert!(!connection.is_leaving(), "a request may take as long as it may");
            for seconds in [30, 36] {
                world.at(seconds).await;
            }
            assert!(connection.is_leaving());
        });
    }

    #[test]
    fn a_server_that_answers_is_neither_doubted_nor_left() {
        test(async {
            let mut world = World::start().await;
            let _ride = world.ride();
            for round in 1..50 {
                world.at(round * 6).await;
                world.serve().await;
                assert!(world.connection().has_room() && !world.connection().is_leaving(), "{round}");
            }
        });
    }

    #[test]
    fn one_that_was_doubted_is_trusted_again_when_it_speaks() {
        test(async {
            let mut world = World::start().await;
            let _ride = world.ride();
            for seconds in [6, 12, 18] {
                world.at(seconds).await;
            }
            assert!(world.connection().is_doubtful());
            world.serve().await;
            world.at(18).await;
            assert!(world.connection().has_room());
        });
    }

    #[test]
    fn one_is_asked_and_doubted_before_a_request_with_little_time_is_over() {
        test(async {
            let world = World::of(64 * 1024, Duration::from_secs(6)).await;
            let _ride = world.ride();
            for ms in (0..6000).step_by(100) {
                world.at_ms(ms).await;
            }
            assert!(!world.connection().has_room());
        });
    }

    #[test]
    fn requests_that_end_and_begin_do_not_put_off_that_it_is_asked() {
        test(async {
            let world = World::of(64 * 1024, Duration::from_secs(1)).await;
            let mut ride = None;
            for ms in (0..4000).step_by(100) {
                if ms % 500 == 0 {
                    drop(ride.take());
                    ride = Some(world.ride());
                }
                world.at_ms(ms).await;
            }
            assert!(!world.connection().has_room());
        });
    }

    #[test]
    fn nobody_asks_a_connection_that_carries_nothing() {
        test(async {
            let world = World::start().await;
            drop(world.ride());
            for round in 1..50 {
                world.at(round * 6).await;
            }
            assert!(world.connection().has_room() && !world.connection().is_leaving());
        });
    }

    #[test]
    fn one_that_nobody_needs_any_more_says_goodbye_and_does_not_wait_for_ever() {
        test(async {
            // the server takes nothing, and there is no room for a goodbye
            let mut world = World::of(40, PATIENCE).await;
            let weak = Arc::downgrade(&world.connection().pulse);
            drop(world.connection.take());
            for seconds in [0, 4] {
                world.at(seconds).await;
                assert!(weak.upgrade().is_some(), "{seconds}");
            }
            world.at(6).await;
            assert!(weak.upgrade().is_none());
            // and to one that does it is said at once
            let mut world = World::start().await;
            let weak = Arc::downgrade(&world.connection().pulse);
            drop(world.connection.take());
            world.at(0).await;
            assert!(weak.upgrade().is_none());
        });
    }

    #[test]
    fn what_is_idle_is_so_since_it_was_seen_to_be() {
        test(async {
            let world = World::start().await;
            let connection = world.connection();
            let (time, at) = (Duration::from_secs(30), Moment::from_secs);
            let ride = world.ride();
            assert!(!connection.is_idle_for(time, at(100)));
            drop(ride);
            assert!(!connection.is_idle_for(time, at(200)), "it has just become so");
            assert!(!connection.is_idle_for(time, at(229)));
            assert!(connection.is_idle_for(time, at(230)));
            drop(world.ride());
            assert!(!connection.is_idle_for(time, at(231)));
        });
    }
}
