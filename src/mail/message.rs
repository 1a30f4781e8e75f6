//! The message of an invitation, as it goes over the wire.
//!
//! Always holds: the same row makes the same message, byte by byte, so that one which is sent again can be known by its `Message-ID`;
//! it is of ASCII in lines of at most [`LINE_BYTES_MAX`], but for an address that is not; and no value makes a second header.
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
    /// When the invitation was made: the same however often it is sent.
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

/// Checked again by who writes it down: what was read from a file is not trusted to make no second line.
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

/// Messages hold an address and a code.
impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Message").field("id", &self.id).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
