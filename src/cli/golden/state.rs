//! What there is of a golden image.

use serde::Serialize;

use crate::controller::GoldenImage;
use crate::controller::crd::ClusterVirtualImage;

/// An image and its versions.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    #[serde(flatten)]
    image: GoldenImage,
    versions: Vec<Version>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    name: String,
    phase: String,
    progress: Option<String>,
    digest: Option<String>,
}

impl State {
    /// Of versions, the newest comes first.
    pub(super) fn of(image: &GoldenImage, versions: &[ClusterVirtualImage]) -> Self {
        let version = |version: &ClusterVirtualImage| Version {
            name: version.metadata.name.clone().unwrap_or_default(),
            phase: phase(version).to_owned(),
            progress: version.status.as_ref().and_then(|status| status.progress.clone()),
            digest: version.status.as_ref().and_then(|status| status.digest.clone()),
        };
        Self { image: image.clone(), versions: versions.iter().map(version).collect() }
    }

    /// Its line in a table.
    pub(super) fn row(&self) -> Vec<String> {
        let Self { image, versions } = self;
        let dash = || "-".to_owned();
        let newest = versions.first();
        let state = newest.map_or_else(dash, |version| match &version.progress {
            Some(progress) if version.phase != "Ready" => format!("{} {progress}", version.phase),
            _ => version.phase.clone(),
        });
        vec![
            image.name.clone(),
            image.os.clone(),
            image.medium.as_str().to_owned(),
            image.minimum_storage.clone().unwrap_or_else(dash),
            state,
            versions.len().to_string(),
            newest.map_or_else(dash, |version| version.name.clone()),
        ]
    }
}

/// The phase of a version.
pub(super) fn phase(version: &ClusterVirtualImage) -> &'static str {
    let phase = version.status.as_ref().and_then(|status| status.phase);
    phase.unwrap_or_default().as_str()
}

/// Why a version is as it is.
pub(super) fn message(version: &ClusterVirtualImage) -> String {
    let conditions = version.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    ready.map(|ready| ready.message.clone()).unwrap_or_default()
}
