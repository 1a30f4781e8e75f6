//! Connections that a load balancer has passed on: whom they come from is what its PROXY header says, and only what its header says.

use std::fs;

use crate::support::{Answer, Client, Seen, Upstream, World, request, until};

const BROWSER: &str = "Accept: text/html";
const LOCAL: &str = "client: { trusted_proxies: [127.0.0.1] }\nlisten: { proxy_protocol: true }\n";

/// A site, and a gate in front of it that lets everyone in.
struct Passed {
    site: Upstream,
    world: World,
}

impl Passed {
    fn start(more: &str) -> Self {
        let site = Upstream::answering("the site");
        let world = World::open(&site.url(), more);
        Self { site, world }
    }

    /// What the site reads of a request that comes behind these bytes, in one write.
    #[track_caller]
    fn relayed(&self, header: impl AsRef<[u8]>, lines: &[&str]) -> Seen {
        let before = self.site.seen().len();
        let mut client = self.world.client();
        client.send([header.as_ref(), request("GET", "/", lines).as_bytes()].concat());
        assert_eq!(client.answer().text(), "the site");
        // the next request on the connection comes from the same client, and needs no header
        assert_eq!(client.get("/next", lines).text(), "the site");
        let mut seen = self.site.requests(before + 2);
        let second = seen.remove(before + 1);
        let first = seen.remove(before);
        assert_eq!((first.target.as_str(), second.target.as_str()), ("/", "/next"));
        assert_eq!(first.header("x-forwarded-for"), second.header("x-forwarded-for"));
        first
    }

    /// Who the site takes for the client.
    #[track_caller]
    fn client_of(&self, header: impl AsRef<[u8]>) -> String {
        self.relayed(header, &[]).all("x-forwarded-for").join("|")
    }

    /// Such a connection is closed without a word.
    #[track_caller]
    fn closed(&self, name: &str, mut client: Client) {
        let said = client.end().unwrap_or_default();
        assert!(said.is_empty(), "{name}: {}", String::from_utf8_lossy(&said));
    }

    #[track_caller]
    fn refused(&self, count: usize) {
        // the end of the connection may be seen before the count
        until("the refusal to be counted", || Some(self.world.count(REFUSED)).filter(|&now| now >= count));
        assert_eq!(self.world.count(REFUSED), count);
    }
}

const REFUSED: &str = "tidegate_requests_refused_total{reason=\"proxy_protocol\"}";

/// A header of version 2.
fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, content].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 127, 0, 0, 1, 0xd4, 0x31, 0, 80];
const V6: &[u8] =
    &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xd4, 0x31, 0, 80];

/// PP2_TYPE_SSL of a client that came over TLS 1.3.
const TLS: &[u8] = b"\x20\x00\x0f\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3";

#[test]
fn the_client_is_whom_the_header_names() {
    let gate = Passed::start(LOCAL);
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 54321 80\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 ::1 54321 80\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 54321 80\r\n".to_vec(), "192.0.2.9"),
        (v2(0x21, 0x11, V4), "192.0.2.1"),
        (v2(0x21, 0x21, V6), "2001:db8::1"),
        (v2(0x21, 0x11, &[V4, &b"\x04\x02\x00"[..], &[0; 512]].concat()), "192.0.2.1"),
        // the balancer itself, and clients that it can't name
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
        (v2(0x20, 0x11, V4), "127.0.0.1"),
        (v2(0x21, 0x00, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "127.0.0.1"),
    ] {
        assert_eq!(gate.client_of(&header), client, "{}", header.escape_ascii());
    }
    gate.refused(0);
}

