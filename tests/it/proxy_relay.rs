//! Requests and answers go through as they are, in every form that HTTP/1 has for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use crate::support::{Door, Seen, Upstream, World, ok, pattern, request};

fn chunked(pieces: &[&[u8]], trailers: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n");
    bytes.extend_from_slice(trailers.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[test]
fn an_upload_goes_on_while_its_answer_waits_for_the_client() {
    // more than fits into all sockets on the way
    const LARGE: usize = 48 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let site = std::thread::spawn(move || {
        let (mut writing, _) = listener.accept().unwrap();
        let mut reading = BufReader::new(writing.try_clone().unwrap());
        // what comes before the request has nothing to do with it, and would close the connection
        while reading.by_ref().lines().next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let answering = std::thread::spawn(move || {
            writing.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).unwrap();
            writing.write_all(&vec![b'a'; LARGE]).unwrap();
        });
        let taken = std::io::copy(&mut reading.take(LARGE as u64), &mut std::io::sink()).unwrap();
        answering.join().unwrap();
        taken
    });
    let upstream = format!("upstream: {{ servers: [{url}], buffer: {{ request: 64KiB, response: 64KiB }} }}");
    let world = World::start(&format!("{upstream}\nadmission: {{ mode: open }}"));
    let mut client = world.client();
    // one that reads nothing before all is sent, as many programs do
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes());
    client.send(vec![b'u'; LARGE]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    assert_eq!(site.join().unwrap(), LARGE as u64);
}

#[test]
fn a_body_of_nothing_has_its_length_told() {
    let site = Upstream::answering("stored");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    let bodies = [(&[][..], &b""[..]), (&["Content-Length: 0"], b""), (&["Transfer-Encoding: chunked"], b"0\r\n\r\n")];
    for method in ["POST", "PUT", "PATCH"] {
        for (headers, body) in bodies {
            client.send(request(method, "/", headers));
            client.send(body);
            assert_eq!(client.answer().text(), "stored", "{method} {headers:?}");
            let seen = site.seen().pop().unwrap();
            assert_eq!((seen.all("content-length"), seen.header("transfer-encoding")), (vec!["0"], None), "{method} {headers:?}");
        }
    }
    for method in ["GET", "DELETE"] {
        client.send(request(method, "/", &[]));
        assert_eq!(client.answer().text(), "stored");
        assert_eq!(site.seen().pop().unwrap().header("content-length"), None, "{method}");
    }
}

#[test]
fn many_requests_behind_each_other_are_all_answered() {
    // more than a task may do at a time before it has to yield to others
    const MANY: usize = 400;
    let site = Upstream::start(|seen: &Seen, site| site.write(ok(&seen.target)));
    let world = World::open(&site.url(), "session: { rate: 100000 }");
    let mut client = world.client();
    client.send((0..MANY).map(|number| request("GET", &format!("/{number}"), &[])).collect::<String>());
    for number in 0..MANY {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, format!("/{number}")));
    }
}

#[test]
fn a_get_goes_through_and_its_answer_comes_back() {
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 Fine\r\nContent-Type: text/x-odd; a=\"b c\"\r\nETag: W/\"1\"\r\nX-Empty:\r\nContent-Length: 6\r\n\r\n\0\x01\r\nhi")
    });
    let world = World::open(&site.url(), "");
    let answer = world.get("/a", &["Accept: text/html", "X-Odd:  a \t b ", "User-Agent: t"]);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"\0\x01\r\nhi".as_slice()));
    assert_eq!(answer.header("content-type"), Some("text/x-odd; a=\"b c\""));
    assert_eq!(answer.header("etag"), Some("W/\"1\""));
    assert_eq!(answer.header("x-empty"), Some(""));
    assert!(answer.pass().starts_with("Cookie: tidegate_pass=v1."));
    let seen = &site.requests(1)[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.len()), ("GET", "/a", 0));
    assert!(seen.raw.starts_with("GET /a HTTP/1.1\r\n"));
    assert_eq!((seen.header("host"), seen.header("x-odd"), seen.header("user-agent")), (Some("test"), Some("a \t b"), Some("t")));
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (None, None));
}

#[test]
fn a_body_goes_through_with_its_length() {
    let site = Upstream::answering("done");
    let world = World::open(&site.url(), "");
    let body = pattern(10_000);
    let mut client = world.client();
    client.send(request("POST", "/form", &["Content-Length: 10000", "Content-Type: application/x-thing"]));
    client.send(&body);
    assert_eq!(client.answer().text(), "done");
    let seen = &site.requests(1)[0];
    assert_eq!((seen.method.as_str(), seen.header("content-length"), seen.header("transfer-encoding")), ("POST", Some("10000"), None));
    assert!(seen.body == body);
}

