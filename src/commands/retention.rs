//! `expire`, `backup-hold`, `backup-unhold`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::archive::{Request, ask_for_line};
use crate::cli::{args::Global, args::HoldArguments, context::Context, output, output::size, start};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::{BackupId, ObjectKey};
use crate::repository::{Hold, Namespace, Refused};
use crate::retention::{Expired, Plan, Policy, expire, held_bytes, plan_now};
use crate::store::Policy as Deadlines;
use crate::window::{Records, WalTimes, look};

pub(super) fn run(global: &Global, dry_run: bool) -> Result<u8> {
    let context = Context::of(global, LevelFilter::INFO, Deadlines::default())?;
    let config = &context.config;
    if !dry_run {
        config.repository.refuse_root()?;
    }
    let policy = Policy { window: config.retention_window };
    let done = start::run_large(async {
        let repository = context.repository(None).await?;
        if dry_run {
            let plans = plan_now(&repository, policy).await?;
            return Ok(plans
                .into_iter()
                .map(|(id, plan)| (id, Expired { plan, ..Expired::default() }))
                .collect());
        }
        expire(&repository, policy).await
    })?;
    if !dry_run {
        told_daemon(config);
    }
    show(global, &done, dry_run)
}

/// Expire after a backup that succeeded. What goes wrong is not a failure of the backup.
pub(super) async fn after_backup(config: &Config, namespace: &Namespace, system_identifier: u64) {
    let policy = Policy { window: config.retention_window };
    let expired = async { expire(&namespace.open(system_identifier).await?, policy).await };
    match expired.await {
        Ok(done) => {
            for (_, expired) in &done {
                log(expired);
            }
        }
        Err(error) => tracing::warn!(%error, hint = error.hint_text(), "retention could not be enforced"),
    }
}

fn log(expired: &Expired) {
    if expired.deleted > 0 {
        tracing::info!(objects = expired.deleted, "expired");
    }
    if let Some(refused) = &expired.refused {
        let Refused { objects, bytes, reason } = refused;
        let bytes = size(*bytes);
        tracing::warn!(objects, %bytes, reason, "the store refuses deletes: you still pay for what has expired");
    }
    if let Some(old) = expired.old_versions.filter(|old| old.objects > 0) {
        let bytes = format!("{}{}", if old.whole { "" } else { "at least " }, size(old.bytes));
        tracing::warn!(objects = old.objects, %bytes, "the bucket keeps old versions of what is deleted, and they are paid for until a lifecycle rule removes them");
    }
}

fn told_daemon(config: &Config) {
    // A daemon that does not run finds out by itself.
    let _ = ask_for_line(&config.archive.socket, &Request::Expired, Duration::from_secs(1));
}

fn show(global: &Global, done: &[(u64, Expired)], dry_run: bool) -> Result<u8> {
    let plans = || done.iter().map(|(_, expired)| &expired.plan);
    if global.json {
        let lines = |pick: fn(&Plan) -> &[crate::retention::Line]| -> Vec<_> {
            let all = plans().flat_map(|plan| pick(plan).iter());
            all.map(|line| json!({"object": line.object, "reason": line.reason, "bytes": line.bytes}))
                .collect()
        };
        let refused = || done.iter().filter_map(|(_, expired)| expired.refused.as_ref());
        let old_bytes = done.iter().filter_map(|(_, expired)| expired.old_versions).map(|old| old.bytes);
        output::json(&json!({
            "dry_run": dry_run,
            "keep": lines(|plan| &plan.keep),
            "delete": lines(|plan| &plan.delete),
            "deleted_objects": done.iter().map(|(_, expired)| expired.deleted).sum::<u64>(),
            "refused_objects": refused().map(|refused| refused.objects).sum::<u64>(),
            "refused_bytes": refused().map(|refused| refused.bytes).sum::<u64>(),
            "old_version_bytes": old_bytes.sum::<u64>(),
            "spared_objects": done.iter().map(|(_, expired)| expired.spared).sum::<u64>(),
        }))?;
        return Ok(0);
    }
    for (system_identifier, expired) in done {
        if done.len() > 1 {
            output::line(format!("system identifier {system_identifier}:"))?;
        }
        show_plan(&expired.plan)?;
        if dry_run {
            let (objects, bytes) = (expired.plan.deletes(), expired.plan.deleted_bytes());
            output::line(format!("would delete {}, {}", output::objects(objects as u64), size(bytes)))?;
            continue;
        }
        output::line(format!("deleted {}", output::objects(expired.deleted)))?;
        if expired.spared > 0 {
            output::line(format!(
                "left {} for the next run: another process began to work on the repository",
                output::objects(expired.spared)
            ))?;
        }
        log(expired);
    }
    Ok(0)
}

