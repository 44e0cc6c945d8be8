//! `key-rotate`: seal under a new key what lasts, and say how long the older keys are needed.

use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, context::Context, output, start};
use crate::error::{Error, Result};
use crate::rotation::{OlderKey, Rotation, rotate as seal_anew};
use crate::store::Policy;

/// Of all repositories of the name: an older one, of a database before an upgrade, needs its keys as well.
#[derive(Default)]
struct Rotations {
    /// First that of the cluster that is live.
    done: Vec<Rotation>,
    /// Those that do not open, by system identifier.
    closed: Vec<(u64, Error)>,
}

pub(super) fn rotate(global: &Global) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::default())?;
    context.config.repository.refuse_root()?;
    let window = context.config.retention_window;
    let all = start::run_large(async {
        let repository = context.repository(None).await?;
        let mut all = Rotations::default();
        all.done.push(seal_anew(&repository, window).await?);
        for (system_identifier, opened) in repository.namespace().others(&repository).await? {
            match opened {
                Ok(other) => all.done.push(seal_anew(&other, window).await?),
                Err(error) => all.closed.push((system_identifier, error)),
            }
        }
        Ok(all)
    })?;
    if global.json { output::json(&document(&all)) } else { show(&all, window) }?;
    Ok(0)
}

fn document(all: &Rotations) -> Value {
    let older = |system_identifier: u64, older: &OlderKey| {
        json!({
            "system_identifier": system_identifier.to_string(),
            "key_id": older.key,
            "at_hand": older.at_hand,
            "backups": older.backups,
            "newest_backup": older.newest_backup,
            "held_backups": older.held,
            "newest_wal": older.newest_wal.as_ref().map(ToString::to_string),
            "records": older.records,
            "needed_until": older.needed_until,
        })
    };
    let of = |done: &Rotation| -> Vec<Value> {
        done.older.iter().map(|key| older(done.system_identifier, key)).collect()
    };
    let closed = |(system_identifier, error): &(u64, Error)| json!({ "system_identifier": system_identifier.to_string(), "error": error.to_string() });
    json!({
        "key_id": all.done[0].key,
        "identity_key_id_before": all.done[0].identity_before,
        "histories_sealed": all.done.iter().map(|done| done.histories).sum::<u64>(),
        "records_sealed": all.done.iter().map(|done| done.records).sum::<u64>(),
        "older_keys": all.done.iter().flat_map(of).collect::<Vec<_>>(),
        "not_opened": all.closed.iter().map(closed).collect::<Vec<_>>(),
    })
}

fn show(all: &Rotations, window: Duration) -> Result<()> {
    for rotation in &all.done {
        if all.done.len() > 1 {
            output::line(format!("system identifier {}:", rotation.system_identifier))?;
        }
        show_one(rotation, window)?;
    }
    for (system_identifier, error) in &all.closed {
        output::line(format!(
            "the repository of system identifier {system_identifier} does not open ({error}): what it needs is not known"
        ))?;
    }
    if all.done.iter().any(|rotation| !rotation.older.is_empty()) {
        output::line("a key that is no longer named here after `walproof expire` can go from the key file")?;
    }
    Ok(())
}

fn show_one(rotation: &Rotation, window: Duration) -> Result<()> {
    let key = rotation.key;
    match rotation.identity_before {
        Some(before) => {
            output::line(format!(
                "the identity is now sealed with key {key}; before, it was sealed with key {before}"
            ))?;
        }
        None => output::line(format!("the identity is already sealed with key {key}"))?,
    }
    if rotation.records > 0 {
        output::line(format!("{} holds, reports of drills and other records, too", rotation.records))?;
    }
    if rotation.older.is_empty() {
        return output::line("nothing needs an older key");
    }
    for older in &rotation.older {
        output::line(needs(older))?;
        output::line(format!("  {}", until(older, window)))?;
        if !older.at_hand {
            output::line("  it is not in the key file: these cannot be opened, and nothing expires")?;
        }
    }
    Ok(())
}

/// How long the key has to stay.
fn until(older: &OlderKey, window: Duration) -> String {
    if let Some(until) = older.needed_until {
        return format!("keep it in the key file until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ"));
    }
    if !older.held.is_empty() {
        let held: Vec<String> = older.held.iter().map(ToString::to_string).collect();
        let backups = if held.len() == 1 { "backup" } else { "backups" };
        let are = if held.len() == 1 { "is" } else { "are" };
        return format!("keep it in the key file as long as {backups} {} {are} held", held.join(", "));
    }
    if older.records > 0 && older.backups == 0 && older.newest_wal.is_none() {
        return "keep it in the key file until they are sealed anew: run this again".to_owned();
    }
    let hours = window.as_secs().div_ceil(3600);
    format!(
        "keep it in the key file until {hours} hours after the next full backup: walproof backup-push --full"
    )
}

/// What needs the key.
fn needs(older: &OlderKey) -> String {
    let backups = older.newest_backup.as_ref().map(|newest| match older.backups {
        1 => format!("backup {newest}"),
        several => format!("{several} backups up to {newest}"),
    });
    let wal = older.newest_wal.as_ref().map(|newest| format!("WAL up to {newest}"));
    let records = (older.records > 0).then(|| format!("{} records", older.records));
    let all: Vec<String> = backups.into_iter().chain(wal).chain(records).collect();
    format!("key {} is still needed by {}", older.key, all.join(" and "))
}
