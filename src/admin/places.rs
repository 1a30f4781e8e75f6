//! The places of the admin listener's connections. When all are taken, the one that has been idle for longest ends for who comes next:
//! clients that keep what they do not use shut nobody out, least of all a probe, without whose answer the gate is restarted.
//!
//! Idle is also who has not asked yet, or not to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Connections at a time: probes, a scraper and a few operators never come near.
pub(super) const PLACES: usize = 64;

/// All places.
#[derive(Default)]
pub(super) struct Places {
    held: Vec<(Arc<Place>, AbortHandle)>,
    order: Arc<Order>,
}

/// In which order connections fell idle.
#[derive(Default)]
struct Order {
    last: AtomicU64,
    one_more: Notify,
}

/// The place of one connection.
pub(super) struct Place {
    /// Less than that of any that fell idle later; [`BUSY`] while it is answered.
    idle_since: AtomicU64,
    order: Arc<Order>,
}

const BUSY: u64 = u64::MAX;

impl Places {
    /// Waits until there may be a place that was not to be had before.
    pub(super) async fn changed(&self) {
        self.order.one_more.notified().await;
    }

    /// Whether there is a place, or one whose connection is idle.
    pub(super) fn has_one(&mut self) -> bool {
        self.held.retain(|(_, connection)| !connection.is_finished());
        self.held.len() < PLACES || self.longest_idle().is_some()
    }

    /// A place for a connection that [`Places::hold`] names then; if there is none, the one that has been idle for longest ends.
    pub(super) fn take(&mut self) -> Arc<Place> {
        if self.held.len() >= PLACES
            && let Some(longest) = self.longest_idle()
        {
            self.held.swap_remove(longest).1.abort();
        }
        let place = Place { idle_since: AtomicU64::new(BUSY), order: Arc::clone(&self.order) };
        place.rests();
        Arc::new(place)
    }

    pub(super) fn hold(&mut self, place: Arc<Place>, connection: AbortHandle) {
        self.held.push((place, connection));
    }

    fn longest_idle(&self) -> Option<usize> {
        let idle = self.held.iter().map(|(place, _)| place.idle_since.load(Ordering::Relaxed)).enumerate();
        idle.filter(|(_, since)| *since != BUSY).min_by_key(|(_, since)| *since).map(|(number, _)| number)
    }
}

impl Place {
    /// Its connection has asked, and is answered.
    pub(super) fn works(&self) {
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// Its connection has its answer, or has not asked.
    pub(super) fn rests(&self) {
        self.idle_since.store(self.order.last.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.order.one_more.notify_one();
    }
}
