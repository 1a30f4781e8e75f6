//! The binary as a process: started twice, killed, told to end, started by systemd.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;

use crate::support::{Client, Door, Gate, PATIENCE, Process, Scratch, Upstream, ok, own_ports, request, run, tidegate, until};

const BROWSER: &str = "Accept: text/html";

fn policy(upstream: &Upstream, more: &str) -> String {
    format!("{}{more}", own_ports(&upstream.url()))
}

/// As [`own_ports`], with an end that the test spells out.
fn ending(upstream: &Upstream, shutdown: &str) -> String {
    format!(
        "listen: {{ http: 127.0.0.1:0, workers: 2 }}\nadmin: {{ listen: 127.0.0.1:0 }}\nupstream: {{ servers: [\"{}\"] }}\n\
         admission: {{ mode: open }}\nshutdown: {{ {shutdown} }}\nlog: {{ format: json }}\n",
        upstream.url()
    )
}

#[test]
fn after_a_kill_passes_tickets_mode_and_capacity_hold() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\nsession: { rate: 1000000 }\n"));
    let mut gate = Gate::serve(&file);
    let pass = gate.get("/", &[BROWSER]).pass();
    // answers enough to have measured what the site can do
    let mut client = gate.client();
    let saved = until("the capacity to be saved", || {
        for _ in 0..20 {
            assert_eq!(client.get("/", &[&pass]).status, 200);
        }
        let state: Value = serde_json::from_slice(&fs::read(scratch.path().join("data/state.json")).ok()?).unwrap();
        state["capacity"].as_f64()
    });
    assert!(saved > 32.0, "{saved}: it was measured, and the site is quicker than a cold start assumes");
    assert_eq!(gate.admin_post("/mode", r#"{"mode":"closed"}"#).status, 200);
    let ticket = gate.get("/", &[BROWSER]).ticket();
    gate.process.kill();

    let state: Value = serde_json::from_slice(&fs::read(scratch.path().join("data/state.json")).unwrap()).unwrap();
    let gate = Gate::serve(&file);
    let status = gate.status();
    assert_eq!((status["mode"]["name"].as_str(), status["mode"]["source"].as_str()), (Some("closed"), Some("operator")));
    let (restored, saved) = (status["capacity"].as_f64().unwrap(), state["capacity"].as_f64().unwrap());
    assert!((restored - saved).abs() < 0.01, "{restored} is not {saved}");
    assert_eq!(gate.get("/", &[BROWSER, &pass]).status, 200);
    let waiting = gate.get("/", &[BROWSER, &ticket]);
    assert_eq!(waiting.status, 503);
    assert!(waiting.all("set-cookie").is_empty(), "the ticket did not hold: {}", waiting.raw);
    let own: Value = serde_json::from_slice(&gate.get("/.tidegate/status", &[&ticket]).body).unwrap();
    assert_eq!(own["verdict"], "wait");
    assert_eq!(gate.admin_post("/mode", r#"{"mode":"file"}"#).status, 200);
    assert_eq!(gate.get("/", &[BROWSER]).status, 200);
    gate.end();
    // cleared is cleared, also for the next start
    let gate = Gate::serve(&file);
    assert_eq!(gate.status()["mode"]["source"], "file");
    gate.end();
}

#[test]
fn after_a_kill_the_line_stands_where_it_stood() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: closed, order: arrival }\n"));
    let mut gate = Gate::serve(&file);
    let ticket = gate.get("/", &[BROWSER]).ticket();
    let saved = until("the line to be saved", || {
        let state: Value = serde_json::from_slice(&fs::read(scratch.path().join("data/state.json")).ok()?).unwrap();
        state["line"]["grains"].as_f64()
    });
    gate.process.kill();
    let gate = Gate::serve(&file);
    let stands = until("the line to be told", || Some(gate.status()).filter(|status| status["line"].is_object()))["line"]["at"].clone();
    let stands: jiff::Timestamp = stands.as_str().unwrap().parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a time of this century")]
    let grains = stands.as_millisecond() as f64 / 10_000.0;
    assert!((grains - saved).abs() < 0.001, "{grains} is not {saved}");
    let own: Value = serde_json::from_slice(&gate.get("/.tidegate/status", &[&ticket]).body).unwrap();
    assert_eq!((own["verdict"].as_str(), own["position"].as_u64()), (Some("wait"), Some(1)));
    gate.end();
}

#[test]
fn a_mode_whose_time_ran_out_while_the_gate_was_down_is_over() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n"));
    let mut gate = Gate::serve(&file);
    assert_eq!(gate.admin_post("/mode", r#"{"mode":"closed","for":"1s"}"#).status, 200);
    gate.process.kill();
    let gate = Gate::serve(&file);
    until("the mode to end", || Some(()).filter(|()| gate.status()["mode"]["source"] == "file"));
    assert_eq!(gate.get("/", &[BROWSER]).status, 200);
}

#[test]
fn a_saved_state_that_is_torn_is_set_aside() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n"));
    Gate::serve(&file).end();
    scratch.write("data/state.json", "{\"version\":1,\"capa");
    let gate = Gate::serve(&file);
    assert_eq!(gate.get("/", &[BROWSER]).status, 200);
    assert!(scratch.path().join("data/state.json.bad-1").exists());
    let log = gate.end();
    assert!(log.iter().any(|line| line.contains("the saved state could not be read")), "{log:#?}");
}

#[test]
fn a_second_gate_on_the_same_data_is_refused() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n"));
    let gate = Gate::serve(&file);
    let second = run(&["serve"], &file);
    assert_eq!(second.status, Some(1));
    let data = scratch.path().join("data");
    assert!(second.err.contains(&format!("{}: already in use by process {}", data.display(), gate.process.id())), "{}", second.err);
    assert_eq!(gate.get("/", &[BROWSER]).status, 200);
}

