//! WebSockets: who gets one, that bytes go both ways in order, and how it ends.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Answer, Authority, Client, Door, Gate, PATIENCE, Scratch, Seen, Site, Upstream, Vacant, World, ok, pattern, request, until,
};

/// What a browser sends.
const ASK: [&str; 4] =
    ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];

/// What a site answers.
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Sends back what comes, until the end.
fn echo(site: &mut Site) -> bool {
    loop {
        let bytes = site.some();
        if bytes.is_empty() || !site.write(bytes) {
            return false;
        }
    }
}

/// A site that sends back what comes over a WebSocket, and answers everything else with 200.
fn echoing() -> Upstream {
    Upstream::start(|seen, site| if seen.header("upgrade").is_some() { site.write(SWITCH) && echo(site) } else { site.write(ok("plain")) })
}

/// A site that switches, says `greeting`, and goes on as `then` says.
fn site(greeting: &'static str, then: impl Fn(&mut Site) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |seen, site| {
        if seen.header("upgrade").is_none() {
            return site.write(ok("plain"));
        }
        site.write(SWITCH.to_owned() + greeting);
        then(site);
        false
    })
}

/// Asks for a WebSocket, with more lines.
#[track_caller]
fn ask(world: &World, lines: &[&str]) -> (Client, Answer) {
    let mut client = world.client();
    let answer = client.get("/socket", &[&ASK, lines].concat());
    (client, answer)
}

/// An open WebSocket.
#[track_caller]
fn open(world: &World) -> Client {
    let (client, answer) = ask(world, &[]);
    assert_eq!(answer.status, 101, "{}", answer.raw);
    client
}

#[track_caller]
fn assert_echoes(client: &mut Client, words: &str) {
    client.send(words);
    assert_eq!(String::from_utf8_lossy(&client.take(words.len()).unwrap()), words);
}

