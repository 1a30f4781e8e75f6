//! Reload: by polling, by the operator, under load; and what is rejected.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Answer, Client, Upstream, World, ok, run, until};

const BROWSER: &str = "Accept: text/html";

fn write(world: &World, yaml: &str) {
    fs::write(world.file(), yaml).unwrap();
}

fn reload(world: &World) -> Answer {
    world.admin_post("/reload", "application/json", "")
}

#[track_caller]
fn apply(world: &World, yaml: &str) {
    write(world, yaml);
    let answer = reload(world);
    assert_eq!((answer.status, answer.text().trim()), (200, r#"{"result":"applied"}"#));
}

#[track_caller]
fn reject(world: &World, yaml: &str) -> Vec<String> {
    write(world, yaml);
    let answer = reload(world);
    assert_eq!(answer.status, 422, "{}", answer.text());
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["result"], "rejected");
    json["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap().to_owned()).collect()
}

fn config(world: &World) -> Value {
    let status: Value = serde_json::from_slice(&world.admin("/status").body).unwrap();
    status["config"].clone()
}

fn closed(upstream: &str, more: &str) -> String {
    format!("upstream: {{ servers: [\"{upstream}\"] }}\nadmission: {{ mode: closed }}\n{more}")
}

#[test]
fn a_file_that_was_saved_is_taken_in_by_itself() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), ""));
    let applied = world.metric("tidegate_config_last_applied_timestamp_seconds");
    assert!(applied > 1.7e9, "{applied}");
    write(&world, &closed(&upstream.url(), "waiting_room: { status: 429 }"));
    until("the new policy", || Some(()).filter(|()| world.get("/", &[BROWSER]).status == 429));
    assert_eq!(world.count("tidegate_config_reloads_total{result=\"applied\"}"), 1);
    assert!(world.metric("tidegate_config_last_applied_timestamp_seconds") >= applied);
    // swapped whole, as editors and Kubernetes do
    let beside = world.directory().join("gate.yaml.new");
    fs::write(&beside, closed(&upstream.url(), "waiting_room: { status: 202 }")).unwrap();
    fs::rename(&beside, world.file()).unwrap();
    until("the new policy", || Some(()).filter(|()| world.get("/", &[BROWSER]).status == 202));
}

#[test]
fn a_broken_file_changes_nothing_and_says_where() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), "waiting_room: { status: 429 }"));
    let broken = closed(&upstream.url(), "waiting_room:\n  status: 200\n  refresh: 5\nlimit: {}\nsession: { rate: 0 }");
    let errors = reject(&world, &broken);
    let file = world.file().display().to_string();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    for (error, place) in errors.iter().zip([":5:12: waiting_room.refresh: ", ":6:1: limit: ", ":7:18: session.rate: "]) {
        assert!(error.starts_with(&format!("{file}{place}")), "{error}");
    }
    assert_eq!(world.get("/", &[BROWSER]).status, 429);
    assert_eq!(world.count("tidegate_config_reloads_total{result=\"rejected\"}"), 1);
    assert_eq!(config(&world)["last_result"], "rejected");
    assert_eq!(config(&world)["errors"], json!(errors));
    // the command line says the same
    let said = run(&["check"], &world.file());
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    assert_eq!(said.err.lines().collect::<Vec<_>>(), errors);
    // a file that is gone is no policy
    fs::remove_file(world.file()).unwrap();
    assert_eq!(reload(&world).status, 422);
    assert_eq!(world.get("/", &[BROWSER]).status, 429);
    apply(&world, &closed(&upstream.url(), ""));
    assert_eq!(config(&world)["errors"], json!([]));
    assert_eq!(config(&world)["last_result"], "applied");
}

#[test]
fn a_broken_file_is_seen_by_the_poll_and_rejected_once() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), ""));
    write(&world, "upstream: [");
    world.until_metric("tidegate_config_reloads_total{result=\"rejected\"}", |count| count >= 1.0);
    // mended, it is taken in; and the broken one was not looked at again and again meanwhile
    write(&world, &closed(&upstream.url(), "waiting_room: { status: 429 }"));
    until("the new policy", || Some(()).filter(|()| world.get("/", &[BROWSER]).status == 429));
    assert_eq!(world.count("tidegate_config_reloads_total{result=\"rejected\"}"), 1);
}

#[test]
fn what_needs_a_restart_is_rejected_whole() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), ""));
    for (yaml, key) in [
        ("listen: { http: 127.0.0.1:8081 }", "listen.http"),
        ("listen: { workers: 7 }", "listen.workers"),
        ("admin: { listen: 127.0.0.1:9091 }", "admin.listen"),
        ("data: elsewhere", "data"),
        ("log: { format: json }", "log.format"),
    ] {
        let errors = reject(&world, &closed(&upstream.url(), &format!("{yaml}\nwaiting_room: {{ status: 429 }}")));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(key) && errors[0].contains("needs a restart"), "{errors:?}");
        assert_eq!(world.get("/", &[BROWSER]).status, 503);
    }
    assert_eq!(world.count("tidegate_config_reloads_total{result=\"rejected\"}"), 5);
    assert!(!world.directory().join("elsewhere").exists());
}

