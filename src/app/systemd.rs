//! What systemd is told (`sd_notify`), if it started the gate; else nothing happens.

use sd_notify::NotifyState;

/// The gate takes traffic.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// gate.yaml is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The gate is draining.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