#[test]
fn a_second_gate_on_the_same_port_is_refused() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let gate = Gate::serve(&scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n")));
    for (http, admin, key) in [
        (gate.http.to_string(), "127.0.0.1:0".to_owned(), "listen.http"),
        ("127.0.0.1:0".to_owned(), gate.admin.to_string(), "admin.listen"),
    ] {
        let yaml = format!(
            "listen: {{ http: {http} }}\nadmin: {{ listen: {admin} }}\ndata: other\nupstream: {{ servers: [\"{}\"] }}\n",
            upstream.url()
        );
        let second = run(&["serve"], &scratch.write("second.yaml", &yaml));
        assert_eq!(second.status, Some(1), "{}", second.err);
        assert!(second.err.contains(&format!("{key}: ")) && second.err.contains("is in use by another process"), "{}", second.err);
    }
    // it never shared the port: all of many connections are the first one's
    for _ in 0..20 {
        assert_eq!(gate.get("/", &[BROWSER]).status, 200);
    }
}

#[test]
fn told_to_end_it_says_so_first_serves_on_and_finishes_what_it_began() {
    let door = Door::default();
    let waits = door.clone();
    let upstream = Upstream::start(move |seen, site| {
        if seen.target == "/slow" {
            waits.wait();
        }
        site.write(ok("the site"))
    });
    let scratch = Scratch::new();
    // the delay lasts until a second signal ends it
    let mut gate = Gate::serve(&scratch.write("gate.yaml", &ending(&upstream, "delay: 60s, deadline: 60s")));
    let health = |gate: &Gate| (gate.admin("/readyz").status, gate.get("/.tidegate/healthz", &[]).status);
    assert_eq!(health(&gate), (200, 200));
    assert_eq!(gate.get("/.tidegate/healthz", &[]).header("proxy-status"), Some("tidegate"));
    let (mut slow, mut idle) = (gate.client(), gate.client());
    let pass = idle.get("/", &[BROWSER]).pass();
    slow.send(request("GET", "/slow", &[&pass]));
    upstream.requests(2);

    gate.process.signal(Signal::TERM);
    until("health to go down", || Some(()).filter(|()| health(&gate) == (503, 503)));
    let draining = gate.get("/.tidegate/healthz", &[]);
    assert_eq!(draining.header("proxy-status"), Some("tidegate; error=http_request_denied; details=\"draining\""));
    assert_eq!(gate.admin("/healthz").status, 200, "the process lives");
    assert_eq!(gate.status()["draining"], true);
    assert!(gate.status()["summary"].as_str().unwrap().contains("The gate is shutting down"));
    let check = scratch.write("check.yaml", &format!("upstream: {{ servers: [http://x] }}\nadmin: {{ listen: {} }}\n", gate.admin));
    let said = run(&["healthcheck"], &check);
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("/readyz answers 503"), "{}", said.err);
    // until load balancers have seen it, visitors still come, and are served
    let late = gate.get("/", &[BROWSER]);
    assert_eq!((late.status, late.text().as_str(), late.header("connection")), (200, "the site", Some("close")));

    let address = gate.http;
    until("the listener to close", || {
        // again and again: one that comes before the delay has begun is not heard
        gate.process.signal(Signal::TERM);
        TcpStream::connect(address).err()
    });
    assert!(gate.process.runs(), "a request is under way");
    // a connection between two requests is not waited for
    idle.assert_ends();
    door.open();
    let answer = slow.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "the site"));
    let status = gate.process.wait();
    assert_eq!(status.code(), Some(0));
    let log = gate.process.err.all();
    for word in ["\"draining\"", "\"stopped\""] {
        assert!(log.iter().any(|line| line.contains(word)), "{word}: {log:#?}");
    }
    assert!(scratch.path().join("data/state.json").exists());
}

