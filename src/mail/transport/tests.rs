//! Against a mail server that says what it is told to, in this process.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::super::message::tests::message_to;
use super::*;
use crate::store::scratch::Scratch;

const NOW: Moment = Moment::from_secs(1000);

/// What a server does at a point of a conversation, in place of saying yes.
#[derive(Clone, Copy, Debug)]
enum Act {
    Say(&'static str),
    SayAndClose(&'static str),
    Close,
    Hang,
}

use Act::{Close, Hang, Say, SayAndClose};

/// The points at which it acts: a verb; the greeting; `354`, where the content would come; the final dot.
type Script = &'static [(&'static str, Act)];

/// A server. Each connection has a script of its own, and those beyond them none.
struct Server {
    port: u16,
    /// What came, by connection. Content is one line, `(content)`.
    heard: Arc<Mutex<Vec<Vec<String>>>>,
    /// It has come to where it hangs.
    hangs: Arc<Notify>,
}

impl Server {
    /// One that nobody has started.
    fn at(port: u16) -> Self {
        Self { port, heard: Arc::default(), hangs: Arc::default() }
    }

    async fn start(scripts: &[Script]) -> Self {
        Self::start_with("8BITMIME", scripts).await
    }

    /// `offers` is what it says to EHLO.
    async fn start_with(offers: &'static str, scripts: &[Script]) -> Self {
        Self::start_secure(offers, scripts, None).await
    }

    /// `tls` is spoken after STARTTLS, and if that is not on offer from the first byte.
    async fn start_secure(offers: &'static str, scripts: &[Script], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self::at(port);
        let scripts = scripts.to_vec();
        let (all, hangs) = (Arc::clone(&server.heard), Arc::clone(&server.hangs));
        tokio::spawn(async move {
            for at in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                all.lock().unwrap().push(Vec::new());
                let script: HashMap<_, _> = scripts.get(at).copied().unwrap_or_default().iter().copied().collect();
                let ear = Ear { at, heard: Arc::clone(&all), hangs: Arc::clone(&hangs) };
                let tls = tls.clone();
                // a client that goes away ends a conversation
                tokio::spawn(async move { serve(stream, offers, &script, tls, &ear).await.ok() });
            }
        });
        server
    }

    fn heard(&self) -> Vec<Vec<String>> {
        self.heard.lock().unwrap().clone()
    }

    /// How many messages it has got, to the final dot.
    fn contents(&self) -> usize {
        self.heard().iter().flatten().filter(|line| *line == "(content)").count()
    }

    fn transport(&self) -> Transport {
        self.transport_by(Security::Plaintext, None)
    }

    /// The end of patience comes as soon as it hangs, and not before.
    fn until_it_hangs(&self) -> Deadline {
        let hangs = Arc::clone(&self.hangs);
        Deadline { over: Box::pin(async move { hangs.notified().await }), patience: PATIENCE, grows: false }
    }

    fn transport_by(&self, security: Security, login: Option<Login>) -> Transport {
        let server = MailServer { host: "127.0.0.1".to_owned(), port: self.port, security, label: "smtp://a".to_owned() };
        Transport::new(&Delivery::Smtp { server, login }).unwrap()
    }
}

/// What is told of one connection.
struct Ear {
    at: usize,
    heard: Arc<Mutex<Vec<Vec<String>>>>,
    hangs: Arc<Notify>,
}

impl Ear {
    fn hear(&self, line: &str) {
        self.heard.lock().unwrap()[self.at].push(line.to_owned());
    }

    async fn hang(&self) -> io::Result<()> {
        self.hangs.notify_one();
        std::future::pending().await
    }
}

async fn serve(mut stream: TcpStream, offers: &str, script: &HashMap<&str, Act>, tls: Option<TlsAcceptor>, ear: &Ear) -> io::Result<()> {
    let Some(tls) = tls else { return talk(stream, "greeting", offers, script, ear).await };
    if offers != "STARTTLS" {
        return talk(tls.accept(stream).await?, "greeting", offers, script, ear).await;
    }
    talk(&mut stream, "greeting", offers, script, ear).await?;
    talk(tls.accept(stream).await?, "", "8BITMIME", script, ear).await
}

