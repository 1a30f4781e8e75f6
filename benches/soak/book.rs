//! What clients were told, and whether it can be explained.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::rules::time::Moment;

/// What has come of requests so far.
pub(super) struct Book {
    pub(super) clock: Clock,
    /// Answered by the site, rightly.
    pub(super) good: Cell<u64>,
    /// Strangers who were shown the waiting room.
    pub(super) waited: Cell<u64>,
    /// Failed while the site did, or just after.
    pub(super) failed: Cell<u64>,
    /// Of the failed ones, those that got an answer, which the gate has counted.
    pub(super) told: Cell<u64>,
    /// Requests of clients who left before the answer: the gate may have seen them or not.
    pub(super) left: Cell<u64>,
    /// Messages that came back over WebSockets.
    pub(super) echoed: Cell<u64>,
    /// What nothing explains, each in a line; no more than a few.
    pub(super) unexplained: RefCell<Vec<String>>,
    faults: RefCell<Vec<(Moment, Option<Moment>)>>,
    /// No more requests are begun.
    pub(super) over: Cell<bool>,
}

/// How a request went.
pub(super) enum Came {
    /// As it should.
    Good,
    /// A stranger has to wait.
    Waits,
    /// The gate has answered in the site's place.
    Failure(u16),
    /// No answer, or a part of one, or a wrong one.
    Broken(String),
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::start(),
            good: Cell::default(),
            waited: Cell::default(),
            failed: Cell::default(),
            told: Cell::default(),
            left: Cell::default(),
            echoed: Cell::default(),
            unexplained: RefCell::default(),
            faults: RefCell::default(),
            over: Cell::default(),
        }
    }

    /// From now on the site fails.
    pub(super) fn fault_begins(&self) {
        self.faults.borrow_mut().push((self.clock.moment(), None));
    }

    /// And no more.
    pub(super) fn fault_ends(&self) {
        if let Some(last) = self.faults.borrow_mut().last_mut() {
            last.1 = Some(self.clock.moment());
        }
    }

    /// Whether a request that was begun then, and ends now, has met a fault.
    fn has_met_a_fault(&self, began: Moment) -> bool {
        self.faults.borrow().iter().any(|(_, to)| to.is_none_or(|to| began < to.plus(AFTERWARDS)))
    }

    /// Notes a request that ends now.
    pub(super) fn note(&self, what: &str, began: Moment, came: Came) {
        let text = match came {
            Came::Good => return add(&self.good),
            Came::Waits => return add(&self.waited),
            Came::Failure(status) => {
                // counted by the gate, as every answer
                add(&self.told);
                format!("{what}: {status}")
            }
            Came::Broken(text) => format!("{what}: {text}"),
        };
        if self.has_met_a_fault(began) {
            add(&self.failed);
            return;
        }
        let mut unexplained = self.unexplained.borrow_mut();
        if unexplained.len() < SHOWN_MAX {
            unexplained.push(format!("after {:.1} s, begun at {:.1} s: {text}", self.clock.moment().as_secs_f64(), began.as_secs_f64()));
        }
    }
}

pub(super) fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// A request that waits for a connection to a site that has come back may be told of its failure so long after.
const AFTERWARDS: Duration = Duration::from_secs(5);

const SHOWN_MAX: usize = 20;
