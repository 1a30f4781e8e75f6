//! Headers, of requests and of answers.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, SET_COOKIE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use tidegate::rules::headers::{cache, check, cookies, forwarded, hop, http2};
use tidegate::rules::negotiate;
use tidegate::rules::policy::RedirectHost;
use tidegate::rules::redirect;

fn lines(bytes: &[u8]) -> impl Iterator<Item = HeaderValue> {
    bytes.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok())
}

fn of(name: &HeaderName, values: impl Iterator<Item = HeaderValue>) -> HeaderMap {
    values.map(|value| (name.clone(), value)).collect()
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
}

pub(super) fn cookie_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "tidegate_pass=v1.abc; sid=1",
        "a=\"b; tidegate_pass=c\"; d",
        "__Host-tidegate_ticket=x; __Secure-tidegate_pass=y;z=1",
        "sid=1; tidegate_pass=a; lang=de\n tidegate_ticket = b ; x",
        "tidegate_pass=a",
        "; ;tidegate_ticket=;\n=;",
        "__Host-tidegate_passx=1; xtidegate_pass=2; Tidegate_pass=3; tidegate_pass",
    ])
}

/// Ours go, and nothing else does: every other pair keeps its bytes.
pub(super) fn check_cookies(bytes: &[u8]) {
    let before = of(&COOKIE, lines(bytes));
    let mut after = before.clone();
    cookies::strip_ours(&mut after);
    let expected: Vec<Vec<u8>> = values(&before, &COOKIE).iter().filter_map(|line| without_ours(line)).collect();
    assert_eq!(values(&after, &COOKIE), expected);
    let found = cookies::find(&before);
    assert_eq!(found.any(), values(&before, &COOKIE) != expected);
    assert!(!cookies::find(&after).any());
    assert!(found.pass.iter().count() <= cookies::CANDIDATES_MAX);
    // a site that sets the same can't set ours
    let mut set = of(&SET_COOKIE, lines(bytes));
    cookies::strip_from_site(&mut set);
    for line in values(&set, &SET_COOKIE) {
        let pair = line.split(|&byte| byte == b';').next().unwrap_or_default();
        assert!(!is_ours(pair) && !is_ours(pair.trim_ascii_start().strip_prefix(b"=").unwrap_or_default()), "{}", line.escape_ascii());
    }
}

fn is_ours(pair: &[u8]) -> bool {
    let Some(end) = pair.iter().position(|&byte| byte == b'=') else { return false };
    let name = pair[..end].trim_ascii();
    let name = [&b"__Host-"[..], b"__Secure-"].iter().find_map(|prefix| name.strip_prefix(*prefix)).unwrap_or(name);
    name == b"tidegate_pass" || name == b"tidegate_ticket"
}

/// A line without ours, as one would write it who has never heard of speed; `None` if nothing is left.
fn without_ours(line: &[u8]) -> Option<Vec<u8>> {
    let pairs: Vec<&[u8]> = line.split(|&byte| byte == b';').collect();
    let kept: Vec<&[u8]> = pairs.iter().copied().filter(|pair| !is_ours(pair)).collect();
    if kept.len() == pairs.len() {
        return Some(line.to_vec());
    }
    let is_left = kept.iter().any(|pair| !pair.trim_ascii().is_empty());
    is_left.then(|| kept.join(&b';').trim_ascii_start().to_vec())
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        "POST http://test:80/a?b HTTP/1.1\r\nHost: test\r\nContent-Length: 003\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: [::1]:8080\r\nTransfer-Encoding: chunked\r\nTE: trailers, gzip\r\nConnection: te, x-a\r\nX-A: b\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: www.example.org.:443\r\nConnection: close, Host, content-length, cookie\r\nCookie: a=b\r\n\r\n",
        "GET /a HTTP/1.0\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nProxy: evil\r\nExpect: 100-continue\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nX-Forwarded-For: 2\r\nTidegate_Pass: v1.x\r\nContent_Length: 5\r\nForwarded: for=3\r\n\r\n",
        "CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: tidegate_pass=1; b=c\r\nCookie: d=e\r\nCookie: tidegate_ticket=1\r\n\r\n",
    ])
}

