//! Takes away what belongs to one connection only (RFC 9110, section 7.6.1), in either direction, and what a client must not say to
//! the site.
//!
//! `Connection` may name any header, so this runs before the gate adds its own. Kept whatever it names: `Host` and `Content-Length`,
//! without which the request is another one, and the forwarding headers, which a front proxy that passes `Connection` on would lose at
//! its client's word. Kept always: `Trailer` (end-to-end since RFC 9110) and `Proxy-Authorization`, `Proxy-Authenticate` (for the
//! proxy that asked; a gateway never does).

use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, ETAG, EXPECT, EXPIRES,
    LAST_MODIFIED, LOCATION, SERVER, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::check::is_token;

/// Strips a request. Goes: every header that `Connection` names, `Connection`, `Keep-Alive`, `Proxy-Connection`, `TE`,
/// `Transfer-Encoding`, `Upgrade`; `Expect`, which the gate answers; `Proxy`, which CGI takes for its own `HTTP_PROXY`;
/// `X-Original-URL` and `X-Rewrite-URL`, which some sites (behind IIS) take for the path, where the gate has decided by another;
/// `Tidegate-Pass`; and what CGI can't tell from a header that the gate sets, strips or frames by, such as `X_Forwarded_For`.
///
/// `TE: trailers` is put back, with the `Connection: te` that it needs. `Connection: upgrade` is not: [`super::upgrade`] reads `Upgrade`
/// before.
///
/// `Content-Length` loses zeros in front, for which some would read it as octal.
///
/// `Transfer-Encoding` goes: who forwards a body says anew where it ends.
pub fn strip_request(headers: &mut HeaderMap) {
    let mut found = Found::default();
    for (name, value) in &*headers {
        match *name {
            CONNECTION => found.connection(value),
            TE => found.te = true,
            TRANSFER_ENCODING => found.transfer_encoding = true,
            UPGRADE => found.upgrade = true,
            EXPECT => found.expect = true,
            CONTENT_LENGTH => found.odd_length |= has_zeros(value),
            COOKIE | ACCEPT | usual!() => {}
            _ => found.named |= is_unwanted(name.as_str()),
        }
    }
    strip_connection(headers, &found);
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
    }
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    if found.expect {
        headers.remove(EXPECT);
    }
    if found.odd_length {
        strip_zeros(headers);
    }
    if found.named {
        remove_where(headers, is_unwanted);
    }
    if found.te {
        let takes_trailers = headers.get_all(TE).iter().flat_map(options).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        headers.remove(TE);
        if takes_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
}

/// Whether a header of a request goes by its name alone, beside those that have a number.
fn is_unwanted(name: &str) -> bool {
    matches!(name, "keep-alive" | "proxy-connection" | "proxy" | "tidegate-pass" | "x-original-url" | "x-rewrite-url") || is_twin(name)
}

/// Strips an answer. Goes: every header that `Connection` names, `Connection`, `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding`,
/// `Upgrade`. The headers of a 101 must be read before.
///
/// `Content-Length` is left only if it says how long the body is: not beside `Transfer-Encoding`, which overrides it (RFC 9112, section
/// 6.3), and once, where the site repeats it.
///
/// Tells whether the answer sets cookies.
pub fn strip_response(headers: &mut HeaderMap) -> bool {
    let mut found = Found::default();
    let (mut lengths, mut sets_cookies) = (0, false);
    for (name, value) in &*headers {
        match *name {
            CONNECTION => found.connection(value),
            TRANSFER_ENCODING => found.transfer_encoding = true,
            UPGRADE => found.upgrade = true,
            CONTENT_LENGTH => {
                lengths += 1;
                found.odd_length |= lengths > 1 || value.as_bytes().contains(&b',');
            }
            SET_COOKIE => sets_cookies = true,
            // as in a request
            DATE | SERVER | CONTENT_TYPE | CACHE_CONTROL | VARY | ETAG | LAST_MODIFIED | EXPIRES | LOCATION | CONTENT_ENCODING
            | ACCEPT_RANGES => {}
            _ => found.named |= matches!(name.as_str(), "keep-alive" | "proxy-connection"),
        }
    }
    strip_connection(headers, &found);
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONTENT_LENGTH);
    } else if found.odd_length {
        merge_lengths(headers);
    }
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    if found.named {
        remove_where(headers, |name| matches!(name, "keep-alive" | "proxy-connection"));
    }
    sets_cookies
}

