//! Envoy as a process: where it is found, how it is started, and the part of its configuration that is always the same.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Writes a configuration, in which `SITE` is where the site listens, and returns what starts Envoy with it; `command` is how a program
/// is run. One thread, and beside others on the same machine.
pub(super) fn envoy(command: impl FnOnce(&Path) -> Command, directory: &Path, config: &str, site: SocketAddr) -> std::io::Result<Command> {
    let file = directory.join("envoy.yaml");
    fs::write(&file, format!("{config}{CLUSTER}").replace("SITE", &at(site)))?;
    let log = File::create(directory.join("log"))?;
    let mut command = command(Path::new(&program()));
    command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "--config-path"]).arg(&file);
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// In the path, or named by `ENVOY`.
pub(super) fn program() -> String {
    std::env::var("ENVOY").unwrap_or_else(|_| "envoy".to_owned())
}

/// An address as Envoy's configuration has it.
pub(super) fn at(address: SocketAddr) -> String {
    format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", address.ip(), address.port())
}

const CLUSTER: &str = r#"
  clusters:
    - name: site
      type: STATIC
      connect_timeout: 2s
      circuit_breakers: { thresholds: [{ max_connections: 9000, max_pending_requests: 9000, max_requests: 9000 }] }
      load_assignment: { cluster_name: site, endpoints: [{ lb_endpoints: [{ endpoint: { address: SITE } }] }] }
"#;
