//! The form for an email address: who is asked, what is taken, and what is not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tidegate::rules::email::Address;

use crate::mutations::mutate::Mutator;
use crate::mutations::{Tried, number};
use crate::support::{Answer, Upstream, World, request, until};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
const API: &str = "Accept: application/json";
const PATH: &str = "/.tidegate/email";

/// A site, and a gate that lets nobody in.
fn closed(more: &str) -> (Upstream, World) {
    let upstream = Upstream::answering("the site");
    let world = World::start(&format!(
        "upstream: {{ servers: [\"{}\"] }}\nadmission: {{ mode: closed }}\nclient: {{ trusted_proxies: [127.0.0.1/32] }}\n{more}",
        upstream.url()
    ));
    (upstream, world)
}

/// What a visitor has: the ticket, and the hidden fields of the form.
#[derive(Clone, Debug)]
struct Form {
    ticket: String,
    next: String,
    check: String,
}

impl Form {
    /// Of the waiting page that a newcomer is shown.
    #[track_caller]
    fn of_newcomer(world: &World, path: &str) -> Self {
        let page = world.get(path, &[BROWSER]);
        let (next, check) = hidden(&page.text()).unwrap_or_else(|| panic!("no form in {}", page.text()));
        Self { ticket: page.ticket(), next, check }
    }

    fn body(&self, address: &str) -> String {
        let encode = |value: &str| form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
        format!("email={}&next={}&check={}", encode(address), encode(&self.next), self.check)
    }

    #[track_caller]
    fn post(&self, world: &World, address: &str, headers: &[&str]) -> Answer {
        let mut lines = vec![self.ticket.as_str()];
        lines.extend_from_slice(headers);
        post(world, self.body(address), &lines)
    }
}

/// The hidden fields of a page.
fn hidden(page: &str) -> Option<(String, String)> {
    let value = |name: &str| page.split_once(&format!("name=\"{name}\" value=\""))?.1.split_once('"').map(|(value, _)| value);
    let next = value("next")?.replace("&quot;", "\"").replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some((next, value("check")?.to_owned()))
}

#[track_caller]
fn post(world: &World, body: impl AsRef<[u8]>, headers: &[&str]) -> Answer {
    let body = body.as_ref();
    let length = format!("Content-Length: {}", body.len());
    let mut lines = vec!["Content-Type: application/x-www-form-urlencoded", &length];
    if !headers.iter().any(|line| line.starts_with("Accept:")) {
        lines.push(BROWSER);
    }
    lines.extend_from_slice(headers);
    let mut client = world.client();
    client.send(request("POST", PATH, &lines));
    // one that is refused may be answered before it is read
    client.try_send(body).ok();
    client.answer()
}

/// What has been written down.
fn rows(world: &World) -> Vec<Value> {
    let directory = world.data().join("email-queue");
    let files =
        std::fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default();
    let text: String = files
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refused(world: &World, reason: &str) -> usize {
    world.count(&format!("tidegate_emails_refused_total{{reason=\"{reason}\"}}"))
}

fn accepted(world: &World) -> usize {
    world.count("tidegate_emails_accepted_total")
}

/// What every answer carries that the gate composes, and that none of these does more than it must.
#[track_caller]
fn assert_composed(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{}", answer.raw);
    assert_eq!(answer.header("x-robots-tag"), Some("noindex"));
    assert_eq!(answer.header("referrer-policy"), Some("strict-origin"));
    let proxy_status = match answer.status {
        200 | 303 => "tidegate",
        429 => "tidegate; error=http_request_denied; details=\"rate\"",
        503 => "tidegate; error=proxy_internal_error",
        _ => "tidegate; error=http_request_error",
    };
    assert_eq!(answer.all("proxy-status"), [proxy_status], "{}", answer.raw);
    assert!(answer.header("refresh").is_none() && answer.all("set-cookie").is_empty(), "{}", answer.raw);
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("script-src"), "{policy}");
        assert!(!answer.text().contains("<script"), "{}", answer.text());
    }
}

