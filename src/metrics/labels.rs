//! The words that labels are made of: few, ours, and never out of a request.

use serde::{Deserialize, Serialize};

use crate::error::Cause;

/// Makes an enum whose variants are words of a label.
macro_rules! label_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every word.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word, as metrics, JSON and people see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

label_enum! {
    /// What the driver calls.
    GrpcMethod {
        /// A pod's volume.
        Mount = "Mount",
        /// Who answers.
        Version = "Version",
    }
}

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

label_enum! {
    /// Where the answer to what a mount asked for came from.
    ReadSource {
        /// It was there, and good.
        Memory = "cache",
        /// Vault was asked.
        Vault = "vault",
        /// Vault was being asked by another mount.
        Shared = "coalesced",
        /// It was there, and old; Vault could not be asked.
        Kept = "stale",
    }
}

label_enum! {
    /// Why Vault could not be asked, so that a pod kept what it has.
    OutageReason {
        /// It is sealed, or was never initialized.
        Sealed = "sealed",
        /// Its cluster has no active node.
        NoLeader = "no_leader",
        /// It is not reached.
        Unreachable = "unreachable",
        /// It is not trusted, or is no Vault.
        Untrusted = "untrusted",
        /// It limits requests, or is behind.
        Busy = "throttled",
        /// It did not answer in time.
        Slow = "timeout",
        /// It fails, or what stands behind it does.
        Fault = "server_error",
    }
}

impl OutageReason {
    /// What a failure comes to.
    #[must_use]
    pub fn of(cause: Cause) -> Self {
        match cause {
            Cause::Sealed | Cause::Uninitialized => Self::Sealed,
            Cause::NoLeader | Cause::Redirect => Self::NoLeader,
            Cause::ConnectionRefused | Cause::ConnectTimeout | Cause::NameNotFound | Cause::Unreachable => {
                Self::Unreachable
            }
            Cause::Throttled | Cause::ProviderAtCapacity => Self::Busy,
            Cause::DeadlineExceeded | Cause::OutcomeUnknown => Self::Slow,
            _ if cause.is_tls() => Self::Untrusted,
            _ => Self::Fault,
        }
    }
}

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

label_enum! {
    /// What is asked of the Kubernetes API.
    KubeOperation {
        /// The key of object versions.
        Key = "key",
        /// A service account token.
        Token = "token",
        /// Which pods there are.
        Pods = "pods",
        /// An event of a pod.
        Events = "events",
    }
}

label_enum! {
    /// What became of a login.
    LoginOutcome {
        /// It brought a token.
        Ok = "ok",
        /// Vault said no.
        Refused = "denied",
        /// Vault could not be asked, or could not answer.
        Failed = "failed",
    }
}

label_enum! {
    /// What can be renewed.
    RenewalTarget {
        /// A Vault token.
        Token = "token",
        /// What was leased under it.
        Lease = "lease",
    }
}

label_enum! {
    /// What became of a renewal.
    RenewalOutcome {
        /// It lives as long as was asked for.
        Renewed = "renewed",
        /// It lives on, but for less: its greatest age is near.
        Short = "capped",
        /// Vault said no.
        Refused = "denied",
        /// Vault knows it no more.
        Gone = "not_found",
        /// Vault could not be asked, or could not answer.
        Failed = "failed",
    }
}

label_enum! {
    /// What an answer of Vault is, for its replacement.
    SecretKind {
        /// It has a lease that Vault ends: dynamic credentials of any engine.
        Leased = "leased",
        /// An X.509 certificate that was issued without a lease.
        Certificate = "certificate",
        /// A password that Vault rotates by itself.
        Static = "static",
        /// The Vault token itself.
        Token = "token",
        /// Everything else: KV, configuration, signatures.
        Plain = "plain",
    }
}

label_enum! {
    /// Why what was read is read anew.
    RotationReason {
        /// Its own end is near, and no renewal moves it.
        Maximum = "max_ttl",
        /// Its token's is.
        Token = "token",
        /// It was plain and old, a certificate past two thirds of its life, or a static credential at its rotation.
        Age = "refresh_due",
        /// It or its token is no more.
        Gone = "revoked",
    }
}

label_enum! {
    /// What became of a revocation.
    RevocationOutcome {
        /// Vault revoked it.
        Revoked = "revoked",
        /// It was over by itself.
        Over = "already_expired",
        /// Vault said no.
        Refused = "denied",
        /// Vault could not be asked, or could not answer.
        Failed = "failed",
    }
}

label_enum! {
    /// What became of a file that outlives the process.
    StateWrite {
        /// It is there.
        Ok = "ok",
        /// It could not be written.
        Failed = "failed",
    }
}

label_enum! {
    /// What became of a line of the audit log.
    AuditWrite {
        /// It is written.
        Ok = "ok",
        /// It is not, and will not be.
        Lost = "dropped",
    }
}

label_enum! {
    /// What became of an event of a pod.
    EventWrite {
        /// It is written.
        Ok = "ok",
        /// The API server did not take it.
        Failed = "failed",
        /// There were too many, or it may not be written.
        Dropped = "dropped",
    }
}

label_enum! {
    /// How a token or a lease stands.
    SecretState {
        /// It counts, and is renewed when its time comes.
        Live = "active",
        /// It counts, and its last renewal failed.
        Failing = "failing",
        /// It counts, and cannot be renewed any more.
        Ending = "expiring",
        /// Another took its place; it ends when nobody can have it in use.
        Superseded = "superseded",
    }
}

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

label_enum! {
    /// How an endpoint stands.
    EndpointState {
        /// It cannot be asked: only a probe asks how it is.
        Down = "down",
        /// It can be asked again.
        Up = "up",
    }
}

label_enum! {
    /// A certificate that the operator named.
    CertificateRole {
        /// Of an authority that servers' certificates may come from.
        Ca = "ca",
        /// What this process shows to servers.
        Client = "client",
    }
}

label_enum! {
    /// What a request asks of Vault.
    Operation {
        /// A token for a proof.
        Login = "login",
        /// An answer to a GET.
        Read = "read",
        /// An answer to a PUT or POST.
        Write = "write",
        /// The names below a path.
        List = "list",
        /// More life for a token or a lease.
        Renew = "renew",
        /// The end of a token or a lease.
        Revoke = "revoke",
        /// What a token or a lease is.
        Lookup = "lookup",
        /// What Vault tells of itself.
        Other = "other",
    }
}

label_enum! {
    /// What came back on the wire.
    StatusClass {
        /// A success.
        Success = "2xx",
        /// A redirect.
        Redirect = "3xx",
        /// A refusal.
        Refusal = "4xx",
        /// A fault of the server's.
        Fault = "5xx",
        /// No answer, or an unfinished one.
        Nothing = "none",
    }
}

impl StatusClass {
    /// What an HTTP status stands for.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::Refusal,
            500..=599 => Self::Fault,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_words_of_the_labels() {
        for state in SecretState::ALL {
            let written = serde_json::to_string(state).unwrap();
            assert_eq!(written, format!("\"{}\"", state.as_str()));
            assert_eq!(serde_json::from_str::<SecretState>(&written).unwrap(), *state);
        }
    }
}
