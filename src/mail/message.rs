//! The message of an invitation, as it goes over the wire.
//!
//! Always holds: the same row makes the same message, but for its date and how long its code holds, so one which is sent again can be known
//! by its `Message-ID`; it is of ASCII in lines of at most [`LINE_BYTES_MAX`], but for an address that is not; and no value makes a second header.
//!
//! Absent: attachments, images, signatures (DKIM is the relay's), and the words (`page/letter.rs`).

use std::time::{Duration, SystemTime};

use lettre::address::Envelope as Path;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};

use crate::page::Letter;
use crate::rules::email::Address;
use crate::rules::policy::Sender;
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;

/// What makes a message of a letter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    /// Who it comes from.
    pub(super) from: &'a Sender,
    /// Who it goes to.
    pub(super) to: &'a Address,
    /// The row that it is for.
    pub(super) id: VisitorId,
    /// The site; its host stands in the `Message-ID`.
    pub(super) site_url: &'a str,
    /// When it is sent.
    pub(super) at: UnixTime,
    /// Has the address deleted.
    pub(super) unsubscribe: &'a str,
    /// What it says.
    pub(super) letter: &'a Letter,
}

/// A message, ready to be sent. Its Debug does not show it.
#[derive(Clone)]
pub(super) struct Message {
    /// The row that it is for.
    pub(super) id: VisitorId,
    /// From whom, to whom.
    pub(super) path: Path,
    /// The whole of it, headers and body.
    pub(super) bytes: Vec<u8>,
}

/// Messages hold an address and a code.
impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Message").field("id", &self.id).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Why a letter can't be made a message; trying again would not help. Holds no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ComposeError {
    /// The sender is none that can be written.
    #[error("the sender is not an address")]
    From(#[source] lettre::address::AddressError),
    /// The recipient is none that can be written.
    #[error("the recipient is not an address")]
    To(#[source] lettre::address::AddressError),
    /// A link that would end its header.
    #[error("the link that has the address deleted is not a URL")]
    Unsubscribe,
    /// A header or a body that can't be written.
    #[error("the message can't be put together")]
    Build(#[source] lettre::error::Error),
    /// A text that has no encoding.
    #[error("the text can't be encoded")]
    Encoding,
    /// A line that servers may cut.
    #[error("a line of {bytes} bytes is above {LINE_BYTES_MAX}")]
    LineTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Puts a letter into its envelope.
///
/// # Errors
/// Why it can't be.
pub(super) fn compose(envelope: &Envelope<'_>) -> Result<Message, ComposeError> {
    let Envelope { from, to, id, site_url, at, unsubscribe, letter } = *envelope;
    let from_address = address(&from.address).map_err(ComposeError::From)?;
    let to_address = address(to.as_str()).map_err(ComposeError::To)?;
    if !unsubscribe.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<' && byte != b'>') {
        return Err(ComposeError::Unsubscribe);
    }
    let host = host(site_url).unwrap_or_else(|| from_address.domain()).to_owned();
    let mut builder = lettre::Message::builder()
        .from(Mailbox::new(from.name.clone(), from_address))
        .to(Mailbox::new(None, to_address))
        .subject(letter.subject.as_str())
        .date(SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis()))
        .message_id(Some(format!("<{id}.invitation@{host}>")))
        .raw_header(HeaderValue::new(CONTENT_LANGUAGE, letter.language.clone()))
        // asks for no answer from what answers by itself (RFC 3834)
        .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()))
        .raw_header(HeaderValue::new(LIST_UNSUBSCRIBE, format!("<{unsubscribe}>")));
    // RFC 8058 knows it over https alone
    if unsubscribe.starts_with("https://") {
        builder = builder.raw_header(HeaderValue::new(LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click".to_owned()));
    }
    let text = part(ContentType::TEXT_PLAIN, &letter.text)?;
    let built = match &letter.html {
        None => builder.singlepart(text),
        Some(html) => {
            // a reader shows the last that it can
            let alternatives = MultiPart::alternative().boundary(boundary(id)).singlepart(text);
            builder.multipart(alternatives.singlepart(part(ContentType::TEXT_HTML, html)?))
        }
    };
    let message = built.map_err(ComposeError::Build)?;
    let bytes = message.formatted();
    let longest = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).len()).max();
    if let Some(bytes) = longest.filter(|&bytes| bytes > LINE_BYTES_MAX) {
        return Err(ComposeError::LineTooLong { bytes });
    }
    Ok(Message { id, path: message.envelope().clone(), bytes })
}

