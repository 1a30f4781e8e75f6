//! CPU time of a request: of the gate and of the others in turn, and as a ratio to one of them.

use anyhow::Context;
use clap::ValueEnum;

use super::crowd::{Crowd, Measured};
use super::load::{self, Order, Visitors};
use super::peers::Front;
use super::world::{CONNECTIONS, Load, SESSIONS, STREAMS, World, tree};
use super::{Length, spread};

/// What happens to the requests.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Case {
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
    /// They are turned away, each on a connection of its own, as those are who wait in tens of thousands.
    Fresh,
    /// The same within TLS, each with a handshake.
    FreshFull,
    /// The same, by who has been there.
    FreshResumed,
    /// They reach the site over HTTP/2, ten at a time on each of ten connections.
    #[value(name = "h2")]
    Http2,
    /// The same, a hundred at a time on one.
    #[value(name = "h2-one")]
    Http2One,
    /// They are turned away over HTTP/2, ten at a time on each of ten connections.
    #[value(name = "h2-diverted")]
    Http2Diverted,
}

impl Case {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Proxied => "proxied",
            Self::Diverted => "diverted",
            Self::Proxied64k => "64 KiB",
            Self::Proxied1m => "1 MiB",
            Self::Tls => "TLS",
            Self::Tls1m => "TLS 1 MiB",
            Self::Full => "handshake",
            Self::Resumed => "resumed",
            Self::Fresh => "fresh div.",
            Self::FreshFull => "hands. div.",
            Self::FreshResumed => "resum. div.",
            Self::Http2 => "HTTP/2",
            Self::Http2One => "HTTP/2 × 1",
            Self::Http2Diverted => "HTTP/2 div.",
        }
    }

    pub(super) const fn is_diverted(self) -> bool {
        matches!(self, Self::Diverted | Self::Fresh | Self::FreshFull | Self::FreshResumed | Self::Http2Diverted)
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Tls1m | Self::Full | Self::Resumed | Self::FreshFull | Self::FreshResumed)
            || self.streams().is_some()
    }

    /// Each request comes on a connection of its own.
    const fn is_fresh(self) -> bool {
        matches!(self, Self::Full | Self::Resumed | Self::Fresh | Self::FreshFull | Self::FreshResumed)
    }

    /// Over HTTP/2, so many requests at a time on each connection.
    const fn streams(self) -> Option<usize> {
        match self {
            Self::Http2 | Self::Http2Diverted => Some(STREAMS),
            Self::Http2One => Some(SESSIONS * STREAMS),
            Self::Proxied
            | Self::Diverted
            | Self::Proxied64k
            | Self::Proxied1m
            | Self::Tls
            | Self::Tls1m
            | Self::Full
            | Self::Resumed
            | Self::Fresh
            | Self::FreshFull
            | Self::FreshResumed => None,
        }
    }

    const fn path(self) -> &'static str {
        let [small, middle, large] = load::PAGES;
        match self {
            Self::Proxied64k => middle.0,
            Self::Proxied1m | Self::Tls1m => large.0,
            Self::Proxied
            | Self::Diverted
            | Self::Tls
            | Self::Full
            | Self::Resumed
            | Self::Fresh
            | Self::FreshFull
            | Self::FreshResumed
            | Self::Http2
            | Self::Http2One
            | Self::Http2Diverted => small.0,
        }
    }

    /// Who comes to a front. None if it is not measured.
    pub(super) fn visitors(self, world: &World, front: &Front) -> Option<Visitors> {
        let address = match (self.is_diverted(), self.is_tls()) {
            (false, false) => front.proxied,
            (false, true) => front.proxied_tls,
            (true, false) => front.diverted,
            (true, true) => front.diverted_tls,
        };
        let cookies = match (self.is_diverted(), self.streams()) {
            (false, _) => &world.passes,
            (true, None) => &world.tickets,
            (true, Some(_)) => &world.more_tickets,
        };
        Some(Visitors {
            status: if self.is_diverted() { 503 } else { 200 },
            cookies: cookies.clone(),
            path: self.path().to_owned(),
            connections: self.streams().map_or(CONNECTIONS, |streams| SESSIONS * STREAMS / streams),
            tls: self.is_tls().then(|| world.tls(matches!(self, Self::Resumed | Self::FreshResumed))),
            streams: self.streams(),
            fresh: self.is_fresh(),
            ..world.with_passes(address?)
        })
    }

    /// The most that the gate may cost, as a multiple of what another does.
    const fn bar(self) -> (f64, &'static str) {
        match self {
            Self::Diverted => (0.8, "nginx"),
            Self::Proxied64k | Self::Proxied1m => (1.0, "nginx"),
            Self::Proxied | Self::Tls | Self::Tls1m | Self::Full | Self::Resumed | Self::Fresh | Self::FreshFull | Self::FreshResumed => {
                (1.1, "nginx")
            }
            Self::Http2 | Self::Http2One | Self::Http2Diverted => (0.8, "envoy"),
        }
    }
}

/// Prints the rows of a case.
pub(super) fn measure(world: &mut World, case: Case, length: Length) -> anyhow::Result<()> {
    let fronts: Vec<(&Front, Visitors)> =
        world.fronts.iter().filter_map(|front| case.visitors(world, front).map(|visitors| (front, visitors))).collect();
    let measured = in_turn(&mut world.load, &fronts, length)?;
    let (bar, to) = case.bar();
    print(case.name(), &fronts, &measured, (bar, to));
    Ok(())
}

/// Lets the crowd come to each in turn, and again and again.
pub(super) fn in_turn(load: &mut Load, fronts: &[(&Front, Visitors)], length: Length) -> anyhow::Result<Vec<Vec<Measured>>> {
    let mut measured: Vec<Vec<Measured>> = fronts.iter().map(|_| Vec::new()).collect();
    for _ in 0..length.rounds {
        for ((front, visitors), measured) in fronts.iter().zip(&mut measured) {
            let crowd = Crowd { visitors: visitors.clone(), window_ms: length.window_ms, watched: tree(&front.processes)? };
            measured.push(load.order(&Order::Crowd(crowd)).with_context(|| front.name)?);
        }
    }
    Ok(measured)
}

/// `to` is the front that the others are compared with, and `bar` the most that a gate may cost of what that does.
pub(super) fn print(name: &str, fronts: &[(&Front, Visitors)], measured: &[Vec<Measured>], (bar, to): (f64, &str)) {
    let base = fronts.iter().position(|(front, _)| front.name == to).map(|place| &measured[place]);
    for ((front, _), measured) in fronts.iter().zip(measured) {
        let cost = |measured: &Measured| measured.cpu_ns as f64 / measured.requests.max(1) as f64 / 1000.0;
        let (cpu, ..) = spread(measured.iter().map(cost));
        let ratio = base.map_or_else(
            || "-".to_owned(),
            |base| {
                let (median, least, most) = spread(measured.iter().zip(base).map(|(ours, theirs)| cost(ours) / cost(theirs)));
                format!("{median:.3} ({least:.3}–{most:.3})")
            },
        );
        let bar = if front.admin.is_some() { format!("{bar:.2}") } else { String::new() };
        let (rate, ..) = spread(measured.iter().map(|measured| measured.requests as f64 * 1e9 / measured.elapsed_ns as f64));
        println!("| {name:11} | {:12} | {cpu:>16.2} | {ratio:21} | {to:10} | {bar:>7} | {rate:>10.0} |", front.name);
    }
}

pub(super) const HEADING: &str = "\
| requests    | front        | CPU µs a request | ratio                 | to         | at most | requests/s |
|-------------|--------------|------------------|-----------------------|------------|---------|------------|";
