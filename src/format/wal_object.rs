//! WAL files as sealed objects: a summary frame, then the content in frames of 1 MiB.

use std::io::Read;
use std::sync::Mutex;

use bytes::Bytes;

use super::identity::{Identity, WalDigest};
use super::summary::Summary;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::WalName;
use crate::seal::{
    Compressor, Context, Decompressor, FRAME_OVERHEAD, HEADER_LEN, KeyRing, ObjectKind, Opener, Sealer,
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

type Done = (u64, Vec<u8>);

/// Seal the WAL file `name` of `len` bytes from `source`, on `threads` threads; `inspect` sees every byte first.
/// Holds the object and a frame for each thread in memory, never the file.
pub fn seal_wal(
    keys: &KeyRing,
    identity: &str,
    name: &WalName,
    (level, threads): (i32, usize),
    source: &mut (dyn Read + Send),
    len: u64,
    inspect: impl Inspect + Send,
) -> Result<SealedWal> {
    let name = name.to_string();
    let frame_limit = u32::try_from(WAL_FRAME).unwrap_or(u32::MAX);
    let sealer = Sealer::new(keys, context(identity, &name), frame_limit)?;
    let source =
        Mutex::new(Source { file: source, left: len, index: 1, inspect, hasher: blake3::Hasher::new() });
    let frames = std::thread::scope(|scope| {
        let seal = || seal_frames(&sealer, level, &source);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(seal)).collect();
        let mut results = vec![seal()];
        results.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(thread_died()))));
        results.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let Source { inspect, hasher, .. } = source.into_inner().map_err(|_| thread_died())?;
    let summary = inspect.finish(len)?;
    let mut first = sealer.header().to_vec();
    sealer.seal_frame(&mut Compressor::new(level)?, 0, len == 0, &summary.to_bytes(), &mut first)?;
    let parts = in_order(first, frames.concat());
    Ok(SealedWal { parts, plain_hash: *hasher.finalize().as_bytes(), summary })
}

fn thread_died() -> Error {
    Error::new(Kind::Other, "a sealing thread died")
}

/// A WAL file that several threads read, a frame each in turn: a frame is sealed on the core in whose cache it lies.
struct Source<'a, I> {
    file: &'a mut (dyn Read + Send),
    /// Bytes that are not read yet.
    left: u64,
    /// Of the next frame.
    index: u64,
    inspect: I,
    hasher: blake3::Hasher,
}

impl<I: Inspect> Source<'_, I> {
    /// Read the next frame into `frame`: its index, and whether it is the last one. `None` when all were read, or somebody
    /// failed to.
    fn next(&mut self, frame: &mut Vec<u8>) -> Result<Option<(u64, bool)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let left = std::mem::take(&mut self.left);
        frame.resize(usize::try_from(left).map_or(WAL_FRAME, |left| left.min(WAL_FRAME)), 0);
        self.file
            .read_exact(frame)
            .map_err(|cause| Error::new(Kind::Other, format!("read the file: {cause}")))?;
        self.inspect.feed(frame)?;
        self.hasher.update(frame);
        self.left = left - frame.len() as u64;
        let index = self.index;
        self.index += 1;
        Ok(Some((index, self.left == 0)))
    }
}

fn seal_frames<I: Inspect>(sealer: &Sealer, level: i32, source: &Mutex<Source<'_, I>>) -> Result<Vec<Done>> {
    let mut compressor = Compressor::new(level)?;
    let (mut frame, mut scratch) = (Vec::new(), Vec::new());
    let mut done = Vec::new();
    loop {
        let next = source.lock().map_err(|_| thread_died())?.next(&mut frame)?;
        let Some((index, last)) = next else { return Ok(done) };
        scratch.clear();
        sealer.seal_frame(&mut compressor, index, last, &frame, &mut scratch)?;
        // An exact copy: the scratch buffer is as large as the worst case, sixteen of those would be a segment.
        done.push((index, scratch.as_slice().to_vec()));
    }
}

fn in_order(first: Vec<u8>, mut frames: Vec<Done>) -> Vec<Bytes> {
    frames.sort_unstable_by_key(|(index, _)| *index);
    std::iter::once(first).chain(frames.into_iter().map(|(_, frame)| frame)).map(Bytes::from).collect()
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

    #[test]
    fn wal_objects_of_all_sizes_round_trip_with_one_and_more_threads() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name: WalName = "000000010000000000000001".parse().unwrap();
        for len in [0, 1, WAL_FRAME, WAL_FRAME + 1, 5 * WAL_FRAME] {
            let plain: Vec<u8> = (0..len).map(|at| u8::try_from(at % 253).unwrap()).collect();
            for threads in [1, 3] {
                let sealed = seal_wal(
                    &keys,
                    "main/7",
                    &name,
                    (1, threads),
                    &mut plain.as_slice(),
                    len as u64,
                    Count(0),
                )
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
