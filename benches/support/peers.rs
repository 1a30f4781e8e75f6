//! The fronts whose cost is compared: the gate, nginx, HAProxy and Envoy, each a process of its own with one worker.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::envoy::{at, envoy};
use super::load;
use super::support::{Process, free_address};

/// A front, and where it passes requests on and turns them away. None if that is measured under another name.
pub(super) struct Front {
    pub(super) name: &'static str,
    pub(super) proxied: Option<SocketAddr>,
    pub(super) diverted: Option<SocketAddr>,
    /// The same within TLS, where HTTP/2 is spoken too.
    pub(super) proxied_tls: Option<SocketAddr>,
    pub(super) diverted_tls: Option<SocketAddr>,
    pub(super) processes: Vec<Process>,
    /// The admin listener of a gate.
    pub(super) admin: Option<SocketAddr>,
}

impl Front {
    /// One of which no address is known yet.
    fn of(name: &'static str, process: Process) -> Self {
        let processes = vec![process];
        Self { name, proxied: None, diverted: None, proxied_tls: None, diverted_tls: None, processes, admin: None }
    }
}

/// What every front is started with.
pub(super) struct Setting<'a> {
    pub(super) directory: &'a Path,
    pub(super) site: SocketAddr,
    pub(super) certificates: &'a Certificates,
    /// Requests that may be at the site at a time.
    pub(super) slots: usize,
    /// Connections that may be open at a time.
    pub(super) connections: usize,
    /// Of a gate: the others have one.
    pub(super) workers: usize,
    /// The cores that a front may run on, as a list for `taskset`; all of them without.
    pub(super) cores: Option<&'a str>,
}

impl Setting<'_> {
    /// A directory for one front.
    fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

/// What a front shows, and who vouches for it: files.
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    /// Both in one, as HAProxy wants them.
    both: PathBuf,
}

impl Certificates {
    /// Makes them: ECDSA over P-256, as most sites have.
    pub(super) fn make(directory: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![load::HOST.to_owned()])?.signed_by(&key, &authority)?;
        let write = |name: &str, content: String| {
            let path = directory.join(name);
            fs::write(&path, content).map(|()| path)
        };
        Ok(Self {
            authority: write("authority.pem", authority.pem())?,
            certificate: write("site.pem", certificate.pem())?,
            key: write("site.key", key.serialize_pem())?,
            both: write("both.pem", certificate.pem() + &key.serialize_pem())?,
        })
    }
}

// the gate

/// `speaks_tls`: an older build does not. Whatever is idle is kept.
pub(super) fn start_gate(name: &'static str, binary: &Path, speaks_tls: bool, setting: &Setting<'_>) -> anyhow::Result<Front> {
    let &Setting { site, slots, connections, workers, cores, .. } = setting;
    let directory = setting.make(name)?;
    let (address, tls, admin) = (free_address()?, free_address()?, free_address()?);
    let Certificates { certificate, key, .. } = setting.certificates;
    let https =
        if speaks_tls { format!("https: {{ address: {tls}, certificate: {certificate:?}, key: {key:?} }}, ") } else { String::new() };
    let config = directory.join("gate.yaml");
    // a refresh of a second: a ticket that comes is due to be renewed, as it is when a visitor's page comes back
    fs::write(
        &config,
        format!(
            "listen: {{ http: {address}, {https}workers: {workers} }}\n\
             admin: {{ listen: {admin} }}\n\
             data: data\n\
             upstream: {{ servers: [\"http://{site}\"], max_in_flight: {slots} }}\n\
             session: {{ rate: 1000000, in_flight: {slots} }}\n\
             limits: {{ connections: {connections}, connections_per_client: {connections}, idle_timeout: 10m, tickets_per_client: 1000000 }}\n\
             waiting_room: {{ refresh: 1s, refresh_max: 10m }}\n\
             shutdown: {{ delay: 0s, deadline: 0s }}\n"
        ),
    )?;
    let log = directory.join("log");
    let output = File::create(&log)?;
    let mut command = command(cores, binary);
    command.arg("serve").arg("--config").arg(&config).stdout(output.try_clone()?).stderr(output);
    let mut process = Process::start(&mut command)?;
    process.wait_until_ready(admin, "/readyz").with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    let tls = speaks_tls.then_some(tls);
    Ok(Front {
        proxied: Some(address),
        diverted: Some(address),
        proxied_tls: tls,
        diverted_tls: tls,
        admin: Some(admin),
        ..Front::of(name, process)
    })
}

// what it is compared with

