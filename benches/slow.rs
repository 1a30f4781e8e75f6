//! What slow clients can do to others: thousands of connections that take their time with everything, and visitors with passes beside them.
//!
//! 32 visitors ask for pages of 20 ms at half of what the site can do, for as long as the bench lasts. Beside them come attackers, none
//! of them with a pass: heads that never end, bodies that trickle, 1 MiB answers that are hardly taken; each kind by itself, then all. Who is
//! cut comes again. The visitors' latency is measured before an attack, in it and after it, on the same connections, and compared within the
//! round: other work on the machine hits all three. The gate's limits are the default ones, except that it has fewer connections, so that
//! the attackers have more than half of them.
//!
//! What is to hold: the p99 of visitors is within a fifth of what it is without the attack, no attacker lasts longer than the limit for
//! what it does, and, or it ends with an error, none of the visitors' requests fails and the gate's memory stays within what
//! `docs/operations.md` says. Of reads, `limits.buffer_memory` has no room for all that is not taken: answers then go at the speed of
//! who takes them, and attackers hold the slots that one network may have of open routes; and a body is not read before it has a slot,
//! for which it may wait half a minute that is not its client's.
//!
//! ```text
//! cargo bench --bench slow                               # the table, five minutes a round
//! cargo bench --bench slow -- --only bodies              # a row
//! cargo bench --bench slow -- --smoke                    # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "support/slow.rs"]
mod slow;
mod support;

use std::fs::{self, File};
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use tidegate::clock::Clock;

use slow::{Attack, Kind, SLOTS, Seen, VISITORS, Window};
use support::{Directory, Process, free_address, loopback, pause, raise_descriptor_limit};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Site) = arguments.part {
        return be_the_site();
    }
    if !arguments.bench && !arguments.smoke {
        // `cargo test --all-targets` runs every target: minutes of load are not a test
        println!("run me with `cargo bench --bench slow`");
        return Ok(());
    }
    let connections = if arguments.smoke { 50 } else { arguments.connections };
    raise_descriptors(connections as u64 + 1000)?;
    let world = World::start(connections)?;
    println!("{connections} attackers, {VISITORS} visitors, windows of {} s", arguments.times().window.as_secs());
    println!("{HEADING}");
    for kind in Kind::value_variants() {
        if arguments.only.is_empty() || arguments.only.contains(kind) {
            for _ in 0..arguments.rounds {
                println!("{}", world.round(*kind, connections, arguments.times())?);
            }
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
    /// Attackers at a time.
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// These kinds of attack.
    #[arg(long)]
    only: Vec<Kind>,
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Be the site, until the input ends.
    #[command(hide = true)]
    Site,
}

impl Arguments {
    const fn times(&self) -> Times {
        let [ramp, window, lasts] = if self.smoke { [0, 1, 1] } else { [10, 15, 50] };
        Times { ramp: Duration::from_secs(ramp), window: Duration::from_secs(window), lasts: Duration::from_secs(lasts) }
    }
}

#[derive(Clone, Copy)]
struct Times {
    /// Until all attackers are there.
    ramp: Duration,
    /// Before and after the attack.
    window: Duration,
    /// When all are there: longer than any limit.
    lasts: Duration,
}

const HEADING: &str = "\
| attack | open at the end | cut    | longest life s | p50 ms without | with  | p99 ms without | with  | ratio | failed | gate MiB |
|--------|-----------------|--------|----------------|----------------|-------|----------------|-------|-------|--------|----------|";

struct World {
    gate: SocketAddr,
    window: Arc<Window>,
    clock: Arc<Clock>,
    front: Process,
    _site: Process,
    _directory: Directory,
}

impl World {
    fn start(connections: usize) -> anyhow::Result<Self> {
        let (site, _, process) = Process::start_part(Command::new(std::env::current_exe()?).arg("site"))?;
        let directory = Directory::new("slow")?;
        let (gate, admin, front) = start_gate(directory.path(), site, connections)?;
        let passes = (0..VISITORS).map(|_| pass(gate)).collect::<anyhow::Result<Vec<String>>>()?;
        // nobody else enters from here on: those who attack are strangers
        close(admin)?;
        let (window, clock) = (Arc::new(Window::default()), Arc::new(Clock::start()));
        let visiting = (Arc::clone(&window), Arc::clone(&clock));
        drop(apart(move || slow::visit(gate, passes, visiting.0, visiting.1))?);
        Ok(Self { gate, window, clock, front, _site: process, _directory: directory })
    }

    fn round(&self, kind: Kind, connections: usize, times: Times) -> anyhow::Result<String> {
        let mut without = self.watch(times.window);
        let attack = Arc::new(Attack::default());
        let (gate, ramp, clock, attacking) = (self.gate, times.ramp, Arc::clone(&self.clock), Arc::clone(&attack));
        let attackers = apart(move || slow::attack(gate, kind, connections, ramp, attacking, clock))?;
        pause(times.ramp);
        let mut with = self.watch(times.lasts);
        let open = attack.open();
        let memory = self.resident_mib()?;
        attack.end();
        drop(attackers.join());
        // what was cut off is put away
        pause(times.ramp / 5);
        without.merge(self.watch(times.window));
        let (failures, most) = (without.failures + with.failures, memory_most_mib(connections));
        ensure!(failures == 0, "{}: {failures} requests of visitors failed", kind.name());
        ensure!(memory <= most, "{}: the gate takes {memory} MiB, and {most} were to be enough", kind.name());
        let (p99_without, p99_with) = (without.quantile_ms(0.99), with.quantile_ms(0.99));
        Ok(format!(
            "| {:6} | {open:>15} | {:>6} | {:>14.1} | {:>14.2} | {:>5.2} | {p99_without:>14.2} | {p99_with:>5.2} | {:>5.2} | {:>6} | {memory:>8} |",
            kind.name(),
            attack.cut(),
            attack.longest_s(),
            without.quantile_ms(0.5),
            with.quantile_ms(0.5),
            p99_with / p99_without,
            failures,
        ))
    }

    /// Memory that the gate takes now.
    fn resident_mib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.front.0.id()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(resident.trim_end_matches("kB").trim().parse::<u64>()? / 1024)
    }

    fn watch(&self, length: Duration) -> Seen {
        self.window.open();
        pause(length);
        self.window.close()
    }
}

