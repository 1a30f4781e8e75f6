//! TLS to the site: who is believed, who is not and how that is told, and that what goes over it is whole.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use tidegate::rules::policy::{CertificateFiles, UpstreamTls};
use tidegate::tls::client::ClientTls;

use crate::support::{
    Authority, Door, Gate, Process, Scratch, Site, Upstream, World, assert_failed, ok, own_ports, request, run, run_command, tidegate,
    until,
};

/// What is true of most tests: one authority that the gate trusts, in `ca.pem`.
struct Setting {
    scratch: Scratch,
    authority: Authority,
}

impl Setting {
    fn new() -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new());
        scratch.write("ca.pem", &authority.pem());
        Self { scratch, authority }
    }

    /// `upstream:` of one server; `tls` is further YAML of the section, and `more` of what is around it.
    fn yaml(&self, url: &str, tls: &str, more: &str) -> String {
        let ca = self.scratch.path().join("ca.pem");
        format!("upstream: {{ servers: [{url}], tls: {{ ca: {}, {tls} }}, {more} }}\nadmission: {{ mode: open }}\n", ca.display())
    }

    fn gate(&self, url: &str, tls: &str, more: &str) -> World {
        World::start(&self.yaml(url, tls, more))
    }

    /// TLS of a server at 127.0.0.1.
    fn server(&self) -> Arc<ServerConfig> {
        self.authority.sign(&["127.0.0.1"]).server()
    }
}

/// A site that answers every request with what `handler` says of the connection.
fn site(tls: Arc<ServerConfig>, handler: impl Fn(&Site) -> String + Send + Sync + 'static) -> Upstream {
    Upstream::start_tls(
        move || Arc::clone(&tls),
        move |_, site| {
            let body = handler(site);
            site.write(ok(&body))
        },
    )
}

fn answering(tls: Arc<ServerConfig>, body: &'static str) -> Upstream {
    site(tls, move |_| body.to_owned())
}

fn trouble(world: &World) -> String {
    world.status().pointer("/upstream/0/trouble").and_then(|trouble| trouble.as_str()).unwrap_or_default().to_owned()
}

fn reload(world: &World) -> (u16, String) {
    let answer = world.admin_post("/reload", "application/json", "");
    (answer.status, answer.text())
}

// who is believed

#[test]
fn a_server_with_a_certificate_of_the_operators_authority_is_believed() {
    let setting = Setting::new();
    let site = site(setting.server(), |site| {
        let alpn = String::from_utf8_lossy(site.tls().alpn_protocol().unwrap_or_default()).into_owned();
        format!("{alpn} {:?} {:?}", site.tls().protocol_version().unwrap(), site.tls().server_name())
    });
    let world = setting.gate(&site.url_tls(), "", "");
    // no server name goes with an address, as the RFC has it
    assert_eq!(world.get("/a?b", &["Host2: x"]).text(), "http/1.1 TLSv1_3 None");
    let seen = &site.seen()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.header("host")), ("GET", "/a?b", Some("test")));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"), "how the visitor came, not how the site is reached");
    assert_eq!((trouble(&world), world.outcomes("connect")), (String::new(), 0));
}

#[test]
fn a_server_is_asked_for_by_the_name_in_gate_yaml() {
    let setting = Setting::new();
    let site = site(setting.authority.sign(&["localhost"]).server(), |site| site.tls().server_name().unwrap_or("none").to_owned());
    let world = setting.gate(&format!("https://localhost:{}", site.address.port()), "", "");
    assert_eq!(world.get("/", &[]).text(), "localhost");
}

#[test]
fn a_server_name_stands_in_for_the_host() {
    let setting = Setting::new();
    let certified = setting.authority.sign(&["app.internal"]);
    let site = site(certified.server(), |site| site.tls().server_name().unwrap_or("none").to_owned());
    let world = setting.gate(&site.url_tls(), "server_name: App.Internal", "");
    assert_eq!(world.get("/", &[]).text(), "app.internal");
    // and so does an address for another
    let elsewhere = answering(setting.authority.sign(&["192.0.2.1"]).server(), "elsewhere");
    let world = setting.gate(&elsewhere.url_tls(), "server_name: 192.0.2.1", "");
    assert_eq!(world.get("/", &[]).text(), "elsewhere");
}

