//! The file table: which extents make up which file, FORMAT.md "File table".
//! It comes in parts of bounded size, so that no database is too large for it.

use std::collections::HashMap;
use std::ops::Range;

use super::pack::{FramePlace, PackName};
use super::page_digests::PAGES_PER_SUM;
use crate::encoding::{ColumnReader, Columns, put_bytes, put_u32, put_words, take, take_bytes, take_u32};
use crate::error::{Error, Result};
use crate::postgres::{PAGE_SIZE, Verbatim};
use crate::seal::HEADER_LEN;

/// Of a page.
#[expect(clippy::cast_possible_truncation, reason = "it is 8192")]
const PAGE_BYTES: u32 = PAGE_SIZE as u32;

/// A pack that extents of this part lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub name: PackName,
    /// A copy of its header.
    pub header: [u8; HEADER_LEN],
    /// Where the digests of its pages are.
    pub digests: FramePlace,
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
    /// Bytes of the opened frame.
    pub frame_len: u32,
    /// Those of them that lie before the extent, whole pages.
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
    /// A digest of what the disk said of the file when it was read; the writer's own business. 0 if that means nothing.
    pub state: u64,
    /// When the backup began that read it, seconds since the epoch. Not this one, if it was skipped since.
    pub read_at: i64,
    /// Bytes.
    pub size: u64,
    /// Its content.
    pub extents: Vec<Extent>,
    /// The digest of the page digests of each 8 MiB of it: what was read, however it is stored.
    pub sums: Vec<u64>,
    /// Digest of each 8 KiB of it (the last may be shorter). They are stored in the packs; a parsed record has none.
    pub digests: Vec<u64>,
}

impl FileRecord {
    /// How many page digests it has.
    pub fn digest_count(&self) -> usize {
        usize::try_from(self.size.div_ceil(PAGE_SIZE as u64)).unwrap_or(usize::MAX)
    }
}

/// One part of a file table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileTable {
    /// The packs that the part's extents lie in.
    pub packs: Vec<PackRef>,
    /// The files, sorted by path.
    pub files: Vec<FileRecord>,
}

/// The columns of a part, in the order in which they are stored.
const COLUMNS: usize = 15;
const FRAME_PACK: usize = 0;
const FRAME_NUMBER: usize = 1;
const FRAME_OFFSET: usize = 2;
const FRAME_STORED: usize = 3;
const FRAME_LEN: usize = 4;
const PATH: usize = 5;
const MODE: usize = 6;
const STATE: usize = 7;
const READ_AT: usize = 8;
const SIZE: usize = 9;
const EXTENTS: usize = 10;
const EXTENT_FRAME: usize = 11;
const EXTENT_SKIP: usize = 12;
const EXTENT_PAGES: usize = 13;
const SUM: usize = 14;
type Reader<'a> = ColumnReader<'a, COLUMNS>;

impl Extent {
    /// Which pages of its frame it takes.
    pub const fn pages(&self) -> Range<usize> {
        let first = self.skip as usize / PAGE_SIZE;
        first..first + (self.plain_len as usize).div_ceil(PAGE_SIZE)
    }

    /// Whether it takes whole pages of its frame, as the frame has them.
    fn is_whole_pages(&self) -> bool {
        let end = self.skip.checked_add(self.plain_len).filter(|end| *end <= self.frame_len);
        self.skip.is_multiple_of(PAGE_BYTES)
            && end.is_some_and(|end| end == self.frame_len || self.plain_len.is_multiple_of(PAGE_BYTES))
    }

    /// Where it ends in its frame.
    pub const fn end(&self) -> usize {
        self.skip as usize + self.plain_len as usize
    }

    /// Its bytes in the opened frame.
    pub fn of<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8]> {
        frame.get(self.skip as usize..self.end()).ok_or_else(|| {
            Error::corrupt(format!("an extent ends at {} of a frame of {} bytes", self.end(), frame.len()))
        })
    }
}

