//! For tests: a repository in memory, and WAL that is valid page by page and record by record.

use super::Namespace;
use super::Repository;
use crate::error::Result;
use crate::format::{
    BackupId, Identity, Inspect, Manifest, ObjectKey, PackList, PackName, PackUse, Summary, TailGeneration,
    TailPieceName, seal_wal,
};
use crate::postgres::{SegmentName, SegmentSize, WAL_PAGE_SIZE, WalName};
use crate::seal::{Context, KeyRing, MasterKey, ObjectKind, seal_object};
use crate::store::{Location, Policy, Store};
use crate::wal::WalScanner;

pub(crate) const SYSTEM: u64 = 7_300_000_000_000_000_001;
pub(crate) const SIZE: u32 = 1 << 20;
pub(crate) const PAGE: usize = WAL_PAGE_SIZE;

pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

pub(crate) async fn memory() -> (Namespace, Repository) {
    in_store(&Location::Memory).await
}

pub(crate) async fn in_store(location: &Location) -> (Namespace, Repository) {
    let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
    let store = Store::open(location, Policy::default()).unwrap();
    let cluster = "main".parse().unwrap();
    let namespace = Namespace::new(store, String::new(), cluster, keys.clone(), 1);
    let major = crate::postgres::Major::from_wal_magic(0xD110).unwrap();
    let identity = Identity::generate("main".parse().unwrap(), SYSTEM, major, size()).unwrap();
    let name = namespace.identity_name(SYSTEM);
    let context = Context { kind: ObjectKind::Identity, identity: &name, name: "identity" };
    let sealed = seal_object(&keys, context, 1, &serde_json::to_vec(&identity).unwrap()).unwrap();
    namespace.store().put(&format!("main/{SYSTEM}/identity"), vec![sealed.into()]).await.unwrap();
    let repository = namespace.open(SYSTEM).await.unwrap();
    (namespace, repository)
}

/// A segment's first `pages` pages, in each a commit: the transaction and the second since 2000 are both the number of
/// the page, counted from the beginning of the WAL.
pub(crate) fn wal(segment: &SegmentName, pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; pages * PAGE];
    // The last page of the segment before looks as all do.
    let mut previous = segment.start(size()).get() - PAGE as u64 + 24 + 40;
    for (index, page) in bytes.chunks_mut(PAGE).enumerate() {
        let address = segment.start(size()).get() + (index * PAGE) as u64;
        let first = index == 0;
        page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        page[2] = if first { 2 } else { 0 };
        page[4..8].copy_from_slice(&segment.timeline.get().to_le_bytes());
        page[8..16].copy_from_slice(&address.to_le_bytes());
        if first {
            page[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
            page[32..36].copy_from_slice(&SIZE.to_le_bytes());
            page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        }
        let header = if first { 40 } else { 24 };
        let number = number(segment, index);
        let mut commit = vec![255, 8];
        commit.extend((i64::from(number) * 1_000_000).to_le_bytes());
        record(&mut page[header..], (number, previous), (1, 0), &commit);
        let fill = header + 40;
        let mut noop = vec![254];
        let payload = vec![0xAB; PAGE - fill - 29];
        noop.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        noop.extend(payload);
        record(&mut page[fill..], (0, address + header as u64), (0, 0x20), &noop);
        previous = address + fill as u64;
    }
    bytes
}

/// The commit on page `index` of a segment.
pub(crate) fn number(segment: &SegmentName, index: usize) -> u32 {
    u32::try_from(segment.start(size()).get() / PAGE as u64).unwrap() + u32::try_from(index).unwrap()
}

fn record(at: &mut [u8], (xid, previous): (u32, u64), (manager, info): (u8, u8), data: &[u8]) {
    let length = 24 + data.len();
    at[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    at[4..8].copy_from_slice(&xid.to_le_bytes());
    at[8..16].copy_from_slice(&previous.to_le_bytes());
    at[16..18].copy_from_slice(&[info, manager]);
    at[24..length].copy_from_slice(data);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(data), &at[..20]);
    at[20..24].copy_from_slice(&checksum.to_le_bytes());
}