/// Starts another front. What it turns away gets an answer with this head, and a page of so many bytes.
pub(super) type Start = fn(setting: &Setting<'_>, head: &str, page: usize) -> anyhow::Result<Front>;

pub(super) fn start_nginx(setting: &Setting<'_>, head: &str, page: usize) -> anyhow::Result<Front> {
    let &Setting { site, slots, .. } = setting;
    let directory = setting.make("nginx")?;
    let (proxied, diverted, proxied_tls, diverted_tls) = (free_address()?, free_address()?, free_address()?, free_address()?);
    let servers = format!(
        "upstream site {{ server {site}; keepalive {slots}; keepalive_requests 1000000000; }}\n\
         server {{\n  listen {proxied};\n  listen {proxied_tls} ssl http2;\n  location / {{\n    \
         proxy_pass http://site; proxy_http_version 1.1; proxy_set_header Connection \"\";\n    \
         proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n    \
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Forwarded \"for=$remote_addr;host=$http_host;proto=$scheme\";\n  }}\n}}\n\
         server {{\n  listen {diverted};\n  listen {diverted_tls} ssl http2;\n  root {}; sendfile on; tcp_nopush on; error_page 503 /page.html;\n  \
         location / {{ return 503; }}\n  location = /page.html {{ internal; {} }}\n}}\n",
        directory.display(),
        add_headers(head)
    );
    fs::write(directory.join("page.html"), "x".repeat(page))?;
    let process = run_nginx(&directory, &servers, (proxied, load::PAGES[0].0), setting)?;
    let (proxied_tls, diverted_tls) = (Some(proxied_tls), Some(diverted_tls));
    Ok(Front { proxied: Some(proxied), diverted: Some(diverted), proxied_tls, diverted_tls, ..Front::of("nginx", process) })
}

pub(super) fn start_nginx_from_memory(setting: &Setting<'_>, head: &str, page: usize) -> anyhow::Result<Front> {
    let directory = setting.make("nginx-memory")?;
    let (diverted, diverted_tls) = (free_address()?, free_address()?);
    let mut servers = String::new();
    // one word of nginx's configuration is at most 4 KiB, so the page is put together from several
    let parts = page.div_ceil(WORD_MAX);
    for part in 0..parts {
        let len = WORD_MAX.min(page - part * WORD_MAX);
        servers.push_str(&format!("geo $part{part} {{ default \"{}\"; }}\n", "x".repeat(len)));
    }
    let body: String = (0..parts).map(|part| format!("${{part{part}}}")).collect();
    servers.push_str(&format!(
        "server {{ listen {diverted}; listen {diverted_tls} ssl http2; location = /ready {{ return 204; }} \
         location / {{ {} return 503 \"{body}\"; }} }}\n",
        add_headers(head)
    ));
    let process = run_nginx(&directory, &servers, (diverted, "/ready"), setting)?;
    let (diverted, diverted_tls) = (Some(diverted), Some(diverted_tls));
    Ok(Front { diverted, diverted_tls, ..Front::of("nginx-memory", process) })
}

fn run_nginx(directory: &Path, servers: &str, (address, path): (SocketAddr, &str), setting: &Setting<'_>) -> anyhow::Result<Process> {
    let Certificates { certificate, key, .. } = setting.certificates;
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/log crit;\n\
         events {{ worker_connections {1}; }}\n\
         http {{\n\
         access_log off; default_type \"text/html; charset=utf-8\"; keepalive_requests 1000000000; keepalive_timeout 10m;\n\
         ssl_certificate {2}; ssl_certificate_key {3}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m; ssl_buffer_size 16k;\n\
         {servers}}}\n",
        directory.display(),
        // those to the site count as well
        setting.connections + setting.slots,
        certificate.display(),
        key.display()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let log = directory.join("log");
    let mut process = Process::start(command(setting.cores, Path::new("nginx")).arg("-e").arg(&log).arg("-c").arg(&file))?;
    process.wait_until_ready(address, path).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(process)
}

fn add_headers(head: &str) -> String {
    comparable(head).map(|(name, value)| format!("add_header {name} {} always; ", quoted(value))).collect()
}

pub(super) fn start_haproxy(setting: &Setting<'_>, head: &str, page: usize) -> anyhow::Result<Front> {
    let (directory, site) = (setting.make("haproxy")?, setting.site);
    let (proxied, diverted, proxied_tls, diverted_tls) = (free_address()?, free_address()?, free_address()?, free_address()?);
    let body = directory.join("page");
    fs::write(&body, "x".repeat(page))?;
    let mut config = format!(
        "global\n  maxconn {1}\n  nbthread 1\n\
         defaults\n  mode http\n  http-reuse always\n  timeout connect 2s\n  timeout client 10m\n  timeout server 60s\n\
         frontend proxied\n  bind {proxied}\n  bind {proxied_tls} ssl crt {0} alpn h2,http/1.1\n  http-request set-header X-Forwarded-For %[src]\n  \
         http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
         http-request set-header Forwarded for=%[src];host=%[req.hdr(host)];proto=http\n  default_backend site\n\
         backend site\n  server site {site}\n\
         frontend diverted\n  bind {diverted}\n  bind {diverted_tls} ssl crt {0} alpn h2,http/1.1\n  \
         http-request return status 503 content-type \"text/html; charset=utf-8\" file {2}",
        setting.certificates.both.display(),
        setting.connections,
        body.display()
    );
    for (name, value) in comparable(head) {
        config.push_str(&format!(" hdr {name} {}", quoted(&value.replace('%', "%%"))));
    }
    config.push('\n');
    let process = run_haproxy(&directory, &config, proxied, setting.cores)?;
    let (proxied_tls, diverted_tls) = (Some(proxied_tls), Some(diverted_tls));
    Ok(Front { proxied: Some(proxied), diverted: Some(diverted), proxied_tls, diverted_tls, ..Front::of("haproxy", process) })
}

fn run_haproxy(directory: &Path, config: &str, proxied: SocketAddr, cores: Option<&str>) -> anyhow::Result<Process> {
    let file = directory.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut process = Process::start(command(cores, Path::new("haproxy")).args(["-db", "-q", "-f"]).arg(&file))?;
    process.wait_until_ready(proxied, load::PAGES[0].0)?;
    Ok(process)
}

/// Parses nothing, and passes bytes on: what any proxy costs at least.
pub(super) fn start_relay(setting: &Setting<'_>, _head: &str, _page: usize) -> anyhow::Result<Front> {
    let (directory, site, relayed) = (setting.make("relay")?, setting.site, free_address()?);
    let config = format!(
        "global\n  maxconn {}\n  nbthread 1\n\
         defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 75s\n  timeout server 60s\n\
         listen relayed\n  bind {relayed}\n  server site {site}\n",
        setting.connections
    );
    let process = run_haproxy(&directory, &config, relayed, setting.cores)?;
    let (proxied_tls, diverted_tls) = (None, None);
    Ok(Front { proxied: Some(relayed), proxied_tls, diverted_tls, ..Front::of("tcp-relay", process) })
}

/// As its documentation has it, with the two forwarding headers that it sets by itself.
pub(super) fn start_envoy(setting: &Setting<'_>, head: &str, page: usize) -> anyhow::Result<Front> {
    let directory = setting.make("envoy")?;
    let (proxied, diverted, proxied_tls, diverted_tls) = (free_address()?, free_address()?, free_address()?, free_address()?);
    let body = directory.join("page");
    fs::write(&body, "x".repeat(page))?;
    let headers: Vec<String> = comparable(head)
        .map(|(name, value)| format!("{{ header: {{ key: {name}, value: {} }} }}", quoted(&value.replace('%', "%%"))))
        .collect();
    let Certificates { certificate, key, .. } = setting.certificates;
    let secured = format!(
        "transport_socket: {{ name: envoy.transport_sockets.tls, typed_config: {{ \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         common_tls_context: {{ alpn_protocols: [h2, http/1.1], tls_certificates: [{{ certificate_chain: {{ filename: {certificate:?} }}, \
         private_key: {{ filename: {key:?} }} }}] }} }} }}"
    );
    let to_site = "route: { cluster: site, timeout: 60s }".to_owned();
    let turned_away =
        format!("direct_response: {{ status: 503, body: {{ filename: {body:?} }} }}, response_headers_to_add: [{}]", headers.join(", "));
    let (to_site, turned_away, secured) = (&*to_site, &*turned_away, &*secured);
    let listeners: String =
        [(proxied, to_site, ""), (proxied_tls, to_site, secured), (diverted, turned_away, ""), (diverted_tls, turned_away, secured)]
            .map(|(address, route, secured)| {
                ENVOY_LISTENER
                    .replace("LISTEN", &at(address))
                    .replace("ROUTE", route)
                    .replace("SECURED", secured)
                    .replace("MOST", &page.to_string())
            })
            .concat();
    let config = format!("static_resources:\n  listeners:\n{listeners}");
    let mut process = Process::start(&mut envoy(|program| command(setting.cores, program), &directory, &config, setting.site)?)?;
    process.wait_until_ready(proxied, load::PAGES[0].0).with_context(|| fs::read_to_string(directory.join("log")).unwrap_or_default())?;
    let (proxied_tls, diverted_tls) = (Some(proxied_tls), Some(diverted_tls));
    Ok(Front { proxied: Some(proxied), diverted: Some(diverted), proxied_tls, diverted_tls, ..Front::of("envoy", process) })
}

const ENVOY_LISTENER: &str = r#"
    - address: LISTEN
      filter_chains:
        - SECURED
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: front
                use_remote_address: true
                route_config:
                  max_direct_response_body_size_bytes: MOST
                  virtual_hosts:
                    - name: site
                      domains: ["*"]
                      routes: [{ match: { prefix: "/" }, ROUTE }]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
"#;

/// The headers of the gate's answer that the others don't set by themselves.
fn comparable(head: &str) -> impl Iterator<Item = (&str, &str)> {
    load::headers(head).filter(|(name, _)| !matches!(*name, "content-type" | "content-length" | "date"))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

const WORD_MAX: usize = 4000;

// processes

/// A command that runs on these cores alone; anywhere without them.
pub(super) fn command(cores: Option<&str>, program: &Path) -> Command {
    let Some(cores) = cores else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cores]).arg(program);
    command
}
