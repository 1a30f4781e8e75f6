//! The event loop: a crowd, the gate, a site, and the clock that moves them. The same for the same seed.
//!
//! A visitor comes, waits as it is told, asks for its pages with pauses between them, and leaves: after its last page, when its patience
//! with the waiting room is over, or when a page has failed too often. A request that is given up by its client goes on at the site.

use std::collections::VecDeque;

use super::book::{Book, Entry, seconds};
use super::figures::{Figures, Second};
use super::front::{self, Front, micros, moment};
use super::invitations::Inviter;
use super::pairs::{Trick, Waits};
use super::scenario::{Arrivals as Step, Change, Crowd, Health, Scenario};
use super::site::{Condition, Site};
use super::timeline::{Micros, Timeline};
use super::told::Told;
use crate::gate::{Decision, Visit};
use crate::models::arrivals::{self, Arrivals};
use crate::models::random::Random;
use crate::rules::decide::{Reason, Verdict};
use crate::rules::slots::{Answer, Ask, Grant};
use crate::rules::time::UnixTime;
use crate::rules::token::{Pass, PassKind, Ticket, VisitorId};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The next of the arrivals.
    Arrive,
    /// One of a burst.
    Burst,
    /// A visitor who has been inside comes back.
    Return,
    /// One who was invited then comes.
    Redeem(UnixTime),
    Ask {
        visitor: Id,
        tab: u32,
    },
    SiteDone(u64),
    /// An answer has reached the gate, or a client without one.
    Arrived {
        request: u32,
        good: bool,
    },
    Change {
        index: usize,
        ends: bool,
    },
    Second,
}

/// A place in a list that is used again, and the how-manieth use of it this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Id {
    place: u32,
    generation: u32,
}

/// How a visitor behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Plain,
    Reloader,
    Dropper,
    Churner,
    Tabs,
}

#[derive(Debug)]
struct Visitor {
    id: Id,
    number: u64,
    /// Pages and pauses, so that one visitor's luck doesn't depend on another's pace.
    random: Random,
    behaviour: Behaviour,
    /// It is run twice; with the same luck, so that it has the same ticket.
    luck: Option<Random>,
    arrived: Micros,
    ticket: Option<Ticket>,
    pass: Option<Pass>,
    inside: bool,
    seen_room: bool,
    /// What it was told first, and once later.
    told: [Option<Told>; 2],
    /// The tab that the visit goes on in.
    tab: u32,
    pages_left: u32,
    tries: u32,
    /// When the page was first asked for; the waiting room begins it anew.
    wanted: Micros,
    /// Requests of this page that are under way, and parts of it that are still to be asked for.
    open: u32,
    parts_left: u32,
}

impl Visitor {
    /// It keeps its ticket, and with it the place.
    fn keeps(&self) -> bool {
        !matches!(self.behaviour, Behaviour::Dropper | Behaviour::Churner)
    }
}

#[derive(Debug)]
struct Request {
    visitor: Id,
    ask: Ask,
    asked: Micros,
    /// The slot that it holds.
    slot: Option<Grant>,
    /// The number under which it waits for a slot.
    queued: Option<u64>,
    at_site: bool,
    client_there: bool,
    /// The page itself, and not a part of it.
    is_page: bool,
    fails: bool,
}

/// Deadlines that are all equally far ahead, and so fall due in the order in which they were set.
#[derive(Debug, Default)]
struct Deadlines(VecDeque<(Micros, u32, u32)>);

/// Which deadline.
#[derive(Clone, Copy)]
enum Due {
    Slot,
    Response,
    Client,
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    crowd: Crowd,
    front: Option<Front>,
    inviter: Option<Inviter>,
    site: Site,
    site_version: u64,
    timeline: Timeline<Event>,
    slot_deadlines: Deadlines,
    response_deadlines: Deadlines,
    client_deadlines: Deadlines,
    visitors: Vec<Visitor>,
    gone: Vec<u32>,
    /// With the how-manieth use of each place.
    requests: Vec<(u32, Option<Request>)>,
    unused: Vec<u32>,
    arrivals: Arrivals,
    next_number: u64,
    seed: u64,
    /// What those of the pairs do whose trick it is.
    tries: Option<Trick>,
    random: Random,
    book: Book,
    now: Micros,
}

