//! The head of an answer, as it is written to a client, and how its body is framed.

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, StatusCode, Version};

use super::body::Framing;
use super::chunks::announced;
use super::fields::{content_length, write_digits, write_field};
use crate::rules::headers::hop::options;

/// What of a request matters for the answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// For a head alone.
    pub is_head: bool,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Another may follow on the connection.
    pub keeps_alive: bool,
    /// Its client takes what comes after a body.
    pub takes_trailers: bool,
}

/// What is known of a body before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is none.
    Nothing,
    /// Its bytes.
    Length(u64),
    /// Not even that.
    Unknown,
}

/// What follows a head that was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the body ends.
    pub framing: Framing,
    /// Another request may follow.
    pub keeps_alive: bool,
    /// What may come after the body.
    pub announced: Vec<HeaderName>,
}

/// Writes the head of an answer. `reason` are its words for the status, if they are others than those that everybody uses; `date` is a
/// whole line, for an answer that names none.
pub fn write_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    reason: Option<&[u8]>,
    headers: &HeaderMap,
    body: Known,
    terms: Terms,
    date: &[u8],
) -> Written {
    let (framing, length) = frame(status, headers, body, terms);
    write_status(out, status, reason, terms.version);
    let (mut names_connection, mut says_close, mut names_date) = (false, false, false);
    for (name, value) in headers {
        match *name {
            CONTENT_LENGTH | TRANSFER_ENCODING => continue,
            TRAILER if framing != Framing::Chunked => continue,
            CONNECTION => {
                names_connection = true;
                says_close |= options(value).any(|option| option.eq_ignore_ascii_case(b"close"));
            }
            DATE => names_date = true,
            _ => {}
        }
        write_field(out, name, value);
    }
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        write_digits(out, length);
        out.extend_from_slice(b"\r\n");
    }
    if framing == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let keeps_alive = terms.keeps_alive && !says_close && framing != Framing::Close && status != StatusCode::SWITCHING_PROTOCOLS;
    match (keeps_alive, terms.version) {
        (false, Version::HTTP_11) if !says_close && status != StatusCode::SWITCHING_PROTOCOLS => {
            out.extend_from_slice(b"connection: close\r\n")
        }
        (true, Version::HTTP_10) if !names_connection => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false | true, _) => {}
    }
    if !names_date {
        out.extend_from_slice(date);
    }
    out.extend_from_slice(b"\r\n");
    let takes_trailers = framing == Framing::Chunked && terms.takes_trailers;
    Written { framing, keeps_alive, announced: if takes_trailers { announced(headers) } else { Vec::new() } }
}

/// Where the body ends (RFC 9110, section 8.6; RFC 9112, section 6.3), and the length that is named.
fn frame(status: StatusCode, headers: &HeaderMap, body: Known, terms: Terms) -> (Framing, Option<u64>) {
    const NOTHING: Framing = Framing::Length(0);
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return (NOTHING, None);
    }
    let named = || content_length(headers).ok().flatten();
    if terms.is_head {
        // how long it would be, if that is known
        let would_be = match body {
            Known::Length(length) => Some(length),
            Known::Nothing | Known::Unknown => None,
        };
        return (NOTHING, named().or(would_be));
    }
    let length = match body {
        Known::Nothing => Some(0),
        Known::Length(length) => Some(length),
        Known::Unknown => named(),
    };
    match length {
        Some(length) => (Framing::Length(length), Some(length)),
        None if terms.version == Version::HTTP_10 => (Framing::Close, None),
        None => (Framing::Chunked, None),
    }
}

