//! What both ends of HTTP/1.1 have in common: where bytes are read to, what they are written from, and what of that the connections of a
//! thread have from each other.
//!
//! Heads, and small bodies with them, are read into memory that all connections of a thread share, and copied from there to where they fit
//! exactly; large bodies are read to where they stay. So a connection between two messages holds no buffer, nor does one that waits for a head.
//!
//! Absent: what the bytes mean, which `rules/http1` says, and whose they are.

mod reading;
pub mod spare;
#[cfg(test)]
pub(crate) mod trials;
mod writing;

pub use reading::Reading;
pub use writing::Writing;
