//! One exchange with a server: a request out on a slot, the head of the answer back, and whatever happens to it counted once.
//!
//! Cancel-safe where it must be: if the client leaves before the head has come, the exchange goes on by itself, since the site's
//! worker does too; the slot is given back when the answer, or the response timeout, has come.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Empty};
use memchr::memchr;
use tokio::sync::watch;

use super::connection::{ConnectError, Connection, Opened, RequestBody, SendError, SiteBody, Switched, TransportError};
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
/// the while.
///
/// It ends with why there is no answer, which is counted already.
pub fn send(mut slot: Slot, mut request: Request<RequestBody>, asked: Asked) -> Sending {
    *request.version_mut() = Version::HTTP_11;
    slot.upstream.gate.sent(slot.worker);
    // a stream can't become a WebSocket
    let offer = if asked == Asked::WebSocket { Offer::Http1 } else { slot.settings.offer };
    match idle(&mut slot, offer) {
        Some(connection) => {
            let started = slot.taken;
            Sending(Way::Once(Exchange::begin(slot, connection, request, started, Try { asked, offer, number: 1 })))
        }
        // rarely needed, so it takes no room in every request
        None => Sending(Way::Further(Box::pin(connect(slot, request, Try { asked, offer, number: 1 })))),
    }
}

/// A request on its way.
pub struct Sending(Way);

