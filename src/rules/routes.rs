//! Which paths are gated. The first route that matches wins; what matches none is gated.
//!
//! A path that could be read in two ways (dot segments, double or encoded slashes, backslashes, `..;`, codes of what needs none, codes
//! that are no UTF-8) never matches an open route: a front and a back that disagree about a path must not become a way around the gate.
//!
//! Not looked at: upper and lower case. For a site that tells them not apart, a gated exception within an open route has to name both.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// One rule of `routes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// A glob over the path: `*` stays within a segment, `**` crosses segments.
    pub path: String,
    /// Whether it is gated.
    pub gated: bool,
    /// Whether its answers say something about the load.
    pub signal: bool,
}

/// The routes, compiled: all patterns are matched in one pass. By default there are none, and everything is gated.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    list: Vec<Route>,
    set: GlobSet,
    /// The same, if there are few and all of them are plain: comparing them costs a tenth of what the set costs.
    plain: Option<Vec<Plain>>,
}

/// A pattern that needs no automaton.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plain {
    /// This path.
    Exactly(String),
    /// All that starts so: `/a/**`, without the stars.
    Below(String),
}

impl Plain {
    fn of(pattern: &str) -> Option<Self> {
        let is_literal = |text: &str| !text.is_empty() && !text.contains(['*', '?', '[', ']', '{', '}', '!', '\\', ',']);
        match pattern.strip_suffix("**") {
            Some(start) => (is_literal(start) && start.len() > 1 && start.ends_with('/')).then(|| Self::Below(start.to_owned())),
            None => is_literal(pattern).then(|| Self::Exactly(pattern.to_owned())),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exactly(whole) => path == whole,
            Self::Below(start) => path.starts_with(start),
        }
    }
}

/// Above this many, the set is faster.
const PLAIN_MAX: usize = 16;

/// What a route says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Whether it is gated.
    pub gated: bool,
    /// Whether its answers say something about the load.
    pub signal: bool,
}

/// A pattern that is not a glob.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadPattern {
    /// Which entry of the list.
    pub index: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Routes {
    /// Compiles a list.
    ///
    /// # Errors
    /// The first pattern that is not a glob.
    pub fn new(list: Vec<Route>) -> Result<Self, BadPattern> {
        let mut builder = GlobSetBuilder::new();
        for (index, route) in list.iter().enumerate() {
            let glob = GlobBuilder::new(&route.path)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| BadPattern { index, reason: error.kind().to_string() })?;
            builder.add(glob);
        }
        let set = builder.build().map_err(|error| BadPattern { index: 0, reason: error.kind().to_string() })?;
        let plain = if list.len() <= PLAIN_MAX { list.iter().map(|route| Plain::of(&route.path)).collect() } else { None };
        Ok(Self { list, set, plain })
    }

    /// The rules as the operator wrote them.
    #[must_use]
    pub fn list(&self) -> &[Route] {
        &self.list
    }

    /// What the routes say of a path (without its query).
    #[must_use]
    pub fn matching(&self, path: &str) -> Matched {
        if self.list.is_empty() {
            return GATED;
        }
        let Some(first) = self.first(path) else { return GATED };
        let route = &self.list[first];
        if !route.gated && (is_ambiguous(path) || self.is_excepted(path, first)) {
            return GATED;
        }
        Matched { gated: route.gated, signal: route.signal }
    }

    fn first(&self, path: &str) -> Option<usize> {
        match &self.plain {
            Some(plain) => plain.iter().position(|pattern| pattern.matches(path)),
            None => self.set.matches(path).into_iter().min(),
        }
    }

    /// Whether a gated route that stands before this open one matches what a server may make of the path: one that decodes it, or that
    /// takes `;jsessionid=…` for a parameter.
    fn is_excepted(&self, path: &str, open: usize) -> bool {
        if !path.contains(['%', ';']) || self.list[..open].iter().all(|route| !route.gated) {
            return false;
        }
        let is_gated = |reading: &str| self.first(reading).is_some_and(|first| first < open && self.list[first].gated);
        let decoded = decoded(path).unwrap_or_default();
        is_gated(&without_parameters(path)) || is_gated(&decoded) || is_gated(&without_parameters(&decoded))
    }
}

const GATED: Matched = Matched { gated: true, signal: true };

