//! Reload: reads gate.yaml, the templates, the certificates, the keys and the admin token again, and publishes them together, or not at
//! all.
//!
//! Content is polled, not watched: a watch on a file that is swapped by a symbolic link (a Kubernetes ConfigMap) fires once and never
//! again, and none works on NFS. A content counts once it was read twice the same, so that half a file is not taken for a policy.
//!
//! Always holds: what is rejected changes nothing. All of it blocks on the disk: run it where that is allowed.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clock::Clock;
use crate::config;
use crate::gate::Gate;
use crate::metrics::{Count, Gauge, Metrics, ReloadResult};
use crate::page::{EmailTerms, LETTER_FILES_MAX, LetterFile, Pages, TEMPLATE_BYTES_MAX};
use crate::rules::concurrency::LIMIT_MAX;
use crate::rules::keyring::Keyring;
use crate::rules::policy::{Https, MaxInFlight, Policy, UpstreamTls};
use crate::rules::time::UnixTime;
use crate::store::{self, chain};
use crate::tls;
use crate::tls::client::ClientTls;
use crate::tls::server::Certificates;

/// Puts new policies in force.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    parts: Parts,
    state: Mutex<State>,
    /// Apart from the state, which is held for as long as a reload takes: who asks how the last one ended waits for none.
    outcome: Mutex<Outcome>,
}

/// What a new policy is published to.
#[derive(Clone)]
pub struct Parts {
    /// The gate.
    pub gate: Arc<Gate>,
    /// What shows certificates to visitors.
    pub tls: Option<Arc<tls::server::Server>>,
    /// What else follows the policy. Given by who wires, since siblings don't know each other.
    pub follow: Follow,
    /// Where reloads are counted.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Arc<Clock>,
}

/// Gets ready for a policy, and what its TLS to the site needs, before the gate has it: whatever takes a while, or may fail. What is
/// returned takes it over, and is called once the gate has it.
pub type Follow = Arc<dyn Fn(&Arc<Policy>, Option<ClientTls>) -> Result<TakeOver, String> + Send + Sync>;

/// See [`Follow`].
pub type TakeOver = Box<dyn FnOnce()>;

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("gate", &self.gate).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    /// The policy that was last read, whose files are watched; in force or not.
    read: Arc<Policy>,
    /// What was last applied or rejected.
    settled: Seen,
    /// What the last poll saw.
    seen: Seen,
}

/// What a policy's file looked like. Taken before it is read: what changes while it is read is taken in next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFile(Option<u64>);

impl SeenFile {
    /// As it looks now.
    #[must_use]
    pub fn now(path: &Path) -> Self {
        Self(fingerprint(path))
    }
}

/// What all the files looked like, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    file: SeenFile,
    template: Option<u64>,
    letters: Option<u64>,
    certificates: Option<u64>,
    upstream_tls: Option<u64>,
    keys: Option<u64>,
    token: Option<u64>,
}

/// How the last reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When a policy was last put in force.
    pub applied_at: UnixTime,
    /// Why the last attempt was rejected; empty if it was not.
    pub errors: Vec<String>,
}

impl Reloader {
    /// A reloader of the file that the gate was started with, when all looked as in `seen`.
    #[must_use]
    pub fn new(path: PathBuf, seen: Seen, parts: Parts) -> Self {
        let applied_at = parts.clock.now().wall;
        parts.metrics.set(Gauge::ConfigLastApplied, seconds(applied_at));
        let read = Arc::clone(&parts.gate.regime().policy);
        let outcome = Outcome { applied_at, errors: Vec::new() };
        Self { path, parts, state: Mutex::new(State { read, settled: seen, seen }), outcome: Mutex::new(outcome) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the last reload ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.last().clone()
    }

    /// Reloads if the files have changed since they were last taken in, and have settled.
    pub fn poll(&self) {
        // not while the state is held: who reloads by hand meanwhile does not wait for it
        let read = Arc::clone(&self.state().read);
        let now = Seen::of(SeenFile::now(&self.path), &read);
        let mut state = self.state();
        let stood_still = state.seen == now;
        state.seen = now;
        if now != state.settled && stood_still {
            drop(self.take_in(&mut state));
        }
    }

    /// Reloads now.
    ///
    /// # Errors
    /// Every reason why the file was rejected.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        self.take_in(&mut self.state())
    }

