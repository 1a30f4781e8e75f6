//! Who the client is, and what the site is told of it: `X-Forwarded-For`, `-Host`, `-Proto` and `Forwarded` (RFC 7239).
//!
//! Only what a trusted proxy says is believed, from the nearest proxy outwards: each vouches for what stands to its right. Addresses
//! are canonical throughout: an IPv4 address written as IPv6 is an IPv4 address.
//!
//! Absent: `X-Real-IP` and other headers of single products. They pass as they came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use http::header::{Entry, FORWARDED};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::head::{Head, Name};

/// Whom a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The nearest address that is no trusted proxy's; canonical.
    pub address: IpAddr,
    /// Whether the client came over TLS, to us or to a trusted proxy.
    pub scheme_https: bool,
    /// Whether the peer is a trusted proxy.
    pub peer_trusted: bool,
    /// The peer is not trusted and sent `X-Forwarded-For`: a client that pretends, or a setting that is wrong.
    pub forwarded_untrusted: bool,
}

/// Resolves the client of a request. `tls`: whether the connection to us is over TLS, which holds unless a trusted proxy says otherwise.
///
/// Behind a trusted peer it is the rightmost untrusted address of all `X-Forwarded-For` lines, or the leftmost if all are trusted.
/// What is no address (`unknown`, garbage) ends the walk at the last good one. `Forwarded` is read if there is no `X-Forwarded-For`.
/// The scheme is the last `X-Forwarded-Proto`, else that of the client's element of `Forwarded`, if that is what is read: a proxy that
/// speaks `X-Forwarded-For` may pass on what the visitor himself says in the other.
#[must_use]
pub fn client_address<'a>(peer: IpAddr, tls: bool, head: impl Into<Head<'a>>, trusted: &[IpNet]) -> Client {
    let peer = peer.to_canonical();
    let head = head.into();
    let says_for = head.has(Name::XForwardedFor);
    if !is_trusted(peer, trusted) {
        return Client { address: peer, scheme_https: tls, peer_trusted: false, forwarded_untrusted: says_for };
    }
    let headers = head.map();
    let said = items(headers, &X_FORWARDED_PROTO).next().and_then(scheme_https);
    let client = if says_for {
        walk(peer, trusted, items(headers, &X_FORWARDED_FOR).map(Hop::of_address))
    } else {
        walk(peer, trusted, items(headers, &FORWARDED).map(Hop::of_element))
    };
    let (address, https) = (client.address.unwrap_or(peer), said.or(client.https));
    Client { address, scheme_https: https.unwrap_or(tls), peer_trusted: true, forwarded_untrusted: false }
}

/// The header values that tell the site of a peer: made once a connection, shared by its requests.
#[derive(Debug)]
pub struct PeerValues {
    address: HeaderValue,
    /// `for=` and the address, quoted if RFC 7239 wants it.
    forwarded_for: String,
    /// The last `Forwarded` that was built; nearly all requests of a connection name the same host.
    last: Option<LastForwarded>,
}

#[derive(Debug)]
struct LastForwarded {
    value: HeaderValue,
    /// Where the host stands in the value. The host's own value is not kept: it would hold the buffer of the request that it came in.
    host: Option<Range<usize>>,
    https: bool,
}

