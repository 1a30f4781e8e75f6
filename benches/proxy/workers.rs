//! What a second worker costs those that there are already: CPU time of a request with two workers, as a ratio to that of two gates with
//! one worker each, which share nothing but the machine; and to that of one worker.
//!
//! Not how much more two can do: where there are two cores, crowd and site are on one of them, and whatever runs beside them there pays
//! for it. A ratio of 1 is what workers have that share nothing; at 1.11, 1.8 times what one does is left of two.

use super::Length;
use super::load::Visitors;
use super::peers::Front;
use super::table::{in_turn, print};
use super::world::World;

/// Prints three rows.
pub(super) fn measure(world: &mut World, length: Length) -> anyhow::Result<()> {
    let mut gates = vec![world.gate_on_two_cores("one worker", 1)?, world.gate_on_two_cores("two workers", 2)?];
    let mut apart = world.gate_on_two_cores(APART, 1)?;
    let other = world.gate_on_two_cores("other gate", 1)?;
    apart.processes.extend(other.processes);
    gates.push(apart);
    let fronts: Vec<(&Front, Visitors)> = gates
        .iter()
        .filter_map(|gate| {
            let beside = other.proxied.filter(|_| gate.name == APART);
            gate.proxied.map(|address| (gate, Visitors { beside, ..world.with_passes(address) }))
        })
        .collect();
    let measured = in_turn(&mut world.load, &fronts, length)?;
    print("workers", &fronts, &measured, (1.11, APART));
    Ok(())
}

const APART: &str = "two gates";
