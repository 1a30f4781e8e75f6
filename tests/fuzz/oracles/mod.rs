//! What must hold of everything that reads what strangers send, or what a crash has left on disk, whatever the bytes are: it never
//! panics, never takes what it should refuse, and what it takes it reads in one way.
//!
//! Each oracle takes bytes and fails by a panic. They are run twice: `tests/it/mutations.rs` changes the seeds at random, some
//! thousand times in each run of the tests; and libFuzzer, which sees what code an input reaches, as long as one likes (it needs a nightly
//! compiler and `cargo install cargo-fuzz`):
//!
//! ```text
//! mkdir -p /tmp/corpus && ORACLE=cookies SEEDS=/tmp/corpus cargo +nightly fuzz run --fuzz-dir tests/fuzz strangers /tmp/corpus
//! ```
//!
//! What is found becomes a plain test beside the code that is mended, and a seed here if it leads on.

pub(crate) mod mutate;

mod files;
mod headers;
mod http1;
mod network;
mod texts;
mod tokens;

/// Something that must hold of any bytes.
pub(crate) struct Oracle {
    pub(crate) name: &'static str,
    /// Inputs from which others are made.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Panics if it does not hold.
    pub(crate) check: fn(&[u8]),
    /// How many times as long as most it takes.
    pub(crate) weight: u32,
}

/// All of them.
pub(crate) const ALL: &[Oracle] = &[
    Oracle { name: "tokens", seeds: tokens::seeds, check: tokens::check, weight: 1 },
    Oracle { name: "cookies", seeds: headers::cookie_seeds, check: headers::check_cookies, weight: 1 },
    Oracle { name: "requests", seeds: headers::request_seeds, check: headers::check_request, weight: 1 },
    Oracle { name: "answers", seeds: headers::answer_seeds, check: headers::check_answer, weight: 1 },
    Oracle { name: "heads", seeds: http1::head_seeds, check: http1::check_head, weight: 2 },
    Oracle { name: "site_heads", seeds: http1::site_head_seeds, check: http1::check_site_head, weight: 2 },
    Oracle { name: "bodies", seeds: http1::body_seeds, check: http1::check_body, weight: 1 },
    Oracle { name: "forwarded", seeds: headers::forwarded_seeds, check: headers::check_forwarded, weight: 1 },
    Oracle { name: "accept", seeds: headers::accept_seeds, check: headers::check_accept, weight: 1 },
    Oracle { name: "proxy_protocol", seeds: network::preamble_seeds, check: network::check_preamble, weight: 1 },
    Oracle { name: "paths", seeds: network::path_seeds, check: network::check_path, weight: 10 },
    Oracle { name: "patterns", seeds: network::pattern_seeds, check: network::check_pattern, weight: 20 },
    Oracle { name: "config", seeds: texts::config_seeds, check: texts::check_config, weight: 50 },
    Oracle { name: "units", seeds: texts::unit_seeds, check: texts::check_unit, weight: 1 },
    Oracle { name: "codes", seeds: texts::code_seeds, check: texts::check_code, weight: 1 },
    Oracle { name: "addresses", seeds: texts::address_seeds, check: texts::check_address, weight: 1 },
    Oracle { name: "ledger", seeds: files::event_seeds, check: files::check_events, weight: 1 },
    Oracle { name: "queue_files", seeds: files::row_seeds, check: files::check_rows, weight: 50 },
    Oracle { name: "ledger_files", seeds: files::entry_seeds, check: files::check_entries, weight: 50 },
];

fn owned(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}
