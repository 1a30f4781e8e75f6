//! Addresses: of listeners, upstream servers, the mail server, the site, senders and networks.
//!
//! Those that can hold a user and a password are refused with them, and then are not part of the message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::rules::policy::{MailServer, RedirectHost, Security, Sender, Server};

use super::bounds::TEXT_MAX;
use super::mirror::Written;
use super::value::{Checked, shown, text};

/// An IP address and a port to listen on.
pub(super) fn address(written: &Written) -> Checked<SocketAddr> {
    let not_one = || format!("{} is not an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    text.parse().map_err(|_| not_one())
}

/// What is between us and a server of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Nothing.
    Http,
    /// TLS.
    Https,
}

/// One of `upstream.servers`.
pub(super) fn server(written: &Written) -> Checked<(Scheme, Server)> {
    let Written::Text(text) = written else {
        return Err(format!("{} is not a server such as http://127.0.0.1:3000", shown(written)));
    };
    if text.contains('@') {
        return Err("must not hold a user or a password".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("{} is not a server such as http://127.0.0.1:3000", shown(written)));
    };
    let (scheme, default_port) = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, HTTP_PORT),
        _ if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, HTTPS_PORT),
        _ => return Err(format!("{} does not start with http:// or https://", shown(written))),
    };
    if rest.contains(['/', '?', '#']) {
        return Err(format!("{} has a path or a query: a server is http://host or http://host:port", shown(written)));
    }
    let Some((host, port)) = host_and_port(rest) else {
        return Err(format!("{} has no valid host and port, as in http://127.0.0.1:3000", shown(written)));
    };
    if scheme == Scheme::Https && ServerName::try_from(host.as_str()).is_err() {
        return Err(format!("{} has a host that no certificate can be for", shown(written)));
    }
    let port = port.unwrap_or(default_port);
    let name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let authority = if port == default_port { name } else { format!("{name}:{port}") };
    Ok((scheme, Server { host, port, label: text.clone(), authority }))
}

