//! [`Counted`]: each HTTP request to the server, told with how it was answered: a call of the store may take several, since the
//! client tries again by itself.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use crate::measure::{Answer, Observer};

/// Connects as usual, and tells of each request.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Arc<dyn Observer>);

impl HttpConnector for Counted {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Requests { inner, observer: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Requests {
    inner: HttpClient,
    observer: Arc<dyn Observer>,
}

#[async_trait]
impl HttpService for Requests {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let result = self.inner.execute(request).await;
        self.observer.answered(match &result {
            Ok(response) => match response.status().as_u16() {
                429 | 503 => Answer::Busy,
                500.. => Answer::Failed,
                400.. => Answer::Refused,
                _ => Answer::Done,
            },
            Err(_) => Answer::None,
        });
        result
    }
}
