//! Memory budgets for responses. A server that returns too much exhausts only its own pod's budget, and tenants' servers never
//! exhaust the operator's.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Memory budget for the responses of some servers, or to one token. A response counts until it is dropped.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    scope: BudgetScope,
    limit_bytes: usize,
    reserved_bytes: AtomicUsize,
}

/// Scope of a memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetScope {
    /// Responses to one token.
    Token,
    /// Responses of the operator's servers.
    Operator,
    /// Responses of servers that classes chose.
    Tenants,
}

/// A budget has too little memory left for a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BudgetExceeded {
    /// The budget's scope.
    pub(super) scope: BudgetScope,
    /// The budget's size.
    pub(super) limit_bytes: usize,
}

/// Reservation in a token's memory budget and in the servers' budget. Dropping it releases the memory.
#[derive(Debug)]
pub(super) struct Reservation {
    budgets: [Option<Arc<MemoryBudget>>; 2],
    bytes: usize,
}

impl MemoryBudget {
    pub(super) fn new(scope: BudgetScope) -> Arc<Self> {
        let limit_bytes = match scope {
            // A volume holds 4 MiB. Old and new responses exist at the same time, and may contain more than the files need.
            BudgetScope::Token => 32 << 20,
            BudgetScope::Operator => 192 << 20,
            BudgetScope::Tenants => 64 << 20,
        };
        Arc::new(Self { scope, limit_bytes, reserved_bytes: AtomicUsize::new(0) })
    }

    /// Fails if less than 64 KiB are available, because the response to a new request would hardly fit.
    pub(super) fn ensure_available(&self) -> Result<(), BudgetExceeded> {
        const MIN_AVAILABLE_BYTES: usize = 64 << 10;
        if self.reserved_bytes.load(Relaxed) + MIN_AVAILABLE_BYTES > self.limit_bytes {
            Err(self.exceeded())
        } else {
            Ok(())
        }
    }

    fn reserve(&self, bytes: usize) -> Result<(), BudgetExceeded> {
        let add_within_limit = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.limit_bytes);
        self.reserved_bytes.fetch_update(Relaxed, Relaxed, add_within_limit).map(drop).map_err(|_| self.exceeded())
    }

    fn release(&self, bytes: usize) {
        self.reserved_bytes.fetch_sub(bytes, Relaxed);
    }

    fn exceeded(&self) -> BudgetExceeded {
        BudgetExceeded { scope: self.scope, limit_bytes: self.limit_bytes }
    }
}

impl Reservation {
    /// Creates an empty reservation.
    pub(super) fn new(token_budget: Option<&Arc<MemoryBudget>>, server_budget: &Arc<MemoryBudget>) -> Self {
        Self { budgets: [token_budget.cloned(), Some(Arc::clone(server_budget))], bytes: 0 }
    }

    /// Resizes the reservation to `bytes`, or leaves it unchanged if a budget is exceeded.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        if let Some(additional) = bytes.checked_sub(self.bytes) {
            for (n, budget) in self.budgets.iter().flatten().enumerate() {
                if let Err(exceeded) = budget.reserve(additional) {
                    self.budgets.iter().flatten().take(n).for_each(|budget| budget.release(additional));
                    return Err(exceeded);
                }
            }
        } else {
            self.budgets.iter().flatten().for_each(|budget| budget.release(self.bytes - bytes));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budgets.iter().flatten().for_each(|budget| budget.release(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved_bytes(budget: &MemoryBudget) -> usize {
        budget.reserved_bytes.load(Relaxed)
    }

    fn exceeded_scope(result: &Result<(), BudgetExceeded>) -> Option<BudgetScope> {
        match result {
            Err(BudgetExceeded { scope, .. }) => Some(*scope),
            _ => None,
        }
    }

    #[test]
    fn reservation_respects_memory_budget_and_releases() {
        let (token, servers) = (MemoryBudget::new(BudgetScope::Token), MemoryBudget::new(BudgetScope::Tenants));
        let mut reservation = Reservation::new(Some(&token), &servers);
        reservation.resize(20 << 20).unwrap();
        assert_eq!(exceeded_scope(&reservation.resize(33 << 20)), Some(BudgetScope::Token));
        assert_eq!((reserved_bytes(&token), reserved_bytes(&servers)), (20 << 20, 20 << 20));
        reservation.resize(1 << 20).unwrap();
        assert_eq!((reserved_bytes(&token), reserved_bytes(&servers)), (1 << 20, 1 << 20));
        drop(reservation);
        assert_eq!((reserved_bytes(&token), reserved_bytes(&servers)), (0, 0));
    }

    #[test]
    fn token_memory_budget_is_smaller_than_shared_one() {
        let servers = MemoryBudget::new(BudgetScope::Tenants);
        let held_reservations: Vec<_> = (0..2)
            .map(|_| {
                let token = MemoryBudget::new(BudgetScope::Token);
                let mut reservation = Reservation::new(Some(&token), &servers);
                reservation.resize(32 << 20).unwrap();
                assert_eq!(exceeded_scope(&token.ensure_available()), Some(BudgetScope::Token));
                reservation
            })
            .collect();
        let token = MemoryBudget::new(BudgetScope::Token);
        assert!(token.ensure_available().is_ok());
        assert_eq!(exceeded_scope(&Reservation::new(Some(&token), &servers).resize(1)), Some(BudgetScope::Tenants));
        assert_eq!(
            (exceeded_scope(&servers.ensure_available()), reserved_bytes(&token)),
            (Some(BudgetScope::Tenants), 0)
        );
        drop(held_reservations);
        assert!(servers.ensure_available().is_ok());
    }
}
