//! The workers of a restore: open frames, write what the files have of them.

use std::fs::File;
use std::io::IoSlice;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use super::destination::{Destination, create};
use super::fetch::{Pack, Piece};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{Extent, PackReader, first_other_page};
use crate::seal::Decompressor;

/// Pieces that follow each other are written together up to so many bytes, and a longer one by itself.
const TOGETHER: u32 = 256 << 10;
/// And no more than so many: the system takes 1024 (`IOV_MAX`).
const MOST_TOGETHER: usize = 256;

/// What one request brought.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Index into the part's packs.
    pub(super) pack: u32,
    /// Offset in the pack of the first of `bytes`.
    pub(super) begin: u64,
    pub(super) bytes: Bytes,
}

/// A share of a stretch, ready to be written.
pub(super) struct Fetched {
    pub(super) pieces: Vec<Piece>,
    pub(super) packs: Arc<[Arc<Pack>]>,
    /// Of the stretch, by pack and begin.
    pub(super) chunks: Arc<[Chunk]>,
    /// Memory that others may have when all shares are written.
    pub(super) _memory: Arc<OwnedSemaphorePermit>,
}

/// Opens frames.
pub(super) struct Frames {
    decompressor: Decompressor,
    /// Memory of frames that nobody needs any more.
    spare: Vec<Vec<u8>>,
    /// The repository's, for page digests.
    seed: u64,
}

impl Frames {
    pub(super) fn new(seed: u64) -> Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, spare: Vec::new(), seed })
    }

    /// The frame that the extent lies in, stored as exactly `stored`, opened so far that its first `len` bytes are there.
    pub(super) fn open(
        &mut self,
        reader: &PackReader,
        extent: &Extent,
        stored: &[u8],
        len: usize,
    ) -> Result<Vec<u8>> {
        let mut plain = self.spare.pop().unwrap_or_default();
        plain.clear();
        reader.open_beginning(&mut self.decompressor, u64::from(extent.frame), stored, len, &mut plain)?;
        Ok(plain)
    }

    /// The extent's bytes in its opened frame, page by page what was read when the backup was taken: the seal covers pages
    /// as they were filtered, these digests what comes out in the end (R25).
    pub(super) fn extent<'a>(&self, plain: &'a [u8], extent: &Extent, digests: &[u64]) -> Result<&'a [u8]> {
        let bytes = extent.of(plain)?;
        match first_other_page(self.seed, bytes, digests) {
            None => Ok(bytes),
            Some(page) => Err(Error::corrupt(format!(
                "page {page} of an extent is not the one that was backed up (digest)"
            ))
            .hint("its frame is authentic: is this host's memory sound? try again, or an older backup (--backup)")),
        }
    }
}

/// Write what was fetched until no more comes; `count` hears of every written byte.
pub(super) fn write_shares(
    shares: &Mutex<Receiver<Fetched>>,
    seed: u64,
    count: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut frames = Frames::new(seed)?;
    loop {
        let next =
            shares.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?.blocking_recv();
        let Some(fetched) = next else { return Ok(()) };
        if let Err(error) = write_share(&fetched, &mut frames, count) {
            // Nothing more is fetched: the operator need not wait for the rest to hear of it.
            shares.lock().unwrap_or_else(std::sync::PoisonError::into_inner).close();
            return Err(error);
        }
    }
}

