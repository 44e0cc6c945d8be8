//! Where a repository lives, and raw hands on its objects: the same for a directory and a bucket, so that a
//! test that tampers runs on both.

use super::Scratch;
use super::s3_target::{Location, S3};
use super::scratch::{create_dirs_owned, write_owned};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Objects by key, behind the program's back. Keys have slashes on every kind of store.
pub trait Objects: std::fmt::Debug + Send + Sync {
    /// Every key (a remote bucket: below the location's prefix) and size, sorted by key.
    fn list(&self) -> Vec<(String, u64)>;
    fn read(&self, key: &str) -> Vec<u8>;
    fn write(&self, key: &str, content: &[u8]);
    fn delete(&self, key: &str);
}

/// A place for a repository. Cheap to clone; clones are the same place.
#[derive(Debug, Clone)]
pub struct Repo {
    place: Place,
    objects: Arc<dyn Objects>,
}

#[derive(Debug, Clone)]
enum Place {
    Local(PathBuf),
    S3(Location),
}

impl Repo {
    /// A new directory that lives as long as the value.
    pub fn local() -> Self {
        let scratch = Arc::new(Scratch::new());
        let dir = scratch.dir("repository");
        let objects = Arc::new(Directory::new(dir.clone(), scratch));
        Self { place: Place::Local(dir), objects }
    }

    /// The directory `dir`, which is there and belongs to the account.
    pub fn local_at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { objects: Arc::new(Directory { dir: dir.clone(), _scratch: None }), place: Place::Local(dir) }
    }

    /// A bucket of an [`super::s3::S3Server`] or [`super::s3::S3Target`].
    pub fn s3(server: &impl S3) -> Self {
        Self { place: Place::S3(server.location()), objects: server.objects() }
    }

    /// The `url` of the configuration.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Local(dir) => format!("file://{}", dir.display()),
            Place::S3(location) => location.url(),
        }
    }

    /// The bucket, if it is one.
    pub fn location(&self) -> Option<&Location> {
        match &self.place {
            Place::Local(_) => None,
            Place::S3(location) => Some(location),
        }
    }

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        match &self.place {
            Place::Local(dir) => Some(dir),
            Place::S3(_) => None,
        }
    }

    /// Every key below the repository's URL with its size, sorted.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let prefix = self.full("");
        let below = |(key, size): (String, u64)| Some((key.strip_prefix(&prefix)?.to_owned(), size));
        self.objects.list().into_iter().filter_map(below).collect()
    }

    /// The keys that contain `part`.
    pub fn keys(&self, part: &str) -> Vec<String> {
        self.objects().into_iter().map(|(key, _)| key).filter(|key| key.contains(part)).collect()
    }

    /// The one key that contains `part`.
    #[track_caller]
    pub fn key(&self, part: &str) -> String {
        let mut keys = self.keys(part);
        assert_eq!(keys.len(), 1, "keys that contain {part:?}: {keys:?} of {:?}", self.objects());
        keys.remove(0)
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        self.objects.read(&self.full(key))
    }

    pub fn write(&self, key: &str, content: &[u8]) {
        self.objects.write(&self.full(key), content);
    }

    pub fn delete(&self, key: &str) {
        self.objects.delete(&self.full(key));
    }

    pub fn copy(&self, from: &str, to: &str) {
        self.write(to, &self.read(from));
    }

    pub fn rename(&self, from: &str, to: &str) {
        self.copy(from, to);
        self.delete(from);
    }

    /// Change one bit of the byte at `offset`.
    #[track_caller]
    pub fn flip_bit(&self, key: &str, offset: usize) {
        let mut content = self.read(key);
        let size = content.len();
        *content.get_mut(offset).unwrap_or_else(|| panic!("{key} has {size} bytes, none at {offset}")) ^= 1;
        self.write(key, &content);
    }

    pub fn truncate(&self, key: &str, size: usize) {
        let mut content = self.read(key);
        content.truncate(size);
        self.write(key, &content);
    }

    fn full(&self, key: &str) -> String {
        match &self.place {
            Place::S3(location) if !location.prefix.is_empty() => format!("{}/{key}", location.prefix),
            _ => key.to_owned(),
        }
    }
}

