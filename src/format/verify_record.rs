//! Which object of a verification's memory: its results, and what was opened when.

use crate::error::Result;
use crate::seal::fill_random;

/// An object that verifications write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyRecord {
    /// The result of the last one by a listing.
    Listing,
    /// The result of the last one by content.
    Content,
    /// The damage that the last ones found.
    Harm,
    /// What one run opened; the number is the run's own.
    Seen(u64),
}

impl VerifyRecord {
    /// For a new run.
    pub fn new_run() -> Result<Self> {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        Ok(Self::Seen(u64::from_le_bytes(random)))
    }
}
