//! The oracles of `tests/fuzz`, with their seeds and with inputs that are nearly those.
//!
//! `TIDEGATE_MUTATIONS` is how many inputs each oracle is tried with (fewer where one takes long), by default 2,000; `TIDEGATE_MUTATIONS_SEED`
//! another number makes other inputs.

#[path = "../fuzz/oracles/mod.rs"]
mod oracles;

use oracles::mutate::Mutator;

pub(crate) use oracles::mutate;

/// A number out of the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
}

/// Says what the input was, if it is left by a panic.
pub(crate) struct Tried<'a>(pub(crate) &'a str, pub(crate) &'a [u8]);

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn hold(name: &str) {
    let oracle = oracles::ALL.iter().find(|oracle| oracle.name == name).unwrap();
    let seeds = (oracle.seeds)();
    let inputs = number("TIDEGATE_MUTATIONS", 2000) / u64::from(oracle.weight);
    let mut mutator = Mutator::new(seeds.clone(), number("TIDEGATE_MUTATIONS_SEED", 1));
    for input in seeds.into_iter().chain((0..inputs).map(|_| mutator.input())) {
        let _tried = Tried(name, &input);
        (oracle.check)(&input);
    }
}

/// A test for each oracle, so that they run beside each other and fail by name.
macro_rules! holds {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                hold(stringify!($name));
            }
        )*

        #[test]
        fn none_is_left_out() {
            let named = [$(stringify!($name)),*];
            assert_eq!(oracles::ALL.iter().map(|oracle| oracle.name).collect::<Vec<_>>(), named);
        }
    };
}

holds! {
    tokens cookies requests answers heads site_heads bodies forwarded accept proxy_protocol paths patterns config units codes addresses ledger queue_files
    ledger_files
}
