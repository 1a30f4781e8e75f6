//! `tidegate queue status|export|forget`. Works on the files, beside a gate that serves as well as without one.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::keys::date;
use crate::rules::email::Address;
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;
use crate::store::email_queue::{self, Forget, Read, Row, directory_of, each_row, torn};

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Comma-separated, with a line of names.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// Prints how many rows there are, and since when; then what is wrong with the files, if anything is.
///
/// # Errors
/// If the files can't be read, or the output not written.
pub(super) fn status(data: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let directory = directory_of(data);
    if !directory.exists() {
        writeln!(out, "0 addresses: {} does not exist yet", directory.display())?;
        return Ok(());
    }
    let (mut rows, mut faults) = (0_u64, Vec::new());
    let mut span: Option<(UnixTime, UnixTime)> = None;
    each_row::<anyhow::Error>(&directory, |read| {
        match read {
            Read::Row(row) => {
                rows += 1;
                span = Some(span.map_or((row.at, row.at), |(first, last)| (first.min(row.at), last.max(row.at))));
            }
            Read::Fault { path, line, fault } => faults.push(format!("{}:{line}: {fault}", path.display())),
        }
        Ok(())
    })?;
    let addresses = if rows == 1 { "address" } else { "addresses" };
    match span {
        Some((first, last)) => writeln!(out, "{rows} {addresses}, taken from {} to {}", date(first)?, date(last)?)?,
        None => writeln!(out, "{rows} {addresses}")?,
    }
    for fault in faults {
        writeln!(out, "{fault}: left as it is")?;
    }
    for path in torn(data)? {
        writeln!(out, "{}: cut off by a crash before anyone was told that it was taken", path.display())?;
    }
    Ok(())
}

/// Prints every row, in order of arrival.
///
/// # Errors
/// If the files can't be read, or the output not written.
pub(super) fn export(data: &Path, format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    match format {
        Format::Jsonl => {
            let mut line = Vec::new();
            each(data, |row| {
                line.clear();
                row.write(&mut line)?;
                Ok(out.write_all(&line)?)
            })
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(["id", "at", "email", "language", "path"])?;
            each(data, |row| {
                let (id, at) = (row.id.to_string(), date(row.at)?.to_string());
                let text = |text: &Option<Cow<'_, str>>| text.as_deref().map_or(Cow::Borrowed(""), cell).into_owned();
                csv.write_record([&id, &at, &*cell(&row.email), &text(&row.language), &text(&row.path)])?;
                Ok(())
            })?;
            Ok(csv.flush()?)
        }
    }
}

