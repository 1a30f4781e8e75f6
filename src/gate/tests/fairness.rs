//! Who gets in when: asking more often, or keeping less, admits no sooner than waiting does.
//!
//! Shown twice. On the pure rules, against steady odds, visitor by visitor: the same arrival and where it can be the same ticket for
//! who waits and who doesn't. And on the gate, with odds that the law makes and tokens that bind.

use std::time::Duration;

use super::super::*;
use super::world::{Kind, Random, Settings, WALL, World, at, gate, keys, visit};
use crate::rules::draw::{Epoch, Stake};

const VISITORS: usize = 4000;

/// The most that a ratio of waits may differ from 1, and at least three of its standard errors.
const BAR: f64 = 0.05;

// the pure rules

/// Steady odds, and all that a ticket is drawn by.
struct Draws {
    keys: Keyring,
    epoch: Duration,
    odds: f64,
}

impl Draws {
    fn epoch(&self, id: VisitorId, now: UnixTime) -> Epoch {
        Epoch::of(now, self.epoch, self.keys.phase(id))
    }

    fn wins(&self, id: VisitorId, issued: UnixTime, now: UnixTime) -> bool {
        let epoch = self.epoch(id, now);
        let draw = self.keys.draw(id, epoch.began.as_millis());
        Stake::of(epoch, issued, now).is_ok_and(|stake| draw::wins(draw, self.odds, stake.weight(issued)))
    }

    /// Comes back when told to, in whole seconds, and a moment late.
    fn who_waits(&self, id: VisitorId, arrived: UnixTime, random: &mut Random) -> f64 {
        let mut now = arrived.plus(draw::FIRST_RETURN + moment(random));
        while !self.wins(id, arrived, now) {
            let told = self.epoch(id, now).ends.since(now).as_secs_f64().ceil().max(1.0);
            now = now.plus(Duration::from_secs_f64(told) + moment(random));
        }
        now.since(arrived).as_secs_f64()
    }

    /// Asks ten times an epoch.
    fn who_reloads(&self, id: VisitorId, arrived: UnixTime, random: &mut Random) -> f64 {
        let mut now = arrived;
        loop {
            now = now.plus((self.epoch / 10).mul_f64(0.5 + random.unit()));
            if self.wins(id, arrived, now) {
                return now.since(arrived).as_secs_f64();
            }
        }
    }

    /// Drops each ticket that has not won at once, and takes a new one.
    fn who_takes_new_tickets(&self, arrived: UnixTime, random: &mut Random) -> f64 {
        let mut now = arrived;
        loop {
            let (id, issued) = (VisitorId(random.bits()), now);
            now = now.plus(draw::FIRST_RETURN + moment(random));
            if self.wins(id, issued, now) {
                return now.since(arrived).as_secs_f64();
            }
        }
    }

    /// As those, but waits for a new ticket's first whole epoch if it begins soon, and throws other tickets away.
    fn who_picks_tickets(&self, arrived: UnixTime, random: &mut Random) -> f64 {
        let mut now = arrived;
        loop {
            let (id, issued) = (VisitorId(random.bits()), now);
            let ends = self.epoch(id, now).ends;
            if ends.since(now) > Duration::from_secs(4) {
                // a tenth of a second for each try
                now = now.plus(Duration::from_millis(100));
                continue;
            }
            for at in [issued.plus(draw::FIRST_RETURN), ends] {
                now = now.max(at).plus(moment(random));
                if self.wins(id, issued, now) {
                    return now.since(arrived).as_secs_f64();
                }
            }
        }
    }

    /// The soonest of several tickets that are each waited for.
    fn who_has_several(&self, tickets: usize, arrived: UnixTime, random: &mut Random) -> f64 {
        let waits = (0..tickets).map(|_| self.who_waits(VisitorId(random.bits()), arrived, random));
        waits.fold(f64::INFINITY, f64::min)
    }
}

fn moment(random: &mut Random) -> Duration {
    Duration::from_secs_f64(0.1 * random.unit())
}

