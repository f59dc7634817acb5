//! Events: one store, two kinds.
//!
//! Controllers write `events.k8s.io/v1`, and kubectl reads `v1`. The two have the same fields under other names. What
//! is stored is `v1`, which is the one that is read.

use crate::apimachinery::Cause;
use crate::apimachinery::table::age;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Builtin, EVENTS, Resource, ResourceError, column, core};
use crate::apiserver::{cause, metadata};

/// How long an event is kept after it was last seen.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// The fields whose names differ: in `v1`, and in `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub(super) fn core_resource() -> Result<Resource, ResourceError> {
    let resource = core(Builtin::CoreEvent, "Event", &["ev"], &fields(|core, _| core))?;
    Ok(Resource {
        columns: columns(),
        selectable: selectable("involvedObject", "reportingComponent"),
        ..resource
    })
}

pub(super) fn resource() -> Result<Resource, ResourceError> {
    let resource = core(Builtin::Event, "Event", &["ev"], &fields(|_, new| new))?;
    Ok(Resource {
        group: "events.k8s.io".to_owned(),
        columns: columns(),
        selectable: selectable("regarding", "reportingController"),
        storage: EVENTS.to_owned(),
        alias_of: None,
        ..resource
    })
}

fn selectable(subject: &str, reporter: &str) -> Vec<String> {
    ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"]
        .map(|field| format!("{subject}.{field}"))
        .into_iter()
        .chain([reporter.to_owned(), "reason".to_owned(), "type".to_owned()])
        .collect()
}

/// The schema; `name` chooses between the names of a field.
fn fields(name: impl Fn(&'static str, &'static str) -> &'static str) -> Value {
    let time = json!({ "type": "string", "format": "date-time", "nullable": true });
    let text = |description: &str| json!({ "type": "string", "description": description });
    let reference = json!({
        "type": "object",
        "properties": {
            "kind": { "type": "string" },
            "namespace": { "type": "string" },
            "name": { "type": "string" },
            "uid": { "type": "string" },
            "apiVersion": { "type": "string" },
            "resourceVersion": { "type": "string" },
            "fieldPath": { "type": "string" },
        },
        "x-kubernetes-map-type": "atomic",
    });
    let mut fields = json!({
        "reason": text("Why the event happened, in one word for machines."),
        "type": text("Normal or Warning."),
        "action": text("What was done or failed."),
        "reportingInstance": text("Which instance of the controller reports it."),
        "eventTime": time,
        "related": reference,
        "series": {
            "type": "object",
            "nullable": true,
            "description": "How often the event has happened, if more than once.",
            "properties": { "count": { "type": "integer" }, "lastObservedTime": time },
        },
    });
    for (core, new) in NAMES {
        fields[name(core, new)] = match core {
            "involvedObject" => reference.clone(),
            "message" => text("What happened, for people."),
            "reportingComponent" => text("The controller that reports the event."),
            "source" => json!({
                "type": "object",
                "properties": { "component": { "type": "string" }, "host": { "type": "string" } },
            }),
            "count" => json!({ "type": "integer" }),
            _ => time.clone(),
        };
    }
    fields
}

pub(super) fn from_core(stored: &Value) -> Value {
    rename(stored, "events.k8s.io/v1", |core, new| (core, new))
}

pub(super) fn to_core(served: &Value) -> Value {
    rename(served, "v1", |core, new| (new, core))
}

fn rename(
    event: &Value,
    api_version: &str,
    direction: impl Fn(&'static str, &'static str) -> (&'static str, &'static str),
) -> Value {
    let mut event = event.clone();
    if let Some(event) = event.as_object_mut() {
        event.insert("apiVersion".into(), json!(api_version));
        for (core, new) in NAMES {
            let (from, to) = direction(core, new);
            if let Some(value) = event.remove(from) {
                event.insert(to.to_owned(), value);
            }
        }
    }
    event
}

/// A `v1` event lies in the namespace of its subject, and one about something without a namespace in `default`. About
/// the others, kube-apiserver does not care.
pub(super) fn validate(event: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if let Some(subject) = event.get("involvedObject") {
        let subject = subject.get("namespace").and_then(Value::as_str).unwrap_or_default();
        let namespace = metadata::text(event, "namespace");
        if subject != namespace && !(subject.is_empty() && matches!(namespace, "default" | "kube-system")) {
            causes.push(cause::invalid(
                "involvedObject.namespace",
                &json!(subject),
                "does not match event.namespace",
            ));
        }
    }
    if !matches!(text("/type"), "" | "Normal" | "Warning") {
        let why = format!("has invalid value: {}", text("/type"));
        causes.push(cause::invalid("type", &json!(""), &why));
    }
    causes
}

