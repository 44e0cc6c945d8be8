//! Tails that grow, begin anew, are archived and are damaged, and how far recovery reaches with them.

use super::*;
use crate::error::Kind;
use crate::postgres::TimelineId;
use crate::repository::fixture::{PAGE, SIZE, archive, memory, put_piece, size, wal};

fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, number, size())
}

fn whole(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(SIZE as usize, 0);
    bytes
}

async fn tail_of(repository: &Repository, name: &SegmentName) -> (u32, Vec<u8>) {
    match repository.read_unfinished(name).await.unwrap() {
        Some(Unfinished::Tail(tail, bytes)) => (tail.generation.count, bytes),
        other => panic!("no tail: {other:?}"),
    }
}

#[tokio::test]
async fn a_tail_is_read_whole_while_it_grows_and_begins_anew() {
    let ((_, repository), name) = (memory().await, segment(3));
    assert!(repository.read_unfinished(&name).await.unwrap().is_none());
    let bytes = wal(&name, 9);
    let first = put_piece(&repository, &name, 0, 0, &bytes[..5000]).await;
    put_piece(&repository, &name, 0, 0, &bytes[..4 * PAGE]).await;
    repository.delete_tail_piece(&first).await.unwrap();
    put_piece(&repository, &name, 0, 4 * PAGE, &bytes[4 * PAGE..6 * PAGE + 700]).await;
    assert_eq!(tail_of(&repository, &name).await, (0, whole(bytes[..6 * PAGE + 700].to_vec())));
    // A generation that has not begun at the start yet does not count.
    put_piece(&repository, &name, 1, PAGE, &bytes[PAGE..8 * PAGE]).await;
    assert_eq!(tail_of(&repository, &name).await.0, 0);
    put_piece(&repository, &name, 1, 0, &bytes[..PAGE]).await;
    assert_eq!(tail_of(&repository, &name).await, (1, whole(bytes[..8 * PAGE].to_vec())));
}

#[tokio::test]
async fn r6_a_segment_archived_between_two_listings_is_found() {
    let ((_, repository), name) = (memory().await, segment(3));
    // What a reader meets that listed the WAL before the segment was put, and the tail after it went.
    let bytes = archive(&repository, &name, 128).await;
    let found = repository.read_unfinished(&name).await.unwrap();
    assert!(matches!(found, Some(Unfinished::Archived(found)) if found == bytes));
    archive(&repository, &name, 100).await;
    assert_eq!(repository.read_unfinished(&name).await.unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn r7_what_is_no_tail_of_the_segment_is_refused() {
    let name = segment(3);
    let fill = |bytes: &[u8]| fill_segment(&name, bytes.to_vec(), size(), super::super::fixture::SYSTEM);
    let good = wal(&name, 5);
    assert_eq!(fill(&good[..3 * PAGE + 500]).unwrap(), whole(good[..3 * PAGE + 500].to_vec()));
    // A page cut within its header is as good as none.
    assert_eq!(fill(&good[..3 * PAGE + 10]).unwrap(), whole(good[..3 * PAGE].to_vec()));
    assert_eq!(fill(&whole(good.clone())).unwrap(), whole(good.clone()));
    let mut stale = good.clone();
    stale[2 * PAGE + 9] ^= 1;
    for (what, bytes, kind) in [
        ("of another segment", wal(&segment(4), 5), Kind::Corrupt),
        ("stale", stale, Kind::Corrupt),
        ("too long", whole(good).into_iter().chain([0; PAGE]).collect(), Kind::Corrupt),
        ("empty", Vec::new(), Kind::Corrupt),
    ] {
        let error = fill(&bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(&name.to_string()), "{what}: {error}");
    }
    let foreign = fill_segment(&name, wal(&name, 5), size(), 42).unwrap_err();
    assert_eq!(foreign.kind(), Kind::Server, "{foreign}");
}
