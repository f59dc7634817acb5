//! From a request to the one who answers it.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, WARNING};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::Value;

use super::body::read;
use super::incoming::Warnings;
use super::query::Query;
use super::route::{Route, parse};
use super::status::ApiError;
use super::store::Mode;
use super::{ApiServer, delete, discovery, list, patch, watch, write};
use crate::telemetry::Changed;

/// All paths that belong to Kubernetes; any others are free for whoever the router is merged into.
pub(super) fn router(server: ApiServer) -> Router {
    let mut router = Router::new();
    for path in
        ["/api", "/api/", "/api/{*path}", "/apis", "/apis/", "/apis/{*path}", "/openapi/{*path}", "/version"]
    {
        router = router.route(path, any(handle));
    }
    router.with_state(server)
}

async fn handle(State(server): State<ApiServer>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    if is_head {
        parts.method = Method::GET;
    }
    let response = match route(&server, &parts, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    // A watch as well: its stream is dropped before it begins.
    if is_head { response.map(|_| Body::empty()) } else { response }
}

async fn route(server: &ApiServer, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let route = parse(parts.uri.path(), &server.inner.scheme).ok_or_else(ApiError::no_such_endpoint)?;
    let call = Call { server, parts, query: Query::parse(parts.uri.query()) };
    match route {
        Route::Collection { resource, namespace } => {
            // Objects are created in a namespace, and not in all of them.
            let anywhere = resource.namespaced && namespace.is_empty();
            match parts.method.as_str() {
                "GET" if call.query.flag("watch")? => watch::watch(&call, resource, &namespace),
                "GET" => list::list(&call, &resource, &namespace),
                "POST" if !anywhere => {
                    write::create(&call, resource, namespace, read(parts, body).await?).await
                }
                "DELETE" if !anywhere => {
                    delete::collection(&call, resource, namespace, read(parts, body).await?).await
                }
                _ => Err(ApiError::method_not_allowed(if anywhere {
                    "GET, HEAD"
                } else {
                    "DELETE, GET, HEAD, POST"
                })),
            }
        }
        Route::Object { resource, namespace, name, status } => {
            let target = Target { resource, namespace, name, status };
            match parts.method.as_str() {
                "GET" => list::get(&call, &target),
                "PUT" => write::replace(&call, target, read(parts, body).await?).await,
                "PATCH" => patch::patch(&call, target, read(parts, body).await?).await,
                "DELETE" if !status => delete::object(&call, target, read(parts, body).await?).await,
                _ => Err(ApiError::method_not_allowed(if status {
                    "GET, HEAD, PATCH, PUT"
                } else {
                    "DELETE, GET, HEAD, PATCH, PUT"
                })),
            }
        }
        route if parts.method == Method::GET => discovery::describe(&call, &route),
        _ => Err(ApiError::method_not_allowed("GET, HEAD")),
    }
}

/// A request apart from its body.
pub(super) struct Call<'a> {
    pub(super) server: &'a ApiServer,
    pub(super) parts: &'a Parts,
    pub(super) query: Query,
}

/// The object that a path names.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) resource: std::sync::Arc<super::resource::Resource>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) status: bool,
}

/// Says in an answer what was changed, for those who keep the books.
pub(super) fn told(mut response: Response, mode: Mode, name: Option<&str>) -> Response {
    let changed = Changed { name: name.map(str::to_owned), only_looked: mode != Mode::Commit };
    response.extensions_mut().insert(changed);
    response
}

/// A successful answer.
pub(super) fn answer(status: StatusCode, body: &Value, warnings: &Warnings) -> Response {
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for warning in warnings.headers() {
        headers.append(WARNING, warning);
    }
    response
}
