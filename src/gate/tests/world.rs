//! A model site, visitors who behave in several ways, and the clock that moves them: event by event, and the same for the same seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::Path;

use super::super::*;
use crate::config;
use crate::rules::keyring::{Key, SiteSecret};
use crate::rules::slots::{Answer, Ask, Bounds, Grant, Slots};

/// How a visitor behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Comes back when told to.
    Honest,
    /// Asks ten times an epoch.
    Reloader,
    /// Keeps no cookie, and asks each second.
    Dropper,
    /// Throws a ticket away as soon as it has not won, and takes a new one.
    Churner,
    /// Does not come back.
    Gone,
}

/// How the site answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    /// Takes requests and answers none.
    Hangs,
    /// Fails at once.
    Refuses,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Slots of the site, and of the gate.
    pub(super) slots: u32,
    pub(super) service_s: f64,
    /// Pages of a session, and the pause between two.
    pub(super) pages: u32,
    pub(super) think_s: f64,
    /// Until when so many visitors a second come: in order of time.
    pub(super) arrivals: Vec<(u64, f64)>,
    /// Who comes, in turn.
    pub(super) kinds: Vec<Kind>,
    pub(super) yaml: &'static str,
    pub(super) seed: u64,
    pub(super) remembered: Remembered,
}

impl Default for Settings {
    /// A site that can answer 100 requests a second, and so take 10 visitors a second.
    fn default() -> Self {
        Self {
            slots: 16,
            service_s: 0.16,
            pages: 10,
            think_s: 12.0,
            arrivals: Vec::new(),
            kinds: vec![Kind::Honest],
            yaml: "",
            seed: 1,
            remembered: Remembered::default(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) kind: Kind,
    pub(super) arrived: u64,
    /// When it was let in.
    pub(super) entered: Option<u64>,
    /// When it first won without finding a token.
    pub(super) won: Option<u64>,
    pub(super) ticket: Option<Ticket>,
    pub(super) pass: Option<Pass>,
    pages: u32,
}

impl Visitor {
    pub(super) fn wait_s(&self) -> Option<f64> {
        self.entered.map(|entered| seconds(entered - self.arrived))
    }
}

/// What one tick has seen, and what it said.
#[derive(Clone)]
pub(super) struct Second {
    pub(super) at_s: f64,
    pub(super) regime: Arc<Regime>,
    /// Newcomers admitted since the tick before, and the tokens that there were for them.
    pub(super) admitted: u32,
    pub(super) tokens: u32,
    /// Newcomers turned away.
    pub(super) diverted: u32,
    pub(super) answered: u32,
    pub(super) shed: u32,
    pub(super) report: Report,
    /// Tickets whose holders wait: what the gate can only estimate.
    pub(super) crowd: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive,
    Ask(usize),
    Done(u64),
    GiveUp(u64),
    Tick,
}

pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) settings: Settings,
    pub(super) visitors: Vec<Visitor>,
    pub(super) seconds: Vec<Second>,
    pub(super) health: Health,
    /// Microseconds since the start.
    pub(super) now_us: u64,
    /// By how much the wall clock has been set, and what of that is in doubt.
    pub(super) wall_shift_ms: i64,
    pub(super) doubt: Duration,
    /// Until when the ticker stands still.
    pub(super) ticker_stalls_until: u64,
    slots: Slots<(usize, Ask)>,
    at_site: HashMap<u64, (usize, Grant, Ask)>,
    queued: HashMap<u64, usize>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    due: HashMap<u64, Event>,
    order: u64,
    random: Random,
    tokens: u32,
    counts: (u32, u32, u32, u32),
}

pub(super) const WALL: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(super) fn policy(slots: u32, yaml: &str) -> Arc<Policy> {
    policy_of(&format!("upstream: {{ servers: [http://127.0.0.1:3000], max_in_flight: {slots} }}\n{yaml}\n"))
}

