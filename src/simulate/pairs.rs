//! The same visitors twice: once as they are told, once as someone who hopes to gain by something else. Arrival, ticket and draws are the
//! same, so that what differs is what it gains.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a visitor of a pair tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trick {
    /// Asks ten times as often as told.
    Reload,
    /// Throws the ticket away whenever it has not won.
    Churn,
}

impl Trick {
    /// That of a visitor, by its number.
    pub(super) const fn of(number: u64) -> Self {
        if number.is_multiple_of(2) { Self::Reload } else { Self::Churn }
    }
}

/// The wait of each visitor of a pair, in seconds, by its number; who gave up waited for as long as the patience lasted.
pub(super) type Waits = BTreeMap<u64, f64>;

/// How much sooner those are in who try something.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ahead {
    /// Mean wait of those who wait as told, over that of the same visitors who don't: above 1 it gains something.
    pub ratio: f64,
    /// Its standard error over the pairs (by the delta method).
    pub error: f64,
    /// Pairs.
    pub pairs: u32,
}

/// Fewer say nothing.
const PAIRS_MIN: u32 = 100;

pub(super) fn ahead(plain: &Waits, tried: &Waits, trick: Trick) -> Option<Ahead> {
    let of_trick = plain.iter().filter(|(number, _)| Trick::of(**number) == trick);
    let pairs: Vec<(f64, f64)> = of_trick.filter_map(|(number, wait)| Some((*wait, *tried.get(number)?))).collect();
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (plain, tried) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let ratio = plain / tried;
    let squares: f64 = pairs.iter().map(|pair| (pair.0 - ratio * pair.1).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt() / tried;
    let pairs = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
    (pairs >= PAIRS_MIN && tried > 0.0).then_some(Ahead { ratio, error, pairs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gained_is_the_ratio_of_the_same_visitors() {
        let plain: Waits = (0..400).map(|number| (number, 10.0 + (number % 7) as f64)).collect();
        let tried: Waits = plain.iter().map(|(number, wait)| (*number, if number % 2 == 0 { wait / 2.0 } else { wait + 1.0 })).collect();
        let (reload, churn) = (ahead(&plain, &tried, Trick::Reload).unwrap(), ahead(&plain, &tried, Trick::Churn).unwrap());
        assert!((reload.ratio - 2.0).abs() < 1e-9 && reload.error < 1e-9 && reload.pairs == 200, "{reload:?}");
        assert!((0.9..0.95).contains(&churn.ratio) && churn.error > 0.0 && churn.error < 0.01, "{churn:?}");
        assert_eq!(ahead(&plain, &Waits::new(), Trick::Reload), None);
    }
}
