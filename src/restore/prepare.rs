//! What a restore reads of the repository before it touches the disk.

use super::attempt::lock;
use super::delta::Kept;
use super::places::{State, UNFINISHED};
use super::plan::Plan;
use super::table::{fill, read_part};
use crate::digest_reader::DigestReader;
use crate::error::Result;
use crate::format::FileTable;
use crate::repository::Repository;

/// What a restore begins with.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Of a delta restore.
    pub(super) kept: Option<Kept>,
    /// The first part of the file table, with its digests. `None`: all that is missing is the last step.
    pub(super) first: Option<FileTable>,
    pub(super) digests: DigestReader,
}

/// Read what `plan` begins with. Nothing is changed anywhere: a lease may be taken and questions be asked meanwhile.
pub async fn prepare(repository: &Repository, plan: &Plan) -> Result<Prepared> {
    // Who comes second hears it here at once; what follows may take as long as the store does.
    let mark = plan.to.join(UNFINISHED);
    if mark.exists() {
        drop(lock(&mark, &plan.to)?);
    }
    if !plan.delta && matches!(plan.state()?, State::Complete) {
        return Ok(Prepared::default());
    }
    let mut digests = DigestReader::default();
    let mut first = read_part(repository, plan, 0).await?;
    let kept = if plan.delta { Some(Kept::read(repository, plan, &first).await?) } else { None };
    fill(&mut digests, repository, &mut first).await?;
    Ok(Prepared { kept, first: Some(first), digests })
}