#[test]
fn bytes_go_both_ways() {
    let site = echoing();
    let world = World::open(&site.url(), "");
    let mut client = open(&world);
    assert_echoes(&mut client, "hello");
    assert_echoes(&mut client, "\0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(site.seen().len(), 1, "no more requests are read from it");
    // more than all buffers between hold, in both directions at once
    let bytes = pattern(8 << 20);
    let (mut twin, sent) = (client.twin(), bytes.clone());
    let sender = std::thread::spawn(move || twin.send(sent));
    assert!(client.take(bytes.len()).unwrap() == bytes);
    sender.join().unwrap();
}

#[test]
fn bytes_go_both_ways_within_tls_on_both_sides() {
    let authority = Authority::new();
    let server = authority.sign(&["127.0.0.1"]).server();
    let site = Upstream::start_tls(
        move || Arc::clone(&server),
        |seen, site| if seen.header("upgrade").is_some() { site.write(SWITCH) && echo(site) } else { site.write(ok("plain")) },
    );
    let yaml = format!(
        "listen: {{ https: {{ address: 127.0.0.1:0, certificate: site.pem, key: site.key }} }}\n\
         upstream: {{ servers: [https://{}], tls: {{ ca: ca.pem }} }}\nadmission: {{ mode: open }}",
        site.address
    );
    let world = World::prepared(&yaml, |directory| {
        authority.issue(directory, "site", &["site.test"]);
        std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    });
    let mut client = Client::connect(world.https.unwrap()).secured(&authority.visitor(&[b"http/1.1"]), "site.test").unwrap();
    assert_eq!(client.get("/socket", &ASK).status, 101);
    assert_echoes(&mut client, "hello");
    // a piece of more than one record of TLS, and nothing behind it that would push it on
    let bytes = pattern(100_000);
    client.send(&bytes);
    assert!(client.take(bytes.len()).unwrap() == bytes);
    drop(client);
    world.until_status("/connections/open", 0);
    site.all_closed();
}

#[test]
fn the_request_and_the_answer_are_cleaned_like_any_other() {
    let site = Upstream::start(|seen, site| {
        if seen.header("upgrade").is_none() {
            return site.write(ok("plain"));
        }
        let more = "\r\nSet-Cookie: sid=1\r\nCache-Control: public\r\nSec-WebSocket-Protocol: chat\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
        site.write(SWITCH.trim_end().to_owned() + more) && echo(site)
    });
    let world = World::open(&site.url(), "");
    let lines =
        ["Cookie: a=b; tidegate_pass=x", "TE: trailers", "Origin: http://test", "Sec-WebSocket-Protocol: chat", "X-Forwarded-For: 1.2.3.4"];
    let (mut client, answer) = ask(&world, &lines);
    let seen: &Seen = &site.requests(1)[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.header("host")), ("GET", "/socket", Some("test")));
    assert_eq!((seen.all("upgrade"), seen.all("connection")), (vec!["websocket"], vec!["Upgrade"]));
    assert_eq!(seen.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!((seen.header("sec-websocket-version"), seen.header("sec-websocket-protocol")), (Some("13"), Some("chat")));
    assert_eq!((seen.header("cookie"), seen.header("te"), seen.header("origin")), (Some("a=b"), None, Some("http://test")));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert!(answer.raw.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{}", answer.raw);
    assert_eq!((answer.all("upgrade"), answer.all("connection")), (vec!["websocket"], vec!["Upgrade"]));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    for name in ["content-length", "transfer-encoding", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    // the pass comes with it, and is kept from caches
    assert_eq!((answer.cookie("sid"), answer.header("cache-control")), (Some("1"), Some("private")));
    let pass = answer.pass();
    assert_echoes(&mut client, "hello");
    let next = world.get("/", &[&pass]);
    assert_eq!((next.text().as_str(), next.header("set-cookie")), ("plain", None), "the pass is good, and stays as it is");
}

#[test]
fn what_the_site_says_straight_after_its_answer_comes_first() {
    let site = site("first ", |site| {
        site.write("second ");
        echo(site);
    });
    let world = World::open(&site.url(), "");
    let mut client = open(&world);
    assert_eq!(client.take(13).unwrap(), b"first second ");
    assert_echoes(&mut client, "third");
}

#[test]
fn what_the_client_says_before_the_answer_comes_after_it_and_not_before() {
    let door = Door::default();
    let (may_switch, late) = (door.clone(), pattern(200_000));
    let wanted = [b"early ", late.as_slice()].concat();
    let site = Upstream::raw(move |site| {
        let Ok(seen) = site.head() else { return };
        site.note(&seen);
        if seen.header("upgrade").is_none() {
            site.write(ok("plain"));
            return;
        }
        may_switch.wait();
        // what has come by now, long after it was sent, must be nothing
        let verdict = if site.has_more() { "too early" } else { "in order " };
        site.write(SWITCH.to_owned() + verdict);
        let came = site.take(wanted.len()).unwrap_or_default();
        site.write(if came == wanted { "and whole" } else { "and torn " });
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("GET", "/socket", &ASK) + "early ");
    site.requests(1);
    let mut twin = client.twin();
    let sender = std::thread::spawn(move || twin.send(late));
    // the gate's one worker has served another meanwhile
    assert_eq!(world.get("/", &[]).text(), "plain");
    door.open();
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.take(18).unwrap(), b"in order and whole");
    sender.join().unwrap();
}

#[test]
fn any_other_answer_is_an_answer() {
    for status in [200, 204, 400, 403, 426, 502] {
        let site = Upstream::start(move |seen, site| {
            let length = if status == 204 { "" } else { "Content-Length: 2\r\n" };
            let body = if status == 204 { "" } else { "no" };
            let head = format!("HTTP/1.1 {status} Odd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{length}\r\n{body}");
            if seen.header("upgrade").is_some() { site.write(head) } else { site.write(ok("plain")) }
        });
        let world = World::open(&site.url(), "");
        let mut client = world.client();
        // what follows is the next request, and not for the site to read as anything else
        client.send(request("GET", "/socket", &ASK) + &request("GET", "/next", &[]));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (status, if status == 204 { "" } else { "no" }));
        assert_eq!((answer.header("upgrade"), answer.header("connection")), (None, None), "{}", answer.raw);
        assert_eq!(client.answer().text(), "plain");
        assert_eq!(site.requests(2)[1].target, "/next");
        assert_eq!(site.accepted(), 1, "the connection to the site goes on as well");
        assert_eq!(world.count("tidegate_upgrades_total{result=\"refused\"}"), 1);
        world.until_status("/upgrades/open", 0);
    }
}

#[test]
fn a_switch_to_something_else_is_a_bad_gateway() {
    for head in [
        "Upgrade: h2c\r\nConnection: Upgrade",
        "Upgrade: websocket, h2c\r\nConnection: Upgrade",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "X: y",
    ] {
        let site = Upstream::start(move |_, site| site.write(format!("HTTP/1.1 101 Odd\r\n{head}\r\n\r\nbytes")) && echo(site));
        let world = World::open(&site.url(), "");
        let (mut client, answer) = ask(&world, &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_protocol_error")), "{head}");
        client.send(request("GET", "/.tidegate/healthz", &[]));
        assert_eq!(client.answer().status, 200, "still a connection of requests: {head}");
        site.all_closed();
        world.until_status("/slots/in_flight", 0);
        world.until_status("/upgrades/open", 0);
    }
}

#[test]
fn what_may_not_be_asked_for_goes_on_as_a_plain_request() {
    let site = Upstream::start(|seen, site| {
        let asks = ["upgrade", "connection"].iter().any(|name| seen.header(name).is_some());
        site.write(ok(if asks { "asked" } else { "plain" }))
    });
    let world = World::open(&site.url(), "");
    let [connection, upgrade, version, key] = ASK;
    let odd: [&[&str]; 8] = [
        &[connection, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"],
        &[connection, "Upgrade: websocket, h2c", version, key],
        &[connection, "Upgrade: TLS/1.2", version, key],
        &[upgrade, version, key],
        &[connection, upgrade, key],
        &[connection, upgrade, version],
        &[connection, upgrade, version, key, key],
        &[connection, upgrade, version, key, "Transfer-Encoding: chunked"],
    ];
    for lines in odd {
        let mut client = world.client();
        let body = if lines.iter().any(|line| line.starts_with("Transfer")) { "2\r\nhi\r\n0\r\n\r\n" } else { "" };
        client.send(request("GET", "/", lines) + body);
        assert_eq!(client.answer().text(), "plain", "{lines:?}");
        assert_eq!(client.get("/", &[]).text(), "plain", "still a connection of requests: {lines:?}");
    }
    for (method, more) in [("POST", "Content-Length: 0"), ("PUT", "Content-Length: 0"), ("OPTIONS", "X: y")] {
        let mut client = world.client();
        client.send(request(method, "/", &[&ASK[..], &[more]].concat()));
        assert_eq!(client.answer().text(), "plain", "{method}");
    }
    let mut client = world.client();
    client.send(request("GET", "/", &ASK).replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(client.answer().text(), "plain");
    let counted = ["switched", "refused"].map(|result| world.count(&format!("tidegate_upgrades_total{{result=\"{result}\"}}")));
    assert_eq!(counted, [0, 0], "none of them asked");
}

#[test]
fn who_waits_gets_the_waiting_room_and_nothing_reaches_the_site() {
    let site = echoing();
    let world = World::open(&site.url(), "");
    let pass = world.pass();
    assert_eq!(world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#).status, 200);
    for lines in [&[][..], &["Cookie: tidegate_pass=v1.forged"]] {
        let (mut client, answer) = ask(&world, lines);
        assert_eq!((answer.status, answer.header("upgrade")), (503, None));
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_denied; details=\"wait\""));
        client.send(request("GET", "/.tidegate/healthz", &[]));
        assert_eq!(client.answer().status, 200, "still a connection of requests");
    }
    assert_eq!(site.seen().len(), 1, "that of the pass");
    let (mut client, answer) = ask(&world, &[&pass]);
    assert_eq!(answer.status, 101, "who is inside gets one");
    assert_echoes(&mut client, "hello");
}

#[test]
fn in_mode_observe_everyone_gets_one() {
    let site = echoing();
    let world = World::start(&format!("upstream: {{ servers: [{}] }}\nadmission: {{ mode: observe }}", site.url()));
    assert_echoes(&mut open(&world), "hello");
    assert_eq!(world.count("tidegate_observed_total{verdict=\"admit\"}"), 1);
}

#[test]
fn it_is_asked_for_at_another_server_if_one_can_not_be_reached() {
    let site = echoing();
    let vacant = Vacant::new();
    let world = World::open(&format!("{}, {}", vacant.url(), site.url()), "");
    let mut sockets = Vec::new();
    until("the server to be ejected", || {
        sockets.push(open(&world));
        (world.status().pointer("/upstream/0/up").unwrap() == false).then_some(())
    });
    for socket in &mut sockets {
        assert_echoes(socket, "hello");
    }
    assert_eq!((site.seen().len(), world.count("tidegate_upgrades_total{result=\"switched\"}")), (sockets.len(), sockets.len()));
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn it_holds_no_slot() {
    let site = echoing();
    let world = World::start(&format!("upstream: {{ servers: [{}], max_in_flight: 1 }}\nadmission: {{ mode: open }}", site.url()));
    let mut sockets: Vec<Client> = (0..5).map(|_| open(&world)).collect();
    world.until_status("/slots/in_flight", 0);
    world.until_status("/upgrades/open", 5);
    world.until_status("/connections/open", 5);
    assert_eq!(world.get("/", &[]).text(), "plain", "served while they are open");
    for socket in &mut sockets {
        assert_echoes(socket, "still open");
    }
    assert_eq!(world.outcomes("ok"), 6, "each was a good answer");
    drop(sockets);
    world.until_status("/upgrades/open", 0);
    world.until_status("/connections/open", 0);
}

#[test]
fn they_are_counted() {
    let site = echoing();
    let world = World::open(&site.url(), "");
    let mut clients = [open(&world), open(&world)];
    world.until_metric("tidegate_upgrades_active", |active| active == 2.0);
    assert_eq!(world.count("tidegate_upgrades_total{result=\"switched\"}"), 2);
    assert_eq!(world.count("tidegate_requests_total{verdict=\"admit\"}"), 2);
    assert_echoes(&mut clients[1], "hello");
    drop(clients);
    world.until_metric("tidegate_upgrades_active", |active| active == 0.0);
    assert_eq!(world.count("tidegate_upgrades_total{result=\"switched\"}"), 2);
}

#[test]
fn beyond_the_limit_they_are_refused_and_the_pass_is_kept() {
    let site = echoing();
    let world = World::open(&site.url(), "limits: { upgrades: 1 }");
    let mut first = open(&world);
    for number in 1..=2 {
        let (mut client, answer) = ask(&world, &[]);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("30")));
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_limit_reached; details=\"upgrades\""));
        assert_eq!(world.count("tidegate_requests_refused_total{reason=\"upgrades\"}"), number);
        assert_eq!(client.get("/", &[&answer.pass()]).text(), "plain", "still a connection of requests, of one who is in");
    }
    assert_eq!(site.seen().iter().filter(|seen| seen.header("upgrade").is_some()).count(), 1);
    assert_echoes(&mut first, "hello");
    drop(first);
    world.until_status("/upgrades/open", 0);
    assert_echoes(&mut open(&world), "hello");
}

/// A visitor of this address, as a trusted proxy says.
fn from(address: &str) -> String {
    format!("X-Forwarded-For: {address}")
}

const SHORT: &str = "limits: { upgrades: 40 }\nsession: { in_flight: 3 }\nclient: { trusted_proxies: [127.0.0.1] }\n\
    routes: [{ path: /socket/open, gate: open }]";

#[test]
fn one_pass_may_not_have_them_all_once_they_run_short() {
    let site = echoing();
    let world = World::open(&site.url(), SHORT);
    let pass = world.pass();
    let ask_from = |number: usize| ask(&world, &[&from(&format!("192.0.2.{number}")), &pass]);
    // there is room: one who opens many harms nobody, wherever they come from
    let mut sockets: Vec<Client> = (0..20)
        .map(|number| {
            let (client, answer) = ask_from(number);
            assert_eq!(answer.status, 101, "{number}: {}", answer.raw);
            client
        })
        .collect();
    let (_, answer) = ask_from(20);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("30")));
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_limit_reached; details=\"upgrades\""));
    assert_eq!(world.count(UPGRADES), 1);
    // others are served
    for number in 0..20 {
        let (client, answer) = ask(&world, &[&from(&format!("198.51.100.{number}"))]);
        assert_eq!(answer.status, 101, "{number}: {}", answer.raw);
        sockets.push(client);
    }
    world.until_status("/upgrades/open", 40);
    sockets.clear();
    world.until_status("/upgrades/open", 0);
    assert_eq!(ask_from(30).1.status, 101, "what it had is forgotten");
}