    fn take_in(&self, state: &mut State) -> Result<(), Vec<String>> {
        let file = SeenFile::now(&self.path);
        let result = match config::load(&self.path) {
            Ok(policy) => {
                // it may name other files than the last one, and if one of them is no good, it is worth another look when that changes
                let policy = Arc::new(policy);
                state.settled = Seen::of(file, &policy);
                state.read = Arc::clone(&policy);
                self.apply(&policy)
            }
            Err(errors) => {
                state.settled = Seen::of(file, &state.read);
                Err(errors.problems().iter().map(ToString::to_string).collect())
            }
        };
        state.seen = state.settled;
        let shard = self.parts.metrics.control();
        match &result {
            Ok(()) => {
                let applied_at = self.parts.clock.now().wall;
                *self.last() = Outcome { applied_at, errors: Vec::new() };
                shard.count(Count::Reload(ReloadResult::Applied));
                self.parts.metrics.set(Gauge::ConfigLastApplied, seconds(applied_at));
                tracing::info!(path = %self.path.display(), "policy applied");
            }
            Err(errors) => {
                self.last().errors.clone_from(errors);
                shard.count(Count::Reload(ReloadResult::Rejected));
                for error in errors {
                    tracing::error!(error, "policy rejected, the last good one serves on");
                }
            }
        }
        result
    }

    fn apply(&self, policy: &Arc<Policy>) -> Result<(), Vec<String>> {
        let old = Arc::clone(&self.parts.gate.regime().policy);
        let fixed = config::needs_restart(&old, policy);
        if !fixed.is_empty() {
            return Err(fixed.into_iter().map(|what| format!("{}: {what}", self.path.display())).collect());
        }
        let pages = load_pages(policy).map_err(|error| vec![error])?;
        let certificates = load_certificates(policy).map_err(|error| vec![error])?;
        let upstream_tls = load_upstream_tls(policy).map_err(|error| vec![error])?;
        make_room_for_connections(policy).map_err(|error| vec![error])?;
        let take_over = (self.parts.follow)(policy, upstream_tls).map_err(|error| vec![error])?;
        let keys = self.keys(policy);
        self.parts.gate.publish(Arc::clone(policy), keys, Arc::new(pages), self.parts.clock.now());
        if let Some((tls, certificates)) = self.parts.tls.as_ref().zip(certificates) {
            tls.show(certificates);
        }
        take_over();
        Ok(())
    }

