//! A request as it reaches the site.

use std::sync::PoisonError;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};

use super::facts::Facts;
use super::handle::Peer;
use crate::gate::Regime;
use crate::rules::headers::{cookies, forwarded, hop};

/// What reaches the site: nothing that was meant for the gate, and who the client is.
pub(super) fn clean_request(parts: &mut Parts, peer: &Peer, facts: &Facts, is_upload: bool, regime: &Regime) {
    let Parts { method, uri, headers, .. } = parts;
    let host = match headers.get(HOST) {
        Some(host) => host.clone(),
        // a client of HTTP/1.0 need not name one; the site, spoken to in 1.1, must be
        None => {
            let authority = uri.authority().map(http::uri::Authority::as_str);
            let named = authority.or_else(|| regime.policy.upstream.servers.first().map(|server| server.authority.as_str()));
            let host = named.and_then(|named| HeaderValue::try_from(named).ok()).unwrap_or(HeaderValue::from_static(""));
            headers.insert(HOST, host.clone());
            host
        }
    };
    if uri.authority().is_some() {
        *uri = origin_form(uri);
    }
    hop::strip_request(headers);
    cookies::strip_found(headers, facts.our_cookies);
    let mut values = peer.values.lock().unwrap_or_else(PoisonError::into_inner);
    forwarded::set_forwarding(headers, &mut values, facts.client.peer_trusted, Some(&host), facts.client.scheme_https);
    drop(values);
    // it has hardly ever a body: with a length that the client did not say, some would not look for it
    if is_upload && !headers.contains_key(CONTENT_LENGTH) && matches!(*method, Method::GET | Method::HEAD) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn origin_form(uri: &Uri) -> Uri {
    // one that was nothing but a fragment says that it is a slash, and would be written as nothing
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}
