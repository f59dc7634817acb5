//! [`Selection`]: from a reference to the manifest of one image.
//!
//! An index names an image for each machine; a disk for the wrong one does not boot. What is chosen is the same for images on
//! other registries and for those of this one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use crate::oci::{Digest, InvalidDigest, MediaType};

/// What a machine must be: `linux/amd64`. The third part of `linux/arm64/v8` is of no interest to a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system by which container images are chosen; for disks always `linux`.
    pub os: String,
    /// The machine, in Go's words.
    pub architecture: String,
}

/// The text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: it must read OS/ARCHITECTURE, as in linux/amd64")]
pub struct InvalidPlatform(String);

impl Platform {
    /// A Linux node's of an architecture.
    #[must_use]
    pub fn linux(architecture: &str) -> Self {
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), _, None) if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Its name.
    pub digest: Digest,
    /// Bytes, as stored.
    pub size: u64,
    /// What the manifest calls it.
    pub media_type: String,
}

/// Nothing can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// It is no image.
    #[error("{image} is no disk image: {reason}")]
    NotAnImage {
        /// The image.
        image: String,
        /// Why not.
        reason: String,
    },
    /// The index has nothing for the platform.
    #[error("{image} has no image for {wanted}; it has {}", available.join(", "))]
    NoPlatform {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
}

/// What the manifest of an image says.
#[derive(Debug)]
pub struct SelectedImage {
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// Its config's digest.
    pub config: Digest,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest leads to.
#[derive(Debug)]
pub enum Step {
    /// Another manifest, which is to be followed in turn.
    Manifest(Digest),
    /// The image.
    Image(SelectedImage),
}

/// An index may name an index; a third one is somebody's joke.
const DEPTH: usize = 2;

/// The way from a reference to the manifest of an image.
#[derive(Debug)]
pub struct Selection {
    image: String,
    platform: Option<Platform>,
    depth: usize,
}

impl Selection {
    /// Of an index, the image for `platform` is taken; without one, the only image or that for linux/amd64. `image` is for
    /// errors.
    #[must_use]
    pub fn of(image: String, platform: Option<Platform>) -> Self {
        Self { image, platform, depth: 0 }
    }

    /// Reads the manifest that the way has led to.
    pub fn follow(&mut self, media_type: &MediaType, bytes: &[u8]) -> Result<Step, SelectionError> {
        match media_type.as_str() {
            MediaType::INDEX | MediaType::DOCKER_LIST if self.depth == DEPTH => {
                Err(self.not_an_image("its index names an index that names an index"))
            }
            MediaType::INDEX | MediaType::DOCKER_LIST => {
                self.depth += 1;
                Ok(Step::Manifest(self.choose(bytes)?))
            }
            MediaType::IMAGE | MediaType::DOCKER_IMAGE => Ok(Step::Image(self.read(bytes)?)),
            other => Err(self.not_an_image(format!("it is {other}"))),
        }
    }

    fn read(&self, manifest: &[u8]) -> Result<SelectedImage, SelectionError> {
        let manifest: ImageManifest =
            serde_json::from_slice(manifest).map_err(|error| self.not_an_image(error.to_string()))?;
        let layer = |layer: &Descriptor| {
            let media_type = layer.media_type().to_string();
            Ok(ImageLayer { digest: self.digest(layer)?, size: layer.size(), media_type })
        };
        Ok(SelectedImage {
            layers: manifest.layers().iter().map(layer).collect::<Result<_, SelectionError>>()?,
            config: self.digest(manifest.config())?,
            annotations: manifest.annotations().clone().unwrap_or_default().into_iter().collect(),
        })
    }

    /// The entry of an index for the platform. One that names no platform fits all.
    fn choose(&self, index: &[u8]) -> Result<Digest, SelectionError> {
        let index: ImageIndex =
            serde_json::from_slice(index).map_err(|error| self.not_an_image(error.to_string()))?;
        let named = |entry: &Descriptor| {
            let platform = entry.platform().as_ref()?;
            Some(Platform {
                os: platform.os().to_string(),
                architecture: platform.architecture().to_string(),
            })
        };
        // Build tools put attestations beside images.
        let entries: Vec<_> =
            index.manifests().iter().filter(|entry| named(entry).is_none_or(|p| p.os != "unknown")).collect();
        let wanted = self.platform.clone().unwrap_or_else(|| Platform::linux("amd64"));
        let fitting = entries.iter().find(|entry| named(entry).as_ref() == Some(&wanted));
        let anything = entries.iter().find(|entry| named(entry).is_none());
        let only = (self.platform.is_none() && entries.len() == 1).then(|| entries.first()).flatten();
        match fitting.or(anything).or(only) {
            Some(entry) => self.digest(entry),
            None => Err(SelectionError::NoPlatform {
                image: self.image.clone(),
                wanted,
                available: entries.iter().filter_map(|entry| Some(named(entry)?.to_string())).collect(),
            }),
        }
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest, SelectionError> {
        let digest = descriptor.digest().to_string();
        digest.parse().map_err(|error: InvalidDigest| self.not_an_image(error.to_string()))
    }

    fn not_an_image(&self, reason: impl Into<String>) -> SelectionError {
        SelectionError::NotAnImage { image: self.image.clone(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn index(entries: &[(&str, Option<(&str, &str)>)]) -> Vec<u8> {
        let entries: Vec<_> = entries
            .iter()
            .map(|(digit, platform)| {
                let mut entry =
                    serde_json::json!({"mediaType": MediaType::IMAGE, "digest": name(digit), "size": 1});
                if let Some((os, architecture)) = platform {
                    entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                }
                entry
            })
            .collect();
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    }

    fn chosen(entries: &[(&str, Option<(&str, &str)>)], platform: Option<&str>) -> Option<String> {
        let platform: Option<Platform> = platform.map(|text| text.parse().unwrap());
        let selection = Selection::of("r.example/x".to_owned(), platform);
        selection.choose(&index(entries)).ok().map(|digest| digest.to_string())
    }

    #[test]
    fn the_image_of_the_platform_is_chosen() {
        let entries = [
            ("a", Some(("linux", "arm64"))),
            ("b", Some(("linux", "amd64"))),
            ("c", Some(("unknown", "unknown"))),
        ];
        assert_eq!(chosen(&entries, None), Some(name("b")));
        assert_eq!(chosen(&entries, Some("linux/arm64")), Some(name("a")));
        assert_eq!(chosen(&entries, Some("linux/s390x")), None);
        assert_eq!(chosen(&entries, Some("unknown/unknown")), None);
    }

    #[test]
    fn the_only_image_is_taken_unless_another_platform_is_asked_for() {
        let entries = [("a", Some(("linux", "arm64"))), ("c", Some(("unknown", "unknown")))];
        assert_eq!(chosen(&entries, None), Some(name("a")));
        assert_eq!(chosen(&entries, Some("linux/amd64")), None);
        assert_eq!(chosen(&[("d", None)], Some("linux/amd64")), Some(name("d")));
    }
}