#[test]
fn the_site_is_told_of_the_client_and_of_its_tls() {
    let gate = Passed::start(LOCAL);
    let seen = gate.relayed(v2(0x21, 0x21, V6), &["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "Forwarded: for=1.2.3.4"]);
    assert_eq!(seen.all("x-forwarded-for"), ["2001:db8::1"], "what the client says of itself is not believed");
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("forwarded"), ["for=\"[2001:db8::1]\";host=test;proto=http"]);
    let seen = gate.relayed(v2(0x21, 0x11, &[V4, TLS].concat()), &[]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("forwarded"), ["for=192.0.2.1;host=test;proto=https"]);
    // and the pass is one for TLS
    let mut client = gate.world.client();
    client.send([&v2(0x21, 0x11, &[V4, TLS].concat()), request("GET", "/", &[BROWSER]).as_bytes()].concat());
    let cookie = client.answer().all("set-cookie").concat();
    assert!(cookie.starts_with("__Host-tidegate_pass=") && cookie.contains("; Secure"), "{cookie}");
}

#[test]
fn a_trusted_proxy_behind_the_balancer_is_believed_too() {
    let gate = Passed::start("client: { trusted_proxies: [127.0.0.1, 192.0.2.0/24] }\nlisten: { proxy_protocol: true }\n");
    let lines = ["X-Forwarded-For: 203.0.113.5, 198.51.100.1", "X-Forwarded-Proto: https"];
    let seen = gate.relayed("PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n", &lines);
    assert_eq!(seen.all("x-forwarded-for"), ["203.0.113.5, 198.51.100.1, 192.0.2.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    let seen = gate.relayed("PROXY TCP4 198.51.100.1 127.0.0.1 1 80\r\n", &lines);
    assert_eq!((seen.all("x-forwarded-for"), seen.all("x-forwarded-proto")), (vec!["198.51.100.1"], vec!["http"]));
}

/// The balancer is trusted, and who it can't name is not the balancer.
#[test]
fn who_is_not_named_can_name_nobody() {
    let gate = Passed::start(LOCAL);
    let lines =
        ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "Forwarded: for=203.0.113.5"];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, V4),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        let seen = gate.relayed(&header, &lines);
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"], "{}", header.escape_ascii());
        assert_eq!((seen.all("x-forwarded-proto"), seen.all("x-forwarded-host")), (vec!["http"], vec!["test"]));
        assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=test;proto=http"]);
    }
    // places in the waiting room neither
    let site = Upstream::answering("");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\nlimits: {{ tickets_per_client: 2 }}\n{LOCAL}",
        site.url()
    ));
    let gets_ticket = |number: u8| {
        let mut connection = world.client();
        let line = format!("X-Forwarded-For: 192.0.2.{number}");
        connection.send(format!("PROXY UNKNOWN\r\n{}", request("GET", "/", &[BROWSER, &line])));
        connection.answer().cookie("tidegate_ticket").is_some()
    };
    assert_eq!([1, 2, 3, 4].map(gets_ticket), [true, true, false, false]);
}

#[test]
fn a_header_may_come_in_pieces() {
    let gate = Passed::start(LOCAL);
    let headers = [b"PROXY TCP4 192.0.2.1 127.0.0.1 54321 80\r\n".to_vec(), v2(0x21, 0x11, &[V4, TLS].concat())];
    for header in headers {
        let mut client = gate.world.client();
        for byte in &header {
            client.send([*byte]);
            // asked between two bytes, so that they are read one by one
            gate.world.admin("/healthz");
        }
        assert_eq!(client.get("/", &[]).text(), "the site");
        // in two, the second with the request in it, and with two of them
        for cut in [1, 5, 12, 15, header.len() - 1] {
            let mut client = gate.world.client();
            client.send(&header[..cut]);
            gate.world.admin("/healthz");
            client.send([&header[cut..], request("GET", "/", &[]).as_bytes(), request("GET", "/second", &[]).as_bytes()].concat());
            assert_eq!((client.answer().text(), client.answer().text()), ("the site".to_owned(), "the site".to_owned()));
        }
    }
    assert!(gate.site.seen().iter().all(|seen| seen.header("x-forwarded-for") == Some("192.0.2.1")));
    assert_eq!(gate.site.seen().len(), 22);
    gate.refused(0);
}

#[test]
fn a_large_body_behind_the_header_comes_whole() {
    let gate = Passed::start(LOCAL);
    let body: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let mut client = gate.world.client();
    let head = request("POST", "/", &[&format!("Content-Length: {}", body.len())]);
    client.send([&v2(0x21, 0x11, V4), head.as_bytes(), &body].concat());
    assert_eq!(client.answer().text(), "the site");
    assert_eq!(gate.site.requests(1)[0].body, body);
}

