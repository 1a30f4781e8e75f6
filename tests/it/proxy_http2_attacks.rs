//! HTTP/2 as no client speaks it: after each attack the attacker is cut or bounded, it is counted, and others are served.

use std::time::Duration;

use crate::support::*;

const ABUSE: &str = "tidegate_requests_refused_total{reason=\"h2_abuse\"}";
const BAD: &str = "tidegate_requests_refused_total{reason=\"bad_request\"}";

fn world(site: &Upstream) -> Secure {
    // what is cut here is cut for what it does, however long a slow machine takes to do it
    Secure::open(&site.url(), "limits: { header_timeout: 60s }")
}

/// Someone else is served, over either protocol.
#[track_caller]
fn assert_serves(world: &Secure) {
    assert_eq!(world.get("/else", &[]).status, 200);
    assert_eq!(Http2::connect(world).get("/else", &[]).status, 200);
}

/// What the gate said when it ended a connection: the error code of its last GOAWAY.
fn goaway(frames: &[Frame]) -> Option<u32> {
    let last = frames.iter().rev().find(|frame| frame.kind == GOAWAY)?;
    Some(u32::from_be_bytes(last.payload[4..8].try_into().unwrap()))
}

/// Sends this after a proper beginning, until the gate ends the connection, which must count once under `reason`.
#[track_caller]
fn cut(reason: &str, bytes: impl IntoIterator<Item = Vec<u8>> + Send) -> (Upstream, Vec<Frame>) {
    let site = Upstream::answering("hello");
    let world = world(&site);
    let frames = Frames::connect(&world, &[]).attack(bytes);
    world.until_metric(reason, |count| count == 1.0);
    assert_serves(&world);
    (site, frames)
}

fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|number| 2 * number + 1)
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
}

const CANCEL: &[u8] = &[0, 0, 0, 8];

#[test]
fn streams_that_are_opened_and_reset_in_one_breath() {
    let (site, _) = cut(ABUSE, streams().take(10_000).map(|stream| [get(stream), frame(RESET, 0, stream, CANCEL)].concat()));
    assert!(site.seen().iter().all(|seen| seen.target != "/"), "none of them was anybody's");
}

#[test]
fn a_few_streams_that_are_opened_and_reset_in_one_breath() {
    let site = Upstream::answering("hello");
    let world = world(&site);
    // from now on a connection to the site is idle: nothing needs to be waited for on the way there
    assert_serves(&world);
    let mut frames = Frames::connect(&world, &[]);
    let few = streams().take(20).flat_map(|stream| [get(stream), frame(RESET, 0, stream, CANCEL)].concat());
    frames.send([few.collect(), frame(PING, 0, 0, b"whatever")].concat());
    assert!(has_pong(&mut frames), "nobody is cut for that");
    assert_serves(&world);
    assert!(site.seen().iter().all(|seen| seen.target != "/"), "none of them was anybody's");
    assert_eq!((world.count(ABUSE), world.count(BAD)), (0, 0));
}

#[test]
fn streams_that_are_reset_once_they_are_under_way() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen: &Seen, site| {
        if seen.target == "/" {
            held.wait();
        }
        site.write(ok("hello"))
    });
    let yaml =
        format!("upstream: {{ servers: [{}], max_in_flight: 2, queue: {{ deadline: 20s }} }}\nadmission: {{ mode: open }}", site.url());
    let world = Secure::start(&yaml);
    let mut frames = Frames::connect(&world, &[]);
    // a PING that is answered: the gate has seen all that came before
    let cut = streams().take(10_000).find(|&stream| {
        frames.send([get(stream), frame(PING, 0, 0, b"whatever")].concat());
        if !has_pong(&mut frames) {
            return true;
        }
        frames.send([frame(RESET, 0, stream, CANCEL), frame(PING, 0, 0, b"whatever")].concat());
        !has_pong(&mut frames)
    });
    assert!(cut.is_some_and(|stream| stream < 1000), "{cut:?}");
    world.until_metric(ABUSE, |count| count == 1.0);
    assert!(site.seen().len() <= 2, "no more than have a slot");
    door.open();
    assert_serves(&world);
}

