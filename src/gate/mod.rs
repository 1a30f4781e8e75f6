//! The gate: the regime that every decision reads, and the two doors by which a new one comes in (the tick and `publish`).
//!
//! Always holds: a request loads the regime once; policy, keys, pages and odds in it belong together. What requests share beside it
//! (tokens, the count of tickets, the rate of each pass) is atomics and short locks of one key's shard.
//!
//! Absent: clocks, sockets, files, and randomness (`entropy` is an argument), so that a simulation drives this very code.

mod attending;
mod control;
mod crowd;
mod keyed;
mod regime;
mod rehearse;
mod standing;
mod visit;
mod window;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use crate::page::Pages;
use crate::rules::concurrency::{Concurrency, Sample, ServerLimit};
use crate::rules::controller::{AGES, Controller, Law, Reading, Settings, Tokens};
use crate::rules::decide::{self, Reason, Verdict};
use crate::rules::draw::{self, Recent, Weights};
use crate::rules::invites::{GUESSES, GUESSES_PER_CLIENT};
use crate::rules::keyring::Keyring;
use crate::rules::line::{IssueClock, Position};
use crate::rules::outlook::{Crowd as DrawingCrowd, Outlook};
use crate::rules::pacing::{Visits, VisitsSeen};
use crate::rules::policy::{MaxInFlight, Mode, Order, Policy};
use crate::rules::rate::Rate;
use crate::rules::rehearsal::Rehearsal;
use crate::rules::slots::{Appointments, Usage};
use crate::rules::time::{Moment, Now, UnixTime};
use crate::rules::token::{Pass, PassKind, Ticket, VisitorId};
use crate::rules::uniform::unit;

pub use regime::{ByHand, ModeInForce, Regime};
pub use visit::{Decision, Drawn, Visit};

use attending::{CheckedIn, LastEpoch};
use control::{Control, Seen};
use crowd::{Crowd, Sum, Sums};
use keyed::Keyed;
use regime::{Staked, fixed_odds, mode_in_force, whole};
use standing::LineInForce;

/// How the site stands, read by the ticker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Site {
    /// Requests at the site.
    pub in_flight: u32,
    /// Requests that wait for a slot of the site.
    pub queued: usize,
    /// Servers in use.
    pub servers: u32,
    /// Slot time used since the start.
    pub usage: Usage,
}

/// What a tick changed, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Newcomers are turned away from now on (`true`), or no longer (`false`).
    pub limiting: Option<bool>,
    /// The mode set by hand has come to its end.
    pub mode_ended: bool,
}

/// What outlives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Remembered {
    /// The capacity as last measured.
    pub capacity: Option<f64>,
    /// The limit of each server, as found.
    pub max_in_flight: Option<u32>,
    /// A mode set by hand.
    pub by_hand: Option<ByHand>,
    /// The line, if someone stood in it.
    pub line: Option<RememberedLine>,
}

/// The line as it stood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RememberedLine {
    /// Where.
    pub at: Position,
    /// What the clock showed by which tickets are issued.
    pub clock: UnixTime,
}

