//! Requests as bytes, and what must come of each: refused, for this reason and no other, or forwarded as exactly these bytes.
//!
//! What is between two servers that read a request differently belongs to whoever sent it. So each case of [`cases`] is followed by an
//! ordinary request: on the same connection, behind it in one write, with another before it, cut in two, and at a gate that lets
//! nobody in. Nothing of a case may be answered twice or end up in what follows, and the site, which reads more strictly than most
//! ([`site`]), must see as many requests as were forwarded, each with one framing. What comes over HTTP/2 has cases of its own
//! ([`downgraded`]).

mod cases;
mod downgraded;
mod mutated;
mod site;

use crate::support::{Answer, Client, World, until};

use cases::{Case, Outcome};
use site::Strict;

const BEFORE: &str = "GET /before HTTP/1.1\r\nHost: test\r\n\r\n";
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: test\r\n\r\n";

/// Every reason for which requests have been refused, and how often.
fn refused(world: &World) -> Vec<(String, usize)> {
    let text = world.admin("/metrics").text();
    let counted = text.lines().filter_map(|line| line.strip_prefix("tidegate_requests_refused_total{reason=\""));
    counted.filter_map(|line| line.split_once("\"} ")).map(|(reason, count)| (reason.to_owned(), count.parse().unwrap())).collect()
}

/// What has been refused in between.
fn since(before: &[(String, usize)], now: Vec<(String, usize)>) -> Vec<(String, usize)> {
    let count = |reason: &str| before.iter().find(|(other, _)| other == reason).map_or(0, |(_, count)| *count);
    now.into_iter().map(|(reason, now)| (reason.clone(), now - count(&reason))).filter(|(_, delta)| *delta > 0).collect()
}

/// The same as soon as there is something.
#[track_caller]
fn refused_since(world: &World, before: &[(String, usize)]) -> Vec<(String, usize)> {
    until("the refusal to be counted", || Some(since(before, refused(world))).filter(|delta| !delta.is_empty()))
}

/// A gate in front of a strict site.
struct Tried {
    site: Strict,
    world: World,
}

impl Tried {
    fn start() -> Self {
        let site = Strict::start();
        let world = World::open(&site.url(), "");
        Self { site, world }
    }

    /// Sends pieces, and looks that the last but one answer is that of the case, and the last that of what follows it.
    #[track_caller]
    fn try_case(&self, case: &Case, before: usize, pieces: &[&[u8]]) {
        let name = case.name;
        let (seen, refused_before) = (self.site.seen().len(), refused(&self.world));
        let mut client = self.world.client();
        for piece in pieces {
            // the gate may have refused and closed already
            client.try_send(piece).ok();
        }
        for _ in 0..before {
            assert_eq!(client.answer().text(), "GET /before", "{name}");
        }
        let answer = client.try_answer(case.method()).unwrap_or_else(|error| panic!("{name}: {error}"));
        match &case.outcome {
            Outcome::Refused { status, reason } => {
                assert_eq!(answer.status, *status, "{name}: {}", answer.raw);
                assert_eq!(answer.header("connection"), Some("close"), "{name}: {}", answer.raw);
                assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{name}: {}", answer.raw);
                assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}: {}", answer.raw);
                client.assert_ends();
                let delta = refused_since(&self.world, &refused_before);
                assert_eq!(delta, [((*reason).to_owned(), 1)], "{name}");
                assert_eq!(self.site.seen().len(), seen + before, "{name}: the site has seen of it");
            }
            Outcome::Forwarded { bytes, stays } => {
                assert_eq!(answer.status, 200, "{name}: {}", answer.raw);
                self.follow(name, client, &answer, *stays);
                let now = self.site.seen();
                let expected = seen + before + 1 + usize::from(*stays);
                assert_eq!(now.len(), expected, "{name}: {:?}", &now[seen..]);
                assert_eq!(now[seen + before], *bytes, "{name}");
            }
        }
        assert_eq!(self.site.faults(), [""; 0], "{name}");
    }

    #[track_caller]
    fn follow(&self, name: &str, mut client: Client, answer: &Answer, stays: bool) {
        if stays {
            assert_eq!(answer.header("connection").unwrap_or("keep-alive"), "keep-alive", "{name}: {}", answer.raw);
            assert_eq!(client.answer().text(), "GET /after", "{name}");
        } else {
            assert_eq!(answer.header("connection").unwrap_or("close"), "close", "{name}: {}", answer.raw);
            client.assert_ends();
        }
    }
}

#[test]
fn each_case_comes_to_what_it_must() {
    let tried = Tried::start();
    for case in cases::all() {
        tried.try_case(&case, 0, &[&case.bytes, AFTER.as_bytes()]);
    }
}

