//! The saved state, `data/state.json`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::files::{exists, read_bounded, sync_directory, write_whole};
use crate::rules::line::Position;
use crate::rules::policy::Mode;
use crate::rules::time::UnixTime;

/// Replaces what was saved last.
pub(super) fn save(data: &Path, state: &SavedState) -> Result<(), StoreError> {
    let text = serde_json::to_vec(&StateFile::from(state)).map_err(|source| StoreError::Encode { path: data.join(STATE), source })?;
    write_whole(data, STATE, &text)
}

/// What was saved last.
pub(super) fn load(data: &Path) -> Result<LoadedState, StoreError> {
    let path = data.join(STATE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(LoadedState::Nothing),
        Err(error) => return Err(StoreError::io("open", &path)(error)),
    };
    let content = read_bounded(&file, STATE_BYTES_MAX).map_err(StoreError::io("read", &path))?;
    match content.ok_or(StateFault::TooLong).and_then(|content| parse_state(&content)) {
        Ok(state) => Ok(LoadedState::Saved(state)),
        Err(fault) => Ok(LoadedState::Corrupt { fault, set_aside: set_aside(data, STATE) }),
    }
}

/// What a restart takes over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SavedState {
    /// When it was saved.
    pub saved_at: UnixTime,
    /// Capacity C, good answers a second; finite and not below 0.
    pub capacity: Option<f64>,
    /// The limit of each server that was found; none of 0.
    pub max_in_flight: Option<u32>,
    /// The line of `order: arrival`, if someone stood in it.
    pub line: Option<SavedLine>,
    /// The operator's mode, if one outranks the file.
    pub mode: Option<SavedMode>,
}

/// Where the line stood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SavedLine {
    /// Its position.
    pub at: Position,
    /// What the clock showed by which tickets are issued.
    pub clock: UnixTime,
}

/// A mode set by `POST /mode`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SavedMode {
    /// Which; its probability is in 0 to 1.
    pub mode: Mode,
    /// Until when; `None` is until it is cleared.
    pub until: Option<UnixTime>,
}

/// What there was to take over.
#[derive(Debug)]
pub enum LoadedState {
    /// Nothing: a first start.
    Nothing,
    /// This.
    Saved(SavedState),
    /// A file that is no state. Worth a warning, and nothing more.
    Corrupt {
        /// What is wrong with it.
        fault: StateFault,
        /// Where it has been moved, for someone to look at; or why it could not be moved.
        set_aside: Result<PathBuf, StoreError>,
    },
}

/// What is wrong with a saved state.
#[derive(Debug, thiserror::Error)]
pub enum StateFault {
    /// Longer than any state.
    #[error("longer than {STATE_BYTES_MAX} bytes")]
    TooLong,
    /// Not the JSON that was expected.
    #[error("not a saved state")]
    Json(#[source] serde_json::Error),
    /// Of another release.
    #[error("version {0} is not {STATE_VERSION}")]
    Version(u32),
    /// A value out of its range.
    #[error("{key}: out of range")]
    Value {
        /// Which.
        key: &'static str,
    },
}

fn parse_state(content: &[u8]) -> Result<SavedState, StateFault> {
    // the version first: another one may have other fields
    let StateVersion { version } = serde_json::from_slice(content).map_err(StateFault::Json)?;
    if version != STATE_VERSION {
        return Err(StateFault::Version(version));
    }
    let file: StateFile = serde_json::from_slice(content).map_err(StateFault::Json)?;
    if file.capacity.is_some_and(|capacity| capacity < 0.0) {
        return Err(StateFault::Value { key: "capacity" });
    }
    if file.max_in_flight == Some(0) {
        return Err(StateFault::Value { key: "max_in_flight" });
    }
    let line = match file.line {
        Some(LineFile { grains, clock_unix_ms }) => {
            let at = Position::from_grains(grains).ok_or(StateFault::Value { key: "line.grains" })?;
            Some(SavedLine { at, clock: UnixTime::from_millis(clock_unix_ms) })
        }
        None => None,
    };
    let mode = match file.mode {
        Some(ModeFile { name, probability, until_unix_ms }) => {
            let mode = match (name.as_str(), probability) {
                ("auto", _) => Mode::Auto,
                ("open", _) => Mode::Open,
                ("closed", _) => Mode::Closed,
                ("observe", _) => Mode::Observe,
                ("fixed", Some(probability)) if (0.0..=1.0).contains(&probability) => Mode::Fixed(probability),
                ("fixed", _) => return Err(StateFault::Value { key: "mode.probability" }),
                _ => return Err(StateFault::Value { key: "mode.name" }),
            };
            Some(SavedMode { mode, until: until_unix_ms.map(UnixTime::from_millis) })
        }
        None => None,
    };
    Ok(SavedState {
        saved_at: UnixTime::from_millis(file.saved_at_unix_ms),
        capacity: file.capacity,
        max_in_flight: file.max_in_flight,
        line,
        mode,
    })
}

/// Moves a file to `<name>.bad-<n>`, n the first that is free; when many have gone there the last is replaced.
fn set_aside(directory: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let from = directory.join(name);
    let mut to = directory.join(format!("{name}.bad-1"));
    for n in 2..=BAD_MAX {
        if !exists(&to)? {
            break;
        }
        to = directory.join(format!("{name}.bad-{n}"));
    }
    fs::rename(&from, &to).map_err(StoreError::io("move", &from))?;
    sync_directory(directory)?;
    Ok(to)
}

#[derive(Deserialize)]
struct StateVersion {
    version: u32,
}

/// The state as it is written.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    saved_at_unix_ms: u64,
    capacity: Option<f64>,
    #[serde(default)]
    max_in_flight: Option<u32>,
    line: Option<LineFile>,
    mode: Option<ModeFile>,
}

