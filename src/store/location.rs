//! Where a store is, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use zeroize::Zeroizing;

use super::policy::Policy;
use crate::error::{Error, Kind, Result};

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Location {
    /// A directory on this host.
    File(PathBuf),
    /// A bucket of an S3 service.
    S3(Box<S3Location>),
    /// This process, for tests.
    Memory,
}

/// A bucket of an S3 service and how to get in.
#[derive(Debug, Clone)]
pub struct S3Location {
    /// The bucket's name.
    pub bucket: String,
    /// The region that requests are signed for.
    pub region: String,
    /// `https://host[:port]`; the bucket is addressed in path style below it.
    pub endpoint: String,
    /// Whether the endpoint may be plain `http://`.
    pub allow_http: bool,
    /// Who we are.
    pub credentials: Credentials,
    /// Ask for server-side encryption with AES256, besides our own.
    pub server_side_encryption: bool,
    /// A PEM bundle of further certificate authorities.
    pub ca: Option<Vec<u8>>,
}

/// S3 credentials; never shown.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Zeroizing<String>,
    /// Session token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3(s3) => write!(f, "s3://{}", s3.bucket),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// Open the library's store. Repetition is ours (`policy.rs`), so the library's is off.
pub(super) fn open(location: &Location, policy: &Policy) -> Result<Arc<dyn ObjectStore>> {
    match location {
        Location::Memory => Ok(Arc::new(InMemory::new())),
        Location::File(path) => {
            let objects = LocalFileSystem::new_with_prefix(path).map_err(|_| {
                Error::new(
                    Kind::Unreachable,
                    format!("the repository's directory {} is not there", path.display()),
                )
                .hint("is its disk mounted?")
            })?;
            // Without this an acknowledged segment can vanish in a power cut.
            Ok(Arc::new(objects.with_fsync(true)))
        }
        Location::S3(s3) => open_s3(s3, policy),
    }
}

fn open_s3(s3: &S3Location, policy: &Policy) -> Result<Arc<dyn ObjectStore>> {
    let mut client = ClientOptions::new()
        .with_allow_http(s3.allow_http)
        .with_connect_timeout(policy.connect)
        .with_read_timeout(policy.idle)
        .with_timeout(policy.attempt)
        .with_pool_idle_timeout(std::time::Duration::from_secs(30));
    if let Some(pem) = &s3.ca {
        let certificates = Certificate::from_pem_bundle(pem)
            .map_err(|cause| Error::usage(format!("repository.ca_file: {cause}")))?;
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: policy.attempt };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_endpoint(&s3.endpoint)
        .with_allow_http(s3.allow_http)
        .with_virtual_hosted_style_request(false)
        .with_access_key_id(&s3.credentials.access_key_id)
        .with_secret_access_key(s3.credentials.secret_access_key.as_str())
        .with_client_options(client)
        .with_retry(retry)
        // DeleteObjects wants a Content-MD5 and is not everywhere; single deletes are.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    if let Some(token) = &s3.credentials.session_token {
        builder = builder.with_token(token.as_str());
    }
    if s3.server_side_encryption {
        builder = builder.with_config("aws_server_side_encryption".parse().map_err(|_| sse())?, "AES256");
    }
    let objects = builder.build().map_err(|cause| Error::usage(format!("repository: {cause}")))?;
    Ok(Arc::new(objects))
}

fn sse() -> Error {
    Error::new(Kind::Other, "server-side encryption is not supported by the S3 library")
}