#[test]
fn one_client_may_not_have_them_all_by_taking_a_new_pass_each_time() {
    let site = echoing();
    let world = World::open(&site.url(), SHORT);
    for path in ["/socket", "/socket/open"] {
        let ask_from = |address: &str| {
            let mut client = world.client();
            let answer = client.get(path, &[&ASK[..], &[&from(address)]].concat());
            (client, answer.status)
        };
        // one /64
        let sockets: Vec<(Client, u16)> = (0..20).map(|number| ask_from(&format!("2001:db8::{number}"))).collect();
        assert!(sockets.iter().all(|(_, status)| *status == 101), "{path}");
        assert_eq!(ask_from("2001:db8::ffff").1, 503, "{path}");
        // a tenth of all for each that comes now
        let others: Vec<(Client, u16)> = (0..6).map(|_| ask_from("192.0.2.1")).collect();
        assert_eq!(others.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [101, 101, 101, 101, 503, 503], "{path}");
        drop((sockets, others));
        world.until_status("/upgrades/open", 0);
    }
    assert_eq!(world.count(UPGRADES), 6);
}

const UPGRADES: &str = "tidegate_requests_refused_total{reason=\"upgrades\"}";

#[test]
fn a_limit_of_none_refuses_all() {
    let site = echoing();
    let world = World::open(&site.url(), "limits: { upgrades: 0 }");
    assert_eq!(ask(&world, &[]).1.status, 503);
    assert_eq!(world.get("/", &["Connection: Upgrade", "Upgrade: h2c"]).text(), "plain", "what is none is not refused");
    assert!(site.seen().iter().all(|seen| seen.header("upgrade").is_none()));
}