#[test]
fn an_empty_post_says_so() {
    let site = Upstream::answering("done");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("POST", "/", &["Content-Length: 0"]));
    assert_eq!(client.answer().status, 200);
    assert_eq!(site.requests(1)[0].header("content-length"), Some("0"));
}

#[test]
fn a_chunked_body_goes_through_under_any_method() {
    let site = Upstream::answering("done");
    let world = World::open(&site.url(), "");
    for method in ["POST", "PUT", "DELETE", "PATCH", "GET", "REPORT"] {
        let mut client = world.client();
        client.send(request(method, "/", &["Transfer-Encoding: chunked"]));
        client.send(chunked(&[b"one ", b"two ", b"three"], ""));
        assert_eq!(client.answer().status, 200, "{method}");
    }
    for seen in site.requests(6) {
        assert_eq!(String::from_utf8_lossy(&seen.body), "one two three", "{}", seen.raw);
    }
}

#[test]
fn large_bodies_go_through_intact_both_ways() {
    let site = Upstream::start(|seen, site| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len());
        site.write(head) && site.write(&seen.body)
    });
    let world = World::open(&site.url(), "");
    let body = Arc::new(pattern(5 << 20));
    let mut client = world.client();
    client.send(request("POST", "/", &[&format!("Content-Length: {}", body.len())]));
    client.send(&*body);
    assert!(client.answer().body == *body, "with a length");
    client.send(request("POST", "/", &["Transfer-Encoding: chunked"]));
    client.send(chunked(&body.chunks(70_001).collect::<Vec<_>>(), ""));
    assert!(client.answer().body == *body, "in chunks");
    assert_eq!(site.requests(2)[0].header("content-length"), Some("5242880"));
}

#[test]
fn connections_to_the_site_are_used_again() {
    let site = Upstream::answering("hello");
    let world = World::start(&format!("upstream: {{ servers: [{}], max_in_flight: 1 }}\nadmission: {{ mode: open }}", site.url()));
    let mut kept = world.client();
    for _ in 0..5 {
        assert_eq!(kept.get("/", &[]).status, 200);
        assert_eq!(world.get("/", &[]).status, 200);
    }
    assert_eq!(site.seen().len(), 10);
    assert_eq!(site.accepted(), 1);
}

