//! The two text formats of a scrape: `OpenMetrics` 1.0.0 and the classic Prometheus format 0.0.4.
//!
//! The client library encodes only `OpenMetrics`. The classic format is made from it, because `promtool check metrics` and
//! scrapers older than Prometheus 2.5 do not know `OpenMetrics`.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

/// Text format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus text format 0.0.4, the default.
    Classic,
    /// `OpenMetrics` text format 1.0.0.
    OpenMetrics,
}

impl TextFormat {
    /// Returns the format that an `Accept` header asks for: `OpenMetrics` if it is listed with at least the weight of
    /// `text/plain` and with a version of 0.0.1 or 1.0.0 or none; the classic format otherwise, also without a header.
    #[must_use]
    pub fn from_accept(accept: &str) -> Self {
        let (mut open_metrics, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut is_known_version) = (1.0, true);
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => is_known_version = matches!(value.trim().trim_matches('"'), "0.0.1" | "1.0.0"),
                    _ => {}
                }
            }
            match media_type.as_str() {
                "application/openmetrics-text" if is_known_version => open_metrics = f64::max(open_metrics, weight),
                "text/plain" => plain = f64::max(plain, weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Classic }
    }

    /// Returns the value of the `Content-Type` header.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns an `OpenMetrics` text in this format.
    pub(super) fn convert(self, open_metrics: String) -> String {
        match self {
            Self::Classic => to_classic(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// Converts `OpenMetrics` text to the classic format: families of counters and infos carry the suffix of their samples, infos
/// are gauges, and there is no end marker.
fn to_classic(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
        } else if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, text)) = help.take() {
                // Writing to a string cannot fail.
                let _ = writeln!(classic, "# HELP {family}{suffix} {text}");
            }
            let _ = writeln!(classic, "# TYPE {family}{suffix} {kind}");
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_header_selects_the_text_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            ("", TextFormat::Classic),
            ("*/*", TextFormat::Classic),
            ("text/plain", TextFormat::Classic),
            ("application/openmetrics-text", TextFormat::OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", TextFormat::OpenMetrics),
            ("application/openmetrics-text; version=2.0.0, text/plain", TextFormat::Classic),
            ("application/openmetrics-text; q=0", TextFormat::Classic),
            ("application/openmetrics-text; q=0.2, text/plain; q=0.5", TextFormat::Classic),
            ("application/openmetrics-text; q=high", TextFormat::Classic),
            (prometheus, TextFormat::OpenMetrics),
        ] {
            assert_eq!(TextFormat::from_accept(accept), format, "{accept}");
        }
    }

    #[test]
    fn classic_format_names_families_like_their_samples() {
        let open_metrics = "# HELP a Calls.\n# TYPE a counter\na_total{x=\"y\"} 1\n# HELP b Seconds.\n# TYPE b histogram\nb_sum 1.0\n# HELP c Version.\n# TYPE c info\nc_info{version=\"1\"} 1\n# EOF\n";
        let classic = "# HELP a_total Calls.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n# HELP b Seconds.\n# TYPE b histogram\nb_sum 1.0\n# HELP c_info Version.\n# TYPE c_info gauge\nc_info{version=\"1\"} 1\n";
        assert_eq!(TextFormat::Classic.convert(open_metrics.to_owned()), classic);
        assert_eq!(TextFormat::OpenMetrics.convert(open_metrics.to_owned()), open_metrics);
    }
}
