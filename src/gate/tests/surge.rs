//! Surges, failures and recoveries, on the gate.

use std::collections::HashMap;

use super::super::*;
use super::world::{Health, Kind, Second, Settings, World, at, gate, visit};

/// Pages a second that the site of [`Settings::default`] can answer.
const CAPACITY: f64 = 100.0;

/// Visitors a second that it can take.
const VISITORS: f64 = 10.0;

/// So many times what the site can take, after a minute of half of it.
fn surge(factor: f64) -> Settings {
    Settings { arrivals: vec![(60, 0.5 * VISITORS), (240, factor * VISITORS)], ..Settings::default() }
}

fn answered<'a>(seconds: impl Iterator<Item = &'a Second>) -> f64 {
    let (mut ticks, mut sum) = (0.0, 0.0);
    for second in seconds {
        ticks += 1.0;
        sum += f64::from(second.answered);
    }
    sum / ticks
}

#[test]
fn half_of_the_capacity_diverts_nobody_after_the_first_ten_seconds() {
    for seed in 1..=3 {
        let mut world = World::new(Settings { arrivals: vec![(300, 0.5 * VISITORS)], seed, ..Settings::default() });
        world.run_until(300);
        let diverted: u32 = world.between(10, 300).map(|second| second.diverted).sum();
        let shed: u32 = world.between(10, 300).map(|second| second.shed).sum();
        assert_eq!((diverted, shed), (0, 0), "{seed}");
        assert!(!world.seconds.iter().any(|second| second.at_s > 10.0 && second.regime.limiting));
    }
}

#[test]
fn a_surge_is_let_in_as_fast_as_the_site_can_take_it() {
    for factor in [3.0, 10.0] {
        let mut world = World::new(surge(factor));
        world.run_until(240);
        let turned_away = world.seconds.iter().find(|second| second.diverted > 0).unwrap();
        let begins = world.seconds.iter().find(|second| second.report.limiting == Some(true)).unwrap();
        assert!(begins.at_s <= turned_away.at_s + 2.0, "{} {}", turned_away.at_s, begins.at_s);
        if factor > 5.0 {
            assert!(begins.at_s <= 62.0, "{}", begins.at_s);
        }
        for second in &world.seconds {
            assert!(second.admitted <= second.tokens, "{factor}: {} of {} at {}", second.admitted, second.tokens, second.at_s);
        }
        let changes = world.seconds.iter().filter(|second| second.report.limiting.is_some()).count();
        assert_eq!(changes, 1, "limiting begins once");
        let goodput = answered(world.between(100, 240));
        let shed: u32 = world.seconds.iter().map(|second| second.shed).sum();
        println!("x{factor}: {goodput:.1} answers a second, {shed} shed");
        assert!(goodput > 0.95 * CAPACITY, "{factor}: {goodput}");
        assert!(f64::from(shed) < 0.01 * goodput * 240.0, "{shed}");
    }
}

#[test]
fn winners_without_a_token_are_in_soon_once_the_surge_is_met() {
    let mut world = World::new(surge(10.0));
    world.run_until(240);
    // at its start the rate of newcomers falls to a tenth within seconds, and those who won before it fell wait for that
    let settled = world.visitors.iter().filter(|visitor| visitor.won.is_some_and(|won| (120_000_000..200_000_000).contains(&won)));
    let mut waited: Vec<u64> = settled.map(|visitor| visitor.entered.map_or(u64::MAX, |entered| entered - visitor.won.unwrap())).collect();
    waited.sort_unstable();
    let of = |share: usize| waited[waited.len() * share / 100] / 1_000_000;
    println!("{} winners without a token: median {} s, p95 {} s", waited.len(), of(50), of(95));
    assert!(of(50) <= 4 && of(95) <= 20, "{} {}", of(50), of(95));
}

#[test]
fn the_count_of_the_crowd_follows_the_crowd() {
    let mut world = World::new(surge(10.0));
    world.run_until(240);
    for second in world.between(100, 240) {
        #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
        let share = second.regime.waiting as f64 / second.crowd as f64;
        assert!((0.85..=1.25).contains(&share), "{} of {} at {}", second.regime.waiting, second.crowd, second.at_s);
    }
}

