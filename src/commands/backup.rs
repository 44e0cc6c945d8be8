//! `backup-push`, `backup-list`, `backup-show`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use super::retention;
use crate::archive::Request;
use crate::backup::{self, BackupRequest, Progress};
pub(super) use crate::cli::progress::draw;
use crate::cli::{
    args::Global, args::Which, context::Context, context::patience, context::tell_daemon, output,
    output::size, start,
};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupId, Manifest};
use crate::repository::{Hold, Namespace};
use crate::store::Policy;
use crate::window::harmed_backups;

/// Of a record that is for people only.
const NOTE_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn push(global: &Global, pgdata: Option<&Path>, full: bool) -> Result<u8> {
    let config = start::configure(global, LevelFilter::INFO)?;
    check_pgdata(&config, pgdata)?;
    config.repository.refuse_root()?;
    let begin = Instant::now();
    let is_ours = Arc::new(AtomicBool::new(false));
    let manifest = take(global, &config, full, &is_ours);
    if !is_anothers(&manifest, &is_ours) {
        tell_daemon(&config, &Request::BackupEnded(manifest.is_ok()));
    }
    let manifest = manifest?;
    if global.json {
        output::json(&entry(&manifest, false, None))?;
    } else {
        output::line(format!(
            "backup {} done in {:.1} s: {} in {} files, {} stored{}",
            manifest.id,
            begin.elapsed().as_secs_f64(),
            size(manifest.size_bytes),
            manifest.files,
            size(manifest.new_bytes),
            reused(&manifest)
        ))?;
    }
    if manifest.page_errors.is_empty() {
        return Ok(0);
    }
    Err(Error::corrupt(format!(
        "backup {} is kept, but the checksums of {} pages failed, first {} block {}",
        manifest.id,
        manifest.page_errors.len(),
        manifest.page_errors[0].path,
        manifest.page_errors[0].block
    ))
    .hint("is the disk failing? keep older backups, and look at `walproof backup-show` and amcheck"))
}

/// That another backup is under way is not a failure; that a lease was lost is.
fn is_anothers(result: &Result<Manifest>, begun: &AtomicBool) -> bool {
    !begun.load(Ordering::Relaxed) && matches!(result, Err(error) if error.kind() == Kind::Busy)
}

fn take(global: &Global, config: &Config, full: bool, begun: &Arc<AtomicBool>) -> Result<Manifest> {
    let data_dir = config.data_dir()?.to_owned();
    let namespace = config.namespace(patience())?;
    let progress = Arc::new(Progress::default());
    let request = BackupRequest {
        data_dir,
        conninfo: config.conninfo()?.to_owned(),
        primary_conninfo: config.primary_conninfo.clone(),
        concurrency: config.backup_concurrency,
        max_rate: config.backup_max_rate,
        // As long as PostgreSQL's one call for that segment may take.
        archive_patience: config.archive.timeout,
        full,
        reread: config.backup_reread,
        progress: Arc::clone(&progress),
        begun: Arc::clone(begun),
    };
    start::run_large(async {
        let bar = draw(global, progress);
        let result = backup::take(&namespace, &request).await;
        bar.abort();
        if !is_anothers(&result, begun) {
            note_end(&namespace, &request.data_dir, &result, begun).await;
        }
        if let Ok(manifest) = &result {
            retention::after_backup(config, &namespace, manifest.system_identifier).await;
        }
        result
    })
}

