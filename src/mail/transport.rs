//! How a message leaves: over SMTP, or into a directory.
//!
//! The stages of a conversation are gone through one by one, since what a refusal means depends on where it comes: the greeting, the login
//! and the sender are the same for every message, so what fails there says nothing of this one and the caller waits as a whole; only
//! what is said of the recipient or of the content can be a reason to give a message up.
//!
//! Always holds: one call makes at most one copy. A message is given anew to a fresh connection only if it is certain that none of it
//! was sent, which is so until its content is on its way: a connection that was kept open may have been closed by the server meanwhile.
//! What breaks after that is [`NotSent::Unclear`], and the caller decides. No reason holds an address or a secret.
//!
//! Absent: retries, and when they are due (the ledger's owner knows); lettre's pool, which does not tell at which stage it failed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use tokio::sync::Semaphore;

use crate::rules::policy::{Delivery, Login, MailServer, Security};
use crate::rules::time::Moment;

use super::message::Message;
use super::spool;

/// Sends messages. Connections to a mail server are kept for the next one.
#[derive(Debug)]
pub(super) struct Transport {
    way: Way,
    patience: Duration,
}

#[derive(Debug)]
enum Way {
    Smtp(Box<Smtp>),
    Spool(PathBuf),
}

/// Why a transport can't be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// The password can't be read, or is none.
    #[error("invitations.password_file: {}: {reason}", path.display())]
    Password {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it; not what is in it.
        reason: String,
    },
    /// No TLS.
    #[error("invitations.smtp: {label}: TLS can't be set up")]
    Tls {
        /// The server, as the operator wrote it.
        label: String,
        /// Why.
        source: lettre::transport::smtp::Error,
    },
    /// No certificate of a mail server could hold.
    #[error("invitations.smtp: {label}: the system trusts no certificates: install them (ca-certificates), or name them in SSL_CERT_FILE")]
    NobodyTrusted {
        /// The server, as the operator wrote it.
        label: String,
    },
    /// The directory can't be made, or is none.
    #[error("invitations.spool: {}", path.display())]
    Spool {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a message was not sent, as far as is known. The reason is one short line for logs and the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// Not now.
    Deferred {
        /// Why.
        reason: String,
        /// Whether it is about the server, or about us to it, and so the next message would fare no better.
        server: bool,
    },
    /// The connection broke, or nothing came any more, after the content was sent: it may have been taken. If it is sent again, it may be
    /// there twice, with one `Message-ID`. It is about the server.
    Unclear {
        /// Why.
        reason: String,
    },
    /// Never: the recipient or the content is refused.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Transport {
    /// Reads the password, makes the directory.
    ///
    /// # Errors
    /// Which of them it can't, and why.
    pub(super) fn new(delivery: &Delivery) -> Result<Self, TransportError> {
        let way = match delivery {
            Delivery::Smtp { server, login } => Way::Smtp(Box::new(Smtp::new(server, login.as_ref())?)),
            Delivery::Spool(path) => {
                spool::make(path).map_err(|source| TransportError::Spool { path: path.clone(), source })?;
                Way::Spool(path.clone())
            }
        };
        Ok(Self { way, patience: PATIENCE })
    }

    /// Sends a message; when this returns `Ok`, the server or the disk has it.
    ///
    /// # Errors
    /// Why it was not sent.
    pub(super) async fn send(&self, message: &Message, now: Moment) -> Result<(), NotSent> {
        match &self.way {
            Way::Smtp(smtp) => smtp.send_in_turn(message, now, self.patience).await,
            Way::Spool(directory) => {
                let (directory, message) = (directory.clone(), message.clone());
                // a disk that hangs must not hold up who comes with a code
                let written = tokio::task::spawn_blocking(move || spool::write(&directory, &message)).await;
                let written = written.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
                written.map_err(|error| NotSent::Deferred { reason: format!("the spool: {error}"), server: true })
            }
        }
    }

    /// Begins with no message any more: what has not begun is deferred.
    pub(super) fn stop(&self) {
        match &self.way {
            Way::Smtp(smtp) => smtp.turns.close(),
            Way::Spool(_) => {}
        }
    }
}

/// A mail server, and the connections to it that are not in use.
struct Smtp {
    server: MailServer,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    idle: Mutex<Vec<Idle>>,
    /// For as many as may be connected.
    turns: Semaphore,
    /// How often the server has failed.
    failures: AtomicU64,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Moment,
}

