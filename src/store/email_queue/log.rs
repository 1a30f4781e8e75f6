//! An append-only log in files, one a day: what both the queue and its ledger are written with.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::super::{StoreError, files};
use super::segments::{Name, segments};
use crate::rules::time::UnixTime;

/// The end of a log.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    current: Option<Current>,
    /// A file that is not written to any more, since nobody knows what of it is on disk.
    abandoned: Option<Name>,
}

/// The file that is appended to.
#[derive(Debug)]
struct Current {
    name: Name,
    path: PathBuf,
    file: File,
    /// Bytes of it that are on disk.
    good: u64,
}

impl Log {
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self { directory, current: None, abandoned: None }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Files have been replaced: the next line goes to the end of what is there.
    pub(super) fn reopen(&mut self) {
        self.current = None;
    }

    /// Writes lines, and waits until they are on disk.
    ///
    /// # Errors
    /// If they can't be written. None of them is in the log then.
    pub(super) fn append(&mut self, text: &[u8], at: UnixTime) -> Result<(), StoreError> {
        let day = Name::of(at);
        let mut current = match self.current.take() {
            Some(current) if current.name.day() == day.day() => current,
            Some(_) | None => self.open_last_of(day)?,
        };
        let written = current.file.write_all(text).map_err(StoreError::io("write", &current.path));
        match written.and_then(|()| current.file.sync_data().map_err(StoreError::io("sync", &current.path))) {
            Ok(()) => {
                current.good += text.len() as u64;
                self.current = Some(current);
                Ok(())
            }
            Err(error) => {
                // what is there of them goes, if it can; after a failed sync nobody knows what is on disk, also of what is written later
                let cut = current.file.set_len(current.good);
                if cut.is_ok() && matches!(error, StoreError::Io { doing: "write", .. }) {
                    self.current = Some(current);
                } else {
                    self.abandoned = Some(current.name);
                }
                Err(error)
            }
        }
    }

    /// The last file of a day that can be written to, made if there is none.
    fn open_last_of(&self, day: Name) -> Result<Current, StoreError> {
        let last = segments(&self.directory)?.into_iter().rfind(|name| name.day() == day.day()).unwrap_or(day);
        let name = if self.abandoned == Some(last) { last.next() } else { last };
        let path = name.path(&self.directory);
        let file = files::open_or_make(&self.directory, &path)?;
        let good = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        Ok(Current { name, path, file, good })
    }

    /// Another file in the place of the one that is written to.
    #[cfg(test)]
    pub(super) fn put_in_place(&mut self, other: impl FnOnce(File) -> File) {
        let current = self.current.take().unwrap();
        self.current = Some(Current { file: other(current.file), name: current.name, path: current.path, good: current.good });
    }
}
