//! The demo: it needs nothing, shows the whole loop, and leaves nothing behind.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Client, PATIENCE, Process, Scratch, tidegate};

/// A surge begins after 12 s, and fills the waiting room in a few more; a machine that is busy with other tests takes longer.
const SURGE: Duration = Duration::from_secs(60);

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
    let live = |line: &str| ["load", "capacity", "probability", "active", "waiting"].iter().all(|word| line.contains(word)).then_some(());
    demo.out.wait("a live line", PATIENCE, live);
    demo.out.wait("the waiting room to open", SURGE, |line| line.contains("the waiting room opens").then_some(()));
    demo.signal(Signal::INT);
    let status = demo.wait();
    assert_eq!(status.code(), Some(0), "{}", demo.err.all().join("\n"));
    assert!(demo.out.all().iter().any(|line| line.contains("The crowd goes home.")));
    assert_eq!(demo.err.all(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "it left something behind");
    drop(taken);
}
