//! Gate: mode
