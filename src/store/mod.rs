//! Five dumb verbs over objects, on a local disk, in S3, or in memory: put, get, get_range, list, delete.
//!
//! Every call has a deadline and is repeated until it is done or hopeless. All verbs may be repeated freely: the
//! repository never puts different bytes under one key for which the order of puts would matter.

mod credentials;
mod delete;
mod failure;
mod list;
mod local;
mod location;
mod observe;
mod policy;
mod versions;
mod waiting;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use object_store::list::PaginatedListStore;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

pub use credentials::{CredentialSource, Credentials};
pub use location::{Location, S3Location};
pub use observe::{Observe, Outcome};
pub use policy::Policy;
pub use versions::OldVersions;

use self::local::{LocalRoot, in_pieces};
use self::location::{Bulk, Opened};
use crate::error::{Error, Result, ResultExt};

/// No object that is read whole is larger: a WAL file of 1 GiB that could not be compressed, and its frames.
const LARGEST: u64 = (1 << 30) + (1 << 20);

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When the store says that it was written, by the store's clock.
    pub modified: Timestamp,
}

/// A place for objects.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    policy: Policy,
    description: Arc<str>,
    /// Where objects lie when they are files.
    local: Option<LocalRoot>,
    /// Where listings come in pages.
    pages: Option<Arc<dyn PaginatedListStore>>,
    bulk: Option<Arc<Bulk>>,
    /// Whether the store's answer to a put named a version: then nothing that is deleted or overwritten is gone.
    keeps_versions: Arc<AtomicBool>,
    observer: Option<Arc<dyn Observe>>,
}

impl Store {
    /// Open the store at `location`. A local directory must exist; nothing is asked of a remote one yet.
    pub fn open(location: &Location, policy: Policy) -> Result<Self> {
        let description = location.to_string().into();
        let Opened { objects, pages } = location::open(location, &policy)?;
        let local = match location {
            Location::File(path) => Some(LocalRoot::new(path)),
            Location::S3(_) | Location::Memory => None,
        };
        let bulk = Bulk::new(location, policy).map(Arc::new);
        let keeps_versions = Arc::default();
        Ok(Self { objects, policy, description, local, pages, bulk, keeps_versions, observer: None })
    }

    /// The same store with other deadlines.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    /// The same store, whose every try from now on is told to `observer`.
    #[must_use]
    pub fn observed(&self, observer: Arc<dyn Observe>) -> Self {
        Self { observer: Some(observer), ..self.clone() }
    }

    /// Whether a request crosses a network, so that fetching ahead pays.
    pub const fn is_remote(&self) -> bool {
        self.local.is_none()
    }