/// What passes the check has one host, one framing and a target that everybody reads in one way; and what the site is sent of it says
/// nothing that is not the client's to say.
pub(super) fn check_request(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    if !head.parse(bytes).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let Some(headers) = header_map(head.headers) else { return };
    let Ok(method) = Method::from_bytes(head.method.unwrap_or_default().as_bytes()) else { return };
    let Ok(uri) = head.path.unwrap_or_default().parse::<Uri>() else { return };
    let first = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    for version in [first, Version::HTTP_2] {
        let mut headers = headers.clone();
        if version == Version::HTTP_2 {
            http2::settle(&uri, &mut headers);
            assert!(headers.get_all(COOKIE).iter().count() <= 1);
        }
        if let Ok(target) = check::check_request(&method, &uri, version, &headers) {
            checked(&method, &uri, version, &headers, target);
            sent(&headers);
        }
    }
    trailers(&headers);
}

fn header_map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append(HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(headers)
}

fn checked(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap, target: check::Target<'_>) {
    assert!(method != Method::CONNECT);
    assert!(target.path.starts_with('/') || (target.path == "*" && method == Method::OPTIONS), "{}", target.path);
    assert!(uri.path_and_query().is_some_and(|whole| whole.as_str().bytes().all(|byte| byte.is_ascii_graphic())));
    let hosts = values(headers, &HOST);
    assert!(hosts.len() == 1 || (hosts.is_empty() && version == Version::HTTP_10), "{} hosts", hosts.len());
    if let Some(authority) = target.authority {
        let read = http::uri::Authority::try_from(authority).unwrap();
        assert_eq!(read.as_str().as_bytes(), authority);
        assert!(!authority.contains(&b'@') && !read.host().is_empty());
        let mut named = hosts.iter().map(|host| http::uri::Authority::try_from(host.as_slice()).unwrap());
        assert!(named.all(|named| named.host().eq_ignore_ascii_case(read.host())));
        let list = ["www.example.org", "[2001:db8::1]:8443"];
        let known = list.map(|name| RedirectHost { host: name.trim_end_matches(":8443").to_owned(), authority: name.to_owned() });
        let whole = uri.path_and_query().map_or("", |whole| whole.as_str());
        if let Some(location) = redirect::to_https(&known, authority, whole) {
            assert!(list.iter().any(|name| location == format!("https://{name}{whole}")), "{location}");
        }
    }
    let (lengths, codings) = (values(headers, &CONTENT_LENGTH), values(headers, &TRANSFER_ENCODING));
    assert!(lengths.len() + codings.len() <= 1);
    assert!(lengths.iter().all(|length| !length.is_empty() && length.iter().all(u8::is_ascii_digit)));
    assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked") && version == Version::HTTP_11));
}

/// What CGI makes of a name, and others after it.
fn in_cgi(name: &str) -> String {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_uppercase()) } else { '_' }).collect()
}

