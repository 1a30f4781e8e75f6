//! What an address costs to take: acceptances a second on one core, each on disk when it is answered, and how long they take beside
//! the disk's own fdatasync, which is measured just before on the same disk.
//!
//! 64 connections that are kept alive, each with a ticket and the form of its page, post one new address after the other to a gate of
//! one worker. Where there are two cores, and `taskset`, the gate has
//! the first for itself. Afterwards the rows are counted.
//!
//! ```text
//! cargo bench --bench email                 # ten seconds
//! cargo bench --bench email -- --rate 2000  # at a steady rate: what it takes when it is not the limit
//! cargo bench --bench email -- --smoke      # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[expect(dead_code, reason = "other benches consist of several processes")]
mod support;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use tidegate::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};

use support::{Directory, Process, free_address};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench && !arguments.smoke {
        println!("run me with `cargo bench --bench email`");
        return Ok(());
    }
    let directory = Directory::new("email")?;
    let (http, admin) = (free_address()?, free_address()?);
    let disk = Times::of(fdatasyncs(directory.path())?);
    let config = directory.path().join("gate.yaml");
    fs::write(&config, gate_yaml(http, admin))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).stderr(File::create(directory.path().join("log"))?);
    let mut gate = Process::start(&mut command)?;
    gate.wait_until_ready(admin, "/readyz")?;
    if std::thread::available_parallelism()?.get() > 1 && Command::new("taskset").arg("-V").output().is_ok() {
        pin(gate.0.id(), "0")?;
        pin(std::process::id(), "1")?;
    }
    let length = if arguments.smoke { Duration::from_millis(300) } else { Duration::from_secs(arguments.seconds) };
    let before = cpu_ns(gate.0.id())?;
    let posts = LocalSet::new().block_on(&Builder::new_current_thread().enable_all().build()?, crowd(http, length, arguments.rate))?;
    let cpu_us = (cpu_ns(gate.0.id())? - before) as f64 / 1000.0 / posts.len() as f64;
    let rows = rows(&directory.path().join("data/email-queue"))?;
    ensure!(rows == posts.len(), "{rows} rows of {} posts", posts.len());
    let (count, taken) = (posts.len(), Times::of(posts));
    println!("| | a second | p50 ms | p99 ms | longest ms | CPU µs each |");
    println!("|---|---|---|---|---|---|");
    println!("| fdatasync of a row | | {:.3} | {:.3} | {:.3} | |", disk.p50, disk.p99, disk.longest);
    let rate = count as f64 / length.as_secs_f64();
    println!("| address taken | {rate:.0} | {:.3} | {:.3} | {:.3} | {cpu_us:.0} |", taken.p50, taken.p99, taken.longest);
    println!("| p99 in syncs (p50 of the disk) | | | {:.1} | | |", taken.p99 / disk.p50);
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    /// A moment of it, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Posts a second, all connections together; else each posts as soon as it has its answer.
    #[arg(long)]
    rate: Option<f64>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn gate_yaml(http: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "listen: {{ http: \"{http}\", workers: 1 }}\nadmin: {{ listen: \"{admin}\" }}\nupstream: {{ servers: [\"http://127.0.0.1:9\"] }}\n\
         admission: {{ mode: closed }}\nemail_queue: {{ posts_per_client: 1000000, addresses_per_ticket: 1000 }}\n\
         limits: {{ tickets_per_client: 1000000 }}\nshutdown: {{ delay: 0s }}\n"
    )
}

/// Milliseconds.
struct Times {
    p50: f64,
    p99: f64,
    longest: f64,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            times.get((times.len() * part / 100).min(times.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99), longest: at(100) }
    }
}

/// What the disk itself takes to keep a row.
fn fdatasyncs(directory: &Path) -> anyhow::Result<Vec<Duration>> {
    let clock = Clock::start();
    let mut file = File::create(directory.join("probe"))?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = clock.moment();
        file.write_all(&[b'x'; 220])?;
        file.sync_data()?;
        times.push(clock.moment().since(began));
    }
    Ok(times)
}

