//! `key-rotate`: seal under a new key what lasts, and say how long the older keys are needed.

use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, context::Context, output, start};
use crate::error::Result;
use crate::repository::{OlderKey, Rotation};
use crate::store::Policy;

pub(super) fn rotate(global: &Global) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::default())?;
    context.config.repository.refuse_root()?;
    let window = context.config.retention_window;
    let rotation = start::run_large(async { context.repository(None).await?.rotate(window).await })?;
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
            "newest_wal": older.newest_wal.as_ref().map(ToString::to_string),
            "needed_until": older.needed_until,
        })
    };
    json!({
        "key_id": rotation.key,
        "identity_key_id_before": rotation.identity_before,
        "histories_sealed": rotation.histories,
        "older_keys": rotation.older.iter().map(older).collect::<Vec<_>>(),
    })
}

fn show(rotation: &Rotation, window: Duration) -> Result<()> {
    let key = rotation.key;
    match rotation.identity_before {
        Some(before) => {
            output::line(format!("the identity is sealed with key {key} now, before with key {before}"))?;
        }
        None => output::line(format!("the identity is sealed with key {key} already"))?,
    }
    if rotation.older.is_empty() {
        return output::line("nothing needs an older key");
    }
    for older in &rotation.older {
        output::line(needs(older))?;
        output::line(match older.needed_until {
            Some(until) => {
                format!("  keep it in the key file until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ"))
            }
            None => format!(
                "  keep it in the key file until {} hours after the next full backup: walproof backup-push --full",
                window.as_secs().div_ceil(3600)
            ),
        })?;
        if !older.at_hand {
            output::line("  it is not in the key file: these cannot be opened")?;
        }
    }
    Ok(())
}

/// What needs the key.
fn needs(older: &OlderKey) -> String {
    let backups = older.newest_backup.as_ref().map(|newest| match older.backups {
        1 => format!("backup {newest}"),
        several => format!("{several} backups up to {newest}"),
    });
    let wal = older.newest_wal.as_ref().map(|newest| format!("WAL up to {newest}"));
    let both: Vec<String> = backups.into_iter().chain(wal).collect();
    format!("key {} is still needed by {}", older.key, both.join(" and "))
}
