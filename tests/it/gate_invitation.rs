//! Invitations from the outside: a message is opened, its code is used, and that is so once, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::rules::invites::{Code, batch_of};
use tidegate::rules::time::UnixTime;

use crate::support::{Answer, Gate, Process, Scratch, Upstream, own_ports, request, run, until};

const BROWSER: &str = "Accept: text/html";
const PATH: &str = "/.tidegate/invitation";
const ADDRESSES: [&str; 3] = ["ann@example.org", "bob@example.org", "eve@example.org"];

/// A gate that has invited some into its spool, and what came of it.
struct World {
    scratch: Scratch,
    config: PathBuf,
    upstream: Upstream,
    gate: Option<Gate>,
}

/// What stands in a message.
#[derive(Clone, Debug)]
struct Letter {
    code: String,
    /// The link, without the site.
    link: String,
    unsubscribe: String,
}

impl World {
    /// Invites each of [`ADDRESSES`].
    #[track_caller]
    fn new() -> (Self, Vec<Letter>) {
        Self::at(Upstream::answering("the site"))
    }

    /// The same in front of this site.
    #[track_caller]
    fn at(upstream: Upstream) -> (Self, Vec<Letter>) {
        let scratch = Scratch::new();
        let now = date(Clock::start().now().wall);
        let rows: String = ADDRESSES
            .iter()
            .enumerate()
            .map(|(n, address)| {
                let id = format!("{:016x}", n + 1);
                let row = json!({"v": 1, "id": id, "at": now, "email": address, "path": "/apply?step=2&a=b", "ticket": id, "client": id});
                format!("{row}\n")
            })
            .collect();
        fs::create_dir_all(scratch.path().join("data/email-queue")).unwrap();
        scratch.write(&format!("data/email-queue/{}.jsonl", &now[..10]), &rows);
        let config = scratch.path().join("gate.yaml");
        let mut world = Self { scratch, config, upstream, gate: None };
        world.policy("");
        world.serve();
        until("all to be invited", || (world.events("sent").len() == ADDRESSES.len()).then_some(()));
        let letters = (1..=ADDRESSES.len()).map(|id| Letter::of(&world.scratch.path().join(format!("outgoing/{id:016x}.eml")))).collect();
        (world, letters)
    }

    /// Writes gate.yaml, with this added.
    fn policy(&self, more: &str) {
        let text = format!(
            "{}client: {{ trusted_proxies: [127.0.0.1/32] }}\ninvitations: {{ spool: outgoing, from: no-reply@example.org, \
             site_url: https://www.example.org, settle: 0s, below: 1, share: 1, expected_redemption: 0, rate: 100 }}\n{more}",
            own_ports(&self.upstream.url())
        );
        fs::write(&self.config, text).unwrap();
    }

    /// Puts another policy in force.
    #[track_caller]
    fn apply(&self, more: &str) {
        self.policy(more);
        let answer = self.gate().admin_post("/reload", "");
        assert_eq!(answer.text().trim(), r#"{"result":"applied"}"#);
    }

    fn serve(&mut self) {
        self.gate = Some(Gate::serve(&self.config));
    }

    fn kill(&mut self) {
        self.gate.take().unwrap().process.kill();
    }

    fn gate(&self) -> &Gate {
        self.gate.as_ref().unwrap()
    }

    /// The entries of the ledger that say this.
    fn events(&self, event: &str) -> Vec<Value> {
        let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let text: String = self.ledgers().iter().map(|path| lines(path)).collect();
        // what is just being written is no line yet
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["event"] == event).collect()
    }

