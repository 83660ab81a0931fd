//! Auth methods that pods log in with.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// What takes logins at an auth mount.
    AuthMethod {
        /// The method that has the Kubernetes API vouch for a pod.
        Kubernetes = "kubernetes",
        /// The one that knows the cluster's keys.
        Jwt = "jwt",
        /// Nothing was learnt of the auth mount.
        Unknown = "unknown",
    }
}
