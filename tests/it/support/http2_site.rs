//! A site that speaks HTTP/2 over TLS: one that speaks it well ([`Http2Site::start`]), and one that sends any frame it likes
//! ([`Http2Site::raw`]). All its connections live on one thread, and so move one after the other.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{END_HEADERS, Frame, HEADERS, PATIENCE, PREFACE, SETTINGS, frame, read_frame};

/// A site on a port of its own. It ends when it is dropped.
pub(crate) struct Http2Site {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _running: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    changed: Condvar,
}

#[derive(Default)]
struct Record {
    seen: Vec<Asked>,
    open: usize,
    accepted: usize,
    at_once: usize,
    most_at_once: usize,
    resets: Vec<Reason>,
}

/// The head of a request as the site has read it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

impl Asked {
    /// Every header of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

/// A request that waits for its answer.
pub(crate) struct Arrived {
    pub(crate) head: Asked,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        self.shared.change(|record| record.at_once -= 1);
    }
}

impl Arrived {
    pub(crate) fn path(&self) -> &str {
        &self.head.path
    }

    /// Which request of the site it is, from 1.
    pub(crate) const fn number(&self) -> usize {
        self.number
    }

    /// Reads the body whole, and what comes after it.
    pub(crate) async fn read(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let mut body = Vec::new();
        while let Some(Ok(piece)) = self.body.data().await {
            self.body.flow_control().release_capacity(piece.len()).ok();
            body.extend_from_slice(&piece);
        }
        (body, self.body.trailers().await.ok().flatten())
    }

    /// Answers with this body.
    pub(crate) fn answer(&mut self, status: u16, body: impl Into<Bytes>) {
        let body = body.into();
        let mut stream = self.begin(status, &[], body.is_empty());
        if !body.is_empty() {
            stream.send_data(body, true).ok();
        }
    }

    /// Sends the head of an answer. If the gate does not want it any more, what follows goes nowhere.
    pub(crate) fn begin(&mut self, status: u16, headers: &[(&str, &str)], is_all: bool) -> SendStream<Bytes> {
        let mut answer = Response::builder().status(status);
        for &(name, value) in headers {
            answer = answer.header(name, value);
        }
        self.respond.send_response(answer.body(()).unwrap(), is_all).unwrap()
    }

    /// Waits for the gate to reset the stream, and writes down why. For a stream that has no answer yet.
    pub(crate) async fn wait_for_reset(&mut self) {
        if let Ok(reason) = poll_fn(|cx| self.respond.poll_reset(cx)).await {
            self.shared.change(|record| record.resets.push(reason));
        }
    }

    /// The same, for one whose answer has begun.
    pub(crate) async fn wait_for_reset_of(&self, stream: &mut SendStream<Bytes>) {
        if let Ok(reason) = poll_fn(|cx| stream.poll_reset(cx)).await {
            self.shared.change(|record| record.resets.push(reason));
        }
    }
}

/// Sends a body as the window takes it. Returns how much was taken until the stream has ended.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) -> usize {
    let whole = body.len();
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return whole - body.len() };
        let piece = body.split_to(room.min(body.len()));
        if stream.send_data(piece, body.is_empty()).is_err() {
            break;
        }
    }
    whole - body.len()
}

/// Something that handlers wait for until it is opened.
#[derive(Clone)]
pub(crate) struct Hatch(watch::Sender<bool>);

impl Hatch {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn wait(&self) {
        self.0.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    }
}

/// What a handler does.
pub(crate) type Doing = Pin<Box<dyn Future<Output = ()>>>;

impl Http2Site {
    /// Leaves each request to `handler`.
    pub(crate) fn start(tls: Arc<ServerConfig>, handler: impl Fn(Arrived) -> Doing + Send + Sync + 'static) -> Self {
        Self::with(tls, |_| {}, handler)
    }

    /// With these settings.
    pub(crate) fn with(
        tls: Arc<ServerConfig>,
        settings: impl Fn(&mut Builder) + Send + Sync + 'static,
        handler: impl Fn(Arrived) -> Doing + Send + Sync + 'static,
    ) -> Self {
        Self::by(move || Arc::clone(&tls), settings, handler)
    }

