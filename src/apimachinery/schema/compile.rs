//! From the JSON of an `openAPIV3Schema` to nodes.
//!
//! What could not be enforced later is refused here, with the place: a schema that is silently weaker than written
//! would be found out too late.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use super::SchemaError;
use super::checks::{Bound, Checks};
use super::node::{Additional, Kind, ListKind, Node};
use super::pattern::Pattern;
use super::rules::Rule;
use crate::apimachinery::depth;

/// Keywords that `CustomResourceDefinition`s may not use, or that would constrain objects in ways not checked here.
const REFUSED: [&str; 6] =
    ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "uniqueItems"];

/// Compiles the schema of a whole resource.
pub(super) fn root(schema: &Value) -> Result<Node, SchemaError> {
    let root = Place(String::new());
    if depth::is_excessive(schema) {
        return Err(root.error("the schema is nested too deeply"));
    }
    let node = structural(schema, &root)?;
    if node.kind != Some(Kind::Object) {
        return Err(root.error("must be object at the root"));
    }
    Ok(node)
}

struct Place(String);

impl Place {
    fn below(&self, step: &str) -> Self {
        Self(super::child_path(&self.0, step))
    }

    fn error(&self, message: impl Into<String>) -> SchemaError {
        let path = if self.0.is_empty() { "openAPIV3Schema".to_owned() } else { self.0.clone() };
        SchemaError { path, message: message.into() }
    }
}

/// A node of the structural part: it has a type, and its children are part of objects.
fn structural(schema: &Value, place: &Place) -> Result<Node, SchemaError> {
    let node = node(schema, place, structural)?;
    if node.kind.is_none() && !matches!(node.additional, Additional::Any) {
        return Err(place.below("type").error("must not be empty for specified object fields"));
    }
    if node.kind == Some(Kind::Array) && node.items.is_none() {
        return Err(place.below("items").error("must be specified"));
    }
    Ok(node)
}

/// A node below `allOf`, `anyOf`, `oneOf` or `not`: it only constrains.
fn constraint(schema: &Value, place: &Place) -> Result<Node, SchemaError> {
    let node = node(schema, place, constraint)?;
    if !node.rules.is_empty() {
        return Err(
            place.error("x-kubernetes-validations below allOf, anyOf, oneOf or not are not supported")
        );
    }
    Ok(node)
}

type Compile = fn(&Value, &Place) -> Result<Node, SchemaError>;

fn node(schema: &Value, place: &Place, child: Compile) -> Result<Node, SchemaError> {
    let Value::Object(fields) = schema else { return Err(place.error("a schema is an object")) };
    let reader = Reader { fields, place };
    if let Some(keyword) = REFUSED.iter().find(|keyword| fields.get(**keyword).is_some_and(|v| *v != false)) {
        return Err(place.below(keyword).error("is not supported"));
    }
    let mut properties = BTreeMap::new();
    if let Some(declared) = reader.object("properties")? {
        for (name, schema) in declared {
            let place = place.below("properties").below(name);
            properties.insert(name.clone(), Arc::new(child(schema, &place)?));
        }
    }
    let additional = match fields.get("additionalProperties") {
        None | Some(Value::Bool(false)) if reader.flag("x-kubernetes-preserve-unknown-fields")? => {
            Additional::Any
        }
        None | Some(Value::Bool(false)) => Additional::None,
        Some(Value::Bool(true)) => Additional::Any,
        Some(schema) => Additional::Node(Arc::new(child(schema, &place.below("additionalProperties"))?)),
    };
    let items = fields.get("items").map(|schema| child(schema, &place.below("items"))).transpose()?;
    Ok(Node {
        kind: reader.kind()?,
        nullable: reader.flag("nullable")?,
        embedded: reader.flag("x-kubernetes-embedded-resource")?,
        properties,
        additional,
        items: items.map(Arc::new),
        list: reader.list()?,
        atomic_map: reader.text("x-kubernetes-map-type")? == Some("atomic"),
        default: fields.get("default").cloned(),
        checks: reader.checks()?,
        all_of: reader.alternatives("allOf")?,
        any_of: reader.alternatives("anyOf")?,
        one_of: reader.alternatives("oneOf")?,
        not: fields
            .get("not")
            .map(|schema| constraint(schema, &place.below("not")))
            .transpose()?
            .map(Box::new),
        rules: reader.rules()?,
    })
}

