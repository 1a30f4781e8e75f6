//! A body in chunks, as it is written to either side.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName};

use super::fields::write_fields;
use crate::rules::headers::hop::options;

/// What comes after the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Writes what comes before the data of a chunk. One of nothing would be the last.
pub fn write_chunk_size(out: &mut Vec<u8>, bytes: usize) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = (bytes.max(1).ilog2() / 4) + 1;
    out.extend((0..digits).rev().map(|place| DIGITS[(bytes >> (4 * place)) & 0xf]));
    out.extend_from_slice(b"\r\n");
}

/// Writes what ends a body in chunks.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<(&HeaderMap, &[HeaderName])>) {
    out.extend_from_slice(b"0\r\n");
    if let Some((trailers, announced)) = trailers {
        write_fields(out, trailers.iter().filter(|(name, _)| announced.contains(name) && may_trail(name)));
    }
    out.extend_from_slice(b"\r\n");
}

/// The trailers that a head has announced: others are not sent, since who gets them unannounced makes of them what it likes.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.get_all(TRAILER).iter().flat_map(options).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// Whether a field may come after the body (RFC 9110, section 6.5.1): not one by which the message is framed, routed, allowed or read.
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        AUTHORIZATION
            | CACHE_CONTROL
            | CONTENT_ENCODING
            | CONTENT_LENGTH
            | CONTENT_RANGE
            | CONTENT_TYPE
            | HOST
            | MAX_FORWARDS
            | SET_COOKIE
            | TE
            | TRAILER
            | TRANSFER_ENCODING
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::http1::fields::headers;

    #[test]
    fn chunks() {
        for bytes in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 0xdead_beef, usize::MAX] {
            let mut out = Vec::new();
            write_chunk_size(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{bytes:X}\r\n"));
        }
        let last = |trailers| {
            let mut out = Vec::new();
            write_last_chunk(&mut out, trailers);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(last(None), "0\r\n\r\n");
        let announced = announced(&headers(&[("trailer", "X-Sum, content-length,,"), ("trailer", "x-other")]));
        let trailers = headers(&[("x-sum", "1"), ("x-sum", "2"), ("content-length", "5"), ("x-unknown", "3")]);
        assert_eq!(last(Some((&trailers, &announced))), "0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n");
    }
}
