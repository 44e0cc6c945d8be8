//! PostgreSQL's major versions as its files tell them.

use std::fmt;

/// A major version, 13 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Major(u16);

/// A version's `server_version_num` as people write it: 15.20.
pub fn version_text(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// (major, WAL page magic, catalog version): xlog_internal.h XLOG_PAGE_MAGIC and catversion.h of each release branch.
/// 19 as of its release candidate.
const VERSIONS: [(u16, u16, u32); 7] = [
    (13, 0xD106, 202_007_201),
    (14, 0xD10D, 202_107_181),
    (15, 0xD110, 202_209_061),
    (16, 0xD113, 202_307_071),
    (17, 0xD116, 202_406_281),
    (18, 0xD118, 202_506_291),
    (19, 0xD122, 202_610_061),
];

impl Major {
    /// The version whose WAL pages carry this magic.
    pub fn from_wal_magic(magic: u16) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.1 == magic).map(|version| Self(version.0))
    }

    /// The version with this catalog version.
    pub fn from_catalog_version(catalog: u32) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.2 == catalog).map(|version| Self(version.0))
    }

    /// The version with this number, if known.
    pub fn from_number(number: u16) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.0 == number).map(|version| Self(version.0))
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
