//! What a request of HTTP/2 says in its own way, written as HTTP/1.1 does, so that everything after reads one form only.

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Uri};

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
    fn crumbs_become_one_line_in_their_order() {
        let crumbs = [("host", "a"), ("cookie", "a=b"), ("cookie", "c=d; e=f"), ("cookie", "")];
        assert_eq!(settled("/", &crumbs), owned(&[("host", "a"), ("cookie", "a=b; c=d; e=f; ")]));
        assert_eq!(settled("/", &[("host", "a"), ("cookie", "a=b;c")]), owned(&[("host", "a"), ("cookie", "a=b;c")]));
    }

    #[test]
    fn the_authority_is_the_host_unless_there_is_one() {
        assert_eq!(settled("https://a.example:8443/x", &[]), owned(&[("host", "a.example:8443")]));
        assert_eq!(settled("https://a.example/x", &[("host", "b.example")]), owned(&[("host", "b.example")]));
        assert_eq!(settled("/x", &[]), owned(&[]));
    }
}
