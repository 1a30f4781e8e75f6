//! HTTP/2 to the site: what is shared and what is not, what is said in which way, and what becomes of requests when streams and connections
//! end.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName};
use rustls::ServerConfig;

use crate::support::{
    Arrived, Authority, Client, DATA, Doing, END_HEADERS, GOAWAY, HEADERS, Hatch, Http2, Http2Site, RESET, Scratch, Secure, Signed,
    Upstream, World, assert_failed, frame, http2_request, request, send_all, until, whole,
};

/// One authority that the gate trusts, in `ca.pem`, and a site that it has signed.
struct Setting {
    scratch: Scratch,
    signed: Signed,
}

impl Setting {
    fn new() -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new());
        scratch.write("ca.pem", &authority.pem());
        Self { scratch, signed: authority.sign(&["127.0.0.1"]) }
    }

    fn tls(&self) -> Arc<ServerConfig> {
        self.signed.server_http2()
    }

    fn yaml(&self, url: &str, upstream: &str, more: &str) -> String {
        let ca = self.scratch.path().join("ca.pem");
        format!("upstream: {{ servers: [{url}], tls: {{ ca: {} }}, {upstream} }}\nadmission: {{ mode: open }}\n{more}\n", ca.display())
    }

    /// A gate in front of a site that lets everyone in; `upstream` is further YAML of that section.
    #[track_caller]
    fn gate(&self, url: &str, upstream: &str) -> World {
        World::start(&self.yaml(url, upstream, "session: { in_flight: 100 }"))
    }

    /// The same, to which visitors come in HTTP/2.
    #[track_caller]
    fn secure(&self, url: &str, upstream: &str) -> Secure {
        Secure::start(&self.yaml(url, upstream, "session: { in_flight: 100 }"))
    }

    /// A site, and a gate in front of it.
    #[track_caller]
    fn site(&self, upstream: &str, handler: impl Fn(Arrived) -> Doing + Send + Sync + 'static) -> (Http2Site, World) {
        let site = Http2Site::start(self.tls(), handler);
        let world = self.gate(&site.url(), upstream);
        (site, world)
    }
}

/// A handler that answers each request with what it says of it.
fn telling(tell: impl Fn(&Arrived) -> String + Send + Sync + 'static) -> impl Fn(Arrived) -> Doing + Send + Sync + 'static {
    move |mut arrived| {
        let body = tell(&arrived);
        Box::pin(async move {
            arrived.read().await;
            arrived.answer(200, body);
        })
    }
}

/// Waits until what was sent on a stream has left.
async fn until_sent(stream: &mut h2::SendStream<Bytes>) {
    stream.reserve_capacity(1);
    poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Clients that have each asked for a path of their own, `/0` and so on.
fn asking(world: &World, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|number| {
        let mut client = world.client();
        client.send(request("GET", &format!("/{number}"), &[]));
        client
    });
    clients.collect()
}

// what is shared

#[test]
fn requests_share_a_connection_and_come_in_their_own_form() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let (site, world) = setting.site("max_in_flight: 8", move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            let path = arrived.path().to_owned();
            arrived.answer(200, path);
        })
    });
    let mut clients = asking(&world, 8);
    let seen = site.requests(8);
    hatch.open();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().text(), format!("/{number}"));
    }
    assert_eq!(site.accepted(), 1, "none is made while one is being made");
    assert!(seen.iter().all(|asked| (asked.scheme.as_str(), asked.authority.as_str()) == ("https", "test")));
    assert_eq!(world.status().pointer("/upstream/0/protocol").unwrap(), "HTTP/2");
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.status().pointer("/upstream/0/idle").unwrap(), 1);
    assert_eq!(world.outcomes("ok"), 8);
}

#[test]
fn the_slots_hold_over_all_workers_and_each_has_one_connection() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let site = Http2Site::start(setting.tls(), move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            // others come and go meanwhile
            tokio::task::yield_now().await;
            arrived.answer(200, "hello");
        })
    });
    let more = "listen: { workers: 4 }\nsession: { in_flight: 100 }";
    let world = World::start(&setting.yaml(&site.url(), "max_in_flight: 3, queue: { deadline: 30s }", more));
    let mut clients = asking(&world, 24);
    site.requests(3);
    world.until_queued(21);
    hatch.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "hello");
    }
    assert_eq!((site.most_at_once(), site.seen().len()), (3, 24));
    assert!(site.accepted() <= 4, "{} connections", site.accepted());
}

#[test]
fn more_requests_than_a_server_takes_streams_have_another_connection() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let limited = |builder: &mut h2::server::Builder| {
        builder.max_concurrent_streams(2);
    };
    let site = Http2Site::with(setting.tls(), limited, move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            arrived.answer(200, "hello");
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 6");
    let mut clients = asking(&world, 6);
    let mut on: Vec<usize> = site.requests(6).iter().map(|asked| asked.connection).collect();
    on.sort_unstable();
    assert_eq!(on, [0, 0, 1, 1, 2, 2]);
    hatch.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    // they stay as long as there is room for them
    world.until_status("/upstream/0/idle", 3);
    assert_eq!(world.get("/", &[]).status, 200);
    assert_eq!(site.accepted(), 3);
}

