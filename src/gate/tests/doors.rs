//! The other doors: modes, reloads, routes, and clocks that jump.

use super::super::*;
use super::world::{Settings, WALL, World, at, gate, policy, policy_of, visit};
use crate::rules::limit::Limit;
use crate::rules::timings::Timings;

const SITE: Site =
    Site { in_flight: 0, queued: 0, servers: 1, usage: Usage { counted_s: 0.0, uncounted_s: 0.0, over_s: 0.0, timings: Timings::NONE } };

fn by_hand(mode: Mode, until: Option<u64>) -> Option<ByHand> {
    Some(ByHand { mode, until: until.map(|until| at(until).wall) })
}

/// A crowd of 3 times what the site can take, two minutes old.
fn crowd(yaml: &'static str) -> World {
    let mut world = World::new(Settings { arrivals: vec![(400, 30.0)], yaml, ..Settings::default() });
    world.run_until(180);
    world
}

// modes

#[test]
fn closed_lets_nobody_new_in_and_keeps_those_who_are() {
    let mut world = crowd("");
    world.gate.set_mode(by_hand(Mode::Closed, Some(240)), world.now());
    world.run_until(239);
    let admitted: u32 = world.between(180, 239).map(|second| second.admitted).sum();
    assert_eq!(admitted, 0);
    assert!(world.between(182, 239).all(|second| second.answered > 0), "those inside go on");
    let before = world.seconds.last().unwrap().clone();
    assert!(before.regime.limiting && before.regime.waiting > before.crowd as u64 * 8 / 10, "the crowd is still counted");
    world.run_until(300);
    assert!(world.seconds.iter().any(|second| second.report.mode_ended), "it ends by itself");
    // and nobody has won in the meantime for want of a count
    for second in world.between(240, 300) {
        assert!(second.admitted <= second.tokens && second.regime.probability() < 1.0 || second.at_s < 240.0, "{}", second.at_s);
        assert!(second.regime.held < 3.0 * CAPACITY, "{} winners wait at {}", second.regime.held, second.at_s);
    }
}

const CAPACITY: f64 = 100.0;

#[test]
fn open_lets_everyone_in_with_a_pass_and_ends_by_itself() {
    let gate = gate(16, "");
    gate.set_mode(by_hand(Mode::Open, Some(10)), at(1));
    for entropy in 0..1000 {
        let decision = gate.decide(0, &gate.regime(), &visit(None, entropy), at(2));
        assert!(decision.enters() && decision.reason == Reason::ModeOpen && decision.set_pass.is_some());
    }
    assert_eq!(gate.tick(&SITE, at(9)), Report::default());
    assert!(gate.tick(&SITE, at(10)).mode_ended);
    assert_eq!(gate.regime().mode, ModeInForce { mode: Mode::Auto, by_hand: None });
    assert_eq!(gate.remembered().by_hand, None);
}

#[test]
fn invitations_see_who_waits_and_the_invited_find_room_only_where_nobody_is_turned_away() {
    let world = crowd("");
    let (gate, now) = (&world.gate, world.now());
    let sight = gate.regime().sight();
    assert!(sight.waiting && sight.load > 0.8 && sight.asked > 0.8 * sight.requests, "{sight:?}");
    assert!((80.0..120.0).contains(&sight.requests), "{sight:?}");
    assert!(!gate.regime().has_room_for_invited());
    gate.set_mode(by_hand(Mode::Closed, None), now);
    assert!(gate.regime().sight().mode == Mode::Closed && !gate.regime().has_room_for_invited());
    for mode in [Mode::Open, Mode::Observe] {
        gate.set_mode(by_hand(mode, None), now);
        assert!(!gate.regime().sight().waiting && gate.regime().has_room_for_invited(), "{mode:?}");
    }
    gate.set_mode(by_hand(Mode::Fixed(0.1), None), now);
    let regime = gate.regime();
    assert!(regime.sight().waiting, "whom the operator holds back waits");
    assert_eq!(regime.has_room_for_invited(), regime.law.newcomers > 0.0 && regime.law.load < 1.0, "and may be invited none the less");

    let idle = gate_of_nobody();
    let sight = idle.regime().sight();
    assert!(!sight.waiting && sight.load.abs() < 1e-12 && (sight.requests - 16.0).abs() < 1e-9 && idle.regime().has_room_for_invited());
}

