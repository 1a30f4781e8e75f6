//! The thread that invites. It alone writes the ledger: it decides each second how many may be sent, hands their messages over, and redeems
//! codes; what it tells anyone is on disk before.
//!
//! An entry `sending` is on disk before a message leaves, and `sent` as soon as the server has taken it. A crash between the two sends the
//! message once more, with the same code and the same `Message-ID`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use super::handing::{Handed, Handing};
use super::invitations::{Ask, NotOpen, Standing, WhyNone};
use super::rows::{Addressee, Rows};
use super::transport::NotSent;
use super::{Failing, random};
use crate::clock::Clock;
use crate::gate::{Gate, Regime};
use crate::metrics::{Count, Gauge, InvitationResult, Metrics, Shard};
use crate::rules::decide::is_revoked;
use crate::rules::email::fold;
use crate::rules::invites::{Code, batch_of};
use crate::rules::ledger::{self, Attempts, Delivery, Event, Invitation, Ledger};
use crate::rules::pacing::{Held, Outstanding, Pace, Pacing, Settings};
use crate::rules::time::{Moment, Now};
use crate::rules::token::{Pass, VisitorId};
use crate::rules::uniform::unit;
use crate::store::email_queue::{self, Entry, Forget, LedgerFiles, directory_of};
use crate::store::{StoreError, chain};

/// What the thread works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `data`
    pub data: PathBuf,
    /// The gate: its policy, its keys, its pages, and how the site stands.
    pub gate: Arc<Gate>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Where invitations are counted.
    pub metrics: Arc<Metrics>,
    /// How many addresses the queue holds, as its writer knows.
    pub addresses: Arc<AtomicU64>,
}

/// The thread's own.
pub(super) struct Inviter {
    parts: Parts,
    shard: Arc<Shard>,
    standing: Arc<ArcSwap<Standing>>,
    /// None until it was opened, and while it can't be.
    files: Option<LedgerFiles>,
    ledger: Ledger,
    pacing: Pacing,
    ticked: Moment,
    /// By the operator.
    paused: bool,
    pace: Pace,
    /// What is left of it in this tick.
    allowance: u32,
    /// What has happened and is not on disk yet: the disk was full.
    unwritten: Vec<Entry<'static>>,
    failing: Failing,
    rows: Rows,
    /// There are more rows to be read at once.
    reads_on: bool,
    sends: JoinSet<Handed>,
    handing: Handing,
    /// Rows whose addresses are to be deleted.
    left: Arc<Mutex<HashSet<VisitorId>>>,
    tidied: Option<Moment>,
    /// When rows were taken out last whose invitation is over.
    cleared: Option<Moment>,
}

/// How often it looks around.
const TICK: Duration = Duration::from_secs(1);

/// How often what is too old is deleted, and what was asked to be.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// How often rows are taken out whose invitation is over, and how many at a time.
const CLEAR_EVERY: Duration = Duration::from_secs(86_400);
const CLEAR_MAX: usize = 1_000_000;

/// What is known of an invitation is kept for so much longer than its row.
const LATER: Duration = Duration::from_secs(86_400);

/// A message that may have been taken is sent so often: twice is better than never, and more is not.
const UNCLEAR_MAX: u8 = 2;

/// Messages that are begun and not done, at a time: what is begun can't be stopped any more, whatever happens to the site.
const ON_THEIR_WAY_MAX: usize = 20;

/// How long messages on their way are waited for at the end.
const FINISH: Duration = Duration::from_secs(5);

impl Inviter {
    pub(super) fn new(parts: Parts, standing: Arc<ArcSwap<Standing>>) -> Self {
        Self {
            shard: parts.metrics.control(),
            standing,
            files: None,
            ledger: Ledger::default(),
            pacing: Pacing::default(),
            ticked: parts.clock.moment(),
            paused: false,
            pace: Pace::default(),
            allowance: 0,
            unwritten: Vec::new(),
            failing: Failing::default(),
            rows: Rows::new(&parts.data),
            reads_on: false,
            sends: JoinSet::new(),
            handing: Handing::default(),
            left: Arc::default(),
            tidied: None,
            cleared: None,
            parts,
        }
    }

