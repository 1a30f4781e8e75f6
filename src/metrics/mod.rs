//! What the gate counts and measures, and its form for Prometheus. The names are a contract with the operator's alerts.
//!
//! Each worker counts into a [`Shard`] of its own; a scrape adds them up. Every label takes values of a closed set, except `server`,
//! which takes those of the policy in force, and all combinations stand at 0 from the start. Absent: any decision that reads a
//! metric, and per-request look-ups of a label.

mod families;
mod labels;
mod shard;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

pub use self::labels::{
    EmailRefusal, InvitationResult, ModeLabel, NewcomerLabel, ObservedLabel, OutcomeLabel, Refusal, ReloadResult, TokenRejection,
    UpgradeResult, VerdictLabel,
};
pub use self::shard::{Count, Shard, Timing};

/// A value that goes up and down. The ticker sets all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Share of draws that are won, 0 to 1.
    AdmissionProbability,
    /// Load: requests a second asked for by those already in, as a share of capacity.
    Load,
    /// Capacity, good answers a second.
    Capacity,
    /// Newcomers a second that may enter.
    AdmissionRate,
    /// Active visitors.
    VisitorsActive,
    /// Waiting visitors.
    VisitorsWaiting,
    /// Who came before this may enter, seconds since 1970; 0 if nobody stands in a line.
    LineTimestamp,
    /// Visitors who stand in the line.
    LineLength,
    /// How long who comes now waits, in seconds.
    ExpectedWait,
    /// Slots in use.
    UpstreamInFlight,
    /// Slots of each server.
    MaxInFlight,
    /// Requests that wait for a slot.
    SlotQueueLength,
    /// Open connections from clients.
    DownstreamConnections,
    /// Of these, those between two requests.
    DownstreamConnectionsIdle,
    /// When the first of the certificates that are shown expires, seconds since 1970.
    CertificateExpires,
    /// Open WebSockets.
    UpgradesActive,
    /// When a policy was last put in force, seconds since 1970.
    ConfigLastApplied,
    /// Addresses that are not yet invited.
    EmailsWaiting,
    /// 1 if addresses can be written down, else 0.
    EmailWritable,
    /// How long the first of those addresses has waited, in seconds.
    EmailsOldestAge,
    /// Invitations that were sent, and neither redeemed nor expired.
    InvitationsOutstanding,
    /// Mode `observe`: requests a second that everyone asks for.
    ObservedDemand,
    /// Mode `observe`: the wait that a newcomer would have, in seconds.
    ObservedWait,
    /// The mode in force, by its place in [`ModeLabel::ALL`].
    Mode,
}

impl Gauge {
    /// Every value.
    pub const ALL: &'static [Self] = &[
        Self::AdmissionProbability,
        Self::Load,
        Self::Capacity,
        Self::AdmissionRate,
        Self::VisitorsActive,
        Self::VisitorsWaiting,
        Self::LineTimestamp,
        Self::LineLength,
        Self::ExpectedWait,
        Self::UpstreamInFlight,
        Self::MaxInFlight,
        Self::SlotQueueLength,
        Self::DownstreamConnections,
        Self::DownstreamConnectionsIdle,
        Self::CertificateExpires,
        Self::UpgradesActive,
        Self::ConfigLastApplied,
        Self::EmailsWaiting,
        Self::EmailWritable,
        Self::EmailsOldestAge,
        Self::InvitationsOutstanding,
        Self::ObservedDemand,
        Self::ObservedWait,
        Self::Mode,
    ];
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    values: Arc<Values>,
}

