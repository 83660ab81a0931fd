//! What is kept of leases and their tokens across restarts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Hold, Kept, Lease, Leases, Life, Slot, Warned};
use crate::{
    clock::Epoch,
    secret::{self, SecretText},
    term::{SavedTerm, Term},
    vault::{answer::SecretResponse, wire::SecretRequest},
};

/// A lease. Moments are told from an [`Origin`], tokens and volumes by their place in the session's lists.
#[derive(Serialize, Deserialize)]
pub struct SavedLease {
    read: SecretRequest,
    /// The whole answer.
    #[serde(serialize_with = "secret::serialize_exposed")]
    answer: SecretText,
    life: SavedLife,
    hold: usize,
    read_at: i64,
    delivered: bool,
    named_by: Vec<usize>,
    /// What was told already of its end.
    #[serde(default)]
    warned: u8,
}

/// What is known of its time.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedLife {
    Leased(SavedTerm),
    Certificate { aged: i64, ends: i64, read: i64 },
    Static { rotates: i64, read: i64 },
    Token,
    Plain { read: i64, creates: bool },
}

/// Tokens by their place in a list.
#[derive(Default)]
pub struct Holds(Vec<Arc<Hold>>);

/// The largest answer that is kept though it could be read again, in bytes.
const LARGE: usize = 256 << 10;

impl Holds {
    /// The place of a token, which is put at the end if it has none.
    pub fn place(&mut self, hold: &Arc<Hold>) -> usize {
        let place = self.0.iter().position(|other| Arc::ptr_eq(other, hold));
        place.unwrap_or_else(|| {
            self.0.push(Arc::clone(hold));
            self.0.len() - 1
        })
    }

    /// All of them, in their order.
    #[must_use]
    pub fn all(&self) -> &[Arc<Hold>] {
        &self.0
    }
}

impl SavedLease {
    /// The request.
    #[must_use]
    pub fn read(&self) -> &SecretRequest {
        &self.read
    }

    /// Whether Vault leased it.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.life, SavedLife::Leased(_))
    }
}

impl Leases {
    /// What is kept of every lease: without `room`, only what cannot be read again. `volume` is the place of a volume.
    pub fn save(
        &self,
        origin: Epoch,
        holds: &mut Holds,
        volume: impl Fn(&Arc<str>) -> Option<usize>,
        room: bool,
    ) -> Vec<SavedLease> {
        let slots = self.lock();
        let saved = slots.iter().filter_map(|(read, slot)| {
            let kept = slot.kept();
            let entry = kept.entry.as_ref()?;
            let whole = entry.lease.answer.as_json().expose();
            let again = matches!(entry.life, Life::Plain { creates: false, .. });
            if entry.doubted || (again && !(room && whole.len() <= LARGE)) {
                return None;
            }
            Some(SavedLease {
                read: SecretRequest::clone(read),
                answer: std::str::from_utf8(whole).ok()?.into(),
                life: SavedLife::of(&entry.life, origin),
                hold: holds.place(&entry.hold),
                read_at: origin.to_millis(entry.read_at),
                delivered: entry.delivered,
                named_by: kept.named_by.iter().filter_map(&volume).collect(),
                warned: entry.warned as u8,
            })
        });
        saved.collect()
    }

    /// Keeps what was kept by an earlier process, as it was. What cannot be understood is left out, and read anew.
    pub fn restore(
        &self,
        saved: Vec<SavedLease>,
        origin: Epoch,
        holds: &[Arc<Hold>],
        volumes: &[Arc<str>],
        mut shared: impl FnMut(SecretRequest) -> Arc<SecretRequest>,
    ) {
        let mut slots = self.lock();
        for lease in saved {
            let Some(hold) = holds.get(lease.hold) else { continue };
            let Ok(answer) = SecretResponse::parse(lease.answer.expose().as_bytes().to_vec()) else { continue };
            let entry = Entry {
                life: lease.life.restore(&answer, origin),
                lease: Lease::new(answer),
                hold: Arc::clone(hold),
                read_at: origin.instant_at(lease.read_at),
                delivered: lease.delivered,
                doubted: false,
                warned: Warned::restore(lease.warned),
                trouble: None,
            };
            let named_by = lease.named_by.iter().filter_map(|place| volumes.get(*place).cloned()).collect();
            let kept = Kept { entry: Some(entry), named_by, turn: 1 };
            slots.insert(shared(lease.read), Arc::new(Slot { kept: kept.into(), ..Slot::default() }));
        }
    }
}

impl SavedLife {
    fn of(life: &Life, origin: Epoch) -> Self {
        let told = |moment: &_| origin.to_millis(*moment);
        match life {
            Life::Leased { term, .. } => Self::Leased(term.save(origin)),
            Life::Certificate { aged, ends, read } => {
                Self::Certificate { aged: told(aged), ends: told(ends), read: told(read) }
            }
            Life::Static { rotates, read } => Self::Static { rotates: told(rotates), read: told(read) },
            Life::Token => Self::Token,
            Life::Plain { read, creates } => Self::Plain { read: told(read), creates: *creates },
        }
    }

    fn restore(&self, answer: &SecretResponse, origin: Epoch) -> Life {
        let moment = |told: &i64| origin.instant_at(*told);
        match self {
            Self::Leased(term) => {
                let term: Term = term.restore(origin);
                Life::Leased { lease_id: answer.lease_id.clone(), term: Box::new(term) }
            }
            Self::Certificate { aged, ends, read } => {
                Life::Certificate { aged: moment(aged), ends: moment(ends), read: moment(read) }
            }
            Self::Static { rotates, read } => Life::Static { rotates: moment(rotates), read: moment(read) },
            Self::Token => Life::Token,
            Self::Plain { read, creates } => Life::Plain { read: moment(read), creates: *creates },
        }
    }
}

impl Warned {
    fn restore(saved: u8) -> Self {
        [Self::No, Self::Ending].into_iter().find(|warned| *warned as u8 == saved).unwrap_or(Self::Over)
    }
}
