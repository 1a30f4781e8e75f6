//! One connection of a client that speaks HTTP/1: one request after the other, with our deadlines; and the WebSocket that it may become.
//!
//! It is one state machine, polled by one task: a head is read, answered, and the answer written; meanwhile what is left of the request's
//! body is read as somebody wants it. What of that is HTTP stands in `rules/http1`. A connection between two requests holds no buffer.
//!
//! It is not hyper's server, with which an answer takes a tenth more of CPU time (`benches/proxy.rs`) for what is not needed here: buffers
//! of its own for each connection, that had to be taken away from those that are idle, and a channel for each body.
//!
//! Always holds: what follows a request is read as another only if all of the request was read, and there is no doubt where it ended.

mod arriving;
mod linger;
mod relaying;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use http::{Request, StatusCode};
use http_body::{Body as _, Frame};
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite as _;
use tokio::task::coop::consume_budget;

use super::answering::Answering;
use super::exchange::{Exchange, Upload};
use super::handle::Peer;
use super::refusal;
use super::respond::Answer;
use super::socket::Socket;
use super::state::Phase;
use crate::http1::{Reading, Writing, spare};
use crate::metrics::{Count, Refusal};
use crate::rules::http1::body::{BadBody, Decoded, Decoder};
use crate::rules::http1::from_client::{self, BadHead, Head};
use crate::rules::http1::to_client::{Known, Terms, write_head};
use crate::upstream::BodyFailure;

use relaying::{Filled, Relaying};

pub(super) use arriving::Arriving;

/// Bytes of a request body that are read at once.
const BODY_AT_ONCE: usize = 32 * 1024;

/// What is said to who waits for word before it sends a body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Serves a connection until it ends.
pub(super) async fn serve(peer: Arc<Peer>, socket: Socket) {
    let mut connection = Connection::new(peer, socket);
    let end = poll_fn(|cx| connection.poll(cx)).await;
    let Connection { peer, socket, reading, .. } = connection;
    // what follows is on the heap, since hardly any connection needs the room
    match end {
        End::Cut => {}
        End::Switched => {
            if let Some(upgraded) = peer.take_upgraded() {
                Box::pin(upgraded.run(&peer, socket.wire, reading.into_rest())).await;
            }
        }
        End::Said { has_more } => {
            let state = &peer.state;
            // but for who was too slow with it
            if (has_more || state.has_unread()) && !state.deadline.has_fired() {
                state.deadline.works();
                state.deadline.clear();
                Box::pin(linger::linger(&peer, socket.wire)).await;
            }
        }
    }
}

/// A connection.
struct Connection {
    peer: Arc<Peer>,
    socket: Socket,
    reading: Reading,
    writing: Writing,
    /// What of the request under way matters for its answer; of the answer, once that is there.
    terms: Terms,
    upload: Option<Uploading>,
    stage: Stage,
}

/// A request body, of which something may still come.
struct Uploading {
    arriving: Arriving,
    decoder: Decoder,
    /// Its client waits for word.
    expects_word: bool,
    /// It can't be read any further.
    is_broken: bool,
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.arriving.is_gone();
    }
}

/// How far a connection has come with a request.
enum Stage {
    /// Its head is awaited.
    Awaiting,
    /// Its answer is.
    Answering(Answering),
    /// The answer is written, and its body on the way.
    Relaying(Relaying),
    /// All of the answer is there to be written.
    Finishing { switches: bool },
    /// The rest of the answer does not come.
    Breaking,
    /// Nothing comes after what is written.
    Closing { has_more: bool },
}

/// How a connection ends.
enum End {
    /// At once: it is too late, it is in the way of others, or the client is gone.
    Cut,
    /// All has been said; more may come than was read of it.
    Said { has_more: bool },
    /// It is not one of requests any more.
    Switched,
}

/// Why there is no request.
enum Without {
    Refused(BadHead),
    /// Nothing more comes.
    Nothing,
    Gone,
}

