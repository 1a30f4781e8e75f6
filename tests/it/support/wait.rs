//! Waiting on events.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tidegate::clock::Clock;

use super::PATIENCE;

/// Something that others wait for until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    /// Lets everyone through, now and later.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    /// Waits until it is open.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let open = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, |open| !*open).unwrap();
        assert!(*open.0, "nobody opened the door");
    }
}

/// Looks again and again until there is something to see. For what tells nobody when it happens, such as a metric.
#[track_caller]
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE * 2, what, look)
}

/// The same, for as long as this.
#[track_caller]
pub(super) fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::start();
    let start = clock.moment();
    let never = (Mutex::new(()), Condvar::new());
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock.moment().since(start) < patience, "waited in vain for {what}");
        // a breath between two looks; nothing depends on how long it is
        drop(never.1.wait_timeout(never.0.lock().unwrap(), Duration::from_millis(10)).unwrap());
    }
}