/// A site that takes one request on each connection, and answers when the hatch is open.
fn one_by_one(setting: &Setting, hatch: &Hatch) -> Http2Site {
    let opens = hatch.clone();
    let limited = |builder: &mut h2::server::Builder| {
        builder.max_concurrent_streams(1);
    };
    Http2Site::with(setting.tls(), limited, move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            arrived.answer(200, "hello");
        })
    })
}

#[test]
fn connections_beyond_the_slots_are_closed_but_one() {
    for idle_before in [false, true] {
        let setting = Setting::new();
        let hatch = Hatch::new();
        let site = one_by_one(&setting, &hatch);
        let world = setting.gate(&site.url(), "max_in_flight: 4");
        let mut clients = asking(&world, 4);
        site.requests(4);
        let mut answered = || {
            hatch.open();
            for client in &mut clients {
                assert_eq!(client.answer().status, 200);
            }
        };
        if idle_before {
            answered();
            world.until_status("/upstream/0/idle", 4);
        }
        std::fs::write(world.file(), setting.yaml(&site.url(), "max_in_flight: 1", "")).unwrap();
        assert_eq!(world.admin_post("/reload", "application/json", "").status, 200);
        if !idle_before {
            answered();
        }
        site.until_open(1);
        assert_eq!(world.get("/", &[]).status, 200);
        assert_eq!(site.accepted(), 4);
    }
}

#[test]
fn an_idle_connection_of_http1_makes_room_for_a_request_over_http2() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            if raw.protocol() == b"http/1.1" {
                raw.read_head().await;
                raw.send(crate::support::ok("no websocket here")).await;
                return raw.wait_for_end().await;
            }
            raw.settle(&[]).await;
            let first = raw.next(HEADERS).await.unwrap();
            raw.answer(first.stream).await;
            // the second is not answered
            raw.wait_for_end().await;
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 1");
    assert_eq!(world.get("/", &[]).status, 200);
    let ask = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    assert_eq!(world.get("/socket", &ask).text(), "no websocket here");
    world.until_status("/upstream/0/idle", 2);
    let _held = asking(&world, 1);
    world.until_status("/upstream/0/in_flight", 1);
    assert_eq!(world.status()["upstream"][0]["idle"], 0, "the only worker is busy");
    site.until_open(1);
}

#[test]
fn an_unused_connection_is_closed_in_time() {
    let setting = Setting::new();
    let (site, world) = setting.site("timeouts: { idle: 1s }", telling(|_| "hello".to_owned()));
    assert_eq!(world.get("/", &[]).status, 200);
    site.until_open(0);
    assert_eq!(world.get("/", &[]).status, 200);
    assert_eq!(site.accepted(), 2);
}

#[test]
fn off_is_http1_and_so_is_a_server_that_offers_no_other() {
    let setting = Setting::new();
    let tls = setting.tls();
    let site = Upstream::start_tls(
        move || Arc::clone(&tls),
        |_, site| {
            let alpn = String::from_utf8_lossy(site.tls().alpn_protocol().unwrap_or_default()).into_owned();
            site.write(crate::support::ok(&alpn))
        },
    );
    let world = setting.gate(&site.url_tls(), "http2: off");
    assert_eq!(world.get("/", &[]).text(), "http/1.1");
    assert_eq!(world.status().pointer("/upstream/0/protocol").unwrap(), "HTTP/1.1");
    let tls = setting.signed.server();
    let site = Upstream::start_tls(move || Arc::clone(&tls), |_, site| site.write(crate::support::ok("hello")));
    let world = setting.gate(&site.url_tls(), "");
    assert!(world.status().pointer("/upstream/0/protocol").unwrap().is_null());
    for _ in 0..3 {
        assert_eq!(world.get("/", &[]).text(), "hello");
    }
    assert_eq!(world.status().pointer("/upstream/0/protocol").unwrap(), "HTTP/1.1");
    assert_eq!(site.accepted(), 1);
}

#[test]
fn switched_off_at_a_reload_what_is_under_way_goes_on() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let (site, world) = setting.site("max_in_flight: 4", move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            arrived.answer(200, "hello");
        })
    });
    let mut clients = asking(&world, 2);
    site.requests(2);
    std::fs::write(world.file(), setting.yaml(&site.url(), "max_in_flight: 4, http2: off", "")).unwrap();
    assert_eq!(world.admin_post("/reload", "application/json", "").status, 200);
    hatch.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "hello");
    }
    site.until_open(0);
    assert_eq!(world.status().pointer("/upstream/0/protocol").unwrap(), "HTTP/1.1");
}

#[test]
fn a_websocket_has_a_connection_of_http1_to_itself() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            if raw.protocol() == b"http/1.1" {
                raw.read_head().await;
                let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
                raw.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{accept}\r\n\r\n"))
                    .await;
                return raw.echo().await;
            }
            raw.settle(&[]).await;
            while let Some(request) = raw.next(HEADERS).await {
                raw.answer(request.stream).await;
            }
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 2");
    assert_eq!(world.get("/", &[]).status, 200);
    let ask = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    let mut client = world.client();
    let answer = client.get("/socket", &ask);
    assert_eq!(answer.status, 101, "{}", answer.raw);
    client.send("hello");
    assert_eq!(client.take(5).unwrap(), b"hello");
    // the others go on as before
    assert_eq!(world.get("/", &[]).status, 200);
    assert_eq!(site.accepted(), 2);
}

