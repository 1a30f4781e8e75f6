//! The ledger on disk: what has become of each invitation, one JSON object a line. It names rows of the queue by their ids, and holds no
//! address.
//!
//! ```text
//! data/email-queue/ledger/    0700
//!   lock                      held by whoever writes; counts how often files were rewritten
//!   2026-01-31.jsonl          what happened on one day (UTC)
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{StoreError, files};
use super::log::Log;
use super::row::{RowFault, id_of, time_of};
use super::segments::{each_whole_line, lines_at_most, mend, rewrite};
use super::{Lock, calendar, directory_of};
use crate::rules::ledger::Event;
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;

/// What happened to one invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The row that it is for.
    pub id: VisitorId,
    /// When.
    pub at: UnixTime,
    /// What.
    pub event: Event,
    /// Why, if it went wrong; without the address.
    pub reason: Option<Cow<'a, str>>,
}

/// What stands in the file.
#[derive(Debug, Deserialize, Serialize)]
struct Line<'a> {
    v: u8,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    at: Cow<'a, str>,
    event: Word,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    until: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    again: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ticket: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Sending,
    Sent,
    Deferred,
    Failed,
    Redeemed,
    Left,
}

const VERSION: u8 = 1;

impl<'a> Entry<'a> {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let date = |time: UnixTime| Some(Cow::Owned(calendar(time).to_string()));
        let (mut until, mut again, mut by) = (None, None, None);
        let event = match self.event {
            Event::Sending { until: end } => {
                until = date(end);
                Word::Sending
            }
            Event::Sent => Word::Sent,
            Event::Deferred { again: next } => {
                again = date(next);
                Word::Deferred
            }
            Event::Failed => Word::Failed,
            Event::Redeemed { ticket } => {
                by = ticket.map(|ticket| Cow::Owned(ticket.to_string()));
                Word::Redeemed
            }
            Event::Left => Word::Left,
        };
        let (id, at) = (self.id.to_string().into(), calendar(self.at).to_string().into());
        let line = Line { v: VERSION, id, at, event, until, again, ticket: by, reason: self.reason.as_deref().map(Cow::Borrowed) };
        serde_json::to_writer(&mut *text, &line)?;
        text.push(b'\n');
        Ok(())
    }

    fn read(line: &'a [u8]) -> Result<Self, RowFault> {
        let Line { v, id, at, event, until, again, ticket, reason } = serde_json::from_slice(line)?;
        if v != VERSION {
            return Err(RowFault::Version { found: v });
        }
        let time = |key, text: Option<Cow<'_, str>>| text.ok_or(RowFault::Value { key }).and_then(|text| time_of(key, &text));
        let event = match event {
            Word::Sending => Event::Sending { until: time("until", until)? },
            Word::Sent => Event::Sent,
            Word::Deferred => Event::Deferred { again: time("again", again)? },
            Word::Failed => Event::Failed,
            Word::Redeemed => Event::Redeemed { ticket: ticket.map(|ticket| id_of("ticket", &ticket)).transpose()? },
            Word::Left => Event::Left,
        };
        Ok(Self { id: id_of("id", &id)?, at: time_of("at", &at)?, event, reason })
    }
}

/// The ledger, open for writing.
#[derive(Debug)]
pub struct LedgerFiles {
    log: Log,
    lock: Lock,
    /// How often files had been rewritten when they were read last.
    rewritten: Option<u64>,
    /// When the oldest line was written.
    oldest: Option<UnixTime>,
}

/// What was found when a ledger was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerFound {
    /// Lines that are none of a ledger; they stay where they are.
    pub not_entries: u64,
    /// The first of those: its file, line and fault.
    pub first_fault: Option<String>,
}