#[test]
fn an_address_is_taken_with_the_ticket_of_the_first_page() {
    let (upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/apply?step=2&name='x'");
    assert_eq!(form.next, "/apply?step=2&name='x'");
    let answer = form.post(&world, " Ann@Example.ORG ", &["Accept-Language: de-CH,de;q=0.9,en;q=0.8", "Origin: http://test"]);
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_composed(&answer);
    let rows = rows(&world);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    let status: Value = serde_json::from_slice(&world.get("/.tidegate/status", &[&form.ticket]).body).unwrap();
    assert_eq!((&row["email"], &row["language"], &row["ticket"]), (&"Ann@example.org".into(), &"de-CH".into(), &status["ticket"]));
    assert_eq!(row["path"], "/apply?step=2&name='x'");
    assert_eq!(accepted(&world), 1);

    let thanks = world.get(answer.header("location").unwrap(), &[BROWSER]);
    assert_eq!(thanks.status, 200);
    assert_composed(&thanks);
    assert!(thanks.text().contains("Thank you") && !thanks.text().contains("<form"), "{}", thanks.text());
    assert!(thanks.text().contains("href=\"&#x2f;apply?step=2&amp;name=&#x27;x&#x27;\""), "{}", thanks.text());
    assert_eq!(world.get(answer.header("location").unwrap(), &[BROWSER]).text(), thanks.text(), "a reload posts nothing");
    assert_eq!((self::rows(&world).len(), accepted(&world)), (1, 1));
    assert!(upstream.seen().is_empty(), "it reached the site");
}

#[test]
fn a_second_post_of_an_address_is_answered_as_the_first() {
    let (_upstream, world) = closed("");
    let said = |answer: &Answer| {
        let headers: Vec<_> = answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
        (answer.status, headers, answer.text())
    };
    let first = Form::of_newcomer(&world, "/");
    let answer = first.post(&world, "ann@example.org", &[]);
    assert_eq!(answer.status, 303);
    // by the same visitor, by another, and in another spelling
    let other = Form::of_newcomer(&world, "/");
    for (form, address) in
        [(&first, "ann@example.org"), (&other, "ann@example.org"), (&other, "ANN@EXAMPLE.org"), (&other, "bob@example.org")]
    {
        assert_eq!(said(&form.post(&world, address, &[])), said(&answer), "{address}");
    }
    let json = |address: &str| said(&other.post(&world, address, &[API]));
    assert_eq!(json("ann@example.org"), json("eve@example.org"));
    assert_eq!(rows(&world).len(), 3);
}

#[test]
fn visitors_who_see_the_same_page_have_forms_of_their_own() {
    let (_upstream, world) = closed("");
    let mut client = world.client();
    let mut page = |path: &str, more: &[&str]| {
        let mut lines = vec![BROWSER];
        lines.extend_from_slice(more);
        client.get(path, &lines)
    };
    let (one, other) = (page("/", &[]), page("/", &[]));
    let (one_check, other_check) = (hidden(&one.text()).unwrap().1, hidden(&other.text()).unwrap().1);
    assert_ne!(one_check, other_check);
    // and one visitor has the same, whenever the page is loaded
    assert_eq!(hidden(&page("/", &[&one.ticket()]).text()).unwrap(), ("/".to_owned(), one_check.clone()));
    assert_ne!(hidden(&page("/apply", &[&one.ticket()]).text()).unwrap().1, one_check);
}

#[test]
fn a_ticket_that_is_renewed_keeps_its_form() {
    let (_upstream, world) = closed("waiting_room: { refresh: 1s, refresh_max: 60s }");
    let mut form = Form::of_newcomer(&world, "/");
    form.ticket = until("the ticket to be renewed", || {
        let page = world.get("/", &[BROWSER, &form.ticket]);
        assert_eq!(hidden(&page.text()).unwrap().1, form.check);
        page.cookie("tidegate_ticket").map(|_| page.ticket())
    });
    assert_eq!(form.post(&world, "ann@example.org", &[]).status, 303);
}

#[test]
fn only_who_waits_is_asked() {
    let (_upstream, world) = closed("limits: { tickets_per_client: 1 }");
    let asked = |answer: &Answer| answer.text().contains("tidegate-email");
    let first = world.get("/", &[BROWSER]);
    assert!(asked(&first), "{}", first.text());
    let without = world.get("/", &[BROWSER]);
    assert!(without.text().contains("have a ticket yet") && !asked(&without), "{}", without.text());
    let mut client = world.client();
    client.send(request("POST", "/apply", &[BROWSER, &first.ticket(), "Content-Length: 0"]));
    let refused = client.answer();
    assert!(refused.text().contains("has not reached the site") && !asked(&refused), "{}", refused.text());
    for accept in [API, "Accept: */*"] {
        assert!(!asked(&world.get("/", &[accept, &first.ticket()])));
    }
}

#[test]
fn the_page_may_run_the_one_script_that_stands_in_it() {
    let (_upstream, world) = closed("");
    let page = world.get("/", &[BROWSER]);
    let text = page.text();
    let script = text.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    let policy = page.header("content-security-policy").unwrap();
    let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
    assert!(policy.ends_with(&format!("; script-src 'sha256-{hash}'")), "{policy}");
    assert_eq!(text.matches("<script").count(), 1);
}

#[test]
fn a_gate_that_takes_no_addresses_says_so() {
    let (_upstream, world) = closed("email_queue: { enabled: false }");
    let page = world.get("/", &[BROWSER]);
    assert!(!page.text().contains("email") && !page.header("content-security-policy").unwrap().contains("script-src"), "{}", page.text());
    let own = world.get(PATH, &[BROWSER, &page.ticket()]);
    let posted = post(&world, "email=ann%40example.org", &[&page.ticket()]);
    for answer in [own, posted] {
        assert_eq!(answer.status, 404);
        assert_composed(&answer);
        assert!(answer.text().contains("No addresses are taken here"), "{}", answer.text());
    }
    assert_eq!((refused(&world, "disabled"), rows(&world).len()), (1, 0));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"not_found\"}"), 1);
}

