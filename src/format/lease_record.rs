//! What a lease says: its purpose, what it protects, and its holder.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::BackupId;
use crate::postgres::{Lsn, TimelineId};

/// A lease that has not been renewed for this long, by the store's clock, is dead.
pub(crate) const LIFETIME: Duration = Duration::from_mins(2);
/// What a restore leaves behind lives for so many lifetimes, a day: until the server has recovered.
const LEFT_BEHIND: u32 = 720;
/// For tests only: a shorter lifetime, in seconds.
const TEST_LIFETIME: &str = "WALPROOF_TEST_LEASE_LIFETIME";

/// What a lease is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A base backup is being taken.
    Backup,
    /// Retention is deleting.
    Expire,
    /// A backup is being restored.
    Restore,
    /// A restore is being rehearsed.
    Drill,
    /// The repository is being verified.
    Verify,
}

/// Whether one may begin while another is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Neither disturbs the other.
    Together,
    /// Yes, but what the other protects must stay.
    Respecting,
    /// Not until the other has ended, which takes minutes: wait.
    AfterIt,
    /// No.
    Refused,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 5] = [Self::Backup, Self::Expire, Self::Restore, Self::Drill, Self::Verify];

    /// Whether this may begin while `living` is under way:
    ///
    /// | begins \ lives | backup | expire | restore | drill | verify |
    /// |---|---|---|---|---|---|
    /// | backup | no | after it | yes | yes | yes |
    /// | expire | respecting | no | respecting | respecting | respecting |
    /// | restore | yes | yes | yes | yes | yes |
    /// | drill | yes | yes | yes | no | yes |
    /// | verify | yes | yes | yes | yes | yes |
    ///
    /// - Two backups would read the disk twice, and two expiries would delete by two plans.
    /// - A backup that begins during an expiry could reuse extents that are about to be deleted: it waits. An expiry that
    ///   begins during a backup sees what the backup protects, and keeps it.
    /// - A restore is never refused and never waits. An expiry looks for new leases before every batch of deletes
    ///   (`Lease::others`) and keeps what they protect.
    /// - Reports of drills are chained, so there is one drill at a time.
    /// - A verification that misses an object looks again whether it is still listed: an expiry may have deleted it.
    pub const fn may_begin_beside(self, living: Self) -> Verdict {
        match (self, living) {
            (Self::Backup, Self::Backup) | (Self::Expire, Self::Expire) | (Self::Drill, Self::Drill) => {
                Verdict::Refused
            }
            (Self::Backup, Self::Expire) => Verdict::AfterIt,
            (Self::Expire, _) => Verdict::Respecting,
            _ => Verdict::Together,
        }
    }

    /// In messages.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Expire => "expiry",
            Self::Verify => "verification",
            Self::Backup | Self::Restore | Self::Drill => self.name(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Expire => "expire",
            Self::Restore => "restore",
            Self::Drill => "drill",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Purpose {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|purpose| purpose.name() == text);
        found.ok_or_else(|| Error::corrupt(format!("\"{text}\" is not the purpose of a lease")))
    }
}

/// What nobody may delete while the lease lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// These backups: their manifests and every pack that these name.
    pub backups: Vec<BackupId>,
    /// WAL from these positions on.
    pub wal: Vec<WalFrom>,
}

/// All WAL of a timeline, and of those that branch off later, from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFrom {
    /// On this timeline.
    pub timeline: TimelineId,
    /// From the segment that holds this position.
    pub start: Lsn,
}

/// What a lease object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) purpose: Purpose,
    pub(crate) protects: Protection,
    pub(crate) taken_at: Timestamp,
    /// A lease that was not put again for so long, by the store's clock, is dead.
    pub(crate) lifetime_seconds: u64,
    #[serde(flatten)]
    pub(crate) holder: Holder,
}

impl Record {
    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime_seconds)
    }

    /// What the lease object `plain` becomes when it ends and cannot be deleted.
    pub(crate) fn ended(plain: &[u8]) -> Result<Vec<u8>> {
        Self::changed(plain, |record| record.lifetime_seconds = 0)
    }

    /// What it becomes when it is to live for `lifetime` from now, though its holder ends.
    pub(crate) fn left_behind(plain: &[u8], lifetime: Duration) -> Result<Vec<u8>> {
        Self::changed(plain, |record| {
            record.lifetime_seconds = lifetime.as_secs();
            record.holder.boot.clear();
        })
    }

    fn changed(plain: &[u8], change: impl FnOnce(&mut Self)) -> Result<Vec<u8>> {
        let malformed = |cause| Error::corrupt(format!("write lease: {cause}"));
        let mut record: Self = serde_json::from_slice(plain).map_err(malformed)?;
        change(&mut record);
        serde_json::to_vec(&record).map_err(malformed)
    }
}

