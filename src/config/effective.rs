//! The effective policy as gate.yaml: every key, with the value that is in force. Read back, it is the same policy.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use crate::rules::policy::{
    Admin, Admission, Buffer, Bypass, CertificateFiles, Client, Delivery, EmailQueue, Https, Invitations, Limits, Listen, Log, Login,
    MailServer, MaxInFlight, Mode, Policy, Revoked, Sender, Session, Shutdown, SlotQueue, Timeouts, Upstream, UpstreamTls, WaitingRoom,
};
use crate::rules::routes::{Route, Routes};
use crate::rules::time::UnixTime;
use crate::rules::units::print_duration;

use super::value::print_bytes;

/// The policy in the shape of gate.yaml. Keys that are not set are `null`. Holds paths of secrets, never a secret.
#[must_use]
pub fn effective(policy: &Policy) -> String {
    // every struct is taken apart by name, so that a setting that is added and not printed does not compile
    let Policy {
        listen,
        admin,
        data,
        upstream,
        admission,
        session,
        routes,
        waiting_room,
        email_queue,
        invitations,
        bypass,
        client,
        limits,
        shutdown,
        log,
    } = policy;
    let mut yaml = Yaml::default();
    print_listen(&mut yaml, listen);
    print_admin(&mut yaml, admin);
    yaml.key("data", path(data));
    print_upstream(&mut yaml, upstream);
    print_admission(&mut yaml, *admission);
    print_session(&mut yaml, session);
    print_routes(&mut yaml, routes);
    print_waiting_room(&mut yaml, waiting_room);
    print_email_queue(&mut yaml, *email_queue);
    print_invitations(&mut yaml, invitations);
    print_bypass(&mut yaml, bypass);
    print_client(&mut yaml, client);
    print_limits(&mut yaml, *limits);
    print_shutdown(&mut yaml, *shutdown);
    print_log(&mut yaml, *log);
    yaml.text
}

fn print_listen(yaml: &mut Yaml, Listen { http, https, workers, proxy_protocol }: &Listen) {
    yaml.section("listen", |yaml| {
        yaml.key("http", address(*http));
        match https {
            None => yaml.key("https", "null"),
            Some(Https { address: at, first: CertificateFiles { certificate, key }, further, redirect }) => yaml.section("https", |yaml| {
                yaml.key("address", address(*at));
                yaml.key("certificate", path(certificate));
                yaml.key("key", path(key));
                let pairs = further.iter();
                let pairs = pairs.map(|files| format!("{{ certificate: {}, key: {} }}", path(&files.certificate), path(&files.key)));
                yaml.list("certificates", pairs);
                yaml.list("redirect", redirect.iter().map(|host| quoted(&host.authority)));
            }),
        }
        yaml.key("workers", workers.map_or_else(|| "auto".to_owned(), |count| count.to_string()));
        yaml.key("proxy_protocol", proxy_protocol);
    });
}

fn print_admin(yaml: &mut Yaml, Admin { listen, token_file }: &Admin) {
    yaml.section("admin", |yaml| {
        yaml.key("listen", address(*listen));
        yaml.optional("token_file", token_file.as_deref().map(path));
    });
}

fn print_upstream(yaml: &mut Yaml, Upstream { servers, tls, http2, max_in_flight, queue, timeouts, buffer }: &Upstream) {
    yaml.section("upstream", |yaml| {
        yaml.list("servers", servers.iter().map(|server| quoted(&server.label)));
        print_upstream_tls(yaml, tls.as_ref());
        yaml.key("http2", http2.name());
        match max_in_flight {
            MaxInFlight::Auto => yaml.key("max_in_flight", "auto"),
            MaxInFlight::Fixed(limit) => yaml.key("max_in_flight", limit),
        }
        let &SlotQueue { deadline, length } = queue;
        yaml.section("queue", |yaml| {
            yaml.key("deadline", print_duration(deadline));
            yaml.key("length", length);
        });
        let &Timeouts { connect, response, idle } = timeouts;
        yaml.section("timeouts", |yaml| {
            yaml.key("connect", print_duration(connect));
            yaml.key("response", print_duration(response));
            yaml.key("idle", print_duration(idle));
        });
        let &Buffer { request, response } = buffer;
        yaml.section("buffer", |yaml| {
            yaml.key("request", print_bytes(request));
            yaml.key("response", print_bytes(response));
        });
    });
}

