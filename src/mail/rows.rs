//! The rows of the email queue that are not invited yet, in order of arrival, with a bounded number of them in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use crate::rules::invites::Code;
use crate::rules::keyring::CodeKey;
use crate::rules::ledger::{Delivery, Ledger};
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;
use crate::store::StoreError;
use crate::store::email_queue::{Progress, Reader, Row, directory_of};

/// Who is to be invited.
#[derive(Clone, Debug)]
pub(super) struct Addressee {
    pub(super) id: VisitorId,
    pub(super) code: Code,
    /// When the address was taken.
    pub(super) at: UnixTime,
    pub(super) email: Box<str>,
    pub(super) language: Option<Box<str>>,
    /// The page asked for.
    pub(super) path: Option<Box<str>>,
}

/// The rows.
#[derive(Debug)]
pub(super) struct Rows {
    reader: Reader,
    fresh: VecDeque<Addressee>,
    /// Tried, and to be tried again: not before when.
    due: BTreeMap<(UnixTime, VisitorId), Addressee>,
    /// Whose message is on its way, and whether the row was there when the files were read last.
    on_their_way: HashMap<VisitorId, bool>,
    /// Some that are to be tried again found no room here, and are read again when there is.
    left_out: bool,
    /// The last one was tried before.
    again_last: bool,
    /// Of those that were read, how many need nothing more.
    done: u64,
}

/// Rows that are kept in memory at the most, each in some 200 bytes.
const FRESH_MAX: usize = 4096;
const DUE_MAX: usize = 16_384;

impl Rows {
    pub(super) fn new(data: &Path) -> Self {
        Self {
            reader: Reader::new(directory_of(data)),
            fresh: VecDeque::new(),
            due: BTreeMap::new(),
            on_their_way: HashMap::new(),
            left_out: false,
            again_last: false,
            done: 0,
        }
    }

    /// Begins with the first row again. What is on its way stays so.
    pub(super) fn restart(&mut self, data: &Path) {
        *self = Self { on_their_way: std::mem::take(&mut self.on_their_way), ..Self::new(data) };
        self.begin_anew();
    }

    /// Reads on, until there is enough to do. Returns whether there may be more to read at once.
    pub(super) fn read_on(&mut self, ledger: &Ledger, codes: &CodeKey) -> Result<bool, StoreError> {
        if self.left_out && self.due.len() < DUE_MAX / 2 {
            self.reader.begin_anew();
            self.begin_anew();
        }
        if self.fresh.len() >= FRESH_MAX {
            // nobody is written to who is not in the files any more
            if self.reader.begins_anew()? {
                self.begin_anew();
            }
            return Ok(false);
        }
        let Self { reader, fresh, due, on_their_way, left_out, done, again_last: _ } = self;
        let progress = reader.read_on(|row| {
            if let Some(there) = on_their_way.get_mut(&row.id) {
                *there = true;
                return;
            }
            let code = codes.of(row.id);
            match ledger.delivery(code) {
                Delivery::Done => *done += 1,
                Delivery::New => fresh.push_back(Addressee::of(row, code)),
                Delivery::Due(_) if due.len() >= DUE_MAX => *left_out = true,
                Delivery::Due(attempts) => {
                    due.insert((attempts.again, row.id), Addressee::of(row, code));
                }
            }
        })?;
        if progress == Progress::Restarted {
            self.begin_anew();
        }
        Ok(progress != Progress::All)
    }

    fn begin_anew(&mut self) {
        self.fresh.clear();
        self.due.clear();
        self.on_their_way.values_mut().for_each(|there| *there = false);
        self.left_out = false;
        self.done = 0;
    }

    /// The next one: who has been tried before and is due, and in order of arrival who has not, in turns: so neither those who can't be
    /// reached nor those who come keep the others out. It is on its way from now on.
    pub(super) fn next(&mut self, now: UnixTime) -> Option<Addressee> {
        let due = self.due.first_key_value().is_some_and(|(&(again, _), _)| again <= now);
        self.again_last = due && (self.fresh.is_empty() || !self.again_last);
        let next = if self.again_last { self.due.pop_first().map(|(_, next)| next) } else { self.fresh.pop_front() }?;
        self.on_their_way.insert(next.id, true);
        Some(next)
    }

    /// It could not be begun: it is the next again.
    pub(super) fn put_back(&mut self, addressee: Addressee) {
        self.on_their_way.remove(&addressee.id);
        self.fresh.push_front(addressee);
    }

    /// It is to be tried again, if it is still in the files: it may have been erased meanwhile, and if not it is read again.
    pub(super) fn defer(&mut self, addressee: Addressee, again: UnixTime) {
        if self.on_their_way.remove(&addressee.id) == Some(true) {
            self.due.insert((again, addressee.id), addressee);
        }
    }

