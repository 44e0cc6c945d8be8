//! Records that run on from one segment to the next, along a timeline and into the one that continues it.

use std::time::Duration;

use super::{Verified, Wanted, verify};
use crate::postgres::{SegmentName, TimelineId};
use crate::repository::{
    Repository, fixture::SIZE, fixture::SYSTEM, fixture::archive_bytes, fixture::archive_history,
    fixture::memory, fixture::size,
};
use crate::wal::writer::Writer;

const FIRST: u64 = 3;

/// Two segments, the second of which begins within a record; behind the switch, in the middle of it, timeline 2 goes on.
fn two_segments() -> (Vec<u8>, u64) {
    let mut writer = Writer::new(FIRST * u64::from(SIZE));
    while writer.bytes.len() < SIZE as usize - 9000 {
        writer.filler(7000);
    }
    writer.filler(30_000);
    writer.commit(0, 7, 1_000_000);
    let switch = writer.position();
    writer.timeline = 2;
    while writer.bytes.len() < 2 * SIZE as usize - 9000 {
        writer.filler(7000);
    }
    writer.pad_segment();
    assert_eq!(writer.bytes.len(), 2 * SIZE as usize);
    let mut bytes = writer.bytes;
    name_cluster(&mut bytes);
    (bytes, switch)
}

/// Say at the beginning of each segment whose it is.
pub(super) fn name_cluster(bytes: &mut [u8]) {
    for first_page in bytes.chunks_mut(SIZE as usize) {
        first_page[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
        first_page[32..36].copy_from_slice(&SIZE.to_le_bytes());
        first_page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    }
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, size())
}

async fn content(repository: &Repository) -> Verified {
    let wanted =
        Wanted { window: Duration::from_hours(24), content: true, max_rate: 0, max_bytes: 0, again: false };
    verify(repository, wanted).await.unwrap()
}

fn names(verified: &Verified) -> Vec<String> {
    let object = |object: &str| object.rsplit('/').next().unwrap()[..24].to_owned();
    verified.findings.problems.iter().map(|found| object(&found.object)).collect()
}

#[tokio::test]
async fn a_record_that_is_damaged_behind_a_border_is_found_along_a_timeline_and_across_a_switch() {
    let (bytes, switch) = two_segments();
    let (before, behind) = bytes.split_at(SIZE as usize);
    let history = format!("1\t{}\tpromoted\n", crate::postgres::Lsn::new(switch));
    // Of the record that began in the segment before: what no other record's checksum covers.
    let mut damaged = behind.to_vec();
    damaged[5000] ^= 1;
    for (timeline, second, expected) in [
        (1, behind, vec![]),
        (1, &damaged[..], vec![segment(1, FIRST + 1).to_string()]),
        (2, behind, vec![]),
        (2, &damaged[..], vec![segment(2, FIRST + 1).to_string()]),
    ] {
        let (_, repository) = memory().await;
        let mut second = second.to_vec();
        if timeline == 1 {
            // Nothing switches: all of it was written on one timeline.
            for page in second.chunks_mut(8192) {
                page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            }
        } else {
            archive_history(&repository, 2, history.as_bytes()).await;
        }
        archive_bytes(&repository, &segment(1, FIRST), before).await;
        archive_bytes(&repository, &segment(timeline, FIRST + 1), &second).await;
        let verified = content(&repository).await;
        assert_eq!(names(&verified), expected, "timeline {timeline}: {:#?}", verified.findings.problems);
        // What is read the next time is the same: the border, too, where only one side of it is due.
        assert_eq!(names(&content(&repository).await), expected, "timeline {timeline}, again");
    }
}

#[tokio::test]
async fn a_segment_of_a_new_timeline_is_read_with_the_one_before_it_though_that_was_opened_before() {
    let (bytes, switch) = two_segments();
    let (before, behind) = bytes.split_at(SIZE as usize);
    let (_, repository) = memory().await;
    archive_bytes(&repository, &segment(1, FIRST), before).await;
    // The identity, and the segment.
    assert_eq!(content(&repository).await.opened, 2);
    let mut damaged = behind.to_vec();
    damaged[5000] ^= 1;
    let history = format!("1\t{}\tpromoted\n", crate::postgres::Lsn::new(switch));
    archive_history(&repository, 2, history.as_bytes()).await;
    archive_bytes(&repository, &segment(2, FIRST + 1), &damaged).await;
    assert_eq!(names(&content(&repository).await), [segment(2, FIRST + 1).to_string()]);
}

#[tokio::test]
async fn a_border_between_what_two_servers_wrote_is_named_and_both_sides_are_sound() {
    let (bytes, _) = two_segments();
    // Other records in the same places, but for the last ones.
    let mut writer = Writer::new(FIRST * u64::from(SIZE));
    writer.commit(0, 9, 2_000_000);
    while writer.bytes.len() < SIZE as usize - 20_000 {
        writer.filler(7000);
    }
    writer.pad_segment();
    let mut others = writer.bytes;
    name_cluster(&mut others);
    let mut second = bytes[SIZE as usize..].to_vec();
    second.chunks_mut(8192).for_each(|page| page[4..8].copy_from_slice(&1_u32.to_le_bytes()));
    let (_, repository) = memory().await;
    archive_bytes(&repository, &segment(1, FIRST), &others).await;
    archive_bytes(&repository, &segment(1, FIRST + 1), &second).await;
    for _ in 0..2 {
        let found = content(&repository).await.findings.problems;
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].problem.contains("does not go on where"), "{found:#?}");
    }
}

#[tokio::test]
async fn a_segment_whose_predecessor_is_gone_is_read_from_its_first_record_on() {
    let (bytes, switch) = two_segments();
    let (_, repository) = memory().await;
    let history = format!("1\t{}\tpromoted\n", crate::postgres::Lsn::new(switch));
    archive_history(&repository, 2, history.as_bytes()).await;
    archive_bytes(&repository, &segment(2, FIRST + 1), &bytes[SIZE as usize..]).await;
    assert_eq!(names(&content(&repository).await), Vec::<String>::new());
}
