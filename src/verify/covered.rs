//! The instants that a restore reaches with nothing but what was opened within the window.

use super::content::Content;
use super::memory::{Memory, Unit};
use crate::error::{Error, Result};
use crate::postgres::WalName;
use crate::window::{Instants, Records, RecoveryWindow, WalTimes, look};

/// Those of the last writer's branch: its window if everything that was not opened were damaged.
pub(super) async fn covered(
    content: &Content<'_>,
    memory: &Memory,
    records: &mut Records,
    times: &WalTimes,
) -> Result<Vec<Instants>> {
    let mut times = times.clone();
    for listed in &content.listing.objects {
        let Some(file) = listed.wal_file().filter(|_| !memory.is_verified(Unit::of(listed))) else {
            continue;
        };
        if let WalName::Segment(segment) = file.name {
            times.note_damage(segment, file.digest, Error::corrupt("it was not opened within the window"));
        }
    }
    let (_, window) = look(content.repository, content.listing, records, &mut times).await?;
    let branch =
        window.last_writer().map(|branch| branch.from_those(|backup| memory.is_backup_verified(&backup.id)));
    Ok(branch.as_ref().map(RecoveryWindow::instants).unwrap_or_default())
}