/// The gate. One, shared by all threads.
pub struct Gate {
    regime: ArcSwap<Regime>,
    passes: Keyed,
    clients: Keyed,
    /// Clients that post addresses.
    posters: Keyed,
    /// Clients that have typed codes that are none.
    guessers: Keyed,
    /// Codes that are none, of all clients: the theoretical arrival time of their rate.
    guesses: Mutex<Moment>,
    crowd: Crowd,
    checked_in: CheckedIn,
    /// Newcomers that may still enter in this tick.
    tokens: AtomicU32,
    appointments: Mutex<Appointments>,
    seen: Vec<Seen>,
    /// Who was admitted before this is not known to the profile.
    started: UnixTime,
    control: Mutex<Control>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate for so many workers.
    #[must_use]
    pub fn new(policy: Arc<Policy>, keys: Arc<Keyring>, pages: Arc<Pages>, remembered: Remembered, workers: usize, now: Now) -> Self {
        let concurrency = Concurrency::new(remembered.max_in_flight);
        let server_limit = server_limit(&policy, &concurrency);
        let slots = u32::try_from(policy.upstream.servers.len()).unwrap_or(u32::MAX).saturating_mul(server_limit.per_server);
        let controller = Controller::new(remembered.capacity);
        let capacity = controller.capacity().unwrap_or_else(|| f64::from(slots));
        let mode = mode_in_force(&policy, remembered.by_hand, now.wall);
        let odds = Recent::new(now.wall, fixed_odds(mode.mode).unwrap_or(1.0));
        let epoch = policy.waiting_room.refresh;
        let outlook = Arc::new(Outlook::fixed(odds.current(), epoch));
        let clock = IssueClock::new(now, remembered.line.map(|line| line.clock));
        // who stood in a line of long ago has lost the place
        let holds = decide::ticket_holds(policy.waiting_room.refresh_max);
        let saved = remembered.line.filter(|line| now.wall.since(line.clock) < holds);
        let line = LineInForce::new(saved, clock, capacity, now.wall);
        let checked_in = CheckedIn::new(Position::at(clock.at(now.wall)));
        let sums = Sums::new(policy.waiting_room.refresh, now.wall);
        let tokens = Tokens::default().next(capacity, TICK.as_secs_f64(), 0);
        let regime = Regime {
            epoch: policy.waiting_room.refresh,
            pass_rate: Rate::per_minute(policy.session.rate),
            ticket_rate: Rate::per_minute(policy.limits.tickets_per_client),
            post_rate: Rate::per_minute(policy.email_queue.posts_per_client),
            policy,
            keys,
            pages,
            mode,
            server_limit,
            law: Law { capacity, newcomers: capacity, requests_per_newcomer: 1.0, requests: capacity, ..Law::default() },
            limiting: false,
            measured: controller.capacity().is_some(),
            rehearsed: None,
            waiting: 0,
            active: 0,
            tick_began: now.wall,
            odds,
            outlook,
            usual_rate: capacity,
            entering: capacity,
            held: 0.0,
            line,
            promised: (Duration::ZERO, now.mono),
            requests_per_visit: Visits::default().requests_per_visit(Duration::ZERO),
        };
        Self {
            regime: ArcSwap::from_pointee(regime),
            passes: Keyed::new(),
            clients: Keyed::new(),
            posters: Keyed::new(),
            guessers: Keyed::new(),
            guesses: Mutex::default(),
            crowd: Crowd::new(),
            checked_in,
            tokens: AtomicU32::new(tokens),
            appointments: Mutex::default(),
            seen: (0..workers.max(1)).map(|_| Seen::default()).collect(),
            started: now.wall,
            control: Mutex::new(Control {
                controller,
                concurrency,
                tokens: Tokens::default(),
                sums,
                last_epoch: LastEpoch::default(),
                crowd: DrawingCrowd::default(),
                restored: saved.map(|_| now.mono),
                usage: Usage::default(),
                rehearsal: Rehearsal::default(),
                visits: Visits::default(),
                ticked: now.mono,
                stretched: None,
                turned_away: now.mono,
            }),
        }
    }

    /// The regime. Load it once a request.
    #[must_use]
    pub fn regime(&self) -> Guard<Arc<Regime>> {
        self.regime.load()
    }

    /// What becomes of a visit, and what it changes: the rate of its pass, the count of its ticket, a token if it enters by one.
    pub fn decide(&self, worker: usize, regime: &Regime, visit: &Visit, now: Now) -> Decision {
        let policy = &*regime.policy;
        let judged = visit.pass.map(|pass| {
            let judged = decide::judge_pass(&pass, now, &policy.session, &policy.bypass, visit.unsafe_method);
            judged.map(|renew| (pass, renew))
        });
        let mut decision = match judged {
            _ if !visit.gated => {
                let pass = judged.and_then(Result::ok).map(|(pass, _)| pass.id);
                Decision { pass, ..Decision::new(Verdict::Open, Reason::OpenRoute) }
            }
            Some(Ok((pass, renew))) => self.returning(worker, regime, visit, pass, renew, now),
            Some(Err(_)) | None => self.newcomer(worker, regime, visit, now),
        };
        decision.pass_ended = judged.and_then(Result::err);
        decision.observed = regime.observes();
        decision
    }