    /// By what `tls` says when a connection is made.
    pub(crate) fn by(
        tls: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
        settings: impl Fn(&mut Builder) + Send + Sync + 'static,
        handler: impl Fn(Arrived) -> Doing + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        Self::serve(tls, move |io, number, shared| {
            let mut builder = Builder::new();
            settings(&mut builder);
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let arrived = arrived(request, respond, number, &shared);
                    // as it is called, so that what comes first is seen first
                    tokio::task::spawn_local(handler(arrived));
                }
            })
        })
    }

    /// Leaves each connection to `handler`, from its first byte within TLS.
    pub(crate) fn raw(tls: Arc<ServerConfig>, handler: impl Fn(Raw) -> Doing + Send + Sync + 'static) -> Self {
        Self::serve(move || Arc::clone(&tls), move |io, number, _| handler(Raw { io, number }))
    }

    fn serve(
        tls: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
        handler: impl Fn(TlsStream<TcpStream>, usize, Arc<Shared>) -> Doing + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (running, mut ended) = oneshot::channel::<()>();
        let shared = Arc::<Shared>::default();
        let record = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).unwrap();
                for number in 0.. {
                    let (socket, _) = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap(),
                        _ = &mut ended => return,
                    };
                    socket.set_nodelay(true).unwrap();
                    record.change(|record| (record.accepted, record.open) = (record.accepted + 1, record.open + 1));
                    let handshake = TlsAcceptor::from(tls()).accept(socket).into_fallible();
                    let open = Open(Arc::clone(&record));
                    let record = Arc::clone(&record);
                    match handshake.await {
                        Ok(io) => {
                            let doing = handler(io, number, record);
                            tokio::task::spawn_local(async move {
                                doing.await;
                                drop(open);
                            });
                        }
                        // closed with something unread, it would be reset, and the gate not told why
                        Err((_, mut socket)) => {
                            tokio::task::spawn_local(async move {
                                socket.read_to_end(&mut Vec::new()).await.ok();
                                drop(open);
                            });
                        }
                    }
                }
            });
        });
        Self { address, shared, _running: running }
    }

    /// As gate.yaml names it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.shared.record.lock().unwrap().seen.clone()
    }

    /// Waits until so many requests have come, and returns all of them.
    #[track_caller]
    pub(crate) fn requests(&self, count: usize) -> Vec<Asked> {
        self.wait("requests", |record| record.seen.len() >= count);
        self.seen()
    }

    /// Waits until so many streams have been reset by the gate, and returns why.
    #[track_caller]
    pub(crate) fn resets(&self, count: usize) -> Vec<Reason> {
        self.wait("resets", |record| record.resets.len() >= count);
        self.shared.record.lock().unwrap().resets.clone()
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.record.lock().unwrap().accepted
    }

    /// The most requests that were in work at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.record.lock().unwrap().most_at_once
    }

    /// Waits until so many connections are open.
    #[track_caller]
    pub(crate) fn until_open(&self, count: usize) {
        self.wait("open connections", |record| record.open == count);
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Record) -> bool) {
        let record = self.shared.record.lock().unwrap();
        let (record, waited) = self.shared.changed.wait_timeout_while(record, PATIENCE, |record| !is_so(record)).unwrap();
        assert!(!waited.timed_out(), "{what}: {:?}, {} open, {:?}", record.seen, record.open, record.resets);
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap());
        self.changed.notify_all();
    }
}

/// A connection that is open until this is dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|record| record.open -= 1);
    }
}

fn arrived(request: Request<RecvStream>, respond: SendResponse<Bytes>, connection: usize, shared: &Arc<Shared>) -> Arrived {
    let (head, body) = request.into_parts();
    let uri = &head.uri;
    let head = Asked {
        method: head.method.to_string(),
        scheme: uri.scheme_str().unwrap_or_default().to_owned(),
        authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers,
        connection,
    };
    let mut number = 0;
    shared.change(|record| {
        record.seen.push(head.clone());
        number = record.seen.len();
        record.at_once += 1;
        record.most_at_once = record.most_at_once.max(record.at_once);
    });
    Arrived { head, body, respond, shared: Arc::clone(shared), number }
}

/// The site's end of a connection on which frames are sent as they are.
pub(crate) struct Raw {
    io: TlsStream<TcpStream>,
    /// Which connection it is, from 0.
    pub(crate) number: usize,
}

impl Raw {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // the gate may have left
        self.io.write_all(bytes.as_ref()).await.ok();
        self.io.flush().await.ok();
    }

    /// What was agreed on.
    pub(crate) fn protocol(&self) -> &[u8] {
        self.io.get_ref().1.alpn_protocol().unwrap_or_default()
    }

    /// Reads the head of a request of HTTP/1.1.
    pub(crate) async fn read_head(&mut self) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = self.io.read_u8().await else { return std::future::pending().await };
            head.push(byte);
        }
    }

    /// Reads so many bytes.
    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.io.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Sends back what comes, until the end.
    pub(crate) async fn echo(&mut self) {
        while let Ok(byte) = self.io.read_u8().await {
            self.send([byte]).await;
        }
    }

    /// Reads the preface, and tells these settings.
    pub(crate) async fn settle(&mut self, settings: &[u8]) {
        let mut preface = [0; PREFACE.len()];
        self.io.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        self.send(frame(SETTINGS, 0, 0, settings)).await;
    }

    /// The next frame of this kind; `None` if the gate has ended the connection.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = read_frame(&mut self.io).await.ok()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Answers 200 without a body on a stream.
    pub(crate) async fn answer(&mut self, stream: u32) {
        self.send(frame(HEADERS, END_HEADERS | super::END_STREAM, stream, b"\x88")).await;
    }

    /// Reads on until the gate ends the connection.
    pub(crate) async fn wait_for_end(&mut self) {
        while read_frame(&mut self.io).await.is_ok() {}
    }
}
