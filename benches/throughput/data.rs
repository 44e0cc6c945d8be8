//! Data that compresses about as WAL and tables do, the same on every run.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Bytes of a page, of WAL and of relations.
pub(crate) const PAGE: usize = 8192;
/// Bytes of the segment.
pub(crate) const SEGMENT: u32 = 16 << 20;
/// Where the segment begins.
pub(crate) const START: u64 = 3 * SEGMENT as u64;
/// The cluster that the segment is of.
pub(crate) const SYSTEM_IDENTIFIER: u64 = 7_420_000_000_000_000_007;

const WORDS: [&str; 16] = [
    "open",
    "pending",
    "closed",
    "Gravelines",
    "invoice",
    "customer",
    "delivery",
    "2026-11-22",
    "street",
    "and",
    "the",
    "road",
    "wave",
    "paid",
    "EUR",
    "carrier",
];

/// Numbers from a seed, the same in every run.
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).expect("small")
    }

    /// A row: a key that counts up, a random number, a few words.
    fn row(&mut self, key: u64) -> Vec<u8> {
        let mut row = key.to_le_bytes().to_vec();
        row.extend(&self.next().to_le_bytes()[..4]);
        for _ in 0..4 + self.below(16) {
            row.extend(WORDS[self.below(16)].as_bytes());
            row.push(b' ');
        }
        row
    }
}

/// A full segment of small records, with a commit after every eighth.
pub(crate) fn segment() -> Vec<u8> {
    let mut random = Random::new(1);
    let mut segment = Segment { bytes: Vec::with_capacity(SEGMENT as usize), previous: START - 32 };
    for key in 0.. {
        let row = random.row(key);
        let mut heap = vec![0, 0x20, row.len().to_le_bytes()[0], row.len().to_le_bytes()[1]];
        heap.extend([0x7F, 6, 0, 0, 5, 0x40, 0, 0]);
        heap.extend((0x4000 + key / 40 % 512).to_le_bytes());
        heap.extend([255, 3]);
        heap.extend(&row);
        heap.extend([7, 0, 8]);
        if !segment.record(10, 0, key / 8, &heap, &mut random) {
            break;
        }
        if key % 8 == 7 {
            let mut commit = vec![255, 8];
            commit.extend((800_000_000_000_000 + key * 900).to_le_bytes());
            if !segment.record(1, 0, key / 8, &commit, &mut random) {
                break;
            }
        }
    }
    segment.bytes.truncate(SEGMENT as usize);
    segment.bytes
}

struct Segment {
    bytes: Vec<u8>,
    previous: u64,
}

impl Segment {
    fn page_header(&mut self, remaining: usize) {
        let long = self.bytes.is_empty();
        let info = u16::from(remaining > 0) | u16::from(long) << 1;
        let address = START + self.bytes.len() as u64;
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((remaining as u64).to_le_bytes());
        if long {
            self.bytes.extend(SYSTEM_IDENTIFIER.to_le_bytes());
            self.bytes.extend(SEGMENT.to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    /// Lay a record over pages as PostgreSQL does; false when the segment is full.
    fn record(&mut self, manager: u8, info: u8, xid: u64, rest: &[u8], random: &mut Random) -> bool {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0);
        }
        let start = START + self.bytes.len() as u64;
        let mut record = u32::try_from(24 + rest.len()).expect("small").to_le_bytes().to_vec();
        record.extend(&xid.to_le_bytes()[..4]);
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        record.extend(&random.next().to_le_bytes()[..4]);
        record.extend(rest);
        let mut left = &record[..];
        while !left.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(left.len());
            }
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = left.split_at(left.len().min(room));
            self.bytes.extend(now);
            left = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        self.bytes.len() < SEGMENT as usize
    }
}

/// `count` pages of a table, with room left as PostgreSQL leaves it; their checksums are not right.
pub(crate) fn heap_pages(count: usize) -> Vec<u8> {
    let mut random = Random::new(2);
    let mut key = 0;
    let mut bytes = Vec::with_capacity(count * PAGE);
    for number in 0..count {
        let mut page = vec![0; PAGE];
        page[4..8].copy_from_slice(&u32::try_from(number * 977).expect("small").to_le_bytes());
        let (mut lower, mut upper) = (24, PAGE);
        loop {
            key += 1;
            let row = random.row(key);
            let len = (24 + row.len()).next_multiple_of(8);
            if upper < lower + 4 + len {
                break;
            }
            upper -= len;
            let pointer = u32::try_from(upper | 1 << 15 | (24 + row.len()) << 17).expect("small");
            page[lower..lower + 4].copy_from_slice(&pointer.to_le_bytes());
            page[upper..upper + 4].copy_from_slice(&u32::try_from(key / 50).expect("small").to_le_bytes());
            page[upper + 18..upper + 24].copy_from_slice(&[5, 0, 2, 9, 24, 0]);
            page[upper + 24..upper + 24 + row.len()].copy_from_slice(&row);
            lower += 4;
        }
        page[12..14].copy_from_slice(&u16::try_from(lower).expect("small").to_le_bytes());
        page[14..16].copy_from_slice(&u16::try_from(upper).expect("small").to_le_bytes());
        page[16..20].copy_from_slice(&[0, 32, 4, 32]);
        bytes.extend(page);
    }
    bytes
}
