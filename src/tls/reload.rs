//! Which content of TLS files is in use, and what is said of another.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::Digest;

/// How long content that cannot be used stays before that is said: files that belong together may be written one after the other.
const STAYS: Duration = Duration::from_secs(5);

/// What is known of the files of some TLS settings.
#[derive(Debug)]
pub struct Reload {
    /// What the settings in use were made of.
    used: Digest,
    broken: Option<Broken>,
    /// Whether anything was said of broken files that was not taken back.
    complained: bool,
}

/// Content that cannot be used.
#[derive(Debug)]
struct Broken {
    digest: Digest,
    since: Instant,
    told: bool,
}

/// What a look at the files brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<T, E> {
    /// Nothing that anybody must hear of.
    Same,
    /// Other settings.
    New {
        /// What they come to.
        settings: T,
        /// Whether it had been said that the files were broken.
        mended: bool,
    },
    /// The files are again as they were before they were broken, which had been said.
    Back,
    /// They changed and cannot be used; those from before are.
    Broken {
        /// Why.
        error: E,
        /// Whether that is to be said: once for each content, when it stays.
        tell: bool,
    },
}

impl<T, E> Look<T, E> {
    /// The same with the settings put to use.
    pub fn take<U>(self, using: impl FnOnce(T) -> U) -> Look<U, E> {
        match self {
            Self::New { settings, mended } => Look::New { settings: using(settings), mended },
            Self::Same => Look::Same,
            Self::Back => Look::Back,
            Self::Broken { error, tell } => Look::Broken { error, tell },
        }
    }

    /// Whether anybody must hear of it.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::Same | Self::Broken { tell: false, .. })
    }
}

impl<T, E: fmt::Display> Look<T, E> {
    /// Says it in the log, if it is news. `endpoint` is what the files are for.
    pub fn tell(&self, endpoint: &str) {
        match self {
            Self::New { mended: false, .. } => {
                tracing::info!(endpoint, "TLS files have changed, and are used for new connections");
            }
            Self::New { mended: true, .. } | Self::Back => {
                tracing::info!(endpoint, "TLS files that could not be used are mended");
            }
            Self::Broken { error, tell: true } => {
                tracing::warn!(
                    endpoint,
                    "TLS files have changed and cannot be used, those read before still are: {error}"
                );
            }
            Self::Same | Self::Broken { tell: false, .. } => {}
        }
    }
}

impl Reload {
    /// For settings that were made of this content.
    #[must_use]
    pub fn new(used: Digest) -> Self {
        Self { used, broken: None, complained: false }
    }

    /// Judges the files, which hold this now. `make` makes the settings of them, and is asked only if they changed.
    pub fn look<T, E>(&mut self, found: Digest, now: Instant, make: impl FnOnce() -> Result<T, E>) -> Look<T, E> {
        let before = self.broken.take().filter(|broken| broken.digest == found);
        if found == self.used {
            return if std::mem::take(&mut self.complained) { Look::Back } else { Look::Same };
        }
        match make() {
            Ok(settings) => {
                self.used = found;
                Look::New { settings, mended: std::mem::take(&mut self.complained) }
            }
            Err(error) => {
                let before = before.unwrap_or(Broken { digest: found, since: now, told: false });
                let tell = !before.told && now >= before.since + STAYS;
                self.complained |= tell;
                self.broken = Some(Broken { told: before.told || tell, ..before });
                Look::Broken { error, tell }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_files_are_told_once_per_content_when_they_stay_and_when_they_are_mended() {
        let [good, bad, worse, better] = [1, 2, 3, 4].map(|byte| Digest([byte; 32]));
        let start = Instant::now();
        let mut reload = Reload::new(good);
        let mut look = |digest, seconds, fault: Option<&'static str>| {
            reload.look(digest, start + Duration::from_secs(seconds), || fault.map_or(Ok(()), Err))
        };
        let broken = |error, tell| Look::Broken { error, tell };
        // (what the files hold, when, why it cannot be used, what is said)
        for (digest, seconds, fault, said) in [
            (good, 0, None, Look::Same),
            // A certificate whose key comes a little later.
            (bad, 10, Some("no pair"), broken("no pair", false)),
            (better, 20, None, Look::New { settings: (), mended: false }),
            (bad, 30, Some("bad"), broken("bad", false)),
            (bad, 31, Some("bad"), broken("bad", false)),
            (bad, 40, Some("bad"), broken("bad", true)),
            (bad, 50, Some("bad"), broken("bad", false)),
            (worse, 60, Some("worse"), broken("worse", false)),
            (worse, 70, Some("worse"), broken("worse", true)),
            (worse, 80, Some("worse"), broken("worse", false)),
            (good, 90, None, Look::New { settings: (), mended: true }),
            (good, 100, None, Look::Same),
            (bad, 110, Some("bad"), broken("bad", false)),
            (bad, 120, Some("bad"), broken("bad", true)),
            (good, 130, None, Look::Back),
            (good, 140, None, Look::Same),
        ] {
            assert_eq!(look(digest, seconds, fault), said, "at {seconds} s");
        }
    }
}
