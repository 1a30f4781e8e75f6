//! Who gets in when: nobody gains by asking more often, or by keeping less.

use super::world::{Kind, Random, Settings, WALL, World, keys};
use crate::rules::draw::{self, Epoch};
use crate::rules::token::VisitorId;
use std::time::Duration;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn explore_crowd() {
    let kinds = vec![Kind::Honest, Kind::Honest, Kind::Honest, Kind::Honest, Kind::Reloader, Kind::Honest, Kind::Churner, Kind::Honest];
    for seed in 1..=2 {
        for yaml in ["waiting_room: { refresh: 10s }", "waiting_room: { refresh: 60s }"] {
            let mut world =
                World::new(Settings { seed, pages: 1, yaml, arrivals: vec![(30, 300.0)], kinds: kinds.clone(), ..Settings::default() });
            world.run_until(400);
            for kind in [Kind::Honest, Kind::Reloader, Kind::Churner] {
                let waits = world.waits(kind);
                let all = world.visitors.iter().filter(|v| v.kind == kind).count();
                println!("{yaml} {kind:?} {} of {all}: mean {:.2}", waits.len(), mean(&waits));
            }
        }
    }
}

#[test]
fn explore_pure() {
    let keys = keys(3);
    for (length, p) in [(10u64, 0.02), (10, 0.1), (60, 0.02), (60, 0.1)] {
        let e = Duration::from_secs(length);
        let mut random = Random(9);
        let (mut h, mut r, mut c) = (vec![], vec![], vec![]);
        for _ in 0..3000 {
            let start = WALL.plus(Duration::from_secs_f64(random.unit() * 600.0));
            let id = VisitorId(random.bits());
            let won = |id: VisitorId, issued, now| {
                let epoch = Epoch::of(now, e, keys.phase(id));
                draw::Stake::of(epoch, issued, now)
                    .is_ok_and(|stake| draw::wins(keys.draw(id, epoch.began.as_millis()), p, stake.weight(issued)))
            };
            let mut now = start.plus(Duration::from_secs(2));
            while !won(id, start, now) {
                let ends = Epoch::of(now, e, keys.phase(id)).ends.since(now).as_secs_f64().ceil();
                now = now.plus(Duration::from_secs_f64(ends.max(1.0)));
            }
            h.push(now.since(start).as_secs_f64());
            let mut now = start.plus(Duration::from_secs(2));
            while !won(id, start, now) {
                now = now.plus(e / 10);
            }
            r.push(now.since(start).as_secs_f64());
            let mut now = start;
            loop {
                let id = VisitorId(random.bits());
                let issued = now;
                now = now.plus(Duration::from_secs(2));
                if won(id, issued, now) {
                    break;
                }
            }
            c.push(now.since(start).as_secs_f64());
        }
        println!("{length} {p}: honest {:.1} reload ratio {:.3} churn ratio {:.3}", mean(&h), mean(&r) / mean(&h), mean(&c) / mean(&h));
    }
}
