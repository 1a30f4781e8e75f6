//! What has become of each invitation: which were sent, which have to be tried again, which have let someone in.
//!
//! It is made from events, one after another, as they stand in the files of the ledger; so a restart knows what was known before. Ten
//! million invitations take half a gigabyte: an entry holds numbers alone, and no address.

use std::collections::HashMap;
use std::time::Duration;

use super::invites::{Code, batch_of};
use super::time::{Now, UnixTime};
use super::token::VisitorId;
use super::uniform::Uniform;

/// What happens to an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its message is about to be handed over: from now on its code may be in somebody's hands.
    Sending {
        /// How long the code holds, as the message says.
        until: UnixTime,
    },
    /// The mail server, or the spool, has taken the message.
    Sent,
    /// It could not be handed over, and is tried again.
    Deferred {
        /// Not before this.
        again: UnixTime,
    },
    /// It can't be delivered, and is not tried again.
    Failed,
    /// Someone has entered with its code.
    Redeemed {
        /// Who: the ticket that was shown with it.
        ticket: Option<VisitorId>,
    },
    /// Who was invited wants the address deleted.
    Left,
}

/// How far an invitation has come on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Not yet begun.
    New,
    /// Begun, and not done: it is tried again. What was interrupted by a crash may have arrived; the message is the same then.
    Due(Attempts),
    /// Sent, failed, or not wanted any more.
    Done,
}

/// What was tried so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How often.
    pub count: u8,
    /// When first.
    pub first: UnixTime,
    /// Not to be tried again before this.
    pub again: UnixTime,
}

/// An invitation that lets someone in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The row of the queue that it is for, and the pass that it gives.
    pub id: VisitorId,
    /// When it was first sent: this decides its batch.
    pub sent: UnixTime,
    /// How long its code holds.
    pub until: UnixTime,
    /// It has let someone in already, then: the same ticket shows it again, because the answer was lost.
    pub redeemed: Option<UnixTime>,
}

/// Why a code lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// No invitation has this code, or it is so old that it is not remembered.
    Unknown,
    /// Its time is over.
    Expired,
    /// Someone has entered with it.
    Used,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Delivered.
    pub sent: u64,
    /// To be tried again, or on their way.
    pub due: u64,
    /// Given up.
    pub failed: u64,
    /// Redeemed.
    pub redeemed: u64,
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<u64, Entry, Uniform>,
    /// Not before when those that were deferred are tried again.
    again: HashMap<u64, UnixTime, Uniform>,
    /// Who has redeemed a moment ago.
    redeemed: HashMap<u64, (Option<VisitorId>, UnixTime), Uniform>,
    totals: Totals,
}

/// Times are in seconds since 1970: with milliseconds ten million entries would not fit into the memory that they may have.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    id: u64,
    /// What of the code the key has no room for.
    rest: u16,
    attempts: u8,
    flags: u8,
    first: u32,
    until: u32,
    redeemed: u32,
}

impl Ledger {
    /// Writes down what happened to the invitation with this code, for this row.
    pub fn apply(&mut self, code: Code, id: VisitorId, at: UnixTime, event: Event) {
        let (key, rest) = split(code);
        let entry = self.entries.entry(key).or_insert_with(|| Entry { id: id.0, rest, first: secs(at), ..Entry::default() });
        let before = *entry;
        match event {
            Event::Sending { until } => {
                entry.attempts = entry.attempts.saturating_add(1);
                entry.until = secs(until);
                self.again.remove(&key);
            }
            Event::Sent => entry.flags |= SENT,
            Event::Deferred { again } => {
                self.again.insert(key, again);
            }
            Event::Failed => entry.flags |= FAILED,
            Event::Redeemed { ticket } => {
                entry.flags |= REDEEMED;
                entry.redeemed = secs(at);
                self.redeemed.insert(key, (ticket, at));
            }
            Event::Left => entry.flags |= LEFT,
        }
        let entry = *entry;
        if entry.is_done() {
            self.again.remove(&key);
        }
        self.totals = self.totals.less(before.totals()).plus(entry.totals());
    }

    /// Makes room for so many more: there is never an old table beside a new one.
    pub fn reserve(&mut self, entries: usize) {
        self.entries.reserve(entries);
    }

    /// How far the invitation with this code has come.
    #[must_use]
    pub fn delivery(&self, code: Code) -> Delivery {
        let Some((key, entry)) = self.find(code) else { return Delivery::New };
        if entry.is_done() {
            return Delivery::Done;
        }
        let again = self.again.get(&key).copied().unwrap_or_default();
        Delivery::Due(Attempts { count: entry.attempts, first: time(entry.first), again })
    }

