//! WAL files as sealed objects: a summary frame, then the content in frames of 1 MiB.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use bytes::Bytes;

use super::identity::{Identity, WalDigest};
use super::summary::Summary;
use crate::disk::{ReadAt, ReadBuffer};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::WalName;
use crate::seal::{
    Compressor, Context, Decompressor, FRAME_OVERHEAD, HEADER_LEN, KeyRing, ObjectKind, Opener, Sealer,
    tree_hash,
};

/// The largest segment size that PostgreSQL knows: no WAL file is larger.
const LARGEST_SEGMENT: usize = 1 << 30;
/// Plaintext bytes of a content frame.
pub const WAL_FRAME: usize = 1 << 20;

/// Looks at a WAL file's bytes while they are sealed.
pub trait Inspect {
    /// The next bytes; an error refuses the file.
    fn feed(&mut self, bytes: &[u8]) -> Result<()>;
    /// The end of the file, `plain_len` bytes in all.
    fn finish(self, plain_len: u64) -> Result<Summary>;
}

/// A sealed WAL file in memory, ready to be put.
#[derive(Debug)]
pub struct SealedWal {
    /// The object's bytes, in order.
    pub parts: Vec<Bytes>,
    /// BLAKE3 of the plaintext; with the identity's secret it becomes the digest in the key.
    pub plain_hash: [u8; 32],
    /// What the object says about itself.
    pub summary: Summary,
}

impl SealedWal {
    /// The digest for its key.
    pub fn digest(&self, identity: &Identity) -> Result<WalDigest> {
        Ok(identity.wal_digest(&self.plain_hash)?.linked(self.summary.links))
    }

    /// Bytes of the object.
    pub fn stored_len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// What binds a WAL object to its name.
pub(crate) fn context<'a>(identity: &'a str, name: &'a str) -> Context<'a> {
    Context { kind: ObjectKind::Wal, identity, name }
}

/// Seal the WAL file `name` of `len` bytes from `source`, on `threads` threads; `inspect` sees every byte, in order.
/// Holds the object and a frame for each thread in memory, never the file.
pub fn seal_wal(
    keys: &KeyRing,
    identity: &str,
    name: &WalName,
    (level, threads): (i32, usize),
    source: &dyn ReadAt,
    len: u64,
    inspect: impl Inspect + Send,
) -> Result<SealedWal> {
    let name = name.to_string();
    let frame_limit = u32::try_from(WAL_FRAME).unwrap_or(u32::MAX);
    let sealer = Sealer::new(keys, context(identity, &name), frame_limit)?;
    let turns = Mutex::new(Turns { next: 0, inspect, failed: false });
    let work = Work { source, len, claimed: AtomicU64::new(0), turns, turn: Condvar::new() };
    let mut frames = std::thread::scope(|scope| {
        let seal = || seal_frames(&sealer, level, &work);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(seal)).collect();
        let mut results = vec![seal()];
        results.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(thread_died()))));
        let parts = results.into_iter().collect::<Result<Vec<Vec<Frame>>>>()?;
        Ok::<_, Error>(parts.into_iter().flatten().collect::<Vec<Frame>>())
    })?;
    frames.sort_unstable_by_key(|frame| frame.index);
    let inspect = work.turns.into_inner().map_err(|_| thread_died())?.inspect;
    let summary = inspect.finish(len)?;
    let mut first = sealer.header().to_vec();
    sealer.seal_frame(&mut Compressor::new(level)?, 0, len == 0, &summary.to_bytes(), &mut first)?;
    let sums: Vec<_> = frames.iter().map(|frame| frame.sum).collect();
    let plain_hash = tree_hash::of_parts(&sums);
    let parts = std::iter::once(first).chain(frames.into_iter().map(|frame| frame.sealed));
    Ok(SealedWal { parts: parts.map(Bytes::from).collect(), plain_hash, summary })
}

fn thread_died() -> Error {
    Error::new(Kind::Other, "a sealing thread died")
}

