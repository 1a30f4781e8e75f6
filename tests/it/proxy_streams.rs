//! Answers that take their time: events that come as they are made, and long polls. Nothing is kept back for want of more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::{Client, Door, PATIENCE, Secure, Upstream, World, ok, request};

const EVENTS: usize = 20;

/// What the client has seen, for the site to wait for.
#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<usize>, Condvar)>);

impl Heard {
    fn one_more(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    fn wait_for(&self, count: usize) -> bool {
        let heard = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, |heard| *heard < count).unwrap();
        !heard.1.timed_out()
    }
}

fn event(number: usize) -> String {
    format!("id: {number}\ndata: {}\n\n", "x".repeat(number * 100))
}

/// A site that makes an event once the client has seen the one before. `frame` puts an event into the body.
fn events(head: &'static str, heard: &Heard, frame: fn(&str) -> String) -> Upstream {
    let heard = heard.clone();
    Upstream::start(move |_, site| {
        site.write(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n{head}\r\n"));
        for number in 0..EVENTS {
            if !heard.wait_for(number) || !site.write(frame(&event(number))) {
                return false;
            }
        }
        site.write(frame(""));
        false
    })
}

/// Reads until an event has come whole.
fn read_event(client: &mut Client, body: &mut Vec<u8>, end: &str) {
    while !body.ends_with(end.as_bytes()) {
        body.extend(client.take(1).expect("more of the event"));
    }
}

/// A chunk; that of nothing is the end.
fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

#[test]
fn each_event_comes_when_it_is_made() {
    let framings = [("Transfer-Encoding: chunked\r\n", chunk as fn(&str) -> String), ("Connection: close\r\n", str::to_owned)];
    for ((head, frame), tls) in framings.into_iter().flat_map(|framing| [(framing, false), (framing, true)]) {
        let heard = Heard::default();
        let site = events(head, &heard, frame);
        let world = Secure::open(&site.url(), "");
        let mut client = if tls { world.secured() } else { world.client() };
        client.send(request("GET", "/events", &["Accept: text/event-stream"]));
        let answer = client.head().unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        let mut body = Vec::new();
        for number in 0..EVENTS {
            read_event(&mut client, &mut body, &format!("{}\r\n", event(number)));
            heard.one_more();
        }
        assert_eq!(client.take(5).unwrap(), b"0\r\n\r\n", "the stream ends as the site has ended it: {head}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_events_up_to_the_end_of_the_connection() {
    let heard = Heard::default();
    let site = events("Transfer-Encoding: chunked\r\n", &heard, chunk);
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send("GET /events HTTP/1.0\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().unwrap().header("transfer-encoding"), None);
    let mut body = Vec::new();
    for number in 0..EVENTS {
        read_event(&mut client, &mut body, &event(number));
        heard.one_more();
    }
    client.assert_ends();
}

#[test]
fn a_stream_that_its_client_has_left_ends_at_the_site() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let site = Upstream::start(move |_, site| {
        site.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        while site.write(chunk(&event(100))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        false
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("GET", "/events", &[]));
    assert_eq!(client.head().unwrap().status, 200);
    drop(client);
    site.all_closed();
    world.until_status("/slots/in_flight", 0);
    assert!(written.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_long_poll_is_answered_when_there_is_something() {
    let door = Door::default();
    let news = door.clone();
    let site = Upstream::start(move |seen, site| {
        if seen.target == "/poll" {
            news.wait();
        }
        site.write(ok(&seen.target))
    });
    let world = World::open(&site.url(), "limits: { header_timeout: 2s, body_timeout: 2s, idle_timeout: 2s }");
    let mut client = world.client();
    client.send(request("GET", "/poll", &[]));
    site.requests(1);
    // the deadlines of a client fall due meanwhile for one who says nothing, and not for one who waits
    let mut silent = world.client();
    silent.assert_ends();
    door.open();
    assert_eq!(client.answer().text(), "/poll");
}
