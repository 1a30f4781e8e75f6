//! What is kept under `data/`: the lock that holds it for one gate, the keys, the saved state, and the list of minted passes.
//!
//! ```text
//! data/                       0700
//!   lock                      held by the gate that serves; says its pid
//!   keys/                     0700
//!     lock                    held while keys are made, rotated or retired
//!     site                    the site secret, never rotated
//!     000001-1a2b3c4d.key     one generation of the signing key; they sort by age
//!     retired/                generations that verify no more
//!   state.json                what a restart takes over
//!   state.json.bad-1          one that could not be read
//!   minted.jsonl              a line for each minted pass
//!   email-queue/              see [`email_queue`]
//! ```
//!
//! Every file is 0600. Keys and state are replaced whole or not at all: written beside, synced, renamed. The command line changes keys beside a gate that
//! serves, so keys have a lock of their own, and a gate sees by [`keys_fingerprint`] that they have changed.
//!
//! Absent: a clock (`now` is an argument). All of it blocks on the disk, so none of it runs on a thread that serves requests.

pub mod email_queue;
mod files;
mod keys;
mod state;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::rules::keyring::{KeyId, Keyring, KeyringError};
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;

pub use keys::{KeyFault, KeyStatus, ListedKey, keys_fingerprint, list_keys, load_keys, retire_key, rotate_keys};
pub use state::{LoadedState, SavedLine, SavedMode, SavedState, StateFault};

/// The data directory, held for this process until dropped.
#[derive(Debug)]
pub struct Store {
    data: PathBuf,
    /// Locked; closing it gives the lock back.
    _lock: File,
}

impl Store {
    /// Makes the directory if there is none, and takes it for this process.
    ///
    /// # Errors
    /// If another process holds it, or it can't be made or written.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        files::make_directories(data)?;
        let path = data.join("lock");
        let mut lock = files::open_or_make(data, &path)?;
        if !files::lock_now(&lock, &path)? {
            return Err(StoreError::InUse { path: data.to_owned(), pid: read_pid(&lock) });
        }
        // the pid is for the message above; a full disk that can't take it must not keep a gate from starting
        if lock.set_len(0).is_ok() && write!(lock, "{}", std::process::id()).is_err() {
            lock.set_len(0).ok();
        }
        Ok(Self { data: data.to_owned(), _lock: lock })
    }

    /// The data directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// The keys; makes them on the first start.
    ///
    /// A site without generations gets one: nothing that it has signed can verify any more. Generations without the site secret are an
    /// error, because a new secret would end every session.
    ///
    /// # Errors
    /// If a file can't be read, is not what it should be, or is open to others; if they can't be made.
    pub fn keys(&self, now: UnixTime) -> Result<Keyring, StoreError> {
        keys::load_or_make(&self.data, now)
    }

    /// Saves the state in place of the last one. Syncs to disk.
    ///
    /// # Errors
    /// If it can't be written; the last one is then still there.
    pub fn save_state(&self, state: &SavedState) -> Result<(), StoreError> {
        state::save(&self.data, state)
    }

    /// The state that was saved last. One that can't be read as such is set aside, and the gate starts as if there were none.
    ///
    /// # Errors
    /// If there is a file and the disk doesn't give it.
    pub fn load_state(&self) -> Result<LoadedState, StoreError> {
        state::load(&self.data)
    }
}

/// A minted pass, so that the operator can find later whom to revoke. The token itself is never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minted<'a> {
    /// The id to revoke it by.
    pub id: VisitorId,
    /// The operator's words.
    pub note: &'a str,
    /// When it was minted.
    pub created: UnixTime,
    /// When it ends.
    pub expires: UnixTime,
}

/// Adds a line to `minted.jsonl`, and returns where that is. On disk when this returns.
///
/// # Errors
/// If it can't be written.
pub fn record_minted(data: &Path, minted: &Minted<'_>) -> Result<PathBuf, StoreError> {
    let path = data.join(MINTED);
    let line = MintedLine {
        id: minted.id.to_string(),
        note: minted.note,
        created: timestamp(minted.created, &path)?,
        expires: timestamp(minted.expires, &path)?,
    };
    let mut text = serde_json::to_string(&line).map_err(|source| StoreError::Encode { path: path.clone(), source })?;
    text.push('\n');
    let mut file = files::open_or_make(data, &path)?;
    // a line torn by a crash spoils itself and not this one
    if !files::ends_with_newline(&file).map_err(StoreError::io("read", &path))? {
        text.insert(0, '\n');
    }
    file.write_all(text.as_bytes()).map_err(StoreError::io("write", &path))?;
    file.sync_all().map_err(StoreError::io("sync", &path))?;
    Ok(path)
}

