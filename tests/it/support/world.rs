//! A gate in this process, on ports and in a directory of its own.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use tidegate::app::{self, Running, Start};
use tidegate::clock::Clock;
use tidegate::config;
use tidegate::reload::SeenFile;

use super::client::{Answer, Client};
use super::until;

/// A gate that runs, and all that belongs to it. It ends when it is dropped.
pub(crate) struct World {
    /// Where visitors come in.
    pub(crate) http: SocketAddr,
    /// Where they come in with TLS.
    pub(crate) https: Option<SocketAddr>,
    /// Where the operator comes in.
    pub(crate) admin: SocketAddr,
    /// The gate; `None` only while the world ends.
    pub(crate) running: Option<Running>,
    directory: PathBuf,
}

impl World {
    /// Starts a gate by this policy, in which `data` and the addresses need not stand. One worker, unless `listen.workers` says more.
    #[track_caller]
    pub(crate) fn start(yaml: &str) -> Self {
        Self::prepared(yaml, |_| {})
    }

    /// The same, with files that are put into its directory first.
    #[track_caller]
    pub(crate) fn prepared(yaml: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::listening(yaml, prepare, |_| {})
    }

    /// The same, and the gate's kernel keeps little of what a client does not take.
    #[track_caller]
    pub(crate) fn narrow(yaml: &str, prepare: impl FnOnce(&Path)) -> Self {
        // what is accepted has it from the listener
        Self::listening(yaml, prepare, |socket| SockRef::from(socket).set_send_buffer_size(4096).unwrap())
    }

    #[track_caller]
    fn listening(yaml: &str, prepare: impl FnOnce(&Path), sized: impl Fn(&TcpListener)) -> Self {
        Self::on(yaml, prepare, |workers| app::listen("listen.http", ANY, workers).unwrap(), sized)
    }

    /// The same, and each worker has a port of its own, so that a test can say which one a client comes to.
    #[track_caller]
    pub(crate) fn apart(yaml: &str) -> (Self, Vec<SocketAddr>) {
        let ports = RefCell::new(Vec::new());
        let alone = |workers| {
            let listeners: Vec<_> = (0..workers).map(|_| app::listen_alone("listen.http", ANY).unwrap()).collect();
            ports.borrow_mut().extend(listeners.iter().map(|listener| listener.local_addr().unwrap()));
            listeners
        };
        let world = Self::on(yaml, |_| {}, alone, |_| {});
        (world, ports.into_inner())
    }

    #[track_caller]
    fn on(yaml: &str, prepare: impl FnOnce(&Path), http: impl Fn(usize) -> Vec<TcpListener>, sized: impl Fn(&TcpListener)) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tidegate-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        prepare(&directory);
        let file = directory.join("gate.yaml");
        std::fs::write(&file, yaml).unwrap();
        let seen = SeenFile::now(&file);
        let policy = config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let http = http(policy.listen.workers.unwrap_or(1));
        let workers = policy.listen.https.as_ref().map_or(0, |_| http.len());
        let https = app::listen("listen.https.address", ANY, workers).unwrap();
        http.iter().chain(&https).for_each(sized);
        let admin = app::listen_alone("admin.listen", ANY).unwrap();
        let running = app::start(Start { policy, file: Some((file, seen)), clock: Arc::new(Clock::start()), http, https, admin }).unwrap();
        Self { http: running.http, https: running.https, admin: running.admin_address, running: Some(running), directory }
    }

    /// A gate in front of one site that lets everyone in; `more` is further YAML.
    #[track_caller]
    pub(crate) fn open(upstream: &str, more: &str) -> Self {
        Self::start(&format!("upstream: {{ servers: [{upstream}] }}\nadmission: {{ mode: open }}\n{more}"))
    }

    /// Its gate.yaml.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("gate.yaml")
    }

    /// Its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The directory of both.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new client.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.http)
    }

    /// A GET on a connection of its own, with these header lines.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.client().get(path, headers)
    }

    /// A pass: the header line of a visitor who was let in. Only if newcomers are.
    #[track_caller]
    pub(crate) fn pass(&self) -> String {
        self.get("/", &["Accept: text/html"]).pass()
    }

    /// A GET on the operator's side.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.admin);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin));
        client.answer()
    }

    /// A POST on the operator's side.
    #[track_caller]
    pub(crate) fn admin_post(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin);
        let host = self.admin;
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer()
    }

    /// What the operator is told. Unlike the gauges of the metrics, which move once a second, it is as of now.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.admin("/status").body).unwrap()
    }

    /// Waits until a number of the status, such as `/slots/queue`, is this.
    #[track_caller]
    pub(crate) fn until_status(&self, pointer: &str, wanted: u64) {
        until(pointer, || self.status().pointer(pointer).and_then(serde_json::Value::as_u64).filter(|&found| found == wanted));
    }

    /// Waits until so many requests wait for a slot.
    #[track_caller]
    pub(crate) fn until_queued(&self, count: u64) {
        self.until_status("/slots/queue", count);
    }

    /// A metric by its name and labels, as they are scraped; 0 if it is not there.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// A counter by its name and labels, as it is scraped; 0 if it is not there.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> usize {
        let text = self.admin("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// How many requests ended so at the site.
    #[track_caller]
    pub(crate) fn outcomes(&self, outcome: &str) -> usize {
        self.count(&format!("tidegate_upstream_outcomes_total{{outcome=\"{outcome}\"}}"))
    }

    /// Waits until a metric is as it should be.
    #[track_caller]
    pub(crate) fn until_metric(&self, name: &str, is_right: impl Fn(f64) -> bool) -> f64 {
        until(name, || Some(self.metric(name)).filter(|&value| is_right(value)))
    }
}

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Drop for World {
    fn drop(&mut self) {
        drop(self.running.take());
        // left behind, it is in the way of nobody
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
