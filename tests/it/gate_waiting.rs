//! The waiting room, in the form that the client accepts.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Answer, Upstream, World, request, until, unzipped};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
const API: &str = "Accept: application/json";
const IMAGE: &str = "Sec-Fetch-Dest: image";

/// What goes out in the first flight of a TCP connection: ten segments.
const FIRST_FLIGHT: usize = 14 * 1024;

/// A site, and a gate that lets nobody in.
fn closed(more: &str) -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!("upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\n{more}", upstream.url()));
    (upstream, world)
}

/// What every waiting answer carries.
#[track_caller]
fn assert_waiting(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.raw);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
    assert_eq!(answer.header("referrer-policy"), Some("strict-origin"));
    assert_eq!(answer.header("retry-after"), Some("10"));
    assert_eq!(answer.all("proxy-status"), ["tidegate; error=http_request_denied; details=\"wait\""]);
    assert!(answer.raw.len() + answer.body.len() < FIRST_FLIGHT, "{} bytes", answer.raw.len() + answer.body.len());
}

#[test]
fn a_navigation_gets_a_page_that_comes_back_by_itself() {
    let (upstream, world) = closed("");
    let answer = world.get("/apply", &[BROWSER]);
    assert_waiting(&answer);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("refresh"), Some("10"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(policy.split("; ").filter(|part| part.starts_with("script-src 'sha256-") && !part.contains("' ")).count(), 1, "{policy}");
    assert!(answer.text().contains("Nobody is being let in right now"), "{}", answer.text());
    assert!(answer.cookie("tidegate_ticket").is_some());
    assert!(upstream.seen().is_empty(), "it reached the site");
}

#[test]
fn a_program_gets_json_of_exactly_these_keys() {
    let (_upstream, world) = closed("");
    let answer = world.get("/api/cases", &[API]);
    assert_waiting(&answer);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("refresh"), None);
    assert!(answer.cookie("tidegate_ticket").is_some());
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 4, "{json}");
    assert_eq!(json["verdict"], "wait");
    assert_eq!(json["retry_after_s"], 10);
    assert!(json["expected_wait_s"].is_null() && json["position"].is_null(), "{json}");
}

#[test]
fn a_terminal_gets_one_line_of_text() {
    let (_upstream, world) = closed("");
    for headers in [&["Accept: */*"][..], &[]] {
        let answer = world.get("/", headers);
        assert_waiting(&answer);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("refresh"), None);
        assert_eq!(answer.text().lines().count(), 1, "{}", answer.text());
        assert!(answer.text().contains("waiting room"), "{}", answer.text());
    }
}

#[test]
fn parts_of_a_page_get_nothing_and_no_ticket() {
    let (_upstream, world) = closed("");
    for headers in [&[IMAGE][..], &["Accept: image/webp,*/*"], &["Sec-Fetch-Dest: script"], &["Accept: text/css,*/*;q=0.1"]] {
        let answer = world.get("/logo", headers);
        assert_waiting(&answer);
        assert!(answer.body.is_empty());
        assert_eq!((answer.header("content-type"), answer.header("refresh")), (None, None));
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
    }
}

