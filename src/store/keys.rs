//! The keys under `data/keys`: read, made, rotated, retired, listed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::files::{check_private, exists, lock_now, make_directory_in, open_or_make, read_bounded, sync_directory, write_whole};
use super::{StoreError, timestamp};
use crate::rules::keyring::{Key, KeyId, Keyring, KeyringError, SiteSecret};
use crate::rules::time::UnixTime;

/// The keys; makes them if there are none.
pub(super) fn load_or_make(data: &Path, now: UnixTime) -> Result<Keyring, StoreError> {
    let directory = data.join(KEYS);
    make_directory_in(data, &directory)?;
    check_directory(&directory)?;
    if key_files(&directory)?.is_empty() {
        let _lock = lock_keys(&directory)?;
        if !exists(&directory.join(SITE))? {
            write_site(&directory)?;
        }
        // the site first: a crash in between leaves one without keys, which is made whole here, and never keys without a site
        if key_files(&directory)?.is_empty() {
            write_generation(&directory, now)?;
        }
    }
    load_keys(data)
}

/// The keys, without making any: for the command line, and for a gate that reads them again. Needs no lock: a generation that is retired
/// while this reads is left out.
///
/// # Errors
/// If there are none; if a file can't be read, is not what it should be, or is open to others.
pub fn load_keys(data: &Path) -> Result<Keyring, StoreError> {
    let directory = existing(data)?;
    let files = key_files(&directory)?;
    let site = directory.join(SITE);
    let Some(secret) = read_site(&site)? else {
        return Err(StoreError::NoSite { path: site });
    };
    let mut keys = Vec::with_capacity(files.len());
    for file in &files {
        keys.extend(read_key(file)?);
    }
    Keyring::new(&secret, &keys).map_err(|source| StoreError::Keyring { path: directory, source })
}

/// A number that changes when a key file does, for a gate to poll: of names, lengths, inodes and times, without reading a file. Means
/// something within one process only. Take it before the keys are loaded: a change in between is then seen the next time.
///
/// # Errors
/// If the directory can't be read.
pub fn keys_fingerprint(data: &Path) -> Result<u64, StoreError> {
    let directory = data.join(KEYS);
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(StoreError::io("list", &directory))? {
        let entry = entry.map_err(StoreError::io("list", &directory))?;
        let name = entry.file_name();
        if name != SITE && !is_key_name(&name) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(found) => files.push((name, found.len(), found.ino(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("look at", &entry.path())(error)),
        }
    }
    files.sort_unstable();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    Ok(hasher.finish())
}

/// Makes a new generation, which signs from now on; all others go on to verify.
///
/// # Errors
/// If there are no keys yet, as many as a ring takes, or it can't be written.
pub fn rotate_keys(data: &Path, now: UnixTime) -> Result<KeyId, StoreError> {
    let directory = existing(data)?;
    let _lock = lock_keys(&directory)?;
    let count = key_files(&directory)?.len();
    if count >= Keyring::KEYS_MAX {
        return Err(StoreError::Keyring { path: directory, source: KeyringError::TooMany { count: count + 1 } });
    }
    write_generation(&directory, now)
}

/// Moves a generation to `retired/`: what it has signed no longer verifies. It is kept as evidence, and moving it back undoes it.
///
/// # Errors
/// If it is the one that signs, there is no such one, or it can't be moved.
pub fn retire_key(data: &Path, id: KeyId) -> Result<(), StoreError> {
    let directory = existing(data)?;
    let _lock = lock_keys(&directory)?;
    let files = key_files(&directory)?;
    let retired = directory.join(RETIRED);
    if files.last().is_some_and(|newest| newest.id == id) {
        return Err(StoreError::Signs { path: directory, id });
    }
    let Some(file) = files.iter().find(|file| file.id == id) else {
        if key_files(&retired)?.iter().any(|file| file.id == id) {
            return Err(StoreError::AlreadyRetired { path: retired, id });
        }
        return Err(StoreError::NoSuchKey { path: directory, id });
    };
    make_directory_in(&directory, &retired)?;
    let to = retired.join(file.name());
    fs::rename(&file.path, &to).map_err(StoreError::io("move", &file.path))?;
    sync_directory(&retired)?;
    sync_directory(&directory)
}

/// All generations, the oldest first.
///
/// # Errors
/// If there are none, or a file can't be read or is not what it should be.
pub fn list_keys(data: &Path) -> Result<Vec<ListedKey>, StoreError> {
    let directory = existing(data)?;
    let live = key_files(&directory)?;
    let newest = live.last().map(|file| file.id);
    let retired = key_files(&directory.join(RETIRED))?;
    let mut files: Vec<(&KeyFile, bool)> = live.iter().map(|file| (file, false)).chain(retired.iter().map(|file| (file, true))).collect();
    files.sort_by_key(|(file, _)| (file.generation, file.id));
    let mut listed = Vec::with_capacity(files.len());
    for (file, retired) in files {
        let status = match (retired, Some(file.id) == newest) {
            (true, _) => KeyStatus::Retired,
            (false, true) => KeyStatus::Signs,
            (false, false) => KeyStatus::Verifies,
        };
        listed.extend(read_key(file)?.map(|key| ListedKey { id: key.id(), created: key.created(), status }));
    }
    Ok(listed)
}

/// A generation, and what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// Its name.
    pub id: KeyId,
    /// When it was made.
    pub created: UnixTime,
    /// What it does.
    pub status: KeyStatus,
}

