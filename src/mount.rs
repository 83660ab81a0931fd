//! The use case: what a pod asked for becomes files.
//!
//! `MountSpec -> Target -> Session -> Lease per distinct request -> File per object -> Mounted`

mod admission;
mod aggregate_error;
mod audited;
mod cache_hit;
mod context;
pub mod keys;
mod levels;
mod recent_failures;
mod tenant_addresses;
mod volume;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use crate::{
    cache::{
        CachedSecret, DueSecret, FetchOutcome, Lookup, Refresh,
        kind::{ReadSource, RotationReason, SecretKind},
    },
    error::{Cause, Code, Error},
    kube::Kube,
    observe::events::EventReason,
    policy::{OperatorPolicy, VaultTarget, rule_kind::RuleKind},
    reconcile::Reconciler,
    render,
    request::{Class, MountSpec, Object, Pod},
    session::{Delivery, Session, SessionRegistry},
    state::Gate,
    telemetry::{Emit, elapsed_ms},
    vault::{Vault, error, request::SecretRequest},
};
pub use admission::{MountLimiter, MountPermit};
use aggregate_error::ObjectErrors;
use audited::ReadDecision;
pub(crate) use context::MountContext;
pub use keys::HmacKeys;
pub use recent_failures::RecentFailures;
pub use tenant_addresses::TenantAddressLog;
use volume::{DeliveryRecord, too_large_error};
pub use volume::{MAX_RESPONSE_BYTES, VolumeContents};

/// Mounts volumes. One per process.
pub struct MountService {
    /// What the operator set and allows.
    pub operator: OperatorPolicy,
    /// Every server.
    pub vault: Arc<Vault>,
    /// Every pod's standing.
    pub sessions: Arc<SessionRegistry>,
    /// What keeps it in the background.
    pub renewal: Arc<Reconciler>,
    /// How long plain secrets count as fresh when the class does not say.
    pub refresh: Refresh,
    /// The Kubernetes API, when this process is in a cluster.
    pub kube: Option<Arc<Kube>>,
    /// Whether tokens that the driver did not pass are asked of the Kubernetes API.
    pub mint_tokens: bool,
    /// Where the key of object versions comes from.
    pub keys: HmacKeys,
    /// Where mounts wait for what pods were given by earlier processes.
    pub gate: Gate,
    /// How many mounts are under way at once.
    pub slots: Arc<MountLimiter>,
    /// Addresses that classes chose.
    pub chosen: TenantAddressLog,
    /// What its callers were told of failures.
    pub failures: RecentFailures,
}

/// One request, the objects that want its answer, and what came of it.
pub(crate) struct RequestResult<'a> {
    pub(crate) request: &'a Arc<SecretRequest>,
    pub(crate) objects: Vec<&'a Object>,
    pub(crate) outcome: Result<Arc<CachedSecret>, Error>,
}

/// How much longer is waited for those who know what they waited for: they say which request the time ran out with.
const INNER_TIMEOUT_GRACE_PERIOD: Duration = Duration::from_millis(100);
/// How long a poll waits at most for what its pod has, only older; and when that may have been rotated meanwhile.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);
const ROTATION_POLL_TIMEOUT: Duration = Duration::from_secs(4);
/// Files of more bytes are not made: they are too many for any driver.
const MAX_FILE_BYTES: usize = 2 * MAX_RESPONSE_BYTES;
/// Paths without a secret whose neighbours are looked for at most.
const MAX_PATH_SUGGESTIONS: usize = 3;