/// `upstream.tls.server_name`: what a certificate can be for, a host name or an IP address.
pub(super) fn server_name(written: &Written) -> Checked<String> {
    let not_one = || format!("{} is not a host name or an IP address, such as app.internal", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    let is_one = text.parse::<IpAddr>().is_ok() || is_host_name(text) && ServerName::try_from(text.as_str()).is_ok();
    if is_one { Ok(text.to_ascii_lowercase()) } else { Err(not_one()) }
}

/// `invitations.smtp`. Never shown: it may hold a password.
///
/// `smtp://` is safe wherever it leads: to another machine it goes on with STARTTLS or not at all. On this one it is plaintext, since
/// nobody is in between, and a relay that is for this machine alone has no certificate that would hold. Who wants plaintext over a
/// network, as between two containers, has to say so.
pub(super) fn mail_server(written: &Written) -> Checked<MailServer> {
    let not_one = || "is not smtp://host:port or smtps://host:port".to_owned();
    let Written::Text(text) = written else { return Err(not_one()) };
    if text.contains('@') {
        return Err("must not hold a user or a password: write them as username and password_file".to_owned());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(not_one)?;
    let (host, port) = host_and_port(rest).ok_or_else(not_one)?;
    let (security, default_port) = match scheme {
        "smtps" => (Security::Tls, SMTPS_PORT),
        "smtp" if is_this_machine(&host) => (Security::Plaintext, SMTP_PORT),
        "smtp" => (Security::StartTls, SMTP_PORT),
        "smtp+plaintext" => (Security::Plaintext, SMTP_PORT),
        _ => return Err(not_one()),
    };
    Ok(MailServer { host, port: port.unwrap_or(default_port), security, label: text.clone() })
}

/// Whether what is said to a mail server stays on this machine.
pub(super) fn is_local(server: &MailServer) -> bool {
    is_this_machine(&server.host)
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `invitations.site_url`; one slash at its end is dropped.
pub(super) fn site_url(written: &Written) -> Checked<String> {
    let not_one = || format!("{} is not a URL such as https://www.example.org", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    if text.contains('@') {
        return Err("must not hold a user or a password".to_owned());
    }
    let url = text.strip_suffix('/').unwrap_or(text);
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or_else(not_one)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    host_and_port(authority).ok_or_else(not_one)?;
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
    if !plain || path.ends_with('/') || text.len() > TEXT_MAX { Err(not_one()) } else { Ok(url.to_owned()) }
}

/// One of `listen.https.redirect`: a host, and a port if the link is to name one.
pub(super) fn redirect_host(written: &Written) -> Checked<RedirectHost> {
    let not_one = || format!("{} is not a host such as www.example.org", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    let (host, port) = host_and_port(text).ok_or_else(not_one)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let authority = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    Ok(RedirectHost { host, authority })
}

/// `session.domain`: a host name that a browser takes as the domain of a cookie.
pub(super) fn domain(written: &Written) -> Checked<String> {
    let not_one = || format!("{} is not a host name such as example.org", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    let taken = is_host_name(text) && !text.contains('_') && text.parse::<Ipv4Addr>().is_err();
    if taken { Ok(text.to_ascii_lowercase()) } else { Err(not_one()) }
}

/// `invitations.from`: an address, alone or as `Name <address>`.
///
/// The address is ASCII: another would be refused by every mail server that does not take such addresses, whoever is written to.
pub(super) fn sender(written: &Written) -> Checked<Sender> {
    let not_one = || format!("{} is not a sender such as \"Name <no-reply@example.org>\"", shown(written));
    let text = text(written).map_err(|_| not_one())?;
    let (name, address) = match text.strip_suffix('>') {
        Some(rest) => rest.rsplit_once('<').ok_or_else(not_one)?,
        None => ("", text),
    };
    let name = name.trim();
    let name = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
    let (local, host) = address.rsplit_once('@').ok_or_else(not_one)?;
    let is_atom = |atom: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        !atom.is_empty() && atom.bytes().all(plain)
    };
    let plain = local.len() <= LOCAL_BYTES_MAX && local.split('.').all(is_atom) && !host.contains('_') && is_host_name(host);
    if !plain {
        return Err(not_one());
    }
    let name = Some(name).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(Sender { name, address: address.to_owned(), label: text.to_owned() })
}

/// One of `client.trusted_proxies`: a network, or one address.
pub(super) fn network(written: &Written) -> Checked<IpNet> {
    let not_one = || format!("{} is not a network such as 10.0.0.0/8 or 2001:db8::/32", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| not_one())?;
    let whole = network.trunc();
    if whole == network { Ok(network) } else { Err(format!("{network} is an address within a network: write {whole}")) }
}

/// A host (lower case, an IPv6 address without its brackets) and a port, if one is written.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.to_string(), port)
        }
        None => {
            let (host, port) = text.find(':').map_or((text, ""), |at| text.split_at(at));
            if !is_host_name(host) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let port = digits.parse().ok().filter(|&port| port != 0)?;
    Some((host, Some(port)))
}

/// A host name (RFC 1123, and `_`, which container networks use) or an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let ends_in_number = text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(is_label) && (!ends_in_number || text.parse::<Ipv4Addr>().is_ok())
}

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Submission: RFC 6409, and over TLS RFC 8314.
const SMTP_PORT: u16 = 587;
const SMTPS_PORT: u16 = 465;

/// RFC 5321, 4.5.3.1.1
const LOCAL_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str) -> Written {
        Written::Text(value.to_owned())
    }

    #[test]
    fn servers_are_taken_apart() {
        use Scheme::{Http, Https};
        for (label, scheme, host, port, authority) in [
            ("http://127.0.0.1:3000", Http, "127.0.0.1", 3000, "127.0.0.1:3000"),
            ("http://Legacy.Internal", Http, "legacy.internal", 80, "legacy.internal"),
            ("HTTP://app_1:80", Http, "app_1", 80, "app_1"),
            ("http://app:443", Http, "app", 443, "app:443"),
            ("http://0x7f", Http, "0x7f", 80, "0x7f"),
            ("http://[::1]:8080", Http, "::1", 8080, "[::1]:8080"),
            ("http://[2001:DB8:0::1]", Http, "2001:db8::1", 80, "[2001:db8::1]"),
            ("https://App_1.example.org", Https, "app_1.example.org", 443, "app_1.example.org"),
            ("HTTPS://10.0.0.5:443", Https, "10.0.0.5", 443, "10.0.0.5"),
            ("https://app:80", Https, "app", 80, "app:80"),
            ("https://[::1]:8443", Https, "::1", 8443, "[::1]:8443"),
        ] {
            let expected = Server { host: host.to_owned(), port, label: label.to_owned(), authority: authority.to_owned() };
            assert_eq!(server(&written(label)), Ok((scheme, expected)), "{label}");
        }
    }

    #[test]
    fn names_that_a_certificate_can_be_for() {
        for (text, expected) in
            [("App.Internal", "app.internal"), ("app_1", "app_1"), ("10.0.0.5", "10.0.0.5"), ("2001:DB8::1", "2001:db8::1")]
        {
            assert_eq!(server_name(&written(text)), Ok(expected.to_owned()));
        }
        for text in ["", "a b", "app.internal.", "[::1]", "https://app", "app:443", "*.example.org", "1.2.3", "0x7f", "-a"] {
            assert!(server_name(&written(text)).unwrap_err().contains("is not a host name or an IP address"), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_server_is_refused() {
        for (text, reason) in [
            ("ftp://127.0.0.1", "does not start with http:// or https://"),
            ("https://0x7f", "no certificate can be for"),
            ("https://a/", "has a path"),
            ("https://", "no valid host"),
            ("127.0.0.1:3000", "is not a server"),
            ("http://127.0.0.1:3000/", "has a path"),
            ("http://a?b", "has a path or a query"),
            ("http://a#b", "has a path or a query"),
            ("http://", "no valid host"),
            ("http://:80", "no valid host"),
            ("http://a:0", "no valid host"),
            ("http://a:+1", "no valid host"),
            ("http://a:", "no valid host"),
            ("http://a:65536", "no valid host"),
            ("http://a b", "no valid host"),
            ("http://::1", "no valid host"),
            ("http://[::1", "no valid host"),
            ("http://[::1]x", "no valid host"),
            ("http://[fe80::1%eth0]", "no valid host"),
            ("http://1.2.3", "no valid host"),
            ("http://-a", "no valid host"),
            ("http://a..b", "no valid host"),
        ] {
            let error = server(&written(text)).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_never_part_of_a_message() {
        let secret = "hunter2";
        for error in [
            server(&written("http://user:hunter2@host")).unwrap_err(),
            server(&written("hunter2@x")).unwrap_err(),
            mail_server(&written("smtp://user:hunter2@host")).unwrap_err(),
            mail_server(&written("smtp://user:hunter2")).unwrap_err(),
            mail_server(&written("hunter2")).unwrap_err(),
            site_url(&written("https://user:hunter2@host")).unwrap_err(),
        ] {
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn site_urls() {
        assert_eq!(site_url(&written("https://www.example.org/")), Ok("https://www.example.org".to_owned()));
        assert_eq!(site_url(&written("http://[::1]:8080/app")), Ok("http://[::1]:8080/app".to_owned()));
        for text in ["www.example.org", "https://", "https://x?y", "https://x/#y", "https://x//", "https://x/a b", "ftp://x", ""] {
            assert!(site_url(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn mail_servers() {
        for (text, host, port, security) in [
            ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, Security::Plaintext),
            ("smtp://127.8.9.1", "127.8.9.1", 587, Security::Plaintext),
            ("smtp://[::1]:25", "::1", 25, Security::Plaintext),
            ("smtp://[::ffff:127.0.0.1]", "::ffff:127.0.0.1", 587, Security::Plaintext),
            ("smtp://LocalHost", "localhost", 587, Security::Plaintext),
            ("smtps://localhost", "localhost", 465, Security::Tls),
            ("smtps://Mail.example.org", "mail.example.org", 465, Security::Tls),
            ("smtps://mail.example.org:587", "mail.example.org", 587, Security::Tls),
            ("smtp://mail.example.org", "mail.example.org", 587, Security::StartTls),
            ("smtp://192.0.2.1:25", "192.0.2.1", 25, Security::StartTls),
            ("smtp://localhost.example.org", "localhost.example.org", 587, Security::StartTls),
            ("smtp+plaintext://mail_1:1025", "mail_1", 1025, Security::Plaintext),
        ] {
            let expected = MailServer { host: host.to_owned(), port, security, label: text.to_owned() };
            assert_eq!(mail_server(&written(text)), Ok(expected), "{text}");
        }
        for text in ["http://x", "smtp://", "smtp://x/y", "127.0.0.1:25", "smtp+starttls://x", "smtp://x:0", "smtps:x"] {
            assert!(mail_server(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn domains_and_senders() {
        assert_eq!(domain(&written("Example.org")), Ok("example.org".to_owned()));
        for text in ["", ".example.org", "127.0.0.1", "a b", "a_b", "example.org.", "exa;mple", "-a"] {
            assert!(domain(&written(text)).is_err(), "{text}");
        }
        for (text, name, address) in [
            ("no-reply@example.org", None, "no-reply@example.org"),
            ("<no-reply@example.org>", None, "no-reply@example.org"),
            ("Benefits Portal <no-reply@example.org>", Some("Benefits Portal"), "no-reply@example.org"),
            ("\"Bürger, Amt\" <a.b+c@localhost>", Some("Bürger, Amt"), "a.b+c@localhost"),
        ] {
            let expected = Sender { name: name.map(str::to_owned), address: address.to_owned(), label: text.to_owned() };
            assert_eq!(sender(&written(text)), Ok(expected));
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for text in
            ["", "x", "x@", "@x", "a b@x", "X <x@y", "X x@y>", "X <x@y>\nBcc: z@w", "a@b,c@d", "ü@x", "a..b@x", "a@ü.x", "a@x_y", &long]
        {
            assert!(sender(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, expected) in [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.1", "192.0.2.1/32"), ("2001:db8::/32", "2001:db8::/32")] {
            assert_eq!(network(&written(text)).unwrap().to_string(), expected);
        }
        assert!(network(&written("10.1.2.3/8")).unwrap_err().contains("write 10.0.0.0/8"));
        assert!(network(&written("10.0.0.0/33")).is_err());
    }
}
