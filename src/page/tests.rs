//! What must hold of every page.

use std::time::Duration;

use super::*;
use crate::rules::email::NotAnAddress;
use crate::rules::negotiate::Coding;

/// 14 KiB fit into the first ten segments of a connection; 1 KiB of them is left to the headers.
const RESPONSE_BYTES_MAX: usize = 13 * 1024;

fn text(page: Bytes) -> String {
    String::from_utf8(page.to_vec()).unwrap()
}

fn waiting(state: WaitingState) -> String {
    waiting_of(&Pages::built_in().unwrap(), &WaitingView::new(state, 10, false, None))
}

fn waiting_of(pages: &Pages, view: &WaitingView) -> String {
    String::from_utf8(pages.waiting(view).unwrap().with(&FIELDS_OF_ONE, Coding::Identity).1.concat()).unwrap()
}

const FIELDS_OF_ONE: FormFields<'static> = FormFields { next: "/apply?step=2&x=1", check: 7 };

const TERMS: EmailTerms = EmailTerms { retention: Duration::from_secs(30 * 86_400), invites: false };

/// The built-in pages of a gate that takes addresses.
fn taking_addresses() -> Pages {
    Pages::new(None, Some(TERMS)).unwrap()
}

fn with_template(name: &str, source: &str) -> Result<Pages, PageError> {
    Pages::new(Some((name, source)), None)
}

fn estimate(half_s: u64, nine_of_ten_s: u64) -> WaitingState {
    WaitingState::Waiting { wait: WaitText::new(WaitEstimate { half_s: Some(half_s), nine_of_ten_s: Some(nine_of_ten_s) }) }
}

fn every_landing() -> [LandingState<'static>; 7] {
    [
        LandingState::Ready { code: "ABCD-EFGH" },
        LandingState::Ask,
        LandingState::Invalid,
        LandingState::Expired,
        LandingState::Revoked,
        LandingState::Used,
        LandingState::NoRoom { code: "ABCD-EFGH" },
    ]
}

fn every_email() -> [EmailState<'static>; 9] {
    [
        EmailState::Asks,
        EmailState::Invalid { typed: "ann", why: NotAnAddress::NoAt },
        EmailState::Unavailable { typed: "ann@example.org" },
        EmailState::Taken,
        EmailState::NoTicket,
        EmailState::NotOurs,
        EmailState::TicketFull,
        EmailState::TooMany { retry_s: 7 },
        EmailState::Disabled,
    ]
}

fn email(state: EmailState<'_>) -> String {
    text(taking_addresses().email(&EmailView { state, fields: FIELDS_OF_ONE, void_after: Duration::from_secs(180) }).unwrap())
}

/// Every built-in page, each by a name of its own.
fn every_page() -> Vec<(String, String)> {
    let pages = Pages::built_in().unwrap();
    let mut all = Vec::new();
    for (at, state) in every_email().into_iter().enumerate() {
        all.push((format!("email-{at}"), email(state)));
    }
    for (at, view) in every_view().enumerate() {
        let refused = if view.form_refused { "-refused" } else { "" };
        all.push((format!("waiting-{}{refused}-{at}", view.state.name()), waiting_of(&pages, &view)));
    }
    all.push(("shed".to_owned(), text(pages.shed(4, false))));
    all.push(("shed-unsafe".to_owned(), text(pages.shed(4, true))));
    for kind in FailureKind::ALL {
        all.push((format!("failure-{}", kind.status().as_u16()), text(pages.failure(kind))));
    }
    for (at, state) in every_landing().into_iter().enumerate() {
        all.push((
            format!("landing-{at}"),
            text(pages.landing(&LandingView { state, next: Some("/apply?step=2"), check: None, typed: "" }).unwrap()),
        ));
    }
    all
}

fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    page.split_once(start).unwrap().1.split_once(end).unwrap().0
}

#[test]
fn every_page_is_a_whole_small_document() {
    for (name, page) in every_page() {
        assert!(page.len() < RESPONSE_BYTES_MAX, "{name} has {} bytes", page.len());
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{name}");
        assert!(page.find("<meta charset=\"utf-8\">").unwrap() < 1024, "{name}");
        assert!(!between(&page, "<title>", "</title>").trim().is_empty(), "{name}");
        for once in ["<main>", "<h1>", "<header>", "<style>", "<title>", "</html>"] {
            assert_eq!(page.matches(once).count(), 1, "{once} in {name}");
        }
        let words = page.replace(between(&page, "<style>", "</style>"), "");
        for never in ["<script", "http-equiv", "style=", "{{", "{%", ">none<", " none ", "src="] {
            assert!(!words.contains(never), "{never} in {name}");
        }
    }
}

