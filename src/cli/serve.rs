//! `tidegate serve`

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::{self, Signals, Start};
use crate::clock::Clock;
use crate::reload::SeenFile;
use crate::rules::policy::Policy;
use crate::telemetry;

/// Runs the gate until it is told to end.
pub(super) fn serve(policy: Policy, file: (PathBuf, SeenFile), clock: Clock) -> anyhow::Result<()> {
    let clock = Arc::new(clock);
    let _logging = telemetry::start(&policy.log, &clock)?;
    // before anything is started: who starts a gate may also end it before it has
    let signals = Signals::take()?;
    let workers = app::workers(&policy);
    let inherited = app::inherited(workers)?;
    let http = match inherited.http {
        Some(listeners) => listeners,
        None => app::listen("listen.http", policy.listen.http, workers)?,
    };
    let https = match (&policy.listen.https, inherited.https) {
        (None, _) => Vec::new(),
        (Some(_), Some(listeners)) => listeners,
        (Some(https), None) => app::listen("listen.https.address", https.address, workers)?,
    };
    let admin = app::listen_alone("admin.listen", policy.admin.listen)?;
    let running = app::start(Start { policy, file: Some(file), clock, http, https, admin })?;
    running.run(signals);
    Ok(())
}
