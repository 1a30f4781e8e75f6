//! The control thread: the tick of the law, the upkeep of the servers, reloads, signals and the saved state. Never a request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use super::status;
use crate::gate::{Site, TICK};
use crate::metrics::{Count, Gauge, ModeLabel, OutcomeLabel, VerdictLabel};
use crate::proxy::Stage;
use crate::rules::policy::Mode;
use crate::store::{SavedLine, SavedMode, SavedState, StoreError, chain};
use crate::upstream;

/// The recent past, for the dashboard.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Load, waiting, probability: one each [`POINT_TICKS`] ticks.
    points: VecDeque<(f64, u64, f64)>,
    /// Outcomes so far, one a tick, newest last.
    outcomes: VecDeque<Vec<u64>>,
    /// Newcomers so far, likewise.
    newcomers: VecDeque<(u64, u64)>,
    ticks: u64,
}

/// A point each two seconds, for five minutes.
const POINT_TICKS: u64 = 2;
const POINTS: usize = 150;

/// Ticks of a minute, and one more to subtract from.
const MINUTE: usize = 61;

/// What counts as recent where a minute would be too slow to see a site die.
const RECENT: usize = 10;

impl History {
    fn push(&mut self, load: f64, waiting: u64, probability: f64, outcomes: Vec<u64>, newcomers: (u64, u64)) {
        if self.ticks.is_multiple_of(POINT_TICKS) {
            self.points.push_back((load, waiting, probability));
            if self.points.len() > POINTS {
                self.points.pop_front();
            }
        }
        self.ticks += 1;
        self.outcomes.push_back(outcomes);
        if self.outcomes.len() > MINUTE {
            self.outcomes.pop_front();
        }
        self.newcomers.push_back(newcomers);
        if self.newcomers.len() > MINUTE {
            self.newcomers.pop_front();
        }
    }

    /// Newcomers of the last minute: let in at once, and shown the waiting room.
    pub(super) fn newcomers_of_last_minute(&self) -> (u64, u64) {
        let (Some(first), Some(last)) = (self.newcomers.front(), self.newcomers.back()) else { return (0, 0) };
        (last.0 - first.0, last.1 - first.1)
    }

    pub(super) fn points(&self) -> Vec<(f64, u64, f64)> {
        self.points.iter().copied().collect()
    }

    /// Outcomes of the last minute, in the order of [`OutcomeLabel::ALL`].
    pub(super) fn last_minute(&self) -> Vec<u64> {
        self.since(0)
    }

    /// Good answers of the last seconds.
    pub(super) fn recent_good(&self) -> u64 {
        let recent = self.since(self.outcomes.len().saturating_sub(RECENT));
        let good = |outcome: &OutcomeLabel| matches!(outcome, OutcomeLabel::Ok | OutcomeLabel::Slow);
        OutcomeLabel::ALL.iter().zip(recent).filter(|(outcome, _)| good(outcome)).map(|(_, count)| count).sum()
    }

    fn since(&self, from: usize) -> Vec<u64> {
        let (Some(first), Some(last)) = (self.outcomes.get(from), self.outcomes.back()) else {
            return vec![0; OutcomeLabel::ALL.len()];
        };
        last.iter().zip(first).map(|(last, first)| last - first).collect()
    }
}

/// How often the state is saved.
const SAVE_TICKS: u64 = 5;

/// A minute in which this share of requests came with an `X-Forwarded-For` that is not believed has a wrong setting.
const UNTRUSTED_SHARE: f64 = 0.2;

/// Fewer requests in a minute than this say nothing.
const UNTRUSTED_MIN: u64 = 100;

/// Runs until `stage` reaches its end.
pub(super) async fn run(shared: Arc<Shared>, mut stage: watch::Receiver<Stage>) {
    let mut ticks = interval(TICK);
    // after a pause the law reads how long it was; ticks made up for would see nothing
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count: u64 = 0;
    let mut untrusted = Untrusted::default();
    // the first comes at once, and a law that is told of a second without length would take the tokens of the first visitors
    ticks.tick().await;
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            ended = stage.wait_for(|stage| *stage >= Stage::Closed) => {
                drop(ended);
                return;
            }
        }
        count += 1;
        tick(&shared);
        upstream::maintain(&shared.upstream);
        if count.is_multiple_of(60) {
            untrusted.warn(&shared);
        }
        if count.is_multiple_of(SAVE_TICKS) {
            let shared = Arc::clone(&shared);
            drop(tokio::task::spawn_blocking(move || {
                shared.saved.save_unless_busy(|| to_outlive(&shared), |state| shared.store.save_state(state));
            }));
        }
        if let Some(reloader) = shared.reloader.clone() {
            let polling = Arc::clone(&shared);
            drop(tokio::task::spawn_blocking(move || {
                // one at a time: a file on a disk that hangs must not pile up threads
                if let Ok(_one) = polling.polling.try_lock() {
                    reloader.poll();
                }
            }));
        }
    }
}

