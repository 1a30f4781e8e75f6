//! The directory of `invitations.spool`: one file a message, for those who send with tools of their own.
//!
//! Always holds: a file whose name does not begin with a dot is whole and on disk, and a message that is written again takes the place of
//! itself. Who has sent one takes its file away; nothing here looks at what is there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::message::Message;

/// Makes the directory, if there is none, within one that is there.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        other => other,
    }
}

/// Writes `<id>.eml`. Blocks on the disk.
pub(super) fn write(directory: &Path, message: &Message) -> io::Result<()> {
    make(directory)?;
    let name = format!("{}.eml", message.id);
    let temporary = directory.join(format!(".{name}.tmp"));
    let written = write_new(&temporary, &message.bytes).and_then(|()| fs::rename(&temporary, directory.join(name)));
    if let Err(error) = written {
        // the first error is the one to tell
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    // without it the name may be lost in a crash, although the file was synced
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        // what a crash has left is made anew, so that it has our permissions
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
