//! What a posted form says: its fields, within bounds; whether it comes from a page of this site, and leads to one.

use bytes::{Bytes, BytesMut};
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::exchange::{Exchange, Upload};
use super::state::Phase;
use crate::rules::token::VisitorId;

/// Why a form could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is longer than [`BYTES_MAX`].
    TooLarge,
    /// It stopped coming for `limits.body_timeout`.
    Late,
    /// It is not HTTP, or the client left.
    Malformed,
}

/// Reads a form, which may not be there.
///
/// # Errors
/// Why it can't be read.
pub(super) async fn read(exchange: &Exchange, body: Option<Upload>) -> Result<Bytes, Broken> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    exchange.enter(Phase::Body);
    let form = gathered(Limited::new(body, BYTES_MAX)).await;
    let timed_out = exchange.has_stalled();
    exchange.enter(Phase::Busy);
    form.map_err(|error| match error.is::<LengthLimitError>() {
        true => Broken::TooLarge,
        false if timed_out => Broken::Late,
        false => Broken::Malformed,
    })
}

/// All of a body, in one piece from the start: many small ones would each keep the buffer that it was read into.
async fn gathered<B>(mut body: B) -> Result<Bytes, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut form = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            form.extend_from_slice(data);
        }
    }
    Ok(form.freeze())
}

/// The longest form that is read: a code or an address, and the path that was first asked for.
const BYTES_MAX: usize = 16 * 1024;

/// `Origin`, when present, must name the host that was asked; whether over TLS in front of us or not.
pub(super) fn is_own_origin(parts: &Parts) -> bool {
    let Some(origin) = parts.headers.get(ORIGIN) else { return true };
    let Some(host) = parts.headers.get(HOST) else { return false };
    let origin = origin.as_bytes();
    let origin = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_bytes()))
}

/// A path of this site: it starts with one slash, and browsers read a backslash as one.
pub(super) fn is_local(path: &str) -> bool {
    let rest = path.strip_prefix('/');
    rest.is_some_and(|rest| !rest.starts_with(['/', '\\'])) && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// Whether a text is the keyed number that proves something: numbers are compared, and not their texts, so how long that takes tells
/// nothing.
pub(super) fn proves(check: &str, given: u64) -> bool {
    check.parse::<VisitorId>().is_ok_and(|check| check.0 == given)
}

pub(super) fn field(form: &[u8], wanted: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_site_starts_with_one_slash() {
        for path in ["/", "/a/b?c=d", "/a//b"] {
            assert!(is_local(path), "{path}");
        }
        for path in ["", "a", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nSet-Cookie: x", "/a b", "/a\\b"] {
            assert!(!is_local(path), "{path:?}");
        }
    }

    #[test]
    fn the_origin_of_a_form_must_be_the_host_asked() {
        let parts = |origin: Option<&str>, host: &str| {
            let mut request = http::Request::new(());
            request.headers_mut().insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                request.headers_mut().insert(ORIGIN, origin.parse().unwrap());
            }
            request.into_parts().0
        };
        assert!(is_own_origin(&parts(None, "a.example")));
        assert!(is_own_origin(&parts(Some("https://A.example"), "a.example")));
        assert!(is_own_origin(&parts(Some("http://a.example:8080"), "a.example:8080")));
        assert!(!is_own_origin(&parts(Some("https://b.example"), "a.example")));
        assert!(!is_own_origin(&parts(Some("null"), "a.example")));
    }

    #[test]
    fn fields_are_decoded() {
        assert_eq!(field(b"code=a%2Eb&next=%2Fx%3Fy%3D1", "next").as_deref(), Some("/x?y=1"));
        assert_eq!(field(b"code=", "code").as_deref(), Some(""));
        assert_eq!(field(b"", "code"), None);
    }
}
