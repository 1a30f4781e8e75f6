//! One request, top to bottom: every exit is in [`handle`], or for those who enter in [`enter`], [`enter_later`] and [`Entered::answer`].

use std::error::Error;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::Worker;
use super::body::{ClientBody, ReadAhead, read_ahead};
use super::connections::{Phase, State};
use super::exchange::{Exchange, Upload};
use super::facts::{self, Facts};
use super::places::{self, Place};
use super::reserved;
use super::respond::{self, Answer, status};
use super::upgrade::{Full, Upgrade, Upgraded};
use super::verified::Verified;
use crate::gate::{Decision, Regime, Visit};
use crate::metrics::{Count, NewcomerLabel, ObservedLabel, Refusal, Shard, Timing, TokenRejection, UpgradeResult, VerdictLabel};
use crate::page::{FailureKind, Pages};
use crate::rules::decide::{Ended, Reason, Verdict, ticket_holds};
use crate::rules::headers::check::{self, BadRequest, Target};
use crate::rules::headers::cookies::{self, Attributes, Kind};
use crate::rules::headers::forwarded::{self, PeerValues};
use crate::rules::headers::head::Head;
use crate::rules::headers::{PASS_HEADER, cache, hop, http2, upgrade};
use crate::rules::negotiate::{self, Form};
use crate::rules::redirect;
use crate::rules::slots::Ask;
use crate::rules::time::{Moment, Now, UnixTime};
use crate::rules::token::{Pass, Ticket};
use crate::tls::client::HandshakeError;
use crate::upstream::{self, Answered, Asked, BodyFailure, ConnectError, Failure, Sending, Slot};

/// How long an unsafe method waits for a slot: a form that was filled in is worth half a minute.
const UNSAFE_DEADLINE: Duration = Duration::from_secs(30);

/// What of a connection its requests share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) worker: Arc<Worker>,
    pub(super) state: Arc<State>,
    pub(super) values: Mutex<PeerValues>,
    pub(super) verified: Verified,
    /// What the connection becomes once its last answer, a 101, is written.
    pub(super) upgraded: Mutex<Option<Box<Upgraded>>>,
}

impl Peer {
    pub(super) fn take_upgraded(&self) -> Option<Box<Upgraded>> {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn becomes(&self, upgraded: Box<Upgraded>) {
        *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgraded);
    }
}

/// What the access log tells of a request.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) verdict: &'static str,
    pub(super) reason: &'static str,
    /// Of a request that was decided on, if there is an access log.
    pub(super) because: Option<Box<Because>>,
}

/// What a verdict was reached by. A draw may be told: it is a keyed hash, from which neither the key nor the next draw can be had, and
/// nobody enters by it but with the ticket, which is never told.
#[derive(Clone, Debug)]
pub(super) struct Because {
    /// The odds of weight 1: those of the draw, else those of now.
    pub(super) probability: f64,
    /// Load as of the last tick.
    pub(super) load: f64,
    /// What keeps newcomers out.
    pub(super) limit: &'static str,
    /// The draw, and the weight by which the odds were multiplied.
    pub(super) draw: Option<f64>,
    pub(super) weight: Option<f64>,
    /// The verdict was not carried out: the request went to the site.
    pub(super) observed: bool,
}

/// What becomes of a request.
pub(super) enum Handled {
    /// The answer is there.
    Answered(Answer, Told),
    /// It has a slot, and goes to the site as soon as it is polled.
    Entered(Place),
    /// The site or the client has to do its part first. On the heap: those who wait are many, and need no room for it.
    Awaits(Awaited),
}

/// An answer that is not there yet.
pub(super) type Awaited = Pin<Box<dyn Future<Output = (Answer, Told)> + Send>>;

impl From<(Answer, Told)> for Handled {
    fn from((answer, told): (Answer, Told)) -> Self {
        Self::Answered(answer, told)
    }
}

