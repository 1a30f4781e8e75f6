//! The head of an answer, as a server sends it, and what it says of its body.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use super::body::Framing;
use super::fields::{content_length, field};
use super::names::Names;
use crate::rules::headers::hop::options;

/// Header lines of an answer: twice what most servers take in a request, and far more than sites send.
pub const LINES_MAX: usize = 256;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// What has become of the request.
    pub status: StatusCode,
    /// Its words for it, if they are others than those that everybody uses.
    pub reason: Option<Bytes>,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Its headers, as they came.
    pub headers: HeaderMap,
}

/// What is wrong with the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// Not HTTP/1.
    #[error("what has come is not the head of an answer")]
    Syntax(#[source] httparse::Error),
    /// More lines than [`LINES_MAX`].
    #[error("more than {LINES_MAX} header lines")]
    TooManyLines,
    /// A status below 100.
    #[error("a status below 100")]
    Status,
    /// Its length is no number, or there are two.
    #[error("Content-Length is not one number")]
    Length,
    /// A coding that nobody has asked for, so that the client could not read it; or any in HTTP/1.0, which knows none: what follows can be
    /// read in two ways.
    #[error("a Transfer-Encoding that is not chunked, or in an answer of HTTP/1.0")]
    Coding,
}

/// Reads a head, and says how many bytes it takes; `None` if it is not all there. It holds on to the bytes.
///
/// # Errors
/// What comes is not the head of an answer.
pub fn read(bytes: &Bytes, mut spare: HeaderMap, names: &mut Names) -> Result<Option<(Head, usize)>, BadHead> {
    let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; LINES_MAX];
    let mut read = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut read, bytes, &mut lines);
    let taken = match parsed {
        Ok(httparse::Status::Complete(taken)) => taken,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyLines),
        Err(error) => return Err(BadHead::Syntax(error)),
    };
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadHead::Status)?;
    let reason = read.reason.filter(|&reason| status.canonical_reason() != Some(reason));
    let reason = reason.map(|reason| bytes.slice_ref(reason.as_bytes()));
    let version = if read.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    spare.clear();
    spare.reserve(read.headers.len());
    for line in &*read.headers {
        let (name, value) = field(bytes, line, names).map_err(BadHead::Syntax)?;
        spare.append(name, value);
    }
    Ok(Some((Head { status, reason, version, headers: spare }, taken)))
}

