//! One request and its answer on a connection, and the deadline that its client is held to: over HTTP/1 the connection's own, since it
//! carries nothing else meanwhile; over HTTP/2 the stream's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::Arriving;
use super::respond::{self, Answer};
use super::state::{Phase, State};
use super::streams::Stream;
use crate::upstream::BodyFailure;

/// A request under way.
#[derive(Clone, Debug)]
pub(super) enum Exchange {
    /// The only one of its connection.
    Alone(Arc<State>),
    /// One of many.
    Stream(Arc<Stream>),
}

impl Exchange {
    /// Its request is here.
    pub(super) fn begin(&self, has_body: bool) {
        match self {
            Self::Alone(state) => state.begin(has_body),
            Self::Stream(stream) => stream.enter(Phase::Busy),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        match self {
            Self::Alone(state) => state.enter(phase),
            Self::Stream(stream) => stream.enter(phase),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Alone(state) => state.phase(),
            Self::Stream(stream) => stream.phase(),
        }
    }

    /// Whether its body was awaited for too long.
    pub(super) fn has_stalled(&self) -> bool {
        match self {
            Self::Alone(state) => state.deadline.has_fired() && state.phase() == Phase::Body,
            Self::Stream(stream) => stream.has_stalled(),
        }
    }

    /// Whether its connection ends with the answer, since a part of the request was not read. A stream takes what is left of it.
    pub(super) fn has_unread(&self) -> bool {
        match self {
            Self::Alone(state) => state.has_unread(),
            Self::Stream(_) => false,
        }
    }

    /// A request was not understood, or not read: what follows it on its connection may be a part of it, and is not taken for another.
    /// Streams are told apart whatever is on them.
    pub(super) fn end_in_doubt(&self, answer: &mut Answer) {
        match self {
            Self::Alone(_) => respond::close(answer),
            Self::Stream(_) => {}
        }
    }

    /// Whether its client is still there. A stream that was opened and reset in one breath is found to be gone when its task comes to
    /// wait, so it waits once: the site is not asked on behalf of nobody.
    pub(super) fn poll_begin(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Alone(_) => Poll::Ready(()),
            Self::Stream(stream) => stream.poll_begin(cx),
        }
    }
}

/// A request body that is on its way from a client. What is left of it when nobody reads it any more is left to its connection or stream.
#[derive(Debug)]
pub(super) struct Upload {
    /// Until it is dropped.
    body: Option<Source>,
    pub(super) exchange: Exchange,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    Alone(Arriving),
    Stream(Incoming),
}

impl Upload {
    /// The body of a request of HTTP/1.
    pub(super) fn alone(body: Arriving, exchange: &Exchange) -> Self {
        Self { body: Some(Source::Alone(body)), exchange: exchange.clone() }
    }

    /// The body of a request of HTTP/2, if it has one.
    pub(super) fn of_stream(body: Incoming, exchange: &Exchange) -> Option<Self> {
        (!body.is_end_stream()).then(|| Self { body: Some(Source::Stream(body)), exchange: exchange.clone() })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        match (&self.exchange, self.body.take()) {
            (_, Some(Source::Alone(body))) => body.leave(),
            (Exchange::Stream(stream), Some(Source::Stream(body))) if !body.is_end_stream() => stream.leave_unread(body),
            (Exchange::Alone(_) | Exchange::Stream(_), _) => {}
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let Self { body, exchange } = self.get_mut();
        let (polled, is_end_stream) = match body {
            None => return Poll::Ready(None),
            Some(Source::Alone(body)) => (body.poll_frame(cx), body.is_end_stream()),
            Some(Source::Stream(body)) => (Pin::new(&mut *body).poll_frame(cx).map_err(BodyFailure::Broken), body.is_end_stream()),
        };
        match exchange {
            // its socket sees what comes, and ends what does not
            Exchange::Alone(state) => {
                if is_end_stream && matches!(polled, Poll::Ready(None | Some(Ok(_)))) {
                    state.was_uploaded();
                }
                polled
            }
            // hyper takes it for the end if a stream is reset without an error, which is how balancers give one up: what has come of a
            // form would reach the site as all of it
            Exchange::Stream(stream) if matches!(polled, Poll::Ready(None)) && !is_end_stream => {
                stream.body_polled(Poll::Ready(Some(Err(BodyFailure::GivenUp))), cx)
            }
            Exchange::Stream(stream) => stream.body_polled(polled, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            None => true,
            Some(Source::Alone(body)) => body.is_end_stream(),
            Some(Source::Stream(body)) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            None => SizeHint::default(),
            Some(Source::Alone(body)) => body.size_hint(),
            Some(Source::Stream(body)) => body.size_hint(),
        }
    }
}
