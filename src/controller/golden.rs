//! Golden images: operating systems that are kept ready for all, by names such as `ubuntu-2404`.
//!
//! A version of one is a `ClusterVirtualImage` with a label that names the image and an annotation that says where its publisher has
//! it. What disks are made from is the newest that is ready. A version is called after the checksum that the publisher gives (or after
//! what its server says about the file), so that whoever looks again finds the version that is there or makes a new one; the last few
//! are kept, which costs little, because versions share most of their bytes.

mod catalogue;
mod checksums;

use std::time::Duration;

use kube::api::{ListParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};
use url::Url;

use super::context::FIELD_MANAGER;
use super::crd::{
    ChecksumSpec, ClusterDataSource, ClusterVirtualImage, ClusterVirtualImageSpec, DataSourceType,
    HttpDataSource,
};
use super::image::{HttpFile, Image, remove};
use super::nearest::nearest;
use super::web;
use crate::client::{Egress, Retries};
use crate::importer::{Checksum, ChecksumAlgorithm, HttpSource, SourceError};
use crate::oci::{Algorithm, Digest};

pub use catalogue::{Catalogue, CatalogueError, GoldenImage, Medium};
use catalogue::{DESCRIBED, GOLDEN};

/// How long a version that has failed may take to go.
const GOING: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const GOING_STEP: Duration = Duration::from_millis(200);

/// How much of a list of checksums is read.
const LIST: usize = 4 << 20;

/// The golden images of an API server.
#[derive(Clone)]
pub struct Golden {
    client: kube::Client,
    catalogue: Catalogue,
    keep: Option<usize>,
    /// How often publishers are asked for new builds, if they are.
    pub interval: Option<Duration>,
}

/// A golden image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The API server.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// There is none with this name.
    #[error("there is no golden image {name}{} `dvcr golden list` has all names", meant(nearest.as_deref()))]
    Unknown {
        /// The name.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// Its publisher cannot be asked.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its publisher has no checksum of it where there should be one.
    #[error("{list} has no checksum of {file}")]
    NoChecksum {
        /// The list.
        list: Url,
        /// The file.
        file: String,
    },
    /// A version of it that has failed is still being removed.
    #[error("{0} has failed, and is being removed first")]
    Going(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| ".".to_owned(), |name| format!("; did you mean {name}?"))
}

/// What looking for a new version has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// The publisher has what is there already, as this version.
    Current(String),
    /// The publisher has something new, which is fetched as this version.
    New(String),
}

impl Golden {
    /// The golden images of an API server: those of the catalogue, and those that it has already. The last `keep` versions of each
    /// stay; all, if that is for somebody else to say.
    #[must_use]
    pub fn new(client: kube::Client, catalogue: Catalogue, keep: Option<usize>) -> Self {
        Self { client, catalogue, keep: keep.map(|keep| keep.max(1)), interval: None }
    }

    fn api(&self) -> Api<ClusterVirtualImage> {
        Api::all(self.client.clone())
    }

    /// The versions of an image that are there, the newest first.
    pub async fn versions(&self, name: &str) -> Result<Vec<ClusterVirtualImage>, kube::Error> {
        let of_it = ListParams::default().labels(&format!("{GOLDEN}={name}"));
        Ok(versions_of(name, self.api().list(&of_it).await?.items))
    }

    /// All images, those of the catalogue and those that were added, each with the versions that are there, the newest first.
    pub async fn all(&self) -> Result<Vec<(GoldenImage, Vec<ClusterVirtualImage>)>, kube::Error> {
        let there = self.api().list(&ListParams::default().labels(GOLDEN)).await?.items;
        let mut images: Vec<_> = self.catalogue.images().cloned().collect();
        for image in there.iter().filter_map(GoldenImage::of) {
            if images.iter().all(|known| known.name != image.name) {
                images.push(image);
            }
        }
        let with_versions = |image: GoldenImage| {
            let versions = versions_of(&image.name, there.iter().cloned());
            (image, versions)
        };
        Ok(images.into_iter().map(with_versions).collect())
    }

    /// The images of which there is a version.
    pub async fn fetched(&self) -> Result<Vec<GoldenImage>, kube::Error> {
        let all = self.all().await?.into_iter();
        Ok(all.filter(|(_, versions)| !versions.is_empty()).map(|(image, _)| image).collect())
    }

