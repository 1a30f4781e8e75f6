//! Everything that runs: the fronts, the process that is site and crowd, and what visitors show.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use super::Arguments;
use super::envoy;
use super::load::{self, Order, Tls, Visitors};
use super::peers::{
    Certificates, Front, Setting, Start, command, start_envoy, start_gate, start_haproxy, start_nginx, start_nginx_from_memory, start_relay,
};
use super::support::{Directory, Process};

/// What runs as long as the bench.
pub(super) struct World {
    pub(super) fronts: Vec<Front>,
    pub(super) site: SocketAddr,
    pub(super) load: Load,
    certificates: Certificates,
    /// What connections show.
    pub(super) passes: PathBuf,
    pub(super) tickets: PathBuf,
    /// The same for connections with several requests at a time.
    pub(super) more_tickets: PathBuf,
    /// The answer of the first gate to who is turned away: its head, and how long its page is.
    turned_away: (String, usize),
    /// Another build of the gate, and whether it speaks TLS.
    against: Option<(PathBuf, bool)>,
    cores: Option<Cores>,
    /// Goes last, after all that have files in it.
    directory: Directory,
}

/// Which cores are whose, as lists for `taskset`.
struct Cores {
    front: &'static str,
    two_workers: &'static str,
    load: String,
}

/// The process that is the site and the crowd.
pub(super) struct Load {
    orders: ChildStdin,
    seen: BufReader<ChildStdout>,
    _process: Process,
}

impl World {
    pub(super) fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let directory = Directory::new("proxy")?;
        let all = std::thread::available_parallelism()?.get();
        let cores = (all > 1 && is_installed("taskset")).then(|| Cores { front: "0", two_workers: "0-1", load: (all - 1).to_string() });
        let load_cores = cores.as_ref().map(|cores| &*cores.load);
        let (site, seen, mut process) = Process::start_part(command(load_cores, &std::env::current_exe()?).arg("load"))?;
        let orders = process.0.stdin.take().context("the load takes no input")?;
        let load = Load { orders, seen, _process: process };
        let path = directory.path();
        let certificates = Certificates::make(path)?;
        let front_cores = cores.as_ref().map(|cores| cores.front);
        let setting = Setting {
            directory: path,
            site,
            certificates: &certificates,
            slots: SLOTS,
            connections: ENOUGH,
            workers: 1,
            cores: front_cores,
        };
        let mut fronts = vec![start_gate("tidegate", Path::new(GATE), true, &setting).context("tidegate")?];
        if let Some(binary) = &arguments.against {
            copy_keys(&path.join("tidegate"), &path.join("against"))?;
            fronts.push(start_gate("against", binary, !arguments.against_plaintext, &setting).context("against")?);
        }
        let gates = &fronts[..];
        let [passes, tickets, more_tickets] = ["passes", "tickets", "more-tickets"].map(|name| path.join(name));
        set_mode(gates, "mode=open")?;
        fs::write(&passes, cookies(&gates[0], "tidegate_pass", (CONNECTIONS, 1))?)?;
        // from now on every draw is made and lost; those who have a pass don't notice
        set_mode(gates, "mode=fixed&probability=0")?;
        fs::write(&tickets, cookies(&gates[0], "tidegate_ticket", (CONNECTIONS, TICKETS))?)?;
        fs::write(&more_tickets, cookies(&gates[0], "tidegate_ticket", (SESSIONS, TICKETS * STREAMS))?)?;
        let (head, body) = load::fetch(gates[0].diverted.context("no address")?)?;
        let turned_away = (head, body.len());
        for name in OTHERS {
            if is_installed(&program(name)) {
                fronts.push(start_other(name, &setting, &turned_away).context(name)?);
            }
        }
        let against = arguments.against.clone().map(|binary| (binary, !arguments.against_plaintext));
        Ok(Self { fronts, site, load, certificates, passes, tickets, more_tickets, turned_away, against, cores, directory })
    }

    pub(super) fn describe(&self) -> &'static str {
        if self.cores.is_some() { "front alone on one core, crowd and site on another" } else { "not pinned to cores" }
    }

    /// A gate with so many workers, on two cores, of which the second is the crowd's where there is no third.
    pub(super) fn gate_on_two_cores(&self, name: &'static str, workers: usize) -> anyhow::Result<Front> {
        let cores = self.cores.as_ref().map(|cores| cores.two_workers);
        let directory = self.directory.path();
        copy_keys(&directory.join("tidegate"), &directory.join(name))?;
        start_gate(name, Path::new(GATE), true, &Setting { workers, cores, ..self.setting(directory, ENOUGH) })
    }

    /// Another process of a front, with room for so many connections.
    pub(super) fn start_again(&self, name: &'static str, directory: &Path, connections: usize) -> anyhow::Result<Front> {
        let setting = self.setting(directory, connections);
        let (binary, speaks_tls) = match (name, &self.against) {
            ("tidegate", _) => (Path::new(GATE), true),
            ("against", Some((binary, speaks_tls))) => (&**binary, *speaks_tls),
            _ => return start_other(name, &setting, &self.turned_away),
        };
        copy_keys(&self.directory.path().join("tidegate"), &directory.join(name))?;
        start_gate(name, binary, speaks_tls, &setting)
    }

    fn setting<'a>(&'a self, directory: &'a Path, connections: usize) -> Setting<'a> {
        let Self { site, certificates, .. } = self;
        let cores = self.cores.as_ref().map(|cores| cores.front);
        Setting { directory, site: *site, certificates, slots: SLOTS, connections, workers: 1, cores }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How those come who are within TLS.
    pub(super) fn tls(&self, resumes: bool) -> Tls {
        Tls { authority: self.certificates.authority.clone(), resumes }
    }

    /// Who comes with a pass, for the small page, over HTTP/1 in plaintext.
    pub(super) fn with_passes(&self, address: SocketAddr) -> Visitors {
        Visitors {
            address,
            beside: None,
            status: 200,
            cookies: self.passes.clone(),
            path: load::PAGES[0].0.to_owned(),
            connections: CONNECTIONS,
            tls: None,
            streams: None,
            fresh: false,
        }
    }
}

