//! The answer to a request, from the moment that its head is here: a panic costs that request alone, and the access log gets its line.

use std::convert::Infallible;
use std::future::{self, Future, Ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, StatusCode};

use super::exchange::{Exchange, Upload};
use super::facts;
use super::failures;
use super::handle::{self, Awaited, Handled, Peer};
use super::places::{self, Place};
use super::respond::{self, Answer};
use super::told::Told;
use crate::gate::Regime;
use crate::rules::uniform::unit;

/// The answer to a request: most of the visitors who wait get theirs at once, and pay for no more.
pub(super) enum Answering {
    AtOnce(Ready<Answer>),
    /// Until it has answered.
    Entered {
        entered: Option<Place>,
        logged: Option<Access>,
    },
    Awaited {
        peer: Arc<Peer>,
        exchange: Exchange,
        answer: Awaited,
        logged: Option<Access>,
    },
}

impl Answering {
    pub(super) fn to(peer: &Arc<Peer>, exchange: Exchange, request: Request<Option<Upload>>) -> Self {
        let worker = &*peer.worker;
        exchange.begin(request.body().is_some());
        let regime = worker.gate.regime();
        let logged = Access::of(peer, &regime, &request);
        let handled = std::panic::catch_unwind(AssertUnwindSafe(|| handle::handle(peer, &exchange, &regime, request)));
        match handled.unwrap_or_else(|_| failures::panicked(worker).into()) {
            Handled::Answered(answer, told) => Self::AtOnce(future::ready(finished(peer, &exchange, Some(&regime), logged, answer, told))),
            Handled::Entered(entered) => Self::Entered { entered: Some(entered), logged },
            Handled::Awaits(answer) => Self::Awaited { peer: Arc::clone(peer), exchange, answer, logged },
        }
    }
}

/// A panic on the way costs that request and no other.
impl Future for Answering {
    type Output = Result<Answer, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::AtOnce(answer) => Pin::new(answer).poll(cx).map(Ok),
            Self::Entered { entered: place, logged } => {
                let Some(entered) = place.as_deref_mut().and_then(Option::as_mut) else { return Poll::Pending };
                let (answer, told) = ready!(unpanicked(entered, cx)).unwrap_or_else(|| failures::panicked(&entered.peer.worker));
                let answer = finished(&entered.peer, &entered.exchange, None, logged.take(), answer, told);
                place.take().into_iter().for_each(places::give);
                Poll::Ready(Ok(answer))
            }
            Self::Awaited { peer, exchange, answer, logged } => {
                ready!(exchange.poll_begin(cx));
                let (answer, told) = ready!(unpanicked(answer, cx)).unwrap_or_else(|| failures::panicked(&peer.worker));
                Poll::Ready(Ok(finished(peer, exchange, None, logged.take(), answer, told)))
            }
        }
    }
}

/// What becomes of a future, or `None` if it has panicked.
fn unpanicked<F: Future + Unpin>(future: &mut F, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
    match std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    }
}

/// An answer as it goes to the connection. `regime`: if it is known, or else that of now.
fn finished(peer: &Peer, exchange: &Exchange, regime: Option<&Regime>, logged: Option<Access>, mut answer: Answer, told: Told) -> Answer {
    let Peer { worker, state, .. } = peer;
    let limit = || regime.map_or_else(|| worker.gate.regime().policy.limits.connections, |regime| regime.policy.limits.connections);
    let ends = exchange.has_unread() || worker.is_draining() || (!state.place.has_pass() && worker.connections.is_reserved(limit()));
    // a connection that switches protocols ends as one of requests anyway, and its `Connection` says so
    if ends && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        respond::close(&mut answer);
    }
    if let Some(logged) = logged {
        logged.write(answer.status(), &told);
    }
    match exchange {
        Exchange::Alone(_) => answer,
        Exchange::Stream(stream) => stream.translate(answer).map(|body| body.of(Arc::clone(stream))),
    }
}

/// A line of the access log: no query, which may hold a code; no token and no id of one; no address but the client's own.
///
/// Dropped unwritten, it tells of a request that has no answer, since its client has left or the gate has ended: a line without a status.
pub(super) struct Access {
    peer: Arc<Peer>,
    method: http::Method,
    path: String,
    client: std::net::IpAddr,
    started: crate::rules::time::Moment,
    is_written: bool,
}

impl Access {
    /// Draws whether this request is in the sample.
    fn of(peer: &Arc<Peer>, regime: &Regime, request: &Request<Option<Upload>>) -> Option<Self> {
        let worker = &*peer.worker;
        let share = regime.policy.log.access;
        let drawn = share >= 1.0 || (share > 0.0 && unit(worker.entropy()) < share);
        drawn.then(|| Self {
            peer: Arc::clone(peer),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            client: facts::client(&peer.state, request.headers(), regime).address,
            started: worker.clock.moment(),
            is_written: false,
        })
    }

    fn write(mut self, status: StatusCode, told: &Told) {
        self.is_written = true;
        self.tell(Some((status, told)));
    }

    fn tell(&self, answered: Option<(StatusCode, &Told)>) {
        let took = self.peer.worker.clock.moment().since(self.started);
        let because = answered.and_then(|(_, told)| told.because.as_deref());
        tracing::info!(
            target: "access",
            method = %self.method,
            path = self.path,
            client = %self.client,
            // what does not apply is left out
            status = answered.map(|(status, _)| status.as_u16()),
            verdict = answered.map(|(_, told)| told.verdict),
            reason = answered.map(|(_, told)| told.reason),
            observed = because.filter(|because| because.observed).map(|because| because.observed),
            probability = because.map(|because| because.probability),
            draw = because.and_then(|because| because.draw),
            weight = because.and_then(|because| because.weight),
            load = because.map(|because| because.load),
            limit = because.map(|because| because.limit),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if !self.is_written {
            self.tell(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_panic_is_the_end_of_that_future_alone() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut polls = 0;
        let mut breaks = pin!(future::poll_fn(|_| {
            polls += 1;
            assert!(polls < 2, "on purpose");
            Poll::<()>::Pending
        }));
        assert!(unpanicked(&mut breaks, &mut cx).is_pending(), "it has not panicked yet");
        assert_eq!(unpanicked(&mut breaks, &mut cx), Poll::Ready(None));
        assert_eq!(unpanicked(&mut future::ready("whole"), &mut cx), Poll::Ready(Some("whole")));
    }
}
