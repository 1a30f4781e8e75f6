//! How many connections each client has: an address, or the /64 of one of IPv6; and how many WebSockets, it or a pass.
//!
//! Always holds: there is an entry for each that has one, and no other. Two short locks a connection, none a request.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::rules::headers::forwarded::ClientPrefix;

/// The counts, in shards: many times the cores of most machines, so that two workers seldom meet.
#[derive(Debug)]
pub(super) struct Clients<K = ClientPrefix> {
    shards: [Mutex<HashMap<K, usize>>; 32],
    /// Which shard is whose is not to be foreseen: addresses are chosen by clients.
    choice: RandomState,
}

impl<K> Default for Clients<K> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), choice: RandomState::new() }
    }
}

impl<K: Copy + Eq + Hash> Clients<K> {
    /// A client has one more. Returns how many those are now.
    pub(super) fn one_more(&self, client: K) -> usize {
        let mut shard = self.shard(client);
        let count = shard.entry(client).or_default();
        *count += 1;
        *count
    }

    /// A client has one less.
    pub(super) fn one_less(&self, client: K) {
        let mut shard = self.shard(client);
        if let Some(count) = shard.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&client);
            }
        }
    }

    fn shard(&self, client: K) -> MutexGuard<'_, HashMap<K, usize>> {
        #[expect(clippy::cast_possible_truncation, reason = "any part of a hash will do")]
        let index = self.choice.hash_one(client) as usize % self.shards.len();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::headers::forwarded::client_prefix;

    fn of(address: &str) -> ClientPrefix {
        client_prefix(address.parse().unwrap())
    }

    #[test]
    fn each_client_is_counted_by_its_prefix_and_forgotten_with_its_last_connection() {
        let clients = Clients::default();
        let counts = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
            .map(|address| clients.one_more(of(address)));
        assert_eq!(counts, [1, 1, 2, 1, 2, 1]);
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"] {
            clients.one_less(of(address));
        }
        assert_eq!(clients.one_more(of("192.0.2.1")), 1);
        assert_eq!(clients.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), 1);
    }
}