/// Every waiting page of a gate that takes addresses, each by a name of its own.
fn every_asking_page() -> Vec<(String, WaitingView, String)> {
    let pages = taking_addresses();
    let named = |(at, view): (usize, WaitingView)| (format!("waiting-{}-{at}", view.state.name()), view, waiting_of(&pages, &view));
    every_view().enumerate().map(named).collect()
}

#[test]
fn who_waits_is_asked_for_an_address_once_and_the_page_stays_small() {
    for (name, view, page) in every_asking_page() {
        let asks = matches!(view.state, WaitingState::Waiting { .. } | WaitingState::Closed) && !view.form_refused;
        assert!(page.len() < RESPONSE_BYTES_MAX, "{name} has {} bytes", page.len());
        for once in [
            "<form ",
            "<label for=\"tidegate-address\">",
            "name=\"email\"",
            "name=\"next\"",
            "name=\"check\"",
            "<script>",
            "which does not refresh.</p>",
        ] {
            assert_eq!(page.matches(once).count(), usize::from(asks), "{once} in {name}");
        }
        let words = page.replace(between(&page, "<style>", "</style>"), "");
        for never in ["http-equiv", "style=", "{{", "{%", ">none<", "src=", "fields of one visitor"] {
            assert!(!words.contains(never), "{never} in {name}");
        }
    }
}

#[test]
fn who_writes_is_told_as_it_is() {
    for (invites, told) in
        [(false, "The people who run this site write to those"), (true, "We write to you once, as soon as the site has room")]
    {
        let pages = Pages::new(None, Some(EmailTerms { invites, ..TERMS })).unwrap();
        assert!(waiting_of(&pages, &WaitingView::new(WaitingState::Closed, 10, false, None)).contains(told));
        let terms = pages.email_terms();
        assert!(EmailState::Asks.text(terms).contains(told));
        assert!(EmailState::Taken.text(terms).contains(told));
    }
}

#[test]
fn what_is_kept_is_told_where_an_address_is_asked_for() {
    let page = waiting_of(&taking_addresses(), &WaitingView::new(WaitingState::Closed, 10, false, None));
    for page in [page, email(EmailState::Asks)] {
        for told in [
            "write to those who left one when the site is less busy",
            "Kept for 30 days, and used to write to you once",
            "your address, the language of your browser, the page you asked for, the time",
            "your ticket and your network",
        ] {
            assert!(page.contains(told), "{told}");
        }
        assert!(page.contains("aria-describedby=\"tidegate-kept\"") && page.contains("id=\"tidegate-kept\""));
        assert!(page.contains("name=\"check\" value=\"0000000000000007\""));
        assert!(page.contains("autocomplete=\"email\"") && !page.contains("aria-invalid=") && !page.contains("autofocus"));
    }
}

#[test]
fn the_form_on_a_page_of_its_own_does_not_refresh_and_says_what_that_costs() {
    for state in every_email() {
        let page = email(state);
        assert!(!page.contains("<script") && !page.contains("data-refresh"), "{state:?}");
        assert!(page.contains("<a href=\"&#x2f;apply?step=2&amp;x=1\">Go back to the waiting room</a>"), "{state:?}: {page}");
        assert_eq!(page.contains("<form "), state.has_form(), "{state:?}");
        assert_eq!(page.contains("lost if you stay away for 3 minutes"), state.keeps_place(), "{state:?}");
        assert!(page.contains(state.title()), "{state:?}");
    }
}

#[test]
fn what_is_wrong_with_an_address_stands_beside_the_field_and_what_was_typed_is_kept() {
    let page = email(EmailState::Invalid { typed: "\"><script>ann", why: NotAnAddress::NoAt });
    assert!(page.contains("value=\"&quot;&gt;&lt;script&gt;ann\""), "{page}");
    assert!(page.contains("<p class=\"error\" id=\"tidegate-error\">An email address has an @ in it"), "{page}");
    assert!(page.contains("aria-describedby=\"tidegate-error tidegate-kept\" aria-invalid=\"true\" autofocus"), "{page}");
    let page = email(EmailState::Unavailable { typed: "ann@example.org" });
    assert!(page.contains("value=\"ann@example.org\"") && !page.contains("aria-invalid="), "{page}");
}

#[test]
fn a_gate_that_takes_no_addresses_asks_for_none() {
    let pages = Pages::built_in().unwrap();
    for view in every_view() {
        assert!(!pages.waiting(&view).unwrap().has_form() && !waiting_of(&pages, &view).contains("email"));
    }
    let page = text(pages.email(&EmailView { state: EmailState::Asks, fields: FIELDS_OF_ONE, void_after: Duration::ZERO }).unwrap());
    assert!(!page.contains("<form "));
}

