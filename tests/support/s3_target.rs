//! Which S3 a test talks to: the one in the process, or a real one that the environment names.

use super::repo::{Objects, Remote};
use super::s3::S3Server;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How a client reaches a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    /// Keys of the repository lie below it; may be empty.
    pub prefix: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Location {
    /// The bucket that `WALPROOF_TEST_S3_URL` (`s3://bucket/prefix`) names, reached as `WALPROOF_TEST_S3_ENDPOINT`,
    /// `_REGION` (default us-east-1), `_ACCESS_KEY` and `_SECRET_KEY` say; each has a prefix of its own below the one named.
    #[track_caller]
    pub fn from_env() -> Self {
        let url = required("WALPROOF_TEST_S3_URL");
        let rest = url
            .strip_prefix("s3://")
            .unwrap_or_else(|| panic!("WALPROOF_TEST_S3_URL={url}: want s3://bucket"));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        Self {
            endpoint: required("WALPROOF_TEST_S3_ENDPOINT"),
            region: std::env::var("WALPROOF_TEST_S3_REGION").unwrap_or_else(|_| "us-east-1".into()),
            bucket: bucket.into(),
            prefix: format!("{}/{}", prefix.trim_end_matches('/'), unique()).trim_start_matches('/').into(),
            access_key: required("WALPROOF_TEST_S3_ACCESS_KEY"),
            secret_key: required("WALPROOF_TEST_S3_SECRET_KEY"),
        }
    }

    /// `s3://bucket/prefix`
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }
}

/// An S3 server for tests that need no faults, so that they can run against any.
#[derive(Debug)]
pub enum S3Target {
    InProcess(S3Server),
    /// Garage, RustFS, a container, OVH: already running, its bucket there.
    External(Location),
}

impl S3Target {
    /// In the process, unless `WALPROOF_TEST_S3_URL` names a bucket: see [`Location::from_env`].
    #[track_caller]
    pub fn from_env() -> Self {
        match std::env::var_os("WALPROOF_TEST_S3_URL") {
            None => Self::InProcess(S3Server::start()),
            Some(_) => Self::External(Location::from_env()),
        }
    }

    pub fn location(&self) -> Location {
        match self {
            Self::InProcess(server) => server.location(),
            Self::External(location) => location.clone(),
        }
    }

    /// The bucket's objects, behind the program's back.
    pub fn objects(&self) -> Arc<dyn Objects> {
        match self {
            Self::InProcess(server) => server.objects(),
            Self::External(location) => Arc::new(Remote::new(location)),
        }
    }
}

/// Something that can be asked for a bucket, so that `Repo::s3` takes either.
pub trait S3 {
    fn location(&self) -> Location;
    fn objects(&self) -> Arc<dyn Objects>;
}

impl S3 for S3Server {
    fn location(&self) -> Location {
        self.location()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.objects()
    }
}

impl S3 for S3Target {
    fn location(&self) -> Location {
        self.location()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.objects()
    }
}

#[track_caller]
fn required(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("no {name}, which an S3 server outside of the process needs"))
}

fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock after 1970");
    format!("test-{}-{}", std::process::id(), now.as_nanos())
}
