//! A model of a crowd: visitors who come whether or not the site is well, each with a browser of its own, over real sockets.
//!
//! Open loop, and a page's latency counts from when the visitor meant to have it, so that a site that stalls does not slow down its
//! own measurement. Thousands of visitors run on one thread; their number is bounded, and each draws its luck from a stream of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::mailbox::Mailboxes;
use super::report::{Counts, CrowdReport};
use super::visitor::Visitor;
use crate::clock::Clock;
use crate::models::arrivals::{Arrivals, Step};
use crate::models::random::{Random, Span};
use crate::rules::time::Moment;

/// What the crowd is like.
#[derive(Clone, Debug)]
pub struct CrowdSettings {
    /// The gate, or the bare site.
    pub server: SocketAddr,
    /// How many visitors come when.
    pub schedule: Vec<Step>,
    /// When everybody leaves and nobody comes any more.
    pub duration: Duration,
    /// When so many visitors have come, no more do, and it is over when they have left. None: as many as come.
    pub visitors: Option<u64>,
    /// How many pages a visitor came for.
    pub pages: Pages,
    /// What a visitor does between a page and the next.
    pub think: Span,
    /// How long a visitor waits for a page in waiting rooms, in total.
    pub patience: Duration,
    /// How long a visitor waits for an answer before giving up on it.
    pub answer_timeout: Duration,
    /// Whether a visitor whose request failed tries again.
    pub reload_probability: f64,
    /// How often a visitor asks for a page that fails, at most.
    pub tries: u32,
    /// How long a visitor looks at an error that came at once before trying again, and up to [`RELOAD_PAUSES`] times as long after each
    /// further one; who has waited for a timeout doesn't.
    pub reload_pause: Span,
    /// Share of visitors who reload the waiting room [`RELOADS`] times as often as it asks for.
    pub reloaders: f64,
    /// Share of visitors whose client drops cookies.
    pub cookie_droppers: f64,
    /// Share of visitors who leave an email address when they are first shown the waiting room, if it asks for one, and go. They come
    /// back with the link in their mail. Clients that drop cookies don't: a gate has nothing to know them by.
    pub leavers: f64,
    /// Where they look for their mail; without it they don't come back.
    pub mailboxes: Option<Mailboxes>,
    /// How long who has mail takes to see it, and to follow its link.
    pub mail_pause: Span,
    /// Share of pages asked for that are the site's slow ones.
    pub slow_pages: f64,
    /// Visitors there at a time at most.
    pub present_max: usize,
    /// Whether visitors connect from addresses of their own, in 127.1.0.0/16. Needs a server on loopback.
    pub own_addresses: bool,
    /// Of everything that is left to chance.
    pub seed: u64,
}

impl CrowdSettings {
    /// People who fill in a form of six pages, about four seconds each, and nobody comes until the schedule says so.
    #[must_use]
    pub const fn of(server: SocketAddr) -> Self {
        Self {
            server,
            schedule: Vec::new(),
            duration: Duration::MAX,
            visitors: None,
            pages: Pages::Fixed(6),
            think: Span::Exponential(Duration::from_secs(4)),
            patience: Duration::from_secs(15 * 60),
            answer_timeout: Duration::from_secs(10),
            reload_probability: 0.7,
            tries: 3,
            reload_pause: Span::Exponential(Duration::from_secs(2)),
            reloaders: 0.0,
            cookie_droppers: 0.0,
            leavers: 0.0,
            mailboxes: None,
            mail_pause: Span::Exponential(Duration::from_secs(4)),
            slow_pages: 0.0,
            present_max: 20_000,
            own_addresses: true,
            seed: 1,
        }
    }
}

/// How many pages a visitor came for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pages {
    /// Always as many, 1 or more.
    Fixed(u32),
    /// Geometrically distributed with this mean.
    Geometric(f64),
}

impl Pages {
    pub(super) fn draw(self, random: &mut Random) -> u32 {
        match self {
            Self::Fixed(pages) => pages.max(1),
            Self::Geometric(mean) => random.geometric(mean),
        }
    }
}

/// The crowd, as seen by whoever runs it. Cheap to clone; every clone is the same crowd.
#[derive(Clone, Debug)]
pub struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: CrowdSettings,
    clock: Arc<Clock>,
    orders: watch::Sender<Orders>,
    report: Mutex<CrowdReport>,
}

/// What whoever runs the crowd wants of it.
#[derive(Clone, Debug)]
struct Orders {
    schedule: Vec<Step>,
    stop: bool,
}

impl Crowd {
    /// A crowd that does not come yet.
    #[must_use]
    pub fn new(settings: CrowdSettings, clock: Arc<Clock>) -> Self {
        let orders = watch::Sender::new(Orders { schedule: settings.schedule.clone(), stop: false });
        Self(Arc::new(Shared { settings, clock, orders, report: Mutex::new(CrowdReport::default()) }))
    }

    /// Another schedule from now on, its times still counted from the crowd's start. For a rate at once: one step at 0.
    pub fn reschedule(&self, schedule: Vec<Step>) {
        self.0.orders.send_modify(|orders| orders.schedule = schedule);
    }

    /// Ends it: whoever is there leaves at once.
    pub fn stop(&self) {
        self.0.orders.send_modify(|orders| orders.stop = true);
    }

    /// What it has met so far.
    #[must_use]
    pub fn report(&self) -> CrowdReport {
        self.0.report().clone()
    }

