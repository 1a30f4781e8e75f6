//! The law of the floors: a file imports only from lower floors, and siblings never import each other; `rules/` is pure; one file reads
//! the clock, one knows the YAML reader; and a name says what is in a file.
//!
//! Sources are read as tokens, so that comments and texts don't count and groups in braces do. Tests within a file are held to the same
//! law: what they need from above belongs here, not there.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Every room, and how high it is. The rooms of the entry floor stand above each other, in an order of their own.
const FLOORS: &[(&str, u32)] = &[
    ("rules", 10),
    ("clock", 20),
    ("config", 20),
    ("deadlines", 20),
    ("http1", 20),
    ("metrics", 20),
    ("models", 20),
    ("page", 20),
    ("store", 20),
    ("tcp", 20),
    ("tls", 20),
    ("gate", 30),
    ("upstream", 40),
    ("mail", 40),
    ("reload", 40),
    ("demo", 40),
    ("simulate", 40),
    ("proxy", 50),
    ("admin", 50),
    ("telemetry", 60),
    ("app", 61),
    ("cli", 62),
    ("main", 63),
];

/// The crates that a pure file may name, of all that the manifest does: those that compute, and reach for nothing.
const PURE: &[&str] = &[
    "base64",
    "bytes",
    "crc",
    "email_address",
    "globset",
    "hmac",
    "http",
    "httparse",
    "idna",
    "ipnet",
    "memchr",
    "proptest",
    "sha2",
    "siphasher",
    "thiserror",
];

/// What a pure file never names of the standard library: by the start of a path.
const IMPURE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "io"],
    &["std", "env"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "UdpSocket"],
    &["std", "os"],
    &["std", "random"],
    &["std", "sync", "Barrier"],
    &["std", "sync", "Condvar"],
    &["std", "sync", "LazyLock"],
    &["std", "sync", "Mutex"],
    &["std", "sync", "Once"],
    &["std", "sync", "OnceLock"],
    &["std", "sync", "RwLock"],
    &["std", "sync", "atomic"],
    &["std", "sync", "mpsc"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
];

/// Modules that a pure file may name only with what it takes from them, so that nothing impure comes in under another name.
const MIXED: &[&[&str]] = &[&["std"], &["std", "net"], &["std", "sync"], &["std", "time"]];

/// Names that say nothing of what is in a file.
const EMPTY: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

/// Every crate that the manifest names, as sources write it.
static CRATES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut is_listed = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_listed = ["[dependencies]", "[dev-dependencies]"].contains(&line);
        } else if let Some((name, _)) = line.split_once('=').filter(|_| is_listed) {
            found.push(name.trim().replace('-', "_"));
        }
    }
    found
});

