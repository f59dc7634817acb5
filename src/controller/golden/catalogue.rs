//! [`Catalogue`]: which golden images there are, and where their publishers have them.

use kube::core::Resource as _;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::apimachinery::name::is_dns1123_label;
use crate::controller::crd::ClusterVirtualImage;
use crate::controller::quantity;
use crate::importer::Checksum;

/// The catalogue that comes with the program.
const BUILT_IN: &str = include_str!("../../../deploy/golden-images.yaml");

/// The label of a version of a golden image, with the image's name.
pub(super) const GOLDEN: &str = "dvcr.virtualization.deckhouse.io/golden-image";

/// The annotation of a version with all that is known of its image, so that it can be kept fresh without a catalogue.
pub(super) const DESCRIBED: &str = "dvcr.virtualization.deckhouse.io/golden-image-source";

/// What an image is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// It boots as it is, and is set up by cloud-init.
    #[default]
    Cloud,
    /// It installs a system on another disk.
    #[serde(rename = "ISO")]
    Iso,
}

impl Medium {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "Cloud",
            Self::Iso => "ISO",
        }
    }
}

/// A golden image, as a catalogue describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GoldenImage {
    /// `{os}-{version}`.
    pub name: String,
    /// The operating system, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// What it is good for.
    #[serde(default, rename = "type")]
    pub medium: Medium,
    /// What a disk must have at least, such as `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_storage: Option<String>,
    /// Where the publisher has its newest build.
    pub url: Url,
    /// Where the publisher has the checksum of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Url>,
    /// The checksum, `ALGORITHM:HEX`, of a build that has a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

impl GoldenImage {
    /// What a disk must have at least, in bytes.
    #[must_use]
    pub fn minimum(&self) -> u64 {
        self.minimum_storage.as_deref().and_then(quantity::bytes).unwrap_or(0)
    }

    /// What a version says of its image, if it is one of a golden image.
    #[must_use]
    pub fn of(version: &ClusterVirtualImage) -> Option<Self> {
        let meta = version.meta();
        let name = meta.labels.as_ref()?.get(GOLDEN)?;
        let described = meta.annotations.as_ref().and_then(|annotations| annotations.get(DESCRIBED));
        let described: Option<Self> = described.and_then(|text| serde_json::from_str(text).ok());
        described.filter(|image| image.name == *name)
    }

    /// Why it is none.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if !is_dns1123_label(name).is_empty() {
            return Err(format!("{name:?} is no name: it may have small letters, digits and -"));
        }
        if let Some(size) = &self.minimum_storage
            && quantity::bytes(size).is_none()
        {
            return Err(format!("{name}: minimumStorage {size:?} is no size, such as 4Gi"));
        }
        for url in [Some(&self.url), self.checksums.as_ref()].into_iter().flatten() {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("{name}: {url} is no http or https address"));
            }
        }
        if let Some(checksum) = &self.checksum {
            checksum.parse::<Checksum>().map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }
}

/// A catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is no YAML, or not of this shape.
    #[error("the catalogue cannot be read: {0}")]
    Shape(String),
    /// One of its images makes no sense.
    #[error("the catalogue: {0}")]
    Image(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    images: Vec<GoldenImage>,
}

/// Which golden images there are.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    images: Vec<GoldenImage>,
}

impl Catalogue {
    /// Reads one, in YAML.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let document: Document =
            serde_saphyr::from_str(text).map_err(|error| CatalogueError::Shape(error.to_string()))?;
        for (at, image) in document.images.iter().enumerate() {
            image.check().map_err(CatalogueError::Image)?;
            if document.images[..at].iter().any(|before| before.name == image.name) {
                return Err(CatalogueError::Image(format!("{} is there twice", image.name)));
            }
        }
        Ok(Self { images: document.images })
    }

    /// The one that comes with the program.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse(BUILT_IN)
    }

    /// The same with every file at `mirror`, below the name of the host that it comes from: `{mirror}/{host}/{path}`.
    #[must_use]
    pub fn mirrored(mut self, mirror: &Url) -> Self {
        for image in &mut self.images {
            image.url = at_mirror(mirror, &image.url);
            image.checksums = image.checksums.take().map(|url| at_mirror(mirror, &url));
        }
        self
    }

    /// All images.
    pub fn images(&self) -> impl Iterator<Item = &GoldenImage> {
        self.images.iter()
    }

    /// An image by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&GoldenImage> {
        self.images.iter().find(|image| image.name == name)
    }
}

