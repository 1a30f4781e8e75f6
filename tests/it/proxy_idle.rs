//! Connections of HTTP/1 between two requests: they are counted as idle, served on, and closed when it is time.

use std::time::Duration;

use crate::support::{Authority, Client, Door, Upstream, World, request, until};

fn gate(site: &Upstream, more: &str) -> World {
    World::open(&site.url(), more)
}

#[test]
fn an_idle_connection_is_served_on() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "");
    let mut clients: Vec<Client> = (0..3).map(|_| world.client()).collect();
    for round in 0..3 {
        for client in &mut clients {
            let answer = client.get("/", &[]);
            assert_eq!((answer.status, answer.text().as_str(), answer.header("connection")), (200, "hello", None), "{round}");
        }
        world.until_status("/connections/idle", 3);
    }
    world.until_metric("tidegate_downstream_connections_idle", |idle| idle == 3.0);
    // two at once, behind each other
    for client in &mut clients {
        client.send(request("GET", "/one", &[]) + &request("GET", "/two", &[]));
        assert_eq!((client.answer().status, client.answer().status), (200, 200));
    }
    let paths: Vec<String> = site.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(paths.iter().filter(|path| path.as_str() != "/").count(), 6, "{paths:?}");
    world.until_status("/connections/idle", 3);
    drop(clients);
    world.until_status("/connections/open", 0);
    world.until_status("/connections/idle", 0);
}

#[test]
fn one_that_has_sent_nothing_yet_is_idle_too() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "");
    let mut early = world.client();
    world.until_status("/connections/idle", 1);
    assert_eq!(early.get("/", &[]).status, 200);
}

#[test]
fn a_head_that_comes_in_pieces_wakes_it() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "limits: { header_timeout: 4s }");
    let mut client = world.client();
    assert_eq!(client.get("/", &[]).status, 200);
    for _ in 0..2 {
        world.until_status("/connections/idle", 1);
        client.send("GET /pieces HTTP/1.1\r\nHo");
        world.until_status("/connections/idle", 0);
        client.send("st: site.test\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    world.until_status("/connections/idle", 1);
    client.send("GET /never");
    assert_eq!(client.answer().status, 408, "its head has a deadline as ever");
    client.assert_ends();
}

#[test]
fn one_whose_request_had_a_body_is_idle_when_all_of_it_is_read() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "");
    let (mut poster, mut reader) = (world.client(), world.client());
    poster.send("POST /form HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\na=b&c");
    assert_eq!(poster.answer().status, 200);
    assert_eq!(reader.get("/", &[]).status, 200);
    world.until_status("/connections/idle", 2);
    poster.send("POST /form HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\na=b");
    world.until_status("/connections/idle", 1);
    poster.send("&c");
    assert_eq!(poster.answer().status, 200);
    world.until_status("/connections/idle", 2);
}

/// Some clients send one behind a body, as the first ones did.
#[test]
fn an_empty_line_behind_a_request_begins_nothing() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "limits: { header_timeout: 200ms }");
    let mut client = world.client();
    for (request, more) in
        [("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "\r\n"), ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\n\r\n")]
    {
        client.send([request, more].concat());
        assert_eq!(client.answer().status, 200);
        world.until_status("/connections/idle", 1);
        // longer than a head may take
        let mut other = world.client();
        other.send("GET / HTTP/1.1\r\n");
        assert_eq!(other.answer().status, 408);
    }
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(world.metric("tidegate_requests_refused_total{reason=\"header_timeout\"}"), 2.0);
}

#[test]
fn the_date_of_its_answers_goes_with_the_time() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "");
    let mut client = world.client();
    let mut date = || client.get("/.tidegate/healthz", &[]).header("date").unwrap().to_owned();
    let first = date();
    assert!(first.ends_with(" GMT") && first.len() == 29, "{first}");
    until("another second", || (date() != first).then_some(()));
}

/// A socket that is closed with something unread is reset, and takes the answer with it.
#[test]
fn what_comes_behind_the_last_request_is_read_and_comes_to_nothing() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "");
    let mut client = world.client();
    client.send(request("GET", "/last", &["Connection: close"]) + "GET /behind");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    for _ in 0..100 {
        client.send(vec![b'x'; 10_000]);
    }
    assert_eq!(client.end().unwrap(), b"", "it ends, and is not reset");
    assert_eq!(site.seen().len(), 1);
}

#[test]
fn it_is_idle_within_tls() {
    let site = Upstream::answering("hello");
    let authority = Authority::new();
    let yaml = format!(
        "upstream: {{ servers: [{}] }}\nadmission: {{ mode: open }}\nlisten: {{ https: {{ address: 127.0.0.1:0, certificate: site.pem, key: site.key }} }}",
        site.url()
    );
    let world = World::prepared(&yaml, |directory| drop(authority.issue(directory, "site", &["site.test"])));
    let mut client = Client::connect(world.https.unwrap()).secured(&authority.visitor(&[b"http/1.1"]), "site.test").unwrap();
    for _ in 0..3 {
        // a head in two records, of which the gate may find both at once, or one
        client.send("GET / HTTP/1.1\r\nHo");
        client.send("st: site.test\r\n\r\n");
        assert_eq!(client.answer().status, 200);
        world.until_status("/connections/idle", 1);
    }
    drop(client);
    world.until_status("/connections/open", 0);
}

#[test]
fn it_is_closed_when_it_has_been_idle_for_too_long() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "limits: { idle_timeout: 1s }");
    let mut client = world.client();
    assert_eq!(client.get("/", &[]).status, 200);
    world.until_status("/connections/idle", 1);
    client.assert_ends();
    world.until_status("/connections/open", 0);
}

/// Whose request is there when the gate begins to end is answered: also those whom the kernel has accepted and the gate has not, however
/// many they are.
#[test]
fn who_has_asked_before_the_end_is_answered() {
    const LIMIT: usize = 10;
    const QUEUED: usize = 200;
    let door = Door::default();
    let site = Upstream::behind(&door, "done");
    let mut world = World::start(&format!(
        "upstream: {{ servers: [{}], max_in_flight: 32 }}\nadmission: {{ mode: open }}\nlimits: {{ connections: {LIMIT} }}",
        site.url()
    ));
    let mut clients: Vec<Client> = (0..LIMIT + 2).map(|_| world.client()).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &[]));
    }
    site.requests(LIMIT);
    // behind them, those whom the gate answers by itself
    let mut queued: Vec<Client> = (0..QUEUED).map(|_| world.client()).collect();
    for client in &mut queued {
        client.send(request("GET", "/.tidegate/healthz", &[]));
    }
    let running = world.running.take().unwrap();
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, Duration::from_secs(60)));
    // those come in only when the listener is emptied
    site.requests(LIMIT + 2);
    for client in &mut queued {
        assert_eq!(client.answer().status, 503);
    }
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    ending.join().unwrap();
}

#[test]
fn it_is_closed_at_once_when_the_gate_ends() {
    let site = Upstream::answering("hello");
    let mut world = gate(&site, "");
    let mut client = world.client();
    assert_eq!(client.get("/", &[]).status, 200);
    world.until_status("/connections/idle", 1);
    let running = world.running.take().unwrap();
    // it would else hold up the end for as long as it may be idle
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, Duration::from_secs(60)));
    client.assert_ends();
    ending.join().unwrap();
}
