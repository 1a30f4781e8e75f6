//! The cases.

/// A request, and what must come of it.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) outcome: Outcome,
}

/// What must come of a request.
#[derive(Clone)]
pub(super) enum Outcome {
    /// The site does not see it, and the connection ends.
    Refused {
        status: u16,
        /// The one counter that moves.
        reason: &'static str,
    },
    /// The site sees this, as [`forwarded`] writes it.
    Forwarded {
        bytes: String,
        /// The connection serves what follows.
        stays: bool,
    },
}

impl Case {
    pub(super) fn method(&self) -> &'static str {
        if self.bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" }
    }
}

/// The text of a request as the site notes it: the order of its lines says nothing.
pub(super) fn forwarded(line: &str, mut lines: Vec<String>, body: &[u8]) -> String {
    lines.sort();
    format!("{line}\n{}\n\n{}", lines.join("\n"), body.escape_ascii())
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for part in [request_lines, hosts, header_lines, lengths, codings, chunks, trailers, options, twins] {
        part(&mut cases);
    }
    cases
}

fn refused(cases: &mut Vec<Case>, name: &'static str, bytes: impl AsRef<[u8]>, status: u16, reason: &'static str) {
    cases.push(Case { name, bytes: bytes.as_ref().to_vec(), outcome: Outcome::Refused { status, reason } });
}

/// 400, since it is no head of a request.
fn bad(cases: &mut Vec<Case>, name: &'static str, bytes: impl AsRef<[u8]>) {
    refused(cases, name, bytes, 400, "bad_request");
}

