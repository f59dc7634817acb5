//! `/upload/<token>`: files of disk images, from people with curl or a browser.
//!
//! ```text
//! curl --progress-bar -T disk.qcow2 URL | cat              PUT or POST of the whole file, chunked or not
//! curl -sI URL                                             Upload-Offset: how much is there
//! curl -C OFFSET -T disk.qcow2 URL                         Content-Range: goes on behind a broken connection
//! ```
//!
//! DELETE takes the file back, and with `?close=true` the address is of no use from then on.
//!
//! The address itself is the credential. Answers are one line of text for whoever watches the terminal; GET answers
//! JSON. What is uploaded is judged by the import that takes it, whose verdict is in the image's status.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_RANGE,
    REFERRER_POLICY, RETRY_AFTER,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use super::audit::{Event, Interrupted};
use super::body::{self, Incoming};
use super::query::Query;
use super::{Api, range};
use crate::registry::{Error, Piece, Staged, Staging, StagingError, Total};
use crate::upload_token::{InvalidToken, UploadKey};

/// Bytes of the file that are there; the name is that of the tus protocol.
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// What the endpoint takes.
const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// How long the rest of a body is read that nobody wants.
const DRAIN: Duration = Duration::from_millis(500);

/// What the handlers need.
#[derive(Debug)]
pub(super) struct ImageUploads {
    pub(super) staging: Staging,
    pub(super) key: UploadKey,
}

/// An answer that is not a success.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    interrupted: Option<Interrupted>,
}

impl Refused {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), headers: Vec::new(), interrupted: None }
    }

    fn interrupted(self) -> Self {
        Self { interrupted: Some(Interrupted), ..self }
    }

    fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.message)).into_response();
        response.headers_mut().extend(self.headers);
        if let Some(interrupted) = self.interrupted {
            response.extensions_mut().insert(interrupted);
        }
        response
    }
}

/// All of `/upload/<token>`.
pub(super) async fn handle(State(api): State<Api>, Path(token): Path<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(body, api.settings.idle_timeout);
    let (changing, extensions) = (api.clone(), parts.extensions.clone());
    let image = api.image_uploads.as_ref().and_then(|uploads| uploads.key.read(&token).ok());
    let event = Event::of_image_upload(&parts, image.map(|(image, _)| image));
    // As all that changes something: a client that goes away does not stop it half-way.
    let answered = api.spawn(&extensions, async move {
        let answer = answer(&changing, &token, &parts, &mut body).await;
        if answer.is_err() {
            // Not for long: who has stopped to send need not wait for the answer.
            let _ = tokio::time::timeout(DRAIN, body.drain(&parts.headers)).await;
        }
        Event::told(event, answer.unwrap_or_else(IntoResponse::into_response))
    });
    let failed = |_| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed").into_response();
    shared(answered.await.unwrap_or_else(failed))
}

/// What every answer has: a page of any origin may upload, since the address is all it takes.
fn shared(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Upload-Offset"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn answer(api: &Api, token: &str, request: &Parts, body: &mut Incoming) -> Result<Response, Refused> {
    let Some(uploads) = &api.image_uploads else {
        return Err(Refused::new(StatusCode::NOT_FOUND, "this registry takes no uploads of images"));
    };
    if request.method == Method::OPTIONS {
        let headers = [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, Content-Range"),
            (ACCESS_CONTROL_MAX_AGE, "86400"),
            (ALLOW, METHODS),
        ];
        return Ok((StatusCode::NO_CONTENT, headers).into_response());
    }
    let image = uploads.key.check(token, SystemTime::now()).map_err(|error| {
        let status = match error {
            InvalidToken::Unknown => StatusCode::NOT_FOUND,
            InvalidToken::Expired => StatusCode::GONE,
        };
        Refused::new(status, error.to_string())
    })?;
    let staging = &uploads.staging;
    match request.method {
        Method::GET | Method::HEAD => status(staging, image).await,
        Method::PUT | Method::POST => receive(staging, image, request, body).await,
        Method::DELETE => {
            let query = Query::of(&request.uri);
            let removed = match query.get("close") {
                Some("true") => staging.close(image).await,
                None | Some("false") => staging.remove(image).await,
                Some(other) => {
                    let message = format!("parameter close must be true or false, not {other:?}");
                    return Err(Refused::new(StatusCode::BAD_REQUEST, message));
                }
            };
            removed.map_err(refusal)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("an upload takes {METHODS}"))
            .with(ALLOW, HeaderValue::from_static(METHODS))),
    }
}

