//! Mode `observe`: nobody is diverted or held up, and what would have become of them is told.

use serde_json::{Value, json};

use crate::support::{Client, Door, Gate, PATIENCE, Scratch, Upstream, World, ok, request, until};

const BROWSER: &str = "Accept: text/html";

/// A gate for a site of one worker, that only observes.
fn observing(upstream: &Upstream, more: &str) -> World {
    World::start(&format!(
        "upstream: {{ servers: [\"{}\"], max_in_flight: 1, queue: {{ length: 1 }} }}\nadmission: {{ mode: observe }}\n{more}",
        upstream.url()
    ))
}

fn observed(world: &World, verdict: &str) -> usize {
    world.count(&format!("tidegate_observed_total{{verdict=\"{verdict}\"}}"))
}

fn line(header: &str) -> String {
    format!("Cookie: {}", header.trim_start_matches("Cookie: "))
}

#[test]
fn nobody_waits_for_a_slot_and_none_is_left_out_when_the_queue_is_full() {
    let door = Door::default();
    let closed = door.clone();
    let upstream = Upstream::start(move |_, site| {
        closed.wait();
        site.write(ok("the site"))
    });
    let world = observing(&upstream, "session: { in_flight: 1 }\nroutes: [{ path: /free, gate: open }]");
    let clients: Vec<Client> = ["/", "/free", "/", "/free", "/", "/"]
        .into_iter()
        .map(|path| {
            let mut client = world.client();
            client.send(request("GET", path, &[BROWSER]));
            client
        })
        .collect();
    // all of them are at the site, that has told the gate of one worker
    upstream.requests(6);
    let slots = world.status()["slots"].clone();
    assert_eq!(slots, json!({ "in_flight": 6, "of": 1, "queue": 0 }));
    door.open();
    for mut client in clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(observed(&world, "open"), 2);
    assert_eq!(observed(&world, "admit") + observed(&world, "wait") + observed(&world, "shed"), 4);
}

#[test]
fn a_request_that_waits_for_a_slot_goes_to_the_site_when_the_mode_is_set() {
    let door = Door::default();
    let closed = door.clone();
    let upstream = Upstream::start(move |seen, site| {
        if seen.target == "/first" {
            closed.wait();
        }
        site.write(ok("the site"))
    });
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"], max_in_flight: 1, queue: {{ deadline: 4s }} }}\nadmission: {{ mode: open }}",
        upstream.url()
    ));
    let ask = |path: &str| {
        let mut client = world.client();
        client.send(request("GET", path, &[BROWSER]));
        client
    };
    let mut first = ask("/first");
    upstream.requests(1);
    let mut second = ask("/second");
    world.until_queued(1);
    assert_eq!(world.admin_post("/mode", "application/json", r#"{"mode":"observe"}"#).status, 200);
    assert_eq!(second.answer().status, 200, "it is not shed");
    assert_eq!(world.get("/third", &[BROWSER]).status, 200);
    door.open();
    assert_eq!(first.answer().status, 200);
}

#[test]
fn a_pass_that_asks_too_often_is_counted_and_not_refused() {
    let upstream = Upstream::answering("the site");
    let world = observing(&upstream, "session: { rate: 1 }");
    let pass = world.pass();
    let mut asked = 0;
    until("a pass above its rate", || {
        asked += 1;
        let answer = world.get("/", &[BROWSER, &pass]);
        assert_eq!((answer.status, answer.text()), (200, "the site".to_owned()));
        Some(()).filter(|()| observed(&world, "refused") > 0)
    });
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"pass_rate\"}"), 0);
    assert_eq!(upstream.seen().len(), asked + 1);
}

