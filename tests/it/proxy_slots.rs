//! Slots: no more requests at the site than it has workers, nobody holds one who is not served, and who waits is served in turn.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Client, Door, Upstream, World, ok, request, until};

/// A gate in front of `site`: one slot, and a deadline that no test reaches, unless `upstream` says otherwise.
fn gate(site: &Upstream, upstream: &str, more: &str) -> World {
    let url = site.url();
    let rest = if upstream.is_empty() { "max_in_flight: 1, queue: { deadline: 30s }" } else { upstream };
    World::start(&format!("upstream: {{ servers: [{url}], {rest} }}\nadmission: {{ mode: open }}\n{more}"))
}

/// A site that answers `/slow…` when the door is opened, and all else at once.
fn slow_site(door: &Door) -> Upstream {
    let door = door.clone();
    Upstream::start(move |seen, site| {
        if seen.target.starts_with("/slow") {
            door.wait();
        }
        site.write(ok(&seen.target))
    })
}

/// Sends a GET whose answer is read later.
fn ask(world: &World, path: &str, lines: &[&str]) -> Client {
    let mut client = world.client();
    client.send(request("GET", path, lines));
    client
}

#[test]
fn a_client_that_reads_slowly_holds_no_slot() {
    let body = "x".repeat(700 << 10);
    let answer = body.clone();
    let site = Upstream::start(move |seen, site| if seen.target == "/large" { site.write(ok(&answer)) } else { site.write(ok("small")) });
    let world = gate(&site, "", "");
    let mut slow = Client::connect_narrow(world.http);
    slow.send(request("GET", "/large", &[]));
    site.requests(1);
    assert_eq!(world.get("/", &[]).text(), "small", "served while the first has read nothing");
    assert!(slow.answer().text() == body);
}

#[test]
fn a_client_that_sends_slowly_holds_no_slot() {
    let site = Upstream::answering("done");
    let world = gate(&site, "", "");
    let mut slow = world.client();
    slow.send(request("POST", "/upload", &["Content-Length: 512000", "Expect: 100-continue"]));
    assert_eq!(slow.head().unwrap().status, 100, "the gate has begun to read the body");
    slow.send(vec![b'x'; 100_000]);
    assert_eq!(world.get("/other", &[]).text(), "done");
    assert_eq!(site.seen().len(), 1, "the upload has not begun");
    slow.send(vec![b'x'; 412_000]);
    assert_eq!(slow.answer().text(), "done");
    assert_eq!(site.requests(2)[1].body.len(), 512_000);
}

#[test]
fn a_client_that_left_has_freed_no_worker() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "", "");
    let gone = ask(&world, "/slow", &[]);
    site.requests(1);
    drop(gone);
    world.until_status("/connections/open", 0);
    let mut next = ask(&world, "/next", &[]);
    world.until_queued(1);
    assert_eq!(world.status().pointer("/slots/in_flight").unwrap(), 1);
    assert_eq!(site.seen().len(), 1, "the worker is still busy with the one who left");
    door.open();
    assert_eq!(next.answer().text(), "/next");
    assert_eq!(site.accepted(), 1, "on the same connection, which was in order");
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"ok\"}"), 2.0);
}

#[test]
fn one_who_leaves_the_queue_is_not_sent_to_the_site() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "", "");
    let mut first = ask(&world, "/slow", &[]);
    site.requests(1);
    let gone = ask(&world, "/gone", &[]);
    world.until_queued(1);
    let mut third = ask(&world, "/third", &[]);
    world.until_queued(2);
    gone.reset();
    world.until_queued(1);
    door.open();
    assert_eq!(first.answer().text(), "/slow");
    assert_eq!(third.answer().text(), "/third");
    assert_eq!(site.seen().len(), 2);
}

#[test]
fn first_come_first_served() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "", "listen: { workers: 2 }");
    let mut clients = vec![ask(&world, "/slow", &[])];
    site.requests(1);
    for number in 1..=6 {
        clients.push(ask(&world, &format!("/{number}"), &[]));
        world.until_queued(number);
    }
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let order: Vec<String> = site.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(order, ["/slow", "/1", "/2", "/3", "/4", "/5", "/6"]);
}

