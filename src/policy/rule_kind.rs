//! Kinds of rules that a policy or the operator's flags apply.

use serde::{Deserialize, Serialize};

use crate::label_enum::label_enum;

label_enum! {
    /// What an operator's rule is about.
    RuleKind {
        /// An endpoint that the policy file names.
        Endpoint = "endpoint",
        /// The server's address.
        Address = "address",
        /// That the server's certificate is not verified.
        SkipVerify = "skip_verify",
        /// A file of an authority, certificate or key.
        CertificateFile = "certificate_file",
        /// The Vault namespace, of secrets or of logins.
        VaultNamespace = "vault_namespace",
        /// The auth mount.
        AuthMount = "auth_mount",
        /// The audience of the service account token.
        Audience = "audience",
        /// A token's own things in the hands of pods that share it.
        SharedToken = "shared_token",
    }
}
