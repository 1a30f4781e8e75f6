//! A site and a crowd that cost next to nothing beside what is measured: raw sockets, answers and requests made beforehand.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

// the site

/// Answers every request with a page of 1 KiB, until the process ends.
pub(super) fn serve_site(listener: TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let answer = Rc::new(answer());
    block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let answer = Rc::clone(&answer);
            tokio::task::spawn_local(async move { drop(answer_all(stream, &answer).await) });
        }
    })
}

async fn answer_all(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
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
            stream.write_all(answer).await?;
            filled = 0;
        }
    }
}

fn answer() -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\n\
         Server: site\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         Cache-Control: max-age=60\r\n\
         Content-Length: {PAGE_BYTES}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + PAGE_BYTES, b'x');
    answer
}

// the crowd

/// A crowd: each connection asks again as soon as it has its answer.
pub(super) struct Crowd {
    pub(super) address: SocketAddr,
    /// What the answers must be.
    pub(super) status: u16,
    /// The cookie of each connection.
    pub(super) cookies: Vec<String>,
    pub(super) window: Duration,
    /// The processes whose CPU time is read.
    pub(super) watched: Vec<u32>,
}

/// What a crowd has seen within its window.
pub(super) struct Measured {
    pub(super) requests: u64,
    pub(super) cpu_ns: u64,
    pub(super) elapsed_ns: u64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} {}", self.requests, self.cpu_ns, self.elapsed_ns)
    }
}

impl FromStr for Measured {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [requests, cpu_ns, elapsed_ns] = numbers[..] else { bail!("{text:?} is no measurement") };
        Ok(Self { requests, cpu_ns, elapsed_ns })
    }
}

impl Crowd {
    /// Lets the crowd come for its window, and a little before it.
    pub(super) fn run(&self) -> anyhow::Result<Measured> {
        let clock = Clock::start();
        let answers = Rc::new(Cell::new(0));
        block_on(async {
            let mut asking = tokio::task::JoinSet::new();
            for cookie in &self.cookies {
                let (address, status, answers) = (self.address, self.status, Rc::clone(&answers));
                let request = request(cookie);
                asking.spawn_local(async move { ask_on(address, &request, status, &answers).await });
            }
            let measured = async {
                tokio::time::sleep(WARM_UP).await;
                let (started, cpu_ns, requests) = (clock.moment(), self.cpu_ns()?, answers.get());
                tokio::time::sleep(self.window).await;
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
            }
        })
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

/// Asks until something goes wrong.
async fn ask_on(address: SocketAddr, request: &[u8], status: u16, answers: &Cell<u64>) -> anyhow::Error {
    match asked(address, request, status, answers).await {
        Ok(()) => anyhow::anyhow!("the connection was closed"),
        Err(error) => error,
    }
}

async fn asked(address: SocketAddr, request: &[u8], status: u16, answers: &Cell<u64>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; ANSWER_MAX];
    loop {
        stream.write_all(request).await?;
        let mut filled = 0;
        let mut whole = None;
        while whole.is_none_or(|whole| filled < whole) {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            if whole.is_none() {
                whole = answer_len(&buffer[..filled], status)?;
            }
        }
        answers.set(answers.get() + 1);
    }
}

/// Bytes of an answer, head and body; none while its head is not there.
fn answer_len(bytes: &[u8], status: u16) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else { return Ok(None) };
    let head = str::from_utf8(&bytes[..end])?;
    if head.get(9..12).and_then(|code| code.parse().ok()) != Some(status) {
        bail!("{:?} instead of {status}", head.lines().next());
    }
    let length: usize = header(head, "content-length").context("no Content-Length")?.parse()?;
    Ok(Some(end + HEAD_END.len() + length))
}

/// The request of a browser.
fn request(cookie: &str) -> Vec<u8> {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: theme=dark; {cookie}\r\n") };
    format!(
        "GET /account/applications?page=2 HTTP/1.1\r\n\
         Host: www.example.org\r\n\
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
    stream.write_all(&request(""))?;
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

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

/// What the site answers with.
const PAGE_BYTES: usize = 1024;

/// Until everything has connected, and runs at its speed.
const WARM_UP: Duration = Duration::from_millis(200);

const HEAD_END: &[u8] = b"\r\n\r\n";
const HEAD_MAX: usize = 16 * 1024;
const ANSWER_MAX: usize = 64 * 1024;
