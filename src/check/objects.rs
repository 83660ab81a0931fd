//! Checks the objects of a class one by one: the request, its response, and the rendered files.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use super::{Check, EarlyStop, Step, StepOutcome, cleanup::CreatedResources, ensure_not_interrupted, format_count};
use crate::{
    cache::{self, CachedSecret, Refresh},
    error::{Cause, Error},
    mount::MountContext,
    render::{self, RenderedFile},
    request::Object,
    vault::{client::preflight::Preflight, request::SecretRequest},
};

/// Result of a request.
pub(super) enum ObjectResult {
    /// The response.
    Secret(Arc<CachedSecret>),
    /// The request was not sent, with the reason.
    Skipped(String),
    /// The request failed.
    Failed(Error),
}

/// Maximum number of file names in a line.
const MAX_DISPLAYED_FILES: usize = 8;

impl<'a> Check<'a> {
    pub(super) async fn check_objects(
        &self,
        context: &MountContext,
        on_step: &mut impl FnMut(Step),
        created: &mut CreatedResources,
        is_interrupted: &AtomicBool,
    ) -> Result<HashMap<&'a SecretRequest, ObjectResult>, EarlyStop> {
        let mut results: HashMap<&SecretRequest, ObjectResult> = HashMap::new();
        let mut engines = HashMap::new();
        let mut failed: HashMap<&SecretRequest, &str> = HashMap::new();
        for object in &self.spec.class.objects {
            if !results.contains_key(&*object.request) {
                ensure_not_interrupted(is_interrupted)?;
                let (engine, outcome) = self.send_request(context, &object.request, created).await;
                engines.insert(&*object.request, engine);
                results.insert(&*object.request, outcome);
            }
            let Some(outcome) = results.get(&*object.request) else { continue };
            let engine = engines.get(&*object.request).and_then(Option::as_deref);
            let is_failure = matches!(outcome, ObjectResult::Failed(error) if !object.is_optional_miss(error));
            let step_outcome = match failed.get(&*object.request) {
                Some(first) if is_failure => StepOutcome::Skip(format!("the same request as that of {first:?}")),
                _ => describe_result(object, outcome, engine),
            };
            if is_failure {
                failed.entry(&*object.request).or_insert(&object.file_spec.path);
            }
            on_step(Step { object: Some(object.file_spec.path.clone()), ..Step::new("object", step_outcome) });
        }
        Ok(results)
    }

    /// Sends a request, unless it is mutating and that is not allowed. Also returns the engine's name if it is known.
    async fn send_request(
        &self,
        context: &MountContext,
        request: &Arc<SecretRequest>,
        created: &mut CreatedResources,
    ) -> (Option<String>, ObjectResult) {
        let preflight_result = context.session.preflight(request, &context.credentials, self.step_deadline()).await;
        created.add_token(context);
        let (preflight, predicted_error) = match preflight_result {
            Ok(preflight) => preflight,
            Err(error) => return (None, ObjectResult::Failed(error)),
        };
        let engine = preflight.engine.as_ref().map(|engine| engine.display_name());
        if preflight.mutating && !self.allows_mutating {
            return (
                engine,
                predicted_error.map_or_else(|| ObjectResult::Skipped(skip_reason(&preflight)), ObjectResult::Failed),
            );
        }
        if preflight.mutating {
            created.add_request(request);
        }
        let outcome = match context.session.lookup(request, Refresh::Never) {
            cache::Lookup::Fresh(secret) => Ok(secret),
            cache::Lookup::Due(due) => context
                .session
                .fetch_secret(request, &due, &context.credentials, self.step_deadline())
                .await
                .map(|(fetched, _)| fetched.secret),
        };
        created.add_token(context);
        match &outcome {
            Ok(secret) if preflight.mutating => created.record_created(request, secret),
            Err(error) if preflight.mutating => created.record_possibly_created(request, error.cause()),
            _ => {}
        }
        match outcome {
            Ok(secret) => (engine, ObjectResult::Secret(secret)),
            Err(error) if error.cause() == Cause::SecretMissing => (
                engine,
                ObjectResult::Failed(context.session.with_path_suggestion(request, error, self.step_deadline()).await),
            ),
            Err(error) => (engine, ObjectResult::Failed(error)),
        }
    }
}

fn skip_reason(preflight: &Preflight) -> String {
    let why = match preflight.engine {
        Some(_) => "not sent, because it would create something",
        None => "not sent, because it may create something: Vault does not report the engine at this path",
    };
    let permission_note = if preflight.is_allowed == Some(true) { "; the policies allow it" } else { "" };
    format!("{why} (--create sends it){permission_note}")
}

impl ObjectResult {
    /// Returns true if a mount could render the object's files from the result, or omit them.
    pub(super) fn is_renderable(&self, object: &Object) -> bool {
        match self {
            Self::Secret(secret) => render::render(&object.file_spec, &secret.response)
                .map_or_else(|error| object.is_optional_miss(&error), |_| true),
            Self::Failed(error) => object.is_optional_miss(error),
            Self::Skipped(_) => false,
        }
    }
}

fn describe_result(object: &Object, result: &ObjectResult, engine: Option<&str>) -> StepOutcome {
    let secret = match result {
        ObjectResult::Secret(secret) => secret,
        ObjectResult::Skipped(why) => return StepOutcome::Skip(format!("{}: {why}", describe_request(object, engine))),
        ObjectResult::Failed(error) => return failure_outcome(object, error, engine),
    };
    match render::render(&object.file_spec, &secret.response) {
        Ok(files) => StepOutcome::Pass(format!("{}: {}", describe_request(object, engine), describe_files(&files))),
        Err(error) => failure_outcome(object, &error, engine),
    }
}

fn failure_outcome(object: &Object, error: &Error, engine: Option<&str>) -> StepOutcome {
    if object.is_optional_miss(error) {
        return StepOutcome::Pass(format!(
            "{}: {}, which `optional: true` allows",
            describe_request(object, engine),
            error.summary()
        ));
    }
    StepOutcome::Fail(Box::new(error.clone()))
}

/// Formats `GET secret/data/shop/payment (KV version 2)`.
fn describe_request(object: &Object, engine: Option<&str>) -> String {
    let request = &object.request;
    match engine {
        Some(engine) => format!("{} {} ({engine})", request.method, request.path),
        None => format!("{} {}", request.method, request.path),
    }
}

fn describe_files(files: &[RenderedFile]) -> String {
    match files {
        [] => "no files, because the secret has no keys".to_owned(),
        [file] => format!("{}, {:04o}", format_count(file.contents.len(), "byte"), file.mode),
        files => {
            let names: Vec<String> =
                files.iter().take(MAX_DISPLAYED_FILES).map(|file| format!("{:?}", file.path)).collect();
            let more = if files.len() > MAX_DISPLAYED_FILES { ", …" } else { "" };
            format!("{}: {}{more}", format_count(files.len(), "file"), names.join(", "))
        }
    }
}
