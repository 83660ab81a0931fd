//! Gate for mounts: closed until this process has restored the sessions, and while another process holds them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::error::{Cause, Error};

/// Admits, delays or rejects mounts.
pub struct Gate {
    state: watch::Sender<GateState>,
    /// Read-locked by every mount that was admitted.
    active_passes: Arc<RwLock<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GateState {
    Open,
    /// Mounts wait. The text names the reason.
    Closed(&'static str),
    /// Mounts are rejected: another process serves the pods.
    Superseded,
}

/// Proof that a mount was admitted. The mount counts as active until the pass is dropped.
pub struct GatePass(#[expect(dead_code, reason = "held until dropped")] OwnedRwLockReadGuard<()>);

impl Gate {
    /// Returns an open gate.
    #[must_use]
    pub fn new_open() -> Self {
        Self { state: watch::channel(GateState::Open).0, active_passes: Arc::default() }
    }

    /// Returns a closed gate with a reason.
    #[must_use]
    pub fn new_closed(reason: &'static str) -> Self {
        Self { state: watch::channel(GateState::Closed(reason)).0, active_passes: Arc::default() }
    }

    /// Returns a pass if the gate is open.
    #[must_use]
    pub fn try_enter(&self) -> Option<GatePass> {
        let guard = Arc::clone(&self.active_passes).try_read_owned().ok()?;
        (*self.state.borrow() == GateState::Open).then_some(GatePass(guard))
    }

    /// Waits for an open gate. Returns an error if another process serves the pods, or if the gate is still closed at
    /// `deadline`; the latter names the reason.
    pub async fn enter(&self, deadline: Instant) -> Result<GatePass, Error> {
        let mut state = self.state.subscribe();
        let entered = timeout_at(deadline, async {
            loop {
                // The sender is `self.state`, so it cannot be closed.
                let _ = state.wait_for(|state| !matches!(state, GateState::Closed(_))).await;
                if *state.borrow() == GateState::Superseded {
                    return Err(Error::new(Cause::ProcessSuperseded, "a successor process has replaced this process")
                        .with_fix("no action needed: the driver retries and reaches the successor"));
                }
                let guard = Arc::clone(&self.active_passes).read_owned().await;
                if *state.borrow() == GateState::Open {
                    return Ok(GatePass(guard));
                }
            }
        });
        entered.await.unwrap_or_else(|_| {
            let reason = match *self.state.borrow() {
                GateState::Closed(reason) => reason,
                GateState::Open | GateState::Superseded => "earlier mounts",
            };
            Err(Error::new(
                Cause::DeadlineExceeded,
                format!("deadline exceeded while this process waited for {reason}"),
            )
            .with_fix("the driver retries; if the error persists, check the provider's log"))
        })
    }

    /// Closes the gate with a reason.
    pub fn close(&self, reason: &'static str) {
        self.state.send_replace(GateState::Closed(reason));
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.state.send_replace(GateState::Open);
    }

    /// Rejects all mounts at once, because another process serves the pods.
    pub fn reject(&self) {
        self.state.send_replace(GateState::Superseded);
    }

    /// Closes the gate and waits for active mounts, at most for `drain_timeout`. Returns true if all have finished.
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
