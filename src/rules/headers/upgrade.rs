//! Which requests may ask the site to switch protocols, and which answers do switch: WebSocket over HTTP/1.1 (RFC 6455) and nothing else.
//!
//! Whatever else asks is not refused: [`super::hop`] takes its `Upgrade` away, and it goes on as a plain request, which RFC 9110
//! (section 7.8) lets a server do with every upgrade.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Version};

use super::hop::options;

/// Whether a request, as the client has sent it, may ask for a WebSocket. It must have no body, which the caller knows.
///
/// One that names a second protocol does not: the site could choose that one. What the key and the version say is for the site to judge.
#[must_use]
pub fn asks_for_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && version == Version::HTTP_11
        && switches_to_websocket(headers)
        && is_said_once(headers, &SEC_WEBSOCKET_KEY)
        && is_said_once(headers, &SEC_WEBSOCKET_VERSION)
}

/// Whether the headers of a 101 switch to the WebSocket that was asked for.
#[must_use]
pub fn switches_to_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let only = protocols.next().filter(|_| protocols.next().is_none());
    only.is_some_and(|protocol| protocol.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
        && headers.get_all(CONNECTION).iter().flat_map(options).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Puts back what [`super::hop`] has taken away, in either direction. Nothing else may be in `Connection`, which many a site compares as
/// a whole; `TE` goes, since it would have to be named there.
pub fn set_websocket(headers: &mut HeaderMap) {
    headers.remove(TE);
    // a 101 has no body, and may not give its length (RFC 9110, section 8.6)
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn is_said_once(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.next().is_some_and(|line| !line.is_empty()) && lines.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROMIUM: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn asks(lines: &[(&'static str, &'static str)]) -> bool {
        asks_for_websocket(&Method::GET, Version::HTTP_11, &headers(lines))
    }

    /// What a browser sends, but for the lines of one name.
    fn instead(name: &'static str, values: &[&'static str]) -> bool {
        let others = CHROMIUM.into_iter().filter(|(other, _)| *other != name);
        asks(&others.chain(values.iter().map(|value| (name, *value))).collect::<Vec<_>>())
    }

    #[test]
    fn what_browsers_send_asks_for_a_websocket() {
        assert!(asks(&CHROMIUM));
        // Firefox
        assert!(instead("connection", &["keep-alive, Upgrade"]));
        assert!(instead("connection", &["keep-alive", "upgrade"]));
        assert!(instead("upgrade", &["WebSocket"]));
        assert!(instead("sec-websocket-version", &["8"]), "the site says which ones it speaks");
    }

    #[test]
    fn another_protocol_or_a_choice_of_them_does_not() {
        for protocols in
            [&["h2c"][..], &["websocket, h2c"], &["h2c", "websocket"], &["websocket", "websocket"], &["websocket/13"], &[""], &[]]
        {
            assert!(!instead("upgrade", protocols), "{protocols:?}");
        }
    }

    #[test]
    fn an_upgrade_that_is_none_does_not() {
        for connection in [&[][..], &[""], &["close"], &["upgraded"], &["up grade"]] {
            assert!(!instead("connection", connection), "{connection:?}");
        }
        for name in ["sec-websocket-key", "sec-websocket-version"] {
            for values in [&[][..], &[""], &["13", "13"]] {
                assert!(!instead(name, values), "{name}: {values:?}");
            }
        }
    }

    #[test]
    fn only_a_get_of_http_1_1_does() {
        let headers = headers(&CHROMIUM);
        for method in [Method::POST, Method::HEAD, Method::CONNECT, Method::OPTIONS] {
            assert!(!asks_for_websocket(&method, Version::HTTP_11, &headers), "{method}");
        }
        for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_2] {
            assert!(!asks_for_websocket(&Method::GET, version, &headers), "{version:?}");
        }
    }

    #[test]
    fn an_answer_switches_if_it_says_so_twice() {
        assert!(switches_to_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "WebSocket")])));
        assert!(!switches_to_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(!switches_to_websocket(&headers(&[("connection", "upgrade")])));
        assert!(!switches_to_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    }

    #[test]
    fn what_is_put_back_switches_and_names_nothing_else() {
        let mut headers = headers(&[("te", "trailers"), ("connection", "te"), ("content-length", "0"), ("cookie", "a=b")]);
        set_websocket(&mut headers);
        assert!(switches_to_websocket(&headers));
        assert_eq!(headers.get_all(CONNECTION).iter().count(), 1);
        assert_eq!((headers.len(), headers.get("cookie").unwrap().as_bytes()), (3, b"a=b".as_slice()));
    }
}
