//! Clients that speak HTTP/2 over TLS: one that speaks it well ([`Http2`]), and one that sends any frame it likes ([`Frames`]).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Authority, Client, PATIENCE, World};

/// A gate with TLS, which its visitors believe.
pub(crate) struct Secure {
    world: World,
    authority: Authority,
    connector: TlsConnector,
}

/// How a world is started: by a policy, with files that are put into its directory first.
type Starts = fn(&str, &dyn Fn(&Path)) -> World;

impl Secure {
    /// Starts a gate by this policy, in which `listen` does not stand.
    #[track_caller]
    pub(crate) fn start(yaml: &str) -> Self {
        Self::prepared(yaml, |_| {})
    }

    /// The same, with files that are put into its directory first.
    #[track_caller]
    pub(crate) fn prepared(yaml: &str, prepare: impl Fn(&Path)) -> Self {
        Self::started(|yaml, prepare| World::prepared(yaml, prepare), yaml, prepare)
    }

    /// The same, and the gate's kernel keeps little of what a client does not take.
    #[track_caller]
    pub(crate) fn narrow(yaml: &str) -> Self {
        Self::started(|yaml, prepare| World::narrow(yaml, prepare), yaml, |_| {})
    }

    #[track_caller]
    fn started(starts: Starts, yaml: &str, prepare: impl Fn(&Path)) -> Self {
        let authority = Authority::new();
        let https = "listen: { https: { address: 127.0.0.1:0, certificate: site.pem, key: site.key } }";
        let world = starts(&format!("{https}\n{yaml}"), &|directory| {
            drop(authority.issue(directory, "site", &["test"]));
            prepare(directory);
        });
        let connector = authority.visitor(&[b"h2"]).into();
        Self { world, authority, connector }
    }

    /// A visitor who speaks HTTP/1.1 within TLS.
    pub(crate) fn secured(&self) -> Client {
        self.over_tls(Client::connect(self.world.https.unwrap()))
    }

    /// The same, whose kernel takes few bytes until they are read.
    pub(crate) fn narrow_client(&self) -> Client {
        self.over_tls(Client::connect_narrow(self.world.https.unwrap()))
    }

    fn over_tls(&self, client: Client) -> Client {
        client.secured(&self.authority.visitor(&[b"http/1.1"]), "test").unwrap()
    }

    /// A gate in front of one site that lets everyone in; `more` is further YAML.
    #[track_caller]
    pub(crate) fn open(upstream: &str, more: &str) -> Self {
        Self::start(&format!("upstream: {{ servers: [{upstream}] }}\nadmission: {{ mode: open }}\n{more}"))
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_at(self.world.https.unwrap()).await
    }

    /// The same through what listens there.
    async fn connect_at(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.connect_over(TcpStream::connect(address).await.unwrap()).await
    }

    async fn connect_over(&self, socket: TcpStream) -> TlsStream<TcpStream> {
        self.try_connect_over(socket).await.unwrap()
    }

    async fn try_connect_over(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        socket.set_nodelay(true).unwrap();
        let stream = self.connector.connect("test".try_into().unwrap(), socket).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Ok(stream)
    }
}

impl Deref for Secure {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Secure {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connection, which moves only while something is awaited on it.
pub(crate) struct Http2 {
    runtime: Runtime,
    pub(crate) sender: SendRequest<Bytes>,
    ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Http2Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Http2Answer {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a cookie that it sets, whatever its prefix.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        lines
            .filter_map(|line| line.split(';').next())
            .find(|pair| pair.split('=').next().is_some_and(|set| set.ends_with(name)))
            .map(str::to_owned)
    }
}

/// A request for a page of the test's host.
pub(crate) fn http2_request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("https://test{path}"));
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    request.body(()).unwrap()
}

impl Http2 {
    pub(crate) fn connect(gate: &Secure) -> Self {
        Self::connect_with(gate, &mut h2::client::Builder::new())
    }

    /// With other settings.
    pub(crate) fn connect_with(gate: &Secure, builder: &mut h2::client::Builder) -> Self {
        Self::over(gate.connect(), builder)
    }

    /// Through what listens there.
    pub(crate) fn connect_at(gate: &Secure, address: SocketAddr) -> Self {
        Self::over(gate.connect_at(address), &mut h2::client::Builder::new())
    }

    /// The answer to a GET through what listens there, which may break off; `None` if it is not whole.
    pub(crate) fn get_at(gate: &Secure, address: SocketAddr, path: &str) -> Option<Http2Answer> {
        let answer = async {
            let io = gate.try_connect_over(TcpStream::connect(address).await.ok()?).await.ok()?;
            let (sender, connection) = h2::client::handshake(io).await.ok()?;
            tokio::spawn(connection);
            let (answer, _) = sender.ready().await.ok()?.send_request(http2_request("GET", path, &[]), true).ok()?;
            whole(answer.await.ok()?).await.ok()
        };
        runtime().block_on(async { tokio::time::timeout(PATIENCE, answer).await }).expect("an answer or an end")
    }

    fn over(io: impl Future<Output = TlsStream<TcpStream>>, builder: &mut h2::client::Builder) -> Self {
        let runtime = runtime();
        let (sender, ended) = runtime.block_on(async {
            let io = io.await;
            let (sender, connection) = builder.handshake(io).await.unwrap();
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, ended }
    }

    /// Does something, and fails if it takes too long.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await }).expect("not to wait in vain")
    }

