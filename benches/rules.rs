//! Micro-benchmarks of the rules that run for every request, and of the pages that are made for some.
#![expect(clippy::expect_used, reason = "the inputs are literals")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use tidegate::config;
use tidegate::gate::{Gate, Remembered, Site, Visit};
use tidegate::page::{self, EmailTerms, FormFields, Pages, WaitEstimate, WaitText, WaitingJson, WaitingState, WaitingView};
use tidegate::rules::draw::{Epoch, Stake, wins};
use tidegate::rules::headers::{cache, check, cookies, forwarded, hop, http2};
use tidegate::rules::keyring::{Key, Keyring, SiteSecret};
use tidegate::rules::negotiate::Coding;
use tidegate::rules::time::{Moment, Now, UnixTime};
use tidegate::rules::token::{Pass, Ticket, VisitorId};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    headers(&mut criterion);
    answers(&mut criterion);
    tokens(&mut criterion);
    admission(&mut criterion);
    pages(&mut criterion);
    criterion.final_summary();
}

fn headers(criterion: &mut Criterion) {
    let plain = request(&[]);
    let other = "session=0123456789abcdef; theme=dark; _ga=GA1.2.123456789.1700000000; consent=yes";
    let token = "v1.a1b2.".to_owned() + &"x".repeat(64);
    let foreign = request(&[("cookie", other)]);
    let ours = request(&[("cookie", &format!("{other}; __Host-tidegate_pass={token}"))]);
    let named = request(&[("connection", "close, x-one, x-two"), ("x-one", "1"), ("x-two", "2"), ("te", "trailers")]);
    let fronted = request(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")]);

    let uri = Uri::from_static("/account/applications?page=2");
    criterion.bench_function("check_request", |bencher| {
        bencher.iter(|| check::check_request(&Method::GET, black_box(&uri), Version::HTTP_11, black_box(&plain)).is_ok());
    });

    let mut on_copy = |name: &str, map: &HeaderMap, rule: &mut dyn FnMut(&mut HeaderMap)| on_copy(criterion, name, map, rule);
    on_copy("strip_hop_by_hop/keep_alive", &plain, &mut hop::strip_request);
    on_copy("strip_hop_by_hop/named", &named, &mut hop::strip_request);
    on_copy("strip_ours/no_cookie", &plain, &mut cookies::strip_ours);
    on_copy("strip_ours/others", &foreign, &mut cookies::strip_ours);
    on_copy("strip_ours/ours_and_others", &ours, &mut cookies::strip_ours);

    let mut crumbs = request(&[]);
    crumbs.remove("host");
    for crumb in other.split("; ").chain([&*token]) {
        crumbs.append("cookie", HeaderValue::from_str(crumb).expect("a value"));
    }
    let asked_for = Uri::from_static("https://www.example.org/account/applications?page=2");
    on_copy("settle_http2", &crumbs, &mut |map| http2::settle(&asked_for, map));

    let mut peer = forwarded::PeerValues::new([192, 0, 2, 1].into());
    let host = HeaderValue::from_static("www.example.org");
    on_copy("set_forwarding/untrusted", &plain, &mut |map| forwarded::set_forwarding(map, &mut peer, false, Some(&host), false));
    on_copy("set_forwarding/trusted", &fronted, &mut |map| forwarded::set_forwarding(map, &mut peer, true, Some(&host), true));

    for (name, map) in [("find_cookies/none", &plain), ("find_cookies/others", &foreign), ("find_cookies/ours", &ours)] {
        criterion.bench_function(name, |bencher| bencher.iter(|| cookies::find(black_box(map)).any()));
    }
    let trusted = ["192.0.2.1/32", "10.0.0.0/8", "172.16.0.0/12", "fd00::/8"].map(|net| net.parse().expect("a network"));
    for (name, map) in [("client_address/direct", &plain), ("client_address/fronted", &fronted)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| forwarded::client_address([10, 0, 0, 1].into(), false, black_box(map), &trusted).address);
        });
    }
}