/// Decides on one request, and answers those who don't enter.
pub(super) fn handle(peer: &Arc<Peer>, exchange: &Exchange, regime: &Arc<Regime>, request: Request<Option<Upload>>) -> Handled {
    let worker = &*peer.worker;
    let (mut parts, body) = request.into_parts();
    let now = worker.clock.now();

    if parts.version == Version::HTTP_2 {
        if http2::list_bytes(&parts.method, &parts.uri, &parts.headers) > regime.policy.limits.header_bytes {
            return Handled::Answered(head_too_large(worker, regime, &parts), told("refused", Refusal::HeadTooLarge.label()));
        }
        http2::settle(&parts.uri, &mut parts.headers);
    }
    let head = Head::from(&parts.headers);
    let target = match check::check_request(&parts.method, &parts.uri, parts.version, head) {
        Ok(target) => target,
        Err(bad) => return Handled::Answered(refuse(worker, exchange, regime, &parts, bad), told("refused", bad.label())),
    };
    if let Some(to) = redirected(peer, regime, &parts, head, target) {
        return Handled::Answered(respond::redirect(&to), told("redirected", "https"));
    }
    if parts.uri.path().starts_with(reserved::PREFIX) {
        let (peer, exchange, regime) = (Arc::clone(peer), exchange.clone(), Arc::clone(regime));
        return Handled::Awaits(Box::pin(async move {
            (reserved::answer(&peer, &exchange, &regime, &parts, body, now).await, told("reserved", "reserved"))
        }));
    }

    let facts = facts::read(&parts, head, &peer.state, &peer.verified, regime, now, &worker.shard);
    let visit = visit(worker, regime, &facts);
    let decision = worker.gate.decide(worker.index, regime, &visit, now);
    count_ended(worker, &decision);
    if decision.pass.is_some() {
        peer.state.place.showed_pass();
    }
    if decision.newcomer {
        let label = if decision.verdict == Verdict::Wait { NewcomerLabel::Wait } else { NewcomerLabel::Admit };
        worker.shard.count(Count::Newcomer(label));
    }
    if let Some(retry) = decision.too_often.filter(|_| !decision.observed) {
        worker.shard.count(Count::Refused(Refusal::PassRate));
        let kind = FailureKind::TooManyRequests { retry_s: respond::seconds(retry) };
        let answer = respond::failure(&regime.pages, kind, facts.form, status::RATE);
        return Handled::Answered(answer, told_why(regime, &decision, "refused", Reason::PassRate.name()));
    }
    if !decision.enters() {
        worker.shard.count(Count::Request(VerdictLabel::Wait));
        let cookie = decision.set_ticket.map(|ticket| ticket_cookie(regime, facts.client.scheme_https, &ticket));
        let mut answer = respond::waiting(&worker.pages, regime, &decision, &facts, &parts, cookie);
        if worker.connections.is_short(regime.policy.limits.connections) {
            respond::close(&mut answer);
        }
        return Handled::Answered(answer, told_why(regime, &decision, decision.verdict.name(), decision.reason.name()));
    }
    let (peer, exchange, regime) = (Arc::clone(peer), exchange.clone(), Arc::clone(regime));
    enter(Entering { peer, exchange, regime, parts, body, facts, decision, now })
}

