//! A request on its way: what of it is still to be written, and what is kept to send it again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName, Request, request};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use crate::http1::Writing;
use crate::rules::http1::chunks::{CHUNK_END, announced, write_chunk_size, write_last_chunk};
use crate::rules::http1::to_site::{Framing, frame, read_back, write_head};
use crate::upstream::connection::{BodyFailure, RequestBody, no_body};
use crate::upstream::upload::failure;

/// What a connection writes. Between two requests it holds little.
#[derive(Default)]
pub(super) struct Outgoing {
    /// The head, which may have to be sent again, and what comes after it.
    writing: Writing,
    body: Option<Sent>,
    /// The server does not take what there is. More is not asked for then: that it is awaited from the client would be the server's excuse.
    is_full: bool,
    /// Nothing more can be written.
    broken: Option<io::Error>,
}

/// A body that is being sent.
struct Sent {
    body: RequestBody,
    framing: Framing,
    announced: Vec<HeaderName>,
}

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
        write_head(self.writing.begin(is_kept), &method, &uri, &headers);
        (self.is_full, self.body) = (false, body);
        headers
    }

    /// The request whose head was kept.
    pub(super) fn again(&self) -> Option<Request<RequestBody>> {
        let (method, uri, headers) = read_back(self.writing.kept()?)?;
        let mut request = Request::new(no_body());
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        Some(request)
    }

    /// Whether all of it is written, so that another may follow.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && self.writing.is_done() && self.broken.is_none()
    }

    /// It need not be sent again.
    pub(super) fn forget(&mut self) {
        if self.is_done() {
            self.writing.rests();
        }
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Why nothing more can be written.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    /// Writes what can be written. That a stream has broken is no end here: what the server has said before tells more.
    pub(super) fn poll<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailure>> {
        loop {
            if self.broken.is_some() {
                return Poll::Ready(Ok(()));
            }
            // before anything is written: a small body goes with its head
            let mut awaits_client = false;
            while let Some(sent) = self.body.as_mut().filter(|_| !self.is_full && self.writing.has_room()) {
                let Poll::Ready(frame) = Pin::new(&mut sent.body).poll_frame(cx) else {
                    awaits_client = true;
                    break;
                };
                self.take(frame.transpose().map_err(failure)?)?;
            }
            let written = self.writing.poll(stream, cx);
            self.is_full = written.is_pending();
            if let Err(error) = ready!(written) {
                self.breaks(error);
            } else if self.body.is_none() {
                return Poll::Ready(Ok(()));
            } else if awaits_client {
                return Poll::Pending;
            }
        }
    }

    /// The next of the body, or that there is no more.
    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), BodyFailure> {
        let Some(Sent { body, framing, announced }) = &mut self.body else { return Ok(()) };
        let is_last = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                match framing {
                    _ if data.is_empty() => {}
                    Framing::Length(left) => {
                        // what goes beyond the length would be taken for the next request
                        let mut data = data;
                        data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                        *left -= data.len() as u64;
                        self.writing.add(data);
                    }
                    Framing::Chunked => {
                        self.writing.add_lines(|lines| write_chunk_size(lines, data.len()));
                        self.writing.add(data);
                        self.writing.add(Bytes::from_static(CHUNK_END));
                    }
                }
                body.is_end_stream()
            }
            Some(Err(trailers)) => {
                if let (Framing::Chunked, Ok(trailers)) = (&framing, trailers.into_trailers()) {
                    self.writing.add_lines(|lines| write_last_chunk(lines, Some((&trailers, announced))));
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
                Framing::Chunked => self.writing.add_lines(|lines| write_last_chunk(lines, None)),
            }
            self.body = None;
        }
        Ok(())
    }

    fn breaks(&mut self, error: io::Error) {
        self.writing.breaks();
        (self.body, self.broken) = (None, Some(error));
    }
}