fn print_upstream_tls(yaml: &mut Yaml, tls: Option<&UpstreamTls>) {
    let UpstreamTls { ca, server_name, identity } = tls.unwrap_or(&UpstreamTls { ca: None, server_name: None, identity: None });
    let identity = identity.as_ref().map(|CertificateFiles { certificate, key }| (certificate, key));
    yaml.section("tls", |yaml| {
        yaml.optional("ca", ca.as_deref().map(path));
        yaml.optional("server_name", server_name.as_deref().map(quoted));
        yaml.optional("certificate", identity.map(|(certificate, _)| path(certificate)));
        yaml.optional("key", identity.map(|(_, key)| path(key)));
    });
}

fn print_admission(yaml: &mut Yaml, Admission { mode, order, queue_wait, probe_rate }: Admission) {
    let probability = match mode {
        Mode::Fixed(probability) => Some(probability),
        Mode::Auto | Mode::Open | Mode::Closed | Mode::Observe => None,
    };
    yaml.section("admission", |yaml| {
        yaml.key("mode", mode.name());
        yaml.optional("probability", probability);
        yaml.key("order", order.name());
        yaml.key("queue_wait", print_duration(queue_wait));
        yaml.key("probe_rate", probe_rate);
    });
}

fn print_session(yaml: &mut Yaml, Session { active, idle, limit, in_flight, rate, not_before, domain }: &Session) {
    yaml.section("session", |yaml| {
        yaml.key("active", print_duration(*active));
        yaml.key("idle", print_duration(*idle));
        yaml.key("limit", print_duration(*limit));
        yaml.key("in_flight", in_flight);
        yaml.key("rate", rate);
        yaml.optional("not_before", not_before.map(time));
        yaml.optional("domain", domain.as_deref().map(quoted));
    });
}

fn print_routes(yaml: &mut Yaml, routes: &Routes) {
    let rules = routes.list().iter().map(|Route { path, gated, signal }| {
        let gate = if *gated { "gated" } else { "open" };
        format!("{{ path: {}, gate: {gate}, signal: {signal} }}", quoted(path))
    });
    yaml.list("routes", rules);
}

fn print_waiting_room(yaml: &mut Yaml, WaitingRoom { status, refresh, refresh_max, template }: &WaitingRoom) {
    yaml.section("waiting_room", |yaml| {
        yaml.key("status", status);
        yaml.key("refresh", print_duration(*refresh));
        yaml.key("refresh_max", print_duration(*refresh_max));
        yaml.optional("template", template.as_deref().map(path));
    });
}

fn print_email_queue(yaml: &mut Yaml, EmailQueue { enabled, retention, posts_per_client, addresses_per_ticket }: EmailQueue) {
    yaml.section("email_queue", |yaml| {
        yaml.key("enabled", enabled);
        yaml.key("retention", print_duration(retention));
        yaml.key("posts_per_client", posts_per_client);
        yaml.key("addresses_per_ticket", addresses_per_ticket);
    });
}

fn print_invitations(yaml: &mut Yaml, invitations: &Invitations) {
    let Invitations { site_url, from, delivery, templates, below, settle, rate, share, expected_redemption, expires } = invitations;
    let (server, login, spool) = match delivery {
        None => (None, None, None),
        Some(Delivery::Smtp { server, login }) => (Some(server), login.as_ref(), None),
        Some(Delivery::Spool(directory)) => (None, None, Some(directory)),
    };
    yaml.section("invitations", |yaml| {
        yaml.optional("smtp", server.map(|MailServer { label, .. }| quoted(label)));
        yaml.optional("username", login.map(|Login { username, .. }| quoted(username)));
        yaml.optional("password_file", login.map(|Login { password_file, .. }| path(password_file)));
        yaml.optional("spool", spool.map(|directory| path(directory)));
        yaml.optional("from", from.as_ref().map(|Sender { label, .. }| quoted(label)));
        yaml.optional("site_url", site_url.as_deref().map(quoted));
        yaml.optional("templates", templates.as_deref().map(path));
        yaml.key("below", below);
        yaml.key("settle", print_duration(*settle));
        yaml.key("rate", rate);
        yaml.key("share", share);
        yaml.key("expected_redemption", expected_redemption);
        yaml.key("expires", print_duration(*expires));
    });
}

