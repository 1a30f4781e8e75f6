//! HTTP/2 from clients: many requests on one connection, each with a life of its own.

use std::time::Duration;

use bytes::Bytes;

use crate::support::{
    DATA, Door, END_HEADERS, END_STREAM, Frames, GET, HEADERS, Http2, PATIENCE, PING, POST, RESET, Secure, Seen, Upstream, frame,
    http2_request, ok, request, until, unzipped, whole,
};

#[test]
fn a_request_reaches_the_site_as_http_1_1() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let answer = client.get("/a?b=c", &[("te", "trailers"), ("x-own", "1")]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("content-length"), Some("5"));
    assert!(answer.cookie("tidegate_pass").is_some(), "{answer:?}");
    let [seen] = &site.seen()[..] else { panic!("one request") };
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a?b=c"));
    assert!(seen.raw.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", seen.raw);
    assert_eq!((seen.all("host"), seen.header("x-own"), seen.header("te")), (vec!["test"], Some("1"), Some("trailers")));
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (None, None));
}

#[test]
fn many_streams_are_answered_at_once() {
    // each waits for all others
    const STREAMS: usize = 30;
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen, site| {
        held.wait();
        site.write(ok(&seen.target))
    });
    let yaml = format!("upstream: {{ servers: [{}], max_in_flight: {STREAMS} }}\nadmission: {{ mode: open }}", site.url());
    let world = Secure::start(&yaml);
    let client = Http2::connect(&world);
    client.wait(async {
        let mut answers = Vec::new();
        for number in 0..STREAMS {
            let mut sender = client.sender.clone().ready().await.unwrap();
            answers.push(sender.send_request(http2_request("GET", &format!("/{number}"), &[]), true).unwrap().0);
        }
        let all = tokio::spawn(async move {
            let mut bodies = Vec::new();
            for answer in answers {
                bodies.push(whole(answer.await.unwrap()).await.unwrap().text());
            }
            bodies
        });
        // the site is asked while this thread waits for its answers
        let opener = std::thread::spawn(move || {
            site.requests(STREAMS);
            door.open();
            site
        });
        let bodies = all.await.unwrap();
        drop(opener.join());
        assert_eq!(bodies, (0..STREAMS).map(|number| format!("/{number}")).collect::<Vec<_>>());
    });
    assert_eq!(world.status().pointer("/connections/open").unwrap(), 1);
}

#[test]
fn who_waits_is_shown_the_waiting_room_and_keeps_the_ticket_in_crumbs() {
    let site = Upstream::answering("hello");
    let world = Secure::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", site.url()));
    let mut client = Http2::connect(&world);
    let answer = client.get("/", &[("accept", "text/html")]);
    assert_eq!((answer.status, answer.header("connection")), (503, None));
    assert!(answer.text().contains("</html>") && answer.header("retry-after").is_some(), "{answer:?}");
    let ticket = answer.cookie("tidegate_ticket").expect("a ticket");
    let zipped = client.get("/", &[("accept", "text/html"), ("accept-encoding", "gzip"), ("cookie", &ticket)]);
    assert_eq!((zipped.header("content-encoding"), unzipped(&zipped.body).contains("</html>")), (Some("gzip"), true));
    let status = client.get("/.tidegate/status", &[("cookie", "a=b"), ("cookie", &ticket), ("cookie", "c=d")]);
    assert!(status.text().contains("\"verdict\":\"wait\""), "{status:?}");
    assert!(site.seen().is_empty());
}

#[test]
fn crumbs_of_cookies_reach_the_site_in_one_line_without_ours() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let pass = client.get("/", &[]).cookie("tidegate_pass").unwrap();
    let again = client.get("/", &[("cookie", "a=b"), ("cookie", &pass), ("cookie", "c=d")]);
    assert_eq!((again.status, again.cookie("tidegate_pass")), (200, None), "the pass was found");
    assert_eq!(site.requests(2)[1].all("cookie"), ["a=b; c=d"]);
}

