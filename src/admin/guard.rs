//! Who may ask: the checks before any admin answer, over headers alone.
//!
//! A page that the operator has open elsewhere must not reach the gate. `Origin` stops its forms and scripts; `Host` stops the page whose
//! name is made to resolve to this address (DNS rebinding), since a browser sends the name that it believes in. An IP address as Host
//! is therefore safe, and a DNS name is not, unless the request proves with the token that it comes from the operator.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// Shorter ones can be guessed over a network.
const TOKEN_BYTES_MIN: usize = 16;

/// Longer ones do not fit a request head beside the rest.
const TOKEN_BYTES_MAX: usize = 4096;

/// The secret of `admin.token_file`. Never printed.
#[derive(Clone)]
pub struct AdminToken(Vec<u8>);

/// Why a text is not a token. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too short or too long.
    #[error("has {0} characters: a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX}")]
    Length(usize),
    /// Not what an Authorization header can carry.
    #[error("has a character that is not visible ASCII")]
    Character,
}

impl AdminToken {
    /// From the content of the file; white space around it is not part of it.
    ///
    /// # Errors
    ///
    /// Not 16 to 4096 visible ASCII characters.
    pub fn new(content: &str) -> Result<Self, TokenError> {
        let token = content.trim();
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Character);
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(TokenError::Length(token.len()));
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Whether the request carries it: `Bearer`, or `Basic` with any user name, for browsers. In constant time but for its length.
    fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let Some((scheme, credentials)) = single(headers, &AUTHORIZATION).and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.equals(credentials.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(credentials) else { return false };
        let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return false };
        self.equals(&pair[colon + 1..])
    }

    fn equals(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, shown).is_ok()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AdminToken(…)")
    }
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 400: no Host, several, one that is not an authority, or a target that says another.
    Host,
    /// 401: a token is required and was not shown.
    Token,
    /// 421: a Host that is not ours.
    Name,
    /// 403: sent by a page of another origin.
    Origin,
}

/// What is let through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard<'a> {
    pub(super) token: Option<&'a AdminToken>,
    /// DNS names that are ours, beside `localhost`.
    pub(super) hosts: &'a [String],
}

