//! `vaultmount serve`: serves the driver until SIGTERM or SIGINT.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::{app::App, config::ServeArgs, telemetry};

/// Serves the driver. Fails with every configuration error, or if a resource cannot be acquired.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, warnings) = match super::load_config(args) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    telemetry::init(config.log.clone());
    for warning in warnings {
        tracing::warn!(%warning, "configuration has a warning");
    }
    super::exit_code(super::block_on(async {
        tokio::spawn(reload_on_sighup());
        App::build(config).await?.run(super::shutdown_signal()).await
    }))
}

/// Reloads the log filter on each SIGHUP.
async fn reload_on_sighup() {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return tracing::error!("cannot listen for SIGHUP; SIGHUP ends this process");
    };
    while hangup.recv().await.is_some() {
        telemetry::reload();
    }
}
