//! Verifying page checksums while they are copied (R13).
//!
//! A page that is being written while it is read looks damaged. Nearly always it is whole when it is read again at
//! once; the few that are not are read a last time when everything is copied. Nothing waits for a single page: of a
//! disk that fails there may be thousands.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cluster::{FileEntry, FileStat};
use crate::error::{Error, Result};
use crate::postgres::{
    BLOCKS_PER_RELATION_FILE, Lsn, PAGE_SIZE, PageVerdict, PgTime, RelationFile, check_page, page_lsn,
};

/// A page that did not pass while it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Index of the file among those of the walk.
    pub(super) file: usize,
    /// Block number within the relation.
    pub(super) block: u32,
}

/// The first block of a relation's file.
const fn first_block(relation: RelationFile) -> u32 {
    relation.segment.saturating_mul(BLOCKS_PER_RELATION_FILE)
}

/// Check the pages in `bytes`, which lie at `offset` of a relation file, and replace those that read better again.
/// The blocks of the others go to `bad`.
pub(super) fn check_pages(
    file: &File,
    relation: RelationFile,
    offset: u64,
    bytes: &mut [u8],
    start: Lsn,
    bad: &mut Vec<u32>,
) {
    for (index, page) in bytes.chunks_exact_mut(PAGE_SIZE).enumerate() {
        let position = offset + (index * PAGE_SIZE) as u64;
        let number = u32::try_from(position / PAGE_SIZE as u64).unwrap_or(u32::MAX);
        let block = first_block(relation).saturating_add(number);
        let passes =
            |page: &[u8]| matches!(check_page(page, block, start), PageVerdict::Valid | PageVerdict::New);
        if passes(page) {
            continue;
        }
        // A page beyond the file's end now was truncated away; what was read stays.
        let _ = file.read_exact_at(page, position);
        if !passes(page) {
            bad.push(block);
        }
    }
}

/// When a copy was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copying {
    /// Of the backup, by the server's clock.
    pub(super) began: PgTime,
    /// The start of the backup's WAL.
    pub(super) start: Lsn,
    /// WAL up to here is on the disk.
    pub(super) end: Lsn,
}

/// Read the suspects again, after the copy: those whose copy is damaged for good.
///
/// One that is whole now, and was written since the backup began, was being written when it was copied: WAL holds an image
/// of it, with which replay repairs the copy. The same goes for one whose LSN is not beyond the end of the WAL; and what
/// is gone from the disk is gone after replay, too. But one that nothing has written was damaged on its way from the disk,
/// and nothing repairs the copy.
pub(super) fn judge_again(
    data_dir: &Path,
    files: &[FileEntry],
    suspects: &[Suspect],
    copying: Copying,
) -> Result<Vec<Suspect>> {
    let mut bad = Vec::new();
    for of_file in suspects.chunk_by(|a, b| a.file == b.file) {
        let entry = &files[of_file[0].file];
        let path = data_dir.join(&entry.path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            Err(cause) => return Err(Error::io("open", &path, &cause)),
        };
        let now = file.metadata().map_err(|cause| Error::io("look at", &path, &cause))?;
        let was_written = FileStat::of(&now) != entry.stat || copying.has_seen_written(entry.stat);
        let first = entry.relation.map_or(0, first_block);
        for suspect in of_file {
            let mut page = [0; PAGE_SIZE];
            let position = u64::from(suspect.block.saturating_sub(first)) * PAGE_SIZE as u64;
            match file.read_exact_at(&mut page, position) {
                Ok(()) if copying.has_damaged(&page, suspect.block, was_written) => bad.push(*suspect),
                Ok(()) => {}
                Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => {}
                Err(cause) => return Err(Error::io("read", &path, &cause)),
            }
        }
    }
    Ok(bad)
}

impl Copying {
    /// Whether the file was written between the backup's start and the listing.
    fn has_seen_written(&self, stat: FileStat) -> bool {
        stat.modified.max(stat.changed) >= self.began.unix_micros().saturating_mul(1000)
    }

