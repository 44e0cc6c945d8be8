//! What is read, and where it breaks.

use super::*;
use crate::wal::{writer::SIZE, writer::Writer, writer::size};

fn check(start: u64, bytes: &[u8]) -> WalReader {
    let mut whole = WalReader::new(Lsn::new(start), size()).checking();
    whole.feed(bytes, &mut NoVisitor);
    let mut sliced = WalReader::new(Lsn::new(start), size()).checking();
    bytes.chunks(WAL_PAGE_SIZE).for_each(|page| sliced.feed(page, &mut NoVisitor));
    let said = |reader: &WalReader| (reader.broken(), reader.end(), reader.last_start());
    assert_eq!(said(&whole), said(&sliced));
    whole
}

fn why(start: u64, bytes: &[u8]) -> String {
    check(start, bytes).broken().map_or_else(|| "whole".to_owned(), |found| found.to_string())
}

/// Records of all lengths over three segments, a page each and one longer than a segment among them.
fn three_segments() -> Writer {
    let mut writer = Writer::new(0);
    let mut length = 1;
    while writer.bytes.len() < SIZE as usize * 2 - 30_000 {
        writer.filler(length);
        length = length * 7 % 12_007;
    }
    writer.filler(SIZE as usize);
    writer.commit(0, 700, 8);
    writer.pad_segment();
    writer
}

#[test]
fn every_flipped_byte_of_a_record_is_noticed() {
    let writer = three_segments();
    assert_eq!(why(0, &writer.bytes), "whole");
    assert_eq!(check(0, &writer.bytes).last_start(), Some(Lsn::new(writer.previous)));
    let last = usize::try_from(writer.previous).unwrap();
    for at in (100..last).step_by(9973).chain(last..last + 38) {
        let mut bytes = writer.bytes.clone();
        bytes[at] ^= 0x10;
        // Bytes between a record's end and the next multiple of 8 belong to none.
        let is_padding = writer.bytes[at] == 0 && at < last;
        assert!(check(0, &bytes).broken().is_some() || is_padding, "{at}");
    }
}

#[test]
fn a_checksum_counts_only_if_it_was_asked_for() {
    let mut writer = Writer::new(0);
    let whole = writer.commit(0, 700, 8);
    writer.filler(20_000);
    writer.pad_page();
    writer.bytes[17_000] ^= 1;
    let found = check(0, &writer.bytes);
    assert_eq!(found.broken().unwrap().to_string(), format!("a record is damaged (CRC-32C) at {whole}"));
    assert_eq!(found.end(), whole);
    let mut reader = WalReader::new(Lsn::new(0), size());
    reader.feed(&writer.bytes, &mut NoVisitor);
    assert_eq!(reader.broken(), None);
}

#[test]
fn records_run_on_from_segment_to_segment() {
    let writer = three_segments();
    let segments: Vec<&[u8]> = writer.bytes.chunks(SIZE as usize).collect();
    let second = u64::from(SIZE);
    // From the middle on: what began before cannot be checked, all that follows can.
    assert_eq!(why(second, &[segments[1], segments[2]].concat()), "whole");
    assert!(check(0, segments[0]).is_within_record());
    // Two that are swapped, or one that is missing.
    assert_eq!(
        why(0, &[segments[0], segments[2]].concat()),
        "the page does not belong to this WAL at 0/100000"
    );
    // The same place in the WAL of another server.
    let mut other = Writer::new(second);
    other.previous = second - 8;
    other.commit(0, 9, 9);
    other.pad_segment();
    let why = why(0, &[segments[0], &other.bytes].concat());
    assert_eq!(why, "the page does not go on where the one before it ends, at 0/100000");
}

#[test]
fn a_segment_that_ends_early_is_the_last_one() {
    let mut writer = Writer::new(0);
    let end = writer.commit(0, 700, 8);
    writer.pad_segment();
    assert_eq!(why(0, &writer.bytes), "whole");
    writer.commit(0, 701, 9);
    writer.pad_segment();
    let expected = format!("no record was written, and the next segment goes on, at {end}");
    assert_eq!(why(0, &writer.bytes), expected);
    // A switch says that the rest was left out.
    let mut writer = Writer::new(0);
    writer.record(XLOG, XLOG_SWITCH, 0, &[]);
    writer.pad_segment();
    writer.commit(0, 701, 9);
    writer.pad_segment();
    assert_eq!(why(0, &writer.bytes), "whole");
}

#[test]
fn timelines_do_not_go_back() {
    let mut writer = Writer::new(0);
    writer.filler(10_000);
    writer.timeline = 2;
    writer.filler(10_000);
    writer.filler(10_000);
    writer.timeline = 1;
    writer.filler(10_000);
    writer.pad_page();
    let why = why(0, &writer.bytes);
    assert_eq!(why, "the page is of an older timeline than the one before it, at 0/8000");
}
