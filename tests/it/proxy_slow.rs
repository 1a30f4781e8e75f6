//! Clients that are slow on purpose: a byte now and then, each in time, and all of them together never. And those that are only quiet.

use bytes::Bytes;

use crate::support::{
    Client, Door, END_HEADERS, END_STREAM, Frames, GET, HEADERS, Http2, Secure, Upstream, World, frame, http2_request, ok, request, until,
    whole,
};

/// A rate far above that of bytes that are sent one by one.
const QUICK: &str = "body_timeout: 1s, min_rate: 1MiB";

/// Sends a byte again and again, with a breath between, until the gate takes no more.
#[track_caller]
fn trickle(client: &mut Client, byte: &str) {
    until("the gate to take no more", || client.try_send(byte).is_err().then_some(()));
}

/// A gate with one slot, and a buffer that holds less than a body of these tests.
fn narrow(site: &Upstream) -> String {
    format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4KiB, response: 4KiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ {QUICK} }}",
        site.url()
    )
}

#[test]
fn a_body_that_trickles_is_cut_like_one_that_stands_still() {
    let site = Upstream::answering("reached");
    let world = World::open(&site.url(), &format!("limits: {{ {QUICK} }}"));
    for (lines, byte) in [("Content-Length: 100000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")] {
        let mut slow = world.client();
        slow.send(request("POST", "/", &[lines]));
        let mut twin = slow.twin();
        let reader = std::thread::spawn(move || slow.try_answer("POST").map(|answer| answer.status).ok());
        trickle(&mut twin, byte);
        assert_eq!(reader.join().unwrap(), Some(408), "{lines}");
    }
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"body_timeout\"}"), 2);
    assert_eq!(site.accepted(), 0, "it never held a slot");
}

#[test]
fn a_long_body_that_trickles_gives_its_slot_back() {
    let site = Upstream::answering("done");
    let world = World::start(&narrow(&site));
    let mut slow = world.client();
    slow.send(request("POST", "/", &["Content-Length: 300000"]));
    slow.send(vec![b'x'; 20_000]);
    trickle(&mut slow, "x");
    assert_eq!(world.get("/", &[]).text(), "done");
}

#[test]
fn a_body_that_trickles_over_http_2_costs_its_stream_alone() {
    for (first, reaches) in [(1, false), (20_000, true)] {
        let site = Upstream::answering("hello");
        let world = Secure::start(&narrow(&site));
        let mut client = Http2::connect(&world);
        let mut sender = client.sender.clone();
        let (answer, mut stream) = sender.send_request(http2_request("POST", "/", &[]), false).unwrap();
        stream.send_data(Bytes::from(vec![b'x'; first]), false).unwrap();
        until("the stream to be reset", || {
            let sent = stream.send_data(Bytes::from_static(b"x"), false);
            // the connection is driven meanwhile
            client.wait(async { tokio::task::yield_now().await });
            (sent.is_err() || world.count("tidegate_requests_refused_total{reason=\"body_timeout\"}") > 0).then_some(())
        });
        // it is answered where it can be
        if !reaches {
            assert_eq!(client.wait(async { whole(answer.await.unwrap()).await }).unwrap().status, 408);
        }
        assert_eq!(client.get("/", &[]).text(), "hello", "the connection and the slot go on");
    }
}

#[test]
fn an_answer_that_is_taken_bit_by_bit_is_cut() {
    const LARGE: usize = 32 << 20;
    let site = Upstream::start(|seen, site| match seen.target.as_str() {
        "/large" => site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")) && site.write(vec![b'x'; LARGE]),
        _ => site.write(ok("hello")),
    });
    // the kernel takes more only when a good part of what it has is gone: often enough to be in time each time
    let world = World::start(&narrow(&site).replace("body_timeout: 1s", "body_timeout: 3s"));
    let mut slow = Client::connect_narrow(world.http);
    slow.send(request("GET", "/large", &[]));
    until("the gate to have had enough of it", || {
        slow.take(2048).ok();
        (world.status().pointer("/connections/open").unwrap() == 0).then_some(())
    });
    assert_eq!(world.get("/", &[]).text(), "hello");
}

#[test]
fn a_stream_that_says_little_is_not_slow() {
    let door = Door::default();
    let more = door.clone();
    let site = Upstream::start(move |_, site| {
        site.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        more.wait();
        site.write("3\r\ntwo\r\n0\r\n\r\n");
        false
    });
    let world = World::open(&site.url(), "limits: { header_timeout: 1s, body_timeout: 100ms, min_rate: 1MiB }");
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.take(8).unwrap(), b"3\r\none\r\n");
    // as long as many times that for which one who owes something would be waited for
    world.client().assert_ends();
    door.open();
    assert_eq!(client.take(13).unwrap(), b"3\r\ntwo\r\n0\r\n\r\n");
}

/// A gate whose kernel keeps little, in front of a site whose answers fit into the 64 KiB that TLS takes though its visitor does not:
/// whether they are taken is seen when they leave.
fn within_tls() -> (Upstream, Secure) {
    let site = Upstream::start(|_, site| site.write(ok(&"x".repeat(50_000))));
    let world = Secure::narrow(&format!(
        "upstream: {{ servers: [{}] }}\nadmission: {{ mode: open }}\nlimits: {{ body_timeout: 1s, idle_timeout: 1h, header_timeout: 1h }}",
        site.url()
    ));
    (site, world)
}

#[test]
fn an_answer_that_stays_within_tls_is_waited_for_no_longer() {
    let (site, world) = within_tls();
    let mut client = world.narrow_client();
    client.send(request("GET", "/", &[]));
    site.requests(1);
    world.until_status("/connections/open", 0);
}

#[test]
fn an_answer_that_stays_within_tls_is_waited_for_no_longer_over_http_2() {
    let (site, world) = within_tls();
    let mut frames = Frames::narrow(&world);
    frames.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    site.requests(1);
    world.until_status("/connections/open", 0);
}
