//! The cookies of the gate: found, stripped and set. The site's own go through byte for byte.
//!
//! A Cookie header is split as servers split it (RFC 6265, section 5.4, read backwards): at every `;`, quoted or not; the name ends at
//! the first `=`; blanks around both don't count; bytes need not be ASCII. Names are case-sensitive.

use std::ops::Range;
use std::time::Duration;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::head::{Head, Name};

/// Which of the two cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `tidegate_pass`, of those who may enter.
    Pass,
    /// `tidegate_ticket`, of those who wait.
    Ticket,
}

/// How a cookie is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Whether the visitor came over TLS, to us or to a trusted front.
    pub secure: bool,
    /// `session.domain`, already checked.
    pub domain: Option<&'a str>,
    /// How long the browser keeps it, in whole seconds.
    pub max_age: Duration,
}

/// The values that may be ours, unverified. An old cookie, or one that a neighbouring domain has set, can stand beside the good one, so
/// there can be several of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct OurCookies<'a> {
    /// Values of pass cookies.
    pub pass: Candidates<'a>,
    /// Values of ticket cookies.
    pub ticket: Candidates<'a>,
    /// Where all of them stand.
    pub places: Places,
}

/// Where in a request our cookies were found, for [`strip_found`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// There are none.
    #[default]
    Nowhere,
    /// One pair, in the first Cookie line.
    Once {
        /// Where it starts.
        start: usize,
        /// Where it ends, its semicolon not included.
        end: usize,
    },
    /// There are several, or they stand further down.
    Several,
}

/// Up to [`CANDIDATES_MAX`] values: those with the `__Host-` prefix first, which nobody but this host can set, then `__Secure-`, then
/// those without; in each, in the order sent. So no number of forged ones hides a `__Host-` cookie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates<'a> {
    list: [(Prefix, &'a [u8]); CANDIDATES_MAX],
    len: usize,
}

/// Each candidate costs the check of a signature.
pub const CANDIDATES_MAX: usize = 4;

impl OurCookies<'_> {
    /// Whether there is anything to strip.
    #[must_use]
    pub fn any(&self) -> bool {
        self.places != Places::Nowhere
    }
}

impl<'a> Candidates<'a> {
    /// The values, the most trustworthy first.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.list[..self.len].iter().map(|&(_, value)| value)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn add(&mut self, prefix: Prefix, value: &'a [u8]) {
        // the only one
        if self.len == 0 {
            self.list[0] = (prefix, value);
            self.len = 1;
            return;
        }
        let place = self.list[..self.len].partition_point(|&(other, _)| other <= prefix);
        if place < CANDIDATES_MAX {
            self.len = (self.len + 1).min(CANDIDATES_MAX);
            self.list[place..self.len].rotate_right(1);
            self.list[place] = (prefix, value);
        }
    }
}

/// Finds our cookies in every Cookie line. Allocates nothing.
#[must_use]
pub fn find<'a>(head: impl Into<Head<'a>>) -> OurCookies<'a> {
    let head = head.into();
    let mut found = OurCookies::default();
    if !head.has(Name::Cookie) {
        return found;
    }
    for (nth, line) in head.map().get_all(COOKIE).iter().enumerate() {
        let mut next = 0;
        for pair in Pairs::of(line.as_bytes()) {
            let start = next;
            next += pair.len() + 1;
            let Some((kind, prefix, value)) = ours(pair) else { continue };
            found.places = match found.places {
                Places::Nowhere if nth == 0 => Places::Once { start, end: start + pair.len() },
                Places::Nowhere | Places::Once { .. } | Places::Several => Places::Several,
            };
            match kind {
                Kind::Pass => found.pass.add(prefix, value),
                Kind::Ticket => found.ticket.add(prefix, value),
            }
        }
    }
    found
}

