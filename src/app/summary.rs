//! What the gate is doing and why, in one sentence: at the head of `/status` and of the dashboard.

use crate::mail::{Standing, WhyNone};
use crate::rules::controller::Law;
use crate::rules::limit::Limit;
use crate::rules::pacing::Held;
use crate::rules::policy::{Mode, Order};
use crate::rules::rehearsal::Rehearsed;

/// All that the sentence is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) mode: Mode,
    pub(super) order: Order,
    pub(super) draining: bool,
    pub(super) limiting: bool,
    pub(super) limit: Limit,
    pub(super) law: Law,
    /// The capacity has been measured; else it is assumed.
    pub(super) measured: bool,
    pub(super) probe_rate: f64,
    /// Tickets that drew in the last epoch.
    pub(super) waiting: u64,
    /// Slots, those in use, and requests that wait for one.
    pub(super) slots: u32,
    pub(super) in_flight: u32,
    pub(super) queued: usize,
    /// Servers, and those that are ejected.
    pub(super) servers: usize,
    pub(super) ejected: usize,
    /// Under `observe`: what would have come of holding back.
    pub(super) rehearsed: Option<Rehearsed>,
    /// Newcomers of the last minute: let in at once, and shown the waiting room (or they would have been).
    pub(super) newcomers: (u64, u64),
}

/// The sentence.
pub(super) fn sentence(facts: &Facts) -> String {
    if facts.draining {
        return "The gate is shutting down: it finishes what it has begun.".to_owned();
    }
    let waiting = people(facts.waiting);
    let doing = match facts.mode {
        Mode::Auto if facts.limiting => format!("{}; {waiting} waiting", limiting(facts)),
        Mode::Auto => calm(facts),
        Mode::Open => "The gate is open: everyone is let in, whatever the load".to_owned(),
        Mode::Closed => format!("The gate is closed: nobody new is let in, those inside stay in; {waiting} waiting"),
        Mode::Fixed(probability) => {
            format!("The gate lets each draw win with a probability of {probability}, whatever the load; {waiting} waiting")
        }
        Mode::Observe => observing(facts),
    };
    match (facts.ejected, facts.servers) {
        (0, _) => format!("{doing}."),
        (1, 1) => format!("{doing}; the only server is failing."),
        (ejected, servers) if ejected == servers => format!("{doing}; all {servers} servers are failing."),
        (ejected, servers) => format!("{doing}; {ejected} of {servers} servers {} ejected.", if ejected == 1 { "is" } else { "are" }),
    }
}

/// Whether invitations go out, and if not why.
pub(super) fn invitations(standing: &Standing) -> String {
    let doing = match standing.held {
        Some(WhyNone::NotSetUp) => "No invitation is sent: neither invitations.smtp nor invitations.spool is set",
        Some(WhyNone::Storage) => "No invitation is sent and no code redeemed: the disk takes no writes, see the log",
        Some(WhyNone::Pace(Held::Paused)) => "Invitations are paused by hand",
        _ if standing.waiting == 0 => "Nobody waits for an invitation",
        Some(WhyNone::Delivery) => "No invitation can be handed over; it is tried again",
        Some(WhyNone::Pace(Held::Closed)) => "Nobody is invited while the gate is closed",
        Some(WhyNone::Pace(Held::Waiting)) => "Nobody is invited while visitors wait",
        Some(WhyNone::Pace(Held::Load)) => "Nobody is invited: the load is not under invitations.below",
        Some(WhyNone::Pace(Held::Settling(_))) => "The load is low; invitations begin when it has been so for invitations.settle",
        Some(WhyNone::Pace(Held::Room)) => "As many are invited as the site has room for; more follow when those have come, or are late",
        None => "Invitations go out",
    };
    format!("{doing}.")
}

fn limiting(facts: &Facts) -> String {
    let Facts { law, .. } = facts;
    let order = match facts.order {
        Order::Lottery => "",
        Order::Arrival => " in the order in which they came",
    };
    let rate = format!("The gate is letting in {:.1} newcomers a second{order}", law.newcomers);
    match facts.limit {
        Limit::Probe => {
            let each = 1.0 / facts.probe_rate.max(1e-3);
            format!("The gate only tries the site, with one newcomer in {each:.0} s, because it gives no good answers")
        }
        Limit::Queue => format!("{rate}, because {} for a free slot already", requests(facts.queued)),
        Limit::None => "The gate has room for everyone again, and is letting in those who still wait".to_owned(),
        Limit::Committed | Limit::Mode => format!(
            "{rate}, because those inside already ask for {:.0} % of the {:.1} answers a second that the site can give",
            law.load * 100.0,
            law.capacity
        ),
    }
}