#[test]
fn a_server_that_speaks_tls_1_2_alone_is_spoken_to() {
    let setting = Setting::new();
    let tls = setting.authority.sign(&["127.0.0.1"]).server_by(&[&TLS12], None);
    let site = site(tls, |site| format!("{:?}", site.tls().protocol_version().unwrap()));
    let world = setting.gate(&site.url_tls(), "", "");
    assert_eq!(world.get("/", &[]).text(), "TLSv1_2");
}

#[test]
fn a_server_that_is_not_believed_is_sent_nothing() {
    let setting = Setting::new();
    let stranger = Authority::new();
    for (certified, tls, why) in [
        (stranger.sign(&["127.0.0.1"]), "", "UnknownIssuer"),
        (setting.authority.sign(&["127.0.0.2", "app.internal"]), "", "not valid for name"),
        (setting.authority.sign(&["127.0.0.1"]), "server_name: app.internal", "not valid for name"),
        (setting.authority.sign(&[]), "", "not valid for name"),
        (setting.authority.sign_until(&["127.0.0.1"], 2020), "", "expired"),
    ] {
        let site = answering(certified.server(), "secret");
        let world = setting.gate(&site.url_tls(), tls, "");
        for count in 1..=2 {
            assert_failed(&world.get("/", &[]), 502, "tls_certificate_error");
            assert_eq!(world.outcomes("connect"), count);
        }
        let told = trouble(&world);
        assert!(told.starts_with("no TLS: its certificate is not believed: ") && told.contains(why), "{told}");
        let dashboard = world.admin("/").text();
        assert!(dashboard.contains("its certificate is not believed: "), "{dashboard}");
        site.connections(2);
        assert_eq!(site.seen().len(), 0);
        world.until_status("/slots/in_flight", 0);
    }
}

#[test]
fn a_certificate_that_has_signed_itself_is_believed_if_it_is_named_and_calls_itself_no_authority() {
    for is_authority in [false, true] {
        let setting = Setting::new();
        let certified = Authority::signed_by_itself(is_authority);
        setting.scratch.write("ca.pem", &certified.certificate_pem());
        let site = answering(certified.server(), "hello");
        let world = setting.gate(&site.url_tls(), "", "");
        let answer = world.get("/", &[]);
        if is_authority {
            assert_failed(&answer, 502, "tls_certificate_error");
            assert!(trouble(&world).contains("CaUsedAsEndEntity"), "{}", trouble(&world));
        } else {
            assert_eq!(answer.text(), "hello");
        }
    }
}

#[test]
fn authorities_stand_beside_each_other_in_one_file() {
    let setting = Setting::new();
    let next = Authority::new();
    setting.scratch.write("ca.pem", &format!("old\n{}new\n{}", setting.authority.pem(), next.pem()));
    let (old, new) = (answering(setting.server(), "old"), answering(next.sign(&["127.0.0.1"]).server(), "new"));
    for (site, body) in [(old, "old"), (new, "new")] {
        assert_eq!(setting.gate(&site.url_tls(), "", "").get("/", &[]).text(), body);
    }
}

#[test]
fn the_log_says_why_a_server_is_not_believed_and_not_at_each_request() {
    let setting = Setting::new();
    let site = answering(Authority::new().sign(&["127.0.0.1"]).server(), "secret");
    let ca = setting.scratch.path().join("ca.pem");
    let yaml = format!("{}admission: {{ mode: open }}\n", own_ports(&site.url_tls()))
        .replace("upstream: {", &format!("upstream: {{ tls: {{ ca: {} }},", ca.display()));
    let gate = Gate::serve(&setting.scratch.write("gate.yaml", &yaml));
    for _ in 0..4 {
        assert_failed(&gate.get("/", &[]), 502, "tls_certificate_error");
    }
    let log = gate.end();
    let told: Vec<&String> = log.iter().filter(|line| line.contains("the server can't be reached")).collect();
    assert_eq!(told.len(), 1, "{log:#?}");
    assert!(told[0].contains("UnknownIssuer") && told[0].contains(&site.url_tls()), "{}", told[0]);
}

