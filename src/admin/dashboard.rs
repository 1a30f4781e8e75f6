//! The dashboard: one page, made on the server from the same JSON as `/status`, without scripts. Its first sentence says whether the site
//! is up. Whatever is missing from the JSON is left out or shown as a dash; text in it is escaped.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::Environment;
use serde::Serialize;
use serde_json::Value;

const PAGE: &str = include_str!("dashboard.html");
const REFUSAL: &str = include_str!("refusal.html");
const STYLE: &str = include_str!("dashboard.css");

/// Shown where nothing is known.
const DASH: &str = "–";

/// Points of a chart: five minutes, one each two seconds.
const CHART_POINTS_MAX: usize = 150;

const CHART_STEP_S: usize = 2;

/// How long a mode may be set for; the first is until the operator says otherwise.
const SPANS: [(&str, &str); 6] = [
    ("15m", "for 15 minutes"),
    ("5m", "for 5 minutes"),
    ("1h", "for an hour"),
    ("4h", "for 4 hours"),
    ("1d", "for a day"),
    ("", "until said otherwise"),
];

/// The page. `refresh_s` is what its `Refresh` header says, if it has one.
pub(super) fn render(status: &Value, refresh_s: Option<u32>) -> Result<String, minijinja::Error> {
    // the name ends in .html: that is what turns escaping on
    Environment::new().render_named_str("dashboard.html", PAGE, minijinja::value::Serde(View::of(status, refresh_s)))
}

/// The page that says why a mode was not set.
pub(super) fn render_refusal(errors: &[String]) -> Result<String, minijinja::Error> {
    Environment::new().render_named_str("refusal.html", REFUSAL, minijinja::context! { errors => errors.to_vec(), style => STYLE })
}

/// The style as a Content-Security-Policy source (CSP level 3, section 2.3.1).
pub(super) fn style_hash() -> &'static str {
    static HASH: LazyLock<String> = LazyLock::new(|| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        format!("sha256-{}", STANDARD.encode(digest))
    });
    &HASH
}

/// What the template prints: text, already in the form in which it is read.
#[derive(Debug, Serialize)]
struct View {
    style: &'static str,
    refresh_s: Option<u32>,
    version: Option<String>,
    uptime: Option<String>,
    state: State,
    doing: String,
    draining: bool,
    /// `None`: the last reload was not rejected.
    errors: Option<Vec<String>>,
    figures: Vec<Figure>,
    charts: Vec<Chart>,
    mode: ModeView,
    spans: [(&'static str, &'static str); 6],
    upstream: Vec<Server>,
    outcomes: Vec<Outcome>,
    invitations: Option<InvitationsView>,
    config: Config,
}

impl View {
    fn of(status: &Value, refresh_s: Option<u32>) -> Self {
        let rejected = text(status, "/config/last_result").as_deref() == Some("rejected");
        Self {
            style: STYLE,
            refresh_s,
            version: text(status, "/version"),
            uptime: number(status, "/uptime_s").map(span),
            state: State::of(status),
            doing: doing(status),
            draining: flag(status, "/draining").unwrap_or(false),
            errors: rejected.then(|| list(status, "/config/errors").iter().map(shown).collect()),
            figures: figures(status),
            charts: charts(status),
            mode: ModeView::of(status),
            spans: SPANS,
            upstream: list(status, "/upstream").iter().map(Server::of).collect(),
            outcomes: outcomes(status),
            invitations: InvitationsView::of(status),
            config: Config::of(status),
        }
    }
}