impl MountService {
    /// Brings everything a pod asked for, or every reason why not. `audience` is asked for when the class names none.
    pub async fn mount(&self, spec: &MountSpec, audience: &str, deadline: Instant) -> Result<VolumeContents, Error> {
        let late = || {
            let what = "the caller's time ran out while certificate files were read".to_owned();
            Error::new(Cause::DeadlineExceeded, what)
                .with_fix("check the file system that they are on, and how many a class names")
        };
        let way = timeout_at(deadline, self.open_context(spec, audience)).await.unwrap_or_else(|_| Err(late()))?;
        let mut outcome = self.read_and_render(spec, &way, deadline).await;
        match &mut outcome {
            Ok(mounted) => mounted.record.served_stale = way.served_stale.into_inner(),
            // What some objects were read for waits for the next.
            Err(error) => {
                // A name that leads to the node, which only its resolution shows.
                if error.cause() == Cause::AddressNotAllowed {
                    self.sessions.metrics().count_policy_denial(RuleKind::Address);
                }
                way.session.persist_in_background();
            }
        }
        self.renewal.queue_exhausted_tokens(&way.session);
        outcome
    }

    async fn read_and_render(
        &self,
        spec: &MountSpec,
        way: &MountContext,
        deadline: Instant,
    ) -> Result<VolumeContents, Error> {
        let refresh = spec.class.refresh.unwrap_or(self.refresh);
        way.session.verify_tokens(spec.class.objects.iter().map(|object| &object.request), refresh, deadline).await;
        let (answers, reused) = self.collect_secrets(spec, way, refresh, deadline).await?;
        self.record_cache_hits(spec, way, &answers, &reused);
        // Else it is no rendering that fails, and what was refused is not asked for twice in a mount.
        let had = answers.iter().all(RequestResult::is_satisfied);
        let outcome = self.render_all(spec, &way.session, answers, deadline).await;
        if !had || outcome.as_ref().err().is_none_or(allows_stale) {
            return outcome;
        }
        // What was read earlier may lack what Vault has by now.
        if reused.iter().fold(false, |any, (read, lease)| way.session.invalidate(read, lease) | any) {
            let (answers, _) = self.collect_secrets(spec, way, refresh, deadline).await?;
            return self.render_all(spec, &way.session, answers, deadline).await;
        }
        outcome
    }

