//! One node of a compiled structural schema.
//!
//! What the walks need is looked up here once: a number of pointers into a shared tree, no JSON left to interpret.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::checks::Checks;
use super::rules::Rule;

/// A node: the shape of one value, what it must fulfil and what it is when absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub kind: Option<Kind>,
    pub nullable: bool,
    pub embedded: bool,
    pub properties: BTreeMap<String, Arc<Self>>,
    pub additional: Additional,
    pub items: Option<Arc<Self>>,
    pub list: ListKind,
    pub atomic_map: bool,
    pub default: Option<Value>,
    pub checks: Checks,
    pub all_of: Vec<Self>,
    pub any_of: Vec<Self>,
    pub one_of: Vec<Self>,
    pub not: Option<Box<Self>>,
    pub rules: Vec<Rule>,
}

/// The `type` of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// What an object may hold beside its properties.
#[derive(Clone, Debug, Default)]
pub(crate) enum Additional {
    /// Nothing is known of other fields: they are pruned.
    #[default]
    None,
    /// Other fields are kept, whatever they are.
    Any,
    /// Other fields have this shape.
    Node(Arc<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListKind {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Node {
    /// The shape of the field `key`, and whether the schema names that field.
    pub(crate) fn field(&self, key: &str) -> (Option<&Self>, bool) {
        match (self.properties.get(key), &self.additional) {
            (Some(node), _) => (Some(node), true),
            (None, Additional::Node(node)) => (Some(node), false),
            (None, _) => (None, false),
        }
    }

    /// Whether this node or one below it has a CEL rule.
    pub(crate) fn has_rules(&self) -> bool {
        let below = |node: &Arc<Self>| node.has_rules();
        !self.rules.is_empty()
            || self.properties.values().any(below)
            || self.items.as_ref().is_some_and(below)
            || matches!(&self.additional, Additional::Node(node) if node.has_rules())
    }

    pub(crate) fn of_kind(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    fn object(fields: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        let properties = fields.into_iter().map(|(name, node)| (name.to_owned(), Arc::new(node))).collect();
        Self { properties, ..Self::of_kind(Kind::Object) }
    }
}

/// `ObjectMeta`, whose shape is the API server's and not the custom resource's to choose.
pub(crate) static OBJECT_META: LazyLock<Arc<Node>> = LazyLock::new(|| {
    let text = || Node::of_kind(Kind::String);
    let strings = || Node { additional: Additional::Node(Arc::new(text())), ..Node::of_kind(Kind::Object) };
    let owner = Node {
        atomic_map: true,
        ..Node::object([
            ("apiVersion", text()),
            ("kind", text()),
            ("name", text()),
            ("uid", text()),
            ("controller", Node::of_kind(Kind::Boolean)),
            ("blockOwnerDeletion", Node::of_kind(Kind::Boolean)),
        ])
    };
    let anything = || Node { additional: Additional::Any, ..Node::of_kind(Kind::Object) };
    Arc::new(Node::object([
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("selfLink", text()),
        ("uid", text()),
        ("resourceVersion", text()),
        ("generation", Node::of_kind(Kind::Integer)),
        ("creationTimestamp", text()),
        ("deletionTimestamp", text()),
        ("deletionGracePeriodSeconds", Node::of_kind(Kind::Integer)),
        ("labels", strings()),
        ("annotations", strings()),
        (
            "finalizers",
            Node { items: Some(Arc::new(text())), list: ListKind::Set, ..Node::of_kind(Kind::Array) },
        ),
        (
            "ownerReferences",
            Node {
                items: Some(Arc::new(owner)),
                list: ListKind::Map(vec!["uid".to_owned()]),
                ..Node::of_kind(Kind::Array)
            },
        ),
        ("managedFields", Node { items: Some(Arc::new(anything())), ..Node::of_kind(Kind::Array) }),
    ]))
});
