//! What is done to the headers of a request on its way to the site, and of an answer on its way back. Pure functions over the
//! header map; they run for every request, so what usually happens allocates nothing.
//!
//! The order is part of the contract:
//!
//! 0. [`http2::settle`] writes a request of HTTP/2 as one of HTTP/1.1.
//!    From here to step 3 nothing changes: [`head::Head`] notes once which of the headers that are asked for are there.
//! 1. [`check::check_request`] refuses what two servers could read in two ways.
//! 2. Facts are read: [`forwarded::client_address`], [`cookies::find`], [`PASS_HEADER`], `Upgrade`, `Expect`. They come from the
//!    headers as sent, so what a client names in `Connection` can't change them.
//! 3. [`hop::strip_request`] removes what was meant for the gate alone. It comes before anything is added: `Connection` can name any
//!    header, and must never remove one of ours.
//! 4. [`cookies::strip_found`], told what was read in step 2.
//! 5. [`forwarded::set_forwarding`] adds what the site should know of the client.
//!
//! 6. [`http2::to_http2`], for a server that is spoken to in HTTP/2.
//!
//! An answer goes through [`hop::strip_odd_names`], if it is one of HTTP/2, [`hop::strip_response`] and [`cookies::strip_from_site`], then
//! our cookie is appended, then [`cache::make_private`].
//!
//! A WebSocket that is asked for, and one that the site has switched to, get their `Upgrade` back as the last step:
//! [`upgrade::set_websocket`].
//!
//! [`personal`] says after which requests and answers a connection to a server is one visitor's.
//!
//! Absent: body framing ([`super::http1`]).

/// A pattern: headers that nearly every request holds, and that nothing here is done about. They are known by their number, without a look
/// at their letters.
macro_rules! usual {
    () => {
        http::header::HOST
            | http::header::USER_AGENT
            | http::header::ACCEPT_ENCODING
            | http::header::ACCEPT_LANGUAGE
            | http::header::AUTHORIZATION
            | http::header::CACHE_CONTROL
            | http::header::CONTENT_TYPE
            | http::header::IF_MODIFIED_SINCE
            | http::header::IF_NONE_MATCH
            | http::header::ORIGIN
            | http::header::PRAGMA
            | http::header::REFERER
            | http::header::UPGRADE_INSECURE_REQUESTS
    };
}

pub mod cache;
pub mod check;
pub mod cookies;
pub mod forwarded;
pub mod head;
pub mod hop;
pub mod http2;
pub mod personal;
pub mod upgrade;

use http::HeaderName;

/// The header in which clients without cookies show their pass. Never reaches the site.
pub const PASS_HEADER: HeaderName = HeaderName::from_static("tidegate-pass");
