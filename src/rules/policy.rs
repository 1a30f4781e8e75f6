//! The policy: what the operator asked for, valid by construction. `config/` makes it from gate.yaml; every later room trusts it.
//!
//! Absent: anything that is measured (that is the regime's) and anything that is read from another file (keys, templates, token, password).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::patience::Patience;
use super::routes::Routes;
use super::time::UnixTime;

/// The effective policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where visitors come in. Changing it needs a restart.
    pub listen: Listen,
    /// Where the operator comes in.
    pub admin: Admin,
    /// The directory of keys, state and the email queue. Changing it needs a restart.
    pub data: PathBuf,
    /// The site.
    pub upstream: Upstream,
    /// Who gets in.
    pub admission: Admission,
    /// How long those who are in stay in.
    pub session: Session,
    /// Which paths are gated.
    pub routes: Routes,
    /// What those who wait see.
    pub waiting_room: WaitingRoom,
    /// The email queue.
    pub email_queue: EmailQueue,
    /// Invitations.
    pub invitations: Invitations,
    /// Revocations.
    pub bypass: Bypass,
    /// Whose `X-Forwarded-*` is believed.
    pub client: Client,
    /// Bounds on what clients may use.
    pub limits: Limits,
    /// How to stop.
    pub shutdown: Shutdown,
    /// What to log.
    pub log: Log,
}

/// `listen`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address of the plaintext listener.
    pub http: SocketAddr,
    /// The TLS listener.
    pub https: Option<Https>,
    /// Worker threads; `None` is one a core.
    pub workers: Option<usize>,
    /// Trusted proxies begin a connection with a PROXY header. Only where there are any.
    pub proxy_protocol: bool,
}

impl Listen {
    /// Listeners for visitors of each worker: one in plaintext, and one with TLS if there is one.
    #[must_use]
    pub const fn listeners_of_worker(&self) -> usize {
        if self.https.is_some() { 2 } else { 1 }
    }
}

/// `listen.https`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Https {
    /// Address of the TLS listener. Changing it needs a restart.
    pub address: SocketAddr,
    /// Shown to who names no host, or one that is on no certificate.
    pub first: CertificateFiles,
    /// `certificates`: shown to who names a host that is on one of them.
    pub further: Vec<CertificateFiles>,
    /// Plaintext requests for these hosts are sent to TLS.
    pub redirect: Vec<RedirectHost>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// One of `listen.https.redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectHost {
    /// The host alone, in lower case: compared with that of a request.
    pub host: String,
    /// What the link names: the host, and the port if one was written.
    pub authority: String,
}

/// `admin`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address of the admin listener. Changing it needs a restart.
    pub listen: SocketAddr,
    /// File with the bearer token; always set where `listen` is not a loopback address.
    pub token_file: Option<PathBuf>,
}

/// `upstream`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The servers, at least one, no two the same.
    pub servers: Vec<Server>,
    /// How all of them are spoken to over TLS; `None` if they are in plaintext.
    pub tls: Option<UpstreamTls>,
    /// Whether HTTP/2 is spoken to servers that offer it.
    pub http2: UpstreamHttp2,
    /// Slots of each server: requests in flight and idle connections together.
    pub max_in_flight: MaxInFlight,
    /// The slot queue.
    pub queue: SlotQueue,
    /// Timeouts towards the site.
    pub timeouts: Timeouts,
    /// Read-ahead, so that slow clients hold no slot.
    pub buffer: Buffer,
}

/// `upstream.http2`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHttp2 {
    /// With those that agree on it in the TLS handshake.
    Auto,
    /// With none.
    Off,
}

impl UpstreamHttp2 {
    /// As gate.yaml names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// `upstream.max_in_flight`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxInFlight {
    /// Found from outside, and followed.
    Auto,
    /// As the operator says.
    Fixed(u32),
}

/// `upstream.tls`, of servers named `https://`. Their certificates are always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// File with the certificates that theirs must come from; else what the system trusts.
    pub ca: Option<PathBuf>,
    /// Name or address that their certificates must be for; else the host of each.
    pub server_name: Option<String>,
    /// Who we are to them.
    pub identity: Option<CertificateFiles>,
}

