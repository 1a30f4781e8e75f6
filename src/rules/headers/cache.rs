//! Keeps an answer that carries a cookie of ours out of shared caches: a CDN must not hand one pass to everyone.
//!
//! Absent: what the browser itself may keep. `max-age`, `Expires` and `Vary` are the site's.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};

/// Makes an answer private. `Cache-Control` loses `public` and `s-maxage` and gains `private`, unless `no-store` says more, without a
/// `must-understand` that takes it back for caches that know the word (RFC 9111, section 5.2.2.3); its other directives stay as they are
/// and in order. The cache headers that speak to a CDN alone go.
pub fn make_private(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_for_cdn(name.as_str())).cloned() {
        headers.remove(name);
    }
    let mut lines = headers.get_all(CACHE_CONTROL).iter();
    let Some(first) = lines.next() else {
        headers.insert(CACHE_CONTROL, PRIVATE);
        return;
    };
    if lines.next().is_none() && is_private(first.as_bytes()) {
        return;
    }
    let value = HeaderValue::try_from(private(headers)).unwrap_or(PRIVATE);
    headers.insert(CACHE_CONTROL, value);
}

const PRIVATE: HeaderValue = HeaderValue::from_static("private");

/// Headers that outrank `Cache-Control` in a shared cache: targeted fields (RFC 9213) such as `CDN-Cache-Control` and
/// `Cloudflare-CDN-Cache-Control`, Fastly's and Varnish's `Surrogate-Control`, Akamai's `Edge-Control`, nginx's `X-Accel-Expires`.
fn is_for_cdn(name: &str) -> bool {
    name.ends_with("-cache-control") || matches!(name, "surrogate-control" | "edge-control" | "x-accel-expires")
}

/// Whether nothing needs to be done to the only line.
fn is_private(line: &[u8]) -> bool {
    let mut said = Said::default();
    for directive in directives(line) {
        let directive = Directive::of(directive);
        if let Directive::Shared = directive {
            return false;
        }
        said.hears(&directive);
    }
    said.is_private() && !is_quote_open(line)
}

/// The value of all lines together, made private.
fn private(headers: &HeaderMap) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut said = Said::default();
    for line in headers.get_all(CACHE_CONTROL) {
        // caches differ in where an open quote ends: nothing in such a line can be relied on
        if is_quote_open(line.as_bytes()) {
            continue;
        }
        for directive in directives(line.as_bytes()) {
            let meaning = Directive::of(directive);
            if let Directive::Shared = meaning {
                continue;
            }
            said.hears(&meaning);
            append(&mut kept, directive);
        }
    }
    if !said.is_private() {
        append(&mut kept, PRIVATE.as_bytes());
    }
    kept
}

fn append(list: &mut Vec<u8>, directive: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(directive);
}

enum Directive {
    /// Lets shared caches keep the answer, all or in part.
    Shared,
    Private,
    NoStore,
    MustUnderstand,
    Other,
}

/// What has been said for an answer to be private.
#[derive(Default)]
struct Said {
    private: bool,
    no_store: bool,
    must_understand: bool,
}

impl Said {
    fn hears(&mut self, directive: &Directive) {
        match directive {
            Directive::Private => self.private = true,
            Directive::NoStore => self.no_store = true,
            Directive::MustUnderstand => self.must_understand = true,
            Directive::Shared | Directive::Other => {}
        }
    }

    const fn is_private(&self) -> bool {
        self.private || (self.no_store && !self.must_understand)
    }
}

impl Directive {
    fn of(directive: &[u8]) -> Self {
        let name = directive.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
        let is_bare = name.len() == directive.len();
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"public") => Self::Shared,
            8 if name.eq_ignore_ascii_case(b"s-maxage") => Self::Shared,
            // private="field" keeps only that field out of shared caches
            7 if name.eq_ignore_ascii_case(b"private") => {
                if is_bare {
                    Self::Private
                } else {
                    Self::Shared
                }
            }
            8 if is_bare && name.eq_ignore_ascii_case(b"no-store") => Self::NoStore,
            15 if name.eq_ignore_ascii_case(b"must-understand") => Self::MustUnderstand,
            _ => Self::Other,
        }
    }
}

