//! The listener over real sockets, with a gate that only remembers what it was asked.

use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::places::PLACES;
use super::*;
use crate::metrics::{Count, VerdictLabel};
use crate::rules::policy::Mode;

const SECRET: &str = "correct-horse-battery";

struct FakeGate {
    status: Value,
    ready: Result<(), &'static str>,
    reload: ReloadAnswer,
    asked: Mutex<Vec<ModeRequest>>,
}

impl Default for FakeGate {
    fn default() -> Self {
        Self { status: json!({}), ready: Ok(()), reload: ReloadAnswer::Applied, asked: Mutex::default() }
    }
}

impl AdminBackend for FakeGate {
    fn status(&self) -> Value {
        self.status.clone()
    }

    fn ready(&self) -> Result<(), &'static str> {
        self.ready
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadAnswer> + Send + '_>> {
        Box::pin(async { self.reload.clone() })
    }

    fn pause_invitations(&self, paused: bool) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move { if paused { Ok(()) } else { Err("the disk is full".to_owned()) } })
    }

    fn set_mode(&self, request: ModeRequest) -> Result<Value, String> {
        if matches!(request, ModeRequest::Set { mode: Mode::Observe, .. }) {
            return Err("mode: observe is not possible now".to_owned());
        }
        self.asked.lock().unwrap().push(request);
        Ok(json!({ "name": "set" }))
    }
}

/// A listener of its own for each test; it ends with the test.
struct World {
    address: SocketAddr,
    gate: Arc<FakeGate>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(gate: FakeGate, token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(gate);
        let metrics = Arc::new(Metrics::new(1).unwrap());
        metrics.control().count(Count::Request(VerdictLabel::Admit));
        let state = AdminState {
            metrics,
            clock: Arc::new(Clock::start()),
            backend: Arc::clone(&gate) as Arc<dyn AdminBackend>,
            token: Arc::new(ArcSwapOption::from_pointee(token.map(|token| AdminToken::new(token).unwrap()))),
            hosts: Vec::new(),
        };
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, Arc::new(state), async move {
            let _either_way = stopped.await;
        }));
        Self { address, gate, stop: Some(stop), served }
    }

    /// Sends one request as written, with our Host and `Connection: close` unless it brings a Host of its own.
    async fn send(&self, request_line: &str, fields: &[&str], body: &str) -> Reply {
        let mut request = format!("{request_line} HTTP/1.1\r\nConnection: close\r\n");
        if !fields.iter().any(|field| field.starts_with("Host:")) {
            request += &format!("Host: {}\r\n", self.address);
        }
        if !body.is_empty() && !fields.iter().any(|field| field.starts_with("Content-Length:")) {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        for field in fields {
            request += &format!("{field}\r\n");
        }
        self.raw(&format!("{request}\r\n{body}")).await
    }

    async fn raw(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        let reply = String::from_utf8(reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), &[], "").await
    }

    async fn mode(&self, content_type: &str, body: &str) -> Reply {
        self.send("POST /mode", &[&format!("Content-Type: {content_type}")], body).await
    }

    fn asked(&self) -> Vec<ModeRequest> {
        self.gate.asked.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn every_path_answers() {
    let world = World::new(FakeGate { status: json!({ "site": "up", "load": 0.5 }), ..FakeGate::default() }, None).await;
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.body.contains("tidegate_requests_total{verdict=\"admit\"} 1\n"));
    let healthy = world.get("/healthz").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    let ready = world.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    let status = world.get("/status").await;
    assert_eq!((status.status, status.json()), (200, json!({ "site": "up", "load": 0.5 })));
    let dashboard = world.get("/").await;
    assert_eq!(dashboard.status, 200);
    assert!(dashboard.head.contains("content-type: text/html"), "{}", dashboard.head);
    assert!(dashboard.body.contains(">The site is up.</h1>"));
    let reload = world.send("POST /reload", &[], "").await;
    assert_eq!((reload.status, reload.json()), (200, json!({ "result": "applied" })));
    assert_eq!(world.get("/nothing").await.status, 404);
    assert_eq!(world.get("/healthz/").await.status, 404);
}

#[tokio::test]
async fn who_keeps_an_idle_connection_shuts_nobody_out() {
    let world = World::new(FakeGate::default(), None).await;
    let mut idle = Vec::new();
    for request in ["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        for _ in 0..PLACES {
            let mut stream = TcpStream::connect(world.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            if request.ends_with("\r\n\r\n") {
                stream.read_u8().await.unwrap();
            }
            idle.push(stream);
        }
        assert_eq!(world.get("/readyz").await.status, 200, "{request:?}");
    }
    // the longest idle have gone, and nobody else
    let gone = 2 * PLACES + 1;
    for (number, stream) in idle.iter_mut().enumerate() {
        let mut rest = Vec::new();
        if number < gone {
            // closed, or reset if there was half a head that nobody read
            let _either = stream.read_to_end(&mut rest).await;
        } else {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(String::from_utf8(rest).unwrap().ends_with("ready\n"), "{number}");
        }
    }
}

