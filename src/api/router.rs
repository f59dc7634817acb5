//! The route table. Numbers are those of the distribution spec, "Endpoints".

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::audit::Event;
use super::body::Incoming;
use super::error::ApiError;
use super::route::{Route, parse};
use super::{
    Api, access_log, blobs, chunks, collect, disks, guard, health, image_uploads, manifests, referrers,
    rewrite, stats, tags, token, uploads, verify,
};
use crate::oci::is_uploaded_file;

/// The whole HTTP interface; `more` are further paths.
pub fn router(api: Api, more: Router) -> Router {
    let v2 = Router::new()
        .route("/v2", get(health::version)) //                                         end-1
        .route("/v2/", get(health::version)) //                                        end-1
        .route("/v2/_catalog", get(tags::catalog)) //                                  (Docker's)
        .route(stats::PATH, get(stats::get)) //                                        (DVCR's)
        .route(collect::PATH, any(collect::handle)) //                                 (DVCR's)
        .route(rewrite::PATH, any(rewrite::handle)) //                                 (DVCR's)
        .route(verify::PATH, any(verify::handle)) //                                   (DVCR's)
        .route("/v2/{*path}", any(dispatch)) //                                        all others
        .method_not_allowed_fallback(async || ApiError::method_not_allowed("GET, HEAD"))
        .layer(map_response(with_api_version));
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route(token::PATH, any(token::handle))
        .route(disks::PATH, any(disks::handle))
        .route("/upload/{token}", any(image_uploads::handle))
        .merge(v2)
        .fallback(async || ApiError::no_such_endpoint())
        .with_state(api.clone())
        .merge(more.layer(from_fn_with_state(api.clone(), resources)))
        .layer(from_fn_with_state(api.clone(), guard::guard))
        .layer(from_fn_with_state(api, access_log::log))
}

/// The endpoints whose paths begin with a repository.
async fn dispatch(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let route = parse(path.strip_prefix("/v2/").unwrap_or(path));
    let event = route.as_ref().ok().and_then(|route| Event::of(route, &parts));
    if matches!(parts.method, Method::GET | Method::HEAD) {
        let answer = match route {
            Ok(route) => read(&api, route, &parts).await,
            Err(error) => Err(error),
        };
        return Event::told(event, answer.unwrap_or_else(IntoResponse::into_response));
    }
    let changing = api.clone();
    let extensions = parts.extensions.clone();
    let change = async move {
        let mut body = Incoming::new(body, changing.settings.idle_timeout);
        let answer = match route {
            Ok(route) => change(&changing, route, &parts, &mut body).await,
            Err(error) => Err(error),
        };
        if answer.is_err() {
            body.drain(&parts.headers).await;
        }
        Event::told(event, answer.unwrap_or_else(IntoResponse::into_response))
    };
    let change = api.spawn(&extensions, change);
    change.await.unwrap_or_else(|error| ApiError::internal(&error).into_response())
}

/// The paths of the embedded API: what changes something there goes on, and is told of, as what is pushed.
async fn resources(State(api): State<Api>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let (event, extensions) = (Event::of_resource(&parts), parts.extensions.clone());
    let change = async move { Event::told(event, next.run(Request::from_parts(parts, body)).await) };
    let changed = api.spawn(&extensions, change).await;
    changed.unwrap_or_else(|error| ApiError::internal(&error).into_status())
}

#[rustfmt::skip] // The table keeps its columns.
async fn read(api: &Api, route: Route, request: &Parts) -> Result<Response, ApiError> {
    match route {
        Route::Blob { name, digest } => blobs::get(api, &name, &digest, request).await,             // end-2
        Route::Manifest { name, reference } => manifests::get(api, &name, &reference, request).await, // end-3
        Route::Tags { name } => tags::list(api, &name, request).await,                              // end-8
        Route::Referrers { name, digest } => referrers::list(api, &name, &digest, request).await,   // end-12
        Route::Upload { name, id } => uploads::status(api, &name, &id).await,                       // end-13
        Route::Chunks { name, digest } => chunks::list(api, &name, &digest).await,                  // (DVCR's)
        Route::Uploads { .. } => Err(ApiError::method_not_allowed("POST")),
    }
}

/// What changes something. Files for images come by `/upload` alone, which knows of them: they would be under no quota here.
async fn change(api: &Api, route: Route, request: &Parts, body: &mut Incoming) -> Result<Response, ApiError> {
    if is_uploaded_file(route.repository().as_str()) {
        return Err(ApiError::reserved(route.repository()));
    }
    changed(api, route, request, body).await
}

#[rustfmt::skip] // The table keeps its columns.
async fn changed(api: &Api, route: Route, request: &Parts, body: &mut Incoming) -> Result<Response, ApiError> {
    match (route, request.method.as_str()) {
        (Route::Uploads { name }, "POST") => uploads::begin(api, &name, request, body).await,          // end-4, 11
        (Route::Upload { name, id }, "PATCH") => uploads::append(api, &name, &id, request, body).await, // end-5
        (Route::Upload { name, id }, "PUT") => uploads::finish(api, &name, &id, request, body).await,  // end-6
        (Route::Upload { name, id }, "DELETE") => uploads::cancel(api, &name, &id).await,              // end-14
        (Route::Manifest { name, reference }, "PUT") =>
            manifests::put(api, &name, &reference, request, body).await,                               // end-7
        (Route::Manifest { name, reference }, "DELETE") =>
            manifests::delete(api, &name, &reference, request).await,                                  // end-9
        (Route::Blob { name, digest }, "DELETE") => blobs::delete(api, &name, &digest).await,          // end-10
        (route, _) => Err(ApiError::method_not_allowed(match route {
            Route::Uploads { .. } => "POST",
            Route::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
            Route::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Route::Blob { .. } => "GET, HEAD, DELETE",
            Route::Tags { .. } | Route::Referrers { .. } | Route::Chunks { .. } => "GET, HEAD",
        })),
    }
}

/// Old Docker clients look for this on every answer.
async fn with_api_version(mut response: Response) -> Response {
    response.headers_mut().insert(
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    );
    response
}