    /// It needs nothing more.
    pub(super) fn finish(&mut self, id: VisitorId) {
        if self.on_their_way.remove(&id) == Some(true) {
            self.done += 1;
        }
    }

    /// How many need nothing more, of those that were read.
    pub(super) const fn done(&self) -> u64 {
        self.done
    }

    /// When the first of those who wait was taken.
    pub(super) fn oldest(&self) -> Option<UnixTime> {
        self.fresh.front().into_iter().chain(self.due.values()).map(|waits| waits.at).min()
    }

    /// How many are on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.on_their_way.len()
    }
}

impl Addressee {
    fn of(row: Row<'_>, code: Code) -> Self {
        Self {
            id: row.id,
            code,
            at: row.at,
            email: row.email.into(),
            language: row.language.map(Into::into),
            path: row.path.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::rules::email::Address;
    use crate::rules::keyring::{Key, Keyring, SiteSecret};
    use crate::rules::ledger::Event;
    use crate::store::email_queue::{EmailQueue, Forget, forget};
    use crate::store::scratch::Scratch;

    struct World {
        scratch: Scratch,
        keys: Keyring,
        queue: EmailQueue,
        ledger: Ledger,
        rows: Rows,
    }

    impl World {
        /// A queue of so many.
        fn new(count: u64) -> Self {
            let scratch = Scratch::new();
            let keys = Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(UnixTime::from_secs(0), [2; 32])]).unwrap();
            let (mut queue, _) = EmailQueue::open(scratch.path(), keys.address_hash()).unwrap();
            let rows: Vec<Row<'_>> = (1..=count)
                .map(|n| Row {
                    id: VisitorId(n),
                    at: at(n),
                    email: Cow::Owned(format!("{n}@example.org")),
                    language: None,
                    path: None,
                    ticket: VisitorId(n),
                    client: 1,
                })
                .collect();
            queue.add(&rows).unwrap();
            let rows = Rows::new(scratch.path());
            Self { scratch, keys, queue, ledger: Ledger::default(), rows }
        }

        fn read(&mut self) {
            while self.rows.read_on(&self.ledger, self.keys.codes()).unwrap() {}
        }

        fn next(&mut self, secs: u64) -> Option<Addressee> {
            self.rows.next(at(secs))
        }

        fn deferred(&mut self, to: Addressee, again: u64) {
            self.ledger.apply(to.code, to.id, at(100), Event::Sending { until: at(1000) });
            self.ledger.apply(to.code, to.id, at(100), Event::Deferred { again: at(again) });
            self.rows.defer(to, at(again));
        }

        fn erase(&self, n: u64) {
            let address = Address::parse(&format!("{n}@example.org")).unwrap();
            assert_eq!(forget(self.scratch.path(), Forget::Address(&address)).unwrap(), 1);
        }
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + secs)
    }

    fn id(next: Option<Addressee>) -> u64 {
        next.map_or(0, |next| next.id.0)
    }

    #[test]
    fn who_was_deferred_and_who_is_new_come_in_turns() {
        let mut world = World::new(6);
        world.read();
        for _ in 0..2 {
            let to = world.next(100).unwrap();
            world.deferred(to, 160);
        }
        assert_eq!(id(world.next(159)), 3);
        let order: Vec<u64> = (0..6).map(|_| id(world.next(160))).collect();
        assert_eq!(order, [1, 4, 2, 5, 6, 0]);
        assert_eq!(world.rows.on_their_way(), 6);
    }

    #[test]
    fn who_is_erased_while_a_message_is_on_its_way_is_not_written_to_again() {
        let mut world = World::new(3);
        world.read();
        let (first, second) = (world.next(100).unwrap(), world.next(100).unwrap());
        world.erase(1);
        world.read();
        world.read();
        world.deferred(first, 160);
        world.deferred(second, 160);
        let order: Vec<u64> = (0..3).map(|_| id(world.next(200))).collect();
        assert_eq!(order, [2, 3, 0]);
        assert_eq!(world.queue.len(), 3, "its writer has not looked yet");
    }

    #[test]
    fn each_who_needs_nothing_more_is_counted_once_whatever_is_read_anew() {
        let mut world = World::new(4);
        world.read();
        let (first, second) = (world.next(100).unwrap(), world.next(100).unwrap());
        world.ledger.apply(first.code, first.id, at(100), Event::Sent);
        world.rows.finish(first.id);
        assert_eq!(world.rows.done(), 1);
        world.erase(4);
        world.read();
        world.read();
        world.ledger.apply(second.code, second.id, at(101), Event::Sent);
        world.rows.finish(second.id);
        assert_eq!((world.rows.done(), world.rows.oldest()), (2, Some(at(3))));
        world.rows.restart(world.scratch.path());
        world.read();
        assert_eq!(world.rows.done(), 2);
    }
}
