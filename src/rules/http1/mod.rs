//! What HTTP/1.1 says about bytes (RFC 9112): how the heads of requests and of answers are read and written, and where a body ends.
//!
//! Always holds: a body ends where its head says, or the message is an error. What a request was written to the site as can be read back.
//!
//! Absent: connections (`proxy/http1` and `upstream/http1`), what of a head is for the next server alone ([`super::headers::hop`]), and
//! which requests can be read in two ways ([`super::headers::check`]).

pub mod body;
pub mod chunks;
pub mod fields;
pub mod from_client;
pub mod from_site;
pub mod names;
pub mod to_client;
pub mod to_site;