    /// Lets the crowd come. Ends when its time is over, when it is stopped, or when as many as should have come have left; whoever
    /// is still there then leaves at once, uncounted. Call it once: a second run would count its seconds from the first.
    pub async fn run(&self) {
        let shared = &self.0;
        let settings = &shared.settings;
        let start = shared.clock.moment();
        let mut orders = shared.orders.subscribe();
        let mut arrivals = Arrivals::new(orders.borrow_and_update().schedule.clone(), Random::seeded(settings.seed));
        let mut next = arrivals.draw();
        let mut visitors = JoinSet::new();
        let mut come = 0;
        let over = tokio::time::sleep(settings.duration.min(FOREVER));
        tokio::pin!(over);
        while !orders.borrow().stop {
            if settings.visitors.is_some_and(|visitors| come >= visitors) {
                next = None;
                if visitors.is_empty() {
                    break;
                }
            }
            let arrival = next.map(|at_s| start.plus(Duration::try_from_secs_f64(at_s).unwrap_or(FOREVER)));
            tokio::select! {
                biased;
                () = &mut over => break,
                _ = orders.changed() => {
                    let now_s = shared.clock.moment().since(start).as_secs_f64();
                    arrivals.reschedule(now_s, orders.borrow_and_update().schedule.clone());
                    next = arrivals.draw();
                }
                Some(_) = visitors.join_next() => {}
                () = until(&shared.clock, arrival) => {
                    next = arrivals.draw();
                    if visitors.len() < settings.present_max {
                        let visitor = Visitor::new(Tally { shared: shared.clone(), start }, come, arrival.unwrap_or(start));
                        visitors.spawn(visitor.visit());
                        come += 1;
                    } else {
                        Tally { shared: shared.clone(), start }.count(|counts| counts.left_out += 1);
                    }
                }
            }
            shared.report().present = visitors.len();
        }
        shared.report().present = 0;
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, CrowdReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a visitor finds what the crowd is like and writes down what it meets.
#[derive(Debug)]
pub(super) struct Tally {
    shared: Arc<Shared>,
    start: Moment,
}

impl Tally {
    pub(super) fn settings(&self) -> &CrowdSettings {
        &self.shared.settings
    }

    pub(super) fn now(&self) -> Moment {
        self.shared.clock.moment()
    }

    pub(super) async fn until(&self, moment: Moment) {
        until(&self.shared.clock, Some(moment)).await;
    }

    pub(super) fn count(&self, count: impl Fn(&mut Counts)) {
        self.shared.report().count(self.now().since(self.start), count);
    }

    pub(super) fn page(&self, latency: Duration, answer: Duration) {
        self.shared.report().page(self.now().since(self.start), latency, answer);
    }

    pub(super) fn waited(&self, waited: Duration) {
        self.shared.report().waited(self.now().since(self.start), waited);
    }

    pub(super) fn first_page(&self, waited: Duration) {
        self.shared.report().first_page.record(waited);
    }
}

/// The loopback address of a visitor: 65,024 of them, none that ends in 0 or 255.
pub(super) fn own_address(visitor: u64) -> Ipv4Addr {
    let [.., third] = (visitor / 254).to_be_bytes();
    let [.., fourth] = (visitor % 254 + 1).to_be_bytes();
    Ipv4Addr::new(127, 1, third, fourth)
}

/// The email address of a visitor.
pub(super) fn email_address(visitor: u64) -> String {
    format!("visitor{visitor}@{EMAIL_DOMAIN}")
}

/// Whether an email address is that of a visitor of a crowd.
#[must_use]
pub fn is_of_a_crowd(address: &str) -> bool {
    address.rsplit_once('@').is_some_and(|(_, domain)| domain == EMAIL_DOMAIN)
}

/// Reserved for examples (RFC 2606), so nobody's.
const EMAIL_DOMAIN: &str = "crowd.example";

/// Waits until a moment; for ever if there is none.
async fn until(clock: &Clock, moment: Option<Moment>) {
    match moment {
        Some(moment) => tokio::time::sleep(moment.since(clock.moment())).await,
        None => std::future::pending().await,
    }
}

/// Nobody hammers at a page that has failed again and again.
pub const RELOAD_PAUSES: u32 = 4;

/// How long who has left an address looks for mail.
pub const MAIL_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How many times as often a reloader looks.
pub const RELOADS: u32 = 10;

/// Longer than anything runs, and short enough for every timer: a year.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_have_usable_addresses_of_their_own() {
        assert_eq!(own_address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(own_address(253), Ipv4Addr::new(127, 1, 0, 254));
        assert_eq!(own_address(254), Ipv4Addr::new(127, 1, 1, 1));
        assert_eq!(own_address(254 * 256), own_address(0));
        assert!((0..100_000).all(|visitor| !matches!(own_address(visitor).octets()[3], 0 | 255)));
    }

    #[test]
    fn visitors_have_email_addresses_of_their_own() {
        assert_eq!(email_address(17), "visitor17@crowd.example");
        assert!(is_of_a_crowd(&email_address(0)));
        assert!(!is_of_a_crowd("ann@example.org") && !is_of_a_crowd("crowd.example"));
    }

    #[test]
    fn sessions_have_a_page_at_least() {
        let mut random = Random::seeded(1);
        assert_eq!(Pages::Fixed(0).draw(&mut random), 1);
        assert!((0..1000).all(|_| Pages::Geometric(10.0).draw(&mut random) >= 1));
    }
}
