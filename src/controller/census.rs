//! [`Census`]: how many images there are in which phase, as the controller has seen them last.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::crd::Phase;
use super::image::{ImageId, Kind};

/// The phases of all images that were reconciled by this process.
#[derive(Debug, Default)]
pub struct Census(Mutex<HashMap<ImageId, Phase>>);

impl Census {
    /// An image was seen in this phase.
    pub(super) fn saw(&self, image: &ImageId, phase: Phase) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(image.clone(), phase);
    }

    /// An image is gone.
    pub(super) fn forget(&self, image: &ImageId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
    }

    /// How many there are of each kind in each phase, zeros too.
    #[must_use]
    pub fn count(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for kind in Kind::ALL {
            for phase in Phase::ALL {
                counts.insert((kind.as_str(), phase.as_str()), 0);
            }
        }
        for (image, phase) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *counts.entry((image.kind.as_str(), phase.as_str())).or_default() += 1;
        }
        counts.into_iter().map(|((kind, phase), count)| (kind, phase, count)).collect()
    }
}
