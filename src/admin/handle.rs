//! One admin request, top to bottom.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use serde_json::json;

use super::guard::{Denied, Guard};
use super::mode::{self, BodyForm, ModeError};
use super::respond::{self, Answer};
use super::{AdminState, ReloadAnswer, dashboard, pause};

/// Bytes of a request body: many times what any request needs.
const BODY_BYTES_MAX: usize = 16 << 10;

/// For a whole request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the dashboard comes again by itself.
const REFRESH_S: u32 = 5;

/// Answers one request.
pub(super) async fn answer(request: Request<Incoming>, state: &Arc<AdminState>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let public = matches!(path, "/metrics" | "/healthz" | "/readyz");
    let token = state.token.load_full();
    let guard = Guard { token: token.as_deref(), hosts: &state.hosts };
    if let Err(denied) = guard.check(&head.uri, &head.headers, public) {
        return turned_away(denied);
    }
    let posted = head.method == Method::POST;
    match path {
        "/reload" | "/mode" | "/invitations" if !posted => return respond::method_not_allowed("POST"),
        "/metrics" | "/healthz" | "/readyz" | "/status" | "/" if head.method != Method::GET && head.method != Method::HEAD => {
            return respond::method_not_allowed("GET, HEAD");
        }
        _ => {}
    }
    match path {
        "/metrics" => metrics(state),
        "/healthz" => respond::text(StatusCode::OK, "ok"),
        "/readyz" => match state.backend.ready() {
            Ok(()) => respond::text(StatusCode::OK, "ready"),
            Err(reason) => respond::text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {reason}")),
        },
        "/status" => respond::json(StatusCode::OK, &state.backend.status()),
        "/" => the_dashboard(state, head.uri.query() == Some("hold")),
        "/reload" => match whole(body).await {
            Ok(_ignored) => reload(state, asks_for_a_page(&head.headers)).await,
            Err(answer) => answer,
        },
        "/mode" | "/invitations" => {
            let Some(form) = body_form(&head.headers) else {
                return respond::error(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "content-type: must be application/json or application/x-www-form-urlencoded",
                );
            };
            match whole(body).await {
                Ok(body) if path == "/mode" => set_mode(state, form, &body, &head.headers),
                Ok(body) => set_paused(state, form, &body, &head.headers).await,
                Err(answer) => answer,
            }
        }
        _ => respond::error(
            StatusCode::NOT_FOUND,
            "there is /, /status, /metrics, /healthz, /readyz, POST /reload, POST /mode and POST /invitations",
        ),
    }
}

fn turned_away(denied: Denied) -> Answer {
    match denied {
        Denied::Host => respond::error(StatusCode::BAD_REQUEST, "host: must be given once, as a host and perhaps a port"),
        Denied::Token => {
            let mut answer = respond::error(
                StatusCode::UNAUTHORIZED,
                "authorization: needs the admin token, as a Bearer token or as the password of any user",
            );
            let challenges = answer.headers_mut();
            challenges.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Tidegate admin\", charset=\"UTF-8\""));
            challenges.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"Tidegate admin\""));
            answer
        }
        Denied::Name => respond::error(
            StatusCode::MISDIRECTED_REQUEST,
            "host: a DNS name other than localhost is taken only with the admin token; ask by IP address instead",
        ),
        Denied::Origin => respond::error(StatusCode::FORBIDDEN, "origin: must be this listener's own"),
    }
}

fn metrics(state: &AdminState) -> Answer {
    match state.metrics.encode() {
        Ok(encoded) => respond::metrics(encoded),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            respond::error(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded")
        }
    }
}

fn the_dashboard(state: &AdminState, hold: bool) -> Answer {
    let refresh_s = (!hold).then_some(REFRESH_S);
    match dashboard::render(&state.backend.status(), refresh_s) {
        Ok(html) => respond::page(StatusCode::OK, html, dashboard::style_hash(), refresh_s),
        Err(error) => {
            tracing::error!(%error, "the dashboard cannot be rendered");
            respond::error(StatusCode::INTERNAL_SERVER_ERROR, "the dashboard cannot be rendered; see /status")
        }
    }
}

async fn reload(state: &Arc<AdminState>, page: bool) -> Answer {
    let own = Arc::clone(state);
    // a task of its own: a client that leaves must not stop a reload half way
    let answer = tokio::spawn(async move { own.backend.reload().await }).await;
    match answer {
        // the dashboard shows how it ended
        Ok(_) if page => respond::see_dashboard(),
        Ok(ReloadAnswer::Applied) => respond::json(StatusCode::OK, &json!({ "result": "applied" })),
        Ok(ReloadAnswer::Rejected(errors)) => respond::rejected(&errors),
        Err(error) => {
            tracing::error!(%error, "a reload broke off");
            respond::error(StatusCode::INTERNAL_SERVER_ERROR, "the reload broke off; the last good policy is in force")
        }
    }
}

fn set_mode(state: &AdminState, form: BodyForm, body: &[u8], headers: &HeaderMap) -> Answer {
    let set = mode::parse(form, body, state.clock.now().wall)
        .and_then(|request| state.backend.set_mode(request).map_err(|error| ModeError::Values(vec![error])));
    match (set, form) {
        (Ok(_), BodyForm::Form) if !has(headers, &ACCEPT, "application/json") => respond::see_dashboard(),
        (Ok(in_force), BodyForm::Form | BodyForm::Json) => respond::json(StatusCode::OK, &in_force),
        (Err(ModeError::Values(errors)), _) if asks_for_a_page(headers) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            match dashboard::render_refusal(&errors) {
                Ok(html) => respond::page(status, html, dashboard::style_hash(), None),
                Err(_) => respond::rejected(&errors),
            }
        }
        (Err(ModeError::Values(errors)), _) => respond::rejected(&errors),
        (Err(ModeError::Syntax(message)), _) => respond::error(StatusCode::BAD_REQUEST, &message),
    }
}

async fn set_paused(state: &AdminState, form: BodyForm, body: &[u8], headers: &HeaderMap) -> Answer {
    let refusal = match pause::parse(form, body) {
        Ok(paused) => match state.backend.pause_invitations(paused).await {
            Ok(()) if form == BodyForm::Form && !has(headers, &ACCEPT, "application/json") => return respond::see_dashboard(),
            Ok(()) => return respond::json(StatusCode::OK, &json!({ "paused": paused })),
            Err(error) => {
                let told = format!("invitations could not be {}: {error}", if paused { "paused" } else { "resumed" });
                return respond::error(StatusCode::SERVICE_UNAVAILABLE, &told);
            }
        },
        Err(refusal) => refusal,
    };
    match refusal {
        ModeError::Values(errors) => respond::rejected(&errors),
        ModeError::Syntax(message) => respond::error(StatusCode::BAD_REQUEST, &message),
    }
}

/// The whole body, or the answer to one that is too long, too slow or cut off.
async fn whole(body: Incoming) -> Result<Bytes, Answer> {
    let too_long = || respond::error(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {BODY_BYTES_MAX} bytes"));
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_cut_off)) => Err(respond::error(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_elapsed) => Err(respond::error(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

fn body_form(headers: &HeaderMap) -> Option<BodyForm> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Some(BodyForm::Json)
    } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Some(BodyForm::Form)
    } else {
        None
    }
}

/// Whether a browser asks, and not a program.
fn asks_for_a_page(headers: &HeaderMap) -> bool {
    has(headers, &ACCEPT, "text/html")
}

fn has(headers: &HeaderMap, name: &HeaderName, part: &str) -> bool {
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains(part)))
}
