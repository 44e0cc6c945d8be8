//! Drills run on another host; what they found is read from the repository, each report once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::archiver::Archiver;
use crate::drill::{self, Report, Verdict, estimate, read_unproven};
use crate::format::Manifest;
use crate::postgres::{History, PgTime};
use crate::repository::{Repository, StoredReport};
use crate::status::{DrillLine, Drills};
use crate::window::{Branch, Catalog};

/// Between two looks for new reports: one listing.
pub(super) const PAUSE: Duration = Duration::from_mins(1);
/// Drills that are shown.
const SHOWN: usize = 12;

/// What is known of a repository's drills.
#[derive(Debug, Clone, Default)]
pub struct KnownDrills {
    /// By number and digest; `None` is another entry of the chain.
    reports: BTreeMap<(u32, u64), Option<Arc<Report>>>,
    /// When the repository was made, once its reports were listed: from then on drills were promised.
    since: Option<PgTime>,
}

/// What the repository's reports tell; where they cannot be read, nothing.
pub async fn read(repository: &Repository) -> KnownDrills {
    let mut known = KnownDrills::default();
    known.update(repository).await;
    known
}

impl KnownDrills {
    /// A statistic that fails takes no claim with it: what cannot be read is left out.
    async fn update(&mut self, repository: &Repository) {
        let Ok((listed, _)) = repository.list_reports().await else { return };
        // In an empty mount point there is none either.
        if listed.is_empty() && repository.check_still_there().await.is_err() {
            return;
        }
        self.since = Some(repository.identity().created_at.into());
        let there = |key: &(u32, u64)| listed.iter().any(|report| (report.sequence, report.digest) == *key);
        self.reports.retain(|key, _| there(key));
        for report in &listed {
            let key = (report.sequence, report.digest);
            if let Entry::Vacant(unknown) = self.reports.entry(key) {
                match fetch(repository, report).await {
                    Ok(found) => drop(unknown.insert(found)),
                    Err(error) => tracing::debug!(%error, "a drill's report cannot be read"),
                }
            }
        }
    }

    fn reports(&self) -> impl DoubleEndedIterator<Item = &Report> {
        self.reports.values().filter_map(|report| report.as_deref())
    }

    /// As a snapshot shows them. The last drill that counts says how often they were promised; until there is one, `every`.
    pub fn summary(&self, now: PgTime, every: Duration) -> Drills {
        let count =
            |verdict: Verdict| self.reports().filter(|report| report.verdict == verdict).count() as u64;
        let started =
            |verdicts: &[Verdict]| self.reports().rev().find(|report| verdicts.contains(&report.verdict));
        let counted = started(&[Verdict::Pass, Verdict::Fail]);
        let promised = match counted {
            Some(report) => Some((report.started_at, report.objectives.every_seconds)),
            None => self.since.map(|since| (since, every.as_secs_f64())),
        };
        let mut shown: Vec<DrillLine> = self.reports().rev().take(SHOWN).map(line).collect();
        shown.reverse();
        Drills {
            drills: shown,
            drill_counts: Verdict::ALL.map(|verdict| (verdict.as_str().to_owned(), count(verdict))).to_vec(),
            drill_passed_at: started(&[Verdict::Pass]).map(|report| report.started_at),
            drill_overdue_seconds: promised.map(|(from, every)| (now.seconds_since(from) - every).max(0.0)),
            drill_every_seconds: promised.map(|(_, every)| every),
        }
    }

    /// What a restore of the newest state along `history` would take now, and what if a backup had just been taken.
    pub(super) fn estimate(&self, catalog: &Catalog, history: &History) -> (Option<f64>, Option<f64>) {
        let leads_here = |backup: &&Arc<Manifest>| Branch::leads_here(history, backup);
        let Some(backup) = catalog.backups.iter().rev().find(leads_here) else { return (None, None) };
        let (segments, _) = catalog.stored_from(history, backup.start_lsn);
        let of = |segments| estimate(self.reports().rev(), backup.size_bytes, segments);
        (of(segments.len() as u64), of(1))
    }
}

async fn fetch(repository: &Repository, report: &StoredReport) -> crate::error::Result<Option<Arc<Report>>> {
    let link = read_unproven(&repository.get_report(report).await?)?;
    Ok(match link.entry {
        drill::Entry::Drill(report) => Some(Arc::from(report)),
        drill::Entry::Note(_) => None,
    })
}

fn line(report: &Report) -> DrillLine {
    DrillLine {
        id: report.id.clone(),
        started_at: report.started_at,
        verdict: report.verdict.as_str().to_owned(),
        target: report.target.clone(),
        rto_seconds: report.rto_seconds,
        rpo_seconds: report.rpo_seconds,
        phases: report.phases.all().into_iter().map(|(name, seconds)| (name.to_owned(), seconds)).collect(),
        estimate_seconds: report.estimate_seconds,
        reasons: report.reasons.clone(),
    }
}

/// What is known, for whoever shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct DrillsHandle {
    known: Arc<Mutex<KnownDrills>>,
    news: Arc<Notify>,
}

impl DrillsHandle {
    /// As if these reports had been read.
    #[cfg(test)]
    pub(super) fn know(&self, reports: &[Arc<Report>]) {
        let numbered = (1_u32..).zip(reports).map(|(number, report)| ((number, 0), Some(Arc::clone(report))));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            KnownDrills { reports: numbered.collect(), since: None };
    }

    pub(super) fn get(&self) -> KnownDrills {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Look for new reports for ever.
    pub(super) async fn run(self, archiver: Arc<Archiver>) {
        loop {
            let Some(pusher) = archiver.pusher() else {
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            let mut known = self.get();
            known.update(pusher.repository()).await;
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
            // A drill that ends on this host says so.
            let _ = timeout(PAUSE, self.news.notified()).await;
        }
    }

    /// Look now.
    pub(super) fn look(&self) {
        self.news.notify_one();
    }
}