/// Where a request is sent that came in plaintext and should not. Probes of load balancers stay.
fn redirected(peer: &Peer, regime: &Regime, parts: &Parts, head: Head<'_>, asked: Target<'_>) -> Option<HeaderValue> {
    let hosts = &regime.policy.listen.https.as_ref().filter(|https| !https.redirect.is_empty())?.redirect;
    let is_tls = facts::client(&peer.state, head, regime).scheme_https;
    if is_tls || asked.path == reserved::HEALTH || !asked.path.starts_with('/') {
        return None;
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    redirect::to_https(hosts, asked.authority?, target).and_then(|to| HeaderValue::try_from(to).ok())
}

/// A request that may enter.
struct Entering {
    peer: Arc<Peer>,
    exchange: Exchange,
    regime: Arc<Regime>,
    parts: Parts,
    /// Until it is read, or taken along.
    body: Option<Upload>,
    facts: Facts,
    decision: Decision,
    now: Now,
}

impl Entering {
    /// An answer that the gate composes itself, with the pass.
    fn composed(&self, mut answer: Answer) -> Answer {
        Tokens::of(self).set(&self.regime, answer.headers_mut());
        answer
    }
}

/// Makes the request of one who may enter ready for the site, at once if there is a slot for it; the answer is what comes back.
fn enter(mut entering: Entering) -> Handled {
    let Entering { peer, regime, parts, body, facts, decision, .. } = &mut entering;
    let websocket = match Upgrade::of(peer, regime, parts, body.is_some(), facts.client.address, decision.pass) {
        Ok(websocket) => websocket,
        Err(Full) => {
            peer.worker.shard.count(Count::Refused(Refusal::Upgrades));
            let told = told_why(regime, decision, "refused", Refusal::Upgrades.label());
            return (entering.composed(respond::no_upgrade(&entering.regime.pages, entering.facts.form)), told).into();
        }
    };
    // a stream has its turn first: its client may have left already
    let is_at_once = entering.body.is_none() && matches!(entering.exchange, Exchange::Alone(_));
    let at_once = if is_at_once { slot_at_once(&entering, entering.now.mono) } else { None };
    match at_once {
        Some(slot) => Handled::Entered(places::take(Entered::send(entering, websocket, None, slot))),
        None => Handled::Awaits(enter_later(entering, websocket)),
    }
}

/// The same for one whose body has to be read first, or who may have to wait for a slot. What each of that takes is on the heap only for
/// as long as it lasts.
fn enter_later(mut entering: Entering, websocket: Option<Upgrade>) -> Awaited {
    // a block, since a function would hold what it is given twice
    Box::pin(async move {
        let ahead = match entering.body.take() {
            None => None,
            Some(body) => match Box::pin(read(&entering, body)).await {
                Ok(ahead) => Some(ahead),
                Err(error) => {
                    let Entering { peer, exchange, regime, facts, .. } = &entering;
                    return (body_failed(&peer.worker, exchange, regime, facts.form, &error), told("refused", "body"));
                }
            },
        };
        let slot = match slot_at_once(&entering, entering.peer.worker.clock.moment()) {
            Some(slot) => slot,
            None => match Box::pin(slot(&entering)).await {
                Ok(slot) => slot,
                Err(shed) => return shed,
            },
        };
        Box::new(Entered::send(entering, websocket, ahead, slot)).await
    })
}

/// A request that has its slot, and what is needed of it when the answer is there: the less, the more of those who wait fit into memory.
pub(super) struct Entered {
    sending: Sending,
    pub(super) peer: Arc<Peer>,
    pub(super) exchange: Exchange,
    regime: Arc<Regime>,
    websocket: Option<Upgrade>,
    tokens: Tokens,
    form: Form,
    told: Told,
}

impl Entered {
    fn send(mut entering: Entering, websocket: Option<Upgrade>, ahead: Option<ReadAhead>, slot: Slot) -> Self {
        let tokens = Tokens::of(&entering);
        let Entering { peer, regime, parts, facts, decision, .. } = &mut entering;
        let worker = &*peer.worker;
        let told = count_entry(worker, regime, decision);
        if let Some(waited) = decision.waited.filter(|_| !decision.observed) {
            worker.shard.observe(Timing::Wait, waited);
        }
        clean_request(parts, peer, facts, ahead.is_some(), regime);
        let asked = if websocket.is_some() {
            upgrade::set_websocket(&mut parts.headers);
            Asked::WebSocket
        } else {
            Asked::Answer
        };
        let Entering { peer, exchange, regime, parts, facts, .. } = entering;
        let body = ahead.map_or_else(upstream::no_body, ReadAhead::into_request_body);
        let sending = upstream::send(slot, Request::from_parts(parts, body), asked);
        Self { sending, peer, exchange, regime, websocket, tokens, form: facts.form, told }
    }

    /// The answer to the visitor, once there is one of the site.
    fn answer(&mut self, sent: Result<Answered, Failure>) -> Answer {
        let Self { peer, exchange, regime, websocket, tokens, form, .. } = self;
        let worker = &*peer.worker;
        let websocket = websocket.take();
        if websocket.is_some() {
            let switched = sent.as_ref().is_ok_and(|answered| answered.switched.is_some());
            worker.shard.count(Count::Upgrade(if switched { UpgradeResult::Switched } else { UpgradeResult::Refused }));
        }
        match sent {
            Ok(answered) => {
                if answered.body.is_stream_of_events() {
                    peer.state.streams();
                }
                let mut answer = Response::from_parts(answered.head, ClientBody::site(answered.body));
                let version = std::mem::replace(answer.version_mut(), Version::HTTP_11);
                let headers = answer.headers_mut();
                if version == Version::HTTP_2 {
                    hop::strip_odd_names(headers);
                }
                if hop::strip_response(headers) {
                    cookies::strip_from_site(headers);
                }
                if tokens.set(regime, headers) {
                    cache::make_private(headers);
                }
                if let (Some(websocket), Some(site)) = (websocket, answered.switched) {
                    upgrade::set_websocket(headers);
                    peer.becomes(websocket.switched(site));
                }
                answer
            }
            Err(failure) => {
                let mut answer = failed(worker, exchange, regime, *form, &failure);
                tokens.set(regime, answer.headers_mut());
                answer
            }
        }
    }
}

impl Future for Entered {
    type Output = (Answer, Told);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = ready!(Pin::new(&mut self.sending).poll(cx));
        Poll::Ready((self.answer(sent), self.told.clone()))
    }
}