#[test]
fn a_server_that_failed_is_taken_back() {
    let setting = Setting::new();
    let good = Http2Site::start(setting.tls(), telling(|_| "good".to_owned()));
    let tls = Arc::new(Mutex::new(Authority::new().sign(&["127.0.0.1"]).server_http2()));
    let by = Arc::clone(&tls);
    let bad = Http2Site::by(move || Arc::clone(&by.lock().unwrap()), |_| {}, telling(|_| "back".to_owned()));
    let world = setting.gate(&format!("{}, {}", good.url(), bad.url()), "max_in_flight: 4");
    until("the ejection", || {
        world.get("/", &[]);
        (world.status().pointer("/upstream/1/up").unwrap() == false).then_some(())
    });
    *tls.lock().unwrap() = setting.tls();
    until("the way back", || (world.get("/", &[]).text() == "back").then_some(()));
}

// what is said

#[test]
fn headers_are_those_of_http2_and_whole() {
    let setting = Setting::new();
    let (site, world) = setting.site("", telling(|_| "hello".to_owned()));
    let lines = [
        "Connection: keep-alive, X-Hop, te",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers, gzip",
        "Cookie: a=b; c=d",
        "X-Twice: 1",
        "X-Twice: 2",
        "Accept: text/html",
    ];
    assert_eq!(world.get("/a%20b?c=d", &lines).text(), "hello");
    let asked = &site.seen()[0];
    assert_eq!((asked.method.as_str(), asked.scheme.as_str(), asked.authority.as_str()), ("GET", "https", "test"));
    assert_eq!(asked.path, "/a%20b?c=d");
    assert_eq!((asked.all("cookie"), asked.all("te"), asked.all("x-twice")), (vec!["a=b; c=d"], vec!["trailers"], vec!["1", "2"]));
    assert_eq!((asked.all("x-forwarded-proto"), asked.all("x-forwarded-host")), (vec!["http"], vec!["test"]));
    for gone in ["host", "connection", "x-hop", "keep-alive", "transfer-encoding", "upgrade", "content-length"] {
        assert!(!asked.headers.contains_key(gone), "{gone}");
    }
    let mut client = world.client();
    client.send("OPTIONS * HTTP/1.1\r\nHost: test:81\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let asked = &site.seen()[1];
    assert_eq!((asked.method.as_str(), asked.authority.as_str(), asked.path.as_str()), ("OPTIONS", "test:81", "*"));
}

#[test]
fn a_visitor_of_http2_is_one_to_the_site_too() {
    let setting = Setting::new();
    let site = Http2Site::start(setting.tls(), |mut arrived| {
        Box::pin(async move {
            let (body, trailers) = arrived.read().await;
            let mut stream = arrived.begin(200, &[("x-kind", "grpc")], false);
            stream.send_data(body.into(), false).unwrap();
            let mut sent = HeaderMap::new();
            sent.insert("x-sum", trailers.map_or(http::HeaderValue::from_static("none"), |trailers| trailers["x-count"].clone()));
            stream.send_trailers(sent).unwrap();
        })
    });
    let world = setting.secure(&site.url(), "");
    let mut client = Http2::connect(&world);
    let request = http2_request("POST", "/", &[("te", "trailers"), ("cookie", "a=b"), ("cookie", "c=d")]);
    let sender = client.sender.clone();
    let answer = client.wait(async move {
        let (answer, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-count", "5".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        whole(answer.await.unwrap()).await.unwrap()
    });
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-kind")), (200, "hello", Some("grpc")));
    assert_eq!(answer.trailers.unwrap()["x-sum"], "5");
    assert_eq!(site.seen()[0].all("cookie"), ["a=b; c=d"]);
    assert_eq!(client.get("/", &[]).trailers.unwrap()["x-sum"], "none");
}

#[test]
fn bodies_go_both_ways_whole() {
    let setting = Setting::new();
    let (site, world) = setting.site("buffer: { request: 1MiB, response: 1MiB }", |mut arrived| {
        Box::pin(async move {
            let (body, _) = arrived.read().await;
            let length = body.len().to_string();
            let mut stream = arrived.begin(200, &[("content-length", &length)], body.is_empty());
            send_all(&mut stream, body.into()).await;
        })
    });
    // none; in one piece; read ahead; and streamed
    for length in [0, 10, 300 << 10, 5 << 20] {
        let body: Vec<u8> =
            (0..length).map(|at: u32| at.to_le_bytes().into_iter().fold(7_u8, |mixed, byte| mixed.wrapping_mul(31) ^ byte)).collect();
        let mut client = world.client();
        let mut twin = client.twin();
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        let sent = body.clone();
        let sending = std::thread::spawn(move || {
            twin.send(head);
            twin.send(sent);
        });
        let answer = client.answer();
        sending.join().unwrap();
        assert!(answer.status == 200 && answer.body == body, "{}", answer.raw);
        assert_eq!(answer.header("content-length"), Some(length.to_string().as_str()));
        assert_eq!(site.seen().last().unwrap().all("content-length"), [length.to_string()]);
    }
    // of no length that is told; and where a body is not expected
    for method in ["POST", "GET"] {
        let mut client = world.client();
        let lines = "Transfer-Encoding: chunked\r\nTrailer: x-sum";
        client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n"));
        assert_eq!(client.answer().text(), "hello world");
        assert_eq!(site.seen().last().unwrap().all("transfer-encoding").len(), 0);
    }
    assert_eq!(site.accepted(), 1);
}

#[test]
fn answers_are_framed_as_their_visitor_needs_it() {
    let setting = Setting::new();
    let (_site, world) = setting.site("", |mut arrived| {
        Box::pin(async move {
            match arrived.path() {
                "/unsized" => {
                    let mut stream = arrived.begin(200, &[], false);
                    stream.send_data(Bytes::from_static(b"hel"), false).unwrap();
                    stream.send_data(Bytes::from_static(b"lo"), true).unwrap();
                }
                "/trailers" => {
                    let mut stream = arrived.begin(200, &[("trailer", "x-sum")], false);
                    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-sum", "7".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                }
                "/204" => drop(arrived.begin(204, &[], true)),
                "/304" => drop(arrived.begin(304, &[("content-length", "5"), ("etag", "\"a\"")], true)),
                // the end of an answer without a body may come by itself
                "/204-late" => drop(arrived.begin(204, &[], false).send_data(Bytes::new(), true)),
                "/early" => {
                    let hints = http::Response::builder().status(103).header("link", "</a.css>; rel=preload").body(()).unwrap();
                    arrived.respond.send_informational(hints).unwrap();
                    arrived.answer(200, "hello");
                }
                _ => drop(arrived.begin(200, &[("content-length", "5")], true)),
            }
        })
    });
    let mut client = world.client();
    let answer = client.get("/unsized", &[]);
    assert_eq!(answer.text(), "hello");
    assert!(answer.header("transfer-encoding") == Some("chunked") || answer.header("content-length") == Some("5"), "{}", answer.raw);
    let answer = client.get("/trailers", &["TE: trailers"]);
    assert_eq!((answer.text().as_str(), answer.trailers), ("hello", vec![("x-sum".to_owned(), "7".to_owned())]));
    client.send(request("HEAD", "/", &[]));
    let answer = client.answer_to_head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    let answer = client.get("/304", &[]);
    assert_eq!((answer.status, answer.header("etag")), (304, Some("\"a\"")));
    for path in ["/204", "/204-late"] {
        let answer = client.get(path, &[]);
        assert_eq!((answer.status, answer.header("transfer-encoding"), answer.header("content-length")), (204, None, None), "{path}");
    }
    assert_eq!(client.get("/early", &[]).text(), "hello");
    // to who knows no chunks, the end of the connection is the end
    let mut old = world.client();
    old.send("GET /unsized HTTP/1.0\r\nHost: test\r\n\r\n");
    let answer = old.answer();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("hello", None));
}

#[test]
fn an_answer_without_a_body_has_no_length_and_no_body_over_http2_either() {
    let setting = Setting::new();
    let site = Http2Site::start(setting.tls(), |mut arrived| {
        Box::pin(async move {
            let status = arrived.path().trim_start_matches('/').parse().unwrap();
            let mut stream = arrived.begin(status, &[("etag", "\"a\"")], false);
            if arrived.head.all("x-more").is_empty() {
                // the end may come by itself, and need not be waited for
                arrived.wait_for_reset_of(&mut stream).await;
            } else {
                stream.send_data(Bytes::from_static(b"more"), true).unwrap();
            }
        })
    });
    let world = setting.secure(&site.url(), "");
    let mut client = Http2::connect(&world);
    for (method, status) in [("GET", 204), ("GET", 304), ("HEAD", 200)] {
        for more in [&[][..], &[("x-more", "1")]] {
            let mut sender = client.sender.clone();
            let (answer, _) = sender.send_request(http2_request(method, &format!("/{status}"), more), true).unwrap();
            let answer = client.wait(answer).unwrap();
            assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (status, None), "{method}");
            let answer = client.wait(async { whole(answer).await }).unwrap();
            assert_eq!((answer.header("etag"), answer.body.len()), (Some("\"a\""), 0), "{method} {status}");
        }
    }
    world.until_status("/slots/in_flight", 0);
    assert_eq!((world.outcomes("ok"), client.get("/204", &[]).status), (6, 204));
    assert_eq!(site.accepted(), 1);
}

#[test]
fn what_is_no_name_in_http1_is_not_told() {
    let setting = Setting::new();
    let (_site, world) = setting.site("", |mut arrived| {
        Box::pin(async move {
            let mut odd = HeaderMap::new();
            odd.insert(HeaderName::from_lowercase(b"x\"y").unwrap(), "1".parse().unwrap());
            odd.insert("x-sum", "7".parse().unwrap());
            let mut answer = http::Response::builder().header("trailer", "x-sum, x\"y").body(()).unwrap();
            answer.headers_mut().extend(odd.clone());
            let mut stream = arrived.respond.send_response(answer, false).unwrap();
            stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
            stream.send_trailers(odd).unwrap();
        })
    });
    let answer = world.get("/", &["TE: trailers"]);
    assert_eq!((answer.text().as_str(), answer.header("x-sum")), ("hello", Some("7")));
    assert!(answer.headers.iter().chain(&answer.trailers).all(|(name, _)| !name.contains('"')), "{} {:?}", answer.raw, answer.trailers);
}

#[test]
fn an_answer_of_another_length_than_it_tells_is_cut() {
    let setting = Setting::new();
    let (_site, world) = setting.site("", |mut arrived| {
        Box::pin(async move {
            let mut stream = arrived.begin(200, &[("content-length", "10")], false);
            stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
        })
    });
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    match client.try_answer("GET") {
        Ok(answer) => assert_failed(&answer, 502, "http_protocol_error"),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}"),
    }
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.outcomes("error"), 1);
}

