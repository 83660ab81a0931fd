//! How much memory answers may take: a server that gives too much fills its own pod's room, and tenants' servers never the
//! operator's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::failure::RequestError;

/// Room for the answers of some servers, or for those to one token, until they are dropped.
#[derive(Debug)]
pub(super) struct Room {
    whose: Whose,
    /// In bytes.
    most: usize,
    taken: AtomicUsize,
}

/// Whose answers fill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those to one token.
    Token,
    /// Those of the operator's servers.
    Operator,
    /// Those of servers that classes chose.
    Classes,
}

/// A part of a token's room and of all servers'; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    rooms: [Option<Arc<Room>>; 2],
    bytes: usize,
}

impl Room {
    pub(super) fn new(whose: Whose) -> Arc<Self> {
        let most = match whose {
            // A volume holds 4 MiB. Old answers and new ones are there at once, and there may be more in them than files want.
            Whose::Token => 32 << 20,
            Whose::Operator => 192 << 20,
            Whose::Classes => 64 << 20,
        };
        Arc::new(Self { whose, most, taken: AtomicUsize::new(0) })
    }

    /// An error when it is so full that what is asked for now could be of no use.
    pub(super) fn check(&self) -> Result<(), RequestError> {
        const LITTLE: usize = 64 << 10;
        if self.taken.load(Relaxed) + LITTLE > self.most { Err(self.full()) } else { Ok(()) }
    }

    fn take(&self, bytes: usize) -> Result<(), RequestError> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Relaxed, Relaxed, more).map(drop).map_err(|_| self.full())
    }

    fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }

    fn full(&self) -> RequestError {
        RequestError::BudgetExceeded { scope: self.whose, limit_bytes: self.most }
    }
}

impl Share {
    /// Nothing yet.
    pub(super) fn of(token: Option<&Arc<Room>>, servers: &Arc<Room>) -> Self {
        Self { rooms: [token.cloned(), Some(Arc::clone(servers))], bytes: 0 }
    }

    /// Makes it so large.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), RequestError> {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            for (n, room) in self.rooms.iter().flatten().enumerate() {
                if let Err(full) = room.take(more) {
                    self.rooms.iter().flatten().take(n).for_each(|room| room.give(more));
                    return Err(full);
                }
            }
        } else {
            self.rooms.iter().flatten().for_each(|room| room.give(self.bytes - bytes));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.rooms.iter().flatten().for_each(|room| room.give(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(room: &Room) -> usize {
        room.taken.load(Relaxed)
    }

    fn whose(full: &Result<(), RequestError>) -> Option<Whose> {
        match full {
            Err(RequestError::BudgetExceeded { scope: whose, .. }) => Some(*whose),
            _ => None,
        }
    }

    #[test]
    fn what_is_taken_is_given_back_and_no_more_is_taken_than_there_is() {
        let (token, servers) = (Room::new(Whose::Token), Room::new(Whose::Classes));
        let mut share = Share::of(Some(&token), &servers);
        share.resize(20 << 20).unwrap();
        assert_eq!(whose(&share.resize(33 << 20)), Some(Whose::Token));
        assert_eq!((taken(&token), taken(&servers)), (20 << 20, 20 << 20));
        share.resize(1 << 20).unwrap();
        assert_eq!((taken(&token), taken(&servers)), (1 << 20, 1 << 20));
        drop(share);
        assert_eq!((taken(&token), taken(&servers)), (0, 0));
    }

    #[test]
    fn one_token_does_not_fill_what_others_share() {
        let servers = Room::new(Whose::Classes);
        let full: Vec<_> = (0..2)
            .map(|_| {
                let token = Room::new(Whose::Token);
                let mut share = Share::of(Some(&token), &servers);
                share.resize(32 << 20).unwrap();
                assert_eq!(whose(&token.check()), Some(Whose::Token));
                share
            })
            .collect();
        let token = Room::new(Whose::Token);
        assert!(token.check().is_ok());
        assert_eq!(whose(&Share::of(Some(&token), &servers).resize(1)), Some(Whose::Classes));
        assert_eq!((whose(&servers.check()), taken(&token)), (Some(Whose::Classes), 0));
        drop(full);
        assert!(servers.check().is_ok());
    }
}
