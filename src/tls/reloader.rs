//! Which content of TLS files is in use, and what is said of another.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::Digest;

/// How long content that cannot be used stays before that is said: files that belong together may be written one after the other.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// What is known of the files of some TLS settings.
#[derive(Debug)]
pub struct TlsReloader {
    /// What the settings in use were made of.
    active: Digest,
    invalid: Option<InvalidContent>,
    /// Whether anything was said of broken files that was not taken back.
    has_warned: bool,
}

/// Content that cannot be used.
#[derive(Debug)]
struct InvalidContent {
    digest: Digest,
    first_seen_at: Instant,
    is_logged: bool,
}

/// What a look at the files brought.
#[derive(Debug, PartialEq, Eq)]
pub enum TlsReload<T, E> {
    /// Nothing that anybody must hear of.
    Unchanged,
    /// Other settings.
    Applied {
        /// What they come to.
        settings: T,
        /// Whether it had been said that the files were broken.
        was_invalid: bool,
    },
    /// The files are again as they were before they were broken, which had been said.
    Recovered,
    /// They changed and cannot be used; those from before are.
    Invalid {
        /// Why.
        error: E,
        /// Whether that is to be said: once for each content, when it stays.
        should_log: bool,
    },
}

impl<T, E> TlsReload<T, E> {
    /// The same with the settings put to use.
    pub fn map_settings<U>(self, apply: impl FnOnce(T) -> U) -> TlsReload<U, E> {
        match self {
            Self::Applied { settings, was_invalid: mended } => {
                TlsReload::Applied { settings: apply(settings), was_invalid: mended }
            }
            Self::Unchanged => TlsReload::Unchanged,
            Self::Recovered => TlsReload::Recovered,
            Self::Invalid { error, should_log: tell } => TlsReload::Invalid { error, should_log: tell },
        }
    }

    /// Whether anybody must hear of it.
    #[must_use]
    pub fn should_log(&self) -> bool {
        !matches!(self, Self::Unchanged | Self::Invalid { should_log: false, .. })
    }
}

impl<T, E: fmt::Display> TlsReload<T, E> {
    /// Says it in the log, if it is news. `endpoint` is what the files are for.
    pub fn log(&self, endpoint: &str) {
        match self {
            Self::Applied { was_invalid: false, .. } => {
                tracing::info!(endpoint, "TLS files have changed, and are used for new connections");
            }
            Self::Applied { was_invalid: true, .. } | Self::Recovered => {
                tracing::info!(endpoint, "TLS files that could not be used are mended");
            }
            Self::Invalid { error, should_log: true } => {
                tracing::warn!(
                    endpoint,
                    "TLS files have changed and cannot be used, those read before still are: {error}"
                );
            }
            Self::Unchanged | Self::Invalid { should_log: false, .. } => {}
        }
    }
}

impl TlsReloader {
    /// For settings that were made of this content.
    #[must_use]
    pub fn new(active: Digest) -> Self {
        Self { active: active, invalid: None, has_warned: false }
    }

    /// Judges the files, which hold this now. `make` makes the settings of them, and is asked only if they changed.
    pub fn reload<T, E>(
        &mut self,
        digest: Digest,
        now: Instant,
        build: impl FnOnce() -> Result<T, E>,
    ) -> TlsReload<T, E> {
        let previous = self.invalid.take().filter(|broken| broken.digest == digest);
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
                TlsReload::Invalid { error, should_log: should_log }
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
        let invalid = |error, tell| TlsReload::Invalid { error, should_log: tell };
        // (what the files hold, when, why it cannot be used, what is said)
        for (digest, seconds, error, expected) in [
            (good, 0, None, TlsReload::Unchanged),
            // A certificate whose key comes a little later.
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
