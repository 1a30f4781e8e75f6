//! What benches share: processes that end with them, addresses that are free, directories that are gone afterwards.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tidegate::demo::browser::Browser;

/// Ends with its owner, however that ends.
pub(super) struct Process(pub(super) Child);

impl Process {
    /// Starts a command without an input.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null()).spawn().map(Self)
    }

    /// Starts a part of a bench that says its address in its first line, and ends when its input does; returns its address and the
    /// rest of what it says as well.
    pub(super) fn start_part(command: &mut Command) -> anyhow::Result<(SocketAddr, BufReader<ChildStdout>, Self)> {
        let mut part = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut output = BufReader::new(part.0.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("{line:?} is not an address"))?;
        Ok((address, output, part))
    }

    /// Waits until it answers a request with success.
    pub(super) fn wait_until_ready(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            for _ in 0..READY_POLLS {
                if let Some(status) = self.0.try_wait()? {
                    bail!("ended at its start: {status}");
                }
                let answer = tokio::time::timeout(READY_POLL, Browser::new(address, None, false).load(path)).await;
                if matches!(answer, Ok(Ok((status, _))) if status.is_success()) {
                    return Ok(());
                }
                tokio::time::sleep(READY_POLL).await;
            }
            bail!("not ready: http://{address}{path}");
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // one with children of its own ends them if it is asked; what does not heed is killed; it may have ended by itself
        let _gone = kill_process(Pid::from_child(&self.0), Signal::TERM);
        for _ in 0..END_POLLS {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            pause(END_POLL);
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// An address that was free just now.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(loopback())?.local_addr()?)
}

/// Any free port.
pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// As many sockets as a process may have, for this one and those that it starts; returns how many that is.
pub(super) fn raise_descriptor_limit() -> anyhow::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// A directory that is gone afterwards.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-bench-{}-{name}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            drop(writeln!(std::io::stderr(), "{} is left behind: {error}", self.0.display()));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the end of a process is no event that can be waited on with a limit, nor is a time in real time"
)]
pub(super) fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// Ten seconds in all.
const READY_POLLS: u32 = 100;
const READY_POLL: Duration = Duration::from_millis(100);

/// Two seconds in all.
const END_POLLS: u32 = 100;
const END_POLL: Duration = Duration::from_millis(20);
