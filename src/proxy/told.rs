//! What the access log tells of a request.

use crate::gate::{Decision, Regime};
use crate::rules::decide::Verdict;

/// What the access log tells of a request.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) verdict: &'static str,
    pub(super) reason: &'static str,
    /// Of a request that was decided on, if there is an access log.
    pub(super) because: Option<Box<Because>>,
}

/// What a verdict was reached by. A draw may be told: it is a keyed hash, from which neither the key nor the next draw can be had, and
/// nobody enters by it but with the ticket, which is never told.
#[derive(Clone, Debug)]
pub(super) struct Because {
    /// The odds of weight 1: those of the draw, else those of now.
    pub(super) probability: f64,
    /// Load as of the last tick.
    pub(super) load: f64,
    /// What keeps newcomers out.
    pub(super) limit: &'static str,
    /// The draw, and the weight by which the odds were multiplied.
    pub(super) draw: Option<f64>,
    pub(super) weight: Option<f64>,
    /// The verdict was not carried out: the request went to the site.
    pub(super) observed: bool,
}

pub(super) const fn told(verdict: &'static str, reason: &'static str) -> Told {
    Told { verdict, reason, because: None }
}

/// What is told of a request that was decided on.
pub(super) fn told_why(regime: &Regime, decision: &Decision, verdict: &'static str, reason: &'static str) -> Told {
    let because = (regime.policy.log.access > 0.0 && decision.verdict != Verdict::Open).then(|| {
        let drawn = decision.drawn;
        Box::new(Because {
            probability: drawn.map_or_else(|| regime.probability(), |drawn| drawn.probability),
            load: regime.law.load,
            limit: regime.limit().name(),
            draw: drawn.map(|drawn| drawn.draw),
            weight: drawn.map(|drawn| drawn.weight),
            observed: decision.observed,
        })
    });
    Told { verdict, reason, because }
}