#[test]
fn the_last_places_are_not_for_strangers_who_stay() {
    let site = echoing();
    let world = World::open(&site.url(), "limits: { connections: 10 }\nroutes: [{ path: /socket, gate: open }]");
    let pass = world.pass();
    world.until_status("/connections/open", 0);
    let mut silent: Vec<Client> = (0..9).map(|_| world.client()).collect();
    world.until_status("/connections/open", 9);
    let answer = ask(&world, &[]).1;
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    world.until_status("/connections/open", 9);
    let (mut member, answer) = ask(&world, &[&pass]);
    assert_eq!((answer.status, answer.header("connection")), (101, Some("Upgrade")));
    assert_echoes(&mut member, "hello");
    silent.clear();
}

#[test]
fn when_one_side_is_gone_so_is_the_other() {
    for reset in [false, true] {
        let site = echoing();
        let world = World::open(&site.url(), "");
        let client = open(&world);
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        site.all_closed();
        world.until_status("/upgrades/open", 0);
        world.until_status("/connections/open", 0);
    }
    for reset in [false, true] {
        let site = site("", move |site| {
            site.some();
            if reset {
                site.reset();
            }
        });
        let world = World::open(&site.url(), "");
        let mut client = open(&world);
        client.send("bye");
        client.assert_ends();
        drop(client);
        world.until_status("/upgrades/open", 0);
        world.until_status("/connections/open", 0);
    }
}

