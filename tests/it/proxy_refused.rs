//! What the gate refuses to understand never reaches the site, whose reading of it could be another one.

use crate::support::{Client, Upstream, World, request};

/// A site that nothing may reach, and a gate in front of it.
struct Refusing {
    site: Upstream,
    world: World,
}

impl Refusing {
    fn start(more: &str) -> Self {
        let site = Upstream::answering("reached");
        let world = World::open(&site.url(), more);
        Self { site, world }
    }

    /// Sends bytes that are refused with this status; the connection ends, so that nothing behind them is read as a request.
    #[track_caller]
    fn refuse(&self, name: &str, bytes: impl AsRef<[u8]>, status: u16) {
        let mut client = self.world.client();
        client.try_send(bytes).ok();
        client.try_send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n").ok();
        let answer = client.try_answer("GET").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, status, "{name}: {}", answer.raw);
        client.assert_ends();
        assert_eq!(self.site.accepted(), 0, "{name}");
    }

    #[track_caller]
    fn counted(&self, reason: &str, count: f64) {
        let name = format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(self.world.until_metric(&name, |now| now >= count), count, "{reason}");
    }
}

#[test]
fn a_request_names_one_host_and_one_only() {
    let gate = Refusing::start("");
    for (name, bytes) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("twice the same", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("no name", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("two names", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("a path in it", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("a user in it", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        ("another target", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("another target in 1.0", "GET http://b/ HTTP/1.0\r\nHost: a\r\n\r\n"),
    ] {
        gate.refuse(name, bytes, 400);
    }
    gate.counted("host", 10.0);
    let mut client = gate.world.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"));
    assert_eq!((answer.header("connection"), answer.header("cache-control")), (Some("close"), Some("no-store")));
}

#[test]
fn a_target_has_one_form() {
    let gate = Refusing::start("");
    gate.refuse("another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    gate.refuse("a star", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    gate.refuse("bytes beyond ASCII", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    gate.refuse("a host alone", "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400);
    gate.counted("target", 4.0);
    gate.refuse("a control byte", b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    gate.refuse("a blank", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    gate.refuse("no path", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn a_proxy_for_others_is_not_what_this_is() {
    let gate = Refusing::start("");
    gate.refuse("connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501);
    gate.counted("not_implemented", 1.0);
}

#[test]
fn a_body_has_one_length() {
    let gate = Refusing::start("");
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    for (name, lines) in [
        ("two that differ", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("a list", "Content-Length: 5, 5\r\n"),
        ("a sign", "Content-Length: +5\r\n"),
        ("negative", "Content-Length: -5\r\n"),
        ("hexadecimal", "Content-Length: 0x5\r\n"),
        ("nothing", "Content-Length:\r\n"),
        ("too large", "Content-Length: 18446744073709551616\r\n"),
    ] {
        gate.refuse(name, post(lines) + "12345", 400);
    }
    gate.counted("bad_request", 7.0);
}

#[test]
fn a_body_has_one_coding() {
    let gate = Refusing::start("");
    let post = |version: &str, lines: &str| format!("POST / HTTP/1.{version}\r\nHost: a\r\n{lines}\r\n0\r\n\r\n");
    gate.refuse("gzip, chunked", post("1", "Transfer-Encoding: gzip, chunked\r\n"), 501);
    gate.refuse("on two lines", post("1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 501);
    gate.refuse("chunked twice", post("1", "Transfer-Encoding: chunked, chunked\r\n"), 400);
    gate.refuse("chunked on two lines", post("1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400);
    gate.counted("transfer_encoding", 4.0);
    gate.refuse("gzip", post("1", "Transfer-Encoding: gzip\r\n"), 400);
    gate.refuse("chunked is not last", post("1", "Transfer-Encoding: chunked, identity\r\n"), 400);
    gate.refuse("a look-alike", post("1", "Transfer-Encoding: xchunked\r\n"), 400);
    gate.refuse("in 1.0", post("0", "Transfer-Encoding: chunked\r\n"), 400);
    gate.counted("bad_request", 4.0);
}

#[test]
fn a_length_beside_chunks_is_dropped_and_nothing_is_smuggled() {
    let gate = Refusing::start("");
    for lines in ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"] {
        let mut client = gate.world.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.answer().status, 200);
        client.assert_ends();
    }
    for seen in gate.site.requests(2) {
        assert_eq!((seen.target.as_str(), seen.body.as_slice()), ("/", b"abc".as_slice()));
        assert!(seen.header("content-length").is_none() != seen.header("transfer-encoding").is_none(), "one of them: {}", seen.raw);
    }
    assert_eq!(gate.site.seen().len(), 2);
}

#[test]
fn a_head_is_made_of_clean_lines() {
    let gate = Refusing::start("");
    for (name, line) in [
        ("a blank before the colon", "X-A : b\r\n"),
        ("a blank before the colon of a length", "Content-Length : 5\r\n"),
        ("a bare carriage return", "X-A: b\rX-B: c\r\n"),
        ("a zero byte", "X-A: b\0c\r\n"),
        ("a zero byte in the name", "X\0A: b\r\n"),
        ("a folded line", "X-A: b\r\n c\r\n"),
        ("a first line that is folded", " X-A: b\r\n"),
        ("no colon", "X-A\r\n"),
        ("no name", ": b\r\n"),
        ("a control byte", "X-A: b\x7fc\r\n"),
    ] {
        gate.refuse(name, format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"), 400);
    }
    gate.counted("bad_request", 10.0);
}

#[test]
fn what_is_not_http_is_not_answered_as_if_it_were() {
    let gate = Refusing::start("");
    for (name, bytes) in [
        ("another version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
        ("no version", "GET /\r\nHost: a\r\n\r\n"),
        ("a handshake of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
        ("a method with a colon", "G:T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        gate.refuse(name, bytes, 400);
    }
    gate.counted("bad_request", 4.0);
    let mut client = gate.world.client();
    // the preface of HTTP/2: whatever is said to it, it is the last
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.end().unwrap();
    assert_eq!(gate.site.accepted(), 0);
}

#[test]
fn chunks_that_do_not_add_up_are_refused() {
    let gate = Refusing::start("");
    for (name, body) in [
        ("no number", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("too short", "2\r\nabc\r\n0\r\n\r\n"),
        ("too large", "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("bare line feeds", "3\nabc\n0\n\n"),
    ] {
        gate.refuse(name, format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), 400);
    }
    gate.counted("bad_request", 5.0);
}

#[test]
fn a_head_has_its_limits() {
    let gate = Refusing::start("limits: { header_bytes: 16KiB }");
    let long = |length: usize| "x".repeat(length);
    gate.refuse("one long line", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", long(20_000)), 431);
    let many: String = (0..400).map(|i| format!("X-Number-{i}: {}\r\n", long(40))).collect();
    gate.refuse("many lines", format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431);
    let many: String = (0..150).map(|i| format!("X-{i}: y\r\n")).collect();
    gate.refuse("too many small ones", format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431);
    gate.refuse("a target that fills it", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(20_000)), 431);
    gate.counted("head_too_large", 4.0);
    // just below it, all is well
    assert_eq!(gate.world.get(&format!("/{}", long(7_000)), &[&format!("X-A: {}", long(8_000))]).text(), "reached");
}

#[test]
fn a_target_has_its_limit() {
    let gate = Refusing::start("limits: { header_bytes: 256KiB }");
    gate.refuse("a target without an end", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)), 414);
    gate.counted("uri_too_long", 1.0);
}

#[test]
fn a_head_that_takes_too_long_is_told_so() {
    let gate = Refusing::start("limits: { header_timeout: 1s }");
    let mut slow = gate.world.client();
    slow.send("GET / HTTP/1.1\r\nHost: te");
    let answer = slow.answer();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(answer.header("proxy-status").is_some_and(|status| status.starts_with("tidegate; error=")));
    slow.assert_ends();
    gate.counted("header_timeout", 1.0);
    // the second head on a connection has the same time, and the first is no excuse
    let mut slow = gate.world.client();
    assert_eq!(slow.get("/", &[]).text(), "reached");
    slow.send("GET /secon");
    assert_eq!(slow.answer().status, 408);
    gate.counted("header_timeout", 2.0);
    assert_eq!(gate.site.seen().len(), 1);
}

#[test]
fn a_head_that_trickles_has_no_longer() {
    let gate = Refusing::start("limits: { header_timeout: 500ms }");
    let mut slow = gate.world.client();
    slow.send("GET / HTTP/1.1\r\nHost: test\r\n");
    let mut twin = slow.twin();
    let reader = std::thread::spawn(move || slow.try_answer("GET").map(|answer| answer.status).ok());
    // a letter for each look at the status: far fewer than would be too many
    while gate.world.status().is_object() && twin.try_send("X").is_ok() {}
    assert_eq!(reader.join().unwrap(), Some(408));
}

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let gate = Refusing::start("limits: { header_timeout: 500ms, idle_timeout: 500ms }");
    let mut silent = gate.world.client();
    assert_eq!(silent.end().unwrap(), b"", "from the start");
    let mut idle = gate.world.client();
    assert_eq!(idle.get("/", &[]).text(), "reached");
    assert_eq!(idle.end().unwrap(), b"", "between requests");
    assert_eq!(gate.world.metric("tidegate_requests_refused_total{reason=\"header_timeout\"}"), 0.0);
}

#[test]
fn a_body_that_stands_still_is_told_so() {
    let gate = Refusing::start("limits: { body_timeout: 1s }");
    for lines in [["Content-Length: 10"], ["Transfer-Encoding: chunked"]] {
        let mut slow = gate.world.client();
        slow.send(request("POST", "/", &lines));
        slow.send("4\r\na");
        let answer = slow.answer();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"));
        slow.assert_ends();
    }
    gate.counted("body_timeout", 2.0);
    assert_eq!(gate.site.accepted(), 0, "it never held a slot");
}

#[test]
fn a_streamed_body_that_stands_still_is_told_so_and_frees_its_slot() {
    let site = Upstream::answering("done");
    let world = World::start(&format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 16KiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ body_timeout: 500ms }}",
        site.url()
    ));
    let mut slow = world.client();
    slow.send(request("POST", "/", &["Content-Length: 300000"]));
    slow.send(vec![b'x'; 100_000]);
    assert_eq!(slow.answer().status, 408);
    world.until_metric("tidegate_requests_refused_total{reason=\"body_timeout\"}", |count| count == 1.0);
    assert_eq!(world.get("/", &[]).text(), "done");
    assert_eq!(site.seen().len(), 1);
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), 1.0);
}

#[test]
fn a_client_that_leaves_in_the_middle_is_forgotten() {
    let gate = Refusing::start("");
    for bytes in ["GE", "GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"] {
        let mut client = Client::connect(gate.world.http);
        client.send(bytes);
        client.reset();
    }
    let mut client = Client::connect(gate.world.http);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123");
    client.finish();
    client.end().ok();
    gate.world.until_status("/connections/open", 0);
    assert_eq!(gate.site.accepted(), 0);
}
