//! A network between two sides that is not what one would wish: bytes come one by one or late, connections break off or fall silent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// What becomes of the bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// They come as they were sent.
    Whole,
    /// They come one by one.
    Bytewise,
    /// Each comes so much later, and as many as there are may be on the way.
    Late(Duration),
    /// So many come, and the connection breaks off both ways.
    Until(usize, Cut),
}

/// How a connection breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It ends as if either side had closed it.
    End,
    /// It is reset.
    Reset,
    /// Nothing comes any more, and nobody is told.
    Silence,
}

/// A relay on a port of its own. It ends when it is dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    _ends: oneshot::Sender<()>,
}

impl Relay {
    /// Stands before `target`; `up` is what becomes of what is sent there, and `down` of what comes back.
    pub(crate) fn before(target: SocketAddr, up: Carries, down: Carries) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accepts = async {
                    while let Ok((near, _)) = listener.accept().await {
                        tokio::spawn(relay(near, target, up, down));
                    }
                };
                // the sender is dropped with the relay
                tokio::select! { () = accepts => {}, _ = ended => {} }
            });
        });
        Self { address, _ends: ends }
    }

    /// As gate.yaml names it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn relay(mut near: TcpStream, target: SocketAddr, up: Carries, down: Carries) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_reads, near_writes) = near.split();
    let (far_reads, far_writes) = far.split();
    match tokio::try_join!(carry(near_reads, far_writes, up), carry(far_reads, near_writes, down)) {
        Ok(_) | Err(None) => {}
        Err(Some(Cut::Reset)) => {
            for stream in [&near, &far] {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        Err(Some(cut)) => {
            if cut == Cut::End {
                near.shutdown().await.ok();
                far.shutdown().await.ok();
            }
            // what is not read when a socket is closed would make a reset of it
            tokio::join!(swallow(&mut near), swallow(&mut far));
        }
    }
}

async fn swallow(stream: &mut TcpStream) {
    let mut piece = [0; 4096];
    while stream.read(&mut piece).await.is_ok_and(|count| count > 0) {}
}

/// Carries bytes until there are no more. `Err`: the connection has failed, or breaks off as it was to.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, how: Carries) -> Result<(), Option<Cut>> {
    let (mut piece, mut carried) = ([0; 65536], 0);
    if let Carries::Late(by) = how {
        return Box::pin(carry_late(from, to, by)).await.map_err(|_| None);
    }
    loop {
        if let Carries::Until(most, cut) = how
            && carried >= most
        {
            return Err(Some(cut));
        }
        let count = from.read(&mut piece).await.map_err(|_: io::Error| None)?;
        if count == 0 {
            return to.shutdown().await.map_err(|_| None);
        }
        let bytes = match how {
            Carries::Until(most, _) => &piece[..count.min(most - carried)],
            Carries::Whole | Carries::Bytewise | Carries::Late(_) => &piece[..count],
        };
        carried += bytes.len();
        for part in bytes.chunks(if how == Carries::Bytewise { 1 } else { bytes.len() }) {
            to.write_all(part).await.map_err(|_| None)?;
            // so that whoever reads has the chance to see it alone
            tokio::task::yield_now().await;
        }
    }
}

async fn carry_late(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, by: Duration) -> io::Result<()> {
    let (sets_out, mut arrives) = mpsc::unbounded_channel();
    let reads = async move {
        let mut piece = [0; 65536];
        loop {
            let count = from.read(&mut piece).await?;
            // its time begins now; the end comes late, too
            if sets_out.send((Box::pin(tokio::time::sleep(by)), piece[..count].to_vec())).is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    let writes = async move {
        while let Some((journey, bytes)) = arrives.recv().await {
            journey.await;
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(reads, writes).map(drop)
}
