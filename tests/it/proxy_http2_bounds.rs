//! What a client that speaks HTTP/2 is told of the gate's bounds, what is beyond them, and how long the gate waits for who says nothing.

use std::collections::BTreeMap;

use crate::support::*;

const HEADER_TIMEOUT: &str = "tidegate_requests_refused_total{reason=\"header_timeout\"}";

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
}

/// The next frame that is this.
#[track_caller]
fn next(frames: &mut Frames, is_it: impl Fn(&Frame) -> bool) -> Frame {
    loop {
        let next = frames.next().expect("the connection to go on");
        if is_it(&next) {
            return next;
        }
    }
}

fn is_whole(frame: &Frame) -> bool {
    matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0
}

/// A site that answers what is asked for "/" once the door is open, and anything else at once.
fn holding(door: &Door) -> Upstream {
    let held = door.clone();
    Upstream::start(move |seen: &Seen, site| {
        if seen.target == "/" {
            held.wait();
        }
        site.write(ok("hello"))
    })
}

#[test]
fn a_client_is_told_what_the_gate_takes() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { header_bytes: 20KiB }");
    let mut frames = Frames::connect(&world, &[]);
    let first = frames.next().unwrap();
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
    let told = first.payload.chunks(6).map(|one| (u16::from_be_bytes([one[0], one[1]]), u32::from_be_bytes(one[2..].try_into().unwrap())));
    // streams at once, a stream's window, a frame, and a list of headers; the table of the decoder and push are as they are without
    let expected = [(3, 100), (4, 64 * 1024), (5, 16 * 1024), (6, 2 * 20 * 1024)];
    assert_eq!(told.collect::<BTreeMap<u16, u32>>(), BTreeMap::from(expected));
    // a connection begins with 64 KiB less one byte, and only this makes it more
    let window = next(&mut frames, |next| next.kind == WINDOW_UPDATE);
    assert_eq!((window.stream, window.payload), (0, (1024 * 1024 - 65_535_u32).to_be_bytes().to_vec()));
}

#[test]
fn one_stream_more_than_a_client_may_have_is_refused() {
    let door = Door::default();
    let site = holding(&door);
    let yaml = format!("upstream: {{ servers: [{}], max_in_flight: 100 }}\nadmission: {{ mode: open }}", site.url());
    let world = Secure::start(&yaml);
    let mut frames = Frames::connect(&world, &[]);
    let streams: Vec<u32> = (0..100).map(|number| 2 * number + 1).collect();
    frames.send(streams.iter().copied().flat_map(get).collect::<Vec<u8>>());
    site.requests(100);
    frames.send(get(201));
    let refused = next(&mut frames, |next| next.kind == RESET || is_whole(next));
    // REFUSED_STREAM: it may be sent again
    assert_eq!((refused.kind, refused.stream, &refused.payload[..]), (RESET, 201, &[0, 0, 0, 7][..]));
    door.open();
    let mut answered: Vec<u32> = streams.iter().map(|_| next(&mut frames, |next| next.kind == RESET || is_whole(next)).stream).collect();
    answered.sort_unstable();
    assert_eq!(answered, streams);
    // there is room again
    frames.send(get(203));
    assert_eq!(next(&mut frames, |next| next.kind == RESET || is_whole(next)).stream, 203);
    assert_eq!(site.seen().len(), 101, "nothing was told of the one that was refused");
}

#[test]
fn a_client_that_answers_pings_waits_for_as_long_as_the_site_takes() {
    let door = Door::default();
    let site = holding(&door);
    let world = Secure::open(&site.url(), "limits: { idle_timeout: 2s }");
    let mut frames = Frames::connect(&world, &[]);
    frames.send(get(1));
    site.requests(1);
    // each comes two seconds after something was heard, and is waited for as long
    for _ in 0..3 {
        let ping = next(&mut frames, |next| next.kind == PING || is_whole(next));
        assert_eq!((ping.kind, ping.flags), (PING, 0));
        frames.send(frame(PING, ACK, 0, &ping.payload));
    }
    door.open();
    assert_eq!(next(&mut frames, |next| next.kind == RESET || is_whole(next)).stream, 1);
}

