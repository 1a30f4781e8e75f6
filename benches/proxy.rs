//! What a request costs: CPU time of the gate, nginx and HAProxy for one that is passed to the site, and for one that is turned away.
//!
//! 64 connections that are kept alive on both sides, one worker. Proxied: a page of 1 KiB, each connection with a pass of its own, the
//! gate as it is by default, the other two with the forwarding headers that the gate sets. Diverted: each request with a ticket that
//! its connection has not shown just before, which draws, loses and is renewed. The others send the same head and as many bytes: nginx
//! its error page, a file as it usually is; `nginx-memory` and HAProxy a constant, which is the least that a front can do.
//!
//! The fronts are measured in turn, over many short rounds, and compared within a round: other work on the machine hits all of them.
//! CPU time is what the scheduler has counted for the front's processes while the crowd's window lasted. Where there are two cores, the
//! front has the first for itself, and crowd and site share the second, so that the front is what is short.
//!
//! Not there yet: Envoy (a row of [`Front`]).
//!
//! ```text
//! cargo bench --bench proxy                              # the table, two minutes
//! cargo bench --bench proxy -- --against target/old      # with another build of the gate as a row
//! cargo bench --bench proxy -- --smoke                   # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "support/load.rs"]
mod load;
mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};

use load::{Crowd, Measured};
use support::{Directory, Process, free_address, loopback};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Load) = arguments.part {
        let listener = TcpListener::bind(loopback())?;
        println!("{}", listener.local_addr()?);
        return load::serve(listener);
    }
    if !arguments.bench && !arguments.smoke {
        // `cargo test --all-targets` runs every target: minutes of load are not a test
        println!("run me with `cargo bench --bench proxy`");
        return Ok(());
    }
    let mut world = World::start(&arguments)?;
    let (rounds, window) = if arguments.smoke { (1, SMOKE) } else { (arguments.rounds, Duration::from_millis(arguments.window_ms)) };
    println!("{}", world.describe(rounds, window));
    println!("{HEADING}");
    for case in [Case::Proxied, Case::Diverted] {
        if arguments.only.is_none_or(|only| only == case) {
            world.measure(case, rounds, window)?;
        }
    }
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One short round, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    /// One half of the table.
    #[arg(long)]
    only: Option<Case>,
    /// Another build of the gate, to be measured as well.
    #[arg(long)]
    against: Option<PathBuf>,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each front is measured in each round.
    #[arg(long, default_value_t = 3000)]
    window_ms: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Be the site and the crowd.
    #[command(hide = true)]
    Load,
}

/// What happens to the requests.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Case {
    /// They reach the site.
    Proxied,
    /// They are turned away.
    Diverted,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Proxied => "proxied",
            Self::Diverted => "diverted",
        }
    }

    const fn status(self) -> u16 {
        match self {
            Self::Proxied => 200,
            Self::Diverted => 503,
        }
    }

    /// The most that the gate may cost, as a multiple of what nginx does.
    const fn bar(self) -> f64 {
        match self {
            Self::Proxied => 1.25,
            Self::Diverted => 1.0,
        }
    }
}

const HEADING: &str = "\
| requests | front        | CPU µs a request | ratio to nginx        | at most | requests/s |
|----------|--------------|------------------|-----------------------|---------|------------|";

const CONNECTIONS: usize = 64;

/// Tickets of a connection, shown in turn: a visitor who comes back has a new one each time, so none is known from the last request.
const TICKETS: usize = 4;

const SMOKE: Duration = Duration::from_millis(300);

/// Everything that runs.
struct World {
    fronts: Vec<Front>,
    /// What the connections show.
    passes: PathBuf,
    tickets: PathBuf,
    pinned: bool,
    load: Load,
    _directory: Directory,
}

/// The process that is the site and the crowd.
struct Load {
    crowds: ChildStdin,
    measured: BufReader<ChildStdout>,
    _process: Process,
}

/// A front, and where it passes requests on and turns them away.
struct Front {
    name: &'static str,
    /// None if that is measured under another name.
    proxied: Option<SocketAddr>,
    diverted: SocketAddr,
    process: Process,
    /// The admin listener of a gate.
    admin: Option<SocketAddr>,
}

impl Front {
    const fn address(&self, case: Case) -> Option<SocketAddr> {
        match case {
            Case::Proxied => self.proxied,
            Case::Diverted => Some(self.diverted),
        }
    }
}

