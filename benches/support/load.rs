//! A site and a crowd that cost next to nothing beside what is measured: raw sockets, answers and requests made beforehand.
//!
//! They share a thread that never sleeps while the crowd is there. A front that sends to a sleeper pays for waking it, and the slower
//! the front, the more the others sleep; on a network it would not be the front's to pay.

use std::cell::Cell;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
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
use tidegate::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, spawn_local, yield_now};
use tokio_rustls::TlsConnector;

/// Is the site, and a crowd whenever a line of the input describes one; says in a line what that crowd has seen. Ends with the input.
pub(super) fn serve(listener: TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let (sender, mut crowds) = mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        spawn_local(be_the_site(tokio::net::TcpListener::from_std(listener)?));
        while let Some(line) = crowds.recv().await {
            let crowd: Crowd = serde_json::from_str(&line)?;
            let measured = crowd.run().await.map_err(|error| format!("{error:#}"));
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
        }
        Ok(())
    })
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

// the crowd

/// A crowd: each connection asks again as soon as it has its answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Crowd {
    pub(super) address: SocketAddr,
    /// What the answers must be.
    pub(super) status: u16,
    /// A file with a line for each connection: the cookies that it shows in turn, with tabs between them.
    pub(super) cookies: PathBuf,
    /// One of [`PAGES`].
    pub(super) path: String,
    pub(super) tls: Option<Tls>,
    /// Each request comes on a connection of its own.
    pub(super) fresh: bool,
    pub(super) window_ms: u64,
    /// The processes whose CPU time is read.
    pub(super) watched: Vec<u32>,
}

/// How a crowd comes within TLS.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Tls {
    /// Who vouches for the front: a file.
    pub(super) authority: PathBuf,
    /// With what it was given at the last visit.
    pub(super) resumes: bool,
}

/// What a crowd has seen within its window.
#[derive(Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) requests: u64,
    pub(super) cpu_ns: u64,
    pub(super) elapsed_ns: u64,
}

impl Crowd {
    /// Lets the crowd come for its window, and a little before it.
    async fn run(&self) -> anyhow::Result<Measured> {
        let clock = Clock::start();
        let answers = Rc::new(Cell::new(0));
        let mut asking = JoinSet::new();
        for cookies in std::fs::read_to_string(&self.cookies)?.lines() {
            let (status, answers) = (self.status, Rc::clone(&answers));
            let way = Way { address: self.address, tls: self.tls.as_ref().map(Tls::config).transpose()?, fresh: self.fresh };
            let requests: Vec<Vec<u8>> = cookies.split('\t').map(|cookies| request(&self.path, cookies)).collect();
            asking.spawn_local(async move { ask_on(&way, &requests, status, &answers).await });
        }
        let measured = async {
            tokio::time::sleep(WARM_UP).await;
            let (started, cpu_ns, requests) = (clock.moment(), self.cpu_ns()?, answers.get());
            tokio::time::sleep(Duration::from_millis(self.window_ms)).await;
            let elapsed = clock.moment().since(started);
            anyhow::Ok(Measured {
                requests: answers.get() - requests,
                cpu_ns: self.cpu_ns()? - cpu_ns,
                elapsed_ns: u64::try_from(elapsed.as_nanos())?,
            })
        };
        tokio::select! {
            measured = measured => measured,
            // a connection ends only if something is wrong
            Some(ended) = asking.join_next() => Err(ended?),
            () = stay_awake() => bail!("fell asleep"),
        }
    }

    /// CPU time that the watched processes have used, by what the scheduler has counted for each of their threads.
    fn cpu_ns(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for process in &self.watched {
            for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
                let counted = std::fs::read_to_string(thread?.path().join("schedstat"))?;
                sum += counted.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(sum)
    }
}

async fn stay_awake() {
    loop {
        yield_now().await;
    }
}

impl Tls {
    /// Of one visitor: what is remembered for the next visit is its own.
    fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_protocol_versions(&[&TLS13])?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Arc::new(config))
    }
}

