//! Tickets and passes: what they hold, and their fixed binary layout. `keyring.rs` signs and verifies them.
//!
//! Kinds are distinct types: a ticket is never read as a pass.

use std::fmt;
use std::str::FromStr;

use super::time::UnixTime;

/// A visitor: random, given with the ticket and kept by the pass that the ticket wins. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VisitorId(pub u64);

impl fmt::Display for VisitorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::LowerHex for VisitorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for VisitorId {
    type Err = NotHexadecimal;

    /// From exactly 16 hexadecimal digits, of either case: an operator may have typed them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hexadecimal(text, 16).map(Self)
    }
}

/// Text that should have been an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hexadecimal digits")]
pub struct NotHexadecimal {
    /// How many digits there should be.
    pub digits: usize,
}

/// The signed cookie of a visitor who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose it is.
    pub id: VisitorId,
    /// When it was first given; the wait is counted from here.
    pub issued: UnixTime,
    /// When it was last renewed: a ticket not seen for too long is void.
    pub seen: UnixTime,
    /// It has won its draw, or the line has come to it, and it waits for a place in the rate of newcomers.
    pub won: bool,
}

impl Ticket {
    /// Bytes of an encoded ticket.
    pub const LEN: usize = 25;

    /// Flags, id, issued, seen. Numbers are big-endian, times in milliseconds since 1970.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = if self.won { TICKET_WON } else { 0 };
        bytes[1..9].copy_from_slice(&self.id.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.issued.as_millis().to_be_bytes());
        bytes[17..25].copy_from_slice(&self.seen.as_millis().to_be_bytes());
        bytes
    }

    /// The one ticket that encodes to these bytes; `None` if there is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Fields(bytes);
        let flags = rest.byte()?;
        if flags & !TICKET_WON != 0 {
            return None;
        }
        let ticket = Self { id: VisitorId(rest.number()?), issued: rest.time()?, seen: rest.time()?, won: flags & TICKET_WON != 0 };
        rest.end()?;
        Some(ticket)
    }
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

impl Pass {
    /// The pass of a ticket that has won.
    #[must_use]
    pub const fn admitted(id: VisitorId, now: UnixTime) -> Self {
        Self { kind: PassKind::Admitted, id, issued: now, renewed: now, expires: None, batch: 0 }
    }

    /// The pass of an invitation that is redeemed.
    #[must_use]
    pub const fn invited(id: VisitorId, batch: u32, now: UnixTime) -> Self {
        Self { kind: PassKind::Invited, id, issued: now, renewed: now, expires: None, batch }
    }

    /// Bytes of an encoded pass. With what `keyring.rs` puts before it this is 55, the most that HMAC-SHA256 takes in one block.
    pub const LEN: usize = 37;

    /// Kind and flags, id, issued, renewed, expires, batch. Numbers are big-endian, times in milliseconds since 1970; `expires` is
    /// zero where its flag is not set.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let kind = match self.kind {
            PassKind::Admitted => KIND_ADMITTED,
            PassKind::Invited => KIND_INVITED,
            PassKind::Staff => KIND_STAFF,
        };
        let mut bytes = [0; Self::LEN];
        bytes[0] = kind | if self.expires.is_some() { PASS_EXPIRES } else { 0 };
        bytes[1..9].copy_from_slice(&self.id.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.issued.as_millis().to_be_bytes());
        bytes[17..25].copy_from_slice(&self.renewed.as_millis().to_be_bytes());
        bytes[25..33].copy_from_slice(&self.expires.unwrap_or_default().as_millis().to_be_bytes());
        bytes[33..37].copy_from_slice(&self.batch.to_be_bytes());
        bytes
    }

    /// The one pass that encodes to these bytes; `None` if there is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Fields(bytes);
        let first = rest.byte()?;
        let kind = match first & !PASS_EXPIRES {
            KIND_ADMITTED => PassKind::Admitted,
            KIND_INVITED => PassKind::Invited,
            KIND_STAFF => PassKind::Staff,
            _ => return None,
        };
        let id = VisitorId(rest.number()?);
        let issued = rest.time()?;
        let renewed = rest.time()?;
        let expires = rest.time()?;
        let expires = match first & PASS_EXPIRES != 0 {
            true => Some(expires),
            false if expires == UnixTime::default() => None,
            false => return None,
        };
        let batch = u32::from_be_bytes(rest.take()?);
        rest.end()?;
        Some(Self { kind, id, issued, renewed, expires, batch })
    }
}

/// What is left to decode of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<UnixTime> {
        self.number().map(UnixTime::from_millis)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A number of at most 64 bits, written in exactly so many hexadecimal digits.
