//! The order of arrival, on the gate: who is next, what moves the line, and what does not.

use super::super::*;
use super::world::{Kind, Settings, WALL, World, at, gate, keys, policy, visit};

const ARRIVAL: &str = "admission: { order: arrival }";

/// Three times what the site can take, from the first second on.
fn crowd(yaml: &'static str, seed: u64) -> World {
    let kinds = vec![Kind::Honest; 3].into_iter().chain([Kind::Reloader]).collect();
    World::new(Settings { arrivals: vec![(600, 30.0)], kinds, yaml, seed, ..Settings::default() })
}

/// By how many seconds someone who was let in before came later, at the most, of those who entered in this time and came after `from`.
fn inversion(world: &World, from: u64, entered: std::ops::Range<u64>) -> f64 {
    let mut entries: Vec<(u64, u64)> = world.visitors.iter().filter_map(|visitor| Some((visitor.entered?, visitor.arrived))).collect();
    entries.sort_unstable();
    let (mut newest, mut worst) = (0, 0);
    for (entry, arrived) in entries {
        if entered.contains(&(entry / 1_000_000)) && arrived >= from * 1_000_000 {
            worst = worst.max(newest.max(arrived) - arrived);
        }
        newest = newest.max(arrived);
    }
    Duration::from_micros(worst).as_secs_f64()
}

fn reload(world: &World, yaml: &str) {
    let regime = world.gate.regime.load_full();
    world.gate.publish(policy(16, yaml), Arc::clone(&regime.keys), Arc::clone(&regime.pages), world.now());
}

fn ticket(id: u64, issued: Now, seen: Now) -> Ticket {
    Ticket { id: VisitorId(id), issued: issued.wall, seen: seen.wall, won: false }
}

// who is next

#[test]
fn people_enter_in_the_order_in_which_they_came() {
    for seed in 1..=3 {
        let mut world = crowd(ARRIVAL, seed);
        world.run_until(400);
        let worst = inversion(&world, 0, 0..400);
        let goodput: u32 = world.between(100, 400).map(|second| second.answered).sum();
        println!("seed {seed}: inversion {worst:.1} s, {:.1} answers a second", f64::from(goodput) / 300.0);
        assert!(worst < 60.0, "{seed}: {worst}");
        assert!(f64::from(goodput) > 0.95 * 100.0 * 300.0, "{seed}: {goodput}");
        for second in &world.seconds {
            assert!(second.admitted <= second.tokens, "{} of {} at {}", second.admitted, second.tokens, second.at_s);
        }
        assert!(world.seconds.windows(2).all(|pair| pair[0].regime.line.line.at <= pair[1].regime.line.line.at), "it goes back");
    }
}

#[test]
fn reloading_buys_no_place() {
    let mut world = crowd(ARRIVAL, 4);
    world.run_until(500);
    let mean = |kind| {
        let waits = world.waits(kind);
        #[expect(clippy::cast_precision_loss, reason = "a count of a test")]
        (waits.iter().sum::<f64>() / waits.len() as f64, waits.len())
    };
    let ((honest, _), (reloading, count)) = (mean(Kind::Honest), mean(Kind::Reloader));
    println!("who waits {honest:.1} s, who reloads {reloading:.1} s");
    assert!(count > 500 && (reloading / honest - 1.0).abs() < 0.05, "{reloading} {honest}");
}

#[test]
fn the_answer_is_the_same_all_epoch_long() {
    let mut world = crowd(ARRIVAL, 5);
    world.run_until(120);
    // someone whom the line will pass within these ten seconds
    let regime = world.gate.regime.load_full();
    let issued = regime.line.line.at.time().plus(Duration::from_secs(1));
    let epoch = |id| draw::Epoch::of(world.now().wall, regime.epoch, regime.keys.phase(VisitorId(id)));
    let id = (1..).find(|&id| epoch(id).ends.since(world.now().wall) > Duration::from_secs(9)).unwrap();
    let ends = epoch(id).ends;
    let mine = Ticket { id: VisitorId(id), issued, seen: world.now().wall, won: false };
    let reached = |world: &World| {
        let regime = world.gate.regime.load_full();
        regime.line.has_reached(&regime, &regime.staked(mine, world.now().wall))
    };
    assert!(!reached(&world));
    for second in 121..=128 {
        world.run_until(second);
        assert!(!reached(&world), "{second}");
    }
    assert!(world.gate.regime.load().line.line.at > regime.position(&mine), "the line has passed it meanwhile");
    world.run_until(120 + ends.since(WALL.plus(Duration::from_secs(120))).as_secs() + 2);
    assert!(reached(&world), "and it is let in when it comes back as told");
}

