//! Requests and frames that are nearly right, to the gate as it ships, in front of the strict site.
//!
//! Whatever is sent: each connection ends, each answer is whole and none is 500, the site has read exactly as many requests as were answered
//! by it, each with one framing, one host and nothing of the gate's own, nobody else notices, and the log tells of no panic.

use std::sync::Mutex;

use crate::mutations::mutate::Mutator;
use crate::mutations::{Tried, number};
use crate::support::*;

use super::AFTER;
use super::cases;
use super::site::Strict;

/// Of one connection, `None` if there is nothing more to try.
type Inputs = Mutex<(u64, Mutator)>;

fn inputs(seeds: Vec<Vec<u8>>, per_cent: u64) -> Inputs {
    let count = number("TIDEGATE_MUTATIONS", 2000) * per_cent / 100;
    Mutex::new((count, Mutator::new(seeds, number("TIDEGATE_MUTATIONS_SEED", 1))))
}

fn next(inputs: &Inputs) -> Option<Vec<u8>> {
    let mut inputs = inputs.lock().unwrap();
    inputs.0 = inputs.0.checked_sub(1)?;
    Some(inputs.1.input())
}

/// Who waits for more than there will be gives up soon; there are many of them at a time.
const HASTY: &str =
    "limits: { handshake_timeout: 5s, header_timeout: 300ms, body_timeout: 300ms, idle_timeout: 300ms }\nadmission: { mode: open }\n";
const CLIENTS: usize = 24;

/// Tries all inputs, some at a time.
fn try_all(name: &str, inputs: &Inputs, one: impl Fn(&[u8]) + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(input) = next(inputs) {
                    let _tried = Tried(name, &input);
                    one(&input);
                }
            });
        }
    });
}

/// Ends a gate, which must have been well all the time.
#[track_caller]
fn assert_well(gate: Gate) {
    assert_eq!(gate.get("/.tidegate/healthz", &[]).status, 200);
    until("all connections to end", || (gate.status().pointer("/connections/open")? == 0).then_some(()));
    assert_eq!(gate.status().pointer("/slots/in_flight").unwrap(), 0);
    let log = gate.end();
    assert!(!log.iter().any(|line| line.contains("panick")), "{}", log.join("\n"));
}

#[test]
fn requests_that_are_nearly_right() {
    let (site, scratch) = (Strict::start(), Scratch::new());
    let gate = Gate::serve(&scratch.write("gate.yaml", &format!("{}{HASTY}", own_ports(&site.url()))));
    let mut seeds: Vec<Vec<u8>> = cases::all().into_iter().map(|case| case.bytes).filter(|bytes| bytes.len() < 2000).collect();
    seeds.push(b"GET / HTTP/1.1\r\nHost: test\r\nCookie: tidegate_pass=v1.x; a=b\r\nCookie: __Host-tidegate_ticket=1;c=d\r\n\r\n".to_vec());
    let answered = Mutex::new(0);
    try_all("request", &inputs(seeds, 100), |input| {
        let mut client = Client::connect(gate.http);
        // behind it a request that nothing of it may reach, and another in which the connection ends
        let last = AFTER.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        client.try_send([input, AFTER.as_bytes(), last.as_bytes()].concat()).ok();
        let bytes = client.all();
        *answered.lock().unwrap() += answers_of_the_site(&bytes, input.starts_with(b"HEAD"));
    });
    assert_eq!(site.faults(), [""; 0]);
    for seen in site.seen() {
        assert_clean(&seen);
    }
    // what a client has not waited for may have been forwarded
    assert_eq!(site.seen().len(), answered.into_inner().unwrap());
    assert_well(gate);
}

/// Reads answers one after another, each of which must be whole; how many of them are not the gate's own.
#[track_caller]
fn answers_of_the_site(mut bytes: &[u8], to_head: bool) -> usize {
    let mut count = 0;
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = answer.parse(bytes) else { panic!("no answer: {}", bytes.escape_ascii()) };
        let all = |name: &str| -> Vec<String> {
            let lines = answer.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name));
            lines.map(|line| String::from_utf8_lossy(line.value).into_owned()).collect()
        };
        let status = answer.code.unwrap();
        assert_ne!(status, 500, "{}", bytes.escape_ascii());
        bytes = &bytes[head..];
        if status < 200 {
            assert_eq!(status, 100, "an interim answer");
            continue;
        }
        assert_eq!(all("transfer-encoding"), [""; 0]);
        let [length] = all("content-length").try_into().unwrap();
        let length: usize = length.parse().unwrap();
        let is_bare = bytes.len() < length || (to_head && bytes.starts_with(b"HTTP/1.1 "));
        assert!(!is_bare || to_head || bytes.is_empty(), "{} is shorter than {length}", bytes.escape_ascii());
        bytes = &bytes[if is_bare { 0 } else { length }..];
        count += usize::from(status == 200 && all("proxy-status").is_empty());
    }
    count
}

