//! Verifying page checksums while they are copied (R13).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use crate::postgres::{
    BLOCKS_PER_RELATION_FILE, Lsn, PAGE_SIZE, PageVerdict, RelationFile, check_page, page_lsn,
};

/// A page that fails is read again so often: hint bits are written without moving the page's LSN, so a torn read
/// can look corrupt.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// A page that did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPage {
    /// Block number within the relation.
    pub(super) block: u32,
    /// The LSN on it, when that excuses it: replay will write the page again, if the LSN is a real one.
    pub(super) excused_by: Option<Lsn>,
}

/// Check the pages in `bytes`, which lie at `offset` of a relation file, and replace those that read better again.
pub(super) fn check_pages(
    file: &File,
    relation: RelationFile,
    offset: u64,
    bytes: &mut [u8],
    start: Lsn,
    bad: &mut Vec<BadPage>,
) {
    let first = relation.segment.saturating_mul(BLOCKS_PER_RELATION_FILE);
    for (index, page) in bytes.chunks_exact_mut(PAGE_SIZE).enumerate() {
        let position = offset + (index * PAGE_SIZE) as u64;
        let block = first.saturating_add(u32::try_from(position / PAGE_SIZE as u64).unwrap_or(u32::MAX));
        for tries in 1..=TRIES {
            match check_page(page, block, start) {
                PageVerdict::Valid | PageVerdict::New => break,
                // Being written right now: replay overwrites it. Whether its LSN is a real one shows at the end.
                PageVerdict::Newer if tries == TRIES => {
                    bad.push(BadPage { block, excused_by: Some(page_lsn(page)) });
                }
                PageVerdict::Corrupt { .. } if tries == TRIES => {
                    bad.push(BadPage { block, excused_by: None });
                }
                PageVerdict::Newer | PageVerdict::Corrupt { .. } => {
                    sleep(PAUSE / (TRIES - tries + 1));
                    // A page beyond the file's end now was truncated away; what was read stays.
                    let _ = file.read_exact_at(page, position);
                }
            }
        }
    }
}
