//! `tidegate healthcheck`: asks the running gate by its admin listener.

use anyhow::bail;

use super::gate_client;
use crate::rules::policy::Policy;

/// Whether the gate lives and takes traffic.
pub(super) fn check(policy: &Policy) -> anyhow::Result<()> {
    for path in ["/healthz", "/readyz"] {
        let answer = gate_client::get(policy, path)?;
        if answer.status != "200" {
            bail!("{} answers {}", answer.url, answer.status);
        }
    }
    Ok(())
}