#[test]
fn tickets_whose_holders_left_hold_nobody_up() {
    let mut world = crowd(ARRIVAL, 6);
    world.run_until(200);
    // everyone of the second hundred seconds goes, and the others have waited for nothing of them
    for visitor in world.visitors.iter_mut().filter(|visitor| visitor.entered.is_none() && visitor.arrived < 150_000_000) {
        visitor.kind = Kind::Gone;
    }
    world.run_until(240);
    let line = world.gate.regime.load().line.line.at.time();
    assert!(line > WALL.plus(Duration::from_secs(150)), "{line:?}");
    let admitted: u32 = world.between(215, 240).map(|second| second.admitted).sum();
    assert!(admitted > 150, "{admitted}");
}

#[test]
fn a_newcomer_enters_at_once_only_if_nobody_is_ahead() {
    let mut world = crowd(ARRIVAL, 7);
    let direct = |world: &World| {
        let regime = world.gate.regime.load_full();
        world.gate.decide(0, &regime, &visit(None, 1), world.now()).reason
    };
    world.run_until(3);
    assert_eq!(direct(&world), Reason::Room);
    world.run_until(120);
    assert_eq!(direct(&world), Reason::NoTicket);
    let place = world.gate.decide(0, &world.gate.regime.load_full(), &visit(None, 2), world.now()).place.unwrap();
    let waiting = world.seconds.last().unwrap().crowd as u64;
    assert!((waiting * 8 / 10..=waiting * 12 / 10).contains(&place.ahead), "{} of {waiting}", place.ahead);
    assert!(place.wait.is_some_and(|wait| wait > Duration::from_secs(30)), "{place:?}");
}

// what does not move the line

#[test]
fn replayed_cookies_move_no_line_and_take_no_place() {
    let gate = gate(16, ARRIVAL);
    let mut stood = Vec::new();
    for second in 1..=40 {
        gate.tokens.store(0, Ordering::Relaxed);
        for id in 0..1000 {
            let ticket = ticket(id, at(0), at(second - 1));
            // half of them are shown twenty times a second, and the others as the gate has told
            let copies = if id % 2 == 0 { 20 } else { u64::from(second % 10 == id % 10) };
            for copy in 0..copies {
                assert!(!gate.decide(0, &gate.regime(), &visit(Some(ticket), copy), at(second)).enters());
            }
        }
        // a site that takes one a second
        gate.tick(
            &Site { servers: 1, in_flight: 1, usage: Usage { counted_s: 0.0, uncounted_s: 0.0, ..Usage::default() }, ..Site::default() },
            at(second),
        );
        let regime = gate.regime.load_full();
        if second > 12 {
            assert!(regime.line.attending.count() <= 1050.0, "{second}: {}", regime.line.attending.count());
        }
        stood.push(regime.line.line.at);
    }
    // 40 may have entered, of a thousand who came in one grain
    let passed = stood.last().unwrap().grains() - Position::at(at(0).wall).grains();
    assert!(passed < 0.5, "{passed}");
}

#[test]
fn a_ticket_that_was_hoarded_is_void_and_one_thrown_away_costs_the_place() {
    let gate = gate(16, ARRIVAL);
    let hoarded = gate.decide(0, &gate.regime(), &visit(Some(ticket(1, at(0), at(0))), 9), at(181));
    assert!(hoarded.ticket_void && hoarded.reason != Reason::InTurn);
    let keys = keys(1);
    let position = |issued: Now| Position::of(issued.wall, keys.place(VisitorId(1)));
    assert!(position(at(0)) < position(at(200)));
}

// reloads, restarts and clocks

#[test]
fn a_change_of_order_keeps_every_place() {
    let mut world = crowd("", 8);
    world.run_until(200);
    let before: Vec<(usize, Ticket)> =
        world.visitors.iter().enumerate().filter_map(|(index, visitor)| Some((index, visitor.ticket?))).collect();
    let oldest = world.visitors.iter().filter(|visitor| visitor.entered.is_none()).map(|visitor| visitor.arrived).min().unwrap();
    reload(&world, ARRIVAL);
    let begun = world.gate.regime.load_full().line.line;
    assert!(!begun.open && begun.at.time().since(WALL) < Duration::from_micros(oldest) + Duration::from_secs(40), "{begun:?} {oldest}");
    world.run_until(400);
    // those who were reached by no draw go in by age; a winner of the lottery keeps the right to enter
    let young = world.visitors.iter().filter(|visitor| visitor.arrived > 200_000_000);
    let first_young = young.filter_map(|visitor| visitor.entered).min();
    let late = |entered: Option<u64>| first_young.is_some_and(|first| entered.is_none_or(|entered| entered > first + 60_000_000));
    let late = before.iter().filter(|(index, _)| late(world.visitors[*index].entered)).count();
    println!("{late} of {} old ones entered a minute after the first young one", before.len());
    assert_eq!(late, 0);
    for (index, ticket) in before {
        let now = world.visitors[index].ticket.unwrap();
        assert!((now.id, now.issued) == (ticket.id, ticket.issued), "{index} has another ticket");
    }

    reload(&world, "");
    let regime = world.gate.regime.load_full();
    assert!(regime.probability() < 0.5 && regime.place(&ticket(1, at(0), at(0)), TICK).is_none(), "{}", regime.probability());
    world.run_until(430);
    for second in world.between(400, 430) {
        assert!(second.admitted <= second.tokens && second.regime.probability() < 1.0, "at {}", second.at_s);
    }
}

