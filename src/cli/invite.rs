//! `tidegate invite status|pause|resume`. Works on the files, beside a gate that serves as well as without one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::gate_client;
use super::keys::date;
use crate::rules::invites::batch_begins;
use crate::rules::ledger::{Delivery, Ledger};
use crate::rules::policy::Policy;
use crate::rules::time::UnixTime;
use crate::store::email_queue::{self, Read, directory_of, each_entry, each_row, ledger_of, paused_since};
use crate::store::{self, StoreError};

/// Prints how many are invited and how many wait, what the gate does about it now, and the batches that can be revoked.
///
/// # Errors
/// If the files can't be read, or the output not written.
pub(super) fn status(policy: &Policy, data: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    status_with(data, &now_of_gate(policy), out)
}

fn status_with(data: &Path, now: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let directory = directory_of(data);
    if !directory.exists() {
        writeln!(out, "nobody has left an address: {} does not exist yet", directory.display())?;
        return Ok(());
    }
    let keys = store::load_keys(data)?;
    let mut ledger = Ledger::default();
    let mut faults = Vec::new();
    if ledger_of(data).exists() {
        each_entry::<StoreError>(&ledger_of(data), |read| {
            match read {
                Ok(entry) => ledger.apply(keys.codes().of(entry.id), entry.id, entry.at, entry.event),
                Err(fault) => faults.push(fault),
            }
            Ok(())
        })?;
    }
    let (mut waiting, mut oldest) = (0_u64, None::<UnixTime>);
    each_row::<StoreError>(&directory, |read| {
        if let Read::Row(row) = read
            && ledger.delivery(keys.codes().of(row.id)) != Delivery::Done
        {
            waiting += 1;
            oldest = Some(oldest.map_or(row.at, |oldest| oldest.min(row.at)));
        }
        Ok(())
    })?;
    let totals = ledger.totals();
    let since = oldest.map(date).transpose()?.map(|oldest| format!(", since {oldest}")).unwrap_or_default();
    writeln!(out, "waiting   {waiting}{since}")?;
    writeln!(out, "sent      {}", totals.sent)?;
    writeln!(out, "redeemed  {}", totals.redeemed)?;
    writeln!(out, "deferred  {} to be tried again", totals.due)?;
    writeln!(out, "failed    {}", totals.failed)?;
    match paused_since(data) {
        Some(since) => writeln!(out, "now       paused by hand since {}", date(since)?)?,
        None => writeln!(out, "now       {now}")?,
    }
    let batches = batches(&ledger);
    if !batches.is_empty() {
        writeln!(out, "\nbatch           begun                 sent  redeemed")?;
    }
    for (batch, (sent, redeemed)) in batches {
        writeln!(out, "batch-{batch:08x}  {}  {sent:>4}  {redeemed:>8}", date(batch_begins(batch))?)?;
    }
    for fault in faults {
        writeln!(out, "{fault}: left as it is")?;
    }
    Ok(())
}

fn batches(ledger: &Ledger) -> BTreeMap<u32, (u64, u64)> {
    let mut batches = BTreeMap::new();
    for (batch, redeemed) in ledger.begun() {
        let (sent, used): &mut (u64, u64) = batches.entry(batch).or_default();
        *sent += 1;
        *used += u64::from(redeemed);
    }
    batches
}

/// What the gate that runs does.
fn now_of_gate(policy: &Policy) -> String {
    let answer = match gate_client::get(&policy.admin, "/status") {
        Ok(answer) if answer.status == "200" => answer,
        Ok(answer) => return format!("not known: {} answers {}", answer.url, answer.status),
        Err(error) => return format!("no gate answers: {error:#}"),
    };
    let Ok(status) = serde_json::from_str::<Value>(&answer.body) else {
        return format!("not known: {} answers no JSON", answer.url);
    };
    let text = |key| status.pointer(key).and_then(Value::as_str);
    match (text("/invitations/summary"), text("/invitations/trouble")) {
        (Some(summary), Some(trouble)) => format!("{summary} ({trouble})"),
        (Some(summary), None) => summary.to_owned(),
        (None, _) => format!("not known: {} does not say", answer.url),
    }
}

/// Has no invitation sent from now on, or goes on.
///
/// # Errors
/// If that can't be written down, or the output not written.
pub(super) fn pause(data: &Path, paused: bool, out: &mut impl Write) -> anyhow::Result<()> {
    email_queue::pause(data, paused)?;
    let state = if paused { "paused, until `tidegate invite resume`" } else { "not paused" };
    writeln!(out, "invitations are {state}; a gate that runs follows within a second")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ledger::Event;
    use crate::rules::token::VisitorId;
    use crate::store::Store;
    use crate::store::email_queue::{EmailQueue, Entry, LedgerFiles, Row};
    use crate::store::scratch::Scratch;

    fn printed(command: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<()>) -> String {
        let mut out = Vec::new();
        command(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_has_become_of_those_who_left_an_address_is_told() {
        let scratch = Scratch::new();
        let at = |secs| UnixTime::from_secs(1_800_000_000 + secs);
        let keys = Store::open(scratch.path()).unwrap().keys(at(0)).unwrap();
        assert!(printed(|out| status_with(scratch.path(), "", out)).starts_with("nobody has left an address"));
        let (mut queue, _) = EmailQueue::open(scratch.path(), keys.address_hash()).unwrap();
        for n in 1..6 {
            let (id, email) = (VisitorId(n), format!("{n}@example.org").into());
            queue.add(&[Row { id, at: at(n), email, language: None, path: None, ticket: id, client: 1 }]).unwrap();
        }
        let (mut ledger, _) = LedgerFiles::open(scratch.path()).unwrap();
        let entry = |id, secs, event| Entry { id: VisitorId(id), at: at(secs), event, reason: None };
        let until = at(100_000);
        ledger
            .append(&[
                entry(1, 10, Event::Sending { until }),
                entry(2, 10, Event::Sending { until }),
                entry(3, 3600, Event::Sending { until }),
                entry(4, 3600, Event::Sending { until }),
                entry(1, 11, Event::Sent),
                entry(2, 11, Event::Sent),
                entry(3, 3601, Event::Failed),
                entry(4, 3601, Event::Deferred { again: at(3700) }),
                entry(1, 4000, Event::Redeemed { ticket: None }),
            ])
            .unwrap();
        assert_eq!(
            printed(|out| status_with(scratch.path(), "inviting", out)),
            "waiting   2, since 2027-01-15T08:00:04Z\n\
             sent      2\n\
             redeemed  1\n\
             deferred  1 to be tried again\n\
             failed    1\n\
             now       inviting\n\
             \n\
             batch           begun                 sent  redeemed\n\
             batch-0007a121  2027-01-15T08:00:00Z     2         1\n\
             batch-0007a122  2027-01-15T09:00:00Z     2         0\n"
        );
        assert!(printed(|out| pause(scratch.path(), true, out)).contains("are paused"));
        assert!(printed(|out| status_with(scratch.path(), "inviting", out)).contains("now       paused by hand since 20"));
        assert!(printed(|out| pause(scratch.path(), false, out)).contains("not paused"));
        // it is the same if it was so already
        assert!(printed(|out| pause(scratch.path(), false, out)).contains("not paused"));
        assert!(printed(|out| status_with(scratch.path(), "inviting", out)).contains("now       inviting"));
    }
}