impl Metrics {
    /// Metrics of so many workers, and of one control thread, in a registry of their own.
    ///
    /// # Errors
    ///
    /// A name or label that Prometheus does not take: a fault of this room, not of the operator.
    pub fn new(workers: usize) -> Result<Self, prometheus::Error> {
        let shards = (0..=workers).map(|_| Arc::new(Shard::new())).collect();
        let values = Arc::new(Values {
            shards,
            gauges: [const { AtomicU64::new(0) }; Gauge::ALL.len()],
            servers: Mutex::new(Vec::new()),
            descs: families::descs()?,
        });
        let registry = Registry::new();
        registry.register(Box::new(Scrape(Arc::clone(&values))))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, values })
    }

    /// The shard of a worker, counted from 0; that of the control thread if there is no such worker.
    #[must_use]
    pub fn shard(&self, worker: usize) -> Arc<Shard> {
        let control = self.values.shards.len() - 1;
        Arc::clone(&self.values.shards[worker.min(control)])
    }

    /// The shard of whatever is not a worker: ticker, reload, admin.
    #[must_use]
    pub fn control(&self) -> Arc<Shard> {
        self.shard(usize::MAX)
    }

    /// How often something was counted, by all threads together.
    #[must_use]
    pub fn total(&self, what: Count) -> u64 {
        self.values.total(what)
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: f64) {
        self.values.gauges[gauge as usize].store(value.to_bits(), Ordering::Relaxed);
    }

    /// What a gauge was last set to; 0 before.
    #[must_use]
    pub fn gauge(&self, gauge: Gauge) -> f64 {
        self.values.gauge(gauge)
    }

    /// Replaces the upstream servers and whether each is up. Servers that are not named are no longer scraped.
    ///
    /// The label is [`crate::rules::policy::Server::label`]; of two servers with the same label the last is scraped.
    pub fn set_upstream(&self, servers: impl IntoIterator<Item = (String, bool)>) {
        let mut replaced: Vec<(String, bool)> = Vec::new();
        for (server, up) in servers {
            match replaced.iter_mut().find(|(known, _)| *known == server) {
                Some(known) => known.1 = up,
                None => replaced.push((server, up)),
            }
        }
        *self.values.servers.lock().unwrap_or_else(PoisonError::into_inner) = replaced;
    }

    /// Everything in the text format, version 0.0.4: [`prometheus::TEXT_FORMAT`].
    ///
    /// # Errors
    ///
    /// If the encoder refuses a family: a fault of this room.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// What is scraped.
#[derive(Debug)]
struct Values {
    /// One a worker, and the control thread's last.
    shards: Vec<Arc<Shard>>,
    /// Bits of an f64, by [`Gauge`].
    gauges: [AtomicU64; Gauge::ALL.len()],
    /// Written once a tick and read once a scrape: no request takes this lock.
    servers: Mutex<Vec<(String, bool)>>,
    descs: Vec<Desc>,
}

impl Values {
    fn total(&self, what: Count) -> u64 {
        self.shards.iter().map(|shard| shard.total(what)).sum()
    }

    fn gauge(&self, gauge: Gauge) -> f64 {
        f64::from_bits(self.gauges[gauge as usize].load(Ordering::Relaxed))
    }

    fn histogram(&self, what: Timing) -> shard::MergedHistogram {
        let mut merged = shard::MergedHistogram::default();
        for shard in &self.shards {
            shard.merge(what, &mut merged);
        }
        merged
    }

