//! A client that writes bytes and reads answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};

use super::PATIENCE;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    /// What it says is within TLS.
    tls: Option<Box<ClientConnection>>,
    /// Read, and not part of an answer yet.
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("to connect");
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, tls: None, buffer: Vec::new() }
    }

    /// Goes on within TLS, as a visitor of this host.
    ///
    /// # Errors
    /// The handshake failed.
    pub(crate) fn secured(mut self, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), host).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(self)
    }

    /// What was agreed.
    pub(crate) fn tls(&self) -> &ClientConnection {
        self.tls.as_ref().unwrap()
    }

    /// A client whose kernel takes few bytes until they are read.
    pub(crate) fn connect_narrow(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        // in packets as they are on a network: the gate's kernel keeps room for many of them
        socket.set_tcp_mss(1000).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// Another end of the same connection, for a thread that writes while this one reads.
    pub(crate) fn twin(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), tls: None, buffer: Vec::new() }
    }

    /// Writes bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("to write");
    }

    /// Writes what can be written: the gate may have answered and closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.stream.write_all(bytes.as_ref()) };
        let mut stream = Stream::new(tls.as_mut(), &mut self.stream);
        stream.write_all(bytes.as_ref())?;
        stream.flush()
    }

    /// Sends bytes and ends its side in the same segment.
    #[track_caller]
    pub(crate) fn send_last(&self, bytes: impl AsRef<[u8]>) {
        const MSG_MORE: i32 = 0x8000;
        let sent = socket2::SockRef::from(&self.stream).send_with_flags(bytes.as_ref(), MSG_MORE).unwrap();
        assert_eq!(sent, bytes.as_ref().len());
        self.finish();
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a GET with these header lines, and reads the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str, headers: &[&str]) -> Answer {
        self.send(request("GET", path, headers));
        self.answer()
    }

    /// Reads an answer to anything but HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer("GET").expect("a whole answer")
    }

    /// Reads an answer to HEAD.
    #[track_caller]
    pub(crate) fn answer_to_head(&mut self) -> Answer {
        self.try_answer("HEAD").expect("a whole answer")
    }

    /// Reads an answer to a request of this method.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] if the connection ends before the answer does.
    pub(crate) fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        let mut answer = loop {
            let answer = self.head()?;
            if (100..200).contains(&answer.status) && answer.status != 101 {
                interim.push(answer.status);
                continue;
            }
            break answer;
        };
        answer.interim = interim;
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.chunks(&mut answer)?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            answer.body = self.take(length)?;
        } else {
            self.rest(&mut answer)?;
        }
        Ok(answer)
    }

    /// Reads the head of an answer alone.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let raw: Vec<u8> = self.buffer.drain(..end).collect();
        Answer::parse(String::from_utf8_lossy(&raw).into_owned()).ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// Reads so many bytes.
    pub(crate) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Waits for the connection to end, and returns what came before.
    ///
    /// # Errors
    /// If it is reset, or stays open.
    pub(crate) fn end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(std::mem::take(&mut self.buffer)),
                Err(error) => return Err(error),
            }
        }
    }

    /// All that comes before the connection ends in whatever way.
    #[track_caller]
    pub(crate) fn all(&mut self) -> Vec<u8> {
        match self.end() {
            Ok(bytes) => bytes,
            Err(error) => {
                assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "it stays open: {error}");
                std::mem::take(&mut self.buffer)
            }
        }
    }

    /// Waits for the connection to end in whatever way.
    #[track_caller]
    pub(crate) fn assert_ends(&mut self) {
        match self.end() {
            Ok(rest) => assert!(rest.is_empty(), "more came: {}", String::from_utf8_lossy(&rest)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Cuts the connection: the other side sees a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
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

    fn chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            if size == 0 {
                break;
            }
            answer.body.extend(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            answer.trailers.extend(header(&line));
        }
    }

    fn rest(&mut self, answer: &mut Answer) -> io::Result<()> {
        answer.body = self.end()?;
        Ok(())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 65536];
        let count = match &mut self.tls {
            None => self.stream.read(&mut piece)?,
            Some(tls) => Stream::new(tls.as_mut(), &mut self.stream).read(&mut piece)?,
        };
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(())
    }
}

/// Whether this is the gate's own answer of this failure of the site, which nobody keeps.
#[track_caller]
pub(crate) fn assert_failed(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.header("proxy-status")), (status, Some(format!("tidegate; error={error}").as_str())));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// Bytes in which a piece that is missing, doubled or moved shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect()
}

/// The text of a body in gzip.
#[track_caller]
pub(crate) fn unzipped(body: &[u8]) -> String {
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(body);
    decoder.read_to_string(&mut text).unwrap();
    assert!(decoder.into_inner().is_empty(), "more follows");
    text
}

/// The bytes of a request without a body; `Host: test` is added.
pub(crate) fn request(method: &str, path: &str, headers: &[&str]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
    for line in headers {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The head as it came.
    pub(crate) raw: String,
    pub(crate) status: u16,
    /// In the order in which they came, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The interim answers (1xx) before it.
    pub(crate) interim: Vec<u16>,
}

impl Answer {
    fn parse(raw: String) -> Option<Self> {
        let mut lines = raw.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter(|line| !line.is_empty()).filter_map(header).collect();
        Some(Self { status, headers, raw, ..Self::default() })
    }

    /// The first header of this name, which is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every header of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a cookie that it sets.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.all("set-cookie").into_iter().find_map(|line| line.split(';').next()?.strip_prefix(name)?.strip_prefix('='))
    }

    /// The header line that shows the pass that it sets.
    #[track_caller]
    pub(crate) fn pass(&self) -> String {
        let pass = self.cookie("tidegate_pass").unwrap_or_else(|| panic!("no pass in {}", self.raw));
        format!("Cookie: tidegate_pass={pass}")
    }

    /// The header line that shows the ticket that it sets.
    #[track_caller]
    pub(crate) fn ticket(&self) -> String {
        let ticket = self.cookie("tidegate_ticket").unwrap_or_else(|| panic!("no ticket in {}", self.raw));
        format!("Cookie: tidegate_ticket={ticket}")
    }
}

pub(super) fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}

pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
