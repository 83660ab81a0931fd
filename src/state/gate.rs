//! Where mounts wait until this process has what pods were given by earlier ones, and while another has it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::error::{Cause, Error};

/// Lets mounts in, or not.
pub struct Gate {
    stand: watch::Sender<Stand>,
    /// Held for reading by whoever is inside.
    inside: Arc<RwLock<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Open,
    /// What is waited for.
    Shut(&'static str),
    /// Another process has the pods: who comes here comes in vain.
    Gone,
}

/// Whoever holds one is inside.
pub struct Pass(#[expect(dead_code, reason = "held until dropped")] OwnedRwLockReadGuard<()>);

impl Gate {
    /// One that is open.
    #[must_use]
    pub fn open() -> Self {
        Self { stand: watch::channel(Stand::Open).0, inside: Arc::default() }
    }

    /// One at which this is waited for.
    #[must_use]
    pub fn shut(why: &'static str) -> Self {
        Self { stand: watch::channel(Stand::Shut(why)).0, inside: Arc::default() }
    }

    /// Goes in if nothing is waited for.
    #[must_use]
    pub fn try_enter(&self) -> Option<Pass> {
        let guard = Arc::clone(&self.inside).try_read_owned().ok()?;
        (*self.stand.borrow() == Stand::Open).then_some(Pass(guard))
    }

    /// Goes in as soon as it is open; an error when another process has the pods, or one that says what was waited for when it
    /// is not open by `deadline`.
    pub async fn enter(&self, deadline: Instant) -> Result<Pass, Error> {
        let mut stand = self.stand.subscribe();
        let entered = timeout_at(deadline, async {
            loop {
                // The sender is ours.
                let _ = stand.wait_for(|stand| !matches!(stand, Stand::Shut(_))).await;
                if *stand.borrow() == Stand::Gone {
                    return Err(Error::new(Cause::Replaced, "another process has taken this one's place")
                        .advice("nothing is to be done: the driver tries again, and finds the other"));
                }
                let guard = Arc::clone(&self.inside).read_owned().await;
                if *stand.borrow() == Stand::Open {
                    return Ok(Pass(guard));
                }
            }
        });
        entered.await.unwrap_or_else(|_| {
            let why = match *self.stand.borrow() {
                Stand::Shut(why) => why,
                Stand::Open | Stand::Gone => "who was let in before",
            };
            Err(Error::new(Cause::Deadline, format!("the caller's time ran out while this process waited for {why}"))
                .advice("it is tried again by itself; look into the provider's log if that goes on"))
        })
    }

    /// Says what is waited for.
    pub fn wait_for(&self, why: &'static str) {
        self.stand.send_replace(Stand::Shut(why));
    }

    /// Lets everyone in.
    pub fn let_in(&self) {
        self.stand.send_replace(Stand::Open);
    }

    /// Turns everyone away at once, to the process that has the pods.
    pub fn turn_away(&self) {
        self.stand.send_replace(Stand::Gone);
    }

    /// Lets nobody in any more, and waits until all are out, but not for longer than that. Whether they are.
    pub async fn close(&self, why: &'static str, patience: Duration) -> bool {
        self.wait_for(why);
        timeout(patience, self.inside.write()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_in_while_it_is_shut_and_who_is_inside_is_waited_for() {
        let gate = Gate::shut("the key");
        assert!(gate.try_enter().is_none());
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert!(error.to_string().contains("waited for the key"), "{error}");
        let (entered, ()) = tokio::join!(gate.enter(Instant::now() + SECOND), async { gate.let_in() });
        let inside = entered.unwrap();
        assert!(!gate.close("a successor", SECOND).await);
        assert!(gate.try_enter().is_none());
        let (closed, ()) = tokio::join!(gate.close("a successor", SECOND), async { drop(inside) });
        assert!(closed);
        gate.turn_away();
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert_eq!(error.cause(), Cause::Replaced);
        gate.let_in();
        assert!(gate.try_enter().is_some());
    }
}
