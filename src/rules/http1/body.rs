//! A body, piece by piece, and its end.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of chunk extensions in all: nobody uses them, and nothing is made of them.
const EXTENSIONS_MAX: usize = 16 * 1024;

/// Bytes of all trailers.
const TRAILERS_MAX: usize = 16 * 1024;

/// Lines of trailers.
const TRAILER_LINES_MAX: usize = 100;

/// How it is told where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length.
    Length(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Where a body is. It is given what comes, and takes of that what is its own.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Lines of trailers so far.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are still to come.
    Length(u64),
    /// It goes on until the connection ends.
    Close,
    Chunk(Chunk),
    Over,
}

/// What of a chunk comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The first digit of its size.
    Size,
    /// More of it.
    Digits(u64),
    /// The size was followed by a space.
    Space(u64),
    Extension(u64),
    /// The end of the line that names the size.
    LineEnd(u64),
    Data(u64),
    DataEnd,
    DataLineEnd,
    Trailers,
}

/// What has come of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A piece of it, never empty.
    Data(Bytes),
    /// What comes after it, which is the last.
    Trailers(HeaderMap),
    /// It is over; what is left of the bytes is not its own.
    Over,
    /// Nothing more before more comes.
    More,
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// The size of a chunk is no number in base 16.
    #[error("a chunk has no size")]
    Size,
    /// It is one of more than 64 bits.
    #[error("the size of a chunk is above 64 bits")]
    SizeTooLarge,
    /// A line does not end as it must.
    #[error("a chunk does not end where it says")]
    LineEnd,
    /// More of them than anybody needs.
    #[error("more than {EXTENSIONS_MAX} bytes of chunk extensions")]
    Extensions,
    /// Too many, or what is no header.
    #[error("trailers that are none, more than {TRAILER_LINES_MAX} lines or {TRAILERS_MAX} bytes of them")]
    Trailers,
    /// The connection ended before the body did.
    #[error("the connection ended before the body")]
    Incomplete,
}

impl Decoder {
    /// A body that ends so.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunk(Chunk::Size),
            Framing::Close => State::Close,
        };
        Self { state, extensions: 0, trailers: Vec::new() }
    }

    /// Whether nothing more will come.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether only the end of the connection ends it.
    #[must_use]
    pub const fn is_until_close(&self) -> bool {
        matches!(self.state, State::Close)
    }

    /// Bytes that are still to come, if that is known.
    #[must_use]
    pub const fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Over => Some(0),
            State::Close | State::Chunk(_) => None,
        }
    }

    /// Takes what comes next.
    ///
    /// # Errors
    /// It is no body, and can't be gone on with.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, BadBody> {
        match self.state {
            State::Over => Ok(Decoded::Over),
            State::Length(left) if !input.is_empty() => {
                let piece = take(input, left);
                let left = left - piece.len() as u64;
                self.state = if left == 0 { State::Over } else { State::Length(left) };
                Ok(Decoded::Data(piece))
            }
            State::Close if !input.is_empty() => Ok(Decoded::Data(std::mem::take(input))),
            State::Length(_) | State::Close => Ok(Decoded::More),
            State::Chunk(chunk) => self.decode_chunk(chunk, input),
        }
    }

    fn decode_chunk(&mut self, mut chunk: Chunk, input: &mut Bytes) -> Result<Decoded, BadBody> {
        while let Some(&byte) = input.first() {
            if let Chunk::Data(left) = chunk {
                let piece = take(input, left);
                let left = left - piece.len() as u64;
                self.state = State::Chunk(if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) });
                return Ok(Decoded::Data(piece));
            }
            input.advance(1);
            chunk = match (chunk, byte) {
                (Chunk::Size, _) => Chunk::Digits(digit(byte)?),
                (Chunk::Digits(size) | Chunk::Space(size), b' ' | b'\t') => Chunk::Space(size),
                (Chunk::Digits(size) | Chunk::Space(size), b';') => Chunk::Extension(size),
                (Chunk::Digits(size) | Chunk::Space(size) | Chunk::Extension(size), b'\r') => Chunk::LineEnd(size),
                (Chunk::Digits(size), _) => {
                    let digit = digit(byte)?;
                    Chunk::Digits(size.checked_mul(16).and_then(|size| size.checked_add(digit)).ok_or(BadBody::SizeTooLarge)?)
                }
                (Chunk::Space(_), _) => return Err(BadBody::Size),
                // some end a line there, and would see a chunk where others see an extension
                (Chunk::Extension(_), b'\n') => return Err(BadBody::LineEnd),
                (Chunk::Extension(size), _) => {
                    self.extensions += 1;
                    if self.extensions > EXTENSIONS_MAX {
                        return Err(BadBody::Extensions);
                    }
                    Chunk::Extension(size)
                }
                (Chunk::LineEnd(0), b'\n') => Chunk::Trailers,
                (Chunk::LineEnd(size), b'\n') => Chunk::Data(size),
                (Chunk::DataEnd, b'\r') => Chunk::DataLineEnd,
                (Chunk::DataLineEnd, b'\n') => Chunk::Size,
                (Chunk::LineEnd(_) | Chunk::DataEnd | Chunk::DataLineEnd, _) => return Err(BadBody::LineEnd),
                (Chunk::Trailers, _) => {
                    // a line ends in one way, or others would see more of them, or fewer
                    if (self.trailers.last() == Some(&b'\r')) != (byte == b'\n') {
                        return Err(BadBody::Trailers);
                    }
                    self.trailers.push(byte);
                    if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                        self.state = State::Over;
                        return self.trailers();
                    }
                    if self.trailers.len() >= TRAILERS_MAX {
                        return Err(BadBody::Trailers);
                    }
                    Chunk::Trailers
                }
                (Chunk::Data(_), _) => chunk,
            };
        }
        self.state = State::Chunk(chunk);
        Ok(Decoded::More)
    }

    fn trailers(&mut self) -> Result<Decoded, BadBody> {
        let lines = std::mem::take(&mut self.trailers);
        if lines == b"\r\n" {
            return Ok(Decoded::Over);
        }
        let mut places = [httparse::EMPTY_HEADER; TRAILER_LINES_MAX];
        let Ok(httparse::Status::Complete((_, read))) = httparse::parse_headers(&lines, &mut places) else { return Err(BadBody::Trailers) };
        let fields = read.iter().map(|line| {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BadBody::Trailers)?;
            Ok((name, HeaderValue::from_bytes(line.value).map_err(|_| BadBody::Trailers)?))
        });
        let mut trailers = HeaderMap::new();
        for field in fields {
            let (name, value) = field?;
            trailers.append(name, value);
        }
        Ok(Decoded::Trailers(trailers))
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body should have gone on.
    pub const fn end(&mut self) -> Result<(), BadBody> {
        match self.state {
            State::Close | State::Over => {
                self.state = State::Over;
                Ok(())
            }
            State::Length(_) | State::Chunk(_) => Err(BadBody::Incomplete),
        }
    }
}

