//! A file of scenarios: what the site is, who comes, what happens to the site, and what is expected of the gate.
//!
//! Everything has a default: the site and the crowd of the published figures. What is unknown, out of bounds or of the wrong kind is
//! refused with its line and column.

use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use crate::rules::units::parse_duration;

/// The scenarios that come with the gate.
pub const BUILT_IN: &str = include_str!("scenarios.yaml");

/// Why a file of scenarios can't be used: `file:line:column: reason`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct ScenarioError {
    /// The file.
    pub file: String,
    /// Counted from 1; 0 if the fault is of the whole file.
    pub line: u64,
    /// Counted from 1.
    pub column: u64,
    /// What is wrong.
    pub reason: String,
}

/// Reads a file of scenarios. `file` is its name, for errors.
///
/// # Errors
/// The first fault, with its place.
pub fn parse(text: &str, file: &str) -> Result<Vec<Scenario>, ScenarioError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let scenarios: Vec<Scenario> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
        let said = error.without_snippet().to_string();
        // the place stands before it already
        let reason = said.split(" at line ").next().unwrap_or(&said).to_owned();
        ScenarioError { file: file.to_owned(), line, column, reason }
    })?;
    let at_start = |reason| Err(ScenarioError { file: file.to_owned(), line: 1, column: 1, reason });
    for (index, scenario) in scenarios.iter().enumerate() {
        if scenarios[..index].iter().any(|other| other.name == scenario.name) {
            return at_start(format!("two scenarios are named {:?}", scenario.name));
        }
        if let Err(reason) = scenario.check() {
            return at_start(format!("{}: {reason}", scenario.name));
        }
    }
    if scenarios.is_empty() { at_start("there is no scenario".to_owned()) } else { Ok(scenarios) }
}

/// One scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How it is called on the command line and in the report.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// How long it lasts.
    #[serde(default = "length")]
    pub length: Span,
    /// The part that is measured.
    #[serde(default)]
    pub measure: Measure,
    /// The site.
    #[serde(default)]
    pub site: Site,
    /// The crowd.
    #[serde(default)]
    pub crowd: Crowd,
    /// What happens on the way.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// The email queue, and what becomes of its invitations.
    #[serde(default)]
    pub invitations: Option<Invitations>,
    /// Keys of gate.yaml that differ from the defaults, as YAML. `upstream.servers` is there already.
    #[serde(default)]
    pub policy: String,
    /// What the gate is told of the slots.
    #[serde(default)]
    pub slots: Slots,
    /// What must come out.
    #[serde(default)]
    pub expect: Expect,
}

/// What the gate is told of the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub enum Slots {
    /// Nothing: it finds them.
    Auto,
    /// As many as the site has workers at its start.
    #[default]
    Workers,
    /// So many.
    Told(Count),
}

/// A word or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u32),
    Word(String),
}

impl TryFrom<Written> for Slots {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Word(word) => word.parse(),
        }
    }
}

impl std::str::FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("workers", _) => Ok(Self::Workers),
            (_, Ok(number @ 1..=100_000)) => Ok(Self::Told(Count(number))),
            _ => Err(format!("{text:?} is none of auto, workers, and a whole number from 1 to 100000")),
        }
    }
}

/// The part that is measured; that of the usual surge if not said: 5 to 20 minutes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Its start.
    #[serde(default)]
    pub from: Option<Span>,
    /// Its end.
    #[serde(default)]
    pub to: Option<Span>,
}

/// A legacy site: workers that slow each other down when there is more to do than they can, and that finish what they have begun
/// though the client has left.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Requests that run at full speed.
    pub workers: Positive,
    /// Mean work of a request, on one worker.
    pub service: Span,
    /// Standard deviation of the work as a share of its mean.
    pub variation: NotNegative,
    /// Share of the speed lost for each further `workers` requests at once.
    pub congestion: NotNegative,
    /// Requests that run at a time, at the most.
    pub threads: Count,
    /// Requests that wait for a thread; more are refused.
    pub backlog: Count,
    /// Requests of another kind; the rest is as said above.
    pub kinds: Vec<Kind>,
}

/// Some of the requests are of another kind.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// How many of all requests.
    pub share: Share,
    /// Mean work.
    #[serde(default)]
    pub service: Option<Span>,
    /// Standard deviation of the work as a share of its mean; 0 if not said.
    #[serde(default)]
    pub variation: NotNegative,
    /// They are answered with 500.
    #[serde(default)]
    pub fails: bool,
}