/// Until the client goes, or wants TLS. `verb` is what it begins with; nothing if the client does.
async fn talk(stream: impl AsyncRead + AsyncWrite, verb: &str, offers: &str, script: &HashMap<&str, Act>, ear: &Ear) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    let ehlo = format!("250-mail.example.org\r\n250 {offers}");
    let mut verb = verb.to_owned();
    let mut yes = "220 mail.example.org".to_owned();
    loop {
        let (reply, closes) = match script.get(verb.as_str()) {
            None => (yes.as_str(), verb == "QUIT"),
            Some(Say(reply)) => (*reply, false),
            Some(SayAndClose(reply)) => (*reply, true),
            Some(Close) => return Ok(()),
            Some(Hang) => return ear.hang().await,
        };
        if !verb.is_empty() {
            write.write_all(format!("{reply}\r\n").as_bytes()).await?;
            write.flush().await?;
        }
        let upgrades = verb == "STARTTLS" && !script.contains_key("STARTTLS");
        if closes || upgrades {
            return Ok(());
        }
        if reply.starts_with("354") {
            match script.get("354") {
                Some(Close) => return Ok(()),
                Some(Hang) => {
                    lines.next_line().await?;
                    return ear.hang().await;
                }
                _ => {}
            }
            while lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)? != "." {}
            ear.hear("(content)");
            (verb, yes) = (".".to_owned(), "250 2.0.0 taken".to_owned());
            continue;
        }
        let line = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        verb = line.split([' ', ':']).next().unwrap().to_owned();
        yes = match verb.as_str() {
            "EHLO" => ehlo.clone(),
            "DATA" => "354 go on".to_owned(),
            "AUTH" => "235 2.7.0 welcome".to_owned(),
            _ => "250 2.0.0 yes".to_owned(),
        };
        ear.hear(if verb == "EHLO" { &verb } else { &line });
    }
}

fn smtp(transport: &Transport) -> &Smtp {
    let Way::Smtp(smtp) = &transport.way else { panic!("{transport:?}") };
    smtp
}

fn can_be_spawned(_: &impl Send) {}

/// Makes a connection, and keeps it.
async fn park_one(transport: &Transport) {
    let connection = smtp(transport).connect(&mut Deadline::new(PATIENCE)).await.unwrap();
    smtp(transport).park(connection, NOW);
}

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn ann() -> Message {
    message_to("ann@example.org", 1)
}

/// What becomes of a message to `ann@example.org` if the server acts so.
fn sent_to(script: Script) -> (Result<(), NotSent>, Vec<Vec<String>>) {
    on_a_runtime(async {
        let server = Server::start(&[script]).await;
        let result = smtp(&server.transport()).send(&ann(), NOW, server.until_it_hangs()).await;
        (result, server.heard())
    })
}

fn deferred(reason: &str, server: bool) -> Result<(), NotSent> {
    Err(NotSent::Deferred { reason: reason.to_owned(), server })
}

fn failed(reason: &str) -> Result<(), NotSent> {
    Err(NotSent::Failed { reason: reason.to_owned() })
}

const CONVERSATION: [&str; 5] = ["EHLO", "MAIL FROM:<no-reply@example.org>", "RCPT TO:<ann@example.org>", "DATA", "(content)"];

#[test]
fn a_message_is_taken_and_the_connection_is_kept_for_the_next() {
    on_a_runtime(async {
        let server = Server::start(&[]).await;
        let transport = server.transport();
        for to in ["ann@example.org", "bob@example.org"] {
            assert_eq!(transport.send(&message_to(to, 1), NOW).await, Ok(()));
        }
        let heard = server.heard();
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0][..5], CONVERSATION);
        assert_eq!(heard[0][6], "RCPT TO:<bob@example.org>");
        // one that was not in use for long is not trusted
        assert_eq!(transport.send(&ann(), NOW.plus(IDLE_FOR_MAX + Duration::from_secs(1))).await, Ok(()));
        assert_eq!(server.heard().len(), 2);
    });
}

