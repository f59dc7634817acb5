//! Mounting: a blob of one repository becomes a member of another, and no byte moves.

use super::{Registry, Result};
use crate::oci::{Digest, RepositoryName};

impl Registry {
    /// Makes a blob of repository `from` a member of `name`, and says whether it could (end-11).
    ///
    /// Without `from`, any blob in the registry will do (the spec's automatic content discovery). That is
    /// right for whoever may read everything.
    pub async fn mount(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool> {
        let size = match from {
            Some(from) => self.spare_member(from, digest).await?.map(|member| member.size),
            None => self.find_blob(digest).await?.map(|record| record.size),
        };
        match size {
            Some(size) => {
                self.store.room().await?;
                let reserved = self.quotas.take_content(name, digest, size).await?;
                let joined = self.join(name, digest, size).await?;
                if joined {
                    reserved.keep();
                }
                Ok(joined)
            }
            None => Ok(false),
        }
    }
}
