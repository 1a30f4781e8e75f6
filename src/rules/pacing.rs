//! The pacing of invitations: how many may be sent now.
//!
//! Invitations go out while the load is low and has been for a while, and nobody waits; at most at a rate; and only as far as the
//! visits that are still expected of those that have been sent fit into what the site has left. An email can't be called back, so room is
//! kept for all who are expected, as if they came within the same half hour, and not for how many come now.
//!
//! How many are expected nobody knows: whoever has not come is not interested, or is late, or asleep. Two beliefs are held, and the one that
//! expects more decides. Either they come as late as people do, and who has not come after a day will hardly come any more. Or
//! they are asleep, and as many are missing as were expected and have not come. To count every invitation in full for as long as it holds
//! would be no bound but a stop: of ten, seven never come, and would fill the room for two days.
//!
//! Absent: who is invited (the email queue knows), and what sends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::policy::{Invitations, Mode};
use super::time::{Moment, Now, UnixTime};

/// All who are expected are taken to come within this, evenly. It is the most that one can believe of people: in the simulation all who were
/// invited in a night come within one hour of the morning. Taken to come at the very same time, as long as a visit lasts, they would
/// have to be invited many times as slowly, and the site stood idle.
const TOGETHER: Duration = Duration::from_secs(30 * 60);

/// Half of those who ever come have come after this, and `later` says how many have not. A belief, not a measurement: it is news that people
/// have waited for, but an email, and few look at those more often than a few times a day.
const MEDIAN_DELAY: Duration = Duration::from_secs(3600);

/// Who is invited in the evening may be asleep and come in the morning, whatever `later` says: for so long as many are expected as were
/// told to be, less those who have come.
const ASLEEP: Duration = hours(12);

/// The load of an ordinary busy hour. Who is invited in the night comes in the morning: no more room is counted on than there is
/// then, however idle the site is now.
const USUAL_LOAD: f64 = 0.6;

/// A tick that came later than this is no reason to send at once what it kept back.
const TICK_MAX_S: f64 = 2.0;

/// What was not sent of a tick, and fractions, are kept up to this: else a rate below one a tick would never send anything.
const LEFT_OVER_MAX: f64 = 1.0;

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Paused by hand.
    pub paused: bool,
    /// Invite while the load is under this.
    pub below: f64,
    /// And has been for so long.
    pub settle: Duration,
    /// Invitations a second at most.
    pub rate: f64,
    /// Share of what the site has left that the expected visits may fill.
    pub share: f64,
    /// Share of the invited that is expected to come.
    pub expected_redemption: f64,
}

impl Settings {
    /// Those of the policy.
    #[must_use]
    pub const fn of(invitations: &Invitations, paused: bool) -> Self {
        let &Invitations { below, settle, rate, share, expected_redemption, .. } = invitations;
        Self { paused, below, settle, rate, share, expected_redemption }
    }
}

/// How the site stands, as of the last tick of the law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// The mode in force.
    pub mode: Mode,
    /// Requests a second asked for by those inside, as a share of what the site can be asked for.
    pub load: f64,
    /// Requests a second that the site can be asked for.
    pub requests: f64,
    /// Requests a second that those inside ask for, or are about to.
    pub asked: f64,
    /// Requests that a visit has; 1 or more.
    pub requests_per_visit: f64,
    /// Somebody waits, or was turned away a moment ago.
    pub waiting: bool,
}

/// What may be done in this tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Invitations that may be sent now. What is not sent until the next tick is lost, unless it is given back.
    pub allowance: u32,
    /// Why none may be sent; `None` also while the rate lets none through in this very tick.
    pub held: Option<Held>,
    /// Visits still expected of invitations that were sent.
    pub expected: f64,
    /// So many may be expected.
    pub expected_max: f64,
}

/// Why no invitation may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Paused by hand.
    Paused,
    /// The mode is `closed`.
    Closed,
    /// Visitors wait for what the invited would be given.
    Waiting,
    /// The load is not under `below`.
    Load,
    /// It has not been for `settle`: still to go.
    Settling(Duration),
    /// Those who are expected fill the share of what the site has left.
    Room,
}

