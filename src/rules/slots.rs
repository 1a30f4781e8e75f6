//! Slots (layer 2): who of those who may enter is next at an upstream server.
//!
//! First come, first served over all servers, with three exceptions that keep one party from taking the site: open routes without a
//! pass have half of the slots at most, one client's network has three quarters of that half, and one pass has `session.in_flight`. Who
//! is over such a bound waits, and is passed over until it is under it again; nobody else waits for them.
//!
//! A network has so much because thousands may share its address, and not all because whoever sends or takes a large body slowly holds
//! a slot meanwhile, for as long as `limits.min_rate` bears. Of fewer than eight slots it may have what open routes may.
//!
//! Always holds: while a slot is free, no one who may have it waits. Absent: connections, timers and locks (`upstream/` has them);
//! priorities (simulation found no use for them).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::concurrency::ServerLimit;
use super::health::{Health, Takes};
use super::time::Moment;
use super::timings::Timings;
use super::uniform::Uniform;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// An open route without a pass: half of the slots at most.
    pub open: bool,
    /// Whose it is, if anybody's: the pass, bounded by `session.in_flight`; on an open route without one the client's network, bounded by
    /// three quarters of what open routes may have.
    pub party: Option<u64>,
    /// Its slot time and outcome say something about the load.
    pub counts: bool,
}

/// A slot of a server, to be given back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    /// Which server.
    pub server: usize,
    /// When it was taken, and the slot time of all at this server by then.
    at: Moment,
    busy_s: f64,
}

/// The answer to an [`Ask`].
#[derive(Debug, PartialEq)]
pub enum Answer<W> {
    /// A slot.
    Granted(Grant),
    /// No slot now: wait under this number.
    Queued(u64),
    /// No slot, and no room to wait; the waiter is handed back.
    Full(W),
}

/// Bounds from the policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Slots of each server, and what is learned from those who had one.
    pub server: ServerLimit,
    /// The most that wait.
    pub queue: usize,
    /// The most slots of one pass.
    pub per_pass: u32,
}

/// The slots of all servers and the queue in front of them. `W` is how a waiter is told.
#[derive(Debug)]
pub struct Slots<W> {
    bounds: Bounds,
    servers: Vec<Server>,
    /// Those who wait and are under their bounds, oldest first; gated and open apart, since the bound of open routes holds for all of them.
    gated: BTreeMap<u64, Waiting<W>>,
    open: BTreeMap<u64, Waiting<W>>,
    /// Those whose party is at its bound, oldest first.
    held: HashMap<u64, VecDeque<(u64, Waiting<W>)>, Uniform>,
    held_count: usize,
    /// Slots of each party that has one.
    parties: HashMap<u64, u32, Uniform>,
    open_busy: u32,
    /// The most slots of open routes when it was last looked who is next.
    open_bound: u32,
    next_number: u64,
    usage: Usage,
    used_at: Moment,
}

#[derive(Debug)]
struct Waiting<W> {
    ask: Ask,
    waiter: W,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    counted: u32,
    uncounted: u32,
    /// Slot time of all its requests, in slot-seconds.
    busy_s: f64,
    health: Health,
    /// Still named by the policy.
    live: bool,
}

impl Server {
    fn new() -> Self {
        Self { counted: 0, uncounted: 0, busy_s: 0.0, health: Health::default(), live: true }
    }

    const fn busy(&self) -> u32 {
        self.counted + self.uncounted
    }

    /// In use, and not ejected.
    fn takes_requests(&self) -> bool {
        self.live && self.health.takes() != Takes::None
    }
}

/// Slot time used, in slot-seconds, since the slots were made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// By requests that count.
    pub counted_s: f64,
    /// By all others.
    pub uncounted_s: f64,
    /// Good answers that count: how long each held its slot, among how many.
    pub timings: Timings,
    /// By what was over the bound, of either kind: it has no slot, and stands in neither of them.
    pub over_s: f64,
}

impl<W> Slots<W> {
    /// Free slots of so many servers.
    #[must_use]
    pub fn new(bounds: Bounds, servers: usize, now: Moment) -> Self {
        Self {
            bounds,
            servers: vec![Server::new(); servers],
            gated: BTreeMap::new(),
            open: BTreeMap::new(),
            held: HashMap::default(),
            held_count: 0,
            parties: HashMap::default(),
            open_busy: 0,
            open_bound: 0,
            next_number: 0,
            usage: Usage::default(),
            used_at: now,
        }
    }

