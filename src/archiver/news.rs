//! What has changed in the repository since it was listed. Listing begins below what may still arrive, and not behind what
//! came last: segments are stored out of order (R8).

use std::collections::BTreeMap;

use crate::error::Result;
use crate::format::{IDENTITY, ObjectKey, layout};
use crate::postgres::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Listed, Listing, Repository, WalFile};

fn segment(listed: &Listed) -> Option<SegmentName> {
    match listed.key {
        ObjectKey::Wal(WalName::Segment(segment), _) => Some(segment),
        _ => None,
    }
}

/// What every key of a WAL file begins with: it sorts before them.
fn before(name: &WalName) -> String {
    format!("{}/{name}", layout::wal_directory(name))
}

/// Since where on the segments of a timeline are listed again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    /// Everything before this one is stored.
    pub(super) open: Option<SegmentName>,
    /// So many before the newest one, too: they were on their way together.
    pub(super) margin: u64,
    pub(super) size: SegmentSize,
}

impl Since {
    /// The key behind which to list, where `newest` is the newest segment of its timeline that is known.
    fn key(self, newest: SegmentName) -> String {
        let open = self.open.filter(|open| open.timeline == newest.timeline).unwrap_or(newest);
        let first = newest.min(open).number(self.size).saturating_sub(self.margin);
        before(&WalName::Segment(SegmentName::from_number(newest.timeline, first, self.size)))
    }
}

/// `known` with what has changed from there on: WAL of `timeline`, which the server writes, and of higher ones, and
/// everything that is watched. One request while fewer than a thousand objects are new or watched, and one for each older
/// timeline: a server that was replaced may live on.
///
/// False: the newest segment that was known of a timeline is no longer there. The store went back, or somebody deletes:
/// everything has to be listed.
pub(super) async fn list_news(
    repository: &Repository,
    known: &mut Listing,
    timeline: TimelineId,
    since: Since,
) -> Result<bool> {
    let segments = known.objects.iter().filter_map(segment);
    let newest: BTreeMap<TimelineId, SegmentName> = segments.map(|found| (found.timeline, found)).collect();
    for (older, newest) in newest.range(..timeline) {
        let after = since.key(*newest);
        let news = repository.list_of_timeline(*older, &after).await?;
        let is_replaced = |listed: &Listed| listed.key.wal_timeline() == Some(*older);
        replace(known, &after, news, is_replaced);
    }
    let last = newest.range(..=timeline).next_back();
    let after = last.map_or_else(|| IDENTITY.to_owned(), |(_, newest)| since.key(*newest));
    let news = repository.list_behind(&after).await?;
    replace(known, &after, news.objects, |_| true);
    known.foreign.retain(|object| !news.foreign.contains(object));
    known.foreign.extend(news.foreign);
    let mut watched = newest.range(..=timeline).map(|(_, newest)| WalName::Segment(*newest));
    Ok(watched.all(|name| has(known, &name)))
}

/// Put `news` in the place of what `is_replaced` behind the key `after`: all that is there of a timeline, or of everything,
/// which nothing else sorts in between.
fn replace(known: &mut Listing, after: &str, news: Vec<Listed>, is_replaced: impl Fn(&Listed) -> bool) {
    let at = known.objects.partition_point(|listed| listed.key.to_string().as_str() <= after);
    let (replaced, kept): (Vec<_>, Vec<_>) = known.objects.drain(at..).partition(is_replaced);
    drop(replaced);
    known.objects.extend(news);
    known.objects.extend(kept);
}

/// Whether a WAL file is listed, in any version.
fn has(listing: &Listing, name: &WalName) -> bool {
    let before = before(name);
    let at = listing.objects.partition_point(|listed| listed.key.to_string() < before);
    listing.objects.get(at).and_then(Listed::wal_file).is_some_and(|file| file.name == *name)
}

