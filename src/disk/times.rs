//! Which file systems' times can be relied on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Kinds of file systems of this host's kernel that set the change time of a file at every write (`f_type` of statfs(2)):
/// ext2 to ext4, XFS, Btrfs, ZFS, F2FS, bcachefs, tmpfs. Those over a network or in user space have another clock or other
/// habits, and an overlay shows files of several file systems.
const KEEP_TIMES: [u32; 7] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010, 0xCA45_1A4E, 0x0102_1994];

/// The device of the file system that holds `path`, if its times can be relied on: by this host's clock, and changed at every
/// write.
pub fn device_that_keeps_times(path: &Path) -> io::Result<Option<u64>> {
    let device = std::fs::metadata(path)?.dev();
    let kind = rustix::fs::statfs(path)?.f_type;
    let keeps = KEEP_TIMES.iter().any(|known| i64::from(*known) == kind & 0xFFFF_FFFF);
    Ok(keeps.then_some(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_the_kernels_own_making_is_not_relied_on() {
        assert_eq!(device_that_keeps_times(Path::new("/proc")).unwrap(), None);
        let shared_memory = Path::new("/dev/shm");
        let device = std::fs::metadata(shared_memory).unwrap().dev();
        assert_eq!(device_that_keeps_times(shared_memory).unwrap(), Some(device));
        device_that_keeps_times(Path::new("/absent")).unwrap_err();
    }
}
