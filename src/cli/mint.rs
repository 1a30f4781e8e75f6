//! `tidegate mint`: a pass for someone who must not wait. Works beside a gate that serves, or without one.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::keys::date;
use crate::page::landing_link;
use crate::rules::policy::Policy;
use crate::rules::time::UnixTime;
use crate::rules::token::{Pass, PassKind, VisitorId};
use crate::store::{self, Minted};

/// Makes a staff pass that holds for so long, writes down whom it is for, and prints it as a link and as a header.
///
/// # Errors
/// If `lasts` is not in 1 s to 365 days or the note too long, if there are no keys yet, or if it can't be written down or printed.
pub(super) fn mint(policy: &Policy, data: &Path, lasts: Duration, note: &str, now: UnixTime, out: &mut impl Write) -> anyhow::Result<()> {
    mint_for(policy.invitations.site_url.as_deref(), policy.listen.http, data, lasts, note, now, out)
}

fn mint_for(
    site_url: Option<&str>,
    listen: SocketAddr,
    data: &Path,
    lasts: Duration,
    note: &str,
    now: UnixTime,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    ensure!((LASTS_MIN..=LASTS_MAX).contains(&lasts), "--for: {lasts:?} is not in 1s to 365d");
    ensure!(note.len() <= NOTE_BYTES_MAX, "--note: {} bytes are above {NOTE_BYTES_MAX}", note.len());
    let keys = store::load_keys(data)?;
    let expires = now.plus(lasts);
    let id = random_id()?;
    let pass = Pass { kind: PassKind::Staff, id, issued: now, renewed: now, expires: Some(expires), batch: 0 };
    // before it is shown: a pass that nobody has written down is one that nobody can revoke
    let list = store::record_minted(data, &Minted { id, note, created: now, expires })?;
    let token = keys.sign_pass(&pass).to_string();
    let local = format!("http://{listen}");
    writeln!(out, "id:      {id}")?;
    writeln!(out, "expires: {}", date(expires)?)?;
    writeln!(out, "link:    {}{}", site_url.unwrap_or(&local), landing_link(&token, None))?;
    writeln!(out, "header:  {HEADER}: {token}")?;
    writeln!(out)?;
    if site_url.is_none() {
        writeln!(out, "The link is for this machine alone: set invitations.site_url to what visitors see.")?;
    }
    writeln!(out, "Who has the link or the header gets in. To end it, add {id} to bypass.revoked. Noted in {}.", list.display())?;
    Ok(())
}

fn random_id() -> anyhow::Result<VisitorId> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).context("no random bytes for an id")?;
    Ok(VisitorId(u64::from_be_bytes(bytes)))
}

const HEADER: &str = "Tidegate-Pass";
const LASTS_MIN: Duration = Duration::from_secs(1);
/// A pass that is forgotten should end by itself within a year.
const LASTS_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// A sentence or two; the list stays readable.
const NOTE_BYTES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::scratch::Scratch;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const TWO_HOURS: Duration = Duration::from_secs(2 * 3600);

    fn data_with_keys() -> Scratch {
        let scratch = Scratch::new();
        Store::open(scratch.path()).unwrap().keys(NOW).unwrap();
        scratch
    }

    fn run(data: &Path, site_url: Option<&str>, lasts: Duration, note: &str) -> anyhow::Result<String> {
        let mut out = Vec::new();
        let result = mint_for(site_url, "127.0.0.1:8080".parse().unwrap(), data, lasts, note, NOW, &mut out);
        let out = String::from_utf8(out).unwrap();
        result.map(|()| out)
    }

    fn after<'a>(out: &'a str, label: &str) -> &'a str {
        out.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim_start()
    }

    #[test]
    fn a_minted_pass_verifies_and_says_what_was_asked() {
        let scratch = data_with_keys();
        let out = run(scratch.path(), Some("https://www.example.org"), TWO_HOURS, "press desk").unwrap();
        let token = after(&out, "header:").strip_prefix("Tidegate-Pass: ").unwrap();
        let pass = store::load_keys(scratch.path()).unwrap().verify_pass(token.as_bytes()).unwrap();
        let id: VisitorId = after(&out, "id:").parse().unwrap();
        let expires = Some(UnixTime::from_secs(1_800_007_200));
        assert_eq!(pass, Pass { kind: PassKind::Staff, id, issued: NOW, renewed: NOW, expires, batch: 0 });
        assert_eq!(after(&out, "expires:"), "2027-01-15T10:00:00Z");
        assert_eq!(after(&out, "link:"), format!("https://www.example.org/.tidegate/invitation?code={token}"));
        assert!(!out.contains("site_url"));
    }

    #[test]
    fn without_a_site_url_the_link_is_local_and_says_so() {
        let scratch = data_with_keys();
        let out = run(scratch.path(), None, TWO_HOURS, "").unwrap();
        assert!(after(&out, "link:").starts_with("http://127.0.0.1:8080/.tidegate/invitation?code=v1."));
        assert!(out.contains("invitations.site_url"));
    }

    #[test]
    fn it_is_written_down_without_the_token() {
        let scratch = data_with_keys();
        let first = run(scratch.path(), None, TWO_HOURS, "press desk").unwrap();
        let second = run(scratch.path(), None, TWO_HOURS, "auditor").unwrap();
        let list = std::fs::read_to_string(scratch.path().join("minted.jsonl")).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(after(&first, "id:")) && lines[0].contains("press desk"));
        assert!(lines[1].contains(after(&second, "id:")) && lines[1].contains("auditor"));
        assert_ne!(after(&first, "id:"), after(&second, "id:"));
        assert!(!list.contains("v1."));
    }

    #[test]
    fn what_cannot_be_written_down_is_not_shown() {
        let scratch = data_with_keys();
        std::fs::create_dir(scratch.path().join("minted.jsonl")).unwrap();
        let mut out = Vec::new();
        let listen = "127.0.0.1:8080".parse().unwrap();
        assert!(mint_for(None, listen, scratch.path(), TWO_HOURS, "", NOW, &mut out).is_err());
        assert!(out.is_empty());
    }

    #[test]
    fn bounds_are_held_and_nothing_is_written_beyond_them() {
        let scratch = data_with_keys();
        let year = Duration::from_secs(365 * 24 * 3600);
        for lasts in [Duration::ZERO, Duration::from_millis(999), year + Duration::from_millis(1), Duration::MAX] {
            assert!(run(scratch.path(), None, lasts, "").unwrap_err().to_string().starts_with("--for:"), "{lasts:?}");
        }
        assert!(run(scratch.path(), None, TWO_HOURS, &"x".repeat(501)).unwrap_err().to_string().starts_with("--note:"));
        assert!(!scratch.path().join("minted.jsonl").exists());
        run(scratch.path(), None, year, &"x".repeat(500)).unwrap();
    }

    #[test]
    fn without_keys_nothing_is_minted() {
        let scratch = Scratch::new();
        assert!(run(scratch.path(), None, TWO_HOURS, "").is_err());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