#[test]
fn what_would_have_been_done_is_told_apart_from_what_was() {
    let upstream = Upstream::answering("the site");
    let world = observing(&upstream, "limits: { tickets_per_client: 1000000 }");
    let mut newcomers = 0;
    let ticket = until("someone who would wait", || {
        newcomers += 1;
        let answer = world.get("/", &[BROWSER]);
        assert_eq!((answer.status, answer.text()), (200, "the site".to_owned()));
        answer.cookie("tidegate_ticket").is_some().then(|| answer.ticket())
    });
    let both = |family: &str, verdict: &str| world.count(&format!("{family}{{verdict=\"{verdict}\"}}"));
    assert_eq!(both("tidegate_newcomers_total", "admit") + both("tidegate_newcomers_total", "wait"), newcomers);
    for verdict in ["admit", "wait", "shed"] {
        assert_eq!(both("tidegate_requests_total", verdict), both("tidegate_observed_total", verdict), "{verdict}");
    }
    assert!(both("tidegate_observed_total", "wait") >= 1);
    for (mode, is) in [("observe", 1.0), ("auto", 0.0), ("open", 0.0), ("closed", 0.0), ("fixed", 0.0)] {
        world.until_metric(&format!("tidegate_mode{{mode=\"{mode}\"}}"), |value| (value - is).abs() < 0.5);
    }
    let status = until("a rehearsal", || Some(world.status()).filter(|status| status["observed"].is_object()));
    for key in ["newcomers_last_minute", "would_wait_last_minute", "demand", "load_of_all", "wait_s", "line", "slot_queue", "would_shed"] {
        assert!(!status["observed"][key].is_null(), "{key} in {status}");
    }
    until("the newcomers of this minute", || Some(()).filter(|()| world.status()["observed"]["newcomers_last_minute"] == newcomers));
    let said = world.status()["summary"].as_str().unwrap().to_owned();
    assert!(said.contains("The gate only observes, and turns nobody away; it would have"), "{said}");

    // how its holder would stand
    let own: Value = serde_json::from_slice(&world.get("/.tidegate/status", &[&line(&ticket)]).body).unwrap();
    assert_eq!((own["verdict"].as_str(), own["observed"].as_bool()), (Some("wait"), Some(true)), "{own}");
    assert!(["no_ticket", "not_drawn", "no_token"].contains(&own["reason"].as_str().unwrap()), "{own}");

    assert_eq!(world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#).status, 200);
    assert_eq!(world.get("/", &[BROWSER]).status, 503);
    assert_eq!(both("tidegate_requests_total", "wait"), both("tidegate_observed_total", "wait") + 1, "this one was diverted");
    assert!(world.status()["observed"].is_null());
    let own: Value = serde_json::from_slice(&world.get("/.tidegate/status", &[&line(&ticket)]).body).unwrap();
    assert_eq!((own["reason"].as_str(), own["observed"].as_bool()), (Some("closed"), Some(false)), "{own}");
}

#[test]
fn every_verdict_is_explained_in_the_access_log() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let yaml = format!(
        "listen: {{ http: 127.0.0.1:0, workers: 1 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         upstream: {{ servers: [\"{}\"], max_in_flight: 1 }}\nadmission: {{ mode: observe }}\nwaiting_room: {{ refresh: 1s }}\n\
         routes: [{{ path: /free, gate: open }}]\nlimits: {{ tickets_per_client: 1000000 }}\n\
         shutdown: {{ delay: 0s }}\nlog: {{ format: json, access: all }}\n",
        upstream.url()
    );
    let gate = Gate::serve(&scratch.write("gate.yaml", &yaml));
    let accessed = |text: &str| serde_json::from_str::<Value>(text).ok().filter(|line| line["target"] == "access");
    let logged = |path: &str, holds: &dyn Fn(&Value) -> bool| {
        gate.process.err.wait(path, PATIENCE, |text| accessed(text).filter(|line| line["path"] == path && holds(line)))
    };
    let pass = gate.get("/first", &[BROWSER]).pass();
    gate.get("/in", &[BROWSER, &pass]);
    gate.get("/free", &[BROWSER]);
    let ticket = until("someone who would wait", || {
        let answer = gate.get("/newcomer", &[BROWSER]);
        answer.cookie("tidegate_ticket").is_some().then(|| answer.ticket())
    });
    // while others keep coming, a ticket draws against odds below 1
    until("a draw", || {
        gate.get("/draws", &[BROWSER, &ticket]);
        gate.get("/newcomer", &[BROWSER]);
        let all = gate.process.err.all();
        Some(()).filter(|()| all.iter().filter_map(|text| accessed(text)).any(|line| line["path"] == "/draws" && line["draw"].is_number()))
    });

    let first = logged("/first", &|_| true);
    assert_eq!(
        (first["verdict"].as_str(), first["reason"].as_str(), first["observed"].as_bool()),
        (Some("admit"), Some("room"), Some(true))
    );
    assert!(first["probability"].is_number() && first["load"].is_number() && first["draw"].is_null(), "{first}");
    assert_eq!(first["limit"], "none");
    let inside = logged("/in", &|_| true);
    assert_eq!((inside["reason"].as_str(), inside["status"].as_u64()), (Some("pass"), Some(200)), "{inside}");
    let waits = logged("/newcomer", &|line| line["verdict"] == "wait");
    assert_eq!(
        (waits["reason"].as_str(), waits["status"].as_u64(), waits["observed"].as_bool()),
        (Some("no_ticket"), Some(200), Some(true))
    );
    let free = logged("/free", &|_| true);
    assert!(free["probability"].is_null() && free["observed"].is_null(), "no decision was needed: {free}");

    let draws = logged("/draws", &|line| line["draw"].is_number());
    let [draw, weight, probability] = ["draw", "weight", "probability"].map(|key| draws[key].as_f64().unwrap());
    let won = probability >= 1.0 || draw < probability * weight;
    assert_eq!(won, draws["reason"] != "not_drawn", "the draw can be retold: {draws}");

    let log = gate.end().join("\n");
    for secret in [&pass, &ticket] {
        let token = secret.split_once('=').unwrap().1;
        assert!(!log.contains(token) && !log.contains(token.rsplit('.').next().unwrap()), "{secret} is in the log");
    }
}