    /// Asks for a slot. `draws` are two random numbers: of two servers picked by them, the one with fewer in flight is taken
    /// (the power of two choices; scanning for the least would send every worker to the same one).
    pub fn ask(&mut self, ask: Ask, draws: [u32; 2], now: Moment, waiter: W) -> Answer<W> {
        if let Some(grant) = self.ask_now(ask, draws, now) {
            return Answer::Granted(grant);
        }
        if self.queued() >= self.bounds.queue {
            return Answer::Full(waiter);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.enqueue(number, Waiting { ask, waiter });
        Answer::Queued(number)
    }

    /// Asks for a slot that is free now, without waiting for one otherwise.
    pub fn ask_now(&mut self, ask: Ask, draws: [u32; 2], now: Moment) -> Option<Grant> {
        let server = if self.may_have(ask) { self.pick(draws, None)? } else { return None };
        Some(self.take(server, ask, now))
    }

    /// Takes a slot though none may be free, for who must not be held up: at the server with the fewest requests.
    pub fn take_anyway(&mut self, ask: Ask, draws: [u32; 2], now: Moment) -> Grant {
        let server = self.pick(draws, None).unwrap_or_else(|| {
            let any_up = self.servers.iter().any(Server::takes_requests);
            let places = (0..self.servers.len()).filter(|&i| if any_up { self.servers[i].takes_requests() } else { self.servers[i].live });
            places.min_by_key(|&i| self.servers[i].busy()).unwrap_or(0)
        });
        self.take(server, ask, now)
    }

    /// Moves a request from a server that it can't reach to another one that is not ejected and has a slot free now. If there is none,
    /// it keeps the slot that it has. The caller then calls [`Slots::next`] until it returns none.
    ///
    /// Nobody is passed over: while a slot is free, no one who may have it waits; and of its party's share, and of that of open routes,
    /// it takes no more than it has already. If that has become too much meanwhile, it stays, as who asks anew would wait.
    pub fn move_on(&mut self, grant: Grant, ask: Ask, draws: [u32; 2], now: Moment) -> Option<Grant> {
        let server = if self.may_keep(ask) { self.pick(draws, Some(grant.server))? } else { return None };
        Some(self.change(grant, server, ask, now))
    }

    /// The same for who must not be held up, though none may be free: to the server with the fewest requests.
    pub fn move_anyway(&mut self, grant: Grant, ask: Ask, draws: [u32; 2], now: Moment) -> Option<Grant> {
        let others = || (0..self.servers.len()).filter(|&i| i != grant.server && self.servers[i].takes_requests());
        let server = self.pick(draws, Some(grant.server)).or_else(|| others().min_by_key(|&i| self.servers[i].busy()))?;
        Some(self.change(grant, server, ask, now))
    }

    fn change(&mut self, grant: Grant, server: usize, ask: Ask, now: Moment) -> Grant {
        self.leave_server(grant, ask, false, now);
        self.enter_server(server, ask, now)
    }

    /// Gives a slot back, after a good answer or not. The caller then calls [`Slots::next`] until it returns none.
    pub fn release(&mut self, grant: Grant, ask: Ask, good: bool, now: Moment) {
        self.leave_server(grant, ask, good, now);
        if ask.open {
            self.open_busy = self.open_busy.saturating_sub(1);
        }
        let Some(party) = ask.party else { return };
        if let Some(count) = self.parties.get_mut(&party) {
            *count -= 1;
            if *count == 0 {
                self.parties.remove(&party);
            }
        }
        self.advance(party);
    }

    fn leave_server(&mut self, grant: Grant, ask: Ask, good: bool, now: Moment) {
        self.account(now);
        let server = &mut self.servers[grant.server];
        let seconds = now.since(grant.at).as_secs_f64();
        if ask.counts && good && seconds > 0.0 {
            let in_flight = (server.busy_s - grant.busy_s) / seconds;
            if (self.bounds.server.from..=self.bounds.server.to).contains(&in_flight) {
                self.usage.timings.add(seconds, in_flight);
            }
        }
        let busy = if ask.counts { &mut server.counted } else { &mut server.uncounted };
        *busy = busy.saturating_sub(1);
    }

    /// The oldest of those of a party that are held may be next again.
    fn advance(&mut self, party: u64) {
        let Some(held) = self.held.get_mut(&party) else { return };
        let oldest = held.pop_front();
        if held.is_empty() {
            self.held.remove(&party);
        }
        if let Some((number, waiting)) = oldest {
            self.held_count -= 1;
            self.line(waiting.ask).insert(number, waiting);
        }
    }

    /// All who are held may be next again: whoever is still over a bound is held again when it would be.
    fn advance_all(&mut self) {
        self.held_count = 0;
        let held: Vec<(u64, Waiting<W>)> = self.held.drain().flat_map(|(_, held)| held).collect();
        for (number, waiting) in held {
            self.line(waiting.ask).insert(number, waiting);
        }
    }

    /// Whoever may now have a slot, with its server; the slot is taken for it.
    pub fn next(&mut self, draws: [u32; 2], now: Moment) -> Option<(W, Grant)> {
        // more slots, or servers that are up again
        let most = self.open_most();
        if std::mem::replace(&mut self.open_bound, most) < most {
            self.advance_all();
        }
        loop {
            let server = self.pick(draws, None)?;
            let open_may = self.open_busy < most;
            let (number, line) = match (self.gated.first_key_value(), self.open.first_key_value()) {
                (Some((&gated, _)), Some((&open, _))) if open_may && open < gated => (open, &mut self.open),
                (Some((&gated, _)), _) => (gated, &mut self.gated),
                (None, Some((&open, _))) if open_may => (open, &mut self.open),
                (None, _) => return None,
            };
            let waiting = line.remove(&number)?;
            if self.party_is_full(waiting.ask) {
                self.enqueue(number, waiting);
                continue;
            }
            let grant = self.take(server, waiting.ask, now);
            return Some((waiting.waiter, grant));
        }
    }

    /// A waiter has given up.
    pub fn leave(&mut self, number: u64, ask: Ask) {
        let Some(party) = ask.party else {
            self.line(ask).remove(&number);
            return;
        };
        if self.line(ask).remove(&number).is_some() {
            // it may have been the one of its party that was next
            if !self.party_is_full(ask) {
                self.advance(party);
            }
            return;
        }
        if let Some(held) = self.held.get_mut(&party) {
            let before = held.len();
            held.retain(|(n, _)| *n != number);
            self.held_count -= before - held.len();
            if held.is_empty() {
                self.held.remove(&party);
            }
        }
    }

    /// Takes over changed bounds and servers. `kept[i]` is where new server `i` stood before, if it did. A server that the policy no
    /// longer names keeps its place, so that its slots come back to it, and is given no more.
    ///
    /// Returns the place of each new server. The caller then calls [`Slots::next`] until it returns none.
    pub fn reconfigure(&mut self, bounds: Bounds, kept: &[Option<usize>]) -> Vec<usize> {
        self.bounds = bounds;
        self.advance_all();
        for server in &mut self.servers {
            server.live = false;
        }
        kept.iter()
            .map(|place| {
                let place = place.unwrap_or_else(|| {
                    self.servers.push(Server::new());
                    self.servers.len() - 1
                });
                self.servers[place].live = true;
                place
            })
            .collect()
    }

    /// So many slots of each server from now on. Returns whether it is another number: the caller then calls [`Slots::next`] until it
    /// returns none; requests above a smaller number finish.
    pub const fn limit(&mut self, limit: ServerLimit) -> bool {
        let before = std::mem::replace(&mut self.bounds.server, limit);
        before.per_server != limit.per_server
    }

    /// Slots of a server that are free.
    #[must_use]
    pub fn room(&self, server: usize) -> u32 {
        self.bounds.server.per_server.saturating_sub(self.busy(server))
    }

    /// The health of a server.
    pub fn health(&mut self, server: usize) -> &mut Health {
        &mut self.servers[server].health
    }

    /// Whether a server is in use and not ejected.
    #[must_use]
    pub fn is_up(&self, server: usize) -> bool {
        self.servers[server].health.is_up()
    }

    /// Requests at a server.
    #[must_use]
    pub fn busy(&self, server: usize) -> u32 {
        self.servers[server].busy()
    }

    /// Requests at all servers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.servers.iter().map(Server::busy).sum()
    }