#[test]
fn what_is_not_done_by_the_deadline_is_cut_off() {
    let door = Door::default();
    let waits = door.clone();
    let upstream = Upstream::start(move |_, site| {
        waits.wait();
        site.write(ok("too late"))
    });
    let scratch = Scratch::new();
    let mut gate = Gate::serve(&scratch.write("gate.yaml", &ending(&upstream, "delay: 0s, deadline: 1s")));
    let mut slow = gate.client();
    slow.send(request("GET", "/", &[BROWSER]));
    upstream.requests(1);
    gate.process.signal(Signal::INT);
    let status = gate.process.wait();
    assert_eq!(status.code(), Some(0));
    assert!(slow.try_answer("GET").is_err());
    let log = gate.process.err.all();
    assert!(log.iter().any(|line| line.contains("cut off")), "{log:#?}");
    door.open();
}

#[test]
fn a_signal_to_end_is_heeded_from_the_first_moment_on() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, ""));
    for _ in 0..10 {
        // at once after it has said that it started
        Gate::serve(&file).end();
    }
}

#[test]
fn a_hangup_reloads() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n"));
    let gate = Gate::serve(&file);
    // the poll takes in nothing that has not changed: this is the signal's doing
    gate.process.signal(Signal::HUP);
    gate.process.err.wait("a reload", PATIENCE, |line| line.contains("policy applied").then_some(()));
    let metrics = gate.admin("/metrics").text();
    assert!(metrics.contains("tidegate_config_reloads_total{result=\"applied\"} 1"), "{metrics}");
    scratch.write("gate.yaml", "nonsense: 1");
    gate.process.signal(Signal::HUP);
    gate.process.err.wait("a rejection", PATIENCE, |line| line.contains("policy rejected").then_some(()));
    assert_eq!(gate.get("/", &[BROWSER]).status, 200);
    gate.end();
}

#[test]
fn a_socket_handed_over_is_served_and_outlives_the_gate() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    // listen.http is not what is served
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n").replace("workers: 1", "workers: 2"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = || {
        let mut command = tidegate_by_shell(
            "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\"",
            &[env!("CARGO_BIN_EXE_tidegate"), file.to_str().unwrap()],
        );
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        Gate::started(Process::spawn(command))
    };
    let gate = start();
    assert_eq!(gate.http, address);
    let pass = gate.get("/", &[BROWSER]).pass();
    gate.end();
    // no gate is there: who comes now waits in the socket, and is served by the next one
    let mut early = Client::connect(address);
    early.send(request("GET", "/", &[&pass]));
    let gate = start();
    assert_eq!(early.answer().text(), "the site");
    for _ in 0..10 {
        assert_eq!(gate.get("/", &[&pass]).status, 200);
    }
    drop(early);
    gate.end();
}

/// A shell that becomes the gate.
fn tidegate_by_shell(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).args(arguments).env_remove("NOTIFY_SOCKET").env_remove("TIDEGATE_LOG");
    command
}

