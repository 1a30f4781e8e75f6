//! The regime: all that a decision reads, made anew by each tick and each publication, and never changed.

use std::sync::Arc;
use std::time::Duration;

use super::standing::LineInForce;
use crate::page::Pages;
use crate::rules::concurrency::ServerLimit;
use crate::rules::controller::Law;
use crate::rules::draw::{self, Epoch, Recent, Stake, Weights};
use crate::rules::keyring::Keyring;
use crate::rules::limit::Limit;
use crate::rules::line::{self, Place, Position};
use crate::rules::outlook::{Outlook, Wait};
use crate::rules::pacing::Sight;
use crate::rules::policy::{Mode, Order, Policy};
use crate::rules::rate::Rate;
use crate::rules::rehearsal::Rehearsed;
use crate::rules::time::{Moment, Now, UnixTime};
use crate::rules::token::{Ticket, VisitorId};

/// The immutable snapshot that every decision reads.
#[derive(Clone)]
pub struct Regime {
    /// What the operator asked for.
    pub policy: Arc<Policy>,
    /// What signs and verifies.
    pub keys: Arc<Keyring>,
    /// What visitors see.
    pub pages: Arc<Pages>,
    /// The mode in force, and who set it.
    pub mode: ModeInForce,
    /// Slots of each server.
    pub server_limit: ServerLimit,
    /// What the last tick said.
    pub law: Law,
    /// The refresh interval in force.
    pub epoch: Duration,
    /// Whether newcomers are being turned away.
    pub limiting: bool,
    /// The capacity has been measured, by this run or by one before; else it is assumed.
    pub measured: bool,
    /// Under `observe`: what would have come of holding back.
    pub rehearsed: Option<Rehearsed>,
    /// Tickets that drew in the last epoch.
    pub waiting: u64,
    /// Distinct passes that have come back and were seen within `session.active`.
    pub active: u64,
    /// When this tick began.
    pub(super) tick_began: UnixTime,
    pub(super) odds: Recent,
    /// What is to come for those who draw.
    pub(super) outlook: Arc<Outlook>,
    /// The rate of newcomers of the last half minute: that of one tick swings.
    pub(super) usual_rate: f64,
    /// Newcomers a second who did enter in the last half minute.
    pub(super) entering: f64,
    pub(super) held: f64,
    pub(super) line: LineInForce,
    /// A longer `refresh_max` of a policy before, by which visitors were told when to come back, and until when that holds.
    pub(super) promised: (Duration, Moment),
    pub(super) pass_rate: Rate,
    pub(super) ticket_rate: Rate,
    pub(super) post_rate: Rate,
    /// Requests that a visit has.
    pub(super) requests_per_visit: f64,
}

impl Regime {
    /// The share of weight-1 draws that are won now; of a line, the share of those in it who may enter in an epoch.
    #[must_use]
    pub fn probability(&self) -> f64 {
        match self.order() {
            Order::Lottery => self.odds.current(),
            Order::Arrival => self.line.share,
        }
    }

    /// The order in force.
    #[must_use]
    pub fn order(&self) -> Order {
        order(&self.policy, self.mode.mode)
    }

    /// What keeps newcomers out.
    #[must_use]
    pub fn limit(&self) -> Limit {
        Limit::of(&self.law, self.mode.mode, self.odds.current())
    }

    /// The same under another mode, from now on and not only from the next tick.
    pub(super) fn in_mode(&self, mode: ModeInForce, epoch: Duration, now: Now) -> Self {
        let mut regime = Self { mode, epoch, rehearsed: self.rehearsed.filter(|_| mode.mode == Mode::Observe), ..self.clone() };
        if let Some(odds) = fixed_odds(mode.mode) {
            regime.odds.push(now.wall, odds, epoch);
            regime.outlook = Arc::new(Outlook::fixed(odds, epoch));
        }
        regime
    }