#[test]
fn every_file_imports_from_lower_floors_alone() {
    let mut faults = Vec::new();
    let files = sources();
    assert!(files.len() > 50, "the sources were not found: {} files", files.len());
    for (path, source) in &files {
        faults.extend(faults_of(path, source));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_room_of_the_map_is_on_a_floor() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut rooms: Vec<&str> =
        map.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")).map(|rest| rest.trim_end_matches(';')).collect();
    let mut floors: Vec<&str> = FLOORS.iter().map(|(room, _)| *room).filter(|room| *room != "main").collect();
    rooms.sort_unstable();
    floors.sort_unstable();
    assert_eq!(rooms, floors);
}

#[test]
fn every_pure_crate_is_in_the_manifest() {
    assert!(CRATES.len() > 40, "the manifest was not read: {:?}", *CRATES);
    for name in PURE {
        assert!(CRATES.iter().any(|known| known == name), "{name}");
    }
}

#[test]
fn the_law_is_seen_to_be_broken() {
    for (path, source, word) in [
        // a floor above, in every form that a path is written
        ("rules/a.rs", "use crate::gate::Gate;", "gate"),
        ("rules/a.rs", "fn f() { crate::gate::f() }", "gate"),
        ("rules/a.rs", "use crate::{rules::time, gate::Gate};", "gate"),
        ("rules/a.rs", "use crate::{\n    rules::{time::{self, Now}, token},\n    proxy,\n};", "proxy"),
        ("rules/a.rs", "use super::super::proxy;", "proxy"),
        ("rules/headers/a.rs", "use super::super::super::admin::x;", "admin"),
        ("gate/mod.rs", "use super::proxy;", "proxy"),
        ("gate/mod.rs", "mod inner { use super::super::proxy; }", "proxy"),
        ("gate/mod.rs", "use self::super::proxy;", "proxy"),
        ("gate/mod.rs", "mod inner { fn f() { let x = { 1 }; } } use super::proxy;", "proxy"),
        ("gate/mod.rs", "pub(in crate::proxy) fn f() {}", "proxy"),
        ("gate/mod.rs", "#[cfg(test)] mod tests { use crate::proxy::x; }", "proxy"),
        ("gate/mod.rs", "use ::tidegate::proxy;", "proxy"),
        ("gate/mod.rs", "use crate as all;", "crate"),
        ("gate/mod.rs", "use crate::*;", "crate"),
        // a sibling
        ("proxy/handle.rs", "use crate::admin::Guard;", "admin"),
        ("reload.rs", "use crate::upstream::Upstream;", "upstream"),
        // the order of the entry floor
        ("telemetry.rs", "use crate::app::x;", "app"),
        ("app/mod.rs", "use crate::cli::x;", "cli"),
        // a room that nobody put on a floor
        ("attic/mod.rs", "", "attic"),
        ("gate/mod.rs", "use crate::attic::x;", "attic"),
        // purity
        ("rules/a.rs", "use tokio::sync::watch;", "tokio"),
        ("rules/a.rs", "fn f() { ::tracing::info!(\"x\") }", "tracing"),
        ("rules/a.rs", "#[derive(serde::Serialize)] struct S;", "serde"),
        ("rules/a.rs", "use std::{fmt, fs};", "std::fs"),
        ("rules/a.rs", "use std::sync::{Arc, Mutex};", "std::sync::Mutex"),
        ("rules/a.rs", "use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
        ("rules/a.rs", "use std::time::{Duration, Instant};", "std::time::Instant"),
        ("rules/a.rs", "use std::sync::atomic::AtomicU32;", "std::sync::atomic"),
        ("rules/a.rs", "use std::time;", "std::time"),
        ("rules/a.rs", "use std::sync::{self, Arc};", "std::sync"),
        ("rules/a.rs", "use std::net::*;", "std::net"),
        ("rules/a.rs", "aws_lc_rs::rand::fill(&mut x);", "aws_lc_rs"),
        ("rules/a.rs", "extern crate rustix;", "rustix"),
        ("rules/a.rs", "use h2::Reason;", "h2"),
        ("rules/a.rs", "use tokio_util::sync::CancellationToken;", "tokio_util"),
        ("rules/a.rs", "#[cfg(test)] mod tests { use rcgen::KeyPair; }", "rcgen"),
        // names that say nothing
        ("proxy/common.rs", "", "common"),
        ("gate/util.rs", "", "util"),
        ("gate/helpers/line.rs", "", "helpers"),
        // the clock
        ("gate/mod.rs", "let now = std::time::Instant::now();", "Instant::now"),
        ("gate/mod.rs", "let now = SystemTime :: now();", "SystemTime::now"),
        ("gate/mod.rs", "let now = jiff::Timestamp::now();", "Timestamp::now"),
        // the YAML reader
        ("config/value.rs", "use serde_yaml::Value;", "serde_yaml"),
    ] {
        let faults = faults_of(path, source);
        assert!(faults.iter().any(|fault| fault.contains(word)), "{path}: {source}: {faults:?}");
    }
}

#[test]
fn the_law_is_seen_to_be_kept() {
    for (path, source) in [
        ("rules/a.rs", "use super::time::Now; use crate::rules::{token, policy::Mode}; use std::sync::Arc; use std::time::Duration;"),
        ("rules/a.rs", "use std::net::{IpAddr, SocketAddr}; use hmac::Hmac; use std::{fmt, sync::Arc};"),
        ("rules/headers/a.rs", "use super::super::time::Now; mod tests { use super::*; use super::super::hop; }"),
        ("gate/mod.rs", "use crate::rules::time; use crate::page::Pages; use super::rules;"),
        ("gate/mod.rs", "// use crate::proxy\n/* crate::proxy /* crate::admin */ crate::cli */"),
        ("gate/mod.rs", r##"const A: &str = "crate::proxy"; const B: &str = r#"" crate::proxy ""#; const C: char = '"'; // crate::cli"##),
        ("gate/mod.rs", "fn f<'a>(x: &'a str) { let y = b'\\''; let z = '\\u{7b}'; let w = '{'; }"),
        ("gate/mod.rs", "fn f() { tokio::time::interval(x); } use std::sync::Mutex;"),
        ("clock.rs", "let now = Instant::now();"),
        ("config/mirror.rs", "serde_yaml::from_str(x)"),
        ("cli/mod.rs", "use crate::app; use crate::telemetry; use crate::store::scratch::Scratch;"),
        ("app/mod.rs", "use super::telemetry; use crate::proxy::x;"),
        ("main.rs", "tidegate::cli::run()"),
        ("lib.rs", "pub mod rules;"),
    ] {
        assert_eq!(faults_of(path, source), Vec::<String>::new(), "{path}: {source}");
    }
}

/// Every file under `src/`, by its path from there.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// How a file breaks the law, each with its line.
fn faults_of(path: &str, source: &str) -> Vec<String> {
    let module = module_of(path);
    let room = module.first().cloned().unwrap_or_default();
    let is_map = path == "lib.rs";
    let own = height(&room);
    if own.is_none() && !is_map {
        return vec![format!("src/{path}: {room} is on no floor")];
    }
    let mut faults = Vec::new();
    if let Some(empty) = module.iter().find(|name| EMPTY.contains(&name.as_str())) {
        faults.push(format!("src/{path}: {empty} says nothing of what is in it"));
    }
    for Named { line, segments, .. } in names(&module, &tokens(source)) {
        let mut fault = |what: String| faults.push(format!("src/{path}:{line}: {what}"));
        match segments.first().map(String::as_str) {
            Some("crate") => match segments.get(1).map(String::as_str) {
                None | Some("*") => fault("names the whole crate: say which room".to_owned()),
                Some(other) if other == room || is_map => {}
                Some(other) => match (height(other), own) {
                    (None, _) => fault(format!("{other} is on no floor")),
                    (Some(theirs), Some(own)) if theirs == own => fault(format!("{room} names {other}, its sibling")),
                    (Some(theirs), Some(own)) if theirs > own => fault(format!("{room} names {other}, which is above it")),
                    _ => {}
                },
            },
            Some("serde_yaml") if path != "config/mirror.rs" => fault("names serde_yaml: config/mirror.rs alone does".to_owned()),
            _ => {}
        }
        let reads_clock =
            segments.windows(2).any(|pair| ["Instant", "SystemTime", "Timestamp", "Zoned"].contains(&&*pair[0]) && pair[1] == "now");
        if reads_clock && path != "clock.rs" {
            fault(format!("reads a clock ({}): clock.rs alone does", segments.join("::")));
        }
        if room == "rules" {
            let starts = |with: &&&[&str]| segments.len() >= with.len() && with.iter().zip(&segments).all(|(a, b)| a == b);
            let is = |with: &&&[&str]| starts(with) && segments.get(with.len()).is_none_or(|next| next == "*");
            if let Some(name) = segments.first().filter(|&name| CRATES.contains(name) && !PURE.contains(&name.as_str())) {
                fault(format!("rules names {name}, which is none of the crates that it may"));
            }
            if let Some(impure) = IMPURE.iter().find(starts).or_else(|| MIXED.iter().find(is)) {
                fault(format!("rules names {}", impure.join("::")));
            }
        }
    }
    faults
}

fn height(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, height)| *height)
}

/// The module that a file is: its path without `mod` and `lib`.
fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Path,
    Sign(char),
}

