//! The email queue at work: one thread writes down what visitors post, many rows with one sync of the disk, and answers only then. Another
//! invites them back when the site has room, and lets in who comes with a code.
//!
//! Always holds: who was told that an address is taken finds it on disk, and nobody waits for the disk but those who post or redeem. What
//! either thread says has happened is in files that a crash leaves whole.
//!
//! Absent: pages and forms (`proxy/`), the files themselves (`store/email_queue`), and when and whom to invite (`rules/pacing.rs`).

mod handing;
mod invitations;
mod inviter;
mod message;
mod rows;
mod spool;
mod tickets;
mod transport;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::rules::email::Address;
use crate::rules::keyring::AddressHash;
use crate::rules::policy::{Delivery, EmailQueue, Invitations as InvitationsPolicy};
use crate::rules::token::VisitorId;
use crate::store::{StoreError, chain};

use transport::Transport;
use writer::{Command, Job, Writer};

pub use invitations::{Invitations, InviterParts, NotOpen, Standing, WhyNone};

/// The email queue, shared by all workers. Its thread ends when it is dropped, after what was posted is written.
#[derive(Debug)]
pub struct Mail {
    posts: SyncSender<Command>,
    settings: Arc<Settings>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What of the policy the thread follows.
#[derive(Debug, Default)]
struct Settings {
    enabled: AtomicBool,
    retention_s: AtomicU64,
}

impl Settings {
    fn follow(&self, policy: &EmailQueue) {
        self.enabled.store(policy.enabled, Ordering::Relaxed);
        self.retention_s.store(policy.retention.as_secs(), Ordering::Relaxed);
    }
}

/// What the thread works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `data`
    pub data: PathBuf,
    /// How addresses are told apart.
    pub hash: AddressHash,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Where it is shown how the queue stands.
    pub metrics: Arc<Metrics>,
    /// Where it is told how many addresses the queue holds.
    pub addresses: Arc<AtomicU64>,
}

/// What a visitor has posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Where to write to.
    pub address: Address,
    /// The language that the browser asks for first.
    pub language: Option<String>,
    /// The page asked for: path and query, of this site.
    pub path: Option<String>,
    /// The ticket that it came with.
    pub ticket: VisitorId,
    /// The keyed hash of the client's prefix.
    pub client: u64,
}

/// Why an address was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The ticket has brought `email_queue.addresses_per_ticket` addresses already.
    TicketFull,
    /// It can't be written down now.
    Unavailable,
}

/// Posts that wait to be written down; more are told that it can't be done now.
const POSTS_MAX: usize = 4096;

/// A post that a disk has not taken in this time is told so. It may be written all the same.
const PATIENCE: Duration = Duration::from_secs(10);

impl Mail {
    /// Starts the thread. It reads the queue first; what is posted meanwhile waits.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(parts: Parts, policy: &EmailQueue) -> std::io::Result<Self> {
        let (posts, commands) = sync_channel(POSTS_MAX);
        let settings = Arc::<Settings>::default();
        settings.follow(policy);
        let writer = Writer::new(parts, Arc::clone(&settings));
        let thread = std::thread::Builder::new().name("tidegate-mail".to_owned()).spawn(move || writer.run(&commands))?;
        Ok(Self { posts, settings, thread: Mutex::new(Some(thread)) })
    }

    /// Takes over a new policy. The thread sees it when it looks around next, within a second.
    pub fn apply(&self, policy: &EmailQueue) {
        self.settings.follow(policy);
    }

    /// Takes an address. When this returns, it is on disk; an address that is there already is taken once. `per_ticket` is
    /// `email_queue.addresses_per_ticket`.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn post(&self, posted: Posted, per_ticket: u32) -> Result<(), NotTaken> {
        let (answer, answered) = oneshot::channel();
        self.posts.try_send(Command::Post(Job { posted, per_ticket, answer })).map_err(|_| NotTaken::Unavailable)?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(NotTaken::Unavailable),
        }
    }

    /// Writes down what was posted, and ends the thread. Who posts from now on is told that it can't be done.
    pub fn end(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // it takes what is in front of this first
        self.posts.send(Command::End).ok();
        if thread.join().is_err() {
            tracing::error!("the thread of the email queue has panicked");
        }
    }
}

