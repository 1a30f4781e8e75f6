//! What is logged, and what never is.

use serde_json::Value;

use crate::support::{Door, Gate, PATIENCE, Scratch, Upstream, Vacant, ok, own_ports, request, until};

const BROWSER: &str = "Accept: text/html";

#[test]
fn every_line_is_json_and_none_holds_a_secret() {
    let upstream =
        Upstream::start(|seen, site| site.write(if seen.target.starts_with("/broken") { "nonsense\r\n\r\n".to_owned() } else { ok("x") }));
    let scratch = Scratch::new();
    let yaml = format!(
        "listen: {{ http: 127.0.0.1:0, workers: 1 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         upstream: {{ servers: [\"{}\"], max_in_flight: 1 }}\nroutes: [{{ path: /free, gate: open }}]\n\
         limits: {{ tickets_per_client: 1000000 }}\n\
         shutdown: {{ delay: 0s }}\nlog: {{ format: json, access: all }}\n",
        upstream.url()
    );
    let file = scratch.write("gate.yaml", &yaml);
    let gate = Gate::serve(&file);
    let line = |gate: &Gate, message: &str| {
        let found = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["message"] == message);
        gate.process.err.wait(message, PATIENCE * 2, found)
    };
    let started = line(&gate, "started");
    assert_eq!((started["level"].as_str(), started["mode"].as_str()), (Some("INFO"), Some("auto")));
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));

    // a crowd, for a site that can do one thing at a time
    until("the gate to limit", || {
        for _ in 0..10 {
            gate.get("/crowd?secret-query", &[BROWSER]);
        }
        Some(()).filter(|()| gate.process.err.all().iter().any(|line| line.contains("limiting begins")))
    });
    let limiting = line(&gate, "limiting begins");
    assert!(limiting["capacity"].is_number() && limiting["waiting"].is_number() && limiting["load"].is_number(), "{limiting}");

    gate.admin_post("/mode", r#"{"mode":"open"}"#);
    let mode = line(&gate, "mode set");
    assert_eq!((mode["mode"].as_str(), mode["source"].as_str()), (Some("open"), Some("operator")));
    assert_eq!(gate.admin_post("/reload", "").status, 200);
    assert_eq!(line(&gate, "policy applied")["path"], file.display().to_string());
    let pass = gate.get("/enter?secret-query", &[BROWSER]).pass();
    gate.admin_post("/mode", r#"{"mode":"closed"}"#);
    let ticket = gate.get("/wait?secret-query", &[BROWSER]).ticket();
    let (pass, ticket) = (pass.split_once('=').unwrap().1.to_owned(), ticket.split_once('=').unwrap().1.to_owned());
    gate.get("/in?secret-query", &[BROWSER, &format!("Cookie: tidegate_pass={pass}; sid=secret-query")]);
    gate.get("/in", &[BROWSER, &format!("Tidegate-Pass: {pass}")]);
    gate.get("/again", &[BROWSER, &format!("Cookie: tidegate_ticket={ticket}")]);
    gate.get("/free?secret-query", &[]);
    gate.get("/broken?secret-query", &[&format!("Tidegate-Pass: {pass}")]);
    gate.get(&format!("/.tidegate/invitation?code={pass}"), &[BROWSER]);
    gate.get("/forged", &[&format!("Cookie: tidegate_pass={}x", &pass[..pass.len() - 1])]);
    let mut client = gate.client();
    let body = format!("code={pass}&next=/secret-query");
    client.send(request("POST", "/.tidegate/invitation", &[&format!("Content-Length: {}", body.len())]));
    client.send(&body);
    client.answer();
    // a line break or a colour in a path must not make a line of its own
    gate.get("/%0d%0a%1b[31m{\"message\":\"forged\"}", &[]);

    let log = gate.end();
    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let all = log.join("\n");
    for secret in [pass.as_str(), &ticket, pass.rsplit('.').next().unwrap(), ticket.rsplit('.').next().unwrap(), "secret-query", "code="] {
        assert!(!all.contains(secret), "{secret} is in the log");
    }
    for line in &lines {
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && line["level"].is_string() && line["target"].is_string(), "{line}");
    }
    let access = |path: &str| {
        let line = lines.iter().find(|line| line["target"] == "access" && line["path"] == path).unwrap_or_else(|| panic!("{path}: {all}"));
        assert_eq!((line["method"].as_str(), line["client"].as_str()), (Some("GET"), Some("127.0.0.1")));
        assert!(line["took_ms"].is_u64(), "{line}");
        (line["verdict"].as_str().unwrap(), line["reason"].as_str().unwrap(), line["status"].as_u64().unwrap())
    };
    assert_eq!(access("/enter"), ("admit", "mode_open", 200));
    assert_eq!(access("/wait"), ("wait", "closed", 503));
    assert_eq!(access("/in"), ("admit", "pass", 200));
    assert_eq!(access("/free"), ("open", "open_route", 200));
    assert_eq!(access("/broken"), ("admit", "pass", 502));
    assert_eq!(access("/.tidegate/invitation"), ("reserved", "reserved", 200));
    assert_eq!(lines.last().unwrap()["message"], "stopped");
    assert!(!lines.iter().any(|line| line["message"] == "forged"));
}