#[test]
fn each_case_comes_to_the_same_in_the_middle_of_others() {
    let tried = Tried::start();
    for case in cases::all() {
        let together = [BEFORE.as_bytes(), &case.bytes, AFTER.as_bytes()].concat();
        tried.try_case(&case, 1, &[&together]);
    }
}

#[test]
fn each_case_comes_to_the_same_if_it_comes_in_two() {
    let tried = Tried::start();
    for case in cases::all() {
        let (first, second) = case.bytes.split_at(case.bytes.len() / 2);
        tried.try_case(&case, 0, &[first, second, AFTER.as_bytes()]);
    }
}

/// What the gate answers by itself, it answers without the site, and with a body that it reads, skips or refuses.
#[test]
fn nobody_is_answered_for_the_body_of_a_form() {
    let site = Strict::start();
    let world = World::open(&site.url(), "email_queue: { posts_per_client: 10000 }\n");
    let posts = cases::all().into_iter().filter(|case| case.bytes.starts_with(b"POST / "));
    for (case, path) in posts.flat_map(|case| [(case.clone(), "email"), (case.clone(), "invitation"), (case, "healthz")]) {
        let name = format!("{} to {path}", case.name);
        let bytes = [format!("POST /.tidegate/{path} ").as_bytes(), &case.bytes["POST / ".len()..]].concat();
        let mut client = world.client();
        client.try_send([&bytes[..], b"GET /.tidegate/healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"].concat()).ok();
        let answer = client.try_answer("POST").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(answer.status >= 400, "{name}: {}", answer.raw);
        match (&case.outcome, answer.header("connection")) {
            (Outcome::Forwarded { stays: true, .. }, None) => {
                // a body that nobody reads is skipped, or is the last of the connection
                let next = client.try_answer("GET").map(|next| next.text()).unwrap_or_default();
                assert!(next == "ok\n" || (next.is_empty() && path != "email"), "{name}: {next}");
            }
            // a body that is read is found to be none before the answer, and one that is skipped after it
            (Outcome::Refused { .. }, said) if path == "email" => assert_eq!(said, Some("close"), "{name}: {}", answer.raw),
            (Outcome::Refused { .. } | Outcome::Forwarded { .. }, _) => {}
        }
        client.assert_ends();
    }
    assert_eq!((site.seen().len(), site.faults().len()), (0, 0));
}

/// A body that is too large to be read ahead is under way to the site when the rest of it turns out to be none.
#[test]
fn a_streamed_body_that_breaks_off_is_never_whole_for_the_site() {
    let site = Strict::start();
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"], buffer: {{ request: 16KiB }} }}\nadmission: {{ mode: open }}\n",
        site.url()
    ));
    let large = format!("30d40\r\n{}\r\n", "x".repeat(200_000));
    for (count, rest) in ["zz\r\nabc\r\n0\r\n\r\n", "3\r\nabc0\r\n\r\n", "3\nabc\r\n0\r\n\r\n"].into_iter().enumerate() {
        let mut client = world.client();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.try_send([head, &large, rest, AFTER].concat()).ok();
        assert_eq!(client.answer().status, 400, "{rest:?}");
        client.assert_ends();
        let faults = until("the site to be left alone", || Some(site.faults()).filter(|faults| faults.len() > count));
        assert!(faults.iter().all(|fault| fault.starts_with("unexpected end of file within POST")), "{}", &faults[count][..80]);
        // and what comes next goes to a site that is none the wiser
        assert_eq!(world.get("/after", &[]).text(), "GET /after");
    }
    assert_eq!(site.seen().len(), 3);
}

/// Who waits is answered without the body being read: it must be skipped as a whole, or the connection closed.
#[test]
fn nobody_who_waits_is_answered_for_a_body() {
    let site = Strict::start();
    let world = World::start(&format!("upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\n", site.url()));
    for case in cases::all() {
        let name = case.name;
        let mut client = world.client();
        client.try_send([&case.bytes[..], b"GET /after HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"].concat()).ok();
        let answer = client.try_answer(case.method()).unwrap_or_else(|error| panic!("{name}: {error}"));
        match &case.outcome {
            Outcome::Forwarded { stays, .. } => {
                assert_eq!(answer.status, 503, "{name}: {}", answer.raw);
                // a body that can't be skipped at once ends the connection, and the answer says so
                if *stays && answer.header("connection") != Some("close") {
                    assert_eq!(client.answer().status, 503, "{name}");
                }
            }
            Outcome::Refused { status, .. } => assert!([*status, 503].contains(&answer.status), "{name}: {}", answer.raw),
        }
        client.assert_ends();
    }
    assert_eq!((site.seen().len(), site.faults().len()), (0, 0));
}
