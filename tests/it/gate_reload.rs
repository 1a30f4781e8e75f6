//! Gate: reload