#[test]
fn who_finds_no_slot_in_time_is_shed_and_keeps_the_pass() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 100ms }", "");
    let mut first = ask(&world, "/slow", &[]);
    site.requests(1);
    let shed = world.get("/", &["Accept: text/html"]);
    assert_eq!((shed.status, shed.header("refresh"), shed.header("cache-control")), (503, shed.header("retry-after"), Some("no-store")));
    assert_eq!(shed.header("proxy-status"), Some("tidegate; error=connection_limit_reached; details=\"shed\""));
    let retry: u32 = shed.header("retry-after").unwrap().parse().unwrap();
    assert!((2..=60).contains(&retry), "{retry}");
    // the pass that came with the shed page is good, and stays as it is
    let pass = shed.pass();
    let again = world.get("/", &[&pass, "Accept: application/json"]);
    assert_eq!((again.status, again.header("set-cookie")), (503, None));
    let json: serde_json::Value = serde_json::from_slice(&again.body).unwrap();
    assert_eq!(json["verdict"], "shed");
    assert_eq!(world.metric("tidegate_requests_total{verdict=\"shed\"}"), 2.0);
    door.open();
    assert_eq!(first.answer().status, 200);
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.get("/", &[&pass]).status, 200);
    assert_eq!(site.seen().len(), 2);
}

#[test]
fn a_form_waits_longer_than_a_page() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 100ms, length: 2 }", "");
    let mut first = ask(&world, "/slow", &[]);
    site.requests(1);
    let mut form = world.client();
    form.send(request("POST", "/form", &["Content-Length: 4"]));
    form.send("a=bc");
    world.until_queued(1);
    assert_eq!(world.get("/", &[]).status, 503, "a GET came later and has been shed by now");
    assert_eq!(world.status().pointer("/slots/queue").unwrap(), 1, "the form still waits");
    door.open();
    assert_eq!(first.answer().status, 200);
    assert_eq!(form.answer().text(), "/form");
    assert_eq!(site.requests(2)[1].body, b"a=bc");
}

#[test]
fn a_full_queue_sheds_at_once() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s, length: 2 }", "");
    let mut served = vec![ask(&world, "/slow", &[])];
    site.requests(1);
    for number in 1..=2 {
        served.push(ask(&world, "/queued", &[]));
        world.until_queued(number);
    }
    let shed = world.get("/", &[]);
    assert_eq!((shed.status, shed.header("proxy-status").is_some_and(|status| status.contains("details=\"shed\""))), (503, true));
    // a form that is shed does not come back by itself
    let mut form = world.client();
    form.send(request("POST", "/", &["Content-Length: 1", "Accept: text/html"]));
    form.send("x");
    let shed = form.answer();
    assert_eq!((shed.status, shed.header("refresh")), (503, None));
    door.open();
    for client in &mut served {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn one_pass_has_its_share_of_slots_and_no_more() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = gate(&site, "max_in_flight: 4, queue: { deadline: 30s }", "session: { in_flight: 2 }");
    let pass = world.pass();
    let mut of_one: Vec<Client> = (0..2).map(|_| ask(&world, "/slow", &[&pass])).collect();
    site.requests(3);
    of_one.push(ask(&world, "/third", &[&pass]));
    world.until_queued(1);
    assert_eq!(world.get("/other", &[]).text(), "/other", "others pass by");
    assert!(site.seen().iter().all(|seen| seen.target != "/third"));
    door.open();
    for client in &mut of_one {
        assert_eq!(client.answer().status, 200);
    }
    assert!(site.seen().iter().any(|seen| seen.target == "/third"));
}

#[test]
fn open_routes_have_half_of_the_slots_at_most() {
    let door = Door::default();
    let site = slow_site(&door);
    let more = "client: { trusted_proxies: [127.0.0.1] }\nroutes: [{ path: \"/slow/**\", gate: open }]";
    let world = gate(&site, "max_in_flight: 4, queue: { deadline: 30s }", more);
    let from = |network: u8| format!("X-Forwarded-For: 192.0.2.{network}");
    let mut open: Vec<Client> = (0..2).map(|network| ask(&world, "/slow/x", &[&from(network)])).collect();
    site.requests(2);
    open.push(ask(&world, "/slow/y", &[&from(3)]));
    world.until_queued(1);
    assert_eq!(world.get("/gated", &[]).text(), "/gated");
    assert_eq!(site.seen().len(), 3);
    door.open();
    for client in &mut open {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn what_is_larger_than_the_buffer_streams_and_holds_the_slot() {
    let site = Upstream::answering("done");
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s }, buffer: { request: 16KiB }", "");
    let mut large = world.client();
    large.send(request("POST", "/upload", &["Content-Length: 300000", "Expect: 100-continue"]));
    assert_eq!(large.head().unwrap().status, 100);
    large.send(vec![b'x'; 100_000]);
    site.connections(1);
    world.until_status("/slots/in_flight", 1);
    let mut other = ask(&world, "/other", &[]);
    world.until_queued(1);
    large.send(vec![b'x'; 200_000]);
    assert_eq!(large.answer().text(), "done");
    assert_eq!(other.answer().text(), "done");
    assert_eq!(site.requests(2)[0].body.len(), 300_000);
}

/// A site that answers `/large` with 32 MiB, more than all kernels on the way keep, and all else at once.
fn generous_site() -> Upstream {
    let large = vec![b'x'; 32 << 20];
    Upstream::start(move |seen, site| {
        if seen.target != "/large" {
            return site.write(ok("small"));
        }
        site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len())) && site.write(&large)
    })
}

