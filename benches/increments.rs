//! What a backup beside a large base needs of memory, and what a plan of a restore and of retention do:
//! `cargo bench --bench increments`. Needs 4 GB and two million inodes in `/dev/shm` or `TMPDIR`, and a quarter of an hour; with
//! `-- "1 TB"` it measures that one only.
//!
//! The base of up to 10 TB (1.3 billion pages) is fabricated beside a small cluster of a real server: relation segments of 1 GiB
//! that are holes, the file table that a backup would have of them, and packs that have nothing but a name and a length. Most
//! segments are left unread, as those that nobody touched are; some are read and compared page by page, and those lie in
//! real packs. The programs are the real ones, and their peak is the kernel's.
//!
//! It exits with 1 if a peak is above the target.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a benchmark that cannot go on fails; its numbers are small"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::account::Account;
use support::process::TIMEOUT;
use support::{Archived, Repo, Walproof};
use walproof::format::{
    BackupId, Extent, FileRecord, FileTable, FramePlace, Manifest, PackList, PackName, PackRef, PackUse,
    PartRecord, digest_sum,
};
use walproof::postgres::PgTime;
use walproof::repository::{Namespace, Repository};
use walproof::seal::KeyRing;
use walproof::store::{Location, Policy, Store};

/// MiB of any of the programs.
const TARGET: u64 = 256;
const SEGMENT: u64 = 1 << 30;
const PAGE: u32 = 8192;
/// A frame of 64 pages, and the length of a pack. Pages hardly compress: the most packs that there can be on S3.
const FRAME: u32 = 64 * PAGE;
const PACK: u32 = 32 << 20;
/// A region of 8 MiB. After many backups it has so many frames at most, and of each two thirds are used.
const REGION: u64 = 8 << 20;
const FRAMES_IN_REGION: u32 = 48;
const SCATTERED: u32 = 32 * PAGE;
/// Bytes of the files of one part, as in a backup.
const PART: u64 = 2 << 30;

/// A cluster to be tried.
struct Size {
    title: &'static str,
    files: u64,
    /// Of each file.
    bytes: u64,
    /// Those of them that are read.
    read: u64,
}

const SIZES: [Size; 6] = [
    Size { title: "1 GB", files: 1, bytes: SEGMENT, read: 1 },
    Size { title: "10 GB", files: 10, bytes: SEGMENT, read: 4 },
    Size { title: "100 GB", files: 100, bytes: SEGMENT, read: 16 },
    Size { title: "1 TB", files: 1000, bytes: SEGMENT, read: 32 },
    Size { title: "10 TB", files: 10_000, bytes: SEGMENT, read: 32 },
    Size { title: "1,000,000 files of 16 KB", files: 1_000_000, bytes: 2 * PAGE as u64, read: 10_000 },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("only `cargo bench` measures");
        return ExitCode::SUCCESS;
    }
    let only = arguments.find(|argument| !argument.starts_with("--"));
    println!(
        "| cluster | packs | manifest | pack list | file table | backup | of it read | restore, plan | expire, plan |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let sizes = SIZES.iter().filter(|size| only.as_ref().is_none_or(|only| size.title.starts_with(only)));
    let peak = sizes.map(measure).max().unwrap_or_default();
    println!("highest peak: {} MiB, target <= {TARGET} MiB", peak >> 20);
    ExitCode::from(u8::from(peak >> 20 > TARGET))
}