    fn ledgers(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.scratch.path().join("data/email-queue/ledger")) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        files
    }

    #[track_caller]
    fn metric(&self, name: &str) -> f64 {
        let text = self.gate().admin("/metrics").text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(0.0, |value| value.parse().unwrap())
    }

    #[track_caller]
    fn refused(&self, reason: &str) -> f64 {
        self.metric(&format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}"))
    }

    #[track_caller]
    fn mode(&self, mode: &str) {
        assert_eq!(self.gate().admin_post("/mode", &format!(r#"{{"mode":"{mode}"}}"#)).status, 200);
    }

    /// Opens what was closed, and waits until the gate finds room for who has this letter.
    #[track_caller]
    fn open_for(&self, letter: &Letter) {
        self.mode("auto");
        let page = || self.gate().get(&letter.link, &[BROWSER]).text();
        until("room", || page().contains("You are invited").then_some(()));
    }

    /// Presses the button, or types the code in.
    #[track_caller]
    fn redeem(&self, code: &str, more: &str, headers: &[&str]) -> Answer {
        self.post(PATH, &format!("code={}{more}", encode(code)), headers)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &str, headers: &[&str]) -> Answer {
        let length = format!("Content-Length: {}", body.len());
        let mut lines = vec!["Content-Type: application/x-www-form-urlencoded", &length, BROWSER];
        lines.extend_from_slice(headers);
        let mut client = self.gate().client();
        client.send(request("POST", path, &lines) + body);
        client.answer()
    }

    /// Ends the gate. Its log must name nobody.
    #[track_caller]
    fn end(mut self) {
        let log = self.gate.take().unwrap().end().join("\n");
        assert!(!ADDRESSES.iter().any(|address| log.contains(address)) && !log.contains("ann@"), "{log}");
    }
}

impl Letter {
    #[track_caller]
    fn of(path: &Path) -> Self {
        // quoted-printable, as far as links have it
        let text = fs::read_to_string(path).unwrap().replace("=\r\n", "").replace("=3D", "=");
        let line = |start: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix("https://www.example.org").filter(|link| link.starts_with(start)));
            found.unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
        };
        let link = line("/.tidegate/invitation?code=");
        let code = link.split_once("code=").unwrap().1.split('&').next().unwrap().to_owned();
        assert!(text.contains(&format!("\r\n{code}\r\n")), "{text}");
        Self { code, link, unsubscribe: line("/.tidegate/unsubscribe?") }
    }

    /// The hidden fields of the landing page.
    fn fields(&self) -> String {
        format!("&{}", self.link.split_once('&').unwrap().1)
    }
}

fn encode(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

fn date(time: UnixTime) -> String {
    let secs = i64::try_from(time.as_millis() / 1000).unwrap();
    jiff::Timestamp::from_second(secs).unwrap().to_string()
}

#[track_caller]
fn assert_in(answer: &Answer, location: &str) -> String {
    assert_eq!((answer.status, answer.header("location")), (303, Some(location)), "{}", answer.text());
    assert_eq!(answer.header("proxy-status"), Some("tidegate"));
    answer.pass()
}

#[track_caller]
fn assert_out(answer: &Answer, status: u16, title: &str) {
    assert!(answer.status == status && answer.text().contains(&format!("<h1>{title}")), "{}{}", answer.raw, answer.text());
    assert!(answer.cookie("tidegate_pass").is_none(), "{}", answer.raw);
    let error = match (status, title) {
        (403, _) => "http_request_denied; details=\"code\"",
        (429, _) => "http_request_denied; details=\"rate\"",
        (_, NO_ROOM) => "http_request_denied; details=\"no_room\"",
        _ => "proxy_internal_error",
    };
    assert_eq!(answer.header("proxy-status"), Some(format!("tidegate; error={error}").as_str()));
}

const USED: &str = "This invitation has been used";
const UNKNOWN: &str = "We do not know this code";
const NO_ROOM: &str = "There is no room just now";

#[test]
fn who_follows_links_uses_nothing_up_and_of_fifty_at_once_one_comes_in() {
    let (world, letters) = World::new();
    for letter in &letters {
        for link in [&letter.link, &letter.unsubscribe, &letter.link, &letter.unsubscribe] {
            let page = world.gate().get(link, &[BROWSER]);
            assert_eq!((page.status, page.cookie("tidegate_pass")), (200, None), "{}", page.text());
        }
    }
    assert_eq!((world.events("redeemed").len(), world.events("left").len()), (0, 0));
    assert_eq!(world.metric("tidegate_invitations_redeemed_total"), 0.0);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let each: Vec<_> = (0..50).map(|_| scope.spawn(|| world.redeem(&letters[0].code, "", &[]))).collect();
        each.into_iter().map(|each| each.join().unwrap()).collect()
    });
    let (inside, outside): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 303);
    assert_eq!((inside.len(), outside.len()), (1, 49));
    outside.iter().for_each(|answer| assert_out(answer, 403, USED));
    assert_eq!((world.events("redeemed").len(), world.metric("tidegate_invitations_redeemed_total")), (1, 1.0));
    assert_out(&world.redeem(&letters[0].code, "", &[]), 403, USED);
    assert_eq!(world.refused("code"), 50.0);
    // a page that tells as much to who only looks refuses nothing
    let page = world.gate().get(&letters[0].link, &[BROWSER]);
    assert_eq!((page.status, page.header("proxy-status"), world.refused("code")), (200, Some("tidegate"), 50.0));
    world.end();
}

