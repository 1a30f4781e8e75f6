//! Passes: given, shown, renewed, ended.

use serde_json::{Value, json};

use crate::support::{Answer, Http2, Secure, Upstream, World, ok, request, until};

const BROWSER: &str = "Accept: text/html";
const HTTPS: &str = "X-Forwarded-Proto: https";
const TRUSTED: &str = "client: { trusted_proxies: [127.0.0.1/32] }\n";

/// A site that says whom it saw, and a gate that lets everyone in.
fn open(more: &str) -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world = World::open(&upstream.url(), more);
    (upstream, world)
}

fn mode(world: &World, mode: &str) {
    let answer = world.admin_post("/mode", "application/json", &json!({ "mode": mode }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn own_status(world: &World, line: &str) -> Value {
    serde_json::from_slice(&world.get("/.tidegate/status", &[line]).body).unwrap()
}

fn id(world: &World, line: &str) -> String {
    own_status(world, line)["pass"].as_str().unwrap().to_owned()
}

/// Puts further YAML into force.
#[track_caller]
fn reload(world: &World, from: &str, to: &str) {
    let text = std::fs::read_to_string(world.file()).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(world.file(), text.replace(from, to)).unwrap();
    let answer = world.admin_post("/reload", "application/json", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn who_was_let_in_stays_in_when_the_gate_closes() {
    let (upstream, world) = open("");
    let first = world.get("/", &[BROWSER]);
    assert_eq!((first.status, first.text().as_str()), (200, "the site"));
    let line = first.all("set-cookie").join("\n");
    assert!(line.starts_with("tidegate_pass=v1."), "{line}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Max-Age=14400"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("Secure"), "{line}");
    mode(&world, "closed");
    assert_eq!(world.get("/", &[BROWSER]).status, 503);
    let again = world.get("/next", &[BROWSER, &first.pass()]);
    assert_eq!((again.status, again.text().as_str()), (200, "the site"));
    assert!(again.all("set-cookie").is_empty(), "a pass that is fresh is not renewed: {}", again.raw);
    assert!(upstream.requests(2)[1].header("cookie").is_none(), "the pass reached the site");
}

#[test]
fn over_tls_cookies_are_secure_and_bound_to_the_host() {
    let (_upstream, world) = open(TRUSTED);
    let pass = world.get("/", &[BROWSER, HTTPS]).all("set-cookie").join("\n");
    assert!(pass.starts_with("__Host-tidegate_pass=v1."), "{pass}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=None", "; Secure"] {
        assert!(pass.contains(part), "{pass}");
    }
    assert!(!pass.contains("Domain"), "{pass}");
    mode(&world, "closed");
    let ticket = world.get("/", &[BROWSER, HTTPS]).all("set-cookie").join("\n");
    assert!(ticket.starts_with("__Host-tidegate_ticket=v1."), "{ticket}");
    assert!(ticket.contains("; SameSite=Lax") && ticket.contains("; Secure") && ticket.contains("; HttpOnly"), "{ticket}");
    // it is found under its name
    let cookie = format!("Cookie: {}", pass.split(';').next().unwrap());
    assert_eq!(world.get("/", &[BROWSER, HTTPS, &cookie]).status, 200);
}

#[test]
fn a_proxy_that_is_not_trusted_cannot_say_that_it_was_tls() {
    let (_upstream, world) = open("");
    let pass = world.get("/", &[BROWSER, HTTPS, "X-Forwarded-For: 192.0.2.1"]).all("set-cookie").join("\n");
    assert!(pass.starts_with("tidegate_pass=v1.") && !pass.contains("Secure"), "{pass}");
    world.until_metric("tidegate_untrusted_forwarded_total", |count| count >= 1.0);
}

#[test]
fn a_pass_for_a_domain_holds_for_its_subdomains() {
    let (_upstream, world) = open(&format!("{TRUSTED}session: {{ domain: example.org }}\n"));
    let pass = world.get("/", &[BROWSER, HTTPS]).all("set-cookie").join("\n");
    assert!(pass.starts_with("__Secure-tidegate_pass=v1.") && pass.contains("; Domain=example.org"), "{pass}");
}

#[test]
fn an_answer_with_our_cookie_is_kept_by_no_shared_cache() {
    let upstream = Upstream::start(|_, site| {
        site.write(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: public, max-age=60, s-maxage=600\r\nCDN-Cache-Control: max-age=600\r\n\
             Surrogate-Control: max-age=600\r\nSet-Cookie: site=1; Path=/\r\n\r\nok",
        )
    });
    let world = World::open(&upstream.url(), "routes: [{ path: \"/static/**\", gate: open }]\n");
    let first = world.get("/", &[BROWSER]);
    let control = first.all("cache-control").join(", ");
    assert!(control.contains("private") && !control.contains("public") && !control.contains("s-maxage"), "{control}");
    assert!(control.contains("max-age=60"), "what the browser may do is left: {control}");
    assert_eq!((first.header("cdn-cache-control"), first.header("surrogate-control")), (None, None));
    assert!(first.all("set-cookie").contains(&"site=1; Path=/"), "{}", first.raw);
    // without a cookie of ours the answer is the site's, byte for byte
    for answer in [world.get("/", &[BROWSER, &first.pass()]), world.get("/static/a.css", &[BROWSER])] {
        assert_eq!(answer.all("cache-control"), ["public, max-age=60, s-maxage=600"]);
        assert_eq!(answer.header("cdn-cache-control"), Some("max-age=600"));
        assert_eq!(answer.all("set-cookie"), ["site=1; Path=/"]);
    }
}

#[test]
fn open_routes_are_never_given_a_cookie() {
    let (upstream, world) = open("routes: [{ path: \"/static/**\", gate: open }]\nwaiting_room: { refresh: 1s }\n");
    for headers in [&[BROWSER][..], &["Accept: application/json"], &["Accept: */*", HTTPS]] {
        let answer = world.get("/static/a", headers);
        assert_eq!(answer.status, 200);
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
    }
    mode(&world, "closed");
    let answer = world.get("/static/a", &[BROWSER]);
    assert_eq!(answer.status, 200);
    assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
    assert_eq!(upstream.seen().len(), 4);
    assert_eq!(world.count("tidegate_requests_total{verdict=\"open\"}"), 4);
}

/// Those that the rules are tested with, each on a line of its own.
const IN_TWO_WAYS: &str = include_str!("../../src/rules/spellings/in_two_ways.txt");
const IN_ONE_WAY: &str = include_str!("../../src/rules/spellings/in_one_way.txt");

fn spellings(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| !line.starts_with('#'))
}

/// By each way in which a path comes to the gate: as it stands, in an absolute target, and over HTTP/2.
#[test]
fn no_open_route_is_taken_by_a_path_that_can_be_read_in_two_ways() {
    let upstream = Upstream::answering("the site");
    let world = Secure::start(&format!(
        "upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}\nroutes: [{{ path: \"/static/**\", gate: open }}]",
        upstream.url()
    ));
    let (mut plain, mut http2) = (world.client(), Http2::connect(&world));
    let mut ask = |path: &str| {
        let (origin, absolute) = (plain.get(path, &[]), plain.get(&format!("http://test{path}"), &[]));
        let stream = http2.get(path, &[]);
        let is = |answer: &Answer| (answer.status, answer.header("proxy-status").map(str::to_owned));
        [is(&origin), is(&absolute), (stream.status, stream.header("proxy-status").map(str::to_owned))]
    };
    let waits = (503, Some("tidegate; error=http_request_denied; details=\"wait\"".to_owned()));
    for path in spellings(IN_TWO_WAYS) {
        assert_eq!(ask(path), [(); 3].map(|()| waits.clone()), "{path}");
    }
    assert_eq!((upstream.seen().len(), world.count("tidegate_requests_total{verdict=\"open\"}")), (0, 0));
    for path in spellings(IN_ONE_WAY) {
        assert_eq!(ask(path), [(); 3].map(|()| (200, None)), "{path}");
    }
    let seen = upstream.seen();
    assert!(seen.iter().map(|seen| seen.target.as_str()).eq(spellings(IN_ONE_WAY).flat_map(|path| [path; 3])), "byte for byte");
    assert_eq!(world.count("tidegate_requests_total{verdict=\"open\"}"), seen.len());
}

/// Full-width forms as they are, and not in codes.
#[test]
fn bytes_beyond_ascii_are_no_path_of_an_open_route() {
    let (upstream, world) = open("routes: [{ path: \"/static/**\", gate: open }]\n");
    for path in ["/static/\u{ff0e}\u{ff0e}/x", "/static/..\u{ff0f}x", "/static/caf\u{e9}"] {
        for target in [path.to_owned(), format!("http://test{path}")] {
            let answer = world.get(&target, &[]);
            assert_eq!((answer.status, answer.header("proxy-status")), (400, Some("tidegate; error=http_request_error")), "{target}");
        }
    }
    assert_eq!((upstream.seen().len(), world.count("tidegate_requests_refused_total{reason=\"target\"}")), (0, 6));
}

#[test]
fn a_pass_in_the_header_is_taken_and_stripped() {
    let (upstream, world) = open("");
    let pass = world.get("/", &[BROWSER]).cookie("tidegate_pass").unwrap().to_owned();
    mode(&world, "closed");
    let answer = world.get("/", &["Accept: application/json", &format!("Tidegate-Pass: {pass}")]);
    assert_eq!(answer.status, 200);
    assert_eq!((answer.header("tidegate-pass"), answer.header("set-cookie")), (None, None));
    let seen = upstream.requests(2)[1].clone();
    assert!(!seen.raw.to_ascii_lowercase().contains("tidegate"), "{}", seen.raw);
    assert_eq!(world.get("/", &["Tidegate-Pass: x"]).status, 503);
}

#[test]
fn a_pass_is_renewed_after_a_quarter_of_idle_where_it_was_shown() {
    let (_upstream, world) = open("session: { active: 1s, idle: 8s, rate: 1000000 }\n");
    let (by_cookie, by_header) = (world.get("/", &[BROWSER]), world.get("/", &[BROWSER]));
    mode(&world, "closed");
    let line = by_cookie.pass();
    let renewed = until("a renewal by cookie", || {
        let answer = world.get("/", &[BROWSER, &line]);
        assert_eq!(answer.status, 200);
        answer.cookie("tidegate_pass").is_some().then_some(answer)
    });
    assert_eq!(renewed.header("tidegate-pass"), None);
    assert_ne!(renewed.pass(), line);
    assert_eq!(id(&world, &renewed.pass()), id(&world, &line));
    assert_eq!(world.get("/", &[BROWSER, &renewed.pass()]).status, 200);

    let header = |answer: &Answer| format!("Tidegate-Pass: {}", answer.cookie("tidegate_pass").unwrap());
    let line = header(&by_header);
    let renewed = until("a renewal by header", || {
        let answer = world.get("/", &[BROWSER, &line]);
        assert_eq!(answer.status, 200);
        assert!(answer.all("set-cookie").is_empty(), "{}", answer.raw);
        answer.header("tidegate-pass").map(str::to_owned)
    });
    assert_eq!(world.get("/", &[BROWSER, &format!("Tidegate-Pass: {renewed}")]).status, 200);
}

#[test]
fn a_pass_ends_and_a_form_with_it_is_not_lost() {
    let (upstream, world) = open("session: { active: 1s, idle: 1s }\n");
    let pass = world.get("/", &[BROWSER]).pass();
    mode(&world, "closed");
    until("the pass to end", || Some(own_status(&world, &pass)).filter(|status| status["verdict"].is_null()));
    let waiting = world.get("/", &[BROWSER, &pass]);
    assert_eq!(waiting.status, 503);
    assert!(world.metric("tidegate_tokens_rejected_total{reason=\"expired\"}") >= 1.0);
    assert_eq!(upstream.seen().len(), 1);
    let mut client = world.client();
    client.send(request("POST", "/apply", &[BROWSER, &pass, "Content-Length: 4"]));
    client.send("a=bc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "the site"));
    assert_eq!(upstream.requests(2)[1].body, b"a=bc");
    // and it renews the pass: the page after the form is not the waiting room
    assert_ne!(answer.pass(), pass);
}

#[test]
fn a_pass_lasts_no_longer_than_the_limit() {
    let (_upstream, world) = open("session: { active: 1s, idle: 2s, limit: 2s, rate: 1000000 }\n");
    let first = world.get("/", &[BROWSER]);
    mode(&world, "closed");
    let mut line = first.pass();
    // however often it comes back
    until("the limit", || {
        let answer = world.get("/", &[BROWSER, &line]);
        if answer.cookie("tidegate_pass").is_some() {
            line = answer.pass();
        }
        Some(()).filter(|()| answer.status == 503)
    });
}

#[test]
fn a_pass_that_asks_too_often_is_told_when_to_come_back() {
    let (upstream, world) = open("session: { rate: 30 }\nroutes: [{ path: \"/static/**\", gate: open }]\n");
    let pass = world.get("/", &[BROWSER]).pass();
    let mut client = world.client();
    let mut let_through = 0;
    let refused = loop {
        let answer = client.get("/", &[BROWSER, &pass]);
        if answer.status != 200 {
            break answer;
        }
        let_through += 1;
        assert!(let_through < 60, "it is never refused");
    };
    assert!(let_through >= 20, "a page with its parts comes at once: {let_through}");
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(refused.header("proxy-status"), Some("tidegate; error=http_request_denied; details=\"rate\""));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert!(refused.text().contains("Too many requests"), "{}", refused.text());
    assert!(refused.all("set-cookie").is_empty());
    assert_eq!(upstream.seen().len(), let_through + 1);
    assert!(world.metric("tidegate_requests_refused_total{reason=\"pass_rate\"}") >= 1.0);
    // the parts of pages don't count, and others are not made to pay
    assert_eq!(client.get("/static/a", &[&pass]).status, 200);
    assert_eq!(world.get("/", &[BROWSER]).status, 200);
}

#[test]
fn a_revoked_pass_ends_at_reload() {
    let (_upstream, world) = open("bypass: { revoked: [] }\n");
    let (mine, theirs) = (world.pass(), world.pass());
    mode(&world, "closed");
    let id = id(&world, &mine);
    reload(&world, "revoked: []", &format!("revoked: [\"{id}\"]"));
    assert_eq!(world.get("/", &[BROWSER, &mine]).status, 503);
    assert_eq!(world.get("/", &[BROWSER, &theirs]).status, 200);
    assert!(world.metric("tidegate_tokens_rejected_total{reason=\"revoked\"}") >= 1.0);
    // a form doesn't bring it back
    let mut client = world.client();
    client.send(request("POST", "/", &[BROWSER, &mine, "Content-Length: 0"]));
    assert_eq!(client.answer().status, 503);
    reload(&world, &format!("revoked: [\"{id}\"]"), "revoked: []");
    assert_eq!(world.get("/", &[BROWSER, &mine]).status, 200);
}

#[test]
fn not_before_empties_the_site() {
    let (_upstream, world) = open("session: { idle: 20m }\n");
    let pass = world.pass();
    mode(&world, "closed");
    reload(&world, "idle: 20m", "idle: 20m, not_before: 2020-01-01T00:00:00Z");
    assert_eq!(world.get("/", &[BROWSER, &pass]).status, 200);
    reload(&world, "2020-01-01", "2120-01-01");
    assert_eq!(world.get("/", &[BROWSER, &pass]).status, 503);
}

#[test]
fn the_site_can_not_set_our_cookies_nor_see_them() {
    let upstream = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: tidegate_pass=evil\r\nSet-Cookie: a=b\r\n\r\n")
    });
    let world = World::open(&upstream.url(), "");
    let pass = world.pass();
    let answer = world.get("/", &[BROWSER, &format!("{pass}; sid=\"1; 2\"")]);
    assert_eq!(answer.all("set-cookie"), ["a=b"]);
    assert_eq!(upstream.requests(2)[1].all("cookie"), ["sid=\"1; 2\""]);
}

#[test]
fn verdicts_are_counted() {
    let upstream = Upstream::start(|_, site| site.write(ok("x")));
    let world = World::open(&upstream.url(), "routes: [{ path: /free, gate: open }]\n");
    let pass = world.pass();
    world.get("/", &[&pass]);
    world.get("/free", &[]);
    mode(&world, "closed");
    world.get("/", &[BROWSER]);
    for (verdict, count) in [("admit", 2), ("open", 1), ("wait", 1), ("bypass", 0), ("shed", 0)] {
        assert_eq!(world.count(&format!("tidegate_requests_total{{verdict=\"{verdict}\"}}")), count, "{verdict}");
    }
}