#[test]
fn a_crowd_goes_in_by_tokens_also_when_there_is_room_again() {
    // what is left of a crowd once nobody comes any more: the odds go back to 1 while some still wait
    let mut world = World::new(Settings { pages: 1, arrivals: vec![(30, 300.0)], ..Settings::default() });
    world.run_until(300);
    assert!(world.visitors.iter().all(|visitor| visitor.entered.is_some()), "everyone is in");
    for second in &world.seconds {
        assert!(second.admitted <= second.tokens && f64::from(second.admitted) < 1.6 * CAPACITY, "{} at {}", second.admitted, second.at_s);
    }
    let last = world.seconds.last().unwrap();
    assert!(last.regime.probability() >= 1.0 && !last.regime.limiting && last.regime.waiting == 0);
    let changes = world.seconds.iter().filter(|second| second.report.limiting.is_some()).count();
    assert_eq!(changes, 2, "it begins and ends once");
}

#[test]
fn at_the_edge_of_the_capacity_limiting_does_not_flap() {
    let mut world = World::new(Settings { arrivals: vec![(600, VISITORS)], ..Settings::default() });
    world.run_until(600);
    let changes: Vec<f64> = world.seconds.iter().filter(|second| second.report.limiting.is_some()).map(|second| second.at_s).collect();
    println!("limiting changed at {changes:?}");
    assert!(changes.len() <= 20, "{changes:?}");
    // what has begun lasts five seconds at least
    assert!(changes.chunks_exact(2).all(|pair| pair[1] - pair[0] >= 5.0), "{changes:?}");
}

#[test]
fn a_dead_site_is_probed_and_is_full_again_within_a_minute_of_its_return() {
    for health in [Health::Hangs, Health::Refuses] {
        let mut world = World::new(surge(3.0));
        world.run_until(120);
        world.health = health;
        world.run_until(180);
        world.revive();
        let admitted: u32 = world.between(150, 180).map(|second| second.admitted).sum();
        assert!(admitted <= 60, "{health:?}: {admitted} let in to a dead site");
        world.run_until(240);
        let recovered = (180..234).find(|&from| answered(world.between(from, from + 6)) > 0.9 * CAPACITY);
        println!("{health:?}: {admitted} admitted while dead, full {:?} s after its return", recovered.map(|from| from - 180));
        assert!(recovered.is_some(), "{health:?}");
    }
}

#[test]
fn a_silent_dead_site_is_probed_at_the_probe_rate_and_comes_back() {
    // nobody is in, and few wait
    for seed in 1..=5 {
        let mut world = World::new(Settings { seed, ..Settings::default() });
        world.health = Health::Refuses;
        world.run_until(10);
        // what the site was asked before it died is behind, and its capacity is nothing
        for _ in 0..40 {
            world.add(Kind::Honest);
        }
        world.run_until(70);
        let crowd: Vec<usize> = (0..30).map(|_| world.add(Kind::Honest)).collect();
        world.run_until(130);
        world.revive();
        world.run_until(190);
        let full = crowd.iter().filter(|&&visitor| world.visitors[visitor].entered.is_some()).count();
        assert_eq!(full, 30, "{seed}: let in within a minute of the return");
    }
}

#[test]
fn a_silent_site_without_capacity_gets_one_newcomer_in_five_seconds() {
    let gate = gate(16, "");
    // a minute in which every slot hung
    let hung = |second: f64| Site { in_flight: 16, servers: 1, usage: Usage { counted_s: 16.0 * second, ..Usage::default() }, queued: 0 };
    for second in 1..=70_u32 {
        gate.tick(&hung(f64::from(second)), at(u64::from(second)));
    }
    let silent = Site { in_flight: 0, ..hung(70.0) };
    let mut let_in = 0;
    for second in 71..=170 {
        let_in += drain(&gate, 5, second);
        gate.tick(&silent, at(second));
    }
    assert!((18..=20).contains(&let_in), "{let_in}");
}