/// What one pass over the headers has seen: most requests hold one or two of these, and a look-up for each would cost more.
#[derive(Default)]
struct Found {
    connection: bool,
    /// It names headers that must be looked for.
    names_others: bool,
    te: bool,
    transfer_encoding: bool,
    upgrade: bool,
    expect: bool,
    /// A length is not written as it should be.
    odd_length: bool,
    named: bool,
}

impl Found {
    fn connection(&mut self, line: &HeaderValue) {
        self.connection = true;
        self.names_others |= !is_plain(line);
    }
}

/// Removes `Connection` and what it names. At most one look-up for every two bytes of it, which `limits.header_bytes` bounds.
fn strip_connection(headers: &mut HeaderMap, found: &Found) {
    if !found.connection {
        return;
    }
    if found.names_others {
        let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
        lines.iter().for_each(|line| remove_options(headers, line));
    }
    headers.remove(CONNECTION);
}

/// Whether a line names no header that must be looked for. Mostly it is one word, which need not be divided.
fn is_plain(line: &HeaderValue) -> bool {
    names_no_other(line.as_bytes()) || options(line).all(names_no_other)
}

fn remove_options(headers: &mut HeaderMap, line: &HeaderValue) {
    for option in options(line).filter(|option| !names_no_other(option) && !is_kept(option)) {
        if let Ok(name) = str::from_utf8(option) {
            headers.remove(name);
        }
    }
}

pub(in crate::rules) fn options(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Options that are no header, or one that goes anyway.
fn names_no_other(option: &[u8]) -> bool {
    match option.len() {
        0 => true,
        2 => option.eq_ignore_ascii_case(b"te"),
        5 => option.eq_ignore_ascii_case(b"close"),
        7 => option.eq_ignore_ascii_case(b"upgrade"),
        10 => option == b"keep-alive" || option.eq_ignore_ascii_case(b"keep-alive"),
        _ => false,
    }
}

/// Headers that `Connection` can't remove.
fn is_kept(option: &[u8]) -> bool {
    KEPT.iter().any(|name| option.eq_ignore_ascii_case(name))
}

const KEPT: [&[u8]; 6] = [b"host", b"content-length", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];

/// `x_forwarded_for` and its like. CGI, and what is made like it (WSGI, Rack, PHP), reads HTTP_X_FORWARDED_FOR out of either; some servers
/// put an underscore for any byte that is no letter and no digit. Of `content_length` some read how long the body is.
fn is_twin(name: &str) -> bool {
    // of each length and first letter there is one of `WITH_DASHES` at most
    let ours = match (name.len(), name.as_bytes().first()) {
        (10, Some(b'k')) => "keep-alive",
        (13, Some(b't')) => "tidegate-pass",
        (13, Some(b'x')) => "x-rewrite-url",
        (14, Some(b'c')) => "content-length",
        (14, Some(b'x')) => "x-original-url",
        (15, Some(b'x')) => "x-forwarded-for",
        (16, Some(b'p')) => "proxy-connection",
        (16, Some(b'x')) => "x-forwarded-host",
        (17, Some(b't')) => "transfer-encoding",
        (17, Some(b'x')) => "x-forwarded-proto",
        _ => return false,
    };
    name != ours && is_same_in_cgi(ours, name)
}

fn is_same_in_cgi(ours: &str, name: &str) -> bool {
    let mut pairs = ours.bytes().zip(name.bytes());
    ours.len() == name.len() && pairs.all(|(our, byte)| our == byte || (our == b'-' && !byte.is_ascii_alphanumeric()))
}

/// Headers that the gate sets, strips or frames by. Those without a dash have no other spelling.
const WITH_DASHES: [&str; 10] = [
    "content-length",
    "keep-alive",
    "proxy-connection",
    "tidegate-pass",
    "transfer-encoding",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-original-url",
    "x-rewrite-url",
];

/// Strips the trailers of a request. Some sites make headers of them, long after ours were checked: whatever could frame the request,
/// say who the client is, or show a pass, goes, and so does what is no name in HTTP/1.1.
/// What must not be a trailer anyway (RFC 9110, section 6.5.1) is not written as one ([`crate::rules::http1::chunks`]).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| {
        let is_plain = matches!(
            name,
            "connection" | "cookie" | "expect" | "forwarded" | "host" | "proxy" | "proxy-authorization" | "te" | "trailer" | "upgrade"
        );
        is_plain || WITH_DASHES.contains(&name) || is_twin(name) || !is_token(name)
    });
}

