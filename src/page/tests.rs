//! What must hold of every page.

use super::*;

/// 14 KiB fit into the first ten segments of a connection; 1 KiB of them is left to the headers.
const RESPONSE_BYTES_MAX: usize = 13 * 1024;

fn text(page: Bytes) -> String {
    String::from_utf8(page.to_vec()).unwrap()
}

fn waiting(state: WaitingState) -> String {
    text(Pages::built_in().unwrap().waiting(&WaitingView::new(state, 10, false, None)).unwrap())
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

/// Every built-in page, each by a name of its own.
fn every_page() -> Vec<(String, String)> {
    let pages = Pages::built_in().unwrap();
    let mut all = Vec::new();
    for (at, view) in every_view().enumerate() {
        let refused = if view.form_refused { "-refused" } else { "" };
        all.push((format!("waiting-{}{refused}-{at}", view.state.name()), text(pages.waiting(&view).unwrap())));
    }
    all.push(("shed".to_owned(), text(pages.shed(4, false))));
    all.push(("shed-unsafe".to_owned(), text(pages.shed(4, true))));
    for kind in FailureKind::ALL {
        all.push((format!("failure-{}", kind.status().as_u16()), text(pages.failure(kind))));
    }
    for (at, state) in every_landing().into_iter().enumerate() {
        all.push((format!("landing-{at}"), text(pages.landing(&LandingView { state, next: Some("/apply?step=2") }).unwrap())));
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

#[test]
fn pages_load_nothing_from_elsewhere() {
    for (name, page) in every_page() {
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
    let page = text(pages.waiting(&WaitingView::new(estimate(100, 400), 10, false, Some(1234))).unwrap());
    assert!(page.contains("about 1,300"));
    assert!(!page.contains("odds"));
}

#[test]
fn a_refused_form_is_told_the_truth_and_no_refresh() {
    let pages = Pages::built_in().unwrap();
    for view in every_view().filter(|view| view.form_refused) {
        let page = text(pages.waiting(&view).unwrap());
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
    let pages = Pages::with_template("room.html", "[{{ every }}|{{ refresh_s }}]").unwrap();
    let page = |refresh_s, refused| text(pages.waiting(&WaitingView::new(WaitingState::Closed, refresh_s, refused, None)).unwrap());
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
        let page = text(pages.landing(&LandingView { state, next: Some(HOSTILE) }).unwrap());
        assert!(!page.contains("<script") && !page.contains("\"><s") && !page.contains("49"), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"));
        assert!(page.contains("{{ 7 * 7 }}"));
    }
}

#[test]
fn an_operators_template_is_escaped_whatever_its_name() {
    for name in ["room.html", "room.txt", "room", "shed.html"] {
        let pages = Pages::with_template(name, "{{ '<b>' ~ state }}").unwrap();
        let page = pages.waiting(&WaitingView::new(WaitingState::Closed, 10, false, None)).unwrap();
        assert_eq!(text(page), "&lt;b&gt;closed", "{name}");
        assert!(text(pages.shed(4, false)).contains("One moment"));
    }
}

#[test]
fn the_landing_page_posts_what_it_was_given() {
    let pages = Pages::built_in().unwrap();
    let page = |state, next| text(pages.landing(&LandingView { state, next }).unwrap());
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
        for kind in [PageKind::Waiting, PageKind::Shed, PageKind::Failure, PageKind::Landing] {
            let policy = pages.content_security_policy(kind).to_str().unwrap();
            assert!(policy.contains(&format!("style-src 'sha256-{hash}';")), "{name}: {policy}");
        }
    }
}

#[test]
fn no_policy_allows_a_script() {
    for pages in [Pages::built_in().unwrap(), Pages::with_template("room.html", "x").unwrap()] {
        for kind in [PageKind::Waiting, PageKind::Shed, PageKind::Failure, PageKind::Landing] {
            let policy = pages.content_security_policy(kind).to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("script-src"), "{policy}");
            assert!(policy.contains("base-uri 'none'") && policy.contains("form-action 'self'"), "{policy}");
        }
    }
}

fn refused(source: &str) -> PageError {
    Pages::with_template("room.html", source).unwrap_err()
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
    let pages = Pages::with_template("room.html", source).unwrap();
    let page = text(pages.waiting(&WaitingView::new(WaitingState::Next, 10, false, None)).unwrap());
    assert!(page.starts_with("<meta charset") && page.contains("<title>next</title><svg") && page.contains("12<svg"));
}

#[test]
fn the_documented_template_works() {
    let guide = include_str!("../../docs/template.md");
    let source = between(guide, "```html\n", "```");
    let pages = Pages::with_template("docs/template.md", source).unwrap();
    let page = text(pages.waiting(&WaitingView::new(estimate(100, 400), 10, false, None)).unwrap());
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
            for name in ["ink", "soft", "deep"] {
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
