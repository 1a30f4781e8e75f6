//! `tidegate keys list|rotate|retire`. Works beside a gate that serves, which sees a change within a second or so.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;

use crate::rules::keyring::KeyId;
use crate::rules::time::UnixTime;
use crate::store::{self, KeyStatus};

/// Prints a line for each generation, the oldest first: id, when it was made, what it does.
///
/// # Errors
/// If the keys can't be read, or the output not written.
pub(super) fn list(data: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let keys = store::list_keys(data)?;
    writeln!(out, "{:<10}{:<26}STATUS", "ID", "CREATED")?;
    for key in keys {
        let status = match key.status {
            KeyStatus::Signs => "signs",
            KeyStatus::Verifies => "verifies",
            KeyStatus::Retired => "retired",
        };
        writeln!(out, "{:<10}{:<26}{status}", key.id.to_string(), date(key.created)?.to_string())?;
    }
    Ok(())
}

/// Makes a new generation, which signs from now on.
///
/// # Errors
/// If it can't be made, or the output not written.
pub(super) fn rotate(data: &Path, now: UnixTime, out: &mut impl Write) -> anyhow::Result<()> {
    let id = store::rotate_keys(data, now)?;
    writeln!(out, "{id} signs from now on; the others go on to verify, so nobody loses a place")?;
    Ok(())
}

/// Ends a generation: what it has signed no longer verifies.
///
/// # Errors
/// If it can't be retired, or the output not written.
pub(super) fn retire(data: &Path, id: KeyId, out: &mut impl Write) -> anyhow::Result<()> {
    store::retire_key(data, id)?;
    let kept = data.join("keys").join("retired");
    writeln!(out, "{id} is retired: what it has signed no longer verifies; moving it back from {} undoes this", kept.display())?;
    Ok(())
}

/// As a calendar date in UTC; prints as RFC 3339.
pub(super) fn date(time: UnixTime) -> anyhow::Result<jiff::Timestamp> {
    let millis = i64::try_from(time.as_millis()).context("time out of range")?;
    jiff::Timestamp::from_millisecond(millis).context("time out of range")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::scratch::Scratch;

    const START: UnixTime = UnixTime::from_secs(1_800_000_000);
    const LATER: UnixTime = UnixTime::from_secs(1_800_003_600);

    fn printed(command: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<()>) -> String {
        let mut out = Vec::new();
        command(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_life_of_a_key_as_the_operator_sees_it() {
        let scratch = Scratch::new();
        let data = scratch.path();
        let first = Store::open(data).unwrap().keys(START).unwrap().signing_key();
        assert_eq!(
            printed(|out| list(data, out)),
            format!("ID        CREATED                   STATUS\n{first}  2027-01-15T08:00:00Z      signs\n")
        );

        let said = printed(|out| rotate(data, LATER, out));
        let second: KeyId = said[..8].parse().unwrap();
        assert_eq!(
            printed(|out| list(data, out)).lines().skip(1).collect::<Vec<_>>(),
            [format!("{first}  2027-01-15T08:00:00Z      verifies"), format!("{second}  2027-01-15T09:00:00Z      signs")]
        );

        assert!(retire(data, second, &mut Vec::new()).is_err());
        assert!(printed(|out| retire(data, first, out)).starts_with(&format!("{first} is retired")));
        assert_eq!(
            printed(|out| list(data, out)).lines().skip(1).collect::<Vec<_>>(),
            [format!("{first}  2027-01-15T08:00:00Z      retired"), format!("{second}  2027-01-15T09:00:00Z      signs")]
        );
    }

    #[test]
    fn nothing_is_made_where_there_are_no_keys() {
        let scratch = Scratch::new();
        let mut out = Vec::new();
        assert!(list(scratch.path(), &mut out).is_err());
        assert!(rotate(scratch.path(), LATER, &mut out).is_err());
        assert!(out.is_empty());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
