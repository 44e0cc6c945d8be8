//! Which files are not read again: those that, as far as the disk shows, are as the base read them,
//! and it read them not long ago.
//!
//! What it rests on:
//! - The kernel sets the change time of a file at every write, and it can be set back only with the
//!   clock: a copy that keeps the times (`cp -p`, `touch`), a rename or a new file with an old
//!   one's inode does not pass. Only file systems that are known for this are trusted, and none of
//!   another host, which has another clock.
//! - It sets it before the bytes are there. A write that had begun when the base looked may not have been seen when the base
//!   read, and leaves no trace after that: so all times must be older than the base's start by a margin. The
//!   checkpoint with which a backup begins waits for writes that are under way.
//! - After a crash of the host a file may have lost what it had, times and all: so the server must be the same process. Before a
//!   restart a file may have been changed by anything.
//! - Only files of relations: they are nearly all of a cluster, and PostgreSQL writes them by system calls. A write to mapped
//!   memory may come long after the time that it sets.
//! - A page that changes without WAL (hint bits, visibility and free space maps) is written like any other, or is not
//!   changed on the disk.
//!
//! Cold pages decay. So each file is really read at least every `backup.reread`, and files take turns.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{FileEntry, ServerInfo, Walk};
use crate::disk::device_that_keeps_times;
use crate::format::{BackupId, FileRecord, Manifest, digest_sum};
use crate::postgres::{Lsn, PgTime};

/// How much older than a backup's start the times of a file must be. The coarsest file system has 1 s, and a write that
/// takes this long to arrive is not expected.
const MARGIN: Duration = Duration::from_secs(10);

/// What all files of a backup have in common.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// Of the repository's digests.
    pub(super) seed: u64,
    /// When this server was started, which no other was.
    pub(super) server: PgTime,
    /// Whether pages are verified.
    pub(super) checksums: bool,
    /// When the backup began, by the server's clock.
    pub(super) started_at: PgTime,
    /// The same by this program's clock. It may be another.
    pub(super) clock: PgTime,
    /// File systems whose times mean something.
    pub(super) devices: HashSet<u64>,
}

impl Moment {
    /// A backup that begins now.
    pub(super) fn new(seed: u64, info: &ServerInfo, checksums: bool, started_at: PgTime) -> Self {
        let devices = HashSet::new();
        Self { seed, server: info.started, checksums, started_at, clock: PgTime::now(), devices }
    }

    /// Find out which of the file systems that the files lie on can be trusted.
    pub(super) fn look_at_file_systems(&mut self, data_dir: &Path, walk: &Walk) {
        let tablespaces = walk.tablespaces.iter().map(|tablespace| data_dir.join(&tablespace.location));
        let places = std::iter::once(data_dir.to_owned()).chain(tablespaces);
        // One that cannot be asked is not trusted.
        self.devices = places.filter_map(|place| device_that_keeps_times(&place).ok().flatten()).collect();
    }

    /// Seconds since the epoch.
    pub(super) fn seconds(&self) -> i64 {
        self.started_at.timestamp().as_second()
    }

    /// What the next backup is told of a file: a digest of everything that it recognises the file
    /// by. 0 if it must be read in any case.
    pub(super) fn state(&self, entry: &FileEntry) -> u64 {
        let stat = entry.stat;
        let began = self.started_at.unix_micros().min(self.clock.unix_micros()).saturating_mul(1000);
        let margin = i64::try_from(MARGIN.as_nanos()).unwrap_or(i64::MAX);
        let is_quiet = stat.modified.max(stat.changed) < began.saturating_sub(margin);
        if entry.relation.is_none() || !is_quiet || !self.devices.contains(&stat.id.device) {
            return 0;
        }
        let words = [
            stat.id.device,
            stat.id.inode,
            entry.size,
            stat.modified.cast_unsigned(),
            stat.changed.cast_unsigned(),
            self.server.unix_micros().cast_unsigned(),
            self.checksums.into(),
        ];
        digest_sum(self.seed, &words).max(1)
    }
}

/// Decides which files of the base need not be read again.
#[derive(Debug, Clone)]
pub(super) struct Unread {
    pub(super) moment: Moment,
    base: Option<Trusted>,
}

/// A base that may be believed.
#[derive(Debug, Clone)]
struct Trusted {
    id: BackupId,
    /// Seconds after which a file that was read is due: so that the next backup, which comes as long after this one as
    /// this one after the base, is not too late.
    turn: i64,
    /// Files with pages whose checksum failed: they are looked at until they are sound, and told of again.
    damaged: HashSet<Vec<u8>>,
}

