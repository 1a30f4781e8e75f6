//! Passes that the operator mints: the header, the link, its button.

use crate::support::{Answer, Upstream, World, request, run, until};

const BROWSER: &str = "Accept: text/html";

/// A gate that lets nobody in.
fn closed() -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let yaml = format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\ninvitations: {{ site_url: \"https://www.example.org\" }}\n\
         client: {{ trusted_proxies: [127.0.0.1/32] }}\nbypass: {{ revoked: [] }}\n",
        upstream.url()
    );
    let world = World::start(&yaml);
    (upstream, world)
}

struct Minted {
    id: String,
    /// The path and query of the link.
    link: String,
    header: String,
    code: String,
}

#[track_caller]
fn mint(world: &World, lasts: &str) -> Minted {
    let said = run(&["mint", "--for", lasts, "--note", "press desk"], &world.file());
    assert_eq!(said.status, Some(0), "{}", said.err);
    let after = |label: &str| said.out.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim().to_owned();
    let link = after("link:").strip_prefix("https://www.example.org").unwrap().to_owned();
    let code = link.split_once("code=").unwrap().1.to_owned();
    Minted { id: after("id:"), header: after("header:"), link, code }
}

fn post(world: &World, body: &str, headers: &[&str]) -> Answer {
    let length = format!("Content-Length: {}", body.len());
    let mut lines = vec![BROWSER, "Content-Type: application/x-www-form-urlencoded", &length];
    lines.extend_from_slice(headers);
    let mut client = world.client();
    client.send(request("POST", "/.tidegate/invitation", &lines));
    // one that is refused may be answered before it is read
    client.try_send(body).ok();
    client.answer()
}

#[test]
fn the_header_passes_a_closed_gate_and_the_site_does_not_see_it() {
    let (upstream, world) = closed();
    let minted = mint(&world, "2h");
    assert_eq!(world.get("/", &[BROWSER]).status, 503);
    let answer = world.get("/", &["Accept: application/json", &minted.header]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "the site"));
    assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
    assert!(!upstream.requests(1)[0].raw.to_ascii_lowercase().contains("tidegate"));
    assert_eq!(world.count("tidegate_requests_total{verdict=\"bypass\"}"), 1);
    let list = std::fs::read_to_string(world.data().join("minted.jsonl")).unwrap();
    assert!(list.contains(&minted.id) && list.contains("press desk") && !list.contains(&minted.code), "{list}");
}

#[test]
fn the_link_shows_a_button_and_the_button_lets_in() {
    let (upstream, world) = closed();
    let minted = mint(&world, "2h");
    // mail scanners follow links: that must not use it up, nor let anyone in
    for _ in 0..3 {
        let page = world.get(&format!("{}&next=/apply", minted.link), &[BROWSER]);
        assert_eq!(page.status, 200);
        assert!(page.all("set-cookie").is_empty(), "{}", page.raw);
        assert_eq!((page.header("refresh"), page.header("location")), (None, None));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("referrer-policy"), Some("strict-origin"), "the code must not go to other sites");
        let text = page.text();
        for part in ["method=\"post\"", "action=\"/.tidegate/invitation\"", "<button>", &minted.code, "You will go to: &#x2f;apply"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    let body = format!("code={}&next=%2Fapply%3Fstep%3D2", minted.code);
    let answer = post(&world, &body, &["X-Forwarded-Proto: https", "Origin: https://test"]);
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_eq!(answer.header("location"), Some("/apply?step=2"));
    let cookie = answer.all("set-cookie").join("\n");
    assert!(cookie.starts_with("__Host-tidegate_pass=v1.") && cookie.contains("; HttpOnly") && cookie.contains("; Secure"), "{cookie}");
    assert!(cookie.contains("; Max-Age=7"), "it lasts as long as the pass does: {cookie}");
    assert!(upstream.seen().is_empty());
    let line = format!("Cookie: {}", cookie.split(';').next().unwrap());
    assert_eq!(world.get("/apply?step=2", &[BROWSER, "X-Forwarded-Proto: https", &line]).status, 200);
    // over plain http the cookie has no prefix
    assert!(post(&world, &body, &[]).cookie("tidegate_pass").is_some());
}

#[test]
fn the_page_asked_for_is_one_of_this_site() {
    let (_upstream, world) = closed();
    let code = mint(&world, "2h").code;
    for next in ["https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2F%5Cevil.example", "javascript%3Aalert(1)", ""] {
        let answer = post(&world, &format!("code={code}&next={next}"), &[]);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")), "{next}");
    }
    let page = world.get(&format!("/.tidegate/invitation?code={code}&next=%2F%2Fevil.example"), &[BROWSER]);
    assert!(!page.text().contains("evil"), "{}", page.text());
    let page = world.get("/.tidegate/invitation?code=%3Cscript%3E&next=%2F%22%3E%3Cscript%3E", &[BROWSER]);
    assert!(!page.text().contains("<script"), "{}", page.text());
}

#[test]
fn a_page_of_another_site_can_not_press_the_button() {
    let (_upstream, world) = closed();
    let body = format!("code={}", mint(&world, "2h").code);
    for origin in ["Origin: https://evil.example", "Origin: null", "Origin: http://test.evil.example", "Origin: http://test:81"] {
        let answer = post(&world, &body, &[origin]);
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_error"), "{origin}");
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
    }
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"origin\"}"), 4);
    assert_eq!(post(&world, &body, &["Origin: http://test"]).status, 303);
}