fn gate_of_nobody() -> Gate {
    let gate = gate(16, "");
    for second in 1..100 {
        gate.tick(&SITE, at(second));
    }
    gate
}

#[test]
fn the_requests_of_a_visit_are_of_those_who_were_admitted() {
    let gate = gate(16, "");
    let request = |pass: Pass, second| gate.decide(0, &gate.regime(), &Visit { pass: Some(pass), ..visit(None, 0) }, at(second));
    let per_visit = || gate.regime().sight().requests_per_visit;
    assert!((per_visit() - 10.0).abs() < 1e-9, "a belief, as long as nobody has come");
    for second in 1..2000 {
        let admitted = gate.decide(0, &gate.regime(), &visit(None, second), at(second)).set_pass.unwrap();
        // the invited are many, and nobody knows how many of these requests began a visit
        let invited = Pass { kind: PassKind::Invited, ..Pass::admitted(VisitorId(second << 32), at(second).wall) };
        for pass in [&[admitted; 2][..], &[invited; 9]].concat() {
            request(pass, second);
        }
        gate.tick(&SITE, at(second));
    }
    // all 12 requests of a second over its two visitors who come back
    assert!((3.0..=6.2).contains(&per_visit()), "{}", per_visit());
}

#[test]
fn fixed_lets_in_the_operators_share_of_each_epoch() {
    let gate = gate(16, "admission: { mode: fixed, probability: 0.25 }");
    let (mut won, drawn) = (0, 4000);
    for id in 0..drawn {
        // two hours of waiting make no difference
        let ticket = Ticket { id: VisitorId(id), issued: WALL.minus(Duration::from_secs(7200)), seen: WALL, won: false };
        won += u32::from(gate.decide(0, &gate.regime(), &visit(Some(ticket), 0), at(1)).enters());
    }
    assert!((900..1100).contains(&won), "{won} of {drawn}");
    assert!(!gate.decide(0, &gate.regime(), &visit(None, 1), at(1)).enters(), "without a ticket nobody draws");
}

#[test]
fn observe_counts_and_diverts_nobody() {
    let mut world = World::new(Settings { arrivals: vec![(120, 30.0)], yaml: "admission: { mode: observe }", ..Settings::default() });
    world.run_until(120);
    assert!(world.seconds.iter().all(|second| second.diverted == 0));
    assert!(world.visitors.iter().filter(|visitor| visitor.arrived < 119_000_000).all(|visitor| visitor.entered.is_some()));
    assert!(world.seconds.last().unwrap().regime.limiting, "and says what it would do");
    assert!(world.seconds.last().unwrap().regime.probability() < 1.0);
}

#[test]
fn observe_takes_only_those_who_would_be_inside_for_inside() {
    let gate = gate(1, "admission: { mode: observe }");
    gate.tick(&SITE, at(1));
    let enter = |entropy| gate.decide(0, &gate.regime(), &visit(None, entropy), at(1));
    let first = enter(1);
    assert!(first.verdict == Verdict::Admit && first.observed && first.set_pass.is_some() && first.newcomer);
    // a site of one slot is taken to answer one request a second: the others would wait, and go to the site with a ticket
    for entropy in 2..=1000 {
        let decision = enter(entropy);
        let is = (decision.verdict, decision.enters(), decision.set_pass.is_some(), decision.set_ticket.is_some(), decision.counts);
        assert!(is == (Verdict::Wait, true, false, true, true) || entropy < 4, "{entropy}: {decision:?}");
    }
    gate.tick(&SITE, at(2));
    let regime = gate.regime();
    let told = regime.rehearsed.unwrap();
    assert!(told.asked > 100.0 && told.queued < 5.0 && told.has_line(), "{told:?}");
    assert!(regime.law.newcomers <= 1.0 && regime.limiting && regime.limit() == Limit::Committed, "{:?} {:?}", regime.law, regime.limit());
    assert_eq!(gate.decide(0, &regime, &visit(None, 5000), at(2)).verdict, Verdict::Wait);
}

