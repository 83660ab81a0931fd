//! The files of a volume, and the checks that need all of them.

use std::sync::Arc;

use crate::{
    cache::CachedSecret,
    error::{Cause, Error},
    render::{
        RenderedFile, Selector,
        version::{VersionKey, object_version},
    },
    request::{MountSpec, Object},
    secret::{SecretBytes, SecretText},
    session::{Delivery, Session},
    vault::request::SecretRequest,
};

/// The files of a volume, and the secrets that they were made from.
#[derive(Debug)]
pub struct VolumeContents {
    /// The files to write.
    pub files: Vec<RenderedFile>,
    /// The ID and version of each object.
    pub versions: Vec<(String, String)>,
    /// The delivery, recorded when the response goes out.
    pub(super) record: DeliveryRecord,
}

/// The secrets delivered to a volume.
pub(super) struct DeliveryRecord {
    pub(super) session: Arc<Session>,
    pub(super) pod_uid: String,
    pub(super) target_path: String,
    pub(super) class: String,
    pub(super) secrets: Vec<(Arc<SecretRequest>, Arc<CachedSecret>)>,
    /// True if a secret is stale because Vault was unavailable.
    pub(super) served_stale: bool,
}

/// The only file of a volume without secrets. If a response has no file, the driver leaves the old ones.
const EMPTY_MARKER_FILE: &str = ".vaultmount-empty";

/// Maximum size of a response in bytes: the receive limit of drivers (grpc-go's default).
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

impl VolumeContents {
    /// Returns the files of every object, in the class's order.
    pub(super) fn new(
        spec: &MountSpec,
        session: &Arc<Session>,
        secrets: Vec<(Arc<SecretRequest>, Arc<CachedSecret>)>,
        rendered: Vec<(&Object, Vec<RenderedFile>)>,
        key: &VersionKey,
    ) -> Result<Self, Error> {
        let record = DeliveryRecord {
            session: Arc::clone(session),
            pod_uid: spec.pod.uid.clone(),
            target_path: spec.target_path.clone(),
            class: spec.class_name.clone(),
            secrets,
            served_stale: false,
        };
        let mut contents =
            Self { files: Vec::with_capacity(rendered.len()), versions: Vec::with_capacity(rendered.len()), record };
        for (object, files) in rendered {
            let each_key = object.file_spec.selector == Selector::AllKeys;
            let version = object_version(key, &object.version_config, &files, each_key);
            contents.versions.push((object.file_spec.path.clone(), version));
            contents.files.extend(files);
        }
        contents.validate(spec, key)
    }

    /// Returns an error if two objects make the same file, and adds the marker file if there is no other.
    fn validate(mut self, spec: &MountSpec, key: &VersionKey) -> Result<Self, Error> {
        let mut paths: Vec<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        // Sorted, a directory comes before its files, with only its files or names that sort before '/' in between.
        for (i, path) in paths.iter().enumerate() {
            let clash = paths[i + 1..]
                .iter()
                .take_while(|p| p.starts_with(path))
                .find(|p| matches!(p.as_bytes().get(path.len()), None | Some(b'/')));
            if let Some(clash) = clash {
                return Err(Error::new(
                    Cause::DuplicateFile,
                    if *path == *clash {
                        format!("two objects make the file {path:?}")
                    } else {
                        format!("one object makes the file {path:?}, and another {clash:?} below it")
                    },
                )
                .with_fix("give one of them another objectName"));
            }
        }
        if self.files.is_empty() {
            let file = RenderedFile {
                path: EMPTY_MARKER_FILE.to_owned(),
                mode: spec.class.permission,
                contents: SecretBytes::default(),
            };
            let version = object_version(key, &SecretText::default(), std::slice::from_ref(&file), false);
            self.files.push(file);
            self.versions = vec![(EMPTY_MARKER_FILE.to_owned(), version)];
        }
        Ok(self)
    }

    /// Returns the error of a response of `size` bytes, more than the driver accepts.
    #[must_use]
    pub fn too_large(&self, size: usize) -> Error {
        too_large_error(self.files.iter(), &size.to_string())
    }
}

/// Returns the error of files with a total of `size` bytes.
pub(super) fn too_large_error<'a>(files: impl Iterator<Item = &'a RenderedFile>, size: &str) -> Error {
    let mut files: Vec<&RenderedFile> = files.collect();
    files.sort_by_key(|f| std::cmp::Reverse(f.contents.len()));
    let largest: Vec<String> =
        files.iter().take(5).map(|f| format!("{} ({} bytes)", f.path, f.contents.len())).collect();
    Error::new(
        Cause::FilesTooLarge,
        format!(
            "the volume's files come to {size} bytes, more than the {MAX_RESPONSE_BYTES} the driver takes; the largest: {}",
            largest.join(", ")
        ),
    )
    .with_fix("take single keys with secretKey, or split the class")
}

impl DeliveryRecord {
    /// Returns the delivery as the session registry records it.
    pub(super) fn to_delivery(&self) -> Delivery<'_> {
        let Self { pod_uid, target_path, class, secrets, served_stale, .. } = self;
        Delivery { pod_uid, target_path, class, secrets, served_stale: *served_stale }
    }
}

impl std::fmt::Debug for DeliveryRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeliveryRecord").field("target_path", &self.target_path).finish_non_exhaustive()
    }
}
