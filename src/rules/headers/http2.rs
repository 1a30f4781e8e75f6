//! What a request of HTTP/2 says in its own way, written as HTTP/1.1 does, so that everything in between reads one form only; and back,
//! for a server that is spoken to in HTTP/2.

use http::header::{CONNECTION, COOKIE, HOST, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri};

/// Makes one Cookie line of the crumbs in which they may come (RFC 9113, section 8.2.3), and a `Host` of `:authority` if there is none
/// (section 8.3.1). A `Host` beside it stays, for the check to compare the two.
pub fn settle(uri: &Uri, headers: &mut HeaderMap) {
    join_crumbs(headers);
    if !headers.contains_key(HOST)
        && let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
}

/// The size of a request's head as HTTP/2 reckons it: each name and value, and 32 bytes for each field (RFC 9113, section 6.5.2), those
/// that stand for the request line included. To be asked before [`settle`].
#[must_use]
pub fn list_bytes(method: &Method, uri: &Uri, headers: &HeaderMap) -> usize {
    const FIELD: usize = 32;
    let pseudo = |name: &str, value: Option<&str>| value.map_or(0, |value| FIELD + name.len() + value.len());
    let line = pseudo(":method", Some(method.as_str()))
        + pseudo(":scheme", uri.scheme_str())
        + pseudo(":authority", uri.authority().map(Authority::as_str))
        + pseudo(":path", uri.path_and_query().map(PathAndQuery::as_str));
    line + headers.iter().map(|(name, value)| FIELD + name.as_str().len() + value.len()).sum::<usize>()
}

/// Writes a request of HTTP/1.1 that was stripped ([`super::hop::strip_request`]) as one of HTTP/2: what frames it or belongs to its
/// connection goes (RFC 9113, section 8.2.2), and `Host` becomes `:authority` (section 8.3.1). Returns the whole target.
///
/// A `Host` that is no authority, as an empty one, stays what it is.
pub fn to_http2(uri: Uri, headers: &mut HeaderMap) -> Uri {
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
    let Some(authority) = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok()) else { return uri };
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(authority);
    parts.path_and_query = uri.path_and_query().cloned();
    let Ok(whole) = Uri::from_parts(parts) else { return uri };
    headers.remove(HOST);
    whole
}

fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    // values that are valid are so together
    if let Ok(line) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(target: &str, list: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for &(name, value) in list {
            headers.append(name, HeaderValue::from_static(value));
        }
        settle(&target.parse().unwrap(), &mut headers);
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    }

    fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_head_is_as_large_as_the_list_of_its_fields() {
        let of = |target: &'static str, headers: &HeaderMap| list_bytes(&Method::GET, &Uri::from_static(target), headers);
        let mut headers = HeaderMap::new();
        let line = (7 + 3) + (7 + 5) + (10 + 1) + (5 + 4) + 4 * 32;
        assert_eq!(of("https://a/b?c", &headers), line);
        assert_eq!(of("/b?c", &headers), (7 + 3) + (5 + 4) + 2 * 32);
        headers.append("x-a", HeaderValue::from_static("12"));
        headers.append("x-a", HeaderValue::from_static(""));
        assert_eq!(of("https://a/b?c", &headers), line + 5 + 3 + 2 * 32);
    }

    #[test]
    fn crumbs_become_one_line_in_their_order() {
        let crumbs = [("host", "a"), ("cookie", "a=b"), ("cookie", "c=d; e=f"), ("cookie", "")];
        assert_eq!(settled("/", &crumbs), owned(&[("host", "a"), ("cookie", "a=b; c=d; e=f; ")]));
        assert_eq!(settled("/", &[("host", "a"), ("cookie", "a=b;c")]), owned(&[("host", "a"), ("cookie", "a=b;c")]));
    }

    fn sent(target: &str, list: &[(&'static str, &'static str)]) -> (String, Vec<(String, String)>) {
        let mut headers = HeaderMap::new();
        for &(name, value) in list {
            headers.append(name, HeaderValue::from_static(value));
        }
        let uri = to_http2(target.parse().unwrap(), &mut headers);
        (uri.to_string(), headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect())
    }

    #[test]
    fn the_host_is_the_authority_of_what_is_sent() {
        assert_eq!(sent("/a?b", &[("host", "a.example:81"), ("x", "1")]), ("https://a.example:81/a?b".to_owned(), owned(&[("x", "1")])));
        assert_eq!(sent("*", &[("host", "[::1]")]).1, owned(&[]));
        // what is no authority is sent as it came
        assert_eq!(sent("/a", &[("host", "")]), ("/a".to_owned(), owned(&[("host", "")])));
    }

    #[test]
    fn nothing_is_sent_that_belongs_to_a_connection_of_http1() {
        let all = [("host", "a"), ("connection", "te"), ("te", "trailers"), ("transfer-encoding", "chunked"), ("cookie", "a=b; c=d")];
        assert_eq!(sent("/", &all).1, owned(&[("te", "trailers"), ("cookie", "a=b; c=d")]));
    }

    #[test]
    fn the_authority_is_the_host_unless_there_is_one() {
        assert_eq!(settled("https://a.example:8443/x", &[]), owned(&[("host", "a.example:8443")]));
        assert_eq!(settled("https://a.example/x", &[("host", "b.example")]), owned(&[("host", "b.example")]));
        assert_eq!(settled("/x", &[]), owned(&[]));
    }
}
