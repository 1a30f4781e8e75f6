//! The email queue and the disk: what was said to be taken is there, whatever happens to the gate or to the disk.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Client, Gate, PATIENCE, Process, Scratch, own_ports, request, run, until};

const BROWSER: &str = "Accept: text/html";

fn closed(scratch: &Scratch) -> std::path::PathBuf {
    let yaml = own_ports("http://127.0.0.1:9");
    scratch.write(
        "gate.yaml",
        &format!("{yaml}admission: {{ mode: closed }}\nemail_queue: {{ posts_per_client: 1000000, addresses_per_ticket: 1000 }}\nlimits: {{ tickets_per_client: 100000 }}\n"),
    )
}

/// A visitor with a ticket and the form of its page.
struct Visitor {
    ticket: String,
    fields: String,
}

impl Visitor {
    fn new(gate: &Gate) -> Self {
        let page = gate.get("/", &[BROWSER]);
        let text = page.text();
        let check = text.split_once("name=\"check\" value=\"").and_then(|(_, rest)| rest.split_once('"')).unwrap().0;
        Self { ticket: page.ticket(), fields: format!("next=%2F&check={check}") }
    }

    /// Posts an address. Returns the status, if there was an answer.
    fn post(&self, client: &mut Client, address: &str) -> Option<u16> {
        let body = format!("email={}&{}", address.replace('@', "%40"), self.fields);
        let length = format!("Content-Length: {}", body.len());
        let head =
            request("POST", "/.tidegate/email", &["Content-Type: application/x-www-form-urlencoded", &length, &self.ticket, BROWSER]);
        client.try_send(head + &body).ok()?;
        client.try_answer("POST").ok().map(|answer| answer.status)
    }
}

/// How often each address is in the files, and how many lines are no rows.
fn written(data: &Path) -> (HashMap<String, usize>, usize) {
    let (mut emails, mut others) = (HashMap::new(), 0);
    for file in std::fs::read_dir(data.join("email-queue")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(path).unwrap().lines() {
            match serde_json::from_str::<serde_json::Value>(line).ok().and_then(|row| Some(row["email"].as_str()?.to_owned())) {
                Some(email) => *emails.entry(email).or_default() += 1,
                None => others += 1,
            }
        }
    }
    (emails, others)
}

/// The gate of the moment, which those who post have to find again after each kill.
struct Served {
    gate: Mutex<Option<(Gate, u32)>>,
    answered: Mutex<Vec<String>>,
    more: Condvar,
}

impl Served {
    fn connect(&self, before: u32) -> (Client, u32) {
        until("the next gate", || {
            let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let (gate, number) = gate.as_ref().filter(|(_, number)| *number != before)?;
            Some((gate.client(), *number))
        })
    }
}

#[test]
fn killed_ten_times_it_has_every_address_that_it_has_taken_once() {
    const VISITORS: usize = 64;
    const EACH: usize = 313;
    const KILLS: usize = 10;
    let scratch = Scratch::new();
    let config = closed(&scratch);
    let gate = Gate::serve(&config);
    let visitors: Vec<Visitor> = (0..VISITORS).map(|_| Visitor::new(&gate)).collect();
    let served = Served { gate: Mutex::new(Some((gate, 1))), answered: Mutex::default(), more: Condvar::new() };
    std::thread::scope(|scope| {
        for (n, visitor) in visitors.iter().enumerate() {
            let served = &served;
            scope.spawn(move || {
                let (mut client, mut number) = served.connect(0);
                for address in (0..EACH).map(|i| format!("visitor{n}.{i}@example.org")) {
                    // without an answer they try again, as people do
                    while visitor.post(&mut client, &address) != Some(303) {
                        (client, number) = served.connect(number);
                    }
                    served.answered.lock().unwrap().push(address);
                    served.more.notify_all();
                }
            });
        }
        for kill in 1..=KILLS {
            let enough = VISITORS * EACH * kill / (KILLS + 1);
            let answered = served.answered.lock().unwrap();
            let (answered, _) = served.more.wait_timeout_while(answered, PATIENCE, |answered| answered.len() < enough).unwrap();
            assert!(answered.len() >= enough, "{} are taken", answered.len());
            drop(answered);
            let (mut gate, number) = served.gate.lock().unwrap().take().unwrap();
            gate.process.kill();
            *served.gate.lock().unwrap() = Some((Gate::serve(&config), number + 1));
        }
    });
    let answered: HashSet<String> = served.answered.into_inner().unwrap().into_iter().collect();
    assert_eq!(answered.len(), VISITORS * EACH);
    let (emails, others) = written(&scratch.path().join("data"));
    assert_eq!(others, 0, "lines that are no rows");
    let wrong: Vec<_> = answered.iter().filter(|address| emails.get(*address) != Some(&1)).collect();
    assert!(wrong.is_empty() && emails.len() == answered.len(), "{wrong:?} of {}", emails.len());
    served.gate.into_inner().unwrap().unwrap().0.end();
    let said = run(&["queue", "status"], &config);
    assert!(said.out.starts_with(&format!("{} addresses, taken from ", VISITORS * EACH)), "{said:?}");
}

#[test]
fn a_full_disk_costs_nothing_that_was_taken_and_it_goes_on_when_there_is_room() {
    let scratch = Scratch::new();
    let config = closed(&scratch);
    // a limit on the size of files stands for the disk: what is written ends half-way, with an error
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" serve --config \"$1\"", env!("CARGO_BIN_EXE_tidegate")]).arg(&config);
    let gate = Gate::started(Process::spawn(command));
    let pid = Pid::from_raw(gate.process.id().cast_signed());
    let limit = |bytes| prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    let visitor = Visitor::new(&gate);
    let mut client = gate.client();
    let full = AtomicBool::new(false);
    let mut taken = Vec::new();
    limit(Some(8000));
    for n in 0..200 {
        let address = format!("visitor{n}@example.org");
        match visitor.post(&mut client, &address) {
            Some(303) => taken.push(address),
            Some(503) => full.store(true, Ordering::Relaxed),
            other => panic!("{other:?}"),
        }
        if full.load(Ordering::Relaxed) {
            break;
        }
    }
    assert!(full.load(Ordering::Relaxed) && taken.len() > 10, "{} were taken", taken.len());
    // what half of a row there was is gone again, and visitors are served as ever
    let data = scratch.path().join("data");
    let (emails, others) = written(&data);
    assert!(others == 0 && emails.len() == taken.len(), "{others} {}", emails.len());
    assert_eq!(gate.get("/", &[BROWSER]).status, 503, "the waiting room");
    let metrics = || gate.admin("/metrics").text();
    assert!(metrics().contains("tidegate_emails_refused_total{reason=\"storage\"} 1"), "{}", metrics());
    limit(None);
    until("there to be room", || (visitor.post(&mut client, "late@example.org") == Some(303)).then_some(()));
    taken.push("late@example.org".to_owned());
    until("the gauge", || metrics().contains("tidegate_email_writable 1").then_some(()));
    let log = gate.end().join("\n");
    assert!(
        log.contains("email addresses can't be written down, and the form says so") && log.contains("can be written down again"),
        "{log}"
    );
    let (emails, others) = written(&data);
    assert!(others == 0 && taken.iter().all(|address| emails.get(address) == Some(&1)) && emails.len() == taken.len(), "{emails:?}");
}