fn calm(facts: &Facts) -> String {
    let Facts { law, .. } = facts;
    if !facts.measured {
        return format!(
            "The gate knows nothing of the site yet: it takes it to give {:.0} answers a second, one for each slot, until it has seen some",
            law.capacity
        );
    }
    let load = format!("those inside ask for {:.0} % of what the site can give", law.load * 100.0);
    if facts.in_flight >= facts.slots && facts.queued > 0 {
        let queue = requests(facts.queued);
        return format!("The gate lets in everyone, though all {} slots are busy and {queue} for one: {load}", facts.slots);
    }
    format!("The gate lets in everyone: {load}")
}

fn observing(facts: &Facts) -> String {
    let Facts { law, newcomers: (admitted, waited), .. } = facts;
    let all = admitted + waited;
    let would = match (*waited, all) {
        (_, 0) => "it has seen no newcomer in the last minute".to_owned(),
        (0, 1) => "it would have let in the one newcomer of the last minute".to_owned(),
        (0, _) => format!("it would have let in all {all} newcomers of the last minute"),
        _ => format!("it would have shown the waiting room to {waited} of {all} newcomers in the last minute"),
    };
    let Some(rehearsed) = facts.rehearsed else { return format!("The gate only observes from now on, and turns nobody away: {would}") };
    let why = match rehearsed.wait {
        None => "the site gives no good answers now".to_owned(),
        Some(wait) if rehearsed.has_line() => format!(
            "who comes now would wait {} in a line of {:.0}, since more was asked for than the {:.1} answers a second that the site can give",
            span(wait.as_secs()),
            rehearsed.waiting,
            law.capacity
        ),
        Some(_) => format!(
            "all together now ask for {:.0} % of the {:.1} answers a second that the site can give",
            100.0 * rehearsed.asked / law.requests.max(1e-9),
            law.capacity
        ),
    };
    let over = if facts.in_flight > facts.slots {
        format!("; {} requests are at the {} slots of the site, which nothing protects", facts.in_flight, facts.slots)
    } else {
        String::new()
    };
    format!("The gate only observes, and turns nobody away; {would}; {why}{over}")
}

fn requests(count: usize) -> String {
    if count == 1 { "1 request waits".to_owned() } else { format!("{count} requests wait") }
}

