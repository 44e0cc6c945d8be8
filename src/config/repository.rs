//! `[repository]`: a url and what S3 needs besides.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::Deserialize;
use url::Url;

use super::credentials;
use crate::cluster::user_name;
use crate::error::{Error, Result};
use crate::store::{Location, S3Location};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    url: String,
    region: Option<String>,
    endpoint: Option<String>,
    #[serde(default)]
    allow_http: bool,
    access_key_id_file: Option<PathBuf>,
    secret_access_key_file: Option<PathBuf>,
    #[serde(default)]
    server_side_encryption: bool,
    ca_file: Option<PathBuf>,
}

/// Where backups go.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// The url as written.
    pub url: String,
    /// Directories below the bucket; for `file://` the directory is the root itself.
    pub prefix: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    S3(Box<S3Place>),
}

#[derive(Debug, Clone)]
struct S3Place {
    bucket: String,
    region: String,
    endpoint: String,
    allow_http: bool,
    id_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    server_side_encryption: bool,
    ca_file: Option<PathBuf>,
}

impl Raw {
    pub(super) fn check(self) -> Result<RepositoryConfig> {
        let url = Url::parse(&self.url).map_err(|cause| {
            Error::usage(format!("repository.url \"{}\": {cause}", self.url))
                .hint("write it like s3://bucket/prefix or file:///srv/backups")
        })?;
        match url.scheme() {
            "file" => self.file(&url),
            "s3" => self.s3(&url),
            other => Err(Error::usage(format!("repository.url has the scheme \"{other}\""))
                .hint("use s3:// or file://")),
        }
    }

    fn file(self, url: &Url) -> Result<RepositoryConfig> {
        let path = url.to_file_path().map_err(|()| {
            Error::usage(format!("repository.url \"{}\" is not a local path", self.url))
                .hint("write it with three slashes: file:///srv/backups")
        })?;
        if path == Path::new("/") {
            return Err(Error::usage("repository.url is the root directory"));
        }
        let s3_only = [
            ("region", self.region.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("access_key_id_file", self.access_key_id_file.is_some()),
            ("secret_access_key_file", self.secret_access_key_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("server_side_encryption", self.server_side_encryption),
        ];
        if let Some((name, _)) = s3_only.into_iter().find(|(_, set)| *set) {
            return Err(Error::usage(format!("repository.{name} does not apply to a file:// repository")));
        }
        Ok(RepositoryConfig { url: self.url, prefix: String::new(), place: Place::File(path) })
    }

    fn s3(self, url: &Url) -> Result<RepositoryConfig> {
        let bucket = url.host_str().unwrap_or_default().to_owned();
        if bucket.is_empty() {
            return Err(Error::usage(format!("repository.url \"{}\" does not name a bucket", self.url)));
        }
        let prefix = url.path().trim_matches('/').to_owned();
        let (region, endpoint) = region_and_endpoint(self.region.as_deref(), self.endpoint.as_deref())?;
        if endpoint.starts_with("http://") && !self.allow_http {
            return Err(Error::usage(format!("repository.endpoint {endpoint} is not encrypted"))
                .hint("use https://, or set allow_http = true"));
        }
        if endpoint.contains(".perf.cloud.ovh.net") {
            tracing::warn!(
                "the .perf. endpoint is OVH's legacy one: more expensive, and without lifecycle rules; use s3.<region>.io.cloud.ovh.net"
            );
        }
        let place = S3Place {
            bucket,
            region,
            endpoint,
            allow_http: self.allow_http,
            id_file: self.access_key_id_file,
            secret_file: self.secret_access_key_file,
            server_side_encryption: self.server_side_encryption,
            ca_file: self.ca_file,
        };
        Ok(RepositoryConfig { url: self.url, prefix, place: Place::S3(Box::new(place)) })
    }
}

/// OVH's regions imply their endpoint and the other way round; another endpoint's region is us-east-1 unless said.
fn region_and_endpoint(region: Option<&str>, endpoint: Option<&str>) -> Result<(String, String)> {
    let endpoint_host =
        |endpoint: &str| Url::parse(endpoint).ok().and_then(|url| url.host_str().map(str::to_owned));
    match (region, endpoint) {
        (None, None) => {
            Err(Error::usage("repository.region is missing")
                .hint("for OVHcloud in Gravelines: region = \"gra\""))
        }
        (Some(region), None) => {
            let region = region.to_ascii_lowercase();
            let fits =
                !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !fits {
                return Err(Error::usage(format!("repository.region is \"{region}\"")));
            }
            let endpoint = format!("https://s3.{region}.io.cloud.ovh.net");
            Ok((region, endpoint))
        }
        (region, Some(endpoint)) => {
            let Some(host) = endpoint_host(endpoint) else {
                return Err(Error::usage(format!("repository.endpoint \"{endpoint}\" is not a URL"))
                    .hint("write it like https://s3.example.net"));
            };
            let of_host = host.strip_prefix("s3.").and_then(|rest| rest.strip_suffix(".io.cloud.ovh.net"));
            let region = region.or(of_host).unwrap_or("us-east-1").to_owned();
            Ok((region, endpoint.trim_end_matches('/').to_owned()))
        }
    }
}

impl RepositoryConfig {
    /// What tells this place from any other, without secrets.
    pub(super) fn description(&self) -> String {
        match &self.place {
            Place::File(path) => format!("file {}", path.display()),
            Place::S3(s3) => format!("s3 {} {} {}", s3.endpoint, s3.bucket, self.prefix),
        }
    }

    /// The local directory, for a `file://` repository.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::S3(_) => None,
        }
    }

