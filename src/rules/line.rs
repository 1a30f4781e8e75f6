//! The line: first come first served, with no memory of any visitor.
//!
//! A ticket's position is the grain of time in which it was issued, and a keyed hash of its id as the fraction: it follows from the
//! ticket alone, so it is the same after a restart and on every node. The line stands at one position. Who is before it may enter; it
//! only advances, each tick to where as many of those who still attend stand before it as may enter until they come back, so that
//! tickets whose holders have left hold nobody up.
//!
//! Absent: the keyed hash itself (`keyring.rs`), the tokens that bind whatever the line says, and the count of who attends
//! (`gate/attending.rs`).

use std::time::Duration;

use super::outlook::NOBODY;
use super::time::{Now, UnixTime};
use super::uniform::unit;

/// Those who came within so long came at once, and their order is drawn. Much shorter, and a program that asks in the first millisecond
/// stands before everyone who clicked; much longer, and people see others who came plainly later go in before them.
///
/// It is a constant, and not the refresh interval, which stretches with the crowd and may be reloaded: a position must not move.
pub const GRAIN: Duration = Duration::from_secs(10);

/// Bins of a grain in the count of who attends: in the largest crowds hundreds come in a grain, and tens may enter in a tick.
const BINS: f64 = 8.0;

/// A place in the order of arrival, in grains since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Position(f64);

impl Position {
    /// That of a ticket. `hash` is uniform over 64 bits.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a grain, to the microsecond")]
    pub fn of(issued: UnixTime, hash: u64) -> Self {
        Self((issued.as_millis() / grain_ms()) as f64 + unit(hash))
    }

    /// That of a point in time: everyone of the grains before it stands before it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact for milliseconds until the year 280,000")]
    pub fn at(time: UnixTime) -> Self {
        Self(time.as_millis() as f64 / grain_ms() as f64)
    }

    /// From grains since 1970; `None` if that is no position.
    #[must_use]
    pub fn from_grains(grains: f64) -> Option<Self> {
        (grains.is_finite() && grains >= 0.0).then_some(Self(grains))
    }

    /// Grains since 1970.
    #[must_use]
    pub const fn grains(self) -> f64 {
        self.0
    }

    /// The point in time at this position.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "not negative, and `as` saturates"
    )]
    pub fn time(self) -> UnixTime {
        UnixTime::from_millis((self.0 * grain_ms() as f64) as u64)
    }

    /// The bin in which it is counted.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and `as` saturates")]
    pub fn bin(self) -> u64 {
        (self.0 * BINS) as u64
    }
}

fn grain_ms() -> u64 {
    u64::try_from(GRAIN.as_millis()).unwrap_or(u64::MAX)
}

/// Who waits and still attends, by position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attending {
    /// In the order of bins.
    bins: Vec<Bin>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bin {
    bin: u64,
    /// How many stand in the bins before.
    before: f64,
    count: f64,
}

impl Attending {
    /// From the count of each bin, in their order.
    #[must_use]
    pub fn new(counts: impl Iterator<Item = (u64, f64)>) -> Self {
        let mut before = 0.0;
        let bins = counts.map(|(bin, count)| {
            let bin = Bin { bin, before, count };
            before += count;
            bin
        });
        Self { bins: bins.collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.bins.last().map_or(0.0, |bin| bin.before + bin.count)
    }

    /// How many stand before one who attends. Within a bin they are spread evenly, itself aside.
    #[must_use]
    pub fn ahead(&self, position: Position) -> f64 {
        let of = position.bin();
        let after = self.bins.partition_point(|bin| bin.bin <= of);
        let Some(bin) = after.checked_sub(1).and_then(|index| self.bins.get(index)) else { return 0.0 };
        let others = if bin.bin == of { (bin.count - 1.0).max(0.0) * (position.0 * BINS).fract() } else { bin.count };
        bin.before + others
    }

    /// The position before which so many stand: behind the last, if there are fewer.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bins are numbered from 1970")]
    pub fn reach(&self, count: f64) -> Position {
        let index = self.bins.partition_point(|bin| bin.before + bin.count < count);
        let (bin, share) = match (self.bins.get(index), self.bins.last()) {
            (Some(bin), _) => (bin.bin, (count - bin.before).max(0.0) / bin.count.max(f64::MIN_POSITIVE)),
            (None, Some(last)) => (last.bin, 1.0),
            (None, None) => return Position::default(),
        };
        Position((bin as f64 + share.min(1.0)) / BINS)
    }
}

/// Where the line stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Who stands before this may enter.
    pub at: Position,
    /// There is room for everyone who attends, and for who comes now.
    pub open: bool,
}

