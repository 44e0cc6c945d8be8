//! What the window costs and what goes next, for display. It uses the sums in the manifests: which
//! packs two backups share is not read for it, so bytes of packs are estimates.

use std::collections::{BTreeMap, BTreeSet};

use super::backups::{Decisions, decide};
use super::facts::{Facts, Policy};
use super::locked;
use super::wal::kept;
use crate::format::{BackupId, Manifest};
use crate::postgres::PgTime;
use crate::repository::{Hold, WalFile};
use crate::window::{Branch, Catalog, RecoveryWindow};

/// What goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// From when on it is no longer needed.
    pub at: PgTime,
    /// Backups that go.
    pub backups: Vec<BackupId>,
    /// Bytes that become free, WAL included.
    pub bytes: u64,
}

/// What goes next after `now`, if nothing but time passes; `None` if nothing ever does, or if a key is missing.
pub fn next(catalog: &Catalog, window: &RecoveryWindow, policy: Policy, now: PgTime) -> Option<Next> {
    if locked::holds_up(catalog) {
        return None;
    }
    let at = |now| Facts { policy, now, catalog, window, leases: Vec::new(), superseded: false };
    let ids = |decisions: &Decisions| -> BTreeSet<BackupId> {
        let kept = decisions.iter().filter(|(_, decision)| decision.needs.is_some());
        kept.map(|(id, _)| id.clone()).collect()
    };
    let facts = at(now);
    let decisions = decide(&facts);
    let stays = ids(&decisions);
    for later in turns(catalog, window, policy).into_iter().filter(|later| *later > now) {
        let facts_then = at(later);
        let decisions_then = decide(&facts_then);
        let stays_then = ids(&decisions_then);
        if stays.is_subset(&stays_then) {
            continue;
        }
        let (wal, wal_then) = (kept(&facts, &decisions), kept(&facts_then, &decisions_then));
        let goes = |file: &&WalFile| {
            file.name.segment().is_some_and(|segment| {
                let number = segment.number(catalog.segment_size);
                wal.reason(segment.timeline, number).is_some()
                    && wal_then.reason(segment.timeline, number).is_none()
            })
        };
        let wal: u64 = catalog.wal().filter(goes).map(|file| file.stored_len).sum();
        let packs = pack_bytes(catalog, &stays).saturating_sub(pack_bytes(catalog, &stays_then));
        let backups = stays.difference(&stays_then).cloned().collect();
        return Some(Next { at: later, backups, bytes: packs + wal });
    }
    None
}

/// The instants at which something may fall out of the window.
fn turns(catalog: &Catalog, window: &RecoveryWindow, policy: Policy) -> BTreeSet<PgTime> {
    let span = i64::try_from(policy.window.as_micros()).unwrap_or(i64::MAX);
    let after = |time: PgTime| PgTime::from_unix_micros(time.unix_micros().saturating_add(span));
    let ends = catalog.manifests().map(|backup| backup.finished_at);
    let commits = window.tips().filter_map(Branch::last_commit);
    let damaged = catalog.damaged.iter().filter_map(|damaged| damaged.id.began()).map(PgTime::from);
    let past = |time: PgTime| PgTime::from_unix_micros(time.unix_micros().saturating_add(1));
    ends.map(after).chain(commits.chain(damaged).map(after).map(past)).collect()
}

/// Bytes of the packs that these backups use. Of those that one backup wrote, what the one uses that uses most of them.
fn pack_bytes(catalog: &Catalog, of: &BTreeSet<BackupId>) -> u64 {
    let mut by_writer: BTreeMap<&BackupId, u64> = BTreeMap::new();
    for packs in catalog.manifests().filter(|backup| of.contains(&backup.id)).flat_map(|backup| &backup.packs)
    {
        let most = by_writer.entry(&packs.backup).or_default();
        *most = packs.bytes.max(*most);
    }
    by_writer.values().sum()
}

/// Bytes that a hold keeps once its backup is older than the window: of its packs, which other backups may use as well,
/// its file tables and its WAL.
pub fn held_bytes(catalog: &Catalog, hold: &Hold) -> u64 {
    let Some(backup) = catalog.manifests().find(|backup| backup.id == hold.backup) else { return 0 };
    let size = catalog.segment_size;
    let until = hold.until.unwrap_or(backup.stop_lsn).max(backup.stop_lsn);
    let numbers = backup.start_lsn.get() / size.bytes()..=until.get().saturating_sub(1) / size.bytes();
    let is_its = |file: &&WalFile| {
        file.name.segment().is_some_and(|segment| {
            segment.timeline == backup.timeline && numbers.contains(&segment.number(size))
        })
    };
    own_bytes(backup) + catalog.wal().filter(is_its).map(|file| file.stored_len).sum::<u64>()
}

fn own_bytes(backup: &Manifest) -> u64 {
    let tables = backup.parts.iter().map(|part| part.table_bytes);
    backup.packs.iter().map(|packs| packs.bytes).chain(tables).sum::<u64>() + backup.pack_list_bytes
}
