//! What it takes to send a request a second time: its head, as it was written the first time. Kept so, it costs no request more than a
//! copy of a few hundred bytes, into memory that its connection has already.
//!
//! And what may come before the head of its answer, which hyper does not bound: interim answers (1xx), one after the other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Either;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{RequestBody, no_body};

/// Whether a request may be sent twice: it is idempotent (RFC 9110, 9.2.2), and has no body.
pub(super) fn may_be_repeated(request: &Request<RequestBody>) -> bool {
    matches!(request.body(), Either::Left(Either::Left(_)))
        && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// The request whose head was written so; `None` if it is not all of one.
fn request_of(head: &[u8]) -> Option<Request<RequestBody>> {
    let lines = head.strip_suffix(b"\r\n")?;
    let (first, mut lines) = split_at(lines, b"\r\n")?;
    let (method, rest) = split_at(first, b" ")?;
    let (target, version) = split_at(rest, b" ")?;
    if version != b"HTTP/1.1" {
        return None;
    }
    let mut request = Request::new(no_body());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    while !lines.is_empty() {
        let (line, rest) = split_at(lines, b"\r\n")?;
        let (name, value) = split_at(line, b": ")?;
        request.headers_mut().append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        lines = rest;
    }
    Some(request)
}

/// What comes before the first of these bytes, and what after.
fn split_at<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memmem::find(bytes, separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

/// Bytes of a head that is an exception: the next is hardly as large.
const LARGE: usize = 8192;

/// Bytes that may be read before the head of an answer is there: more than the largest that hyper takes (some 400 KiB), and what is
/// read in some hundredths of a second.
const BEFORE_HEAD: usize = 512 * 1024;

/// A server has sent interim answers, and no end of them.
#[derive(Debug, thiserror::Error)]
#[error("more than {BEFORE_HEAD} bytes of interim answers")]
pub(super) struct EndlessHead;

/// What is kept of what is written to a stream, and how much may be read of it before there is an answer.
#[derive(Debug)]
pub(super) struct Kept {
    written: Mutex<Written>,
    /// Bytes that may still be read before the head of the answer; as many as there are, if none is awaited.
    room: AtomicUsize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { written: Mutex::default(), room: AtomicUsize::new(usize::MAX) }
    }
}

#[derive(Debug, Default)]
struct Written {
    is_kept: bool,
    /// What has been taken of the head, and what was offered last.
    bytes: Vec<u8>,
    /// How much of it has been taken.
    taken: usize,
}

impl Kept {
    /// Another head follows, which is to be kept or not, and its answer.
    pub(super) fn begin(&self, is_kept: bool) {
        self.room.store(BEFORE_HEAD, Ordering::Relaxed);
        let mut written = self.lock();
        written.is_kept = is_kept;
        written.taken = 0;
        written.bytes.clear();
        if written.bytes.capacity() > LARGE {
            written.bytes = Vec::new();
        }
    }

    /// The head of the answer is there.
    pub(super) fn answered(&self) {
        self.room.store(usize::MAX, Ordering::Relaxed);
    }

    fn has_come(&self, bytes: usize) -> io::Result<()> {
        let room = self.room.load(Ordering::Relaxed);
        if room == usize::MAX {
            return Ok(());
        }
        // the last of it may have brought the head, so it is the next that is too much
        if room == 0 && bytes > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, EndlessHead));
        }
        self.room.store(room.saturating_sub(bytes), Ordering::Relaxed);
        Ok(())
    }

    /// The request whose head was kept.
    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        request_of(&self.lock().bytes)
    }

    fn offered(&self, bufs: &[IoSlice<'_>]) {
        let mut written = self.lock();
        if written.is_kept {
            let taken = written.taken;
            written.bytes.truncate(taken);
            for buf in bufs {
                written.bytes.extend_from_slice(buf);
            }
        }
    }

    fn taken(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.lock().taken += bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that keeps what is written to it for as long as it is told to, and ends where interim answers do not. What was offered is kept, too, whether it was taken or not: a
/// connection that is closing may take nothing any more.
#[derive(Debug)]
pub(super) struct Keeping<S> {
    stream: S,
    kept: Arc<Kept>,
}

impl<S> Keeping<S> {
    pub(super) const fn new(stream: S, kept: Arc<Kept>) -> Self {
        Self { stream, kept }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Keeping<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.kept.has_come(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Keeping<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.kept.offered(&[IoSlice::new(buf)]);
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.kept.taken(&polled);
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.kept.offered(bufs);
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.kept.taken(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// A stream that keeps what is written to it, and the far end of it. It takes so many bytes at a time.
    fn keeping(at_a_time: usize) -> (Keeping<DuplexStream>, Arc<Kept>, DuplexStream) {
        let (near, far) = tokio::io::duplex(at_a_time);
        let kept = Arc::new(Kept::default());
        kept.begin(true);
        (Keeping::new(near, Arc::clone(&kept)), kept, far)
    }

    /// Sends a request as it is sent to a server, and what was kept of it when it has arrived.
    fn sent(request: Request<RequestBody>, at_a_time: usize) -> Option<Request<RequestBody>> {
        run(async {
            let (near, kept, mut far) = keeping(at_a_time);
            let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(near)).await.unwrap();
            let arrived = async {
                let mut arrived = Vec::new();
                while !arrived.ends_with(b"\r\n\r\n") {
                    arrived.push(far.read_u8().await.unwrap());
                }
            };
            tokio::select! {
                biased;
                () = arrived => {}
                _ = async { tokio::join!(sender.try_send_request(request), connection) } => panic!("there is no answer"),
            }
            kept.request()
        })
    }

    #[test]
    fn a_request_that_is_sent_again_is_the_same() {
        for (target, again) in [("/", "/"), ("/a?b=c:d", "/a?b=c:d"), ("*", "*"), ("/%C3%BC//..;?", "/%C3%BC//..;?"), ("?a", "/?a")] {
            let target: http::uri::PathAndQuery = target.parse().unwrap();
            let request = Request::builder().method("OPTIONS").uri(Uri::from(target)).body(no_body()).unwrap();
            assert_eq!(sent(request, 4096).unwrap().uri(), again);
        }
        for at_a_time in [1, 700, 65536] {
            let request = || {
                let request = Request::builder().method("PUT").uri("/a");
                let headers = [("host", "a:1"), ("x-empty", ""), ("x-two", "1"), ("cookie", "a=b; c=\u{fc}:\t\"d\": "), ("x-two", "2")];
                let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value.as_bytes()));
                request.header("x-long", "l".repeat(5000)).body(no_body()).unwrap()
            };
            let (first, again) = (request(), sent(request(), at_a_time).unwrap());
            assert_eq!((again.method(), again.uri(), again.version()), (first.method(), first.uri(), first.version()));
            assert_eq!(again.headers(), first.headers());
        }
    }

    const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nhost: b\r\n\r\n";

    #[test]
    fn what_a_closed_connection_does_not_take_is_kept_all_the_same() {
        run(async {
            let (mut near, kept, far) = keeping(10);
            let written = near.write(HEAD).await.unwrap();
            assert_eq!(written, 10);
            drop(far);
            near.write(&HEAD[written..]).await.unwrap_err();
            assert_eq!(kept.request().unwrap().uri(), "/a");
        });
    }

    #[test]
    fn each_request_is_kept_by_itself_and_only_if_it_is_to_be() {
        run(async {
            let (mut near, kept, _far) = keeping(4096);
            near.write_all(HEAD).await.unwrap();
            kept.begin(true);
            assert!(kept.request().is_none(), "nothing was written of the second");
            near.write_all(b"GET /b HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(kept.request().unwrap().uri(), "/b");
            kept.begin(false);
            near.write_all(HEAD).await.unwrap();
            assert!(kept.request().is_none());
        });
    }

    #[test]
    fn half_a_head_is_no_request() {
        for end in 0..HEAD.len() {
            assert!(request_of(&HEAD[..end]).is_none(), "{}", HEAD[..end].escape_ascii());
        }
        assert!(request_of(HEAD).is_some());
        for other in
            ["GET /a HTTP/1.0\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\nhost:b\r\n\r\n", "GET /a HTTP/1.1\r\n: b\r\n\r\n"]
        {
            assert!(request_of(other.as_bytes()).is_none(), "{other:?}");
        }
    }

    #[test]
    fn only_what_changes_nothing_the_second_time_may_be_repeated() {
        let request = |method: &str, body| Request::builder().method(method).body(body).unwrap();
        for (method, may) in [("GET", true), ("HEAD", true), ("DELETE", true), ("POST", false), ("PATCH", false), ("REPORT", false)] {
            assert_eq!(may_be_repeated(&request(method, no_body())), may, "{method}");
        }
        assert!(!may_be_repeated(&request("PUT", Either::Left(Either::Right(Full::new(bytes::Bytes::from_static(b"body")))))));
    }
}