/// A path as it is written out, groups taken apart; those of this crate begin with `crate`.
#[derive(Debug)]
struct Named {
    line: usize,
    segments: Vec<String>,
}

/// The words and signs of a source, each with its line; comments, texts and lifetimes left out.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    while let Some(&char) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let start = at;
        match char {
            '/' if next == '/' => at += chars[at..].iter().take_while(|&&char| char != '\n').count(),
            '/' if next == '*' => at = end_of_comment(&chars, at),
            '"' => at = end_of_text(&chars, at),
            '\'' if next == '\\' || chars.get(at + 2) == Some(&'\'') => at = end_of_char(&chars, at),
            // a lifetime: its name is not a path
            '\'' => at += 1 + chars[at + 1..].iter().take_while(|&&char| is_word(char)).count(),
            ':' if next == ':' => {
                found.push((line, Token::Path));
                at += 2;
            }
            _ if is_word(char) => {
                let word: String = chars[at..].iter().take_while(|&&char| is_word(char)).collect();
                at += word.chars().count();
                let hashes = chars[at..].iter().take_while(|&&char| char == '#').count();
                if ["r", "br", "cr"].contains(&&*word) && chars.get(at + hashes) == Some(&'"') {
                    at = end_of_raw_text(&chars, at + hashes, hashes);
                } else if !(["b", "c"].contains(&&*word) && matches!(chars.get(at), Some('"' | '\''))) {
                    found.push((line, Token::Word(word)));
                }
            }
            _ => {
                if !char.is_whitespace() {
                    found.push((line, Token::Sign(char)));
                }
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|&&char| char == '\n').count();
    }
    found
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_text(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw_text(chars: &[char], quote: usize, hashes: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && !(chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|&&char| char == '#').count() == hashes) {
        at += 1;
    }
    at + 1 + hashes
}

