//! Session settings: state directory, refresh interval, node name, and orphan timeout.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    environment::Environment,
    value::{self, ConfigReport, DAY, Setting},
};

/// Default time after the last poll at which an unwatched pod counts as gone.
const DEFAULT_ORPHAN_AFTER: Duration = Duration::from_secs(60 * 60);
/// Allowed range of `--orphan-after`. Less than a minute is shorter than the driver's own poll interval.
const ORPHAN_AFTER_RANGE: RangeInclusive<Duration> = Duration::from_secs(60)..=DAY.saturating_mul(7);
/// Default maximum age of cached secrets without a lease.
const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(2 * 60);
/// Allowed range of `--refresh-interval`. A shorter interval would only load Vault, because drivers poll every two minutes.
const REFRESH_INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_secs(10)..=DAY;

/// Variable with the state directory, for `serve` and `vaultmount state`.
pub const STATE_DIR_VARIABLE: &str = "VAULTMOUNT_STATE_DIR";

/// Reads `--state-dir`.
pub(super) fn read_state_dir(value: Option<&String>, env: &Environment, report: &mut ConfigReport) -> Option<PathBuf> {
    let setting = Setting::non_empty("--state-dir", value).or_else(|| env.find_serve_variable(STATE_DIR_VARIABLE));
    report.read(setting.as_ref(), value::creatable_directory)
}

/// Reads `--node-name`.
pub(super) fn read_node_name(value: Option<&String>, env: &Environment, report: &mut ConfigReport) -> Option<String> {
    let setting = Setting::non_empty("--node-name", value).or_else(|| env.find_serve_variable("NODE_NAME"));
    report.read(setting.as_ref(), |text| value::kubernetes_name(text, "node"))
}

/// Reads `--orphan-after`.
pub(super) fn read_orphan_after(value: Option<&String>, report: &mut ConfigReport) -> Duration {
    let setting = Setting::non_empty("--orphan-after", value);
    let parse = |text: &str| value::duration_within(text, ORPHAN_AFTER_RANGE, "from 1m to 168h; write for example 1h");
    report.read(setting.as_ref(), parse).unwrap_or(DEFAULT_ORPHAN_AFTER)
}

/// Reads `--refresh-interval`.
pub(super) fn read_refresh_interval(value: Option<&String>, report: &mut ConfigReport) -> Option<Duration> {
    let setting = Setting::non_empty("--refresh-interval", value);
    let parse = |text: &str| match text {
        "never" => Ok(None),
        _ => value::duration_within(text, REFRESH_INTERVAL_RANGE, "from 10s to 24h, or never; write for example 2m")
            .map(Some),
    };
    report.read(setting.as_ref(), parse).unwrap_or(Some(DEFAULT_REFRESH_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_text(read: impl FnOnce(&mut ConfigReport)) -> String {
        let mut report = ConfigReport::default();
        read(&mut report);
        report.errors.join("\n")
    }

    #[test]
    fn orphan_after_and_refresh_interval_reject_out_of_range() {
        for (text, seconds) in
            [("1m", Some(60)), ("168h", Some(604_800)), ("", Some(3600)), ("59s", None), ("169h", None)]
        {
            let mut report = ConfigReport::default();
            let read = read_orphan_after(Some(&text.to_owned()), &mut report);
            assert_eq!(report.errors.is_empty(), seconds.is_some(), "{text}");
            assert_eq!(read.as_secs(), seconds.unwrap_or(3600), "{text}");
        }
        for (text, seconds) in [("10s", Some(10)), ("never", None), ("24h", Some(86_400)), ("", Some(120))] {
            let mut report = ConfigReport::default();
            let read = read_refresh_interval(Some(&text.to_owned()), &mut report);
            assert!(report.errors.is_empty(), "{text}: {:?}", report.errors);
            assert_eq!(read.map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["9s", "25h", "0", "often"] {
            let error = error_text(|report| {
                read_refresh_interval(Some(&text.to_owned()), report);
            });
            assert!(error.starts_with(&format!("--refresh-interval={text} is not a duration from 10s")), "{error}");
        }
    }

    #[test]
    fn node_name_flag_overrides_variable() {
        let env = Environment::new([("NODE_NAME", "node-1")]);
        for (flag, name) in [("node-2.corp", "node-2.corp"), ("", "node-1")] {
            let mut report = ConfigReport::default();
            assert_eq!(read_node_name(Some(&flag.to_owned()), &env, &mut report).as_deref(), Some(name));
        }
        let wrong = Environment::new([("NODE_NAME", "node,1")]);
        let said = error_text(|report| drop(read_node_name(None, &wrong, report)));
        assert!(said.starts_with("NODE_NAME=node,1 is not a valid node name"), "{said}");
        let none = Environment::new([("", ""); 0]);
        assert_eq!(read_node_name(None, &none, &mut ConfigReport::default()), None);
    }
}
