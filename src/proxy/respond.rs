//! The answers that the gate composes: waiting room, shed page, failures. Each carries `Proxy-Status` (RFC 9209) and is never cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, REFRESH,
    RETRY_AFTER, SET_COOKIE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;

use super::body::ClientBody;
use super::email::{fields, page_asked_for};
use super::facts::Facts;
use crate::gate::{Decision, Regime};
use crate::page::{
    self, EmailState, EmailView, FailureKind, FormFields, PageKind, Pages, WaitEstimate, WaitText, WaitingJson, WaitingPage, WaitingState,
    WaitingView,
};
use crate::rules::decide::Reason;
use crate::rules::negotiate::{self, Coding, Form};

/// An answer to a client.
pub(super) type Answer = Response<ClientBody>;

/// `Proxy-Status` of the answers that are composed (RFC 9209): our name, an error type of its registry, and which of ours it is.
pub(super) mod status {
    use http::HeaderValue;

    pub(in crate::proxy) const NAME: http::HeaderName = http::HeaderName::from_static("proxy-status");
    pub(in crate::proxy) const WAIT: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_denied; details=\"wait\"");
    pub(in crate::proxy) const SHED: HeaderValue = HeaderValue::from_static("tidegate; error=connection_limit_reached; details=\"shed\"");
    pub(in crate::proxy) const UPGRADES: HeaderValue =
        HeaderValue::from_static("tidegate; error=connection_limit_reached; details=\"upgrades\"");
    pub(in crate::proxy) const RATE: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_denied; details=\"rate\"");
    pub(in crate::proxy) const CODE: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_denied; details=\"code\"");
    pub(in crate::proxy) const NO_ROOM: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_denied; details=\"no_room\"");
    pub(in crate::proxy) const DRAINING: HeaderValue =
        HeaderValue::from_static("tidegate; error=http_request_denied; details=\"draining\"");
    pub(in crate::proxy) const OWN: HeaderValue = HeaderValue::from_static("tidegate");
    pub(in crate::proxy) const REQUEST: HeaderValue = HeaderValue::from_static("tidegate; error=http_request_error");
    pub(in crate::proxy) const INTERNAL: HeaderValue = HeaderValue::from_static("tidegate; error=proxy_internal_error");
    pub(in crate::proxy) const CONNECT: HeaderValue = HeaderValue::from_static("tidegate; error=connection_refused");
    pub(in crate::proxy) const CONNECT_TIMEOUT: HeaderValue = HeaderValue::from_static("tidegate; error=connection_timeout");
    pub(in crate::proxy) const UNAVAILABLE: HeaderValue = HeaderValue::from_static("tidegate; error=destination_unavailable");
    pub(in crate::proxy) const DNS: HeaderValue = HeaderValue::from_static("tidegate; error=dns_error");
    pub(in crate::proxy) const TERMINATED: HeaderValue = HeaderValue::from_static("tidegate; error=connection_terminated");
    pub(in crate::proxy) const TLS_CERTIFICATE: HeaderValue = HeaderValue::from_static("tidegate; error=tls_certificate_error");
    pub(in crate::proxy) const TLS_ALERT: HeaderValue = HeaderValue::from_static("tidegate; error=tls_alert_received");
    pub(in crate::proxy) const TLS_PROTOCOL: HeaderValue = HeaderValue::from_static("tidegate; error=tls_protocol_error");
    pub(in crate::proxy) const TIMEOUT: HeaderValue = HeaderValue::from_static("tidegate; error=http_response_timeout");
    pub(in crate::proxy) const PROTOCOL: HeaderValue = HeaderValue::from_static("tidegate; error=http_protocol_error");
    pub(in crate::proxy) const BROKEN: HeaderValue = HeaderValue::from_static("tidegate; error=http_response_incomplete");
}

/// Rendered waiting pages of one worker, kept for as long as the pages they come from: a crowd sees few different ones.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    of: Arc<Pages>,
    /// The head of every waiting page, with room where it differs. Nothing in it is shared with other workers, which would wait for
    /// each other at its count of references.
    head: HeaderMap,
    rendered: HashMap<WaitingView, Arc<WaitingPage>, FixedState>,
}

