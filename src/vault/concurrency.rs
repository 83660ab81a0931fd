//! Concurrency limits per endpoint, with lower limits for request classes that may hang (bulkheads).
//!
//! A server may be healthy while an engine's database, or the API server behind an auth method, never responds. Requests that
//! wait for such a backend must not delay other requests.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Concurrency limits of one endpoint.
pub(super) struct ConcurrencyLimits {
    total: Semaphore,
    logins: Semaphore,
    mutating: Semaphore,
    detached: Semaphore,
}

/// Backend that a request waits for, in addition to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestClass {
    /// A login waits for the backend that verifies the pod's identity.
    Login,
    /// A mutating request waits for the backend that creates the credential.
    Mutating,
    /// A plain request waits for the server only.
    Plain,
}

/// Concurrency permit of one request. Dropping it admits the next request.
pub(super) struct Permit<'a> {
    _total: SemaphorePermit<'a>,
    _class: Option<SemaphorePermit<'a>>,
}

/// Maximum number of requests with a response that is still awaited after the caller has given up.
const MAX_DETACHED_REQUESTS: usize = 32;

impl ConcurrencyLimits {
    /// Limits requests to `max_in_flight`, with room left for other classes: at most half are logins, and three eighths are
    /// mutating. `max_mutating`, the operator's limit per mount path, replaces the latter if it is higher.
    pub(super) fn new(max_in_flight: usize, max_mutating: usize) -> Self {
        let eighths = |count: usize| (max_in_flight * count / 8).max(1);
        Self {
            total: Semaphore::new(max_in_flight),
            logins: Semaphore::new(eighths(4)),
            mutating: Semaphore::new(eighths(3).max(max_mutating)),
            detached: Semaphore::new(MAX_DETACHED_REQUESTS),
        }
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self, class: RequestClass) -> Option<Permit<'_>> {
        let class_semaphore = match class {
            RequestClass::Login => Some(&self.logins),
            RequestClass::Mutating => Some(&self.mutating),
            RequestClass::Plain => None,
        };
        let class_permit = match class_semaphore {
            Some(semaphore) => Some(semaphore.acquire().await.ok()?),
            None => None,
        };
        Some(Permit { _total: self.total.acquire().await.ok()?, _class: class_permit })
    }

    /// Releases the permit of a request after its caller has given up, while the response is still awaited. The request keeps
    /// the permit if the limit of detached requests is reached.
    pub(super) fn detach<'a>(&'a self, permit: Permit<'a>) -> Permit<'a> {
        match self.detached.try_acquire() {
            Ok(detached) => Permit { _total: detached, _class: None },
            Err(_) => permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn try_acquire(limits: &ConcurrencyLimits, class: RequestClass) -> Option<Permit<'_>> {
        limits.acquire(class).now_or_never().flatten()
    }

    fn acquire_all(limits: &ConcurrencyLimits, class: RequestClass) -> Vec<Permit<'_>> {
        std::iter::from_fn(|| try_acquire(limits, class)).collect()
    }

    #[test]
    fn limits_leave_permits_for_other_request_classes() {
        let limits = ConcurrencyLimits::new(16, 4);
        let (logins, mutating) =
            (acquire_all(&limits, RequestClass::Login), acquire_all(&limits, RequestClass::Mutating));
        let plain = acquire_all(&limits, RequestClass::Plain);
        assert_eq!((logins.len(), mutating.len(), plain.len()), (8, 6, 2));
        drop((logins, mutating, plain));
        assert_eq!(acquire_all(&limits, RequestClass::Plain).len(), 16);
        let single = ConcurrencyLimits::new(1, 1);
        for class in [RequestClass::Login, RequestClass::Mutating, RequestClass::Plain] {
            assert_eq!(acquire_all(&single, class).len(), 1, "{class:?}");
        }
    }

    #[test]
    fn detach_frees_permit_up_to_max_detached() {
        let limits = ConcurrencyLimits::new(16, 4);
        let mut detached = Vec::new();
        while detached.len() < MAX_DETACHED_REQUESTS {
            detached.push(limits.detach(try_acquire(&limits, RequestClass::Mutating).unwrap()));
        }
        let mutating = acquire_all(&limits, RequestClass::Mutating).into_iter().map(|permit| limits.detach(permit));
        let mutating: Vec<_> = mutating.collect();
        assert_eq!(mutating.len(), 6);
        assert!(
            try_acquire(&limits, RequestClass::Mutating).is_none(),
            "at most {MAX_DETACHED_REQUESTS} requests are detached"
        );
        assert_eq!(acquire_all(&limits, RequestClass::Plain).len(), 10);
        drop(detached);
        drop(mutating);
        assert_eq!(acquire_all(&limits, RequestClass::Mutating).len(), 6);
    }
}