impl Held {
    /// The word for it in logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::Waiting => "waiting",
            Self::Load => "load",
            Self::Settling(_) => "settling",
            Self::Room => "room",
        }
    }
}

/// What is remembered from tick to tick.
#[derive(Clone, Debug, Default)]
pub struct Pacing {
    /// What has been sent. Whoever takes from the allowance writes it down here at once, before the mail server has it.
    pub outstanding: Outstanding,
    calm_since: Option<Moment>,
    left_over: f64,
}

impl Pacing {
    /// What may be sent now, `seconds` after the last tick.
    pub fn tick(&mut self, now: Now, seconds: f64, sight: &Sight, settings: &Settings) -> Pace {
        self.outstanding.expire(now.wall);
        let expected = self.outstanding.expected(now.wall, settings.expected_redemption);
        let expected_max = visits_with_room(sight, settings.share);
        let held = self.held(now.mono, sight, settings).or_else(|| {
            // of what is no number nothing is known
            let has_room = expected < expected_max;
            (!has_room).then_some(Held::Room)
        });
        let allowance = if held.is_some() {
            0
        } else {
            let places = ((expected_max - expected) / settings.expected_redemption.max(f64::MIN_POSITIVE)).ceil();
            self.at_rate(settings.rate, seconds).min(whole(places))
        };
        Pace { allowance, held, expected, expected_max }
    }

    /// Gives back what was allowed and could not be sent: the queue is empty, or the mail server can't be reached. At most one is kept.
    pub fn give_back(&mut self, invitations: u32) {
        self.left_over = (self.left_over + f64::from(invitations)).min(LEFT_OVER_MAX);
    }

    fn held(&mut self, now: Moment, sight: &Sight, settings: &Settings) -> Option<Held> {
        let busy = if sight.mode == Mode::Closed {
            // what comes when it is opened can't be told from a load that nobody may make
            Some(Held::Closed)
        } else if sight.waiting {
            Some(Held::Waiting)
        } else {
            let is_low = sight.load < settings.below;
            (!is_low).then_some(Held::Load)
        };
        let calm_since = if busy.is_some() { None } else { Some(self.calm_since.unwrap_or(now)) };
        self.calm_since = calm_since;
        if settings.paused {
            return Some(Held::Paused);
        }
        busy.or_else(|| {
            let left = calm_since.map_or(settings.settle, |since| settings.settle.saturating_sub(now.since(since)));
            (!left.is_zero()).then_some(Held::Settling(left))
        })
    }

    fn at_rate(&mut self, rate: f64, seconds: f64) -> u32 {
        let allowed = (rate * seconds.min(TICK_MAX_S)).clamp(0.0, f64::from(u32::MAX)) + self.left_over;
        self.left_over = allowed.fract();
        whole(allowed)
    }
}

/// How many visits may be expected.
fn visits_with_room(sight: &Sight, share: f64) -> f64 {
    let left = sight.requests - sight.asked.max(USUAL_LOAD * sight.requests);
    share * left * TOGETHER.as_secs_f64() / sight.requests_per_visit.max(1.0)
}

/// Invitations that have been sent, have not been redeemed and still hold: counts by the time at which they were sent. Ten million cost no
/// more than a thousand.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    /// By the start of their bucket.
    buckets: BTreeMap<UnixTime, Bucket>,
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    sent: u64,
    /// Of these, those that are outstanding.
    count: u64,
    width: Duration,
    until: UnixTime,
}

/// Buckets are as wide as is fine enough for their age: a minute, from some age on an hour, and in the end a day.
const WIDTHS: [(Duration, Duration); 2] = [(hours(6), hours(1)), (hours(7 * 24), hours(24))];
const WIDTH: Duration = Duration::from_secs(60);

impl Outstanding {
    /// One was sent, and holds until then.
    pub fn invited(&mut self, at: UnixTime, until: UnixTime) {
        let key = self.find(at).unwrap_or_else(|| start(at, WIDTH));
        let bucket = self.buckets.entry(key).or_insert(Bucket { sent: 0, count: 0, width: WIDTH, until });
        bucket.sent += 1;
        bucket.count += 1;
        bucket.until = bucket.until.max(until);
        self.count += 1;
    }

