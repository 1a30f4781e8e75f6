//! The email queue on disk: files that are appended to, one JSON object a line.
//!
//! ```text
//! data/email-queue/           0700
//!   lock                      held by whoever writes; counts how often files were rewritten
//!   2026-01-31.jsonl          the rows of one day (UTC), in order of arrival
//!   2026-01-31.1.jsonl        of the same day, after the disk had refused to write to the first
//!   again                     grows by a byte when all who posted at a time were there already
//!   2026-01-31.jsonl.torn-1   the end of a file that a crash has cut off: no one was told that it was taken
//!   paused                    is there while the operator wants no invitation sent
//!   ledger/                   what has become of the invitations, in files of the same kind
//! ```
//!
//! Always holds: when [`EmailQueue::add`] has returned, its rows are on disk; if it fails, they are not in the queue. One address has one
//! row. A file is never changed but at its end, except to take rows out of it: then it is replaced whole. That can be done by another
//! process beside a gate that serves, which sees it by the lock and reads the files anew.
//!
//! In memory there is a hash of each address, in 17 to 34 bytes, and nothing else of it.

mod ledger;
mod log;
mod row;
mod segments;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::{StoreError, files};
use crate::rules::email::{Address, fold};
use crate::rules::keyring::AddressHash;
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;
use crate::rules::uniform::Uniform;

use log::Log;
use segments::{Line, each_whole_line, lines_at_most, mend, rewrite};

pub use ledger::{Entry, LedgerFiles, LedgerFound, each_entry, ledger_of};
pub use row::{Row, RowFault};
pub use segments::{Progress, Read, Reader, each_row};

/// The email queue, open for writing.
#[derive(Debug)]
pub struct EmailQueue {
    log: Log,
    lock: Lock,
    hash: AddressHash,
    known: HashSet<u128, Uniform>,
    /// How often files had been rewritten when they were read last.
    rewritten: u64,
    /// When the oldest row was taken.
    oldest: Option<UnixTime>,
}

/// What was found when the files were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows.
    pub rows: u64,
    /// Lines that are none; they stay where they are.
    pub not_rows: u64,
    /// The first of those: its file, line and fault.
    pub first_fault: Option<String>,
    /// Files with the ends that were cut off and set aside.
    pub torn: Vec<PathBuf>,
}

impl EmailQueue {
    /// Reads the files, and sets aside what a crash has cut off.
    ///
    /// # Errors
    /// If they can't be read or changed.
    pub fn open(data: &Path, hash: AddressHash) -> Result<(Self, Found), StoreError> {
        let directory = directory_of(data);
        files::make_directory_in(data, &directory)?;
        let lock = Lock::open(&directory)?;
        let _held = lock.take()?;
        let mut found = Found { torn: mend(&directory)?, ..Found::default() };
        let mut queue = Self { log: Log::new(directory), lock, hash, known: HashSet::default(), rewritten: 0, oldest: None };
        queue.read_all(&mut found)?;
        Ok((queue, found))
    }

