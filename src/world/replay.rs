//! For tests: what PostgreSQL makes of a generated repository, reading the stored objects one by one as recovery does.
//! Nothing here knows the window.

use super::generator::{Commit, SIZE, World, name};
use crate::format::Manifest;
use crate::postgres::{History, Lsn, SegmentName};
use crate::wal::{Lead, Links};

impl World {
    /// What a recovery from `backup` along `history` replays: the commits, in order, and where it ends; `None` if the backup
    /// does not become consistent. `known`: whether the damage of a segment is known; what is not reads as if it were whole.
    pub(crate) fn recover(
        &self,
        backup: &Manifest,
        history: &History,
        known: &dyn Fn(SegmentName) -> bool,
    ) -> Option<(Vec<Commit>, u64)> {
        let lineage = history.lineage();
        let own = lineage.iter().find(|stretch| stretch.timeline == backup.timeline)?;
        if own.end.is_some_and(|end| backup.stop_lsn > end) {
            return None;
        }
        let mut replayed: Vec<Commit> = Vec::new();
        let mut end = backup.start_lsn.get();
        let mut lead = Lead::default();
        for number in backup.start_lsn.get() / u64::from(SIZE).. {
            let (from, to) = (number * u64::from(SIZE), (number + 1) * u64::from(SIZE));
            // The newest timeline that has begun in this segment and whose file is there.
            let begun = lineage.iter().rev().filter(|stretch| stretch.begin.get() < to);
            let mut candidates = begun.filter(|stretch| stretch.end.is_none_or(|end| end.get() > from));
            let Some(stretch) = candidates.find(|stretch| {
                let key = (stretch.timeline.get(), number);
                self.segments.contains_key(&key) || self.tails.contains_key(&key)
            }) else {
                break;
            };
            let key = (stretch.timeline.get(), number);
            let links = self.stored_links(key);
            if lead.breaks_at(links, Lsn::new(from)).is_some() {
                break;
            }
            lead = lead.through(links);
            // The project refuses a backup over whose WAL another life archived.
            let own = backup.wal.iter().find(|wal| wal.segment == name(key.0, number));
            let stored = || self.segments.get(&key).and_then(|stored| stored.digests().next());
            if own.is_some_and(|own| stored().is_none_or(|stored| stored.content() != own.digest)) {
                return None;
            }
            // Nor does PostgreSQL find the checkpoint in a newer timeline's file of another life.
            let older = (backup.timeline.get(), number);
            let own = backup.wal.iter().find(|wal| wal.segment == name(older.0, number) && key != older);
            let stored = own.and_then(|own| Some((own, self.segments.get(&older)?.digests().next()?)));
            let left = lineage.iter().find(|stretch| stretch.timeline == backup.timeline)?.end;
            if let (Some((own, stored)), Some(left)) = (stored, left)
                && (stored.content() != own.digest || !self.repeats(older, key, left.get()))
            {
                return None;
            }
            let switch = stretch.end.map_or(u64::MAX, Lsn::get);
            let until = match self.segments.get(&key) {
                Some(stored) if stored.versions.len() > 1 => break,
                Some(stored) if stored.damaged && known(name(key.0, number)) => break,
                Some(_) => to,
                None => from + u64::from(self.tails[&key].len),
            };
            let until = until.min(switch);
            replayed.extend(self.content(key.0, number).into_iter().filter(|(lsn, _)| *lsn <= until));
            end = until;
            if until < to {
                break;
            }
        }
        (end >= backup.stop_lsn.get()).then_some((replayed, end))
    }

    /// How the file of a segment is linked to its neighbours: a commit stands for all that lies between it and the next.
    pub(crate) fn links(&self, (of, number): (u32, u64)) -> Links {
        let (from, to) = (number * u64::from(SIZE), (number + 1) * u64::from(SIZE));
        let lineage = self.history(of).lineage();
        let begun = |at: u64| lineage.iter().rev().find(|stretch| stretch.begin.get() <= at);
        let page = |at: u64| begun(at).map_or(0, |stretch| stretch.timeline.get());
        let own = self.file(of, number);
        let last = own.last().map(|(lsn, _)| Lsn::new(*lsn));
        let first = self.record_before(of, number).filter(|_| last.is_some());
        Links::new(first, Some(last), (page(from), page(to - 1)))
    }

    /// The last record before a segment, if one lies in the ten before it.
    pub(crate) fn record_before(&self, of: u32, number: u64) -> Option<Lsn> {
        let mut before = (0..number).rev().take(10).filter_map(|number| self.file(of, number).pop());
        before.next().map(|(lsn, _)| Lsn::new(lsn))
    }

    /// What is stored of it says so.
    pub(crate) fn stored_links(&self, key: (u32, u64)) -> Links {
        let archived = self.segments.get(&key).map(|stored| stored.links);
        archived.or_else(|| self.tails.get(&key).map(|tail| tail.links)).unwrap_or_default()
    }

    /// Whether what is stored of a newer timeline's segment holds what the older one's does, up to a position.
    pub(crate) fn repeats(&self, older: (u32, u64), newer: (u32, u64), until: u64) -> bool {
        let until = match self.tails.get(&newer) {
            Some(tail) if !self.segments.contains_key(&newer) => {
                until.min(newer.1 * u64::from(SIZE) + u64::from(tail.len))
            }
            _ => until,
        };
        let upto = |key: (u32, u64)| {
            self.content(key.0, key.1).into_iter().filter(|(lsn, _)| *lsn <= until).collect::<Vec<_>>()
        };
        upto(older) == upto(newer)
    }

    /// The commits in what is stored of a segment.
    pub(crate) fn content(&self, of: u32, number: u64) -> Vec<Commit> {
        match (self.segments.get(&(of, number)), self.tails.get(&(of, number))) {
            (Some(stored), _) => stored.commits.clone(),
            (None, Some(tail)) => tail.commits.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// The commits that the file of a timeline's segment holds now: its own, and up to where it began those of its parent.
    pub(crate) fn file(&self, of: u32, number: u64) -> Vec<Commit> {
        let lineage = self.history(of).lineage();
        let (from, to) = (number * u64::from(SIZE), (number + 1) * u64::from(SIZE));
        let mut found = Vec::new();
        for stretch in lineage {
            let end = stretch.end.map_or(u64::MAX, Lsn::get);
            let own = self.commits.get(&stretch.timeline.get()).map(Vec::as_slice).unwrap_or_default();
            let inside = |lsn: u64| lsn > from && lsn <= to && lsn > stretch.begin.get() && lsn <= end;
            found.extend(own.iter().filter(|(lsn, _)| inside(*lsn)));
        }
        found
    }
}