    /// An image by its name.
    pub async fn find(&self, name: &str) -> Result<GoldenImage, GoldenError> {
        if let Some(image) = self.catalogue.find(name) {
            return Ok(image.clone());
        }
        let all = self.all().await?;
        let nearest = nearest(name, all.iter().map(|(image, _)| image.name.as_str())).map(str::to_owned);
        let found = all.into_iter().map(|(image, _)| image).find(|image| image.name == name);
        found.ok_or_else(|| GoldenError::Unknown { name: name.to_owned(), nearest })
    }

    /// The version that a new disk is made from: the newest that is ready, or else the newest. If there is none, it is made; `None`
    /// while one that has failed goes before that.
    pub async fn version(&self, image: &GoldenImage) -> Result<Option<ClusterVirtualImage>, GoldenError> {
        let mut versions = self.versions(&image.name).await?;
        versions.retain(|version| version.meta().deletion_timestamp.is_none());
        // Publishers do not replace a file and its checksum at one moment: what has failed may be right by now.
        versions.retain(|version| !version.is_worth_another_try());
        let best = versions.iter().position(Image::is_ready).unwrap_or(0);
        if best < versions.len() {
            return Ok(Some(versions.swap_remove(best)));
        }
        let (Refreshed::Current(version) | Refreshed::New(version)) = self.refresh(image).await?;
        Ok(self.api().get_opt(&version).await?)
    }

    /// Asks the publisher of an image for its newest build, and has it fetched if it is not there. Versions that are too many go.
    pub async fn refresh(&self, image: &GoldenImage) -> Result<Refreshed, GoldenError> {
        image.check().map_err(GoldenError::Invalid)?;
        let checksum = checksum(image).await?;
        let state = match &checksum {
            Some(checksum) => checksum.to_string(),
            None => self.state(image).await?,
        };
        let hash = Digest::of(Algorithm::Sha256, format!("{} {state}", image.url).as_bytes());
        let version = format!("{}-{}", image.name, &hash.hex()[..8]);
        let made = match self.api().get_opt(&version).await? {
            Some(found) if found.has_failed() => {
                remove(&self.client, &found).await?;
                self.until_gone(&found).await?;
                self.make(image, &version, checksum.as_ref()).await?;
                Refreshed::New(version)
            }
            Some(_) => Refreshed::Current(version),
            None => {
                self.make(image, &version, checksum.as_ref()).await?;
                Refreshed::New(version)
            }
        };
        self.prune(&image.name).await?;
        Ok(made)
    }

    /// What the publisher's server says about a file of which it has no checksum. A server that says nothing is asked no more: the
    /// version that is there stays.
    async fn state(&self, image: &GoldenImage) -> Result<String, GoldenError> {
        Ok(published(&image.url)?.version().await?.unwrap_or_default())
    }

    async fn make(
        &self,
        image: &GoldenImage,
        version: &str,
        checksum: Option<&Checksum>,
    ) -> Result<(), GoldenError> {
        let http = HttpDataSource {
            url: image.url.to_string(),
            ca_bundle: None,
            checksum: checksum.map(|checksum| spec_of(&checksum.to_string())),
        };
        let data_source = ClusterDataSource {
            kind: DataSourceType::Http,
            http: Some(http),
            container_image: None,
            object_ref: None,
            upload: None,
        };
        let mut made = ClusterVirtualImage::new(version, ClusterVirtualImageSpec { data_source });
        made.labels_mut().insert(GOLDEN.to_owned(), image.name.clone());
        let described = serde_json::to_string(image).unwrap_or_default();
        made.annotations_mut().insert(DESCRIBED.to_owned(), described);
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api().create(&parameters, &made).await {
            // Somebody else has looked at the same time.
            Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
            made => Ok(made.map(drop)?),
        }
    }

    /// Removes versions that are too many, but never the newest that is ready. One from which a disk is being made stays until that
    /// is done.
    async fn prune(&self, name: &str) -> Result<(), GoldenError> {
        let Some(keep) = self.keep else { return Ok(()) };
        let versions = self.versions(name).await?;
        let newest_ready = versions.iter().position(Image::is_ready);
        for (at, version) in versions.iter().enumerate().skip(keep) {
            if Some(at) != newest_ready && version.meta().deletion_timestamp.is_none() {
                tracing::info!(image = name, version = version.name_any(), "an old version goes");
                remove(&self.client, version).await?;
            }
        }
        Ok(())
    }

