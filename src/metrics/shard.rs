//! What one thread counts: plain atomics on cache lines that no other thread writes, so that two cores never wait for each other.
//!
//! prometheus' own counters are shared: a histogram observation costs 24 ns on one thread and 457 ns on two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::labels::{
    EmailRefusal, InvitationResult, NewcomerLabel, ObservedLabel, OutcomeLabel, Refusal, ReloadResult, TokenRejection, UpgradeResult,
    VerdictLabel,
};

/// One thing that is counted: a counter and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A request that got a verdict.
    Request(VerdictLabel),
    /// A request that went to the site in mode `observe`, by what would have become of it.
    Observed(ObservedLabel),
    /// A visitor's first request that got a verdict.
    Newcomer(NewcomerLabel),
    /// An upstream request that is done.
    Outcome(OutcomeLabel),
    /// A token that was not taken.
    TokenRejected(TokenRejection),
    /// A request that got no verdict.
    Refused(Refusal),
    /// A request with X-Forwarded-For from a peer that is not in `client.trusted_proxies`.
    UntrustedForwarded,
    /// An idle connection that was told to go for others.
    IdleClosed,
    /// A request for a WebSocket that went to the site.
    Upgrade(UpgradeResult),
    /// A reload of gate.yaml.
    Reload(ReloadResult),
    /// An address that is on disk.
    EmailAccepted,
    /// An address that was not taken.
    EmailRefused(EmailRefusal),
    /// An attempt to send an invitation.
    Invitation(InvitationResult),
    /// An invitation that was redeemed.
    InvitationRedeemed,
}

const REQUESTS: usize = 0;
const OUTCOMES: usize = REQUESTS + VerdictLabel::ALL.len();
const TOKENS: usize = OUTCOMES + OutcomeLabel::ALL.len();
const REFUSALS: usize = TOKENS + TokenRejection::ALL.len();
const UNTRUSTED: usize = REFUSALS + Refusal::ALL.len();
const RELOADS: usize = UNTRUSTED + 1;
const EMAILS: usize = RELOADS + ReloadResult::ALL.len();
const EMAIL_REFUSALS: usize = EMAILS + 1;
const INVITATIONS: usize = EMAIL_REFUSALS + EmailRefusal::ALL.len();
const REDEEMED: usize = INVITATIONS + InvitationResult::ALL.len();
const OBSERVED: usize = REDEEMED + 1;
const NEWCOMERS: usize = OBSERVED + ObservedLabel::ALL.len();
const UPGRADES: usize = NEWCOMERS + NewcomerLabel::ALL.len();
const IDLE_CLOSED: usize = UPGRADES + UpgradeResult::ALL.len();
const COUNTS: usize = IDLE_CLOSED + 1;

impl Count {
    /// Where it stands in a shard.
    const fn index(self) -> usize {
        match self {
            Self::Request(verdict) => REQUESTS + verdict as usize,
            Self::Observed(verdict) => OBSERVED + verdict as usize,
            Self::Newcomer(verdict) => NEWCOMERS + verdict as usize,
            Self::Outcome(outcome) => OUTCOMES + outcome as usize,
            Self::TokenRejected(reason) => TOKENS + reason as usize,
            Self::Refused(reason) => REFUSALS + reason as usize,
            Self::UntrustedForwarded => UNTRUSTED,
            Self::IdleClosed => IDLE_CLOSED,
            Self::Upgrade(result) => UPGRADES + result as usize,
            Self::Reload(result) => RELOADS + result as usize,
            Self::EmailAccepted => EMAILS,
            Self::EmailRefused(reason) => EMAIL_REFUSALS + reason as usize,
            Self::Invitation(result) => INVITATIONS + result as usize,
            Self::InvitationRedeemed => REDEEMED,
        }
    }
}

/// One duration that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// From the request sent upstream to the first byte of the response.
    FirstByte,
    /// From asking for a slot to having it, or giving up.
    SlotWait,
    /// From the first ticket to the pass, of those admitted.
    Wait,
}

const MS: u64 = 1000;
const SECOND: u64 = 1000 * MS;

impl Timing {
    /// Every value.
    pub const ALL: &'static [Self] = &[Self::FirstByte, Self::SlotWait, Self::Wait];

    /// Upper bounds of the buckets in microseconds, ascending, at most [`BUCKETS`] of them; what is above them all is counted too.
    pub(super) const fn bounds(self) -> &'static [u64] {
        match self {
            // a page of a healthy site to the default response timeout
            Self::FirstByte => &[
                MS,
                5 * MS / 2,
                5 * MS,
                10 * MS,
                25 * MS,
                50 * MS,
                100 * MS,
                250 * MS,
                500 * MS,
                SECOND,
                5 * SECOND / 2,
                5 * SECOND,
                10 * SECOND,
                30 * SECOND,
                60 * SECOND,
            ],
            // close around the default queue_wait (0.2 s) and deadline (1 s), and up to that of unsafe methods (30 s)
            Self::SlotWait => &[
                MS,
                5 * MS,
                10 * MS,
                25 * MS,
                50 * MS,
                100 * MS,
                150 * MS,
                200 * MS,
                300 * MS,
                500 * MS,
                750 * MS,
                SECOND,
                2 * SECOND,
                5 * SECOND,
                10 * SECOND,
                30 * SECOND,
            ],
            Self::Wait => &[
                SECOND,
                2 * SECOND,
                5 * SECOND,
                10 * SECOND,
                20 * SECOND,
                30 * SECOND,
                60 * SECOND,
                2 * 60 * SECOND,
                5 * 60 * SECOND,
                10 * 60 * SECOND,
                20 * 60 * SECOND,
                30 * 60 * SECOND,
                60 * 60 * SECOND,
                2 * 60 * 60 * SECOND,
                4 * 60 * 60 * SECOND,
            ],
        }
    }
}