    /// Whether who was invited wants the address deleted.
    #[must_use]
    pub fn has_left(&self, code: Code) -> bool {
        self.find(code).is_some_and(|(_, entry)| entry.flags & LEFT != 0)
    }

    /// The invitation that this code opens the door with, now and for who shows this ticket. It does not use it up: [`Event::Redeemed`] does.
    ///
    /// # Errors
    /// Why it opens none. What is within [`Now::doubt`] of its end holds.
    pub fn open(&self, code: Code, ticket: Option<VisitorId>, now: Now) -> Result<Invitation, NoEntry> {
        let (key, entry) = self.find(code).filter(|(_, entry)| entry.until > 0).ok_or(NoEntry::Unknown)?;
        let invitation = Invitation { id: VisitorId(entry.id), sent: time(entry.first), until: time(entry.until), redeemed: None };
        if entry.flags & REDEEMED != 0 {
            let (by, at) = self.redeemed.get(&key).copied().ok_or(NoEntry::Used)?;
            let again = ticket.is_some() && by == ticket && now.wall.since(at) <= REPEAT + now.doubt;
            return if again { Ok(Invitation { redeemed: Some(at), ..invitation }) } else { Err(NoEntry::Used) };
        }
        if now.wall.minus(now.doubt) > invitation.until { Err(NoEntry::Expired) } else { Ok(invitation) }
    }

    /// Forgets who has redeemed so long ago that nobody repeats it.
    pub fn forget_repeats(&mut self, now: Now) {
        self.redeemed.retain(|_, (_, at)| now.wall.since(*at) <= REPEAT + now.doubt);
    }

    /// Those that may still be redeemed: when they were first sent, and how long they hold.
    pub fn outstanding(&self) -> impl Iterator<Item = (UnixTime, UnixTime)> {
        let may_be = self.entries.values().filter(|entry| entry.attempts > 0 && entry.flags & (FAILED | REDEEMED) == 0);
        may_be.map(|entry| (time(entry.first), time(entry.until)))
    }

    /// Rows whose invitation is over, each told once and so many at a time: someone has come with it, its time is out, or it can't be
    /// delivered.
    pub fn over(&mut self, now: Now, most: usize) -> impl Iterator<Item = VisitorId> {
        let is_out = move |entry: &Entry| entry.until > 0 && now.wall.minus(now.doubt) > time(entry.until);
        let is_over = move |entry: &Entry| entry.flags & (REDEEMED | FAILED) != 0 || (entry.is_done() && is_out(entry));
        let over = self.entries.values_mut().filter(move |entry| entry.flags & TOLD == 0 && is_over(entry));
        over.take(most).map(|entry| {
            entry.flags |= TOLD;
            VisitorId(entry.id)
        })
    }

    /// Every invitation that was begun: its batch, and whether it is redeemed.
    pub fn begun(&self) -> impl Iterator<Item = (u32, bool)> {
        let begun = self.entries.values().filter(|entry| entry.attempts > 0);
        begun.map(|entry| (batch_of(time(entry.first)), entry.flags & REDEEMED != 0))
    }

    /// How many there are.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    fn find(&self, code: Code) -> Option<(u64, Entry)> {
        let (key, rest) = split(code);
        self.entries.get(&key).filter(|entry| entry.rest == rest).map(|entry| (key, *entry))
    }
}

impl Entry {
    const fn is_done(self) -> bool {
        self.flags & (SENT | FAILED | LEFT) != 0
    }

    fn totals(self) -> Totals {
        let has = |flag| u64::from(self.flags & flag != 0);
        Totals { sent: has(SENT), due: u64::from(self.attempts > 0 && !self.is_done()), failed: has(FAILED), redeemed: has(REDEEMED) }
    }
}

impl Totals {
    const fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            due: self.due + other.due,
            failed: self.failed + other.failed,
            redeemed: self.redeemed + other.redeemed,
        }
    }

    const fn less(self, other: Self) -> Self {
        Self {
            sent: self.sent - other.sent,
            due: self.due - other.due,
            failed: self.failed - other.failed,
            redeemed: self.redeemed - other.redeemed,
        }
    }
}

