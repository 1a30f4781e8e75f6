//! A request, as it is written to a server.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use memchr::memmem;

use super::fields::{content_length, write_fields};

/// How it is told where the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length: so many bytes are still to be sent.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Settles how a body is framed, and says so in the headers. A length that the client has named stands. `exact` is the length of the body
/// if it is known.
pub fn frame(headers: &mut HeaderMap, exact: Option<u64>) -> Framing {
    let named = content_length(headers).ok().flatten();
    let length = if headers.contains_key(TRANSFER_ENCODING) { None } else { named.or(exact) };
    let Some(length) = length else {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        return Framing::Chunked;
    };
    if named.is_none() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Framing::Length(length)
}

/// Writes the head of a request.
pub fn write_head(out: &mut Vec<u8>, method: &Method, uri: &Uri, headers: &HeaderMap) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    // in origin form: with an authority, the target of a proxy's request, a server would take it for another host's
    out.extend_from_slice(uri.path().as_bytes());
    if let Some(query) = uri.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, headers);
    out.extend_from_slice(b"\r\n");
}

/// The head that was written so; `None` if it is not all of one.
#[must_use]
pub fn read_back(head: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let lines = head.strip_suffix(b"\r\n")?;
    let (first, mut lines) = split_at(lines, b"\r\n")?;
    let (method, rest) = split_at(first, b" ")?;
    let (target, version) = split_at(rest, b" ")?;
    if version != b"HTTP/1.1" {
        return None;
    }
    let mut headers = HeaderMap::new();
    while !lines.is_empty() {
        let (line, rest) = split_at(lines, b"\r\n")?;
        let (name, value) = split_at(line, b": ")?;
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        lines = rest;
    }
    Some((Method::from_bytes(method).ok()?, Uri::try_from(target).ok()?, headers))
}

/// What comes before the first of these bytes, and what after.
fn split_at<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(bytes, separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::http1::fields::headers;

    fn written(method: &str, target: &str, headers: &HeaderMap) -> Vec<u8> {
        let mut out = Vec::new();
        write_head(&mut out, &method.parse().unwrap(), &target.parse().unwrap(), headers);
        out
    }

    #[test]
    fn a_head_is_written_in_origin_form() {
        let some = headers(&[("host", "a:1"), ("x-empty", ""), ("cookie", "a=b; c=d")]);
        let expected = "GET /a//..;?b=c HTTP/1.1\r\nhost: a:1\r\nx-empty: \r\ncookie: a=b; c=d\r\n\r\n";
        assert_eq!(String::from_utf8(written("GET", "/a//..;?b=c", &some)).unwrap(), expected);
        for (target, line) in
            [("*", "*"), ("/", "/"), ("/?", "/?"), ("http://elsewhere/b", "/b"), ("http://elsewhere", "/"), ("/%C3%BC", "/%C3%BC")]
        {
            let expected = format!("OPTIONS {line} HTTP/1.1\r\n\r\n");
            assert_eq!(String::from_utf8(written("OPTIONS", target, &HeaderMap::new())).unwrap(), expected);
        }
        let of_query = Uri::from("?a".parse::<http::uri::PathAndQuery>().unwrap());
        let mut out = Vec::new();
        write_head(&mut out, &Method::GET, &of_query, &HeaderMap::new());
        assert_eq!(out, b"GET /?a HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn what_was_written_is_read_back_the_same() {
        let long = "l".repeat(5000);
        let some = headers(&[
            ("host", "a:1"),
            ("x-two", "1"),
            ("x-empty", ""),
            ("cookie", "a=b; c=\u{fc}:\t\"d\": "),
            ("x-two", "2"),
            ("x-long", &long),
        ]);
        for target in ["/", "/a?b=c:d", "*", "/%C3%BC//..;?"] {
            let (method, uri, headers) = read_back(&written("PUT", target, &some)).unwrap();
            assert_eq!((method, uri.to_string()), (Method::PUT, target.to_owned()));
            assert_eq!(headers, some);
        }
    }

    #[test]
    fn half_a_head_is_no_request() {
        const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nhost: b\r\n\r\n";
        for end in 0..HEAD.len() {
            assert!(read_back(&HEAD[..end]).is_none(), "{}", HEAD[..end].escape_ascii());
        }
        assert!(read_back(HEAD).is_some());
        for other in
            ["GET /a HTTP/1.0\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\nhost:b\r\n\r\n", "GET /a HTTP/1.1\r\n: b\r\n\r\n"]
        {
            assert!(read_back(other.as_bytes()).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_body_is_framed_in_one_way() {
        let framed = |list: &[(&'static str, &str)], exact| {
            let mut headers = headers(list);
            let framing = frame(&mut headers, exact);
            let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (framing, said("content-length"), said("transfer-encoding"))
        };
        let chunked = || (Framing::Chunked, None, Some("chunked".to_owned()));
        let length = |length: u64| (Framing::Length(length), Some(length.to_string()), None);
        assert_eq!(framed(&[], None), chunked());
        assert_eq!(framed(&[], Some(3)), length(3));
        assert_eq!(framed(&[("content-length", "5")], None), length(5));
        assert_eq!(framed(&[("content-length", "5")], Some(5)), length(5));
        assert_eq!(framed(&[("content-length", "x")], None), chunked());
        assert_eq!(framed(&[("transfer-encoding", "chunked")], Some(3)), chunked());
        assert_eq!(framed(&[("transfer-encoding", "gzip"), ("content-length", "5")], None), chunked());
    }
}