    /// Waits until a version that was removed is gone, and its name is free.
    async fn until_gone(&self, version: &ClusterVirtualImage) -> Result<(), GoldenError> {
        let name = version.name_any();
        for _ in 0..GOING.as_millis() / GOING_STEP.as_millis() {
            if self.api().get_opt(&name).await?.is_none_or(|found| found.uid() != version.uid()) {
                return Ok(());
            }
            tokio::time::sleep(GOING_STEP).await;
        }
        Err(GoldenError::Going(name))
    }

    /// Looks once for new versions of all images of which there is a version.
    pub async fn refresh_all(&self) -> Result<(), kube::Error> {
        for image in self.fetched().await? {
            match self.refresh(&image).await {
                Ok(Refreshed::New(version)) => tracing::info!(image = image.name, version, "a new version"),
                Ok(Refreshed::Current(_)) => {}
                Err(error) => tracing::warn!(image = image.name, %error, "cannot look for a new version"),
            }
        }
        Ok(())
    }
}

/// The versions of an image among others, the newest first.
fn versions_of(name: &str, there: impl IntoIterator<Item = ClusterVirtualImage>) -> Vec<ClusterVirtualImage> {
    // A label alone is soon given, and whoever may call an image of theirs so may not call it a version of this one.
    let is_of_it = |version: &ClusterVirtualImage| {
        is_version(&version.name_any(), name)
            && GoldenImage::of(version).is_some_and(|image| image.name == name)
    };
    let mut versions: Vec<_> = there.into_iter().filter(is_of_it).collect();
    versions.sort_by_key(|version| {
        let made = version.meta().creation_timestamp.as_ref().map(|made| made.0);
        (std::cmp::Reverse(made), version.name_any())
    });
    versions
}

/// Whether a version of an image may be called so: the image's name, and eight hexadecimal digits.
fn is_version(version: &str, name: &str) -> bool {
    let hash = version.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The checksum that the publisher has of its newest build, if it has any.
async fn checksum(image: &GoldenImage) -> Result<Option<Checksum>, GoldenError> {
    if let Some(checksum) = &image.checksum {
        return Ok(Some(checksum.parse().map_err(|error| GoldenError::Invalid(format!("{error}")))?));
    }
    let Some(list) = &image.checksums else { return Ok(None) };
    let text = published(list)?.text(LIST).await?;
    let file = image.url.path_segments().and_then(|mut path| path.next_back()).unwrap_or_default();
    match checksums::find(&text, file) {
        Some(checksum) => Ok(Some(checksum)),
        None => Err(GoldenError::NoChecksum { list: list.clone(), file: file.to_owned() }),
    }
}

/// A publisher's file. Its address is the operator's, and may be anywhere.
fn published(url: &Url) -> Result<HttpSource, SourceError> {
    let file = HttpFile { url: url.clone(), authorities: None, checksums: Vec::new() };
    Ok(web::source(&file, &Egress::default(), Retries { attempts: 2 })?)
}

/// A checksum as a spec has it.
fn spec_of(checksum: &str) -> ChecksumSpec {
    let (algorithm, hex) = checksum.split_once(':').unwrap_or_default();
    let is = |kind: ChecksumAlgorithm| (algorithm == kind.as_str()).then(|| hex.to_owned());
    ChecksumSpec {
        md5: is(ChecksumAlgorithm::Md5),
        sha1: is(ChecksumAlgorithm::Sha1),
        sha256: is(ChecksumAlgorithm::Sha256),
        sha512: is(ChecksumAlgorithm::Sha512),
        streebog256: is(ChecksumAlgorithm::Streebog256),
        streebog512: is(ChecksumAlgorithm::Streebog512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_goes_into_the_spec_as_what_it_is() {
        for checksum in [format!("sha256:{}", "a".repeat(64)), format!("sha512:{}", "b".repeat(128))] {
            assert_eq!(spec_of(&checksum).given().collect::<Vec<_>>(), [checksum]);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = |nearest: Option<&str>| {
            let nearest = nearest.map(str::to_owned);
            GoldenError::Unknown { name: "ubuntu-24.04".to_owned(), nearest }.to_string()
        };
        assert_eq!(
            error(Some("ubuntu-2404")),
            "there is no golden image ubuntu-24.04; did you mean ubuntu-2404? `dvcr golden list` has all names"
        );
        assert!(error(None).starts_with("there is no golden image ubuntu-24.04. `dvcr"));
    }
}
