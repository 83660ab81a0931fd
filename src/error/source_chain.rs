//! Sources of an error, down to the one that says what happened.

use std::{error::Error, io, iter::successors};

/// Iterates over an error and its sources. An [`io::Error`] displays its inner error itself and skips it in `source`.
pub fn source_chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}
