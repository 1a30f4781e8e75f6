//! That requests are read as hyper's server reads them, and what is written as an answer is read so by hyper's client.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::http1::trials::{BODIES, ENDS, may_have_odd_trailers, nearly};
use crate::proxy::body::ClientBody;

const HEADER_BYTES: usize = 8192;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A request as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    /// `None` if it broke off.
    body: Option<(Bytes, Option<HeaderMap>)>,
}

/// All requests of a connection, and the status by which one is refused that is none.
type All = (Vec<Read>, Option<u16>);

/// What is sent so, at so many bytes a time, and then ended; whatever comes is taken.
fn sending(bytes: &[u8], at_a_time: usize) -> (DuplexStream, impl Future<Output = Vec<u8>> + use<>) {
    let (near, far) = duplex(at_a_time);
    let bytes = bytes.to_vec();
    (near, async move {
        let (mut reads, mut writes) = tokio::io::split(far);
        let mut said = Vec::new();
        let sent = async {
            drop(writes.write_all(&bytes).await);
            drop(writes.shutdown().await);
        };
        let (_, read) = tokio::join!(sent, reads.read_to_end(&mut said));
        drop(read);
        said
    })
}

fn read(requests: &[u8], at_a_time: usize) -> All {
    run(async {
        let (mut near, sent) = sending(requests, at_a_time);
        let reading = async {
            let (mut reading, mut all) = (Reading::default(), Vec::new());
            let refused = loop {
                let head = loop {
                    if !reading.input.is_empty() {
                        match spare::with_names(|names| from_client::read(&reading.input, HEADER_BYTES, HeaderMap::new, names)) {
                            Ok(Some((head, taken))) => {
                                drop(reading.input.split_to(taken));
                                break Ok(head);
                            }
                            Ok(None) => reading.is_part(),
                            Err(bad) => break Err(Some(bad.status().as_u16())),
                        }
                    }
                    match poll_fn(|cx| reading.poll_head(&mut near, cx)).await {
                        Ok(0) | Err(_) => break Err(None),
                        Ok(_) if reading.part() >= HEADER_BYTES => break Err(Some(431)),
                        Ok(_) => {}
                    }
                };
                let head = match head {
                    Ok(head) => head,
                    Err(refused) => break refused,
                };
                let Head { method, uri, version, headers, framing, terms, .. } = head;
                let body = match framing {
                    None => Some((Bytes::new(), None)),
                    Some(framing) => body(&mut reading, &mut near, Decoder::new(framing)).await,
                };
                let is_last = !terms.keeps_alive || body.is_none();
                all.push(Read { method, uri, version, headers, body });
                if is_last {
                    break None;
                }
            };
            drop(near);
            (all, refused)
        };
        tokio::join!(reading, sent).0
    })
}

