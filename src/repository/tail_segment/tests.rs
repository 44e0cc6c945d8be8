//! Tails that grow, begin anew, are archived and are damaged, and how far recovery reaches with them.

use super::*;
use crate::error::Kind;
use crate::postgres::{History, PgTime, TimelineId};
use crate::repository::fixture::{PAGE, SIZE, archive, memory, number, put_piece, size, wal};
use crate::repository::{Catalog, Manifest, TailGeneration, TailPieceName};

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

/// A backup that began with segment `first` and stopped within it.
fn backup(first: u64) -> Manifest {
    let start = segment(first).start(size()).get();
    let text = include_str!("../FORMAT.md");
    let json = text.split("```json manifest\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
    manifest.start_lsn = Lsn::new(start + 40);
    manifest.stop_lsn = Lsn::new(start + 400);
    manifest
}

fn time(number: u32) -> PgTime {
    PgTime::from_postgres_micros(i64::from(number) * 1_000_000)
}

#[tokio::test]
async fn the_window_reaches_into_the_tail() {
    let (_, repository) = memory().await;
    archive(&repository, &segment(3), 128).await;
    let (four, five) = (segment(4), segment(5));
    put_piece(&repository, &four, 0, 0, &wal(&four, 7)[..6 * PAGE + 100]).await;
    let history = History::root(TimelineId::FIRST);
    let reach = |catalog: Catalog| {
        let (repository, history) = (repository.clone(), history.clone());
        async move { catalog.reach(&repository, &backup(3), &history).await.unwrap().unwrap() }
    };
    let catalog = Catalog::read(&repository).await.unwrap();
    let start = four.start(size()).get();
    let found = reach(catalog.clone()).await;
    assert_eq!((found.path.segments.len(), &found.path.tails), (1, &vec![four]));
    assert_eq!(found.path.tail_end(), Some(Lsn::new(start + 6 * 8192 + 100)));
    // The last commit is there, what fills its page is cut off.
    assert_eq!(found.end, Lsn::new(start + 6 * 8192 + 24 + 40));
    assert_eq!((found.end_time, found.damage), (Some(time(number(&four, 6))), None));
    let (tail, end) = catalog.newest_tail().unwrap();
    assert_eq!((tail.segment, end), (four, Lsn::new(start + 6 * 8192 + 100)));
    let located = catalog.locate_xid(&repository, &found.path, number(&four, 5)).await.unwrap();
    assert_eq!(located.unwrap().0, Lsn::new(start + 5 * 8192 + 24 + 40));

    // Cut within the commit: it is not there, whatever its first bytes promise.
    let cut = wal(&four, 8)[6 * PAGE + 100..7 * PAGE + 24 + 39].to_vec();
    put_piece(&repository, &four, 0, 6 * PAGE + 100, &cut).await;
    let found = reach(Catalog::read(&repository).await.unwrap()).await;
    assert_eq!(found.path.tail_end(), Some(Lsn::new(start + 7 * 8192 + 24 + 39)));
    assert_eq!(found.end, Lsn::new(start + 7 * 8192));
    assert_eq!(found.end_time, Some(time(number(&four, 6))));

    // A tail that is whole goes on in the next one.
    let bytes = wal(&four, 128);
    put_piece(&repository, &four, 0, 0, &bytes).await;
    put_piece(&repository, &five, 0, 0, &wal(&five, 2)).await;
    let catalog = Catalog::read(&repository).await.unwrap();
    let found = reach(catalog.clone()).await;
    assert_eq!(found.path.tails, [four, five]);
    assert_eq!(found.path.tail_end(), Some(Lsn::new(five.start(size()).get() + 2 * 8192)));
    assert_eq!(catalog.newest_tail().unwrap().0.segment, five);

    // An archived segment's tail is garbage, whatever it says.
    archive(&repository, &four, 128).await;
    let found = reach(Catalog::read(&repository).await.unwrap()).await;
    assert_eq!((found.path.segments.len(), &found.path.tails), (2, &vec![five]));
    // The listing is older than the reading: the tail's segment is archived and the tail gone.
    let catalog = Catalog::read(&repository).await.unwrap();
    archive(&repository, &five, 10).await;
    for piece in repository.list_tail_pieces(Some(&five)).await.unwrap() {
        repository.delete_tail_piece(&piece.name).await.unwrap();
    }
    let found = reach(catalog).await;
    assert_eq!((found.end_time, found.damage), (Some(time(number(&five, 9))), None));
}

#[tokio::test]
async fn a_damaged_tail_is_a_damaged_newest_segment() {
    let (_, repository) = memory().await;
    archive(&repository, &segment(3), 128).await;
    let four = segment(4);
    put_piece(&repository, &four, 0, 0, &wal(&segment(5), 3)).await;
    let catalog = Catalog::read(&repository).await.unwrap();
    let history = History::root(TimelineId::FIRST);
    let found = catalog.reach(&repository, &backup(3), &history).await.unwrap().unwrap();
    assert_eq!((found.end, found.path.end), (four.start(size()), four.start(size())));
    assert_eq!((found.path.tail_end(), found.end_time), (None, Some(time(number(&segment(3), 127)))));
    assert!(found.damage.unwrap().contains("check the tail of 000000010000000000000004"));
}

#[test]
fn a_tail_counts_only_where_recovery_would_ask_for_it() {
    let piece = |timeline, number, len| {
        let segment = SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, size());
        let generation = TailGeneration { count: 0, writer: 0 };
        let name = TailPieceName { segment, generation, start: 0, end: len };
        let modified = jiff::Timestamp::UNIX_EPOCH;
        crate::repository::TailPiece { name, stored_len: 1, modified }
    };
    let archived = |timeline, number| {
        let segment = SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, size());
        let digest = crate::repository::WalDigest::from_bytes([1; 16]);
        let modified = jiff::Timestamp::UNIX_EPOCH;
        crate::repository::WalFile { name: WalName::Segment(segment), digest, stored_len: 1, modified }
    };
    let path = |wal: &[(u32, u64)], tails: &[(u32, u64, u32)], timeline: u32, history: &str| {
        let wal = wal.iter().map(|(timeline, number)| archived(*timeline, *number)).collect();
        let pieces: Vec<_> =
            tails.iter().map(|(timeline, number, len)| piece(*timeline, *number, *len)).collect();
        let catalog = Catalog::new(Vec::new(), wal, size()).with_tails(&pieces);
        let history = History::parse(TimelineId::new(timeline).unwrap(), history).unwrap();
        let path = catalog.wal_path(&history, Lsn::new(u64::from(SIZE) + 40));
        let tails = path.tails.iter().map(|tail| tail.timeline.get()).collect::<Vec<_>>();
        (path.segments.len(), tails, path.end.get())
    };
    let at = |number: u64, offset: u64| number * u64::from(SIZE) + offset;
    let switch = "1\t0/280000\tx";
    // Behind a gap, and one of an archived segment.
    assert_eq!(path(&[(1, 1)], &[(1, 3, 100), (1, 1, 50)], 1, ""), (1, vec![], at(2, 0)));
    assert_eq!(path(&[(1, 1)], &[(1, 2, 100)], 1, ""), (1, vec![1], at(2, 100)));
    // The newer timeline's is asked for first; the older one's serves up to the switch.
    assert_eq!(path(&[(1, 1)], &[(1, 2, 100), (2, 2, 200)], 2, switch), (1, vec![2], at(2, 200)));
    assert_eq!(path(&[(1, 1)], &[(1, 2, 100)], 2, switch), (1, vec![1], at(2, 100)));
    assert_eq!(path(&[(1, 1)], &[(1, 2, 0x9_0000)], 2, switch), (1, vec![1], at(2, 0x8_0000)));
    // Past the switch it is on no path of the newer one, but still on its own.
    assert_eq!(path(&[(1, 1), (1, 2)], &[(1, 3, 100)], 2, switch), (2, vec![], at(2, 0x8_0000)));
    assert_eq!(path(&[(1, 1), (1, 2)], &[(1, 3, 100)], 1, ""), (2, vec![1], at(3, 100)));
    assert_eq!(path(&[(1, 1), (2, 2)], &[(1, 3, 100), (2, 3, 70)], 2, switch), (2, vec![2], at(3, 70)));
}
