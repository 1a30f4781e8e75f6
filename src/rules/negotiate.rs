//! In which form a client wants an answer that the gate composes: a page, JSON, a line of text, or nothing; and whether it takes it
//! compressed.
//!
//! What the browser says of the request itself (`Sec-Fetch-*`) outranks what it would accept. `Accept` is read by RFC 9110, 12.5.1: the
//! highest weight wins, a named type outranks a wildcard's say about it, and of equal weights the first that is named wins. Only
//! types that tell the forms apart are weighed; what names none of them gets text. Nothing allocates, and the `Accept` of common
//! clients is decided by its first bytes.
//!
//! Absent: the method. A form that is posted is a navigation like any other, and HEAD gets the head of what GET would get.

use std::iter;

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderMap, HeaderName};

use super::headers::head::{Head, Name};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// HTML: a person looks at it.
    Page,
    /// `application/json`: a program reads it.
    Json,
    /// One line of text.
    Text,
    /// No body: an image, style, script or font that would only be broken by one.
    Empty,
}

/// The form that suits the client which sent these headers.
#[must_use]
pub fn form<'a>(head: impl Into<Head<'a>>) -> Form {
    let head = head.into();
    let headers = head.map();
    if head.has(Name::SecFetchMode) && headers.get(&SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate") {
        return Form::Page;
    }
    if head.has(Name::SecFetchDest)
        && let Some(form) = headers.get(&SEC_FETCH_DEST).and_then(|destination| by_destination(destination.as_bytes()))
    {
        return form;
    }
    let accepted = if head.has(Name::Accept) { by_accept(headers) } else { Form::Text };
    let is_script = accepted == Form::Page && head.has(Name::XRequestedWith) && is_script_request(headers);
    if is_script { Form::Text } else { accepted }
}

/// How the bytes of an answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// As they are.
    Identity,
    /// `gzip`
    Gzip,
}

