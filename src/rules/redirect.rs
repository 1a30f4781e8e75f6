//! From plaintext to TLS, for hosts that the operator names: a redirect to whatever a request calls its host would be a way to send
//! visitors anywhere.

use super::policy::RedirectHost;

/// Where a plaintext request for `host` (as it was sent, with a port or without) is sent; `None` if it stays. `target` is its path and
/// query.
#[must_use]
pub fn to_https(hosts: &[RedirectHost], host: &[u8], target: &str) -> Option<String> {
    let name = without_port(host);
    let named = hosts.iter().find(|named| named.host.as_bytes().eq_ignore_ascii_case(name))?;
    Some(format!("https://{}{target}", named.authority))
}

/// Digits and nothing else follow the last colon that is not within brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    host[..host.len() - digits].strip_suffix(b":").unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<RedirectHost> {
        let named = |host: &str, authority: &str| RedirectHost { host: host.to_owned(), authority: authority.to_owned() };
        vec![named("www.example.org", "www.example.org"), named("[2001:db8::1]", "[2001:db8::1]:8443")]
    }

    #[test]
    fn only_hosts_that_are_named_are_sent_to_tls() {
        for (host, expected) in [
            ("www.example.org", Some("https://www.example.org/a?b=c")),
            ("WWW.Example.org:8080", Some("https://www.example.org/a?b=c")),
            ("www.example.org:", Some("https://www.example.org/a?b=c")),
            ("[2001:DB8::1]:80", Some("https://[2001:db8::1]:8443/a?b=c")),
            ("[2001:db8::1]", Some("https://[2001:db8::1]:8443/a?b=c")),
            ("[2001:db8::2]", None),
            ("example.org", None),
            ("www.example.org.evil.example", None),
            ("evil.example", None),
            ("", None),
        ] {
            assert_eq!(to_https(&hosts(), host.as_bytes(), "/a?b=c").as_deref(), expected, "{host}");
        }
    }
}
