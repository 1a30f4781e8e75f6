//! A site that does as it is told: bytewise, and with every byte that it was sent written down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;
use super::client::{find, header};
use super::wait::Door;

/// A site on a port of its own, with a thread for each connection. It ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    open: Vec<(usize, TcpStream)>,
    most: usize,
    accepted: usize,
}

/// A request as the site has read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The head, byte for byte.
    pub(crate) raw: String,
    pub(crate) method: String,
    pub(crate) target: String,
    /// In the order in which they came, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Chunks are put together.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

impl Seen {
    /// The first header of this name, which is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every header of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// The site's end of a connection.
pub(crate) struct Site {
    stream: TcpStream,
    /// Once it has been begun.
    tls: Option<Box<ServerConnection>>,
    buffer: Vec<u8>,
    number: usize,
    shared: Arc<Shared>,
}

/// A plain answer of 200.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Upstream {
    /// Answers each request, once it has been read whole, with what `handler` writes. A handler that returns `false` ends the connection.
    pub(crate) fn start(handler: impl Fn(&Seen, &mut Site) -> bool + Send + Sync + 'static) -> Self {
        Vacant::new().start(handler)
    }

    /// Does so over TLS, by what `tls` says when a connection is made.
    pub(crate) fn start_tls(
        tls: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
        handler: impl Fn(&Seen, &mut Site) -> bool + Send + Sync + 'static,
    ) -> Self {
        Vacant::new().raw(move |site| {
            if site.handshake(tls()).is_err() {
                return site.wait_for_end();
            }
            while let Ok(seen) = site.request() {
                if !handler(&seen, site) {
                    break;
                }
            }
        })
    }

    /// Answers every request with 200 and this body.
    pub(crate) fn answering(body: &'static str) -> Self {
        Self::start(move |_, site| site.write(ok(body)))
    }

    /// Answers every request with 200 and this body, once the door is open.
    pub(crate) fn behind(door: &Door, body: &'static str) -> Self {
        let door = door.clone();
        Self::start(move |_, site| {
            door.wait();
            site.write(ok(body))
        })
    }

    /// Leaves each connection to `handler`, from its first byte.
    pub(crate) fn raw(handler: impl Fn(&mut Site) + Send + Sync + 'static) -> Self {
        Vacant::new().raw(handler)
    }

    /// As gate.yaml names it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As gate.yaml names it, if it speaks TLS.
    pub(crate) fn url_tls(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.record.lock().unwrap().seen.clone()
    }

    /// Waits until so many requests have come, and returns all of them.
    #[track_caller]
    pub(crate) fn requests(&self, count: usize) -> Vec<Seen> {
        let record = self.shared.record.lock().unwrap();
        let (record, waited) = self.shared.changed.wait_timeout_while(record, PATIENCE, |record| record.seen.len() < count).unwrap();
        let seen = record.seen.clone();
        // who fails with the lock in hand fails once more when the site is dropped, and takes all other tests along
        drop(record);
        assert!(!waited.timed_out(), "{} requests instead of {count}", seen.len());
        seen
    }

    /// The most connections that were open at once.
    pub(crate) fn most_connections(&self) -> usize {
        self.shared.record.lock().unwrap().most
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.record.lock().unwrap().accepted
    }

    /// Waits until so many connections have been made.
    #[track_caller]
    pub(crate) fn connections(&self, count: usize) {
        let record = self.shared.record.lock().unwrap();
        let (record, waited) = self.shared.changed.wait_timeout_while(record, PATIENCE, |record| record.accepted < count).unwrap();
        let accepted = record.accepted;
        drop(record);
        assert!(!waited.timed_out(), "{accepted} connections instead of {count}");
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub(crate) fn all_closed(&self) {
        let record = self.shared.record.lock().unwrap();
        let (record, waited) = self.shared.changed.wait_timeout_while(record, PATIENCE, |record| !record.open.is_empty()).unwrap();
        let open = record.open.len();
        drop(record);
        assert!(!waited.timed_out(), "{open} connections are still open");
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for (_, stream) in &self.shared.record.lock().unwrap().open {
            stream.shutdown(Shutdown::Both).ok();
        }
        // wakes the accept loop, which then sees that it has ended
        drop(TcpStream::connect(self.address));
    }
}

/// An address at which connections are refused, until a site starts there. Nobody else can take the port meanwhile.
pub(crate) struct Vacant {
    socket: Socket,
    pub(crate) address: SocketAddr,
}

impl Vacant {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { socket, address }
    }

    /// As gate.yaml names it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes no connection and refuses none: who connects waits.
    pub(crate) fn hang(self) -> (TcpListener, TcpStream) {
        self.socket.listen(0).unwrap();
        // fills the accept queue, so that the kernel drops what comes after
        let filler = TcpStream::connect(self.address).unwrap();
        (self.socket.into(), filler)
    }

    /// Starts a site here; see [`Upstream::start`].
    pub(crate) fn start(self, handler: impl Fn(&Seen, &mut Site) -> bool + Send + Sync + 'static) -> Upstream {
        self.raw(move |site| {
            while let Ok(seen) = site.request() {
                if !handler(&seen, site) {
                    break;
                }
            }
        })
    }