/// The coding that suits a client (RFC 9110, 12.5.3): gzip, if it names that and does not weigh it with nothing. `*` is no name: who sends
/// it has often not thought of having to read it.
#[must_use]
pub fn coding(headers: &HeaderMap) -> Coding {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().map(http::HeaderValue::as_bytes);
    let gzip = lines.flat_map(weighed).find(|(name, _)| name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip"));
    if gzip.is_some_and(|(_, parameters)| weight(parameters) > 0) { Coding::Gzip } else { Coding::Identity }
}

/// The language that a client names first; `None` if it names none, or what is no tag (RFC 5646: letters, digits and hyphens, 35 of them
/// at most).
#[must_use]
pub fn language(headers: &HeaderMap) -> Option<&str> {
    // browsers name them in the order of their weights
    let first = headers.get(ACCEPT_LANGUAGE)?.to_str().ok()?;
    let tag = first.split([',', ';']).next()?.trim();
    let is_tag = (1..=LANGUAGE_BYTES_MAX).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_tag.then_some(tag)
}

/// RFC 5646, 4.4.1: room for every tag that is made of registered parts.
const LANGUAGE_BYTES_MAX: usize = 35;

/// What the destination alone decides; `empty` (fetch and the like) and names not known yet are left to `Accept`.
fn by_destination(destination: &[u8]) -> Option<Form> {
    match destination {
        b"document" | b"iframe" | b"frame" => Some(Form::Page),
        b"image" | b"style" | b"script" | b"font" | b"audio" | b"video" | b"track" | b"manifest" | b"worker" | b"sharedworker"
        | b"serviceworker" | b"audioworklet" | b"paintworklet" | b"xslt" | b"report" => Some(Form::Empty),
        b"json" => Some(Form::Json),
        _ => None,
    }
}

/// jQuery and its kin ask for HTML to put it into a page: a whole page would be put in there too. The value is compared since
/// Android's web view sends the name of its app in this header, with every navigation.
fn is_script_request(headers: &HeaderMap) -> bool {
    headers.get(&X_REQUESTED_WITH).is_some_and(|with| with.as_bytes().eq_ignore_ascii_case(b"XMLHttpRequest"))
}

fn by_accept(headers: &HeaderMap) -> Form {
    let mut lines = headers.get_all(ACCEPT).iter().map(http::HeaderValue::as_bytes);
    let Some(first) = lines.next() else { return Form::Text };
    // a first range without a weight has weight 1, which nothing after it can beat
    if first.starts_with(b"text/html,") || first == b"text/html" {
        return Form::Page;
    }
    if first.starts_with(b"application/json,") || first == b"application/json" {
        return Form::Json;
    }
    let mut weights = Weights::default();
    weights.read(first);
    for line in lines {
        weights.read(line);
    }
    weights.best()
}

/// The weights that a client gives to each form.
#[derive(Default)]
struct Weights {
    page: Weight,
    json: Weight,
    empty: Weight,
    text: Weight,
    /// `application/*`: what it says of JSON where JSON isn't named.
    any_application: Weight,
    /// `text/*` and `*/*`: what they say of text where text isn't named.
    any: Weight,
    /// Named a type that only navigations of Internet Explorer 8 and older name; they don't name HTML.
    old_explorer: bool,
    ranges: u32,
}

/// Thousandths, and where in the header it was said.
#[derive(Clone, Copy, Default)]
struct Weight {
    said: Option<(u16, u32)>,
}

impl Weight {
    fn raise(&mut self, thousandths: u16, place: u32) {
        if self.said.is_none_or(|(said, _)| thousandths > said) {
            self.said = Some((thousandths, place));
        }
    }

    fn or(self, wildcard: Self) -> Self {
        if self.said.is_some() { self } else { wildcard }
    }
}

impl Weights {
    fn read(&mut self, line: &[u8]) {
        for (name, parameters) in weighed(line) {
            self.ranges += 1;
            self.add(name, weight(parameters));
        }
    }

    fn add(&mut self, name: &[u8], thousandths: u16) {
        let place = self.ranges;
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let in_family = |family: &[u8]| name.get(..family.len()).is_some_and(|start| start.eq_ignore_ascii_case(family));
        let ends = |end: &[u8]| name.len() > end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end);
        if is(b"text/html") || is(b"application/xhtml+xml") {
            self.page.raise(thousandths, place);
        } else if is(b"*/*") || is(b"text/*") || is(b"*") {
            self.any.raise(thousandths, place);
        } else if is(b"application/*") {
            self.any_application.raise(thousandths, place);
        } else if is(b"application/json") || is(b"text/json") || (in_family(b"application/") && ends(b"+json")) {
            self.json.raise(thousandths, place);
        } else if is(b"text/plain") {
            self.text.raise(thousandths, place);
        } else if is(b"text/css")
            || ends(b"javascript")
            || ends(b"ecmascript")
            || [&b"image/"[..], b"audio/", b"video/", b"font/", b"application/font-", b"application/x-font-"].into_iter().any(in_family)
        {
            self.old_explorer |= is(b"image/pjpeg");
            self.empty.raise(thousandths, place);
        }
    }

    fn best(&self) -> Form {
        if self.old_explorer && self.any.said.is_some_and(|(thousandths, _)| thousandths > 0) {
            return Form::Page;
        }
        let mut best = (Form::Text, self.text.or(self.any).said.unwrap_or((0, u32::MAX)));
        let others = [(Form::Page, self.page), (Form::Json, self.json.or(self.any_application)), (Form::Empty, self.empty)];
        for (form, weight) in others {
            let Some((thousandths, place)) = weight.said else { continue };
            let (best_thousandths, best_place) = best.1;
            let wins = thousandths > best_thousandths || (thousandths == best_thousandths && place < best_place);
            if thousandths > 0 && wins {
                best = (form, (thousandths, place));
            }
        }
        best.0
    }
}

/// The weight among a range's parameters, in thousandths; 1000 if there is none, or none that can be read.
fn weight(parameters: &[u8]) -> u16 {
    let mut weights = parts(parameters, b';').filter_map(|parameter| match parameter.trim_ascii() {
        [b'q' | b'Q', b'=', value @ ..] => Some(thousandths(value).unwrap_or(1000)),
        _ => None,
    });
    weights.next().unwrap_or(1000)
}

/// `0.5` is 500. Lenient: Java sends `.2`, others more than three digits.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &b""[..]),
    };
    if (whole.is_empty() && fraction.is_empty()) || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    if whole.iter().any(|&digit| digit != b'0') {
        return Some(1000);
    }
    let digit = |place: usize| fraction.get(place).map_or(0, |&digit| u16::from(digit - b'0'));
    Some(digit(0) * 100 + digit(1) * 10 + digit(2))
}

/// What is named in a line, each with its parameters.
fn weighed(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let named = parts(line, b',').map(|part| split_unquoted(part, b';')).map(|(name, parameters)| (name.trim_ascii(), parameters));
    named.filter(|(name, _)| !name.is_empty())
}

/// What stands between separators.
fn parts(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    iter::from_fn(move || {
        let (part, after) = if rest.is_empty() { return None } else { split_unquoted(rest, separator) };
        rest = after;
        Some(part)
    })
}