#[test]
fn few_connections_are_kept() {
    on_a_runtime(async {
        let server = Server::start(&[]).await;
        let transport = &server.transport();
        let sends: Vec<_> = (0..IDLE_MAX + 3).map(|_| async move { transport.send(&ann(), NOW).await }).collect();
        let mut sends: Vec<_> = sends.into_iter().map(Box::pin).collect();
        // all of them under way before the first is done
        std::future::poll_fn(|context| {
            sends.retain_mut(|send| send.as_mut().poll(context).is_pending());
            if sends.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        assert_eq!((smtp(transport).idle().len(), server.contents()), (IDLE_MAX, IDLE_MAX + 3));
    });
}

#[test]
fn few_connections_are_made_at_a_time_and_a_server_that_fails_is_not_tried_with_all_who_wait() {
    on_a_runtime(async {
        let script: Script = &[("greeting", Close)];
        let server = Server::start(&[script; 20]).await;
        let transport = &server.transport();
        let mut sends: Vec<_> = (0..20).map(|_| Box::pin(async move { transport.send(&ann(), NOW).await })).collect();
        let mut results = Vec::new();
        std::future::poll_fn(|context| {
            sends.retain_mut(|send| match send.as_mut().poll(context) {
                std::task::Poll::Ready(result) => {
                    results.push(result);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if sends.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        assert!(results.iter().all(|result| matches!(result, Err(NotSent::Deferred { server: true, .. }))), "{results:?}");
        assert_eq!((results.len(), server.heard().len()), (20, CONNECTIONS_MAX));
    });
}

#[test]
fn what_is_about_the_server_is_said_to_be() {
    let table: [(Script, &str); 12] = [
        (&[("greeting", SayAndClose("554 5.7.1 you are on a list"))], "the connection to the mail server: 554 5.7.1 you are on a list"),
        (&[("greeting", SayAndClose("421 too busy"))], "the connection to the mail server: 421 too busy"),
        (&[("greeting", Close)], "the connection to the mail server: incomplete response"),
        (&[("EHLO", Say("550 who are you"))], "the connection to the mail server: 550 who are you"),
        (&[("MAIL", Say("553 5.7.1 not your address"))], "the sender: 553 5.7.1 not your address"),
        (&[("MAIL", Say("452 4.3.1 disk full"))], "the sender: 452 4.3.1 disk full"),
        (&[("RCPT", Say("530 5.7.0 log in first"))], "the recipient: 530 5.7.0 log in first"),
        (&[("RCPT", Say("452 4.3.1 disk full"))], "the recipient: 452 4.3.1 disk full"),
        (&[("RCPT", SayAndClose("421 4.3.2 going down"))], "the recipient: 421 4.3.2 going down"),
        (&[("DATA", Close)], "the beginning of the message: incomplete response"),
        (&[(".", Say("554 5.3.0 no"))], "the message: 554 5.3.0 no"),
        (&[(".", Say("451 4.3.0 queue file write error"))], "the message: 451 4.3.0 queue file write error"),
    ];
    for (script, reason) in table {
        let (result, heard) = sent_to(script);
        assert_eq!(result, deferred(reason, true), "{script:?}");
        assert_eq!(heard.len(), 1, "tried once: {script:?}");
    }
}

#[test]
fn what_is_about_a_message_is_said_of_it_alone() {
    let table: [(Script, Result<(), NotSent>); 9] = [
        (&[("RCPT", Say("451 4.7.1 greylisted, come back"))], deferred("the recipient: 451 4.7.1 greylisted, come back", false)),
        (&[("RCPT", Say("452 4.2.2 mailbox full"))], deferred("the recipient: 452 4.2.2 mailbox full", false)),
        (&[("RCPT", Say("550 5.1.1 no such user"))], failed("the recipient: 550 5.1.1 no such user")),
        (&[("RCPT", Say("550-no\r\n550 such user"))], failed("the recipient: 550 no such user")),
        // it may not be this recipient's fault, and others are not to wait for it
        (&[("RCPT", Say("554 5.7.1 relay access denied"))], deferred("the recipient: 554 5.7.1 relay access denied", false)),
        (&[("DATA", Say("451 not now"))], deferred("the beginning of the message: 451 not now", false)),
        (&[(".", Say("451 4.7.1 greylisted"))], deferred("the message: 451 4.7.1 greylisted", false)),
        (&[(".", Say("552 5.3.4 too large"))], failed("the message: 552 5.3.4 too large")),
        (&[(".", Say("554 5.6.0 malformed"))], failed("the message: 554 5.6.0 malformed")),
    ];
    for (script, expected) in table {
        let (result, heard) = sent_to(script);
        assert_eq!(result, expected, "{script:?}");
        assert_eq!(heard[0].last().unwrap(), "RSET", "the connection is kept, and nothing on it");
    }
}

#[test]
fn a_refusal_does_not_cost_the_connection() {
    on_a_runtime(async {
        let server = Server::start(&[&[("RCPT", Say("550 5.1.1 no such user"))]]).await;
        let transport = server.transport();
        assert!(matches!(transport.send(&ann(), NOW).await, Err(NotSent::Failed { .. })));
        assert!(matches!(transport.send(&ann(), NOW).await, Err(NotSent::Failed { .. })));
        let heard = server.heard();
        assert_eq!((heard.len(), heard[0].len()), (1, 7), "{heard:?}");
    });
}

#[test]
fn a_server_that_hangs_is_given_up_wherever_it_does() {
    for (point, stage) in [
        ("greeting", "the connection to the mail server"),
        ("EHLO", "the connection to the mail server"),
        ("MAIL", "the sender"),
        ("DATA", "the beginning of the message"),
    ] {
        let script: Script = Box::leak(Box::new([(point, Hang)]));
        assert_eq!(sent_to(script).0, deferred(&format!("{stage}: no answer within 60 s"), true), "{point}");
    }
    // a server can be at a loss about one recipient
    assert_eq!(sent_to(&[("RCPT", Hang)]).0, deferred("the recipient: no answer within 60 s", false));
    // nobody takes the connection
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let result = on_a_runtime(async {
        let transport = Server::at(listener.local_addr().unwrap().port()).transport();
        let over = Deadline { over: Box::pin(std::future::ready(())), patience: PATIENCE, grows: false };
        smtp(&transport).send(&ann(), NOW, over).await
    });
    assert_eq!(result, deferred("the connection to the mail server: no answer within 60 s", true));
    // and by the clock
    let result = on_a_runtime(async {
        let server = Server::start(&[&[("greeting", Hang)]]).await;
        Transport { patience: Duration::from_millis(1), ..server.transport() }.send(&ann(), NOW).await
    });
    assert_eq!(result, deferred("the connection to the mail server: no answer within 0.001 s", true));
    // what was kept is not waited for longer than the rest
    on_a_runtime(async {
        let server = Server::start(&[&[("RSET", Hang), ("RCPT", Say("550 5.1.1 no such user"))]]).await;
        let transport = server.transport();
        let result = smtp(&transport).send(&ann(), NOW, server.until_it_hangs()).await;
        assert_eq!(result, failed("the recipient: 550 5.1.1 no such user"));
        assert_eq!(transport.send(&ann(), NOW).await, Ok(()), "on another connection");
    });
}

#[test]
fn a_server_that_is_not_there_is_no_fault_of_the_message() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let result = on_a_runtime(async { Server::at(port).transport().send(&ann(), NOW).await });
    let Err(NotSent::Deferred { reason, server: true }) = result else { panic!("{result:?}") };
    assert!(reason.starts_with("the connection to the mail server: ") && reason.contains("refused"), "{reason}");
}

#[test]
fn a_break_that_leaves_it_open_whether_it_was_taken_is_told_as_one() {
    let unclear = |reason: &str| Err(NotSent::Unclear { reason: reason.to_owned() });
    for script in [&[(".", Close)] as Script, &[("354", Close)], &[(".", Say("what?"))]] {
        on_a_runtime(async {
            let server = Server::start(&[script, script]).await;
            let transport = server.transport();
            let result = transport.send(&ann(), NOW).await;
            assert!(matches!(result, Err(NotSent::Unclear { .. })), "{script:?}: {result:?}");
            assert_eq!(server.heard().len(), 1, "not sent again: {script:?}");
            // also on a connection that was kept
            park_one(&transport).await;
            let result = transport.send(&ann(), NOW).await;
            assert!(matches!(result, Err(NotSent::Unclear { .. })), "{script:?}: {result:?}");
            assert_eq!(server.heard().len(), 2, "not sent again: {script:?}");
        });
    }
    assert_eq!(sent_to(&[(".", Hang)]).0, unclear("the message: no answer within 60 s"));
    assert_eq!(sent_to(&[("354", Hang)]).0, unclear("the message: no answer within 60 s"));
    assert_eq!(sent_to(&[(".", Close)]).0, unclear("the message: incomplete response"));
}

#[test]
fn a_connection_that_the_server_has_closed_meanwhile_costs_no_message() {
    for idle in [SayAndClose("250 2.0.0 taken"), SayAndClose("250 2.0.0 taken\r\n421 4.4.2 idle for too long")] {
        on_a_runtime(async {
            let scripts: [Script; 2] = [Box::leak(Box::new([(".", idle)])), Box::leak(Box::new([(".", idle)]))];
            let server = Server::start(&scripts).await;
            let transport = server.transport();
            for _ in 0..3 {
                assert_eq!(transport.send(&ann(), NOW).await, Ok(()), "{idle:?}");
            }
            assert_eq!((server.contents(), server.heard().len()), (3, 3), "each once: {idle:?}");
        });
    }
}

#[test]
fn a_kept_connection_that_ends_before_the_content_is_replaced_once() {
    for point in ["MAIL", "RCPT", "DATA"] {
        on_a_runtime(async {
            // the first message passes: the second comes upon the end, and so does its second try
            let server = Server::start(&[&[]]).await;
            let transport = server.transport();
            assert_eq!(transport.send(&ann(), NOW).await, Ok(()));
            let script: Script = Box::leak(Box::new([(point, Close)]));
            let closing = Server::start(&[script, script, script]).await;
            let other = closing.transport();
            let kept = smtp(&other).connect(&mut Deadline::new(PATIENCE)).await.unwrap();
            smtp(&transport).park(kept, NOW);
            // a fresh connection to the good server
            assert_eq!(transport.send(&ann(), NOW).await, Ok(()), "{point}");
            assert_eq!((server.contents(), closing.heard().len(), closing.contents()), (2, 1, 0), "{point}");
            // and if that is cut too, that is it
            park_one(&other).await;
            let result = other.send(&ann(), NOW).await;
            assert!(matches!(result, Err(NotSent::Deferred { server: true, .. })), "{point}: {result:?}");
            assert_eq!(closing.heard().len(), 3, "{point}");
        });
    }
}

#[test]
fn without_starttls_nothing_is_said_where_it_is_required() {
    on_a_runtime(async {
        let server = Server::start(&[]).await;
        let scratch = Scratch::new();
        let password_file = scratch.path().join("password");
        fs::write(&password_file, "hunter2\n").unwrap();
        let login = Login { username: "portal".to_owned(), password_file };
        let result = server.transport_by(Security::StartTls, Some(login)).send(&ann(), NOW).await;
        assert_eq!(result, deferred("STARTTLS: it does not offer STARTTLS: nothing is sent in plaintext", true));
        assert_eq!(server.heard(), [["EHLO"]]);
    });
}

/// The TLS of a server that is called by these names, and its certificate.
fn self_signed(name: &str) -> (TlsAcceptor, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.der().to_vec())
}

/// Trusts a certificate as if the system did.
fn trust(mut transport: Transport, certificate: &[u8]) -> Transport {
    let Way::Smtp(smtp) = &mut transport.way else { panic!("{transport:?}") };
    let certificate = lettre::transport::smtp::client::Certificate::from_der(certificate.to_vec()).unwrap();
    smtp.tls = Some(TlsParameters::builder(smtp.server.host.clone()).add_root_certificate(certificate).build().unwrap());
    transport
}

#[test]
fn over_tls_a_message_goes_to_whom_the_system_trusts_and_to_nobody_else() {
    for (security, offers) in [(Security::StartTls, "STARTTLS"), (Security::Tls, "8BITMIME")] {
        on_a_runtime(async {
            let (tls, certificate) = self_signed("127.0.0.1");
            let server = Server::start_secure(offers, &[], Some(tls)).await;
            let said_in_the_clear = if security == Security::StartTls { vec!["EHLO", "STARTTLS"] } else { vec![] };
            // nobody has vouched for it
            let result = server.transport_by(security, None).send(&ann(), NOW).await;
            let Err(NotSent::Deferred { reason, server: true }) = result else { panic!("{security:?}: {result:?}") };
            assert!(reason.contains(": invalid peer certificate: "), "{reason}");
            assert_eq!(server.heard(), std::slice::from_ref(&said_in_the_clear));
            // somebody has
            let transport = trust(server.transport_by(security, None), &certificate);
            assert_eq!(transport.send(&ann(), NOW).await, Ok(()), "{security:?}");
            assert_eq!(server.heard()[1], [said_in_the_clear.as_slice(), &CONVERSATION].concat());
            // somebody has, but for another name
            let (tls, certificate) = self_signed("mail.example.org");
            let server = Server::start_secure(offers, &[], Some(tls)).await;
            let result = trust(server.transport_by(security, None), &certificate).send(&ann(), NOW).await;
            assert!(matches!(result, Err(NotSent::Deferred { server: true, .. })), "{security:?}: {result:?}");
            assert_eq!(server.heard(), [said_in_the_clear]);
        });
    }
}

#[test]
fn trouble_with_tls_is_the_servers() {
    let cases: [(Script, Security); 3] = [
        (&[("STARTTLS", Say("220 go on"))], Security::StartTls),
        (&[("STARTTLS", Say("454 4.7.0 not now"))], Security::StartTls),
        (&[], Security::Tls),
    ];
    for (script, security) in cases {
        on_a_runtime(async {
            let server = Server::start_with("STARTTLS", &[script]).await;
            let result = server.transport_by(security, None).send(&ann(), NOW).await;
            assert!(matches!(result, Err(NotSent::Deferred { server: true, .. })), "{security:?}: {result:?}");
            assert!(!server.heard().iter().flatten().any(|line| line.starts_with("MAIL")), "{:?}", server.heard());
        });
    }
}

#[test]
fn a_login_that_is_refused_is_the_servers_and_tells_no_secret() {
    on_a_runtime(async {
        let scratch = Scratch::new();
        let password_file = scratch.path().join("password");
        fs::write(&password_file, "hunter2\r\n").unwrap();
        let login = Login { username: "portal".to_owned(), password_file };
        let refused: Script = &[("AUTH", Say("535 5.7.8 wrong: portal hunter2"))];
        let server = Server::start_with("AUTH PLAIN LOGIN", &[refused]).await;
        let transport = server.transport_by(Security::Plaintext, Some(login.clone()));
        assert_eq!(transport.send(&ann(), NOW).await, deferred("the login: 535 5.7.8", true));
        assert!(!format!("{transport:?}").contains("hunter2"));
        // then it is let in
        assert_eq!(transport.send(&ann(), NOW).await, Ok(()));
        // "\0portal\0hunter2"
        assert_eq!(server.heard()[1][1], "AUTH PLAIN AHBvcnRhbABodW50ZXIy");
        let server = Server::start(&[]).await;
        let result = server.transport_by(Security::Plaintext, Some(login)).send(&ann(), NOW).await;
        assert_eq!(result, deferred("the login: No compatible authentication mechanism was found", true));
    });
}

#[test]
fn addresses_beyond_ascii_need_a_server_that_takes_them() {
    let message = message_to("jürgen@bücher.example", 1);
    on_a_runtime(async {
        let server = Server::start(&[]).await;
        let transport = server.transport();
        let result = transport.send(&message, NOW).await;
        assert_eq!(result, failed("the mail server takes no addresses outside ASCII (SMTPUTF8)"));
        // a domain that is not ASCII is none of its business, and the connection is still good
        assert_eq!(transport.send(&message_to("ann@bücher.example", 1), NOW).await, Ok(()));
        assert_eq!(server.heard().len(), 1);
        let server = Server::start_with("SMTPUTF8", &[]).await;
        assert_eq!(server.transport().send(&message, NOW).await, Ok(()));
        assert_eq!(server.heard()[0][1], "MAIL FROM:<no-reply@example.org> SMTPUTF8 BODY=8BITMIME");
        assert_eq!(server.heard()[0][2], "RCPT TO:<jürgen@xn--bcher-kva.example>");
        let server = Server::start_with("SMTPUTF8", &[&[("MAIL", Say("550 5.6.7 no"))]]).await;
        assert_eq!(server.transport().send(&message, NOW).await, deferred("the sender: 550 5.6.7 no", false));
    });
}

#[test]
fn a_reason_names_nobody() {
    let message = message_to("Ann.Lee@example.org", 1);
    for (said, expected) in [
        ("5.1.1 <ann.lee@example.org>: no such user", "5.1.1 … no such user"),
        ("5.1.1 ANN.LEE@EXAMPLE.ORG... unknown", "5.1.1 … unknown"),
        ("no mailbox for \"ann.lee\" here", "no mailbox for … here"),
        ("see https://help.example.org/?rcpt=ann.lee%40example.org", "see …"),
        ("rcpt=ann.lee=example.org refused", "… refused"),
        ("a\tline\u{7} \u{1b}[1m and  another", "a line [1m and another"),
    ] {
        assert_eq!(redacted(said, &message), expected);
    }
    assert_eq!(redacted(&"long ".repeat(100), &message).len(), REASON_CHARS_MAX);
    // short names stand in many words
    assert_eq!(redacted("no a at all, says a", &message_to("a@example.org", 1)), "no … at all, says …");
    let (result, _) = sent_to(&[("RCPT", Say("550 5.1.1 <ann@example.org>: Recipient address rejected"))]);
    assert_eq!(result, failed("the recipient: 550 5.1.1 … Recipient address rejected"));
}

#[test]
fn enhanced_codes_are_read_from_the_beginning() {
    assert_eq!(enhanced("5.7.1 relay access denied"), Some([5, 7, 1]));
    assert_eq!(enhanced("4.3.2"), Some([4, 3, 2]));
    for text in ["", "no", "2.0.0 yes", "5.1 x", "5.1.1.1 x", "5.x.1", "192.0.2.1 is on a list", "x 5.1.1"] {
        assert_eq!(enhanced(text), None, "{text}");
    }
}

#[test]
fn a_password_that_can_not_be_read_is_told_with_its_file() {
    let scratch = Scratch::new();
    let path = scratch.path().join("password");
    let login = || Login { username: "portal".to_owned(), password_file: path.clone() };
    let reason = || credentials(&login()).unwrap_err().to_string();
    assert!(reason().starts_with(&format!("invitations.password_file: {}: No such file", path.display())), "{}", reason());
    for (content, expected) in [
        ("", "is empty"),
        ("\r\n", "is empty"),
        ("a\nb\n", "holds more than one line"),
        (&"x".repeat(1025), "is longer than 1024 bytes"),
        (&"x".repeat(5000), "is longer than 1024 bytes"),
    ] {
        fs::write(&path, content).unwrap();
        assert!(reason().contains(expected), "{content:?}: {}", reason());
    }
    fs::write(&path, [0xff]).unwrap();
    assert!(reason().contains("is not UTF-8"));
    for (content, password) in [("hunter 2", "hunter 2"), (" ü\r\n", " ü"), ("x\n", "x")] {
        fs::write(&path, content).unwrap();
        assert_eq!(credentials(&login()).unwrap(), Credentials::new("portal".to_owned(), password.to_owned()));
    }
    let longest = "x".repeat(1024) + "\r\n";
    fs::write(&path, &longest).unwrap();
    assert!(credentials(&login()).is_ok());
}

#[test]
fn a_directory_takes_messages_or_says_why_not() {
    let scratch = Scratch::new();
    let directory = scratch.path().join("outgoing");
    let message = ann();
    let transport = Transport::new(&Delivery::Spool(directory.clone())).unwrap();
    can_be_spawned(&transport.send(&message, NOW));
    on_a_runtime(transport.send(&message, NOW)).unwrap();
    assert_eq!(fs::read(directory.join("0000000000000001.eml")).unwrap(), message.bytes);
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    let result = on_a_runtime(transport.send(&message, NOW));
    assert!(matches!(result, Err(NotSent::Deferred { server: true, .. })), "{result:?}");
    let error = Transport::new(&Delivery::Spool(directory.clone())).unwrap_err();
    assert_eq!(error.to_string(), format!("invitations.spool: {}", directory.display()));
}

proptest! {
    /// Whatever a server says to whatever is asked, it ends, and names nobody.
    #[test]
    fn no_reply_makes_a_reason_of_more_than_one_short_line(code in 200u16..600, text in "\\PC{0,300}|.{0,40}", at in 0usize..4) {
        let stage = [Stage::Greeting, Stage::Sender, Stage::Recipient, Stage::Content][at];
        let text = format!("{text} ann@example.org");
        for why in [Why::Refused { code, text: text.clone() }, Why::Broke(text)] {
            let reason = match (Broken { stage, why }).judge(&ann()) {
                NotSent::Deferred { reason, .. } | NotSent::Unclear { reason } | NotSent::Failed { reason } => reason,
            };
            prop_assert!(!reason.contains("ann@") && !reason.chars().any(char::is_control), "{}", reason);
            prop_assert!(reason.chars().count() < 300);
        }
    }
}
