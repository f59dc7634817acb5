//! Conditions: the record of an image's state, from which its phase is derived.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::crd::{ImageStatus, Phase};

/// The types of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// What the image is made from is there.
    DatasourceReady,
    /// The image can be used.
    Ready,
    /// The storage class of its claim is there.
    StorageClassReady,
    /// Somebody uses it.
    InUse,
    /// It is being deleted, and something is in the way.
    Terminating,
    /// Its claim is being made larger.
    Resizing,
}

impl Type {
    /// As it is written.
    #[must_use]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::DatasourceReady => "DatasourceReady",
            Self::Ready => "Ready",
            Self::StorageClassReady => "StorageClassReady",
            Self::InUse => "InUse",
            Self::Terminating => "Terminating",
            Self::Resizing => "Resizing",
        }
    }
}

/// Why a condition has its status. One table, so that a newcomer sees all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    DatasourceReady,
    SourceUnreachable,
    GoldenImageNotFound,
    DiskNotReady,
    ContainerRegistrySecretNotFound,
    ImageNotReady,
    ClusterImageNotReady,
    VirtualDiskNotReady,
    VirtualDiskSnapshotNotReady,
    VirtualDiskAttachedToVirtualMachine,
    InvalidSpec,
    WaitForUserUpload,
    WaitForUserUploadTimeout,
    Provisioning,
    ProvisioningFailed,
    ProvisioningFailedTerminally,
    DiskTooSmall,
    Resizing,
    ResizeFailed,
    Ready,
    ImageLost,
    PvcLost,
    DatasourceNotReady,
    StorageClassReady,
    StorageClassNotFound,
    StorageClassNotReady,
    AttachedToVirtualMachine,
    NotInUse,
    CleanupPending,
    MachineRefused,
    NameTaken,
    KubeVirtNotFound,
    ServiceReplaced,
}

impl Reason {
    /// As it is written.
    #[must_use]
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::DatasourceReady => "DatasourceReady",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::GoldenImageNotFound => "GoldenImageNotFound",
            Self::DiskNotReady => "DiskNotReady",
            Self::ContainerRegistrySecretNotFound => "ContainerRegistrySecretNotFound",
            Self::ImageNotReady => "ImageNotReady",
            Self::ClusterImageNotReady => "ClusterImageNotReady",
            Self::VirtualDiskNotReady => "VirtualDiskNotReady",
            Self::VirtualDiskSnapshotNotReady => "VirtualDiskSnapshotNotReady",
            Self::VirtualDiskAttachedToVirtualMachine => "VirtualDiskAttachedToVirtualMachine",
            Self::InvalidSpec => "InvalidSpec",
            Self::WaitForUserUpload => "WaitForUserUpload",
            Self::WaitForUserUploadTimeout => "WaitForUserUploadTimeout",
            Self::Provisioning => "Provisioning",
            Self::ProvisioningFailed => "ProvisioningFailed",
            Self::ProvisioningFailedTerminally => "ProvisioningFailedTerminally",
            Self::DiskTooSmall => "DiskTooSmall",
            Self::Resizing => "Resizing",
            Self::ResizeFailed => "ResizeFailed",
            Self::Ready => "Ready",
            Self::ImageLost => "ImageLost",
            Self::PvcLost => "PVCLost",
            Self::DatasourceNotReady => "DatasourceNotReady",
            Self::StorageClassReady => "StorageClassReady",
            Self::StorageClassNotFound => "StorageClassNotFound",
            Self::StorageClassNotReady => "StorageClassNotReady",
            Self::AttachedToVirtualMachine => "AttachedToVirtualMachine",
            Self::NotInUse => "NotInUse",
            Self::CleanupPending => "CleanupPending",
            Self::MachineRefused => "MachineRefused",
            Self::NameTaken => "NameTaken",
            Self::KubeVirtNotFound => "KubeVirtNotFound",
            Self::ServiceReplaced => "ServiceReplaced",
        }
    }
}

/// The longest message, in characters, that the API takes.
const LONGEST_MESSAGE: usize = 32_768;

/// What a condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Whether it holds.
    pub(super) holds: bool,
    /// Why.
    pub(super) reason: Reason,
    /// In a sentence; may be empty where there is nothing to add.
    pub(super) message: String,
}

impl Said {
    /// It holds.
    #[must_use]
    pub(super) fn yes(reason: Reason) -> Self {
        Self { holds: true, reason, message: String::new() }
    }

