//! Cache of parsed classes on a node: a class that many pods use is parsed once, not at every poll.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tokio::time::Instant;

use super::{
    CLASS_NAME_ATTRIBUTE, Class, MountSpec, Object, RawRequest, attributes::Attributes, parse_uncached,
    parse_with_cached_class, pod::DRIVER_ATTRIBUTE_PREFIX,
};
use crate::{error::Error, render::Selector, vault::request::SecretRequest};

/// The memory limit of all cached classes, in bytes: a thousand of the usual size. Other classes are parsed at each
/// poll, which doubles the poll's cost. A full cache evicts no class for another. Polls are cyclic, so the least
/// recently used class is the next one needed.
const MAX_CLASS_CACHE_BYTES: usize = 4 << 20;
/// The memory limit of one cached class, in bytes.
const MAX_CACHED_CLASS_BYTES: usize = MAX_CLASS_CACHE_BYTES / 16;
/// The idle time after which a class is evicted; longer than the usual poll intervals.
const CLASS_CACHE_IDLE_TTL: Duration = Duration::from_secs(600);
/// The minimum time between sweeps for idle classes. Lookups trigger the sweep.
const CLASS_CACHE_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The cache key: a hash of everything that the driver sends about the class.
type ClassDigest = [u8; SHA256_OUTPUT_LEN];

/// Cache of classes without mistakes, kept while they are in use.
pub struct ClassCache {
    /// Never held across an await.
    state: Mutex<CacheState>,
}

struct CacheState {
    entries: HashMap<ClassDigest, CachedClass>,
    /// The estimated size of all entries, in bytes.
    total_bytes: usize,
    swept_at: Instant,
}

struct CachedClass {
    class: Arc<Class>,
    estimated_bytes: usize,
    used_at: Instant,
}

impl Default for ClassCache {
    fn default() -> Self {
        Self { state: Mutex::new(CacheState { entries: HashMap::new(), total_bytes: 0, swept_at: Instant::now() }) }
    }
}