fn tick(shared: &Shared) {
    if let Some(jump_ms) = shared.clock.follow() {
        tracing::warn!(jump_ms, "the wall clock has jumped");
    }
    let now = shared.clock.now();
    let site = shared.upstream.site();
    let report = shared.gate.tick(&site, now);
    let regime = shared.gate.regime();
    shared.upstream.limit(regime.server_limit);
    let law = &regime.law;
    // said of what would be done, too, and then it must be plain that it is not
    let observed = regime.observes().then_some(true);
    match report.limiting {
        Some(true) => tracing::info!(
            capacity = law.capacity,
            load = law.load,
            newcomers_per_second = law.newcomers,
            waiting = regime.waiting,
            limit = regime.limit().name(),
            observed,
            "limiting begins"
        ),
        Some(false) => tracing::info!(capacity = law.capacity, load = law.load, observed, "limiting ends"),
        None => {}
    }
    if report.mode_ended {
        tracing::info!(mode = regime.mode.mode.name(), "the mode set by hand has ended");
    }
    show(shared, &site);
    let (outcomes, newcomers) = (status::outcomes(&shared.metrics), status::newcomers(&shared.metrics));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of visitors; `as` saturates")]
    let waiting = regime.rehearsed.map_or(regime.waiting, |rehearsed| rehearsed.waiting as u64);
    shared.history().push(law.load, waiting, regime.probability(), outcomes, newcomers);
}

/// Puts the regime in force, and the site, into the metrics.
pub(super) fn show(shared: &Shared, site: &Site) {
    let regime = shared.gate.regime();
    let metrics = &shared.metrics;
    metrics.set(Gauge::AdmissionProbability, regime.probability());
    metrics.set(Gauge::Load, regime.law.load);
    metrics.set(Gauge::Capacity, regime.law.capacity);
    metrics.set(Gauge::AdmissionRate, regime.law.newcomers);
    metrics.set(Gauge::VisitorsActive, to_f64(regime.active));
    metrics.set(Gauge::VisitorsWaiting, to_f64(regime.waiting));
    let line = regime.line();
    metrics.set(Gauge::LineTimestamp, line.map_or(0.0, |(at, _)| to_f64(at.as_millis()) / 1000.0));
    metrics.set(Gauge::LineLength, line.map_or(0.0, |(_, length)| to_f64(length)));
    metrics.set(Gauge::ExpectedWait, regime.expected_wait().map_or(f64::INFINITY, |wait| wait.as_secs_f64()));
    let wait_s = |wait: Option<Duration>| wait.map_or(f64::INFINITY, |wait| wait.as_secs_f64());
    metrics.set(Gauge::ObservedDemand, regime.rehearsed.map_or(0.0, |rehearsed| rehearsed.asked));
    metrics.set(Gauge::ObservedWait, regime.rehearsed.map_or(0.0, |rehearsed| wait_s(rehearsed.wait)));
    let mode = match regime.mode.mode {
        Mode::Auto => ModeLabel::Auto,
        Mode::Open => ModeLabel::Open,
        Mode::Closed => ModeLabel::Closed,
        Mode::Fixed(_) => ModeLabel::Fixed,
        Mode::Observe => ModeLabel::Observe,
    };
    metrics.set(Gauge::Mode, f64::from(mode as u8));
    metrics.set(Gauge::UpstreamInFlight, f64::from(site.in_flight));
    metrics.set(Gauge::MaxInFlight, f64::from(regime.server_limit.per_server));
    metrics.set(Gauge::SlotQueueLength, to_f64(shared.upstream.queued() as u64));
    metrics.set(Gauge::CertificateExpires, shared.tls.as_ref().map_or(f64::INFINITY, |tls| to_f64(tls.expires().as_millis() / 1000)));
    metrics.set(Gauge::DownstreamConnections, to_f64(shared.connections.open() as u64));
    metrics.set(Gauge::DownstreamConnectionsIdle, to_f64(shared.connections.idle() as u64));
    metrics.set(Gauge::UpgradesActive, to_f64(shared.connections.upgrades() as u64));
    metrics.set_upstream(shared.upstream.servers().into_iter().map(|server| (server.label, server.up)));
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Warns once if one wrong setting makes the crowd one client.
#[derive(Debug, Default)]
struct Untrusted {
    requests: u64,
    untrusted: u64,
    warned: bool,
}

impl Untrusted {
    fn warn(&mut self, shared: &Shared) {
        let requests: u64 = VerdictLabel::ALL.iter().map(|&verdict| shared.metrics.total(Count::Request(verdict))).sum();
        let untrusted = shared.metrics.total(Count::UntrustedForwarded);
        let (new_requests, new_untrusted) = (requests - self.requests, untrusted - self.untrusted);
        (self.requests, self.untrusted) = (requests, untrusted);
        let is_wrong = new_requests >= UNTRUSTED_MIN && to_f64(new_untrusted) > UNTRUSTED_SHARE * to_f64(new_requests);
        if is_wrong && !self.warned {
            tracing::warn!(
                requests = new_requests,
                untrusted = new_untrusted,
                "many requests come with X-Forwarded-For from a peer that is not in client.trusted_proxies: if that is your own proxy, \
                 all of its visitors count as one client"
            );
        }
        self.warned = is_wrong;
    }
}

/// Writes down what is to outlive a restart. Returns whether it is on disk.
pub(super) fn save(shared: &Shared) -> bool {
    shared.saved.save(|| to_outlive(shared), |state| shared.store.save_state(state))
}

fn to_outlive(shared: &Shared) -> SavedState {
    let remembered = shared.gate.remembered();
    SavedState {
        saved_at: shared.clock.now().wall,
        capacity: remembered.capacity,
        max_in_flight: remembered.max_in_flight,
        line: remembered.line.map(|line| SavedLine { at: line.at, clock: line.clock }),
        mode: remembered.by_hand.map(|by_hand| SavedMode { mode: by_hand.mode, until: by_hand.until }),
    }
}

/// What was last written down, by one at a time.
#[derive(Debug, Default)]
pub(super) struct Saved(Mutex<Option<SavedState>>);

impl Saved {
    /// Writes down what `read` finds, if it is not what is there already. Returns whether it is on disk.
    fn save(&self, read: impl FnOnce() -> SavedState, write: impl FnOnce(&SavedState) -> Result<(), StoreError>) -> bool {
        // before it is read: what was read earlier, and written later, would take the place of a mode that was told to be saved
        Self::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), read, write)
    }

    /// The same, unless somebody does so already: on a disk that hangs, those that wait would pile up.
    fn save_unless_busy(&self, read: impl FnOnce() -> SavedState, write: impl FnOnce(&SavedState) -> Result<(), StoreError>) {
        let mut last = match self.0.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(last)) => last.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        Self::replace(&mut last, read, write);
    }

    fn replace(
        last: &mut Option<SavedState>,
        read: impl FnOnce() -> SavedState,
        write: impl FnOnce(&SavedState) -> Result<(), StoreError>,
    ) -> bool {
        let state = read();
        if last.is_some_and(|last| SavedState { saved_at: state.saved_at, ..last } == state) {
            return true;
        }
        match write(&state) {
            Ok(()) => {
                *last = Some(state);
                true
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the state could not be saved");
                false
            }
        }
    }
}

