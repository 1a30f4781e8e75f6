//! What is written down while a simulation runs, and what it comes to.

use std::collections::{BTreeMap, VecDeque};

use super::figures::{Figures, Second};
use super::pairs::Waits;
use super::timeline::Micros;
use super::told::Record;
use crate::models::histogram::Histogram;

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Book {
    from: Micros,
    to: Micros,
    pub(super) now: Second,
    pub(super) seconds: Vec<Second>,
    /// Requests that would have been made in each second, had nobody ever waited.
    demand: Vec<f64>,
    pub(super) figures: Figures,
    all: Histogram,
    /// Good answers of the measured part that came soon enough after their page was first asked for.
    in_time: u32,
    /// Latencies of this second, in seconds, and of the four before.
    latencies: Vec<f64>,
    lately: VecDeque<Vec<f64>>,
    waits: Vec<f64>,
    /// Waits of those who kept their ticket, by the minute in which they came.
    by_minute: BTreeMap<u64, Vec<f64>>,
    /// What those who kept their ticket were told in the part that is measured.
    pub(super) told: Record,
    /// Of those who are run twice.
    pub(super) pairs: Waits,
    /// When the last to come of those who are in came.
    newest: Micros,
}

/// Who was let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) arrived: Micros,
    /// The waiting room was shown.
    pub(super) waited: bool,
    /// The ticket was kept all the time, and with it the place.
    pub(super) kept: bool,
}

/// Fewer in a minute say nothing of its p95.
const MINUTE_MIN: usize = 100;

const LATELY: usize = 5;

impl Book {
    pub(super) fn new((from_s, to_s): (u32, u32), length_s: usize) -> Self {
        Self {
            from: u64::from(from_s) * 1_000_000,
            to: u64::from(to_s) * 1_000_000,
            now: Second { probability: 1.0, ..Second::default() },
            seconds: Vec::with_capacity(length_s),
            demand: vec![0.0; length_s],
            figures: Figures::default(),
            all: Histogram::default(),
            in_time: 0,
            latencies: Vec::new(),
            lately: VecDeque::new(),
            waits: Vec::new(),
            by_minute: BTreeMap::new(),
            told: Record::new(u64::try_from(length_s).unwrap_or(u64::MAX).saturating_mul(1_000_000)),
            pairs: Waits::new(),
            newest: 0,
        }
    }

    /// Whether this is in the part that is measured.
    pub(super) fn measures(&self, at: Micros) -> bool {
        (self.from..self.to).contains(&at)
    }

    /// Counts something, if it is in the part that is measured.
    pub(super) fn count(&mut self, at: Micros, of: impl FnOnce(&mut Figures) -> &mut u32) {
        if self.measures(at) {
            *of(&mut self.figures) += 1;
        }
    }

    pub(super) fn demand(&mut self, at_s: f64, requests: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of the simulation; `as` saturates")]
        if let Some(second) = self.demand.get_mut(at_s as usize) {
            *second += requests;
        }
    }

    /// An answer that came, and how long it took.
    pub(super) fn answered(&mut self, at: Micros, latency: Micros, is_good: bool) {
        if is_good {
            self.now.good += 1;
        } else {
            self.now.late += 1;
        }
        let seconds = seconds(latency);
        self.latencies.push(seconds);
        if self.measures(at) {
            self.all.record(std::time::Duration::from_micros(latency));
        }
    }

    /// A good answer came soon enough after its page was first asked for.
    pub(super) fn in_time(&mut self, at: Micros) {
        self.in_time += u32::from(self.measures(at));
    }