/// The most buckets of a histogram, without the one above them all.
pub(super) const BUCKETS: usize = 16;

/// The longest duration that is summed, so that one absurd value cannot overflow the sum.
const OBSERVED_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The counters of one thread. Aligned to two cache lines, because processors fetch them in pairs.
///
/// One writer is a matter of speed and not of correctness: any thread may count here.
#[derive(Debug)]
#[repr(align(128))]
pub struct Shard {
    counts: [AtomicU64; COUNTS],
    histograms: [HistogramShard; Timing::ALL.len()],
}

#[derive(Debug)]
struct HistogramShard {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_us: AtomicU64,
}

impl Shard {
    pub(super) const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; COUNTS],
            histograms: [const { HistogramShard { buckets: [const { AtomicU64::new(0) }; BUCKETS + 1], sum_us: AtomicU64::new(0) } };
                Timing::ALL.len()],
        }
    }

    /// Counts one.
    #[inline]
    pub fn count(&self, what: Count) {
        self.counts[what.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one duration, to the microsecond; above 30 days it counts as 30 days.
    #[inline]
    pub fn observe(&self, what: Timing, duration: Duration) {
        let micros = u64::try_from(duration.min(OBSERVED_MAX).as_micros()).unwrap_or(u64::MAX);
        let histogram = &self.histograms[what as usize];
        // `le` means less or equal: a duration on a bound belongs below it
        let bucket = what.bounds().partition_point(|bound| *bound < micros);
        histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        histogram.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    pub(super) fn total(&self, what: Count) -> u64 {
        self.counts[what.index()].load(Ordering::Relaxed)
    }

    /// Adds this shard's part of a histogram to `merged`.
    pub(super) fn merge(&self, what: Timing, merged: &mut MergedHistogram) {
        let histogram = &self.histograms[what as usize];
        for (total, bucket) in merged.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        merged.sum_us = merged.sum_us.saturating_add(histogram.sum_us.load(Ordering::Relaxed));
    }
}

/// A histogram over all shards: counts of each bucket (not cumulative), and the sum in microseconds.
#[derive(Debug, Default)]
pub(super) struct MergedHistogram {
    pub(super) buckets: [u64; BUCKETS + 1],
    pub(super) sum_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_a_place_of_its_own() {
        let mut all: Vec<Count> = vec![Count::UntrustedForwarded, Count::IdleClosed, Count::EmailAccepted, Count::InvitationRedeemed];
        all.extend(VerdictLabel::ALL.iter().map(|label| Count::Request(*label)));
        all.extend(OutcomeLabel::ALL.iter().map(|label| Count::Outcome(*label)));
        all.extend(TokenRejection::ALL.iter().map(|label| Count::TokenRejected(*label)));
        all.extend(Refusal::ALL.iter().map(|label| Count::Refused(*label)));
        all.extend(UpgradeResult::ALL.iter().map(|label| Count::Upgrade(*label)));
        all.extend(ReloadResult::ALL.iter().map(|label| Count::Reload(*label)));
        all.extend(EmailRefusal::ALL.iter().map(|label| Count::EmailRefused(*label)));
        all.extend(InvitationResult::ALL.iter().map(|label| Count::Invitation(*label)));
        all.extend(ObservedLabel::ALL.iter().map(|label| Count::Observed(*label)));
        all.extend(NewcomerLabel::ALL.iter().map(|label| Count::Newcomer(*label)));
        let mut places: Vec<usize> = all.iter().map(|count| count.index()).collect();
        places.sort_unstable();
        assert_eq!(places, (0..COUNTS).collect::<Vec<_>>());
    }

    #[test]
    fn bounds_ascend_and_fit() {
        for timing in Timing::ALL {
            let bounds = timing.bounds();
            assert!(bounds.len() <= BUCKETS, "{timing:?}");
            assert!(bounds.is_sorted_by(|a, b| a < b), "{timing:?}");
        }
    }

    #[test]
    fn a_duration_on_a_bound_belongs_below_it() {
        let shard = Shard::new();
        shard.observe(Timing::FirstByte, Duration::from_millis(1));
        shard.observe(Timing::FirstByte, Duration::from_micros(1001));
        shard.observe(Timing::FirstByte, Duration::MAX);
        let mut merged = MergedHistogram::default();
        shard.merge(Timing::FirstByte, &mut merged);
        assert_eq!(merged.buckets[0], 1);
        assert_eq!(merged.buckets[1], 1);
        assert_eq!(merged.buckets[Timing::FirstByte.bounds().len()], 1);
        assert_eq!(merged.sum_us, 2001 + 30 * 86_400 * SECOND);
    }

    #[test]
    fn shards_share_no_cache_line() {
        assert_eq!(align_of::<Shard>(), 128);
        assert_eq!(size_of::<Shard>() % 128, 0);
    }
}