#[test]
fn a_lost_answer_costs_nobody_the_place_not_by_a_kill_and_not_by_a_new_key() {
    let (mut world, letters) = World::new();
    let landing = world.gate().get(&letters[0].link, &[BROWSER]);
    assert!(landing.status == 200 && landing.text().contains("You will go to: &#x2f;apply?step=2&amp;a=b"), "{}", landing.text());
    let (ticket, other) = (landing.ticket(), world.gate().get(&letters[1].link, &[BROWSER]).ticket());
    assert_ne!(ticket, other);
    let again = |world: &World, ticket: &str| world.redeem(&letters[0].code, &letters[0].fields(), &[ticket]);
    let pass = assert_in(&again(&world, &ticket), "/apply?step=2&a=b");
    for _ in 0..3 {
        assert_eq!(assert_in(&again(&world, &ticket), "/apply?step=2&a=b"), pass, "the same, byte by byte");
    }
    assert_out(&again(&world, &other), 403, USED);
    assert_out(&world.redeem(&letters[0].code, "", &[]), 403, USED);
    // the page says the same of it, for each
    assert!(world.gate().get(&letters[0].link, &[BROWSER, &ticket]).text().contains("You are invited"));
    assert!(world.gate().get(&letters[0].link, &[BROWSER, &other]).text().contains(USED));

    world.kill();
    world.serve();
    assert_eq!(assert_in(&again(&world, &ticket), "/apply?step=2&a=b"), pass);
    assert_out(&again(&world, &other), 403, USED);
    assert_eq!((world.events("redeemed").len(), world.metric("tidegate_invitations_redeemed_total")), (1, 0.0), "it was counted before");

    let rotated = run(&["keys", "rotate"], &world.config);
    assert_eq!(rotated.status, Some(0), "{}", rotated.err);
    let key = rotated.out.split(' ').next().unwrap().to_owned();
    let newer = until("the new key", || Some(assert_in(&again(&world, &ticket), "/apply?step=2&a=b")).filter(|pass| pass.contains(&key)));
    // the old one holds, and so do codes that are out
    world.mode("closed");
    for pass in [&pass, &newer] {
        assert_eq!(world.gate().get("/", &[BROWSER, pass]).text(), "the site");
    }
    world.open_for(&letters[1]);
    assert_out(&again(&world, &other), 403, USED);
    assert_in(&world.redeem(&letters[1].code, &letters[1].fields(), &[&other]), "/apply?step=2&a=b");
    // nor was anyone written to again
    assert_eq!((world.events("sending").len(), world.events("sent").len()), (3, 3));
    world.end();
}