/// Removes our cookies from a request, and only them: every other pair keeps its bytes and its place. A line of which nothing is left
/// goes. Without ours among them nothing is touched.
pub fn strip_ours(headers: &mut HeaderMap) {
    // where no name is repeated there is one line at most, as HTTP/1.1 wants it
    if headers.keys_len() == headers.len() {
        let Some(line) = headers.get_mut(COOKIE) else { return };
        match without_ours(line) {
            Rest::Whole => {}
            // written in place: `insert` would make room for one more header first
            Rest::Line(rest) => *line = rest,
            Rest::Nothing => drop(headers.remove(COOKIE)),
        }
        return;
    }
    let lines = headers.get_all(COOKIE);
    if !lines.iter().any(holds_ours) {
        return;
    }
    let rest = lines.iter().filter_map(|line| match without_ours(line) {
        Rest::Whole => Some(line.clone()),
        Rest::Line(rest) => Some(rest),
        Rest::Nothing => None,
    });
    let rest = rest.collect();
    replace(headers, COOKIE, rest);
}

/// [`strip_ours`], which is told what [`find`] has found in the same Cookie lines; [`super::hop`] may have removed them since.
pub fn strip_found(headers: &mut HeaderMap, places: Places) {
    let (start, end) = match places {
        Places::Nowhere => return,
        Places::Several => return strip_ours(headers),
        Places::Once { start, end } => (start, end),
    };
    // where no name is repeated there is one line at most
    let is_alone = headers.keys_len() == headers.len();
    let Some(line) = headers.get_mut(COOKIE) else { return };
    // a place that holds no pair of ours is one in other lines
    if !is_alone || !is_ours_at(line.as_bytes(), start, end) {
        return strip_ours(headers);
    }
    match rest_of(without_one(line.as_bytes(), start..end)) {
        Some(rest) => *line = rest,
        None => drop(headers.remove(COOKIE)),
    }
}

/// Whether a whole pair stands there, and is ours.
fn is_ours_at(line: &[u8], start: usize, end: usize) -> bool {
    let is_whole = line.get(..start).is_some_and(|before| before.last().is_none_or(|&byte| byte == b';'))
        && line.get(end..).is_some_and(|after| after.first().is_none_or(|&byte| byte == b';'));
    is_whole && line.get(start..end).is_some_and(|pair| memchr(b';', pair).is_none() && ours(pair).is_some())
}

/// Removes the Set-Cookie lines with which the site would overwrite ours.
pub fn strip_from_site(headers: &mut HeaderMap) {
    if !headers.get_all(SET_COOKIE).iter().any(sets_ours) {
        return;
    }
    let rest = headers.get_all(SET_COOKIE).iter().filter(|line| !sets_ours(line)).cloned().collect();
    replace(headers, SET_COOKIE, rest);
}

/// The Set-Cookie value that gives a visitor a token. Over TLS its name has the prefix `__Host-`, or `__Secure-` if it holds for a
/// domain. A pass is SameSite=None there, since logins and card payments come back by cross-site POST; over plaintext browsers
/// refuse None, and it is Lax.
#[must_use]
pub fn set_cookie(kind: Kind, token: &[u8], attributes: Attributes<'_>) -> HeaderValue {
    let Attributes { secure, domain, max_age } = attributes;
    let name = match (kind, secure, domain) {
        (Kind::Pass, false, _) => "tidegate_pass=",
        (Kind::Pass, true, None) => "__Host-tidegate_pass=",
        (Kind::Pass, true, Some(_)) => "__Secure-tidegate_pass=",
        (Kind::Ticket, false, _) => "tidegate_ticket=",
        (Kind::Ticket, true, None) => "__Host-tidegate_ticket=",
        (Kind::Ticket, true, Some(_)) => "__Secure-tidegate_ticket=",
    };
    let flags = match (kind, secure) {
        (Kind::Pass, true) => "; Path=/; HttpOnly; SameSite=None; Secure; Max-Age=",
        (Kind::Ticket, true) => "; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=",
        (Kind::Pass | Kind::Ticket, false) => "; Path=/; HttpOnly; SameSite=Lax; Max-Age=",
    };
    let mut digits = [0; 20];
    let max_age = decimal(max_age.as_secs(), &mut digits);
    let domain_name = if domain.is_some() { "; Domain=" } else { "" };
    let after = [flags.as_bytes(), max_age, domain_name.as_bytes(), domain.unwrap_or_default().as_bytes()];
    // in one piece, without room to spare: what has some needs memory of its own to be shared
    let mut text = Vec::with_capacity(name.len() + token.len() + after.iter().map(|part| part.len()).sum::<usize>());
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(token);
    after.iter().for_each(|part| text.extend_from_slice(part));
    // a token and a checked domain hold no control bytes; were there one, an empty line sets nothing
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn decimal(mut number: u64, space: &mut [u8; 20]) -> &[u8] {
    let mut start = space.len();
    loop {
        start -= 1;
        space[start] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
        number /= 10;
        if number == 0 {
            return &space[start..];
        }
    }
}

/// Who can have set a cookie of this name, the fewest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    /// This host over TLS.
    Host,
    /// This site over TLS.
    Secure,
    /// Anyone on this site.
    #[default]
    None,
}

