//! Modes, and what the operator sees.

use serde_json::{Value, json};

use crate::support::{Client, Scratch, Upstream, World, until};

const BROWSER: &str = "Accept: text/html";
const JSON: &str = "application/json";

/// Why a pass or ticket that is shown may be taken for none.
const TOKEN_REASONS: &[&str] = &["malformed", "version", "unknown_key", "forged", "kind", "expired", "revoked", "void"];

fn world(more: &str) -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!("upstream: {{ servers: [\"{}\"] }}\n{more}", upstream.url()));
    (upstream, world)
}

#[track_caller]
fn set(world: &World, request: &Value) -> Value {
    let answer = world.admin_post("/mode", JSON, &request.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn status(world: &World) -> Value {
    serde_json::from_slice(&world.admin("/status").body).unwrap()
}

fn visit(world: &World) -> u16 {
    world.get("/", &[BROWSER]).status
}

#[test]
fn the_operators_mode_outranks_the_file_at_once() {
    let (_upstream, world) = world("admission: { mode: open }");
    assert_eq!(visit(&world), 200);
    let said = set(&world, &json!({ "mode": "closed" }));
    assert_eq!(said, json!({ "mode": "closed", "source": "operator", "until": null, "probability": null, "saved": true }));
    assert_eq!(visit(&world), 503);
    set(&world, &json!({ "mode": "open" }));
    assert_eq!(visit(&world), 200);
    set(&world, &json!({ "mode": "fixed", "probability": 0 }));
    assert_eq!(visit(&world), 503);
    assert_eq!(status(&world)["mode"]["probability"], 0.0);
    set(&world, &json!({ "mode": "fixed", "probability": 1 }));
    assert_eq!(visit(&world), 200);
    set(&world, &json!({ "mode": "observe" }));
    assert_eq!(visit(&world), 200);
    set(&world, &json!({ "mode": "closed" }));
    let said = set(&world, &json!({ "mode": "file" }));
    assert_eq!(said, json!({ "mode": "open", "source": "file", "until": null, "probability": null, "saved": true }));
    assert_eq!(visit(&world), 200);
}

#[test]
fn a_mode_for_a_time_ends_by_itself() {
    let (_upstream, world) = world("admission: { mode: open }");
    let said = set(&world, &json!({ "mode": "closed", "for": "2s" }));
    assert!(said["until"].is_string(), "{said}");
    assert_eq!(visit(&world), 503);
    assert_eq!(status(&world)["mode"]["until"], said["until"]);
    until("the mode to end", || Some(()).filter(|()| visit(&world) == 200));
    assert_eq!(status(&world)["mode"], json!({ "name": "open", "source": "file", "until": null, "probability": null }));
}

#[test]
fn what_is_no_mode_changes_nothing() {
    let (_upstream, world) = world("admission: { mode: closed }");
    for (content_type, body, code) in [
        (JSON, r#"{"mode":"ajar"}"#, 422),
        (JSON, r#"{"mode":"fixed"}"#, 422),
        (JSON, r#"{"mode":"fixed","probability":1.5}"#, 422),
        (JSON, r#"{"mode":"open","for":"ever"}"#, 422),
        (JSON, r#"{"mode":"open","also":1}"#, 422),
        (JSON, r#"{"mode":"open""#, 400),
        ("text/plain", r#"{"mode":"open"}"#, 415),
    ] {
        let answer = world.admin_post("/mode", content_type, body);
        assert_eq!(answer.status, code, "{body}: {}", answer.text());
    }
    assert_eq!(world.admin("/mode").status, 405);
    assert_eq!(visit(&world), 503);
    assert_eq!(status(&world)["mode"]["source"], "file");
}

#[test]
fn a_page_elsewhere_can_not_reach_the_gate() {
    let (_upstream, world) = world("admission: { mode: closed }");
    let admin = world.admin;
    let ask = |request: String| {
        let mut client = Client::connect(admin);
        client.send(request);
        client.answer().status
    };
    let post = |host: &str, more: &str| {
        let body = r#"{"mode":"open"}"#;
        ask(format!(
            "POST /mode HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\nContent-Type: {JSON}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let own = admin.to_string();
    // a name that is made to resolve here (DNS rebinding), and forms and scripts of other pages
    assert_eq!(post("evil.example", ""), 421);
    assert_eq!(post(&own, "Origin: http://evil.example\r\n"), 403);
    assert_eq!(post(&own, "Origin: null\r\n"), 403);
    assert_eq!(post(&own, &format!("Origin: https://{own}\r\n")), 403);
    assert_eq!(post(&own, &format!("Host: {own}\r\n")), 400);
    for path in ["/metrics", "/healthz", "/status", "/"] {
        assert_eq!(ask(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")), 421, "{path}");
    }
    assert_eq!(visit(&world), 503);
    assert_eq!(post(&own, &format!("Origin: http://{own}\r\n")), 200);
    assert_eq!(visit(&world), 200);
}

#[test]
fn with_a_token_file_only_probes_and_metrics_go_without() {
    let scratch = Scratch::new();
    let token = "a-token-that-is-long-enough";
    let file = scratch.write("token", &format!("{token}\n"));
    let (_upstream, world) = world(&format!("admission: {{ mode: closed }}\nadmin: {{ token_file: {file:?} }}"));
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(world.admin(path).status, 200, "{path}");
    }
    for path in ["/status", "/"] {
        let answer = world.admin(path);
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.all("www-authenticate").len(), 2);
    }
    assert_eq!(world.admin_post("/mode", JSON, r#"{"mode":"open"}"#).status, 401);
    assert_eq!(world.admin_post("/reload", JSON, "").status, 401);
    assert_eq!(visit(&world), 503);
    let mut client = Client::connect(world.admin);
    let status = |token: &str, client: &mut Client| {
        client.send(format!("GET /status HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", world.admin));
        client.answer().status
    };
    assert_eq!(status(token, &mut client), 200);
    assert_eq!(status(&token[1..], &mut client), 401);
}

#[test]
fn the_status_says_how_the_site_is_and_what_the_gate_does() {
    let (upstream, world) = world("admission: { mode: auto }");
    let before = status(&world);
    assert_eq!(before["site"], "unknown");
    let pass = world.pass();
    world.get("/", &[&pass]);
    let status = until("the site to be up", || Some(status(&world)).filter(|status| status["site"] == "up"));
    for key in [
        "summary",
        "site_summary",
        "gate_summary",
        "site",
        "mode",
        "limiting",
        "load",
        "capacity",
        "probability",
        "admission_rate",
        "active",
        "waiting",
        "epoch_s",
        "slots",
        "upstream",
        "connections",
        "upgrades",
        "outcomes_last_minute",
        "max_in_flight",
        "email_queue",
        "config",
        "history",
        "version",
        "uptime_s",
        "draining",
    ] {
        assert!(status.get(key).is_some(), "{key} in {status}");
    }
    let summary = status["summary"].as_str().unwrap();
    assert!(summary.starts_with("The site is up. ") && summary.contains("of what the site can give"), "{summary}");
    assert_eq!(status["mode"], json!({ "name": "auto", "source": "file", "until": null, "probability": null }));
    assert_eq!((status["probability"].as_f64(), status["draining"].as_bool()), (Some(1.0), Some(false)));
    assert_eq!(status["upstream"][0]["server"], upstream.url());
    assert_eq!(status["upstream"][0]["up"], true);
    // four slots, as long as nothing is known of the site
    assert_eq!((&status["max_in_flight"], &status["slots"]["of"]), (&json!({ "now": 4, "source": "found" }), &json!(4)));
    assert_eq!((&status["email_queue"]["enabled"], &status["email_queue"]["addresses"]), (&json!(true), &json!(0)));
    assert_eq!(status["config"]["path"], world.file().display().to_string());
    assert_eq!(status["config"]["last_result"], "applied");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let dashboard = world.admin("/");
    assert_eq!(dashboard.status, 200);
    assert!(dashboard.text().contains("The site is up."), "{}", dashboard.text());
}

#[test]
fn the_status_says_that_the_gate_is_closed_and_who_waits() {
    let (_upstream, world) = world("admission: { mode: closed }");
    let ticket = world.get("/", &[BROWSER]).ticket();
    world.get("/", &[BROWSER, &ticket]);
    let status = status(&world);
    let summary = status["summary"].as_str().unwrap();
    assert!(summary.contains("The gate is closed: nobody new is let in"), "{summary}");
}

#[test]
fn a_site_that_is_dead_is_said_to_be_down() {
    let upstream = Upstream::start(|_, _| false);
    let world = World::open(&upstream.url(), "");
    let pass = world.get("/", &[BROWSER]);
    assert_eq!(pass.status, 502);
    let status = until("the site to be down", || {
        world.get("/", &[BROWSER]);
        Some(status(&world)).filter(|status| status["site"] == "down")
    });
    assert!(status["summary"].as_str().unwrap().starts_with("The site is down"), "{}", status["summary"]);
}

#[test]
fn observe_counts_and_diverts_nobody() {
    let upstream = Upstream::answering("the site");
    // a site that can do one thing at a time: most of a crowd would wait
    let world =
        World::start(&format!("upstream: {{ servers: [\"{}\"], max_in_flight: 1 }}\nadmission: {{ mode: observe }}", upstream.url()));
    let mut visits = 0;
    until("verdicts to wait", || {
        for _ in 0..20 {
            assert_eq!(visit(&world), 200);
            visits += 1;
        }
        Some(()).filter(|()| world.metric("tidegate_requests_total{verdict=\"wait\"}") >= 10.0)
    });
    assert_eq!(upstream.seen().len(), visits);
    let counted = |verdict: &str| world.count(&format!("tidegate_requests_total{{verdict=\"{verdict}\"}}"));
    assert_eq!(counted("admit") + counted("wait"), visits);
    assert!(status(&world)["summary"].as_str().unwrap().contains("The gate only observes"));
}

#[test]
fn auto_lets_in_what_is_left_over_and_the_rest_gets_in_later() {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"], max_in_flight: 4 }}\nwaiting_room: {{ refresh: 1s }}\nlimits: {{ tickets_per_client: 100000 }}",
        upstream.url()
    ));
    // a cold start assumes as many requests a second as there are workers
    let answers: Vec<_> = (0..100).map(|_| world.get("/", &[BROWSER])).collect();
    let waiting: Vec<String> = answers.iter().filter(|answer| answer.status == 503).map(crate::support::Answer::ticket).collect();
    assert!(!waiting.is_empty(), "all of a hundred were let in at once");
    assert!(answers.iter().any(|answer| answer.status == 200), "nobody was let in");
    // the site turns out to be quick: all who wait get in
    let mut left = waiting;
    until("everyone to be let in", || {
        left.retain(|ticket| world.get("/", &[BROWSER, ticket]).status == 503);
        Some(()).filter(|()| left.is_empty())
    });
}

#[test]
fn every_metric_of_the_contract_is_there() {
    let (upstream, world) = world("admission: { mode: open }");
    world.pass();
    let answer = world.admin("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    let text = answer.text();
    let has = |series: &str| text.lines().any(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    for name in [
        "tidegate_admission_probability",
        "tidegate_load",
        "tidegate_capacity",
        "tidegate_admission_rate",
        "tidegate_visitors_active",
        "tidegate_visitors_waiting",
        "tidegate_upstream_in_flight",
        "tidegate_slot_queue_length",
        "tidegate_downstream_connections",
        "tidegate_upgrades_active",
        "tidegate_config_last_applied_timestamp_seconds",
        "tidegate_emails_accepted_total",
        "tidegate_emails_waiting",
        "tidegate_invitations_redeemed_total",
        "tidegate_email_writable",
        "tidegate_untrusted_forwarded_total",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
    ] {
        assert!(has(name), "{name}");
    }
    for (name, label, values) in [
        ("tidegate_requests_total", "verdict", &["open", "bypass", "admit", "wait", "shed"][..]),
        ("tidegate_upstream_outcomes_total", "outcome", &["ok", "slow", "error", "timeout", "connect", "aborted"]),
        ("tidegate_upgrades_total", "result", &["switched", "refused"]),
        ("tidegate_config_reloads_total", "result", &["applied", "rejected"]),
        ("tidegate_invitations_total", "result", &["sent", "deferred", "failed"]),
        ("tidegate_tokens_rejected_total", "reason", TOKEN_REASONS),
        ("tidegate_requests_refused_total", "reason", &["pass_rate"]),
        ("tidegate_emails_refused_total", "reason", &["address"]),
        ("tidegate_upstream_up", "server", &[&upstream.url()]),
        ("tidegate_build_info", "version", &[env!("CARGO_PKG_VERSION")]),
    ] {
        for value in values {
            assert!(has(&format!("{name}{{{label}=\"{value}\"}}")), "{name} {value}");
        }
    }
    // and none for which nothing is ever counted
    let reasons = text.lines().filter(|line| line.starts_with("tidegate_tokens_rejected_total{"));
    assert_eq!(reasons.count(), TOKEN_REASONS.len());
    for name in ["tidegate_upstream_first_byte_seconds", "tidegate_slot_wait_seconds", "tidegate_wait_seconds"] {
        for series in ["_bucket{le=\"+Inf\"}", "_sum", "_count"] {
            assert!(has(&format!("{name}{series}")), "{name}{series}");
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("tidegate_") || line.starts_with("process_"), "{line}");
    }
    assert_eq!(world.count("tidegate_requests_total{verdict=\"admit\"}"), 1);
    assert_eq!(world.outcomes("ok"), 1);
    assert_eq!(world.count("tidegate_upstream_first_byte_seconds_count"), 1);
}

/// A site that fails whatever it is asked, and a gate before it which takes it to have four good answers a second for as long as the law has
/// heard of none. `/quiet` does not count, and `/free` is open.
fn failing() -> (Upstream, World) {
    let upstream = Upstream::start(|_, site| site.write("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nmine"));
    let world = World::start(&format!(
        "upstream: {{ servers: [{}], max_in_flight: 4 }}\nroutes: [{{ path: /quiet, signal: false }}, {{ path: /free, gate: open }}]",
        upstream.url()
    ));
    (upstream, world)
}

/// More answers than the law needs to say what a site can do.
const MANY: usize = 30;

#[test]
fn the_law_hears_of_answers_that_are_not_good() {
    let (_upstream, world) = failing();
    let pass = world.pass();
    for _ in 0..MANY {
        assert_eq!(world.get("/", &[&pass]).status, 500);
    }
    until("the law to see that nothing is answered well", || (status(&world)["capacity"] == 0.0).then_some(()));
}

#[test]
fn the_law_hears_nothing_of_open_routes_and_of_those_that_are_no_signal() {
    let (_upstream, world) = failing();
    let pass = world.get("/quiet", &[BROWSER]).pass();
    for _ in 0..MANY {
        assert_eq!(world.get("/quiet", &[&pass]).status, 500);
        assert_eq!(world.get("/free", &[]).status, 500);
    }
    // a point each two ticks: by the second the law has seen all of it
    let points = || status(&world)["history"].as_array().unwrap().len();
    let before = points();
    until("two more points", || (points() >= before + 2).then_some(()));
    assert_eq!(status(&world)["capacity"], 4.0, "as it is assumed");
}