/// Print a row; the highest peak.
fn measure(size: &Size) -> u64 {
    let archived = Archived::start(Repo::local());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // Its frames are what the segments that are read are made of.
    let cluster = &archived.cluster;
    let directory = cluster
        .data_dir()
        .join(format!("base/{}", cluster.psql("select oid from pg_database where datname = 'postgres'")));
    let template = make_file(&directory, 0, size.bytes);
    archived.backup();
    let files: Vec<PathBuf> =
        (1..=size.files).map(|number| make_file(&directory, number, size.bytes)).collect();
    let base = runtime.block_on(Base::put(&archived, size, &template, &files));
    Account::get().own_all(archived.repo().dir().unwrap());
    // A base that was read ten seconds ago may be believed.
    std::thread::sleep(Duration::from_secs(11));
    cluster.psql("create table changed as select generate_series(1, 100)");

    let backup = Peak::of(&archived.walproof, ["backup-push", "--json"]);
    let done: serde_json::Value = serde_json::from_str(&backup.stdout).expect("the backup's JSON");
    let unread = done["unread_bytes"].as_u64().unwrap();
    assert!(unread >= (size.files - size.read) * size.bytes, "most is left unread: {done}");
    assert!(done["reused_bytes"].as_u64().unwrap() >= size.files * size.bytes, "all is reused: {done}");
    // One that was begun already is not asked for the space.
    let to = archived.scratch.dir("restored");
    archived.scratch.dir("restored/global");
    archived.scratch.file("restored/global/pg_control.walproof", "");
    let restore = Peak::of(
        &archived.walproof,
        [OsStr::new("restore"), OsStr::new("--to"), to.as_os_str(), OsStr::new("--dry-run")],
    );
    let expire = Peak::of(&archived.walproof, ["expire", "--dry-run"]);
    println!(
        "| {} | {} | {} kB | {} kB | {} kB | {backup} | {} MB | {restore} | {expire} |",
        size.title,
        base.packs,
        base.manifest_bytes / 1000,
        base.pack_list_bytes / 1000,
        base.table_bytes / 1000,
        size.read * size.bytes / 1_000_000,
    );
    backup.bytes.max(restore.bytes).max(expire.bytes)
}

/// A segment that is a hole.
fn make_file(directory: &Path, number: u64, bytes: u64) -> PathBuf {
    let path = directory.join((1_000_000 + number).to_string());
    File::create(&path).unwrap().set_len(bytes).unwrap();
    Account::get().own(&path);
    path
}

/// A run of a program, and the most memory that it had.
struct Peak {
    bytes: u64,
    took: Duration,
    stdout: String,
}

impl Peak {
    fn of<A: AsRef<OsStr>>(walproof: &Walproof, arguments: impl IntoIterator<Item = A>) -> Self {
        let begin = Instant::now();
        let mut running = walproof.spawn(arguments);
        let mut bytes = 0;
        while running.ended().is_none() {
            let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
            bytes =
                bytes.max(peak.and_then(|peak| peak.trim().parse::<u64>().ok()).unwrap_or_default() << 10);
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = begin.elapsed();
        let output = running.wait(TIMEOUT);
        output.success();
        Self { bytes, took, stdout: output.stdout() }
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB, {:.1} s", self.bytes >> 20, self.took.as_secs_f64())
    }
}

/// The fabricated base.
struct Base {
    packs: u64,
    manifest_bytes: u64,
    pack_list_bytes: u64,
    table_bytes: u64,
}

impl Base {
    async fn put(archived: &Archived, size: &Size, template: &Path, files: &[PathBuf]) -> Self {
        let repository = open(archived).await;
        let first = repository.list_backup_ids().await.unwrap().remove(0);
        let mut manifest = repository.get_manifest(&first).await.unwrap();
        let mut list = repository.get_pack_list(&first).await.unwrap();
        let (mut records, mut packs) = (Vec::new(), Vec::new());
        for number in 0..manifest.parts.len() {
            let table = repository.get_file_table(&first, number as u32).await.unwrap();
            records.extend(table.files.into_iter().map(|file| (packs.len(), file)));
            packs.push(table.packs);
        }
        // A second later: ids ascend.
        let moment = PgTime::from_unix_micros(manifest.finished_at.unix_micros() + 1_000_000);
        let id = BackupId::generate(moment.timestamp()).unwrap();
        (manifest.started_at, manifest.finished_at) = (moment, moment);
        let relative = |path: &Path| path.strip_prefix(archived.cluster.data_dir()).unwrap().to_owned();
        let template = relative(template);
        let template = records.iter().find(|(_, file)| file.path.as_path() == template).unwrap().clone();
        let states = States::of(archived, &repository, &manifest);
        let header = packs[0][0].header;
        let (mut fabricated, mut made) = (Vec::new(), Frames::of(id.clone(), header));
        let step = size.files.div_ceil(size.read);
        for (number, path) in files.iter().enumerate() {
            let (part, record) = &template;
            let record = FileRecord { path: relative(path).as_path().into(), ..record.clone() };
            // Those that are read lie in the real packs of the first backup.
            if (number as u64).is_multiple_of(step) {
                fabricated.push((Some(*part), record));
            } else {
                let state = states.state(path);
                fabricated
                    .push((None, FileRecord { state, read_at: states.began, extents: Vec::new(), ..record }));
            }
        }
        let mut all: Vec<(Option<usize>, FileRecord)> =
            records.into_iter().map(|(part, record)| (Some(part), record)).chain(fabricated).collect();
        all.sort_by(|(_, one), (_, other)| one.path.as_bytes().cmp(other.path.as_bytes()));
        manifest.parts.clear();
        let mut part = Builder::default();
        for (of, mut record) in all {
            match of {
                Some(of) => part.adopt(&mut record, &packs[of]),
                None => part.fabricate(&mut record, &mut made),
            }
            part.table.files.push(record);
            if part.is_full() {
                manifest.parts.push(part.put(&repository, &id, manifest.parts.len()).await);
            }
        }
        manifest.parts.push(part.put(&repository, &id, manifest.parts.len()).await);
        list.0.extend(made.uses());
        made.put_names(archived);
        Self::finish(&repository, manifest, id, &list, size).await
    }