/// Who has been invited back.
#[derive(Debug, Serialize)]
struct InvitationsView {
    summary: String,
    trouble: Option<String>,
    facts: Vec<(&'static str, String)>,
    /// What it posts, and what it says.
    button: (&'static str, &'static str),
}

impl InvitationsView {
    /// `None` where there are none, and nobody could be invited.
    fn of(status: &Value) -> Option<Self> {
        let summary = text(status, "/invitations/summary")?;
        let count = |path| number(status, path).unwrap_or(0.0);
        let (by, sent) = (text(status, "/invitations/by"), count("/invitations/sent"));
        if by.is_none() && sent <= 0.0 && count("/email_queue/waiting") <= 0.0 {
            return None;
        }
        let paths = [
            ("Waiting", "/email_queue/waiting"),
            ("Sent", "/invitations/sent"),
            ("Redeemed", "/invitations/redeemed"),
            ("Deferred", "/invitations/deferred"),
            ("Failed", "/invitations/failed"),
        ];
        let facts = paths.into_iter().map(|(name, path)| (name, whole(count(path)))).collect();
        let paused = flag(status, "/invitations/paused").unwrap_or(false);
        let button = if paused { ("false", "Resume invitations") } else { ("true", "Pause invitations") };
        Some(Self { summary, trouble: text(status, "/invitations/trouble"), facts, button })
    }
}

/// Whether the site is up, in one sentence.
#[derive(Debug, Serialize)]
struct State {
    word: &'static str,
    class: &'static str,
    /// Colour of the tab's icon.
    icon: &'static str,
    sentence: String,
}

impl State {
    fn of(status: &Value) -> Self {
        let (word, class, icon, sentence) = match text(status, "/site").as_deref() {
            Some("up") => ("Up", "up", "1a9850", "The site is up."),
            Some("struggling") => ("Struggling", "struggling", "e08a00", "The site is struggling."),
            Some("down") => ("Down", "down", "d73027", "The site is down."),
            Some(_) | None => ("Unknown", "unknown", "808a96", "Whether the site is up is not known yet."),
        };
        let sentence = text(status, "/site_summary").filter(|summary| !summary.trim().is_empty()).unwrap_or_else(|| sentence.to_owned());
        Self { word, class, icon, sentence }
    }
}

/// What the gate is doing, and why.
fn doing(status: &Value) -> String {
    text(status, "/gate_summary").unwrap_or_else(|| "What the gate is doing is not known yet.".to_owned())
}

#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    value: String,
    note: String,
}

fn figures(status: &Value) -> Vec<Figure> {
    let known = |path: &str, form: fn(f64) -> String| number(status, path).map_or_else(|| DASH.to_owned(), form);
    let of = |path: &str| number(status, path).map_or_else(String::new, |most| format!("of {}", whole(most)));
    let slots_queue = number(status, "/slots/queue").map_or_else(String::new, |queue| format!(", {} queued", whole(queue)));
    let in_line = text(status, "/order").as_deref() == Some("arrival");
    let (odds, would, drawn) = if in_line {
        ("of the line in each epoch", "of the line would be in each epoch", "back")
    } else {
        ("of draws are won", "of draws would be won", "draw")
    };
    let epoch = number(status, "/epoch_s").map_or_else(String::new, |epoch| format!("{drawn} every {}", span(epoch)));
    let left =
        match (status.pointer("/email_queue/enabled"), status.pointer("/email_queue/writable"), number(status, "/email_queue/addresses")) {
            (Some(Value::Bool(true)), Some(Value::Bool(false)), _) => "; email addresses can’t be taken: see the log".to_owned(),
            (_, _, Some(addresses)) if addresses > 0.0 => format!("; {} left an address", whole(addresses)),
            _ => String::new(),
        };
    let figure_of = |name, value, note: String| Figure { name, value, note };
    // a gate that only observes says what would be so
    let observes = observes(status);
    let say = |is: &str, would: &str| if observes { would.to_owned() } else { is.to_owned() };
    let waiting = if observes {
        figure_of("Would wait", known("/observed/line", whole), "in line now".to_owned())
    } else {
        figure_of("Waiting", known("/waiting", whole), format!("{epoch}{left}"))
    };
    vec![
        figure_of("Load", known("/load", percent), "of capacity".to_owned()),
        figure_of("Capacity", known("/capacity", figure), "answers a second".to_owned()),
        figure_of("Probability", known("/probability", percent), say(odds, would)),
        figure_of("Newcomers", known("/admission_rate", figure), say("a second may enter", "a second would enter")),
        figure_of("Active", known("/active", whole), say("visitors inside", "would be inside")),
        waiting,
        figure_of("Slots in use", known("/slots/in_flight", whole), format!("{}{slots_queue}", of("/slots/of"))),
        figure_of("Connections", known("/connections/open", whole), of("/connections/limit")),
    ]
}

fn observes(status: &Value) -> bool {
    status.pointer("/observed").is_some_and(Value::is_object)
}

/// A curve in a box 300 wide and 100 high, the newest point at the right edge.
#[derive(Debug, PartialEq, Serialize)]
struct Chart {
    name: &'static str,
    span: String,
    line: String,
    area: String,
    now: String,
    highest: String,
    limit_y: Option<String>,
}

