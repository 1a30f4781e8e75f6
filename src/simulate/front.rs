//! The gate as production runs it, without sockets: the same decisions, tickets, ticks and slots. Left out: body buffers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::scenario::Scenario;
use super::timeline::Micros;
use crate::config;
use crate::gate::{Decision, Gate, Remembered, Site as Standing, Visit};
use crate::page::Pages;
use crate::rules::keyring::{Key, Keyring, SiteSecret};
use crate::rules::policy::Policy;
use crate::rules::slots::{Answer, Ask, Bounds, Grant, Slots};
use crate::rules::time::{Moment, Now, UnixTime};

/// The gate and its slots; who waits for a slot is known by a number.
pub(super) struct Front {
    pub(super) gate: Gate,
    pub(super) slots: Slots<u32>,
    pub(super) deadline: Micros,
    pub(super) response_timeout: Micros,
}

/// The wall clock at the start.
const WALL: UnixTime = UnixTime::from_secs(1_800_000_000);

/// All times of a simulation, from its own.
pub(super) fn now(at: Micros) -> Now {
    Now { mono: moment(at), wall: WALL.plus(Duration::from_micros(at)), doubt: Duration::ZERO }
}

pub(super) const fn moment(at: Micros) -> Moment {
    Moment::from_micros(at)
}

/// The policy of a scenario: the operator's, or the defaults with what the scenario says.
pub(super) fn policy(scenario: &Scenario, given: Option<&Policy>) -> Result<Policy, String> {
    if let Some(policy) = given {
        return Ok(policy.clone());
    }
    let mut text = scenario.policy.clone();
    // a policy that names its upstream itself is taken as it is
    if !text.lines().any(|line| line.starts_with("upstream:")) {
        text.push_str(&format!("\nupstream: {{ servers: [http://127.0.0.1:1], max_in_flight: {} }}\n", scenario.max_in_flight()));
    }
    config::parse(&text, &format!("{}: policy", scenario.name), Path::new("/")).map_err(|errors| errors.to_string())
}

impl Front {
    pub(super) fn new(policy: Policy, seed: u64) -> Result<Self, String> {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&seed.to_be_bytes());
        let keys = Keyring::new(&SiteSecret::new(secret), &[Key::new(WALL, secret)]).map_err(|error| error.to_string())?;
        let pages = Pages::built_in().map_err(|error| error.to_string())?;
        let upstream = &policy.upstream;
        let servers = upstream.servers.len();
        let gate = Gate::new(Arc::new(policy.clone()), Arc::new(keys), Arc::new(pages), Remembered::default(), 1, now(0));
        let server = gate.regime().server_limit;
        let bounds = Bounds { server, queue: upstream.queue.length, per_pass: policy.session.in_flight };
        Ok(Self {
            deadline: micros(upstream.queue.deadline),
            response_timeout: micros(upstream.timeouts.response),
            slots: Slots::new(bounds, servers, Moment::default()),
            gate,
        })
    }

    pub(super) fn decide(&self, visit: &Visit, at: Micros) -> Decision {
        self.gate.decide(0, &self.gate.regime(), visit, now(at))
    }

    /// Whether there may be slots for those who wait now.
    pub(super) fn tick(&mut self, at: Micros, connects: bool) -> bool {
        let moment = moment(at);
        for server in 0..self.gate.regime().policy.upstream.servers.len() {
            let health = self.slots.health(server);
            if health.wants_probe(moment) {
                health.probed(connects, moment);
            }
        }
        let standing = Standing {
            in_flight: self.slots.in_flight(),
            queued: self.slots.queued_for_the_site(),
            servers: self.slots.in_use(),
            usage: self.slots.usage(moment),
        };
        let _ = self.gate.tick(&standing, now(at));
        let before = self.slots.total();
        self.slots.limit(self.gate.regime().server_limit);
        self.slots.total() > before
    }

    pub(super) fn ask(&mut self, ask: Ask, draws: u64, request: u32, at: Micros) -> Answer<u32> {
        if self.gate.regime().observes() {
            return Answer::Granted(self.slots.take_anyway(ask, halves(draws), moment(at)));
        }
        self.slots.ask(ask, halves(draws), moment(at), request)
    }

    pub(super) fn next(&mut self, draws: u64, at: Micros) -> Option<(u32, Grant)> {
        self.slots.next(halves(draws), moment(at))
    }

    /// A slot comes back, with what became of its request.
    pub(super) fn release(&mut self, grant: Grant, ask: Ask, good: bool, at: Micros) {
        if ask.counts {
            self.gate.answered(0, good);
        }
        self.slots.release(grant, ask, good, moment(at));
        if good {
            self.slots.health(grant.server).good();
        } else {
            self.slots.health(grant.server).bad(moment(at));
        }
    }

    pub(super) fn appointment(&self, at: Micros) -> Duration {
        self.gate.appointment(&self.gate.regime(), moment(at))
    }

    pub(super) fn refresh(&self) -> f64 {
        self.gate.regime().epoch.as_secs_f64()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each half of 64 bits")]
const fn halves(bits: u64) -> [u32; 2] {
    [(bits >> 32) as u32, bits as u32]
}

pub(super) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
