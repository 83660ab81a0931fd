//! `vaultmount mount`: acts as the driver for one class, and prints the files that a pod would get.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;

use super::{
    driver_args::{self, DriverArgs},
    style::{self, HEADING, SKIPPED, paint},
};
use crate::{
    app::Components,
    config::{Config, ServeArgs},
    hmac_keys::HmacKeys,
    observe::Observers,
    provider::{
        self,
        client::Client,
        pb::{File, MountResponse},
    },
    telemetry,
    text::replace_control_chars,
};

/// Flags of `vaultmount mount`.
#[derive(Args, Clone, Debug)]
pub struct MountArgs {
    /// The class and the pod.
    #[command(flatten)]
    pub driver: DriverArgs,

    /// Socket of a running provider; without it, this process mounts
    #[arg(help_heading = None, long, value_name = "PATH", conflicts_with_all = ["VaultFlags", "OpenBaoFlags", "allow_address", "follow_redirects"])]
    pub endpoint: Option<PathBuf>,

    /// Directory to write the files to
    #[arg(help_heading = None, short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Print the contents of the files, which are secret
    #[arg(long, help_heading = None)]
    pub show: bool,

    /// Object version key of the cluster [default: random]
    #[arg(help_heading = None, long, value_name = "FILE", conflicts_with = "endpoint")]
    pub hmac_key_file: Option<String>,
}

impl MountArgs {
    /// Returns the equivalent flags of `serve`, from which [`Config`] is loaded.
    #[must_use]
    pub fn to_serve_args(&self) -> ServeArgs {
        ServeArgs { hmac_key_file: self.hmac_key_file.clone(), ..self.driver.to_serve_args() }
    }
}

/// Mounts once and prints names, modes, sizes and versions.
#[must_use]
pub fn run(args: &MountArgs) -> ExitCode {
    let (config, warnings) = match super::load_oneshot_config(&args.to_serve_args()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    telemetry::init(config.log.clone());
    super::exit_code(super::block_on(async {
        let response = mount(args, &config, warnings).await?;
        if let Some(folder) = &args.out {
            write_files(folder, &response.files)?;
        }
        super::ignore_broken_pipe(print_response(&response, args.show))
    }))
}

async fn mount(args: &MountArgs, config: &Config, warnings: Vec<String>) -> Result<MountResponse, String> {
    let driver = &args.driver;
    let class = driver_args::read_class(&driver.file, driver.class.as_deref()).map_err(|e| e.to_string())?;
    let audience = driver_args::token_audience(&driver.pod, &class);
    let token = driver_args::obtain_token(&driver.pod, config, &class, &audience).await.map_err(|e| e.to_string())?;
    let call = driver_args::build_call(&driver.pod, driver.permission, &class, &audience, token.as_ref());
    let mut client = if let Some(socket) = &args.endpoint {
        Client::connect(socket).await.map_err(|e| format!("cannot connect to {}: {e}", socket.display()))?
    } else {
        for warning in warnings {
            tracing::warn!(%warning, "configuration has a warning");
        }
        // Uses a process-local key: reading the cluster's key would create it if absent, which this command must not do.
        let hmac_keys =
            config.hmac_key_file.as_deref().map_or_else(|| Ok(HmacKeys::process_local()), HmacKeys::from_file);
        let parts = Components::new(config, None, hmac_keys?, Observers::default(), None, false);
        provider::local(Arc::clone(parts.mounts()), driver_args::provider_name(&class))
            .await
            .map_err(|e| e.to_string())?
    };
    client.mount(call).await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

/// Writes the files below a directory.
fn write_files(folder: &Path, files: &[File]) -> Result<(), String> {
    for file in files {
        let relative = Path::new(&file.path);
        if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(format!("the file name {:?} is outside of {}", file.path, folder.display()));
        }
        let path = folder.join(relative);
        write_file(&path, file).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    }
    Ok(())
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    open.write_all(&file.contents)?;
    open.set_permissions(fs::Permissions::from_mode(file.mode.cast_unsigned()))
}

/// Prints names first, then the contents, which bypass colour handling so that they stay unchanged.
fn print_response(response: &MountResponse, show: bool) -> io::Result<()> {
    let mut out = style::stdout();
    let width = response.files.iter().map(|f| f.path.len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {}  {}", paint(HEADING, "FILE"), paint(HEADING, "MODE"), paint(HEADING, "BYTES"))?;
    for file in &response.files {
        writeln!(out, "{:width$}  {:04o}  {}", replace_control_chars(&file.path), file.mode, file.contents.len())?;
    }
    let width = response.object_version.iter().map(|v| v.id.len()).max().unwrap_or(0).max(6);
    writeln!(out, "\n{:width$}  {}", paint(HEADING, "OBJECT"), paint(HEADING, "VERSION"))?;
    for version in &response.object_version {
        writeln!(out, "{:width$}  {}", replace_control_chars(&version.id), version.version)?;
    }
    for file in response.files.iter().filter(|_| show) {
        writeln!(out, "\n{}", paint(HEADING, format_args!("--- {}", replace_control_chars(&file.path))))?;
        match std::str::from_utf8(&file.contents) {
            Ok(text) => writeln!(io::stdout(), "{}", text.trim_end_matches('\n'))?,
            Err(_) => writeln!(out, "{}", paint(SKIPPED, "(not text)"))?,
        }
    }
    Ok(())
}
