//! The connections of clients: how many there are, and who of them may stay. How long each may take for what it does is in `state.rs`.
//!
//! Waiting visitors are many, and must not crowd out those who may enter: above half of the limit a waiting answer closes its
//! connection, and one client may have no more than `limits.connections_per_client`; the last tenth is kept for connections that showed
//! a pass: one that comes without is answered and closed. To have that tenth free, idle connections without a pass are closed above
//! nine tenths, the longest idle first; and when none is left, a hundredth of all, those with a pass among them, so that who comes gets in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::clients::Clients;
use crate::deadlines::Wanted;
use crate::rules::headers::forwarded::ClientPrefix;
use crate::rules::policy::Limits;
use crate::rules::token::VisitorId;

/// All connections of clients.
#[derive(Debug, Default)]
pub struct Connections {
    /// Those that are open, and one for each worker that waits for a client.
    taken: AtomicUsize,
    open: AtomicUsize,
    with_pass: AtomicUsize,
    idle: AtomicUsize,
    upgrades: AtomicUsize,
    upgrades_of_clients: Clients,
    upgrades_of_passes: Clients<VisitorId>,
    closed: Notify,
    clients: Clients,
    /// Workers, and listeners that have no place for whom they would accept next.
    workers: AtomicUsize,
    shut_out: AtomicUsize,
}

impl Connections {
    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Waits until there are fewer than `limit`, and takes a place for one more. While it waits, clients wait in the kernel's queue.
    pub(super) async fn enter(self: &Arc<Self>, limit: impl Fn() -> usize) -> Place {
        loop {
            // registered before the count is read, so that no closing is missed
            let closed = self.closed.notified();
            let entered = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit()).then_some(taken + 1));
            if entered.is_ok() {
                return Place { all: Arc::clone(self), is_open: false, has_pass: AtomicBool::new(false), client: None };
            }
            let _waits = Raised::new(&self.shut_out);
            closed.await;
        }
    }

    /// Those between two requests, as of the last sweeps.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// A worker has as many now, and had as many before.
    pub(super) fn are_idle(&self, before: usize, now: usize) {
        self.idle.fetch_add(now, Ordering::Relaxed);
        self.idle.fetch_sub(before, Ordering::Relaxed);
    }

    /// One more worker takes its part in making room.
    pub(super) fn join(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many idle connections each worker is to close.
    pub(super) fn wanted(&self, limit: usize) -> Wanted {
        let of_others = self.open().saturating_sub(limit - limit.div_ceil(10));
        let of_all = if self.shut_out.load(Ordering::Relaxed) > 0 { limit.div_ceil(100) } else { 0 };
        let workers = self.workers.load(Ordering::Relaxed).max(1);
        Wanted { of_others: of_others.div_ceil(workers), of_all: of_all.div_ceil(workers) }
    }

    /// Those that are WebSockets, or ask the site to be.
    #[must_use]
    pub fn upgrades(&self) -> usize {
        self.upgrades.load(Ordering::Relaxed)
    }

    /// Takes a place for one more WebSocket, if there are fewer than `limit`. Once more than half are taken, a pass may have no more than
    /// `of_pass`, and a client no more than a tenth, but as many as a pass: who is given a new pass each time is one client all the same.
    pub(super) fn upgrade(
        self: &Arc<Self>,
        limit: usize,
        of_pass: usize,
        client: ClientPrefix,
        pass: Option<VisitorId>,
    ) -> Option<UpgradePlace> {
        let taken = self.upgrades.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1));
        let are_short = taken.ok()? >= limit / 2;
        let client_has = self.upgrades_of_clients.one_more(client);
        let pass_has = pass.map_or(0, |pass| self.upgrades_of_passes.one_more(pass));
        // it gives back all of this if it is dropped here
        let place = UpgradePlace { all: Arc::clone(self), client, pass };
        let is_one_too_many = pass_has > of_pass || client_has > limit.div_ceil(10).max(of_pass);
        (!(are_short && is_one_too_many)).then_some(place)
    }

    /// Whether connections are short: a waiting answer closes its own, and one client may not have any number.
    pub(super) fn is_short(&self, limit: usize) -> bool {
        self.open() > limit / 2
    }

    /// Whether a connection without a pass may not stay.
    pub(super) fn is_reserved(&self, limit: usize) -> bool {
        let without = self.open().saturating_sub(self.with_pass.load(Ordering::Relaxed));
        without > limit - limit.div_ceil(10)
    }
}

/// One more, until dropped.
struct Raised<'a>(&'a AtomicUsize);

impl<'a> Raised<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one connection among all; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<Connections>,
    is_open: bool,
    has_pass: AtomicBool,
    /// Whose it is, if that is counted.
    client: Option<ClientPrefix>,
}

/// A client has as many connections as it may.
#[derive(Debug)]
pub(super) struct TooMany;

impl Place {
    /// Its client has come.
    pub(super) fn opened(mut self) -> Self {
        self.is_open = true;
        self.all.open.fetch_add(1, Ordering::Relaxed);
        self
    }

    /// It is known whose it is.
    ///
    /// # Errors
    /// The client has as many as it may, and connections are short: a crowd behind one address is no attack while there is room.
    pub(super) fn belongs_to(&mut self, client: ClientPrefix, limits: &Limits) -> Result<(), TooMany> {
        let count = self.all.clients.one_more(client);
        self.client = Some(client);
        if count > limits.connections_per_client && self.all.is_short(limits.connections) { Err(TooMany) } else { Ok(()) }
    }

    pub(super) fn has_pass(&self) -> bool {
        self.has_pass.load(Ordering::Relaxed)
    }

    /// It has shown a pass.
    pub(super) fn showed_pass(&self) {
        if !self.has_pass.load(Ordering::Relaxed) && !self.has_pass.swap(true, Ordering::Relaxed) {
            self.all.with_pass.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.all.clients.one_less(client);
        }
        if self.has_pass.load(Ordering::Relaxed) {
            self.all.with_pass.fetch_sub(1, Ordering::Relaxed);
        }
        if self.is_open {
            self.all.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.all.taken.fetch_sub(1, Ordering::Relaxed);
        self.all.closed.notify_one();
    }
}

/// The place of one WebSocket; given back when dropped.
#[derive(Debug)]
pub(super) struct UpgradePlace {
    all: Arc<Connections>,
    client: ClientPrefix,
    pass: Option<VisitorId>,
}

impl Drop for UpgradePlace {
    fn drop(&mut self) {
        self.all.upgrades_of_clients.one_less(self.client);
        if let Some(pass) = self.pass {
            self.all.upgrades_of_passes.one_less(pass);
        }
        self.all.upgrades.fetch_sub(1, Ordering::Relaxed);
    }
}