#[test]
fn a_restart_keeps_the_line_and_opens_it_for_nobody() {
    let mut world = crowd(ARRIVAL, 9);
    world.run_until(200);
    let stood = world.gate.regime.load_full().line.line;
    let remembered = world.gate.remembered();
    assert_eq!(remembered.line.map(|line| line.at), Some(stood.at));
    world.restart(remembered);
    assert_eq!(world.gate.regime.load_full().line.line, stood);
    world.run_until(320);
    for second in world.between(200, 320) {
        assert!(!second.regime.line.line.open && second.regime.line.line.at >= stood.at, "at {}", second.at_s);
    }
    let worst = inversion(&world, 0, 200..320);
    println!("inversion over a restart: {worst:.1} s");
    assert!(worst < 60.0, "{worst}");
    assert!(world.between(215, 320).map(|second| second.answered).sum::<u32>() > 90 * 105);
}

#[test]
fn a_line_of_long_ago_holds_nobody_back() {
    let policy = policy(16, ARRIVAL);
    let pages = Arc::new(Pages::built_in().unwrap());
    let line = RememberedLine { at: Position::at(WALL.minus(Duration::from_secs(600))), clock: WALL.minus(Duration::from_secs(500)) };
    let remembered = Remembered { line: Some(line), ..Remembered::default() };
    let gate = Gate::new(policy, Arc::new(keys(1)), pages, remembered, 1, at(0));
    assert_eq!(gate.decide(0, &gate.regime(), &visit(None, 1), at(1)).reason, Reason::Room);
}

#[test]
fn a_clock_that_is_set_passes_nobody_over() {
    for shift_ms in [86_400_000, -86_400_000] {
        let mut world = crowd(ARRIVAL, 10);
        world.run_until(180);
        world.wall_shift_ms = shift_ms;
        world.doubt = Duration::from_millis(u64::try_from(shift_ms).unwrap_or(0));
        world.run_until(400);
        let worst = inversion(&world, 0, 180..400);
        let admitted: u32 = world.between(200, 400).map(|second| second.admitted).sum();
        println!("clock set by {shift_ms} ms: inversion {worst:.1} s, {admitted} admitted");
        assert!(worst < 60.0 && admitted > 1500, "{shift_ms}: {worst} {admitted}");
        assert!(world.seconds.windows(2).all(|pair| pair[0].regime.line.line.at <= pair[1].regime.line.line.at), "it goes back");
        let waited = world.visitors.iter().filter(|visitor| visitor.entered.is_none()).filter_map(|visitor| {
            let regime = world.gate.regime.load_full();
            Some((regime.waited(&visitor.ticket?, world.now().wall), visitor.arrived))
        });
        for (waited, arrived) in waited.filter(|_| shift_ms < 0) {
            let truly = Duration::from_micros(world.now_us - arrived);
            assert!(waited.abs_diff(truly) < Duration::from_secs(2), "{waited:?} {truly:?}");
        }
    }
}

// modes

#[test]
fn a_closed_line_stands_still_and_goes_on() {
    let mut world = crowd(ARRIVAL, 11);
    world.run_until(180);
    world.gate.set_mode(Some(ByHand { mode: Mode::Closed, until: Some(at(240).wall) }), world.now());
    let stood = world.gate.regime.load_full().line.line.at;
    world.run_until(239);
    assert!(world.between(182, 239).all(|second| second.regime.line.line.at == stood && second.admitted == 0));
    world.run_until(400);
    assert!(inversion(&world, 0, 240..400) < 60.0);
    assert!(world.between(250, 400).map(|second| second.admitted).sum::<u32>() > 1000);
}

#[test]
fn the_operators_odds_are_of_a_draw_whatever_the_order() {
    let gate = gate(16, "admission: { mode: fixed, probability: 0.25, order: arrival }");
    let enters = |id| gate.decide(0, &gate.regime(), &visit(Some(ticket(id, at(0), at(0))), 0), at(20)).enters();
    let won = (0..2000).filter(|&id| enters(id)).count();
    assert!((400..600).contains(&won), "{won}");
    assert!(gate.regime().place(&ticket(1, at(0), at(0)), TICK).is_none());
}