/// Most have a connection at once, and need no more than one.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and is not worth a place of its own on the heap")]
enum Way {
    Once(Exchange),
    Further(Pin<Box<dyn Future<Output = Result<Answered, Failure>> + Send>>),
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
                Way::Once(exchange) => match ready!(exchange.poll(cx)) {
                    Ok(answered) => return Poll::Ready(answered),
                    Err(unsent) => self.0 = Way::Further(Box::pin(again(unsent))),
                },
                Way::Further(answered) => return answered.as_mut().poll(cx),
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

async fn again(unsent: Box<Unsent>) -> Result<Answered, Failure> {
    let (slot, request, next) = unsent.next().await;
    connect(slot, request, next).await
}

/// Sends a request for which a connection has to be made or waited for, and sends it as often as it may be.
async fn connect(mut slot: Slot, mut request: Request<RequestBody>, mut this: Try) -> Result<Answered, Failure> {
    loop {
        let connection = connection(&mut slot, this.offer).await?;
        let started = slot.upstream.clock.moment();
        let mut exchange = Exchange::begin(slot, connection, request, started, this);
        match poll_fn(|cx| exchange.poll(cx)).await {
            Ok(answered) => return answered,
            Err(unsent) => (slot, request, this) = unsent.next().await,
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
async fn connection(slot: &mut Slot, offer: Offer) -> Result<Connection, Failure> {
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

async fn open(slot: &mut Slot, offer: Offer) -> Result<Connection, Failure> {
    let upstream = Arc::clone(&slot.upstream);
    let server = slot.grant.server;
    let leading = match offer {
        Offer::Http1 => None,
        Offer::Http2 => match join(&upstream, server, slot.worker).await {
            Ok(ride) => return Ok(Connection::Http2(ride)),
            // dropped, it tells those who wait to look again
            Err(leading) => leading,
        },
    };
    let (way, troubled) = upstream.way_to(server, offer);
    let worker = &upstream.workers[slot.worker];
    let Timeouts { connect, response, .. } = slot.settings.timeouts;
    match Opened::at(way, connect, response, &worker.deadlines, slot.worker).await {
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
            Err(unreached(slot, error))
        }
    }
}

/// A place on a connection that the worker's requests share, once there is one; or else what to hold while one is made.
async fn join(upstream: &Upstream, server: usize, worker: usize) -> Result<Ride, Option<watch::Sender<()>>> {
    loop {
        match upstream.join(server, worker) {
            Join::Ride(ride) => return Ok(ride),
            Join::Lead(leading) => return Err(leading),
            Join::Wait(mut made) => {
                // if none could be made, nobody waits for the next who can't: all try at once
                if made.changed().await.is_ok() {
                    return Err(None);
                }
            }
        }
    }
}

fn unreached(slot: &mut Slot, error: ConnectError) -> Failure {
    slot.good(false);
    slot.observe(OutcomeLabel::Connect, false);
    slot.upstream.unreached(slot.grant.server, &error);
    Failure::Connect(error)
}

/// What it takes to send a request again.
struct Spare {
    method: Method,
    uri: Uri,
    /// Copied, each as `name:value` and a line feed, which neither holds: what shares the memory of the headers costs more to make and to
    /// drop, and this is hardly ever needed.
    headers: Vec<u8>,
}

/// Bytes that the headers of most requests take.
const USUAL_HEADERS: usize = 1024;

impl Spare {
    /// Of a request that may be sent twice: idempotent (RFC 9110, 9.2.2), and without a body.
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        let empty = matches!(request.body(), Either::Left(Either::Left(_)));
        let idempotent =
            matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE);
        (empty && idempotent).then(|| {
            let mut headers = Vec::with_capacity(USUAL_HEADERS);
            for (name, value) in request.headers() {
                headers.extend_from_slice(name.as_str().as_bytes());
                headers.push(b':');
                headers.extend_from_slice(value.as_bytes());
                headers.push(b'\n');
            }
            Self { method: request.method().clone(), uri: request.uri().clone(), headers }
        })
    }

    /// The request; `None` if it can't be one, and it was.
    fn into_request(self) -> Option<Request<RequestBody>> {
        let mut request = Request::new(Either::Left(Either::Left(Empty::new())));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        for line in self.headers.split_inclusive(|&byte| byte == b'\n') {
            let (name, value) = line.strip_suffix(b"\n")?.split_at_checked(memchr(b':', line)?)?;
            request.headers_mut().append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(&value[1..]).ok()?);
        }
        Some(request)
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
struct Exchange {
    live: Option<Live>,
    /// What may have to be sent again.
    spare: Option<Spare>,
}

struct Live {
    /// Before the slot, which is given back when it is closed.
    connection: Connection,
    slot: Slot,
    started: Moment,
    this: Try,
}

impl Exchange {
    fn begin(slot: Slot, mut connection: Connection, mut request: Request<RequestBody>, started: Moment, this: Try) -> Self {
        let spare = (this.number == 1 && connection.is_reused()).then(|| Spare::of(&request)).flatten();
        let timeout = slot.settings.timeouts.response;
        connection.deadline().set(timeout);
        if let Either::Right(_) = request.body() {
            let patience = Patience { deadline: Arc::clone(connection.deadline()), timeout };
            let body = std::mem::replace(request.body_mut(), Either::Left(Either::Left(Empty::new())));
            *request.body_mut() = timed(body, patience);
        }
        connection.send(request);
        Self { live: Some(Live { slot, connection, started, this }), spare }
    }

    /// The answer, or what is to be sent again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<Answered, Failure>, Box<Unsent>>> {
        let Some(live) = &mut self.live else { return Poll::Pending };
        let sent = ready!(live.connection.poll_answer(cx));
        let Some(live) = self.live.take() else { return Poll::Pending };
        Poll::Ready(match sent {
            Ok(answer) => Ok(live.answered(answer)),
            Err(failed) => live.once_more(failed, self.spare.take()).map_or_else(|failure| Ok(Err(failure)), Err),
        })
    }
}

impl Drop for Exchange {
    /// The client has left before the head came: the exchange goes on without it.
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        tokio::spawn(async move {
            match poll_fn(|cx| live.connection.poll_answer(cx)).await {
                Ok(answer) => drop(live.answered(answer)),
                Err(failed) => drop(live.failed(failed.error)),
            }
        });
    }
}

impl Live {
    fn answered(self, mut answer: Response<SiteBody>) -> Result<Answered, Failure> {
        let Self { mut slot, connection, started, this } = self;
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && (this.asked != Asked::WebSocket || !switches_to_websocket(answer.headers())) {
            // what follows is neither HTTP nor what was asked for: a client that got this answer could talk to the site past the gate
            slot.good(false);
            slot.observe(OutcomeLabel::Error, false);
            // it has the socket
            drop(answer);
            slot.finish_closed(connection);
            return Err(Failure::Switched);
        }
        let now = slot.upstream.clock.moment();
        slot.ended = Some(now);
        let waited = now.since(started);
        let shard = &slot.upstream.workers[slot.worker].shard;
        shard.observe(Timing::FirstByte, waited);
        let switched = switches.then(|| Switched::of(&mut answer));
        let (head, body) = answer.into_parts();
        let good = !head.status.is_server_error();
        slot.good(good);
        let outcome = match good {
            true if waited > SLOW => OutcomeLabel::Slow,
            true => OutcomeLabel::Ok,
            false => OutcomeLabel::Error,
        };
        if switched.is_some() {
            // the request is over, and the slot free; the connection is nobody else's any more
            connection.deadline().clear();
            connection.hand_over();
            slot.observe(outcome, good);
            return Ok(Answered { head, body: AnswerBody::Piece(None), switched });
        }
        // 1.0 servers, and those that say so, end the connection with the answer
        let closes = head.version == Version::HTTP_10
            || head.headers.get_all(header::CONNECTION).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        if body.is_end_stream() {
            connection.deadline().clear();
        }
        let body = relay::answer_body(body, relay::Held { slot, connection, outcome, good, reusable: !closes });
        Ok(Answered { head, body, switched })
    }