impl Smtp {
    fn new(server: &MailServer, login: Option<&Login>) -> Result<Self, TransportError> {
        let tls = match server.security {
            Security::Plaintext => None,
            Security::StartTls | Security::Tls => Some(tls(server)?),
        };
        let credentials = login.map(credentials).transpose()?;
        let (turns, failures) = (Semaphore::new(CONNECTIONS_MAX), AtomicU64::new(0));
        Ok(Self { server: server.clone(), tls, credentials, idle: Mutex::default(), turns, failures })
    }

    /// Waits until a connection may be made or is free. If the server fails meanwhile, it is not tried with this message too.
    async fn send_in_turn(&self, message: &Message, now: Moment, patience: Duration) -> Result<(), NotSent> {
        let before = self.failures.load(Ordering::Relaxed);
        let Ok(_turn) = self.turns.acquire().await else {
            return Err(NotSent::Deferred { reason: "the gate has stopped".to_owned(), server: true });
        };
        if self.failures.load(Ordering::Relaxed) != before {
            return Err(NotSent::Deferred { reason: "the mail server has failed with a message before this one".to_owned(), server: true });
        }
        let result = self.send(message, now, Deadline::new(patience)).await;
        if matches!(result, Err(NotSent::Deferred { server: true, .. } | NotSent::Unclear { .. })) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn send(&self, message: &Message, now: Moment, mut deadline: Deadline) -> Result<(), NotSent> {
        if let Some(connection) = self.unpark(now) {
            match self.give(connection, message, now, &mut deadline).await {
                Err(Broken { stage, why }) if stage < Stage::Content && why.is_closed() => {}
                result => return result.map_err(|broken| broken.judge(message)),
            }
        }
        let given = match self.connect(&mut deadline).await {
            Ok(connection) => self.give(connection, message, now, &mut deadline).await,
            Err(broken) => Err(broken),
        };
        given.map_err(|broken| broken.judge(message))
    }

    /// Up to where a message can be given.
    async fn connect(&self, deadline: &mut Deadline) -> Result<AsyncSmtpConnection, Broken> {
        let hello = ClientId::default();
        let MailServer { host, port, security, .. } = &self.server;
        let tls = self.tls.clone().filter(|_| *security == Security::Tls);
        let connecting = AsyncSmtpConnection::connect_tokio1((host.as_str(), *port), Some(CONNECT), &hello, tls, None);
        let mut connection = deadline.within(Stage::Greeting, connecting).await?;
        if let (Security::StartTls, Some(tls)) = (security, &self.tls) {
            if !connection.can_starttls() {
                return Err(Broken::of_ours(Stage::StartTls, "it does not offer STARTTLS: nothing is sent in plaintext"));
            }
            deadline.within(Stage::StartTls, connection.starttls(tls.clone(), &hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            deadline.within(Stage::Login, connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }

    /// Gives it a message, and keeps the connection if it is still of use.
    async fn give(
        &self,
        mut connection: AsyncSmtpConnection,
        message: &Message,
        now: Moment,
        deadline: &mut Deadline,
    ) -> Result<(), Broken> {
        let result = converse(&mut connection, message, deadline).await;
        let again = match &result {
            Ok(()) | Err(Broken { why: Why::NoUtf8, .. }) => true,
            // what was said of this message must not be taken for the beginning of the next
            Err(Broken { why: why @ Why::Refused { .. }, .. }) if !why.is_closed() => {
                deadline.within(Stage::Reset, connection.command(Rset)).await.is_ok()
            }
            Err(_) => false,
        };
        if again {
            self.park(connection, now);
        }
        result
    }

    fn park(&self, connection: AsyncSmtpConnection, since: Moment) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since });
        }
    }

    /// The one that was in use last: it is the least likely to be closed.
    fn unpark(&self, now: Moment) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle();
        idle.retain(|idle| now.since(idle.since) <= IDLE_FOR_MAX);
        idle.pop().map(|idle| idle.connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("server", &self.server).field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

async fn converse(connection: &mut AsyncSmtpConnection, message: &Message, deadline: &mut Deadline) -> Result<(), Broken> {
    let mut parameters = Vec::new();
    if needs_utf8(message) {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Broken { stage: Stage::Recipient, why: Why::NoUtf8 });
        }
        parameters = vec![MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)];
    }
    deadline.within(Stage::Sender, connection.command(Mail::new(message.path.from().cloned(), parameters))).await?;
    for to in message.path.to() {
        deadline.within(Stage::Recipient, connection.command(Rcpt::new(to.clone(), Vec::new()))).await?;
    }
    deadline.within(Stage::Data, connection.command(Data)).await?;
    deadline.grow();
    deadline.within(Stage::Content, connection.message(&message.bytes)).await?;
    Ok(())
}