#[test]
fn bodies_arrive_with_and_without_a_length() {
    let site = Upstream::start(|seen: &Seen, site| site.write(ok(&String::from_utf8_lossy(&seen.body))));
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let answer = client.ask(http2_request("POST", "/", &[("content-length", "10")]), &[b"hello", b"world"]).unwrap();
    assert_eq!(answer.text(), "helloworld");
    assert_eq!(client.ask(http2_request("POST", "/", &[]), &[b"hello", b", ", b"you"]).unwrap().text(), "hello, you");
    let large = vec![b'x'; 300_000];
    assert_eq!(client.ask(http2_request("PUT", "/", &[]), &[&large, &large]).unwrap().body.len(), 600_000);
    let seen = site.seen();
    assert_eq!((seen[0].header("content-length"), seen[0].header("transfer-encoding")), (Some("10"), None));
    assert_eq!(seen[1].body, b"hello, you");
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_costs_its_stream_alone() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    for (length, body) in [("3", &b"hello"[..]), ("10", b"hello")] {
        let answer = client.ask(http2_request("POST", "/", &[("content-length", length)]), &[body]);
        assert!(answer.is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 400), "{answer:?}");
    }
    assert_eq!(client.get("/", &[]).status, 200, "the connection goes on");
    assert!(site.seen().iter().all(|seen| seen.method == "GET"));
}

#[test]
fn head_and_empty_answers_have_no_body() {
    let site = Upstream::start(|seen: &Seen, site| match (seen.method.as_str(), seen.target.as_str()) {
        ("HEAD", _) => site.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        // which it must not say
        (_, "/204") => site.write("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        _ => site.write("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
    });
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let head = client.ask(http2_request("HEAD", "/", &[]), &[]).unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5"), 0));
    let empty = client.get("/204", &[]);
    assert_eq!((empty.status, empty.header("content-length")), (204, None));
    assert_eq!(client.get("/304", &[]).header("etag"), Some("\"x\""));
    // what the gate composes
    let get = client.get("/.tidegate/healthz", &[]);
    let head = client.ask(http2_request("HEAD", "/.tidegate/healthz", &[]), &[]).unwrap();
    assert_eq!((get.text().as_str(), head.body.len()), ("ok\n", 0));
    assert_eq!(head.header("content-length"), Some("3"));
}

#[test]
fn headers_of_the_connection_to_the_site_stay_there_and_trailers_come_through() {
    let site = Upstream::start(|_, site| {
        site.write(
            "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\nConnection: x-hop\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\r\n",
        )
    });
    let world = Secure::open(&site.url(), "");
    let answer = Http2::connect(&world).get("/", &[("te", "trailers")]);
    assert_eq!(answer.text(), "hello");
    for name in ["connection", "x-hop", "keep-alive", "transfer-encoding", "upgrade"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let trailers = answer.trailers.unwrap();
    assert_eq!((trailers.get("x-sum").unwrap().as_bytes(), trailers.len()), (b"7".as_slice(), 1));
}

/// With NO_ERROR, as balancers reset a stream whose visitor has left.
#[test]
fn half_an_upload_is_not_taken_for_a_whole_one_however_it_is_broken_off() {
    let site = Upstream::answering("taken");
    // read ahead as far as it has come; and streamed
    for (buffer, bytes) in [("1MiB", 4), ("4KiB", 10_000)] {
        // a request has its turn when the one before it has been answered
        let yaml = format!("upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: {buffer} }} }}", site.url());
        let world = Secure::start(&format!("{yaml}\nadmission: {{ mode: open }}"));
        // so that there is a connection to the site, on which a request is sent at once
        assert_eq!(world.client().get("/", &[]).text(), "taken");
        let mut visitor = Frames::connect(&world, &[]);
        visitor.send([frame(HEADERS, END_HEADERS, 1, POST), frame(DATA, 0, 1, &vec![b'x'; bytes]), frame(PING, 0, 0, &[0; 8])].concat());
        while visitor.next().unwrap().kind != PING {}
        visitor.send(frame(RESET, 0, 1, &[0; 4]));
        visitor.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET));
        while visitor.next().is_ok_and(|frame| (frame.kind, frame.stream) != (DATA, 3)) {}
        world.until_status("/slots/in_flight", 0);
    }
    assert_eq!(site.seen().iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["GET"; 4]);
}

