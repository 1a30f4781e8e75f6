//! What a crowd has met: counts and latencies, by second and in total.

use std::collections::VecDeque;
use std::time::Duration;

use crate::models::histogram::Histogram;

/// What has been counted over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages of the site within 1 s of their intended start.
    pub within_1s: u64,
    /// Pages of the site within 2 s of their intended start, those within 1 s included.
    pub within_2s: u64,
    /// Pages of the site that took longer than 2 s.
    pub slow: u64,
    /// Pages of the site within 2 s of the request that they answer, whatever went before it.
    pub good: u64,
    /// Requests that failed: an error, no answer, or none before the visitor gave up on it.
    pub failed: u64,
    /// Waiting-room answers.
    pub waits: u64,
    /// Visitors who were shown the waiting room, each once.
    pub kept_waiting: u64,
    /// Answers that let a visitor in, but had no place for the page.
    pub sheds: u64,
    /// Visitors who already had a page of the site and then were shown the waiting room, each once. Clients that drop cookies don't
    /// count: nobody can know them again.
    pub diverted: u64,
    /// Visitors who have come.
    pub started: u64,
    /// Visitors who have seen all the pages that they came for.
    pub completed: u64,
    /// Visitors who left because they had waited too long.
    pub left_waiting: u64,
    /// Visitors who left an email address in the waiting room, and went. Those who have not come back are in none of the others that
    /// say how a visit ended.
    pub left_address: u64,
    /// Those of `left_address` who have come back with the link in their mail, and were let in.
    pub came_back: u64,
    /// Visitors who left because pages failed.
    pub left_failed: u64,
    /// Those of `left_failed` and `left_waiting` who already had a page of the site.
    pub left_inside: u64,
    /// Visitors who were not let come, because the crowd was at its limit. Not in `started`.
    pub left_out: u64,
}

impl Counts {
    /// Pages of the site, whatever they took.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.within_2s + self.slow
    }

    const fn add(&mut self, other: &Self) {
        self.within_1s += other.within_1s;
        self.within_2s += other.within_2s;
        self.slow += other.slow;
        self.good += other.good;
        self.failed += other.failed;
        self.waits += other.waits;
        self.kept_waiting += other.kept_waiting;
        self.sheds += other.sheds;
        self.diverted += other.diverted;
        self.started += other.started;
        self.completed += other.completed;
        self.left_waiting += other.left_waiting;
        self.left_address += other.left_address;
        self.came_back += other.came_back;
        self.left_failed += other.left_failed;
        self.left_inside += other.left_inside;
        self.left_out += other.left_out;
    }
}

/// One second of a crowd, or many added up.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// How many seconds were added up.
    pub seconds: u64,
    /// What was counted. A page counts when it is there.
    pub counts: Counts,
    /// Of pages of the site, from their intended start to their last byte.
    pub latency: Histogram,
    /// Of the same pages, from the request that they answer: requests that failed or were shed before it are not part of it.
    pub answer: Histogram,
    /// From arrival to the first page of the site, of those who were shown the waiting room first.
    pub waited: Histogram,
}

impl Window {
    /// Pages a second within 1 s of their intended start.
    #[must_use]
    pub fn goodput_1s(&self) -> f64 {
        self.counts.within_1s as f64 / self.seconds.max(1) as f64
    }

    fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.counts.add(&other.counts);
        self.latency.merge(&other.latency);
        self.answer.merge(&other.answer);
        self.waited.merge(&other.waited);
    }
}

/// What a crowd has met so far.
#[derive(Clone, Debug, Default)]
pub struct CrowdReport {
    /// All of it.
    pub total: Window,
    /// From arrival to the first page of the site, of those who got one.
    pub first_page: Histogram,
    /// Visitors who are there now, and those who wait for mail.
    pub present: usize,
    /// The second that the first row is about.
    rows_from: u64,
    rows: VecDeque<Window>,
}

impl CrowdReport {
    /// The last seconds, up to an hour of them: the second since the crowd's start, and what happened in it.
    pub fn seconds(&self) -> impl Iterator<Item = (u64, &Window)> {
        (self.rows_from..).zip(&self.rows)
    }