#[test]
fn what_has_ended_or_is_no_code_lets_nobody_in() {
    let (upstream, world) = closed();
    let (expires, revoked, good) = (mint(&world, "1s"), mint(&world, "2h"), mint(&world, "2h"));
    let text = std::fs::read_to_string(world.file()).unwrap();
    std::fs::write(world.file(), text.replace("revoked: []", &format!("revoked: [\"{}\"]", revoked.id))).unwrap();
    assert_eq!(world.admin_post("/reload", "application/json", "").status, 200);
    let button = |minted: &Minted| world.get(&minted.link, &[BROWSER]).text().contains(&minted.code);
    until("the pass to expire", || Some(()).filter(|()| !button(&expires)));
    assert!(!button(&revoked) && button(&good));
    let ticket = {
        let line = world.get("/", &[BROWSER]).ticket();
        line.rsplit('=').next().unwrap().to_owned()
    };
    let mistyped = format!("{}x", &good.code[..good.code.len() - 1]);
    for (code, word) in [(&expires.code, "xpired"), (&revoked.code, ""), (&mistyped, ""), (&ticket, ""), (&String::new(), "")] {
        let answer = post(&world, &format!("code={code}"), &[]);
        assert_eq!(answer.status, 403, "{code}");
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
        assert!(answer.text().contains(word), "{}", answer.text());
    }
    for minted in [&expires, &revoked] {
        assert_eq!(world.get("/", &[BROWSER, &minted.header]).status, 503);
    }
    assert_eq!(world.get("/", &[BROWSER, &good.header]).status, 200);
    assert_eq!(upstream.seen().len(), 1);
    // without a code there is a field to type one into
    let page = world.get("/.tidegate/invitation", &[BROWSER]);
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<input id=\"code\" name=\"code\""), "{}", page.text());
}

#[test]
fn a_pass_that_a_visitor_drew_is_no_code() {
    let (_upstream, world) = closed();
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let pass = world.get("/", &[BROWSER]).cookie("tidegate_pass").unwrap().to_owned();
    let answer = post(&world, &format!("code={pass}"), &[]);
    assert_eq!(answer.status, 403);
    assert!(answer.all("set-cookie").is_empty());
}

#[test]
fn a_form_that_is_too_long_is_refused() {
    let (_upstream, world) = closed();
    let answer = post(&world, &format!("code={}", "x".repeat(20_000)), &[]);
    assert_eq!(answer.status, 413);
    assert_eq!(world.get("/.tidegate/nothing", &[]).status, 404);
    let mut client = world.client();
    client.send(request("DELETE", "/.tidegate/invitation", &[]));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, POST")));
}

#[test]
fn bypass_not_before_ends_what_was_minted_and_spares_who_drew() {
    let (_upstream, world) = closed();
    let minted = mint(&world, "2h");
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let drew = world.pass();
    world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#);
    let text = std::fs::read_to_string(world.file()).unwrap();
    std::fs::write(world.file(), text.replace("revoked: []", "not_before: 2120-01-01T00:00:00Z")).unwrap();
    assert_eq!(world.admin_post("/reload", "application/json", "").status, 200);
    assert_eq!(world.get("/", &[BROWSER, &minted.header]).status, 503);
    assert_eq!(world.get("/", &[BROWSER, &drew]).status, 200);
}
