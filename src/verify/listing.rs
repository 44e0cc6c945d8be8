//! The listing level: what manifests name is there with its size, and the WAL that backups need has no hole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::chains;
use super::findings::{Findings, RESTORE_OBJECT};
use crate::error::{Kind, Result};
use crate::format::{BackupId, Manifest, ObjectKey, PackList, PackName};
use crate::postgres::{PgTime, WalName};
use crate::records::is_damage;
use crate::repository::{HeldLease, Listing, Repository, Tail};
use crate::window::{Branch, Catalog, Cut, Lack, RecoveryWindow, Stranded};

/// Leases and probes that are older are left from a process that died.
const STALE_MINUTES: i64 = 10;
/// Foreign objects that are named; of the others the number is told.
const MOST_FOREIGN: usize = 20;
const NEW_BACKUP: &str = "take a new backup now: from its end on, any instant can be restored again";
const NEXT_EXPIRE: &str = "`walproof expire` removes it";

/// What one pass is about.
pub(super) struct Pass<'a> {
    pub(super) listing: &'a Listing,
    pub(super) catalog: &'a Catalog,
    pub(super) window: &'a RecoveryWindow,
    pub(super) leases: &'a [HeldLease],
    pub(super) now: Timestamp,
    /// How far back every instant was promised.
    pub(super) promised: Duration,
}

/// Sizes of all listed objects but WAL, and which packs were named.
struct Stored<'a> {
    packs: BTreeMap<&'a PackName, (u64, bool)>,
    tables: BTreeMap<&'a ObjectKey, u64>,
}

/// Everything that a listing tells. Pack lists are read one after the other, none is kept.
pub(super) async fn judge(repository: &Repository, pass: &Pass<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut stored = Stored::of(pass.listing);
    for damaged in &pass.catalog.damaged {
        let object = ObjectKey::Manifest(damaged.id.clone());
        let why = format!("backup {} cannot be restored", damaged.id);
        findings.damaged(object.to_string(), &damaged.error, &why);
        findings.loses(&damaged.id, &object, &damaged.error.to_string());
    }
    for backup in &pass.catalog.backups {
        stored.tables(backup, &mut findings);
        match repository.get_pack_list(&backup.id).await {
            Ok(list) => stored.packs(backup, &list, &mut findings),
            // Its absence was noted with the tables.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) if is_damage(&error) => {
                let object = ObjectKey::PackList(backup.id.clone()).to_string();
                let loses = format!("it is not known whether all packs of backup {} are there", backup.id);
                findings.damaged(object, &error, loses);
            }
            Err(error) => return Err(error),
        }
    }
    of_wal(pass, &mut findings);
    chains::reports(pass.listing, &mut findings);
    chains::tails(pass.catalog, pass.listing, &mut findings);
    stored.orphans(pass, &mut findings);
    leftovers(pass, &mut findings);
    Ok(findings)
}

impl<'a> Stored<'a> {
    fn of(listing: &'a Listing) -> Self {
        let mut stored = Self { packs: BTreeMap::new(), tables: BTreeMap::new() };
        for listed in &listing.objects {
            match &listed.key {
                ObjectKey::Pack(name) => drop(stored.packs.insert(name, (listed.size, false))),
                ObjectKey::FileTable(..) | ObjectKey::PackList(_) => {
                    stored.tables.insert(&listed.key, listed.size);
                }
                _ => {}
            }
        }
        stored
    }

    /// What a manifest names beside packs.
    fn tables(&self, backup: &Manifest, findings: &mut Findings) {
        let id = &backup.id;
        let mut named = vec![(ObjectKey::PackList(id.clone()), backup.pack_list_bytes)];
        for (number, part) in (0..).zip(&backup.parts) {
            named.push((ObjectKey::FileTable(id.clone(), number), part.table_bytes));
        }
        for (key, expected) in named {
            let Some(problem) = wrong_size(self.tables.get(&key).copied(), expected) else { continue };
            let loses = match key {
                ObjectKey::PackList(_) => {
                    format!("it is not known whether all packs of backup {id} are there")
                }
                _ => format!("backup {id} cannot be restored"),
            };
            if !matches!(key, ObjectKey::PackList(_)) {
                findings.loses(id, &key, &format!("{key} {problem}"));
            }
            findings.problem(key.to_string(), problem, loses, RESTORE_OBJECT);
        }
    }