impl ClassCache {
    /// Parses and checks a request as [`super::parse`] does, but faster if its class is cached.
    pub fn parse(&self, raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
        let attributes = Attributes::parse(raw.attributes)?;
        let digest = class_digest(&attributes, raw.permission);
        let cached_class = self.lock().get(&digest);
        if let Some(spec) = cached_class.and_then(|class| parse_with_cached_class(raw, &attributes, class)) {
            return Ok(spec);
        }
        let spec = parse_uncached(raw, &attributes)?;
        let estimated_bytes = estimate_bytes(&spec.class, raw);
        if estimated_bytes <= MAX_CACHED_CLASS_BYTES {
            self.lock().insert(digest, &spec.class, estimated_bytes);
        }
        Ok(spec)
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheState {
    fn get(&mut self, digest: &ClassDigest) -> Option<Arc<Class>> {
        let now = Instant::now();
        if now.saturating_duration_since(self.swept_at) >= CLASS_CACHE_SWEEP_INTERVAL {
            self.swept_at = now;
            self.entries.retain(|_, entry| now.saturating_duration_since(entry.used_at) < CLASS_CACHE_IDLE_TTL);
            self.total_bytes = self.entries.values().map(|entry| entry.estimated_bytes).sum();
        }
        let entry = self.entries.get_mut(digest)?;
        entry.used_at = now;
        Some(Arc::clone(&entry.class))
    }

    fn insert(&mut self, digest: ClassDigest, class: &Arc<Class>, estimated_bytes: usize) {
        if self.total_bytes + estimated_bytes <= MAX_CLASS_CACHE_BYTES
            && let hash_map::Entry::Vacant(vacant) = self.entries.entry(digest)
        {
            vacant.insert(CachedClass { class: Arc::clone(class), estimated_bytes, used_at: Instant::now() });
            self.total_bytes += estimated_bytes;
        }
    }
}

/// Returns an upper estimate of a class's size, in bytes. YAML aliases can make its objects much larger than its text.
fn estimate_bytes(class: &Class, raw: &RawRequest<'_>) -> usize {
    let objects = class.objects.iter().map(|object| {
        let Object { request: read, file_spec: recipe, version_config, .. } = object;
        let select = match &recipe.selector {
            Selector::Key(text) | Selector::Pointer(text) => text.len(),
            Selector::FullResponse | Selector::AllKeys | Selector::Formatted(_) => 0,
        };
        let secret = [Some(version_config), read.query.as_ref(), read.body.as_ref()];
        let secret: usize = secret.into_iter().flatten().map(|text| text.expose().len()).sum();
        size_of::<Object>() + size_of::<SecretRequest>() + read.path.len() + recipe.path.len() + select + secret
    });
    size_of::<Class>() + raw.attributes.len() + objects.sum::<usize>()
}

/// Hashes all inputs of a [`Class`]: the permission, and every attribute except those that kubelet and the driver add
/// about the pod.
fn class_digest(attributes: &Attributes, permission: &str) -> ClassDigest {
    let mut hash = Context::new(&SHA256);
    let mut add = |text: &str| {
        hash.update(&text.len().to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(permission);
    for name in
        attributes.names().filter(|name| !name.starts_with(DRIVER_ATTRIBUTE_PREFIX) && *name != CLASS_NAME_ATTRIBUTE)
    {
        add(name);
        add(attributes.get(name).unwrap_or_default());
    }
    let mut digest = ClassDigest::default();
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OBJECTS: &str = "- {objectName: a, secretPath: secret/data/a, secretKey: pass}";

    /// The attributes that the driver sends for a pod of a class.
    struct RequestBuilder(BTreeMap<String, String>, &'static str);

    impl RequestBuilder {
        fn for_pod(pod: &str) -> Self {
            let uid = format!("uid-of-{pod}");
            let tokens = format!(r#"{{"vault":{{"token":"token-of-{pod}"}}}}"#);
            let attributes = [
                ("roleName", "app"),
                ("objects", OBJECTS),
                ("secretProviderClass", "db"),
                ("csi.storage.k8s.io/pod.name", pod),
                ("csi.storage.k8s.io/pod.namespace", "shop"),
                ("csi.storage.k8s.io/pod.uid", &uid),
                ("csi.storage.k8s.io/serviceAccount.name", "web"),
                ("csi.storage.k8s.io/serviceAccount.tokens", &tokens),
            ];
            Self(attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), "420")
        }

        fn with(mut self, name: &str, value: &str) -> Self {
            self.0.insert(name.to_owned(), value.to_owned());
            self
        }

        fn parse(&self, classes: &ClassCache) -> Result<MountSpec, Error> {
            let attributes = serde_json::to_string(&self.0).unwrap();
            let target_path = "/pods/mount";
            classes.parse(&RawRequest { attributes: &attributes, secrets: "{}", target_path, permission: self.1 })
        }
    }

    #[test]
    fn class_cache_shares_class_but_not_pod_and_tokens() {
        let classes = ClassCache::default();
        let one = RequestBuilder::for_pod("one").parse(&classes).unwrap();
        let two = RequestBuilder::for_pod("two").with("secretProviderClass", "").parse(&classes).unwrap();
        assert!(Arc::ptr_eq(&one.class, &two.class));
        assert_eq!((two.pod.name.as_str(), two.pod.uid.as_str(), two.class_name.as_str()), ("two", "uid-of-two", ""));
        assert_eq!(two.tokens.for_audience("vault").unwrap().expose(), "token-of-two");
    }

    #[test]
    fn class_cache_misses_on_any_changed_parameter() {
        let classes = ClassCache::default();
        let known = RequestBuilder::for_pod("one").parse(&classes).unwrap().class;
        let objects = OBJECTS.replace("/a,", "/b,");
        let others =
            [("roleName", "other"), ("objects", &objects), ("audience", "x"), ("vaultNamespace", "n"), ("typo", "")];
        let others = others.map(|(name, value)| RequestBuilder::for_pod("one").with(name, value));
        for other in others.into_iter().chain([RequestBuilder(RequestBuilder::for_pod("one").0, "256")]) {
            let class = other.parse(&classes).unwrap().class;
            let alone = other.parse(&ClassCache::default()).unwrap().class;
            assert!(!Arc::ptr_eq(&known, &class), "{:?}", other.0);
            assert_eq!(format!("{class:?}"), format!("{alone:?}"));
        }
        // The boundary between one value and the next name also enters the digest.
        let one = RequestBuilder::for_pod("one").with("a", "bc").parse(&classes).unwrap().class;
        assert!(!Arc::ptr_eq(&one, &RequestBuilder::for_pod("one").with("ab", "c").parse(&classes).unwrap().class));
    }

    #[test]
    fn class_cache_hit_does_not_change_request_errors() {
        let classes = ClassCache::default();
        RequestBuilder::for_pod("one").with("typo", "").parse(&classes).unwrap();
        for name in ["csi.storage.k8s.io/pod.uid", "csi.storage.k8s.io/serviceAccount.tokens"] {
            let invalid =
                RequestBuilder::for_pod("one").with("typo", "").with(name, "").with("csi.storage.k8s.io/pod.name", "");
            let message = invalid.parse(&classes).unwrap_err().to_string();
            assert_eq!(message, invalid.parse(&ClassCache::default()).unwrap_err().to_string());
            assert!(message.contains("pod.name"), "{message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn class_cache_evicts_idle_class() {
        let classes = ClassCache::default();
        let first = RequestBuilder::for_pod("one").parse(&classes).unwrap().class;
        for _ in 0..3 {
            tokio::time::advance(CLASS_CACHE_IDLE_TTL * 2 / 3).await;
            assert!(Arc::ptr_eq(&first, &RequestBuilder::for_pod("one").parse(&classes).unwrap().class));
        }
        let weak = Arc::downgrade(&first);
        drop(first);
        tokio::time::advance(CLASS_CACHE_IDLE_TTL).await;
        // A cached or invalid request is enough to trigger the sweep.
        RequestBuilder::for_pod("one").with("objects", "").parse(&classes).unwrap_err();
        assert!(weak.upgrade().is_none());
        assert_eq!(classes.lock().total_bytes, 0);
    }

    #[test]
    fn class_cache_size_is_bounded() {
        let classes = ClassCache::default();
        let long = format!("# {}\n{OBJECTS}", "x".repeat(MAX_CACHED_CLASS_BYTES / 2));
        for i in 0..50 {
            RequestBuilder::for_pod("one")
                .with("objects", &long)
                .with("roleName", &i.to_string())
                .parse(&classes)
                .unwrap();
        }
        let state = classes.lock();
        assert!(
            state.entries.len() > 16 && state.total_bytes <= MAX_CLASS_CACHE_BYTES,
            "{} {}",
            state.entries.len(),
            state.total_bytes
        );
        assert_eq!(state.total_bytes, state.entries.values().map(|entry| entry.estimated_bytes).sum::<usize>());
    }

    #[test]
    fn class_cache_skips_class_grown_large_by_yaml_aliases() {
        let classes = ClassCache::default();
        let same =
            format!("&b {{objectName: o, method: PUT, secretPath: p, secretArgs: {{k: {:?}}}}}", "<".repeat(2000));
        let more: Vec<_> = (0..100).map(|i| format!("- {{<<: *b, objectName: o{i}}}")).collect();
        let objects = format!("- {same}\n{}", more.join("\n"));
        assert!(objects.len() < 8 << 10);
        let class = RequestBuilder::for_pod("one").with("objects", &objects).parse(&classes).unwrap().class;
        assert_eq!(class.objects.len(), 101);
        assert!(classes.lock().entries.is_empty());
    }
}