/// When a message that could not be handed over is tried again: after a minute, then after twice as long each time, at most after two
/// hours, and up to half of that sooner by `draw`, in 0 to 1, so that what failed together does not come back together. `None`: it has been
/// tried for as long as a code holds, and is given up.
#[must_use]
pub fn again(attempts: Attempts, expires: Duration, draw: f64, now: UnixTime) -> Option<UnixTime> {
    let doublings = u32::from(attempts.count.saturating_sub(1)).min(16);
    let wait = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
    let again = now.plus(wait.mul_f64(1.0 - draw.clamp(0.0, 1.0) / 2.0));
    (again.since(attempts.first) < expires).then_some(again)
}

const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 3600);

/// So long a lost answer costs nobody the place.
pub const REPEAT: Duration = Duration::from_secs(600);

const SENT: u8 = 1;
const FAILED: u8 = 2;
const REDEEMED: u8 = 4;
const LEFT: u8 = 8;
/// Told to be over.
const TOLD: u8 = 16;

/// A map's key, and what it leaves of the code.
#[expect(clippy::cast_possible_truncation, reason = "the bits of a code, in two parts")]
const fn split(code: Code) -> (u64, u16) {
    ((code.bits() >> 16) as u64, code.bits() as u16)
}

fn secs(time: UnixTime) -> u32 {
    u32::try_from(time.as_millis() / 1000).unwrap_or(u32::MAX)
}