fn write_status(out: &mut Vec<u8>, status: StatusCode, reason: Option<&[u8]>, version: Version) {
    if status == StatusCode::OK && version == Version::HTTP_11 && reason.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes()));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::http1::fields::headers;

    const DATE_LINE: &[u8] = b"date: now\r\n";
    const TERMS: Terms = Terms { is_head: false, version: Version::HTTP_11, keeps_alive: true, takes_trailers: false };

    /// What is written for a status and headers, without its end; and what follows.
    fn written(status: u16, list: &[(&'static str, &'static str)], body: Known, terms: Terms) -> (String, Written) {
        let mut out = Vec::new();
        let status = StatusCode::from_u16(status).unwrap();
        let written = write_head(&mut out, status, None, &headers(list), body, terms, DATE_LINE);
        (String::from_utf8(out).unwrap().strip_suffix("\r\n\r\n").unwrap().replace("\r\n", "|"), written)
    }

    fn lines(status: u16, list: &[(&'static str, &'static str)], body: Known, terms: Terms) -> String {
        let (lines, _) = written(status, list, body, terms);
        lines.split_once('|').unwrap().1.strip_suffix("|date: now").unwrap_or_default().to_owned()
    }

    #[test]
    fn a_head_is_written() {
        let (head, followed) = written(200, &[("x-a", "1"), ("x-a", "2"), ("x-empty", "")], Known::Length(5), TERMS);
        assert_eq!(head, "HTTP/1.1 200 OK|x-a: 1|x-a: 2|x-empty: |content-length: 5|date: now");
        assert_eq!(followed, Written { framing: Framing::Length(5), keeps_alive: true, announced: Vec::new() });
        let first = |status: u16, reason: Option<&[u8]>, version| {
            let mut out = Vec::new();
            write_status(&mut out, StatusCode::from_u16(status).unwrap(), reason, version);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(first(404, None, Version::HTTP_11), "HTTP/1.1 404 Not Found\r\n");
        assert_eq!(first(200, Some(b"Fine"), Version::HTTP_11), "HTTP/1.1 200 Fine\r\n");
        assert_eq!(first(200, None, Version::HTTP_10), "HTTP/1.0 200 OK\r\n");
        assert_eq!(first(599, None, Version::HTTP_11), "HTTP/1.1 599 \r\n");
    }

    #[test]
    fn the_date_of_an_answer_stands() {
        assert_eq!(written(200, &[("date", "then")], Known::Nothing, TERMS).0, "HTTP/1.1 200 OK|date: then|content-length: 0");
    }

    #[test]
    fn a_length_is_named_once_and_as_a_number() {
        for named in ["5", "5, 5", "05"] {
            assert_eq!(lines(200, &[("content-length", named)], Known::Unknown, TERMS), "content-length: 5");
            assert_eq!(lines(200, &[("content-length", named), ("content-length", named)], Known::Length(5), TERMS), "content-length: 5");
        }
        assert_eq!(lines(200, &[("content-length", "x")], Known::Unknown, TERMS), "transfer-encoding: chunked");
        assert_eq!(lines(200, &[("transfer-encoding", "gzip")], Known::Length(5), TERMS), "content-length: 5");
    }

    #[test]
    fn without_a_length_a_body_goes_in_chunks_or_until_the_end() {
        let (head, followed) = written(200, &[], Known::Unknown, TERMS);
        assert_eq!((head.as_str(), followed.framing), ("HTTP/1.1 200 OK|transfer-encoding: chunked|date: now", Framing::Chunked));
        assert!(followed.keeps_alive);
        let (head, followed) = written(200, &[], Known::Unknown, Terms { version: Version::HTTP_10, ..TERMS });
        assert_eq!((head.as_str(), followed.framing), ("HTTP/1.0 200 OK|date: now", Framing::Close));
        assert!(!followed.keeps_alive);
    }

    #[test]
    fn what_has_no_body_names_no_length_but_for_head() {
        for status in [101, 204, 304] {
            let (_, followed) = written(status, &[("content-length", "5")], Known::Length(5), TERMS);
            assert_eq!(followed.framing, Framing::Length(0), "{status}");
            assert_eq!(lines(status, &[("content-length", "5"), ("connection", "x")], Known::Nothing, TERMS), "connection: x", "{status}");
        }
        let head = Terms { is_head: true, ..TERMS };
        for (list, body, expected) in [
            (&[("content-length", "5")][..], Known::Nothing, "content-length: 5"),
            (&[], Known::Length(7), "content-length: 7"),
            (&[], Known::Nothing, ""),
            (&[], Known::Unknown, ""),
        ] {
            assert_eq!(lines(200, list, body, head), expected);
            assert_eq!(written(200, list, body, head).1.framing, Framing::Length(0));
        }
        assert_eq!(lines(200, &[], Known::Nothing, TERMS), "content-length: 0");
    }

    #[test]
    fn it_is_said_whether_the_connection_goes_on() {
        let said = |version, keeps_alive, list| {
            let terms = Terms { version, keeps_alive, ..TERMS };
            (
                lines(200, list, Known::Nothing, terms).replace("content-length: 0", ""),
                written(200, list, Known::Nothing, terms).1.keeps_alive,
            )
        };
        let close: &[_] = &[("connection", "close")];
        assert_eq!(said(Version::HTTP_11, true, &[]), (String::new(), true));
        assert_eq!(said(Version::HTTP_11, false, &[]), ("|connection: close".to_owned(), false));
        assert_eq!(said(Version::HTTP_11, true, close), ("connection: close|".to_owned(), false));
        assert_eq!(said(Version::HTTP_11, false, close), ("connection: close|".to_owned(), false));
        assert_eq!(said(Version::HTTP_10, true, &[]), ("|connection: keep-alive".to_owned(), true));
        assert_eq!(said(Version::HTTP_10, false, &[]), (String::new(), false));
        assert_eq!(said(Version::HTTP_10, true, close), ("connection: close|".to_owned(), false));
        let (head, followed) = written(101, &[("connection", "upgrade"), ("upgrade", "websocket")], Known::Nothing, TERMS);
        assert_eq!(head, "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket|date: now");
        assert!(!followed.keeps_alive);
    }

    #[test]
    fn trailers_are_for_who_takes_them() {
        let of = |takes_trailers, body| {
            let list = [("trailer", "x-sum, x-other")];
            let (head, followed) = written(200, &list, body, Terms { takes_trailers, ..TERMS });
            (head.contains("trailer: "), followed.announced.len())
        };
        assert_eq!(of(true, Known::Unknown), (true, 2));
        assert_eq!(of(false, Known::Unknown), (true, 0));
        assert_eq!(of(true, Known::Length(5)), (false, 0));
    }
}