pub(super) fn policy_of(text: &str) -> Arc<Policy> {
    Arc::new(config::parse(text, "gate.yaml", Path::new("/")).unwrap_or_else(|errors| panic!("{errors}")))
}

pub(super) fn keys(seed: u64) -> Keyring {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&seed.to_be_bytes());
    Keyring::new(&SiteSecret::new(secret), &[Key::new(WALL, secret)]).unwrap()
}

/// A gate at the beginning of time, without a crowd.
pub(super) fn gate(slots: u32, yaml: &str) -> Gate {
    let pages = Arc::new(Pages::built_in().unwrap());
    Gate::new(policy(slots, yaml), Arc::new(keys(1)), pages, Remembered::default(), 1, at(0))
}

pub(super) fn at(seconds: u64) -> Now {
    let wall = WALL.plus(Duration::from_secs(seconds));
    Now { mono: Moment::from_secs(seconds), wall, doubt: Duration::ZERO }
}

pub(super) fn visit(ticket: Option<Ticket>, entropy: u64) -> Visit {
    // each from a network of its own
    Visit { gated: true, signal: true, pass: None, ticket, unsafe_method: false, may_draw: true, client: entropy, entropy }
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let policy = policy(settings.slots, settings.yaml);
        let now = Now { mono: Moment::default(), wall: WALL, doubt: Duration::ZERO };
        let pages = Arc::new(Pages::built_in().unwrap());
        let bounds =
            Bounds { server: ServerLimit::told(settings.slots), queue: policy.upstream.queue.length, per_pass: policy.session.in_flight };
        let gate = Gate::new(policy, Arc::new(keys(settings.seed)), pages, settings.remembered, 2, now);
        let tokens = gate.tokens.load(Ordering::Relaxed);
        let mut world = Self {
            gate,
            visitors: Vec::new(),
            seconds: Vec::new(),
            health: Health::Up,
            now_us: 0,
            wall_shift_ms: 0,
            doubt: Duration::ZERO,
            ticker_stalls_until: 0,
            slots: Slots::new(bounds, 1, now.mono),
            at_site: HashMap::new(),
            queued: HashMap::new(),
            events: BinaryHeap::new(),
            due: HashMap::new(),
            order: 0,
            random: Random(settings.seed),
            tokens,
            counts: (0, 0, 0, 0),
            settings,
        };
        world.at(1_000_000, Event::Tick);
        world.next_arrival();
        world
    }

    pub(super) fn now(&self) -> Now {
        let wall_ms = WALL.as_millis() + self.now_us / 1000;
        let wall = UnixTime::from_millis(wall_ms.checked_add_signed(self.wall_shift_ms).unwrap());
        Now { mono: Moment::from_micros(self.now_us), wall, doubt: self.doubt }
    }

    /// Lets time pass until so many seconds after the start.
    pub(super) fn run_until(&mut self, seconds: u64) {
        let end = seconds * 1_000_000;
        while let Some(&Reverse((time, number))) = self.events.peek() {
            if time > end {
                break;
            }
            self.events.pop();
            self.now_us = time;
            let event = self.due.remove(&number).unwrap();
            self.happen(event);
        }
        self.now_us = end;
    }

    /// What the ticks from one second to another have seen.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Second> {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
        self.seconds.iter().filter(move |second| second.at_s > from as f64 && second.at_s <= to as f64)
    }

    pub(super) fn waits(&self, kind: Kind) -> Vec<f64> {
        self.visitors.iter().filter(|visitor| visitor.kind == kind).filter_map(Visitor::wait_s).collect()
    }

    /// A visitor who stands in front of the gate from now on.
    pub(super) fn add(&mut self, kind: Kind) -> usize {
        let visitor = self.visitors.len();
        let pages = self.settings.pages;
        self.visitors.push(Visitor { kind, arrived: self.now_us, entered: None, won: None, ticket: None, pass: None, pages });
        self.at(self.now_us, Event::Ask(visitor));
        visitor
    }

    /// The gate ends and starts again, with what it has remembered; those inside go on.
    pub(super) fn restart(&mut self, remembered: Remembered) {
        let regime = self.gate.regime.load_full();
        let (policy, keys, pages) = (Arc::clone(&regime.policy), Arc::clone(&regime.keys), Arc::clone(&regime.pages));
        let now = self.now();
        self.gate = Gate::new(policy, keys, pages, remembered, 2, now);
        // what the slots have been used for so far is behind
        self.gate.control().usage = self.slots.usage(now.mono);
        self.tokens = self.gate.tokens.load(Ordering::Relaxed);
    }

    pub(super) fn revive(&mut self) {
        self.health = Health::Up;
        let mut hung: Vec<u64> = self.at_site.keys().copied().collect();
        hung.sort_unstable();
        for number in hung {
            self.at(self.now_us, Event::Done(number));
        }
    }

    fn at(&mut self, time_us: u64, event: Event) {
        self.order += 1;
        self.due.insert(self.order, event);
        self.events.push(Reverse((time_us, self.order)));
    }

    fn after(&mut self, delay_s: f64, event: Event) {
        self.at(self.now_us + micros(delay_s), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let kind = self.settings.kinds[self.visitors.len() % self.settings.kinds.len()];
                self.add(kind);
                self.next_arrival();
            }
            Event::Ask(visitor) => self.ask(visitor),
            Event::Done(number) => self.done(number),
            Event::GiveUp(number) => self.give_up(number),
            Event::Tick if self.now_us < self.ticker_stalls_until => self.at(self.ticker_stalls_until, Event::Tick),
            Event::Tick => {
                self.tick();
                self.after(1.0, Event::Tick);
            }
        }
    }

    fn next_arrival(&mut self) {
        let mut from = self.now_us;
        for &(until, rate) in &self.settings.arrivals {
            let until = until * 1_000_000;
            if from < until && rate > 0.0 {
                let time = from + micros(self.random.exponential() / rate);
                if time < until {
                    self.at(time, Event::Arrive);
                    return;
                }
            }
            from = from.max(until);
        }
    }

    fn ask(&mut self, index: usize) {
        let now = self.now();
        let visitor = self.visitors[index].clone();
        if visitor.kind == Kind::Gone {
            return;
        }
        let visit = Visit {
            gated: true,
            signal: true,
            pass: visitor.pass,
            ticket: visitor.ticket,
            unsafe_method: false,
            may_draw: true,
            client: index as u64,
            entropy: self.random.bits(),
        };
        let regime = self.gate.regime.load_full();
        let decision = self.gate.decide(index, &regime, &visit, now);
        let keeps = visitor.kind != Kind::Dropper;
        let visitor = &mut self.visitors[index];
        if keeps {
            visitor.pass = decision.set_pass.or(visitor.pass);
            visitor.ticket = decision.set_ticket.or(visitor.ticket);
        }
        if decision.reason == Reason::NoToken {
            visitor.won.get_or_insert(self.now_us);
        }
        if decision.enters() {
            if visitor.entered.is_none() {
                visitor.entered = Some(self.now_us);
                self.counts.0 += 1;
            }
            let ask = Ask { open: false, party: decision.pass.map(|id| id.0), counts: decision.counts };
            self.take_slot(index, ask);
            return;
        }
        self.counts.1 += 1;
        let told = (decision.retry_after.as_secs_f64() - 1e-9).ceil().max(1.0);
        let back = match visitor.kind {
            // the page and its way take a moment
            Kind::Honest => told + 0.1 * self.random.unit(),
            Kind::Reloader => regime.epoch.as_secs_f64() / 10.0 * (0.5 + self.random.unit()),
            Kind::Dropper => 0.5 + self.random.unit(),
            Kind::Churner
                if decision.reason == Reason::NotDrawn && visit.ticket.is_some_and(|t| now.wall.since(t.issued).as_secs() >= 2) =>
            {
                visitor.ticket = None;
                0.05
            }
            Kind::Churner => told.min(2.0) + 0.1 * self.random.unit(),
            Kind::Gone => return,
        };
        self.after(back, Event::Ask(index));
    }

    fn take_slot(&mut self, visitor: usize, ask: Ask) {
        if self.gate.regime.load().observes() {
            let server = self.slots.take_anyway(ask, [0, 0], Moment::from_micros(self.now_us));
            return self.send(visitor, server, ask);
        }
        match self.slots.ask(ask, [0, 0], Moment::from_micros(self.now_us), (visitor, ask)) {
            Answer::Granted(slot) => self.send(visitor, slot, ask),
            Answer::Queued(number) => {
                self.queued.insert(number, visitor);
                let deadline = self.gate.regime.load().policy.upstream.queue.deadline.as_secs_f64();
                self.after(deadline, Event::GiveUp(number));
            }
            Answer::Full(_) => self.shed(visitor),
        }
    }

    fn send(&mut self, visitor: usize, slot: Grant, ask: Ask) {
        self.gate.sent(visitor);
        self.order += 1;
        let number = self.order;
        self.at_site.insert(number, (visitor, slot, ask));
        let service = self.random.exponential() * self.settings.service_s;
        match self.health {
            Health::Up => self.after(service, Event::Done(number)),
            Health::Hangs => self.after(60.0, Event::Done(number)),
            Health::Refuses => self.after(0.001, Event::Done(number)),
        }
    }

    fn done(&mut self, number: u64) {
        let Some((index, slot, ask)) = self.at_site.remove(&number) else { return };
        let good = self.health == Health::Up;
        let now = Moment::from_micros(self.now_us);
        if ask.counts {
            self.gate.answered(index, good);
        }
        self.slots.release(slot, ask, good, now);
        while let Some(((next, ask), slot)) = self.slots.next([0, 0], now) {
            self.queued.retain(|_, waiting| *waiting != next);
            self.send(next, slot, ask);
        }
        if !good {
            return self.after(5.0, Event::Ask(index));
        }
        self.counts.2 += 1;
        let visitor = &mut self.visitors[index];
        visitor.pages -= 1;
        if visitor.pages > 0 {
            let think = self.random.exponential() * self.settings.think_s;
            self.after(think, Event::Ask(index));
        }
    }

    fn give_up(&mut self, number: u64) {
        if let Some(visitor) = self.queued.remove(&number) {
            let ask = Ask { open: false, party: self.visitors[visitor].pass.map(|pass| pass.id.0), counts: true };
            self.slots.leave(number, ask);
            self.shed(visitor);
        }
    }

    fn shed(&mut self, visitor: usize) {
        self.counts.3 += 1;
        let appointment = self.gate.appointment(&self.gate.regime.load(), Moment::from_micros(self.now_us));
        self.after(appointment.as_secs_f64().ceil(), Event::Ask(visitor));
    }

    fn tick(&mut self) {
        let now = self.now();
        let site = Site {
            in_flight: self.slots.in_flight(),
            queued: self.slots.queued_for_the_site(),
            servers: self.slots.in_use(),
            usage: self.slots.usage(now.mono),
        };
        let report = self.gate.tick(&site, now);
        let (admitted, diverted, answered, shed) = std::mem::take(&mut self.counts);
        let crowd = self.visitors.iter().filter(|visitor| visitor.entered.is_none() && visitor.ticket.is_some()).count();
        let regime = self.gate.regime.load_full();
        #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
        let at_s = self.now_us as f64 / 1e6;
        self.seconds.push(Second { at_s, regime, admitted, tokens: self.tokens, diverted, answered, shed, report, crowd });
        self.tokens = self.gate.tokens.load(Ordering::Relaxed);
    }
}

/// splitmix64, as everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 2f64.powi(53)
    }

    pub(super) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a test")]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[expect(clippy::cast_precision_loss, reason = "times of a test")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