    /// On a local disk, what root writes the repository's owner could neither read nor delete: commands that write are
    /// for that owner alone.
    pub fn refuse_root(&self) -> Result<()> {
        let Some(path) = self.directory() else { return Ok(()) };
        // One that is not there is told by whoever opens it.
        let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
        refuse_root(path, found.uid(), geteuid().as_raw())
    }

    /// Everything that opening needs; credentials are read here, and missing ones are an error here.
    pub fn location(&self) -> Result<Location> {
        let s3 = match &self.place {
            Place::File(path) => return Ok(Location::File(path.clone())),
            Place::S3(s3) => s3,
        };
        let ca =
            match &s3.ca_file {
                None => None,
                Some(path) => Some(std::fs::read(path).map_err(|cause| {
                    Error::usage(format!("repository.ca_file {}: {cause}", path.display()))
                })?),
            };
        Ok(Location::S3(Box::new(S3Location {
            bucket: s3.bucket.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            allow_http: s3.allow_http,
            credentials: credentials::find(s3.id_file.as_deref(), s3.secret_file.as_deref())?,
            server_side_encryption: s3.server_side_encryption,
            ca,
        })))
    }
}

fn refuse_root(path: &Path, owner: u32, user: u32) -> Result<()> {
    if user != 0 || owner == 0 {
        return Ok(());
    }
    let owner = user_name(owner);
    Err(Error::usage(format!(
        "the repository {} belongs to user {owner}, and only root could use what root writes there",
        path.display()
    ))
    .hint(format!("run this command as user {owner} (sudo -u)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_writes_to_no_repository_of_another_user() {
        let path = Path::new("/srv/backups");
        for (owner, user) in [(0, 0), (101, 101), (101, 102)] {
            refuse_root(path, owner, user).unwrap();
        }
        let error = refuse_root(path, 4_000_000_001, 0).unwrap_err();
        assert!(error.to_string().contains("/srv/backups belongs to user with id 4000000001"), "{error}");
    }

    fn check(text: &str) -> Result<RepositoryConfig> {
        toml::from_str::<Raw>(text).unwrap().check()
    }

    #[test]
    fn a_region_alone_means_ovh() {
        let config = check("url = \"s3://bucket/a/b/\"\nregion = \"GRA\"").unwrap();
        assert_eq!(config.prefix, "a/b");
        let Place::S3(s3) = config.place else { panic!() };
        assert_eq!((s3.region.as_str(), s3.endpoint.as_str()), ("gra", "https://s3.gra.io.cloud.ovh.net"));
    }

    #[test]
    fn the_region_follows_from_an_ovh_endpoint() {
        let config =
            check("url = \"s3://bucket\"\nendpoint = \"https://s3.eu-west-par.io.cloud.ovh.net/\"").unwrap();
        let Place::S3(s3) = config.place else { panic!() };
        assert_eq!(
            (s3.region.as_str(), s3.endpoint.as_str()),
            ("eu-west-par", "https://s3.eu-west-par.io.cloud.ovh.net")
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for text in [
            "url = \"bucket\"",
            "url = \"ftp://a\"",
            "url = \"s3://\"",
            "url = \"s3://bucket\"",
            "url = \"s3://bucket\"\nendpoint = \"http://127.0.0.1:9000\"",
            "url = \"file://relative\"",
            "url = \"file:///\"",
            "url = \"file:///srv\"\nregion = \"gra\"",
        ] {
            check(text).unwrap_err();
        }
    }
}
