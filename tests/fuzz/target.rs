//! One of the oracles, named by `ORACLE`, under libFuzzer. `SEEDS` is a directory into which its seeds are written first.
#![no_main]

#[allow(dead_code, reason = "libFuzzer changes inputs by itself")]
mod oracles;

use std::sync::OnceLock;

static ORACLE: OnceLock<&'static oracles::Oracle> = OnceLock::new();

fn prepare() {
    let name = std::env::var("ORACLE").expect("ORACLE names one of the oracles");
    let oracle = oracles::ALL.iter().find(|oracle| oracle.name == name).expect("an oracle of this name");
    if let Some(directory) = std::env::var_os("SEEDS") {
        for (number, seed) in (oracle.seeds)().iter().enumerate() {
            std::fs::write(std::path::Path::new(&directory).join(format!("seed-{number}")), seed).expect("to write a seed");
        }
    }
    ORACLE.set(oracle).ok();
}

libfuzzer_sys::fuzz_target!(init: prepare(), |bytes: &[u8]| {
    if let Some(oracle) = ORACLE.get() {
        (oracle.check)(bytes);
    }
});