/// A WAL file that several threads seal, a frame each: a frame is read, hashed and sealed on one core.
struct Work<'a, I> {
    source: &'a dyn ReadAt,
    len: u64,
    /// Frames that somebody seals, or has sealed.
    claimed: AtomicU64,
    turns: Mutex<Turns<I>>,
    turn: Condvar,
}

/// What goes on in the order of the frames.
struct Turns<I> {
    /// The frame that is looked at next.
    next: u64,
    inspect: I,
    /// Somebody left before it was done.
    failed: bool,
}

impl<I: Inspect> Work<'_, I> {
    /// Let `inspect` see a frame when it has seen all before it; `false` if that will never be.
    fn look_at(&self, frame: &[u8], index: u64) -> Result<bool> {
        let turns = self.turns.lock().map_err(|_| thread_died())?;
        let mut turns = self
            .turn
            .wait_while(turns, |turns| turns.next != index && !turns.failed)
            .map_err(|_| thread_died())?;
        if turns.failed {
            return Ok(false);
        }
        turns.inspect.feed(frame)?;
        turns.next += 1;
        drop(turns);
        self.turn.notify_all();
        Ok(true)
    }
}

/// Lets nobody wait for the turn of a thread that has left.
struct Leaves<'a, 'b, I>(&'a Work<'b, I>);

impl<I> Drop for Leaves<'_, '_, I> {
    fn drop(&mut self) {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.0.turn.notify_all();
    }
}

/// A sealed frame.
struct Frame {
    /// From 0 on.
    index: u64,
    /// Of its plaintext.
    sum: tree_hash::PartHash,
    sealed: Vec<u8>,
}

fn seal_frames<I: Inspect>(sealer: &Sealer, level: i32, work: &Work<'_, I>) -> Result<Vec<Frame>> {
    let leaves = Leaves(work);
    let mut compressor = Compressor::new(level)?;
    let (mut buffer, mut scratch) = (ReadBuffer::default(), Vec::new());
    let mut done = Vec::new();
    loop {
        let index = work.claimed.fetch_add(1, Ordering::Relaxed);
        let at = index * WAL_FRAME as u64;
        if at >= work.len {
            // Those that it claimed it has looked at.
            std::mem::forget(leaves);
            return Ok(done);
        }
        let left = work.len - at;
        let plain = buffer.take(usize::try_from(left).map_or(WAL_FRAME, |left| left.min(WAL_FRAME)));
        work.source
            .read_exact_at(plain, at)
            .map_err(|cause| Error::new(Kind::Other, format!("read the file: {cause}")))?;
        let sum = tree_hash::of_part(plain, at, work.len);
        if !work.look_at(plain, index)? {
            return Ok(done);
        }
        scratch.clear();
        sealer.seal_frame(
            &mut compressor,
            index + 1,
            at + plain.len() as u64 == work.len,
            plain,
            &mut scratch,
        )?;
        // An exact copy: the scratch buffer is as large as the worst case, sixteen of those would be a segment.
        done.push(Frame { index, sum, sealed: scratch.as_slice().to_vec() });
    }
}

/// Open a whole WAL object: its summary and content, authenticated. The caller checks the content's digest
/// against the key, which is the only place where that is known.
pub fn open_wal(keys: &KeyRing, identity: &str, name: &WalName, bytes: &[u8]) -> Result<(Summary, Vec<u8>)> {
    let open = || {
        let text = name.to_string();
        let opener = Opener::new(keys, context(identity, &text), bytes)?;
        let mut decompressor = Decompressor::new()?;
        let mut plain = Vec::new();
        let (mut last, mut rest) =
            opener.open_frame(&mut decompressor, 0, &bytes[HEADER_LEN..], &mut plain)?;
        let summary = Summary::parse(&plain)?;
        plain.clear();
        let Some(len) = usize::try_from(summary.plain_len).ok().filter(|len| *len <= LARGEST_SEGMENT) else {
            return Err(Error::corrupt("the object says that it is larger than any segment"));
        };
        plain.reserve_exact(len);
        for index in 1.. {
            if last || rest.is_empty() {
                break;
            }
            (last, rest) = opener.open_frame(&mut decompressor, index, rest, &mut plain)?;
            if plain.len() as u64 > summary.plain_len {
                break;
            }
        }
        if !last || !rest.is_empty() || plain.len() as u64 != summary.plain_len {
            return Err(Error::corrupt("the object does not end where its last frame does"));
        }
        Ok((summary, plain))
    };
    open().with_context(|| format!("open WAL file {name}"))
}

