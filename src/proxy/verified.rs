//! The token that a connection showed last, so that its signature is checked once a connection and not once a request: a browser sends
//! the same pass with every part of a page.
//!
//! Only the signature is remembered. Whether the token still holds (its times, its revocation) is judged for each request.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::rules::keyring::{Keyring, Rejected};
use crate::rules::token::{Pass, Ticket};

/// The last genuine tokens of one connection.
#[derive(Debug, Default)]
pub(super) struct Verified {
    // on the heap: few connections show one of each, and many none
    pass: Mutex<Option<Box<Known<Pass>>>>,
    ticket: Mutex<Option<Box<Known<Ticket>>>>,
}

#[derive(Debug)]
struct Known<T> {
    /// Other keys may not have signed it, or no longer verify it.
    keys: Arc<Keyring>,
    text: Vec<u8>,
    token: T,
}

impl Verified {
    pub(super) fn pass(&self, keys: &Arc<Keyring>, text: &[u8]) -> Result<Pass, Rejected> {
        recall(&self.pass, keys, text, Keyring::verify_pass)
    }

    pub(super) fn ticket(&self, keys: &Arc<Keyring>, text: &[u8]) -> Result<Ticket, Rejected> {
        recall(&self.ticket, keys, text, Keyring::verify_ticket)
    }
}

fn recall<T: Copy>(
    known: &Mutex<Option<Box<Known<T>>>>,
    keys: &Arc<Keyring>,
    text: &[u8],
    verify: impl Fn(&Keyring, &[u8]) -> Result<T, Rejected>,
) -> Result<T, Rejected> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    // behind a front one connection carries many visitors: none may learn another's token from how long a comparison takes
    if let Some(known) = &*known
        && Arc::ptr_eq(&known.keys, keys)
        && verify_slices_are_equal(&known.text, text).is_ok()
    {
        return Ok(known.token);
    }
    let token = verify(keys, text)?;
    *known = Some(Box::new(Known { keys: Arc::clone(keys), text: text.to_vec(), token }));
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::keyring::{Key, SiteSecret};
    use crate::rules::time::UnixTime;
    use crate::rules::token::VisitorId;

    fn keys(secret: u8) -> Arc<Keyring> {
        Arc::new(Keyring::new(&SiteSecret::new([7; 32]), &[Key::new(UnixTime::from_secs(1), [secret; 32])]).unwrap())
    }

    fn ticket(id: u64) -> Ticket {
        Ticket { id: VisitorId(id), issued: UnixTime::from_secs(5), seen: UnixTime::from_secs(6), won: false }
    }

    #[test]
    fn a_token_is_known_again_and_another_is_not_taken_for_it() {
        let (keys, verified) = (keys(1), Verified::default());
        let (one, two) = (keys.sign_ticket(&ticket(1)), keys.sign_ticket(&ticket(2)));
        for (text, id) in [(&one, 1), (&one, 1), (&two, 2), (&one, 1)] {
            assert_eq!(verified.ticket(&keys, text.as_bytes()), Ok(ticket(id)));
        }
        let mut forged = one.as_bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(verified.ticket(&keys, &forged).is_err());
        assert!(verified.ticket(&keys, &forged[..forged.len() - 1]).is_err());
        assert!(verified.pass(&keys, two.as_bytes()).is_err(), "a ticket is no pass");
    }

    #[test]
    fn other_keys_know_nothing_of_it() {
        let (old, new, verified) = (keys(1), keys(2), Verified::default());
        let text = old.sign_ticket(&ticket(1));
        assert!(verified.ticket(&old, text.as_bytes()).is_ok());
        assert!(verified.ticket(&new, text.as_bytes()).is_err(), "its key has been retired");
    }
}
