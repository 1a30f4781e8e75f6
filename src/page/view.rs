//! What the pages are told. Figures are rounded here, honestly and coarsely: what a lottery can promise is not exact, and few distinct
//! views mean that a caller can keep rendered pages by view.

use std::fmt;

use http::StatusCode;

/// How long those who wait now will have waited when they get in, as measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitEstimate {
    /// Seconds in which half of them get in; `None` if it can't be said.
    pub half_s: Option<u64>,
    /// Seconds in which nine of ten get in; `None` if it can't be said.
    pub nine_of_ten_s: Option<u64>,
}

/// A [`WaitEstimate`], or that of a place in the line, rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitText {
    /// Who is next is drawn.
    Drawn {
        /// In which half of them get in.
        half: Option<Span>,
        /// In which nine of ten do.
        nine_of_ten: Option<Span>,
    },
    /// First come, first served.
    InLine(Option<Span>),
}

impl WaitText {
    /// Rounds an estimate. Nine of ten never take less time than half of them.
    #[must_use]
    pub fn new(estimate: WaitEstimate) -> Self {
        let half = estimate.half_s.map(Span::from_secs);
        let nine_of_ten = estimate.nine_of_ten_s.map(Span::from_secs).map(|nine| half.map_or(nine, |half| half.max(nine)));
        Self::Drawn { half, nine_of_ten }
    }

    /// Of one who stands in the line, and gets in after so many seconds if people go on being let in as they are; `None` if it can't be
    /// said.
    #[must_use]
    pub fn in_line(expected_s: Option<u64>) -> Self {
        Self::InLine(expected_s.map(Span::from_secs))
    }

    /// Both figures as words, such as `within about 2 minutes`, if both can be said and differ.
    #[must_use]
    pub fn figures(self) -> Option<(String, String)> {
        let Self::Drawn { half, nine_of_ten } = self else { return None };
        match (half?, nine_of_ten?) {
            (_, Span::MoreThanTwoHours) => None,
            (half, nine_of_ten) if half == nine_of_ten => None,
            (half, nine_of_ten) => Some((half.to_string(), nine_of_ten.to_string())),
        }
    }
}

impl fmt::Display for WaitText {
    /// One sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OVER: Span = Span::MoreThanTwoHours;
        let (half, nine_of_ten) = match self {
            Self::Drawn { half, nine_of_ten } => (*half, *nine_of_ten),
            Self::InLine(None) => (None, None),
            Self::InLine(Some(OVER)) => return write!(f, "If people go on being let in as now, it takes more than 2 hours."),
            Self::InLine(Some(span)) => return write!(f, "If people go on being let in as now, you get in {span}."),
        };
        match (half, nine_of_ten) {
            (None, None) => write!(f, "We cannot say yet how long it will take."),
            (Some(OVER), _) => write!(f, "More than half of those who wait now need more than 2 hours."),
            (None, Some(OVER)) => write!(f, "Some of those who wait now need more than 2 hours."),
            (Some(half), Some(OVER)) => write!(f, "Half of those who wait now get in {half}; some need more than 2 hours."),
            (Some(half), Some(nine)) if half != nine => {
                write!(f, "Half of those who wait now get in {half}, nine of ten {nine}.")
            }
            (_, Some(nine)) => write!(f, "Nine of ten of those who wait now get in {nine}."),
            (Some(half), None) => write!(f, "Half of those who wait now get in {half}."),
        }
    }
}

/// A length of time as it is told: rounded up, so that it is never less than estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// Up to 45 s.
    LessThanAMinute,
    /// 1 to 10 minutes, then 15 to 55 by fives.
    Minutes(u8),
    /// In half hours, 2 to 4: an hour, an hour and a half, two hours.
    HalfHours(u8),
    /// Beyond two hours every figure would be a guess.
    MoreThanTwoHours,
}

impl Span {
    /// Rounds seconds up.
    #[must_use]
    pub fn from_secs(secs: u64) -> Self {
        let minutes = secs.div_ceil(60);
        match u8::try_from(minutes) {
            Ok(_) if secs <= 45 => Self::LessThanAMinute,
            Ok(minutes @ ..=10) => Self::Minutes(minutes),
            Ok(minutes @ ..=55) => Self::Minutes(minutes.div_ceil(5) * 5),
            Ok(minutes @ ..=120) => Self::HalfHours(minutes.div_ceil(30)),
            Ok(_) | Err(_) => Self::MoreThanTwoHours,
        }
    }
}