/// Reads a request body as far as it is read before there is a slot.
async fn read(entering: &Entering, body: Upload) -> Result<ReadAhead, BodyFailure> {
    let most = entering.regime.policy.upstream.buffer.request;
    read_ahead(body, most, &entering.peer.worker.memory, &entering.exchange).await
}

fn ask(entering: &Entering) -> Ask {
    let Entering { regime, facts, decision, .. } = entering;
    let open = decision.verdict == Verdict::Open && decision.pass.is_none();
    let party = if open { Some(facts::client_hash(&facts.client, regime)) } else { decision.pass.map(|id| id.0) };
    Ask { open, party, counts: decision.counts }
}

/// A slot, if there is one and nobody else is next.
fn slot_at_once(entering: &Entering, now: Moment) -> Option<Slot> {
    let worker = &*entering.peer.worker;
    if entering.decision.observed {
        return Some(worker.upstream.slot_anyway(ask(entering), worker.index));
    }
    worker.upstream.slot_now(ask(entering), worker.index, now)
}

/// Waits for a slot. If there is none in time, the answer is one that sheds.
async fn slot(entering: &Entering) -> Result<Slot, (Answer, Told)> {
    let Entering { peer, regime, facts, decision, .. } = entering;
    let worker = &*peer.worker;
    let ask = ask(entering);
    let deadline = if facts.unsafe_method { UNSAFE_DEADLINE } else { regime.policy.upstream.queue.deadline };
    let none = match worker.upstream.slot(ask, worker.index, deadline).await {
        Ok(slot) => return Ok(slot),
        // nobody is held up any more, not even by what was decided before the mode was set
        Err(_) if worker.gate.regime().observes() => return Ok(worker.upstream.slot_anyway(ask, worker.index)),
        Err(none) => none,
    };
    worker.shard.count(Count::Request(VerdictLabel::Shed));
    let reason = match none {
        upstream::NoSlot::Deadline => Reason::SlotDeadline,
        upstream::NoSlot::QueueFull => Reason::SlotQueueFull,
    };
    let appointment = worker.gate.appointment(regime, worker.clock.moment());
    let answer = entering.composed(respond::shed(regime, appointment, facts.form, facts.unsafe_method));
    Err((answer, told_why(regime, decision, Verdict::Shed.name(), reason.name())))
}

const fn told(verdict: &'static str, reason: &'static str) -> Told {
    Told { verdict, reason, because: None }
}

/// What is told of a request that was decided on.
fn told_why(regime: &Regime, decision: &Decision, verdict: &'static str, reason: &'static str) -> Told {
    let because = (regime.policy.log.access > 0.0 && decision.verdict != Verdict::Open).then(|| {
        let drawn = decision.drawn;
        Box::new(Because {
            probability: drawn.map_or_else(|| regime.probability(), |drawn| drawn.probability),
            load: regime.law.load,
            limit: regime.limit().name(),
            draw: drawn.map(|drawn| drawn.draw),
            weight: drawn.map(|drawn| drawn.weight),
            observed: decision.observed,
        })
    });
    Told { verdict, reason, because }
}