fn end_of_char(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '\'' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Words that may stand before a path and are no part of it.
const KEYWORDS: &[&str] =
    &["as", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move", "mut", "ref", "return", "use", "where", "while"];

/// Every path that a module names.
fn names(module: &[String], tokens: &[(usize, Token)]) -> Vec<Named> {
    let mut found = Vec::new();
    // modules written out within the file, each with the depth of braces at which it ends
    let mut inner: Vec<(String, usize)> = Vec::new();
    let (mut at, mut depth) = (0, 0);
    while let Some((line, token)) = tokens.get(at) {
        match token {
            // who may see something: `pub(crate)`, `pub(super)`
            Token::Word(word) if word == "pub" && matches!(tokens.get(at + 3), Some((_, Token::Sign(')')))) => at += 4,
            Token::Word(word) if word == "mod" => {
                if let (Some((_, Token::Word(name))), Some((_, Token::Sign('{')))) = (tokens.get(at + 1), tokens.get(at + 2)) {
                    inner.push((name.clone(), depth));
                    (at, depth) = (at + 3, depth + 1);
                    continue;
                }
                at += 2;
            }
            Token::Sign('{') => (at, depth) = (at + 1, depth + 1),
            Token::Sign('}') => {
                (at, depth) = (at + 1, depth - 1);
                inner.pop_if(|(_, opened)| *opened == depth);
            }
            Token::Word(word) if KEYWORDS.contains(&&**word) => at += 1,
            Token::Word(_) => {
                let mut paths = Vec::new();
                at = path(tokens, at, &[], &mut paths);
                let here: Vec<String> = module.iter().cloned().chain(inner.iter().map(|(name, _)| name.clone())).collect();
                found.extend(paths.into_iter().map(|segments| Named { line: *line, segments: absolute(&here, segments) }));
            }
            Token::Path | Token::Sign(_) => at += 1,
        }
    }
    found
}

/// Reads one path, and what its groups hold. Returns where it ends.
fn path(tokens: &[(usize, Token)], start: usize, before: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut segments = before.to_vec();
    let mut at = start;
    loop {
        match tokens.get(at) {
            Some((_, Token::Word(word))) => segments.push(word.clone()),
            Some((_, Token::Sign('*'))) => segments.push("*".to_owned()),
            Some((_, Token::Sign('{'))) => {
                at += 1;
                while !matches!(tokens.get(at), None | Some((_, Token::Sign('}')))) {
                    at = match tokens.get(at) {
                        Some((_, Token::Word(_) | Token::Sign('*' | '{'))) => path(tokens, at, &segments, paths),
                        _ => at + 1,
                    };
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if !matches!(tokens.get(at), Some((_, Token::Path))) {
            break;
        }
        at += 1;
    }
    paths.push(segments);
    at
}

/// From the root of the crate, for a path that begins with `crate`, `self`, `super` or the crate's own name.
fn absolute(here: &[String], mut segments: Vec<String>) -> Vec<String> {
    let mut from: Vec<String> = here.to_vec();
    let mut rest = segments.as_slice();
    match rest.first().map(String::as_str) {
        Some("crate" | "tidegate") => from.clear(),
        Some("self") => {}
        Some("super") => drop(from.pop()),
        _ => {
            // `std::sync::{self}` is `std::sync`
            segments.pop_if(|last| last == "self");
            return segments;
        }
    }
    rest = &rest[1..];
    while rest.first().is_some_and(|first| first == "super") {
        from.pop();
        rest = &rest[1..];
    }
    // `use a::{self}` is a, and so is `self` alone
    let rest = rest.iter().filter(|segment| *segment != "self").cloned();
    std::iter::once("crate".to_owned()).chain(from).chain(rest).collect()
}
