//! Tests of the room as a whole: text in, policy or errors out.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rules::policy::{
    Buffer, CertificateFiles, Delivery, Https, Listen, Log, LogFormat, MaxInFlight, Mode, Order, RedirectHost, Revoked, Security, Shutdown,
    SlotQueue, UpstreamHttp2, UpstreamTls,
};
use crate::rules::routes::Route;
use crate::rules::time::UnixTime;

const EXAMPLE: &str = include_str!("../../gate.yaml");
const LEAST: &str = "upstream: { servers: [http://127.0.0.1:3000] }\n";

/// Every key set, and none to its default.
const FULL: &str = r#"
listen:
  http: "[::1]:18080"
  https:
    address: 0.0.0.0:18443
    certificate: tls/cert.pem
    key: tls/key.pem
    certificates: [{ certificate: "b.pem", key: /srv/b.key }]
    redirect: [WWW.example.org, "[2001:db8::1]:8443"]
  workers: 3
  proxy_protocol: true
admin: { listen: 0.0.0.0:19090, token_file: secrets/admin }
data: /srv/tide "gate"
upstream:
  servers: [https://127.0.0.1:3000, "https://[::1]:3001", https://App_2]
  tls: { ca: tls/ca.pem, server_name: App.Internal, certificate: tls/client.pem, key: tls/client-key.pem }
  http2: off
  max_in_flight: 7
  queue: { deadline: 1500ms, length: 99 }
  timeouts: { connect: 0.25s, response: 90s, idle: 1m }
  buffer: { request: 1000KiB, response: 2MiB }
admission: { mode: fixed, probability: 0.125, order: lottery, queue_wait: 0.1001s, probe_rate: 0.003 }
session: { active: 30s, idle: 1h, limit: 2d, in_flight: 3, rate: 100, not_before: 2026-01-31T06:00:00.25Z, domain: Example.org }
routes:
  - { path: "/a\"\\\\{b,c}*", gate: gated, signal: false }
  - { path: /ü/**, gate: open }
waiting_room: { status: 429, refresh: 2s, refresh_max: 2m, template: ./room.html }
email_queue: { enabled: false, retention: 36h, posts_per_client: 1, addresses_per_ticket: 2 }
invitations:
  smtp: smtps://mail.example.org
  username: portal
  password_file: secrets/smtp
  from: "Bürger <no-reply@example.org>"
  site_url: https://www.example.org/
  templates: letters
  below: 0.5
  settle: 0s
  rate: 0.1
  share: 1
  expected_redemption: 0
  expires: 1d
bypass: { revoked: ["0000000000000001", batch-0000000f], not_before: "2026-02-28T23:59:59+01:00" }
client: { trusted_proxies: [10.0.0.0/8, 192.0.2.1, "2001:db8::/32"] }
limits:
  connections: 20
  connections_per_client: 6
  header_bytes: 8192
  handshake_timeout: 4s
  header_timeout: 1s
  body_timeout: 2s
  min_rate: 1KiB
  idle_timeout: 3s
  upgrades: 7
  upgrade_idle: 6s
  buffer_memory: 3MiB
  tickets_per_client: 5
shutdown: { delay: 0s, deadline: 1m }
log: { format: json, access: 0.01 }
"#;

fn policy(text: &str) -> Policy {
    parse(text, "gate.yaml", Path::new("/etc/gate")).unwrap_or_else(|errors| panic!("{errors}\nin: {text}"))
}

fn errors(text: &str) -> String {
    parse(text, "gate.yaml", Path::new("/etc/gate")).unwrap_err().to_string()
}

/// The errors of a file that has a server besides.
fn errors_beside(text: &str) -> String {
    errors(&format!("{text}\n{LEAST}"))
}

fn assert_same(a: &Policy, b: &Policy) {
    assert_eq!(a.listen, b.listen);
    assert_eq!(a.admin, b.admin);
    assert_eq!(a.data, b.data);
    assert_eq!(a.upstream, b.upstream);
    assert_eq!(a.admission, b.admission);
    assert_eq!(a.session, b.session);
    assert_eq!(a.routes.list(), b.routes.list());
    assert_eq!(a.waiting_room, b.waiting_room);
    assert_eq!(a.email_queue, b.email_queue);
    assert_eq!(a.invitations, b.invitations);
    assert_eq!(a.bypass, b.bypass);
    assert_eq!(a.client, b.client);
    assert_eq!(a.limits, b.limits);
    assert_eq!(a.shutdown, b.shutdown);
    assert_eq!(a.log, b.log);
}

// what is read

#[test]
fn the_defaults_are_those_of_the_example() {
    assert_same(&policy(LEAST), &policy(EXAMPLE));
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let expected = r#"listen:
  http: 127.0.0.1:8080
  https: null
  workers: auto
  proxy_protocol: false
admin:
  listen: 127.0.0.1:9090
  token_file: null
data: "/etc/gate/data"
upstream:
  servers:
    - "http://127.0.0.1:3000"
  tls:
    ca: null
    server_name: null
    certificate: null
    key: null
  http2: auto
  max_in_flight: auto
  queue:
    deadline: 1s
    length: 4096
  timeouts:
    connect: 2s
    response: 1m
    idle: 30s
  buffer:
    request: 1MiB
    response: 1MiB
admission:
  mode: auto
  probability: null
  order: lottery
  queue_wait: 200ms
  probe_rate: 0.2
session:
  active: 1m
  idle: 20m
  limit: 4h
  in_flight: 8
  rate: 600
  not_before: null
  domain: null
routes:
  - { path: "/healthz", gate: open, signal: true }
  - { path: "/static/**", gate: open, signal: true }
waiting_room:
  status: 503
  refresh: 10s
  refresh_max: 1m
  template: null
email_queue:
  enabled: true
  retention: 30d
  posts_per_client: 60
  addresses_per_ticket: 3
invitations:
  smtp: null
  username: null
  password_file: null
  spool: null
  from: null
  site_url: null
  templates: null
  below: 0.6
  settle: 1m
  rate: 10
  share: 0.5
  expected_redemption: 0.3
  expires: 2d
bypass:
  revoked: []
  not_before: null
client:
  trusted_proxies: []
limits:
  connections: 10000
  connections_per_client: 1000
  header_bytes: 32KiB
  handshake_timeout: 10s
  header_timeout: 10s
  body_timeout: 30s
  min_rate: 240
  idle_timeout: 30s
  upgrades: 1000
  upgrade_idle: 5m
  buffer_memory: 512MiB
  tickets_per_client: 600
shutdown:
  delay: 5s
  deadline: 30s
log:
  format: auto
  access: off
"#;
    assert_eq!(effective(&policy(LEAST)), expected);
}

#[test]
fn every_key_is_taken_over() {
    let policy = policy(FULL);
    let files = |certificate: &str, key: &str| CertificateFiles { certificate: certificate.into(), key: key.into() };
    let redirect = |host: &str, authority: &str| RedirectHost { host: host.to_owned(), authority: authority.to_owned() };
    let https = Https {
        address: address("0.0.0.0:18443"),
        first: files("/etc/gate/tls/cert.pem", "/etc/gate/tls/key.pem"),
        further: vec![files("/etc/gate/b.pem", "/srv/b.key")],
        redirect: vec![redirect("www.example.org", "www.example.org"), redirect("[2001:db8::1]", "[2001:db8::1]:8443")],
    };
    assert_eq!(policy.listen, Listen { http: address("[::1]:18080"), https: Some(https), workers: Some(3), proxy_protocol: true });
    assert_eq!(policy.admin, Admin { listen: address("0.0.0.0:19090"), token_file: Some("/etc/gate/secrets/admin".into()) });
    assert_eq!(policy.data, PathBuf::from("/srv/tide \"gate\""));
    assert_eq!(policy.upstream.servers.len(), 3);
    assert_eq!((policy.upstream.servers[2].host.as_str(), policy.upstream.servers[2].port), ("app_2", 443));
    let identity = CertificateFiles { certificate: "/etc/gate/tls/client.pem".into(), key: "/etc/gate/tls/client-key.pem".into() };
    let tls =
        UpstreamTls { ca: Some("/etc/gate/tls/ca.pem".into()), server_name: Some("app.internal".to_owned()), identity: Some(identity) };
    assert_eq!(policy.upstream.tls, Some(tls));
    assert_eq!(policy.upstream.http2, UpstreamHttp2::Off);
    assert_eq!(policy.upstream.max_in_flight, MaxInFlight::Fixed(7));
    assert_eq!(policy.upstream.queue, SlotQueue { deadline: Duration::from_millis(1500), length: 99 });
    assert_eq!(policy.upstream.timeouts.connect, Duration::from_millis(250));
    assert_eq!(policy.upstream.buffer, Buffer { request: 1_024_000, response: 2 << 20 });
    assert_eq!(policy.admission.mode, Mode::Fixed(0.125));
    assert_eq!(policy.admission.order, Order::Lottery);
    assert_eq!(policy.admission.queue_wait, Duration::from_micros(100_100));
    assert_eq!(policy.session.not_before, Some(UnixTime::from_millis(1_769_839_200_250)));
    assert_eq!(policy.session.domain.as_deref(), Some("example.org"));
    assert_eq!(policy.routes.list()[0], Route { path: "/a\"\\\\{b,c}*".to_owned(), gated: true, signal: false });
    assert_eq!(policy.routes.list()[1], Route { path: "/ü/**".to_owned(), gated: false, signal: true });
    assert_eq!(policy.waiting_room.status, 429);
    assert_eq!(policy.waiting_room.template.as_deref(), Some(Path::new("/etc/gate/./room.html")));
    assert!(!policy.email_queue.enabled);
    assert_eq!(policy.invitations.site_url.as_deref(), Some("https://www.example.org"));
    assert_eq!(policy.invitations.templates.as_deref(), Some(Path::new("/etc/gate/letters")));
    let outgoing = policy.invitations.outgoing().unwrap();
    assert_eq!((outgoing.site_url, outgoing.from.name.as_deref()), ("https://www.example.org", Some("Bürger")));
    let Delivery::Smtp { server, login } = outgoing.delivery else { panic!("{outgoing:?}") };
    assert_eq!((server.host.as_str(), server.port, server.security), ("mail.example.org", 465, Security::Tls));
    let login = login.as_ref().unwrap();
    assert_eq!((login.username.as_str(), login.password_file.as_path()), ("portal", Path::new("/etc/gate/secrets/smtp")));
    assert_eq!(policy.invitations.settle, Duration::ZERO);
    assert_eq!(policy.bypass.revoked, [Revoked::Pass(1), Revoked::Batch(15)]);
    assert_eq!(policy.client.trusted_proxies.len(), 3);
    assert_eq!(policy.limits.header_bytes, 8192);
    assert_eq!(policy.shutdown, Shutdown { delay: Duration::ZERO, deadline: Duration::from_secs(60) });
    assert_eq!(policy.log, Log { format: LogFormat::Json, access: 0.01 });
}

#[test]
fn the_effective_policy_reads_back_as_the_same_policy() {
    let spool = format!("{LEAST}invitations: {{ spool: out, from: a@b, site_url: http://a }}\n");
    let https = "upstream: { servers: [https://a] }";
    for text in [LEAST, FULL, EXAMPLE, &spool, https, &format!("{LEAST}routes: []\nlog: {{ access: all, format: text }}\n")] {
        let first = policy(text);
        let printed = effective(&first);
        let second = policy(&printed);
        assert_same(&first, &second);
        assert_eq!(printed, effective(&second));
    }
}

#[test]
fn the_full_file_differs_from_the_defaults_in_every_key() {
    let (full, least) = (effective(&policy(FULL)), effective(&policy(LEAST)));
    let lines: BTreeSet<&str> = least.lines().filter(|line| !line.ends_with(':')).collect();
    // two keys of the same name and depth may have each other's default, and of two that exclude each other one is not set
    let same: Vec<&str> = full.lines().filter(|line| lines.contains(line)).collect();
    assert_eq!(same, ["  order: lottery", "  spool: null"]);
}

#[test]
fn sections_without_a_value_are_left_at_their_defaults_and_lists_are_empty() {
    let text = format!("{LEAST}session:\nlimits: null\nroutes:\nbypass: {{ revoked: null, not_before: }}\nadmin: {{ token_file: ~ }}\n");
    let read = policy(&text);
    assert_eq!(read.routes.list(), []);
    assert_eq!(read.session, policy(LEAST).session);
}

#[test]
fn a_byte_order_mark_and_document_markers_are_taken() {
    policy(&format!("\u{feff}---\n{LEAST}...\n"));
}

#[test]
fn ports_that_the_system_chooses_may_be_the_same() {
    policy(&format!("{LEAST}listen: {{ http: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n"));
}

#[test]
fn a_mapped_loopback_address_is_loopback() {
    policy(&format!("{LEAST}admin: {{ listen: \"[::ffff:127.0.0.1]:9090\" }}\n"));
}

// what is refused

#[test]
fn a_proxy_header_is_believed_of_somebody() {
    let expected = |place: &str| {
        format!("gate.yaml:{place}: listen.proxy_protocol: true needs client.trusted_proxies: nobody else's PROXY header is believed")
    };
    assert_eq!(errors_beside("listen: { proxy_protocol: true }"), expected("1:27"));
    assert_eq!(errors_beside("client: { trusted_proxies: [] }\nlisten:\n  proxy_protocol: true"), expected("3:19"));
    assert_eq!(errors_beside("listen: { proxy_protocol: v2 }"), "gate.yaml:1:27: listen.proxy_protocol: \"v2\" is not true or false");
    assert!(
        policy(&format!("{LEAST}listen: {{ proxy_protocol: true }}\nclient: {{ trusted_proxies: [10.0.0.0/8] }}")).listen.proxy_protocol
    );
}

#[test]
fn all_errors_come_at_once_with_their_places_in_block_style() {
    let text = "listen:
  http: localhost
  prot: 80
admission:
  probe_rate: 500
  mode: fast
  mode: auto
upstream:
  servers:
    - http://a
    - https://127.0.0.1
    - http://A:80
waiting_room:
  refresh: 10
  status: 418
routes:
  - path: /a
    gate: closed
  - gate: open
sesion:
  idle: 20m
";
    assert_eq!(
        errors(text),
        "gate.yaml:2:9: listen.http: \"localhost\" is not an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080
gate.yaml:3:3: listen.prot: unknown key
gate.yaml:5:15: admission.probe_rate: 500 is above 100
gate.yaml:6:9: admission.mode: \"fast\" is not one of auto, open, closed, fixed, observe
gate.yaml:7:3: admission.mode: is written twice: first at 6:3
gate.yaml:11:7: upstream.servers[1]: https://127.0.0.1 is spoken to in another way than http://a: write http:// for all servers, or https://
gate.yaml:12:7: upstream.servers[2]: http://A:80 is listed twice
gate.yaml:14:12: waiting_room.refresh: 10 has no unit: write a duration such as 200ms, 10s or 20m
gate.yaml:15:11: waiting_room.status: 418 is not one of 200, 202, 429, 503
gate.yaml:18:11: routes[0].gate: \"closed\" is not one of open, gated
gate.yaml:19:5: routes[1].path: is required: a path such as /static/**
gate.yaml:20:1: sesion: unknown key: did you mean session?"
    );
}

#[test]
fn all_errors_come_at_once_with_their_places_in_flow_style() {
    let text = "{upstream: {servers: [ftp://x, 5], queue: {length: 0}, max_in_fligth: 3},
 session: {idle: 1s, idle: 2s, limit: true}, log: [], routes: [{path: x, signal: no}, 7]}";
    assert_eq!(
        errors(text),
        "gate.yaml:1:23: upstream.servers[0]: \"ftp://x\" does not start with http:// or https://
gate.yaml:1:32: upstream.servers[1]: 5 is not a server such as http://127.0.0.1:3000
gate.yaml:1:52: upstream.queue.length: 0 is below 1
gate.yaml:1:56: upstream.max_in_fligth: unknown key: did you mean max_in_flight?
gate.yaml:2:18: session.idle: 1s is below session.active, which is 1m
gate.yaml:2:22: session.idle: is written twice: first at 2:12
gate.yaml:2:39: session.limit: true is not a duration such as 200ms, 10s or 20m
gate.yaml:2:51: log: is a list: a map of keys and values is expected
gate.yaml:2:71: routes[0].path: \"x\" does not start with /
gate.yaml:2:82: routes[0].signal: \"no\" is not true or false
gate.yaml:2:87: routes[1]: is a number: a map of keys and values is expected
gate.yaml:2:87: routes[1].path: is required: a path such as /static/**"
    );
}

#[test]
fn an_empty_file_lacks_the_servers() {
    for text in ["", "\n\n", "# nothing\n", "---\n", "null\n", "{}", "upstream:\n"] {
        assert!(
            errors(text).ends_with(": upstream.servers: is required: the servers of the site, as in [http://127.0.0.1:3000]"),
            "{text}"
        );
    }
    assert!(errors("").starts_with("gate.yaml:1:1: "));
    assert!(errors("upstream: { servers: [] }").ends_with("1:22: upstream.servers: 0 entries are below 1"));
}

#[test]
fn a_file_that_is_no_map_is_refused() {
    assert!(errors("5").starts_with("gate.yaml:1:1: is a number: a map"), "{}", errors("5"));
    assert!(errors("- a").starts_with("gate.yaml:1:1: is a list: a map"), "{}", errors("- a"));
}

#[test]
fn unknown_keys_are_found_wherever_they_are() {
    for (text, expected) in [
        ("max_in_flight: 3", "1:1: max_in_flight: unknown key: did you mean upstream.max_in_flight?"),
        ("session:\n  refresh: 3s", "2:3: session.refresh: unknown key: did you mean waiting_room.refresh?"),
        ("admission.mode: auto", "1:1: \"admission.mode\": unknown key"),
        ("bypass: { nonsense: 1 }", "1:11: bypass.nonsense: unknown key"),
        ("routes:\n- { path: /a, gat: open }", "2:15: routes[0].gat: unknown key: did you mean gate?"),
        ("<<: { a: b }", "1:1: \"<<\": unknown key"),
        ("\"a\\nb\": 1", "1:1: \"a\\nb\": unknown key"),
        ("7: 1", "1:1: 7: unknown key"),
        ("invitations: { password: hunter2 }", "1:16: invitations.password: unknown key"),
    ] {
        assert_eq!(errors_beside(text), format!("gate.yaml:{expected}"));
    }
}

#[test]
fn a_key_that_the_readers_read_differently_has_the_place_of_its_section() {
    assert_eq!(errors_beside("log:\n  { ?forma: text }"), "gate.yaml:1:1: log.forma: unknown key: did you mean format?");
}

#[test]
fn repeated_keys_are_refused_whatever_they_are_in() {
    for (text, expected) in [
        ("data: a\ndata: b", "2:1: data: is written twice: first at 1:1"),
        ("log: { format: json }\nlog: { access: all }", "2:1: log: is written twice: first at 1:1"),
        ("routes:\n- path: /a\n  path: /b", "3:3: routes[0].path: is written twice: first at 2:3"),
    ] {
        assert_eq!(errors_beside(text), format!("gate.yaml:{expected}"));
    }
    let three = errors_beside("data: a\ndata: b\ndata: c");
    assert_eq!(three.lines().count(), 2, "{three}");
}

#[test]
fn each_bound_is_held() {
    for (text, expected) in [
        ("listen: { workers: 0 }", "listen.workers: 0 is below 1"),
        ("listen: { workers: 1025 }", "listen.workers: 1025 is above 1024"),
        ("listen: { workers: many }", "listen.workers: \"many\" is neither auto nor a whole number"),
        ("admission: { queue_wait: 0s }", "admission.queue_wait: 0s is below 1ms"),
        ("admission: { queue_wait: 11s }", "admission.queue_wait: 11s is above 10s"),
        ("admission: { probe_rate: 0 }", "admission.probe_rate: 0 is below 0.001"),
        ("admission: { probe_rate: .inf }", "admission.probe_rate: inf is not a finite number"),
        ("admission: { probe_rate: .nan }", "admission.probe_rate: NaN is not a finite number"),
        ("admission: { probe_rate: fast }", "admission.probe_rate: \"fast\" is not a finite number"),
        ("admission: { mode: fixed, probability: 1.1 }", "admission.probability: 1.1 is above 1"),
        ("admission: { mode: fixed, probability: -0.1 }", "admission.probability: -0.1 is below 0"),
        ("admission: { order: random }", "admission.order: \"random\" is not one of lottery, arrival"),
        ("session: { active: 0s }", "session.active: 0s is below 1s"),
        ("session: { active: 2h }", "session.active: 2h is above 1h"),
        ("session: { idle: 31d }", "session.idle: 31d is above 30d"),
        ("session: { limit: 31d }", "session.limit: 31d is above 30d"),
        ("session: { in_flight: 0 }", "session.in_flight: 0 is below 1"),
        ("session: { in_flight: 100001 }", "session.in_flight: 100001 is above 100000"),
        ("session: { in_flight: -1 }", "session.in_flight: -1 is below 1"),
        ("session: { in_flight: 2.5 }", "session.in_flight: 2.5 is not a whole number"),
        ("session: { in_flight: \"8\" }", "session.in_flight: \"8\" is not a whole number"),
        ("session: { in_flight: 99999999999999999999999999999999999999999 }", "is not a whole number"),
        ("session: { rate: 0 }", "session.rate: 0 is below 1"),
        ("session: { rate: 99999999999 }", "session.rate: 99999999999 is above 1000000"),
        ("session: { domain: not a host }", "session.domain: \"not a host\" is not a host name such as example.org"),
        ("session: { not_before: 2026-01-31 }", "session.not_before: \"2026-01-31\" is not a time after 1970"),
        ("routes: [{ path: \"/[\" }]", "routes[0].path: \"/[\" is not a path pattern: "),
        ("routes: [{ path: /a, gate: null }]", "routes[0].gate: has no value"),
        ("waiting_room: { refresh: 0.5s }", "waiting_room.refresh: 500ms is below 1s"),
        ("waiting_room: { refresh: 61s }", "waiting_room.refresh_max: 1m is below waiting_room.refresh, which is 61s"),
        ("waiting_room: { refresh_max: 11m }", "waiting_room.refresh_max: 11m is above 10m"),
        ("waiting_room: { status: 500 }", "waiting_room.status: 500 is not one of 200, 202, 429, 503"),
        ("waiting_room: { template: '' }", "waiting_room.template: is empty: a path is expected"),
        ("email_queue: { enabled: yes }", "email_queue.enabled: \"yes\" is not true or false"),
        ("email_queue: { retention: 59m }", "email_queue.retention: 59m is below 1h"),
        ("email_queue: { retention: 3651d }", "email_queue.retention: 3651d is above 3650d"),
        ("email_queue: { posts_per_client: 0 }", "email_queue.posts_per_client: 0 is below 1"),
        ("email_queue: { addresses_per_ticket: 1001 }", "email_queue.addresses_per_ticket: 1001 is above 1000"),
        ("invitations: { below: 1.5 }", "invitations.below: 1.5 is above 1"),
        ("invitations: { settle: 25h }", "invitations.settle: 25h is above 1d"),
        ("invitations: { rate: 0 }", "invitations.rate: 0 is below 0.001"),
        ("invitations: { share: -1 }", "invitations.share: -1 is below 0"),
        ("invitations: { expected_redemption: 2 }", "invitations.expected_redemption: 2 is above 1"),
        ("invitations: { expires: 59s }", "invitations.expires: 59s is below 1m"),
        ("invitations: { from: nobody }", "invitations.from: \"nobody\" is not a sender"),
        ("invitations: { site_url: example.org }", "invitations.site_url: \"example.org\" is not a URL"),
        (
            "invitations: { smtp: smtp://a:0, from: a@b, site_url: http://a }",
            "invitations.smtp: is not smtp://host:port or smtps://host:port",
        ),
        ("invitations: { spool: '', from: a@b, site_url: http://a }", "invitations.spool: is empty: a path is expected"),
        ("invitations: { templates: [] }", "invitations.templates: is a list: a path is expected"),
        ("bypass: { revoked: [1234567890123456] }", "bypass.revoked[0]: a number: write the id in quotes"),
        ("bypass: { revoked: x }", "bypass.revoked: is a text: a list is expected"),
        ("client: { trusted_proxies: [10.0.0.1/8] }", "client.trusted_proxies[0]: 10.0.0.1/8 is an address within a network"),
        ("limits: { connections: 9 }", "limits.connections: 9 is below 10"),
        ("limits: { connections_per_client: 0 }", "limits.connections_per_client: 0 is below 1"),
        ("limits: { header_bytes: 8191 }", "limits.header_bytes: 8191 is below 8KiB"),
        ("limits: { header_bytes: 2MiB }", "limits.header_bytes: 2MiB is above 1MiB"),
        ("limits: { header_bytes: -1 }", "limits.header_bytes: -1 is below 8KiB"),
        ("limits: { header_bytes: 32KB }", "limits.header_bytes: \"32KB\" has an unknown unit"),
        ("limits: { header_bytes: 8192.5 }", "limits.header_bytes: 8192.5 is not a size"),
        ("limits: { header_timeout: 99ms }", "limits.header_timeout: 99ms is below 100ms"),
        ("limits: { body_timeout: 61m }", "limits.body_timeout: 61m is above 1h"),
        ("limits: { min_rate: 2MiB }", "limits.min_rate: 2MiB is above 1MiB"),
        ("limits: { idle_timeout: 0s }", "limits.idle_timeout: 0s is below 100ms"),
        ("limits: { upgrades: -1 }", "limits.upgrades: -1 is below 0"),
        ("limits: { upgrades: 1000001 }", "limits.upgrades: 1000001 is above 1000000"),
        ("limits: { upgrade_idle: 99ms }", "limits.upgrade_idle: 99ms is below 100ms"),
        ("limits: { upgrade_idle: 25h }", "limits.upgrade_idle: 25h is above 1d"),
        ("limits: { buffer_memory: 512KiB }", "limits.buffer_memory: 512KiB is below 1MiB"),
        ("limits: { tickets_per_client: 0 }", "limits.tickets_per_client: 0 is below 1"),
        ("shutdown: { delay: -1s }", "shutdown.delay: \"-1s\" does not start with a number"),
        ("shutdown: { deadline: 61m }", "shutdown.deadline: 61m is above 1h"),
        ("log: { format: xml }", "log.format: \"xml\" is not one of auto, json, text"),
        ("log: { access: 1.01 }", "log.access: 1.01 is above 1"),
        ("log: { access: false }", "log.access: false is not off, all or a share such as 0.01"),
        ("data:", "data: has no value"),
        ("data: 5", "data: is a number: a path is expected"),
    ] {
        let errors = errors_beside(text);
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}\n{errors}");
    }
}

#[test]
fn each_listener_has_a_place_for_whom_it_waits() {
    let limits = "limits: { connections: 15 }";
    let tls = "https: { address: 127.0.0.1:8443, certificate: a, key: b }";
    for listen in ["workers: 15".to_owned(), format!("workers: 7, {tls}"), "workers: auto".to_owned()] {
        assert_eq!(policy(&format!("listen: {{ {listen} }}\n{limits}\n{LEAST}")).limits.connections, 15, "{listen}");
    }
    for listen in ["workers: 16".to_owned(), format!("workers: 8, {tls}")] {
        let errors = errors_beside(&format!("listen: {{ {listen} }}\n{limits}"));
        assert!(errors.contains("limits.connections: 15 is below 16, one for each listener"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn each_bound_of_the_upstream_is_held() {
    for (text, expected) in [
        ("http2: always", "upstream.http2: \"always\" is not one of auto, off"),
        ("max_in_flight: 0", "upstream.max_in_flight: 0 is below 1"),
        ("max_in_flight: 100001", "upstream.max_in_flight: 100001 is above 100000"),
        ("max_in_flight: many", "upstream.max_in_flight: \"many\" is neither auto nor a whole number"),
        ("queue: { deadline: 31s }", "upstream.queue.deadline: 31s is above 30s"),
        ("queue: { length: 1000001 }", "upstream.queue.length: 1000001 is above 1000000"),
        ("timeouts: { connect: 61s }", "upstream.timeouts.connect: 61s is above 1m"),
        ("timeouts: { response: 0s }", "upstream.timeouts.response: 0s is below 100ms"),
        ("timeouts: { idle: 2h }", "upstream.timeouts.idle: 2h is above 1h"),
        ("buffer: { request: 0 }", "upstream.buffer.request: 0 is below 4KiB"),
        ("buffer: { response: 1GiB }", "upstream.buffer.response: 1GiB is above 64MiB"),
    ] {
        let errors = errors(&format!("upstream: {{ servers: [http://a], {text} }}"));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}\n{errors}");
    }
}

#[test]
fn tls_to_the_site_is_set_up_whole_and_only_for_servers_that_speak_it() {
    assert_eq!(policy("upstream: { servers: [https://a], tls: }").upstream.tls, Some(UpstreamTls::default()));
    for text in ["", ", tls:", ", tls: { }", ", tls: { ca: null, key: ~ }"] {
        assert_eq!(policy(&format!("upstream: {{ servers: [http://a]{text} }}")).upstream.tls, None, "{text}");
    }
    for (text, expected) in [
        ("[https://a], tls: { certificate: a }", "upstream.tls.certificate: needs upstream.tls.key beside it"),
        ("[https://a], tls: { key: a }", "upstream.tls.key: needs upstream.tls.certificate beside it"),
        ("[https://a], tls: { server_name: 5 }", "upstream.tls.server_name: 5 is not a host name or an IP address, such as app.internal"),
        ("[https://a], tls: { verify: false }", "upstream.tls.verify: unknown key"),
        ("[http://a], tls: { ca: a }", "upstream.tls.ca: is for servers named https://, and upstream.servers are in plaintext"),
        (
            "[http://a], tls: { server_name: a }",
            "upstream.tls.server_name: is for servers named https://, and upstream.servers are in plaintext",
        ),
        ("[http://a], tls: { key: a }", "upstream.tls.key: needs upstream.tls.certificate beside it"),
        (
            "[https://a, http://b]",
            "upstream.servers[1]: http://b is spoken to in another way than https://a: write http:// for all servers, or https://",
        ),
        ("[https://a, https://A:443]", "upstream.servers[1]: https://A:443 is listed twice"),
    ] {
        let errors = errors(&format!("upstream: {{ servers: {text} }}"));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}\n{errors}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (text, expected) in [
        ("admission: { mode: fixed }", "1:20: admission.mode: fixed needs admission.probability beside it"),
        ("admission: { probability: 0.5 }", "1:27: admission.probability: only mode fixed takes one, and the mode is auto"),
        ("admin: { listen: 0.0.0.0:9090 }", "1:18: admin.listen: 0.0.0.0:9090 is not a loopback address: admin.token_file is required"),
        ("admin: { listen: 127.0.0.1:8080 }", "1:18: admin.listen: 127.0.0.1:8080 is listen.http too"),
        ("session: { limit: 10m }", "1:19: session.limit: 10m is below session.idle, which is 20m"),
        ("session: { idle: 30s, active: 1m }", "1:18: session.idle: 30s is below session.active, which is 1m"),
        ("invitations: { smtp: smtp://a, from: a@b }", "1:22: invitations.smtp: needs invitations.site_url beside it"),
        ("invitations: { spool: a, from: a@b }", "1:23: invitations.spool: needs invitations.site_url beside it"),
        ("invitations: { spool: a, site_url: http://a }", "1:23: invitations.spool: needs invitations.from beside it"),
        (
            "invitations: { smtp: smtp://a, spool: a, from: a@b, site_url: http://a }",
            "1:39: invitations.spool: excludes invitations.smtp: write one of them",
        ),
        (
            "invitations: { smtp: smtp+plaintext://a, username: a, password_file: a, from: a@b, site_url: http://a }",
            "1:52: invitations.username: would go over the network in plaintext: write smtps://, or smtp:// for STARTTLS",
        ),
        ("invitations: { password_file: a }", "1:31: invitations.password_file: needs invitations.username beside it"),
    ] {
        assert_eq!(errors_beside(text), format!("gate.yaml:{expected}"));
    }
    let memory = errors("upstream: { servers: [http://a], buffer: { request: 2MiB } }\nlimits: { buffer_memory: 1MiB }");
    assert_eq!(memory, "gate.yaml:2:26: limits.buffer_memory: 1MiB is below upstream.buffer.request, which is 2MiB");
}

#[test]
fn a_faulty_value_is_not_reported_again_through_its_stand_in() {
    let errors = errors_beside("session: { idle: soon, limit: 5m }\nadmission: { mode: fxied, probability: 0.5 }");
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn https_needs_an_address_and_files_that_go_together() {
    let needs = |key: &str, what: &str| format!("gate.yaml:1:11: listen.https.{key}: is required: {what}");
    let (address, files) =
        ("an IP address and a port, such as 0.0.0.0:8443", "the file of the certificate and those that vouch for it, in PEM");
    let key = "the file of its private key, in PEM";
    let all = [needs("address", address), needs("certificate", files), needs("key", key)].join("\n");
    assert_eq!(errors_beside("listen: { https: { } }"), all);
    assert_eq!(
        errors_beside(
            "listen: { https: { address: 127.0.0.1:8080, certificate: a, key: b, certificates: [{ key: c }], redirect: [\"a/b\"] } }"
        ),
        "gate.yaml:1:29: listen.https.address: 127.0.0.1:8080 is listen.http too\n\
         gate.yaml:1:84: listen.https.certificates[0].certificate: is required: the file of the certificate and those that vouch for it, \
         in PEM\n\
         gate.yaml:1:108: listen.https.redirect[0]: \"a/b\" is not a host such as www.example.org"
    );
    let both = "listen: { https: { address: 127.0.0.1:9090, certificate: a, key: b } }";
    assert_eq!(errors_beside(both), "gate.yaml:1:1: admin.listen: 127.0.0.1:9090 is listen.https.address too");
    assert_eq!(policy(&format!("{LEAST}listen: {{ https: }}")).listen.https, None);
}

#[test]
fn no_message_holds_a_secret() {
    for text in [
        "invitations: { smtp: \"smtp://portal:hunter2@mail\" }",
        "invitations: { smtp: hunter2 }",
        "invitations: { password: hunter2 }",
        "invitations: { password_file: [hunter2] }",
        "invitations: { password_file: {hunter2: 1} }\nadmin: { token_file: [hunter2] }",
        "invitations: { username: [hunter2] }",
        "admin: { token_file: \"hunter2\\n\" }",
        "admin: hunter2",
        "admin: [hunter2]",
        "admin: { token_file: hunter2: }",
        "admin: { token_file: !secret hunter2 }",
        "admin: { token_file: *hunter2 }",
        "admin: { token_file: \"hunter2 }",
        "admin: { token_file: !!int hunter2 }",
        "admin: { token_file: !!binary hunter2 }",
        "password: |\n hunter2\n\thunter2: 3",
    ] {
        let errors = errors_beside(text);
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}

// what is not YAML, or more than a moment's work

#[test]
fn tabs_are_refused_with_their_place() {
    let errors = errors("upstream:\n\tservers: [http://a]\n");
    assert!(errors.starts_with("gate.yaml:2:"), "{errors}");
}

#[test]
fn broken_yaml_is_refused_with_its_place() {
    for (text, start) in [
        ("upstream: [", "gate.yaml:"),
        ("a: b: c", "gate.yaml:1:"),
        ("a: \"\\q\"", "gate.yaml:1:"),
        ("[a]: 1", "gate.yaml:1:"),
        ("a: !tag x", "gate.yaml:1:"),
    ] {
        let errors = errors(text);
        assert!(errors.starts_with(start) && errors.contains(": not valid YAML: ") && errors.lines().count() == 1, "{text}: {errors}");
    }
}

#[test]
fn a_second_document_is_refused() {
    assert_eq!(errors("a: 1\n---\nb: 2\n"), "gate.yaml:3:1: a second YAML document: the file is to hold one");
}

#[test]
fn anchors_aliases_and_bombs_are_refused() {
    let bomb: String = (1..20).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(9))).collect();
    for text in ["a: &x 1\nb: *x\n", "a: *x\n", &format!("a0: &a0 x\n{bomb}")] {
        assert!(errors(text).contains("anchors (&) and aliases (*) are not taken here"), "{}", errors(text));
    }
}

#[test]
fn deep_nesting_is_refused_before_it_costs_anything() {
    // quadratic in the second reader: minutes, if it ever got there
    for text in ["[".repeat(500_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let errors = errors(&text);
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let nested: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(errors(&nested).contains("nested deeper than 12"), "{}", errors(&nested));
}

#[test]
fn more_values_than_any_policy_has_are_refused() {
    assert!(errors(&"- a\n".repeat(200_000)).ends_with("holds more than 50000 keys and values"));
}

#[test]
fn a_file_full_of_errors_is_cut() {
    let text: String = (0..5000).map(|i| format!("key{i}: 1\n")).collect();
    let errors = errors(&text);
    assert_eq!(errors.lines().count(), 101);
    assert!(errors.ends_with("and 4901 more"), "{errors}");
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    let text = format!("bypass: {{ revoked: [{}] }}", "batch-00000001,".repeat(10_001));
    assert!(errors_beside(&text).contains("bypass.revoked: 10001 entries are above 10000"));
}

// files

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join("gate.yaml");
        fs::write(&file, bytes).unwrap();
        file
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_file_is_read_and_its_paths_start_from_its_directory() {
    let directory = Directory::new("paths");
    let file = directory.write(format!("{LEAST}waiting_room: {{ template: room.html }}\nadmin: {{ token_file: /run/token }}\n"));
    let policy = load(&file).unwrap();
    assert_eq!(policy.data, directory.0.join("data"));
    assert_eq!(policy.waiting_room.template, Some(directory.0.join("room.html")));
    assert_eq!(policy.admin.token_file, Some("/run/token".into()));
}

#[test]
fn a_missing_file_is_named() {
    let directory = Directory::new("missing");
    let file = directory.0.join("gate.yaml");
    let errors = load(&file).unwrap_err().to_string();
    assert!(errors.starts_with(&format!("{}: can't be read: ", file.display())), "{errors}");
    assert!(load(&directory.0).unwrap_err().to_string().contains("can't be read"));
}

#[test]
fn a_file_that_is_not_utf8_is_refused_with_the_place() {
    let directory = Directory::new("utf8");
    let file = directory.write(b"data: a\nlog: \xff\n");
    assert_eq!(load(&file).unwrap_err().to_string(), format!("{}:2:6: is not UTF-8", file.display()));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let directory = Directory::new("size");
    let mut text = LEAST.to_owned();
    text.push('#');
    text.push_str(&" ".repeat(FILE_BYTES_MAX - text.len()));
    load(&directory.write(&text)).unwrap();
    text.push(' ');
    assert!(load(&directory.write(&text)).unwrap_err().to_string().contains("above 1048576"));
}

#[test]
fn where_the_operator_comes_in_is_known_of_a_faulty_file_too() {
    let directory = Directory::new("admin");
    let admin_of = |text: &str| {
        let (admin, errors) = admin(&directory.write(text));
        (admin.listen.to_string(), errors.map_or(0, |errors| errors.problems().len()))
    };
    let own = "admin: { listen: 127.0.0.1:9191 }\n";
    assert_eq!(admin_of(&format!("{LEAST}{own}")), ("127.0.0.1:9191".to_owned(), 0));
    assert_eq!(admin_of(&format!("{own}upstream: {{ servers: [] }}\nadmission: {{ mode: ajar }}\nspeling: 1\n")).0, "127.0.0.1:9191");
    assert_eq!(admin_of(&format!("{LEAST}admin: {{ listen: here }}\n")), ("127.0.0.1:9090".to_owned(), 1));
    assert_eq!(admin_of(&format!("{own}upstream: [\n")), ("127.0.0.1:9090".to_owned(), 1));
    fs::remove_file(directory.0.join("gate.yaml")).unwrap();
    let (admin, errors) = admin(&directory.0.join("gate.yaml"));
    assert_eq!((admin.listen.to_string().as_str(), errors.is_some()), ("127.0.0.1:9090", true));
}

// restarts

#[test]
fn only_what_a_running_gate_cannot_follow_needs_a_restart() {
    let old = policy(LEAST);
    assert_eq!(needs_restart(&old, &policy(&format!("{LEAST}log: {{ access: all }}\n"))), Vec::<String>::new());
    let text = "listen: { http: 127.0.0.1:81, workers: 2 }\nadmin: { listen: 127.0.0.1:82 }\ndata: other\nlog: { format: json }\n";
    assert_eq!(
        needs_restart(&old, &policy(&format!("{text}{LEAST}"))),
        [
            "listen.http: 127.0.0.1:8080 → 127.0.0.1:81 needs a restart",
            "listen.workers: auto → 2 needs a restart",
            "admin.listen: 127.0.0.1:9090 → 127.0.0.1:82 needs a restart",
            "data: /etc/gate/data → /etc/gate/other needs a restart",
            "log.format: auto → json needs a restart",
        ]
    );
}

// the example

/// The example with every setting that is commented out switched on.
fn example_in_full() -> String {
    EXAMPLE
        .lines()
        .map(|line| {
            let Some((indent, comment)) = line.split_once("# ") else { return line.to_owned() };
            let key = comment.trim_start_matches("- { ").split_once(": ").map(|(key, _)| key).or_else(|| comment.strip_suffix(':'));
            let is_key = key.is_some_and(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            let is_setting =
                indent.chars().all(|c| c == ' ') && !indent.is_empty() && is_key && !PROSE.iter().any(|p| comment.starts_with(p));
            if is_setting { format!("{indent}{comment}") } else { line.to_owned() }
        })
        // the settings that contradict the default of another
        .map(|line| match line.as_str() {
            "  mode: auto" => "  mode: fixed".to_owned(),
            "  servers: [http://127.0.0.1:3000]" => "  servers: [https://127.0.0.1:3000]".to_owned(),
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Comments that begin as a setting does.
const PROSE: &[&str] = &["auto: ", "fixed: ", "gate: open lets", "signal: false: "];

/// Every path to a key, without the numbers of list items.
fn keys(written: &Written, path: &str, into: &mut BTreeSet<String>) {
    match written {
        Written::Map(entries) => {
            for (key, value) in entries {
                let path = locate::key_path(path, key);
                keys(value, &path, into);
                into.insert(path);
            }
        }
        Written::List(items) => items.iter().for_each(|item| keys(item, &format!("{path}[]"), into)),
        Written::Null | Written::Bool(_) | Written::Whole(_) | Written::Float(_) | Written::Text(_) => {}
    }
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    let text = example_in_full();
    // no key of it is unknown to the code; two of them exclude each other
    let excluded = "  spool: outgoing\n";
    assert!(text.contains(excluded));
    let full = policy(&text.replace(excluded, ""));
    assert_eq!(full.admission.mode, Mode::Fixed(0.25));
    let (places, written) = read(&text, "gate.yaml").unwrap();
    let mut shown = BTreeSet::new();
    keys(&written, "", &mut shown);

    // and every key that the code asks for is in it
    let mut reading = Reading::new("gate.yaml", places);
    validate::sections(&mut reading, &written, Path::new(""));
    let without_number = |part: &str| part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
    let without_numbers = |path: &String| path.split('[').map(without_number).collect::<Vec<_>>().join("[");
    let known: BTreeSet<String> = reading.known().iter().map(without_numbers).collect();
    assert_eq!(known, shown);

    // and what is printed has them all too
    let (_, printed) = read(&effective(&full), "effective").unwrap();
    let mut effective_keys = BTreeSet::new();
    keys(&printed, "", &mut effective_keys);
    assert_eq!(effective_keys, shown);
}

#[test]
fn every_setting_of_the_example_has_a_comment() {
    let lines: Vec<&str> = EXAMPLE.lines().map(str::trim_start).collect();
    for pair in lines.windows(2) {
        let is_setting = !pair[1].is_empty() && !pair[1].starts_with('#') && !pair[1].ends_with(':');
        assert!(!is_setting || pair[0].starts_with('#'), "{}", pair[1]);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,200}") {
        prop_assert!(parse(&text, "gate.yaml", Path::new("")).is_err());
    }

    #[test]
    fn no_mangled_file_makes_it_panic(
        cuts in proptest::collection::vec((0_usize..FULL.len(), 0_usize..12, "[\\[\\]{}:,&*!|>'\"%@`#\\-? \n\ta0.]{0,3}"), 1..5),
    ) {
        let mut text = FULL.to_owned();
        for (at, length, with) in cuts {
            let from = text.floor_char_boundary(at.min(text.len()));
            let to = text.floor_char_boundary((from + length).min(text.len()));
            text.replace_range(from..to, &with);
        }
        if let Ok(policy) = parse(&text, "gate.yaml", Path::new("/")) {
            let printed = effective(&policy);
            let again = parse(&printed, "effective", Path::new("/"));
            prop_assert_eq!(again.map(|again| effective(&again)).map_err(|errors| errors.to_string()), Ok(printed));
        }
    }
}