#[test]
fn a_client_that_answers_no_ping_is_cut_while_the_site_takes_its_time() {
    let door = Door::default();
    let site = holding(&door);
    let world = Secure::open(&site.url(), "limits: { idle_timeout: 1s }");
    let mut frames = Frames::connect(&world, &[]);
    frames.send(get(1));
    site.requests(1);
    let told = frames.attack([]);
    assert!(told.iter().any(|frame| frame.kind == PING && frame.flags == 0), "{told:?}");
    assert!(!told.iter().any(is_whole), "{told:?}");
    world.until_status("/connections/open", 0);
    assert!(!door.is_open());
    // the site is still at work for it
    assert_eq!(world.status().pointer("/slots/in_flight").unwrap(), 1);
    door.open();
    world.until_status("/slots/in_flight", 0);
    assert_eq!(Http2::connect(&world).get("/else", &[]).status, 200);
}

/// A head that stops in its middle, and what is left of it.
fn half_a_head(stream: u32) -> (Vec<u8>, Vec<u8>) {
    let (first, rest) = GET.split_at(3);
    (frame(HEADERS, END_STREAM, stream, first), frame(CONTINUATION, END_HEADERS, stream, rest))
}

#[test]
fn a_first_head_that_stops_in_its_middle_is_cut_in_time() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { header_timeout: 2s, idle_timeout: 1h, body_timeout: 1h }");
    let (first, rest) = half_a_head(1);
    let mut frames = Frames::connect(&world, &[]);
    frames.send([&first[..], &rest].concat());
    assert_eq!(next(&mut frames, is_whole).stream, 1, "a head may come in two");
    // also within a frame
    let silent = [&first[..], &first[..5], &get(1)[..11]].map(|silent| {
        let mut frames = Frames::connect(&world, &[]);
        frames.send(silent);
        frames
    });
    for frames in silent {
        let told = frames.attack([]);
        assert!(!told.iter().any(|frame| frame.kind == HEADERS), "{told:?}");
    }
    world.until_metric(HEADER_TIMEOUT, |count| count == 3.0);
    assert_eq!(site.seen().len(), 1);
    assert_eq!(Http2::connect(&world).get("/else", &[]).status, 200);
}

/// What has come of it is no request: the connection is as idle as one that says nothing, and is told to go, and then has `body_timeout`.
#[test]
fn a_later_head_that_stops_in_its_middle_has_the_time_of_an_idle_connection() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), "limits: { header_timeout: 1h, idle_timeout: 1s, body_timeout: 1s }");
    let mut frames = Frames::connect(&world, &[]);
    frames.send(get(1));
    assert_eq!(next(&mut frames, is_whole).stream, 1);
    frames.send(half_a_head(3).0);
    let told = frames.attack([]);
    assert!(told.iter().any(|frame| frame.kind == GOAWAY && frame.payload[4..8] == [0; 4]), "{told:?}");
    assert!(!told.iter().any(|frame| frame.kind == HEADERS), "{told:?}");
    world.until_status("/connections/open", 0);
    assert_eq!((world.count(HEADER_TIMEOUT), site.seen().len()), (0, 1));
}

/// Within a head nothing else may be said, and so no PING answered.
#[test]
fn a_head_that_stops_in_its_middle_while_another_is_answered_ends_with_the_patience_for_a_ping() {
    let door = Door::default();
    let site = holding(&door);
    let world = Secure::open(&site.url(), "limits: { header_timeout: 1h, idle_timeout: 1s, body_timeout: 1h }");
    let mut frames = Frames::connect(&world, &[]);
    frames.send([get(1), half_a_head(3).0].concat());
    site.requests(1);
    let told = frames.attack([]);
    assert!(told.iter().any(|frame| frame.kind == PING), "{told:?}");
    assert!(!told.iter().any(is_whole), "{told:?}");
    world.until_status("/connections/open", 0);
    assert!(!door.is_open());
    door.open();
    world.until_status("/slots/in_flight", 0);
    assert_eq!((world.count(HEADER_TIMEOUT), site.seen().len()), (0, 1));
}
