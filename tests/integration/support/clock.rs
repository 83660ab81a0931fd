//! Time as the daemons of this process see it.

use std::time::Duration;

/// Lets time pass without waiting for it.
pub async fn leap(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
