//! Requests of HTTP/2 that would be others in HTTP/1.1, in front of the strict site.
//!
//! Nothing there frames a request but its frames, and a name or a value may hold any byte: what the gate writes for the site could be
//! read as more than one request. So each case is sent as a raw header block, and an ordinary request follows it.

use crate::support::*;

use super::cases::forwarded;
use super::site::Strict;
use super::{refused, refused_since, since};

/// What must come of a case.
#[derive(Clone, Debug)]
enum Outcome {
    /// The h2 crate resets the stream, and the connection stays.
    Reset,
    /// The h2 crate ends the connection, since it can't be read any more.
    Ended,
    /// The gate says no, and the connection stays.
    Refused { status: u16, reason: &'static str },
    /// The site sees this.
    Forwarded(String),
}

use Outcome::{Ended, Reset};

type Field<'a> = (&'a str, &'a [u8]);

struct Case {
    name: &'static str,
    block: Vec<u8>,
    /// DATA in one frame; the header block ends the stream if there is none.
    body: Option<&'static [u8]>,
    /// A second header block.
    trailers: Option<Vec<u8>>,
    outcome: Outcome,
}

fn target() -> Outcome {
    Outcome::Refused { status: 400, reason: "target" }
}

fn host() -> Outcome {
    Outcome::Refused { status: 400, reason: "host" }
}

fn length() -> Outcome {
    Outcome::Refused { status: 400, reason: "content_length" }
}

fn passes(line: &str, lines: &[&str], body: &str) -> Outcome {
    Outcome::Forwarded(forwarded(line, lines.iter().map(|&line| line.to_owned()).collect(), body.as_bytes()))
}

const GET_LINE: &str = "GET / HTTP/1.1";
const POST_LINE: &str = "POST / HTTP/1.1";
const HOST: &[&str] = &["host: test"];
const ABC: &[&str] = &["content-length: 3", "host: test"];

const PSEUDO: [Field<'static>; 4] = [(":method", b"GET"), (":scheme", b"https"), (":authority", b"test"), (":path", b"/")];

fn block(fields: &[Field<'_>]) -> Vec<u8> {
    fields.iter().flat_map(|&(name, value)| literal(name, value)).collect()
}

/// A proper request with further fields.
fn with(fields: &[Field<'_>]) -> Vec<u8> {
    block(&[&PSEUDO[..], fields].concat())
}

/// A proper request with this in place of what stands there under the same name.
fn but(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    block(&PSEUDO.map(|field| if field.0 == name { (field.0, value.as_ref()) } else { field }))
}

/// A proper request without a field, and with others.
fn without(name: &str, fields: &[Field<'_>]) -> Vec<u8> {
    let left: Vec<_> = PSEUDO.into_iter().filter(|field| field.0 != name).collect();
    block(&[&left[..], fields].concat())
}

fn post(fields: &[Field<'_>]) -> Vec<u8> {
    [but(":method", "POST"), block(fields)].concat()
}

fn case(name: &'static str, block: Vec<u8>, outcome: Outcome) -> Case {
    Case { name, block, body: None, trailers: None, outcome }
}

/// A POST of a body.
fn upload(name: &'static str, fields: &[Field<'_>], body: &'static [u8], outcome: Outcome) -> Case {
    Case { body: Some(body), ..case(name, post(fields), outcome) }
}

/// A gate in front of a strict site.
struct Tried {
    site: Strict,
    world: Secure,
}

impl Tried {
    fn start() -> Self {
        let site = Strict::behind("https");
        let world = Secure::open(&site.url(), "");
        Self { site, world }
    }

    #[track_caller]
    fn try_case(&self, case: &Case) {
        let Case { name, block, body, trailers, outcome } = case;
        let (seen, refused_before) = (self.site.seen().len(), refused(&self.world));
        let mut frames = Frames::connect(&self.world, &[]);
        let mut parts = vec![(HEADERS, END_HEADERS, &block[..])];
        parts.extend(body.map(|body| (DATA, 0, body)));
        parts.extend(trailers.as_ref().map(|trailers| (HEADERS, END_HEADERS, &trailers[..])));
        parts.last_mut().unwrap().1 |= END_STREAM;
        frames.send(parts.into_iter().flat_map(|(kind, flags, payload)| frame(kind, flags, 1, payload)).collect::<Vec<u8>>());
        let told = until_over(&mut frames);
        let last = told.last().unwrap_or_else(|| panic!("{name}: nothing"));
        if let Ended = outcome {
            assert_eq!((last.kind, &last.payload[4..8]), (GOAWAY, &[0, 0, 0, 1][..]), "{name}: {told:?}");
            assert!(frames.next().is_err(), "{name}");
            assert_eq!(refused_since(&self.world, &refused_before), [("bad_request".to_owned(), 1)], "{name}");
            assert_eq!(self.site.seen().len(), seen, "{name}: the site has seen of it");
            return assert_eq!(self.site.faults(), [""; 0], "{name}");
        }
        // whatever became of it, the connection serves what follows
        frames.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &but(":path", "/after")));
        assert_is_served(name, &mut frames);
        let now = self.site.seen();
        let counted = since(&refused_before, refused(&self.world));
        match outcome {
            Reset => {
                assert_eq!((last.kind, &last.payload[..]), (RESET, &[0, 0, 0, 1][..]), "{name}: {told:?}");
                assert_eq!((counted, now.len()), (vec![], seen + 1), "{name}");
            }
            Outcome::Refused { status, reason } => {
                assert_ne!(last.kind, RESET, "{name}: {told:?}");
                let answer = answer_in(&told);
                let expected = (*status, Some("tidegate; error=http_request_error"), Some("no-store"));
                assert_eq!((answer.status, answer.header("proxy-status"), answer.header("cache-control")), expected, "{name}");
                assert_eq!((counted, now.len()), (vec![((*reason).to_owned(), 1)], seen + 1), "{name}");
            }
            Outcome::Forwarded(text) => {
                assert_ne!(last.kind, RESET, "{name}: {told:?}");
                assert_eq!(answer_in(&told).status, 200, "{name}");
                assert_eq!((counted, now.len()), (vec![], seen + 2), "{name}: {:?}", &now[seen..]);
                assert_eq!(now[seen], *text, "{name}");
            }
            Ended => {}
        }
        assert!(now.last().unwrap().starts_with("GET /after HTTP/1.1\n"), "{name}: {now:?}");
        assert_eq!(self.site.faults(), [""; 0], "{name}");
    }
}

/// Reads until the first stream or the connection is over.
fn until_over(frames: &mut Frames) -> Vec<Frame> {
    let mut told = Vec::new();
    while let Ok(next) = frames.next() {
        let of_stream = next.stream == 1 && (next.kind == RESET || (matches!(next.kind, HEADERS | DATA) && next.flags & END_STREAM != 0));
        let is_over = of_stream || next.kind == GOAWAY;
        told.push(next);
        if is_over {
            break;
        }
    }
    told
}

/// `:status: 200`, which every encoder takes from the static table.
const STATUS_200: u8 = 0x88;

#[track_caller]
fn assert_is_served(name: &str, frames: &mut Frames) {
    let head = std::iter::from_fn(|| frames.next().ok()).find(|next| next.stream == 3 && next.kind != WINDOW_UPDATE);
    let head = head.unwrap_or_else(|| panic!("{name}: the connection has ended"));
    assert_eq!((head.kind, head.payload.first()), (HEADERS, Some(&STATUS_200)), "{name}");
}

#[track_caller]
fn try_all(cases: impl IntoIterator<Item = Case>) {
    let tried = Tried::start();
    for case in cases {
        tried.try_case(&case);
    }
    assert_eq!(Http2::connect(&tried.world).get("/else", &[]).status, 200);
}

#[test]
fn what_frames_a_request_of_http_1() {
    let chunks = b"3\r\nabc\r\n0\r\n\r\n";
    try_all([
        upload("a coding", &[("transfer-encoding", b"chunked")], chunks, Reset),
        upload("a coding beside a length", &[("content-length", b"13"), ("transfer-encoding", b"chunked")], chunks, Reset),
        case("a coding without a body", with(&[("transfer-encoding", b"chunked")]), Reset),
        case("another coding", with(&[("transfer-encoding", b"identity")]), Reset),
        case("an empty coding", with(&[("transfer-encoding", b"")]), Reset),
        case("Connection", with(&[("connection", b"x")]), Reset),
        case("Connection that closes", with(&[("connection", b"close")]), Reset),
        case("an upgrade", with(&[("upgrade", b"h2c")]), Reset),
        case("Keep-Alive", with(&[("keep-alive", b"timeout=5")]), Reset),
        case("Proxy-Connection", with(&[("proxy-connection", b"x")]), Reset),
        case("TE of gzip", with(&[("te", b"gzip")]), Reset),
        case("TE of trailers and gzip", with(&[("te", b"trailers, gzip")]), Reset),
        case("TE of trailers", with(&[("te", b"trailers")]), passes(GET_LINE, &["connection: te", "host: test", "te: trailers"], "")),
        upload("a length that is more than comes", &[("content-length", b"4")], b"abc", Reset),
        upload("a length that is less than comes", &[("content-length", b"2")], b"abc", Reset),
        upload("a length of nothing", &[("content-length", b"0")], b"abc", Reset),
        case("a length without a body", post(&[("content-length", b"3")]), Reset),
        case("a length of GET without a body", with(&[("content-length", b"3")]), Reset),
        upload("two lengths", &[("content-length", b"3"), ("content-length", b"4")], b"abc", Reset),
        upload("two lengths, the second of them none", &[("content-length", b"3"), ("content-length", b"x")], b"abc", Reset),
        upload("a length with a sign", &[("content-length", b"+3")], b"abc", Reset),
        upload("a negative length", &[("content-length", b"-3")], b"abc", Reset),
        upload("a list of lengths", &[("content-length", b"3, 3")], b"abc", Reset),
        upload("a length with a blank", &[("content-length", b" 3")], b"abc", Reset),
        upload("a hexadecimal length", &[("content-length", b"0x3")], b"abc", Reset),
        upload("a length of 2^64", &[("content-length", b"18446744073709551616")], b"abc", Reset),
        // equal ones are let pass by the h2 crate, and so is an empty one of nothing
        upload("twice the same length", &[("content-length", b"3"), ("content-length", b"3")], b"abc", length()),
        upload("the same length in other words", &[("content-length", b"3"), ("content-length", b"03")], b"abc", length()),
        upload("three times the same length", &[("content-length", &b"3"[..]); 3], b"abc", length()),
        case("twice a length of nothing", with(&[("content-length", &b"0"[..]); 2]), length()),
        case("an empty length without a body", post(&[("content-length", b"")]), length()),
        upload("a length", &[("content-length", b"3")], b"abc", passes(POST_LINE, ABC, "abc")),
        upload("a length with zeros before it", &[("content-length", b"0003")], b"abc", passes(POST_LINE, ABC, "abc")),
        upload("no length", &[], b"abc", passes(POST_LINE, ABC, "abc")),
        upload("chunks in a body", &[], chunks, passes(POST_LINE, &["content-length: 13", "host: test"], "3\r\nabc\r\n0\r\n\r\n")),
        Case {
            body: Some(chunks),
            ..case("a body of GET", with(&[]), passes(GET_LINE, CHUNKED, "D\r\n3\r\nabc\r\n0\r\n\r\n\r\n0\r\n\r\n"))
        },
        upload(
            "twins of what frames a request",
            &[("content_length", b"9"), ("transfer_encoding", b"chunked"), ("x_request_id", b"7")],
            b"abc",
            passes(POST_LINE, &["content-length: 3", "host: test", "x_request_id: 7"], "abc"),
        ),
    ]);
}

const CHUNKED: &[&str] = &["host: test", "transfer-encoding: chunked"];

#[test]
fn what_would_be_another_line_in_http_1() {
    const INNER: &[u8] = b"b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: test";
    let values: [(&str, &[u8]); 10] = [
        ("a line end in a value", b"b\r\nx-b: c"),
        ("a request in a value", INNER),
        ("a line feed in a value", b"b\nc"),
        ("a carriage return in a value", b"b\rc"),
        ("a zero byte in a value", b"b\0c"),
        ("a line end behind a value", b"b\r\n"),
        ("a line feed before a value", b"\nb"),
        ("a control byte in a value", b"b\x01c"),
        ("a delete in a value", b"b\x7fc"),
        ("a vertical tab in a value", b"b\x0bc"),
    ];
    let names: [(&str, &str); 13] = [
        ("a line end in a name", "x: b\r\ny"),
        ("a line feed in a name", "x\ny"),
        ("a carriage return in a name", "x\ry"),
        ("a zero byte in a name", "x\0y"),
        ("a colon in a name", "x:y"),
        ("a blank in a name", "x y"),
        ("a blank behind a name", "content-length "),
        ("a tab in a name", "x\ty"),
        ("a slash in a name", "x/y"),
        ("a capital in a name", "X-a"),
        ("a capital at the end of a name", "content-lengtH"),
        ("a byte beyond ASCII in a name", "x\u{e4}"),
        ("no name", ""),
    ];
    let paths: [(&str, &[u8]); 8] = [
        ("a blank in the path", b"/a b"),
        ("a version in the path", b"/ HTTP/1.1"),
        ("a request in the path", b"/ HTTP/1.1\r\nhost: test\r\n\r\nGET /smuggled"),
        ("a line end in the path", b"/a\r\nx: y"),
        ("a line feed in the path", b"/a\nb"),
        ("a tab in the path", b"/a\tb"),
        ("a zero byte in the path", b"/a\0b"),
        ("a delete in the path", b"/a\x7fb"),
    ];
    let methods: [(&str, &[u8]); 8] = [
        ("a blank in the method", b"GET /smuggled HTTP/1.1\r\nhost:"),
        ("a blank behind the method", b"GET "),
        ("a line end in the method", b"GET\r\nx: y"),
        ("a line feed before the method", b"\nGET"),
        ("a zero byte in the method", b"GE\0T"),
        ("a slash in the method", b"GE/T"),
        ("a colon in the method", b"G:T"),
        ("no method in its line", b""),
    ];
    try_all(
        values
            .into_iter()
            .flat_map(|(name, value)| [case(name, with(&[("x-a", value)]), Ended), case(name, with(&[("cookie", value)]), Ended)])
            .chain(names.into_iter().map(|(name, field)| case(name, with(&[(field, b"3")]), Ended)))
            .chain(methods.into_iter().map(|(name, method)| case(name, but(":method", method), Ended)))
            .chain(paths.into_iter().map(|(name, path)| case(name, but(":path", path), Reset)))
            .chain([
                // the http crate takes it for part of a name
                case("a quote in a name", with(&[("x\"y", b"b")]), Outcome::Refused { status: 400, reason: "bad_request" }),
                case("a value beyond ASCII", with(&[("x-a", b"\xe4\xff")]), passes(GET_LINE, &["host: test", "x-a: \u{e4}\u{ff}"], "")),
                case("blanks around a value", with(&[("x-a", b" b\t")]), passes(GET_LINE, &["host: test", "x-a:  b\t"], "")),
                case("a value of nothing", with(&[("x-a", b"")]), passes(GET_LINE, &["host: test", "x-a: "], "")),
                case("a method in lower case", but(":method", "get"), passes("get / HTTP/1.1", HOST, "")),
            ]),
    );
}

#[test]
fn pseudo_headers_out_of_place() {
    let doubled = PSEUDO.map(|field| case("a pseudo-header twice", with(&[field]), Reset));
    let late = PSEUDO.map(|field| case("a pseudo-header behind a header", without(field.0, &[("x-a", b"b"), field]), Reset));
    try_all(doubled.into_iter().chain(late).chain([
        case("no method", without(":method", &[]), Reset),
        case("no scheme", without(":scheme", &[]), Reset),
        case("no path", without(":path", &[]), Reset),
        case("no authority and no host", without(":authority", &[]), host()),
        case("no pseudo-header", block(&[("host", b"test")]), Reset),
        case("no path and no authority", block(&[PSEUDO[0], PSEUDO[1], ("host", b"test")]), target()),
        case("two paths", with(&[(":path", b"/other")]), Reset),
        case("a status", with(&[(":status", b"200")]), Reset),
        case("a protocol", with(&[(":protocol", b"websocket")]), Reset),
        case("an unknown pseudo-header", with(&[(":x", b"y")]), Ended),
        case("a pseudo-header in capitals", with(&[(":Path", b"/other")]), Ended),
        case("a colon alone", with(&[(":", b"y")]), Ended),
        case("a tunnel with a path", but(":method", "CONNECT"), Reset),
        case(
            "a tunnel",
            block(&[(":method", b"CONNECT"), (":authority", b"test:443")]),
            Outcome::Refused { status: 501, reason: "not_implemented" },
        ),
        case(
            "a tunnel for a protocol",
            block(&[&[(":method", &b"CONNECT"[..]), (":protocol", b"websocket")], &PSEUDO[1..]].concat()),
            Reset,
        ),
        case("another scheme", but(":scheme", "ftp"), target()),
        case("a scheme that is none", but(":scheme", "ht tp"), Reset),
        case("a scheme with a line end", but(":scheme", "https\r\nx: y"), Reset),
        case("a scheme with a host", but(":scheme", "http://other/?"), Reset),
        case("no scheme in its line", but(":scheme", ""), target()),
        // over TLS it came all the same
        case("the scheme of no TLS", but(":scheme", "http"), passes(GET_LINE, HOST, "")),
    ]));
}

#[test]
fn targets_and_hosts_of_two_meanings() {
    let line = |path: &str| passes(&format!("GET {path} HTTP/1.1"), HOST, "");
    try_all([
        case("an empty path", but(":path", ""), Reset),
        case("a star for GET", but(":path", "*"), target()),
        case("a path without a slash", but(":path", "a"), Reset),
        case("an absolute path", but(":path", "http://other/"), Reset),
        case("a host for a path", but(":path", "other:80"), Reset),
        case("a query alone", but(":path", "?x"), target()),
        // the http crate makes nothing of it, and not a slash
        case("a fragment alone", but(":path", "#x"), line("/")),
        case("a fragment alone beside a host", block(&[PSEUDO[0], PSEUDO[1], (":path", b"#x"), ("host", b"test")]), target()),
        case("a query alone beside a host", block(&[PSEUDO[0], PSEUDO[1], (":path", b"?x"), ("host", b"test")]), target()),
        case("a path beyond ASCII", but(":path", "/\u{e4}"), target()),
        case("a path that is no text", but(":path", b"/\xff"), Ended),
        case(
            "a star for OPTIONS",
            block(&[(":method", b"OPTIONS"), PSEUDO[1], PSEUDO[2], (":path", b"*")]),
            passes("OPTIONS * HTTP/1.1", HOST, ""),
        ),
        case("a fragment", but(":path", "/a#/../b"), line("/a")),
        case("a fragment behind a query", but(":path", "/a?b#c?d"), line("/a?b")),
        case("two slashes", but(":path", "//other/"), line("//other/")),
        case("coded line ends", but(":path", "/a%0d%0aX:%20y"), line("/a%0d%0aX:%20y")),
        case("a user", but(":authority", "u@test"), host()),
        case("a user and a password", but(":authority", "u:p@test"), host()),
        case("a list of hosts", but(":authority", "test,other"), host()),
        case("two ports", but(":authority", "test:80:80"), Reset),
        case("a path behind the host", but(":authority", "test/x"), Reset),
        case("a blank in the host", but(":authority", "test other"), Reset),
        case("a line end in the host", but(":authority", "test\r\nx: y"), Reset),
        case("a zero byte in the host", but(":authority", "te\0st"), Reset),
        case("an empty authority", but(":authority", ""), Reset),
        case("an authority beyond ASCII", but(":authority", "t\u{e9}st"), Reset),
        case("two hosts", without(":authority", &[("host", b"test"), ("host", b"other")]), host()),
        case("twice the same host", without(":authority", &[("host", b"test"), ("host", b"test")]), host()),
        case("two hosts beside the authority", with(&[("host", b"test"), ("host", b"test")]), host()),
        case("a host that differs from the authority", with(&[("host", b"other")]), host()),
        case("a port that differs from the authority's", with(&[("host", b"test:444")]), host()),
        case("an empty host beside the authority", with(&[("host", b"")]), host()),
        case("a host with a user", without(":authority", &[("host", b"u@test")]), host()),
        case("a host with blanks around it", without(":authority", &[("host", b" test ")]), host()),
        case("a host with a path", without(":authority", &[("host", b"test/x")]), host()),
        case("a host without an authority", without(":authority", &[("host", b"test")]), passes(GET_LINE, HOST, "")),
        case("the same host beside the authority", with(&[("host", b"test")]), passes(GET_LINE, HOST, "")),
        case("the same host in other words", with(&[("host", b"TEST:443")]), passes(GET_LINE, &["host: TEST:443"], "")),
    ]);
}

#[test]
fn trailers_that_would_frame_a_request() {
    let upload = |name, trailers: &[Field<'_>], outcome| Case {
        body: Some(b"abc"),
        trailers: Some(block(trailers)),
        ..case(name, post(&[("content-length", b"3")]), outcome)
    };
    let whole = || passes(POST_LINE, ABC, "abc");
    let named = b"x-sum, content-length, host, x\"y, transfer_encoding";
    let told = ["connection: te", "host: test", "te: trailers", "trailer: x-sum, content-length, host, x\"y, transfer_encoding"];
    let told = [&told[..], &["transfer-encoding: chunked"]].concat();
    let sum = "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    try_all([
        upload("a coding behind a body", &[("transfer-encoding", b"chunked")], Reset),
        upload("a pseudo-header behind a body and a trailer", &[("x-a", b"b"), (":path", b"/other")], Reset),
        // the h2 crate drops it
        upload("a pseudo-header behind a body", &[(":path", b"/other")], whole()),
        upload("a line end behind a body", &[("x-a", b"b\r\nc: d")], Ended),
        upload("a length behind a body of a length", &[("content-length", b"9"), ("host", b"other")], whole()),
        Case {
            body: Some(b"abc"),
            trailers: Some(block(&[
                ("x-sum", b"7"),
                ("content-length", b"9"),
                ("host", b"other"),
                ("x\"y", b"z"),
                ("transfer_encoding", b"x"),
            ])),
            ..case("trailers of every kind", post(&[("te", b"trailers"), ("trailer", named)]), passes(POST_LINE, &told, sum))
        },
        Case {
            body: Some(b"abc"),
            trailers: Some(block(&[("x-a", b"b")])),
            ..case("a body cut short", post(&[("content-length", b"4")]), Reset)
        },
    ]);
}
