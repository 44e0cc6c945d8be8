//! Damage that a verification finds while a backup runs. What was known when it began is not reused.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::{BackupId, Harm, ObjectKey};
use crate::repository::Repository;

/// See that the backup `id`, whose pack list is stored, needs no pack that is known to be damaged.
pub(super) async fn must_be_sound(repository: &Repository, id: &BackupId) -> Result<()> {
    let harm = repository.get_harm().await?;
    let key = |harm: &Harm| Some((harm.key()?, harm.clone()));
    let harmed: HashMap<ObjectKey, Harm> = harm.iter().filter_map(key).collect();
    if harmed.is_empty() {
        return Ok(());
    }
    let needed = repository.get_pack_list(id).await?;
    let found = needed.0.iter().find_map(|pack| harmed.get(&ObjectKey::Pack(pack.name.clone())));
    found.map_or(Ok(()), |harm| {
        let Harm { object, why, .. } = harm;
        let text =
            format!("a verification found meanwhile that what the backup reuses is damaged: {object}: {why}");
        Err(Error::corrupt(text).hint("run it again: what is damaged is stored anew"))
    })
}
