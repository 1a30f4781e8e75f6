//! The line as it stands, and what moves it: how fast newcomers may enter, who attends, and who is held.

use std::sync::Arc;
use std::time::Duration;

use super::regime::{Regime, Staked};
use super::{RememberedLine, TICK};
use crate::rules::draw::Recent;
use crate::rules::line::{Attending, IssueClock, Line, Position, Room};
use crate::rules::policy::Mode;
use crate::rules::time::{Now, UnixTime};

/// The line as it stands. Its clock, its rate and who attends are kept in a lottery too.
#[derive(Clone)]
pub(super) struct LineInForce {
    pub(super) line: Line,
    /// Where it stood: a ticket is held against that at the beginning of its epoch, so that reloading buys nothing.
    pub(super) limits: Recent,
    pub(super) attending: Arc<Attending>,
    /// In how many seconds they were counted.
    counted_s: f64,
    /// The share of them that may enter in that time, 0 to 1.
    pub(super) share: f64,
    /// Newcomers a second by which it advances.
    rate: f64,
    pub(super) clock: IssueClock,
}

/// What decides how far the line advances, beside who attends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) mode: Mode,
    /// Tickets that have been passed, have come back, and found no token.
    pub(super) held: f64,
    /// Everyone who waits has had the time to be counted.
    pub(super) all_counted: bool,
    pub(super) epoch: Duration,
}

impl LineInForce {
    /// One that nobody stands in, or the one that was saved.
    pub(super) fn new(saved: Option<RememberedLine>, clock: IssueClock, rate: f64, now: UnixTime) -> Self {
        let empty = Line::empty(Position::at(clock.at(now)));
        let line = saved.map_or(empty, |saved| Line { at: saved.at, open: false });
        Self { line, limits: Recent::new(now, line.limit()), attending: Arc::default(), counted_s: 0.0, share: 1.0, rate, clock }
    }

    /// Takes in who attended in the last epoch, and how many a second may enter.
    pub(super) fn measure(&mut self, (attending, counted_s): (Attending, f64), newcomers_per_second: f64, seconds: f64) {
        (self.attending, self.counted_s) = (Arc::new(attending), counted_s);
        self.rate += (newcomers_per_second - self.rate) * (1.0 - (-seconds / RATE_MEMORY.as_secs_f64()).exp());
    }

    /// Moves it to where it stands next.
    pub(super) fn advance(&mut self, pace: Pace, now: Now) {
        let room = self.room(pace, now);
        let next = if pace.mode == Mode::Open { self.line.opened(room.now) } else { self.line.advance(&self.attending, room) };
        self.stand(next, room, now.wall, pace.epoch);
    }

    /// Begins for a crowd that stood in no line so far.
    pub(super) fn begin(&mut self, pace: Pace, now: Now) {
        let room = self.room(pace, now);
        let begun = Line::begin(&self.attending, room);
        self.limits = Recent::new(now.wall, begun.limit());
        self.stand(begun, room, now.wall, pace.epoch);
    }

    /// What is to outlive a restart, if someone stands in it.
    pub(super) fn remembered(&self, now: UnixTime) -> Option<RememberedLine> {
        (!self.line.open).then(|| RememberedLine { at: self.line.at, clock: self.clock.at(now) })
    }

    /// Whether it has come to a ticket, as it stood when the ticket's epoch began.
    pub(super) fn has_reached(&self, regime: &Regime, staked: &Staked) -> bool {
        staked.stake.is_ok_and(|stake| regime.position(&staked.ticket).grains() < self.limits.at(stake.at))
    }

    /// Who may enter next. Those who are held come before those who attend.
    fn room(&self, pace: Pace, now: Now) -> Room {
        let wanted = self.rate * HELD.as_secs_f64();
        let rate = (self.rate + (wanted - pace.held) / HELD_SETTLE.as_secs_f64()).max(0.0);
        let may_enter = match pace.mode {
            Mode::Auto | Mode::Open | Mode::Observe => rate * (self.counted_s + TICK.as_secs_f64()),
            // nobody is next, whatever is left
            Mode::Closed | Mode::Fixed(_) => 0.0,
        };
        Room { may_enter, now: Position::at(self.clock.at(now.wall)), all_counted: pace.all_counted }
    }

    fn stand(&mut self, line: Line, room: Room, now: UnixTime, epoch: Duration) {
        let count = self.attending.count();
        self.share = if line.open { 1.0 } else { room.may_enter.min(count) / count.max(f64::MIN_POSITIVE) };
        self.line = line;
        self.limits.push(now, line.limit(), epoch);
    }
}

/// The memory of the rate by which the line advances. That of one tick swings, and who was passed at the height of a swing would be held
/// for the rest of it; much longer, and the line would run on into a surge at the pace of the calm before.
const RATE_MEMORY: Duration = Duration::from_secs(10);

/// So much of the rate is kept held: in the seconds in which more may enter than come back, they do.
const HELD: Duration = Duration::from_secs(1);

/// More of them, or fewer, are worked off within this.
const HELD_SETTLE: Duration = Duration::from_secs(5);
