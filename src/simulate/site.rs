//! The legacy site in virtual time: processor sharing with congestion, requests of several kinds, and what happens to it on the way.

use super::scenario::{Change, Health, Site as Settings};
use crate::models::random::Random;
use crate::models::sharing::{ProcessorSharing, Speed};
use crate::rules::time::Moment;

/// What is different from the settings now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) workers: f64,
    pub(super) slower: f64,
    pub(super) more_work_s: f64,
    /// What an answer takes on its way, beside the worker.
    pub(super) latency_s: f64,
    pub(super) health: Health,
}

impl Condition {
    pub(super) const fn of(settings: &Settings) -> Self {
        Self { workers: settings.workers.0, slower: 1.0, more_work_s: 0.0, latency_s: 0.0, health: Health::Up }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        self.workers = change.workers.map_or(self.workers, |workers| workers.0);
        self.slower = change.slower.map_or(self.slower, |slower| slower.0);
        self.more_work_s = change.more_work.map_or(self.more_work_s, |more| more.seconds());
        self.latency_s = change.latency.map_or(self.latency_s, |latency| latency.seconds());
        self.health = change.health.unwrap_or(self.health);
    }
}

/// The site. Jobs are the numbers of requests.
#[derive(Debug)]
pub(super) struct Site {
    settings: Settings,
    pub(super) condition: Condition,
    sharing: ProcessorSharing<u32>,
    random: Random,
}

/// What one request asks of the site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) seconds: f64,
    /// It will be answered with 500.
    pub(super) fails: bool,
}

impl Site {
    pub(super) fn new(settings: &Settings, random: Random) -> Self {
        let condition = Condition::of(settings);
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let sharing = ProcessorSharing::new(speed(settings, &condition), size(settings.threads.0).max(1), size(settings.backlog.0));
        Self { settings: settings.clone(), condition, sharing, random }
    }

    /// Good answers a second that it can give as it is.
    pub(super) fn capacity(&self) -> f64 {
        if self.condition.health != Health::Up {
            return 0.0;
        }
        let (work, good) = self.settings.mean();
        good * self.condition.workers / (work * self.condition.slower + self.condition.more_work_s)
    }

    /// Draws what the next request asks for.
    pub(super) fn draw(&mut self) -> Work {
        let mut left = self.random.unit();
        let usual = (self.settings.service, self.settings.variation, false);
        let (service, variation, fails) = self
            .settings
            .kinds
            .iter()
            .find_map(|kind| {
                left -= kind.share.0;
                (left < 0.0).then(|| (kind.service.unwrap_or(self.settings.service), kind.variation, kind.fails))
            })
            .unwrap_or(usual);
        let drawn = self.random.log_normal(service.seconds(), variation.0);
        Work { seconds: drawn * self.condition.slower + self.condition.more_work_s, fails }
    }

    /// A request comes in; false if it is refused.
    pub(super) fn arrive(&mut self, now: Moment, work: Work, request: u32) -> bool {
        self.condition.health != Health::Refuses && self.sharing.arrive(now, work.seconds, request).is_ok()
    }

    /// The requests that are done by now.
    pub(super) fn done(&mut self, now: Moment) -> Vec<u32> {
        self.sharing.advance(now)
    }

    pub(super) fn next_done(&self) -> Option<Moment> {
        self.sharing.next_completion()
    }

    /// From now on it is as the condition says.
    pub(super) fn become_as(&mut self, now: Moment, condition: Condition) {
        self.condition = condition;
        self.sharing.set_speed(now, speed(&self.settings, &condition));
    }

    pub(super) fn in_flight(&self) -> usize {
        self.sharing.running() + self.sharing.backlog()
    }
}

fn speed(settings: &Settings, condition: &Condition) -> Speed {
    let each = if condition.health == Health::Hangs { 0.0 } else { 1.0 };
    Speed { workers: condition.workers, congestion: settings.congestion.0, each }
}