#[test]
fn the_status_of_a_waiting_answer_is_the_operators() {
    for status in [200, 202, 429] {
        let (_upstream, world) = closed(&format!("waiting_room: {{ status: {status}, refresh: 25s }}"));
        for accept in [BROWSER, API, "Accept: */*", IMAGE] {
            let answer = world.get("/", &[accept]);
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("retry-after"), Some("25"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

#[test]
fn a_form_without_a_pass_is_told_and_never_sent_again_by_itself() {
    let (upstream, world) = closed("");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let mut client = world.client();
        client.send(request(method, "/apply", &[BROWSER, "Content-Length: 10", "Content-Type: application/x-www-form-urlencoded"]));
        client.send("name=Eve+x");
        let answer = client.answer();
        assert_waiting(&answer);
        assert_eq!((answer.header("refresh"), answer.header("location")), (None, None), "{method}");
        assert!(answer.text().contains("has not reached the site"), "{}", answer.text());
        assert!(!answer.text().contains("http-equiv"), "{}", answer.text());
    }
    let mut client = world.client();
    client.send(request("POST", "/apply", &["Accept: */*", "Content-Length: 0"]));
    let answer = client.answer();
    assert_waiting(&answer);
    assert!(answer.text().contains("has not reached the site"), "{}", answer.text());
    assert!(upstream.seen().is_empty(), "it reached the site");
}

#[test]
fn who_takes_gzip_gets_the_same_page_in_half_the_bytes() {
    for (form, more) in [(true, ""), (false, "email_queue: { enabled: false }")] {
        let (_upstream, world) = closed(more);
        let mut client = world.client();
        let ticket = client.get("/", &[BROWSER]).ticket();
        let plain = client.get("/apply?a=b&c=d", &[BROWSER, &ticket]);
        let zipped = client.get("/apply?a=b&c=d", &[BROWSER, &ticket, "Accept-Encoding: gzip, deflate, br, zstd"]);
        assert_eq!((plain.status, zipped.status), (503, 503));
        assert_eq!((plain.header("content-encoding"), zipped.header("content-encoding")), (None, Some("gzip")));
        assert_eq!(zipped.header("content-type"), plain.header("content-type"));
        assert_eq!(unzipped(&zipped.body), plain.text());
        assert!(2 * zipped.body.len() < plain.body.len(), "{} of {} bytes", zipped.body.len(), plain.body.len());
        assert_eq!(plain.text().contains("name=\"check\""), form);
        client.send(request("HEAD", "/apply?a=b&c=d", &[BROWSER, &ticket, "Accept-Encoding: gzip"]));
        let head = client.answer_to_head();
        assert_eq!(head.header("content-length"), zipped.header("content-length"));
        // what is no page is short, and stays as it is
        for accept in [API, "Accept: */*", IMAGE] {
            assert_eq!(client.get("/", &[accept, &ticket, "Accept-Encoding: gzip"]).header("content-encoding"), None, "{accept}");
        }
    }
}

#[test]
fn a_page_of_an_operators_is_zipped_too_unless_it_is_huge() {
    let paragraph = "<p>A room of our own.</p>\n";
    for (paragraphs, coding) in [(400, Some("gzip")), (6000, None)] {
        let page = format!("{}{{{{ email_form }}}}", paragraph.repeat(paragraphs));
        let write = |directory: &Path| fs::write(directory.join("room.html"), &page).unwrap();
        let upstream = Upstream::answering("the site");
        let yaml = format!(
            "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\nwaiting_room: {{ template: room.html }}",
            upstream.url()
        );
        let world = World::prepared(&yaml, write);
        let answer = world.get("/", &[BROWSER, "Accept-Encoding: gzip"]);
        assert_eq!((answer.status, answer.header("content-encoding")), (503, coding));
        let text = if coding.is_some() { unzipped(&answer.body) } else { answer.text() };
        assert!(text.starts_with(&paragraph.repeat(paragraphs)) && text.contains("name=\"check\""));
    }
}

#[test]
fn a_head_is_a_get_without_the_page() {
    let (_upstream, world) = closed("");
    let mut client = world.client();
    let whole = client.get("/", &[BROWSER]);
    client.send(request("HEAD", "/", &[BROWSER]));
    let head = client.answer_to_head();
    assert_waiting(&head);
    for name in ["content-type", "content-length", "refresh", "content-security-policy"] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
    // the same connection serves on: no byte of a body came after the head
    assert_waiting(&client.get("/", &[BROWSER]));
}

#[test]
fn every_state_of_the_page_fits_the_first_flight() {
    let (_upstream, world) = closed("limits: { tickets_per_client: 1 }\nwaiting_room: { refresh: 10s }");
    let first = world.get("/", &[BROWSER]);
    assert_waiting(&first);
    // the one ticket of this network is gone
    let without = world.get("/", &[BROWSER]);
    assert_waiting(&without);
    assert!(without.text().contains("have a ticket yet"), "{}", without.text());
    // what is closed for newcomers waits with figures when it is drawn
    world.admin_post("/mode", "application/json", r#"{"mode":"fixed","probability":0.01}"#);
    let answer = world.get("/", &[BROWSER, &first.ticket()]);
    assert!(answer.raw.len() + answer.body.len() < FIRST_FLIGHT);
    assert!(answer.text().contains("You are waiting") || answer.status == 200, "{}", answer.text());
}

#[test]
fn who_waits_is_told_how_long() {
    let (_upstream, world) = closed("");
    world.admin_post("/mode", "application/json", r#"{"mode":"fixed","probability":0.2}"#);
    let answer = world.get("/", &[API]);
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    // no ticket yet: its first draw is two seconds away
    assert_eq!(json["retry_after_s"], 2);
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert!(json["expected_wait_s"].as_u64().is_some_and(|wait| wait > 0), "{json}");
}

// the order of arrival

/// A closed gate with a line, in which everyone checks in each second.
fn line() -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed, order: arrival }}\nwaiting_room: {{ refresh: 1s, refresh_max: 10s }}",
        upstream.url()
    ));
    (upstream, world)
}

