//! A poll that finds everything as it was: nobody is asked, nothing is waited for.

use super::{MountService, VolumeContents, context::session_key};
use crate::{cache::kind::ReadSource, render, request::MountSpec};

impl MountService {
    /// What a pod gets when all of it was read before and none of it is due. None when anything is otherwise, which
    /// [`Mounter::mount`] finds out and tells.
    #[must_use]
    pub fn again(&self, spec: &MountSpec, audience: &str) -> Option<VolumeContents> {
        let class = &spec.class;
        let keys = self.keys.try_get()?;
        let target = self.authorize(spec, audience).ok()?;
        let audience = class.audience.as_deref().unwrap_or(audience);
        let session = self.sessions.find(&session_key(spec, &target, audience).ok()?, &spec.pod.uid)?;
        let reads = || class.objects.iter().map(|object| &object.request);
        let leases = session.get_all_fresh(reads(), class.refresh.unwrap_or(self.refresh))?;
        // What a pod gets for the first time is told.
        if self.sessions.audit().is_enabled() && !session.has_delivered(&spec.target_path, leases.iter()) {
            return None;
        }
        let mut rendered = Vec::with_capacity(class.objects.len());
        for (object, lease) in class.objects.iter().zip(&leases) {
            match render::render(&object.file_spec, &lease.response) {
                Ok(files) => rendered.push((object, files)),
                Err(error) if object.is_optional_miss(&error) => {}
                Err(_) => return None,
            }
        }
        let mounted =
            VolumeContents::new(spec, &session, reads().cloned().zip(leases).collect(), rendered, &keys.object_version)
                .ok()?;
        self.sessions.metrics().count_secret_reads(ReadSource::Cache, class.distinct_requests);
        self.record_tenant_address(spec, &target);
        Some(mounted)
    }
}
