//! Lists of referrers.

use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Api;
use super::error::ApiError;
use super::query::{Query, next_page};
use crate::oci::{Digest, MediaType, RepositoryName};

/// The most descriptors of one page. Arbitrary.
const PAGE: usize = 1_000;

/// Tells a client that the list is filtered.
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// end-12. Never 404: nothing refers to what is not there.
pub(super) async fn list(
    api: &Api,
    name: &RepositoryName,
    digest: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let subject: Digest = digest.parse()?;
    let query = Query::of(&request.uri);
    let limit = query.limit(PAGE)?.max(1);
    let last: Option<Digest> = query.get("last").map(str::parse).transpose()?;
    let artifact_type = query.get("artifactType").filter(|wanted| !wanted.is_empty());
    let page = api.registry.referrers(name, &subject, artifact_type, limit, last.as_ref()).await?;
    let next = page.referrers.last().filter(|_| page.more).map(|referrer| referrer.digest.to_string());
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::INDEX, "manifests": page.referrers });
    let mut response = index.to_string().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MediaType::INDEX));
    if artifact_type.is_some() {
        headers.insert(OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = next {
        let limit = limit.to_string();
        let mut parameters = vec![("n", limit.as_str()), ("last", last.as_str())];
        parameters.extend(artifact_type.map(|wanted| ("artifactType", wanted)));
        headers.extend(next_page(&format!("/v2/{name}/referrers/{subject}"), &parameters));
    }
    Ok(response)
}