/// Whether servers could disagree about where this path leads.
fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    let (mut segment_start, mut is_coded) = (false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' => return true,
            b'/' if segment_start => return true,
            // parameters of no name, which leave two slashes where they are taken off
            b';' if segment_start && bytes[at..].contains(&b'/') => return true,
            // dot segments; and a dot or a blank at the end of a name, which Windows drops
            b'.' if is_end(bytes.get(at + 1)) => return true,
            b'%' if bytes[at..].starts_with(b"%20") && is_end(bytes.get(at + 3)) => return true,
            b'%' if !is_plain_code(&bytes[at + 1..]) => return true,
            b'%' => is_coded = true,
            _ => {}
        }
        segment_start = byte == b'/';
    }
    is_coded && decoded(path).is_none_or(|text| text.chars().any(is_look_alike))
}

/// Whether a name ends here, or its parameters begin.
const fn is_end(next: Option<&u8>) -> bool {
    matches!(next, None | Some(b'/' | b';'))
}

/// Whether a percent sign is followed by the code of a byte that is no other once it is decoded, or decoded twice. Not so: what divides
/// a path or is taken out of it, controls, and letters and digits, which nobody need encode and which are decoded before files are
/// looked for.
fn is_plain_code(rest: &[u8]) -> bool {
    code(rest).is_some_and(|byte| {
        let divides = matches!(byte, b'/' | b'\\' | b'.' | b'%' | b';' | b'?' | b'#');
        let is_unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        !divides && !is_unreserved && !byte.is_ascii_control()
    })
}