#[test]
fn systemd_activates_it() {
    // where there is no systemd, the test above stands for it
    let Ok(_there) = Command::new("systemd-socket-activate").arg("--version").output() else { return };
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n"));
    // it takes no port 0: one that was free a moment ago, or the next one
    let (process, address) = until("a port for systemd", || {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("systemd-socket-activate");
        command.arg(format!("--listen={address}"));
        command.args([env!("CARGO_BIN_EXE_tidegate"), "serve", "--config"]).arg(&file);
        let mut process = Process::spawn(command);
        let listens = until("systemd to listen or to give up", || match process.err.all().iter().any(|line| line.contains("Listening")) {
            true => Some(true),
            false => (!process.runs()).then_some(false),
        });
        listens.then_some((process, address))
    });
    let mut client = Client::connect(address);
    client.send(request("GET", "/", &[BROWSER]));
    let gate = Gate::started(process);
    assert_eq!(gate.http, address);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "the site"));
    gate.end();
}

#[test]
fn systemd_is_told_when_the_gate_is_ready_reloads_and_stops() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &policy(&upstream, ""));
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect("systemd to be told");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut command = tidegate();
    command.arg("serve").arg("--config").arg(&file).env("NOTIFY_SOCKET", &path);
    let gate = Gate::started(Process::spawn(command));
    assert_eq!(told().trim(), "READY=1");
    gate.process.signal(Signal::HUP);
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told().trim(), "READY=1");
    gate.process.signal(Signal::TERM);
    assert_eq!(told().trim(), "STOPPING=1");
    gate.end_by_itself();
}

#[test]
fn a_site_that_is_not_there_keeps_no_gate_from_starting() {
    let vacant = crate::support::Vacant::new();
    let scratch = Scratch::new();
    let gate = Gate::serve(&scratch.write("gate.yaml", &format!("{}admission: {{ mode: open }}\n", own_ports(&vacant.url()))));
    assert_eq!(gate.admin("/readyz").status, 200);
    let answer = gate.get("/", &[BROWSER]);
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=connection_refused")));
    gate.end();
}

#[test]
fn without_its_data_the_gate_serves_on_and_says_so() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let gate = Gate::serve(&scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n")));
    let pass = gate.get("/", &[BROWSER]).pass();
    // the disk is gone, and at once: the gate may be writing to it
    let gone = scratch.path().join("gone");
    fs::rename(scratch.path().join("data"), &gone).unwrap();
    fs::remove_dir_all(gone).unwrap();
    gate.process.err.wait("the keys to be missed", PATIENCE * 2, |line| line.contains("the keys could not be read").then_some(()));
    gate.admin_post("/mode", r#"{"mode":"closed"}"#);
    gate.process.err.wait("the state to be missed", PATIENCE, |line| line.contains("the state could not be saved").then_some(()));
    assert_eq!(gate.get("/", &[BROWSER, &pass]).status, 200);
    assert_eq!(gate.get("/", &[BROWSER]).status, 503);
    gate.end();
}

#[test]
fn out_of_descriptors_it_says_so_and_goes_on_when_there_are_some() {
    let upstream = Upstream::answering("the site");
    let scratch = Scratch::new();
    let mut gate = Gate::serve(&scratch.write("gate.yaml", &policy(&upstream, "admission: { mode: open }\n")));
    let mut early = gate.client();
    assert_eq!(early.get("/", &[]).status, 200);
    let id = Pid::from_raw(i32::try_from(gate.process.id()).unwrap()).unwrap();
    let limit = |current| prlimit(Some(id), Resource::Nofile, Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) }).unwrap();
    let before = limit(3);
    let mut late = gate.client();
    late.send(request("GET", "/", &[]));
    gate.process.err.wait("what it is short of", PATIENCE, |line| line.contains("a connection could not be accepted").then_some(()));
    assert_eq!(early.get("/", &[]).status, 200, "who is there is served on");
    limit(before.current.unwrap());
    assert_eq!(late.answer().status, 200, "who came meanwhile has only waited");
    let refused = gate.admin("/metrics").text();
    let refused = refused.lines().find_map(|line| line.strip_prefix("tidegate_requests_refused_total{reason=\"connections\"} "));
    assert!(refused.is_some_and(|count| count.parse::<f64>().unwrap() >= 1.0), "{refused:?}");
    assert!(gate.process.runs());
    gate.end();
}