#[test]
fn trouble_is_forgotten_when_a_connection_is_made() {
    let setting = Setting::new();
    let tls = Arc::new(Mutex::new(Authority::new().sign(&["127.0.0.1"]).server()));
    let by = Arc::clone(&tls);
    let site = Upstream::start_tls(move || Arc::clone(&by.lock().unwrap()), |_, site| site.write(ok("hello")));
    let world = setting.gate(&site.url_tls(), "", "");
    assert_failed(&world.get("/", &[]), 502, "tls_certificate_error");
    assert!(!trouble(&world).is_empty());
    *tls.lock().unwrap() = setting.server();
    assert_eq!(world.get("/", &[]).text(), "hello");
    assert_eq!(trouble(&world), "");
}

// who we are

#[test]
fn a_client_certificate_is_shown_to_who_asks() {
    let setting = Setting::new();
    let clients = Authority::new();
    let (certificate, key) = clients.sign(&["gate"]).write(&setting.scratch, "client");
    let identity = format!("certificate: {}, key: {}", certificate.display(), key.display());
    let certified = setting.authority.sign(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let site = answering(certified.server_by(&[version], Some(&clients)), "hello");
        let world = setting.gate(&site.url_tls(), &identity, "");
        assert_eq!(world.get("/", &[]).text(), "hello", "{version:?}");
        // a new connection shows it too
        assert_eq!(world.get("/", &[]).text(), "hello", "{version:?}");
    }
}

#[test]
fn a_server_that_asks_for_a_certificate_in_vain_refuses() {
    let setting = Setting::new();
    let (clients, strangers) = (Authority::new(), Authority::new());
    let (certificate, key) = strangers.sign(&["gate"]).write(&setting.scratch, "client");
    let identity = format!("certificate: {}, key: {}", certificate.display(), key.display());
    let certified = setting.authority.sign(&["127.0.0.1"]);
    for (version, identity) in [(&TLS12, ""), (&TLS13, ""), (&TLS12, &*identity), (&TLS13, &*identity)] {
        let site = answering(certified.server_by(&[version], Some(&clients)), "secret");
        let world = setting.gate(&site.url_tls(), identity, "");
        for _ in 0..2 {
            assert_failed(&world.get("/", &[]), 502, "tls_alert_received");
        }
        assert_eq!((world.outcomes("connect"), site.accepted(), site.seen().len()), (2, 2, 0), "{version:?} {identity}");
        assert!(trouble(&world).starts_with("no TLS: it has refused TLS: received fatal alert"), "{}", trouble(&world));
    }
}

// what is no TLS

#[test]
fn a_plaintext_server_behind_https_is_a_bad_gateway() {
    let setting = Setting::new();
    let site = Upstream::raw(|site| {
        // what greets by itself is not TLS, whatever it would make of ours
        site.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        site.wait_for_end();
    });
    let world = setting.gate(&site.url_tls(), "", "");
    assert_failed(&world.get("/", &[]), 502, "tls_protocol_error");
    assert_eq!(world.outcomes("connect"), 1);
    site.all_closed();
}

#[test]
fn a_server_that_hangs_up_in_the_handshake_is_a_bad_gateway() {
    let setting = Setting::new();
    let site = Upstream::raw(|_| ());
    let world = setting.gate(&site.url_tls(), "", "");
    assert_failed(&world.get("/", &[]), 502, "connection_terminated");
    assert_eq!(world.outcomes("connect"), 1);
}