/// What the site answers, on its way to the visitor.
fn answers(criterion: &mut Criterion) {
    let plain = answer(&[]);
    let named =
        answer(&[("connection", "keep-alive, x-one"), ("keep-alive", "timeout=5"), ("x-one", "1"), ("transfer-encoding", "chunked")]);
    let setting = answer(&[("set-cookie", "session=0123456789abcdef; Path=/; HttpOnly")]);
    let shared = answer(&[("cache-control", "public, max-age=600, s-maxage=3600"), ("cdn-cache-control", "max-age=3600")]);
    on_copy(criterion, "strip_response/plain", &plain, &mut |headers| {
        black_box(hop::strip_response(headers));
    });
    on_copy(criterion, "strip_response/named", &named, &mut |headers| {
        black_box(hop::strip_response(headers));
    });
    on_copy(criterion, "strip_from_site/no_cookie", &plain, &mut cookies::strip_from_site);
    on_copy(criterion, "strip_from_site/theirs", &setting, &mut cookies::strip_from_site);
    on_copy(criterion, "make_private", &shared, &mut cache::make_private);
    let token = keys().sign_pass(&Pass::admitted(VisitorId(7), WALL));
    let attributes = cookies::Attributes { secure: true, domain: None, max_age: Duration::from_secs(14_400) };
    criterion.bench_function("set_cookie", |bencher| {
        bencher.iter(|| cookies::set_cookie(cookies::Kind::Pass, black_box(token.as_bytes()), black_box(attributes)));
    });
}

/// Cloning a map costs more than what is measured, so it stands outside; maps that hyper uses again have room for more.
fn on_copy(criterion: &mut Criterion, name: &str, map: &HeaderMap, rule: &mut dyn FnMut(&mut HeaderMap)) {
    let copy = || {
        let mut map = map.clone();
        map.reserve(16);
        map
    };
    criterion.bench_function(name, |bencher| bencher.iter_batched_ref(copy, |map| rule(map), BatchSize::SmallInput));
}

const WALL: UnixTime = UnixTime::from_secs(1_800_000_000);
const EPOCH: Duration = Duration::from_secs(10);

fn keys() -> Keyring {
    Keyring::new(&SiteSecret::new([1; 32]), &[Key::new(WALL, [2; 32])]).expect("one key")
}

fn at(second: u64) -> Now {
    Now { mono: Moment::from_secs(second), wall: WALL.plus(Duration::from_secs(second)), doubt: Duration::ZERO }
}

fn ticket(id: u64) -> Ticket {
    Ticket { id: VisitorId(id), issued: WALL, seen: WALL, won: false }
}

fn tokens(criterion: &mut Criterion) {
    let keys = keys();
    let pass = keys.sign_pass(&Pass::admitted(VisitorId(7), WALL)).to_string();
    let forged = pass[..pass.len() - 8].to_owned() + "AAAAAAAA";
    criterion.bench_function("verify_pass/genuine", |bencher| bencher.iter(|| keys.verify_pass(black_box(pass.as_bytes())).is_ok()));
    criterion.bench_function("verify_pass/forged", |bencher| bencher.iter(|| keys.verify_pass(black_box(forged.as_bytes())).is_ok()));
    let shown = keys.sign_ticket(&ticket(7)).to_string();
    criterion.bench_function("verify_ticket", |bencher| bencher.iter(|| keys.verify_ticket(black_box(shown.as_bytes())).is_ok()));
    criterion.bench_function("sign_pass", |bencher| bencher.iter(|| keys.sign_pass(black_box(&Pass::admitted(VisitorId(7), WALL)))));
    criterion.bench_function("sign_ticket", |bencher| bencher.iter(|| keys.sign_ticket(black_box(&ticket(7)))));
    criterion.bench_function("draw", |bencher| {
        bencher.iter(|| {
            let (ticket, now) = (black_box(ticket(7)), at(60).wall);
            let epoch = Epoch::of(now, EPOCH, keys.phase(ticket.id));
            let stake = Stake::of(epoch, ticket.issued, now);
            stake.is_ok_and(|stake| wins(keys.draw(ticket.id, epoch.began.as_millis()), 0.01, stake.weight(ticket.issued)))
        });
    });
}