impl Kept {
    fn new(of: &Arc<Pages>) -> Self {
        let mut head = HeaderMap::with_capacity(HEADERS_MAX);
        fill(&mut head, Some(HTML), status::WAIT);
        let policy = of.content_security_policy(PageKind::Waiting);
        head.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_bytes(policy.as_bytes()).unwrap_or_else(|_| policy.clone()));
        for differs in [CONTENT_ENCODING, RETRY_AFTER, REFRESH, SET_COOKIE] {
            head.insert(differs, HeaderValue::from_static(""));
        }
        Self { of: Arc::clone(of), head, rendered: HashMap::default() }
    }
}

/// Different pages that are kept, in 12 MiB: estimates and positions are rounded, so that even a long line has fewer.
const PAGES_MAX: usize = 1024;

impl PageCache {
    /// The head of a waiting page, and the page.
    fn waiting(&self, pages: &Arc<Pages>, view: WaitingView) -> (HeaderMap, Arc<WaitingPage>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_or_insert_with(|| Kept::new(pages));
        if !Arc::ptr_eq(&kept.of, pages) || kept.rendered.len() >= PAGES_MAX {
            *kept = Kept::new(pages);
        }
        if let Some(page) = kept.rendered.get(&view) {
            return (kept.head.clone(), Arc::clone(page));
        }
        let page = pages.waiting(&view).unwrap_or_else(|error| {
            // rendered in every state when it was loaded, so this is the fuel at most; the line of text always can be
            tracing::error!(%error, "the waiting page could not be rendered");
            page::waiting_text(&view).into()
        });
        let page = Arc::new(page);
        kept.rendered.insert(view, Arc::clone(&page));
        (kept.head.clone(), page)
    }
}

