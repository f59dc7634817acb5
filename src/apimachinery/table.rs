//! `meta.k8s.io/v1` tables: what `kubectl get` prints.
//!
//! Cells follow kube-apiserver's convertor for custom resources: a Name column first, then the printer columns; a
//! value that is missing or of another type than its column is `null`, a date is an age.

mod age;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use age::age;

use crate::apimachinery::json_path::JsonPath;

/// A printer column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// `string`, `boolean`, `integer`, `number` or `date`.
    pub kind: String,
    /// The `OpenAPI` format, or empty.
    pub format: String,
    /// What the column shows.
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i64,
    /// Where the value is.
    pub json_path: String,
}

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// The description that kube-apiserver gives to its Name column.
const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although \
     some resources may allow a client to request the generation of an appropriate name automatically. Name is \
     primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: \
     https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// A `Table` of the items: a Name column first, then the columns given. `list_metadata` becomes its `metadata`.
/// A column whose path cannot be parsed stays empty; [`JsonPath::parse`] finds it beforehand.
#[must_use]
pub fn table(
    columns: &[Column],
    items: &[Value],
    list_metadata: Value,
    include: &IncludeObject,
    now: Timestamp,
) -> Value {
    let paths: Vec<_> =
        columns.iter().map(|column| (column, JsonPath::parse(&column.json_path).ok())).collect();
    let mut definitions = vec![json!({
        "name": "Name", "type": "string", "format": "name", "description": NAME_DESCRIPTION, "priority": 0,
    })];
    definitions.extend(columns.iter().map(definition));
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let mut cells = vec![item.pointer("/metadata/name").cloned().unwrap_or_else(|| "".into())];
            cells.extend(paths.iter().map(|(column, path)| {
                let found = path.as_ref().and_then(|path| path.find(item).into_iter().next());
                found.map_or(Value::Null, |value| cell(&column.kind, value, now))
            }));
            json!({"cells": cells, "object": row_object(item, *include)})
        })
        .collect();
    let mut table = Map::new();
    table.insert("kind".to_owned(), "Table".into());
    table.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
    table.insert("metadata".to_owned(), list_metadata);
    table.insert("columnDefinitions".to_owned(), Value::Array(definitions));
    table.insert("rows".to_owned(), Value::Array(rows));
    Value::Object(table)
}

fn definition(column: &Column) -> Value {
    let description = if column.description.is_empty() {
        format!("Custom resource definition column (in JSONPath format): {}", column.json_path)
    } else {
        column.description.clone()
    };
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": description,
        "priority": column.priority,
    })
}

fn row_object(item: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => item.clone(),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item.get("metadata").cloned().unwrap_or_else(|| json!({})),
        }),
    }
}

fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) | ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => {
            value.clone()
        }
        // Without the ".0" of a float that is whole.
        ("string", Value::Number(number)) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |float| float.to_string().into())
        }
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(_), _) => value.clone(),
            // What a Go conversion to int64 does: the fraction is cut off.
            #[allow(clippy::cast_possible_truncation)]
            (None, Some(float)) => (float as i64).into(),
            _ => Value::Null,
        },
        ("date", Value::String(timestamp)) => age(Some(timestamp), now).into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: &str, path: &str) -> Column {
        Column {
            name: name.into(),
            kind: kind.into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: path.into(),
        }
    }

    fn cells(columns: &[Column], item: &Value) -> Value {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        table(columns, std::slice::from_ref(item), json!({}), &IncludeObject::None, now)["rows"][0]["cells"]
            .clone()
    }

    #[test]
    fn cells_take_the_type_of_their_column() {
        let columns = [
            column("Phase", "string", ".status.phase"),
            column("Progress", "string", ".status.progress"),
            column("Size", "integer", ".status.size"),
            column("CDROM", "boolean", ".status.cdrom"),
            column("Age", "date", ".metadata.creationTimestamp"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
        ];
        let item = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Ready", "progress": 5, "size": 7.9, "cdrom": false,
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(cells(&columns, &item), json!(["a", "Ready", "5", 7, false, "60m", "True"]));
    }

    #[test]
    fn missing_null_and_mistyped_values_are_null() {
        let columns = [
            column("A", "string", ".a"),
            column("B", "date", ".b"),
            column("C", "integer", ".c"),
            column("D", "boolean", ".d"),
            column("E", "date", ".e"),
            column("F", "date", ".f"),
            column("G", "string", "broken"),
        ];
        let item = json!({"metadata": {"name": "a"}, "a": null, "c": "1", "d": "true", "e": "", "f": "x"});
        assert_eq!(
            cells(&columns, &item),
            json!(["a", null, null, null, null, "<unknown>", "<invalid>", null])
        );
    }

    #[test]
    fn the_table_describes_its_columns_and_carries_objects_as_asked() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let items = [json!({"metadata": {"name": "a"}, "spec": {}})];
        let columns = [column("Phase", "string", ".status.phase")];
        let whole = table(&columns, &items, json!({"resourceVersion": "5"}), &IncludeObject::Object, now);
        assert_eq!(whole["metadata"], json!({"resourceVersion": "5"}));
        assert_eq!(whole["columnDefinitions"][0]["format"], "name");
        assert_eq!(
            whole["columnDefinitions"][1]["description"],
            "Custom resource definition column (in JSONPath format): .status.phase"
        );
        assert_eq!(whole["rows"][0]["object"], items[0]);
        let partial = table(&[], &items, json!({}), &IncludeObject::default(), now);
        assert_eq!(partial["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(partial["rows"][0]["object"]["metadata"]["name"], "a");
    }
}
