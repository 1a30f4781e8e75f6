//! What is a request and must not pass a gateway all the same: the gate and the site could read it in two ways.
//!
//! Of HTTP/1 already refused where heads are read ([`crate::rules::http1::from_client`]): an invalid `Content-Length` or two that differ
//! (equal ones are merged), `Transfer-Encoding` on HTTP/1.0 or not ending in `chunked`, spaces before a colon, folded lines, control bytes.
//! They are checked again where that is cheap, so that the rule stands here whatever reads them.
//!
//! Already refused by the h2 crate 0.4: headers of the connection, `TE` other than `trailers`, a `Content-Length` that the body does not
//! have, or two that differ (equal ones are not), pseudo-headers that are missing, repeated or misplaced.
//!
//! Not visible any more: `Content-Length` beside `Transfer-Encoding` (the length is dropped, the chunks are decoded, and the
//! connection closes after the answer, as RFC 9112 section 6.3 allows), and a fragment (dropped from the target).
//!
//! The connection of a refused request must be closed: where its body ends is in doubt.

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::head::{Head, Name};

/// Where a request wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path without its query: visible ASCII that starts with `/`, or `*`.
    pub path: &'a str,
    /// Host and port as sent, valid; `None` only if the client sent none and the version lets it.
    pub authority: Option<&'a [u8]>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.message())]
