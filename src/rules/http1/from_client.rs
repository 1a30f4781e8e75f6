//! The head of a request, as a client sends it, and what it says of its body and of the connection.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::body::Framing;
use super::fields::{digits, field};
use super::names::Names;
use super::to_client::Terms;
use crate::rules::headers::hop::options;

/// Header lines of a request: what nginx and Apache take by themselves, too.
pub const LINES_MAX: usize = 100;

/// Bytes of a target: what the http crate has room for.
pub const TARGET_MAX: usize = 65_534;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// What is to be done.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Its headers, as they came; of several equal lengths one, and none beside a Transfer-Encoding.
    pub headers: HeaderMap,
    /// Where its body ends; `None` if it has none.
    pub framing: Option<Framing>,
    /// Its client waits for word before it sends the body.
    pub expects_word: bool,
    /// What of it matters for the answer.
    pub terms: Terms,
}

/// What is wrong with the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// Not HTTP/1.
    #[error("what has come is not the head of a request")]
    Syntax(#[source] httparse::Error),
    /// Its target is none.
    #[error("the target of the request is none")]
    Target,
    /// Its target is longer than [`TARGET_MAX`].
    #[error("the target of the request has more than {TARGET_MAX} bytes")]
    TargetTooLong,
    /// Its head is longer than it may be, or has more lines than [`LINES_MAX`].
    #[error("the head of the request is longer than it may be, or has more than {LINES_MAX} lines")]
    TooLarge,
    /// Its length is no number, or there are two.
    #[error("Content-Length is not one number")]
    Length,
    /// It does not end in `chunked`, so that nobody could tell where the body ends; or any in HTTP/1.0, which knows none.
    #[error("a Transfer-Encoding that does not end in chunked, or in HTTP/1.0")]
    Coding,
}

impl BadHead {
    /// Status of the answer: 400, 414 or 431.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Syntax(_) | Self::Target | Self::Length | Self::Coding => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// Reads a head of up to `most` bytes, and says how many it takes; `None` if it is not all there. It holds on to the bytes. `spare` gives a
/// map for its headers.
///
/// # Errors
/// What comes is not the head of a request, or not one that can be answered.
pub fn read(bytes: &Bytes, most: usize, spare: impl FnOnce() -> HeaderMap, names: &mut Names) -> Result<Option<(Head, usize)>, BadHead> {
    let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; LINES_MAX];
    let mut read = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut read, bytes, &mut lines);
    let taken = match parsed {
        Ok(httparse::Status::Complete(taken)) if taken <= most => taken,
        Ok(httparse::Status::Partial) if bytes.len() < most => return Ok(None),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(BadHead::TooLarge);
        }
        Err(error) => return Err(BadHead::Syntax(error)),
    };
    let method = read.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let method = method.ok_or(BadHead::Syntax(httparse::Error::Token))?;
    let target = read.path.unwrap_or_default();
    if target.len() > TARGET_MAX {
        return Err(BadHead::TargetTooLong);
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| BadHead::Target)?;
    let version = if read.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let is_head = method == Method::HEAD;
    let mut head = Head {
        method,
        uri,
        version,
        headers: spare(),
        framing: None,
        expects_word: false,
        terms: Terms { is_head, version, keeps_alive: version == Version::HTTP_11, takes_trailers: false },
    };
    head.fill(bytes, read.headers, names)?;
    Ok(Some((head, taken)))
}