/// Strips the trailers of an answer of what belongs to the connection to the site, and of what is no name in HTTP/1.1. A visitor of HTTP/2
/// could not be sent the former (RFC 9113, section 8.2.2), and would see a whole answer end in a reset.
pub fn strip_trailers_of_site(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| {
        matches!(name, "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade") || !is_token(name)
    });
}

/// Takes out of an answer of HTTP/2 what is no name in HTTP/1.1: the h2 crate lets it through, and where a visitor of HTTP/1 would think
/// that such a line ends is in doubt (RFC 9113, section 10.3).
pub fn strip_odd_names(headers: &mut HeaderMap) {
    remove_where(headers, |name| !is_token(name));
}

fn remove_where(headers: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| is_unwanted(name.as_str())).cloned() {
        headers.remove::<HeaderName>(name);
    }
}

fn has_zeros(length: &HeaderValue) -> bool {
    length.as_bytes().first() == Some(&b'0') && length.len() > 1
}

fn strip_zeros(headers: &mut HeaderMap) {
    let Some(length) = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) else { return };
    let zeros = length.iter().take_while(|&&byte| byte == b'0').count();
    // of zeros alone the last one stays
    let rest = &length[zeros.min(length.len().saturating_sub(1))..];
    if rest.len() < length.len()
        && let Ok(number) = HeaderValue::from_bytes(rest)
    {
        headers.insert(CONTENT_LENGTH, number);
    }
}

