//! `vaultmount status`: what a process that serves holds, and how it stands.

mod text;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::Args;
use http::Method;

use super::{
    status_client::{self, Output, SocketArgs},
    style,
};

/// Flags of `vaultmount status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub at: SocketArgs,
}

/// How long the answer may take: it is made from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks and prints.
#[must_use]
pub fn run(args: &StatusArgs) -> ExitCode {
    super::finish(super::block_on(async {
        let answer = status_client::ask(&args.at, Method::GET, "/status", PATIENCE).await?;
        let told = match args.at.output {
            Output::Text => text::written(&answer.read()?),
            Output::Json => answer.json() + "\n",
        };
        super::printed(style::stdout().write_all(told.as_bytes()))
    }))
}