#[test]
fn observe_sheds_and_refuses_nobody_and_tells_who_would_have_been() {
    let gate = gate(1, "admission: { mode: observe }\nsession: { rate: 60 }");
    gate.tick(&SITE, at(1));
    let pass = |id| Some(Pass::admitted(VisitorId(id), WALL));
    let ask = |id, second| gate.decide(0, &gate.regime(), &Visit { pass: pass(id), ..visit(None, 0) }, at(second));
    let often: Vec<_> = (0..200).map(|_| ask(1, 1)).collect();
    assert!(often.iter().all(|decision| decision.enters() && decision.observed && !decision.sheds));
    assert!(often[0].too_often.is_none() && often[199].too_often.is_some());
    for id in 2..50 {
        assert!(ask(id, 1).too_often.is_none());
    }
    gate.tick(&SITE, at(2));
    let late = ask(60, 2);
    assert!(late.sheds && late.enters() && late.verdict == Verdict::Admit, "fifty requests a second for a site of one: {late:?}");
    // a mode that holds back ends the rehearsal, whether it is set or comes back by itself
    gate.set_mode(by_hand(Mode::Auto, Some(4)), at(2));
    assert!(gate.regime().rehearsed.is_none());
    let held = ask(61, 2);
    assert!(!held.sheds && !held.observed, "{held:?}");
    gate.tick(&SITE, at(4));
    gate.tick(&SITE, at(5));
    assert!(gate.regime().observes() && gate.regime().rehearsed.is_some());
    gate.set_mode(by_hand(Mode::Observe, Some(6)), at(5));
    let regime = gate.regime.load_full();
    gate.publish(policy(1, ""), Arc::clone(&regime.keys), Arc::clone(&regime.pages), at(5));
    gate.tick(&SITE, at(6));
    assert!(!gate.regime().observes() && gate.regime().rehearsed.is_none());
}

// the limit that is told, and the one that is found

#[test]
fn a_limit_that_is_told_is_neither_judged_nor_remembered_and_is_where_the_search_begins() {
    let busy = |second: u64, in_flight: f64| {
        let mut timings = Timings::NONE;
        (0..100 * second).for_each(|_| timings.add(0.01, in_flight));
        let counted_s = in_flight * f64::from(u32::try_from(second).unwrap());
        Site { in_flight: 16, usage: Usage { counted_s, timings, ..Usage::default() }, ..SITE }
    };
    let gate = gate(16, "");
    for second in 1..=60 {
        gate.tick(&busy(second, 16.0), at(second));
        assert_eq!(gate.regime().server_limit, ServerLimit::told(16));
    }
    assert_eq!(gate.remembered().max_in_flight, None);

    let reload = |upstream: &str, second| {
        let regime = gate.regime.load_full();
        let text = format!("upstream: {{ servers: [http://127.0.0.1:3000], {upstream} }}");
        gate.publish(policy_of(&text), Arc::clone(&regime.keys), Arc::clone(&regime.pages), at(second));
    };
    reload("max_in_flight: auto", 60);
    assert_eq!((gate.regime().server_limit.per_server, gate.remembered().max_in_flight), (16, Some(16)));
    let tried = (61..120).map(|second| {
        gate.tick(&busy(second, 16.0), at(second));
        gate.regime().server_limit.per_server
    });
    assert!(tried.into_iter().any(|limit| limit > 16), "a larger one is tried");
    reload("max_in_flight: 6", 120);
    assert_eq!((gate.regime().server_limit, gate.remembered().max_in_flight), (ServerLimit::told(6), None));
}

#[test]
fn a_draw_can_be_retold_by_what_a_decision_says_of_it() {
    let world = crowd("");
    let regime = world.gate.regime.load_full();
    let (mut won, mut lost) = (0, 0);
    for id in 0..3000_u64 {
        let ticket = Ticket { id: VisitorId(id.wrapping_mul(0x9e37_79b9_7f4a_7c15)), issued: at(60).wall, seen: at(178).wall, won: false };
        let decision = world.gate.decide(0, &regime, &visit(Some(ticket), id), world.now());
        let drawn = decision.drawn.unwrap();
        assert!((0.0..1.0).contains(&drawn.draw) && drawn.probability < 1.0 && drawn.weight >= 2.0, "{drawn:?}");
        let wins = drawn.draw < drawn.probability * drawn.weight;
        assert_eq!(wins, matches!(decision.reason, Reason::Drew | Reason::NoToken), "{decision:?}");
        *(if wins { &mut won } else { &mut lost }) += 1;
    }
    assert!(won > 0 && lost > 0, "{won} {lost}");
    let none = world.gate.decide(0, &regime, &visit(None, 9), world.now());
    assert!(none.drawn.is_none() && none.newcomer, "without a ticket nobody draws");
}