/// A ratio of means, and its standard error over pairs (by the delta method).
#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn ratio(of: &[f64], to: &[f64]) -> (f64, f64) {
    assert_eq!(of.len(), to.len());
    let count = of.len() as f64;
    let ratio = mean(of) / mean(to);
    let squares: f64 = of.iter().zip(to).map(|(of, to)| (of - ratio * to).powi(2)).sum();
    (ratio, (squares / (count - 1.0) / count).sqrt() / mean(to))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn reloading_and_dropping_tickets_admit_no_sooner_than_waiting_does() {
    for (epoch_s, odds, seed) in [(10, 0.02, 1), (60, 0.05, 2)] {
        let draws = Draws { keys: keys(seed), epoch: Duration::from_secs(epoch_s), odds };
        let mut random = Random(seed);
        let mut waits: [Vec<f64>; 6] = Default::default();
        for visitor in 0..VISITORS {
            let arrived = WALL.plus(Duration::from_secs_f64(3600.0 * random.unit()));
            let id = VisitorId(random.bits());
            waits[0].push(draws.who_waits(id, arrived, &mut random));
            waits[1].push(draws.who_reloads(id, arrived, &mut random));
            waits[2].push(draws.who_takes_new_tickets(arrived, &mut random));
            // these cost more to play out, and differ by more
            if visitor % 4 != 0 {
                continue;
            }
            waits[3].push(draws.who_picks_tickets(arrived, &mut random));
            waits[4].push(draws.who_has_several(2, arrived, &mut random));
            waits[5].push(draws.who_has_several(10, arrived, &mut random));
        }
        let every_fourth: Vec<f64> = waits[0].iter().copied().step_by(4).collect();
        let of = |kind: usize| ratio(&waits[kind], if kind < 3 { &waits[0] } else { &every_fourth });
        let medians = median(&waits[1]) / median(&waits[0]);
        println!(
            "epoch {epoch_s} s, odds {odds}, {VISITORS} visitors: who waits {:.1} s, median {:.1}",
            mean(&waits[0]),
            median(&waits[0])
        );
        println!("  reloading: ratio of medians {medians:.4}");
        for (kind, name) in ["", "reloading", "new tickets", "picked tickets", "2 tickets", "10 tickets"].iter().enumerate().skip(1) {
            println!("  {name}: ratio {:.4}, standard error {:.4}", of(kind).0, of(kind).1);
        }
        let (reloading, error) = of(1);
        assert!((reloading - 1.0).abs() <= BAR && BAR > 3.0 * error, "{reloading} {error}");
        assert!((medians - 1.0).abs() <= BAR, "{medians}");
        for kind in [2, 3] {
            let (ratio, error) = of(kind);
            assert!(ratio - 3.0 * error > 1.0 - BAR, "{kind}: {ratio} {error}");
        }
        // what the limit of tickets leaves: several tickets are several visitors
        assert!(of(4).0 < 0.85 && of(5).0 < 0.6, "no gain any more: say so in the documents");
    }
}

#[test]
fn copies_of_one_ticket_draw_once_an_epoch() {
    let draws = Draws { keys: keys(5), epoch: Duration::from_secs(10), odds: 0.3 };
    let mut random = Random(5);
    for _ in 0..200 {
        let id = VisitorId(random.bits());
        let issued = WALL.minus(Duration::from_secs(1000 + random.bits() % 3600));
        let epoch = draws.epoch(id, WALL);
        let answers: Vec<bool> = (0..100).map(|i| draws.wins(id, issued, epoch.began.plus(Duration::from_millis(100 * i)))).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]));
    }
}

// the gate

#[test]
fn in_a_crowd_reloading_admits_no_sooner_than_waiting_does() {
    let arrivals = vec![(40, 200.0)];
    let kinds = vec![Kind::Honest, Kind::Reloader];
    let mut world = World::new(Settings { slots: 8, pages: 1, arrivals, kinds, ..Settings::default() });
    world.run_until(400);
    let (honest, reloading) = (world.waits(Kind::Honest), world.waits(Kind::Reloader));
    let pairs = honest.len().min(reloading.len());
    assert!(honest.len() + reloading.len() == world.visitors.len() && pairs > 3500, "everyone is in: {pairs}");
    let (ratio, error) = ratio(&reloading[..pairs], &honest[..pairs]);
    println!("gate: {pairs} pairs, who waits {:.1} s, ratio {ratio:.4}, standard error {error:.4}", mean(&honest));
    assert!((ratio - 1.0).abs() <= BAR && BAR > 3.0 * error, "{ratio} {error}");
}