/// What a generation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// The newest: signs and verifies.
    Signs,
    /// Verifies.
    Verifies,
    /// Neither.
    Retired,
}

/// What is wrong with a key file. Never quotes it: that would put a secret into a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// A name that doesn't say generation and id.
    #[error("expected a name such as 000001-1a2b3c4d.key")]
    Name,
    /// Longer than any key.
    #[error("longer than {KEY_BYTES_MAX} bytes")]
    TooLong,
    /// Not the JSON that was expected.
    #[error("line {line} column {column}: expected one JSON object of `id`, `created` (but for `site`) and `secret`")]
    Json {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// Not a time.
    #[error("`created` is not a time such as 2026-01-31T12:00:00Z")]
    Created,
    /// Not 32 bytes.
    #[error("`secret` is not 32 bytes in base64url without padding (43 characters)")]
    Secret,
    /// The id belongs to another secret.
    #[error("`id`, the name of the file and `secret` don't belong together: it was copied wrongly")]
    Id,
}

/// One file of `keys/` or `keys/retired/`.
#[derive(Debug)]
struct KeyFile {
    generation: u32,
    id: KeyId,
    path: PathBuf,
}

impl KeyFile {
    fn name(&self) -> String {
        key_name(self.generation, self.id)
    }
}

/// The directory of keys, with keys in it and closed to others.
fn existing(data: &Path) -> Result<PathBuf, StoreError> {
    let directory = data.join(KEYS);
    if key_files(&directory)?.is_empty() {
        return Err(StoreError::NoKeys { path: directory });
    }
    check_directory(&directory)?;
    Ok(directory)
}

fn check_directory(directory: &Path) -> Result<(), StoreError> {
    let found = fs::metadata(directory).map_err(StoreError::io("look at", directory))?;
    check_private(directory, &found, "chmod 700")
}

/// The generations in a directory, the oldest first; none if there is no directory.
fn key_files(directory: &Path) -> Result<Vec<KeyFile>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::io("list", directory)(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", directory))?;
        let name = entry.file_name();
        if !is_key_name(&name) {
            continue;
        }
        // a key that is misnamed and silently left out would end sessions
        let Some((generation, id)) = name.to_str().and_then(parse_key_name) else {
            return Err(StoreError::KeyFile { path: entry.path(), source: KeyFault::Name });
        };
        files.push(KeyFile { generation, id, path: entry.path() });
    }
    files.sort_by_key(|file| (file.generation, file.id));
    Ok(files)
}

