//! One connection to a server that speaks HTTP/1.1, used for one request at a time, and driven by whoever waits for the answer.
//!
//! It has no task of its own: that would be woken for each request and each answer, only to wake the task of the visitor. Between two
//! requests nobody drives it. Whether it has closed meanwhile is found when it is next used, and once a tick.
//!
//! Always holds: what is polled for its answer, or for the body of that, is polled straight after the connection itself
//! ([`Http1::drive`]), and by the same task. Only so may it be polled with a waker that wakes nobody: all it waits for is what the
//! connection does. And whoever begins to wait drives the connection first, so that nothing is missed of what happened while nobody did.

use std::future::{Future, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop::unconstrained;
use tokio_util::sync::ReusableBoxFuture;

use super::again::{Keeping, Kept, may_be_repeated};
use super::connection::{ConnectError, RequestBody, SendError, Sent, SiteBody, Stream, TransportError};
use crate::deadlines::Deadline;
use crate::rules::time::Moment;
use crate::tls::client::ServerTls;

/// A connection to a server.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    /// What speaks on the stream; `None` once that has ended. Dropping it closes the stream.
    driver: Option<Driver>,
    /// The answer to the request that was sent last, in a place on the heap that is the same for all.
    answer: ReusableBoxFuture<'static, Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
    is_awaited: bool,
    /// Its head, if it may be sent again.
    kept: Arc<Kept>,
    /// Whom it wakes, and as what.
    driving: Arc<Driving>,
    waker: Waker,
    /// By which settings it was made.
    tls: Option<Arc<ServerTls>>,
    /// The response deadline; the connection closes when it falls due.
    pub(super) deadline: Arc<Deadline>,
    /// The worker in whose runtime its stream is.
    pub(super) worker: usize,
    /// It has carried a request before.
    pub(super) reused: bool,
    /// When it was last given back.
    pub(super) idle_since: Moment,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Who drives a connection. The stream knows one waker for life, whoever that is.
#[derive(Default)]
struct Driving {
    task: Mutex<Option<Waker>>,
    /// It waits for something. Else it is not woken: what it does itself with what has come would wake it, too, for nothing.
    waits: AtomicBool,
}

impl Wake for Driving {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // either this sees that somebody waits, or who begins to sees why this wakes
        fence(Ordering::SeqCst);
        if self.waits.load(Ordering::Acquire)
            && let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            task.wake();
        }
    }
}

impl Driving {
    fn begin(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
        drop(known);
        self.waits.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    fn end(&self) {
        self.waits.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").field("worker", &self.worker).field("reused", &self.reused).finish_non_exhaustive()
    }
}

impl Http1 {
    /// Begins to speak on a stream.
    pub(super) async fn begin(
        stream: Stream,
        tls: Option<Arc<ServerTls>>,
        deadline: Arc<Deadline>,
        worker: usize,
    ) -> Result<Self, ConnectError> {
        let kept = Arc::new(Kept::default());
        let begun = match stream {
            Stream::Plain(stream) => speak(Keeping::new(stream, Arc::clone(&kept))).await,
            Stream::Tls(stream) => speak(Keeping::new(stream, Arc::clone(&kept))).await,
        };
        let (sender, driver) = begun.map_err(|error| ConnectError::Socket(io::Error::other(error)))?;
        let driving = Arc::new(Driving::default());
        let waker = Waker::from(Arc::clone(&driving));
        deadline.wakes(&waker);
        Ok(Self {
            sender,
            driver: Some(driver),
            answer: ReusableBoxFuture::new(pending()),
            is_awaited: false,
            kept,
            driving,
            waker,
            tls,
            deadline,
            worker,
            reused: false,
            idle_since: Moment::default(),
        })
    }

    /// Whether it was made by these settings, and not by what stood in a policy or in a file before.
    pub(super) fn is_by(&self, tls: Option<&Arc<ServerTls>>) -> bool {
        match (&self.tls, tls) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Sends a request, as soon as the connection is driven.
    pub(super) fn send(&mut self, request: Request<RequestBody>) {
        // a connection that has carried nothing yet was not closing all the while
        self.kept.begin(self.reused && may_be_repeated(&request));
        // a task that has done much is made to yield by waking it, and what polls this wakes nobody
        self.answer.set(unconstrained(self.sender.try_send_request(request)));
        self.is_awaited = true;
    }

    /// Goes on with what is under way, for as long as it can without waiting; who asks is woken when it can go on.
    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        self.driving.begin(cx.waker());
        // how it ended is told to the request that was under way
        if self.deadline.has_fired() || driver.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
            self.driver = None;
        }
    }

    /// The answer to the request that was sent last.
    pub(super) fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<Sent> {
        self.drive(cx);
        if !self.is_awaited {
            return Poll::Pending;
        }
        let sent = ready!(self.answer.poll(&mut nobody()));
        self.is_awaited = false;
        self.driving.end();
        Poll::Ready(match sent {
            Ok(answer) => {
                self.kept.answered();
                Ok(answer.map(SiteBody::Http1))
            }
            Err(failed) => Err(self.failed(failed)),
        })
    }

    fn failed(&self, mut failed: TrySendError<Request<RequestBody>>) -> SendError {
        let untouched = failed.take_message();
        let is_untouched = untouched.is_some();
        let request = untouched.or_else(|| self.kept.request()).map(Box::new);
        SendError { request, is_untouched, error: TransportError::Http1(failed.into_error()) }
    }

    /// The next piece of the body of an answer.
    pub(super) fn poll_body(&mut self, body: &mut Incoming, cx: &Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.drive(cx);
        let piece = ready!(Pin::new(body).poll_frame(&mut nobody()));
        self.driving.end();
        Poll::Ready(piece)
    }

    /// Whether it can take a request, once it is driven so far; `false` if it never will.
    pub(super) fn poll_usable(&mut self, cx: &Context<'_>) -> Poll<bool> {
        self.drive(cx);
        if self.is_closed() {
            return Poll::Ready(false);
        }
        if self.sender.is_ready() { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Whether nothing is under way on it, as far as is known: it was not driven to find out.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_closed() && self.sender.is_ready()
    }

    /// Whether it has closed, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_none() || self.sender.is_closed() || self.deadline.has_fired()
    }

    /// Whether an idle connection can still be used. The server may have closed it since it was last driven.
    pub(super) fn is_alive(&mut self) -> bool {
        // asked by the thread that all of the gate hangs on
        if catch_unwind(AssertUnwindSafe(|| self.drive(&nobody()))).is_err() {
            self.driver = None;
        }
        self.driving.end();
        self.is_ready()
    }

    /// Lets it end by itself, in a task of its own: what speaks on it hands it over, and is then done.
    pub(super) fn hand_over(self) {
        if let Some(driver) = self.driver {
            tokio::spawn(driver);
        }
    }
}

/// Who need not be woken.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Speaks HTTP on a stream, as long as it is driven.
async fn speak<S>(stream: S) -> hyper::Result<(http1::SendRequest<RequestBody>, Driver)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    Ok((sender, Box::pin(connection.with_upgrades())))
}
