//! Every key of gate.yaml: its default, its bound, and what it must agree with. Made into a policy that is valid by construction.
//!
//! A default stands in for each faulty value until all are found; a policy leaves this room only if none was.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::rules::policy::{
    Admin, Admission, Buffer, Bypass, CertificateFiles, Client, Delivery, EmailQueue, Https, Invitations, Limits, Listen, Log, LogFormat,
    Login, MaxInFlight, Mode, Order, Policy, Security, Server, Session, Shutdown, SlotQueue, Timeouts, Upstream, UpstreamHttp2,
    UpstreamTls, WaitingRoom,
};
use crate::rules::routes::{Route, Routes};

use super::address::{self, Scheme};
use super::bounds::{self, days, ms, secs};
use super::mirror::Written;
use super::problem::Errors;
use super::section::{Reading, Section};
use super::value::{self, duration, number, print_bytes, ratio, size, truth, whole, word};

/// Reads every section. Paths are taken from `base`.
///
/// # Errors
/// Every fault of the file.
pub(super) fn policy(mut reading: Reading, written: &Written, base: &Path) -> Result<Policy, Errors> {
    let policy = sections(&mut reading, written, base);
    reading.finish()?;
    Ok(policy)
}

/// Reads every section, and notes every fault.
pub(super) fn sections(reading: &mut Reading, written: &Written, base: &Path) -> Policy {
    let mut root = reading.root(written);
    let client = client(root.section("client"));
    let listen = listen(root.section("listen"), &client, base);
    let admin = admin(root.section("admin"), &listen, base);
    let data = root.read("data", base.join("data"), value::path(base));
    let upstream = upstream(root.section("upstream"), base);
    let listeners = listen.workers.map(|workers| workers * listen.listeners_of_worker());
    let policy = Policy {
        listen,
        admin,
        data,
        admission: admission(root.section("admission")),
        session: session(root.section("session")),
        routes: routes(&mut root),
        waiting_room: waiting_room(root.section("waiting_room"), base),
        email_queue: email_queue(root.section("email_queue")),
        invitations: invitations(root.section("invitations"), base),
        bypass: bypass(root.section("bypass")),
        client,
        limits: limits(root.section("limits"), upstream.buffer, listeners),
        shutdown: shutdown(root.section("shutdown")),
        log: log(root.section("log")),
        upstream,
    };
    root.finish();
    policy
}

fn listen(mut section: Section<'_>, client: &Client, base: &Path) -> Listen {
    let http = section.read("http", loopback(8080), address::address);
    let wants_https = section.has("https");
    let https = https(section.section("https"), wants_https, http, base);
    let workers = section.read("workers", None, value::workers);
    let listen = Listen { http, https, workers, proxy_protocol: section.read("proxy_protocol", false, truth) };
    if listen.proxy_protocol && client.trusted_proxies.is_empty() {
        section.fault("proxy_protocol", "true needs client.trusted_proxies: nobody else's PROXY header is believed".to_owned());
    }
    section.finish();
    listen
}

/// Every key is read whether the section is there or not, so that a misspelled one is recognised.
fn https(mut section: Section<'_>, is_there: bool, http: SocketAddr, base: &Path) -> Option<Https> {
    let address = section.optional("address", address::address);
    if is_there && !section.has("address") {
        section.fault("address", "is required: an IP address and a port, such as 0.0.0.0:8443".to_owned());
    }
    if address.is_some_and(|address| address == http && address.port() != 0) {
        section.fault("address", format!("{http} is listen.http too"));
    }
    let first = certificate_files(&mut section, base, is_there);
    let further = section.sections("certificates", bounds::CERTIFICATES, |mut section| {
        let files = certificate_files(&mut section, base, true);
        section.finish();
        files
    });
    let redirect = section.list("redirect", bounds::REDIRECT_HOSTS, address::redirect_host).unwrap_or_default();
    section.finish();
    Some(Https { address: address?, first: first?, further: further.unwrap_or_default().into_iter().flatten().collect(), redirect })
}

/// `certificate` and `key`.
fn certificate_files(section: &mut Section<'_>, base: &Path, required: bool) -> Option<CertificateFiles> {
    let certificate = section.optional("certificate", value::path(base));
    let key = section.optional("key", value::path(base));
    for (name, what) in [("certificate", "the certificate and those that vouch for it"), ("key", "its private key")] {
        if required && !section.has(name) {
            section.fault(name, format!("is required: the file of {what}, in PEM"));
        }
    }
    certificate.zip(key).map(|(certificate, key)| CertificateFiles { certificate, key })
}

