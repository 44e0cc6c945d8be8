//! The file table: which extents make up which file, and the digest of every page, FORMAT.md "File table".
//! It comes in parts of bounded size, so that no database is too large for it.

use super::pack::PackName;
use super::summary::take;
use super::verbatim::Verbatim;
use crate::error::{Error, Result};
use crate::postgres::PAGE_SIZE;
use crate::seal::HEADER_LEN;

/// A pack that extents of this part lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub name: PackName,
    /// A copy of its header.
    pub header: [u8; HEADER_LEN],
}

/// A run of bytes of one file, and where it is stored: anywhere in a frame, which may be another backup's. A file's
/// extents follow each other without gaps, and all but the last are whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index into the part's packs.
    pub pack: u32,
    /// Frame number in the pack.
    pub frame: u32,
    /// Offset of the frame in the pack, bytes.
    pub offset: u32,
    /// Bytes of the frame in the pack.
    pub stored_len: u32,
    /// Bytes of the opened frame that lie before the extent.
    pub skip: u32,
    /// Bytes of the file. The frame may go on behind them.
    pub plain_len: u32,
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Relative to the data directory, with `/`; tablespaces as `pg_tblspc/<oid>/...`.
    pub path: Verbatim,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, seconds since the epoch.
    pub modified: i64,
    /// Bytes.
    pub size: u64,
    /// Its content.
    pub extents: Vec<Extent>,
    /// Digest of each 8 KiB of it (the last may be shorter); stored in the part's digests object.
    pub digests: Vec<u64>,
}

/// One part of a file table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileTable {
    /// The packs that the part's extents lie in.
    pub packs: Vec<PackRef>,
    /// The files, sorted by path.
    pub files: Vec<FileRecord>,
}

/// Number of digests that a file of `size` bytes has.
const fn digest_count(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE as u64)
}

/// The digest of each 8 KiB of `bytes` (XXH3-64 with the repository's secret seed): equal pages have equal digests,
/// and different ones but for a chance of 2^-64, see FORMAT.md "Page digests" for why that is enough.
pub fn page_digest_seed(seed: u64, bytes: &[u8], digests: &mut Vec<u64>) {
    digests.extend(bytes.chunks(PAGE_SIZE).map(|page| xxhash_rust::xxh3::xxh3_64_with_seed(page, seed)));
}

/// The first page of `bytes`, counted from 0, whose digest is not the one in `digests`; one that has none, too.
pub fn first_other_page(seed: u64, bytes: &[u8], digests: &[u64]) -> Option<usize> {
    let is_other = |(index, page): (usize, &[u8])| {
        digests.get(index) != Some(&xxhash_rust::xxh3::xxh3_64_with_seed(page, seed))
    };
    bytes.chunks(PAGE_SIZE).enumerate().position(is_other)
}

impl Extent {
    /// Its bytes in the opened frame.
    pub fn of<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8]> {
        let begin = self.skip as usize;
        let bytes = begin.checked_add(self.plain_len as usize).and_then(|end| frame.get(begin..end));
        bytes.ok_or_else(|| {
            Error::corrupt(format!(
                "an extent ends at {} of a frame of {} bytes",
                u64::from(self.skip) + u64::from(self.plain_len),
                frame.len()
            ))
        })
    }
}

impl FileTable {
    /// The index of a pack in this part, added when new.
    pub fn pack_index(&mut self, name: &PackName, header: &[u8; HEADER_LEN]) -> Result<u32> {
        let found = self.packs.iter().rposition(|pack| pack.name == *name);
        let index = found.unwrap_or(self.packs.len());
        if found.is_none() {
            self.packs.push(PackRef { name: name.clone(), header: *header });
        }
        u32::try_from(index).map_err(|_| Error::corrupt("a part of the file table names too many packs"))
    }

    /// Roughly how many bytes [`FileTable::to_bytes`] will make.
    pub fn weight(&self) -> usize {
        let files: usize =
            self.files.iter().map(|file| 40 + file.path.as_bytes().len() + 24 * file.extents.len()).sum();
        files + self.packs.len() * 100
    }