/// RFC 6531: an address that is not ASCII, in the envelope and in a header.
fn needs_utf8(message: &Message) -> bool {
    !message.bytes.is_ascii()
}

/// Where a conversation is. In its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Greeting,
    StartTls,
    Login,
    Sender,
    Recipient,
    Data,
    Content,
    Reset,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the connection to the mail server",
            Self::StartTls => "STARTTLS",
            Self::Login => "the login",
            Self::Sender => "the sender",
            Self::Recipient => "the recipient",
            Self::Data => "the beginning of the message",
            Self::Content => "the message",
            Self::Reset => "the end of the message",
        })
    }
}

/// Where and why a conversation ended.
#[derive(Debug)]
struct Broken {
    stage: Stage,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// The server has said no.
    Refused { code: u16, text: String },
    /// The connection broke, or what came over it was not SMTP.
    Broke(String),
    /// Nothing came in time.
    Late(Duration),
    /// The server takes no addresses outside ASCII, and this is one.
    NoUtf8,
    /// We went no further.
    Ours(&'static str),
}

impl Why {
    /// Whether the server has closed the connection: 421 says that it does.
    const fn is_closed(&self) -> bool {
        matches!(self, Self::Broke(_) | Self::Refused { code: 421, .. })
    }
}

impl Broken {
    const fn of_ours(stage: Stage, reason: &'static str) -> Self {
        Self { stage, why: Why::Ours(reason) }
    }

    fn new(stage: Stage, error: &lettre::transport::smtp::Error) -> Self {
        let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let why = error.status().map_or_else(|| Why::Broke(text.clone()), |code| Why::Refused { code: code.into(), text: text.clone() });
        Self { stage, why }
    }

    /// What it means for this message.
    fn judge(self, message: &Message) -> NotSent {
        let Self { stage, why } = self;
        match why {
            Why::NoUtf8 => NotSent::Failed { reason: "the mail server takes no addresses outside ASCII (SMTPUTF8)".to_owned() },
            Why::Ours(reason) => NotSent::Deferred { reason: format!("{stage}: {reason}"), server: true },
            Why::Late(patience) => {
                let reason = format!("{stage}: no answer within {} s", patience.as_secs_f64());
                // a server can take long over one recipient, and then it is not to hold the others up
                if stage >= Stage::Content {
                    NotSent::Unclear { reason }
                } else {
                    NotSent::Deferred { reason, server: stage != Stage::Recipient }
                }
            }
            Why::Broke(text) => {
                let reason = format!("{stage}: {}", redacted(&text, message));
                if stage >= Stage::Content { NotSent::Unclear { reason } } else { NotSent::Deferred { reason, server: true } }
            }
            Why::Refused { code, text } => {
                let status = enhanced(&text);
                // a server may say the name back, or worse
                let said = if stage == Stage::Login {
                    status.map(|_| text.split(' ').next().unwrap_or_default().to_owned())
                } else {
                    Some(redacted(&text, message))
                };
                let reason = format!("{stage}: {code} {}", said.unwrap_or_default()).trim_end().to_owned();
                match verdict(stage, code, status, needs_utf8(message)) {
                    Verdict::Server => NotSent::Deferred { reason, server: true },
                    Verdict::Later => NotSent::Deferred { reason, server: false },
                    Verdict::Never => NotSent::Failed { reason },
                }
            }
        }
    }
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server, or us to it: every message would fare so.
    Server,
    /// This message, now.
    Later,
    /// This message, always.
    Never,
}

/// By the code (RFC 5321, 4.2.2) and the subject of the enhanced one (RFC 3463).
fn verdict(stage: Stage, code: u16, status: Option<[u16; 3]>, utf8: bool) -> Verdict {
    let subject = status.map(|[_, subject, detail]| (subject, detail));
    match (stage, code) {
        // refused for what its recipient is, and not for who sends it
        (Stage::Sender, 500..) if utf8 => Verdict::Later,
        (Stage::Greeting | Stage::StartTls | Stage::Login | Stage::Sender, _) | (_, 421) => Verdict::Server,
        // it does not know the command, or wants us to log in first: it is not what we take it for
        (_, 500 | 502..=504 | 521 | 530 | 534 | 535 | 538) => Verdict::Server,
        (_, ..500) if matches!(subject, Some((3, _))) => Verdict::Server,
        (_, ..500) => Verdict::Later,
        // 5.3 is the state of the server, but for a message that is too large
        (_, _) if matches!(subject, Some((3, detail)) if detail != 4) => Verdict::Server,
        // 5.7 is policy: we may not relay, or are on a list. To give all up for that would empty the queue by a wrong setting
        (_, _) if matches!(subject, Some((7, _))) => Verdict::Later,
        (_, _) => Verdict::Never,
    }
}

/// `5.1.1` at the beginning of a reply.
fn enhanced(text: &str) -> Option<[u16; 3]> {
    let mut parts = text.split_whitespace().next()?.split('.').map(|part| part.parse().ok());
    let status = [parts.next()??, parts.next()??, parts.next()??];
    (parts.next().is_none() && matches!(status[0], 4 | 5)).then_some(status)
}

/// What a server has said, short, on one line, and without what it says back of the recipient.
fn redacted(text: &str, message: &Message) -> String {
    let locals: Vec<String> = message.path.to().iter().map(|to| to.user().to_lowercase()).collect();
    let names_one = |word: &str| {
        let word = word.to_lowercase();
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.contains('@')
            || word.contains("%40")
            || locals.iter().any(|local| bare == local || (local.len() >= LOCAL_BYTES_MIN && word.contains(local.as_str())))
    };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let said: Vec<&str> = words.map(|word| if names_one(word) { "…" } else { word }).collect();
    said.join(" ").chars().take(REASON_CHARS_MAX).collect()
}

/// The time of one message.
struct Deadline {
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    patience: Duration,
    /// For the answer to the content there is more.
    grows: bool,
}

impl Deadline {
    fn new(patience: Duration) -> Self {
        Self { over: Box::pin(tokio::time::sleep(patience)), patience, grows: true }
    }

