//! What the connections of a thread have from each other: maps of headers, and room for the lines that are written, since to allocate them
//! costs more than to empty them; and the names of headers that were read before. Who has nothing to say or to read has none of it.

use std::cell::RefCell;

use http::HeaderMap;

use crate::rules::http1::names::Names;

/// Lines of a head that is an exception, and bytes of it: the next is hardly as long.
const LONG: usize = 64;
const LONG_BYTES: usize = 8 * 1024;

/// Bytes that most heads have room in.
const USUAL_BYTES: usize = 1024;

/// Things of a kind that a thread keeps: requests come in crowds, and as many of them are under way at once.
const KEPT: usize = 64;

/// Things of one kind that are not needed any more, for who needs the next.
#[derive(Debug)]
pub struct Pool<T>(RefCell<Vec<T>>);

impl<T> Pool<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// One of them, if there is one.
    pub fn take(&self) -> Option<T> {
        self.0.borrow_mut().pop()
    }

    /// One that is not needed any more. What it holds must be gone already: to drop that may need the pool.
    pub fn give(&self, thing: T) {
        let mut things = self.0.borrow_mut();
        if things.len() < KEPT {
            things.push(thing);
        }
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

thread_local! {
    static MAPS: Pool<HeaderMap> = const { Pool::new() };
    static LINES: Pool<Vec<u8>> = const { Pool::new() };
    static NAMES: RefCell<Names> = RefCell::new(Names::default());
}

/// Reads something with the names that are known.
pub fn with_names<T>(read: impl FnOnce(&mut Names) -> T) -> T {
    NAMES.with_borrow_mut(read)
}

/// An empty map, with room in it if there is one.
#[must_use]
pub fn take() -> HeaderMap {
    MAPS.with(Pool::take).unwrap_or_default()
}

/// A map that is not needed any more.
pub fn give(mut headers: HeaderMap) {
    if headers.capacity() <= LONG {
        headers.clear();
        MAPS.with(|maps| maps.give(headers));
    }
}

/// Room for lines.
#[must_use]
pub fn lines() -> Vec<u8> {
    LINES.with(Pool::take).unwrap_or_else(|| Vec::with_capacity(USUAL_BYTES))
}

/// Room for lines that is not needed any more.
pub fn give_lines(mut lines: Vec<u8>) {
    if (USUAL_BYTES..=LONG_BYTES).contains(&lines.capacity()) {
        lines.clear();
        LINES.with(|rooms| rooms.give(lines));
    }
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

    #[test]
    fn room_for_lines_is_had_in_turn() {
        let mut own = lines();
        own.extend_from_slice(&[b'a'; 2 * USUAL_BYTES]);
        let capacity = own.capacity();
        give_lines(own);
        let again = lines();
        assert_eq!((again.len(), again.capacity()), (0, capacity));
        give_lines(Vec::with_capacity(LONG_BYTES + 1));
        assert_eq!(lines().capacity(), USUAL_BYTES);
    }
}
