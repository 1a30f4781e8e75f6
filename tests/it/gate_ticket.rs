//! Tickets: given, shown again, forged.

use serde_json::Value;

use crate::support::{Upstream, World, request, until};

const BROWSER: &str = "Accept: text/html";

/// A gate at which nobody's draw is won.
fn nobody_wins(more: &str) -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world =
        World::start(&format!("upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: fixed, probability: 0.0 }}\n{more}", upstream.url()));
    (upstream, world)
}

fn own_status(world: &World, cookie: &str) -> Value {
    let answer = world.get("/.tidegate/status", &[cookie]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.all("set-cookie").is_empty());
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn a_ticket_is_given_once_and_stays_the_same() {
    let (_upstream, world) = nobody_wins("waiting_room: { refresh: 3s }");
    let first = world.get("/", &[BROWSER]);
    let line = first.all("set-cookie").join("\n");
    assert!(line.starts_with("tidegate_ticket=v1."), "{line}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Max-Age=180"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("Secure") && !line.contains("Domain"), "{line}");
    let ticket = first.ticket();
    let status = own_status(&world, &ticket);
    assert_eq!(status["verdict"], "wait");
    let id = status["ticket"].as_str().unwrap().to_owned();
    // it is renewed when it has aged, and is the same visitor's
    let renewed = until("the ticket to be renewed", || {
        let answer = world.get("/", &[BROWSER, &ticket]);
        assert_eq!(answer.status, 503);
        answer.cookie("tidegate_ticket").map(|_| answer.ticket())
    });
    assert_ne!(renewed, ticket);
    assert_eq!(own_status(&world, &renewed)["ticket"], id.as_str());
    // one visitor, however often the page was loaded; at the seam of two epochs it is in both
    let waiting = world.until_metric("tidegate_visitors_waiting", |waiting| waiting >= 1.0);
    assert!(waiting < 2.5, "{waiting}");
}

#[test]
fn the_pass_takes_the_id_of_the_ticket() {
    let (_upstream, world) = nobody_wins("");
    let ticket = world.get("/", &[BROWSER]).ticket();
    let id = own_status(&world, &ticket)["ticket"].as_str().unwrap().to_owned();
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    // a winning ticket that is shown twice is the same visitor's
    for _ in 0..2 {
        let admitted = world.get("/", &[BROWSER, &ticket]);
        assert_eq!((admitted.status, admitted.text().as_str()), (200, "the site"));
        let status = own_status(&world, &admitted.pass());
        assert_eq!((status["verdict"].as_str(), status["pass"].as_str()), (Some("admit"), Some(id.as_str())));
    }
    assert_eq!(world.metric("tidegate_wait_seconds_count") as u64, 2);
}

#[test]
fn what_was_tampered_with_counts_as_absent() {
    let (upstream, world) = nobody_wins("");
    let (_elsewhere, foreign) = nobody_wins("");
    let ticket = world.get("/", &[BROWSER]).cookie("tidegate_ticket").unwrap().to_owned();
    let foreign = foreign.get("/", &[BROWSER]).cookie("tidegate_ticket").unwrap().to_owned();
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let pass = world.get("/", &[BROWSER]).cookie("tidegate_pass").unwrap().to_owned();
    world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#);
    let seen = upstream.seen().len();
    let changed = |token: &str| {
        let middle = token.len() / 2;
        let other = if &token[middle..=middle] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &token[..middle], &token[middle + 1..])
    };
    for (cookie, reason) in [
        (format!("tidegate_ticket={}", changed(&ticket)), "forged"),
        (format!("tidegate_pass={}", changed(&pass)), "forged"),
        (format!("tidegate_ticket={}", &ticket[..ticket.len() - 1]), "malformed"),
        (format!("tidegate_pass={}", &pass[..20]), "malformed"),
        ("tidegate_pass=".to_owned(), "malformed"),
        ("tidegate_pass=../../etc/passwd".to_owned(), "malformed"),
        (format!("tidegate_pass=v2{}", &pass[2..]), "version"),
        (format!("tidegate_ticket={foreign}"), "unknown_key"),
        // a ticket is never read as a pass, nor the other way
        (format!("tidegate_pass={ticket}"), "kind"),
        (format!("tidegate_ticket={pass}"), "kind"),
    ] {
        let metric = format!("tidegate_tokens_rejected_total{{reason=\"{reason}\"}}");
        let before = world.metric(&metric);
        let answer = world.get("/", &[BROWSER, &format!("Cookie: a=b; {cookie}")]);
        assert_eq!(answer.status, 503, "{cookie}");
        assert!(answer.cookie("tidegate_ticket").is_some(), "a visitor like any other gets a ticket: {cookie}");
        assert_eq!((world.metric(&metric) - before) as i64, 1, "{cookie}: {reason}");
    }
    assert_eq!(upstream.seen().len(), seen, "one of them got in");
    // beside bad ones, the good one is found
    let line = format!("Cookie: tidegate_pass={}; tidegate_pass={pass}; tidegate_pass=x", changed(&pass));
    assert_eq!(world.get("/", &[BROWSER, &line]).status, 200);
}

