//! `tidegate demo`: a model of a legacy site, the real gate, and a crowd that surges, on this machine alone.
//!
//! The crowd comes in tides: calm, a surge of three times what the site can do, calm again, until Ctrl-C. A person with a browser is one
//! more visitor, and sees the waiting room come and go.
//!
//! Some of the crowd leave an email address in the waiting room and go. The gate writes to them in the calm, to a model of their mailboxes,
//! and they come back with the link in their mail. The first mail of a tide is withheld from its visitor and shown in full, for whoever
//! watches to use, and so is each to an address that a person has left; of the others there is a count.

use std::io::{self, IsTerminal as _, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Running, Start, listen, listen_alone, start, workers};
use crate::clock::Clock;
use crate::config;
use crate::demo::crowd::{Crowd, CrowdSettings, is_of_a_crowd};
use crate::demo::mailbox::{Mail, Mailboxes};
use crate::demo::site::{Site, SiteSettings};
use crate::demo::{start_crowd, start_mailboxes, start_site};
use crate::metrics::{Count, InvitationResult};
use crate::models::arrivals::Step;
use crate::rules::policy::Log;
use crate::rules::time::Moment;
use crate::telemetry;

/// The site of the demo: eight workers at 80 ms a page, so 100 pages a second.
const WORKERS: u32 = 8;

/// Calm before the first surge: long enough to see that everyone gets in.
const CALM_S: f64 = 12.0;

/// A surge: long enough to see the waiting room fill, and people get in from it.
const SURGE_S: f64 = 45.0;

/// Between two surges: the crowd that waits gets in or gives up, the waiting room goes away, and who left an address is invited.
const EBB_S: f64 = 75.0;

/// Shares of the site's capacity that visitors ask for.
const CALM: f64 = 0.4;
const SURGE: f64 = 3.0;

/// How long the crowd waits before it gives up: the waiting room is to be empty well before the next surge.
const PATIENCE: Duration = Duration::from_secs(20);

/// Share of the crowd that leaves an address: a few dozen in a surge.
const LEAVERS: f64 = 0.04;