struct Reader<'a> {
    fields: &'a Map<String, Value>,
    place: &'a Place,
}

impl<'a> Reader<'a> {
    fn read<T>(
        &self,
        key: &str,
        kind: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SchemaError> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(self.place.below(key).error(format!("must be {kind}"))),
            },
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, SchemaError> {
        self.read(key, "a string", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<bool, SchemaError> {
        Ok(self.read(key, "a boolean", Value::as_bool)?.unwrap_or(false))
    }

    fn count(&self, key: &str) -> Result<Option<u64>, SchemaError> {
        self.read(key, "a count", Value::as_u64)
    }

    fn number(&self, key: &str) -> Result<Option<Number>, SchemaError> {
        self.read(key, "a number", |value| value.as_number().cloned())
    }

    fn array(&self, key: &str) -> Result<Option<&'a Vec<Value>>, SchemaError> {
        self.read(key, "a list", Value::as_array)
    }

    fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, SchemaError> {
        self.read(key, "an object", Value::as_object)
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, SchemaError> {
        let convert = |value: &'a Value| {
            value.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        Ok(self.read(key, "a list of strings", convert)?.unwrap_or_default())
    }

    fn kind(&self) -> Result<Option<Kind>, SchemaError> {
        if self.flag("x-kubernetes-int-or-string")? {
            return Ok(Some(Kind::IntOrString));
        }
        Ok(Some(match self.text("type")? {
            None | Some("") => return Ok(None),
            Some("object") => Kind::Object,
            Some("array") => Kind::Array,
            Some("string") => Kind::String,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Boolean,
            Some(other) => return Err(self.place.below("type").error(format!("unknown type {other:?}"))),
        }))
    }

    fn list(&self) -> Result<ListKind, SchemaError> {
        match self.text("x-kubernetes-list-type")? {
            None | Some("atomic") => Ok(ListKind::Atomic),
            Some("set") => Ok(ListKind::Set),
            Some("map") => match self.strings("x-kubernetes-list-map-keys")? {
                keys if keys.is_empty() => {
                    Err(self.place.below("x-kubernetes-list-map-keys").error("must be set"))
                }
                keys => Ok(ListKind::Map(keys)),
            },
            Some(other) => {
                Err(self.place.below("x-kubernetes-list-type").error(format!("unknown list type {other:?}")))
            }
        }
    }

    fn bound(&self, key: &str, exclusive: &str) -> Result<Option<Bound>, SchemaError> {
        let exclusive = self.flag(exclusive)?;
        Ok(self.number(key)?.map(|limit| Bound { limit, exclusive }))
    }

    fn checks(&self) -> Result<Checks, SchemaError> {
        let pattern = self.text("pattern")?.filter(|pattern| !pattern.is_empty());
        let pattern = pattern.map(Pattern::compile).transpose();
        Ok(Checks {
            enumeration: self.array("enum")?.cloned(),
            maximum: self.bound("maximum", "exclusiveMaximum")?,
            minimum: self.bound("minimum", "exclusiveMinimum")?,
            multiple_of: self.number("multipleOf")?,
            max_length: self.count("maxLength")?,
            min_length: self.count("minLength")?,
            pattern: pattern.map_err(|error| self.place.below("pattern").error(error.to_string()))?,
            format: self.text("format")?.filter(|format| !format.is_empty()).map(str::to_owned),
            max_items: self.count("maxItems")?,
            min_items: self.count("minItems")?,
            max_properties: self.count("maxProperties")?,
            min_properties: self.count("minProperties")?,
            required: self.strings("required")?,
        })
    }

    fn alternatives(&self, key: &str) -> Result<Vec<Node>, SchemaError> {
        let place = self.place.below(key);
        let schemas = self.array(key)?.into_iter().flatten().enumerate();
        schemas.map(|(index, schema)| constraint(schema, &place.below(&index.to_string()))).collect()
    }

    fn rules(&self) -> Result<Vec<Rule>, SchemaError> {
        let key = "x-kubernetes-validations";
        let place = self.place.below(key);
        let rules = self.array(key)?.into_iter().flatten().enumerate();
        rules
            .map(|(index, rule)| {
                Rule::compile(rule).map_err(|error| place.below(&index.to_string()).error(error))
            })
            .collect()
    }
}
