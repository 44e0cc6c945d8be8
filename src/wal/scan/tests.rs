//! WAL as PostgreSQL writes it, and what is found in it.

use super::*;
use crate::postgres::{WAL_PAGE_SIZE, noise::noise};
use crate::wal::{Lead, writer::SIZE, writer::Writer, writer::size};

fn scan(start: u64, bytes: &[u8]) -> WalSummary {
    let mut whole = WalScanner::new(Lsn::new(start), size()).collecting();
    whole.feed(bytes);
    let mut sliced = WalScanner::new(Lsn::new(start), size()).collecting();
    bytes.chunks(3 * WAL_PAGE_SIZE).for_each(|slice| sliced.feed(slice));
    let whole = whole.finish();
    assert_eq!(whole, sliced.finish());
    whole
}

fn time(micros: i64) -> PgTime {
    PgTime::from_postgres_micros(micros)
}

#[test]
fn ends_of_transactions_and_restore_points_are_found() {
    let start = 3 << 20;
    let mut writer = Writer::new(start);
    writer.filler(20_000);
    let first = writer.commit(0x80, 700, 5_000);
    let second = writer.commit(XACT_ABORT, 699, 4_000);
    writer.commit(0x10, 698, 1);
    writer.commit(0x50, 698, 1);
    let point = writer.restore_point("before", 4_500);
    let third = writer.commit(XACT_COMMIT_PREPARED, 0, 6_000);
    let fourth = writer.commit(XACT_ABORT_PREPARED, 0, 5_500);
    writer.pad_segment();
    let summary = scan(start, &writer.bytes);
    let end = |xid, micros, end, committed| TransactionEnd { xid, time: time(micros), end, committed };
    let expected = WalSummary {
        first_time: Some(time(4_000)),
        last_time: Some(time(6_000)),
        min_xid: Some(699),
        max_xid: Some(700),
        end: fourth,
        commits: 2,
        restore_points: vec![RestorePoint { name: "before".into(), time: time(4_500), lsn: point }],
        transactions: vec![
            end(700, 5_000, first, true),
            end(699, 4_000, second, false),
            end(0, 6_000, third, true),
            end(0, 5_500, fourth, false),
        ],
        last_start: Some(third),
        links: Links::new(Some(Lsn::INVALID), Some(Some(third)), (1, 1)),
        complete: true,
    };
    assert_eq!(summary, expected);

    let mut scanner = WalScanner::new(Lsn::new(start), size());
    scanner.feed(&writer.bytes);
    assert_eq!(scanner.finish(), WalSummary { transactions: Vec::new(), ..expected });
}

#[test]
fn a_record_may_be_split_anywhere() {
    for gap in (0..160).step_by(8) {
        let mut writer = Writer::new(0);
        writer.begin_page();
        writer.filler(WAL_PAGE_SIZE - 40 - 24 - gap);
        let lsn = writer.restore_point("split", 7);
        writer.commit(0, 700, 8);
        writer.pad_page();
        let summary = scan(0, &writer.bytes);
        assert_eq!(summary.restore_points, [RestorePoint { name: "split".into(), time: time(7), lsn }]);
        assert_eq!((summary.commits, summary.complete), (1, true));
    }
}

#[test]
fn a_record_may_go_on_in_the_next_segment() {
    let mut writer = Writer::new(0);
    writer.commit(0, 700, 8);
    let before = writer.filler(SIZE as usize / 2);
    writer.filler(SIZE as usize * 2);
    let last = writer.commit(0, 701, 9);
    writer.pad_segment();
    let segments: Vec<&[u8]> = writer.bytes.chunks(SIZE as usize).collect();
    assert_eq!(segments.len(), 3);
    let ends = [1, 2].map(|count| Lsn::new(count * u64::from(SIZE)));

    let found = |start, bytes| {
        let summary = scan(start, bytes);
        (summary.end, summary.commits, summary.complete)
    };
    assert_eq!(found(0, segments[0]), (ends[0], 1, true));
    assert_eq!(found(ends[0].get(), segments[1]), (ends[1], 0, true));
    assert_eq!(found(ends[1].get(), segments[2]), (last, 1, true));
    assert_eq!(found(0, &writer.bytes), (last, 2, true));
    // What was fed ends within a record.
    assert_eq!(found(0, &segments[0][..SIZE as usize - WAL_PAGE_SIZE]), (before, 1, false));
}

#[test]
fn a_switch_ends_a_segment() {
    let mut writer = Writer::new(0);
    writer.commit(0, 700, 8);
    writer.record(XLOG, 0x40, 0, &[]);
    writer.pad_segment();
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (Lsn::new(SIZE.into()), 1, true));
    let last = writer.commit(0, 701, 9);
    writer.pad_page();
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (last, 2, true));
}

