//! A model of the mailboxes that a gate's invitations end up in: a small SMTP server on loopback that takes every message, reads it as a
//! person would, and hands on who it is for, its subject, its link and its code.
//!
//! A model, and not a mail server: it speaks plaintext, takes a message for one recipient at a time, believes whoever comes, and keeps
//! nothing. Lines, messages and connections are bounded; a conversation that breaks a bound is ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// A message, as its reader sees it. Holds no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Who it is for, as it was said to the server.
    pub to: String,
    /// Its subject.
    pub subject: String,
    /// The first line of its text that is a link.
    pub link: Option<String>,
    /// The first line of its text that is a code in groups: `ABCD-EFGH-JKMN-PQRS-T`.
    pub code: Option<String>,
}

/// The mailboxes of a crowd's visitors. Cheap to clone; every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Mailboxes(Arc<Mutex<HashMap<String, oneshot::Sender<Mail>>>>);

impl Mailboxes {
    /// The next mail to an address.
    pub(super) fn expect(&self, address: &str) -> oneshot::Receiver<Mail> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.insert(address.to_owned(), sender);
        receiver
    }

    /// Gives a mail to the visitor who waits for it, if there is one.
    pub fn deliver(&self, mail: Mail) {
        if let Some(visitor) = self.waiting().remove(&mail.to) {
            // who has stopped looking does not get it
            drop(visitor.send(mail));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Mail>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes messages for as long as it is polled, and hands on what is read of each before it says that it was taken.
pub(super) async fn serve(listener: TcpListener, mails: mpsc::Sender<Mail>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let mails = mails.clone();
                    // a client that goes away, or breaks a bound, ends its conversation and nothing else
                    connections.spawn(async move { drop(converse(stream, &mails).await) });
                }
                // out of descriptors, as a rule: connections that end give some back
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn converse(mut stream: TcpStream, mails: &mpsc::Sender<Mail>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    say(&mut write, "220 localhost, a model").await?;
    let mut has_sender = false;
    let mut to = None;
    loop {
        let line = match tokio::time::timeout(IDLE, line_of(&mut read)).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    say(&mut write, "500 5.5.6 the line is too long").await?;
                }
                return Err(error);
            }
            Err(_) => return say(&mut write, "421 4.4.2 nothing came").await,
        };
        let line = String::from_utf8_lossy(&line);
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => "250-localhost\r\n250-8BITMIME\r\n250 SMTPUTF8",
            "HELO" => "250 localhost",
            "MAIL" => {
                (has_sender, to) = (true, None);
                "250 2.1.0 yes"
            }
            "RCPT" if to.is_some() => "452 4.5.3 one recipient a message",
            "RCPT" if has_sender => match path_of(&line) {
                Some(address) => {
                    to = Some(address);
                    "250 2.1.5 yes"
                }
                None => "501 5.1.3 that is no address",
            },
            "DATA" => match to.take() {
                Some(to) => {
                    has_sender = false;
                    say(&mut write, "354 go on, to a line with a dot").await?;
                    let taken = tokio::time::timeout(IDLE, content_of(&mut read)).await??;
                    match taken {
                        Some(content) if mails.send(read_mail(to, &content)).await.is_ok() => "250 2.0.0 taken",
                        Some(_) => "451 4.3.0 nobody reads mail any more",
                        None => "552 5.3.4 the message is too large",
                    }
                }
                None => "503 5.5.1 to whom?",
            },
            "RCPT" => "503 5.5.1 from whom?",
            "RSET" => {
                (has_sender, to) = (false, None);
                "250 2.0.0 yes"
            }
            "NOOP" => "250 2.0.0 yes",
            "QUIT" => return say(&mut write, "221 2.0.0 bye").await,
            _ => "502 5.5.1 not here",
        };
        say(&mut write, reply).await?;
    }
}

async fn say(write: &mut (impl AsyncWrite + Unpin), reply: &str) -> io::Result<()> {
    write.write_all(format!("{reply}\r\n").as_bytes()).await
}