    /// How many addresses are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Adds those whose address isn't there yet. They are on disk when this returns how many they are. If all are there, the disk is
    /// asked for as much: else who posts could tell by the time it takes.
    ///
    /// # Errors
    /// If they can't be written. None of them is in the queue then; it can be tried again.
    pub fn add(&mut self, rows: &[Row<'_>]) -> Result<usize, StoreError> {
        let _held = self.lock.take()?;
        self.follow()?;
        let mut added = Vec::new();
        let written = self.add_new(rows, &mut added);
        if written.is_err() {
            for hash in added {
                self.known.remove(&hash);
            }
        }
        written
    }

    /// `added`: what is known by it, and is not if it fails.
    fn add_new(&mut self, rows: &[Row<'_>], added: &mut Vec<u128>) -> Result<usize, StoreError> {
        let mut text = Vec::new();
        for row in rows {
            let hash = self.hash.of(&fold(&row.email));
            if self.known.insert(hash) {
                added.push(hash);
                row.write(&mut text).map_err(|source| StoreError::Encode { path: self.log.directory().to_owned(), source })?;
            }
        }
        let Some(last) = rows.last() else { return Ok(0) };
        if added.is_empty() {
            return self.write_again().map(|()| 0);
        }
        self.log.append(&text, last.at)?;
        self.oldest = self.oldest.or(Some(last.at));
        Ok(added.len())
    }

    /// Takes out what was taken before a time. Returns how many rows there were.
    ///
    /// # Errors
    /// If a file can't be rewritten. Some may have been.
    pub fn expire(&mut self, before: UnixTime) -> Result<u64, StoreError> {
        if self.oldest.is_none_or(|oldest| oldest >= before) {
            return Ok(0);
        }
        let held = self.lock.take()?;
        let removed = rewrite(self.log.directory(), || held.count_up(), |line| line.row().is_some_and(|row| row.at < before));
        // what is in the files is what counts
        self.follow()?;
        removed
    }

    /// Whether a row could be written now: writes something and takes it away again.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(&self) -> Result<(), StoreError> {
        probe(self.log.directory())
    }

    /// Takes note of rows that someone else has taken out.
    ///
    /// # Errors
    /// If the files can't be read.
    pub fn look(&mut self) -> Result<(), StoreError> {
        if self.lock.count()? == self.rewritten {
            return Ok(());
        }
        let _held = self.lock.take()?;
        self.follow()
    }

    /// Reads the files anew if someone has rewritten one.
    fn follow(&mut self) -> Result<(), StoreError> {
        if self.lock.count()? != self.rewritten {
            self.read_all(&mut Found::default())?;
        }
        Ok(())
    }

    fn read_all(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let rewritten = self.lock.count()?;
        self.log.reopen();
        self.known.clear();
        self.oldest = None;
        // a row is longer than this: there is room for all of them at once, and no time when there is an old table beside a new one
        self.known.reserve(lines_at_most(self.log.directory(), ROW_BYTES)?);
        let Self { log, known, hash, oldest, .. } = self;
        each_row(log.directory(), |read| {
            match read {
                Read::Row(row) => {
                    known.insert(hash.of(&fold(&row.email)));
                    *oldest = Some(oldest.map_or(row.at, |oldest| oldest.min(row.at)));
                    found.rows += 1;
                }
                Read::Fault { path, line, fault } => {
                    found.not_rows += 1;
                    found.first_fault.get_or_insert_with(|| format!("{}:{line}: {fault}", path.display()));
                }
            }
            Ok(())
        })?;
        self.rewritten = rewritten;
        Ok(())
    }

    fn write_again(&self) -> Result<(), StoreError> {
        let directory = self.log.directory();
        let path = directory.join(AGAIN);
        let mut file = files::open_or_make(directory, &path)?;
        let length = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        if length >= AGAIN_BYTES_MAX {
            file.set_len(0).map_err(StoreError::io("cut", &path))?;
        }
        file.write_all(b".").map_err(StoreError::io("write", &path))?;
        file.sync_data().map_err(StoreError::io("sync", &path))
    }
}

fn probe(directory: &Path) -> Result<(), StoreError> {
    files::write_whole(directory, PROBE, &[b' '; 4096])?;
    let path = directory.join(PROBE);
    std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))
}

/// Has invitations paused from now on, also after a restart and by a gate that runs already; or not any more.
///
/// # Errors
/// If that can't be written down.
pub fn pause(data: &Path, paused: bool) -> Result<(), StoreError> {
    let directory = directory_of(data);
    if paused {
        files::make_directory_in(data, &directory)?;
        return files::write_whole(&directory, PAUSED, b"");
    }
    let path = directory.join(PAUSED);
    if files::exists(&path)? {
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        files::sync_directory(&directory)?;
    }
    Ok(())
}

