//! How much of everything there is, for whoever scrapes.

use std::{collections::BTreeMap, sync::Arc};

use super::Mounter;
use crate::{
    error::Cause,
    metrics::{Certified, Health, Levels},
    policy::Operator,
    tls,
    vault::Endpoint,
};

impl Mounter {
    /// What there is now. Reads the operator's certificates anew.
    pub async fn levels(&self) -> Levels {
        let mut levels = self.renewal.levels();
        let own = self.operator.address.to_string();
        // As the operator reaches it: a class may lay its own TLS settings over the address.
        let Operator { address, tls, .. } = &self.operator;
        let endpoint = Endpoint { address: address.clone(), tls: tls.clone(), guarded: false };
        let found = self.vault.outage(&endpoint).map(|outage| outage.found.cause());
        let sealed = matches!(found, Some(Cause::Sealed | Cause::Uninitialized));
        levels.endpoints.insert(own, Health { up: found.is_none(), sealed });
        levels.mounts_limit = self.slots.most();
        levels.certificates = self.certificates().await;
        levels
    }

    /// When the operator's certificates end.
    async fn certificates(&self) -> BTreeMap<Certified, i64> {
        let tls = Arc::new(self.operator.tls.clone());
        let ends =
            tokio::task::spawn_blocking(move || tls::ends(&tls, jiff::Timestamp::now())).await.unwrap_or_default();
        let ends = [(Certified::Ca, ends.authority), (Certified::Client, ends.client)];
        ends.into_iter().filter_map(|(what, end)| Some((what, end?.at.as_second()))).collect()
    }
}
