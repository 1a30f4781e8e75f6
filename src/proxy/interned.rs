//! Header values that answers over HTTP/2 have in common: one copy for all connections of a worker.
//!
//! The table of HPACK keeps what it has sent for as long as the connection, and a value that came from the site is a piece of the buffer that
//! it was read into: a few bytes of a date would keep kilobytes, of each second in which something was sent.

use std::sync::{Mutex, PoisonError};

use http::header::{AGE, CONTENT_LENGTH, ETAG, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The last value of each kind. A copy of each value would do as well, and cost four times as much.
#[derive(Debug, Default)]
pub(super) struct Interned(Mutex<[Option<HeaderValue>; KINDS]>);

/// More than an answer has.
const KINDS: usize = 32;

/// Longer values are seldom said twice.
const LENGTH_MAX: usize = 256;

/// Names whose values the h2 crate puts into no table.
const NOT_REMEMBERED: [HeaderName; 5] = [AGE, CONTENT_LENGTH, ETAG, LOCATION, SET_COOKIE];

impl Interned {
    /// Frees an answer's headers of the buffers that they came in.
    pub(super) fn detach(&self, headers: &mut HeaderMap) {
        let mut interned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in headers.iter_mut() {
            if NOT_REMEMBERED.contains(name) {
                continue;
            }
            let bytes = value.as_bytes();
            // two answers seldom differ in which of their values meet here
            let kind = &mut interned[(name.as_str().len() * 5 + bytes.len()) % KINDS];
            if let Some(known) = kind.as_ref().filter(|known| known.as_bytes() == bytes && known.is_sensitive() == value.is_sensitive()) {
                *value = known.clone();
            } else if let Ok(mut own) = HeaderValue::from_bytes(bytes) {
                own.set_sensitive(value.is_sensitive());
                if bytes.len() <= LENGTH_MAX {
                    *kind = Some(own.clone());
                }
                *value = own;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::{CACHE_CONTROL, DATE};

    use super::*;

    #[test]
    fn values_are_as_they_were_and_keep_no_buffer() {
        let interned = Interned::default();
        for (date, cache) in [("one", "public"), ("one", "public"), ("two", "private"), ("two", "public")] {
            let buffer = Bytes::from(format!("{date}{cache}{}", "x".repeat(LENGTH_MAX + 1)));
            let value = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).unwrap();
            let mut secret = value(0..date.len());
            secret.set_sensitive(true);
            let mut headers = HeaderMap::new();
            headers.append(DATE, value(0..date.len()));
            headers.append(DATE, secret);
            headers.append(CACHE_CONTROL, value(date.len()..date.len() + cache.len()));
            headers.append("x-long", value(date.len() + cache.len()..buffer.len()));
            let before = headers.clone();
            interned.detach(&mut headers);
            assert_eq!(headers, before);
            let sensitive: Vec<_> = headers.values().map(HeaderValue::is_sensitive).collect();
            assert_eq!(sensitive, [false, true, false, false]);
            drop(before);
            assert!(buffer.is_unique());
        }
    }

    #[test]
    fn what_is_said_again_is_one_value() {
        let interned = Interned::default();
        let said = || {
            let mut headers = HeaderMap::from_iter([(DATE, HeaderValue::from_bytes(b"now").unwrap())]);
            interned.detach(&mut headers);
            headers[DATE].clone()
        };
        assert_eq!(said().as_bytes().as_ptr(), said().as_bytes().as_ptr());
    }
}
