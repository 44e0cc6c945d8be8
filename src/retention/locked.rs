//! What is sealed with a key that is not at hand: nobody here knows what it is, and what it needs. Damage stays damage; a key
//! may come back, and what it opens has to be there then.

use crate::error::{Error, Kind, Result};
use crate::window::{Catalog, RecoveryWindow, WalTimes};

/// Refuse to judge a repository of which a backup, a history or WAL that was looked at waits for its key.
pub(super) fn refuse(catalog: &Catalog, window: &RecoveryWindow, times: &WalTimes) -> Result<()> {
    let unfollowed = window.unreadable.iter().map(|(_, error)| error);
    let unusable = window.branches.iter().flat_map(|branch| branch.unusable.iter().map(|(_, error)| error));
    let locked = backups(catalog).chain(unfollowed.chain(unusable).filter(|error| is_locked(error)));
    match locked.chain(times.without_key()).next() {
        Some(error) => Err(refusal(error)),
        None => Ok(()),
    }
}

/// Refuse if this is what waits for its key.
pub(super) fn refusal_for_want_of_key(error: Error) -> Error {
    if is_locked(&error) { refusal(&error) } else { error }
}

/// Whether a backup waits for its key: then nothing goes next.
pub(super) fn holds_up(catalog: &Catalog) -> bool {
    backups(catalog).next().is_some()
}

fn backups(catalog: &Catalog) -> impl Iterator<Item = &Error> {
    catalog.damaged.iter().map(|damaged| &damaged.error).filter(|error| is_locked(error))
}

fn is_locked(error: &Error) -> bool {
    error.kind() == Kind::KeyMissing
}

fn refusal(error: &Error) -> Error {
    Error::new(Kind::KeyMissing, format!("nothing expires: {error}")).hint(
        "put that key back into the key file, behind the one that seals. Is it lost for good? then nobody can open the object: \
         delete it in the store, and run this again",
    )
}
