//! S3, and servers that speak it, as a store.

mod full;
mod probe;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::ReqwestConnector;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::bucket::PartRule;
use crate::measure::Observer;
use crate::{Bucket, Error, Result};

/// A store in a bucket, below a prefix.
pub type S3 = Bucket<PrefixStore<AmazonS3>>;

/// 8 MiB parts, eight on their way: enough for one upload to fill a fast link over 100 ms, and eight uploads at once
/// hold 128 MiB. An object ends at 78 GiB.
pub(crate) const PARTS: PartRule = PartRule { size: 8 << 20, most: 10_000, in_flight: 8 };

const _: () = assert!(PARTS.size >= 5 << 20, "S3 takes no smaller parts, but for the last");

/// Where the bucket is. What is not given is taken from the usual `AWS_*` environment variables
/// (and, in a cluster, from the instance or the service account).
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// The bucket, which must exist.
    pub bucket: String,
    /// A folder in the bucket; empty for its root.
    pub prefix: String,
    /// `http(s)://host:port` of a server other than AWS.
    pub endpoint: Option<String>,
    /// The region; servers other than AWS mostly ignore it.
    pub region: Option<String>,
    /// The access key and its secret.
    pub credentials: Option<(String, String)>,
    /// Address buckets as `https://bucket.host` in place of `https://host/bucket`.
    pub virtual_hosted_style: bool,
    /// Accept a server without conditional put, on the word of the operator that no second process writes
    /// to the same place.
    pub single_writer: bool,
    /// Who is told of each HTTP request, those among them that are tried again.
    pub observer: Option<Arc<dyn Observer>>,
}

impl S3 {
    /// Opens the bucket and proves that the server keeps the promises the engine relies on.
    pub async fn open(options: &S3Options) -> Result<Self> {
        let store = Self::new(PrefixStore::new(connect(options)?, options.prefix.as_str()), "s3", PARTS);
        match probe::conditional_put(&store).await? {
            probe::Verdict::Honoured => Ok(store),
            probe::Verdict::Broken(_) if options.single_writer => Ok(store.without_conditional_put()),
            probe::Verdict::Broken(how) => Err(Error::unusable(format!(
                "the S3 server does not honour conditional puts ({how}), which keep several writers from \
                 overwriting each other; upgrade it, or set s3.single_writer if this process is the only \
                 one that will ever write to s3://{}/{}",
                options.bucket, options.prefix
            ))),
        }
    }
}

fn connect(options: &S3Options) -> Result<AmazonS3> {
    // No limit on a whole request, which would cut a large read short; only on silence.
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(5))
        // Servers put thousands of parts together before they answer.
        .with_read_timeout(Duration::from_mins(2));
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 10,
        retry_timeout: Duration::from_mins(3),
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&options.bucket)
        .with_virtual_hosted_style_request(options.virtual_hosted_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Deletes are single here, and not every server has the bulk kind.
        .with_disable_bulk_delete(true)
        // Signing a payload hashes it a second time. TLS protects it on the way to AWS.
        .with_unsigned_payload(true)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some((id, secret)) = &options.credentials {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    // What is counted is what the server says.
    builder = match &options.observer {
        Some(observer) => {
            builder.with_http_connector(full::Connector(requests::Counted(Arc::clone(observer))))
        }
        None => builder.with_http_connector(full::Connector(ReqwestConnector::default())),
    };
    let plain = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    builder.with_client_options(client.with_allow_http(plain)).build().map_err(|source| Error::Unusable {
        what: format!("cannot use the bucket {}: {source}", options.bucket),
        source: None,
    })
}
