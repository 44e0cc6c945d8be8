//! A delta restore: what is already on the disk and matches the backup stays.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::delta::set_mode_if_less;
use super::destination::{Destination, create};
use super::fetch::Piece;
use crate::disk::ReadBuffer;
use crate::error::{Error, Kind, Result};
use crate::format::first_other_page;
use crate::postgres::PAGE_SIZE;

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

/// Bytes compared before the first of what is missing is asked for, of which each later time twice as many are waited for,
/// and at most: requests are early and long.
const FIRST_BATCH: u64 = COMPARED;
const LONGEST_BATCH: u64 = 4 * COMPARED;

/// Compare what is on the disk with the page digests of the backup: the pages that are not there, in the order of the files,
/// while the rest is still compared. Files get their length and their permissions before their pages come. `count` hears of
/// every byte that is there. Nothing is compared before the stream is asked.
pub(super) fn missing(
    wanted: Vec<Wanted>,
    seed: u64,
    count: impl Fn(u64) + Send + Sync + 'static,
) -> impl Stream<Item = Result<Vec<Piece>>> + Send {
    let begin = async move {
        let (compared, found) = mpsc::unbounded_channel();
        let comparing = tokio::task::spawn_blocking(move || compare(&wanted, seed, &count, &compared));
        let in_order =
            InOrder { found, comparing: Some(comparing), early: HashMap::new(), next: 0, batch: FIRST_BATCH };
        stream::try_unfold(in_order, InOrder::batch)
    };
    stream::once(begin).flatten()
}

/// What is known of the share with a number.
struct Compared {
    number: usize,
    bytes: u64,
    missing: Vec<Piece>,
}

/// Puts in order what is compared by several.
struct InOrder {
    found: mpsc::UnboundedReceiver<Compared>,
    /// Until all is compared.
    comparing: Option<JoinHandle<Result<()>>>,
    /// Of which an earlier one is still compared.
    early: HashMap<usize, Compared>,
    next: usize,
    /// Bytes of the next batch.
    batch: u64,
}

impl InOrder {
    async fn batch(mut self) -> Result<Option<(Vec<Piece>, Self)>> {
        let (mut bytes, mut missing) = (0, Vec::new());
        while bytes < self.batch {
            if let Some(next) = self.early.remove(&self.next) {
                self.next += 1;
                bytes += next.bytes;
                missing.extend(next.missing);
            } else if let Some(found) = self.found.recv().await {
                self.early.insert(found.number, found);
            } else {
                let Some(comparing) = self.comparing.take() else { return Ok(None) };
                comparing.await.map_err(|_| Error::new(Kind::Other, "a comparing thread died"))??;
                break;
            }
        }
        self.batch = LONGEST_BATCH.min(self.batch * 2);
        Ok(Some((missing, self)))
    }
}

/// Compare all, with every core. Ends early when nobody wants to know. Blocks.
fn compare(
    wanted: &[Wanted],
    seed: u64,
    count: &(dyn Fn(u64) + Sync),
    compared: &mpsc::UnboundedSender<Compared>,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let shares: Vec<Share<'_>> = wanted.iter().flat_map(Wanted::shares).collect();
    let next = AtomicUsize::new(0);
    let compare = || {
        let mut buffer = ReadBuffer::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = shares.get(number) else { return Ok(()) };
            let missing = share.missing(seed, &mut buffer, count)?;
            if compared.send(Compared { number, bytes: share.bytes(), missing }).is_err() {
                return Ok(());
            }
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
    })
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
    fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.extent.plain_len)).sum()
    }

    fn missing(
        &self,
        seed: u64,
        buffer: &mut ReadBuffer,
        count: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Piece>> {
        let path = &self.of.file.path;
        let before = match File::open(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                set_mode_if_less(path, 0o600)?;
                File::open(path)
            }
            opened => opened,
        };
        let before = before.ok();
        if self.first && !before.as_ref().is_some_and(|file| self.of.has_length_and_mode(file)) {
            if before.is_some() {
                set_mode_if_less(path, 0o600)?;
            }
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
    use futures_util::TryStreamExt;

    use super::*;
    use crate::format::{Extent, page_digest_seed};
    use crate::restore::destination::set_mode;

    fn piece(file: &Arc<Destination>, position: u64, bytes: &[u8]) -> Piece {
        let mut digests = Vec::new();
        page_digest_seed(7, bytes, &mut digests);
        let plain_len = u32::try_from(bytes.len()).unwrap();
        let extent =
            Extent { pack: 0, frame: 0, offset: 64, stored_len: 1, frame_len: plain_len, skip: 0, plain_len };
        Piece { file: Arc::clone(file), position, extent, digests: digests.into() }
    }

    fn all_missing(wanted: Vec<Wanted>, seed: u64, found: Arc<Found>) -> Vec<Piece> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(missing(wanted, seed, move |bytes| found.add(bytes)).try_concat()).unwrap()
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
            let found = Arc::new(Found::default());
            let missing = all_missing(vec![wanted], 7, Arc::clone(&found));
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

    #[tokio::test]
    async fn what_is_compared_out_of_order_comes_in_order_and_in_batches() {
        let (compared, found) = mpsc::unbounded_channel();
        let file = Arc::new(Destination::new("f".into(), 0));
        let share = |number: usize, bytes| Compared {
            number,
            bytes,
            missing: vec![piece(&file, number as u64, &[0])],
        };
        for (number, bytes) in [(2, 1), (0, FIRST_BATCH), (1, LONGEST_BATCH), (3, 0)] {
            compared.send(share(number, bytes)).unwrap();
        }
        drop(compared);
        let comparing = Some(tokio::spawn(async { Ok(()) }));
        let in_order = InOrder { found, comparing, early: HashMap::new(), next: 0, batch: FIRST_BATCH };
        let batches = stream::try_unfold(in_order, InOrder::batch)
            .map_ok(|pieces| pieces.iter().map(|piece| piece.position).collect::<Vec<_>>());
        assert_eq!(batches.try_collect::<Vec<_>>().await.unwrap(), [vec![0], vec![1], vec![2, 3]]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_ends_the_comparison() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = |name: &str| Wanted {
            file: Arc::new(Destination::new(dir.path().join(name), 0o600)),
            size: 0,
            pieces: Vec::new(),
        };
        let error = missing(vec![wanted("1"), wanted("gone/2")], 7, |_| {}).try_concat().await.unwrap_err();
        assert!(error.to_string().contains("gone/2"), "{error}");
    }
}