/// What a tick knows of who may enter next.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// How many may enter in the time in which those who attend were counted, in which each of them comes back once, and in the tick
    /// until it is seen that they did.
    pub may_enter: f64,
    /// The position of who comes now.
    pub now: Position,
    /// Everyone who waits has had the time to be counted: a line that nobody seems to stand in is empty.
    pub all_counted: bool,
}

impl Line {
    /// One that nobody stands in.
    #[must_use]
    pub const fn empty(now: Position) -> Self {
        Self { at: now, open: true }
    }

    /// Everyone may enter, and who comes now.
    #[must_use]
    pub fn opened(self, now: Position) -> Self {
        Self { at: if now > self.at { now } else { self.at }, open: true }
    }

    /// Where it begins for a crowd that stood in no line so far: nobody who waits is passed over, and only the longest waiting enter.
    #[must_use]
    pub fn begin(attending: &Attending, room: Room) -> Self {
        Self { at: Position::default(), open: false }.advance(attending, room)
    }

    /// Where it stands next. It never goes back.
    ///
    /// Who is passed comes back within an epoch, half an epoch later by and large. So of those who enter steadily there are at any time
    /// half of an epoch's before the line; with all of them twice as many would come as may enter.
    #[must_use]
    pub fn advance(self, attending: &Attending, room: Room) -> Self {
        let passed = room.may_enter / 2.0;
        if room.all_counted && passed > 0.0 && attending.count() <= passed {
            return self.opened(room.now);
        }
        let reached = attending.reach(passed);
        Self { at: if reached > self.at { reached } else { self.at }, open: false }
    }

    /// Who stands before this may enter: everyone, in grains since 1970, while it is open.
    #[must_use]
    pub const fn limit(&self) -> f64 {
        if self.open { f64::INFINITY } else { self.at.0 }
    }
}

/// How someone who waits stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many of those who wait and attend stand before: 0 is next.
    pub ahead: u64,
    /// How long it still takes if as many go on entering; `None` while nobody does.
    pub wait: Option<Duration>,
}

impl Place {
    /// Counted from 1: that one is next.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.ahead.saturating_add(1)
    }
}

/// How long someone still waits with so many ahead, while so many a second enter; `None` while nobody does.
///
/// The line is as far ahead of those who enter as it takes who is passed to come back; nobody does before `next`.
#[must_use]
pub fn wait(ahead: f64, entering_per_second: f64, next: Duration) -> Option<Duration> {
    let turn = (ahead + 1.0) / entering_per_second;
    (entering_per_second >= NOBODY).then(|| Duration::try_from_secs_f64(turn).unwrap_or(Duration::MAX).max(next))
}

/// The clock by which tickets are issued: the wall clock, but one that is never set back. A ticket that was issued after another stands
/// behind it, whatever the wall clock did between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IssueClock {
    ticked: Now,
    ahead: Duration,
}

/// Smaller differences between the clocks are drift, and no grain is as short.
const DRIFT_MAX: Duration = Duration::from_millis(500);

impl IssueClock {
    /// One that goes on from where it stood, if that is later than now.
    #[must_use]
    pub fn new(now: Now, stood: Option<UnixTime>) -> Self {
        Self { ticked: now, ahead: stood.map_or(Duration::ZERO, |stood| stood.since(now.wall)) }
    }

    /// Takes in by how much the wall clock was set since the last tick.
    pub fn tick(&mut self, now: Now) {
        let expected = self.ticked.wall.plus(now.mono.since(self.ticked.mono));
        let (back, forward) = (expected.since(now.wall), now.wall.since(expected));
        if back > DRIFT_MAX {
            self.ahead = self.ahead.saturating_add(back);
        } else if forward > DRIFT_MAX {
            self.ahead = self.ahead.saturating_sub(forward);
        }
        self.ticked = now;
    }

    /// What it shows at a time of the wall clock: no less than at the last tick.
    #[must_use]
    pub fn at(&self, wall: UnixTime) -> UnixTime {
        wall.max(self.ticked.wall).plus(self.ahead)
    }

