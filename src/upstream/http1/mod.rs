//! One connection to a server that speaks HTTP/1.1, used for one request at a time, and driven by whoever waits for the answer.
//!
//! It has no task of its own: that would be woken for each request and each answer, only to wake the task of the visitor. Between two
//! requests nobody drives it. Whether it has closed meanwhile is found when it is next used, and once a tick.
//!
//! It is not hyper's client, with which a proxied request of 1 KiB takes an eighth more of CPU time (`benches/proxy.rs`), for what is not
//! needed here: a queue of requests, a channel for answers, and buffers that are made anew each time.
//!
//! Always holds: what comes on it belongs to the request that was written last, or it is closed. `outgoing.rs` writes, `incoming.rs` reads;
//! what of that is HTTP stands in `rules/http1`.

mod incoming;
mod outgoing;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::Either;
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, ReadBuf};

use super::connection::{BodyFailure, RequestBody, SendError, Sent, SiteBody, Stream, Switched, TransportError};
use crate::deadlines::Deadline;
use crate::rules::headers::personal;
use crate::rules::http1::body::BadBody;
use crate::rules::http1::from_site::{BadHead, Head};
use crate::rules::time::Moment;
use crate::tls::client::ServerTls;
use incoming::Incoming;
use outgoing::Outgoing;

/// What goes wrong on a connection of HTTP/1.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// It broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// The server ended it, or the gate has.
    #[error("the connection ended")]
    Closed,
    /// What came is not the head of an answer.
    #[error("the head of the answer can't be read")]
    Head(#[source] BadHead),
    /// Interim answers have come, and no end of them.
    #[error("more than {} bytes before the head of the answer was over", incoming::BEFORE_HEAD)]
    Endless,
    /// What came is not the body that its head has told of.
    #[error("the body of the answer can't be read")]
    Body(#[source] BadBody),
}

impl Http1Error {
    /// Whether what came is not HTTP as it should be.
    pub(super) const fn is_protocol(&self) -> bool {
        match self {
            Self::Io(_) | Self::Closed | Self::Body(BadBody::Incomplete) => false,
            Self::Head(_) | Self::Endless | Self::Body(_) => true,
        }
    }
}

/// A connection to a server.
pub(super) struct Http1 {
    stream: Stream,
    outgoing: Outgoing,
    incoming: Incoming,
    /// A request, until it is first driven.
    due: Option<Request<RequestBody>>,
    /// There is no head of an answer yet to what was sent.
    is_awaited: bool,
    /// It knows its client by itself, so that nobody else's request may go over it.
    is_personal: bool,
    /// The upload could not be read to its end, which nobody was told yet.
    failed: Option<BodyFailure>,
    /// Nothing more is done with it.
    is_over: bool,
    /// By which settings it was made.
    tls: Option<Arc<ServerTls>>,
    /// The response deadline; the connection is over when it falls due.
    pub(super) deadline: Arc<Deadline>,
    /// The worker in whose runtime its stream is.
    pub(super) worker: usize,
    /// It has carried a request before.
    pub(super) reused: bool,
    /// When it was last given back.
    pub(super) idle_since: Moment,
}

/// Whether a request may be sent twice: it is idempotent (RFC 9110, 9.2.2), and has no body.
pub(super) fn may_be_repeated(request: &Request<RequestBody>) -> bool {
    matches!(request.body(), Either::Left(Either::Left(_)))
        && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").field("worker", &self.worker).field("reused", &self.reused).finish_non_exhaustive()
    }
}

impl Http1 {
    /// Begins to speak on a stream.
    pub(super) fn begin(stream: Stream, tls: Option<Arc<ServerTls>>, deadline: Arc<Deadline>, worker: usize) -> Self {
        Self {
            stream,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            due: None,
            is_awaited: false,
            is_personal: false,
            failed: None,
            is_over: false,
            tls,
            deadline,
            worker,
            reused: false,
            idle_since: Moment::default(),
        }
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
        self.due = Some(request);
        self.is_awaited = true;
    }

