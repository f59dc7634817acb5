//! Media types: what the client can read, and what it has sent.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};

use super::resource::Resource;
use super::status::ApiError;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects as they are.
    Object,
    /// A `meta.k8s.io/v1` `Table`, for people.
    Table,
    /// `PartialObjectMetadata`, for those who need no more.
    Metadata,
}

/// The form that discovery has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discovery {
    Legacy,
    /// `APIGroupDiscoveryList` of this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

/// What an object comes as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// What a patch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// One entry of an `Accept` header.
struct MediaType<'a> {
    essence: String,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaType<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let pair = |part: &'a str| part.split_once('=').unwrap_or((part, ""));
        Self { essence, parameters: parts.map(pair).collect() }
    }

    fn get(&self, name: &str) -> &str {
        let parameter = self.parameters.iter().find(|(key, _)| *key == name);
        parameter.map_or("", |(_, value)| value.trim_matches('"'))
    }

    fn is_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "application/*" | "*/*") && self.get("q") != "0"
    }
}

/// The first of what the client names that `fit` knows: clients list what they like best first.
fn negotiate<T>(
    headers: &HeaderMap,
    otherwise: T,
    fit: impl Fn(&MediaType<'_>) -> Option<T>,
) -> Result<T, ApiError> {
    let values: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut entries = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let mut named = entries.by_ref().filter(|entry| !entry.is_empty()).peekable();
    if named.peek().is_none() {
        return Ok(otherwise);
    }
    named.map(MediaType::parse).find_map(|media_type| fit(&media_type)).ok_or_else(ApiError::not_acceptable)
}

/// How the client wants objects.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    negotiate(headers, Form::Object, |media_type| {
        if !media_type.is_json() {
            return None;
        }
        let meta = media_type.get("g") == "meta.k8s.io" && media_type.get("v") == "v1";
        match media_type.get("as") {
            "" => Some(Form::Object),
            "Table" if meta => Some(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => Some(Form::Metadata),
            _ => None,
        }
    })
}

/// How the client wants `/api` and `/apis`.
pub(super) fn discovery(headers: &HeaderMap) -> Result<Discovery, ApiError> {
    negotiate(headers, Discovery::Legacy, |media_type| {
        if !media_type.is_json() {
            return None;
        }
        let group = media_type.get("g");
        match (media_type.get("as"), media_type.get("v")) {
            ("", _) => Some(Discovery::Legacy),
            ("APIGroupDiscoveryList", "v2") if group == "apidiscovery.k8s.io" => {
                Some(Discovery::Aggregated("v2"))
            }
            ("APIGroupDiscoveryList", "v2beta1") if group == "apidiscovery.k8s.io" => {
                Some(Discovery::Aggregated("v2beta1"))
            }
            _ => None,
        }
    })
}

/// Whether the client reads JSON at all.
pub(super) fn plain(headers: &HeaderMap) -> Result<(), ApiError> {
    negotiate(headers, (), |media_type| media_type.is_json().then_some(()))
}

/// Refuses bodies that are not said to be JSON.
///
/// kube-apiserver takes a missing type for JSON. Here it is refused, with `text/plain` and the types of forms: these
/// are what a page in a browser may send anywhere without asking, and this server may listen on the loopback
/// interface of somebody who has a browser. For `application/json` the browser asks first, with an OPTIONS that
/// nobody answers.
pub(super) fn json_body(headers: &HeaderMap) -> Result<(), ApiError> {
    if essence(headers) == "application/json" {
        return Ok(());
    }
    Err(ApiError::unsupported_media_type("application/json"))
}

/// As [`json_body`], but for what may come as protobuf too.
pub(super) fn object_body(headers: &HeaderMap, resource: &Resource) -> Result<Encoding, ApiError> {
    match essence(headers).as_str() {
        "application/json" => Ok(Encoding::Json),
        "application/vnd.kubernetes.protobuf" if resource.builtin.is_some() => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media_type("application/json")),
    }
}

pub(super) fn patch_body(headers: &HeaderMap) -> Result<PatchType, ApiError> {
    match essence(headers).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(ApiError::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

fn essence(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    MediaType::parse(value).essence
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;\
                       g=meta.k8s.io,application/json";
        assert_eq!(form(&accept(kubectl)).unwrap(), Form::Table);
        let fallback = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, application/json";
        assert_eq!(form(&accept(fallback)).unwrap(), Form::Object);
        assert_eq!(form(&accept("*/*")).unwrap(), Form::Object);
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Object);
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(&accept(metadata)).unwrap(), Form::Metadata);
    }

    #[test]
    fn a_client_that_reads_no_json_is_told_so() {
        assert!(form(&accept("application/vnd.kubernetes.protobuf")).is_err());
        assert!(form(&accept("application/json;as=Table;v=v1beta1;g=meta.k8s.io")).is_err());
        assert!(form(&accept("application/yaml")).is_err());
    }

    #[test]
    fn what_a_browser_sends_without_asking_is_refused() {
        for kind in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
        {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert!(json_body(&headers).is_err(), "{kind}");
            assert!(patch_body(&headers).is_err(), "{kind}");
        }
        assert!(json_body(&HeaderMap::new()).is_err());
    }
}