fn key_name(generation: u32, id: KeyId) -> String {
    format!("{generation:06}-{id}{KEY_SUFFIX}")
}

/// Neither a half-written file nor what an editor or a file manager leaves behind.
fn is_key_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(KEY_SUFFIX) && !name.starts_with('.'))
}

fn parse_key_name(name: &str) -> Option<(u32, KeyId)> {
    let (generation, id) = name.strip_suffix(KEY_SUFFIX)?.split_once('-')?;
    let (generation, id) = (generation.parse().ok()?, id.parse().ok()?);
    // read back, so that there is one name for a generation and names sort as numbers do
    (name == key_name(generation, id) && generation <= GENERATION_MAX).then_some((generation, id))
}

/// `None` if it has been retired since it was listed.
fn read_key(file: &KeyFile) -> Result<Option<Key>, StoreError> {
    let Some(text) = read_secret_file::<KeyText>(&file.path)? else { return Ok(None) };
    let fault = |source| StoreError::KeyFile { path: file.path.clone(), source };
    let created = text.created.parse::<jiff::Timestamp>().map_err(|_| fault(KeyFault::Created))?;
    let created = u64::try_from(created.as_millisecond()).map_err(|_| fault(KeyFault::Created))?;
    let key = Key::new(UnixTime::from_millis(created), parse_secret(&text.secret).ok_or_else(|| fault(KeyFault::Secret))?);
    if text.id != file.id.to_string() || key.id() != file.id {
        return Err(fault(KeyFault::Id));
    }
    Ok(Some(key))
}

fn read_site(path: &Path) -> Result<Option<SiteSecret>, StoreError> {
    let Some(text) = read_secret_file::<SiteText>(path)? else { return Ok(None) };
    let fault = |source| StoreError::KeyFile { path: path.to_owned(), source };
    let site = SiteSecret::new(parse_secret(&text.secret).ok_or_else(|| fault(KeyFault::Secret))?);
    if text.id != site_id_text(&site) {
        return Err(fault(KeyFault::Id));
    }
    Ok(Some(site))
}

/// `None` if there is no such file.
fn read_secret_file<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    // asked of the open file, not of the name, which may have changed hands since
    let found = file.metadata().map_err(StoreError::io("look at", path))?;
    check_private(path, &found, "chmod 600")?;
    let content = read_bounded(&file, KEY_BYTES_MAX).map_err(StoreError::io("read", path))?;
    let content = content.ok_or_else(|| StoreError::KeyFile { path: path.to_owned(), source: KeyFault::TooLong })?;
    serde_json::from_slice(&content).map(Some).map_err(|error| StoreError::KeyFile {
        path: path.to_owned(),
        // where and not what: serde quotes the value that it didn't expect
        source: KeyFault::Json { line: error.line(), column: error.column() },
    })
}

/// The next generation, on disk when this returns. The caller holds the lock.
fn write_generation(directory: &Path, now: UnixTime) -> Result<KeyId, StoreError> {
    let newest = |files: Vec<KeyFile>| files.last().map_or(0, |file| file.generation);
    let generation = newest(key_files(directory)?).max(newest(key_files(&directory.join(RETIRED))?)) + 1;
    let secret = random_secret(directory)?;
    let key = Key::new(now, secret);
    let name = key_name(generation, key.id());
    let path = directory.join(&name);
    if generation > GENERATION_MAX {
        return Err(StoreError::KeyFile { path, source: KeyFault::Name });
    }
    let text = KeyText { id: key.id().to_string(), created: timestamp(now, &path)?, secret: URL_SAFE_NO_PAD.encode(secret) };
    write_json(directory, &name, &text)?;
    Ok(key.id())
}

fn write_site(directory: &Path) -> Result<(), StoreError> {
    let secret = random_secret(directory)?;
    let text = SiteText { id: site_id_text(&SiteSecret::new(secret)), secret: URL_SAFE_NO_PAD.encode(secret) };
    write_json(directory, SITE, &text)
}

