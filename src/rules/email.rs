//! Email addresses, as visitors type them.

use std::borrow::Cow;
use std::fmt;

use email_address::{EmailAddress, Options};

/// The most bytes of an address (RFC 5321, 4.5.3.1.3, less the brackets).
pub const ADDRESS_BYTES_MAX: usize = 254;

/// An address that mail can be sent to: the domain in ASCII and lower case. Its Debug does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(String);

impl Address {
    /// Reads what was typed.
    ///
    /// # Errors
    /// Why it can't be an address.
    pub fn parse(typed: &str) -> Result<Self, NotAnAddress> {
        let typed = typed.trim();
        if typed.is_empty() {
            return Err(NotAnAddress::Empty);
        }
        if typed.len() > ADDRESS_BYTES_MAX {
            return Err(NotAnAddress::TooLong { bytes: typed.len() });
        }
        if typed.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return Err(NotAnAddress::Space);
        }
        let (local, domain) = typed.rsplit_once('@').ok_or(NotAnAddress::NoAt)?;
        if local.is_empty() || domain.is_empty() {
            return Err(NotAnAddress::Form);
        }
        if local.contains('@') {
            return Err(NotAnAddress::TwoAts);
        }
        // what is quoted may hold anything, and nobody's address is
        if local.contains('"') {
            return Err(NotAnAddress::Form);
        }
        let domain = idna::domain_to_ascii_strict(domain).map_err(|_| NotAnAddress::Domain)?;
        if !domain.contains('.') {
            return Err(NotAnAddress::Domain);
        }
        let address = format!("{local}@{domain}");
        if address.len() > ADDRESS_BYTES_MAX {
            return Err(NotAnAddress::TooLong { bytes: address.len() });
        }
        let options = Options::default().without_display_text().without_domain_literal();
        EmailAddress::parse_with_options(&address, options).map_err(|_| NotAnAddress::Form)?;
        Ok(Self(address))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for every spelling that reaches the same person: no server that is in use tells capital letters from small ones.
    #[must_use]
    pub fn folded(&self) -> Cow<'_, str> {
        fold(&self.0)
    }
}

/// [`Address::folded`] of an address that was written down as it stands.
#[must_use]
pub fn fold(address: &str) -> Cow<'_, str> {
    // most are so already
    if address.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(address)
    } else {
        Cow::Owned(address.to_lowercase())
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

/// Addresses are for who asks for them by name.
impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Address").finish_non_exhaustive()
    }
}

/// Why what was typed is no address. Each is a sentence for who typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// Nothing, or only spaces.
    #[error("Please type your email address.")]
    Empty,
    /// More than [`ADDRESS_BYTES_MAX`].
    #[error("An email address has at most {ADDRESS_BYTES_MAX} characters, and this has {bytes}.")]
    TooLong {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A space, a line break or another character that can't be seen.
    #[error("An email address has no spaces in it. Please type one address.")]
    Space,
    /// No `@`.
    #[error("An email address has an @ in it, such as ann@example.org.")]
    NoAt,
    /// More than one `@`.
    #[error("An email address has one @. Please type one address.")]
    TwoAts,
    /// What is after the `@` is no domain.
    #[error("Please look at the part after the @ once more: it is a name such as example.org.")]
    Domain,
    /// Anything else.
    #[error("This does not look like an email address. Please look at it once more.")]
    Form,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(typed: &str) -> Result<String, NotAnAddress> {
        Address::parse(typed).map(|address| address.as_str().to_owned())
    }

    #[test]
    fn what_people_type_is_read() {
        let table = [
            ("ann@example.org", "ann@example.org"),
            ("  ann@example.org\r\n", "ann@example.org"),
            ("Ann.O'Neil+queue@Example.ORG", "Ann.O'Neil+queue@example.org"),
            ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
            ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v"),
            ("a@b.co", "a@b.co"),
        ];
        for (typed, expected) in table {
            assert_eq!(parsed(typed).as_deref(), Ok(expected), "{typed}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        let long = format!("{}@example.org", "a".repeat(250));
        let table = [
            ("", NotAnAddress::Empty),
            (" \t ", NotAnAddress::Empty),
            (long.as_str(), NotAnAddress::TooLong { bytes: 262 }),
            ("ann", NotAnAddress::NoAt),
            ("ann@", NotAnAddress::Form),
            ("@example.org", NotAnAddress::Form),
            ("ann@example.org\r\nBcc: eve@example.net", NotAnAddress::Space),
            ("ann@example.org\0", NotAnAddress::Space),
            ("ann@example.org eve@example.net", NotAnAddress::Space),
            ("ann@example.org,eve@example.net", NotAnAddress::TwoAts),
            ("ann@exam_ple.org", NotAnAddress::Domain),
            ("ann@localhost", NotAnAddress::Domain),
            ("ann@[127.0.0.1]", NotAnAddress::Domain),
            ("ann@example..org", NotAnAddress::Domain),
            ("Ann<ann@example.org", NotAnAddress::Form),
            ("ann..lee@example.org", NotAnAddress::Form),
            ("\"ann\"@example.org", NotAnAddress::Form),
            ("ann>@example.org", NotAnAddress::Form),
        ];
        for (typed, expected) in table {
            assert_eq!(parsed(typed), Err(expected), "{typed:?}");
        }
    }

    #[test]
    fn spellings_of_one_address_fold_to_the_same() {
        let folded = |typed: &str| Address::parse(typed).unwrap().folded().into_owned();
        assert_eq!(folded("Ann@Example.org"), folded("ann@example.ORG"));
        assert_eq!(folded("ÄNN@bücher.example"), folded("änn@BÜCHER.example"));
        assert_ne!(folded("ann@example.org"), folded("ann+1@example.org"));
    }

    #[test]
    fn an_address_is_not_shown_by_accident() {
        assert_eq!(format!("{:?}", Address::parse("ann@example.org").unwrap()), "Address { .. }");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_typed_makes_no_second_line(typed in "\\PC*|.*@.*\\.[a-z]{2}") {
            if let Ok(address) = Address::parse(&typed) {
                let text = address.as_str();
                proptest::prop_assert!(text.len() <= ADDRESS_BYTES_MAX && !text.chars().any(char::is_control));
                proptest::prop_assert_eq!(Address::parse(text), Ok(address.clone()), "it reads as itself");
            }
        }
    }
}
