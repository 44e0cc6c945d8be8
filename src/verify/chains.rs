//! Chains of objects whose names show that one of them is gone: reports of drills, and tails.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{Findings, RESTORE_OBJECT};
use crate::format::ObjectKey;
use crate::postgres::SegmentName;
use crate::repository::Listing;
use crate::window::Catalog;

/// Reports are numbered without a gap; retention removes them from the first one on. The head names the newest.
pub(super) fn reports(listing: &Listing, findings: &mut Findings) {
    let advice = "`walproof drill-list` shows which evidence still holds; was it deleted by hand?";
    let loses = "the evidence of a drill";
    let number = |key: &ObjectKey| match key {
        ObjectKey::Report(number, _) => Some(*number),
        _ => None,
    };
    let numbers: BTreeSet<u32> = listing.objects.iter().filter_map(|listed| number(&listed.key)).collect();
    for (before, after) in numbers.iter().zip(numbers.iter().skip(1)) {
        for missing in before + 1..*after {
            let text = format!("is missing, but reports {before} and {after} are there");
            findings.problem(ObjectKey::report_named(missing), text, loses, advice);
        }
    }
    if !numbers.is_empty() && listing.get(&ObjectKey::ReportHead).is_none() {
        let text = "is missing: whether a newer report was removed cannot be told";
        findings.problem(ObjectKey::ReportHead.to_string(), text, loses, advice);
    }
}

/// A tail is served up to the first byte that is missing. What lies behind it was there as a whole once.
pub(super) fn tails(catalog: &Catalog, listing: &Listing, findings: &mut Findings) {
    // Where the first piece behind the hole begins.
    let mut behind: BTreeMap<SegmentName, (u32, u32)> = BTreeMap::new();
    for listed in &listing.objects {
        let ObjectKey::Tail(piece) = &listed.key else { continue };
        let Some(tail) = catalog.tail(&piece.segment) else { continue };
        // A generation that begins anew is put from behind, and is not the one that counts until it is whole.
        if piece.generation == tail.generation && piece.start > tail.len {
            let (_, next) = behind.entry(piece.segment).or_insert((tail.len, piece.start));
            *next = piece.start.min(*next);
        }
    }
    for (segment, (len, next)) in behind {
        let text = format!("bytes {len} to {next} are missing, but later ones are there");
        let object = ObjectKey::tail_of(&segment);
        findings.problem(object, text, "the newest commits, if the host is lost now", RESTORE_OBJECT);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Wanted, verify};
    use crate::postgres::{SegmentName, TimelineId};
    use crate::repository::{
        fixture::PAGE, fixture::archive, fixture::memory, fixture::put_piece, fixture::size, fixture::wal,
    };

    fn segment(number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::FIRST, number, size())
    }

    /// A piece in the middle of a tail is gone: what lies behind it is not served, and nothing else would say so.
    #[tokio::test]
    async fn a_tail_with_a_hole_is_named_and_one_that_begins_anew_is_not() {
        let (_, repository) = memory().await;
        let name = segment(3);
        archive(&repository, &segment(2), 128).await;
        let bytes = wal(&name, 9);
        put_piece(&repository, &name, 0, 0, &bytes[..2 * PAGE]).await;
        let middle = put_piece(&repository, &name, 0, 2 * PAGE, &bytes[2 * PAGE..4 * PAGE]).await;
        put_piece(&repository, &name, 0, 4 * PAGE, &bytes[4 * PAGE..]).await;
        put_piece(&repository, &name, 1, 4 * PAGE, &bytes[4 * PAGE..]).await;
        let wanted = |content| Wanted {
            window: Duration::from_hours(24),
            content,
            max_rate: 0,
            max_bytes: 0,
            again: false,
        };
        assert_eq!(verify(&repository, wanted(true)).await.unwrap().findings.problems, []);
        repository.delete_tail_piece(&middle).await.unwrap();
        for content in [false, true] {
            let found = verify(&repository, wanted(content)).await.unwrap().findings.problems;
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(found[0].object, format!("watch/tail/{name}"));
            assert_eq!(found[0].problem, "bytes 16384 to 32768 are missing, but later ones are there");
        }
    }
}
