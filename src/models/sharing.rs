//! Processor sharing: how a legacy site's workers slow each other down. Pure: `now` is an argument.
//!
//! Up to as many jobs as there are workers run at full speed; more share the same total; and the more there are, the more of the
//! total is lost to switching, locks and memory. Jobs are never cancelled.
//!
//! All running jobs run at one speed, so what each has got since it began is one number for all (the attained service): a job
//! is done when that number reaches what it was at the job's start plus the job's work. Jobs stand in the order of that finish point, and
//! a change of speed moves none of them.

use std::collections::{BTreeMap, VecDeque};

use crate::rules::time::Moment;

/// The speed of a site by the number of jobs that run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Jobs that can run without slowing each other down, above 0.
    pub workers: f64,
    /// Share of the speed lost for each further `workers` jobs: 0.15 in the research's figures.
    pub congestion: f64,
    /// What one worker does in a second, in seconds of work: 1 if all is well, 0 if the site hangs.
    pub each: f64,
}

impl Speed {
    /// What the site does in a second with so many jobs, in seconds of work:
    /// X(n) = C · min(1, n / n*) / (1 + κ · max(0, (n − n*) / n*)), with C = n* · each.
    #[must_use]
    pub fn total(&self, jobs: usize) -> f64 {
        let load = jobs as f64 / self.workers;
        self.workers * self.each * load.min(1.0) / (1.0 + self.congestion * (load - 1.0).max(0.0))
    }

    /// What one job of so many gets in a second, in seconds of work.
    fn per_job(&self, jobs: usize) -> f64 {
        if jobs == 0 { 0.0 } else { self.total(jobs) / jobs as f64 }
    }
}

/// The jobs of a site.
#[derive(Debug)]
pub struct ProcessorSharing<J> {
    speed: Speed,
    threads: usize,
    backlog_max: usize,
    /// Up to when `attained` counts, in seconds.
    at: f64,
    /// What every job has got that has been running since the site was last idle, in seconds of work.
    attained: f64,
    /// By finish point and order of arrival.
    running: BTreeMap<(FinishPoint, u64), J>,
    started: u64,
    /// Work and job, first come first served.
    backlog: VecDeque<(f64, J)>,
    /// Done, and not yet handed out.
    done: Vec<J>,
}

/// The job found the backlog full. Holds the job.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<J>(pub J);

impl<J> ProcessorSharing<J> {
    /// An idle site: at most `threads` jobs run at a time, and `backlog_max` wait for a thread.
    #[must_use]
    pub const fn new(speed: Speed, threads: usize, backlog_max: usize) -> Self {
        Self {
            speed,
            threads,
            backlog_max,
            at: 0.0,
            attained: 0.0,
            running: BTreeMap::new(),
            started: 0,
            backlog: VecDeque::new(),
            done: Vec::new(),
        }
    }

    /// A job of so many seconds of work comes in.
    ///
    /// # Errors
    /// Gives the job back if every thread is taken and the backlog is full.
    pub fn arrive(&mut self, now: Moment, work_s: f64, job: J) -> Result<(), Refused<J>> {
        self.settle(now);
        if self.running.len() < self.threads {
            self.start(work_s, job);
        } else if self.backlog.len() < self.backlog_max {
            self.backlog.push_back((work_s, job));
        } else {
            return Err(Refused(job));
        }
        Ok(())
    }

    /// The jobs that are done by `now` and were not handed out before, in the order in which they were done.
    pub fn advance(&mut self, now: Moment) -> Vec<J> {
        self.settle(now);
        std::mem::take(&mut self.done)
    }

    /// When the next job is done if none arrives before; none if nothing runs, or nothing moves.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and `as` saturates")]
    pub fn next_completion(&self) -> Option<Moment> {
        self.next_finish().map(|finish| Moment::from_micros((finish * 1e6).round() as u64))
    }

