//! The files of the email queue and of its ledger: their names, how they are read, and how lines are taken out of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::super::{StoreError, files};
use super::row::{Row, RowFault};
use super::{Lock, calendar};
use crate::rules::time::UnixTime;

/// The name of a file: its day, and which of that day it is. They sort by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    day: Date,
    number: u32,
}

impl Name {
    /// The first of the day of this time.
    pub(super) fn of(at: UnixTime) -> Self {
        Self { day: calendar(at).to_zoned(TimeZone::UTC).date(), number: 0 }
    }

    fn parse(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(SUFFIX)?;
        let (day, number) = match stem.split_once('.') {
            Some((day, number)) => (day, number.parse().ok().filter(|&number| number > 0)?),
            None => (stem, 0),
        };
        let name = Self { day: day.parse().ok()?, number };
        // one text for a name
        (name.to_string() == file).then_some(name)
    }

    pub(super) const fn day(self) -> Date {
        self.day
    }

    /// The one after it, of the same day.
    pub(super) const fn next(self) -> Self {
        Self { day: self.day, number: self.number + 1 }
    }

    pub(super) fn path(self, directory: &Path) -> PathBuf {
        directory.join(self.to_string())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.number {
            0 => write!(formatter, "{}{SUFFIX}", self.day),
            number => write!(formatter, "{}.{number}{SUFFIX}", self.day),
        }
    }
}

const SUFFIX: &str = ".jsonl";
const TORN: &str = ".jsonl.torn-";

