//! A site and a crowd that cost next to nothing beside what is measured: raw sockets, answers and requests made beforehand.
//!
//! They share a thread that never sleeps while the crowd is there. A front that sends to a sleeper pays for waking it, and the slower
//! the front, the more the others sleep; on a network it would not be the front's to pay.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsConnector;

use super::crowd::Crowd;
use super::idle::Idle;
use super::line;
use super::paced::Paced;

/// Who is to come.
#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    Crowd(Crowd),
    Paced(Paced),
    Idle(Idle),
}

/// Is the site, and those who come to it whenever a line of the input says so; says in a line what they have seen. Ends with the input.
pub(super) fn serve(listener: TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let (sender, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        spawn_local(be_the_site(tokio::net::TcpListener::from_std(listener)?));
        while let Some(line) = orders.recv().await {
            let seen = match serde_json::from_str(&line)? {
                Order::Crowd(crowd) => said(crowd.run().await),
                Order::Paced(paced) => said(paced.run().await),
                Order::Idle(idle) => said(idle.run().await),
            };
            writeln!(std::io::stdout(), "{}", seen?)?;
        }
        Ok(())
    })
}

fn said<T: Serialize>(seen: anyhow::Result<T>) -> serde_json::Result<String> {
    serde_json::to_string(&seen.map_err(|error| format!("{error:#}")))
}

// the site

/// Answers every request with the page that it asks for.
async fn be_the_site(listener: tokio::net::TcpListener) {
    let answers: Rc<Vec<(&[u8], Vec<u8>)>> = Rc::new(PAGES.iter().map(|(path, bytes)| (path.as_bytes(), answer(*bytes))).collect());
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Rc::clone(&answers);
        spawn_local(async move { drop(answer_all(stream, &answers).await) });
    }
}

async fn answer_all(mut stream: TcpStream, answers: &[(&[u8], Vec<u8>)]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_MAX];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // no request here has a body, and none is sent before the last is answered
        if buffer[..filled].ends_with(HEAD_END) {
            let asked_for = |path: &[u8]| buffer.get(METHOD.len()..).is_some_and(|target| target.starts_with(path));
            let answer = answers.iter().find(|(path, _)| asked_for(path)).map_or(&[][..], |(_, answer)| answer);
            stream.write_all(answer).await?;
            filled = 0;
        }
    }
}

fn answer(bytes: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\n\
         Server: site\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         Cache-Control: max-age=60\r\n\
         Content-Length: {bytes}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + bytes, b'x');
    answer
}

// those who come

/// Who comes, and to what.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Visitors {
    pub(super) address: SocketAddr,
    /// Where every other one comes to instead.
    pub(super) beside: Option<SocketAddr>,
    /// What the answers must be.
    pub(super) status: u16,
    /// A file with a line for each connection, or for fewer, that are used again: the cookies that it shows in turn, with tabs between
    /// them.
    pub(super) cookies: PathBuf,
    /// One of [`PAGES`].
    pub(super) path: String,
    pub(super) connections: usize,
    pub(super) tls: Option<Tls>,
    /// Over HTTP/2, so many requests at a time on each connection.
    pub(super) streams: Option<usize>,
    /// Each request comes on a connection of its own.
    pub(super) fresh: bool,
}

/// How they come within TLS.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Tls {
    /// Who vouches for the front: a file.
    pub(super) authority: PathBuf,
    /// With what it was given at the last visit.
    pub(super) resumes: bool,
}

impl Visitors {
    /// The cookies of each connection.
    pub(super) fn cookies(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let lines = std::fs::read_to_string(&self.cookies)?;
        Ok(lines.lines().cycle().take(self.connections).map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// How one of them comes, of this number: what is remembered for its next visit is its own.
    pub(super) fn way(&self, number: usize) -> anyhow::Result<Way> {
        let tls = self.tls.as_ref().map(|tls| tls.config(self.streams.is_some())).transpose()?;
        let address = self.beside.filter(|_| number % 2 == 1).unwrap_or(self.address);
        Ok(Way { address, tls, fresh: self.fresh })
    }
}

impl Tls {
    fn config(&self, http2: bool) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_protocol_versions(&[&TLS13])?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Ok(Arc::new(config))
    }
}

/// How one visitor comes to the front.
pub(super) struct Way {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    pub(super) fresh: bool,
}

/// A connection, within TLS or not.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

impl Way {
    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if self.fresh {
            // thousands a second would leave no port to come from
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(HOST)?, stream).await?))
    }
}

/// The headers of a browser's request beside `Host` and `Cookie`.
pub(super) const BROWSER: [(&str, &str); 6] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
];

/// A cookie of the site, beside ours.
pub(super) const THEIR_COOKIE: &str = "theme=dark";

/// Until everything has connected, and runs at its speed.
pub(super) const WARM_UP: Duration = Duration::from_millis(200);

// one answer

/// The head and the body that a browser gets on a connection of its own.
pub(super) fn fetch(address: SocketAddr) -> anyhow::Result<(String, Vec<u8>)> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(&line::request(PAGES[0].0, ""))?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
            if read == 0 {
                bail!("no answer");
            }
            continue;
        };
        let head = str::from_utf8(&bytes[..end])?.to_owned();
        let length: usize = header(&head, "content-length").context("no Content-Length")?.parse()?;
        let body = &bytes[end + HEAD_END.len()..];
        if body.len() >= length || read == 0 {
            return Ok((head, body.to_vec()));
        }
    }
}

/// The value of a header; names in any case.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    headers(head).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The headers below the first line.
pub(super) fn headers(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "))
}

/// The pages of the site, and how large they are.
pub(super) const PAGES: [(&str, usize); 3] = [("/account/applications?page=2", 1024), ("/64k", 64 * 1024), ("/1m", 1024 * 1024)];

const METHOD: &[u8] = b"GET ";

/// Who the certificate of a front is for.
pub(super) const HOST: &str = "www.example.org";

pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";
pub(super) const HEAD_MAX: usize = 16 * 1024;