#[test]
fn an_answer_larger_than_the_buffer_holds_its_slot_while_it_is_read() {
    let site = generous_site();
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s }, buffer: { response: 64KiB }", "");
    let mut reader = Client::connect_narrow(world.http);
    reader.send(request("GET", "/large", &[]));
    assert_eq!(reader.head().unwrap().status, 200);
    let mut other = ask(&world, "/", &[]);
    world.until_queued(1);
    assert_eq!(reader.take(32 << 20).unwrap().len(), 32 << 20);
    assert_eq!(other.answer().text(), "small");
    assert_eq!(site.accepted(), 1);
}

#[test]
fn a_client_that_reads_no_more_is_cut_and_frees_its_slot() {
    let site = generous_site();
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s }, buffer: { response: 64KiB }", "limits: { body_timeout: 500ms }");
    let mut reader = Client::connect_narrow(world.http);
    reader.send(request("GET", "/large", &[]));
    assert_eq!(reader.head().unwrap().status, 200);
    assert_eq!(world.get("/", &[]).text(), "small");
    assert!(reader.take(32 << 20).is_err(), "the half does not look whole");
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), 1.0);
}

#[test]
fn a_streamed_upload_that_the_client_gives_up_frees_its_slot() {
    let site = Upstream::answering("done");
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s }, buffer: { request: 16KiB }", "");
    let mut large = world.client();
    large.send(request("POST", "/upload", &["Content-Length: 300000"]));
    large.send(vec![b'x'; 100_000]);
    site.connections(1);
    large.reset();
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.get("/", &[]).text(), "done");
    assert_eq!(site.seen().len(), 1, "the site has not taken the half for a whole");
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), 1.0);
}

#[test]
fn an_answer_that_nobody_reads_any_more_is_cut_beyond_the_buffer() {
    let site = Upstream::start(|seen, site| {
        if seen.target == "/" {
            return site.write(ok("small"));
        }
        // an answer without an end
        let piece = "10000\r\n".to_owned() + &"x".repeat(0x10000) + "\r\n";
        site.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while site.write(&piece) {}
        false
    });
    let world = gate(&site, "max_in_flight: 1, queue: { deadline: 30s }, buffer: { response: 64KiB }", "");
    let mut client = ask(&world, "/endless", &[]);
    assert_eq!(client.head().unwrap().status, 200);
    drop(client);
    assert_eq!(world.get("/", &[]).text(), "small");
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), 1.0);
    assert_eq!(site.most_connections(), 1, "the slot came free with its connection, and not before");
}

/// A client that has seen the beginning of this answer, and leaves; then another is served.
fn left(kind: &str, piece: &'static str, goes_on: bool, timeouts: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let site = Upstream::start(move |seen, site| {
        if seen.target == "/" {
            return site.write(ok("small"));
        }
        site.write(&head);
        while site.write(piece) && goes_on {
            #[expect(clippy::disallowed_methods, reason = "a site that makes its answer little by little")]
            std::thread::sleep(Duration::from_millis(50));
        }
        site.wait_for_end();
        false
    });
    let world = gate(&site, &format!("max_in_flight: 1, queue: {{ deadline: 30s }}{timeouts}"), "");
    let mut client = ask(&world, "/long", &[]);
    assert_eq!(client.head().unwrap().status, 200);
    assert!(!client.take(piece.len()).unwrap().is_empty());
    drop(client);
    assert_eq!(world.get("/", &[]).text(), "small");
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), 1.0);
    assert_eq!(site.most_connections(), 1, "the slot came free with its connection, and not before");
}

