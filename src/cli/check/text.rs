//! Renders steps as text, one line each.

use std::{fmt::Write as _, time::Duration};

use crate::{
    check::{Step, StepOutcome},
    cli::style::{self, paint},
    text::replace_control_chars,
};

/// Width of the columns before a step's detail.
const DETAIL_INDENT: usize = 20;

/// Minimum duration of a step for its duration to be printed.
const SLOW_STEP_THRESHOLD: Duration = Duration::from_secs(1);

pub(super) fn render_step(step: &Step, duration: Duration) -> String {
    let subject = step.object.as_ref().map(|object| format!("{object:?}: ")).unwrap_or_default();
    let took = if duration < SLOW_STEP_THRESHOLD {
        String::new()
    } else {
        format!(" (after {:.1} s)", duration.as_secs_f64())
    };
    let (word, style, detail) = match &step.outcome {
        StepOutcome::Pass(detail) => ("ok", style::OK, detail.as_str()),
        StepOutcome::Warn(detail) => ("warn", style::WARNING, detail.as_str()),
        StepOutcome::Skip(detail) => ("skip", style::SKIPPED, detail.as_str()),
        StepOutcome::Fail(error) => ("FAIL", style::ERROR, error.summary()),
    };
    let mut line =
        format!("{:4}  {:12}  {}", paint(style, word), step.name, replace_control_chars(&format!("{subject}{detail}")));
    // An aggregate error already contains the ID and fix of each error.
    let single_error = match &step.outcome {
        StepOutcome::Fail(error) if !error.is_aggregate() => Some(error),
        _ => None,
    };
    if let Some(error) = single_error {
        let _ = write!(line, " [{}]", error.cause().id());
    }
    line += &took;
    let words = single_error.into_iter().flat_map(|e| [("it said", e.server_message()), ("fix", e.fix())]);
    for (label, words) in words {
        if let Some(words) = words {
            let _ = write!(
                line,
                "\n{:DETAIL_INDENT$}{}: {}",
                "",
                paint(style::HEADING, label),
                replace_control_chars(words)
            );
        }
    }
    line + "\n"
}
