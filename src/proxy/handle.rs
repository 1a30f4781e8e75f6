//! One request, top to bottom: every exit is in [`handle`], or for those who enter in [`enter`], [`enter_later`] and [`Entered::answer`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Version};

use super::Worker;
use super::body::{ClientBody, ReadAhead, read_ahead};
use super::cleaned::clean_request;
use super::exchange::{Exchange, Upload};
use super::facts::{self, Facts};
use super::failures::{body_failed, failed, head_too_large, refuse};
use super::places::{self, Place};
use super::reserved;
use super::respond::{self, Answer, status};
use super::state::State;
use super::tokens::{Tokens, ticket_cookie};
use super::told::{Told, told, told_why};
use super::upgrade::{Full, Upgrade, Upgraded};
use super::verified::Verified;
use crate::gate::{Decision, Regime, Visit};
use crate::metrics::{Count, NewcomerLabel, ObservedLabel, Refusal, Timing, TokenRejection, UpgradeResult, VerdictLabel};
use crate::page::FailureKind;
use crate::rules::decide::{Ended, Reason, Verdict};
use crate::rules::headers::check::{self, Target};
use crate::rules::headers::cookies;
use crate::rules::headers::forwarded::PeerValues;
use crate::rules::headers::head::Head;
use crate::rules::headers::{cache, hop, http2, upgrade};
use crate::rules::negotiate::Form;
use crate::rules::redirect;
use crate::rules::slots::Ask;
use crate::rules::time::{Moment, Now};
use crate::upstream::{self, Answered, Asked, BodyFailure, Failure, Sending, Slot};

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
        Tokens::of(&self.facts, &self.decision, self.now.wall).set(&self.regime, answer.headers_mut());
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
        let tokens = Tokens::of(&entering.facts, &entering.decision, entering.now.wall);
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