/// Leaves one `Content-Length` of several, or of a list. All are equal, or it would be no answer ([`crate::rules::http1`]).
fn merge_lengths(headers: &mut HeaderMap) {
    let first = headers.get(CONTENT_LENGTH).and_then(|first| options(first).next());
    let number = first.and_then(|number| HeaderValue::from_bytes(number).ok());
    if let Some(number) = number {
        headers.insert(CONTENT_LENGTH, number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in list {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut list: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8(value.as_bytes().to_vec()).unwrap())).collect();
        // the map keeps the order of one name's lines only
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    #[track_caller]
    fn assert_request(before: &[(&'static str, &str)], after: &[(&'static str, &str)]) {
        let mut map = headers(before);
        strip_request(&mut map);
        assert_eq!(listed(&map), listed(&headers(after)));
    }

    #[track_caller]
    fn assert_response(before: &[(&'static str, &str)], after: &[(&'static str, &str)]) {
        let mut map = headers(before);
        strip_response(&mut map);
        assert_eq!(listed(&map), listed(&headers(after)));
    }

    #[test]
    fn end_to_end_headers_stay() {
        let kept = [
            ("host", "a"),
            ("content-length", "5"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("trailer", "x-sum"),
            ("proxy-authorization", "Basic eA=="),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_request_id", "7"),
            ("proxy-x", "y"),
        ];
        assert_request(&kept, &kept);
        assert_request(&[], &[]);
    }

    #[test]
    fn the_fields_that_rfc_9110_lists_go_even_if_connection_does_not_name_them() {
        assert_request(
            &[
                ("host", "a"),
                ("proxy-connection", "keep-alive"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
            ],
            &[("host", "a")],
        );
    }

    #[test]
    fn what_connection_names_goes_in_whatever_case() {
        assert_request(
            &[("host", "a"), ("connection", "Close , X-HOP,,x-other"), ("x-hop", "1"), ("x-hop", "2"), ("x-other", "3"), ("x", "4")],
            &[("host", "a"), ("x", "4")],
        );
        assert_request(&[("connection", "keep-alive"), ("x", "1")], &[("x", "1")]);
        assert_request(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMA")], &[]);
    }

    #[test]
    fn every_connection_line_counts() {
        assert_request(
            &[("connection", "close"), ("connection", "x-one"), ("connection", "keep-alive, x-two"), ("x-one", "1"), ("x-two", "2")],
            &[],
        );
    }

    #[test]
    fn connection_names_can_not_change_what_the_request_is() {
        let kept = [
            ("host", "a"),
            ("content-length", "5"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4"),
        ];
        let hostile = "Host, content-length, X-Forwarded-For, x-forwarded-host, x-forwarded-proto, Forwarded";
        let mut list = vec![("connection", hostile)];
        list.extend(kept);
        assert_request(&list, &kept);
    }

    #[test]
    fn odd_connection_values_remove_nothing_else() {
        let kept = [("host", "a"), ("cookie", "a=b")];
        for odd in [",", "\"cookie\"", "cookie;q=1", "coo kie", ":", "caf\u{e9}", "cookie\u{a0}", "close=cookie"] {
            let mut list = vec![("connection", odd)];
            list.extend(kept);
            assert_request(&list, &kept);
        }
    }

    #[test]
    fn te_trailers_stays_and_other_codings_go() {
        let kept = [("te", "trailers"), ("connection", "te")];
        assert_request(&[("te", "trailers")], &kept);
        assert_request(&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")], &kept);
        assert_request(&[("te", "gzip"), ("te", "trailers"), ("connection", "close, te")], &kept);
        assert_request(&[("te", "gzip, deflate;q=0.5"), ("connection", "te")], &[]);
        assert_request(&[("te", "")], &[]);
    }

    #[test]
    fn what_a_client_must_not_say_to_the_site_goes() {
        assert_request(&[("expect", "100-continue"), ("proxy", "http://evil"), ("tidegate-pass", "v1.x"), ("a", "b")], &[("a", "b")]);
        assert_request(&[("x-original-url", "/apply"), ("x-rewrite-url", "/apply"), ("a", "b")], &[("a", "b")]);
        assert_request(
            &[
                ("x_forwarded_for", "1.1.1.1"),
                ("x-forwarded_for", "1.1.1.1"),
                ("x_forwarded-host", "evil"),
                ("x_forwarded_proto", "https"),
                ("x-forwarded-for", "2.2.2.2"),
                ("x_forwarded_fox", "3"),
            ],
            &[("x-forwarded-for", "2.2.2.2"), ("x_forwarded_fox", "3")],
        );
    }

    #[test]
    fn a_length_has_no_zeros_in_front() {
        for (before, after) in [("0010", "10"), ("00", "0"), ("0", "0"), ("100", "100"), ("010", "10")] {
            assert_request(&[("content-length", before)], &[("content-length", after)]);
        }
    }

    #[test]
    fn what_cgi_can_not_tell_from_ours_goes() {
        let twins = [
            "content_length",
            "transfer_encoding",
            "keep_alive",
            "proxy_connection",
            "tidegate_pass",
            "tidegate.pass",
            "x.forwarded.for",
            "x-forwarded~host",
            "x_original_url",
            "x-rewrite_url",
            "x_forwarded-proto",
        ];
        for twin in twins {
            assert_request(&[("content-length", "5"), (twin, "6"), ("a", "b")], &[("content-length", "5"), ("a", "b")]);
        }
        let others =
            [("content_type", "a/b"), ("x_request_id", "7"), ("xxforwardedxfor", "1"), ("x-forwarded-by", "c"), ("tidegate_past", "d")];
        assert_request(&others, &others);
    }

    #[test]
    fn trailers_say_nothing_that_a_header_could_not() {
        let mut trailers = headers(&[
            ("x-sum", "7"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("connection", "x-sum"),
            ("cookie", "tidegate_pass=v1.x"),
            ("tidegate-pass", "v1.x"),
            ("tidegate_pass", "v1.x"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("expect", "100-continue"),
        ]);
        // a name that only the h2 crate makes
        trailers.insert(HeaderName::from_lowercase(b"x\"y").unwrap(), HeaderValue::from_static("a"));
        strip_trailers(&mut trailers);
        assert_eq!(listed(&trailers), listed(&headers(&[("x-sum", "7")])));
    }

    #[test]
    fn trailers_of_the_site_lose_its_hop() {
        let mut trailers = headers(&[
            ("x-sum", "7"),
            ("connection", "x-sum"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ]);
        strip_trailers_of_site(&mut trailers);
        assert_eq!(listed(&trailers), listed(&headers(&[("x-sum", "7")])));
    }

    #[test]
    fn what_is_added_after_stripping_is_out_of_reach_of_connection() {
        let mut map = headers(&[("connection", "cookie, tidegate-pass, x-added, via"), ("cookie", "a=b"), ("x-added", "theirs")]);
        strip_request(&mut map);
        map.insert("x-added", HeaderValue::from_static("ours"));
        assert_eq!(listed(&map), listed(&headers(&[("x-added", "ours")])));
        // nothing is left that the next hop would apply to it
        assert!(!map.contains_key(CONNECTION));
    }

    #[test]
    fn an_answer_loses_its_hop_and_keeps_the_rest() {
        assert_response(
            &[
                ("connection", "Upgrade, x-hop"),
                ("upgrade", "h2c"),
                ("keep-alive", "timeout=5, max=100"),
                ("proxy-connection", "close"),
                ("x-hop", "1"),
                ("set-cookie", "a=b"),
                ("set-cookie", "c=d"),
                ("proxy-authenticate", "Basic"),
                ("trailer", "x-sum"),
                ("content-length", "5"),
            ],
            &[("set-cookie", "a=b"), ("set-cookie", "c=d"), ("proxy-authenticate", "Basic"), ("trailer", "x-sum"), ("content-length", "5")],
        );
    }

    #[test]
    fn an_answer_has_one_length_and_none_beside_chunks() {
        assert_response(&[("transfer-encoding", "chunked"), ("content-length", "5")], &[]);
        assert_response(&[("content-length", "5"), ("content-length", "5")], &[("content-length", "5")]);
        assert_response(&[("content-length", "5, 5")], &[("content-length", "5")]);
        assert_response(&[("content-length", "5"), ("connection", "content-length")], &[("content-length", "5")]);
    }

    /// The rule, written without a thought for speed.
    fn slow(list: &[(String, String)]) -> Vec<(String, String)> {
        let values = |wanted: &str| -> Vec<String> {
            let lines = list.iter().filter(|(name, _)| name == wanted);
            lines.flat_map(|(_, value)| value.split(',')).map(|option| option.trim().to_ascii_lowercase()).collect()
        };
        let named = values("connection");
        let always =
            ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "expect", "proxy", "tidegate-pass"];
        let goes = |name: &String| {
            let is_kept = KEPT.contains(&name.as_bytes());
            always.contains(&name.as_str()) || name == "x_forwarded-for" || (named.contains(name) && !is_kept)
        };
        let mut after: Vec<_> = list.iter().filter(|(name, _)| !goes(name)).cloned().collect();
        if values("te").iter().any(|coding| coding == "trailers") {
            after.push(("te".to_owned(), "trailers".to_owned()));
            after.push(("connection".to_owned(), "te".to_owned()));
        }
        after.sort_by(|a, b| a.0.cmp(&b.0));
        after
    }

    /// [`is_twin`], written without a thought for speed.
    fn slow_is_twin(name: &str) -> bool {
        let is_other = |byte: u8| byte != b'-' && !byte.is_ascii_alphanumeric();
        name.bytes().any(is_other) && WITH_DASHES.iter().any(|ours| is_same_in_cgi(ours, name))
    }

    proptest! {
        #[test]
        fn a_twin_is_what_the_slow_rule_says(
            ours in proptest::sample::select(WITH_DASHES.to_vec()),
            dash in "[-_.~!a0]",
            (place, other) in (0..17_usize, "[-_.!a-z0-9]?"),
            end in "[_a]?",
        ) {
            let mut changed = ours.to_owned();
            changed.replace_range(place % ours.len()..=place % ours.len(), &other);
            for name in [ours.to_owned(), ours.replace('-', &dash), changed.clone(), changed.replacen('-', &dash, 1), ours.replace('-', &dash) + &end] {
                prop_assert_eq!(is_twin(&name), slow_is_twin(&name), "{}", name);
            }
        }

        #[test]
        fn stripping_is_what_the_slow_rule_says(list in proptest::collection::vec((
            proptest::sample::select(vec![
                "connection", "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "expect", "proxy",
                "tidegate-pass", "x_forwarded-for", "x-forwarded-for", "host", "cookie", "x-a", "x-b", "accept",
            ]),
            "(close|keep-alive|Upgrade|te|trailers|gzip|Cookie|x-A|x-b|host|x-forwarded-for|accept|,|, | |;){0,6}",
        ), 0..12)) {
            let list: Vec<(String, String)> = list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let mut map = HeaderMap::new();
            for (name, value) in &list {
                map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            strip_request(&mut map);
            prop_assert_eq!(listed(&map), slow(&list));
        }
    }
}
