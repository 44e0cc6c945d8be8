//! What turns a restored copy into a cluster that recovers: label, settings, signal.

use std::path::Path;

use super::destination::{Destination, create};
use super::directory::Target;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::postgres::{ControlFile, Recovery, RecoverySettings, strip_leftovers};

/// What the restored server is, besides where its recovery leads.
#[derive(Debug, Clone)]
pub struct Handover {
    /// What it calls for WAL: a shell command with `%f` and `%p`.
    pub restore_command: String,
    /// It follows its primary instead of recovering to the plan's target.
    pub standby: bool,
    /// It archives nothing: a rehearsal.
    pub archive_off: bool,
    /// The user and group that its files are given to, where those are not the ones that restore.
    pub owner: Option<(u32, u32)>,
}

/// Write the backup's label and the recovery settings.
pub(super) fn write_recovery(target: &Target, plan: &Plan, handover: &Handover) -> Result<()> {
    let auto_conf = target.path("postgresql.auto.conf")?;
    let mut text = match std::fs::read(&auto_conf) {
        Ok(text) => strip_leftovers(&text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(Error::io("read", &auto_conf, &cause)),
    };
    text.extend_from_slice(settings(plan, handover)?.as_bytes());
    let mode = file_mode(plan);
    write(&auto_conf, &text, mode)?;
    write(&target.path("backup_label")?, plan.backup.backup_label.as_bytes(), mode)?;
    write(&target.path(signal(handover))?, b"", mode)
}

const fn signal(handover: &Handover) -> &'static str {
    if handover.standby { "standby.signal" } else { "recovery.signal" }
}

/// Whether the recovery of what lies in the plan's directory is what was written there for this plan.
pub(super) fn leads_as(plan: &Plan, handover: &Handover) -> Result<bool> {
    let read = |name: &str| {
        let path = plan.to.join(name);
        std::fs::read(&path).map_err(|cause| Error::io("read", &path, &cause))
    };
    Ok(read("backup_label")? == plan.backup.backup_label.as_bytes()
        && read("postgresql.auto.conf")?.ends_with(settings(plan, handover)?.as_bytes())
        && plan.to.join(signal(handover)).exists())
}

/// The lines for the end of postgresql.auto.conf, where they win.
fn settings(plan: &Plan, handover: &Handover) -> Result<String> {
    let (recovery, what) = if handover.standby {
        (Recovery::Standby, "standby".to_owned())
    } else {
        let (target, action, timeline) = (plan.target.clone(), plan.action, plan.timeline);
        (Recovery::To { target, action, timeline }, format!("target: {}", plan.target))
    };
    let settings = RecoverySettings { recovery, restore_command: handover.restore_command.clone() };
    let mut text =
        format!("\n# written by walproof restore, backup {}, {}\n", plan.backup.id, one_line(&what));
    text.push_str(&settings.render()?);
    if handover.archive_off {
        text.push_str("archive_mode = 'off'\n");
    }
    text.push_str(look_ahead(plan));
    Ok(text)
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
    let file = create(&Destination::new(path.to_owned(), mode))?;
    let write = || {
        file.set_len(0)?;
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)
    };
    write().map_err(|cause| Error::io("write", path, &cause))
}
