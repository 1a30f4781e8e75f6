//! What is written to a server and read from it, over streams that take and give little at a time; and that what comes is read as hyper's
//! client reads it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::http1::trials::{BODIES, ENDS, may_have_odd_trailers, nearly};
use crate::upstream::connection::no_body;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A body of these pieces, of which nothing is known ahead.
struct Pieces(VecDeque<Result<Frame<Bytes>, BodyFailure>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let next = self.0.pop_front();
        // one that is not whole goes on some time
        if next.is_none() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(next)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn pieces(pieces: &[&'static str], trailers: Option<HeaderMap>) -> RequestBody {
    let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
    Either::Right(Pieces(data.chain(trailers.map(|trailers| Ok(Frame::trailers(trailers)))).collect()).boxed_unsync())
}

fn request(method: &str, headers: &[(&str, &str)], body: RequestBody) -> Request<RequestBody> {
    let request = Request::builder().method(method).uri("/a");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, value.as_bytes())).body(body).unwrap()
}

/// What a request is written as.
fn written(request: impl Fn() -> Request<RequestBody>) -> Result<String, BodyFailure> {
    let by = |at_a_time: usize| {
        run(async {
            let (mut near, mut far) = duplex(at_a_time);
            let mut outgoing = Outgoing::default();
            outgoing.begin(request(), false);
            let sent = async {
                let sent = poll_fn(|cx| outgoing.poll(&mut near, cx)).await;
                assert!(sent.is_err() || outgoing.is_done());
                drop(near);
                sent
            };
            let mut arrived = String::new();
            let (sent, read) = tokio::join!(sent, far.read_to_string(&mut arrived));
            read.unwrap();
            sent.map(|()| arrived)
        })
    };
    let whole = by(65536);
    for at_a_time in [1, 7, 100] {
        assert_eq!(by(at_a_time).ok(), whole.as_ref().ok().cloned(), "by {at_a_time}");
    }
    whole
}

#[test]
fn a_request_is_written_with_its_body() {
    let head = "POST /a HTTP/1.1\r\nhost: b\r\n";
    let of = |headers: &[(&str, &str)], body: fn() -> RequestBody| {
        let headers = [&[("host", "b")], headers].concat();
        written(|| request("POST", &headers, body())).map(|written| written.strip_prefix(head).unwrap().to_owned())
    };
    assert_eq!(of(&[], no_body).unwrap(), "\r\n");
    assert_eq!(of(&[("content-length", "0")], no_body).unwrap(), "content-length: 0\r\n\r\n");
    assert_eq!(of(&[("transfer-encoding", "chunked")], no_body).unwrap(), "\r\n");
    let full = || Either::Left(Either::Right(Full::new(Bytes::from_static(b"body"))));
    assert_eq!(of(&[], full).unwrap(), "content-length: 4\r\n\r\nbody");
    assert_eq!(of(&[("content-length", "4")], full).unwrap(), "content-length: 4\r\n\r\nbody");
    assert_eq!(of(&[], || pieces(&["bo", "", "dy"], None)).unwrap(), "transfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n");
    assert_eq!(of(&[], || pieces(&[], None)).unwrap(), "transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(of(&[("content-length", "4")], || pieces(&["bo", "dy"], None)).unwrap(), "content-length: 4\r\n\r\nbody");
}

#[test]
fn trailers_that_were_announced_are_written() {
    let trailers = || [("x-sum", "1"), ("x-other", "2")].map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
    let of =
        |headers: &[(&str, &str)]| written(|| request("PUT", headers, pieces(&["a"], Some(trailers().into_iter().collect())))).unwrap();
    assert!(of(&[("trailer", "x-sum")]).ends_with("\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"));
    assert!(of(&[]).ends_with("\r\n\r\n1\r\na\r\n0\r\n\r\n"));
    assert!(of(&[("trailer", "x-sum"), ("content-length", "1")]).ends_with("\r\ncontent-length: 1\r\n\r\na"));
}

#[test]
fn a_body_is_never_longer_or_shorter_than_its_length() {
    let of = |body: fn() -> RequestBody| written(|| request("POST", &[("content-length", "3")], body()));
    assert!(of(|| pieces(&["bo", "dyGET / HTTP/1.1\r\n\r\n"], None)).unwrap().ends_with("\r\n\r\nbod"));
    assert!(matches!(of(|| pieces(&["bo"], None)), Err(BodyFailure::Short)));
    assert!(matches!(of(|| Either::Right(Pieces([Err(BodyFailure::Stalled)].into()).boxed_unsync())), Err(BodyFailure::Stalled)));
}

/// A body of one piece, of which more is awaited, and how often.
struct Awaited(Arc<AtomicUsize>);

impl Body for Awaited {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece"))))),
            _ => Poll::Pending,
        }
    }
}

