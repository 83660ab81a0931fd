//! Requests under way at one endpoint: so many at once, and of those that may hang for long fewer.
//!
//! A server may be well while an engine's database, or the API server behind an auth method, never answers. What waits for
//! such a thing shall hold up nothing else.

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many requests go out at once.
pub(super) struct Lanes {
    all: Semaphore,
    logins: Semaphore,
    creating: Semaphore,
    aside: Semaphore,
}

/// What a request waits for, beside the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Whoever vouches for the pod.
    Login,
    /// What creates a credential.
    Creating,
    /// Nothing else.
    Plain,
}

/// A request's place; the next one's when it is dropped.
pub(super) struct Place<'a> {
    _all: SemaphorePermit<'a>,
    _lane: Option<SemaphorePermit<'a>>,
}

/// Requests that nobody waits for any more and that are awaited all the same, at most.
const ASIDE: usize = 32;

impl Lanes {
    /// So many at once. Half of them may be logins, and three eighths create something, so that there is room for others; or as
    /// many as the operator lets one mount path create.
    pub(super) fn new(at_once: usize, creating: usize) -> Self {
        let part = |eighths: usize| (at_once * eighths / 8).max(1);
        Self {
            all: Semaphore::new(at_once),
            logins: Semaphore::new(part(4)),
            creating: Semaphore::new(part(3).max(creating)),
            aside: Semaphore::new(ASIDE),
        }
    }

    /// A place; waits until there is one.
    pub(super) async fn enter(&self, lane: Lane) -> Option<Place<'_>> {
        let own = match lane {
            Lane::Login => Some(&self.logins),
            Lane::Creating => Some(&self.creating),
            Lane::Plain => None,
        };
        let lane = match own {
            Some(lane) => Some(lane.acquire().await.ok()?),
            None => None,
        };
        Some(Place { _all: self.all.acquire().await.ok()?, _lane: lane })
    }

    /// Gives a request's place to others while its answer is awaited for nobody; it keeps it when too many are awaited so.
    pub(super) fn step_aside<'a>(&'a self, place: Place<'a>) -> Place<'a> {
        match self.aside.try_acquire() {
            Ok(aside) => Place { _all: aside, _lane: None },
            Err(_) => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn enter(lanes: &Lanes, lane: Lane) -> Option<Place<'_>> {
        lanes.enter(lane).now_or_never().flatten()
    }

    fn fill(lanes: &Lanes, lane: Lane) -> Vec<Place<'_>> {
        std::iter::from_fn(|| enter(lanes, lane)).collect()
    }

    #[test]
    fn what_may_hang_leaves_room_for_others() {
        let lanes = Lanes::new(16, 4);
        let (logins, creating) = (fill(&lanes, Lane::Login), fill(&lanes, Lane::Creating));
        let plain = fill(&lanes, Lane::Plain);
        assert_eq!((logins.len(), creating.len(), plain.len()), (8, 6, 2));
        drop((logins, creating, plain));
        assert_eq!(fill(&lanes, Lane::Plain).len(), 16);
        let one = Lanes::new(1, 1);
        for lane in [Lane::Login, Lane::Creating, Lane::Plain] {
            assert_eq!(fill(&one, lane).len(), 1, "{lane:?}");
        }
    }

    #[test]
    fn who_steps_aside_makes_room_until_too_many_have() {
        let lanes = Lanes::new(16, 4);
        let mut aside = Vec::new();
        while aside.len() < ASIDE {
            aside.push(lanes.step_aside(enter(&lanes, Lane::Creating).unwrap()));
        }
        let creating = fill(&lanes, Lane::Creating).into_iter().map(|place| lanes.step_aside(place));
        let creating: Vec<_> = creating.collect();
        assert_eq!(creating.len(), 6);
        assert!(enter(&lanes, Lane::Creating).is_none(), "more than {ASIDE} are awaited for nobody");
        assert_eq!(fill(&lanes, Lane::Plain).len(), 10);
        drop(aside);
        drop(creating);
        assert_eq!(fill(&lanes, Lane::Creating).len(), 6);
    }
}