/// Runs until Ctrl-C.
///
/// # Errors
/// If a port, a directory or a thread can't be had.
pub fn run(clock: Clock) -> anyhow::Result<()> {
    let clock = Arc::new(clock);
    let scratch = Scratch::make().context("no directory for the demo's data")?;
    // the live line is the log, unless someone asks for more
    let _logging = match std::env::var_os(telemetry::LEVEL_VARIABLE) {
        Some(_) => Some(telemetry::start(&Log { format: crate::rules::policy::LogFormat::Auto, access: 0.0 }, &clock)?),
        None => None,
    };
    let settings = SiteSettings { workers: WORKERS, ..SiteSettings::default() };
    let capacity = settings.capacity();
    let site = Site::new(settings, Arc::clone(&clock));
    let (site_address, _site) = start_site(&site, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let (mail_address, mails, _mailboxes) = start_mailboxes()?;
    let gate = start_gate(&clock, &scratch.path, site_address, mail_address)?;

    let mailboxes = Mailboxes::default();
    let crowd = CrowdSettings {
        // six pages a visitor: the rate of visitors is that of pages by six
        schedule: tides(capacity / 6.0),
        patience: PATIENCE,
        leavers: LEAVERS,
        mailboxes: Some(mailboxes.clone()),
        ..CrowdSettings::of(gate.http)
    };
    let crowd = Crowd::new(crowd, Arc::clone(&clock));
    let _crowd = start_crowd(&crowd)?;
    greet(&gate, site_address)?;

    let watch = Watch { gate: &gate, clock: &clock, started: clock.moment(), live: io::stdout().is_terminal() };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(watch.run(mails, &mailboxes))?;
    let mut out = io::stdout().lock();
    writeln!(out, "\nThe crowd goes home.")?;
    crowd.stop();
    gate.drain(Duration::ZERO, Duration::from_secs(2));
    Ok(())
}

/// The rates of visitors, for a day: nobody watches longer.
fn tides(visitors_per_s: f64) -> Vec<Step> {
    let mut steps = vec![Step { at_s: 0.0, visitors_per_s: CALM * visitors_per_s }];
    let mut at_s = CALM_S;
    while at_s < 86_400.0 {
        steps.push(Step { at_s, visitors_per_s: SURGE * visitors_per_s });
        steps.push(Step { at_s: at_s + SURGE_S, visitors_per_s: CALM * visitors_per_s });
        at_s += SURGE_S + EBB_S;
    }
    steps
}

fn start_gate(clock: &Arc<Clock>, data: &Path, site: SocketAddr, mail: SocketAddr) -> anyhow::Result<Running> {
    let text = format!(
        "listen: {{ http: 127.0.0.1:8080 }}\n\
         admin: {{ listen: 127.0.0.1:9090 }}\n\
         data: {data:?}\n\
         upstream: {{ servers: [\"http://{site}\"], max_in_flight: {WORKERS} }}\n\
         waiting_room: {{ refresh: 5s }}\n\
         # the whole crowd comes from this machine\n\
         limits: {{ tickets_per_client: 1000000 }}\n\
         # the calm is short\n\
         invitations: {{ smtp: \"smtp://{mail}\", from: \"Benefits Portal <no-reply@portal.example>\", \
         site_url: \"http://127.0.0.1:8080\", below: 0.7, settle: 3s, rate: 5 }}\n"
    );
    let mut policy = config::parse(&text, "demo", data).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let http = match listen("listen.http", policy.listen.http, workers(&policy)) {
        Ok(listeners) => listeners,
        Err(taken) => {
            note(&format!("{taken}; taking another port"))?;
            listen("listen.http", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), workers(&policy))?
        }
    };
    // which is the one above, unless that was taken
    if let Some(listener) = http.first() {
        policy.invitations.site_url = Some(format!("http://{}", listener.local_addr()?));
    }
    let admin = match listen_alone("admin.listen", policy.admin.listen) {
        Ok(listener) => listener,
        Err(taken) => {
            note(&format!("{taken}; taking another port"))?;
            listen_alone("admin.listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?
        }
    };
    Ok(start(Start { policy, file: None, clock: Arc::clone(clock), http, https: Vec::new(), admin })?)
}

fn note(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

fn greet(gate: &Running, site: SocketAddr) -> io::Result<()> {
    writeln!(
        io::stdout().lock(),
        "\n  the site behind the gate   http://{}/   open it in a browser\n  \
         the operator's dashboard   http://{}/\n  \
         the bare site              http://{site}/   (a model: {WORKERS} workers, 80 ms a page)\n\n\
         In {CALM_S} s a crowd comes for three times what the site can do. Some leave an email address: they are invited when it has\n\
         gone, and the first link is shown here, for you. Ctrl-C ends it.\n",
        gate.http,
        gate.admin_address
    )
}

/// What whoever runs the demo is shown.
struct Watch<'a> {
    gate: &'a Running,
    clock: &'a Clock,
    started: Moment,
    /// The last line is written over and over; else there is a new one each second.
    live: bool,
}

impl Watch<'_> {
    /// One live line a second, and what happens, until Ctrl-C.
    async fn run(&self, mut mails: mpsc::Receiver<Mail>, mailboxes: &Mailboxes) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut limiting = false;
        let mut post = Post::default();
        let mut invited = Invited::default();
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                Some(mail) = mails.recv() => {
                    if post.is_shown(&mail) {
                        self.say(&in_full(&mail))?;
                    } else {
                        mailboxes.deliver(mail);
                    }
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if let Some(others) = post.others() {
                self.say(&format!("\u{2026} and mail to {others} more"))?;
            }
            let now = self.gate.regime().limiting;
            if now != limiting {
                limiting = now;
                self.turn(limiting, &mut post, &mut invited)?;
            }
            self.live_line()?;
        }
    }

    /// The waiting room opens, or closes.
    fn turn(&self, opens: bool, post: &mut Post, invited: &mut Invited) -> io::Result<()> {
        if !opens {
            return self.say("there is room for everyone: the waiting room closes");
        }
        let before = std::mem::replace(invited, Invited::of(self.gate));
        if let Some(ebb) = invited.since(before) {
            self.say(&ebb)?;
        }
        *post = Post::default();
        self.say("the site is full: the waiting room opens")
    }

    /// Something that has happened, above the live line.
    fn say(&self, what: &str) -> io::Result<()> {
        let clear = if self.live { CLEAR } else { "" };
        writeln!(io::stdout().lock(), "{clear}{:>5} s  {what}", self.seconds())
    }

    fn live_line(&self) -> io::Result<()> {
        let regime = self.gate.regime();
        let law = &regime.law;
        let (clear, end) = if self.live { (CLEAR, "") } else { ("", "\n") };
        let mut out = io::stdout().lock();
        write!(
            out,
            "{clear}{:>5} s  load {:>4.0} %  capacity {:>5.1}/s  probability {:>5.3}  active {:>5}  waiting {:>5}{end}",
            self.seconds(),
            law.load * 100.0,
            law.capacity,
            regime.probability(),
            regime.active,
            regime.waiting
        )?;
        out.flush()
    }

    fn seconds(&self) -> u64 {
        self.clock.moment().since(self.started).as_secs()
    }
}

