//! A data directory of PostgreSQL 15 for unit tests: no server, but files that pass for one's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(super) const SYSTEM_IDENTIFIER: u64 = 7_300_000_000_000_000_001;

/// Without these and `global/pg_control` there is no cluster.
pub(super) const FILES: [&str; 4] =
    ["PG_VERSION", "base/1/1259", "base/1/PG_VERSION", "global/pg_filenode.map"];

pub(super) fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in FILES {
        touch(&dir.path().join(file));
    }
    fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
    fs::write(dir.path().join("global/pg_control"), control_bytes()).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// An empty file, in directories made for it.
pub(super) fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

/// `struct ControlFileData` of version 15 with its checksum, in a file of 8192 bytes.
pub(super) fn control_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &SYSTEM_IDENTIFIER.to_le_bytes());
    let numbers: [(usize, u32); 13] = [
        (8, 1300),         // pg_control_version
        (12, 202_209_061), // catalog_version_no
        (16, 6),           // state: in production
        (32, 0x0300_0028), // checkPoint
        (40, 0x0300_0028), // checkPointCopy.redo
        (48, 1),           // checkPointCopy.ThisTimeLineID
        (172, 1),          // wal_level: replica
        (204, 8),          // maxAlign
        (216, 8192),       // blcksz
        (220, 131_072),    // relseg_size
        (224, 8192),       // xlog_blcksz
        (228, 16 << 20),   // xlog_seg_size
        (252, 1),          // data_checksum_version
    ];
    for (at, number) in numbers {
        put(at, &number.to_le_bytes());
    }
    put(208, &1_234_567.0_f64.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
