//! `restore` and `backup-fetch`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use super::args::{Global, Restore, Target};
use super::output::{self, size};
use super::{backup, start, wal};
use crate::backup::Progress;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::{RecoveryTarget, TargetAction, restore_command_argument};
use crate::repository::{Lease, Protection, Purpose, Repository, WalFrom};
use crate::restore::{Plan, RestoreRequest, Restored, execute, plan};
use crate::store::Policy;

pub(super) fn backup_fetch(global: &Global, directory: PathBuf, backup: &str) -> Result<u8> {
    let backup = if backup == "LATEST" { None } else { Some(backup.parse()?) };
    let arguments =
        Restore { to: directory, target: Target::default(), backup, tablespace: Vec::new(), dry_run: false };
    restore(global, arguments)
}

pub(super) fn restore(global: &Global, arguments: Restore) -> Result<u8> {
    let config = start::configure(global, LevelFilter::INFO)?;
    let dry_run = arguments.dry_run;
    let request = request(arguments)?;
    let namespace = config.namespace(Policy::default())?;
    let begin = Instant::now();
    start::run_large(async {
        let repository = wal::open(&config, &namespace).await?;
        let plan = plan(&repository, &request, &|_, _| {}).await?;
        plan.check_directories()?;
        if dry_run {
            show_plan(global, &plan, None)?;
            return Ok(0);
        }
        if !global.json {
            show_plan(global, &plan, None)?;
        }
        let command = restore_command(&config, plan.backup.system_identifier)?;
        let lease = take_lease(&config, &repository, &plan).await;
        let progress = Arc::new(Progress::default());
        progress.begin(plan.backup.size_bytes);
        let bar = backup::draw(global, Arc::clone(&progress));
        let restored =
            execute(&repository, &plan, &command, Arc::new(move |bytes| progress.add(bytes))).await;
        bar.abort();
        if let Some(Err(error)) = release(lease).await {
            tracing::warn!(%error, "the restore's lease is left to age");
        }
        let restored = restored?;
        if global.json {
            show_plan(global, &plan, Some((restored, begin.elapsed().as_secs_f64())))?;
        } else {
            show_next_steps(&plan, restored, begin.elapsed().as_secs_f64())?;
        }
        Ok(0)
    })
}

/// So that an expiry keeps what is being restored. Root leaves nothing in a repository of another user, not even that.
async fn take_lease(config: &Config, repository: &Repository, plan: &Plan) -> Option<Lease> {
    if let Err(error) = config.repository.refuse_root() {
        tracing::warn!("no lease protects this restore from an expiry that runs at the same time: {error}");
        return None;
    }
    let backup = &plan.backup;
    let wal = vec![WalFrom { timeline: backup.timeline, start: backup.start_lsn }];
    let protects = Protection { backups: vec![backup.id.clone()], wal };
    Lease::take_if_possible(repository, Purpose::Restore, protects).await
}

async fn release(lease: Option<Lease>) -> Option<Result<()>> {
    Some(lease?.release().await)
}

fn request(arguments: Restore) -> Result<RestoreRequest> {
    let target = arguments.target;
    let exclusive = target.target_exclusive;
    let recovery = if let Some(time) = target.target_time {
        RecoveryTarget::Time { time, exclusive }
    } else if let Some(target) = target.target_lsn {
        RecoveryTarget::Lsn { target, exclusive }
    } else if let Some(xid) = target.target_xid {
        // pg_current_xact_id() shows the epoch in the upper half; recovery compares the lower one.
        let xid = u32::try_from(xid & 0xFFFF_FFFF).unwrap_or_default();
        RecoveryTarget::Xid { xid, exclusive }
    } else if let Some(name) = target.target_name {
        RecoveryTarget::Name(name)
    } else if target.target_immediate {
        RecoveryTarget::Immediate
    } else {
        RecoveryTarget::Latest
    };
    let has_edge = matches!(
        recovery,
        RecoveryTarget::Time { .. } | RecoveryTarget::Lsn { .. } | RecoveryTarget::Xid { .. }
    );
    if exclusive && !has_edge {
        return Err(Error::usage("--target-exclusive means nothing without a time, an LSN or a transaction"));
    }
    let to = std::path::absolute(&arguments.to).map_err(|cause| Error::io("find", &arguments.to, &cause))?;
    Ok(RestoreRequest {
        to,
        target: recovery,
        action: target.target_action.unwrap_or(TargetAction::Pause),
        timeline: target.target_timeline,
        backup: arguments.backup,
        tablespaces: arguments.tablespace.iter().map(|pair| tablespace(pair)).collect::<Result<_>>()?,
    })
}