/// Checked once more: what was read from a file is not trusted to make no second line.
fn address(text: &str) -> Result<lettre::Address, lettre::address::AddressError> {
    text.parse()
}

/// Always quoted-printable: ASCII as it stands is at the mercy of relays that wrap lines, and a signature may be made over it later.
fn part(kind: ContentType, text: &str) -> Result<SinglePart, ComposeError> {
    let body = Body::new_with_encoding(text.to_owned(), ContentTransferEncoding::QuotedPrintable).map_err(|_| ComposeError::Encoding)?;
    Ok(SinglePart::builder().header(kind).body(body))
}

/// `=_` stands in no text that is quoted-printable (RFC 2045, 6.7).
fn boundary(id: VisitorId) -> String {
    format!("=_{id}")
}

/// The host of a URL if it is a name, which is what can stand in a `Message-ID` as it is.
fn host(site_url: &str) -> Option<&str> {
    let (_, rest) = site_url.split_once("://")?;
    let host = rest.split(['/', ':']).next()?;
    let is_name = !host.is_empty() && host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_of_a_name));
    is_name.then_some(host)
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// RFC 5322, 2.1.1, without the line's end.
const LINE_BYTES_MAX: usize = 998;

const CONTENT_LANGUAGE: HeaderName = HeaderName::new_from_ascii_str("Content-Language");
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");
const LIST_UNSUBSCRIBE: HeaderName = HeaderName::new_from_ascii_str("List-Unsubscribe");
const LIST_UNSUBSCRIBE_POST: HeaderName = HeaderName::new_from_ascii_str("List-Unsubscribe-Post");

#[cfg(test)]
pub(super) mod tests {
    use mail_parser::{HeaderName as Name, MessageParser, MimeHeaders as _};
    use proptest::prelude::*;

    use super::*;
    use crate::page::{LetterView, Pages};

    const AT: UnixTime = UnixTime::from_secs(1_795_500_000);
    const UNSUBSCRIBE: &str = "https://www.example.org/.tidegate/email?forget=0123456789abcdef&mac=fedcba9876543210";

    pub(in crate::mail) fn sender(name: Option<&str>) -> Sender {
        Sender { name: name.map(str::to_owned), address: "no-reply@example.org".to_owned(), label: String::new() }
    }

    pub(in crate::mail) fn letter(language: &str) -> Letter {
        let view = LetterView {
            site_url: "https://www.example.org",
            link: "https://www.example.org/.tidegate/invitation?code=ABCDEFGHJKMNPQRST",
            code: "ABCD-EFGH-JKMN-PQRS-T",
            until: AT,
            asked_at: AT,
            next: Some("/apply"),
            unsubscribe: UNSUBSCRIBE,
        };
        Pages::built_in().unwrap().letter(Some(language), &view).unwrap()
    }

    /// A message to someone.
    pub(in crate::mail) fn message_to(to: &str, id: u64) -> Message {
        try_message(to, Some("Benefits Portal"), &letter("en"), id).unwrap()
    }

    fn try_message(to: &str, from: Option<&str>, letter: &Letter, id: u64) -> Result<Message, ComposeError> {
        compose(&Envelope {
            from: &sender(from),
            to: &Address::parse(to).unwrap(),
            id: VisitorId(id),
            site_url: "https://www.example.org:8443/portal",
            at: AT,
            unsubscribe: UNSUBSCRIBE,
            letter,
        })
    }

