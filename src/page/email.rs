//! The form for an email address: on the waiting page, and on pages of its own.
//!
//! A waiting page is rendered once for many visitors, and what the form says of one visitor is put into it for each answer. Only what
//! is true of every visitor of a view is ever kept.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use hyper::body::Bytes;

use super::view::in_seconds;
use super::zipped::Zipped;
use crate::rules::email::NotAnAddress;
use crate::rules::negotiate::Coding;

/// What visitors are told of the email queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmailTerms {
    /// How long what they leave is kept.
    pub retention: Duration,
    /// Whether the gate writes to them by itself; else the people who run the site do.
    pub invites: bool,
}

impl EmailTerms {
    /// What becomes of an address, and when.
    pub(super) const fn promise(self) -> &'static str {
        if self.invites {
            "We write to you once, as soon as the site has room for you: with a link and a code that let you in without waiting."
        } else {
            "The people who run this site write to those who left one when the site is less busy."
        }
    }
}

/// What the form carries, hidden, for one visitor: the page asked for, and the proof that the form came from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormFields<'a> {
    /// Path and query of this site.
    pub next: &'a str,
    /// The keyed hash of the ticket and `next`.
    pub check: u64,
}

/// Of nobody, who asked for the front page: no ticket fits it.
impl Default for FormFields<'_> {
    fn default() -> Self {
        Self { next: "/", check: 0 }
    }
}

impl FormFields<'_> {
    /// The hidden fields.
    pub(super) fn inputs(&self) -> String {
        let mut html = Vec::with_capacity(self.room());
        self.write_inputs(&mut html);
        String::from_utf8_lossy(&html).into_owned()
    }

    fn write_inputs(&self, html: &mut Vec<u8>) {
        html.extend_from_slice(b"<input type=\"hidden\" name=\"next\" value=\"");
        escape(html, self.next);
        html.extend_from_slice(b"\"><input type=\"hidden\" name=\"check\" value=\"");
        html.extend_from_slice(&hexadecimal(self.check));
        html.extend_from_slice(b"\">");
    }

    /// To the form on a page of its own.
    fn write_link(&self, html: &mut Vec<u8>) {
        html.extend_from_slice(b"<p class=\"note\"><a href=\"/.tidegate/email?next=");
        for part in form_urlencoded::byte_serialize(self.next.as_bytes()) {
            html.extend_from_slice(part.as_bytes());
        }
        html.extend_from_slice(b"&amp;check=");
        html.extend_from_slice(&hexadecimal(self.check));
        html.extend_from_slice(b"\">Open this form on a page of its own</a>, which does not refresh.</p>");
    }

    /// What both take, unless much has to be escaped.
    fn room(&self) -> usize {
        300 + 3 * self.next.len()
    }
}

/// A waiting page as it is kept: whole but for what the form carries.
#[derive(Debug)]
pub struct WaitingPage {
    before: Bytes,
    /// What follows the fields; `None` if there is no form.
    after: Option<Bytes>,
    zipped: Option<Zipped>,
}

impl WaitingPage {
    /// Cuts a page at [`FIELDS`], which is dropped.
    pub(super) fn cut(page: Bytes) -> Self {
        let Some(at) = memchr::memmem::find(&page, FIELDS.as_bytes()) else { return page.into() };
        Self::new(page.slice(..at), Some(page.slice(at + FIELDS.len()..)))
    }

    fn new(before: Bytes, after: Option<Bytes>) -> Self {
        let zipped = Zipped::new(&before, after.as_ref().unwrap_or(&Bytes::new()));
        Self { before, after, zipped }
    }

    /// The page for one visitor, in pieces most of whose bytes are shared, none of them empty; and the coding that it is in, which is
    /// `taken` if the page is kept so. If there is no form, it is the same for everyone.
    #[must_use]
    pub fn with(&self, fields: &FormFields<'_>, taken: Coding) -> (Coding, Vec<Bytes>) {
        let mut own = Vec::new();
        if self.has_form() {
            own.reserve(fields.room());
            fields.write_inputs(&mut own);
            fields.write_link(&mut own);
        }
        let (coding, mut pieces) = match &self.zipped {
            Some(zipped) if taken == Coding::Gzip => (Coding::Gzip, Vec::from(zipped.with(&own))),
            Some(_) | None => (Coding::Identity, vec![self.before.clone(), own.into(), self.after.clone().unwrap_or_default()]),
        };
        pieces.retain(|piece| !piece.is_empty());
        (coding, pieces)
    }

