//! How many addresses each ticket has brought: in memory, for hours, and for a bounded number of tickets.

use std::collections::HashMap;

use crate::rules::uniform::Uniform;

/// The addresses of each ticket, by a hash: the same one twice counts once, or a refusal would tell which ones are known.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    now: HashMap<u64, Vec<u64>, Uniform>,
    before: HashMap<u64, Vec<u64>, Uniform>,
}

/// Tickets that are remembered for certain; up to twice as many are. Each takes about 100 bytes.
const TICKETS: usize = 200_000;

impl Tickets {
    /// Whether a ticket may bring this address. It is remembered if so.
    pub(super) fn may_bring(&mut self, ticket: u64, address: u64, most: u32) -> bool {
        if self.now.len() >= TICKETS {
            self.before = std::mem::take(&mut self.now);
        }
        let brought = self.now.entry(ticket).or_insert_with(|| self.before.remove(&ticket).unwrap_or_default());
        if brought.contains(&address) {
            return true;
        }
        let may = u32::try_from(brought.len()).is_ok_and(|count| count < most);
        if may {
            brought.push(address);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_brings_so_many_different_addresses() {
        let mut tickets = Tickets::default();
        for address in [1, 2, 1, 3, 3, 2] {
            assert!(tickets.may_bring(7, address, 3));
        }
        assert!(!tickets.may_bring(7, 4, 3) && tickets.may_bring(7, 1, 3) && tickets.may_bring(8, 4, 3));
        assert!(tickets.may_bring(7, 4, 4), "the policy of now");
    }

    #[test]
    fn many_tickets_take_a_bounded_memory_and_the_newest_are_known() {
        let mut tickets = Tickets::default();
        // ids are random
        let id = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for ticket in (0..1_000_000).map(id) {
            assert!(tickets.may_bring(ticket, 1, 1));
            assert!(tickets.now.len() + tickets.before.len() <= 2 * TICKETS);
        }
        for ticket in (1_000_000 - TICKETS as u64..1_000_000).map(id) {
            assert!(!tickets.may_bring(ticket, 2, 1));
        }
    }
}
