//! Where mounts wait until this process has what pods were given by earlier ones, and while another has it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::error::{Cause, Error};

/// Lets mounts in, or not.
pub struct Gate {
    state: watch::Sender<GateState>,
    /// Held for reading by whoever is inside.
    inside: Arc<RwLock<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GateState {
    Open,
    /// What is waited for.
    Closed(&'static str),
    /// Another process has the pods: who comes here comes in vain.
    Superseded,
}

/// Whoever holds one is inside.
pub struct GatePass(#[expect(dead_code, reason = "held until dropped")] OwnedRwLockReadGuard<()>);

impl Gate {
    /// One that is open.
    #[must_use]
    pub fn open() -> Self {
        Self { state: watch::channel(GateState::Open).0, inside: Arc::default() }
    }

    /// One at which this is waited for.
    #[must_use]
    pub fn closed(why: &'static str) -> Self {
        Self { state: watch::channel(GateState::Closed(why)).0, inside: Arc::default() }
    }

    /// Goes in if nothing is waited for.
    #[must_use]
    pub fn try_enter(&self) -> Option<GatePass> {
        let guard = Arc::clone(&self.inside).try_read_owned().ok()?;
        (*self.state.borrow() == GateState::Open).then_some(GatePass(guard))
    }

    /// Goes in as soon as it is open; an error when another process has the pods, or one that says what was waited for when it
    /// is not open by `deadline`.
    pub async fn enter(&self, deadline: Instant) -> Result<GatePass, Error> {
        let mut stand = self.state.subscribe();
        let entered = timeout_at(deadline, async {
            loop {
                // The sender is ours.
                let _ = stand.wait_for(|stand| !matches!(stand, GateState::Closed(_))).await;
                if *stand.borrow() == GateState::Superseded {
                    return Err(Error::new(Cause::ProcessSuperseded, "another process has taken this one's place")
                        .with_fix("nothing is to be done: the driver tries again, and finds the other"));
                }
                let guard = Arc::clone(&self.inside).read_owned().await;
                if *stand.borrow() == GateState::Open {
                    return Ok(GatePass(guard));
                }
            }
        });
        entered.await.unwrap_or_else(|_| {
            let why = match *self.state.borrow() {
                GateState::Closed(why) => why,
                GateState::Open | GateState::Superseded => "who was let in before",
            };
            Err(Error::new(
                Cause::DeadlineExceeded,
                format!("the caller's time ran out while this process waited for {why}"),
            )
            .with_fix("it is tried again by itself; look into the provider's log if that goes on"))
        })
    }

    /// Says what is waited for.
    pub fn close(&self, why: &'static str) {
        self.state.send_replace(GateState::Closed(why));
    }

    /// Lets everyone in.
    pub fn open_now(&self) {
        self.state.send_replace(GateState::Open);
    }

    /// Turns everyone away at once, to the process that has the pods.
    pub fn reject(&self) {
        self.state.send_replace(GateState::Superseded);
    }

    /// Lets nobody in any more, and waits until all are out, but not for longer than that. Whether they are.
    pub async fn close_for(&self, why: &'static str, patience: Duration) -> bool {
        self.close(why);
        timeout(patience, self.inside.write()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_in_while_it_is_shut_and_who_is_inside_is_waited_for() {
        let gate = Gate::closed("the key");
        assert!(gate.try_enter().is_none());
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert!(error.to_string().contains("waited for the key"), "{error}");
        let (entered, ()) = tokio::join!(gate.enter(Instant::now() + SECOND), async { gate.open_now() });
        let inside = entered.unwrap();
        assert!(!gate.close_for("a successor", SECOND).await);
        assert!(gate.try_enter().is_none());
        let (closed, ()) = tokio::join!(gate.close_for("a successor", SECOND), async { drop(inside) });
        assert!(closed);
        gate.reject();
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert_eq!(error.cause(), Cause::ProcessSuperseded);
        gate.open_now();
        assert!(gate.try_enter().is_some());
    }
}
