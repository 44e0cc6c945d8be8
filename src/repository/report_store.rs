//! Reports of drills in the repository: put, list, get. What they say and who signed them is the drill's business.

use std::time::Duration;

use jiff::Timestamp;

use super::namespace::Repository;
use crate::error::{Kind, Result, ResultExt};
use crate::format::{ObjectKey, layout};
use crate::seal::ObjectKind;

/// Reports stay so long: 13 months.
pub const REPORTS_KEPT: Duration = Duration::from_hours(24 * 396);

/// A report that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredReport {
    /// Its number.
    pub sequence: u32,
    /// The first 8 bytes of its digest.
    pub digest: u64,
    /// When it was put, by the store's clock.
    pub modified: Timestamp,
}

impl StoredReport {
    fn key(&self) -> String {
        ObjectKey::Report(self.sequence, self.digest).to_string()
    }
}

impl Repository {
    /// All reports by number, and whether there is a head.
    pub async fn list_reports(&self) -> Result<(Vec<StoredReport>, bool)> {
        let objects = self.store().list(&self.key(layout::REPORTS)).await.context("list reports")?;
        let (mut reports, mut head) = (Vec::new(), false);
        for object in &objects {
            match self.relative(&object.key).and_then(|key| key.parse().ok()) {
                Some(ObjectKey::Report(sequence, digest)) => {
                    reports.push(StoredReport { sequence, digest, modified: object.modified });
                }
                Some(ObjectKey::ReportHead) => head = true,
                _ => {}
            }
        }
        reports.sort_unstable();
        Ok((reports, head))
    }

    /// The envelope of a report.
    pub async fn get_report(&self, report: &StoredReport) -> Result<Vec<u8>> {
        self.get_sealed(ObjectKind::Report, &report.key()).await.context("read a report")
    }

    /// Put the envelope of a report. The commit point of a drill.
    pub async fn put_report(&self, sequence: u32, digest: u64, envelope: &[u8]) -> Result<()> {
        let key = ObjectKey::Report(sequence, digest).to_string();
        self.put_sealed(ObjectKind::Report, &key, envelope).await.map(|_| ()).context("put the report")
    }

    /// The envelope of the head, if there is one.
    pub async fn get_report_head(&self) -> Result<Option<Vec<u8>>> {
        match self.get_sealed(ObjectKind::Report, &ObjectKey::ReportHead.to_string()).await {
            Ok(envelope) => Ok(Some(envelope)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.context("read the head of the reports")),
        }
    }

    /// Put the envelope of the head.
    pub async fn put_report_head(&self, envelope: &[u8]) -> Result<()> {
        let key = ObjectKey::ReportHead.to_string();
        self.put_sealed(ObjectKind::Report, &key, envelope)
            .await
            .map(|_| ())
            .context("put the head of the reports")
    }
}