#[test]
fn a_code_is_read_as_people_type_it_and_a_slip_is_none() {
    let (world, letters) = World::new();
    let code = &letters[0].code;
    let last = if code.ends_with('7') { '8' } else { '7' };
    for wrong in [format!("{}{last}", &code[..code.len() - 1]), code[1..].to_owned(), format!("{code}0"), "hello".to_owned(), String::new()]
    {
        let answer = world.redeem(&wrong, "", &[]);
        assert_out(&answer, 403, UNKNOWN);
        assert!(answer.text().contains(&format!("value=\"{wrong}\"")), "it can be mended: {}", answer.text());
    }
    // what can be no code is no guess
    assert_eq!(world.refused("guess_rate"), 0.0);
    assert!(world.gate().get(PATH, &[BROWSER]).text().contains("<label for=\"code\">"));
    assert_in(&world.redeem(&format!(" {} ", code.to_lowercase().replace('-', "  ")), "", &[]), "/");
    assert_in(&world.redeem(&letters[1].code.replace('-', "").replace('0', "o").replace('1', "l"), "", &[]), "/");
    world.end();
}

#[test]
fn the_page_asked_for_needs_the_proof_that_the_link_was_ours() {
    let (world, letters) = World::new();
    let check = letters[0].link.split_once("check=").unwrap().1;
    let pages = [("/evil", check), ("//evil.example", check), ("/apply?step=2&a=b", "0000000000000000"), ("/apply?step=2&a=b", "")];
    for (letter, (next, check)) in letters.iter().zip(pages) {
        let more = format!("&next={}&check={check}", encode(next));
        let page = world.gate().get(&format!("{PATH}?code={}{more}", letter.code), &[BROWSER]);
        assert!(!page.text().contains("You will go to"), "{}", page.text());
        assert_in(&world.redeem(&letter.code, &more, &[]), "/");
    }
    world.end();
}

#[test]
fn what_has_expired_or_was_revoked_opens_nothing() {
    let (mut world, letters) = World::new();
    let sent: jiff::Timestamp = world.events("sending")[0]["at"].as_str().unwrap().parse().unwrap();
    let batch = batch_of(UnixTime::from_secs(u64::try_from(sent.as_second()).unwrap()));
    let pass = assert_in(&world.redeem(&letters[0].code, "", &[]), "/");
    world.mode("closed");
    assert_eq!(world.gate().get("/", &[BROWSER, &pass]).text(), "the site");
    let soon = date(UnixTime::from_secs(u64::try_from(sent.as_second()).unwrap() + 60));
    for bypass in [format!("revoked: [\"batch-{batch:08x}\"]"), format!("not_before: {soon}")] {
        world.apply(&format!("bypass: {{ {bypass} }}\n"));
        assert_out(&world.redeem(&letters[1].code, "", &[]), 403, "This invitation was withdrawn");
        assert!(world.gate().get(&letters[1].link, &[BROWSER]).text().contains("This invitation was withdrawn"));
        assert_eq!(world.gate().get("/", &[BROWSER, &pass]).status, 503, "who is inside already");
    }
    world.apply("bypass: { revoked: [\"0000000000000002\", \"batch-00000001\"] }\n");
    world.open_for(&letters[2]);
    assert_out(&world.redeem(&letters[1].code, "", &[]), 403, "This invitation was withdrawn");
    assert_in(&world.redeem(&letters[2].code, "", &[]), "/");

    world.apply("");
    world.kill();
    let past = date(UnixTime::from_secs(u64::try_from(sent.as_second()).unwrap() - 3600));
    // those that were sent a second later hold a second longer
    let until: BTreeSet<String> = world.events("sending").iter().map(|event| event["until"].as_str().unwrap().to_owned()).collect();
    for path in world.ledgers() {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, until.iter().fold(text, |text, until| text.replace(until, &past))).unwrap();
    }
    world.serve();
    assert_out(&world.redeem(&letters[1].code, "", &[]), 403, "This invitation has expired");
    assert_eq!(world.events("redeemed").len(), 2);
    world.end();
}

