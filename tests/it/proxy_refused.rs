//! The limits of what the gate takes from a client, and what it never passes on. What it refuses to understand is in `smuggling/`.

use crate::support::{Client, Door, Upstream, World, ok, request};

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
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{name}: {}", answer.raw);
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
fn the_preface_of_http_2_is_refused_where_that_is_not_spoken() {
    let gate = Refusing::start("");
    gate.refuse("the preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400);
    gate.counted("bad_request", 1.0);
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

#[test]
fn a_reserved_path_is_not_the_sites() {
    let gate = Refusing::start("");
    let cases = [
        ("GET", "nothing", 404, None, "not_found"),
        ("GET", "", 404, None, "not_found"),
        ("GET", "healthz/", 404, None, "not_found"),
        ("POST", "healthz", 405, Some("GET, HEAD"), "method"),
        ("DELETE", "status", 405, Some("GET, HEAD"), "method"),
        ("PUT", "email", 405, Some("GET, HEAD, POST"), "method"),
        ("OPTIONS", "unsubscribe", 405, Some("GET, HEAD, POST"), "method"),
    ];
    for (method, path, status, allow, reason) in cases {
        let counter = format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}");
        let before = gate.world.count(&counter);
        let mut client = gate.world.client();
        client.send(request(method, &format!("/.tidegate/{path}"), &[]));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}");
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{method} {path}");
        assert_eq!(gate.world.count(&counter), before + 1, "{method} {path}");
    }
    assert_eq!(gate.site.accepted(), 0);
}

#[test]
fn a_form_of_the_gate_that_does_not_come_whole_is_told_so_and_is_the_last_of_its_connection() {
    let gate = Refusing::start("limits: { body_timeout: 300ms }");
    let (chunked, long) = ("Transfer-Encoding: chunked", "x".repeat(20_000));
    let cases = [
        ("it stops", "Content-Length: 10", "code=".to_owned(), 408, "body_timeout"),
        ("it stops before it begins", "Content-Length: 10", String::new(), 408, "body_timeout"),
        ("it stops within a chunk", chunked, "a\r\ncode=".to_owned(), 408, "body_timeout"),
        ("its chunks are none", chunked, "zz\r\ncode=1".to_owned(), 400, "bad_request"),
        ("a chunk is longer than it says", chunked, "2\r\ncode=1\r\n0\r\n\r\n".to_owned(), 400, "bad_request"),
        ("it is too long", "Content-Length: 20000", long.clone(), 413, "body_too_large"),
        ("it is too long, in a chunk", chunked, format!("4e20\r\n{long}\r\n0\r\n\r\n"), 413, "body_too_large"),
    ];
    for path in ["email", "invitation", "unsubscribe?id=1&check=1"] {
        for (name, framing, body, status, reason) in &cases {
            let name = format!("{path}: {name}");
            let counter = format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}");
            let before = gate.world.count(&counter);
            let mut client = gate.world.client();
            client.send(request("POST", &format!("/.tidegate/{path}"), &["Content-Type: application/x-www-form-urlencoded", framing]));
            // what is too long may be answered before it is written
            client.try_send(body).ok();
            let answer = client.try_answer("POST").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((answer.status, answer.header("connection")), (*status, Some("close")), "{name}: {}", answer.raw);
            assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{name}");
            client.assert_ends();
            assert_eq!(gate.world.count(&counter), before + 1, "{name}");
        }
    }
    assert_eq!(gate.site.accepted(), 0);
}

#[test]
fn wishes_to_leave_have_their_rate() {
    let gate = Refusing::start("email_queue: { posts_per_client: 2 }");
    let statuses = [(); 4].map(|()| {
        let mut client = gate.world.client();
        client.send(request("POST", "/.tidegate/unsubscribe?id=1&check=1", &["Content-Length: 0"]));
        client.answer()
    });
    assert_eq!(statuses.each_ref().map(|answer| answer.status == 429), [false, false, true, true]);
    let last = &statuses[3];
    assert!(last.header("retry-after").is_some(), "{}", last.raw);
    assert_eq!(last.header("proxy-status"), Some("tidegate; error=http_request_denied; details=\"rate\""));
    gate.counted("leave_rate", 2.0);
    assert_eq!(gate.site.accepted(), 0);
}

/// Chunks of one byte: each was kept by itself, and took a hundred times what was counted for it.
#[test]
fn a_body_in_the_smallest_of_pieces_goes_through_whole() {
    let site = Upstream::answering("done");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("POST", "/", &["Transfer-Encoding: chunked"]));
    client.send("1\r\nx\r\n".repeat(100_000));
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().text(), "done");
    assert!(site.requests(1)[0].body == vec![b'x'; 100_000]);
}

/// What the gate says of its own refusals it puts into no answer of the site's, and into no body of one, whatever they look like.
#[test]
fn what_a_site_says_is_not_taken_for_a_refusal() {
    const ALIKE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nx: y\r\n\r\n";
    let door = Door::default();
    let opens = door.clone();
    let site = Upstream::start(move |seen, site| match seen.target.as_str() {
        "/body" => {
            site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", ALIKE.len()));
            opens.wait();
            site.write(ALIKE)
        }
        "/head" => site.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        _ => site.write(ok("hello")),
    });
    // with a ticket or a pass there would be more in the head
    let world = World::open(&site.url(), "routes: [{ path: \"/**\", gate: open }]");
    let mut client = world.client();
    client.send(request("GET", "/body", &[]));
    // the head goes by itself, and then the body
    assert_eq!(client.head().unwrap().status, 200);
    door.open();
    assert_eq!(client.take(ALIKE.len()).unwrap(), ALIKE.as_bytes());
    for _ in 0..2 {
        let answer = client.get("/head", &[]);
        assert_eq!((answer.status, answer.header("proxy-status"), answer.header("cache-control")), (400, None, None), "{}", answer.raw);
        assert_eq!(client.get("/", &[]).text(), "hello");
    }
}