    /// Slots of the servers that are in use; of all, if none is up.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.bounds.server.per_server.saturating_mul(self.in_use())
    }

    /// Servers that are in use; all, if none is up.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        let live = self.servers.iter().filter(|server| server.live);
        let up = live.clone().filter(|server| server.health.is_up()).count();
        let servers = if up == 0 { live.count() } else { up };
        u32::try_from(servers).unwrap_or(u32::MAX)
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.gated.len() + self.open.len() + self.held_count
    }

    /// Requests that wait for a slot of the site, and not only for another request of their own pass.
    #[must_use]
    pub fn queued_for_the_site(&self) -> usize {
        self.gated.len()
    }

    /// Slot time used until now.
    pub fn usage(&mut self, now: Moment) -> Usage {
        self.account(now);
        self.usage
    }

    fn may_have(&self, ask: Ask) -> bool {
        (!ask.open || self.open_busy < self.open_most()) && !self.party_is_full(ask)
    }

    /// Whether one that has its slot already is within the bounds of now.
    fn may_keep(&self, ask: Ask) -> bool {
        let busy = ask.party.and_then(|party| self.parties.get(&party));
        (!ask.open || self.open_busy <= self.open_most()) && busy.is_none_or(|&busy| busy <= self.party_most(ask))
    }

    /// Half of the slots, and at least one.
    fn open_most(&self) -> u32 {
        (self.total() / 2).max(1)
    }

    /// The most slots of whose this is.
    fn party_most(&self, ask: Ask) -> u32 {
        if !ask.open {
            return self.bounds.per_pass;
        }
        match self.open_most() {
            // with fewer there is none to spare
            open @ ..4 => open,
            open => open - open.div_ceil(4),
        }
    }

    fn party_is_full(&self, ask: Ask) -> bool {
        let busy = ask.party.and_then(|party| self.parties.get(&party));
        busy.is_some_and(|&busy| busy >= self.party_most(ask))
    }

    fn enqueue(&mut self, number: u64, waiting: Waiting<W>) {
        match waiting.ask.party {
            Some(party) if self.party_is_full(waiting.ask) => {
                let held = self.held.entry(party).or_default();
                // one that was next already is older than others
                held.insert(held.partition_point(|(other, _)| *other < number), (number, waiting));
                self.held_count += 1;
            }
            _ => {
                self.line(waiting.ask).insert(number, waiting);
            }
        }
    }

    const fn line(&mut self, ask: Ask) -> &mut BTreeMap<u64, Waiting<W>> {
        if ask.open { &mut self.open } else { &mut self.gated }
    }

    fn take(&mut self, place: usize, ask: Ask, now: Moment) -> Grant {
        if ask.open {
            self.open_busy += 1;
        }
        if let Some(party) = ask.party {
            *self.parties.entry(party).or_insert(0) += 1;
        }
        self.enter_server(place, ask, now)
    }

    fn enter_server(&mut self, place: usize, ask: Ask, now: Moment) -> Grant {
        self.account(now);
        let server = &mut self.servers[place];
        if ask.counts {
            server.counted += 1;
        } else {
            server.uncounted += 1;
        }
        Grant { server: place, at: now, busy_s: server.busy_s }
    }

    /// A server with a free slot; not the one that was tried, if one was.
    fn pick(&self, draws: [u32; 2], tried: Option<usize>) -> Option<usize> {
        // with every server ejected none is: a doubtful server beats none. But one is enough: a dead site is not asked twice for each
        // request
        let any_up = tried.is_some() || self.servers.iter().any(Server::takes_requests);
        let free = |place: usize| {
            let server = &self.servers[place];
            let most = match server.health.takes() {
                Takes::All => self.bounds.server.per_server,
                Takes::One => 1,
                Takes::None if any_up => 0,
                Takes::None => self.bounds.server.per_server,
            };
            server.live && server.busy() < most && tried != Some(place)
        };
        let count = self.servers.len();
        if count == 1 {
            return free(0).then_some(0);
        }
        let picked = draws.map(|draw| draw as usize % count);
        let best = picked.into_iter().filter(|&i| free(i)).min_by_key(|&i| self.servers[i].busy());
        best.or_else(|| (0..count).filter(|&i| free(i)).min_by_key(|&i| self.servers[i].busy()))
    }

    fn account(&mut self, now: Moment) {
        let elapsed = now.since(self.used_at).as_secs_f64();
        self.used_at = self.used_at.max(now);
        for server in &mut self.servers {
            server.busy_s += f64::from(server.busy()) * elapsed;
            if server.busy() <= self.bounds.server.per_server {
                self.usage.counted_s += f64::from(server.counted) * elapsed;
                self.usage.uncounted_s += f64::from(server.uncounted) * elapsed;
                continue;
            }
            // a server has no more workers than slots: what is over the bound waits there, and uses none
            let share = f64::from(self.bounds.server.per_server) / f64::from(server.busy().max(self.bounds.server.per_server).max(1));
            self.usage.counted_s += f64::from(server.counted) * share * elapsed;
            self.usage.uncounted_s += f64::from(server.uncounted) * share * elapsed;
            self.usage.over_s += f64::from(server.busy()) * (1.0 - share) * elapsed;
        }
    }
}

