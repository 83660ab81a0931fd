//! Performs a mount step by step without a pod, and reports each step's result, error and fix.

mod cleanup;
mod connectivity;
mod login;
mod objects;

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::SignedDuration;
use tokio::time::{Instant, timeout};

use crate::{
    error::Error,
    mount::{MountContext, MountService, RequestResult, VolumeContents},
    request::MountSpec,
    vault::request::SecretRequest,
};
use cleanup::CreatedResources;
use objects::ObjectResult;

/// A check of one mount.
pub struct Check<'a> {
    /// Service that would perform the mount.
    pub mount_service: &'a MountService,
    /// The mount request.
    pub spec: &'a MountSpec,
    /// Default audience of classes.
    pub default_audience: &'a str,
    /// Allows mutating requests to be sent.
    pub allows_mutating: bool,
    /// Origin of the service account token, for display.
    pub token_source: String,
    /// Reason for a missing service account token, if it is known.
    pub missing_token_error: Option<Error>,
    /// Timeout of one step.
    pub step_timeout: Duration,
}

/// One step of a check.
#[derive(Debug)]
pub struct Step {
    /// Name of the step: `address`, `TLS`, `health`, `token`, `login`, `object`, `files`, `clean-up`.
    pub name: &'static str,
    /// File of the object, if the step is about an object.
    pub object: Option<String>,
    /// Result of the step.
    pub outcome: StepOutcome,
    /// True if the step's duration is included in that of the next step.
    pub is_timed_with_next: bool,
}

/// Result of a step.
#[derive(Debug)]
pub enum StepOutcome {
    /// The step passed, with the action and its result.
    Pass(String),
    /// The step passed with a warning.
    Warn(String),
    /// The step was skipped, with the reason.
    Skip(String),
    /// The step failed, as the mount would.
    Fail(Box<Error>),
}

impl Step {
    /// Creates a step without an object.
    #[must_use]
    pub fn new(name: &'static str, outcome: StepOutcome) -> Self {
        Self { name, object: None, outcome, is_timed_with_next: false }
    }

    fn timed_with_next(self) -> Self {
        Self { is_timed_with_next: true, ..self }
    }

    fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, StepOutcome::Pass(detail.into()))
    }

    fn warn(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, StepOutcome::Warn(detail.into()))
    }

    fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, StepOutcome::Skip(detail.into()))
    }

    /// Creates a failed step without an object.
    #[must_use]
    pub fn fail(name: &'static str, error: Error) -> Self {
        Self::new(name, StepOutcome::Fail(Box::new(error)))
    }
}

/// Reason for stopping a check early.
enum EarlyStop {
    /// A step failed that all later steps need.
    StepFailed(Step),
    /// The user interrupted the check.
    Interrupted,
}

impl From<Step> for EarlyStop {
    fn from(step: Step) -> Self {
        Self::StepFailed(step)
    }
}

/// Time that an interrupted check waits for responses to requests in flight.
const INTERRUPT_GRACE_PERIOD: Duration = Duration::from_secs(2);

fn ensure_not_interrupted(is_interrupted: &AtomicBool) -> Result<(), EarlyStop> {
    if is_interrupted.load(Relaxed) { Err(EarlyStop::Interrupted) } else { Ok(()) }
}

