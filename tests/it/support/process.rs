//! The gate as a process: the binary that ships, started, read and ended by its own handle.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;
use super::client::{Answer, Client};
use super::wait::until_within;

/// A directory of its own, gone when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-it-scratch-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, in place of one that is there.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // left behind, it is in the way of nobody
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The command line, with nothing of this process's environment that the gate would heed.
pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    quiet(&mut command);
    command
}

fn quiet(command: &mut Command) {
    for name in ["TIDEGATE_LOG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the command line to its end, which must come by itself.
#[track_caller]
pub(crate) fn run(arguments: &[&str], config: &Path) -> Said {
    let mut command = tidegate();
    command.args(arguments).arg("--config").arg(config);
    run_command(command)
}

/// Runs a command to its end, which must come by itself.
#[track_caller]
pub(crate) fn run_command(command: Command) -> Said {
    let mut process = Process::spawn(command);
    // a simulation computes for as long as it takes where others compute, too
    let status = process.wait_within(PATIENCE * 12);
    Said { status: status.code(), out: process.out.all().join("\n"), err: process.err.all().join("\n") }
}

/// The lines that a process writes, as they come.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                shared.0.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().ended = true;
            shared.1.notify_all();
        });
        lines
    }

    /// All lines so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Waits for a line in which something is found.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, patience: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let found = |written: &Written| written.lines.iter().find_map(|line| find(line));
        let waiting = |written: &mut Written| !written.ended && found(written).is_none();
        let (written, _) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), patience, waiting).unwrap();
        found(&written).unwrap_or_else(|| panic!("waited in vain for {what} among:\n{}", written.lines.join("\n")))
    }

    /// Waits for the last line.
    #[track_caller]
    fn wait_for_end(&self) {
        let (written, _) = self.0.1.wait_timeout_while(self.0.0.lock().unwrap(), PATIENCE, |written| !written.ended).unwrap();
        assert!(written.ended, "the process has ended, and something still holds its output open");
    }
}

/// A process; killed, if it still runs, when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) out: Lines,
    pub(crate) err: Lines,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Lines::read(child.stdout.take().unwrap());
        let err = Lines::read(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and for all that it wrote.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE * 2)
    }

    #[track_caller]
    fn wait_within(&mut self, patience: Duration) -> ExitStatus {
        let status = until_within(patience, "the process to end", || self.child.try_wait().unwrap());
        self.out.wait_for_end();
        self.err.wait_for_end();
        status
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it as kill -9 does.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.wait().signal(), Some(9), "it had ended by itself");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // one that has ended is left alone by both
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A gate that serves as a process.
pub(crate) struct Gate {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// What it said when it had started.
    pub(crate) started: Value,
}

impl Gate {
    /// Starts a gate by a file, and waits until it says that it has started. Its log must be JSON.
    #[track_caller]
    pub(crate) fn serve(config: &Path) -> Self {
        let mut command = tidegate();
        command.arg("serve").arg("--config").arg(config);
        Self::started(Process::spawn(command))
    }

    /// Waits until a gate says that it has started.
    #[track_caller]
    pub(crate) fn started(process: Process) -> Self {
        let started = process.err.wait("a line that says started", PATIENCE * 3, |line| {
            serde_json::from_str::<Value>(line).ok().filter(|line| line["message"] == "started")
        });
        let address = |key: &str| started[key].as_str().unwrap().parse().unwrap();
        Self { http: address("http"), admin: address("admin"), process, started }
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.http)
    }

    /// A GET on a connection of its own, with these header lines.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.client().get(path, headers)
    }

    /// A GET on the operator's side.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin));
        client.answer()
    }

    /// A POST of JSON on the operator's side.
    #[track_caller]
    pub(crate) fn admin_post(&self, path: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin);
        let (host, length) = (self.admin, body.len());
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        client.answer()
    }

    /// What `/status` says.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.admin("/status").body).unwrap()
    }

    /// Ends it as an operator does, and returns its log.
    #[track_caller]
    pub(crate) fn end(self) -> Vec<String> {
        self.process.signal(Signal::TERM);
        self.end_by_itself()
    }

    /// Waits for it to end as it should, and returns its log.
    #[track_caller]
    pub(crate) fn end_by_itself(mut self) -> Vec<String> {
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.process.err.all().join("\n"));
        self.process.err.all()
    }
}

/// What every gate.yaml of a process begins with: ports of its own, and an end without delay.
pub(crate) fn own_ports(servers: &str) -> String {
    format!(
        "listen: {{ http: 127.0.0.1:0, workers: 1 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nupstream: {{ servers: [\"{servers}\"] }}\n\
         shutdown: {{ delay: 0s, deadline: 10s }}\nlog: {{ format: json }}\n"
    )
}