// routes and passes

#[test]
fn a_request_is_counted_by_the_age_of_its_pass_and_routes_without_signal_say_nothing() {
    let gate = gate(16, "");
    for second in 1..=100 {
        gate.tick(&SITE, at(second));
    }
    let ask = |issued: Now, signal| {
        let visit = Visit { pass: Some(Pass::admitted(VisitorId(issued.mono.as_micros()), issued.wall)), signal, ..visit(None, 0) };
        gate.decide(0, &gate.regime(), &visit, at(100))
    };
    assert!(ask(at(100), true).counts && ask(at(97), true).counts && ask(at(41), true).counts && ask(at(40), true).counts);
    assert!(!ask(at(96), false).counts);
    let seen = &gate.seen[0];
    let counted: Vec<usize> = (0..AGES).filter(|&age| seen.by_age[age].load(Ordering::Relaxed) == 1).collect();
    assert_eq!((counted, seen.returning.load(Ordering::Relaxed)), (vec![0, 3, 59], 1));
}

#[test]
fn a_pass_of_before_the_clock_was_set_back_is_returning() {
    let gate = gate(16, "");
    let visit = Visit { pass: Some(Pass::admitted(VisitorId(1), at(86_400).wall)), ..visit(None, 0) };
    assert!(gate.decide(0, &gate.regime(), &visit, at(10)).enters());
    assert_eq!(gate.seen[0].returning.load(Ordering::Relaxed), 1);
}

// reloads

#[test]
fn a_reload_keeps_odds_tokens_and_the_crowd() {
    let world = crowd("");
    let before = world.gate.regime.load_full();
    let tokens = world.gate.tokens.load(Ordering::Relaxed);
    let policy = policy(16, "waiting_room: { status: 200 }");
    world.gate.publish(policy, Arc::clone(&before.keys), Arc::clone(&before.pages), world.now());
    let after = world.gate.regime.load_full();
    assert!((after.probability() - before.probability()).abs() < 1e-12 && after.epoch == before.epoch);
    assert_eq!((after.waiting, after.law, after.limiting), (before.waiting, before.law, before.limiting));
    assert_eq!(world.gate.tokens.load(Ordering::Relaxed), tokens);
    assert_eq!(after.policy.waiting_room.status, 200);
}

#[test]
fn another_refresh_interval_keeps_the_crowd_and_its_places() {
    for yaml in ["waiting_room: { refresh: 2s, refresh_max: 5s }", "waiting_room: { refresh: 60s, refresh_max: 600s }"] {
        let mut world = crowd("");
        let regime = world.gate.regime.load_full();
        world.gate.publish(policy(16, yaml), Arc::clone(&regime.keys), Arc::clone(&regime.pages), world.now());
        world.run_until(280);
        for second in world.between(180, 280) {
            assert!(second.admitted <= second.tokens && second.regime.probability() < 0.5, "{yaml}: {}", second.regime.probability());
            #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
            let share = second.regime.waiting as f64 / second.crowd as f64;
            assert!((0.4..=2.0).contains(&share), "{yaml}: {share} at {}", second.at_s);
        }
    }
}

#[test]
fn a_lower_refresh_max_voids_no_ticket_of_who_was_told_to_come_back_later() {
    let gate = gate(16, "");
    let regime = gate.regime.load_full();
    let lower = |seconds: u64| {
        let yaml = format!("waiting_room: {{ refresh: 5s, refresh_max: {seconds}s }}");
        gate.publish(policy(16, &yaml), Arc::clone(&regime.keys), Arc::clone(&regime.pages), at(1000 - seconds));
    };
    lower(20);
    lower(5);
    let ticket = Ticket { id: VisitorId(1), issued: at(990).wall, seen: at(990).wall, won: false };
    let void = |second| gate.decide(0, &gate.regime(), &visit(Some(ticket), 0), at(second)).ticket_void;
    assert!(!void(1050), "60 seconds was the longest that it could have been told");
    assert!(void(1170), "three times that is over");
}

