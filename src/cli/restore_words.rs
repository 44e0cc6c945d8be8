//! What `restore` says: the plan, what has to be seen to, the next steps.

use serde_json::json;

use super::output::{self, size};
use crate::cluster::user_name;
use crate::error::Result;
use crate::postgres::{RecoveryTarget, TargetAction};
use crate::restore::{Handover, Plan, Restored};

/// What is said of a restore.
pub(crate) struct Words<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) handover: &'a Handover,
    /// What would keep the server from starting.
    pub(crate) warnings: Vec<String>,
}

impl Words<'_> {
    pub(crate) fn json(&self, done: Option<(Restored, f64)>) -> Result<()> {
        let plan = self.plan;
        let action = (!self.handover.standby).then(|| plan.action.at(&plan.target).to_string());
        let tablespaces = plan.tablespaces.iter();
        let tablespaces = tablespaces.map(|(oid, to)| json!({"oid": oid, "location": to.to_string_lossy()}));
        output::json(&json!({
            "to": plan.to.to_string_lossy(),
            "backup": plan.backup.id,
            "target": plan.target.to_string(),
            "target_action": action,
            "standby": self.handover.standby,
            "archive_mode": self.handover.archive_off.then_some("off"),
            "timeline": plan.timeline,
            "bytes": plan.backup.size_bytes,
            "files": plan.backup.files,
            "delta": plan.delta,
            "bytes_found": done.map(|(restored, _)| restored.found),
            "wal_segments": plan.reach.path.segments.len(),
            "wal_end_lsn": plan.reach.end,
            "wal_end_time": plan.reach.end_time,
            "tail_lsn": plan.reach.path.tail_end(),
            "tablespaces": tablespaces.collect::<Vec<_>>(),
            "owner": self.handover.owner.map(|(user, _)| user),
            "warnings": plan.warnings.iter().chain(&self.warnings).collect::<Vec<_>>(),
            "restored": done.is_some(),
            "seconds": done.map(|(_, seconds)| seconds),
        }))
    }

    pub(crate) fn plan(&self) -> Result<()> {
        let plan = self.plan;
        let end = plan.reach.end_time;
        let newest = end.map_or_else(|| "none since the backup".to_owned(), |time| time.to_string());
        output::line(format!("restore cluster {} to {}", plan.backup.cluster, plan.to.display()))?;
        let target = if self.handover.standby { "a standby".to_owned() } else { plan.target.to_string() };
        output::line(format!("  target     {target} on timeline {}", plan.timeline))?;
        output::line(format!("  backup     {}, finished {}", plan.backup.id, plan.backup.finished_at))?;
        output::line(format!(
            "  data       {} in {} files",
            size(plan.backup.size_bytes),
            plan.backup.files
        ))?;
        output::line(format!(
            "  WAL        {} segments archived from its start{}, up to {}, last commit {newest}",
            plan.reach.path.segments.len(),
            if plan.reach.path.tail_end().is_some() { " and a tail" } else { "" },
            plan.reach.end
        ))?;
        for (oid, location) in &plan.tablespaces {
            output::line(format!("  tablespace {oid} in {}", location.display()))?;
        }
        if let Some((id, _)) = self.handover.owner {
            output::line(format!("  owner      {}, like the directory it goes to", user_name(id)))?;
        }
        if self.handover.archive_off {
            output::line("  archiving  off: a rehearsal")?;
        }
        self.warn()
    }

    fn warn(&self) -> Result<()> {
        self.warnings.iter().try_for_each(|warning| output::line(format!("WARNING: {warning}")))
    }

    pub(crate) fn next_steps(&self, restored: Restored, seconds: f64) -> Result<()> {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = restored.bytes as f64 / seconds.max(0.001);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let rate = size(rate as u64);
        output::line(format!("restored and durable: {} in {seconds:.1} s ({rate}/s)", size(restored.bytes)))?;
        if restored.found > 0 {
            output::line(format!("  {} of that was already there, as in the backup", size(restored.found)))?;
        }
        self.warn()?;
        for line in self.after_the_start() {
            output::line(line)?;
        }
        if !self.plan.backup.outside_files.is_empty() {
            output::line(format!(
                "      its configuration was outside the data directory; copies: walproof backup-show {} --json",
                self.plan.backup.id
            ))?;
        }
        Ok(())
    }

    fn after_the_start(&self) -> &'static [&'static str] {
        if self.handover.standby {
            return &[
                "next: start the server on this directory; it follows what is archived, until it is promoted",
                "      to stream as well, set primary_conninfo (and primary_slot_name): they are as they were in the backup",
            ];
        }
        match self.plan.action.at(&self.plan.target) {
            _ if self.plan.target == RecoveryTarget::Latest => &[
                "next: start the server on this directory; it fetches the WAL, recovers to its end, and opens",
            ],
            TargetAction::Pause => &[
                "next: start the server on this directory; it fetches the WAL and recovers to the target by itself",
                "      it then pauses, read-only: check that it is the right moment, then open it with SELECT pg_wal_replay_resume()",
                "      check with SET lock_timeout = '5s': a table that was being dropped or altered at that moment stays locked",
            ],
            TargetAction::Promote => &[
                "next: start the server on this directory; it fetches the WAL and recovers to the target by itself",
                "      it then opens for writing on a new timeline",
            ],
            TargetAction::Shutdown => &[
                "next: start the server on this directory; it fetches the WAL and recovers to the target by itself",
                "      it then shuts down",
            ],
        }
    }
}
