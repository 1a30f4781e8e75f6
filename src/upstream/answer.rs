//! One exchange with a server: a request out on a slot, the head of the answer back, and whatever happens to it counted once.
//!
//! Cancel-safe where it must be: if the client leaves before the head has come, the exchange goes on by itself, since the site's
//! worker does too; the slot is given back when the answer, or the response timeout, has come. So does the making of a connection, up to
//! where the request would be sent: clients that are less patient than `upstream.timeouts.connect` would else hide for ever that a server
//! takes none.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{ConnectError, Connection, Opened, RequestBody, SendError, SiteBody, Switched, TransportError, no_body};
use super::http2::Ride;
use super::relay::{self, AnswerBody};
use super::servers::Join;
use super::{BodyFailure, Slot, Upstream};
use crate::deadlines::Deadline;
use crate::metrics::{OutcomeLabel, Timing};
use crate::rules::headers::upgrade::switches_to_websocket;
use crate::rules::policy::Timeouts;
use crate::rules::time::Moment;
use crate::tls::client::{HandshakeError, Offer};

/// An answer of the site.
#[derive(Debug)]
pub struct Answered {
    /// Its head, as the site sent it.
    pub head: response::Parts,
    /// Its body, read ahead of the client.
    pub body: AnswerBody,
    /// The connection itself, if the site has switched protocols as it was asked to.
    pub switched: Option<Switched>,
}

/// What a request asks of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An answer.
    Answer,
    /// To switch to WebSocket; any other answer will do, too.
    WebSocket,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection could be made; no request was read by the server.
    #[error("no connection to the upstream server")]
    Connect(#[source] ConnectError),
    /// No response head within `upstream.timeouts.response`.
    #[error("no answer from the upstream server within the response timeout")]
    Timeout,
    /// The connection ended, or what came was not HTTP.
    #[error("the upstream server's answer broke off")]
    Upstream(#[source] TransportError),
    /// It switched protocols though the request did not ask for it, or to another protocol.
    #[error("the upstream server switched protocols unasked")]
    Switched,
    /// The request body could not be read from the client.
    #[error("the client's request body broke off")]
    Client(#[source] TransportError),
}

/// An answer later than this is counted as `slow`: what people call slow, and no input of the law.
const SLOW: Duration = Duration::from_secs(2);

/// How often a request is sent over HTTP/2 at most, as long as nothing is done with it: a server that takes few requests on a connection
/// (nginx: `keepalive_requests`) turns away those that were on their way with the last, and may do so on the next connection, too.
const TRIES_MAX: u32 = 5;

/// Sends a request, and is the head of its answer. A second try is made only if not a byte was sent, or the server says that it
/// has done nothing with it (HTTP/2: it has refused the stream, wants the request over HTTP/1.1, or has gone away before it; then further
/// ones, too); or if the method is idempotent, there is no body, and the connection had been used before: it may have been closing all
/// the while. If no connection can be made, it moves to another server, once, if there is one that has a slot for it at once.
///
/// It ends with why there is no answer, which is counted already.
pub fn send(slot: Slot, request: Request<RequestBody>, asked: Asked) -> Sending {
    Sending(Way::Due(Some((slot, request, asked))))
}

/// A request on its way. Nothing is sent before it is polled: a client that has left before that asks for nothing.
pub struct Sending(Way);

/// Most have a connection at once, and need no more than one.
#[expect(clippy::large_enum_variant, reason = "the large ones are the usual ones, and not worth a place of their own on the heap")]
enum Way {
    /// Until it is sent.
    Due(Option<(Slot, Request<RequestBody>, Asked)>),
    Once(Exchange),
    Further(Further),
}

/// A request that takes longer.
struct Further {
    /// Until it is over.
    trying: Option<Pin<Box<dyn Future<Output = Option<Tried>> + Send>>>,
    has_left: Arc<AtomicBool>,
}

/// What a request has come to.
type Tried = Result<Answered, Failure>;

impl Further {
    /// `trying` is told whether its client has left.
    fn new<F: Future<Output = Option<Tried>> + Send + 'static>(trying: impl FnOnce(Arc<AtomicBool>) -> F) -> Self {
        let has_left = Arc::default();
        Self { trying: Some(Box::pin(trying(Arc::clone(&has_left)))), has_left }
    }
}

impl Way {
    fn begin(mut slot: Slot, mut request: Request<RequestBody>, asked: Asked) -> Self {
        *request.version_mut() = Version::HTTP_11;
        say_if_empty(&mut request);
        slot.upstream.gate.sent(slot.worker);
        // a stream can't become a WebSocket
        let offer = if asked == Asked::WebSocket { Offer::Http1 } else { slot.settings.offer };
        match idle(&mut slot, offer) {
            Some(connection) => {
                let started = slot.taken;
                Self::Once(Exchange::begin(slot, connection, request, started, Try { asked, offer, number: 1 }))
            }
            // rarely needed, so it takes no room in every request
            None => Self::Further(Further::new(|left| connect(slot, request, Try { asked, offer, number: 1 }, left))),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        match &mut self.0 {
            // its slot and its connection are as good as before
            Way::Due(Some((slot, ..))) => slot.aborted(),
            Way::Further(Further { trying, has_left }) => {
                if let Some(trying) = trying.take() {
                    has_left.store(true, Ordering::Relaxed);
                    tokio::spawn(async move { drop(trying.await) });
                }
            }
            Way::Due(None) | Way::Once(_) => {}
        }
    }
}

/// A body that is empty has a length, where one could be: servers refuse a form without any (411).
fn say_if_empty(request: &mut Request<RequestBody>) {
    let may_have_one = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if may_have_one && request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

impl Future for Sending {
    type Output = Result<Answered, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Way::Due(due) => {
                    let Some((slot, request, asked)) = due.take() else { return Poll::Pending };
                    self.0 = Way::begin(slot, request, asked);
                }
                Way::Once(exchange) => match ready!(exchange.poll(cx)) {
                    Ok(answered) => return Poll::Ready(answered),
                    Err(unsent) => self.0 = Way::Further(Further::new(|left| again(unsent, left))),
                },
                Way::Further(further) => {
                    // taken out meanwhile: one that panics does not go on
                    let Some(mut trying) = further.trying.take() else { return Poll::Pending };
                    let Poll::Ready(tried) = trying.as_mut().poll(cx) else {
                        further.trying = Some(trying);
                        return Poll::Pending;
                    };
                    return tried.map_or(Poll::Pending, Poll::Ready);
                }
            }
        }
    }
}

