//! The ledger, and the files that it and the email queue are read from after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate::rules::invites::{Code, batch_of};
use tidegate::rules::keyring::{Key, Keyring, SiteSecret};
use tidegate::rules::ledger::{Delivery, Event, Ledger, NoEntry, REPEAT};
use tidegate::rules::time::{Moment, Now, UnixTime};
use tidegate::rules::token::VisitorId;
use tidegate::store::email_queue::{EmailQueue, Entry, LedgerFiles, Row, directory_of, each_row, ledger_of};

pub(super) fn event_seeds() -> Vec<Vec<u8>> {
    // three bytes each: which invitation, what, how much later
    vec![
        vec![0, 0, 1, 0, 1, 1, 0, 4, 9, 0, 4, 60],
        vec![0, 0, 1, 0, 2, 3, 0, 0, 60, 0, 2, 3, 0, 3, 9],
        vec![1, 0, 1, 2, 0, 1, 1, 1, 0, 2, 5, 4, 2, 0, 9, 0, 4, 200],
        vec![1, 4, 200, 1, 0, 1, 0x81, 4, 1, 1, 5, 2, 1, 1, 2],
    ]
}

/// What is remembered of one invitation, in the plainest way.
#[derive(Default)]
struct Told {
    first: u64,
    attempts: u64,
    until: Option<u64>,
    again: u64,
    sent: bool,
    failed: bool,
    left: bool,
    redeemed: Option<(Option<VisitorId>, u64)>,
}

/// Whatever events follow each other, the ledger says what one would who had written all of them down.
pub(super) fn check_events(bytes: &[u8]) {
    let (mut ledger, mut told) = (Ledger::default(), BTreeMap::<u8, Told>::new());
    let mut now = 1_800_000_000_u64;
    for event in bytes.chunks_exact(3) {
        let &[who, what, later] = event else { continue };
        now += u64::from(later);
        let (number, ticket) = (who & 7, (who & 0x80 != 0).then_some(VisitorId(u64::from(who & 0x70))));
        let one = told.entry(number).or_insert_with(|| Told { first: now, ..Told::default() });
        let event = match what % 6 {
            0 => {
                (one.attempts, one.until, one.again) = ((one.attempts + 1).min(255), Some(now + 300), 0);
                Event::Sending { until: UnixTime::from_secs(now + 300) }
            }
            1 => {
                one.sent = true;
                Event::Sent
            }
            2 => {
                one.again = now + 60;
                Event::Deferred { again: UnixTime::from_secs(now + 60) }
            }
            3 => {
                one.failed = true;
                Event::Failed
            }
            4 => {
                one.redeemed = Some((ticket, now));
                Event::Redeemed { ticket }
            }
            _ => {
                one.left = true;
                Event::Left
            }
        };
        ledger.apply(code(number), VisitorId(u64::from(number)), UnixTime::from_secs(now), event);
        for (&number, one) in &told {
            agrees(&ledger, number, one, now);
        }
    }
    let count = |is: fn(&Told) -> bool| told.values().filter(|one| is(one)).count() as u64;
    let totals = ledger.totals();
    assert_eq!((totals.sent, totals.failed), (count(|one| one.sent), count(|one| one.failed)));
    assert_eq!(totals.redeemed, count(|one| one.redeemed.is_some()));
    assert_eq!(totals.due, count(|one| one.attempts > 0 && !one.is_done()));
    assert_eq!(ledger.outstanding().count() as u64, count(|one| one.attempts > 0 && !one.failed && one.redeemed.is_none()));
    let mut begun: Vec<_> = ledger.begun().collect();
    let mut expected: Vec<_> = told
        .values()
        .filter(|one| one.attempts > 0)
        .map(|one| (batch_of(UnixTime::from_secs(one.first)), one.redeemed.is_some()))
        .collect();
    begun.sort_unstable();
    expected.sort_unstable();
    assert_eq!(begun, expected);
    let over = ledger.over(at(now + 301), 100).count() as u64;
    assert_eq!(over, count(|one| one.redeemed.is_some() || one.failed || (one.is_done() && one.until.is_some())));
    assert_eq!(ledger.over(at(now + 301), 100).count(), 0);
}

impl Told {
    fn is_done(&self) -> bool {
        self.sent || self.failed || self.left
    }
}

fn agrees(ledger: &Ledger, number: u8, one: &Told, now: u64) {
    let code = code(number);
    match ledger.delivery(code) {
        Delivery::New => panic!("{number} is not new"),
        Delivery::Done => assert!(one.is_done()),
        Delivery::Due(attempts) => {
            assert!(!one.is_done());
            assert_eq!((u64::from(attempts.count), attempts.first), (one.attempts, UnixTime::from_secs(one.first)));
            assert_eq!(attempts.again, UnixTime::from_secs(one.again));
        }
    }
    assert_eq!(ledger.has_left(code), one.left);
    for ticket in [None, Some(VisitorId(0)), Some(VisitorId(0x50))] {
        let expected = match (one.until, one.redeemed) {
            (None, _) => Err(NoEntry::Unknown),
            (Some(_), Some((by, then))) if by.is_some() && by == ticket && now - then <= REPEAT.as_secs() => {
                Ok(Some(UnixTime::from_secs(then)))
            }
            (Some(_), Some(_)) => Err(NoEntry::Used),
            (Some(until), None) if now > until => Err(NoEntry::Expired),
            (Some(_), None) => Ok(None),
        };
        assert_eq!(ledger.open(code, ticket, at(now)).map(|invitation| invitation.redeemed), expected, "{number} {ticket:?}");
    }
}

