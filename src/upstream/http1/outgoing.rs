//! A request on its way: what of it is still to be written, and what is kept to send it again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName, Request, request};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use crate::rules::http1::request::{CHUNK_END, Framing, announced, frame, read_back, write_chunk_size, write_head, write_last_chunk};
use crate::upstream::connection::{BodyFailure, RequestBody, no_body};
use crate::upstream::upload::failure;

/// What a connection writes. Between two requests it holds little.
#[derive(Default)]
pub(super) struct Outgoing {
    /// The head, and later what comes before a chunk.
    lines: Vec<u8>,
    /// How much of them is written.
    written: usize,
    /// They are a head that may have to be sent again, and stay as they are.
    is_kept: bool,
    /// What comes after them.
    piece: Bytes,
    /// And after that.
    end: &'static [u8],
    body: Option<Sent>,
    /// The stream may hold some of it back.
    is_to_flush: bool,
    /// Nothing more can be written.
    broken: Option<io::Error>,
}

/// A body that is being sent.
struct Sent {
    body: RequestBody,
    framing: Framing,
    announced: Vec<HeaderName>,
}

/// Bytes of lines that are an exception: the next head is hardly as long.
const LONG: usize = 8192;

/// What comes after the data of the last chunk, if there are no trailers.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

impl Outgoing {
    /// Takes a request, of which the head is kept or not; what it leaves is a map that can be used again.
    pub(super) fn begin(&mut self, request: Request<RequestBody>, is_kept: bool) -> HeaderMap {
        let (request::Parts { method, uri, mut headers, .. }, body) = request.into_parts();
        let body = if body.is_end_stream() {
            headers.remove(TRANSFER_ENCODING);
            None
        } else {
            let framing = frame(&mut headers, body.size_hint().exact());
            let announced = if framing == Framing::Chunked { announced(&headers) } else { Vec::new() };
            Some(Sent { body, framing, announced })
        };
        if self.lines.capacity() > LONG {
            self.lines = Vec::new();
        }
        self.lines.clear();
        write_head(&mut self.lines, &method, &uri, &headers);
        (self.written, self.is_kept, self.body) = (0, is_kept, body);
        headers
    }

    /// The request whose head was kept.
    pub(super) fn again(&self) -> Option<Request<RequestBody>> {
        let (method, uri, headers) = read_back(&self.lines).filter(|_| self.is_kept)?;
        let mut request = Request::new(no_body());
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        Some(request)
    }

    /// Whether all of it is written, so that another may follow.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && self.is_written() && !self.is_to_flush && self.broken.is_none()
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Why nothing more can be written.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    fn is_written(&self) -> bool {
        self.written == self.lines.len() && self.piece.is_empty() && self.end.is_empty()
    }

    /// Writes what can be written. That a stream has broken is no end here: what the server has said before tells more.
    pub(super) fn poll<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailure>> {
        loop {
            if self.broken.is_some() {
                return Poll::Ready(Ok(()));
            }
            // before anything is written: a small body goes with its head
            while let Some(sent) = &mut self.body
                && self.piece.is_empty()
                && self.end.is_empty()
                && let Poll::Ready(frame) = Pin::new(&mut sent.body).poll_frame(cx)
            {
                self.take(frame.transpose().map_err(failure)?)?;
            }
            if self.is_written() {
                if self.is_to_flush {
                    match ready!(Pin::new(&mut *stream).poll_flush(cx)) {
                        Ok(()) => self.is_to_flush = false,
                        Err(error) => self.breaks(error),
                    }
                }
                return if self.body.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let lines = &self.lines[self.written..];
            let stream = Pin::new(&mut *stream);
            let polled = if self.piece.is_empty() && self.end.is_empty() {
                stream.poll_write(cx, lines)
            } else {
                stream.poll_write_vectored(cx, &[IoSlice::new(lines), IoSlice::new(&self.piece), IoSlice::new(self.end)])
            };
            match ready!(polled) {
                Ok(0) => self.breaks(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.advance(bytes),
                Err(error) => self.breaks(error),
            }
        }
    }

    /// The next of the body, or that there is no more. All before it is written, but for lines.
    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), BodyFailure> {
        if self.written == self.lines.len() && !self.is_kept {
            self.lines.clear();
            self.written = 0;
        }
        let Some(Sent { body, framing, announced }) = &mut self.body else { return Ok(()) };
        let is_last = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                match framing {
                    _ if data.is_empty() => {}
                    Framing::Length(left) => {
                        // what goes beyond the length would be taken for the next request
                        self.piece = data;
                        self.piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                        *left -= self.piece.len() as u64;
                    }
                    Framing::Chunked => {
                        write_chunk_size(&mut self.lines, data.len());
                        (self.piece, self.end) = (data, CHUNK_END);
                    }
                }
                body.is_end_stream()
            }
            Some(Err(trailers)) => {
                if let (Framing::Chunked, Ok(trailers)) = (&framing, trailers.into_trailers()) {
                    write_last_chunk(&mut self.lines, Some((&trailers, announced)));
                    self.body = None;
                    return Ok(());
                }
                true
            }
            None => true,
        };
        if is_last {
            match framing {
                Framing::Length(0) => {}
                Framing::Length(_) => return Err(BodyFailure::Short),
                Framing::Chunked if self.end.is_empty() => write_last_chunk(&mut self.lines, None),
                Framing::Chunked => self.end = LAST_CHUNK,
            }
            self.body = None;
        }
        Ok(())
    }

    fn advance(&mut self, mut bytes: usize) {
        self.is_to_flush = true;
        let of_lines = bytes.min(self.lines.len() - self.written);
        self.written += of_lines;
        bytes -= of_lines;
        let of_piece = bytes.min(self.piece.len());
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            // it holds on to memory of the client's connection
            self.piece = Bytes::new();
        }
        self.end = self.end.get(bytes - of_piece..).unwrap_or_default();
    }

    fn breaks(&mut self, error: io::Error) {
        (self.piece, self.end, self.body, self.is_to_flush) = (Bytes::new(), &[], None, false);
        self.broken = Some(error);
    }
}