/// Who comes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crowd {
    /// How many come when. Nobody waits to come because the site is slow.
    pub arrivals: Vec<Arrivals>,
    /// Mean pages of a visit, geometrically distributed.
    pub pages: Positive,
    /// Every visit has that many pages.
    pub same_pages: bool,
    /// Mean pause between two pages, exponentially distributed.
    pub think: Span,
    /// Every pause is that long.
    pub same_think: bool,
    /// Further requests of each page, through the gate.
    pub subrequests: Count,
    /// After this in the waiting room a visitor leaves.
    pub patience: Span,
    /// An answer later than this is no good one.
    pub good_within: Span,
    /// A visitor waits no longer for an answer, and asks again.
    pub timeout: Span,
    /// So often a page is asked for before the visitor leaves.
    pub tries: Count,
    /// Visitors who ask ten times as often as they are told.
    pub reloaders: Share,
    /// Visitors who keep no cookies and ask each second.
    pub droppers: Share,
    /// Visitors who throw their ticket away whenever it has not won.
    pub churners: Share,
    /// Visitors who wait in several tabs.
    pub multi_tab: Share,
    /// So many.
    pub tabs: Count,
    /// Visitors who are run twice: once as they are told, and once, with the same luck, as reloaders or churners.
    pub pairs: Share,
}

/// From when on how many come.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// From then on.
    pub at: Span,
    /// As a share of what the site can do at its start.
    #[serde(default)]
    pub load: Option<NotNegative>,
    /// Or in visitors a second.
    #[serde(default)]
    pub visitors: Option<NotNegative>,
    /// Reached in a straight line from the step before.
    #[serde(default)]
    pub ramp: bool,
    /// This many, half of each time so long, and as before for the other half.
    #[serde(default)]
    pub pulse: Option<Span>,
}

/// Something that happens to the site or to the crowd. What is not named stays as it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When.
    pub at: Span,
    /// After this it is as before.
    #[serde(default)]
    pub lasts: Option<Span>,
    /// It happens again each time so long, until the end.
    #[serde(default)]
    pub every: Option<Span>,
    /// Workers of the site.
    #[serde(default)]
    pub workers: Option<Positive>,
    /// Every request takes so many times the work.
    #[serde(default)]
    pub slower: Option<Positive>,
    /// Every request takes so much longer in a worker.
    #[serde(default)]
    pub more_work: Option<Span>,
    /// Every answer takes so much longer on its way.
    #[serde(default)]
    pub latency: Option<Span>,
    /// Whether the site answers.
    #[serde(default)]
    pub health: Option<Health>,
    /// Mean pause between two pages.
    #[serde(default)]
    pub think: Option<Span>,
    /// So many visitors who have been inside come back, all within this second.
    #[serde(default)]
    pub returning: Option<Count>,
    /// So many newcomers come within this second.
    #[serde(default)]
    pub burst: Option<Count>,
}

/// An email queue that is full at the start.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Invitations {
    /// Addresses in it.
    pub addresses: Count,
    /// Share of the invited who come.
    pub come: Share,
    /// Half of those come within this, log-normally distributed.
    pub delay: Span,
    /// Standard deviation of the logarithm of the delay.
    pub delay_spread: Option<NotNegative>,
    /// Whoever is invited before this time is asleep, and comes after it.
    pub asleep_until: Option<Span>,
    /// All of them within this.
    pub awake_within: Span,
}

impl Default for Invitations {
    fn default() -> Self {
        Self {
            addresses: Count(0),
            come: Share(0.3),
            delay: minutes(60),
            delay_spread: None,
            asleep_until: None,
            awake_within: minutes(60),
        }
    }
}

/// How the site answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It does.
    #[default]
    Up,
    /// It takes requests and answers none.
    Hangs,
    /// It refuses connections.
    Refuses,
}

