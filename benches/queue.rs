//! How long a gate takes to know a long email queue again after a start, and in how much memory: rows, and invitations that were sent.
//!
//! Writes the files as a gate would have, starts one, and waits until it takes addresses and has counted who still waits.
//!
//! ```text
//! cargo bench --bench queue                                       # ten million rows, none invited
//! cargo bench --bench queue -- --rows 1000000 --invited 1000000   # with a ledger
//! cargo bench --bench queue -- --smoke                            # does it run at all?
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[expect(dead_code, reason = "other benches consist of several processes")]
mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use tidegate::clock::Clock;

use support::{Directory, Process, free_address};

/// The most that a start may take before it is called broken.
const GIVE_UP: Duration = Duration::from_secs(300);

/// Rows of one day.
const PER_FILE: u64 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    if !arguments.bench && !arguments.smoke {
        println!("run me with `cargo bench --bench queue`");
        return Ok(());
    }
    if arguments.smoke {
        (arguments.rows, arguments.invited) = (2000, 500);
    }
    let Arguments { rows, invited, .. } = arguments;
    ensure!(invited <= rows, "--invited: {invited} is above --rows, which is {rows}");
    let directory = Directory::new("queue")?;
    let (http, admin) = (free_address()?, free_address()?);
    let bytes = write_files(&directory.path().join("data/email-queue"), rows, invited)?;
    let config = directory.path().join("gate.yaml");
    fs::write(&config, gate_yaml(http, admin))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).stderr(File::create(directory.path().join("log"))?);
    let clock = Clock::start();
    let began = clock.moment();
    let mut gate = Process::start(&mut command)?;
    gate.wait_until_ready(admin, "/readyz")?;
    let serves = clock.moment().since(began);
    let (mut writable, mut counted) = (None, None);
    while writable.is_none() || counted.is_none() {
        let now = clock.moment().since(began);
        ensure!(now < GIVE_UP, "not within {} s", GIVE_UP.as_secs());
        let metrics = metrics(admin)?;
        let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(-1.0);
        if writable.is_none() && value("tidegate_email_writable ") > 0.5 {
            writable = Some(now);
        }
        if writable.is_some() && counted.is_none() && (value("tidegate_emails_waiting ") - (rows - invited) as f64).abs() < 0.5 {
            counted = Some(now);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let memory = peak_memory(gate.0.id())?;
    println!("| rows | invited | MiB of files | serves after s | takes addresses after s | invites after s | peak MiB |");
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {rows} | {invited} | {} | {:.2} | {:.1} | {:.1} | {} |",
        bytes >> 20,
        serves.as_secs_f64(),
        writable.unwrap_or_default().as_secs_f64(),
        counted.unwrap_or_default().as_secs_f64(),
        memory >> 10
    );
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    /// A moment of it, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// So many of them were sent an invitation.
    #[arg(long, default_value_t = 0)]
    invited: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// No mail server: whoever waits still waits when it is counted.
fn gate_yaml(http: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "listen: {{ http: \"{http}\", workers: 1 }}\nadmin: {{ listen: \"{admin}\" }}\nupstream: {{ servers: [\"http://127.0.0.1:9\"] }}\n\
         email_queue: {{ retention: 3650d }}\nshutdown: {{ delay: 0s }}\n"
    )
}

/// Returns how many bytes they have.
fn write_files(directory: &Path, rows: u64, invited: u64) -> anyhow::Result<u64> {
    let ledger = directory.join("ledger");
    fs::create_dir_all(&ledger)?;
    for path in [directory.parent().context("data")?, directory, &ledger] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    let mut bytes = 0;
    for (day, first) in (1..).zip((0..rows).step_by(usize::try_from(PER_FILE)?)) {
        let name = format!("2026-01-{day:02}.jsonl");
        let (mut queue, mut known) =
            (BufWriter::new(File::create(directory.join(&name))?), BufWriter::new(File::create(ledger.join(&name))?));
        for n in first..(first + PER_FILE).min(rows) {
            // random, as ids are
            let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let at = format!("2026-01-{day:02}T{:02}:{:02}:{:02}.123Z", n / 3600 % 24, n / 60 % 60, n % 60);
            writeln!(
                queue,
                "{{\"v\":1,\"id\":\"{id:016x}\",\"at\":\"{at}\",\"email\":\"visitor{n}@example.org\",\"language\":\"en-US\",\"path\":\"/apply?step=2\",\
                 \"ticket\":\"{n:016x}\",\"client\":\"{n:016x}\"}}"
            )?;
            if n < invited {
                writeln!(
                    known,
                    "{{\"v\":1,\"id\":\"{id:016x}\",\"at\":\"{at}\",\"event\":\"sending\",\"until\":\"2036-01-01T00:00:00Z\"}}"
                )?;
                writeln!(known, "{{\"v\":1,\"id\":\"{id:016x}\",\"at\":\"{at}\",\"event\":\"sent\"}}")?;
            }
        }
        for file in [queue, known] {
            bytes += file.into_inner()?.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn metrics(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// In KiB.
fn peak_memory(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