    /// The keys as they are now; the old ones if they can't be read, since those still verify every visitor's token.
    fn keys(&self, policy: &Policy) -> Arc<Keyring> {
        match store::load_keys(&policy.data) {
            Ok(keys) => Arc::new(keys),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the keys could not be read, the old ones serve on");
                Arc::clone(&self.parts.gate.regime().keys)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// A policy's file as it looked before it was read, and those that it names as they look now.
    #[must_use]
    pub fn of(file: SeenFile, policy: &Policy) -> Self {
        Self {
            file,
            template: policy.waiting_room.template.as_deref().and_then(fingerprint),
            letters: policy.invitations.templates.as_deref().and_then(|path| letter_files(path).ok()).map(|files| hash(&files)),
            certificates: policy.listen.https.as_ref().map(|https| hash(&certificate_files(https).map(fingerprint).collect::<Vec<_>>())),
            upstream_tls: policy.upstream.tls.as_ref().map(|tls| hash(&upstream_tls_files(tls).map(fingerprint).collect::<Vec<_>>())),
            keys: store::keys_fingerprint(&policy.data).ok(),
            token: policy.admin.token_file.as_deref().and_then(fingerprint),
        }
    }

    /// The same with the keys that the first start has just made, if there were none.
    #[must_use]
    pub fn with_keys(self, policy: &Policy) -> Self {
        Self { keys: self.keys.or_else(|| store::keys_fingerprint(&policy.data).ok()), ..self }
    }
}

fn certificate_files(https: &Https) -> impl Iterator<Item = &Path> {
    std::iter::once(&https.first).chain(&https.further).flat_map(|files| [files.certificate.as_path(), files.key.as_path()])
}

fn upstream_tls_files(tls: &UpstreamTls) -> impl Iterator<Item = &Path> {
    let identity = tls.identity.iter().flat_map(|files| [&files.certificate, &files.key]);
    tls.ca.iter().chain(identity).map(PathBuf::as_path)
}

fn fingerprint(path: &Path) -> Option<u64> {
    std::fs::read(path).ok().map(|content| hash(&content))
}

fn hash(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact")]
fn seconds(time: UnixTime) -> f64 {
    (time.as_millis() / 1000) as f64
}

/// The pages of a policy: the built-in ones, or with the operator's template and letters.
///
/// # Errors
/// Why a template can't be used, with its file and line.
pub fn load_pages(policy: &Policy) -> Result<Pages, String> {
    let invites = policy.invitations.outgoing().is_some();
    let email = policy.email_queue.enabled.then_some(EmailTerms { retention: policy.email_queue.retention, invites });
    let pages = match &policy.waiting_room.template {
        None => Pages::new(None, email).map_err(|error| chain(&error))?,
        Some(path) => {
            let name = path.display().to_string();
            let source = std::fs::read_to_string(path).map_err(|error| format!("waiting_room.template: {name}: {error}"))?;
            Pages::new(Some((&name, &source)), email).map_err(|error| format!("waiting_room.template: {}", chain(&error)))?
        }
    };
    let Some(path) = &policy.invitations.templates else { return Ok(pages) };
    let files = letter_files(path).map_err(|error| format!("invitations.templates: {error}"))?;
    pages.with_letters(&files).map_err(|error| format!("invitations.templates: {}", chain(&error)))
}

/// The certificates of a policy, if it listens with TLS.
///
/// # Errors
/// Which file can't be used, and why.
pub fn load_certificates(policy: &Policy) -> Result<Option<Certificates>, String> {
    let Some(https) = &policy.listen.https else { return Ok(None) };
    Certificates::load(&https.first, &https.further).map(Some).map_err(|error| format!("listen.https: {error}"))
}

/// What TLS to the site needs; `None` if its servers are spoken to in plaintext.
///
/// # Errors
/// Why a file of it can't be used.
pub fn load_upstream_tls(policy: &Policy) -> Result<Option<ClientTls>, String> {
    policy.upstream.tls.as_ref().map(ClientTls::load).transpose().map_err(|error| chain(&error))
}

/// The operator's letters, by name. What editors and mounts leave in a directory, hidden or ending with `~`, is passed over.
fn letter_files(directory: &Path) -> Result<Vec<LetterFile>, String> {
    let because = |path: &Path| {
        let name = path.display().to_string();
        move |error: std::io::Error| format!("{name}: {error}")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(because(directory))? {
        let entry = entry.map_err(because(directory))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with('.') || file.ends_with('~') {
            continue;
        }
        let path = entry.path();
        let mut source = String::new();
        // one byte more than is taken, so that a file that is too large is seen to be
        let most = u64::try_from(TEMPLATE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        File::open(&path).and_then(|file| file.take(most).read_to_string(&mut source)).map_err(because(&path))?;
        files.push(LetterFile { name: path.display().to_string(), file, source });
        if files.len() > LETTER_FILES_MAX {
            return Err(format!("{}: holds more than {LETTER_FILES_MAX} files", directory.display()));
        }
    }
    if files.is_empty() {
        return Err(format!("{}: holds no text, such as en.txt", directory.display()));
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(files)
}

/// Descriptors beside those of connections: files, listeners, runtimes, the admin listener's clients.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises `RLIMIT_NOFILE` to what the policy's connections need, on both sides.
///
/// # Errors
/// The hard limit is lower.
pub fn make_room_for_connections(policy: &Policy) -> Result<(), String> {
    let servers = policy.upstream.servers.len() as u64;
    let servers = match policy.upstream.max_in_flight {
        MaxInFlight::Fixed(per_server) => servers * u64::from(per_server),
        // a limit that is found goes no further than there are requests
        MaxInFlight::Auto => (servers * u64::from(LIMIT_MAX)).min(policy.limits.connections as u64),
    };
    // a WebSocket's connection to the site is beside those
    let upgrades = policy.limits.upgrades.min(policy.limits.connections) as u64;
    let towards_site = servers + upgrades;
    let needed = policy.limits.connections as u64 + towards_site + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let hard = limit.maximum;
    let raised = Rlimit { current: Some(hard.map_or(needed, |hard| hard.min(needed))), maximum: hard };
    if hard.is_some_and(|hard| hard < needed) || setrlimit(Resource::Nofile, raised).is_err() {
        let most = hard.unwrap_or(0).saturating_sub(towards_site + OTHER_DESCRIPTORS);
        let hard = hard.map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
        return Err(format!(
            "limits.connections: {} needs {needed} file descriptors, and RLIMIT_NOFILE is {hard}: raise it (LimitNOFILE= in systemd, \
             ulimit -n in a shell), or set limits.connections to {most} or less",
            policy.limits.connections
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::gate::Remembered;
    use crate::store::Store;
    use crate::store::scratch::Scratch;

    fn write(directory: &Scratch, file: &str, content: &str) -> PathBuf {
        let path = directory.path().join(file);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A gate that tells `follow` of each policy that it takes in. `meanwhile` happens when it has read its files, and before it runs.
    fn reloader(directory: &Scratch, meanwhile: impl FnOnce(), follow: impl Fn() + Clone + Send + Sync + 'static) -> Reloader {
        let yaml = "upstream: { servers: [http://127.0.0.1:9] }\nwaiting_room: { template: room.html }\n";
        let path = write(directory, "gate.yaml", yaml);
        let file = SeenFile::now(&path);
        let policy = config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let seen = Seen::of(file, &policy);
        let clock = Arc::new(Clock::start());
        let keys = Store::open(&policy.data).unwrap().keys(clock.now().wall).unwrap();
        let seen = seen.with_keys(&policy);
        let pages = load_pages(&policy).unwrap();
        let gate = Gate::new(Arc::new(policy), Arc::new(keys), Arc::new(pages), Remembered::default(), 1, clock.now());
        let metrics = Arc::new(Metrics::new(1).unwrap());
        meanwhile();
        let follow: Follow = Arc::new(move |_, _| Ok(Box::new(follow.clone())));
        Reloader::new(path, seen, Parts { gate: Arc::new(gate), tls: None, follow, metrics, clock })
    }

    const ROOM: &str = "<!doctype html><p>Please wait</p>";

    /// Polls until what has changed was read twice the same, and once more.
    fn poll(reloader: &Reloader) {
        for _ in 0..3 {
            reloader.poll();
        }
    }

    #[test]
    fn what_changes_while_it_is_taken_in_is_taken_in_next() {
        let directory = Scratch::new();
        let room = write(&directory, "room.html", ROOM);
        let applied = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&applied);
        let follow = move || {
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                std::fs::write(&room, format!("{ROOM}<p>The second")).unwrap();
            }
        };
        let reloader = reloader(&directory, || {}, follow);
        let applied_after_polls = || {
            poll(&reloader);
            poll(&reloader);
            applied.load(Ordering::Relaxed)
        };
        assert_eq!(applied_after_polls(), 0, "nothing has changed");
        write(&directory, "room.html", &format!("{ROOM}<p>The first"));
        assert_eq!(applied_after_polls(), 2, "the second was written when the first was read already");
        assert_eq!(applied_after_polls(), 2, "and is in force");
        assert!(reloader.outcome().errors.is_empty());
    }

    #[test]
    fn what_changes_while_the_gate_starts_is_taken_in() {
        let directory = Scratch::new();
        let room = write(&directory, "room.html", ROOM);
        let applied = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&applied);
        let meanwhile = || std::fs::write(&room, format!("{ROOM}<p>Another")).unwrap();
        let reloader = reloader(&directory, meanwhile, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        poll(&reloader);
        assert_eq!(applied.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_file_that_is_named_before_it_is_there_is_taken_in_when_it_is() {
        let directory = Scratch::new();
        write(&directory, "room.html", ROOM);
        let reloader = reloader(&directory, || {}, || {});
        let upstream = "upstream: { servers: [http://127.0.0.1:9] }";
        write(&directory, "gate.yaml", &format!("{upstream}\nwaiting_room: {{ template: later.html }}\n"));
        poll(&reloader);
        assert!(reloader.outcome().errors[0].contains("later.html"), "{:?}", reloader.outcome().errors);
        write(&directory, "later.html", ROOM);
        poll(&reloader);
        assert_eq!(reloader.outcome().errors, [""; 0]);
    }
}