    /// Whether it has a form, which is of no use without its fields.
    #[must_use]
    pub const fn has_form(&self) -> bool {
        self.after.is_some()
    }
}

/// A page without a form.
impl From<Bytes> for WaitingPage {
    fn from(page: Bytes) -> Self {
        Self::new(page, None)
    }
}

/// Stands in a rendered waiting page for what the form carries.
pub(super) const FIELDS: &str = "<!-- the fields of one visitor -->";

pub(super) fn escape(html: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'&' => html.extend_from_slice(b"&amp;"),
            b'<' => html.extend_from_slice(b"&lt;"),
            b'>' => html.extend_from_slice(b"&gt;"),
            b'"' => html.extend_from_slice(b"&quot;"),
            b'\'' => html.extend_from_slice(b"&#39;"),
            _ => html.push(byte),
        }
    }
}

fn hexadecimal(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        let shift = 60 - 4 * at;
        *digit = b"0123456789abcdef"[usize::try_from((number >> shift) & 0xf).unwrap_or(0)];
    }
    text
}

/// What the email page is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmailView<'a> {
    /// How it stands.
    pub state: EmailState<'a>,
    /// What the form carries; its `next` is the way back.
    pub fields: FormFields<'a>,
    /// How long a place in the waiting room is kept for who stays away.
    pub void_after: Duration,
}

/// How it stands with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailState<'a> {
    /// It can be typed in.
    Asks,
    /// What was typed is no address.
    Invalid {
        /// As it came.
        typed: &'a str,
        /// Why it is none.
        why: NotAnAddress,
    },
    /// It can't be written down now.
    Unavailable {
        /// As it came.
        typed: &'a str,
    },
    /// It is written down.
    Taken,
    /// It came without a ticket that holds.
    NoTicket,
    /// It came from a page that is not ours, or was not given to this ticket.
    NotOurs,
    /// The ticket has brought as many addresses as it may.
    TicketFull,
    /// The network has sent too many.
    TooMany {
        /// Seconds after which it may again.
        retry_s: u32,
    },
    /// The operator takes none.
    Disabled,
}

impl<'a> EmailState<'a> {
    /// The status of its answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Asks | Self::Taken => StatusCode::OK,
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoTicket | Self::NotOurs | Self::TicketFull => StatusCode::FORBIDDEN,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Disabled => StatusCode::NOT_FOUND,
        }
    }

    /// Seconds after which to try again, if that may help.
    #[must_use]
    pub const fn retry_s(self) -> Option<u32> {
        match self {
            Self::Unavailable { .. } => Some(UNAVAILABLE_S),
            Self::TooMany { retry_s } => Some(retry_s),
            Self::Asks | Self::Invalid { .. } | Self::Taken | Self::NoTicket | Self::NotOurs | Self::TicketFull | Self::Disabled => None,
        }
    }

    /// What it is, in a few words without a full stop.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Asks => "Leave your email address",
            Self::Invalid { .. } => "Please look at your address once more",
            Self::Unavailable { .. } => "Your address cannot be taken just now",
            Self::Taken => "Thank you",
            Self::NoTicket => "You have no ticket that holds",
            Self::NotOurs => "This form cannot be taken",
            Self::TicketFull => "No more addresses",
            Self::TooMany { .. } => "Too many addresses at once",
            Self::Disabled => "No addresses are taken here",
        }
    }

    /// What it means and what to do.
    ///
    /// `terms` are those of the page.
    #[must_use]
    pub fn text(self, terms: Option<EmailTerms>) -> Cow<'static, str> {
        let promise = terms.map_or("", EmailTerms::promise);
        let text = match self {
            Self::Asks => promise,
            Self::Invalid { .. } => "It has not been kept. What you typed stands in the form: change it, and send it again.",
            Self::Unavailable { .. } => {
                "Something is wrong on our side, and it has not been kept. What you typed stands in the form: send it again in a minute."
            }
            Self::Taken => return format!("Your address has been written down. {promise} You can close this page.").into(),
            Self::NoTicket => {
                "Only who waits can leave an address, with a ticket, which is a cookie. You have none, or you were away from the waiting room \
                 for so long that it has ended. No address has been kept. In the waiting room you get a ticket, and a form."
            }
            Self::NotOurs => {
                "It did not come from a page that this site has given to you, so it has not been kept. Please use the form in the waiting room."
            }
            Self::TicketFull => "You have left as many addresses as one visitor may. This one has not been kept.",
            Self::TooMany { retry_s } => {
                let wait = in_seconds(retry_s as usize);
                return format!(
                    "Very many have come from your network in a short time, and this one has not been kept. Wait {wait}, go back in your \
                     browser, and send it again."
                )
                .into();
            }
            Self::Disabled => "The people who run this site do not take email addresses now. None has been kept.",
        };
        text.into()
    }

    pub(super) const fn has_form(self) -> bool {
        match self {
            Self::Asks | Self::Invalid { .. } | Self::Unavailable { .. } => true,
            Self::Taken | Self::NoTicket | Self::NotOurs | Self::TicketFull | Self::TooMany { .. } | Self::Disabled => false,
        }
    }

    /// Whether there is a place in the waiting room to lose.
    pub(super) const fn keeps_place(self) -> bool {
        match self {
            Self::Asks | Self::Invalid { .. } | Self::Unavailable { .. } | Self::Taken | Self::TicketFull | Self::TooMany { .. } => true,
            Self::NoTicket | Self::NotOurs | Self::Disabled => false,
        }
    }

    pub(super) const fn typed(self) -> &'a str {
        match self {
            Self::Invalid { typed, .. } | Self::Unavailable { typed } => typed,
            Self::Asks | Self::Taken | Self::NoTicket | Self::NotOurs | Self::TicketFull | Self::TooMany { .. } | Self::Disabled => "",
        }
    }

    /// What is wrong with what was typed.
    #[must_use]
    pub fn error(self) -> Option<String> {
        if let Self::Invalid { why, .. } = self { Some(why.to_string()) } else { None }
    }
}