fn show_plan(plan: &Plan) -> Result<()> {
    let row = |word: &str, line: &crate::retention::Line| {
        vec![word.to_owned(), line.object.clone(), size(line.bytes), line.reason.clone()]
    };
    let mut rows: Vec<Vec<String>> = plan.keep.iter().map(|line| row("keep", line)).collect();
    rows.extend(plan.delete.iter().map(|line| row("delete", line)));
    output::table(&["", "OBJECT", "SIZE", "REASON"], &rows)
}

pub(super) fn hold(global: &Global, arguments: &HoldArguments) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Deadlines::interactive())?;
    context.config.repository.refuse_root()?;
    let (hold, bytes) = start::run_large(async {
        let repository = context.repository(None).await?;
        let listing = repository.list().await?;
        let (mut records, mut times) = (Records::default(), WalTimes::default());
        let (catalog, window) = look(&repository, &listing, &mut records, &mut times).await?;
        let backup = find(&catalog.backups, &arguments.id)?;
        // What is not given again stays: a second thought about the reason must not let go of WAL.
        let before = catalog.holds.iter().find(|hold| hold.backup == backup.id);
        let until = if arguments.until_now {
            let branch = window.branch(backup.timeline);
            branch.and_then(|branch| branch.farthest()).map(|span| span.end)
        } else {
            before.and_then(|before| before.until)
        };
        let reason = arguments.reason.clone().or_else(|| before.map(|before| before.reason.clone()));
        let hold = Hold {
            backup: backup.id.clone(),
            reason: reason.unwrap_or_default(),
            placed_at: Timestamp::now(),
            until,
        };
        repository.hold_surely(&hold).await?;
        let bytes = held_bytes(&catalog, &hold);
        Ok((hold, bytes))
    })?;
    if global.json {
        output::json(&json!({
            "id": hold.backup,
            "reason": hold.reason,
            "placed_at": hold.placed_at.to_string(),
            "until_lsn": hold.until,
            "bytes": bytes,
        }))?;
    } else {
        let wal = hold.until.map_or_else(
            || "the WAL that makes it consistent".to_owned(),
            |until| format!("the WAL up to {until}"),
        );
        output::line(format!(
            "backup {} is held with {wal}: up to {} that would expire with the window",
            hold.backup,
            size(bytes)
        ))?;
    }
    Ok(0)
}

pub(super) fn unhold(global: &Global, id: &BackupId) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Deadlines::interactive())?;
    context.config.repository.refuse_root()?;
    let was_held = start::run_large(async {
        let repository = context.repository(None).await?;
        let listing = repository.list().await?;
        let was_held = repository.holds(&listing).await?.iter().any(|hold| hold.backup == *id);
        let manifest = ObjectKey::Manifest(id.clone());
        if !was_held && listing.objects.iter().all(|listed| listed.key != manifest) {
            return Err(unknown(id));
        }
        repository.delete_hold(id).await?;
        Ok(was_held)
    })?;
    if global.json {
        return output::json(&json!({ "id": id, "was_held": was_held })).map(|()| 0);
    }
    output::line(if was_held {
        format!("backup {id} is no longer held: the next expire decides what happens to it")
    } else {
        format!("backup {id} was not held")
    })?;
    Ok(0)
}

fn find<'a>(
    backups: &'a [std::sync::Arc<crate::format::Manifest>],
    id: &BackupId,
) -> Result<&'a crate::format::Manifest> {
    let found = backups.iter().find(|backup| backup.id == *id).map(std::convert::AsRef::as_ref);
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: &BackupId) -> Error {
    Error::impossible(format!("there is no backup {id}"))
        .hint("`walproof backup-list` lists the existing ones")
}