#[test]
fn what_is_remembered_is_the_capacity_from_the_first_second() {
    let remembered = Remembered { capacity: Some(CAPACITY), ..Remembered::default() };
    let settings = Settings { arrivals: vec![(60, 30.0)], ..Settings::default() };
    let mut cold = World::new(settings.clone());
    let mut warm = World::new(Settings { remembered, ..settings });
    cold.run_until(1);
    warm.run_until(1);
    assert_eq!((cold.seconds[0].tokens, warm.seconds[0].tokens), (16, 100));
    assert_eq!(warm.gate.remembered().capacity.map(|capacity| capacity > 0.0), Some(true));
    assert_eq!(warm.seconds[0].diverted, 0);
}

#[test]
fn fifty_thousand_stretch_the_epoch_to_what_they_need_and_no_further() {
    let mut crowd = Crowd50k::new();
    crowd.run(150);
    let lengths: Vec<u64> = crowd.epochs.iter().map(|epoch| epoch.as_secs()).collect();
    println!("epochs: {lengths:?}, asked a second: {:?}", crowd.asked);
    assert!(lengths.iter().all(|&length| length <= 60) && *lengths.last().unwrap() >= 25, "{lengths:?}");
    let changes = lengths.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 3, "{lengths:?}");
    // spread over the epoch: no second has twice its share
    let late = &crowd.asked[110..];
    let mean = late.iter().sum::<usize>() / late.len();
    assert!(*late.iter().max().unwrap() < 2 * mean && mean < 2500, "{late:?}");
    // and is counted as it is
    let waiting = crowd.gate.regime().waiting;
    assert!((40_000..=60_000).contains(&waiting), "{waiting}");
}

/// A crowd that came within five seconds, before a gate that lets nobody in: each comes back when told to.
struct Crowd50k {
    gate: Gate,
    /// By the second in which they come.
    due: HashMap<u64, Vec<(Option<Ticket>, u64)>>,
    epochs: Vec<Duration>,
    asked: Vec<usize>,
}

impl Crowd50k {
    fn new() -> Self {
        let mut due: HashMap<u64, Vec<(Option<Ticket>, u64)>> = HashMap::new();
        for visitor in 0..50_000_u64 {
            let entropy = visitor.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            due.entry(1 + visitor % 5).or_default().push((None, entropy));
        }
        Self { gate: gate(16, "admission: { mode: fixed, probability: 0 }"), due, epochs: Vec::new(), asked: Vec::new() }
    }

    fn run(&mut self, seconds: u64) {
        for second in 1..=seconds {
            let here = self.due.remove(&second).unwrap_or_default();
            self.asked.push(here.len());
            for (index, (ticket, entropy)) in here.into_iter().enumerate() {
                let offset = Duration::from_micros(u64::try_from(index).unwrap() % 1_000_000);
                let mut now = at(second);
                now.mono = now.mono.plus(offset);
                now.wall = now.wall.plus(offset);
                let decision = self.gate.decide(0, &self.gate.regime(), &visit(ticket, entropy), now);
                assert!(!decision.enters());
                let told = decision.retry_after;
                let back = second + (told.as_secs() + u64::from(told.subsec_nanos() > 0)).max(1);
                self.due.entry(back).or_default().push((decision.set_ticket.or(ticket), entropy));
            }
            self.gate.tick(&Site { servers: 1, ..Site::default() }, at(second + 1));
            self.epochs.push(self.gate.regime().epoch);
        }
    }
}

#[test]
fn sites_of_one_slot_and_of_a_hundred_thousand_do_not_stop() {
    for (slots, pages, service_s, rate) in [(1, 3, 1.0, 1.0), (100_000, 3, 0.5, 300.0)] {
        let mut world = World::new(Settings { slots, pages, service_s, arrivals: vec![(30, rate)], ..Settings::default() });
        world.run_until(200);
        let entered = world.visitors.iter().filter(|visitor| visitor.entered.is_some()).count();
        println!("{slots} slots: {entered} of {}", world.visitors.len());
        assert!(entered * 10 >= world.visitors.len() * 9, "{slots}: {entered} of {}", world.visitors.len());
    }
}

/// So many winners ask in a second; returns how many get in.
fn drain(gate: &Gate, winners: u64, second: u64) -> u32 {
    let now = at(second);
    (0..winners)
        .map(|winner| {
            let ticket = Ticket { id: VisitorId(1000 * second + winner), issued: now.wall, seen: now.wall, won: true };
            u32::from(gate.decide(0, &gate.regime(), &visit(Some(ticket), winner), now).enters())
        })
        .sum()
}
