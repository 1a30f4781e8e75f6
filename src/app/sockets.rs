//! The listening sockets: handed over by systemd, or bound here, one a worker, so that no two workers wait at one accept queue.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds for a worker before it accepts them. A surge of thousands in a second must find room.
const BACKLOG: i32 = 4096;

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there.
    #[error("{key}: {address} is in use by another process: is a second gate running?")]
    InUse {
        /// The key of gate.yaml.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{key}: cannot listen on {address}")]
    Bind {
        /// The key of gate.yaml.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// The visitors' listeners, one a worker.
///
/// # Errors
/// If the address is taken, or can't be bound.
pub fn listen(key: &'static str, address: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, SocketError> {
    // with SO_REUSEPORT a second process would bind beside the first, and take half of its clients: so it is tried without
    let probe = bind(address, false).map_err(|source| describe(key, address, source))?;
    let address = probe.local_addr().map_err(|source| describe(key, address, source))?;
    drop(probe);
    (0..workers).map(|_| bind(address, true).map_err(|source| describe(key, address, source))).collect()
}

/// A listener of its own: the operator's.
///
/// # Errors
/// If the address is taken, or can't be bound.
pub fn listen_alone(key: &'static str, address: SocketAddr) -> Result<TcpListener, SocketError> {
    bind(address, false).map_err(|source| describe(key, address, source))
}

/// What systemd hands over (`LISTEN_FDS`), each shared by the workers.
#[derive(Debug)]
pub struct Inherited {
    /// The first socket: plaintext.
    pub http: Option<Vec<TcpListener>>,
    /// The second: TLS.
    pub https: Option<Vec<TcpListener>>,
}

/// Takes over what systemd hands over.
///
/// # Errors
/// If it is not a listening socket.
pub fn inherited(workers: usize) -> io::Result<Inherited> {
    let mut sockets = listenfd::ListenFd::from_env();
    let mut shared = |index: usize| {
        // asking for one that is not there is an error, unless there is none at all
        let listener = if index < sockets.len() { sockets.take_tcp_listener(index)? } else { None };
        let Some(listener) = listener else { return Ok(None) };
        listener.set_nonblocking(true)?;
        (0..workers).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>().map(Some)
    };
    Ok(Inherited { http: shared(0)?, https: shared(1)? })
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // connections of the last run in TIME_WAIT are no reason not to start
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn describe(key: &'static str, address: SocketAddr, source: io::Error) -> SocketError {
    if source.kind() == io::ErrorKind::AddrInUse { SocketError::InUse { key, address } } else { SocketError::Bind { key, address, source } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn workers_share_an_address_and_a_second_gate_is_refused() {
        let first = listen("listen.http", local(), 3).unwrap();
        let address = first[0].local_addr().unwrap();
        assert!(first.iter().all(|listener| listener.local_addr().unwrap() == address));
        let second = listen("listen.http", address, 3).unwrap_err();
        assert!(matches!(second, SocketError::InUse { .. }), "{second}");
        assert!(second.to_string().contains("listen.http"), "{second}");
    }
}
