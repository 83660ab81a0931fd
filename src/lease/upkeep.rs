//! What the background does for leases: what is renewed when, what must be said of ends, and what there is to tell.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Entry, Hold, Leases, Life, Slot};
use crate::{
    metrics::{Kind, State},
    term::{Granted, Term},
    vault::{client::RenewalGrant, wire::SecretRequest},
};

/// A lease that is to be renewed.
pub struct DueRenewal {
    /// What it is the answer to.
    pub read: Arc<SecretRequest>,
    /// Names it to Vault.
    pub lease_id: String,
    /// The duration to ask for.
    pub asked: Duration,
    /// When it is over as things stand.
    pub ends: Option<Instant>,
    /// The token it hangs on.
    pub hold: Arc<Hold>,
    slot: Arc<Slot>,
}

/// An end that comes without a mount.
pub struct Warning {
    /// Of what.
    pub read: Arc<SecretRequest>,
    /// Its kind.
    pub kind: Kind,
    /// When.
    pub end: Instant,
    /// Whether it has come.
    pub over: bool,
}

/// One lease, as it is told.
pub struct Told {
    /// The request.
    pub read: Arc<SecretRequest>,
    /// Its kind.
    pub kind: Kind,
    /// Its end as things stand, its token's included.
    pub ends: Option<Instant>,
    /// The end that only a mount can put off.
    pub forced_end: Option<Instant>,
    /// When it is renewed next.
    pub renews_at: Option<Instant>,
    /// When it was read.
    pub read_at: Instant,
    /// How it stands.
    pub state: State,
    /// Why its last renewal or reading failed.
    pub trouble: Option<String>,
    /// How many volumes name it.
    pub volumes: usize,
}

/// What was said already about an end that is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warned {
    No,
    Ending,
    Over,
}

/// The shortest pause between two looks at an end that is near.
const MIN_LOOK: Duration = Duration::from_secs(1);
/// The pause between looks for a poll that should have come.
const LATE_LOOK: Duration = Duration::from_secs(15);

impl Leases {
    /// The leases whose renewal is due.
    pub fn to_renew(&self, now: Instant) -> Vec<DueRenewal> {
        let mut renewals = Vec::new();
        for (read, slot) in &*self.lock() {
            let kept = slot.kept();
            let Some(entry) = &kept.entry else { continue };
            let Life::Leased { lease_id, term } = &entry.life else { continue };
            let due = entry.life.renewal_due(entry.hold.term().as_ref(), now);
            if !kept.named_by.is_empty() && due.is_some_and(|due| now >= due) {
                renewals.push(DueRenewal {
                    read: Arc::clone(read),
                    lease_id: lease_id.clone(),
                    asked: term.asked(),
                    ends: entry.earliest(entry.hold.term().as_ref(), term.ends(), Term::ends),
                    hold: Arc::clone(&entry.hold),
                    slot: Arc::clone(slot),
                });
            }
        }
        renewals
    }

    /// When the next renewal is due, if there are any to come, or an end is near enough to be looked at.
    pub fn next(&self, renewed: bool, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for slot in self.lock().values() {
            let kept = slot.kept();
            let Some(entry) = kept.entry.as_ref().filter(|_| !kept.named_by.is_empty()) else { continue };
            let token = entry.hold.term();
            let renewal = entry.life.renewal_due(token.as_ref(), now).filter(|_| renewed);
            let look = entry.next_look(token.as_ref(), renewed, now);
            next = [next, renewal, look].into_iter().flatten().min();
        }
        next
    }

    /// When the first of the leases is over that are renewed.
    pub fn first_end(&self, now: Instant) -> Option<Instant> {
        let slots = self.lock();
        let ends = slots.values().filter_map(|slot| {
            let kept = slot.kept();
            let entry = kept.entry.as_ref().filter(|_| !kept.named_by.is_empty())?;
            let token = entry.hold.term();
            entry.life.renewal_due(token.as_ref(), now)?;
            entry.earliest(token.as_ref(), entry.life.ends(), Term::ends)
        });
        ends.min()
    }