// streams that end

#[test]
fn a_request_that_takes_too_long_takes_its_stream_with_it_alone() {
    let setting = Setting::new();
    let upstream = "max_in_flight: 4, timeouts: { response: 500ms }, buffer: { request: 4KiB }";
    let (site, world) = setting.site(upstream, move |mut arrived| {
        Box::pin(async move {
            match arrived.path() {
                "/never" => arrived.wait_for_reset().await,
                "/half" => {
                    let mut stream = arrived.begin(200, &[], false);
                    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                    arrived.wait_for_reset_of(&mut stream).await;
                }
                _ => {
                    let (body, _) = arrived.read().await;
                    arrived.answer(200, body.len().to_string());
                }
            }
        })
    });
    // who uploads takes as long as they like
    let mut other = world.client();
    other.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 10000\r\n\r\n");
    other.send(vec![7; 5000]);
    site.requests(1);
    assert_failed(&world.get("/never", &[]), 504, "http_response_timeout");
    assert_eq!(site.resets(1), [Reason::CANCEL]);
    let mut half = world.client();
    half.send(request("GET", "/half", &[]));
    assert!(half.try_answer("GET").is_err());
    assert_eq!(site.resets(2), [Reason::CANCEL, Reason::CANCEL]);
    other.send(vec![7; 5000]);
    assert_eq!(other.answer().text(), "10000");
    world.until_status("/slots/in_flight", 0);
    assert_eq!((world.outcomes("timeout"), world.outcomes("ok"), site.accepted()), (2, 1, 1));
}

