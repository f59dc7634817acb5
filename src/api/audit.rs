//! Who pushed, tagged, mounted, pulled and deleted what: one event each, with the target `dvcr::audit`.
//!
//! An event is told when its answer is known, before it is sent: what was done is told, also if nobody waits for the answer any
//! more. Requests that were refused are told as well.

use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

use super::asker::caller;
use super::body::announced;
use super::origin::Origin;
use super::query::Query;
use super::request_id::RequestId;
use super::route::Route;
use crate::oci::RepositoryName;

/// What is worth to be remembered of a request.
#[derive(Debug)]
pub(super) struct Event {
    action: &'static str,
    repository: String,
    /// A tag or a digest.
    reference: String,
    /// The repository that a blob is mounted from.
    from: Option<String>,
    /// Bytes of what is pushed.
    size: Option<u64>,
    /// Who asks, if that is known.
    user: Option<String>,
    client: Option<Origin>,
    request: Option<RequestId>,
}

impl Event {
    /// What a request wants that has to be told.
    pub(super) fn of(route: &Route, request: &Parts) -> Option<Self> {
        let mut from = None;
        let (action, name, reference) = match (route, &request.method) {
            (Route::Manifest { name, reference }, &Method::GET) => ("pull", name, reference.clone()),
            (Route::Manifest { name, reference }, &Method::PUT) => ("push", name, reference.clone()),
            (Route::Manifest { name, reference }, &Method::DELETE) => ("delete", name, reference.clone()),
            (Route::Blob { name, digest }, &Method::DELETE) => ("delete_blob", name, digest.clone()),
            (Route::Uploads { name }, &Method::POST) => {
                let query = Query::of(&request.uri);
                let digest = query.get("mount")?.to_owned();
                from = query.get("from").map(str::to_owned);
                ("mount", name, digest)
            }
            _ => return None,
        };
        Some(Self::new(action, name, reference, from, request))
    }

    /// The same of a request that is refused before anything is looked at: a push ends where its first upload begins.
    pub(super) fn of_refused(route: &Route, request: &Parts) -> Option<Self> {
        match (route, &request.method) {
            (Route::Uploads { name }, &Method::POST) if Query::of(&request.uri).get("mount").is_none() => {
                Some(Self::new("push", name, String::new(), None, request))
            }
            _ => Self::of(route, request),
        }
    }

    fn new(
        action: &'static str,
        name: &RepositoryName,
        reference: String,
        from: Option<String>,
        request: &Parts,
    ) -> Self {
        Self {
            action,
            repository: name.to_string(),
            reference,
            from,
            size: (action == "push").then(|| announced(&request.headers)).flatten(),
            user: caller(request).and_then(|caller| caller.identity().name()).map(str::to_owned),
            client: request.extensions.get().copied(),
            request: request.extensions.get().cloned(),
        }
    }

    /// Tells what became of it, and gives the answer on.
    pub(super) fn told(event: Option<Self>, response: Response) -> Response {
        if let Some(event) = event {
            event.tell(response.status(), response.headers());
        }
        response
    }

    fn tell(self, status: StatusCode, answer: &HeaderMap) {
        // An upload in place of a mount is what most registries give; nothing came of it.
        let outcome = match status {
            StatusCode::ACCEPTED if self.action == "mount" => "not_mounted",
            _ if status.is_success() || status.is_redirection() => "done",
            _ if status.is_server_error() => "failed",
            _ => "refused",
        };
        let text = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
        let size = match self.action {
            "pull" => text(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()),
            _ => self.size,
        };
        tracing::info!(
            target: "dvcr::audit",
            action = self.action,
            repository = self.repository,
            reference = self.reference,
            digest = text("docker-content-digest"),
            from = self.from,
            size = if outcome == "done" { size } else { None },
            outcome,
            status = status.as_u16(),
            user = self.user,
            client = self.client.map(tracing::field::display),
            request_id = self.request.as_ref().map(RequestId::as_str),
            "audit"
        );
    }
}
