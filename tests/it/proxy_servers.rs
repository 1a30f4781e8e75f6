//! Several servers: the load is spread, one that can't be reached costs no visitor anything, one that fails is left out, and comes back.

use crate::support::{Client, Door, Upstream, Vacant, World, ok, request, until};

fn gate(urls: &[String], more: &str) -> World {
    let urls = urls.join(", ");
    World::start(&format!("upstream: {{ servers: [{urls}], {more} }}\nadmission: {{ mode: open }}"))
}

fn up(url: &str) -> String {
    format!("tidegate_upstream_up{{server=\"{url}\"}}")
}

/// Sends what `send` does again and again until so many connections could not be made, and returns how often that was.
#[track_caller]
fn until_unreached(world: &World, count: usize, mut send: impl FnMut(&World)) -> usize {
    let mut sent = 0;
    until("connections that can't be made", || {
        send(world);
        sent += 1;
        (world.outcomes("connect") >= count).then_some(sent)
    })
}

fn asking(world: &World) -> Client {
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    client
}

/// Clients whose requests have come to a site one after the other, and are not answered yet.
#[track_caller]
fn held(world: &World, site: &Upstream, count: usize) -> Vec<Client> {
    let clients = (1..=count).map(|number| {
        let client = asking(world);
        site.requests(number);
        client
    });
    clients.collect()
}

#[test]
fn requests_are_spread_over_the_servers() {
    let sites: Vec<Upstream> = (0..3).map(|_| Upstream::answering("hello")).collect();
    let urls: Vec<String> = sites.iter().map(Upstream::url).collect();
    let world = gate(&urls, "max_in_flight: 4");
    for _ in 0..60 {
        assert_eq!(world.get("/", &[]).status, 200);
    }
    for site in &sites {
        // of 60 with a third of a chance each, none at all would be one time in 36 billion
        assert!(!site.seen().is_empty());
    }
    assert_eq!(sites.iter().map(|site| site.seen().len()).sum::<usize>(), 60);
    for url in &urls {
        world.until_metric(&up(url), |up| up == 1.0);
    }
}

#[test]
fn each_server_has_its_own_slots() {
    let door = Door::default();
    let sites: Vec<Upstream> = (0..2).map(|_| Upstream::behind(&door, "hello")).collect();
    let world = gate(&sites.iter().map(Upstream::url).collect::<Vec<_>>(), "max_in_flight: 2, queue: { deadline: 30s }");
    let mut clients: Vec<Client> = (0..5).map(|_| asking(&world)).collect();
    sites.iter().for_each(|site| drop(site.requests(2)));
    world.until_queued(1);
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert!(sites.iter().all(|site| site.most_connections() <= 2));
}

#[test]
fn a_server_that_refuses_is_left_out_until_it_is_back() {
    let good = Upstream::answering("good");
    let vacant = Vacant::new();
    let bad = vacant.url();
    let world = gate(&[good.url(), bad.clone()], "max_in_flight: 4");
    let answered = until_unreached(&world, 5, |world| assert_eq!(world.get("/", &[]).text(), "good", "nobody pays for it"));
    for _ in 0..30 {
        assert_eq!(world.get("/", &[]).text(), "good", "the other carries on, alone");
    }
    world.until_metric(&up(&bad), |up| up == 0.0);
    assert_eq!(world.metric(&up(&good.url())), 1.0);
    assert_eq!((world.outcomes("connect"), world.outcomes("ok"), good.seen().len()), (5, answered + 30, answered + 30));
    let back = vacant.start(|_, site| site.write(ok("back")));
    until("the way back", || {
        assert_eq!(world.get("/", &[]).status, 200, "nobody pays for the way back");
        (world.metric(&up(&bad)) > 0.0).then_some(())
    });
    until("its share", || (world.get("/", &[]).text() == "back").then_some(()));
    assert!(!back.seen().is_empty());
}

