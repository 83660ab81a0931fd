//! Polls whose secrets are all fresh in the cache: no request is sent and nothing is awaited.

use super::{MountService, VolumeContents, context::session_key};
use crate::{cache::kind::ReadSource, render, request::MountSpec};

impl MountService {
    /// Returns a volume whose secrets are all cached and fresh. `None` if anything else is the case, which
    /// [`MountService::mount`] finds out and reports.
    #[must_use]
    pub(super) fn try_cached(&self, spec: &MountSpec, default_audience: &str) -> Option<VolumeContents> {
        let class = &spec.class;
        let keys = self.hmac_keys.try_get()?;
        let target = self.authorize(spec, default_audience).ok()?;
        let audience = class.audience.as_deref().unwrap_or(default_audience);
        let session = self.sessions.find(&session_key(spec, &target, audience).ok()?, &spec.pod.uid)?;
        let requests = || class.objects.iter().map(|object| &object.request);
        let secrets = session.get_all_fresh(requests(), class.refresh.unwrap_or(self.default_refresh))?;
        // A secret that is new to the volume needs an audit record.
        if self.observer.audits() && !session.has_delivered(&spec.target_path, secrets.iter()) {
            return None;
        }
        let mut rendered = Vec::with_capacity(class.objects.len());
        for (object, secret) in class.objects.iter().zip(&secrets) {
            match render::render(&object.file_spec, &secret.response) {
                Ok(files) => rendered.push((object, files)),
                Err(error) if object.is_optional_miss(&error) => {}
                Err(_) => return None,
            }
        }
        let secrets = requests().cloned().zip(secrets).collect();
        let contents = VolumeContents::new(spec, &session, secrets, rendered, &keys.object_version).ok()?;
        self.observer.count_reads(ReadSource::Cache, class.distinct_requests);
        self.observer.record_tenant_address(spec, &target, &self.operator);
        Some(contents)
    }
}