    /// Starts a site here; see [`Upstream::raw`].
    pub(crate) fn raw(self, handler: impl Fn(&mut Site) + Send + Sync + 'static) -> Upstream {
        self.socket.listen(1024).unwrap();
        let shared = Arc::new(Shared::default());
        let (accepting, listener) = (Arc::clone(&shared), TcpListener::from(self.socket));
        std::thread::spawn(move || accept(&listener, &accepting, &Arc::new(handler)));
        Upstream { address: self.address, shared }
    }
}

fn accept<H: Fn(&mut Site) + Send + Sync + 'static>(listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<H>) {
    for number in 0.. {
        let Ok((stream, _)) = listener.accept() else { return };
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        stream.set_read_timeout(Some(PATIENCE * 6)).unwrap();
        stream.set_write_timeout(Some(PATIENCE * 6)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut record = shared.record.lock().unwrap();
        record.open.push((number, stream.try_clone().unwrap()));
        record.accepted += 1;
        // one that the gate has closed is not open, though its thread may not have seen it yet
        let open = record.open.iter().filter(|(_, stream)| !is_closed(stream)).count();
        record.most = record.most.max(open);
        drop(record);
        shared.changed.notify_all();
        let mut site = Site { stream, tls: None, buffer: Vec::new(), number, shared: Arc::clone(shared) };
        let handler = Arc::clone(handler);
        std::thread::spawn(move || handler(&mut site));
    }
}

/// `MSG_PEEK | MSG_DONTWAIT`
const PEEK_WITHOUT_WAITING: i32 = 0x02 | 0x40;

/// Whether the other side has closed a connection, and nothing is left to read.
fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match SockRef::from(stream).recv_with_flags(&mut byte, PEEK_WITHOUT_WAITING) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mut record = self.shared.record.lock().unwrap();
        record.open.retain(|(number, _)| *number != self.number);
        drop(record);
        // the clone in the record is gone: this is the end of the connection, and it is seen at once
        self.stream.shutdown(Shutdown::Both).ok();
        self.shared.changed.notify_all();
    }
}

impl Site {
    /// Writes bytes as they are. Returns whether that went well, for handlers to return.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        match &mut self.tls {
            None => self.stream.write_all(bytes).is_ok(),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush()).is_ok()
            }
        }
    }

    /// Begins TLS. If that fails, the gate is told why, and nothing of it is read any more.
    ///
    /// # Errors
    /// If the gate does not want to, or is not wanted.
    pub(crate) fn handshake(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(config).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Its side of TLS.
    pub(crate) fn tls(&self) -> &ServerConnection {
        self.tls.as_ref().unwrap()
    }

    /// Whether TLS goes on from where another connection had come.
    pub(crate) fn resumed(&self) -> bool {
        self.tls().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        let Some(tls) = &mut self.tls else { return self.stream.shutdown(Shutdown::Write).unwrap() };
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut self.stream).unwrap();
        }
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(&self) {
        SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        // a reset is sent when the last handle is closed
        self.shared.record.lock().unwrap().open.retain(|(number, _)| *number != self.number);
    }

    /// Reads a request whole, and writes it down.
    ///
    /// # Errors
    /// If the connection ends first.
    pub(crate) fn request(&mut self) -> io::Result<Seen> {
        let mut seen = self.head()?;
        self.body(&mut seen)?;
        self.note(&seen);
        Ok(seen)
    }

    /// Reads what has come, whatever it is.
    ///
    /// # Errors
    /// If the connection ends first.
    pub(crate) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads the head of a request.
    ///
    /// # Errors
    /// If the connection ends first.
    pub(crate) fn head(&mut self) -> io::Result<Seen> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let raw: Vec<u8> = self.buffer.drain(..end).collect();
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = raw.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let method = first.next().unwrap_or_default().to_owned();
        let target = first.next().unwrap_or_default().to_owned();
        let headers = lines.filter(|line| !line.is_empty()).filter_map(header).collect();
        Ok(Seen { method, target, headers, raw, connection: self.number, ..Seen::default() })
    }

    /// Reads the body of a request whose head was read.
    ///
    /// # Errors
    /// If the connection ends first.
    pub(crate) fn body(&mut self, seen: &mut Seen) -> io::Result<()> {
        if seen.header("transfer-encoding").is_some() {
            return self.chunks(seen);
        }
        let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        seen.body = self.take(length)?;
        Ok(())
    }

    /// Writes a request down.
    pub(crate) fn note(&self, seen: &Seen) {
        self.shared.record.lock().unwrap().seen.push(seen.clone());
        self.shared.changed.notify_all();
    }

    /// Waits for the gate to end the connection.
    pub(crate) fn wait_for_end(&mut self) {
        while self.fill().is_ok() {}
    }

    fn chunks(&mut self, seen: &mut Seen) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            if size == 0 {
                break;
            }
            seen.body.extend(self.take(size)?);
            self.line()?;
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            seen.trailers.extend(header(&line));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            self.fill()?;
        };
        let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
        Ok(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// If the connection ends first.
    pub(crate) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads what comes next; nothing if the connection has ended.
    pub(crate) fn some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.fill().ok();
        }
        std::mem::take(&mut self.buffer)
    }

    /// Whether more has come already.
    pub(crate) fn has_more(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !self.buffer.is_empty() || SockRef::from(&self.stream).recv_with_flags(&mut byte, PEEK_WITHOUT_WAITING).is_ok_and(|count| count > 0)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 65536];
        let count = match &mut self.tls {
            None => self.stream.read(&mut piece)?,
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut piece)?,
        };
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(())
    }
}