pub enum BadRequest {
    /// HTTP/1.1 without `Host`, or HTTP/2 without `:authority` and `Host`.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// `Host` is not a host with an optional port.
    HostInvalid,
    /// The target names another host than `Host`.
    HostMismatch,
    /// The target's scheme is neither http nor https.
    SchemeUnsupported,
    /// The target is in a form that its method does not have, or names a user.
    TargetInvalid,
    /// The target holds bytes that must be percent-encoded.
    TargetBytes,
    /// `CONNECT`: this is a gateway, not a proxy that clients choose.
    MethodUnsupported,
    /// `Content-Length` is no number, or stands there twice.
    LengthInvalid,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` on HTTP/1.0 or HTTP/2, or `chunked` more than once.
    CodingInvalid,
    /// A transfer coding other than `chunked`.
    CodingUnsupported,
    /// The name of a header is no token.
    NameInvalid,
}

impl BadRequest {
    /// Every reason, so that metrics can resolve their labels beforehand.
    pub const ALL: [Self; 13] = [
        Self::HostMissing,
        Self::HostRepeated,
        Self::HostInvalid,
        Self::HostMismatch,
        Self::SchemeUnsupported,
        Self::TargetInvalid,
        Self::TargetBytes,
        Self::MethodUnsupported,
        Self::LengthInvalid,
        Self::LengthAndCoding,
        Self::CodingInvalid,
        Self::CodingUnsupported,
        Self::NameInvalid,
    ];

    /// Status of the answer: 400 or 501.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::MethodUnsupported | Self::CodingUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::HostMissing
            | Self::HostRepeated
            | Self::HostInvalid
            | Self::HostMismatch
            | Self::SchemeUnsupported
            | Self::TargetInvalid
            | Self::TargetBytes
            | Self::LengthInvalid
            | Self::LengthAndCoding
            | Self::CodingInvalid
            | Self::NameInvalid => StatusCode::BAD_REQUEST,
        }
    }

    /// The `reason` label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostInvalid => "host_invalid",
            Self::HostMismatch => "host_mismatch",
            Self::SchemeUnsupported => "scheme_unsupported",
            Self::TargetInvalid => "target_invalid",
            Self::TargetBytes => "target_bytes",
            Self::MethodUnsupported => "method_unsupported",
            Self::LengthInvalid => "length_invalid",
            Self::LengthAndCoding => "length_and_coding",
            Self::CodingInvalid => "coding_invalid",
            Self::CodingUnsupported => "coding_unsupported",
            Self::NameInvalid => "name_invalid",
        }
    }

    /// One line for the client.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::HostMissing => "the request has no Host",
            Self::HostRepeated => "the request has more than one Host",
            Self::HostInvalid => "Host is not a host with an optional port",
            Self::HostMismatch => "the request target and Host name different hosts",
            Self::SchemeUnsupported => "the scheme of the request target is neither http nor https",
            Self::TargetInvalid => "the request target is not valid for this method",
            Self::TargetBytes => "the request target holds bytes that must be percent-encoded",
            Self::MethodUnsupported => "CONNECT is not implemented here",
            Self::LengthInvalid => "Content-Length is not one number",
            Self::LengthAndCoding => "the request has both Content-Length and Transfer-Encoding",
            Self::CodingInvalid => "Transfer-Encoding is not valid here",
            Self::CodingUnsupported => "only the transfer coding chunked is implemented",
            Self::NameInvalid => "the name of a header holds a byte that no name may hold",
        }
    }

    /// The error type for `Proxy-Status` (RFC 9209, section 2.3).
    #[must_use]
    pub const fn error_type(self) -> &'static str {
        "http_request_error"
    }
}

/// Checks a request head. What passes has one meaning only.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_request<'a>(method: &Method, uri: &'a Uri, version: Version, head: impl Into<Head<'a>>) -> Result<Target<'a>, BadRequest> {
    let head = head.into();
    let headers = head.map();
    if *method == Method::CONNECT {
        return Err(BadRequest::MethodUnsupported);
    }
    check_names(version, headers)?;
    // without either there is no body
    if head.has(Name::ContentLength) || head.has(Name::TransferEncoding) {
        check_framing(version, headers)?;
    }
    let host = host(version, headers)?;
    let path = path(method, uri, version)?;
    let Some(named) = uri.authority() else {
        return Ok(Target { path, authority: host.map(|host| host.text) });
    };
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        Some(_) => return Err(BadRequest::SchemeUnsupported),
        // the form of CONNECT
        None => return Err(BadRequest::TargetInvalid),
    };
    let named = Authority::parse(named.as_str().as_bytes()).ok_or(BadRequest::TargetInvalid)?;
    if host.is_some_and(|host| !host.is_same(&named, default_port)) {
        return Err(BadRequest::HostMismatch);
    }
    Ok(Target { path, authority: Some(named.text) })
}

/// The http crate takes a quote for part of a name that comes over HTTP/2. Of HTTP/1.1 it is none, and where the site would think that such
/// a line ends is in doubt.
fn check_names(version: Version, headers: &HeaderMap) -> Result<(), BadRequest> {
    let is_invalid = version == Version::HTTP_2 && headers.keys().any(|name| !is_token(name.as_str()));
    if is_invalid { Err(BadRequest::NameInvalid) } else { Ok(()) }
}

/// Whether a name is one in HTTP/1.1 as well.
pub(super) fn is_token(name: &str) -> bool {
    !name.contains('"')
}

fn check_framing(version: Version, headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    // of HTTP/1 equal lines are merged, so a second one is a difference; of HTTP/2 the h2 crate lets equal ones pass
    if lengths.next().is_some() || length.is_some_and(|value| !is_number(value.as_bytes())) {
        return Err(BadRequest::LengthInvalid);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(first) = codings.next() else { return Ok(()) };
    // HTTP/1.0 did not have it, and HTTP/2 forbids it
    if version != Version::HTTP_11 {
        return Err(BadRequest::CodingInvalid);
    }
    if length.is_some() {
        return Err(BadRequest::LengthAndCoding);
    }
    if codings.next().is_none() && is_chunked(first.as_bytes()) {
        return Ok(());
    }
    let mut all = headers.get_all(TRANSFER_ENCODING).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let is_unknown = all.any(|coding| !coding.trim_ascii().is_empty() && !is_chunked(coding.trim_ascii()));
    Err(if is_unknown { BadRequest::CodingUnsupported } else { BadRequest::CodingInvalid })
}

fn host(version: Version, headers: &HeaderMap) -> Result<Option<Authority<'_>>, BadRequest> {
    let mut lines = headers.get_all(HOST).iter();
    let Some(first) = lines.next() else {
        // HTTP/1.0 had no Host; of HTTP/2, `http2::settle` has made one of what the target names
        return if version >= Version::HTTP_11 { Err(BadRequest::HostMissing) } else { Ok(None) };
    };
    if lines.next().is_some() {
        return Err(BadRequest::HostRepeated);
    }
    Authority::parse(first.as_bytes()).map(Some).ok_or(BadRequest::HostInvalid)
}

fn path<'a>(method: &Method, uri: &'a Uri, version: Version) -> Result<&'a str, BadRequest> {
    // the form of CONNECT has none
    let whole = uri.path_and_query().ok_or(BadRequest::TargetInvalid)?.as_str();
    // one pass without an early exit, which the compiler turns into vector instructions
    if whole.bytes().fold(false, |bad, byte| bad | !matches!(byte, 0x21..=0x7e)) {
        return Err(BadRequest::TargetBytes);
    }
    let path = uri.path();
    // an absolute target of HTTP/1 may go without a path, `:path` must not (RFC 9113, section 8.3.1)
    if version == Version::HTTP_2 && whole.starts_with('?') {
        return Err(BadRequest::TargetInvalid);
    }
    let is_valid = path.starts_with('/') || (path == "*" && *method == Method::OPTIONS);
    if is_valid { Ok(path) } else { Err(BadRequest::TargetInvalid) }
}

/// A host and an optional port (RFC 9110, section 7.2), without the user that a URI could hold.
#[derive(Clone, Copy)]
struct Authority<'a> {
    text: &'a [u8],
    host: &'a [u8],
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (host, rest) = if let Some(inner) = text.strip_prefix(b"[") {
            let end = inner.iter().position(|&byte| byte == b']')?;
            str::from_utf8(&inner[..end]).ok()?.parse::<Ipv6Addr>().ok()?;
            text.split_at(end + 2)
        } else {
            let end = text.iter().position(|&byte| !HOST_BYTES[usize::from(byte)]).unwrap_or(text.len());
            if end == 0 {
                return None;
            }
            text.split_at(end)
        };
        let port = match rest.strip_prefix(b":") {
            None if rest.is_empty() => None,
            // "host:" is the default port
            Some(b"") => None,
            Some(digits) => Some(port(digits)?),
            None => return None,
        };
        Some(Self { text, host, port })
    }

    fn is_same(&self, other: &Self, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// A port of digits only; `None` if it is none, or zero.
fn port(digits: &[u8]) -> Option<u16> {
    let mut port = 0_u32;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // what is past the last port stays there, however many digits follow
        port = (port * 10 + u32::from(digit)).min(PORT_END);
    }
    u16::try_from(port).ok().filter(|&port| port > 0)
}

/// One more than the last port.
const PORT_END: u32 = 1 << 16;

/// A byte of a registered name or an IPv4 address (RFC 3986, section 3.2.2). Less than the grammar by two: a comma would make a list of
/// a header that some servers join, and a percent sign would make two spellings of one name.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=')
}

/// [`is_host_byte`] of every byte: a table is read faster than ranges are compared.
static HOST_BYTES: [bool; 256] = {
    let mut all = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        all[byte as usize] = is_host_byte(byte);
        byte += 1;
    }
    all
};

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in list {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn check(method: &str, target: &str, version: Version, list: &[(&'static str, &str)]) -> Result<(String, Option<String>), BadRequest> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let uri: Uri = target.parse().unwrap();
        let headers = headers(list);
        check_request(&method, &uri, version, &headers)
            .map(|target| (target.path.to_owned(), target.authority.map(|authority| String::from_utf8(authority.to_vec()).unwrap())))
    }

    fn get(target: &str, list: &[(&'static str, &str)]) -> Result<(String, Option<String>), BadRequest> {
        check("GET", target, Version::HTTP_11, list)
    }

    #[test]
    fn an_ordinary_request_passes() {
        assert_eq!(get("/a/b?c=d", &[("host", "example.org")]), Ok(("/a/b".to_owned(), Some("example.org".to_owned()))));
        assert_eq!(get("/", &[("host", "example.org:8080"), ("content-length", "5")]).unwrap().1.as_deref(), Some("example.org:8080"));
        assert!(get("/", &[("host", "a"), ("transfer-encoding", "Chunked")]).is_ok());
    }

    #[test]
    fn a_name_that_only_http_2_knows_is_refused() {
        // as the h2 crate makes names
        let name = HeaderName::from_lowercase(b"x\"y").unwrap();
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a")), (name, HeaderValue::from_static("b"))]);
        let uri = Uri::from_static("https://a/");
        assert_eq!(check_request(&Method::GET, &uri, Version::HTTP_2, &headers), Err(BadRequest::NameInvalid));
    }

    #[test]
    fn http_1_0_may_come_without_a_host() {
        assert_eq!(check("GET", "/", Version::HTTP_10, &[]), Ok(("/".to_owned(), None)));
        assert_eq!(get("/", &[]), Err(BadRequest::HostMissing));
    }

    #[test]
    fn two_hosts_are_refused_even_if_they_are_the_same() {
        assert_eq!(get("/", &[("host", "a"), ("host", "a")]), Err(BadRequest::HostRepeated));
        assert_eq!(check("GET", "/", Version::HTTP_10, &[("host", "a"), ("host", "b")]), Err(BadRequest::HostRepeated));
    }

    #[test]
    fn hosts() {
        for host in [
            "example.org",
            "EXAMPLE.org",
            "example.org.",
            "example.org:",
            "example.org:1",
            "example.org:65535",
            "localhost",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:8443",
            "[::ffff:1.2.3.4]",
            "xn--caf-dma.example",
            "my_host",
        ] {
            assert!(get("/", &[("host", host)]).is_ok(), "{host}");
        }
        for host in [
            "",
            " ",
            ":80",
            "a b",
            "a,b",
            "a, b",
            "user@example.org",
            "user:word@example.org",
            "example.org:0",
            "example.org:65536",
            "example.org:99999999999999999999",
            "example.org:80:80",
            "example.org:+80",
            "example.org:8o",
            "example.org: 80",
            "example.org/",
            "example.org/path",
            "example.org?x",
            "example.org#x",
            "http://example.org",
            "exa\"mple.org",
            "exa<mple.org",
            "exa\\mple.org",
            "example%2eorg",
            "caf\u{e9}.example",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[::1%25eth0]",
            "[]",
            "[1.2.3.4]",
            "[v1.fe]",
            "a\tb",
        ] {
            assert_eq!(get("/", &[("host", host)]), Err(BadRequest::HostInvalid), "{host:?}");
        }
    }

    #[test]
    fn an_absolute_target_must_name_the_host() {
        for (target, host) in [
            ("http://example.org/", "example.org"),
            ("HTTP://EXAMPLE.org/", "example.ORG"),
            ("http://example.org:80/", "example.org"),
            ("http://example.org/", "example.org:80"),
            ("http://example.org:/", "example.org:080"),
            ("https://example.org/", "example.org:443"),
            ("https://example.org:8443/", "example.org:8443"),
            ("http://[::1]:80/", "[::1]"),
        ] {
            assert!(get(target, &[("host", host)]).is_ok(), "{target} {host}");
        }
        for (target, host) in [
            ("http://example.org/", "example.com"),
            ("http://example.org:443/", "example.org"),
            ("https://example.org:80/", "example.org"),
            ("http://example.org/", "example.org:443"),
            ("http://example.org./", "example.org"),
            ("http://[::1]/", "[::2]"),
        ] {
            assert_eq!(get(target, &[("host", host)]), Err(BadRequest::HostMismatch), "{target} {host}");
        }
        assert_eq!(get("http://example.org/", &[]), Err(BadRequest::HostMissing));
        let old = check("GET", "http://example.org/x?y", Version::HTTP_10, &[]);
        assert_eq!(old, Ok(("/x".to_owned(), Some("example.org".to_owned()))));
    }

    #[test]
    fn an_absolute_target_names_no_user_and_no_other_scheme() {
        assert_eq!(get("http://user@example.org/", &[("host", "example.org")]), Err(BadRequest::TargetInvalid));
        assert_eq!(get("http://user:word@example.org/", &[("host", "example.org")]), Err(BadRequest::TargetInvalid));
        assert_eq!(get("http://example.org,evil/", &[("host", "example.org")]), Err(BadRequest::TargetInvalid));
        assert_eq!(get("http://example.org:99999/", &[("host", "example.org")]), Err(BadRequest::TargetInvalid));
        for target in ["ftp://example.org/", "file://example.org/", "ws://example.org/", "httpx://example.org/"] {
            assert_eq!(get(target, &[("host", "example.org")]), Err(BadRequest::SchemeUnsupported), "{target}");
        }
    }

    #[test]
    fn an_absolute_target_without_a_path_is_the_root() {
        for target in ["http://example.org", "http://example.org?x=1"] {
            assert_eq!(get(target, &[("host", "example.org")]).unwrap().0, "/", "{target}");
        }
    }

    #[test]
    fn http_2_names_its_host_and_has_no_transfer_coding() {
        let with = |target, list: &[(&'static str, &str)]| check("GET", target, Version::HTTP_2, list);
        assert_eq!(with("https://a.example/x", &[("host", "a.example")]), Ok(("/x".to_owned(), Some("a.example".to_owned()))));
        assert_eq!(with("https://a.example/", &[("host", "b.example")]), Err(BadRequest::HostMismatch));
        assert_eq!(with("https://a.example/", &[]), Err(BadRequest::HostMissing));
        assert_eq!(with("/", &[]), Err(BadRequest::HostMissing));
        assert_eq!(with("ftp://a.example/", &[("host", "a.example")]), Err(BadRequest::SchemeUnsupported));
        assert_eq!(with("/", &[("host", "a"), ("transfer-encoding", "chunked")]), Err(BadRequest::CodingInvalid));
        assert_eq!(with("https://a.example?x", &[("host", "a.example")]), Err(BadRequest::TargetInvalid));
        assert_eq!(check("CONNECT", "a:443", Version::HTTP_2, &[("host", "a:443")]), Err(BadRequest::MethodUnsupported));
    }

    #[test]
    fn forms_belong_to_methods() {
        let host = [("host", "example.org")];
        assert!(check("OPTIONS", "*", Version::HTTP_11, &host).is_ok());
        assert_eq!(get("*", &host), Err(BadRequest::TargetInvalid));
        assert_eq!(get("example.org:80", &host), Err(BadRequest::TargetInvalid));
        assert_eq!(check("OPTIONS", "example.org:80", Version::HTTP_11, &host), Err(BadRequest::TargetInvalid));
        for target in ["example.org:443", "/", "http://example.org/"] {
            assert_eq!(check("CONNECT", target, Version::HTTP_11, &host), Err(BadRequest::MethodUnsupported), "{target}");
        }
    }

    #[test]
    fn the_target_is_visible_ascii() {
        let host = [("host", "a")];
        for target in ["/caf\u{e9}", "/?q=caf\u{e9}", "/\u{202e}", "http://a/caf\u{e9}"] {
            assert_eq!(get(target, &host), Err(BadRequest::TargetBytes), "{target:?}");
        }
        for target in ["/caf%c3%a9", "/a//b", "/%2e%2e/", "/{\"a\"}", "/?a=[b]|c^d`\\"] {
            assert!(get(target, &host).is_ok(), "{target:?}");
        }
    }

    #[test]
    fn a_fragment_never_arrives() {
        assert_eq!(get("/a#b", &[("host", "a")]).unwrap().0, "/a");
    }

    #[test]
    fn transfer_codings() {
        let with = |version, lines: &[&str]| {
            let list: Vec<_> = [("host", "a")].into_iter().chain(lines.iter().map(|&line| ("transfer-encoding", line))).collect();
            check("POST", "/", version, &list)
        };
        for (lines, error) in [
            (&["gzip, chunked"][..], BadRequest::CodingUnsupported),
            (&["gzip", "chunked"], BadRequest::CodingUnsupported),
            (&["chunked", "identity"], BadRequest::CodingUnsupported),
            (&["identity"], BadRequest::CodingUnsupported),
            (&["xchunked"], BadRequest::CodingUnsupported),
            (&["\"chunked\""], BadRequest::CodingUnsupported),
            (&["chunked;a=b"], BadRequest::CodingUnsupported),
            (&["chunked, chunked"], BadRequest::CodingInvalid),
            (&["chunked", "chunked"], BadRequest::CodingInvalid),
            (&["chunked,"], BadRequest::CodingInvalid),
            (&[", chunked"], BadRequest::CodingInvalid),
            (&[""], BadRequest::CodingInvalid),
        ] {
            assert_eq!(with(Version::HTTP_11, lines), Err(error), "{lines:?}");
        }
        assert!(with(Version::HTTP_11, &["chunked"]).is_ok());
        assert_eq!(with(Version::HTTP_10, &["chunked"]), Err(BadRequest::CodingInvalid));
    }

    #[test]
    fn lengths() {
        let with = |lines: &[&str]| {
            let list: Vec<_> = [("host", "a")].into_iter().chain(lines.iter().map(|&line| ("content-length", line))).collect();
            check("POST", "/", Version::HTTP_11, &list)
        };
        assert!(with(&["0"]).is_ok());
        for lines in [&["5", "6"][..], &["5", "5"], &["5, 5"], &["+5"], &["-5"], &["0x5"], &["5 "], &[""]] {
            assert_eq!(with(lines), Err(BadRequest::LengthInvalid), "{lines:?}");
        }
        let both = [("host", "a"), ("content-length", "5"), ("transfer-encoding", "chunked")];
        assert_eq!(check("POST", "/", Version::HTTP_11, &both), Err(BadRequest::LengthAndCoding));
    }

    #[test]
    fn every_reason_has_a_label_of_its_own_and_the_right_status() {
        let labels: std::collections::HashSet<_> = BadRequest::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), BadRequest::ALL.len());
        for reason in BadRequest::ALL {
            let is_501 = matches!(reason, BadRequest::MethodUnsupported | BadRequest::CodingUnsupported);
            assert_eq!(reason.status().as_u16(), if is_501 { 501 } else { 400 });
            assert_eq!(reason.to_string(), reason.message());
            assert_eq!(reason.error_type(), "http_request_error");
        }
    }

    proptest! {
        #[test]
        fn a_port_is_what_the_standard_library_reads(digits in prop_oneof!["0{0,3}[0-9]{1,6}", "[0-9]{0,24}", "[0-9+./:a-]{1,6}", "655[0-9]{2}"]) {
            let slow = if is_number(digits.as_bytes()) { digits.parse::<u16>().ok().filter(|&port| port > 0) } else { None };
            prop_assert_eq!(port(digits.as_bytes()), slow);
        }

        #[test]
        fn what_passes_as_a_host_is_what_the_uri_parser_reads_in_the_same_way(host in "[a-z0-9.:@\\[\\],%_/-]{0,16}") {
            let passed = get("/", &[("host", &host)]).is_ok();
            if passed {
                let target = format!("http://{host}/");
                let uri: Uri = target.parse().unwrap();
                prop_assert_eq!(uri.authority().unwrap().as_str(), host.as_str());
                prop_assert!(get(&target, &[("host", &host)]).is_ok());
            }
        }
    }
}