#[test]
fn a_host_that_differs_from_the_authority_is_refused_and_the_connection_stays() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let answer = client.get("/", &[("host", "other")]);
    assert_eq!((answer.status, answer.header("proxy-status")), (400, Some("tidegate; error=http_request_error")));
    assert_eq!(client.get("/", &[("host", "test")]).status, 200);
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"host\"}"), 1);
    let connect = http::Request::builder().method("CONNECT").uri("test:443").body(()).unwrap();
    let answer = client.ask(connect, &[]).unwrap();
    assert_eq!((answer.status, answer.header("proxy-status")), (501, Some("tidegate; error=http_request_error")));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"not_implemented\"}"), 1);
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(site.seen().len(), 2);
}

/// A client whose connection has room for what it leaves lying on some of its streams.
fn roomy(world: &Secure) -> Http2 {
    Http2::connect_with(world, h2::client::Builder::new().initial_connection_window_size(1 << 20))
}

#[test]
fn a_client_that_does_not_take_an_answer_holds_up_no_other_stream() {
    const LARGE: usize = 4 << 20;
    let site = Upstream::start(|seen: &Seen, site| match seen.target.as_str() {
        "/large" => site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")) && site.write(vec![b'x'; LARGE]),
        _ => site.write(ok("hello")),
    });
    let world = Secure::open(&site.url(), "limits: { body_timeout: 60s }");
    let mut client = roomy(&world);
    let mut sender = client.sender.clone();
    let large = client.wait(async move { sender.send_request(http2_request("GET", "/large", &[]), true).unwrap().0.await.unwrap() });
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).text(), "hello");
    }
    let large = client.wait(whole(large)).unwrap();
    assert_eq!(large.body.len(), LARGE);
}

#[test]
fn an_answer_that_nobody_takes_gives_its_slot_back() {
    const LARGE: usize = 4 << 20;
    let site = Upstream::start(|seen: &Seen, site| match seen.target.as_str() {
        "/large" => site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")) && site.write(vec![b'x'; LARGE]),
        _ => site.write(ok("hello")),
    });
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: 2, queue: {{ deadline: 20s }} }}\nadmission: {{ mode: open }}\nlimits: {{ body_timeout: 1s }}",
        site.url()
    );
    let world = Secure::start(&yaml);
    let mut client = roomy(&world);
    let answers = client.wait(async {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut sender = client.sender.clone().ready().await.unwrap();
            let answer = sender.send_request(http2_request("GET", "/large", &[]), true).unwrap().0;
            answers.push(answer.await.unwrap());
        }
        answers
    });
    // both slots are taken, until the gate sees that nobody takes what it has
    assert_eq!(client.get("/", &[]).text(), "hello");
    // who began to read the second one now would be in time
    world.until_metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}", |aborted| aborted >= 2.0);
    for answer in answers {
        assert!(client.wait(whole(answer)).is_err(), "it was cut");
    }
    assert_eq!(client.get("/", &[]).text(), "hello", "the connection goes on");
}

#[test]
fn a_body_that_stands_still_costs_its_stream_alone() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { body_timeout: 1s }");
    let mut client = Http2::connect(&world);
    let mut sender = client.sender.clone();
    let (answer, mut stream) = sender.send_request(http2_request("POST", "/", &[]), false).unwrap();
    stream.send_data(Bytes::from_static(b"hel"), false).unwrap();
    let answer = client.wait(async { whole(answer.await.unwrap()).await }).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, None));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"body_timeout\"}"), 1);
    assert_eq!(client.get("/", &[]).text(), "hello", "the connection goes on");
    assert_eq!(site.seen().len(), 1);
}