/// Splits at the first separator that isn't within a quoted string; the separator is in neither part.
fn split_unquoted(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted && byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            quoted = !quoted;
        } else if byte == separator && !quoted {
            return (&bytes[..at], &bytes[at + 1..]);
        }
    }
    (bytes, &[])
}

static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    type Pairs<'a> = &'a [(&'static str, &'a str)];

    fn of(pairs: Pairs) -> Form {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        form(&headers)
    }

    fn accept(value: &str) -> Form {
        of(&[("accept", value)])
    }

    #[test]
    fn who_takes_gzip_gets_it() {
        let table: &[(&[&str], Coding)] = &[
            (&["gzip, deflate, br, zstd"], Coding::Gzip),
            (&["br;q=1.0, GZIP;q=0.8, *;q=0.1"], Coding::Gzip),
            (&["deflate", "gzip"], Coding::Gzip),
            (&["x-gzip"], Coding::Gzip),
            (&["br,gzip ; q=0.001"], Coding::Gzip),
            (&["gzip;q=0, br"], Coding::Identity),
            (&["gzip;q=0.000"], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&["*"], Coding::Identity),
            (&["gzipped, agzip, br"], Coding::Identity),
            (&[""], Coding::Identity),
            (&[], Coding::Identity),
        ];
        for (lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(coding(&headers), *expected, "{lines:?}");
        }
    }

    #[test]
    fn what_clients_really_send() {
        let chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7";
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let table: &[(&str, Pairs, Form)] = &[
            ("Chrome", &[("accept", chrome), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], Form::Page),
            ("Chrome on plain http", &[("accept", chrome)], Form::Page),
            ("Firefox, Safari", &[("accept", firefox)], Form::Page),
            ("a frame", &[("accept", firefox), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Form::Page),
            ("Android web view", &[("accept", firefox), ("x-requested-with", "com.example.app")], Form::Page),
            (
                "Safari 5",
                &[("accept", "application/xml,application/xhtml+xml,text/html;q=0.9,text/plain;q=0.8,image/png,*/*;q=0.5")],
                Form::Page,
            ),
            ("Edge 18, IE 11", &[("accept", "text/html, application/xhtml+xml, image/jxr, */*")], Form::Page),
            (
                "IE 8",
                &[("accept", "image/gif, image/jpeg, image/pjpeg, application/x-ms-application, application/xaml+xml, */*")],
                Form::Page,
            ),
            ("IE 6", &[("accept", "image/gif, image/x-xbitmap, image/jpeg, image/pjpeg, application/x-shockwave-flash, */*")], Form::Page),
            (
                "Googlebot",
                &[("accept", "text/html,application/xhtml+xml,application/signed-exchange;v=b3,application/xml;q=0.9,*/*;q=0.8")],
                Form::Page,
            ),
            ("Lynx", &[("accept", "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01")], Form::Page),
            ("Java", &[("accept", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2")], Form::Page),
            (
                "Turbo",
                &[("accept", "text/html, application/xhtml+xml"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
                Form::Page,
            ),
            ("curl, wget, bingbot", &[("accept", "*/*")], Form::Text),
            ("no Accept", &[], Form::Text),
            ("fetch()", &[("accept", "*/*"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], Form::Text),
            ("EventSource", &[("accept", "text/event-stream"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")], Form::Text),
            ("jQuery.load", &[("accept", "text/html, */*; q=0.01"), ("x-requested-with", "XMLHttpRequest")], Form::Text),
            (
                "axios",
                &[("accept", "application/json, text/plain, */*"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
                Form::Json,
            ),
            (
                "jQuery.getJSON",
                &[("accept", "application/json, text/javascript, */*; q=0.01"), ("x-requested-with", "XMLHttpRequest")],
                Form::Json,
            ),
            ("JSON:API", &[("accept", "application/vnd.api+json")], Form::Json),
            ("problem details", &[("accept", "application/problem+json;q=0.9, */*;q=0.1")], Form::Json),
            (
                "JSON module",
                &[("accept", "application/json,*/*;q=0.5"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "json")],
                Form::Json,
            ),
            ("img, by its destination", &[("accept", "*/*"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], Form::Empty),
            ("img in Chrome", &[("accept", "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8")], Form::Empty),
            ("img in Firefox 65", &[("accept", "image/webp,*/*")], Form::Empty),
            (
                "img in Safari",
                &[("accept", "image/webp,image/avif,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5")],
                Form::Empty,
            ),
            ("style", &[("accept", "text/css,*/*;q=0.1")], Form::Empty),
            ("script, by its destination", &[("accept", "*/*"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")], Form::Empty),
            (
                "jQuery.getScript",
                &[("accept", "text/javascript, application/javascript, application/x-ecmascript, */*; q=0.01")],
                Form::Empty,
            ),
            ("font in Firefox", &[("accept", "application/font-woff2;q=1.0,application/font-woff;q=0.9,*/*;q=0.8")], Form::Empty),
        ];
        for (who, headers, expected) in table {
            assert_eq!(of(headers), *expected, "{who}");
        }
    }

    #[test]
    fn the_first_language_is_taken_if_it_is_one() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_bytes(value).unwrap());
            language(&headers).map(str::to_owned)
        };
        assert_eq!(language(&HeaderMap::new()), None);
        for (value, expected) in [
            ("de-CH,de;q=0.9,en;q=0.8", Some("de-CH")),
            (" es ;q=0.5", Some("es")),
            ("zh-Hant-TW", Some("zh-Hant-TW")),
            ("*", None),
            ("", None),
            (",en", None),
            ("en_GB", None),
            ("<script>", None),
            ("abcdefgh-abcdefgh-abcdefgh-abcdefgh", Some("abcdefgh-abcdefgh-abcdefgh-abcdefgh")),
            ("abcdefgh-abcdefgh-abcdefgh-abcdefgh1", None),
        ] {
            assert_eq!(of(value.as_bytes()).as_deref(), expected, "{value}");
        }
        assert_eq!(of(b"\xe9n"), None);
    }

    #[test]
    fn weights_decide_and_order_breaks_ties() {
        assert_eq!(accept("text/html;q=0.5, application/json"), Form::Json);
        assert_eq!(accept("application/json;q=0.5, text/html"), Form::Page);
        assert_eq!(accept("text/html;q=0.8,application/json;q=0.8"), Form::Page);
        assert_eq!(accept("application/json;q=0.8,text/html;q=0.8"), Form::Json);
        assert_eq!(accept("text/html;q=0.899, application/json;q=0.9"), Form::Json);
        assert_eq!(accept("*/*, text/html;q=0.5"), Form::Text);
        assert_eq!(accept("*/*;q=0.5, text/html;q=0.9"), Form::Page);
        assert_eq!(accept("text/*;q=0.3, text/html;q=0.7"), Form::Page);
        assert_eq!(accept("application/*"), Form::Json);
    }

    #[test]
    fn weight_zero_is_a_refusal_even_under_a_wildcard() {
        assert_eq!(accept("text/html;q=0, */*"), Form::Text);
        assert_eq!(accept("text/html;q=0"), Form::Text);
        assert_eq!(accept("application/json;q=0.000, application/*"), Form::Text);
        assert_eq!(accept("image/*;q=0"), Form::Text);
    }

    #[test]
    fn letters_spaces_and_parameters_are_read_as_written() {
        assert_eq!(accept("TEXT/HTML"), Form::Page);
        assert_eq!(accept(" text/html ; charset=utf-8 ; Q=0.9 , */* ; q=0.8"), Form::Page);
        assert_eq!(accept("text/html;level=\"1,2;q=0\";q=0.9, application/json;q=0.8"), Form::Page);
        assert_eq!(accept("application/json;x=\"a\\\",text/html,\""), Form::Json);
        assert_eq!(accept("text/html;q=1.0"), Form::Page);
        assert_eq!(accept("text/html;q=high, */*;q=0.1"), Form::Page);
        assert_eq!(accept(", ,"), Form::Text);
    }

    #[test]
    fn lines_of_accept_are_one_list() {
        assert_eq!(of(&[("accept", "*/*;q=0.1"), ("accept", "application/json")]), Form::Json);
        assert_eq!(of(&[("accept", "text/plain;q=0.5"), ("accept", "text/html")]), Form::Page);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_form(value in proptest::collection::vec(0x20u8..0x7f, 0..200)) {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_bytes(&value).unwrap());
            let _form: Form = form(&headers);
        }

        #[test]
        fn the_heavier_of_two_wins(page in 0u16..=1000, json in 0u16..=1000) {
            let header = format!("text/html;q={}.{:03}, application/json;q={}.{:03}", page / 1000, page % 1000, json / 1000, json % 1000);
            let expected = match (page, json) {
                (0, 0) => Form::Text,
                _ if page >= json => Form::Page,
                _ => Form::Json,
            };
            prop_assert_eq!(accept(&header), expected);
        }
    }
}
