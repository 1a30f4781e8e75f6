//! The wiring: makes the parts, runs them on their threads, drains them in order. No decision is made here.
//!
//! Threads: one a worker (visitors), one for control (the tick, signals, reloads), one for the operator. The listeners are arguments, so
//! that tests and the demo bring their own.

mod control;
pub mod demo;
mod sockets;
mod status;
mod summary;
mod systemd;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::admin::{self, AdminBackend, AdminState, AdminToken, ModeRequest, ReloadAnswer};
use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::gate::{ByHand, Gate, Regime, Remembered, RememberedLine};
use crate::mail::{self, Invitations, InviterParts, Mail};
use crate::metrics::{Gauge, Metrics};
use crate::proxy::{self, Connections, Listener, Stage, Worker};
use crate::reload::{self, Follow, Parts, Reloader, Seen, SeenFile};
use crate::rules::policy::{Mode, Policy, Server};
use crate::store::{LoadedState, Store, StoreError, chain};
use crate::tls;
use crate::upstream::{self, BufferMemory, Found, Upstream};

use control::{History, Saved};
use status::Snapshot;

pub use control::Signals;
pub use sockets::{Inherited, SocketError, inherited, listen, listen_alone};

/// What a gate is started with.
#[derive(Debug)]
pub struct Start {
    /// The policy.
    pub policy: Policy,
    /// The file that it came from, to be read again when it changes; `None` if there is none.
    pub file: Option<(PathBuf, SeenFile)>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The visitors' listeners, one a worker.
    pub http: Vec<TcpListener>,
    /// The same with TLS; none if the policy has none.
    pub https: Vec<TcpListener>,
    /// The operator's listener.
    pub admin: TcpListener,
}

/// Why a gate can't start. Nothing has been served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys, the lock or the state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The template, or a limit of the system.
    #[error("{0}")]
    Policy(String),
    /// The admin token.
    #[error("admin.token_file: {path}: {reason}")]
    Token {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A metric could not be registered.
    #[error("the metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
    /// A thread, a runtime or a socket of the system's.
    #[error("the system refused")]
    System(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
    /// No random numbers.
    #[error("the system has no random numbers")]
    Random,
}

/// What the threads share.
struct Shared {
    gate: Arc<Gate>,
    upstream: Arc<Upstream>,
    mail: Arc<Mail>,
    invitations: Arc<Invitations>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    reloader: Option<Arc<Reloader>>,
    tls: Option<Arc<tls::server::Server>>,
    store: Store,
    stage: watch::Sender<Stage>,
    history: Mutex<History>,
    saved: Saved,
    polling: Mutex<()>,
}

/// A gate that runs. Dropping it ends it at once; [`Running::drain`] ends it well.
pub struct Running {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    finished: mpsc::Receiver<()>,
    /// Control and admin.
    others: Vec<JoinHandle<()>>,
    /// Where visitors come in.
    pub http: SocketAddr,
    /// Where they come in with TLS.
    pub https: Option<SocketAddr>,
    /// Where the operator comes in.
    pub admin_address: SocketAddr,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("http", &self.http).field("admin", &self.admin_address).finish_non_exhaustive()
    }
}

/// How many workers a policy asks for: one a core if it does not say, but no more than have a place for a client at each of their listeners.
#[must_use]
pub fn workers(policy: &Policy) -> usize {
    let most = policy.limits.connections / policy.listen.listeners_of_worker();
    policy.listen.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from).min(most)).max(1)
}

