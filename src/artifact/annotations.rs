//! The words of an image's labels and annotations.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use url::Url;

use crate::client::redacted;

/// Label: bytes of the file in the layer (Deckhouse virtualization).
pub const LABEL_SIZE: &str = "source-image-size";
/// Label: bytes of the disk that a machine sees (Deckhouse virtualization).
pub const LABEL_VIRTUAL_SIZE: &str = "source-image-virtual-size";
/// Label: the format, as in `qcow2` (Deckhouse virtualization).
pub const LABEL_FORMAT: &str = "source-image-format";
/// Label: the tar has its end marker, without which containerd's erofs differ refuses it (Deckhouse virtualization).
pub(super) const LABEL_COMPLETE_TAR: (&str, &str) = ("erofs-compatible-layers", "true");

/// Where an image comes from, for people: the annotations of the image specification.
///
/// They depend on the source alone, not on when or by whom it was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// The name of the source's file.
    pub title: Option<String>,
    /// The source's URL; user info, query and fragment are left out, as they may be secret.
    pub source: Option<Url>,
    /// When the source was made, by its server or file system.
    pub created: Option<SystemTime>,
}

impl Annotations {
    /// As pairs of the specification.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let source = self.source.as_ref().map(redacted);
        let created = self.created.map(rfc3339);
        [
            ("org.opencontainers.image.title", self.title.clone()),
            ("org.opencontainers.image.source", source),
            ("org.opencontainers.image.created", created),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    }
}

/// A moment in UTC, to the second.
fn rfc3339(moment: SystemTime) -> String {
    DateTime::<Utc>::from(moment).to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, text) in [(0, "1970-01-01T00:00:00Z"), (1_709_251_199, "2024-02-29T23:59:59Z")] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_source_is_named_without_its_secrets() {
        let source = "https://user:pass@host/a.img?token=1#x".parse().unwrap();
        let annotations = Annotations { source: Some(source), ..Annotations::default() };
        let pairs: Vec<_> = annotations.pairs().collect();
        assert_eq!(pairs, [("org.opencontainers.image.source".to_owned(), "https://host/a.img".to_owned())]);
    }
}
