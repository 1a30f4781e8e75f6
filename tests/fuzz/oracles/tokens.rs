//! Tickets and passes: nothing verifies but what was signed, byte for byte.

use tidegate::rules::keyring::{Key, Keyring, SiteSecret};
use tidegate::rules::time::UnixTime;
use tidegate::rules::token::{Pass, PassKind, Ticket, VisitorId};

/// A keyring that signs with the second key, and one that still signs with the first.
fn keyrings() -> [Keyring; 2] {
    let keys = [7, 8].map(|byte| Key::new(UnixTime::from_secs(1), [byte; 32]));
    let site = SiteSecret::new([9; 32]);
    [Keyring::new(&site, &keys).unwrap(), Keyring::new(&site, &keys[..1]).unwrap()]
}

fn tickets() -> Vec<Ticket> {
    let at = UnixTime::from_secs(1_800_000_000);
    [0, u64::MAX].into_iter().flat_map(|id| [true, false].map(|won| Ticket { id: VisitorId(id), issued: at, seen: at, won })).collect()
}

fn passes() -> Vec<Pass> {
    let at = UnixTime::from_secs(1_800_000_000);
    let kinds = [PassKind::Admitted, PassKind::Invited, PassKind::Staff];
    let of = |kind| [None, Some(at)].map(|expires| Pass { kind, id: VisitorId(5), issued: at, renewed: at, expires, batch: 6 });
    kinds.into_iter().flat_map(of).collect()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for ring in keyrings() {
        seeds.extend(tickets().iter().map(|ticket| ring.sign_ticket(ticket).as_bytes().to_vec()));
        seeds.extend(passes().iter().map(|pass| ring.sign_pass(pass).as_bytes().to_vec()));
    }
    seeds.extend(tickets().iter().map(|ticket| ticket.encode().to_vec()));
    seeds.extend(passes().iter().map(|pass| pass.encode().to_vec()));
    seeds
}

pub(super) fn check(bytes: &[u8]) {
    if let Some(ticket) = Ticket::decode(bytes) {
        assert_eq!(&ticket.encode()[..], bytes);
    }
    if let Some(pass) = Pass::decode(bytes) {
        assert_eq!(&pass.encode()[..], bytes);
    }
    let [ring, old] = keyrings();
    let (ticket, pass) = (ring.verify_ticket(bytes), ring.verify_pass(bytes));
    if let Ok(ticket) = ticket {
        assert!(tickets().contains(&ticket), "{ticket:?} was never signed");
        assert!([&ring, &old].iter().any(|ring| ring.sign_ticket(&ticket).as_bytes() == bytes), "a second text for {ticket:?}");
    }
    if let Ok(pass) = pass {
        assert!(passes().contains(&pass), "{pass:?} was never signed");
        assert!([&ring, &old].iter().any(|ring| ring.sign_pass(&pass).as_bytes() == bytes), "a second text for {pass:?}");
    }
    assert!(ticket.is_err() || pass.is_err(), "both a ticket and a pass");
}