/// One upstream server, from `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Name or address, without brackets.
    pub host: String,
    /// Port; if none was written, 443 for `https` and else 80.
    pub port: u16,
    /// As the operator wrote it: the `server` label of metrics.
    pub label: String,
    /// `host`, or `host:port` if the port is not that of its scheme: the Host of a request that came without one.
    pub authority: String,
}

/// `upstream.queue`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotQueue {
    /// The longest that a request with a safe method waits for a slot.
    pub deadline: Duration,
    /// The most requests that wait for a slot.
    pub length: usize,
}

/// `upstream.timeouts`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To make a connection.
    pub connect: Duration,
    /// Between the request and the response head, and between two parts of a response body.
    pub response: Duration,
    /// How long an idle connection is kept.
    pub idle: Duration,
}

/// `upstream.buffer`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Of a request body, before a slot is taken.
    pub request: usize,
    /// Of a response body, ahead of the client.
    pub response: usize,
}

/// `admission`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// Who decides the probability.
    pub mode: Mode,
    /// Who of the waiting is next.
    pub order: Order,
    /// Work kept waiting for a slot while limiting.
    pub queue_wait: Duration,
    /// Newcomers a second that are let in even when the site gives no answer.
    pub probe_rate: f64,
}

/// `admission.mode`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// The law decides.
    Auto,
    /// Everyone is let in, and gets a pass.
    Open,
    /// No draw is won; those who are in stay in.
    Closed,
    /// The operator's probability.
    Fixed(f64),
    /// Decides and counts as `Auto` does, and carries none of it out: nobody is diverted, refused or held up.
    Observe,
}

impl Mode {
    /// The word for it in gate.yaml.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Fixed(_) => "fixed",
            Self::Observe => "observe",
        }
    }
}

/// `admission.order`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A draw each epoch, with odds that grow.
    Lottery,
    /// First come first served across epochs.
    Arrival,
}

impl Order {
    /// The word for it in gate.yaml.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lottery => "lottery",
            Self::Arrival => "arrival",
        }
    }
}

/// `session`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// A pass seen within this time is an active visitor.
    pub active: Duration,
    /// A pass not seen for this long has ended.
    pub idle: Duration,
    /// A pass ends this long after it was issued.
    pub limit: Duration,
    /// Requests of one pass at the upstream at a time.
    pub in_flight: u32,
    /// Gated requests of one pass a minute.
    pub rate: u32,
    /// Admitted passes issued before this have ended.
    pub not_before: Option<UnixTime>,
    /// Cookie domain, if passes hold for its subdomains too.
    pub domain: Option<String>,
}

/// `waiting_room`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRoom {
    /// Status of a waiting answer: 200, 202, 429 or 503.
    pub status: u16,
    /// The refresh interval of a small crowd.
    pub refresh: Duration,
    /// The refresh interval of a large crowd; at least `refresh`.
    pub refresh_max: Duration,
    /// Operator's template, else the built-in page.
    pub template: Option<PathBuf>,
}

/// `email_queue`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmailQueue {
    /// Whether addresses are taken.
    pub enabled: bool,
    /// How long a row is kept.
    pub retention: Duration,
    /// Posts of one client prefix a minute.
    pub posts_per_client: u32,
    /// Addresses of one ticket.
    pub addresses_per_ticket: u32,
}

/// `invitations`
#[derive(Clone, Debug, PartialEq)]
pub struct Invitations {
    /// What a link in an email, or from `mint`, starts with; no trailing slash.
    pub site_url: Option<String>,
    /// Who invitations come from.
    pub from: Option<Sender>,
    /// How invitations leave; where it is set, so are `from` and `site_url`.
    pub delivery: Option<Delivery>,
    /// Directory of the operator's texts, else the built-in ones.
    pub templates: Option<PathBuf>,
    /// Invite while the load is under this.
    pub below: f64,
    /// And has been for so long.
    pub settle: Duration,
    /// Invitations a second at most.
    pub rate: f64,
    /// Share of the capacity left over that invitations may fill.
    pub share: f64,
    /// Share of the invited that is expected to come.
    pub expected_redemption: f64,
    /// How long a code holds.
    pub expires: Duration,
}

