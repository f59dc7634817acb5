//! What clients push: a few layers with much in common, and images of them.

use std::sync::LazyLock;

use bytes::Bytes;
use dvcr::oci::{Digest, MediaType};

use super::super::registry_under_test::sha256;

/// So many layers that each comes and goes.
pub(super) const LAYERS: u64 = 40;

/// Numbers that look random.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// One of several.
    pub(super) fn choose<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        &several[usize::try_from(self.roll(several.len() as u64)).unwrap()]
    }
}

/// A layer, which has most of its bytes in common with the next ones.
pub(super) fn layer(number: u64) -> Bytes {
    MADE[usize::try_from(number).unwrap()].0.clone()
}

pub(super) fn layer_digest(number: u64) -> Digest {
    MADE[usize::try_from(number).unwrap()].1.clone()
}

/// Made once, which takes longer than to store them.
static MADE: LazyLock<Vec<(Bytes, Digest)>> = LazyLock::new(|| {
    let piece = |seed: u64| {
        let mut dice = Dice(seed);
        std::iter::repeat_with(move || u8::try_from(dice.roll(256)).unwrap()).take(12 << 10)
    };
    let made = |number: u64| (number..number + 4).flat_map(piece).collect::<Bytes>();
    (0..LAYERS).map(made).map(|layer| (layer.clone(), sha256(&layer))).collect()
});

/// The configuration of somebody's images.
pub(super) fn config(owner: u64) -> Bytes {
    Bytes::from(format!("{{\"owner\":{owner}}}"))
}

/// The manifest of somebody's image of a layer.
pub(super) fn manifest(owner: u64, number: u64) -> Bytes {
    let config = config(owner);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::IMAGE,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest(number), "size": layer(number).len() }],
    });
    manifest.to_string().into()
}