/// So many bytes, or as many as there are.
fn take(input: &mut Bytes, most: u64) -> Bytes {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if input.len() <= most { std::mem::take(input) } else { input.split_to(most) }
}

fn digit(byte: u8) -> Result<u64, BadBody> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(BadBody::Size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of a body: its data, its trailers, and what is left.
    type Made = Result<(Vec<u8>, Option<HeaderMap>, Vec<u8>), BadBody>;

    /// Of a body that comes so many bytes at a time.
    fn decoded(framing: Framing, body: &[u8], at_a_time: usize) -> Made {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut trailers) = (Vec::new(), None);
        for (number, piece) in body.chunks(at_a_time).enumerate() {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.decode(&mut input)? {
                    Decoded::Data(piece) => {
                        assert!(!piece.is_empty());
                        data.extend_from_slice(&piece);
                    }
                    Decoded::Trailers(fields) => trailers = Some(fields),
                    Decoded::Over => {
                        let rest = [&input[..], &body[((number + 1) * at_a_time).min(body.len())..]].concat();
                        return Ok((data, trailers, rest));
                    }
                    Decoded::More => break,
                }
            }
        }
        decoder.end()?;
        Ok((data, trailers, Vec::new()))
    }

    fn chunked(body: &str) -> Made {
        let whole = decoded(Framing::Chunked, body.as_bytes(), usize::MAX);
        for at_a_time in [1, 2, 3, 7] {
            assert_eq!(decoded(Framing::Chunked, body.as_bytes(), at_a_time), whole, "{body:?} by {at_a_time}");
        }
        whole
    }

    #[test]
    fn a_body_of_known_length() {
        for at_a_time in [1, 3, 100] {
            assert_eq!(decoded(Framing::Length(4), b"bodyHTTP", at_a_time), Ok((b"body".to_vec(), None, b"HTTP".to_vec())));
            assert_eq!(decoded(Framing::Length(0), b"HTTP", at_a_time), Ok((Vec::new(), None, b"HTTP".to_vec())));
            assert_eq!(decoded(Framing::Length(5), b"body", at_a_time), Err(BadBody::Incomplete));
        }
        let mut decoder = Decoder::new(Framing::Length(u64::MAX));
        assert_eq!(decoder.decode(&mut Bytes::from_static(b"ab")), Ok(Decoded::Data(Bytes::from_static(b"ab"))));
        assert_eq!(decoder.left(), Some(u64::MAX - 2));
    }

    #[test]
    fn a_body_that_ends_with_the_connection() {
        assert_eq!(decoded(Framing::Close, b"body", 3), Ok((b"body".to_vec(), None, Vec::new())));
        assert_eq!(decoded(Framing::Close, b"", 3), Ok((Vec::new(), None, Vec::new())));
    }

    #[test]
    fn a_body_in_chunks() {
        assert_eq!(chunked("4\r\nbody\r\n0\r\n\r\nHTTP"), Ok((b"body".to_vec(), None, b"HTTP".to_vec())));
        assert_eq!(chunked("0\r\n\r\n"), Ok((Vec::new(), None, Vec::new())));
        assert_eq!(chunked("001\r\na\r\nA;x=\"y\"\r\n0123456789\r\n1 \t\r\nb\r\n000\r\n\r\n").unwrap().0, b"a0123456789b");
        for (body, error) in [
            ("4\r\nbody\r\n0\r\n", BadBody::Incomplete),
            ("4\r\nbod", BadBody::Incomplete),
            ("4", BadBody::Incomplete),
            ("\r\n", BadBody::Size),
            ("g\r\n", BadBody::Size),
            ("-1\r\n", BadBody::Size),
            ("0x4\r\nbody\r\n0\r\n\r\n", BadBody::Size),
            ("4 4\r\n", BadBody::Size),
            ("4\nbody\r\n", BadBody::Size),
            ("4\rbody", BadBody::LineEnd),
            ("4;a\nbody\r\n", BadBody::LineEnd),
            ("4\r\nbodyx\r\n", BadBody::LineEnd),
            ("4\r\nbody\rx", BadBody::LineEnd),
            ("4\r\nbody\n", BadBody::LineEnd),
            ("10000000000000000\r\n", BadBody::SizeTooLarge),
            ("0\r\nno header\r\n\r\n", BadBody::Trailers),
            ("0\r\na : b\r\n\r\n", BadBody::Trailers),
            ("0\r\na: b\nc: d\r\n\r\n", BadBody::Trailers),
            ("0\r\na: b\rc: d\r\n\r\n", BadBody::Trailers),
            ("0\r\n\n", BadBody::Trailers),
        ] {
            assert_eq!(chunked(body), Err(error), "{body:?}");
        }
        assert_eq!(chunked("ffffffffffffffff\r\n"), Err(BadBody::Incomplete));
    }

    #[test]
    fn trailers() {
        let (data, trailers, rest) = chunked("1\r\na\r\n0\r\nX-Sum: 1\r\nx-sum:2\r\n\r\nHTTP").unwrap();
        assert_eq!((data, rest), (b"a".to_vec(), b"HTTP".to_vec()));
        assert_eq!(trailers.unwrap().get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn what_is_of_no_use_is_bounded() {
        let extended = |bytes: usize| {
            decoded(Framing::Chunked, format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(bytes)).as_bytes(), 1000).map(|body| body.0)
        };
        assert_eq!((extended(EXTENSIONS_MAX), extended(EXTENSIONS_MAX + 1)), (Ok(b"a".to_vec()), Err(BadBody::Extensions)));
        // no matter how they are spread
        let spread = "1;ee\r\na\r\n".repeat(EXTENSIONS_MAX / 2 + 1);
        assert_eq!(decoded(Framing::Chunked, spread.as_bytes(), 1000).map(|body| body.0), Err(BadBody::Extensions));
        let trailed =
            |bytes: usize| decoded(Framing::Chunked, format!("0\r\na: {}\r\n\r\n", "b".repeat(bytes)).as_bytes(), 1000).map(|body| body.2);
        assert_eq!((trailed(TRAILERS_MAX - 7), trailed(TRAILERS_MAX - 6)), (Ok(Vec::new()), Err(BadBody::Trailers)));
        let lines =
            |count: usize| decoded(Framing::Chunked, format!("0\r\n{}\r\n", "a: b\r\n".repeat(count)).as_bytes(), 1000).map(|body| body.2);
        assert_eq!((lines(TRAILER_LINES_MAX), lines(TRAILER_LINES_MAX + 1)), (Ok(Vec::new()), Err(BadBody::Trailers)));
    }
}
