//! Gate: keys
