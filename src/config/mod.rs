//! gate.yaml → [`Policy`]. Nothing leaves this room but a policy that holds in every respect, or every fault of the file at once; and where
//! the operator comes in, which is needed of a faulty file, too ([`admin`]).
//!
//! The file is read twice. `locate.rs` finds where everything stands and refuses what would cost or mislead the second reader;
//! `mirror.rs` reads what was written, without judgement; `validate.rs` names every key with its default and bound and builds the
//! policy. Nothing here looks at the files that gate.yaml names (keys, template, tokens), and no value that may hold a secret is
//! part of a message.

mod address;
mod bounds;
mod effective;
mod locate;
mod mirror;
mod problem;
mod section;
mod validate;
mod value;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::rules::policy::{Admin, Policy};

use locate::Places;
use mirror::Written;
use section::Reading;

pub use effective::effective;
pub use problem::{Errors, Place, Problem};

/// The most that a gate.yaml may hold, in bytes: a thousand times what one needs.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads a file. Relative paths in it are taken from its directory.
///
/// # Errors
/// Why it can't be read, or every fault in it.
pub fn load(path: &Path) -> Result<Policy, Errors> {
    let file = path.display().to_string();
    parse(&text(path, &file)?, &file, directory(path))
}

/// `admin` of a file, and what is wrong with that file. Of what can't be read of it, the defaults: who asks a gate that runs must find it
/// while somebody mends its file, since it serves on.
#[must_use]
pub fn admin(path: &Path) -> (Admin, Option<Errors>) {
    let file = path.display().to_string();
    let (places, written, unreadable) = match text(path, &file).and_then(|text| read(&text, &file)) {
        Ok((places, written)) => (places, written, None),
        Err(errors) => (Places::default(), Written::Null, Some(errors)),
    };
    let mut reading = Reading::new(&file, places);
    let admin = validate::sections(&mut reading, &written, directory(path)).admin;
    (admin, unreadable.or_else(|| reading.finish().err()))
}

/// Reads the text of a file. `file` is the name that errors show; relative paths in the text are taken from `base_dir`.
///
/// # Errors
/// Every fault in it.
pub fn parse(text: &str, file: &str, base_dir: &Path) -> Result<Policy, Errors> {
    let (places, written) = read(text, file)?;
    validate::policy(Reading::new(file, places), &written, base_dir)
}

/// The keys that differ and that a running gate can't follow, each as `listen.http: A → B needs a restart`.
#[must_use]
pub fn needs_restart(old: &Policy, new: &Policy) -> Vec<String> {
    let workers = |policy: &Policy| policy.listen.workers.map_or_else(|| "auto".to_owned(), |count| count.to_string());
    let https = |policy: &Policy| policy.listen.https.as_ref().map_or_else(|| "none".to_owned(), |https| https.address.to_string());
    [
        ("listen.http", old.listen.http.to_string(), new.listen.http.to_string()),
        ("listen.https.address", https(old), https(new)),
        ("listen.workers", workers(old), workers(new)),
        ("admin.listen", old.admin.listen.to_string(), new.admin.listen.to_string()),
        ("data", old.data.display().to_string(), new.data.display().to_string()),
        ("log.format", old.log.format.name().to_owned(), new.log.format.name().to_owned()),
    ]
    .into_iter()
    .filter(|(_, old, new)| old != new)
    .map(|(key, old, new)| format!("{key}: {old} → {new} needs a restart"))
    .collect()
}

/// Where everything stands, and what it is.
fn read(text: &str, file: &str) -> Result<(Places, Written), Errors> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Errors::one(file, None, String::new(), format!("{} bytes are above {FILE_BYTES_MAX}", text.len())));
    }
    // some editors begin a file with a byte order mark
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let places = locate::places(text).map_err(|(place, reason)| Errors::one(file, place, String::new(), reason))?;
    let Some(places) = places else { return Ok((Places::default(), Written::Null)) };
    let written = mirror::read(text).map_err(|error| Errors::one(file, error.place.or(Some(Place::START)), error.path, error.text))?;
    Ok((places, written))
}

/// What is written in a file, which errors call `file`.
fn text(path: &Path, file: &str) -> Result<String, Errors> {
    let bytes = read_capped(path).map_err(|error| Errors::one(file, None, String::new(), format!("can't be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let place = place_of_byte(error.as_bytes(), error.utf8_error().valid_up_to());
        Errors::one(file, Some(place), String::new(), "is not UTF-8".to_owned())
    })
}

/// What relative paths in a file are taken from.
fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

fn read_capped(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // one byte more than is taken, so that a file that is too large is seen to be
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn place_of_byte(bytes: &[u8], at: usize) -> Place {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let (line, last) = before.split('\n').enumerate().last().unwrap_or_default();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Place { line: count(line + 1), column: count(last.chars().count() + 1) }
}