/// `FROM=TO`, in which `\=` is an equals sign of a path, as for pg_basebackup.
fn tablespace(pair: &str) -> Result<(PathBuf, PathBuf)> {
    let separator = pair.match_indices('=').find(|(at, _)| !pair[..*at].ends_with('\\'));
    let path = |text: &str| PathBuf::from(text.replace("\\=", "="));
    match separator.map(|(at, _)| (&pair[..at], &pair[at + 1..])) {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((path(from), path(to))),
        _ => Err(Error::usage(format!("--tablespace \"{pair}\" is not FROM=TO"))
            .hint("write an equals sign within a path as \\=")),
    }
}

/// What the restored server calls: absolute paths, this repository, and the tail, which only a fresh restore may have.
fn restore_command(config: &Config, system_identifier: u64) -> Result<String> {
    let program =
        std::env::current_exe().map_err(|cause| Error::io("find", Path::new("walproof"), &cause))?;
    let text = |path: &Path| {
        path.to_str().map(restore_command_argument).ok_or_else(|| {
            Error::usage(format!("the path {} is no text that a configuration file can hold", path.display()))
        })
    };
    Ok(format!(
        "{} wal-fetch %f %p --tail --system-identifier {system_identifier} --config {}",
        text(&program)?,
        text(&config.path)?
    ))
}

fn show_plan(global: &Global, plan: &Plan, done: Option<(Restored, f64)>) -> Result<()> {
    if global.json {
        return output::json(&json!({
            "to": plan.to.to_string_lossy(),
            "backup": plan.backup.id,
            "target": plan.target.to_string(),
            "target_action": plan.action.to_string(),
            "timeline": plan.timeline,
            "bytes": plan.backup.size_bytes,
            "files": plan.backup.files,
            "wal_segments": plan.reach.path.segments.len(),
            "wal_end_lsn": plan.reach.end,
            "wal_end_time": plan.reach.end_time,
            "tail_lsn": plan.reach.path.tail_end(),
            "tablespaces": plan.tablespaces.iter().map(|(oid, to)| json!({"oid": oid, "location": to.to_string_lossy()})).collect::<Vec<_>>(),
            "restored": done.is_some(),
            "seconds": done.map(|(_, seconds)| seconds),
        }));
    }
    let newest =
        plan.reach.end_time.map_or_else(|| "none since the backup".to_owned(), |time| time.to_string());
    output::line(format!("restore cluster {} to {}", plan.backup.cluster, plan.to.display()))?;
    output::line(format!("  target     {} on timeline {}", plan.target, plan.timeline))?;
    output::line(format!("  backup     {}, finished {}", plan.backup.id, plan.backup.finished_at))?;
    output::line(format!("  data       {} in {} files", size(plan.backup.size_bytes), plan.backup.files))?;
    output::line(format!(
        "  WAL        {} segments archived from its start{}, up to {}, last commit {newest}",
        plan.reach.path.segments.len(),
        if plan.reach.path.tail_end().is_some() { " and a tail" } else { "" },
        plan.reach.end
    ))?;
    for (oid, location) in &plan.tablespaces {
        output::line(format!("  tablespace {oid} in {}", location.display()))?;
    }
    Ok(())
}

fn show_next_steps(plan: &Plan, restored: Restored, seconds: f64) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = restored.bytes as f64 / seconds.max(0.001);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
    let rate = size(rate as u64);
    output::line(format!("restored and durable: {} in {seconds:.1} s ({rate}/s)", size(restored.bytes)))?;
    output::line(
        "next: start the server on this directory; it fetches the WAL and recovers to the target by itself",
    )?;
    if plan.target != RecoveryTarget::Latest {
        output::line(match plan.action {
            TargetAction::Pause => {
                "      it then pauses, readable: look whether it is the right moment, then open it with SELECT pg_wal_replay_resume()"
            }
            TargetAction::Promote => "      it then opens for writing on a new timeline",
            TargetAction::Shutdown => "      it then shuts down",
        })?;
    }
    if !plan.backup.outside_files.is_empty() {
        output::line(format!(
            "      its configuration lay outside the data directory; copies: walproof backup-show {} --json",
            plan.backup.id
        ))?;
    }
    Ok(())
}