    fn returning(&self, worker: usize, regime: &Regime, visit: &Visit, pass: Pass, renew: bool, now: Now) -> Decision {
        let (verdict, reason) = decide::with_pass(pass.kind);
        let mut decision = Decision { pass: Some(pass.id), counts: visit.signal, ..Decision::new(verdict, reason) };
        decision.too_often = self.passes.take(pass.id.0, regime.pass_rate, now.mono).err();
        if decision.too_often.is_some() && !regime.observes() {
            return decision;
        }
        decision.set_pass = renew.then_some(Pass { renewed: now.wall, ..pass });
        if visit.signal && decision.too_often.is_none() {
            let seen = self.seen(worker);
            let count = self.age(regime, &pass, now.wall).map_or(&seen.returning, |age| &seen.by_age[age]);
            count.fetch_add(1, Ordering::Relaxed);
            if verdict == Verdict::Bypass {
                seen.bypass.fetch_add(1, Ordering::Relaxed);
            }
            self.rehearse_slot(worker, regime, &mut decision);
        }
        decision
    }

    fn newcomer(&self, worker: usize, regime: &Regime, visit: &Visit, now: Now) -> Decision {
        let unbroken = visit.ticket.filter(|ticket| decide::judge_ticket(ticket, now, regime.refresh_max(now.mono)).is_ok());
        let staked = unbroken.map(|ticket| regime.staked(ticket, now.wall));
        let drawing = staked.as_ref().filter(|_| visit.may_draw && regime.mode.mode != Mode::Open);
        let newly_counted = drawing.filter(|staked| self.count(regime, staked));
        let mut decision = match regime.mode.mode {
            Mode::Open => Decision::new(Verdict::Admit, Reason::ModeOpen),
            Mode::Closed => Decision::new(Verdict::Wait, Reason::Closed),
            Mode::Auto | Mode::Fixed(_) | Mode::Observe => self.judge(regime, visit, staked.as_ref()),
        };
        decision.newcomer = visit.may_draw && unbroken.is_none();
        decision.ticket_void = visit.ticket.is_some() && unbroken.is_none();
        if decision.verdict == Verdict::Admit {
            let is_turn = matches!(decision.reason, Reason::Drew | Reason::InTurn);
            match unbroken.filter(|ticket| is_turn && self.passes.knows(ticket.id.0)) {
                Some(ticket) => self.admit_again(worker, regime, visit, ticket, &mut decision, now),
                None => {
                    self.admit(worker, visit, staked.as_ref(), &mut decision, now);
                    if visit.signal {
                        self.rehearse_slot(worker, regime, &mut decision);
                    }
                }
            }
        } else {
            // who is held has been passed by the line
            if let Some(Staked { ticket, .. }) = newly_counted.filter(|staked| !staked.ticket.won && decision.reason != Reason::NoToken) {
                self.checked_in.count(regime.position(ticket), 1.0);
            }
            if visit.may_draw {
                self.seen(worker).turned_away.fetch_add(1, Ordering::Relaxed);
            }
            self.keep_waiting(regime, visit, staked.as_ref(), &mut decision, now);
        }
        if regime.observes() {
            self.let_through(worker, visit, &mut decision);
        }
        decision
    }

    /// How many ticks ago a visitor was admitted, if the profile knows of it.
    fn age(&self, regime: &Regime, pass: &Pass, now: UnixTime) -> Option<usize> {
        // a pass of the future is one from before the clock was set back
        if pass.kind != PassKind::Admitted || pass.issued < self.started || pass.issued > now {
            return None;
        }
        let before = regime.tick_began.since(pass.issued).as_millis();
        let ticks = before.div_ceil(TICK.as_millis());
        usize::try_from(ticks).ok().filter(|&age| age < AGES)
    }

