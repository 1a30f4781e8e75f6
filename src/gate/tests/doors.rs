//! The other doors: modes, reloads, and clocks that jump.
