//! The sockets for the driver.

use std::path::{Path, PathBuf};

use super::value::{ConfigReport, Setting};

/// Default socket of the Go provider.
const DEFAULT_ENDPOINT: &str = "/tmp/vault.sock";

/// Example of a valid path.
const EXAMPLE_SOCKET: &str = "/provider/vault.sock";

/// Maximum length of a unix socket's path, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Reads the values of `--endpoint`, or returns one default.
pub(super) fn read(values: &[String], report: &mut ConfigReport) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for value in values.iter().filter(|v| !v.is_empty()) {
        let setting = Setting { name: "--endpoint".into(), value: value.clone() };
        let Some(path) = report.read(Some(&setting), |text| parse_socket_path(text, EXAMPLE_SOCKET)) else { continue };
        if paths.contains(&path) {
            report.error(format!("{setting} is given twice"));
            continue;
        }
        if !is_found_by_driver(&path) {
            report.warn(format!(
                "the driver will not find {setting}: it looks for the provider's name and .sock, \
                 such as vault.sock (up to 30 letters, digits, - and _)"
            ));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        paths.push(DEFAULT_ENDPOINT.into());
    }
    paths
}

/// Parses a socket's path: absolute, not a directory, and within the length limit. The error shows `example`.
pub(super) fn parse_socket_path(text: &str, example: &str) -> Result<PathBuf, String> {
    // Collecting the components normalizes `//` and `/./`.
    let path: PathBuf = Path::new(text.strip_prefix("unix://").unwrap_or(text)).components().collect();
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("is not an absolute path; write for example {example}"));
    }
    if text.ends_with('/') || path.is_dir() {
        return Err(format!("is a directory; name the socket in it, for example {example}"));
    }
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(format!("is longer than {MAX_SOCKET_PATH_BYTES} bytes, the maximum of a socket's path"));
    }
    Ok(path)
}

fn is_found_by_driver(path: &Path) -> bool {
    let stem = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".sock"));
    stem.is_some_and(|s| s.len() <= 30 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(values: &[&str]) -> (Vec<String>, ConfigReport) {
        let mut report = ConfigReport::default();
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        let paths = read(&values, &mut report).iter().map(|p| p.display().to_string()).collect();
        (paths, report)
    }

    #[test]
    fn endpoint_paths_are_normalized() {
        for (values, paths) in [
            (&[][..], &["/tmp/vault.sock"][..]),
            (&[""], &["/tmp/vault.sock"]),
            (&["/provider//vault.sock"], &["/provider/vault.sock"]),
            (&["unix:///p/vault.sock", "/p/openbao.sock"], &["/p/vault.sock", "/p/openbao.sock"]),
        ] {
            let (said, report) = read_all(values);
            assert_eq!(said, paths);
            assert!(report.errors.is_empty() && report.warnings.is_empty(), "{values:?}");
        }
    }

    #[test]
    fn invalid_endpoint_is_rejected_with_reason() {
        let long = format!("/{}.sock", "x".repeat(103));
        for (values, why) in [
            (&["vault.sock"][..], "absolute"),
            (&["unix://provider/vault.sock"], "absolute"),
            (&["/provider/"], "directory"),
            (&["/tmp"], "directory"),
            (&[&long], "107"),
            (&["/p/vault.sock", "unix:///p/./vault.sock"], "twice"),
        ] {
            let (_, report) = read_all(values);
            assert_eq!(report.errors.len(), 1, "{values:?}");
            assert!(
                report.errors[0].starts_with("--endpoint=") && report.errors[0].contains(why),
                "{:?}",
                report.errors
            );
        }
    }

    #[test]
    fn endpoint_name_unknown_to_driver_warns() {
        let long = format!("/p/{}.sock", "x".repeat(31));
        for path in ["/p/vault.socket", "/p/my.vault.sock", "/p/vault", &long] {
            let (_, report) = read_all(&[path]);
            assert_eq!((report.errors.len(), report.warnings.len()), (0, 1), "{path}");
        }
    }
}
