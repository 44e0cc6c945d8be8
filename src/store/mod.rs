//! Five dumb verbs over objects, on a local disk, in S3, or in memory: put, get, get_range, list, delete.
//!
//! Every call has a deadline and is repeated until it is done or hopeless. All verbs may be repeated freely: the
//! repository never puts different bytes under one key for which the order of puts would matter.

mod failure;
mod location;
mod observe;
mod policy;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};

pub use location::{Credentials, Location, S3Location};
pub use observe::{Observe, Outcome};
pub use policy::Policy;

use crate::disk::durable;
use crate::error::{Error, Kind, Result, ResultExt};

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
    /// Where objects lie when they are files; directories are then made durable before the files in them.
    local_root: Option<Arc<PathBuf>>,
    observer: Option<Arc<dyn Observe>>,
}

impl Store {
    /// Open the store at `location`. A local directory must exist; nothing is asked of a remote one yet.
    pub fn open(location: &Location, policy: Policy) -> Result<Self> {
        let description = location.to_string().into();
        let objects = location::open(location, &policy)?;
        let local_root = match location {
            Location::File(path) => Some(Arc::new(path.clone())),
            Location::S3(_) | Location::Memory => None,
        };
        Ok(Self { objects, policy, description, local_root, observer: None })
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
        self.local_root.is_none()
    }

    /// Make `parts`, one after the other, the object `key`. Durable when this returns. Overwrites.
    pub async fn put(&self, key: &str, parts: Vec<Bytes>) -> Result<()> {
        let path = parse(key)?;
        let begin = Instant::now();
        if let Err(error) = self.make_parent(key).await {
            self.tell("put", Outcome::of(&error), begin.elapsed());
            return Err(error);
        }
        let payload: PutPayload = parts.into_iter().collect();
        let put = || async { self.objects.put(&path, payload.clone()).await.map(|_| ()) };
        self.run("put", put).await.with_context(|| self.doing("put", key))
    }

    /// As [`Self::put`], for what nobody will read soon: on a local disk it leaves the page cache again, which the
    /// database has better use for.
    pub async fn put_cold(&self, key: &str, parts: Vec<Bytes>) -> Result<()> {
        self.put(key, parts).await?;
        if let Some(root) = &self.local_root {
            let path = root.join(key);
            let forget = move || -> std::io::Result<()> {
                Ok(rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?)
            };
            // Advice only: the object is durable whether it is taken or not.
            let _ = tokio::task::spawn_blocking(forget).await;
        }
        Ok(())
    }

    /// The whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let path = parse(key)?;
        let get = || async {
            let found = self.objects.get(&path).await?;
            let size = found.meta.size;
            if size > LARGEST { Ok(Err(size)) } else { found.bytes().await.map(Ok) }
        };
        let bytes = self.run("get", get).await.with_context(|| self.doing("get", key))?;
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
        let bytes = self.run("get_range", get).await.with_context(|| self.doing("get", key))?;
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!(
            "{} bytes came instead of {wanted}, the object is truncated",
            bytes.len()
        )))
        .with_context(|| self.doing("get", key))
    }

    /// All objects below the directory `prefix`, sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let path = parse(prefix)?;
        self.list_objects(prefix, || self.objects.list(Some(&path))).await
    }

    /// All objects below the directory `prefix` whose keys come after `after`, sorted by key: cheaper than all of them
    /// where the end of a long directory is wanted.
    pub async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<Object>> {
        let (path, after) = (parse(prefix)?, parse(after)?);
        self.list_objects(prefix, || self.objects.list_with_offset(Some(&path), &after)).await
    }

    async fn list_objects(
        &self,
        prefix: &str,
        list: impl Fn() -> BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> Result<Vec<Object>> {
        let list = || async { list().try_collect::<Vec<_>>().await };
        let listed = self
            .run("list", list)
            .await
            .map_err(absent_listing)
            .with_context(|| self.doing("list", prefix))?;
        let mut found: Vec<Object> = listed.into_iter().map(object).collect::<Result<_>>()?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The names of the directories right below the directory `prefix`, sorted.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let path = parse(prefix)?;
        let list = || async { self.objects.list_with_delimiter(Some(&path)).await };
        let listed = self
            .run("list", list)
            .await
            .map_err(absent_listing)
            .with_context(|| self.doing("list", prefix))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Delete the object; one that is not there is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = parse(key)?;
        let delete = || async {
            let location = futures_util::stream::once(std::future::ready(Ok(path.clone()))).boxed();
            match self.objects.delete_stream(location).try_collect::<Vec<_>>().await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.run("delete", delete).await.with_context(|| self.doing("delete", key))
    }

    async fn run<T, F, R>(&self, verb: &'static str, request: R) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
        R: Fn() -> F,
    {
        self.policy.run(request, |outcome, elapsed| self.tell(verb, outcome, elapsed)).await
    }

    fn tell(&self, verb: &'static str, outcome: Outcome, elapsed: Duration) {
        if let Some(observer) = &self.observer {
            observer.request(verb, outcome, elapsed);
        }
    }

    /// The library syncs a file's own directory only; one that a neighbour is just making must be durable too.
    async fn make_parent(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local_root else { return Ok(()) };
        let Some((parent, _)) = key.rsplit_once('/') else { return Ok(()) };
        let directory = root.join(parent);
        if directory.is_dir() {
            return Ok(());
        }
        tokio::task::spawn_blocking(move || durable::create_dir_all(&directory, 0o700))
            .await
            .map_err(|cause| Error::new(Kind::Other, format!("make a directory: {cause}")))?
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

/// "Not found" is never an answer to a listing: an empty directory lists as empty. So it speaks of the bucket.
fn absent_listing(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        return error.as_kind(Kind::Unreachable).hint("does the bucket exist, and is its name right?");
    }
    error
}

fn parse(key: &str) -> Result<Key> {
    Key::parse(key).map_err(|cause| Error::usage(format!("key \"{key}\": {cause}")))
}

fn object(meta: ObjectMeta) -> Result<Object> {
    let modified = Timestamp::new(meta.last_modified.timestamp(), 0)
        .map_err(|cause| Error::corrupt(format!("time of {}: {cause}", meta.location)))?;
    Ok(Object { key: meta.location.into(), size: meta.size, modified })
}