fn code(number: u8) -> Code {
    Code::from_first_bits(u128::from(number) << 64 | 7 << 100)
}

fn at(secs: u64) -> Now {
    Now { mono: Moment::from_secs(secs), wall: UnixTime::from_secs(secs), doubt: Duration::ZERO }
}

/// A directory that is gone when dropped.
struct Data(PathBuf);

impl Data {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-oracle-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, directory: &Path, bytes: &[u8]) -> PathBuf {
        fs::create_dir_all(directory).unwrap();
        let path = directory.join("2027-01-15.jsonl");
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// What is whole, and what a crash has cut off.
fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1))
}

fn line_count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

pub(super) fn row_seeds() -> Vec<Vec<u8>> {
    let row = |id: u64, email: &str| {
        format!(
            "{{\"v\":1,\"id\":\"{id:016x}\",\"at\":\"2027-01-15T08:00:0{id}Z\",\"email\":\"{email}\",\"language\":\"de\",\"path\":\"/a?b\",\
             \"ticket\":\"00000000000000ff\",\"client\":\"0123456789abcdef\"}}\n"
        )
    };
    let three = [row(1, "ann@example.org"), row(2, "bob@example.org"), row(3, "\\u00e4nn@example.org")].concat();
    super::owned(&[
        &row(1, "ann@example.org"),
        &three,
        &three[..three.len() - 9],
        &format!("{three}\n\nrubbish\n{{}}\n{}", row(4, "eve@example.org")),
    ])
}

/// Whatever a crash has left of the queue's file: each line is a row or told to be none, what was cut off is set aside byte for byte, and
/// the next address is taken and found again.
pub(super) fn check_rows(bytes: &[u8]) {
    let data = Data::new();
    let path = data.write(&directory_of(&data.0), bytes);
    let hash = Keyring::new(&SiteSecret::new([9; 32]), &[Key::new(UnixTime::from_secs(1), [7; 32])]).unwrap().address_hash();
    let (mut queue, found) = EmailQueue::open(&data.0, hash).unwrap();
    let (whole, torn) = parts(bytes);
    assert_eq!(found.rows + found.not_rows, line_count(bytes));
    assert_eq!(found.first_fault.is_some(), found.not_rows > 0);
    assert!(queue.len() as u64 <= found.rows);
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(
        found.torn.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(),
        [torn].iter().filter(|torn| !torn.is_empty()).map(|torn| torn.to_vec()).collect::<Vec<_>>()
    );
    let row = Row {
        id: VisitorId(99),
        at: UnixTime::from_secs(1_800_000_000),
        email: "new@example.net".into(),
        language: None,
        path: None,
        ticket: VisitorId(1),
        client: 2,
    };
    let added = queue.add(std::slice::from_ref(&row)).unwrap();
    drop(queue);
    let (queue, again) = EmailQueue::open(&data.0, hash).unwrap();
    assert_eq!((again.rows, again.not_rows, again.torn.len()), (found.rows + added as u64, found.not_rows, 0));
    drop(queue);
    let mut last = None;
    each_row::<tidegate::store::StoreError>(&directory_of(&data.0), |read| {
        if let tidegate::store::email_queue::Read::Row(row) = read {
            last = Some((row.id, row.email.into_owned()));
        }
        Ok(())
    })
    .unwrap();
    assert!(added == 0 || last == Some((row.id, row.email.into_owned())));
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    let line = |event: &str| format!("{{\"v\":1,\"id\":\"0000000000000001\",\"at\":\"2027-01-15T08:00:00Z\",\"event\":\"{event}\"}}\n");
    let all = [
        line("sending\",\"until\":\"2027-01-17T08:00:00Z"),
        line("deferred\",\"again\":\"2027-01-15T08:01:00Z\",\"reason\":\"451 later"),
        line("sent"),
        line("failed\",\"reason\":\"550 no such \\\"mailbox\\\""),
        line("redeemed\",\"ticket\":\"0000000000000009"),
        line("redeemed"),
        line("left"),
    ]
    .concat();
    super::owned(&[&all, &all[..all.len() / 2], &all.replace("\n", "\n\0\n")])
}

/// The same of the ledger; and what is read of it makes a ledger.
pub(super) fn check_entries(bytes: &[u8]) {
    let data = Data::new();
    let path = data.write(&ledger_of(&data.0), bytes);
    let (mut files, torn) = LedgerFiles::open(&data.0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), parts(bytes).0);
    assert_eq!(torn.len(), usize::from(!parts(bytes).1.is_empty()));
    let (mut ledger, mut entries) = (Ledger::default(), 0);
    let found = files
        .read(|Entry { id, at, event, .. }| {
            ledger.apply(Code::from_first_bits(u128::from(id.0) << 64), id, at, event);
            entries += 1;
        })
        .unwrap();
    assert_eq!(entries + found.not_entries, line_count(bytes));
    let totals = ledger.totals();
    assert!(totals.sent.max(totals.due).max(totals.failed).max(totals.redeemed) <= entries);
    files.append(&[Entry { id: VisitorId(5), at: UnixTime::from_secs(1_800_000_000), event: Event::Sent, reason: None }]).unwrap();
    let (mut last, mut count) = (None, 0);
    files.read(|entry| (last, count) = (Some(entry.id), count + 1)).unwrap();
    assert_eq!((last, count), (Some(VisitorId(5)), entries + 1));
}