/// Runs a scenario to its end. `tries`: what those do of the pairs whose trick it is; the others do as they are told.
pub(super) fn run(scenario: &Scenario, front: Option<Front>, seed: u64, tries: Option<Trick>) -> (Figures, Vec<Second>, Waits) {
    let mut world = World::new(scenario, front, seed);
    world.tries = tries;
    let end = micros(scenario.length.0);
    while let Some(at) = world.next_at().filter(|&at| at <= end) {
        world.now = at;
        world.step();
    }
    (0..world.visitors.len()).for_each(|place| world.settle_told(place, false));
    let (_, good_share) = scenario.site.mean();
    world.book.figures.invited = world.inviter.take().map(Inviter::close);
    world.book.close(good_share)
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, front: Option<Front>, seed: u64) -> Self {
        let site = Site::new(&scenario.site, Random::stream(seed, 1));
        let crowd = scenario.crowd.clone();
        let per_visit = crowd.pages.0.max(1.0) * f64::from(crowd.subrequests.0 + 1);
        let length_s = scenario.length.0.as_secs_f64();
        let steps = steps(&crowd.arrivals, scenario.site.requests_per_s() / per_visit, length_s);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a day")]
        let book = Book::new(scenario.measured(), length_s as usize);
        let mut world = Self {
            scenario,
            crowd,
            inviter: scenario.invitations.filter(|_| front.is_some()).map(|queue| Inviter::new(queue, Random::stream(seed, 4))),
            front,
            site,
            site_version: 0,
            timeline: Timeline::new(),
            slot_deadlines: Deadlines::default(),
            response_deadlines: Deadlines::default(),
            client_deadlines: Deadlines::default(),
            visitors: Vec::new(),
            gone: Vec::new(),
            requests: Vec::new(),
            unused: Vec::new(),
            arrivals: Arrivals::new(steps, Random::stream(seed, 2)),
            next_number: 0,
            seed,
            tries: None,
            random: Random::stream(seed, 3),
            book,
            now: 0,
        };
        for (index, change) in scenario.changes.iter().enumerate() {
            world.timeline.set(micros(change.at.0), Event::Change { index, ends: false });
        }
        world.timeline.set(SECOND, Event::Second);
        world.next_arrival();
        world
    }

    fn next_at(&mut self) -> Option<Micros> {
        let deadlines = [&self.slot_deadlines, &self.response_deadlines, &self.client_deadlines];
        let soonest = deadlines.into_iter().filter_map(|deadlines| deadlines.0.front().map(|due| due.0)).min();
        match (self.timeline.next_at(), soonest) {
            (Some(event), Some(deadline)) => Some(event.min(deadline)),
            (event, deadline) => event.or(deadline),
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for due in [Due::Slot, Due::Response, Due::Client] {
            let deadlines = match due {
                Due::Slot => &mut self.slot_deadlines,
                Due::Response => &mut self.response_deadlines,
                Due::Client => &mut self.client_deadlines,
            };
            if let Some(&(at, request, generation)) = deadlines.0.front()
                && at <= now
            {
                deadlines.0.pop_front();
                if self.requests[index(request)].0 == generation {
                    self.fall_due(due, request);
                }
                return;
            }
        }
        if let Some((_, event)) = self.timeline.pop() {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                self.come(None);
                self.next_arrival();
            }
            Event::Burst => self.come(None),
            Event::Return => {
                // whoever comes back was let in a good while ago
                let ago = UnixTime::minus(front::now(self.now).wall, RETURN_AFTER);
                self.come(Some((PassKind::Admitted, ago)));
            }
            Event::Redeem(sent) => self.redeem(sent),
            Event::Ask { visitor, tab } => self.ask(visitor, tab),
            Event::SiteDone(version) if version == self.site_version => self.site_done(),
            Event::SiteDone(_) => {}
            Event::Arrived { request, good } => self.arrived(request, good),
            Event::Change { index, ends } => self.change(index, ends),
            Event::Second => {
                self.timeline.set(self.now + SECOND, Event::Second);
                self.turn();
            }
        }
    }

    fn turn(&mut self) {
        let standing = &mut self.book.now;
        standing.capacity = self.site.capacity();
        standing.in_flight = count(self.site.in_flight());
        let mut more_slots = false;
        if let Some(front) = &mut self.front {
            more_slots = front.tick(self.now, self.site.condition.health != Health::Refuses);
            let regime = front.gate.regime();
            standing.queued = count(front.slots.queued());
            standing.slots = front.slots.total();
            standing.probability = regime.probability();
            standing.measured = regime.law.capacity;
            standing.load = regime.law.load;
            standing.would_wait_s = regime.rehearsed.map_or(0.0, |told| told.wait.map_or(f64::INFINITY, |wait| wait.as_secs_f64()));
        }
        if more_slots {
            self.grant();
        }
        self.invite();
        self.book.turn(self.now);
    }

    fn change(&mut self, index: usize, ends: bool) {
        let change = self.scenario.changes[index];
        let now = moment(self.now);
        if ends {
            let condition = Condition::of(&self.scenario.site);
            self.site.become_as(now, reverted(self.site.condition, condition, &change));
            if change.think.is_some() {
                self.crowd.think = self.scenario.crowd.think;
            }
        } else {
            let mut condition = self.site.condition;
            condition.apply(&change);
            self.site.become_as(now, condition);
            self.crowd.think = change.think.unwrap_or(self.crowd.think);
            let within = |random: &mut Random| micros(std::time::Duration::from_secs_f64(random.unit()));
            for _ in 0..change.burst.map_or(0, |count| count.0) {
                let at = self.now + within(&mut self.random);
                self.timeline.set(at, Event::Burst);
            }
            for _ in 0..change.returning.map_or(0, |count| count.0) {
                let at = self.now + within(&mut self.random);
                self.timeline.set(at, Event::Return);
            }
            if let Some(lasts) = change.lasts {
                self.timeline.set(self.now + micros(lasts.0), Event::Change { index, ends: true });
            }
            if let Some(every) = change.every {
                self.timeline.set(self.now + micros(every.0), Event::Change { index, ends: false });
            }
        }
        self.watch_site();
    }

    // visitors

    fn next_arrival(&mut self) {
        if let Some(at_s) = self.arrivals.draw() {
            self.timeline.set(micros(std::time::Duration::from_secs_f64(at_s)), Event::Arrive);
        }
    }

    /// A visitor comes, perhaps with a pass that was issued then.
    fn come(&mut self, pass: Option<(PassKind, UnixTime)>) {
        let number = self.next_number;
        self.next_number += 1;
        let mut random = Random::stream(self.seed, number.wrapping_add(1 << 32));
        let mut behaviour = behaviour(&self.crowd, &mut random);
        let crowd = &self.crowd;
        let mut luck = Some(Random::stream(self.seed, number.wrapping_add(2 << 32)));
        let paired = crowd.pairs.0 > 0.0 && luck.as_mut().is_some_and(|luck| luck.chance(crowd.pairs.0));
        if paired {
            behaviour = match self.tries.filter(|trick| *trick == Trick::of(number)) {
                None => Behaviour::Plain,
                Some(Trick::Reload) => Behaviour::Reloader,
                Some(Trick::Churn) => Behaviour::Churner,
            };
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and `as` saturates")]
        let pages_left = if crowd.same_pages { crowd.pages.0.round().max(1.0) as u32 } else { random.geometric(crowd.pages.0) };
        self.foresee(random.clone(), pages_left);
        let place = self.gone.pop();
        let id = place.map_or_else(
            || Id { place: count(self.visitors.len()), generation: 0 },
            |place| Id { place, generation: self.visitors[index(place)].id.generation + 1 },
        );
        let pass = pass.map(|(kind, issued)| Pass { kind, ..Pass::admitted(VisitorId(self.random.bits()), issued) });
        let visitor = Visitor {
            id,
            number,
            random,
            behaviour,
            luck: luck.filter(|_| paired),
            arrived: self.now,
            ticket: None,
            pass,
            inside: pass.is_some(),
            seen_room: false,
            told: [None; 2],
            tab: 0,
            pages_left,
            tries: 0,
            wanted: self.now,
            open: 0,
            parts_left: 0,
        };
        if pass.is_some() {
            self.book.now.inside += 1;
        }
        match place {
            Some(place) => self.visitors[index(place)] = visitor,
            None => self.visitors.push(visitor),
        }
        self.ask(id, 0);
    }

    /// The requests that this visitor would make, had it never to wait.
    fn foresee(&mut self, mut random: Random, pages: u32) {
        let each = f64::from(self.crowd.subrequests.0 + 1);
        let service = self.scenario.site.mean().0;
        let mut at = seconds(self.now);
        for page in 0..pages {
            if page > 0 {
                at += service + think(&self.crowd, &mut random);
            }
            self.book.demand(at, each);
        }
    }

    /// A second is over: invitations are sent.
    fn invite(&mut self) {
        let (now, from) = (self.now, micros(std::time::Duration::from_secs(self.scenario.measured().0.into())));
        let (Some(front), Some(inviter)) = (&self.front, &mut self.inviter) else { return };
        inviter.turn(now, &self.book.now);
        let sent = front::now(now).wall;
        let (invited, come) = inviter.tick(&front.gate.regime(), now, from);
        self.book.now.invited = invited;
        for delay in come {
            self.timeline.set(now.saturating_add(micros(delay)), Event::Redeem(sent));
        }
    }

    /// One who was invited presses the button.
    fn redeem(&mut self, sent: UnixTime) {
        let (Some(front), Some(inviter)) = (&self.front, &mut self.inviter) else { return };
        match inviter.redeems(&front.gate.regime(), sent) {
            Ok(()) => self.come(Some((PassKind::Invited, front::now(self.now).wall))),
            Err(later) => self.timeline.set(self.now + micros(later), Event::Redeem(sent)),
        }
    }

    fn visitor(&mut self, id: Id) -> Option<&mut Visitor> {
        self.visitors.get_mut(index(id.place)).filter(|visitor| visitor.id == id)
    }

    fn leaves(&mut self, id: Id) {
        let Some(visitor) = self.visitor(id) else { return };
        visitor.id.generation = visitor.id.generation.wrapping_add(1);
        let (inside, seen_room) = (visitor.inside, visitor.seen_room);
        self.settle_told(index(id.place), false);
        if inside {
            self.book.now.inside -= 1;
        } else if seen_room {
            self.book.now.waiting -= 1;
        }
        self.gone.push(id.place);
    }

    fn ask(&mut self, id: Id, tab: u32) {
        let now = self.now;
        let entropy = self.random.bits();
        let Some(visitor) = self.visitor(id) else { return };
        if visitor.tries == 0 {
            visitor.wanted = now;
        }
        let entropy = visitor.luck.as_mut().map_or(entropy, Random::bits);
        // a tab that was left open beside the one in which the visit goes on: it loads its page, and that is all
        let is_page = !visitor.inside || visitor.tab == tab;
        let Some(front) = &self.front else {
            self.enter(id, tab);
            return self.send_without_gate(id);
        };
        let visitor = &self.visitors[index(id.place)];
        let visit = Visit {
            gated: true,
            signal: true,
            pass: visitor.pass,
            ticket: visitor.ticket,
            unsafe_method: false,
            may_draw: true,
            client: visitor.number,
            entropy,
        };
        let decision = front.decide(&visit, now);
        if visitor.behaviour != Behaviour::Dropper {
            let visitor = &mut self.visitors[index(id.place)];
            visitor.pass = decision.set_pass.or(visitor.pass);
            visitor.ticket = decision.set_ticket.or(visitor.ticket);
        }
        if decision.observed && decision.newcomer && decision.verdict == Verdict::Wait {
            self.book.count(now, |figures| &mut figures.would_wait);
        }
        if let Some(later) = decision.too_often.filter(|_| !decision.observed) {
            self.book.count(now, |figures| &mut figures.too_often);
            if is_page {
                self.tries_again(id, later.as_secs_f64().max(1.0));
            }
            return;
        }
        if decision.enters() {
            self.enter(id, tab);
            let ask = Ask { open: false, party: decision.pass.map(|id| id.0), counts: decision.counts };
            return self.take_slot(id, ask, is_page);
        }
        self.note_told(id, &decision);
        self.wait(id, tab, decision.retry_after.as_secs_f64(), visit.ticket);
    }

    /// What a visitor is told who keeps its ticket: the first time with a figure, and one of the later times.
    fn note_told(&mut self, id: Id, decision: &Decision) {
        let (now, measures) = (self.now, self.book.measures(self.now));
        let Some(visitor) = self.visitor(id).filter(|visitor| measures && visitor.keeps() && !visitor.inside) else { return };
        // by the number of the visitor, so that the sample takes nothing of anyone's luck
        let later = now / SECOND % LATER == visitor.number % LATER;
        let place = match visitor.told {
            [None, _] => 0,
            [Some(_), None] if later => 1,
            [Some(_), _] => return,
        };
        let next = decision.reason == Reason::NoToken;
        visitor.told[place] = Told::by(decision, now).filter(|_| !next);
    }

    /// The wait of one who is run twice, and who came in the part that is measured.
    fn note_pair(&mut self, id: Id) {
        let visitor = &self.visitors[index(id.place)];
        if visitor.luck.is_some() && self.book.measures(visitor.arrived) {
            let waited = (self.now - visitor.arrived).min(micros(self.crowd.patience.0));
            self.book.pairs.insert(visitor.number, seconds(waited));
        }
    }

    /// What was told has come true, or is not seen to.
    fn settle_told(&mut self, place: usize, entered: bool) {
        for told in std::mem::take(&mut self.visitors[place].told).into_iter().flatten() {
            self.book.told.ends(told, self.now, entered);
        }
    }

    fn enter(&mut self, id: Id, tab: u32) {
        let now = self.now;
        let Some(visitor) = self.visitor(id).filter(|visitor| !visitor.inside) else { return };
        (visitor.inside, visitor.tab) = (true, tab);
        let entry = Entry { arrived: visitor.arrived, waited: visitor.seen_room, kept: visitor.keeps() };
        self.note_pair(id);
        self.settle_told(index(id.place), true);
        self.book.now.inside += 1;
        self.book.now.admitted += 1;
        self.book.now.waiting -= u32::from(entry.waited);
        self.book.entered(now, entry);
    }

    /// The waiting room is shown.
    fn wait(&mut self, id: Id, tab: u32, told_s: f64, shown: Option<Ticket>) {
        let now = self.now;
        self.book.diverted(now);
        let patience = micros(self.crowd.patience.0);
        let refresh = self.front.as_ref().map_or(1.0, Front::refresh);
        let more_tabs = self.crowd.tabs.0;
        let (unit, moment) = (self.random.unit(), front::now(now).wall);
        let Some(visitor) = self.visitor(id) else { return };
        if visitor.inside {
            // one without cookies has no pass to show
            if visitor.behaviour != Behaviour::Dropper {
                self.book.count(now, |figures| &mut figures.diverted_inside);
            }
            return self.after(1.0 + told_s, Event::Ask { visitor: id, tab });
        }
        let first = !std::mem::replace(&mut visitor.seen_room, true);
        let (behaviour, arrived) = (visitor.behaviour, visitor.arrived);
        if first {
            self.book.now.waiting += 1;
            self.book.count(now, |figures| &mut figures.waited);
            for tab in 1..more_tabs * u32::from(behaviour == Behaviour::Tabs) {
                let opened = self.random.unit() * refresh;
                self.after(opened, Event::Ask { visitor: id, tab });
            }
        }
        if now - arrived > patience {
            self.book.count(now, |figures| &mut figures.gave_up);
            self.note_pair(id);
            return self.leaves(id);
        }
        // headers tell whole seconds; the page and its way take a moment
        let told = (told_s - 1e-9).ceil().max(1.0) + 0.1 * unit;
        let back = match behaviour {
            Behaviour::Plain | Behaviour::Tabs => told,
            Behaviour::Reloader => refresh / 10.0 * (0.5 + unit),
            Behaviour::Dropper => 0.5 + unit,
            Behaviour::Churner if shown.is_some_and(|ticket| moment.since(ticket.issued).as_secs() >= 2) => {
                if let Some(visitor) = self.visitor(id) {
                    visitor.ticket = None;
                }
                0.05
            }
            Behaviour::Churner => told.min(2.0 + 0.1 * unit),
        };
        self.after(back, Event::Ask { visitor: id, tab });
    }

    /// The page has failed; it is asked for again, or the visitor has had enough.
    fn tries_again(&mut self, id: Id, after_s: f64) {
        let (now, tries) = (self.now, self.crowd.tries.0);
        let Some(visitor) = self.visitor(id) else { return };
        visitor.tries += 1;
        let tab = visitor.tab;
        if visitor.tries > tries {
            self.book.count(now, |figures| &mut figures.sessions_failed);
            return self.leaves(id);
        }
        self.after(after_s, Event::Ask { visitor: id, tab });
    }

    /// A part of the page is over, well or not. After the last the visitor reads, and goes on.
    fn part_over(&mut self, id: Id) {
        let now = self.now;
        let Some(visitor) = self.visitors.get_mut(index(id.place)).filter(|visitor| visitor.id == id) else { return };
        visitor.open = visitor.open.saturating_sub(1);
        if visitor.parts_left > 0 {
            return self.ask_for_parts(id);
        }
        if visitor.open > 0 {
            return;
        }
        visitor.pages_left = visitor.pages_left.saturating_sub(1);
        visitor.tries = 0;
        if visitor.pages_left == 0 {
            self.book.count(now, |figures| &mut figures.sessions_done);
            return self.leaves(id);
        }
        let (pause, tab) = (think(&self.crowd, &mut visitor.random), visitor.tab);
        self.after(pause, Event::Ask { visitor: id, tab });
    }

    // requests

    fn open(&mut self, id: Id, ask: Ask, is_page: bool) -> u32 {
        let request = Request {
            visitor: id,
            ask,
            asked: self.now,
            slot: None,
            queued: None,
            at_site: false,
            client_there: true,
            is_page,
            fails: false,
        };
        let number = self.unused.pop().unwrap_or_else(|| {
            self.requests.push((0, None));
            count(self.requests.len() - 1)
        });
        let slot = &mut self.requests[index(number)];
        slot.1 = Some(request);
        let due = self.now + micros(self.crowd.timeout.0);
        self.client_deadlines.0.push_back((due, number, slot.0));
        number
    }

    fn request(&mut self, number: u32) -> Option<&mut Request> {
        self.requests[index(number)].1.as_mut()
    }

    /// Forgets a request of which nothing is left.
    fn close(&mut self, number: u32) {
        let (generation, slot) = &mut self.requests[index(number)];
        if slot
            .as_ref()
            .is_some_and(|request| request.slot.is_none() && !request.at_site && !request.client_there && request.queued.is_none())
        {
            *slot = None;
            *generation = generation.wrapping_add(1);
            self.unused.push(number);
        }
    }

    fn send_without_gate(&mut self, id: Id) {
        let is_page = true;
        let number = self.open(id, Ask { open: false, party: None, counts: false }, is_page);
        self.reach_site(number);
    }

    fn take_slot(&mut self, id: Id, ask: Ask, is_page: bool) {
        let number = self.open(id, ask, is_page);
        let (now, draws) = (self.now, self.random.bits());
        let Some(front) = &mut self.front else { return };
        match front.ask(ask, draws, number, now) {
            Answer::Granted(slot) => self.send(number, slot),
            Answer::Queued(place) => {
                let due = now + front.deadline;
                let generation = self.requests[index(number)].0;
                self.slot_deadlines.0.push_back((due, number, generation));
                if let Some(request) = self.request(number) {
                    request.queued = Some(place);
                }
            }
            Answer::Full(_) => self.shed(number),
        }
    }

    /// A slot was found.
    fn send(&mut self, number: u32, slot: Grant) {
        let now = self.now;
        let generation = self.requests[index(number)].0;
        let Some(request) = self.request(number) else { return };
        (request.slot, request.queued) = (Some(slot), None);
        if let Some(front) = &self.front {
            front.gate.sent(0);
            self.response_deadlines.0.push_back((now + front.response_timeout, number, generation));
        }
        self.reach_site(number);
    }

    fn reach_site(&mut self, number: u32) {
        let work = self.site.draw();
        if self.site.arrive(moment(self.now), work, number) {
            if let Some(request) = self.request(number) {
                (request.at_site, request.fails) = (true, work.fails);
            }
            self.watch_site();
        } else {
            self.timeline.set(self.now + REFUSAL, Event::Arrived { request: number, good: false });
        }
    }

    fn watch_site(&mut self) {
        self.site_version += 1;
        if let Some(next) = self.site.next_done() {
            self.timeline.set(next.as_micros().max(self.now), Event::SiteDone(self.site_version));
        }
    }

    fn site_done(&mut self) {
        for number in self.site.done(moment(self.now)) {
            let latency = self.site.condition.latency_s;
            let Some(request) = self.request(number) else { continue };
            let good = !request.fails;
            if latency > 0.0 {
                self.after(latency, Event::Arrived { request: number, good });
            } else {
                self.arrived(number, good);
            }
        }
        self.watch_site();
    }

    /// The site is done with a request, or has refused it.
    fn arrived(&mut self, number: u32, good: bool) {
        let Some(request) = self.request(number) else { return };
        request.at_site = false;
        self.release(number, good);
        self.deliver(number, good);
        self.close(number);
    }

    fn release(&mut self, number: u32, good: bool) {
        let now = self.now;
        let Some(request) = self.request(number) else { return };
        let (Some(slot), ask) = (request.slot.take(), request.ask) else { return };
        let Some(front) = &mut self.front else { return };
        front.release(slot, ask, good, now);
        self.grant();
    }

    /// Slots for those who are next.
    fn grant(&mut self) {
        loop {
            let (draws, now) = (self.random.bits(), self.now);
            let Some((next, slot)) = self.front.as_mut().and_then(|front| front.next(draws, now)) else { return };
            self.send(next, slot);
        }
    }

    /// The client gets its answer, if it is still there.
    fn deliver(&mut self, number: u32, good: bool) {
        let (now, good_within) = (self.now, micros(self.crowd.good_within.0));
        let Some(request) = self.request(number) else { return };
        if !std::mem::take(&mut request.client_there) {
            return;
        }
        let (id, latency, is_page, fails) = (request.visitor, now - request.asked, request.is_page, request.fails);
        if good {
            self.book.answered(now, latency, latency <= good_within);
            let wanted = self.visitor(id).map_or(now, |visitor| visitor.wanted);
            // of the parts of a page each is asked for by itself
            let since = if is_page { now.saturating_sub(wanted) } else { latency };
            if since <= good_within {
                self.book.in_time(now);
            }
        } else {
            self.book.now.failed += 1;
        }
        if !is_page {
            return self.part_over_if_any(id);
        }
        if good {
            self.mark_open(id);
            let parts = self.crowd.subrequests.0;
            if let Some(visitor) = self.visitor(id) {
                visitor.parts_left = parts;
            }
            self.part_over(id);
        } else if fails {
            // it always does: whoever sees it goes on
            self.mark_open(id);
            self.part_over(id);
        } else {
            let tries = self.visitor(id).map_or(0, |visitor| visitor.tries);
            // nobody hammers at a page that has failed again and again
            let pause = RETRY_S * f64::from(tries.min(RETRY_GROWS) + 1) * self.random.exponential();
            self.tries_again(id, pause);
        }
    }

    /// What the page is made of, as many at a time as a browser has connections.
    fn ask_for_parts(&mut self, id: Id) {
        loop {
            let Some(visitor) = self.visitor(id).filter(|visitor| visitor.parts_left > 0 && visitor.open < CONNECTIONS) else { return };
            visitor.open += 1;
            visitor.parts_left -= 1;
            let entropy = self.random.bits();
            let (pass, ticket, client) = self.visitors.get(index(id.place)).map_or((None, None, 0), |v| (v.pass, v.ticket, v.number));
            let visit = Visit { gated: true, signal: true, pass, ticket, unsafe_method: false, may_draw: false, client, entropy };
            match self.front.as_ref().map(|front| front.decide(&visit, self.now)) {
                None => {
                    let number = self.open(id, Ask { open: false, party: None, counts: false }, false);
                    self.reach_site(number);
                }
                Some(decision) if decision.enters() && (decision.observed || decision.too_often.is_none()) => {
                    let ask = Ask { open: false, party: decision.pass.map(|id| id.0), counts: decision.counts };
                    self.take_slot(id, ask, false);
                }
                Some(decision) => {
                    let is_rate = decision.too_often.is_some();
                    self.book.count(self.now, |figures| if is_rate { &mut figures.too_often } else { &mut figures.diverted_inside });
                    self.part_over(id);
                }
            }
        }
    }

    fn mark_open(&mut self, id: Id) {
        if let Some(visitor) = self.visitor(id) {
            visitor.open += 1;
        }
    }

    /// A part of a page; the page of a second tab is none.
    fn part_over_if_any(&mut self, id: Id) {
        if self.visitor(id).is_some_and(|visitor| visitor.open > 0) {
            self.part_over(id);
        }
    }

    fn shed(&mut self, number: u32) {
        let now = self.now;
        self.book.now.shed += 1;
        self.book.count(now, |figures| &mut figures.shed);
        let appointment = self.front.as_ref().map_or(1.0, |front| front.appointment(now).as_secs_f64());
        let Some(request) = self.request(number) else { return };
        request.queued = None;
        let there = std::mem::take(&mut request.client_there);
        let (id, is_page) = (request.visitor, request.is_page);
        self.close(number);
        match (there, is_page) {
            (true, true) => self.tries_again(id, appointment.ceil().max(1.0)),
            (true, false) => self.part_over_if_any(id),
            (false, _) => {}
        }
    }

    fn fall_due(&mut self, due: Due, number: u32) {
        let Some(request) = self.request(number) else { return };
        match due {
            Due::Slot => {
                let Some(place) = request.queued else { return };
                let ask = request.ask;
                if let Some(front) = &mut self.front {
                    front.slots.leave(place, ask);
                }
                self.shed(number);
            }
            Due::Response if request.slot.is_some() => {
                self.release(number, false);
                self.deliver(number, false);
                self.close(number);
            }
            Due::Client if request.client_there => {
                request.client_there = false;
                let (id, is_page) = (request.visitor, request.is_page);
                self.book.now.failed += 1;
                self.close(number);
                if is_page {
                    self.tries_again(id, 1.0);
                } else {
                    self.part_over_if_any(id);
                }
            }
            Due::Response | Due::Client => {}
        }
    }

    fn after(&mut self, delay_s: f64, event: Event) {
        let delay = std::time::Duration::try_from_secs_f64(delay_s).unwrap_or_default();
        self.timeline.set(self.now + micros(delay), event);
    }
}