/// Starts a gate: when this returns, it takes traffic.
///
/// # Errors
/// Why it can't start.
pub fn start(start: Start) -> Result<Running, StartError> {
    let Start { policy, file, clock, http, https, admin } = start;
    let seen = file.as_ref().map(|(_, file)| Seen::of(*file, &policy));
    reload::make_room_for_connections(&policy).map_err(StartError::Policy)?;
    let token = Arc::new(ArcSwapOption::from_pointee(admin_token(&policy)?));
    let pages = Arc::new(reload::load_pages(&policy).map_err(StartError::Policy)?);
    let certificates = reload::load_certificates(&policy).map_err(StartError::Policy)?;
    let tls = certificates.map(tls::server::Server::new).transpose()?.map(Arc::new);
    let upstream_tls = reload::load_upstream_tls(&policy).map_err(StartError::Policy)?;
    let store = Store::open(&policy.data)?;
    let keys = Arc::new(store.keys(clock.now().wall)?);
    let seen = seen.map(|seen| seen.with_keys(&policy));
    let remembered = remembered(&store, &policy, &clock)?;
    let found = look_up(upstream::named(&policy.upstream.servers))?;
    let workers = http.len();
    let metrics = Arc::new(Metrics::new(workers)?);
    let addresses = Arc::default();
    let mail = mail::Parts {
        data: policy.data.clone(),
        hash: keys.address_hash(),
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        addresses: Arc::clone(&addresses),
    };
    let mail = Arc::new(Mail::start(mail, &policy.email_queue)?);
    let policy = Arc::new(policy);
    let gate = Arc::new(Gate::new(Arc::clone(&policy), keys, pages, remembered, workers, clock.now()));
    let invitations = InviterParts {
        data: policy.data.clone(),
        gate: Arc::clone(&gate),
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        addresses,
    };
    let invitations = Arc::new(Invitations::start(invitations)?);
    let memory = Arc::new(BufferMemory::new(policy.limits.buffer_memory));
    let deadlines: Vec<Arc<Deadlines>> = (0..workers).map(|_| Arc::default()).collect();
    let upstream =
        Upstream::new(&policy, upstream_tls.as_ref(), Arc::clone(&gate), Arc::clone(&clock), &metrics, &deadlines, Arc::clone(&memory));
    upstream.know(found);
    let reloader = file.zip(seen).map(|((path, _), seen)| {
        let parts = Parts {
            gate: Arc::clone(&gate),
            tls: tls.clone(),
            follow: follow(&upstream, &memory, &mail, &token),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        Arc::new(Reloader::new(path, seen, parts))
    });
    let shared = Arc::new(Shared {
        gate,
        upstream,
        mail,
        invitations,
        clock,
        metrics,
        connections: Arc::default(),
        reloader,
        tls,
        store,
        stage: watch::Sender::new(Stage::Serving),
        history: control::history(),
        saved: Saved::default(),
        polling: Mutex::new(()),
    });
    let http_address = http.first().ok_or(std::io::ErrorKind::InvalidInput).map_err(std::io::Error::from)?.local_addr()?;
    let https_address = https.first().map(TcpListener::local_addr).transpose()?;
    let admin_address = admin.local_addr()?;
    // so that the metrics are right from the first look on, and not from the first tick
    control::show(&shared, &shared.upstream.site());
    let others = vec![control_thread(&shared)?, admin_thread(&shared, admin, token)?];
    let (done, finished) = mpsc::channel();
    let mut threads = Vec::new();
    let mut https = https.into_iter();
    for (index, (plaintext, deadlines)) in http.into_iter().zip(deadlines).enumerate() {
        let sockets = Sockets { plaintext, tls: https.next() };
        threads.push(worker_thread(&shared, &memory, index, sockets, deadlines, done.clone())?);
    }
    tracing::info!(
        http = %http_address,
        https = https_address.map(tracing::field::display),
        admin = %admin_address,
        workers,
        mode = policy.admission.mode.name(),
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    Ok(Running { shared, workers: threads, finished, others, http: http_address, https: https_address, admin_address })
}

impl Running {
    /// Serves until SIGTERM or SIGINT, then drains by the policy's `shutdown`. SIGHUP reloads.
    pub fn run(self, signals: Signals) {
        systemd::ready();
        signals.until_told_to_end(&self.shared);
        systemd::stopping();
        let shutdown = self.regime().policy.shutdown;
        self.drain(shutdown.delay, shutdown.deadline);
    }

    /// The regime in force.
    #[must_use]
    pub fn regime(&self) -> Arc<Regime> {
        self.shared.gate.regime().clone()
    }

    /// Ends well: health goes down, `delay` passes (a second signal cuts it short), the accept queues are emptied, requests in flight
    /// finish within `deadline`, the state is saved.
    pub fn drain(mut self, delay: Duration, deadline: Duration) {
        tracing::info!(delay_s = delay.as_secs(), deadline_s = deadline.as_secs(), "draining");
        self.shared.stage.send_replace(Stage::Draining);
        match runtime() {
            Ok(runtime) => runtime.block_on(control::wait_or_hurry(delay)),
            Err(error) => tracing::error!(%error, "no runtime to wait on: closing at once"),
        }
        self.shared.stage.send_replace(Stage::Closing);
        let clock = Arc::clone(&self.shared.clock);
        let started = clock.moment();
        let mut in_time = true;
        for _ in 0..self.workers.len() {
            let left = deadline.saturating_sub(clock.moment().since(started));
            in_time &= self.finished.recv_timeout(left).is_ok();
        }
        if !in_time {
            tracing::warn!(connections = self.shared.connections.open(), "the deadline is over, what is left is cut off");
        }
        self.end();
        control::save(&self.shared);
        tracing::info!("stopped");
    }

    fn end(&mut self) {
        self.shared.stage.send_replace(Stage::Closed);
        for thread in self.workers.drain(..).chain(self.others.drain(..)) {
            if thread.join().is_err() {
                tracing::error!("a thread has panicked");
            }
        }
        // nobody posts or redeems any more
        self.shared.invitations.end();
        self.shared.mail.end();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().max_blocking_threads(BLOCKING).enable_all().build()
}

/// Threads for blocking calls of the disk and the resolver: a disk that hangs must not pile them up.
const BLOCKING: usize = 8;

fn control_thread(shared: &Arc<Shared>) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime()?;
    let (stage, shared) = (shared.stage.subscribe(), Arc::clone(shared));
    let thread = std::thread::Builder::new().name("tidegate-control".to_owned()).spawn(move || {
        runtime.block_on(control::run(shared, stage));
        runtime.shutdown_background();
    })?;
    Ok(thread)
}

/// Where the visitors of one worker come in.
struct Sockets {
    plaintext: TcpListener,
    tls: Option<TcpListener>,
}

fn worker_thread(
    shared: &Arc<Shared>,
    memory: &Arc<BufferMemory>,
    index: usize,
    sockets: Sockets,
    deadlines: Arc<Deadlines>,
    done: mpsc::Sender<()>,
) -> Result<JoinHandle<()>, StartError> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| StartError::Random)?;
    let worker = Arc::new(Worker::new(
        index,
        Arc::clone(&shared.gate),
        Arc::clone(&shared.upstream),
        Arc::clone(&shared.clock),
        shared.metrics.shard(index),
        deadlines,
        Arc::clone(&shared.connections),
        Arc::clone(memory),
        Arc::clone(&shared.mail),
        Arc::clone(&shared.invitations),
        shared.stage.subscribe(),
        u64::from_ne_bytes(seed),
    ));
    let runtime = runtime()?;
    let mut listeners = Vec::new();
    {
        let _inside = runtime.enter();
        listeners.push(Listener { socket: tokio::net::TcpListener::from_std(sockets.plaintext)?, tls: None });
        if let Some(socket) = sockets.tls {
            listeners.push(Listener { socket: tokio::net::TcpListener::from_std(socket)?, tls: shared.tls.clone() });
        }
    }
    let mut closed = shared.stage.subscribe();
    let thread = std::thread::Builder::new().name(format!("tidegate-{index}")).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = proxy::serve(worker, listeners) => {}
                ended = closed.wait_for(|stage| *stage >= Stage::Closed) => drop(ended),
            }
            // the receiver is gone if nobody waits for the end
            done.send(()).ok();
            // one that is held would keep who waits from seeing that another worker has panicked, and sends nothing
            drop(done);
            // other workers may still use connections to the site that this one has made: those move by its runtime, and end with it
            drop(closed.wait_for(|stage| *stage >= Stage::Closed).await);
        });
    })?;
    Ok(thread)
}