    /// A request without a body, and its answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Http2Answer {
        self.ask(http2_request("GET", path, headers), &[]).expect("an answer")
    }

    /// A request with these pieces of a body, and its answer.
    pub(crate) fn ask(&mut self, request: Request<()>, body: &[&[u8]]) -> Result<Http2Answer, h2::Error> {
        let sender = self.sender.clone();
        self.wait(async move {
            let (answer, mut stream) = sender.ready().await?.send_request(request, body.is_empty())?;
            for (number, piece) in body.iter().enumerate() {
                stream.send_data(Bytes::copy_from_slice(piece), number + 1 == body.len())?;
            }
            whole(answer.await?).await
        })
    }

    /// Waits for the connection to end; whether it did so without an error.
    pub(crate) fn end(self) -> bool {
        let Self { runtime, sender, ended } = self;
        drop(sender);
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await }).expect("an end").unwrap().is_ok()
    }

    /// The same, while this side would still send requests.
    pub(crate) fn ended_by_the_gate(mut self) -> bool {
        let ended = &mut self.ended;
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await }).expect("an end").unwrap().is_ok()
    }
}

/// Reads an answer whole, and takes it off the window.
pub(crate) async fn whole(answer: Response<h2::RecvStream>) -> Result<Http2Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?;
    Ok(Http2Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// A frame as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The header block of `GET / HTTP/2` for the test's host, without the dynamic table.
pub(crate) const GET: &[u8] = b"\x82\x87\x84\x01\x04test";
/// The same of a POST.
pub(crate) const POST: &[u8] = b"\x83\x87\x84\x01\x04test";

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The bytes of a header field that leaves the dynamic table alone. Name and value are as they are, and shorter than 127 bytes.
pub(crate) fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let text = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
    [vec![0], text(name.as_ref()), text(value.as_ref())].concat()
}

/// The answer on stream 1 that is in these frames, which are all that the gate has sent, as a client reads it.
pub(crate) fn answer_in(frames: &[Frame]) -> Http2Answer {
    let is_told = |told: &&Frame| match told.kind {
        SETTINGS => told.flags & ACK == 0,
        kind => told.stream == 1 && [HEADERS, CONTINUATION, DATA].contains(&kind),
    };
    let bytes: Vec<u8> = frames.iter().filter(is_told).flat_map(|told| frame(told.kind, told.flags, told.stream, &told.payload)).collect();
    let read = async {
        let (io, mut gate) = tokio::io::duplex(1 << 20);
        let tells = async {
            // it must have asked before it is answered
            gate.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
            while read_frame(&mut gate).await.unwrap().kind != HEADERS {}
            gate.write_all(&bytes).await.unwrap();
            std::future::pending::<()>().await;
        };
        let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
        let (answer, _stream) = sender.send_request(http2_request("GET", "/", &[]), true).unwrap();
        let whole = async { whole(answer.await.unwrap()).await.unwrap() };
        tokio::select! {
            answer = whole => answer,
            ended = connection => panic!("{ended:?}"),
            () = tells => unreachable!("it goes on for ever"),
        }
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, read).await }).expect("an answer")
}

/// A connection on which frames are sent as they are.
pub(crate) struct Frames {
    runtime: Runtime,
    io: TlsStream<TcpStream>,
}

impl Frames {
    /// Connects, and says nothing.
    pub(crate) fn silent(gate: &Secure) -> Self {
        let runtime = runtime();
        let io = runtime.block_on(gate.connect());
        Self { runtime, io }
    }

    /// Connects, and says the preface with these settings.
    pub(crate) fn connect(gate: &Secure, settings: &[u8]) -> Self {
        let mut frames = Self::silent(gate);
        frames.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat());
        frames
    }

    /// The same without settings, and the client's kernel takes few bytes until they are read.
    pub(crate) fn narrow(gate: &Secure) -> Self {
        let runtime = runtime();
        let io = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            gate.connect_over(socket.connect(gate.https.unwrap()).await.unwrap()).await
        });
        let mut frames = Self { runtime, io };
        frames.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        frames
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let Self { runtime, io } = self;
        let sent = async {
            io.write_all(bytes.as_ref()).await?;
            io.flush().await
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, sent).await }).expect("to write in time").expect("to write");
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> io::Result<Frame> {
        let Self { runtime, io } = self;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, read_frame(io)).await }).expect("a frame in time")
    }

    /// Sends all of this, however much the gate takes of it, while it reads what comes back. Returns the frames that came until the
    /// gate has ended the connection.
    #[track_caller]
    pub(crate) fn attack(self, bytes: impl IntoIterator<Item = Vec<u8>> + Send) -> Vec<Frame> {
        let Self { runtime, io } = self;
        let (mut reader, mut writer) = tokio::io::split(io);
        let writes = async {
            for piece in bytes {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
            // it may have ended already
            writer.flush().await.ok();
        };
        let reads = async {
            let mut seen = Vec::new();
            while let Ok(frame) = read_frame(&mut reader).await {
                seen.push(frame);
            }
            seen
        };
        let both = async { tokio::join!(writes, reads).1 };
        runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, both).await }).expect("the gate to end it")
    }
}

/// Reads a frame.
///
/// # Errors
/// If the connection ends first.
pub(crate) async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, rest @ ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
    io.read_exact(&mut payload).await?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes(rest), payload })
}