impl LedgerFiles {
    /// Opens it, makes it if there is none, and sets aside what a crash has cut off: those files are returned.
    ///
    /// # Errors
    /// If it can't be made or changed.
    pub fn open(data: &Path) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let (queue, directory) = (directory_of(data), ledger_of(data));
        files::make_directory_in(data, &queue)?;
        files::make_directory_in(&queue, &directory)?;
        let lock = Lock::open(&directory)?;
        let _held = lock.take_soon()?;
        let torn = mend(&directory)?;
        Ok((Self { log: Log::new(directory), lock, rewritten: None, oldest: None }, torn))
    }

    /// Writes lines, and waits until they are on disk.
    ///
    /// # Errors
    /// If they can't be written. None of them is in the ledger then.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<(), StoreError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut text = Vec::new();
        for entry in entries {
            entry.write(&mut text).map_err(|source| StoreError::Encode { path: self.log.directory().to_owned(), source })?;
        }
        let _held = self.lock.take_soon()?;
        if self.is_changed()? {
            self.log.reopen();
        }
        self.oldest = self.oldest.or(Some(last.at));
        self.log.append(&text, last.at)
    }

    /// Whether a line could be written now: writes something and takes it away again.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(&self) -> Result<(), StoreError> {
        super::probe(self.log.directory())
    }

    /// Whether someone has taken lines out since it was read, or it has not been read.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn is_changed(&self) -> Result<bool, StoreError> {
        Ok(self.rewritten != Some(self.lock.count()?))
    }

    /// How many invitations there are at the most, by the size of the files.
    ///
    /// # Errors
    /// If they can't be looked at.
    pub fn invitations_at_most(&self) -> Result<usize, StoreError> {
        lines_at_most(self.log.directory(), INVITATION_BYTES)
    }

    /// Reads all of it, in order.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn read(&mut self, mut then: impl FnMut(Entry<'_>)) -> Result<LedgerFound, StoreError> {
        let _held = self.lock.take_soon()?;
        let rewritten = self.lock.count()?;
        let mut found = LedgerFound::default();
        let mut oldest: Option<UnixTime> = None;
        each_entry::<StoreError>(self.log.directory(), |read| {
            match read {
                Ok(entry) => {
                    oldest = Some(oldest.map_or(entry.at, |oldest| oldest.min(entry.at)));
                    then(entry);
                }
                Err(fault) => {
                    found.not_entries += 1;
                    found.first_fault.get_or_insert(fault);
                }
            }
            Ok(())
        })?;
        self.log.reopen();
        (self.rewritten, self.oldest) = (Some(rewritten), oldest);
        Ok(found)
    }

    /// Takes out what was written before a time. Returns how many lines there were; it has to be read again if there were any.
    ///
    /// # Errors
    /// If a file can't be rewritten. Some may have been.
    pub fn expire(&mut self, before: UnixTime) -> Result<u64, StoreError> {
        if self.oldest.is_none_or(|oldest| oldest >= before) {
            return Ok(0);
        }
        let held = self.lock.take_soon()?;
        rewrite(self.log.directory(), || held.count_up(), |line| Entry::read(line.bytes()).is_ok_and(|entry| entry.at < before))
    }
}

/// Takes out all that is about rows. Returns how many lines there were.
pub(super) fn forget(data: &Path, mut is_wanted: impl FnMut(VisitorId) -> bool) -> Result<u64, StoreError> {
    let directory = ledger_of(data);
    if !files::exists(&directory)? {
        return Ok(0);
    }
    let lock = Lock::open(&directory)?;
    let held = lock.take()?;
    rewrite(&directory, || held.count_up(), |line| Entry::read(line.bytes()).is_ok_and(|entry| is_wanted(entry.id)))
}