/// To the beginning of the line, of which nothing is left.
const CLEAR: &str = "\r\x1b[K";

/// Which mail of a tide is shown.
#[derive(Debug, Default)]
struct Post {
    /// A visitor's of the crowd was.
    is_one_shown: bool,
    /// Others that came, and were not told of.
    others: u64,
    /// Seconds since the last of them.
    quiet_s: u32,
}

impl Post {
    /// Whether a mail is shown; else it is counted.
    fn is_shown(&mut self, mail: &Mail) -> bool {
        if !is_of_a_crowd(&mail.to) || !std::mem::replace(&mut self.is_one_shown, true) {
            return true;
        }
        self.others += 1;
        self.quiet_s = 0;
        false
    }

    /// How many others came, when no more do. Asked each second.
    fn others(&mut self) -> Option<u64> {
        self.quiet_s = self.quiet_s.saturating_add(1);
        let is_over = self.others > 0 && self.quiet_s > QUIET_S;
        is_over.then(|| std::mem::take(&mut self.others))
    }
}

/// After so long without mail there will hardly be more.
const QUIET_S: u32 = 3;

/// A mail, with its link on a line of its own.
fn in_full(mail: &Mail) -> String {
    let mut text = format!("mail to {}: {}", mail.to, mail.subject);
    if let Some(link) = &mail.link {
        text += &format!("\n         {link}");
    }
    if let Some(code) = &mail.code {
        text += &format!("\n         its code is {code}; open the link in a browser: it is left to you");
    }
    text
}

/// Who has been invited, and has come back, so far.
#[derive(Clone, Copy, Debug, Default)]
struct Invited {
    sent: u64,
    redeemed: u64,
}

impl Invited {
    fn of(gate: &Running) -> Self {
        let total = |what| gate.shared.metrics.total(what);
        Self { sent: total(Count::Invitation(InvitationResult::Sent)), redeemed: total(Count::InvitationRedeemed) }
    }

    /// What to say of those since then, if there was anybody.
    fn since(self, before: Self) -> Option<String> {
        let (sent, redeemed) = (self.sent - before.sent, self.redeemed - before.redeemed);
        (sent + redeemed > 0).then(|| format!("the calm is over: {sent} who left an address were invited, {redeemed} came back"))
    }
}

/// A directory that goes away with the demo.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what can't be removed is the system's to clean up
        drop(std::fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(to: &str) -> Mail {
        let (link, code) = (Some("http://127.0.0.1:8080/.tidegate/invitation?code=ABC".to_owned()), Some("A-B-C".to_owned()));
        Mail { to: to.to_owned(), subject: "There is room".to_owned(), link, code }
    }

    #[test]
    fn the_first_mail_of_a_tide_is_shown_and_every_persons() {
        let mut post = Post::default();
        assert!(post.is_shown(&mail("ann@example.org")));
        assert!(post.is_shown(&mail("visitor1@crowd.example")));
        assert!(!post.is_shown(&mail("visitor2@crowd.example")));
        assert!(post.is_shown(&mail("bob@example.org")));
        assert_eq!([post.others(), post.others(), post.others()], [None; 3]);
        assert!(!post.is_shown(&mail("visitor3@crowd.example")), "and there is more to come");
        assert_eq!([post.others(), post.others(), post.others(), post.others(), post.others()], [None, None, None, Some(2), None]);
    }

    #[test]
    fn a_link_stands_on_a_line_of_its_own() {
        let text = in_full(&mail("ann@example.org"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["mail to ann@example.org: There is room", "http://127.0.0.1:8080/.tidegate/invitation?code=ABC"]);
        assert!(lines[2].contains("A-B-C") && lines.len() == 3);
        assert_eq!(in_full(&Mail { link: None, code: None, ..mail("a@b") }), "mail to a@b: There is room");
    }

    #[test]
    fn a_calm_without_mail_says_nothing() {
        let before = Invited { sent: 3, redeemed: 1 };
        assert_eq!(before.since(before), None);
        let text = Invited { sent: 45, redeemed: 41 }.since(before);
        assert_eq!(text.as_deref(), Some("the calm is over: 42 who left an address were invited, 40 came back"));
    }

    #[test]
    fn tides_come_and_go() {
        let steps = tides(10.0);
        let first: Vec<(f64, f64)> = steps.iter().take(4).map(|step| (step.at_s, step.visitors_per_s)).collect();
        assert_eq!(first, [(0.0, 4.0), (12.0, 30.0), (57.0, 4.0), (132.0, 30.0)]);
    }
}
