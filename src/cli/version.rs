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
    pub output: VersionFormat,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum VersionFormat {
    /// One line of JSON, with the Go provider's keys.
    #[default]
    Json,
    /// One human-readable line.
    Text,
}

/// Prints the version.
#[must_use]
pub fn run(args: VersionArgs) -> ExitCode {
    super::exit_code(super::ignore_broken_pipe(writeln!(io::stdout(), "{}", version_line(args.output))))
}

fn version_line(output: VersionFormat) -> String {
    let version = env!("CARGO_PKG_VERSION");
    // Set for release builds only, so that other builds stay reproducible.
    let date = option_env!("VAULTMOUNT_BUILD_DATE").unwrap_or_default();
    match output {
        VersionFormat::Json => {
            json!({ "version": version, "buildDate": date, "minDriverVersion": MIN_DRIVER_VERSION }).to_string()
        }
        VersionFormat::Text if date.is_empty() => format!("vaultmount {version}"),
        VersionFormat::Text => format!("vaultmount {version} ({date})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn version_json_has_go_provider_keys() {
        let json: Value = serde_json::from_str(&version_line(VersionFormat::Json)).unwrap();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["minDriverVersion"], "v0.0.21");
        assert!(json["buildDate"].is_string());
    }

    #[test]
    fn version_text_is_one_line() {
        let version = concat!("vaultmount ", env!("CARGO_PKG_VERSION"));
        let expected =
            option_env!("VAULTMOUNT_BUILD_DATE").map_or(version.to_owned(), |date| format!("{version} ({date})"));
        assert_eq!(version_line(VersionFormat::Text), expected);
    }
}