/// The gate's limit of connections: the attackers have more than half of them.
const fn limit(attackers: usize) -> usize {
    attackers * 8 / 5
}

/// As `docs/operations.md` has it, with the default limits and without TLS.
const fn memory_most_mib(attackers: usize) -> u64 {
    const HEADER_KIB: u64 = 32;
    const BUFFER_MIB: u64 = 512;
    64 + BUFFER_MIB + limit(attackers) as u64 * (2 * HEADER_KIB + 408) / 1024
}

/// Runs something on a thread and a runtime of its own.
fn apart<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(std::thread::spawn(move || runtime.block_on(async { run().await })))
}

/// Everyone enters at first, and what attackers ask for is open to them, as files of a site usually are.
fn start_gate(directory: &Path, site: SocketAddr, connections: usize) -> anyhow::Result<(SocketAddr, SocketAddr, Process)> {
    let (http, admin) = (free_address()?, free_address()?);
    let config = directory.join("gate.yaml");
    fs::write(
        &config,
        format!(
            "listen: {{ http: {http} }}\n\
             admin: {{ listen: {admin} }}\n\
             data: data\n\
             upstream: {{ servers: [\"http://{site}\"], max_in_flight: {SLOTS} }}\n\
             admission: {{ mode: open }}\n\
             session: {{ rate: 1000000 }}\n\
             routes: [{{ path: \"/static/**\", gate: open }}]\n\
             limits: {{ connections: {} }}\n\
             shutdown: {{ delay: 0s, deadline: 0s }}\n",
            limit(connections)
        ),
    )?;
    let log = directory.join("log");
    let output = File::create(&log)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).stdout(output.try_clone()?).stderr(output);
    let mut process = Process::start(&mut command).context("the gate")?;
    process.wait_until_ready(admin, "/readyz").with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok((http, admin, process))
}

/// The cookie of a visitor who was let in.
fn pass(gate: SocketAddr) -> anyhow::Result<String> {
    let answer = say(gate, "GET /page HTTP/1.1\r\nHost: test\r\nAccept: text/html\r\nConnection: close\r\n\r\n")?;
    let set = answer.lines().filter_map(|line| line.split_once(": "));
    let pass = set.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).find(|(_, value)| value.starts_with("tidegate_pass"));
    let (_, pass) = pass.with_context(|| format!("no pass in {answer}"))?;
    Ok(pass.split(';').next().unwrap_or(pass).to_owned())
}

fn close(admin: SocketAddr) -> anyhow::Result<()> {
    let form = "mode=closed";
    let answer = say(
        admin,
        &format!(
            "POST /mode HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        ),
    )?;
    ensure!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    Ok(())
}

fn say(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn be_the_site() -> anyhow::Result<()> {
    let listener = TcpListener::bind(loopback())?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    drop(apart(move || async move { drop(slow::be_the_site(listener).await) })?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Attackers and visitors share this process, each connection with a descriptor.
fn raise_descriptors(needed: u64) -> anyhow::Result<()> {
    let limit = raise_descriptor_limit()?;
    ensure!(
        limit >= needed,
        "{needed} file descriptors are needed, and RLIMIT_NOFILE is {limit}: raise its hard limit, or come with fewer --connections"
    );
    Ok(())
}
