//! Which connections to a server belong to one visitor: with NTLM and Negotiate some servers know their visitor by the connection from then
//! on (RFC 4559, section 6), and would answer the next request on it as if it were that visitor's, whoever it comes from.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};

/// By which IIS says whether it goes on knowing the visitor by the connection.
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

/// Whether a request is one of those by which a connection comes to belong to a visitor.
#[must_use]
pub fn is_of_connection(request: &HeaderMap) -> bool {
    request.get(AUTHORIZATION).is_some_and(is_scheme_of_connection)
}

/// Whether an answer says so.
#[must_use]
pub fn has_become_of_connection(answer: &HeaderMap) -> bool {
    answer.contains_key(PERSISTENT_AUTH) || answer.get_all(WWW_AUTHENTICATE).iter().any(is_scheme_of_connection)
}

/// Of a list of several challenges the first is looked at: servers send each in a line of its own.
fn is_scheme_of_connection(value: &HeaderValue) -> bool {
    let scheme = value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
    [&b"ntlm"[..], b"negotiate"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_of_a_connection() {
        let of = |name: HeaderName, values: &[&'static str]| {
            values.iter().map(|&value| (name.clone(), HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        for (value, is_so) in [
            ("NTLM TlRMTVNTUAAB", true),
            ("negotiate YII", true),
            ("Negotiate", true),
            ("Basic bnRsbTpudGxt", false),
            ("Bearer ntlm", false),
            ("NTLMv3 a", false),
            ("", false),
        ] {
            assert_eq!(is_of_connection(&of(AUTHORIZATION, &[value])), is_so, "{value}");
            assert_eq!(has_become_of_connection(&of(WWW_AUTHENTICATE, &[value])), is_so, "{value}");
        }
        assert!(has_become_of_connection(&of(WWW_AUTHENTICATE, &["Basic realm=\"a\"", "Negotiate", "NTLM"])));
        assert!(has_become_of_connection(&of(PERSISTENT_AUTH, &["true"])));
        assert!(!is_of_connection(&HeaderMap::new()) && !has_become_of_connection(&HeaderMap::new()));
    }
}