#[test]
fn a_long_body_that_stands_still_gives_its_slot_back() {
    let site = Upstream::answering("hello");
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4KiB }}, queue: {{ deadline: 20s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ body_timeout: 1s }}",
        site.url()
    );
    let world = Secure::start(&yaml);
    let mut client = Http2::connect(&world);
    let mut sender = client.sender.clone();
    let (answer, mut stream) = sender.send_request(http2_request("POST", "/", &[]), false).unwrap();
    stream.send_data(Bytes::from(vec![b'x'; 20_000]), false).unwrap();
    let answer = client.wait(async { whole(answer.await.unwrap()).await }).unwrap();
    assert_eq!(answer.status, 408);
    assert_eq!(client.get("/", &[]).text(), "hello");
}

#[test]
fn a_connection_without_streams_is_told_to_go() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { idle_timeout: 1s }");
    let mut client = Http2::connect(&world);
    assert_eq!(client.get("/", &[]).status, 200);
    assert!(client.ended_by_the_gate(), "not by an error");
    world.until_status("/connections/open", 0);
}

#[test]
fn a_connection_that_asks_for_nothing_is_closed() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { header_timeout: 1s }");
    let client = Http2::connect(&world);
    client.ended_by_the_gate();
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"header_timeout\"}"), 1);
}

#[test]
fn at_the_end_streams_finish_and_no_others_begin() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen: &Seen, site| {
        if seen.target == "/held" {
            held.wait();
        }
        site.write(ok(&seen.target))
    });
    let mut world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    assert_eq!(client.get("/", &[]).status, 200);
    let mut sender = client.sender.clone();
    let (answer, _stream) = sender.send_request(http2_request("GET", "/held", &[]), true).unwrap();
    client.wait(async { tokio::task::yield_now().await });
    site.requests(2);
    let running = world.running.take().unwrap();
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, PATIENCE));
    // the gate says that it goes: nothing new can be sent
    client.wait(async {
        while client.sender.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    door.open();
    let answer = client.wait(async { whole(answer.await.unwrap()).await }).unwrap();
    assert_eq!(answer.text(), "/held");
    assert!(client.end(), "without an error");
    ending.join().unwrap();
}

#[test]
fn when_connections_run_short_who_waits_is_answered_and_told_to_go() {
    let site = Upstream::answering("hello");
    let world =
        Secure::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}\nlimits: {{ connections: 20 }}", site.url()));
    let mut kept = Http2::connect(&world);
    assert_eq!(kept.get("/", &[]).status, 503);
    let silent: Vec<_> = (0..10).map(|_| world.client()).collect();
    until("eleven connections", || (world.status().pointer("/connections/open")?.as_u64()? == 11).then_some(()));
    let answer = kept.get("/", &[("accept", "text/html")]);
    assert_eq!((answer.status, answer.header("connection")), (503, None));
    assert!(kept.ended_by_the_gate());
    drop(silent);
}

#[test]
fn a_stream_that_is_reset_while_it_waits_for_a_slot_never_reaches_the_site() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen: &Seen, site| {
        if seen.target == "/held" {
            held.wait();
        }
        site.write(ok(&seen.target))
    });
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, queue: {{ deadline: 20s }} }}\nadmission: {{ mode: open }}\nlimits: {{ body_timeout: 60s }}",
        site.url()
    );
    let world = Secure::start(&yaml);
    let mut client = Http2::connect(&world);
    let mut sender = client.sender.clone();
    let (first, _stream) = sender.send_request(http2_request("GET", "/held", &[]), true).unwrap();
    client.wait(async { tokio::task::yield_now().await });
    site.requests(1);
    let left = client.wait(async {
        let mut left = Vec::new();
        for _ in 0..5 {
            let mut sender = client.sender.clone().ready().await.unwrap();
            left.push(sender.send_request(http2_request("GET", "/left", &[]), true).unwrap());
        }
        left
    });
    until("five in the queue", || {
        client.wait(async { tokio::task::yield_now().await });
        (world.status().pointer("/slots/queue")?.as_u64()? == 5).then_some(())
    });
    for (_, mut stream) in left {
        stream.send_reset(h2::Reason::CANCEL);
    }
    until("nobody in the queue", || {
        client.wait(async { tokio::task::yield_now().await });
        (world.status().pointer("/slots/queue")?.as_u64()? == 0).then_some(())
    });
    door.open();
    assert_eq!(client.wait(async { whole(first.await.unwrap()).await }).unwrap().text(), "/held");
    assert_eq!(client.get("/last", &[]).text(), "/last");
    assert!(site.seen().iter().all(|seen| seen.target != "/left"));
}