#[test]
fn a_handshake_that_hangs_is_a_connect_timeout() {
    let setting = Setting::new();
    let site = Upstream::raw(Site::wait_for_end);
    let world = setting.gate(&site.url_tls(), "", "timeouts: { connect: 500ms }");
    assert_failed(&world.get("/", &[]), 504, "connection_timeout");
    assert_eq!(world.outcomes("connect"), 1);
    site.all_closed();
    assert_eq!(trouble(&world), "no connection in time");
}

// connections

#[test]
fn who_leaves_before_there_is_a_connection_asks_for_nothing_and_leaves_it_to_the_next() {
    let setting = Setting::new();
    let (door, tls) = (Door::default(), setting.server());
    let opened = door.clone();
    let site = Upstream::raw(move |site| {
        opened.wait();
        if site.handshake(Arc::clone(&tls)).is_ok() {
            while site.request().is_ok() && site.write(ok("hello")) {}
        }
    });
    let world = setting.gate(&site.url_tls(), "", "max_in_flight: 1, queue: { deadline: 30s }, timeouts: { connect: 30s }");
    let mut client = world.client();
    client.send(request("GET", "/left", &[]));
    site.connections(1);
    client.reset();
    world.until_metric("tidegate_downstream_connections", |open| open == 0.0);
    assert_eq!(world.status()["slots"]["in_flight"], 1);
    door.open();
    assert_eq!(world.get("/next", &[]).text(), "hello");
    world.until_status("/slots/in_flight", 0);
    let seen = site.seen();
    assert_eq!(seen.iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(), ["/next"]);
    assert_eq!((site.accepted(), world.outcomes("aborted"), world.outcomes("ok")), (1, 1, 1));
}

#[test]
fn an_idle_connection_is_used_again() {
    let setting = Setting::new();
    let site = answering(setting.server(), "hello");
    let world = setting.gate(&site.url_tls(), "", "");
    let mut client = world.client();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).text(), "hello");
    }
    assert_eq!(site.accepted(), 1);
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let setting = Setting::new();
    for version in [&TLS12, &TLS13] {
        let tls = setting.authority.sign(&["127.0.0.1"]).server_by(&[version], None);
        let site = Upstream::start_tls(
            move || Arc::clone(&tls),
            |_, site| {
                let body = if site.resumed() { "resumed" } else { "full" };
                site.write(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
                false
            },
        );
        let world = setting.gate(&site.url_tls(), "", "");
        let answers: Vec<String> = (0..3).map(|_| world.get("/", &[]).text()).collect();
        assert_eq!(answers, ["full", "resumed", "resumed"], "{version:?}");
    }
}

#[test]
fn a_server_that_is_not_believed_is_left_out_until_it_is() {
    let setting = Setting::new();
    let good = answering(setting.server(), "good");
    let tls = Arc::new(Mutex::new(Authority::new().sign(&["127.0.0.1"]).server()));
    let by = Arc::clone(&tls);
    let bad = Upstream::start_tls(move || Arc::clone(&by.lock().unwrap()), |_, site| site.write(ok("back")));
    let world = setting.gate(&format!("{}, {}", good.url_tls(), bad.url_tls()), "", "max_in_flight: 4");
    let up = format!("tidegate_upstream_up{{server=\"{}\"}}", bad.url_tls());
    until("the ejection", || {
        assert_eq!(world.get("/", &[]).text(), "good", "nobody pays for it");
        (world.status().pointer("/upstream/1/up").unwrap() == false).then_some(())
    });
    let failed = world.outcomes("connect");
    assert_eq!(failed, 5);
    // a probe that took a mere connection for health would have sent it somebody
    let probed = bad.accepted() + 2;
    until("two probes", || {
        assert_eq!(world.get("/", &[]).text(), "good");
        (bad.accepted() >= probed).then_some(())
    });
    assert_eq!(world.outcomes("connect"), failed);
    *tls.lock().unwrap() = setting.server();
    until("the way back", || {
        assert_eq!(world.get("/", &[]).status, 200, "nobody pays for the way back");
        (world.metric(&up) > 0.0).then_some(())
    });
    until("its share", || (world.get("/", &[]).text() == "back").then_some(()));
}