impl fmt::Display for Span {
    /// With its preposition: `within about 7 minutes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LessThanAMinute => write!(f, "within a minute"),
            Self::Minutes(1) => write!(f, "within about 1 minute"),
            Self::Minutes(minutes) => write!(f, "within about {minutes} minutes"),
            Self::HalfHours(3) => write!(f, "within about 1½ hours"),
            Self::HalfHours(..=2) => write!(f, "within about 1 hour"),
            Self::HalfHours(_) => write!(f, "within about 2 hours"),
            Self::MoreThanTwoHours => write!(f, "in more than 2 hours"),
        }
    }
}

/// How a visitor stands in the waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitingState {
    /// Waits, and will be drawn.
    Waiting {
        /// How long it takes.
        wait: WaitText,
    },
    /// The operator has closed the gate: nobody is being let in.
    Closed,
    /// Has no ticket, and so isn't drawn: cookies are off, or too many tickets went to this network.
    NoTicket,
    /// Has won, and enters in a few seconds.
    Next,
}

impl WaitingState {
    /// The word for it in templates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Closed => "closed",
            Self::NoTicket => "no_ticket",
            Self::Next => "next",
        }
    }

    /// How long it takes, in one sentence.
    #[must_use]
    pub fn wait_text(self) -> String {
        match self {
            Self::Waiting { wait } => wait.to_string(),
            Self::Closed => "We cannot say yet when people will be let in again.".to_owned(),
            Self::NoTicket => "We cannot say how long it will take before you have a ticket.".to_owned(),
            Self::Next => "You are next: it takes a few seconds.".to_owned(),
        }
    }
}

/// All that a waiting page depends on: the same view is the same page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitingView {
    pub(super) state: WaitingState,
    pub(super) refresh_s: u32,
    pub(super) form_refused: bool,
    pub(super) position: Option<u64>,
}

impl WaitingView {
    /// `refresh_s`: seconds after which the page refreshes itself, 1 or more. `form_refused`: an unsafe method came without a pass;
    /// its page is never refreshed, so it forgets `refresh_s`. `position`: the visitor's place in the order of arrival, 1 is next;
    /// `None` in a lottery. It is rounded up to two digits.
    #[must_use]
    pub fn new(state: WaitingState, refresh_s: u32, form_refused: bool, position: Option<u64>) -> Self {
        let refresh_s = if form_refused { 0 } else { refresh_s.max(1) };
        Self { state, refresh_s, form_refused, position: position.map(round_position) }
    }

    /// Whether it asks for an email address: only who waits for long, with a ticket, has a use for that.
    pub(super) const fn has_form(&self) -> bool {
        match self.state {
            WaitingState::Waiting { .. } | WaitingState::Closed => !self.form_refused,
            WaitingState::NoTicket | WaitingState::Next => false,
        }
    }

    /// `every 10 seconds`; empty if the page isn't refreshed.
    pub(super) fn every(&self) -> String {
        match self.refresh_s {
            0 => String::new(),
            1 => "every second".to_owned(),
            secs => format!("every {secs} seconds"),
        }
    }

    /// `17` or `about 1,200`
    pub(super) fn position_text(&self) -> Option<String> {
        self.position.map(|position| if position < 100 { position.to_string() } else { format!("about {}", with_commas(position)) })
    }
}

/// Rounds up to two digits: 1 to 99 as they are, 1,234 is 1,300.
fn round_position(position: u64) -> u64 {
    let mut unit = 1;
    while position / unit >= 100 {
        unit *= 10;
    }
    position.max(1).div_ceil(unit).saturating_mul(unit)
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `a second`, `7 seconds`, and beyond a minute no figure.
pub(super) fn in_seconds(secs: usize) -> String {
    match secs {
        0 | 1 => "a second".to_owned(),
        2..=60 => format!("{secs} seconds"),
        _ => "a few minutes".to_owned(),
    }
}

/// What the landing page of an invitation is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LandingView<'a> {
    /// What is known of the code.
    pub state: LandingState<'a>,
    /// The page first asked for. It is shown, and comes back in the hidden field `next`.
    pub next: Option<&'a str>,
    /// That this page was asked for by who is invited; it comes back in the hidden field `check`.
    pub check: Option<&'a str>,
    /// What was typed in: it stands in the field again, if there is one.
    pub typed: &'a str,
}

