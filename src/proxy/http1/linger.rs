//! The end of a connection on which something may still come.

use std::io;
use std::time::Duration;

use crate::proxy::handle::Peer;
use crate::proxy::http2::LINGER;
use crate::proxy::streams::UNREAD_BYTES_MAX;
use crate::proxy::wire::Wire;
use crate::rules::headers::forwarded::is_trusted;

/// Reads on for a while once all has been said, what of a request was not read or not understood. A socket that is closed with something
/// unread is reset, which takes from the client what it has not read yet, or has its next write fail: balancers then give an error in place of
/// the answer, and take the gate to be broken; or they try the next server with the request, which may be the site.
pub(super) async fn linger(peer: &Peer, wire: Wire) {
    let Peer { worker, state, .. } = peer;
    let socket = wire.tcp().socket();
    // what TLS has in it is not of interest
    let mut piece = vec![0; PIECE_BYTES];
    // others need the place more, but for a proxy in front: it has at hand what it sends, and would go round the gate with it
    let is_in_the_way = || {
        let policy = &worker.gate.regime().policy;
        worker.connections.is_short(policy.limits.connections) && !is_trusted(state.peer, &policy.client.trusted_proxies)
    };
    let reading = async {
        let mut left = UNREAD_BYTES_MAX;
        while !is_in_the_way() {
            let read = async {
                loop {
                    socket.readable().await?;
                    match socket.try_read(&mut piece) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        read => return read,
                    }
                }
            };
            match tokio::time::timeout(LINGER, read).await {
                Ok(Ok(bytes)) if bytes > 0 && bytes <= left => left -= bytes,
                Ok(Ok(_) | Err(_)) | Err(_) => return,
            }
        }
    };
    drop(tokio::time::timeout(LINGER_LONGEST, reading).await);
}

const PIECE_BYTES: usize = 16 * 1024;

/// Of a connection that has ended, in all; [`LINGER`] is for each pause. A phone takes so long for a photograph, and nginx has it so
/// (`lingering_time`).
const LINGER_LONGEST: Duration = Duration::from_secs(30);