/// The next line, without its end.
async fn line_of(read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    read.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        let is_long = line.len() as u64 == LINE_BYTES_MAX;
        return Err(if is_long { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof }.into());
    }
    line.pop_if(|last| *last == b'\r');
    Ok(line)
}

/// The lines up to the one with a dot; `None` if that is more than is taken.
async fn content_of(read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let mut fits = true;
    loop {
        let line = line_of(read).await?;
        if line == b"." {
            return Ok(fits.then_some(content));
        }
        fits &= content.len() + line.len() <= MESSAGE_BYTES_MAX;
        if fits {
            // a dot at the beginning was doubled, so that it does not end the message (RFC 5321, 4.5.2)
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            content.extend_from_slice(b"\r\n");
        }
    }
}

/// What stands in the brackets of `RCPT TO:<ann@example.org>`.
fn path_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('<')?;
    let (address, _) = rest.rsplit_once('>')?;
    address.contains('@').then(|| printable(address))
}

/// Reads a message as far as a person does.
fn read_mail(to: String, content: &[u8]) -> Mail {
    let content = String::from_utf8_lossy(content);
    let (head, body) = cut(&content);
    let subject = printable(&words(&header(head, "subject").unwrap_or_default()));
    let text = text_of(head, body);
    let lines = || text.lines().map(str::trim);
    let link = lines().find(|line| is_link(line)).map(printable);
    let code = lines().find(|line| is_code(line)).map(printable);
    Mail { to, subject, link, code }
}

fn is_link(line: &str) -> bool {
    (line.starts_with("http://") || line.starts_with("https://")) && !line.contains(char::is_whitespace)
}

fn is_code(line: &str) -> bool {
    let groups = || line.split('-');
    groups().count() > 2
        && groups().all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()))
}

/// Head and body of a message or of a part.
fn cut(content: &str) -> (&str, &str) {
    content.split_once("\r\n\r\n").unwrap_or((content, ""))
}

/// A header, its lines put together.
fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.split("\r\n").skip_while(|line| !line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name)));
    let mut value = lines.next()?.split_once(':')?.1.trim().to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push(' ');
        value.push_str(line.trim());
    }
    Some(value)
}

/// The text: of several parts the first, since they go from the plainest to the richest.
fn text_of(head: &str, body: &str) -> String {
    let kind = header(head, "content-type").unwrap_or_default();
    let boundary = kind.split_once("boundary=").map(|(_, rest)| match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(';').next().unwrap_or_default(),
    });
    let (head, body) = match boundary {
        None => (head, body),
        Some(boundary) => {
            let mark = format!("--{boundary}\r\n");
            let part = body.split_once(&mark).map_or("", |(_, rest)| rest);
            cut(part.split(&format!("\r\n--{boundary}")).next().unwrap_or_default())
        }
    };
    let is_quoted = header(head, "content-transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("quoted-printable"));
    if is_quoted { unquoted(&body.replace("=\r\n", "")) } else { body.to_owned() }
}