/// Open the summary of a WAL object from the bytes that it begins with.
pub(crate) fn open_summary(keys: &KeyRing, identity: &str, name: &WalName, bytes: &[u8]) -> Result<Summary> {
    let text = name.to_string();
    let opener = Opener::new(keys, context(identity, &text), bytes)?;
    let mut plain = Vec::new();
    opener.open_frame(&mut Decompressor::new()?, 0, &bytes[HEADER_LEN..], &mut plain)?;
    Summary::parse(&plain)
}

/// Bytes from the start of an object that surely hold its summary frame, unless restore points make it longer.
pub(crate) const SUMMARY_RANGE: u64 = (HEADER_LEN + FRAME_OVERHEAD + 512) as u64;
/// Bytes that hold it in any case: 64 restore points, and the writer.
pub(crate) const LONGEST_SUMMARY_RANGE: u64 = SUMMARY_RANGE + 64 * (8 + 8 + 1 + 255) + 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::MasterKey;

    struct Count(u64);

    impl Inspect for Count {
        fn feed(&mut self, bytes: &[u8]) -> Result<()> {
            self.0 += bytes.len() as u64;
            Ok(())
        }

        fn finish(self, plain_len: u64) -> Result<Summary> {
            assert_eq!(self.0, plain_len);
            Ok(Summary::of_length(plain_len))
        }
    }

    /// Refuses what begins with a one.
    struct Refuse;

    impl Inspect for Refuse {
        fn feed(&mut self, bytes: &[u8]) -> Result<()> {
            if bytes[0] == 1 { Err(Error::corrupt("refused")) } else { Ok(()) }
        }

        fn finish(self, _: u64) -> Result<Summary> {
            panic!("it was refused")
        }
    }

    #[test]
    fn what_one_thread_refuses_or_cannot_read_ends_them_all() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name: WalName = "000000010000000000000001".parse().unwrap();
        for refused in [0, 1, 4] {
            let mut plain = vec![0; 5 * WAL_FRAME];
            plain[refused * WAL_FRAME] = 1;
            let sealed =
                seal_wal(&keys, "main/7", &name, (1, 3), &plain.as_slice(), plain.len() as u64, Refuse);
            assert!(sealed.unwrap_err().to_string().contains("refused"));
        }
        let short = vec![0; 3 * WAL_FRAME];
        let sealed =
            seal_wal(&keys, "main/7", &name, (1, 3), &short.as_slice(), 4 * WAL_FRAME as u64, Refuse);
        assert!(sealed.unwrap_err().to_string().contains("read the file"));
    }

    #[test]
    fn wal_objects_of_all_sizes_round_trip_with_one_and_more_threads() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name: WalName = "000000010000000000000001".parse().unwrap();
        for len in [0, 1, WAL_FRAME, WAL_FRAME + 1, 2 * WAL_FRAME, 5 * WAL_FRAME, 6 * WAL_FRAME + 1025] {
            let plain: Vec<u8> = (0..len).map(|at| u8::try_from(at % 253).unwrap()).collect();
            for threads in [1, 3] {
                let sealed =
                    seal_wal(&keys, "main/7", &name, (1, threads), &plain.as_slice(), len as u64, Count(0))
                        .unwrap();
                let bytes = sealed.parts.concat();
                let (summary, opened) = open_wal(&keys, "main/7", &name, &bytes).unwrap();
                assert_eq!(opened, plain);
                assert_eq!(sealed.plain_hash, *blake3::hash(&plain).as_bytes());
                let head = &bytes[..bytes.len().min(usize::try_from(SUMMARY_RANGE).unwrap())];
                assert_eq!(open_summary(&keys, "main/7", &name, head).unwrap(), summary);
                open_wal(&keys, "main/7", &name, &bytes[..bytes.len() - 1]).unwrap_err();
            }
        }
    }
}
