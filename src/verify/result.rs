//! The result of the last verification of each level, in the repository, to be shown.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::findings::Finding;
use super::run::Verified;
use crate::error::{Error, Result};
use crate::format::VerifyRecord;
use crate::postgres::PgTime;
use crate::repository::Repository;

/// Findings that are kept.
const KEPT: usize = 20;

/// What the last verification of a level found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerify {
    /// When it ended, by the clock of the host that made it.
    pub finished_at: Timestamp,
    /// When the last one ended that found no problem.
    pub last_success_at: Option<Timestamp>,
    /// Objects that were listed.
    pub objects: u64,
    /// Objects that a budget left for the next run.
    pub left: u64,
    /// By content: of all that is stored and sound, when that was opened which was so longest ago; what never was counts
    /// from its put. `None`: there is nothing, or it was by a listing.
    #[serde(default)]
    pub oldest: Option<Timestamp>,
    /// By content: from when to when any instant can be restored with nothing but what was opened within the window.
    #[serde(default)]
    pub covered: Vec<(PgTime, PgTime)>,
    /// How many problems it found.
    pub problems: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

const fn record(content: bool) -> VerifyRecord {
    if content { VerifyRecord::Content } else { VerifyRecord::Listing }
}

impl LastVerify {
    /// The last one by content, or by a listing; `None` before the first, or if it cannot be understood.
    pub async fn read(repository: &Repository, content: bool) -> Result<Option<Self>> {
        let plain = repository.get_verify_record(record(content)).await?;
        Ok(plain.and_then(|plain| serde_json::from_slice(&plain).ok()))
    }

    /// Leave the result of a verification in the repository.
    pub async fn write(repository: &Repository, content: bool, verified: &Verified) -> Result<()> {
        let before = Self::read(repository, content).await?;
        let problems = &verified.findings.problems;
        let finished_at = Timestamp::now();
        let success = problems.is_empty().then_some(finished_at);
        let last = Self {
            finished_at,
            last_success_at: success.or(before.and_then(|before| before.last_success_at)),
            objects: verified.objects,
            left: verified.left,
            oldest: verified.oldest,
            covered: verified.covered.iter().map(|instants| (instants.start, instants.end)).collect(),
            problems: problems.len() as u64,
            findings: problems.iter().take(KEPT).cloned().collect(),
        };
        let plain = serde_json::to_vec(&last)
            .map_err(|cause| Error::corrupt(format!("write a result of verify: {cause}")))?;
        repository.put_verify_record(record(content), &plain).await
    }
}
