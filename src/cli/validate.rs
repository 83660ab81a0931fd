//! `vaultmount validate`: checks manifests against the rules of a mount, without a server.

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

use super::{print_error, style};
use crate::{
    manifest,
    validate::{Input, InputKind, Severity, ValidationReport, validate},
};

/// Flags of `vaultmount validate`.
#[derive(Args, Clone, Debug)]
pub struct ValidateArgs {
    /// Files, directories (every *.yaml, *.yml and *.json below them), or `-` for standard input
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Policy file to check the classes against
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// Format: text, json, sarif or github
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    pub output: ValidateFormat,

    /// Also fail on warnings
    #[arg(long)]
    pub strict: bool,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ValidateFormat {
    /// Human-readable: position, message, source line
    #[default]
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// GitHub workflow commands, shown beside the lines
    Github,
}

/// Validates the files. Exits with 0 without errors, 1 with errors, and 2 if a file cannot be read. The other files are
/// validated nevertheless.
#[must_use]
pub fn run(args: &ValidateArgs) -> ExitCode {
    let (mut inputs, mut unreadable) = (Vec::new(), Vec::new());
    if let Some(path) = &args.policy_file {
        match manifest::read_content(path) {
            Ok(content) => inputs.push(Input { name: manifest::display_path(path), content, kind: InputKind::Policy }),
            Err(error) => unreadable.push(format!("{} cannot be read: {error}", manifest::display_path(path))),
        }
    }
    // With a policy file, paths are optional.
    let is_policy_only = args.policy_file.is_some() && args.paths.is_empty();
    let files = if is_policy_only { Vec::new() } else { collect_files(&args.paths, &mut unreadable) };
    for (path, name) in files {
        if args.policy_file.as_ref() == Some(&path) {
            continue;
        }
        match manifest::read_content(&path) {
            Ok(content) => inputs.push(Input { name, content, kind: InputKind::Manifests }),
            Err(error) => unreadable.push(format!("{name} cannot be read: {error}")),
        }
    }
    for message in &unreadable {
        print_error(message);
    }
    if inputs.is_empty() && !unreadable.is_empty() {
        return ExitCode::from(2);
    }
    let report = validate(&inputs);
    let text = render(&report, args.output);
    let result = match args.output {
        ValidateFormat::Text => style::stdout().write_all(text.as_bytes()),
        _ => io::stdout().write_all(text.as_bytes()),
    };
    if let Err(error) = super::ignore_broken_pipe(result) {
        print_error(&error);
        return ExitCode::from(2);
    }
    if !unreadable.is_empty() {
        return ExitCode::from(2);
    }
    let failed = report.count(Severity::Error) > 0 || args.strict && report.count(Severity::Warning) > 0;
    ExitCode::from(u8::from(failed))
}

fn render(report: &ValidationReport, output: ValidateFormat) -> String {
    match output {
        ValidateFormat::Text => text::render(report),
        ValidateFormat::Json => json::render(report),
        ValidateFormat::Sarif => sarif::render(report),
        ValidateFormat::Github => github::render(report),
    }
}

/// Returns the named files, and those in the named directories, each once and with its display name. Adds paths that cannot
/// be read to `unreadable`.
fn collect_files(paths: &[PathBuf], unreadable: &mut Vec<String>) -> Vec<(PathBuf, String)> {
    let stdin = PathBuf::from("-");
    let paths = match paths {
        [] if io::stdin().is_terminal() => {
            unreadable.push("name files or directories to validate, or - for standard input".to_owned());
            &[]
        }
        [] => std::slice::from_ref(&stdin),
        paths => paths,
    };
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { manifests_in(path, &mut files, unreadable) } else { files.push(path.clone()) }
    }
    let mut seen = BTreeSet::new();
    let without_dot = |path: &Path| path.strip_prefix("./").unwrap_or(path).to_owned();
    files.retain(|path| seen.insert(without_dot(path)));
    let with_name = |path: PathBuf| {
        let name = manifest::display_path(&without_dot(&path));
        (path, name)
    };
    files.into_iter().map(with_name).collect()
}

/// Collects the manifests below a directory, sorted by name. Skips hidden files, pipes and devices, and does not follow links
/// to directories.
fn manifests_in(folder: &Path, files: &mut Vec<PathBuf>, unreadable: &mut Vec<String>) {
    let dir_entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = dir_entries.unwrap_or_else(|error| {
        unreadable.push(format!("{} cannot be read: {error}", manifest::display_path(folder)));
        Vec::new()
    });
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let is_manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            manifests_in(&path, files, unreadable);
        } else if is_manifest && path.is_file() {
            files.push(path);
        }
    }
}

/// Returns true for standard input and shell pipes (`<(…)`), which are not files of a project.
fn is_pipe(name: &str) -> bool {
    name == "<stdin>" || name.starts_with("/dev/")
}

/// Returns `error` or `warning`.
fn severity_str(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
