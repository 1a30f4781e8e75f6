//! Keys: made, rotated and retired beside a gate that serves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Scratch, Upstream, World, own_ports, run, until};

const BROWSER: &str = "Accept: text/html";

/// The id of the key that has signed a cookie line.
fn key_of(line: &str) -> String {
    line.split('.').nth(1).unwrap().to_owned()
}

/// The key files, the oldest first.
fn generations(data: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(data.join("keys")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "key"));
    files.sort();
    files
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open(upstream: &Upstream) -> World {
    World::open(&upstream.url(), "session: { rate: 1000000 }\n")
}

#[test]
fn the_first_start_makes_keys_for_its_owner_alone() {
    let upstream = Upstream::answering("x");
    let world = open(&upstream);
    let data = world.data();
    assert_eq!(generations(&data).len(), 1);
    let mut directories = vec![data];
    while let Some(directory) = directories.pop() {
        assert_eq!(mode_of(&directory), 0o700, "{}", directory.display());
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                assert_eq!(mode_of(&path), 0o600, "{}", path.display());
            }
        }
    }
}

#[test]
fn a_rotation_keeps_every_visitor_and_a_retirement_does_not() {
    let upstream = Upstream::answering("x");
    let world = open(&upstream);
    let file = world.file();
    let old = world.pass();
    let rotated = run(&["keys", "rotate"], &file);
    assert_eq!(rotated.status, Some(0), "{}", rotated.err);
    let second = rotated.out.split(' ').next().unwrap().to_owned();
    assert_ne!(second, key_of(&old));
    // seen by itself, without a reload by the operator
    let new = until("the new key to sign", || Some(world.pass()).filter(|pass| key_of(pass) == second));
    let closed = world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#);
    assert_eq!(closed.status, 200);
    for pass in [&old, &new] {
        assert_eq!(world.get("/", &[BROWSER, pass]).status, 200);
    }
    let listed = run(&["keys", "list"], &file).out;
    let status = |id: &str| listed.lines().find(|line| line.starts_with(id)).unwrap().split_whitespace().last().unwrap().to_owned();
    assert_eq!((status(&key_of(&old)).as_str(), status(&second).as_str()), ("verifies", "signs"));

    let refused = run(&["keys", "retire", &second], &file);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("rotate first"), "{}", refused.err);
    let retired = run(&["keys", "retire", &key_of(&old)], &file);
    assert_eq!(retired.status, Some(0), "{}", retired.err);
    until("the old key to be gone", || Some(()).filter(|()| world.get("/", &[BROWSER, &old]).status == 503));
    assert!(world.metric("tidegate_tokens_rejected_total{reason=\"unknown_key\"}") >= 1.0);
    assert_eq!(world.get("/", &[BROWSER, &new]).status, 200);
    assert!(run(&["keys", "list"], &file).out.contains("retired"));
    // moved back, it is as if nothing had been
    let kept = fs::read_dir(world.data().join("keys/retired")).unwrap().next().unwrap().unwrap().path();
    fs::rename(&kept, world.data().join("keys").join(kept.file_name().unwrap())).unwrap();
    until("the old key to be back", || Some(()).filter(|()| world.get("/", &[BROWSER, &old]).status == 200));
}

#[test]
fn keys_that_can_not_be_read_keep_the_gate_from_starting_and_are_named() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &own_ports(&upstream.url()));
    crate::support::Gate::serve(&file).end();
    let key = generations(&scratch.path().join("data")).remove(0);
    let good = fs::read_to_string(&key).unwrap();
    let refused = |word: &str| {
        let said = run(&["serve"], &file);
        assert_eq!(said.status, Some(1), "{}", said.err);
        assert!(said.err.contains(&key.display().to_string()) && said.err.contains(word), "{}", said.err);
        let secret = good.split('"').rev().nth(1).unwrap();
        assert!(!said.err.contains(secret), "the secret is in the message: {}", said.err);
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod 600");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, &good[..good.len() / 2]).unwrap();
    refused("not a key file");
    fs::write(&key, &good).unwrap();
    // as it was, it starts, and it is the same keys
    crate::support::Gate::serve(&file).end();
    assert_eq!(generations(&scratch.path().join("data")), std::slice::from_ref(&key));

    let site = scratch.path().join("data/keys/site");
    fs::remove_file(&site).unwrap();
    let said = run(&["serve"], &file);
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains(&site.display().to_string()), "{}", said.err);
    assert!(!site.exists(), "a new one would have ended every session");
}

#[test]
fn keys_that_can_not_be_read_at_reload_leave_the_old_ones_in_force() {
    let upstream = Upstream::answering("x");
    let world = open(&upstream);
    let pass = world.pass();
    let key = generations(&world.data()).remove(0);
    fs::write(&key, "{").unwrap();
    let reloads = world.metric("tidegate_config_reloads_total{result=\"applied\"}");
    world.until_metric("tidegate_config_reloads_total{result=\"applied\"}", |count| count > reloads);
    world.admin_post("/mode", "application/json", r#"{"mode":"closed"}"#);
    assert_eq!(world.get("/", &[BROWSER, &pass]).status, 200);
}
