//! `vaultmount state`: inspects the saved state without changing it.

#![expect(clippy::doc_markdown, reason = "help texts are printed as they are, backticks included")]

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    status_client::OutputFormat,
    style::{self, ERROR, HEADING, OK, paint},
};
use crate::{
    clock::time_of_day,
    config::STATE_DIR_VARIABLE,
    kube,
    session::SavedSession,
    state::{ListedFile, StateKey, list},
    text::replace_control_chars,
};

/// Flags of `vaultmount state`.
#[derive(Args, Clone, Debug)]
pub struct StateArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: StateCommand,
}

/// The subcommands of `vaultmount state`.
#[derive(Clone, Debug, Subcommand)]
pub enum StateCommand {
    /// List the saved sessions: pods, token expiry, sizes
    #[command(
        after_help = "The output contains no secret.\n\nExample:\n  vaultmount state ls --state-dir=/vaultmount/state"
    )]
    Ls(StateDirArgs),

    /// Verify that every file can be read
    #[command(
        after_help = "Exit code: 0 if all files can be read, 1 otherwise.\n\nExample:\n  vaultmount state verify --state-dir=/vaultmount/state"
    )]
    Verify(StateDirArgs),
}

/// The state directory and the key that its files are encrypted with.
#[derive(Args, Clone, Debug)]
pub struct StateDirArgs {
    /// State directory of serve (VAULTMOUNT_STATE_DIR)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// File with the key, instead of the Secret
    #[arg(long, value_name = "FILE")]
    pub hmac_key_file: Option<PathBuf>,

    /// Secret with the key
    #[arg(long, value_name = "NAME", default_value = "vault-csi-provider-hmac-key")]
    pub hmac_secret_name: String,

    /// Kubeconfig file to use instead of the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Format: text or json
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    pub output: OutputFormat,
}

/// One file of the state directory.
#[derive(Serialize)]
struct FileRow {
    file: String,
    bytes: u64,
    written_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A summary of one saved session.
#[derive(Serialize)]
struct SessionSummary {
    namespace: String,
    pod: String,
    role: String,
    address: String,
    tokens: Vec<TokenSummary>,
    /// Number of cached secrets.
    secrets: usize,
    /// Number of cached secrets with a lease.
    leased_secrets: usize,
}

#[derive(Serialize)]
struct TokenSummary {
    accessor: String,
    expires_at: Option<Timestamp>,
}

/// Reads the state directory and prints it.
#[must_use]
pub fn run(args: &StateArgs) -> ExitCode {
    let (folder, is_verify) = match &args.command {
        StateCommand::Ls(folder) => (folder, false),
        StateCommand::Verify(folder) => (folder, true),
    };
    let mut all_readable = true;
    let result = super::block_on(async {
        let rows = load_rows(folder).await?;
        all_readable = rows.iter().all(|row| row.error.is_none());
        super::ignore_broken_pipe(match folder.output {
            OutputFormat::Json => writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&rows).unwrap_or_default()),
            OutputFormat::Text if is_verify => print_verification(&rows),
            OutputFormat::Text => print_list(&rows),
        })
    });
    match result {
        Ok(()) if is_verify && !all_readable => ExitCode::FAILURE,
        done => super::exit_code(done),
    }
}

