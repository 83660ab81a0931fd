//! `vaultmount serve`: serves the driver until SIGTERM or SIGINT.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::{app::App, config::ServeArgs, telemetry};

/// Serves the driver. Fails with every configuration error, or if a resource cannot be acquired.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, warnings) = match super::configured(args) {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    telemetry::init(config.log.clone());
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    super::finish(super::block_on(async {
        tokio::spawn(reload());
        App::build(config).await?.run(super::told_to_stop()).await
    }))
}

/// Reloads the log filter on each SIGHUP.
async fn reload() {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return tracing::error!("cannot listen for SIGHUP; SIGHUP ends this process");
    };
    while hangup.recv().await.is_some() {
        telemetry::reload();
    }
}
