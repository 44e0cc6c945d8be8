//! A delta restore: what is on the disk already, and is what the backup has, stays; what is not in the backup goes.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::attempt::{LOST_AND_FOUND, MARK};
use super::destination::{Destination, create, set_mode};
use super::fetch::Piece;
use super::places::{TAKEN_OVER, UNFINISHED};
use super::plan::Plan;
use crate::disk::ReadBuffer;
use crate::error::{Error, Kind, Result};
use crate::format::first_other_page;
use crate::postgres::PAGE_SIZE;
use crate::repository::Repository;

/// What the backup has, by paths relative to the data directory.
#[derive(Debug)]
pub(super) struct Kept {
    files: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
}

impl Kept {
    /// Everything that the plan's backup has.
    pub(super) async fn read(repository: &Repository, plan: &Plan) -> Result<Self> {
        let directories = plan.backup.directories.iter();
        let directories = directories.map(|directory| directory.path.as_bytes().to_vec()).collect();
        let mut files: HashSet<Vec<u8>> =
            [UNFINISHED, TAKEN_OVER].iter().map(|name| name.as_bytes().to_vec()).collect();
        for number in 0..plan.backup.parts.len() {
            let number =
                u32::try_from(number).map_err(|_| Error::corrupt("the file table has too many parts"))?;
            let table = repository.get_file_table(&plan.backup.id, number).await?;
            files.extend(table.files.iter().map(|file| file.path.as_bytes().to_vec()));
        }
        Ok(Self { files, directories })
    }

    /// Remove from `directory`, which is `relative` to the data directory, everything else; links are removed, not
    /// followed.
    pub(super) fn clean(&self, directory: &Path, relative: &[u8]) -> Result<()> {
        set_mode_if_less(directory, 0o700)?;
        let entries =
            std::fs::read_dir(directory).map_err(|cause| Error::io("look into", directory, &cause))?;
        for entry in entries {
            let entry = entry.map_err(|cause| Error::io("look into", directory, &cause))?;
            let (path, name) = (entry.path(), entry.file_name());
            let below = match relative {
                b"" => name.as_bytes().to_vec(),
                relative => [relative, b"/", name.as_bytes()].concat(),
            };
            let metadata =
                std::fs::symlink_metadata(&path).map_err(|cause| Error::io("examine", &path, &cause))?;
            if metadata.is_dir() && self.directories.contains(&below) {
                self.clean(&path, &below)?;
            } else if !self.stays(&metadata, &below, &name) {
                remove(&path, &metadata)?;
            }
        }
        Ok(())
    }

    fn stays(&self, metadata: &Metadata, below: &[u8], name: &std::ffi::OsStr) -> bool {
        if metadata.is_dir() {
            return name == LOST_AND_FOUND;
        }
        // A second name would be written through, too.
        metadata.is_symlink() && name == MARK
            || metadata.is_file() && metadata.nlink() == 1 && self.files.contains(below)
    }
}

fn remove(path: &Path, metadata: &Metadata) -> Result<()> {
    let removed = if metadata.is_dir() {
        make_removable(path)?;
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(|cause| Error::io("remove", path, &cause))
}

/// Directories may keep out even their owner.
fn make_removable(directory: &Path) -> Result<()> {
    set_mode_if_less(directory, 0o700)?;
    for entry in std::fs::read_dir(directory).map_err(|cause| Error::io("look into", directory, &cause))? {
        let entry = entry.map_err(|cause| Error::io("look into", directory, &cause))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path())?;
        }
    }
    Ok(())
}

fn set_mode_if_less(path: &Path, least: u32) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|cause| Error::io("examine", path, &cause))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & least == least { Ok(()) } else { set_mode(path, mode | least) }
}

/// A file of the backup, and its pieces.
pub(super) struct Wanted {
    pub(super) file: Arc<Destination>,
    pub(super) size: u64,
    pub(super) pieces: Vec<Piece>,
}

/// Bytes of a file that one worker compares at a time: a cluster may be one large file.
const COMPARED: u64 = 32 << 20;