    /// Whether a newcomer is next.
    fn judge(&self, regime: &Regime, visit: &Visit, staked: Option<&Staked>) -> Decision {
        let Some(staked) = staked else {
            return if visit.may_draw && regime.has_room() && self.take_token(regime) {
                Decision::new(Verdict::Admit, Reason::Room)
            } else {
                Decision::new(Verdict::Wait, Reason::NoTicket)
            };
        };
        let ((is_next, drawn), yes, no) = match regime.order() {
            Order::Lottery if staked.ticket.won || !visit.may_draw => ((false, None), Reason::Drew, Reason::NotDrawn),
            Order::Lottery => (draw(regime, staked), Reason::Drew, Reason::NotDrawn),
            Order::Arrival => ((regime.line.has_reached(regime, staked), None), Reason::InTurn, Reason::InLine),
        };
        if !visit.may_draw || !(staked.ticket.won || is_next) {
            return Decision { drawn, ..Decision::new(Verdict::Wait, no) };
        }
        let id = staked.ticket.id;
        let (verdict, reason) = if self.passes.knows(id.0) || self.take_token(regime) {
            (Verdict::Admit, yes)
        } else {
            self.crowd.hold(id.0);
            (Verdict::Wait, Reason::NoToken)
        };
        Decision { drawn, ..Decision::new(verdict, reason) }
    }

    /// Counts a ticket in its epoch, with what it draws with. Returns whether it had not been counted.
    fn count(&self, regime: &Regime, staked: &Staked) -> bool {
        let Staked { ticket, issued, epoch, stake } = *staked;
        // one that is too young was counted when it was given
        stake.is_ok_and(|stake| {
            // one that has won draws no more, and waits
            let weight = if ticket.won { 0.0 } else { stake.weight(issued) };
            self.crowd.count(ticket.id.0, epoch, regime.epoch, weight, issued < epoch.began)
        })
    }