    async fn finish(
        repository: &Repository,
        mut manifest: Manifest,
        id: BackupId,
        list: &PackList,
        size: &Size,
    ) -> Self {
        manifest.pack_list_bytes = repository.put_pack_list(&id, list).await.unwrap();
        let mut packs = manifest.packs[0].clone();
        let own: Vec<&PackUse> = list.0.iter().filter(|pack| pack.name.backup == id).collect();
        packs.backup = id.clone();
        packs.packs = own.len() as u64;
        packs.bytes = own.iter().map(|pack| u64::from(pack.bytes)).sum();
        packs.live_bytes = packs.bytes;
        manifest.packs.push(packs);
        manifest.id = id;
        manifest.files += size.files;
        manifest.size_bytes += size.files * size.bytes;
        repository.put_manifest(&manifest).await.unwrap();
        Self {
            packs: list.0.len() as u64,
            manifest_bytes: manifest.to_bytes().unwrap().len() as u64,
            pack_list_bytes: manifest.pack_list_bytes,
            table_bytes: manifest.parts.iter().map(|part| part.table_bytes).sum(),
        }
    }
}

async fn open(archived: &Archived) -> Repository {
    let store =
        Store::open(&Location::File(archived.repo().dir().unwrap().to_owned()), Policy::default()).unwrap();
    let key = fs::read_to_string(archived.walproof.scratch().join("key")).unwrap();
    let name = archived.walproof.name().parse().unwrap();
    let namespace = Namespace::new(store, String::new(), name, KeyRing::parse(&key).unwrap(), 1);
    namespace.open(archived.cluster.system_identifier()).await.unwrap()
}

/// What the next backup finds of a file that nobody touches, as it sums it up.
struct States {
    seed: u64,
    server: u64,
    checksums: bool,
    began: i64,
}

impl States {
    fn of(archived: &Archived, repository: &Repository, base: &Manifest) -> Self {
        let started = archived
            .cluster
            .psql("select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint");
        Self {
            seed: repository.identity().page_seed().unwrap(),
            server: started.parse().unwrap(),
            checksums: base.page_checksums,
            began: base.started_at.timestamp().as_second(),
        }
    }

    fn state(&self, path: &Path) -> u64 {
        let found = fs::metadata(path).unwrap();
        let nanos = |seconds: i64, nanos: i64| (seconds * 1_000_000_000 + nanos).cast_unsigned();
        let words = [
            found.dev(),
            found.ino(),
            found.len(),
            nanos(found.mtime(), found.mtime_nsec()),
            nanos(found.ctime(), found.ctime_nsec()),
            self.server,
            self.checksums.into(),
        ];
        digest_sum(self.seed, &words).max(1)
    }
}

/// Frames that lie nowhere.
struct Frames {
    id: BackupId,
    header: [u8; walproof::seal::HEADER_LEN],
    /// The bytes of each pack.
    packs: Vec<u32>,
    /// How many the last pack has.
    count: u32,
}

impl Frames {
    fn of(id: BackupId, header: [u8; walproof::seal::HEADER_LEN]) -> Self {
        Self { id, header, packs: Vec::new(), count: 0 }
    }

