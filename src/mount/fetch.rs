//! A mount's secrets: cached, fetched, or stale while Vault is unavailable; and the files made from them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::{
    MAX_RESPONSE_BYTES, MountContext, MountService, VolumeContents, aggregate_error::ObjectErrors,
    volume::too_large_error,
};
use crate::{
    cache::{
        CachedSecret, DueSecret, FetchOutcome, Lookup, Refresh,
        kind::{ReadSource, RotationReason, SecretKind},
    },
    error::{Cause, Code, Error},
    observe::mounts::ReadDecision,
    policy::{VaultTarget, rule_kind::RuleKind},
    render,
    request::{MountSpec, Object},
    session::Session,
    vault::{error::DEADLINE_FIX, request::SecretRequest},
};

/// One request, the objects made from its response, and its outcome.
pub(crate) struct RequestResult<'a> {
    pub(crate) request: &'a Arc<SecretRequest>,
    pub(crate) objects: Vec<&'a Object>,
    pub(crate) outcome: Result<Arc<CachedSecret>, Error>,
}

/// Extra time for inner timeouts to fire first, since their errors name the request.
const INNER_TIMEOUT_GRACE_PERIOD: Duration = Duration::from_millis(100);
/// Maximum time that a poll waits for Vault if it can serve stale secrets, and if a static credential may be rotating.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);
const ROTATION_POLL_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum size of rendered files; no driver accepts more.
const MAX_FILE_BYTES: usize = 2 * MAX_RESPONSE_BYTES;
/// Maximum number of missing paths per mount for which a suggestion is looked up.
const MAX_PATH_SUGGESTIONS: usize = 3;

impl MountService {
    /// Returns the files for every object, or one error that lists every failure.
    pub(super) async fn mount(
        &self,
        spec: &MountSpec,
        default_audience: &str,
        deadline: Instant,
    ) -> Result<VolumeContents, Error> {
        let late = || {
            Error::new(Cause::DeadlineExceeded, "deadline exceeded while reading certificate files")
                .with_fix("check their file system, and how many files the class names")
        };
        let context =
            timeout_at(deadline, self.open_context(spec, default_audience)).await.unwrap_or_else(|_| Err(late()))?;
        let mut outcome = self.read_and_render(spec, &context, deadline).await;
        match &mut outcome {
            Ok(contents) => contents.record.served_stale = context.served_stale.into_inner(),
            // Persist what was fetched: the next attempt reuses it.
            Err(error) => {
                // Only name resolution shows that an allowed host name leads to the node itself.
                if error.cause() == Cause::AddressNotAllowed {
                    self.observer.count_policy_denial(RuleKind::Address);
                }
                context.session.persist_in_background();
            }
        }
        self.reconciler.queue_exhausted_tokens(&context.session);
        outcome
    }

    async fn read_and_render(
        &self,
        spec: &MountSpec,
        context: &MountContext,
        deadline: Instant,
    ) -> Result<VolumeContents, Error> {
        let refresh = spec.class.refresh.unwrap_or(self.default_refresh);
        context.session.verify_tokens(spec.class.objects.iter().map(|object| &object.request), refresh, deadline).await;
        let (results, reused) = self.collect_secrets(spec, context, refresh, deadline).await?;
        self.record_cache_hits(spec, context, &results, &reused);
        // If a request failed, rendering did not, and a denied request is not repeated within a mount.
        let is_satisfied = results.iter().all(RequestResult::is_satisfied);
        let outcome = self.render_all(spec, &context.session, results, deadline).await;
        if !is_satisfied || outcome.as_ref().err().is_none_or(allows_stale) {
            return outcome;
        }
        // A cached response may lack a key that Vault has by now.
        if reused.iter().fold(false, |any, (request, secret)| context.session.invalidate(request, secret) | any) {
            let (results, _) = self.collect_secrets(spec, context, refresh, deadline).await?;
            return self.render_all(spec, &context.session, results, deadline).await;
        }
        outcome
    }

