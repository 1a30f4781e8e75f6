//! Gate: pass