/// One of several tries of a request.
#[derive(Clone, Copy)]
struct Try {
    asked: Asked,
    offer: Offer,
    /// From 1.
    number: u32,
}

/// A request that is to be sent once more.
struct Unsent {
    live: Live,
    request: Request<RequestBody>,
    next: Try,
}

impl Unsent {
    /// What the next try takes, once the connection of the last one is closed.
    async fn next(self) -> (Slot, Request<RequestBody>, Try) {
        let Self { live: Live { slot, connection, .. }, request, next } = self;
        if let Some(closing) = connection.close() {
            closing.await;
        }
        (slot, request, next)
    }
}

async fn again(unsent: Box<Unsent>, has_left: Arc<AtomicBool>) -> Option<Tried> {
    let (slot, request, next) = unsent.next().await;
    connect(slot, request, next, has_left).await
}

/// Sends a request for which a connection has to be made or waited for, and sends it as often as it may be. `None`: the client has left
/// before it was sent.
async fn connect(mut slot: Slot, mut request: Request<RequestBody>, mut this: Try, has_left: Arc<AtomicBool>) -> Option<Tried> {
    let has_left = || has_left.load(Ordering::Relaxed);
    let mut has_moved = false;
    loop {
        let connection = match connection(&mut slot, this.offer).await {
            Ok(connection) => connection,
            Err(error) => {
                unreached(&slot, &error);
                if has_left() {
                    tell_health(&mut slot, &error);
                    // another server might have given the answer: nothing to tell the law
                    return None;
                }
                // once: a request that tried one server after the other would be the more work, the more of them are dead
                if has_moved || !slot.move_on(error.is_own()) {
                    return Some(Err(unanswered(&mut slot, error)));
                }
                has_moved = true;
                continue;
            }
        };
        if has_left() {
            slot.aborted();
            slot.finish(connection);
            return None;
        }
        let started = slot.upstream.clock.moment();
        let mut exchange = Exchange::begin(slot, connection, request, started, this);
        match poll_fn(|cx| exchange.poll(cx)).await {
            Ok(answered) => return Some(answered),
            Err(unsent) => (slot, request, this) = unsent.next().await,
        }
        if has_left() {
            slot.aborted();
            return None;
        }
    }
}

/// What came with the slot, if it can be used at once. If it turns out to have closed meanwhile, nothing was sent on it.
fn idle(slot: &mut Slot, offer: Offer) -> Option<Connection> {
    let is_fit =
        |connection: &mut Connection| (offer == Offer::Http2 || matches!(connection, Connection::Http1(_))) && connection.is_ready();
    slot.connection.take_if(is_fit)
}

/// What came with the slot, or else what other requests of the worker share, or else a new connection.
async fn connection(slot: &mut Slot, offer: Offer) -> Result<Connection, ConnectError> {
    let came = slot.connection.take().filter(|came| offer == Offer::Http2 || matches!(came, Connection::Http1(_)));
    let came = match came {
        // who could have had a place on one of HTTP/2 was given none of these
        None if offer != slot.settings.offer => slot.upstream.take_idle(slot.grant.server, slot.worker),
        came => came,
    };
    if let Some(mut connection) = came {
        if poll_fn(|cx| connection.poll_usable(cx)).await {
            return Ok(connection);
        }
        if let Some(closing) = connection.close() {
            closing.await;
        }
    }
    open(slot, offer).await
}

