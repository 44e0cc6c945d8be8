//! The settings that make a server recover, as lines of postgresql.auto.conf.

use std::fmt;
use std::str::FromStr;

use super::lsn::Lsn;
use super::time::PgTime;
use super::timeline::TimelineId;
use crate::error::{Error, Result};

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the WAL.
    Latest,
    /// Before the first commit later than `time`; with `exclusive`, not before it either.
    Time {
        /// The instant.
        time: PgTime,
        /// Whether what happened at that very instant is left out.
        exclusive: bool,
    },
    /// At a position.
    Lsn {
        /// The position.
        target: Lsn,
        /// Whether the record there is left out.
        exclusive: bool,
    },
    /// At the end of a transaction.
    Xid {
        /// Its id, without epoch.
        xid: u32,
        /// Whether it is left out.
        exclusive: bool,
    },
    /// At a restore point (`pg_create_restore_point`).
    Name(String),
    /// As soon as the cluster is consistent.
    Immediate,
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edge = |exclusive: &bool| if *exclusive { " (exclusive)" } else { "" };
        match self {
            Self::Latest => f.write_str("newest state"),
            Self::Time { time, exclusive } => write!(f, "time {time}{}", edge(exclusive)),
            Self::Lsn { target, exclusive } => write!(f, "LSN {target}{}", edge(exclusive)),
            Self::Xid { xid, exclusive } => write!(f, "transaction {xid}{}", edge(exclusive)),
            Self::Name(name) => write!(f, "restore point \"{name}\""),
            Self::Immediate => f.write_str("end of the backup"),
        }
    }
}

/// What the server does at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// Stay read-only until `pg_wal_replay_resume()`; PostgreSQL's own default.
    Pause,
    /// Open for writing, on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        })
    }
}

impl FromStr for TargetAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Pause, Self::Promote, Self::Shutdown]
            .into_iter()
            .find(|action| action.to_string() == text)
            .ok_or_else(|| Error::usage(format!("\"{text}\" is not pause, promote or shutdown")))
    }
}

impl TargetAction {
    /// What happens when recovery to `target` ends, when this was asked for: the newest state is opened in any case.
    #[must_use]
    pub const fn at(self, target: &RecoveryTarget) -> Self {
        if matches!(target, RecoveryTarget::Latest) { Self::Promote } else { self }
    }
}

/// Where a restored server's recovery leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// To a target, where it ends.
    To {
        /// The target.
        target: RecoveryTarget,
        /// What happens there; without effect at the end of the WAL.
        action: TargetAction,
        /// The timeline to follow.
        timeline: TimelineId,
    },
    /// Nowhere: a standby follows its primary until it is promoted.
    Standby,
}

/// Everything that a restored server must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Where recovery leads.
    pub recovery: Recovery,
    /// How the server gets WAL.
    pub restore_command: String,
}

/// The settings that we write or neutralise: a leftover of any of them would steer recovery elsewhere (R19).
const NAMES: [&str; 12] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    // A delayed standby's; it holds back every commit of any archive recovery.
    "recovery_min_apply_delay",
];

impl RecoverySettings {
    /// Lines for the end of postgresql.auto.conf. Every setting is named, since postgresql.conf may set any of them.
    pub fn render(&self) -> Result<String> {
        use RecoveryTarget as Target;
        let (target, action, timeline) = match &self.recovery {
            Recovery::To { target, action, timeline } => (target, action.at(target), timeline.to_string()),
            Recovery::Standby => (&Target::Latest, TargetAction::Pause, "latest".to_owned()),
        };
        let value = |name: &str| match (name, target) {
            ("restore_command", _) => self.restore_command.clone(),
            ("recovery_target", Target::Immediate) => "immediate".to_owned(),
            ("recovery_target_time", Target::Time { time, .. }) => time.for_recovery_target(),
            ("recovery_target_lsn", Target::Lsn { target, .. }) => target.to_string(),
            ("recovery_target_xid", Target::Xid { xid, .. }) => xid.to_string(),
            ("recovery_target_name", Target::Name(name)) => name.clone(),
            ("recovery_target_inclusive", target) => if exclusive(target) { "off" } else { "on" }.to_owned(),
            ("recovery_target_timeline", _) => timeline.clone(),
            ("recovery_target_action", _) => action.to_string(),
            ("recovery_min_apply_delay", _) => "0".to_owned(),
            _ => String::new(),
        };
        let mut lines = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            lines.push((value(name), name));
        }
        // An empty target after one that is set is taken for a second target (assign_recovery_target_*).
        lines.sort_by_key(|(value, _)| !value.is_empty());
        lines.iter().map(|(value, name)| Ok(format!("{name} = {}\n", quote(value)?))).collect()
    }
}

