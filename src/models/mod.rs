//! What the models of a site and of a crowd are made of, whether they run in real time ([`crate::demo`]) or in virtual time
//! ([`crate::simulate`]): randomness by seed, arrivals, a site whose workers slow each other down, durations in buckets. Pure.

pub mod arrivals;
pub mod histogram;
pub mod random;
pub mod sharing;
