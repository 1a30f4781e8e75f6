//! What HTTP/1.1 says about the bytes between the gate and a server of the site (RFC 9112): how a request is written, how the head of an
//! answer is read, and where its body ends.
//!
//! Always holds: a body ends where its head says, or the answer is an error. What a request was written as can be read back.
//!
//! Absent: the connection (`upstream/http1`), what of a head is for the next server alone ([`super::headers::hop`]), and requests as they
//! come from clients, which hyper reads.

pub mod answer;
pub mod body;
pub mod request;
