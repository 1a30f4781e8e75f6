//! The body of an answer, from where it comes to what is written of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body as _, Frame};

use crate::http1::Writing;
use crate::proxy::body::ClientBody;
use crate::rules::http1::body::Framing;
use crate::rules::http1::chunks::{CHUNK_END, write_chunk_size, write_last_chunk};
use crate::rules::http1::to_client::Written;
use crate::upstream::BrokenOff;

/// An answer whose head is written.
#[derive(Debug)]
pub(super) struct Relaying {
    body: ClientBody,
    framing: Framing,
    announced: Vec<HeaderName>,
}

impl Relaying {
    /// `None` if nothing follows the head.
    pub(super) fn after(head: Written, body: ClientBody) -> Option<Self> {
        let Written { framing, announced, .. } = head;
        (framing != Framing::Length(0)).then_some(Self { body, framing, announced })
    }

    /// Takes what there is of the body, for as long as there is room for it. Ready when that is all, or there is no room; or with an error if
    /// it broke off, or ended before its length: what has been written must not be taken for all of it.
    pub(super) fn poll_fill(&mut self, writing: &mut Writing, cx: &mut Context<'_>) -> Poll<Result<Filled, BrokenOff>> {
        while writing.has_room() {
            // asked first: then the end of the body leaves with its last piece
            let frame = if self.body.is_end_stream() { None } else { ready!(Pin::new(&mut self.body).poll_frame(cx)) };
            let Some(frame) = frame else {
                self.end(writing)?;
                return Poll::Ready(Ok(Filled::Whole));
            };
            if self.take(frame?, writing) {
                return Poll::Ready(Ok(Filled::Whole));
            }
        }
        Poll::Ready(Ok(Filled::NoRoom))
    }

    /// Whether that was the last.
    fn take(&mut self, frame: Frame<Bytes>, writing: &mut Writing) -> bool {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let is_last = self.framing == Framing::Chunked;
                if let (true, Ok(trailers)) = (is_last, frame.into_trailers()) {
                    writing.add_lines(|lines| write_last_chunk(lines, Some((&trailers, &self.announced))));
                }
                return is_last;
            }
        };
        match &mut self.framing {
            // a chunk of nothing would be the last
            _ if data.is_empty() => {}
            Framing::Close => writing.add(data),
            Framing::Chunked => {
                writing.add_lines(|lines| write_chunk_size(lines, data.len()));
                writing.add(data);
                writing.add(Bytes::from_static(CHUNK_END));
            }
            Framing::Length(left) => {
                // what goes beyond the length would be taken for the next answer
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                writing.add(data);
                return *left == 0;
            }
        }
        false
    }

    fn end(&self, writing: &mut Writing) -> Result<(), BrokenOff> {
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(BrokenOff),
            Framing::Length(_) | Framing::Close => {}
            Framing::Chunked => writing.add_lines(|lines| write_last_chunk(lines, None)),
        }
        Ok(())
    }
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// To its end.
    Whole,
    /// As far as there is room.
    NoRoom,
}