/// What the gate sets, strips or frames by: nothing else may look like it.
const OURS: [&str; 10] = [
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

const GONE: [&str; 9] = [
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "expect",
    "proxy",
    "tidegate-pass",
    "x-original-url",
    "x-rewrite-url",
];

/// Named by a `Connection` line, in lower case.
fn nominated(headers: &HeaderMap) -> Vec<String> {
    let lines = values(headers, &CONNECTION);
    let options = lines.iter().flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    options.filter_map(|option| str::from_utf8(option).ok()).map(str::to_ascii_lowercase).collect()
}

fn sent(before: &HeaderMap) {
    let mut headers = before.clone();
    hop::strip_request(&mut headers);
    for name in GONE {
        assert!(!headers.contains_key(name), "{name}");
    }
    let kept = ["host", "content-length", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "te", "connection"];
    for name in nominated(before).iter().filter(|name| !kept.contains(&name.as_str())) {
        assert!(!headers.contains_key(name.as_str()), "{name} was named by Connection");
    }
    for name in headers.keys() {
        let twin = OURS.iter().find(|ours| in_cgi(ours) == in_cgi(name.as_str()));
        assert!(twin.is_none_or(|ours| *ours == name.as_str()), "{name}");
    }
    assert_eq!(values(&headers, &HOST), values(before, &HOST));
    assert!(values(&headers, &CONTENT_LENGTH).iter().all(|length| length.len() == 1 || !length.starts_with(b"0")));
    assert!(values(&headers, &CONNECTION).iter().all(|line| line == b"te"));
    assert_eq!(headers.contains_key("te"), headers.contains_key(CONNECTION));
    let mut again = headers.clone();
    hop::strip_request(&mut again);
    assert_eq!(again, headers);
    cookies::strip_ours(&mut headers);
    assert!(!cookies::find(&headers).any());
    let peer = IpAddr::from([192, 0, 2, 1]);
    forwarded::set_forwarding(&mut headers, &mut forwarded::PeerValues::new(peer), false, before.get(HOST), true);
    assert_eq!(values(&headers, &HeaderName::from_static("x-forwarded-for")), [b"192.0.2.1"]);
    assert_eq!(values(&headers, &HeaderName::from_static("x-forwarded-proto")), [b"https"]);
    assert_eq!(values(&headers, &HeaderName::from_static("x-forwarded-host")), values(before, &HOST));
    let elements = values(&headers, &FORWARDED);
    assert!(elements.len() == 1 && elements[0].starts_with(b"for=192.0.2.1;") && elements[0].ends_with(b";proto=https"), "{elements:?}");
}

fn trailers(before: &HeaderMap) {
    let mut trailers = before.clone();
    hop::strip_trailers(&mut trailers);
    for name in trailers.keys() {
        let plain = ["host", "cookie", "te", "connection", "forwarded", "expect", "trailer", "upgrade", "proxy", "proxy-authorization"];
        assert!(!plain.contains(&name.as_str()), "{name}");
        assert!(OURS.iter().all(|ours| in_cgi(ours) != in_cgi(name.as_str())), "{name}");
    }
}

pub(super) fn answer_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: public, max-age=60\r\nSet-Cookie: a=b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: Upgrade, x-hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: tidegate_pass=x; Path=/\r\nSet-Cookie: =__Host-tidegate_ticket=\r\nKeep-Alive: 5\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nCache-Control: private=\"a, public\", s-maxage=1\r\nCache-Control: no-store, x=\"\\\"\r\nCDN-Cache-Control: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSurrogate-Control: max-age=9\r\nContent-Length: 5, 5\r\nProxy-Connection: close\r\n\r\n",
    ])
}

/// An answer keeps nothing of its hop, sets no cookie of ours, has one length, and once it is private no cache may share it.
pub(super) fn check_answer(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    if !head.parse(bytes).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let Some(before) = header_map(head.headers) else { return };
    let mut headers = before.clone();
    let sets_cookies = hop::strip_response(&mut headers);
    assert!(sets_cookies || !headers.contains_key(SET_COOKIE), "cookies that nobody looks at");
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!(before.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)));
    assert!(
        headers.get_all(CONTENT_LENGTH).iter().count() <= 1
            || !before.get_all(CONTENT_LENGTH).iter().all(|value| value.as_bytes().is_ascii())
    );
    cookies::strip_from_site(&mut headers);
    cache::make_private(&mut headers);
    let [line] = values(&headers, &CACHE_CONTROL).try_into().unwrap();
    let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
    assert!(text.contains("private") || text.contains("no-store"), "{text}");
    let (mut outside, mut is_open, mut is_escaped) = (String::new(), false, false);
    for char in text.chars() {
        match char {
            _ if is_escaped => is_escaped = false,
            // what stands before a text and behind it is not one word
            '"' => {
                is_open = !is_open;
                outside.push(char);
            }
            '\\' if is_open => is_escaped = true,
            _ if is_open => {}
            _ => outside.push(char),
        }
    }
    assert!(!is_open, "{text}");
    let mut names = outside.split(',').map(|part| part.split('=').next().unwrap_or_default().trim_matches([' ', '\t']));
    assert!(!names.any(|name| matches!(name, "public" | "s-maxage")), "{text}");
    assert!(!headers.keys().any(|name| name.as_str().ends_with("-cache-control") || name == "surrogate-control"));
    let mut again = headers.clone();
    cache::make_private(&mut again);
    assert_eq!(again, headers);
}

