//! Data pages, their checksums, and the names of the files that hold them.

use super::lsn::Lsn;

/// Bytes of a data page (BLCKSZ); other sizes need a PostgreSQL built for them and are not supported.
pub const PAGE_SIZE: usize = 8192;

/// Bytes of a WAL page (XLOG_BLCKSZ); other sizes need a PostgreSQL built for them and are not supported.
pub const WAL_PAGE_SIZE: usize = 8192;

/// Pages of a relation's file before the next file begins, 1 GiB (RELSEG_SIZE).
pub const BLOCKS_PER_RELATION_FILE: u32 = 131_072;

/// Columns that are hashed side by side (N_SUMS).
const LANES: usize = 32;
const ROW_SIZE: usize = LANES * 4;
const ROWS: usize = PAGE_SIZE / ROW_SIZE;
const FNV_PRIME: u32 = 16_777_619;

/// What each column's hash begins with (checksumBaseOffsets).
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum that the page should carry as block number `block` of its relation (checksum_impl.h,
/// pg_checksum_page). `page` has [`PAGE_SIZE`] bytes; rows of 128 bytes that are missing count as zeros.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    // The widest vectors that this processor has: three times as fast as those that every x86-64 has.
    let sums = pulp::Arch::new().dispatch(
        #[inline(always)]
        || column_sums(page),
    );
    let hash = sums.into_iter().fold(block, |folded, sum| folded ^ sum);
    // At most 65535, and never 0.
    u16::try_from(hash % 65535 + 1).unwrap_or(u16::MAX)
}

/// The hash of each column of the page. Inlined into code for each kind of processor.
#[inline(always)]
#[expect(clippy::inline_always, reason = "else it is compiled once, for the oldest processor")]
fn column_sums(page: &[u8]) -> [u32; LANES] {
    let (rows, _) = page.as_chunks::<ROW_SIZE>();
    let mut sums = OFFSETS;
    let mut rows = rows.iter();
    let mut first = rows.next().map_or([0; LANES], words);
    // The checksum itself, the lower half of this word, counts as zero.
    first[2] &= 0xFFFF_0000;
    mix(&mut sums, &first);
    let mut missing = ROWS - 1;
    for row in rows.take(ROWS - 1) {
        mix(&mut sums, &words(row));
        missing -= 1;
    }
    // Two rows of zeros end the hash.
    for _ in 0..missing + 2 {
        mix(&mut sums, &[0; LANES]);
    }
    sums
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as column_sums")]
fn words(row: &[u8; ROW_SIZE]) -> [u32; LANES] {
    let (bytes, _) = row.as_chunks::<4>();
    std::array::from_fn(|lane| u32::from_le_bytes(bytes[lane]))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as column_sums")]
fn mix(sums: &mut [u32; LANES], row: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(row) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// The end of the WAL record that last changed the page (bufpage.h, pd_lsn); 0 if the page is too short to
/// say.
pub fn page_lsn(page: &[u8]) -> Lsn {
    // Two little-endian halves, the upper one first.
    page.first_chunk().map_or(Lsn::INVALID, |halves| Lsn::new(u64::from_le_bytes(*halves).rotate_left(32)))
}

/// What [`check_page`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// The checksum is right.
    Valid,
    /// Nothing but zeros: allocated and not yet used.
    New,
    /// The checksum is wrong, but the page was written after the backup began: perhaps read while being
    /// written. Replay overwrites it with an image from the WAL.
    Newer,
    /// The page is damaged.
    Corrupt {
        /// The checksum of the bytes.
        expected: u16,
        /// The one on the page.
        found: u16,
    },
}

/// Check the page that is block number `block` of its relation, in a cluster with checksums, for a backup
/// that began at `start`. A page that is not [`PAGE_SIZE`] bytes long is corrupt.
pub fn check_page(page: &[u8], block: u32, start: Lsn) -> PageVerdict {
    let field = |offset: usize| match page.get(offset..offset + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    let (found, upper) = (field(8), field(14));
    let complete = page.len() == PAGE_SIZE;
    if complete && upper == 0 && page == [0; PAGE_SIZE] {
        return PageVerdict::New;
    }
    let expected = page_checksum(page, block);
    // PostgreSQL takes a page without an upper bound for a new one and gives it no checksum.
    let initialized = complete && upper != 0;
    if initialized && expected == found {
        PageVerdict::Valid
    } else if initialized && page_lsn(page) >= start {
        PageVerdict::Newer
    } else {
        PageVerdict::Corrupt { expected, found }
    }
}

/// What a relation's file is for (relpath.h, ForkNumber).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// Free space map, suffix `_fsm`.
    FreeSpace,
    /// Visibility map, suffix `_vm`.
    VisibilityMap,
    /// What an unlogged relation is reset to, suffix `_init`.
    Init,
}

/// The name of a relation's file, as in `16384_vm.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The relation's file number.
    pub filenode: u32,
    /// The fork.
    pub fork: Fork,
    /// Which file of the fork; its first page is block `segment * BLOCKS_PER_RELATION_FILE`, which fits in 32
    /// bits.
    pub segment: u32,
}

impl RelationFile {
    /// Parse a file's name without its directory; `None` if it is not the file of an ordinary relation.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, digits)) => (stem, number(digits)?),
            None => (name, 0),
        };
        let (digits, fork) = match stem.split_once('_') {
            Some((digits, "fsm")) => (digits, Fork::FreeSpace),
            Some((digits, "vm")) => (digits, Fork::VisibilityMap),
            Some((digits, "init")) => (digits, Fork::Init),
            Some(_) => return None,
            None => (stem, Fork::Main),
        };
        segment.checked_mul(BLOCKS_PER_RELATION_FILE)?;
        Some(Self { filenode: number(digits)?, fork, segment })
    }
}