fn admin(mut section: Section<'_>, listen: &Listen, base: &Path) -> Admin {
    let admin = Admin {
        listen: section.read("listen", loopback(9090), address::address),
        token_file: section.optional("token_file", value::path(base)),
    };
    if !admin.listen.ip().to_canonical().is_loopback() && !section.has("token_file") {
        section.fault("listen", format!("{} is not a loopback address: admin.token_file is required", admin.listen));
    }
    if admin.listen == listen.http && admin.listen.port() != 0 {
        section.fault("listen", format!("{} is listen.http too", admin.listen));
    }
    if listen.https.as_ref().is_some_and(|https| https.address == admin.listen && https.address.port() != 0) {
        section.fault("listen", format!("{} is listen.https.address too", admin.listen));
    }
    section.finish();
    admin
}

fn upstream(mut section: Section<'_>, base: &Path) -> Upstream {
    let (scheme, servers) = servers(&mut section);
    let upstream = Upstream {
        servers,
        tls: upstream_tls(section.section("tls"), scheme, base),
        http2: section.read("http2", UpstreamHttp2::Auto, word(HTTP2)),
        max_in_flight: section.read("max_in_flight", MaxInFlight::Auto, value::max_in_flight),
        queue: slot_queue(section.section("queue")),
        timeouts: timeouts(section.section("timeouts")),
        buffer: buffer(section.section("buffer")),
    };
    section.finish();
    upstream
}

/// The servers, and how all of them are spoken to; `None` if there is none that can be. What goes to the one in plaintext would not
/// be kept from others by TLS to the next.
fn servers(section: &mut Section<'_>) -> (Option<Scheme>, Vec<Server>) {
    let mut seen = BTreeSet::new();
    let mut first: Option<(Scheme, String)> = None;
    let distinct = |written: &Written| {
        let (scheme, server) = address::server(written)?;
        let (of_all, label) = first.get_or_insert_with(|| (scheme, server.label.clone()));
        if *of_all != scheme {
            return Err(format!("{} is spoken to in another way than {label}: write http:// for all servers, or https://", server.label));
        }
        if seen.insert((server.host.clone(), server.port)) { Ok(server) } else { Err(format!("{} is listed twice", server.label)) }
    };
    let servers = section.list("servers", bounds::SERVERS, distinct);
    let servers = servers.unwrap_or_else(|| {
        section.fault("servers", "is required: the servers of the site, as in [http://127.0.0.1:3000]".to_owned());
        Vec::new()
    });
    (first.map(|(scheme, _)| scheme), servers)
}

/// `None` beside servers in plaintext, where nothing of it may be written: who did so takes them to be verified.
fn upstream_tls(mut section: Section<'_>, scheme: Option<Scheme>, base: &Path) -> Option<UpstreamTls> {
    let ca = section.optional("ca", value::path(base));
    let server_name = section.optional("server_name", address::server_name);
    let certificate = section.optional("certificate", value::path(base));
    let key = section.optional("key", value::path(base));
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(one) && !section.has(other) {
            section.fault(one, format!("needs upstream.tls.{other} beside it"));
        }
    }
    if scheme == Some(Scheme::Http) {
        for name in ["ca", "server_name", "certificate", "key"] {
            if section.has(name) && !section.is_faulty(name) {
                section.fault(name, "is for servers named https://, and upstream.servers are in plaintext".to_owned());
            }
        }
    }
    section.finish();
    let identity = certificate.zip(key).map(|(certificate, key)| CertificateFiles { certificate, key });
    (scheme == Some(Scheme::Https)).then_some(UpstreamTls { ca, server_name, identity })
}

fn slot_queue(mut section: Section<'_>) -> SlotQueue {
    let queue = SlotQueue {
        deadline: section.read("deadline", secs(1), duration(bounds::DEADLINE)),
        length: section.read("length", 4096, whole(bounds::QUEUE_LENGTH)),
    };
    section.finish();
    queue
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.read("connect", secs(2), duration(bounds::CONNECT)),
        response: section.read("response", secs(60), duration(bounds::RESPONSE)),
        idle: section.read("idle", secs(30), duration(bounds::UPSTREAM_IDLE)),
    };
    section.finish();
    timeouts
}

fn buffer(mut section: Section<'_>) -> Buffer {
    let buffer = Buffer {
        request: section.read("request", MIB, size(bounds::BUFFER)),
        response: section.read("response", MIB, size(bounds::BUFFER)),
    };
    section.finish();
    buffer
}

