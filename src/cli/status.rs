//! `vaultmount status`: prints the running provider's pods, tokens, secrets and recent failures.

mod text;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::Args;
use http::Method;

use super::{
    status_client::{self, OutputFormat, StatusClientArgs},
    style,
};

/// Flags of `vaultmount status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// The provider's socket and the output format.
    #[command(flatten)]
    pub client: StatusClientArgs,
}

/// Timeout of the request, which the provider answers from memory.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests the status and prints it.
#[must_use]
pub fn run(args: &StatusArgs) -> ExitCode {
    super::exit_code(super::block_on(async {
        let response = status_client::send_request(&args.client, Method::GET, "/status", STATUS_TIMEOUT).await?;
        let output = match args.client.output {
            OutputFormat::Text => text::render(&response.parse()?),
            OutputFormat::Json => response.to_terminal_json() + "\n",
        };
        super::ignore_broken_pipe(style::stdout().write_all(output.as_bytes()))
    }))
}
