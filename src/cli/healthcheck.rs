//! `tidegate healthcheck`: asks the running gate by its admin listener.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::bail;

use super::gate_client;
use crate::config;

/// Whether the gate lives and takes traffic. A mistake in its file is told, and says nothing of that: the gate serves on by what it has
/// read before, and one that is ended for the mistake would not start again.
pub(super) fn check(file: &Path) -> anyhow::Result<()> {
    let (admin, errors) = config::admin(file);
    if let Some(errors) = errors {
        // who asks for the status alone may have closed stderr
        drop(writeln!(io::stderr(), "{errors}"));
    }
    for path in ["/healthz", "/readyz"] {
        let answer = gate_client::get(&admin, path)?;
        if answer.status != "200" {
            bail!("{} answers {}", answer.url, answer.status);
        }
    }
    Ok(())
}
