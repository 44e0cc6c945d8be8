//! How much room a file system has.

use std::path::Path;

use crate::error::{Error, Result};

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an ordinary user may still write.
    pub free: u64,
    /// The whole.
    pub total: u64,
}

impl Space {
    /// Of the file system that holds `path`.
    pub fn at(path: &Path) -> Result<Self> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|cause| Error::io("examine the file system of", path, &cause.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_free_than_there_is() {
        let space = Space::at(Path::new("/")).unwrap();
        assert!(space.free <= space.total && space.total > 0, "{space:?}");
        Space::at(Path::new("/absent")).unwrap_err();
    }
}
