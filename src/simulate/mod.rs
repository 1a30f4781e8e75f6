//! Virtual time: a model site and a model crowd around the very code that production runs ([`crate::gate`] and [`crate::rules`]). Hashed
//! draws, tickets, slots, deadlines and appointments are the real ones; sockets, headers and body buffers are left out.
//!
//! The same seed gives the same figures on any machine.

mod book;
pub mod figures;
mod front;
pub mod html;
pub mod report;
pub mod scenario;
mod site;
mod timeline;
mod world;

use crate::rules::policy::Policy;

use figures::Run;
use scenario::Scenario;

/// Runs a scenario once: with the gate, or bare. `policy` takes the place of what the scenario says of the gate.
///
/// # Errors
/// What is wrong with the policy that the scenario names.
pub fn run(scenario: &Scenario, policy: Option<&Policy>, seed: u64, with_gate: bool) -> Result<Run, String> {
    let front = if with_gate { Some(front::Front::new(front::policy(scenario, policy)?, seed)?) } else { None };
    let (figures, seconds) = world::run(scenario, front, seed);
    let (from_s, to_s) = scenario.measured();
    Ok(Run { scenario: scenario.name.clone(), about: scenario.about.clone(), seed, gate: with_gate, from_s, to_s, figures, seconds })
}