impl Connection {
    fn new(peer: Arc<Peer>, socket: Socket) -> Self {
        Self {
            peer,
            socket,
            reading: Reading::default(),
            writing: Writing::default(),
            terms: Terms::default(),
            upload: None,
            stage: Stage::Awaiting,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let state = &self.peer.state;
        state.deadline.wakes(cx.waker());
        if state.deadline.has_fired() {
            match state.phase() {
                Phase::Head if matches!(self.stage, Stage::Awaiting) => return Poll::Ready(self.head_is_late(cx)),
                // a body that takes too long is answered, if there is somebody to take it; anything else just closes
                Phase::Body if !state.is_stalled() => {}
                Phase::Idle | Phase::Head | Phase::Body | Phase::Busy => return Poll::Ready(End::Cut),
            }
        }
        loop {
            let polled = match self.stage {
                Stage::Awaiting => self.poll_request(cx),
                Stage::Answering(_) => self.poll_answer(cx),
                Stage::Relaying(_) => self.poll_relay(cx),
                Stage::Finishing { switches } => self.poll_finish(switches, cx),
                // what has come of it leaves before the connection ends
                Stage::Breaking => self.writing.poll(&mut self.socket, cx).map(|_| Some(End::Cut)),
                Stage::Closing { has_more } => {
                    if ready!(self.writing.poll(&mut self.socket, cx)).is_err() {
                        return Poll::Ready(End::Cut);
                    }
                    drop(ready!(Pin::new(&mut self.socket).poll_shutdown(cx)));
                    return Poll::Ready(End::Said { has_more });
                }
            };
            if let Some(end) = ready!(polled) {
                return Poll::Ready(end);
            }
        }
    }

    /// Ready with `None` when the stage is another.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        match ready!(self.poll_head(cx)) {
            Ok(head) => self.begin(head, cx),
            Err(Without::Refused(bad)) => self.refuse(bad),
            Err(Without::Nothing) => self.stage = Stage::Closing { has_more: false },
            Err(Without::Gone) => return Poll::Ready(Some(End::Cut)),
        }
        Poll::Ready(None)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Without>> {
        let Peer { worker, state, .. } = &*self.peer;
        loop {
            // some send an empty line behind a body: it begins nothing
            while let Some(b'\r' | b'\n') = self.reading.input.first() {
                self.reading.input.advance(1);
            }
            if !self.reading.input.is_empty() {
                let most = state.limits(|limits| limits.header_bytes);
                match spare::with_names(|names| from_client::read(&self.reading.input, most, spare::take, names)) {
                    Ok(Some((head, taken))) => {
                        drop(self.reading.input.split_to(taken));
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => self.reading.is_part(),
                    Err(bad) => return Poll::Ready(Err(Without::Refused(bad))),
                }
                // what was behind the last request has begun another
                if state.phase() == Phase::Idle {
                    state.enter(Phase::Head);
                }
            }
            match self.reading.poll_head(&mut self.socket, cx) {
                Poll::Ready(Ok(0)) if self.reading.is_empty() => return Poll::Ready(Err(Without::Nothing)),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Without::Gone)),
                Poll::Ready(Ok(_)) if self.reading.part() >= state.limits(|limits| limits.header_bytes) => {
                    return Poll::Ready(Err(Without::Refused(BadHead::TooLarge)));
                }
                Poll::Ready(Ok(_)) => {}
                // a request that is here already is answered
                Poll::Pending if state.phase() == Phase::Idle && worker.is_closing() => return Poll::Ready(Err(Without::Nothing)),
                Poll::Pending if state.makes_room() => return Poll::Ready(Err(Without::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn begin(&mut self, head: Head, cx: &Context<'_>) {
        let Head { method, uri, version, headers, framing, expects_word, terms } = head;
        let exchange = Exchange::Alone(Arc::clone(&self.peer.state));
        self.terms = terms;
        self.upload = framing.map(|framing| {
            let decoder = Decoder::new(framing);
            Uploading { arriving: Arriving::new(decoder.left(), cx.waker()), decoder, expects_word, is_broken: false }
        });
        let body = self.upload.as_ref().map(|upload| Upload::alone(upload.arriving.clone(), &exchange));
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.version_mut(), *request.headers_mut()) = (method, uri, version, headers);
        self.stage = Stage::Answering(Answering::to(&self.peer, exchange, request));
    }

    /// A head that can't be read: nobody knows where it ends, so nothing after it is read either.
    fn refuse(&mut self, bad: BadHead) {
        let refusal = match bad {
            BadHead::TargetTooLong => Refusal::UriTooLong,
            BadHead::TooLarge => Refusal::HeadTooLarge,
            BadHead::Syntax(_) | BadHead::Target | BadHead::Length | BadHead::Coding => Refusal::BadRequest,
        };
        self.peer.worker.shard.count(Count::Refused(refusal));
        self.writing.add_lines(|lines| refusal::write(lines, bad.status(), None, &self.peer.worker.dated.line()));
        self.stage = Stage::Closing { has_more: true };
    }

    /// Nothing has been written on an answer's behalf: what is said to that stands alone, and fits.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> End {
        self.peer.worker.shard.count(Count::Refused(Refusal::HeaderTimeout));
        let date = self.peer.worker.dated.line();
        self.writing.add_lines(|lines| refusal::write(lines, StatusCode::REQUEST_TIMEOUT, Some("header timeout"), &date));
        drop(self.writing.poll(&mut self.socket, cx));
        End::Cut
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        // the site is not asked on behalf of who has left
        if !matches!(self.stage, Stage::Answering(Answering::AtOnce(_)))
            && let Poll::Ready(end) = self.poll_gone(cx)
        {
            return Poll::Ready(Some(end));
        }
        loop {
            let Stage::Answering(answering) = &mut self.stage else { return Poll::Ready(None) };
            if let Poll::Ready(Ok(answer)) = Pin::new(answering).poll(cx) {
                self.answer(answer);
                return Poll::Ready(None);
            }
            if self.poll_upload(cx) {
                // asked again as soon as its end can be seen
                if let Poll::Ready(end) = self.poll_gone(cx) {
                    return Poll::Ready(Some(end));
                }
                // pieces that are here already are as many as the client likes
                ready!(pin!(consume_budget()).poll(cx));
                continue;
            }
            // word to go on with the body
            if !self.writing.is_done() && matches!(self.writing.poll(&mut self.socket, cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Some(End::Cut));
            }
            // asked already, unless there was a body to be read
            return if self.upload.is_some() { self.poll_gone(cx).map(Some) } else { Poll::Pending };
        }
    }

    /// The answer is there: its head is written, and as much of its body as is at hand.
    fn answer(&mut self, answer: Answer) {
        let (mut head, body) = answer.into_parts();
        let known = match body.size_hint().exact() {
            _ if body.is_end_stream() => Known::Nothing,
            Some(length) => Known::Length(length),
            None => Known::Unknown,
        };
        let reason = if head.extensions.is_empty() { None } else { head.extensions.remove::<ReasonPhrase>() };
        let reason = reason.as_ref().map(ReasonPhrase::as_bytes);
        let date = self.peer.worker.dated.line();
        let written = self.writing.add_lines(|lines| write_head(lines, head.status, reason, &head.headers, known, self.terms, &date));
        spare::give(head.headers);
        self.terms.keeps_alive = written.keeps_alive;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        self.stage = Relaying::after(written, body).map_or(Stage::Finishing { switches }, Stage::Relaying);
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let Stage::Relaying(relaying) = &mut self.stage else { return Poll::Ready(None) };
        loop {
            let filled = relaying.poll_fill(&mut self.writing, cx);
            match filled {
                Poll::Ready(Ok(Filled::Whole)) => {
                    self.stage = Stage::Finishing { switches: false };
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(Filled::NoRoom)) | Poll::Pending => {}
                Poll::Ready(Err(_)) => {
                    self.stage = Stage::Breaking;
                    return Poll::Ready(None);
                }
            }
            match self.writing.poll(&mut self.socket, cx) {
                Poll::Ready(Ok(())) if filled.is_pending() => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Cut)),
                Poll::Pending => break,
            }
        }
        self.poll_upload(cx);
        self.poll_gone(cx).map(Some)
    }