/// When it was last seen.
fn last_seen(stored: &Value) -> Option<&str> {
    let text = |path: &str| stored.pointer(path).and_then(Value::as_str);
    text("/series/lastObservedTime").or_else(|| text("/lastTimestamp")).or_else(|| first_seen(stored))
}

fn first_seen(stored: &Value) -> Option<&str> {
    let text = |path: &str| stored.pointer(path).and_then(Value::as_str);
    text("/firstTimestamp").or_else(|| text("/eventTime"))
}

/// Whether it is time to forget it.
pub(in crate::apiserver) fn is_expired(stored: &Value, now: Timestamp) -> bool {
    let created = metadata::text(stored, "creationTimestamp");
    let seen = [last_seen(stored), Some(created)].into_iter().flatten();
    // One whose times cannot be read is not kept for ever: it has been created at some time.
    let newest = seen.filter_map(|time| time.parse::<Timestamp>().ok()).max();
    newest.is_none_or(|newest| now.duration_since(newest) > LIFETIME)
}

fn columns() -> Vec<crate::apimachinery::Column> {
    vec![
        column("Last Seen", "lastSeen", "How long ago the event was last seen.", 0),
        column("Type", "type", "Normal or Warning.", 0),
        column("Reason", "reason", "Why the event happened.", 0),
        column("Object", "object", "What the event is about.", 0),
        column("Subobject", "subobject", "The part of the object.", 1),
        column("Source", "source", "Who reports the event.", 1),
        column("Message", "message", "What happened.", 0),
        column("First Seen", "firstSeen", "How long ago the event was first seen.", 1),
        column("Count", "count", "How often it has been seen.", 1),
        column("Name", "name", "The name of the event.", 1),
    ]
}

pub(super) fn printed(stored: &Value, now: Timestamp) -> Value {
    let text = |path: &str| stored.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/involvedObject/kind").to_lowercase();
    let object = match text("/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let (reporter, instance) = match (text("/source/component"), text("/source/host")) {
        ("", _) => (text("/reportingComponent"), text("/reportingInstance")),
        source => source,
    };
    let source = if instance.is_empty() { reporter.to_owned() } else { format!("{reporter}, {instance}") };
    let number = |path: &str| stored.pointer(path).and_then(Value::as_i64);
    let count = number("/series/count").or_else(|| number("/count")).filter(|&count| count > 0).unwrap_or(1);
    json!({
        "lastSeen": age(last_seen(stored), now),
        "type": text("/type"),
        "reason": text("/reason"),
        "object": object,
        "subobject": text("/involvedObject/fieldPath"),
        "source": source,
        "message": text("/message").trim(),
        "firstSeen": age(first_seen(stored), now),
        "count": count.to_string(),
        "name": metadata::text(stored, "name"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_say_the_same() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": "a" },
            "regarding": { "name": "b" },
            "note": "it works",
            "reportingController": "c",
            "deprecatedCount": 2,
        });
        let core = to_core(&new);
        assert_eq!(core["involvedObject"]["name"], "b");
        assert_eq!(core["message"], "it works");
        assert_eq!(core["count"], 2);
        assert_eq!(from_core(&core), new);
    }

    #[test]
    fn an_event_is_kept_for_an_hour_after_it_was_last_seen() {
        let event = json!({
            "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" },
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "series": { "count": 2, "lastObservedTime": "2026-01-01T02:00:00.000000Z" },
        });
        assert!(!is_expired(&event, "2026-01-01T02:59:00Z".parse().unwrap()));
        assert!(is_expired(&event, "2026-01-01T03:01:00Z".parse().unwrap()));
    }

    #[test]
    fn an_event_lies_where_its_subject_does() {
        let event = |namespace: &str, subject: &str| json!({ "metadata": { "namespace": namespace }, "involvedObject": { "namespace": subject } });
        assert!(validate(&event("a", "a")).is_empty());
        assert!(validate(&event("default", "")).is_empty());
        assert_eq!(validate(&event("a", "b")).len(), 1);
    }
}
