//! gRPC codes of error causes.

use tonic::Code;

use crate::error;

/// Returns the gRPC code of an error code.
pub(super) fn code(code: error::Code) -> Code {
    match code {
        error::Code::InvalidArgument => Code::InvalidArgument,
        error::Code::PermissionDenied => Code::PermissionDenied,
        error::Code::Unauthenticated => Code::Unauthenticated,
        error::Code::NotFound => Code::NotFound,
        error::Code::FailedPrecondition => Code::FailedPrecondition,
        error::Code::Unavailable => Code::Unavailable,
        error::Code::DeadlineExceeded => Code::DeadlineExceeded,
        error::Code::ResourceExhausted => Code::ResourceExhausted,
        error::Code::Internal => Code::Internal,
    }
}
