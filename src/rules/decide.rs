//! The judgements behind a verdict: whether a pass still holds, whether a ticket is still unbroken, what a newcomer's draw comes to.
//!
//! `gate.rs` strings them together with what is shared between requests: tokens, the count of tickets, the rate of each pass.

use std::time::Duration;

use super::policy::{Bypass, Revoked, Session};
use super::time::Now;
use super::token::{Pass, PassKind, Ticket};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The route is not gated.
    Open,
    /// An invited or staff pass.
    Bypass,
    /// Let in, or in already.
    Admit,
    /// The waiting room.
    Wait,
    /// May enter, but the site has no free slot in time.
    Shed,
}

impl Verdict {
    /// The word for it in logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Bypass => "bypass",
            Self::Admit => "admit",
            Self::Wait => "wait",
            Self::Shed => "shed",
        }
    }
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `routes` says so.
    OpenRoute,
    /// A staff pass.
    Staff,
    /// An invited pass.
    Invited,
    /// An admitted pass.
    Pass,
    /// The mode is `open`.
    ModeOpen,
    /// There is room for everyone.
    Room,
    /// The draw was won.
    Drew,
    /// The line has come to its position.
    InTurn,
    /// The mode is `closed`.
    Closed,
    /// No ticket yet: it is given now, and draws from its return on.
    NoTicket,
    /// No ticket yet, and none given: the client prefix has had its share, or the request is not one that is given tickets.
    TicketWithheld,
    /// The draw was not won.
    NotDrawn,
    /// The line has not come to its position.
    InLine,
    /// The draw was won, or the line has come to its position, and there is no token yet.
    NoToken,
    /// No slot came free before the deadline.
    SlotDeadline,
    /// Too many wait for a slot.
    SlotQueueFull,
    /// The pass has asked more often than `session.rate`.
    PassRate,
}

impl Reason {
    /// The word for it in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenRoute => "open_route",
            Self::Staff => "staff",
            Self::Invited => "invited",
            Self::Pass => "pass",
            Self::ModeOpen => "mode_open",
            Self::Room => "room",
            Self::Drew => "drew",
            Self::InTurn => "in_turn",
            Self::Closed => "closed",
            Self::NoTicket => "no_ticket",
            Self::TicketWithheld => "ticket_withheld",
            Self::NotDrawn => "not_drawn",
            Self::InLine => "in_line",
            Self::NoToken => "no_token",
            Self::SlotDeadline => "slot_deadline",
            Self::SlotQueueFull => "slot_queue_full",
            Self::PassRate => "pass_rate",
        }
    }
}

/// What becomes of who shows a pass that holds.
#[must_use]
pub const fn with_pass(kind: PassKind) -> (Verdict, Reason) {
    match kind {
        PassKind::Admitted => (Verdict::Admit, Reason::Pass),
        PassKind::Invited => (Verdict::Bypass, Reason::Invited),
        PassKind::Staff => (Verdict::Bypass, Reason::Staff),
    }
}

/// Why a genuine token is treated as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its time is over.
    Expired,
    /// The operator ended it.
    Revoked,
}

/// An unsafe method with a pass that ended less than this ago is still let in: no form is lost to the clock.
const FORM_GRACE: Duration = Duration::from_secs(30 * 60);

/// A pass is renewed after this part of `session.idle`: rarely enough to cost little, often enough to notice attendance.
const RENEW_PART: u32 = 4;

/// Whether a genuine pass still holds; if so, whether it is to be renewed with this answer.
///
/// # Errors
/// Why it has ended. What is within [`Now::doubt`] of its end holds.
pub fn judge_pass(pass: &Pass, now: Now, session: &Session, bypass: &Bypass, unsafe_method: bool) -> Result<bool, Ended> {
    if is_revoked(pass, session, bypass) {
        return Err(Ended::Revoked);
    }
    let grace = now.doubt + if unsafe_method { FORM_GRACE } else { Duration::ZERO };
    if pass.expires.is_some_and(|end| now.wall.minus(grace) > end) {
        return Err(Ended::Expired);
    }
    if pass.kind == PassKind::Staff {
        return Ok(false);
    }
    let renew_after = session.idle / RENEW_PART;
    // `renewed` may lie a renewal behind the last visit
    let unseen = now.wall.since(pass.renewed);
    if now.wall.since(pass.issued) > session.limit + grace || unseen > session.idle + renew_after + grace {
        return Err(Ended::Expired);
    }
    Ok(unseen > renew_after)
}

/// A ticket that was not seen for this many of the longest refresh intervals is void, so that tickets can't be hoarded.
const VOID_AFTER: u32 = 3;

/// How long a ticket holds without being seen.
#[must_use]
pub fn ticket_holds(refresh_max: Duration) -> Duration {
    refresh_max * VOID_AFTER
}

/// Whether a genuine ticket is still unbroken.
///
/// # Errors
/// That it is void.
pub fn judge_ticket(ticket: &Ticket, now: Now, refresh_max: Duration) -> Result<(), Ended> {
    if now.wall.since(ticket.seen) > ticket_holds(refresh_max) + now.doubt { Err(Ended::Expired) } else { Ok(()) }
}