// clocks

#[test]
fn a_late_tick_lets_no_crowd_in() {
    let mut world = crowd("");
    world.ticker_stalls_until = 240_000_000;
    world.run_until(300);
    let late = world.seconds.iter().position(|second| second.at_s > 230.0).unwrap();
    // the late tick itself is worth two seconds, and not the minute that it was late
    for second in &world.seconds[late..] {
        assert!(second.admitted <= second.tokens && second.tokens <= 250, "{} tokens at {}", second.tokens, second.at_s);
        assert!(second.regime.probability() < 1.0, "at {}", second.at_s);
    }
    let end = world.seconds.last().unwrap();
    assert!(end.regime.law.capacity > 80.0 && end.regime.law.capacity < 125.0, "{}", end.regime.law.capacity);
}

#[test]
fn a_machine_that_stood_still_lets_no_crowd_in_and_is_itself_again_in_seconds() {
    // neither visitors nor the site got anywhere, and all clocks went on
    let gate = gate(16, "");
    let mut used = 0.0;
    let mut second = 0;
    let mut tick = |good: u32, slept: u64| {
        second += 1 + slept;
        used += 16.0 * (1.0 + slept as f64);
        for id in 0..500 {
            let ticket = Ticket { id: VisitorId(id), issued: WALL, seen: at(second - 1).wall, won: false };
            gate.decide(0, &gate.regime(), &visit(Some(ticket), id), at(second));
        }
        (0..good).for_each(|_| gate.answered(0, true));
        let usage = Usage { counted_s: used, ..Usage::default() };
        gate.tick(&Site { in_flight: 16, queued: 20, servers: 1, usage }, at(second));
        (gate.regime.load_full(), gate.tokens.load(Ordering::Relaxed))
    };
    for _ in 0..20 {
        tick(100, 0);
    }
    let (after, tokens) = tick(100, 60);
    assert!(tokens <= 200 && after.probability() < 1.0, "{tokens} {}", after.probability());
    let later: Vec<f64> = (0..8).map(|_| tick(100, 0).0.law.capacity).collect();
    assert!(later[6] > 90.0, "{later:?}");
}

#[test]
fn a_wall_clock_that_jumps_by_a_day_loses_nobody() {
    for (shift_ms, doubt) in [(86_400_000, Duration::from_secs(86_400)), (-86_400_000, Duration::ZERO)] {
        let mut world = crowd("");
        (world.wall_shift_ms, world.doubt) = (shift_ms, doubt);
        let tickets: Vec<(usize, VisitorId)> =
            world.visitors.iter().enumerate().filter_map(|(index, visitor)| Some((index, visitor.ticket?.id))).collect();
        world.run_until(380);
        for (index, id) in tickets {
            let visitor = &world.visitors[index];
            assert!(visitor.entered.is_some() || visitor.ticket.unwrap().id == id, "{shift_ms}: {index} has lost its place");
        }
        for second in world.between(180, 380) {
            assert!(second.admitted <= second.tokens && second.tokens < 60, "{shift_ms}: {} at {}", second.tokens, second.at_s);
        }
        let admitted: u32 = world.between(200, 380).map(|second| second.admitted).sum();
        println!("clock set by {shift_ms} ms: {admitted} admitted in the 180 s after");
        assert!(admitted > 1200, "{shift_ms}: {admitted}");
        // a ticket is renewed in the browser for as long as it is shown
        let now = world.now().wall;
        let waiting = world.visitors.iter().filter(|visitor| visitor.entered.is_none()).filter_map(|visitor| visitor.ticket);
        let stale = waiting.filter(|ticket| ticket.seen > now || now.since(ticket.seen) > Duration::from_secs(130)).count();
        assert_eq!(stale, 0, "{shift_ms}");
    }
}

