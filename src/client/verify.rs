//! Have a registry of DVCR look whether what it stores is right: an extension, which others do not have.

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::{Client, ClientError, Events};
use crate::oci::RegistryHost;

impl Client {
    /// Has a registry verify what it stores, as parameters of its own say, and tells what happens in words of its own. It ends when
    /// nobody reads that any more.
    pub async fn verify<T: DeserializeOwned>(
        &self,
        registry: &RegistryHost,
        parameters: &[(&str, String)],
    ) -> Result<Events<T>, ClientError> {
        let asker = self.registry(registry)?;
        let mut url = asker.registry_url("_dvcr/storage/verify")?;
        url.query_pairs_mut().extend_pairs(parameters);
        let response = asker.ask_once(&asker.bare(Method::POST, url), "registry:catalog:*").await?;
        let response = asker.expect(response, &[StatusCode::OK], || registry.to_string()).await?;
        Ok(Events::of(response))
    }
}
