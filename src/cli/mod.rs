//! The command line.

mod gate_client;
mod healthcheck;
mod invite;
mod keys;
mod mint;
mod queue;
mod serve;
mod simulate;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::clock::Clock;
use crate::config;
use crate::mail;
use crate::reload::{self, SeenFile};
use crate::rules::keyring::KeyId;
use crate::rules::policy::Policy;
use crate::rules::units;

/// An admission gate: lets in as many visitors as the site can carry, and shows the rest a waiting room.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gate
    Serve(ConfigFile),
    /// Print the effective policy, or every error in the file (exit status 2)
    Check(ConfigFile),
    /// Show the whole loop on this machine: a model site, the gate, and a crowd that surges
    Demo,
    /// Try out in virtual time what the gate would do: a model site, a model crowd, the real decisions
    Simulate(simulate::Options),
    /// Print a link and a header that let a person or a monitor past the gate
    Mint {
        #[command(flatten)]
        config: ConfigFile,
        /// How long it holds, such as 2h or 30d
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        lasts: Duration,
        /// Who it is for, kept in data/minted.jsonl
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
    /// The keys that sign tickets and passes
    #[command(subcommand)]
    Keys(Keys),
    /// The addresses of those who would rather leave than wait
    #[command(subcommand)]
    Queue(Queue),
    /// The invitations to those who have left an address
    #[command(subcommand)]
    Invite(Invite),
    /// Ask the running gate whether it is alive and takes traffic (exit status 0 or 1), for containers without a shell
    Healthcheck(ConfigFile),
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// List them
    List(ConfigFile),
    /// Make a new one, which signs from now on; the others still verify, and every visitor stays in
    Rotate(ConfigFile),
    /// Take one out: what it has signed no longer holds
    Retire {
        #[command(flatten)]
        config: ConfigFile,
        /// Its id, from `keys list`
        id: KeyId,
    },
}

#[derive(Debug, Subcommand)]
enum Queue {
    /// How many addresses there are, and since when
    Status(ConfigFile),
    /// Print them, in order of arrival
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// csv for spreadsheets and mail merges, jsonl as they stand in the files
        #[arg(long, value_enum, default_value_t = queue::Format::Csv)]
        format: queue::Format,
    },
    /// Erase an address from every file, also beside a gate that runs, and say how many rows that were
    Forget {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        wanted: queue::Wanted,
    },
}

#[derive(Debug, Subcommand)]
enum Invite {
    /// How many wait, are invited and have come; what the gate does now; the batches that can be revoked
    Status(ConfigFile),
    /// Send none from now on, also beside a gate that runs, and also after a restart
    Pause(ConfigFile),
    /// Go on
    Resume(ConfigFile),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The policy
    #[arg(long, value_name = "FILE", default_value = "gate.yaml")]
    config: PathBuf,
}

/// Exit status for a command line or a file that can't be used.
const UNUSABLE: u8 = 2;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // stderr may be closed: there is nowhere left to say so
            drop(writeln!(io::stderr(), "tidegate: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    let clock = Clock::start();
    let mut out = io::stdout().lock();
    match command {
        Command::Serve(file) => {
            let seen = SeenFile::now(&file.config);
            with_policy(file, |policy, file| {
                drop(out);
                serve::serve(policy, (file, seen), clock)
            })
        }
        Command::Check(file) => check(&file, &mut out),
        Command::Demo => {
            drop(out);
            app::demo::run(clock)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Simulate(options) => simulate::simulate(&options, &mut out),
        Command::Mint { config, lasts, note } => {
            with_policy(config, |policy, _| mint::mint(&policy, &policy.data, lasts, &note, clock.now().wall, &mut out))
        }
        Command::Keys(Keys::List(file)) => with_policy(file, |policy, _| keys::list(&policy.data, &mut out)),
        Command::Keys(Keys::Rotate(file)) => with_policy(file, |policy, _| keys::rotate(&policy.data, clock.now().wall, &mut out)),
        Command::Keys(Keys::Retire { config, id }) => with_policy(config, |policy, _| keys::retire(&policy.data, id, &mut out)),
        Command::Queue(Queue::Status(file)) => with_policy(file, |policy, _| queue::status(&policy.data, &mut out)),
        Command::Queue(Queue::Export { config, format }) => with_policy(config, |policy, _| queue::export(&policy.data, format, &mut out)),
        Command::Queue(Queue::Forget { config, wanted }) => with_policy(config, |policy, _| queue::forget(&policy.data, &wanted, &mut out)),
        Command::Invite(Invite::Status(file)) => with_policy(file, |policy, _| invite::status(&policy, &policy.data, &mut out)),
        Command::Invite(Invite::Pause(file)) => with_policy(file, |policy, _| invite::pause(&policy.data, true, &mut out)),
        Command::Invite(Invite::Resume(file)) => with_policy(file, |policy, _| invite::pause(&policy.data, false, &mut out)),
        Command::Healthcheck(file) => healthcheck::check(&file.config).map(|()| ExitCode::SUCCESS),
    }
}

/// Prints the policy of a file, or every error of the file, of the templates and certificates that it names, of the admin token, and of the
/// password for the mail server.
fn check(file: &ConfigFile, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let checked = config::load(&file.config).map_err(|errors| errors.to_string());
    let checked = checked.and_then(|policy| reload::load_pages(&policy).map(|_| policy));
    let checked = checked.and_then(|policy| reload::load_certificates(&policy).map(|_| policy));
    let checked = checked.and_then(|policy| reload::load_upstream_tls(&policy).map(|_| policy));
    let checked = checked.and_then(|policy| app::admin_token(&policy).map(|_| policy).map_err(|error| error.to_string()));
    match checked.and_then(|policy| mail::check(&policy.invitations).map(|()| policy)) {
        Ok(policy) => {
            out.write_all(config::effective(&policy).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            writeln!(io::stderr(), "{errors}")?;
            Ok(ExitCode::from(UNUSABLE))
        }
    }
}

/// Does something with the policy of a file; prints every error of a file that has any.
fn with_policy(file: ConfigFile, then: impl FnOnce(Policy, PathBuf) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    match config::load(&file.config) {
        Ok(policy) => then(policy, file.config).map(|()| ExitCode::SUCCESS),
        Err(errors) => {
            writeln!(io::stderr(), "{errors}")?;
            Ok(ExitCode::from(UNUSABLE))
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