#[test]
fn an_admin_token_that_was_replaced_holds_no_longer() {
    let upstream = Upstream::answering("x");
    let token = |world: &World, token: &str| fs::write(world.directory().join("token"), token).unwrap();
    let world = World::prepared(&closed(&upstream.url(), "admin: { token_file: token }"), |directory| {
        fs::write(directory.join("token"), "the-first-of-the-tokens\n").unwrap();
    });
    let status_by = |token: &str| Client::connect(world.admin).get("/status", &[&format!("Authorization: Bearer {token}")]);
    let (first, second) = ("the-first-of-the-tokens", "the-second-of-the-tokens");
    assert_eq!((status_by(first).status, status_by(second).status), (200, 401));
    token(&world, second);
    until("the second token", || (status_by(second).status == 200).then_some(()));
    assert_eq!(status_by(first).status, 401);
    // one that is none is not taken in, and is told of without being repeated
    let rejected = |count| world.until_metric("tidegate_config_reloads_total{result=\"rejected\"}", |found| found == count);
    token(&world, "too-short");
    rejected(1.0);
    let status = status_by(second);
    assert_eq!(status.status, 200);
    let errors = serde_json::from_slice::<Value>(&status.body).unwrap()["config"]["errors"].to_string();
    assert!(errors.contains("admin.token_file: ") && errors.contains("9 characters") && !errors.contains("too-short"), "{errors}");
    fs::remove_file(world.directory().join("token")).unwrap();
    rejected(2.0);
    assert_eq!((status_by(second).status, world.admin("/status").status), (200, 401));
    // nor is it needed any more once the file of the policy says so
    write(&world, &closed(&upstream.url(), ""));
    until("no token to be needed", || (world.admin("/status").status == 200).then_some(()));
}

#[test]
fn a_template_is_taken_in_and_a_broken_one_is_not() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), ""));
    let template = world.directory().join("room.html");
    fs::write(&template, "<!doctype html><title>Tide</title><p>{{ wait_text }}").unwrap();
    apply(&world, &closed(&upstream.url(), "waiting_room: { template: room.html }"));
    let page = || world.get("/", &[BROWSER]);
    assert!(page().text().starts_with("<!doctype html><title>Tide</title>"), "{}", page().text());
    // the file of the template alone has changed
    fs::write(&template, "<!doctype html><title>Ebb</title>").unwrap();
    until("the new template", || Some(()).filter(|()| page().text().contains("Ebb")));
    fs::write(&template, "<!doctype html>\n<title>Storm</title>{{ no_such_thing }}").unwrap();
    world.until_metric("tidegate_config_reloads_total{result=\"rejected\"}", |count| count >= 1.0);
    assert!(page().text().contains("Ebb"), "{}", page().text());
    let errors = config(&world)["errors"].to_string();
    assert!(errors.contains("room.html") && errors.contains("no_such_thing"), "{errors}");
    let said = run(&["check"], &world.file());
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("room.html") && said.err.contains(":2"), "{}", said.err);
    fs::remove_file(&template).unwrap();
    assert_eq!(reload(&world).status, 422);
    assert!(page().text().contains("Ebb"), "{}", page().text());
}

#[test]
fn letters_are_taken_in_and_broken_ones_are_not() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), ""));
    let letters = world.directory().join("letters");
    let yaml = closed(&upstream.url(), "invitations: { templates: letters }");
    let errors = reject(&world, &yaml);
    assert!(errors[0].contains("invitations.templates: ") && errors[0].contains("letters"), "{errors:?}");
    fs::create_dir(&letters).unwrap();
    let errors = reject(&world, &yaml);
    assert!(errors[0].contains("holds no text, such as en.txt"), "{errors:?}");
    fs::write(letters.join("en.txt"), "Subject: Room\n\n{{ link }}\n").unwrap();
    // what editors and mounts leave there
    fs::write(letters.join("en.txt~"), "").unwrap();
    fs::create_dir(letters.join("..data")).unwrap();
    apply(&world, &yaml);
    // a file of the directory alone has changed, and then one more is there
    let applied = || world.count("tidegate_config_reloads_total{result=\"applied\"}");
    for (file, source) in [("en.txt", "Subject: More room\n\n{{ link }}\n"), ("de.txt", "Subject: Platz\n\n{{ link }}\n")] {
        let before = applied();
        fs::write(letters.join(file), source).unwrap();
        until("the new letter", || Some(()).filter(|()| applied() > before));
    }
    let rejected = world.count("tidegate_config_reloads_total{result=\"rejected\"}");
    fs::write(letters.join("de.txt"), "Subject: Platz\n\n{{ link }}\n{{ no_such_thing }}\n").unwrap();
    until("the rejection", || Some(()).filter(|()| world.count("tidegate_config_reloads_total{result=\"rejected\"}") > rejected));
    let errors = config(&world)["errors"].to_string();
    assert!(errors.contains("de.txt:4: `no_such_thing` is undefined"), "{errors}");
    let said = run(&["check"], &world.file());
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("invitations.templates: ") && said.err.contains("de.txt:4: `no_such_thing`"), "{}", said.err);
    // and who starts with it is told as much
    let said = run(&["serve"], &world.file());
    assert!(said.status == Some(1) && said.err.contains("de.txt:4"), "{}", said.err);
}

