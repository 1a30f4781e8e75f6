//! The operator's door: probes, metrics, status, a dashboard, reload and mode. On a thread and a runtime of its own, so that it
//! answers while the workers are busy.
//!
//! Every request passes `guard` first: any page in the operator's browser could open the gate otherwise. Absent: what the answers
//! say about the gate, which [`AdminBackend`] supplies, and reading a token from its file.

mod dashboard;
mod guard;
mod handle;
mod mode;
mod pause;
mod places;
mod respond;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::places::{Place, Places};
use crate::clock::Clock;
use crate::metrics::Metrics;

pub use self::guard::{AdminToken, TokenError};
pub use self::mode::ModeRequest;

/// For a request head, and between requests: longer than the usual scrape interval of 15 s, so that a scraper keeps its connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// How old a connection gets, so that clients that do not read cannot hold all of them.
const AGE_MAX: Duration = Duration::from_secs(120);

/// For a last answer to be written.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Pause after a failed accept: without file descriptors the next one fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener answers from.
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For how long a mode holds.
    pub clock: Arc<Clock>,
    /// The gate.
    pub backend: Arc<dyn AdminBackend>,
    /// Required, if there is one, for all but `/metrics`, `/healthz` and `/readyz`. Each request is held to the one of its time.
    pub token: Arc<ArcSwapOption<AdminToken>>,
    /// DNS names that are taken in `Host` without a token, beside `localhost`; without ports.
    pub hosts: Vec<String>,
}

/// What the admin listener asks of the gate.
pub trait AdminBackend: Send + Sync {
    /// All of `/status`. The dashboard is made from it too, and leaves out what is missing.
    fn status(&self) -> serde_json::Value;

    /// Whether the gate may take traffic.
    ///
    /// # Errors
    ///
    /// Why it may not, in a few words.
    fn ready(&self) -> Result<(), &'static str>;

    /// Reads gate.yaml again. It is driven to its end even if whoever asked leaves.
    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadAnswer> + Send + '_>>;

    /// Has no invitation sent from now on, or goes on. That is on disk when it returns.
    ///
    /// # Errors
    ///
    /// Why that can't be kept.
    fn pause_invitations(&self, paused: bool) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;

    /// Sets or clears the operator's mode, and says what is in force now.
    ///
    /// # Errors
    ///
    /// Why it cannot be set, naming field, value and bound.
    fn set_mode(&self, request: ModeRequest) -> Result<serde_json::Value, String>;
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadAnswer {
    /// The policy of the file is in force.
    Applied,
    /// The last good policy is in force; every error of the file.
    Rejected(Vec<String>),
}

/// Answers until `shutdown`, then lets the answers that are under way finish, for five seconds at most.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let (closing, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut places = Places::default();
    loop {
        let has_place = places.has_one();
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report_panic(ended),
            () = places.changed(), if !has_place => {}
            accepted = listener.accept(), if has_place => match accepted {
                Ok((stream, _peer)) => {
                    let place = places.take();
                    let connection = connections.spawn(connection(stream, Arc::clone(&state), Arc::clone(&place), closed.clone()));
                    places.hold(place, connection);
                    // each has its turn before it may have to go for others
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "admin listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(closing);
    let finished = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    };
    // what has not finished by then is dropped with the set
    let _in_time = tokio::time::timeout(FINISH_MAX, finished).await;
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    // one that was idle for too long is cancelled
    if let Err(error) = ended
        && !error.is_cancelled()
    {
        tracing::error!(%error, "an admin connection broke off");
    }
}

async fn connection(stream: TcpStream, state: Arc<AdminState>, place: Arc<Place>, mut closed: watch::Receiver<()>) {
    let service = service_fn(|request: Request<Incoming>| {
        let (state, place) = (Arc::clone(&state), Arc::clone(&place));
        // who has not asked to the end is idle
        if request.body().is_end_stream() {
            place.works();
        }
        async move {
            let answer = handle::answer(request, &state).await;
            place.rests();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return report_error(ended),
        _sender_gone = closed.changed() => {}
        () = tokio::time::sleep(AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(FINISH_MAX, connection).await {
        report_error(ended);
    }
}

fn report_error(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests;
