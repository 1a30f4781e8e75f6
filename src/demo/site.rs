//! A model of a legacy site, as a real HTTP/1.1 server: few workers, congestive collapse, and work that goes on after the visitor
//! has left.
//!
//! A worker is a running request, not a connection: connections are kept alive and cost nothing. The workers do not burn the
//! processor, they wait; so a model of any size runs beside the gate on one machine. Faults are set while it runs.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use super::portal;
use crate::clock::Clock;
use crate::models::random::Random;
use crate::models::sharing::{ProcessorSharing, Speed};
use crate::rules::time::Moment;

/// What the site is made of.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// Requests that run without slowing each other down, 1 or more.
    pub workers: u32,
    /// Mean time that a worker needs for a page.
    pub service: Duration,
    /// Standard deviation of that time as a share of the mean; log-normal. 0 is always the mean.
    pub service_variation: f64,
    /// Share of the speed lost for each further `workers` running requests.
    pub congestion: f64,
    /// Requests that run at a time at most.
    pub threads: usize,
    /// Requests that wait for a thread, first come first served. More are refused: their connection is closed.
    pub backlog: usize,
    /// Of the service times and the random failures.
    pub seed: u64,
}

impl Default for SiteSettings {
    /// Eight workers at 80 ms a page, so 100 pages a second, with the collapse of the research's model.
    fn default() -> Self {
        Self {
            workers: 8,
            service: Duration::from_millis(80),
            service_variation: 1.0,
            congestion: 0.15,
            threads: 256,
            backlog: 512,
            seed: 1,
        }
    }
}

impl SiteSettings {
    /// Pages a second that the site can give at best.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        f64::from(self.workers) / self.service.as_secs_f64()
    }
}

/// What is wrong with the site just now. The default is nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Whether it answers at all.
    pub health: Health,
    /// Every page takes so many times as long: 2 is half the speed.
    pub slowdown: f64,
    /// Share of the workers that are left: 0.5 is half of them.
    pub workers: f64,
    /// Share of pages that fail with 500 at once, without a worker.
    pub failing: f64,
    /// Pages whose path starts with this always fail with 500 at once.
    pub failing_prefix: Option<String>,
    /// Share of pages, always the same ones, that take [`SLOW`] more, as all under `/slow/` do.
    pub slow: f64,
    /// Where slow pages spend that time.
    pub slow_place: SlowPlace,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            health: Health::Alive,
            slowdown: 1.0,
            workers: 1.0,
            failing: 0.0,
            failing_prefix: None,
            slow: 0.0,
            slow_place: SlowPlace::Outside,
        }
    }
}

/// Whether the site answers at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Alive,
    /// Connections and requests are taken, and nothing moves until it is alive again.
    Hanging,
    /// Connections are closed without an answer.
    Refusing,
}

/// Where a slow page spends its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPlace {
    /// Before it gets a worker, as behind a slow back end that costs the site nothing.
    Outside,
    /// In a worker, which does nothing else.
    Inside,
}

/// What the site has done and is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCounts {
    /// Requests for pages, also those that fail or are refused.
    pub arrivals: u64,
    /// Pages for which the work is done, whether or not anyone was still there.
    pub completions: u64,
    /// Requests and connections closed without an answer.
    pub refused: u64,
    /// Running requests.
    pub running: usize,
    /// Requests that wait for a thread.
    pub backlog: usize,
}

/// The site, as seen by whoever runs it. Cheap to clone; every clone is the same site.
#[derive(Clone, Debug)]
pub struct Site(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: SiteSettings,
    clock: Arc<Clock>,
    faults: watch::Sender<Faults>,
    work: Mutex<Work>,
    /// A job has come in: the next completion may be another one.
    arrived: Notify,
    arrivals: AtomicU64,
    completions: AtomicU64,
    refused: AtomicU64,
}

/// The jobs, each with the request that waits for it.
#[derive(Debug)]
struct Work {
    jobs: ProcessorSharing<oneshot::Sender<()>>,
    random: Random,
}

