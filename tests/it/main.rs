//! The gate as a process and as a library, over real sockets. One binary; a fresh world for each test: ports, directories, servers.
//! Tests wait on events, never on sleeps.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]
#![expect(clippy::float_cmp, reason = "the metrics that tests look at count whole things")]

mod support;

mod floors;
mod mutations;
mod readme;

mod gate_command;
mod gate_demo;
mod gate_email;
mod gate_email_disk;
mod gate_invitation;
mod gate_keys;
mod gate_log;
mod gate_mint;
mod gate_mode;
mod gate_observe;
mod gate_pass;
mod gate_process;
mod gate_reload;
mod gate_simulate;
mod gate_ticket;
mod gate_tls;
mod gate_waiting;

mod networks;

mod proxy_connections;
mod proxy_drain;
mod proxy_failures;
mod proxy_headers;
mod proxy_http2;
mod proxy_http2_attacks;
mod proxy_http2_bounds;
mod proxy_idle;
mod proxy_protocol;
mod proxy_refused;
mod proxy_relay;
mod proxy_servers;
mod proxy_slots;
mod proxy_slow;
mod proxy_streams;
mod proxy_upgrade;
mod proxy_upstream_http2;
mod proxy_upstream_tls;
mod smuggling;