#[test]
fn errors_in_a_row_leave_a_server_out_and_one_in_between_does_not() {
    let broken = Door::default();
    let is_broken = broken.clone();
    let site = Upstream::start(move |seen, site| {
        let bad = seen.target == "/bad" || is_broken.is_open();
        site.write(if bad { "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned() } else { ok("good") })
    });
    let spare = Upstream::answering("spare");
    let world = gate(&[site.url(), spare.url()], "max_in_flight: 4");
    for _ in 0..10 {
        for path in ["/bad", "/bad", "/", "/", "/", "/", "/", "/"] {
            world.get(path, &[]);
        }
    }
    assert_eq!(world.status().pointer("/upstream/0/up").unwrap(), true);
    broken.open();
    until("the ejection", || {
        world.get("/", &[]);
        (world.status().pointer("/upstream/0/up").unwrap() == false).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(world.get("/", &[]).text(), "spare");
    }
}

#[test]
fn the_only_server_is_asked_even_when_it_fails() {
    let vacant = Vacant::new();
    let url = vacant.url();
    let world = gate(std::slice::from_ref(&url), "max_in_flight: 4");
    for _ in 0..10 {
        assert_eq!(world.get("/", &[]).status, 502, "not shed: a doubtful server beats none");
    }
    world.until_metric(&up(&url), |up| up == 0.0);
    let _back = vacant.start(|_, site| site.write(ok("back")));
    assert_eq!(world.get("/", &[]).text(), "back");
    world.until_metric(&up(&url), |up| up == 1.0);
}

#[test]
fn what_can_not_be_sent_to_one_server_goes_to_another_whatever_it_is() {
    let large = 300_000;
    for (method, length) in [("GET", 0), ("DELETE", 0), ("POST", 0), ("POST", 1000), ("PATCH", 1000), ("POST", large), ("PUT", large)] {
        let (vacant, good) = (Vacant::new(), Upstream::answering("good"));
        let world = gate(&[vacant.url(), good.url()], "max_in_flight: 4, buffer: { request: 16KiB }");
        let body: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[at % 3]).collect();
        let sent = until_unreached(&world, 2, |world| {
            let mut client = world.client();
            client.send(request(method, "/form", &[&format!("Content-Length: {length}")]));
            client.send(&body);
            assert_eq!(client.answer().text(), "good", "{method} {length}");
        });
        let seen = good.seen();
        assert!(seen.iter().all(|seen| (seen.method.as_str(), &seen.body) == (method, &body)), "{method} {length}");
        assert_eq!((seen.len(), world.outcomes("ok"), world.outcomes("connect")), (sent, sent, 2));
        world.until_status("/slots/in_flight", 0);
    }
}

#[test]
fn a_server_that_takes_no_connection_in_time_is_gone_past() {
    let (vacant, good) = (Vacant::new(), Upstream::answering("good"));
    let world = gate(&[vacant.url(), good.url()], "timeouts: { connect: 100ms }");
    let _hanging = vacant.hang();
    until_unreached(&world, 1, |world| assert_eq!(world.get("/", &[]).text(), "good"));
}

#[test]
fn a_server_that_takes_no_connection_is_found_out_by_those_who_do_not_wait_for_it() {
    let (vacant, good) = (Vacant::new(), Upstream::answering("good"));
    let hanging = vacant.url();
    let world = gate(&[hanging.clone(), good.url()], "max_in_flight: 100, timeouts: { connect: 300ms }");
    let _hanging = vacant.hang();
    let mut left = 0;
    until("the ejection", || {
        asking(&world).reset();
        left += 1;
        (world.metric(&up(&hanging)) == 0.0).then_some(())
    });
    until("all to be counted", || {
        let counted: usize = ["connect", "ok", "aborted"].map(|outcome| world.outcomes(outcome)).iter().sum();
        (counted == left).then_some(())
    });
    assert!(world.outcomes("connect") >= 5);
    world.until_status("/slots/in_flight", 0);
    assert_eq!(world.get("/", &[]).text(), "good");
}

#[test]
fn two_servers_are_tried_at_most_and_one_once_all_are_ejected() {
    for count in [2, 3] {
        let vacant: Vec<Vacant> = (0..count).map(|_| Vacant::new()).collect();
        let world = gate(&vacant.iter().map(Vacant::url).collect::<Vec<_>>(), "max_in_flight: 4");
        for number in 1..=4 {
            let answer = world.get("/", &[]);
            assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=connection_refused")));
            assert_eq!(world.outcomes("connect"), 2 * number, "{count}");
        }
        let ejected = || world.status()["upstream"].as_array().unwrap().iter().all(|server| server["up"] == false);
        until("all to be ejected", || {
            assert_eq!(world.get("/", &[]).status, 502);
            ejected().then_some(())
        });
        let tried = world.outcomes("connect");
        assert_eq!(world.get("/", &[]).status, 502);
        assert_eq!(world.outcomes("connect"), tried + 1, "{count}");
        world.until_status("/slots/in_flight", 0);
    }
}

#[test]
fn who_can_not_have_a_slot_at_another_server_at_once_is_told_so() {
    let door = Door::default();
    let good = Upstream::behind(&door, "good");
    let vacant = Vacant::new();
    let world = gate(&[good.url(), vacant.url()], "max_in_flight: 2, queue: { deadline: 30s }");
    let mut clients = held(&world, &good, 2);
    until_unreached(&world, 5, |world| {
        let answer = world.get("/", &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=connection_refused")));
        assert_eq!(world.status()["slots"]["in_flight"], 2);
    });
    clients.push(asking(&world));
    world.until_queued(1);
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "good");
    }
    assert_eq!((good.seen().len(), world.outcomes("ok")), (3, 3));
    assert!(good.most_connections() <= 2);
}

#[test]
fn in_mode_observe_the_other_server_need_have_no_slot() {
    let door = Door::default();
    let good = Upstream::behind(&door, "good");
    let vacant = Vacant::new();
    let servers = format!("{}, {}", good.url(), vacant.url());
    let world = World::start(&format!("upstream: {{ servers: [{servers}], max_in_flight: 1 }}\nadmission: {{ mode: observe }}"));
    // all but the first are given the slot of the server at which nothing is in flight
    let mut clients = held(&world, &good, 5);
    assert!(world.outcomes("connect") >= 4);
    door.open();
    for client in &mut clients {
        assert_eq!(client.answer().text(), "good");
    }
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn who_leaves_while_another_server_is_tried_gives_its_slot_back() {
    let (refusing, vacant) = (Vacant::new(), Vacant::new());
    let world = gate(&[refusing.url(), vacant.url()], "max_in_flight: 1, timeouts: { connect: 2s }");
    let _hanging = vacant.hang();
    until_unreached(&world, 1, |world| {
        let client = asking(world);
        world.until_status("/upstream/1/in_flight", 1);
        assert_eq!(world.status()["slots"]["in_flight"], 1);
        drop(client);
        world.until_status("/slots/in_flight", 0);
    });
}

#[test]
fn a_server_that_takes_requests_and_has_no_whole_answer_is_left_out() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
    for (what, begins, is_silent) in [
        ("never answers", "", true),
        ("closes without an answer", "", false),
        ("breaks off in its answers", half, false),
        ("stands still in its answers", half, true),
    ] {
        let bad = Upstream::start(move |_, site| {
            site.write(begins);
            if is_silent {
                site.wait_for_end();
            }
            false
        });
        let spare = Upstream::answering("spare");
        let world = gate(&[bad.url(), spare.url()], "max_in_flight: 4, timeouts: { response: 300ms }");
        until(&format!("one that {what} to be ejected"), || {
            // whatever comes of it
            asking(&world).try_answer("GET").ok();
            (world.status().pointer("/upstream/0/up").unwrap() == false).then_some(())
        });
    }
}

#[test]
fn the_law_is_told_once_of_a_request_that_two_servers_failed() {
    let vacant: Vec<Vacant> = (0..2).map(|_| Vacant::new()).collect();
    let urls = vacant.iter().map(Vacant::url).collect::<Vec<_>>().join(", ");
    let world = World::start(&format!("upstream: {{ servers: [{urls}], max_in_flight: 4 }}"));
    let pass = world.pass();
    let fail = |count: usize| (0..count).for_each(|_| assert_eq!(world.get("/", &[&pass]).status, 502));
    fail(16);
    // of twenty the law would say that nothing is answered well, and the first four at least have tried both servers
    let tried = world.outcomes("connect");
    assert!(tried >= 17 + 4, "{tried}");
    // a point each two ticks: by the second the law has seen all of it
    let points = || world.status()["history"].as_array().unwrap().len();
    let before = points();
    until("two more points", || (points() >= before + 2).then_some(()));
    assert!(world.status()["capacity"].as_f64().unwrap() > 0.0);
    fail(10);
    until("the law to see that nothing is answered well", || (world.status()["capacity"] == 0.0).then_some(()));
}