#[test]
fn a_record_that_a_crash_cut_is_passed_over() {
    let mut writer = Writer::new(0);
    let whole = writer.commit(0, 700, 8);
    let previous = writer.previous;
    writer.filler(20_000);
    writer.bytes.truncate(2 * WAL_PAGE_SIZE);
    let cut = writer.bytes.len();
    writer.header(0, 8);
    writer.previous = previous;
    let last = writer.commit(0, 701, 9);
    writer.pad_page();
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (last, 2, true));
    // Without the flag, and with nothing behind the cut.
    writer.bytes[cut + 2] = 0;
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (whole, 1, false));
    writer.bytes.truncate(cut);
    writer.bytes.resize(cut + WAL_PAGE_SIZE, 0);
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (whole, 1, false));
}

#[test]
fn main_data_is_found_behind_any_headers() {
    let mut rest = vec![253, 1, 0, 252, 2, 0, 0, 0];
    // A block with 3 bytes of data and 5 of a compressed image with a hole, and one of the same relation.
    rest.extend([0, 0x30, 3, 0, 5, 0, 0, 0, 0x05, 9, 9]);
    rest.extend([8; 12 + 4]);
    rest.extend([1, 0xA0, 2, 0, 8, 8, 8, 8]);
    rest.extend([254, 12, 0, 0, 0]);
    rest.extend([6; 3 + 5 + 2]);
    rest.extend(77_i64.to_le_bytes());
    rest.extend([0; 4]);
    let mut writer = Writer::new(0);
    writer.record(XACT, XACT_COMMIT, 700, &rest);
    writer.pad_page();
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.last_time, summary.complete), (Some(time(77)), true));
}

#[test]
fn segments_are_linked_whatever_crosses_their_borders() {
    let segment = SIZE as usize;
    for gap in (0..64).step_by(8) {
        let mut writer = Writer::new(0);
        while writer.bytes.len() < segment - 3 * WAL_PAGE_SIZE {
            writer.filler(7000);
        }
        let before = writer.previous;
        // To the last page, and within that to so many bytes before the border.
        writer.filler(segment - WAL_PAGE_SIZE - writer.bytes.len());
        writer.filler(segment - writer.bytes.len() - 24 - gap);
        assert_eq!(writer.bytes.len(), segment - gap);
        writer.filler(2 * segment);
        writer.commit(0, 701, 9);
        let last = writer.previous;
        writer.pad_segment();
        let mut lead = Lead::default();
        let starts = (0..).map(|number| number * u64::from(SIZE));
        for (start, bytes) in starts.zip(writer.bytes.chunks(segment)) {
            let links = scan(start, bytes).links;
            assert_eq!(lead.breaks_at(links, Lsn::new(start)), None, "{gap} {start:X}");
            // What names another record before its own does not follow.
            let other = Links::new(Some(Lsn::new(before)), None, (1, 1));
            assert_eq!(lead.breaks_at(other, Lsn::new(start)).is_some(), start > 0, "{gap} {start:X}");
            lead = lead.through(links);
        }
        let next = Links::new(Some(Lsn::new(last)), None, (1, 1));
        assert_eq!(lead.breaks_at(next, Lsn::new(writer.bytes.len() as u64)), None);
    }
}

#[test]
fn what_follows_a_record_that_a_crash_cut_says_nothing_of_it() {
    // Cut at the border, and in the middle of the segment behind it.
    for pages in [0, 3] {
        let mut writer = Writer::new(0);
        writer.commit(0, 700, 8);
        let previous = writer.previous;
        writer.filler(2 * SIZE as usize);
        writer.bytes.truncate(SIZE as usize + pages * WAL_PAGE_SIZE);
        writer.header(0, 8);
        writer.previous = previous;
        writer.commit(0, 701, 9);
        let last = writer.previous;
        writer.pad_segment();
        let (first, second) = writer.bytes.split_at(SIZE as usize);
        let [first, second] = [scan(0, first), scan(SIZE.into(), second)].map(|summary| summary.links);
        assert_eq!(second, Links::new(None, Some(Some(Lsn::new(last))), (1, 1)));
        assert_eq!(Lead::default().through(first).breaks_at(second, Lsn::new(SIZE.into())), None);
    }
}

#[test]
fn a_broken_link_stops_the_scan() {
    let mut writer = Writer::new(0);
    let end = writer.commit(0, 700, 8);
    writer.previous += 8;
    writer.commit(0, 701, 9);
    writer.pad_page();
    let summary = scan(0, &writer.bytes);
    assert_eq!((summary.end, summary.commits, summary.complete), (end, 1, false));
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = noise();
    let start = u64::MAX - 2 * u64::from(SIZE) + 1;
    for first in [0, start] {
        let mut writer = Writer::new(first);
        for count in 0..60 {
            writer.commit(0, 700 + count, 8);
            writer.filler(random() % 1000);
            writer.restore_point("x", 9);
        }
        writer.pad_page();
        for _ in 0..2000 {
            let mut bytes = writer.bytes.clone();
            for _ in 0..random() % 4 {
                let offset = random() % bytes.len();
                bytes[offset] = random().to_le_bytes()[0];
            }
            bytes.truncate(random() % (bytes.len() * 2));
            scan(first, &bytes);
        }
    }
}
