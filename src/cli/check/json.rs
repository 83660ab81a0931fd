//! Renders all steps as one JSON object.

use std::time::Duration;

use serde::Serialize;

use crate::check::{Step, StepOutcome};

/// `{"ok": …, "steps": […]}`. New versions may add fields, but never change or remove one.
pub(super) fn render(ok: bool, steps: &[(Step, Duration)]) -> String {
    serde_json::to_string_pretty(&CheckJson { ok, steps: steps.iter().map(StepJson::from).collect() })
        .unwrap_or_default()
}

/// All steps in JSON.
#[derive(Serialize)]
struct CheckJson<'a> {
    ok: bool,
    steps: Vec<StepJson<'a>>,
}

/// One step in JSON. Absent values are omitted.
#[derive(Serialize)]
struct StepJson<'a> {
    step: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    status: &'static str,
    detail: &'a str,
    duration_ms: u128,
    #[serde(flatten)]
    failure: Option<FailureJson<'a>>,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    id: &'static str,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

impl<'a> From<&'a (Step, Duration)> for StepJson<'a> {
    fn from((step, duration): &'a (Step, Duration)) -> Self {
        let (status, detail) = match &step.outcome {
            StepOutcome::Pass(detail) => ("ok", detail.as_str()),
            StepOutcome::Warn(detail) => ("warning", detail.as_str()),
            StepOutcome::Skip(detail) => ("skipped", detail.as_str()),
            StepOutcome::Fail(error) => ("failed", error.summary()),
        };
        let failure = match &step.outcome {
            StepOutcome::Fail(error) => Some(FailureJson {
                id: error.cause().id(),
                code: error.cause().code().to_string(),
                server_message: error.server_message(),
                fix: error.fix(),
            }),
            _ => None,
        };
        Self {
            step: step.name,
            object: step.object.as_deref(),
            status,
            detail,
            duration_ms: duration.as_millis(),
            failure,
        }
    }
}
