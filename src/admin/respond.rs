//! The form of an admin answer. Every one is `no-store` and `nosniff`, and says that it shows nothing but itself.

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

pub(super) type Answer = Response<Full<Bytes>>;

/// `Refresh`, which browsers obey and no RFC names.
const REFRESH: HeaderName = HeaderName::from_static("refresh");

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    // not `no-referrer`: browsers would then send `Origin: null` with our own forms
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    answer
}

/// A line of text.
pub(super) fn text(status: StatusCode, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// The metrics.
pub(super) fn metrics(encoded: String) -> Answer {
    answer(StatusCode::OK, prometheus::TEXT_FORMAT, encoded)
}

/// A JSON value, and a line break for terminals.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", format!("{value}\n"))
}

/// An error as JSON.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({ "error": message }))
}

/// What was refused whole, with every reason.
pub(super) fn rejected(errors: &[String]) -> Answer {
    json(StatusCode::UNPROCESSABLE_ENTITY, &serde_json::json!({ "result": "rejected", "errors": errors }))
}

/// A page that may load nothing but the style whose hash is given, and send forms here alone.
pub(super) fn page(status: StatusCode, html: String, style_hash: &str, refresh_s: Option<u32>) -> Answer {
    let mut answer = answer(status, "text/html; charset=utf-8", html);
    let policy =
        format!("default-src 'none'; style-src '{style_hash}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    if let Ok(policy) = HeaderValue::try_from(policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(seconds) = refresh_s {
        answer.headers_mut().insert(REFRESH, HeaderValue::from(seconds));
    }
    answer
}

/// Back to the dashboard.
pub(super) fn see_dashboard() -> Answer {
    let mut answer = text(StatusCode::SEE_OTHER, "see /");
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    answer
}

/// The method is not one of `allow`.
pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {allow}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}
