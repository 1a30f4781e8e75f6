//! What the operator is told: `/status`, and the sentence at its head.

use serde_json::{Value, json};

use super::control::History;
use super::summary::{self, Facts};
use crate::gate::Regime;
use crate::mail::{Standing, WhyNone};
use crate::metrics::{Count, Metrics, NewcomerLabel, OutcomeLabel};
use crate::reload::Outcome;
use crate::rules::policy::{MaxInFlight, Mode};
use crate::rules::time::{Now, UnixTime};
use crate::upstream::{Protocol, ServerStatus};

/// All that a status is made of.
pub(super) struct Snapshot<'a> {
    pub(super) regime: &'a Regime,
    pub(super) servers: &'a [ServerStatus],
    pub(super) queue: usize,
    pub(super) slots: u32,
    pub(super) connections: usize,
    pub(super) idle: usize,
    pub(super) upgrades: usize,
    /// Whether an address can be taken now.
    pub(super) email_writable: bool,
    pub(super) invitations: &'a Standing,
    pub(super) history: &'a History,
    pub(super) config: Option<(String, Outcome)>,
    pub(super) draining: bool,
    pub(super) now: Now,
}

fn invitations(standing: &Standing) -> Value {
    json!({
        "summary": summary::invitations(standing),
        "by": standing.by,
        "paused": standing.paused,
        "held": standing.held.map(WhyNone::name),
        "trouble": standing.trouble,
        "sent": standing.totals.sent,
        "deferred": standing.totals.due,
        "failed": standing.totals.failed,
        "redeemed": standing.totals.redeemed,
        "outstanding": standing.outstanding,
        "expected": round(standing.expected),
        "expected_max": round(standing.expected_max),
    })
}

/// How the site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Up,
    Struggling,
    Down,
    Unknown,
}

/// More bad answers than this, as a share of the last minute's, and the site is struggling.
const STRUGGLING: f64 = 0.1;

pub(super) fn status(snapshot: &Snapshot<'_>) -> Value {
    let Snapshot { regime, servers, now, .. } = snapshot;
    let outcomes = snapshot.history.last_minute();
    let in_flight: u32 = servers.iter().map(|server| server.in_flight).sum();
    let site = site(snapshot, in_flight);
    let by_hand = regime.mode.by_hand;
    let probability = match regime.mode.mode {
        Mode::Fixed(probability) => Some(probability),
        Mode::Auto | Mode::Open | Mode::Closed | Mode::Observe => None,
    };
    let outcomes: serde_json::Map<String, Value> =
        OutcomeLabel::ALL.iter().zip(outcomes).map(|(outcome, count)| (outcome.label().to_owned(), json!(count))).collect();
    let config = snapshot.config.as_ref().map(|(path, outcome)| {
        json!({
            "path": path,
            "last_applied": timestamp(outcome.applied_at),
            "last_result": if outcome.errors.is_empty() { "applied" } else { "rejected" },
            "errors": outcome.errors,
        })
    });
    let (site_summary, gate_summary) = (site_summary(site), summary::sentence(&facts(snapshot, in_flight)));
    let newcomers = snapshot.history.newcomers_of_last_minute();
    json!({
        "summary": format!("{site_summary} {gate_summary}"),
        "site_summary": site_summary,
        "gate_summary": gate_summary,
        "site": match site {
            Site::Up => "up",
            Site::Struggling => "struggling",
            Site::Down => "down",
            Site::Unknown => "unknown",
        },
        "mode": {
            "name": regime.mode.mode.name(),
            "source": if by_hand.is_some() { "operator" } else { "file" },
            "until": by_hand.and_then(|by_hand| by_hand.until).map(timestamp),
            "probability": probability,
        },
        "limiting": regime.limiting,
        "limit": regime.limit().name(),
        "load": round(regime.law.load),
        "capacity": round(regime.law.capacity),
        "probability": round(regime.probability()),
        "admission_rate": round(regime.law.newcomers),
        "committed": round(regime.law.committed),
        "requests_per_newcomer": round(regime.law.requests_per_newcomer),
        "active": regime.active,
        "waiting": regime.waiting,
        "order": regime.order().name(),
        "line": line(regime),
        "expected_wait_s": regime.expected_wait().map(|wait| wait.as_secs()),
        "epoch_s": regime.epoch.as_secs(),
        "max_in_flight": {
            "now": regime.server_limit.per_server,
            "source": if regime.policy.upstream.max_in_flight == MaxInFlight::Auto { "found" } else { "file" },
        },
        "slots": { "in_flight": in_flight, "of": snapshot.slots, "queue": snapshot.queue },
        "upstream": servers
            .iter()
            .map(|server| {
                let ServerStatus { label, up, in_flight, idle, protocol, trouble } = server;
                let protocol = protocol.map(Protocol::name);
                json!({ "server": label, "up": up, "in_flight": in_flight, "idle": idle, "protocol": protocol, "trouble": trouble })
            })
            .collect::<Vec<_>>(),
        "email_queue": {
            "enabled": regime.policy.email_queue.enabled,
            "addresses": snapshot.invitations.addresses,
            "waiting": snapshot.invitations.waiting,
            "oldest": snapshot.invitations.oldest.map(timestamp),
            "writable": snapshot.email_writable,
        },
        "invitations": invitations(snapshot.invitations),
        "connections": { "open": snapshot.connections, "idle": snapshot.idle, "limit": regime.policy.limits.connections },
        "upgrades": { "open": snapshot.upgrades, "limit": regime.policy.limits.upgrades },
        "newcomers_last_minute": { "admit": newcomers.0, "wait": newcomers.1 },
        "observed": observed(regime, newcomers),
        "outcomes_last_minute": outcomes,
        "config": config,
        "history": snapshot.history.points(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": now.mono.as_micros() / 1_000_000,
        "draining": snapshot.draining,
    })
}

/// Who came before this may enter, and how many stand in the line; nothing while nobody is held back, and in a lottery.
fn line(regime: &Regime) -> Option<Value> {
    let (at, length) = regime.line()?;
    Some(json!({ "at": timestamp(at), "length": length }))
}

fn site(snapshot: &Snapshot<'_>, in_flight: u32) -> Site {
    let outcomes = snapshot.history.last_minute();
    let of = |wanted: &[OutcomeLabel]| -> u64 {
        OutcomeLabel::ALL.iter().zip(&outcomes).filter(|(outcome, _)| wanted.contains(outcome)).map(|(_, count)| count).sum()
    };
    let good = of(&[OutcomeLabel::Ok, OutcomeLabel::Slow]);
    let bad = of(&[OutcomeLabel::Error, OutcomeLabel::Timeout, OutcomeLabel::Connect]);
    let recent = snapshot.history.recent_good();
    if snapshot.servers.iter().all(|server| !server.up) || (recent == 0 && (bad > 0 || in_flight >= snapshot.slots)) {
        Site::Down
    } else if good + bad == 0 {
        Site::Unknown
    } else if ratio(bad, good + bad) > STRUGGLING {
        Site::Struggling
    } else {
        Site::Up
    }
}

/// Whether the site is up, in one sentence.
const fn site_summary(site: Site) -> &'static str {
    match site {
        Site::Up => "The site is up.",
        Site::Struggling => "The site is up, but many of its answers are errors.",
        Site::Down => "The site is down: it gives no good answers.",
        Site::Unknown => "Nothing has been asked of the site in the last minute.",
    }
}

