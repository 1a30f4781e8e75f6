//! Several servers: the load is spread, one that fails is left out, and comes back.

use crate::support::{Door, Upstream, Vacant, World, ok, request, until};

fn gate(urls: &[String], more: &str) -> World {
    let urls = urls.join(", ");
    World::start(&format!("upstream: {{ servers: [{urls}], {more} }}\nadmission: {{ mode: open }}"))
}

fn up(url: &str) -> String {
    format!("tidegate_upstream_up{{server=\"{url}\"}}")
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
    let sites: Vec<Upstream> = (0..2)
        .map(|_| {
            let door = door.clone();
            Upstream::start(move |_, site| {
                door.wait();
                site.write(ok("hello"))
            })
        })
        .collect();
    let world = gate(&sites.iter().map(Upstream::url).collect::<Vec<_>>(), "max_in_flight: 2, queue: { deadline: 30s }");
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = world.client();
        client.send(request("GET", "/", &[]));
        clients.push(client);
    }
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
    let mut failed = 0;
    until("the ejection", || {
        let answer = world.get("/", &[]);
        assert!(matches!(answer.status, 200 | 502), "{}", answer.raw);
        failed += usize::from(answer.status == 502);
        (failed == 5).then_some(())
    });
    for _ in 0..30 {
        assert_eq!(world.get("/", &[]).text(), "good", "the other carries on, alone");
    }
    world.until_metric(&up(&bad), |up| up == 0.0);
    assert_eq!(world.metric(&up(&good.url())), 1.0);
    assert_eq!(world.metric("tidegate_upstream_outcomes_total{outcome=\"connect\"}"), 5.0);
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
