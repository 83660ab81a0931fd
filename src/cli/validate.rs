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
    validate::{Input, InputKind, Severity, ValidationReport, validate},
};

/// Flags of `vaultmount validate`.
#[derive(Args, Clone, Debug)]
pub struct ValidateArgs {
    /// Files, folders (every *.yaml, *.yml and *.json below them), or `-` for standard input
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Policy file of the provider that the classes are for
    #[arg(long, value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// How findings are written: text, json, sarif or github
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, hide_possible_values = true)]
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

/// Looks at the files. 0 when all is well, 1 when something is wrong, 2 when a file cannot be read; the others are looked
/// at all the same.
#[must_use]
pub fn run(args: &ValidateArgs) -> ExitCode {
    let (mut inputs, mut unreadable) = (Vec::new(), Vec::new());
    if let Some(path) = &args.policy_file {
        match manifest::read_content(path) {
            Ok(content) => inputs.push(Input { name: manifest::display_path(path), content, kind: InputKind::Policy }),
            Err(error) => unreadable.push(format!("{} cannot be read: {error}", manifest::display_path(path))),
        }
    }
    // The policy alone is enough to look at.
    let is_alone = args.policy_file.is_some() && args.paths.is_empty();
    let named = if is_alone { Vec::new() } else { files(&args.paths, &mut unreadable) };
    for (path, name) in named {
        if args.policy_file.as_ref() == Some(&path) {
            continue;
        }
        match manifest::read_content(&path) {
            Ok(content) => inputs.push(Input { name, content, kind: InputKind::Manifests }),
            Err(error) => unreadable.push(format!("{name} cannot be read: {error}")),
        }
    }
    for what in &unreadable {
        complain(what);
    }
    if inputs.is_empty() && !unreadable.is_empty() {
        return ExitCode::from(2);
    }
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
    if !unreadable.is_empty() {
        return ExitCode::from(2);
    }
    let failed = report.count(Severity::Error) > 0 || args.strict && report.count(Severity::Warning) > 0;
    ExitCode::from(u8::from(failed))
}

fn written(report: &ValidationReport, output: Format) -> String {
    match output {
        Format::Text => text::written(report),
        Format::Json => json::written(report),
        Format::Sarif => sarif::written(report),
        Format::Github => github::written(report),
    }
}

/// The files that are named, and those in the folders that are named, each once and with its name; what hides some of
/// them is `unreadable`.
fn files(paths: &[PathBuf], unreadable: &mut Vec<String>) -> Vec<(PathBuf, String)> {
    let stdin = PathBuf::from("-");
    let paths = match paths {
        [] if io::stdin().is_terminal() => {
            unreadable.push("name files or folders to look at, or - for standard input".to_owned());
            &[]
        }
        [] => std::slice::from_ref(&stdin),
        paths => paths,
    };
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { below(path, &mut files, unreadable) } else { files.push(path.clone()) }
    }
    let mut seen = BTreeSet::new();
    let plain = |path: &Path| path.strip_prefix("./").unwrap_or(path).to_owned();
    files.retain(|path| seen.insert(plain(path)));
    let named = |path: PathBuf| {
        let name = manifest::display_path(&plain(&path));
        (path, name)
    };
    files.into_iter().map(named).collect()
}

/// The manifests below a folder by name; what is hidden is left out, and so are pipes and devices. Links to folders are not
/// followed.
fn below(folder: &Path, files: &mut Vec<PathBuf>, unreadable: &mut Vec<String>) {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.unwrap_or_else(|error| {
        unreadable.push(format!("{} cannot be read: {error}", manifest::display_path(folder)));
        Vec::new()
    });
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&path, files, unreadable);
        } else if manifest && path.is_file() {
            files.push(path);
        }
    }
}

/// Whether a file by this name is no file of a project: standard input, or a pipe of the shell's (`<(…)`).
fn is_piped(name: &str) -> bool {
    name == "<stdin>" || name.starts_with("/dev/")
}

/// `error` or `warning`.
fn severity_str(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
