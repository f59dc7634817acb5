//! What is served: a resource is a kind of objects under one path.

use crate::apimachinery::{Column, Schema, SchemaError};
use serde_json::Value;

use super::builtin::Builtin;

/// A kind of objects that the server keeps, with all that its definition says.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) list_kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// Whether `status` is a subresource.
    pub(super) has_status: bool,
    pub(super) schema: Schema,
    /// What `schema` is compiled from, for those who ask with `kubectl explain`.
    pub(super) open_api: Value,
    pub(super) columns: Vec<Column>,
    /// Fields that selectors may name besides the two that every object has.
    pub(super) selectable: Vec<String>,
    /// The group and plural that objects are stored under: two resources may be views of one store.
    pub(super) storage: String,
    /// The kinds that the server itself knows.
    pub(super) builtin: Option<Builtin>,
    /// The kind that the objects have in the store, if this one is another name of it.
    pub(super) alias_of: Option<String>,
}

/// The annotation of a definition with other names of its kind, with a comma between them: names that documents use and no cluster
/// knows.
const KIND_ALIASES: &str = "dvcr.virtualization.deckhouse.io/kind-aliases";

/// Why a definition cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// It is no `CustomResourceDefinition` of `apiextensions.k8s.io/v1`, or it lacks something.
    #[error("the CustomResourceDefinition has no {0}")]
    Missing(&'static str),
    /// Versions are not converted into each other, so that there can be only one.
    #[error("the CustomResourceDefinition {0} must serve exactly one version")]
    Versions(String),
    /// The schema does not compile.
    #[error("the schema of {name}")]
    Schema {
        /// The definition.
        name: String,
        /// What is wrong.
        source: SchemaError,
    },
}

impl Resource {
    /// The resource that a `CustomResourceDefinition` defines.
    pub fn from_crd(crd: &Value) -> Result<Self, ResourceError> {
        let spec = crd.get("spec").ok_or(ResourceError::Missing("spec"))?;
        let names = spec.get("names").ok_or(ResourceError::Missing("spec.names"))?;
        let group = text(spec, "group").ok_or(ResourceError::Missing("spec.group"))?;
        let kind = text(names, "kind").ok_or(ResourceError::Missing("spec.names.kind"))?;
        let plural = text(names, "plural").ok_or(ResourceError::Missing("spec.names.plural"))?;
        let scope = text(spec, "scope").ok_or(ResourceError::Missing("spec.scope"))?;
        let name = format!("{plural}.{group}");

        let versions = spec.get("versions").and_then(Value::as_array);
        let versions = versions.ok_or(ResourceError::Missing("spec.versions"))?;
        let mut served = versions.iter().filter(|version| version.get("served") == Some(&Value::Bool(true)));
        let (Some(version), None) = (served.next(), served.next()) else {
            return Err(ResourceError::Versions(name));
        };
        let open_api = version.pointer("/schema/openAPIV3Schema").ok_or(ResourceError::Missing("schema"))?;
        let schema = Schema::compile(open_api)
            .map_err(|source| ResourceError::Schema { name: name.clone(), source })?;

        Ok(Self {
            version: text(version, "name").ok_or(ResourceError::Missing("spec.versions[].name"))?,
            list_kind: text(names, "listKind").unwrap_or_else(|| format!("{kind}List")),
            singular: text(names, "singular").unwrap_or_else(|| kind.to_lowercase()),
            short_names: texts(names, "shortNames"),
            categories: texts(names, "categories"),
            namespaced: scope == "Namespaced",
            has_status: version.pointer("/subresources/status").is_some(),
            schema,
            open_api: open_api.clone(),
            columns: columns(version),
            selectable: selectable(version),
            storage: format!("{group}/{plural}"),
            builtin: None,
            alias_of: None,
            group,
            kind,
            plural,
        })
    }

    /// The resources that a definition and its aliases define.
    pub fn all_from_crd(crd: &Value) -> Result<Vec<Self>, ResourceError> {
        let resource = Self::from_crd(crd)?;
        let aliases = crd.pointer("/metadata/annotations").and_then(|all| all.get(KIND_ALIASES)?.as_str());
        let aliases: Vec<_> = aliases
            .into_iter()
            .flat_map(|aliases| aliases.split(','))
            .map(|kind| resource.alias(kind.trim()))
            .collect();
        Ok(std::iter::once(resource).chain(aliases).collect())
    }

    /// The same objects by another kind, and so by another path: clients find the path of a kind in the discovery, and insist that
    /// what they get has the kind that they have sent.
    fn alias(&self, kind: &str) -> Self {
        let lower = kind.to_lowercase();
        Self {
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            plural: format!("{lower}es"),
            // Not the plural of the other kind, by which clients would find this one.
            singular: format!("{lower}es"),
            short_names: Vec::new(),
            // Or `kubectl get` of a category has everything twice.
            categories: Vec::new(),
            alias_of: Some(self.kind.clone()),
            ..self.clone()
        }
    }

    /// The kind that the objects have in the store.
    pub(super) fn stored_kind(&self) -> &str {
        self.alias_of.as_deref().unwrap_or(&self.kind)
    }

    /// As in `apiVersion`.
    pub(super) fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// As in messages: `secrets`, `virtualimages.virtualization.deckhouse.io`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// `v1`, `events.k8s.io/v1`.
pub(super) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let texts = value.get(key).and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Those for `kubectl get`. A definition without any shows the age.
fn columns(version: &Value) -> Vec<Column> {
    let Some(columns) = version.get("additionalPrinterColumns").and_then(Value::as_array) else {
        return vec![age_column()];
    };
    let column = |column: &Value| Column {
        name: text(column, "name").unwrap_or_default(),
        kind: text(column, "type").unwrap_or_default(),
        format: text(column, "format").unwrap_or_default(),
        description: text(column, "description").unwrap_or_default(),
        priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
        json_path: text(column, "jsonPath").unwrap_or_default(),
    };
    columns.iter().map(column).collect()
}

/// What is shown of an object about which nothing else is known.
pub(super) fn age_column() -> Column {
    Column {
        name: "Age".into(),
        kind: "date".into(),
        format: String::new(),
        description: "When the object was created.".into(),
        priority: 0,
        json_path: ".metadata.creationTimestamp".into(),
    }
}

/// Paths without the dot that they begin with.
fn selectable(version: &Value) -> Vec<String> {
    let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let paths = fields.filter_map(|field| text(field, "jsonPath"));
    paths.map(|path| path.trim_start_matches('.').to_owned()).collect()
}