impl Head {
    fn fill(&mut self, bytes: &Bytes, lines: &[httparse::Header<'_>], names: &mut Names) -> Result<(), BadHead> {
        let (mut length, mut is_chunked, mut says_close) = (None, None, false);
        self.headers.clear();
        self.headers.reserve(lines.len());
        for line in lines {
            let (name, value) = field(bytes, line, names).map_err(BadHead::Syntax)?;
            match name {
                TRANSFER_ENCODING => is_chunked = Some(ends_in_chunked(&value)),
                CONTENT_LENGTH => {
                    let number = digits(value.as_bytes()).ok_or(BadHead::Length)?;
                    match length {
                        None => length = Some(number),
                        Some(before) if before == number => continue,
                        Some(_) => return Err(BadHead::Length),
                    }
                }
                CONNECTION => {
                    for option in options(&value) {
                        says_close |= option.eq_ignore_ascii_case(b"close");
                        self.terms.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                EXPECT => self.expects_word = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
                TE => self.terms.takes_trailers |= options(&value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
                _ => {}
            }
            self.headers.append(name, value);
        }
        self.framing = match (is_chunked, length) {
            (Some(is_chunked), _) if !is_chunked || self.version != Version::HTTP_11 => return Err(BadHead::Coding),
            (Some(_), length) => {
                if length.is_some() {
                    // one who does not know of chunks sees another end of it: nothing may follow (RFC 9112, section 6.3)
                    self.headers.remove(CONTENT_LENGTH);
                    says_close = true;
                }
                Some(Framing::Chunked)
            }
            (None, length) => length.filter(|&length| length > 0).map(Framing::Length),
        };
        self.terms.keeps_alive &= !says_close;
        self.expects_word &= self.framing.is_some() && self.version == Version::HTTP_11;
        Ok(())
    }
}

fn ends_in_chunked(value: &HeaderValue) -> bool {
    let last = value.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 16 * 1024;

    fn of(text: &str) -> Head {
        let (head, taken) = read(&Bytes::copy_from_slice(text.as_bytes()), MOST, HeaderMap::new, &mut Names::default()).unwrap().unwrap();
        assert_eq!(taken, text.len());
        head
    }

    fn with(lines: &str) -> Head {
        of(&format!("POST / HTTP/1.1\r\n{lines}\r\n"))
    }

    fn bad(text: &str) -> BadHead {
        read(&Bytes::copy_from_slice(text.as_bytes()), MOST, HeaderMap::new, &mut Names::default()).unwrap_err()
    }

    #[test]
    fn a_head_is_read_and_what_follows_is_left() {
        let bytes = Bytes::from_static(b"GET /a?b HTTP/1.1\r\nHost: c\r\nX-A:1\r\nx-a: \t2 \r\nX-Empty:\r\n\r\nGET /next");
        let spare = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static("of before"))]);
        let (head, taken) = read(&bytes, MOST, || spare, &mut Names::default()).unwrap().unwrap();
        assert_eq!(&bytes[taken..], b"GET /next");
        assert_eq!((&head.method, head.uri.to_string().as_str(), head.version), (&Method::GET, "/a?b", Version::HTTP_11));
        let listed: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(listed, [("host", "c"), ("x-a", "1"), ("x-a", "2"), ("x-empty", "")]);
        assert_eq!((head.framing, head.expects_word), (None, false));
        assert_eq!(head.terms, Terms { is_head: false, version: Version::HTTP_11, keeps_alive: true, takes_trailers: false });
        assert!(of("HEAD / HTTP/1.1\r\n\r\n").terms.is_head);
        // some end their lines so, and some send an empty one first
        assert_eq!(of("\r\nGET / HTTP/1.1\na: b\n\n").headers.len(), 1);
    }

    #[test]
    fn half_a_head_is_none() {
        let whole = b"GET / HTTP/1.1\r\na: b\r\n\r\n";
        for end in 0..whole.len() {
            assert!(read(&Bytes::copy_from_slice(&whole[..end]), MOST, HeaderMap::new, &mut Names::default()).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn a_head_has_a_bound_and_so_has_each_of_its_parts() {
        let long = |bytes: usize| format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(bytes - 23));
        assert_eq!(of(&long(MOST)).headers.len(), 1);
        assert_eq!(bad(&long(MOST + 1)), BadHead::TooLarge);
        assert_eq!(bad(&long(MOST + 1)[..MOST]), BadHead::TooLarge, "it can't be whole any more");
        let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(of(&lines(LINES_MAX)).headers.len(), LINES_MAX);
        assert_eq!(bad(&lines(LINES_MAX + 1)), BadHead::TooLarge);
        let target = |bytes: usize| {
            let text = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(bytes - 1));
            read(&Bytes::from(text), 1 << 20, HeaderMap::new, &mut Names::default()).map(|head| head.is_some())
        };
        assert_eq!((target(TARGET_MAX), target(TARGET_MAX + 1)), (Ok(true), Err(BadHead::TargetTooLong)));
        let statuses = [BadHead::TooLarge, BadHead::TargetTooLong, BadHead::Target, BadHead::Length].map(|bad| bad.status().as_u16());
        assert_eq!(statuses, [431, 414, 400, 400]);
    }

    #[test]
    fn what_is_no_head_of_a_request() {
        for (text, error) in [
            ("GET / HTTP/2.0\r\n\r\n", httparse::Error::Version),
            ("GET /\r\n\r\n", httparse::Error::Token),
            ("\x16\x03\x01\x02", httparse::Error::Token),
            ("GET /\x01 HTTP/1.1\r\n\r\n", httparse::Error::Token),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", httparse::Error::HeaderName),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", httparse::Error::HeaderName),
            ("GET / HTTP/1.1\r\na: \0\r\n\r\n", httparse::Error::HeaderValue),
        ] {
            assert_eq!(bad(text), BadHead::Syntax(error), "{text:?}");
        }
        assert_eq!(bad("GET #a HTTP/1.1\r\n\r\n"), BadHead::Target);
    }

    #[test]
    fn where_a_body_ends() {
        let framing = |lines: &str| with(lines).framing;
        assert_eq!(framing("Content-Length: 5\r\n"), Some(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 0\r\n"), None);
        let twice = with("Content-Length: 5\r\nContent-Length: 05\r\n");
        assert_eq!((twice.framing, twice.headers.get_all(CONTENT_LENGTH).iter().count()), (Some(Framing::Length(5)), 1));
        for lines in ["", "+5", "5, 5", "5 5", "18446744073709551616", "5\r\nContent-Length: 6"] {
            assert_eq!(bad(&format!("POST / HTTP/1.1\r\nContent-Length: {lines}\r\n\r\n")), BadHead::Length, "{lines:?}");
        }
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Some(Framing::Chunked));
        // which of them the gate knows is not settled here
        assert_eq!(framing("Transfer-Encoding: gzip, chunked\r\n"), Some(Framing::Chunked));
        for coding in ["gzip", "chunked, gzip", "", "xchunked", "chunked\r\nTransfer-Encoding: gzip"] {
            assert_eq!(bad(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n")), BadHead::Coding, "{coding:?}");
        }
        assert_eq!(bad("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), BadHead::Coding);
    }

    #[test]
    fn who_names_a_length_and_a_coding_is_the_last_of_its_connection() {
        for lines in ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"] {
            let head = with(&format!("{lines}Connection: keep-alive\r\n"));
            assert_eq!((head.framing, head.terms.keeps_alive), (Some(Framing::Chunked), false));
            assert!(!head.headers.contains_key(CONTENT_LENGTH));
        }
    }

    #[test]
    fn which_connection_carries_another_request() {
        let keeps_alive = |version: &str, lines: &str| of(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).terms.keeps_alive;
        assert!(keeps_alive("1.1", ""));
        assert!(!keeps_alive("1.1", "Connection: x, Close\r\n"));
        assert!(!keeps_alive("1.1", "Connection: close\r\nConnection: keep-alive\r\n"));
        assert!(!keeps_alive("1.0", ""));
        assert!(keeps_alive("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!keeps_alive("1.0", "Connection: keep-alive, close\r\n"));
    }

    #[test]
    fn who_waits_for_word_has_something_to_send() {
        assert!(with("Expect: 100-Continue\r\nContent-Length: 1\r\n").expects_word);
        assert!(!with("Expect: 100-continue\r\n").expects_word);
        assert!(!with("Expect: 200-ok\r\nContent-Length: 1\r\n").expects_word);
        assert!(!of("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").expects_word);
        assert!(with("TE: gzip, Trailers\r\n").terms.takes_trailers && !with("TE: gzip\r\n").terms.takes_trailers);
    }
}