    /// One that was sent then was redeemed. Once each.
    pub fn redeemed(&mut self, sent: UnixTime) {
        let bucket = self.find(sent).and_then(|key| self.buckets.get_mut(&key));
        if let Some(bucket) = bucket.filter(|bucket| bucket.count > 0) {
            bucket.count -= 1;
            self.count -= 1;
        }
    }

    /// One that was sent then can't be redeemed any more: it was revoked, or never reached anyone. Once each.
    pub fn withdrawn(&mut self, sent: UnixTime) {
        let bucket = self.find(sent).and_then(|key| self.buckets.get_mut(&key));
        if let Some(bucket) = bucket.filter(|bucket| bucket.count > 0) {
            bucket.sent -= 1;
            bucket.count -= 1;
            self.count -= 1;
        }
    }

    /// Forgets those that no longer hold.
    pub fn expire(&mut self, now: UnixTime) {
        // those who have come stand for others who have not, as long as these may be asleep
        let counts = |start: &UnixTime, bucket: &Bucket| bucket.count > 0 || now.since(*start) < ASLEEP;
        self.buckets.retain(|start, bucket| now < bucket.until && counts(start, bucket));
        for (age, width) in WIDTHS {
            self.widen(now.minus(age), width);
        }
        self.count = self.buckets.values().map(|bucket| bucket.count).sum();
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many of them are still expected, if of all that are sent this share comes: of those sent in the same hour, as many as still come at
    /// their age, or as many as are missing if they may be asleep, whichever is more.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of emails")]
    pub fn expected(&self, now: UnixTime, redemption: f64) -> f64 {
        let (mut all, mut hour, mut awake, mut missing) = (0.0, UnixTime::default(), 0.0, 0.0);
        for (&sent, bucket) in &self.buckets {
            if start(sent, hours(1)) != hour {
                all += f64::max(awake, missing);
                (hour, awake, missing) = (start(sent, hours(1)), 0.0, 0.0);
            }
            // as if all were sent at its end
            let age = now.since(sent.plus(bucket.width));
            let waiting = bucket.count as f64 * still_comes(redemption, age);
            let come = (bucket.sent - bucket.count) as f64;
            awake += waiting;
            missing += if age < ASLEEP { redemption * bucket.sent as f64 - come } else { waiting };
        }
        all + f64::max(awake, missing)
    }

    /// The bucket of this time.
    fn find(&self, at: UnixTime) -> Option<UnixTime> {
        let (&key, bucket) = self.buckets.range(..=at).next_back()?;
        (at < key.plus(bucket.width)).then_some(key)
    }

    /// Joins what was sent before `older` into buckets of this width.
    fn widen(&mut self, older: UnixTime, width: Duration) {
        let narrow = |(key, bucket): (&UnixTime, &Bucket)| (bucket.width < width).then_some(*key);
        // a bucket is widened when all that it will hold is old enough, so that none ever lies within another
        let older = start(older, width);
        let keys: Vec<UnixTime> = self.buckets.range(..older).filter_map(narrow).collect();
        for key in keys {
            if let Some(Bucket { sent, count, until, .. }) = self.buckets.remove(&key) {
                let joined = self.buckets.entry(start(key, width)).or_insert(Bucket { sent: 0, count: 0, width, until });
                joined.sent += sent;
                joined.count += count;
                joined.until = joined.until.max(until);
            }
        }
    }
}

/// The chance that someone still comes who has not come by this age, if of all invited the share `redemption` ever does: Bayes' rule.
fn still_comes(redemption: f64, age: Duration) -> f64 {
    let later = redemption * later(age);
    if later <= 0.0 { 0.0 } else { later / (1.0 - redemption + later) }
}

/// Of those who ever come, the share that comes later than this: a log-logistic distribution of shape 1. Its tail is a heavy one, so as to err
/// for the site: a tenth comes after nine hours, and a twenty-fifth after a day.
fn later(age: Duration) -> f64 {
    1.0 / (1.0 + age.as_secs_f64() / MEDIAN_DELAY.as_secs_f64())
}

/// The start of the bucket of this width that holds a time.
fn start(at: UnixTime, width: Duration) -> UnixTime {
    let width = u64::try_from(width.as_millis()).unwrap_or(u64::MAX).max(1);
    UnixTime::from_millis(at.as_millis() / width * width)
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(3600 * hours)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
const fn whole(count: f64) -> u32 {
    count as u32
}

/// How many requests a visit has, measured.
///
/// The requests of those who were let in by the draw, over how many those were. Clients without cookies are newcomers with each request, and
/// where they are many that is too few; so it is never less than what the visitors who come back ask for while they count as active.
#[derive(Clone, Copy, Debug)]
pub struct Visits {
    requests: f64,
    begun: f64,
    /// Of all who are inside.
    asked: f64,
    active_s: f64,
}

/// What was seen of visits in one tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VisitsSeen {
    /// Length of the tick in seconds.
    pub seconds: f64,
    /// Requests that count, of those who were admitted.
    pub requests: f64,
    /// Requests that count, of the invited and the staff: nobody knows here how many of them began a visit.
    pub bypass: f64,
    /// Newcomers admitted.
    pub admitted: f64,
    /// Visitors who are active.
    pub active: f64,
}

/// What a visit is taken for where nothing is known, and the weight of that in visits: what those who are there already ask for soon
/// outweighs it.
const VISIT: f64 = 10.0;
const VISIT_WEIGHT: f64 = 20.0;

/// Visits are forgotten by and by, an hour after they were seen; a visit's requests come later than the visit begins, and in an hour both
/// are alike.
const VISITS_MEMORY: Duration = hours(1);

/// But so many are remembered over an idle night.
const VISITS_KEPT: f64 = 1000.0;

impl Default for Visits {
    fn default() -> Self {
        Self { requests: VISIT * VISIT_WEIGHT, begun: VISIT_WEIGHT, asked: 0.0, active_s: 0.0 }
    }
}

impl Visits {
    /// Takes in one tick.
    pub fn tick(&mut self, seen: &VisitsSeen) {
        let VisitsSeen { seconds, requests, bypass, admitted, active } = *seen;
        if self.begun > VISITS_KEPT {
            let kept = (-seconds / VISITS_MEMORY.as_secs_f64()).exp();
            self.requests *= kept;
            self.begun *= kept;
            self.asked *= kept;
            self.active_s *= kept;
        }
        self.requests += requests;
        self.begun += admitted;
        self.asked += requests + bypass;
        self.active_s += active * seconds;
    }

