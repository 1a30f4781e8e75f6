//! Names of headers that were read before: nearly all messages have the same, and to read one anew costs several times as much.
//!
//! Always holds: what is found is what would be read. Bounded: a name takes the place of another, so that who sends ever new ones makes
//! reading as slow as it would be without, and no more.

use http::HeaderName;

/// Names that are known, as they came: capitals are not the same.
#[derive(Debug)]
pub struct Names([Option<Known>; PLACES]);

#[derive(Debug)]
struct Known {
    spelling: [u8; LENGTH_MAX],
    length: usize,
    name: HeaderName,
}

/// Twice as many as clients and sites have between them.
const PLACES: usize = 128;

/// Longer names are read anew.
const LENGTH_MAX: usize = 32;

impl Default for Names {
    fn default() -> Self {
        Self([const { None }; PLACES])
    }
}

impl Names {
    /// The name that is spelled so; `None` if that is none.
    pub fn read(&mut self, spelling: &[u8]) -> Option<HeaderName> {
        let (&[first, ..], &[.., last]) = (spelling, spelling) else { return None };
        let middle = spelling[spelling.len() / 2];
        // few names have all of this in common
        let sum = (usize::from(first) + usize::from(middle) + usize::from(last)) * 7 + spelling.len() * 13;
        let known = &mut self.0[sum % PLACES];
        if let Some(known) = known.as_ref().filter(|known| &known.spelling[..known.length] == spelling) {
            return Some(known.name.clone());
        }
        let name = HeaderName::from_bytes(spelling).ok()?;
        if spelling.len() <= LENGTH_MAX {
            let mut own = [0; LENGTH_MAX];
            own[..spelling.len()].copy_from_slice(spelling);
            *known = Some(Known { spelling: own, length: spelling.len(), name: name.clone() });
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_is_what_would_be_read(spellings in proptest::collection::vec("[a-cHX-]{1,4}|[ -~]{0,40}|Host|host|Accept|x-forwarded-for", 0..300)) {
            let mut names = Names::default();
            for spelling in spellings {
                prop_assert_eq!(names.read(spelling.as_bytes()), HeaderName::from_bytes(spelling.as_bytes()).ok(), "{}", spelling);
            }
        }
    }

    /// Else the table would be of little use.
    #[test]
    fn the_names_of_a_browser_have_places_of_their_own() {
        const BROWSER: [&str; 18] = [
            "Host",
            "Connection",
            "Cache-Control",
            "sec-ch-ua",
            "sec-ch-ua-mobile",
            "sec-ch-ua-platform",
            "Upgrade-Insecure-Requests",
            "User-Agent",
            "Accept",
            "Sec-Fetch-Site",
            "Sec-Fetch-Mode",
            "Sec-Fetch-User",
            "Sec-Fetch-Dest",
            "Referer",
            "Accept-Encoding",
            "Accept-Language",
            "Cookie",
            "If-None-Match",
        ];
        let mut names = Names::default();
        BROWSER.iter().for_each(|name| drop(names.read(name.as_bytes())));
        let places = names.0.iter().flatten().count();
        assert!(places >= 16, "{places}");
    }
}