fn admission(mut section: Section<'_>) -> Admission {
    let probability = section.optional("probability", ratio);
    let mut mode = section.read("mode", Mode::Auto, word(MODES));
    if !section.is_faulty("mode") {
        match (mode, section.has("probability")) {
            (Mode::Fixed(_), true) => mode = Mode::Fixed(probability.unwrap_or_default()),
            (Mode::Fixed(_), false) => section.fault("mode", "fixed needs admission.probability beside it".to_owned()),
            (_, true) => section.fault("probability", format!("only mode fixed takes one, and the mode is {}", mode.name())),
            (_, false) => {}
        }
    }
    let admission = Admission {
        mode,
        order: section.read("order", Order::Lottery, word(ORDERS)),
        queue_wait: section.read("queue_wait", ms(200), duration(bounds::QUEUE_WAIT)),
        probe_rate: section.read("probe_rate", 0.2, number(bounds::PROBE_RATE)),
    };
    section.finish();
    admission
}

fn session(mut section: Section<'_>) -> Session {
    let session = Session {
        active: section.read("active", secs(60), duration(bounds::ACTIVE)),
        idle: section.read("idle", secs(20 * 60), duration(bounds::SESSION)),
        limit: section.read("limit", secs(4 * 3600), duration(bounds::SESSION)),
        in_flight: section.read("in_flight", 8, whole(bounds::PASS_IN_FLIGHT)),
        rate: section.read("rate", 600, whole(bounds::PASS_RATE)),
        not_before: section.optional("not_before", value::timestamp),
        domain: section.optional("domain", address::domain),
    };
    section.require_order(("active", session.active), ("idle", session.idle));
    section.require_order(("idle", session.idle), ("limit", session.limit));
    section.finish();
    session
}

fn routes(root: &mut Section<'_>) -> Routes {
    let list = root.sections("routes", bounds::ROUTES, route).unwrap_or_else(|| {
        let open = |path: &str| Some(Route { path: path.to_owned(), gated: false, signal: true });
        vec![open("/healthz"), open("/static/**")]
    });
    // each pattern has been compiled on its own; together they can still be too large
    Routes::new(list.into_iter().flatten().collect()).unwrap_or_else(|error| {
        root.fault("routes", format!("can't be compiled together: {error}"));
        Routes::default()
    })
}

fn route(mut section: Section<'_>) -> Option<Route> {
    let path = section.optional("path", value::pattern);
    if !section.has("path") {
        section.fault("path", "is required: a path such as /static/**".to_owned());
    }
    let gated = section.read("gate", true, word(GATES));
    let signal = section.read("signal", true, truth);
    section.finish();
    Some(Route { path: path?, gated, signal })
}

fn waiting_room(mut section: Section<'_>, base: &Path) -> WaitingRoom {
    let room = WaitingRoom {
        status: section.read("status", 503, value::status),
        refresh: section.read("refresh", secs(10), duration(bounds::REFRESH)),
        refresh_max: section.read("refresh_max", secs(60), duration(bounds::REFRESH)),
        template: section.optional("template", value::path(base)),
    };
    section.require_order(("refresh", room.refresh), ("refresh_max", room.refresh_max));
    section.finish();
    room
}

fn email_queue(mut section: Section<'_>) -> EmailQueue {
    let queue = EmailQueue {
        enabled: section.read("enabled", true, truth),
        retention: section.read("retention", days(30), duration(bounds::RETENTION)),
        posts_per_client: section.read("posts_per_client", 60, whole(bounds::POSTS_PER_CLIENT)),
        addresses_per_ticket: section.read("addresses_per_ticket", 3, whole(bounds::ADDRESSES_PER_TICKET)),
    };
    section.finish();
    queue
}

fn invitations(mut section: Section<'_>, base: &Path) -> Invitations {
    let invitations = Invitations {
        delivery: delivery(&mut section, base),
        from: section.optional("from", address::sender),
        site_url: section.optional("site_url", address::site_url),
        templates: section.optional("templates", value::path(base)),
        below: section.read("below", 0.6, ratio),
        settle: section.read("settle", secs(60), duration(bounds::SETTLE)),
        rate: section.read("rate", 10.0, number(bounds::INVITATION_RATE)),
        share: section.read("share", 0.5, ratio),
        expected_redemption: section.read("expected_redemption", 0.3, ratio),
        expires: section.read("expires", days(2), duration(bounds::EXPIRES)),
    };
    for (key, needed) in [
        ("smtp", "from"),
        ("smtp", "site_url"),
        ("spool", "from"),
        ("spool", "site_url"),
        ("username", "smtp"),
        ("username", "password_file"),
        ("password_file", "username"),
    ] {
        if section.has(key) && !section.has(needed) {
            section.fault(key, format!("needs invitations.{needed} beside it"));
        }
    }
    section.finish();
    invitations
}