impl World {
    fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let directory = Directory::new("proxy")?;
        let pinned = std::thread::available_parallelism()?.get() > 1 && is_installed("taskset");
        let (site_address, measured, mut process) = Process::start_part(command(pinned, 1, &std::env::current_exe()?).arg("load"))?;
        let crowds = process.0.stdin.take().context("the load takes no input")?;
        let load = Load { crowds, measured, _process: process };
        let path = directory.path();
        let gate = |name, binary: &Path| start_gate(name, binary, &path.join(name), site_address, pinned).context(name);
        let mut fronts = vec![gate("tidegate", Path::new(env!("CARGO_BIN_EXE_tidegate")))?];
        if let Some(binary) = &arguments.against {
            // it verifies what the first has signed
            fs::create_dir(path.join("against"))?;
            copy_keys(&path.join("tidegate/data"), &path.join("against/data"))?;
            fronts.push(gate("against", binary)?);
        }
        let gates = &fronts[..];
        let (passes, tickets) = (path.join("passes"), path.join("tickets"));
        set_mode(gates, "mode=open")?;
        fs::write(&passes, cookies(&gates[0], "tidegate_pass", 1)?)?;
        // from now on every draw is made and lost; those who have a pass don't notice
        set_mode(gates, "mode=fixed&probability=0")?;
        fs::write(&tickets, cookies(&gates[0], "tidegate_ticket", TICKETS)?)?;
        let (head, body) = load::fetch(gates[0].diverted)?;
        let mut others = Vec::new();
        for (program, name, start) in [
            ("nginx", "nginx", start_nginx as Start),
            ("nginx", "nginx-memory", start_nginx_from_memory),
            ("haproxy", "haproxy", start_haproxy),
        ] {
            if is_installed(program) {
                others.push(start(&path.join(name), site_address, &head, body.len(), pinned).context(name)?);
            }
        }
        fronts.extend(others);
        Ok(Self { fronts, passes, tickets, pinned, load, _directory: directory })
    }

    fn describe(&self, rounds: usize, window: Duration) -> String {
        let cores = if self.pinned { "front alone on one core, crowd and site on another" } else { "not pinned to cores" };
        format!("{CONNECTIONS} connections, {rounds} rounds of {} ms each, {cores}; median (least–most)", window.as_millis())
    }

    fn measure(&mut self, case: Case, rounds: usize, window: Duration) -> anyhow::Result<()> {
        let cookies = match case {
            Case::Proxied => &self.passes,
            Case::Diverted => &self.tickets,
        };
        let fronts: Vec<(&Front, SocketAddr)> =
            self.fronts.iter().filter_map(|front| front.address(case).map(|address| (front, address))).collect();
        let mut measured: Vec<Vec<Measured>> = fronts.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for ((front, address), measured) in fronts.iter().zip(&mut measured) {
                measured.push(self.load.crowd(front, *address, case, cookies, window).with_context(|| front.name)?);
            }
        }
        let base = fronts.iter().position(|(front, _)| front.name == "nginx").map(|place| &measured[place]);
        for ((front, _), measured) in fronts.iter().zip(&measured) {
            println!("{}", row(case, front, measured, base.map(Vec::as_slice)));
        }
        Ok(())
    }
}

impl Load {
    /// Lets a crowd come to a front.
    fn crowd(&mut self, front: &Front, address: SocketAddr, case: Case, cookies: &Path, window: Duration) -> anyhow::Result<Measured> {
        let crowd = Crowd {
            address,
            status: case.status(),
            cookies: cookies.to_owned(),
            window_ms: u64::try_from(window.as_millis())?,
            watched: tree(&front.process)?,
        };
        writeln!(self.crowds, "{}", serde_json::to_string(&crowd)?)?;
        let mut line = String::new();
        self.measured.read_line(&mut line)?;
        serde_json::from_str::<Result<Measured, String>>(&line)?.map_err(anyhow::Error::msg)
    }
}

fn row(case: Case, front: &Front, measured: &[Measured], base: Option<&[Measured]>) -> String {
    let cost = |measured: &Measured| measured.cpu_ns as f64 / measured.requests.max(1) as f64 / 1000.0;
    let (cpu, ..) = spread(measured.iter().map(cost));
    let ratio = base.map_or_else(
        || "-".to_owned(),
        |base| {
            let (median, least, most) = spread(measured.iter().zip(base).map(|(ours, nginx)| cost(ours) / cost(nginx)));
            format!("{median:.3} ({least:.3}–{most:.3})")
        },
    );
    let bar = if front.admin.is_some() { format!("{:.2}", case.bar()) } else { String::new() };
    let (rate, ..) = spread(measured.iter().map(|measured| measured.requests as f64 * 1e9 / measured.elapsed_ns as f64));
    format!("| {:8} | {:12} | {cpu:>16.2} | {ratio:21} | {bar:>7} | {rate:>10.0} |", case.name(), front.name)
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    (middle, values[0], values[values.len() - 1])
}