fn write_share(fetched: &Fetched, frames: &mut Frames, count: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let (mut uses, use_of) = uses(&fetched.pieces);
    let mut open: Option<(&Arc<Destination>, File)> = None;
    let mut begin = 0;
    while let Some(first) = fetched.pieces.get(begin) {
        let range = begin..begin + together(&fetched.pieces[begin..]);
        begin = range.end;
        let (pieces, numbers) = (&fetched.pieces[range.clone()], &use_of[range]);
        for number in numbers {
            let of = &mut uses[*number];
            if of.plain.is_empty() {
                of.plain = fetched.open(&of.pieces, frames)?;
            }
        }
        let slices = pieces.iter().zip(numbers);
        let slices = slices.map(|(piece, number)| piece.extent.of(&uses[*number].plain).map(IoSlice::new));
        let mut slices: Vec<IoSlice<'_>> = slices.collect::<Result<_>>()?;
        if !open.as_ref().is_some_and(|(open, _)| Arc::ptr_eq(open, &first.file)) {
            open = Some((&first.file, create(&first.file)?));
        }
        if let Some((destination, file)) = &open {
            destination.write(file, first.position, &mut slices)?;
        }
        count(pieces.iter().map(|piece| u64::from(piece.extent.plain_len)).sum());
        for number in numbers {
            let of = &mut uses[*number];
            of.left -= 1;
            if of.left == 0 {
                frames.spare.push(std::mem::take(&mut of.plain));
            }
        }
    }
    Ok(())
}

/// How many of the pieces are written together: they follow each other in one file.
fn together(pieces: &[Piece]) -> usize {
    let mut bytes = 0;
    let follows = |one: &Piece, next: &Piece| {
        Arc::ptr_eq(&one.file, &next.file) && one.position + u64::from(one.extent.plain_len) == next.position
    };
    let more = pieces.windows(2).take(MOST_TOGETHER - 1).take_while(|pair| {
        bytes += pair[0].extent.plain_len;
        follows(&pair[0], &pair[1]) && bytes + pair[1].extent.plain_len <= TOGETHER
    });
    (1 + more.count()).min(pieces.len())
}

/// A frame and what a share has of it.
struct Use<'a> {
    pieces: Vec<&'a Piece>,
    /// Pieces that are not written yet.
    left: usize,
    /// Opened, from the first of its pieces to the last.
    plain: Vec<u8>,
}

/// The frames of a share, and the number of that of each piece.
fn uses(pieces: &[Piece]) -> (Vec<Use<'_>>, Vec<usize>) {
    let place = |piece: usize| (pieces[piece].extent.pack, pieces[piece].extent.offset);
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_unstable_by_key(|piece| (place(*piece), *piece));
    let mut use_of = vec![0; pieces.len()];
    let mut uses = Vec::new();
    for of_frame in order.chunk_by(|one, next| place(*one) == place(*next)) {
        for piece in of_frame {
            use_of[*piece] = uses.len();
        }
        let pieces = of_frame.iter().map(|piece| &pieces[*piece]).collect();
        uses.push(Use { pieces, left: of_frame.len(), plain: Vec::new() });
    }
    (uses, use_of)
}

impl Fetched {
    /// Open the frame that the pieces lie in. All of them are compared with their digests at once, while what was opened is
    /// near: others are opened before the last of them is written.
    fn open(&self, pieces: &[&Piece], frames: &mut Frames) -> Result<Vec<u8>> {
        let restoring = |piece: &Piece| format!("restore {}", piece.file.path.display());
        let Some(first) = pieces.first() else { return Ok(Vec::new()) };
        let pack = &self.packs[first.extent.pack as usize];
        let len = pieces.iter().map(|piece| piece.extent.end()).max().unwrap_or_default();
        let stored = self.stored(first).with_context(|| restoring(first))?;
        let plain =
            frames.open(&pack.reader, &first.extent, stored, len).with_context(|| restoring(first))?;
        for piece in pieces {
            frames.extent(&plain, &piece.extent, &piece.digests).with_context(|| restoring(piece))?;
        }
        Ok(plain)
    }

