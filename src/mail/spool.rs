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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::message::tests::message_to;
    use super::*;
    use crate::store::scratch::Scratch;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_message_is_one_file_and_takes_the_place_of_itself() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("outgoing");
        let first = message_to("ann@example.org", 0xa);
        write(&directory, &first).unwrap();
        write(&directory, &message_to("bob@example.org", 0xb)).unwrap();
        assert_eq!(names(&directory), ["000000000000000a.eml", "000000000000000b.eml"]);
        assert_eq!((mode(&directory), mode(&directory.join("000000000000000a.eml"))), (0o700, 0o600));
        assert_eq!(fs::read(directory.join("000000000000000a.eml")).unwrap(), first.bytes);
        let again = message_to("cleo@example.org", 0xa);
        // what a crash has left is in nobody's way
        fs::write(directory.join(".000000000000000a.eml.tmp"), "half").unwrap();
        write(&directory, &again).unwrap();
        assert_eq!(fs::read(directory.join("000000000000000a.eml")).unwrap(), again.bytes);
        assert_eq!(names(&directory).len(), 2);
    }

    #[test]
    fn what_can_not_be_written_leaves_nothing() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("outgoing");
        let message = message_to("ann@example.org", 1);
        // a directory in the place of the file
        fs::create_dir_all(directory.join("0000000000000001.eml")).unwrap();
        write(&directory, &message).unwrap_err();
        assert_eq!(names(&directory), ["0000000000000001.eml"]);
        fs::write(scratch.path().join("file"), "").unwrap();
        assert_eq!(make(&scratch.path().join("file")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(make(&scratch.path().join("no/outgoing")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(write(&scratch.path().join("file"), &message).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
}
