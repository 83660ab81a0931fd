//! Time as the daemons of this process see it.

use std::time::Duration;

/// How long a plain secret counts as fresh when nobody says otherwise.
pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(120);

/// Lets time pass without waiting for it.
pub async fn advance(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}