    /// The time of the wall clock, as it stands now, at which a ticket was issued.
    #[must_use]
    pub const fn wall(&self, issued: UnixTime) -> UnixTime {
        issued.minus(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::Moment;
    use super::*;

    fn secs(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + secs)
    }

    fn position(grains: f64) -> Position {
        Position::from_grains(180_000_000.0 + grains).unwrap()
    }

    /// So many in each grain, evenly.
    fn crowd(grains: &[f64]) -> Attending {
        let bins = grains.iter().enumerate().flat_map(|(grain, count)| (0..8).map(move |bin| (grain, bin, count / 8.0)));
        Attending::new(bins.map(|(grain, bin, count)| ((180_000_000 + grain as u64) * 8 + bin, count)))
    }

    fn close(a: Position, b: Position) -> bool {
        (a.grains() - b.grains()).abs() < 1e-6
    }

    const fn room(may_enter: f64) -> Room {
        Room { may_enter, now: Position(180_000_100.0), all_counted: true }
    }

    #[test]
    fn who_came_in_a_later_grain_stands_behind_and_within_one_the_hash_decides() {
        assert!(Position::of(secs(9), u64::MAX / 2) < Position::of(secs(10), 0));
        assert!(Position::of(secs(9), 7 << 40) == Position::of(secs(0), 7 << 40), "no race within a grain");
        assert!(Position::of(secs(9), 0) < Position::of(secs(0), u64::MAX / 2));
        assert!(close(Position::of(secs(25), u64::MAX / 4), position(2.25)));
    }

    #[test]
    fn a_position_is_a_point_in_time() {
        assert_eq!(Position::at(secs(25)).time(), secs(25));
        assert!(close(Position::at(secs(25)), position(2.5)));
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Position::from_grains(wrong), None);
        }
    }

    #[test]
    fn those_ahead_are_counted_to_within_a_bin() {
        let crowd = crowd(&[80.0, 0.0, 40.0]);
        for (at, before) in
            [(-5.0, 0.0), (0.0, 0.0), (0.5, 40.0), (0.0625, 4.5), (1.0, 80.0), (1.7, 80.0), (2.25, 90.0), (3.0, 120.0), (99.0, 120.0)]
        {
            assert!((crowd.ahead(position(at)) - before).abs() < 1e-3, "{at}: {}", crowd.ahead(position(at)));
        }
        for (count, at) in [(0.0, 0.0), (40.0, 0.5), (80.0, 1.0), (90.0, 2.25), (500.0, 3.0)] {
            assert!(close(crowd.reach(count), position(at)), "{count}: {:?}", crowd.reach(count));
        }
        let alone = Attending::new([(position(0.3).bin(), 1.0)].into_iter());
        assert!(alone.ahead(position(0.3)).abs() < 1e-9, "nobody stands before itself");
        assert_eq!(Attending::default().reach(5.0), Position::default());
        assert!(Attending::default().count().abs() < 1e-9 && (crowd.count() - 120.0).abs() < 1e-9);
    }

    #[test]
    fn the_line_advances_to_where_as_many_stand_before_it_as_may_enter() {
        let line = Line::begin(&crowd(&[80.0, 80.0, 80.0]), room(200.0));
        assert!(close(line.at, position(1.25)) && !line.open, "{line:?}");
        // those have entered, and some of the others have left: it does not wait for them
        let line = line.advance(&crowd(&[0.0, 20.0, 40.0, 80.0]), room(200.0));
        assert!(close(line.at, position(3.5)), "{line:?}");
    }

    #[test]
    fn the_line_never_goes_back() {
        let line = Line { at: position(5.0), open: false };
        for may_enter in [0.0, 20.0, 200.0] {
            assert_eq!(line.advance(&crowd(&[80.0, 80.0, 80.0]), room(may_enter)), line, "{may_enter}");
        }
        let earlier = Room { now: position(2.0), ..room(1000.0) };
        assert_eq!(line.advance(&Attending::default(), earlier), Line { open: true, ..line });
    }

    #[test]
    fn the_line_opens_when_there_is_room_for_everyone() {
        let few = crowd(&[80.0]);
        let line = Line::begin(&few, room(160.0));
        assert!(line.open && close(line.at, position(100.0)) && line.limit().is_infinite());
        assert!(!line.advance(&few, room(159.0)).open);
        assert!(!Line::begin(&Attending::default(), room(0.0)).open, "nobody may enter");
        let restarted = Line { at: position(1.0), open: false }.advance(&few, Room { all_counted: false, ..room(160.0) });
        assert!(!restarted.open, "others may not have come back yet");
        assert!((restarted.limit() - position(1.0).grains()).abs() < 1e-6);
    }

    #[test]
    fn a_crowd_that_stood_in_no_line_goes_in_from_the_oldest_on() {
        let line = Line::begin(&crowd(&[8.0, 80.0]), room(0.0));
        assert!(close(line.at, position(0.0)));
        let line = Line::begin(&crowd(&[8.0, 80.0]), room(8.0));
        assert!(close(line.at, position(0.5)), "{line:?}");
    }

    /// Played out: each of a crowd comes back once an epoch, and enters if the line has passed it.
    #[test]
    fn as_many_enter_as_may_and_nobody_is_passed_over() {
        // three a second come for ten minutes, and two a second may enter
        let mut waiting: Vec<(u64, f64)> = Vec::new();
        let mut line = Line::empty(Position::at(secs(0)));
        let (mut entered, mut newest, mut inversion) = (Vec::new(), 0, 0);
        for second in 0..600_u64 {
            for visitor in 0..3 {
                let hash = (second * 3 + visitor).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                waiting.push((second, Position::of(secs(second), hash).grains()));
            }
            let mut bins: Vec<(u64, f64)> = waiting.iter().map(|(_, at)| (Position(*at).bin(), 1.0)).collect();
            bins.sort_unstable_by_key(|bin| bin.0);
            bins.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 += next.1;
                }
                same
            });
            line = line
                .advance(&Attending::new(bins.into_iter()), Room { may_enter: 22.0, now: Position::at(secs(second)), all_counted: true });
            let comes = |came: u64| second > came && (second - came).is_multiple_of(10);
            let (enters, stays): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|&(came, at)| comes(came) && at < line.limit());
            for (came, _) in enters {
                inversion = inversion.max(newest - came.min(newest));
                newest = newest.max(came);
                entered.push(second);
            }
            waiting = stays;
        }
        let late = entered.iter().filter(|second| **second >= 300).count();
        assert!((540..=660).contains(&late), "{late}");
        // a grain, and an epoch for the way back
        assert!(inversion <= 20, "{inversion}");
    }

    #[test]
    fn a_wait_is_what_is_ahead_and_the_way_back() {
        let wait = |ahead, rate, next| wait(ahead, rate, Duration::from_secs(next)).map(|wait| wait.as_secs());
        assert_eq!(wait(100.0, 2.0, 10), Some(50));
        assert_eq!(wait(1.0, 2.0, 7), Some(7));
        assert_eq!(wait(100.0, 0.0, 10), None);
        assert_eq!(wait(1e300, 1.0, 10), Some(u64::MAX));
        assert_eq!(wait(1.0, 0.001, 10), None);
    }

    fn now(mono: u64, wall: u64) -> Now {
        Now { mono: Moment::from_secs(mono), wall: secs(wall), doubt: Duration::ZERO }
    }

    #[test]
    fn a_clock_that_is_set_back_puts_nobody_in_front() {
        let mut clock = IssueClock::new(now(0, 90_000), None);
        clock.tick(now(60, 90_060));
        assert_eq!(clock.at(secs(90_061)), secs(90_061));
        assert_eq!(clock.at(secs(3_661)), secs(90_060), "before the tick has seen it");
        clock.tick(now(62, 3_662));
        assert_eq!(clock.at(secs(3_670)), secs(90_070));
        assert_eq!(clock.wall(secs(90_060)), secs(3_660), "and it has waited as long as it has");
        clock.tick(now(63, 50_063));
        assert_eq!(clock.at(secs(50_063)), secs(90_063), "set forward, it is where it was");
        clock.tick(now(64, 100_064));
        assert_eq!(clock.at(secs(100_064)), secs(100_064));
    }

    #[test]
    fn drift_is_not_followed() {
        let mut clock = IssueClock::new(now(0, 0), None);
        let slow = Now { mono: Moment::from_micros(1_400_000), wall: secs(1), doubt: Duration::ZERO };
        clock.tick(slow);
        assert_eq!(clock.at(secs(2)), secs(2));
    }

    #[test]
    fn after_a_restart_the_clock_is_not_behind_where_it_stood() {
        assert_eq!(IssueClock::new(now(0, 100), Some(secs(500))).at(secs(110)), secs(510));
        assert_eq!(IssueClock::new(now(0, 600), Some(secs(500))).at(secs(610)), secs(610));
    }
}
