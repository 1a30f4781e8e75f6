//! Gate: process