pub(super) fn forwarded_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "1.2.3.4, 10.0.0.2",
        "\"[2001:db8::1]:80\", unknown\n, ,",
        "for=1.2.3.4;proto=https;host=a, for=10.0.0.9\nfor=\"[::1]",
        "For=\"10.0.0.1:99\";by=_x , for=unknown",
        "::ffff:10.0.0.7, 010.1.2.3\n10.0.0.1,10.0.0.2",
        "for=\"a\\\", for=9.9.9.9",
    ])
}

/// Whatever a client says of itself, the address that the trusted proxy has added is the client's.
pub(super) fn check_forwarded(bytes: &[u8]) {
    let (proxy, client) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from(CLIENT));
    let trusted = ["10.0.0.0/8".parse().unwrap()];
    let for_name = HeaderName::from_static("x-forwarded-for");
    for (name, item) in [(&for_name, "203.0.113.9"), (&FORWARDED, "for=203.0.113.9;proto=https")] {
        let said = of(name, lines(bytes));
        let mut apart = said.clone();
        apart.append(name, HeaderValue::from_str(item).unwrap());
        let mut lines = values(&said, name);
        let last = lines.pop().unwrap_or_default();
        lines.push([&last[..], b", ", item.as_bytes()].concat());
        let joined = of(name, lines.iter().map(|line| HeaderValue::from_bytes(line).unwrap()));
        for headers in [apart, joined] {
            let found = forwarded::client_address(proxy, false, &headers, &trusted);
            assert_eq!((found.address, found.peer_trusted), (client, true), "{headers:?}");
            assert!(found.scheme_https || name == for_name, "{headers:?}");
        }
        // nobody vouches for it
        let stranger = forwarded::client_address(client, true, &said, &trusted);
        assert_eq!((stranger.address, stranger.scheme_https, stranger.peer_trusted), (client, true, false));
        // and what is found is always canonical
        let found = forwarded::client_address(proxy, false, &said, &trusted);
        assert_eq!(found.address, found.address.to_canonical());
        let mut sent = said.clone();
        forwarded::set_forwarding(&mut sent, &mut forwarded::PeerValues::new(proxy), true, None, true);
        assert_eq!(forwarded::client_address(proxy, false, &sent, &trusted).address, found.address, "the next one reads the same");
    }
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

pub(super) fn accept_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json, text/plain, */*",
        "image/avif,image/webp,*/*;q=0.1\ntext/html;q=0.5",
        "text/html;q=0.001, application/*;q=0.7;x=\"a,b\"",
        "de-CH, de;q=0.9, en;q=0.8",
        "application/problem+json;q=1.0, text/*;q=0.3\n*",
        "image/gif, image/pjpeg, application/x-ms-application, */*",
    ])
}

/// There is always a form, whichever way the lines are divided.
pub(super) fn check_accept(bytes: &[u8]) {
    let apart = of(&ACCEPT, lines(bytes));
    let form = negotiate::form(&apart);
    if !bytes.contains(&b'"') {
        let joined = values(&apart, &ACCEPT).join(&b", "[..]);
        let joined = of(&ACCEPT, HeaderValue::from_bytes(&joined).into_iter());
        assert!(apart.is_empty() || negotiate::form(&joined) == form, "{apart:?}");
    }
    // Internet Explorer is known by what it accepts, and was never seen to write that in another way
    if !bytes.windows(5).any(|window| window.eq_ignore_ascii_case(b"pjpeg")) {
        let capitals = of(&ACCEPT, lines(&bytes.to_ascii_uppercase()));
        assert!(negotiate::form(&capitals) == form, "{apart:?}");
    }
    let mut languages = of(&ACCEPT_LANGUAGE, lines(bytes));
    if let Some(tag) = negotiate::language(&languages) {
        let tag = HeaderValue::from_str(tag).unwrap();
        assert!((1..=35).contains(&tag.len()) && tag.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-'));
        languages.insert(ACCEPT_LANGUAGE, tag.clone());
        assert_eq!(negotiate::language(&languages).map(str::as_bytes), Some(tag.as_bytes()));
    }
}
