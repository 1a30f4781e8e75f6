//! The limit of connections: who waits must not crowd out those who may enter.

use crate::support::{
    Client, Door, END_HEADERS, END_STREAM, Frames, GET, GOAWAY, HEADERS, Http2, Secure, Upstream, World, frame, ok, request, until,
};

const LIMIT: usize = 20;

/// A gate with few connections, closed by hand once a pass has been handed out.
fn gate(site: &Upstream, more: &str) -> (World, String) {
    gate_of(LIMIT, site, more)
}

/// The same, with so many.
fn gate_of(limit: usize, site: &Upstream, more: &str) -> (World, String) {
    let routes = "routes: [{ path: /free, gate: open }]";
    let world = World::open(&site.url(), &format!("{routes}\nlimits: {{ connections: {limit}{more} }}"));
    let pass = world.pass();
    assert_eq!(world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#).status, 200);
    world.until_status("/connections/open", 0);
    (world, pass)
}

#[test]
fn open_connections_are_counted() {
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), "listen: { workers: 2 }");
    assert_eq!(world.status().pointer("/connections/open").unwrap(), 0, "a worker that waits for a client has none");
    let clients: Vec<Client> = (0..3).map(|_| world.client()).collect();
    world.until_status("/connections/open", 3);
    world.until_metric("tidegate_downstream_connections", |open| open == 3.0);
    drop(clients);
    world.until_status("/connections/open", 0);
}