    /// The site gets faster or slower from `now` on.
    pub fn set_speed(&mut self, now: Moment, speed: Speed) {
        self.settle(now);
        self.speed = speed;
    }

    /// How many jobs run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many jobs wait for a thread.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Does everything that falls due up to `now`. Each job that is done changes the speed of those after it, so one at a time.
    fn settle(&mut self, now: Moment) {
        let now = now.as_secs_f64();
        while let Some(finish) = self.next_finish().filter(|finish| *finish <= now + MOMENT_STEP_S) {
            let Some(((point, _), job)) = self.running.pop_first() else { break };
            self.at = self.at.max(finish);
            self.attained = point.attained();
            self.done.push(job);
            if let Some((work_s, job)) = self.backlog.pop_front() {
                self.start(work_s, job);
            }
        }
        let elapsed = (now - self.at).max(0.0);
        self.attained += elapsed * self.speed.per_job(self.running.len());
        self.at += elapsed;
        if self.running.is_empty() {
            // an idle site starts from zero, so that years of service cost no precision
            self.attained = 0.0;
        }
    }

    fn start(&mut self, work_s: f64, job: J) {
        self.running.insert((FinishPoint::new(self.attained + work_s.max(0.0)), self.started), job);
        self.started += 1;
    }

    /// In seconds on the monotonic clock.
    fn next_finish(&self) -> Option<f64> {
        let ((point, _), _) = self.running.first_key_value()?;
        let rate = self.speed.per_job(self.running.len());
        (rate > 0.0).then(|| self.at + (point.attained() - self.attained).max(0.0) / rate)
    }
}

/// Attained service at which a job is done. The bits of floating-point numbers from 0 up are in the order of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FinishPoint(u64);

impl FinishPoint {
    const fn new(attained: f64) -> Self {
        Self(attained.to_bits())
    }

    const fn attained(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// The smallest step of a [`Moment`], in seconds: a job due at a moment is done at it, however the floating point was rounded.
const MOMENT_STEP_S: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Speed = Speed { workers: 2.0, congestion: 0.0, each: 1.0 };

    fn site(speed: Speed) -> ProcessorSharing<&'static str> {
        ProcessorSharing::new(speed, 256, 512)
    }

    fn at_ms(ms: u64) -> Moment {
        Moment::from_micros(ms * 1000)
    }

    #[test]
    fn speed_grows_to_the_workers_and_falls_beyond() {
        let speed = Speed { workers: 8.0, congestion: 0.15, each: 1.0 };
        for (jobs, total) in [(0, 0.0), (4, 4.0), (8, 8.0), (16, 8.0 / 1.15), (256, 8.0 / 5.65)] {
            assert!((speed.total(jobs) - total).abs() < 1e-9, "{jobs}");
        }
        let half = Speed { each: 0.5, ..speed };
        assert!((half.total(8) - 4.0).abs() < 1e-9);
        let gone = Speed { each: 0.0, ..speed };
        assert!(gone.total(8).abs() < 1e-9);
    }

    #[test]
    fn as_many_jobs_as_workers_run_at_full_speed() {
        let mut site = site(PLAIN);
        site.arrive(at_ms(0), 0.1, "a").unwrap();
        site.arrive(at_ms(50), 0.1, "b").unwrap();
        assert_eq!(site.next_completion(), Some(at_ms(100)));
        assert!(site.advance(at_ms(99)).is_empty());
        assert_eq!(site.advance(at_ms(100)), ["a"]);
        assert_eq!(site.next_completion(), Some(at_ms(150)));
        assert_eq!(site.advance(at_ms(150)), ["b"]);
        assert_eq!(site.next_completion(), None);
    }

