//! A volume's files, and what only all of them together show.

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
    session::Session,
    vault::request::SecretRequest,
};

/// A volume's files.
#[derive(Debug)]
pub struct VolumeContents {
    /// What to write.
    pub files: Vec<RenderedFile>,
    /// Each object's name and version.
    pub versions: Vec<(String, String)>,
    /// What was handed out, to be marked when it is on its way.
    pub(super) record: DeliveryRecord,
}

/// What was handed out, to which volume.
pub(super) struct DeliveryRecord {
    pub(super) session: Arc<Session>,
    pub(super) pod_uid: String,
    pub(super) target_path: String,
    pub(super) class: String,
    pub(super) secrets: Vec<(Arc<SecretRequest>, Arc<CachedSecret>)>,
    /// Whether any of it should have been read anew.
    pub(super) served_stale: bool,
}

/// The file that stands for nothing: without any file the driver would leave the old ones.
const EMPTY_MARKER_FILE: &str = ".vaultmount-empty";

/// What drivers receive at most (grpc-go's default), in bytes.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

impl VolumeContents {
    /// The files of every object, in the class's order, with what they were made from.
    pub(super) fn new(
        spec: &MountSpec,
        session: &Arc<Session>,
        leases: Vec<(Arc<SecretRequest>, Arc<CachedSecret>)>,
        rendered: Vec<(&Object, Vec<RenderedFile>)>,
        key: &VersionKey,
    ) -> Result<Self, Error> {
        let receipt = DeliveryRecord {
            session: Arc::clone(session),
            pod_uid: spec.pod.uid.clone(),
            target_path: spec.target_path.clone(),
            class: spec.class_name.clone(),
            secrets: leases,
            served_stale: false,
        };
        let mut mounted = Self {
            files: Vec::with_capacity(rendered.len()),
            versions: Vec::with_capacity(rendered.len()),
            record: receipt,
        };
        for (object, files) in rendered {
            let each_key = object.file_spec.selector == Selector::AllKeys;
            let version = object_version(key, &object.version_config, &files, each_key);
            mounted.versions.push((object.file_spec.path.clone(), version));
            mounted.files.extend(files);
        }
        mounted.validate(spec, key)
    }

    /// Checks what only all files together show, and stands in when there is none.
    fn validate(mut self, spec: &MountSpec, key: &VersionKey) -> Result<Self, Error> {
        let mut paths: Vec<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        // Sorted, a directory stands before what is in it, with nothing between but what is in it or sorts before '/'.
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

    /// The error when the driver would not take the response for its size, in bytes.
    #[must_use]
    pub fn too_large(&self, size: usize) -> Error {
        too_large_error(self.files.iter(), &size.to_string())
    }
}

/// The error of files that come to so many bytes.
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

impl std::fmt::Debug for DeliveryRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt").field("target_path", &self.target_path).finish_non_exhaustive()
    }
}
