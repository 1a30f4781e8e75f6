//! What an idle connection keeps of a front's memory: of many, each of which has made one request for the small page.
//!
//! Each row has a process of its own, whose memory is read when a few connections have come and gone, and again when all are there and have
//! been idle for a while. RSS is all of it; PSS divides what several processes share; USS is what is theirs alone. Not counted is what
//! the kernel keeps, which is the same for all: sockets, and what waits in them.

use std::fs;

use anyhow::{Context, ensure};

use super::idle::{Idle, Kept, Memory};
use super::load::Order;
use super::support::raise_descriptor_limit;
use super::world::{STREAMS, World, tree};

/// How a connection comes.
#[derive(Clone, Copy)]
enum Over {
    Plain,
    Tls,
    Http2,
}

impl Over {
    const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Http2];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1",
            Self::Tls => "HTTP/1, TLS",
            Self::Http2 => "HTTP/2, TLS",
        }
    }

    /// The most that the gate may keep of a connection, in bytes.
    const fn bar(self) -> Option<u64> {
        match self {
            Self::Plain => Some(4096),
            Self::Tls | Self::Http2 => None,
        }
    }
}

/// Prints a table.
pub(super) fn measure(world: &mut World, connections: usize, idle_ms: u64) -> anyhow::Result<()> {
    // a front has one more for each request that is at the site; HAProxy wants room for as many there as here
    let (needed, limit) = (2 * connections as u64 + 1000, raise_descriptor_limit()?);
    ensure!(limit >= needed, "{connections} idle connections take {needed} descriptors a process, and `ulimit -Hn` is {limit}");
    println!("\n{connections} connections, idle for {idle_ms} ms; KiB for each\n{HEADING}");
    for over in Over::ALL {
        let fronts = world.fronts.iter().filter(|front| front.proxied.is_some());
        let names: Vec<&str> =
            fronts.filter(|front| matches!(over, Over::Plain) || front.proxied_tls.is_some()).map(|front| front.name).collect();
        for name in names {
            println!("{}", row(world, over, name, (connections, idle_ms)).with_context(|| format!("{name}, {}", over.name()))?);
        }
    }
    Ok(())
}

fn row(world: &mut World, over: Over, name: &'static str, (connections, idle_ms): (usize, u64)) -> anyhow::Result<String> {
    let directory = world.directory().join(format!("idle-{}", over as u8));
    fs::create_dir_all(&directory)?;
    // above what comes at a time of which the last tenth is kept for some
    let front = world.start_again(name, &directory, connections + connections / 8 + 100)?;
    let address = if matches!(over, Over::Plain) { front.proxied } else { front.proxied_tls };
    let mut visitors = world.with_passes(address.context("no address")?);
    visitors.connections = connections;
    visitors.tls = (!matches!(over, Over::Plain)).then(|| world.tls(false));
    visitors.streams = matches!(over, Over::Http2).then_some(STREAMS);
    let kept: Kept = world.load.order(&Order::Idle(Idle { visitors, idle_ms, watched: tree(&front.processes)? }))?;
    let each = |of: fn(&Memory) -> u64| (of(&kept.idle) as f64 - of(&kept.before) as f64) / connections as f64 / 1024.0;
    let bar = over.bar().filter(|_| front.admin.is_some()).map_or_else(String::new, |bar| format!("{:.1}", bar as f64 / 1024.0));
    Ok(format!(
        "| {:11} | {name:12} | {:>6.1} | {:>6.1} | {:>6.1} | {bar:>7} | {:>16.1} |",
        over.name(),
        each(|memory| memory.rss),
        each(|memory| memory.pss),
        each(|memory| memory.uss),
        kept.before.rss as f64 / 1024.0 / 1024.0
    ))
}

const HEADING: &str = "\
| connections | front        | RSS    | PSS    | USS    | at most | RSS before, MiB  |
|-------------|--------------|--------|--------|--------|---------|------------------|";