/// The path and query of the landing page for a code; with the page asked for, and the proof that this page goes with it.
#[must_use]
pub fn landing_link(code: &str, next: Option<(&str, &str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("code", code);
    if let Some((next, check)) = next {
        query.append_pair("next", next).append_pair("check", check);
    }
    format!("/.tidegate/invitation?{}", query.finish())
}

/// What is known of an invitation's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LandingState<'a> {
    /// Good as far as can be seen: a button redeems it.
    Ready {
        /// The code.
        code: &'a str,
    },
    /// None was given: it can be typed in.
    Ask,
    /// Mistyped or unknown: it can be typed again.
    Invalid,
    /// Its time is out.
    Expired,
    /// The operator has revoked it.
    Revoked,
    /// Somebody has entered with it.
    Used,
    /// Good, but the site has no room; it isn't spent.
    NoRoom {
        /// The code.
        code: &'a str,
    },
    /// Too many codes that are none were typed in.
    TooMany {
        /// Until one may be again.
        retry_s: u32,
    },
    /// The ledger can't be asked, or not be written; the code isn't spent.
    Unavailable {
        /// The code.
        code: &'a str,
    },
}

impl<'a> LandingState<'a> {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Ready { .. } => "You are invited",
            Self::Ask => "Type in your invitation code",
            Self::Invalid => "We do not know this code",
            Self::Expired => "This invitation has expired",
            Self::Revoked => "This invitation was withdrawn",
            Self::Used => "This invitation has been used",
            Self::NoRoom { .. } => "There is no room just now",
            Self::TooMany { .. } => "Please wait a moment",
            Self::Unavailable { .. } => "We can not look at your invitation just now",
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Ready { .. } => "You do not have to wait in the waiting room. Press the button to enter the site.",
            Self::Ask => "It stands in the message that invited you. Capital and small letters are the same.",
            Self::Invalid => {
                "Please look at your invitation once more, and type the code as it stands there. Capital and small letters are the same."
            }
            Self::Expired => "It was good for a limited time, and that time is over. You can still come in by the waiting room.",
            Self::Revoked => "The people who run this site have withdrawn it. You can still come in by the waiting room.",
            Self::Used => "An invitation lets one person in, once. You can still come in by the waiting room.",
            Self::NoRoom { .. } => {
                "Your invitation is good, and it has not been used up. Please try it again in a few minutes; this page looks again by itself."
            }
            Self::TooMany { .. } => "Too many codes were typed in that we do not know. Please try it again a little later.",
            Self::Unavailable { .. } => {
                "That is our fault, and your invitation has not been used up. Please try it again in a few minutes."
            }
        }
    }

    pub(super) const fn code(self) -> Option<&'a str> {
        match self {
            Self::Ready { code } | Self::NoRoom { code } | Self::Unavailable { code } => Some(code),
            Self::Ask | Self::Invalid | Self::Expired | Self::Revoked | Self::Used | Self::TooMany { .. } => None,
        }
    }

    pub(super) const fn asks(self) -> bool {
        matches!(self, Self::Ask | Self::Invalid | Self::TooMany { .. })
    }

    /// The status of the page that tells it; `posted`: after a code was sent in.
    #[must_use]
    pub const fn status(self, posted: bool) -> StatusCode {
        match self {
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRoom { .. } if posted => StatusCode::SERVICE_UNAVAILABLE,
            Self::Ask | Self::Ready { .. } | Self::NoRoom { .. } => StatusCode::OK,
            Self::Invalid | Self::Expired | Self::Revoked | Self::Used => {
                if posted {
                    StatusCode::FORBIDDEN
                } else {
                    StatusCode::OK
                }
            }
        }
    }

    /// When it may be otherwise.
    #[must_use]
    pub const fn retry_s(self) -> Option<u32> {
        match self {
            Self::NoRoom { .. } | Self::Unavailable { .. } => Some(LOOK_AGAIN_S),
            Self::TooMany { retry_s } => Some(retry_s),
            Self::Ask | Self::Ready { .. } | Self::Invalid | Self::Expired | Self::Revoked | Self::Used => None,
        }
    }
}

/// So often a page that finds no room looks again.
const LOOK_AGAIN_S: u32 = 60;

/// What is known of a wish to be written to no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveState<'a> {
    /// A button does it: mail scanners follow links.
    Asks {
        /// Of which row of the email queue.
        id: &'a str,
        /// That the link was ours.
        check: &'a str,
    },
    /// It is written down.
    Done,
    /// The link is none of ours.
    Invalid,
    /// It can't be written down now.
    Unavailable,
}