    /// Whether the copy of a suspect that is `page` now is damaged. Visibility maps change without an LSN: for them it
    /// counts whether the file was written.
    fn has_damaged(&self, page: &[u8], block: u32, was_written: bool) -> bool {
        match check_page(page, block, self.start) {
            PageVerdict::Valid | PageVerdict::New => !was_written && page_lsn(page) < self.start,
            PageVerdict::Newer => page_lsn(page) > self.end,
            PageVerdict::Corrupt { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cluster::FileStat;
    use crate::postgres::page_checksum;

    const START: Lsn = Lsn::new(0x1000);

    fn page(block: u32, lsn: u32) -> Vec<u8> {
        let mut page = vec![7; PAGE_SIZE];
        page[..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        page[18..20].copy_from_slice(&8196_u16.to_le_bytes());
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    fn damaged(block: u32, lsn: u32) -> Vec<u8> {
        let mut page = page(block, lsn);
        page[5000] ^= 1;
        page
    }

    /// A data directory with one relation file of these pages, in its second file.
    fn relation(pages: &[Vec<u8>]) -> (tempfile::TempDir, Vec<FileEntry>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("16384.1"), pages.concat()).unwrap();
        let relation = RelationFile::parse("16384.1");
        let size = (pages.len() * PAGE_SIZE) as u64;
        let stat = FileStat::of(&dir.path().join("16384.1").metadata().unwrap());
        let entry = FileEntry { path: "16384.1".into(), size, mode: 0o600, stat, relation };
        (dir, vec![entry])
    }

    fn check(dir: &Path, copied: &mut [u8]) -> Vec<u32> {
        let file = File::open(dir.join("16384.1")).unwrap();
        let mut bad = Vec::new();
        check_pages(&file, RelationFile::parse("16384.1").unwrap(), 0, copied, START, &mut bad);
        bad
    }

    const FIRST: u32 = BLOCKS_PER_RELATION_FILE;

    /// A copy by a backup that began so many seconds after the file was written.
    fn copying(entry: &FileEntry, seconds: i64) -> Copying {
        let began = PgTime::from_unix_micros(entry.stat.modified / 1000 + seconds * 1_000_000);
        Copying { began, start: START, end: Lsn::new(0x3000) }
    }

    #[test]
    fn many_damaged_pages_are_not_waited_for() {
        let pages: Vec<Vec<u8>> = (0..200).map(|number| damaged(FIRST + number, 5)).collect();
        let (dir, files) = relation(&pages);
        let begun = Instant::now();
        let bad = check(dir.path(), &mut pages.concat());
        assert_eq!(bad, (FIRST..FIRST + 200).collect::<Vec<_>>());
        let suspects: Vec<_> = bad.into_iter().map(|block| Suspect { file: 0, block }).collect();
        let found = judge_again(dir.path(), &files, &suspects, copying(&files[0], 1)).unwrap();
        assert_eq!(found, suspects);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_reads_better_again_is_taken() {
        let (dir, _) = relation(&[page(FIRST, 5), page(FIRST + 1, 5)]);
        let mut copied = [page(FIRST, 5), damaged(FIRST + 1, 5)].concat();
        assert_eq!(check(dir.path(), &mut copied), [0; 0]);
        assert!(copied == [page(FIRST, 5), page(FIRST + 1, 5)].concat());
    }

    #[test]
    fn a_suspect_is_excused_by_what_was_written_since_the_backup_began() {
        let (dir, mut files) = relation(&[
            page(FIRST, 5),
            vec![0; PAGE_SIZE],
            damaged(FIRST + 2, 0x2000),
            damaged(FIRST + 3, 0x4000),
            damaged(FIRST + 4, 5),
            page(FIRST + 5, 0x2000),
        ]);
        let suspects: Vec<_> = (FIRST..FIRST + 7).map(|block| Suspect { file: 0, block }).collect();
        let judge = |files: &[FileEntry], seconds| {
            let copying = copying(&files[0], seconds);
            let found = judge_again(dir.path(), files, &suspects, copying).unwrap();
            found.into_iter().map(|suspect| suspect.block - FIRST).collect::<Vec<_>>()
        };
        assert_eq!(judge(&files, 1), [0, 1, 3, 4], "whole but never written, beyond the end of WAL, and old");
        assert_eq!(judge(&files, -1), [3, 4], "written before the listing");
        files[0].stat.changed -= 2_000_000_000;
        files[0].stat.modified -= 2_000_000_000;
        assert_eq!(judge(&files, 1), [3, 4], "written after the listing");
        files[0].path = "dropped".into();
        assert_eq!(judge(&files, 1), [0; 0]);
    }
}