#[test]
fn bodies_that_nobody_reads_leave_room_for_the_next() {
    let site = Upstream::answering("hello");
    let world = Secure::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", site.url()));
    let mut client = Http2::connect(&world);
    let body = vec![b'x'; 60_000];
    // more in all than the connection's window
    for number in 0..40 {
        let answer = client.ask(http2_request("POST", "/", &[]), &[&body]).unwrap();
        assert_eq!(answer.status, 503, "{number}");
    }
    assert!(site.seen().is_empty());
}

#[test]
fn a_form_of_the_gate_is_taken_from_its_own_page() {
    let site = Upstream::answering("hello");
    let world = Secure::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", site.url()));
    let mut client = Http2::connect(&world);
    let of =
        |origin| http2_request("POST", "/.tidegate/email", &[("origin", origin), ("content-type", "application/x-www-form-urlencoded")]);
    // without a ticket it goes no further, but whose page it comes from is seen before
    assert_eq!(client.ask(of("https://test"), &[b"email=a%40example.org"]).unwrap().status, 403);
    assert_eq!(world.count("tidegate_emails_refused_total{reason=\"origin\"}"), 0);
    assert_eq!(client.ask(of("https://evil.example"), &[b"email=a%40example.org"]).unwrap().status, 403);
    assert_eq!(world.count("tidegate_emails_refused_total{reason=\"origin\"}"), 1);
}

#[test]
fn a_form_of_the_gate_that_does_not_come_whole_costs_its_stream_alone() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { body_timeout: 1s }");
    let mut client = Http2::connect(&world);
    let long = [b'x'; 20_000];
    for path in ["email", "invitation", "unsubscribe?id=1&check=1"] {
        for (piece, is_whole, status, reason) in [(&b"code="[..], false, 408, "body_timeout"), (&long, true, 413, "body_too_large")] {
            let counter = format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}");
            let before = world.count(&counter);
            let mut sender = client.sender.clone();
            let (answer, mut stream) = sender.send_request(http2_request("POST", &format!("/.tidegate/{path}"), &[]), false).unwrap();
            stream.send_data(Bytes::copy_from_slice(piece), is_whole).unwrap();
            let answer = client.wait(async { whole(answer.await.unwrap()).await }).unwrap();
            assert_eq!((answer.status, answer.header("connection")), (status, None), "{path}");
            assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{path}");
            assert_eq!(world.count(&counter), before + 1, "{path}");
        }
    }
    assert_eq!(client.get("/", &[]).text(), "hello", "the connection goes on");
    assert_eq!(site.seen().len(), 1);
}

#[test]
fn a_length_that_is_said_twice_is_refused_and_the_connection_stays() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let twice = http2_request("POST", "/", &[("content-length", "5"), ("content-length", "5")]);
    let answer = client.ask(twice, &[b"hello"]).unwrap();
    assert_eq!((answer.status, answer.header("proxy-status")), (400, Some("tidegate; error=http_request_error")));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"content_length\"}"), 1);
    assert_eq!(client.get("/", &[]).text(), "hello", "the connection goes on");
    assert_eq!(site.seen().len(), 1);
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_connection_stays() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { header_bytes: 8KiB }");
    let mut client = Http2::connect(&world);
    let large = "x".repeat(10_000);
    let answer = client.get("/", &[("x-large", &large)]);
    assert_eq!((answer.status, answer.header("proxy-status")), (431, Some("tidegate; error=http_request_error")));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"head_too_large\"}"), 1);
    // by many small lines as well: each counts 32 bytes
    let many: Vec<(String, String)> = (0..200).map(|number| (format!("x-{number}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(client.get("/", &[&many[..], &[("x-more", &large[..2000])]].concat()).status, 431);
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"head_too_large\"}"), 2);
    // what is larger still is not even looked at
    assert_eq!(client.get("/", &[("x-large", &large), ("x-too", &large)]).status, 431);
    assert_eq!(client.get("/", &[("x-large", &large[..7_500])]).status, 200);
    assert_eq!(site.seen().len(), 1);
}

