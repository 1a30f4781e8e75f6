//! Virtual time: a model site and a model crowd around the very code that production runs ([`crate::gate`] and [`crate::rules`]). Hashed
//! draws, tickets, slots, deadlines and appointments are the real ones; sockets, headers and body buffers are left out.
//!
//! The same seed gives the same figures on any machine.

mod book;
pub mod figures;
mod front;
pub mod html;
pub mod invitations;
pub mod pairs;
mod plot;
pub mod report;
pub mod scenario;
mod site;
mod timeline;
mod told;
mod words;
mod world;

use crate::rules::policy::Policy;

use figures::Run;
use scenario::Scenario;

/// Runs a scenario once: with the gate, or bare. `policy` takes the place of what the scenario says of the gate.
///
/// # Errors
/// What is wrong with the policy that the scenario names.
pub fn run(scenario: &Scenario, policy: Option<&Policy>, seed: u64, with_gate: bool) -> Result<Run, String> {
    let front =
        || -> Result<_, String> { Ok(if with_gate { Some(front::Front::new(front::policy(scenario, policy)?, seed)?) } else { None }) };
    let (mut figures, seconds, plain) = world::run(scenario, front()?, seed, None);
    if scenario.crowd.pairs.0 > 0.0 && with_gate {
        // one after the other: where some throw their places away, all others gain
        let ahead = |trick| -> Result<_, String> {
            let (_, _, tried) = world::run(scenario, front()?, seed, Some(trick));
            Ok(pairs::ahead(&plain, &tried, trick))
        };
        figures.reloaders_ahead = ahead(pairs::Trick::Reload)?;
        figures.churners_ahead = ahead(pairs::Trick::Churn)?;
    }
    let (from_s, to_s) = scenario.measured();
    Ok(Run { scenario: scenario.name.clone(), about: scenario.about.clone(), seed, gate: with_gate, from_s, to_s, figures, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::time::Moment;

    /// A site of 4 workers, which a few minutes tell all about.
    fn small(more: &str) -> Scenario {
        let text =
            format!("- name: small\n  length: 6m\n  measure: {{ from: 2m, to: 5m }}\n  site: {{ workers: 4, service: 80ms }}\n{more}\n");
        scenario::parse(&text, "test").unwrap_or_else(|error| panic!("{error}")).remove(0)
    }

    const SURGE: &str = "  crowd: { pages: 6, think: 4s, arrivals: [{ at: 0s, load: 0.5 }, { at: 1m, load: 3 }, { at: 5m, load: 0.5 }] }";

    fn gated(scenario: &Scenario, seed: u64) -> Run {
        run(scenario, None, seed, true).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_figures_and_another_gives_others() {
        let scenario = small(SURGE);
        let text = |seed| serde_json::to_string(&gated(&scenario, seed)).unwrap();
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn a_surge_collapses_the_bare_site_and_not_the_gated_one() {
        let scenario = small(SURGE);
        let (with, without) = (gated(&scenario, 1), run(&scenario, None, 1, false).unwrap());
        assert!(with.figures.goodput > 0.9, "{:?}", with.figures);
        assert!(without.figures.goodput < 0.2, "{:?}", without.figures);
        assert_eq!((with.figures.sessions_failed, with.figures.diverted_inside), (0, 0));
        assert!((with.figures.in_time - with.figures.goodput).abs() < 0.01, "nothing was shed: {:?}", with.figures);
        assert!(with.figures.waited > 100 && with.figures.wait_p50_s > 5.0, "{:?}", with.figures);
        assert!(without.figures.sessions_failed > 0 && without.figures.waited == 0, "{:?}", without.figures);
        assert!(with.seconds.iter().all(|second| second.in_flight <= 4), "the gate holds its slots");
        assert!(without.seconds.iter().any(|second| second.in_flight > 200), "and nothing else does");
    }

    #[test]
    fn in_the_calm_everyone_is_served_and_nobody_waits() {
        let run = gated(&small("  crowd: { pages: 6, think: 4s, arrivals: [{ at: 0s, load: 0.5 }] }"), 3);
        assert_eq!((run.figures.waited, run.figures.shed), (0, 0));
        assert!((run.figures.goodput - 1.0).abs() < 0.05, "{:?}", run.figures);
        let answered: u32 = run.seconds.iter().map(|second| second.good + second.late).sum();
        let wanted: f64 = run.seconds.iter().map(|second| second.demand).sum();
        assert!((f64::from(answered) / wanted - 1.0).abs() < 0.05, "{answered} of {wanted}");
    }

    #[test]
    fn a_rehearsal_tells_what_holding_back_would_have_come_to() {
        // a site that is slow when it is full, and no worse than that: of one that breaks down nothing could be learned
        let more = |policy: &str| {
            format!(
                "- name: a\n  length: 50m\n  measure: {{ from: 30m, to: 50m }}\n  \
                 site: {{ workers: 4, service: 80ms, congestion: 0, threads: 1000000 }}\n  \
                 crowd: {{ patience: 24h, timeout: 24h, arrivals: [{{ at: 0s, load: 0.6 }}, {{ at: 30m, load: 1.8 }}, {{ at: 34m, load: 0.6 }}] }}\n  \
                 policy: '{policy}'\n"
            )
        };
        let run = |policy: &str| gated(&scenario::parse(&more(policy), "test").unwrap().remove(0), 1);
        let (held, observed) = (run(""), run("admission: { mode: observe }"));
        let figures = &observed.figures;
        assert_eq!((figures.waited, figures.shed, figures.too_often, figures.diverted_inside), (0, 0, 0, 0), "nobody is diverted");
        assert!(observed.seconds.iter().all(|second| second.diverted == 0 && second.queued == 0));

        let (would, did) = (f64::from(figures.would_wait), f64::from(held.figures.waited));
        assert!((would / did - 1.0).abs() < 0.15, "{would} would have been shown the waiting room, and {did} were");
        // five visitors a second can be served
        let waits = |run: &Run, of: fn(&figures::Second) -> f64| run.seconds.iter().map(of).fold(0.0, f64::max);
        let (would, did) = (waits(&observed, |second| second.would_wait_s), waits(&held, |second| f64::from(second.waiting) / 5.0));
        assert!((would / did - 1.0).abs() < 0.25, "the longest wait would have been {would} s, and was {did} s");
        let limited = |run: &Run| {
            let limited = |second: &&figures::Second| second.probability < 1.0;
            run.seconds.iter().filter(limited).count() as f64
        };
        assert!((limited(&observed) / limited(&held) - 1.0).abs() < 0.2, "{} {}", limited(&observed), limited(&held));
        let full = |run: &Run| run.seconds[2000..2100].iter().map(|second| second.load).sum::<f64>() / 100.0;
        assert!((full(&observed) - full(&held)).abs() < 0.05, "{} {}", full(&observed), full(&held));
    }

    #[test]
    fn visitors_are_neither_lost_nor_counted_twice() {
        let hostile = "  crowd: { pages: 6, think: 4s, patience: 1m, reloaders: 0.2, droppers: 0.1, churners: 0.1, multi_tab: 0.2, \
                       subrequests: 2, arrivals: [{ at: 0s, load: 3 }] }\n  changes: [{ at: 2m, health: refuses, lasts: 20s }, { at: 3m, burst: 200, returning: 50 }]";
        let run = gated(&small(hostile), 5);
        let last = run.seconds.last().unwrap();
        assert!(run.figures.gave_up > 0 && run.figures.sessions_done > 0, "{:?}", run.figures);
        // whoever came in either left or is still there
        let inside: i64 = i64::from(last.inside);
        assert!((0..400).contains(&inside) && last.waiting < 2000, "{last:?}");
        assert!(run.seconds.iter().all(|second| second.queued < 1000 && second.in_flight <= 4));
    }

    #[test]
    fn what_happens_to_the_site_happens_when_it_is_said() {
        let run = gated(&small(&format!("{SURGE}\n  changes: [{{ at: 3m, health: hangs, lasts: 10s }}, {{ at: 4m, workers: 2 }}]")), 1);
        let capacity = |second: usize| run.seconds[second].capacity;
        assert!((capacity(170) - 50.0).abs() < 1e-9 && capacity(185).abs() < 1e-9 && (capacity(195) - 50.0).abs() < 1e-9);
        assert!((capacity(245) - 25.0).abs() < 1e-9);
        assert!(run.figures.shed > 0 && run.figures.in_time < run.figures.goodput - 0.005, "{:?}", run.figures);
        let good = |from: usize, to: usize| run.seconds[from..to].iter().map(|second| second.good).sum::<u32>();
        assert_eq!(good(182, 189), 0);
        assert!(good(200, 230) > 30 * 40, "{}", good(200, 230));
    }

    #[test]
    fn work_goes_on_when_its_client_has_left() {
        let settings = small("").site;
        let mut site = site::Site::new(&settings, crate::models::random::Random::seeded(1));
        let work = site::Work { seconds: 1.0, fails: false };
        assert!((0..8).all(|request| site.arrive(Moment::default(), work, request)));
        assert!(site.done(Moment::from_secs(2)).is_empty(), "eight share what four can do, and lose some of it");
        assert_eq!(site.done(Moment::from_secs(3)).len(), 8);
    }

    /// After a short surge on a site of 25 requests a second.
    fn invited(invitations: &str, policy: &str) -> invitations::Invited {
        let text = format!(
            "- name: a\n  length: 25m\n  measure: {{ from: 2m, to: 25m }}\n  site: {{ workers: 2, service: 80ms }}\n  \
             crowd: {{ pages: 6, think: 4s, arrivals: [{{ at: 0s, load: 2 }}, {{ at: 2m, load: 0.3 }}], patience: 1m }}\n  \
             invitations: {{ {invitations} }}\n  policy: 'invitations: {{ {policy} }}'\n"
        );
        let run = gated(&scenario::parse(&text, "test").unwrap_or_else(|error| panic!("{error}")).remove(0), 1);
        assert_eq!((run.figures.sessions_failed, run.figures.diverted_inside), (0, 0));
        run.figures.invited.unwrap()
    }

    #[test]
    fn a_queue_is_invited_without_a_minute_in_which_anyone_is_turned_away() {
        let found = invited("addresses: 1000, delay: 3m", "rate: 2");
        assert_eq!((found.sent, found.minutes_above, found.held), (1000, 0, 0), "{found:?}");
        assert!((220..320).contains(&found.redeemed) && found.load_max > 0.5, "{found:?}");
        // at two a second at most, after a minute of calm
        assert!(found.hours.is_some_and(|hours| hours * 60.0 > 9.3), "{found:?}");
    }

    #[test]
    fn who_finds_no_room_comes_back_and_is_let_in() {
        let found = invited("addresses: 2000, come: 0.6, asleep_until: 12m, awake_within: 1m", "expected_redemption: 0.1");
        assert!(found.sent == 2000 && found.held > 500 && found.minutes_above > 0, "{found:?}");
        assert!(found.redeemed > 1000, "{found:?}");
        // had the operator known how many come, no more would have been invited than have room
        let known = invited("addresses: 20000, come: 0.6, asleep_until: 12m, awake_within: 30m", "expected_redemption: 0.6");
        assert!(known.sent < 4000 && (known.minutes_above, known.held) == (0, 0), "{known:?}");
    }

    #[test]
    fn an_operators_policy_takes_the_place_of_the_scenarios() {
        let text = "upstream: { servers: [http://127.0.0.1:1], max_in_flight: 2 }\nadmission: { mode: closed }\n";
        let policy = crate::config::parse(text, "gate.yaml", std::path::Path::new("/")).unwrap();
        let run = run(&small(SURGE), Some(&policy), 1, true).unwrap();
        assert!(run.seconds.iter().all(|second| second.admitted == 0 && second.in_flight == 0));
        let wrong = small("  policy: 'admission: { mode: shut }'");
        assert!(super::run(&wrong, None, 1, true).unwrap_err().contains("admission.mode"));
    }
}
