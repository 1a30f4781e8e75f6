//! What a request says, read once: its client, its pass, its ticket, what it wants. Nothing here decides.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use super::state::State;
use super::verified::Verified;
use crate::gate::Regime;
use crate::metrics::{Count, Shard, TokenRejection};
use crate::rules::decide::judge_pass;
use crate::rules::headers::PASS_HEADER;
use crate::rules::headers::cookies::{self, OurCookies, Places};
use crate::rules::headers::forwarded::{self, Client};
use crate::rules::headers::head::{Head, Name};
use crate::rules::keyring::Rejected;
use crate::rules::negotiate::{self, Form};
use crate::rules::routes::Matched;
use crate::rules::time::Now;
use crate::rules::token::{Pass, Ticket};

/// The facts of a request.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) client: Client,
    pub(super) route: Matched,
    pub(super) form: Form,
    pub(super) pass: Option<Pass>,
    /// The pass came in the `Tidegate-Pass` header: it is renewed there, too.
    pub(super) pass_in_header: bool,
    pub(super) ticket: Option<Ticket>,
    /// Where our cookies stand among those of the request.
    pub(super) our_cookies: Places,
    pub(super) unsafe_method: bool,
}

/// Reads them. `head` is that of the request.
pub(super) fn read(
    request: &Parts,
    head: Head<'_>,
    connection: &State,
    verified: &Verified,
    regime: &Regime,
    now: Now,
    shard: &Shard,
) -> Facts {
    let policy = &*regime.policy;
    let client = client(connection, head, regime);
    if client.forwarded_untrusted {
        shard.count(Count::UntrustedForwarded);
    }
    let route = policy.routes.matching(request.uri.path());
    let ours = cookies::find(head);
    let unsafe_method = !is_safe(&request.method);
    let ShownPass { pass, holds, in_header } = find_pass(head, &ours, verified, regime, now, unsafe_method, shard);
    // a pass that holds makes the ticket irrelevant, and one that has ended does not: browsers go on sending it; a route that is not
    // gated asks for neither
    let ticket = if holds || !route.gated { None } else { find_ticket(&ours, verified, regime, shard) };
    let form = negotiate::form(head);
    Facts { client, route, form, pass, pass_in_header: in_header, ticket, our_cookies: ours.places, unsafe_method }
}

/// The pass that came with a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShownPass {
    /// The first genuine one that holds; else the first that is genuine, so that its end can be told.
    pub(super) pass: Option<Pass>,
    pub(super) holds: bool,
    /// It came in the `Tidegate-Pass` header.
    pub(super) in_header: bool,
}

/// Finds the pass of a request.
pub(super) fn find_pass<'a>(
    head: impl Into<Head<'a>>,
    ours: &OurCookies<'_>,
    verified: &Verified,
    regime: &Regime,
    now: Now,
    unsafe_method: bool,
    shard: &Shard,
) -> ShownPass {
    let head = head.into();
    let shown = if head.has(Name::TidegatePass) { head.map().get(PASS_HEADER).map(HeaderValue::as_bytes) } else { None };
    let candidates = shown.into_iter().map(|token| (token, true)).chain(ours.pass.iter().map(|token| (token, false)));
    let mut ended: Option<ShownPass> = None;
    for (token, in_header) in candidates {
        match verified.pass(&regime.keys, token) {
            Ok(pass) => {
                let policy = &regime.policy;
                let holds = judge_pass(&pass, now, &policy.session, &policy.bypass, unsafe_method).is_ok();
                let shown = ShownPass { pass: Some(pass), holds, in_header };
                if holds {
                    return shown;
                }
                ended.get_or_insert(shown);
            }
            Err(rejected) => shard.count(Count::TokenRejected(label(rejected))),
        }
    }
    ended.unwrap_or_default()
}

/// The first genuine ticket.
pub(super) fn find_ticket(ours: &OurCookies<'_>, verified: &Verified, regime: &Regime, shard: &Shard) -> Option<Ticket> {
    for token in ours.ticket.iter() {
        match verified.ticket(&regime.keys, token) {
            Ok(ticket) => return Some(ticket),
            Err(rejected) => shard.count(Count::TokenRejected(label(rejected))),
        }
    }
    None
}

/// Whose request it is.
pub(super) fn client<'a>(connection: &State, head: impl Into<Head<'a>>, regime: &Regime) -> Client {
    let trusted = if connection.is_unnamed { &[][..] } else { &regime.policy.client.trusted_proxies };
    forwarded::client_address(connection.peer, connection.tls, head, trusted)
}

/// The same for a reserved path, with the keyed hash by which it is counted.
pub(super) fn counted_client(connection: &State, headers: &HeaderMap, regime: &Regime) -> (Client, u64) {
    let client = client(connection, headers, regime);
    let hash = client_hash(&client, regime);
    (client, hash)
}

/// The keyed hash of a client's prefix.
pub(super) fn client_hash(client: &Client, regime: &Regime) -> u64 {
    regime.keys.client_hash(forwarded::client_prefix(client.address).as_bytes())
}

/// Whether a method is safe (RFC 9110, 9.2.1).
pub(super) const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

const fn label(rejected: Rejected) -> TokenRejection {
    match rejected {
        Rejected::Malformed => TokenRejection::Malformed,
        Rejected::Version => TokenRejection::Version,
        Rejected::UnknownKey => TokenRejection::UnknownKey,
        Rejected::Forged => TokenRejection::Forged,
        Rejected::Kind => TokenRejection::Kind,
    }
}