async fn status(staging: &Staging, image: Uuid) -> Result<Response, Refused> {
    let (state, offset, total) = match staging.staged(image).await.map_err(refusal)? {
        Staged::Whole { size } => ("received", size, Some(size)),
        Staged::Receiving { length, total } => ("receiving", length, total),
        Staged::Partial { length } => ("waiting", length, None),
    };
    let answer = json!({ "state": state, "offset": offset, "total": total });
    Ok(([(UPLOAD_OFFSET, offset)], Json(answer)).into_response())
}

async fn receive(
    staging: &Staging,
    image: Uuid,
    request: &Parts,
    body: &mut Incoming,
) -> Result<Response, Refused> {
    let piece = piece(request)?;
    let stream = body.split();
    match staging.receive(image, piece, stream).await.map_err(refusal)? {
        Staged::Whole { size } => {
            let text = format!("received {size} bytes; the image is being checked, see its status\n");
            Ok((StatusCode::CREATED, [(UPLOAD_OFFSET, size)], text).into_response())
        }
        Staged::Partial { length } | Staged::Receiving { length, .. } => {
            let text = format!("received {length} bytes so far\n");
            Ok((StatusCode::ACCEPTED, [(UPLOAD_OFFSET, length)], text).into_response())
        }
    }
}

/// What the headers say of the bytes that follow.
fn piece(request: &Parts) -> Result<Piece, Refused> {
    let length = body::announced(&request.headers);
    let Some(header) = request.headers.get(CONTENT_RANGE) else {
        if length == Some(0) {
            let message = "the file is empty; to upload one, use curl -T FILE URL";
            return Err(Refused::new(StatusCode::BAD_REQUEST, message));
        }
        return Ok(Piece { start: 0, length, total: length.map_or(Total::EndOfPiece, Total::Bytes) });
    };
    let Some((start, announced, total)) = header.to_str().ok().and_then(range::content) else {
        let message = format!("Content-Range must read `bytes FIRST-LAST/TOTAL`, not {header:?}");
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    };
    if let Some(length) = length.filter(|&length| length != announced) {
        let message = format!("Content-Range has {announced} bytes and Content-Length {length}");
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(Piece { start, length: Some(announced), total: total.map_or(Total::More, Total::Bytes) })
}

#[expect(clippy::needless_pass_by_value, reason = "it is the last step of `map_err`")]
fn refusal(error: StagingError) -> Refused {
    let message = error.to_string();
    match error {
        StagingError::Whole => Refused::new(StatusCode::CONFLICT, message),
        StagingError::Closed => Refused::new(StatusCode::GONE, message),
        StagingError::Busy => Refused::new(StatusCode::CONFLICT, message).with(RETRY_AFTER, 1),
        StagingError::OutOfOrder { length } => {
            let message = format!("{message}: go on there with curl -C {length} -T FILE URL");
            Refused::new(StatusCode::CONFLICT, message).with(UPLOAD_OFFSET, length)
        }
        StagingError::TooLong { .. } => Refused::new(StatusCode::BAD_REQUEST, message),
        StagingError::Registry(Error::BodyInterrupted) => {
            Refused::new(StatusCode::BAD_REQUEST, message).interrupted()
        }
        StagingError::Registry(Error::BodyStalled { .. }) => {
            Refused::new(StatusCode::REQUEST_TIMEOUT, message)
                .with(CONNECTION, HeaderValue::from_static("close"))
                .interrupted()
        }
        StagingError::Registry(Error::Full) => {
            let message = "the registry has no space left; nothing is wrong with the file";
            Refused::new(StatusCode::INSUFFICIENT_STORAGE, message)
        }
        StagingError::Registry(_) => {
            tracing::error!(error = message, "an upload of an image failed");
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the registry cannot take the file now; try again")
                .with(RETRY_AFTER, 5)
        }
    }
}
