//! Who pushed, tagged, mounted, pulled, uploaded and deleted what, changed which resource, and looked after the registry: one event each,
//! with the target `dvcr::audit`.
//!
//! An event is told when its answer is known, before it is sent: what was done is told, also if nobody waits for the answer any
//! more. Requests that were refused are told as well, and bodies that broke off in the middle. What takes long and tells its progress
//! ([`super::verify`], [`super::rewrite`]) is told when it begins.

mod wanted;

use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::asker::caller;
use super::origin::Origin;
use super::request_id::RequestId;
use crate::telemetry::Changed;

/// What is worth to be remembered of a request.
#[derive(Debug, Default)]
pub(super) struct Event {
    action: &'static str,
    /// What it was done to: a repository with a tag or a digest in it …
    repository: Option<String>,
    reference: Option<String>,
    /// The repository that a blob is mounted from.
    from: Option<String>,
    /// Bytes of what is pushed.
    size: Option<u64>,
    /// … or a resource: its plural with the subresource, the namespace, the name …
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    /// … or the registry as a whole, in this way.
    parameters: Option<String>,
    /// It changes nothing.
    only_looks: bool,
    /// It is told elsewhere, unless its body broke off.
    only_interrupted: bool,
    /// Who asks, if that is known.
    user: Option<String>,
    client: Option<Origin>,
    request: Option<RequestId>,
}

/// In the extensions of an answer to a body that broke off: its client went away, or has sent nothing for too long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted;

impl Event {
    /// What somebody does, to nothing yet.
    fn new(action: &'static str, request: &Parts) -> Self {
        Self {
            action,
            user: caller(request).and_then(|caller| caller.identity().name()).map(str::to_owned),
            client: request.extensions.get().copied(),
            request: request.extensions.get().cloned(),
            ..Self::default()
        }
    }

    /// Tells what became of it, and gives the answer on.
    pub(super) fn told(event: Option<Self>, response: Response) -> Response {
        let is_interrupted = response.extensions().get::<Interrupted>().is_some();
        if let Some(event) = event.filter(|event| is_interrupted || !event.only_interrupted) {
            let changed = response.extensions().get();
            event.tell(response.status(), response.headers(), is_interrupted, changed);
        }
        response
    }

    fn tell(self, status: StatusCode, answer: &HeaderMap, is_interrupted: bool, changed: Option<&Changed>) {
        let only_looks = self.only_looks || changed.is_some_and(|changed| changed.only_looked);
        let outcome = match (status, self.action) {
            // An upload in place of a mount is what most registries give; nothing came of it.
            (StatusCode::ACCEPTED, "mount") => "not_mounted",
            (StatusCode::ACCEPTED, "upload") => "partial",
            _ if status.is_success() && only_looks => "dry_run",
            (_, "verify" | "rewrite") if status.is_success() => "begun",
            _ if status.is_success() || status.is_redirection() => "done",
            _ if is_interrupted => "interrupted",
            _ if status.is_server_error() => "failed",
            _ => "refused",
        };
        // Applying makes what is not there.
        let action = match (status, self.action) {
            (StatusCode::CREATED, "update") => "create",
            (_, action) => action,
        };
        let text = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
        let size = match action {
            "pull" => text(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok()),
            _ => self.size,
        };
        let name = self.name.or_else(|| changed.and_then(|changed| changed.name.clone()));
        tracing::info!(
            target: "dvcr::audit",
            action,
            repository = self.repository,
            reference = self.reference,
            resource = self.resource,
            namespace = self.namespace,
            name,
            parameters = self.parameters,
            digest = text("docker-content-digest").or_else(|| text("content-location")?.rsplit('/').next()),
            from = self.from,
            size = if matches!(outcome, "done" | "partial") { size } else { None },
            outcome,
            status = status.as_u16(),
            user = self.user,
            client = self.client.map(tracing::field::display),
            request_id = self.request.as_ref().map(RequestId::as_str),
            "audit"
        );
    }
}