#[test]
fn who_has_said_the_last_is_still_answered() {
    let site = site("", |site| {
        let mut all = Vec::new();
        loop {
            let bytes = site.some();
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        site.write(format!("{} bytes", all.len()));
    });
    let world = World::open(&site.url(), "");
    let mut client = open(&world);
    client.send(pattern(100_000));
    client.finish();
    assert_eq!(client.end().unwrap(), b"100000 bytes");
}

#[test]
fn a_site_that_has_said_the_last_is_still_told() {
    let door = Door::default();
    let heard = door.clone();
    let site = site("last words", move |site| {
        site.finish();
        if site.take(5).is_ok_and(|bytes| bytes == b"heard") {
            heard.open();
        }
    });
    let world = World::open(&site.url(), "");
    let mut client = open(&world);
    assert_eq!(client.end().unwrap(), b"last words");
    client.send("heard");
    door.wait();
    site.all_closed();
}

#[test]
fn one_over_which_nothing_goes_is_closed() {
    let site = echoing();
    let world = World::open(&site.url(), "limits: { upgrade_idle: 200ms }");
    let mut client = open(&world);
    client.assert_ends();
    site.all_closed();
    world.until_status("/upgrades/open", 0);
}

#[test]
fn one_whose_client_takes_nothing_is_closed() {
    let site = site("", |site| while site.write([b'x'; 65536]) {});
    let world = World::open(&site.url(), "limits: { body_timeout: 200ms }");
    let mut client = Client::connect_narrow(world.http);
    assert_eq!(client.get("/socket", &ASK).status, 101);
    site.all_closed();
    world.until_status("/upgrades/open", 0);
}

#[test]
fn one_whose_site_takes_nothing_is_closed() {
    let door = Door::default();
    let closed = door.clone();
    let site = site("", move |_| closed.wait());
    let world = World::open(&site.url(), "limits: { body_timeout: 200ms }");
    let mut client = open(&world);
    let ended = (0..10_000).find_map(|_| client.try_send([b'x'; 65536]).err());
    assert!(ended.is_some(), "the gate has taken more than all buffers hold");
    world.until_status("/upgrades/open", 0);
    door.open();
}

#[test]
fn a_client_that_leaves_before_the_answer_leaves_nothing_behind() {
    let door = Door::default();
    let may_switch = door.clone();
    let site = Upstream::start(move |_, site| {
        may_switch.wait();
        site.write(SWITCH) && echo(site)
    });
    let world = World::open(&site.url(), "");
    let mut client = world.client();
    client.send(request("GET", "/socket", &ASK));
    site.requests(1);
    drop(client);
    world.until_status("/connections/open", 0);
    world.until_status("/upgrades/open", 0);
    door.open();
    site.all_closed();
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn a_connection_of_another_worker_switches_too() {
    let site = echoing();
    let world = World::start(&format!(
        "listen: {{ workers: 2 }}\nupstream: {{ servers: [{}], max_in_flight: 1 }}\nadmission: {{ mode: open }}",
        site.url()
    ));
    let mut sockets = Vec::new();
    for _ in 0..20 {
        // whichever worker this is, its connection is the only idle one there may be
        assert_eq!(world.get("/", &[]).text(), "plain");
        sockets.push(open(&world));
    }
    for socket in &mut sockets {
        assert_echoes(socket, "hello");
    }
    drop(sockets);
    site.all_closed();
}

#[test]
fn within_tls_it_is_the_same() {
    let bytes = pattern(1 << 20);
    let wanted = bytes.len();
    let site = site("welcome", move |site| {
        let came = site.take(wanted).unwrap();
        site.write(came);
        echo(site);
    });
    let authority = Authority::new();
    let https = "{ address: 127.0.0.1:0, certificate: site.pem, key: site.key }";
    let yaml = format!("upstream: {{ servers: [{}] }}\nlisten: {{ https: {https} }}\nadmission: {{ mode: open }}", site.url());
    let world = World::prepared(&yaml, |directory| drop(authority.issue(directory, "site", &["site.test"])));
    let mut client = Client::connect(world.https.unwrap()).secured(&authority.visitor(&[b"http/1.1"]), "site.test").unwrap();
    let answer = client.get("/socket", &ASK);
    assert_eq!((answer.status, answer.all("connection")), (101, vec!["Upgrade"]), "{}", answer.raw);
    assert!(answer.cookie("__Host-tidegate_pass").is_some());
    assert_eq!(client.take(7).unwrap(), b"welcome");
    client.send(&bytes);
    assert!(client.take(bytes.len()).unwrap() == bytes);
    assert_echoes(&mut client, "and on");
    drop(client);
    site.all_closed();
    world.until_status("/upgrades/open", 0);
}

/// gate.yaml of a process in front of this site.
fn process(site: &Upstream, shutdown: &str) -> String {
    format!(
        "listen: {{ http: 127.0.0.1:0, workers: 2 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nupstream: {{ servers: [\"{}\"] }}\n\
         admission: {{ mode: open }}\nshutdown: {{ {shutdown} }}\nlog: {{ format: json, access: all }}\n",
        site.url()
    )
}

#[test]
fn a_gate_that_ends_closes_them_within_its_time() {
    let site = echoing();
    let scratch = Scratch::new();
    // half of the deadline is theirs
    let gate = Gate::serve(&scratch.write("gate.yaml", &process(&site, "delay: 0s, deadline: 8s")));
    let mut clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = gate.client();
            assert_eq!(client.get("/socket", &ASK).status, 101);
            client
        })
        .collect();
    assert_echoes(&mut clients[0], "hello");
    let log = gate.end();
    for mut client in clients {
        client.assert_ends();
    }
    site.all_closed();
    assert!(!log.iter().any(|line| line.contains("the deadline is over")), "{log:#?}");
}

