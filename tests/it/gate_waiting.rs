//! Gate: waiting