/// The h2 crate resets the stream if they differ. Equal ones it lets pass, and the gate refuses them.
#[test]
fn a_body_of_two_lengths_is_told_to_no_site() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "");
    let mut client = Http2::connect(&world);
    let mut ask = |lengths: [&str; 2]| {
        let lines = lengths.map(|length| ("content-length", length));
        client.ask(http2_request("POST", "/", &lines), &[b"hello"])
    };
    for lengths in [["5", "6"], ["5", "x"]] {
        let answer = ask(lengths);
        assert!(answer.as_ref().is_err_and(|error| error.reason() == Some(h2::Reason::PROTOCOL_ERROR)), "{lengths:?}: {answer:?}");
    }
    let counter = "tidegate_requests_refused_total{reason=\"content_length\"}";
    assert_eq!(world.count(counter), 0);
    let answer = ask(["5", "5"]).unwrap();
    assert_eq!((answer.status, answer.header("proxy-status")), (400, Some("tidegate; error=http_request_error")));
    assert_eq!(world.count(counter), 1);
    assert_eq!(client.get("/", &[]).status, 200, "the connection goes on");
    assert_eq!(site.seen().len(), 1);
}

#[test]
fn a_body_that_nobody_reads_is_not_taken_for_ever() {
    let site = Upstream::answering("hello");
    let world = Secure::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", site.url()));
    let mut client = Http2::connect(&world);
    let (answer, mut stream) = client.sender.clone().send_request(http2_request("POST", "/", &[]), false).unwrap();
    let taken = client.wait(async {
        let mut taken = 0;
        while taken < 32 << 20 {
            stream.reserve_capacity(16_384);
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
            if stream.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                break;
            }
            taken += room;
        }
        taken
    });
    assert!((16 << 20..20 << 20).contains(&taken), "{taken}");
    assert_eq!(client.wait(answer).unwrap().status(), 503, "the answer was there before");
    assert_eq!(client.get("/", &[]).status, 503, "the connection goes on");
}

/// A form is read before a slot is taken, unless the buffers are full: then its head is at the site at once.
#[test]
fn what_is_left_of_a_piece_counts_as_held() {
    let site = Upstream::answering("hello");
    let yaml = format!(
        "upstream: {{ servers: [{}], buffer: {{ request: 64KiB, response: 64KiB }} }}\nadmission: {{ mode: closed }}\n\
         routes: [{{ path: /up, gate: open }}]\nemail_queue: {{ enabled: false }}\nwaiting_room: {{ template: room.html }}\n\
         limits: {{ buffer_memory: 1MiB }}",
        site.url()
    );
    let page = format!("<!doctype html><title>Wait</title>{}", "<p>Please wait.</p>\n".repeat(12_000));
    let world = Secure::prepared(&yaml, |directory| std::fs::write(directory.join("room.html"), &page).unwrap());
    let slow = || {
        let mut client = world.client();
        client.send(request("POST", "/up", &["Content-Length: 10"]));
        client.send("x");
        client
    };
    let client = Http2::connect_with(&world, h2::client::Builder::new().initial_window_size(1000));
    let answers: Vec<_> = (0..6)
        .map(|_| {
            let request = http2_request("GET", "/", &[("accept", "text/html")]);
            let answer = client.wait(client.sender.clone().send_request(request, true).unwrap().0).unwrap();
            assert_eq!(answer.status(), 503);
            answer
        })
        .collect();
    let first = slow();
    world.until_status("/slots/in_flight", 1);
    // who gives the pages up gives their room back
    drop((answers, client, first));
    world.until_status("/slots/in_flight", 0);
    world.until_status("/connections/open", 0);
    let _second = slow();
    assert_eq!(world.get("/up", &[]).text(), "hello");
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn a_composed_answer_that_nobody_takes_does_not_stay() {
    let site = Upstream::answering("hello");
    let yaml = format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}\nlimits: {{ body_timeout: 1s }}", site.url());
    let world = Secure::start(&yaml);
    let mut client = Http2::connect_with(&world, h2::client::Builder::new().initial_window_size(0));
    let answer = client.ask(http2_request("GET", "/", &[("accept", "text/html")]), &[]);
    assert!(answer.as_ref().is_err_and(|error| error.reason() == Some(h2::Reason::CANCEL)), "{answer:?}");
    let answer = client.ask(http2_request("HEAD", "/", &[("accept", "text/html")]), &[]).unwrap();
    assert_eq!(answer.status, 503, "the connection goes on");
}