#[test]
fn the_access_log_is_off_unless_it_is_asked_for() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &own_ports(&upstream.url()));
    let gate = Gate::serve(&file);
    for _ in 0..10 {
        gate.get("/", &[BROWSER]);
    }
    let log = gate.end();
    assert!(!log.iter().any(|line| line.contains("\"access\"")), "{log:#?}");
    assert!(log.len() < 10, "quiet when nothing happens: {log:#?}");
}

#[test]
fn who_leaves_before_the_answer_has_a_line_without_a_status() {
    let door = Door::default();
    let upstream = Upstream::behind(&door, "too late");
    let scratch = Scratch::new();
    let yaml = own_ports(&upstream.url()).replace("log: { format: json", "admission: { mode: open }\nlog: { format: json, access: all");
    let gate = Gate::serve(&scratch.write("gate.yaml", &yaml));
    let mut client = gate.client();
    client.send(request("GET", "/report?secret-query", &[]));
    upstream.requests(1);
    client.reset();
    let line = gate.process.err.wait("the request", PATIENCE, |line| {
        serde_json::from_str::<Value>(line).ok().filter(|line| line["target"] == "access" && line["path"] == "/report")
    });
    assert_eq!((line["method"].as_str(), line["client"].as_str()), (Some("GET"), Some("127.0.0.1")));
    assert!(line["status"].is_null() && line["verdict"].is_null() && line["took_ms"].is_u64(), "{line}");
    door.open();
    let log = gate.end();
    assert_eq!(log.iter().filter(|line| line.contains("\"access\"")).count(), 1, "{log:#?}");
}

#[test]
fn a_rejected_policy_is_logged_with_its_place() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &own_ports(&upstream.url()));
    let gate = Gate::serve(&file);
    scratch.write("gate.yaml", "upstream:\n  servers: 1\nsession: { rate: x }\n");
    assert_eq!(gate.admin_post("/reload", "").status, 422);
    let log = gate.end();
    let rejected: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(line).unwrap()).filter(|line: &Value| line["level"] == "ERROR").collect();
    assert_eq!(rejected.len(), 2, "{log:#?}");
    for (line, place) in rejected.iter().zip([":2:12: upstream.servers", ":3:18: session.rate"]) {
        assert!(line["error"].as_str().unwrap().contains(place), "{line}");
    }
}

#[test]
fn a_server_that_is_left_out_and_one_that_is_back_are_told_of_once_each() {
    let vacant = Vacant::new();
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &format!("{}admission: {{ mode: open }}\n", own_ports(&vacant.url())));
    let gate = Gate::serve(&file);
    let server = vacant.url();
    let up = |gate: &Gate| gate.status()["upstream"][0]["up"] == true;
    until("the ejection", || {
        gate.get("/", &[]);
        (!up(&gate)).then_some(())
    });
    let _site = vacant.start(|_, site| site.write(ok("back")));
    for _ in 0..10 {
        assert_eq!(gate.get("/", &[]).text(), "back");
    }
    until("the way back", || up(&gate).then_some(()));
    let log = gate.end();
    let told = |message: &str| -> Vec<Value> {
        let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["message"] == message).collect()
    };
    let (ejected, back) = (told("server ejected"), told("server is back"));
    assert_eq!((ejected.len(), back.len()), (1, 1), "{log:#?}");
    assert_eq!((back[0]["server"].as_str(), back[0]["level"].as_str()), (Some(server.as_str()), Some("INFO")));
}

#[test]
fn a_level_that_is_none_is_told() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let mut command = crate::support::tidegate();
    let file = scratch.write("gate.yaml", &own_ports(&upstream.url()));
    command.arg("serve").arg("--config").arg(file).env("TIDEGATE_LOG", "loud=very");
    let said = crate::support::run_command(command);
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("TIDEGATE_LOG"), "{}", said.err);
}

#[test]
fn of_a_share_of_the_requests_the_access_log_has_some_and_not_all() {
    const MANY: usize = 200;
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let yaml = own_ports(&upstream.url()).replace("log: { format: json", "admission: { mode: open }\nlog: { format: json, access: 0.5");
    let gate = Gate::serve(&scratch.write("gate.yaml", &yaml));
    let mut client = gate.client();
    for _ in 0..MANY {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    let logged = gate.end().iter().filter(|line| line.contains("\"access\"")).count();
    // either would be one time in 2^200
    assert!((1..MANY).contains(&logged), "{logged}");
}
