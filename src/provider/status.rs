//! The one map from causes to gRPC codes.

use tonic::Code;

use crate::error::Cause;

/// The code that makes the driver do the right thing: it tries `Unavailable` again at once (three times), kubelet
/// everything else later.
pub(super) fn code(cause: Cause) -> Code {
    match cause {
        Cause::InvalidRequest | Cause::Method | Cause::Render | Cause::ReadRefused => Code::InvalidArgument,
        Cause::NotAllowed
        | Cause::NamespaceNotBound
        | Cause::ServiceAccountNotBound
        | Cause::Denied
        | Cause::ArgumentRefused => Code::PermissionDenied,
        Cause::TokenExpired | Cause::TokenAudience | Cause::TokenIdentity | Cause::LoginDenied | Cause::LoginClaims => {
            Code::Unauthenticated
        }
        Cause::SecretMissing | Cause::VersionDeleted | Cause::KvPath | Cause::KeyMissing | Cause::NoData => {
            Code::NotFound
        }
        Cause::TokenMissing
        | Cause::TokenRequest
        | Cause::Tls
        | Cause::NotVault
        | Cause::Redirect
        | Cause::RoleMissing
        | Cause::AuthUnconfigured
        | Cause::VaultNamespaceMissing
        | Cause::EngineRoleMissing => Code::FailedPrecondition,
        Cause::Unreachable
        | Cause::Sealed
        | Cause::Uninitialized
        | Cause::NoLeader
        | Cause::Busy
        | Cause::ServerFault
        | Cause::BackendDown
        | Cause::Overloaded => Code::Unavailable,
        // What gRPC says of it: the operation may have been done all the same. The driver does not repeat it.
        Cause::Deadline | Cause::Unconfirmed => Code::DeadlineExceeded,
        Cause::AnswerTooLarge | Cause::FilesTooLarge => Code::ResourceExhausted,
        Cause::Internal => Code::Internal,
    }
}