#[test]
fn an_answer_to_head_keeps_the_length_and_has_no_body() {
    let site = Upstream::start(|seen, site| match seen.method.as_str() {
        "HEAD" => site.write("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        _ => site.write(ok("next")),
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("HEAD", "/", &[]));
    let answer = client.answer_to_head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    assert_eq!(client.get("/", &[]).text(), "next", "what follows is the next answer");
    assert_eq!(site.requests(2)[0].method, "HEAD");
    assert_eq!(site.accepted(), 1, "the connection to the site is in step, too");
}

#[test]
fn answers_without_a_body_have_none_whatever_they_say() {
    let site = Upstream::start(|seen, site| match seen.target.as_str() {
        "/204" => site.write("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
        "/304" => site.write("HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\nETag: \"x\"\r\n\r\n"),
        _ => site.write(ok("next")),
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    let answer = client.get("/204", &[]);
    assert_eq!((answer.status, answer.header("x-a"), answer.header("transfer-encoding")), (204, Some("b"), None));
    assert_eq!(client.get("/", &[]).text(), "next");
    let answer = client.get("/304", &["If-None-Match: \"x\""]);
    assert_eq!((answer.status, answer.header("etag")), (304, Some("\"x\"")));
    assert_eq!(client.get("/", &[]).text(), "next");
    assert_eq!(site.accepted(), 1);
    assert_eq!(site.seen()[2].header("if-none-match"), Some("\"x\""));
}

#[test]
fn interim_answers_of_the_site_are_skipped() {
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 100 Continue\r\n\r\n")
            && site.write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            && site.write(ok("final"))
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for _ in 0..2 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.status, answer.text().as_str(), answer.interim.as_slice()), (200, "final", [].as_slice()));
        assert_eq!(answer.header("link"), None);
    }
}

#[test]
fn a_chunked_answer_comes_as_it_is_made() {
    let door = Door::default();
    let opened = door.clone();
    let site = Upstream::start(move |_, site| {
        site.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nfirst\r\n");
        opened.wait();
        site.write("7\r\n second\r\n0\r\n\r\n")
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    let head = client.head().unwrap();
    assert_eq!((head.header("transfer-encoding"), head.header("content-length")), (Some("chunked"), None));
    assert_eq!(client.take(10).unwrap(), b"5\r\nfirst\r\n", "the first piece does not wait for the second");
    door.open();
    assert_eq!(client.take(17).unwrap(), b"7\r\n second\r\n0\r\n\r\n");
    assert_eq!(client.get("/", &[]).text(), "first second");
}

#[test]
fn trailers_go_both_ways() {
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            && site.write("4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n")
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("POST", "/", &["Transfer-Encoding: chunked", "Trailer: X-Check", "TE: trailers", "Connection: TE"]));
    client.send(chunked(&[b"sent"], "X-Check: 7\r\n"));
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.header("trailer")), ("body", Some("X-Sum")));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
    let seen = &site.requests(1)[0];
    assert_eq!((seen.body.as_slice(), seen.header("te"), seen.header("connection")), (b"sent".as_slice(), Some("trailers"), Some("te")));
    assert_eq!(seen.header("trailer"), Some("X-Check"));
    assert_eq!(seen.trailers, [("x-check".to_owned(), "7".to_owned())]);
    // who did not ask for trailers is sent none
    let answer = client.get("/", &[]);
    assert_eq!((answer.text().as_str(), answer.trailers.len()), ("body", 0));
}

#[test]
fn an_answer_of_a_1_0_site_ends_with_its_connection() {
    let body = pattern(300_000);
    let sent = body.clone();
    let site = Upstream::start(move |seen, site| {
        let version = if seen.target == "/1.1" { "1.1" } else { "1.0" };
        site.write(format!("HTTP/{version} 200 OK\r\nContent-Type: a/b\r\n\r\n"));
        site.write(&sent);
        false
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for path in ["/", "/1.1", "/"] {
        let answer = client.get(path, &[]);
        assert!(answer.raw.starts_with("HTTP/1.1 200"), "{}", answer.raw);
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "the client's connection stays");
        assert!(answer.body == body);
    }
    assert_eq!(site.accepted(), 3);
}

#[test]
fn a_1_0_site_that_keeps_alive_is_not_relied_on() {
    let site = Upstream::start(|_, site| site.write("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"));
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for _ in 0..3 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("hi", None));
    }
    assert_eq!(site.accepted(), 3, "a connection each");
}

#[test]
fn nobody_goes_over_a_connection_by_which_the_site_knows_a_visitor() {
    for (asked, answered) in [
        ("Authorization: NTLM TlRMTVNTUAAD", "X-None: 1"),
        ("Authorization: Negotiate YII", "X-None: 1"),
        ("X-None: 1", "Persistent-Auth: true"),
        ("X-None: 1", "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM"),
    ] {
        let site = Upstream::start(move |_, site| site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{answered}\r\n\r\nhi")));
        let world = World::open(&site.url(), "");
        for headers in [&[asked][..], &[]] {
            assert_eq!(world.get("/", headers).text(), "hi");
        }
        assert_eq!(site.accepted(), 2, "{asked}, {answered}");
    }
}

#[test]
fn what_a_site_sends_beyond_its_answer_reaches_nobody() {
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).text(), "hi");
    }
    assert_eq!(site.accepted(), 3);
}

