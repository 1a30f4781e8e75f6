//! What every test needs: a gate of its own ([`World`]), a site that does as it is told ([`Upstream`]), and clients that speak bytes
//! ([`Client`]). Blocking sockets and threads: what a test does can be read from top to bottom.
//!
//! Every wait has a limit of [`PATIENCE`], and fails the test when it is over.

mod client;
mod http2;
mod http2_site;
mod process;
mod relay;
mod tls;
mod upstream;
mod wait;
mod world;

use std::time::Duration;

pub(crate) use client::{Answer, Client, assert_failed, pattern, request, unzipped};
pub(crate) use http2::*;
pub(crate) use http2_site::*;
pub(crate) use process::{Gate, Process, Said, Scratch, own_ports, run, run_command, tidegate};
pub(crate) use relay::{Carries, Cut, Relay};
pub(crate) use tls::{Authority, Signed, visitor};
pub(crate) use upstream::{Seen, Site, Upstream, Vacant, ok};
pub(crate) use wait::{Door, until};
pub(crate) use world::World;

/// How long anything may take before a test gives up: far more than it ever does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