/// Pieces of a file that are compared together.
struct Share<'a> {
    of: &'a Wanted,
    pieces: &'a [Piece],
    /// The first of its file, which sees to its length and its permissions.
    first: bool,
}

/// Compare what is on the disk with the page digests of the backup: the pages that are not there, in the order of the files.
/// Files get their length and their permissions. `count` hears of every byte that is there. Blocks.
pub(super) fn missing(wanted: &[Wanted], seed: u64, count: &(dyn Fn(u64) + Sync)) -> Result<Vec<Piece>> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let shares: Vec<Share<'_>> = wanted.iter().flat_map(Wanted::shares).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let compare = || {
        let mut buffer = ReadBuffer::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = shares.get(number) else { return Ok(()) };
            let missing = share.missing(seed, &mut buffer, count)?;
            found.lock().unwrap_or_else(PoisonError::into_inner).push((number, missing));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(compare)).collect();
        let mut result = Ok(());
        for thread in threads {
            let done = thread.join().map_err(|_| Error::new(Kind::Other, "a comparing thread died"))?;
            result = result.and(done);
        }
        result
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found.into_iter().flat_map(|(_, missing)| missing).collect())
}

impl Wanted {
    /// Whether `file` has its length and its permissions: what is set again is written again.
    fn has_length_and_mode(&self, file: &File) -> bool {
        let mode = self.file.mode | 0o200;
        file.metadata()
            .is_ok_and(|there| there.len() == self.size && there.permissions().mode() & 0o7777 == mode)
    }

    fn shares(&self) -> Vec<Share<'_>> {
        let together = |one: &Piece, next: &Piece| one.position / COMPARED == next.position / COMPARED;
        let mut shares: Vec<Share<'_>> =
            self.pieces.chunk_by(together).map(|pieces| Share { of: self, pieces, first: false }).collect();
        match shares.first_mut() {
            Some(share) => share.first = true,
            None => shares.push(Share { of: self, pieces: &[], first: true }),
        }
        shares
    }
}

impl Share<'_> {
    fn missing(
        &self,
        seed: u64,
        buffer: &mut ReadBuffer,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Piece>> {
        let path = &self.of.file.path;
        if path.exists() {
            set_mode_if_less(path, 0o600)?;
        }
        let before = File::open(path).ok();
        if self.first && !before.as_ref().is_some_and(|file| self.of.has_length_and_mode(file)) {
            let file = create(&self.of.file)?;
            file.set_len(self.of.size).map_err(|cause| Error::io("cut", path, &cause))?;
        }
        let mut missing = Vec::new();
        for piece in self.pieces {
            let buffer = buffer.take(piece.extent.plain_len as usize);
            // What cannot be read is written again.
            let read = before.as_ref().map(|file| file.read_exact_at(buffer, piece.position));
            if !matches!(read, Some(Ok(()))) {
                missing.push(piece.clone());
                continue;
            }
            let others = other_pages(seed, buffer, &piece.digests).into_iter();
            let others: Vec<Piece> = others.map(|pages| piece.pages(pages)).collect();
            let bytes: u32 = others.iter().map(|piece| piece.extent.plain_len).sum();
            count(u64::from(piece.extent.plain_len - bytes));
            missing.extend(others);
        }
        Ok(missing)
    }
}

/// The runs of pages that differ: a page that changed leaves its neighbours as they are.
fn other_pages(seed: u64, bytes: &[u8], digests: &[u64]) -> Vec<Range<usize>> {
    let mut others: Vec<Range<usize>> = Vec::new();
    for (page, bytes) in bytes.chunks(PAGE_SIZE).enumerate() {
        let digest = digests.get(page..=page).unwrap_or_default();
        if first_other_page(seed, bytes, digest).is_none() {
            continue;
        }
        match others.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => others.push(page..page + 1),
        }
    }
    others
}

/// Bytes that were found in place.
#[derive(Debug, Default)]
pub(super) struct Found(AtomicU64);

