//! PROXY headers, paths, and the patterns of routes.

use tidegate::rules::proxy_protocol::{HEADER_BYTES_MAX, Parsed, parse};
use tidegate::rules::routes::{Route, Routes};

pub(super) fn preamble_seeds() -> Vec<Vec<u8>> {
    let start: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xd4, 0x31, 0, 80];
    let ssl: &[u8] = &[0x20, 0, 15, 1, 0, 0, 0, 0, 0x21, 0, 7, b'T', b'L', b'S', b'v', b'1', b'.', b'3'];
    let block = |kind: [u8; 2], content: &[u8]| [start, &kind, &u16::try_from(content.len()).unwrap_or(0).to_be_bytes(), content].concat();
    vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 80\r\nGET / HTTP/1.1\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::ffff:1.2.3.4 1 65535\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n".to_vec(),
        block([0x21, 0x11], v4),
        block([0x21, 0x11], &[v4, ssl].concat()),
        block([0x21, 0x21], &[&[0x20; 36], ssl].concat()),
        block([0x21, 0x31], &[b'/'; 216]),
        block([0x20, 0x00], &[]),
    ]
}

/// However the bytes are cut, the result is the same: what is whole with less is no other thing with more.
pub(super) fn check_preamble(bytes: &[u8]) {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        let part = parse(&bytes[..end]);
        match (part, whole) {
            (Ok(Parsed::Incomplete), Ok(Parsed::Complete(header))) => assert!(end < header.length),
            (Ok(Parsed::Incomplete), _) => assert!(end < HEADER_BYTES_MAX),
            (Ok(Parsed::Complete(_)), _) => assert_eq!(part, whole, "at {end}"),
            (Err(_), _) => assert!(whole.is_err(), "at {end} it was refused"),
        }
    }
    if let Ok(Parsed::Complete(header)) = whole {
        assert!(header.length <= bytes.len() && header.length <= HEADER_BYTES_MAX && header.length > 14);
        assert_eq!(parse(&bytes[..header.length]), whole);
    }
}

pub(super) fn path_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "a.css",
        "caf%c3%a9/b",
        "a%20b;x=y/c",
        "own/x",
        "../own",
        "./own",
        "%2e%2e/x",
        "..;/x",
        "..%2fx",
        "a//b",
        "%6fwn/x",
        "own;x/y",
        "o%77n",
        "a\\..\\b",
        "%c0%ae%c0%ae/x",
        "%ef%bc%8e%ef%bc%8e/x",
        "a%00b",
        "%252e%252e/",
        "..%20/x",
        ".../x",
        "%u002e",
        "a%2520b",
        ";x/own/y",
    ])
}

/// No way in which servers are known to read the path of an open route leads out of it.
pub(super) fn check_path(bytes: &[u8]) {
    let Ok(path) = str::from_utf8(bytes) else { return };
    // the query and the fragment are taken off before, and such a path is refused
    if path.contains(['?', '#']) || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return;
    }
    let open = |path: &str, gated| Route { path: path.to_owned(), gated, signal: true };
    let routes = Routes::new(vec![open("/static/own", true), open("/static/own/**", true), open("/static/**", false)]).unwrap();
    let path = format!("/static/{path}");
    if routes.matching(&path).gated {
        return;
    }
    for first in READINGS {
        for second in READINGS {
            for third in READINGS {
                let file = resolved(&third(&second(&first(&path))));
                let is_in = |directory: &str| file.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                assert!(is_in("/static") && !is_in("/static/own"), "{path} is read as {file}");
            }
        }
    }
}

const READINGS: &[fn(&str) -> String] = &[
    |path| path.to_owned(),
    decoded,
    |path| path.replace('\\', "/"),
    |path| path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/"),
    |path| path.split(['\0', ';', '?', '#']).next().unwrap_or_default().to_owned(),
];

fn decoded(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.filter(|code| code.iter().all(u8::is_ascii_hexdigit)).and_then(|code| str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
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

pub(super) fn pattern_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "/static/**\n/static/a/b.css",
        "/a\n/a",
        "/a/*\n/a/b",
        "/a?\n/ab",
        "/{a,b}/**\n/b/c",
        "/[a-c]x\n/bx",
        "/[!a]\n/b",
        "/\\*\n/*",
        "/**/b\n/a/a/b",
        "**\n/",
        "/ü/**\n/ü/x",
    ])
}

/// Whatever stands in gate.yaml as a pattern is one or is refused; and the short way of comparing plain ones, which only few are compared
/// in, comes to the same as the long one.
pub(super) fn check_pattern(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Some((pattern, path)) = text.split_once('\n') else { return };
    if pattern.len() > 200 || path.len() > 400 {
        return;
    }
    // a padding that says what is said where nothing matches
    let route = |path: &str, signal| Route { path: path.to_owned(), gated: true, signal };
    let few = vec![route(pattern, false)];
    let padding = (0..20).map(|number| route(&format!("\u{1}{number}"), true));
    let many = few.iter().cloned().chain(padding).collect();
    match (Routes::new(few), Routes::new(many)) {
        (Ok(few), Ok(many)) => assert_eq!(few.matching(path), many.matching(path), "{pattern:?} {path:?}"),
        (few, many) => assert_eq!(few.err().map(|bad| bad.index), many.err().map(|bad| bad.index), "{pattern:?}"),
    }
}