    /// Returns the result of each request of the class, and the secrets among them that came from the cache.
    async fn collect_secrets<'a>(
        &self,
        spec: &'a MountSpec,
        context: &MountContext,
        refresh: Refresh,
        deadline: Instant,
    ) -> Result<(Vec<RequestResult<'a>>, Vec<(&'a Arc<SecretRequest>, Arc<CachedSecret>)>), Error> {
        let (mut results, mut due, mut reused) = (Vec::new(), Vec::new(), Vec::new());
        for (request, objects) in spec.class.objects_by_request() {
            match context.session.lookup(request, refresh) {
                Lookup::Fresh(secret) => {
                    reused.push((request, Arc::clone(&secret)));
                    results.push(RequestResult { request, objects, outcome: Ok(secret) });
                }
                Lookup::Due(due_secret) => due.push((request, objects, due_secret)),
            }
        }
        if due.is_empty() {
            return Ok((results, reused));
        }
        results.extend(self.fetch_due(spec, context, due, deadline).await?);
        // These requests may have shown that the token is revoked, and with it secrets that were found fresh before.
        let (mut valid, mut revoked) = (Vec::new(), Vec::new());
        for RequestResult { request, objects, outcome } in results {
            match (context.session.lookup(request, refresh), outcome) {
                (Lookup::Due(due), Ok(_)) if due.reason == Some(RotationReason::Revoked) => {
                    revoked.push((request, objects, due));
                }
                (_, outcome) => valid.push(RequestResult { request, objects, outcome }),
            }
        }
        if !revoked.is_empty() {
            reused.retain(|(request, _)| !revoked.iter().any(|(other, ..)| other == request));
            valid.extend(self.fetch_due(spec, context, revoked, deadline).await?);
        }
        Ok((valid, reused))
    }

    /// Fetches the secrets that are due. A poll must not fail because Vault is unavailable: it is served stale secrets.
    async fn fetch_due<'a>(
        &self,
        spec: &MountSpec,
        context: &MountContext,
        due: Vec<(&'a Arc<SecretRequest>, Vec<&'a Object>, DueSecret)>,
        deadline: Instant,
    ) -> Result<Vec<RequestResult<'a>>, Error> {
        let MountContext { target, session, credentials, .. } = context;
        let late = || {
            let summary = if Instant::now() < deadline {
                format!("Vault at {} did not respond in the time that a poll waits", target.endpoint.address)
            } else {
                format!("deadline exceeded before Vault at {} responded", target.endpoint.address)
            };
            Error::new(Cause::DeadlineExceeded, summary).with_fix(DEADLINE_FIX)
        };
        let is_poll = session.has_volume(&spec.target_path);
        let can_serve_stale = due.iter().all(|(_, objects, due)| has_cached_copy(due, objects, is_poll));
        if !can_serve_stale {
            session.request_probe();
        }
        // A request that is no longer awaited continues, and its secret is cached for the next poll.
        let wait_until = if can_serve_stale {
            (deadline + INNER_TIMEOUT_GRACE_PERIOD).min(Instant::now() + poll_timeout(&due))
        } else {
            deadline + INNER_TIMEOUT_GRACE_PERIOD
        };
        let token = session.unless_outage(session.ensure_token(credentials, deadline));
        let token = timeout_at(wait_until, token).await.unwrap_or_else(|_| Err(late()));
        if let Err(error) = token {
            self.suspect_tls_files(&error, target);
            let is_stale = can_serve_stale && allows_stale(&error);
            let results: Vec<_> = due
                .into_iter()
                .filter_map(|(request, objects, due)| {
                    let secret = self.fall_back_to_stale(spec, context, (request, &objects), &error, due, is_stale)?;
                    Some(RequestResult { request, objects, outcome: Ok(secret) })
                })
                .collect();
            if !is_stale {
                return Err(error);
            }
            self.mark_stale(spec, context, &error);
            return Ok(results);
        }
        let results = join_all(due.into_iter().map(async |(request, objects, due)| {
            let outcome = session.unless_outage(session.fetch_secret(request, &due, credentials, deadline));
            let outcome = timeout_at(wait_until, outcome).await;
            match outcome.unwrap_or_else(|_| Err(late())) {
                Ok((FetchOutcome { secret, request_id }, source)) => {
                    let (before, after) = (due.previous.as_deref(), Some((&*secret, source)));
                    let (request_id, error) = (request_id.as_deref(), None);
                    let decision = ReadDecision { request, objects: &objects, before, after, request_id, error };
                    self.record_read(spec, context, &decision);
                    (Some(RequestResult { request, objects, outcome: Ok(secret) }), None)
                }
                Err(error) => {
                    self.suspect_tls_files(&error, target);
                    let is_stale = allows_stale(&error) && has_cached_copy(&due, &objects, is_poll);
                    let secret = self.fall_back_to_stale(spec, context, (request, &objects), &error, due, is_stale);
                    if is_stale {
                        (secret.map(|secret| RequestResult { request, objects, outcome: Ok(secret) }), Some(error))
                    } else {
                        (Some(RequestResult { request, objects, outcome: Err(error) }), None)
                    }
                }
            }
        }));
        let (results, stale_errors): (Vec<_>, Vec<_>) = results.await.into_iter().unzip();
        if let Some(error) = stale_errors.into_iter().flatten().next() {
            self.mark_stale(spec, context, &error);
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Returns the stale secret of a request that failed, if `is_stale` and there is one: an optional secret may have none.
    fn fall_back_to_stale(
        &self,
        spec: &MountSpec,
        context: &MountContext,
        (request, objects): (&Arc<SecretRequest>, &[&Object]),
        error: &Error,
        due: DueSecret,
        is_stale: bool,
    ) -> Option<Arc<CachedSecret>> {
        let (before, stale) = (due.previous.as_deref(), due.stale.filter(|_| is_stale));
        let after = stale.as_deref().map(|secret| (secret, ReadSource::Stale));
        let decision = ReadDecision { request, objects, before, after, request_id: None, error: Some(error) };
        self.record_read(spec, context, &decision);
        self.observer.count_reads(ReadSource::Stale, usize::from(stale.is_some()));
        stale
    }

    /// Marks a poll as served from stale secrets, and reports it.
    fn mark_stale(&self, spec: &MountSpec, context: &MountContext, error: &Error) {
        let session = &context.session;
        context.served_stale.store(true, Relaxed);
        self.observer.report_stale(spec, session, context.started_at, error);
        session.mark_refresh_failed(&spec.target_path);
        session.record_error("refreshing in a poll", error);
    }

    /// Reports the outcome of one request.
    fn record_read(&self, spec: &MountSpec, context: &MountContext, decision: &ReadDecision<'_>) {
        self.observer.record_read(spec, &context.session, self.hmac_keys.try_get().as_deref(), decision);
    }

    /// Counts the secrets that came from the cache, and reports those that are new to the volume.
    fn record_cache_hits(
        &self,
        spec: &MountSpec,
        context: &MountContext,
        results: &[RequestResult<'_>],
        reused: &[(&Arc<SecretRequest>, Arc<CachedSecret>)],
    ) {
        self.observer.count_reads(ReadSource::Cache, reused.len());
        if !self.observer.audits() {
            return;
        }
        for (request, secret) in reused {
            let Some(result) = results.iter().find(|result| result.request == *request) else { continue };
            if !context.session.has_delivered(&spec.target_path, std::iter::once(secret)) {
                let (objects, request_id) = (&*result.objects, secret.response.request_id());
                let after = Some((&**secret, ReadSource::Cache));
                let decision = ReadDecision { request, objects, before: None, after, request_id, error: None };
                self.record_read(spec, context, &decision);
            }
        }
    }

    /// Renders every object in the class's order. Returns one error that lists every failure.
    pub(crate) async fn render_all(
        &self,
        spec: &MountSpec,
        session: &Arc<Session>,
        results: Vec<RequestResult<'_>>,
        deadline: Instant,
    ) -> Result<VolumeContents, Error> {
        let mut errors = ObjectErrors::default();
        let mut secrets: HashMap<&Arc<SecretRequest>, Arc<CachedSecret>> = HashMap::new();
        let mut missing = Vec::new();
        for RequestResult { request, objects, outcome } in results {
            match outcome {
                Ok(secret) => {
                    secrets.insert(request, secret);
                }
                Err(error) => {
                    let objects: Vec<&Object> = objects.into_iter().filter(|o| !o.is_optional_miss(&error)).collect();
                    if error.cause() == Cause::SecretMissing
                        && !objects.is_empty()
                        && missing.len() < MAX_PATH_SUGGESTIONS
                    {
                        missing.push((request, error, objects));
                    } else {
                        errors.add(&error, objects);
                    }
                }
            }
        }
        let explained = missing.into_iter().map(async |(request, error, objects)| {
            (session.with_path_suggestion(request, error, deadline).await, objects)
        });
        for (error, objects) in join_all(explained).await {
            errors.add(&error, objects);
        }
        let (mut rendered, mut size) = (Vec::new(), 0);
        for object in &spec.class.objects {
            // One response named by hundreds of objects would fill the memory before the driver rejects the size.
            if size > MAX_FILE_BYTES {
                break;
            }
            let Some(secret) = secrets.get(&object.request) else { continue };
            match render::render(&object.file_spec, &secret.response) {
                Ok(files) => {
                    size += files.iter().map(|file| file.contents.len()).sum::<usize>();
                    rendered.push((object, files));
                }
                Err(error) if object.is_optional_miss(&error) => {}
                Err(error) => errors.add(&error, [object]),
            }
        }
        errors.into_result(spec.class.objects.len())?;
        if size > MAX_FILE_BYTES {
            return Err(too_large_error(
                rendered.iter().flat_map(|(_, files)| files),
                &format!("more than {MAX_FILE_BYTES}"),
            ));
        }

        // Awaited last, so that errors of the class are reported without the key.
        let keys = self.hmac_keys.get_by(deadline).await?;
        let secrets = secrets.iter().map(|(request, secret)| (Arc::clone(request), Arc::clone(secret))).collect();
        VolumeContents::new(spec, session, secrets, rendered, &keys.object_version)
    }

    /// Has the endpoint's TLS files reloaded before the next request: they may have been fixed.
    fn suspect_tls_files(&self, error: &Error, target: &VaultTarget) {
        if error.cause().is_tls() {
            self.vault.mark_tls_suspect(&target.endpoint);
        }
    }
}

/// Returns true if a poll can do without a new response: the secret is cached, or it is optional and was missing before.
fn has_cached_copy(due: &DueSecret, objects: &[&Object], is_poll: bool) -> bool {
    // A missing secret is not cached.
    let was_missing = is_poll && due.reason.is_none() && objects.iter().all(|object| object.optional);
    (is_poll && due.stale.is_some()) || was_missing
}

/// Returns the maximum time that a poll waits for secrets that it can serve stale.
fn poll_timeout(due: &[(&Arc<SecretRequest>, Vec<&Object>, DueSecret)]) -> Duration {
    // Vault is about to serve the new version of a static credential.
    let is_rotating = due.iter().any(|(_, _, due)| due.kind == Some(SecretKind::Static));
    if is_rotating { ROTATION_POLL_TIMEOUT } else { POLL_TIMEOUT }
}

/// Returns true if an error says nothing about the pod's rights, so that a poll may serve stale secrets: a transient error, an
/// untrusted server, or a redirect, as a standby sends after losing its leader.
fn allows_stale(error: &Error) -> bool {
    let cause = error.cause();
    matches!(cause.code(), Code::Unavailable | Code::DeadlineExceeded) || cause.is_tls() || cause == Cause::Redirect
}

impl RequestResult<'_> {
    /// Returns true if there is a response, or none is required.
    fn is_satisfied(&self) -> bool {
        self.outcome.as_ref().err().is_none_or(|error| self.objects.iter().all(|object| object.is_optional_miss(error)))
    }
}
