//! Rewriting a page's items as differences, so that what is alike from row to row looks alike, FORMAT.md "Page filter".
//!
//! Rows and index entries begin with fields that count up (`t_ctid`, `t_tid`, keys from a sequence), and a page's line
//! pointers count down by the rows' lengths. A compressor that looks for repeated bytes finds
//! nothing in counting; it finds the differences from one item to the next at once. Each step can
//! be undone whatever the page holds.

use crate::postgres::PAGE_SIZE;

/// Where things lie in a page (bufpage.h, PageHeaderData).
const LOWER: usize = 12;
const SPECIAL: usize = 16;
const SIZE_AND_VERSION: usize = 18;
const LINE_POINTERS: usize = 24;
/// Page size and layout version of every page since PostgreSQL 8.3.
const EXPECTED_SIZE_AND_VERSION: u16 = 8192 | 4;
/// Bytes of a line pointer (itemid.h).
const LINE_POINTER: usize = 4;
/// What items are aligned to (MAXALIGN).
const ALIGNMENT: u16 = 8;
const OFFSET_BITS: u16 = 0x7FFF;

type Page = [u8; PAGE_SIZE];

/// How many first bytes of each item of a page are stored as differences from the item before; or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageFilter(u8);

impl PageFilter {
    /// Pages are stored as they are.
    pub const NONE: Self = Self(0);
    /// Those that suit a heap: its tuple header up to the infomask, with a column of 4 or 8 bytes, or 8 bytes behind
    /// a bitmap of up to 72 columns.
    pub const HEAP: [Self; 4] = [Self(20), Self(28), Self(32), Self(40)];
    /// Those that suit an index: its tuple header, with 8 or 16 bytes of key.
    pub const INDEX: [Self; 3] = [Self(8), Self(16), Self(24)];

    /// The filter that is stored as `byte`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::NONE].into_iter().chain(Self::INDEX).chain(Self::HEAP).find(|known| known.0 == byte)
    }

    /// As it is stored: the number of bytes.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// The filters that suit pages like those that `pages` begins with.
    pub fn candidates(pages: &[u8]) -> &'static [Self] {
        let (pages, _) = pages.as_chunks::<PAGE_SIZE>();
        let special = pages.iter().find(|page| line_pointers(page).is_some()).map(|page| word(page, SPECIAL));
        match special.map(usize::from) {
            Some(PAGE_SIZE) => &Self::HEAP,
            Some(_) => &Self::INDEX,
            None => &[],
        }
    }

    /// Filter `pages` in place. What is not a page, and a rest shorter than one, stays as it is.
    pub fn apply(self, pages: &mut [u8]) {
        self.run(pages, false);
    }

    /// Make `pages` again what they were before [`PageFilter::apply`].
    pub fn undo(self, pages: &mut [u8]) {
        self.run(pages, true);
    }

    fn run(self, pages: &mut [u8], undo: bool) {
        let each = match self.0 {
            8 => each_page::<8>,
            16 => each_page::<16>,
            20 => each_page::<20>,
            24 => each_page::<24>,
            28 => each_page::<28>,
            32 => each_page::<32>,
            40 => each_page::<40>,
            _ => return,
        };
        each(pages, undo);
    }
}

fn each_page<const N: usize>(pages: &mut [u8], undo: bool) {
    for page in pages.as_chunks_mut::<PAGE_SIZE>().0 {
        let Some(count) = line_pointers(page) else { continue };
        if undo {
            predict_offsets(page, count, true);
            add_items::<N>(page, count);
        } else {
            subtract_items::<N>(page, count);
            predict_offsets(page, count, false);
        }
    }
}

