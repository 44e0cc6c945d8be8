//! Backups ahead of the timer, `backup.on_rto_threat`: when the WAL behind the newest backup makes a restore take almost as
//! long as was promised, one is taken, with the command and the lease of any other backup.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::postgres::PgTime;
use crate::present::{seconds, span};
use crate::status::{EarlyLine, RTO_THREAT, Role, Snapshot};

/// Between two looks; estimates change slowly.
const LOOK: Duration = Duration::from_secs(10);
/// From the beginning of one to the beginning of the next, at least, whatever came of it.
const APART: Duration = Duration::from_hours(1);
/// After a backup, this many times its duration pass before an early one: at most a fifth of the
/// time goes into backups.
const REST: f64 = 4.0;
/// What a backup has to gain, as a part of the objective: otherwise it is not the WAL that takes long.
const LEAST_GAIN: f64 = 0.1;
/// The exit code of a backup that met another one.
const BUSY: i32 = 7;

/// The command that takes a backup: this program and its configuration.
#[derive(Debug, Clone)]
pub struct BackupCommand {
    /// This program.
    pub program: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
}

impl BackupCommand {
    async fn run(&self) -> Result<ExitStatus> {
        let mut command = Command::new(&self.program);
        command.arg("backup-push").arg("--config").arg(&self.config);
        // What it logs goes where the daemon's log goes. A daemon that ends takes it along; what it stored is not lost.
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.status().await.map_err(|cause| Error::io("run", &self.program, &cause))
    }
}

/// Why a backup should be taken now, ahead of the timer.
fn reason(snapshot: &Snapshot) -> Option<String> {
    let objective = snapshot.promises.rto_objective.as_secs_f64();
    let (now, after) =
        snapshot.estimates.rto_estimate_seconds.zip(snapshot.estimates.rto_after_backup_seconds)?;
    let threatened = now > objective * RTO_THREAT && now - after >= objective * LEAST_GAIN;
    if snapshot.server.role != Role::Primary || !threatened {
        return None;
    }
    let newest = snapshot.backups.finished.last()?;
    let took = newest.finished_at.seconds_since(newest.started_at).max(0.0);
    let rested = snapshot.taken_at.seconds_since(newest.finished_at) >= took * REST;
    rested.then(|| {
        format!(
            "a restore would take {} of the {} promised, and {} after a backup",
            seconds(now),
            span(snapshot.promises.rto_objective),
            seconds(after)
        )
    })
}

/// The last early backup, for whoever shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct EarlyHandle(Arc<Mutex<Option<EarlyLine>>>);

impl EarlyHandle {
    pub(super) fn get(&self) -> Option<EarlyLine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, line: EarlyLine) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }

    /// `look` for ever, and take one where it helps: never two at a time.
    pub(super) async fn run(self, look: impl Fn() -> Snapshot, command: BackupCommand) {
        let mut begun: Option<Instant> = None;
        loop {
            sleep(LOOK).await;
            if begun.is_some_and(|begun| begun.elapsed() < APART) {
                continue;
            }
            let Some(because) = reason(&look()) else { continue };
            begun = Some(Instant::now());
            self.take(&command, because).await;
        }
    }

    async fn take(&self, command: &BackupCommand, because: String) {
        tracing::warn!("a backup is taken ahead of the timer: {because}");
        let mut line = EarlyLine { began_at: PgTime::now(), because, outcome: None };
        self.set(line.clone());
        let outcome = match command.run().await {
            Ok(status) if status.success() => "taken".to_owned(),
            Ok(status) if status.code() == Some(BUSY) => {
                "not needed: another backup was under way".to_owned()
            }
            Ok(status) => format!("failed ({status}); the log says why"),
            Err(error) => format!("failed: {error}"),
        };
        tracing::info!("the backup ahead of the timer: {outcome}");
        line.outcome = Some(outcome);
        self.set(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    const HOUR: f64 = 3600.0;

    /// With an objective of an hour, and a backup of 100 s that ended so many seconds ago.
    fn snapshot(now: f64, after: f64, ended: f64) -> Snapshot {
        let mut snapshot = samples::unknown();
        snapshot.server.role = Role::Primary;
        snapshot.estimates.rto_estimate_seconds = Some(now);
        snapshot.estimates.rto_after_backup_seconds = Some(after);
        let mut backup = samples::backup(0);
        #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
        let at =
            |ago: f64| PgTime::from_unix_micros(snapshot.taken_at.unix_micros() - (ago as i64) * 1_000_000);
        (backup.started_at, backup.finished_at) = (at(ended + 100.0), at(ended));
        snapshot.backups.finished = vec![backup];
        snapshot
    }

    #[test]
    fn a_backup_is_taken_early_only_where_it_helps() {
        let taken = |snapshot: &Snapshot| reason(snapshot).is_some();
        assert!(!taken(&samples::unknown()), "nothing was measured");
        assert!(!taken(&snapshot(0.8 * HOUR, 60.0, 9999.0)), "not beyond 80 %");
        assert!(taken(&snapshot(0.81 * HOUR, 60.0, 9999.0)));
        assert!(taken(&snapshot(2.0 * HOUR, 1.8 * HOUR, 9999.0)), "it helps, though not enough");
        assert!(!taken(&snapshot(2.0 * HOUR, 1.95 * HOUR, 9999.0)), "it is not the WAL that takes long");
        assert!(!taken(&snapshot(2.0 * HOUR, 60.0, 399.0)), "the last one ended just now");
        assert!(taken(&snapshot(2.0 * HOUR, 60.0, 401.0)));
        let mut standby = snapshot(2.0 * HOUR, 60.0, 9999.0);
        standby.server.role = Role::Standby;
        assert!(!taken(&standby));
        let mut none = snapshot(2.0 * HOUR, 60.0, 9999.0);
        none.backups.finished.clear();
        assert!(!taken(&none));
    }
}
