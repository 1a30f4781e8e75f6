//! Gate: ticket