fn has_pong(frames: &mut Frames) -> bool {
    loop {
        match frames.next() {
            Ok(frame) if frame.kind == PING => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn streams_that_the_gate_is_made_to_reset() {
    // a window of more than 2^31 - 1, on a stream each
    let overflow = |stream| [get(stream), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat();
    let (site, _) = cut(ABUSE, streams().take(10_000).map(overflow));
    assert!(site.seen().len() <= 300, "{}", site.seen().len());
}

#[test]
fn a_header_block_without_an_end() {
    let begin = frame(HEADERS, END_STREAM, 1, GET);
    let more = (0..100_000).map(|_| frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"));
    let (site, frames) = cut(ABUSE, std::iter::once(begin).chain(more));
    assert_eq!(goaway(&frames), Some(0xb));
    assert!(site.seen().iter().all(|seen| seen.target != "/"));
}

#[test]
fn a_header_block_that_grows_when_it_is_unpacked() {
    // 4,000 bytes into the dynamic table, then the same again and again, one byte each
    let mut block = GET.to_vec();
    block.extend(b"\x40\x01a\x7f\xa1\x1e");
    block.extend(vec![b'x'; 4000]);
    block.extend(vec![0xbe; 12_000]);
    let (_, frames) = cut(ABUSE, [frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)]);
    assert_eq!(goaway(&frames), Some(0xb));
}

#[test]
fn frames_that_get_nothing_done() {
    for (kind, payload, stream) in [
        (SETTINGS, &[][..], 0),
        (PING, b"whatever", 0),
        (WINDOW_UPDATE, &[0, 0, 0, 1], 0),
        (PRIORITY, &[0, 0, 0, 0, 1], 5),
        (0x77, b"?", 0),
    ] {
        let many: Vec<u8> = (0..100).flat_map(|_| frame(kind, 0, stream, payload)).collect();
        // two and a half times what is borne; then it is silent
        let times = (5 << 19) / many.len();
        cut(ABUSE, (0..times).map(|_| many.clone()));
    }
}

#[test]
fn frames_that_get_nothing_done_with_a_request_now_and_then() {
    for (kind, payload) in [(SETTINGS, &[][..]), (PING, b"whatever"), (WINDOW_UPDATE, &[0, 0, 0, 1])] {
        let many: Vec<u8> = (0..9000).flat_map(|_| frame(kind, 0, 0, payload)).collect();
        cut(ABUSE, streams().take(200).map(|stream| [many.clone(), get(stream)].concat()));
    }
}

#[test]
fn frames_that_get_nothing_done_one_by_one() {
    let site = Upstream::answering("hello");
    let world = world(&site);
    let mut frames = Frames::connect(&world, &[]);
    let cut = (0..10_000).find(|_| {
        frames.send(frame(PING, 0, 0, b"whatever"));
        !has_pong(&mut frames)
    });
    assert!(cut.is_some_and(|pings| (4000..4200).contains(&pings)), "{cut:?}");
    world.until_metric(ABUSE, |count| count == 1.0);
    assert_serves(&world);
}

/// Once all is said there is no work to be made any more, and who is reset while it talks loses what it has not read yet.
#[test]
fn what_comes_after_the_end_is_read_and_held_against_nobody() {
    let site = Upstream::answering("hello");
    let mut world = world(&site);
    let mut frames = Frames::connect(&world, &[]);
    let nothing = frame(0x77, 0, 0, &[0; 16_000]);
    // nearly as much as is borne
    for _ in 0..125 {
        frames.send(&nothing);
    }
    frames.send(frame(PING, 0, 0, b"whatever"));
    assert!(has_pong(&mut frames), "the gate has read all of it");
    let running = world.running.take().unwrap();
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, Duration::from_secs(60)));
    let end = loop {
        match frames.next() {
            // the gate wants to know whether its farewell has come
            Ok(ping) if ping.kind == PING => frames.send(frame(PING, ACK, 0, &ping.payload)),
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    // more than all sockets hold
    for _ in 0..1000 {
        frames.send(&nothing);
    }
    assert_eq!(frames.next().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof, "it was not reset");
    drop(frames);
    ending.join().unwrap();
}

#[test]
fn empty_data_frames() {
    let begin = frame(HEADERS, END_HEADERS, 1, POST);
    let (_, frames) = cut(ABUSE, std::iter::once(begin).chain((0..100_000).map(|_| frame(DATA, 0, 1, &[]))));
    assert_eq!(goaway(&frames), Some(0xb));
}

#[test]
fn what_is_not_http_2() {
    let cases: [(&str, Vec<u8>); 8] = [
        ("a window of the connection that overflows", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 16_385])),
        ("headers on the connection", frame(HEADERS, END_HEADERS | END_STREAM, 0, GET)),
        ("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, GET)),
        ("data on a stream that is not open", frame(DATA, 0, 7, b"hello")),
        ("a reset of a stream that is not open", frame(RESET, 0, 7, CANCEL)),
        ("settings of a size that is none", frame(SETTINGS, 0, 0, b"x")),
        ("a header block that can't be unpacked", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
    ];
    for (what, bytes) in cases {
        let (_, frames) = cut(BAD, [bytes]);
        assert!(goaway(&frames).is_some_and(|code| code != 0), "{what}: {frames:?}");
    }
}

/// The http crate takes a quote for part of a name here, and of HTTP/1.1 it is none.
#[test]
fn a_name_that_http_1_does_not_have_is_told_to_no_site() {
    let site = Upstream::answering("hello");
    let world = world(&site);
    let mut frames = Frames::connect(&world, &[]);
    let name = b"\x00\x03x\"y\x01a";
    frames.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, name].concat()));
    let mut told = Vec::new();
    while told.last().is_none_or(|last: &Frame| last.stream != 1 || last.flags & END_STREAM == 0) {
        told.push(frames.next().expect("an answer"));
    }
    let answer = answer_in(&told);
    assert_eq!((answer.status, answer.header("proxy-status")), (400, Some("tidegate; error=http_request_error")));
    assert_eq!((world.count(BAD), site.seen().len()), (1, 0));
    // in trailers it is left out
    let upload = [
        frame(HEADERS, END_HEADERS, 3, &[POST, b"\x00\x02te\x08trailers"].concat()),
        frame(DATA, 0, 3, b"hello"),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &[&name[..], b"\x00\x05x-sum\x017"].concat()),
    ];
    frames.send(upload.concat());
    let seen = site.requests(1);
    assert_eq!((seen[0].method.as_str(), seen[0].body.as_slice()), ("POST", &b"hello"[..]));
    assert!(seen[0].trailers.iter().all(|(name, _)| name == "x-sum"), "{:?}", seen[0].trailers);
    assert_serves(&world);
}

