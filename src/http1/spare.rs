//! What the connections of a thread have from each other: maps of headers that are not needed any more, since to make room in one costs
//! more than to empty it; and the names of headers that were read before.

use std::cell::RefCell;

use http::HeaderMap;

use crate::rules::http1::names::Names;

/// Lines of a head that is an exception: the next is hardly as long.
const LONG: usize = 64;

/// Maps of a thread: requests come in crowds, and as many of them are under way at once.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    static NAMES: RefCell<Names> = RefCell::new(Names::default());
}

/// Reads something with the names that are known.
pub fn with_names<T>(read: impl FnOnce(&mut Names) -> T) -> T {
    NAMES.with_borrow_mut(read)
}

/// An empty map, with room in it if there is one.
#[must_use]
pub fn take() -> HeaderMap {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// A map that is not needed any more.
pub fn give(mut headers: HeaderMap) {
    if headers.capacity() > LONG {
        return;
    }
    headers.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(headers);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HOST;

    use super::*;

    #[test]
    fn what_is_taken_is_empty_and_has_room() {
        give(HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]));
        let taken = take();
        assert!(taken.is_empty() && taken.capacity() > 0);
        assert_eq!(take().capacity(), 0, "there was one");
    }

    #[test]
    fn neither_large_ones_nor_many_are_kept() {
        give(HeaderMap::with_capacity(10 * LONG));
        assert_eq!(take().capacity(), 0);
        (0..KEPT + 1).for_each(|_| give(HeaderMap::with_capacity(1)));
        assert_eq!((0..KEPT + 1).filter(|_| take().capacity() > 0).count(), KEPT);
    }
}