#[test]
fn a_visitor_who_leaves_takes_the_stream_along_and_not_the_connection() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let (site, world) = setting.site("max_in_flight: 2, buffer: { response: 64KiB }", move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            if arrived.path() == "/small" {
                return arrived.answer(200, "hello");
            }
            if arrived.path() == "/late" {
                opens.wait().await;
                return arrived.answer(200, "late");
            }
            let mut stream = arrived.begin(200, &[], false);
            send_all(&mut stream, vec![7; 8 << 20].into()).await;
            arrived.wait_for_reset_of(&mut stream).await;
        })
    });
    // what is left is more than is worth the slot
    let mut client = Client::connect_narrow(world.http);
    client.send(request("GET", "/large", &[]));
    client.head().unwrap();
    drop(client);
    assert_eq!(site.resets(1), [Reason::CANCEL]);
    world.until_status("/slots/in_flight", 0);
    // one whose answer has not begun holds its slot until then: the site's worker is busy
    let mut client = world.client();
    client.send(request("GET", "/late", &[]));
    site.requests(2);
    drop(client);
    assert_eq!(world.get("/small", &[]).text(), "hello");
    assert_eq!(world.status().pointer("/slots/in_flight").unwrap(), 1);
    hatch.open();
    world.until_status("/slots/in_flight", 0);
    assert_eq!((site.accepted(), site.resets(1).len()), (1, 1));
}

#[test]
fn a_visitor_who_takes_nothing_keeps_no_other_waiting() {
    let setting = Setting::new();
    let (site, world) = setting.site("max_in_flight: 4, buffer: { response: 64KiB }", |mut arrived| {
        Box::pin(async move {
            let length = if arrived.path() == "/large" { 64 << 20 } else { 1 << 20 };
            let mut stream = arrived.begin(200, &[], false);
            send_all(&mut stream, vec![7; length].into()).await;
        })
    });
    let idle: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect_narrow(world.http);
            client.send(request("GET", "/large", &[]));
            client
        })
        .collect();
    site.requests(3);
    for _ in 0..20 {
        assert_eq!(world.get("/", &[]).body.len(), 1 << 20);
    }
    assert_eq!(site.accepted(), 1);
    assert_eq!(world.status().pointer("/slots/in_flight").unwrap(), 3);
    drop(idle);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn an_upload_that_nobody_needs_any_more_ends_with_its_answer() {
    let setting = Setting::new();
    let (site, world) = setting.site("max_in_flight: 1, buffer: { request: 4KiB }", |mut arrived| {
        Box::pin(async move {
            if arrived.path() != "/upload" {
                return arrived.answer(200, "next");
            }
            let mut stream = arrived.begin(413, &[], false);
            stream.send_data(Bytes::from_static(b"too large"), true).unwrap();
            // what is left of it is not read, and keeps nobody waiting
            while let Some(Ok(_)) = arrived.body.data().await {}
        })
    });
    let mut client = world.client();
    client.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n");
    client.send(vec![7; 10_000]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.get("/", &[]).text(), "next");
    assert_eq!(site.accepted(), 1);
}

