//! Kinds of rules in a policy file or the operator's flags.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// The setting that an operator's rule limits.
    RuleKind {
        /// An endpoint of the policy file.
        Endpoint = "endpoint",
        /// The server's address.
        Address = "address",
        /// Verification of the server's certificate.
        SkipVerify = "skip_verify",
        /// File of a CA, certificate or key.
        CertificateFile = "certificate_file",
        /// The Vault namespace, of secrets or of logins.
        VaultNamespace = "vault_namespace",
        /// The auth mount.
        AuthMount = "auth_mount",
        /// The audience of the service account token.
        Audience = "audience",
        /// Access to a shared Vault token and its cubbyhole.
        SharedToken = "shared_token",
    }
}