#[test]
fn what_is_sent_again_may_go_to_another_server() {
    let setting = Setting::new();
    let good = answering(setting.server(), "good");
    let tls = Arc::new(Mutex::new(setting.server()));
    let by = Arc::clone(&tls);
    // it closes the connection that it has kept, and is then another's
    let gone =
        Upstream::start_tls(move || Arc::clone(&by.lock().unwrap()), |seen, site| seen.target != "/second" && site.write(ok("going")));
    let world = setting.gate(&format!("{}, {}", good.url_tls(), gone.url_tls()), "", "max_in_flight: 4");
    until("a kept connection", || (world.get("/first", &[]).text() == "going").then_some(()));
    *tls.lock().unwrap() = Authority::new().sign(&["127.0.0.1"]).server();
    until("a second try", || {
        assert_eq!(world.get("/second", &[]).text(), "good");
        (world.outcomes("connect") > 0).then_some(())
    });
    assert_eq!(gone.seen().iter().filter(|seen| seen.target == "/second").count(), 1);
    let answered = good.seen().len() + gone.seen().len() - 1;
    assert_eq!(world.outcomes("ok"), answered);
}

// bodies

#[test]
fn large_bodies_go_both_ways_whole() {
    let setting = Setting::new();
    let tls = setting.server();
    let site = Upstream::start_tls(
        move || Arc::clone(&tls),
        |seen, site| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len());
            site.write(head) && site.write(&seen.body)
        },
    );
    let world = setting.gate(&site.url_tls(), "", "buffer: { request: 1MiB, response: 1MiB }");
    // read ahead; and streamed
    for length in [1 << 20, 5 << 20] {
        let body: Vec<u8> =
            (0..length).map(|at: u32| at.to_le_bytes().into_iter().fold(7_u8, |mixed, byte| mixed.wrapping_mul(31) ^ byte)).collect();
        let mut client = world.client();
        let mut twin = client.twin();
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        let sent = body.clone();
        let sending = std::thread::spawn(move || {
            twin.send(head);
            twin.send(sent);
        });
        let answer = client.answer();
        sending.join().unwrap();
        assert!(answer.status == 200 && answer.body == body, "{}", answer.raw);
    }
}

