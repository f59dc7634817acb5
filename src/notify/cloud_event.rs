//! What a receiver gets: an event in the structured form of [CloudEvents](https://cloudevents.io) 1.0, in JSON.
//!
//! It is what brokers and workflow engines take as it is, and says each thing once. Distribution's own envelope has a list of
//! events with one tag each, and nowhere to put the several tags of one push.
//!
//! Fields may be added. None is taken away or changes what it means; what is not known is left out.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::oci::{Digest, MediaType, Tag};
use crate::registry::{Change, Event, written_at};

/// The type of a body.
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: Uuid,
    source: String,
    r#type: &'static str,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    action: &'static str,
    registry: &'a str,
    repository: &'a str,
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a MediaType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// The body that tells of an event, which is called `id`, in a registry of that name.
pub(super) fn body(id: Uuid, event: &Event, registry: &str) -> Bytes {
    let (kind, action) = match event.change {
        Change::Pushed => ("dvcr.manifest.pushed", "push"),
        Change::ManifestDeleted => ("dvcr.manifest.deleted", "delete"),
        Change::TagDeleted => ("dvcr.tag.deleted", "delete"),
    };
    let repository = event.repository.as_str();
    let subject = match (event.tags.as_slice(), &event.digest) {
        ([tag], _) => format!("{repository}:{tag}"),
        (_, Some(digest)) => format!("{repository}@{digest}"),
        (_, None) => repository.to_owned(),
    };
    let time = written_at(id).and_then(|written| Timestamp::from_millisecond(written.try_into().ok()?).ok());
    let event = CloudEvent {
        specversion: "1.0",
        id,
        source: format!("//{registry}"),
        r#type: kind,
        subject,
        time: time.unwrap_or_default().to_string(),
        datacontenttype: "application/json",
        data: Data {
            action,
            registry,
            repository,
            tags: event.tags.iter().map(Tag::as_str).collect(),
            digest: event.digest.as_ref(),
            media_type: event.media_type.as_ref(),
            size: event.size,
            user: event.user.as_deref(),
            reason: event.reason.as_deref(),
            request_id: event.request.as_deref(),
        },
    };
    let body =
        serde_json::to_vec(&event).unwrap_or_else(|e| unreachable!("plain data always serialises: {e}"));
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "019abc00-0000-7000-8000-000000000001";

    fn event() -> Event {
        Event {
            change: Change::Pushed,
            repository: "disks/noble".parse().unwrap(),
            tags: vec!["v1".parse().unwrap()],
            digest: Some(format!("sha256:{}", "ab".repeat(32)).parse().unwrap()),
            media_type: Some("application/vnd.oci.image.manifest.v1+json".parse().unwrap()),
            size: Some(527),
            user: Some("alice".to_owned()),
            reason: None,
            request: Some("build-42".to_owned()),
        }
    }

    fn sent(event: &Event) -> Value {
        serde_json::from_slice(&body(ID.parse().unwrap(), event, "registry.example.com")).unwrap()
    }

    #[test]
    fn a_push_reads_as_this() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let expected = json!({
            "specversion": "1.0",
            "id": ID,
            "source": "//registry.example.com",
            "type": "dvcr.manifest.pushed",
            "subject": "disks/noble:v1",
            "time": "2025-11-25T17:11:47.968Z",
            "datacontenttype": "application/json",
            "data": {
                "action": "push",
                "registry": "registry.example.com",
                "repository": "disks/noble",
                "tags": ["v1"],
                "digest": digest,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "size": 527,
                "user": "alice",
                "requestId": "build-42",
            },
        });
        assert_eq!(sent(&event()), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_tags_are_always_a_list() {
        let bare = Event {
            change: Change::TagDeleted,
            digest: None,
            media_type: None,
            size: None,
            user: None,
            request: None,
            ..event()
        };
        let data = json!({
            "action": "delete",
            "registry": "registry.example.com",
            "repository": "disks/noble",
            "tags": ["v1"],
        });
        assert_eq!(sent(&bare)["data"], data);
        assert_eq!(sent(&bare)["type"], "dvcr.tag.deleted");
    }

    #[test]
    fn the_subject_is_the_one_tag_or_the_manifest() {
        let deleted = Event { change: Change::ManifestDeleted, tags: Vec::new(), ..event() };
        let by_digest = format!("disks/noble@sha256:{}", "ab".repeat(32));
        assert_eq!(sent(&deleted)["subject"], by_digest);
        assert_eq!(sent(&deleted)["data"]["tags"], json!([]));
        let many = Event { tags: vec!["a".parse().unwrap(), "b".parse().unwrap()], ..event() };
        assert_eq!(sent(&many)["subject"], by_digest);
    }
}
