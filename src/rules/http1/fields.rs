//! What the heads of messages have in common, whichever side they are of.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;

use super::names::Names;

/// Whether there can be the end of a head in what has come from here on.
#[must_use]
pub fn has_end(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\n\r\n").is_some() || memmem::find(bytes, b"\n\n").is_some()
}

/// What a line says. It holds on to the bytes.
pub(super) fn field(bytes: &Bytes, line: &httparse::Header<'_>, names: &mut Names) -> Result<(HeaderName, HeaderValue), httparse::Error> {
    let name = names.read(line.name.as_bytes()).ok_or(httparse::Error::HeaderName)?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_| httparse::Error::HeaderValue)?;
    Ok((name, value))
}

pub(super) fn write_fields<'a>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in fields {
        write_field(out, name, value);
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What is said of a length is no number, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOneNumber;

/// The length that a message names. Lines or a list that say the same are one.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, NotOneNumber> {
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        for number in line.as_bytes().split(|&byte| byte == b',') {
            let number = digits(number.trim_ascii()).ok_or(NotOneNumber)?;
            if *length.get_or_insert(number) != number {
                return Err(NotOneNumber);
            }
        }
    }
    Ok(length)
}

/// A number of nothing but digits.
pub(super) fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes a number.
pub(super) fn write_digits(out: &mut Vec<u8>, number: u64) {
    let places = number.checked_ilog10().unwrap_or(0) + 1;
    out.extend((0..places).rev().map(|place| b'0' + (number / 10_u64.pow(place) % 10) as u8));
}

/// Headers of these names, for tests.
#[cfg(test)]
pub(super) fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_seen() {
        let whole = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n";
        assert!((0..whole.len()).all(|end| !has_end(&whole[..end])));
        assert!(has_end(whole));
        // some end their lines so
        assert!(has_end(b"HTTP/1.1 200 OK\na: b\n\n"));
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 1, 9, 10, 99, 100, 1024, 10_000_000_000, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            write_digits(&mut out, number);
            assert_eq!((out.as_slice(), digits(&out)), (number.to_string().as_bytes(), Some(number)));
        }
        for other in ["", "+1", "-1", " 1", "1 ", "0x1", "1a", "18446744073709551616", "99999999999999999999999999"] {
            assert_eq!(digits(other.as_bytes()), None, "{other:?}");
        }
    }
}
