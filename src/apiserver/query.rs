//! The query of a request: the options that Kubernetes has for its verbs.

use std::time::Duration;

use crate::apimachinery::{FieldSelector, LabelSelector};

use super::cause;
use super::resource::Resource;
use super::status::ApiError;
use super::store::Mode;

/// The parameters of a request, read one by one. Those that nobody asks for are ignored, as in kube-apiserver.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

/// What happens with fields that the schema does not know and with keys that are there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// How `resourceVersion` is meant in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// Which objects are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self { pairs: pairs.into_owned().collect() }
    }

    /// The value of a parameter; one that is empty counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(false),
            Some("1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(true),
            Some(value) => Err(bad(name, value)),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.get(name).map(|value| value.parse().map_err(|_| bad(name, value))).transpose()
    }

    pub(super) fn mode(&self) -> Result<Mode, ApiError> {
        let mut mode = Mode::Commit;
        for (_, value) in self.pairs.iter().filter(|(key, value)| key == "dryRun" && !value.is_empty()) {
            mode = dry_run(value)?;
        }
        Ok(mode)
    }

    pub(super) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(value) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                Err(ApiError::invalid_options(
                    "CreateOptions",
                    cause::not_supported("fieldValidation", value, &supported),
                ))
            }
        }
    }

    pub(super) fn version_match(&self) -> Result<VersionMatch, ApiError> {
        match self.get("resourceVersionMatch") {
            None => Ok(VersionMatch::Unset),
            Some("Exact") => Ok(VersionMatch::Exact),
            Some("NotOlderThan") => Ok(VersionMatch::NotOlderThan),
            Some(value) => {
                let supported = ["Exact", "NotOlderThan", ""];
                let cause = cause::not_supported("resourceVersionMatch", value, &supported);
                Err(ApiError::invalid_options("ListOptions", cause))
            }
        }
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        Ok(self.number("timeoutSeconds")?.filter(|&seconds| seconds > 0).map(Duration::from_secs))
    }

    pub(super) fn selector(&self, resource: &Resource) -> Result<Selector, ApiError> {
        let labels = LabelSelector::parse(self.get("labelSelector").unwrap_or_default())?;
        let fields = FieldSelector::parse(self.get("fieldSelector").unwrap_or_default())?;
        for requirement in fields.requirements() {
            let field = requirement.field.as_str();
            let known = match field {
                "metadata.name" => true,
                "metadata.namespace" => resource.namespaced,
                field => resource.selectable.iter().any(|known| known == field),
            };
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Selector { labels, fields })
    }
}

impl Selector {
    /// Whether an object, as it is served, is meant.
    pub(super) fn matches(&self, object: &serde_json::Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// The only value that `dryRun` may have is `All`.
pub(super) fn dry_run(value: &str) -> Result<Mode, ApiError> {
    match value {
        "All" => Ok(Mode::DryRun),
        value => {
            Err(ApiError::invalid_options("CreateOptions", cause::not_supported("dryRun", value, &["All"])))
        }
    }
}

fn bad(name: &str, value: &str) -> ApiError {
    ApiError::bad_request(format!("invalid value {value:?} of the parameter {name}"))
}