#[test]
fn a_code_that_finds_no_room_is_good_later() {
    // four visitors at a time, a tenth of a second each
    let slow = Upstream::start(|_, site| {
        std::thread::park_timeout(Duration::from_millis(100));
        site.write(crate::support::ok("the site"))
    });
    let (world, letters) = World::at(slow);
    let crowded = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let _goes_home = GoesHome(&crowded);
        for _ in 0..8 {
            scope.spawn(|| {
                while crowded.load(Ordering::Relaxed) {
                    drop(world.gate().get("/", &[BROWSER]));
                }
            });
        }
        let page = until("no room", || Some(world.gate().get(&letters[0].link, &[BROWSER])).filter(|page| page.text().contains(NO_ROOM)));
        assert!(page.status == 200 && page.header("refresh").is_some(), "{}{}", page.raw, page.text());
        for _ in 0..3 {
            let answer = world.redeem(&letters[0].code, &letters[0].fields(), &[]);
            assert_out(&answer, 503, NO_ROOM);
            assert_eq!(answer.header("retry-after"), Some("60"));
        }
        assert_eq!(world.refused("no_room"), 3.0);
        assert_eq!(world.events("redeemed").len(), 0);
    });
    world.open_for(&letters[0]);
    assert_in(&world.redeem(&letters[0].code, &letters[0].fields(), &[]), "/apply?step=2&a=b");
    world.end();
}

/// A crowd that goes home also when the test fails: else nobody would hear of it.
struct GoesHome<'a>(&'a AtomicBool);

impl Drop for GoesHome<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn a_closed_gate_lets_in_who_has_a_code_already() {
    let (world, letters) = World::new();
    world.mode("closed");
    assert_eq!(world.gate().get("/", &[BROWSER]).status, 503);
    let pass = assert_in(&world.redeem(&letters[0].code, &letters[0].fields(), &[]), "/apply?step=2&a=b");
    assert_eq!(world.gate().get("/", &[BROWSER, &pass]).text(), "the site");
    world.end();
}

#[test]
fn who_guesses_is_held_off_and_others_are_not() {
    let (world, letters) = World::new();
    let guess =
        |n: u128, client: &str| world.redeem(&Code::from_first_bits(n << 60).to_string(), "", &[&format!("X-Forwarded-For: {client}")]);
    for n in 1..=10 {
        assert_out(&guess(n, "192.0.2.1"), 403, UNKNOWN);
    }
    let eleventh = guess(11, "192.0.2.1");
    assert_out(&eleventh, 429, "Please wait a moment");
    let wait: u64 = eleventh.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // not even with a code that is one; and a GET is a guess too
    assert_out(&world.redeem(&letters[0].code, "", &["X-Forwarded-For: 192.0.2.1"]), 429, "Please wait a moment");
    assert_out(&world.gate().get(&letters[0].link, &[BROWSER, "X-Forwarded-For: 192.0.2.1"]), 429, "Please wait a moment");
    assert_eq!(world.refused("guess_rate"), 3.0);
    assert_out(&guess(12, "192.0.2.2"), 403, UNKNOWN);
    assert_in(&world.redeem(&letters[0].code, "", &["X-Forwarded-For: 192.0.2.2"]), "/");
    world.end();
}

#[test]
fn who_was_invited_passes_the_gate_and_is_counted_among_those_inside() {
    let (world, letters) = World::new();
    let pass = assert_in(&world.redeem(&letters[0].code, "", &[]), "/");
    world.mode("closed");
    assert_eq!(world.gate().get("/", &[BROWSER]).status, 503);
    assert_eq!(world.gate().get("/", &[BROWSER, &pass]).text(), "the site");
    assert_eq!(world.metric("tidegate_requests_total{verdict=\"bypass\"}"), 1.0);
    until("one to be active", || (world.metric("tidegate_visitors_active") == 1.0).then_some(()));
    assert_eq!(world.metric("tidegate_invitations_redeemed_total"), 1.0);
    assert_eq!(world.upstream.seen().len(), 1);
    world.end();
}

