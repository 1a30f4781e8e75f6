//! What the site is told, and what it is not; and the same for the client.

use crate::support::{Answer, Seen, Upstream, World, request};

/// Sends one GET with these lines to a gate of this policy, and returns what the site has read.
fn relayed(more: &str, lines: &[&str]) -> Seen {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), more);
    assert_eq!(world.get("/", lines).status, 200);
    site.requests(1).remove(0)
}

/// The answer that a client is given if the site sends these lines.
fn answered(lines: &str) -> Answer {
    let answer = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nhi");
    let site = Upstream::start(move |_, site| site.write(&answer));
    let world = World::open(&site.url(), "");
    let pass = world.pass();
    let answer = world.get("/", &[&pass]);
    assert_eq!(answer.text(), "hi");
    answer
}

#[test]
fn what_belongs_to_the_clients_connection_stays_there() {
    let seen = relayed(
        "",
        &[
            "Connection: keep-alive, X-First",
            "X-First: 1",
            "X-Second: 2",
            "Connection: x-second",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy: http://evil.example",
            "TE: gzip;q=0.5",
            "Upgrade: websocket",
            "X-Third: 3",
        ],
    );
    for name in ["connection", "x-first", "x-second", "keep-alive", "proxy-connection", "proxy", "te", "upgrade"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-third"), Some("3"));
}

#[test]
fn connection_can_not_remove_what_the_request_needs() {
    let lines = ["Connection: Host, X-Forwarded-For, Content-Length, Cookie", "Cookie: a=b", "X-Forwarded-For: 1.2.3.4"];
    let seen = relayed("client: { trusted_proxies: [127.0.0.0/8] }", &lines);
    assert_eq!(seen.header("host"), Some("test"));
    assert_eq!(seen.header("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
    assert_eq!(seen.header("cookie"), None, "anything else it can");
}

#[test]
fn what_belongs_to_the_sites_connection_stays_there() {
    let answer = answered(
        "Connection: X-First\r\nX-First: 1\r\nKeep-Alive: timeout=5\r\nConnection: x-second\r\nX-Second: 2\r\nUpgrade: h2c\r\nX-Third: 3\r\n",
    );
    for name in ["connection", "x-first", "x-second", "keep-alive", "upgrade"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-third"), Some("3"));
}

#[test]
fn a_site_that_closes_its_connection_does_not_close_the_clients() {
    let site = Upstream::start(|_, site| {
        site.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
        false
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    for _ in 0..3 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("hi", None));
    }
    assert_eq!(site.accepted(), 3);
}

#[test]
fn what_a_stranger_says_of_the_client_is_replaced() {
    let seen = relayed(
        "",
        &[
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-For: 5.6.7.8",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.example",
            "Forwarded: for=1.2.3.4;proto=https",
            "X_Forwarded_For: 9.9.9.9",
        ],
    );
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["test"]);
    assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=test;proto=http"]);
    assert_eq!(seen.header("x_forwarded_for"), None);
    assert_eq!(seen.header("host"), Some("test"));
}

/// Some sites take their path from these, and the gate has decided by another.
#[test]
fn nobody_can_name_another_path_in_a_header() {
    let names = ["X-Original-URL", "X-Rewrite-URL", "X_Original_URL", "X-Rewrite_URL"];
    let lines = names.map(|name| format!("{name}: /apply"));
    let seen = relayed("client: { trusted_proxies: [127.0.0.1] }", &lines.each_ref().map(String::as_str));
    for name in names {
        assert_eq!(seen.header(&name.to_lowercase()), None, "{name}");
    }
}

#[test]
fn forwarding_by_a_stranger_is_counted() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    world.get("/", &["X-Forwarded-For: 1.2.3.4"]);
    world.get("/", &[]);
    assert_eq!(world.metric("tidegate_untrusted_forwarded_total"), 1.0);
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_its_address_added() {
    const TRUSTED: &str = "client: { trusted_proxies: [127.0.0.1] }";
    let lines = ["X-Forwarded-For: 1.2.3.4, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.example.org"];
    let seen = relayed(TRUSTED, &lines);
    assert_eq!(seen.all("x-forwarded-for"), ["1.2.3.4, 10.0.0.1, 127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["www.example.org"]);
    assert_eq!(seen.header("forwarded"), None);
    let seen = relayed(TRUSTED, &["Forwarded: for=1.2.3.4;proto=https"]);
    assert_eq!(seen.all("forwarded"), ["for=1.2.3.4;proto=https, for=127.0.0.1;host=test;proto=https"]);
    assert_eq!(seen.header("x-forwarded-for"), None);
    let seen = relayed(TRUSTED, &[]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=test;proto=http"]);
}

#[test]
fn a_pass_behind_a_trusted_https_proxy_is_secure() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "client: { trusted_proxies: [127.0.0.1] }");
    let answer = world.get("/", &["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"]);
    let cookie = answer.all("set-cookie").concat();
    // what a visitor says of himself a proxy may pass on
    let plain = world.get("/", &["X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4;proto=https"]);
    assert!(!plain.all("set-cookie").concat().contains("Secure"), "{}", plain.raw);
    assert!(cookie.starts_with("__Host-tidegate_pass=v1.") && cookie.contains("; Secure") && cookie.contains("SameSite=None"), "{cookie}");
}

#[test]
fn cookies_of_the_site_go_through_byte_for_byte_and_ours_do_not() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    let pass = world.pass();
    let pass = pass.trim_start_matches("Cookie: ");
    let mut client = world.client();
    client.get("/", &[&format!("Cookie: a=\"x y\";  b=\u{e4}==; {pass}; c; d=1; d=2; tidegate_passe=5")]);
    client.get("/", &["Cookie: a=\"x;  y\"; b=c ;d", "Cookie: second=line"]);
    client.get("/", &[&format!("Cookie: {pass}"), "Cookie: __Host-tidegate_ticket=v1.x.y.z"]);
    let seen = site.requests(4);
    assert_eq!(seen[1].all("cookie"), ["a=\"x y\";  b=\u{e4}==; c; d=1; d=2; tidegate_passe=5"]);
    assert_eq!(seen[2].all("cookie"), ["a=\"x;  y\"; b=c ;d", "second=line"]);
    assert_eq!(seen[3].header("cookie"), None);
}

#[test]
fn the_site_can_set_any_cookie_but_ours() {
    let answer = answered(
        "Set-Cookie: a=\"b c\"; Path=/x\r\nSet-Cookie: tidegate_pass=forged; Path=/\r\nSet-Cookie: a=2\r\n\
         Set-Cookie: __Host-tidegate_ticket=x\r\nSet-Cookie: =tidegate_pass=x\r\nSet-Cookie: tidegate_password=keep\r\n",
    );
    assert_eq!(answer.all("set-cookie"), ["a=\"b c\"; Path=/x", "a=2", "tidegate_password=keep"]);
}

#[test]
fn a_pass_in_a_header_is_for_the_gate_alone() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    let pass = world.pass();
    let token = pass.trim_start_matches("Cookie: tidegate_pass=");
    let answer = world.get("/", &[&format!("Tidegate-Pass: {token}")]);
    assert_eq!((answer.status, answer.all("set-cookie").len()), (200, 0), "it is known, and need not be renewed yet");
    world.get("/", &["Tidegate-Pass: nonsense"]);
    assert!(site.requests(3).iter().all(|seen| seen.header("tidegate-pass").is_none()));
    assert_eq!(world.metric("tidegate_tokens_rejected_total{reason=\"malformed\"}"), 1.0);
}

#[test]
fn an_answer_with_a_pass_is_kept_out_of_shared_caches() {
    const CACHED: &str =
        "Cache-Control: public, s-maxage=60, max-age=5\r\nSurrogate-Control: max-age=99\r\nCDN-Cache-Control: max-age=9\r\n";
    let site = Upstream::start(|_, site| site.write(format!("HTTP/1.1 200 OK\r\n{CACHED}Content-Length: 0\r\n\r\n")));
    let world = World::open(&site.url(), "routes: [{ path: /free, gate: open }]");
    let first = world.get("/", &[]);
    assert_eq!(first.all("cache-control"), ["max-age=5, private"]);
    assert_eq!((first.header("surrogate-control"), first.header("cdn-cache-control")), (None, None));
    for answer in [world.get("/", &[&first.pass()]), world.get("/free", &[])] {
        assert_eq!(answer.all("cache-control"), ["public, s-maxage=60, max-age=5"]);
        assert_eq!((answer.header("surrogate-control"), answer.header("cdn-cache-control")), (Some("max-age=99"), Some("max-age=9")));
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[test]
fn many_header_lines_go_through() {
    let site = Upstream::answering("");
    let world = World::open(&site.url(), "");
    let lines: Vec<String> = (0..90).map(|i| format!("X-Line-{i}: value {i}")).collect();
    let mut client = world.client();
    client.send(request("GET", "/", &lines.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(client.answer().status, 200);
    let seen = &site.requests(1)[0];
    assert!((0..90).all(|i| seen.header(&format!("x-line-{i}")) == Some(&format!("value {i}"))));
}