fn people(count: u64) -> String {
    match count {
        0 => "nobody is".to_owned(),
        1 => "1 person is".to_owned(),
        count => format!("{count} people are"),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", (seconds + 30) / 60),
        _ => format!("{} hours", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CALM: Facts = Facts {
        mode: Mode::Auto,
        order: Order::Lottery,
        draining: false,
        limiting: false,
        limit: Limit::None,
        law: Law { capacity: 100.0, load: 0.42, committed: 42.0, newcomers: 58.0, requests_per_newcomer: 1.0, requests: 100.0 },
        measured: true,
        probe_rate: 0.2,
        waiting: 0,
        slots: 16,
        in_flight: 3,
        queued: 0,
        servers: 2,
        ejected: 0,
        rehearsed: None,
        newcomers: (0, 0),
    };

    const FULL: Facts = Facts {
        limiting: true,
        limit: Limit::Committed,
        law: Law { load: 0.96, committed: 95.0, newcomers: 4.5, ..CALM.law },
        waiting: 1204,
        in_flight: 16,
        queued: 19,
        ..CALM
    };

    const REHEARSED: Rehearsed =
        Rehearsed { asked: 60.0, wait: Some(Duration::ZERO), waiting: 0.0, visit: 10.0, queued: 0.0, sheds: false };

    const OBSERVING: Facts = Facts { mode: Mode::Observe, rehearsed: Some(REHEARSED), newcomers: (900, 0), ..CALM };

    #[track_caller]
    fn says(facts: Facts, wanted: &str) {
        assert_eq!(sentence(&facts), wanted);
    }

    #[test]
    fn with_room_for_everyone() {
        says(CALM, "The gate lets in everyone: those inside ask for 42 % of what the site can give.");
    }

    #[test]
    fn when_it_has_only_started() {
        says(
            Facts { measured: false, law: Law { capacity: 32.0, ..CALM.law }, ..CALM },
            "The gate knows nothing of the site yet: it takes it to give 32 answers a second, one for each slot, until it has seen some.",
        );
    }

    #[test]
    fn while_the_slots_are_full_and_nobody_is_held_back() {
        says(
            Facts { in_flight: 16, queued: 1, ..CALM },
            "The gate lets in everyone, though all 16 slots are busy and 1 request waits for one: those inside ask for 42 % of what the \
             site can give.",
        );
    }

    #[test]
    fn while_those_inside_fill_the_site() {
        says(
            FULL,
            "The gate is letting in 4.5 newcomers a second, because those inside already ask for 96 % of the 100.0 answers a second that \
             the site can give; 1204 people are waiting.",
        );
    }

    #[test]
    fn while_a_queue_is_worked_off() {
        says(
            Facts { limit: Limit::Queue, queued: 240, waiting: 1, ..FULL },
            "The gate is letting in 4.5 newcomers a second, because 240 requests wait for a free slot already; 1 person is waiting.",
        );
    }

    #[test]
    fn while_it_tries_a_dead_site() {
        says(
            Facts { limit: Limit::Probe, servers: 1, ejected: 1, ..FULL },
            "The gate only tries the site, with one newcomer in 5 s, because it gives no good answers; 1204 people are waiting; the only \
             server is failing.",
        );
    }

    #[test]
    fn when_the_surge_is_over() {
        says(
            Facts { limit: Limit::None, waiting: 12, ..FULL },
            "The gate has room for everyone again, and is letting in those who still wait; 12 people are waiting.",
        );
    }

    #[test]
    fn what_the_operator_has_set() {
        says(Facts { mode: Mode::Open, ..FULL }, "The gate is open: everyone is let in, whatever the load.");
        says(
            Facts { mode: Mode::Closed, limit: Limit::Mode, waiting: 0, ..FULL },
            "The gate is closed: nobody new is let in, those inside stay in; nobody is waiting.",
        );
        says(
            Facts { mode: Mode::Fixed(0.25), limit: Limit::Mode, ..FULL },
            "The gate lets each draw win with a probability of 0.25, whatever the load; 1204 people are waiting.",
        );
    }

    #[test]
    fn what_it_would_do() {
        says(
            OBSERVING,
            "The gate only observes, and turns nobody away; it would have let in all 900 newcomers of the last minute; all together now ask \
             for 60 % of the 100.0 answers a second that the site can give.",
        );
        let line = Rehearsed { asked: 130.0, wait: Some(Duration::from_secs(45)), waiting: 450.2, ..REHEARSED };
        says(
            Facts { rehearsed: Some(line), newcomers: (780, 120), in_flight: 240, ..OBSERVING },
            "The gate only observes, and turns nobody away; it would have shown the waiting room to 120 of 900 newcomers in the last minute; \
             who comes now would wait 45 s in a line of 450, since more was asked for than the 100.0 answers a second that the site can \
             give; 240 requests are at the 16 slots of the site, which nothing protects.",
        );
        says(
            Facts { rehearsed: Some(Rehearsed { wait: None, ..REHEARSED }), newcomers: (0, 0), ..OBSERVING },
            "The gate only observes, and turns nobody away; it has seen no newcomer in the last minute; the site gives no good answers now.",
        );
        says(
            Facts { rehearsed: None, newcomers: (1, 0), ..OBSERVING },
            "The gate only observes from now on, and turns nobody away: it would have let in the one newcomer of the last minute.",
        );
    }

    #[test]
    fn that_servers_are_ejected_and_that_it_ends() {
        says(
            Facts { ejected: 1, ..CALM },
            "The gate lets in everyone: those inside ask for 42 % of what the site can give; 1 of 2 servers is ejected.",
        );
        says(
            Facts { ejected: 2, ..CALM },
            "The gate lets in everyone: those inside ask for 42 % of what the site can give; all 2 servers are failing.",
        );
        says(Facts { draining: true, ..FULL }, "The gate is shutting down: it finishes what it has begun.");
    }

    #[test]
    fn long_waits_are_told_in_minutes_and_hours() {
        assert_eq!([119, 120, 3600, 7200, 90_000].map(span), ["119 s", "2 minutes", "60 minutes", "2 hours", "25 hours"]);
    }
}
