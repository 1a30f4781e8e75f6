//! What a visitor sees when the site fails, what is tried again, and how each failure is counted.

use std::io::ErrorKind;
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};

use crate::support::{Client, Door, Upstream, Vacant, World, assert_failed, ok, request};

/// A gate that gives up fast where a test wants it to.
fn gate(url: &str, upstream: &str, more: &str) -> World {
    World::start(&format!("upstream: {{ servers: [{url}], {upstream} }}\nadmission: {{ mode: open }}\n{more}"))
}

fn outcome(world: &World, outcome: &str) -> f64 {
    world.until_metric(&format!("tidegate_upstream_outcomes_total{{outcome=\"{outcome}\"}}"), |count| count > 0.0)
}

#[test]
fn a_site_that_refuses_is_a_bad_gateway() {
    let site = Vacant::new();
    let world = gate(&site.url(), "max_in_flight: 4", "");
    let answer = world.get("/", &["Accept: text/html"]);
    assert_failed(&answer, 502, "connection_refused");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let json = world.get("/", &["Accept: application/json", &answer.pass()]);
    assert_failed(&json, 502, "connection_refused");
    assert!(serde_json::from_slice::<serde_json::Value>(&json.body).is_ok());
    assert_eq!(outcome(&world, "connect"), 2.0);
    world.until_status("/slots/in_flight", 0);
}

#[test]
fn a_site_whose_name_or_network_is_nowhere_is_a_bad_gateway() {
    // a name that never exists (RFC 6761), and an address that no connection goes to
    for (url, error, why) in [
        ("http://nowhere.invalid:80", "dns_error", "the name has no address"),
        ("http://255.255.255.255:80", "destination_unavailable", "Network is unreachable"),
    ] {
        let world = gate(url, "max_in_flight: 4", "");
        assert_failed(&world.get("/", &[]), 502, error);
        assert_eq!(outcome(&world, "connect"), 1.0);
        let trouble = world.status().pointer("/upstream/0/trouble").unwrap().as_str().unwrap().to_owned();
        assert!(trouble.contains(why), "{trouble}");
    }
}

#[test]
fn a_site_that_does_not_accept_is_a_timeout() {
    let site = Vacant::new();
    let world = gate(&site.url(), "timeouts: { connect: 100ms }", "");
    let _hanging = site.hang();
    assert_failed(&world.get("/", &[]), 504, "connection_timeout");
    assert_eq!(outcome(&world, "connect"), 1.0);
}

#[test]
fn a_site_that_does_not_answer_is_a_timeout_and_its_connection_ends() {
    let site = Upstream::raw(|site| {
        site.request().ok();
        site.wait_for_end();
    });
    let world = gate(&site.url(), "max_in_flight: 1, timeouts: { response: 100ms }", "");
    assert_failed(&world.get("/", &[]), 504, "http_response_timeout");
    assert_eq!(outcome(&world, "timeout"), 1.0);
    site.all_closed();
    world.until_status("/slots/in_flight", 0);
    assert_eq!(site.seen().len(), 1, "a timeout is not tried again");
}

#[test]
fn what_rested_while_another_had_no_answer_is_not_used_again() {
    let all_are_here = Barrier::new(4);
    let site = Upstream::start(move |seen, site| {
        if seen.target == "/together" {
            all_are_here.wait();
        }
        if seen.target == "/silent" {
            site.wait_for_end();
        }
        site.write(ok("hello"))
    });
    let world = gate(&site.url(), "max_in_flight: 8, timeouts: { response: 2s }", "listen: { workers: 1 }");
    let clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = world.client();
            client.send(request("GET", "/together", &[]));
            client
        })
        .collect();
    clients.into_iter().for_each(|mut client| assert_eq!(client.answer().text(), "hello"));
    world.until_status("/upstream/0/idle", 4);
    let mut silent = world.client();
    silent.send(request("GET", "/silent", &[]));
    site.requests(5);
    // one of the three that rest meanwhile shows that it is alive
    assert_eq!(world.get("/alive", &[]).text(), "hello");
    let alive = site.seen()[5].connection;
    assert_failed(&silent.answer(), 504, "http_response_timeout");
    world.until_status("/upstream/0/idle", 1);
    assert_eq!(world.get("/next", &[]).text(), "hello");
    assert_eq!((site.seen()[6].connection, site.accepted()), (alive, 4));
}

