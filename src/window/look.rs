//! One look at a repository: a listing becomes the recovery window, and what has to be read for it is read.

use std::sync::Arc;

use super::recovery::RecoveryWindow;
use super::times::WalTimes;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::records::Records;
use crate::repository::{Listing, Repository};

/// The recovery window that `listing` shows. `records` and `times` are kept from one look to the next.
pub async fn look(
    repository: &Repository,
    listing: &Listing,
    records: &mut Records,
    times: &mut WalTimes,
) -> Result<(Arc<Catalog>, RecoveryWindow)> {
    records.read(repository, listing).await?;
    let catalog = Arc::new(Catalog::of(listing, records, repository.identity().segment_size()?));
    times.prune(&catalog);
    loop {
        match RecoveryWindow::of(&catalog, times) {
            Ok(window) => return Ok((catalog, window)),
            Err(needs) => times.learn(repository, &catalog, needs).await?,
        }
    }
}