#[test]
fn an_answer_that_is_still_coming_is_not_held_back() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |_, site| {
        let begun = site.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        held.wait();
        begun && site.write("4\r\nlast\r\n0\r\n\r\n")
    });
    let world = Secure::open(&site.url(), "");
    let client = Http2::connect(&world);
    let mut sender = client.sender.clone();
    let rest = client.wait(async move {
        let answer = sender.send_request(http2_request("GET", "/", &[]), true).unwrap().0.await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "first");
        body
    });
    door.open();
    let mut rest = rest;
    assert_eq!(client.wait(async move { rest.data().await.unwrap().unwrap() }), "last");
    // an answer of the site's that breaks off is not taken for a whole one
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        false
    });
    let world = Secure::open(&site.url(), "");
    assert!(Http2::connect(&world).ask(http2_request("GET", "/", &[]), &[]).is_err());
}

/// A gate with one slot, small buffers, and a client whose upload has begun and does not end; `answer` is what the site says to its head.
fn half_an_upload(answer: &'static str, then: impl FnOnce(&mut Http2, http::Response<h2::RecvStream>, h2::SendStream<Bytes>)) {
    let site = Upstream::raw(move |site| {
        while let Ok(seen) = site.head() {
            let is_whole = seen.target == "/next";
            site.write(if is_whole { ok("next") } else { answer.to_owned() });
            if !is_whole {
                return site.wait_for_end();
            }
        }
    });
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4KiB, response: 4KiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ body_timeout: 1s, idle_timeout: 1h }}",
        site.url()
    );
    let world = Secure::start(&yaml);
    let mut client = Http2::connect(&world);
    let mut sender = client.sender.clone();
    let (answer, mut stream) = sender.send_request(http2_request("POST", "/", &[]), false).unwrap();
    stream.send_data(Bytes::from(vec![b'x'; 20_000]), false).unwrap();
    let answer = client.wait(async { answer.await.unwrap() });
    then(&mut client, answer, stream);
    // by another, whose window is its own
    assert_eq!(Http2::connect(&world).get("/next", &[]).text(), "next", "the slot is free");
}

#[test]
fn an_upload_that_stands_still_while_the_site_answers_gives_its_slot_back() {
    half_an_upload("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", |client, answer, stream| {
        let mut body = answer.into_body();
        assert_eq!(client.wait(async { body.data().await.unwrap().unwrap() }), "first");
        // neither is dropped: the client is there, and says nothing
        std::mem::forget((body, stream));
    });
}

#[test]
fn an_upload_that_nobody_needs_any_more_gives_its_slot_back() {
    half_an_upload("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n", |client, answer, stream| {
        assert_eq!(client.wait(async { whole(answer).await }).unwrap().status, 413);
        std::mem::forget(stream);
    });
}

#[test]
fn an_answer_that_nobody_takes_gives_its_slot_back_though_the_upload_ends() {
    let large: &'static str = format!("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n{}", "x".repeat(8_000_000)).leak();
    half_an_upload(large, |_, answer, mut stream| {
        stream.send_data(Bytes::new(), true).unwrap();
        std::mem::forget((answer, stream));
    });
}
