//! Listings, page after page: the catalog and the tags.

use reqwest::header::LINK;
use url::Url;

use super::{Client, ClientError, Repository, Response};
use crate::oci::{RegistryHost, RepositoryName, Tag};

/// The largest page that is read.
const PAGE_LIMIT: usize = 16 << 20;

/// Pages after which a registry is taken for one that goes round in circles.
const PAGES: usize = 100_000;

impl Client {
    /// The names of all repositories, as the registry orders them.
    pub async fn repositories(&self, registry: &RegistryHost) -> Result<Vec<RepositoryName>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Page {
            repositories: Vec<String>,
        }
        let asker = self.registry(registry)?;
        let url = asker.registry_url("_catalog")?;
        let names = all(&asker, url, "registry:catalog:*", |page: Page| page.repositories).await?;
        // A registry may hold names that we cannot ask for.
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

impl Client {
    /// Who asks a registry for what is of no repository.
    pub(super) fn registry(&self, registry: &RegistryHost) -> Result<Repository, ClientError> {
        // Any name will do.
        let name = "catalog".parse().map_err(|_| ClientError::Setup("no name for the catalog".to_owned()))?;
        Ok(self.repository(registry, &name))
    }
}

impl Repository {
    /// All tags, as the registry orders them (end-8a).
    pub async fn tags(&self) -> Result<Vec<Tag>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Page {
            // Some registries say null where there are none.
            tags: Option<Vec<String>>,
        }
        let url = self.url("tags/list")?;
        let tags = all(self, url, "pull", |page: Page| page.tags.unwrap_or_default()).await?;
        Ok(tags.iter().filter_map(|tag| tag.parse().ok()).collect())
    }
}

async fn all<P: serde::de::DeserializeOwned>(
    asker: &Repository,
    first: Url,
    scope: &str,
    items: impl Fn(P) -> Vec<String>,
) -> Result<Vec<String>, ClientError> {
    let mut found = Vec::new();
    let mut next = Some(first);
    for _ in 0..PAGES {
        let Some(url) = next else { return Ok(found) };
        let response = asker.page(url, scope).await?;
        next = next_page(&response);
        found.extend(items(response.json(PAGE_LIMIT).await?));
    }
    Err(ClientError::Setup(format!("{} lists without end", asker.registry())))
}

/// The target of `Link: <…>; rel="next"`, if it is on the same server.
fn next_page(response: &Response) -> Option<Url> {
    let link = response.header(&LINK)?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let url = response.url().join(target).ok()?;
    (parameters.contains("next") && url.origin() == response.url().origin()).then_some(url)
}