/// Leave in the repository how it ended, for whoever shows it, as long as the store answers.
async fn note_end(namespace: &Namespace, data_dir: &Path, result: &Result<Manifest>, begun: &AtomicBool) {
    let failure = result.as_ref().err();
    let note = async {
        let control = DataDir::open(data_dir)?.control()?;
        let repository = namespace.open(control.system_identifier).await?;
        // Of one that lost its lease to another, which has ended since, nobody needs to hear any more.
        let is_lost = failure.is_some_and(|error| error.kind() == Kind::Busy);
        if is_lost && repository.get_attempt().await?.is_none_or(|last| last.ended.is_some()) {
            begun.store(false, Ordering::Relaxed);
            return Ok(());
        }
        repository.note_backup_ended(failure.map(ToString::to_string)).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(NOTE_PATIENCE, note).await {
        tracing::debug!(%error, "how the backup ended cannot be noted");
    }
}

/// What a backup did not store, since an earlier one had.
fn reused(manifest: &Manifest) -> String {
    if manifest.reused_bytes == 0 {
        return String::new();
    }
    format!(
        "; {} reused ({} of it unread), {} new or changed, {} rewritten",
        size(manifest.reused_bytes),
        size(manifest.unread_bytes),
        size(changed(manifest)),
        size(manifest.rewritten_bytes)
    )
}

/// Bytes that the backup found new or changed.
const fn changed(manifest: &Manifest) -> u64 {
    manifest.size_bytes.saturating_sub(manifest.reused_bytes + manifest.rewritten_bytes)
}

fn check_pgdata(config: &Config, pgdata: Option<&Path>) -> Result<()> {
    let Some(pgdata) = pgdata else { return Ok(()) };
    let same = |path: &Path| std::fs::canonicalize(path).ok();
    if same(pgdata).is_some() && same(pgdata) == same(config.data_dir()?) {
        return Ok(());
    }
    Err(Error::usage(format!("{} is not cluster.data_dir of {}", pgdata.display(), config.path.display())))
}

/// A backup as the contract's JSON has it.
fn entry(manifest: &Manifest, held: bool, harm: Option<&Error>) -> Value {
    json!({
        "id": manifest.id,
        "started_at": manifest.started_at,
        "finished_at": manifest.finished_at,
        "start_lsn": manifest.start_lsn,
        "stop_lsn": manifest.stop_lsn,
        "timeline": manifest.timeline,
        "system_identifier": manifest.system_identifier.to_string(),
        "pg_version": manifest.pg_version(),
        "size_bytes": manifest.size_bytes,
        "stored_bytes": manifest.stored_bytes,
        "new_bytes": manifest.new_bytes,
        "base": manifest.base,
        "reused_bytes": manifest.reused_bytes,
        "unread_bytes": manifest.unread_bytes,
        "changed_bytes": changed(manifest),
        "rewritten_bytes": manifest.rewritten_bytes,
        "held": held,
        "page_errors": manifest.page_errors.len(),
        "from_standby": manifest.from_standby,
        "harm": harm.map(ToString::to_string),
    })
}

pub(super) fn list(global: &Global, which: Which) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::interactive())?;
    let (backups, holds, harmed) = start::run_large(async {
        let repository = context.repository(which.system_identifier).await?;
        let harmed = harmed_backups(&repository).await?;
        Ok((repository.list_backups().await?, repository.list_holds().await?, harmed))
    })?;
    let usable = &backups.usable;
    let hold = |manifest: &Manifest| holds.iter().find(|hold| hold.backup == manifest.id);
    if global.json {
        let listed =
            |manifest: &Manifest| entry(manifest, hold(manifest).is_some(), harm_of(&harmed, &manifest.id));
        output::json(&usable.iter().map(listed).collect::<Vec<_>>())?;
    } else if !usable.is_empty() {
        let rows: Vec<Vec<String>> = usable.iter().map(|manifest| row(manifest, hold(manifest))).collect();
        output::table(
            &["ID", "FINISHED", "TIMELINE", "SIZE", "STORED", "NEW", "PAGE ERRORS", "HELD"],
            &rows,
        )?;
        for (_, error) in &harmed {
            output::line(format!("HARMED: {error}"))?;
        }
    } else if backups.damaged.is_empty() {
        output::line("there is no backup yet; take one with `walproof backup-push`")?;
    }
    let Some((last, others)) = backups.damaged.split_last() else { return Ok(0) };
    for damaged in others {
        tracing::error!("{}", damaged.error);
    }
    Err(last.error.clone())
}

fn hold_text(hold: Option<&Hold>) -> String {
    match hold {
        None => "no".to_owned(),
        Some(hold) if hold.reason.is_empty() => "yes".to_owned(),
        Some(hold) => hold.reason.clone(),
    }
}

fn row(manifest: &Manifest, hold: Option<&Hold>) -> Vec<String> {
    vec![
        manifest.id.to_string(),
        manifest.finished_at.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        manifest.timeline.to_string(),
        size(manifest.size_bytes),
        size(manifest.stored_bytes),
        size(manifest.new_bytes),
        manifest.page_errors.len().to_string(),
        hold_text(hold),
    ]
}