/// What must come out; what is not named may be anything.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Good answers at least, as a share of what could have been answered.
    pub goodput: Option<Share>,
    /// The p99 of those inside at the most.
    pub p99: Option<Span>,
    /// The worst five seconds' p99 at the most.
    pub worst_p99: Option<Span>,
    /// Failed sessions at the most.
    pub sessions_failed: Option<Count>,
    /// Sheds at the most.
    pub shed: Option<Count>,
    /// Visitors who see the waiting room, at the most.
    pub waited: Option<Count>,
    /// The first waiting page comes so soon.
    pub limiting_after: Option<Span>,
    /// Of those who came in the same minute, the wait of 95 % over that of half, at the most.
    pub wait_spread: Option<Positive>,
    /// Someone who was let in before came later by so much at the most.
    pub inversion_max: Option<Span>,
    /// By lot: at least and at most so many get in within the time in which half were said to.
    pub told_half: Option<(Share, Share)>,
    /// The same of nine of ten.
    pub told_nine_of_ten: Option<(Share, Share)>,
    /// By order of arrival: the told wait is off by this share at the most, for half of them.
    pub told_error_p50: Option<Share>,
    /// What reloading gains, and three standard errors more, at the most: 1 is nothing.
    pub reloaders_ahead: Option<Positive>,
    /// The same of throwing tickets away.
    pub churners_ahead: Option<Positive>,
    /// Minutes in which someone is turned away or the load is above 1, once invitations are sent, at the most.
    pub minutes_above: Option<Count>,
    /// All must have been invited so long after the start of the measured part.
    pub invited_within: Option<Span>,
    /// The runs of different seeds differ by so much at the most, in goodput.
    pub spread: Option<Share>,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            workers: Positive(32.0),
            service: Span(Duration::from_millis(160)),
            variation: NotNegative(1.0),
            congestion: NotNegative(0.15),
            threads: Count(256),
            backlog: Count(512),
            kinds: Vec::new(),
        }
    }
}

impl Site {
    /// Mean work of a request in seconds, and the share of requests that are answered well, by their kinds.
    pub(super) fn mean(&self) -> (f64, f64) {
        let usual = self.service.seconds();
        let (mut work, mut good, mut rest) = (0.0, 0.0, 1.0);
        for kind in &self.kinds {
            rest -= kind.share.0;
            work += kind.share.0 * kind.service.map_or(usual, Span::seconds);
            good += if kind.fails { 0.0 } else { kind.share.0 };
        }
        (work + rest.max(0.0) * usual, good + rest.max(0.0))
    }

    /// Requests a second that it can answer.
    pub(super) fn requests_per_s(&self) -> f64 {
        self.workers.0 / self.mean().0
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            // three times a load of 0.6, for a quarter of an hour
            arrivals: [(0, 0.6), (5, 1.8), (20, 0.6)]
                .map(|(minute, load)| Arrivals {
                    at: minutes(minute),
                    load: Some(NotNegative(load)),
                    visitors: None,
                    ramp: false,
                    pulse: None,
                })
                .to_vec(),
            pages: Positive(10.0),
            same_pages: false,
            think: Span(Duration::from_secs(12)),
            same_think: false,
            subrequests: Count(0),
            patience: Span(Duration::from_secs(15 * 60)),
            good_within: Span(Duration::from_secs(2)),
            timeout: Span(Duration::from_secs(30)),
            tries: Count(20),
            reloaders: Share(0.0),
            droppers: Share(0.0),
            churners: Share(0.0),
            multi_tab: Share(0.0),
            tabs: Count(3),
            pairs: Share(0.0),
        }
    }
}

impl Scenario {
    /// The measured part, in seconds.
    pub(super) fn measured(&self) -> (u32, u32) {
        let whole = |span: Span| u32::try_from(span.0.as_secs()).unwrap_or(u32::MAX);
        (whole(self.measure.from.unwrap_or(minutes(5))), whole(self.measure.to.unwrap_or(minutes(20))))
    }

    /// `upstream.max_in_flight` of the gate.
    #[must_use]
    pub fn max_in_flight(&self) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number within bounds")]
        let workers = self.site.workers.0.ceil() as u32;
        match self.slots {
            Slots::Auto => "auto".to_owned(),
            Slots::Workers => workers.max(1).to_string(),
            Slots::Told(Count(slots)) => slots.max(1).to_string(),
        }
    }

    fn check(&self) -> Result<(), String> {
        let (from, to) = self.measured();
        if self.name.is_empty() {
            return Err("a scenario needs a name".to_owned());
        }
        if self.length.0 > LENGTH_MAX {
            return Err("length is above 24h".to_owned());
        }
        if from >= to || u64::from(to) > self.length.0.as_secs() {
            return Err(format!("measure: {from}s to {to}s is not within the length"));
        }
        let kinds: f64 = self.site.kinds.iter().map(|kind| kind.share.0).sum();
        let crowd = [self.crowd.reloaders, self.crowd.droppers, self.crowd.churners, self.crowd.multi_tab];
        if kinds > 1.0 || crowd.iter().map(|share| share.0).sum::<f64>() > 1.0 {
            return Err("shares of one whole are above 1".to_owned());
        }
        if let Some(step) = self.crowd.arrivals.iter().find(|step| step.load.is_some() == step.visitors.is_some()) {
            return Err(format!("arrivals at {:?} need one of load and visitors", step.at.0));
        }
        if !self.crowd.arrivals.is_sorted_by_key(|step| step.at.0) {
            return Err("arrivals are not in the order of time".to_owned());
        }
        if let Some(change) = self.changes.iter().find(|change| change.every.is_some_and(|every| every.0 < Duration::from_secs(1))) {
            return Err(format!("the change at {:?} comes more often than each second", change.at.0));
        }
        Ok(())
    }
}