async fn open(slot: &mut Slot, offer: Offer) -> Result<Connection, ConnectError> {
    let upstream = Arc::clone(&slot.upstream);
    let server = slot.grant.server;
    let Timeouts { connect, response, .. } = slot.settings.timeouts;
    let (leading, left) = match offer {
        Offer::Http1 => (None, connect),
        Offer::Http2 => match join(&upstream, server, slot.worker, connect).await? {
            Joined::Rides(ride) => return Ok(Connection::Http2(ride)),
            // dropped, it tells those who wait to look again
            Joined::Makes(leading, left) => (leading, left),
        },
    };
    let (way, troubled) = upstream.way_to(server, offer);
    let opening = Opened::at(way, response, &upstream.workers[slot.worker].deadlines, slot.worker);
    match timeout(left, opening).await.unwrap_or(Err(ConnectError::Timeout)) {
        Ok(opened) => {
            let connection = upstream.opened(server, opened, offer, troubled, slot.worker);
            drop(leading);
            Ok(connection)
        }
        Err(error) => {
            if let Some(leading) = leading {
                leading.send_replace(());
            }
            upstream.doubt_address(server);
            Err(error)
        }
    }
}

/// How a request comes to a connection of HTTP/2.
enum Joined {
    Rides(Ride),
    /// It makes one, with so much time for it; if others wait for that, they are told by this.
    Makes(Option<watch::Sender<()>>, Duration),
}

/// A place on a connection that the worker's requests share, once there is one; or else what to hold while one is made.
async fn join(upstream: &Upstream, server: usize, worker: usize, connect: Duration) -> Result<Joined, ConnectError> {
    let mut left = connect;
    loop {
        let mut made = match upstream.join(server, worker) {
            Join::Ride(ride) => return Ok(Joined::Rides(ride)),
            Join::Lead(leading) => return Ok(Joined::Makes(leading, left)),
            Join::Wait(made) => made,
        };
        let began = upstream.clock.moment();
        match timeout(left, made.changed()).await {
            // one was made, and may have no room for all: the server takes connections
            Ok(Err(_)) => left = connect,
            Ok(Ok(())) => {
                left = left.saturating_sub(upstream.clock.moment().since(began));
                // none could be made. Who has waited for it has no more time than who has not, and what is too little proves nothing.
                // Nobody waits for the next who can't: all try at once
                return if left * 4 < connect { Err(ConnectError::Awaited) } else { Ok(Joined::Makes(None, left)) };
            }
            Err(_) => return Err(ConnectError::Awaited),
        }
    }
}

/// No connection could be made to the server of a slot. Each is counted, also one in whose place another gives the answer.
fn unreached(slot: &Slot, error: &ConnectError) {
    slot.count(OutcomeLabel::Connect);
    if error.is_own() {
        slot.upstream.unreached(slot.grant.server, error);
    }
}

/// No connection could be made, and the request is over with that: the law is told once for all that was tried.
fn unanswered(slot: &mut Slot, error: ConnectError) -> Failure {
    tell_health(slot, &error);
    slot.tell_law(false);
    Failure::Connect(error)
}

fn tell_health(slot: &mut Slot, error: &ConnectError) {
    if error.is_own() {
        slot.good(false);
    }
}

/// A body that streams from the client: the response timeout does not count while the client is waited for, and starts again with each
/// piece.
struct Timed {
    body: UnsyncBoxBody<Bytes, BodyFailure>,
    patience: Patience,
}

struct Patience {
    deadline: Arc<Deadline>,
    timeout: Duration,
}