/// The directives of a line: between commas that are not in quotes.
fn directives(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    line.split(move |&byte| quotes.is_outside(byte) && byte == b',').map(<[u8]>::trim_ascii).filter(|directive| !directive.is_empty())
}

fn is_quote_open(line: &[u8]) -> bool {
    let mut quotes = Quotes::default();
    line.iter().for_each(|&byte| {
        quotes.is_outside(byte);
    });
    quotes.is_open
}

/// Follows quoted strings (RFC 9110, section 5.6.4) byte by byte.
#[derive(Default)]
struct Quotes {
    is_open: bool,
    is_escaped: bool,
}

impl Quotes {
    fn is_outside(&mut self, byte: u8) -> bool {
        if self.is_escaped {
            self.is_escaped = false;
        } else if byte == b'"' {
            self.is_open = !self.is_open;
        } else if byte == b'\\' && self.is_open {
            self.is_escaped = true;
        }
        !self.is_open
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn made_private(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        make_private(&mut headers);
        headers.get_all(CACHE_CONTROL).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn cache_control() {
        for (before, after) in [
            (&[][..], "private"),
            (&[""], "private"),
            (&["public"], "private"),
            (&["max-age=60"], "max-age=60, private"),
            (&["public, max-age=60"], "max-age=60, private"),
            (&["Public , Max-Age=60,S-MaxAge=600, must-revalidate"], "Max-Age=60, must-revalidate, private"),
            (&["s-maxage = 5, no-cache"], "no-cache, private"),
            (&["private"], "private"),
            (&["private, max-age=0"], "private, max-age=0"),
            (&["Private,max-age=0"], "Private,max-age=0"),
            (&["private, s-maxage=5"], "private"),
            (&["no-store"], "no-store"),
            (&["no-store, no-cache,must-revalidate"], "no-store, no-cache,must-revalidate"),
            (&["no-store, public"], "no-store"),
            (&["no-store=1"], "no-store=1, private"),
            (&["no-store, must-understand, max-age=600"], "no-store, must-understand, max-age=600, private"),
            (&["Must-Understand", "no-store"], "Must-Understand, no-store, private"),
            (&["private, must-understand"], "private, must-understand"),
            (&["private=\"set-cookie\", max-age=9"], "max-age=9, private"),
            (&["no-cache=\"a, public\", x=\"\\\", s-maxage=1\""], "no-cache=\"a, public\", x=\"\\\", s-maxage=1\", private"),
            (&["public", "max-age=60"], "max-age=60, private"),
            (&["max-age=60", "no-store"], "max-age=60, no-store"),
            (&["private", "public"], "private"),
            (&["private, x=\"open, public"], "private"),
            (&["x=\"open", "max-age=5"], "max-age=5, private"),
        ] {
            assert_eq!(made_private(before), [after], "{before:?}");
        }
    }

    #[test]
    fn what_speaks_to_a_cdn_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        let gone = [
            "surrogate-control",
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "edge-control",
            "x-accel-expires",
            "my-cache-control",
        ];
        let kept = ["expires", "vary", "surrogate-key", "etag", "last-modified", "age", "x-cache"];
        for name in gone.iter().chain(&kept) {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("max-age=60"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("again"));
        }
        make_private(&mut headers);
        for name in gone {
            assert!(!headers.contains_key(name), "{name}");
        }
        for name in kept {
            assert_eq!(headers.get_all(name).iter().count(), 2, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_shared_cache_may_keep_it_and_a_second_time_changes_nothing(
            lines in proptest::collection::vec("(public|private|s-maxage=1|no-store|must-understand|max-age=5|x=\"|\"|\\\\|,|, | |=){0,8}", 0..4)
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let after = made_private(&lines);
            prop_assert_eq!(after.len(), 1);
            let directives: Vec<_> = directives(after[0].as_bytes()).map(|directive| directive.to_ascii_lowercase()).collect();
            let says = |name: &[u8]| directives.iter().any(|directive| directive == name);
            prop_assert!(says(b"private") || (says(b"no-store") && !says(b"must-understand")));
            prop_assert!(!directives.iter().any(|directive| directive == b"public" || directive.starts_with(b"s-maxage")));
            prop_assert!(!is_quote_open(after[0].as_bytes()));
            prop_assert_eq!(made_private(&[&after[0]]), after);
        }
    }
}