/// The files of rows, the oldest first.
pub(super) fn segments(directory: &Path) -> Result<Vec<Name>, StoreError> {
    let mut names: Vec<Name> = list(directory)?.iter().filter_map(|file| Name::parse(file)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The ends that were cut off.
pub(super) fn torn_ends(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = list(directory)?;
    files.retain(|file| file.contains(TORN));
    files.sort_unstable();
    Ok(files.iter().map(|file| directory.join(file)).collect())
}

fn list(directory: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(StoreError::io("list", directory))?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// What was read.
#[derive(Debug)]
pub enum Read<'a> {
    /// A row.
    Row(Row<'a>),
    /// A line that is none.
    Fault {
        /// In which file.
        path: &'a Path,
        /// Which line, counted from 1.
        line: u64,
        /// Why not.
        fault: RowFault,
    },
}

/// Reads every row, the oldest file first.
///
/// # Errors
/// If a file can't be read, or what `then` says.
pub fn each_row<E: From<StoreError>>(directory: &Path, mut then: impl FnMut(Read<'_>) -> Result<(), E>) -> Result<(), E> {
    each_whole_line(directory, |path, line, text| match Row::read(text) {
        Ok(row) => then(Read::Row(row)),
        Err(fault) => then(Read::Fault { path, line, fault }),
    })
}

/// Reads every line with its end, the oldest file first. A last line without an end is not there yet, or never will be.
pub(super) fn each_whole_line<E: From<StoreError>>(
    directory: &Path,
    mut then: impl FnMut(&Path, u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for name in segments(directory)? {
        let path = name.path(directory);
        let mut number = 0;
        each_line(&path, |line| {
            number += 1;
            if line.last() == Some(&b'\n') { then(&path, number, line) } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// Lines in all files, if none is shorter than this.
pub(super) fn lines_at_most(directory: &Path, line_bytes: u64) -> Result<usize, StoreError> {
    let bytes: u64 = segments(directory)?.iter().filter_map(|name| name.path(directory).metadata().ok()).map(|file| file.len()).sum();
    Ok(usize::try_from(bytes / line_bytes).unwrap_or(0))
}

/// Reads the rows of a queue as they come, beside whoever writes them.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    lock: Option<Lock>,
    /// How often files had been rewritten when it began.
    rewritten: u64,
    /// Bytes that were read of each file.
    read: BTreeMap<Name, u64>,
}

/// What a [`Reader`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Rows were taken out of the files: from now on it reads from the first one again.
    Restarted,
    /// There may be more.
    Some,
    /// That was all, for now.
    All,
}

impl Reader {
    /// A reader that begins with the first row.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, lock: None, rewritten: 0, read: BTreeMap::new() }
    }

    /// Whether rows were taken out of the files: then it begins anew, and what it has read before may not be there any more.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn begins_anew(&mut self) -> Result<bool, StoreError> {
        let Some(lock) = &self.lock else { return Ok(false) };
        let count = lock.count()?;
        let begins_anew = count != self.rewritten;
        if begins_anew {
            self.rewritten = count;
            self.read.clear();
        }
        Ok(begins_anew)
    }

    /// Begins with the first row again.
    pub fn begin_anew(&mut self) {
        self.read.clear();
    }

    /// Reads on, in order of arrival, through some 256 KiB. Rows that can't be written any more are never among them.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn read_on(&mut self, mut then: impl FnMut(Row<'_>)) -> Result<Progress, StoreError> {
        if self.lock.is_none() && !files::exists(&self.directory)? {
            return Ok(Progress::All);
        }
        let lock = match &mut self.lock {
            Some(lock) => lock,
            lock @ None => lock.insert(Lock::open(&self.directory)?),
        };
        // files that are being rewritten are read when that is done
        let Some(_held) = lock.take_now()? else { return Ok(Progress::All) };
        if self.begins_anew()? {
            return Ok(Progress::Restarted);
        }
        let Self { directory, read, .. } = self;
        let mut left = BUFFER as u64;
        for name in segments(directory)? {
            let path = name.path(directory);
            let from = read.entry(name).or_default();
            let mut file = File::open(&path).map_err(StoreError::io("open", &path))?;
            let length = file.metadata().map_err(StoreError::io("look at", &path))?.len();
            if length <= *from {
                continue;
            }
            file.seek(SeekFrom::Start(*from)).map_err(StoreError::io("read", &path))?;
            let mut reader = BufReader::with_capacity(BUFFER, file);
            let mut line = Vec::new();
            loop {
                line.clear();
                reader.read_until(b'\n', &mut line).map_err(StoreError::io("read", &path))?;
                if line.last() != Some(&b'\n') {
                    break;
                }
                *from += line.len() as u64;
                // what is no row was told when the queue was read
                if let Ok(row) = Row::read(&line) {
                    then(row);
                }
                left = left.saturating_sub(line.len() as u64);
                if left == 0 {
                    return Ok(Progress::Some);
                }
            }
        }
        Ok(Progress::All)
    }
}

fn each_line<E: From<StoreError>>(path: &Path, mut then: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut reader = BufReader::with_capacity(BUFFER, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(StoreError::io("read", path))? == 0 {
            return Ok(());
        }
        then(&line)?;
    }
}

const BUFFER: usize = 1 << 18;

/// Brings a directory in order after a crash: what was cut off is set aside, in files that are returned.
pub(super) fn mend(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    remove_left_over(directory)?;
    segments(directory)?.into_iter().filter_map(|name| set_torn_end_aside(directory, name).transpose()).collect()
}

/// Sets aside what stands behind the last whole line: a crash has cut it off, and nobody was told that it was taken.
fn set_torn_end_aside(directory: &Path, name: Name) -> Result<Option<PathBuf>, StoreError> {
    let path = name.path(directory);
    let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
    let read = StoreError::io("read", &path);
    let (whole, torn) = match torn_end(&mut file) {
        Ok((_, torn)) if torn.is_empty() => return Ok(None),
        Ok(found) => found,
        Err(error) => return Err(read(error)),
    };
    let aside = (1..).map(|n| format!("{name}.torn-{n}")).find(|file| !directory.join(file).exists()).unwrap_or_default();
    // first a copy, then the cut: at any point in between nothing is lost
    files::write_whole(directory, &aside, &torn)?;
    file.set_len(whole).and_then(|()| file.sync_all()).map_err(StoreError::io("cut", &path))?;
    Ok(Some(directory.join(aside)))
}

/// Where the last whole line of a file ends, and what is behind it.
fn torn_end(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let length = file.metadata()?.len();
    let mut from = length;
    let mut end = Vec::new();
    while from > 0 {
        let step = from.min(BUFFER as u64);
        from -= step;
        file.seek(SeekFrom::Start(from))?;
        let mut part = Vec::new();
        io::Read::by_ref(file).take(step).read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            let whole = from + at as u64 + 1;
            part.drain(..=at);
            part.extend(end);
            return Ok((whole, part));
        }
        part.extend(end);
        end = part;
    }
    Ok((0, end))
}

/// A line of a file, whatever it is.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a [u8]);

impl<'a> Line<'a> {
    pub(super) const fn new(line: &'a [u8]) -> Self {
        Self(line)
    }

    pub(super) fn row(&self) -> Option<Row<'_>> {
        Row::read(self.0).ok()
    }

    pub(super) const fn bytes(&self) -> &[u8] {
        self.0
    }

    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.0)
    }
}