#[test]
fn one_network_gets_so_many_tickets_a_minute() {
    let (_upstream, world) = nobody_wins("limits: { tickets_per_client: 3 }\nclient: { trusted_proxies: [127.0.0.1/32] }");
    let from = |client: &str| world.get("/", &[BROWSER, &format!("X-Forwarded-For: {client}")]);
    let mine = from("192.0.2.1").ticket();
    for _ in 0..2 {
        assert!(from("192.0.2.1").cookie("tidegate_ticket").is_some());
    }
    for _ in 0..3 {
        let answer = from("192.0.2.1");
        assert_eq!(answer.status, 503);
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
        assert!(answer.text().contains("Very many people are coming from your network"), "{}", answer.text());
        // it may be that cookies are off, or that the minute is not over: the page comes back and tries again
        assert!(answer.header("refresh").is_some() && answer.header("retry-after").is_some());
    }
    // who has one keeps it, and other networks have their own share
    let status = own_status(&world, &mine);
    assert_eq!(status["verdict"], "wait");
    assert!(!world.get("/", &[BROWSER, &mine, "X-Forwarded-For: 192.0.2.1"]).text().contains("have a ticket yet"));
    assert!(from("192.0.2.2").cookie("tidegate_ticket").is_some());
    // of an IPv6 network the first 64 bits count
    for host in 1..=3 {
        assert!(from(&format!("2001:db8::{host}")).cookie("tidegate_ticket").is_some());
    }
    assert!(from("2001:db8::ffff:4").all("set-cookie").is_empty());
    assert!(from("2001:db8:0:1::1").cookie("tidegate_ticket").is_some());
}

#[test]
fn a_ticket_beside_a_pass_that_has_ended_is_heeded() {
    let (_upstream, world) = nobody_wins("session: { active: 1s, idle: 1s, limit: 1h }");
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let pass = world.pass();
    world.admin_post("/mode", "application/json", r#"{"mode":"file"}"#);
    until("the pass to end", || Some(own_status(&world, &pass)).filter(|status| status["verdict"].is_null()));
    // the browser still has the cookie, and sends both
    let waiting = world.get("/", &[BROWSER, &pass]);
    assert_eq!(waiting.status, 503);
    let both = format!("{pass}; tidegate_ticket={}", waiting.cookie("tidegate_ticket").unwrap());
    let again = world.get("/", &[BROWSER, &both]);
    assert_eq!(again.status, 503);
    assert!(again.all("set-cookie").is_empty(), "it was given another ticket, so it would never draw: {}", again.raw);
    let id = own_status(&world, &waiting.ticket())["ticket"].clone();
    assert_eq!(own_status(&world, &both)["ticket"], id);
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let admitted = world.get("/", &[BROWSER, &both]);
    assert_eq!(own_status(&world, &admitted.pass())["pass"], id);
}

#[test]
fn the_first_visit_draws_nothing_and_the_second_may_win() {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: fixed, probability: 0.999 }}\nwaiting_room: {{ refresh: 1s }}",
        upstream.url()
    ));
    for _ in 0..20 {
        let answer = world.get("/", &[BROWSER]);
        assert_eq!(answer.status, 503, "while not everyone may enter, a client without a ticket is never drawn");
        assert_eq!(answer.header("retry-after"), Some("2"));
    }
    let ticket = world.get("/", &[BROWSER]).ticket();
    let admitted = until("a draw to be won", || Some(world.get("/", &[BROWSER, &ticket])).filter(|answer| answer.status == 200));
    assert!(admitted.cookie("tidegate_pass").is_some());
    assert!(admitted.cookie("tidegate_ticket").is_none());
    let request = upstream.requests(1)[0].clone();
    assert!(request.header("cookie").is_none(), "the ticket reached the site: {}", request.raw);
}

#[test]
fn parts_of_a_page_draw_nothing() {
    let (_upstream, world) = nobody_wins("");
    let ticket = world.get("/", &[BROWSER]).ticket();
    world.admin_post("/mode", "application/json", r#"{"mode":"fixed","probability":1}"#);
    let part = world.get("/logo", &["Sec-Fetch-Dest: image", &ticket]);
    assert_eq!((part.status, part.body.len()), (503, 0));
    assert!(part.all("set-cookie").is_empty());
    let mut client = world.client();
    client.send(request("GET", "/", &[BROWSER, &ticket]));
    assert_eq!(client.answer().status, 200);
}
