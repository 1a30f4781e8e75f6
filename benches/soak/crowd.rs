//! Clients: visitors who stay, over HTTP/1, TLS, HTTP/2 and WebSockets, strangers who come once, and some who leave in the middle.

use std::io::Read as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};
use tokio_rustls::TlsConnector;

use super::book::{Book, Came, add};

/// Where the gate is, and how it is believed.
pub(super) struct Gate {
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) http2: Arc<ClientConfig>,
}

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

impl Gate {
    async fn plain(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.http).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn tls(&self, config: &Arc<ClientConfig>) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.https).await?;
        stream.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::clone(config)).connect(HOST.try_into()?, stream).await?)
    }

    async fn wire(&self, tls: bool) -> anyhow::Result<Box<dyn Wire>> {
        Ok(if tls { Box::new(self.tls(&self.http1).await?) } else { Box::new(self.plain().await?) })
    }
}

pub(super) const HOST: &str = "soak.test";

/// Who all comes.
pub(super) fn come(crowd: &mut JoinSet<()>, gate: &Rc<Gate>, book: &Rc<Book>) {
    for number in 0..12 {
        crowd.spawn_local(stay(Rc::clone(gate), Rc::clone(book), number, false));
    }
    for number in 0..4 {
        crowd.spawn_local(stay(Rc::clone(gate), Rc::clone(book), number, true));
        crowd.spawn_local(talk(Rc::clone(gate), Rc::clone(book)));
    }
    for number in 0..3 {
        crowd.spawn_local(stream(Rc::clone(gate), Rc::clone(book), number));
    }
    for _ in 0..2 {
        crowd.spawn_local(pass_by(Rc::clone(gate), Rc::clone(book)));
        crowd.spawn_local(leave(Rc::clone(gate), Rc::clone(book)));
    }
}

/// One connection of HTTP/1.
pub(super) struct Visitor {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

/// What came of a request.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Visitor {
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        let answered = async {
            self.wire.write_all(request).await?;
            self.wire.flush().await?;
            self.answer().await
        };
        tokio::time::timeout(PATIENCE, answered).await.context("no answer in time")?
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect())?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let length = if status == 101 { 0 } else { header(&head, "content-length").context("no length")?.parse()? };
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(Answer { status, head, body: self.buffer.drain(..length).collect() })
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        ensure!(self.wire.read_buf(&mut self.buffer).await? > 0, "the connection has ended within {} bytes", self.buffer.len());
        Ok(())
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// What is asked for next, and what must come back.
fn request(number: u64, cookie: &str) -> (Vec<u8>, Vec<u8>) {
    let head = format!("Host: {HOST}\r\nAccept: text/html\r\n{cookie}");
    match number % 16 {
        3 => (format!("GET /large/{LARGE} HTTP/1.1\r\n{head}\r\n").into_bytes(), vec![b'x'; LARGE]),
        7 => {
            let size = if number % 32 == 7 { LARGE } else { 5000 };
            let mut bytes = format!("POST /form HTTP/1.1\r\n{head}Content-Length: {size}\r\n\r\n").into_bytes();
            bytes.resize(bytes.len() + size, b'f');
            (bytes, size.to_string().into_bytes())
        }
        _ => (format!("GET /page/{number} HTTP/1.1\r\n{head}\r\n").into_bytes(), number.to_string().into_bytes()),
    }
}

/// More than the gate reads ahead, as it is set up here.
const LARGE: usize = 200_000;

fn judge(answer: anyhow::Result<(u16, Vec<u8>)>, expected: &[u8]) -> Came {
    match answer {
        Ok((200, body)) if body == expected => Came::Good,
        Ok((200, body)) => Came::Broken(format!("another answer, of {} bytes", body.len())),
        Ok((status, _)) => Came::Failure(status),
        Err(error) => Came::Broken(format!("{error:#}")),
    }
}