#[test]
fn a_body_without_a_length_is_whole_only_if_the_server_says_that_it_is() {
    let setting = Setting::new();
    let tls = setting.server();
    let site = Upstream::start_tls(
        move || Arc::clone(&tls),
        |seen, site| {
            site.write("HTTP/1.1 200 OK\r\n\r\nhalf of it");
            if seen.target == "/whole" {
                site.finish();
            }
            false
        },
    );
    let world = setting.gate(&site.url_tls(), "", "");
    assert_eq!(world.get("/whole", &[]).text(), "half of it");
    let mut client = world.client();
    client.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n");
    let cut = client.try_answer("GET").unwrap_err().kind();
    assert!(matches!(cut, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{cut:?}");
    world.until_metric("tidegate_upstream_outcomes_total{outcome=\"error\"}", |count| count == 1.0);
    assert_eq!(world.outcomes("ok"), 1);
}

#[test]
fn an_answer_that_has_a_length_needs_no_goodbye() {
    let setting = Setting::new();
    let tls = setting.server();
    let site = Upstream::start_tls(
        move || Arc::clone(&tls),
        |_, site| {
            site.write(ok("hello"));
            false
        },
    );
    let world = setting.gate(&site.url_tls(), "", "");
    for _ in 0..5 {
        assert_eq!(world.get("/", &[]).text(), "hello");
    }
}

// reload

#[test]
fn a_renewed_authority_is_taken_in_and_a_broken_one_is_not() {
    let setting = Setting::new();
    let tls = Arc::new(Mutex::new(setting.server()));
    let by = Arc::clone(&tls);
    let site = Upstream::start_tls(move || Arc::clone(&by.lock().unwrap()), |_, site| site.write(ok("hello")));
    let world = setting.gate(&site.url_tls(), "", "");
    let mut client = world.client();
    let mut is_well = |connections: usize| {
        assert_eq!(client.get("/", &[]).text(), "hello");
        assert_eq!(site.accepted(), connections);
    };
    is_well(1);
    // a broken file changes nothing
    setting.scratch.write("ca.pem", "what is this?");
    let (status, errors) = reload(&world);
    let expected = format!("upstream.tls.ca: {}: holds no certificate in PEM", setting.scratch.path().join("ca.pem").display());
    assert!(status == 422 && errors.contains(&expected), "{errors}");
    is_well(1);
    // nor does a reload of what is the same
    setting.scratch.write("ca.pem", &setting.authority.pem());
    assert_eq!(reload(&world).0, 200);
    is_well(1);
    // the server has a certificate of another authority; the file alone changes, and nobody says so
    let renewed = Authority::new();
    *tls.lock().unwrap() = renewed.sign(&["127.0.0.1"]).server();
    let applied = world.count("tidegate_config_reloads_total{result=\"applied\"}");
    setting.scratch.write("ca.pem", &renewed.pem());
    until("the new authority", || (world.count("tidegate_config_reloads_total{result=\"applied\"}") > applied).then_some(()));
    is_well(2);
    is_well(2);
    // who is not trusted any more is not believed by what was known of it before
    *tls.lock().unwrap() = setting.server();
    std::fs::write(world.file(), setting.yaml(&site.url_tls(), "server_name: 127.0.0.1", "")).unwrap();
    assert_eq!(reload(&world).0, 200);
    assert_failed(&world.get("/", &[]), 502, "tls_certificate_error");
}

#[test]
fn a_connection_that_is_in_use_at_a_reload_ends_with_its_request() {
    let setting = Setting::new();
    let tls = setting.server();
    let door = Door::default();
    let opens = door.clone();
    let site = Upstream::start_tls(
        move || Arc::clone(&tls),
        move |seen, site| {
            if seen.target == "/slow" {
                opens.wait();
            }
            site.write(ok("hello"))
        },
    );
    let world = setting.gate(&site.url_tls(), "", "max_in_flight: 4");
    let mut client = world.client();
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    site.requests(1);
    std::fs::write(world.file(), setting.yaml(&site.url_tls(), "server_name: 127.0.0.1", "max_in_flight: 4")).unwrap();
    assert_eq!(reload(&world).0, 200);
    door.open();
    assert_eq!(client.answer().text(), "hello");
    site.all_closed();
    assert_eq!(world.get("/", &[]).text(), "hello");
    assert_eq!(site.accepted(), 2);
}

// files

fn at(path: &Path) -> UpstreamTls {
    UpstreamTls { ca: Some(path.to_owned()), ..UpstreamTls::default() }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_key_and_name() {
    let setting = Setting::new();
    let scratch = &setting.scratch;
    let (certificate, key) = setting.authority.sign(&["a"]).write(scratch, "client");
    let (_, other_key) = setting.authority.sign(&["b"]).write(scratch, "other");
    let text = scratch.write("text.pem", "hello");
    let torn = scratch.write("torn.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let no_certificate = scratch.write("empty.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let encrypted = scratch.write("encrypted.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let odd_key = scratch.write("odd.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let ca = scratch.path().join("ca.pem");
    let identity = |certificate: &Path, key: &Path| UpstreamTls {
        identity: Some(CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() }),
        ..at(&ca)
    };
    for (policy, key, path, reason) in [
        (at(Path::new("/does/not/exist.pem")), "ca", Path::new("/does/not/exist.pem"), "can't be read: No such file"),
        (at(scratch.path()), "ca", scratch.path(), "can't be read: Is a directory"),
        (at(&text), "ca", &text, "holds no certificate in PEM"),
        (at(&key), "ca", &key, "holds no certificate in PEM"),
        (at(&torn), "ca", &torn, "is cut off"),
        (at(&no_certificate), "ca", &no_certificate, "holds a certificate that can't be read: number 1"),
        (identity(&text, &key), "certificate", &text, "holds no certificate in PEM"),
        (identity(&no_certificate, &key), "certificate", &no_certificate, "holds a certificate that can't be read: number 1"),
        (identity(&certificate, &text), "key", &text, "holds no private key in PEM that can be read without a passphrase"),
        (identity(&certificate, &encrypted), "key", &encrypted, "holds no private key in PEM that can be read without a passphrase"),
        (identity(&certificate, &odd_key), "key", &odd_key, "can't be used: "),
        (identity(&certificate, &other_key), "key", &other_key, "is not the key of the first certificate in "),
    ] {
        let error = ClientTls::load(&policy).unwrap_err().to_string();
        assert!(error.starts_with(&format!("upstream.tls.{key}: {}: {reason}", path.display())), "{error}");
    }
    ClientTls::load(&identity(&certificate, &key)).unwrap();
}

#[test]
fn it_is_known_whether_settings_and_files_are_the_same() {
    let setting = Setting::new();
    let scratch = &setting.scratch;
    let ca = scratch.path().join("ca.pem");
    let (certificate, key) = setting.authority.sign(&["a"]).write(scratch, "client");
    let plain = at(&ca);
    let named = UpstreamTls { server_name: Some("a".to_owned()), ..at(&ca) };
    let known = UpstreamTls { identity: Some(CertificateFiles { certificate, key }), ..at(&ca) };
    let load = |policy: &UpstreamTls| ClientTls::load(policy).unwrap();
    for policy in [&plain, &named, &known] {
        assert!(load(policy).towards("b").is_of(&load(policy)));
    }
    assert!(!load(&plain).towards("b").is_of(&load(&named)));
    assert!(!load(&plain).towards("b").is_of(&load(&known)));
    let old = load(&known);
    setting.authority.sign(&["a"]).write(scratch, "client");
    assert!(!old.towards("b").is_of(&load(&known)));
    let old = load(&plain);
    scratch.write("ca.pem", &Authority::new().pem());
    assert!(!old.towards("b").is_of(&load(&plain)));
}

// what the system trusts

#[test]
fn without_an_authority_of_the_operators_the_system_is_asked() {
    let setting = Setting::new();
    let site = answering(setting.server(), "hello");
    let yaml = format!("{}admission: {{ mode: open }}\n", own_ports(&site.url_tls()));
    let file = setting.scratch.write("gate.yaml", &yaml);
    let command = |argument: &str, trusted: &Path| {
        let mut command = tidegate();
        command.arg(argument).arg("--config").arg(&file).env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
        command
    };
    let gate = Gate::started(Process::spawn(command("serve", &setting.scratch.path().join("ca.pem"))));
    assert_eq!(gate.get("/", &[]).text(), "hello");
    gate.end();
    // others than ours
    let others = setting.scratch.write("others.pem", &Authority::new().pem());
    let gate = Gate::started(Process::spawn(command("serve", &others)));
    assert_failed(&gate.get("/", &[]), 502, "tls_certificate_error");
    gate.end();
    // nobody
    let nobody = setting.scratch.write("nobody.pem", "");
    for (argument, status) in [("check", 2), ("serve", 1)] {
        let said = run_command(command(argument, &nobody));
        assert_eq!(said.status, Some(status), "{}", said.err);
        assert!(said.err.contains("upstream.tls.ca: is not written, and the system trusts no certificates"), "{}", said.err);
    }
}

#[test]
fn check_reads_the_files() {
    let setting = Setting::new();
    let file = setting.scratch.write("gate.yaml", "upstream: { servers: [https://a], tls: { ca: ca.pem } }\n");
    assert_eq!(run(&["check"], &file).status, Some(0));
    setting.scratch.write("ca.pem", "");
    let said = run(&["check"], &file);
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("upstream.tls.ca: ") && said.err.contains("ca.pem: holds no certificate in PEM"), "{}", said.err);
}
