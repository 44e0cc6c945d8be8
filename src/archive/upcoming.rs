//! Which segments recovery will ask for next, as the repository stands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fetch::read_history;
use crate::error::{Error, Kind, Result};
use crate::postgres::{History, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Repository, WalFile};

/// For this long, a listing is as good as the repository.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// What is known of the repository.
#[derive(Debug, Default)]
pub(super) struct Upcoming {
    listed: BTreeMap<String, Listed>,
    /// The timeline that recovery is taken to follow, and when that was found out.
    history: Option<(Instant, History)>,
}

#[derive(Debug)]
struct Listed {
    at: Instant,
    files: Vec<WalFile>,
}

impl Upcoming {
    /// The archived segments that follow `at`, at most `count`, up to the first gap or conflict. What recovery `follows` is
    /// known, or taken to be the newest timeline, as PostgreSQL takes it. Kind `Corrupt` where
    /// nothing that was opened from this repository counts any more.
    pub(super) async fn after(
        &mut self,
        repository: &Repository,
        at: SegmentName,
        follows: Option<TimelineId>,
        count: usize,
    ) -> Result<Vec<WalFile>> {
        let size = repository.identity().segment_size()?;
        let history = self.history(repository, at, follows).await?;
        let mut next = Vec::new();
        while next.len() < count {
            let number = at.number(size) + 1 + next.len() as u64;
            let Some(file) = self.first_of(repository, &candidates(&history, at, number, size)).await? else {
                break;
            };
            next.push(file);
        }
        Ok(next)
    }

    /// Of these segments the first that is archived; `None` also where it is in conflict.
    async fn first_of(
        &mut self,
        repository: &Repository,
        candidates: &[SegmentName],
    ) -> Result<Option<WalFile>> {
        for segment in candidates {
            let wanted = WalName::Segment(*segment);
            let files = self.beside(repository, segment).await?;
            let mut versions = files.iter().filter(|file| file.name == wanted);
            match (versions.next(), versions.next()) {
                (None, _) => {}
                (Some(file), None) => return Ok(Some(file.clone())),
                (Some(_), Some(_)) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The WAL files in the directory of `segment`.
    async fn beside(&mut self, repository: &Repository, segment: &SegmentName) -> Result<&[WalFile]> {
        let directory = segment.directory();
        let fresh = self.listed.get(&directory).is_some_and(|listed| listed.at.elapsed() < FRESH);
        if !fresh {
            // A new repository under the same name has nothing to do with what lies ready.
            check_still_there(repository).await?;
            let at = Instant::now();
            let files = repository.list_wal_beside(&WalName::Segment(*segment)).await?;
            self.listed.retain(|_, listed| listed.at.elapsed() < FRESH);
            self.listed.insert(directory.clone(), Listed { at, files });
        }
        Ok(self.listed.get(&directory).map_or(&[], |listed| listed.files.as_slice()))
    }

    /// Forget what was listed: recovery asked for a segment that was not in it.
    pub(super) fn look_again(&mut self) {
        self.listed.clear();
    }

    async fn history(
        &mut self,
        repository: &Repository,
        at: SegmentName,
        follows: Option<TimelineId>,
    ) -> Result<History> {
        let newest = match (&self.history, follows) {
            (Some((_, history)), Some(follows)) if history.timeline == follows => Some(history),
            (Some((found, history)), None) if found.elapsed() < FRESH => Some(history),
            _ => None,
        };
        let history = if let Some(history) = newest {
            history.clone()
        } else {
            let found = Instant::now();
            let history = newest_history(repository, at.timeline, follows).await?;
            self.history.insert((found, history)).1.clone()
        };
        // Recovery that is beyond the switch on the old timeline does not follow the new one.
        let size = repository.identity().segment_size()?;
        let on_it = history
            .stretch(at.timeline)
            .is_some_and(|stretch| stretch.end.is_none_or(|end| at.start(size) < end));
        Ok(if on_it { history } else { History::root(at.timeline) })
    }
}

/// Kind `Corrupt` where the repository is gone, or another one is in its place.
async fn check_still_there(repository: &Repository) -> Result<()> {
    match repository.namespace().open(repository.identity().system_identifier).await {
        Ok(now) if now.identity() == repository.identity() => Ok(()),
        Ok(_) => Err(Error::corrupt("another repository is there now")),
        Err(error) if error.kind() == Kind::NotFound => Err(error.as_kind(Kind::Corrupt)),
        Err(error) => Err(error),
    }
}

/// The history of the timeline that is followed, else of the newest, found as PostgreSQL finds it: one after the other until
/// one is missing.
async fn newest_history(
    repository: &Repository,
    from: TimelineId,
    follows: Option<TimelineId>,
) -> Result<History> {
    if let Some(follows) = follows {
        return history_of(repository, follows)
            .await
            .map(|history| history.unwrap_or(History::root(follows)));
    }
    let mut newest = history_of(repository, from).await?.unwrap_or(History::root(from));
    while let Ok(next) = TimelineId::new(newest.timeline.get().saturating_add(1)) {
        match history_of(repository, next).await? {
            Some(history) if history.timeline > newest.timeline => newest = history,
            _ => break,
        }
    }
    Ok(newest)
}

async fn history_of(repository: &Repository, timeline: TimelineId) -> Result<Option<History>> {
    if timeline == TimelineId::FIRST {
        return Ok(None);
    }
    match read_history(repository, timeline).await {
        Ok(history) => Ok(Some(history)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err::<_, Error>(error),
    }
}

/// The names under which recovery looks for segment `number`, in its order: the newest timeline that has begun by then
/// first, none that is older than where recovery is (XLogFileReadAnyTLI). One that is left within the segment is not among
/// them: only a part of it is served, if the newer timeline's is not there.
fn candidates(history: &History, at: SegmentName, number: u64, size: SegmentSize) -> Vec<SegmentName> {
    let begun = history.lineage().into_iter().rev().filter(|stretch| {
        stretch.timeline >= at.timeline
            && stretch.begin.get() / size.bytes() <= number
            && stretch.end.is_none_or(|end| end.get() / size.bytes() > number)
    });
    begun.map(|stretch| SegmentName::from_number(stretch.timeline, number, size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(history: &History, at: &str, number: u64) -> Vec<String> {
        let size = SegmentSize::new(1 << 20).unwrap();
        candidates(history, at.parse().unwrap(), number, size).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn candidates_are_what_recovery_asks_for() {
        let history = History::parse(TimelineId::new(3).unwrap(), b"1\t0/500100\n2\t0/700000\n").unwrap();
        let at = "000000010000000000000003";
        assert_eq!(names(&history, at, 4), ["000000010000000000000004"]);
        assert_eq!(names(&history, at, 5), ["000000020000000000000005"]);
        assert_eq!(names(&history, "000000020000000000000006", 7), ["000000030000000000000007"]);
        assert_eq!(names(&History::root(TimelineId::FIRST), at, 4), ["000000010000000000000004"]);
    }
}