/// Reads every entry of the ledger in a directory, or is told where a line is none.
///
/// # Errors
/// If a file can't be read, or what `then` says.
pub fn each_entry<E: From<StoreError>>(
    directory: &Path,
    mut then: impl FnMut(Result<Entry<'_>, String>) -> Result<(), E>,
) -> Result<(), E> {
    each_whole_line(directory, |path, number, line| {
        then(Entry::read(line).map_err(|fault| format!("{}:{number}: {fault}", path.display())))
    })
}

/// Where the ledger is.
#[must_use]
pub fn ledger_of(data: &Path) -> PathBuf {
    directory_of(data).join(DIRECTORY)
}

const DIRECTORY: &str = "ledger";

/// What is written of an invitation until it is sent has no fewer bytes than this.
const INVITATION_BYTES: u64 = 180;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::chain;
    use crate::store::scratch::Scratch;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + secs)
    }

    fn entry(id: u64, secs: u64, event: Event) -> Entry<'static> {
        Entry { id: VisitorId(id), at: at(secs), event, reason: None }
    }

    fn read(files: &mut LedgerFiles) -> (Vec<Entry<'static>>, LedgerFound) {
        let mut entries = Vec::new();
        let own = |entry: Entry<'_>| Entry { reason: entry.reason.map(|reason| reason.into_owned().into()), ..entry };
        let found = files.read(|entry| entries.push(own(entry))).unwrap();
        (entries, found)
    }

    fn all() -> Vec<Entry<'static>> {
        vec![
            entry(1, 0, Event::Sending { until: at(172_800) }),
            Entry { reason: Some("451 later".into()), ..entry(1, 1, Event::Deferred { again: at(60) }) },
            entry(1, 2, Event::Sent),
            Entry { reason: Some("550 no such \"mailbox\"".into()), ..entry(2, 3, Event::Failed) },
            entry(1, 4, Event::Redeemed { ticket: Some(VisitorId(9)) }),
            entry(3, 5, Event::Redeemed { ticket: None }),
            entry(1, 6, Event::Left),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let scratch = Scratch::new();
        let (mut files, torn) = LedgerFiles::open(scratch.path()).unwrap();
        assert!(torn.is_empty() && files.is_changed().unwrap());
        files.append(&all()).unwrap();
        let text = fs::read_to_string(ledger_of(scratch.path()).join("2027-01-15.jsonl")).unwrap();
        assert!(text.starts_with(
            "{\"v\":1,\"id\":\"0000000000000001\",\"at\":\"2027-01-15T08:00:00Z\",\"event\":\"sending\",\"until\":\"2027-01-17T08:00:00Z\"}\n"
        ));
        assert_eq!(text.lines().count(), 7);
        let lengths: Vec<usize> = text.lines().map(|line| line.len() + 1).collect();
        assert!((lengths[0] + lengths[2]) as u64 >= INVITATION_BYTES, "{text}");
        assert_eq!(read(&mut files), (all(), LedgerFound::default()));
        assert!(!files.is_changed().unwrap());
        // after a restart
        let (mut files, _) = LedgerFiles::open(scratch.path()).unwrap();
        assert_eq!(read(&mut files).0, all());
    }

    #[test]
    fn what_a_crash_has_cut_off_is_set_aside_and_what_is_no_line_is_told() {
        let scratch = Scratch::new();
        let (mut files, _) = LedgerFiles::open(scratch.path()).unwrap();
        files.append(&all()).unwrap();
        let path = ledger_of(scratch.path()).join("2027-01-15.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{}\n{{\"v\":1,", text.lines().next().unwrap().replace("sending", "lost"))).unwrap();
        let (mut files, torn) = LedgerFiles::open(scratch.path()).unwrap();
        assert_eq!(torn.len(), 1);
        let (entries, found) = read(&mut files);
        assert_eq!(entries, all());
        assert_eq!(found.not_entries, 1);
        assert!(found.first_fault.unwrap().ends_with("2027-01-15.jsonl:8: not a row"));
    }

    #[test]
    fn lines_that_are_old_or_about_a_row_are_taken_out_and_the_others_are_told() {
        let scratch = Scratch::new();
        let (mut files, _) = LedgerFiles::open(scratch.path()).unwrap();
        files.append(&all()).unwrap();
        read(&mut files);
        assert_eq!(files.expire(at(0)).unwrap(), 0);
        assert_eq!(files.expire(at(3)).unwrap(), 3);
        assert!(files.is_changed().unwrap());
        assert_eq!(read(&mut files).0, all()[3..]);
        assert_eq!(forget(scratch.path(), |id| id == VisitorId(1)).unwrap(), 2);
        // written before it is read again: to the file that is there now
        files.append(&all()[..1]).unwrap();
        let expected = [&all()[3..4], &all()[5..6], &all()[..1]].concat();
        assert_eq!(read(&mut files).0, expected);
        assert_eq!(forget(&scratch.path().join("none"), |_| true).unwrap(), 0);
    }

    #[test]
    fn a_disk_that_is_full_is_told_by_the_path() {
        let scratch = Scratch::new();
        let (mut files, _) = LedgerFiles::open(scratch.path()).unwrap();
        std::os::unix::fs::symlink("/dev/full", ledger_of(scratch.path()).join("2027-01-15.jsonl")).unwrap();
        let error = files.append(&all()).unwrap_err();
        assert!(chain(&error).contains("2027-01-15.jsonl"), "{}", chain(&error));
    }
}