/// The condition without this change.
fn reverted(condition: Condition, usual: Condition, change: &Change) -> Condition {
    Condition {
        workers: if change.workers.is_some() { usual.workers } else { condition.workers },
        slower: if change.slower.is_some() { usual.slower } else { condition.slower },
        more_work_s: if change.more_work.is_some() { usual.more_work_s } else { condition.more_work_s },
        latency_s: if change.latency.is_some() { usual.latency_s } else { condition.latency_s },
        health: if change.health.is_some() { usual.health } else { condition.health },
    }
}

fn behaviour(crowd: &Crowd, random: &mut Random) -> Behaviour {
    let mut left = random.unit();
    let shares = [
        (crowd.reloaders, Behaviour::Reloader),
        (crowd.droppers, Behaviour::Dropper),
        (crowd.churners, Behaviour::Churner),
        (crowd.multi_tab, Behaviour::Tabs),
    ];
    let found = shares.into_iter().find(|(share, _)| {
        left -= share.0;
        left < 0.0
    });
    found.map_or(Behaviour::Plain, |(_, behaviour)| behaviour)
}

fn think(crowd: &Crowd, random: &mut Random) -> f64 {
    let mean = crowd.think.seconds();
    if crowd.same_think { mean } else { mean * random.exponential() }
}