    /// What is written leaves, and what is still read of the request comes.
    fn poll_finish(&mut self, switches: bool, cx: &mut Context<'_>) -> Poll<Option<End>> {
        match self.writing.poll(&mut self.socket, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Cut)),
            Poll::Pending => {
                self.poll_upload(cx);
                return self.poll_gone(cx).map(Some);
            }
        }
        let mut is_read = true;
        if self.upload.is_some() {
            self.poll_upload(cx);
            if self.upload.as_ref().is_some_and(|upload| !upload.arriving.is_done()) {
                return Poll::Pending;
            }
            is_read = self.upload.take().is_some_and(|upload| upload.decoder.is_over());
        }
        self.reading.is_over();
        self.writing.rests();
        self.peer.state.enter(Phase::Idle);
        if switches {
            return Poll::Ready(Some(End::Switched));
        }
        let stays = self.terms.keeps_alive && is_read;
        self.stage = if stays { Stage::Awaiting } else { Stage::Closing { has_more: !is_read || !self.reading.is_empty() } };
        Poll::Ready(None)
    }

    /// Reads on of the request's body if that is wanted, and says whether there is something new for who does.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(upload) = self.upload.as_mut().filter(|upload| upload.arriving.is_wanted()) else { return false };
        if std::mem::take(&mut upload.expects_word) && matches!(self.stage, Stage::Answering(_)) {
            self.writing.add_lines(|lines| lines.extend_from_slice(CONTINUE));
        }
        let piece = loop {
            match upload.decoder.decode(&mut self.reading.input) {
                Ok(Decoded::Data(data)) => break Some(Ok(Frame::data(data))),
                Ok(Decoded::Trailers(trailers)) => break Some(Ok(Frame::trailers(trailers))),
                Ok(Decoded::Over) => break None,
                Ok(Decoded::More) => {}
                Err(bad) => break Some(Err(BodyFailure::Bad(bad))),
            }
            match self.reading.poll_body(&mut self.socket, cx, upload.decoder.left(), BODY_AT_ONCE) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0)) => break Some(Err(BodyFailure::Bad(BadBody::Incomplete))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => break Some(Err(BodyFailure::Io(error))),
            }
        };
        upload.is_broken = matches!(piece, Some(Err(_)));
        upload.arriving.give(piece, upload.is_broken || upload.decoder.is_over(), upload.decoder.left());
        true
    }

    /// Waits for the client to leave. What it sends ahead is kept, so that its end is seen only when that is all.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let reads_body = self.upload.as_ref().is_some_and(|upload| upload.is_broken || !upload.decoder.is_over());
        if reads_body || !self.reading.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.reading.poll_head(&mut self.socket, cx)) {
            Ok(bytes) if bytes > 0 => Poll::Pending,
            Ok(_) | Err(_) => Poll::Ready(End::Cut),
        }
    }
}

#[cfg(test)]
mod tests;