#[test]
fn above_half_of_the_limit_a_waiting_answer_closes_its_connection() {
    let site = Upstream::answering("hello");
    let (world, pass) = gate(&site, "");
    let mut kept = Vec::new();
    for number in 1..=LIMIT / 2 {
        let mut client = world.client();
        let answer = client.get("/", &["Accept: text/html"]);
        assert_eq!((answer.status, answer.header("connection")), (503, None), "{number}");
        kept.push(client);
    }
    for _ in 0..3 {
        let mut client = world.client();
        let answer = client.get("/", &["Accept: text/html"]);
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
        client.assert_ends();
        world.until_status("/connections/open", 10);
    }
    // those who may enter stay, and those below the half are not closed behind their backs
    let mut member = world.client();
    for _ in 0..2 {
        let answer = member.get("/", &[&pass]);
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    drop(member);
    world.until_status("/connections/open", 10);
    for client in &mut kept {
        assert_eq!(client.get("/", &[]).header("connection"), None);
    }
}

#[test]
fn the_last_tenth_is_kept_for_those_with_a_pass() {
    let site = Upstream::answering("hello");
    let (world, pass) = gate_of(30, &site, ", header_timeout: 1h");
    // 27 that have begun to say something: what they are is not known
    let silent: Vec<Client> = (0..27)
        .map(|_| {
            let mut client = world.client();
            client.send("GET /");
            client
        })
        .collect();
    world.until_status("/connections/open", 27);
    let mut member = world.client();
    for _ in 0..3 {
        let answer = member.get("/", &[&pass]);
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    // one of the last places: answered, and given back
    for _ in 0..3 {
        let mut stranger = world.client();
        let answer = stranger.get("/free", &[]);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        stranger.assert_ends();
        world.until_status("/connections/open", 28);
    }
    let mut other = world.client();
    assert_eq!(other.get("/", &[&pass]).header("connection"), None);
    assert_eq!(member.get("/", &[&pass]).status, 200);
    drop(silent);
    world.until_status("/connections/open", 2);
}

#[test]
fn when_all_are_taken_who_comes_waits_and_is_served() {
    for workers in [1, 2] {
        let site = Upstream::answering("hello");
        let world = World::open(
            &site.url(),
            &format!("listen: {{ workers: {workers} }}\nlimits: {{ connections: {LIMIT}, header_timeout: 1s, idle_timeout: 1s }}"),
        );
        // they hold every place until they are timed out
        let silent: Vec<Client> = (0..2 * LIMIT).map(|_| world.client()).collect();
        let mut clients: Vec<Client> = (0..LIMIT)
            .map(|_| {
                let mut client = world.client();
                client.send(request("GET", "/", &[]));
                client
            })
            .collect();
        for client in &mut clients {
            assert_eq!(client.answer().text(), "hello");
        }
        assert!(world.status().pointer("/connections/open").unwrap().as_u64() <= Some(LIMIT as u64));
        drop((silent, clients));
        world.until_status("/connections/open", 0);
    }
}

#[test]
fn a_crowd_that_waits_leaves_room_for_those_inside() {
    let site = Upstream::answering("hello");
    let (world, pass) = gate(&site, "");
    let http = world.http;
    // each comes again and again, until it may keep its connection
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            std::thread::spawn(move || {
                (0..20).find_map(|_| {
                    let mut client = Client::connect(http);
                    let answer = client.get("/", &["Accept: text/html"]);
                    assert_eq!(answer.status, 503);
                    answer.header("connection").is_none().then_some(client)
                })
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(world.get("/", &[&pass]).text(), "hello");
    }
    let _kept: Vec<_> = crowd.into_iter().map(|one| one.join().unwrap()).collect();
    until("half of the places to be free", || {
        world.status().pointer("/connections/open").unwrap().as_u64().filter(|&open| open <= LIMIT as u64 / 2)
    });
    assert_eq!(site.seen().len(), 51);
}

#[test]
fn one_client_may_not_have_them_all_once_they_run_short() {
    let site = Upstream::answering("hello");
    let world = World::open(
        &site.url(),
        &format!(
            "client: {{ trusted_proxies: [127.0.0.1] }}\nlisten: {{ proxy_protocol: true }}\n\
             limits: {{ connections: {LIMIT}, connections_per_client: 3, header_timeout: 1h }}"
        ),
    );
    let come = |from: &str| {
        let mut client = world.client();
        client.send(format!("PROXY {from} 80\r\nGET /"));
        client
    };
    let (one, other, unnamed) = ("TCP4 192.0.2.1 192.0.2.9 1", "TCP4 192.0.2.2 192.0.2.9 1", "UNKNOWN 1");
    // a whole company, while there is room
    let mut kept: Vec<Client> = (1..=LIMIT / 2)
        .map(|number| {
            let client = come(one);
            world.until_status("/connections/open", number as u64);
            client
        })
        .collect();
    for count in 1..=2 {
        come(one).assert_ends();
        world.until_metric("tidegate_requests_refused_total{reason=\"client_connections\"}", |refused| refused == f64::from(count));
    }
    // others may have theirs, and what a trusted proxy says of itself is nobody's
    kept.extend([come(other), come("TCP6 2001:db8::1 2001:db8::9 1"), come("TCP6 2001:db8::2 2001:db8::9 1")]);
    kept.extend((0..4).map(|_| come(unnamed)));
    world.until_status("/connections/open", 17);
    for client in kept.drain(8..) {
        drop(client);
    }
    world.until_status("/connections/open", 8);
    kept.push(come(one));
    world.until_status("/connections/open", 9);
    assert_eq!(world.metric("tidegate_requests_refused_total{reason=\"client_connections\"}"), 2.0);
}

/// Connections that have had an answer, or say nothing at all, in this order.
fn idle(world: &World, count: usize, headers: &[&str]) -> Vec<Client> {
    let client = |number| {
        let mut client = world.client();
        if number % 3 > 0 || !headers.is_empty() {
            assert_eq!(client.get("/free", headers).text(), "hello");
        }
        client
    };
    (0..count).map(client).collect()
}

const PATIENT: &str = ", header_timeout: 1h, idle_timeout: 1h";

#[test]
fn the_longest_idle_make_room_for_who_comes() {
    let door = Door::default();
    let held = door.clone();
    let site = Upstream::start(move |seen, site| {
        if seen.header("x-slow").is_some() {
            held.wait();
        }
        site.write(ok("hello"))
    });
    let (world, pass) = gate(&site, PATIENT);
    // older than all others: one that is busy, one that has begun to ask, and two with a pass
    let (mut busy, mut beginning) = (world.client(), world.client());
    busy.send(request("GET", "/free", &["X-Slow: yes"]));
    beginning.send("GET /free HTTP/1.1\r\n");
    let mut members = idle(&world, 2, &[&pass]);
    let mut strangers = idle(&world, 14, &[]);
    world.until_status("/connections/open", 18);
    assert_eq!(world.count("tidegate_idle_connections_closed_total"), 0);
    let mut newcomers = Vec::new();
    for stranger in &mut strangers[..5] {
        let mut newcomer = world.client();
        assert_eq!(newcomer.get("/free", &[]).text(), "hello");
        newcomers.push(newcomer);
        stranger.assert_ends();
        world.until_status("/connections/open", 18);
    }
    assert_eq!(world.count("tidegate_idle_connections_closed_total"), 5);
    door.open();
    assert_eq!(busy.answer().text(), "hello");
    beginning.send("Host: test\r\n\r\n");
    assert_eq!(beginning.answer().text(), "hello");
    for client in members.iter_mut().chain(&mut strangers[5..]).chain(&mut newcomers) {
        assert_eq!(client.get("/free", &[]).text(), "hello");
    }
}

#[test]
fn when_all_are_taken_those_with_a_pass_make_room_too() {
    let site = Upstream::answering("hello");
    let (world, pass) = gate(&site, PATIENT);
    let mut members = idle(&world, LIMIT, &[&pass]);
    let mut stranger = world.client();
    assert_eq!(stranger.get("/free", &[]).text(), "hello");
    members[0].assert_ends();
    assert_eq!(members[LIMIT - 1].get("/free", &[&pass]).text(), "hello");
}

#[test]
fn who_makes_room_is_told_so_over_http_2() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), &format!("limits: {{ connections: {LIMIT}{PATIENT} }}"));
    let (mut asked, silent) = (Http2::connect(&world), Http2::connect(&world));
    assert_eq!(asked.get("/", &[]).text(), "hello");
    world.until_status("/connections/open", 2);
    let crowd: Vec<Client> = (0..LIMIT - 2)
        .map(|_| {
            let mut client = world.client();
            client.send("GET /");
            client
        })
        .collect();
    assert!(asked.ended_by_the_gate() && silent.ended_by_the_gate(), "not by an error");
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"header_timeout\"}"), 0);
    drop(crowd);
}