fn at_mirror(mirror: &Url, url: &Url) -> Url {
    let base = mirror.as_str().trim_end_matches('/');
    let host = url.host_str().unwrap_or_default();
    format!("{base}/{host}{}", url.path()).parse().unwrap_or_else(|_| url.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &[(&str, &str)] = &[
        ("almalinux-8", "11Gi"),
        ("almalinux-9", "11Gi"),
        ("almalinux-10", "11Gi"),
        ("rocky-8", "11Gi"),
        ("rocky-9", "11Gi"),
        ("rocky-10", "11Gi"),
        ("debian-11", "4Gi"),
        ("debian-12", "4Gi"),
        ("debian-13", "4Gi"),
        ("ubuntu-2204", "4Gi"),
        ("ubuntu-2404", "4Gi"),
        ("centos-stream-9", "11Gi"),
        ("centos-stream-10", "11Gi"),
        ("oracle-8", "40Gi"),
        ("oracle-9", "40Gi"),
        ("oracle-10", "40Gi"),
        ("opensuse-156", "1Gi"),
        ("opensuse-160", "2Gi"),
        ("cloudlinux-8", "8Gi"),
        ("cloudlinux-9", "9Gi"),
        ("proxmox-8", "2Gi"),
        ("proxmox-9", "2Gi"),
        ("talos-112", "4Gi"),
    ];

    #[test]
    fn the_built_in_catalogue_has_what_users_know() {
        let catalogue = Catalogue::built_in().unwrap();
        let found: Vec<_> = catalogue
            .images()
            .map(|image| (image.name.as_str(), image.minimum_storage.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(found, PAGE);
        for image in catalogue.images() {
            assert_eq!(image.medium == Medium::Iso, image.name.starts_with("proxmox"), "{}", image.name);
            assert!(image.url.scheme() == "https" && !image.os.is_empty(), "{}", image.name);
        }
    }

    #[test]
    fn a_catalogue_that_makes_no_sense_says_where() {
        for (text, said) in [
            ("images: 5", "cannot be read"),
            ("images: [{name: a, url: 'https://x/y', color: red}]", "color"),
            ("images: [{name: A, url: 'https://x/y'}]", "\"A\" is no name"),
            ("images: [{name: a, url: 'ftp://x/y'}]", "ftp://x/y"),
            ("images: [{name: a, url: 'https://x/y', minimumStorage: lots}]", "lots"),
            ("images: [{name: a, url: 'https://x/y', checksum: 'sha256:5'}]", "64 hexadecimal"),
            ("images: [{name: a, url: 'https://x/y'}, {name: a, url: 'https://x/z'}]", "a is there twice"),
        ] {
            let error = Catalogue::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_mirror_has_the_same_paths_below_the_hosts() {
        let mirror = "http://127.0.0.1:81/m/".parse().unwrap();
        let catalogue = Catalogue::built_in().unwrap().mirrored(&mirror);
        let image = catalogue.find("ubuntu-2404").unwrap();
        let folder = "http://127.0.0.1:81/m/cloud-images.ubuntu.com/noble/current";
        assert_eq!(image.url.as_str(), format!("{folder}/noble-server-cloudimg-amd64.img"));
        assert_eq!(image.checksums.as_ref().unwrap().as_str(), format!("{folder}/SHA256SUMS"));
    }
}
