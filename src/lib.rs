//! Tidegate: an admission gate for a site that cannot be scaled in time.
//!
//! This page is the map. It holds no logic.
//!
//! # Floors
//!
//! A file imports only from lower floors, and siblings on a floor never import each other; [`app`] wires them.
//! `tests/it/floors.rs` holds that law over every `crate::` path.
//!
//! | floor | what is on it |
//! |---|---|
//! | 6 entry | `main.rs` → [`cli`] → [`app`] (wires, runs, drains) → [`telemetry`], in that order |
//! | 5 listeners | [`proxy`] (accept loop, one request top to bottom) · [`admin`] |
//! | 4 workers | [`upstream`] (slots, connections) · [`mail`] (the email queue's writer, and who invites) · [`reload`] · [`demo`] (models of a site, of a crowd and of its mailboxes): one outside thing each · [`simulate`] (the same in virtual time) |
//! | 3 gate | [`gate`]: the regime: decide, observe, tick, publish |
//! | 2 edges | [`clock`] · [`config`] (file → policy) · [`deadlines`] · [`http1`] (what both of its ends have in common) · [`metrics`] · [`models`] (what models of a site and of a crowd are made of) · [`page`] · [`store`] (lock on data, keys, saved state, files of the email queue) · [`tcp`] · [`tls`] (certificates, and what is agreed with the other side) |
//! | 1 rules | [`rules`]: pure. No I/O, no clock, no randomness, no locks: `now` and draws are arguments |
//!
//! # The life of a request
//!
//! accept → PROXY header, TLS → HTTP/1 or HTTP/2 → parse → facts (route, pass, ticket, client, method, what it accepts) → one load of
//! the regime → decide →
//!
//! - **open, bypass, admit**: clean headers → take a slot → upstream → clean headers → set or renew the pass → relay the body;
//! - **wait**: the waiting room in the form that the client accepts, its ticket, and a form for an email address: what is posted goes to
//!   [`mail`], and is answered when it is on disk; who comes back with the code of an invitation gets a pass from there;
//! - **shed**: a short page that keeps the pass and comes back by itself.
//!
//! # Three planes
//!
//! The request plane only reads the regime and appends observations; the ticker turns observations into the next regime; reload
//! publishes a new policy by the same door. Policy, keys, pages and probability change together, never half.

pub mod rules;

pub mod clock;
pub mod config;
pub mod deadlines;
pub mod http1;
pub mod metrics;
pub mod models;
pub mod page;
pub mod store;
pub mod tcp;
pub mod tls;

pub mod gate;

pub mod demo;
pub mod mail;
pub mod reload;
pub mod simulate;
pub mod upstream;

pub mod admin;
pub mod proxy;

pub mod app;
pub mod cli;
pub mod telemetry;