/// That the client is waited for is no excuse for a server that takes nothing.
#[test]
fn the_client_is_not_asked_for_more_while_the_server_takes_nothing() {
    run(async {
        let (mut near, mut far) = duplex(10);
        let (mut outgoing, asked) = (Outgoing::default(), Arc::new(AtomicUsize::new(0)));
        outgoing.begin(request("POST", &[], Either::Right(Awaited(Arc::clone(&asked)).boxed_unsync())), false);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(outgoing.poll(&mut near, &mut cx).is_pending());
            assert_eq!(asked.load(Ordering::Relaxed), 2, "before anything was written");
        }
        let mut taken = vec![0; 10];
        for count in 3.. {
            far.read_exact(&mut taken).await.unwrap();
            assert!(outgoing.poll(&mut near, &mut cx).is_pending());
            if asked.load(Ordering::Relaxed) > 2 {
                assert!(count > 4, "all of it is written");
                return;
            }
        }
    });
}

#[test]
fn a_request_that_is_sent_again_is_the_same() {
    for at_a_time in [1, 700, 65536] {
        run(async {
            let (mut near, mut far) = duplex(at_a_time);
            let headers = [("host", "a:1"), ("x-empty", ""), ("x-two", "1"), ("cookie", "a=b; c=\u{fc}:\t\"d\": "), ("x-two", "2")];
            let first = || request("PUT", &headers, no_body());
            let mut outgoing = Outgoing::default();
            outgoing.begin(first(), true);
            let mut arrived = vec![0; 50];
            tokio::select! {
                read = far.read_exact(&mut arrived) => drop(read.unwrap()),
                sent = poll_fn(|cx| outgoing.poll(&mut near, cx)) => sent.unwrap(),
            }
            let again = outgoing.again().unwrap();
            assert_eq!((again.method(), again.uri(), again.headers()), (first().method(), first().uri(), first().headers()));
            outgoing.begin(request("PUT", &[], no_body()), true);
            assert!(outgoing.again().unwrap().headers().is_empty(), "each by itself");
            outgoing.begin(first(), false);
            assert!(outgoing.again().is_none(), "only if it is to be");
        });
    }
}