#[test]
fn an_upload_whose_visitor_leaves_is_reset() {
    let setting = Setting::new();
    let (site, world) = setting.site("max_in_flight: 2, buffer: { request: 4KiB }", |mut arrived| {
        Box::pin(async move {
            if arrived.path() == "/" {
                return arrived.answer(200, "hello");
            }
            arrived.wait_for_reset().await;
        })
    });
    let mut client = world.client();
    client.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n");
    client.send(vec![7; 10_000]);
    site.requests(1);
    client.reset();
    assert_eq!(site.resets(1), [Reason::CANCEL]);
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.get("/", &[]).text(), "hello");
    assert_eq!((world.outcomes("aborted"), world.outcomes("error"), site.accepted()), (1, 0, 1));
}

/// A site that resets one of its streams, counted from 1.
fn refusing(setting: &Setting, number: usize, reason: Reason) -> Http2Site {
    Http2Site::start(setting.tls(), move |mut arrived| {
        Box::pin(async move {
            if arrived.number() == number {
                return arrived.respond.send_reset(reason);
            }
            let (body, _) = arrived.read().await;
            arrived.answer(200, body);
        })
    })
}

#[test]
fn a_refused_stream_is_sent_again_whatever_it_carries() {
    let setting = Setting::new();
    let small = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello".to_owned();
    let chunked = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_owned();
    for request in [small, chunked] {
        let site = refusing(&setting, 1, Reason::REFUSED_STREAM);
        let world = setting.gate(&site.url(), "");
        let mut client = world.client();
        client.send(request);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{}", answer.raw);
        assert_eq!((site.seen().len(), world.outcomes("ok"), world.outcomes("error")), (2, 1, 0));
    }
}

/// What was read of it, and what was not: the stream is refused while the gate waits for room on it.
#[test]
fn a_refused_upload_is_sent_again_whole() {
    const PIECE: usize = 10_000;
    let setting = Setting::new();
    for pieces in [10, 20] {
        let size = pieces * PIECE;
        let known = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n{}", "a".repeat(size));
        let piece = format!("{PIECE:x}\r\n{}\r\n", "a".repeat(PIECE));
        let chunked = format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", piece.repeat(pieces));
        for request in [known, chunked] {
            let site = refusing(&setting, 1, Reason::REFUSED_STREAM);
            let world = setting.gate(&site.url(), "");
            let mut client = world.client();
            client.send(&request);
            let answer = client.answer();
            assert_eq!((answer.status, answer.body.len()), (200, size), "{}", &request[..80]);
        }
    }
}

#[test]
fn a_page_that_is_always_broken_costs_nobody_else_the_connection() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let (site, world) = setting.site("", move |mut arrived| {
        let opens = opens.clone();
        Box::pin(async move {
            if arrived.path() == "/slow" {
                opens.wait().await;
                return arrived.answer(200, "slow");
            }
            if arrived.path() == "/good" {
                return arrived.answer(200, "good");
            }
            // says ten bytes, and brings none
            drop(arrived.begin(200, &[("content-length", "10")], true));
        })
    });
    let mut slow = world.client();
    slow.send("POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    site.requests(1);
    let mut client = world.client();
    // more than the 1024 that h2 lets a server do wrong by itself
    for number in 0..1100 {
        assert_eq!(client.get("/broken", &[]).status, 502);
        // five in a row would have the server ejected, and then tried with one request at a time
        if number % 4 == 3 {
            assert_eq!(client.get("/good", &[]).status, 200);
        }
    }
    hatch.open();
    assert_eq!((slow.answer().status, site.accepted()), (200, 1));
}

#[test]
fn a_server_that_wants_http1_for_a_request_gets_it_so() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            if raw.protocol() == b"http/1.1" {
                loop {
                    raw.read_head().await;
                    raw.read(5).await;
                    raw.send(crate::support::ok("over 1.1")).await;
                }
            }
            raw.settle(&[]).await;
            while let Some(request) = raw.next(HEADERS).await {
                raw.send(frame(RESET, 0, request.stream, &13_u32.to_be_bytes())).await;
            }
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 2");
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "over 1.1"), "{}", answer.raw);
    assert_eq!((world.outcomes("ok"), world.outcomes("error"), site.accepted()), (1, 0, 2));
    world.until_status("/upstream/0/idle", 2);
}

#[test]
fn a_stream_that_is_reset_for_another_reason_is_a_bad_gateway() {
    let setting = Setting::new();
    for method in ["GET", "POST"] {
        let site = refusing(&setting, 2, Reason::INTERNAL_ERROR);
        let world = setting.gate(&site.url(), "");
        let mut client = world.client();
        // not even on a connection that was used before: it is not what has ended
        assert_eq!(client.get("/", &[]).status, 200);
        client.send(request(method, "/", &[]));
        assert_failed(&client.answer(), 502, "http_response_incomplete");
        assert_eq!((site.seen().len(), world.outcomes("error")), (2, 1));
        // the connection goes on
        assert_eq!(world.get("/", &[]).status, 200);
        assert_eq!(site.accepted(), 1);
    }
}