fn admission(criterion: &mut Criterion) {
    // odds by which hardly anyone wins, so that each request takes the same way
    let text = "upstream: { servers: [http://127.0.0.1:3000] }\nadmission: { mode: fixed, probability: 0.000000001 }\n\
                session: { rate: 1000000 }\nlimits: { tickets_per_client: 1000000 }\n";
    let policy = Arc::new(config::parse(text, "gate.yaml", Path::new("/")).expect("a policy"));
    let pages = Arc::new(Pages::built_in().expect("the built-in pages"));
    let gate = Gate::new(policy, Arc::new(keys()), pages, Remembered::default(), 1, at(0));
    let newcomer =
        Visit { gated: true, signal: true, pass: None, ticket: None, unsafe_method: false, may_draw: true, client: 7, entropy: 0 };
    let holder = Visit { pass: Some(Pass::admitted(VisitorId(7), WALL)), ..newcomer };
    // as time goes on, and each from a crowd of its own
    let mut count: u64 = 0;
    let mut next = |visit: &Visit| {
        count += 1;
        let entropy = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let now = Now { mono: Moment::from_micros(60_000_000 + 100 * count), ..at(60) };
        (Visit { entropy, ticket: visit.ticket.map(|_| ticket(entropy)), ..*visit }, now)
    };
    let waiting = Visit { ticket: Some(ticket(0)), ..newcomer };
    let passing = Visit { gated: false, ..newcomer };
    for (name, visit) in [("open_route", &passing), ("pass_holder", &holder), ("ticket_not_drawn", &waiting), ("newcomer", &newcomer)] {
        criterion.bench_function(&format!("decide/{name}"), |bencher| {
            bencher.iter(|| {
                let (visit, now) = next(visit);
                let regime = gate.regime();
                gate.decide(0, &regime, black_box(&visit), now).verdict
            });
        });
    }
    let mut second = 1_000_000;
    criterion.bench_function("tick", |bencher| {
        bencher.iter(|| {
            second += 1;
            gate.tick(&Site { servers: 1, ..Site::default() }, at(second))
        });
    });
}

/// What a visitor who has to wait is shown: rendered when it is new, and else kept but for what is the visitor's own.
fn pages(criterion: &mut Criterion) {
    let terms = EmailTerms { retention: Duration::from_secs(30 * 86_400), invites: true };
    let pages = Pages::new(None, Some(terms)).expect("the built-in pages");
    let wait = WaitText::new(WaitEstimate { half_s: Some(600), nine_of_ten_s: Some(2400) });
    let view = WaitingView::new(WaitingState::Waiting { wait }, 10, false, None);
    criterion.bench_function("waiting_page/rendered", |bencher| bencher.iter(|| pages.waiting(black_box(&view)).is_ok()));
    let page = pages.waiting(&view).expect("a page");
    let fields = FormFields { next: "/account/applications?page=2", check: 7 };
    for (name, coding) in [("kept", Coding::Identity), ("kept_gzip", Coding::Gzip)] {
        criterion.bench_function(&format!("waiting_page/{name}"), |bencher| bencher.iter(|| page.with(black_box(&fields), coding)));
    }
    criterion.bench_function("shed_page", |bencher| bencher.iter(|| pages.shed(black_box(7), false)));
    let json = WaitingJson { retry_after_s: 10, expected_wait_s: Some(600), position: None };
    criterion.bench_function("waiting_json", |bencher| bencher.iter(|| page::waiting_json(black_box(&json))));
}

/// The headers of a browser's request, and some more.
fn request(more: &[(&'static str, &str)]) -> HeaderMap {
    let browser = [
        ("host", "www.example.org"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("connection", "keep-alive"),
        ("upgrade-insecure-requests", "1"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "none"),
        ("priority", "u=0, i"),
    ];
    header_map(browser.iter().chain(more))
}

/// The headers of a site's answer, and some more.
fn answer(more: &[(&'static str, &str)]) -> HeaderMap {
    let site = [
        ("server", "site"),
        ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("content-type", "text/html; charset=utf-8"),
        ("content-length", "1024"),
        ("vary", "accept-encoding"),
        ("etag", "\"0123456789abcdef\""),
    ];
    header_map(site.iter().chain(more))
}

fn header_map<'a>(all: impl Iterator<Item = &'a (&'static str, &'a str)>) -> HeaderMap {
    all.map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))).collect()
}