pub(super) fn hexadecimal(text: &str, digits: usize) -> Result<u64, NotHexadecimal> {
    // from_str_radix alone would take a sign, and fewer digits
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NotHexadecimal { digits });
    }
    u64::from_str_radix(text, 16).map_err(|_| NotHexadecimal { digits })
}

const TICKET_WON: u8 = 1;

const KIND_ADMITTED: u8 = 1;
const KIND_INVITED: u8 = 2;
const KIND_STAFF: u8 = 3;
/// Beside the kind, in the same byte.
const PASS_EXPIRES: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_time() -> impl Strategy<Value = UnixTime> {
        any::<u64>().prop_map(UnixTime::from_millis)
    }

    fn any_ticket() -> impl Strategy<Value = Ticket> {
        (any::<u64>(), any_time(), any_time(), any::<bool>()).prop_map(|(id, issued, seen, won)| Ticket {
            id: VisitorId(id),
            issued,
            seen,
            won,
        })
    }

    fn any_pass() -> impl Strategy<Value = Pass> {
        let kind = prop_oneof![Just(PassKind::Admitted), Just(PassKind::Invited), Just(PassKind::Staff)];
        (kind, any::<u64>(), any_time(), any_time(), proptest::option::of(any_time()), any::<u32>())
            .prop_map(|(kind, id, issued, renewed, expires, batch)| Pass { kind, id: VisitorId(id), issued, renewed, expires, batch })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(ticket in any_ticket(), pass in any_pass()) {
            prop_assert_eq!(Ticket::decode(&ticket.encode()), Some(ticket));
            prop_assert_eq!(Pass::decode(&pass.encode()), Some(pass));
        }

        #[test]
        fn no_two_texts_mean_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            if let Some(ticket) = Ticket::decode(&bytes) {
                prop_assert_eq!(&ticket.encode()[..], &bytes[..]);
            }
            if let Some(pass) = Pass::decode(&bytes) {
                prop_assert_eq!(&pass.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn an_id_is_read_as_it_is_written(id in any::<u64>()) {
            let id = VisitorId(id);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(format!("{id:x}").to_uppercase().parse(), Ok(id));
        }
    }

    /// The layout is a contract with tokens that are already out: these bytes may never change under `v1`.
    #[test]
    fn the_layout_is_fixed() {
        let ticket = Ticket {
            id: VisitorId(0x0102_0304_0506_0708),
            issued: UnixTime::from_millis(0x1112_1314_1516_1718),
            seen: UnixTime::from_millis(0x2122_2324_2526_2728),
            won: true,
        };
        let bytes =
            [1, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28];
        assert_eq!(ticket.encode(), bytes);
        let pass = Pass {
            kind: PassKind::Staff,
            id: VisitorId(1),
            issued: UnixTime::from_millis(2),
            renewed: UnixTime::from_millis(3),
            expires: Some(UnixTime::from_millis(4)),
            batch: 5,
        };
        let mut bytes = [0; 37];
        for (at, value) in [(0, 0x83), (8, 1), (16, 2), (24, 3), (32, 4), (36, 5)] {
            bytes[at] = value;
        }
        assert_eq!(pass.encode(), bytes);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let ticket = [0; 40];
        let mut pass = [0; 40];
        pass[0] = KIND_ADMITTED;
        for len in 0..=40 {
            assert_eq!(Ticket::decode(&ticket[..len]).is_some(), len == Ticket::LEN, "{len}");
            assert_eq!(Pass::decode(&pass[..len]).is_some(), len == Pass::LEN, "{len}");
        }
    }

    #[test]
    fn unknown_kinds_and_flags_are_refused() {
        for first in 0..=u8::MAX {
            let mut ticket = [0; Ticket::LEN];
            ticket[0] = first;
            assert_eq!(Ticket::decode(&ticket).is_some(), first <= 1, "{first:#x}");
            let mut pass = [0; Pass::LEN];
            pass[0] = first;
            assert_eq!(Pass::decode(&pass).is_some(), (1..=3).contains(&(first & 0x7f)), "{first:#x}");
        }
        let mut pass = [0; Pass::LEN];
        pass[0] = KIND_STAFF;
        pass[32] = 1;
        assert_eq!(Pass::decode(&pass), None, "an expiry without its flag");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in
            ["", "1", "+123456789abcdef", "0x23456789abcdef", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "é23456789abcdef"]
        {
            assert_eq!(text.parse::<VisitorId>(), Err(NotHexadecimal { digits: 16 }), "{text}");
        }
    }
}