    /// Requests of a visit; 1 or more. `active`: how long a visitor counts as active after each request.
    #[must_use]
    pub fn requests_per_visit(&self, active: Duration) -> f64 {
        let active_s = active.as_secs_f64();
        // who came back was active for that long at least
        let enough = self.active_s >= VISIT_WEIGHT * active_s;
        let at_least = if enough { self.asked / self.active_s * active_s } else { 0.0 };
        (self.requests / self.begun).max(at_least).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const SETTINGS: Settings =
        Settings { paused: false, below: 0.6, settle: Duration::from_secs(60), rate: 10.0, share: 0.5, expected_redemption: 0.3 };

    /// A site that could do 200 requests a second, and is asked for 60.
    const CALM: Sight = Sight { mode: Mode::Auto, load: 0.3, requests: 200.0, asked: 60.0, requests_per_visit: 10.0, waiting: false };

    fn at(secs: u64) -> Now {
        Now { mono: Moment::from_secs(secs), wall: unix(secs), doubt: Duration::ZERO }
    }

    fn unix(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000 + secs)
    }

    fn tick(pacing: &mut Pacing, secs: u64, sight: Sight, settings: Settings) -> Pace {
        pacing.tick(at(secs), 1.0, &sight, &settings)
    }

    /// After a minute of calm.
    fn settled() -> Pacing {
        let mut pacing = Pacing::default();
        for second in 0..60 {
            tick(&mut pacing, second, CALM, SETTINGS);
        }
        pacing
    }