fn admin_thread(shared: &Arc<Shared>, listener: TcpListener, token: Arc<ArcSwapOption<AdminToken>>) -> Result<JoinHandle<()>, StartError> {
    let runtime = runtime()?;
    let listener = {
        let _inside = runtime.enter();
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)?
    };
    let state = Arc::new(AdminState {
        metrics: Arc::clone(&shared.metrics),
        clock: Arc::clone(&shared.clock),
        backend: Arc::<Shared>::clone(shared),
        token,
        hosts: Vec::new(),
    });
    let mut stage = shared.stage.subscribe();
    let thread = std::thread::Builder::new().name("tidegate-admin".to_owned()).spawn(move || {
        // the operator can look until the end
        runtime.block_on(admin::serve(listener, state, async move { drop(stage.wait_for(|stage| *stage >= Stage::Closed).await) }));
    })?;
    Ok(thread)
}

/// What follows a policy beside the gate.
fn follow(upstream: &Arc<Upstream>, memory: &Arc<BufferMemory>, mail: &Arc<Mail>, token: &Arc<ArcSwapOption<AdminToken>>) -> Follow {
    let (upstream, memory, mail, token) = (Arc::clone(upstream), Arc::clone(memory), Arc::clone(mail), Arc::clone(token));
    Arc::new(move |policy, upstream_tls| {
        let new_token = admin_token(policy).map_err(|error| error.to_string())?.map(Arc::new);
        let found = look_up(upstream.unknown(&policy.upstream.servers)).map_err(|error| format!("no thread to look up names: {error}"))?;
        let (policy, token) = (Arc::clone(policy), Arc::clone(&token));
        let (upstream, memory, mail) = (Arc::clone(&upstream), Arc::clone(&memory), Arc::clone(&mail));
        Ok(Box::new(move || {
            memory.set_limit(policy.limits.buffer_memory);
            upstream.apply(&policy, upstream_tls.as_ref(), found);
            mail.apply(&policy.email_queue);
            token.store(new_token);
        }))
    })
}