/// What a pair holds if it is ours.
fn ours(pair: &[u8]) -> Option<(Kind, Prefix, &[u8])> {
    let pair = pair.trim_ascii_start();
    // every name of ours starts with one of these two bytes, and few others do
    let (prefix, rest) = match pair.first()? {
        b't' => (Prefix::None, pair),
        b'_' => match pair.strip_prefix(b"__Host-") {
            Some(rest) => (Prefix::Host, rest),
            None => (Prefix::Secure, pair.strip_prefix(b"__Secure-")?),
        },
        _ => return None,
    };
    let rest = rest.strip_prefix(b"tidegate_")?;
    let (kind, rest) = match rest.strip_prefix(b"pass") {
        Some(rest) => (Kind::Pass, rest),
        None => (Kind::Ticket, rest.strip_prefix(b"ticket")?),
    };
    Some((kind, prefix, trim(trim(rest).strip_prefix(b"=")?)))
}

fn holds_ours(line: &HeaderValue) -> bool {
    Pairs::of(line.as_bytes()).any(|pair| ours(pair).is_some())
}

/// What is left of a line without our pairs.
enum Rest {
    /// All: none of them is ours.
    Whole,
    /// This.
    Line(HeaderValue),
    /// Blanks and semicolons at most.
    Nothing,
}

/// Takes our pairs out of a line, each with one of its semicolons.
fn without_ours(line: &HeaderValue) -> Rest {
    let line = line.as_bytes();
    let mut places = places_of_ours(line);
    let Some(first) = places.next() else { return Rest::Whole };
    // one is what nearly all hold
    let kept = if places.next().is_none() { without_one(line, first) } else { without_several(line) };
    rest_of(kept).map_or(Rest::Nothing, Rest::Line)
}

fn rest_of(kept: Option<Vec<u8>>) -> Option<HeaderValue> {
    // parts of a valid value are valid
    kept.and_then(|kept| HeaderValue::try_from(kept).ok())
}

/// Where our pairs stand in a line.
fn places_of_ours(line: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    Pairs::of(line).filter_map(move |pair| {
        let start = next;
        next += pair.len() + 1;
        ours(pair).map(|_| start..start + pair.len())
    })
}

/// The line without the pair at this place; `None` if only blanks and semicolons are left.
fn without_one(line: &[u8], place: Range<usize>) -> Option<Vec<u8>> {
    let (before, after) = (&line[..place.start], &line[place.end..]);
    // its own semicolon is the one before it, or that after the first pair; what starts the line starts without a blank
    let (before, after) = match before.split_last() {
        Some((_, before)) => (before.trim_ascii_start(), after),
        None => (before, after.get(1..).unwrap_or_default().trim_ascii_start()),
    };
    if before.iter().chain(after).all(|&byte| byte == b';' || byte.is_ascii_whitespace()) {
        return None;
    }
    // in one piece, without room to spare: what has some needs memory of its own to be shared
    let mut kept = Vec::with_capacity(before.len() + after.len());
    kept.extend_from_slice(before);
    kept.extend_from_slice(after);
    Some(kept)
}

/// The same without every pair of ours.
fn without_several(line: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(line.len());
    let mut is_first = true;
    let mut holds_any = false;
    for pair in Pairs::of(line).filter(|pair| ours(pair).is_none()) {
        holds_any |= !trim(pair).is_empty();
        if is_first {
            // the blank that followed a semicolon
            kept.extend_from_slice(pair.trim_ascii_start());
        } else {
            kept.push(b';');
            kept.extend_from_slice(pair);
        }
        is_first = false;
    }
    holds_any.then_some(kept)
}