#[test]
fn the_form_has_a_page_of_its_own_that_does_not_refresh() {
    let (_upstream, world) = closed("waiting_room: { refresh: 10s, refresh_max: 60s }");
    let page = world.get("/apply?a=1&b=2", &[BROWSER]);
    let text = page.text();
    let link = text.split_once(&format!("href=\"{PATH}?")).unwrap().1.split_once('"').unwrap().0.replace("&amp;", "&");
    let own = world.get(&format!("{PATH}?{link}"), &[BROWSER, &page.ticket()]);
    assert_eq!(own.status, 200);
    assert_composed(&own);
    assert!(own.text().contains("lost if you stay away for 3 minutes"), "{}", own.text());
    assert_eq!(hidden(&own.text()), hidden(&page.text()));
    let (next, check) = hidden(&own.text()).unwrap();
    assert_eq!(Form { ticket: page.ticket(), next, check }.post(&world, "ann@example.org", &[]).status, 303);

    // somebody else's link leads to the form, and to no page that they have chosen
    for query in ["", "?next=%2Fother", "?next=%2Fother&check=0000000000000000", "?next=%2F%2Fevil.example&check=x"] {
        let own = world.get(&format!("{PATH}{query}"), &[BROWSER, &page.ticket()]);
        assert_eq!(own.status, 200);
        assert!(hidden(&own.text()).unwrap().0 == "/" && !own.text().contains("other") && !own.text().contains("evil"), "{}", own.text());
    }
    // and who has no ticket is told so
    let without = world.get(PATH, &[BROWSER]);
    assert_eq!(without.status, 403);
    assert_composed(&without);
    assert!(
        without.text().contains("You have no ticket that holds") && without.text().contains("<a href=\"&#x2f;\">"),
        "{}",
        without.text()
    );
    assert!(!without.text().contains("<form"));
}