#[test]
fn a_gate_that_ends_lets_them_go_on_for_a_while() {
    let site = echoing();
    let mut world = World::open(&site.url(), "shutdown: { deadline: 1h }");
    let mut client = open(&world);
    let running = world.running.take().unwrap();
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, PATIENCE * 6));
    // the listener is gone: the gate is closing
    until("the listener to close", || TcpStream::connect(world.http).err());
    assert_echoes(&mut client, "last words");
    drop(client);
    ending.join().unwrap();
    site.all_closed();
}

#[test]
fn a_gate_that_ends_makes_no_more_of_them() {
    let site = echoing();
    let mut world = World::open(&site.url(), "shutdown: { deadline: 1h }");
    let mut client = world.client();
    let head = request("GET", "/socket", &ASK);
    client.send(&head[..head.len() - 2]);
    world.until_status("/connections/open", 1);
    let running = world.running.take().unwrap();
    let ending = std::thread::spawn(move || running.drain(Duration::ZERO, PATIENCE * 6));
    until("the listener to close", || TcpStream::connect(world.http).err());
    client.send(&head[head.len() - 2..]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_limit_reached; details=\"upgrades\""));
    client.assert_ends();
    ending.join().unwrap();
    assert!(site.seen().is_empty());
}

#[test]
fn a_gate_that_only_says_that_it_will_end_still_makes_them() {
    let site = echoing();
    let scratch = Scratch::new();
    // the delay lasts until a second signal ends it
    let gate = Gate::serve(&scratch.write("gate.yaml", &process(&site, "delay: 60s, deadline: 2s")));
    gate.process.signal(Signal::TERM);
    until("health to go down", || Some(()).filter(|()| gate.get("/.tidegate/healthz", &[]).status == 503));
    let mut client = gate.client();
    let answer = client.get("/socket", &ASK);
    assert_eq!((answer.status, answer.all("connection")), (101, vec!["Upgrade"]), "{}", answer.raw);
    assert_echoes(&mut client, "hello");
    let address = gate.http;
    until("the listener to close", || {
        // again and again: one that comes before the delay has begun is not heard
        gate.process.signal(Signal::TERM);
        TcpStream::connect(address).err()
    });
    gate.end_by_itself();
    client.assert_ends();
}

#[test]
fn the_access_log_has_one_line_when_it_opens() {
    let site = echoing();
    let scratch = Scratch::new();
    let gate = Gate::serve(&scratch.write("gate.yaml", &process(&site, "delay: 0s, deadline: 2s")));
    let mut client = gate.client();
    assert_eq!(client.get("/socket", &ASK).status, 101);
    let found = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["path"] == "/socket");
    let line = gate.process.err.wait("the line of the request", PATIENCE, found);
    assert_eq!((line["status"].as_u64(), line["verdict"].as_str()), (Some(101), Some("admit")), "{line}");
    assert_echoes(&mut client, "still open");
    drop(client);
    let lines = gate.end().into_iter().filter(|line| line.contains("/socket")).count();
    assert_eq!(lines, 1);
}
