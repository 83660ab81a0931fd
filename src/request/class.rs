//! Views of a parsed class for mounts and checks.

use std::{collections::HashMap, sync::Arc};

use super::{Class, Object};
use crate::{
    error::{Cause, Error},
    vault::request::SecretRequest,
};

impl Class {
    /// Returns the distinct requests in the class's order, each with the objects made from its response.
    pub(crate) fn objects_by_request(&self) -> Vec<(&Arc<SecretRequest>, Vec<&Object>)> {
        let (mut requests, mut indices) = (Vec::<(&Arc<SecretRequest>, Vec<&Object>)>::new(), HashMap::new());
        for object in &self.objects {
            let index = *indices.entry(&object.request).or_insert(requests.len());
            match requests.get_mut(index) {
                Some((_, objects)) => objects.push(object),
                None => requests.push((&object.request, vec![object])),
            }
        }
        requests
    }
}

impl Object {
    /// Returns true if the object is optional and the error only reports that the secret or key does not exist.
    pub(crate) fn is_optional_miss(&self, error: &Error) -> bool {
        self.optional
            && matches!(
                error.cause(),
                Cause::SecretMissing | Cause::VersionDeleted | Cause::Kv1Path | Cause::KeyMissing | Cause::KeyNested
            )
    }
}