const CONNECTIONS: usize = 64;

/// A ticket brings so many addresses, and then its connection takes another.
const PER_TICKET: usize = 1000;

/// How long each post took.
async fn crowd(address: SocketAddr, length: Duration, rate: Option<f64>) -> anyhow::Result<Vec<Duration>> {
    let clock = Rc::new(Clock::start());
    let (number, times) = (Rc::new(Cell::new(0_usize)), Rc::new(RefCell::new(Vec::new())));
    let began = clock.moment();
    let mut posting = JoinSet::new();
    for client in 0..CONNECTIONS {
        let (clock, number, times) = (Rc::clone(&clock), Rc::clone(&number), Rc::clone(&times));
        posting.spawn_local(async move {
            let mut connection = Connection::open(address, client).await?;
            let (mut form, mut posted) = (connection.form().await?, 0);
            loop {
                let n = number.replace(number.get() + 1);
                if let Some(rate) = rate {
                    let due = began.plus(Duration::from_secs_f64(n as f64 / rate));
                    tokio::time::sleep(due.since(clock.moment())).await;
                }
                let asked = clock.moment();
                if asked.since(began) >= length {
                    return anyhow::Ok(());
                }
                if posted == PER_TICKET {
                    (form, posted) = (connection.form().await?, 0);
                }
                posted += 1;
                let status = connection.post(&form, n).await?;
                ensure!(status == "303", "a post was answered with {status}");
                times.borrow_mut().push(clock.moment().since(asked));
            }
        });
    }
    while let Some(ended) = posting.join_next().await {
        ended??;
    }
    Ok(times.take())
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What goes with each address of a ticket.
struct Form {
    cookie: String,
    check: String,
}

impl Connection {
    /// From an address of its own: one client may not post as often as all of them do.
    async fn open(address: SocketAddr, client: usize) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 1, 0, u8::try_from(client + 1)?), 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    async fn form(&mut self) -> anyhow::Result<Form> {
        let page = self.ask("GET / HTTP/1.1\r\nHost: bench\r\nAccept: text/html\r\n\r\n").await?;
        let between =
            |from: &str, to: &str| page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(found, _)| found.to_owned());
        let cookie = between("tidegate_ticket=", ";").context("no ticket")?;
        Ok(Form { cookie, check: between("name=\"check\" value=\"", "\"").context("no form")? })
    }

    async fn post(&mut self, form: &Form, n: usize) -> anyhow::Result<String> {
        let body = format!("email=visitor{n}%40example.org&next=%2F&check={}", form.check);
        let answer = self
            .ask(&format!(
                "POST /.tidegate/email HTTP/1.1\r\nHost: bench\r\nAccept: text/html\r\nCookie: tidegate_ticket={}\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
                form.cookie,
                body.len()
            ))
            .await?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    async fn ask(&mut self, request: &str) -> anyhow::Result<String> {
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if let Some(end) = self.whole() {
                return Ok(String::from_utf8_lossy(&self.buffer[..end]).into_owned());
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("closed");
            }
        }
    }

    /// Where the answer ends, once all of it is there.
    fn whole(&self) -> Option<usize> {
        let head = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = str::from_utf8(&self.buffer[..head]).ok()?.to_ascii_lowercase();
        let length: usize = text.split_once("content-length: ")?.1.split_once('\r')?.0.parse().ok()?;
        (self.buffer.len() >= head + length).then_some(head + length)
    }
}

fn rows(directory: &Path) -> anyhow::Result<usize> {
    let mut rows = 0;
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            rows += fs::read_to_string(path)?.lines().count();
        }
    }
    Ok(rows)
}

fn pin(process: u32, core: &str) -> anyhow::Result<()> {
    let done = Command::new("taskset").args(["-acp", core, &process.to_string()]).stdout(std::process::Stdio::null()).status()?;
    ensure!(done.success(), "taskset: {done}");
    Ok(())
}

fn cpu_ns(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let counted = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += counted.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}
