//! What a registry of DVCR holds: an extension, which others do not have.

use serde::de::DeserializeOwned;

use super::{Client, ClientError};
use crate::oci::RegistryHost;

/// The largest answer that is read: that of some hundred thousand repositories.
const LIMIT: usize = 64 << 20;

impl Client {
    /// What a registry holds, in the words of its own. It counts while this waits: some minutes where there are terabytes.
    pub async fn stats<T: DeserializeOwned>(&self, registry: &RegistryHost) -> Result<T, ClientError> {
        let asker = self.registry(registry)?;
        let url = asker.registry_url("_dvcr/storage/stats")?;
        let response = asker.page(url, "registry:catalog:*").await?;
        response.json(LIMIT).await
    }
}
