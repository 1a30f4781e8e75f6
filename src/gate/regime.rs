//! The regime: all that a decision reads, made anew by each tick and each publication, and never changed.

use std::sync::Arc;
use std::time::Duration;

use crate::page::Pages;
use crate::rules::controller::Law;
use crate::rules::draw::{self, Epoch, Odds, Stake, Wait, Weights};
use crate::rules::keyring::Keyring;
use crate::rules::limit::Limit;
use crate::rules::policy::{Mode, Policy};
use crate::rules::rate::Rate;
use crate::rules::rehearsal::Rehearsed;
use crate::rules::time::{Moment, Now, UnixTime};
use crate::rules::token::Ticket;

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
    /// What the last tick said.
    pub law: Law,
    /// The refresh interval in force.
    pub epoch: Duration,
    /// Whether newcomers are being turned away.
    pub limiting: bool,
    /// The capacity has been measured, by this run or by one before; else it is assumed.
    pub measured: bool,
    /// What keeps newcomers out.
    pub limit: Limit,
    /// Under `observe`: what would have come of holding back.
    pub rehearsed: Option<Rehearsed>,
    /// Tickets that drew in the last epoch.
    pub waiting: u64,
    /// Distinct passes that have come back and were seen within `session.active`.
    pub active: u64,
    /// When this tick began.
    pub(super) tick_began: UnixTime,
    pub(super) odds: Odds,
    /// The odds that the rate of the last half minute would give: those of one tick swing, and a wait is told from what is usual.
    pub(super) usual_odds: f64,
    /// That rate, newcomers a second.
    pub(super) usual_rate: f64,
    pub(super) held: f64,
    /// A longer `refresh_max` of a policy before, by which visitors were told when to come back, and until when that holds.
    pub(super) promised: (Duration, Moment),
    pub(super) pass_rate: Rate,
    pub(super) ticket_rate: Rate,
}

impl Regime {
    /// The share of weight-1 draws that are won now.
    #[must_use]
    pub fn probability(&self) -> f64 {
        self.odds.current()
    }

    /// How long a ticket of this age still waits.
    #[must_use]
    pub fn wait(&self, issued: UnixTime, now: UnixTime) -> Option<Wait> {
        draw::wait(self.usual_odds, self.weights(), issued, now, self.epoch)
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

    pub(super) const fn weights(&self) -> Weights {
        match self.mode.mode {
            Mode::Fixed(_) => Weights::Even,
            Mode::Auto | Mode::Open | Mode::Closed | Mode::Observe => Weights::Growing,
        }
    }

    pub(super) fn staked(&self, ticket: Ticket, now: UnixTime) -> Staked {
        let epoch = Epoch::of(now, self.epoch, self.keys.phase(ticket.id));
        Staked { ticket, epoch, stake: Stake::of(epoch, ticket.issued, now) }
    }
}

/// A ticket, and what it draws with now.
#[derive(Clone, Copy)]
pub(super) struct Staked {
    pub(super) ticket: Ticket,
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

/// The odds under a mode that holds from now on, and not only from the next tick.
pub(super) fn with_mode(odds: &Odds, mode: Mode, epoch: Duration, now: Now) -> Odds {
    let mut odds = odds.clone();
    if let Some(value) = fixed_odds(mode) {
        odds.push(now.wall, value, epoch);
    }
    odds
}