    fn admit(&self, worker: usize, visit: &Visit, staked: Option<&Staked>, decision: &mut Decision, now: Now) {
        let id = staked.map_or(VisitorId(visit.entropy), |staked| staked.ticket.id);
        decision.set_pass = Some(Pass::admitted(id, now.wall));
        decision.pass = Some(id);
        decision.counts = visit.signal;
        decision.waited = Some(staked.map_or(Duration::ZERO, |staked| now.wall.since(staked.issued)));
        self.passes.admit(id.0, now.mono);
        let seen = self.seen(worker);
        seen.admitted.fetch_add(1, Ordering::Relaxed);
        if visit.signal {
            seen.by_age[0].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A winning ticket is shown again: its answer was lost, or it is passed around. It is the same pass, with the rate of that pass, and
    /// takes no second token: else one ticket could take them all.
    fn admit_again(&self, worker: usize, regime: &Regime, visit: &Visit, ticket: Ticket, decision: &mut Decision, now: Now) {
        decision.reason = Reason::Pass;
        decision.pass = Some(ticket.id);
        decision.counts = visit.signal;
        decision.too_often = self.passes.take(ticket.id.0, regime.pass_rate, now.mono).err();
        if decision.too_often.is_some() {
            return;
        }
        decision.set_pass = Some(Pass::admitted(ticket.id, now.wall));
        if visit.signal {
            self.seen(worker).returning.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn keep_waiting(&self, regime: &Regime, visit: &Visit, staked: Option<&Staked>, decision: &mut Decision, now: Now) {
        let wall = now.wall;
        let Some(&Staked { ticket, epoch, stake, .. }) = staked else {
            let ticket = regime.new_ticket(visit.entropy, wall);
            decision.retry_after = if decision.reason == Reason::Closed { regime.epoch } else { draw::FIRST_RETURN };
            decision.wait = regime.wait(&ticket, wall);
            if !visit.may_draw {
                decision.reason = Reason::TicketWithheld;
                return;
            }
            if self.clients.take(visit.client, regime.ticket_rate, now.mono).is_err() {
                decision.reason = Reason::TicketWithheld;
                decision.retry_after = regime.epoch;
                return;
            }
            // the next odds are made with its first draw in mind; in the line it counts until it is counted again
            let staked = regime.staked(ticket, wall.plus(draw::FIRST_RETURN));
            self.count(regime, &staked);
            self.checked_in.count(regime.position(&ticket), staked.epoch.ends.since(wall).as_secs_f64() / regime.epoch.as_secs_f64());
            decision.place = regime.place(&ticket, decision.retry_after);
            decision.set_ticket = Some(ticket);
            return;
        };
        let next = stake.err().unwrap_or(epoch.ends);
        let won = ticket.won || decision.reason == Reason::NoToken;
        decision.wait = regime.wait(&ticket, wall);
        decision.retry_after = if won {
            Duration::from_secs_f64(1.0 + regime.held_spread() * unit(visit.entropy))
        } else {
            next.since(wall).max(Duration::from_secs(1))
        };
        decision.place = regime.place(&Ticket { won, ..ticket }, decision.retry_after);
        // a ticket that was renewed a moment ago need not be again
        let stale = ticket.seen > wall || wall.since(ticket.seen) >= regime.policy.waiting_room.refresh / 2;
        if visit.may_draw && (stale || won != ticket.won) {
            decision.set_ticket = Some(Ticket { seen: wall, won, ..ticket });
        }
    }

    fn take_token(&self, regime: &Regime) -> bool {
        if matches!(regime.mode.mode, Mode::Fixed(_)) {
            return true;
        }
        self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| tokens.checked_sub(1)).is_ok()
    }

    /// A client posts an address, by the keyed hash of its prefix.
    ///
    /// # Errors
    /// Too often: how long until it may again.
    pub fn posts(&self, regime: &Regime, client: u64, now: Moment) -> Result<(), Duration> {
        self.posters.take(client, regime.post_rate, now)
    }

    /// Whether a client may try another code. While many codes that are none are tried, each client has one a minute: nobody who
    /// guesses from everywhere can keep out who types in a code that is one.
    ///
    /// # Errors
    /// It has tried too many: how long until it may again.
    pub fn may_guess(&self, client: u64, now: Moment) -> Result<(), Duration> {
        let crowded = Rate::per_minute(GUESSES).take(*self.guesses.lock().unwrap_or_else(PoisonError::into_inner), now).is_err();
        self.guessers.would_take(client, Rate::per_minute(if crowded { 1 } else { GUESSES_PER_CLIENT }), now)
    }

    /// A client has tried a code that is none.
    pub fn guessed(&self, client: u64, now: Moment) {
        // who may not is not asked
        self.guessers.take(client, Rate::per_minute(GUESSES_PER_CLIENT), now).ok();
        let mut due = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        *due = Rate::per_minute(GUESSES).take(*due, now).unwrap_or(*due);
    }

    /// A ticket for who comes with an invitation, so that the answer can be asked for again if it is lost; none if the client has had its
    /// share of tickets.
    pub fn ticket(&self, regime: &Regime, client: u64, entropy: u64, now: Now) -> Option<Ticket> {
        self.clients.take(client, regime.ticket_rate, now.mono).ok()?;
        Some(regime.new_ticket(entropy, now.wall))
    }

    /// A request was sent to the site.
    pub fn sent(&self, worker: usize) {
        self.seen(worker).sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that counts was answered, or failed.
    pub fn answered(&self, worker: usize, good: bool) {
        let seen = self.seen(worker);
        seen.answers.fetch_add(1, Ordering::Relaxed);
        if good {
            seen.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When someone who found no slot in time comes back.
    pub fn appointment(&self, regime: &Regime, now: Moment) -> Duration {
        self.appointments.lock().unwrap_or_else(PoisonError::into_inner).next(now, regime.law.capacity)
    }

    /// Turns what was observed since the last tick into the next regime.
    pub fn tick(&self, site: &Site, now: Now) -> Report {
        let mut control = self.control();
        let old = self.regime.load_full();
        let policy = &old.policy;
        let seconds = now.mono.since(control.ticked).as_secs_f64();
        if seconds <= 0.0 {
            return Report::default();
        }
        let mut reading = self.read(&control, site, old.server_limit, seconds);
        let over_s = (site.usage.over_s - control.usage.over_s).max(0.0);
        let mode = mode_in_force(policy, old.mode.by_hand, now.wall);
        // where nobody is held up, two limits can't be compared; while nothing is known yet, one can still be seen to be too small
        let binds = mode.mode != Mode::Observe || control.concurrency.found().is_none();
        if policy.upstream.max_in_flight == MaxInFlight::Auto && binds {
            let per_server = f64::from(site.servers.max(1)) * seconds;
            let sample = Sample {
                seconds,
                in_flight: (reading.slot_seconds + reading.other_slot_seconds) / per_server,
                timings: site.usage.timings.since(&control.usage.timings),
            };
            control.concurrency.tick(&sample);
        }
        reading.slot_seconds = control.rehearsal.slot_seconds(seconds, reading.slot_seconds, over_s, reading.good);
        let rehearsed = self.rehearse(&mut control, &old, &reading).filter(|_| mode.mode == Mode::Observe);
        if let Some(rehearsed) = &rehearsed {
            // nobody waits for a slot, and those who would have queued for one are what the law is to see
            reading.queued = usize::try_from(whole(rehearsed.queued)).unwrap_or(usize::MAX);
        }
        let turned_away = self.drain(|seen| &seen.turned_away);
        let held = f64::from(self.crowd.take_held());
        control.ticked = now.mono;
        control.usage = site.usage;
        let settings = Settings { queue_wait: policy.admission.queue_wait, probe_rate: policy.admission.probe_rate };
        let law = control.controller.tick(&reading, &settings);
        let law = rehearsed.map_or(law, |rehearsed| rehearsed.law(law));

        let sum = control.sums.tick(&self.crowd, old.epoch, seconds, now.wall);
        let Sum { weights, tickets: waiting, returned, .. } = sum;
        let mut line = old.line.clone();
        line.clock.tick(now);
        let position = Position::at(line.clock.at(now.wall));
        line.measure(control.last_epoch.tick(&self.checked_in, old.epoch, seconds, position), law.newcomers, seconds);
        let epoch = self.stretch(&mut control, &old, returned, now);
        if policy.admission.order == Order::Arrival {
            line.advance(control.pace(mode.mode, held, policy, epoch, now), now);
        }
        let value = fixed_odds(mode.mode).unwrap_or_else(|| {
            let odds = draw::odds(law.newcomers, epoch, held, weights);
            rehearsed.map_or(odds, |rehearsed| rehearsed.odds(odds, epoch))
        });
        let mut odds = old.odds.clone();
        odds.push(now.wall, value, epoch);
        let forgotten = 1.0 - (-seconds / USUAL.as_secs_f64()).exp();
        let usual_rate = old.usual_rate + (law.newcomers - old.usual_rate) * forgotten;
        let entering = old.entering + (f64::from(reading.admitted) / seconds - old.entering) * forgotten;
        let outlook = fixed_odds(mode.mode).map_or_else(
            || Outlook::of(&control.measure(&sum, line.attending.count(), entering, seconds, epoch, now)),
            |odds| Outlook::fixed(odds, epoch),
        );
        let outlook = Arc::new(outlook);

        self.refill(&mut control, law.newcomers, seconds);
        if turned_away > 0 {
            control.turned_away = now.mono;
        }
        let room = match regime::order(policy, mode.mode) {
            Order::Lottery => value >= 1.0,
            Order::Arrival => line.line.open,
        };
        let lately = now.mono.since(control.turned_away) < LIMITING_KEPT;
        let limiting = turned_away > 0 || (old.limiting && (lately || !(room || waiting <= 0.0)));
        self.clients.sweep(Duration::ZERO, now.mono);
        self.posters.sweep(Duration::ZERO, now.mono);
        self.guessers.sweep(Duration::ZERO, now.mono);
        let active = self.passes.sweep(policy.session.active, now.mono);
        control.visits.tick(&self.visits_seen(&reading, active));
        let report = Report {
            limiting: (limiting != old.limiting).then_some(limiting),
            mode_ended: old.mode.by_hand.is_some() && mode.by_hand.is_none(),
        };
        self.regime.store(Arc::new(Regime {
            mode,
            server_limit: server_limit(policy, &control.concurrency),
            law,
            epoch,
            limiting,
            measured: control.controller.capacity().is_some(),
            rehearsed,
            waiting: whole(waiting),
            active: active as u64,
            tick_began: now.wall,
            odds,
            outlook,
            usual_rate,
            entering,
            held,
            line,
            requests_per_visit: control.visits.requests_per_visit(policy.session.active),
            ..Regime::clone(&old)
        }));
        report
    }

    /// The length of epochs from now on.
    fn stretch(&self, control: &mut Control, old: &Regime, waiting: f64, now: Now) -> Duration {
        if control.is_settling(old.epoch, now) {
            return old.epoch;
        }
        let room = &old.policy.waiting_room;
        let epoch = draw::stretch(old.epoch, waiting, room.refresh, room.refresh_max);
        if epoch != old.epoch {
            self.change_length(control, epoch, now);
        }
        epoch
    }

    fn change_length(&self, control: &mut Control, epoch: Duration, now: Now) {
        control.stretched = Some(now.mono);
        control.sums.change_length(&self.crowd, epoch, now.wall);
        control.last_epoch.change_length(epoch);
    }

    fn refill(&self, control: &mut Control, newcomers: f64, seconds: f64) {
        // what is spent between the two is spent of the tick that ends
        let unspent = self.tokens.load(Ordering::Relaxed);
        self.tokens.store(control.tokens.next(newcomers, seconds, unspent), Ordering::Relaxed);
    }

    /// Publishes a new policy with its keys and pages.
    pub fn publish(&self, policy: Arc<Policy>, keys: Arc<Keyring>, pages: Arc<Pages>, now: Now) {
        let mut control = self.control();
        let old = self.regime.load_full();
        let mode = mode_in_force(&policy, old.mode.by_hand, now.wall);
        let epoch = old.epoch.clamp(policy.waiting_room.refresh, policy.waiting_room.refresh_max);
        if epoch != old.epoch {
            self.change_length(&mut control, epoch, now);
        }
        if let (MaxInFlight::Fixed(told), MaxInFlight::Auto) = (old.policy.upstream.max_in_flight, policy.upstream.max_in_flight) {
            // what was told is where to begin
            control.concurrency = Concurrency::new(Some(told));
        }
        let mut line = old.line.clone();
        if policy.admission.order == Order::Arrival && old.policy.admission.order == Order::Lottery {
            // a line of before is not that of this crowd; the weight of a ticket in a lottery needs no such care
            line.begin(control.pace(mode.mode, old.held, &policy, epoch, now), now);
        }
        // nobody who comes back when told to loses the place to a reload
        let before = old.policy.waiting_room.refresh_max;
        let promised = if before > policy.waiting_room.refresh_max {
            (old.refresh_max(now.mono), old.promised.1.max(now.mono.plus(decide::ticket_holds(before))))
        } else {
            old.promised
        };
        self.regime.store(Arc::new(Regime {
            promised,
            pass_rate: Rate::per_minute(policy.session.rate),
            ticket_rate: Rate::per_minute(policy.limits.tickets_per_client),
            post_rate: Rate::per_minute(policy.email_queue.posts_per_client),
            server_limit: server_limit(&policy, &control.concurrency),
            policy,
            keys,
            pages,
            line,
            ..old.in_mode(mode, epoch, now)
        }));
    }

    /// Sets a mode by hand, or goes back to that of the file.
    pub fn set_mode(&self, by_hand: Option<ByHand>, now: Now) {
        let _control = self.control();
        let old = self.regime.load_full();
        let mode = mode_in_force(&old.policy, by_hand, now.wall);
        self.regime.store(Arc::new(old.in_mode(mode, old.epoch, now)));
    }

    /// What is to outlive a restart.
    #[must_use]
    pub fn remembered(&self) -> Remembered {
        let control = self.control();
        let regime = self.regime.load();
        let line = Some(&regime.line).filter(|_| regime.policy.admission.order == Order::Arrival);
        let line = line.and_then(|line| line.remembered(regime.tick_began));
        Remembered {
            capacity: control.controller.capacity(),
            max_in_flight: control.concurrency.found().filter(|_| regime.policy.upstream.max_in_flight == MaxInFlight::Auto),
            by_hand: regime.mode.by_hand,
            line,
        }
    }

    fn read(&self, control: &Control, site: &Site, limit: ServerLimit, seconds: f64) -> Reading {
        Reading {
            seconds,
            good: self.drain(|seen| &seen.good),
            answers: self.drain(|seen| &seen.answers),
            slot_seconds: (site.usage.counted_s - control.usage.counted_s).max(0.0),
            other_slot_seconds: (site.usage.uncounted_s - control.usage.uncounted_s).max(0.0),
            by_age: std::array::from_fn(|age| self.drain(|seen| &seen.by_age[age])),
            returning: self.drain(|seen| &seen.returning),
            admitted: self.drain(|seen| &seen.admitted),
            sent: self.drain(|seen| &seen.sent),
            in_flight: site.in_flight,
            queued: site.queued,
            slots: f64::from(site.servers) * limit.sustained,
        }
    }

    fn visits_seen(&self, reading: &Reading, active: usize) -> VisitsSeen {
        let bypass = f64::from(self.drain(|seen| &seen.bypass));
        let all = reading.by_age.iter().copied().map(f64::from).sum::<f64>() + f64::from(reading.returning);
        VisitsSeen {
            seconds: reading.seconds,
            requests: (all - bypass).max(0.0),
            bypass,
            admitted: f64::from(reading.admitted),
            active: active as f64,
        }
    }

    fn drain(&self, counter: impl Fn(&Seen) -> &AtomicU32) -> u32 {
        self.seen.iter().fold(0, |sum, seen| sum.saturating_add(counter(seen).swap(0, Ordering::Relaxed)))
    }

    fn seen(&self, worker: usize) -> &Seen {
        &self.seen[worker % self.seen.len()]
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a ticket wins in this epoch, and by which draw.
#[expect(clippy::cast_precision_loss, reason = "what is told of a draw, and 53 bits of it are enough to tell it by")]
fn draw(regime: &Regime, staked: &Staked) -> (bool, Option<Drawn>) {
    let Staked { ticket, issued, epoch, stake: Ok(stake) } = staked else { return (false, None) };
    let weight = match regime.weights() {
        Weights::Growing => stake.weight(*issued),
        Weights::Even => stake.part,
    };
    let (draw, probability) = (regime.keys.draw(ticket.id, epoch.began.as_millis()), regime.odds.at(stake.at));
    let drawn = Drawn { draw: draw as f64 / 2f64.powi(64), probability, weight };
    (draw::wins(draw, probability, weight), Some(drawn))
}

/// The slots of each server until the next tick.
fn server_limit(policy: &Policy, found: &Concurrency) -> ServerLimit {
    match policy.upstream.max_in_flight {
        MaxInFlight::Auto => found.limit(),
        MaxInFlight::Fixed(per_server) => ServerLimit::told(per_server),
    }
}

/// The tick of the law.
pub const TICK: Duration = Duration::from_secs(1);

/// The memory of the rate that waits are told from.
const USUAL: Duration = Duration::from_secs(30);

/// Limiting ends when there is room, and nobody was turned away for so long: at the edge of the capacity someone is every few seconds.
const LIMITING_KEPT: Duration = Duration::from_secs(5);
