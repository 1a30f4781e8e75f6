//! What is uniform over 64 bits, and what is made of it: a number in 0 to 1, and maps by keys that are uniform already: ids of visitors, which are random and signed, and keyed hashes. Nobody can choose them so that
//! they collide, and hashing them again would cost more than the look-up.

use std::hash::{BuildHasherDefault, Hasher};

/// Uniform bits as a number from 0 up to, but not, 1; in steps of 2^-53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / 2f64.powi(53)
}

/// Builds the hashes of such a map.
pub type Uniform = BuildHasherDefault<AsItIs>;

/// Takes a key as its own hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "either half is uniform")]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write_u64(&mut self, key: u64) {
        // a map takes its bucket from the low bits and its tag from the top ones: the top bits of the key, which are equal where they have
        // chosen among several maps before, go between them
        self.0 = key.rotate_left(32);
    }
}