// the gate

fn start_gate(name: &'static str, binary: &Path, directory: &Path, site: SocketAddr, pinned: bool) -> anyhow::Result<Front> {
    fs::create_dir_all(directory)?;
    let (address, admin) = (free_address()?, free_address()?);
    let config = directory.join("gate.yaml");
    // a refresh of a second: a ticket that comes is due to be renewed, as it is when a visitor's page comes back
    fs::write(
        &config,
        format!(
            "listen: {{ http: {address}, workers: 1 }}\n\
             admin: {{ listen: {admin} }}\n\
             data: data\n\
             upstream: {{ servers: [\"http://{site}\"], max_in_flight: {CONNECTIONS} }}\n\
             session: {{ rate: 1000000 }}\n\
             limits: {{ tickets_per_client: 1000000 }}\n\
             waiting_room: {{ refresh: 1s, refresh_max: 10m }}\n\
             shutdown: {{ delay: 0s, deadline: 0s }}\n"
        ),
    )?;
    let log = directory.join("log");
    let output = File::create(&log)?;
    let mut command = command(pinned, 0, binary);
    command.arg("serve").arg("--config").arg(&config).stdout(output.try_clone()?).stderr(output);
    let mut process = Process::start(&mut command)?;
    process.wait_until_ready(admin, "/readyz").with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(Front { name, proxied: Some(address), diverted: address, process, admin: Some(admin) })
}