impl LeaveState<'_> {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Asks { .. } => "Delete your email address",
            Self::Done => "Your email address is being deleted",
            Self::Invalid => "This link is not whole",
            Self::Unavailable => "We can not do that just now",
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Asks { .. } => {
                "Press the button, and we delete it and write to it no more. An invitation that you have already stays good."
            }
            Self::Done => "That is done within the hour, and we write to it no more. An invitation that you have already stays good.",
            Self::Invalid => "Please use the whole link from our message.",
            Self::Unavailable => "That is our fault. Please try it again in a few minutes.",
        }
    }

    /// The status of the page that tells it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Asks { .. } | Self::Done => StatusCode::OK,
            Self::Invalid => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn sentence(half_s: Option<u64>, nine_of_ten_s: Option<u64>) -> String {
        WaitText::new(WaitEstimate { half_s, nine_of_ten_s }).to_string()
    }

    #[test]
    fn spans_are_rounded_up_and_coarse() {
        let table = [
            (0, "within a minute"),
            (45, "within a minute"),
            (46, "within about 1 minute"),
            (60, "within about 1 minute"),
            (61, "within about 2 minutes"),
            (600, "within about 10 minutes"),
            (601, "within about 15 minutes"),
            (55 * 60, "within about 55 minutes"),
            (55 * 60 + 1, "within about 1 hour"),
            (3600, "within about 1 hour"),
            (3601, "within about 1½ hours"),
            (5400, "within about 1½ hours"),
            (5401, "within about 2 hours"),
            (7200, "within about 2 hours"),
            (7201, "in more than 2 hours"),
            (u64::MAX, "in more than 2 hours"),
        ];
        for (secs, expected) in table {
            assert_eq!(Span::from_secs(secs).to_string(), expected, "{secs} s");
        }
        let distinct: HashSet<Span> = (0..10_000).map(Span::from_secs).collect();
        assert_eq!(distinct.len(), 24);
    }

    #[test]
    fn the_truth_about_a_lottery_is_one_sentence() {
        assert_eq!(
            sentence(Some(118), Some(415)),
            "Half of those who wait now get in within about 2 minutes, nine of ten within about 7 minutes."
        );
        assert_eq!(sentence(None, None), "We cannot say yet how long it will take.");
        assert_eq!(sentence(Some(290), Some(290)), "Nine of ten of those who wait now get in within about 5 minutes.");
        assert_eq!(sentence(Some(20), None), "Half of those who wait now get in within a minute.");
        assert_eq!(
            sentence(Some(2400), Some(9000)),
            "Half of those who wait now get in within about 40 minutes; some need more than 2 hours."
        );
        assert_eq!(sentence(Some(9000), Some(90_000)), "More than half of those who wait now need more than 2 hours.");
    }

    #[test]
    fn the_truth_about_a_line_is_one_sentence() {
        let sentence = |seconds| WaitText::in_line(seconds).to_string();
        assert_eq!(sentence(Some(290)), "If people go on being let in as now, you get in within about 5 minutes.");
        assert_eq!(sentence(Some(90_000)), "If people go on being let in as now, it takes more than 2 hours.");
        assert_eq!(sentence(None), "We cannot say yet how long it will take.");
        assert_eq!(WaitText::in_line(Some(290)).figures(), None, "it is one figure, and not two");
    }

    #[test]
    fn nine_of_ten_are_never_told_less_than_half_are() {
        assert_eq!(sentence(Some(415), Some(100)), "Nine of ten of those who wait now get in within about 7 minutes.");
    }

    #[test]
    fn positions_keep_two_digits() {
        let table = [(0, "1"), (1, "1"), (99, "99"), (100, "about 100"), (101, "about 110"), (1234, "about 1,300"), (995, "about 1,000")];
        for (position, expected) in table {
            let view = WaitingView::new(WaitingState::Next, 10, false, Some(position));
            assert_eq!(view.position_text().unwrap(), expected, "{position}");
        }
        assert!(WaitingView::new(WaitingState::Next, 10, false, Some(u64::MAX)).position.unwrap() > u64::MAX / 2);
    }

    #[test]
    fn a_refused_form_has_one_view_whatever_the_refresh() {
        assert_eq!(WaitingView::new(WaitingState::Closed, 10, true, None), WaitingView::new(WaitingState::Closed, 60, true, None));
        assert_ne!(WaitingView::new(WaitingState::Closed, 10, false, None), WaitingView::new(WaitingState::Closed, 60, false, None));
    }

    proptest! {
        #[test]
        fn longer_is_never_told_as_shorter(a: u64, b: u64) {
            prop_assert!(Span::from_secs(a.min(b)) <= Span::from_secs(a.max(b)));
            prop_assert!(round_position(a.min(b)) <= round_position(a.max(b)));
        }
    }
}
