//! Objects in the form that the client wants.

use crate::apimachinery::{IncludeObject, table};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::builtin::Builtin;
use super::negotiate::Form;
use super::query::Query;
use super::resource::Resource;
use super::status::ApiError;

/// How answers to one request look.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) form: Form,
    include: IncludeObject,
}

impl View {
    pub(super) fn new(form: Form, query: &Query) -> Result<Self, ApiError> {
        let include = match query.get("includeObject") {
            None | Some("Metadata") => IncludeObject::Metadata,
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            Some(value) => {
                return Err(ApiError::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {value:?}: must be \
                     'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        Ok(Self { form, include })
    }

    /// One object, of an answer or of a watch.
    pub(super) fn object(self, resource: &Resource, stored: &Value, now: Timestamp) -> Value {
        match self.form {
            Form::Object => resource.served(stored).into_owned(),
            Form::Metadata => partial(&resource.served(stored)),
            Form::Table => {
                let version = stored.pointer("/metadata/resourceVersion").unwrap_or(&Value::Null);
                self.table(resource, &[stored], json!({ "resourceVersion": version }), now)
            }
        }
    }

    /// All objects of a list.
    pub(super) fn list(
        self,
        resource: &Resource,
        stored: &[&Value],
        metadata: Value,
        now: Timestamp,
    ) -> Value {
        let (kind, api_version, items): (&str, String, Vec<Value>) = match self.form {
            Form::Table => return self.table(resource, stored, metadata, now),
            Form::Object => {
                let items = stored.iter().map(|stored| resource.served(stored).into_owned());
                (&resource.list_kind, resource.api_version(), items.collect())
            }
            Form::Metadata => {
                let items = stored.iter().map(|stored| partial(&resource.served(stored)));
                ("PartialObjectMetadataList", "meta.k8s.io/v1".to_owned(), items.collect())
            }
        };
        json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items })
    }

    /// What a watch says when there is nothing to say but the version. An object of this form has no content.
    pub(super) fn bookmark(self, resource: &Resource, metadata: Value, now: Timestamp) -> Value {
        match self.form {
            Form::Object => {
                json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
            }
            Form::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Form::Table => self.table(resource, &[], metadata, now),
        }
    }

    fn table(self, resource: &Resource, stored: &[&Value], metadata: Value, now: Timestamp) -> Value {
        let Some(builtin) = resource.builtin else {
            let items: Vec<Value> = stored.iter().map(|&stored| stored.clone()).collect();
            return table(&resource.columns, &items, metadata, &self.include, now);
        };
        // The columns of built-in kinds show what is computed, which must not be taken for the object.
        let printed: Vec<Value> = stored.iter().map(|stored| builtin.printed(stored, now)).collect();
        let include = if self.include == IncludeObject::Object { IncludeObject::None } else { self.include };
        let mut table = table(&resource.columns, &printed, metadata, &include, now);
        if self.include == IncludeObject::Object {
            for (row, stored) in rows(&mut table).zip(stored) {
                row["object"] = resource.served(stored).into_owned();
            }
        }
        if matches!(builtin, Builtin::CoreEvent | Builtin::Event) {
            drop_first_column(&mut table);
        }
        table
    }
}

/// Events have their name at the end, where only `-o wide` shows it.
fn drop_first_column(table: &mut Value) {
    let first = |cells: Option<&mut Value>| {
        if let Some(cells) = cells.and_then(Value::as_array_mut).filter(|cells| !cells.is_empty()) {
            cells.remove(0);
        }
    };
    first(table.get_mut("columnDefinitions"));
    rows(table).for_each(|row| first(row.get_mut("cells")));
}

fn rows(table: &mut Value) -> impl Iterator<Item = &mut Value> {
    table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten()
}

fn partial(served: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": served.get("metadata"),
    })
}