fn charts(status: &Value) -> Vec<Chart> {
    let history = list(status, "/history");
    let recent = &history[history.len().saturating_sub(CHART_POINTS_MAX)..];
    let column = |index: usize| -> Vec<f64> { recent.iter().filter_map(|point| point.get(index)?.as_f64()).collect() };
    let waiting = if observes(status) { "Would wait" } else { "Waiting" };
    [Chart::of("Load", &column(0), percent, Some(1.0)), Chart::of(waiting, &column(1), whole, None)].into_iter().flatten().collect()
}

impl Chart {
    /// `None` if there are not two points to join.
    fn of(name: &'static str, values: &[f64], form: fn(f64) -> String, limit: Option<f64>) -> Option<Self> {
        let [.., newest] = values else { return None };
        if values.len() < 2 {
            return None;
        }
        let highest = values.iter().copied().fold(0.0, f64::max);
        // a tenth of air above, so that the highest point is seen as one
        let top = highest.max(limit.unwrap_or(1.0)) * 1.1;
        let y = |value: f64| 100.0 - value.clamp(0.0, top) / top * 99.0;
        let step = 300.0 / (CHART_POINTS_MAX - 1) as f64;
        let left = (300.0 - step * (values.len() - 1) as f64).max(0.0);
        let points = values.iter().enumerate().map(|(index, value)| format!("{:.1},{:.1}", left + step * index as f64, y(*value)));
        let line = points.collect::<Vec<_>>().join(" ");
        Some(Self {
            name,
            span: format!("last {}", span((values.len() * CHART_STEP_S) as f64)),
            area: format!("{left:.1},100 {line} 300,100"),
            line,
            now: form(*newest),
            highest: form(highest),
            limit_y: limit.map(|limit| format!("{:.1}", y(limit))),
        })
    }
}

#[derive(Debug, Serialize)]
struct ModeView {
    name: String,
    source: String,
    until: Option<String>,
    probability: Option<String>,
    by_operator: bool,
}

impl ModeView {
    fn of(status: &Value) -> Self {
        let source = text(status, "/mode/source");
        let by_operator = source.as_deref() == Some("operator");
        let source = match source.as_deref() {
            Some("operator") => "the operator, over gate.yaml".to_owned(),
            Some("file") => "gate.yaml".to_owned(),
            other => other.unwrap_or(DASH).to_owned(),
        };
        let until = match text(status, "/mode/until") {
            Some(until) => Some(time(&until)),
            None => by_operator.then(|| "said otherwise".to_owned()),
        };
        Self {
            name: text(status, "/mode/name").unwrap_or_else(|| DASH.to_owned()),
            source,
            until,
            probability: number(status, "/mode/probability").map(|probability| format!("{probability}")),
            by_operator,
        }
    }
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    class: &'static str,
    state: &'static str,
    in_flight: String,
    idle: String,
    /// Why it can't be reached.
    trouble: Option<String>,
}

impl Server {
    fn of(server: &Value) -> Self {
        let (class, state) = match flag(server, "/up") {
            Some(true) => ("up", "up"),
            Some(false) => ("down", "down"),
            None => ("unknown", "unknown"),
        };
        let count = |path| number(server, path).map_or_else(|| DASH.to_owned(), whole);
        Self {
            name: text(server, "/server").unwrap_or_else(|| DASH.to_owned()),
            class,
            state,
            in_flight: count("/in_flight"),
            idle: count("/idle"),
            trouble: text(server, "/trouble"),
        }
    }
}

#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    count: String,
    share: String,
}

fn outcomes(status: &Value) -> Vec<Outcome> {
    let Some(counts) = status.pointer("/outcomes_last_minute").and_then(Value::as_object) else { return Vec::new() };
    let usual = ["ok", "slow", "error", "timeout", "connect", "aborted"];
    let others = counts.keys().map(String::as_str).filter(|name| !usual.contains(name));
    let counted: Vec<(&str, f64)> = usual.into_iter().chain(others).filter_map(|name| Some((name, counts.get(name)?.as_f64()?))).collect();
    let total: f64 = counted.iter().map(|(_, count)| count).sum();
    let row = |(name, count): (&str, f64)| Outcome {
        name: match name {
            "ok" => "good".to_owned(),
            "slow" => "good, but slow".to_owned(),
            "error" => "error (5xx, or broken off)".to_owned(),
            "timeout" => "no answer in time".to_owned(),
            "connect" => "no connection".to_owned(),
            "aborted" => "visitor left first".to_owned(),
            other => other.to_owned(),
        },
        count: whole(count),
        share: if total > 0.0 { percent(count / total) } else { DASH.to_owned() },
    };
    counted.into_iter().map(row).collect()
}