#[derive(Serialize, Deserialize)]
struct LineFile {
    grains: f64,
    clock_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct ModeFile {
    name: String,
    probability: Option<f64>,
    until_unix_ms: Option<u64>,
}

impl From<&SavedState> for StateFile {
    fn from(state: &SavedState) -> Self {
        Self {
            version: STATE_VERSION,
            saved_at_unix_ms: state.saved_at.as_millis(),
            capacity: state.capacity,
            max_in_flight: state.max_in_flight,
            line: state.line.map(|line| LineFile { grains: line.at.grains(), clock_unix_ms: line.clock.as_millis() }),
            mode: state.mode.map(|SavedMode { mode, until }| ModeFile {
                name: mode.name().to_owned(),
                probability: if let Mode::Fixed(probability) = mode { Some(probability) } else { None },
                until_unix_ms: until.map(UnixTime::as_millis),
            }),
        }
    }
}

const STATE: &str = "state.json";
const STATE_VERSION: u32 = 1;
/// A state takes some 200 bytes.
const STATE_BYTES_MAX: u64 = 65_536;
/// Enough to see that something writes rubbish again and again, and too few to fill a disk.
const BAD_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::scratch::Scratch;
    use super::*;

    type Check = fn(&StateFault) -> bool;

    fn state() -> SavedState {
        SavedState {
            saved_at: UnixTime::from_millis(1_800_000_000_123),
            capacity: Some(187.5),
            max_in_flight: Some(33),
            line: Some(SavedLine { at: Position::from_grains(180_000_000.25).unwrap(), clock: UnixTime::from_secs(1_800_000_100) }),
            mode: Some(SavedMode { mode: Mode::Fixed(0.25), until: Some(UnixTime::from_secs(1_800_003_600)) }),
        }
    }

    fn saved(store: &Store) -> SavedState {
        let loaded = store.load_state().unwrap();
        let LoadedState::Saved(state) = loaded else { panic!("{loaded:?}") };
        state
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        assert!(matches!(store.load_state().unwrap(), LoadedState::Nothing));
        let modes = [Mode::Auto, Mode::Open, Mode::Closed, Mode::Observe, Mode::Fixed(0.0), Mode::Fixed(1.0)];
        for mode in modes {
            let state = SavedState { mode: Some(SavedMode { mode, until: None }), ..state() };
            store.save_state(&state).unwrap();
            assert_eq!(saved(&store), state);
        }
        let empty = SavedState { saved_at: UnixTime::from_secs(1), capacity: None, max_in_flight: None, line: None, mode: None };
        store.save_state(&empty).unwrap();
        assert_eq!(saved(&store), empty);
        store.save_state(&state()).unwrap();
        assert_eq!(saved(&store), state());
    }

