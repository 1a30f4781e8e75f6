//! Places on the heap for requests that are on their way to the site: to allocate each anew costs more than all else that is done with it.

use super::handle::Entered;
use crate::http1::spare::Pool;

/// A place.
pub(super) type Place = Box<Option<Entered>>;

thread_local! {
    static SPARE: Pool<Place> = const { Pool::new() };
}

/// A place for a request.
pub(super) fn take(entered: Entered) -> Place {
    match SPARE.with(Pool::take) {
        Some(mut place) => {
            *place = Some(entered);
            place
        }
        None => Box::new(Some(entered)),
    }
}

/// A place is not needed any more, nor what is in it.
pub(super) fn give(mut place: Place) {
    *place = None;
    SPARE.with(|spare| spare.give(place));
}