pub(super) fn show(global: &Global, id: &BackupId, which: Which) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::interactive())?;
    let (manifest, holds, harmed) = start::run_large(async {
        let repository = context.repository(which.system_identifier).await?;
        let harmed = harmed_backups(&repository).await?;
        Ok((repository.get_manifest(id).await?, repository.list_holds().await?, harmed))
    })?;
    let hold = holds.iter().find(|hold| hold.backup == *id);
    let harm = harm_of(&harmed, id);
    if global.json { show_json(&manifest, hold, harm) } else { show_text(&manifest, hold, harm) }?;
    Ok(0)
}

/// What a verification found wrong with a backup.
fn harm_of<'a>(harmed: &'a [(BackupId, Error)], id: &BackupId) -> Option<&'a Error> {
    harmed.iter().find(|(harmed, _)| harmed == id).map(|(_, error)| error)
}

fn show_text(manifest: &Manifest, hold: Option<&Hold>, harm: Option<&Error>) -> Result<()> {
    let tablespaces: Vec<String> = manifest
        .tablespaces
        .iter()
        .map(|tablespace| format!("{} ({})", tablespace.location, tablespace.oid))
        .collect();
    let outside: Vec<String> = manifest.outside_files.iter().map(|file| file.path.to_string()).collect();
    let listed = |items: String| if items.is_empty() { "none".to_owned() } else { items };
    for (name, value) in [
        ("id", manifest.id.to_string()),
        ("cluster", format!("{} (system identifier {})", manifest.cluster, manifest.system_identifier)),
        ("PostgreSQL", manifest.pg_version()),
        ("started", manifest.started_at.to_string()),
        ("finished", manifest.finished_at.to_string()),
        ("timeline", manifest.timeline.to_string()),
        ("start LSN", manifest.start_lsn.to_string()),
        ("stop LSN", manifest.stop_lsn.to_string()),
        ("files", manifest.files.to_string()),
        ("size", format!("{} ({} bytes)", size(manifest.size_bytes), manifest.size_bytes)),
        ("stored", format!("{} ({} bytes)", size(manifest.stored_bytes), manifest.stored_bytes)),
        ("new", format!("{} ({} bytes)", size(manifest.new_bytes), manifest.new_bytes)),
        (
            "compared with",
            manifest.base.as_ref().map_or_else(|| "no other backup".to_owned(), ToString::to_string),
        ),
        ("reused", format!("{} ({} bytes)", size(manifest.reused_bytes), manifest.reused_bytes)),
        ("of it unread", format!("{} ({} bytes)", size(manifest.unread_bytes), manifest.unread_bytes)),
        ("new or changed", format!("{} ({} bytes)", size(changed(manifest)), changed(manifest))),
        ("rewritten", format!("{} ({} bytes)", size(manifest.rewritten_bytes), manifest.rewritten_bytes)),
        (
            "page checksums",
            if manifest.page_checksums { "verified" } else { "off in this cluster" }.to_owned(),
        ),
        ("page errors", manifest.page_errors.len().to_string()),
        ("held", hold_text(hold)),
        ("tablespaces", listed(tablespaces.join(", "))),
        ("kept configuration", listed(outside.join(", "))),
    ] {
        output::line(format!("{name:<20}{value}"))?;
    }
    for error in &manifest.page_errors {
        output::line(format!("PAGE ERROR: {} block {}", error.path, error.block))?;
    }
    if let Some(harm) = harm {
        output::line(format!("HARMED: {harm}"))?;
    }
    Ok(())
}

fn show_json(manifest: &Manifest, hold: Option<&Hold>, harm: Option<&Error>) -> Result<()> {
    let mut value = entry(manifest, hold.is_some(), harm);
    let extra = json!({
        "hold": hold.map(|hold| json!({
            "reason": hold.reason, "placed_at": hold.placed_at.to_string(), "until_lsn": hold.until
        })),
        "files": manifest.files,
        "page_checksums": manifest.page_checksums,
        "page_error_list": manifest.page_errors,
        "tablespaces": manifest.tablespaces,
        "outside_files": manifest.outside_files,
    });
    if let (Some(value), Some(extra)) = (value.as_object_mut(), extra.as_object()) {
        value.extend(extra.clone());
    }
    output::json(&value)
}
