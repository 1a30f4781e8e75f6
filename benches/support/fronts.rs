//! What stands in front of the site: nothing, another proxy, or the gate. Each a process of its own, on free ports of 127.0.0.1.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;

use super::envoy::{at, envoy};
use super::support::{Process, free_address};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Front {
    None,
    Haproxy,
    Envoy,
    Tidegate,
}

/// A front that runs: where it listens, and its process, if it is one.
pub(super) struct Standing {
    pub(super) address: SocketAddr,
    pub(super) process: Option<Process>,
}

impl Front {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Tidegate => "Tidegate",
        }
    }

    /// Starts it. None if it is not installed.
    pub(super) fn start(
        self,
        directory: &Path,
        site: SocketAddr,
        workers: u32,
        slots: &str,
        policy: &str,
    ) -> anyhow::Result<Option<Standing>> {
        match self {
            Self::None => Ok(Some(Standing { address: site, process: None })),
            Self::Tidegate => start_gate(directory, site, slots, policy).map(Some),
            Self::Haproxy => start_haproxy(directory, site, workers),
            Self::Envoy => start_envoy(directory, site),
        }
    }
}

/// `policy` is what differs from the defaults, as YAML.
pub(super) fn start_gate(directory: &Path, site: SocketAddr, slots: &str, policy: &str) -> anyhow::Result<Standing> {
    let (address, admin) = (free_address()?, free_address()?);
    let (config, data) = (directory.join("gate.yaml"), directory.join("data"));
    fs::write(
        &config,
        format!(
            "listen: {{ http: {address} }}\n\
             admin: {{ listen: {admin} }}\n\
             data: {data:?}\n\
             upstream: {{ servers: [\"http://{site}\"], max_in_flight: {slots} }}\n\
             limits: {{ connections: {CONNECTIONS} }}\n\
             shutdown: {{ delay: 0s, deadline: 0s }}\n\
             {policy}\n"
        ),
    )?;
    let log = File::create(directory.join("log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).stdout(log.try_clone()?).stderr(log);
    let mut gate = Process::start(&mut command).context("the gate")?;
    gate.wait_until_ready(admin, "/readyz").with_context(|| fs::read_to_string(directory.join("log")).unwrap_or_default())?;
    Ok(Standing { address, process: Some(gate) })
}

/// The same slots, requests whose client has left thrown out of the queue, and the queue timeout that did best at three times the load:
/// within 1 s 71 % with 200 ms, 65 % with 500 ms, 1 % with 1 s, 0 % with 10 s, at which the site collapses behind it.
fn start_haproxy(directory: &Path, site: SocketAddr, workers: u32) -> anyhow::Result<Option<Standing>> {
    let address = free_address()?;
    let config = directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n  maxconn {CONNECTIONS}\n\
             defaults\n  mode http\n  option abortonclose\n  timeout connect 2s\n  timeout client 75s\n  timeout server 60s\n  \
             timeout queue 200ms\n\
             frontend front\n  bind {address}\n  default_backend site\n\
             backend site\n  server site {site} maxconn {workers}\n"
        ),
    )?;
    ready(Command::new("haproxy").args(["-db", "-q", "-f"]).arg(&config), address)
}

/// Admission control and adaptive concurrency, both as in Envoy's documentation of them; one thread, since what they measure is each
/// thread's own.
fn start_envoy(directory: &Path, site: SocketAddr) -> anyhow::Result<Option<Standing>> {
    let address = free_address()?;
    let config = ENVOY.replace("LISTEN", &at(address));
    ready(&mut envoy(|program| Command::new(program), directory, &config, site)?, address)
}

fn ready(command: &mut Command, address: SocketAddr) -> anyhow::Result<Option<Standing>> {
    let mut process = match Process::start(command) {
        Ok(started) => started,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("{:?}", command.get_program())),
    };
    process.wait_until_ready(address, "/healthz")?;
    Ok(Some(Standing { address, process: Some(process) }))
}

/// Below the descriptors that a process may have, with one for the site beside each.
const CONNECTIONS: u32 = 9000;

const ENVOY: &str = r#"
static_resources:
  listeners:
    - address: LISTEN
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: front
                route_config:
                  virtual_hosts:
                    - name: site
                      domains: ["*"]
                      routes: [{ match: { prefix: "/" }, route: { cluster: site, timeout: 60s } }]
                http_filters:
                  - name: envoy.filters.http.admission_control
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl
                      enabled: { default_value: true, runtime_key: admission_control.enabled }
                      sampling_window: 30s
                      sr_threshold: { default_value: { value: 95.0 }, runtime_key: admission_control.sr_threshold }
                      aggression: { default_value: 1.0, runtime_key: admission_control.aggression }
                      success_criteria: { http_criteria: { http_success_status: [{ start: 100, end: 500 }] } }
                  - name: envoy.filters.http.adaptive_concurrency
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency
                      gradient_controller_config:
                        sample_aggregate_percentile: { value: 90 }
                        concurrency_limit_params: { concurrency_update_interval: 0.1s }
                        min_rtt_calc_params: { jitter: { value: 10 }, interval: 60s, request_count: 50 }
                      enabled: { default_value: true, runtime_key: adaptive_concurrency.enabled }
                  - name: envoy.filters.http.router
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
"#;
