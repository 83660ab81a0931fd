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
    active_passes: Arc<RwLock<()>>,
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
    pub fn new_open() -> Self {
        Self { state: watch::channel(GateState::Open).0, active_passes: Arc::default() }
    }

    /// One at which this is waited for.
    #[must_use]
    pub fn new_closed(reason: &'static str) -> Self {
        Self { state: watch::channel(GateState::Closed(reason)).0, active_passes: Arc::default() }
    }

    /// Goes in if nothing is waited for.
    #[must_use]
    pub fn try_enter(&self) -> Option<GatePass> {
        let guard = Arc::clone(&self.active_passes).try_read_owned().ok()?;
        (*self.state.borrow() == GateState::Open).then_some(GatePass(guard))
    }

    /// Goes in as soon as it is open; an error when another process has the pods, or one that says what was waited for when it
    /// is not open by `deadline`.
    pub async fn enter(&self, deadline: Instant) -> Result<GatePass, Error> {
        let mut state = self.state.subscribe();
        let entered = timeout_at(deadline, async {
            loop {
                // The sender is ours.
                let _ = state.wait_for(|stand| !matches!(stand, GateState::Closed(_))).await;
                if *state.borrow() == GateState::Superseded {
                    return Err(Error::new(Cause::ProcessSuperseded, "another process has taken this one's place")
                        .with_fix("nothing is to be done: the driver tries again, and finds the other"));
                }
                let guard = Arc::clone(&self.active_passes).read_owned().await;
                if *state.borrow() == GateState::Open {
                    return Ok(GatePass(guard));
                }
            }
        });
        entered.await.unwrap_or_else(|_| {
            let reason = match *self.state.borrow() {
                GateState::Closed(why) => why,
                GateState::Open | GateState::Superseded => "who was let in before",
            };
            Err(Error::new(
                Cause::DeadlineExceeded,
                format!("the caller's time ran out while this process waited for {reason}"),
            )
            .with_fix("it is tried again by itself; look into the provider's log if that goes on"))
        })
    }

    /// Says what is waited for.
    pub fn close(&self, reason: &'static str) {
        self.state.send_replace(GateState::Closed(reason));
    }

    /// Lets everyone in.
    pub fn open(&self) {
        self.state.send_replace(GateState::Open);
    }

    /// Turns everyone away at once, to the process that has the pods.
    pub fn reject(&self) {
        self.state.send_replace(GateState::Superseded);
    }

    /// Lets nobody in any more, and waits until all are out, but not for longer than that. Whether they are.
    pub async fn close_for(&self, reason: &'static str, drain_timeout: Duration) -> bool {
        self.close(reason);
        timeout(drain_timeout, self.active_passes.write()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn gate_closed_rejects_mounts_and_waits_for_active_ones() {
        let gate = Gate::new_closed("the key");
        assert!(gate.try_enter().is_none());
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert!(error.to_string().contains("waited for the key"), "{error}");
        let (entered, ()) = tokio::join!(gate.enter(Instant::now() + SECOND), async { gate.open() });
        let inside = entered.unwrap();
        assert!(!gate.close_for("a successor", SECOND).await);
        assert!(gate.try_enter().is_none());
        let (closed, ()) = tokio::join!(gate.close_for("a successor", SECOND), async { drop(inside) });
        assert!(closed);
        gate.reject();
        let error = gate.enter(Instant::now() + SECOND).await.err().unwrap();
        assert_eq!(error.cause(), Cause::ProcessSuperseded);
        gate.open();
        assert!(gate.try_enter().is_some());
    }
}