/// The schedule of those who found no slot in time: each is told when to come back, a quarter of the capacity apart, so that a stall
/// becomes a short wait for people who keep their place, and not a storm of reloads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Appointments {
    next: Moment,
}

/// The share of the capacity that the schedule fills: the rest is for those who come by themselves.
const APPOINTED_SHARE: f64 = 0.25;

/// The soonest and the latest appointment.
const SOONEST: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(60);

impl Appointments {
    /// How long until the next free place of the schedule.
    pub fn next(&mut self, now: Moment, capacity: f64) -> Duration {
        let step = Duration::try_from_secs_f64(1.0 / (APPOINTED_SHARE * capacity)).map_or(LATEST, |step| step.min(LATEST));
        self.next = self.next.plus(step).clamp(now.plus(SOONEST), now.plus(LATEST));
        self.next.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { server: ServerLimit::told(4), queue: 10, per_pass: 2 };

    fn at(ms: u64) -> Moment {
        Moment::from_micros(ms * 1000)
    }

    fn gated(pass: u64) -> Ask {
        Ask { open: false, party: Some(pass), counts: true }
    }

    /// A slot of this server, as the tests give it back.
    const fn of(server: usize) -> Grant {
        Grant { server, at: Moment::from_micros(0), busy_s: 0.0 }
    }

    fn server<W>(answer: &Answer<W>) -> Option<usize> {
        if let Answer::Granted(grant) = answer { Some(grant.server) } else { None }
    }

    fn next<W>(slots: &mut Slots<W>, at: Moment) -> Option<(W, usize)> {
        slots.next([0, 0], at).map(|(waiter, grant)| (waiter, grant.server))
    }

    const OPEN: Ask = Ask { open: true, party: None, counts: false };

    fn granted<W>(answer: &Answer<W>) -> bool {
        matches!(answer, Answer::Granted(_))
    }

    #[test]
    fn first_come_first_served_over_all_slots() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        for pass in 0..4 {
            assert!(granted(&slots.ask(gated(pass), [0, 0], at(0), "")));
        }
        slots.ask(gated(10), [0, 0], at(0), "first");
        slots.ask(gated(11), [0, 0], at(0), "second");
        assert_eq!(next(&mut slots, at(0)), None);
        slots.release(of(0), gated(0), true, at(1));
        assert_eq!(next(&mut slots, at(1)), Some(("first", 0)));
        assert_eq!(next(&mut slots, at(1)), None);
        slots.release(of(0), gated(1), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some(("second", 0)));
    }

    #[test]
    fn a_full_queue_hands_the_waiter_back() {
        let mut slots = Slots::new(Bounds { queue: 1, ..BOUNDS }, 1, at(0));
        for pass in 0..4 {
            slots.ask(gated(pass), [0, 0], at(0), 0);
        }
        assert_eq!(slots.ask(gated(5), [0, 0], at(0), 5), Answer::Queued(0));
        assert_eq!(slots.ask(gated(6), [0, 0], at(0), 6), Answer::Full(6));
    }

