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

/// The most text of classes that are kept, in bytes, each counted with [`OVERHEAD`]: of the usual size more than a thousand.
/// Others are read at each poll, which doubles its cost.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OBJECTS: &str = "- {objectName: a, secretPath: secret/data/a, secretKey: pass}";

    /// What the driver sends for a pod of a class.
    struct Request(BTreeMap<String, String>, &'static str);

    impl Request {
        fn of(pod: &str) -> Self {
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

        fn parse(&self, classes: &Classes) -> Result<MountSpec, Error> {
            let attributes = serde_json::to_string(&self.0).unwrap();
            let target_path = "/pods/mount";
            classes.parse(&RawRequest { attributes: &attributes, secrets: "{}", target_path, permission: self.1 })
        }
    }

    #[test]
    fn pods_of_a_class_share_it_and_nothing_else() {
        let classes = Classes::default();
        let one = Request::of("one").parse(&classes).unwrap();
        let two = Request::of("two").with("secretProviderClass", "").parse(&classes).unwrap();
        assert!(Arc::ptr_eq(&one.class, &two.class));
        assert_eq!((two.pod.name.as_str(), two.pod.uid.as_str(), two.class_name.as_str()), ("two", "uid-of-two", ""));
        assert_eq!(two.tokens.for_audience("vault").unwrap().expose(), "token-of-two");
    }

    #[test]
    fn whatever_else_is_said_makes_another_class() {
        let classes = Classes::default();
        let known = Request::of("one").parse(&classes).unwrap().class;
        let objects = OBJECTS.replace("/a,", "/b,");
        let others =
            [("roleName", "other"), ("objects", &objects), ("audience", "x"), ("vaultNamespace", "n"), ("typo", "")];
        let others = others.map(|(name, value)| Request::of("one").with(name, value));
        for other in others.into_iter().chain([Request(Request::of("one").0, "256")]) {
            let class = other.parse(&classes).unwrap().class;
            let alone = other.parse(&Classes::default()).unwrap().class;
            assert!(!Arc::ptr_eq(&known, &class), "{:?}", other.0);
            assert_eq!(format!("{class:?}"), format!("{alone:?}"));
        }
        // Where one value ends and the next name begins counts, too.
        let one = Request::of("one").with("a", "bc").parse(&classes).unwrap().class;
        assert!(!Arc::ptr_eq(&one, &Request::of("one").with("ab", "c").parse(&classes).unwrap().class));
    }

    #[test]
    fn a_mistake_is_told_alike_whether_the_class_is_known() {
        let classes = Classes::default();
        Request::of("one").with("typo", "").parse(&classes).unwrap();
        for name in ["csi.storage.k8s.io/pod.uid", "csi.storage.k8s.io/serviceAccount.tokens"] {
            let wrong = Request::of("one").with("typo", "").with(name, "").with("csi.storage.k8s.io/pod.name", "");
            let told = wrong.parse(&classes).unwrap_err().to_string();
            assert_eq!(told, wrong.parse(&Classes::default()).unwrap_err().to_string());
            assert!(told.contains("pod.name"), "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_is_forgotten_when_it_is_not_used() {
        let classes = Classes::default();
        let first = Request::of("one").parse(&classes).unwrap().class;
        for _ in 0..3 {
            tokio::time::advance(IDLE * 2 / 3).await;
            assert!(Arc::ptr_eq(&first, &Request::of("one").parse(&classes).unwrap().class));
        }
        tokio::time::advance(IDLE).await;
        Request::of("one").with("roleName", "other").parse(&classes).unwrap();
        assert!(!Arc::ptr_eq(&first, &Request::of("one").parse(&classes).unwrap().class));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let classes = Classes::default();
        let long = format!("# {}\n{OBJECTS}", "x".repeat(1 << 19));
        for i in 0..20 {
            Request::of("one").with("objects", &long).with("roleName", &i.to_string()).parse(&classes).unwrap();
        }
        let known = classes.lock();
        assert!(known.len() > 4 && known.values().map(|known| known.size).sum::<usize>() <= MOST_TEXT);
    }
}
