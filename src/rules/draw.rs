//! Draws: how a rate of newcomers becomes odds that reloading cannot better.
//!
//! A ticket draws once an epoch: a keyed hash of ticket and epoch, against the odds and with the weight as they stood when that epoch
//! began, so the answer is the same all epoch long. The phase of the epoch differs per ticket, so there is no herd. Weights grow with
//! unbroken attendance, so that luck matters less the longer one waits; and a draw counts for no more than the part of an epoch that
//! was waited for it, so that a new ticket's early first draw is nothing to collect.
//!
//! Absent: the keyed hash itself (`keyring.rs`), and any memory of a visitor.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::UnixTime;

/// One epoch of one ticket, named by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Milliseconds since 1970, shifted by the ticket's phase. It names the epoch in the draw's hash and in the count of tickets.
    pub began: UnixTime,
    /// When the next one begins.
    pub ends: UnixTime,
}

impl Epoch {
    /// The epoch that a ticket is in. Counted from 1970, so that it is the same after a restart and on every node.
    #[must_use]
    pub fn of(now: UnixTime, length: Duration, phase: u64) -> Self {
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1);
        let shift = phase % length_ms;
        let since = (now.as_millis() + shift) % length_ms;
        let began = UnixTime::from_millis(now.as_millis() - since.min(now.as_millis()));
        Self { began, ends: began.plus(length) }
    }
}

/// What is added to a ticket's weight in this time of attendance. Linear ageing: the simulated wait of 95 % is that of a plain
/// lottery, the longest wait a tenth shorter, and the odds can be told in one sentence.
pub const AGEING: Duration = Duration::from_secs(60);

/// The most that a ticket weighs: an hour of attendance. Beyond, weights of a day-old crowd would drown every newcomer.
const WEIGHT_MAX: f64 = 61.0;

/// The weight of a ticket in the draw: 1 at first, and 1 more a minute.
#[must_use]
pub fn weight(issued: UnixTime, at: UnixTime) -> f64 {
    (1.0 + at.since(issued).as_secs_f64() / AGEING.as_secs_f64()).min(WEIGHT_MAX)
}

/// Whether a draw is won. `draw` is uniform over 64 bits. Odds of 1 are room for everyone, whatever they weigh.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "53 bits of a draw are enough: no odds are that small")]
pub fn wins(draw: u64, odds: f64, weight: f64) -> bool {
    odds >= 1.0 || (draw as f64) < odds * weight * 2f64.powi(64)
}

/// When a new ticket comes back to draw for the first time. It draws no sooner: against odds that already know of it, and not against
/// those of the calm before a surge that it came with.
pub const FIRST_RETURN: Duration = Duration::from_secs(2);

/// What a ticket draws with in one epoch: the same whenever within it the visitor asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stake {
    /// The time as of which it draws: the odds of then, and its weight of then.
    pub at: UnixTime,
    /// The part of an epoch that was waited for this draw, 0 to 1; 1 from the second whole epoch on. Else whoever takes a new ticket
    /// every [`FIRST_RETURN`] draws several times as often as who waits.
    pub part: f64,
}

impl Stake {
    /// What a ticket draws with in this epoch; if it is too young to draw, the time at which it may.
    ///
    /// # Errors
    /// When it draws for the first time.
    pub fn of(epoch: Epoch, issued: UnixTime, now: UnixTime) -> Result<Self, UnixTime> {
        if issued > now {
            // the clock was set back: how long it has waited is unknown, and it has waited
            return Ok(Self { at: epoch.began, part: 1.0 });
        }
        let first = issued.plus(FIRST_RETURN);
        if now < first {
            return Err(first);
        }
        let length = epoch.ends.since(epoch.began);
        let at = epoch.began.max(first);
        let before = epoch.began.minus(length).max(first);
        let since = if before < epoch.began { before } else { issued };
        Ok(Self { at, part: (at.since(since).as_secs_f64() / length.as_secs_f64()).min(1.0) })
    }

    /// What it weighs in the draw.
    #[must_use]
    pub fn weight(&self, issued: UnixTime) -> f64 {
        self.part * weight(issued, self.at)
    }
}