#[test]
fn who_is_told_to_make_room_over_http_2_and_stays_is_closed() {
    let site = Upstream::answering("hello");
    let world = Secure::open(&site.url(), &format!("limits: {{ connections: {LIMIT}{PATIENT} }}"));
    let mut deaf = Frames::connect(&world, &[]);
    deaf.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    while !deaf.next().is_ok_and(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0) {}
    let _crowd: Vec<Client> = (1..LIMIT)
        .map(|_| {
            let mut client = world.client();
            client.send("GET /");
            client
        })
        .collect();
    // it neither answers to what it is told nor goes
    let told: Vec<u8> = std::iter::from_fn(|| deaf.next().ok()).map(|frame| frame.kind).collect();
    assert!(told.contains(&GOAWAY), "{told:?}");
    world.until_status("/connections/open", LIMIT as u64 - 1);
}

/// A visitor who gave up before the gate came to read: the request and the end of the connection are there at once.
#[test]
fn the_site_is_not_asked_for_who_has_left_already() {
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), "");
    for (number, had_slot) in [(1, 1), (2, 1), (3, 2)] {
        let mut gone = world.client();
        assert_eq!(gone.get("/", &[]).status, 200);
        // its end comes with its request, or with the last of the body
        let body = request("POST", "/gone", &["Content-Length: 3"]) + "abc";
        gone.send_last(if number == 2 { body } else { request("GET", "/gone", &[]) });
        gone.try_answer("GET").expect_err("nobody is there to be answered");
        world.until_status("/connections/open", 0);
        world.until_status("/slots/in_flight", 0);
        assert_eq!(site.seen().len(), number, "{:?}", site.seen());
        assert_eq!(world.count("tidegate_upstream_outcomes_total{outcome=\"aborted\"}"), had_slot);
    }
    assert_eq!(site.accepted(), 1, "what was to carry them is as good as before");
}

