//! Which paths are gated. The first route that matches wins; what matches none is gated.
//!
//! A path that could be read in two ways (dot segments, double or encoded slashes, backslashes, `..;`) never matches an open route:
//! a front and a back that disagree about a path must not become a way around the gate.

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
        let first = match &self.plain {
            Some(plain) => plain.iter().position(|pattern| pattern.matches(path)),
            None => self.set.matches(path).into_iter().min(),
        };
        let Some(first) = first else { return GATED };
        let route = &self.list[first];
        if !route.gated && is_ambiguous(path) {
            return GATED;
        }
        Matched { gated: route.gated, signal: route.signal }
    }
}

const GATED: Matched = Matched { gated: true, signal: true };

/// Whether servers could disagree about where this path leads.
fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut at = 0;
    let mut segment_start = true;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'\\' || (byte == b'/' && segment_start && at > 0) {
            return true;
        }
        if byte == b'%' {
            let code = bytes.get(at + 1..at + 3).map(<[u8]>::to_ascii_lowercase);
            // an encoded slash, backslash, dot, percent or NUL: decoded once by one server and twice by another
            if matches!(code.as_deref(), None | Some(b"2f" | b"5c" | b"2e" | b"25" | b"00")) {
                return true;
            }
        }
        if segment_start && byte == b'.' {
            let rest = &bytes[at..];
            let dots = rest.iter().take_while(|&&b| b == b'.').count();
            if dots <= 2 && matches!(rest.get(dots), None | Some(b'/' | b';')) {
                return true;
            }
        }
        segment_start = byte == b'/';
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_path_that_can_be_read_two_ways_never_matches_an_open_route() {
        let routes = routes(&[("/static/**", false)]);
        for path in [
            "/static/../admin",
            "/static/./x",
            "/static/..",
            "/static/.",
            "/static//x",
            "//static/x",
            "/static/%2e%2e/admin",
            "/static/%2E./x",
            "/static/..%2fadmin",
            "/static/%2Fadmin",
            "/static/a\\b",
            "/static/%5cadmin",
            "/static/..;/admin",
            "/static/.;x/y",
            "/static/%252e/x",
            "/static/%2",
            "/static/%00",
        ] {
            assert!(routes.matching(path).gated, "{path}");
        }
        for path in ["/static/.well-known/x", "/static/a..b", "/static/...", "/static/a.css", "/static/caf%c3%a9"] {
            assert!(!routes.matching(path).gated, "{path}");
        }
    }
}
