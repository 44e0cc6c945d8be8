//! For each backup and each day of the window: whether it can be restored, and why not. By the recovery window, less what
//! was found to be damaged.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::format::BackupId;
use crate::postgres::{Lsn, PgTime};
use crate::window::{Branch, Catalog, Instants, Lack, RecoveryWindow};

const DAY: i64 = 86_400_000_000;

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupState {
    /// Its id.
    pub id: BackupId,
    /// Whether it can be restored.
    pub restorable: bool,
    /// Why not.
    pub why: Option<String>,
}

/// A day (UTC), as much of it as lies in the window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Day {
    /// As 2026-11-24.
    pub day: String,
    /// Whether every instant of it can be restored.
    pub restorable: bool,
    /// What cannot.
    pub why: Option<String>,
}

/// The operator's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restorable {
    /// Every backup, oldest first.
    pub backups: Vec<BackupState>,
    /// Every day of the window, oldest first.
    pub days: Vec<Day>,
}

impl Restorable {
    /// Whether all of it can be restored.
    pub fn is_whole(&self) -> bool {
        self.backups.iter().all(|backup| backup.restorable) && self.days.iter().all(|day| day.restorable)
    }

    /// From the window of `catalog`, without the backups in `lost`.
    pub(super) fn of(
        catalog: &Catalog,
        window: &RecoveryWindow,
        lost: &BTreeMap<BackupId, String>,
        (length, now): (Duration, PgTime),
    ) -> Self {
        let mut backups: Vec<BackupState> =
            catalog.backups.iter().map(|backup| state(&backup.id, window, lost)).collect();
        let unread = lost.iter().filter(|(id, _)| catalog.backups.iter().all(|backup| backup.id != **id));
        backups.extend(unread.map(|(id, why)| BackupState {
            id: id.clone(),
            restorable: false,
            why: Some(why.clone()),
        }));
        backups.sort_by(|a, b| a.id.cmp(&b.id));
        let finished = catalog.backups.iter().map(|backup| (&backup.id, backup.finished_at)).collect();
        let mut promised = Promised { from: oldest(&finished, lost.keys()), until: now, why: None };
        let instants = match window.default_branch() {
            Ok(branch) => {
                let branch = branch.from_those(|backup| !lost.contains_key(&backup.id));
                // Behind the last commit nothing happened, as far as anybody knows.
                if let Some(span) = branch.farthest().filter(|span| span.end >= last_end(&branch)) {
                    promised.until =
                        span.end_time.into_iter().chain(branch.last_commit()).max().unwrap_or(now);
                }
                RecoveryWindow::instants(&branch)
            }
            Err(error) => {
                promised.why = Some(error.to_string());
                Vec::new()
            }
        };
        let micros = i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        promised.from = promised.from.max(PgTime::from_unix_micros(now.unix_micros().saturating_sub(micros)));
        Self { backups, days: days(&instants, &promised) }
    }
}

fn state(id: &BackupId, window: &RecoveryWindow, lost: &BTreeMap<BackupId, String>) -> BackupState {
    let leads = |branch: &Branch| branch.reaches.iter().any(|reach| reach.backup.id == *id);
    let why = match lost.get(id) {
        Some(why) => Some(why.clone()),
        None if window.branches.iter().any(leads) => None,
        None => {
            let lacks = |branch: &Branch| Some((branch.lack_of(id)?, branch.unusable.first().cloned()));
            Some(match window.branches.iter().find_map(lacks) {
                Some((lack, _)) if lack != Lack::Whole => lack.to_string(),
                Some((_, Some((segment, error)))) => format!("its WAL cannot be read: {segment}: {error}"),
                _ => "WAL that makes it consistent is missing".to_owned(),
            })
        }
    };
    BackupState { id: id.clone(), restorable: why.is_none(), why }
}

/// What should be restorable.
struct Promised {
    from: PgTime,
    until: PgTime,
    /// Why nothing is.
    why: Option<String>,
}

/// Before the oldest backup, damaged or not, there was nothing to restore. `finished` says when those were that can be read.
fn oldest<'a>(finished: &BTreeMap<&BackupId, PgTime>, lost: impl Iterator<Item = &'a BackupId>) -> PgTime {
    // Ids are in the order in which backups began; as a time an id tells the second only, and another backup may have been
    // finished within it.
    let first = finished.keys().next();
    let older = lost.filter(|id| first.is_none_or(|first| id < first));
    let began = older.filter_map(|id| id.began().map(PgTime::from));
    finished.values().copied().chain(began).min().unwrap_or(PgTime::from_unix_micros(i64::MIN))
}

/// The end of the WAL that is stored, reachable or not: a segment that cannot be used counts.
fn last_end(branch: &Branch) -> Lsn {
    let cut = branch.spans.last().is_some_and(|span| span.cut.is_fault());
    if cut {
        return Lsn::new(u64::MAX);
    }
    branch.spans.iter().map(|span| span.end).max().unwrap_or_default()
}

fn days(instants: &[Instants], promised: &Promised) -> Vec<Day> {
    let end = promised.until.unix_micros();
    let mut days = Vec::new();
    let mut from = promised.from.unix_micros();
    while from <= end {
        let next = (from.div_euclid(DAY) + 1) * DAY;
        let until = (next - 1).min(end);
        let why = promised.why.clone().or_else(|| hole(instants, from, until));
        days.push(Day { day: date(from), restorable: why.is_none(), why });
        from = next;
    }
    days
}

/// What of `from` to `until`, both included, no instants cover.
fn hole(instants: &[Instants], from: i64, until: i64) -> Option<String> {
    let mut at = from;
    for instants in instants {
        let (start, end) = (instants.start.unix_micros(), instants.end.unix_micros());
        if start > at && at <= until {
            let to = PgTime::from_unix_micros(start.min(until));
            return Some(format!(
                "nothing between {} and {to} can be restored",
                PgTime::from_unix_micros(at)
            ));
        }
        at = at.max(end);
    }
    (at < until).then(|| format!("nothing after {} can be restored", PgTime::from_unix_micros(at)))
}

fn date(micros: i64) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC).date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unread_backup_that_is_not_the_oldest_promises_nothing_before_it() {
        let id = |text: &str| text.parse::<BackupId>().unwrap();
        let time = |text: &str| PgTime::from(text.parse::<Timestamp>().unwrap());
        let (before, sound, after) = (
            id("20261129T192543Z-ffff0000"),
            id("20261129T192544Z-01000000"),
            id("20261129T192544Z-08000000"),
        );
        let finished = time("2026-11-29T19:25:44.029432Z");
        let known = BTreeMap::from([(&sound, finished)]);
        assert_eq!(oldest(&known, [].into_iter()), finished);
        assert_eq!(oldest(&known, [&sound].into_iter()), finished);
        // That it began in the same second is all that its id tells in a time.
        assert_eq!(oldest(&known, [&after].into_iter()), finished);
        assert_eq!(oldest(&known, [&before, &after].into_iter()), time("2026-11-29T19:25:43Z"));
    }
}