    /// Someone was let in.
    pub(super) fn entered(&mut self, at: Micros, entry: Entry) {
        let wait = seconds(at - entry.arrived);
        if entry.waited && self.measures(at) {
            self.waits.push(wait);
        }
        if entry.waited && entry.kept && self.measures(entry.arrived) {
            self.by_minute.entry(entry.arrived / 60_000_000).or_default().push(wait);
        }
        if entry.kept && self.measures(at) {
            let inversion = seconds(self.newest.saturating_sub(entry.arrived));
            self.figures.inversion_max_s = self.figures.inversion_max_s.max(inversion);
        }
        self.newest = self.newest.max(entry.arrived);
    }

    pub(super) fn diverted(&mut self, at: Micros) {
        self.now.diverted += 1;
        if self.measures(at) && self.figures.limiting_after_s.is_none() {
            self.figures.limiting_after_s = Some(seconds(at - self.from));
        }
    }

    /// A second is over.
    pub(super) fn turn(&mut self, at: Micros) {
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_by(f64::total_cmp);
        self.now.p99_s = quantile(&latencies, 0.99);
        self.lately.push_back(latencies);
        if self.lately.len() > LATELY {
            self.lately.pop_front();
        }
        if self.measures(at.saturating_sub(1)) && self.lately.len() == LATELY {
            let mut five: Vec<f64> = self.lately.iter().flatten().copied().collect();
            five.sort_by(f64::total_cmp);
            let p99 = quantile(&five, 0.99).unwrap_or(0.0);
            self.figures.worst_p99_s = self.figures.worst_p99_s.max(p99);
        }
        let standing =
            Second { good: 0, late: 0, failed: 0, shed: 0, admitted: 0, diverted: 0, invited: 0, p99_s: None, ..self.now.clone() };
        self.seconds.push(std::mem::replace(&mut self.now, standing));
    }

    /// The sums. `good_share`: of all that is asked for, how much can be answered well at all.
    pub(super) fn close(mut self, good_share: f64) -> (Figures, Vec<Second>, Waits) {
        let (mut backlog, mut could, mut good) = (0.0, 0.0, 0.0);
        for (index, second) in self.seconds.iter_mut().enumerate() {
            second.demand = self.demand.get(index).copied().unwrap_or(0.0) * good_share;
            // who can't be served now would have come later: nobody is ever gone
            backlog += second.demand;
            let served = f64::min(second.capacity, backlog);
            backlog -= served;
            second.could = served;
            let at = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(1_000_000);
            if (self.from..self.to).contains(&at) {
                could += served;
                good += f64::from(second.good);
            }
        }
        self.waits.sort_by(f64::total_cmp);
        let wait = |share| quantile(&self.waits, share).unwrap_or(0.0);
        let mut spreads: Vec<f64> = self.by_minute.into_values().filter_map(spread).collect();
        spreads.sort_by(f64::total_cmp);
        let latency = |share| self.all.quantile(share).map_or(0.0, |latency| latency.as_secs_f64());
        let figures = Figures {
            goodput: if could > 0.0 { good / could } else { 1.0 },
            in_time: if could > 0.0 { f64::from(self.in_time) / could } else { 1.0 },
            p50_s: latency(0.5),
            p95_s: latency(0.95),
            p99_s: latency(0.99),
            wait_p50_s: wait(0.5),
            wait_p95_s: wait(0.95),
            wait_p99_s: wait(0.99),
            wait_max_s: wait(1.0),
            wait_spread: quantile(&spreads, 0.5),
            told_half: self.told.within_half(),
            told_nine_of_ten: self.told.within_nine_of_ten(),
            told_error_p50: self.told.error_in_line(),
            ..self.figures
        };
        (figures, self.seconds, self.pairs)
    }
}

/// The wait of 95 % over that of half, if there are enough.
fn spread(mut waits: Vec<f64>) -> Option<f64> {
    waits.sort_by(f64::total_cmp);
    let enough = waits.len() >= MINUTE_MIN;
    enough.then(|| Some(quantile(&waits, 0.95)? / quantile(&waits, 0.5)?)).flatten()
}

/// By nearest rank, of what is sorted.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the list")]
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

pub(super) fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}
