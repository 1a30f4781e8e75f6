//! How files under `data/` are made, locked and replaced. Private to their owner, whole or not there, on disk before anyone is told.
//!
//! The command line may be run by root beside a gate with a user of its own. What it makes is given to the owner of the directory, or the gate
//! could not read it; and since that owner could have put a link there for root to follow, only a file that was just made is given
//! away, and a link in the place of a lock or a list is refused.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::StoreError;

/// Replaces a file. After a crash at any point there is the old one or the new one, whole.
pub(super) fn write_whole(directory: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.tmp"));
    let written =
        write_new(directory, &temporary, content).and_then(|()| fs::rename(&temporary, &path).map_err(StoreError::io("replace", &path)));
    if let Err(error) = written {
        // the first error is the one to tell
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    sync_directory(directory)
}

/// Makes a file for writing, in the place of what a crash may have left there.
pub(super) fn make_anew(directory: &Path, path: &Path) -> Result<File, StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::io("remove", path)(error)),
        // made anew, so that it has our permissions
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    let file = opened.map_err(StoreError::io("make", path))?;
    give_to_owner_of(directory, &file, path)?;
    Ok(file)
}

fn write_new(directory: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut file = make_anew(directory, path)?;
    file.write_all(content).map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

/// Opens a file for reading and appending, and makes it if there is none.
pub(super) fn open_or_make(directory: &Path, path: &Path) -> Result<File, StoreError> {
    let no_links = OFlags::NOFOLLOW.bits().cast_signed();
    match OpenOptions::new().read(true).append(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(file) => {
            give_to_owner_of(directory, &file, path)?;
            sync_directory(directory)?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().read(true).append(true).custom_flags(no_links).open(path).map_err(StoreError::io("open", path))
        }
        Err(error) => Err(StoreError::io("make", path)(error)),
    }
}

/// Takes the lock, until the file is closed. `false` if another process has it.
pub(super) fn lock_now(lock: &File, path: &Path) -> Result<bool, StoreError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(StoreError::io("lock", path)(errno.into())),
    }
}

/// Makes a directory within `parent`, if there is none.
pub(super) fn make_directory_in(parent: &Path, path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => {
            let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
            let made = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(StoreError::io("open", path))?;
            give_to_owner_of(parent, &made, path)?;
            sync_directory(parent)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("make", path)(error)),
    }
}

/// Makes a directory and those above it, where there are none.
pub(super) fn make_directories(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(StoreError::io("make", path))
}

/// Only for what has just been made.
fn give_to_owner_of(directory: &Path, made: &File, path: &Path) -> Result<(), StoreError> {
    let owner = fs::metadata(directory).map_err(StoreError::io("look at", directory))?;
    let ours = made.metadata().map_err(StoreError::io("look at", path))?;
    if owner.uid() == ours.uid() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid())).map_err(StoreError::io("change the owner of", path))
}

/// Without it, a name made or changed in a directory may be lost in a crash although its file was synced.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io("sync", path))
}

/// The rest of a file; `None` if that is more than `bytes_max`.
pub(super) fn read_bounded(file: &File, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut content)?;
    Ok(u64::try_from(read).is_ok_and(|read| read <= bytes_max).then_some(content))
}

/// Whether a line appended to this file would be a line of its own.
pub(super) fn ends_with_newline(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

/// Refuses what others than its owner may use. `fix` is the command that closes it, without the path.
pub(super) fn check_private(path: &Path, found: &fs::Metadata, fix: &'static str) -> Result<(), StoreError> {
    let mode = found.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(StoreError::Exposed { path: path.to_owned(), mode, fix }) }
}

/// Whether there is anything of this name.
pub(super) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(StoreError::io("look at", path))
}

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
