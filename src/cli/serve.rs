//! `vaultmount serve`: answers the driver until SIGTERM or SIGINT.

use std::process::ExitCode;

use crate::{app::App, config::ServeArgs, telemetry};

/// Serves; fails with every configuration error, or with what cannot be had.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, warnings) = match super::configured(args) {
        Ok(configured) => configured,
        Err(code) => return code,
    };
    telemetry::init(config.log_level);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    super::finish(super::block_on(async { App::build(config).await?.run(super::told_to_stop()).await }))
}