/// Whether all of `files` are listed.
pub(super) fn has_all(listing: &Listing, files: &[WalFile]) -> bool {
    files.iter().all(|file| has(listing, &file.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::fixture::{archive, archive_bytes, archive_text, memory, size, wal};

    const MARGIN: u64 = 2;

    fn named(timeline: u32, number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, size())
    }

    /// A repository with these segments, and its listing.
    async fn listed(segments: &[(u32, u64)]) -> (Repository, Listing) {
        let (_, repository) = memory().await;
        for (timeline, number) in segments {
            archive(&repository, &named(*timeline, *number), 1).await;
        }
        let known = repository.list().await.unwrap();
        (repository, known)
    }

    async fn remove(repository: &Repository, timeline: u32, number: u64) {
        let name = named(timeline, number).to_string();
        let objects = repository.store().list("").await.unwrap();
        for object in objects.iter().filter(|object| object.key.contains(&name)) {
            repository.store().delete(&object.key).await.unwrap();
        }
    }

    /// Look at what is new, from the first segment on that is `open`, and at everything if that does not do: whether it
    /// did, and that what is known now is what is there.
    async fn look(
        repository: &Repository,
        mut known: Listing,
        timeline: u32,
        open: Option<SegmentName>,
    ) -> bool {
        let timeline = TimelineId::new(timeline).unwrap();
        let since = Since { open, margin: MARGIN, size: size() };
        let does = list_news(repository, &mut known, timeline, since).await.unwrap();
        let whole = repository.list().await.unwrap();
        if does {
            assert_eq!(known.objects, whole.objects);
        }
        does
    }

    #[tokio::test]
    async fn news_are_those_of_a_timeline_that_was_left_too() {
        let (repository, known) = listed(&[(1, 1), (1, 2), (2, 2), (2, 3)]).await;
        // One of them lies in another directory of keys.
        for (timeline, number) in [(1, 3), (1, 4096), (2, 4)] {
            archive(&repository, &named(timeline, number), 1).await;
        }
        assert!(look(&repository, known, 2, None).await);
    }

    #[tokio::test]
    async fn r34_what_a_backup_leaves_between_two_segments_of_a_timeline_that_was_left_keeps_its_place() {
        let segments: Vec<(u32, u64)> = (1..30).map(|n| (1, n)).chain((29..40).map(|n| (2, n))).collect();
        for number in 1..30 {
            let (repository, _) = listed(&segments).await;
            let name = WalName::BackupHistory { segment: named(1, number), offset: 0x28 };
            archive_text(&repository, name, b"START WAL LOCATION: x\n").await;
            let known = repository.list().await.unwrap();
            archive(&repository, &named(2, 40), 1).await;
            assert!(look(&repository, known, 2, None).await, "{number}");
        }
    }

    #[tokio::test]
    async fn r8_what_arrives_behind_what_was_listed_is_seen() {
        // On its way while the ones after it were listed; and what closes a hole.
        let segments = [(1, 1), (1, 2), (1, 3), (1, 5), (1, 6), (1, 20), (2, 20), (2, 21), (2, 23)];
        for (timeline, number, open) in
            [(2, 22, None), (2, 22, Some(named(2, 22))), (1, 19, None), (1, 4, Some(named(1, 4)))]
        {
            let (repository, known) = listed(&segments).await;
            archive(&repository, &named(timeline, number), 1).await;
            assert!(look(&repository, known, 2, open).await, "{number} of timeline {timeline}");
        }
    }

    #[tokio::test]
    async fn r28_what_a_store_that_went_back_has_lost_is_missed() {
        let segments: Vec<(u32, u64)> = (1..20).map(|number| (1, number)).collect();
        let (repository, known) = listed(&segments).await;
        remove(&repository, 1, 18).await;
        assert!(look(&repository, known, 1, None).await, "one of the newest, and not the newest");
        for gone in [1, 4, 10] {
            let (repository, known) = listed(&segments).await;
            for number in 20 - gone..20 {
                remove(&repository, 1, number).await;
            }
            // The server goes on.
            archive(&repository, &named(1, 20), 1).await;
            assert!(!look(&repository, known, 1, None).await, "everything has to be listed");
        }
    }

    #[tokio::test]
    async fn r2_a_second_content_is_seen_wherever_its_name_sorts() {
        for byte in 0..8 {
            let (repository, known) = listed(&[(1, 1), (1, 2), (1, 3)]).await;
            let mut other = wal(&named(1, 3), 1);
            other.resize(usize::try_from(size().bytes()).unwrap(), 0);
            // In zeros behind the end of the WAL.
            let last = other.len() - 1;
            other[last] = byte + 1;
            archive_bytes(&repository, &named(1, 3), &other).await;
            assert!(look(&repository, known, 1, None).await);
        }
    }
}