impl Guard<'_> {
    /// `public`: the path needs no token.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap, public: bool) -> Result<(), Denied> {
        let host = single(headers, &HOST).ok_or(Denied::Host)?;
        let authority: Authority = host.parse().map_err(|_not_one| Denied::Host)?;
        let port_is_one = authority.host() == host || authority.port_u16().is_some();
        if host.contains('@') || !port_is_one || uri.authority().is_some_and(|target| target != &authority) {
            return Err(Denied::Host);
        }
        let token_shown = self.token.is_some_and(|token| token.is_shown_in(headers));
        if self.token.is_some() && !token_shown && !public {
            return Err(Denied::Token);
        }
        if !token_shown && !self.is_ours(authority.host()) {
            return Err(Denied::Name);
        }
        let origins: Vec<&HeaderValue> = headers.get_all(ORIGIN).iter().collect();
        let own = format!("http://{host}");
        if !origins.iter().all(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes())) {
            return Err(Denied::Origin);
        }
        Ok(())
    }

    fn is_ours(&self, name: &str) -> bool {
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// The value of a header that came exactly once, in visible ASCII.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct-horse-battery";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn checked(token: Option<&AdminToken>, public: bool, pairs: &[(&'static str, &str)]) -> Result<(), Denied> {
        let hosts = ["gate.internal".to_owned()];
        Guard { token, hosts: &hosts }.check(&Uri::from_static("/"), &headers(pairs), public)
    }

    #[test]
    fn names_that_a_page_elsewhere_cannot_have_are_ours() {
        for host in ["localhost", "LocalHost:9090", "127.0.0.1:9090", "[::1]:9090", "192.0.2.7", "[2001:db8::1]", "gate.internal:1"] {
            assert_eq!(checked(None, false, &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9090", "127.0.0.1.evil.example", "2130706433", "0x7f.1", "localhost."] {
            assert_eq!(checked(None, false, &[("host", host)]), Err(Denied::Name), "{host}");
            assert_eq!(checked(None, true, &[("host", host)]), Err(Denied::Name), "{host}");
        }
    }

    #[test]
    fn a_host_is_one_authority() {
        assert_eq!(checked(None, true, &[]), Err(Denied::Host));
        for host in ["", "a b", "http://localhost", "user@localhost", "localhost:port", "localhost/"] {
            assert_eq!(checked(None, true, &[("host", host)]), Err(Denied::Host), "{host}");
        }
        let mut twice = headers(&[("host", "localhost")]);
        twice.append(HOST, HeaderValue::from_static("localhost"));
        let guard = Guard { token: None, hosts: &[] };
        assert_eq!(guard.check(&Uri::from_static("/"), &twice, true), Err(Denied::Host));
        let absolute = Uri::from_static("http://evil.example/");
        assert_eq!(guard.check(&absolute, &headers(&[("host", "localhost")]), true), Err(Denied::Host));
    }

    #[test]
    fn an_origin_is_the_listeners_own() {
        let host = ("host", "localhost:9090");
        assert_eq!(checked(None, false, &[host, ("origin", "http://localhost:9090")]), Ok(()));
        for origin in ["null", "http://localhost", "https://localhost:9090", "http://localhost:8080", "http://evil.example", ""] {
            assert_eq!(checked(None, false, &[host, ("origin", origin)]), Err(Denied::Origin), "{origin}");
        }
    }

    #[test]
    fn a_token_is_taken_as_bearer_and_as_basic_password() {
        let token = AdminToken::new(&format!("{SECRET}\n")).unwrap();
        let host = ("host", "localhost");
        let with = |value: &str| checked(Some(&token), false, &[host, ("authorization", value)]);
        assert_eq!(with(&format!("Bearer {SECRET}")), Ok(()));
        assert_eq!(with(&format!("bearer  {SECRET}")), Ok(()));
        assert_eq!(with(&format!("Basic {}", STANDARD.encode(format!("anyone:{SECRET}")))), Ok(()));
        assert_eq!(with(&format!("Basic {}", STANDARD.encode(format!(":{SECRET}")))), Ok(()));
        let wrong = ["", "Bearer", "Bearer ", "Bearer correct-horse-batterz", "Bearer correct-horse-batter", SECRET, "Basic !", "Digest x"];
        for value in wrong.into_iter().map(str::to_owned).chain([format!("Basic {}", STANDARD.encode(SECRET))]) {
            assert_eq!(with(&value), Err(Denied::Token), "{value}");
        }
        assert_eq!(checked(Some(&token), false, &[host]), Err(Denied::Token));
        assert_eq!(checked(Some(&token), true, &[host]), Ok(()), "probes need none");
    }

    #[test]
    fn the_token_vouches_for_the_host_and_not_for_the_origin() {
        let token = AdminToken::new(SECRET).unwrap();
        let shown = format!("Bearer {SECRET}");
        let named = [("host", "gate.example.org"), ("authorization", shown.as_str())];
        assert_eq!(checked(Some(&token), false, &named), Ok(()));
        assert_eq!(checked(Some(&token), true, &named[..1]), Err(Denied::Name));
        assert_eq!(checked(None, false, &named), Err(Denied::Name), "no token is set: none vouches");
        let crossed = [named[0], named[1], ("origin", "http://evil.example")];
        assert_eq!(checked(Some(&token), false, &crossed), Err(Denied::Origin));
    }

    #[test]
    fn a_token_is_long_enough_and_never_printed() {
        assert_eq!(AdminToken::new("short\n").unwrap_err(), TokenError::Length(5));
        assert_eq!(AdminToken::new("").unwrap_err(), TokenError::Length(0));
        assert_eq!(AdminToken::new("two words and some more").unwrap_err(), TokenError::Character);
        assert_eq!(format!("{:?}", AdminToken::new(SECRET).unwrap()), "AdminToken(…)");
    }
}
