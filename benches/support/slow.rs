//! A site, visitors and attackers over raw sockets, each on a thread of its own: what they cost is little, and what they see is theirs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use socket2::SockRef;
use tidegate::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

// the site

/// How long a page takes.
const SERVICE: Duration = Duration::from_millis(20);

/// What an attacker asks for, and does not take.
const LARGE: usize = 1 << 20;

const PAGE: usize = 1024;

/// Answers pages after a while, and large files at once.
pub(super) async fn be_the_site(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move { drop(answer_all(stream).await) });
    }
}

async fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let is_large = head.starts_with(b"GET /static/large");
        head.clear();
        if !is_large {
            tokio::time::sleep(SERVICE).await;
        }
        let bytes = if is_large { LARGE } else { PAGE };
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + bytes, b'x');
        stream.write_all(&answer).await?;
    }
}

// those who may enter

/// Between two pages: with [`SERVICE`], so many visitors keep half of [`SLOTS`] busy.
const THINK: Duration = Duration::from_millis(60);
pub(super) const VISITORS: usize = 32;
pub(super) const SLOTS: usize = 16;

/// What the visitors of a window have seen.
#[derive(Default)]
pub(super) struct Seen {
    answers: Vec<Duration>,
    pub(super) failures: usize,
}

impl Seen {
    /// So many of them were quicker; in milliseconds.
    pub(super) fn quantile_ms(&mut self, share: f64) -> f64 {
        self.answers.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (self.answers.len() as f64 * share) as usize;
        self.answers.get(index.min(self.answers.len().saturating_sub(1))).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.answers.extend(other.answers);
        self.failures += other.failures;
    }
}

/// The window that is open.
#[derive(Default)]
pub(super) struct Window(Mutex<Option<Seen>>);

impl Window {
    pub(super) fn open(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen::default());
    }

    pub(super) fn close(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    fn note(&self, took: Option<Duration>) {
        if let Some(seen) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            match took {
                Some(took) => seen.answers.push(took),
                None => seen.failures += 1,
            }
        }
    }
}

/// One after the other, for ever: a page, and a while to read it.
pub(super) async fn visit(gate: SocketAddr, passes: Vec<String>, window: Arc<Window>, clock: Arc<Clock>) {
    let mut visitors = JoinSet::new();
    for (number, pass) in passes.into_iter().enumerate() {
        let (window, clock) = (Arc::clone(&window), Arc::clone(&clock));
        visitors.spawn(async move {
            tokio::time::sleep((SERVICE + THINK) * u32::try_from(number).unwrap_or(0) / 32).await;
            let request = format!("GET /page HTTP/1.1\r\nHost: test\r\nAccept: text/html\r\nCookie: {pass}\r\n\r\n");
            let mut stream = None;
            loop {
                let before = clock.moment();
                let answered = ask(gate, &mut stream, request.as_bytes()).await;
                window.note(answered.is_ok().then(|| clock.moment().since(before)));
                if answered.is_err() {
                    stream = None;
                }
                tokio::time::sleep(THINK).await;
            }
        });
    }
    visitors.join_all().await;
}