fn each(data: &Path, mut then: impl FnMut(&Row<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let directory = directory_of(data);
    if !directory.exists() {
        return Ok(());
    }
    each_row(&directory, |read| if let Read::Row(row) = read { then(&row) } else { Ok(()) })
}

/// Spreadsheets take what begins so for a formula, and visitors have written it: an apostrophe makes it text.
fn cell(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@']) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// Erases an address, or all that one client has filled in.
///
/// # Errors
/// If it is no address, a file can't be rewritten, or the output not written.
pub(super) fn forget(data: &Path, wanted: &Wanted, out: &mut impl Write) -> anyhow::Result<()> {
    let rows = match (&wanted.email, wanted.client) {
        (Some(email), _) => {
            let address = Address::parse(email).with_context(|| format!("{email:?} is no email address"))?;
            email_queue::forget(data, Forget::Address(&address))?
        }
        (None, Some(client)) => email_queue::forget(data, Forget::Client(client.0))?,
        // clap asks for one of them
        (None, None) => 0,
    };
    let rows_are = if rows == 1 { "row is" } else { "rows are" };
    writeln!(out, "{rows} {rows_are} erased")?;
    Ok(())
}

/// What is to be erased.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Wanted {
    /// The address
    email: Option<String>,
    /// All that came from one network: `client` of one of its rows
    #[arg(long, value_name = "HASH")]
    client: Option<VisitorId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::keyring::{Key, Keyring, SiteSecret};
    use crate::store::email_queue::EmailQueue;
    use crate::store::scratch::Scratch;

    fn queue(data: &Path, emails: &[&str]) {
        let keys = Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(UnixTime::from_secs(0), [2; 32])]).unwrap();
        let (mut queue, _) = EmailQueue::open(data, keys.address_hash()).unwrap();
        for (email, n) in emails.iter().zip(1..) {
            let row = Row {
                id: VisitorId(n),
                at: UnixTime::from_secs(1_800_000_000 + n),
                email: Cow::Borrowed(email),
                language: None,
                path: Some("/a?b=\"c\",d".into()),
                ticket: VisitorId(7),
                client: 8,
            };
            queue.add(&[row]).unwrap();
        }
    }

    fn address(email: &str) -> Wanted {
        Wanted { email: Some(email.to_owned()), client: None }
    }

    fn printed(command: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<()>) -> String {
        let mut out = Vec::new();
        command(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_gate_that_has_taken_nothing_yet_says_so() {
        let scratch = Scratch::new();
        assert!(printed(|out| status(scratch.path(), out)).starts_with("0 addresses: "));
        assert_eq!(printed(|out| export(scratch.path(), Format::Csv, out)), "id,at,email,language,path\n");
        assert_eq!(printed(|out| export(scratch.path(), Format::Jsonl, out)), "");
        assert_eq!(printed(|out| forget(scratch.path(), &address("ann@example.org"), out)), "0 rows are erased\n");
    }

    #[test]
    fn rows_are_counted_exported_and_forgotten() {
        let scratch = Scratch::new();
        queue(scratch.path(), &["ann@example.org", "=cmd@example.org", "eve@example.org"]);
        assert_eq!(printed(|out| status(scratch.path(), out)), "3 addresses, taken from 2027-01-15T08:00:01Z to 2027-01-15T08:00:03Z\n");
        assert_eq!(
            printed(|out| export(scratch.path(), Format::Csv, out)),
            "id,at,email,language,path\n\
             0000000000000001,2027-01-15T08:00:01Z,ann@example.org,,\"/a?b=\"\"c\"\",d\"\n\
             0000000000000002,2027-01-15T08:00:02Z,'=cmd@example.org,,\"/a?b=\"\"c\"\",d\"\n\
             0000000000000003,2027-01-15T08:00:03Z,eve@example.org,,\"/a?b=\"\"c\"\",d\"\n"
        );
        let file = std::fs::read_to_string(directory_of(scratch.path()).join("2027-01-15.jsonl")).unwrap();
        assert_eq!(printed(|out| export(scratch.path(), Format::Jsonl, out)), file);
        assert_eq!(printed(|out| forget(scratch.path(), &address(" EVE@example.org"), out)), "1 row is erased\n");
        assert_eq!(printed(|out| export(scratch.path(), Format::Jsonl, out)), file[..file.rfind("{").unwrap()]);
        let client = Wanted { email: None, client: Some(VisitorId(8)) };
        assert_eq!(printed(|out| forget(scratch.path(), &client, out)), "2 rows are erased\n");
        let error = forget(scratch.path(), &address("eve"), &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains("\"eve\" is no email address"), "{error:#}");
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told_with_its_place() {
        let scratch = Scratch::new();
        queue(scratch.path(), &["ann@example.org"]);
        let file = directory_of(scratch.path()).join("2027-01-15.jsonl");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}?\n{{\"v\":1")).unwrap();
        queue(scratch.path(), &[]);
        let told = printed(|out| status(scratch.path(), out));
        assert!(told.starts_with("1 address, ") && told.contains("2027-01-15.jsonl:2: not a row: left as it is"), "{told}");
        assert!(told.contains("2027-01-15.jsonl.torn-1: cut off by a crash"), "{told}");
    }
}