impl Found {
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::format::{Extent, page_digest_seed};
    use crate::postgres::PAGE_SIZE;

    fn piece(file: &Arc<Destination>, position: u64, bytes: &[u8]) -> Piece {
        let mut digests = Vec::new();
        page_digest_seed(7, bytes, &mut digests);
        let plain_len = u32::try_from(bytes.len()).unwrap();
        let extent =
            Extent { pack: 0, frame: 0, offset: 64, stored_len: 1, frame_len: plain_len, skip: 0, plain_len };
        Piece { file: Arc::clone(file), position, extent, digests: digests.into() }
    }

    #[test]
    fn only_pages_that_differ_are_missing_and_files_get_their_length() {
        let dir = tempfile::tempdir().unwrap();
        let page = |byte| vec![byte; PAGE_SIZE];
        let content = [page(1), page(2), page(3), vec![4; 10]].concat();
        let file = Arc::new(Destination::new(dir.path().join("f"), 0o400));
        let pieces: Vec<Piece> = [0..2, 2..3]
            .map(|pages: std::ops::Range<usize>| {
                let at = pages.start * PAGE_SIZE;
                piece(&file, at as u64, &content[at..pages.end * PAGE_SIZE])
            })
            .into_iter()
            .chain([piece(&file, 3 * PAGE_SIZE as u64, &[4; 10])])
            .collect();
        let all = content.len() as u64;
        let compare = |content: Option<&[u8]>| {
            let _ = std::fs::remove_file(&file.path);
            if let Some(content) = content {
                std::fs::write(&file.path, content).unwrap();
                set_mode(&file.path, 0o200).unwrap();
            }
            let wanted = Wanted { file: Arc::clone(&file), size: all, pieces: pieces.clone() };
            let found = Found::default();
            let missing = missing(&[wanted], 7, &|bytes| found.add(bytes)).unwrap();
            assert_eq!(std::fs::metadata(&file.path).unwrap().len(), all);
            let mut positions: Vec<u64> =
                missing.iter().map(|piece| piece.position / PAGE_SIZE as u64).collect();
            positions.sort_unstable();
            (positions, found.get())
        };
        assert_eq!(compare(Some(&content)), (vec![], all));
        assert_eq!(compare(None), (vec![0, 2, 3], 0));
        assert_eq!(compare(Some(&[&content[..], b"more"].concat())), (vec![], all));
        let mut other = content.clone();
        other[PAGE_SIZE + 5] ^= 1;
        // Its neighbour in the piece stays.
        assert_eq!(compare(Some(&other)), (vec![1], all - PAGE_SIZE as u64));
        assert_eq!(compare(Some(&content[..content.len() - 1])), (vec![3], all - 10));
    }

    #[test]
    fn what_the_backup_does_not_have_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["base/1/2", "gone/deep", "link", "pg_tblspc", "locked/inside"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["base/1/10", "base/1/11", "base/1/2/x", "gone/deep/x", "PG_VERSION", "locked/inside/x"] {
            std::fs::write(root.join(path), "x").unwrap();
        }
        std::os::unix::fs::symlink(root.join("gone"), root.join("pg_tblspc/1")).unwrap();
        let elsewhere = tempfile::NamedTempFile::new_in(dir.path().parent().unwrap()).unwrap();
        std::fs::hard_link(elsewhere.path(), root.join("base/1/12")).unwrap();
        set_mode(&root.join("locked/inside"), 0o500).unwrap();
        let set = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let kept = Kept {
            files: set(&["base/1/11", "base/1/12", "PG_VERSION", "link", "base/1/2"]),
            directories: set(&["base", "base/1", "pg_tblspc"]),
        };
        kept.clean(root, b"").unwrap();
        let mut left: Vec<String> =
            walk(root).iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect();
        left.sort();
        assert_eq!(left, ["PG_VERSION", "base", "base/1", "base/1/11", "pg_tblspc"]);
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(
                |path| if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] },
            )
            .collect()
    }
}
