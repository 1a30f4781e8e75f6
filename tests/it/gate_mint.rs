//! Gate: mint
