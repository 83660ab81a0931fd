//! `vaultmount validate`: manifests against the rules of a mount, without a server.

mod github;
mod json;
mod sarif;
mod text;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::{complain, style};
use crate::{
    manifest,
    validate::{Input, Report, Severity, validate},
};

/// Flags of `vaultmount validate`.
#[derive(Args, Clone, Debug)]
pub struct ValidateArgs {
    /// Files, folders (every *.yaml, *.yml and *.json below them), or `-` for standard input
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// How findings are written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Fail on warnings, too
    #[arg(long)]
    pub strict: bool,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: place, message, the line itself
    #[default]
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Workflow commands, which GitHub shows beside the lines
    Github,
}

/// Looks at the files. 0 when all is well, 1 when something is wrong, 2 when a file cannot be read.
#[must_use]
pub fn run(args: &ValidateArgs) -> ExitCode {
    let inputs = match inputs(&args.paths) {
        Ok(inputs) => inputs,
        Err(error) => {
            complain(&error);
            return ExitCode::from(2);
        }
    };
    let report = validate(&inputs);
    let text = written(&report, args.output);
    let done = match args.output {
        Format::Text => style::stdout().write_all(text.as_bytes()),
        _ => io::stdout().write_all(text.as_bytes()),
    };
    if let Err(error) = super::printed(done) {
        complain(&error);
        return ExitCode::from(2);
    }
    let failed = report.count(Severity::Error) > 0 || args.strict && report.count(Severity::Warning) > 0;
    ExitCode::from(u8::from(failed))
}

fn written(report: &Report, output: Format) -> String {
    match output {
        Format::Text => text::written(report),
        Format::Json => json::written(report),
        Format::Sarif => sarif::written(report),
        Format::Github => github::written(report),
    }
}

/// The files that are named, and those in the folders that are named, each once.
fn inputs(paths: &[PathBuf]) -> Result<Vec<Input>, String> {
    let stdin = PathBuf::from("-");
    let paths = match paths {
        [] if io::stdin().is_terminal() => {
            return Err("name files or folders to look at, or - for standard input".to_owned());
        }
        [] => std::slice::from_ref(&stdin),
        paths => paths,
    };
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { below(path, &mut files)? } else { files.push(path.clone()) }
    }
    let (mut inputs, mut seen) = (Vec::new(), BTreeSet::new());
    for path in files {
        let name = path.strip_prefix("./").unwrap_or(&path);
        if seen.insert(name.to_owned()) {
            let text = manifest::text(&path).map_err(|e| e.what().to_owned())?;
            inputs.push(Input { name: manifest::shown(name), text });
        }
    }
    Ok(inputs)
}

/// The manifests below a folder by name; what is hidden is left out, and links to folders are not followed.
fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("{} cannot be read: {e}", manifest::shown(folder));
    let mut entries = fs::read_dir(folder).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(unreadable)?.is_dir() {
            below(&path, files)?;
        } else if manifest && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// `error` or `warning`.
fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