    #[test]
    fn more_jobs_share_the_workers() {
        let mut site = site(PLAIN);
        for job in ["a", "b", "c", "d"] {
            site.arrive(at_ms(0), 0.1, job).unwrap();
        }
        // four jobs on two workers: half speed each
        assert_eq!(site.next_completion(), Some(at_ms(200)));
        assert_eq!(site.advance(at_ms(200)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_short_job_overtakes_and_leaves_its_share_to_the_others() {
        let mut site = site(Speed { workers: 1.0, ..PLAIN });
        site.arrive(at_ms(0), 0.3, "long").unwrap();
        site.arrive(at_ms(100), 0.1, "short").unwrap();
        // both at half speed from 100 ms: the short one needs 200 ms, the long one then has 100 ms of work left
        assert_eq!(site.next_completion(), Some(at_ms(300)));
        assert_eq!(site.advance(at_ms(1000)), ["short", "long"]);
        site.arrive(at_ms(1000), 0.1, "later").unwrap();
        assert_eq!(site.next_completion(), Some(at_ms(1100)), "an idle site owes and saves nothing");
    }

    #[test]
    fn congestion_loses_speed() {
        let mut site = site(Speed { workers: 1.0, congestion: 0.5, each: 1.0 });
        site.arrive(at_ms(0), 0.1, "a").unwrap();
        site.arrive(at_ms(0), 0.1, "b").unwrap();
        // X(2) = 1 / 1.5, so each gets a third
        assert_eq!(site.next_completion(), Some(at_ms(300)));
    }

    #[test]
    fn the_backlog_is_first_come_first_served_and_then_full() {
        let mut site = ProcessorSharing::new(PLAIN, 1, 2);
        for job in ["a", "b", "c"] {
            site.arrive(at_ms(0), 0.1, job).unwrap();
        }
        assert_eq!(site.arrive(at_ms(0), 0.1, "d"), Err(Refused("d")));
        assert_eq!((site.running(), site.backlog()), (1, 2));
        assert_eq!(site.advance(at_ms(250)), ["a", "b"]);
        assert_eq!((site.running(), site.backlog()), (1, 0));
        assert_eq!(site.next_completion(), Some(at_ms(300)));
    }

    #[test]
    fn a_job_done_before_an_arrival_makes_room_for_it_and_is_not_forgotten() {
        let mut site = ProcessorSharing::new(PLAIN, 1, 0);
        site.arrive(at_ms(0), 0.1, "a").unwrap();
        site.arrive(at_ms(100), 0.1, "b").unwrap();
        assert_eq!(site.advance(at_ms(100)), ["a"]);
    }

    #[test]
    fn a_site_that_hangs_stands_still_and_goes_on_where_it_was() {
        let mut site = site(PLAIN);
        site.arrive(at_ms(0), 0.1, "a").unwrap();
        site.set_speed(at_ms(40), Speed { each: 0.0, ..PLAIN });
        assert_eq!(site.next_completion(), None);
        assert!(site.advance(at_ms(60_000)).is_empty());
        site.set_speed(at_ms(60_000), Speed { each: 0.5, ..PLAIN });
        assert_eq!(site.next_completion(), Some(at_ms(60_120)));
    }

    #[test]
    fn a_late_look_finds_the_same_order_and_times_as_a_timely_one() {
        let speed = Speed { workers: 3.0, congestion: 0.15, each: 1.0 };
        let (mut timely, mut late) = (ProcessorSharing::new(speed, 8, 100), ProcessorSharing::new(speed, 8, 100));
        let mut looked = Vec::new();
        for job in 0..60_u32 {
            let (now, work_s) = (at_ms(u64::from(job) * 7), 0.005 * f64::from(job % 11 + 1));
            timely.arrive(now, work_s, job).unwrap();
            late.arrive(now, work_s, job).unwrap();
            looked.extend(timely.advance(now));
        }
        let mut last = Moment::default();
        while let Some(next) = timely.next_completion() {
            looked.extend(timely.advance(next));
            last = next;
        }
        assert_eq!(late.advance(last), looked);
        assert_eq!(looked.len(), 60);
    }
}