fn code(rest: &[u8]) -> Option<u8> {
    let &[high, low, ..] = rest else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The path with its codes decoded once; `None` if what comes of it is no UTF-8: overlong forms of ASCII, which old decoders let through,
/// are not.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = if byte == b'%' { Some(code(after)?) } else { None };
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

/// Characters that some systems make ASCII of: full-width and small forms, dot leaders, and other slashes.
const fn is_look_alike(char: char) -> bool {
    matches!(char, '\u{ff01}'..='\u{ff5e}' | '\u{fe50}'..='\u{fe6b}' | '\u{2024}'..='\u{2026}' | '\u{2044}' | '\u{2215}' | '\u{2216}')
}

/// The path without what stands behind a semicolon in each segment.
fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(list: &[(&str, bool)]) -> Routes {
        let list = list.iter().map(|&(path, gated)| Route { path: path.to_owned(), gated, signal: true }).collect();
        Routes::new(list).unwrap()
    }

    #[test]
    fn the_first_match_wins_and_no_match_is_gated() {
        let routes = routes(&[("/static/private/**", true), ("/static/**", false), ("/healthz", false)]);
        assert!(!routes.matching("/static/a/b.css").gated);
        assert!(routes.matching("/static/private/x").gated);
        assert!(!routes.matching("/healthz").gated);
        assert!(routes.matching("/healthz/x").gated);
        assert!(routes.matching("/").gated);
    }

    #[test]
    fn plain_patterns_match_what_the_set_matches() {
        let patterns =
            ["/", "/a", "/a/", "/a/**", "/a/b/**", "/a.b", "/a//**", "a", "a/**", "/%61/**", "/**", "**", "/a**", "/a/*", "/a?", "/\\a"];
        let paths =
            ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/a.b", "/axb", "/a//", "/a//b", "a", "a/b", "", "/%61/b", "/A/b", "*"];
        let mut plain = 0;
        for pattern in patterns {
            let routes = routes(&[(pattern, false)]);
            let Some([only]) = routes.plain.as_deref() else { continue };
            plain += 1;
            for path in paths {
                assert_eq!(only.matches(path), routes.set.is_match(path), "{pattern} {path}");
            }
        }
        assert_eq!(plain, 10);
    }

    #[test]
    fn a_star_stays_within_a_segment() {
        let routes = routes(&[("/img/*", false)]);
        assert!(!routes.matching("/img/a.png").gated);
        assert!(routes.matching("/img/a/b.png").gated);
    }

    // each path on a line of its own; they are tried from outside, too
    const IN_TWO_WAYS: &str = include_str!("spellings/in_two_ways.txt");
    const IN_ONE_WAY: &str = include_str!("spellings/in_one_way.txt");

    fn spellings(list: &str) -> impl Iterator<Item = &str> {
        list.lines().filter(|line| !line.starts_with('#'))
    }

    #[test]
    fn a_path_that_can_be_read_two_ways_never_matches_an_open_route() {
        let routes = routes(&[("/static/**", false)]);
        for path in spellings(IN_TWO_WAYS) {
            assert!(routes.matching(path).gated, "{path}");
        }
        for path in spellings(IN_ONE_WAY) {
            assert!(!routes.matching(path).gated, "{path}");
        }
    }

    #[test]
    fn a_gated_exception_holds_for_what_a_server_may_make_of_a_path() {
        let routes = routes(&[
            ("/static/very/free/**", false),
            ("/static/p q/**", true),
            ("/static/caf\u{e9}/**", true),
            ("/static/very/**", true),
            ("/static/**", false),
        ]);
        for path in [
            "/static/p%20q/x",
            "/static/p%20q;a=b/x",
            "/static/caf%c3%a9/x",
            "/static/caf%C3%A9/x",
            "/static/very;a=b/x",
            "/static;a/very/x",
            "/static/very;/x%20y",
            "/static/;a=b/very/x",
            "/static/%76ery/x",
        ] {
            assert!(routes.matching(path).gated, "{path}");
        }
        for path in ["/static/p%20r/x", "/static/a;very/x", "/static/very/free/a%20b", "/static/very/free/a;b", "/static/caf%c3%a8/x"] {
            assert!(!routes.matching(path).gated, "{path}");
        }
        // what is written in codes is still compared as it is written
        let coded = self::routes(&[("/caf%c3%a9/**", false)]);
        assert!(!coded.matching("/caf%c3%a9/x").gated);
    }

    /// What servers are known to make of a path, each in a naive way.
    const READINGS: &[fn(&str) -> String] = &[
        |path| path.to_owned(),
        decode,
        // overlong forms of ASCII
        |path| path.replace("%c0%a", "%2").replace("%C0%A", "%2").replace("%e0%80%a", "%2").replace("%c1%9c", "%5c"),
        |path| path.replace("%u00", "%"),
        without_parameters,
        // what follows the first semicolon, whatever it is
        |path| path.split(';').next().unwrap_or_default().to_owned(),
        |path| path.split(['\0', '?', '#']).next().unwrap_or_default().to_owned(),
        |path| path.replace('\\', "/"),
        // blanks and dots at the end of a name
        |path| {
            let trimmed = |segment: &str| {
                if segment.trim_matches('.').is_empty() {
                    segment.to_owned()
                } else {
                    segment.trim_end_matches([' ', '\t', '.']).to_owned()
                }
            };
            path.split('/').map(trimmed).collect::<Vec<_>>().join("/")
        },
        |path| path.replace(['\t', '\r', '\n'], ""),
        |path| path.replace(['\u{ff0e}', '\u{2024}'], ".").replace('\u{2025}', "..").replace(['\u{ff0f}', '\u{2215}', '\u{2044}'], "/"),
    ];

    fn decode(path: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = path.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            let code = if byte == b'%' { code(after) } else { None };
            bytes.push(code.unwrap_or(byte));
            rest = if code.is_some() { &after[2..] } else { after };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Slashes merged and dot segments gone, as files are looked for.
    fn resolved(path: &str) -> String {
        let mut kept: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                segment => kept.push(segment),
            }
        }
        format!("/{}", kept.join("/"))
    }

    fn is_free(file: &str) -> bool {
        let is_in = |directory: &str| file == directory || file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        is_in("/static") && !is_in("/static/own")
    }

    proptest! {
        #[test]
        fn no_reading_of_an_open_path_leads_out_of_it(parts in proptest::collection::vec(proptest::sample::select(vec![
            "/", "/", "/", "..", ".", "...", "own", "own", "a", "b.css", ";", ";x=y", "\\", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "%25", "%252e", "%252f",
            "%3b", "%3B", "%00", "%09", "%20", "%0d%0a", "%c0%ae", "%c0%af", "%C0%AE", "%e0%80%ae", "%c1%9c", "%u002e", "%u002f", "%6fwn", "o%77n", "%c3%a9",
            "%ef%bc%8e", "%ef%bc%8f", "%e2%80%a5", "%", "%%32e", "%2", "?", "#", "~", "%3f", "%23",
        ]), 0..9)) {
            let routes = routes(&[("/static/own", true), ("/static/own/**", true), ("/static/**", false)]);
            let path = format!("/static/{}", parts.concat());
            // the query and the fragment are taken off before
            let path = path.split(['?', '#']).next().unwrap_or_default();
            if routes.matching(path).gated {
                return Ok(());
            }
            for first in READINGS {
                for second in READINGS {
                    for third in READINGS {
                        let file = resolved(&third(&second(&first(path))));
                        prop_assert!(is_free(&file), "{} is read as {}", path, file);
                    }
                }
            }
        }
    }
}
