//! What a second worker costs those that there are already: CPU time of a request with two workers, as a ratio to that with one.
//!
//! Not how much more two can do: where there are two cores, crowd and site are on one of them. A ratio of 1 is what workers have that
//! share nothing; at 1.11, 1.8 times what one does is left of two.

use super::Length;
use super::load::Visitors;
use super::peers::Front;
use super::table::{in_turn, print};
use super::world::World;

/// Prints two rows.
pub(super) fn measure(world: &mut World, length: Length) -> anyhow::Result<()> {
    let gates = [world.gate_on_two_cores(ONE, 1)?, world.gate_on_two_cores("two workers", 2)?];
    let fronts: Vec<(&Front, Visitors)> =
        gates.iter().filter_map(|gate| gate.proxied.map(|address| (gate, world.with_passes(address)))).collect();
    let measured = in_turn(&mut world.load, &fronts, length)?;
    print("workers", &fronts, &measured, (1.11, ONE));
    Ok(())
}

const ONE: &str = "one worker";
