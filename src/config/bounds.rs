//! The least and the most that each setting may be, and why.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Durations.
pub(super) type Span = RangeInclusive<Duration>;

/// Threads: more than the cores of any machine that this runs on.
pub(super) const WORKERS: RangeInclusive<usize> = 1..=1024;

/// Further certificates: each is read and compared at each reload, and a thousand sites are no longer one site.
pub(super) const CERTIFICATES: RangeInclusive<usize> = 0..=1000;
/// Hosts that are sent to TLS: compared one by one with that of each plaintext request.
pub(super) const REDIRECT_HOSTS: RangeInclusive<usize> = 0..=100;

/// Servers: none is no site, and each has a metric series of its own.
pub(super) const SERVERS: RangeInclusive<usize> = 1..=256;
/// Workers of one server: none serves nobody, and no single server has more.
pub(super) const MAX_IN_FLIGHT: RangeInclusive<u32> = 1..=100_000;
/// Waiting for a slot: longer than 30 s, which an unsafe method gets, and the visitor has left.
pub(super) const DEADLINE: Span = ms(10)..=secs(30);
/// Requests that wait: each holds a connection, and `limits.connections` is as large at most.
pub(super) const QUEUE_LENGTH: RangeInclusive<usize> = 1..=CONNECTIONS_MAX;
/// To connect: TCP gives up by itself after about a minute.
pub(super) const CONNECT: Span = ms(10)..=secs(60);
/// An answer: an hour covers the longest report.
pub(super) const RESPONSE: Span = ms(100)..=HOUR;
/// An idle upstream connection, which holds a worker of a prefork server.
pub(super) const UPSTREAM_IDLE: Span = ms(100)..=HOUR;
/// One body's buffer: a page of memory at least; 64 MiB of every visitor is more than there is.
pub(super) const BUFFER: RangeInclusive<usize> = 4 * KIB..=64 * MIB;

/// Work kept waiting for a slot: a second is the default deadline, ten are past every patience.
pub(super) const QUEUE_WAIT: Span = ms(1)..=secs(10);
/// Visitors a second: one in about 17 minutes at least, or recovery is never noticed; 100 is no probe any more.
pub(super) const PROBE_RATE: RangeInclusive<f64> = 0.001..=100.0;
/// Shares and probabilities.
pub(super) const RATIO: RangeInclusive<f64> = 0.0..=1.0;

/// A visitor counts as active: at least a tick, at most as long as anyone reads one page.
pub(super) const ACTIVE: Span = secs(1)..=HOUR;
/// A pass may be idle, and may last: a month is no session any more.
pub(super) const SESSION: Span = secs(1)..=days(30);
/// Requests of one pass at a time: as many as a server has workers at most.
pub(super) const PASS_IN_FLIGHT: RangeInclusive<u32> = MAX_IN_FLIGHT;
/// Requests of one pass a minute: the upper end is no limit at all.
pub(super) const PASS_RATE: RangeInclusive<u32> = 1..=1_000_000;

/// Routes: every pattern is a part of one automaton that is built at each reload.
pub(super) const ROUTES: RangeInclusive<usize> = 0..=1000;
/// Bytes of one pattern: as long as a path that any server takes.
pub(super) const PATTERN_MAX: usize = 2048;

/// A page that waits comes back: the law ticks once a second, and nobody believes in a page that stands still for ten minutes.
pub(super) const REFRESH: Span = secs(1)..=secs(600);

/// Rows of the email queue: an hour to send anything, ten years to forget it.
pub(super) const RETENTION: Span = HOUR..=days(3650);
/// Posts a minute of one client prefix, behind which a whole country can be.
pub(super) const POSTS_PER_CLIENT: RangeInclusive<u32> = 1..=1_000_000;
/// Addresses of one ticket: a family, an office; never a list.
pub(super) const ADDRESSES_PER_TICKET: RangeInclusive<u32> = 1..=1000;
/// Low load before invitations go out.
pub(super) const SETTLE: Span = Duration::ZERO..=days(1);
/// Invitations a second: one in about 17 minutes, or as many as a mail relay takes.
pub(super) const INVITATION_RATE: RangeInclusive<f64> = 0.001..=1000.0;
/// A code holds: long enough to read the email, and not for ever.
pub(super) const EXPIRES: Span = secs(60)..=days(365);

/// Revoked passes and batches: each may be compared with every pass that comes; a batch covers any number of passes.
pub(super) const REVOKED: RangeInclusive<usize> = 0..=10_000;
/// Trusted networks: looked through one by one, for each connection.
pub(super) const NETWORKS: RangeInclusive<usize> = 0..=1000;

/// Connections: a tenth is kept for pass holders, so ten at least; a million file descriptors is where kernels stop.
pub(super) const CONNECTIONS: RangeInclusive<usize> = 10..=CONNECTIONS_MAX;
const CONNECTIONS_MAX: usize = 1_000_000;
/// Connections of one client prefix, behind which a whole country can be.
pub(super) const CONNECTIONS_PER_CLIENT: RangeInclusive<usize> = 1..=CONNECTIONS_MAX;
/// WebSockets: each is a connection, too; with none they are all refused.
pub(super) const UPGRADES: RangeInclusive<usize> = 0..=CONNECTIONS_MAX;
/// A WebSocket over which nothing goes: a day, for a site that sends no pings, is longer than any page stays open.
pub(super) const UPGRADE_IDLE: Span = ms(100)..=days(1);
/// A request head: less would refuse the cookies of ordinary sites; beyond a mebibyte it is an attack.
pub(super) const HEADER_BYTES: RangeInclusive<usize> = 8 * KIB..=MIB;
/// Waiting for a client to send something.
pub(super) const CLIENT_TIMEOUT: Span = ms(100)..=HOUR;
/// Bytes a second of a body: none is no limit; no visitor's line is held to more than a mebibyte.
pub(super) const MIN_RATE: RangeInclusive<usize> = 0..=MIB;
/// All buffers together: one large body at least, and no more than machines have.
pub(super) const BUFFER_MEMORY: RangeInclusive<usize> = MIB..=1024 * 1024 * MIB;
/// Tickets a minute of one client prefix, behind which a whole country can be.
pub(super) const TICKETS_PER_CLIENT: RangeInclusive<u32> = 1..=1_000_000;

/// Phases of a shutdown: service managers kill long before an hour is over. Both may be skipped.
pub(super) const SHUTDOWN: Span = Duration::ZERO..=HOUR;

/// Bytes of any text: as long as a path can be.
pub(super) const TEXT_MAX: usize = 4096;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const HOUR: Duration = secs(3600);

/// Milliseconds.
pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Seconds.
pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Days.
pub(super) const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}
