//! TLS: whom we believe, and who we are.

pub mod client;