/// What goes wrong in `data/`. Each names the file or directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("{}: can't {doing} it", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another gate serves from this directory.
    #[error("{}: already in use by {}", path.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Who, as far as it has said.
        pid: Option<u32>,
    },
    /// Another command is at work on the keys.
    #[error("{}: the keys are being changed by another process; try again", path.display())]
    KeysBusy {
        /// The lock.
        path: PathBuf,
    },
    /// Others than the owner may use it.
    #[error("{}: mode {mode:04o} opens it to others than its owner: run {fix} '{}'", path.display(), path.display())]
    Exposed {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The command that closes it, without the path.
        fix: &'static str,
    },
    /// There are no keys, and making some was not asked for.
    #[error("{}: there are no keys; the first start of the gate makes them", path.display())]
    NoKeys {
        /// The directory of keys.
        path: PathBuf,
    },
    /// There are keys and no site secret.
    #[error(
        "{}: missing, though there are keys: restore it from a backup, or move all of keys/ away to start anew, which ends every session",
        path.display()
    )]
    NoSite {
        /// Where it should be.
        path: PathBuf,
    },
    /// A key file that is none.
    #[error("{}: not a key file", path.display())]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyFault,
    },
    /// Keys that make no ring.
    #[error("{}: the keys can't be used", path.display())]
    Keyring {
        /// The directory of keys.
        path: PathBuf,
        /// Why.
        source: KeyringError,
    },
    /// No key has this id.
    #[error("{}: there is no key {id}", path.display())]
    NoSuchKey {
        /// The directory of keys.
        path: PathBuf,
        /// Which.
        id: KeyId,
    },
    /// The key that signs can't be retired.
    #[error("{}: key {id} is the one that signs: rotate first, and retire it when its passes have ended", path.display())]
    Signs {
        /// The directory of keys.
        path: PathBuf,
        /// Which.
        id: KeyId,
    },
    /// The key is retired already.
    #[error("{}: key {id} is already retired", path.display())]
    AlreadyRetired {
        /// The directory of retired keys.
        path: PathBuf,
        /// Which.
        id: KeyId,
    },
    /// The system gives no random bytes.
    #[error("{}: no random bytes for a key", path.display())]
    Randomness {
        /// The directory of keys.
        path: PathBuf,
        /// Why.
        source: aws_lc_rs::error::Unspecified,
    },
    /// A time that no calendar has: the clock is wrong.
    #[error("{}: {} ms since 1970 can't be written as a date", path.display(), time.as_millis())]
    Time {
        /// What it should be written to.
        path: PathBuf,
        /// The time.
        time: UnixTime,
        /// Why.
        source: jiff::Error,
    },
    /// Something that JSON can't say.
    #[error("{}: can't be put as JSON", path.display())]
    Encode {
        /// What it should be written to.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Makes an error of what the system says.
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// An error and its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn read_pid(lock: &File) -> Option<u32> {
    String::from_utf8(files::read_bounded(lock, PID_BYTES_MAX).ok()??).ok()?.trim().parse().ok()
}

/// As RFC 3339, in UTC.
fn timestamp(time: UnixTime, path: &Path) -> Result<String, StoreError> {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(millis).map_err(|source| StoreError::Time { path: path.to_owned(), time, source })?;
    Ok(timestamp.to_string())
}

#[derive(Serialize)]
struct MintedLine<'a> {
    id: String,
    note: &'a str,
    created: String,
    expires: String,
}

const MINTED: &str = "minted.jsonl";
const PID_BYTES_MAX: u64 = 20;

/// A directory that a test has to itself, gone when dropped.
#[cfg(test)]
pub(crate) mod scratch {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("tidegate-test-{}-{n}", std::process::id()));
            // left by a process of the same id that was killed
            std::fs::remove_dir_all(&path).ok();
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::scratch::Scratch;
    use super::*;

    #[test]
    fn a_second_gate_on_the_same_data_is_refused_until_the_first_has_gone() {
        let scratch = Scratch::new();
        let first = Store::open(scratch.path()).unwrap();
        let error = Store::open(scratch.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::InUse { path, pid } if path == scratch.path() && *pid == Some(std::process::id())),
            "{error:?}"
        );
        assert_eq!(error.to_string(), format!("{}: already in use by process {}", scratch.path().display(), std::process::id()));
        drop(first);
        Store::open(scratch.path()).unwrap();
    }

    #[test]
    fn the_refusal_needs_no_pid() {
        let scratch = Scratch::new();
        let _first = Store::open(scratch.path()).unwrap();
        for content in ["", "what?", "99999999999999999999999999999"] {
            fs::write(scratch.path().join("lock"), content).unwrap();
            assert!(matches!(Store::open(scratch.path()), Err(StoreError::InUse { pid: None, .. })));
        }
    }

    #[test]
    fn a_lock_left_by_a_killed_gate_is_taken_over() {
        let scratch = Scratch::new();
        fs::write(scratch.path().join("lock"), "4000000000 and more").unwrap();
        let _store = Store::open(scratch.path()).unwrap();
        assert_eq!(fs::read_to_string(scratch.path().join("lock")).unwrap(), std::process::id().to_string());
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let scratch = Scratch::new();
        let data = scratch.path().join("deep").join("data");
        let store = Store::open(&data).unwrap();
        assert_eq!(store.path(), data);
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(data.join("lock")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn data_that_is_a_file_is_an_error_that_names_it() {
        let scratch = Scratch::new();
        let data = scratch.path().join("data");
        fs::write(&data, "").unwrap();
        assert!(matches!(Store::open(&data), Err(StoreError::Io { path, .. }) if path == data));
    }

    #[test]
    fn minted_passes_are_a_line_each_whatever_stood_before() {
        let scratch = Scratch::new();
        let minted = Minted {
            id: VisitorId(0xab),
            note: "press \"desk\"\nline",
            created: UnixTime::from_secs(1_800_000_000),
            expires: UnixTime::from_secs(1_800_003_600),
        };
        let path = record_minted(scratch.path(), &minted).unwrap();
        let line =
            r#"{"id":"00000000000000ab","note":"press \"desk\"\nline","created":"2027-01-15T08:00:00Z","expires":"2027-01-15T09:00:00Z"}"#;
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{line}\n"));
        fs::write(&path, "{\"id\":\"torn").unwrap();
        record_minted(scratch.path(), &minted).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{{\"id\":\"torn\n{line}\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_time_that_no_calendar_has_is_an_error() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        assert!(matches!(store.keys(UnixTime::from_millis(u64::MAX)), Err(StoreError::Time { .. })));
    }
}