impl PeerValues {
    /// The values of a connection's peer.
    #[must_use]
    pub fn new(peer: IpAddr) -> Self {
        let peer = peer.to_canonical();
        let forwarded_for = match peer {
            IpAddr::V4(peer) => format!("for={peer}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
        };
        // the text of an address is ASCII
        let address = HeaderValue::try_from(peer.to_string()).unwrap_or(UNKNOWN);
        Self { address, forwarded_for, last: None }
    }

    /// Our element of `Forwarded`.
    fn forwarded(&mut self, host: Option<&HeaderValue>, https: bool) -> HeaderValue {
        let host = host.map(HeaderValue::as_bytes);
        if let Some(last) = &self.last
            && last.https == https
            && last.host.as_ref().and_then(|range| last.value.as_bytes().get(range.clone())) == host
        {
            return last.value.clone();
        }
        let host = host.filter(|host| host.iter().all(|&byte| is_quotable(byte)));
        let mut text = Vec::with_capacity(FORWARDED_LEN + self.forwarded_for.len() + host.map_or(0, <[u8]>::len));
        text.extend_from_slice(self.forwarded_for.as_bytes());
        let range = host.map(|host| {
            let quote: &[u8] = if host.iter().all(|&byte| is_token_byte(byte)) && !host.is_empty() { b"" } else { b"\"" };
            text.extend_from_slice(b";host=");
            text.extend_from_slice(quote);
            let start = text.len();
            text.extend_from_slice(host);
            text.extend_from_slice(quote);
            start..start + host.len()
        });
        text.extend_from_slice(if https { b";proto=https" } else { b";proto=http" });
        // an address, visible ASCII and constants
        let value = HeaderValue::try_from(text).unwrap_or(UNKNOWN);
        self.last = Some(LastForwarded { value: value.clone(), host: range, https });
        value
    }
}

/// Tells the site who the client is; call it after [`super::hop::strip_request`]. `host`: the Host that the client sent; `https`: what
/// [`client_address`] resolved.
///
/// What an untrusted peer says is replaced. To what a trusted peer says the peer's own address is added; its scheme and host are
/// kept, and set if it named none. Of `X-Forwarded-For` and `Forwarded`, only the one that it speaks is extended: an element of ours
/// alone in the other would name the proxy as the client.
pub fn set_forwarding(headers: &mut HeaderMap, peer: &mut PeerValues, trusted: bool, host: Option<&HeaderValue>, https: bool) {
    let scheme = if https { HTTPS } else { HTTP };
    if !trusted {
        headers.insert(X_FORWARDED_FOR, peer.address.clone());
        headers.insert(X_FORWARDED_PROTO, scheme);
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
        headers.insert(FORWARDED, peer.forwarded(host, https));
        return;
    }
    let says_for = headers.contains_key(X_FORWARDED_FOR);
    let says_forwarded = headers.contains_key(FORWARDED);
    if says_for || !says_forwarded {
        append_item(headers, X_FORWARDED_FOR, peer.address.clone());
    }
    if says_forwarded || !says_for {
        append_item(headers, FORWARDED, peer.forwarded(host, https));
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(scheme);
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
}

/// What counts as one client where clients are counted: an IPv4 address, or the /64 of an IPv6 address, which is the least that one
/// subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientPrefix([u8; 9]);

impl ClientPrefix {
    /// The version (4 or 6), then the address or the first half of it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 9] {
        &self.0
    }
}

/// The prefix that an address belongs to.
#[must_use]
pub const fn client_prefix(address: IpAddr) -> ClientPrefix {
    ClientPrefix(match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [4, a, b, c, d, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, ..] = address.octets();
            [6, a, b, c, d, e, f, g, h]
        }
    })
}

/// What a proxy says of the one before it.
#[derive(Default)]
struct Hop {
    address: Option<IpAddr>,
    https: Option<bool>,
}

impl Hop {
    fn of_address(item: &[u8]) -> Self {
        Self { address: address(item), https: None }
    }

    fn of_element(item: &[u8]) -> Self {
        Self { address: param(item, b"for").and_then(address), https: param(item, b"proto").and_then(scheme_https) }
    }
}

/// Walks from the nearest hop outwards to the first that is not trusted; no further than there is someone to vouch for it.
fn walk(peer: IpAddr, trusted: &[IpNet], hops: impl Iterator<Item = Hop>) -> Hop {
    let mut client = Hop { address: Some(peer), https: None };
    for hop in hops {
        let Some(address) = hop.address else { break };
        client = hop;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    client
}

/// Whether an address, which must be canonical, is a trusted proxy's.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The items of a list header, all its lines joined, from the last to the first. Commas divide even within quotes: no address holds one,
/// and a quote that a client leaves open must not swallow what the proxy has added behind it.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')).map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// A parameter of an element of `Forwarded`.
fn param<'a>(element: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    element.split(|&byte| byte == b';').find_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let is_wanted = pair[..equals].trim_ascii().eq_ignore_ascii_case(wanted);
        is_wanted.then(|| pair[equals + 1..].trim_ascii())
    })
}

/// An address as proxies write it: bare, quoted, in brackets, with or without a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(unquoted(text)).ok()?;
    let (address, port) = if let Some(inner) = text.strip_prefix('[') {
        let (address, port) = inner.split_once(']')?;
        (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port)
    } else if let Some(end) = text.find(':').filter(|&end| !text[end + 1..].contains(':')) {
        (IpAddr::V4(text[..end].parse::<Ipv4Addr>().ok()?), &text[end..])
    } else {
        (text.parse().ok()?, "")
    };
    is_port(port).then(|| address.to_canonical())
}

