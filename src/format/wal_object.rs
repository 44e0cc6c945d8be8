//! WAL files as sealed objects: a summary frame, then the content in frames of 1 MiB.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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

type Work = (u64, bool, Vec<u8>);
type Done = (u64, Vec<u8>);

/// Seal the WAL file `name` of `len` bytes from `source`, on `threads` threads; `inspect` sees every byte first.
/// Holds the object and a few frames in memory, never the file.
pub fn seal_wal(
    keys: &KeyRing,
    identity: &str,
    name: &WalName,
    (level, threads): (i32, usize),
    source: &mut dyn Read,
    len: u64,
    mut inspect: impl Inspect,
) -> Result<SealedWal> {
    let name = name.to_string();
    let frame_limit = u32::try_from(WAL_FRAME).unwrap_or(u32::MAX);
    let sealer = Sealer::new(keys, context(identity, &name), frame_limit)?;
    let mut hasher = blake3::Hasher::new();
    let (work_in, work_out) = sync_channel::<Work>(threads);
    let (spare_in, spare_out) = sync_channel::<Vec<u8>>(threads * 2 + 2);
    let work_out = Mutex::new(work_out);
    let (frames, read) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                let (spare_in, work_out, sealer) = (spare_in.clone(), &work_out, &sealer);
                scope.spawn(move || seal_frames(sealer, level, work_out, &spare_in))
            })
            .collect();
        let read = read_frames(source, len, &work_in, &spare_out, &mut |bytes| {
            inspect.feed(bytes)?;
            hasher.update(bytes);
            Ok(())
        });
        drop(work_in);
        let mut frames = Vec::new();
        for worker in workers {
            frames.extend(worker.join().map_err(|_| Error::new(Kind::Other, "a sealing thread died"))??);
        }
        Ok::<_, Error>((frames, read))
    })?;
    // The reader's error comes first: a worker that ended early would only repeat it.
    let plain_len = read?;
    let summary = inspect.finish(plain_len)?;
    let mut first = sealer.header().to_vec();
    sealer.seal_frame(&mut Compressor::new(level)?, 0, frames.is_empty(), &summary.to_bytes(), &mut first)?;
    let parts = in_order(first, frames);
    Ok(SealedWal { parts, plain_hash: *hasher.finalize().as_bytes(), summary })
}

/// Read `len` bytes in frames and hand each to a worker; the bytes read.
fn read_frames(
    source: &mut dyn Read,
    len: u64,
    work: &SyncSender<Work>,
    spare: &Receiver<Vec<u8>>,
    see: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let mut done = 0;
    for index in 1.. {
        if done == len {
            break;
        }
        let mut frame = spare.try_recv().unwrap_or_default();
        frame.resize(usize::try_from(len - done).map_or(WAL_FRAME, |rest| rest.min(WAL_FRAME)), 0);
        source
            .read_exact(&mut frame)
            .map_err(|cause| Error::new(Kind::Other, format!("read the file: {cause}")))?;
        see(&frame)?;
        done += frame.len() as u64;
        if work.send((index, done == len, frame)).is_err() {
            break;
        }
    }
    Ok(done)
}

fn seal_frames(
    sealer: &Sealer,
    level: i32,
    work: &Mutex<Receiver<Work>>,
    spare: &SyncSender<Vec<u8>>,
) -> Result<Vec<Done>> {
    let mut compressor = Compressor::new(level)?;
    let mut scratch = Vec::new();
    let mut done = Vec::new();
    loop {
        let next = work.lock().map_err(|_| Error::new(Kind::Other, "a sealing thread died"))?.recv();
        let Ok((index, last, frame)) = next else { return Ok(done) };
        scratch.clear();
        sealer.seal_frame(&mut compressor, index, last, &frame, &mut scratch)?;
        // An exact copy: the scratch buffer is as large as the worst case, sixteen of those would be a segment.
        done.push((index, scratch.as_slice().to_vec()));
        let _ = spare.try_send(frame);
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