/// Little by little it would stay below what is taken of it in vain for hours.
#[test]
fn an_answer_that_nobody_reads_any_more_is_cut_after_one_response_timeout() {
    left("text/html", "1\r\nx\r\n", true, ", timeouts: { response: 1s }");
}

#[test]
fn a_stream_of_events_that_is_left_is_cut_at_once_whether_it_speaks_or_not() {
    for (kind, goes_on) in [("Text/Event-Stream; charset=utf-8", true), ("text/event-stream", false)] {
        left(kind, "3\r\n:\n\n\r\n", goes_on, "");
    }
}

#[test]
fn an_answer_that_nobody_waits_for_any_more_keeps_its_connection() {
    let door = Door::default();
    let opened = door.clone();
    let site = Upstream::start(move |seen, site| {
        if seen.target == "/" {
            return site.write(ok("small"));
        }
        site.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        opened.wait();
        site.write("later")
    });
    let world = gate(&site, "", "");
    let mut client = ask(&world, "/two", &[]);
    assert_eq!(client.head().unwrap().status, 200);
    drop(client);
    world.until_status("/connections/open", 0);
    let mut next = ask(&world, "/", &[]);
    world.until_queued(1);
    door.open();
    assert_eq!(next.answer().text(), "small");
    assert_eq!(site.accepted(), 1);
}

/// Many clients on many connections, each with several requests.
fn crowd(world: &World, clients: usize, requests: usize) {
    let http = world.http;
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..requests {
                    assert_eq!(Client::connect(http).get("/", &[]).status, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn idle_connections_count_as_slots_across_workers() {
    let site = Upstream::answering("hello");
    let world = gate(&site, "max_in_flight: 2, queue: { deadline: 30s }", "listen: { workers: 2 }");
    crowd(&world, 12, 12);
    assert_eq!(site.seen().len(), 144);
    assert!(site.most_connections() <= 2, "{}", site.most_connections());
    assert_eq!(site.accepted(), 2, "both were used to the end");
}

#[test]
fn a_connection_that_closes_gives_its_slot_back_no_sooner() {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let site = Upstream::start(move |_, site| {
        // every third answer is the last on its connection: half of these leave it to the gate to close
        match count.fetch_add(1, Ordering::Relaxed) % 6 {
            0 => {
                site.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                false
            }
            3 => site.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            _ => site.write(ok("hello")),
        }
    });
    let world = gate(&site, "max_in_flight: 2, queue: { deadline: 30s }", "listen: { workers: 2 }");
    crowd(&world, 12, 12);
    assert_eq!(site.seen().len(), 144);
    assert!(site.most_connections() <= 2, "{}", site.most_connections());
}

fn site_that_takes(each: Duration) -> Upstream {
    Upstream::start(move |seen, site| {
        #[expect(clippy::disallowed_methods, reason = "a site that takes as long for each of many as for one")]
        std::thread::sleep(each);
        site.write(ok(&seen.target))
    })
}

/// So many clients ask for one page after the other until what is waited for has come, or was waited for in vain. Returns whether it has come.
fn while_many_ask(world: &World, clients: usize, wait: impl FnOnce()) -> bool {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            let mut client = world.client();
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/", &[]).status, 200);
                }
            });
        }
        let waited = std::panic::catch_unwind(AssertUnwindSafe(wait));
        over.store(true, Ordering::Relaxed);
        waited.is_ok()
    })
}

#[test]
fn slots_are_as_many_as_the_site_is_found_to_serve_at_once() {
    let site = site_that_takes(Duration::from_millis(20));
    let world = gate(&site, "max_in_flight: auto, queue: { deadline: 30s }", "");
    let now = || world.status()["max_in_flight"]["now"].as_u64().unwrap();
    assert_eq!(now(), 4);
    let found = while_many_ask(&world, 32, || {
        until("more slots", || (now() > 4).then_some(()));
        until("them to be used", || (site.most_connections() > 4).then_some(()));
        world.until_metric("tidegate_max_in_flight", |found| found > 4.0);
    });
    assert!(found, "{} slots, {} connections", now(), site.most_connections());
}