#[test]
fn an_answer_that_is_reset_is_cut() {
    let setting = Setting::new();
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let (site, world) = setting.site("", move |mut arrived| {
            Box::pin(async move {
                if arrived.path() == "/" {
                    return arrived.answer(200, "whole");
                }
                let mut stream = arrived.begin(200, &[], false);
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                // on its way before the end
                until_sent(&mut stream).await;
                stream.send_reset(reason);
            })
        });
        let mut client = world.client();
        client.send(request("GET", "/half", &[]));
        assert!(client.try_answer("GET").is_err(), "{reason:?}");
        world.until_status("/slots/in_flight", 0);
        assert_eq!(world.outcomes("error"), 1);
        assert_eq!(world.get("/", &[]).text(), "whole");
        assert_eq!(site.accepted(), 1);
    }
}

// connections that end

/// GOAWAY: the last stream that was seen, and why.
fn goaway(last: u32, reason: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat())
}

#[test]
fn what_a_server_has_not_seen_when_it_goes_is_sent_again() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            raw.settle(&[]).await;
            if raw.number == 0 {
                let first = raw.next(HEADERS).await.unwrap().stream;
                let second = raw.next(HEADERS).await.unwrap().stream;
                raw.send(goaway(first, 0)).await;
                assert!(second > first);
                raw.answer(first).await;
                return raw.wait_for_end().await;
            }
            while let Some(request) = raw.next(HEADERS).await {
                raw.answer(request.stream).await;
            }
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 2");
    let mut clients: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = world.client();
            client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!((site.accepted(), world.outcomes("ok"), world.outcomes("error")), (2, 2, 0));
    // the first is done with
    site.until_open(1);
    assert_eq!(world.get("/", &[]).status, 200);
    assert_eq!(site.accepted(), 2);
}

#[test]
fn what_is_turned_away_is_sent_again_and_again_but_not_for_ever() {
    let setting = Setting::new();
    for (going, status) in [(4, 200), (5, 502)] {
        let site = Http2Site::raw(setting.tls(), move |mut raw| {
            Box::pin(async move {
                raw.settle(&[]).await;
                let Some(request) = raw.next(HEADERS).await else { return };
                if raw.number < going {
                    raw.send(goaway(0, 0)).await;
                } else {
                    raw.answer(request.stream).await;
                }
                raw.wait_for_end().await;
            })
        });
        let world = setting.gate(&site.url(), "");
        let mut client = world.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((client.answer().status, site.accepted()), (status, 5));
    }
}

#[test]
fn what_a_server_has_seen_when_it_goes_is_not() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            raw.settle(&[]).await;
            let stream = raw.next(HEADERS).await.unwrap().stream;
            raw.send(goaway(stream, 2)).await;
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 2");
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_failed(&client.answer(), 502, "http_response_incomplete");
    assert_eq!((site.accepted(), world.outcomes("error")), (1, 1));
}

#[test]
fn a_server_that_says_goodbye_in_time_loses_nothing() {
    let setting = Setting::new();
    // each connection is for one request, as a server has it that restarts its workers
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            raw.settle(&[]).await;
            let Some(request) = raw.next(HEADERS).await else { return };
            raw.send(goaway(u32::MAX >> 1, 0)).await;
            raw.answer(request.stream).await;
            raw.send(goaway(request.stream, 0)).await;
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 2");
    let mut client = world.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(site.accepted(), 20);
}

#[test]
fn a_lost_connection_is_told_to_each_that_was_on_it() {
    let setting = Setting::new();
    let site = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            raw.settle(&[]).await;
            if raw.number > 0 {
                while let Some(request) = raw.next(HEADERS).await {
                    raw.answer(request.stream).await;
                }
                return;
            }
            // one is answered, one is half answered, and the others are not at all
            let mut streams = Vec::new();
            while streams.len() < 5 {
                streams.push(raw.next(HEADERS).await.unwrap().stream);
                if streams.len() == 1 {
                    raw.answer(streams[0]).await;
                }
            }
            raw.send(frame(HEADERS, END_HEADERS, streams[1], b"\x88")).await;
            raw.send(frame(DATA, 0, streams[1], b"half")).await;
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 8");
    assert_eq!(world.get("/", &[]).status, 200);
    let mut half = world.client();
    half.send(request("GET", "/half", &[]));
    world.until_status("/slots/in_flight", 1);
    let mut others: Vec<(&str, Client)> = ["GET", "POST", "PUT"].map(|method| (method, world.client())).into();
    for (method, client) in &mut others {
        client.send(request(method, "/", &[]));
    }
    assert!(half.try_answer("GET").is_err());
    for (method, client) in &mut others {
        let answer = client.answer();
        // who may have been read twice was not sent twice
        if *method == "POST" { assert_failed(&answer, 502, "http_response_incomplete") } else { assert_eq!(answer.status, 200, "{method}") }
    }
    world.until_status("/slots/in_flight", 0);
    assert_eq!((world.outcomes("ok"), world.outcomes("error"), site.accepted()), (3, 2, 2));
}

