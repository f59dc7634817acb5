//! The schemas that all kinds share.

use serde_json::{Map, Value, json};

use super::{LIST_META, OBJECT_META, reference};

const OWNER: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference";
const MANAGED_FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";

pub(super) fn schemas() -> Map<String, Value> {
    let schemas = [
        (OBJECT_META, object_meta()),
        (LIST_META, list_meta()),
        (OWNER, owner_reference()),
        (MANAGED_FIELDS, managed_fields_entry()),
        (FIELDS, json!({ "type": "object", "description": "The paths of fields, as a trie." })),
        (TIME, json!({ "type": "string", "format": "date-time", "description": "A time, as in RFC 3339." })),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "integer", "format": "int64", "description": description })
}

fn time(description: &str) -> Value {
    json!({ "allOf": [reference(TIME)], "description": description })
}

fn texts(description: &str) -> Value {
    json!({
        "type": "object",
        "description": description,
        "additionalProperties": { "type": "string", "default": "" },
    })
}

fn object_meta() -> Value {
    json!({
        "type": "object",
        "description": "ObjectMeta is what all objects have that are kept.",
        "properties": {
            "name": text("Name is what the object is called, uniquely in its namespace. Cannot be updated."),
            "generateName": text("GenerateName is the beginning of the name, which the server completes when no \
                                  name is given."),
            "namespace": text("Namespace is where names are unique. Cannot be updated."),
            "labels": texts("Labels are keys and values by which objects are found and selected."),
            "annotations": texts("Annotations are keys and values that tools keep with the object."),
            "uid": text("UID is unique in time and space: an object that is created again has another one. Read-only."),
            "resourceVersion": text("ResourceVersion changes with every write. A write that carries one fails when \
                                     somebody else has written meanwhile."),
            "generation": number("Generation counts the changes of the desired state. Read-only."),
            "creationTimestamp": time("CreationTimestamp is when the object was created. Read-only."),
            "deletionTimestamp": time("DeletionTimestamp is when somebody asked for the deletion of the object. It goes \
                                       when the list of finalizers is empty. Read-only."),
            "deletionGracePeriodSeconds": number("DeletionGracePeriodSeconds is how long the object has to end. \
                                                  Read-only."),
            "selfLink": text("SelfLink is no longer filled in."),
            "finalizers": {
                "type": "array",
                "description": "Finalizers are those who must do something before the object is gone.",
                "items": { "type": "string", "default": "" },
                "x-kubernetes-list-type": "set",
                "x-kubernetes-patch-strategy": "merge",
            },
            "ownerReferences": {
                "type": "array",
                "description": "OwnerReferences are the objects that this one depends on. When all of them are gone, it \
                                is deleted.",
                "items": { "allOf": [reference(OWNER)], "default": {} },
                "x-kubernetes-list-map-keys": ["uid"],
                "x-kubernetes-list-type": "map",
                "x-kubernetes-patch-merge-key": "uid",
                "x-kubernetes-patch-strategy": "merge",
            },
            "managedFields": {
                "type": "array",
                "description": "ManagedFields tells which field manager has set which fields.",
                "items": { "allOf": [reference(MANAGED_FIELDS)], "default": {} },
                "x-kubernetes-list-type": "atomic",
            },
        },
    })
}

fn list_meta() -> Value {
    json!({
        "type": "object",
        "description": "ListMeta is what all lists have.",
        "properties": {
            "continue": text("Continue is where the next page begins; empty on the last."),
            "remainingItemCount": number("RemainingItemCount is how many objects follow this page, if that is known."),
            "resourceVersion": text("ResourceVersion is the version that the list shows."),
            "selfLink": text("SelfLink is no longer filled in."),
        },
    })
}

fn owner_reference() -> Value {
    json!({
        "type": "object",
        "description": "OwnerReference names an object that another one depends on, in the same namespace or in none.",
        "required": ["apiVersion", "kind", "name", "uid"],
        "properties": {
            "apiVersion": text("API version of the owner."),
            "kind": text("Kind of the owner."),
            "name": text("Name of the owner."),
            "uid": text("UID of the owner."),
            "controller": { "type": "boolean", "description": "Whether the owner manages this object." },
            "blockOwnerDeletion": {
                "type": "boolean",
                "description": "Whether the owner, deleted in the foreground, waits for this object.",
            },
        },
        "x-kubernetes-map-type": "atomic",
    })
}

fn managed_fields_entry() -> Value {
    json!({
        "type": "object",
        "description": "ManagedFieldsEntry is the fields that one manager has set in one way.",
        "properties": {
            "apiVersion": text("APIVersion is the version that the fields are those of."),
            "fieldsType": text("FieldsType is FieldsV1."),
            "fieldsV1": { "allOf": [reference(FIELDS)], "description": "FieldsV1 is the fields." },
            "manager": text("Manager is who has set them."),
            "operation": text("Operation is Apply or Update."),
            "subresource": text("Subresource is what they were set through, if not the object itself."),
            "time": time("Time is when they were set last."),
        },
    })
}