impl Site {
    /// A site that is well, and does not serve yet.
    #[must_use]
    pub fn new(settings: SiteSettings, clock: Arc<Clock>) -> Self {
        let faults = Faults::default();
        let jobs = ProcessorSharing::new(speed(&settings, &faults), settings.threads, settings.backlog);
        let random = Random::seeded(settings.seed);
        Self(Arc::new(Shared {
            settings,
            clock,
            faults: watch::Sender::new(faults),
            work: Mutex::new(Work { jobs, random }),
            arrived: Notify::new(),
            arrivals: AtomicU64::new(0),
            completions: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Breaks or mends something, from now on.
    pub fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.0.faults.send_modify(change);
    }

    /// What is wrong just now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.0.faults.borrow().clone()
    }

    /// What the site is made of.
    #[must_use]
    pub fn settings(&self) -> &SiteSettings {
        &self.0.settings
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn counts(&self) -> SiteCounts {
        let work = self.0.work();
        SiteCounts {
            arrivals: self.0.arrivals.load(Ordering::Relaxed),
            completions: self.0.completions.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            running: work.jobs.running(),
            backlog: work.jobs.backlog(),
        }
    }

    /// Serves until `stop` is ready; then every connection is closed.
    ///
    /// # Errors
    /// When connections can't be accepted for a reason that does not pass.
    pub async fn serve(&self, listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        let mut workers = JoinSet::new();
        let shared = self.0.clone();
        workers.spawn(async move { shared.run_workers().await });
        loop {
            let stream = tokio::select! {
                () = &mut stop => return Ok(()),
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) if passes(&error) => {
                        // out of descriptors, as a rule: connections that end give some back
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            if self.0.faults.borrow().health == Health::Refusing {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            connections.spawn(serve_connection(self.0.clone(), stream));
        }
    }
}

async fn serve_connection(site: Arc<Shared>, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { site.answer(request).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEPT_ALIVE)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // a visitor who leaves, and a request that is refused, end a connection with an error: neither is the model's business
    drop(served);
}

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct NoAnswer;

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let arrived = self.clock.moment();
        if self.faults.borrow().health == Health::Refusing {
            return Err(self.refuse());
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if method == Method::POST && path == "/apply" {
            let bytes = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await.map_err(|_| NoAnswer)?.to_bytes().len();
            return self.page(arrived, &path, |took| portal::received(bytes, took)).await;
        }
        if method != Method::GET && method != Method::HEAD {
            return Ok(answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n"));
        }
        if let Some((number, slow)) = page_number(&path) {
            return self.page(arrived, &path, |took| portal::page(number, slow, took)).await;
        }
        // these need no worker, but a site that hangs gives nothing
        self.alive().await;
        Ok(match path.as_str() {
            "/healthz" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/static/app.css" => answer(StatusCode::OK, "text/css", portal::STYLE),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        })
    }

    async fn page(&self, arrived: Moment, path: &str, html: impl FnOnce(Duration) -> String) -> Result<Response<Full<Bytes>>, NoAnswer> {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults.borrow().clone();
        if self.fails(&faults, path) {
            return Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, HTML, portal::FAILED));
        }
        let slow = path.starts_with(SLOW_PREFIX) || share_of(path) < faults.slow;
        let more = match (slow, faults.slow_place) {
            (false, _) => Duration::ZERO,
            (true, SlowPlace::Inside) => SLOW,
            (true, SlowPlace::Outside) => {
                tokio::time::sleep(SLOW).await;
                Duration::ZERO
            }
        };
        let done = self.start(more)?;
        if done.await.is_err() {
            return Err(NoAnswer);
        }
        Ok(answer(StatusCode::OK, HTML, html(self.clock.moment().since(arrived))))
    }

    fn fails(&self, faults: &Faults, path: &str) -> bool {
        let always = faults.failing_prefix.as_ref().is_some_and(|prefix| path.starts_with(prefix.as_str()));
        always || (faults.failing > 0.0 && self.work().random.chance(faults.failing))
    }

    /// Gives a page to the workers. It is worked off whether or not anyone waits for what comes back.
    fn start(&self, more: Duration) -> Result<oneshot::Receiver<()>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let now = self.clock.moment();
        let arrived = {
            let work = &mut *self.work();
            let service_s = work.random.log_normal(self.settings.service.as_secs_f64(), self.settings.service_variation);
            work.jobs.arrive(now, service_s + more.as_secs_f64(), sender)
        };
        if arrived.is_err() {
            return Err(self.refuse());
        }
        self.arrived.notify_one();
        Ok(receiver)
    }

    fn refuse(&self) -> NoAnswer {
        self.refused.fetch_add(1, Ordering::Relaxed);
        NoAnswer
    }

    /// One timer for all workers: hands out what is done, and sleeps until the next page is.
    async fn run_workers(&self) -> Infallible {
        let mut faults = self.faults.subscribe();
        loop {
            let speed = speed(&self.settings, &faults.borrow_and_update());
            let next = self.finish(self.clock.moment(), speed);
            let next_is_due = async {
                match next {
                    Some(next) => tokio::time::sleep(next.since(self.clock.moment())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_is_due => {}
                () = self.arrived.notified() => {}
                changed = faults.changed() => {
                    // the sender lives in `self`
                    debug_assert!(changed.is_ok());
                }
            }
        }
    }

    fn finish(&self, now: Moment, speed: Speed) -> Option<Moment> {
        let mut work = self.work();
        work.jobs.set_speed(now, speed);
        for waiting in work.jobs.advance(now) {
            self.completions.fetch_add(1, Ordering::Relaxed);
            // the visitor may have left: the work was done all the same
            let _: Result<(), ()> = waiting.send(());
        }
        work.jobs.next_completion()
    }

    async fn alive(&self) {
        let mut faults = self.faults.subscribe();
        // the sender lives in `self`
        drop(faults.wait_for(|faults| faults.health != Health::Hanging).await);
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn speed(settings: &SiteSettings, faults: &Faults) -> Speed {
    let each = match faults.health {
        Health::Hanging => 0.0,
        Health::Alive | Health::Refusing => 1.0 / faults.slowdown.max(f64::MIN_POSITIVE),
    };
    let workers = f64::from(settings.workers.max(1)) * faults.workers;
    if workers > 0.0 {
        Speed { workers, congestion: settings.congestion, each }
    } else {
        // no worker is a site that stands still
        Speed { workers: 1.0, congestion: settings.congestion, each: 0.0 }
    }
}

/// The number in `/page/N` and `/slow/N`, 0 for the front page, and whether it is a slow one.
fn page_number(path: &str) -> Option<(u64, bool)> {
    if path == "/" {
        return Some((0, false));
    }
    let (number, slow) = path.strip_prefix("/page/").map(|rest| (rest, false)).or_else(|| Some((path.strip_prefix(SLOW_PREFIX)?, true)))?;
    Some((number.parse().ok().filter(|number| *number <= portal::PAGES)?, slow))
}

/// Where a path stands among all paths, in [0, 1): always the same, so that a slow page stays one.
fn share_of(path: &str) -> f64 {
    let hash = path.bytes().fold(0, |hash: u64, byte| hash.rotate_left(8) ^ Random::seeded(hash ^ u64::from(byte)).bits());
    Random::seeded(hash).unit()
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Whether accepting may work again: the one connection was lost, or descriptors or memory are short.
fn passes(error: &io::Error) -> bool {
    // of accept(2): EMFILE 24, ENFILE 23, ENOBUFS 105, ENOMEM 12
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}

/// What a slow page takes beyond its service time.
pub const SLOW: Duration = Duration::from_secs(3);

const SLOW_PREFIX: &str = "/slow/";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// An idle connection is kept a little longer than browsers and proxies keep theirs, so that the other side closes it.
const KEPT_ALIVE: Duration = Duration::from_secs(75);

/// The smallest buffer that hyper allows: thousands of connections are open.
const BUFFER_BYTES: usize = 8192;

const FORM_BYTES_MAX: usize = 64 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use std::net::SocketAddr;

    async fn site(settings: SiteSettings) -> (Site, SocketAddr, JoinSet<()>) {
        let site = Site::new(settings, Arc::new(Clock::start()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        let server = site.clone();
        running.spawn(async move { server.serve(listener, std::future::pending()).await.unwrap() });
        (site, address, running)
    }

    fn quick() -> SiteSettings {
        SiteSettings { service: Duration::from_millis(1), ..SiteSettings::default() }
    }

    async fn send(address: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Empty if there is none: the connection was closed or reset.
    async fn answer_of(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        answer_of(send(address, &request(path)).await).await
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n")
    }

    async fn until(condition: impl Fn() -> bool) {
        let reached = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap();
    }

    #[tokio::test]
    async fn serves_a_portal() {
        let (site, address, _running) = site(quick()).await;
        assert!(get(address, "/").await.contains("Welcome to the Benefits Portal"));
        assert!(get(address, "/page/7").await.contains("Form 7: "));
        assert!(get(address, "/healthz").await.ends_with("ok\n"));
        assert!(get(address, "/static/app.css").await.contains("text/css"));
        assert!(get(address, "/page/x").await.starts_with("HTTP/1.1 404"));
        let post = "POST /apply HTTP/1.1\r\nHost: site\r\nConnection: close\r\nContent-Length: 6\r\n\r\ncase=1";
        assert!(answer_of(send(address, post).await).await.contains("6 bytes"));
        assert_eq!((site.counts().arrivals, site.counts().completions), (3, 3), "only pages need a worker");
    }

    #[tokio::test]
    async fn works_on_for_a_visitor_who_has_left() {
        let (site, address, _running) = site(quick()).await;
        site.change(|faults| faults.health = Health::Hanging);
        let visitor = send(address, &request("/")).await;
        until(|| site.counts().running == 1).await;
        drop(visitor);
        site.change(|faults| faults.health = Health::Alive);
        until(|| site.counts().completions == 1).await;
        assert_eq!(site.counts().running, 0);
    }

    #[tokio::test]
    async fn closes_the_connection_when_threads_and_backlog_are_full() {
        let (site, address, _running) = site(SiteSettings { threads: 2, backlog: 1, ..quick() }).await;
        site.change(|faults| faults.health = Health::Hanging);
        let mut patient = Vec::new();
        for arrivals in 1..=3 {
            patient.push(send(address, &request("/")).await);
            until(|| site.counts().arrivals == arrivals).await;
        }
        assert_eq!((site.counts().running, site.counts().backlog, site.counts().refused), (2, 1, 0));
        assert_eq!(get(address, "/").await, "");
        assert_eq!(site.counts().refused, 1);
        site.change(|faults| faults.health = Health::Alive);
        for visitor in patient {
            assert!(answer_of(visitor).await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn fails_at_once_and_without_a_worker() {
        let (site, address, _running) = site(quick()).await;
        site.change(|faults| faults.failing_prefix = Some("/page/1".to_owned()));
        assert!(get(address, "/page/12").await.starts_with("HTTP/1.1 500"));
        assert!(get(address, "/page/2").await.starts_with("HTTP/1.1 200"));
        site.change(|faults| faults.failing = 1.0);
        assert!(get(address, "/page/2").await.starts_with("HTTP/1.1 500"));
        assert_eq!((site.counts().arrivals, site.counts().completions), (3, 1));
        site.change(|faults| faults.health = Health::Refusing);
        assert_eq!(get(address, "/healthz").await, "");
    }

    #[tokio::test]
    async fn slow_pages_take_their_time_inside_a_worker_or_outside() {
        let (site, address, _running) = site(quick()).await;
        let visitor = send(address, &request("/slow/1")).await;
        until(|| site.counts().arrivals == 1).await;
        assert_eq!(site.counts().running, 0, "waits outside");
        drop(visitor);
        site.change(|faults| faults.slow_place = SlowPlace::Inside);
        let _visitor = send(address, &request("/slow/1")).await;
        until(|| site.counts().running == 1).await;
    }

    #[test]
    fn faults_change_the_speed() {
        let settings = SiteSettings::default();
        assert!((settings.capacity() - 100.0).abs() < 1e-9);
        let total = |faults| speed(&settings, &faults).total(16);
        let well = total(Faults::default());
        assert!((well - 8.0 / 1.15).abs() < 1e-9);
        assert!((total(Faults { slowdown: 2.0, ..Faults::default() }) - well / 2.0).abs() < 1e-9);
        assert!((total(Faults { workers: 0.5, ..Faults::default() }) - 4.0 / 1.45).abs() < 1e-9);
        assert!(total(Faults { workers: 0.0, ..Faults::default() }).abs() < 1e-9);
        assert!(total(Faults { health: Health::Hanging, ..Faults::default() }).abs() < 1e-9);
    }

    #[test]
    fn the_same_share_of_pages_is_always_slow() {
        let slow: Vec<u32> = (0..1000).filter(|number| share_of(&format!("/page/{number}")) < 0.1).collect();
        assert!((70..130).contains(&slow.len()), "{}", slow.len());
        assert!((share_of("/page/1") - share_of("/page/1")).abs() < f64::MIN_POSITIVE);
    }

    #[test]
    fn only_pages_that_exist_have_a_number() {
        assert_eq!(page_number("/"), Some((0, false)));
        assert_eq!(page_number("/page/40"), Some((40, false)));
        assert_eq!(page_number("/slow/3"), Some((3, true)));
        for path in ["/page/41", "/page/", "/page/-1", "/page/1/2", "/pages", ""] {
            assert_eq!(page_number(path), None, "{path}");
        }
    }
}