#[test]
fn what_a_closed_connection_does_not_take_is_kept_all_the_same() {
    run(async {
        let (mut near, far) = duplex(10);
        drop(far);
        let mut outgoing = Outgoing::default();
        outgoing.begin(request("GET", &[], no_body()), true);
        poll_fn(|cx| outgoing.poll(&mut near, cx)).await.unwrap();
        assert!(outgoing.is_broken() && !outgoing.is_done());
        assert_eq!(outgoing.again().unwrap().uri(), "/a");
        assert_eq!(outgoing.take_error().unwrap().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn only_what_changes_nothing_the_second_time_may_be_repeated() {
    for (method, may) in [("GET", true), ("HEAD", true), ("DELETE", true), ("POST", false), ("PATCH", false), ("REPORT", false)] {
        assert_eq!(may_be_repeated(&request(method, &[], no_body())), may, "{method}");
    }
    assert!(!may_be_repeated(&request("PUT", &[], pieces(&["body"], None))));
}

/// An answer as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: StatusCode,
    version: Version,
    reason: Option<Bytes>,
    headers: HeaderMap,
    /// `None` if it broke off.
    body: Option<(Bytes, Option<HeaderMap>)>,
}

/// What is sent so, at so many bytes a time.
fn sending(bytes: &[u8], at_a_time: usize) -> (DuplexStream, impl Future<Output = ()> + use<>) {
    let (near, mut far) = duplex(at_a_time);
    let bytes = bytes.to_vec();
    (near, async move {
        // who has read enough closes it
        drop(far.write_all(&bytes).await);
    })
}

/// What is read of an answer, and whether the connection may carry another.
fn read(answer: &[u8], method: &Method, at_a_time: usize) -> (Result<Read, Http1Error>, bool) {
    run(async {
        let (mut near, sent) = sending(answer, at_a_time);
        let reading = async {
            let mut incoming = Incoming::default();
            incoming.begin(*method == Method::HEAD, HeaderMap::new());
            let read = async {
                let Head { status, version, reason, headers } = poll_fn(|cx| incoming.poll_head(&mut near, cx)).await?;
                let (mut data, mut trailers) = (BytesMut::new(), None);
                let body = loop {
                    match poll_fn(|cx| incoming.poll_body(&mut near, cx)).await {
                        None => break Some((data.freeze(), trailers)),
                        Some(Err(_)) => break None,
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(piece) => data.extend_from_slice(&piece),
                            Err(frame) => trailers = frame.into_trailers().ok(),
                        },
                    }
                };
                Ok(Read { status, version, reason, headers, body })
            };
            let read = read.await;
            drop(near);
            (read, incoming.is_reusable())
        };
        tokio::join!(reading, sent).0
    })
}

/// The same by hyper's client.
fn read_by_hyper(answer: &[u8], method: &Method) -> Option<Read> {
    run(async {
        let (near, sent) = sending(answer, 65536);
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
        let reading = async {
            let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let reason = head.extensions.get::<ReasonPhrase>().map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
            let collected = body.collect().await.ok();
            let body = collected.map(|body| {
                let trailers = body.trailers().cloned();
                (body.to_bytes(), trailers)
            });
            drop(sender);
            Some(Read { status: head.status, version: head.version, reason, headers: head.headers, body })
        };
        tokio::join!(reading, connection, sent).0
    })
}

#[test]
fn an_answer_is_read_however_it_comes() {
    const ANSWER: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 Fine\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n";
    for at_a_time in [1, 2, 5, 37, 38, 100, 65536] {
        let (answer, may_follow) = read(ANSWER, &Method::GET, at_a_time);
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.reason.as_deref()), (StatusCode::OK, Some(&b"Fine"[..])));
        assert_eq!(answer.headers, HeaderMap::from_iter([(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))]));
        assert_eq!(answer.body.unwrap(), (Bytes::from_static(b"body"), None));
        assert!(may_follow);
    }
}

