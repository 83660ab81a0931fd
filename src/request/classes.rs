//! The classes of the pods on a node: what many pods ask for, poll after poll, is understood once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tokio::time::Instant;

use super::{
    CLASS_NAME, Class, MountSpec, RawRequest, attributes::Attributes, parse_pod, parse_whole, pod::DRIVER_PREFIX,
};
use crate::error::Error;

/// The most text of classes that are kept, in bytes, each counted with [`OVERHEAD`].
const MOST_TEXT: usize = 4 << 20;
/// What the shortest class takes.
const OVERHEAD: usize = 512;
/// A class that no pod was mounted of for so long is forgotten: longer than any pause between polls.
const IDLE: Duration = Duration::from_secs(600);

/// What tells classes apart: all that the driver says of the class, hashed.
type Digest = [u8; SHA256_OUTPUT_LEN];

/// Classes without mistakes, for as long as they are used.
#[derive(Default)]
pub struct Classes {
    /// Never held across an await.
    known: Mutex<HashMap<Digest, Known>>,
}

struct Known {
    class: Arc<Class>,
    size: usize,
    used: Instant,
}

impl Classes {
    /// Parses and checks a request as [`super::parse`] does, quicker if its class is known.
    pub fn parse(&self, raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
        let attributes = Attributes::parse(raw.attributes)?;
        let digest = digest(&attributes, raw.permission);
        if let Some(class) = self.find(&digest)
            && let Some(spec) = parse_pod(raw, &attributes, class)
        {
            return Ok(spec);
        }
        let spec = parse_whole(raw, &attributes)?;
        self.keep(digest, &spec.class, OVERHEAD + raw.attributes.len());
        Ok(spec)
    }

    fn find(&self, digest: &Digest) -> Option<Arc<Class>> {
        let mut known = self.lock();
        let found = known.get_mut(digest)?;
        found.used = Instant::now();
        Some(Arc::clone(&found.class))
    }

    fn keep(&self, digest: Digest, class: &Arc<Class>, size: usize) {
        let (now, mut known) = (Instant::now(), self.lock());
        known.retain(|_, known| now.saturating_duration_since(known.used) < IDLE);
        if known.values().map(|known| known.size).sum::<usize>() + size <= MOST_TEXT {
            known.insert(digest, Known { class: Arc::clone(class), size, used: now });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of everything from which a [`Class`] is made: all but what kubelet and the driver say of the pod.
fn digest(attributes: &Attributes, permission: &str) -> Digest {
    let mut hash = Context::new(&SHA256);
    let mut add = |text: &str| {
        hash.update(&text.len().to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(permission);
    for name in attributes.names().filter(|name| !name.starts_with(DRIVER_PREFIX) && *name != CLASS_NAME) {
        add(name);
        add(attributes.get(name).unwrap_or_default());
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}