    fn servers(&self) -> Vec<(String, bool)> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The collector that merges the shards.
struct Scrape(Arc<Values>);

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families::collect(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    /// Samples as written: a value is compared as text, which is what a scraper reads.
    fn scrape(metrics: &Metrics) -> BTreeMap<String, String> {
        let text = metrics.encode().unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn every_name_of_the_contract_stands_from_the_start() {
        let metrics = Metrics::new(2).unwrap();
        metrics.set_upstream([("http://127.0.0.1:3000".to_owned(), true)]);
        let text = metrics.encode().unwrap();
        for (name, kind) in [
            ("tidegate_requests_total", "counter"),
            ("tidegate_admission_probability", "gauge"),
            ("tidegate_load", "gauge"),
            ("tidegate_capacity", "gauge"),
            ("tidegate_admission_rate", "gauge"),
            ("tidegate_visitors_active", "gauge"),
            ("tidegate_visitors_waiting", "gauge"),
            ("tidegate_line_timestamp_seconds", "gauge"),
            ("tidegate_line_length", "gauge"),
            ("tidegate_expected_wait_seconds", "gauge"),
            ("tidegate_upstream_outcomes_total", "counter"),
            ("tidegate_upstream_first_byte_seconds", "histogram"),
            ("tidegate_upstream_in_flight", "gauge"),
            ("tidegate_max_in_flight", "gauge"),
            ("tidegate_slot_queue_length", "gauge"),
            ("tidegate_slot_wait_seconds", "histogram"),
            ("tidegate_downstream_connections", "gauge"),
            ("tidegate_downstream_connections_idle", "gauge"),
            ("tidegate_upgrades_active", "gauge"),
            ("tidegate_idle_connections_closed_total", "counter"),
            ("tidegate_upgrades_total", "counter"),
            ("tidegate_config_reloads_total", "counter"),
            ("tidegate_config_last_applied_timestamp_seconds", "gauge"),
            ("tidegate_emails_accepted_total", "counter"),
            ("tidegate_emails_waiting", "gauge"),
            ("tidegate_invitations_total", "counter"),
            ("tidegate_invitations_redeemed_total", "counter"),
            ("tidegate_wait_seconds", "histogram"),
            ("tidegate_upstream_up", "gauge"),
            ("tidegate_tokens_rejected_total", "counter"),
            ("tidegate_requests_refused_total", "counter"),
            ("tidegate_emails_refused_total", "counter"),
            ("tidegate_email_writable", "gauge"),
            ("tidegate_untrusted_forwarded_total", "counter"),
            ("tidegate_build_info", "gauge"),
        ] {
            assert!(text.contains(&format!("\n# TYPE {name} {kind}\n")) || text.starts_with(&format!("# TYPE {name} {kind}\n")), "{name}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "));
        let samples = scrape(&metrics);
        for verdict in ["open", "bypass", "admit", "wait", "shed"] {
            assert_eq!(
                samples.get(&format!("tidegate_requests_total{{verdict=\"{verdict}\"}}")).map(String::as_str),
                Some("0"),
                "{verdict}"
            );
        }
        for outcome in ["ok", "slow", "error", "timeout", "connect", "aborted"] {
            assert_eq!(
                samples.get(&format!("tidegate_upstream_outcomes_total{{outcome=\"{outcome}\"}}")).map(String::as_str),
                Some("0"),
                "{outcome}"
            );
        }
        for result in ["applied", "rejected"] {
            assert_eq!(
                samples.get(&format!("tidegate_config_reloads_total{{result=\"{result}\"}}")).map(String::as_str),
                Some("0"),
                "{result}"
            );
        }
        for result in ["sent", "deferred", "failed"] {
            assert_eq!(
                samples.get(&format!("tidegate_invitations_total{{result=\"{result}\"}}")).map(String::as_str),
                Some("0"),
                "{result}"
            );
        }
        assert_eq!(samples.get("tidegate_untrusted_forwarded_total").map(String::as_str), Some("0"));
        assert_eq!(
            samples.get(&format!("tidegate_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))).map(String::as_str),
            Some("1")
        );
    }

    /// The rules of `promtool check metrics`, and that names and label values are plain.
    #[test]
    fn names_keep_to_the_conventions() {
        let metrics = Metrics::new(1).unwrap();
        let text = metrics.encode().unwrap();
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(plain(name), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let unit_first = ["_milliseconds", "_microseconds", "_ms", "_minutes", "_count", "_sum", "_bucket"];
            assert!(!unit_first.iter().any(|suffix| name.ends_with(suffix)), "{name}");
            if kind == "histogram" {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP tidegate_")) {
            let (name, help) = line.split_once(' ').unwrap();
            assert!(help.len() > 30 && help.ends_with('.'), "{name}: {help}");
        }
        for (sample, _) in scrape(&metrics).iter().filter(|(name, _)| name.starts_with("tidegate_")) {
            let Some((_, labels)) = sample.split_once('{') else { continue };
            let (name, value) = labels.trim_end_matches('}').split_once('=').unwrap();
            assert!(plain(name), "{sample}");
            let value = value.trim_matches('"');
            assert!(name == "le" || name == "version" || plain(value), "{sample}");
        }
    }

    #[test]
    fn shards_add_up() {
        let metrics = Metrics::new(2).unwrap();
        let admitted = Count::Request(VerdictLabel::Admit);
        metrics.shard(0).count(admitted);
        metrics.shard(1).count(admitted);
        metrics.shard(1).count(Count::Request(VerdictLabel::Wait));
        metrics.control().count(admitted);
        assert_eq!(metrics.total(admitted), 3);
        let samples = scrape(&metrics);
        assert_eq!(samples["tidegate_requests_total{verdict=\"admit\"}"], "3");
        assert_eq!(samples["tidegate_requests_total{verdict=\"wait\"}"], "1");
        assert_eq!(samples["tidegate_requests_total{verdict=\"shed\"}"], "0");
    }

    #[test]
    fn each_worker_has_a_shard_of_its_own_and_the_rest_share_one() {
        let metrics = Metrics::new(2).unwrap();
        assert!(!Arc::ptr_eq(&metrics.shard(0), &metrics.shard(1)));
        assert!(!Arc::ptr_eq(&metrics.shard(1), &metrics.control()));
        assert!(Arc::ptr_eq(&metrics.shard(2), &metrics.control()));
        assert!(Arc::ptr_eq(&metrics.shard(99), &metrics.control()));
    }

    #[test]
    fn buckets_are_cumulative_over_all_shards() {
        let metrics = Metrics::new(2).unwrap();
        metrics.shard(0).observe(Timing::SlotWait, Duration::from_millis(1));
        metrics.shard(1).observe(Timing::SlotWait, Duration::from_millis(180));
        metrics.shard(1).observe(Timing::SlotWait, Duration::from_secs(45));
        let samples = scrape(&metrics);
        let bucket = |le: &str| samples[&format!("tidegate_slot_wait_seconds_bucket{{le=\"{le}\"}}")].as_str();
        assert_eq!([bucket("0.001"), bucket("0.15"), bucket("0.2"), bucket("30"), bucket("+Inf")], ["1", "1", "2", "2", "3"]);
        assert_eq!(samples["tidegate_slot_wait_seconds_count"], "3");
        assert_eq!(samples["tidegate_slot_wait_seconds_sum"], "45.181");
        assert_eq!(samples["tidegate_wait_seconds_bucket{le=\"1\"}"], "0");
        assert_eq!(samples["tidegate_wait_seconds_bucket{le=\"14400\"}"], "0");
    }

    #[test]
    fn servers_that_left_the_policy_are_no_longer_scraped() {
        let metrics = Metrics::new(1).unwrap();
        metrics.set_upstream([("http://a:80".to_owned(), true), ("http://b:80".to_owned(), false)]);
        let samples = scrape(&metrics);
        assert_eq!(samples["tidegate_upstream_up{server=\"http://a:80\"}"], "1");
        assert_eq!(samples["tidegate_upstream_up{server=\"http://b:80\"}"], "0");
        metrics.set_upstream([("http://b:80".to_owned(), true), ("http://b:80".to_owned(), false)]);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("http://a:80"));
        assert_eq!(text.matches("tidegate_upstream_up{").count(), 1, "one sample a label");
        assert!(text.contains("tidegate_upstream_up{server=\"http://b:80\"} 0\n"));
    }

    #[test]
    fn gauges_keep_what_they_are_set_to() {
        let metrics = Metrics::new(1).unwrap();
        metrics.set(Gauge::AdmissionProbability, 0.125);
        metrics.set(Gauge::ConfigLastApplied, 1_767_268_800.0);
        assert_eq!(metrics.gauge(Gauge::AdmissionProbability).to_bits(), 0.125_f64.to_bits());
        let samples = scrape(&metrics);
        assert_eq!(samples["tidegate_admission_probability"], "0.125");
        assert_eq!(samples["tidegate_config_last_applied_timestamp_seconds"], "1767268800");
        assert_eq!(samples["tidegate_email_writable"], "0");
    }
}