/// Takes `=C3=BC` for what it stands for (RFC 2045, 6.7).
fn unquoted(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(b'=');
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A header in which words are encoded, `=?utf-8?b?…?=` (RFC 2047).
fn words(value: &str) -> String {
    let mut text = String::new();
    let mut was_encoded = false;
    for word in value.split(' ') {
        let decoded = decoded(word);
        // the space between two encoded words stands for nothing
        let goes_on = was_encoded && decoded.is_some();
        if !text.is_empty() && !goes_on {
            text.push(' ');
        }
        was_encoded = decoded.is_some();
        text.push_str(decoded.as_deref().unwrap_or(word));
    }
    text
}

fn decoded(word: &str) -> Option<String> {
    let mut parts = word.strip_prefix("=?")?.strip_suffix("?=")?.split('?');
    let (_, how, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    match how {
        "b" | "B" => Some(String::from_utf8_lossy(&STANDARD.decode(encoded).ok()?).into_owned()),
        "q" | "Q" => Some(unquoted(&encoded.replace('_', " "))),
        _ => None,
    }
}

/// What may be shown on a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

/// Twice what RFC 5321 asks for.
const LINE_BYTES_MAX: u64 = 2000;

/// Many times an invitation.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A few more than a gate sends at a time. Others wait until one ends.
const CONNECTIONS_MAX: usize = 80;

/// A client that says nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(300);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use lettre::message::{MultiPart, SinglePart};
    use lettre::transport::smtp::AsyncSmtpTransport;
    use lettre::{AsyncTransport as _, Message, Tokio1Executor};

    use super::*;

    /// A server, and what it hands on.
    async fn start() -> (std::net::SocketAddr, mpsc::Receiver<Mail>, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mails) = mpsc::channel(16);
        let mut running = JoinSet::new();
        running.spawn(serve(listener, sender));
        (address, mails, running)
    }

    struct Raw {
        read: BufReader<tokio::net::tcp::OwnedReadHalf>,
        write: tokio::net::tcp::OwnedWriteHalf,
    }

    impl Raw {
        async fn connect(address: std::net::SocketAddr) -> Self {
            let (read, write) = TcpStream::connect(address).await.unwrap().into_split();
            let mut raw = Self { read: BufReader::new(read), write };
            assert_eq!(raw.reply().await, "220");
            raw
        }

        /// The code of the next reply.
        async fn reply(&mut self) -> String {
            loop {
                let line = String::from_utf8(line_of(&mut self.read).await.unwrap()).unwrap();
                if line.as_bytes()[3] == b' ' {
                    return line[..3].to_owned();
                }
            }
        }

        async fn say(&mut self, line: &str) -> String {
            self.write.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
            self.reply().await
        }

        async fn closed(&mut self) -> bool {
            self.read.read(&mut [0]).await.map_or(true, |bytes| bytes == 0)
        }
    }

    const LINK: &str = "http://127.0.0.1:8080/.tidegate/invitation?code=ABCDEFGHJKMNPQRST&next=%2Fpage%2F7&check=0123456789abcdef";
    const CODE: &str = "ABCD-EFGH-JKMN-PQRS-T";

    fn text() -> String {
        format!(
            "Grüß Gott,\n\n.a line with a dot\n\n{LINK}\n\nOr open http://127.0.0.1:8080/x and type:\n\n{CODE}\n\nhttp://127.0.0.1:8080/other\n"
        )
    }

    fn message(to: &str, subject: &str) -> lettre::message::MessageBuilder {
        Message::builder().from("no-reply@example.org".parse().unwrap()).to(to.parse().unwrap()).subject(subject)
    }

    #[tokio::test]
    async fn reads_what_a_mail_client_sends() {
        let (address, mut mails, _running) = start().await;
        let smtp = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(address.port()).build();
        let parts = MultiPart::alternative()
            .singlepart(SinglePart::plain(text()))
            .singlepart(SinglePart::html("<a href=\"http://127.0.0.1/html\">http://127.0.0.1/html</a>".to_owned()));
        let subject = "Jetzt ist Platz für Sie, und zwar auf einer Seite mit einem sehr langen Namen: www.länger.example";
        smtp.send(message("ann@example.org", subject).multipart(parts).unwrap()).await.unwrap();
        let (link, code) = (Some(LINK.to_owned()), Some(CODE.to_owned()));
        let expected = Mail { to: "ann@example.org".to_owned(), subject: subject.to_owned(), link, code };
        assert_eq!(mails.recv().await.unwrap(), expected);

        smtp.send(message("eve@example.org", "Plain").body(text()).unwrap()).await.unwrap();
        let plain = Mail { to: "eve@example.org".to_owned(), subject: "Plain".to_owned(), ..expected };
        assert_eq!(mails.recv().await.unwrap(), plain);

        smtp.send(message("eve@example.org", "Nothing").body("Or open http://a/ with A-B.\n".to_owned()).unwrap()).await.unwrap();
        let nothing = Mail { subject: "Nothing".to_owned(), link: None, code: None, ..plain };
        assert_eq!(mails.recv().await.unwrap(), nothing);
    }

    #[tokio::test]
    async fn a_conversation_keeps_its_order() {
        let (address, mut mails, _running) = start().await;
        let mut raw = Raw::connect(address).await;
        for (line, reply) in [
            ("ehlo me", "250"),
            ("RCPT TO:<ann@example.org>", "503"),
            ("MAIL FROM:<a@b>", "250"),
            ("DATA", "503"),
            ("RCPT TO:nobody", "501"),
            ("RCPT TO:<ann@example.org>", "250"),
            ("RCPT TO:<eve@example.org>", "452"),
            ("RSET", "250"),
            ("DATA", "503"),
            ("NOOP", "250"),
            ("VRFY ann", "502"),
            ("mail from:<> BODY=8BITMIME", "250"),
            ("rcpt to:<j\u{fc}rgen@example.org>", "250"),
            ("data", "354"),
            ("Subject: one\r\n\r\n..\r\n.", "250"),
            ("QUIT", "221"),
        ] {
            assert_eq!(raw.say(line).await, reply, "{line}");
        }
        assert!(raw.closed().await);
        let mail = mails.recv().await.unwrap();
        assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("jürgen@example.org", "one"));
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused() {
        let (address, mut mails, _running) = start().await;
        let mut raw = Raw::connect(address).await;
        for line in ["EHLO me", "MAIL FROM:<a@b>", "RCPT TO:<ann@example.org>", "DATA"] {
            assert!(["250", "354"].contains(&raw.say(line).await.as_str()));
        }
        let line = format!("{}\r\n", "x".repeat(1000));
        assert_eq!(raw.say(&format!("{}.", line.repeat(MESSAGE_BYTES_MAX / 1000))).await, "552");
        assert_eq!(raw.say(&"x".repeat(3000)).await, "500");
        assert!(raw.closed().await);
        // who reads no mail any more says so
        mails.close();
        let mut raw = Raw::connect(address).await;
        for (line, reply) in [("MAIL FROM:<a@b>", "250"), ("RCPT TO:<a@b>", "250"), ("DATA", "354"), (".", "451")] {
            assert_eq!(raw.say(line).await, reply, "{line}");
        }
    }

    #[tokio::test]
    async fn more_connections_wait_for_their_turn() {
        let (address, _mails, _running) = start().await;
        let mut talking = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            talking.push(Raw::connect(address).await);
        }
        let next = tokio::spawn(Raw::connect(address));
        assert_eq!(talking[0].say("NOOP").await, "250");
        assert!(!next.is_finished());
        assert_eq!(talking[0].say("QUIT").await, "221");
        assert_eq!(next.await.unwrap().say("NOOP").await, "250");
    }

    #[tokio::test]
    async fn mail_is_given_to_who_waits_for_it() {
        let mailboxes = Mailboxes::default();
        let mail = |to: &str| Mail { to: to.to_owned(), subject: String::new(), link: None, code: None };
        let ann = mailboxes.expect("ann@example.org");
        drop(mailboxes.expect("bob@example.org"));
        for to in ["bob@example.org", "eve@example.org", "ann@example.org", "ann@example.org"] {
            mailboxes.deliver(mail(to));
        }
        assert_eq!(ann.await.unwrap(), mail("ann@example.org"));
        assert!(mailboxes.waiting().is_empty());
    }

    #[test]
    fn encoded_words_are_read() {
        assert_eq!(words("one two"), "one two");
        assert_eq!(words("=?utf-8?b?w7w=?= =?UTF-8?Q?=C3=BC_x?= y"), "üü x y");
        assert_eq!(words("=?utf-8?b?!?= =?x?z?y?="), "=?utf-8?b?!?= =?x?z?y?=");
        assert_eq!(unquoted("a=3Db=C3=BC=zz="), "a=bü=zz=");
        assert_eq!(printable("a\u{1b}[31mb\r\n"), "a[31mb");
    }
}