/// `smtp` with `username` and `password_file`, or `spool`.
fn delivery(section: &mut Section<'_>, base: &Path) -> Option<Delivery> {
    let server = section.optional("smtp", address::mail_server);
    let username = section.optional("username", value::unshown_text);
    let password_file = section.optional("password_file", value::path(base));
    let spool = section.optional("spool", value::path(base));
    if section.has("smtp") && section.has("spool") {
        section.fault("spool", "excludes invitations.smtp: write one of them".to_owned());
    }
    if username.is_some() && server.as_ref().is_some_and(|server| server.security == Security::Plaintext && !address::is_local(server)) {
        section.fault("username", "would go over the network in plaintext: write smtps://, or smtp:// for STARTTLS".to_owned());
    }
    let login = username.zip(password_file).map(|(username, password_file)| Login { username, password_file });
    server.map(|server| Delivery::Smtp { server, login }).or_else(|| spool.map(Delivery::Spool))
}

fn bypass(mut section: Section<'_>) -> Bypass {
    let bypass = Bypass {
        revoked: section.list("revoked", bounds::REVOKED, value::revoked).unwrap_or_default(),
        not_before: section.optional("not_before", value::timestamp),
    };
    section.finish();
    bypass
}

fn client(mut section: Section<'_>) -> Client {
    let trusted_proxies = section.list("trusted_proxies", bounds::NETWORKS, address::network).unwrap_or_default();
    section.finish();
    Client { trusted_proxies }
}

/// `listeners`: of all workers, if it is written how many these are.
fn limits(mut section: Section<'_>, buffer: Buffer, listeners: Option<usize>) -> Limits {
    let limits = Limits {
        connections: section.read("connections", 10_000, whole(bounds::CONNECTIONS)),
        connections_per_client: section.read("connections_per_client", 1000, whole(bounds::CONNECTIONS_PER_CLIENT)),
        header_bytes: section.read("header_bytes", 32 * KIB, size(bounds::HEADER_BYTES)),
        handshake_timeout: section.read("handshake_timeout", secs(10), duration(bounds::CLIENT_TIMEOUT)),
        header_timeout: section.read("header_timeout", secs(10), duration(bounds::CLIENT_TIMEOUT)),
        body_timeout: section.read("body_timeout", secs(30), duration(bounds::CLIENT_TIMEOUT)),
        min_rate: section.read("min_rate", 240, size(bounds::MIN_RATE)),
        idle_timeout: section.read("idle_timeout", secs(30), duration(bounds::CLIENT_TIMEOUT)),
        upgrades: section.read("upgrades", 1000, whole(bounds::UPGRADES)),
        upgrade_idle: section.read("upgrade_idle", secs(5 * 60), duration(bounds::UPGRADE_IDLE)),
        buffer_memory: section.read("buffer_memory", 512 * MIB, size(bounds::BUFFER_MEMORY)),
        tickets_per_client: section.read("tickets_per_client", 600, whole(bounds::TICKETS_PER_CLIENT)),
    };
    // each has a place while it waits for a client, and one without would serve nobody
    if let Some(listeners) = listeners.filter(|&listeners| limits.connections < listeners) {
        let text = format!("{} is below {listeners}, one for each listener of each of listen.workers", limits.connections);
        section.fault("connections", text);
    }
    // one visitor's buffers that never fit would make every larger body stream
    for (key, bytes) in [("upstream.buffer.request", buffer.request), ("upstream.buffer.response", buffer.response)] {
        if limits.buffer_memory < bytes {
            let text = format!("{} is below {key}, which is {}", print_bytes(limits.buffer_memory), print_bytes(bytes));
            section.fault("buffer_memory", text);
        }
    }
    section.finish();
    limits
}

fn shutdown(mut section: Section<'_>) -> Shutdown {
    let shutdown = Shutdown {
        delay: section.read("delay", secs(5), duration(bounds::SHUTDOWN)),
        deadline: section.read("deadline", secs(30), duration(bounds::SHUTDOWN)),
    };
    section.finish();
    shutdown
}

fn log(mut section: Section<'_>) -> Log {
    let log = Log { format: section.read("format", LogFormat::Auto, word(FORMATS)), access: section.read("access", 0.0, value::access) };
    section.finish();
    log
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// `fixed` takes its probability from the key beside it.
const MODES: &[(&str, Mode)] =
    &[("auto", Mode::Auto), ("open", Mode::Open), ("closed", Mode::Closed), ("fixed", Mode::Fixed(0.0)), ("observe", Mode::Observe)];

const HTTP2: &[(&str, UpstreamHttp2)] = &[("auto", UpstreamHttp2::Auto), ("off", UpstreamHttp2::Off)];

const ORDERS: &[(&str, Order)] = &[("lottery", Order::Lottery), ("arrival", Order::Arrival)];

/// Whether a route is gated.
const GATES: &[(&str, bool)] = &[("open", false), ("gated", true)];

const FORMATS: &[(&str, LogFormat)] = &[("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
