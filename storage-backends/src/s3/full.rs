//! A full bucket says so at once.
//!
//! Servers answer `507 Insufficient Storage`, which `object_store` takes for a failure that passes: it would try again for minutes
//! while the client waits. Here it gets another status to see, one that is final and that servers send for nothing else.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};

/// Makes clients that do not try again when there is no space, of those that another connector makes.
#[derive(Debug)]
pub(super) struct Connector<C>(pub(super) C);

impl<C: HttpConnector> HttpConnector for Connector<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Final(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Final(HttpClient);

#[async_trait]
impl HttpService for Final {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        const INSUFFICIENT_STORAGE: u16 = 507;
        const PAYLOAD_TOO_LARGE: u16 = 413;
        let mut response = self.0.execute(request).await?;
        if response.status().as_u16() == INSUFFICIENT_STORAGE
            && let Ok(status) = PAYLOAD_TOO_LARGE.try_into()
        {
            *response.status_mut() = status;
        }
        Ok(response)
    }
}
