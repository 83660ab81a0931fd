//! `vaultmount revoke --all`: revokes all tokens of the running provider, before it is uninstalled.

use std::{fmt::Write as _, io::Write as _, process::ExitCode, time::Duration};

use clap::Args;
use http::Method;

use super::{
    status_client::{self, OutputFormat, StatusClientArgs},
    style::{self, ERROR, OK, paint},
};
use crate::observe::status::RevocationSummary;

/// Flags of `vaultmount revoke`.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// Revoke everything (required; partial revocation is not supported)
    #[arg(long)]
    pub all: bool,

    /// The provider's socket and the output format.
    #[command(flatten)]
    pub client: StatusClientArgs,
}

/// Warning that is printed without `--all`.
const MISSING_ALL_MESSAGE: &str = "\
revoke --all revokes every Vault token of the running provider, with every credential
leased under them. Pods lose access at once, and the provider rejects mounts until you
restart it. Use it only before you uninstall. To continue, pass --all.";

/// Timeout of the request: Vault revokes each token and the leases under it.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(300);

/// Revokes everything. Fails if a token remains.
#[must_use]
pub fn run(args: &RevokeArgs) -> ExitCode {
    if !args.all {
        super::print_error(MISSING_ALL_MESSAGE);
        return ExitCode::from(2);
    }
    let mut is_complete = false;
    let result = super::block_on(async {
        let response = status_client::send_request(&args.client, Method::POST, "/revoke", REVOKE_TIMEOUT).await?;
        let revoked: RevocationSummary = response.parse()?;
        is_complete = revoked.is_complete();
        let output = match args.client.output {
            OutputFormat::Text => render_text(&revoked),
            OutputFormat::Json => response.to_terminal_json() + "\n",
        };
        super::ignore_broken_pipe(style::stdout().write_all(output.as_bytes()))
    });
    match result {
        Ok(()) if !is_complete => ExitCode::FAILURE,
        done => super::exit_code(done),
    }
}

fn render_text(revoked: &RevocationSummary) -> String {
    let tokens = |n: usize| if n == 1 { "1 token".to_owned() } else { format!("{n} tokens") };
    let mut text = format!(
        "{} {} revoked; Vault ends the leases under them within moments\n",
        paint(OK, "ok   "),
        tokens(revoked.tokens)
    );
    for failed in &revoked.failed {
        let _ = writeln!(text, "{} {failed}", paint(ERROR, "FAIL "));
    }
    if revoked.remaining > 0 {
        let _ = writeln!(text, "{} {} left: each expires on its own", paint(ERROR, "FAIL "), tokens(revoked.remaining));
    }
    text + "Mounts are rejected until you restart vaultmount.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoke_output_lists_failures_and_remaining_tokens() {
        let plain = |revoked: &RevocationSummary| anstream::adapter::strip_str(&render_text(revoked)).to_string();
        let all = plain(&RevocationSummary { tokens: 1, failed: Vec::new(), remaining: 0 });
        assert!(all.starts_with("ok    1 token revoked") && !all.contains("FAIL"), "{all}");
        let some =
            plain(&RevocationSummary { tokens: 3, failed: vec!["shop/web-0: denied [VM0050]".into()], remaining: 2 });
        assert!(some.contains("FAIL  shop/web-0: denied") && some.contains("FAIL  2 tokens left"), "{some}");
        assert!(some.contains("rejected until"), "{some}");
    }
}