const fn time(secs: u32) -> UnixTime {
    UnixTime::from_secs(secs as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::time::Moment;

    const DAY: Duration = Duration::from_secs(86_400);
    const ANN: Option<VisitorId> = Some(VisitorId(1));
    const EVE: Option<VisitorId> = Some(VisitorId(2));

    fn code(n: u128) -> Code {
        Code::from_first_bits(n << 48)
    }

    fn id(n: u128) -> VisitorId {
        VisitorId(u64::try_from(n).unwrap())
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn now(secs: u64) -> Now {
        Now { mono: Moment::from_secs(secs), wall: at(secs), doubt: Duration::ZERO }
    }

    fn sent(n: u128) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.apply(code(n), id(n), at(100), Event::Sending { until: at(1000) });
        ledger.apply(code(n), id(n), at(101), Event::Sent);
        ledger
    }

    #[test]
    fn a_code_opens_the_door_once() {
        let mut ledger = sent(7);
        let invitation = Invitation { id: id(7), sent: at(100), until: at(1000), redeemed: None };
        assert_eq!(ledger.open(code(7), ANN, now(200)), Ok(invitation));
        assert_eq!(ledger.open(code(7), None, now(1000)), Ok(invitation));
        assert_eq!(ledger.open(code(7), None, now(1001)), Err(NoEntry::Expired));
        assert_eq!(ledger.open(code(8), ANN, now(200)), Err(NoEntry::Unknown));
        // the same first 64 bits
        assert_eq!(ledger.open(code(7 ^ 1 << 3), ANN, now(200)), Err(NoEntry::Unknown));
        ledger.apply(code(7), id(7), at(200), Event::Redeemed { ticket: ANN });
        assert_eq!(ledger.open(code(7), EVE, now(201)), Err(NoEntry::Used));
        assert_eq!(ledger.open(code(7), None, now(201)), Err(NoEntry::Used));
    }

    #[test]
    fn the_same_ticket_may_repeat_it_for_ten_minutes() {
        let mut ledger = sent(7);
        ledger.apply(code(7), id(7), at(990), Event::Redeemed { ticket: ANN });
        let again = Invitation { id: id(7), sent: at(100), until: at(1000), redeemed: Some(at(990)) };
        assert_eq!(ledger.open(code(7), ANN, now(1590)), Ok(again));
        assert_eq!(ledger.open(code(7), ANN, now(1591)), Err(NoEntry::Used));
        ledger.forget_repeats(now(1590));
        assert_eq!(ledger.open(code(7), ANN, now(1590)), Ok(again));
        ledger.forget_repeats(now(1591));
        assert_eq!(ledger.open(code(7), ANN, now(1590)), Err(NoEntry::Used));
        // who has shown no ticket can't be told from another
        let mut ledger = sent(8);
        ledger.apply(code(8), id(8), at(200), Event::Redeemed { ticket: None });
        assert_eq!(ledger.open(code(8), None, now(201)), Err(NoEntry::Used));
    }

    #[test]
    fn a_clock_in_doubt_is_decided_for_the_visitor() {
        let ledger = sent(7);
        let doubt = Now { doubt: Duration::from_secs(60), ..now(1060) };
        assert!(ledger.open(code(7), None, doubt).is_ok());
        assert_eq!(ledger.open(code(7), None, Now { doubt: Duration::from_secs(59), ..doubt }), Err(NoEntry::Expired));
    }

    #[test]
    fn what_was_interrupted_or_deferred_is_due_again() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.delivery(code(7)), Delivery::New);
        ledger.apply(code(7), id(7), at(100), Event::Sending { until: at(1000) });
        let attempts = Attempts { count: 1, first: at(100), again: at(0) };
        assert_eq!(ledger.delivery(code(7)), Delivery::Due(attempts));
        // the message may be there already
        assert!(ledger.open(code(7), None, now(150)).is_ok());
        ledger.apply(code(7), id(7), at(110), Event::Deferred { again: at(170) });
        assert_eq!(ledger.delivery(code(7)), Delivery::Due(Attempts { again: at(170), ..attempts }));
        ledger.apply(code(7), id(7), at(170), Event::Sending { until: at(1070) });
        assert_eq!(ledger.delivery(code(7)), Delivery::Due(Attempts { count: 2, ..attempts }));
        assert_eq!(ledger.totals(), Totals { due: 1, ..Totals::default() });
        ledger.apply(code(7), id(7), at(171), Event::Sent);
        assert_eq!(ledger.delivery(code(7)), Delivery::Done);
        assert_eq!(ledger.totals(), Totals { sent: 1, ..Totals::default() });
        assert_eq!(ledger.open(code(7), None, now(1070)).map(|invitation| invitation.sent), Ok(at(100)));
        for event in [Event::Failed, Event::Left] {
            let mut ledger = Ledger::default();
            ledger.apply(code(7), id(7), at(100), Event::Sending { until: at(1000) });
            ledger.apply(code(7), id(7), at(101), Event::Deferred { again: at(170) });
            ledger.apply(code(7), id(7), at(102), event);
            assert_eq!(ledger.delivery(code(7)), Delivery::Done, "{event:?}");
        }
    }

    #[test]
    fn pauses_double_and_have_an_end() {
        let attempts = |count| Attempts { count, first: at(0), again: at(0) };
        let pause = |count, draw| again(attempts(count), DAY, draw, at(1000)).map(|again| again.since(at(1000)).as_secs());
        assert_eq!([1, 2, 3, 7, 8, 9, 255].map(|count| pause(count, 0.0).unwrap()), [60, 120, 240, 3840, 7200, 7200, 7200]);
        assert_eq!(pause(1, 1.0), Some(30));
        assert_eq!(again(attempts(3), DAY, 0.0, at(86_400 - 241)), Some(at(86_399)));
        assert_eq!(again(attempts(3), DAY, 0.0, at(86_400 - 240)), None);
    }

    #[test]
    fn an_invitation_is_over_when_it_was_used_or_can_not_be_any_more() {
        let over = |ledger: &mut Ledger, secs| ledger.over(now(secs), 10).next();
        let mut ledger = sent(7);
        assert_eq!((over(&mut ledger, 1000), over(&mut ledger, 1001)), (None, Some(id(7))));
        assert_eq!(over(&mut ledger, 1001), None, "it was told");
        let mut ledger = sent(7);
        ledger.apply(code(7), id(7), at(200), Event::Redeemed { ticket: ANN });
        assert_eq!(over(&mut ledger, 201), Some(id(7)));
        let mut ledger = Ledger::default();
        ledger.apply(code(8), id(8), at(100), Event::Sending { until: at(1000) });
        assert_eq!(over(&mut ledger, 2000), None, "it is tried again");
        ledger.apply(code(8), id(8), at(101), Event::Failed);
        assert_eq!(ledger.over(now(101), 0).count(), 0);
        assert_eq!(over(&mut ledger, 101), Some(id(8)));
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<(u64, Entry)>(), 32);
    }

    proptest! {
        /// What is in the files twice, or was torn out of them, makes no totals that are below zero.
        #[test]
        fn totals_fit_whatever_is_read(events in proptest::collection::vec((0..3_u128, 0..6_u8), 0..40)) {
            let mut ledger = Ledger::default();
            for (n, event) in events {
                let event = match event {
                    0 => Event::Sending { until: at(1000) },
                    1 => Event::Sent,
                    2 => Event::Deferred { again: at(170) },
                    3 => Event::Failed,
                    4 => Event::Redeemed { ticket: ANN },
                    _ => Event::Left,
                };
                ledger.apply(code(n), id(n), at(100), event);
            }
            let mut totals = Totals::default();
            for entry in ledger.entries.values() {
                totals = totals.plus(entry.totals());
            }
            prop_assert_eq!(ledger.totals(), totals);
        }
    }
}