    fn packs(&mut self, backup: &Manifest, list: &PackList, findings: &mut Findings) {
        for pack in &list.0 {
            let found = self.packs.get_mut(&pack.name);
            let size = found.as_ref().map(|(size, _)| *size);
            if let Some((_, named)) = found {
                *named = true;
            }
            let Some(problem) = wrong_size(size, u64::from(pack.bytes)) else { continue };
            let key = ObjectKey::Pack(pack.name.clone());
            findings.loses(&backup.id, &key, &format!("{key} {problem}"));
            let loses =
                format!("backup {} cannot be restored, nor can any other that uses the pack", backup.id);
            findings.problem(key.to_string(), problem, loses, RESTORE_OBJECT);
        }
    }

    /// What no manifest names.
    fn orphans(&self, pass: &Pass<'_>, findings: &mut Findings) {
        let known: BTreeSet<&BackupId> = (pass.catalog.backups.iter().map(|backup| &backup.id))
            .chain(pass.catalog.damaged.iter().map(|damaged| &damaged.id))
            .collect();
        let mut of_backup: BTreeMap<(&str, &BackupId), (u64, u64)> = BTreeMap::new();
        for (name, (size, named)) in &self.packs {
            if !named {
                let (objects, bytes) = of_backup.entry(("packs", &name.backup)).or_default();
                (*objects, *bytes) = (*objects + 1, *bytes + size);
            }
        }
        for (key, size) in &self.tables {
            let (ObjectKey::FileTable(id, _) | ObjectKey::PackList(id)) = key else { continue };
            let beyond = |backup: &&std::sync::Arc<Manifest>| match key {
                ObjectKey::FileTable(id, number) => {
                    backup.id == *id && u32::try_from(backup.parts.len()).is_ok_and(|parts| *number >= parts)
                }
                _ => false,
            };
            if !known.contains(id) || pass.catalog.backups.iter().any(|backup| beyond(&backup)) {
                let (objects, bytes) = of_backup.entry(("tables", id)).or_default();
                (*objects, *bytes) = (*objects + 1, *bytes + size);
            }
        }
        for ((what, id), (objects, bytes)) in of_backup {
            if pass.leases.iter().any(|lease| lease.protects.backups.contains(id)) {
                continue;
            }
            let (why, advice) = if known.contains(id) {
                ("was something copied there?", "`walproof expire` removes it with its backup")
            } else {
                ("left from a backup that was interrupted, or whose manifest was deleted", NEXT_EXPIRE)
            };
            let text = format!("{objects} objects, {bytes} bytes, that no manifest names: {why}");
            findings.remark(format!("{what}/{id}"), text, advice);
        }
    }
}

/// What is wrong with an object of `found` bytes that should have `expected`.
fn wrong_size(found: Option<u64>, expected: u64) -> Option<String> {
    match found {
        None => Some("is missing".to_owned()),
        Some(found) if found != expected => Some(format!("has {found} bytes instead of {expected}")),
        Some(_) => None,
    }
}

/// Holes, conflicts, timelines without a history, and backups whose WAL does not make them consistent.
fn of_wal(pass: &Pass<'_>, findings: &mut Findings) {
    for name in &pass.window.conflicts {
        findings.problem(
            name.to_string(),
            "different contents are stored under this name",
            match name {
                WalName::BackupHistory { .. } => "nothing: recovery does not ask for it",
                _ => "every instant after it until the next backup, unless only one of them is genuine",
            },
            "do two primaries archive to this repository? `walproof verify --content` tells which copies are genuine",
        );
    }
    for (timeline, error) in &pass.window.unreadable {
        let object = only_key(pass.catalog, WalName::History(*timeline));
        let loses = format!("everything on timeline {timeline}");
        findings.damaged(object.unwrap_or_else(|| format!("timeline {timeline}")), error, loses);
    }
    for branch in &pass.window.branches {
        for (segment, error) in &branch.unusable {
            let object = only_key(pass.catalog, WalName::Segment(*segment));
            let tail = || pass.catalog.tail(segment).map(only_piece);
            let loses = "the instants after it, until the next backup".to_owned();
            let object = object.or_else(|| tail().flatten()).unwrap_or_else(|| segment.to_string());
            if branch.parts_at(segment, pass.catalog.segment_size) {
                findings.parted.insert(object.clone());
            } else {
                findings.of_object(&object, error);
            }
            findings.problem(object, error.to_string(), loses, NEW_BACKUP);
        }
        holes(pass, branch, findings);
        for Stranded { backup, lack } in &branch.stranded {
            let restorable = |other: &Branch| other.reaches.iter().any(|reach| reach.backup.id == backup.id);
            if pass.window.branches.iter().any(restorable) {
                continue;
            }
            findings.problem(
                ObjectKey::Manifest(backup.id.clone()).to_string(),
                match lack {
                    Lack::Whole => format!(
                        "WAL from {} to {} is not there as a whole",
                        backup.start_lsn, backup.stop_lsn
                    ),
                    _ => lack.to_string(),
                },
                format!("backup {} cannot be restored", backup.id),
                NEW_BACKUP,
            );
        }
    }
    for backup in pass.catalog.backups.iter().filter(|backup| !backup.page_errors.is_empty()) {
        findings.problem(
            ObjectKey::Manifest(backup.id.clone()).to_string(),
            format!("{} pages were damaged when it was taken", backup.page_errors.len()),
            format!("the rows on those pages, if backup {} is the one to restore", backup.id),
            "mend the table (`walproof backup-show` names the pages), then take a new backup",
        );
    }
}