    /// Once the content is sent, to give up may mean to send it twice: servers look into it first, and have ten minutes (RFC 5321,
    /// 4.5.3.2.6).
    fn grow(&mut self) {
        if self.grows {
            *self = Self::new(self.patience * CONTENT_FACTOR);
        }
    }

    /// lettre has a timeout of its own, which is over as soon as there is a connection.
    async fn within<T>(
        &mut self,
        stage: Stage,
        step: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
    ) -> Result<T, Broken> {
        tokio::select! {
            biased;
            result = step => result.map_err(|error| Broken::new(stage, &error)),
            () = &mut self.over => Err(Broken { stage, why: Why::Late(self.patience) }),
        }
    }
}

/// What a server's certificate is checked by.
fn tls(server: &MailServer) -> Result<TlsParameters, TransportError> {
    let label = || server.label.clone();
    // found now, and not when the first invitation is due
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        return Err(TransportError::NobodyTrusted { label: label() });
    }
    TlsParameters::new(server.host.clone()).map_err(|source| TransportError::Tls { label: label(), source })
}

fn credentials(Login { username, password_file }: &Login) -> Result<Credentials, TransportError> {
    let fail = |reason: String| TransportError::Password { path: password_file.clone(), reason };
    let content = read_bounded(password_file).map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8(content).map_err(|_| fail("is not UTF-8".to_owned()))?;
    let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        return Err(fail("is empty".to_owned()));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(fail(format!("is longer than {PASSWORD_BYTES_MAX} bytes")));
    }
    if password.chars().any(char::is_control) {
        return Err(fail("holds more than one line, or another control character".to_owned()));
    }
    Ok(Credentials::new(username.clone(), password.to_owned()))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // room for the end of its line, and one byte more, so that a file that is too large is seen to be
    let most = u64::try_from(PASSWORD_BYTES_MAX + 3).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut content)?;
    Ok(content)
}

/// For one message, from the first packet to the last answer: servers that look a recipient up take some seconds, and one that takes a
/// minute is of no use.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many times as long for the answer to a content.
const CONTENT_FACTOR: u32 = 10;

/// To one address of a server: if that doesn't answer, another may. Longer than it takes to say something twice to the other side of
/// the earth.
const CONNECT: Duration = Duration::from_secs(10);

/// Connections to the server. Some let no more than five wait to be accepted (OpenSMTPD), and then the kernel of the server's machine forgets
/// one that we take for made: no greeting ever comes, and that looks like a server that hangs.
const CONNECTIONS_MAX: usize = 5;

/// Messages go one by one or few at a time.
const IDLE_MAX: usize = 4;

/// Servers keep one for some minutes (RFC 5321 says five), routers in between forget it sooner.
const IDLE_FOR_MAX: Duration = Duration::from_secs(30);

/// Passwords of machines are long; a file that is longer is another file.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Shorter names stand in other words by chance.
const LOCAL_BYTES_MIN: usize = 3;

/// Of a server's own words: some say a paragraph.
const REASON_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests;