impl FileTable {
    /// The plaintext of the part. What a reader would refuse is not written: columns would make something else of it.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check()?;
        Ok(self.written())
    }

    fn written(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u32(&mut out, self.packs.len());
        for pack in &self.packs {
            put_bytes(&mut out, pack.name.backup.as_str().as_bytes());
            out.extend_from_slice(&pack.name.number.to_le_bytes());
            out.extend_from_slice(&pack.header);
            let FramePlace { frame, offset, stored_len } = pack.digests;
            put_words(&mut out, [frame, offset, stored_len]);
        }
        let frames = Frames::of(self);
        put_u32(&mut out, frames.list.len());
        put_u32(&mut out, self.files.len());
        let mut columns = Columns::<COLUMNS>::new();
        put_frames(&mut columns, &frames.list, self.packs.len());
        let (mut expected, mut read_at) = (Expected::new(frames.list.len()), 0);
        for file in &self.files {
            columns.put_bytes(PATH, file.path.as_bytes());
            columns.put_bytes(PATH, &[0]);
            columns.put_number(MODE, file.mode.into());
            columns.put_bytes(STATE, &file.state.to_le_bytes());
            columns.put_change(READ_AT, read_at, file.read_at);
            read_at = file.read_at;
            columns.put_number(SIZE, file.size);
            expected.put(&mut columns, &frames, &file.extents);
            for sum in &file.sums {
                columns.put_bytes(SUM, &sum.to_le_bytes());
            }
        }
        columns.append_to(&mut out);
        out
    }

    /// Parse a part; digests are left empty.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        let table = Self::read(&mut input).filter(|_| input.is_empty());
        let table = table.ok_or_else(|| Error::corrupt("a part of the file table is malformed"))?;
        table.check()?;
        Ok(table)
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let mut table = Self::default();
        for _ in 0..take_u32(input)? {
            let backup = std::str::from_utf8(take_bytes(input)?).ok()?.parse().ok()?;
            let name = PackName { backup, number: take_u32(input)? };
            let header = take(input)?;
            let mut word = || take_u32(input);
            let digests = FramePlace { frame: word()?, offset: word()?, stored_len: word()? };
            table.packs.push(PackRef { name, header, digests });
        }
        let (frames, files) = (take_u32(input)?, take_u32(input)?);
        let mut columns = Reader::take_from(input)?;
        let frames = read_frames(&mut columns, frames, table.packs.len())?;
        let (mut expected, mut read_before) = (Expected::new(frames.len()), 0);
        for _ in 0..files {
            let path = columns.text(PATH)?.to_vec().into();
            let mode = columns.word(MODE)?;
            let state = u64::from_le_bytes(columns.fixed(STATE)?);
            let read_at = columns.changed(READ_AT, read_before)?;
            read_before = read_at;
            let size = columns.number(SIZE)?;
            let extents = expected.read(&mut columns, &frames, size)?;
            let (sums, digests) = (Vec::new(), Vec::new());
            let mut file = FileRecord { path, mode, state, read_at, size, extents, sums, digests };
            for _ in 0..file.digest_count().div_ceil(PAGES_PER_SUM) {
                file.sums.push(u64::from_le_bytes(columns.fixed(SUM)?));
            }
            table.files.push(file);
        }
        columns.is_empty().then_some(table)
    }

    /// What a reader relies on: paths stay inside, extents add up to the file in whole pages, packs exist.
    fn check(&self) -> Result<()> {
        let packs = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let is_sound = |file: &FileRecord| {
            let mut begin: u64 = 0;
            for extent in &file.extents {
                if extent.pack >= packs || !begin.is_multiple_of(PAGE_SIZE as u64) || !extent.is_whole_pages()
                {
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

/// The frames that the extents of a part lie in, each once, in the order of their first use.
struct Frames<'a> {
    list: Vec<&'a Extent>,
    indices: HashMap<(u32, u32), u32>,
}

impl<'a> Frames<'a> {
    fn of(table: &'a FileTable) -> Self {
        let mut frames = Self { list: Vec::new(), indices: HashMap::new() };
        for extent in table.files.iter().flat_map(|file| &file.extents) {
            let next = u32::try_from(frames.list.len()).unwrap_or(u32::MAX);
            frames.indices.entry((extent.pack, extent.frame)).or_insert_with(|| {
                frames.list.push(extent);
                next
            });
        }
        frames
    }

    fn index(&self, extent: &Extent) -> u32 {
        self.indices[&(extent.pack, extent.frame)]
    }
}

/// What comes in a pack before anything of it was named: the number of a frame, and where it begins.
#[expect(clippy::cast_possible_truncation, reason = "it is 64")]
const FIRST: (u32, u32) = (0, HEADER_LEN as u32);

/// What comes behind this frame.
const fn behind(frame: &Extent) -> (u32, u32) {
    (frame.frame.saturating_add(1), frame.offset.saturating_add(frame.stored_len))
}

fn put_frames(columns: &mut Columns<COLUMNS>, frames: &[&Extent], packs: usize) {
    let (mut pack_before, mut expected) = (0, vec![FIRST; packs]);
    for frame in frames {
        let next = &mut expected[frame.pack as usize];
        columns.put_change(FRAME_PACK, pack_before, frame.pack.into());
        columns.put_change(FRAME_NUMBER, next.0.into(), frame.frame.into());
        columns.put_change(FRAME_OFFSET, next.1.into(), frame.offset.into());
        columns.put_number(FRAME_STORED, frame.stored_len.into());
        columns.put_number(FRAME_LEN, frame.frame_len.into());
        (pack_before, *next) = (frame.pack.into(), behind(frame));
    }
}

/// The frames, each as an extent that takes nothing of it.
fn read_frames(columns: &mut Reader<'_>, count: u32, packs: usize) -> Option<Vec<Extent>> {
    let (mut frames, mut pack, mut expected) = (Vec::new(), 0, vec![FIRST; packs]);
    for _ in 0..count {
        pack = columns.changed_word(FRAME_PACK, pack)?;
        let next = expected.get_mut(pack as usize)?;
        let frame = columns.changed_word(FRAME_NUMBER, next.0)?;
        let offset = columns.changed_word(FRAME_OFFSET, next.1)?;
        let (stored_len, frame_len) = (columns.word(FRAME_STORED)?, columns.word(FRAME_LEN)?);
        let frame = Extent { pack, frame, offset, stored_len, frame_len, skip: 0, plain_len: 0 };
        *next = behind(&frame);
        frames.push(frame);
    }
    Some(frames)
}

/// Which frame and which page of it an extent takes if it goes on where those before it ended.
struct Expected {
    /// The first frame that was not taken of yet: they are numbered in the order of their first use.
    next: u32,
    /// Of each frame, the page behind the last that was taken.
    pages: Vec<u32>,
}

impl Expected {
    fn new(frames: usize) -> Self {
        Self { next: 0, pages: vec![0; frames] }
    }

    fn put(&mut self, columns: &mut Columns<COLUMNS>, frames: &Frames<'_>, extents: &[Extent]) {
        columns.put_number(EXTENTS, extents.len() as u64);
        for (number, extent) in (1..).zip(extents) {
            let (frame, page) = (frames.index(extent), extent.skip / PAGE_BYTES);
            columns.put_number(EXTENT_FRAME, (self.next - frame).into());
            columns.put_change(EXTENT_SKIP, self.pages[frame as usize].into(), page.into());
            if number < extents.len() {
                columns.put_number(EXTENT_PAGES, (extent.plain_len / PAGE_BYTES).into());
            }
            self.taken(frame, extent);
        }
    }

    /// The extents of a file of `size` bytes: the last one takes what the others leave.
    fn read(&mut self, columns: &mut Reader<'_>, frames: &[Extent], size: u64) -> Option<Vec<Extent>> {
        let (mut extents, mut left) = (Vec::new(), size);
        let count = columns.number(EXTENTS)?;
        for number in 1..=count {
            let frame = self.next.checked_sub(columns.word(EXTENT_FRAME)?)?;
            let of = *frames.get(frame as usize)?;
            let page = columns.changed_word(EXTENT_SKIP, self.pages[frame as usize])?;
            let plain_len = if number < count {
                columns.number(EXTENT_PAGES)?.checked_mul(PAGE_BYTES.into())?
            } else {
                left
            };
            left = left.checked_sub(plain_len)?;
            let (skip, plain_len) = (page.checked_mul(PAGE_BYTES)?, plain_len.try_into().ok()?);
            let extent = Extent { skip, plain_len, ..of };
            self.taken(frame, &extent);
            extents.push(extent);
        }
        Some(extents)
    }

    fn taken(&mut self, frame: u32, extent: &Extent) {
        if frame == self.next {
            self.next += 1;
        }
        self.pages[frame as usize] = u32::try_from(extent.pages().end).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FileTable {
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 0 };
        let digests = FramePlace { frame: 2, offset: 164, stored_len: 50 };
        let part = |skip, plain_len| Extent {
            pack: 0,
            frame: 1,
            offset: 64,
            stored_len: 100,
            frame_len: 3 * 8192 + 1,
            skip,
            plain_len,
        };
        let file = FileRecord {
            path: b"base/1/\xff".to_vec().into(),
            mode: 0o600,
            state: 7,
            read_at: -1,
            size: 2 * 8192 + 1,
            extents: vec![part(8192, 8192), part(16384, 8193)],
            sums: vec![5],
            digests: Vec::new(),
        };
        FileTable { packs: vec![PackRef { name, header: [7; HEADER_LEN], digests }], files: vec![file] }
    }

    #[test]
    fn a_part_round_trips_and_names_a_frame_once() {
        let mut table = sample();
        let bytes = table.to_bytes().unwrap();
        assert_eq!(FileTable::parse(&bytes).unwrap(), table);
        let mut less = table.clone();
        less.files[0].extents.truncate(1);
        less.files[0].size = 8192;
        assert_eq!(bytes.len() - less.to_bytes().unwrap().len(), 4, "three of the extent, one of the size");
        // Back and forth between frames and packs.
        table.packs.extend_from_within(..);
        let whole = Extent { skip: 0, plain_len: 8192, ..table.files[0].extents[0] };
        let other = Extent { pack: 1, frame: 9, offset: u32::MAX, frame_len: 8192, ..whole };
        table.files[0].extents.splice(..0, [other, whole, Extent { frame: 0, ..whole }, other, whole]);
        table.files[0].size += 5 * 8192;
        table.files.push(FileRecord { path: "x".into(), read_at: i64::MAX, ..table.files[0].clone() });
        assert_eq!(FileTable::parse(&table.to_bytes().unwrap()).unwrap(), table);
    }

    #[test]
    fn what_would_leave_the_directory_or_not_add_up_is_refused() {
        let refused = |table: &FileTable| {
            table.to_bytes().unwrap_err();
            FileTable::parse(&table.written()).unwrap_err();
        };
        for path in ["../x", "/etc/passwd", "base//1", "", "a/./b"] {
            let mut table = sample();
            table.files[0].path = path.into();
            refused(&table);
        }
        let mut table = sample();
        table.files[0].size += 1;
        refused(&table);
        let mut table = sample();
        let whole = table.files[0].extents[0];
        let part = |skip, plain_len| Extent { skip, plain_len, ..whole };
        table.files[0].extents = vec![part(16384, 8193), part(0, 8192)];
        refused(&table);
        table.files[0].extents.reverse();
        FileTable::parse(&table.to_bytes().unwrap()).unwrap();
        // A digest stands for a page as the frame has it.
        for (skip, plain_len) in [(16384, 8192 + 2), (16384, 1), (u32::MAX, 8192)] {
            table.files[0].size = u64::from(plain_len);
            table.files[0].extents = vec![part(skip, plain_len)];
            refused(&table);
        }
        // Columns count in pages.
        table.files[0].extents = vec![part(1, 8192)];
        table.to_bytes().unwrap_err();
        let bytes = sample().to_bytes().unwrap();
        for len in 0..bytes.len() {
            FileTable::parse(&bytes[..len]).unwrap_err();
        }
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