/// The signals of this process. From [`Signals::take`] on none of them kills it, though it may be starting still.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGHUP: each is kept until it is waited for.
    ///
    /// # Errors
    /// If they can't be had.
    pub fn take() -> std::io::Result<Self> {
        let runtime = super::runtime()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(inside);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }

    /// Waits for SIGTERM or SIGINT; reloads on SIGHUP meanwhile.
    pub(super) fn until_told_to_end(self, shared: &Shared) {
        let Self { runtime, mut terminate, mut interrupt, mut hangup } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = hangup.recv() => {
                        if let Some(reloader) = shared.reloader.clone() {
                            super::systemd::reloading();
                            // its result is logged and counted
                            drop(tokio::task::spawn_blocking(move || reloader.reload()).await);
                            super::systemd::ready();
                        }
                    }
                }
            }
        });
    }
}

/// Waits for a second signal to end, or for the time to be over.
pub(super) async fn wait_or_hurry(time: Duration) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return tokio::time::sleep(time).await };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return tokio::time::sleep(time).await };
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

impl Shared {
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A history that begins with nothing answered: the first minute is counted from there.
pub(super) fn history() -> Mutex<History> {
    let nothing = vec![0; OutcomeLabel::ALL.len()];
    Mutex::new(History { outcomes: VecDeque::from([nothing]), newcomers: VecDeque::from([(0, 0)]), ..History::default() })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::rules::time::UnixTime;

    fn state(capacity: f64) -> SavedState {
        SavedState { saved_at: UnixTime::from_secs(1), capacity: Some(capacity), max_in_flight: None, line: None, mode: None }
    }

    #[test]
    fn what_is_saved_is_read_when_nobody_can_write_something_older_after_it() {
        let saved = Saved::default();
        let read = || {
            assert!(saved.0.try_lock().is_err(), "another could write meanwhile what it has read before");
            state(1.0)
        };
        assert!(saved.save(read, |_| Ok(())));
        saved.save_unless_busy(read, |_| Ok(()));
    }

    #[test]
    fn nobody_waits_to_save_what_is_saved_now_and_then_anyway() {
        let saved = Saved::default();
        let hangs = saved.0.lock().unwrap();
        let (sender, over) = mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                saved.save_unless_busy(|| state(1.0), |_| Ok(()));
                sender.send(()).unwrap();
            });
            let is_over = over.recv_timeout(Duration::from_secs(10));
            drop(hangs);
            is_over.unwrap();
        });
        assert_eq!(*saved.0.lock().unwrap(), None);
        saved.save_unless_busy(|| state(1.0), |_| Ok(()));
        assert_eq!(*saved.0.lock().unwrap(), Some(state(1.0)));
    }
}
