//! The contract, on a real S3 server. `make test` starts one and says where it is.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy sees tests only in functions that are marked as such"
)]

use std::sync::Arc;

use storage_backends::contract::Fixture;
use storage_backends::{S3, S3Options, contract_tests};

fn options(prefix: &str) -> S3Options {
    let endpoint = std::env::var("CONFORMANCE_S3_ENDPOINT").expect(
        "CONFORMANCE_S3_ENDPOINT is not set: run `make test`, or any command through conformance/with-s3",
    );
    let bucket = std::env::var("CONFORMANCE_S3_BUCKET").expect("CONFORMANCE_S3_BUCKET is not set");

    let _ = rustls::crypto::ring::default_provider().install_default();
    S3Options {
        bucket,
        prefix: format!("contract/{prefix}"),
        endpoint: Some(endpoint),
        region: Some("us-east-1".into()),
        credentials: Some(("dvcr-test".into(), "dvcr-test-secret".into())),
        ..S3Options::default()
    }
}

async fn bucket() -> Fixture {
    let prefix = uuid::Uuid::now_v7().to_string();
    Fixture { store: Arc::new(S3::open(&options(&prefix)).await.unwrap()), keep: Box::new(()) }
}

contract_tests!(bucket);

#[tokio::test]
async fn wrong_credentials_are_refused_at_once_with_the_way_out() {
    let wrong = S3Options { credentials: Some(("nobody".into(), "nothing".into())), ..options("refused") };
    let error = S3::open(&wrong).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("check endpoint, bucket and credentials"), "{error}");
}