/// How one visitor comes to the front.
struct Way {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    fresh: bool,
}

/// A connection, within TLS or not.
trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

impl Way {
    async fn connect(&self) -> anyhow::Result<Box<dyn Connection>> {
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

/// Asks until something goes wrong.
async fn ask_on(way: &Way, requests: &[Vec<u8>], status: u16, answers: &Cell<u64>) -> anyhow::Error {
    match asked(way, requests, status, answers).await {
        Ok(()) => anyhow::anyhow!("the connection was closed"),
        Err(error) => error,
    }
}

async fn asked(way: &Way, requests: &[Vec<u8>], status: u16, answers: &Cell<u64>) -> anyhow::Result<()> {
    let mut stream = way.connect().await?;
    let mut is_new = true;
    let mut buffer = vec![0; ANSWER_MAX];
    let mut last = None;
    for request in requests.iter().cycle() {
        if way.fresh && !std::mem::take(&mut is_new) {
            stream = way.connect().await?;
        }
        stream.write_all(request).await?;
        // what tokio-rustls could not write at once it keeps
        stream.flush().await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            let bytes = &buffer[..filled];
            // nearly every answer is as long as the last, and reading its head would cost more than the rest of this
            let shape = match last.take().filter(|last: &Shape| last.fits(bytes)) {
                Some(shape) => Some(shape),
                None => Shape::of(bytes, status)?,
            };
            let whole = shape.as_ref().map(|shape| shape.whole);
            last = shape;
            if let Some(whole) = whole {
                // the rest of a large page need not be kept
                while filled < whole {
                    let read = stream.read(&mut buffer[KEPT..]).await?;
                    if read == 0 {
                        return Ok(());
                    }
                    filled += read;
                }
                break;
            }
        }
        answers.set(answers.get() + 1);
    }
    Ok(())
}

/// Where an answer ends, and what says so.
struct Shape {
    start: Vec<u8>,
    head: usize,
    length: Range<usize>,
    digits: Vec<u8>,
    whole: usize,
}

impl Shape {
    /// None while the head is not there.
    fn of(bytes: &[u8], status: u16) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else { return Ok(None) };
        let text = str::from_utf8(&bytes[..end])?;
        let start = format!("HTTP/1.1 {status} ");
        if !text.starts_with(&start) {
            bail!("{:?} instead of {status}", text.lines().next());
        }
        let digits = header(text, "content-length").context("no Content-Length")?;
        let at = digits.as_ptr().addr() - text.as_ptr().addr();
        let head = end + HEAD_END.len();
        let whole = head + digits.parse::<usize>()?;
        Ok(Some(Self { start: start.into_bytes(), head, length: at..at + digits.len(), digits: digits.into(), whole }))
    }

    fn fits(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(&self.start)
            && bytes.get(self.head - HEAD_END.len()..self.head) == Some(HEAD_END)
            && bytes.get(self.length.clone()) == Some(&self.digits)
    }
}

/// The request of a browser.
fn request(path: &str, cookie: &str) -> Vec<u8> {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: theme=dark; {cookie}\r\n") };
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {HOST}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.5\r\n\
         Accept-Encoding: gzip, deflate, br\r\n\
         {cookie}\
         Sec-Fetch-Dest: document\r\n\
         Sec-Fetch-Mode: navigate\r\n\r\n"
    )
    .into_bytes()
}

// one answer

/// The head and the body that a browser gets on a connection of its own.
pub(super) fn fetch(address: SocketAddr) -> anyhow::Result<(String, Vec<u8>)> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(&request(PAGES[0].0, ""))?;
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

/// Until everything has connected, and runs at its speed.
const WARM_UP: Duration = Duration::from_millis(200);

const HEAD_END: &[u8] = b"\r\n\r\n";
const HEAD_MAX: usize = 16 * 1024;
const ANSWER_MAX: usize = 256 * 1024;

/// Of an answer whose end is known, that which the next is compared with.
const KEPT: usize = HEAD_MAX;