/// The waiting room. `cookie` sets the ticket.
pub(super) fn waiting(
    cache: &PageCache,
    regime: &Regime,
    decision: &Decision,
    facts: &Facts,
    request: &Parts,
    cookie: Option<HeaderValue>,
) -> Answer {
    let form_refused = facts.unsafe_method;
    let retry_s = seconds(decision.retry_after);
    let estimate = WaitEstimate {
        half_s: decision.wait.map(|wait| wait.half.as_secs()),
        nine_of_ten_s: decision.wait.map(|wait| wait.nine_of_ten.as_secs()),
    };
    let in_line_s = decision.place.and_then(|place| place.wait).map(|wait| wait.as_secs());
    let position = decision.place.map(|place| place.number());
    let state = match decision.reason {
        Reason::Closed => WaitingState::Closed,
        Reason::TicketWithheld => WaitingState::NoTicket,
        Reason::NoToken => WaitingState::Next,
        Reason::OpenRoute
        | Reason::Staff
        | Reason::Invited
        | Reason::Pass
        | Reason::ModeOpen
        | Reason::Room
        | Reason::Drew
        | Reason::InTurn
        | Reason::NoTicket
        | Reason::NotDrawn
        | Reason::InLine
        | Reason::SlotDeadline
        | Reason::SlotQueueFull
        | Reason::PassRate => {
            WaitingState::Waiting { wait: if position.is_some() { WaitText::in_line(in_line_s) } else { WaitText::new(estimate) } }
        }
    };
    let view = WaitingView::new(state, seconds(regime.epoch), form_refused, position);
    let status = StatusCode::from_u16(regime.policy.waiting_room.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let retry = number(retry_s);
    let mut answer = match facts.form {
        Form::Page => {
            let (mut headers, page) = cache.waiting(&regime.pages, view);
            let next = page_asked_for(request.uri.path_and_query().map_or("/", PathAndQuery::as_str));
            // the ticket that came is unbroken, or another is given; who has none sees a page without a form
            let ticket = decision.set_ticket.or(facts.ticket).filter(|_| page.has_form());
            let fields = ticket.map_or_else(FormFields::default, |ticket| fields(regime, ticket.id, next));
            let (coding, pieces) = page.with(&fields, negotiate::coding(&request.headers));
            set(&mut headers, CONTENT_ENCODING, (coding == Coding::Gzip).then_some(GZIP));
            set(&mut headers, REFRESH, (!form_refused).then(|| retry.clone()));
            set(&mut headers, SET_COOKIE, cookie);
            headers.insert(RETRY_AFTER, retry);
            return with_body(status, headers, ClientBody::joined(pieces));
        }
        Form::Json => {
            let waiting = WaitingJson { retry_after_s: retry_s, expected_wait_s: in_line_s.or(estimate.half_s), position };
            json(status, page::waiting_json(&waiting))
        }
        Form::Text => text(status, page::waiting_text(&view)),
        Form::Empty => empty(status),
    };
    let headers = answer.headers_mut();
    headers.insert(status::NAME, status::WAIT);
    headers.insert(RETRY_AFTER, retry);
    set(headers, SET_COOKIE, cookie);
    answer
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

/// The page of one who may enter, and finds no slot in time: it keeps the pass, and comes back by itself.
pub(super) fn shed(regime: &Regime, appointment: Duration, form: Form, unsafe_method: bool) -> Answer {
    let retry_s = seconds(appointment);
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut answer = match form {
        Form::Page => {
            let policy = regime.pages.content_security_policy(PageKind::Shed);
            html(status, regime.pages.shed(retry_s, unsafe_method), policy)
        }
        Form::Json => json(status, page::shed_json(retry_s)),
        Form::Text => text(status, page::shed_text(retry_s, unsafe_method)),
        Form::Empty => empty(status),
    };
    let headers = answer.headers_mut();
    headers.insert(status::NAME, status::SHED);
    headers.insert(RETRY_AFTER, number(retry_s));
    if form == Form::Page && !unsafe_method {
        headers.insert(REFRESH, number(retry_s));
    }
    answer
}

/// What becomes of an email address, or the form for one.
pub(super) fn email(pages: &Pages, view: &EmailView<'_>, form: Form) -> Answer {
    let state = view.state;
    let mut answer = match form {
        // what is asked for is a page, whoever asks
        _ if state == EmailState::Asks => email_page(pages, view),
        Form::Page => email_page(pages, view),
        Form::Json => json(state.status(), page::email_json(state)),
        Form::Text => text(state.status(), page::email_text(state, pages.email_terms())),
        Form::Empty => empty(state.status()),
    };
    let headers = answer.headers_mut();
    if let Some(retry_s) = state.retry_s() {
        headers.insert(RETRY_AFTER, number(retry_s));
    }
    let proxy_status = match state {
        EmailState::Asks | EmailState::Taken => status::OWN,
        EmailState::TooMany { .. } => status::RATE,
        EmailState::Unavailable { .. } => status::INTERNAL,
        EmailState::Invalid { .. } | EmailState::NoTicket | EmailState::NotOurs | EmailState::TicketFull | EmailState::Disabled => {
            status::REQUEST
        }
    };
    headers.insert(status::NAME, proxy_status);
    answer
}

fn email_page(pages: &Pages, view: &EmailView<'_>) -> Answer {
    let status = view.state.status();
    match pages.email(view) {
        Ok(body) => html(status, body, pages.content_security_policy(PageKind::Email)),
        Err(error) => {
            // what was typed is bounded, and so is the page asked for
            tracing::error!(%error, "the page of the email form could not be rendered");
            text(status, page::email_text(view.state, pages.email_terms()))
        }
    }
}

/// A failure that the gate answers by itself.
pub(super) fn failure(pages: &Pages, kind: FailureKind, form: Form, proxy_status: HeaderValue) -> Answer {
    let mut answer = match form {
        Form::Page => html(kind.status(), pages.failure(kind), pages.content_security_policy(PageKind::Failure)),
        Form::Json => json(kind.status(), Bytes::from(serde_json::json!({ "error": kind.title() }).to_string())),
        Form::Text => text(kind.status(), page::failure_text(kind)),
        Form::Empty => empty(kind.status()),
    };
    if let FailureKind::TooManyRequests { retry_s } = kind {
        answer.headers_mut().insert(RETRY_AFTER, number(retry_s));
    }
    answer.headers_mut().insert(status::NAME, proxy_status);
    answer
}

/// Elsewhere, with the same method and body. Not for ever: what a browser keeps can't be taken back on a bad day.
pub(super) fn redirect(to: &HeaderValue) -> Answer {
    let mut answer = empty(StatusCode::PERMANENT_REDIRECT);
    answer.headers_mut().insert(LOCATION, to.clone());
    answer
}

/// There is no place for a WebSocket. It stays until others leave, so who asks again at once asks in vain.
pub(super) fn no_upgrade(pages: &Pages, form: Form) -> Answer {
    let mut answer = failure(pages, FailureKind::Unavailable, form, status::UPGRADES);
    answer.headers_mut().insert(RETRY_AFTER, number(UPGRADE_RETRY_S));
    answer
}

const UPGRADE_RETRY_S: u32 = 30;

/// A page of the gate's.
pub(super) fn html(status: StatusCode, body: Bytes, policy: &HeaderValue) -> Answer {
    let mut answer = composed(status, body, Some(HTML));
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy.clone());
    answer
}

pub(super) fn json(status: StatusCode, body: Bytes) -> Answer {
    composed(status, body, Some(JSON))
}

pub(super) fn text(status: StatusCode, body: Bytes) -> Answer {
    composed(status, body, Some(TEXT))
}

pub(super) fn empty(status: StatusCode) -> Answer {
    composed(status, Bytes::new(), None)
}

fn composed(status: StatusCode, body: Bytes, content_type: Option<HeaderValue>) -> Answer {
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX);
    fill(&mut headers, content_type, status::OWN);
    with_body(status, headers, ClientBody::composed(body))
}