#[test]
fn large_bodies_are_whole() {
    let body: Vec<u8> = (0..1_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    let answers = [
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat(),
        [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", &body[..]].concat(),
        [format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat(),
    ];
    for answer in answers {
        for at_a_time in [1000, 1 << 20] {
            assert!(read(&answer, &Method::GET, at_a_time).0.unwrap().body.unwrap().0 == body);
        }
    }
}

#[test]
fn what_nobody_has_asked_for_ends_the_connection() {
    let may_follow = |answer: &str| {
        let (read, may_follow) = read(answer.as_bytes(), &Method::GET, 65536);
        assert!(read.unwrap().body.is_some());
        may_follow
    };
    assert!(may_follow("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"));
    assert!(may_follow("HTTP/1.1 204 No Content\r\n\r\n"));
    assert!(!may_follow("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"));
    assert!(!may_follow("HTTP/1.1 204 No Content\r\ncontent-length: 1\r\n\r\na"));
    assert!(!may_follow("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\r\n"));
    assert!(!may_follow("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na"));
    assert!(!may_follow("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na"));
    assert!(!may_follow("HTTP/1.1 200 OK\r\n\r\na"));
}

#[test]
fn interim_answers_have_an_end() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
    let after = |bytes: usize| {
        read(format!("{}HTTP/1.1 204 No Content\r\n\r\n", hints.repeat(bytes / hints.len())).as_bytes(), &Method::GET, 1 << 20).0
    };
    assert!(after(incoming::BEFORE_HEAD / 2).is_ok());
    assert!(matches!(after(incoming::BEFORE_HEAD * 2), Err(Http1Error::Endless)));
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(2 * incoming::BEFORE_HEAD));
    assert!(matches!(read(long.as_bytes(), &Method::GET, 1 << 20).0, Err(Http1Error::Endless)));
}

#[test]
fn why_there_is_no_answer() {
    let error = |answer: &str| read(answer.as_bytes(), &Method::GET, 65536).0.unwrap_err();
    for (answer, is_protocol) in
        [("", false), ("HTTP/1.1 200 OK\r\na: b", false), ("SSH-2.0-a\r\n", true), ("HTTP/1.1 200 OK\r\ncontent-length: a\r\n\r\n", true)]
    {
        assert_eq!(error(answer).is_protocol(), is_protocol, "{answer:?}: {}", error(answer));
    }
}

/// Answers that are right, nearly right, and wrong.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let some = |list: &'static [&'static str]| prop::sample::select(list);
    let first = some(&[
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304",
        "HTTP/1.1 500 Odd  one ",
        "HTTP/1.1 99 A",
        "HTTP/1.1 1000 A",
        "http/1.1 200 OK",
        "HTTP/2 200",
        " HTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200 \u{fc}",
    ]);
    let line = some(&[
        "content-length: 4",
        "content-length: 4",
        "Content-Length:4 ",
        "content-length: 4, 4",
        "content-length: 04",
        "content-length: +4",
        "content-length: 4 4",
        "content-length: 5",
        "content-length: 0",
        "content-length:",
        "content-length: 99999999999999999999",
        "transfer-encoding: chunked",
        "Transfer-Encoding:\tCHUNKED",
        "connection: close",
        "connection: keep-alive",
        "x: y",
        "x:",
        ": y",
        "x : y",
        "x y: z",
        "x: \u{fc}",
        "x: a\tb",
        "x: \u{1}",
        " folded",
        "\tfolded",
        "no colon",
        "trailer: x",
        "x\"y: z",
    ]);
    let interim = some(&[
        "",
        "",
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Hints\r\nlink: a\r\ncontent-length: 9\r\n\r\n",
        "HTTP/1.1 100\n\n",
    ]);
    let end = some(ENDS);
    let body = some(BODIES);
    let text = (interim, first, prop::collection::vec((line, end.clone()), 0..4), end, body);
    let text = text.prop_map(|(interim, first, lines, end, body)| {
        let mut text = format!("{interim}{first}{end}");
        lines.iter().for_each(|(line, end)| text.extend([*line, *end]));
        text.extend([end, body]);
        text.into_bytes()
    });
    nearly(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_comes_is_read_as_hyper_reads_it(answer in answers(), method in prop::sample::select(&[Method::GET, Method::HEAD][..]), at_a_time in 1_usize..80) {
        let (whole, may_follow) = read(&answer, &method, 65536);
        let (piecemeal, may_follow_too) = read(&answer, &method, at_a_time);
        let may_follow_is_one = piecemeal.as_ref().map_or(true, |read| read.body.is_none()) || may_follow == may_follow_too || !may_follow;
        prop_assert!(may_follow_is_one, "{}", answer.escape_ascii());
        prop_assert_eq!(whole.as_ref().ok(), piecemeal.as_ref().ok(), "{}", answer.escape_ascii());
        // stricter by intent: another coding, and trailers that end otherwise
        if !(matches!(whole, Err(Http1Error::Head(BadHead::Coding))) || may_have_odd_trailers(&answer)) {
            prop_assert_eq!(whole.ok(), read_by_hyper(&answer, &method), "{}", answer.escape_ascii());
        }
    }
}
