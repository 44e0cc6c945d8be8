//! The file table: which extents make up which file, and the digest of every page, FORMAT.md "File table".
//! It comes in parts of bounded size, so that no database is too large for it.

use super::pack::PackName;
use super::summary::take;
use crate::error::{Error, Result};
use crate::seal::HEADER_LEN;

/// A pack that extents of this part lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub name: PackName,
    /// A copy of its header.
    pub header: [u8; HEADER_LEN],
}

/// A run of bytes of one file, and where it is stored. A file's extents follow each other without gaps.
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
    /// Bytes of the file.
    pub plain_len: u32,
}

/// A file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Relative to the data directory, with `/`; tablespaces as `pg_tblspc/<oid>/...`.
    pub path: String,
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

/// Bytes of a page, the unit of digests.
const PAGE: u64 = 8192;

/// Number of digests that a file of `size` bytes has.
pub(super) const fn digest_count(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

/// The digest of each 8 KiB of `bytes` (XXH3-64 with the repository's secret seed): equal pages have equal digests,
/// and different ones but for a chance of 2^-64, see FORMAT.md "Page digests" for why that is enough.
pub fn page_digest_seed(seed: u64, bytes: &[u8], digests: &mut Vec<u64>) {
    digests.extend(bytes.chunks(8192).map(|page| xxhash_rust::xxh3::xxh3_64_with_seed(page, seed)));
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
        let files: usize = self.files.iter().map(|file| 40 + file.path.len() + 20 * file.extents.len()).sum();
        files + self.packs.len() * 100
    }

    /// The plaintext of the part.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.weight());
        put_u32(&mut out, self.packs.len());
        for pack in &self.packs {
            put_text(&mut out, pack.name.backup.as_str());
            out.extend_from_slice(&pack.name.number.to_le_bytes());
            out.extend_from_slice(&pack.header);
        }
        put_u32(&mut out, self.files.len());
        for file in &self.files {
            put_text(&mut out, &file.path);
            out.extend_from_slice(&file.mode.to_le_bytes());
            out.extend_from_slice(&file.modified.to_le_bytes());
            out.extend_from_slice(&file.size.to_le_bytes());
            put_u32(&mut out, file.extents.len());
            for extent in &file.extents {
                for word in [extent.pack, extent.frame, extent.offset, extent.stored_len, extent.plain_len] {
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
        let table = table.ok_or_else(|| Error::corrupt("a part of the file table makes no sense"))?;
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
            let backup = take_text(input)?.parse().ok()?;
            let number = take_u32(input)?;
            table.packs.push(PackRef { name: PackName { backup, number }, header: take(input)? });
        }
        for _ in 0..take_u32(input)? {
            let path = take_text(input)?.to_owned();
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
                    plain_len: word()?,
                });
            }
            table.files.push(FileRecord { path, mode, modified, size, extents, digests: Vec::new() });
        }
        Some(table)
    }

    /// What a reader relies on: paths stay inside, extents add up to the file, packs exist.
    fn check(&self) -> Result<()> {
        for file in &self.files {
            let inside = file.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            let packs = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
            let sum: u64 = file.extents.iter().map(|extent| u64::from(extent.plain_len)).sum();
            if !inside || sum != file.size || file.extents.iter().any(|extent| extent.pack >= packs) {
                return Err(Error::corrupt(format!(
                    "the file table's record of \"{}\" makes no sense",
                    file.path
                )));
            }
        }
        Ok(())
    }
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input).map(u32::from_le_bytes)
}

fn take_text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let len = take_u32(input)?;
    let (text, rest) = input.split_at_checked(usize::try_from(len).ok()?)?;
    *input = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FileTable {
        let mut table = FileTable::default();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 0 };
        let pack = table.pack_index(&name, &[7; HEADER_LEN]).unwrap();
        assert_eq!(table.pack_index(&name, &[7; HEADER_LEN]).unwrap(), pack);
        let extent = Extent { pack, frame: 1, offset: 64, stored_len: 100, plain_len: 8193 };
        let digests = vec![1, 2];
        table.files.push(FileRecord {
            path: "base/1/2".into(),
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
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            FileTable::parse(&bytes[..len]).unwrap_err();
        }
    }
}