/// That of new leases.
pub(crate) fn lifetime() -> Duration {
    let shorter = std::env::var(TEST_LIFETIME).ok().and_then(|text| text.parse().ok());
    shorter.map_or(LIFETIME, Duration::from_secs).clamp(Duration::from_secs(1), LIFETIME)
}

/// That of leases that their holder leaves behind.
pub(crate) fn lifetime_left_behind() -> Duration {
    lifetime() * LEFT_BEHIND
}

/// The process that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) host: String,
    /// Identifies the boot of the host and the process namespace (containers share the former), so that a process id
    /// means something. Empty where the lease outlives its holder.
    boot: String,
    pub(crate) pid: u32,
    /// Start time of the process in clock ticks since boot: process ids are used again. 0 if it is not known.
    started: u64,
}

impl Holder {
    pub(crate) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            host: crate::disk::host_name(),
            boot: boot_id(),
            pid,
            started: process_start(Path::new("/proc"), pid).unwrap_or(0),
        }
    }

    /// Whether the holder was a process of this host that has ended: then nobody has to wait for the lease to age.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended_by(Path::new("/proc"))
    }

    /// What cannot be looked at lives: `/proc` may be mounted so that it hides the processes of other users.
    fn has_ended_by(&self, proc: &Path) -> bool {
        let here = Self::this_process();
        let is_here = !here.boot.is_empty() && self.boot == here.boot && self.host == here.host;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let gone = pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH));
        let is_another = process_start(proc, self.pid).is_some_and(|started| started != self.started);
        is_here && (gone || self.started != 0 && is_another)
    }
}

fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    boot.and_then(|boot| Ok(format!("{} {}", boot.trim(), namespace?.display()))).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat`; the command name before it may hold anything, so count from its last `)`.
fn process_start(proc: &Path, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_purposes_has_its_verdict() {
        use Verdict::{AfterIt, Refused, Respecting, Together};
        let table = [
            [Refused, AfterIt, Together, Together, Together],
            [Respecting, Refused, Respecting, Respecting, Respecting],
            [Together, Together, Together, Together, Together],
            [Together, Together, Together, Refused, Together],
            [Together, Together, Together, Together, Together],
        ];
        for (begins, row) in Purpose::ALL.into_iter().zip(table) {
            for (living, verdict) in Purpose::ALL.into_iter().zip(row) {
                assert_eq!(begins.may_begin_beside(living), verdict, "{begins} beside {living}");
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for purpose in Purpose::ALL {
            assert_eq!(purpose.to_string().parse::<Purpose>().unwrap(), purpose);
        }
        "shred".parse::<Purpose>().unwrap_err();
    }

    #[test]
    fn a_record_is_the_json_of_the_format() {
        let record = Record {
            purpose: Purpose::Backup,
            protects: Protection {
                backups: vec!["20261122T130000Z-00000001".parse().unwrap()],
                wal: vec![WalFrom { timeline: TimelineId::FIRST, start: Lsn::new(0x0300_0028) }],
            },
            taken_at: "2026-11-22T13:00:00Z".parse().unwrap(),
            lifetime_seconds: 120,
            holder: Holder { host: "db1".into(), boot: "b".into(), pid: 4711, started: 12 },
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            "{\"purpose\":\"backup\",\"protects\":{\"backups\":[\"20261122T130000Z-00000001\"],\
             \"wal\":[{\"timeline\":1,\"start\":\"0/3000028\"}]},\"taken_at\":\"2026-11-22T13:00:00Z\",\
             \"lifetime_seconds\":120,\"host\":\"db1\",\"boot\":\"b\",\"pid\":4711,\"started\":12}"
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn this_process_has_not_ended_and_one_that_started_at_another_time_has() {
        let holder = Holder::this_process();
        assert!(!holder.has_ended());
        assert!(Holder { started: holder.started + 1, ..holder.clone() }.has_ended());
        assert!(!Holder { host: "elsewhere".into(), started: 0, ..holder }.has_ended());
    }

    #[test]
    fn a_process_that_is_hidden_has_not_ended_and_one_that_is_gone_has() {
        let hidden = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = process_start(Path::new("/proc"), child.id()).unwrap();
        let holder = Holder { pid: child.id(), started, ..Holder::this_process() };
        assert!(!holder.has_ended_by(hidden.path()) && !holder.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(holder.has_ended_by(hidden.path()) && holder.has_ended());
    }
}