#[test]
fn what_is_no_address_is_told_why_and_what_was_typed_is_kept() {
    let (_upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/apply");
    let long = format!("{}@example.org", "a".repeat(300));
    let table = [
        ("", "Please type your email address."),
        ("ann", "has an @ in it"),
        ("ann@localhost", "after the @"),
        ("ann@example.org\r\nBcc: eve@example.net", "has no spaces in it"),
        ("ann@example.org\nX", "has no spaces in it"),
        ("ann@example.org\0", "has no spaces in it"),
        ("ann@example.org, eve@example.net", "has no spaces in it"),
        ("\"><script>alert(1)</script>@example.org", "does not look like an email address"),
        (&long, "at most 254 characters"),
    ];
    for (address, why) in table {
        let answer = form.post(&world, address, &[]);
        assert_eq!(answer.status, 422, "{address:?}: {}", answer.text());
        assert_composed(&answer);
        let text = answer.text();
        assert!(text.contains("aria-invalid=\"true\"") && text.contains("id=\"tidegate-error\""), "{text}");
        assert!(text.contains("aria-describedby=\"tidegate-error tidegate-kept\""), "{text}");
        assert!(text.contains(why) && !text.contains("<script"), "{address:?}: {text}");
        assert_eq!(hidden(&text), Some((form.next.clone(), form.check.clone())));
        if !address.is_empty() && address.is_ascii() && !address.contains(['\r', '\0', '"', '\n']) {
            assert!(text.contains(&format!("value=\"{address}\"")), "{text}");
        }
    }
    assert_eq!((refused(&world, "address"), accepted(&world), rows(&world).len()), (table.len(), 0, 0));
    // and mended, it is taken
    assert_eq!(form.post(&world, "ann@example.org", &[]).status, 303);
}

#[test]
fn another_sites_page_can_not_post() {
    let (_upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/");
    let origins = ["https://evil.example", "null", "http://test.evil.example", "http://test:81", "file://"];
    for origin in origins {
        let answer = form.post(&world, "ann@example.org", &[&format!("Origin: {origin}")]);
        assert_eq!(answer.status, 403, "{origin}");
        assert_composed(&answer);
        assert!(answer.text().contains("This form cannot be taken"), "{}", answer.text());
    }
    assert_eq!((refused(&world, "origin"), accepted(&world), rows(&world).len()), (origins.len(), 0, 0));
    assert_eq!(form.post(&world, "ann@example.org", &["Origin: https://test"]).status, 303);
}

#[test]
fn only_a_ticket_of_ours_brings_an_address() {
    let (_upstream, world) = closed("");
    let (_elsewhere, other) = closed("");
    let form = Form::of_newcomer(&world, "/");
    let foreign = Form::of_newcomer(&other, "/");
    world.admin_post("/mode", "application/json", r#"{"mode":"open"}"#);
    let pass = world.get("/", &[BROWSER]).cookie("tidegate_pass").unwrap().to_owned();
    let at = form.ticket.len() - 60;
    let digit = if &form.ticket[at..=at] == "A" { "B" } else { "A" };
    let forged = format!("{}{digit}{}", &form.ticket[..at], &form.ticket[at + 1..]);
    let tickets = [
        "X-None: 1".to_owned(),
        forged,
        foreign.ticket,
        format!("Cookie: tidegate_ticket={pass}"),
        format!("Cookie: tidegate_pass={pass}"),
        "Cookie: tidegate_ticket=".to_owned(),
    ];
    for ticket in &tickets {
        let answer = Form { ticket: ticket.clone(), ..form.clone() }.post(&world, "ann@example.org", &[]);
        assert_eq!(answer.status, 403, "{ticket}");
        assert_composed(&answer);
        assert!(answer.text().contains("You have no ticket that holds"), "{}", answer.text());
    }
    assert_eq!((refused(&world, "ticket"), accepted(&world), rows(&world).len()), (tickets.len(), 0, 0));
    assert_eq!(form.post(&world, "ann@example.org", &[]).status, 303);
}

#[test]
fn a_form_fits_one_ticket_and_one_page() {
    let (_upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/apply");
    let other = Form::of_newcomer(&world, "/apply");
    let mut changed = form.check.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == '0' { '1' } else { '0' });
    let of = |next: &str, check: &str| Form { next: next.to_owned(), check: check.to_owned(), ..form.clone() };
    let forms = [
        Form { check: other.check, ..form.clone() },
        Form { ticket: other.ticket, ..form.clone() },
        of("/other", &form.check),
        of("/", &form.check),
        of("//evil.example", &form.check),
        of("/apply", &changed),
        of("/apply", ""),
        of("/apply", &form.check[..15]),
        of("/apply", &format!("+{}", &form.check[..15])),
        of("/apply", "0000000000000000"),
    ];
    for (at, form) in forms.iter().enumerate() {
        let answer = form.post(&world, "ann@example.org", &[]);
        assert_eq!(answer.status, 403, "{at}");
        assert!(answer.text().contains("This form cannot be taken") && !answer.text().contains("evil"), "{}", answer.text());
    }
    // nor does the first part of a form that was cut off
    assert_eq!(post(&world, "email=ann%40example.org", &[&form.ticket]).status, 403);
    assert_eq!((refused(&world, "ticket"), rows(&world).len()), (forms.len() + 1, 0));
    // two fields of a name are read as the first
    let twice = format!("{}&email=eve%40example.net&next=%2Fevil", form.body("ann@example.org"));
    assert_eq!(post(&world, &twice, &[&form.ticket]).status, 303);
    assert_eq!((&rows(&world)[0]["email"], &rows(&world)[0]["path"]), (&"ann@example.org".into(), &"/apply".into()));
}

#[test]
fn a_ticket_that_was_away_for_too_long_brings_nothing() {
    let (_upstream, world) = closed("waiting_room: { refresh: 1s, refresh_max: 1s }");
    let form = Form::of_newcomer(&world, "/");
    let own = || world.get(PATH, &[BROWSER, &form.ticket]);
    // to look at the form is not to be in the waiting room
    let ended = until("the ticket to be void", || Some(own()).filter(|own| own.status == 403));
    assert!(ended.text().contains("You have no ticket that holds"), "{}", ended.text());
    assert_eq!(ended.header("proxy-status"), Some("tidegate; error=http_request_error"));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"ticket\"}"), 1);
    assert_eq!(form.post(&world, "ann@example.org", &[]).status, 403);
    assert_eq!((refused(&world, "ticket"), rows(&world).len()), (1, 0));
}

#[test]
fn a_ticket_brings_so_many_addresses_and_no_more() {
    let (_upstream, world) = closed("email_queue: { addresses_per_ticket: 2 }");
    let form = Form::of_newcomer(&world, "/");
    for address in ["ann@example.org", "bob@example.org", "ann@example.org"] {
        assert_eq!(form.post(&world, address, &[]).status, 303, "{address}");
    }
    let full = form.post(&world, "eve@example.org", &[]);
    assert_eq!(full.status, 403);
    assert_composed(&full);
    assert!(full.text().contains("as many addresses as one visitor may"), "{}", full.text());
    assert_eq!((refused(&world, "ticket_rate"), rows(&world).len()), (1, 2));
    assert_eq!(form.post(&world, "bob@example.org", &[]).status, 303, "what it has brought is answered as before");
}

#[test]
fn the_page_asked_for_is_one_of_this_site_and_short() {
    let (_upstream, world) = closed("");
    let long = format!("/{}", "a".repeat(1024));
    for path in [long.as_str(), "//evil.example/x", "/\\evil.example"] {
        let page = world.get(path, &[BROWSER]);
        if page.status != 400 {
            assert_eq!(hidden(&page.text()).unwrap().0, "/", "{path}");
        }
    }
    assert_eq!(Form::of_newcomer(&world, &long[..1024]).next, &long[..1024]);
    for next in ["%2F%2Fevil.example", "https%3A%2F%2Fevil.example", "%2F%5Cevil.example", "javascript%3Aalert(1)", "%2F%22%3E%3Cscript%3E"]
    {
        let thanks = world.get(&format!("{PATH}?done&next={next}"), &[BROWSER]);
        assert_eq!(thanks.status, 200);
        assert!(!thanks.text().contains("href=\"//") && !thanks.text().contains("<script"), "{}", thanks.text());
        assert!(!thanks.text().contains("evil") && !thanks.text().contains("javascript"), "{}", thanks.text());
    }
}

#[test]
fn a_network_posts_so_often_and_others_are_not_held_up_by_it() {
    let (_upstream, world) = closed("email_queue: { posts_per_client: 60, addresses_per_ticket: 1000 }");
    let form = Form::of_newcomer(&world, "/");
    let (mut taken, mut too_many) = (0, 0);
    for at in 0..1000 {
        let answer = form.post(&world, &format!("ann{at}@example.org"), &["X-Forwarded-For: 2001:db8::1"]);
        match answer.status {
            303 => taken += 1,
            429 => {
                too_many += 1;
                assert_composed(&answer);
                assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
                assert!(answer.text().contains("Too many addresses at once"), "{}", answer.text());
            }
            status => panic!("{status}: {}", answer.text()),
        }
    }
    assert!(taken >= 20 && too_many > 0, "{taken} taken, {too_many} not");
    assert_eq!((rows(&world).len(), accepted(&world), refused(&world, "client_rate")), (taken, taken, too_many));
    // the rest of its network has its share, and no other has
    let posts = |from: &str| form.post(&world, "bob@example.org", &[&format!("X-Forwarded-For: {from}")]).status;
    until("the network to be over its rate", || Some(()).filter(|()| posts("2001:db8::ffff:2") == 429));
    assert_eq!((posts("2001:db8:0:1::1"), posts("192.0.2.1")), (303, 303));
}

#[test]
fn a_form_of_ten_megabytes_is_not_read() {
    let (_upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/");
    let body = format!("{}&more={}", form.body("ann@example.org"), "x".repeat(10 << 20));
    let answer = post(&world, &body, &[&form.ticket]);
    assert_eq!(answer.status, 413);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!((accepted(&world), rows(&world).len()), (0, 0));
    assert_eq!(world.count("tidegate_requests_refused_total{reason=\"body_too_large\"}"), 1);
}

#[test]
fn what_can_not_be_written_down_is_not_said_to_be() {
    let (_upstream, world) = closed("");
    let form = Form::of_newcomer(&world, "/apply");
    world.until_metric("tidegate_email_writable", |writable| writable == 1.0);
    let (queue, aside) = (world.data().join("email-queue"), world.data().join("aside"));
    std::fs::rename(&queue, &aside).unwrap();
    std::fs::write(&queue, "in the way").unwrap();
    let answer = form.post(&world, "ann@example.org", &[]);
    assert_eq!(answer.status, 503);
    assert_composed(&answer);
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert!(answer.text().contains("cannot be taken just now") && answer.text().contains("value=\"ann@example.org\""), "{}", answer.text());
    assert_eq!((refused(&world, "storage"), accepted(&world)), (1, 0));
    let json = form.post(&world, "ann@example.org", &[API]);
    assert_eq!((json.status, json.header("retry-after")), (503, Some("60")));
    std::fs::remove_file(&queue).unwrap();
    std::fs::rename(&aside, &queue).unwrap();
    assert_eq!(form.post(&world, "ann@example.org", &[]).status, 303);
    assert_eq!(rows(&world).len(), 1);
}

#[test]
fn programs_are_answered_in_json_and_terminals_in_a_line() {
    let (_upstream, world) = closed("email_queue: { addresses_per_ticket: 1 }");
    let form = Form::of_newcomer(&world, "/");
    let json = |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).unwrap();
    let taken = form.post(&world, "ann@example.org", &[API]);
    assert_eq!((taken.status, taken.text().as_str()), (200, r#"{"accepted":true}"#));
    assert_composed(&taken);
    let invalid = form.post(&world, "ann", &[API]);
    assert_eq!((invalid.status, json(&invalid)["error"].as_str().unwrap().contains('@')), (422, true));
    let full = form.post(&world, "eve@example.org", &[API]);
    assert_eq!((full.status, json(&full).as_object().unwrap().len()), (403, 1));
    assert_eq!(full.header("content-type"), Some("application/json"));
    let line = form.post(&world, "ann", &["Accept: */*"]);
    assert_eq!((line.status, line.text().lines().count()), (422, 1), "{}", line.text());
    let line = form.post(&world, "ann@example.org", &["Accept: */*"]);
    assert_eq!((line.status, line.header("content-type")), (200, Some("text/plain; charset=utf-8")));
}

#[test]
fn other_methods_are_not_allowed() {
    let (_upstream, world) = closed("");
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let mut client = world.client();
        client.send(request(method, PATH, &[BROWSER, "Content-Length: 0"]));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, POST")), "{method}");
    }
    let mut client = world.client();
    client.send(request("HEAD", PATH, &[BROWSER]));
    assert_eq!(client.answer_to_head().status, 403, "as GET, without a ticket");
}

#[test]
fn a_language_that_is_none_is_not_kept() {
    let (_upstream, world) = closed("");
    for (at, language) in ["*", "<script>", "x".repeat(36).as_str(), "en_GB"].into_iter().enumerate() {
        let form = Form::of_newcomer(&world, "/");
        assert_eq!(form.post(&world, &format!("ann{at}@example.org"), &[&format!("Accept-Language: {language}")]).status, 303);
    }
    let rows = rows(&world);
    assert!(rows.len() == 4 && rows.iter().all(|row| row.get("language").is_none()), "{rows:?}");
}

#[test]
fn forms_that_are_nearly_right_are_taken_as_they_are_meant_or_not_at_all() {
    let (_site, world) = closed("email_queue: { posts_per_client: 1000000, addresses_per_ticket: 1000 }");
    let form = Form::of_newcomer(&world, "/a?b=c&d");
    let seeds = ["ann@example.org", "b\u{fc}rger@b\u{fc}cher.example", "a+b@example.org", "\"x\"@example.org"]
        .map(|address| form.body(address).into_bytes());
    let mut mutator = Mutator::new(seeds.to_vec(), number("TIDEGATE_MUTATIONS_SEED", 1));
    let mut taken = 0;
    for _ in 0..number("TIDEGATE_MUTATIONS", 2000) / 10 {
        let body = mutator.input();
        let _tried = Tried("form", &body);
        let answer = post(&world, &body, &[&form.ticket]);
        assert!(matches!(answer.status, 303 | 400 | 403 | 413 | 422 | 429), "{}", answer.raw);
        taken += usize::from(answer.status == 303);
    }
    let rows = rows(&world);
    assert!(!rows.is_empty() && rows.len() <= taken, "{} rows of {taken}", rows.len());
    for row in rows {
        let email = row["email"].as_str().unwrap();
        assert_eq!(Address::parse(email).map(String::from).as_deref(), Ok(email), "{row}");
        assert_eq!(row["path"].as_str(), Some("/a?b=c&d"), "nobody can name another: {row}");
    }
}
