//! Whether the gate lasts: under full load, with all that an operator and a failing site do to it again and again, it must lose no request,
//! count rightly, and grow by nothing.
//!
//! Visitors who stay, over HTTP/1, TLS, HTTP/2 and WebSockets, strangers who come once, and clients who leave in the middle ask without a
//! pause. In each minute the policy changes and is read again (SIGHUP), a broken one is not taken, the keys are rotated and old ones
//! retired, the certificate is renewed, and the site refuses, hangs and resets for some seconds each.
//!
//! It fails if a request that met no fault was not answered by the site; if the gate has counted other requests or reloads than there
//! were; if the median of its memory or of its descriptors in the last quarter is above that in the second one by more than is allowed; if it
//! tells of a panic; or if it does not end with 0 within its deadline when it is told to.
//!
//! ```text
//! cargo bench --bench soak -- --minutes 60
//! cargo bench --bench soak -- --smoke        # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "soak/book.rs"]
mod book;
#[path = "soak/crowd.rs"]
mod crowd;
#[path = "soak/site.rs"]
mod site;
#[expect(dead_code, reason = "other benches consist of several processes")]
mod support;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};

use book::Book;
use crowd::Gate;
use site::{Fault, Site};
use support::{Directory, Process, free_address};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench && !arguments.smoke {
        println!("run me with `cargo bench --bench soak`");
        return Ok(());
    }
    let (length, cycle) = if arguments.smoke { (12, 12) } else { (arguments.minutes * 60, 60) };
    LocalSet::new().block_on(&Builder::new_current_thread().enable_all().build()?, soak(length, cycle))
}

