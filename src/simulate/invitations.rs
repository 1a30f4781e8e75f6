//! The email queue of a simulation: who is invited when, by the rule that production runs, and who of them comes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::book::seconds;
use super::figures::Second;
use super::front;
use super::scenario::Invitations;
use super::timeline::Micros;
use crate::gate::Regime;
use crate::models::random::Random;
use crate::rules::pacing::{Pacing, Settings};
use crate::rules::time::UnixTime;

/// What became of the invitations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Invited {
    /// Invitations sent.
    pub sent: u32,
    /// Of these, those that were redeemed.
    pub redeemed: u32,
    /// So often someone wanted to redeem one and was told that there is no room, and came back later.
    pub held: u32,
    /// From the first invitation on: minutes in which someone was turned away, or in which the load was above 1.
    pub minutes_above: u32,
    /// From then on: the highest load.
    pub load_max: f64,
    /// From the start of the measured part until the last invitation was sent, in hours; none if there are some left.
    pub hours: Option<f64>,
}

/// The queue, what is sent of it, and what is seen of it.
#[derive(Debug)]
pub(super) struct Inviter {
    scenario: Invitations,
    pacing: Pacing,
    left: u32,
    ticked: Micros,
    random: Random,
    found: Invited,
    above: BTreeSet<u64>,
    /// So many were held by the second before.
    held: u32,
}

impl Inviter {
    pub(super) fn new(scenario: Invitations, random: Random) -> Self {
        let left = scenario.addresses.0;
        Self { scenario, pacing: Pacing::default(), left, ticked: 0, random, found: Invited::default(), above: BTreeSet::new(), held: 0 }
    }

    /// Sends what may be sent in this tick, in a measured part that begins at `from`. Returns how many, and after how long each of
    /// those comes who do.
    pub(super) fn tick(&mut self, regime: &Regime, at: Micros, from: Micros) -> (u32, Vec<Duration>) {
        let length = seconds(at - self.ticked);
        self.ticked = at;
        let (now, policy) = (front::now(at), &regime.policy.invitations);
        let pace = self.pacing.tick(now, length, &regime.sight(), &Settings::of(policy, false));
        let sent = pace.allowance.min(self.left);
        self.pacing.give_back(pace.allowance - sent);
        let mut come = Vec::new();
        for _ in 0..sent {
            self.pacing.outstanding.invited(now.wall, now.wall.plus(policy.expires));
            let (comes, delay) = (self.random.chance(self.scenario.come.0), self.delay(at));
            come.extend(Some(delay).filter(|delay| comes && *delay < policy.expires));
        }
        self.left -= sent;
        self.found.sent += sent;
        if sent > 0 && self.left == 0 {
            self.found.hours = Some(seconds(at.saturating_sub(from)) / 3600.0);
        }
        (sent, come)
    }

    /// How long someone takes who is invited now.
    fn delay(&mut self, at: Micros) -> Duration {
        let spread = self.scenario.delay_spread.map_or(DELAY_SPREAD, |spread| spread.0);
        // of a logarithm, whose standard deviation is as said
        let (median, variation) = (self.scenario.delay.seconds(), (spread * spread).exp_m1().sqrt());
        let mean = median * (spread * spread / 2.0).exp();
        let (usual, share) = (self.random.log_normal(mean, variation), self.random.unit());
        let asleep = self.scenario.asleep_until.map_or(0.0, |until| until.seconds() - seconds(at));
        let delay = if asleep > 0.0 { asleep + share * self.scenario.awake_within.seconds() } else { usual };
        Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX)
    }

    /// Someone redeems, or is told to come back later: after how long.
    pub(super) fn redeems(&mut self, regime: &Regime, sent: UnixTime) -> Result<(), Duration> {
        if regime.has_room_for_invited() {
            self.pacing.outstanding.redeemed(sent);
            self.found.redeemed += 1;
            return Ok(());
        }
        self.found.held += 1;
        Err(RETRY.mul_f64(0.5 + self.random.unit()))
    }

    /// A second is over.
    pub(super) fn turn(&mut self, at: Micros, second: &Second) {
        let held = self.found.held - std::mem::replace(&mut self.held, self.found.held);
        if self.found.sent > 0 {
            self.found.load_max = self.found.load_max.max(second.load);
            if second.load > 1.0 || second.diverted > 0 || held > 0 {
                self.above.insert(at.saturating_sub(1) / MINUTE);
            }
        }
    }

    pub(super) fn close(self) -> Invited {
        Invited { minutes_above: u32::try_from(self.above.len()).unwrap_or(u32::MAX), ..self.found }
    }
}

/// The standard deviation of the logarithm of delays: a sixth comes within a fifth of the median, another sixth after five times of it.
const DELAY_SPREAD: f64 = 1.6;

const MINUTE: Micros = 60_000_000;

/// Whoever is told that there is no room comes back after a few minutes.
const RETRY: Duration = Duration::from_secs(5 * 60);