    /// Until it is told to end, or everyone who could ask has gone.
    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ask = asks.recv() => {
                    let mut batch: Vec<Ask> = ask.into_iter().collect();
                    while let Ok(ask) = asks.try_recv() {
                        batch.push(ask);
                    }
                    let ends = batch.is_empty() || batch.iter().any(|ask| matches!(ask, Ask::End));
                    self.answer(batch);
                    if ends {
                        break;
                    }
                }
                Some(handed) = self.sends.join_next() => {
                    let mut all = vec![handed];
                    while let Some(handed) = self.sends.try_join_next() {
                        all.push(handed);
                    }
                    self.settle(all);
                    let (regime, now) = (self.parts.gate.regime().clone(), self.parts.clock.now());
                    self.send(&regime, now);
                }
                _ = ticks.tick() => self.tick(),
                () = tokio::task::yield_now(), if self.reads_on => self.read_rows(),
            }
        }
        // so that the few that are being sent can finish, and are not sent again after a restart
        self.handing.stop();
        let finish = async {
            while let Some(handed) = self.sends.join_next().await {
                self.settle(vec![handed]);
            }
        };
        if tokio::time::timeout(FINISH, finish).await.is_err() {
            tracing::warn!(messages = self.sends.len(), "messages on their way are cut off; they are sent again after the next start");
        }
        self.write(Vec::new());
    }

    fn tick(&mut self) {
        let regime = self.parts.gate.regime().clone();
        let now = self.parts.clock.now();
        let seconds = now.mono.since(self.ticked).as_secs_f64();
        self.ticked = now.mono;
        if self.files.is_none() && !regime.policy.email_queue.enabled && !directory_of(&self.parts.data).exists() {
            // there is nothing, and no directory is made for it
            return;
        }
        self.paused = email_queue::paused_since(&self.parts.data).is_some();
        self.open_ledger(&regime);
        self.handing.follow(&regime.policy.invitations, now.mono);
        self.write(Vec::new());
        self.probe();
        self.ledger.forget_repeats(now);
        if self.files.is_some() {
            self.read_rows();
            self.invite(&regime, now, seconds);
            self.tidy(&regime, now);
        }
        self.show(now);
    }

    /// Opens the ledger if it is not open, and reads it if that was not done, or lines were taken out of it.
    fn open_ledger(&mut self, regime: &Regime) {
        if let Err(error) = self.try_open_ledger(regime) {
            self.failing(Some(&error));
        }
    }

    fn try_open_ledger(&mut self, regime: &Regime) -> Result<(), StoreError> {
        let mut files = match self.files.take() {
            Some(files) => files,
            None => {
                let (files, torn) = LedgerFiles::open(&self.parts.data)?;
                for path in torn {
                    tracing::warn!(path = %path.display(), "the end of a file of the ledger of invitations was cut off, and is set aside");
                }
                files
            }
        };
        if files.is_changed()? {
            let Self { ledger, left, .. } = self;
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            // the old one goes first: there is not room for two
            *ledger = Ledger::default();
            ledger.reserve(files.invitations_at_most()?);
            left.clear();
            let found = files.read(|entry| {
                if entry.event == Event::Left {
                    left.insert(entry.id);
                }
                ledger.apply(regime.keys.codes().of(entry.id), entry.id, entry.at, entry.event);
            })?;
            for entry in &self.unwritten {
                ledger.apply(regime.keys.codes().of(entry.id), entry.id, entry.at, entry.event);
            }
            self.pacing.outstanding = Outstanding::default();
            for (sent, until) in ledger.outstanding() {
                self.pacing.outstanding.invited(sent, until);
            }
            if let Some(first) = &found.first_fault {
                tracing::warn!(lines = found.not_entries, first, "lines of the ledger of invitations that are none are left as they are");
            }
            self.rows.restart(&self.parts.data);
        }
        self.files = Some(files);
        Ok(())
    }

    /// Reads some rows: a long queue is read in pieces, and between them those who ask are answered.
    fn read_rows(&mut self) {
        self.reads_on = false;
        if self.files.is_none() {
            return;
        }
        let keys = Arc::clone(&self.parts.gate.regime().keys);
        match self.rows.read_on(&self.ledger, keys.codes()) {
            Ok(more) => self.reads_on = more,
            Err(error) => self.failing(Some(&error)),
        }
    }

    /// Decides how many may be sent in this tick.
    fn invite(&mut self, regime: &Regime, now: Now, seconds: f64) {
        self.pacing.give_back(self.allowance);
        let settings = Settings::of(&regime.policy.invitations, self.paused);
        let pace = self.pacing.tick(now, seconds, &regime.sight(), &settings);
        self.allowance = pace.allowance;
        self.pace(pace);
        self.send(regime, now);
    }

    /// Begins with as many as may be sent now.
    fn send(&mut self, regime: &Regime, now: Now) {
        let may = usize::try_from(self.allowance).unwrap_or(usize::MAX);
        let may = may.min(self.handing.may_send(now.mono)).min(ON_THEIR_WAY_MAX.saturating_sub(self.rows.on_their_way()));
        let until = now.wall.plus(regime.policy.invitations.expires);
        let mut begun = Vec::new();
        while begun.len() < may && self.unwritten.is_empty() {
            let Some(next) = self.rows.next(now.wall) else { break };
            // it has been left meanwhile
            if self.ledger.delivery(next.code) == Delivery::Done {
                self.rows.finish(next.id);
            } else {
                begun.push(next);
            }
        }
        if begun.is_empty() {
            return;
        }
        let entries = begun.iter().map(|to| Entry { id: to.id, at: now.wall, event: Event::Sending { until }, reason: None }).collect();
        if !self.write(entries) {
            for to in begun.into_iter().rev() {
                self.rows.put_back(to);
            }
            return;
        }
        self.allowance = self.allowance.saturating_sub(u32::try_from(begun.len()).unwrap_or(u32::MAX));
        self.handing.begin(now.mono);
        let mut not_made = Vec::new();
        for to in begun {
            if self.ledger.delivery(to.code) == Delivery::New {
                self.pacing.outstanding.invited(now.wall, until);
            }
            self.ledger.apply(to.code, to.id, now.wall, Event::Sending { until });
            match self.handing.send(regime, to, until, now) {
                Ok(send) => drop(self.sends.spawn(send)),
                Err(handed) => not_made.push(Ok(*handed)),
            }
        }
        self.settle(not_made);
    }

    /// Writes down how messages have fared.
    fn settle(&mut self, all: Vec<Result<Handed, JoinError>>) {
        let regime = self.parts.gate.regime().clone();
        let now = self.parts.clock.now();
        let mut entries = Vec::new();
        for handed in all {
            let Handed { to, result, tried } = match handed {
                Ok(handed) => handed,
                Err(error) => {
                    // whose it was is not known any more: it is tried again after the next start
                    tracing::error!(%error, "sending an invitation has panicked");
                    continue;
                }
            };
            if tried {
                self.handing.note(&result, now.mono);
            }
            let (event, reason) = self.outcome(&regime, &to, result, now);
            let was_first = self.attempts(to.code).map(|attempts| attempts.first);
            self.ledger.apply(to.code, to.id, now.wall, event);
            entries.push(Entry { id: to.id, at: now.wall, event, reason: reason.map(Cow::Owned) });
            match event {
                Event::Deferred { again } => self.rows.defer(to, again),
                Event::Failed => {
                    was_first.into_iter().for_each(|first| self.pacing.outstanding.withdrawn(first));
                    self.rows.finish(to.id);
                }
                Event::Sent | Event::Sending { .. } | Event::Redeemed { .. } | Event::Left => self.rows.finish(to.id),
            }
        }
        // it has happened: if it can't be written now it is as soon as it can be, and nothing is sent before
        self.unwritten.append(&mut entries);
        self.write(Vec::new());
    }

    /// What has become of a message, and why.
    fn outcome(&mut self, regime: &Regime, to: &Addressee, result: Result<(), NotSent>, now: Now) -> (Event, Option<String>) {
        let server = matches!(result, Err(NotSent::Deferred { server: true, .. } | NotSent::Unclear { .. }));
        // by which one address can be followed through the log, and nobody can tell which
        let email = format!("{:032x}", regime.keys.address_hash().of(&fold(&to.email)));
        match result {
            Ok(()) => {
                self.shard.count(Count::Invitation(InvitationResult::Sent));
                tracing::debug!(id = %to.id, email, "invitation sent");
                (Event::Sent, None)
            }
            Err(NotSent::Failed { reason }) => {
                self.shard.count(Count::Invitation(InvitationResult::Failed));
                tracing::info!(id = %to.id, email, reason, "invitation failed");
                (Event::Failed, Some(reason))
            }
            Err(NotSent::Unclear { reason }) if self.attempts(to.code).is_some_and(|attempts| attempts.count >= UNCLEAR_MAX) => {
                self.shard.count(Count::Invitation(InvitationResult::Sent));
                tracing::info!(id = %to.id, email, reason, "invitation taken for sent");
                (Event::Sent, Some(reason))
            }
            Err(NotSent::Deferred { reason, .. } | NotSent::Unclear { reason }) => {
                let attempts = self.attempts(to.code).unwrap_or(Attempts { count: 1, first: now.wall, again: now.wall });
                // what the server says of itself is no reason to give anyone up; the others go on meanwhile
                let expires = if server { Duration::MAX } else { regime.policy.invitations.expires };
                let again = ledger::again(attempts, expires, draw(), now.wall);
                let Some(again) = again else {
                    self.shard.count(Count::Invitation(InvitationResult::Failed));
                    tracing::info!(id = %to.id, email, reason, "invitation given up");
                    return (Event::Failed, Some(reason));
                };
                self.shard.count(Count::Invitation(InvitationResult::Deferred));
                // the server's own troubles are told once, not for each
                if self.handing.works() {
                    tracing::info!(id = %to.id, email, reason, "invitation deferred");
                }
                (Event::Deferred { again }, Some(reason))
            }
        }
    }

    fn attempts(&self, code: Code) -> Option<Attempts> {
        match self.ledger.delivery(code) {
            Delivery::Due(attempts) => Some(attempts),
            Delivery::New | Delivery::Done => None,
        }
    }

    /// Answers all who ask, with one sync of the disk. Of those who show the same code one is answered at a time.
    fn answer(&mut self, mut asks: Vec<Ask>) {
        let regime = self.parts.gate.regime().clone();
        if self.files.is_none() {
            self.open_ledger(&regime);
        }
        while !asks.is_empty() {
            let now = self.parts.clock.now();
            let mut later = Vec::new();
            let mut shown = HashSet::new();
            let mut entries = Vec::new();
            let mut passes = Vec::new();
            let mut leaving = Vec::new();
            for ask in asks {
                match ask {
                    Ask::Look { code, ticket, answer } => {
                        answer.send(self.open(&regime, code, ticket, now).map(drop)).ok();
                    }
                    // whoever asked is gone, and would never hear of it
                    Ask::Redeem { answer, .. } if answer.is_closed() => {}
                    Ask::Redeem { code, ticket, answer } if shown.contains(&code) => later.push(Ask::Redeem { code, ticket, answer }),
                    Ask::Redeem { code, ticket, answer } => match self.open(&regime, code, ticket, now) {
                        Err(why) => {
                            answer.send(Err(why)).ok();
                        }
                        Ok(invitation) if invitation.redeemed.is_some() => {
                            answer.send(Ok(pass(&invitation, now))).ok();
                        }
                        Ok(invitation) => {
                            shown.insert(code);
                            let event = Event::Redeemed { ticket };
                            entries.push(Entry { id: invitation.id, at: now.wall, event, reason: None });
                            passes.push((code, invitation, event, answer));
                        }
                    },
                    Ask::Leave { id, answer } if self.files.is_some() && self.ledger.has_left(regime.keys.codes().of(id)) => {
                        answer.send(Ok(())).ok();
                    }
                    Ask::Leave { id, answer } => {
                        entries.push(Entry { id, at: now.wall, event: Event::Left, reason: None });
                        leaving.push((id, answer));
                    }
                    Ask::Pause { paused, answer } => {
                        answer.send(self.pause(paused)).ok();
                    }
                    Ask::End => {}
                }
            }
            let written = self.files.is_some() && self.unwritten.is_empty() && self.write(entries);
            self.tell(&regime, written, passes, leaving, now);
            asks = later;
        }
    }

    fn tell(&mut self, regime: &Regime, written: bool, passes: Vec<Redeeming>, leaving: Vec<(VisitorId, Answer<()>)>, now: Now) {
        for (code, invitation, event, answer) in passes {
            if written {
                self.ledger.apply(code, invitation.id, now.wall, event);
                self.pacing.outstanding.redeemed(invitation.sent);
                self.shard.count(Count::InvitationRedeemed);
                tracing::debug!(id = %invitation.id, "invitation redeemed");
            }
            // who has left is not told, and may ask again
            answer.send(if written { Ok(pass(&invitation, now)) } else { Err(NotOpen::Unavailable) }).ok();
        }
        for (id, answer) in leaving {
            if written {
                self.ledger.apply(regime.keys.codes().of(id), id, now.wall, Event::Left);
                self.left().insert(id);
                tracing::info!(%id, "an address is deleted, as was asked for");
            }
            answer.send(if written { Ok(()) } else { Err(NotOpen::Unavailable) }).ok();
        }
    }

    /// Whether a code lets someone in now.
    fn open(&self, regime: &Regime, code: Code, ticket: Option<VisitorId>, now: Now) -> Result<Invitation, NotOpen> {
        if self.files.is_none() {
            return Err(NotOpen::Unavailable);
        }
        let invitation = self.ledger.open(code, ticket, now).map_err(NotOpen::Ledger)?;
        // what was sent before the operator's time is ended, whenever it is redeemed
        let sent = Pass::invited(invitation.id, batch_of(invitation.sent), invitation.sent);
        if is_revoked(&sent, &regime.policy.session, &regime.policy.bypass) {
            return Err(NotOpen::Revoked);
        }
        if invitation.redeemed.is_none() && !regime.has_room_for_invited() {
            return Err(NotOpen::NoRoom);
        }
        Ok(invitation)
    }

    fn pause(&self, paused: bool) -> Result<(), String> {
        let done = email_queue::pause(&self.parts.data, paused).map_err(|error| chain(&error));
        if done.is_ok() {
            tracing::info!(paused, "invitations paused or resumed by hand");
        }
        done
    }

    /// Writes entries, after those that could not be written before. Returns whether these are on disk.
    fn write(&mut self, entries: Vec<Entry<'static>>) -> bool {
        if entries.is_empty() && self.unwritten.is_empty() {
            return true;
        }
        let Some(files) = &mut self.files else { return false };
        let before = self.unwritten.len();
        self.unwritten.extend(entries);
        let written = files.append(&self.unwritten);
        self.unwritten.truncate(if written.is_ok() { 0 } else { before });
        self.failing(written.as_ref().err());
        written.is_ok()
    }

    /// Finds out whether what failed would work now, if nothing is to be written.
    fn probe(&mut self) {
        if let (true, Some(files)) = (self.failing.is() && self.unwritten.is_empty(), &self.files) {
            let probed = files.probe();
            self.failing(probed.as_ref().err());
        }
    }

    /// Deletes what is too old, and the addresses of those who asked for it.
    fn tidy(&mut self, regime: &Regime, now: Now) {
        if self.tidied.is_some_and(|last| now.mono.since(last) < TIDY_EVERY) {
            return;
        }
        self.tidied = Some(now.mono);
        // a day after the rows: what is not known any more is not to look like one that nobody has been invited for
        let kept = regime.policy.email_queue.retention.max(regime.policy.invitations.expires) + LATER;
        let before = now.wall.minus(kept + now.doubt);
        if let Some(files) = &mut self.files {
            match files.expire(before) {
                Ok(0) => {}
                Ok(lines) => tracing::info!(lines, "lines of the ledger older than email_queue.retention deleted"),
                Err(error) => tracing::error!(error = %chain(&error), "old lines of the ledger could not be deleted"),
            }
        }
        let asked_for = std::mem::take(&mut *self.left());
        self.erase(asked_for, "as was asked for");
        if self.cleared.is_none_or(|last| now.mono.since(last) >= CLEAR_EVERY) {
            self.cleared = Some(now.mono);
            // who has come, or has let the time go by, may leave the address again
            let over = self.ledger.over(now, CLEAR_MAX).collect();
            self.erase(over, "since their invitations are over");
        }
    }

    /// Takes rows out of the queue, beside all else: it may have to rewrite gigabytes.
    fn erase(&self, ids: HashSet<VisitorId>, why: &'static str) {
        if ids.is_empty() {
            return;
        }
        let (data, left) = (self.parts.data.clone(), Arc::clone(&self.left));
        drop(tokio::task::spawn_blocking(move || match email_queue::forget(&data, Forget::Rows(&ids)) {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, why, "addresses deleted"),
            Err(error) => {
                tracing::error!(error = %chain(&error), "addresses that are to be deleted could not be; it is tried again");
                left.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
            }
        }));
    }

    fn left(&self) -> MutexGuard<'_, HashSet<VisitorId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&mut self, pace: Pace) {
        let was = std::mem::replace(&mut self.pace, pace);
        let name = |pace: Pace| pace.held.map(Held::name);
        if name(was) != name(pace) {
            tracing::debug!(held = name(pace), "invitations");
        }
    }

    /// How the last attempt has ended.
    fn failing(&mut self, error: Option<&StoreError>) {
        self.failing.note(
            error,
            "the ledger of invitations can't be kept: none is sent, and no code is redeemed",
            "the ledger of invitations can be kept again",
        );
    }

    fn show(&self, now: Now) {
        let addresses = self.parts.addresses.load(Ordering::Relaxed);
        let waiting = addresses.saturating_sub(self.rows.done());
        let oldest = self.rows.oldest().filter(|_| waiting > 0);
        let outstanding = self.pacing.outstanding.count();
        let metrics = &self.parts.metrics;
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        {
            metrics.set(Gauge::EmailsWaiting, waiting as f64);
            metrics.set(Gauge::InvitationsOutstanding, outstanding as f64);
        }
        metrics.set(Gauge::EmailsOldestAge, oldest.map_or(0.0, |oldest| now.wall.since(oldest).as_secs_f64()));
        let held = if self.failing.is() {
            Some(WhyNone::Storage)
        } else if self.handing.name().is_none() {
            Some(WhyNone::NotSetUp)
        } else if !self.handing.works() {
            Some(WhyNone::Delivery)
        } else {
            self.pace.held.map(WhyNone::Pace)
        };
        self.standing.store(Arc::new(Standing {
            by: self.handing.name(),
            paused: self.paused,
            held,
            trouble: self.handing.trouble(),
            addresses,
            waiting,
            oldest,
            totals: self.ledger.totals(),
            outstanding,
            expected: self.pace.expected,
            expected_max: self.pace.expected_max,
        }));
    }
}

type Answer<T> = oneshot::Sender<Result<T, NotOpen>>;
type Redeeming = (Code, Invitation, Event, Answer<Pass>);

/// The same for who repeats it.
fn pass(invitation: &Invitation, now: Now) -> Pass {
    Pass::invited(invitation.id, batch_of(invitation.sent), invitation.redeemed.unwrap_or(now.wall))
}

/// In 0 to 1.
fn draw() -> f64 {
    random().map_or(0.5, unit)
}
