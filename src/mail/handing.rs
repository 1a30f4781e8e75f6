//! How messages are handed over: by the mail server or the spool that the policy names, and with a pause while it fails.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Envelope, compose};
use super::rows::Addressee;
use super::transport::{NotSent, Transport};
use crate::gate::Regime;
use crate::page::{LetterView, landing_link};
use crate::rules::email::Address;
use crate::rules::policy::{Delivery, Invitations as Policy};
use crate::rules::time::{Moment, Now, UnixTime};
use crate::store::chain;

/// The way out.
#[derive(Debug, Default)]
pub(super) struct Handing {
    /// As the policy had it when this was made.
    made_for: Option<Policy>,
    by: Option<Arc<Transport>>,
    /// Failures in a row that were the server's own.
    failures: u32,
    /// When it is tried again.
    again: Moment,
    /// Why it does not work.
    trouble: Option<String>,
    /// One is on its way, to see whether it works again.
    trying: bool,
    stopped: bool,
}

/// A message that was handed over, or was not.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) to: Addressee,
    pub(super) result: Result<(), NotSent>,
    /// It was begun with: how it fared tells of the way out.
    pub(super) tried: bool,
}

/// After the server's first failure, and at the most; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Handing {
    /// Takes over a policy, if it is another.
    pub(super) fn follow(&mut self, policy: &Policy, now: Moment) {
        if self.made_for.as_ref() == Some(policy) && (self.trouble.is_none() || self.by.is_some() || now < self.again) {
            return;
        }
        let is_new = self.made_for.as_ref() != Some(policy);
        *self = Self { made_for: Some(policy.clone()), ..Self::default() };
        match policy.outgoing().map(|outgoing| Transport::new(outgoing.delivery)).transpose() {
            Ok(transport) => self.by = transport.map(Arc::new),
            Err(error) => {
                // a password file may be there a moment later
                self.again = now.plus(LONGEST_PAUSE);
                let reason = chain(&error);
                if is_new {
                    tracing::error!(error = reason, "no invitation can be sent");
                }
                self.trouble = Some(reason);
            }
        }
    }

    /// How many may be handed over now. While the server fails it is tried with one message, after a pause.
    pub(super) fn may_send(&self, now: Moment) -> usize {
        match self.failures {
            _ if self.by.is_none() => 0,
            0 => usize::MAX,
            _ => usize::from(now >= self.again),
        }
    }

    /// Messages are about to be handed over, as many as may be. That nobody is to be written to yet is no try.
    pub(super) fn begin(&mut self, now: Moment) {
        if self.failures == 0 {
            return;
        }
        // until it is known how that one has fared
        self.again = now.plus(LONGEST_PAUSE);
        self.trying = true;
        // there may be another password by now
        if let Some(Ok(by)) = self.made_for.as_ref().and_then(Policy::outgoing).map(|outgoing| Transport::new(outgoing.delivery)) {
            self.by = Some(Arc::new(by));
        }
    }

    /// Begins to hand a message over.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn send(
        &self,
        regime: &Regime,
        to: Addressee,
        until: UnixTime,
        now: Now,
    ) -> Result<impl Future<Output = Handed> + Send + 'static, Box<Handed>> {
        let (Some(transport), Some(outgoing)) = (&self.by, regime.policy.invitations.outgoing()) else {
            let reason = "neither invitations.smtp nor invitations.spool is set".to_owned();
            return Err(Box::new(Handed { to, result: Err(NotSent::Deferred { reason, server: true }), tried: false }));
        };
        let made = Address::parse(&to.email).map_err(|_| "not an address".to_owned()).and_then(|address| {
            // the front page is where a code leads by itself
            let next = to.path.as_deref().filter(|next| *next != "/");
            let site_url = outgoing.site_url;
            let code = to.code.to_string();
            let check = next.map(|next| format!("{:016x}", regime.keys.page_check(to.code, next)));
            let link = format!("{site_url}{}", landing_link(&code, next.zip(check.as_deref())));
            let unsubscribe = format!("{site_url}/.tidegate/unsubscribe?id={}&check={:016x}", to.id, regime.keys.leave_check(to.id));
            let view = LetterView { site_url, link: &link, code: &code, until, asked_at: to.at, next, unsubscribe: &unsubscribe };
            let letter = regime.pages.letter(to.language.as_deref(), &view).map_err(|error| chain(&error))?;
            let envelope = Envelope {
                from: outgoing.from,
                to: &address,
                id: to.id,
                site_url,
                at: now.wall,
                unsubscribe: &unsubscribe,
                letter: &letter,
            };
            compose(&envelope).map_err(|error| chain(&error))
        });
        match made {
            Err(reason) => Err(Box::new(Handed { to, result: Err(NotSent::Failed { reason }), tried: false })),
            Ok(message) => {
                let transport = Arc::clone(transport);
                Ok(async move {
                    let result = transport.send(&message, now.mono).await;
                    Handed { to, result, tried: true }
                })
            }
        }
    }

    /// How a message has fared.
    pub(super) fn note(&mut self, result: &Result<(), NotSent>, now: Moment) {
        if self.stopped {
            return;
        }
        let Err(NotSent::Deferred { reason, server: true } | NotSent::Unclear { reason }) = result else {
            if self.failures > 0 {
                tracing::info!("invitations can be handed over again");
            }
            (self.failures, self.trouble) = (0, None);
            return;
        };
        if self.failures == 0 {
            tracing::error!(error = reason, "invitations can't be handed over; they wait, and it is tried again");
        }
        self.trouble = Some(reason.clone());
        // what was begun together and fails together counts once
        if self.failures == 0 || std::mem::take(&mut self.trying) {
            self.failures = self.failures.saturating_add(1).min(16);
            self.again = now.plus((FIRST_PAUSE * 2_u32.pow(self.failures - 1)).min(LONGEST_PAUSE));
        }
    }

    /// Begins with no message any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        if let Some(transport) = &self.by {
            transport.stop();
        }
    }

    /// By what.
    pub(super) fn name(&self) -> Option<&'static str> {
        let outgoing = self.made_for.as_ref()?.outgoing()?;
        Some(match outgoing.delivery {
            Delivery::Smtp { .. } => "smtp",
            Delivery::Spool(_) => "spool",
        })
    }

    /// Whether it works, as far as is known.
    pub(super) const fn works(&self) -> bool {
        self.by.is_some() && self.failures == 0
    }

    /// Why it does not work.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::scratch::Scratch;

    #[test]
    fn a_server_that_fails_is_tried_with_one_message_and_when_nobody_is_to_be_written_to_that_is_no_try() {
        let scratch = Scratch::new();
        let by = Transport::new(&Delivery::Spool(scratch.path().join("out"))).unwrap();
        let mut handing = Handing { by: Some(Arc::new(by)), ..Handing::default() };
        let at = Moment::from_secs;
        let down = || Err(NotSent::Deferred { reason: "down".to_owned(), server: true });
        assert_eq!(handing.may_send(at(0)), usize::MAX);
        handing.begin(at(0));
        for _ in 0..5 {
            handing.note(&down(), at(0));
        }
        assert_eq!((handing.may_send(at(4)), handing.may_send(at(5))), (0, 1));
        assert_eq!(handing.may_send(at(6)), 1, "nobody was there");
        handing.begin(at(6));
        assert_eq!(handing.may_send(at(60)), 0, "it is not known how that one has fared");
        handing.note(&down(), at(60));
        assert_eq!((handing.may_send(at(69)), handing.may_send(at(70))), (0, 1));
        handing.begin(at(70));
        handing.note(&Ok(()), at(71));
        assert_eq!(handing.may_send(at(71)), usize::MAX);
    }
}