/// Nothing, or a colon and a port, which RFC 7239 lets proxies disguise.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .map_or(text.is_empty(), |port| port.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')))
}

fn scheme_https(text: &[u8]) -> Option<bool> {
    let text = unquoted(text);
    if text.eq_ignore_ascii_case(b"https") || text.eq_ignore_ascii_case(b"wss") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"http") || text.eq_ignore_ascii_case(b"ws") {
        Some(false)
    } else {
        None
    }
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

/// Adds an item to a list header and leaves one line of it: some sites read the first line only.
fn append_item(headers: &mut HeaderMap, name: HeaderName, item: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(vacant) => {
            vacant.insert(item);
        }
        Entry::Occupied(mut lines) => {
            let len = lines.iter().map(|line| line.len() + 2).sum::<usize>() + item.len();
            let mut joined = Vec::with_capacity(len);
            for line in lines.iter().filter(|line| !line.is_empty()) {
                joined.extend_from_slice(line.as_bytes());
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(item.as_bytes());
            // valid values and commas make a valid value
            lines.insert(HeaderValue::try_from(joined).unwrap_or(item));
        }
    }
}

/// A byte of a token (RFC 9110, section 5.6.2), which needs no quotes.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// A byte that can stand in a quoted string as it is. A host that passed the check of the request holds no other.
const fn is_quotable(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// Room for what stands around the address and the host.
const FORWARDED_LEN: usize = 24;

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

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(peer: &str, list: &[(&'static str, &str)]) -> Client {
        client_address(ip(peer), false, &headers(list), &trusted())
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let said = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.2.3.4;proto=https")];
        let found = client("192.0.2.1", &said);
        let expected = Client { address: ip("192.0.2.1"), scheme_https: false, peer_trusted: false, forwarded_untrusted: true };
        assert_eq!(found, expected);
        assert!(!client("192.0.2.1", &[]).forwarded_untrusted);
        assert!(client_address(ip("192.0.2.1"), true, &HeaderMap::new(), &[]).scheme_https);
    }

    #[test]
    fn the_walk_over_x_forwarded_for() {
        for (lines, address) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.7"], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7, 10.0.0.2,10.0.0.3"], "192.0.2.7"),
            (&["1.1.1.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (&["192.0.2.7, 10.0.0.2", ""], "192.0.2.7"),
            (&["192.0.2.7,, ,10.0.0.2, "], "192.0.2.7"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["1.1.1.1, unknown"], "10.0.0.1"),
            (&["1.1.1.1, <script>, 10.0.0.2"], "10.0.0.2"),
            (&["1.1.1.1, 256.1.1.1"], "10.0.0.1"),
            (&["1.1.1.1, 010.1.1.1"], "10.0.0.1"),
            (&["1.1.1.1, caf\u{e9}"], "10.0.0.1"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["192.0.2.7:_hidden"], "192.0.2.7"),
            (&["192.0.2.7:4 711"], "10.0.0.1"),
            (&["\"192.0.2.7:4711\""], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:4711, fd00::1, [fd00::2]:80"], "2001:db8::7"),
            (&["[2001:db8::7]4711"], "10.0.0.1"),
            (&["[192.0.2.7]"], "10.0.0.1"),
            (&["[2001:db8::7"], "10.0.0.1"),
            (&["fe80::1%eth0"], "10.0.0.1"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["192.0.2.7, ::ffff:10.0.0.2"], "192.0.2.7"),
        ] {
            let list: Vec<_> = lines.iter().map(|&line| ("x-forwarded-for", line)).collect();
            let found = client("10.0.0.1", &list);
            assert_eq!((found.address, found.peer_trusted), (ip(address), true), "{lines:?}");
            assert!(!found.forwarded_untrusted);
        }
        // a dual-stack listener sees IPv4 peers as IPv6
        assert_eq!(client("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.7")]).address, ip("192.0.2.7"));
        assert_eq!(client("::ffff:192.0.2.1", &[]).address, ip("192.0.2.1"));
    }

    #[test]
    fn the_walk_over_forwarded() {
        for (lines, address, https) in [
            (&["for=192.0.2.7"][..], "192.0.2.7", false),
            (&["For=\"[2001:db8::7]:4711\";Proto=HTTPS;by=10.0.0.1"], "2001:db8::7", true),
            (&["for=1.1.1.1;proto=http, proto=https;for=192.0.2.7, for=10.0.0.2;proto=http"], "192.0.2.7", true),
            (&["for=192.0.2.7;proto=https", "for=10.0.0.2;proto=http"], "192.0.2.7", true),
            (&["for=192.0.2.7; proto=\"https\" "], "192.0.2.7", true),
            (&["for=1.1.1.1, for=unknown, for=10.0.0.2;proto=https"], "10.0.0.2", true),
            (&["for=1.1.1.1, for=_hidden"], "10.0.0.1", false),
            (&["for=1.1.1.1, proto=https"], "10.0.0.1", false),
            (&["for=192.0.2.7;proto=gopher"], "192.0.2.7", false),
            // a client that leaves a quote open hides nobody
            (&["for=\"1.1.1.1, for=192.0.2.7;proto=https"], "192.0.2.7", true),
            (&["for=1.1.1.1;x=\", for=\"[2001:db8::7]\""], "2001:db8::7", false),
            (&["forfor=1.1.1.1"], "10.0.0.1", false),
            (&["for"], "10.0.0.1", false),
        ] {
            let list: Vec<_> = lines.iter().map(|&line| ("forwarded", line)).collect();
            let found = client("10.0.0.1", &list);
            assert_eq!((found.address, found.scheme_https), (ip(address), https), "{lines:?}");
        }
        let both = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.8;proto=https")];
        let found = client("10.0.0.1", &both);
        assert_eq!((found.address, found.scheme_https), (ip("192.0.2.7"), false));
    }

    #[test]
    fn the_scheme_is_the_last_that_was_said() {
        for (lines, https) in [
            (&["https"][..], true),
            (&["HTTPS"], true),
            (&["http"], false),
            (&["http, https"], true),
            (&["https", "http"], false),
            (&["https, "], true),
            (&["on"], false),
        ] {
            let list: Vec<_> = lines.iter().map(|&line| ("x-forwarded-proto", line)).collect();
            assert_eq!(client("10.0.0.1", &list).scheme_https, https, "{lines:?}");
        }
        // the front came over TLS, its client did not
        let plain = headers(&[("x-forwarded-proto", "http")]);
        assert!(!client_address(ip("10.0.0.1"), true, &plain, &trusted()).scheme_https);
        assert!(client_address(ip("10.0.0.1"), true, &HeaderMap::new(), &trusted()).scheme_https);
    }

    fn set(peer: &str, trusted: bool, host: Option<&'static str>, https: bool, list: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = headers(list);
        let host = host.map(HeaderValue::from_static);
        set_forwarding(&mut headers, &mut PeerValues::new(ip(peer)), trusted, host.as_ref(), https);
        let mut list: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        list.sort();
        list
    }

    fn expect(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn what_an_untrusted_peer_says_is_replaced() {
        let said = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.1.1.1"),
            ("forwarded", "for=2.2.2.2"),
        ];
        let replaced = expect(&[
            ("forwarded", "for=192.0.2.1;host=example.org;proto=http"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "example.org"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(set("192.0.2.1", false, Some("example.org"), false, &said), replaced);
        assert_eq!(set("192.0.2.1", false, Some("example.org"), false, &[]), replaced);
        assert_eq!(
            set("2001:db8::1", false, None, true, &said),
            expect(&[
                ("forwarded", "for=\"[2001:db8::1]\";proto=https"),
                ("x-forwarded-for", "2001:db8::1"),
                ("x-forwarded-proto", "https")
            ])
        );
        let mapped = set("::ffff:192.0.2.1", false, Some("a:80"), false, &[]);
        assert_eq!(mapped[0].1, "for=192.0.2.1;host=\"a:80\";proto=http");
        assert_eq!(mapped[1].1, "192.0.2.1");
    }

    #[test]
    fn what_a_trusted_peer_says_is_extended() {
        assert_eq!(
            set(
                "10.0.0.1",
                true,
                Some("inner"),
                false,
                &[
                    ("x-forwarded-for", "192.0.2.7"),
                    ("x-forwarded-for", "10.0.0.2"),
                    ("x-forwarded-host", "outer"),
                    ("x-forwarded-proto", "https")
                ]
            ),
            expect(&[("x-forwarded-for", "192.0.2.7, 10.0.0.2, 10.0.0.1"), ("x-forwarded-host", "outer"), ("x-forwarded-proto", "https")])
        );
        assert_eq!(
            set("10.0.0.1", true, Some("a"), true, &[("forwarded", "for=192.0.2.7;proto=https")]),
            expect(&[
                ("forwarded", "for=192.0.2.7;proto=https, for=10.0.0.1;host=a;proto=https"),
                ("x-forwarded-host", "a"),
                ("x-forwarded-proto", "https")
            ])
        );
        let both = set("10.0.0.1", true, None, false, &[("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "192.0.2.7")]);
        assert_eq!(
            both,
            expect(&[
                ("forwarded", "for=192.0.2.7, for=10.0.0.1;proto=http"),
                ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
                ("x-forwarded-proto", "http")
            ])
        );
    }

    #[test]
    fn a_trusted_peer_that_says_nothing_is_the_client() {
        assert_eq!(
            set("10.0.0.1", true, Some("a"), false, &[]),
            expect(&[
                ("forwarded", "for=10.0.0.1;host=a;proto=http"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-host", "a"),
                ("x-forwarded-proto", "http")
            ])
        );
        let empty = set("10.0.0.1", true, None, false, &[("x-forwarded-for", "")]);
        assert_eq!(empty[0], ("x-forwarded-for".to_owned(), "10.0.0.1".to_owned()));
    }

    #[test]
    fn the_values_of_a_connection_are_shared() {
        let mut peer = PeerValues::new(ip("192.0.2.1"));
        let (one, other) = (HeaderValue::from_static("a"), HeaderValue::from_static("b"));
        let first = peer.forwarded(Some(&one), false);
        let again = peer.forwarded(Some(&HeaderValue::from_static("a")), false);
        assert_eq!(first.as_bytes().as_ptr(), again.as_bytes().as_ptr());
        for (host, https, text) in [
            (Some(&other), false, "for=192.0.2.1;host=b;proto=http"),
            (Some(&other), true, "for=192.0.2.1;host=b;proto=https"),
            (None, true, "for=192.0.2.1;proto=https"),
            (Some(&one), true, "for=192.0.2.1;host=a;proto=https"),
            (Some(&one), false, "for=192.0.2.1;host=a;proto=http"),
        ] {
            assert_eq!(peer.forwarded(host, https), text);
            assert_eq!(peer.forwarded(host, https), text);
        }
    }

    #[test]
    fn a_host_that_can_not_be_quoted_is_left_out() {
        let mut peer = PeerValues::new(ip("192.0.2.1"));
        for host in ["a\"b", "a\\b", "a b", "caf\u{e9}"] {
            let host = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            assert_eq!(peer.forwarded(Some(&host), false), "for=192.0.2.1;proto=http");
        }
    }

    #[test]
    fn clients_are_counted_by_address_or_half_of_it() {
        assert_eq!(client_prefix(ip("192.0.2.1")), client_prefix(ip("::ffff:192.0.2.1")));
        assert_ne!(client_prefix(ip("192.0.2.1")), client_prefix(ip("192.0.2.2")));
        assert_eq!(client_prefix(ip("2001:db8::1")), client_prefix(ip("2001:db8::ffff:0:0:1")));
        assert_ne!(client_prefix(ip("2001:db8::1")), client_prefix(ip("2001:db8:0:1::1")));
        // an IPv6 prefix that begins like an IPv4 address is another client
        assert_ne!(client_prefix(ip("192.0.2.1")), client_prefix(ip("c000:201::")));
        assert_eq!(client_prefix(ip("192.0.2.1")).as_bytes(), &[4, 192, 0, 2, 1, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn a_client_can_not_hide_behind_what_it_sends(forged in "[ -~]{0,40}", quad in 1..255_u8) {
            // the front appends the address that it sees, on the same line
            let seen = format!("192.0.2.{quad}");
            let x_for = format!("{forged}, {seen}");
            prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &x_for)]).address, ip(&seen));
            let forwarded = format!("{forged}, for={seen}");
            prop_assert_eq!(client("10.0.0.1", &[("forwarded", &forwarded)]).address, ip(&seen));
        }

        #[test]
        fn no_bytes_break_the_walk(line in proptest::collection::vec(prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8], 0..40)) {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(&line).unwrap();
            headers.append(X_FORWARDED_FOR, value.clone());
            headers.append(FORWARDED, value);
            let found = client_address(ip("10.0.0.1"), false, &headers, &trusted());
            prop_assert_eq!(found.address, found.address.to_canonical());
        }
    }
}