#[test]
fn in_a_crowd_new_tickets_admit_no_sooner_than_waiting_does() {
    let arrivals = vec![(40, 200.0)];
    let kinds = [vec![Kind::Honest; 7], vec![Kind::Churner]].concat();
    let mut world = World::new(Settings { slots: 8, pages: 1, arrivals, kinds, ..Settings::default() });
    world.run_until(400);
    let ratio = mean(&world.waits(Kind::Churner)) / mean(&world.waits(Kind::Honest));
    println!("gate: new tickets, ratio {ratio:.3}");
    assert!(ratio > 1.0 - BAR, "{ratio}");
}

#[test]
fn without_cookies_nobody_gets_in_but_as_room_for_everyone() {
    let kinds = vec![Kind::Honest, Kind::Dropper];
    let mut world = World::new(Settings { arrivals: vec![(90, 40.0)], kinds, ..Settings::default() });
    world.run_until(150);
    let second = |micros: u64| usize::try_from(micros / 1_000_000).unwrap();
    let mut in_crowd = 0;
    for visitor in world.visitors.iter().filter(|visitor| visitor.kind == Kind::Dropper) {
        let Some(entered) = visitor.entered else { continue };
        // the regime of the tick before was in force
        let before = second(entered).checked_sub(1).map(|tick| &world.seconds[tick].regime);
        assert!(before.is_none_or(|regime| regime.probability() >= 1.0 && regime.held < 1.0), "at {entered}");
        in_crowd += usize::from(entered > 60_000_000);
    }
    assert!(world.seconds[100].regime.probability() < 1.0);
    println!("without cookies: {in_crowd} in after the first minute");
}

// what is replayed

#[test]
fn a_ticket_from_long_ago_is_void_and_a_new_one_is_given() {
    let gate = gate(16, "admission: { mode: fixed, probability: 0.999 }");
    let old = Ticket { id: VisitorId(3), issued: WALL, seen: WALL, won: true };
    let decision = gate.decide(0, &gate.regime(), &visit(Some(old), 9), at(181));
    assert!(decision.ticket_void && !decision.enters());
    let fresh = decision.set_ticket.unwrap();
    assert!(fresh.id == VisitorId(9) && fresh.issued == at(181).wall && !fresh.won);
}

#[test]
fn replayed_cookies_do_not_inflate_the_crowd() {
    let gate = gate(16, "admission: { mode: fixed, probability: 0 }");
    for second in 1..=30 {
        for id in 0..100 {
            // an old one of great weight, twenty times a second
            let ticket = Ticket { id: VisitorId(id), issued: WALL.minus(Duration::from_secs(3600)), seen: at(second - 1).wall, won: false };
            for copy in 0..20 {
                gate.decide(0, &gate.regime(), &visit(Some(ticket), copy), at(second));
            }
        }
        gate.tick(&Site { servers: 1, ..Site::default() }, at(second));
        // each is in two epochs within the ten seconds from the first on, and in one after
        assert!(gate.regime().waiting <= 200, "{}", gate.regime().waiting);
    }
    assert!((90..=110).contains(&gate.regime().waiting), "{}", gate.regime().waiting);
}

#[test]
fn a_winning_ticket_shown_again_takes_one_token_and_has_the_rate_of_its_pass() {
    let gate = gate(16, "");
    let tokens = || gate.tokens.load(Ordering::Relaxed);
    let before = tokens();
    let ticket = Ticket { id: VisitorId(5), issued: WALL, seen: WALL, won: true };
    let decisions: Vec<Decision> = (0..500).map(|copy| gate.decide(0, &gate.regime(), &visit(Some(ticket), copy), at(5))).collect();
    assert_eq!(tokens(), before - 1);
    assert!(decisions.iter().all(|decision| decision.pass == Some(VisitorId(5))), "the same pass");
    assert_eq!(decisions.iter().filter(|decision| decision.too_often.is_none()).count(), 61, "the first, and the burst of its pass");
}

#[test]
fn a_winner_who_asks_and_asks_shuts_nobody_out() {
    let gate = gate(16, "");
    gate.tokens.store(0, Ordering::Relaxed);
    let ticket = Ticket { id: VisitorId(5), issued: WALL, seen: WALL, won: true };
    for copy in 0..10_000 {
        gate.decide(0, &gate.regime(), &visit(Some(ticket), copy), at(1));
    }
    gate.tick(&Site { servers: 1, ..Site::default() }, at(2));
    assert!(gate.regime().held <= 1.0 && gate.regime().probability() > 0.9);
}