const fn exclusive(target: &RecoveryTarget) -> bool {
    match target {
        RecoveryTarget::Time { exclusive, .. }
        | RecoveryTarget::Lsn { exclusive, .. }
        | RecoveryTarget::Xid { exclusive, .. } => *exclusive,
        RecoveryTarget::Latest | RecoveryTarget::Name(_) | RecoveryTarget::Immediate => false,
    }
}

/// A quoted value of a configuration file (guc-file.l: quotes and backslashes are doubled).
fn quote(value: &str) -> Result<String> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(Error::usage(format!("{value:?} cannot be written to a configuration file")));
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// postgresql.auto.conf without earlier lines of the settings that [`RecoverySettings::render`] writes. Values are bytes
/// in whatever encoding the client of ALTER SYSTEM had.
pub fn strip_leftovers(auto_conf: &[u8]) -> Vec<u8> {
    let is_ours = |line: &[u8]| {
        let line = line.trim_ascii_start();
        let end = line.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'=');
        let name = &line[..end.unwrap_or(line.len())];
        NAMES.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
    };
    let lines = auto_conf.split_inclusive(|&byte| byte == b'\n').filter(|line| !is_ours(line));
    let mut kept = lines.collect::<Vec<_>>().concat();
    if kept.last().is_some_and(|&byte| byte != b'\n') {
        kept.push(b'\n');
    }
    kept
}

/// `text` as one argument of restore_command: safe from the shell, and from PostgreSQL's `%` placeholders.
pub fn restore_command_argument(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:=+,@".contains(&byte));
    if plain {
        return text.to_owned();
    }
    format!("'{}'", text.replace('%', "%%").replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(target: RecoveryTarget) -> RecoverySettings {
        let timeline = TimelineId::new(2).unwrap();
        RecoverySettings {
            recovery: Recovery::To { target, action: TargetAction::Pause, timeline },
            restore_command: r"walproof wal-fetch '\a b' %f %p".to_owned(),
        }
    }

    #[test]
    fn every_setting_is_written_and_only_one_target_is_set() {
        let text = settings(RecoveryTarget::Name("it's".to_owned())).render().unwrap();
        assert_eq!(
            text,
            "archive_cleanup_command = ''\nrecovery_end_command = ''\nrecovery_target = ''\n\
             recovery_target_time = ''\nrecovery_target_lsn = ''\nrecovery_target_xid = ''\n\
             restore_command = 'walproof wal-fetch ''\\\\a b'' %f %p'\nrecovery_target_name = 'it''s'\n\
             recovery_target_inclusive = 'on'\nrecovery_target_timeline = '2'\nrecovery_target_action = 'pause'\n\
             recovery_min_apply_delay = '0'\n"
        );
        settings(RecoveryTarget::Name("a\nfsync = off".to_owned())).render().unwrap_err();
    }

    #[test]
    fn r19_leftovers_go_and_everything_else_stays() {
        let before = b"# Do not edit\nwork_mem = '4MB'\nRecovery_Target_Time='x'\nrestore_command = 'y'\n  recovery_target_name 'z'\nrestore_command_x = 1\nx.y = '\xe9'";
        let after = b"# Do not edit\nwork_mem = '4MB'\nrestore_command_x = 1\nx.y = '\xe9'\n";
        assert_eq!(strip_leftovers(before), after);
        assert_eq!(strip_leftovers(b""), b"");
    }

    #[test]
    fn a_standby_follows_the_newest_timeline_and_has_no_target() {
        let settings = RecoverySettings { recovery: Recovery::Standby, restore_command: "true".to_owned() };
        let text = settings.render().unwrap();
        assert!(text.contains("recovery_target_timeline = 'latest'\n"), "{text}");
        assert!(text.contains("recovery_target_time = ''\n") && !text.contains("promote"), "{text}");
        assert_eq!(TargetAction::Pause.at(&RecoveryTarget::Latest), TargetAction::Promote);
        assert_eq!(TargetAction::Pause.at(&RecoveryTarget::Immediate), TargetAction::Pause);
    }

    #[test]
    fn arguments_pass_the_shell_and_the_placeholders() {
        assert_eq!(restore_command_argument("/etc/walproof/a.toml"), "/etc/walproof/a.toml");
        assert_eq!(restore_command_argument("a 100% 'b'"), r"'a 100%% '\''b'\'''");
        assert_eq!(restore_command_argument(""), "''");
    }
}
