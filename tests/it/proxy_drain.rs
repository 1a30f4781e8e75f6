//! The end of a gate while somebody has something under way.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::{
    ACK, Client, Door, END_HEADERS, END_STREAM, Frame, Frames, GET, GOAWAY, HEADERS, PATIENCE, SETTINGS, Secure, Upstream, World,
    assert_failed, frame, ok, request,
};

/// Longer than any test waits: nothing ends because of it.
const LONG: Duration = Duration::from_secs(3600);

/// Begins the end of a gate. Who is returned is told when it has come.
fn end(world: &mut World) -> mpsc::Receiver<()> {
    let running = world.running.take().unwrap();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        running.drain(Duration::ZERO, LONG);
        // who has failed does not listen any more
        sender.send(()).ok();
    });
    ended
}

/// Connections to the site move by the worker that has made them, and others may use them by then.
#[test]
fn a_worker_that_has_nothing_left_to_do_cuts_no_request_of_another() {
    let (both, never) = (Door::default(), Door::default());
    let doors = (both.clone(), never.clone());
    let site = Upstream::start(move |seen, site| match seen.target.as_str() {
        "/socket" => {
            site.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            let words = site.some();
            site.write(words)
        }
        "/never" => {
            doors.1.wait();
            false
        }
        _ => {
            doors.0.wait();
            site.write(ok("both"))
        }
    });
    let (mut world, ports) = World::apart(&format!(
        "listen: {{ workers: 2 }}\nadmission: {{ mode: open }}\n\
         upstream: {{ servers: [{}], max_in_flight: 2, queue: {{ deadline: 30s }}, timeouts: {{ response: 2s }} }}",
        site.url()
    ));
    let mut of_one: Vec<Client> = (0..2).map(|_| Client::connect(ports[0])).collect();
    for client in &mut of_one {
        client.send(request("GET", "/", &[]));
    }
    site.requests(2);
    both.open();
    for client in &mut of_one {
        assert_eq!(client.answer().status, 200);
    }
    // the other worker has both connections now, as there may be no more
    let mut unanswered = Client::connect(ports[1]);
    // and this is not sent again if its connection breaks
    unanswered.send(request("POST", "/never", &["Content-Length: 0"]));
    site.requests(3);
    let mut socket = Client::connect(ports[1]);
    let ask = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    assert_eq!(socket.get("/socket", &ask).status, 101);
    assert_eq!(site.accepted(), 2);

    let ended = end(&mut world);
    for client in &mut of_one {
        client.assert_ends();
    }
    // which is told by who has made its connection, too
    assert_failed(&unanswered.answer(), 504, "http_response_timeout");
    socket.send("still there");
    assert_eq!(socket.take(11).unwrap(), b"still there");
    drop(socket);
    ended.recv_timeout(PATIENCE).unwrap();
    never.open();
}

/// A phone that sleeps takes leave of nobody, and answers no PING.
#[test]
fn a_client_of_http_2_that_is_gone_without_a_word_does_not_hold_up_the_end() {
    let door = Door::default();
    let waits = door.clone();
    let site = Upstream::start(move |seen, site| {
        if seen.target == "/slow" {
            waits.wait();
        }
        site.write(ok("hello"))
    });
    let mut world = Secure::open(&site.url(), "limits: { idle_timeout: 1h, body_timeout: 1h, header_timeout: 1h }");
    let (mut idle, mut busy, mut silent) = (Frames::connect(&world, &[]), Frames::connect(&world, &[]), Frames::connect(&world, &[]));
    let hears = |client: &mut Frames, what: fn(&Frame) -> bool| while !what(&client.next().unwrap()) {};
    idle.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    hears(&mut idle, |told| told.flags & END_STREAM != 0 && told.stream == 1);
    busy.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, SLOW));
    site.requests(2);
    hears(&mut silent, |told| told.kind == SETTINGS && told.flags & ACK != 0);
    let ended = end(&mut world);
    for client in [&mut idle, &mut busy, &mut silent] {
        hears(client, |told| told.kind == GOAWAY);
    }
    // this one is answered, and then has nothing to do, when the end has begun already
    door.open();
    hears(&mut busy, |told| told.flags & END_STREAM != 0 && told.stream == 1);
    ended.recv_timeout(PATIENCE * 2).unwrap();
}

/// The header block of `GET /slow HTTP/2` for the test's host.
const SLOW: &[u8] = b"\x82\x87\x04\x05/slow\x01\x04test";