struct Scan(WalScanner);

impl Inspect for Scan {
    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.feed(bytes);
        Ok(())
    }

    fn finish(self, plain_len: u64) -> Result<Summary> {
        Ok(Summary::of_segment(plain_len, self.0.finish()))
    }
}

/// Archive a whole segment of which `pages` pages hold WAL; gives its bytes.
pub(crate) async fn archive(repository: &Repository, segment: &SegmentName, pages: usize) -> Vec<u8> {
    let mut bytes = wal(segment, pages);
    bytes.resize(SIZE as usize, 0);
    archive_bytes(repository, segment, &bytes).await;
    bytes
}

/// Archive a segment with these bytes.
pub(crate) async fn archive_bytes(repository: &Repository, segment: &SegmentName, bytes: &[u8]) {
    let name = WalName::Segment(*segment);
    let scan = Scan(WalScanner::new(segment.start(size()), size()));
    let sealed =
        seal_wal(repository.keys(), repository.name(), &name, (1, 1), &bytes, SIZE.into(), scan).unwrap();
    let digest = sealed.digest(repository.identity()).unwrap();
    repository.put_wal(&name, digest, sealed).await.unwrap();
}

/// Put other bytes under a key.
pub(crate) async fn swap(repository: &Repository, key: &ObjectKey, other: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let key = repository.key(&key.to_string());
    let before = repository.store().get(&key).await.unwrap().to_vec();
    repository.store().put(&key, vec![other(before).into()]).await.unwrap();
}

/// Put a backup that has one pack, which is there, and no files; gives its id.
pub(crate) async fn put_backup(repository: &Repository, mut manifest: Manifest) -> BackupId {
    manifest.parts = Vec::new();
    let name = PackName { backup: manifest.id.clone(), number: 0 };
    let list = PackList(vec![PackUse { name: name.clone(), bytes: 4, live_bytes: 4 }]);
    manifest.pack_list_bytes = repository.put_pack_list(&manifest.id, &list).await.unwrap();
    let pack = repository.key(&ObjectKey::Pack(name).to_string());
    repository.store().put(&pack, vec!["pack".into()]).await.unwrap();
    repository.put_manifest(&manifest).await.unwrap();
    manifest.id
}

/// Put a piece of generation `count` that begins at `start`.
pub(crate) async fn put_piece(
    repository: &Repository,
    segment: &SegmentName,
    count: u32,
    start: usize,
    bytes: &[u8],
) -> TailPieceName {
    let (start, end) = (u32::try_from(start).unwrap(), u32::try_from(start + bytes.len()).unwrap());
    let generation = TailGeneration { count, writer: 5 };
    let name = TailPieceName { segment: *segment, generation, start, end };
    repository.put_tail_piece(&name, bytes).await.unwrap();
    name
}

struct OfHistory;

impl Inspect for OfHistory {
    fn feed(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self, plain_len: u64) -> Result<Summary> {
        Ok(Summary::of_length(plain_len))
    }
}

/// Archive the history of a timeline.
pub(crate) async fn archive_history(repository: &Repository, timeline: u32, text: &[u8]) {
    let name = WalName::History(crate::postgres::TimelineId::new(timeline).unwrap());
    archive_text(repository, name, text).await;
}

/// Archive a file that holds text.
pub(crate) async fn archive_text(repository: &Repository, name: WalName, text: &[u8]) {
    let len = text.len() as u64;
    let sealed =
        seal_wal(repository.keys(), repository.name(), &name, (1, 1), &text, len, OfHistory).unwrap();
    let digest = sealed.digest(repository.identity()).unwrap();
    repository.put_wal(&name, digest, sealed).await.unwrap();
}
