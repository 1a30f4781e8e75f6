//! Gate: command