    fn text_of(message: &Message) -> String {
        String::from_utf8(message.bytes.clone()).unwrap()
    }

    /// The names of its headers, in order. Lines that go on begin with a space.
    fn header_names(message: &Message) -> Vec<String> {
        let text = text_of(message);
        let head = text.split("\r\n\r\n").next().unwrap();
        let lines = head.split("\r\n").filter(|line| !line.starts_with(' '));
        lines.map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line}")).0.to_owned()).collect()
    }

    fn assert_wire_safe(message: &Message) {
        let text = text_of(message);
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a line ends with one character");
        let longest = text.split("\r\n").map(str::len).max().unwrap();
        assert!(longest <= LINE_BYTES_MAX, "{longest}");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(body.is_ascii() && body.split("\r\n").all(|line| line.len() <= 76), "quoted-printable keeps to 76");
    }

    #[test]
    fn every_language_reads_back_as_it_was_written() {
        for language in ["en", "de", "fr", "es"] {
            let letter = letter(language);
            let message = try_message("ann@example.net", Some("Bürgeramt, \"Süd\""), &letter, 7).unwrap();
            assert!(message.bytes.is_ascii());
            assert_wire_safe(&message);
            let read = MessageParser::default().parse(&message.bytes).unwrap();
            let from = read.from().unwrap().first().unwrap();
            assert_eq!((from.name(), from.address()), (Some("Bürgeramt, \"Süd\""), Some("no-reply@example.org")));
            assert_eq!(read.to().unwrap().first().unwrap().address(), Some("ann@example.net"));
            assert_eq!(read.subject(), Some(letter.subject.as_str()));
            assert_eq!(read.date().unwrap().to_timestamp(), 1_795_500_000);
            assert_eq!(read.message_id(), Some("0000000000000007.invitation@www.example.org"));
            assert_eq!(read.header_raw("Content-Language").unwrap().trim(), language);
            assert_eq!(read.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
            assert_eq!(read.header_raw("List-Unsubscribe").unwrap().trim(), format!("<{UNSUBSCRIBE}>"));
            assert_eq!(read.header_raw("List-Unsubscribe-Post").unwrap().trim(), "List-Unsubscribe=One-Click");
            assert_eq!(read.content_type().unwrap().subtype(), Some("alternative"));
            // the first is the text
            let kinds: Vec<_> = read.parts[1..].iter().map(|part| part.content_type().unwrap().subtype().unwrap().to_owned()).collect();
            assert_eq!(kinds, ["plain", "html"]);
            assert_eq!(read.body_text(0).unwrap().replace("\r\n", "\n").trim_end(), letter.text.trim_end());
            assert_eq!(read.body_html(0).unwrap().replace("\r\n", "\n").trim_end(), letter.html.unwrap().trim_end());
        }
    }

    #[test]
    fn these_are_the_headers_and_no_other() {
        let expected = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "Content-Language",
            "Auto-Submitted",
            "List-Unsubscribe",
            "List-Unsubscribe-Post",
            "MIME-Version",
            "Content-Type",
        ];
        assert_eq!(header_names(&message_to("ann@example.org", 1)), expected);
    }

    #[test]
    fn without_html_there_is_one_part() {
        let text_alone = Letter { html: None, ..letter("en") };
        let message = try_message("ann@example.org", None, &text_alone, 1).unwrap();
        assert_wire_safe(&message);
        let read = MessageParser::default().parse(&message.bytes).unwrap();
        assert_eq!((read.parts.len(), read.html_body_count()), (1, 1));
        assert!(text_of(&message).contains("\r\nContent-Transfer-Encoding: quoted-printable\r\n"));
        assert!(text_of(&message).starts_with("From: no-reply@example.org\r\n"));
    }

    #[test]
    fn the_same_row_makes_the_same_message() {
        let (first, again) = (message_to("ann@example.org", 7), message_to("ann@example.org", 7));
        assert_eq!(first.bytes, again.bytes);
        assert_ne!(first.bytes, message_to("ann@example.org", 8).bytes);
    }

    #[test]
    fn addresses_beyond_ascii_are_written_as_they_are() {
        // a domain in another script was put into ASCII when it was typed
        let domain = message_to("ann@bücher.example", 1);
        assert!(domain.bytes.is_ascii() && text_of(&domain).contains("\r\nTo: ann@xn--bcher-kva.example\r\n"));
        let local = message_to("jürgen@bücher.example", 1);
        assert!(text_of(&local).contains("\r\nTo: jürgen@xn--bcher-kva.example\r\n"));
        assert_eq!(local.path.to()[0].to_string(), "jürgen@xn--bcher-kva.example");
        assert_wire_safe(&local);
    }

    #[test]
    fn a_link_over_http_is_not_said_to_be_one_click() {
        let letter = letter("en");
        let envelope = Envelope {
            from: &sender(None),
            to: &Address::parse("ann@example.org").unwrap(),
            id: VisitorId(1),
            site_url: "http://[::1]:8080",
            at: AT,
            unsubscribe: "http://[::1]:8080/x",
            letter: &letter,
        };
        let message = compose(&envelope).unwrap();
        assert!(text_of(&message).contains("\r\nList-Unsubscribe: <http://[::1]:8080/x>\r\n"));
        assert!(!header_names(&message).contains(&"List-Unsubscribe-Post".to_owned()));
        // an address is no name: then it is the sender's
        let read = MessageParser::default().parse(&message.bytes).unwrap();
        assert_eq!(read.header(Name::MessageId).and_then(|id| id.as_text()), Some("0000000000000001.invitation@example.org"));
        for unsubscribe in ["https://a/>\r\nBcc: eve@example.org", "https://a/ b", "https://a/ü", "https://a/<"] {
            let error = compose(&Envelope { unsubscribe, ..envelope }).unwrap_err();
            assert!(matches!(error, ComposeError::Unsubscribe), "{error:?}");
        }
        let long = format!("https://a/{}", "x".repeat(1000));
        let error = compose(&Envelope { unsubscribe: &long, ..envelope }).unwrap_err();
        assert!(matches!(error, ComposeError::LineTooLong { bytes: 1030 }), "{error:?}");
    }

    #[test]
    fn what_stands_in_the_text_is_not_taken_for_more_than_text() {
        let text = ".\n..\nFrom here on\n--=_0000000000000001--\n\ttab \nlast line without an end";
        let tricky = Letter { text: text.to_owned(), html: Some("<p>.</p>\n.\n".to_owned()), ..letter("en") };
        let message = try_message("ann@example.org", None, &tricky, 1).unwrap();
        assert_wire_safe(&message);
        let read = MessageParser::default().parse(&message.bytes).unwrap();
        assert_eq!(read.body_text(0).unwrap().replace("\r\n", "\n").trim_end(), text);
        assert_eq!(read.parts.len(), 3);
    }

    proptest! {
        #[test]
        fn no_value_makes_a_second_header(
            name in "[^\\p{Cc}]{0,200}",
            subject in "\\PC{1,200}|.{0,20}(\r\n|\n|\r)Bcc: eve@example.org",
            language in "[a-zA-Z0-9-]{2,35}",
            text in any::<String>(),
        ) {
            let odd = Letter { language, subject, text, html: None };
            if let Ok(message) = try_message("ann@example.org", Some(&name), &odd, 1) {
                assert_wire_safe(&message);
                let names = header_names(&message);
                prop_assert_eq!(names.len(), 12, "{:?}", names);
                prop_assert!(!names.contains(&"Bcc".to_owned()));
            }
        }
    }
}