impl Invitations {
    /// All that sending needs; `None` if nothing is to be sent.
    #[must_use]
    pub fn outgoing(&self) -> Option<Outgoing<'_>> {
        Some(Outgoing { delivery: self.delivery.as_ref()?, from: self.from.as_ref()?, site_url: self.site_url.as_deref()? })
    }
}

/// [`Invitations::outgoing`]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// How an invitation leaves.
    pub delivery: &'a Delivery,
    /// Who it comes from.
    pub from: &'a Sender,
    /// What its links start with.
    pub site_url: &'a str,
}

/// `invitations.from`: an address, alone or as `Name <address>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// What stands before the address, without quotes.
    pub name: Option<String>,
    /// The address, in ASCII.
    pub address: String,
    /// As the operator wrote it.
    pub label: String,
}

/// How an invitation leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `invitations.smtp`
    Smtp {
        /// The mail server.
        server: MailServer,
        /// Who we are to it. Never set where it would go over a network in plaintext.
        login: Option<Login>,
    },
    /// `invitations.spool`: a directory of messages that the operator's own tools send.
    Spool(PathBuf),
}

/// `invitations.smtp`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailServer {
    /// Name or address, without brackets.
    pub host: String,
    /// Port; if none was written, 465 for `smtps` and else 587.
    pub port: u16,
    /// Whether others on the way can read along.
    pub security: Security,
    /// As the operator wrote it.
    pub label: String,
}

/// What is between us and the mail server. Certificates are always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing: `smtp://` to this machine, or `smtp+plaintext://` to any.
    Plaintext,
    /// TLS after a greeting in plaintext, and nothing without it: `smtp://` to another machine.
    StartTls,
    /// TLS from the first byte: `smtps://`.
    Tls,
}

/// `invitations.username` and `invitations.password_file`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Name for the mail server.
    pub username: String,
    /// File with the password for it.
    pub password_file: PathBuf,
}

/// `bypass`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// Revoked passes and batches.
    pub revoked: Vec<Revoked>,
    /// Staff and invited passes issued before this have ended.
    pub not_before: Option<UnixTime>,
}

/// One entry of `bypass.revoked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// 16 hexadecimal digits: one pass.
    Pass(u64),
    /// `batch-` and 8 hexadecimal digits: every pass of a batch.
    Batch(u32),
}

/// `client`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `limits`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections from clients.
    pub connections: usize,
    /// Of one client prefix, once they run short.
    pub connections_per_client: usize,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// From the first byte of a request head to its last.
    pub header_timeout: Duration,
    /// Without a byte of a request body, or of an answer that is there.
    pub body_timeout: Duration,
    /// Bytes a second of either, over time; 0 is no limit.
    pub min_rate: usize,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For a TLS handshake, from its first byte to its last.
    pub handshake_timeout: Duration,
    /// WebSockets at a time.
    pub upgrades: usize,
    /// Without a byte either way over a WebSocket.
    pub upgrade_idle: Duration,
    /// Bytes of all body buffers together.
    pub buffer_memory: usize,
    /// Tickets given to one client prefix a minute.
    pub tickets_per_client: u32,
}

impl Limits {
    /// How long one is waited for who owes a piece of a body, or does not take one.
    #[must_use]
    pub const fn patience(&self) -> Patience {
        Patience { longest: self.body_timeout, rate: self.min_rate }
    }
}

/// `shutdown`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Between health going down and the listener closing.
    pub delay: Duration,
    /// For requests in flight to finish.
    pub deadline: Duration,
}

/// `log`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// Share of requests in the access log: 0 is off, 1 is all.
    pub access: f64,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// Readable.
    Text,
}

impl LogFormat {
    /// As it is written in gate.yaml.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}
