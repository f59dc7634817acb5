//! The list of repositories.

use futures::TryStreamExt;
use storage_backends::Condition;

use super::{Error, Page, Registry, Result, layout};
use crate::oci::{RepositoryName, is_uploaded_file};

impl Registry {
    /// Up to `limit` repositories after `last`, in byte order.
    pub async fn repositories(
        &self,
        limit: usize,
        last: Option<&RepositoryName>,
    ) -> Result<Page<RepositoryName>> {
        let after = last.map(layout::catalog_entry);
        let mut entries = self.store.list(&layout::catalog(), after.as_ref());
        let mut page = Page { entries: Vec::new(), more: false };
        while let Some(entry) = entries.try_next().await? {
            let Some(name) = layout::catalog_name(&entry.key) else { continue };
            if page.entries.len() == limit {
                page.more = true;
                break;
            }
            page.entries.push(name);
        }
        Ok(page)
    }

    /// Fails when nothing was ever pushed to repository `name`.
    pub(super) async fn require_repository(&self, name: &RepositoryName) -> Result<()> {
        match self.store.get(&layout::catalog_entry(name)).await {
            Ok(_) => Ok(()),
            Err(storage_backends::Error::NotFound { .. }) => {
                Err(Error::RepositoryUnknown { name: name.clone() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a repository on the list. Reading first spares nearly every push a write.
    ///
    /// That of an uploaded file is not for browsing, and empty soon: it is on no list.
    pub(super) async fn ensure_repository(&self, name: &RepositoryName) -> Result<()> {
        if is_uploaded_file(name.as_str()) {
            return Ok(());
        }
        match self.require_repository(name).await {
            Err(Error::RepositoryUnknown { .. }) => {}
            other => return other,
        }
        let key = layout::catalog_entry(name);
        match self.store.put(&key, bytes::Bytes::new(), Condition::Absent).await {
            Ok(_) | Err(storage_backends::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