#[test]
fn a_limit_that_is_taken_back_takes_idle_connections_along() {
    let site = site_that_takes(Duration::from_millis(50));
    // begins with 16, and tries 20
    let yaml = format!(
        "upstream: {{ servers: [{}], max_in_flight: auto, queue: {{ deadline: 30s }}, timeouts: {{ idle: 5m }} }}\n\
         admission: {{ mode: open }}\n",
        site.url()
    );
    let world = World::prepared(&yaml, |directory| {
        std::fs::create_dir(directory.join("data")).unwrap();
        let saved = r#"{"version":1,"saved_at_unix_ms":1800000000000,"max_in_flight":16}"#;
        std::fs::write(directory.join("data/state.json"), saved).unwrap();
    });
    let now = || world.status()["max_in_flight"]["now"].as_u64().unwrap();
    assert_eq!(now(), 16);
    let tried = while_many_ask(&world, 40, || until("more slots, all of them used", || (now() > 16 && site.accepted() > 16).then_some(())));
    assert!(tried, "{} slots", now());
    // nobody asks any more, so the trial is given up
    world.until_status("/max_in_flight/now", 16);
    world.until_status("/upstream/0/idle", 16);
}

/// A client that takes little at a time, and has sent more of a body than is read ahead, but not all of it.
fn uploads_on(world: &World) -> Client {
    let mut client = Client::connect_narrow(world.http);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n");
    client.send([vec![b'x'; 10_000], b"\r\n".to_vec()].concat());
    client
}

#[test]
fn who_takes_nothing_of_the_answer_is_cut_though_the_upload_goes_on() {
    let large: &'static str = format!("HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n{}", "x".repeat(64_000_000)).leak();
    let site = Upstream::raw(move |site| {
        while let Ok(seen) = site.head() {
            if seen.target == "/next" {
                site.write(ok("next"));
            } else {
                // without the rest of the request
                site.write(large);
                return site.wait_for_end();
            }
        }
    });
    let world = World::start(&format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4KiB, response: 4KiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ body_timeout: 1s }}",
        site.url()
    ));
    let mut client = uploads_on(&world);
    site.connections(1);
    let address = world.http;
    let next = std::thread::spawn(move || Client::connect(address).get("/next", &[]).text());
    until("the slot to be free for another", || {
        // one more piece, as long as there is somebody to take it
        client.try_send("1\r\nx\r\n").ok();
        next.is_finished().then_some(())
    });
    assert_eq!(next.join().unwrap(), "next");
}

/// The site has answered without waiting for the rest of a request, and keeps its connection for that. All of the answer is read ahead, so
/// that nothing but the upload is still under way when its client is cut.
#[test]
fn an_upload_ends_with_its_client_though_the_answer_to_it_is_here() {
    let large: &'static str = format!("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n{}", "x".repeat(8_000_000)).leak();
    for is_reset in [true, false] {
        let site = Upstream::raw(move |site| {
            if site.head().is_ok() {
                site.write(large);
                site.wait_for_end();
            }
        });
        let world = World::start(&format!(
            "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4KiB, response: 16MiB }} }}\n\
             admission: {{ mode: open }}\nlimits: {{ body_timeout: 1s }}",
            site.url()
        ));
        let mut client = uploads_on(&world);
        site.connections(1);
        assert_eq!(client.take(1000).unwrap().len(), 1000, "the answer is on its way");
        // or it takes nothing more of it, and is cut for that
        if is_reset {
            client.reset();
        }
        world.until_status("/connections/open", 0);
        world.until_status("/slots/in_flight", 0);
    }
}

/// A body that is larger than what is read ahead holds a slot for as long as its client takes, down to `limits.min_rate`.
#[test]
fn uploads_of_one_network_leave_open_routes_to_others() {
    let site = Upstream::answering("done");
    let upstream = "max_in_flight: 8, queue: { deadline: 30s }, buffer: { request: 4KiB }";
    let world = gate(&site, upstream, "client: { trusted_proxies: [127.0.0.1] }\nroutes: [{ path: /api, gate: open }]");
    let length = ["Content-Length: 100000", "X-Forwarded-For: 192.0.2.1"];
    // the site has a request once it has a slot
    let mut slow: Vec<Client> = (0..5)
        .map(|_| {
            let mut client = world.client();
            client.send(request("POST", "/api", &length));
            client.send(vec![b'x'; 5000]);
            client
        })
        .collect();
    world.until_status("/slots/in_flight", 3);
    world.until_queued(2);
    assert_eq!(world.get("/api", &["X-Forwarded-For: 198.51.100.1"]).text(), "done", "another network is served");
    let mut next = ask(&world, "/api", &["X-Forwarded-For: 192.0.2.1"]);
    world.until_queued(3);
    for client in &mut slow {
        client.send(vec![b'x'; 95_000]);
    }
    for client in &mut slow {
        assert_eq!(client.answer().text(), "done");
    }
    assert_eq!(next.answer().text(), "done");
}

