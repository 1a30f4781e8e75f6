//! Surges, failures and recoveries.

use super::world::{Health, Kind, Settings, World};

#[test]
fn explore() {
    for factor in [0.5, 3.0, 10.0] {
        let arrivals = vec![(60, 5.0), (240, 10.0 * factor)];
        let start = std::time::Duration::ZERO;
        let mut world = World::new(Settings { arrivals, ..Settings::default() });
        world.run_until(300);
        let _ = (start, Health::Up, Kind::Honest);
        for second in world.seconds.iter().filter(|s| (s.at_s as u64) % 15 == 0 || (s.at_s > 58.0 && s.at_s < 75.0)) {
            println!(
                "{factor} {:5.0} p {:.3} C {:.0} R {:.0} A {:.1} k {:.2} adm {} tok {} div {} ans {} shed {} wait {} crowd {} held {} epoch {:?} lim {} active {} {:?}",
                second.at_s,
                second.regime.probability(),
                second.regime.law.capacity,
                second.regime.law.committed,
                second.regime.law.newcomers,
                second.regime.law.requests_per_newcomer,
                second.admitted,
                second.tokens,
                second.diverted,
                second.answered,
                second.shed,
                second.regime.waiting,
                second.crowd,
                second.regime.held,
                second.regime.epoch,
                second.regime.limiting,
                second.regime.active,
                second.report.limiting
            );
        }
        let flips = world.seconds.iter().filter(|s| s.report.limiting.is_some()).count();
        println!("flips {flips}");
    }
}