#[test]
fn who_sends_on_though_it_is_answered_already_has_its_answer() {
    // more than all sockets on the way hold, from one that reads nothing before it has sent all, as many programs do
    const LARGE: usize = 10 << 20;
    let turning_away = Upstream::raw(|site| {
        if site.head().is_ok() {
            site.write("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
            site.wait_for_end();
        }
    });
    let waits = format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}", turning_away.url());
    let enters = format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: open }}", turning_away.url());
    for (yaml, path, status) in [(&waits, "/", 503), (&waits, "/.tidegate/nothing", 404), (&enters, "/", 413)] {
        let world = Secure::start(yaml);
        // an upgrade that nobody knows is none
        for (tls, more) in [(false, "X: x"), (true, "X: x"), (false, "Upgrade: x"), (true, "Upgrade: x")] {
            let mut client = if tls { world.secured() } else { world.client() };
            client.send(request("POST", path, &[&format!("Content-Length: {LARGE}"), more]));
            client.send(vec![b'x'; LARGE]);
            let answer = client.answer();
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{path} {tls} {more}");
            client.assert_ends();
        }
    }
}

/// A balancer would send what it could not send whole to another server, which may be the site.
#[test]
fn a_front_has_its_answer_though_it_sends_on_and_connections_are_short() {
    let site = Upstream::answering("hello");
    let yaml = format!(
        "upstream: {{ servers: [{}] }}\nadmission: {{ mode: closed }}\nclient: {{ trusted_proxies: [127.0.0.1/32] }}\n\
         limits: {{ connections: {LIMIT}{PATIENT} }}",
        site.url()
    );
    let world = World::start(&yaml);
    let crowd: Vec<Client> = (0..11).map(|_| world.client()).collect();
    world.until_status("/connections/open", 11);
    let mut front = world.client();
    front.send(request("PUT", "/", &[&format!("Content-Length: {}", 10 << 20)]));
    front.send(vec![b'x'; 10 << 20]);
    let answer = front.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    front.assert_ends();
    drop(crowd);
}

#[test]
fn who_is_not_understood_and_sends_on_has_its_answer() {
    let site = Upstream::answering("hello");
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n");
    client.send(vec![b'x'; 10 << 20]);
    assert_eq!(client.answer().status, 400);
    client.assert_ends();
    assert!(site.seen().is_empty());
}

/// A client that has been turned away, and has not sent the body of its request yet.
#[track_caller]
fn turned_away(world: &World, length: usize) -> Client {
    let mut client = world.client();
    client.send(request("POST", "/", &[&format!("Content-Length: {length}")]));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    client
}

#[test]
fn who_sends_on_without_end_though_it_is_answered_is_cut() {
    // 16 MiB are read, and what the sockets on the way hold is less than as much
    const LARGE: usize = 48 << 20;
    let site = Upstream::answering("hello");
    let (world, _) = gate(&site, "");
    let mut client = turned_away(&world, LARGE);
    assert!(client.try_send(vec![b'x'; LARGE]).is_err());
    world.until_status("/connections/open", 0);
}

#[test]
fn who_sends_on_though_it_is_answered_is_cut_when_others_need_the_place() {
    let site = Upstream::answering("hello");
    let (world, _) = gate(&site, ", header_timeout: 1h");
    let mut client = turned_away(&world, 1 << 20);
    let _crowd: Vec<Client> = (0..LIMIT / 2)
        .map(|_| {
            let mut client = world.client();
            client.send("GET /");
            client
        })
        .collect();
    world.until_status("/connections/open", LIMIT as u64 / 2 + 1);
    until("the gate to take no more", || client.try_send("x").is_err().then_some(()));
    world.until_status("/connections/open", LIMIT as u64 / 2);
}
