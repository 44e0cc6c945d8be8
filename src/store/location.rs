//! Where a store is, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::credentials::{CredentialSource, Provider};
use super::failure::of_settings;
use super::local::absent;
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
    /// Who we are; asked for every request, since they may be rotated.
    pub credentials: Arc<dyn CredentialSource>,
    /// Ask for server-side encryption with AES256, besides our own.
    pub server_side_encryption: bool,
    /// A PEM bundle of further certificate authorities.
    pub ca: Option<Vec<u8>>,
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

/// The library's store; where listings come in pages, that too.
pub(super) struct Opened {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) pages: Option<Arc<dyn PaginatedListStore>>,
}

/// The library's store as it deletes many objects in one request. Opened when it is first needed: a client of its own
/// costs what most commands need not pay.
pub(super) struct Bulk {
    location: S3Location,
    policy: Policy,
    opened: OnceLock<Arc<AmazonS3>>,
}

impl Bulk {
    /// Where the store is one that has such requests.
    pub(super) fn new(location: &Location, policy: Policy) -> Option<Self> {
        match location {
            Location::S3(s3) => Some(Self { location: (**s3).clone(), policy, opened: OnceLock::new() }),
            Location::File(_) | Location::Memory => None,
        }
    }

    /// The service, for requests that the library does not know.
    pub(super) const fn location(&self) -> &S3Location {
        &self.location
    }

    pub(super) fn get(&self) -> Result<Arc<AmazonS3>> {
        if let Some(opened) = self.opened.get() {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new(open_s3(&self.location, &self.policy, Deletes::ByTheThousand)?);
        Ok(Arc::clone(self.opened.get_or_init(|| opened)))
    }
}

/// How the library deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deletes {
    /// Every S3 can.
    OneByOne,
    /// DeleteObjects wants a Content-MD5 and is not everywhere.
    ByTheThousand,
}

/// Open the library's store. Repetition is ours (`policy.rs`), so the library's is off.
pub(super) fn open(location: &Location, policy: &Policy) -> Result<Opened> {
    match location {
        Location::Memory => Ok(Opened { objects: Arc::new(InMemory::new()), pages: None }),
        Location::File(path) => {
            let objects = LocalFileSystem::new_with_prefix(path).map_err(|_| absent(path))?;
            // Without this an acknowledged segment can vanish in a power cut.
            Ok(Opened { objects: Arc::new(objects.with_fsync(true)), pages: None })
        }
        Location::S3(s3) => {
            let objects = Arc::new(open_s3(s3, policy, Deletes::OneByOne)?);
            Ok(Opened { objects: Arc::clone(&objects) as Arc<dyn ObjectStore>, pages: Some(objects) })
        }
    }
}

/// How the service is reached.
pub(super) fn client_options(s3: &S3Location, policy: &Policy) -> Result<ClientOptions> {
    let mut client = ClientOptions::new()
        .with_allow_http(s3.allow_http)
        .with_connect_timeout(policy.connect)
        .with_read_timeout(policy.idle)
        // `policy.rs` ends a try; this is for what would slip through.
        .with_timeout(policy.attempt.max(Policy::default().attempt))
        // They are some hundred files, which nothing is compared with where nothing is encrypted; a container may have none.
        .with_no_system_certificates(s3.endpoint.starts_with("http://"))
        .with_pool_idle_timeout(std::time::Duration::from_secs(30));
    if let Some(pem) = &s3.ca {
        let certificates = Certificate::from_pem_bundle(pem)
            .map_err(|cause| Error::usage(format!("repository.ca_file: {cause}")))?;
        for certificate in certificates {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn open_s3(s3: &S3Location, policy: &Policy, deletes: Deletes) -> Result<AmazonS3> {
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: policy.attempt };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_endpoint(&s3.endpoint)
        .with_allow_http(s3.allow_http)
        .with_virtual_hosted_style_request(false)
        .with_credentials(Arc::new(Provider::new(Arc::clone(&s3.credentials))))
        .with_client_options(client_options(s3, policy)?)
        .with_retry(retry)
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, (deletes == Deletes::OneByOne).to_string());
    if s3.server_side_encryption {
        builder = builder.with_config("aws_server_side_encryption".parse().map_err(|_| sse())?, "AES256");
    }
    builder.build().map_err(|cause| of_settings(&cause))
}

fn sse() -> Error {
    Error::new(Kind::Other, "server-side encryption is not supported by the S3 library")
}
