//! One connection of a visitor over HTTP/1: a request made beforehand, and as little reading of the answer as will do.

use std::ops::Range;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::load::{BROWSER, Connection, HEAD_END, HEAD_MAX, HOST, THEIR_COOKIE, header};

/// A connection, and what is known of the last answer on it.
pub(super) struct Line {
    stream: Box<dyn Connection>,
    buffer: Vec<u8>,
    last: Option<Shape>,
    status: u16,
}

impl Line {
    /// `status` is what the answers must be.
    pub(super) fn new(stream: Box<dyn Connection>, status: u16) -> Self {
        Self { stream, buffer: vec![0; ANSWER_MAX], last: None, status }
    }

    /// Goes on with another connection.
    pub(super) fn turn_to(&mut self, stream: Box<dyn Connection>) {
        self.stream = stream;
    }

    /// Only the connection.
    pub(super) fn into_stream(self) -> Box<dyn Connection> {
        self.stream
    }

    /// Asks, and takes the answer whole.
    pub(super) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let Self { stream, buffer, last, status } = self;
        stream.write_all(request).await?;
        // what tokio-rustls could not write at once it keeps
        stream.flush().await?;
        let mut filled = 0;
        loop {
            filled += read(stream, &mut buffer[filled..]).await?;
            let bytes = &buffer[..filled];
            // nearly every answer is as long as the last, and reading its head would cost more than the rest of this
            let shape = match last.take().filter(|last: &Shape| last.fits(bytes)) {
                Some(shape) => Some(shape),
                None => Shape::of(bytes, *status)?,
            };
            let whole = shape.as_ref().map(|shape| shape.whole);
            *last = shape;
            if let Some(whole) = whole {
                // the rest of a large page need not be kept
                while filled < whole {
                    filled += read(stream, &mut buffer[KEPT..]).await?;
                }
                return Ok(());
            }
        }
    }
}

async fn read(stream: &mut Box<dyn Connection>, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let read = stream.read(buffer).await?;
    if read == 0 {
        bail!("the connection was closed");
    }
    Ok(read)
}

/// Where an answer ends, and what says so.
struct Shape {
    start: Vec<u8>,
    head: usize,
    length: Range<usize>,
    digits: Vec<u8>,
    whole: usize,
}

impl Shape {
    /// None while the head is not there.
    fn of(bytes: &[u8], status: u16) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else { return Ok(None) };
        let text = str::from_utf8(&bytes[..end])?;
        let start = format!("HTTP/1.1 {status} ");
        if !text.starts_with(&start) {
            bail!("{:?} instead of {status}", text.lines().next());
        }
        let digits = header(text, "content-length").context("no Content-Length")?;
        let at = digits.as_ptr().addr() - text.as_ptr().addr();
        let head = end + HEAD_END.len();
        let whole = head + digits.parse::<usize>()?;
        Ok(Some(Self { start: start.into_bytes(), head, length: at..at + digits.len(), digits: digits.into(), whole }))
    }

    fn fits(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(&self.start)
            && bytes.get(self.head - HEAD_END.len()..self.head) == Some(HEAD_END)
            && bytes.get(self.length.clone()) == Some(&self.digits)
    }
}

/// The request of a browser.
pub(super) fn request(path: &str, cookie: &str) -> Vec<u8> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n");
    for (name, value) in BROWSER {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !cookie.is_empty() {
        request.push_str(&format!("Cookie: {THEIR_COOKIE}; {cookie}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

const ANSWER_MAX: usize = 256 * 1024;

/// Of an answer whose end is known, that which the next is compared with.
const KEPT: usize = HEAD_MAX;