    /// The frame that a piece lies in, as stored.
    fn stored(&self, piece: &Piece) -> Result<&[u8]> {
        let frame = piece.frame();
        let behind = self
            .chunks
            .partition_point(|chunk| (chunk.pack, chunk.begin) <= (piece.extent.pack, frame.start));
        let chunk = behind.checked_sub(1).and_then(|at| self.chunks.get(at));
        let stored = chunk.filter(|chunk| chunk.pack == piece.extent.pack).and_then(|chunk| {
            let begin = usize::try_from(frame.start - chunk.begin).ok()?;
            chunk.bytes.get(begin..begin + piece.extent.stored_len as usize)
        });
        stored.ok_or_else(|| Error::corrupt("a pack is shorter than the file table says"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FramePlace, PackName, PackRef, PackWriter};
    use crate::seal::{KeyRing, PageCompressor};

    /// A piece of `frame`, of so many bytes of a file.
    fn piece(file: &Arc<Destination>, frame: u32, position: u64, plain_len: u32) -> Piece {
        let extent =
            Extent { pack: 0, frame, offset: frame, stored_len: 1, frame_len: 1, skip: 0, plain_len };
        Piece { file: Arc::clone(file), position, extent, digests: Box::default() }
    }

    #[test]
    fn what_follows_each_other_in_a_file_is_written_together_up_to_a_limit() {
        let [one, other] = ["1", "2"].map(|path| Arc::new(Destination::new(path.into(), 0)));
        let page = |file, number: u32| piece(file, 1, u64::from(number) * 8192, 8192);
        let pages = |range: std::ops::Range<u32>| range.map(|number| page(&one, number)).collect::<Vec<_>>();
        assert_eq!(together(&[]), 0);
        assert_eq!(together(&pages(0..40)), 32);
        assert_eq!(together(&[pages(0..2), pages(3..4)].concat()), 2, "a page between them stays as it is");
        assert_eq!(together(&[page(&one, 0), page(&other, 1)]), 1);
        assert_eq!(
            together(&[piece(&one, 1, 0, TOGETHER + 1), piece(&one, 1, u64::from(TOGETHER) + 1, 1)]),
            1
        );
        let bytes: Vec<Piece> = (0..1000).map(|position| piece(&one, 1, position, 1)).collect();
        assert_eq!(together(&bytes), MOST_TOGETHER);
    }

    #[test]
    fn after_one_workers_error_nothing_more_is_taken() {
        let keys = KeyRing::unencrypted();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 3 };
        let mut compressor = PageCompressor::new(1).unwrap();
        let writer = PackWriter::new(&keys, "main/7", name.clone(), 1 << 18, Vec::new()).unwrap();
        let header = writer.finish(&mut compressor).unwrap().header;
        let reader = PackReader::new(&keys, "main/7", name.clone(), &header).unwrap();
        let pack = Arc::new(Pack { pack: PackRef { name, header, digests: FramePlace::default() }, reader });
        let file = Arc::new(Destination::new("1".into(), 0));
        let memory = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let lacks_its_frame = Fetched {
            pieces: vec![piece(&file, 1, 0, 1)],
            packs: Arc::new([pack]),
            chunks: Arc::new([]),
            _memory: Arc::new(memory),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.try_send(lacks_its_frame).map_err(drop).unwrap();
        let receiver = Mutex::new(receiver);
        let error = write_shares(&receiver, 1, &|_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(sender.is_closed(), "the others would be handed the rest of the backup");
    }

    #[test]
    fn each_frame_knows_its_pieces() {
        let file = Arc::new(Destination::new("1".into(), 0));
        let pieces: Vec<Piece> =
            [7, 3, 7, 9].iter().zip(0..).map(|(frame, at)| piece(&file, *frame, at, 1)).collect();
        let (uses, use_of) = uses(&pieces);
        assert_eq!(use_of, [1, 0, 1, 2]);
        let positions: Vec<Vec<u64>> =
            uses.iter().map(|of| of.pieces.iter().map(|piece| piece.position).collect()).collect();
        assert_eq!(positions, [vec![1], vec![0, 2], vec![3]]);
        assert!(uses.iter().all(|of| of.left == of.pieces.len()));
    }
}
