//! The email queue at work: one thread writes down what visitors post, and answers only when it is on disk.

use crate::rules::email::Address;
use crate::rules::token::VisitorId;

/// The email queue, shared by all workers.
#[derive(Debug)]
pub struct Mail {}

/// What a visitor has posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Where to write to.
    pub address: Address,
    /// The language that the browser asks for first.
    pub language: Option<String>,
    /// The page asked for: path and query, of this site.
    pub path: Option<String>,
    /// The ticket that it came with.
    pub ticket: VisitorId,
    /// The keyed hash of the client's prefix.
    pub client: u64,
}

/// Why an address was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The ticket has brought `email_queue.addresses_per_ticket` addresses already.
    TicketFull,
    /// It can't be written down now.
    Unavailable,
}

impl Mail {
    /// Takes an address. When this returns, it is on disk; an address that is there already is taken once.
    ///
    /// # Errors
    /// Why it is not taken. Then nothing of it is kept.
    pub async fn post(&self, _posted: Posted, _per_ticket: u32) -> Result<(), NotTaken> {
        Err(NotTaken::Unavailable)
    }
}
