//! The clock of the daemons in this process.

use std::time::Duration;

/// Default time for which a plain secret counts as fresh.
pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(120);

/// Advances the clock without waiting.
pub async fn advance(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}