/// Whether the operator has ended a pass.
#[must_use]
pub fn is_revoked(pass: &Pass, session: &Session, bypass: &Bypass) -> bool {
    let revoked = bypass.revoked.iter().any(|revoked| match *revoked {
        Revoked::Pass(id) => id == pass.id.0,
        Revoked::Batch(batch) => batch == pass.batch && batch != 0,
    });
    let not_before = match pass.kind {
        PassKind::Admitted => session.not_before,
        PassKind::Invited | PassKind::Staff => bypass.not_before,
    };
    revoked || not_before.is_some_and(|start| pass.issued < start)
}

#[cfg(test)]
mod tests {
    use super::super::time::UnixTime;
    use super::super::token::VisitorId;
    use super::*;

    const SESSION: Session = Session {
        active: Duration::from_secs(60),
        idle: Duration::from_secs(1200),
        limit: Duration::from_secs(4 * 3600),
        in_flight: 8,
        rate: 600,
        not_before: None,
        domain: None,
    };
    const NONE: Bypass = Bypass { revoked: Vec::new(), not_before: None };

    fn secs(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_700_000_000 + secs)
    }

    fn now(at: u64) -> Now {
        Now { wall: secs(at), ..Now::default() }
    }

    fn pass(kind: PassKind, issued: u64, renewed: u64) -> Pass {
        Pass { kind, id: VisitorId(7), issued: secs(issued), renewed: secs(renewed), expires: None, batch: 3 }
    }

    fn judged(pass: &Pass, at: u64) -> Result<bool, Ended> {
        judge_pass(pass, now(at), &SESSION, &NONE, false)
    }

    #[test]
    fn a_pass_slides_and_is_renewed_after_a_quarter_of_idle() {
        let pass = pass(PassKind::Admitted, 0, 0);
        assert_eq!(judged(&pass, 299), Ok(false));
        assert_eq!(judged(&pass, 301), Ok(true));
        assert_eq!(judged(&pass, 1500), Ok(true));
        assert_eq!(judged(&pass, 1501), Err(Ended::Expired));
    }

    #[test]
    fn the_limit_ends_a_pass_however_busy() {
        let pass = pass(PassKind::Invited, 0, 4 * 3600);
        assert_eq!(judged(&pass, 4 * 3600), Ok(false));
        assert_eq!(judged(&pass, 4 * 3600 + 1), Err(Ended::Expired));
    }

    #[test]
    fn a_form_is_not_lost_to_the_clock() {
        let pass = pass(PassKind::Admitted, 0, 0);
        let judged = |at| judge_pass(&pass, now(at), &SESSION, &NONE, true);
        assert_eq!(judged(1500 + 1799), Ok(true));
        assert_eq!(judged(1500 + 1801), Err(Ended::Expired));
    }

    #[test]
    fn a_staff_pass_ends_at_its_own_time_only() {
        let staff = Pass { expires: Some(secs(100_000)), ..pass(PassKind::Staff, 0, 0) };
        assert_eq!(judged(&staff, 100_000), Ok(false));
        assert_eq!(judged(&staff, 100_001), Err(Ended::Expired));
    }

    #[test]
    fn an_expiry_within_a_jump_of_the_clock_is_decided_for_the_visitor() {
        let pass = pass(PassKind::Admitted, 0, 0);
        let jumped = Now { doubt: Duration::from_secs(3600), ..now(3700) };
        assert_eq!(judge_pass(&pass, jumped, &SESSION, &NONE, false), Ok(true));
        assert_eq!(judge_pass(&pass, now(3700), &SESSION, &NONE, false), Err(Ended::Expired));
        let before = Now { wall: UnixTime::from_secs(1), ..Now::default() };
        assert_eq!(judge_pass(&pass, before, &SESSION, &NONE, false), Ok(false), "a clock set back ends nothing");
    }

    #[test]
    fn revocation_is_by_id_by_batch_and_by_time() {
        let by = |revoked| Bypass { revoked: vec![revoked], not_before: None };
        let judged = |kind, bypass: &Bypass| judge_pass(&pass(kind, 10, 10), now(20), &SESSION, bypass, true);
        assert_eq!(judged(PassKind::Admitted, &by(Revoked::Pass(7))), Err(Ended::Revoked));
        assert_eq!(judged(PassKind::Admitted, &by(Revoked::Pass(8))), Ok(false));
        assert_eq!(judged(PassKind::Invited, &by(Revoked::Batch(3))), Err(Ended::Revoked));
        assert_eq!(judged(PassKind::Invited, &by(Revoked::Batch(4))), Ok(false));
        let since = Bypass { not_before: Some(secs(11)), ..NONE };
        assert_eq!(judged(PassKind::Invited, &since), Err(Ended::Revoked));
        assert_eq!(judged(PassKind::Admitted, &since), Ok(false), "session.not_before is the one for admitted passes");
        let session = Session { not_before: Some(secs(11)), ..SESSION };
        assert_eq!(judge_pass(&pass(PassKind::Admitted, 10, 10), now(20), &session, &NONE, false), Err(Ended::Revoked));
        assert_eq!(judge_pass(&pass(PassKind::Invited, 10, 10), now(20), &session, &NONE, false), Ok(false));
    }

    #[test]
    fn a_ticket_is_void_when_attendance_is_broken() {
        let ticket = Ticket { id: VisitorId(1), issued: secs(0), seen: secs(100), won: false };
        let judged = |at| judge_ticket(&ticket, now(at), Duration::from_secs(60));
        assert_eq!(judged(280), Ok(()));
        assert_eq!(judged(281), Err(Ended::Expired));
    }
}