impl Unread {
    /// For a backup that starts at `start`. A file is read again at least every `reread`, if backups come regularly.
    pub(super) fn new(moment: Moment, base: Option<&Manifest>, start: Lsn, reread: Duration) -> Self {
        let trusted = |base: &Manifest| {
            let since = moment.seconds() - base.started_at.timestamp().as_second();
            let turn = i64::try_from(reread.as_secs()).unwrap_or(i64::MAX).saturating_sub(since);
            // Back before the base's end: the host is a snapshot that was put back, its memory included.
            let is_later = since >= 0 && start >= base.stop_lsn;
            let damaged = base.page_errors.iter().map(|error| error.path.as_bytes().to_vec()).collect();
            (is_later && turn > 0).then_some(Trusted { id: base.id.clone(), turn, damaged })
        };
        let base = base.and_then(trusted);
        Self { moment, base }
    }

    /// Whether the file of a table of `backup` need not be read again; `entry` is what it is now.
    pub(super) fn may_skip(&self, backup: &BackupId, record: &FileRecord, entry: &FileEntry) -> bool {
        let Some(base) = self.base.as_ref().filter(|base| base.id == *backup) else { return false };
        record.state != 0
            && record.state == self.moment.state(entry)
            && record.size == entry.size
            && !base.damaged.contains(record.path.as_bytes())
            && !is_due(
                self.moment.seconds().saturating_sub(record.read_at),
                base.turn,
                digest_sum(self.moment.seed, &[record.state, record.read_at.cast_unsigned()]),
            )
    }
}