/// Whether invitations could be handed over, as far as that can be told without a mail server: the password, and the system's roots of trust.
///
/// # Errors
/// Why not.
pub fn check(policy: &InvitationsPolicy) -> Result<(), String> {
    match policy.outgoing().map(|outgoing| outgoing.delivery) {
        Some(delivery @ Delivery::Smtp { .. }) => Transport::new(delivery).map(drop).map_err(|error| chain(&error)),
        Some(Delivery::Spool(_)) | None => Ok(()),
    }
}

/// Whether the disk has failed, last: a change is logged, and not each failure.
#[derive(Clone, Copy, Debug, Default)]
struct Failing(bool);

impl Failing {
    fn note(&mut self, error: Option<&StoreError>, fails: &'static str, works: &'static str) {
        let was = std::mem::replace(&mut self.0, error.is_some());
        match error {
            Some(error) if !was => tracing::error!(error = %chain(error), "{fails}"),
            None if was => tracing::info!("{works}"),
            Some(_) | None => {}
        }
    }

    const fn is(self) -> bool {
        self.0
    }
}

/// A random number.
fn random() -> Option<u64> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(u64::from_be_bytes(bytes))
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::metrics::Gauge;
    use crate::rules::keyring::{Key, Keyring, SiteSecret};
    use crate::rules::time::UnixTime;
    use crate::store::email_queue::{Forget, directory_of, forget};
    use crate::store::scratch::Scratch;

    const POLICY: EmailQueue =
        EmailQueue { enabled: true, retention: Duration::from_secs(86_400), posts_per_client: 60, addresses_per_ticket: 3 };

    fn start(data: &Path, policy: &EmailQueue) -> (Mail, Arc<Metrics>) {
        let (mail, metrics, _) = start_counting(data, policy);
        (mail, metrics)
    }

    fn start_counting(data: &Path, policy: &EmailQueue) -> (Mail, Arc<Metrics>, Arc<AtomicU64>) {
        let keys = Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(UnixTime::from_secs(0), [2; 32])]).unwrap();
        let (metrics, addresses) = (Arc::new(Metrics::new(1).unwrap()), Arc::<AtomicU64>::default());
        let parts = Parts {
            data: data.to_owned(),
            hash: keys.address_hash(),
            clock: Arc::new(Clock::start()),
            metrics: Arc::clone(&metrics),
            addresses: Arc::clone(&addresses),
        };
        (Mail::start(parts, policy).unwrap(), metrics, addresses)
    }

    fn posted(address: &str, ticket: u64) -> Posted {
        let path = Some("/apply".to_owned());
        Posted { address: Address::parse(address).unwrap(), language: None, path, ticket: VisitorId(ticket), client: 7 }
    }

    fn post(mail: &Mail, address: &str, ticket: u64) -> Result<(), NotTaken> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(mail.post(posted(address, ticket), POLICY.addresses_per_ticket))
    }

    /// The lines of all files.
    fn lines(data: &Path) -> Vec<String> {
        let files = fs::read_dir(directory_of(data)).unwrap().map(|file| file.unwrap().path());
        let rows = files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        rows.flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..6000 {
            if is_so() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("{what}: not within a minute");
    }

    #[test]
    fn many_who_post_at_once_are_all_on_disk_when_they_are_told() {
        let scratch = Scratch::new();
        let (mail, metrics, addresses) = start_counting(scratch.path(), &POLICY);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let posts: Vec<_> = (0..500u64).map(|n| (n, posted(&format!("{}@example.org", n % 250), n))).collect();
            let mail = &mail;
            let all = posts.into_iter().map(|(_, posted)| mail.post(posted, 3));
            for answer in futures(all).await {
                assert_eq!(answer, Ok(()));
            }
        });
        let rows = lines(scratch.path());
        assert_eq!(rows.len(), 250);
        assert!(rows[0].contains("\"email\":\"0@example.org\"") && rows[0].contains("\"path\":\"/apply\""), "{}", rows[0]);
        until("the gauge", || metrics.gauge(Gauge::EmailWritable) > 0.5);
        until("the count", || addresses.load(Ordering::Relaxed) == 250);
        assert_eq!(forget(scratch.path(), Forget::Address(&Address::parse("0@example.org").unwrap())).unwrap(), 1);
        until("the count after one was erased", || addresses.load(Ordering::Relaxed) == 249);
        assert_eq!(post(&mail, "0@example.org", 1), Ok(()));
        mail.end();
        assert_eq!(post(&mail, "late@example.org", 1), Err(NotTaken::Unavailable));
        drop(mail);
        let (mail, _) = start(scratch.path(), &POLICY);
        assert_eq!((post(&mail, "7@example.org", 1), post(&mail, "new@example.org", 1)), (Ok(()), Ok(())));
        assert_eq!(lines(scratch.path()).len(), 251);
    }

    /// All of them, side by side.
    async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut all: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
        std::future::poll_fn(|context| {
            for (future, result) in all.iter_mut().filter(|(_, result)| result.is_none()) {
                if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                    *result = Some(value);
                }
            }
            if all.iter().all(|(_, result)| result.is_some()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        all.into_iter().filter_map(|(_, result)| result).collect()
    }

    #[test]
    fn a_ticket_may_bring_some_addresses_and_the_same_one_as_often_as_it_likes() {
        let scratch = Scratch::new();
        let (mail, _) = start(scratch.path(), &POLICY);
        for address in ["a@example.org", "b@example.org", "A@example.org", "c@example.org", "c@example.org"] {
            assert_eq!(post(&mail, address, 1), Ok(()));
        }
        assert_eq!(post(&mail, "d@example.org", 1), Err(NotTaken::TicketFull));
        assert_eq!(post(&mail, "d@example.org", 2), Ok(()));
        assert_eq!(post(&mail, "d@example.org", 1), Err(NotTaken::TicketFull), "also if someone else has brought it");
        assert_eq!(lines(scratch.path()).len(), 4);
    }

    #[test]
    fn while_nothing_can_be_written_it_says_so_and_then_goes_on() {
        let scratch = Scratch::new();
        // a file in the place of the directory
        let directory = directory_of(scratch.path());
        fs::write(&directory, "").unwrap();
        let (mail, metrics) = start(scratch.path(), &POLICY);
        assert_eq!(post(&mail, "a@example.org", 1), Err(NotTaken::Unavailable));
        until("the gauge", || metrics.gauge(Gauge::EmailWritable) < 0.5);
        fs::remove_file(&directory).unwrap();
        until("the gauge", || metrics.gauge(Gauge::EmailWritable) > 0.5);
        assert_eq!(post(&mail, "a@example.org", 1), Ok(()));
        assert_eq!(lines(scratch.path()).len(), 1);
    }

    #[test]
    fn a_disk_that_hangs_keeps_nobody_waiting_for_long() {
        let scratch = Scratch::new();
        let (mail, _) = start(scratch.path(), &POLICY);
        assert_eq!(post(&mail, "a@example.org", 1), Ok(()));
        // another process is at the files, and does not end
        let lock = fs::File::open(directory_of(scratch.path()).join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(post(&mail, "b@example.org", 1), Err(NotTaken::Unavailable));
        drop(lock);
        assert_eq!(post(&mail, "b@example.org", 1), Ok(()));
        assert_eq!(lines(scratch.path()).len(), 2, "written once");
    }

    #[test]
    fn a_queue_that_nobody_uses_makes_no_directory_and_an_old_one_is_kept_in_order() {
        let scratch = Scratch::new();
        let off = EmailQueue { enabled: false, ..POLICY };
        drop(start(scratch.path(), &off));
        assert!(!directory_of(scratch.path()).exists());
        let directory = directory_of(scratch.path());
        fs::create_dir(&directory).unwrap();
        let row = "{\"v\":1,\"id\":\"0000000000000001\",\"at\":\"2020-01-31T08:00:00Z\",\"email\":\"ann@example.org\",\
                   \"ticket\":\"0000000000000007\",\"client\":\"0000000000000008\"}\n";
        fs::write(directory.join("2020-01-31.jsonl"), row).unwrap();
        let (_mail, _) = start(scratch.path(), &off);
        until("what is too old to be deleted", || lines(scratch.path()).is_empty());
    }
}