#[derive(Debug, Serialize)]
struct Config {
    path: String,
    last_applied: String,
    last_result: String,
}

impl Config {
    fn of(status: &Value) -> Self {
        let known = |path| text(status, path).unwrap_or_else(|| DASH.to_owned());
        Self { path: known("/config/path"), last_applied: time(&known("/config/last_applied")), last_result: known("/config/last_result") }
    }
}

fn text(value: &Value, path: &str) -> Option<String> {
    value.pointer(path)?.as_str().map(str::to_owned)
}

fn number(value: &Value, path: &str) -> Option<f64> {
    value.pointer(path)?.as_f64()
}

fn flag(value: &Value, path: &str) -> Option<bool> {
    value.pointer(path)?.as_bool()
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A string without its quotes, or any other value as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `2026-01-01T12:00:00Z` as people read it; anything else as it is.
fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => format!("{timestamp:.0}").replace('T', " ").replace('Z', " UTC"),
        Err(_) => text.to_owned(),
    }
}

/// A ratio: whole percents from ten on, and more digits below, since a probability of 0.3 % is not none.
fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    match percent.abs() {
        below if below < 0.0005 => "0 %".to_owned(),
        below if below < 0.1 => format!("{percent:.3} %"),
        below if below < 9.95 => format!("{} %", trimmed(format!("{percent:.1}"))),
        _ => format!("{} %", whole(percent)),
    }
}

/// A rate: one digit after the point below ten.
fn figure(value: f64) -> String {
    if value.abs() < 9.95 { trimmed(format!("{value:.1}")) } else { whole(value) }
}

fn trimmed(digits: String) -> String {
    digits.strip_suffix(".0").unwrap_or(&digits).to_owned()
}