    /// Make `parts`, one after the other, the object `key`. Durable when this returns. Overwrites.
    pub async fn put(&self, key: &str, parts: Vec<Bytes>) -> Result<()> {
        let path = parse(key)?;
        let begin = Instant::now();
        if let Some(local) = &self.local
            && let Err(error) = local.make_parent(key).await
        {
            self.tell("put", Outcome::of(&error), begin.elapsed());
            return Err(error.context(self.doing("put", key)));
        }
        let payload: PutPayload = match &self.local {
            Some(_) => parts.iter().flat_map(in_pieces).collect(),
            None => parts.into_iter().collect(),
        };
        let put = || async {
            let stored = self.objects.put(&path, payload.clone()).await?;
            // A bucket whose versioning was suspended says "null".
            if stored.version.is_some_and(|version| version != "null") {
                self.keeps_versions.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        self.run("put", || self.doing("put", key), put).await.with_context(|| self.doing("put", key))
    }

    /// As [`Self::put`], for what nobody will read soon: on a local disk it leaves the page cache again, which the
    /// database has better use for.
    pub async fn put_cold(&self, key: &str, parts: Vec<Bytes>) -> Result<()> {
        self.put(key, parts).await?;
        if let Some(local) = &self.local {
            let path = local.path_of(key);
            let forget = move || -> std::io::Result<()> {
                Ok(rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?)
            };
            // Advice only: the object is durable whether it is taken or not.
            let _ = tokio::task::spawn_blocking(forget).await;
        }
        Ok(())
    }

    /// Make sure that the object `key`, which a listing has just shown, is as durable as [`Self::put`] makes it: on a
    /// local disk it may be left by a put whose last sync failed.
    pub async fn make_durable(&self, key: &str) -> Result<()> {
        match &self.local {
            Some(local) => local.sync(key).await.with_context(|| self.doing("sync", key)),
            None => Ok(()),
        }
    }

    /// The whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let path = parse(key)?;
        let get = || async {
            let found = self.objects.get(&path).await?;
            let size = found.meta.size;
            if size > LARGEST { Ok(Err(size)) } else { found.bytes().await.map(Ok) }
        };
        let bytes =
            self.run("get", || self.doing("get", key), get).await.with_context(|| self.doing("get", key))?;
        bytes
            .map_err(|size| {
                Error::corrupt(format!("{size} bytes: more than any object that was ever written"))
            })
            .with_context(|| self.doing("get", key))
    }

    /// The bytes of `range`, all of them.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = parse(key)?;
        let wanted = range.end - range.start;
        if wanted == 0 {
            // No store has a word for that; the library would fail, and we would try again.
            return Ok(Bytes::new());
        }
        let get = || async { self.objects.get_range(&path, range.clone()).await };
        let bytes = self
            .run("get_range", || self.doing("get", key), get)
            .await
            .with_context(|| self.doing("get", key))?;
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!(
            "received {} bytes instead of {wanted}: the object is truncated",
            bytes.len()
        )))
        .with_context(|| self.doing("get", key))
    }

    /// `what` says what is done, for a person who waits for it.
    async fn run<T, F, R>(&self, verb: &'static str, what: impl Fn() -> String, request: R) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
        R: Fn() -> F,
    {
        let result =
            self.policy.run(request, what, |outcome, elapsed| self.tell(verb, outcome, elapsed)).await;
        self.local.as_ref().map_or(Ok(()), LocalRoot::must_be_there)?;
        result
    }

    fn tell(&self, verb: &'static str, outcome: Outcome, elapsed: Duration) {
        if let Some(observer) = &self.observer {
            // In a directory that is gone nothing is found, which is no answer.
            let gone = self.local.as_ref().is_some_and(|local| !local.is_there());
            let outcome = if gone { Outcome::Failed } else { outcome };
            observer.request(verb, outcome, elapsed);
        }
    }

    fn doing(&self, verb: &str, key: &str) -> String {
        format!("{verb} {}/{key}", self.description)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.description)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

fn parse(key: &str) -> Result<Key> {
    Key::parse(key).map_err(|cause| Error::usage(format!("key \"{key}\": {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    /// Not mounted, or moved: no answer, and above all not "absent", which ends a recovery (R6).
    #[tokio::test]
    async fn a_directory_that_is_gone_holds_nothing_and_says_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let [here, away] = ["here", "away"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&here).unwrap();
        let store = Store::open(&Location::File(here.clone()), Policy::default()).unwrap();
        store.put("a/b", vec!["x".into()]).await.unwrap();
        std::fs::rename(&here, &away).unwrap();
        let failures = [
            store.get("a/b").await.unwrap_err(),
            store.get_range("a/b", 0..1).await.unwrap_err(),
            store.list("a").await.unwrap_err(),
            store.list_directories("").await.unwrap_err(),
            store.put("a/b", vec!["x".into()]).await.unwrap_err(),
            store.delete("a/b").await.unwrap_err(),
        ];
        for error in failures {
            assert_eq!(error.kind(), Kind::Unreachable, "{error}");
            assert!(error.hint_text().unwrap().contains("mounted"), "{error}");
        }
        assert!(!here.exists(), "nothing is put in its place");
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), "x");
    }
}
