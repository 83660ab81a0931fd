//! Auth methods that pods log in with.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// Auth method of an auth mount.
    AuthMethod {
        /// `kubernetes`, which verifies tokens through the Kubernetes API.
        Kubernetes = "kubernetes",
        /// `jwt`, which verifies tokens with the cluster's public keys.
        Jwt = "jwt",
        /// Not known.
        Unknown = "unknown",
    }
}
