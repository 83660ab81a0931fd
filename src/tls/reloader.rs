//! Reload of TLS files: tracks which contents are in use, and logs changes.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::Digest;

/// Time that invalid contents must stay before they are logged, because related files may be written one after another.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Reload state of the files of one TLS setting.
#[derive(Debug)]
pub struct TlsReloader {
    /// Digest of the contents in use.
    active: Digest,
    invalid: Option<InvalidContent>,
    /// True if invalid files were logged and their recovery was not logged yet.
    has_warned: bool,
}

/// Invalid contents.
#[derive(Debug)]
struct InvalidContent {
    digest: Digest,
    first_seen_at: Instant,
    is_logged: bool,
}

/// Result of a reload.
#[derive(Debug, PartialEq, Eq)]
pub enum TlsReload<T, E> {
    /// Nothing to log.
    Unchanged,
    /// New settings are in use.
    Applied {
        /// The new settings.
        settings: T,
        /// True if the files were logged as invalid before.
        was_invalid: bool,
    },
    /// The files have their previous valid contents again, after they were logged as invalid.
    Recovered,
    /// The files changed but are invalid. The previous settings stay in use.
    Invalid {
        /// Reason.
        error: E,
        /// True if the error must be logged: once for each content that stays.
        should_log: bool,
    },
}

impl<T, E> TlsReload<T, E> {
    /// Applies new settings with `apply`.
    pub fn map_settings<U>(self, apply: impl FnOnce(T) -> U) -> TlsReload<U, E> {
        match self {
            Self::Applied { settings, was_invalid } => TlsReload::Applied { settings: apply(settings), was_invalid },
            Self::Unchanged => TlsReload::Unchanged,
            Self::Recovered => TlsReload::Recovered,
            Self::Invalid { error, should_log } => TlsReload::Invalid { error, should_log },
        }
    }

    /// Returns true if the result must be logged.
    #[must_use]
    pub fn should_log(&self) -> bool {
        !matches!(self, Self::Unchanged | Self::Invalid { should_log: false, .. })
    }
}

impl<T, E: fmt::Display> TlsReload<T, E> {
    /// Logs the result if necessary. `endpoint` is the endpoint, or endpoints, of the files.
    pub fn log(&self, endpoint: &str) {
        match self {
            Self::Applied { was_invalid: false, .. } => {
                tracing::info!(endpoint, "TLS files changed, using them for new connections");
            }
            Self::Applied { was_invalid: true, .. } | Self::Recovered => {
                tracing::info!(endpoint, "TLS files are valid again");
            }
            Self::Invalid { error, should_log: true } => {
                tracing::warn!(endpoint, %error, "TLS files changed but are invalid, still using the previous ones");
            }
            Self::Unchanged | Self::Invalid { should_log: false, .. } => {}
        }
    }
}

impl TlsReloader {
    /// Creates the state for settings loaded from contents with this digest.
    #[must_use]
    pub fn new(active: Digest) -> Self {
        Self { active, invalid: None, has_warned: false }
    }

    /// Reloads the files. `digest` is the digest of their contents. Calls `build` to load the settings only if the contents
    /// changed.
    pub fn reload<T, E>(
        &mut self,
        digest: Digest,
        now: Instant,
        build: impl FnOnce() -> Result<T, E>,
    ) -> TlsReload<T, E> {
        let previous = self.invalid.take().filter(|invalid| invalid.digest == digest);
        if digest == self.active {
            return if std::mem::take(&mut self.has_warned) { TlsReload::Recovered } else { TlsReload::Unchanged };
        }
        match build() {
            Ok(settings) => {
                self.active = digest;
                TlsReload::Applied { settings, was_invalid: std::mem::take(&mut self.has_warned) }
            }
            Err(error) => {
                let previous = previous.unwrap_or(InvalidContent { digest, first_seen_at: now, is_logged: false });
                let should_log = !previous.is_logged && now >= previous.first_seen_at + SETTLE_TIME;
                self.has_warned |= should_log;
                self.invalid = Some(InvalidContent { is_logged: previous.is_logged || should_log, ..previous });
                TlsReload::Invalid { error, should_log }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_reloader_logs_invalid_files_once_and_recovery() {
        let [good, bad, worse, better] = [1, 2, 3, 4].map(|byte| Digest([byte; 32]));
        let start = Instant::now();
        let mut reloader = TlsReloader::new(good);
        let mut reload_with = |digest, seconds, error: Option<&'static str>| {
            reloader.reload(digest, start + Duration::from_secs(seconds), || error.map_or(Ok(()), Err))
        };
        let invalid = |error, should_log| TlsReload::Invalid { error, should_log };
        // (digest, seconds, error, expected result)
        for (digest, seconds, error, expected) in [
            (good, 0, None, TlsReload::Unchanged),
            // The certificate's key is written a little later.
            (bad, 10, Some("no pair"), invalid("no pair", false)),
            (better, 20, None, TlsReload::Applied { settings: (), was_invalid: false }),
            (bad, 30, Some("bad"), invalid("bad", false)),
            (bad, 31, Some("bad"), invalid("bad", false)),
            (bad, 40, Some("bad"), invalid("bad", true)),
            (bad, 50, Some("bad"), invalid("bad", false)),
            (worse, 60, Some("worse"), invalid("worse", false)),
            (worse, 70, Some("worse"), invalid("worse", true)),
            (worse, 80, Some("worse"), invalid("worse", false)),
            (good, 90, None, TlsReload::Applied { settings: (), was_invalid: true }),
            (good, 100, None, TlsReload::Unchanged),
            (bad, 110, Some("bad"), invalid("bad", false)),
            (bad, 120, Some("bad"), invalid("bad", true)),
            (good, 130, None, TlsReload::Recovered),
            (good, 140, None, TlsReload::Unchanged),
        ] {
            assert_eq!(reload_with(digest, seconds, error), expected, "at {seconds} s");
        }
    }
}