#[test]
fn a_ledger_that_can_not_be_written_uses_nothing_up() {
    let (mut world, letters) = World::new();
    world.kill();
    // a limit on the size of files stands for the disk: what is written ends half-way, with an error
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" serve --config \"$1\"", env!("CARGO_BIN_EXE_tidegate")]).arg(&world.config);
    let gate = Gate::started(Process::spawn(command));
    let pid = Pid::from_raw(gate.process.id().cast_signed());
    let limit = |bytes| prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    world.gate = Some(gate);
    let size = world.ledgers().iter().map(|path| fs::metadata(path).unwrap().len()).max().unwrap();
    until("the ledger to be read", || world.gate().get(&letters[0].link, &[BROWSER]).text().contains("You are invited").then_some(()));
    limit(Some(size + 10));
    for _ in 0..3 {
        let answer = world.redeem(&letters[0].code, "", &[]);
        assert_out(&answer, 503, "We can not look at your invitation just now");
        assert!(answer.header("retry-after").is_some(), "{}", answer.raw);
        let answer = world.post(&letters[1].unsubscribe, "List-Unsubscribe=One-Click", &[]);
        assert_eq!((answer.status, answer.header("proxy-status")), (503, Some("tidegate; error=proxy_internal_error")));
    }
    assert_eq!(world.refused("storage"), 6.0);
    assert_eq!((world.events("redeemed").len(), world.metric("tidegate_invitations_redeemed_total")), (0, 0.0));
    limit(None);
    assert_in(&world.redeem(&letters[0].code, "", &[]), "/");
    assert_out(&world.redeem(&letters[0].code, "", &[]), 403, USED);
    let answer = world.post(&letters[1].unsubscribe, "List-Unsubscribe=One-Click", &[]);
    assert_eq!((answer.status, answer.header("proxy-status")), (200, Some("tidegate")));
    assert_eq!((world.events("redeemed").len(), world.events("left").len()), (1, 1));
    world.kill();
    world.serve();
    assert_out(&world.redeem(&letters[0].code, "", &[]), 403, USED);
    world.end();
}

#[test]
fn a_link_to_be_deleted_that_is_not_whole_deletes_nothing() {
    let (world, letters) = World::new();
    let whole = &letters[0].unsubscribe;
    assert_eq!(world.gate().get(whole, &[BROWSER]).header("proxy-status"), Some("tidegate"));
    let other = letters[1].unsubscribe.split_once("check=").unwrap().1;
    let links = [
        whole[..whole.len() - 1].to_owned(),
        whole.split_once('?').unwrap().0.to_owned(),
        format!("{}check={other}", whole.split_once("check=").unwrap().0),
    ];
    for (number, link) in (1..).zip(&links) {
        for answer in [world.gate().get(link, &[BROWSER]), world.post(link, "List-Unsubscribe=One-Click", &[])] {
            assert_eq!((answer.status, answer.header("proxy-status")), (403, Some("tidegate; error=http_request_error")), "{link}");
        }
        assert_eq!(world.refused("link"), 2.0 * f64::from(number), "{link}");
    }
    assert_eq!(world.events("left").len(), 0);
    world.end();
}

#[test]
fn who_is_forgotten_has_no_code() {
    let (world, letters) = World::new();
    let forgotten = run(&["queue", "forget", ADDRESSES[0]], &world.config);
    assert_eq!(forgotten.status, Some(0), "{}", forgotten.err);
    let page = || world.gate().get(&letters[0].link, &[BROWSER]).text();
    until("the code to be unknown", || page().contains(UNKNOWN).then_some(()));
    assert_out(&world.redeem(&letters[0].code, "", &[]), 403, UNKNOWN);
    let directory = world.scratch.path().join("data/email-queue");
    for entry in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        assert!(!fs::read_to_string(&entry).unwrap_or_default().contains("ann"), "{}", entry.display());
    }
    assert_eq!(world.events("sent").len(), 2);
    assert_in(&world.redeem(&letters[1].code, "", &[]), "/");
    world.end();
}
