//! What one recovery was told of a tail: it asks for its last segment twice, and the answers must not differ. In between
//! the tail may have grown, begun anew, or become a whole segment, while the old primary lives on.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::spool::Spool;
use crate::error::{Error, Result};
use crate::format::TailGeneration;
use crate::postgres::{Lsn, SegmentName, SegmentSize};
use crate::repository::{Namespace, Repository};
use crate::seal::{Context, KeyRing, ObjectKind, open_object, seal_object};

/// Names of pins in the spool begin with it.
const PREFIX: &str = "pin-";
/// The generation as text.
const GENERATION: usize = 16;

/// A tail as it was served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// Which tail.
    pub(super) generation: TailGeneration,
    /// Of the cluster.
    pub(super) segment_size: SegmentSize,
    /// From the start of the segment.
    pub(super) bytes: Vec<u8>,
}

impl Pin {
    /// The position behind its last byte.
    pub(super) fn end(&self, segment: &SegmentName) -> Lsn {
        segment.position(self.bytes.len() as u64, self.segment_size)
    }

    fn to_plain(&self) -> Vec<u8> {
        let size = u32::try_from(self.segment_size.bytes()).unwrap_or_default();
        [self.generation.to_string().as_bytes(), &size.to_le_bytes(), &self.bytes].concat()
    }

    fn parse(plain: &[u8]) -> Result<Self> {
        let fields = || {
            let (generation, rest) = plain.split_at_checked(GENERATION)?;
            let (size, bytes) = rest.split_first_chunk()?;
            let generation = std::str::from_utf8(generation).ok()?.parse().ok()?;
            let segment_size = SegmentSize::new(u32::from_le_bytes(*size)).ok()?;
            Some(Self { generation, segment_size, bytes: bytes.to_vec() })
        };
        fields().ok_or_else(|| Error::corrupt("it is malformed"))
    }
}

/// The pins of one restore, in the spool of its data directory. They are sealed, and bound to restore and segment:
/// what does not open is not used (R25).
#[derive(Debug)]
pub struct Pins {
    spool: Spool,
    /// Stands for the restore.
    restore: String,
}

impl Pins {
    /// The pins of the restore that made `data_dir`; `None` when there is no telling it from another one. It is known by
    /// its control file, which the server overwrites in place: another inode is another restore. Inodes are used
    /// again; then the time of birth differs, where the file system keeps one.
    pub fn open(spool: &Spool, data_dir: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;

        let control = std::fs::metadata(data_dir.join("global/pg_control")).ok()?;
        let born = control.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |born| born.as_nanos());
        let text = format!("{} {} {born}", control.dev(), control.ino());
        let restore = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        Some(Self { spool: spool.clone(), restore })
    }

    /// Whether this restore was told something of the tail of `segment`, readable or not.
    pub fn has(&self, segment: &SegmentName) -> bool {
        self.spool.path().join(self.name(segment)).exists()
    }

    /// What this restore was told of the tail of `segment`.
    pub(super) fn find(
        &self,
        namespace: &Namespace,
        system_identifier: u64,
        segment: &SegmentName,
    ) -> Option<Pin> {
        let name = self.name(segment);
        let path = self.spool.path().join(&name);
        let sealed = match std::fs::read(&path) {
            Ok(sealed) => sealed,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return None,
            Err(cause) => return ignore(&Error::io("read", &path, &cause)),
        };
        let identity = namespace.identity_name(system_identifier);
        let opened = open_object(namespace.keys(), context(&identity, &name), &sealed);
        opened
            .and_then(|plain| Pin::parse(&plain))
            .map_or_else(|error| ignore(&error.context(path.display())), Some)
    }

    /// Pin this answer. If that cannot be, recovery goes without.
    pub(super) fn keep(&self, repository: &Repository, segment: &SegmentName, pin: &Pin) {
        let name = self.name(segment);
        let sealed = seal(repository.keys(), repository.level(), repository.name(), &name, pin);
        if let Err(error) = sealed.and_then(|sealed| self.spool.write(&name, &sealed)) {
            tracing::warn!(%error, "cannot pin the tail; if recovery asks again, it may get a longer one");
            return;
        }
        self.forget_other_restores();
    }

    fn name(&self, segment: &SegmentName) -> String {
        format!("{PREFIX}{}-{segment}", self.restore)
    }

    /// A data directory is restored into again only when what was there is gone.
    fn forget_other_restores(&self) {
        let own = format!("{PREFIX}{}-", self.restore);
        for entry in std::fs::read_dir(self.spool.path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && !name.starts_with(&own) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// No key of a repository begins like the name of a pin.
const fn context<'a>(identity: &'a str, name: &'a str) -> Context<'a> {
    Context { kind: ObjectKind::Tail, identity, name }
}

fn seal(keys: &KeyRing, level: i32, identity: &str, name: &str, pin: &Pin) -> Result<Vec<u8>> {
    seal_object(keys, context(identity, name), level, &pin.to_plain())
}

fn ignore(error: &Error) -> Option<Pin> {
    let error = error.to_string();
    tracing::warn!(error, "ignoring the pin of the tail");
    None
}