/// Whether a file that was read `age` seconds ago is to be read now. Each is after between a half of `turn` and the whole, as
/// `chance` (any number) has it: what was read at once is not read again at once.
fn is_due(age: i64, turn: i64, chance: u64) -> bool {
    let half = i128::from(turn) / 2;
    let more = (half * i128::from(chance)) >> 64;
    age < 0 || i128::from(age) >= half + more
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::FileStat;
    use crate::disk::FileId;
    use crate::postgres::RelationFile;

    const BASE: &str = "20261122T130000Z-00000001";
    const DAY: i64 = 86_400;
    const SECOND: i64 = 1_000_000_000;

    fn time(seconds: i64) -> PgTime {
        PgTime::from_unix_micros(seconds * 1_000_000)
    }

    /// That of the base is 1,800,000,000.
    fn moment(seconds: i64) -> Moment {
        Moment {
            seed: 7,
            server: time(1_700_000_000),
            checksums: true,
            started_at: time(seconds),
            clock: time(seconds),
            devices: HashSet::from([8]),
        }
    }

    const BEGAN: i64 = 1_800_000_000;

    fn entry() -> FileEntry {
        let written = (BEGAN - 60) * SECOND;
        FileEntry {
            path: "base/1/1259".into(),
            size: 8192,
            mode: 0o600,
            stat: FileStat { id: FileId { device: 8, inode: 9 }, modified: written, changed: written },
            relation: RelationFile::parse("1259"),
        }
    }

    fn record(entry: &FileEntry, moment: &Moment) -> FileRecord {
        FileRecord {
            path: entry.path.as_path().into(),
            mode: entry.mode,
            state: moment.state(entry),
            read_at: moment.seconds(),
            size: entry.size,
            extents: Vec::new(),
            sums: Vec::new(),
            digests: Vec::new(),
        }
    }

    fn manifest() -> Manifest {
        let text = include_str!("../format/FORMAT.md");
        let json = text.split("```json manifest\n").nth(1).unwrap().split("```").next().unwrap();
        let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
        manifest.started_at = time(BEGAN);
        manifest
    }

    /// Whether a backup a day later skips the file, which the base saw as `then`, and is `now`.
    fn skips(then: &FileEntry, now: &FileEntry, change: impl Fn(&mut Moment, &mut Manifest)) -> bool {
        let record = record(then, &moment(BEGAN));
        let (mut later, mut base) = (moment(BEGAN + DAY), manifest());
        change(&mut later, &mut base);
        let start = Lsn::new(0x0300_0100);
        let unread = Unread::new(later, Some(&base), start, Duration::from_hours(7 * 24));
        unread.may_skip(&BASE.parse().unwrap(), &record, now)
    }

    type Change = fn(&mut FileEntry);

    #[test]
    fn a_file_that_is_as_it_was_is_skipped_and_one_that_differs_in_anything_is_read() {
        assert!(skips(&entry(), &entry(), |_, _| {}));
        let changes: [(&str, Change); 6] = [
            ("another file system", |entry| entry.stat.id.device += 1),
            ("another file under the same name", |entry| entry.stat.id.inode += 1),
            ("longer", |entry| entry.size += 8192),
            ("written", |entry| entry.stat.modified += 1),
            ("written, and its time put back", |entry| entry.stat.changed += 1),
            ("an older one put back with its times", |entry| entry.stat.modified -= DAY * SECOND),
        ];
        for (what, change) in changes {
            let mut now = entry();
            change(&mut now);
            assert!(!skips(&entry(), &now, |_, _| {}), "{what}");
        }
    }

    #[test]
    fn a_file_that_may_have_been_written_while_the_base_read_it_is_read() {
        for (seconds, expected) in
            [(-3600, true), (-11, true), (-10, false), (-1, false), (0, false), (5, false)]
        {
            for field in 0..2 {
                let mut entry = entry();
                let stat = &mut entry.stat;
                *[&mut stat.modified, &mut stat.changed][field] = (BEGAN + seconds) * SECOND;
                assert_eq!(skips(&entry, &entry, |_, _| {}), expected, "{seconds} {field}");
            }
        }
        // One of the clocks was behind.
        let clocks: [fn(&mut Moment) -> &mut PgTime; 2] =
            [|moment| &mut moment.clock, |moment| &mut moment.started_at];
        for clock in clocks {
            let mut behind = moment(BEGAN);
            assert_ne!(behind.state(&entry()), 0);
            *clock(&mut behind) = time(BEGAN - 65);
            assert_eq!(behind.state(&entry()), 0);
        }
    }

    #[test]
    fn another_server_file_system_or_history_is_not_believed() {
        let is_read = |change: &dyn Fn(&mut Moment, &mut Manifest)| !skips(&entry(), &entry(), change);
        assert!(is_read(&|now, _| now.server = time(1_700_000_001)), "restarted");
        assert!(is_read(&|now, _| now.checksums = false), "pages were not verified");
        assert!(is_read(&|now, _| now.devices.clear()), "a file system of another host");
        assert!(is_read(&|_, base| base.stop_lsn = Lsn::new(0x0300_0101)), "put back to before the base");
        assert!(
            is_read(&|_, base| base.id = "20261122T130000Z-00000002".parse().unwrap()),
            "an interrupted one"
        );
        assert!(is_read(&|_, base| base.page_errors[0].path = "base/1/1259".into()), "a damaged page");
        assert!(is_read(&|now, _| now.started_at = time(BEGAN - 1)), "the clock was put back");
        let mut other = entry();
        other.relation = None;
        assert!(!skips(&other, &other, |_, _| {}), "not of a relation");
    }

    #[test]
    fn every_file_is_read_within_reread_and_not_all_on_one_day() {
        let (base, reread) = (manifest(), Duration::from_hours(7 * 24));
        for (interval, jitter) in [(DAY, 0), (DAY, 600), (3600, 7), (2 * DAY, 0), (6 * DAY, 60)] {
            let mut files: Vec<FileRecord> = (0..200)
                .map(|inode| {
                    let mut entry = entry();
                    entry.stat.id.inode = inode;
                    record(&entry, &moment(BEGAN))
                })
                .collect();
            let (mut before, mut now, mut most, mut rounds) = (BEGAN, BEGAN, 0, 0);
            let mut reads = 0;
            while now < BEGAN + 40 * DAY {
                now += interval + if rounds % 2 == 0 { jitter } else { -jitter };
                rounds += 1;
                let mut base = base.clone();
                base.started_at = time(before);
                let unread = Unread::new(moment(now), Some(&base), Lsn::new(u64::MAX), reread);
                let mut read = 0;
                for (inode, file) in (0..).zip(&mut files) {
                    let mut entry = entry();
                    entry.stat.id.inode = inode;
                    if !unread.may_skip(&BASE.parse().unwrap(), file, &entry) {
                        file.read_at = now;
                        read += 1;
                    }
                    assert!(now - file.read_at < 7 * DAY, "every {interval}");
                    // Nor is anything too old when the next one comes.
                    assert!(now + interval - file.read_at <= 7 * DAY + jitter, "every {interval}");
                }
                reads += read;
                most = most.max(read);
                before = now;
            }
            if interval <= DAY {
                assert!(most <= 100, "every {interval}: {most} of 200 at once");
                assert!(reads < 200 * 40 / 3, "every {interval}: {reads} reads in 40 days");
            }
        }
    }

    #[test]
    fn reread_of_zero_reads_everything() {
        let record = record(&entry(), &moment(BEGAN));
        let unread = Unread::new(moment(BEGAN + 1), Some(&manifest()), Lsn::new(u64::MAX), Duration::ZERO);
        assert!(!unread.may_skip(&BASE.parse().unwrap(), &record, &entry()));
    }
}
