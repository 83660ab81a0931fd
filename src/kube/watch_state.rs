//! State of the pod watch.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// How the watch of this node's pods stands.
    WatchState {
        /// What it knows is what there is.
        Synced = "synced",
        /// The Kubernetes API is not reached.
        Connecting = "connecting",
        /// The Kubernetes API is away; the pods are those of before.
        Interrupted = "interrupted",
        /// The Kubernetes API refuses it.
        Denied = "denied",
        /// It was not asked for, or there is no Kubernetes API.
        Off = "off",
    }
}
