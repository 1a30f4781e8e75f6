//! Places on the heap for requests that are on their way to the site: to allocate each anew costs more than all else that is done with it.

use std::cell::RefCell;

use super::handle::Entered;

/// Places of a thread: requests come in crowds, and as many of them are under way at once.
const KEPT: usize = 64;

/// A place.
pub(super) type Place = Box<Option<Entered>>;

thread_local! {
    static SPARE: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// A place for a request.
pub(super) fn take(entered: Entered) -> Place {
    match SPARE.with_borrow_mut(Vec::pop) {
        Some(mut place) => {
            *place = Some(entered);
            place
        }
        None => Box::new(Some(entered)),
    }
}

/// A place is not needed any more, nor what is in it.
pub(super) fn give(mut place: Place) {
    // before the pool is borrowed, which it may need itself
    *place = None;
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(place);
        }
    });
}