fn replace(headers: &mut HeaderMap, name: HeaderName, values: Vec<HeaderValue>) {
    headers.remove(&name);
    for value in values {
        headers.append(name.clone(), value);
    }
}

fn sets_ours(line: &HeaderValue) -> bool {
    let pair = line.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    // browsers take "=name=value" for a cookie without a name, and send back "name=value"
    let pair = trim(pair);
    ours(pair.strip_prefix(b"=").unwrap_or(pair)).is_some()
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

/// The pairs of a line, blanks included.
struct Pairs<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Pairs<'a> {
    const fn of(line: &'a [u8]) -> Self {
        Self { rest: Some(line) }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (pair, rest) = match memchr(b';', rest) {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        self.rest = rest;
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cookies(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<Vec<u8>> {
        headers.get_all(COOKIE).iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    fn stripped(before: &[&str]) -> Vec<String> {
        let mut headers = cookies(&before.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
        strip_ours(&mut headers);
        lines(&headers).into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn only_our_pairs_go() {
        for (before, after) in [
            ("a=b; tidegate_pass=x; c=\"d e\"", Some("a=b; c=\"d e\"")),
            ("tidegate_pass=x; a=b", Some("a=b")),
            ("tidegate_pass=x;a=b", Some("a=b")),
            ("a=b; tidegate_ticket=x", Some("a=b")),
            ("a=b;tidegate_ticket=x;c=d", Some("a=b;c=d")),
            ("a=b; __Host-tidegate_pass=x; __Secure-tidegate_ticket=y;  c=d", Some("a=b;  c=d")),
            ("a=b; tidegate_pass=x; tidegate_pass=y; tidegate_ticket=z", Some("a=b")),
            ("a=b; tidegate_pass=x;", Some("a=b;")),
            ("a=b;; tidegate_pass=;; c", Some("a=b;;; c")),
            ("a=b; tidegate_pass = x ; c=d", Some("a=b; c=d")),
            ("a=\"1; tidegate_pass=x; 2\"", Some("a=\"1; 2\"")),
            ("tidegate_pass=a=b==", None),
            ("tidegate_pass=x", None),
            ("tidegate_pass=x; tidegate_ticket=y", None),
            ("; ;tidegate_pass=x; ;", None),
            ("caf\u{e9}=\u{fc}; tidegate_pass=x; d=\u{fc}", Some("caf\u{e9}=\u{fc}; d=\u{fc}")),
        ] {
            assert_eq!(stripped(&[before]), after.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{before}");
        }
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        for line in [
            "",
            ";",
            " a=b ;; c",
            "tidegate_passx=1",
            "xtidegate_pass=1",
            "Tidegate_pass=1",
            "tidegate_pass",
            "tidegate_",
            "__host-tidegate_pass=1",
            "__Host-__Secure-tidegate_pass=1",
            "__Secure-x=1; __Host-y=2",
            "a=tidegate_pass=1",
            "tidegate_pass-=1",
        ] {
            assert_eq!(stripped(&[line]), [line]);
        }
        let mut none = HeaderMap::new();
        strip_ours(&mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn an_untouched_line_is_the_same_memory() {
        let mut headers = cookies(&[b"a=b", b"tidegate_pass=x; c=d"]);
        let before = headers.get(COOKIE).unwrap().as_bytes().as_ptr();
        strip_ours(&mut headers);
        assert_eq!(headers.get(COOKIE).unwrap().as_bytes().as_ptr(), before);
    }

    #[test]
    fn several_lines_stay_in_order() {
        assert_eq!(stripped(&["a=b", "tidegate_pass=x", "c=d; tidegate_ticket=y", "e=f"]), ["a=b", "c=d", "e=f"]);
        assert_eq!(stripped(&["tidegate_pass=x", "a=b"]), ["a=b"]);
        assert!(stripped(&["tidegate_pass=x", "tidegate_ticket=x"]).is_empty());
        assert_eq!(stripped(&["", "tidegate_pass=x", "a=b; tidegate_pass=x"]), ["", "a=b"]);
    }

    #[test]
    fn candidates_are_found_in_every_line() {
        let headers = cookies(&[b"a=b; tidegate_pass=1;tidegate_ticket= t ", b"tidegate_pass=2; tidegate_pass=\xff"]);
        let found = find(&headers);
        assert_eq!(found.places, Places::Several);
        assert_eq!(found.pass.iter().collect::<Vec<_>>(), [&b"1"[..], b"2", b"\xff"]);
        assert_eq!(found.ticket.iter().collect::<Vec<_>>(), [b"t"]);
        let headers = cookies(&[b"a=b; c=tidegate_pass=1"]);
        let found = find(&headers);
        assert!(found.places == Places::Nowhere && found.pass.is_empty() && found.ticket.is_empty());
        // seen, though it can't be a token: it must be stripped all the same
        assert_eq!(find(&cookies(&[b"tidegate_pass=\xff"])).places, Places::Once { start: 0, end: 15 });
        assert_eq!(find(&cookies(&[b"", b"tidegate_pass=1"])).places, Places::Several, "not in the first line");
    }

    #[test]
    fn forged_cookies_can_not_hide_one_with_a_prefix() {
        let headers = cookies(&[
            b"tidegate_pass=1; tidegate_pass=2; tidegate_pass=3; tidegate_pass=4; tidegate_pass=5",
            b"__Secure-tidegate_pass=6; __Host-tidegate_pass=7; tidegate_pass=8; __Secure-tidegate_pass=9",
        ]);
        assert_eq!(find(&headers).pass.iter().collect::<Vec<_>>(), [b"7", b"6", b"9", b"1"]);
        let headers = cookies(&[b"tidegate_pass=1; tidegate_pass=2; tidegate_pass=3; tidegate_pass=4; tidegate_pass=5"]);
        assert_eq!(find(&headers).pass.iter().collect::<Vec<_>>(), [b"1", b"2", b"3", b"4"]);
    }

    #[test]
    fn set_cookie_by_transport_and_domain() {
        let at = |secure, domain| Attributes { secure, domain, max_age: Duration::from_secs(1200) };
        for (kind, attributes, text) in [
            (Kind::Pass, at(true, None), "__Host-tidegate_pass=v1.t; Path=/; HttpOnly; SameSite=None; Secure; Max-Age=1200"),
            (Kind::Pass, at(false, None), "tidegate_pass=v1.t; Path=/; HttpOnly; SameSite=Lax; Max-Age=1200"),
            (
                Kind::Pass,
                at(true, Some("example.org")),
                "__Secure-tidegate_pass=v1.t; Path=/; HttpOnly; SameSite=None; Secure; Max-Age=1200; Domain=example.org",
            ),
            (Kind::Ticket, at(true, None), "__Host-tidegate_ticket=v1.t; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=1200"),
            (
                Kind::Ticket,
                at(false, Some("example.org")),
                "tidegate_ticket=v1.t; Path=/; HttpOnly; SameSite=Lax; Max-Age=1200; Domain=example.org",
            ),
        ] {
            assert_eq!(set_cookie(kind, b"v1.t", attributes), text);
        }
    }

    #[test]
    fn what_is_set_is_found_and_stripped() {
        for kind in [Kind::Pass, Kind::Ticket] {
            for secure in [false, true] {
                for domain in [None, Some("example.org")] {
                    let set = set_cookie(kind, b"v1.t", Attributes { secure, domain, max_age: Duration::from_secs(1) });
                    let pair = set.to_str().unwrap().split(';').next().unwrap();
                    let headers = cookies(&[pair.as_bytes()]);
                    let found = find(&headers);
                    let (some, none) = if kind == Kind::Pass { (found.pass, found.ticket) } else { (found.ticket, found.pass) };
                    assert_eq!((some.iter().next(), none.is_empty()), (Some(&b"v1.t"[..]), true));
                    assert!(stripped(&[pair]).is_empty());
                    assert!(sets_ours(&set));
                }
            }
        }
    }

    #[test]
    fn the_site_can_not_set_ours() {
        let stripped = |before: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in before {
                headers.append(SET_COOKIE, HeaderValue::from_static(line));
            }
            strip_from_site(&mut headers);
            headers.get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let kept = ["a=b; Path=/", "tidegate_passx=1", "a=1; tidegate_pass=2", "c"];
        assert_eq!(stripped(&kept), kept);
        assert_eq!(
            stripped(&["a=b", "tidegate_pass=x; Path=/", "c=d", " =tidegate_ticket=x", "__Host-tidegate_pass=; Max-Age=0", "e=f"]),
            ["a=b", "c=d", "e=f"]
        );
        assert!(stripped(&["tidegate_pass=x"]).is_empty());
        assert!(stripped(&[]).is_empty());
    }

    /// The rule, written without a thought for speed. `None` if the line goes.
    fn slow(line: &[u8]) -> Option<Vec<u8>> {
        let text: String = line.iter().map(|&byte| char::from(byte)).collect();
        let is_ours = |pair: &str| {
            pair.split_once('=').is_some_and(|(name, _)| {
                let name = name.trim_matches(BLANKS);
                let name = name.strip_prefix("__Host-").or_else(|| name.strip_prefix("__Secure-")).unwrap_or(name);
                ["tidegate_pass", "tidegate_ticket"].contains(&name)
            })
        };
        let pairs: Vec<&str> = text.split(';').collect();
        let kept: Vec<&str> = pairs.iter().copied().filter(|pair| !is_ours(pair)).collect();
        if kept.len() == pairs.len() {
            return Some(line.to_vec());
        }
        if kept.iter().all(|pair| pair.trim_matches(BLANKS).is_empty()) {
            return None;
        }
        Some(kept.join(";").trim_start_matches(BLANKS).chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect())
    }

    const BLANKS: [char; 2] = [' ', '\t'];

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            // whole pairs often enough, and pieces that come close to them
            3 => proptest::sample::select(vec![
                &b"tidegate_pass=v1.abc; "[..], b"__Host-tidegate_pass=x;", b"__Secure-tidegate_ticket=;", b" tidegate_ticket=a=b ", b"sid=1; ",
            ])
            .prop_map(<[u8]>::to_vec),
            5 => proptest::sample::select(vec![
                &b"tidegate_pass"[..], b"tidegate_ticket", b"__Host-", b"__Secure-", b"=", b";", b"; ", b" ", b"\t", b"\"", b",", b"a",
            ])
            .prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8], 0..6),
        ];
        proptest::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn one_cookie_is_taken_out_as_several_are(line in line()) {
            let places: Vec<_> = places_of_ours(&line).collect();
            for place in &places {
                prop_assert!(ours(&line[place.clone()]).is_some());
            }
            if let [only] = &places[..] {
                prop_assert_eq!(without_one(&line, only.clone()), without_several(&line));
            }
        }

        #[test]
        fn stripping_is_what_the_slow_rule_says(before in proptest::collection::vec(line(), 0..4)) {
            let mut headers = cookies(&before.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let places = find(&headers).places;
            let any = places != Places::Nowhere;
            let mut told = headers.clone();
            strip_found(&mut told, places);
            strip_ours(&mut headers);
            prop_assert_eq!(lines(&told), lines(&headers));
            let after: Vec<Vec<u8>> = before.iter().filter_map(|line| slow(line)).collect();
            prop_assert_eq!(lines(&headers) != before, any);
            prop_assert_eq!(lines(&headers), after);
            prop_assert_eq!(find(&headers).places, Places::Nowhere);
        }

        #[test]
        fn places_in_another_line_leave_none_of_ours(line in line(), start in 0..40_usize, len in 0..40_usize) {
            let mut headers = cookies(&[&line]);
            let found = find(&headers).places;
            strip_found(&mut headers, Places::Once { start, end: start + len });
            let is_one = matches!(found, Places::Once { .. } | Places::Nowhere);
            prop_assert!(!is_one || lines(&headers) == slow(&line).into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn one_line_beside_a_repeated_header_is_stripped_alike(line in line()) {
            let mut alone = cookies(&[&line]);
            let mut beside = alone.clone();
            for value in ["1", "2"] {
                beside.append("x", HeaderValue::from_static(value));
            }
            strip_ours(&mut alone);
            strip_ours(&mut beside);
            prop_assert_eq!(lines(&alone), lines(&beside));
        }
    }
}
