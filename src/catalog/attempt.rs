//! Whether the last try to take a backup failed.

use std::time::Duration;

use jiff::Timestamp;

use super::Catalog;
use crate::format::lease_record::lifetime;
use crate::repository::AttemptEnd;

impl Catalog {
    /// When the last try to take a backup failed, and why. One that did not end is alive while its lease is. Twice a lease's
    /// lifetime leaves room for what the store's and this host's clock are apart.
    pub fn backup_failure(&self, now: Timestamp) -> Option<(Timestamp, String)> {
        let attempt = self.attempt.as_ref()?;
        if let Some(AttemptEnd { at, failure }) = &attempt.ended {
            return failure.clone().map(|why| (*at, why));
        }
        let seen_at = self.backup_lease.map_or(attempt.begun_at, |at| at.max(attempt.begun_at));
        let silent = Duration::try_from(now.duration_since(seen_at)).unwrap_or_default();
        let why = || format!("begun on {}, it never ended: was it killed, or the host lost?", attempt.host);
        (silent > lifetime() * 2).then(|| (attempt.begun_at, why()))
    }

    /// When the last try to take a backup ended, if it succeeded.
    pub fn backup_success(&self) -> Option<Timestamp> {
        let end = self.attempt.as_ref()?.ended.as_ref()?;
        end.failure.is_none().then_some(end.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::BackupAttempt;
    use crate::repository::fixture::size;

    #[test]
    fn a_try_that_ends_nowhere_has_failed_once_its_lease_is_old() {
        let at = |seconds: i64| Timestamp::from_second(1_760_000_000 + seconds).unwrap();
        let mut catalog = Catalog::empty(size());
        assert_eq!(catalog.backup_failure(at(0)), None);
        let begun = BackupAttempt { begun_at: at(0), host: "db".to_owned(), ended: None };
        catalog.attempt = Some(begun.clone());
        for (renewed, now, failed) in
            [(None, 239, false), (None, 241, true), (Some(900), 1139, false), (Some(900), 1141, true)]
        {
            catalog.backup_lease = renewed.map(at);
            let failure = catalog.backup_failure(at(now));
            assert_eq!(failure.map(|(at, _)| at), failed.then(|| at(0)), "{renewed:?} {now}");
        }
        let ended = |failure| {
            Some(BackupAttempt { ended: Some(AttemptEnd { at: at(60), failure }), ..begun.clone() })
        };
        catalog.attempt = ended(None);
        assert_eq!(catalog.backup_failure(at(9999)), None);
        assert_eq!(catalog.backup_success(), Some(at(60)));
        catalog.attempt = ended(Some("x".to_owned()));
        assert_eq!(catalog.backup_failure(at(61)), Some((at(60), "x".to_owned())));
        assert_eq!(catalog.backup_success(), None);
    }
}