/// A figure of the recent past, newest last, such as the odds: each ticket draws against those at the beginning of its epoch, and is
/// held against where the line stood then.
#[derive(Clone, Debug)]
pub struct Recent {
    /// Never empty.
    ring: VecDeque<(UnixTime, f64)>,
}

impl Recent {
    /// What holds from `now` on, and has held before.
    #[must_use]
    pub fn new(now: UnixTime, value: f64) -> Self {
        Self { ring: VecDeque::from([(now, value)]) }
    }

    /// Adds what holds from `now` on, and forgets what no epoch still begins in.
    pub fn push(&mut self, now: UnixTime, value: f64, epoch: Duration) {
        // a wall clock set back leaves entries of the future: they no longer hold
        while self.ring.back().is_some_and(|&(time, _)| time >= now) {
            self.ring.pop_back();
        }
        self.ring.push_back((now, value));
        let oldest = now.minus(epoch);
        while self.ring.len() > 1 && self.ring[1].0 <= oldest {
            self.ring.pop_front();
        }
    }

    /// What holds now.
    #[must_use]
    pub fn current(&self) -> f64 {
        self.ring.back().map_or(0.0, |&(_, value)| value)
    }

    /// What held at `time`.
    #[must_use]
    pub fn at(&self, time: UnixTime) -> f64 {
        let after = self.ring.partition_point(|&(start, _)| start <= time);
        let found = self.ring.get(after.saturating_sub(1));
        found.map_or(0.0, |&(_, value)| value)
    }
}

/// Those who have won before and wait for a token are let in within this. While more of them wait, nobody wins: a crowd that has only
/// just come would win an epoch's worth of tokens in its first seconds, and those who ask most often would get them.
const HELD_SETTLE: Duration = Duration::from_secs(2);

/// The odds that fill a rate of newcomers after the `held`: those tickets have won, wait for a token, and come first.
#[must_use]
pub fn odds(newcomers_per_second: f64, epoch: Duration, held: f64, weights: f64) -> f64 {
    let left = newcomers_per_second - held / HELD_SETTLE.as_secs_f64();
    if weights <= 0.0 {
        return if left > 0.0 { 1.0 } else { 0.0 };
    }
    (left * epoch.as_secs_f64() / weights).clamp(0.0, 1.0)
}

/// Polls a second that a waiting crowd may ask for before its refresh interval is stretched: a few percent of one core.
const POLLS: f64 = 2000.0;

/// The refresh interval for a crowd: doubled until it is long enough, halved only when half of it would do with room to spare, so
/// that a crowd at the edge does not flip it.
#[must_use]
pub fn stretch(current: Duration, waiting: f64, refresh: Duration, refresh_max: Duration) -> Duration {
    let needed = waiting / POLLS;
    let mut length = current.clamp(refresh, refresh_max);
    while length < refresh_max && length.as_secs_f64() < needed {
        length = (length * 2).min(refresh_max);
    }
    while length > refresh && length.as_secs_f64() / 2.0 > needed * 1.5 {
        length = (length / 2).max(refresh);
    }
    length
}