async fn body(reading: &mut Reading, stream: &mut DuplexStream, mut decoder: Decoder) -> Option<(Bytes, Option<HeaderMap>)> {
    let (mut data, mut trailers) = (BytesMut::new(), None);
    loop {
        match decoder.decode(&mut reading.input).ok()? {
            Decoded::Data(piece) => data.extend_from_slice(&piece),
            Decoded::Trailers(fields) => trailers = Some(fields),
            Decoded::Over => return Some((data.freeze(), trailers)),
            Decoded::More => {
                let read = poll_fn(|cx| reading.poll_body(stream, cx, decoder.left(), BODY_AT_ONCE)).await;
                if read.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

/// The same by hyper's server.
fn read_by_hyper(requests: &[u8]) -> All {
    run(async {
        let (near, sent) = sending(requests, 65536);
        let all = Arc::new(Mutex::new(Vec::new()));
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let all = Arc::clone(&all);
            async move {
                let (head, body) = request.into_parts();
                let collected = body.collect().await.ok();
                let body = collected.map(|body| {
                    let trailers = body.trailers().cloned();
                    (body.to_bytes(), trailers)
                });
                let read = Read { method: head.method, uri: head.uri, version: head.version, headers: head.headers, body };
                all.lock().unwrap().push(read);
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut server = http1::Builder::new();
        // who says no more has still asked
        server.half_close(true).max_buf_size(HEADER_BYTES).max_header_size(HEADER_BYTES);
        let (_, said) = tokio::join!(server.serve_connection(TokioIo::new(near), service), sent);
        let all = std::mem::take(&mut *all.lock().unwrap());
        let statuses: Vec<u16> = String::from_utf8_lossy(&said)
            .split("HTTP/1.")
            .filter_map(|answer| answer.get(2..5).and_then(|status| status.parse().ok()))
            .collect();
        (all, statuses.last().copied().filter(|status| *status >= 400))
    })
}

/// Requests that are right, nearly right, and wrong.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let some = |list: &'static [&'static str]| prop::sample::select(list);
    let first = some(&[
        "GET / HTTP/1.1",
        "GET / HTTP/1.1",
        "POST /a?b=c HTTP/1.1",
        "POST / HTTP/1.0",
        "HEAD * HTTP/1.1",
        "OPTIONS http://a:1/b HTTP/1.1",
        "GET /\u{fc} HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET #b HTTP/1.1",
        "GET a HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.2",
        "get / http/1.1",
        "G\"T / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "GET /",
    ]);
    let line = some(&[
        "host: a",
        "content-length: 4",
        "content-length: 4",
        "Content-Length:4 ",
        "content-length: 04",
        "content-length: 4, 4",
        "content-length: +4",
        "content-length: 5",
        "content-length: 0",
        "content-length:",
        "content-length: 99999999999999999999",
        "transfer-encoding: chunked",
        "transfer-encoding: chunked",
        "Transfer-Encoding:\tCHUNKED",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding:",
        "connection: close",
        "connection: x, keep-alive",
        "expect: 100-continue",
        "te: trailers",
        "x: y",
        "x:",
        ": y",
        "x : y",
        "x y: z",
        "x: \u{fc}",
        "x: a\tb",
        "x: \u{1}",
        " folded",
        "no colon",
        "x\"y: z",
    ]);
    let end = some(ENDS);
    let body = some(BODIES);
    let after = some(&["", "", "GET /after HTTP/1.1\r\nhost: b\r\n\r\n", "\r\n\r\nGET /after HTTP/1.0\r\n\r\n"]);
    let text = (first, prop::collection::vec((line, end.clone()), 0..4), end.clone(), end, body, after);
    let text = text.prop_map(|(first, lines, end, last, body, after)| {
        let mut text = format!("{first}{end}");
        lines.iter().for_each(|(line, end)| text.extend([*line, *end]));
        text.extend([last, body, after]);
        text.into_bytes()
    });
    nearly(text)
}

/// What is written for an answer.
fn written(answer: &Answered, terms: Terms) -> (Vec<u8>, bool) {
    let mut writing = Writing::default();
    let body = ClientBody::joined(answer.pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect::<Vec<_>>());
    let known = if answer.pieces.is_empty() { Known::Nothing } else { body.size_hint().exact().map_or(Known::Unknown, Known::Length) };
    let known = if answer.is_unknown { Known::Unknown } else { known };
    let date = b"date: now\r\n";
    let head = writing.add_lines(|lines| write_head(lines, answer.status, None, &answer.headers, known, terms, date));
    let keeps_alive = head.keeps_alive;
    if let Some(mut relaying) = Relaying::after(head, body) {
        let filled = relaying.poll_fill(&mut writing, &mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(filled, Poll::Ready(Ok(Filled::Whole))), "{filled:?}");
    }
    let out = run(async {
        let (mut near, mut far) = duplex(1 << 20);
        poll_fn(|cx| writing.poll(&mut near, cx)).await.unwrap();
        drop(near);
        let mut out = Vec::new();
        far.read_to_end(&mut out).await.unwrap();
        out
    });
    (out, keeps_alive)
}

#[derive(Clone, Debug)]
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    pieces: Vec<&'static str>,
    /// Its length is not told.
    is_unknown: bool,
}

fn answers() -> impl Strategy<Value = Answered> {
    let status = prop::sample::select(&[200_u16, 200, 204, 304, 404, 503, 599][..]);
    let line = prop::sample::select(
        &[("x-a", "1"), ("x-a", "2"), ("x-empty", ""), ("connection", "close"), ("trailer", "x-sum"), ("date", "then")][..],
    );
    let pieces = prop::collection::vec(prop::sample::select(&["a", "body", "0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"][..]), 0..4);
    (status, prop::collection::vec(line, 0..4), pieces, any::<bool>()).prop_map(|(status, lines, pieces, is_unknown)| {
        let headers = lines.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        Answered { status: StatusCode::from_u16(status).unwrap(), headers, pieces, is_unknown }
    })
}

/// What hyper's client makes of it: its status, body, and whether another request may follow.
fn taken_by_hyper(answer: &[u8], method: &Method) -> Option<(StatusCode, Bytes, bool)> {
    run(async {
        let (near, mut far) = duplex(1 << 20);
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        let asking = async {
            let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            let may_follow = sender.ready().await.is_ok();
            drop(sender);
            Some((status, body, may_follow))
        };
        let answering = async {
            far.write_all(answer).await.unwrap();
            // one whose body ends with the connection
            if !answer.starts_with(b"HTTP/1.1") {
                drop(far);
                return;
            }
            drop(far.read_to_end(&mut Vec::new()).await);
        };
        tokio::join!(asking, connection, answering).0
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn requests_are_read_as_hyper_reads_them(requests in requests(), at_a_time in 1_usize..80) {
        let whole = read(&requests, 65536);
        let piecemeal = read(&requests, at_a_time);
        prop_assert_eq!(&whole.0, &piecemeal.0, "{}", requests.escape_ascii());
        // one that is cut off is not looked at, unless it comes in one piece
        prop_assert!(whole.1 == piecemeal.1 || piecemeal.1.is_none(), "{}", requests.escape_ascii());
        // stricter by intent: of one that has a coding, a length that is none is not let through, nor a trailer that ends otherwise
        let text = requests.to_ascii_lowercase();
        let has = |what: &[u8]| memchr::memmem::find(&text, what).is_some();
        if !(may_have_odd_trailers(&requests) || has(b"transfer-encoding") && has(b"content-length")) {
            prop_assert_eq!(whole, read_by_hyper(&requests), "{}", requests.escape_ascii());
        }
    }

    #[test]
    fn an_answer_is_taken_as_it_was_meant(answer in answers(), is_head in any::<bool>(), keeps_alive in any::<bool>(), is_old in any::<bool>()) {
        let version = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
        let terms = Terms { is_head, version, keeps_alive, takes_trailers: false };
        let (bytes, stays) = written(&answer, terms);
        let method = if is_head { Method::HEAD } else { Method::GET };
        let (status, body, may_follow) = taken_by_hyper(&bytes, &method).ok_or_else(|| TestCaseError::fail(bytes.escape_ascii().to_string()))?;
        let has_body = !is_head && !matches!(answer.status.as_u16(), 204 | 304);
        prop_assert_eq!((status, body), (answer.status, Bytes::from(if has_body { answer.pieces.concat() } else { String::new() })));
        // hyper's client does not rely on HTTP/1.0
        prop_assert_eq!(may_follow, stays && !is_old, "{}", bytes.escape_ascii());
    }
}