#[test]
fn a_server_that_agrees_on_http2_and_says_nothing_is_not_connected() {
    let setting = Setting::new();
    let silent = Http2Site::raw(setting.tls(), |mut raw| Box::pin(async move { raw.wait_for_end().await }));
    let world = setting.gate(&silent.url(), "timeouts: { connect: 300ms }");
    assert_failed(&world.get("/", &[]), 504, "connection_timeout");
    silent.until_open(0);
    let other = Http2Site::raw(setting.tls(), |mut raw| {
        Box::pin(async move {
            raw.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            raw.wait_for_end().await;
        })
    });
    let world = setting.gate(&other.url(), "");
    assert_failed(&world.get("/", &[]), 502, "http_protocol_error");
    let gone = Http2Site::raw(setting.tls(), |_| Box::pin(async {}));
    let world = setting.gate(&gone.url(), "");
    assert_failed(&world.get("/", &[]), 502, "connection_terminated");
    assert_eq!(world.outcomes("connect"), 1);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn nobody_waits_for_one_connection_after_the_other_that_can_not_be_made() {
    let setting = Setting::new();
    let silent = Http2Site::raw(setting.tls(), |mut raw| Box::pin(async move { raw.wait_for_end().await }));
    // who comes in the first quarter of it has nothing left when it is over
    let world = setting.gate(&silent.url(), "max_in_flight: 8, timeouts: { connect: 6s }");
    for client in &mut asking(&world, 8) {
        assert_failed(&client.answer(), 504, "connection_timeout");
    }
    assert_eq!((world.outcomes("connect"), silent.accepted()), (8, 1));
    assert_eq!(world.status().pointer("/upstream/0/up").unwrap(), true, "it has failed once, and not eight times");
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn those_who_wait_for_a_connection_that_can_not_be_made_share_one_to_another_server() {
    let setting = Setting::new();
    let site = Http2Site::start(setting.tls(), telling(|arrived| arrived.path().to_owned()));
    let silent = Http2Site::raw(setting.tls(), |mut raw| Box::pin(async move { raw.wait_for_end().await }));
    let world = setting.gate(&format!("{}, {}", silent.url(), site.url()), "max_in_flight: 100, timeouts: { connect: 2s }");
    let mut asked = 0;
    until("the server to be ejected", || {
        for (number, client) in asking(&world, 8).iter_mut().enumerate() {
            assert_eq!(client.answer().text(), format!("/{number}"));
            asked += 1;
        }
        (world.status().pointer("/upstream/0/up").unwrap() == false).then_some(())
    });
    assert_eq!((site.seen().len(), world.outcomes("ok"), site.accepted()), (asked, asked, 1));
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn who_leaves_while_a_connection_is_made_leaves_it_to_the_next() {
    let setting = Setting::new();
    let hatch = Hatch::new();
    let opens = hatch.clone();
    let site = Http2Site::raw(setting.tls(), move |mut raw| {
        let opens = opens.clone();
        Box::pin(async move {
            opens.wait().await;
            raw.settle(&[]).await;
            while let Some(request) = raw.next(HEADERS).await {
                raw.answer(request.stream).await;
            }
        })
    });
    let world = setting.gate(&site.url(), "max_in_flight: 8, timeouts: { connect: 30s }");
    let mut first = asking(&world, 1);
    site.until_open(1);
    let mut others = asking(&world, 4);
    world.until_status("/slots/in_flight", 5);
    first.remove(0).reset();
    world.until_metric("tidegate_downstream_connections", |open| open == 4.0);
    hatch.open();
    for client in &mut others {
        assert_eq!(client.answer().status, 200);
    }
    world.until_status("/slots/in_flight", 0);
    assert_eq!((site.accepted(), world.outcomes("ok"), world.outcomes("aborted")), (1, 4, 1));
}

#[test]
fn a_server_that_wants_another_certificate_is_told_apart() {
    let setting = Setting::new();
    let clients = Authority::new();
    let mut tls = ServerConfig::clone(&setting.signed.server_by(rustls::ALL_VERSIONS, Some(&clients)));
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let site = Http2Site::start(tls.into(), telling(|_| "secret".to_owned()));
    let world = setting.gate(&site.url(), "");
    assert_failed(&world.get("/", &[]), 502, "tls_alert_received");
    assert_eq!((world.outcomes("connect"), site.seen().len()), (1, 0));
}

#[test]
fn a_head_that_is_too_large_costs_its_own_stream_alone() {
    let setting = Setting::new();
    let (site, world) = setting.site("", |mut arrived| {
        Box::pin(async move {
            let length = arrived.path()[1..].parse().unwrap();
            let value = "x".repeat(length);
            drop(arrived.begin(200, &[("x-large", &value)], true));
        })
    });
    assert_eq!(world.get("/60000", &[]).header("x-large").map(str::len), Some(60_000));
    assert_failed(&world.get("/200000", &[]), 502, "http_protocol_error");
    assert_eq!(world.get("/1", &[]).status, 200);
    assert_eq!(site.accepted(), 1);
}