    /// The seconds from `from_s` up to, but not including, `to_s` since the crowd's start, added up. Seconds in which nothing
    /// happened count; seconds more than an hour back are lost.
    #[must_use]
    pub fn window(&self, from_s: u64, to_s: u64) -> Window {
        let mut window = Window::default();
        for (_, row) in self.seconds().filter(|(second, _)| (from_s..to_s).contains(second)) {
            window.add(row);
        }
        window.seconds = to_s.saturating_sub(from_s);
        window
    }

    /// Counts something that happened so long after the crowd's start.
    pub(super) fn count(&mut self, since_start: Duration, count: impl Fn(&mut Counts)) {
        count(&mut self.total.counts);
        self.total.seconds = self.total.seconds.max(since_start.as_secs() + 1);
        if let Some(row) = self.row(since_start.as_secs()) {
            count(&mut row.counts);
        }
    }

    /// Counts a page of the site: how long after its intended start it came, and how long after it was asked for.
    pub(super) fn page(&mut self, since_start: Duration, latency: Duration, answer: Duration) {
        self.count(since_start, |counts| {
            counts.within_1s += u64::from(latency <= Duration::from_secs(1));
            counts.within_2s += u64::from(latency <= Duration::from_secs(2));
            counts.slow += u64::from(latency > Duration::from_secs(2));
            counts.good += u64::from(answer <= Duration::from_secs(2));
        });
        let add = |window: &mut Window| {
            window.latency.record(latency);
            window.answer.record(answer);
        };
        add(&mut self.total);
        self.row(since_start.as_secs()).map(add);
    }

    /// Counts a visitor who was let in after the waiting room.
    pub(super) fn waited(&mut self, since_start: Duration, waited: Duration) {
        self.total.waited.record(waited);
        if let Some(row) = self.row(since_start.as_secs()) {
            row.waited.record(waited);
        }
    }

    fn row(&mut self, second: u64) -> Option<&mut Window> {
        let mut index = usize::try_from(second.checked_sub(self.rows_from)?).ok()?;
        if index >= ROWS_MAX {
            let surplus = index + 1 - ROWS_MAX;
            self.rows.drain(..surplus.min(self.rows.len()));
            self.rows_from += surplus as u64;
            index -= surplus;
        }
        while self.rows.len() <= index {
            self.rows.push_back(Window { seconds: 1, ..Window::default() });
        }
        self.rows.get_mut(index)
    }
}

/// An hour: a demonstration may run for days.
const ROWS_MAX: usize = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn pages_are_sorted_by_what_they_took() {
        let mut report = CrowdReport::default();
        for latency_ms in [1000, 1001, 2000, 2001, 30_000] {
            report.page(secs(3), Duration::from_millis(latency_ms), Duration::from_millis(latency_ms / 2));
        }
        let counts = report.total.counts;
        assert_eq!((counts.within_1s, counts.within_2s, counts.slow, counts.pages(), counts.good), (1, 3, 2, 5, 4));
    }

    #[test]
    fn a_window_adds_up_its_seconds_and_no_others() {
        let mut report = CrowdReport::default();
        for second in [0, 59, 60, 60, 119, 120] {
            report.page(secs(second), Duration::from_millis(80), Duration::from_millis(80));
        }
        report.page(secs(90), secs(5), secs(1));
        report.waited(secs(90), secs(30));
        let window = report.window(60, 120);
        assert_eq!((window.seconds, window.counts.within_1s, window.counts.slow), (60, 3, 1));
        assert!((window.goodput_1s() - 0.05).abs() < 1e-9);
        assert!(window.latency.quantile(1.0).unwrap() > Duration::from_millis(4800));
        assert!(window.answer.quantile(1.0).unwrap() < Duration::from_millis(1100) && window.waited.count() == 1);
        assert_eq!(report.total.counts.pages(), 7);
    }

    #[test]
    fn only_the_last_hour_is_kept_by_second() {
        let mut report = CrowdReport::default();
        for second in [0, 1, 10_000, 2] {
            report.count(secs(second), |counts| counts.failed += 1);
        }
        assert_eq!(report.seconds().count(), 3600);
        assert_eq!(report.seconds().last().map(|(second, row)| (second, row.counts.failed)), Some((10_000, 1)));
        assert_eq!(report.window(0, 20_000).counts.failed, 1);
        assert_eq!(report.total.counts.failed, 4);
    }
}