impl Head {
    /// Where the body ends (RFC 9112, section 6.3). Of what answers HEAD there is none.
    ///
    /// # Errors
    /// It can't be told, or only in two ways.
    pub fn framing(&self, answers_head: bool) -> Result<Framing, BadHead> {
        if answers_head || self.status.is_informational() || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Framing::Length(0));
        }
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            let is_one = codings.next().is_none();
            return if is_one && is_chunked && self.version == Version::HTTP_11 { Ok(Framing::Chunked) } else { Err(BadHead::Coding) };
        }
        Ok(content_length(&self.headers).map_err(|_| BadHead::Length)?.map_or(Framing::Close, Framing::Length))
    }

    /// Whether the connection may carry another request: HTTP/1.0 is not relied on, whatever it says.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        let mut options = self.headers.get_all(CONNECTION).iter().flat_map(options);
        self.version == Version::HTTP_11 && !options.any(|option| option.eq_ignore_ascii_case(b"close"))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(text: &str) -> Head {
        let (head, taken) = read(&Bytes::copy_from_slice(text.as_bytes()), HeaderMap::new(), &mut Names::default()).unwrap().unwrap();
        assert_eq!(taken, text.len());
        head
    }

    fn bad(text: &str) -> BadHead {
        read(&Bytes::copy_from_slice(text.as_bytes()), HeaderMap::new(), &mut Names::default()).unwrap_err()
    }

    #[test]
    fn a_head_is_read_and_what_follows_is_left() {
        let bytes = Bytes::from_static(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nX-A:1\r\nx-a: \t2 \r\nX-Empty:\r\n\r\nbody");
        let (head, taken) = read(&bytes, HeaderMap::new(), &mut Names::default()).unwrap().unwrap();
        assert_eq!(&bytes[taken..], b"body");
        assert_eq!((head.status, head.reason, head.version), (StatusCode::NOT_FOUND, None, Version::HTTP_11));
        let listed: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(listed, [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2"), ("x-empty", "")]);
    }

    #[test]
    fn what_a_map_held_before_is_gone() {
        let spare = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static("close"))]);
        let (head, _) = read(&Bytes::from_static(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"), spare, &mut Names::default()).unwrap().unwrap();
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn other_words_for_a_status_are_kept() {
        assert_eq!(of("HTTP/1.1 200 Fine\r\n\r\n").reason.unwrap(), "Fine");
        assert_eq!(of("HTTP/1.1 200\r\n\r\n").reason.unwrap(), "");
        assert_eq!(of("HTTP/1.0 599 Odd\r\n\r\n").version, Version::HTTP_10);
    }

    #[test]
    fn half_a_head_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(read(&Bytes::copy_from_slice(&whole[..end]), HeaderMap::new(), &mut Names::default()), Ok(None), "{end}");
        }
        // some end their lines so
        assert_eq!(of("HTTP/1.1 200 OK\na: b\n\n").headers.len(), 1);
    }

    #[test]
    fn what_is_no_head_of_an_answer() {
        assert_eq!(bad("SSH-2.0-OpenSSH_9.2\r\n"), BadHead::Syntax(httparse::Error::Version));
        assert_eq!(bad("HTTP/2.0 200 OK\r\n\r\n"), BadHead::Syntax(httparse::Error::Version));
        assert_eq!(bad("HTTP/1.1 099 Odd\r\n\r\n"), BadHead::Status);
        for (line, error) in [
            ("a b: c", httparse::Error::HeaderName),
            ("a : c", httparse::Error::HeaderName),
            (": c", httparse::Error::HeaderName),
            ("a: \0", httparse::Error::HeaderValue),
            ("a: b\r\n c", httparse::Error::HeaderName),
        ] {
            assert_eq!(bad(&format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n")), BadHead::Syntax(error), "{line:?}");
        }
        let lines = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(of(&lines(LINES_MAX)).headers.len(), LINES_MAX);
        assert_eq!(bad(&lines(LINES_MAX + 1)), BadHead::TooManyLines);
    }

    #[test]
    fn where_a_body_ends() {
        let framing = |head: &str| of(&format!("HTTP/1.1 200 OK\r\n{head}\r\n")).framing(false);
        assert_eq!(framing(""), Ok(Framing::Close));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5, 5\r\nContent-Length: 05\r\n"), Ok(Framing::Length(5)));
        for length in ["", "+5", "-1", "5 5", "5,6", "0x5", "5;", "18446744073709551616"] {
            assert_eq!(framing(&format!("Content-Length: {length}\r\n")), Err(BadHead::Length), "{length:?}");
        }
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 6\r\n"), Err(BadHead::Length));
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: x\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing("Transfer-Encoding:\t Chunked \r\n"), Ok(Framing::Chunked));
        for coding in ["gzip, chunked", "chunked, gzip", "gzip", "xchunked", "identity", "", "chunked\r\nTransfer-Encoding: chunked"] {
            assert_eq!(framing(&format!("Transfer-Encoding: {coding}\r\n")), Err(BadHead::Coding), "{coding:?}");
        }
        assert_eq!(of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").framing(false), Err(BadHead::Coding));
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").framing(true), Ok(Framing::Length(0)));
        for status in [101, 204, 304] {
            assert_eq!(of(&format!("HTTP/1.1 {status} \r\nContent-Length: 5\r\n\r\n")).framing(false), Ok(Framing::Length(0)), "{status}");
        }
    }

    #[test]
    fn which_connection_carries_another_request() {
        assert!(of("HTTP/1.1 200 OK\r\n\r\n").keeps_alive());
        assert!(!of("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nconnection: x, Close\r\n\r\n").keeps_alive());
        assert!(!of("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n").keeps_alive());
    }
}
