//! Networks that break or are slow: however bytes are delivered, the result is the same; wherever a connection breaks off, nobody takes a part for the
//! whole, and others are served.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;

/// Nobody gets cookies, so that answers can be compared byte for byte.
const FREE: &str = "routes: [{ path: \"/**\", gate: open }]\n";

/// A site that answers in every way that HTTP/1 has.
fn answers(seen: &Seen, site: &mut Site) -> bool {
    match seen.target.as_str() {
        "/chunks" => site.write(
            "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n, you!\r\n0\r\nX-Sum: 7\r\n\r\n",
        ),
        "/interim" => site.write(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", ok("late"))),
        "/none" => site.write("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n"),
        "/head" => site.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        "/end" => {
            site.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it");
            site.finish();
            false
        }
        _ => site.write(ok("hello")),
    }
}

/// Requests of every kind: method, and bytes.
const REQUESTS: &[(&str, &str)] = &[
    ("GET", "GET /plain HTTP/1.1\r\nHost: test\r\nCookie: a=b\r\n\r\n"),
    ("POST", "POST /plain HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello, you!"),
    (
        "POST",
        "POST /chunks HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 8\r\n\r\n",
    ),
    ("GET", "GET /interim HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("GET", "GET /none HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("HEAD", "HEAD /head HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("GET", "GET /end HTTP/1.1\r\nHost: test\r\n\r\n"),
    ("GET", "GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
];

/// What a client was told and what a site was asked, without which connection it was.
type Told = (Vec<(String, Vec<u8>, Vec<(String, String)>)>, Vec<(String, Vec<u8>, Vec<(String, String)>)>);

/// Sends all requests in one write, and reads the answers. An answer's date is the gate's own, if anybody's.
#[track_caller]
fn told(mut client: Client, site: &Upstream) -> Told {
    client.send(REQUESTS.iter().map(|(_, bytes)| *bytes).collect::<String>());
    let read = |method: &&str| {
        let answer = client.try_answer(method).expect("a whole answer");
        let lines = answer.raw.split("\r\n").filter(|line| !line.starts_with("date: "));
        (lines.collect::<Vec<_>>().join("\n"), answer.body, answer.trailers)
    };
    let answers: Vec<_> = REQUESTS.iter().map(|(method, _)| method).map(read).collect();
    client.assert_ends();
    (answers, site.seen().into_iter().map(|seen| (seen.raw, seen.body, seen.trailers)).collect())
}

#[test]
fn bytes_that_come_one_by_one_mean_the_same() {
    let whole = told_through(Carries::Whole, Carries::Whole);
    assert!(whole.0.iter().all(|(head, ..)| head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 304")), "{whole:?}");
    assert_eq!((whole.0[2].1.as_slice(), whole.0[2].2.len(), whole.1[2].2.len()), (&b"hello, you!"[..], 1, 1));
    assert_eq!(told_through(Carries::Bytewise, Carries::Whole), whole, "between client and gate");
    assert_eq!(told_through(Carries::Whole, Carries::Bytewise), whole, "between gate and site");
    assert_eq!(told_through(Carries::Bytewise, Carries::Bytewise), whole, "everywhere");
}

/// One way: the other side of the world, over a satellite.
const LATE: Carries = Carries::Late(Duration::from_millis(150));

#[test]
fn bytes_that_come_late_mean_the_same() {
    let whole = told_through(Carries::Whole, Carries::Whole);
    assert_eq!(told_through(LATE, Carries::Whole), whole, "between client and gate");
    assert_eq!(told_through(Carries::Whole, LATE), whole, "between gate and site");
}

fn told_through(client: Carries, site: Carries) -> Told {
    let upstream = Upstream::start(answers);
    let behind = Relay::before(upstream.address, site, site);
    let world = World::open(&behind.url(), FREE);
    let before = Relay::before(world.http, client, client);
    told(Client::connect(before.address), &upstream)
}

#[test]
fn bytes_that_come_one_by_one_mean_the_same_within_tls() {
    let through = |carries: Carries| {
        let authority = Authority::new();
        let tls = authority.sign(&["127.0.0.1"]).server();
        let upstream = Upstream::start_tls(move || Arc::clone(&tls), answers);
        let behind = Relay::before(upstream.address, carries, carries);
        let yaml = format!(
            "listen: {{ https: {{ address: 127.0.0.1:0, certificate: site.pem, key: site.key }} }}\nadmission: {{ mode: open }}\n\
             upstream: {{ servers: [\"https://{}\"], tls: {{ ca: ca.pem }} }}\n{FREE}",
            behind.address
        );
        let world = World::prepared(&yaml, |directory| {
            authority.issue(directory, "site", &["test"]);
            std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        });
        let before = Relay::before(world.https.unwrap(), carries, carries);
        let client = Client::connect(before.address).secured(&authority.visitor(&[b"http/1.1"]), "test").unwrap();
        told(client, &upstream)
    };
    let whole = through(Carries::Whole);
    assert!(whole.0.iter().all(|(head, ..)| head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 304")), "{whole:?}");
    assert_eq!(through(Carries::Bytewise), whole);
    assert_eq!(through(LATE), whole);
}

/// A request and the answer to it, both of them with a body. In its body the answer says so where it could be cut.
const UPLOAD: &str = "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello";

const WHOLE: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwh\r\n3\r\nole\r\n0\r\n\r\n",
];

#[test]
fn an_answer_that_breaks_off_anywhere_is_never_whole() {
    for &answer in WHOLE {
        for cut in [Cut::End, Cut::Reset] {
            let step = if cut == Cut::End { 1 } else { 3 };
            for length in (0..answer.len()).step_by(step) {
                let site = Upstream::start(move |_, site| site.write(answer));
                let relay = Relay::before(site.address, Carries::Whole, Carries::Until(length, cut));
                let world = World::open(&relay.url(), FREE);
                broken(&world, &format!("{cut:?} after {length} of {answer:?}"), &[502]);
                world.until_status("/slots/in_flight", 0);
                // a connection that breaks off before anything was asked may be tried again
                assert!(site.seen().len() == 1 || (length == 0 && site.seen().is_empty()), "it is sent once");
            }
        }
    }
}

/// Asks, and is told of a failure, or is cut before the answer is whole.
#[track_caller]
fn broken(world: &World, what: &str, statuses: &[u16]) {
    let mut client = world.client();
    client.send(UPLOAD);
    match client.try_answer("POST") {
        Ok(answer) => assert!(statuses.contains(&answer.status), "{what}: {}{}", answer.raw, answer.text()),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{what}: {error}");
        }
    }
}

#[test]
fn an_answer_that_falls_silent_is_ended_by_the_gate() {
    // all at the same time, since each takes a while
    let silent = [(0, false), (1, false), (30, false), (38, true), (40, true)].map(|(length, is_begun)| {
        let site = Upstream::start(|_, site| site.write(WHOLE[0]));
        let relay = Relay::before(site.address, Carries::Whole, Carries::Until(length, Cut::Silence));
        let world = World::start(&format!(
            "upstream: {{ servers: [\"{}\"], timeouts: {{ response: 2s }} }}\nadmission: {{ mode: open }}\n{FREE}",
            relay.url()
        ));
        let mut client = world.client();
        client.send(UPLOAD);
        (length, is_begun, client, world, relay, site)
    });
    for (length, is_begun, mut client, world, ..) in silent {
        match client.try_answer("POST") {
            Ok(answer) => assert!(!is_begun && answer.status == 504, "after {length}: {}", answer.raw),
            Err(error) => assert!(is_begun, "after {length}: {error}"),
        }
        world.until_status("/slots/in_flight", 0);
    }
}

#[test]
fn a_request_that_breaks_off_on_its_way_to_the_site_is_never_whole() {
    // as the gate writes it: whatever its length is, the last byte of it does not come
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), FREE);
    let mut client = world.client();
    client.send(UPLOAD);
    assert_eq!(client.answer().status, 200);
    let length = site.seen()[0].raw.len() + site.seen()[0].body.len();
    for cut in [Cut::End, Cut::Reset, Cut::Silence] {
        let some: Vec<usize> =
            if cut == Cut::Silence { vec![0, 9, length - 6, length - 1] } else { (0..length).step_by(3).chain([length - 1]).collect() };
        for until in some {
            let site = Upstream::answering("hello");
            let relay = Relay::before(site.address, Carries::Until(until, cut), Carries::Whole);
            let timeout = if cut == Cut::Silence { "200ms" } else { "60s" };
            let upstream = format!("upstream: {{ servers: [\"{}\"], timeouts: {{ response: {timeout} }} }}", relay.url());
            let world = World::start(&format!("{upstream}\nadmission: {{ mode: open }}\n{FREE}"));
            let mut client = world.client();
            client.send(UPLOAD);
            let status = client.answer().status;
            assert_eq!(status, if cut == Cut::Silence { 504 } else { 502 }, "{cut:?} after {until} of {length}");
            world.until_status("/slots/in_flight", 0);
            assert!(site.seen().is_empty(), "{cut:?} after {until} of {length}");
        }
    }
}

#[test]
fn a_request_that_breaks_off_on_its_way_to_the_gate_reaches_nobody() {
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), &format!("{FREE}limits: {{ header_timeout: 2s, body_timeout: 2s, idle_timeout: 2s }}\n"));
    for cut in [Cut::End, Cut::Reset, Cut::Silence] {
        let step = if cut == Cut::Silence { 7 } else { 1 };
        // those that fall silent take a while: they do so at the same time
        let relays: Vec<_> = (0..UPLOAD.len())
            .step_by(step)
            .map(|until| {
                let relay = Relay::before(world.http, Carries::Until(until, cut), Carries::Whole);
                let mut client = Client::connect(relay.address);
                client.try_send(UPLOAD).ok();
                (relay, client)
            })
            .collect();
        world.until_status("/connections/open", 0);
        drop(relays);
    }
    assert_eq!(world.get("/", &[]).text(), "hello");
    assert_eq!(site.seen().len(), 1);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn http_2_is_the_same_byte_by_byte() {
    let site = Upstream::start(|seen, site| site.write(ok(&format!("{} {}", seen.method, seen.body.len()))));
    let secure = Secure::open(&site.url(), FREE);
    let relay = Relay::before(secure.https.unwrap(), Carries::Bytewise, Carries::Bytewise);
    let mut client = Http2::connect_at(&secure, relay.address);
    for _ in 0..2 {
        assert_eq!(client.get("/", &[]).text(), "GET 0");
        let answer = client.ask(http2_request("POST", "/", &[]), &[b"hel", b"lo"]).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "POST 5"));
    }
    drop(client);
    secure.until_status("/connections/open", 0);
    assert_eq!(site.seen().len(), 4);
}

/// What is larger than every window goes on when word has come that there is room: late, and whole.
#[test]
fn http_2_is_the_same_from_far_away() {
    const LARGE: usize = 300_000;
    let site = Upstream::start(|seen, site| {
        let length = seen.body.len();
        site.write(ok(&if seen.method == "GET" { "x".repeat(LARGE) } else { format!("{length}") }))
    });
    let secure = Secure::open(&site.url(), FREE);
    let relay = Relay::before(secure.https.unwrap(), LATE, LATE);
    let mut client = Http2::connect_at(&secure, relay.address);
    assert!(client.get("/", &[]).text() == "x".repeat(LARGE));
    let piece = vec![b'x'; 50_000];
    let answer = client.ask(http2_request("POST", "/", &[]), &[&piece[..]; 6]).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "300000"));
}