    /// What is to be sent again.
    ///
    /// # Errors
    /// Nothing can be: why there is no answer.
    fn once_more(self, failed: SendError, spare: Option<Spare>) -> Result<Box<Unsent>, Failure> {
        let timed_out = self.connection.deadline().has_fired();
        let refused = !self.connection.is_reused() && HandshakeError::late(&failed.error).is_some();
        let retry = match (&failed.request, &failed.error) {
            (Some(_), TransportError::Http2(_)) => self.this.number < TRIES_MAX,
            (Some(_), TransportError::Http1(_) | TransportError::Body(_)) => self.this.number == 1,
            (None, error) => spare.is_some() && error.is_of_connection(),
        };
        let SendError { request, error } = failed;
        // one that was idle may have closed long ago, and is not looked at before: that was no try
        let was_stale = request.is_some() && matches!(error, TransportError::Http1(_)) && self.connection.is_reused();
        let number = self.this.number + u32::from(!was_stale);
        let offer = if error.wants_http1() { Offer::Http1 } else { self.this.offer };
        let next = request.map(|request| *request).or_else(|| spare.and_then(Spare::into_request));
        match next.filter(|_| retry && !timed_out && !refused) {
            Some(request) => Ok(Box::new(Unsent { next: Try { offer, number, ..self.this }, live: self, request })),
            None => Err(self.failed(error)),
        }
    }

    fn failed(self, error: TransportError) -> Failure {
        let Self { mut slot, connection, .. } = self;
        let failure = if connection.deadline().has_fired() {
            slot.good(false);
            slot.observe(OutcomeLabel::Timeout, false);
            Failure::Timeout
        } else if error.is_clients() {
            slot.aborted();
            Failure::Client(error)
        } else if let Some(refused) = HandshakeError::late(&error).filter(|_| !connection.is_reused()) {
            unreached(&mut slot, ConnectError::Tls(refused))
        } else {
            slot.good(false);
            slot.observe(OutcomeLabel::Error, false);
            Failure::Upstream(error)
        };
        slot.finish_closed(connection);
        failure
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_request_that_is_sent_again_is_the_same() {
        let bodyless = || Either::Left(Either::Left(Empty::new()));
        for target in ["/", "/a?b=c:d", "*", "/%C3%BC//..;?", "http://site.example:8080/a?b", "http://site.example"] {
            let request = Request::builder().method("OPTIONS").uri(target).body(bodyless()).unwrap();
            assert_eq!(Spare::of(&request).unwrap().into_request().unwrap().uri(), request.uri(), "{target}");
        }
        let query = Uri::try_from("http://site.example?a").unwrap().path_and_query().unwrap().clone();
        assert_eq!(query.as_str(), "?a");
        let request = Request::builder().uri(Uri::from(query)).body(bodyless()).unwrap();
        assert_eq!(Spare::of(&request).unwrap().into_request().unwrap().uri(), "/?a");
        let request = Request::builder().method("PUT").uri("/a");
        let headers = [("host", "a:1"), ("x-empty", ""), ("x-two", "1"), ("cookie", "a=b; c=\u{fc}:\t\"d\""), ("x-two", "2")];
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value.as_bytes()));
        let request = request.header("x-long", "l".repeat(5000)).body(bodyless()).unwrap();
        let again = Spare::of(&request).unwrap().into_request().unwrap();
        assert_eq!((again.method(), again.uri(), again.version()), (request.method(), request.uri(), request.version()));
        assert_eq!(again.headers(), request.headers());
    }

    #[test]
    fn what_must_not_be_sent_again_is_not_kept() {
        let request = |method: &str, body| Request::builder().method(method).body(body).unwrap();
        let none = || Either::Left(Either::Left(Empty::new()));
        for (method, is_kept) in [("GET", true), ("HEAD", true), ("DELETE", true), ("POST", false), ("PATCH", false), ("REPORT", false)] {
            assert_eq!(Spare::of(&request(method, none())).is_some(), is_kept, "{method}");
        }
        assert!(Spare::of(&request("PUT", Either::Left(Either::Right(Full::new(Bytes::from_static(b"body")))))).is_none());
    }
}