/// A gate with one slot and 4 MiB for all bodies that it holds, which is what one body may take of it, too; its kernel keeps little of what a
/// client does not take.
fn short_of_memory(site: &Upstream) -> World {
    World::narrow(&yaml_of_memory(site, "4MiB"), |_| {})
}

fn yaml_of_memory(site: &Upstream, memory: &str) -> String {
    format!(
        "upstream: {{ servers: [{}], max_in_flight: 1, buffer: {{ request: 4MiB, response: 4MiB }}, queue: {{ deadline: 30s }} }}\n\
         admission: {{ mode: open }}\nlimits: {{ buffer_memory: {memory} }}",
        site.url()
    )
}

/// A body that takes most of that memory, less what is on its way already: not all of it, and far more than half.
const MOST: usize = 3_500_000;

fn site_of_large_pages() -> Upstream {
    let large: &'static str = "x".repeat(MOST).leak();
    Upstream::start(move |seen, site| site.write(ok(if seen.target == "/large" { large } else { "small" })))
}

/// A client that has been told that there is a large page, and reads none of it.
#[track_caller]
fn reader_of_nothing(world: &World) -> Client {
    let mut reader = Client::connect_narrow(world.http);
    reader.send(request("GET", "/large", &[]));
    assert_eq!(reader.head().unwrap().status, 200);
    reader
}

#[test]
fn answers_are_read_ahead_for_as_long_as_there_is_memory_for_all_of_them() {
    let site = site_of_large_pages();
    let world = short_of_memory(&site);
    let _first = reader_of_nothing(&world);
    world.until_status("/slots/in_flight", 0);
    // too little is left for the second, which so holds its slot
    let second = reader_of_nothing(&world);
    let third = ask(&world, "/", &[]);
    world.until_queued(1);
    world.until_metric("tidegate_slot_queue_length", |queued| queued == 1.0);
    assert_eq!(site.seen().len(), 2);
    drop((second, third));
    world.until_status("/connections/open", 1);
    world.until_status("/slots/in_flight", 0);
    // and enough once there is more of it
    std::fs::write(world.file(), yaml_of_memory(&site, "64MiB")).unwrap();
    assert_eq!(world.admin_post("/reload", "application/json", "").status, 200);
    let _fourth = reader_of_nothing(&world);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn the_memory_of_an_answer_is_there_again_when_it_is_read_and_when_its_client_has_left() {
    let site = site_of_large_pages();
    let world = short_of_memory(&site);
    for _ in 0..2 {
        let mut reader = reader_of_nothing(&world);
        world.until_status("/slots/in_flight", 0);
        assert_eq!(reader.take(MOST).unwrap().len(), MOST);
    }
    for _ in 0..3 {
        let reader = reader_of_nothing(&world);
        // all of it is read ahead
        world.until_status("/slots/in_flight", 0);
        drop(reader);
        world.until_status("/connections/open", 0);
    }
}

#[test]
fn the_memory_of_a_request_is_there_again_when_it_is_sent_and_when_its_client_has_left() {
    let door = Door::default();
    let site = slow_site(&door);
    let world = short_of_memory(&site);
    let upload = |length: usize| {
        let mut client = world.client();
        client.send(request("POST", "/upload", &[&format!("Content-Length: {length}"), "Expect: 100-continue"]));
        assert_eq!(client.head().unwrap().status, 100);
        client
    };
    for _ in 0..2 {
        let mut client = upload(MOST);
        client.send(vec![b'x'; MOST]);
        assert_eq!(client.answer().text(), "/upload");
    }
    let mut first = ask(&world, "/slow", &[]);
    site.requests(3);
    for _ in 0..2 {
        let mut client = upload(MOST);
        client.send(vec![b'x'; MOST]);
        // it is read whole, and waits for a slot
        world.until_queued(1);
        client.reset();
        world.until_queued(0);
    }
    door.open();
    assert_eq!(first.answer().text(), "/slow");
    // were there no memory, this one would have the slot with nothing but its head
    let mut slow = upload(10);
    slow.send("x");
    assert_eq!(world.get("/next", &[]).text(), "/next");
    slow.send("and so on");
    assert_eq!(slow.answer().text(), "/upload");
}
