//! Finding and opening the repository of a cluster: `<prefix>/<cluster>/<system identifier>/`.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{ClusterName, Identity, ObjectKey, layout};
use crate::postgres::ControlFile;
use crate::seal::{Context, HEADER_LEN, KeyRing, ObjectKind, open_object, seal_object};
use crate::store::{Observe, OldVersions, Store};

/// All repositories of one cluster's name; `initdb` and `pg_upgrade` begin a new one.
#[derive(Debug, Clone)]
pub struct Namespace {
    store: Store,
    prefix: String,
    cluster: ClusterName,
    keys: KeyRing,
    level: i32,
}

impl Namespace {
    /// The namespace below `prefix` ("" or "a/b") of `store`; objects are compressed at zstd `level`.
    pub const fn new(store: Store, prefix: String, cluster: ClusterName, keys: KeyRing, level: i32) -> Self {
        Self { store, prefix, cluster, keys, level }
    }

    /// The cluster's name.
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The store.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The same namespace, and all repositories opened from it, with every request to the store told to `observer`.
    #[must_use]
    pub fn observed(&self, observer: Arc<dyn Observe>) -> Self {
        Self { store: self.store.observed(observer), ..self.clone() }
    }

    /// The keys at hand.
    pub const fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The zstd level of new objects.
    pub const fn level(&self) -> i32 {
        self.level
    }

    /// The repository's name in every object's authentication.
    pub fn identity_name(&self, system_identifier: u64) -> String {
        identity_name(&self.cluster, system_identifier)
    }

    pub(super) fn directory(&self) -> String {
        match self.prefix.as_str() {
            "" => self.cluster.to_string(),
            prefix => format!("{prefix}/{}", self.cluster),
        }
    }

    /// The key prefix of the repository with this system identifier.
    pub(super) fn root(&self, system_identifier: u64) -> String {
        format!("{}/{system_identifier}", self.directory())
    }

