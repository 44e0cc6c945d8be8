//! What a bucket with versioning keeps of objects that were deleted or overwritten: it is paid for until a lifecycle rule
//! of the bucket removes it. The library has no word for it.

use std::time::Duration;

use hyper::StatusCode;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use url::Url;

use super::credentials::Provider;
use super::location::{S3Location, client_options};
use super::{Store, parse};
use crate::error::{Error, Kind, Result, ResultExt};

/// Pages of a thousand versions that are counted: more may be a bucket whose tails were never cleaned up.
const MOST_PAGES: usize = 100;
const PAGE: &str = "1000";
const BODY_PATIENCE: Duration = Duration::from_mins(1);

/// Versions that are not the newest of their object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldVersions {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether all were counted.
    pub whole: bool,
}

/// S3's answer to ListObjectVersions, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_version_id_marker: Option<String>,
    #[serde(rename = "Version")]
    versions: Vec<Version>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    is_latest: bool,
    size: u64,
}

impl Store {
    /// Whether the store keeps what is deleted or overwritten, as far as its answers to puts tell.
    pub fn keeps_versions(&self) -> bool {
        self.keeps_versions.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What the store keeps below the directory `prefix` of objects that were deleted or overwritten; `None` where it
    /// has not said that it does.
    pub async fn old_versions(&self, prefix: &str) -> Result<Option<OldVersions>> {
        parse(prefix)?;
        let Some(bulk) = self.bulk.as_ref().filter(|_| self.keeps_versions()) else { return Ok(None) };
        let what = || self.doing("list the old versions of", prefix);
        let client = ReqwestConnector::default()
            .connect(&client_options(bulk.location(), &self.policy)?)
            .map_err(|cause| Error::new(Kind::Other, cause.to_string()))?;
        let (mut found, mut marker) = (OldVersions::default(), None);
        for _ in 0..MOST_PAGES {
            let request = || page(&client, bulk.location(), prefix, marker.as_ref());
            let page = self.run("list", what, request).await.with_context(what)?;
            for version in page.versions.iter().filter(|version| !version.is_latest) {
                found.objects += 1;
                found.bytes = found.bytes.saturating_add(version.size);
            }
            marker = page.next_key_marker.map(|key| (key, page.next_version_id_marker));
            if !page.is_truncated || marker.is_none() {
                return Ok(Some(OldVersions { whole: true, ..found }));
            }
        }
        Ok(Some(found))
    }
}

/// One page, from the object and version `marker` on.
async fn page(
    client: &HttpClient,
    s3: &S3Location,
    prefix: &str,
    marker: Option<&(String, Option<String>)>,
) -> object_store::Result<Page> {
    let mut url = Url::parse(&s3.endpoint).map_err(failed)?;
    url.path_segments_mut().map_err(|()| failed("repository.endpoint has no host"))?.push(&s3.bucket);
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("max-keys", PAGE).append_pair("prefix", &format!("{prefix}/"));
        query.append_pair("versions", "");
        if let Some((key, version)) = marker {
            query.append_pair("key-marker", key);
            if let Some(version) = version {
                query.append_pair("version-id-marker", version);
            }
        }
    }
    let mut request: HttpRequest =
        hyper::Request::get(url.as_str()).body(HttpRequestBody::empty()).map_err(failed)?;
    let credential = Provider::new(std::sync::Arc::clone(&s3.credentials)).credential();
    AwsAuthorizer::new(&credential, "s3", &s3.region).try_authorize(&mut request, None)?;
    let (head, body) = client.execute(request).await.map_err(failed)?.into_parts();
    let body = timeout(BODY_PATIENCE, http_body_util::BodyExt::collect(body)).await;
    let body = body.map_err(|_| failed("no answer in time"))?.map_err(failed)?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if head.status != StatusCode::OK {
        return Err(failed(format!("Server returned non-2xx status code: {}: {text}", head.status)));
    }
    quick_xml::de::from_str(&text).map_err(failed)
}

fn failed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: cause.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_are_not_the_newest_are_counted() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Name>b</Name><Prefix>a/</Prefix><KeyMarker/><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>
            <NextKeyMarker>a/x&amp;y</NextKeyMarker><NextVersionIdMarker>7</NextVersionIdMarker>
            <Version><Key>a/1</Key><VersionId>3</VersionId><IsLatest>true</IsLatest><Size>100</Size></Version>
            <DeleteMarker><Key>a/2</Key><VersionId>4</VersionId><IsLatest>true</IsLatest></DeleteMarker>
            <Version><Key>a/2</Key><VersionId>2</VersionId><IsLatest>false</IsLatest><Size>30</Size></Version>
            </ListVersionsResult>"#;
        let page: Page = quick_xml::de::from_str(text).unwrap();
        let sizes: Vec<_> = page.versions.iter().map(|version| (version.is_latest, version.size)).collect();
        assert_eq!(sizes, [(true, 100), (false, 30)]);
        assert!(page.is_truncated);
        assert_eq!(page.next_key_marker.as_deref(), Some("a/x&y"));
        assert_eq!(page.next_version_id_marker.as_deref(), Some("7"));
    }
}
