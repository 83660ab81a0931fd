//! Values of metric labels. They are a fixed set and never come from a request.

use serde::{Deserialize, Serialize};

use crate::{error::Cause, label_enum::label_enum};

label_enum! {
    /// gRPC method.
    GrpcMethod {
        /// Mount of a pod's volume.
        Mount = "Mount",
        /// Version of the provider.
        Version = "Version",
    }
}

label_enum! {
    /// Reason why a poll was served stale secrets.
    OutageReason {
        /// Vault is sealed or uninitialized.
        Sealed = "sealed",
        /// Vault's cluster has no active node.
        NoLeader = "no_leader",
        /// Connection failed.
        Unreachable = "unreachable",
        /// TLS failed, or the server is not a Vault.
        Untrusted = "untrusted",
        /// Request was throttled, or the server lags behind.
        Throttled = "throttled",
        /// Request timed out.
        Timeout = "timeout",
        /// Vault or a backend behind it failed.
        ServerError = "server_error",
    }
}

impl OutageReason {
    /// Returns the reason for a cause.
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
    /// Kind of request to the Kubernetes API.
    KubeOperation {
        /// Object version key.
        HmacKey = "key",
        /// Service account token.
        Token = "token",
        /// Pods of the node.
        Pods = "pods",
        /// Pod event.
        Events = "events",
    }
}

label_enum! {
    /// Outcome of a login.
    LoginOutcome {
        /// Vault issued a token.
        Ok = "ok",
        /// Vault denied the request.
        Denied = "denied",
        /// Vault was unavailable or returned an error.
        Failed = "failed",
    }
}

label_enum! {
    /// Target of a renewal.
    RenewalTarget {
        /// Vault token.
        Token = "token",
        /// Lease under a token.
        Lease = "lease",
    }
}

label_enum! {
    /// Outcome of a renewal.
    RenewalOutcome {
        /// Vault granted the requested TTL.
        Renewed = "renewed",
        /// Vault granted a shorter TTL, because the max TTL is near.
        Capped = "capped",
        /// Vault denied the request.
        Denied = "denied",
        /// Token or lease no longer exists.
        NotFound = "not_found",
        /// Vault was unavailable or returned an error.
        Failed = "failed",
    }
}

label_enum! {
    /// Outcome of a revocation.
    RevocationOutcome {
        /// Vault revoked the token.
        Revoked = "revoked",
        /// Token had already expired.
        AlreadyExpired = "already_expired",
        /// Vault denied the request.
        Denied = "denied",
        /// Vault was unavailable or returned an error.
        Failed = "failed",
    }
}

label_enum! {
    /// Outcome of a write of a session file.
    StateWrite {
        /// File was written.
        Ok = "ok",
        /// Write failed.
        Failed = "failed",
    }
}

label_enum! {
    /// Outcome of an audit record.
    AuditWrite {
        /// Record was written.
        Ok = "ok",
        /// Record was dropped.
        Dropped = "dropped",
    }
}

label_enum! {
    /// Outcome of a pod event.
    EventWrite {
        /// Event was written.
        Ok = "ok",
        /// API server rejected the event.
        Failed = "failed",
        /// Dropped: too many events, or events are denied in the namespace.
        Dropped = "dropped",
    }
}

label_enum! {
    /// State of a Vault endpoint.
    EndpointState {
        /// Down: only health probes are sent.
        Down = "down",
        /// Up again.
        Up = "up",
    }
}

label_enum! {
    /// Role of a certificate configured by the operator.
    CertificateRole {
        /// CA certificate for server verification.
        Ca = "ca",
        /// Client certificate.
        Client = "client",
    }
}

label_enum! {
    /// Kind of request to Vault.
    VaultOperation {
        /// Login.
        Login = "login",
        /// GET of a secret.
        Read = "read",
        /// PUT or POST of a secret.
        Write = "write",
        /// LIST of the names below a path.
        List = "list",
        /// Renewal of a token or lease.
        Renew = "renew",
        /// Revocation of a token or lease.
        Revoke = "revoke",
        /// Lookup of a token or lease.
        Lookup = "lookup",
        /// Requests about Vault itself, such as its health.
        Other = "other",
    }
}

label_enum! {
    /// Class of an HTTP status.
    StatusClass {
        /// Success.
        Success = "2xx",
        /// Redirect.
        Redirect = "3xx",
        /// Client error.
        ClientError = "4xx",
        /// Server error.
        ServerError = "5xx",
        /// No response, or an incomplete one.
        NoResponse = "none",
    }
}

impl StatusClass {
    /// Returns the class of an HTTP status.
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