/// Nothing of what the site was sent is the gate's own, or of another connection.
#[track_caller]
fn assert_clean(seen: &str) {
    let head = seen.split("\n\n").next().unwrap_or_default();
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(':').unwrap();
        assert!(!["keep-alive", "proxy-connection", "expect", "proxy", "tidegate-pass", "upgrade"].contains(&name), "{seen}");
        assert!(name != "connection" || value == " te", "{seen}");
        let mut cookies = value.split(';').filter_map(|pair| Some(pair.split_once('=')?.0.trim_matches([' ', '\t'])));
        assert!(name != "cookie" || !cookies.any(|cookie| OURS.contains(&cookie)), "{seen}");
    }
}

const OURS: [&str; 4] = ["tidegate_pass", "__Host-tidegate_pass", "tidegate_ticket", "__Host-tidegate_ticket"];

const GOODBYE: &[u8] = &[0; 8];

/// Connections that are well until they are changed.
fn frame_seeds() -> Vec<Vec<u8>> {
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let end = [frame(PING, 0, 0, b"whatever"), frame(GOAWAY, 0, 0, GOODBYE)].concat();
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
    let cookies = [GET, &literal("cookie", "tidegate_pass=v1.x"), &literal("cookie", "a=b"), &literal("te", "trailers")].concat();
    let post = [POST, &literal("content-length", "5")].concat();
    let bodies = [
        frame(HEADERS, END_HEADERS, 1, &post),
        frame(DATA, 0, 1, b"hel"),
        frame(HEADERS, END_HEADERS, 3, POST),
        frame(DATA, END_STREAM, 1, b"lo"),
        frame(DATA, 8, 3, b"\x02xy\0\0"),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &literal("x-sum", "7")),
    ];
    let pieces = [
        frame(HEADERS, END_STREAM, 1, &GET[..3]),
        frame(CONTINUATION, 0, 1, &GET[3..5]),
        frame(CONTINUATION, END_HEADERS, 1, &GET[5..]),
        frame(HEADERS, END_HEADERS | END_STREAM | 0x20 | 8, 3, &[&[2, 0, 0, 0, 1, 9], GET, &[0, 0]].concat()),
    ];
    let others = [
        get(1),
        frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]),
        frame(PRIORITY, 0, 5, &[0, 0, 0, 1, 7]),
        frame(RESET, 0, 1, &[0, 0, 0, 8]),
        frame(SETTINGS, 1, 0, &[]),
        frame(0x77, 3, 9, b"?"),
        // indexed names and a dynamic table
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &[GET, b"\x40\x01a\x01b\xbe\x3f\xe1\x1f"].concat()),
    ];
    let middles = [
        get(1),
        [get(1), get(3), get(5)].concat(),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &cookies),
        bodies.concat(),
        pieces.concat(),
        others.concat(),
    ];
    middles.iter().map(|middle| [PREFACE, &settings, middle, &end].concat()).collect()
}

#[test]
fn frames_that_are_nearly_right() {
    let (site, scratch, authority) = (Strict::behind("https"), Scratch::new(), Authority::new());
    authority.issue(scratch.path(), "site", &["test"]);
    let yaml =
        own_ports(&site.url()).replace("workers: 1", "workers: 1, https: { address: 127.0.0.1:0, certificate: site.pem, key: site.key }");
    let gate = Gate::serve(&scratch.write("gate.yaml", &format!("{yaml}{HASTY}")));
    let https = gate.started["https"].as_str().unwrap().parse().unwrap();
    let visitor = authority.visitor(&[b"h2"]);
    try_all("frames", &inputs(frame_seeds(), 25), |input| {
        let mut client = Client::connect(https).secured(&visitor, "test").unwrap();
        client.try_send(input).ok();
        let mut bytes = &client.all()[..];
        // frames of the gate's, each whole but the last, if it was cut
        while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
            assert!(*kind <= 9, "{}", bytes.escape_ascii());
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
            bytes = rest.get(length..).unwrap_or_default();
        }
    });
    assert_eq!(site.faults(), [""; 0]);
    for seen in site.seen() {
        assert_clean(&seen);
    }
    assert_well(gate);
}
