//! The site behind the gate: it answers at once what can be checked, and fails when it is told to.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// No connection is taken, and those that there are have ended.
    Refuses,
    /// Nothing is answered.
    Hangs,
    /// Connections are reset in place of an answer, or within one.
    Resets,
}

/// The site.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    fault: watch::Sender<Fault>,
    accepting: RefCell<Option<JoinHandle<()>>>,
    /// Requests that have come.
    pub(super) asked: Rc<Cell<u64>>,
}

impl Site {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (address, fault) = (listener.local_addr()?, watch::Sender::new(Fault::None));
        let site = Self { address, fault, accepting: RefCell::default(), asked: Rc::default() };
        site.accept(listener);
        Ok(site)
    }

    fn accept(&self, listener: TcpListener) {
        let (fault, asked) = (self.fault.clone(), Rc::clone(&self.asked));
        let accepting = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut told, asked) = (fault.subscribe(), Rc::clone(&asked));
                spawn_local(async move {
                    let mut watched = told.clone();
                    // a connection ends as the client leaves it, or with the site
                    tokio::select! {
                        _ended = serve(stream, &mut told, &asked) => {}
                        _refused = watched.wait_for(|fault| *fault == Fault::Refuses) => {}
                    }
                });
            }
        });
        self.accepting.replace(Some(accepting));
    }

    /// Breaks it, or mends it.
    pub(super) async fn be(&self, fault: Fault) -> anyhow::Result<()> {
        self.fault.send_replace(fault);
        if fault == Fault::Refuses
            && let Some(accepting) = self.accepting.take()
        {
            accepting.abort();
        } else if fault != Fault::Refuses && self.accepting.borrow().is_none() {
            self.accept(TcpListener::bind(self.address).await?);
        }
        Ok(())
    }
}

/// Answers requests: `/page/N` with N, `/large/N` with as many bytes, a POST with the length of what came; and echoes WebSockets.
async fn serve(stream: TcpStream, fault: &mut watch::Receiver<Fault>, asked: &Cell<u64>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut upgrades) = (String::new(), 0, false);
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("upgrade", _)) => upgrades = true,
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        asked.set(asked.get() + 1);
        let now = *fault.borrow_and_update();
        match now {
            Fault::None | Fault::Refuses => {}
            Fault::Hangs => drop(fault.changed().await),
            Fault::Resets => {
                // half of the answers are begun
                if asked.get().is_multiple_of(2) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
        }
        if upgrades {
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
                )
                .await?;
            return echo(stream, fault).await;
        }
        let answer = match target.split('/').nth(1) {
            _ if length > 0 => length.to_string(),
            Some("large") => "x".repeat(target.rsplit('/').next().and_then(|size| size.parse().ok()).unwrap_or(0)),
            _ => target.rsplit('/').next().unwrap_or_default().to_owned(),
        };
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).as_bytes()).await?;
    }
}

async fn echo(mut stream: BufReader<TcpStream>, fault: &mut watch::Receiver<Fault>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read? {
                0 => return Ok(()),
                count => stream.write_all(&buffer[..count]).await?,
            },
            _ = fault.wait_for(|fault| *fault == Fault::Resets) => return Ok(()),
        }
    }
}
