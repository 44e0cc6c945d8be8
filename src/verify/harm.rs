//! What the damage that was found does to what is claimed: it is left in the repository, for the recovery window, which
//! counts on nothing that needs the damaged objects, and for backups, which do not reuse them. Only what is damaged for every
//! host is left: not what this one has no key for, nor sound WAL that does not follow the WAL before it.

use super::findings::Findings;
use crate::error::Result;
use crate::format::{Harm, ObjectKey, VerifyRecord};
use crate::postgres::WalName;
use crate::repository::{Listing, Repository};

/// Leave it in the repository, and give what counts now. `looked_at_all`: all content was opened, or known to be sound; else
/// what earlier runs found stands, as long as the objects are as they were.
pub(super) async fn note(
    repository: &Repository,
    listing: &Listing,
    findings: &Findings,
    looked_at_all: bool,
) -> Result<Vec<Harm>> {
    let before = repository.get_harm().await?;
    let mut now = harm(listing, findings, &before, looked_at_all);
    // A record that cannot be read says nothing, and would be found damaged by every run.
    let record = ObjectKey::Verify(VerifyRecord::Harm).to_string();
    let unreadable = findings.problems.iter().any(|found| found.object == record);
    if now != before || unreadable {
        repository.put_harm(&now).await?;
    }
    if blame_newer(repository, listing, &mut now).await? {
        repository.put_harm(&now).await?;
    }
    Ok(now)
}

/// Blame damaged packs for the backups, too, that need them and were taken since the listing: they looked for harm before it
/// was there. Whether there are any.
async fn blame_newer(repository: &Repository, listing: &Listing, harm: &mut [Harm]) -> Result<bool> {
    let pack = |harm: &Harm| {
        harm.key().and_then(|key| if let ObjectKey::Pack(name) = key { Some(name) } else { None })
    };
    let mut harmed: Vec<_> = harm.iter_mut().filter_map(|harm| Some((pack(harm)?, harm))).collect();
    if harmed.is_empty() {
        return Ok(false);
    }
    let mut more = false;
    for id in repository.list_backup_ids().await? {
        if listing.get(&ObjectKey::Manifest(id.clone())).is_some() {
            continue;
        }
        let list = repository.get_pack_list(&id).await?;
        for (name, harm) in &mut harmed {
            let needs = list.0.binary_search_by(|pack| pack.name.cmp(name)).is_ok();
            if needs && !harm.backups.contains(&id) {
                harm.backups.push(id.clone());
                more = true;
            }
        }
    }
    Ok(more)
}

fn harm(listing: &Listing, findings: &Findings, before: &[Harm], looked_at_all: bool) -> Vec<Harm> {
    let mut found = Vec::new();
    for finding in &findings.problems {
        let Ok(key) = finding.object.parse::<ObjectKey>() else { continue };
        if findings.unopened.contains(&finding.object) || findings.parted.contains(&finding.object) {
            continue;
        }
        // The rest tells by itself that it is damaged, whenever somebody looks.
        if matches!(
            key,
            ObjectKey::Pack(_) | ObjectKey::FileTable(..) | ObjectKey::Wal(WalName::Segment(_), _)
        ) {
            let backups = findings.blamed.get(&finding.object).into_iter().flatten().cloned().collect();
            found.push(Harm {
                state: listing.state(&key),
                object: finding.object.clone(),
                why: finding.problem.clone(),
                backups,
            });
        }
    }
    let is_new = |harm: &&Harm| found.iter().all(|known| known.object != harm.object);
    let not_opened = |harm: &&Harm| !looked_at_all || findings.unopened.contains(&harm.object);
    // What was missing is seen by every run.
    let stands = |harm: &&Harm| harm.state.is_some() && listing.has_still(harm);
    let kept: Vec<Harm> = before.iter().filter(not_opened).filter(stands).filter(is_new).cloned().collect();
    found.extend(kept);
    found.sort_by(|a, b| a.object.cmp(&b.object));
    found
}