    fn send(pacing: &mut Pacing, secs: u64, count: u32) {
        (0..count).for_each(|_| pacing.outstanding.invited(unix(secs), unix(secs + 48 * 3600)));
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn a_low_load_is_waited_for_until_it_has_settled() {
        let mut pacing = Pacing::default();
        let held = |pacing: &mut Pacing, secs| tick(pacing, secs, CALM, SETTINGS).held;
        assert_eq!(held(&mut pacing, 100), Some(Held::Settling(Duration::from_secs(60))));
        assert_eq!(held(&mut pacing, 159), Some(Held::Settling(Duration::from_secs(1))));
        let pace = tick(&mut pacing, 160, CALM, SETTINGS);
        assert_eq!((pace.held, pace.allowance), (None, 10));
        let at_once = Settings { settle: Duration::ZERO, ..SETTINGS };
        assert_eq!(tick(&mut Pacing::default(), 0, CALM, at_once).allowance, 10);
    }

    #[test]
    fn it_stops_at_the_first_tick_with_a_load_that_is_not_below_or_with_someone_waiting_and_settles_anew() {
        for (sight, held) in [
            (Sight { load: 0.6, ..CALM }, Held::Load),
            (Sight { load: 0.9, ..CALM }, Held::Load),
            (Sight { load: f64::NAN, ..CALM }, Held::Load),
            (Sight { waiting: true, ..CALM }, Held::Waiting),
            (Sight { waiting: true, load: 0.9, ..CALM }, Held::Waiting),
            (Sight { mode: Mode::Closed, waiting: true, ..CALM }, Held::Closed),
        ] {
            let mut pacing = settled();
            assert_eq!(tick(&mut pacing, 60, CALM, SETTINGS).held, None);
            assert_eq!(tick(&mut pacing, 61, sight, SETTINGS), Pace { held: Some(held), ..tick(&mut pacing, 61, sight, SETTINGS) });
            assert_eq!(tick(&mut pacing, 62, CALM, SETTINGS).held, Some(Held::Settling(Duration::from_secs(60))), "{held:?}");
            assert_eq!(tick(&mut pacing, 121, CALM, SETTINGS).held, Some(Held::Settling(Duration::from_secs(1))));
            assert_eq!(tick(&mut pacing, 122, CALM, SETTINGS).allowance, 10);
        }
        assert_eq!(tick(&mut settled(), 60, Sight { load: 0.599, ..CALM }, SETTINGS).held, None);
    }

    #[test]
    fn other_modes_go_by_the_load() {
        for mode in [Mode::Auto, Mode::Open, Mode::Observe, Mode::Fixed(1.0)] {
            assert_eq!(tick(&mut settled(), 60, Sight { mode, ..CALM }, SETTINGS).held, None, "{mode:?}");
        }
    }

    #[test]
    fn paused_by_hand_it_goes_on_to_watch_the_load() {
        let paused = Settings { paused: true, ..SETTINGS };
        let mut pacing = Pacing::default();
        for second in 0..600 {
            let pace = tick(&mut pacing, second, CALM, paused);
            assert_eq!((pace.held, pace.allowance), (Some(Held::Paused), 0));
        }
        assert_eq!(tick(&mut pacing, 600, CALM, SETTINGS).allowance, 10, "at once, and no more than of one tick");
    }

    #[test]
    fn an_idle_site_qualifies() {
        let idle = Sight { load: 0.0, asked: 0.0, ..CALM };
        let pace = tick(&mut settled(), 60, idle, SETTINGS);
        assert_eq!((pace.held, pace.allowance), (None, 10));
        // not all that it has left now: who is invited comes when others do
        assert!(close(pace.expected_max, 0.5 * 80.0 * 1800.0 / 10.0), "{pace:?}");
        let dead = Sight { requests: 0.0, ..idle };
        assert_eq!(tick(&mut settled(), 60, dead, SETTINGS).held, Some(Held::Room));
    }

    #[test]
    fn those_who_are_expected_fill_a_share_of_what_is_left() {
        let busy = Sight { load: 0.7, asked: 140.0, ..CALM };
        let settings = Settings { below: 0.8, rate: 1000.0, ..SETTINGS };
        // half of 60 requests a second, for half an hour, are the requests of 5400 visits
        let mut pacing = settled();
        assert!(close(tick(&mut pacing, 60, busy, settings).expected_max, 5400.0));
        send(&mut pacing, 60, 17_990);
        let pace = tick(&mut pacing, 60, busy, settings);
        assert!(close(pace.expected, 0.3 * 17_990.0), "{pace:?}");
        assert!(pace.held.is_none() && (10..=11).contains(&pace.allowance), "{pace:?}");
        send(&mut pacing, 60, pace.allowance);
        let full = tick(&mut pacing, 61, busy, settings);
        assert_eq!((full.held, full.allowance), (Some(Held::Room), 0));
        // whoever has come is inside, and expected no more
        (0..10).for_each(|_| pacing.outstanding.redeemed(unix(60)));
        let next = tick(&mut pacing, 61, busy, settings).allowance;
        assert!((9..=11).contains(&next), "{next}");
    }

    #[test]
    fn a_site_that_has_room_for_less_than_one_is_given_one_at_a_time() {
        let tiny = Sight { requests: 0.1, asked: 0.05, load: 0.5, requests_per_visit: 300.0, ..CALM };
        let mut pacing = settled();
        assert_eq!(tick(&mut pacing, 60, tiny, SETTINGS).allowance, 1);
        send(&mut pacing, 60, 1);
        assert_eq!(tick(&mut pacing, 61, tiny, SETTINGS).held, Some(Held::Room));
    }

    #[test]
    fn no_share_is_none_and_no_redemption_is_no_bound() {
        assert_eq!(tick(&mut settled(), 60, CALM, Settings { share: 0.0, ..SETTINGS }).held, Some(Held::Room));
        let mut pacing = settled();
        send(&mut pacing, 60, 100_000);
        let nobody = Settings { expected_redemption: 0.0, ..SETTINGS };
        assert_eq!(tick(&mut pacing, 60, CALM, nobody).allowance, 10);
        assert_eq!(tick(&mut pacing, 60, CALM, Settings { share: 0.0, ..nobody }).held, Some(Held::Room));
        assert_eq!(tick(&mut pacing, 60, CALM, Settings { below: 0.0, ..SETTINGS }).held, Some(Held::Load));
    }

    #[test]
    fn a_rate_below_one_a_tick_adds_up_and_a_pause_does_not() {
        let slow = Settings { rate: 0.4, settle: Duration::ZERO, ..SETTINGS };
        let mut pacing = Pacing::default();
        let allowed: Vec<u32> = (0..6).map(|second| tick(&mut pacing, second, CALM, slow).allowance).collect();
        assert_eq!(allowed, [0, 0, 1, 0, 1, 0]);
        for second in 6..1000 {
            assert_eq!(tick(&mut pacing, second, Sight { waiting: true, ..CALM }, slow).allowance, 0);
        }
        let allowed: Vec<u32> = (1000..1005).map(|second| tick(&mut pacing, second, CALM, slow).allowance).collect();
        assert!(allowed.iter().sum::<u32>() <= 3 && allowed[0] <= 1, "{allowed:?}");
        let slowest = Settings { rate: 0.001, ..slow };
        let mut pacing = Pacing::default();
        let sent: u32 = (0..10_000).map(|second| tick(&mut pacing, second, CALM, slowest).allowance).sum();
        assert!((9..=10).contains(&sent), "{sent}");
        assert!(close(f64::from(Pacing::default().tick(at(0), 3600.0, &CALM, &slow).allowance), 0.0), "a late tick stands for two");
    }

    #[test]
    fn what_could_not_be_sent_is_one_at_the_most() {
        let slow = Settings { rate: 0.25, settle: Duration::ZERO, ..SETTINGS };
        let mut pacing = Pacing::default();
        let first = (0..10).find(|&second| tick(&mut pacing, second, CALM, slow).allowance == 1);
        assert_eq!(first, Some(3));
        pacing.give_back(1);
        assert_eq!(tick(&mut pacing, 4, CALM, slow).allowance, 1);
        pacing.give_back(1000);
        assert_eq!(tick(&mut pacing, 5, CALM, slow).allowance, 1);
    }

    #[test]
    fn an_invitation_counts_less_and_less() {
        let mut outstanding = Outstanding::default();
        (0..1000).for_each(|_| outstanding.invited(unix(0), unix(48 * 3600)));
        let expected = |secs| outstanding.expected(unix(secs), 0.3);
        assert!(close(expected(0), 300.0));
        assert!(close(expected(11 * 3600), 300.0), "they may be asleep: {}", expected(11 * 3600));
        assert!(expected(12 * 3600 + 60) < 32.0, "{}", expected(12 * 3600 + 60));
        assert!(expected(24 * 3600) < 18.0, "{}", expected(24 * 3600));
        assert!(close(outstanding.expected(unix(24 * 3600), 1.0), 1000.0), "all come");
        assert!(close(outstanding.expected(unix(0), 0.0), 0.0));
    }

    #[test]
    fn those_who_come_are_expected_no_more_and_if_more_come_than_were_the_rest_counts_by_its_age() {
        let mut outstanding = Outstanding::default();
        (0..1000).for_each(|_| outstanding.invited(unix(0), unix(48 * 3600)));
        (0..100).for_each(|_| outstanding.redeemed(unix(0)));
        assert!(close(outstanding.expected(unix(3660), 0.3), 200.0), "{}", outstanding.expected(unix(3660), 0.3));
        (0..300).for_each(|_| outstanding.redeemed(unix(0)));
        // after the median, of 17 who have not come three will
        let expected = outstanding.expected(unix(3660), 0.3);
        assert!(close(expected, 600.0 * 0.15 / 0.85), "{expected}");
        // an hour in which more come than were expected hides nobody of another
        (0..1000).for_each(|_| outstanding.invited(unix(7200), unix(48 * 3600)));
        assert!(outstanding.expected(unix(7200), 0.3) > 300.0);
    }

    #[test]
    fn what_was_withdrawn_is_neither_expected_nor_has_it_come() {
        let mut outstanding = Outstanding::default();
        (0..10).for_each(|_| outstanding.invited(unix(0), unix(48 * 3600)));
        (0..4).for_each(|_| outstanding.withdrawn(unix(30)));
        assert_eq!(outstanding.count(), 6);
        assert!(close(outstanding.expected(unix(3600), 0.3), 1.8));
        (0..20).for_each(|_| outstanding.withdrawn(unix(30)));
        assert_eq!(outstanding.count(), 0);
    }

    #[test]
    fn what_no_longer_holds_is_forgotten() {
        let mut outstanding = Outstanding::default();
        outstanding.invited(unix(0), unix(100));
        outstanding.invited(unix(70), unix(200));
        outstanding.expire(unix(99));
        assert_eq!(outstanding.count(), 2);
        outstanding.expire(unix(100));
        assert_eq!(outstanding.count(), 1);
        outstanding.redeemed(unix(0));
        assert_eq!(outstanding.count(), 1, "it was forgotten before");
        outstanding.redeemed(unix(70));
        outstanding.redeemed(unix(70));
        assert_eq!(outstanding.count(), 0);
        outstanding.expire(unix(200));
        assert!(outstanding.buckets.is_empty());
    }

    #[test]
    fn a_year_of_invitations_is_a_few_hundred_counts() {
        let mut outstanding = Outstanding::default();
        let year = 365 * 24 * 3600;
        for secs in (0..year).step_by(60) {
            outstanding.invited(unix(secs), unix(secs + year));
            if secs % 3600 == 0 {
                outstanding.expire(unix(secs));
            }
        }
        outstanding.expire(unix(year));
        assert!(outstanding.count() >= year / 60 - 1, "only the first has expired");
        assert!(outstanding.buckets.len() < 1000, "{}", outstanding.buckets.len());
    }

    #[test]
    fn what_a_visit_asks_for_is_measured() {
        let minute = Duration::from_secs(60);
        let mut visits = Visits::default();
        assert!(close(visits.requests_per_visit(minute), VISIT), "nothing is known");
        let second = VisitsSeen { seconds: 1.0, requests: 60.0, admitted: 20.0, active: 20.0 * 75.0, bypass: 0.0 };
        (0..3600).for_each(|_| visits.tick(&second));
        assert!((visits.requests_per_visit(minute) - 3.0).abs() < 0.01);
        // the invited say nothing of it, and an idle night forgets nothing
        (0..30).for_each(|_| visits.tick(&VisitsSeen { requests: 0.0, bypass: 1000.0, admitted: 0.0, active: 10_000.0, ..second }));
        (0..100_000).for_each(|_| visits.tick(&VisitsSeen { seconds: 1.0, ..VisitsSeen::default() }));
        assert!((visits.requests_per_visit(minute) - 3.0).abs() < 0.1, "{visits:?}");
    }

    #[test]
    fn clients_without_cookies_do_not_make_visits_short() {
        let mut visits = Visits::default();
        // six visitors a second with ten pages 12 s apart, who are active for 168 s but the first pause; and 60 without cookies
        let second = VisitsSeen { seconds: 1.0, requests: 120.0, admitted: 66.0, active: 6.0 * 156.0, bypass: 0.0 };
        (0..3600).for_each(|_| visits.tick(&second));
        let found = visits.requests_per_visit(Duration::from_secs(60));
        assert!((6.0..12.0).contains(&found), "{found}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(sent in prop::collection::vec(0_u64..40 * 86_400, 0..200), now in 0_u64..40 * 86_400, redeemed in 0_usize..200) {
            let mut outstanding = Outstanding::default();
            let hold = 30 * 86_400;
            for &secs in &sent {
                outstanding.invited(unix(secs), unix(secs + hold));
            }
            outstanding.expire(unix(now));
            // what expires within a bucket expires with its last
            let holding = sent.iter().filter(|&&secs| secs + hold > now).count() as u64;
            prop_assert!(outstanding.count() >= holding);
            outstanding.expire(unix(now));
            let before = outstanding.count();
            let gone = sent.iter().filter(|&&secs| secs + hold > now).take(redeemed);
            let gone = gone.map(|&secs| outstanding.redeemed(unix(secs))).count() as u64;
            prop_assert_eq!(outstanding.count(), before - gone);
            prop_assert_eq!(outstanding.buckets.values().map(|bucket| bucket.count).sum::<u64>(), before - gone);
            let expected = outstanding.expected(unix(now), 0.3);
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let most = 0.3 * outstanding.count() as f64;
            prop_assert!((0.0..=most + 1e-9).contains(&expected));
        }

        #[test]
        fn what_is_sent_keeps_to_the_rate_and_to_the_room(
            rate in 0.001_f64..1000.0, share in 0.0_f64..=1.0, redemption in 0.0_f64..=1.0, load in 0.0_f64..1.2, seconds in 1_u64..300
        ) {
            let settings = Settings { rate, share, expected_redemption: redemption, settle: Duration::ZERO, ..SETTINGS };
            let sight = Sight { load, asked: load * 200.0, ..CALM };
            let mut pacing = Pacing::default();
            let mut sent = 0.0;
            for second in 0..seconds {
                let pace = tick(&mut pacing, second, sight, settings);
                prop_assert!(pace.held.is_none() || pace.allowance == 0);
                prop_assert!(load < 0.6 || pace.allowance == 0);
                send(&mut pacing, second, pace.allowance);
                sent += f64::from(pace.allowance);
                let expected = pacing.outstanding.expected(unix(second), redemption);
                prop_assert!(expected <= pace.expected_max.max(0.0) + 1.0, "{expected} {pace:?}");
            }
            #[expect(clippy::cast_precision_loss, reason = "a few minutes")]
            let most = rate * seconds as f64;
            prop_assert!(sent <= most + 1e-6, "{sent} {most}");
        }
    }
}