    /// The answer to each request of the class, and those that were not asked for now.
    async fn collect_secrets<'a>(
        &self,
        spec: &'a MountSpec,
        way: &MountContext,
        refresh: Refresh,
        deadline: Instant,
    ) -> Result<(Vec<RequestResult<'a>>, Vec<(&'a Arc<SecretRequest>, Arc<CachedSecret>)>), Error> {
        let (mut answers, mut due, mut reused) = (Vec::new(), Vec::new(), Vec::new());
        for (read, objects) in spec.class.objects_by_request() {
            match way.session.lookup(read, refresh) {
                Lookup::Fresh(lease) => {
                    reused.push((read, Arc::clone(&lease)));
                    answers.push(RequestResult { request: read, objects, outcome: Ok(lease) });
                }
                Lookup::Due(one) => due.push((read, objects, one)),
            }
        }
        if due.is_empty() {
            return Ok((answers, reused));
        }
        answers.extend(self.fetch_due(spec, way, due, deadline).await?);
        // That a token is gone may have shown only now, and what hung on it was found good before.
        let (mut good, mut gone) = (Vec::new(), Vec::new());
        for RequestResult { request: read, objects, outcome } in answers {
            match (way.session.lookup(read, refresh), outcome) {
                (Lookup::Due(due), Ok(_)) if due.reason == Some(RotationReason::Revoked) => {
                    gone.push((read, objects, due))
                }
                (_, outcome) => good.push(RequestResult { request: read, objects, outcome }),
            }
        }
        if !gone.is_empty() {
            reused.retain(|(read, _)| !gone.iter().any(|(other, ..)| other == read));
            good.extend(self.fetch_due(spec, way, gone, deadline).await?);
        }
        Ok((good, reused))
    }

    /// Asks Vault for what is due. When it cannot be asked, the pod keeps what it has: a poll must not fail for that.
    async fn fetch_due<'a>(
        &self,
        spec: &MountSpec,
        way: &MountContext,
        due: Vec<(&'a Arc<SecretRequest>, Vec<&'a Object>, DueSecret)>,
        deadline: Instant,
    ) -> Result<Vec<RequestResult<'a>>, Error> {
        let MountContext { target, session, credentials: prover, .. } = way;
        let late = || {
            let what = if Instant::now() < deadline {
                format!("Vault at {} did not answer in the time that a poll waits", target.endpoint.address)
            } else {
                format!("the caller's time ran out before Vault at {} answered", target.endpoint.address)
            };
            Error::new(Cause::DeadlineExceeded, what).with_fix(error::DEADLINE_FIX)
        };
        let polled = session.has_volume(&spec.target_path);
        let stays = due.iter().all(|(_, objects, due)| has_cached_copy(due, objects, polled));
        if !stays {
            session.request_probe();
        }
        // Also what is not waited for any longer goes on, and is there for the next poll.
        let patience = if stays {
            (deadline + INNER_TIMEOUT_GRACE_PERIOD).min(Instant::now() + poll_timeout(&due))
        } else {
            deadline + INNER_TIMEOUT_GRACE_PERIOD
        };
        let opened = session.unless_outage(session.ensure_token(prover, deadline));
        let opened = timeout_at(patience, opened).await.unwrap_or_else(|_| Err(late()));
        if let Err(error) = opened {
            self.suspect_tls_files(&error, target);
            let keeps = stays && allows_stale(&error);
            let kept: Vec<_> = due
                .into_iter()
                .filter_map(|(read, objects, due)| {
                    let lease = self.fall_back_to_stale(spec, way, (read, &objects), &error, due, keeps)?;
                    Some(RequestResult { request: read, objects, outcome: Ok(lease) })
                })
                .collect();
            if !keeps {
                return Err(error);
            }
            self.report_stale(spec, way, &error);
            return Ok(kept);
        }
        let answers = join_all(due.into_iter().map(async |(read, objects, due)| {
            let outcome = session.unless_outage(session.fetch_secret(read, &due, prover, deadline));
            let outcome = timeout_at(patience, outcome).await;
            match outcome.unwrap_or_else(|_| Err(late())) {
                Ok((FetchOutcome { secret: lease, request_id }, from)) => {
                    let (before, after) = (due.previous.as_deref(), Some((&*lease, from)));
                    let (request_id, error) = (request_id.as_deref(), None);
                    self.record_read(
                        spec,
                        way,
                        &ReadDecision { request: read, objects: &objects, before, after, request_id, error },
                    );
                    (Some(RequestResult { request: read, objects, outcome: Ok(lease) }), None)
                }
                Err(error) => {
                    self.suspect_tls_files(&error, target);
                    let keeps = allows_stale(&error) && has_cached_copy(&due, &objects, polled);
                    let kept = self.fall_back_to_stale(spec, way, (read, &objects), &error, due, keeps);
                    if keeps {
                        (kept.map(|lease| RequestResult { request: read, objects, outcome: Ok(lease) }), Some(error))
                    } else {
                        (Some(RequestResult { request: read, objects, outcome: Err(error) }), None)
                    }
                }
            }
        }));
        let (answers, passed): (Vec<_>, Vec<_>) = answers.await.into_iter().unzip();
        if let Some(error) = passed.into_iter().flatten().next() {
            self.report_stale(spec, way, &error);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// What stands for an answer that could not be had, if the pod `keeps` what it has: that; or nothing, if it has nothing and
    /// needs none.
    fn fall_back_to_stale(
        &self,
        spec: &MountSpec,
        way: &MountContext,
        (read, objects): (&Arc<SecretRequest>, &[&Object]),
        error: &Error,
        due: DueSecret,
        keeps: bool,
    ) -> Option<Arc<CachedSecret>> {
        let (before, kept) = (due.previous.as_deref(), due.stale.filter(|_| keeps));
        let after = kept.as_deref().map(|lease| (lease, ReadSource::Stale));
        let decided = ReadDecision { request: read, objects, before, after, request_id: None, error: Some(error) };
        self.record_read(spec, way, &decided);
        self.sessions.metrics().count_secret_reads(ReadSource::Stale, usize::from(kept.is_some()));
        kept
    }

    /// Says that a pod keeps what it has, as Vault could not be asked.
    fn report_stale(&self, spec: &MountSpec, way: &MountContext, error: &Error) {
        let session = &way.session;
        way.served_stale.store(true, Relaxed);
        let text = || format!("the pod keeps what it has: {error}");
        self.sessions.events().emit(|| audited::subject(&spec.pod), EventReason::RefreshFailed, text);
        session.mark_refresh_failed(&spec.target_path);
        self.sessions.metrics().count_stale_poll(error.cause());
        session.record_error("refreshing in a poll", error);
        // An outage that is known was said when it began.
        let (polls, is_told) = match self.sessions.stale_polls().record(spec.target_path.clone(), error.fingerprint()) {
            Emit::First => (None, session.outage().is_none()),
            Emit::Summary(polls) => (Some(polls), true),
            Emit::Suppress => (None, false),
        };
        let (code, objects) =
            (error.cause().code().as_str(), tracing::field::display(spec.class.display_object_names()));
        let (endpoint, duration_ms) =
            (tracing::field::display(&way.target.endpoint.address), elapsed_ms(way.started_at));
        if is_told {
            tracing::warn!(code, objects, endpoint, duration_ms, polls, "the pod keeps what it has: {error}");
        } else {
            tracing::debug!(code, objects, endpoint, duration_ms, "the pod keeps what it has: {error}");
        }
    }

    /// A mount's files are on their way to the pod. Whether any is new to it.
    #[must_use]
    pub fn delivered(&self, mounted: &VolumeContents) -> bool {
        let DeliveryRecord { session, pod_uid, target_path, class, secrets: leases, served_stale: keeps, .. } =
            &mounted.record;
        let delivery = Delivery { pod_uid, target_path, class, secrets: leases, served_stale: *keeps };
        let new = self.sessions.record_delivery(session, &delivery);
        self.renewal.schedule(session);
        new
    }

    /// A mount went well that may have failed before. Tells the pod's owner, if it had, or if the pod had kept what it had, now
    /// or under an earlier process.
    pub fn went_well(&self, pod: &Pod, mounted: &VolumeContents, had_failed: bool) {
        let DeliveryRecord { served_stale: keeps, target_path, session, .. } = &mounted.record;
        if *keeps {
            return;
        }
        let had_kept = self.sessions.stale_polls().clear(target_path).is_some();
        let otherwise = (had_failed || had_kept).then_some(EventReason::RefreshRecovered);
        if let Some(why) = session.take_refresh_recovery(target_path).or(otherwise) {
            self.emit_recovery(pod, why);
        }
    }

    /// Keeps what a mount brought for a successor of this process, before it goes out. An error when another process has taken
    /// over, which would not know.
    pub async fn keep(&self, mounted: &VolumeContents) -> Result<(), Error> {
        mounted.record.session.persist().await
    }

    /// The same without waiting for it.
    pub fn keep_soon(&self, mounted: &VolumeContents) {
        mounted.record.session.persist_in_background();
    }

    /// Renders every object, in the class's order, and collects everything that is wrong.
    pub(crate) async fn render_all(
        &self,
        spec: &MountSpec,
        session: &Arc<Session>,
        answers: Vec<RequestResult<'_>>,
        deadline: Instant,
    ) -> Result<VolumeContents, Error> {
        let mut failures = ObjectErrors::default();
        let mut leases: HashMap<&Arc<SecretRequest>, Arc<CachedSecret>> = HashMap::new();
        let mut misses = Vec::new();
        for RequestResult { request: read, objects, outcome } in answers {
            match outcome {
                Ok(lease) => {
                    leases.insert(read, lease);
                }
                Err(error) => {
                    let objects: Vec<&Object> = objects.into_iter().filter(|o| !o.is_optional_miss(&error)).collect();
                    if error.cause() == Cause::SecretMissing
                        && !objects.is_empty()
                        && misses.len() < MAX_PATH_SUGGESTIONS
                    {
                        misses.push((read, error, objects));
                    } else {
                        failures.add(&error, objects);
                    }
                }
            }
        }
        let looked = misses
            .into_iter()
            .map(async |(read, error, objects)| (session.with_path_suggestion(read, error, deadline).await, objects));
        for (error, objects) in join_all(looked).await {
            failures.add(&error, objects);
        }
        let (mut rendered, mut size) = (Vec::new(), 0);
        for object in &spec.class.objects {
            // No driver takes that: one answer that hundreds of objects name would fill the memory first.
            if size > MAX_FILE_BYTES {
                break;
            }
            let Some(lease) = leases.get(&object.request) else { continue };
            match render::render(&object.file_spec, &lease.response) {
                Ok(files) => {
                    size += files.iter().map(|file| file.contents.len()).sum::<usize>();
                    rendered.push((object, files));
                }
                Err(error) if object.is_optional_miss(&error) => {}
                Err(error) => failures.add(&error, [object]),
            }
        }
        failures.into_result(spec.class.objects.len())?;
        if size > MAX_FILE_BYTES {
            return Err(too_large_error(
                rendered.iter().flat_map(|(_, files)| files),
                &format!("more than {MAX_FILE_BYTES}"),
            ));
        }

        // Only now, so that what is wrong with the class is told without the key.
        let keys = self.keys.get_by(deadline).await?;
        let leases = leases.iter().map(|(read, lease)| (Arc::clone(read), Arc::clone(lease))).collect();
        VolumeContents::new(spec, session, leases, rendered, &keys.object_version)
    }

    /// A certificate that was not trusted may be trusted after the files were mended: read them again next time.
    fn suspect_tls_files(&self, error: &Error, target: &VaultTarget) {
        if error.cause().is_tls() {
            self.vault.mark_tls_suspect(&target.endpoint);
        }
    }
}