/// The arrivals as steps of visitors a second. `visitors_per_s` come at load 1.
fn steps(arrivals: &[Step], visitors_per_s: f64, length_s: f64) -> Vec<arrivals::Step> {
    let mut steps = Vec::new();
    let rate = |step: &Step| step.visitors.map_or(0.0, |visitors| visitors.0) + step.load.map_or(0.0, |load| load.0 * visitors_per_s);
    let mut before = (0.0, 0.0);
    for (place, step) in arrivals.iter().enumerate() {
        let (at_s, to) = (step.at.seconds(), rate(step));
        let end_s = arrivals.get(place + 1).map_or(length_s, |next| next.at.seconds());
        if step.ramp {
            // a straight line, in steps of a second
            let span = (at_s - before.0).max(1.0);
            let mut second = before.0;
            while second < at_s {
                let share = (second - before.0) / span;
                steps.push(arrivals::Step { at_s: second, visitors_per_s: before.1 + (to - before.1) * share });
                second += 1.0;
            }
        }
        match step.pulse {
            Some(period) if period.seconds() > 0.0 => {
                let half = period.seconds() / 2.0;
                let (mut at, mut high) = (at_s, true);
                while at < end_s {
                    steps.push(arrivals::Step { at_s: at, visitors_per_s: if high { to } else { before.1 } });
                    (at, high) = (at + half, !high);
                }
            }
            Some(_) | None => steps.push(arrivals::Step { at_s, visitors_per_s: to }),
        }
        before = (at_s, to);
    }
    steps
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

const SECOND: Micros = 1_000_000;

/// One of so many later tellings is noted.
const LATER: u64 = 20;

/// Connections of a browser to one host.
const CONNECTIONS: u32 = 6;

/// A refused connection takes this long.
const REFUSAL: Micros = 1000;

/// The mean pause before a page that has failed is asked for again, and for how many more tries it grows by as much.
const RETRY_S: f64 = 5.0;
const RETRY_GROWS: u32 = 3;

/// How long ago those who come back were let in.
const RETURN_AFTER: std::time::Duration = std::time::Duration::from_secs(10 * 60);