fn copy_keys(from: &Path, to: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (from, to) = (from.join("keys"), to.join("keys"));
    fs::create_dir_all(&to)?;
    for directory in [to.parent().unwrap_or(&to), &to] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // with its permissions
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Sets the mode of every gate among the fronts.
fn set_mode(fronts: &[Front], form: &str) -> anyhow::Result<()> {
    for admin in fronts.iter().filter_map(|front| front.admin) {
        let mut stream = std::net::TcpStream::connect(admin)?;
        write!(
            stream,
            "POST /mode HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )?;
        let answer = std::io::read_to_string(stream)?;
        if !answer.starts_with("HTTP/1.1 303") {
            bail!("{form}: {answer}");
        }
    }
    Ok(())
}

/// A line of so many cookies for each connection, as the gate sets them.
fn cookies(gate: &Front, name: &str, each: usize) -> anyhow::Result<String> {
    let mut all = String::new();
    for number in 1..=CONNECTIONS * each {
        let (head, _) = load::fetch(gate.diverted)?;
        let set = load::header(&head, "set-cookie").filter(|set| set.starts_with(name)).with_context(|| format!("no {name} in {head}"))?;
        all.push_str(set.split(';').next().unwrap_or(set));
        all.push(if number % each == 0 { '\n' } else { '\t' });
    }
    Ok(all)
}

// what it is compared with

/// Starts another front. What it turns away gets an answer with this head, and a page of so many bytes.
type Start = fn(directory: &Path, site: SocketAddr, head: &str, page: usize, pinned: bool) -> anyhow::Result<Front>;

fn start_nginx(directory: &Path, site: SocketAddr, head: &str, page: usize, pinned: bool) -> anyhow::Result<Front> {
    let (proxied, diverted) = (free_address()?, free_address()?);
    let servers = format!(
        "upstream site {{ server {site}; keepalive {CONNECTIONS}; keepalive_requests 1000000000; }}\n\
         server {{\n  listen {proxied};\n  location / {{\n    proxy_pass http://site; proxy_http_version 1.1; proxy_set_header Connection \"\";\n    \
         proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n    \
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Forwarded \"for=$remote_addr;host=$http_host;proto=$scheme\";\n  }}\n}}\n\
         server {{\n  listen {diverted}; root {}; sendfile on; tcp_nopush on; error_page 503 /page.html;\n  location / {{ return 503; }}\n  \
         location = /page.html {{ internal; {} }}\n}}\n",
        directory.display(),
        add_headers(head)
    );
    fs::create_dir(directory)?;
    fs::write(directory.join("page.html"), "x".repeat(page))?;
    let process = run_nginx(directory, &servers, (proxied, "/"), pinned)?;
    Ok(Front { name: "nginx", proxied: Some(proxied), diverted, process, admin: None })
}

fn start_nginx_from_memory(directory: &Path, _site: SocketAddr, head: &str, page: usize, pinned: bool) -> anyhow::Result<Front> {
    let diverted = free_address()?;
    let mut servers = String::new();
    // one word of nginx's configuration is at most 4 KiB, so the page is put together from several
    let parts = page.div_ceil(WORD_MAX);
    for part in 0..parts {
        let len = WORD_MAX.min(page - part * WORD_MAX);
        servers.push_str(&format!("geo $part{part} {{ default \"{}\"; }}\n", "x".repeat(len)));
    }
    let body: String = (0..parts).map(|part| format!("${{part{part}}}")).collect();
    servers.push_str(&format!(
        "server {{ listen {diverted}; location = /ready {{ return 204; }} location / {{ {} return 503 \"{body}\"; }} }}\n",
        add_headers(head)
    ));
    fs::create_dir(directory)?;
    let process = run_nginx(directory, &servers, (diverted, "/ready"), pinned)?;
    Ok(Front { name: "nginx-memory", proxied: None, diverted, process, admin: None })
}

fn run_nginx(directory: &Path, servers: &str, (address, path): (SocketAddr, &str), pinned: bool) -> anyhow::Result<Process> {
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/log crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         access_log off; default_type \"text/html; charset=utf-8\"; keepalive_requests 1000000000;\n{servers}}}\n",
        directory.display()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let log = directory.join("log");
    let mut process = Process::start(command(pinned, 0, Path::new("nginx")).arg("-e").arg(&log).arg("-c").arg(&file))?;
    process.wait_until_ready(address, path).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(process)
}

fn add_headers(head: &str) -> String {
    comparable(head).map(|(name, value)| format!("add_header {name} {} always; ", quoted(value))).collect()
}

fn start_haproxy(directory: &Path, site: SocketAddr, head: &str, page: usize, pinned: bool) -> anyhow::Result<Front> {
    fs::create_dir(directory)?;
    let (proxied, diverted) = (free_address()?, free_address()?);
    let body = directory.join("page");
    fs::write(&body, "x".repeat(page))?;
    let mut config = format!(
        "global\n  maxconn 4096\n  nbthread 1\n\
         defaults\n  mode http\n  http-reuse always\n  timeout connect 2s\n  timeout client 75s\n  timeout server 60s\n\
         frontend proxied\n  bind {proxied}\n  http-request set-header X-Forwarded-For %[src]\n  \
         http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
         http-request set-header Forwarded for=%[src];host=%[req.hdr(host)];proto=http\n  default_backend site\n\
         backend site\n  server site {site}\n\
         frontend diverted\n  bind {diverted}\n  \
         http-request return status 503 content-type \"text/html; charset=utf-8\" file {}",
        body.display()
    );
    for (name, value) in comparable(head) {
        config.push_str(&format!(" hdr {name} {}", quoted(&value.replace('%', "%%"))));
    }
    config.push('\n');
    let file = directory.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut process = Process::start(command(pinned, 0, Path::new("haproxy")).args(["-db", "-q", "-f"]).arg(&file))?;
    process.wait_until_ready(proxied, "/")?;
    Ok(Front { name: "haproxy", proxied: Some(proxied), diverted, process, admin: None })
}

/// The headers of the gate's answer that the others don't set by themselves.
fn comparable(head: &str) -> impl Iterator<Item = (&str, &str)> {
    load::headers(head).filter(|(name, _)| !matches!(*name, "content-type" | "content-length" | "date"))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

const WORD_MAX: usize = 4000;

// processes

/// A process and its children: nginx works in one.
fn tree(process: &Process) -> anyhow::Result<Vec<u32>> {
    let parent = process.0.id();
    let mut tree = vec![parent];
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // it may have ended since; its parent is the second field after the name, which is in brackets
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
        if fields.split(' ').nth(1).and_then(|field| field.parse().ok()) == Some(parent) {
            tree.push(id);
        }
    }
    Ok(tree)
}

/// A command on a core of its own, if that can be had.
fn command(pinned: bool, core: usize, program: &Path) -> Command {
    if !pinned {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}

fn is_installed(program: &str) -> bool {
    let known = Command::new(program).arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // what it makes of the flag doesn't matter
    known.is_ok()
}