/// Whether weights grow with attendance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// They do.
    Growing,
    /// Each is 1: the operator's odds are the odds.
    Even,
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + ms)
    }

    #[test]
    fn an_epoch_contains_its_time_and_lasts_its_length() {
        for phase in [0, 1, 9_999, 12_345_678_901] {
            for ms in [0, 1, 5_000, 9_999, 10_000] {
                let epoch = Epoch::of(at(ms), E, phase);
                assert!(epoch.began <= at(ms) && at(ms) < epoch.ends, "{phase} {ms}");
                assert_eq!(epoch.ends.since(epoch.began), E);
                assert_eq!(Epoch::of(epoch.ends, E, phase).began, epoch.ends);
            }
        }
    }

    #[test]
    fn phases_spread_the_beginnings() {
        let began: std::collections::HashSet<u64> = (0..10u64).map(|i| Epoch::of(at(0), E, i * 1000).began.as_millis() % 10_000).collect();
        assert_eq!(began.len(), 10);
    }

    #[test]
    fn weight_grows_by_one_a_minute_to_its_bound() {
        assert!((weight(at(0), at(0)) - 1.0).abs() < 1e-9);
        assert!((weight(at(0), at(90_000)) - 2.5).abs() < 1e-9);
        assert!((weight(at(0), at(1_000_000_000)) - WEIGHT_MAX).abs() < 1e-9);
        assert!((weight(at(5000), at(0)) - 1.0).abs() < 1e-9, "a clock set back takes nothing away");
    }

    #[test]
    fn a_draw_is_won_below_the_odds() {
        assert!(wins(0, 1e-9, 1.0));
        assert!(wins(u64::MAX / 2, 0.51, 1.0) && !wins(u64::MAX / 2, 0.49, 1.0));
        assert!(wins(u64::MAX / 2, 0.26, 2.0));
        assert!(!wins(0, 0.0, 5.0));
        assert!(wins(u64::MAX, 1.0, 1.1));
    }

    #[test]
    fn odds_are_those_at_the_beginning_of_the_epoch() {
        let mut odds = Recent::new(at(0), 1.0);
        assert!((odds.at(at(0)) - 1.0).abs() < 1e-9);
        for (tick, value) in [(0, 1.0), (1000, 0.5), (2000, 0.2)] {
            odds.push(at(tick), value, E);
        }
        assert!((odds.at(at(999)) - 1.0).abs() < 1e-9);
        assert!((odds.at(at(1000)) - 0.5).abs() < 1e-9);
        assert!((odds.at(at(9000)) - 0.2).abs() < 1e-9);
        assert!((odds.current() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn old_odds_are_forgotten_after_an_epoch() {
        let mut odds = Recent::new(at(0), 1.0);
        for tick in 0..1000u32 {
            odds.push(at(u64::from(tick) * 1000), f64::from(tick) / 1000.0, E);
        }
        assert!(odds.ring.len() <= 12, "{}", odds.ring.len());
        assert!((odds.at(at(989_500)) - 0.989).abs() < 1e-9);
    }

    #[test]
    fn a_clock_set_back_drops_the_odds_of_the_future() {
        let mut odds = Recent::new(at(0), 1.0);
        odds.push(at(100_000), 1.0, E);
        odds.push(at(1000), 0.1, E);
        assert!((odds.current() - 0.1).abs() < 1e-9 && (odds.at(at(200_000)) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn odds_fill_the_rate_after_those_who_have_won_before() {
        assert!((odds(5.0, E, 0.0, 100.0) - 0.5).abs() < 1e-9);
        assert!((odds(5.0, E, 4.0, 100.0) - 0.3).abs() < 1e-9);
        assert!((odds(5.0, E, 10.0, 100.0)).abs() < 1e-9);
        assert!((odds(50.0, E, 0.0, 100.0) - 1.0).abs() < 1e-9);
        assert!((odds(1.0, E, 0.0, 0.0) - 1.0).abs() < 1e-9 && odds(0.0, E, 0.0, 0.0).abs() < 1e-9);
    }

    fn stake(issued_ms: u64, now_ms: u64) -> Result<(u64, f64), u64> {
        let ms = |time: UnixTime| time.as_millis() - at(0).as_millis();
        Stake::of(Epoch::of(at(now_ms), E, 0), at(issued_ms), at(now_ms)).map(|stake| (ms(stake.at), stake.part)).map_err(ms)
    }

    #[test]
    fn a_ticket_does_not_draw_against_the_calm_before_it_came() {
        assert_eq!(stake(10_500, 10_600), Err(12_500));
        assert_eq!(stake(10_500, 12_499), Err(12_500));
        assert_eq!(stake(10_500, 12_500), Ok((12_500, 0.2)));
    }

    #[test]
    fn a_stake_is_the_same_all_epoch_long() {
        for issued in [10_500, 19_000, 3_000] {
            for from in [30_000, 20_000] {
                let stakes: Vec<_> = (0..10).map(|s| stake(issued, from + 1_000 + s * 900)).collect();
                assert!(stakes.iter().all(|stake| *stake == stakes[9]), "{issued} {stakes:?}");
            }
        }
    }

    #[test]
    fn the_parts_of_a_ticket_add_up_to_the_time_that_it_has_waited() {
        for issued in (10_000..20_000).step_by(130) {
            let mut parts = Vec::new();
            for now in (issued..issued + 60_000).step_by(10) {
                if let Ok(stake) = stake(issued, now)
                    && parts.last() != Some(&stake)
                {
                    parts.push(stake);
                }
            }
            let total: f64 = parts.iter().map(|(_, part)| part).sum();
            let waited = Duration::from_millis(parts.last().unwrap().0 - issued).as_secs_f64() / 10.0;
            assert!((total - waited).abs() < 1e-9, "{issued} {parts:?}");
            assert!((parts.last().unwrap().1 - 1.0).abs() < 1e-9, "{issued} {parts:?}");
        }
    }

    #[test]
    fn a_clock_set_back_keeps_no_ticket_from_drawing() {
        assert_eq!(stake(86_400_000, 12_000), Ok((10_000, 1.0)));
    }

    #[test]
    fn room_for_everyone_is_for_the_youngest_too() {
        assert!(wins(u64::MAX, 1.0, 0.2) && !wins(u64::MAX, 0.999, 0.2));
    }

    #[test]
    fn the_interval_follows_the_crowd_without_flipping() {
        let (short, long) = (E, Duration::from_secs(60));
        assert_eq!(stretch(short, 100.0, short, long), short);
        assert_eq!(stretch(short, 25_000.0, short, long), Duration::from_secs(20));
        assert_eq!(stretch(short, 1e6, short, long), long);
        let twenty = Duration::from_secs(20);
        assert_eq!(stretch(twenty, 19_000.0, short, long), twenty, "not halved at the edge");
        assert_eq!(stretch(twenty, 5_000.0, short, long), short);
        assert_eq!(stretch(Duration::from_secs(300), 0.0, short, long), short, "a new policy holds at once");
    }

    /// What ageing does, and why it is linear. Played out: for a quarter of an hour 36 a second come and 20 enter, then 12 come; nobody
    /// leaves. `cargo test ageing -- --nocapture` prints the figures.
    #[test]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks of a test")]
    fn ageing_shortens_the_longest_waits_at_the_cost_of_the_median() {
        let minutes = |age_s: f64| 1.0 + age_s / AGEING.as_secs_f64();
        let laws = [("none", 0), ("linear", 1), ("quadratic", 2)];
        let found = laws.map(|(name, power)| {
            let waits = played(|age_s| minutes(age_s).powi(power));
            let of = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
            let (p50, p95, p99, longest) = (of(0.5), of(0.95), of(0.99), of(1.0));
            let over_15 = waits.iter().filter(|wait| **wait > 900.0).count() as f64 / waits.len() as f64;
            println!(
                "ageing {name}: p50 {p50:.0} s, p95 {p95:.0}, p99 {p99:.0}, longest {longest:.0}, {:.1} % over 15 min",
                100.0 * over_15
            );
            (p50, p99, longest)
        });
        for pair in found.windows(2) {
            let (less, more) = (pair[0], pair[1]);
            assert!(more.0 > less.0 && more.1 < less.1 && more.2 < less.2, "{found:?}");
        }
        // the second step costs about as much as the first, and gains a fraction of it
        assert!(found[0].1 - found[1].1 > 2.0 * (found[1].1 - found[2].1), "{found:?}");
    }

    /// The waits, sorted.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks and seconds of a test")]
    fn played(weight: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut state = 11_u64;
        let mut unit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 31)
        };
        // when each came; its epochs begin ten seconds apart
        let mut crowd: Vec<f64> = Vec::new();
        let mut waits = Vec::new();
        for second in 1..4000_u32 {
            let now = f64::from(second);
            let sum: f64 = crowd.iter().map(|came| weight(now - came)).sum();
            let odds = odds(20.0, E, 0.0, sum);
            crowd.retain(|came| {
                let age = now - came;
                let draws = (age as u64).is_multiple_of(E.as_secs());
                if draws && unit() < odds * weight(age) {
                    waits.push(age);
                    return false;
                }
                true
            });
            let arriving = if second < 900 { 36 } else { 12 };
            crowd.extend((0..arriving).map(|_| now - unit()));
        }
        waits.sort_by(f64::total_cmp);
        waits
    }
}