    /// Create the repository of the cluster with this control file, or find that it is there: (it, created).
    pub async fn init(&self, control: &ControlFile) -> Result<(Repository, bool)> {
        match self.open(control.system_identifier).await {
            Ok(repository) => {
                repository.check_segment_size(control)?;
                Ok((repository, false))
            }
            Err(error) if error.kind() == Kind::NotFound => {
                if self.made_meanwhile(control.system_identifier).await? {
                    return Ok((self.open(control.system_identifier).await?, false));
                }
                let identity = Identity::generate(
                    self.cluster.clone(),
                    control.system_identifier,
                    control.major,
                    control.segment_size,
                )?;
                self.put_identity(&identity).await?;
                // Read back: what counts is what the store says now, should two have done this at once.
                Ok((self.open(control.system_identifier).await?, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether somebody else has just made the repository: one page tells, an identity sorts first. Objects without one are
    /// an error: a new one has a new secret, and with it nothing that is stored already could be opened again.
    async fn made_meanwhile(&self, system_identifier: u64) -> Result<bool> {
        let root = self.root(system_identifier);
        let mut objects = Vec::new();
        let see = |page| {
            objects = page;
            ControlFlow::Break(())
        };
        self.store.list_pages(&root, None, see).await.context("see that there is no repository yet")?;
        let identity = format!("{root}/{}", layout::IDENTITY);
        let made = objects.iter().any(|object| object.key == identity);
        if made || objects.is_empty() {
            return Ok(made);
        }
        Err(Error::corrupt(format!(
            "{}/{root} holds objects but no identity, without which they cannot be opened",
            self.store
        ))
        .hint("was the identity deleted, or is this an incomplete copy? bring it back from a copy or an older version of the object"))
    }

    async fn put_identity(&self, identity: &Identity) -> Result<()> {
        let plain = serde_json::to_vec(identity)
            .map(Zeroizing::new)
            .map_err(|cause| Error::corrupt(format!("write identity: {cause}")))?;
        let name = self.identity_name(identity.system_identifier);
        let context = Context { kind: ObjectKind::Identity, identity: &name, name: layout::IDENTITY };
        let sealed = seal_object(&self.keys, context, self.level, &plain)?;
        let key = format!("{}/{}", self.root(identity.system_identifier), layout::IDENTITY);
        self.store.put(&key, vec![Bytes::from(sealed)]).await
    }

    /// Open the repository with this system identifier. Kind `NotFound` when the store answers that there is none.
    pub async fn open(&self, system_identifier: u64) -> Result<Repository> {
        let key = format!("{}/{}", self.root(system_identifier), layout::IDENTITY);
        let bytes = match self.store.get(&key).await {
            Err(error) if error.kind() == Kind::NotFound => {
                return match self.made_meanwhile(system_identifier).await {
                    Err(error) if error.kind() == Kind::Corrupt => Err(error),
                    _ => Err(Error::new(
                        Kind::NotFound,
                        format!("there is no repository of cluster {} with system identifier {system_identifier} in {}", self.cluster, self.store),
                    )
                    .hint("was `walproof init` run for this cluster, and is the repository's disk mounted?")),
                };
            }
            result => result.context("open the repository")?,
        };
        self.open_sealed_identity(system_identifier, &bytes)
    }

    /// Open the repository from a copy of its identity object, without asking the store.
    pub fn open_sealed_identity(&self, system_identifier: u64, sealed: &[u8]) -> Result<Repository> {
        let identity = open_identity(&self.keys, &self.cluster, system_identifier, sealed)?;
        Ok(Repository {
            namespace: self.clone(),
            root: self.root(system_identifier),
            name: self.identity_name(system_identifier),
            identity,
            sealed_identity: sealed.to_vec().into(),
        })
    }
}

/// The name of a repository in every object's authentication.
pub fn identity_name(cluster: &ClusterName, system_identifier: u64) -> String {
    format!("{cluster}/{system_identifier}")
}

/// The identity in a copy of its object, whoever kept it.
pub fn open_identity(
    keys: &KeyRing,
    cluster: &ClusterName,
    system_identifier: u64,
    sealed: &[u8],
) -> Result<Identity> {
    let name = identity_name(cluster, system_identifier);
    let context = Context { kind: ObjectKind::Identity, identity: &name, name: layout::IDENTITY };
    Identity::parse(&Zeroizing::new(open_object(keys, context, sealed)?))
}

/// The repository of one cluster.
#[derive(Debug, Clone)]
pub struct Repository {
    namespace: Namespace,
    pub(super) root: String,
    pub(super) name: String,
    identity: Identity,
    sealed_identity: Bytes,
}

impl Repository {
    /// Who it belongs to.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the cluster with this control file has the segments that the repository was made for.
    pub fn check_segment_size(&self, control: &ControlFile) -> Result<()> {
        if self.identity.segment_size()? == control.segment_size {
            return Ok(());
        }
        Err(Error::server(format!(
            "the cluster has WAL segments of {} bytes, the repository was made for {}",
            control.segment_size.bytes(),
            self.identity.segment_size
        )))
    }

    /// The identity object as it is stored.
    pub fn sealed_identity(&self) -> &[u8] {
        &self.sealed_identity
    }

    /// The same repository with other deadlines.
    #[must_use]
    pub fn with_policy(&self, policy: crate::store::Policy) -> Self {
        let mut other = self.clone();
        other.namespace.store = other.namespace.store.with_policy(policy);
        other
    }

    /// Where it is, and with which keys.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// See that the repository is still where it was opened. A disk that was unmounted leaves an empty directory behind,
    /// in which new objects would be lost when it comes back; a prefix of a bucket can be emptied, and a new repository
    /// be made there, in which nobody could open what this one's secret names.
    pub async fn check_still_there(&self) -> Result<()> {
        let Some(other) = self.replaced_by().await? else { return Ok(()) };
        Err(Error::new(
            Kind::Unreachable,
            format!(
                "another repository is there, made at {}, instead of the one that was opened, made at {}",
                other.identity.created_at, self.identity.created_at
            ),
        )
        .hint("was it emptied and recreated, or is another disk mounted there?"))
    }

    /// The repository that is now where this one was opened, if it is another one. Sealed again under another key it is
    /// the same. Kind `Unreachable` when there is none at all.
    pub async fn replaced_by(&self) -> Result<Option<Self>> {
        let now = self.namespace.open(self.identity.system_identifier).await;
        let now = now.map_err(Error::absence_proves_nothing)?;
        // The identity itself: `key-rotate` seals the same one anew.
        Ok(Some(now).filter(|now| now.identity != self.identity))
    }

    /// Its name in every object's authentication.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store.
    pub const fn store(&self) -> &Store {
        self.namespace.store()
    }

    /// The keys at hand.
    pub const fn keys(&self) -> &KeyRing {
        self.namespace.keys()
    }

    /// The zstd level of new objects.
    pub const fn level(&self) -> i32 {
        self.namespace.level
    }

    pub(super) fn key(&self, relative: &str) -> String {
        format!("{}/{relative}", self.root)
    }

    /// The key below the repository, of one that a listing shows.
    pub(super) fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.root)?.strip_prefix('/')
    }

    /// What the store keeps of objects of the repository that were deleted or overwritten; `None` where it has not said
    /// that it keeps anything.
    pub async fn old_versions(&self) -> Result<Option<OldVersions>> {
        self.store().old_versions(&self.root).await
    }

    /// Delete these objects; what became of each, in their order. See [`Store::delete_many`].
    pub async fn delete_objects(&self, keys: &[ObjectKey]) -> Vec<(String, Result<()>)> {
        self.store().delete_many(keys.iter().map(|key| self.key(&key.to_string())).collect()).await
    }

    /// Seal `plain` and put it at `relative`, which is also its name.
    pub(super) async fn put_sealed(&self, kind: ObjectKind, relative: &str, plain: &[u8]) -> Result<u64> {
        let context = Context { kind, identity: &self.name, name: relative };
        let sealed = seal_object(self.keys(), context, self.level(), plain)?;
        let stored = sealed.len() as u64;
        self.store().put(&self.key(relative), vec![Bytes::from(sealed)]).await?;
        Ok(stored)
    }

    /// Whether an object is there.
    pub async fn is_there(&self, key: &ObjectKey) -> Result<bool> {
        match self.store().get_range(&self.key(&key.to_string()), 0..1).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Open an object that is read whole; what it says is not looked at. Of other kinds nothing is checked.
    pub async fn check_small(&self, key: &ObjectKey) -> Result<()> {
        let Some(kind) = small_kind(key) else { return Ok(()) };
        self.get_sealed(kind, &key.to_string()).await.map(|_| ())
    }

    /// The header of an object; `None` where there is no such object.
    pub async fn get_header(&self, key: &ObjectKey) -> Result<Option<Bytes>> {
        match self.store().get_range(&self.key(&key.to_string()), 0..HEADER_LEN as u64).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Put an object that is read whole again, sealed with the first key. The plaintext stays as it is: a newer version may
    /// have put fields there that this one does not know.
    pub async fn seal_anew(&self, key: &ObjectKey) -> Result<()> {
        let Some(kind) = small_kind(key) else {
            return Err(Error::impossible(format!("{key} is not an object that can be sealed anew")));
        };
        let relative = key.to_string();
        let plain = Zeroizing::new(self.get_sealed(kind, &relative).await?);
        self.put_sealed(kind, &relative, &plain).await.map(|_| ()).with_context(|| format!("seal {key} anew"))
    }

    /// Get and open what [`Repository::put_sealed`] put.
    pub(super) async fn get_sealed(&self, kind: ObjectKind, relative: &str) -> Result<Vec<u8>> {
        let bytes = self.store().get(&self.key(relative)).await?;
        open_object(self.keys(), Context { kind, identity: &self.name, name: relative }, &bytes)
    }
}

/// What an object is that is read whole, and whose content nobody looks at where it is opened.
const fn small_kind(key: &ObjectKey) -> Option<ObjectKind> {
    match key {
        ObjectKey::Identity => Some(ObjectKind::Identity),
        ObjectKey::Hold(_) => Some(ObjectKind::Hold),
        ObjectKey::Lease(_) => Some(ObjectKind::Lease),
        ObjectKey::Tail(_) => Some(ObjectKind::Tail),
        ObjectKey::Report(..) | ObjectKey::ReportHead => Some(ObjectKind::Report),
        ObjectKey::Verify(_) => Some(ObjectKind::Verify),
        ObjectKey::Attempt | ObjectKey::Expiry => Some(ObjectKind::Expiry),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, Policy};

    #[tokio::test]
    async fn a_second_identity_is_not_made_over_what_is_there() {
        let store = Store::open(&Location::Memory, Policy::default()).unwrap();
        let cluster = "main".parse().unwrap();
        let namespace = Namespace::new(store, "a/b".into(), cluster, KeyRing::unencrypted(), 1);
        let put = |name| namespace.store().put(name, Vec::new());
        assert!(!namespace.made_meanwhile(7).await.unwrap());
        put("a/b/main/7/history/x").await.unwrap();
        assert_eq!(namespace.made_meanwhile(7).await.unwrap_err().kind(), Kind::Corrupt);
        put("a/b/main/7/identity").await.unwrap();
        assert!(namespace.made_meanwhile(7).await.unwrap());
    }
}