/// With each of these the handshake, the head or the body of a client that is far away would be cut if the time on the way were held
/// against it; and a site that is far away is not taken for dead.
#[test]
fn who_is_far_away_is_within_the_limits() {
    let site = Upstream::answering("hello");
    let behind = Relay::before(site.address, LATE, LATE);
    let secure = Secure::start(&format!(
        "upstream: {{ servers: [{}], timeouts: {{ connect: 5s, response: 5s }} }}\nadmission: {{ mode: open }}\n{FREE}\
         limits: {{ handshake_timeout: 5s, header_timeout: 5s, body_timeout: 5s, idle_timeout: 5s }}",
        behind.url()
    ));
    let relay = Relay::before(secure.https.unwrap(), LATE, LATE);
    let mut client = Http2::connect_at(&secure, relay.address);
    let far = client.ask(http2_request("POST", "/", &[]), &[b"hel", b"lo"]).unwrap();
    assert_eq!((far.status, far.text().as_str()), (200, "hello"));
    let relay = Relay::before(secure.http, LATE, LATE);
    let mut client = Client::connect(relay.address);
    client.send(UPLOAD);
    assert_eq!(client.answer().text(), "hello");
}

#[test]
fn an_answer_over_http_2_that_breaks_off_is_never_whole() {
    let site = Upstream::start(|_, site| site.write(ok(&"x".repeat(2000))));
    let secure = Secure::open(&site.url(), FREE);
    // how many bytes a whole exchange takes, handshake included
    let most = 8000;
    let (mut whole, mut broken) = (0, 0);
    for cut in [Cut::End, Cut::Reset] {
        for length in (0..most).step_by(401) {
            let relay = Relay::before(secure.https.unwrap(), Carries::Whole, Carries::Until(length, cut));
            match Http2::get_at(&secure, relay.address, "/") {
                Some(answer) => {
                    assert_eq!(answer.body.len(), 2000, "{cut:?} after {length}");
                    whole += 1;
                }
                None => broken += 1,
            }
            drop(relay);
            secure.until_status("/connections/open", 0);
        }
    }
    assert!(whole > 2 && broken > 10, "{whole} whole, {broken} broken");
    secure.until_status("/slots/in_flight", 0);
    assert_eq!(Http2::connect(&secure).get("/", &[]).status, 200);
}

/// Whoever closes a tab sends the same, so it is taken for leaving: there is a whole answer or none, and the slot is free again.
#[test]
fn a_client_that_ends_its_side_gets_a_whole_answer_or_none() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen: &Seen, site| {
        if seen.target == "/slow" {
            held.wait();
        }
        site.write(ok("hello"))
    });
    let world = World::open(&site.url(), FREE);
    for path in ["/slow", "/"] {
        let mut client = world.client();
        client.send(request("GET", path, &[]));
        if path == "/slow" {
            site.requests(1);
        }
        client.finish();
        match client.try_answer("GET") {
            Ok(answer) => assert_eq!((path, answer.text().as_str()), ("/", "hello")),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}"),
        }
        world.until_status("/connections/open", 0);
        door.open();
        world.until_status("/slots/in_flight", 0);
    }
    assert_eq!(world.get("/", &[]).text(), "hello");
}