#[test]
fn pages_load_nothing_from_elsewhere() {
    let asking = every_asking_page().into_iter().map(|(name, _, page)| (name, page));
    for (name, page) in every_page().into_iter().chain(asking) {
        let page = page.replace("xmlns='http://www.w3.org/2000/svg'", "");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url(h"), "{name}");
    }
}

#[test]
fn the_title_says_how_it_stands() {
    let title = |state| between(&waiting(state), "<title>", "</title>").to_owned();
    assert_eq!(title(estimate(1, 2)), "You are waiting – waiting room");
    assert_eq!(title(WaitingState::Next), "You are next – waiting room");
    assert_eq!(title(WaitingState::Closed), "Entry is paused – waiting room");
    assert_eq!(title(WaitingState::NoTicket), "Waiting for a ticket – waiting room");
}

#[test]
fn the_waiting_page_tells_what_there_is_to_know() {
    let page = waiting(estimate(100, 400));
    for told in [
        "The site is busy",
        "waiting room",
        "need not do anything",
        "refreshes by itself every 10 seconds",
        "Keep this page open",
        "your odds grow",
        "Reloading does not help and does not hurt",
        "Keep cookies on",
        "within about 2 minutes",
        "within about 7 minutes",
    ] {
        assert!(page.contains(told), "{told}");
    }
}

#[test]
fn in_order_of_arrival_the_place_is_told_and_no_odds_are() {
    let pages = Pages::built_in().unwrap();
    let page = waiting_of(&pages, &WaitingView::new(estimate(100, 400), 10, false, Some(1234)));
    assert!(page.contains("about 1,300"));
    assert!(!page.contains("odds"));
}

#[test]
fn a_refused_form_is_told_the_truth_and_no_refresh() {
    let pages = Pages::built_in().unwrap();
    for view in every_view().filter(|view| view.form_refused) {
        let page = waiting_of(&pages, &view);
        let words = page.replace(between(&page, "<style>", "</style>"), "");
        assert!(words.contains("has not reached the site"));
        assert!(words.contains("has not been stored anywhere"));
        assert!(words.contains("<a href=\"/\" target=\"_blank\""));
        assert!(!words.contains("by itself") && !words.contains("refresh") && !words.contains("animateTransform"), "{words}");
    }
    let shed = text(pages.shed(4, true));
    assert!(shed.contains("has not reached the site") && shed.contains("4 seconds") && !shed.contains("by itself"));
}

#[test]
fn a_template_that_says_when_it_refreshes_says_nothing_to_a_refused_form() {
    let pages = with_template("room.html", "[{{ every }}|{{ refresh_s }}]").unwrap();
    let page = |refresh_s, refused| waiting_of(&pages, &WaitingView::new(WaitingState::Closed, refresh_s, refused, None));
    assert_eq!(page(10, true), "[|0]");
    assert_eq!(page(10, false), "[every 10 seconds|10]");
    assert_eq!(page(0, false), "[every second|1]");
}

#[test]
fn a_shed_page_names_its_seconds() {
    let pages = Pages::built_in().unwrap();
    assert!(text(pages.shed(17, false)).contains("comes back by itself in 17 seconds"));
    assert!(text(pages.shed(1, false)).contains("in a second."));
    assert!(text(pages.shed(u32::MAX, false)).contains("in a few minutes"));
    assert!(text(pages.failure(FailureKind::TooManyRequests { retry_s: 9 })).contains("Wait 9 seconds"));
}

#[test]
fn what_comes_from_outside_is_escaped() {
    const HOSTILE: &str = "\"><script>alert('&')</script>{{ 7 * 7 }}";
    let pages = Pages::built_in().unwrap();
    for state in [LandingState::Ready { code: HOSTILE }, LandingState::NoRoom { code: HOSTILE }, LandingState::Ask] {
        let page = text(pages.landing(&LandingView { state, next: Some(HOSTILE), check: Some(HOSTILE), typed: HOSTILE }).unwrap());
        assert!(!page.contains("<script") && !page.contains("\"><s") && !page.contains("49"), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"));
        assert!(page.contains("{{ 7 * 7 }}"));
    }
}

#[test]
fn an_operators_template_is_escaped_whatever_its_name() {
    for name in ["room.html", "room.txt", "room", "shed.html"] {
        let pages = with_template(name, "{{ '<b>' ~ state }}").unwrap();
        let page = waiting_of(&pages, &WaitingView::new(WaitingState::Closed, 10, false, None));
        assert_eq!(page, "&lt;b&gt;closed", "{name}");
        assert!(text(pages.shed(4, false)).contains("One moment"));
    }
}

#[test]
fn the_landing_page_posts_what_it_was_given() {
    let pages = Pages::built_in().unwrap();
    let page = |state, next| text(pages.landing(&LandingView { state, next, check: None, typed: "" }).unwrap());
    let ready = page(LandingState::Ready { code: "K7Q2" }, Some("/apply"));
    assert!(ready.contains("<form method=\"post\" action=\"/.tidegate/invitation\">"));
    assert!(ready.contains("<input type=\"hidden\" name=\"code\" value=\"K7Q2\">"));
    assert!(ready.contains("<input type=\"hidden\" name=\"next\" value=\"&#x2f;apply\">"));
    assert!(!page(LandingState::Ready { code: "K7Q2" }, None).contains("name=\"next\""));
    let ask = page(LandingState::Ask, None);
    assert!(ask.contains("<label for=\"code\">") && ask.contains("<input id=\"code\" name=\"code\" required"));
    for state in [LandingState::Expired, LandingState::Revoked, LandingState::Used] {
        assert!(!page(state, Some("/apply")).contains("<form"));
    }
    for state in every_landing() {
        assert!(page(state, None).contains("<a href=\"/\">"));
    }
}

#[test]
fn failures_have_their_status_and_words() {
    let pages = Pages::built_in().unwrap();
    for kind in FailureKind::ALL {
        let page = text(pages.failure(kind));
        assert!(page.contains(&format!("Error {}", kind.status().as_u16())));
        assert!(page.contains(kind.title()));
        assert_eq!(page.contains("Try again</a>"), kind.may_pass());
    }
}

#[test]
fn the_policy_allows_the_style_that_is_in_the_page() {
    let pages = Pages::built_in().unwrap();
    for (name, page) in every_page() {
        let style = between(&page, "<style>", "</style>");
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
        for kind in EVERY_KIND {
            let policy = pages.content_security_policy(kind).to_str().unwrap();
            assert!(policy.contains(&format!("style-src 'sha256-{hash}';")), "{name}: {policy}");
        }
    }
}

const EVERY_KIND: [PageKind; 5] = [PageKind::Waiting, PageKind::Shed, PageKind::Failure, PageKind::Landing, PageKind::Email];

#[test]
fn no_policy_allows_a_script() {
    let unused = Pages::new(Some(("room.html", "no form")), Some(TERMS)).unwrap();
    let taking_none = with_template("room.html", "{{ email_form }}").unwrap();
    for pages in [Pages::built_in().unwrap(), with_template("room.html", "x").unwrap(), unused, taking_none] {
        for kind in EVERY_KIND {
            let policy = pages.content_security_policy(kind).to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("script-src"), "{policy}");
            assert!(policy.contains("base-uri 'none'") && policy.contains("form-action 'self'"), "{policy}");
        }
    }
}

#[test]
fn the_one_script_is_ours_and_on_the_waiting_page() {
    let own = Pages::new(Some(("room.html", "<main>{{ email_form }}</main>")), Some(TERMS)).unwrap();
    for pages in [taking_addresses(), own] {
        let page = waiting_of(&pages, &WaitingView::new(estimate(100, 400), 10, false, None));
        let hash = hash(between(&page, "<script>", "</script>"));
        for kind in EVERY_KIND {
            let policy = pages.content_security_policy(kind).to_str().unwrap();
            assert_eq!(policy.ends_with(&format!("; script-src '{hash}'")), kind == PageKind::Waiting, "{policy}");
            assert_eq!(policy.matches("script-src").count(), usize::from(kind == PageKind::Waiting), "{policy}");
        }
    }
}

#[test]
fn a_template_may_hold_the_form_once() {
    let own = |source: &str| Pages::new(Some(("room.html", source)), Some(TERMS));
    let twice = own("a\n{{ email_form }}\n{{ email_form }}").unwrap_err();
    assert_eq!(twice.to_string(), "room.html:2: `email_form` stands in a page twice");
    let pages = own("{% if email_form %}<a href=\"/.tidegate/email\">Leave</a>{% endif %}").unwrap();
    let page = |state| waiting_of(&pages, &WaitingView::new(state, 10, false, None));
    assert!(page(WaitingState::Closed).contains("Leave") && !page(WaitingState::Next).contains("Leave"));
}

fn refused(source: &str) -> PageError {
    with_template("room.html", source).unwrap_err()
}

#[test]
fn a_typo_is_found_at_load_with_file_and_line() {
    assert_eq!(refused("a\nb\n{{ refrsh_s }}").to_string(), "room.html:3: `refrsh_s` is undefined");
    assert!(refused("a\n{% if state == 'next' %}\n{{ stat }}{% endif %}").to_string().starts_with("room.html:3: `stat` is undefined"));
    assert!(refused("a\n{% if form_refused and state == 'closed' %}{{ positon }}{% endif %}").to_string().starts_with("room.html:2: "));
    assert!(refused("a\n{% if tpyo %}{% endif %}").to_string().starts_with("room.html:2: "));
    assert!(refused("a\n{{ state | uper }}").to_string().starts_with("room.html:2: "));
    assert!(refused("a\n{% if state %}").to_string().starts_with("room.html:2: syntax error"));
}

#[test]
fn a_typo_where_no_state_leads_is_found_too() {
    let error = refused("a\n{% if refresh_s > 4000 %}\n{{ nmae }}{% endif %}");
    assert_eq!(error.to_string(), "room.html:3: `nmae` is undefined");
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let error = refused("a\n{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}");
    assert!(error.to_string().starts_with("room.html:2: takes more than"), "{error}");
}

#[test]
fn includes_and_macros_are_refused() {
    for source in [
        "{% include 'shed.html' %}",
        "{% import 'shed.html' as x %}",
        "{% extends 'shed.html' %}",
        "{% macro m() %}{% endmacro %}",
        "{% block b %}{% endblock %}",
    ] {
        assert!(matches!(refused(source), PageError::Template { line: 1, .. }), "{source}");
    }
}

#[test]
fn sizes_are_bounded() {
    let large = "x".repeat(TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(refused(&large), PageError::TemplateTooLarge { bytes, .. } if bytes == TEMPLATE_BYTES_MAX + 1));
    let multiplied = format!("{{% for i in range(30) %}}{}{{% endfor %}}", "x".repeat(64 * 1024));
    assert!(matches!(refused(&multiplied), PageError::PageTooLarge { .. }));
}

#[test]
fn a_template_may_use_the_built_in_parts_and_what_it_sets_itself() {
    let source = "{{ built_in_head }}<title>{{ state }}</title>{{ built_in_mark }}{% set n = 2 %}{% for i in range(n) %}{{ loop.index }}{% endfor %}{{ built_in_sea }}";
    let pages = with_template("room.html", source).unwrap();
    let page = waiting_of(&pages, &WaitingView::new(WaitingState::Next, 10, false, None));
    assert!(page.starts_with("<meta charset") && page.contains("<title>next</title><svg") && page.contains("12<svg"));
}

#[test]
fn the_documented_template_works() {
    let guide = include_str!("../../docs/template.md");
    let source = between(guide, "```html\n", "```");
    let pages = with_template("docs/template.md", source).unwrap();
    let page = waiting_of(&pages, &WaitingView::new(estimate(100, 400), 10, false, None));
    assert!(page.contains("every 10 seconds"));
    for variable in VARIABLES {
        assert!(guide.contains(&format!("`{variable}`")), "{variable}");
    }
}

/// WCAG 2.2, 1.4.3: 4.5 for text; the darkest and the lightest end of the sky are both held against.
#[test]
fn text_stands_out_in_both_palettes() {
    let (light, dark) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    for palette in [light, dark] {
        let colour = |name: &str| palette.split_once(&format!("--{name}: ")).unwrap().1.split(';').next().unwrap();
        let sky = between(colour("sky"), "(", ")").split(", ");
        for behind in sky {
            for name in ["ink", "soft", "deep", "bad"] {
                let contrast = contrast(colour(name), behind);
                assert!(contrast >= 4.5, "{name} on {behind}: {contrast}");
            }
        }
        assert!(contrast(colour("on-deep"), colour("deep")) >= 4.5);
    }
}

fn contrast(one: &str, other: &str) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn luminance(colour: &str) -> f64 {
    let digits = colour.strip_prefix('#').unwrap();
    let digits = if digits.len() == 3 { digits.chars().flat_map(|digit| [digit, digit]).collect() } else { digits.to_owned() };
    let channel = |at: usize| {
        let value = f64::from(u8::from_str_radix(&digits[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
}

#[test]
fn memory_is_not_multiplied_by_a_template() {
    for source in ["{{ 'x' * 2000000000 }}", "{{ [1] * 2000000000 }}", "{{ range(2000000000) }}"] {
        assert!(matches!(refused(source), PageError::Template { .. } | PageError::PageTooLarge { .. }), "{source}");
    }
}

#[test]
fn pages_are_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Pages>();
}