#[derive(Parser)]
struct Arguments {
    /// A moment of it, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

async fn soak(length_s: u64, cycle_s: u64) -> anyhow::Result<()> {
    let directory = Directory::new("soak")?;
    let site = Site::start().await?;
    let mut world = World::start(directory.path(), &site)?;
    let book = Rc::new(Book::new());
    let gate = Rc::new(Gate { http: world.http, https: world.https, http1: world.visitor(b"http/1.1")?, http2: world.visitor(b"h2")? });
    let mut crowd = JoinSet::new();
    crowd::come(&mut crowd, &gate, &book);
    let mut sizes = Vec::new();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    // the first comes at once, and in the second everybody gets a pass
    seconds.tick().await;
    seconds.tick().await;
    for second in 0..length_s {
        world.happen(second % cycle_s, cycle_s, second / cycle_s, &site, &book).await?;
        seconds.tick().await;
        sizes.push(world.size()?);
        ensure!(book.unexplained.borrow().is_empty(), "{}\n{}", book.unexplained.borrow().join("\n"), world.log()?);
    }
    site.be(Fault::None).await?;
    book.over.set(true);
    while let Some(ended) = crowd.join_next().await {
        ended?;
    }
    let metrics = world.metrics().await?;
    let (idle, socket) = (TcpStream::connect(world.http).await?, crowd::open_socket(&gate).await?);
    world.end()?;
    drop((idle, socket));
    judge(&book, &metrics, &world, &sizes)
}

/// Prints what there was, and fails if it is not as it must be.
fn judge(book: &Book, metrics: &str, world: &World, sizes: &[Size]) -> anyhow::Result<()> {
    let counts = [&book.good, &book.waited, &book.failed, &book.left, &book.echoed].map(std::cell::Cell::get);
    let [good, waited, failed, left, echoed] = counts;
    let counted = sum(metrics, "tidegate_requests_total{");
    let [applied, rejected] =
        ["applied", "rejected"].map(|result| sum(metrics, &format!("tidegate_config_reloads_total{{result=\"{result}\"}}")));
    let quarter = sizes.len() / 4;
    let medians = [quarter..2 * quarter, sizes.len() - quarter..sizes.len()].map(|part| Size::median(&sizes[part]));
    let [second, last] = &medians;
    let (memory_most, files_most) = (second.memory + second.memory / MEMORY_GROWTH + MEMORY_SLACK, second.files + FILES_SLACK);
    println!("| | |\n|---|---|");
    println!("| answered by the site | {good} |\n| shown the waiting room | {waited} |\n| failed with the site | {failed} |");
    println!("| left in the middle | {left} |\n| messages over WebSockets | {echoed} |\n| counted by the gate | {counted} |");
    println!("| policies taken, refused | {applied}, {rejected} |\n| keys made, certificates renewed | {0}, {0} |", world.rounds);
    println!(
        "| memory in the 2nd quarter, the last, at most (MiB) | {:.1}, {:.1}, {:.1} |",
        mib(second.memory),
        mib(last.memory),
        mib(memory_most)
    );
    println!("| descriptors in the 2nd quarter, the last, at most | {}, {}, {files_most} |", second.files, last.files);
    ensure!(book.unexplained.borrow().is_empty(), "{}", book.unexplained.borrow().join("\n"));
    let least = good + waited + book.told.get();
    let most = good + waited + failed + left;
    ensure!((least..=most).contains(&counted), "the gate has counted {counted} requests of {least} to {most}");
    ensure!(applied >= 2 * world.rounds && rejected >= world.rounds, "{applied} and {rejected} reloads in {} rounds", world.rounds);
    if sizes.len() >= SETTLED_S {
        ensure!(last.memory <= memory_most, "its memory grows");
        ensure!(last.files <= files_most, "its descriptors grow");
    }
    Ok(())
}

/// Before, it has not yet had everything once, and grows rightly.
const SETTLED_S: usize = 240;

/// A thirtieth in half of the time, and what an allocator keeps for itself.
const MEMORY_GROWTH: u64 = 30;
const MEMORY_SLACK: u64 = 4 << 20;
/// Connections come and go.
const FILES_SLACK: u64 = 16;

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// The sum of a counter over its labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// What the gate takes, as of now.
#[derive(Clone, Copy)]
struct Size {
    /// Resident, in bytes.
    memory: u64,
    /// Descriptors.
    files: u64,
}

impl Size {
    fn median(sizes: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> u64| {
            let mut all: Vec<u64> = sizes.iter().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        };
        Self { memory: middle(|size| size.memory), files: middle(|size| size.files) }
    }
}

/// The gate, and what its operator has.
struct World {
    process: Process,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    site: SocketAddr,
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
    key: KeyPair,
    /// How often everything has happened.
    rounds: u64,
}

impl World {
    fn start(directory: &Path, site: &Site) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        fs::write(directory.join("key.pem"), key.serialize_pem())?;
        let (http, https, admin) = (free_address()?, free_address()?, free_address()?);
        renew(directory, &authority, &key)?;
        let policy = policy(http, https, admin, site.address, 0);
        fs::write(directory.join("gate.yaml"), policy)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--config"]).arg(directory.join("gate.yaml")).stderr(File::create(directory.join("log"))?);
        let process = Process::start(&mut command)?;
        let directory = directory.to_owned();
        let mut world = Self { process, http, https, admin, site: site.address, directory, authority, key, rounds: 0 };
        std::thread::scope(|scope| scope.spawn(|| world.process.wait_until_ready(admin, "/readyz")).join())
            .unwrap_or_else(|_| bail!("it could not be waited for"))
            .with_context(|| world.log().unwrap_or_default())?;
        Ok(world)
    }

