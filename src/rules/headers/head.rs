//! The head of a request as the rules read it: its headers, and which of those that are asked for it holds, noted in one pass over the
//! names. To look for a header that is absent costs more than to pass over all names, and most that are asked for are absent.
//!
//! Always holds: what is noted is what a look-up would find. Absent: `Host`, which is there, and what only the rules that change headers
//! ask for: they see for themselves what is there by then.

use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};

/// The headers of a request, and which of [`Name`] are among them.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    map: &'a HeaderMap,
    /// A bit of each name that is there.
    names: u16,
}

/// A header that the rules ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `Accept`
    Accept,
    /// `Content-Length`
    ContentLength,
    /// `Cookie`
    Cookie,
    /// `Sec-Fetch-Dest`
    SecFetchDest,
    /// `Sec-Fetch-Mode`
    SecFetchMode,
    /// `Tidegate-Pass`
    TidegatePass,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Requested-With`
    XRequestedWith,
}

impl Name {
    const fn bit(self) -> u16 {
        1 << self as u16
    }

    fn of(name: &HeaderName) -> Option<Self> {
        match *name {
            ACCEPT => Some(Self::Accept),
            CONTENT_LENGTH => Some(Self::ContentLength),
            COOKIE => Some(Self::Cookie),
            TRANSFER_ENCODING => Some(Self::TransferEncoding),
            CONNECTION | usual!() => None,
            _ => match name.as_str() {
                "sec-fetch-dest" => Some(Self::SecFetchDest),
                "sec-fetch-mode" => Some(Self::SecFetchMode),
                "tidegate-pass" => Some(Self::TidegatePass),
                "x-forwarded-for" => Some(Self::XForwardedFor),
                "x-requested-with" => Some(Self::XRequestedWith),
                _ => None,
            },
        }
    }
}

impl<'a> Head<'a> {
    /// The headers.
    #[must_use]
    pub const fn map(self) -> &'a HeaderMap {
        self.map
    }

    /// Whether there is a line of this name.
    #[must_use]
    pub const fn has(self, name: Name) -> bool {
        self.names & name.bit() != 0
    }
}

impl<'a> From<&'a HeaderMap> for Head<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        let names = map.keys().filter_map(Name::of).fold(0, |names, name| names | name.bit());
        Self { map, names }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ALL: [(Name, &str); 9] = [
        (Name::Accept, "accept"),
        (Name::ContentLength, "content-length"),
        (Name::Cookie, "cookie"),
        (Name::SecFetchDest, "sec-fetch-dest"),
        (Name::SecFetchMode, "sec-fetch-mode"),
        (Name::TidegatePass, "tidegate-pass"),
        (Name::TransferEncoding, "transfer-encoding"),
        (Name::XForwardedFor, "x-forwarded-for"),
        (Name::XRequestedWith, "x-requested-with"),
    ];

    fn name() -> impl Strategy<Value = String> {
        let others = ["host", "accept-encoding", "user-agent", "connection", "x_forwarded_for", "te", "sec-fetch-site", "x"];
        let known: Vec<&str> = ALL.iter().map(|(_, name)| *name).chain(others).collect();
        prop_oneof![4 => proptest::sample::select(known).prop_map(str::to_owned), 1 => "[a-z_-]{1,18}"]
    }

    proptest! {
        #[test]
        fn what_is_noted_is_what_a_look_up_finds(names in proptest::collection::vec(name(), 0..16), gone in name()) {
            let mut map = HeaderMap::new();
            for name in &names {
                // in capitals, as some clients send them
                map.append(HeaderName::from_bytes(name.to_ascii_uppercase().as_bytes()).unwrap(), HeaderValue::from_static("1"));
            }
            map.remove(&*gone);
            let head = Head::from(&map);
            for (name, text) in ALL {
                prop_assert_eq!(head.has(name), map.contains_key(text), "{}", text);
            }
        }
    }
}
