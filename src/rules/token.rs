//! Tickets and passes: what they hold, and their fixed binary layout. `keyring.rs` signs and verifies them.
//!
//! Kinds are distinct types: a ticket is never read as a pass.

use super::time::UnixTime;

/// A visitor: random, given with the ticket and kept by the pass that the ticket wins. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VisitorId(pub u64);

/// The signed cookie of a visitor who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose it is.
    pub id: VisitorId,
    /// When it was first given; the wait is counted from here.
    pub issued: UnixTime,
    /// When it was last renewed: a ticket not seen for too long is void.
    pub seen: UnixTime,
    /// It has won its draw and waits for a place in the rate of newcomers.
    pub won: bool,
}

/// How a visitor came by a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassKind {
    /// Drew in.
    Admitted,
    /// Redeemed an invitation.
    Invited,
    /// Minted by the operator.
    Staff,
}

/// The signed cookie, or header, of a visitor who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How it was come by.
    pub kind: PassKind,
    /// Whose it is: the id of the ticket that won it.
    pub id: VisitorId,
    /// When it was first given.
    pub issued: UnixTime,
    /// When it was last renewed; the idle time counts from here.
    pub renewed: UnixTime,
    /// When it ends whatever happens; `None`: when the session limit says.
    pub expires: Option<UnixTime>,
    /// The batch that it can be revoked by; 0 is none.
    pub batch: u32,
}