#[test]
fn a_stream_that_depends_on_itself_is_reset() {
    let site = Upstream::answering("hello");
    let world = world(&site);
    let mut frames = Frames::connect(&world, &[]);
    frames.send(frame(PRIORITY, 0, 5, &[0, 0, 0, 5, 1]));
    let end = loop {
        match frames.next() {
            Ok(frame) if frame.kind == RESET || frame.kind == GOAWAY => break Some(frame.kind),
            Ok(_) => {}
            Err(_) => break None,
        }
    };
    assert!(end.is_some());
    assert_serves(&world);
}

#[test]
fn a_beginning_that_is_none() {
    let site = Upstream::answering("hello");
    let world = world(&site);
    let mut frames = Frames::silent(&world);
    frames.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(frames.attack([]).len(), 1, "no more than our settings");
    world.until_metric(BAD, |count| count == 1.0);
    assert_serves(&world);
}

#[test]
fn a_hundred_streams_without_a_window() {
    const LARGE: usize = 1 << 20;
    let site = Upstream::start(|seen: &Seen, site| match seen.target.as_str() {
        "/" => site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")) && site.write(vec![b'x'; LARGE]),
        _ => site.write(ok("hello")),
    });
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: 4, buffer: {{ response: 64KiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ body_timeout: 1s, idle_timeout: 1s, buffer_memory: 64MiB }}",
        site.url()
    );
    let world = Secure::start(&yaml);
    let mut frames = Frames::connect(&world, &[0, 4, 0, 0, 0, 0]);
    frames.send(streams().take(100).flat_map(get).collect::<Vec<u8>>());
    // each is reset when its time is over, so that the slots go round; who answers no PING is cut
    let seen = frames.attack([]);
    let heads = seen.iter().filter(|frame| frame.kind == HEADERS).count();
    let resets = seen.iter().filter(|frame| frame.kind == RESET).count();
    assert!(heads > 4 && resets >= 4, "{heads} heads, {resets} resets");
    assert!(seen.iter().all(|frame| frame.kind != DATA), "nobody made room for it");
    assert_serves(&world);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn a_client_that_reads_nothing() {
    const LARGE: usize = 32 << 20;
    let site = Upstream::start(|seen: &Seen, site| match seen.target.as_str() {
        "/" => site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")) && site.write(vec![b'x'; LARGE]),
        _ => site.write(ok("hello")),
    });
    let world = Secure::open(&site.url(), "limits: { body_timeout: 1s }");
    let mut frames = Frames::connect(&world, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frames.send([frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]), get(1)].concat());
    site.requests(1);
    world.until_status("/connections/open", 0);
    assert_serves(&world);
}
