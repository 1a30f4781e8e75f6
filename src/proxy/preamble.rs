//! What comes before the first byte of a client's: the PROXY header of a load balancer that passes connections on.
//!
//! Always holds: no byte behind the header is taken, so what follows (TLS, HTTP) finds the stream as if there had been none. A peer that
//! is not a trusted proxy is not asked for a header, and what it sends is never read as one.

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::Worker;
use crate::metrics::{Count, Refusal};
use crate::rules::headers::forwarded::is_trusted;
use crate::rules::proxy_protocol::{HEADER_BYTES_MAX, Header, Malformed, Parsed, parse};

/// Whom a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    /// The address that the header names, else that of the socket; canonical.
    pub(super) peer: IpAddr,
    /// The header says that the client came over TLS.
    pub(super) tls: bool,
    /// There is a header, and it names nobody: the address is the balancer's, and what comes over the connection is somebody else's.
    pub(super) is_unnamed: bool,
}

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
enum Unnamed {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a PROXY header that breaks off")]
    Ended,
    /// A connection that was only tried, as load balancers do.
    #[error("nothing was sent")]
    Empty,
    #[error("no whole PROXY header within limits.header_timeout")]
    Late,
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Reads the header of a connection from `peer`, if it has to have one. `None`: it has none, and is to be closed without an answer.
pub(super) async fn read(worker: &Worker, stream: &mut TcpStream, peer: IpAddr) -> Option<Named> {
    let limit = {
        let policy = &worker.gate.regime().policy;
        if !policy.listen.proxy_protocol || !is_trusted(peer, &policy.client.trusted_proxies) {
            return Some(Named { peer, tls: false, is_unnamed: false });
        }
        policy.limits.header_timeout
    };
    let within = tokio::time::timeout(limit, header(stream)).await;
    match within.unwrap_or(Err(Unnamed::Late)) {
        Ok(Header { source, tls, .. }) => {
            let named = source.map_or(peer, |source| source.to_canonical());
            Some(Named { peer: named, tls, is_unnamed: source.is_none() })
        }
        Err(unnamed) => {
            if !matches!(unnamed, Unnamed::Empty) {
                worker.shard.count(Count::Refused(Refusal::ProxyProtocol));
            }
            tracing::debug!(%peer, reason = %unnamed, "a connection of a trusted proxy was closed: it has no PROXY header");
            None
        }
    }
}

/// Takes the header from the stream, and no byte more.
async fn header(stream: &mut TcpStream) -> Result<Header, Unnamed> {
    let mut bytes = Vec::new();
    loop {
        let taken = bytes.len();
        // looked at first, and taken when it is known to be part of the header; a header in parts is never longer than this
        bytes.resize(HEADER_BYTES_MAX, 0);
        let seen = stream.peek(&mut bytes[taken..]).await?;
        if seen == 0 {
            return Err(if taken == 0 { Unnamed::Empty } else { Unnamed::Ended });
        }
        bytes.truncate(taken + seen);
        match parse(&bytes)? {
            Parsed::Complete(header) => {
                stream.read_exact(&mut bytes[taken..header.length]).await?;
                return Ok(header);
            }
            Parsed::Incomplete => {
                stream.read_exact(&mut bytes[taken..]).await?;
            }
        }
    }
}
