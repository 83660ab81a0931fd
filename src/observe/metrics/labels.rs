//! The words that labels are made of: few, ours, and never out of a request.

use serde::{Deserialize, Serialize};

use crate::{error::Cause, label_enum::label_enum};

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
        Throttled = "throttled",
        /// It did not answer in time.
        Timeout = "timeout",
        /// It fails, or what stands behind it does.
        ServerError = "server_error",
    }
}

impl OutageReason {
    /// What a failure comes to.
    #[must_use]
    pub fn from_cause(cause: Cause) -> Self {
        match cause {
            Cause::Sealed | Cause::Uninitialized => Self::Sealed,
            Cause::NoLeader | Cause::Redirect => Self::NoLeader,
            Cause::ConnectionRefused | Cause::ConnectTimeout | Cause::NameNotFound | Cause::Unreachable => {
                Self::Unreachable
            }
            Cause::Throttled | Cause::ProviderAtCapacity => Self::Throttled,
            Cause::DeadlineExceeded | Cause::OutcomeUnknown => Self::Timeout,
            _ if cause.is_tls() => Self::Untrusted,
            _ => Self::ServerError,
        }
    }
}

label_enum! {
    /// What is asked of the Kubernetes API.
    KubeOperation {
        /// The key of object versions.
        HmacKey = "key",
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
        Denied = "denied",
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
        Capped = "capped",
        /// Vault said no.
        Denied = "denied",
        /// Vault knows it no more.
        NotFound = "not_found",
        /// Vault could not be asked, or could not answer.
        Failed = "failed",
    }
}

label_enum! {
    /// What became of a revocation.
    RevocationOutcome {
        /// Vault revoked it.
        Revoked = "revoked",
        /// It was over by itself.
        AlreadyExpired = "already_expired",
        /// Vault said no.
        Denied = "denied",
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
        Dropped = "dropped",
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
    VaultOperation {
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
        ClientError = "4xx",
        /// A fault of the server's.
        ServerError = "5xx",
        /// No answer, or an unfinished one.
        NoResponse = "none",
    }
}

impl StatusClass {
    /// What an HTTP status stands for.
    #[must_use]
    pub fn from_http_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::NoResponse,
        }
    }
}
