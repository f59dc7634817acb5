//! [`Manifest`]: what a registry has to understand of the JSON that it stores.
//!
//! A manifest is stored and served as the bytes that were pushed. This is a reading of them, for the
//! references inside: unknown fields and unknown media types of configs and layers pass, so that
//! tomorrow's artifacts can be stored today.

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::{Digest, MediaType};

/// The references and the self-description of a manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// What it is, by the `Content-Type` it was pushed with or its own `mediaType`.
    pub media_type: MediaType,
    /// The config and the layers, as far as they must be in the registry.
    pub blobs: Vec<Blob>,
    /// Everything that it is made of, also what may be elsewhere: the config and all layers, or what an index lists, which
    /// need not be manifests.
    pub content: Vec<Digest>,
    /// The manifest that this one refers to.
    pub subject: Option<Digest>,
    /// What it is called in a list of referrers: its `artifactType`, or for an image the type of its config.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A blob that a manifest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Bytes, by the manifest's word.
    pub size: u64,
}

/// The descriptor of a manifest that refers to another, as lists of referrers show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// What it is.
    pub media_type: MediaType,
    /// Its name.
    pub digest: Digest,
    /// Bytes in it.
    pub size: u64,
    /// What it is for; an index may not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations, sorted, so that the same list reads the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The bytes are not a manifest that this registry can keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid manifest: {reason}")]
pub struct InvalidManifest {
    /// What is wrong with it.
    pub reason: String,
}

fn invalid(reason: impl Into<String>) -> InvalidManifest {
    InvalidManifest { reason: reason.into() }
}