#[tokio::test]
async fn a_gate_that_is_not_ready_says_why() {
    let world = World::new(FakeGate { ready: Err("draining"), ..FakeGate::default() }, None).await;
    let ready = world.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "not ready: draining\n"));
    assert_eq!(world.get("/healthz").await.status, 200, "the process is alive");
}

#[tokio::test]
async fn a_rejected_reload_lists_every_error() {
    let errors = vec!["gate.yaml:1:1: a".to_owned(), "gate.yaml:2:1: b".to_owned()];
    let world = World::new(FakeGate { reload: ReloadAnswer::Rejected(errors.clone()), ..FakeGate::default() }, None).await;
    let reload = world.send("POST /reload", &[], "").await;
    assert_eq!((reload.status, reload.json()), (422, json!({ "result": "rejected", "errors": errors })));
    let browser = world.send("POST /reload", &["Accept: text/html,*/*;q=0.8"], "").await;
    assert_eq!(browser.status, 303, "the dashboard shows the errors");
    assert!(browser.head.contains("location: /"));
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let world = World::new(FakeGate::default(), None).await;
    for (request, allow) in [("POST /metrics", "get, head"), ("DELETE /", "get, head"), ("GET /mode", "post"), ("PUT /reload", "post")] {
        let reply = world.send(request, &[], "").await;
        assert_eq!(reply.status, 405, "{request}");
        assert!(reply.head.contains(&format!("allow: {allow}")), "{request}: {}", reply.head);
    }
    let head = world.send("HEAD /healthz", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn every_answer_is_private_and_shows_nothing_else() {
    let world = World::new(FakeGate::default(), None).await;
    for path in ["/", "/status", "/metrics", "/healthz", "/readyz", "/nothing"] {
        let head = world.get(path).await.head;
        for field in ["cache-control: no-store", "x-content-type-options: nosniff", "content-security-policy: default-src 'none'"] {
            assert!(head.contains(field), "{path} lacks {field}: {head}");
        }
    }
    let dashboard = world.get("/").await.head;
    assert!(dashboard.contains("refresh: 5") && dashboard.contains("form-action 'self'") && !dashboard.contains("unsafe"), "{dashboard}");
    assert!(!world.get("/?hold").await.head.contains("refresh:"));
}

#[tokio::test]
async fn hosts_and_origins_that_are_not_ours_are_turned_away() {
    let world = World::new(FakeGate::default(), None).await;
    let port = world.address.port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "10.1.2.3:80".to_owned()] {
        assert_eq!(world.send("GET /status", &[&format!("Host: {host}")], "").await.status, 200, "{host}");
    }
    for path in ["/", "/status", "/metrics", "/healthz"] {
        let rebound = world.send(&format!("GET {path}"), &[&format!("Host: evil.example:{port}")], "").await;
        assert_eq!(rebound.status, 421, "{path}");
    }
    let two = world.send("GET /status", &["Host: localhost", "Host: localhost"], "").await;
    assert_eq!(two.status, 400);
    assert_eq!(world.raw("GET /status HTTP/1.0\r\n\r\n").await.status, 400, "a Host is needed");
    let closed = r#"{"mode":"closed"}"#;
    let fields = |origin: &str| ["Content-Type: application/json".to_owned(), format!("Origin: {origin}")];
    for origin in ["http://evil.example", "null", &format!("http://localhost:{port}")] {
        let fields = fields(origin);
        let crossed = world.send("POST /mode", &[&fields[0], &fields[1]], closed).await;
        assert_eq!(crossed.status, 403, "{origin}");
    }
    assert!(world.asked().is_empty());
    let own = fields(&format!("http://{}", world.address));
    assert_eq!(world.send("POST /mode", &[&own[0], &own[1]], closed).await.status, 200);
}

#[tokio::test]
async fn a_token_is_required_but_for_probes_and_metrics() {
    let world = World::new(FakeGate::default(), Some(SECRET)).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
    for request in ["GET /", "GET /status", "POST /reload", "POST /mode", "GET /nothing"] {
        let reply = world.send(request, &[], "").await;
        assert_eq!(reply.status, 401, "{request}");
        assert!(reply.head.contains("www-authenticate: basic realm="), "{}", reply.head);
        assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
    }
    let wrong = world.send("GET /status", &["Authorization: Bearer wrong-horse-battery"], "").await;
    assert_eq!(wrong.status, 401);
    let bearer = format!("Authorization: Bearer {SECRET}");
    assert_eq!(world.send("GET /status", &[&bearer], "").await.status, 200);
    let basic = "Authorization: Basic b3BlcmF0b3I6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"; // operator:correct-horse-battery
    assert_eq!(world.send("GET /", &[basic], "").await.status, 200);
    let named = "Host: gate.example.org";
    assert_eq!(world.send("GET /", &[named], "").await.status, 401, "a browser must be asked for it");
    assert_eq!(world.send("GET /", &[named, &bearer], "").await.status, 200);
    assert_eq!(world.send("GET /metrics", &[named], "").await.status, 421);
    assert_eq!(world.send("GET /metrics", &[named, &bearer], "").await.status, 200);
}

#[tokio::test]
async fn a_mode_is_set_and_cleared_in_both_forms() {
    let world = World::new(FakeGate::default(), None).await;
    let fixed = world.mode("application/json; charset=utf-8", r#"{"mode":"fixed","probability":0.25}"#).await;
    assert_eq!((fixed.status, fixed.json()), (200, json!({ "name": "set" })));
    let closed = world.mode(FORM, "mode=closed&for=15m").await;
    assert_eq!(closed.status, 303);
    assert!(closed.head.contains("location: /"), "{}", closed.head);
    let program = world.send("POST /mode", &[&format!("Content-Type: {FORM}"), "Accept: application/json"], "mode=file").await;
    assert_eq!(program.status, 200);
    let asked = world.asked();
    assert_eq!(asked[0], ModeRequest::Set { mode: Mode::Fixed(0.25), until: None });
    assert!(matches!(asked[1], ModeRequest::Set { mode: Mode::Closed, until: Some(_) }), "{asked:?}");
    assert_eq!(asked[2], ModeRequest::File);
}

#[tokio::test]
async fn a_mode_that_cannot_be_is_refused_with_the_reason() {
    let world = World::new(FakeGate::default(), None).await;
    let beyond = world.mode(JSON, r#"{"mode":"fixed","probability":1.5}"#).await;
    assert_eq!(beyond.status, 422);
    assert_eq!(beyond.json(), json!({ "result": "rejected", "errors": ["probability: 1.5 is not between 0 and 1"] }));
    let refused = world.mode(JSON, r#"{"mode":"observe"}"#).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]), (422, &json!("mode: observe is not possible now")));
    assert_eq!(world.mode(JSON, "{").await.status, 400);
    assert_eq!(world.mode("text/plain", r#"{"mode":"open"}"#).await.status, 415);
    assert_eq!(world.send("POST /mode", &[], r#"{"mode":"open"}"#).await.status, 415, "a form of another site needs no permission for it");
    let browser = world.send("POST /mode", &[&format!("Content-Type: {FORM}"), "Accept: text/html"], "mode=fixed&probability=<b>").await;
    assert_eq!(browser.status, 422);
    assert!(browser.head.contains("content-type: text/html") && browser.body.contains("&lt;b&gt;"), "{}", browser.body);
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn a_body_is_bounded() {
    let world = World::new(FakeGate::default(), None).await;
    let padded = |bytes: usize| format!("{:<bytes$}", r#"{"mode":"open"}"#);
    assert_eq!(world.mode(JSON, &padded(16 << 10)).await.status, 200);
    let announced = world.send("POST /mode", &[&format!("Content-Type: {JSON}"), "Content-Length: 16385"], "").await;
    assert_eq!(announced.status, 413);
    // in chunks it is only found while reading; just above the bound, so that the whole of it is on the way before the answer
    let chunk = padded((16 << 10) + 1);
    let body = format!("{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
    let head = format!("POST /mode HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n");
    let streamed = world.raw(&format!("{head}Connection: close\r\n\r\n{body}")).await;
    assert_eq!(streamed.status, 413);
    assert_eq!(world.asked().len(), 1);
}

#[tokio::test]
async fn hostile_text_is_escaped_and_an_empty_status_still_makes_a_page() {
    let hostile = json!({ "summary": "<script>alert(1)</script>", "upstream": [{ "server": "\"><img src=x onerror=alert(1)>" }] });
    let world = World::new(FakeGate { status: hostile, ..FakeGate::default() }, None).await;
    let page = world.get("/").await;
    assert!(!page.body.contains("<script") && !page.body.contains("<img"), "{}", page.body);
    let empty = World::new(FakeGate::default(), None).await.get("/").await;
    assert_eq!(empty.status, 200);
    assert!(empty.body.contains("not known yet"));
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_ends() {
    let mut world = World::new(FakeGate::default(), None).await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    idle.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", world.address).as_bytes()).await.unwrap();
    let mut reply = vec![0; 4096];
    let count = idle.read(&mut reply).await.unwrap();
    assert!(reply[..count].starts_with(b"HTTP/1.1 200"));
    world.stop.take().unwrap().send(()).unwrap();
    assert_eq!(idle.read(&mut reply).await.unwrap(), 0, "closed");
    world.served.await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}
