//! Gate: demo