#[test]
fn policies_at_their_bounds_do_not_stop_the_ticker() {
    for yaml in [
        "admission: { queue_wait: 10s, probe_rate: 100 }\nwaiting_room: { refresh: 1s, refresh_max: 1s }\nsession: { active: 1s, rate: 1 }",
        "admission: { queue_wait: 1ms, probe_rate: 0.001 }\nwaiting_room: { refresh: 600s, refresh_max: 600s }\nsession: { rate: 1000000 }",
    ] {
        for slots in [1, 100_000] {
            let gate = gate(slots, yaml);
            let extremes = [0.0, 1e-9, 1e9, f64::MAX];
            let mut now = at(0);
            for (index, step) in [1, 1, 60, 86_400, 1, 31_536_000, 1].into_iter().enumerate() {
                now.mono = now.mono.plus(Duration::from_secs(step));
                now.wall = UnixTime::from_secs([0, 1, 4_000_000_000][index % 3]);
                let usage = Usage {
                    counted_s: extremes[index % 4],
                    uncounted_s: extremes[(index + 1) % 4],
                    over_s: extremes[(index + 2) % 4],
                    ..Usage::default()
                };
                gate.seen[0].good.store(u32::MAX, Ordering::Relaxed);
                gate.seen[0].answers.store(u32::MAX, Ordering::Relaxed);
                gate.tick(&Site { in_flight: u32::MAX, queued: usize::MAX, servers: [0, u32::MAX][index % 2], usage }, now);
                let regime = gate.regime.load_full();
                let law = regime.law;
                for value in [law.capacity, law.load, law.newcomers, law.committed, law.requests_per_newcomer, regime.probability()] {
                    assert!(!value.is_nan() && value >= 0.0, "{law:?}");
                }
                for entropy in 0..50 {
                    let ticket = Ticket { id: VisitorId(entropy), issued: now.wall, seen: now.wall, won: entropy % 2 == 0 };
                    let decision = gate.decide(0, &regime, &visit((entropy % 3 == 0).then_some(ticket), entropy), now);
                    assert!(decision.retry_after <= Duration::from_secs(601), "{decision:?}");
                }
                assert!(gate.appointment(&regime, now.mono) <= Duration::from_secs(60));
            }
        }
    }
}

#[test]
fn nobody_is_told_to_come_back_with_the_others() {
    let world = crowd("");
    let regime = world.gate.regime.load_full();
    let mut seconds = [0_u32; 10];
    for id in 0..5000_u64 {
        let id = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ticket = Ticket { id: VisitorId(id), issued: WALL, seen: world.now().wall, won: false };
        let decision = world.gate.decide(0, &regime, &visit(Some(ticket), id), world.now());
        if decision.reason == Reason::NotDrawn {
            seconds[usize::try_from(decision.retry_after.as_millis() / 1000).unwrap().min(9)] += 1;
        }
    }
    assert!(seconds[1..].iter().all(|&count| (350..=1100).contains(&count)), "{seconds:?}");
}

#[test]
fn who_guesses_codes_is_told_to_wait_and_nobody_else() {
    let gate = gate(8, "");
    let client = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let minute = |n: u64| Moment::from_secs(60 * n);
    for _ in 0..10 {
        assert_eq!(gate.may_guess(client(1), minute(1)), Ok(()));
        gate.guessed(client(1), minute(1));
    }
    assert_eq!(gate.may_guess(client(1), minute(1)), Err(Duration::from_secs(6)));
    assert_eq!(gate.may_guess(client(2), minute(1)), Ok(()));
    assert_eq!(gate.may_guess(client(1), minute(1).plus(Duration::from_secs(6))), Ok(()));
    // from everywhere at once: who has not guessed may still type a code in, and who has must wait
    for n in 100..200 {
        gate.guessed(client(n), minute(9));
    }
    assert_eq!(gate.may_guess(client(2), minute(9)), Ok(()));
    assert!(gate.may_guess(client(150), minute(9)).is_err());
    assert_eq!(gate.may_guess(client(150), minute(11)), Ok(()));
}

#[test]
fn tickets_for_who_is_invited_count_as_tickets_do() {
    let gate = gate(8, "limits: { tickets_per_client: 30 }");
    let regime = gate.regime.load_full();
    let given = (0..100).filter(|&n| gate.ticket(&regime, 7, n, at(1)).is_some()).count();
    assert_eq!(given, 20);
    let ticket = gate.ticket(&regime, 8, 5, at(1)).unwrap();
    assert_eq!((ticket.id, ticket.seen, ticket.won), (VisitorId(5), at(1).wall, false));
}