/// Asks for one page after another; now and then on a new connection.
async fn stay(gate: Rc<Gate>, book: Rc<Book>, start: u64, tls: bool) {
    let (mut cookie, mut number) = (String::new(), start * 1_000_000);
    while !book.over.get() {
        let began = book.clock.moment();
        let mut visitor = match gate.wire(tls).await {
            Ok(wire) => Visitor { wire, buffer: Vec::new() },
            Err(error) => {
                book.note("connecting", began, Came::Broken(format!("{error:#}")));
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        for _ in 0..if tls { 50 } else { 500 } {
            number += 1;
            let (bytes, expected) = request(number, &cookie);
            let began = book.clock.moment();
            let answer = visitor.ask(&bytes).await;
            if let Some(set) = answer.as_ref().ok().and_then(|answer| pass(&answer.head)) {
                cookie = set;
            }
            let goes_on = answer.as_ref().is_ok_and(|answer| header(&answer.head, "connection") != Some("close"));
            let came = judge(answer.map(|answer| (answer.status, answer.body)), &expected);
            let failed = !matches!(came, Came::Good);
            book.note(if tls { "https" } else { "http" }, began, came);
            if failed {
                tokio::time::sleep(BREATH).await;
            }
            if !goes_on || book.over.get() {
                break;
            }
        }
    }
}

/// The line that shows the pass that an answer sets.
fn pass(head: &str) -> Option<String> {
    let pair = header(head, "set-cookie").and_then(|line| line.split(';').next())?;
    pair.contains("tidegate_pass=").then(|| format!("Cookie: {pair}\r\n"))
}

/// The same over HTTP/2, several at a time.
async fn stream(gate: Rc<Gate>, book: Rc<Book>, start: u64) {
    let mut number = start * 1_000_000;
    let mut cookie: Option<String> = None;
    while !book.over.get() {
        let began = book.clock.moment();
        let opened = async {
            let wire = gate.tls(&gate.http2).await?;
            anyhow::Ok(h2::client::Builder::new().initial_window_size(1 << 20).handshake::<_, Bytes>(wire).await?)
        };
        let sender = match opened.await {
            Ok((sender, connection)) => {
                spawn_local(async move { drop(connection.await) });
                sender
            }
            Err(error) => {
                book.note("connecting", began, Came::Broken(format!("{error:#}")));
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        for _ in 0..100 {
            let mut streams = JoinSet::new();
            for _ in 0..4 {
                number += 1;
                let (sender, book, cookie, number) = (sender.clone(), Rc::clone(&book), cookie.clone(), number);
                streams.spawn_local(async move {
                    let began = book.clock.moment();
                    let answer = tokio::time::timeout(PATIENCE, ask_http2(sender, number, cookie)).await;
                    let (answer, set) = match answer.context("no answer in time").and_then(|answer| answer) {
                        Ok((status, body, set)) => (Ok((status, body)), set),
                        Err(error) => (Err(error), None),
                    };
                    let expected = if number % 8 == 3 { vec![b'x'; LARGE] } else { number.to_string().into_bytes() };
                    let came = judge(answer, &expected);
                    let is_good = matches!(came, Came::Good);
                    book.note("http/2", began, came);
                    (is_good, set)
                });
            }
            let mut all_good = true;
            while let Some(Ok((is_good, set))) = streams.join_next().await {
                all_good &= is_good;
                cookie = set.or(cookie);
            }
            if !all_good {
                tokio::time::sleep(BREATH).await;
                break;
            }
            if book.over.get() {
                return;
            }
        }
    }
}

async fn ask_http2(
    sender: h2::client::SendRequest<Bytes>,
    number: u64,
    cookie: Option<String>,
) -> anyhow::Result<(u16, Vec<u8>, Option<String>)> {
    let path = if number % 8 == 3 { format!("/large/{LARGE}") } else { format!("/page/{number}") };
    let mut request = http::Request::builder().uri(format!("https://{HOST}{path}")).header("accept", "text/html");
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    let (answer, _) = sender.ready().await?.send_request(request.body(())?, true)?;
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let lines = head.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let set = lines.filter_map(|line| line.split(';').next()).find(|pair| pair.contains("tidegate_pass="));
    Ok((head.status.as_u16(), body, set.map(str::to_owned)))
}

/// Strangers: each without a pass, some of them on one connection. Every other one takes gzip.
async fn pass_by(gate: Rc<Gate>, book: Rc<Book>) {
    for takes in ["", "Accept-Encoding: gzip\r\n"].into_iter().cycle() {
        if book.over.get() {
            return;
        }
        let began = book.clock.moment();
        let came = async {
            let mut visitor = Visitor { wire: gate.wire(false).await?, buffer: Vec::new() };
            visitor.ask(format!("GET /page/1 HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/html\r\n{takes}\r\n").as_bytes()).await
        };
        let came = match came.await {
            // with a ticket, or without one if the gate has given many to this address
            Ok(answer) if answer.status == 503 && answer.head.contains("\r\nretry-after: ") => {
                page(&answer, takes).map_or_else(|error| Came::Broken(format!("a waiting page: {error:#}")), |()| Came::Waits)
            }
            other => judge(other.map(|answer| (answer.status, answer.body)), b"1"),
        };
        book.note("stranger", began, came);
        tokio::time::sleep(BREATH / 4).await;
    }
}

/// Whether an answer is a page, in the coding that was asked for.
fn page(answer: &Answer, takes: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    match header(&answer.head, "content-encoding") {
        Some("gzip") if !takes.is_empty() => drop(GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text)?),
        None => text.push_str(std::str::from_utf8(&answer.body)?),
        Some(other) => bail!("in {other}"),
    }
    ensure!(text.trim_end().ends_with("</html>"), "{} bytes without an end", text.len());
    Ok(())
}

/// A WebSocket after another.
async fn talk(gate: Rc<Gate>, book: Rc<Book>) {
    while !book.over.get() {
        let began = book.clock.moment();
        if let Err(came) = converse(&gate, &book).await {
            book.note("websocket", began, came);
            tokio::time::sleep(BREATH).await;
        }
    }
}

/// Asks for a WebSocket; the status tells whether there is one.
async fn ask_for_socket(gate: &Gate) -> anyhow::Result<(u16, Visitor)> {
    let mut visitor = Visitor { wire: gate.wire(false).await?, buffer: Vec::new() };
    let ask = format!(
        "GET /open/socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = visitor.ask(ask.as_bytes()).await?;
    Ok((answer.status, visitor))
}

/// A WebSocket on which nothing is said.
pub(super) async fn open_socket(gate: &Gate) -> anyhow::Result<Visitor> {
    let (status, visitor) = ask_for_socket(gate).await?;
    ensure!(status == 101, "no WebSocket: {status}");
    Ok(visitor)
}

async fn converse(gate: &Gate, book: &Book) -> Result<(), Came> {
    let broken = |error: anyhow::Error| Came::Broken(format!("{error:#}"));
    let (status, mut visitor) = ask_for_socket(gate).await.map_err(broken)?;
    if status != 101 {
        return Err(Came::Failure(status));
    }
    add(&book.good);
    for number in 0..200_u32 {
        let talked = async {
            visitor.wire.write_all(&number.to_be_bytes()).await?;
            while visitor.buffer.len() < 4 {
                visitor.fill().await?;
            }
            let back: Vec<u8> = visitor.buffer.drain(..4).collect();
            ensure!(back == number.to_be_bytes(), "another message came back");
            anyhow::Ok(())
        };
        let talked = tokio::time::timeout(PATIENCE, talked).await.context("no message in time");
        talked.and_then(|talked| talked).map_err(broken)?;
        add(&book.echoed);
        if book.over.get() {
            break;
        }
        tokio::time::sleep(BREATH / 10).await;
    }
    Ok(())
}

/// Leaves, each time at another point.
async fn leave(gate: Rc<Gate>, book: Rc<Book>) {
    let mut number = 0_u64;
    while !book.over.get() {
        number += 1;
        // who leaves in the middle may well be cut
        left(&gate, &book, number).await.ok();
        tokio::time::sleep(BREATH / 2).await;
    }
}

async fn left(gate: &Gate, book: &Book, number: u64) -> anyhow::Result<()> {
    let mut stream = gate.plain().await?;
    let (whole, _) = request([1, 3, 7, 1, 3][usize::try_from(number % 5)?], "");
    let bytes = match number % 5 {
        0 => &whole[..0],
        1 => &whole[..20],
        2 => &whole[..whole.len() / 2],
        _ => &whole[..],
    };
    if bytes.len() > 100 || number % 5 > 2 {
        add(&book.left);
    }
    stream.write_all(bytes).await?;
    if number % 5 == 4 {
        let mut some = [0; 1000];
        tokio::time::timeout(PATIENCE, stream.read(&mut some)).await??;
    }
    if number.is_multiple_of(2) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    drop(stream);
    Ok(())
}

/// What any answer may take, at the most.
const PATIENCE: Duration = Duration::from_secs(30);
const BREATH: Duration = Duration::from_millis(200);