/// Objects as files below a directory: a `file://` repository, or the bucket directory of `s3s-fs`.
#[derive(Debug)]
pub struct Directory {
    dir: PathBuf,
    _scratch: Option<Arc<Scratch>>,
}

impl Directory {
    pub fn new(dir: PathBuf, scratch: Arc<Scratch>) -> Self {
        Self { dir, _scratch: Some(scratch) }
    }

    fn walk(&self, dir: &Path, found: &mut Vec<(String, u64)>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // The program may be deleting while we look.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                self.walk(&path, found);
            } else {
                let key = path.strip_prefix(&self.dir).expect("below the directory");
                found.push((key.to_str().expect("keys are text").to_owned(), meta.len()));
            }
        }
    }
}

impl Objects for Directory {
    /// Staging files (`name#1`) of a write that was killed are listed, too.
    fn list(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        self.walk(&self.dir, &mut found);
        found.sort();
        found
    }

    fn read(&self, key: &str) -> Vec<u8> {
        fs::read(self.dir.join(key)).unwrap_or_else(|error| panic!("read object {key}: {error}"))
    }

    fn write(&self, key: &str, content: &[u8]) {
        let path = self.dir.join(key);
        create_dirs_owned(path.parent().expect("a key has a parent"));
        write_owned(&path, content, 0o600);
    }

    fn delete(&self, key: &str) {
        fs::remove_file(self.dir.join(key)).unwrap_or_else(|error| panic!("delete object {key}: {error}"));
    }
}

/// Objects of a bucket through its own API, for servers whose disk we cannot reach. It waits for the answers,
/// so an async test cannot use it.
#[derive(Debug)]
pub struct Remote {
    store: object_store::aws::AmazonS3,
    prefix: String,
    runtime: tokio::runtime::Runtime,
}

impl Remote {
    pub fn new(location: &Location) -> Self {
        let store = AmazonS3Builder::new()
            .with_endpoint(&location.endpoint)
            .with_allow_http(true)
            .with_region(&location.region)
            .with_bucket_name(&location.bucket)
            .with_access_key_id(&location.access_key)
            .with_secret_access_key(&location.secret_key)
            .build()
            .expect("an S3 client");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self {
            store,
            prefix: location.prefix.clone(),
            runtime: runtime.expect("a runtime for the S3 client"),
        }
    }

    pub fn store(&self) -> &dyn ObjectStore {
        &self.store
    }
}

impl Objects for Remote {
    fn list(&self) -> Vec<(String, u64)> {
        use futures_util::TryStreamExt;
        let below = Key::from(self.prefix.as_str());
        let listed: Vec<_> =
            self.runtime.block_on(self.store.list(Some(&below)).try_collect()).expect("list");
        let mut found: Vec<_> =
            listed.into_iter().map(|object| (object.location.to_string(), object.size)).collect();
        found.sort();
        found
    }

    fn read(&self, key: &str) -> Vec<u8> {
        let read = async { self.store.get(&Key::from(key)).await?.bytes().await };
        self.runtime.block_on(read).unwrap_or_else(|error| panic!("read object {key}: {error}")).to_vec()
    }

    fn write(&self, key: &str, content: &[u8]) {
        let key = Key::from(key);
        let put = self.store.put(&key, content.to_vec().into());
        self.runtime.block_on(put).unwrap_or_else(|error| panic!("write object {key}: {error}"));
    }

    fn delete(&self, key: &str) {
        let key = Key::from(key);
        let delete = self.store.delete(&key);
        self.runtime.block_on(delete).unwrap_or_else(|error| panic!("delete object {key}: {error}"));
    }
}
