//! TLS towards visitors.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use crate::support::{Answer, Authority, Client, Upstream, World, request, until, visitor};

const FILES: &str = "address: 127.0.0.1:0, certificate: site.pem, key: site.key";
const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// A gate with a certificate for site.test, and who vouches for it.
fn gate(site: &Upstream, https: &str, more: &str) -> (World, Authority) {
    let authority = Authority::new();
    let yaml = format!("upstream: {{ servers: [{}] }}\nlisten: {{ https: {{ {FILES}, {https} }} }}\n{more}", site.url());
    let world = World::prepared(&yaml, |directory| {
        authority.issue(directory, "site", &["site.test"]);
        authority.issue(directory, "other", &["other.test", "*.wild.test"]);
    });
    (world, authority)
}

fn connect(world: &World, visitor: &Arc<ClientConfig>, host: &str) -> Client {
    Client::connect(world.https.unwrap()).secured(visitor, host).unwrap()
}

fn shown(client: &Client) -> CertificateDer<'static> {
    client.tls().peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn visitors_are_served_within_tls_and_the_site_is_told() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "", "");
    for (versions, expected) in
        [(rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3), (&[&rustls::version::TLS12][..], ProtocolVersion::TLSv1_2)]
    {
        let mut client = connect(&world, &visitor(&authority, versions, HTTP1), "site.test");
        let answer = client.get("/", &["Accept: text/html"]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(client.tls().protocol_version(), Some(expected));
        assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        let cookie = answer.header("set-cookie").unwrap();
        let pass = format!("Cookie: {}", cookie.split(';').next().unwrap());
        assert!(cookie.starts_with("__Host-tidegate_pass=") && cookie.contains("; Secure"), "{cookie}");
        let seen = site.seen().pop().unwrap();
        assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-forwarded-for")), (Some("https"), Some("127.0.0.1")));
        // the next one on the same connection
        assert_eq!(client.get("/again", &[&pass]).status, 200);
    }
    assert_eq!(world.get("/", &["Accept: text/html"]).status, 200, "plaintext goes on beside it");
    assert_eq!(site.seen().pop().unwrap().header("x-forwarded-proto"), Some("http"));
}

#[test]
fn what_is_large_goes_both_ways_within_tls() {
    const SIZE: usize = 3 << 20;
    let body: &'static str = "0123456789abcdef".repeat(SIZE / 16).leak();
    let site = Upstream::answering(body);
    let (world, authority) = gate(&site, "", "admission: { mode: open }");
    let mut client = connect(&world, &authority.visitor(HTTP1), "site.test");
    client.send(format!("POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: {SIZE}\r\n\r\n{body}"));
    assert_eq!(client.answer().body, body.as_bytes());
    assert_eq!(site.requests(1)[0].body, body.as_bytes());
}

#[test]
fn each_host_is_shown_its_certificate_and_any_other_the_first() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "certificates: [{ certificate: other.pem, key: other.key }]", "");
    let visitor = authority.visitor(HTTP1);
    for host in ["site.test", "other.test", "a.wild.test", "SITE.test"] {
        // who verifies it is content
        let mut client = connect(&world, &visitor, host);
        assert_eq!(client.get("/", &[]).status, 200, "{host}");
    }
    for host in ["stranger.test", "wild.test", "a.b.wild.test"] {
        let refused = Client::connect(world.https.unwrap()).secured(&visitor, host).err().unwrap();
        assert!(refused.to_string().contains("not valid for name"), "{host}: {refused}");
    }
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_nobody_notices() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "", "");
    let visitor = authority.visitor(HTTP1);
    let mut before = connect(&world, &visitor, "site.test");
    assert_eq!(before.get("/", &[]).status, 200);
    let old = shown(&before);

    let new = authority.issue(world.directory(), "site", &["site.test"]);
    assert_ne!(old, new);
    until("the new certificate to be taken over", || {
        let fresh = connect(&world, &authority.visitor(HTTP1), "site.test");
        (shown(&fresh) == new).then_some(())
    });
    assert_eq!(before.get("/", &[]).status, 200, "who was there goes on");
    // who has been there before comes back without a whole handshake, though the certificate is another
    let mut back = connect(&world, &visitor, "site.test");
    assert_eq!(back.get("/", &[]).status, 200);
    assert_eq!(back.tls().handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_further_certificate_is_renewed_as_the_first_is() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "certificates: [{ certificate: other.pem, key: other.key }]", "");
    let shown_to = |host: &str| shown(&connect(&world, &authority.visitor(HTTP1), host));
    let (first, old) = (shown_to("site.test"), shown_to("other.test"));
    let new = authority.issue(world.directory(), "other", &["other.test"]);
    assert_ne!(old, new);
    until("the new certificate to be taken over", || (shown_to("other.test") == new).then_some(()));
    assert_eq!(shown_to("site.test"), first);
}