    #[test]
    fn one_pass_has_its_bound_and_is_passed_over_until_it_is_under_it() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        slots.ask(gated(1), [0, 0], at(0), "");
        slots.ask(gated(1), [0, 0], at(0), "");
        assert_eq!(slots.ask(gated(1), [0, 0], at(0), "third of one"), Answer::Queued(0));
        assert!(granted(&slots.ask(gated(2), [0, 0], at(0), "")), "another pass is not held up");
        assert_eq!(slots.queued_for_the_site(), 0);
        slots.release(of(0), gated(2), true, at(1));
        assert_eq!(next(&mut slots, at(1)), None);
        slots.release(of(0), gated(1), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some(("third of one", 0)));
    }

    #[test]
    fn who_reaches_the_bound_while_waiting_keeps_its_place() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        for pass in 2..6 {
            slots.ask(gated(pass), [0, 0], at(0), "");
        }
        for name in ["a", "b", "c"] {
            slots.ask(gated(1), [0, 0], at(0), name);
        }
        slots.ask(gated(9), [0, 0], at(0), "d");
        for pass in 2..5 {
            slots.release(of(0), gated(pass), true, at(1));
        }
        assert_eq!(next(&mut slots, at(1)), Some(("a", 0)));
        assert_eq!(next(&mut slots, at(1)), Some(("b", 0)));
        assert_eq!(next(&mut slots, at(1)), Some(("d", 0)), "c is over its pass's bound");
        slots.ask(gated(10), [0, 0], at(1), "e");
        slots.release(of(0), gated(1), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some(("c", 0)), "c came before e");
    }

    #[test]
    fn open_routes_have_half_of_the_slots_at_most() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        assert!(granted(&slots.ask(OPEN, [0, 0], at(0), 0)));
        assert!(granted(&slots.ask(OPEN, [0, 0], at(0), 0)));
        assert_eq!(slots.ask(OPEN, [0, 0], at(0), 7), Answer::Queued(0));
        assert!(granted(&slots.ask(gated(1), [0, 0], at(0), 0)), "gated requests go past waiting open ones");
        slots.release(of(0), OPEN, true, at(1));
        assert_eq!(next(&mut slots, at(1)), Some((7, 0)));
    }

    const fn network(network: u64) -> Ask {
        Ask { party: Some(network), ..OPEN }
    }

    #[test]
    fn one_network_leaves_a_quarter_of_what_open_routes_have() {
        for (slots, open, one) in [(1, 1, 1), (2, 1, 1), (4, 2, 2), (7, 3, 3), (8, 4, 3), (10, 5, 3), (16, 8, 6), (100, 50, 37)] {
            let bounds = Bounds { server: ServerLimit::told(slots), queue: 200, ..BOUNDS };
            let mut of_one: Slots<()> = Slots::new(bounds, 1, at(0));
            let grants = (0..100).filter(|_| of_one.ask_now(network(1), [0, 0], at(0)).is_some()).count();
            assert_eq!(grants, one, "of {slots}");
            let mut of_many: Slots<()> = Slots::new(bounds, 1, at(0));
            let grants = (0..100).filter(|&number| of_many.ask_now(network(number), [0, 0], at(0)).is_some()).count();
            assert_eq!(grants, open, "of {slots}");
        }
    }

    #[test]
    fn a_network_at_its_bound_holds_up_no_other() {
        let mut slots = Slots::new(Bounds { server: ServerLimit::told(8), ..BOUNDS }, 1, at(0));
        for _ in 0..3 {
            assert!(granted(&slots.ask(network(1), [0, 0], at(0), "")));
        }
        assert_eq!(slots.ask(network(1), [0, 0], at(0), "fourth of one"), Answer::Queued(0));
        assert!(granted(&slots.ask(network(2), [0, 0], at(0), "")));
        assert_eq!(slots.ask(network(2), [0, 0], at(0), "second of two"), Answer::Queued(1));
        assert_eq!(slots.ask(network(3), [0, 0], at(0), "of three"), Answer::Queued(2));
        slots.release(of(0), network(2), true, at(1));
        assert_eq!(next(&mut slots, at(1)), Some(("second of two", 0)), "it came before three");
        assert_eq!(next(&mut slots, at(1)), None, "open routes have what they may");
        slots.release(of(0), network(2), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some(("of three", 0)), "one is over its bound");
        slots.release(of(0), network(1), true, at(3));
        assert_eq!(next(&mut slots, at(3)), Some(("fourth of one", 0)));
    }

    #[test]
    fn a_bound_that_has_risen_holds_nobody_back() {
        let mut slots = Slots::new(Bounds { server: ServerLimit::told(8), ..BOUNDS }, 1, at(0));
        for _ in 0..3 {
            assert!(granted(&slots.ask(network(1), [0, 0], at(0), 0)));
        }
        for waiter in 1..=5 {
            slots.ask(network(1), [0, 0], at(0), waiter);
        }
        assert!(slots.limit(ServerLimit::told(20)));
        let entered: Vec<_> = std::iter::from_fn(|| next(&mut slots, at(1))).map(|(waiter, _)| waiter).collect();
        assert_eq!(entered, [1, 2, 3, 4], "ten open ones, of which seven are its");
        slots.release(of(0), network(1), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some((5, 0)));
    }

    #[test]
    fn who_was_next_and_leaves_makes_way_for_the_next_of_its_party() {
        let mut slots = Slots::new(Bounds { per_pass: 1, ..BOUNDS }, 1, at(0));
        for pass in 1..5 {
            assert!(granted(&slots.ask(gated(pass), [0, 0], at(0), "")));
        }
        let Answer::Queued(first) = slots.ask(gated(1), [0, 0], at(0), "a") else { panic!() };
        slots.ask(gated(1), [0, 0], at(0), "b");
        // its slot is another's now, and the first of its own is next in line
        slots.take_anyway(gated(9), [0, 0], at(0));
        slots.release(of(0), gated(1), true, at(1));
        assert_eq!(next(&mut slots, at(1)), None);
        slots.leave(first, gated(1));
        slots.release(of(0), gated(2), true, at(2));
        slots.release(of(0), gated(3), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some(("b", 0)));
        assert_eq!(slots.queued(), 0);
    }

    #[test]
    fn who_is_held_again_keeps_its_place_among_its_own() {
        let mut slots = Slots::new(Bounds { per_pass: 1, ..BOUNDS }, 1, at(0));
        assert!(granted(&slots.ask(gated(1), [0, 0], at(0), "")));
        for name in ["a", "b", "c"] {
            slots.ask(gated(1), [0, 0], at(0), name);
        }
        slots.reconfigure(Bounds { per_pass: 1, ..BOUNDS }, &[Some(0)]);
        assert_eq!(next(&mut slots, at(1)), None, "all three were next, and are held again");
        for name in ["a", "b", "c"] {
            slots.release(of(0), gated(1), true, at(2));
            assert_eq!(next(&mut slots, at(2)), Some((name, 0)));
        }
    }

    #[test]
    fn a_waiter_that_leaves_is_forgotten_wherever_it_stands() {
        let mut slots = Slots::new(Bounds { server: ServerLimit::told(2), ..BOUNDS }, 1, at(0));
        slots.ask(gated(1), [0, 0], at(0), 0);
        slots.ask(gated(1), [0, 0], at(0), 0);
        let Answer::Queued(held) = slots.ask(gated(1), [0, 0], at(0), 1) else { panic!() };
        let Answer::Queued(waiting) = slots.ask(gated(2), [0, 0], at(0), 2) else { panic!() };
        assert_eq!(slots.queued(), 2);
        slots.leave(held, gated(1));
        slots.leave(waiting, gated(2));
        slots.leave(waiting, gated(2));
        assert_eq!(slots.queued(), 0);
        slots.release(of(0), gated(1), true, at(1));
        assert_eq!(next(&mut slots, at(1)), None);
    }

    #[test]
    fn of_two_servers_the_one_with_fewer_in_flight_is_taken() {
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        assert_eq!(server(&slots.ask(gated(1), [0, 0], at(0), 0)), Some(0));
        assert_eq!(server(&slots.ask(gated(2), [0, 1], at(0), 0)), Some(1));
        assert_eq!(server(&slots.ask(gated(3), [1, 1], at(0), 0)), Some(1));
        assert_eq!(server(&slots.ask(gated(4), [1, 0], at(0), 0)), Some(0));
        for pass in 5..9 {
            assert!(granted(&slots.ask(gated(pass), [0, 0], at(0), 0)), "a full server is gone past");
        }
        assert_eq!(slots.busy(0) + slots.busy(1), 8);
    }

    #[test]
    fn an_ejected_server_is_left_alone_unless_all_are() {
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        for _ in 0..5 {
            slots.health(0).bad(at(0));
        }
        assert_eq!(server(&slots.ask(gated(1), [0, 0], at(0), 0)), Some(1));
        assert_eq!(slots.total(), 4);
        for _ in 0..5 {
            slots.health(1).bad(at(0));
        }
        assert_eq!(server(&slots.ask(gated(2), [0, 0], at(0), 0)), Some(0));
        assert_eq!(slots.total(), 8);
    }

    /// A slot at this server.
    fn at_server(slots: &mut Slots<u32>, server: usize, ask: Ask, at: Moment) -> Grant {
        let draw = u32::try_from(server).unwrap();
        let grant = slots.ask_now(ask, [draw, draw], at).unwrap();
        assert_eq!(grant.server, server);
        grant
    }

    #[test]
    fn who_can_not_reach_its_server_moves_to_another_whatever_is_drawn() {
        for draws in [[0, 0], [0, 1], [1, 0], [1, 1], [2, 4], [3, 3], [5, 0]] {
            let mut slots = Slots::new(BOUNDS, 3, at(0));
            let grant = at_server(&mut slots, 1, gated(1), at(0));
            let moved = slots.move_on(grant, gated(1), draws, at(1)).unwrap();
            assert_ne!(moved.server, 1, "{draws:?}");
            assert_eq!((slots.busy(1), slots.busy(moved.server), slots.in_flight()), (0, 1, 1));
            slots.release(moved, gated(1), true, at(2));
            assert_eq!(slots.in_flight(), 0);
        }
        let mut slots = Slots::new(BOUNDS, 3, at(0));
        at_server(&mut slots, 0, gated(1), at(0));
        let grant = at_server(&mut slots, 1, gated(2), at(0));
        assert_eq!(slots.move_on(grant, gated(2), [0, 2], at(1)).map(|moved| moved.server), Some(2), "the one with fewer in flight");
    }

    #[test]
    fn who_finds_no_free_slot_elsewhere_stays_where_it_is() {
        let mut slots = Slots::new(Bounds { server: ServerLimit::told(1), ..BOUNDS }, 2, at(0));
        let grant = at_server(&mut slots, 0, gated(1), at(0));
        let other = at_server(&mut slots, 1, gated(2), at(0));
        assert_eq!(slots.ask(gated(3), [0, 0], at(0), 3), Answer::Queued(0));
        assert_eq!(slots.move_on(grant, gated(1), [1, 1], at(1)), None);
        assert_eq!((slots.busy(0), slots.busy(1)), (1, 1));
        // the slot that comes free there is of the one that waits
        slots.release(other, gated(2), true, at(2));
        assert_eq!(next(&mut slots, at(2)), Some((3, 1)));
        assert_eq!(slots.move_on(grant, gated(1), [1, 1], at(2)), None);
        slots.release(grant, gated(1), false, at(3));
        assert_eq!((slots.busy(0), slots.busy(1)), (0, 1));
        let mut alone = Slots::new(BOUNDS, 1, at(0));
        let grant = at_server(&mut alone, 0, gated(1), at(0));
        assert_eq!(alone.move_on(grant, gated(1), [0, 1], at(1)), None);
        assert_eq!(alone.move_anyway(grant, gated(1), [0, 1], at(1)), None);
    }

    #[test]
    fn nobody_moves_to_an_ejected_server_nor_to_one_that_has_left() {
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        let grant = at_server(&mut slots, 0, gated(1), at(0));
        for _ in 0..5 {
            slots.health(1).bad(at(0));
        }
        assert_eq!(slots.move_on(grant, gated(1), [1, 1], at(1)), None);
        assert_eq!(slots.move_anyway(grant, gated(1), [1, 1], at(1)), None);
        for _ in 0..5 {
            slots.health(0).bad(at(1));
        }
        assert_eq!(slots.move_on(grant, gated(1), [1, 1], at(1)), None, "with all ejected one is tried, and not two");
        slots.health(1).probed(true, at(1));
        let moved = slots.move_on(grant, gated(1), [0, 0], at(1)).unwrap();
        assert_eq!(moved.server, 1, "one on trial has a slot");
        let grant = slots.take_anyway(gated(2), [0, 0], at(1));
        assert_eq!(slots.move_on(grant, gated(2), [1, 1], at(1)), None, "and no second one");
        slots.health(1).good();
        slots.reconfigure(BOUNDS, &[Some(0)]);
        assert_eq!(slots.move_on(grant, gated(2), [1, 1], at(2)), None);
        assert_eq!(slots.move_anyway(grant, gated(2), [1, 1], at(2)), None);
    }

    #[test]
    fn who_moves_keeps_its_place_in_the_share_of_its_pass() {
        let mut slots = Slots::new(Bounds { per_pass: 1, ..BOUNDS }, 2, at(0));
        let grant = at_server(&mut slots, 0, gated(1), at(0));
        assert_eq!(slots.ask(gated(1), [0, 0], at(0), 7), Answer::Queued(0));
        let moved = slots.move_on(grant, gated(1), [0, 1], at(1)).unwrap();
        assert_eq!(next(&mut slots, at(1)), None, "the pass has its one slot still");
        assert_eq!((slots.queued(), slots.queued_for_the_site()), (1, 0));
        slots.release(moved, gated(1), true, at(2));
        assert_eq!(next(&mut slots, at(2)).map(|(waiter, _)| waiter), Some(7));
    }

    #[test]
    fn who_is_over_a_bound_that_has_shrunk_does_not_move() {
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        let grants = [0, 0, 0, 1].map(|server| at_server(&mut slots, server, OPEN, at(0)));
        let moved = slots.move_on(grants[0], OPEN, [1, 1], at(1)).unwrap();
        assert_eq!((slots.busy(0), slots.busy(1)), (2, 2), "four of eight slots are open routes'");
        for _ in 0..5 {
            slots.health(0).bad(at(1));
        }
        assert_eq!(slots.move_on(grants[1], OPEN, [1, 1], at(2)), None, "and two of four");
        slots.release(moved, OPEN, true, at(3));
        slots.release(grants[3], OPEN, true, at(3));
        assert!(slots.move_on(grants[1], OPEN, [1, 1], at(3)).is_some());
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        let grant = at_server(&mut slots, 0, gated(1), at(0));
        at_server(&mut slots, 0, gated(1), at(0));
        slots.reconfigure(Bounds { per_pass: 1, ..BOUNDS }, &[Some(0), Some(1)]);
        assert_eq!(slots.move_on(grant, gated(1), [1, 1], at(1)), None);
    }

    #[test]
    fn who_must_not_be_held_up_moves_over_every_bound() {
        let mut slots: Slots<()> = Slots::new(Bounds { server: ServerLimit::told(1), per_pass: 1, ..BOUNDS }, 3, at(0));
        let grants: Vec<Grant> = (0..6).map(|_| slots.take_anyway(gated(1), [0, 0], at(0))).collect();
        assert_eq!([0, 1, 2].map(|server| slots.busy(server)), [2, 2, 2]);
        let moved = slots.move_anyway(grants[0], gated(1), [0, 0], at(1)).unwrap();
        let again = slots.move_anyway(grants[3], gated(1), [0, 0], at(1)).unwrap();
        assert_eq!((grants[0].server, grants[3].server, moved.server, again.server), (0, 0, 1, 2));
        assert_eq!([0, 1, 2].map(|server| slots.busy(server)), [0, 3, 3]);
        assert_eq!(slots.move_on(moved, gated(1), [0, 0], at(2)), None, "nobody else does");
    }

    #[test]
    fn the_slot_time_of_who_moves_begins_anew() {
        let limit = ServerLimit { from: 0.5, to: 1.5, ..BOUNDS.server };
        let mut slots = Slots::new(Bounds { server: limit, ..BOUNDS }, 2, at(0));
        let grant = at_server(&mut slots, 0, gated(1), at(1000));
        let moved = slots.move_on(grant, gated(1), [0, 0], at(1500)).unwrap();
        slots.release(moved, gated(1), true, at(3500));
        let usage = slots.usage(at(4000));
        let mut answer = Timings::NONE;
        answer.add(2.0, 1.0);
        assert_eq!((usage.counted_s, usage.timings), (2.5, answer));
    }

    #[test]
    fn slot_time_is_counted_to_the_microsecond_also_while_in_flight() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        slots.ask(gated(1), [0, 0], at(1000), 0);
        slots.ask(OPEN, [0, 0], at(1500), 0);
        slots.release(of(0), gated(1), true, at(3000));
        let usage = slots.usage(at(4000));
        assert_eq!((usage.counted_s, usage.uncounted_s), (2.0, 2.5));
    }

    #[test]
    fn who_must_not_be_held_up_goes_over_every_bound() {
        let mut slots = Slots::new(Bounds { queue: 0, ..BOUNDS }, 2, at(0));
        for _ in 0..12 {
            slots.take_anyway(gated(1), [0, 0], at(0));
        }
        assert_eq!((slots.busy(0), slots.busy(1), slots.queued()), (6, 6, 0));
        assert_eq!(slots.ask(gated(2), [0, 0], at(0), 7), Answer::Full(7), "nobody else does");
        for _ in 0..5 {
            slots.health(0).bad(at(0));
        }
        assert_eq!(slots.take_anyway(OPEN, [0, 0], at(0)).server, 1, "an ejected server is left alone");
    }

    #[test]
    fn what_is_over_the_bound_uses_no_slot_time() {
        let mut slots: Slots<()> = Slots::new(BOUNDS, 1, at(0));
        for pass in 0..6 {
            slots.take_anyway(gated(pass), [0, 0], at(0));
        }
        slots.take_anyway(OPEN, [0, 0], at(0));
        slots.take_anyway(OPEN, [0, 0], at(0));
        let usage = slots.usage(at(2000));
        assert_eq!((usage.counted_s, usage.uncounted_s, usage.over_s), (6.0, 2.0, 8.0));
    }

    #[test]
    fn only_answers_made_under_the_limits_that_are_compared_tell_of_them() {
        let mut slots: Slots<()> = Slots::new(BOUNDS, 1, at(0));
        // so many at once for a second, each after a second
        let mut told = |second: u64, many: u64, good: bool| {
            let before = slots.usage(at(second * 1000)).timings;
            let grants: Vec<Grant> = (0..many).filter_map(|pass| slots.ask_now(gated(pass), [0, 0], at(second * 1000))).collect();
            for (grant, pass) in grants.into_iter().zip(0..) {
                slots.release(grant, gated(pass), good, at(second * 1000 + 1000));
            }
            slots.limit(ServerLimit { from: 1.5, to: 3.5, ..BOUNDS.server });
            slots.usage(at(second * 1000 + 1000)).timings.since(&before)
        };
        assert_eq!(told(0, 2, true), Timings::NONE, "of a limit that is told there is nothing to learn");
        let mut two = Timings::NONE;
        (0..2).for_each(|_| two.add(1.0, 2.0));
        assert_eq!(told(1, 2, true), two);
        assert_eq!(told(2, 1, true), Timings::NONE);
        assert_eq!(told(3, 4, true), Timings::NONE);
        assert_eq!(told(4, 2, false), Timings::NONE, "a bad answer may come sooner than a good one");
    }

    #[test]
    fn a_server_that_leaves_the_policy_is_given_no_more() {
        let mut slots = Slots::new(BOUNDS, 2, at(0));
        slots.ask(gated(1), [0, 0], at(0), 0);
        let places = slots.reconfigure(BOUNDS, &[Some(1), None]);
        assert_eq!(places, [1, 2]);
        for pass in 2..10 {
            assert!(granted(&slots.ask(gated(pass), [0, 0], at(0), 0)));
        }
        assert_eq!(slots.busy(0), 1);
        slots.release(of(0), gated(1), true, at(1));
        assert_eq!(next(&mut slots, at(1)), None);
        assert_eq!(slots.busy(0), 0);
    }

    #[test]
    fn raised_bounds_let_waiters_in() {
        let mut slots = Slots::new(Bounds { server: ServerLimit::told(1), ..BOUNDS }, 1, at(0));
        slots.ask(gated(1), [0, 0], at(0), 0);
        slots.ask(gated(2), [0, 0], at(0), 2);
        slots.reconfigure(BOUNDS, &[Some(0)]);
        assert_eq!(next(&mut slots, at(0)), Some((2, 0)));
    }

    #[test]
    fn a_raised_bound_of_passes_lets_their_waiters_in() {
        let mut slots = Slots::new(BOUNDS, 1, at(0));
        for waiter in 0..5 {
            slots.ask(gated(1), [0, 0], at(0), waiter);
        }
        assert_eq!(slots.queued(), 3);
        slots.reconfigure(Bounds { per_pass: 3, ..BOUNDS }, &[Some(0)]);
        assert_eq!(next(&mut slots, at(0)), Some((2, 0)));
        assert_eq!(next(&mut slots, at(0)), None);
        assert_eq!(slots.queued(), 2);
        slots.release(of(0), gated(1), true, at(1));
        assert_eq!(next(&mut slots, at(1)), Some((3, 0)));
    }

    #[test]
    fn appointments_are_spaced_at_a_quarter_of_the_capacity() {
        let mut schedule = Appointments::default();
        let now = at(10_000);
        assert_eq!(schedule.next(now, 100.0), Duration::from_secs(2));
        assert_eq!(schedule.next(now, 100.0), Duration::from_millis(2040));
        assert_eq!(schedule.next(now, 100.0), Duration::from_millis(2080));
        assert_eq!(schedule.next(at(60_000), 100.0), Duration::from_secs(2), "an old schedule is forgotten");
    }

    #[test]
    fn appointments_end_at_a_minute_also_for_a_dead_site() {
        let mut schedule = Appointments::default();
        let now = at(1000);
        for _ in 0..5 {
            assert!(schedule.next(now, 0.0) <= LATEST);
        }
        assert_eq!(schedule.next(now, 0.0), LATEST);
        assert_eq!(schedule.next(now, f64::NAN), LATEST);
    }
}