/// The key of a WAL file of which there is one version: the name alone would be a second one of the same object.
fn only_key(catalog: &Catalog, name: WalName) -> Option<String> {
    let mut versions = catalog.versions(&name);
    let only = versions.next().filter(|_| versions.next().is_none())?;
    Some(ObjectKey::Wal(name, only.digest).to_string())
}

/// The key of a tail that is one piece.
fn only_piece(tail: &Tail) -> Option<String> {
    let [piece] = &tail.pieces[..] else { return None };
    Some(ObjectKey::Tail(piece.name).to_string())
}

/// Holes that cut WAL off which a backup leads to.
fn holes(pass: &Pass<'_>, branch: &Branch, findings: &mut Findings) {
    let window = i64::try_from(pass.promised.as_micros()).unwrap_or(i64::MAX);
    let horizon = PgTime::from_unix_micros(pass.now.as_microsecond().saturating_sub(window));
    for (index, span) in branch.spans.iter().enumerate() {
        let Cut::Missing(segment) = span.cut else { continue };
        let needed = branch.reaches.iter().any(|reach| reach.span == index);
        let next = branch.spans.get(index + 1).map(|next| next.begin);
        let until = next.map_or_else(String::new, |next| format!(" to {next}"));
        let object = segment.to_string();
        let text = format!("is missing, but later segments are there (no WAL from {}{until})", span.end);
        // Of a held backup's WAL only what makes it consistent stays, once it is older than the window.
        let older =
            branch.reaches.iter().any(|reach| reach.span > index && reach.backup.finished_at <= horizon);
        if needed && older {
            let text = format!("{text}; a later backup reaches all of the window");
            findings.remark(object, text, "nothing: it is older than the window");
        } else if needed {
            let since = span.end_time.map_or_else(String::new, |time| format!(" after {time}"));
            let loses = format!("the instants{since}, until the end of the next backup after it");
            findings.problem(object, text, loses, NEW_BACKUP);
        } else {
            findings.remark(object, text, "no backup leads to it; `walproof expire` removes what is older");
        }
    }
}

/// What is left over, and what is not ours.
fn leftovers(pass: &Pass<'_>, findings: &mut Findings) {
    for listed in &pass.listing.objects {
        let minutes = pass.now.duration_since(listed.modified).as_mins();
        match &listed.key {
            ObjectKey::Lease(name) if minutes >= STALE_MINUTES => {
                let text = format!("has not been renewed for {minutes} minutes: its process has died");
                findings.remark(format!("lease {name}"), text, "the next command that takes one removes it");
            }
            ObjectKey::Probe(_) if minutes >= STALE_MINUTES => {
                findings.remark(listed.key.to_string(), "is left from a store test", "delete it");
            }
            ObjectKey::Hold(id) if !pass.catalog.backups.iter().any(|backup| backup.id == *id) => {
                let object = ObjectKey::Manifest(id.clone());
                let problem = "is missing or damaged, and this backup has a hold";
                findings.problem(object.to_string(), problem, format!("backup {id}"), RESTORE_OBJECT);
                findings.loses(id, &object, "its manifest is missing");
            }
            ObjectKey::Tail(piece) if pass.catalog.has(&piece.segment) => {
                findings.remark(listed.key.to_string(), "its segment is archived", NEXT_EXPIRE);
            }
            _ => {}
        }
    }
    let foreign = &pass.listing.foreign;
    for object in foreign.iter().take(MOST_FOREIGN) {
        let text = "is not an object of this version of walproof";
        findings.remark(
            object.key.clone(),
            text,
            "does another program write here? walproof never deletes it",
        );
    }
    if foreign.len() > MOST_FOREIGN {
        let text = format!("{} more foreign objects", foreign.len() - MOST_FOREIGN);
        findings.remark("...", text, "does another program write here?");
    }
}
