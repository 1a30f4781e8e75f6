//! The decisions, pure: no I/O, no clock, no randomness, no locks. `now` and random draws are arguments, so that a test writes
//! them as literals and a simulation runs the same code in virtual time.

pub mod concurrency;
pub mod controller;
pub mod decide;
pub mod draw;
pub mod email;
pub mod headers;
pub mod health;
pub mod http1;
pub mod invites;
pub mod keyring;
pub mod ledger;
pub mod limit;
pub mod line;
pub mod negotiate;
pub mod outlook;
pub mod pacing;
pub mod patience;
pub mod policy;
pub mod proxy_protocol;
pub mod rate;
pub mod redirect;
pub mod rehearsal;
pub mod routes;
pub mod slots;
pub mod time;
pub mod timings;
pub mod token;
pub mod uniform;
pub mod units;