    #[test]
    fn what_json_cannot_say_is_left_out() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        store.save_state(&SavedState { capacity: Some(f64::NAN), ..state() }).unwrap();
        assert_eq!(saved(&store), SavedState { capacity: None, ..state() });
    }

    #[test]
    fn a_corrupt_state_is_set_aside_and_the_next_start_is_a_first_one() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        let path = scratch.path().join(STATE);
        store.save_state(&state()).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let cases: [(String, Check); 11] = [
            (String::new(), |fault| matches!(fault, StateFault::Json(_))),
            (whole[..whole.len() / 2].to_owned(), |fault| matches!(fault, StateFault::Json(_))),
            ("\0".repeat(100), |fault| matches!(fault, StateFault::Json(_))),
            (" ".repeat(70_000), |fault| matches!(fault, StateFault::TooLong)),
            (r#"{"version":2,"other":1}"#.to_owned(), |fault| matches!(fault, StateFault::Version(2))),
            (whole.replace("187.5", "-1.0"), |fault| matches!(fault, StateFault::Value { key: "capacity" })),
            (whole.replace(":33", ":0"), |fault| matches!(fault, StateFault::Value { key: "max_in_flight" })),
            (whole.replace("180000000.25", "-1.0"), |fault| matches!(fault, StateFault::Value { key: "line.grains" })),
            (whole.replace("0.25,\"until", "1.5,\"until"), |fault| matches!(fault, StateFault::Value { key: "mode.probability" })),
            (whole.replace("0.25,\"until", "null,\"until"), |fault| matches!(fault, StateFault::Value { key: "mode.probability" })),
            (whole.replace("fixed", "ajar"), |fault| matches!(fault, StateFault::Value { key: "mode.name" })),
        ];
        for (n, (content, expected)) in (1..).zip(cases) {
            fs::write(&path, &content).unwrap();
            let loaded = store.load_state().unwrap();
            let LoadedState::Corrupt { fault, set_aside: Ok(to) } = loaded else { panic!("{loaded:?}: {content}") };
            assert!(expected(&fault), "{fault:?}: {content}");
            assert_eq!(to, scratch.path().join(format!("state.json.bad-{n}")));
            assert_eq!(fs::read_to_string(to).unwrap(), content);
            assert!(matches!(store.load_state().unwrap(), LoadedState::Nothing));
        }
    }

    #[test]
    fn what_is_set_aside_does_not_fill_the_disk() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        for n in 0..30 {
            fs::write(scratch.path().join(STATE), format!("bad {n}")).unwrap();
            assert!(matches!(store.load_state().unwrap(), LoadedState::Corrupt { set_aside: Ok(_), .. }));
        }
        let kept = fs::read_dir(scratch.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "lock").count();
        assert_eq!(kept, 20);
        assert_eq!(fs::read_to_string(scratch.path().join("state.json.bad-20")).unwrap(), "bad 29");
    }

    #[test]
    fn a_save_that_fails_leaves_the_last_state() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        store.save_state(&state()).unwrap();
        let in_the_way = scratch.path().join(".state.json.tmp");
        fs::create_dir(&in_the_way).unwrap();
        let newer = SavedState { capacity: Some(1.0), ..state() };
        assert!(matches!(store.save_state(&newer), Err(StoreError::Io { path, .. }) if path == in_the_way));
        assert_eq!(saved(&store), state());
        fs::remove_dir(&in_the_way).unwrap();
        fs::write(&in_the_way, "half a st").unwrap();
        store.save_state(&newer).unwrap();
        assert_eq!(saved(&store), newer);
        assert!(!in_the_way.exists());
    }

    #[test]
    fn a_replacement_that_fails_leaves_nothing_behind() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        fs::create_dir_all(scratch.path().join(STATE).join("not a file")).unwrap();
        assert!(matches!(store.save_state(&state()), Err(StoreError::Io { doing: "replace", .. })));
        assert!(!scratch.path().join(".state.json.tmp").exists());
    }
}
