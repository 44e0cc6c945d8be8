//! `restore` and `backup-fetch`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing_subscriber::filter::LevelFilter;

use super::backup;
use crate::backup::Progress;
use crate::cli::{
    args::ArchiveMode, args::Global, args::Restore, args::Target, context::Context, context::patience,
    restore_words::Words, server_view, server_view::Rehearsal, start,
};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::{Protection, Purpose, WalFrom};
use crate::postgres::{RecoveryTarget, TargetAction};
use crate::repository::{Lease, Repository};
use crate::restore::{Handover, Plan, RestoreRequest, execute, owner_for, plan, prepare, too_low};
use crate::store::Policy;

pub(super) fn backup_fetch(global: &Global, directory: PathBuf, backup: &str) -> Result<u8> {
    let backup = if backup == "LATEST" { None } else { Some(backup.parse()?) };
    restore(global, Restore { to: directory, backup, ..Restore::default() })
}

pub(super) fn restore(global: &Global, arguments: Restore) -> Result<u8> {
    let context = Context::of(global, LevelFilter::INFO, Policy::interactive())?;
    let (system_identifier, dry_run) = (arguments.which.system_identifier, arguments.dry_run);
    let (standby, archive_off) = (arguments.standby, arguments.archive_mode == Some(ArchiveMode::Off));
    let request = request(arguments)?;
    let begin = Instant::now();
    start::run_large(async {
        let repository = context.repository(system_identifier).await?;
        let owner = owner_for(&request.to);
        let rehearsal = Rehearsal::begin(&context.config, repository.identity().system_identifier, owner)?;
        let plan = plan(&repository, &request, &|_, _| {}).await?;
        check_directories(&context.config, &plan)?;
        let restore_command = server_view::restore_command(
            &context.config,
            plan.backup.system_identifier,
            (!standby).then_some(plan.timeline),
        )?;
        let handover = Handover { restore_command, standby, archive_off, owner };
        let mut words = Words { plan: &plan, handover: &handover, warnings: Vec::new() };
        if dry_run {
            words.warnings = rehearsal.warnings(&plan).await;
            let said = if global.json { words.json(None) } else { words.plan() };
            return said.map(|()| 0);
        }
        // From here on much is moved.
        let repository = repository.with_policy(patience());
        let say = async {
            words.warnings = rehearsal.warnings(&plan).await;
            if global.json { Ok(()) } else { words.plan() }
        };
        let lease = take_lease(&context.config, &repository, &plan);
        let (said, lease, prepared) = tokio::join!(say, lease, prepare(&repository, &plan));
        let progress = Arc::new(Progress::default());
        progress.begin(plan.backup.size_bytes);
        let bar = backup::draw(global, Arc::clone(&progress));
        let count = Arc::new(move |bytes| progress.add(bytes));
        let restored = match still_there(said, &lease).and(prepared) {
            Ok(prepared) => execute(&repository, &plan, prepared, &handover, count).await,
            Err(error) => Err(error),
        };
        bar.abort();
        end_lease(lease.ok().flatten(), restored.is_ok()).await;
        let (restored, seconds) = (restored?, begin.elapsed().as_secs_f64());
        words.warnings.extend(too_low(&plan)?);
        if global.json {
            words.json(Some((restored, seconds)))?;
        } else {
            words.next_steps(restored, seconds)?;
        }
        Ok(0)
    })
}

/// So that an expiry keeps what is being restored. Root leaves nothing in a repository of another user, not even that. An
/// error where the backup is gone: an expiry that had begun before was faster.
async fn take_lease(config: &Config, repository: &Repository, plan: &Plan) -> Result<Option<Lease>> {
    if let Err(error) = config.repository.refuse_root() {
        tracing::warn!("no lease protects this restore from an expiry that runs at the same time: {error}");
        return Ok(None);
    }
    let backup = &plan.backup;
    let wal = vec![WalFrom { timeline: backup.timeline, start: backup.start_lsn }];
    let protects = Protection { backups: vec![backup.id.clone()], wal };
    let lease = Lease::take_if_possible(repository, Purpose::Restore, protects).await;
    if let Err(gone) = repository.still_has(&backup.id).await {
        end_lease(lease, false).await;
        return Err(gone);
    }
    Ok(lease)
}

/// The first that went wrong before anything was touched.
fn still_there(said: Result<()>, lease: &Result<Option<Lease>>) -> Result<()> {
    said.and(lease.as_ref().map(drop).map_err(Clone::clone))
}

/// What was restored is not recovered yet: the server fetches WAL when it is started.
async fn end_lease(lease: Option<Lease>, restored: bool) {
    let Some(lease) = lease else { return };
    let ended = if restored { lease.leave_behind().await } else { lease.release().await };
    if let Err(error) = ended {
        tracing::warn!(%error, "the restore's lease is left to expire");
    }
}

/// Whether the directories can be used, and the cluster that the configuration names is not in the way of recovery.
fn check_directories(config: &Config, plan: &Plan) -> Result<()> {
    plan.check_directories()?;
    config.data_dir_if_set().map_or(Ok(()), |data_dir| plan.check_bystander(data_dir))
}

fn request(arguments: Restore) -> Result<RestoreRequest> {
    let (action, timeline) = (arguments.target.target_action, arguments.target.target_timeline);
    let target = recovery_target(arguments.target)?;
    let tablespaces: Vec<(PathBuf, PathBuf)> =
        arguments.tablespace.iter().map(|pair| tablespace(pair)).collect::<Result<_>>()?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some((from, _)) = tablespaces.iter().find(|(from, _)| !seen.insert(from)) {
        return Err(Error::usage(format!("--tablespace names {} twice", from.display())));
    }
    let to = std::path::absolute(&arguments.to).map_err(|cause| Error::io("find", &arguments.to, &cause))?;
    Ok(RestoreRequest {
        to,
        target,
        action: action.unwrap_or(TargetAction::Pause),
        timeline,
        backup: arguments.backup,
        tablespaces,
        delta: arguments.delta,
    })
}

/// What the flags mean; the newest state without any.
pub(super) fn recovery_target(target: Target) -> Result<RecoveryTarget> {
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
        return Err(Error::usage("--target-exclusive has no effect without a time, an LSN or a transaction"));
    }
    Ok(recovery)
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
