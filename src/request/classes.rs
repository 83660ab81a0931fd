//! The classes of the pods on a node: what many pods ask for, poll after poll, is understood once.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tokio::time::Instant;

use super::{
    CLASS_NAME, Class, MountSpec, Object, RawRequest, attributes::Attributes, parse_pod, parse_whole,
    pod::DRIVER_PREFIX,
};
use crate::{error::Error, render::Select, vault::wire::SecretRequest};

/// What all classes that are kept may take, in bytes: a thousand of the usual size. Others are read at each poll, which doubles
/// its cost. None makes way for another: polls come round, and whichever was not used for longest is the one that comes next.
const MOST: usize = 4 << 20;
/// What one of them may take.
const MOST_OF_ONE: usize = MOST / 16;
/// A class that no pod was mounted of for so long is forgotten: longer than the usual pauses between polls.
const IDLE: Duration = Duration::from_secs(600);
/// How often such are looked for, when anything is asked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What tells classes apart: all that the driver says of the class, hashed.
type Digest = [u8; SHA256_OUTPUT_LEN];

/// Classes without mistakes, for as long as they are used.
pub struct Classes {
    /// Never held across an await.
    known: Mutex<Known>,
}

struct Known {
    classes: HashMap<Digest, Entry>,
    /// What they take together, in bytes.
    size: usize,
    swept: Instant,
}

struct Entry {
    class: Arc<Class>,
    size: usize,
    used: Instant,
}

impl Default for Classes {
    fn default() -> Self {
        Self { known: Mutex::new(Known { classes: HashMap::new(), size: 0, swept: Instant::now() }) }
    }
}

impl Classes {
    /// Parses and checks a request as [`super::parse`] does, quicker if its class is known.
    pub fn parse(&self, raw: &RawRequest<'_>) -> Result<MountSpec, Error> {
        let attributes = Attributes::parse(raw.attributes)?;
        let digest = digest(&attributes, raw.permission);
        let known = self.lock().find(&digest);
        if let Some(spec) = known.and_then(|class| parse_pod(raw, &attributes, class)) {
            return Ok(spec);
        }
        let spec = parse_whole(raw, &attributes)?;
        let size = size(&spec.class, raw);
        if size <= MOST_OF_ONE {
            self.lock().keep(digest, &spec.class, size);
        }
        Ok(spec)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&mut self, digest: &Digest) -> Option<Arc<Class>> {
        let now = Instant::now();
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.classes.retain(|_, entry| now.saturating_duration_since(entry.used) < IDLE);
            self.size = self.classes.values().map(|entry| entry.size).sum();
        }
        let entry = self.classes.get_mut(digest)?;
        entry.used = now;
        Some(Arc::clone(&entry.class))
    }

    fn keep(&mut self, digest: Digest, class: &Arc<Class>, size: usize) {
        if self.size + size <= MOST
            && let hash_map::Entry::Vacant(place) = self.classes.entry(digest)
        {
            place.insert(Entry { class: Arc::clone(class), size, used: Instant::now() });
            self.size += size;
        }
    }
}

/// What a class takes, in bytes, or more: its objects may come to much more than its text by way of YAML's aliases.
fn size(class: &Class, raw: &RawRequest<'_>) -> usize {
    let objects = class.objects.iter().map(|object| {
        let Object { read, recipe, version_config, .. } = object;
        let select = match &recipe.select {
            Select::Key(text) | Select::Pointer(text) => text.len(),
            Select::Whole | Select::EachKey | Select::Formatted(_) => 0,
        };
        let secret = [Some(version_config), read.query.as_ref(), read.body.as_ref()];
        let secret: usize = secret.into_iter().flatten().map(|text| text.expose().len()).sum();
        size_of::<Object>() + size_of::<SecretRequest>() + read.path.len() + recipe.file.len() + select + secret
    });
    size_of::<Class>() + raw.attributes.len() + objects.sum::<usize>()
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
        let kept = Arc::downgrade(&first);
        drop(first);
        tokio::time::advance(IDLE).await;
        // A request that is known, or wrong, is occasion enough.
        Request::of("one").with("objects", "").parse(&classes).unwrap_err();
        assert!(kept.upgrade().is_none());
        assert_eq!(classes.lock().size, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let classes = Classes::default();
        let long = format!("# {}\n{OBJECTS}", "x".repeat(MOST_OF_ONE / 2));
        for i in 0..50 {
            Request::of("one").with("objects", &long).with("roleName", &i.to_string()).parse(&classes).unwrap();
        }
        let known = classes.lock();
        assert!(known.classes.len() > 16 && known.size <= MOST, "{} {}", known.classes.len(), known.size);
        assert_eq!(known.size, known.classes.values().map(|entry| entry.size).sum::<usize>());
    }

    #[test]
    fn a_class_of_a_few_words_that_means_much_is_not_kept() {
        let classes = Classes::default();
        let same =
            format!("&b {{objectName: o, method: PUT, secretPath: p, secretArgs: {{k: {:?}}}}}", "<".repeat(2000));
        let more: Vec<_> = (0..100).map(|i| format!("- {{<<: *b, objectName: o{i}}}")).collect();
        let objects = format!("- {same}\n{}", more.join("\n"));
        assert!(objects.len() < 8 << 10);
        let class = Request::of("one").with("objects", &objects).parse(&classes).unwrap().class;
        assert_eq!(class.objects.len(), 101);
        assert!(classes.lock().classes.is_empty());
    }
}
