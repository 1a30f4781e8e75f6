//! The demo: it needs nothing, shows the whole loop, and leaves nothing behind.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use tidegate::clock::Clock;

use crate::support::{Answer, Client, PATIENCE, Process, Scratch, request, tidegate, until};

/// A surge begins after 12 s, and fills the waiting room in a few more; a machine that is busy with other tests takes longer.
const SURGE: Duration = Duration::from_secs(60);

/// The mail comes within ten seconds, before the surge. On a machine that is too busy for that it comes in the calm after one.
const MAIL: Duration = Duration::from_secs(400);

const BROWSER: &str = "Accept: text/html";

fn post(address: SocketAddr, path: &str, form: &str, headers: &[&str]) -> Answer {
    let length = format!("Content-Length: {}", form.len());
    let own = format!("Origin: http://{address}");
    let all: Vec<&str> =
        [&*own, &length, BROWSER, "Content-Type: application/x-www-form-urlencoded"].iter().chain(headers).copied().collect();
    let mut client = Client::connect(address);
    let head = request("POST", path, &all).replace("Host: test", &format!("Host: {address}"));
    client.send(format!("{head}{form}"));
    client.answer()
}

/// The names and values of the hidden fields of a page, as a form sends them.
fn hidden(page: &str) -> String {
    let fields = page.split("<input type=\"hidden\" name=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"").unwrap();
        format!("{name}={}", rest.split('"').next().unwrap().replace("&#x2f;", "%2F").replace('/', "%2F"))
    });
    fields.collect::<Vec<_>>().join("&")
}

#[test]
fn the_demo_shows_a_surge_on_ports_that_are_free() {
    // taken by us, or by someone else already
    let taken = [8080, 9090].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let scratch = Scratch::new();
    let mut command = tidegate();
    command.arg("demo").env("TMPDIR", scratch.path());
    let mut demo = Process::spawn(command);
    for key in ["listen.http", "admin.listen"] {
        demo.out.wait(key, PATIENCE, |line| (line.contains(key) && line.ends_with("taking another port")).then_some(()));
    }
    let address = |what: &str| {
        let line = demo.out.wait(what, PATIENCE, |line| line.contains(what).then(|| line.to_owned()));
        let (_, rest) = line.split_once("http://").unwrap();
        rest.split('/').next().unwrap().parse::<SocketAddr>().unwrap()
    };
    let (gate, dashboard) = (address("the site behind the gate"), address("the operator's dashboard"));
    let mut client = Client::connect(gate);
    assert_eq!(client.get("/", &["Accept: text/html"]).status, 200);
    let mut operator = Client::connect(dashboard);
    operator.send(format!("GET /status HTTP/1.1\r\nHost: {dashboard}\r\n\r\n"));
    assert_eq!(operator.answer().status, 200);
    let waiting = |line: &str| {
        let is_live = ["load", "capacity", "probability", "active", "waiting"].iter().all(|word| line.contains(word));
        is_live.then(|| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    demo.out.wait("a live line", PATIENCE, waiting);
    mail_lets_in(&demo, gate, dashboard);
    demo.out.wait("the waiting room to open", SURGE, |line| line.contains("the waiting room opens").then_some(()));
    demo.out.wait("a crowd in the waiting room", SURGE, |line| waiting(line).filter(|waiting| *waiting > 20));
    demo.signal(Signal::INT);
    let status = demo.wait();
    assert_eq!(status.code(), Some(0), "{}", demo.err.all().join("\n"));
    assert!(demo.out.all().iter().any(|line| line.contains("The crowd goes home.")));
    assert_eq!(demo.err.all(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "it left something behind");
    drop(taken);
}

/// A person leaves an address while the site is closed. When it is open again they are written to, and the link that is shown lets in.
#[track_caller]
fn mail_lets_in(demo: &Process, gate: SocketAddr, dashboard: SocketAddr) {
    let mode = |mode: &str| assert_eq!(post(dashboard, "/mode", &format!("mode={mode}"), &[]).status, 303);
    mode("closed");
    let page = Client::connect(gate).get("/page/7", &[BROWSER]);
    assert_eq!(page.status, 503);
    let form = format!("email=ann%40example.org&{}", hidden(&page.text()));
    assert_eq!(post(gate, "/.tidegate/email", &form, &[&page.ticket()]).status, 303);
    mode("file");

    let mail = "mail to ann@example.org: There is room for you now at ";
    demo.out.wait("the mail", MAIL, |line| line.contains(mail).then_some(()));
    let link = until("the link", || {
        let lines = demo.out.all();
        let at = lines.iter().position(|line| line.contains(mail))?;
        lines.get(at + 1).map(|line| line.trim().to_owned())
    });
    let path = link.strip_prefix(&format!("http://{gate}")).unwrap_or_else(|| panic!("{link} is not a link to {gate}"));
    let landing = Client::connect(gate).get(path, &[BROWSER]);
    assert!(landing.text().contains("Enter the site"), "{}", landing.text());
    // a site that has filled up since spends no code
    let clock = Clock::start();
    let start = clock.moment();
    let never = (Mutex::new(()), Condvar::new());
    let entered = loop {
        let entered = post(gate, "/.tidegate/invitation", &hidden(&landing.text()), &[]);
        if entered.status == 303 {
            break entered;
        }
        assert_eq!(entered.status, 503, "{}", entered.text());
        assert!(clock.moment().since(start) < MAIL, "the site had no room for so long");
        drop(never.1.wait_timeout(never.0.lock().unwrap(), Duration::from_secs(1)).unwrap());
    };
    assert_eq!(entered.header("location"), Some("/page/7"));
    assert_eq!(Client::connect(gate).get("/page/7", &[BROWSER, &entered.pass()]).status, 200);
    assert_eq!(post(gate, "/.tidegate/invitation", &hidden(&landing.text()), &[]).status, 403, "it lets one person in, once");
}
