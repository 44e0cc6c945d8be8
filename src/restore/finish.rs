//! What turns a restored copy into a cluster that recovers: label, settings, signal.

use std::path::Path;

use super::directory::Target;
use super::plan::Plan;
use super::write::create;
use crate::error::{Error, Result};
use crate::postgres::{ControlFile, RecoverySettings, strip_leftovers};

use super::fetch::Destination;

/// Write the backup's label and the recovery settings. `restore_command` is a shell command with `%f` and `%p`.
pub(super) fn write_recovery(target: &Target, plan: &Plan, restore_command: &str) -> Result<()> {
    let settings = RecoverySettings {
        target: plan.target.clone(),
        action: plan.action,
        timeline: plan.timeline,
        restore_command: restore_command.to_owned(),
    };
    let auto_conf = target.path("postgresql.auto.conf")?;
    let before = match std::fs::read_to_string(&auto_conf) {
        Ok(text) => strip_leftovers(&text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(Error::io("read", &auto_conf, &cause)),
    };
    let backup = &plan.backup.id;
    let text = format!(
        "{before}\n# written by walproof restore, backup {backup}, target: {}\n{}",
        one_line(&plan.target.to_string()),
        settings.render()?
    );
    let text = text + look_ahead(plan);
    let mode = file_mode(plan);
    write(&auto_conf, text.as_bytes(), mode)?;
    write(&target.path("backup_label")?, plan.backup.backup_label.as_bytes(), mode)?;
    write(&target.path("recovery.signal")?, b"", mode)
}

/// From 15 on recovery reads ahead of what it replays, and would trip over a damaged segment behind the target.
fn look_ahead(plan: &Plan) -> &'static str {
    let reads_ahead = plan.backup.pg_version_num >= 150_000;
    if reads_ahead && plan.reach.damage.is_some() { "recovery_prefetch = 'off'\n" } else { "" }
}

/// A comment ends with its line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Check that the restored control file is this cluster's.
pub(super) fn check_control(plan: &Plan, bytes: &[u8]) -> Result<()> {
    let control = ControlFile::parse(bytes)?;
    if control.system_identifier == plan.backup.system_identifier {
        return Ok(());
    }
    Err(Error::corrupt("the backup's pg_control belongs to another cluster"))
}

/// Files are readable by the group where the data directory is.
pub(super) fn file_mode(plan: &Plan) -> u32 {
    let root = plan.backup.directories.first().map_or(0o700, |directory| directory.mode);
    if root & 0o040 == 0 { 0o600 } else { 0o640 }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let file = create(&Destination { path: path.to_owned(), mode })?;
    let write = || {
        file.set_len(0)?;
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)
    };
    write().map_err(|cause| Error::io("write", path, &cause))
}