/// Since when invitations are paused, if they are.
#[must_use]
pub fn paused_since(data: &Path) -> Option<UnixTime> {
    let since = std::fs::metadata(directory_of(data).join(PAUSED)).ok()?.modified().ok()?;
    let since = since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Some(UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// As a date of the calendar; the last one there is for a clock that is beyond it.
fn calendar(time: UnixTime) -> jiff::Timestamp {
    let timestamp = i64::try_from(time.as_millis()).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    timestamp.unwrap_or(jiff::Timestamp::MAX)
}

/// What is to be taken out of a queue.
#[derive(Clone, Copy, Debug)]
pub enum Forget<'a> {
    /// An address, however it is spelt.
    Address(&'a Address),
    /// All that came from one client, by its keyed hash.
    Client(u64),
    /// Rows, by their ids. What has become of their invitations stays in the ledger.
    Rows(&'a HashSet<VisitorId>),
}

/// Takes rows out of every file of a queue, and what is known of their invitations out of the ledger, whether a gate serves from it or not.
/// Returns how many lines of the queue there were: other lines that name an address go with its row.
///
/// # Errors
/// If a file can't be rewritten. Some may have been; it can be done again.
pub fn forget(data: &Path, what: Forget<'_>) -> Result<u64, StoreError> {
    let directory = directory_of(data);
    if !files::exists(&directory)? {
        return Ok(0);
    }
    let lock = Lock::open(&directory)?;
    let held = lock.take()?;
    let is_wanted = |line: &Line<'_>| match (what, line.row()) {
        (Forget::Address(address), Some(row)) => fold(&row.email) == address.folded(),
        // what can't be read as a row may name it all the same
        (Forget::Address(address), None) => fold(&line.text()).contains(&*address.folded()),
        (Forget::Client(client), row) => row.is_some_and(|row| row.client == client),
        (Forget::Rows(ids), row) => row.is_some_and(|row| ids.contains(&row.id)),
    };
    if !matches!(what, Forget::Rows(_)) {
        // the ledger first: without the rows nobody would know any more which of its lines are meant
        let mut ids = HashSet::new();
        each_whole_line::<StoreError>(&directory, |_, _, text| {
            let line = Line::new(text);
            if is_wanted(&line) {
                ids.extend(line.row().map(|row| row.id));
            }
            Ok(())
        })?;
        if !ids.is_empty() {
            ledger::forget(data, |id| ids.contains(&id))?;
        }
    }
    rewrite(&directory, || held.count_up(), is_wanted)
}

/// The ends of files that a crash has cut off.
///
/// # Errors
/// If the directory can't be read.
pub fn torn(data: &Path) -> Result<Vec<PathBuf>, StoreError> {
    segments::torn_ends(&directory_of(data))
}

/// Where the queue is.
#[must_use]
pub fn directory_of(data: &Path) -> PathBuf {
    data.join(DIRECTORY)
}

/// What whoever writes holds, in whichever process.
#[derive(Debug)]
struct Lock {
    file: Arc<File>,
    path: PathBuf,
}

/// The lock, held until dropped.
#[derive(Debug)]
struct Held(Lock);

impl Lock {
    fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(LOCK);
        Ok(Self { file: Arc::new(files::open_or_make(directory, &path)?), path })
    }

    /// Takes it unless someone else has it.
    fn take_now(&self) -> Result<Option<Held>, StoreError> {
        let taken = files::lock_now(&self.file, &self.path)?;
        Ok(taken.then(|| Held(Self { file: Arc::clone(&self.file), path: self.path.clone() })))
    }

    /// Waits for it, but not for long: for those on whom others wait.
    fn take_soon(&self) -> Result<Held, StoreError> {
        for _ in 0..LOCK_TRIES {
            if let Some(held) = self.take_now()? {
                return Ok(held);
            }
            std::thread::park_timeout(LOCK_PAUSE);
        }
        Err(StoreError::io("lock", &self.path)(std::io::ErrorKind::WouldBlock.into()))
    }

    /// Waits for it: others hold it only for as long as they write.
    fn take(&self) -> Result<Held, StoreError> {
        flock(&*self.file, FlockOperation::LockExclusive).map_err(|errno| StoreError::io("lock", &self.path)(errno.into()))?;
        Ok(Held(Self { file: Arc::clone(&self.file), path: self.path.clone() }))
    }

    /// How often files were rewritten.
    fn count(&self) -> Result<u64, StoreError> {
        let mut text = [0; 20];
        let read = self.file.read_at(&mut text, 0).map_err(StoreError::io("read", &self.path))?;
        Ok(str::from_utf8(&text[..read]).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}

impl Held {
    /// Tells the others that files are not what they were.
    fn count_up(&self) -> Result<(), StoreError> {
        let Lock { file, path } = &self.0;
        let text = (self.0.count()? + 1).to_string();
        // it never gets shorter, and is appended to: so it goes first
        file.set_len(0).and_then(|()| (&**file).write_all(text.as_bytes())).map_err(StoreError::io("write", path))?;
        file.sync_all().map_err(StoreError::io("sync", path))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // closing the file would give it back too
        flock(&*self.0.file, FlockOperation::Unlock).ok();
    }
}

/// So often, and for so long each time, someone who must not hang tries to have the lock.
const LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

const DIRECTORY: &str = "email-queue";
const LOCK: &str = "lock";
const PROBE: &str = "probe";
const PAUSED: &str = "paused";
const AGAIN: &str = "again";

/// Then it begins anew.
const AGAIN_BYTES_MAX: u64 = 1 << 16;

/// No row has fewer bytes than this.
const ROW_BYTES: u64 = 150;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::rules::keyring::{Key, Keyring, SiteSecret};
    use crate::rules::token::VisitorId;
    use crate::store::chain;
    use crate::store::scratch::Scratch;

    const DAY: u64 = 86_400;

    fn hash() -> AddressHash {
        Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(UnixTime::from_secs(0), [2; 32])]).unwrap().address_hash()
    }

    fn open(scratch: &Scratch) -> (EmailQueue, Found) {
        EmailQueue::open(scratch.path(), hash()).unwrap()
    }

    fn row(email: &str, secs: u64) -> Row<'_> {
        Row {
            id: VisitorId(secs),
            at: UnixTime::from_secs(1_800_000_000 + secs),
            email: email.into(),
            language: Some("en".into()),
            path: Some("/".into()),
            ticket: VisitorId(1),
            client: 2,
        }
    }

    fn files(scratch: &Scratch) -> Vec<String> {
        let mut files = segments::segments(&directory_of(scratch.path())).unwrap();
        files.sort_unstable();
        files.iter().map(ToString::to_string).collect()
    }

    fn forgotten(scratch: &Scratch, address: &str) -> u64 {
        forget(scratch.path(), Forget::Address(&Address::parse(address).unwrap())).unwrap()
    }

    fn emails(scratch: &Scratch) -> Vec<String> {
        let mut emails = Vec::new();
        each_row::<StoreError>(&directory_of(scratch.path()), |read| {
            if let Read::Row(row) = read {
                emails.push(row.email.into_owned());
            }
            Ok(())
        })
        .unwrap();
        emails
    }

    #[test]
    fn an_address_has_one_row_however_it_is_spelt_and_across_restarts() {
        let scratch = Scratch::new();
        let (mut queue, found) = open(&scratch);
        assert_eq!(found, Found::default());
        assert_eq!(queue.add(&[row("ann@example.org", 0), row("eve@example.org", 0), row("Ann@example.org", 0)]).unwrap(), 2);
        assert_eq!(queue.add(&[row("ANN@example.org", 1)]).unwrap(), 0);
        drop(queue);
        let (mut queue, found) = open(&scratch);
        assert_eq!((found.rows, queue.len()), (2, 2));
        assert_eq!(queue.add(&[row("eve@EXAMPLE.org", 2), row("joe@example.org", 2)]).unwrap(), 1);
        assert_eq!(emails(&scratch), ["ann@example.org", "eve@example.org", "joe@example.org"]);
        let directory = directory_of(scratch.path());
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(directory.join("2027-01-15.jsonl")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn an_address_that_is_there_already_costs_the_disk_as_much_and_leaves_no_row() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        let rows = fs::read(directory_of(scratch.path()).join("2027-01-15.jsonl")).unwrap();
        let again = directory_of(scratch.path()).join("again");
        assert!(!again.exists());
        for times in 1..4 {
            assert_eq!(queue.add(&[row("ann@example.org", 1), row("ANN@example.org", 1)]).unwrap(), 0);
            assert_eq!(fs::metadata(&again).unwrap().len(), times);
        }
        fs::write(&again, vec![b'.'; 1 << 16]).unwrap();
        queue.add(&[row("ann@example.org", 1)]).unwrap();
        assert_eq!(fs::metadata(&again).unwrap().len(), 1);
        assert_eq!(fs::read(directory_of(scratch.path()).join("2027-01-15.jsonl")).unwrap(), rows);
        // and on a disk that takes nothing it is refused like any other
        fs::remove_file(&again).unwrap();
        fs::create_dir(&again).unwrap();
        queue.add(&[row("ann@example.org", 1)]).unwrap_err();
    }

    #[test]
    fn each_day_has_a_file_of_its_own() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        for (email, days) in [("a@example.org", 0), ("b@example.org", 1), ("c@example.org", 0), ("d@example.org", 2)] {
            queue.add(&[row(email, days * DAY)]).unwrap();
        }
        assert_eq!(files(&scratch), ["2027-01-15.jsonl", "2027-01-16.jsonl", "2027-01-17.jsonl"]);
        assert_eq!(emails(&scratch), ["a@example.org", "c@example.org", "b@example.org", "d@example.org"]);
    }

    #[test]
    fn what_a_crash_cuts_off_is_set_aside_at_every_byte_and_nothing_before_it_is_lost() {
        let scratch = Scratch::new();
        let path = directory_of(scratch.path()).join("2027-01-15.jsonl");
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        let first = fs::read(&path).unwrap();
        queue.add(&[row("eve@example.org", 1)]).unwrap();
        let both = fs::read(&path).unwrap();
        for cut in first.len()..both.len() {
            fs::write(&path, &both[..cut]).unwrap();
            let (mut queue, found) = open(&scratch);
            assert_eq!((found.rows, found.not_rows), (1, 0), "{cut}");
            assert_eq!(found.torn.len(), usize::from(cut > first.len()), "{cut}");
            for torn in found.torn {
                assert_eq!(fs::read(&torn).unwrap(), &both[first.len()..cut]);
                fs::remove_file(torn).unwrap();
            }
            assert_eq!(queue.add(&[row("eve@example.org", 1)]).unwrap(), 1);
            assert_eq!(fs::read(&path).unwrap(), both, "{cut}");
        }
    }

    #[test]
    fn two_cut_off_ends_are_both_kept() {
        let scratch = Scratch::new();
        let path = directory_of(scratch.path()).join("2027-01-15.jsonl");
        drop(open(&scratch));
        for (n, end) in [(1, "first"), (2, "second")] {
            fs::write(&path, end).unwrap();
            let (_, found) = open(&scratch);
            assert_eq!(found.torn, [path.with_extension(format!("jsonl.torn-{n}"))]);
            assert_eq!(fs::read_to_string(&found.torn[0]).unwrap(), end);
        }
        assert_eq!(torn(scratch.path()).unwrap().len(), 2);
    }

    #[test]
    fn lines_that_are_no_rows_stay_and_are_told() {
        let scratch = Scratch::new();
        let path = directory_of(scratch.path()).join("2027-01-15.jsonl");
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        let text = format!("?\n{}", fs::read_to_string(&path).unwrap());
        fs::write(&path, &text).unwrap();
        let (_, found) = open(&scratch);
        assert_eq!((found.rows, found.not_rows), (1, 1));
        assert!(found.first_fault.unwrap().contains("2027-01-15.jsonl:1: not a row"));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn an_address_is_forgotten_beside_a_gate_that_goes_on_writing() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0), row("eve@example.org", 0), row("ann.lee@example.org", 0)]).unwrap();
        queue.add(&[row("joe@example.org", DAY)]).unwrap();
        // a torn end names it, too
        let directory = directory_of(scratch.path());
        fs::write(directory.join("2027-01-14.jsonl.torn-1"), "{\"email\":\"Ann@example.org").unwrap();
        assert_eq!(forgotten(&scratch, "ANN@example.org"), 2);
        assert_eq!(emails(&scratch), ["eve@example.org", "ann.lee@example.org", "joe@example.org"]);
        assert!(torn(scratch.path()).unwrap().is_empty());
        // the gate writes to the file that is there now, and takes the address as one that it has never seen
        assert_eq!(queue.add(&[row("zoe@example.org", DAY), row("eve@example.org", DAY), row("ann@example.org", DAY)]).unwrap(), 2);
        assert_eq!(forgotten(&scratch, "joe@example.org"), 1);
        queue.add(&[row("last@example.org", DAY)]).unwrap();
        let left = ["eve@example.org", "ann.lee@example.org", "zoe@example.org", "ann@example.org", "last@example.org"];
        assert_eq!((emails(&scratch), queue.len()), (left.map(str::to_owned).to_vec(), 5));
        // a file that is left empty goes
        for email in left {
            assert_eq!(forgotten(&scratch, email), 1);
        }
        assert!(files(&scratch).is_empty());
        let grep = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
        assert!(grep.iter().all(|file| file == "lock" || file == "again"), "{grep:?} is left behind");
        assert_eq!(queue.add(&[row("ann@example.org", DAY)]).unwrap(), 1);
    }

    #[test]
    fn all_that_one_client_has_filled_in_is_forgotten_together() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        for (email, client) in [("a@example.org", 1), ("b@example.org", 2), ("c@example.org", 1)] {
            queue.add(&[Row { client, ..row(email, client * DAY) }]).unwrap();
        }
        assert_eq!(forget(scratch.path(), Forget::Client(1)).unwrap(), 2);
        assert_eq!((emails(&scratch), files(&scratch).len()), (vec!["b@example.org".to_owned()], 1));
        assert_eq!(forget(scratch.path(), Forget::Client(1)).unwrap(), 0);
        assert_eq!(queue.add(&[row("a@example.org", 0)]).unwrap(), 1);
    }

    #[test]
    fn what_is_too_old_goes_and_the_rest_stays() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        for (email, secs) in [("a@example.org", 0), ("b@example.org", 10), ("c@example.org", 2 * DAY)] {
            queue.add(&[row(email, secs)]).unwrap();
        }
        let before = |secs| UnixTime::from_secs(1_800_000_000 + secs);
        assert_eq!(queue.expire(before(0)).unwrap(), 0);
        assert_eq!(queue.expire(before(5)).unwrap(), 1);
        assert_eq!((emails(&scratch), queue.len()), (vec!["b@example.org".to_owned(), "c@example.org".to_owned()], 2));
        assert_eq!(queue.add(&[row("a@example.org", 2 * DAY)]).unwrap(), 1, "it may come again");
        assert_eq!(queue.expire(before(DAY)).unwrap(), 1);
        assert_eq!(files(&scratch), ["2027-01-17.jsonl"]);
        assert_eq!((queue.expire(before(9 * DAY)).unwrap(), queue.len(), files(&scratch).len()), (2, 0, 0));
    }

    #[test]
    fn a_row_that_could_not_be_written_can_be_tried_again() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        // the next day's file can't be made
        let directory = directory_of(scratch.path());
        let blocked = directory.join("2027-01-16.jsonl");
        fs::create_dir(&blocked).unwrap();
        let error = queue.add(&[row("eve@example.org", DAY)]).unwrap_err();
        assert!(chain(&error).contains("2027-01-16.jsonl: can't open it"), "{}", chain(&error));
        assert_eq!((queue.len(), emails_of_day(&directory)), (1, 1));
        fs::remove_dir(&blocked).unwrap();
        assert_eq!(queue.add(&[row("eve@example.org", DAY)]).unwrap(), 1);
        assert_eq!(emails(&scratch), ["ann@example.org", "eve@example.org"]);
    }

    fn emails_of_day(directory: &Path) -> usize {
        fs::read_to_string(directory.join("2027-01-15.jsonl")).unwrap().lines().count()
    }

    #[test]
    fn a_row_that_the_disk_has_not_synced_is_not_taken() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        // it takes every byte, and syncs none
        queue.log.put_in_place(|_| fs::OpenOptions::new().append(true).open("/dev/null").unwrap());
        let error = queue.add(&[row("eve@example.org", 1)]).unwrap_err();
        assert!(chain(&error).contains("can't sync it"), "{}", chain(&error));
        assert_eq!(queue.len(), 1);
        // nobody knows what of that file is on disk
        assert_eq!(queue.add(&[row("eve@example.org", 1)]).unwrap(), 1);
        assert_eq!(files(&scratch), ["2027-01-15.jsonl", "2027-01-15.1.jsonl"]);
        assert_eq!(emails(&scratch), ["ann@example.org", "eve@example.org"]);
    }

    #[test]
    fn what_a_crash_has_left_of_a_rewriting_is_removed() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        let left = directory_of(scratch.path()).join("rewritten.tmp");
        fs::write(&left, "{\"email\":\"eve@example.org\"}\n").unwrap();
        assert_eq!(forgotten(&scratch, "eve@example.org"), 0);
        assert!(!left.exists());
        fs::write(&left, "eve@example.org").unwrap();
        drop(open(&scratch));
        assert!(!left.exists());
        assert_eq!(emails(&scratch), ["ann@example.org"]);
    }

    #[test]
    fn what_a_full_disk_has_taken_of_a_batch_is_taken_back() {
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 0)]).unwrap();
        let path = directory_of(scratch.path()).join("2027-01-15.jsonl");
        let before = fs::read(&path).unwrap();
        // as a write that ended half-way leaves it
        queue.log.put_in_place(|mut file| {
            file.write_all(b"{\"v\":1,\"id\":").unwrap();
            File::open(&path).unwrap()
        });
        let error = queue.add(&[row("eve@example.org", 1)]).unwrap_err();
        assert!(chain(&error).contains("can't write it"), "{}", chain(&error));
        assert_eq!(queue.len(), 1);
        // it could not be cut either: so it is left alone, and the next rows go elsewhere
        assert_eq!(queue.add(&[row("eve@example.org", 1)]).unwrap(), 1);
        assert_eq!(files(&scratch), ["2027-01-15.jsonl", "2027-01-15.1.jsonl"]);
        let (queue, found) = open(&scratch);
        assert_eq!((found.rows, found.torn.len(), queue.len()), (2, 1, 2));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_has_become_of_an_invitation_is_forgotten_with_its_row() {
        use crate::rules::ledger::Event;
        let scratch = Scratch::new();
        let (mut queue, _) = open(&scratch);
        queue.add(&[row("ann@example.org", 1), row("eve@example.org", 2)]).unwrap();
        let (mut ledger, _) = LedgerFiles::open(scratch.path()).unwrap();
        let entry = |secs| Entry { id: VisitorId(secs), at: row("", secs).at, event: Event::Sent, reason: None };
        ledger.append(&[entry(1), entry(2)]).unwrap();
        let left = |ledger: &mut LedgerFiles| {
            let mut ids = Vec::new();
            ledger.read(|entry| ids.push(entry.id.0)).unwrap();
            ids
        };
        assert_eq!(left(&mut ledger), [1, 2]);
        assert_eq!(forgotten(&scratch, "ann@example.org"), 1);
        assert!(ledger.is_changed().unwrap());
        assert_eq!(left(&mut ledger), [2]);
        let rows = [VisitorId(2)].into();
        assert_eq!(forget(scratch.path(), Forget::Rows(&rows)).unwrap(), 1);
        assert_eq!((emails(&scratch), left(&mut ledger)), (vec![], vec![2]));
    }
}