#[test]
fn without_a_header_a_balancers_connection_is_closed_without_a_word() {
    let gate = Passed::start(LOCAL);
    let ordinary = request("GET", "/", &[]).into_bytes();
    let cases: [(&str, Vec<u8>); 9] = [
        ("a request", ordinary.clone()),
        ("a handshake of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("a line with a fault", [b"PROXY TCP4 192.0.2.1 127.0.0.1 054321 80\r\n", ordinary.as_slice()].concat()),
        ("a line without an end", [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat()),
        ("a line that ends too soon", [b"PROXY TCP4 192.0.2.1 127.0.0.1 54321 80\n", ordinary.as_slice()].concat()),
        ("another version", [v2(0x31, 0x11, V4), ordinary.clone()].concat()),
        ("a length that is too large", [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", ordinary.as_slice()].concat()),
        ("fewer bytes than addresses take", [v2(0x21, 0x21, V4), ordinary.clone()].concat()),
        ("a wrong checksum", [v2(0x21, 0x11, &[V4, b"\x03\x00\x04abcd"].concat()), ordinary].concat()),
    ];
    for (count, (name, bytes)) in cases.into_iter().enumerate() {
        let mut client = gate.world.client();
        client.send(bytes);
        gate.closed(name, client);
        gate.refused(count + 1);
    }
    let mut client = gate.world.client();
    client.send("PROXY TCP4 192.0.2.1 127.");
    client.finish();
    gate.closed("half a header", client);
    gate.refused(10);
    // who connects and says nothing has refused nothing: balancers look so whether the port is open
    let client = gate.world.client();
    client.finish();
    gate.closed("nothing", client);
    gate.world.until_status("/connections/open", 0);
    gate.refused(10);
    assert_eq!(gate.site.accepted(), 0);
}

#[test]
fn a_header_that_does_not_come_has_its_time() {
    let gate = Passed::start(&format!("{LOCAL}limits: {{ header_timeout: 300ms }}\n"));
    for (count, bytes) in [&b""[..], b"P", b"PROXY TCP4 192.0.2.1 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01"].into_iter().enumerate() {
        let mut client = gate.world.client();
        client.send(bytes);
        gate.closed(&bytes.escape_ascii().to_string(), client);
        gate.refused(count + 1);
    }
    // nor for one that goes on and on
    let mut client = gate.world.client();
    client.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\x00");
    until("the gate to take no more", || client.try_send([0]).is_err().then_some(()));
    gate.refused(5);
    // in time, and the request has its own time after it
    let mut client = gate.world.client();
    client.send("PROXY TCP4 192.0.2.1 127.0.0.1 54321 80\r\nGET / HTTP/1.1\r\n");
    assert_eq!(client.answer().status, 408);
    assert_eq!(gate.site.accepted(), 0);
}

#[test]
fn a_stranger_names_nobody() {
    let gate = Passed::start("client: { trusted_proxies: [10.0.0.0/8] }\nlisten: { proxy_protocol: true }\n");
    for header in [b"PROXY TCP4 10.0.0.1 127.0.0.1 1 80\r\n".to_vec(), v2(0x21, 0x11, V4)] {
        let mut client = gate.world.client();
        client.try_send([header.as_slice(), request("GET", "/", &[]).as_bytes()].concat()).ok();
        assert_eq!(client.answer().status, 400, "{}", header.escape_ascii());
        client.assert_ends();
    }
    assert_eq!(gate.site.accepted(), 0);
    gate.world.until_metric("tidegate_requests_refused_total{reason=\"bad_request\"}", |count| count == 2.0);
    gate.refused(0);
    assert_eq!(gate.world.get("/", &[]).text(), "the site", "without a header, all is as ever");
    assert_eq!(gate.site.requests(1)[0].header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn it_is_switched_on_and_off_while_the_gate_runs() {
    let gate = Passed::start("");
    let url = gate.site.url();
    let apply = |on: bool| {
        let yaml = format!(
            "upstream: {{ servers: [{url}] }}\nadmission: {{ mode: open }}\nclient: {{ trusted_proxies: [127.0.0.1] }}\n\
             listen: {{ proxy_protocol: {on} }}\n"
        );
        fs::write(gate.world.file(), yaml).unwrap();
        let answer = gate.world.admin_post("/reload", "application/json", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let plain = |answer: Answer| assert_eq!(answer.text(), "the site");
    let mut old = gate.world.client();
    plain(old.get("/", &[]));
    apply(true);
    plain(old.get("/", &[]));
    assert_eq!(gate.client_of("PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n"), "192.0.2.1");
    let mut client = gate.world.client();
    client.send(request("GET", "/", &[]));
    gate.closed("no header", client);
    gate.refused(1);
    apply(false);
    plain(old.get("/", &[]));
    plain(gate.world.get("/", &[]));
    let mut client = gate.world.client();
    client.send("PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n\r\n");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn clients_are_counted_by_the_address_that_is_named() {
    let site = Upstream::answering("");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\nlimits: {{ tickets_per_client: 2 }}\n{LOCAL}",
        site.url()
    ));
    let from = |client: &str| {
        let mut connection = world.client();
        connection.send(format!("PROXY TCP4 {client} 127.0.0.1 1 80\r\n{}", request("GET", "/", &[BROWSER])));
        connection.answer().cookie("tidegate_ticket").is_some()
    };
    assert!(from("192.0.2.1") && from("192.0.2.1"));
    assert!(!from("192.0.2.1"), "one more than there are for it");
    assert!(from("192.0.2.2"), "another has its own");
    assert!(!from("192.0.2.1"));
}