    /// A ticket that is issued now.
    pub(super) fn new_ticket(&self, entropy: u64, now: UnixTime) -> Ticket {
        Ticket { id: VisitorId(entropy), issued: self.line.clock.at(now), seen: now, won: false }
    }

    /// How long a ticket has waited.
    #[must_use]
    pub fn waited(&self, ticket: &Ticket, now: UnixTime) -> Duration {
        now.since(self.line.clock.wall(ticket.issued))
    }

    /// How long a ticket still waits, in a lottery.
    #[must_use]
    pub fn wait(&self, ticket: &Ticket, now: UnixTime) -> Option<Wait> {
        let issued = self.line.clock.wall(ticket.issued);
        let drawn = self.order() == Order::Lottery;
        drawn.then(|| self.outlook.wait(self.weight(issued, now))).flatten()
    }

    /// How a ticket stands in the line, if there is one. It comes back in `next`.
    #[must_use]
    pub fn place(&self, ticket: &Ticket, next: Duration) -> Option<Place> {
        let ahead = if ticket.won { 0.0 } else { self.line.attending.ahead(self.position(ticket)) };
        (self.order() == Order::Arrival).then(|| self.place_behind(ahead, next))
    }

    fn place_behind(&self, ahead: f64, next: Duration) -> Place {
        // those who are held have been passed by the line, and enter first
        let wait = line::wait(ahead + self.held, self.entering, next).filter(|_| self.mode.mode != Mode::Closed);
        Place { ahead: whole(ahead.round()), wait }
    }

    /// Where the line stands, as a time of arrival, and how many attend in it; none while it is open, and in a lottery.
    #[must_use]
    pub fn line(&self) -> Option<(UnixTime, u64)> {
        (self.order() == Order::Arrival)
            .then(|| (self.line.clock.wall(self.line.line.at.time()), whole(self.line.attending.count().round())))
    }

    /// How long who comes now waits, by and large (in a lottery: half of them); `None` while nobody is let in.
    #[must_use]
    pub fn expected_wait(&self) -> Option<Duration> {
        if self.mode.mode == Mode::Open || self.has_room() {
            return Some(Duration::ZERO);
        }
        match self.order() {
            Order::Lottery => self.outlook.wait(1.0).map(|wait| wait.half),
            Order::Arrival => self.place_behind(self.line.attending.count(), draw::FIRST_RETURN).wait,
        }
    }

    /// Who comes now may enter: there is room for everyone, and nobody has found it taken.
    pub(super) fn has_room(&self) -> bool {
        self.held < 1.0
            && match self.order() {
                Order::Lottery => self.odds.current() >= 1.0,
                Order::Arrival => self.line.line.open,
            }
    }

    /// Over how many seconds those who are held come back: as long as the tokens take for them, so that they do not come all at once.
    pub(super) fn held_spread(&self) -> f64 {
        (self.held / self.usual_rate.max(0.1)).clamp(1.0, self.epoch.as_secs_f64())
    }

    /// What the pacing of invitations is to see.
    ///
    /// Under `open` and `observe` nobody waits, and the measured load alone decides: who is invited then comes as others do. Under `fixed`
    /// the operator holds people back whatever the load is, and as long as that turns anyone away nobody is invited to come besides.
    #[must_use]
    pub fn sight(&self) -> Sight {
        let Law { load, committed, requests, .. } = self.law;
        let would_wait = self.rehearsed.is_some_and(|rehearsed| rehearsed.has_line());
        Sight {
            mode: self.mode.mode,
            load,
            requests,
            asked: committed.max(load * requests),
            requests_per_visit: self.requests_per_visit,
            waiting: would_wait || (!self.lets_all_in() && (self.limiting || self.waiting > 0 || self.held >= 1.0)),
        }
    }