#[test]
fn a_visitor_who_names_no_host_is_shown_the_first_certificate() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "certificates: [{ certificate: other.pem, key: other.key }]", "");
    let mut silent = ClientConfig::clone(&authority.visitor(HTTP1));
    silent.enable_sni = false;
    let silent = Arc::new(silent);
    let mut client = connect(&world, &silent, "site.test");
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(shown(&client), shown(&connect(&world, &authority.visitor(HTTP1), "site.test")));
    let refused = Client::connect(world.https.unwrap()).secured(&silent, "other.test").err().unwrap();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
}

#[test]
fn a_pair_that_does_not_belong_together_is_not_taken_over() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "", "");
    let old = shown(&connect(&world, &authority.visitor(HTTP1), "site.test"));
    let reload = || world.admin_post("/reload", "application/json", "");
    let key = world.directory().join("site.key");
    let good = fs::read(&key).unwrap();

    let other = fs::read(world.directory().join("other.key")).unwrap();
    for (content, expected) in [
        (other.as_slice(), "is not the key of the first certificate in"),
        (b"", "holds no private key in PEM"),
        (&good[..good.len() / 2], "is cut off: a -----BEGIN has no -----END"),
    ] {
        fs::write(&key, content).unwrap();
        let answer = reload();
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains("listen.https: ") && answer.text().contains("site.key") && answer.text().contains(expected));
        assert_eq!(shown(&connect(&world, &authority.visitor(HTTP1), "site.test")), old);
    }
    fs::write(&key, good).unwrap();
    assert_eq!(reload().status, 200);

    fs::remove_file(world.directory().join("site.pem")).unwrap();
    let answer = reload();
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("site.pem: can't be read"), "{}", answer.text());
}

#[test]
fn tls_can_be_switched_on_and_off_by_a_restart_alone() {
    let site = Upstream::answering("hello");
    let (world, _) = gate(&site, "", "");
    let without = format!("upstream: {{ servers: [{}] }}\n", site.url());
    fs::write(world.file(), without).unwrap();
    let answer = world.admin_post("/reload", "application/json", "");
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("listen.https.address: 127.0.0.1:0 → none needs a restart"), "{}", answer.text());
}

#[test]
fn a_handshake_that_fails_or_hangs_is_counted_and_closed() {
    let site = Upstream::answering("hello");
    let (world, authority) = gate(&site, "", "limits: { handshake_timeout: 2s, header_timeout: 2s }");
    let refused = |reason: &str| world.count(&format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}"));
    let address = world.https.unwrap();

    let mut plaintext = Client::connect(address);
    plaintext.send(request("GET", "/", &[]));
    plaintext.end().ok();
    until("the failure to be counted", || (refused("tls_handshake") == 1).then_some(()));

    let none_of_ours = authority.visitor(&[b"spdy/1"]);
    assert!(Client::connect(address).secured(&none_of_ours, "site.test").is_err());
    until("the failure to be counted", || (refused("tls_handshake") == 2).then_some(()));

    // neither a byte, nor half a greeting
    let silent = [&b""[..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]].map(|hello| {
        let mut silent = Client::connect(address);
        silent.send(hello);
        silent
    });
    for mut silent in silent {
        silent.assert_ends();
    }
    until("the timeouts to be counted", || (refused("handshake_timeout") == 2).then_some(()));

    // nor half a greeting that goes on and on
    let mut trickling = Client::connect(address);
    trickling.send([0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc]);
    until("the gate to take no more", || trickling.try_send([0]).is_err().then_some(()));
    until("the timeout to be counted", || (refused("handshake_timeout") == 3).then_some(()));

    // after it, a head that takes too long is told so, as in plaintext
    let mut slow = connect(&world, &authority.visitor(HTTP1), "site.test");
    slow.send("GET / HT");
    assert_eq!(slow.answer().status, 408);
    slow.assert_ends();
    world.until_status("/connections/open", 0);
    assert!(site.seen().is_empty());
}