/// Takes lines out of every file, torn ends too. `before` is called before the first file is changed. Each file is the old one or the
/// new one after a crash at any point; one that is left empty is removed.
pub(super) fn rewrite(
    directory: &Path,
    mut before: impl FnMut() -> Result<(), StoreError>,
    mut remove: impl FnMut(&Line<'_>) -> bool,
) -> Result<u64, StoreError> {
    remove_left_over(directory)?;
    let segments = segments(directory)?.into_iter().map(|name| name.path(directory));
    let mut removed = 0;
    for path in segments.chain(torn_ends(directory)?) {
        let mut out = 0;
        let mut kept = 0_u64;
        each_line::<StoreError>(&path, |line| {
            if remove(&Line(line)) {
                out += 1
            } else {
                kept += 1
            }
            Ok(())
        })?;
        if out == 0 {
            continue;
        }
        before()?;
        if kept == 0 {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        } else {
            write_without(directory, &path, &mut remove)?;
        }
        removed += out;
    }
    if removed > 0 {
        files::sync_directory(directory)?;
    }
    Ok(removed)
}

fn write_without(directory: &Path, path: &Path, remove: &mut impl FnMut(&Line<'_>) -> bool) -> Result<(), StoreError> {
    let temporary = directory.join(REWRITTEN);
    let written = files::make_anew(directory, &temporary).and_then(|file| {
        let mut file = BufWriter::with_capacity(BUFFER, file);
        each_line(path, |line| {
            if remove(&Line(line)) {
                return Ok(());
            }
            file.write_all(line).map_err(StoreError::io("write", &temporary))
        })?;
        let file = file.into_inner().map_err(|error| StoreError::io("write", &temporary)(error.into_error()))?;
        file.sync_all().map_err(StoreError::io("sync", &temporary))
    });
    let replaced = written.and_then(|()| fs::rename(&temporary, path).map_err(StoreError::io("replace", path)));
    if replaced.is_err() {
        // it holds addresses; and the first error is the one to tell
        fs::remove_file(&temporary).ok();
    }
    replaced
}

/// A crash while a file was rewritten has left a copy, with addresses in it.
fn remove_left_over(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(REWRITTEN);
    if files::exists(&path)? { fs::remove_file(&path).map_err(StoreError::io("remove", &path)) } else { Ok(()) }
}

/// A file that is being made without some lines.
const REWRITTEN: &str = "rewritten.tmp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_age_and_have_one_text() {
        let name = |text: &str| Name::parse(text);
        let first = Name::of(UnixTime::from_secs(1_800_000_000));
        assert_eq!(first.to_string(), "2027-01-15.jsonl");
        assert_eq!(name("2027-01-15.jsonl"), Some(first));
        assert_eq!(name("2027-01-15.1.jsonl"), Some(first.next()));
        assert!(
            first < first.next()
                && first.next() < name("2027-01-15.10.jsonl").unwrap()
                && name("2027-01-15.10.jsonl") < name("2027-01-16.jsonl")
        );
        for other in
            ["lock", "2027-01-15.jsonl.torn-1", "2027-01-15.0.jsonl", "2027-1-15.jsonl", "2027-01-15.01.jsonl", ".2027-01-15.jsonl.tmp"]
        {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn the_end_behind_the_last_whole_line_is_found_however_long_it_is() {
        let scratch = crate::store::scratch::Scratch::new();
        let path = scratch.path().join("file");
        for (whole, torn) in [(0, 0), (0, 5), (10, 0), (10, 5), (10, 3 * BUFFER), (2 * BUFFER, BUFFER)] {
            let mut content = vec![b'a'; whole];
            if let Some(last) = content.last_mut() {
                *last = b'\n';
            }
            content.extend(vec![b'b'; torn]);
            fs::write(&path, &content).unwrap();
            let (end, rest) = torn_end(&mut File::open(&path).unwrap()).unwrap();
            assert_eq!((end, rest.len()), (whole as u64, torn));
            assert!(rest.iter().all(|&byte| byte == b'b'));
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_begins_anew_when_rows_were_taken_out() {
        use super::super::{EmailQueue, Forget, directory_of, forget};
        use crate::rules::keyring::{Key, Keyring, SiteSecret};
        use crate::rules::token::VisitorId;
        let scratch = crate::store::scratch::Scratch::new();
        let mut reader = Reader::new(directory_of(scratch.path()));
        let read_on = |reader: &mut Reader| {
            let mut rows = Vec::new();
            let progress = reader.read_on(|row| rows.push(row.id.0)).unwrap();
            (progress, rows)
        };
        assert_eq!(read_on(&mut reader), (Progress::All, vec![]));
        let keys = Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(UnixTime::from_secs(0), [2; 32])]).unwrap();
        let (mut queue, _) = EmailQueue::open(scratch.path(), keys.address_hash()).unwrap();
        let mut add = |n: u64, secs: u64| {
            let (id, at) = (VisitorId(n), UnixTime::from_secs(1_800_000_000 + secs));
            let path = Some("x".repeat(1000).into());
            let row = Row { id, at, email: format!("{n}@example.org").into(), language: None, path, ticket: id, client: 1 };
            queue.add(&[row]).unwrap();
        };
        add(1, 0);
        add(2, 86_400);
        assert_eq!(read_on(&mut reader), (Progress::All, vec![1, 2]));
        // a clock that was set back
        add(3, 1);
        assert_eq!(read_on(&mut reader), (Progress::All, vec![3]));
        let wanted = [VisitorId(1)].into();
        assert_eq!(forget(scratch.path(), Forget::Rows(&wanted)).unwrap(), 1);
        assert_eq!(read_on(&mut reader), (Progress::Restarted, vec![]));
        assert_eq!(read_on(&mut reader), (Progress::All, vec![3, 2]));
        for n in 10..400 {
            add(n, 86_400);
        }
        let (progress, first) = read_on(&mut reader);
        assert_eq!(progress, Progress::Some);
        let (progress, rest) = read_on(&mut reader);
        assert_eq!(progress, Progress::All);
        assert_eq!([first, rest].concat(), (10..400).collect::<Vec<_>>());
        // a line that is being written
        let path = directory_of(scratch.path()).join("2027-01-16.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"v\":1").unwrap();
        assert_eq!(read_on(&mut reader), (Progress::All, vec![]));
    }
}
