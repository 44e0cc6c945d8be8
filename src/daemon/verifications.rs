//! Verifications run by a timer, or on another host; what they found is read from the repository.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::archiver::Archiver;
use crate::repository::Repository;
use crate::status::{Verifications, VerifyLine};
use crate::verify::LastVerify;

/// Between two looks: two small objects.
const PAUSE: Duration = Duration::from_mins(1);

/// The last verification of each level; what cannot be read is left out.
pub(super) async fn read(repository: &Repository) -> Verifications {
    let (mut lines, mut verifications_read) = (Vec::new(), true);
    for (level, content) in [("listing", false), ("content", true)] {
        match LastVerify::read(repository, content).await {
            Ok(Some(last)) => lines.push(line(level, &last)),
            Ok(None) => {}
            Err(error) => {
                verifications_read = false;
                tracing::debug!(%error, "the result of a verification cannot be read");
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
pub(super) struct VerificationsHandle(Arc<Mutex<Verifications>>);

impl VerificationsHandle {
    /// As if these results had been read.
    #[cfg(test)]
    pub(super) fn know(&self, verifications: Verifications) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = verifications;
    }

    pub(super) fn get(&self) -> Verifications {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Look for new results for ever.
    pub(super) async fn run(self, archiver: Arc<Archiver>) {
        loop {
            let Some(pusher) = archiver.pusher() else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            let read = read(pusher.repository()).await;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = read;
            sleep(PAUSE).await;
        }
    }
}
