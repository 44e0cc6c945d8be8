//! A problem: something that the operator must know, with a stable code.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// How bad a problem is, in the words of the alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; `/healthz` still says that all is well.
    Warning,
    /// What was promised does not hold now.
    Critical,
}

impl Severity {
    /// As labels show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Declares the codes with their texts, so that none is forgotten in [`Code::ALL`].
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of problem. Scripts and alerts may rely on the text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As labels, JSON and the README have it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The data directory cannot be read.
    DataDirectory = "data_directory",
    /// archive_command is configured for a different repository than the daemon.
    ConfigurationChanged = "configuration_changed",
    /// The daemon of this host cannot be asked.
    DaemonDown = "daemon_down",
    /// The server cannot be asked.
    ServerDown = "server_down",
    /// The server that answers is not the one of the data directory.
    WrongServer = "wrong_server",
    /// archive_mode is off.
    ArchiveModeOff = "archive_mode_off",
    /// archive_command does not call walproof.
    ArchiveCommand = "archive_command",
    /// archive_command fails, though what it is to archive is stored.
    ArchiveCommandFails = "archive_command_fails",
    /// The store does not answer, or refuses.
    StoreDown = "store_down",
    /// The repository is not there, or cannot be opened.
    RepositoryUnreadable = "repository_unreadable",
    /// More would be lost than was promised.
    RpoExceeded = "rpo_exceeded",
    /// What would be lost cannot be told.
    RpoUnknown = "rpo_unknown",
    /// Other bytes are stored under the name of a file.
    Conflict = "conflict",
    /// A timeline's history cannot be archived.
    HistoryRefused = "history_refused",
    /// A file cannot be archived.
    ArchivingFailed = "archiving_failed",
    /// Files wait for long.
    ArchivingSlow = "archiving_slow",
    /// The tail cannot be stored.
    TailFailed = "tail_failed",
    /// A history that is stored cannot be followed.
    HistoryUnreadable = "history_unreadable",
    /// A timeline that is not this server's could be restored in its place.
    ForeignTimeline = "foreign_timeline",
    /// More is stored than the server has flushed.
    Diverged = "diverged",
    /// Another server stores newer tails.
    SecondWriter = "second_writer",
    /// Segments are missing.
    WalGap = "wal_gap",
    /// Stored WAL cannot be read.
    WalDamaged = "wal_damaged",
    /// There is no backup.
    NoBackup = "no_backup",
    /// No backup leads to the timeline that is written.
    BackupUnreachable = "backup_unreachable",
    /// The newest backup is old.
    BackupOld = "backup_old",
    /// The last backup failed.
    BackupFailed = "backup_failed",
    /// A backup cannot be read.
    BackupDamaged = "backup_damaged",
    /// The last verification found something missing or damaged.
    VerifyFailed = "verify_failed",
    /// Something that is stored was not opened within the window.
    VerifyOverdue = "verify_overdue",
    /// Pages of the newest backup fail their checksum.
    PageErrors = "page_errors",
    /// The last drill that came to an end failed.
    DrillFailed = "drill_failed",
    /// The last drill could not verify what it was to prove.
    DrillInconclusive = "drill_inconclusive",
    /// No drill came to an end for longer than was promised.
    DrillOverdue = "drill_overdue",
    /// A restore would take longer than was promised.
    RtoExceeded = "rto_exceeded",
    /// A restore would take almost as long as was promised.
    RtoThreatened = "rto_threatened",
    /// Nothing was expired for days.
    RetentionOverdue = "retention_overdue",
    /// The last expiry did not reach its end.
    RetentionFailed = "retention_failed",
    /// The store refuses to delete what is expired.
    DeletesRefused = "deletes_refused",
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One line.
    pub text: String,
    /// The question that finds the cause.
    pub hint: Option<String>,
}

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What it is about.
    pub code: Code,
    /// What went wrong.
    pub text: String,
    /// The question that finds the cause.
    pub hint: Option<String>,
}

impl Trouble {
    /// `error`, under `code`.
    pub fn new(code: Code, error: &Error) -> Self {
        Self { code, text: error.to_string(), hint: error.hint_text().map(str::to_owned) }
    }

    /// `error` of reading the repository.
    pub fn of_repository(error: &Error) -> Self {
        let store = matches!(error.kind(), Kind::Unreachable | Kind::Denied);
        Self::new(if store { Code::StoreDown } else { Code::RepositoryUnreadable }, error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_code_is_the_same_in_json_labels_and_the_readme() {
        let readme = include_str!("../README.md");
        let table = readme.split_once("| code of a problem |").map(|(_, rest)| rest);
        let table = table.and_then(|rest| rest.split_once("\n\n")).map(|(table, _)| table).unwrap();
        let listed: BTreeSet<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(code, _)| code)
            .collect();
        let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(listed, codes);
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
            let letters =
                |text: &str| text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
            assert!(letters(code.as_str()));
        }
    }
}