/// Whether the pod can go on without a new answer: it has one, or had none and needs none.
fn has_cached_copy(due: &DueSecret, objects: &[&Object], polled: bool) -> bool {
    // What was not there is not remembered.
    let has_none = polled && due.reason.is_none() && objects.iter().all(|object| object.optional);
    (polled && due.stale.is_some()) || has_none
}

/// How long a poll waits at most for what it can go on without.
fn poll_timeout(due: &[(&Arc<SecretRequest>, Vec<&Object>, DueSecret)]) -> Duration {
    // Of a static credential the pod may have the old one, and Vault has the new one in a moment.
    let rotates = due.iter().any(|(_, _, due)| due.kind == Some(SecretKind::Static));
    if rotates { ROTATION_POLL_TIMEOUT } else { POLL_TIMEOUT }
}

/// Whether a failure to ask Vault leaves the pod with what it has: one that may pass, a server that is not to be trusted, or one
/// that sends elsewhere, as a standby does whose leader has just gone; and no verdict about the pod.
fn allows_stale(error: &Error) -> bool {
    let cause = error.cause();
    matches!(cause.code(), Code::Unavailable | Code::DeadlineExceeded) || cause.is_tls() || cause == Cause::Redirect
}

impl Class {
    /// The distinct requests in the class's order, and the objects that want each one's answer.
    pub(crate) fn objects_by_request(&self) -> Vec<(&Arc<SecretRequest>, Vec<&Object>)> {
        let (mut reads, mut places) = (Vec::<(&Arc<SecretRequest>, Vec<&Object>)>::new(), HashMap::new());
        for object in &self.objects {
            let place = *places.entry(&object.request).or_insert(reads.len());
            match reads.get_mut(place) {
                Some((_, objects)) => objects.push(object),
                None => reads.push((&object.request, vec![object])),
            }
        }
        reads
    }
}

impl RequestResult<'_> {
    /// Whether there is an answer, or none must be.
    fn is_satisfied(&self) -> bool {
        self.outcome.as_ref().err().is_none_or(|error| self.objects.iter().all(|object| object.is_optional_miss(error)))
    }
}

impl Object {
    /// Whether this failure only says that there is nothing, and the class said that may be.
    pub(crate) fn is_optional_miss(&self, error: &Error) -> bool {
        self.optional
            && matches!(
                error.cause(),
                Cause::SecretMissing | Cause::VersionDeleted | Cause::Kv1Path | Cause::KeyMissing | Cause::KeyNested
            )
    }
}