impl Check<'_> {
    /// Runs the steps until one fails that all later steps need, or until `interrupted`, then cleans up created resources. Calls
    /// `on_step` after each step. `check_size` fails if the driver would reject the files. Returns false if it was interrupted.
    pub async fn run(
        &self,
        mut on_step: impl FnMut(Step),
        check_size: impl Fn(&VolumeContents) -> Result<(), Error>,
        interrupted: impl Future<Output = ()>,
    ) -> bool {
        let context = match self.mount_service.open_context(self.spec, self.default_audience).await {
            Ok(context) => context,
            Err(error) => {
                let name = if error.cause().is_tls() { "TLS" } else { "address" };
                on_step(Step::fail(name, error));
                on_step(Step::skip("the rest", "not reached"));
                return true;
            }
        };
        let mut created = CreatedResources::default();
        let is_interrupted = AtomicBool::new(false);
        let outcome = {
            let mut steps = pin!(self.run_steps(&context, &mut on_step, &check_size, &mut created, &is_interrupted));
            tokio::select! {
                outcome = &mut steps => outcome,
                () = interrupted => {
                    is_interrupted.store(true, Relaxed);
                    // Requests in flight may still be answered, and are then known for the clean-up.
                    timeout(INTERRUPT_GRACE_PERIOD, steps).await.unwrap_or(Err(EarlyStop::Interrupted))
                }
            }
        };
        let finished = !matches!(outcome, Err(EarlyStop::Interrupted));
        match outcome {
            Ok(()) => {}
            Err(EarlyStop::StepFailed(step)) => {
                on_step(step);
                on_step(Step::skip("the rest", "not reached"));
            }
            Err(EarlyStop::Interrupted) => on_step(Step::skip("the rest", "interrupted")),
        }
        created.add_token(&context);
        self.clean_up(&context, &created, &mut on_step).await;
        finished
    }

    async fn run_steps(
        &self,
        context: &MountContext,
        on_step: &mut impl FnMut(Step),
        check_size: impl Fn(&VolumeContents) -> Result<(), Error>,
        created: &mut CreatedResources,
        is_interrupted: &AtomicBool,
    ) -> Result<(), EarlyStop> {
        self.check_connectivity(context, on_step).await?;
        on_step(self.check_token()?);
        ensure_not_interrupted(is_interrupted)?;
        let login_result = context.session.ensure_token(&context.credentials, self.step_deadline()).await;
        created.add_token(context);
        login_result.map_err(|error| Step::fail("login", error))?;
        if let Some(token) = context.session.last_login_token() {
            on_step(self.login_step(context, &token));
        }
        let results = self.check_objects(context, on_step, created, is_interrupted).await?;
        on_step(self.check_files(context, &results, check_size).await);
        Ok(())
    }

    /// Checks all files together. Includes only objects that can be rendered or are optional and missing.
    async fn check_files(
        &self,
        context: &MountContext,
        results: &HashMap<&SecretRequest, ObjectResult>,
        check_size: impl Fn(&VolumeContents) -> Result<(), Error>,
    ) -> Step {
        let mut spec = self.spec.clone();
        let class = Arc::make_mut(&mut spec.class);
        class.objects.retain(|object| results.get(&*object.request).is_some_and(|result| result.is_renderable(object)));
        let missing_count = self.spec.class.objects.len() - spec.class.objects.len();
        if spec.class.objects.is_empty() {
            return Step::skip("files", "no object was read");
        }
        let request_results = spec.class.objects_by_request().into_iter().filter_map(|(request, objects)| {
            let outcome = match results.get(&**request)? {
                ObjectResult::Secret(secret) => Ok(Arc::clone(secret)),
                ObjectResult::Failed(error) => Err(error.clone()),
                ObjectResult::Skipped(_) => return None,
            };
            Some(RequestResult { request, objects, outcome })
        });
        let contents = self
            .mount_service
            .render_all(&spec, &context.session, request_results.collect(), self.step_deadline())
            .await;
        match contents.and_then(|mounted| check_size(&mounted).map(|()| mounted)) {
            Err(error) => Step::fail("files", error),
            Ok(mounted) => {
                let bytes = mounted.files.iter().map(|file| file.contents.len()).sum::<usize>();
                let detail =
                    format!("{} in all, {}", format_count(mounted.files.len(), "file"), format_count(bytes, "byte"));
                match missing_count {
                    0 => Step::pass("files", detail),
                    _ => Step::pass(
                        "files",
                        format!("{detail}, without those of {}", format_count(missing_count, "object")),
                    ),
                }
            }
        }
    }

    fn step_deadline(&self) -> Instant {
        Instant::now() + self.step_timeout
    }
}

/// Formats `1 file` or `2 files`.
fn format_count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Formats seconds as `59m 3s`.
fn format_seconds(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds))
}