/// What the sentence at the head is made of.
fn facts(snapshot: &Snapshot<'_>, in_flight: u32) -> Facts {
    let regime = snapshot.regime;
    Facts {
        mode: regime.mode.mode,
        order: regime.order(),
        draining: snapshot.draining,
        limiting: regime.limiting,
        limit: regime.limit(),
        law: regime.law,
        measured: regime.measured,
        probe_rate: regime.policy.admission.probe_rate,
        waiting: regime.waiting,
        slots: snapshot.slots,
        in_flight,
        queued: snapshot.queue,
        servers: snapshot.servers.len(),
        ejected: snapshot.servers.iter().filter(|server| !server.up).count(),
        rehearsed: regime.rehearsed,
        newcomers: snapshot.history.newcomers_of_last_minute(),
    }
}

/// Under `observe`: what would have come of holding back.
fn observed(regime: &Regime, (admitted, waited): (u64, u64)) -> Option<Value> {
    let rehearsed = regime.rehearsed?;
    Some(json!({
        "newcomers_last_minute": admitted + waited,
        "would_wait_last_minute": waited,
        "demand": round(rehearsed.asked),
        "load_of_all": round(rehearsed.asked / regime.law.requests.max(1e-9)).min(100.0),
        "wait_s": rehearsed.wait.map(|wait| wait.as_secs()),
        "line": rehearsed.waiting.round(),
        "slot_queue": rehearsed.queued.round(),
        "would_shed": rehearsed.sheds,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / (whole as f64).max(1.0)
}

/// Four figures behind the point are enough for a person, and for a log line.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

pub(super) fn timestamp(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "never".to_owned(), |time| time.to_string())
}

/// The outcomes so far, in the order of [`OutcomeLabel::ALL`].
pub(super) fn outcomes(metrics: &Metrics) -> Vec<u64> {
    OutcomeLabel::ALL.iter().map(|&outcome| metrics.total(Count::Outcome(outcome))).collect()
}

/// The newcomers so far: let in at once, and shown the waiting room.
pub(super) fn newcomers(metrics: &Metrics) -> (u64, u64) {
    (metrics.total(Count::Newcomer(NewcomerLabel::Admit)), metrics.total(Count::Newcomer(NewcomerLabel::Wait)))
}
