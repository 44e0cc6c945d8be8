//! `key-rotate`: seal under a new key what lasts, and say how long the older keys are needed.

use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, context::Context, output, start};
use crate::error::Result;
use crate::rotation::{OlderKey, Rotation, rotate as seal_anew};
use crate::store::Policy;

pub(super) fn rotate(global: &Global) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::default())?;
    context.config.repository.refuse_root()?;
    let window = context.config.retention_window;
    let rotation = start::run_large(async { seal_anew(&context.repository(None).await?, window).await })?;
    if global.json { output::json(&document(&rotation)) } else { show(&rotation, window) }?;
    Ok(0)
}

fn document(rotation: &Rotation) -> Value {
    let older = |older: &OlderKey| {
        json!({
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
    json!({
        "key_id": rotation.key,
        "identity_key_id_before": rotation.identity_before,
        "histories_sealed": rotation.histories,
        "records_sealed": rotation.records,
        "older_keys": rotation.older.iter().map(older).collect::<Vec<_>>(),
    })
}

fn show(rotation: &Rotation, window: Duration) -> Result<()> {
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
    output::line("a key that is no longer named here after `walproof expire` can go from the key file")
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