/// The fields that are looked at, each where any kind of manifest has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads `bytes`, pushed as `content_type` if the client said what they are.
    pub fn parse(bytes: &[u8], content_type: Option<MediaType>) -> Result<Self, InvalidManifest> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("it does not parse: {error}")))?;
        if fields.schema_version != Some(2) {
            return Err(invalid("schemaVersion must be 2"));
        }
        let media_type = fields.media_type(content_type)?;
        match media_type.as_str() {
            MediaType::IMAGE | MediaType::DOCKER_IMAGE => fields.image(media_type),
            MediaType::INDEX | MediaType::DOCKER_LIST => fields.index(media_type),
            other => Err(invalid(format!(
                "{other} is not a type of manifest; use {} or {} (or Docker's schema 2)",
                MediaType::IMAGE,
                MediaType::INDEX
            ))),
        }
    }

    /// The entry for this manifest in a list of referrers (end-12).
    #[must_use]
    pub fn referrer(&self, digest: &Digest, size: u64) -> Referrer {
        Referrer {
            media_type: self.media_type.clone(),
            digest: digest.clone(),
            size,
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

impl Fields {
    fn media_type(&self, content_type: Option<MediaType>) -> Result<MediaType, InvalidManifest> {
        let own = self
            .media_type
            .as_deref()
            .map(str::parse::<MediaType>)
            .transpose()
            .map_err(|error| invalid(error.to_string()))?;
        match (content_type, own) {
            (Some(pushed), Some(own)) if pushed != own => {
                Err(invalid(format!("it was pushed as {pushed} and says that it is {own}")))
            }
            (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
            (None, None) => Err(invalid("it has neither a Content-Type nor a mediaType")),
        }
    }

    fn image(self, media_type: MediaType) -> Result<Manifest, InvalidManifest> {
        if self.manifests.is_some() {
            return Err(invalid("an image manifest has no manifests"));
        }
        let (Some(config), Some(layers)) = (&self.config, &self.layers) else {
            return Err(invalid("an image manifest needs config and layers"));
        };
        let content = std::iter::once(config).chain(layers).map(digest).collect::<Result<_, _>>()?;
        let blobs = std::iter::once(config)
            .chain(layers)
            .filter(|descriptor| must_be_present(descriptor))
            .map(|descriptor| Ok(Blob { digest: digest(descriptor)?, size: descriptor.size() }))
            .collect::<Result<_, _>>()?;
        let artifact_type =
            self.artifact_type.clone().filter(|t| !t.is_empty()).or(Some(config.media_type().to_string()));
        self.manifest(media_type, blobs, content, artifact_type)
    }

    fn index(self, media_type: MediaType) -> Result<Manifest, InvalidManifest> {
        if self.config.is_some() || self.layers.is_some() {
            return Err(invalid("an index has neither config nor layers"));
        }
        let Some(manifests) = &self.manifests else { return Err(invalid("an index needs manifests")) };
        // They need not be in the registry, but they need names.
        let content = manifests.iter().map(digest).collect::<Result<_, _>>()?;
        let artifact_type = self.artifact_type.clone().filter(|t| !t.is_empty());
        self.manifest(media_type, Vec::new(), content, artifact_type)
    }

    fn manifest(
        self,
        media_type: MediaType,
        blobs: Vec<Blob>,
        content: Vec<Digest>,
        artifact_type: Option<String>,
    ) -> Result<Manifest, InvalidManifest> {
        Ok(Manifest {
            media_type,
            blobs,
            content,
            subject: self.subject.as_ref().map(digest).transpose()?,
            artifact_type,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// Layers that may be left out, or fetched from elsewhere, are not asked for.
fn must_be_present(descriptor: &Descriptor) -> bool {
    !MediaType::is_nondistributable(descriptor.media_type().as_ref())
        && descriptor.urls().as_ref().is_none_or(Vec::is_empty)
}

fn digest(descriptor: &Descriptor) -> Result<Digest, InvalidManifest> {
    descriptor.digest().to_string().parse().map_err(|error: super::InvalidDigest| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn image(extra: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"application/x.config","digest":"{A}","size":2}},
               "layers":[{{"mediaType":"application/x.layer","digest":"{B}","size":3 {layer}}}] {extra}}}"#,
            MediaType::IMAGE
        )
    }

    fn parse(text: &str) -> Result<Manifest, InvalidManifest> {
        Manifest::parse(text.as_bytes(), None)
    }

    #[test]
    fn an_image_needs_its_config_and_its_layers() {
        let manifest = parse(&image("", "")).unwrap();
        let found: Vec<_> = manifest.blobs.iter().map(|b| (b.digest.to_string(), b.size)).collect();
        assert_eq!(found, [(A.to_owned(), 2), (B.to_owned(), 3)]);
    }

    #[test]
    fn a_layer_with_urls_or_of_a_nondistributable_type_may_be_missing() {
        let with_urls = parse(&image("", r#","urls":["https://example.com/x"]"#)).unwrap();
        assert_eq!(with_urls.blobs.len(), 1);
        let text = image("", "").replace("x.layer", "vnd.oci.image.layer.nondistributable.v1.tar");
        assert_eq!(parse(&text).unwrap().blobs.len(), 1);
    }

    #[test]
    fn unknown_fields_pass() {
        assert!(parse(&image(r#","future":{"deep":[1]}"#, r#","data":"e30=","odd":true"#)).is_ok());
    }

    #[test]
    fn the_artifact_type_of_an_image_defaults_to_its_config() {
        assert_eq!(parse(&image("", "")).unwrap().artifact_type.as_deref(), Some("application/x.config"));
        let own = parse(&image(r#","artifactType":"application/x.own""#, "")).unwrap();
        assert_eq!(own.artifact_type.as_deref(), Some("application/x.own"));
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let pushed_as_index = Some(MediaType::INDEX.parse().unwrap());
        assert!(Manifest::parse(image("", "").as_bytes(), pushed_as_index).is_err());
        for text in [
            "",
            "{",
            "[]",
            "null",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"mediaType":"text/html"}"#,
            &image("", "").replace(B, "sha256:short"),
            &image("", "").replace("\"size\":3", "\"size\":-1"),
            &image(r#","manifests":[]"#, ""),
            &image("", "").replace(r#""layers""#, r#""plates""#),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
