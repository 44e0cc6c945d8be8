//! Paths, tails and branches: what the window says of repositories in memory.

use std::sync::Arc;

use jiff::Timestamp;

use super::branches::at;
use super::pieces::pieces;
use super::samples::{catalog, file, history, manifest, summary, window};
use super::*;
use crate::error::{Error, Kind};
use crate::format::{Manifest, ObjectKey, TailGeneration, TailPieceName, WalRecord};
use crate::postgres::{History, Lsn, PgTime, RecoveryTarget, SegmentName, TimelineId, WalName};
use crate::repository::{
    Repository, TailPiece, fixture::PAGE, fixture::SIZE, fixture::archive, fixture::archive_bytes,
    fixture::archive_history, fixture::memory, fixture::number, fixture::put_piece, fixture::size,
    fixture::wal,
};
use crate::world::timeline;

const BIG: u64 = 1 << 24;

fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, number, size())
}

/// The path from segment 1 on, as "timeline-segment".
fn path(catalog: &Catalog, of: u32, text: &str) -> (Vec<String>, u64) {
    let (found, end) = catalog.stored_from(&history(of, text), Lsn::new(BIG + 40));
    (found.iter().map(|s| format!("{}-{:X}", s.timeline, s.segment)).collect(), end.get())
}

fn short(names: &[&str]) -> Catalog {
    let long = |name: &&str| format!("{}{:016X}", &name[..8], u64::from_str_radix(&name[9..], 16).unwrap());
    let names: Vec<String> = names.iter().map(long).collect();
    catalog(1 << 24, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_path_ends_at_the_first_gap() {
    let catalog = short(&["00000001-1", "00000001-2", "00000001-4"]);
    assert_eq!(path(&catalog, 1, ""), (vec!["1-1".into(), "1-2".into()], 3 * BIG));
}

#[test]
fn a_path_crosses_to_the_newer_timeline_in_the_segment_of_the_switch() {
    let switch = "1\t0/2800000\tx";
    let both = short(&["00000001-1", "00000001-2", "00000001-3", "00000002-2", "00000002-3"]);
    assert_eq!(path(&both, 2, switch), (vec!["1-1".into(), "2-2".into(), "2-3".into()], 4 * BIG));
    let older_only = short(&["00000001-1", "00000001-2", "00000001-3"]);
    assert_eq!(path(&older_only, 2, switch), (vec!["1-1".into(), "1-2".into()], 0x0280_0000));
    assert_eq!(path(&older_only, 1, ""), (vec!["1-1".into(), "1-2".into(), "1-3".into()], 4 * BIG));
    // A switch at a boundary takes nothing of the segment behind it.
    let boundary = "1\t0/2000000\tx";
    assert_eq!(path(&older_only, 2, boundary), (vec!["1-1".into()], 2 * BIG));
}

#[test]
fn a_tail_counts_only_where_recovery_would_ask_for_it() {
    let piece = |of, number, len| {
        let segment = SegmentName::from_number(timeline(of), number, size());
        let generation = TailGeneration { count: 0, writer: 0 };
        let name = TailPieceName { segment, generation, start: 0, end: len };
        TailPiece { name, stored_len: 1, modified: Timestamp::UNIX_EPOCH }
    };
    let path = |wal: &[(u32, u64)], tails: &[(u32, u64, u32)], of: u32, text: &str| {
        let mut catalog = Catalog::empty(size());
        for (of, number) in wal {
            let segment = SegmentName::from_number(timeline(*of), *number, size());
            catalog.add(file(&segment.to_string(), 1));
        }
        let pieces: Vec<_> = tails.iter().map(|(of, number, len)| piece(*of, *number, *len)).collect();
        catalog.add_tails(&pieces);
        let (found, end) = catalog.stored_from(&history(of, text), Lsn::new(u64::from(SIZE) + 40));
        let tails = found.iter().filter(|segment| catalog.tail(segment).is_some());
        let tails: Vec<u32> = tails.map(|segment| segment.timeline.get()).collect();
        (found.len() - tails.len(), tails, end.get())
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

/// A backup that began with segment `first` and stopped within it.
fn backup(first: u64) -> Manifest {
    let start = segment(first).start(size()).get();
    manifest(Lsn::new(start + 40), Lsn::new(start + 400), 1)
}

fn time(number: u32) -> PgTime {
    PgTime::from_postgres_micros(i64::from(number) * 1_000_000)
}

/// The window of a repository in memory with one backup in segment 3, which is put there.
async fn seen(repository: &Repository) -> (Arc<Catalog>, RecoveryWindow, WalTimes) {
    repository.put_manifest(&backup(3)).await.unwrap();
    let listing = repository.list().await.unwrap();
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await.unwrap();
    (catalog, window, times)
}

fn only(window: &RecoveryWindow) -> (&Branch, &Span) {
    let branch = window.default_branch().unwrap();
    (branch, branch.farthest().unwrap())
}

#[tokio::test]
async fn the_window_reaches_into_the_tail() {
    let (_, repository) = memory().await;
    archive(&repository, &segment(3), 128).await;
    let (four, five) = (segment(4), segment(5));
    put_piece(&repository, &four, 0, 0, &wal(&four, 7)[..6 * PAGE + 100]).await;
    let start = four.start(size()).get();
    let (catalog, window, mut times) = seen(&repository).await;
    let (branch, span) = only(&window);
    let path = branch.path(size(), backup(3).start_lsn).unwrap();
    assert_eq!((path.segments.len(), &path.tails), (1, &vec![four]));
    assert_eq!(path.tail_end(), Some(Lsn::new(start + 6 * 8192 + 100)));
    // The last commit is there, what fills its page is cut off.
    assert_eq!(span.record_end, Lsn::new(start + 6 * 8192 + 24 + 40));
    assert_eq!((span.end_time, span.cut.clone()), (Some(time(number(&four, 6))), Cut::End));
    let mut chooser = Chooser {
        repository: &repository,
        catalog: &catalog,
        window: &window,
        times: &mut times,
        progress: &|_, _| {},
    };
    let xid = RecoveryTarget::Xid { xid: number(&four, 5), exclusive: false };
    chooser.choose(&Wanted { target: xid, timeline: None, backup: None }).await.unwrap();
    let unknown = RecoveryTarget::Xid { xid: number(&four, 6) + 1, exclusive: false };
    let refused = chooser.choose(&Wanted { target: unknown, timeline: None, backup: None }).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Impossible);

    // Cut within the commit: it is not there, whatever its first bytes promise.
    let cut = wal(&four, 8)[6 * PAGE + 100..7 * PAGE + 24 + 39].to_vec();
    put_piece(&repository, &four, 0, 6 * PAGE + 100, &cut).await;
    let (_, window, _) = seen(&repository).await;
    let (_, span) = only(&window);
    assert_eq!(span.end, Lsn::new(start + 7 * 8192 + 24 + 39));
    assert_eq!(span.record_end, Lsn::new(start + 7 * 8192));
    assert_eq!(span.end_time, Some(time(number(&four, 6))));

    // A tail that is whole goes on in the next one.
    put_piece(&repository, &four, 0, 0, &wal(&four, 128)).await;
    put_piece(&repository, &five, 0, 0, &wal(&five, 2)).await;
    let (_, window, _) = seen(&repository).await;
    let path = only(&window).0.path(size(), backup(3).start_lsn).unwrap();
    assert_eq!(path.tails, [four, five]);
    assert_eq!(path.tail_end(), Some(Lsn::new(five.start(size()).get() + 2 * 8192)));

    // An archived segment's tail is garbage, whatever it says.
    archive(&repository, &four, 128).await;
    let (_, window, _) = seen(&repository).await;
    let path = only(&window).0.path(size(), backup(3).start_lsn).unwrap();
    assert_eq!((path.segments.len(), &path.tails), (2, &vec![five]));
    // The listing is older than the reading: the tail's segment is archived and the tail gone.
    let listing = repository.list().await.unwrap();
    archive(&repository, &five, 10).await;
    for piece in repository.list_tail_pieces(Some(&five)).await.unwrap() {
        repository.delete_tail_piece(&piece.name).await.unwrap();
    }
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (_, window) = look(&repository, &listing, &mut records, &mut times).await.unwrap();
    assert_eq!(only(&window).1.end_time, Some(time(number(&five, 9))));
}

/// PGDATA was put back, and the life after that was promoted within the segment in which the backup lies: what the new
/// timeline's file holds up to there is not what the backup needs.
#[tokio::test]
async fn r28_a_newer_timelines_file_is_compared_with_what_it_takes_the_place_of() {
    let newer = SegmentName::from_number(timeline(2), 3, size());
    for (is_same, is_tail) in [(true, false), (false, false), (true, true), (false, true)] {
        let (_, repository) = memory().await;
        let older = archive(&repository, &segment(3), 128).await;
        archive_history(&repository, 2, b"1\t0/380000\tx\n").await;
        let mut made = backup(3);
        let listed = repository.list().await.unwrap().objects;
        let digest = listed.iter().find_map(|listed| match listed.key {
            ObjectKey::Wal(WalName::Segment(_), digest) => Some(digest.content()),
            _ => None,
        });
        made.wal = vec![WalRecord { segment: segment(3), digest: digest.unwrap() }];
        repository.put_manifest(&made).await.unwrap();
        let mut bytes = wal(&newer, 128);
        if is_same {
            bytes[..0x8_0000].copy_from_slice(&older[..0x8_0000]);
        }
        if is_tail {
            put_piece(&repository, &newer, 0, 0, &bytes[..0x9_0000]).await;
        } else {
            archive_bytes(&repository, &newer, &bytes).await;
        }
        let listing = repository.list().await.unwrap();
        let (mut records, mut times) = (Records::default(), WalTimes::default());
        let (_, window) = look(&repository, &listing, &mut records, &mut times).await.unwrap();
        let branch = window.branch(timeline(2)).unwrap();
        let lack = branch.lack_of(&made.id);
        let parted = Lack::Parted { own: segment(3), newer };
        assert_eq!(lack, (!is_same).then_some(parted), "{is_same} {is_tail} {branch:#?}");
        assert_eq!(branch.reaches.len(), usize::from(is_same));
        // Known from one look to the next.
        let known = times.twins.clone();
        times.prune(&Catalog::of(&listing, &records, size()));
        assert_eq!((known.len(), times.twins), (1, known));
    }
}

#[tokio::test]
async fn a_damaged_tail_is_a_damaged_newest_segment() {
    let (_, repository) = memory().await;
    archive(&repository, &segment(3), 128).await;
    let four = segment(4);
    put_piece(&repository, &four, 0, 0, &wal(&segment(5), 3)).await;
    let (_, window, _) = seen(&repository).await;
    let (_, span) = only(&window);
    assert_eq!((span.end, span.tail), (four.start(size()), false));
    assert_eq!(span.end_time, Some(time(number(&segment(3), 127))));
    let Cut::Unusable(segment, error) = &span.cut else { panic!("{:?}", span.cut) };
    assert_eq!(*segment, four);
    assert!(error.to_string().contains("check the tail of 000000010000000000000004"), "{error}");
}

#[tokio::test]
async fn of_two_copies_the_one_that_its_key_promises_counts() {
    let (_, repository) = memory().await;
    archive(&repository, &segment(3), 128).await;
    archive(&repository, &segment(4), 128).await;
    let (catalog, ..) = seen(&repository).await;
    let name = WalName::Segment(segment(4));
    let genuine = catalog.versions(&name).next().unwrap().clone();
    // The same object under another digest: damage, and no conflict.
    let sealed = repository.get_wal_sealed(&genuine).await.unwrap();
    let text = genuine.digest.to_string();
    let flipped = format!("{}{}", &text[..31], if text.ends_with('0') { '1' } else { '0' });
    let key =
        format!("main/{}/wal/0000000100000000/{name}-{flipped}", repository.identity().system_identifier);
    repository.store().put(&key, vec![sealed]).await.unwrap();
    let (catalog, window, _) = seen(&repository).await;
    assert_eq!(catalog.versions(&name).count(), 2);
    let path = only(&window).0.path(size(), backup(3).start_lsn).unwrap();
    assert_eq!(path.segments.last().unwrap(), &(segment(4), genuine.digest));
    // Two that are both what their keys promise are a conflict, and the path ends before it (f).
    archive(&repository, &segment(4), 100).await;
    let (_, window, _) = seen(&repository).await;
    let Cut::Unusable(cut, error) = &only(&window).1.cut else { panic!("{window:?}") };
    assert_eq!((*cut, error.kind()), (segment(4), Kind::Conflict));
    assert_eq!(window.conflicts, [name]);
}

#[test]
fn a_damaged_summary_cuts_the_path_where_it_is_met() {
    let facts = ["000000010000000000000003", "000000010000000000000004"];
    let mut catalog = catalog(SIZE, &facts);
    let mut backup = backup(3);
    backup.finished_at = at(5);
    catalog.backups.push(Arc::new(backup));
    let answer = |segment: SegmentName, _| match segment.segment {
        3 => Ok(summary(segment.end(size()), 10)),
        _ => Err(Error::corrupt("flipped")),
    };
    let (window, _) = window(&catalog, |_, _| None, answer, |_, _| panic!(), |_, _, _| panic!());
    let branch = window.default_branch().unwrap();
    assert_eq!(RecoveryWindow::instants(branch), [Instants { start: at(5), end: at(10) }]);
    assert!(matches!(branch.spans[0].cut, Cut::Unusable(found, _) if found == segment(4)));
}

#[test]
fn a_backup_whose_only_segment_is_damaged_is_stranded_with_the_reason() {
    let mut catalog = catalog(SIZE, &["000000010000000000000003"]);
    catalog.backups.push(Arc::new(backup(3)));
    catalog.add(file("000000010000000000000003", 2));
    let (window, _) = window(&catalog, |_, _| None, |_, _| panic!(), |_, _| panic!(), |_, _, _| panic!());
    let branch = window.default_branch().unwrap();
    assert_eq!((branch.spans.len(), branch.stranded.len()), (0, 1));
    assert_eq!(branch.unusable[0].0, segment(3));
}

#[test]
fn pieces_of_many_timelines_come_in_order() {
    let mut catalog = Catalog::empty(size());
    for (of, number) in [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5)] {
        let segment = SegmentName::from_number(timeline(of), number, size());
        catalog.add(file(&segment.to_string(), 1));
    }
    let lineage: History = history(3, "1\t0/380000\tx\n2\t0/480000\ty");
    let found: Vec<(u32, u64)> = pieces(&catalog, &lineage, 0)
        .iter()
        .map(|piece| (piece.segment.timeline.get(), piece.number))
        .collect();
    assert_eq!(found, [(1, 1), (1, 2), (2, 3), (3, 4), (3, 5)]);
}

/// What the window says of random histories against what reading the objects one by one gives.
#[test]
fn r28_the_window_promises_what_recovery_finds_in_random_histories() {
    let base = crate::world::seed();
    for round in 0..2_000 {
        let seed = base.wrapping_add(round);
        let world = crate::world::World::grow(seed, 4 + seed % 25);
        let (_, window, times) = world.window();
        let known = |segment: SegmentName| times.is_known_damage(segment);
        for branch in &window.branches {
            for reach in &branch.reaches {
                let found = world.recover(&reach.backup, &branch.history, &known);
                let (replayed, end) = found.unwrap_or_else(|| panic!("seed {seed}: {branch:#?} {reach:#?}"));
                let span = branch.span_of(reach);
                assert!(span.end.get() <= end, "seed {seed}: {span:?} ends behind {end:X}, {reach:?}");
                let last = replayed.iter().map(|(_, time)| crate::world::seconds(*time)).max();
                // Until the backup ended nothing is promised; the times in the segment of a switch are left out.
                let promised = span.end_time.filter(|time| *time > reach.backup.finished_at);
                // Times run backwards where a server was put back to an older copy: that the ledger sees, not the window.
                assert!(
                    world.was_put_back || promised <= last,
                    "seed {seed}: {span:?} promises more than {last:?}"
                );
            }
            for Stranded { backup, .. } in &branch.stranded {
                assert!(
                    world.recover(backup, &branch.history, &known).is_none(),
                    "seed {seed}: {}",
                    backup.id
                );
            }
        }
    }
}