fn word(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// How many line pointers the page has; `None` if this is not a page with line pointers. No step of the filter changes
/// what this looks at.
fn line_pointers(page: &Page) -> Option<usize> {
    let lower = usize::from(word(page, LOWER));
    let bytes = lower.checked_sub(LINE_POINTERS).filter(|_| lower <= PAGE_SIZE)?;
    let is_page = word(page, SIZE_AND_VERSION) == EXPECTED_SIZE_AND_VERSION;
    (is_page && bytes.is_multiple_of(LINE_POINTER)).then_some(bytes / LINE_POINTER)
}

/// A line pointer: its item's offset (15 bits), 2 bits of flags, and its item's length (15 bits).
#[derive(Clone, Copy)]
struct LinePointer(u32);

impl LinePointer {
    fn get(page: &Page, index: usize) -> Self {
        let at = LINE_POINTERS + index * LINE_POINTER;
        Self(page[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn put(self, page: &mut Page, index: usize) {
        let at = LINE_POINTERS + index * LINE_POINTER;
        page[at..at + LINE_POINTER].copy_from_slice(&self.0.to_le_bytes());
    }

    #[expect(clippy::cast_possible_truncation, reason = "15 bits")]
    const fn offset(self) -> u16 {
        self.0 as u16 & OFFSET_BITS
    }

    const fn len(self) -> u16 {
        (self.0 >> 17) as u16
    }

    const fn with_offset(self, offset: u16) -> Self {
        Self(self.0 & !(OFFSET_BITS as u32) | (offset & OFFSET_BITS) as u32)
    }
}

/// Items lie one before the other, the first at the special space: store how far each offset is from that.
fn predict_offsets(page: &mut Page, count: usize, undo: bool) {
    let mut before = word(page, SPECIAL);
    for index in 0..count {
        let pointer = LinePointer::get(page, index);
        let predicted = before.wrapping_sub(pointer.len().next_multiple_of(ALIGNMENT));
        // The same subtraction there and back.
        let other = predicted.wrapping_sub(pointer.offset()) & OFFSET_BITS;
        pointer.with_offset(other).put(page, index);
        if pointer.len() > 0 {
            before = if undo { other } else { pointer.offset() };
        }
    }
}

/// Where the item of line pointer `index` begins, if all its first `N` bytes lie behind the line pointers.
fn item<const N: usize>(page: &Page, count: usize, index: usize) -> Option<usize> {
    let pointer = LinePointer::get(page, index);
    let (offset, len) = (usize::from(pointer.offset()), usize::from(pointer.len()));
    let first = LINE_POINTERS + count * LINE_POINTER;
    (len >= N && offset >= first && offset + len <= PAGE_SIZE).then_some(offset)
}

/// The item at `from` serves the one at `to`, unless they overlap: then the step could not be undone.
fn combine<const N: usize>(page: &mut Page, from: usize, to: usize, operation: impl Fn(u8, u8) -> u8) {
    if from.abs_diff(to) < N {
        return;
    }
    let Some(from) = page[from..].first_chunk::<N>().copied() else { return };
    let Some(to) = page[to..].first_chunk_mut::<N>() else { return };
    for (to, from) in to.iter_mut().zip(from) {
        *to = operation(*to, from);
    }
}

/// From the last item to the first, so that what is subtracted is still the item itself.
fn subtract_items<const N: usize>(page: &mut Page, count: usize) {
    let mut later = None;
    for index in (0..count).rev() {
        let Some(item) = item::<N>(page, count, index) else { continue };
        if let Some(later) = later.replace(item) {
            combine::<N>(page, item, later, u8::wrapping_sub);
        }
    }
}

/// The same steps, undone from the last to the first.
fn add_items<const N: usize>(page: &mut Page, count: usize) {
    let mut earlier = None;
    for index in 0..count {
        let Some(item) = item::<N>(page, count, index) else { continue };
        if let Some(earlier) = earlier.replace(item) {
            combine::<N>(page, earlier, item, u8::wrapping_add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::noise::noise;

    fn header(page: &mut Page, lower: usize, special: usize) {
        page[LOWER..LOWER + 2].copy_from_slice(&u16::try_from(lower).unwrap().to_le_bytes());
        page[SPECIAL..SPECIAL + 2].copy_from_slice(&u16::try_from(special).unwrap().to_le_bytes());
        page[SIZE_AND_VERSION..SIZE_AND_VERSION + 2]
            .copy_from_slice(&EXPECTED_SIZE_AND_VERSION.to_le_bytes());
    }

    /// `count` items of `len` bytes, as PostgreSQL places them; item `i` begins with `i` and otherwise holds `fill`.
    fn orderly(count: usize, len: usize, special: usize, fill: u8) -> Page {
        let mut page = [0; PAGE_SIZE];
        header(&mut page, LINE_POINTERS + count * LINE_POINTER, special);
        let mut offset = special;
        for index in 0..count {
            offset -= len.next_multiple_of(8);
            let pointer = u32::try_from(len << 17 | 1 << 15 | offset).unwrap();
            LinePointer(pointer).put(&mut page, index);
            page[offset..offset + len].fill(fill);
            page[offset..offset + 4].copy_from_slice(&u32::try_from(index).unwrap().to_le_bytes());
        }
        page
    }

    fn all() -> impl Iterator<Item = PageFilter> {
        (0..=u8::MAX).filter_map(PageFilter::from_byte)
    }

    fn assert_undone(page: &Page) {
        for filter in all() {
            let mut filtered = *page;
            filter.apply(&mut filtered);
            filter.undo(&mut filtered);
            assert!(filtered == *page, "{filter:?}");
        }
    }

    #[test]
    fn every_page_comes_back_whatever_it_holds() {
        let mut noise = noise();
        for round in 0..3000 {
            let mut page: Page = std::array::from_fn(|_| noise().to_le_bytes()[0]);
            assert_undone(&page);
            // Line pointers anywhere, to items that overlap each other, the line pointers and the end.
            let count = noise() % 2043;
            let special = noise() % (1 << 16);
            header(&mut page, LINE_POINTERS + count * LINE_POINTER, special);
            assert_undone(&page);
            // Items that nearly lie where they should.
            let (count, len) = (1 + noise() % 60, 1 + noise() % 120);
            let mut page = orderly(count, len, PAGE_SIZE - 8 * (noise() % 5), 7);
            for _ in 0..round % 8 {
                let at = noise() % PAGE_SIZE;
                page[at] = noise().to_le_bytes()[0];
            }
            assert_undone(&page);
        }
    }

    #[test]
    fn items_of_a_page_that_count_up_become_alike() {
        for (filter, special) in [(PageFilter(28), PAGE_SIZE), (PageFilter(16), PAGE_SIZE - 16)] {
            let mut page = orderly(50, 100, special, 9);
            filter.apply(&mut page);
            let pointers: Vec<u32> = (0..50).map(|index| LinePointer::get(&page, index).0).collect();
            assert_eq!(pointers, [100 << 17 | 1 << 15; 50]);
            for index in 1..50 {
                let at = special - (index + 1) * 104;
                let mut expected = [9; 100];
                expected[..filter.0.into()].fill(0);
                expected[0] = 1;
                assert_eq!(page[at..at + 100], expected, "{index}");
            }
        }
    }

    #[test]
    fn items_that_are_too_short_are_passed_over() {
        let mut page = orderly(3, 32, PAGE_SIZE, 9);
        let short = LinePointer::get(&page, 1).0 & 0x1_FFFF | 12 << 17;
        LinePointer(short).put(&mut page, 1);
        let before = page;
        PageFilter(28).apply(&mut page);
        let at = |index: usize| PAGE_SIZE - (index + 1) * 32;
        assert_eq!(page[at(1)..], before[at(1)..], "the first two are as they were");
        assert_eq!(page[at(2)..at(2) + 28], [[2].as_slice(), &[0; 27]].concat());
        PageFilter(28).undo(&mut page);
        assert!(page == before);
    }

    #[test]
    fn what_is_no_page_stays_as_it_is() {
        let mut odd = orderly(50, 100, PAGE_SIZE, 9);
        odd[LOWER] += 1;
        let mut other_version = orderly(50, 100, PAGE_SIZE, 9);
        other_version[SIZE_AND_VERSION] = 5;
        let mut beyond = orderly(50, 100, PAGE_SIZE, 9);
        header(&mut beyond, PAGE_SIZE + 4, PAGE_SIZE);
        let mut before_the_first = orderly(50, 100, PAGE_SIZE, 9);
        header(&mut before_the_first, LINE_POINTERS - 4, PAGE_SIZE);
        for page in [&[0; PAGE_SIZE], &[0xFF; PAGE_SIZE], &odd, &other_version, &beyond, &before_the_first] {
            assert_eq!(PageFilter::candidates(page), []);
            for filter in all() {
                let mut filtered = *page;
                filter.apply(&mut filtered);
                assert!(filtered == *page, "{filter:?}");
            }
        }
        let mut cut = orderly(50, 100, PAGE_SIZE, 9)[..PAGE_SIZE - 1].to_vec();
        let before = cut.clone();
        PageFilter(28).apply(&mut cut);
        assert_eq!(cut, before);
    }

    #[test]
    fn candidates_are_by_kind_of_page() {
        let (heap, index) = (orderly(9, 40, PAGE_SIZE, 0), orderly(9, 16, PAGE_SIZE - 16, 0));
        assert_eq!(PageFilter::candidates(&heap), PageFilter::HEAP);
        assert_eq!(PageFilter::candidates(&index), PageFilter::INDEX);
        let behind_a_new_one = [[0; PAGE_SIZE], heap].concat();
        assert_eq!(PageFilter::candidates(&behind_a_new_one), PageFilter::HEAP);
        assert_eq!(PageFilter::candidates(b"port = 5432\n"), []);
    }
}