async fn load_rows(args: &StateDirArgs) -> Result<Vec<FileRow>, String> {
    let variable = std::env::var_os(STATE_DIR_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = args.state_dir.clone().or(variable);
    let folder =
        folder.ok_or_else(|| format!("state directory not set; pass --state-dir or set {STATE_DIR_VARIABLE}"))?;
    let key = StateKey::derive(&read_key(args).await?);
    let mut rows: Vec<FileRow> =
        list(&folder, &key).map_err(|e| format!("{}: {e}", folder.display()))?.into_iter().map(file_row).collect();
    let pod = |row: &FileRow| row.session.as_ref().map(|session| (session.namespace.clone(), session.pod.clone()));
    rows.sort_by_cached_key(|row| (row.session.is_none(), pod(row), row.file.clone()));
    Ok(rows)
}

/// Reads the key from a file, or from the Secret. An absent Secret is not created, because no state is encrypted with it.
async fn read_key(args: &StateDirArgs) -> Result<Vec<u8>, String> {
    if let Some(file) = &args.hmac_key_file {
        return std::fs::read(file).map_err(|e| format!("--hmac-key-file {}: {e}", file.display()));
    }
    let kube =
        kube::Config::from_env(args.kubeconfig.clone()).build(std::sync::Arc::default()).map_err(|e| e.to_string())?;
    let kube = kube.ok_or("no key: not running in a cluster; pass --hmac-key-file or --kubeconfig")?;
    let name = &args.hmac_secret_name;
    let key = kube.find_hmac_key(name).await.map_err(|e| e.to_string())?;
    key.map(|key| key.expose().to_vec()).ok_or_else(|| format!("Secret {}/{name} not found", kube.namespace()))
}

fn file_row(listed: ListedFile) -> FileRow {
    let file = listed.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (bytes, written) =
        (listed.bytes, listed.modified_at.and_then(|written_at| Timestamp::try_from(written_at).ok()));
    let written_at = written.and_then(|at| at.round(jiff::Unit::Second).ok());
    let saved = listed.content.map_err(|error| error.to_string());
    let saved = saved.and_then(|content| SavedSession::parse(&content).ok_or("damaged file".to_owned()));
    let (session, error) = match saved {
        Ok(saved) => (Some(SessionSummary::from_saved(&saved)), None),
        Err(error) => (None, Some(error)),
    };
    FileRow { file, bytes, written_at, session, error }
}

impl SessionSummary {
    fn from_saved(saved: &SavedSession) -> Self {
        let (namespace, pod, role) = saved.owner();
        let token_row = |(accessor, expires_at): (&str, Option<_>)| TokenSummary {
            accessor: accessor.to_owned(),
            expires_at: expires_at.map(time_of_day),
        };
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            role: role.to_owned(),
            address: saved.endpoint().address.to_string(),
            tokens: saved.tokens().map(token_row).collect(),
            secrets: saved.secrets().len(),
            leased_secrets: saved.secrets().iter().filter(|secret| secret.is_leased()).count(),
        }
    }
}

fn print_list(rows: &[FileRow]) -> io::Result<()> {
    let mut out = style::stdout();
    if rows.is_empty() {
        return writeln!(out, "no saved sessions");
    }
    let cells: Vec<[String; 7]> = rows.iter().map(FileRow::cells).collect();
    let titles = ["POD", "ROLE", "TOKEN EXPIRES", "SECRETS", "LEASED", "BYTES", "FILE"].map(str::to_owned);
    let column_width =
        |column: usize| cells.iter().chain([&titles]).map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(column_width);
    for (at, title) in titles[..6].iter().enumerate() {
        write!(out, "{}  ", paint(HEADING, format_args!("{title:0$}", widths[at])))?;
    }
    writeln!(out, "{}", paint(HEADING, &titles[6]))?;
    for (row, cells) in rows.iter().zip(&cells) {
        if let Some(error) = &row.error {
            writeln!(out, "{}  {}", paint(ERROR, error), cells[6])?;
            continue;
        }
        for (at, cell) in cells[..6].iter().enumerate() {
            write!(out, "{cell:0$}  ", widths[at])?;
        }
        writeln!(out, "{}", cells[6])?;
    }
    Ok(())
}

impl FileRow {
    fn cells(&self) -> [String; 7] {
        let Some(session) = &self.session else {
            let mut cells: [String; 7] = std::array::from_fn(|_| String::new());
            cells[6].clone_from(&self.file);
            return cells;
        };
        let expires_at = match session.tokens.first() {
            None => "no token".to_owned(),
            Some(TokenSummary { expires_at: None, .. }) => "never".to_owned(),
            Some(TokenSummary { expires_at: Some(expires_at), .. }) => expires_at.to_string(),
        };
        [
            replace_control_chars(&format!("{}/{}", session.namespace, session.pod)),
            replace_control_chars(&session.role),
            expires_at,
            session.secrets.to_string(),
            session.leased_secrets.to_string(),
            self.bytes.to_string(),
            self.file.clone(),
        ]
    }
}

fn print_verification(rows: &[FileRow]) -> io::Result<()> {
    let mut out = style::stdout();
    let bytes: u64 = rows.iter().map(|row| row.bytes).sum();
    for row in rows {
        if let Some(error) = &row.error {
            writeln!(out, "{}: {}", row.file, paint(ERROR, error))?;
        }
    }
    let (files, unreadable) = (rows.len(), rows.iter().filter(|row| row.error.is_some()).count());
    let verdict = if unreadable == 0 {
        paint(OK, "all can be read".to_owned())
    } else {
        paint(ERROR, format!("{unreadable} cannot be read"))
    };
    writeln!(out, "files: {files}, bytes: {bytes}; {verdict}")
}
