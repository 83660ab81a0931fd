//! State of the pod watch.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// State of the watch of this node's pods.
    WatchState {
        /// Watching: the list of pods is current.
        Synced = "synced",
        /// No list of pods yet: the Kubernetes API was not reached.
        Connecting = "connecting",
        /// Kubernetes API unavailable: the list of pods is outdated.
        Interrupted = "interrupted",
        /// Permission denied by the Kubernetes API.
        Denied = "denied",
        /// Disabled, or without a Kubernetes API.
        Off = "off",
    }
}
