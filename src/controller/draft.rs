//! [`Draft`]: the status that an image is to get.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use super::condition::{self, Reason, Said, Type};
use super::crd::{DownloadSpeed, ImageStatus, Size, Target};
use super::provisioner::Imported;
use super::quantity;
use crate::disk::Format;
use crate::importer::Meter;

/// The status of an image while it is reconciled.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    before: ImageStatus,
    pub(super) status: ImageStatus,
    generation: Option<i64>,
    is_held: bool,
}

impl Draft {
    pub(super) fn new(before: ImageStatus, generation: Option<i64>) -> Self {
        Self { status: before.clone(), before, generation, is_held: false }
    }

    /// Forgets everything, for a spec that has changed.
    pub(super) fn reset(&mut self) {
        self.status = ImageStatus::default();
    }

    /// The spec has changed, and what was begun for the one before has not ended yet.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// Whether this object is what the image is being made from: it is used to the end, also when it is to go meanwhile.
    pub(super) fn takes_from(&self, object: &ObjectMeta) -> bool {
        self.status.source_uid.is_some() && self.status.source_uid == object.uid
    }

    pub(super) fn say(&mut self, kind: Type, said: Said) {
        condition::set(&mut self.status, kind, self.generation, said);
    }

    /// The image waits for something: nothing is under way.
    pub(super) fn wait(&mut self, reason: Reason, message: impl Into<String>) {
        self.say(Type::Ready, Said::no(reason, message));
        self.status.progress = None;
        self.status.download_speed = None;
        self.status.image_upload_urls = None;
    }

    /// Something goes on, which is `part` of all that the image takes, from 0 to 1.
    pub(super) fn advance(&mut self, reason: Reason, message: impl Into<String>, part: f64) {
        self.say(Type::Ready, Said::no(reason, message));
        // Whatever is begun anew on the way, people have seen the higher number.
        let seen = self.status.progress.as_deref().map_or(0.0, quantity::fraction);
        self.status.progress = Some(quantity::progress(seen.max(part)));
    }

    pub(super) fn speed(&mut self, meter: Meter) {
        self.status.download_speed = Some(DownloadSpeed {
            avg: format!("{}/s", quantity::size(meter.average)),
            avg_bytes: meter.average.to_string(),
            current: format!("{}/s", quantity::size(meter.current)),
            current_bytes: meter.current.to_string(),
        });
    }

    /// The disk is in the registry, and this is what it is.
    pub(super) fn imported(&mut self, imported: &Imported) {
        self.status.format = Some(imported.format.to_string());
        self.status.cdrom = Some(imported.format == Format::Iso);
        self.status.size = Some(Size {
            stored: quantity::size(imported.stored_size),
            stored_bytes: imported.stored_size.to_string(),
            unpacked: quantity::size(imported.virtual_size),
            unpacked_bytes: imported.virtual_size.to_string(),
        });
        self.status.download_speed = Some(DownloadSpeed {
            avg: format!("{}/s", quantity::size(imported.average)),
            avg_bytes: imported.average.to_string(),
            ..DownloadSpeed::default()
        });
    }

    /// The image is there, at `target`.
    pub(super) fn ready(&mut self, target: Target) {
        self.say(Type::Ready, Said::yes(Reason::Ready));
        self.status.progress = Some("100%".to_owned());
        self.status.target = Some(target);
        self.status.image_upload_urls = None;
    }

    /// It can never be made from this spec.
    pub(super) fn fail(&mut self, reason: Reason, message: impl Into<String>) {
        self.say(Type::Ready, Said::no(reason, message));
        self.status.download_speed = None;
        self.status.image_upload_urls = None;
    }

    /// The whole status.
    pub(super) fn finish(mut self, is_deleted: bool) -> Finished {
        self.status.phase = Some(condition::phase(&self.status, is_deleted));
        if !self.is_held {
            self.status.observed_generation = self.generation;
        }
        let change = if self.status == self.before {
            Change::None
        } else if quiet(&self.status) == quiet(&self.before) {
            Change::Progress
        } else {
            Change::State
        };
        Finished { status: self.status, change }
    }
}

/// A status that can be written.
pub(super) struct Finished {
    pub(super) status: ImageStatus,
    pub(super) change: Change,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// Numbers that run.
    Progress,
    /// More than that.
    State,
}

/// A status without what changes from moment to moment.
fn quiet(status: &ImageStatus) -> ImageStatus {
    let conditions = status.conditions.iter().cloned();
    let conditions = conditions.map(|condition| Condition { message: String::new(), ..condition }).collect();
    ImageStatus { progress: None, download_speed: None, conditions, ..status.clone() }
}