fn position(answer: &Answer) -> Option<u64> {
    serde_json::from_slice::<Value>(&answer.body).unwrap()["position"].as_u64()
}

#[test]
fn who_stands_in_a_line_is_told_the_place() {
    let (_upstream, world) = line();
    let first: Vec<String> = (0..5).map(|_| world.get("/", &[API]).ticket()).collect();
    let check_in = || first.iter().map(|ticket| position(&world.get("/", &[API, ticket])).unwrap()).max().unwrap();
    until("all five to be counted", || {
        let last = check_in();
        assert!(last <= 5, "{last}");
        (last >= 4).then_some(())
    });
    // who comes in a later grain of time stands behind all of them, as long as they attend
    let last = until("someone to stand behind all", || {
        check_in();
        Some(world.get("/", &[API])).filter(|answer| position(answer).is_some_and(|position| position >= 6))
    });
    let status = || serde_json::from_slice::<Value>(&world.get("/.tidegate/status", &[&last.ticket()]).body).unwrap();
    let own = status();
    assert!(own["position"].as_u64().is_some_and(|position| position >= 5) && own["reason"] == "closed", "{own}");
    assert!(own["expected_wait_s"].is_null(), "nobody is let in: {own}");
    let page = world.get("/", &[BROWSER, &last.ticket()]).text();
    assert!(page.contains("Your place in the order of arrival: ") && page.contains("let in by order of arrival"), "{page}");
    world.until_metric("tidegate_line_length", |length| length >= 5.0);
    assert!(world.metric("tidegate_line_timestamp_seconds") > 1.7e9);
    assert!(world.metric("tidegate_expected_wait_seconds").is_infinite());
    let operator = world.status();
    assert!(operator["order"] == "arrival" && operator["line"]["length"].as_u64().is_some_and(|length| length >= 5), "{operator}");
    world.admin_post("/mode", "application/json", r#"{"mode":"auto"}"#);
    until("the ticket to be in line", || (status()["reason"] == "in_line").then_some(()));
}

#[test]
fn when_there_is_room_again_the_line_goes_in() {
    let (_upstream, world) = line();
    let mut tickets: Vec<String> = (0..5).map(|_| world.get("/", &[API]).ticket()).collect();
    world.admin_post("/mode", "application/json", r#"{"mode":"auto"}"#);
    until("everyone to be in", || {
        tickets.retain(|ticket| world.get("/", &[API, ticket]).status == 503);
        tickets.is_empty().then_some(())
    });
    // and who comes then need not wait
    until("the line to be open", || Some(()).filter(|()| world.get("/", &[API]).status == 200));
}