/// Looks up servers before they are in use. Blocks for as long as a look-up may take.
fn look_up(servers: Vec<Server>) -> std::io::Result<Found> {
    if servers.is_empty() {
        return Ok(Found::default());
    }
    let runtime = runtime()?;
    let found = runtime.block_on(upstream::find(servers));
    // a thread that hangs in the resolver is left to it
    runtime.shutdown_background();
    Ok(found)
}

/// The token of a policy's `admin.token_file`, if it names one.
///
/// # Errors
/// Why the file can't be used.
pub fn admin_token(policy: &Policy) -> Result<Option<AdminToken>, StartError> {
    let Some(path) = &policy.admin.token_file else { return Ok(None) };
    let fail = |reason: String| StartError::Token { path: path.display().to_string(), reason };
    let content = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    AdminToken::new(&content).map(Some).map_err(|error| fail(error.to_string()))
}

/// What the last run has left.
fn remembered(store: &Store, policy: &Policy, clock: &Clock) -> Result<Remembered, StartError> {
    match store.load_state()? {
        LoadedState::Nothing => Ok(Remembered::default()),
        LoadedState::Saved(saved) => {
            let by_hand = saved.mode.map(|mode| ByHand { mode: mode.mode, until: mode.until });
            let by_hand = by_hand.filter(|by_hand| by_hand.until.is_none_or(|until| clock.now().wall < until));
            if let Some(by_hand) = by_hand {
                let until = by_hand.until.map_or_else(|| "said otherwise".to_owned(), status::timestamp);
                let file = policy.admission.mode.name();
                tracing::warn!(mode = by_hand.mode.name(), until, file, "a mode set by hand outranks gate.yaml");
            }
            let line = saved.line.map(|line| RememberedLine { at: line.at, clock: line.clock });
            Ok(Remembered { capacity: saved.capacity, max_in_flight: saved.max_in_flight, by_hand, line })
        }
        LoadedState::Corrupt { fault, set_aside } => {
            let to = set_aside.map_or_else(|error| chain(&error), |path| path.display().to_string());
            tracing::warn!(fault = %chain(&fault), set_aside = to, "the saved state could not be read: starting without it");
            Ok(Remembered::default())
        }
    }
}

impl AdminBackend for Shared {
    fn status(&self) -> serde_json::Value {
        let regime = self.gate.regime();
        let stage = *self.stage.borrow();
        status::status(&Snapshot {
            regime: &regime,
            servers: &self.upstream.servers(),
            queue: self.upstream.queued(),
            slots: self.upstream.slots(),
            connections: self.connections.open(),
            idle: self.connections.idle(),
            upgrades: self.connections.upgrades(),
            email_writable: self.metrics.gauge(Gauge::EmailWritable) > 0.0,
            invitations: &self.invitations.standing(),
            history: &self.history(),
            config: self.reloader.as_ref().map(|reloader| (reloader.path().display().to_string(), reloader.outcome())),
            draining: stage >= Stage::Draining,
            now: self.clock.now(),
        })
    }

    fn ready(&self) -> Result<(), &'static str> {
        if *self.stage.borrow() >= Stage::Draining { Err("draining") } else { Ok(()) }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadAnswer> + Send + '_>> {
        let Some(reloader) = self.reloader.clone() else {
            return Box::pin(std::future::ready(ReloadAnswer::Rejected(vec!["this gate has no gate.yaml".to_owned()])));
        };
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || reloader.reload()).await {
                Ok(Ok(())) => ReloadAnswer::Applied,
                Ok(Err(errors)) => ReloadAnswer::Rejected(errors),
                Err(panicked) => ReloadAnswer::Rejected(vec![panicked.to_string()]),
            }
        })
    }

    fn pause_invitations(&self, paused: bool) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(self.invitations.pause(paused))
    }

    fn set_mode(&self, request: ModeRequest) -> Result<serde_json::Value, String> {
        let by_hand = match request {
            ModeRequest::Set { mode, until } => Some(ByHand { mode, until }),
            ModeRequest::File => None,
        };
        self.gate.set_mode(by_hand, self.clock.now());
        // written down before it is answered: a mode that was set must outlive a crash, and who set it must know if it would not
        let saved = control::save(self);
        let mode = self.gate.regime().mode;
        let until = mode.by_hand.and_then(|by_hand| by_hand.until).map(status::timestamp);
        let source = if mode.by_hand.is_some() { "operator" } else { "file" };
        let probability = if let Mode::Fixed(probability) = mode.mode { Some(probability) } else { None };
        tracing::info!(mode = mode.mode.name(), probability, until, source, "mode set");
        Ok(serde_json::json!({ "mode": mode.mode.name(), "source": source, "until": until, "probability": probability, "saved": saved }))
    }
}
