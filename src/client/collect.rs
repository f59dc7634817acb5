//! Have a registry of DVCR take away what nothing needs: an extension, which others do not have.

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::{Client, ClientError};
use crate::oci::RegistryHost;

/// The largest answer that is read: it tells thousands of tags and manifests one by one.
const LIMIT: usize = 16 << 20;

impl Client {
    /// What a registry took away, in the words of its own; or would, if it is `only_look`ed.
    pub async fn collect<T: DeserializeOwned>(
        &self,
        registry: &RegistryHost,
        only_look: bool,
    ) -> Result<T, ClientError> {
        let asker = self.registry(registry)?;
        let mut url = asker.registry_url("_dvcr/storage/collect")?;
        if only_look {
            url.query_pairs_mut().append_pair("dryRun", "true");
        }
        let response = asker.ask_once(&asker.bare(Method::POST, url), "registry:catalog:*").await?;
        let response = asker.expect(response, &[StatusCode::OK], || registry.to_string()).await?;
        response.json(LIMIT).await
    }
}