/// A full disk is seldom emptied sooner.
const UNAVAILABLE_S: u32 = 60;

/// A length of time in the largest unit that tells it whole: `30 days`, `36 hours`, `1 minute`.
pub(super) fn in_units(length: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "day"), (3600, "hour"), (60, "minute")];
    let secs = length.as_secs().max(1);
    let (count, unit) =
        UNITS.into_iter().find(|(unit, _)| secs.is_multiple_of(*unit)).map_or((secs, "second"), |(unit, name)| (secs / unit, name));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_whole() {
        let table = [
            (30 * 86_400, "30 days"),
            (86_400, "1 day"),
            (36 * 3600, "36 hours"),
            (3600, "1 hour"),
            (5400, "90 minutes"),
            (180, "3 minutes"),
            (150, "150 seconds"),
            (1, "1 second"),
        ];
        for (secs, expected) in table {
            assert_eq!(in_units(Duration::from_secs(secs)), expected, "{secs}");
        }
    }

    #[test]
    fn a_page_is_joined_with_the_fields_of_one_visitor() {
        let page = WaitingPage::cut(Bytes::from(format!("<form>{FIELDS}</form>")));
        assert!(page.has_form());
        let joined = page.with(&FormFields { next: "/a?b=\"c\"&d='<e>'", check: 0x0123_4567_89ab_cdef }, Coding::Identity).1.concat();
        assert_eq!(
            String::from_utf8(joined).unwrap(),
            "<form><input type=\"hidden\" name=\"next\" value=\"/a?b=&quot;c&quot;&amp;d=&#39;&lt;e&gt;&#39;\">\
             <input type=\"hidden\" name=\"check\" value=\"0123456789abcdef\">\
             <p class=\"note\"><a href=\"/.tidegate/email?next=%2Fa%3Fb%3D%22c%22%26d%3D%27%3Ce%3E%27&amp;check=0123456789abcdef\">\
             Open this form on a page of its own</a>, which does not refresh.</p></form>"
        );
    }

    #[test]
    fn a_page_without_a_form_is_the_same_for_everyone() {
        let page = WaitingPage::cut(Bytes::from_static(b"<p>wait</p>"));
        assert!(!page.has_form());
        let fields = FormFields { next: "/", check: 1 };
        assert_eq!(page.with(&fields, Coding::Identity), (Coding::Identity, vec!["<p>wait</p>".into()]));
        assert_eq!(page.with(&fields, Coding::Gzip).0, Coding::Identity, "it would only grow");
    }

    #[test]
    fn no_piece_of_a_page_is_empty() {
        for page in [format!("{FIELDS}</form>"), format!("<form>{FIELDS}"), FIELDS.to_owned(), "a".repeat(1000), "a".repeat(1000) + FIELDS]
        {
            let page = WaitingPage::cut(page.into());
            for taken in [Coding::Identity, Coding::Gzip] {
                assert!(page.with(&FormFields::default(), taken).1.iter().all(|piece| !piece.is_empty()));
            }
        }
    }
}