impl Load {
    /// Lets somebody come, and returns what they have seen.
    pub(super) fn order<T: DeserializeOwned>(&mut self, order: &Order) -> anyhow::Result<T> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
        let mut line = String::new();
        self.seen.read_line(&mut line)?;
        serde_json::from_str::<Result<T, String>>(&line)?.map_err(anyhow::Error::msg)
    }
}

/// What the gate is compared with.
const OTHERS: [&str; 5] = ["nginx", "nginx-memory", "haproxy", "tcp-relay", "envoy"];

fn program(name: &str) -> String {
    match name {
        "nginx" | "nginx-memory" => "nginx".to_owned(),
        "haproxy" | "tcp-relay" => "haproxy".to_owned(),
        _ => envoy::program(),
    }
}

fn start_other(name: &str, setting: &Setting<'_>, (head, page): &(String, usize)) -> anyhow::Result<Front> {
    let start: Start = match name {
        "nginx" => start_nginx,
        "nginx-memory" => start_nginx_from_memory,
        "haproxy" => start_haproxy,
        "tcp-relay" => start_relay,
        _ => start_envoy,
    };
    start(setting, head, *page)
}

/// A gate verifies what another has signed.
fn copy_keys(from: &Path, to: &Path) -> anyhow::Result<()> {
    let (from, to) = (from.join("data/keys"), to.join("data/keys"));
    fs::create_dir_all(&to)?;
    for directory in [to.parent().unwrap_or(&to), &to] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // with its permissions
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Sets the mode of every gate among the fronts.
fn set_mode(fronts: &[Front], form: &str) -> anyhow::Result<()> {
    for admin in fronts.iter().filter_map(|front| front.admin) {
        let mut stream = std::net::TcpStream::connect(admin)?;
        write!(
            stream,
            "POST /mode HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )?;
        let answer = std::io::read_to_string(stream)?;
        if !answer.starts_with("HTTP/1.1 303") {
            bail!("{form}: {answer}");
        }
    }
    Ok(())
}

/// A line for each of so many connections, with so many cookies, as the gate sets them.
fn cookies(gate: &Front, name: &str, (connections, each): (usize, usize)) -> anyhow::Result<String> {
    let mut all = String::new();
    for number in 1..=connections * each {
        let (head, _) = load::fetch(gate.diverted.context("no address")?)?;
        let set = load::header(&head, "set-cookie").filter(|set| set.starts_with(name)).with_context(|| format!("no {name} in {head}"))?;
        all.push_str(set.split(';').next().unwrap_or(set));
        all.push(if number % each == 0 { '\n' } else { '\t' });
    }
    Ok(all)
}

/// A process and its children: nginx works in one.
pub(super) fn tree(processes: &[Process]) -> anyhow::Result<Vec<u32>> {
    let parents: Vec<u32> = processes.iter().map(|process| process.0.id()).collect();
    let mut tree = parents.clone();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // it may have ended since; its parent is the second field after the name, which is in brackets
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
        if fields.split(' ').nth(1).and_then(|field| field.parse().ok()).is_some_and(|parent| parents.contains(&parent)) {
            tree.push(id);
        }
    }
    Ok(tree)
}

fn is_installed(program: &str) -> bool {
    let known = Command::new(program).arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // what it makes of the flag doesn't matter
    known.is_ok()
}

/// Over HTTP/1, each with a visitor of its own.
pub(super) const CONNECTIONS: usize = 64;

/// Over HTTP/2, each with so many requests at a time: the visitors of a page with much on it.
pub(super) const SESSIONS: usize = 10;
pub(super) const STREAMS: usize = 10;

/// As many as there are requests at a time, so that none of them waits for another.
const SLOTS: usize = 100;

/// Connections at a time where they are not what is measured.
const ENOUGH: usize = 4000;

/// Tickets of a connection, shown in turn: a visitor who comes back has a new one each time, so none is known from the last request.
const TICKETS: usize = 4;

const GATE: &str = env!("CARGO_BIN_EXE_tidegate");
