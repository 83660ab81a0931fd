//! Log filter: a default level and levels for modules.

use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::SPAN_TARGET;
use crate::text::{closest_match, one_line};

/// Default level and levels for targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    level: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

/// Error of an invalid filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Unknown level, with a suggestion.
    #[error("{0:?} is not a valid level (trace, debug, info, warn, error, off){1}")]
    Level(String, String),
    /// Unknown target.
    #[error(
        "{0:?} is not a valid target; use a module of vaultmount, such as `vault` or `session::login`, or a library, such as `tower`"
    )]
    Target(String),
}

const LEVELS: [(&str, LevelFilter); 6] = [
    ("trace", LevelFilter::TRACE),
    ("debug", LevelFilter::DEBUG),
    ("info", LevelFilter::INFO),
    ("warn", LevelFilter::WARN),
    ("error", LevelFilter::ERROR),
    ("off", LevelFilter::OFF),
];

/// Target of all modules of vaultmount.
const CRATE_TARGET: &str = env!("CARGO_CRATE_NAME");

/// Libraries that could log requests and therefore secrets. They are never logged, even if a filter requests it.
const NEVER_LOGGED: [&str; 6] = ["rustify", "vaultrs", "h2", "hyper", "hyper_util", "reqwest"];

/// Libraries that a filter may name. Every other name is a module of vaultmount.
const LIBRARIES: [&str; 6] = ["rustls", "tonic", "tower", "tower_http", "tokio", "mio"];

impl Default for Filter {
    fn default() -> Self {
        Self::from_level(LevelFilter::INFO)
    }
}

impl Filter {
    /// Returns a filter with one level for all targets.
    #[must_use]
    pub fn from_level(level: LevelFilter) -> Self {
        Self { level, targets: Vec::new() }
    }

    /// Parses a comma-separated list of `LEVEL` and any number of `TARGET=LEVEL`. The default level is `info`.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let mut filter = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => filter.level = parse_level(part)?,
                Some((name, level_name)) => {
                    filter.targets.push((parse_target(name.trim())?, parse_level(level_name.trim())?));
                }
            }
        }
        Ok(filter)
    }

    /// Returns the default level.
    #[must_use]
    pub fn level(&self) -> LevelFilter {
        self.level
    }

    /// Converts the filter to `Targets`. Libraries log at most warnings and errors by default.
    pub(super) fn targets(&self) -> Targets {
        let others = self.level.min(LevelFilter::WARN);
        let targets = self.targets.iter().map(|(target, level)| (target.as_str(), *level));
        Targets::new()
            .with_default(others)
            .with_target(CRATE_TARGET, self.level)
            .with_targets(targets)
            .with_target(SPAN_TARGET, LevelFilter::ERROR)
            .with_targets(NEVER_LOGGED.map(|library| (library, LevelFilter::OFF)))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        self.targets.iter().try_for_each(|(target, level)| {
            let target = target.strip_prefix(CRATE_TARGET).and_then(|rest| rest.strip_prefix("::")).unwrap_or(target);
            write!(f, ",{target}={level}")
        })
    }
}

fn parse_level(name: &str) -> Result<LevelFilter, InvalidFilter> {
    let found = LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, level)| *level).ok_or_else(|| {
        let name = one_line(name, 40);
        let suggestion = closest_match(&name, LEVELS.map(|(known, _)| known));
        let suggestion = suggestion.map(|level| format!("; did you mean {level}?")).unwrap_or_default();
        InvalidFilter::Level(name, suggestion)
    })
}

fn parse_target(name: &str) -> Result<String, InvalidFilter> {
    let is_name = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let first = name.split("::").next().unwrap_or_default();
    if !name.split("::").all(is_name) || NEVER_LOGGED.contains(&first) {
        return Err(InvalidFilter::Target(one_line(name, 40)));
    }
    let is_full_target = first == CRATE_TARGET || LIBRARIES.contains(&first);
    Ok(if is_full_target { name.to_owned() } else { format!("{CRATE_TARGET}::{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filter_parse_accepts_levels_and_targets() {
        for (text, read) in [
            ("", "info"),
            (" WARN ", "warn"),
            ("vault=debug", "info,vault=debug"),
            ("warn, session::login=trace,tower=error", "warn,session::login=trace,tower=error"),
            (concat!("vaultmount", "::vault=off"), "info,vault=off"),
        ] {
            assert_eq!(Filter::parse(text).unwrap().to_string(), read, "{text}");
        }
        for (text, error) in [
            ("wran", "\"wran\" is not a valid level (trace, debug, info, warn, error, off); did you mean warn?"),
            ("vault=", "\"\" is not a valid level (trace, debug, info, warn, error, off)"),
            ("vault=a=b", "\"a=b\" is not a valid level (trace, debug, info, warn, error, off)"),
            (
                "a/b=info",
                "\"a/b\" is not a valid target; use a module of vaultmount, such as `vault` or `session::login`, or a library, such as `tower`",
            ),
        ] {
            assert_eq!(Filter::parse(text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn log_filter_never_enables_http_libraries() {
        for library in NEVER_LOGGED {
            assert!(Filter::parse(&format!("{library}=trace")).is_err(), "{library}");
            let targets = Filter::from_level(LevelFilter::TRACE).targets();
            assert!(!targets.would_enable(library, &tracing::Level::ERROR), "{library}");
            assert!(targets.would_enable(CRATE_TARGET, &tracing::Level::TRACE));
        }
        assert!(Filter::parse("hyper::client=trace").is_err());
    }
}