    /// Whether someone who redeems an invitation may come in now. If not the code is not spent, and is good a few minutes later.
    ///
    /// An invitation is a place before newcomers, and not one that the site has not got. Under `fixed` and `closed` who is turned away says
    /// nothing of the site, and the law does.
    #[must_use]
    pub fn has_room_for_invited(&self) -> bool {
        match self.mode.mode {
            Mode::Open | Mode::Observe => true,
            Mode::Closed | Mode::Fixed(_) => self.law.newcomers > 0.0 && self.law.load < 1.0,
            Mode::Auto => !self.limiting && self.has_room(),
        }
    }

    const fn lets_all_in(&self) -> bool {
        matches!(self.mode.mode, Mode::Open | Mode::Observe)
    }

    pub(super) fn position(&self, ticket: &Ticket) -> Position {
        Position::of(ticket.issued, self.keys.place(ticket.id))
    }

    /// The longest refresh interval that a visitor may have been told.
    #[must_use]
    pub fn refresh_max(&self, now: Moment) -> Duration {
        let (promised, until) = self.promised;
        let of_policy = self.policy.waiting_room.refresh_max;
        if now < until { promised.max(of_policy) } else { of_policy }
    }

    /// Whether nobody is held back.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.mode.mode == Mode::Observe
    }

    fn weight(&self, issued: UnixTime, now: UnixTime) -> f64 {
        match self.weights() {
            Weights::Growing => draw::weight(issued, now),
            Weights::Even => 1.0,
        }
    }

    pub(super) const fn weights(&self) -> Weights {
        match self.mode.mode {
            Mode::Fixed(_) => Weights::Even,
            Mode::Auto | Mode::Open | Mode::Closed | Mode::Observe => Weights::Growing,
        }
    }

    pub(super) fn staked(&self, ticket: Ticket, now: UnixTime) -> Staked {
        let epoch = Epoch::of(now, self.epoch, self.keys.phase(ticket.id));
        let issued = self.line.clock.wall(ticket.issued);
        Staked { ticket, issued, epoch, stake: Stake::of(epoch, issued, now) }
    }
}

/// A ticket, and what it draws with now.
#[derive(Clone, Copy)]
pub(super) struct Staked {
    pub(super) ticket: Ticket,
    /// When it was issued, by the wall clock as it stands.
    pub(super) issued: UnixTime,
    pub(super) epoch: Epoch,
    /// If it is too young to draw: when it may.
    pub(super) stake: Result<Stake, UnixTime>,
}

/// The mode in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModeInForce {
    /// The mode.
    pub mode: Mode,
    /// Set by hand: outranks the file until its time is out or it is cleared.
    pub by_hand: Option<ByHand>,
}

/// A mode set by hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ByHand {
    /// The mode.
    pub mode: Mode,
    /// When it ends; `None`: when it is cleared.
    pub until: Option<UnixTime>,
}

pub(super) fn mode_in_force(policy: &Policy, by_hand: Option<ByHand>, now: UnixTime) -> ModeInForce {
    let by_hand = by_hand.filter(|by_hand| by_hand.until.is_none_or(|until| now < until));
    ModeInForce { mode: by_hand.map_or(policy.admission.mode, |by_hand| by_hand.mode), by_hand }
}

/// The odds that a mode dictates.
pub(super) const fn fixed_odds(mode: Mode) -> Option<f64> {
    match mode {
        Mode::Auto | Mode::Observe => None,
        Mode::Open => Some(1.0),
        Mode::Closed => Some(0.0),
        Mode::Fixed(probability) => Some(probability),
    }
}

/// The order under a mode: the operator's odds are of a draw, whatever the policy says.
pub(super) const fn order(policy: &Policy, mode: Mode) -> Order {
    match mode {
        Mode::Fixed(_) => Order::Lottery,
        Mode::Auto | Mode::Open | Mode::Closed | Mode::Observe => policy.admission.order,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of tickets")]
pub(super) const fn whole(count: f64) -> u64 {
    count as u64
}
