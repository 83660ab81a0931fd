//! The table's codes as gRPC's.

use tonic::Code;

use crate::error;

/// gRPC's code for one of the table's.
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