    /// Who believes it, and speaks this.
    fn visitor(&self, protocol: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// What happens in this second of a round.
    async fn happen(&mut self, second: u64, cycle_s: u64, round: u64, site: &Site, book: &Book) -> anyhow::Result<()> {
        if !(second * STEPS).is_multiple_of(cycle_s) {
            return Ok(());
        }
        match second * STEPS / cycle_s {
            1 => self.reload(&self.policy(round + 1))?,
            2 => self.reload("upstream: { servers: [nowhere] }\n")?,
            3 => self.reload(&self.policy(round + 2))?,
            4 => self.rotate(round)?,
            5 => {
                renew(&self.directory, &self.authority, &self.key)?;
                self.signal(Signal::HUP)?;
            }
            6 => break_site(site, book, Fault::Refuses).await?,
            8 => break_site(site, book, Fault::Hangs).await?,
            10 => break_site(site, book, Fault::Resets).await?,
            7 | 9 => break_site(site, book, Fault::None).await?,
            11 => {
                break_site(site, book, Fault::None).await?;
                self.rounds += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn policy(&self, round: u64) -> String {
        policy(self.http, self.https, self.admin, self.site, round)
    }

    fn reload(&self, policy: &str) -> anyhow::Result<()> {
        fs::write(self.directory.join("new"), policy)?;
        fs::rename(self.directory.join("new"), self.directory.join("gate.yaml"))?;
        self.signal(Signal::HUP)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.process.0), signal)?)
    }

    /// A new key signs; one that nobody's pass can be signed with any more, since passes are renewed in time, is retired.
    fn rotate(&self, round: u64) -> anyhow::Result<()> {
        self.keys(&["rotate"])?;
        if round < KEYS_KEPT {
            return Ok(());
        }
        let list = self.keys(&["list"])?;
        let oldest = list.lines().find(|line| line.ends_with("verifies")).and_then(|line| line.split(' ').next());
        self.keys(&["retire", oldest.context("no old key")?]).map(drop)
    }

    fn keys(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let said = command.arg("keys").args(arguments).arg("--config").arg(self.directory.join("gate.yaml")).output()?;
        ensure!(said.status.success(), "keys {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout)?)
    }

    fn size(&self) -> anyhow::Result<Size> {
        let process = PathBuf::from(format!("/proc/{}", self.process.0.id()));
        let status = fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).context("/proc: no size")?;
        Ok(Size { memory: resident.parse::<u64>()? << 10, files: fs::read_dir(process.join("fd"))?.count() as u64 })
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Tells it to end, while a connection is idle and a WebSocket open.
    fn end(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        for _ in 0..END_POLLS {
            if let Some(status) = self.process.0.try_wait()? {
                let log = self.log()?;
                ensure!(status.success(), "it has ended with {status}:\n{log}");
                ensure!(!log.contains("panic"), "it has told of a panic:\n{log}");
                return Ok(());
            }
            support::pause(END_POLL);
        }
        bail!("it has not ended within its deadline")
    }

    /// The last of what it has said.
    fn log(&self) -> anyhow::Result<String> {
        let log = String::from_utf8_lossy(&fs::read(self.directory.join("log"))?).into_owned();
        let panics = log.lines().filter(|line| line.contains("panic"));
        let last = log.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev();
        Ok(panics.chain(last).collect::<Vec<_>>().join("\n"))
    }
}

/// A certificate for the same key, put in place of the last one.
fn renew(directory: &Path, authority: &CertifiedIssuer<'static, KeyPair>, key: &KeyPair) -> anyhow::Result<()> {
    let certificate = CertificateParams::new(vec![crowd::HOST.to_owned()])?.signed_by(key, authority)?;
    fs::write(directory.join("new"), certificate.pem())?;
    Ok(fs::rename(directory.join("new"), directory.join("cert.pem"))?)
}

async fn break_site(site: &Site, book: &Book, fault: Fault) -> anyhow::Result<()> {
    if fault == Fault::None {
        site.be(fault).await?;
        book.fault_ends();
    } else {
        book.fault_begins();
        site.be(fault).await?;
    }
    Ok(())
}

/// Strangers wait in every other round. Passes are renewed each quarter of a minute.
fn policy(http: SocketAddr, https: SocketAddr, admin: SocketAddr, site: SocketAddr, round: u64) -> String {
    let mode = if round.is_multiple_of(2) { "open" } else { "closed" };
    format!(
        "listen: {{ http: \"{http}\", https: {{ address: \"{https}\", certificate: cert.pem, key: key.pem }} }}\n\
         admin: {{ listen: \"{admin}\" }}\n\
         upstream:\n  servers: [\"http://{site}\"]\n  max_in_flight: 64\n  queue: {{ deadline: 10s }}\n  \
         timeouts: {{ connect: 1s, response: 3s }}\n  buffer: {{ request: 64KiB, response: 64KiB }}\n\
         admission: {{ mode: {mode} }}\n\
         session: {{ idle: 60s, active: 30s, in_flight: 64, rate: 1000000 }}\n\
         routes: [{{ path: /open/**, gate: open }}]\n\
         waiting_room: {{ refresh: {}s }}\n\
         limits: {{ connections: 2000 }}\n\
         shutdown: {{ delay: 0s, deadline: 10s }}\n\
         log: {{ format: json }}\n",
        5 + round % 7,
    )
}

/// Parts of a round.
const STEPS: u64 = 12;

/// Rounds that a key is kept for: all passes have been renewed since.
const KEYS_KEPT: u64 = 4;

/// Twelve seconds: the deadline, and some more.
const END_POLLS: u32 = 240;
const END_POLL: Duration = Duration::from_millis(50);