#[test]
fn an_answer_in_a_coding_that_nobody_asked_for_is_none() {
    for coding in ["gzip", "gzip, chunked"] {
        let site = Upstream::start(move |_, site| {
            site.write(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"))
        });
        let world = World::open(&site.url(), "");
        let answer = world.get("/", &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_protocol_error")), "{coding}");
    }
}

#[test]
fn heads_of_many_lines_go_through() {
    let lines = "X-Line: x\r\n".repeat(200);
    let site = Upstream::start(move |_, site| site.write(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nhi")));
    let world = World::open(&site.url(), "");
    assert_eq!(world.get("/", &[]).all("x-line").len(), 200);
}

#[test]
fn the_body_is_asked_for_only_when_it_is_wanted() {
    let site = Upstream::answering("stored");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("PUT", "/", &["Content-Length: 4", "Expect: 100-continue"]));
    assert_eq!(client.head().unwrap().status, 100);
    client.send("body");
    assert_eq!(client.answer().text(), "stored");
    let seen = &site.requests(1)[0];
    assert_eq!((seen.body.as_slice(), seen.header("expect")), (b"body".as_slice(), None));
}

#[test]
fn who_waits_is_not_asked_for_a_body() {
    let site = Upstream::answering("");
    let world = World::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", site.url()));
    let mut client = world.client();
    client.send(request("PUT", "/", &["Content-Length: 4", "Expect: 100-continue"]));
    let answer = client.answer();
    assert_eq!((answer.status, answer.interim.as_slice()), (503, [].as_slice()));
    // the body can still come or not: nobody may take it for a request
    client.try_send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n").ok();
    let after = client.try_answer("GET");
    assert!(!matches!(&after, Ok(answer) if answer.status == 200), "{after:?}");
    assert_eq!(site.accepted(), 0);
}

#[test]
fn a_1_0_client_need_not_name_a_host() {
    let site = Upstream::start(|seen, site| match seen.target.as_str() {
        "/chunks" => site.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        _ => site.write(ok("hello")),
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send("GET /bare HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    client.assert_ends();
    let mut client = world.client();
    client.send("GET /named HTTP/1.0\r\nHost: old.example\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().text(), "hello");
    client.send("GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("abc", None), "1.0 has no chunks");
    let seen = site.requests(3);
    assert!(seen.iter().all(|seen| seen.raw.contains(" HTTP/1.1\r\n")));
    assert_eq!(seen[0].all("host"), [site.url().trim_start_matches("http://")], "the site, spoken to in 1.1, must be named");
    assert_eq!(seen[1].all("host"), ["old.example"]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Upstream::start(|seen, site| site.write(ok(&format!("{} {}", seen.target, seen.body.len()))));
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    let mut bytes = request("GET", "/1", &[]);
    bytes += &request("POST", "/2", &["Content-Length: 5"]);
    bytes += "12345";
    bytes += &request("GET", "/.tidegate/healthz", &[]);
    bytes += &request("GET", "/3", &[]);
    client.send(bytes);
    assert_eq!(client.answer().text(), "/1 0");
    assert_eq!(client.answer().text(), "/2 5");
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().text(), "/3 0");
    assert_eq!(site.seen().iter().map(|seen| seen.target.clone()).collect::<Vec<_>>(), ["/1", "/2", "/3"]);
}

#[test]
fn the_target_reaches_the_site_as_it_was_written() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    let targets = [
        "/",
        "/a%2fb%2F%2e%2e/%C3%A4/c",
        "//double///slash/",
        "/../up/./here",
        "/q?a=1&a=2&b=%20+%2B&c[]=x|y&d",
        "/?",
        "/semi;v=1,2/@:!$&'()*+=~_-.",
        "/q?redirect=http://elsewhere.example/?x=y",
    ];
    let mut client = world.client();
    for target in targets {
        assert_eq!(client.get(target, &[]).status, 200, "{target}");
    }
    assert_eq!(site.seen().iter().map(|seen| seen.target.clone()).collect::<Vec<_>>(), targets);
}

#[test]
fn an_absolute_target_is_made_a_path() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for target in ["http://test/a?b=c", "http://TEST:80/a?b=c", "http://test"] {
        assert_eq!(client.get(target, &[]).status, 200, "{target}");
    }
    client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let targets: Vec<_> = site.requests(4).into_iter().map(|seen| (seen.target.clone(), seen.all("host").concat())).collect();
    let test = |target: &str| (target.to_owned(), "test".to_owned());
    assert_eq!(targets, [test("/a?b=c"), test("/a?b=c"), test("/"), test("*")]);
}

#[test]
fn a_status_and_a_reason_of_the_sites_own_go_through() {
    let site = Upstream::start(|seen, site| site.write(format!("HTTP/1.1 {} Odd\r\nContent-Length: 1\r\n\r\nx", &seen.target[1..])));
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for status in [201, 206, 301, 401, 404, 418, 429, 500, 503, 599] {
        let answer = client.get(&format!("/{status}"), &[]);
        assert_eq!((answer.status, answer.text().as_str()), (status, "x"));
        assert_eq!(answer.header("proxy-status"), None, "the site has said it, not the gate");
    }
}

#[test]
fn a_body_that_the_site_does_not_wait_for_harms_no_one() {
    // answers a request whose body is still to come, as sites do that refuse an upload
    let site = Upstream::raw(|site| {
        if let Ok(seen) = site.head() {
            site.note(&seen);
            site.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            site.wait_for_end();
        }
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("POST", "/", &["Content-Length: 8388608"]));
    let sender = std::thread::spawn({
        let mut client = client.twin();
        // the gate may stop reading at any point
        move || client.try_send(vec![b'x'; 8 << 20]).is_ok()
    });
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    drop(client);
    drop(sender.join());
    assert_eq!(site.seen().len(), 1);
}