#[test]
fn a_client_that_left_holds_its_slot_until_the_timeout_at_most() {
    let site = Upstream::start(|seen, site| {
        if seen.target == "/never" {
            site.wait_for_end();
        }
        site.write(ok("hello"))
    });
    let world = gate(&site.url(), "max_in_flight: 1, queue: { deadline: 30s }, timeouts: { response: 2s }", "");
    let mut client = world.client();
    client.send(request("GET", "/never", &[]));
    site.requests(1);
    drop(client);
    assert_eq!(world.get("/", &[]).text(), "hello");
    assert_eq!(outcome(&world, "timeout"), 1.0);
}

#[test]
fn a_connection_that_ends_before_the_answer_is_a_bad_gateway() {
    let endings = [
        ("closed", "", false),
        ("reset", "", true),
        ("cut within the head", "HTTP/1.1 200 OK\r\nContent-Le", false),
        ("reset within the head", "HTTP/1.1 200 OK\r\nContent-Le", true),
        ("after an interim answer", "HTTP/1.1 103 Early Hints\r\n\r\n", false),
        ("nothing but a line", "\r\n", false),
    ];
    for (name, bytes, reset) in endings {
        let site = Upstream::raw(move |site| {
            if site.request().is_ok() {
                site.write(bytes);
                if reset {
                    site.reset();
                }
            }
        });
        let world = gate(&site.url(), "max_in_flight: 1", "");
        let answer = world.get("/", &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_response_incomplete")), "{name}");
        assert_eq!(outcome(&world, "error"), 1.0, "{name}");
        assert_eq!(site.seen().len(), 1, "{name}: on a fresh connection it is not tried again");
    }
}

#[test]
fn an_answer_that_is_not_http_is_a_bad_gateway() {
    let garbage = [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        "\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Header: x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    ];
    for bytes in garbage {
        let site = Upstream::start(move |_, site| site.write(bytes));
        let world = gate(&site.url(), "max_in_flight: 1", "");
        let answer = world.get("/", &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_protocol_error")), "{bytes:?}");
        assert_eq!(outcome(&world, "error"), 1.0, "{bytes:?}");
        world.until_status("/slots/in_flight", 0);
        site.all_closed();
    }
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_bad_gateway() {
    let site = Upstream::start(|_, site| site.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes"));
    let world = gate(&site.url(), "max_in_flight: 1", "");
    let mut client = world.client();
    let answer = client.get("/", &["Connection: upgrade", "Upgrade: x"]);
    assert_failed(&answer, 502, "http_protocol_error");
    world.until_status("/slots/in_flight", 0);
    site.all_closed();
}

#[test]
fn an_answer_that_nobody_asked_for_is_nobodys() {
    let site = Upstream::start(|_, site| site.write(ok("asked") + &ok("unasked")));
    let world = gate(&site.url(), "max_in_flight: 1", "");
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).text(), "asked");
    }
    assert_eq!(site.most_connections(), 1);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let cuts: [(&str, &str); 4] = [
        ("with a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        ("in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
        ("between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("in a chunk's length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"),
    ];
    for (name, bytes) in cuts {
        for reset in [false, true] {
            let site = Upstream::raw(move |site| {
                if site.request().is_ok() {
                    site.write(bytes);
                    if reset {
                        site.reset();
                    }
                }
            });
            let world = gate(&site.url(), "max_in_flight: 1", "");
            let mut client = world.client();
            client.send(request("GET", "/", &[]));
            match client.try_answer("GET") {
                // the gate had not begun to answer
                Ok(answer) => assert_eq!(answer.status, 502, "{name}"),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{name}: {error}"),
            }
            assert_eq!(outcome(&world, "error"), 1.0, "{name}");
            world.until_status("/slots/in_flight", 0);
        }
    }
}

#[test]
fn what_came_of_an_answer_that_breaks_off_is_passed_on() {
    let cuts = [
        ("Content-Length: 100", "half", "half"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n", "4\r\nhalf\r\n"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\nzz\r\n", "4\r\nhalf\r\n"),
    ];
    for (framing, sent, passed_on) in cuts {
        let site = Upstream::start(move |_, site| {
            site.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{sent}"));
            false
        });
        let world = gate(&site.url(), "max_in_flight: 1", "");
        let mut client = world.client();
        client.send(request("GET", "/", &[]));
        assert_eq!(client.head().unwrap().status, 200, "{framing}");
        assert_eq!(String::from_utf8(client.end().unwrap()).unwrap(), passed_on, "{framing}");
        assert_eq!(outcome(&world, "error"), 1.0);
    }
}

/// However slowly its visitor takes it, and though the site is long gone.
#[test]
fn all_that_came_of_a_large_answer_that_breaks_off_is_passed_on() {
    const CAME: usize = 2_000_000;
    let site = Upstream::start(|_, site| {
        site.write([b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", &vec![b'x'; CAME][..]].concat());
        false
    });
    let world = gate(&site.url(), "buffer: { response: 16MiB }", "");
    let mut client = Client::connect_narrow(world.http);
    client.send(request("GET", "/", &[]));
    assert_eq!(outcome(&world, "error"), 1.0);
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.end().unwrap().len(), CAME);
}

#[test]
fn an_answer_of_which_nothing_comes_but_its_head_is_none() {
    for length in ["zz", "12345678901234567"] {
        let site = Upstream::start(move |seen, site| {
            if seen.target == "/first" {
                return site.write(ok("hello"));
            }
            site.write(format!("HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n{length}\r\nhalf\r\n"))
        });
        let world = gate(&site.url(), "max_in_flight: 1", "");
        let mut client = world.client();
        // on a connection that has carried another: what has begun to be answered is not asked for again
        assert_eq!(client.get("/first", &[]).status, 200);
        let answer = client.get("/second", &[]);
        assert_failed(&answer, 502, "http_protocol_error");
        assert!(!answer.all("set-cookie").iter().any(|cookie| cookie.starts_with("a=")), "{length}");
        assert_eq!((world.outcomes("error"), site.seen().len()), (1, 2), "{length}");
        world.until_status("/slots/in_flight", 0);
    }
}

#[test]
fn an_upload_that_stands_still_beside_its_answer_is_no_fault_of_the_sites() {
    let site = Upstream::raw(|site| {
        if site.head().is_ok() {
            site.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            site.wait_for_end();
        }
    });
    let world = gate(&site.url(), "max_in_flight: 1, buffer: { request: 64KiB }", "limits: { body_timeout: 2s }");
    let mut client = world.client();
    client.send(request("POST", "/", &["Content-Length: 1000000"]));
    client.send(vec![b'u'; 200_000]);
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!((outcome(&world, "aborted"), world.outcomes("error"), world.outcomes("timeout")), (1.0, 0, 0));
    world.until_status("/slots/in_flight", 0);
    site.all_closed();
}

#[test]
fn an_answer_that_stands_still_is_cut() {
    let site = Upstream::raw(|site| {
        if site.request().is_ok() {
            site.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            site.wait_for_end();
        }
    });
    let world = gate(&site.url(), "max_in_flight: 1, timeouts: { response: 200ms }", "");
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    assert!(client.try_answer("GET").is_err());
    assert_eq!(outcome(&world, "timeout"), 1.0);
    site.all_closed();
}

#[test]
fn an_error_of_the_sites_own_is_counted_and_passed_on() {
    let site = Upstream::start(|_, site| site.write("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nmine"));
    let world = gate(&site.url(), "max_in_flight: 1", "");
    let answer = world.get("/", &[]);
    assert_eq!((answer.status, answer.text().as_str(), answer.header("proxy-status")), (500, "mine", None));
    assert_eq!(outcome(&world, "error"), 1.0);
}

/// A site that takes a second request on a connection, and closes it without an answer.
fn forgetful_site() -> Upstream {
    Upstream::raw(|site| {
        if site.request().is_ok() && site.write(ok("hello")) {
            site.request().ok();
        }
    })
}

#[test]
fn a_get_on_a_used_connection_is_tried_again_once() {
    let site = forgetful_site();
    let world = gate(&site.url(), "max_in_flight: 1", "");
    assert_eq!(world.get("/first", &[]).status, 200);
    world.until_status("/slots/in_flight", 0);
    let mut client = world.client();
    assert_eq!(client.get("/second", &["X-Kept: yes"]).text(), "hello");
    let seen = site.seen();
    assert_eq!(
        seen.iter().map(|seen| (seen.target.as_str(), seen.connection)).collect::<Vec<_>>(),
        [("/first", 0), ("/second", 0), ("/second", 1)]
    );
    assert_eq!(seen[1].raw, seen[2].raw, "the same request");
    assert_eq!(outcome(&world, "ok"), 2.0, "one outcome for both tries");
    assert_eq!(site.most_connections(), 1);
}

#[test]
fn what_was_answered_is_not_asked_again_however_wrong_the_answer_is() {
    let many = "X-Line: x\r\n".repeat(300);
    let garbage = [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        "HTTP/3.9 200 OK\r\n\r\n".to_owned(),
    ];
    for bytes in garbage {
        let site = Upstream::start(move |seen, site| site.write(if seen.target == "/first" { ok("hello") } else { bytes.clone() }));
        let world = gate(&site.url(), "max_in_flight: 1", "");
        let mut client = world.client();
        assert_eq!(client.get("/first", &[]).status, 200);
        assert_failed(&client.get("/second", &[]), 502, "http_protocol_error");
        assert_eq!((site.seen().len(), site.accepted(), world.outcomes("error")), (2, 1, 1));
    }
}

#[test]
fn interim_answers_without_end_are_no_answer() {
    let site = Upstream::raw(|site| {
        while site.request().is_ok_and(|seen| seen.target == "/first") {
            site.write(ok("hello"));
        }
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
        while site.write(&interim) {}
    });
    let world = gate(&site.url(), "max_in_flight: 1, timeouts: { response: 60s }", "");
    let mut client = world.client();
    assert_eq!(client.get("/first", &[]).status, 200);
    assert_failed(&client.get("/second", &[]), 502, "http_protocol_error");
    assert_eq!((site.seen().len(), world.outcomes("error")), (2, 1));
    site.all_closed();
}

#[test]
fn a_get_is_not_tried_a_third_time() {
    let site = Upstream::raw(|site| {
        if site.request().is_ok_and(|seen| seen.target == "/first") && site.write(ok("hello")) {
            site.request().ok();
        }
    });
    let world = gate(&site.url(), "max_in_flight: 1", "");
    assert_eq!(world.get("/first", &[]).status, 200);
    world.until_status("/slots/in_flight", 0);
    assert_failed(&world.get("/second", &[]), 502, "http_response_incomplete");
    assert_eq!(site.seen().len(), 3);
    assert_eq!(outcome(&world, "error"), 1.0);
}

#[test]
fn a_post_that_was_sent_is_not_sent_again() {
    for (method, body) in [("POST", "a=b"), ("PATCH", ""), ("PUT", "a=b")] {
        let site = forgetful_site();
        let world = gate(&site.url(), "max_in_flight: 1", "");
        assert_eq!(world.get("/first", &[]).status, 200);
        world.until_status("/slots/in_flight", 0);
        let mut client = world.client();
        client.send(request(method, "/second", &[&format!("Content-Length: {}", body.len())]));
        client.send(body);
        assert_failed(&client.answer(), 502, "http_response_incomplete");
        assert_eq!(site.seen().len(), 2, "{method}");
    }
}

#[test]
fn a_connection_that_the_site_has_closed_is_not_used_again() {
    let site = Upstream::start(|_, site| {
        site.write(ok("hello"));
        // without a word of it in the answer
        false
    });
    let world = gate(&site.url(), "max_in_flight: 1", "");
    for number in 1..=3 {
        let mut client = world.client();
        client.send(request("POST", "/", &["Content-Length: 1"]));
        client.send("x");
        assert_eq!(client.answer().text(), "hello");
        site.all_closed();
        // the tick forgets connections that have closed
        world.until_status("/upstream/0/idle", 0);
        assert_eq!(site.accepted(), number);
    }
}

#[test]
fn the_body_timeout_is_over_when_the_body_has_come() {
    let door = Door::default();
    let opened = door.clone();
    let site = Upstream::start(move |_, site| {
        opened.wait();
        site.write(ok("stored"))
    });
    let world = gate(&site.url(), "buffer: { request: 16KiB }", "limits: { body_timeout: 2s }");
    let mut upload = world.client();
    upload.send(request("POST", "/", &["Content-Length: 300000"]) + &"x".repeat(300_000));
    site.requests(1);
    // when this one, which began later, is told that its body takes too long, the time is over for the first one, too
    for _ in 0..2 {
        let mut slow = world.client();
        slow.send(request("POST", "/slow", &["Content-Length: 10"]));
        assert_eq!(slow.answer().status, 408);
    }
    door.open();
    assert_eq!(upload.answer().text(), "stored");
}

#[test]
fn the_response_timeout_does_not_count_while_the_client_is_waited_for() {
    let site = Upstream::start(|seen, site| {
        if seen.target == "/never" {
            site.wait_for_end();
        }
        site.write(ok("stored"))
    });
    let world = gate(&site.url(), "buffer: { request: 16KiB }, timeouts: { response: 2s }", "");
    let mut upload = world.client();
    upload.send(request("POST", "/", &["Content-Length: 300000"]));
    upload.send(vec![b'x'; 100_000]);
    site.connections(1);
    // these are given up one after the other, each after the timeout
    for _ in 0..2 {
        assert_eq!(world.get("/never", &[]).status, 504);
    }
    upload.send(vec![b'x'; 200_000]);
    assert_eq!(upload.answer().text(), "stored");
}

#[test]
fn a_failure_of_one_request_is_no_other_ones() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let site = Upstream::start(move |seen, site| match seen.target.as_str() {
        "/bad" => site.write("garbage\r\n\r\n"),
        _ => {
            released.lock().unwrap().recv().unwrap();
            site.write(ok("good"))
        }
    });
    let world = gate(&site.url(), "max_in_flight: 4", "");
    let mut good = world.client();
    good.send(request("GET", "/good", &[]));
    site.requests(1);
    let mut client = world.client();
    assert_eq!(client.get("/bad", &[]).status, 502);
    release.send(()).unwrap();
    assert_eq!(good.answer().text(), "good");
    release.send(()).unwrap();
    assert_eq!(client.get("/good", &[]).text(), "good", "the client's connection stays");
}

#[test]
fn an_answer_that_is_good_and_late_is_counted_as_slow() {
    let door = Door::default();
    let site = Upstream::behind(&door, "hello");
    let world = gate(&site.url(), "max_in_flight: 4", "limits: { header_timeout: 3s }");
    let mut client = world.client();
    client.send(request("GET", "/", &[]));
    site.requests(1);
    // one who says nothing is closed after longer than what is called slow
    world.client().assert_ends();
    door.open();
    assert_eq!(client.answer().text(), "hello");
    assert_eq!((world.outcomes("slow"), world.outcomes("ok")), (1, 0));
}