fn timed(body: RequestBody, patience: Patience) -> RequestBody {
    match body {
        Either::Right(body) => Either::Right(Timed { body, patience }.boxed_unsync()),
        Either::Left(body) => Either::Left(body),
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match polled {
            Poll::Pending => self.patience.deadline.clear(),
            Poll::Ready(_) => self.patience.deadline.set(self.patience.timeout),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request under way.
struct Exchange(Option<Live>);

struct Live {
    /// Before the slot, which is given back when it is closed.
    connection: Connection,
    slot: Slot,
    started: Moment,
    this: Try,
}

impl Exchange {
    fn begin(slot: Slot, mut connection: Connection, mut request: Request<RequestBody>, started: Moment, this: Try) -> Self {
        let timeout = slot.settings.timeouts.response;
        connection.deadline().set(timeout);
        if let Either::Right(_) = request.body() {
            let patience = Patience { deadline: Arc::clone(connection.deadline()), timeout };
            let body = std::mem::replace(request.body_mut(), no_body());
            *request.body_mut() = timed(body, patience);
        }
        connection.send(request);
        Self(Some(Live { slot, connection, started, this }))
    }

    /// The answer, or what is to be sent again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<Answered, Failure>, Box<Unsent>>> {
        let Some(live) = &mut self.0 else { return Poll::Pending };
        let sent = ready!(live.connection.poll_answer(cx));
        let Some(live) = self.0.take() else { return Poll::Pending };
        Poll::Ready(match sent {
            Ok(answer) => Ok(live.answered(answer)),
            Err(failed) => live.once_more(failed).map_or_else(|failure| Ok(Err(failure)), Err),
        })
    }
}

impl Drop for Exchange {
    /// The client has left before the head came: the exchange goes on without it.
    fn drop(&mut self) {
        let Some(mut live) = self.0.take() else { return };
        tokio::spawn(async move {
            match poll_fn(|cx| live.connection.poll_answer(cx)).await {
                Ok(answer) => drop(live.answered(answer)),
                Err(failed) => drop(live.failed(failed.error)),
            }
        });
    }
}

impl Live {
    fn answered(self, answer: Response<SiteBody>) -> Result<Answered, Failure> {
        let Self { mut slot, connection, started, this } = self;
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && (this.asked != Asked::WebSocket || !switches_to_websocket(answer.headers())) {
            // what follows is neither HTTP nor what was asked for: a client that got this answer could talk to the site past the gate
            slot.good(false);
            slot.observe(OutcomeLabel::Error, false);
            slot.finish_closed(connection);
            return Err(Failure::Switched);
        }
        let now = slot.upstream.clock.moment();
        slot.ended = Some(now);
        let waited = now.since(started);
        let shard = &slot.upstream.workers[slot.worker].shard;
        shard.observe(Timing::FirstByte, waited);
        let (head, body) = answer.into_parts();
        let good = !head.status.is_server_error();
        slot.good(good);
        let outcome = match good {
            true if waited > SLOW => OutcomeLabel::Slow,
            true => OutcomeLabel::Ok,
            false => OutcomeLabel::Error,
        };
        if switches {
            // the request is over, and the slot free; the connection is nobody else's any more
            connection.deadline().clear();
            slot.observe(outcome, good);
            return Ok(Answered { head, body: AnswerBody::Piece(None), switched: connection.switched() });
        }
        if body.is_end_stream() {
            connection.deadline().clear();
        }
        let body = relay::answer_body(body, relay::Held { slot, connection, outcome, good }, &head.headers)
            .map_err(|error| if error.is_clients() { Failure::Client(error) } else { Failure::Upstream(error) })?;
        Ok(Answered { head, body, switched: None })
    }

    /// What is to be sent again.
    ///
    /// # Errors
    /// Nothing can be: why there is no answer.
    fn once_more(self, failed: SendError) -> Result<Box<Unsent>, Failure> {
        let SendError { request, is_untouched, error } = failed;
        let timed_out = self.connection.deadline().has_fired();
        let refused = !self.connection.is_reused() && HandshakeError::late(&error).is_some();
        let retry = if is_untouched && matches!(error, TransportError::Http2(_)) {
            self.this.number < TRIES_MAX
        } else {
            self.this.number == 1 && (is_untouched || (self.connection.is_reused() && error.is_of_connection()))
        };
        // one that was idle may have closed long ago, and is not looked at before: that was no try
        let was_stale = is_untouched && matches!(error, TransportError::Http1(_)) && self.connection.is_reused();
        let number = self.this.number + u32::from(!was_stale);
        let offer = if error.wants_http1() { Offer::Http1 } else { self.this.offer };
        match request.filter(|_| retry && !timed_out && !refused) {
            Some(request) => Ok(Box::new(Unsent { next: Try { offer, number, ..self.this }, live: self, request: *request })),
            None => Err(self.failed(error)),
        }
    }

    fn failed(self, error: TransportError) -> Failure {
        let Self { mut slot, connection, started, .. } = self;
        let failure = if connection.deadline().has_fired() {
            if connection.is_reused() {
                slot.upstream.doubt_idle(slot.grant.server, started);
            }
            slot.good(false);
            slot.observe(OutcomeLabel::Timeout, false);
            Failure::Timeout
        } else if error.is_clients() {
            slot.aborted();
            Failure::Client(error)
        } else if let Some(refused) = HandshakeError::late(&error).filter(|_| !connection.is_reused()) {
            // the connection has taken the request, so that no other server can have it
            let error = ConnectError::Tls(refused);
            unreached(&slot, &error);
            unanswered(&mut slot, error)
        } else {
            slot.good(false);
            slot.observe(OutcomeLabel::Error, false);
            Failure::Upstream(error)
        };
        slot.finish_closed(connection);
        failure
    }
}