    /// The next frame of so many bytes, which is stored in nine tenths.
    fn next(&mut self, frame_len: u32) -> (PackRef, Extent) {
        if self.packs.last().is_none_or(|bytes| *bytes >= PACK) {
            self.packs.push(64);
            self.count = 0;
        }
        let number = self.packs.len() as u32 - 1;
        let bytes = self.packs.last_mut().unwrap();
        let (frame, offset, stored_len) = (self.count, *bytes, frame_len / 10 * 9);
        *bytes += stored_len;
        self.count += 1;
        let digests = FramePlace { frame: 1000, offset: PACK, stored_len: 1000 };
        let pack =
            PackRef { name: PackName { backup: self.id.clone(), number }, header: self.header, digests };
        (pack, Extent { pack: 0, frame, offset, stored_len, frame_len, skip: 0, plain_len: 0 })
    }

    fn uses(&self) -> impl Iterator<Item = PackUse> {
        (0..).zip(&self.packs).map(|(number, bytes)| PackUse {
            name: PackName { backup: self.id.clone(), number },
            bytes: *bytes,
            live_bytes: *bytes,
        })
    }

    /// Holes as long as the packs would be.
    fn put_names(&self, archived: &Archived) {
        let some = archived.repo().keys("/packs/").remove(0);
        let directory = archived
            .repo()
            .dir()
            .unwrap()
            .join(some)
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join(self.id.as_str());
        fs::create_dir_all(&directory).unwrap();
        for pack in self.uses() {
            let name = pack.name.to_string();
            let path = directory.join(name.rsplit('/').next().unwrap());
            File::create(path).unwrap().set_len(pack.bytes.into()).unwrap();
        }
    }
}

/// A part of the file table that grows.
#[derive(Default)]
struct Builder {
    table: FileTable,
    bytes: u64,
    extents: usize,
}

impl Builder {
    fn pack(&mut self, pack: &PackRef) -> u32 {
        let known = self.table.packs.iter().rposition(|known| known.name == pack.name);
        if known.is_none() {
            self.table.packs.push(pack.clone());
        }
        known.unwrap_or(self.table.packs.len() - 1) as u32
    }

    fn add(&mut self, record: &FileRecord) {
        self.bytes += record.size;
        self.extents += record.extents.len();
    }

    /// A file whose extents have packs of another part.
    fn adopt(&mut self, record: &mut FileRecord, packs: &[PackRef]) {
        for extent in &mut record.extents {
            extent.pack = self.pack(&packs[extent.pack as usize]);
        }
        self.add(record);
    }

    /// Every fourth region of it is what many backups left: runs of pages in as many frames as there may be.
    fn fabricate(&mut self, record: &mut FileRecord, made: &mut Frames) {
        for position in (0..record.size).step_by(REGION as usize) {
            let len = (record.size - position).min(REGION) as u32;
            let scattered = (position / REGION).is_multiple_of(4) && u64::from(len) == REGION;
            let (frame_len, each) = if scattered {
                (SCATTERED, len / FRAMES_IN_REGION / PAGE * PAGE)
            } else {
                (FRAME.min(len), FRAME)
            };
            let mut rest = len;
            while rest > 0 {
                let plain_len = rest.min(each);
                let (pack, extent) = made.next(frame_len);
                record.extents.push(Extent { pack: self.pack(&pack), plain_len, ..extent });
                rest -= plain_len;
            }
        }
        self.add(record);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PART
            || 40 * self.table.files.len() + 32 * self.extents + 110 * self.table.packs.len() >= 1 << 20
    }

    async fn put(&mut self, repository: &Repository, id: &BackupId, number: usize) -> PartRecord {
        let table = std::mem::take(self).table;
        repository.put_file_table(id, number as u32, &table).await.unwrap()
    }
}
