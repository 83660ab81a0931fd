//! Settings and their parsers.
//!
//! A parser's error is a clause that follows the value: `--max-sessions=many is not a whole number; …`.

use std::{
    borrow::Cow,
    fmt,
    fs::{self, File},
    net::{Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use jiff::SignedDuration;

use crate::{
    text::{one_line, parse_go_bool},
    tls::is_server_name,
    vault::SENSITIVE_URL_CHARS,
};

/// Maximum length of a value in a message, in bytes.
const MAX_DISPLAYED_BYTES: usize = 120;

/// Upper limit of most durations.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A value with the flag or variable that sets it.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Name of the flag or variable: `--vault-addr` or `VAULT_ADDR`.
    pub(super) name: Cow<'static, str>,
    /// The value, never empty: an empty value counts as not set.
    pub(super) value: String,
}

impl Setting {
    /// Returns the flag's setting, or none if the flag is absent or empty.
    pub(super) fn non_empty(name: impl Into<Cow<'static, str>>, value: Option<&String>) -> Option<Self> {
        let value = value.filter(|v| !v.is_empty())?.clone();
        Some(Self { name: name.into(), value })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_secret = self.value.contains("://") && self.value.contains(SENSITIVE_URL_CHARS);
        let shown = if has_secret { "…".to_owned() } else { one_line(&self.value, MAX_DISPLAYED_BYTES) };
        write!(f, "{}={shown}", self.name)
    }
}

/// The errors and warnings of a configuration so far.
#[derive(Default)]
pub(super) struct ConfigReport {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl ConfigReport {
    /// Adds an error of one line.
    pub(super) fn error(&mut self, message: impl Into<String>) {
        self.errors.push(message.into());
    }

    /// Adds a warning of one line, for a setting with an unexpected effect.
    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    /// Parses a setting with `rule`. Reports an error and returns none if the rule rejects it.
    pub(super) fn read<T, E: fmt::Display>(
        &mut self,
        setting: Option<&Setting>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let setting = setting?;
        parse(&setting.value).map_err(|problem| self.error(format!("{setting} {problem}"))).ok()
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    parse_go_bool(text).ok_or("is neither true nor false")
}

/// Parses a name for certificate verification.
pub(super) fn server_name(text: &str) -> Result<String, &'static str> {
    const MESSAGE: &str = "is neither a host name nor an IP address; write it without scheme and port";
    is_server_name(text).then(|| text.to_owned()).ok_or(MESSAGE)
}

/// Parses a whole number within `range`, without a sign.
pub(super) fn integer(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| text.starts_with(|c: char| c.is_ascii_digit()) && range.contains(n));
    number.ok_or_else(|| format!("is not a whole number from {} to {}", range.start(), range.end()))
}

/// Parses a duration within `range`, in the format of [`duration`]. `words` describes the range in the error.
pub(super) fn duration_within(
    text: &str,
    range: RangeInclusive<Duration>,
    description: &str,
) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| format!("is not a duration {description}"))
}

/// Parses a duration up to a day: `20s`, `1m30s`, or a plain number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const MESSAGE: &str = "is not a duration of at most a day; write for example 20s or 1m30s";
    parse_duration(text).filter(|duration| *duration <= DAY).ok_or(MESSAGE)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let seconds = text.parse::<u32>().map(|s| Duration::from_secs(s.into())).ok();
    let with_units = || text.parse::<SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
    seconds.or_else(with_units)
}

/// Parses a Kubernetes name (an RFC 1123 subdomain). `kind` is the kind of object: `Secret`, `node`.
pub(super) fn kubernetes_name(text: &str, kind: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_edge_char = |c: char| c == '-' || c == '.';
    let is_valid = text.len() <= 253
        && text.chars().all(is_allowed)
        && !text.starts_with(is_edge_char)
        && !text.ends_with(is_edge_char);
    is_valid
        .then(|| text.to_owned())
        .ok_or_else(|| format!("is not a valid {kind} name; use lower case letters, digits, - and ."))
}

/// Parses a listen address. `:8080` is every interface of both IP versions, `off` returns none.
pub(super) fn listen_address(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let (host, port) = text.rsplit_once(':').ok_or("has no port; write for example :8080")?;
    let port = port.parse().map_err(|_| "has a port that is not a number up to 65535; write for example :8080")?;
    match host {
        "" => Ok(Some((Ipv6Addr::UNSPECIFIED, port).into())),
        "localhost" => Ok(Some(([127, 0, 0, 1], port).into())),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| "has a host that is not an IP address; write :8080, 127.0.0.1:8080 or off"),
    }
}

/// Parses the path of an existing file, which must be readable.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    let metadata = File::open(text).and_then(|f| f.metadata()).map_err(|why| format!("cannot be opened: {why}"))?;
    if metadata.is_dir() { Err("is a directory, not a file".to_owned()) } else { Ok(text.into()) }
}

/// Parses the path of an existing directory.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let metadata = fs::metadata(text).map_err(|why| format!("cannot be opened: {why}"))?;
    if metadata.is_dir() { Ok(text.into()) } else { Err("is a file, not a directory".to_owned()) }
}

/// Parses the absolute path of a directory, which may not exist yet.
pub(super) fn creatable_directory(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("is not an absolute path; write for example /vaultmount/state");
    }
    if path.exists() && !path.is_dir() { Err("is a file, not a directory") } else { Ok(path) }
}

/// Parses text for a header, a path or a TLS handshake, without control characters.
pub(super) fn header_text(text: &str) -> Result<String, &'static str> {
    if text.contains(char::is_control) {
        Err("contains a line break or another control character")
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_outside_range_is_rejected() {
        for (text, value) in
            [("1", Some(1)), ("9", Some(9)), ("0", None), ("10", None), ("+2", None), ("-2", None), ("", None)]
        {
            assert_eq!(integer(text, 1..=9).ok(), value, "{text}");
        }
    }

    #[test]
    fn duration_parses_units_and_rejects_more_than_a_day() {
        for (text, millis) in [
            ("20s", Some(20_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("60", Some(60_000)),
            ("0", Some(0)),
            ("24h", Some(86_400_000)),
            ("25h", None),
            ("-1s", None),
            ("soon", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn listen_address_accepts_ports_hosts_and_off() {
        for (text, address) in [
            (":8080", Ok(Some("[::]:8080"))),
            ("0.0.0.0:80", Ok(Some("0.0.0.0:80"))),
            ("[::1]:80", Ok(Some("[::1]:80"))),
            ("localhost:80", Ok(Some("127.0.0.1:80"))),
            ("off", Ok(None)),
            ("", Ok(None)),
            ("8080", Err("no port")),
            (":http", Err("not a number")),
            ("node:80", Err("not an IP address")),
        ] {
            match (listen_address(text), address) {
                (Ok(said), Ok(expected)) => assert_eq!(said.map(|a| a.to_string()).as_deref(), expected, "{text}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{text}: {said}"),
                (said, _) => panic!("{text}: {said:?}"),
            }
        }
    }
}