/// Whether this is the name of a file of a temporary relation: `t3_16384`, with fork and segment as others
/// (looks_like_temp_rel_name in fd.c).
pub fn is_temporary_relation(name: &str) -> bool {
    name.strip_prefix('t').and_then(|rest| rest.split_once('_')).is_some_and(|(backend, relation)| {
        number(backend).is_some() && RelationFile::parse(relation).is_some()
    })
}

/// Decimal digits only; `parse` alone takes a sign.
fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::noise::noise;
    use super::*;

    /// Pseudo-random bytes with a page size that PostgreSQL accepts.
    fn page() -> Vec<u8> {
        let mut noise = noise();
        let mut page: Vec<u8> = (0..PAGE_SIZE).map(|_| noise().to_le_bytes()[0]).collect();
        page[18..20].copy_from_slice(&(8192_u16 | 4).to_le_bytes());
        page
    }

    fn sealed(block: u32) -> Vec<u8> {
        let mut page = page();
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn checksums_are_those_of_postgresql() {
        // As page_checksum() of its extension pageinspect says, version 15.
        for (block, expected) in [(0, 44527), (7, 44522), (131_079, 44524), (2_147_483_647, 53778)] {
            assert_eq!(page_checksum(&page(), block), expected);
            assert_eq!(page_checksum(&sealed(block), block), expected);
        }
    }

    #[test]
    fn pages_are_judged() {
        let page = sealed(5);
        let lsn = page_lsn(&page);
        assert_eq!(lsn.get().rotate_left(32).to_le_bytes(), page[..8]);
        let later = Lsn::new(lsn.get() + 1);
        assert_eq!(check_page(&page, 5, later), PageVerdict::Valid);
        assert_eq!(check_page(&page, 6, lsn), PageVerdict::Newer);
        let verdict =
            PageVerdict::Corrupt { expected: page_checksum(&page, 6), found: page_checksum(&page, 5) };
        assert_eq!(check_page(&page, 6, later), verdict);
    }

    #[test]
    fn a_page_without_upper_bound_is_new_or_corrupt() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(check_page(&page, 5, Lsn::INVALID), PageVerdict::New);
        page[PAGE_SIZE - 1] = 1;
        assert!(matches!(check_page(&page, 5, Lsn::INVALID), PageVerdict::Corrupt { found: 0, .. }));
        let mut page = sealed(5);
        page[14..16].fill(0);
        let checksum = page_checksum(&page, 5);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(check_page(&page, 5, Lsn::INVALID), PageVerdict::Corrupt { .. }));
    }

    #[test]
    fn what_is_no_page_is_corrupt() {
        let mut page = sealed(5);
        page.push(0);
        for length in (0..40).chain([PAGE_SIZE - 128, PAGE_SIZE - 1, PAGE_SIZE + 1]) {
            assert!(matches!(check_page(&page[..length], 5, Lsn::INVALID), PageVerdict::Corrupt { .. }));
        }
    }

    #[test]
    fn names_of_relation_files_parse() {
        for (name, filenode, fork, segment) in [
            ("1259", 1259, Fork::Main, 0),
            ("1259.7", 1259, Fork::Main, 7),
            ("1259_fsm", 1259, Fork::FreeSpace, 0),
            ("1259_vm.2", 1259, Fork::VisibilityMap, 2),
            ("4294967295_init", u32::MAX, Fork::Init, 0),
            ("1.32767", 1, Fork::Main, 32767),
        ] {
            assert_eq!(RelationFile::parse(name), Some(RelationFile { filenode, fork, segment }), "{name}");
            assert!(is_temporary_relation(&format!("t3_{name}")), "{name}");
            assert!(!is_temporary_relation(name), "{name}");
        }
    }

    #[test]
    fn other_names_do_not_parse() {
        for name in [
            "",
            ".",
            "_",
            "_fsm",
            "1_",
            "1.",
            "1_xyz",
            "1_fsm_vm",
            "1.2.3",
            "1.2_fsm",
            "+1",
            "1.+2",
            " 1",
            "1é",
            "4294967296",
            "1.32768",
            "PG_VERSION",
            "pg_filenode.map",
            "pg_internal.init",
            "t1_2",
        ] {
            assert_eq!(RelationFile::parse(name), None, "{name}");
        }
        for name in ["t", "t1", "t_1", "t1_", "t1_x", "tx_1", "T1_2", "t1_2_3"] {
            assert!(!is_temporary_relation(name), "{name}");
        }
    }
}
