//! Gate: log