fn write_json<T: Serialize>(directory: &Path, name: &str, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec(value).map_err(|source| StoreError::Encode { path: directory.join(name), source })?;
    text.push(b'\n');
    write_whole(directory, name, &text)
}

fn random_secret(directory: &Path) -> Result<[u8; 32], StoreError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|source| StoreError::Randomness { path: directory.to_owned(), source })?;
    Ok(secret)
}

fn parse_secret(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn site_id_text(site: &SiteSecret) -> String {
    URL_SAFE_NO_PAD.encode(site.id())
}

/// `None` if another process holds the lock.
fn lock_keys(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let lock = open_or_make(directory, &path)?;
    // not waited for: a change of keys takes milliseconds, and a command that hangs is worse than one to repeat
    if lock_now(&lock, &path)? { Ok(lock) } else { Err(StoreError::KeysBusy { path }) }
}

/// A generation as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: String,
    created: String,
    secret: String,
}

/// The site secret as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteText {
    id: String,
    secret: String,
}

const KEYS: &str = "keys";
const SITE: &str = "site";
const RETIRED: &str = "retired";
const KEY_SUFFIX: &str = ".key";
/// Six digits, so that names sort as numbers do.
const GENERATION_MAX: u32 = 999_999;
/// A key takes some 110 bytes; the rest is for a hand that writes JSON over several lines.
const KEY_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::super::Store;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::rules::keyring::Rejected;
    use crate::rules::token::{Ticket, VisitorId};

    const START: UnixTime = UnixTime::from_secs(1_800_000_000);
    const LATER: UnixTime = UnixTime::from_secs(1_800_003_600);

    fn started() -> (Scratch, Keyring) {
        let scratch = Scratch::new();
        let ring = Store::open(scratch.path()).unwrap().keys(START).unwrap();
        (scratch, ring)
    }

    fn ticket() -> Ticket {
        Ticket { id: VisitorId(7), issued: START, seen: LATER, won: false }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn key_paths(scratch: &Scratch) -> Vec<PathBuf> {
        key_files(&scratch.path().join(KEYS)).unwrap().into_iter().map(|file| file.path).collect()
    }

    fn fault(result: Result<Keyring, StoreError>) -> (PathBuf, KeyFault) {
        let error = result.unwrap_err();
        let StoreError::KeyFile { path, source } = error else { panic!("{error:?}") };
        (path, source)
    }

    #[test]
    fn the_first_start_makes_keys_and_the_second_reads_them() {
        let (scratch, ring) = started();
        let token = ring.sign_ticket(&ticket());
        let again = Store::open(scratch.path()).unwrap().keys(LATER).unwrap();
        assert_eq!(again.verify_ticket(token.as_bytes()), Ok(ticket()));
        assert_eq!(again.draw(VisitorId(1), 2), ring.draw(VisitorId(1), 2));
        assert_eq!(load_keys(scratch.path()).unwrap().signing_key(), ring.signing_key());
    }

    #[test]
    fn two_sites_have_nothing_in_common() {
        let ((_one, one), (_other, other)) = (started(), started());
        assert_ne!(one.signing_key(), other.signing_key());
        assert_ne!(one.draw(VisitorId(1), 2), other.draw(VisitorId(1), 2));
        assert!(other.verify_ticket(one.sign_ticket(&ticket()).as_bytes()).is_err());
    }

    #[test]
    fn only_the_owner_may_read_them() {
        let (scratch, ring) = started();
        let first = ring.signing_key();
        rotate_keys(scratch.path(), LATER).unwrap();
        retire_key(scratch.path(), first).unwrap();
        let keys = scratch.path().join(KEYS);
        assert_eq!(mode(&keys), 0o700);
        assert_eq!(mode(&keys.join(RETIRED)), 0o700);
        for path in [keys.join(SITE), keys.join("lock"), key_paths(&scratch)[0].clone(), keys.join(RETIRED).join(key_name(1, first))] {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn what_others_may_read_is_refused_with_the_command_that_closes_it() {
        let (scratch, _) = started();
        let keys = scratch.path().join(KEYS);
        let site = keys.join(SITE);
        let generation = key_paths(&scratch)[0].clone();
        for (path, open, closed) in [(&site, 0o640, 0o600), (&generation, 0o604, 0o600), (&generation, 0o620, 0o600), (&keys, 0o755, 0o700)]
        {
            fs::set_permissions(path, Permissions::from_mode(open)).unwrap();
            let error = load_keys(scratch.path()).unwrap_err();
            assert!(matches!(&error, StoreError::Exposed { path: named, mode, .. } if named == path && *mode == open), "{error:?}");
            assert!(error.to_string().ends_with(&format!("run chmod {closed:o} '{}'", path.display())), "{error}");
            fs::set_permissions(path, Permissions::from_mode(closed)).unwrap();
            load_keys(scratch.path()).unwrap();
        }
    }

    #[test]
    fn a_rotation_signs_anew_and_keeps_what_was_signed() {
        let (scratch, before) = started();
        let old = before.sign_ticket(&ticket());
        let id = rotate_keys(scratch.path(), LATER).unwrap();
        let after = load_keys(scratch.path()).unwrap();
        assert_eq!(after.signing_key(), id);
        assert_eq!(after.verify_ticket(old.as_bytes()), Ok(ticket()));
        assert_eq!(after.draw(VisitorId(1), 2), before.draw(VisitorId(1), 2));
        let new = after.sign_ticket(&ticket());
        assert_eq!(before.verify_ticket(new.as_bytes()), Err(Rejected::UnknownKey));
    }

    #[test]
    fn a_rotation_under_a_clock_set_back_is_still_the_newest() {
        let (scratch, _) = started();
        let id = rotate_keys(scratch.path(), UnixTime::from_secs(5)).unwrap();
        assert_eq!(load_keys(scratch.path()).unwrap().signing_key(), id);
    }

    #[test]
    fn a_retired_key_verifies_no_more_and_its_number_is_not_used_again() {
        let (scratch, before) = started();
        let old = before.sign_ticket(&ticket());
        rotate_keys(scratch.path(), LATER).unwrap();
        retire_key(scratch.path(), before.signing_key()).unwrap();
        let after = load_keys(scratch.path()).unwrap();
        assert_eq!(after.verify_ticket(old.as_bytes()), Err(Rejected::UnknownKey));
        let third = rotate_keys(scratch.path(), LATER).unwrap();
        assert!(key_paths(&scratch)[1].ends_with(key_name(3, third)));
        let statuses: Vec<KeyStatus> = list_keys(scratch.path()).unwrap().iter().map(|key| key.status).collect();
        assert_eq!(statuses, [KeyStatus::Retired, KeyStatus::Verifies, KeyStatus::Signs]);
    }

    #[test]
    fn a_key_moved_back_verifies_again_and_does_not_sign() {
        let (scratch, before) = started();
        let old = before.sign_ticket(&ticket());
        let second = rotate_keys(scratch.path(), LATER).unwrap();
        retire_key(scratch.path(), before.signing_key()).unwrap();
        let (keys, name) = (scratch.path().join(KEYS), key_name(1, before.signing_key()));
        fs::rename(keys.join(RETIRED).join(&name), keys.join(&name)).unwrap();
        let after = load_keys(scratch.path()).unwrap();
        assert_eq!(after.verify_ticket(old.as_bytes()), Ok(ticket()));
        assert_eq!(after.signing_key(), second);
    }

    #[test]
    fn the_newest_the_unknown_and_the_retired_are_not_retired() {
        let (scratch, ring) = started();
        let first = ring.signing_key();
        assert!(matches!(retire_key(scratch.path(), first), Err(StoreError::Signs { id, .. }) if id == first));
        rotate_keys(scratch.path(), LATER).unwrap();
        let stranger = Key::new(START, [9; 32]).id();
        assert!(matches!(retire_key(scratch.path(), stranger), Err(StoreError::NoSuchKey { .. })));
        retire_key(scratch.path(), first).unwrap();
        assert!(matches!(retire_key(scratch.path(), first), Err(StoreError::AlreadyRetired { .. })));
    }

    #[test]
    fn there_are_never_more_keys_than_a_ring_takes() {
        let (scratch, _) = started();
        for _ in 1..Keyring::KEYS_MAX {
            rotate_keys(scratch.path(), LATER).unwrap();
        }
        assert!(matches!(rotate_keys(scratch.path(), LATER), Err(StoreError::Keyring { source: KeyringError::TooMany { count: 33 }, .. })));
        load_keys(scratch.path()).unwrap();
    }

    #[test]
    fn without_keys_the_command_line_makes_none() {
        let scratch = Scratch::new();
        assert!(matches!(load_keys(scratch.path()), Err(StoreError::NoKeys { .. })));
        assert!(matches!(rotate_keys(scratch.path(), START), Err(StoreError::NoKeys { .. })));
        assert!(matches!(list_keys(scratch.path()), Err(StoreError::NoKeys { .. })));
        assert!(matches!(retire_key(scratch.path(), Key::new(START, [9; 32]).id()), Err(StoreError::NoKeys { .. })));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lost_site_secret_is_not_made_anew_behind_keys() {
        let (scratch, _) = started();
        let site = scratch.path().join(KEYS).join(SITE);
        fs::remove_file(&site).unwrap();
        let store = Store::open(scratch.path()).unwrap();
        assert!(matches!(store.keys(LATER), Err(StoreError::NoSite { path }) if path == site));
        assert!(!site.exists());
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_completed() {
        let (scratch, ring) = started();
        fs::remove_file(&key_paths(&scratch)[0]).unwrap();
        let completed = Store::open(scratch.path()).unwrap().keys(LATER).unwrap();
        assert_eq!(completed.draw(VisitorId(1), 2), ring.draw(VisitorId(1), 2), "the site secret that was there is kept");
        assert_ne!(completed.signing_key(), ring.signing_key());
    }

    #[test]
    fn what_is_no_key_is_refused_by_name_and_never_quoted() {
        let (scratch, ring) = started();
        let path = key_paths(&scratch)[0].clone();
        let whole = fs::read_to_string(&path).unwrap();
        let secret = serde_json::from_str::<KeyText>(&whole).unwrap().secret;
        let other = URL_SAFE_NO_PAD.encode([9; 32]);
        let long = format!("{whole}{}", " ".repeat(5000));
        let cases = [
            (String::new(), KeyFault::Json { line: 1, column: 0 }),
            (whole[..40].to_owned(), KeyFault::Json { line: 1, column: 40 }),
            (long, KeyFault::TooLong),
            (whole.replace(&secret, &secret[..40]), KeyFault::Secret),
            (whole.replace(&secret, &format!("{secret}AAAA")), KeyFault::Secret),
            (whole.replace(&secret, "not base64!"), KeyFault::Secret),
            (whole.replace(&secret, &other), KeyFault::Id),
            (whole.replace(&ring.signing_key().to_string(), "00000000"), KeyFault::Id),
            (whole.replace("2027-", "last year "), KeyFault::Created),
            (whole.replace("2027-", "1927-"), KeyFault::Created),
        ];
        for (content, expected) in cases {
            fs::write(&path, &content).unwrap();
            let error = load_keys(scratch.path()).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(&secret[..12]) && !shown.contains(&other[..12]), "{shown}");
            assert_eq!(fault(load_keys(scratch.path())), (path.clone(), expected), "{content}");
            assert_eq!(fault(Store::open(scratch.path()).unwrap().keys(LATER)).0, path, "and is not made anew");
        }
        fs::write(&path, &whole).unwrap();
        load_keys(scratch.path()).unwrap();
    }

    #[test]
    fn a_damaged_site_secret_is_refused() {
        let (scratch, _) = started();
        let path = scratch.path().join(KEYS).join(SITE);
        let text: SiteText = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let changed = SiteText { secret: URL_SAFE_NO_PAD.encode([9; 32]), ..text };
        fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
        assert_eq!(fault(load_keys(scratch.path())), (path, KeyFault::Id));
    }

    #[test]
    fn a_misnamed_key_is_refused_and_other_files_are_left_alone() {
        let (scratch, ring) = started();
        let keys = scratch.path().join(KEYS);
        for name in [".000002-00000000.key.tmp", "._000001-00000000.key", "README", "000001-00000000.key~"] {
            fs::write(keys.join(name), "x").unwrap();
        }
        assert_eq!(load_keys(scratch.path()).unwrap().signing_key(), ring.signing_key());
        for name in
            ["1-00000000.key", "copy.key", "000001-0000000.key", "000001-0000000G.key", "000001-ABCDEF01.key", "+00001-00000000.key"]
        {
            fs::write(keys.join(name), "x").unwrap();
            assert_eq!(fault(load_keys(scratch.path())), (keys.join(name), KeyFault::Name));
            fs::remove_file(keys.join(name)).unwrap();
        }
    }

    #[test]
    fn the_fingerprint_follows_every_change_and_nothing_else() {
        let (scratch, ring) = started();
        let mut seen = vec![keys_fingerprint(scratch.path()).unwrap()];
        fs::write(scratch.path().join(KEYS).join("notes"), "x").unwrap();
        lock_keys(&scratch.path().join(KEYS)).unwrap();
        assert_eq!(keys_fingerprint(scratch.path()).unwrap(), seen[0]);
        rotate_keys(scratch.path(), LATER).unwrap();
        seen.push(keys_fingerprint(scratch.path()).unwrap());
        retire_key(scratch.path(), ring.signing_key()).unwrap();
        seen.push(keys_fingerprint(scratch.path()).unwrap());
        fs::remove_file(scratch.path().join(KEYS).join(SITE)).unwrap();
        seen.push(keys_fingerprint(scratch.path()).unwrap());
        let distinct: std::collections::HashSet<u64> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len());
    }

    #[test]
    fn two_changes_at_a_time_are_refused() {
        let (scratch, ring) = started();
        let lock = lock_keys(&scratch.path().join(KEYS)).unwrap();
        assert!(matches!(rotate_keys(scratch.path(), LATER), Err(StoreError::KeysBusy { .. })));
        assert!(matches!(retire_key(scratch.path(), ring.signing_key()), Err(StoreError::KeysBusy { .. })));
        load_keys(scratch.path()).unwrap();
        drop(lock);
        rotate_keys(scratch.path(), LATER).unwrap();
    }

    #[test]
    fn keys_change_beside_a_gate_that_serves() {
        let scratch = Scratch::new();
        let store = Store::open(scratch.path()).unwrap();
        let before = store.keys(START).unwrap();
        rotate_keys(scratch.path(), LATER).unwrap();
        assert_ne!(store.keys(LATER).unwrap().signing_key(), before.signing_key());
    }

    #[test]
    fn a_key_made_by_root_belongs_to_the_owner_of_the_directory() {
        let (scratch, _) = started();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let keys = scratch.path().join(KEYS);
        std::os::unix::fs::chown(&keys, Some(12_345), Some(23_456)).unwrap();
        let id = rotate_keys(scratch.path(), LATER).unwrap();
        let made = fs::metadata(keys.join(key_name(2, id))).unwrap();
        assert_eq!((made.uid(), made.gid()), (12_345, 23_456));
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let (scratch, _) = started();
        let (target, lock) = (scratch.path().join("target"), scratch.path().join(KEYS).join("lock"));
        fs::write(&target, "x").unwrap();
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        assert!(matches!(rotate_keys(scratch.path(), LATER), Err(StoreError::Io { path, .. }) if path == lock));
    }
}
