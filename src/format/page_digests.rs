//! Page digests: fingerprints of pages as PostgreSQL wrote them, FORMAT.md "Page digests". A pack ends with those of its
//! frames, so a later backup that reuses a frame has them without storing them again.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::encoding::take;
use crate::error::{Error, Result};
use crate::postgres::PAGE_SIZE;

/// Pages whose digests a file record sums up in one, 8 MiB of a file.
pub const PAGES_PER_SUM: usize = 1024;

/// The digest of each 8 KiB of `bytes` (XXH3-64 with the repository's secret seed): equal pages have equal digests,
/// and different ones but for a chance of 2^-64, see FORMAT.md "Page digests" for why that is enough.
pub fn page_digest_seed(seed: u64, bytes: &[u8], digests: &mut Vec<u64>) {
    digests.extend(bytes.chunks(PAGE_SIZE).map(|page| xxh3_64_with_seed(page, seed)));
}

/// The first page of `bytes`, counted from 0, whose digest is not the one in `digests`; one that has none, too.
pub fn first_other_page(seed: u64, bytes: &[u8], digests: &[u64]) -> Option<usize> {
    let is_other = |(index, page): (usize, &[u8])| digests.get(index) != Some(&xxh3_64_with_seed(page, seed));
    bytes.chunks(PAGE_SIZE).enumerate().position(is_other)
}

/// The digest of up to [`PAGES_PER_SUM`] digests.
pub fn digest_sum(seed: u64, digests: &[u64]) -> u64 {
    xxh3_64_with_seed(&digest_bytes(digests), seed)
}

fn digest_bytes(digests: &[u64]) -> Vec<u8> {
    digests.iter().flat_map(|digest| digest.to_le_bytes()).collect()
}

/// The digests of the pages in each frame of a pack, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackDigests {
    /// How many digests come before and with each frame.
    ends: Vec<usize>,
    digests: Vec<u64>,
}

impl PackDigests {
    /// Add those of the next frame.
    pub fn push(&mut self, of_frame: &[u64]) {
        self.digests.extend_from_slice(of_frame);
        self.ends.push(self.digests.len());
    }

    /// Those of the frame `frame`.
    pub fn of_frame(&self, frame: u32) -> Option<&[u64]> {
        let frame = frame as usize;
        let end = *self.ends.get(frame)?;
        let begin = frame.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.digests.get(begin..end)
    }

    /// Bytes of the plaintext, with one more frame of so many pages.
    pub const fn len_with(&self, pages: usize) -> usize {
        4 * (self.ends.len() + 1) + 8 * (self.digests.len() + pages)
    }

    /// The plaintext.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len_with(0));
        let mut begin = 0;
        for end in &self.ends {
            out.extend_from_slice(&u32::try_from(end - begin).unwrap_or(u32::MAX).to_le_bytes());
            begin = *end;
        }
        out.extend_from_slice(&digest_bytes(&self.digests));
        out
    }

    /// Parse the plaintext: those of `frames` frames.
    pub fn parse(frames: u32, plain: &[u8]) -> Result<Self> {
        Self::read(frames, plain).ok_or_else(|| Error::corrupt("the page digests of a pack are malformed"))
    }

    fn read(frames: u32, mut input: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut end: usize = 0;
        for _ in 0..frames {
            end = end.checked_add(u32::from_le_bytes(take(&mut input)?) as usize)?;
            found.ends.push(end);
        }
        while !input.is_empty() {
            found.digests.push(u64::from_le_bytes(take(&mut input)?));
        }
        (found.digests.len() == end).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn digests_of_a_pack_round_trip_and_nothing_else_parses() {
        let mut digests = PackDigests::default();
        let frames: [&[u64]; 4] = [&[1, 2, 3], &[], &[u64::MAX], &[4]];
        for of_frame in frames {
            assert_eq!(digests.len_with(of_frame.len()), {
                let mut more = digests.clone();
                more.push(of_frame);
                more.to_bytes().len()
            });
            digests.push(of_frame);
        }
        let bytes = digests.to_bytes();
        assert_eq!(PackDigests::parse(4, &bytes).unwrap(), digests);
        for (number, of_frame) in (0..).zip(frames) {
            assert_eq!(digests.of_frame(number), Some(of_frame));
        }
        assert_eq!(digests.of_frame(4), None);
        for len in 0..bytes.len() {
            PackDigests::parse(4, &bytes[..len]).unwrap_err();
        }
        for frames in [0, 3, 5, u32::MAX] {
            PackDigests::parse(frames, &bytes).unwrap_err();
        }
    }
}