fn print_bypass(yaml: &mut Yaml, Bypass { revoked, not_before }: &Bypass) {
    let revoked = revoked.iter().map(|entry| match entry {
        Revoked::Pass(id) => format!("\"{id:016x}\""),
        Revoked::Batch(id) => format!("batch-{id:08x}"),
    });
    yaml.section("bypass", |yaml| {
        yaml.list("revoked", revoked);
        yaml.optional("not_before", not_before.map(time));
    });
}

fn print_client(yaml: &mut Yaml, Client { trusted_proxies }: &Client) {
    yaml.section("client", |yaml| yaml.list("trusted_proxies", trusted_proxies.iter().map(|network| quoted(&network.to_string()))));
}

fn print_limits(yaml: &mut Yaml, limits: Limits) {
    let Limits {
        connections,
        connections_per_client,
        header_bytes,
        handshake_timeout,
        header_timeout,
        body_timeout,
        min_rate,
        idle_timeout,
        upgrades,
        upgrade_idle,
        buffer_memory,
        tickets_per_client,
    } = limits;
    yaml.section("limits", |yaml| {
        yaml.key("connections", connections);
        yaml.key("connections_per_client", connections_per_client);
        yaml.key("header_bytes", print_bytes(header_bytes));
        yaml.key("handshake_timeout", print_duration(handshake_timeout));
        yaml.key("header_timeout", print_duration(header_timeout));
        yaml.key("body_timeout", print_duration(body_timeout));
        yaml.key("min_rate", print_bytes(min_rate));
        yaml.key("idle_timeout", print_duration(idle_timeout));
        yaml.key("upgrades", upgrades);
        yaml.key("upgrade_idle", print_duration(upgrade_idle));
        yaml.key("buffer_memory", print_bytes(buffer_memory));
        yaml.key("tickets_per_client", tickets_per_client);
    });
}

fn print_shutdown(yaml: &mut Yaml, Shutdown { delay, deadline }: Shutdown) {
    yaml.section("shutdown", |yaml| {
        yaml.key("delay", print_duration(delay));
        yaml.key("deadline", print_duration(deadline));
    });
}

fn print_log(yaml: &mut Yaml, Log { format, access }: Log) {
    let access = match access {
        share if share <= 0.0 => "off".to_owned(),
        share if share >= 1.0 => "all".to_owned(),
        share => share.to_string(),
    };
    yaml.section("log", |yaml| {
        yaml.key("format", format.name());
        yaml.key("access", access);
    });
}

/// Lines of YAML in block style.
#[derive(Default)]
struct Yaml {
    text: String,
    depth: usize,
}

impl Yaml {
    fn key(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key}: {value}"));
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.key(key, value),
            None => self.key(key, "null"),
        }
    }

    fn section(&mut self, key: &str, inside: impl FnOnce(&mut Self)) {
        self.line(format_args!("{key}:"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
    }

    fn list(&mut self, key: &str, items: impl ExactSizeIterator<Item = String>) {
        if items.len() == 0 {
            return self.key(key, "[]");
        }
        self.section(key, |yaml| items.for_each(|item| yaml.line(format_args!("- {item}"))));
    }

    fn line(&mut self, line: impl Display) {
        // writing to a String does not fail
        let _ = writeln!(self.text, "{:1$}{line}", "", self.depth * 2);
    }
}

/// An IPv6 address begins with a bracket, which begins a list if it isn't quoted.
fn address(address: SocketAddr) -> String {
    if address.is_ipv6() { quoted(&address.to_string()) } else { address.to_string() }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn time(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A text in double quotes: whatever is in it, it is read back as a text, and the same one.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}
