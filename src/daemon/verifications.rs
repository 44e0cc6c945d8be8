//! Verifications run by a timer, or on another host; what they found is read from the repository.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::archiver::Archiver;
use crate::repository::Repository;
use crate::status::{Verifications, VerifyLine};
use crate::verify::LastVerify;

/// Between two looks: two small objects.
const PAUSE: Duration = Duration::from_mins(1);

/// The last verification of each level. What cannot be read now is as it was `known`: an outage of the store ends no problem.
pub(super) async fn read(repository: &Repository, known: &Verifications) -> Verifications {
    // An empty mount point holds no result either.
    if let Err(error) = repository.check_still_there().await {
        tracing::debug!(%error, "the results of verifications cannot be read");
        return known.clone();
    }
    let (mut lines, mut verifications_read) = (Vec::new(), true);
    for (level, content) in [("listing", false), ("content", true)] {
        match LastVerify::read(repository, content).await {
            Ok(last) => lines.extend(last.map(|last| line(level, &last))),
            Err(error) => {
                tracing::debug!(%error, "the result of a verification cannot be read");
                verifications_read = known.verifications_read;
                lines.extend(known.verifications.iter().find(|line| line.level == level).cloned());
            }
        }
    }
    Verifications { verifications: lines, verifications_read }
}

fn line(level: &str, last: &LastVerify) -> VerifyLine {
    let first = last.findings.first();
    VerifyLine {
        level: level.to_owned(),
        finished_at: last.finished_at.into(),
        last_success_at: last.last_success_at.map(Into::into),
        problems: last.problems,
        left: last.left,
        oldest: last.oldest.map(Into::into),
        covered: last.covered.clone(),
        first: first.map(|found| format!("{}: {}", found.object, found.problem)),
        loses: first.map(|found| found.loses.clone()),
    }
}

/// What is known, for whoever shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct VerificationsHandle {
    known: Arc<Mutex<Verifications>>,
    news: Arc<Notify>,
}

impl VerificationsHandle {
    /// As if these results had been read.
    #[cfg(test)]
    pub(super) fn know(&self, verifications: Verifications) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = verifications;
    }

    pub(super) fn get(&self) -> Verifications {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Look for new results for ever.
    pub(super) async fn run(self, archiver: Arc<Archiver>) {
        loop {
            let Some(pusher) = archiver.pusher() else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            let read = read(pusher.repository(), &self.get()).await;
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = read;
            // A verification that ends on this host says so.
            let _ = timeout(PAUSE, self.news.notified()).await;
        }
    }

    /// Look now.
    pub(super) fn look(&self) {
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VerifyRecord;
    use crate::repository::fixture::in_store;
    use crate::store::Location;

    #[tokio::test]
    async fn what_cannot_be_read_is_as_it_was_known() {
        let scratch = tempfile::tempdir().unwrap();
        let [here, away] = ["here", "away"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&here).unwrap();
        let (_, repository) = in_store(&Location::File(here.clone())).await;
        let found = r#"{"finished_at":"2026-11-22T13:00:00Z","last_success_at":null,"objects":9,"left":0,"problems":1,"findings":[]}"#;
        repository.put_verify_record(VerifyRecord::Content, found.as_bytes()).await.unwrap();
        let known = read(&repository, &Verifications::default()).await;
        assert_eq!((known.verifications.len(), known.verifications_read), (1, true));
        assert_eq!(known.verifications[0].problems, 1);
        // As if its disk were not mounted.
        std::fs::rename(&here, &away).unwrap();
        assert_eq!(read(&repository, &known).await, known);
        std::fs::create_dir(&here).unwrap();
        assert_eq!(read(&repository, &known).await, known, "what it is mounted on");
        std::fs::remove_dir(&here).unwrap();
        assert!(!read(&repository, &Verifications::default()).await.verifications_read);
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(read(&repository, &Verifications::default()).await, known);
    }
}