    /// The answer to the request that was sent last.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        if !self.is_awaited {
            return Poll::Pending;
        }
        let mut is_watched = false;
        if let Some(request) = self.due.take() {
            // one that has carried nothing yet was not closing all the while
            if self.is_closed() || (self.reused && self.poll_stale(cx)) {
                return Poll::Ready(Err(self.untouched(request)));
            }
            is_watched = self.reused;
            self.is_personal |= personal::is_of_connection(request.headers());
            let answers_head = *request.method() == Method::HEAD;
            let is_kept = self.reused && may_be_repeated(&request);
            let spare = self.outgoing.begin(request, is_kept);
            self.incoming.begin(answers_head, spare);
        }
        if let Err(error) = self.go_on(cx) {
            return Poll::Ready(Err(self.failed(error)));
        }
        // who has just looked whether it is stale is woken by whatever comes
        if is_watched {
            return Poll::Pending;
        }
        let head = match ready!(self.incoming.poll_head(&mut self.stream, cx)) {
            Ok(head) => head,
            Err(error) => {
                let error = self.why(error);
                return Poll::Ready(Err(self.failed(error)));
            }
        };
        self.is_awaited = false;
        self.outgoing.forget();
        Poll::Ready(Ok(self.answer(head)))
    }

    fn answer(&mut self, head: Head) -> Response<SiteBody> {
        self.is_personal |= personal::has_become_of_connection(&head.headers);
        let mut answer = Response::new(SiteBody::Http1 { left: self.incoming.left() });
        (*answer.status_mut(), *answer.version_mut(), *answer.headers_mut()) = (head.status, head.version, head.headers);
        if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            answer.extensions_mut().insert(reason);
        }
        answer
    }

    /// Goes on with the request, unless it is time to give up; who asks is woken for both.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Result<(), TransportError> {
        self.deadline.wakes(cx.waker());
        let uploaded = match self.failed.take() {
            Some(failure) => Err(failure),
            None if self.is_over || self.deadline.has_fired() => {
                self.is_over = true;
                return Err(TransportError::Http1(Http1Error::Closed));
            }
            None => match self.outgoing.poll(&mut self.stream, cx) {
                Poll::Ready(uploaded) => uploaded,
                Poll::Pending => Ok(()),
            },
        };
        uploaded.map_err(|failure| {
            self.is_over = true;
            TransportError::Body(failure)
        })
    }

    /// It has not even begun.
    fn untouched(&mut self, request: Request<RequestBody>) -> SendError {
        (self.is_awaited, self.is_over) = (false, true);
        SendError { request: Some(Box::new(request)), is_untouched: true, error: TransportError::Http1(Http1Error::Closed) }
    }

    fn failed(&mut self, error: TransportError) -> SendError {
        (self.is_awaited, self.is_over) = (false, true);
        SendError { request: self.outgoing.again().map(Box::new), is_untouched: false, error }
    }

    /// What the connection has ended with: that it ended says less than why nothing could be written.
    fn why(&mut self, error: Http1Error) -> TransportError {
        self.is_over = true;
        let first = self.outgoing.take_error().filter(|_| matches!(error, Http1Error::Closed));
        TransportError::Http1(first.map_or(error, Http1Error::Io))
    }

    /// The next piece of the body of an answer.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        if let Err(error) = self.go_on(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        ready!(self.incoming.poll_body(&mut self.stream, cx))
            .map_or(Poll::Ready(None), |piece| Poll::Ready(Some(piece.map_err(|error| self.why(error)))))
    }

    /// Bytes of that body that are still to come, if that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        self.incoming.left()
    }

    /// Whether it is worth looking for more of that body at once.
    pub(super) fn is_at_hand(&self) -> bool {
        self.incoming.is_at_hand()
    }

    /// Goes on with the request, while nobody takes the answer.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Err(TransportError::Body(failure)) = self.go_on(cx) {
            self.failed = Some(failure);
        }
    }

    /// Whether it can take a request, once the last one is written; `false` if it never will.
    pub(super) fn poll_usable(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.go_on(cx).is_err() || self.is_closed() {
            return Poll::Ready(false);
        }
        if self.is_ready() { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Whether nothing is under way on it, as far as is known: it was not looked at to find out.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_closed() && !self.is_awaited && self.left() == Some(0) && self.outgoing.is_done()
    }

    /// Whether it can't be used any more when what is under way is over, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        let can_follow = || self.is_awaited || (self.incoming.is_reusable() && !self.is_personal && !self.outgoing.is_broken());
        self.is_over || self.deadline.has_fired() || (self.left() == Some(0) && !can_follow())
    }

    /// Whether an idle connection can still be used. The server may have closed it since it was last looked at.
    pub(super) fn is_alive(&mut self) -> bool {
        // asked by the thread that all of the gate hangs on
        let is_stale = catch_unwind(AssertUnwindSafe(|| self.poll_stale(&mut Context::from_waker(Waker::noop()))));
        self.is_over |= is_stale.is_err();
        self.is_ready()
    }

    /// Whether something has come on it while nothing was asked: its end, or what would be taken for the answer to the next request.
    fn poll_stale(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        self.is_over |= Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready();
        self.is_over
    }

    /// It is not one of requests any more.
    pub(super) fn switched(self) -> Switched {
        Switched { stream: self.stream, rest: self.incoming.into_rest() }
    }
}

#[cfg(test)]
mod tests;