    /// What ends without a mount, told once when its end comes near and once when it has come. `polled` says whether a mount is
    /// to be expected that would read it anew, `renewed` whether renewals are to come.
    pub fn warnings(&self, polled: bool, renewed: bool, now: Instant) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (read, slot) in &*self.lock() {
            let mut kept = slot.kept();
            let named = !kept.named_by.is_empty();
            let Some(entry) = kept.entry.as_mut().filter(|_| named) else { continue };
            let token = entry.hold.term();
            let Some((end, notice)) = entry.end_and_notice(token.as_ref(), renewed, now) else {
                entry.warned = Warned::No;
                continue;
            };
            let says = if polled || now < notice {
                continue;
            } else if now < end {
                Warned::Ending
            } else {
                Warned::Over
            };
            if entry.warned < says {
                entry.warned = says;
                let over = says == Warned::Over;
                warnings.push(Warning { read: Arc::clone(read), kind: entry.life.kind(), end, over });
            }
        }
        warnings
    }

    /// Every lease that is kept; `renewed` says whether renewals are to come.
    pub fn tell(&self, renewed: bool, now: Instant) -> Vec<Told> {
        let slots = self.lock();
        let told = slots.iter().filter_map(|(read, slot)| {
            let kept = slot.kept();
            let entry = kept.entry.as_ref()?;
            let token = entry.hold.term();
            let named = !kept.named_by.is_empty();
            let term = match &entry.life {
                Life::Leased { term, .. } => Some(term),
                _ => None,
            };
            let forced_end = entry.last_end(token.as_ref(), renewed && named);
            let lost = entry.hold.gone_at().filter(|_| entry.life.hangs_on_token());
            let is_over = lost.is_some() || entry.life.is_over(token.as_ref(), now);
            let state = match term {
                _ if !named && entry.delivered => State::Superseded,
                Some(term) if term.is_failing() && !is_over => State::Failing,
                _ if entry.end_and_notice(token.as_ref(), renewed, now).is_some_and(|(_, notice)| now >= notice) => {
                    State::Ending
                }
                _ => State::Live,
            };
            Some(Told {
                read: Arc::clone(read),
                kind: entry.life.kind(),
                ends: lost.or_else(|| entry.earliest(token.as_ref(), entry.life.ends(), Term::ends)),
                forced_end: lost.or(forced_end),
                renews_at: term
                    .filter(|term| renewed && named && !is_over && term.is_renewable())
                    .map(|term| term.renew_at()),
                read_at: entry.read_at,
                state,
                trouble: entry.trouble.clone(),
                volumes: kept.named_by.len(),
            })
        });
        told.collect()
    }
}

impl Entry {
    /// The earlier of its own end and its token's, if it hangs on that.
    fn earliest(
        &self,
        token: Option<&Term>,
        own: Option<Instant>,
        of: impl Fn(&Term) -> Option<Instant>,
    ) -> Option<Instant> {
        let tokens = token.filter(|_| self.life.hangs_on_token()).and_then(of);
        [own, tokens].into_iter().flatten().min()
    }

    /// The end that only a mount can put off: every end, when no renewals are to come.
    fn last_end(&self, token: Option<&Term>, renewed: bool) -> Option<Instant> {
        if renewed {
            self.earliest(token, self.life.forced_end(), Term::forced_end)
        } else {
            self.earliest(token, self.life.ends(), Term::ends)
        }
    }

    /// That end, and when a third of the time before it is left.
    fn end_and_notice(&self, token: Option<&Term>, renewed: bool, now: Instant) -> Option<(Instant, Instant)> {
        if self.life.hangs_on_token() && token.is_none() {
            return Some((now, now));
        }
        let end = self.last_end(token, renewed)?;
        let notice = match &self.life {
            Life::Leased { term, .. } => {
                let of_token = token.filter(|token| token.ends() == Some(end));
                of_token.unwrap_or(term).notice(end)
            }
            Life::Token => token.map_or(now, |token| token.notice(end)),
            Life::Certificate { aged, .. } => *aged,
            Life::Static { rotates, read } => *rotates - rotates.saturating_duration_since(*read) / 3,
            Life::Plain { .. } => return None,
        };
        Some((end, notice))
    }

    /// When to look whether its end must be told.
    fn next_look(&self, token: Option<&Term>, renewed: bool, now: Instant) -> Option<Instant> {
        let (end, notice) = self.end_and_notice(token, renewed, now)?;
        match self.warned {
            Warned::Over => None,
            Warned::No if now < notice => Some(notice),
            Warned::No if now < end => Some((now + (end - now) / 2).max(now + MIN_LOOK)),
            // A poll is to be expected; if none comes, that is said then.
            Warned::No => Some(now + LATE_LOOK),
            Warned::Ending => Some(end.max(now + MIN_LOOK)),
        }
    }
}

impl DueRenewal {
    /// It was renewed by a request that was sent at `sent`.
    pub(crate) fn renewed(&self, grant: RenewalGrant, sent: Instant) -> Option<Granted> {
        self.on_term(|trouble, term| {
            *trouble = None;
            term.renewed(grant.ttl, grant.renewable, sent)
        })
    }

    /// Its renewal failed. How many have, one after another.
    pub(crate) fn failed(&self, now: Instant, denied: bool, why: String) -> Option<u32> {
        self.on_term(|trouble, term| {
            *trouble = Some(why);
            term.failed(now, denied);
            term.failures()
        })
    }

    /// Vault says that it cannot be renewed.
    pub fn cannot_be_renewed(&self) {
        self.on_term(|_, term| term.cannot_be_renewed());
    }

    /// Vault knows it no more.
    pub fn gone(&self, now: Instant) {
        self.on_term(|_, term| term.renewed(Duration::ZERO, false, now));
    }

    /// Does something to the term, unless the lease was replaced meanwhile.
    fn on_term<T>(&self, act: impl FnOnce(&mut Option<String>, &mut Term) -> T) -> Option<T> {
        let mut kept = self.slot.kept();
        let Entry { life, trouble, .. } = kept.entry.as_mut()?;
        match life {
            Life::Leased { lease_id, term } if *lease_id == self.lease_id => Some(act(trouble, term)),
            _ => None,
        }
    }
}