/// A count, in groups of three.
fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::with_capacity(digits.len() * 4 / 3 + 1);
    if value < 0.0 && digits != "0" {
        grouped.push('-');
    }
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Seconds in the two largest units.
fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")];
    let seconds = seconds.max(0.0).floor();
    let Some(first) = units.iter().position(|(size, _)| seconds >= *size) else { return "0 s".to_owned() };
    let (size, unit) = units[first];
    let large = format!("{:.0} {unit}", (seconds / size).floor());
    let rest = seconds % size;
    match units.get(first + 1) {
        Some((size, unit)) if rest >= *size => format!("{large} {:.0} {unit}", (rest / size).floor()),
        _ => large,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn full() -> Value {
        json!({
            "site_summary": "The site is up and busy.", "site": "up",
            "gate_summary": "The gate is letting in 12 newcomers a second.",
            "mode": { "name": "auto", "source": "file", "until": null, "probability": null },
            "limiting": true, "load": 0.97, "capacity": 203.4, "probability": 0.031, "admission_rate": 12.34,
            "active": 1834, "waiting": 60_231, "epoch_s": 90,
            "slots": { "in_flight": 32, "of": 32, "queue": 41 },
            "upstream": [{ "server": "http://127.0.0.1:3000", "up": true, "in_flight": 32, "idle": 0, "trouble": null },
                         { "server": "http://127.0.0.1:3001", "up": false, "in_flight": 0, "idle": 0,
                           "trouble": "no connection: Connection refused (os error 111)" }],
            "connections": { "open": 5120, "limit": 10_000 },
            "outcomes_last_minute": { "ok": 900, "error": 100, "timeout": 0 },
            "config": { "path": "gate.yaml", "last_applied": "2026-01-01T09:00:00Z", "last_result": "applied", "errors": [] },
            "version": "0.1.0", "uptime_s": 93_784, "draining": false,
            "history": [[0.5, 10, 1.0], [1.4, 300, 0.2], [0.97, 60_231, 0.031]]
        })
    }

    #[test]
    fn the_first_sentence_says_whether_the_site_is_up() {
        let page = render(&full(), Some(5)).unwrap();
        let first = page.split("<h1").nth(1).unwrap();
        assert!(first.split("</h1>").next().unwrap().ends_with(">The site is up and busy."));
        assert!(page.contains("<title>Up · Tidegate</title>"));
        for (site, sentence) in [("up", "The site is up."), ("struggling", "The site is struggling."), ("down", "The site is down.")] {
            assert!(render(&json!({ "site": site }), None).unwrap().contains(&format!(">{sentence}</h1>")), "{site}");
        }
    }

    #[test]
    fn what_is_only_observed_is_told_as_what_would_be() {
        let mut status = full();
        status["observed"] = json!({ "line": 1180.0 });
        let page = render(&status, None).unwrap();
        for part in
            ["<dt>Would wait</dt><dd>1,180</dd>", "of draws would be won", "a second would enter", "would be inside", "<h2>Would wait, "]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<dt>Waiting</dt>"));
        status["observed"] = Value::Null;
        assert!(render(&status, None).unwrap().contains("<dt>Waiting</dt>"));
    }

    #[test]
    fn addresses_are_told_beside_those_who_wait() {
        let mut status = full();
        let told = |queue: Value, status: &mut Value| {
            status["email_queue"] = queue;
            let page = render(status, None).unwrap();
            page.split_once("<dd>60,231</dd><dd>").unwrap().1.split_once("</dd>").unwrap().0.to_owned()
        };
        let queue =
            |enabled: bool, addresses: f64, writable: bool| json!({ "enabled": enabled, "addresses": addresses, "writable": writable });
        assert_eq!(told(queue(true, 1204.0, true), &mut status), "draw every 1 min 30 s; 1,204 left an address");
        assert_eq!(told(queue(true, 0.0, true), &mut status), "draw every 1 min 30 s");
        assert_eq!(told(queue(false, 0.0, false), &mut status), "draw every 1 min 30 s");
        assert!(told(queue(true, 7.0, false), &mut status).ends_with("; email addresses can’t be taken: see the log"));
    }

    #[test]
    fn invitations_are_told_where_there_are_any() {
        let mut status = full();
        assert!(!render(&status, None).unwrap().contains("<h2>Invitations</h2>"));
        status["email_queue"] = json!({ "enabled": true, "addresses": 5000.0, "waiting": 4000.0, "writable": true });
        status["invitations"] = json!({
            "summary": "Invitations go out.", "by": "smtp", "paused": false, "trouble": null, "sent": 1000.0, "redeemed": 300.0, "deferred": 2.0,
            "failed": 1.0,
        });
        let page = render(&status, None).unwrap();
        for part in [
            "<p>Invitations go out.</p>",
            "<dt>Waiting</dt><dd>4,000</dd>",
            "<dt>Redeemed</dt><dd>300</dd>",
            "value=\"true\">Pause invitations",
        ] {
            assert!(page.contains(part), "{part}");
        }
        status["invitations"]["paused"] = json!(true);
        status["invitations"]["trouble"] = json!("connection <refused>");
        let page = render(&status, None).unwrap();
        assert!(page.contains("value=\"false\">Resume invitations") && page.contains("connection &lt;refused&gt;"));
        status["invitations"] = json!({ "summary": "Not set up.", "by": null });
        assert!(render(&status, None).unwrap().contains("<p>Not set up.</p>"), "who waits for nothing is told");
        status["email_queue"]["waiting"] = json!(0.0);
        assert!(!render(&status, None).unwrap().contains("<h2>Invitations</h2>"));
    }

    #[test]
    fn everything_is_on_the_page() {
        let page = render(&full(), Some(5)).unwrap();
        for part in [
            "The gate is letting in 12 newcomers a second.",
            "<dd>97 %</dd>",
            "<dd>203</dd>",
            "<dd>3.1 %</dd>",
            "<dd>60,231</dd><dd>draw every 1 min 30 s</dd>",
            "<dd>32</dd><dd>of 32, 41 queued</dd>",
            "<dd>5,120</dd><dd>of 10,000</dd>",
            "http://127.0.0.1:3001</th><td><span class=\"badge down\">down</span> \
             <span class=\"soft\">no connection: Connection refused (os error 111)</span></td>",
            "<td>900</td><td>90 %</td>",
            "2026-01-01 09:00:00 UTC",
            "running for 1 d 2 h",
            "highest 140 %",
        ] {
            assert!(page.contains(part) || page.replace("&#x2f;", "/").contains(part), "{part}");
        }
        assert!(!page.contains("<script"));
        assert!(!page.contains(" style="), "the policy blocks inline styles");
    }

    #[test]
    fn an_empty_status_makes_a_page() {
        for status in [json!({}), json!(null), json!([1]), json!({ "mode": 3, "upstream": {}, "history": [null, [], ["x"]], "slots": [] })]
        {
            let page = render(&status, None).unwrap();
            assert!(page.contains("Whether the site is up is not known yet.") && page.contains("</html>"), "{status}");
            assert!(!page.contains("<svg class"), "{status}");
        }
    }

    #[test]
    fn text_is_escaped_wherever_it_stands() {
        let hostile = "</style><script>alert('1')</script>\"'";
        let page = render(
            &json!({
                "site_summary": hostile, "gate_summary": hostile, "site": hostile, "version": hostile,
                "mode": { "name": hostile, "source": hostile, "until": hostile },
                "upstream": [{ "server": hostile, "up": hostile, "trouble": hostile }],
                "outcomes_last_minute": { hostile: 3 },
                "config": { "path": hostile, "last_applied": hostile, "last_result": "rejected", "errors": [hostile, { "a": hostile }] },
            }),
            None,
        )
        .unwrap();
        assert!(!page.contains("<script"));
        assert_eq!(page.matches("</style>").count(), 1);
        assert!(page.contains("&lt;script&gt;"));
        let refusal = render_refusal(&[hostile.to_owned()]).unwrap();
        assert!(!refusal.contains("<script") && refusal.contains("&lt;script&gt;"));
    }

    #[test]
    fn a_rejected_reload_is_shown_with_its_errors() {
        let mut status = full();
        assert!(!render(&status, None).unwrap().contains("was rejected"));
        status["config"]["last_result"] = json!("rejected");
        status["config"]["errors"] = json!(["gate.yaml:3:5: limits: 1 is below 8"]);
        let page = render(&status, None).unwrap();
        assert!(
            page.contains("The last change of gate.yaml was rejected") && page.contains("<li>gate.yaml:3:5: limits: 1 is below 8</li>")
        );
    }

    #[test]
    fn only_what_the_operator_set_can_be_cleared() {
        let mut status = full();
        assert!(!render(&status, None).unwrap().contains("value=\"file\""));
        status["mode"] = json!({ "name": "closed", "source": "operator", "until": "2026-01-01T12:00:00Z" });
        let page = render(&status, None).unwrap();
        assert!(page.contains("value=\"file\"") && page.contains("<dt>Until</dt><dd>2026-01-01 12:00:00 UTC</dd>"));
    }

    #[test]
    fn a_chart_ends_at_its_right_edge_and_keeps_the_newest() {
        let long: Vec<Value> = (0..400).map(|index| json!([f64::from(index) / 100.0, index, 1.0])).collect();
        let charts = charts(&json!({ "history": long }));
        assert_eq!(charts.len(), 2);
        let points: Vec<&str> = charts[1].line.split(' ').collect();
        assert_eq!(points.len(), CHART_POINTS_MAX);
        assert!(points[0].starts_with("0.0,"), "{}", points[0]);
        assert_eq!(points[CHART_POINTS_MAX - 1], "300.0,10.0");
        assert_eq!((charts[1].now.as_str(), charts[1].span.as_str()), ("399", "last 5 min"));
        assert_eq!(charts[0].limit_y.as_deref(), Some("77.4"));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0.0, 0.000_004, 0.0004, 0.031, 0.05, 0.0999, 0.25, 14.0].map(percent),
            ["0 %", "0 %", "0.040 %", "3.1 %", "5 %", "10 %", "25 %", "1,400 %"]
        );
        assert_eq!([0.0, 0.2, 9.96, 1234.5].map(figure), ["0", "0.2", "10", "1,234"]);
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.0, -1000.0].map(whole), ["0", "999", "1,000", "1,234,567", "-1,000"]);
        assert_eq!([0.0, 59.9, 60.0, 3661.0, 86_400.0, 90_000.0].map(span), ["0 s", "59 s", "1 min", "1 h 1 min", "1 d", "1 d 1 h"]);
    }

    #[test]
    fn the_style_is_allowed_by_its_hash() {
        assert!(style_hash().starts_with("sha256-") && style_hash().len() == "sha256-".len() + 44);
        let page = render(&full(), None).unwrap();
        assert!(page.contains(&format!("<style>{STYLE}</style>")), "the hash is of what stands between the tags");
    }
}