const LENGTH_MAX: Duration = Duration::from_secs(24 * 3600);

const fn length() -> Span {
    minutes(25)
}

const fn minutes(minutes: u64) -> Span {
    Span(Duration::from_secs(60 * minutes))
}

/// A length of time, written as in gate.yaml.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span(pub Duration);

impl Span {
    pub(super) const fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(|error| D::Error::custom(format!("{text:?} {error}")))
    }
}

macro_rules! bounded {
    ($(#[$meta:meta])* $name:ident($of:ty), $holds:expr, $bound:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
        pub struct $name(pub $of);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <$of>::deserialize(deserializer)?;
                let holds: fn($of) -> bool = $holds;
                if holds(value) { Ok(Self(value)) } else { Err(D::Error::custom(format!("{value} is not {}", $bound))) }
            }
        }
    };
}

bounded!(
    /// A number from 0 to 1.
    Share(f64), |value| (0.0..=1.0).contains(&value), "from 0 to 1"
);
bounded!(
    /// A number from 0 to a million.
    NotNegative(f64), |value| (0.0..=1e6).contains(&value), "from 0 to 1000000"
);
bounded!(
    /// A number above 0, to a million.
    Positive(f64), |value| value > 0.0 && value <= 1e6, "above 0, up to 1000000"
);
bounded!(
    /// A whole number up to ten million.
    Count(u32), |value| value <= 10_000_000, "a whole number up to 10000000"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_gate_is_read() {
        let scenarios = parse(BUILT_IN, "scenarios.yaml").unwrap_or_else(|error| panic!("{error}"));
        assert!(scenarios.iter().any(|scenario| scenario.name == "x3"));
    }

    #[test]
    fn a_fault_is_refused_with_its_line() {
        for (text, line, words) in [
            ("- name: a\n  crowd: { patience: 5 }\n", 2, "5"),
            ("- name: a\n  crowd:\n    reloaders: 1.5\n", 3, "1.5 is not from 0 to 1"),
            ("- name: a\n  lenght: 5m\n", 2, "lenght"),
            ("- name: a\n  length: 5\n", 2, "5"),
            ("- name: a\n  invitations: { come: 2 }\n", 2, "2 is not from 0 to 1"),
            ("- about: b\n", 1, "name"),
            ("- name: a\n  changes:\n    - at: 5m\n      health: ill\n", 4, "ill"),
            ("- name: a\n  site: { workers: 0 }\n", 2, "0 is not above 0"),
            ("- name: a\n- name: a\n", 1, "two scenarios are named"),
            ("- name: a\n  measure: { from: 30m }\n", 1, "not within the length"),
            ("- name: a\n  name: b\n", 2, "name"),
            ("[]\n", 1, "no scenario"),
            ("- name: [\n", 1, "string"),
        ] {
            let error = parse(text, "f.yaml").unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.reason.contains(words), "{text}: {error}");
            assert!(error.to_string().starts_with(&format!("f.yaml:{line}:")), "{error}");
        }
    }

    #[test]
    fn what_a_site_can_do_follows_from_its_kinds() {
        let site = |yaml: &str| parse(&format!("- name: a\n  site: {yaml}\n"), "f").unwrap().remove(0).site;
        assert!((site("{}").requests_per_s() - 200.0).abs() < 1e-9);
        let slow = site("{ kinds: [{ share: 0.06, service: 3s }] }");
        assert!((slow.requests_per_s() - 32.0 / (0.94 * 0.16 + 0.06 * 3.0)).abs() < 1e-9);
        assert!((site("{ kinds: [{ share: 0.1, fails: true }] }").mean().1 - 0.9).abs() < 1e-9);
    }
}
