//! A large repository, fabricated in memory: 200,000 segments on three timelines, 400 backups that share packs. What
//! nobody opens for a plan or a listing has a name and a size; the rest is genuine.

use super::control_file::ControlFile as FakeControl;
use super::wal_file::WalFile;
use std::time::{Duration, SystemTime};
use walproof::error::Result;
use walproof::format::{
    BackupId, Inspect, Manifest, ObjectKey, PackList, PackName, PackUse, Summary, WalDigest, seal_wal,
};
use walproof::postgres::{ControlFile, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use walproof::repository::{Namespace, Repository};
use walproof::seal::{KeyRing, MasterKey};
use walproof::store::Store;
use walproof::wal::WalScanner;

pub const SEGMENTS: u64 = 200_000;
pub const BACKUPS: u64 = 400;
/// Packs of the first backup, which all others use, too.
const SHARED: u32 = 1000;
const OWN: u32 = 50;
const SEGMENT: u32 = 1 << 20;
const PACK: u32 = 64;
const MAJOR: u32 = 15;
const SYSTEM: u64 = 7_300_000_000_000_000_001;
/// Between two backups.
const EVERY: Duration = Duration::from_hours(6);
/// Where a timeline ends.
const ENDS: [u64; 3] = [SEGMENTS / 2, SEGMENTS * 3 / 4, SEGMENTS];

fn timeline_of(number: u64) -> u32 {
    1 + ENDS.iter().filter(|end| number >= **end).count() as u32
}

fn segment(number: u64) -> SegmentName {
    let timeline = TimelineId::new(timeline_of(number)).unwrap();
    SegmentName::from_number(timeline, number, SegmentSize::new(SEGMENT).unwrap())
}

fn lsn(number: u64) -> Lsn {
    Lsn::new(number * u64::from(SEGMENT))
}

fn backup_id(index: u64) -> BackupId {
    format!("20261122T130000Z-{index:08x}").parse().unwrap()
}

fn pack_use(backup: u64, number: u32) -> PackUse {
    PackUse { name: PackName { backup: backup_id(backup), number }, bytes: PACK, live_bytes: PACK }
}

/// The key of an archived segment that nobody opens.
pub fn segment_key(number: u64) -> ObjectKey {
    ObjectKey::Wal(WalName::Segment(segment(number)), WalDigest::from_bytes([7; 16]))
}

/// A new repository in `store`, with nothing in it.
pub async fn repository(store: Store) -> Repository {
    let control = FakeControl::new(MAJOR).segment_size(SEGMENT).system_identifier(SYSTEM);
    let control = ControlFile::parse(&control.bytes()).unwrap();
    let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
    let namespace = Namespace::new(store, String::new(), "main".parse().unwrap(), keys, 1);
    namespace.init(&control).await.unwrap().0
}

/// Fill it.
pub async fn fill(repository: &Repository) {
    for index in 0..BACKUPS {
        put_backup(repository, index).await;
    }
    let (first, second) = (lsn(ENDS[0]), lsn(ENDS[1]));
    put_history(repository, 2, &format!("1\t{first}\tpromoted\n")).await;
    put_history(repository, 3, &format!("1\t{first}\tpromoted\n2\t{second}\tpromoted\n")).await;
    for number in 0..SEGMENTS {
        // Where WAL ends, somebody asks for its last commit.
        if ENDS.iter().any(|end| (end - 8..*end).contains(&number)) {
            put_segment(repository, number).await;
        } else {
            put_name(repository, &segment_key(number), &[7]).await;
        }
    }
}

async fn put_name(repository: &Repository, key: &ObjectKey, content: &'static [u8]) {
    let root = format!("main/{SYSTEM}");
    repository.store().put(&format!("{root}/{key}"), vec![content.into()]).await.unwrap();
}

async fn put_backup(repository: &Repository, index: u64) {
    let text = include_str!("../../src/format/FORMAT.md");
    let json = text.split("```json manifest\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
    let id = backup_id(index);
    let own = if index == 0 { SHARED } else { OWN };
    let mut list: Vec<PackUse> = (0..own).map(|number| pack_use(index, number)).collect();
    for pack in &list {
        put_name(repository, &ObjectKey::Pack(pack.name.clone()), &[0; PACK as usize]).await;
    }
    let mut packs = vec![manifest.packs[0].clone()];
    (packs[0].backup, packs[0].packs) = (id.clone(), own.into());
    if index > 0 {
        list.splice(0..0, (0..SHARED).map(|number| pack_use(0, number)));
        packs.insert(0, manifest.packs[0].clone());
        (packs[0].backup, packs[0].packs) = (backup_id(0), SHARED.into());
    }
    let first = index * (SEGMENTS / BACKUPS);
    (manifest.id, manifest.timeline) = (id.clone(), segment(first).timeline);
    (manifest.start_lsn, manifest.stop_lsn) = (Lsn::new(lsn(first).get() + 40), lsn(first + 1));
    let ago = EVERY * u32::try_from(BACKUPS - index).unwrap();
    let finished = PgTime::now().unix_micros() - i64::try_from(ago.as_micros()).unwrap();
    manifest.finished_at = PgTime::from_unix_micros(finished);
    manifest.started_at = PgTime::from_unix_micros(finished - 1_000_000);
    manifest.page_errors.clear();
    manifest.wal.clear();
    manifest.packs = packs;
    for (number, part) in (0..).zip(&mut manifest.parts) {
        part.table_bytes = PACK.into();
        put_name(repository, &ObjectKey::FileTable(id.clone(), number), &[0; PACK as usize]).await;
    }
    manifest.pack_list_bytes = repository.put_pack_list(&id, &PackList(list)).await.unwrap();
    repository.put_manifest(&manifest).await.unwrap();
}

struct Scan(Option<WalScanner>);

impl Inspect for Scan {
    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.iter_mut().for_each(|scanner| scanner.feed(bytes));
        Ok(())
    }

    fn finish(self, plain_len: u64) -> Result<Summary> {
        let scanned = self.0.map(|scanner| Summary::of_segment(plain_len, scanner.finish()));
        Ok(scanned.unwrap_or_else(|| Summary::of_length(plain_len)))
    }
}

async fn put_wal(repository: &Repository, name: WalName, bytes: &[u8], scan: Scan) {
    let len = bytes.len() as u64;
    let sealed = seal_wal(repository.keys(), repository.name(), &name, (1, 1), &bytes, len, scan).unwrap();
    let digest = sealed.digest(repository.identity()).unwrap();
    repository.put_wal(&name, digest, sealed).await.unwrap();
}

async fn put_segment(repository: &Repository, number: u64) {
    let name = segment(number);
    let file = WalFile::new(MAJOR, SYSTEM, name.timeline.get(), number, SEGMENT).commit(0, SystemTime::now());
    let size = SegmentSize::new(SEGMENT).unwrap();
    let scan = Scan(Some(WalScanner::new(name.start(size), size)));
    put_wal(repository, WalName::Segment(name), &file.bytes(), scan).await;
}

async fn put_history(repository: &Repository, timeline: u32, text: &str) {
    let name = WalName::History(TimelineId::new(timeline).unwrap());
    put_wal(repository, name, text.as_bytes(), Scan(None)).await;
}