fn with_body(status: StatusCode, headers: HeaderMap, body: ClientBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The headers of every answer that is composed.
fn fill(headers: &mut HeaderMap, content_type: Option<HeaderValue>, proxy_status: HeaderValue) {
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(ROBOTS, NOINDEX);
    headers.insert(REFERRER_POLICY, STRICT_ORIGIN);
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(status::NAME, proxy_status);
}

/// The most headers of an answer that is composed.
const HEADERS_MAX: usize = 12;

/// The answer to HEAD: it says how long a body would be, and has none.
pub(super) fn without_body(answer: Answer) -> Answer {
    let (mut head, body) = answer.into_parts();
    // an answer of the site has none already, and says what the site says
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, ClientBody::composed(Bytes::new()))
}

/// The connection closes after this answer; over HTTP/2, it takes no more requests.
pub(super) fn close(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Whole seconds, rounded up, and at least one.
pub(super) fn seconds(duration: Duration) -> u32 {
    let up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(up).unwrap_or(u32::MAX).max(1)
}

/// A number of seconds as the value of a header: those that occur need no memory of their own.
fn number(number: u32) -> HeaderValue {
    let digits = usize::try_from(number).ok().and_then(|number| DIGITS.get(number));
    let skipped = usize::from(number < 10) + usize::from(number < 100);
    let text = digits.and_then(|digits| str::from_utf8(&digits[skipped..]).ok());
    text.map_or_else(|| HeaderValue::from(number), HeaderValue::from_static)
}

/// Three digits of each number: a refresh takes 600 seconds at most.
static DIGITS: [[u8; 3]; 1000] = {
    const DIGIT: &[u8; 10] = b"0123456789";
    let mut all = [[b'0'; 3]; 1000];
    let mut number = 0;
    while number < all.len() {
        all[number] = [DIGIT[number / 100], DIGIT[number / 10 % 10], DIGIT[number % 10]];
        number += 1;
    }
    all
};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NOINDEX: HeaderValue = HeaderValue::from_static("noindex");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const STRICT_ORIGIN: HeaderValue = HeaderValue::from_static("strict-origin");
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_and_never_nothing() {
        let of = |ms| seconds(Duration::from_millis(ms));
        assert_eq!((of(0), of(1), of(1000), of(1001), of(59_999)), (1, 1, 1, 2, 60));
    }
    #[test]
    fn a_number_reads_as_itself() {
        for seconds in [0, 1, 9, 10, 99, 100, 101, 600, 999, 1000, u32::MAX] {
            assert_eq!(number(seconds).to_str().unwrap(), seconds.to_string());
        }
    }
}