/// Counts a request that goes to the site: by its verdict, or under `observe` by what would have become of it.
fn count_entry(worker: &Worker, regime: &Regime, decision: &Decision) -> Told {
    let (verdict, reason) = if decision.sheds { (Verdict::Shed, Reason::SlotDeadline) } else { (decision.verdict, decision.reason) };
    worker.shard.count(Count::Request(label(verdict)));
    if !decision.observed {
        return told_why(regime, decision, verdict.name(), reason.name());
    }
    if decision.too_often.is_some() {
        worker.shard.count(Count::Observed(ObservedLabel::Refused));
        return told_why(regime, decision, "refused", Reason::PassRate.name());
    }
    let observed = match verdict {
        Verdict::Open => ObservedLabel::Open,
        Verdict::Bypass => ObservedLabel::Bypass,
        Verdict::Admit => ObservedLabel::Admit,
        Verdict::Wait => ObservedLabel::Wait,
        Verdict::Shed => ObservedLabel::Shed,
    };
    worker.shard.count(Count::Observed(observed));
    told_why(regime, decision, verdict.name(), reason.name())
}

fn visit(worker: &Worker, regime: &Regime, facts: &Facts) -> Visit {
    // only who may be given a ticket is counted by its client
    let newcomer = facts.route.gated && facts.pass.is_none() && facts.ticket.is_none();
    let client = if newcomer { facts::client_hash(&facts.client, regime) } else { 0 };
    Visit {
        gated: facts.route.gated,
        signal: facts.route.signal,
        pass: facts.pass,
        ticket: facts.ticket,
        unsafe_method: facts.unsafe_method,
        may_draw: facts.form != Form::Empty,
        client,
        entropy: worker.entropy(),
    }
}

const fn label(verdict: Verdict) -> VerdictLabel {
    match verdict {
        Verdict::Open => VerdictLabel::Open,
        Verdict::Bypass => VerdictLabel::Bypass,
        Verdict::Admit => VerdictLabel::Admit,
        Verdict::Wait => VerdictLabel::Wait,
        Verdict::Shed => VerdictLabel::Shed,
    }
}

fn count_ended(worker: &Worker, decision: &Decision) {
    match decision.pass_ended {
        Some(Ended::Expired) => worker.shard.count(Count::TokenRejected(TokenRejection::Expired)),
        Some(Ended::Revoked) => worker.shard.count(Count::TokenRejected(TokenRejection::Revoked)),
        None => {}
    }
    if decision.ticket_void {
        worker.shard.count(Count::TokenRejected(TokenRejection::Void));
    }
}

/// The pass and the ticket that were decided on, to be set with the answer.
struct Tokens {
    pass: Option<Pass>,
    ticket: Option<Ticket>,
    pass_in_header: bool,
    secure: bool,
    now: UnixTime,
}

impl Tokens {
    fn of(entering: &Entering) -> Self {
        let Entering { facts, decision, now, .. } = entering;
        Self {
            pass: decision.set_pass,
            ticket: decision.set_ticket,
            pass_in_header: facts.pass_in_header,
            secure: facts.client.scheme_https,
            now: now.wall,
        }
    }

    /// Sets them, and says whether there is one: then an answer of the site must be made private, or a cache hands one visitor's to
    /// another. What the gate composes is never kept.
    fn set(&self, regime: &Regime, headers: &mut HeaderMap) -> bool {
        if let Some(pass) = self.pass {
            let token = regime.keys.sign_pass(&pass);
            if self.pass_in_header {
                if let Ok(value) = HeaderValue::from_bytes(token.as_bytes()) {
                    headers.insert(PASS_HEADER, value);
                }
            } else {
                // kept by the browser for as long as it could be revived by a form; the gate itself judges by the times within
                let max_age = regime.policy.session.limit.saturating_sub(self.now.since(pass.issued));
                headers.append(SET_COOKIE, cookies::set_cookie(Kind::Pass, token.as_bytes(), attributes(regime, self.secure, max_age)));
            }
        }
        if let Some(ticket) = self.ticket {
            headers.append(SET_COOKIE, ticket_cookie(regime, self.secure, &ticket));
        }
        self.pass.is_some() || self.ticket.is_some()
    }
}