#[test]
fn servers_change_and_nobody_notices() {
    let (first, second, third) = (Upstream::answering("1"), Upstream::answering("2"), Upstream::answering("3"));
    let servers = |servers: &[&Upstream]| {
        let servers: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
        format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: open }}\n", servers.join(", "))
    };
    let world = World::start(&servers(&[&first, &second]));
    let pass = world.pass();
    let mut client = world.client();
    let mut answers = |count: usize| {
        let mut answers: Vec<String> = (0..count).map(|_| client.get("/", &[&pass]).text()).collect();
        answers.sort();
        answers.dedup();
        answers
    };
    let before = answers(20);
    assert!(!before.contains(&"3".to_owned()), "{before:?}");
    apply(&world, &servers(&[&third]));
    assert_eq!(answers(20), ["3"]);
    apply(&world, &servers(&[&second]));
    assert_eq!(answers(20), ["2"]);
    // what the gate kept open to servers that have gone is closed, so that it holds none of their workers
    first.all_closed();
    third.all_closed();
    let up = |server: &Upstream| world.admin("/metrics").text().contains(&format!("tidegate_upstream_up{{server=\"{}\"}}", server.url()));
    until("the series of servers that have gone to end", || Some(()).filter(|()| up(&second) && !up(&first) && !up(&third)));
}

#[test]
fn a_server_is_in_use_only_once_its_name_was_looked_up() {
    let sites: Vec<Upstream> = ["first", "second", "third"].into_iter().map(Upstream::answering).collect();
    let yaml = |place: usize| {
        format!("upstream: {{ servers: [\"http://localhost:{}\"] }}\nadmission: {{ mode: open }}\n", sites[place].address.port())
    };
    let world = World::start(&yaml(0));
    assert_eq!(world.get("/", &[]).text(), "first", "after the start");
    apply(&world, &yaml(1));
    assert_eq!(world.get("/", &[]).text(), "second", "after a reload by hand");
    write(&world, &yaml(2));
    until("the new policy", || {
        let answer = world.get("/", &[]);
        assert_eq!(answer.status, 200, "after a reload that came by itself");
        (answer.text() == "third").then_some(())
    });
    assert_eq!(world.outcomes("connect"), 0);
}

#[test]
fn a_name_that_is_not_found_keeps_neither_a_start_nor_a_reload_from_going_on() {
    let site = Upstream::answering("found");
    let yaml = |more: &str| format!("upstream: {{ servers: [{more}] }}\nadmission: {{ mode: open }}\n");
    // never found (RFC 6761)
    let nowhere = "http://nowhere.invalid:80";
    let world = World::start(&yaml(nowhere));
    assert_eq!(world.get("/", &[]).header("proxy-status"), Some("tidegate; error=dns_error"));
    apply(&world, &yaml(&format!("http://localhost:{}", site.address.port())));
    assert_eq!(world.get("/", &[]).text(), "found");
    apply(&world, &yaml(&format!("{nowhere}, {}", site.url())));
    assert_eq!(world.get("/", &[]).text(), "found");
}

#[test]
fn fewer_slots_leave_no_more_idle_connections_than_there_are() {
    let door = crate::support::Door::default();
    let site = Upstream::behind(&door, "the site");
    let yaml = |slots: u32| format!("upstream: {{ servers: [\"{}\"], max_in_flight: {slots} }}\nadmission: {{ mode: open }}\n", site.url());
    let world = World::start(&yaml(8));
    let mut clients: Vec<Client> = (0..8).map(|_| world.client()).collect();
    for client in &mut clients {
        client.send(crate::support::request("GET", "/", &[]));
    }
    site.requests(8);
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    world.until_status("/upstream/0/idle", 8);
    apply(&world, &yaml(2));
    assert_eq!(world.status()["upstream"][0]["idle"], 2);
    assert_eq!(world.get("/", &[]).status, 200);
    assert_eq!(site.accepted(), 8, "those that are left are used");
}

