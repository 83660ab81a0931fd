//! `vaultmount version` and `vaultmount -version`: print the version.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde_json::json;

/// First driver version that writes the files of a response itself.
const MIN_DRIVER_VERSION: &str = "v0.0.21";

/// Flags of `vaultmount version`.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionArgs {
    /// Format: json or text
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line of JSON, with the Go provider's keys.
    #[default]
    Json,
    /// One human-readable line.
    Text,
}

/// Prints the version.
#[must_use]
pub fn run(args: VersionArgs) -> ExitCode {
    super::finish(super::printed(writeln!(io::stdout(), "{}", line(args.output))))
}

fn line(output: Output) -> String {
    let version = env!("CARGO_PKG_VERSION");
    // Set for release builds only, so that other builds stay reproducible.
    let date = option_env!("VAULTMOUNT_BUILD_DATE").unwrap_or_default();
    match output {
        Output::Json => {
            json!({ "version": version, "buildDate": date, "minDriverVersion": MIN_DRIVER_VERSION }).to_string()
        }
        Output::Text if date.is_empty() => format!("vaultmount {version}"),
        Output::Text => format!("vaultmount {version} ({date})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_has_the_go_providers_keys() {
        let json: Value = serde_json::from_str(&line(Output::Json)).unwrap();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["minDriverVersion"], "v0.0.21");
        assert!(json["buildDate"].is_string());
    }

    #[test]
    fn text_is_one_line() {
        let version = concat!("vaultmount ", env!("CARGO_PKG_VERSION"));
        let expected =
            option_env!("VAULTMOUNT_BUILD_DATE").map_or(version.to_owned(), |date| format!("{version} ({date})"));
        assert_eq!(line(Output::Text), expected);
    }
}