    /// It does not hold.
    #[must_use]
    pub(super) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

/// Sets a condition of an image.
pub(super) fn set(status: &mut ImageStatus, kind: Type, generation: Option<i64>, said: Said) {
    set_in(&mut status.conditions, kind.as_str(), generation, said);
}

/// Sets a condition among others. Its time moves only when its status does.
pub(super) fn set_in(conditions: &mut Vec<Condition>, kind: &str, generation: Option<i64>, said: Said) {
    let Said { holds, reason, message } = said;
    let text = if holds { "True" } else { "False" };
    let found = conditions.iter_mut().find(|condition| condition.type_ == kind);
    let now = || Time(now());
    let message: String = message.chars().take(LONGEST_MESSAGE).collect();
    match found {
        Some(condition) => {
            if condition.status != text {
                condition.last_transition_time = now();
                text.clone_into(&mut condition.status);
            }
            reason.as_str().clone_into(&mut condition.reason);
            condition.message = message;
            condition.observed_generation = generation;
        }
        None => conditions.push(Condition {
            type_: kind.to_owned(),
            status: text.to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: now(),
        }),
    }
}

/// The time in whole seconds, as the API keeps it: a finer one would differ from what is read back.
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Removes a condition.
pub(super) fn remove(status: &mut ImageStatus, kind: Type) {
    status.conditions.retain(|condition| condition.type_ != kind.as_str());
}

/// A condition.
#[must_use]
pub(super) fn find(status: &ImageStatus, kind: Type) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

/// Whether a condition has this reason now.
#[must_use]
pub(super) fn has_reason(status: &ImageStatus, kind: Type, reason: Reason) -> bool {
    find(status, kind).is_some_and(|condition| condition.reason == reason.as_str())
}

/// Whether the message of a condition begins with this now.
#[must_use]
pub(super) fn begins_with(status: &ImageStatus, kind: Type, text: &str) -> bool {
    find(status, kind).is_some_and(|condition| condition.message.starts_with(text))
}

/// Whether a condition holds.
#[must_use]
pub(super) fn holds(status: &ImageStatus, kind: Type) -> bool {
    find(status, kind).is_some_and(|condition| condition.status == "True")
}

/// The phase that the conditions amount to.
#[must_use]
pub(super) fn phase(status: &ImageStatus, is_deleted: bool) -> Phase {
    if is_deleted {
        return Phase::Terminating;
    }
    let Some(ready) = find(status, Type::Ready) else { return Phase::Pending };
    if ready.status == "True" {
        return Phase::Ready;
    }
    let is = |reason: Reason| ready.reason == reason.as_str();
    if is(Reason::WaitForUserUpload) {
        Phase::WaitForUserUpload
    } else if is(Reason::Provisioning) || is(Reason::ProvisioningFailed) {
        Phase::Provisioning
    } else if is(Reason::ProvisioningFailedTerminally)
        || is(Reason::WaitForUserUploadTimeout)
        || is(Reason::DiskTooSmall)
        || is(Reason::InvalidSpec)
    {
        Phase::Failed
    } else if is(Reason::ImageLost) {
        Phase::ImageLost
    } else if is(Reason::PvcLost) {
        Phase::PvcLost
    } else {
        Phase::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status() {
        let mut status = ImageStatus::default();
        set(&mut status, Type::Ready, Some(1), Said::no(Reason::Provisioning, "a"));
        let long_ago = Time(jiff::Timestamp::UNIX_EPOCH);
        status.conditions[0].last_transition_time = long_ago.clone();
        set(&mut status, Type::Ready, Some(2), Said::no(Reason::ProvisioningFailed, "b"));
        assert_eq!(status.conditions[0].last_transition_time, long_ago);
        assert_eq!(status.conditions[0].message, "b");
        set(&mut status, Type::Ready, Some(2), Said::yes(Reason::Ready));
        assert_ne!(status.conditions[0].last_transition_time, long_ago);
        assert_eq!(status.conditions.len(), 1);
    }

    #[test]
    fn the_phase_follows_from_the_conditions() {
        for (said, phase_then) in [
            (Said::no(Reason::DatasourceNotReady, ""), Phase::Pending),
            (Said::no(Reason::WaitForUserUpload, ""), Phase::WaitForUserUpload),
            (Said::no(Reason::Provisioning, ""), Phase::Provisioning),
            (Said::no(Reason::ProvisioningFailed, ""), Phase::Provisioning),
            (Said::no(Reason::ProvisioningFailedTerminally, ""), Phase::Failed),
            (Said::no(Reason::WaitForUserUploadTimeout, ""), Phase::Failed),
            (Said::no(Reason::DiskTooSmall, ""), Phase::Failed),
            (Said::yes(Reason::Ready), Phase::Ready),
            (Said::no(Reason::ImageLost, ""), Phase::ImageLost),
            (Said::no(Reason::PvcLost, ""), Phase::PvcLost),
        ] {
            let mut status = ImageStatus::default();
            set(&mut status, Type::Ready, None, said);
            assert_eq!(phase(&status, false), phase_then);
            assert_eq!(phase(&status, true), Phase::Terminating);
        }
        assert_eq!(phase(&ImageStatus::default(), false), Phase::Pending);
    }
}