#[test]
fn an_email_queue_that_is_turned_on_can_be_written_before_anybody_posts() {
    let upstream = Upstream::answering("x");
    let world = World::start(&closed(&upstream.url(), "email_queue: { enabled: false }"));
    assert_eq!(world.metric("tidegate_email_writable"), 0.0);
    apply(&world, &closed(&upstream.url(), "email_queue: { enabled: true }"));
    world.until_metric("tidegate_email_writable", |writable| writable == 1.0);
}

#[test]
fn a_reload_under_load_fails_no_request_and_drops_no_connection() {
    const CLIENTS: usize = 4;
    const RELOADS: usize = 12;
    let upstreams: Vec<Upstream> = (0..3).map(|_| Upstream::start(|_, site| site.write(ok("the site")))).collect();
    let yaml = |round: usize| {
        // one server stays, the others come and go
        let servers = format!("\"{}\", \"{}\"", upstreams[0].url(), upstreams[1 + round % 2].url());
        format!(
            "upstream: {{ servers: [{servers}], max_in_flight: {}, buffer: {{ response: {}KiB }} }}\nadmission: {{ mode: open }}\n\
             listen: {{ workers: 2 }}\nsession: {{ rate: 1000000 }}\nlimits: {{ connections: {} }}\nwaiting_room: {{ refresh: {}s }}\n",
            8 + round % 3,
            4 + round,
            1000 + round,
            5 + round
        )
    };
    let world = World::start(&yaml(0));
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, served, pass) = (Arc::clone(&stop), Arc::clone(&served), world.pass());
            let mut client = Client::connect(world.http);
            std::thread::spawn(move || {
                // one connection for all of it: if it were dropped, reading the answer would fail
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.get("/", &[&pass]);
                    assert_eq!((answer.status, answer.text().as_str()), (200, "the site"));
                    assert_ne!(answer.header("connection"), Some("close"));
                    served.fetch_add(1, Ordering::SeqCst);
                }
                // it serves on after the last reload
                assert_eq!(client.get("/", &[&pass]).status, 200);
            })
        })
        .collect();
    for round in 1..=RELOADS {
        let before = served.load(Ordering::SeqCst);
        apply(&world, &yaml(round));
        if round % 4 == 0 {
            reject(&world, "nonsense: 1");
        }
        until("requests between two reloads", || {
            let all_alive = clients.iter().all(|client| !client.is_finished());
            assert!(all_alive, "a client has failed");
            Some(()).filter(|()| served.load(Ordering::SeqCst) > before + 50)
        });
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every request to be answered");
    }
    assert_eq!(world.count("tidegate_config_reloads_total{result=\"applied\"}"), RELOADS);
    assert_eq!(world.outcomes("ok"), served.load(Ordering::SeqCst) + 2 * CLIENTS);
}

#[test]
fn a_request_under_way_ends_where_it_began() {
    let door = crate::support::Door::default();
    let waits = door.clone();
    let old = Upstream::start(move |_, site| {
        waits.wait();
        site.write(ok("old"))
    });
    let new = Upstream::answering("new");
    let yaml = |upstream: &Upstream| format!("upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: open }}\n", upstream.url());
    let world = World::start(&yaml(&old));
    let mut slow = world.client();
    slow.send(crate::support::request("GET", "/", &[BROWSER]));
    old.requests(1);
    apply(&world, &yaml(&new));
    assert_eq!(world.get("/", &[BROWSER]).text(), "new");
    door.open();
    assert_eq!(slow.answer().text(), "old");
}

#[test]
fn a_change_of_order_keeps_the_place() {
    let upstream = Upstream::answering("the site");
    let policy =
        |order: &str| format!("upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed, order: {order} }}\n", upstream.url());
    let world = World::start(&policy("lottery"));
    let ticket = world.get("/", &["Accept: application/json"]).ticket();
    let own = || -> Value { serde_json::from_slice(&world.get("/.tidegate/status", &[&ticket]).body).unwrap() };
    let before = own();
    assert!(before["position"].is_null() && before["verdict"] == "wait", "{before}");
    for (order, place) in [("arrival", Some(1)), ("lottery", None), ("arrival", Some(1))] {
        apply(&world, &policy(order));
        let now = own();
        assert_eq!((now["position"].as_u64(), now["ticket"].as_str()), (place, before["ticket"].as_str()), "{now}");
        assert!(now["waited_s"].as_u64() >= before["waited_s"].as_u64());
        assert!(world.get("/", &["Accept: application/json", &ticket]).all("set-cookie").is_empty(), "it was given another ticket");
    }
}