/// 400 by the gate, which has read the head and then found the body to be none.
fn bad_body(cases: &mut Vec<Case>, name: &'static str, body: impl AsRef<[u8]>) {
    let bytes = [b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n", body.as_ref()].concat();
    refused(cases, name, bytes, 400, "bad_request");
}

/// What is forwarded as this line, these lines and this body.
fn passes(cases: &mut Vec<Case>, name: &'static str, bytes: impl AsRef<[u8]>, line: &str, lines: &[&str], body: &str) {
    let text = forwarded(line, lines.iter().map(|&line| line.to_owned()).collect(), body.as_bytes());
    cases.push(Case { name, bytes: bytes.as_ref().to_vec(), outcome: Outcome::Forwarded { bytes: text, stays: true } });
}

/// The same, and the connection ends.
fn passes_and_ends(cases: &mut Vec<Case>, name: &'static str, bytes: impl AsRef<[u8]>, line: &str, lines: &[&str], body: &str) {
    passes(cases, name, bytes, line, lines, body);
    if let Some(Case { outcome: Outcome::Forwarded { stays, .. }, .. }) = cases.last_mut() {
        *stays = false;
    }
}

const GET: &str = "GET / HTTP/1.1";
const POST: &str = "POST / HTTP/1.1";
const HOST: &[&str] = &["host: test"];
const ABC: &[&str] = &["content-length: 3", "host: test"];

fn request_lines(cases: &mut Vec<Case>) {
    for (name, line) in [
        ("two blanks before the target", "GET  / HTTP/1.1"),
        ("two blanks before the version", "GET /  HTTP/1.1"),
        ("a tab in place of a blank", "GET\t/ HTTP/1.1"),
        ("a tab before the version", "GET /\tHTTP/1.1"),
        ("a blank at the end", "GET / HTTP/1.1 "),
        ("a blank at the start", " GET / HTTP/1.1"),
        ("a vertical tab in place of a blank", "GET\x0b/ HTTP/1.1"),
        ("version 1.2", "GET / HTTP/1.2"),
        ("version 2.0", "GET / HTTP/2.0"),
        ("version 0.9", "GET / HTTP/0.9"),
        ("version 0.9 as it was written", "GET /"),
        ("version 1.10", "GET / HTTP/1.10"),
        ("version 01.1", "GET / HTTP/01.1"),
        ("version 1,1", "GET / HTTP/1,1"),
        ("a version in lower case", "GET / http/1.1"),
        ("a version of another protocol", "GET / ICAP/1.1"),
        ("a zero byte in the target", "GET /\0 HTTP/1.1"),
        ("a delete in the target", "GET /\x7f HTTP/1.1"),
        ("a carriage return in the target", "GET /\r/x HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("a method with a slash", "GE/T / HTTP/1.1"),
        ("a fragment alone", "GET #x HTTP/1.1"),
        ("a query alone", "GET ?x HTTP/1.1"),
        ("no host in an absolute target", "GET http:///x HTTP/1.1"),
        ("a response", "HTTP/1.1 200 OK"),
        ("version 3.0", "GET / HTTP/3.0"),
        ("a method with a colon", "G:T / HTTP/1.1"),
        ("a control byte in the target", "GET /\x01 HTTP/1.1"),
        ("a blank in the target", "GET /a b HTTP/1.1"),
        ("a handshake of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01"),
    ] {
        bad(cases, name, format!("{line}\r\nHost: test\r\n\r\n"));
    }
    for (name, line) in [
        ("a user in the target", "GET http://u@test/ HTTP/1.1"),
        ("a user and a password in the target", "GET http://u:p@test/ HTTP/1.1"),
        ("a star for GET", "GET * HTTP/1.1"),
        ("a host alone", "GET test:80 HTTP/1.1"),
        ("no slash", "GET a HTTP/1.1"),
        ("another scheme", "GET gopher://test/ HTTP/1.1"),
        ("bytes beyond ASCII", "GET /\u{e4} HTTP/1.1"),
    ] {
        refused(cases, name, format!("{line}\r\nHost: test\r\n\r\n"), 400, "target");
    }
    refused(cases, "a tunnel", "CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n", 501, "not_implemented");
    for (name, line, forwarded) in [
        ("an absolute target", "GET http://test/a?b HTTP/1.1", "GET /a?b HTTP/1.1"),
        ("an absolute target in capitals", "GET HTTP://TEST HTTP/1.1", "GET / HTTP/1.1"),
        ("an absolute target with a query alone", "GET http://test?x HTTP/1.1", "GET /?x HTTP/1.1"),
        ("a star for OPTIONS", "OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        ("a method in lower case", "get / HTTP/1.1", "get / HTTP/1.1"),
        // a path goes as it came: what it means is the site's to say, and open routes know no such path
        ("dot segments", "GET /a/../b/./c HTTP/1.1", "GET /a/../b/./c HTTP/1.1"),
        ("coded dot segments", "GET /a/%2e%2E%2fb HTTP/1.1", "GET /a/%2e%2E%2fb HTTP/1.1"),
        ("a parameter of a dot segment", "GET /a/..;/b HTTP/1.1", "GET /a/..;/b HTTP/1.1"),
        ("two slashes", "GET //a//b HTTP/1.1", "GET //a//b HTTP/1.1"),
        ("a backslash", "GET /a\\..\\b HTTP/1.1", "GET /a\\..\\b HTTP/1.1"),
        ("a coded zero byte", "GET /a%00b HTTP/1.1", "GET /a%00b HTTP/1.1"),
        ("coded line ends", "GET /a%0d%0aX:%20y HTTP/1.1", "GET /a%0d%0aX:%20y HTTP/1.1"),
        ("overlong codes", "GET /%c0%ae%c0%ae/ HTTP/1.1", "GET /%c0%ae%c0%ae/ HTTP/1.1"),
        ("no code", "GET /%zz% HTTP/1.1", "GET /%zz% HTTP/1.1"),
        ("another request in the query", "GET /?%20HTTP/1.1%0d%0aHost:x HTTP/1.1", "GET /?%20HTTP/1.1%0d%0aHost:x HTTP/1.1"),
        // a fragment is no part of a request, and is told to nobody
        ("a fragment", "GET /a#/../b HTTP/1.1", "GET /a HTTP/1.1"),
        ("a fragment behind a query", "GET /a?b#c?d HTTP/1.1", "GET /a?b HTTP/1.1"),
        // the http crate makes nothing of it, and not a slash
        ("an absolute target with a fragment alone", "GET http://test#x HTTP/1.1", "GET / HTTP/1.1"),
        ("an absolute target with dot segments", "GET http://test/a/../b HTTP/1.1", "GET /a/../b HTTP/1.1"),
    ] {
        passes(cases, name, format!("{line}\r\nHost: test\r\n\r\n"), forwarded, HOST, "");
    }
    passes(cases, "empty lines before it", "\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n", GET, HOST, "");
    passes(cases, "bare line feeds", "GET / HTTP/1.1\nHost: test\nX-A: b\n\n", GET, &["host: test", "x-a: b"], "");
    passes_and_ends(cases, "1.0", "GET / HTTP/1.0\r\nHost: test\r\n\r\n", GET, HOST, "");
    passes(cases, "1.0 that stays", "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n", GET, HOST, "");
}

fn hosts(cases: &mut Vec<Case>) {
    for (name, lines) in [
        ("no host", ""),
        ("two hosts", "Host: test\r\nHost: other\r\n"),
        ("twice the same host", "Host: test\r\nhost: test\r\n"),
        ("a host with an underscore in its name", "Ho_st: test\r\n"),
        ("a host and a blank", "Host: test other\r\n"),
        ("a host and a tab", "Host: test\tother\r\n"),
        ("a host with a path", "Host: test/x\r\n"),
        ("a host with a user", "Host: u@test\r\n"),
        ("a list of hosts", "Host: test, other\r\n"),
        ("a host with a port that is none", "Host: test:80x\r\n"),
        ("a host with two ports", "Host: test:80:80\r\n"),
        ("a host beyond ASCII", "Host: t\u{e9}st\r\n"),
        ("an empty host", "Host: \r\n"),
    ] {
        refused(cases, name, format!("GET / HTTP/1.1\r\n{lines}\r\n"), 400, "host");
    }
    for (name, line) in [
        ("another host in the target", "GET http://other/ HTTP/1.1"),
        ("another port in the target", "GET http://test:81/ HTTP/1.1"),
        ("a dot behind the host of the target", "GET http://test./ HTTP/1.1"),
        ("another host in the target of 1.0", "GET http://other/ HTTP/1.0"),
    ] {
        refused(cases, name, format!("{line}\r\nHost: test\r\n\r\n"), 400, "host");
    }
    passes(cases, "a host with blanks around it", "GET / HTTP/1.1\r\nHost: \ttest\t \r\n\r\n", GET, HOST, "");
    let target = "GET http://test/ HTTP/1.1\r\nHost: test:80\r\n\r\n";
    passes(cases, "the same host in other words", target, GET, &["host: test:80"], "");
}

fn header_lines(cases: &mut Vec<Case>) {
    for (name, line) in [
        ("a blank before the colon", &b"X-A : b"[..]),
        ("a tab before the colon", b"X-A\t: b"),
        ("a blank in the name", b"X A: b"),
        ("a quote in the name", b"\"X\": b"),
        ("a bracket in the name", b"X(A): b"),
        ("a slash in the name", b"X/A: b"),
        ("a byte beyond ASCII in the name", b"X\xe4: b"),
        ("a control byte in the name", b"X\x0b: b"),
        ("a zero byte", b"X-A: b\0c"),
        ("a bare carriage return", b"X-A: b\rc"),
        ("a bare carriage return and another header", b"X-A: b\rContent-Length: 3"),
        ("two carriage returns", b"X-A: b\r"),
        ("a carriage return alone", b"\r"),
        ("a bell", b"X-A: b\x07"),
        ("a delete", b"X-A: b\x7f"),
        ("a folded line", b"X-A: b\r\n c"),
        ("a folded line with a tab", b"X-A: b\r\n\tc"),
        ("a zero byte in the name", b"X\0A: b"),
        ("a line that begins with a blank", b" X-A: b"),
        ("a folded length", b"Content-Length:\r\n 3"),
        ("a folded coding", b"Transfer-Encoding:\r\n chunked"),
        ("no colon", b"X-A"),
        ("no name", b": b"),
    ] {
        bad(cases, name, [b"GET / HTTP/1.1\r\nHost: test\r\n", line, b"\r\n\r\n"].concat());
    }
    bad(cases, "a first line that is folded", "GET / HTTP/1.1\r\n X-A: b\r\nHost: test\r\n\r\n");
    passes(
        cases,
        "every byte that a name may hold",
        "GET / HTTP/1.1\r\nHost: test\r\nX!#$%&'*+.^`|~9: b\r\n\r\n",
        GET,
        &["host: test", "x!#$%&'*+.^`|~9: b"],
        "",
    );
    passes(
        cases,
        "bytes that a value may hold",
        b"GET / HTTP/1.1\r\nHost: test\r\nX-A: \x80\xff \"\t;,\r\n\r\n",
        GET,
        &["host: test", "x-a: \u{80}\u{ff} \"\t;,"],
        "",
    );
    passes(cases, "a value of nothing", "GET / HTTP/1.1\r\nHost: test\r\nX-A:\r\n\r\n", GET, &["host: test", "x-a: "], "");
}

fn lengths(cases: &mut Vec<Case>) {
    for (name, length) in [
        ("a list of lengths", &b"3, 3"[..]),
        ("a length with a sign", b"+3"),
        ("a negative length", b"-3"),
        ("a length of minus nothing", b"-0"),
        ("an empty length", b""),
        ("a hexadecimal length", b"0x3"),
        ("a length with an underscore", b"0_3"),
        ("a length with a fraction", b"3.0"),
        ("a length with an exponent", b"3e0"),
        ("a length with a parameter", b"3;a"),
        ("a length in quotes", b"\"3\""),
        ("a length in other digits", b"\xd9\xa3"),
        ("a length with a vertical tab", b"\x0b3"),
        ("a length of two numbers", b"3 3"),
        ("a length of 2^64", b"18446744073709551616"),
        ("a length of 2^64 + 3", b"18446744073709551619"),
    ] {
        bad(cases, name, [b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: ", length, b"\r\n\r\nabc"].concat());
    }
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: test\r\n{lines}\r\nabc");
    bad(cases, "two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n"));
    bad(cases, "two lengths, the first of them good", post("Content-Length: 3\r\nContent-Length: x\r\n"));
    passes(cases, "a length", post("Content-Length: 3\r\n"), POST, ABC, "abc");
    passes(cases, "twice the same length", post("Content-Length: 3\r\nContent-Length: 3\r\n"), POST, ABC, "abc");
    passes(cases, "a length with blanks around it", post("Content-Length: \t3 \r\n"), POST, ABC, "abc");
    passes(cases, "a length with zeros before it", post("Content-Length: 0003\r\n"), POST, ABC, "abc");
    passes(
        cases,
        "a length of zeros",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 00\r\n\r\n",
        POST,
        &["content-length: 0", "host: test"],
        "",
    );
    passes(cases, "a length of GET", post("Content-Length: 3\r\n").replace("POST", "GET"), GET, ABC, "abc");
    passes(cases, "a length of HEAD", post("Content-Length: 3\r\n").replace("POST", "HEAD"), "HEAD / HTTP/1.1", ABC, "abc");
    let inner = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    passes(
        cases,
        "a request in a body",
        format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        POST,
        &["content-length: 38", "host: test"],
        inner,
    );
}

fn codings(cases: &mut Vec<Case>) {
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: test\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\n");
    for (name, lines) in [
        ("gzip", "Transfer-Encoding: gzip\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("chunked is not last", "Transfer-Encoding: chunked, identity\r\n"),
        ("chunked is not last, on two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("a comma behind chunked", "Transfer-Encoding: chunked,\r\n"),
        ("a parameter of chunked", "Transfer-Encoding: chunked;a=b\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        ("a look-alike", "Transfer-Encoding: xchunked\r\n"),
        ("an empty coding", "Transfer-Encoding:\r\n"),
        ("a control byte before chunked", "Transfer-Encoding: \x0bchunked\r\n"),
        ("a blank before the colon of a coding", "Transfer-Encoding : chunked\r\n"),
        ("a length beside a coding that is none", "Content-Length: 3\r\nTransfer-Encoding: xchunked\r\n"),
        ("a bad length beside chunks", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n"),
        ("a bad length behind chunks", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n"),
        ("two lengths around chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    ] {
        bad(cases, name, post(lines));
    }
    bad(cases, "chunks in 1.0", post("Transfer-Encoding: chunked\r\n").replace("1.1", "1.0"));
    bad(cases, "chunks in 1.0 beside a length", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n").replace("1.1", "1.0"));
    for (name, lines, status) in [
        ("gzip and chunked", "Transfer-Encoding: gzip, chunked\r\n", 501),
        ("gzip and chunked on two lines", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        ("identity and chunked", "Transfer-Encoding: identity, chunked\r\n", 501),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", 400),
        ("chunked on two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("a comma before chunked", "Transfer-Encoding: ,chunked\r\n", 400),
        ("an empty line before chunked", "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", 400),
    ] {
        refused(cases, name, post(lines), status, "transfer_encoding");
    }
    for (name, lines) in [
        ("chunks", "Transfer-Encoding: chunked\r\n"),
        ("chunks in capitals", "TRANSFER-ENCODING: CHUNKED\r\n"),
        ("chunks with blanks around", "Transfer-Encoding: \t chunked \t\r\n"),
    ] {
        passes(cases, name, post(lines), POST, ABC, "abc");
    }
    // GET has hardly ever a body: with a length that the client did not say, some would not look for it
    passes(cases, "chunks of GET", post("Transfer-Encoding: chunked\r\n").replace("POST", "GET"), GET, CHUNKED, "3\r\nabc\r\n0\r\n\r\n");
    for (name, lines) in [
        ("a length before chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        ("a length behind chunks", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        ("a length before and behind chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        ("a length of nothing before chunks", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("a length before chunks that are to stay", "Connection: keep-alive\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        passes_and_ends(cases, name, post(lines), POST, ABC, "abc");
    }
}

fn chunks(cases: &mut Vec<Case>) {
    for (name, body) in [
        ("a chunk of no number", &b"x\r\nabc\r\n0\r\n\r\n"[..]),
        ("a chunk of nothing", b"\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
        ("a negative chunk", b"-3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with a prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with an underscore", b"0_3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk behind a blank", b" 3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk of two numbers", b"3 3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk of 2^64", b"10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("a chunk of 2^64 + 3", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a chunk that is longer than it says", b"2\r\nabc\r\n0\r\n\r\n"),
        ("a chunk without an end", b"3\r\nabc0\r\n\r\n"),
        ("a chunk that ends in a line feed", b"3\r\nabc\n0\r\n\r\n"),
        ("a size that ends in a line feed", b"3\nabc\r\n0\r\n\r\n"),
        ("a size that ends in a carriage return", b"3\rabc\r\n0\r\n\r\n"),
        ("a last size that ends in a line feed", b"3\r\nabc\r\n0\n\r\n"),
        ("a line feed in an extension", b"3;a\nbc\r\nabc\r\n0\r\n\r\n"),
        ("a carriage return in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("a control byte behind a size", b"3\x0b\r\nabc\r\n0\r\n\r\n"),
        ("a zero byte behind a size", b"3\0\r\nabc\r\n0\r\n\r\n"),
        ("a folded trailer", b"3\r\nabc\r\n0\r\n x: y\r\n\r\n"),
        ("a trailer without a colon", b"3\r\nabc\r\n0\r\nx\r\n\r\n"),
        ("a blank before the colon of a trailer", b"3\r\nabc\r\n0\r\nx : y\r\n\r\n"),
        ("a line feed in a trailer", b"3\r\nabc\r\n0\r\nx: y\nz: q\r\n\r\n"),
    ] {
        bad_body(cases, name, body);
    }
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    bad_body(cases, "an extension without an end", long);
    for (name, body) in [
        ("a chunk with zeros before it", "00000000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with blanks behind it", "3 \t\r\nabc\r\n0\r\n\r\n"),
        ("a chunk with an extension", "3;a=b;c=\"d e\"\r\nabc\r\n0\r\n\r\n"),
        ("a last chunk with an extension", "3\r\nabc\r\n0;a=\"0\"\r\n\r\n"),
        ("a last chunk of many zeros", "3\r\nabc\r\n0000\r\n\r\n"),
        ("chunks of one byte", "1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        passes(cases, name, bytes, POST, ABC, "abc");
    }
    let nothing = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    passes(cases, "no chunk", nothing, POST, &["content-length: 0", "host: test"], "");
}

const CHUNKED: &[&str] = &["host: test", "transfer-encoding: chunked"];

fn trailers(cases: &mut Vec<Case>) {
    let named =
        "X-Sum, Content-Length, Host, Transfer-Encoding, Cookie, Tidegate-Pass, X-Forwarded-For, X_Forwarded_For, Forwarded, Connection";
    passes(
        cases,
        "trailers of every kind",
        format!(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: {named}\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\
             Content-Length: 9\r\nHost: other\r\nTransfer-Encoding: gzip\r\nCookie: tidegate_pass=v1.x\r\nTidegate-Pass: v1.x\r\n\
             X-Forwarded-For: 9.9.9.9\r\nX_Forwarded_For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nConnection: x-sum\r\n\r\n"
        ),
        POST,
        &["host: test", &format!("trailer: {named}"), "transfer-encoding: chunked"],
        "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    passes(
        cases,
        "trailers that were not announced",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
        POST,
        CHUNKED,
        "3\r\nabc\r\n0\r\n\r\n",
    );
}

fn options(cases: &mut Vec<Case>) {
    let get = |lines: &str| format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n");
    passes_and_ends(cases, "Connection names Host", get("Connection: close, Host\r\n"), GET, HOST, "");
    for (name, lines) in [
        ("Connection names what the gate sets", "Connection: X-Forwarded-For, x-forwarded-host, x-forwarded-proto, forwarded\r\n"),
        ("Connection names our pass", "Connection: tidegate-pass\r\nTidegate-Pass: v1.x\r\n"),
        ("Connection names cookies", "Connection: cookie\r\nCookie: a=b\r\n"),
        ("our cookies", "Cookie: tidegate_pass=v1.x; __Host-tidegate_ticket=y\r\n"),
        ("another protocol", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        (
            "what a client says of itself",
            "X-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: x\r\n",
        ),
        ("an expectation that there is none of", "Expect: 200-ok\r\n"),
        ("an expectation without a body", "Expect: 100-continue\r\n"),
    ] {
        passes(cases, name, get(lines), GET, HOST, "");
    }
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: test\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\n");
    for (name, lines) in [
        ("Connection names the coding", "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n"),
        ("an expectation", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"),
        ("two expectations", "Expect: 100-continue\r\nExpect: x\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        passes(cases, name, post(lines), POST, ABC, "abc");
    }
    let length = "POST / HTTP/1.1\r\nHost: test\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc";
    passes(cases, "Connection names the length", length, POST, ABC, "abc");
}

fn twins(cases: &mut Vec<Case>) {
    passes(
        cases,
        "twins of what the gate sets, strips and frames by",
        "POST / HTTP/1.1\r\nHost: test\r\nX_Forwarded_For: 9.9.9.9\r\nX-Forwarded_Proto: https\r\nX.Forwarded.Host: x\r\nTidegate_Pass: v1.x\r\n\
         Content_Length: 9\r\nTransfer_Encoding: chunked\r\nX_Request_Id: 7\r\nContent-Length: 3\r\n\r\nabc",
        POST,
        &["content-length: 3", "host: test", "x_request_id: 7"],
        "abc",
    );
}