    /// The plaintext of the part.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.weight());
        put_u32(&mut out, self.packs.len());
        for pack in &self.packs {
            put_bytes(&mut out, pack.name.backup.as_str().as_bytes());
            out.extend_from_slice(&pack.name.number.to_le_bytes());
            out.extend_from_slice(&pack.header);
        }
        put_u32(&mut out, self.files.len());
        for file in &self.files {
            put_bytes(&mut out, file.path.as_bytes());
            out.extend_from_slice(&file.mode.to_le_bytes());
            out.extend_from_slice(&file.modified.to_le_bytes());
            out.extend_from_slice(&file.size.to_le_bytes());
            put_u32(&mut out, file.extents.len());
            for extent in &file.extents {
                let Extent { pack, frame, offset, stored_len, skip, plain_len } = *extent;
                for word in [pack, frame, offset, stored_len, skip, plain_len] {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
        out
    }

    /// The plaintext of the part's digests, in the order of its files.
    pub fn digest_bytes(&self) -> Vec<u8> {
        self.files.iter().flat_map(|file| &file.digests).flat_map(|digest| digest.to_le_bytes()).collect()
    }

    /// Parse a part; digests are left empty.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        let table = Self::read(&mut input).filter(|_| input.is_empty());
        let table = table.ok_or_else(|| Error::corrupt("a part of the file table is malformed"))?;
        table.check()?;
        Ok(table)
    }

    /// Fill in the digests of a part from its digests object.
    pub fn read_digests(&mut self, mut bytes: &[u8]) -> Result<()> {
        for file in &mut self.files {
            for _ in 0..digest_count(file.size) {
                let digest =
                    take::<8>(&mut bytes).ok_or_else(|| Error::corrupt("page digests are missing"))?;
                file.digests.push(u64::from_le_bytes(digest));
            }
        }
        if bytes.is_empty() { Ok(()) } else { Err(Error::corrupt("there are more page digests than pages")) }
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let mut table = Self::default();
        for _ in 0..take_u32(input)? {
            let backup = std::str::from_utf8(take_bytes(input)?).ok()?.parse().ok()?;
            let number = take_u32(input)?;
            table.packs.push(PackRef { name: PackName { backup, number }, header: take(input)? });
        }
        for _ in 0..take_u32(input)? {
            let path = take_bytes(input)?.to_vec().into();
            let mode = take_u32(input)?;
            let modified = i64::from_le_bytes(take(input)?);
            let size = u64::from_le_bytes(take(input)?);
            let mut extents = Vec::new();
            for _ in 0..take_u32(input)? {
                let mut word = || take_u32(input);
                extents.push(Extent {
                    pack: word()?,
                    frame: word()?,
                    offset: word()?,
                    stored_len: word()?,
                    skip: word()?,
                    plain_len: word()?,
                });
            }
            table.files.push(FileRecord { path, mode, modified, size, extents, digests: Vec::new() });
        }
        Some(table)
    }

    /// What a reader relies on: paths stay inside, extents add up to the file in whole pages, packs exist.
    fn check(&self) -> Result<()> {
        let packs = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let is_sound = |file: &FileRecord| {
            let mut begin: u64 = 0;
            for extent in &file.extents {
                if extent.pack >= packs || !begin.is_multiple_of(PAGE_SIZE as u64) {
                    return false;
                }
                begin += u64::from(extent.plain_len);
            }
            begin == file.size && file.path.is_inside()
        };
        match self.files.iter().find(|file| !is_sound(file)) {
            None => Ok(()),
            Some(file) => {
                Err(Error::corrupt(format!("the file table's record of \"{}\" is malformed", file.path)))
            }
        }
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(crate) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input).map(u32::from_le_bytes)
}

pub(crate) fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(input)?;
    let (bytes, rest) = input.split_at_checked(usize::try_from(len).ok()?)?;
    *input = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FileTable {
        let mut table = FileTable::default();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 0 };
        let pack = table.pack_index(&name, &[7; HEADER_LEN]).unwrap();
        assert_eq!(table.pack_index(&name, &[7; HEADER_LEN]).unwrap(), pack);
        let extent = Extent { pack, frame: 1, offset: 64, stored_len: 100, skip: 16384, plain_len: 8193 };
        let digests = vec![1, 2];
        table.files.push(FileRecord {
            path: b"base/1/\xff".to_vec().into(),
            mode: 0o600,
            modified: -1,
            size: 8193,
            extents: vec![extent],
            digests,
        });
        table
    }

    #[test]
    fn a_part_and_its_digests_round_trip() {
        let table = sample();
        let mut same = FileTable::parse(&table.to_bytes()).unwrap();
        same.read_digests(&table.digest_bytes()).unwrap();
        assert_eq!(same, table);
        same.files[0].digests.clear();
        same.read_digests(&[0; 24]).unwrap_err();
    }

    #[test]
    fn what_would_leave_the_directory_or_not_add_up_is_refused() {
        for path in ["../x", "/etc/passwd", "base//1", "", "a/./b"] {
            let mut table = sample();
            table.files[0].path = path.into();
            FileTable::parse(&table.to_bytes()).unwrap_err();
        }
        let mut table = sample();
        table.files[0].size += 1;
        FileTable::parse(&table.to_bytes()).unwrap_err();
        let mut table = sample();
        let whole = table.files[0].extents[0];
        table.files[0].extents = vec![Extent { plain_len: 1, ..whole }, Extent { plain_len: 8192, ..whole }];
        FileTable::parse(&table.to_bytes()).unwrap_err();
        table.files[0].extents.reverse();
        FileTable::parse(&table.to_bytes()).unwrap();
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            FileTable::parse(&bytes[..len]).unwrap_err();
        }
    }

    #[test]
    fn the_first_page_that_differs_is_found() {
        let bytes = [vec![1; PAGE_SIZE], vec![2; PAGE_SIZE], vec![3; 10]].concat();
        let mut digests = Vec::new();
        page_digest_seed(7, &bytes, &mut digests);
        assert_eq!(first_other_page(7, &bytes, &digests), None);
        assert_eq!(first_other_page(8, &bytes, &digests), Some(0));
        assert_eq!(first_other_page(7, &bytes, &digests[..2]), Some(2));
        digests[1] ^= 1;
        assert_eq!(first_other_page(7, &bytes, &digests), Some(1));
    }

    #[test]
    fn an_extent_is_any_part_of_a_frame() {
        let frame: Vec<u8> = (0..10).collect();
        let part = |skip, plain_len| Extent { skip, plain_len, ..sample().files[0].extents[0] };
        for (extent, expected) in [(part(0, 10), 0..10), (part(3, 4), 3..7), (part(9, 1), 9..10)] {
            assert_eq!(extent.of(&frame).unwrap(), &frame[expected]);
        }
        for extent in [part(0, 11), part(10, 1), part(u32::MAX, u32::MAX)] {
            assert_eq!(extent.of(&frame).unwrap_err().kind(), crate::error::Kind::Corrupt);
        }
    }
}
