//! `vaultmount serve`: answers the driver until SIGTERM or SIGINT.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::App,
    config::{Config, ServeArgs},
    telemetry,
};

/// Serves; fails with every configuration error, or with what cannot be had.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, warnings) = match Config::load(args, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            super::complain(&errors.to_string());
            return ExitCode::from(2);
        }
    };
    telemetry::init(config.log_level);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    super::finish(super::block_on(async {
        App::build(config).await?.run(told_to_stop()).await;
        Ok(())
    }))
}

async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; only SIGKILL ends this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