fn ticket_cookie(regime: &Regime, secure: bool, ticket: &Ticket) -> HeaderValue {
    let max_age = ticket_holds(regime.policy.waiting_room.refresh_max);
    cookies::set_cookie(Kind::Ticket, regime.keys.sign_ticket(ticket).as_bytes(), attributes(regime, secure, max_age))
}

fn attributes(regime: &Regime, secure: bool, max_age: Duration) -> Attributes<'_> {
    Attributes { secure, domain: regime.policy.session.domain.as_deref(), max_age }
}

/// What reaches the site: nothing that was meant for the gate, and who the client is.
fn clean_request(parts: &mut Parts, peer: &Peer, facts: &Facts, is_upload: bool, regime: &Regime) {
    let Parts { method, uri, headers, .. } = parts;
    let host = match headers.get(HOST) {
        Some(host) => host.clone(),
        // a client of HTTP/1.0 need not name one; the site, spoken to in 1.1, must be
        None => {
            let authority = uri.authority().map(http::uri::Authority::as_str);
            let named = authority.or_else(|| regime.policy.upstream.servers.first().map(|server| server.authority.as_str()));
            let host = named.and_then(|named| HeaderValue::try_from(named).ok()).unwrap_or(HeaderValue::from_static(""));
            headers.insert(HOST, host.clone());
            host
        }
    };
    if uri.authority().is_some() {
        *uri = origin_form(uri);
    }
    hop::strip_request(headers);
    cookies::strip_found(headers, facts.our_cookies);
    let mut values = peer.values.lock().unwrap_or_else(PoisonError::into_inner);
    forwarded::set_forwarding(headers, &mut values, facts.client.peer_trusted, Some(&host), facts.client.scheme_https);
    drop(values);
    // it has hardly ever a body: with a length that the client did not say, some would not look for it
    if is_upload && !headers.contains_key(CONTENT_LENGTH) && matches!(*method, Method::GET | Method::HEAD) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn origin_form(uri: &Uri) -> Uri {
    // one that was nothing but a fragment says that it is a slash, and would be written as nothing
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

fn refuse(worker: &Worker, exchange: &Exchange, regime: &Regime, parts: &Parts, bad: BadRequest) -> Answer {
    let refusal = match bad {
        BadRequest::HostMissing | BadRequest::HostRepeated | BadRequest::HostInvalid | BadRequest::HostMismatch => Refusal::Host,
        BadRequest::SchemeUnsupported | BadRequest::TargetInvalid | BadRequest::TargetBytes => Refusal::Target,
        BadRequest::MethodUnsupported => Refusal::NotImplemented,
        BadRequest::LengthInvalid => Refusal::ContentLength,
        BadRequest::LengthAndCoding | BadRequest::CodingInvalid | BadRequest::CodingUnsupported => Refusal::TransferEncoding,
        BadRequest::NameInvalid => Refusal::BadRequest,
    };
    worker.shard.count(Count::Refused(refusal));
    let mut answer = respond::failure(&regime.pages, FailureKind::BadRequest, negotiate::form(&parts.headers), status::REQUEST);
    *answer.status_mut() = bad.status();
    exchange.end_in_doubt(&mut answer);
    answer
}

/// Of HTTP/2: over HTTP/1 it is not read as a request.
fn head_too_large(worker: &Worker, regime: &Regime, parts: &Parts) -> Answer {
    worker.shard.count(Count::Refused(Refusal::HeadTooLarge));
    let mut answer = respond::failure(&regime.pages, FailureKind::BadRequest, negotiate::form(&parts.headers), status::REQUEST);
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    answer
}

fn body_failed(worker: &Worker, exchange: &Exchange, regime: &Regime, form: Form, error: &dyn Error) -> Answer {
    let timed_out = exchange.has_stalled();
    exchange.enter(Phase::Busy);
    let (kind, refusal) =
        if timed_out { (FailureKind::RequestTimeout, Refusal::BodyTimeout) } else { (FailureKind::BadRequest, Refusal::BadRequest) };
    tracing::debug!(%error, "a request body broke off");
    worker.shard.count(Count::Refused(refusal));
    let mut answer = respond::failure(&regime.pages, kind, form, status::REQUEST);
    exchange.end_in_doubt(&mut answer);
    answer
}

/// The one place that turns a failure of the upstream into an answer.
fn failed(worker: &Worker, exchange: &Exchange, regime: &Regime, form: Form, failure: &Failure) -> Answer {
    let (kind, proxy_status) = match failure {
        Failure::Connect(ConnectError::Timeout | ConnectError::Awaited) => (FailureKind::GatewayTimeout, status::CONNECT_TIMEOUT),
        Failure::Connect(ConnectError::Socket(error)) if error.kind() == ErrorKind::TimedOut => {
            (FailureKind::GatewayTimeout, status::CONNECT_TIMEOUT)
        }
        Failure::Connect(ConnectError::Socket(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            (FailureKind::BadGateway, status::CONNECT)
        }
        Failure::Connect(ConnectError::Socket(_)) => (FailureKind::BadGateway, status::UNAVAILABLE),
        Failure::Connect(ConnectError::NoAddress) => (FailureKind::BadGateway, status::DNS),
        Failure::Connect(ConnectError::Tls(HandshakeError::Certificate(_))) => (FailureKind::BadGateway, status::TLS_CERTIFICATE),
        Failure::Connect(ConnectError::Tls(HandshakeError::Alert(_))) => (FailureKind::BadGateway, status::TLS_ALERT),
        Failure::Connect(ConnectError::Tls(HandshakeError::Protocol(_))) => (FailureKind::BadGateway, status::TLS_PROTOCOL),
        Failure::Connect(ConnectError::Tls(HandshakeError::Broken(_))) => (FailureKind::BadGateway, status::TERMINATED),
        Failure::Connect(ConnectError::Http2(error)) if error.is_io() => (FailureKind::BadGateway, status::TERMINATED),
        Failure::Connect(ConnectError::Http2(_)) => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Timeout => (FailureKind::GatewayTimeout, status::TIMEOUT),
        Failure::Upstream(error) if error.is_protocol() => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Upstream(_) => (FailureKind::BadGateway, status::BROKEN),
        Failure::Switched => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Client(error) => return body_failed(worker, exchange, regime, form, error),
    };
    respond::failure(&regime.pages, kind, form, proxy_status)
}

/// The answer when answering has panicked.
pub(super) fn panicked(worker: &Worker) -> (Answer, Told) {
    own_fault(&worker.shard, &worker.gate.regime().pages)
}

fn own_fault(shard: &Shard, pages: &Pages) -> (Answer, Told) {
    shard.count(Count::Refused(Refusal::Internal));
    let mut answer = respond::failure(pages, FailureKind::Internal, Form::Text, status::INTERNAL);
    respond::close(&mut answer);
    (answer, told("refused", Refusal::Internal.label()))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::header::{CACHE_CONTROL, CONNECTION};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn who_met_a_fault_of_the_gate_is_told_so_and_it_is_counted() {
        let metrics = Metrics::new(1).unwrap();
        let (answer, told) = own_fault(&metrics.shard(0), &Pages::built_in().unwrap());
        let header = |name: HeaderName| answer.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(
            (answer.status(), header(status::NAME)),
            (StatusCode::INTERNAL_SERVER_ERROR, Some("tidegate; error=proxy_internal_error"))
        );
        assert_eq!((header(CONNECTION), header(CACHE_CONTROL)), (Some("close"), Some("no-store")));
        assert_eq!((told.verdict, told.reason), ("refused", "internal"));
        for &refusal in Refusal::ALL {
            assert_eq!(metrics.total(Count::Refused(refusal)), u64::from(refusal == Refusal::Internal), "{refusal:?}");
        }
    }
}