async fn ask(gate: SocketAddr, stream: &mut Option<TcpStream>, request: &[u8]) -> io::Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(TcpStream::connect(gate).await?),
    };
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(4 * PAGE);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if end.is_some_and(|end| answer.len() >= end + 4 + PAGE) {
            let is_good = answer.starts_with(b"HTTP/1.1 200");
            return if is_good { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
}

// those who do not want to

/// What an attacker is slow at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A head that never ends, a line every two seconds.
    Heads,
    /// A body of which a byte comes every two seconds.
    Bodies,
    /// A large answer of which 64 bytes are taken every two seconds.
    Reads,
    /// A third each.
    All,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Heads => "heads",
            Self::Bodies => "bodies",
            Self::Reads => "reads",
            Self::All => "all",
        }
    }

    /// Of the attacker of this number.
    const fn of(self, number: usize) -> Self {
        match (self, number % 3) {
            (Self::All, 0) => Self::Heads,
            (Self::All, 1) => Self::Bodies,
            (Self::All, _) => Self::Reads,
            (kind, _) => kind,
        }
    }

    const fn beginning(self) -> &'static [u8] {
        match self {
            Self::Heads | Self::All => b"GET /static/page HTTP/1.1\r\nHost: test\r\n",
            Self::Bodies => b"POST /static/page HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n",
            Self::Reads => b"GET /static/large HTTP/1.1\r\nHost: test\r\n\r\n",
        }
    }

    /// What is said next, and next, and next. Who reads slowly finds out by it that it is cut: what the kernel has for it would last on.
    const fn next(self) -> &'static [u8] {
        match self {
            Self::Heads | Self::All => b"X-A: b\r\n",
            Self::Bodies => b"x",
            Self::Reads => b"\r\n",
        }
    }
}

/// How long an attacker waits between two bytes: often enough for every limit.
const DRIP: Duration = Duration::from_secs(2);

/// Of so many attackers at one address: fewer than one client may have.
const AT_ONE_ADDRESS: usize = 100;

/// How it stands with the attackers.
#[derive(Default)]
pub(super) struct Attack {
    over: AtomicBool,
    open: AtomicUsize,
    cut: AtomicUsize,
    longest_ms: AtomicUsize,
}

impl Attack {
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that the gate has cut.
    pub(super) fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn longest_s(&self) -> f64 {
        self.longest_ms.load(Ordering::Relaxed) as f64 / 1e3
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Comes with so many, and each comes again when it is cut, until it is over.
pub(super) async fn attack(gate: SocketAddr, kind: Kind, count: usize, ramp: Duration, attack: Arc<Attack>, clock: Arc<Clock>) {
    let mut attackers = JoinSet::new();
    for number in 0..count {
        let (attack, clock) = (Arc::clone(&attack), Arc::clone(&clock));
        attackers.spawn(async move {
            // one after the other, and so on for as long as it lasts
            tokio::time::sleep(ramp * u32::try_from(number).unwrap_or(0) / u32::try_from(count).unwrap_or(1)).await;
            let [.., high, low] = (number / AT_ONE_ADDRESS + 1).to_be_bytes();
            while !attack.is_over() {
                let Ok(mut stream) = connect(gate, Ipv4Addr::new(127, 1, high, low)).await else {
                    tokio::time::sleep(DRIP).await;
                    continue;
                };
                let before = clock.moment();
                attack.open.fetch_add(1, Ordering::Relaxed);
                let ended = drip(&mut stream, kind.of(number), &attack).await;
                attack.open.fetch_sub(1, Ordering::Relaxed);
                let life = clock.moment().since(before).as_millis();
                attack.longest_ms.fetch_max(usize::try_from(life).unwrap_or(usize::MAX), Ordering::Relaxed);
                if ended.is_err() {
                    attack.cut.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    attackers.join_all().await;
}

async fn connect(gate: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // a window of little, and packets as on a network, or the kernels take the whole answer for granted
    socket.set_recv_buffer_size(4096)?;
    SockRef::from(&socket).set_tcp_mss(1000)?;
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    socket.connect(gate).await
}

/// Says and takes as little as it can, until it is cut (an error) or it is over.
async fn drip(stream: &mut TcpStream, kind: Kind, attack: &Attack) -> io::Result<()> {
    stream.write_all(kind.beginning()).await?;
    let mut taken = [0; 64];
    while !attack.is_over() {
        match kind {
            Kind::Reads => {
                if stream.try_read(&mut taken).is_ok_and(|bytes| bytes == 0) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                tokio::time::sleep(DRIP).await;
            }
            // whatever the gate says to it is the end of it
            Kind::Heads | Kind::Bodies | Kind::All => {
                if let Ok(read) = tokio::time::timeout(DRIP, stream.read(&mut taken)).await {
                    read?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        stream.write_all(kind.next()).await?;
    }
    Ok(())
}