#[test]
fn plaintext_is_sent_to_tls_for_the_hosts_that_are_named() {
    let site = Upstream::answering("hello");
    let (world, authority) =
        gate(&site, "redirect: [site.test, \"other.test:8443\"]", "client: { trusted_proxies: [127.0.0.1] }\nadmission: { mode: open }");
    let ask = |method: &str, target: &str, host: &str, more: &str| {
        let mut client = world.client();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
        client.try_answer(method).unwrap()
    };
    let sent_to = |answer: &Answer| (answer.status, answer.header("location").map(str::to_owned));
    for (method, target, host, expected) in [
        ("GET", "/a?b=c", "site.test", "https://site.test/a?b=c"),
        ("HEAD", "/", "Site.test:8080", "https://site.test/"),
        ("POST", "/form", "other.test", "https://other.test:8443/form"),
        ("GET", "/.tidegate/email", "site.test", "https://site.test/.tidegate/email"),
        ("GET", "//evil.test/", "site.test", "https://site.test//evil.test/"),
        ("GET", "http://site.test/a", "site.test", "https://site.test/a"),
    ] {
        let answer = ask(method, target, host, "");
        assert_eq!(sent_to(&answer), (308, Some(expected.to_owned())), "{method} {target} {host}");
        assert_eq!((answer.header("cache-control"), answer.header("proxy-status")), (Some("no-store"), Some("tidegate")));
    }
    // another host, the probe of a load balancer, and who came over TLS to a front that says so
    assert_eq!(ask("GET", "/", "stranger.test", "").status, 200);
    assert_eq!(ask("GET", "/.tidegate/healthz", "site.test", "").status, 200);
    assert_eq!(ask("GET", "/", "site.test", "X-Forwarded-Proto: https\r\n").status, 200);
    assert_eq!(connect(&world, &authority.visitor(HTTP1), "site.test").get("/", &["Host: site.test"]).status, 400, "two Hosts");
    let mut client = connect(&world, &authority.visitor(HTTP1), "site.test");
    client.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(site.seen().len(), 3);
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let site = Upstream::answering("hello");
    let yaml = format!(
        "upstream: {{ servers: [{}] }}\nlisten: {{ https: {{ {FILES} }}, proxy_protocol: true }}\n\
         client: {{ trusted_proxies: [127.0.0.1] }}\nadmission: {{ mode: open }}",
        site.url()
    );
    let authority = Authority::new();
    let world = World::prepared(&yaml, |directory| drop(authority.issue(directory, "site", &["site.test"])));
    for protocols in [HTTP1, &[]] {
        let mut client = Client::connect(world.https.unwrap());
        client.send("PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n");
        let mut client = client.secured(&authority.visitor(protocols), "site.test").unwrap();
        assert_eq!(client.get("/", &[]).status, 200);
        let seen = site.seen().pop().unwrap();
        assert_eq!((seen.header("x-forwarded-for"), seen.header("x-forwarded-proto")), (Some("192.0.2.7"), Some("https")));
    }
    // without one, a handshake is taken for a header that is none
    assert!(Client::connect(world.https.unwrap()).secured(&authority.visitor(HTTP1), "site.test").is_err());
    until("the refusal to be counted", || (world.count("tidegate_requests_refused_total{reason=\"proxy_protocol\"}") == 1).then_some(()));
}

#[test]
fn the_operator_sees_when_a_certificate_expires() {
    let site = Upstream::answering("hello");
    let (world, _) = gate(&site, "", "");
    let name = "tidegate_certificate_expires_timestamp_seconds";
    // a certificate of rcgen's lasts until 4096
    world.until_metric(name, |at| (67_090_000_000.0..67_100_000_000.0).contains(&at));
    let plain = World::open(&site.url(), "");
    plain.until_metric(name, f64::is_infinite);
}

#[test]
fn connections_within_tls_end_well_when_the_gate_does() {
    let site = Upstream::answering("hello");
    let (mut world, authority) = gate(&site, "", "");
    let mut client = connect(&world, &authority.visitor(HTTP1), "site.test");
    assert_eq!(client.get("/", &[]).status, 200);
    let running = world.running.take().unwrap();
    running.drain(std::time::Duration::ZERO, std::time::Duration::from_secs(10));
    assert_eq!(client.end().unwrap(), b"", "with a word, not cut off");
}
