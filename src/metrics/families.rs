//! Names, help and form of every family: the outward contract, on one page.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::labels::{
    EmailRefusal, InvitationResult, ModeLabel, NewcomerLabel, ObservedLabel, OutcomeLabel, Refusal, ReloadResult, TokenRejection,
    UpgradeResult, VerdictLabel,
};
use super::shard::{Count, MergedHistogram, Timing};
use super::{Gauge, Values};

/// A counter: its series, each with its label value, if the family has a label.
struct Counter {
    name: &'static str,
    help: &'static str,
    label: Option<&'static str>,
    series: Vec<(&'static str, Count)>,
}

impl Counter {
    fn plain(name: &'static str, help: &'static str, count: Count) -> Self {
        Self { name, help, label: None, series: vec![("", count)] }
    }

    fn labelled<L: Copy>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        all: &[L],
        value: fn(L) -> &'static str,
        count: fn(L) -> Count,
    ) -> Self {
        Self { name, help, label: Some(label), series: all.iter().map(|one| (value(*one), count(*one))).collect() }
    }
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn counters() -> Vec<Counter> {
    vec![
        Counter::labelled(
            "tidegate_requests_total",
            "Requests by verdict: open (route is not gated), bypass (invited or staff pass), admit, wait (shown the waiting room), \
             shed (may enter, but the site had no free slot in time). In mode observe the verdict is only counted, here and in \
             tidegate_observed_total, and the request goes to the site.",
            "verdict",
            VerdictLabel::ALL,
            VerdictLabel::label,
            Count::Request,
        ),
        Counter::labelled(
            "tidegate_observed_total",
            "Requests that went to the site in mode observe, by what would have become of them. Refused: 429, for a pass over \
             session.rate. Taken from tidegate_requests_total it leaves what was done.",
            "verdict",
            ObservedLabel::ALL,
            ObservedLabel::label,
            Count::Observed,
        ),
        Counter::labelled(
            "tidegate_newcomers_total",
            "Visitors by the verdict on their first request: admit (let in at once), wait (shown the waiting room; in mode observe, \
             they would have been). Clients that keep no cookies are newcomers each time.",
            "verdict",
            NewcomerLabel::ALL,
            NewcomerLabel::label,
            Count::Newcomer,
        ),
        Counter::labelled(
            "tidegate_upstream_outcomes_total",
            "Requests sent to the site, by how they ended. Connect: a server could not be reached; if another one then had the request, \
             its outcome there counts, too. Aborted: the visitor left first.",
            "outcome",
            OutcomeLabel::ALL,
            OutcomeLabel::label,
            Count::Outcome,
        ),
        Counter::labelled(
            "tidegate_tokens_rejected_total",
            "Passes and tickets that were shown and not accepted, by reason. A rise of forged or unknown_key means tampering, or keys \
             that differ between gates.",
            "reason",
            TokenRejection::ALL,
            TokenRejection::label,
            Count::TokenRejected,
        ),
        Counter::labelled(
            "tidegate_requests_refused_total",
            "Requests and connections refused before a verdict, by reason.",
            "reason",
            Refusal::ALL,
            Refusal::label,
            Count::Refused,
        ),
        Counter::plain(
            "tidegate_untrusted_forwarded_total",
            "Requests with X-Forwarded-For from a peer outside client.trusted_proxies. A large share means that the proxy in front of \
             the gate is missing from that setting, and the crowd counts as one client.",
            Count::UntrustedForwarded,
        ),
        Counter::plain(
            "tidegate_idle_connections_closed_total",
            "Idle connections that were closed because limits.connections was nearly reached: who comes back pays for a new one.",
            Count::IdleClosed,
        ),
        Counter::labelled(
            "tidegate_upgrades_total",
            "Requests for a WebSocket that went to the site, by its answer: switched (the WebSocket is open), refused (any other answer, \
             or none).",
            "result",
            UpgradeResult::ALL,
            UpgradeResult::label,
            Count::Upgrade,
        ),
        Counter::labelled(
            "tidegate_config_reloads_total",
            "Reloads of gate.yaml by result. After a rejected one the last good policy stays in force.",
            "result",
            ReloadResult::ALL,
            ReloadResult::label,
            Count::Reload,
        ),
        Counter::plain("tidegate_emails_accepted_total", "Email addresses taken and safely on disk.", Count::EmailAccepted),
        Counter::labelled(
            "tidegate_emails_refused_total",
            "Email addresses that were not taken, by reason.",
            "reason",
            EmailRefusal::ALL,
            EmailRefusal::label,
            Count::EmailRefused,
        ),
        Counter::labelled(
            "tidegate_invitations_total",
            "Attempts to send an invitation, by result. Deferred ones are tried again.",
            "result",
            InvitationResult::ALL,
            InvitationResult::label,
            Count::Invitation,
        ),
        Counter::plain("tidegate_invitations_redeemed_total", "Invitations that were redeemed for a pass.", Count::InvitationRedeemed),
    ]
}

const fn gauge(gauge: Gauge) -> (&'static str, &'static str) {
    match gauge {
        Gauge::AdmissionProbability => {
            ("tidegate_admission_probability", "Probability that a visitor who draws is let in, 0 to 1. Below 1 the gate is limiting.")
        }
        Gauge::Load => (
            "tidegate_load",
            "Requests a second asked for by visitors already in, as a share of what the site can do. 1 is the limit; invitations go \
             out below it.",
        ),
        Gauge::Capacity => ("tidegate_capacity", "Good answers a second that the site can give now, as measured."),
        Gauge::AdmissionRate => ("tidegate_admission_rate", "Newcomers a second that may enter now."),
        Gauge::VisitorsActive => ("tidegate_visitors_active", "Visitors with a pass that was seen within session.active."),
        Gauge::VisitorsWaiting => ("tidegate_visitors_waiting", "Visitors with a ticket that checked in during the last epoch."),
        Gauge::LineTimestamp => (
            "tidegate_line_timestamp_seconds",
            "With order arrival: visitors who came before this may enter, in seconds since 1970. 0 while nobody is held back, and in a \
             lottery.",
        ),
        Gauge::LineLength => (
            "tidegate_line_length",
            "With order arrival: visitors who stand in the line and attend. 0 while nobody is held back, and in a lottery.",
        ),
        Gauge::ExpectedWait => (
            "tidegate_expected_wait_seconds",
            "How long a visitor who comes now waits, by and large (in a lottery: half of them). +Inf while nobody is let in.",
        ),
        Gauge::UpstreamInFlight => ("tidegate_upstream_in_flight", "Slots in use: requests that are at an upstream server now."),
        Gauge::MaxInFlight => ("tidegate_max_in_flight", "Slots of each server: requests that may be at it at once, as told or as found."),
        Gauge::SlotQueueLength => ("tidegate_slot_queue_length", "Requests that may enter and wait for a slot now."),
        Gauge::DownstreamConnections => ("tidegate_downstream_connections", "Connections from clients that are open now."),
        Gauge::DownstreamConnectionsIdle => {
            ("tidegate_downstream_connections_idle", "Of these, connections that are between two requests.")
        }
        Gauge::CertificateExpires => (
            "tidegate_certificate_expires_timestamp_seconds",
            "When the first of the certificates that visitors are shown expires, in seconds since 1970. +Inf without TLS.",
        ),
        Gauge::UpgradesActive => (
            "tidegate_upgrades_active",
            "WebSockets that are open now, and those that the site has been asked for. Each is a connection, too.",
        ),
        Gauge::ConfigLastApplied => {
            ("tidegate_config_last_applied_timestamp_seconds", "When the policy in force was applied, in seconds since 1970.")
        }
        Gauge::EmailsWaiting => ("tidegate_emails_waiting", "Email addresses in the email queue that are not yet invited."),
        Gauge::EmailWritable => (
            "tidegate_email_writable",
            "1 if the email queue can take addresses; 0 if it cannot (disk full or read-only) or is not in use.",
        ),
        Gauge::EmailsOldestAge => (
            "tidegate_emails_oldest_age_seconds",
            "How long the oldest email address that is not yet invited has been in the email queue; 0 if there is none.",
        ),
        Gauge::InvitationsOutstanding => {
            ("tidegate_invitations_outstanding", "Invitations that were sent, and were neither redeemed nor have expired.")
        }
        Gauge::ObservedDemand => (
            "tidegate_observed_requests_per_second",
            "In mode observe, requests a second that everyone asks for, those included who would wait; above tidegate_capacity there \
             would be a waiting room. Else 0.",
        ),
        Gauge::ObservedWait => (
            "tidegate_observed_wait_seconds",
            "In mode observe, how long a newcomer would wait to be let in if nobody before it gave up; +Inf while the site gives no \
             good answers. Else 0.",
        ),
        Gauge::Mode => ("tidegate_mode", "1 for the mode in force, 0 for every other, by mode."),
    }
}

const fn histogram(timing: Timing) -> (&'static str, &'static str) {
    match timing {
        Timing::FirstByte => (
            "tidegate_upstream_first_byte_seconds",
            "Time from a request sent to the site to the first byte of its response, without the wait for a slot.",
        ),
        Timing::SlotWait => {
            ("tidegate_slot_wait_seconds", "Time that a request that may enter waited for a slot, until it had one or was shed.")
        }
        Timing::Wait => {
            ("tidegate_wait_seconds", "Time that visitors spent in the waiting room, of those admitted, from first ticket to pass.")
        }
    }
}

const UPSTREAM_UP: (&str, &str) = ("tidegate_upstream_up", "1 if the upstream server takes requests, 0 if it is ejected, by server.");

const BUILD_INFO: (&str, &str) = ("tidegate_build_info", "Always 1; the version of Tidegate is the label.");

/// Those with one series and no label.
fn plain_gauges() -> impl Iterator<Item = Gauge> {
    Gauge::ALL.iter().copied().filter(|one| *one != Gauge::Mode)
}

/// What the collector announces to the registry.
pub(super) fn descs() -> Result<Vec<Desc>, prometheus::Error> {
    let plain = plain_gauges().map(gauge).chain(Timing::ALL.iter().map(|one| histogram(*one)));
    let plain = plain.map(|(name, help)| (name, help, None));
    let counters = counters();
    let counters = counters.iter().map(|counter| (counter.name, counter.help, counter.label));
    let mode = gauge(Gauge::Mode);
    let labelled =
        [(mode.0, mode.1, Some("mode")), (UPSTREAM_UP.0, UPSTREAM_UP.1, Some("server")), (BUILD_INFO.0, BUILD_INFO.1, Some("version"))];
    plain
        .chain(counters)
        .chain(labelled)
        .map(|(name, help, label)| {
            Desc::new(name.to_owned(), help.to_owned(), label.map(str::to_owned).into_iter().collect(), HashMap::new())
        })
        .collect()
}

/// Every family with its samples; the registry drops a family without samples and sorts the rest.
pub(super) fn collect(values: &Values) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    for counter in counters() {
        let series = counter.series.iter();
        let metrics = series.map(|(value, count)| counter_metric(counter.label.map(|name| (name, *value)), values.total(*count)));
        families.push(family(counter.name, counter.help, MetricType::COUNTER, metrics.collect()));
    }
    for one in plain_gauges() {
        let (name, help) = gauge(one);
        families.push(family(name, help, MetricType::GAUGE, vec![gauge_metric(None, values.gauge(one))]));
    }
    let (name, help) = gauge(Gauge::Mode);
    let mode = values.gauge(Gauge::Mode);
    let modes = ModeLabel::ALL.iter();
    let modes =
        modes.map(|one| gauge_metric(Some(("mode", one.label())), if (f64::from(*one as u8) - mode).abs() < 0.5 { 1.0 } else { 0.0 }));
    families.push(family(name, help, MetricType::GAUGE, modes.collect()));
    for one in Timing::ALL {
        let (name, help) = histogram(*one);
        families.push(family(name, help, MetricType::HISTOGRAM, vec![histogram_metric(one.bounds(), &values.histogram(*one))]));
    }
    let servers = values.servers();
    let up = servers.iter().map(|(server, up)| gauge_metric(Some(("server", server)), if *up { 1.0 } else { 0.0 }));
    families.push(family(UPSTREAM_UP.0, UPSTREAM_UP.1, MetricType::GAUGE, up.collect()));
    let version = gauge_metric(Some(("version", env!("CARGO_PKG_VERSION"))), 1.0);
    families.push(family(BUILD_INFO.0, BUILD_INFO.1, MetricType::GAUGE, vec![version]));
    families
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter_metric(label: Option<(&str, &str)>, total: u64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(total as f64);
    let mut metric = labelled(label);
    metric.set_counter(counter);
    metric
}

fn gauge_metric(label: Option<(&str, &str)>, value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(label);
    metric.set_gauge(gauge);
    metric
}

fn histogram_metric(bounds: &[u64], merged: &MergedHistogram) -> Metric {
    let mut below = 0;
    let buckets = bounds.iter().zip(&merged.buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    // the count is the sum of what was read, so that it never disagrees with the buckets
    histogram.set_sample_count(merged.buckets.iter().sum());
    histogram.set_sample_sum(merged.sum_us as f64 / 1e6);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric
}

fn labelled(label: Option<(&str, &str)>) -> Metric {
    let pairs = label.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    Metric::from_label(pairs.into_iter().collect())
}
