//! Every command and option.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::version;
use crate::config::DEFAULT_PATH;
use crate::error::{Error, Result};
use crate::format::BackupId;
use crate::postgres::{Lsn, PgTime, TargetAction, TimelineId};

/// PostgreSQL backups that prove they restore
#[derive(Debug, Parser)]
#[command(name = "walproof", version = version::SHORT, long_version = version::LONG)]
#[command(max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done; 1 absent (wal-fetch) or something is wrong (check, verify, drill, \
    drill-list, drill-report, status); 2 usage or configuration; 3 conflict; 4 store; 5 corrupt or wrong key; 6 PostgreSQL; 7 lease held; 8 not possible as \
    asked; 9 anything else; 10 drill: inconclusive. wal-fetch adds 200 to all but 0 and 1."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Parse the program's name and what follows. PostgreSQL starts `wal-push` and `wal-fetch` for every segment: they are
    /// parsed without building all the other commands. What is wrong is told by the parser that knows all of them.
    pub(crate) fn of(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let alone = match arguments.get(1).and_then(|name| name.to_str()) {
            Some("wal-push") => parse_alone(arguments, Command::WalPush),
            Some("wal-fetch") => parse_alone(arguments, Command::WalFetch),
            _ => None,
        };
        alone.map_or_else(|| Self::try_parse_from(arguments), Ok)
    }
}

/// One command's arguments, as if it were a program of its own.
#[derive(Debug, Parser)]
struct Alone<A: Args> {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    arguments: A,
}

fn parse_alone<A: Args>(arguments: &[OsString], command: fn(A) -> Command) -> Option<Cli> {
    let program_and_rest = arguments.iter().take(1).chain(arguments.iter().skip(2));
    let Alone { global, arguments } = Alone::try_parse_from(program_and_rest).ok()?;
    Some(Cli { global, command: command(arguments) })
}

#[derive(Debug, Args)]
pub(crate) struct WalPush {
    /// Path of the file, as PostgreSQL's %p
    pub(crate) path: PathBuf,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file; by default what WALPROOF_CONFIG names
    #[arg(long, global = true, value_name = "FILE", default_value_os_t = default_path(), help_heading = GLOBAL)]
    pub(crate) config: PathBuf,
    /// Print one JSON document on stdout
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// Log errors only
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub(crate) verbose: u8,
}

const GLOBAL: &str = "Global options";

/// A variable that is set to nothing is as good as none. Not the parser's own way: to that it would count as an argument.
fn default_path() -> PathBuf {
    let named = std::env::var_os("WALPROOF_CONFIG").filter(|named| !named.is_empty());
    named.unwrap_or_else(|| DEFAULT_PATH.into()).into()
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create the repository for this cluster, or say that it is there
    Init,
    /// Check everything that archiving and restoring need, one line each
    Check,
    /// Archive a WAL file: archive_command = 'walproof wal-push %p'
    WalPush(WalPush),
    /// Fetch a WAL file: restore_command = 'walproof wal-fetch %f %p'
    WalFetch(WalFetch),
    /// Fetch and open segments ahead of recovery (started by wal-fetch)
    #[command(hide = true)]
    WalPrefetch {
        /// The segment that was fetched last
        name: String,
        /// The cluster's system identifier
        #[arg(long)]
        system_identifier: u64,
        /// Where they are laid ready
        #[arg(long)]
        spool: PathBuf,
        /// The timeline that recovery follows
        #[arg(long)]
        timeline: Option<TimelineId>,
    },
    /// Show archived WAL: runs per timeline, gaps, tail
    WalList(Which),
    /// Take a base backup
    BackupPush {
        /// The data directory (as WAL-E and WAL-G take it); must be the configured one
        pgdata: Option<PathBuf>,
        /// Reuse nothing of earlier backups
        #[arg(long)]
        full: bool,
    },
    /// List the backups
    BackupList(Which),
    /// Show one backup
    BackupShow {
        /// Its id
        id: BackupId,
        #[command(flatten)]
        which: Which,
    },
    /// Keep a backup past the window, with the WAL that makes it consistent
    BackupHold(HoldArguments),
    /// Keep a backup no longer than the window asks for
    BackupUnhold {
        /// Its id
        id: BackupId,
    },
    /// Enforce retention: delete what no instant of the window, hold or lease needs
    Expire {
        /// Print what would stay and what would go, and why; delete nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Verify that the repository holds what its backups and the window need; exit 1 if a restore
    /// would trip over something
    Verify(VerifyArguments),
    /// Restore a data directory
    Restore(Restore),
    /// As WAL-E and WAL-G: `backup-fetch DIR LATEST` is `restore --to DIR`
    #[command(hide = true)]
    BackupFetch {
        /// The new data directory
        directory: PathBuf,
        /// LATEST or a backup's id
        backup: String,
    },
    /// Rehearse a restore and prove it: restore, recover, check, time, wipe; leaves a signed report
    // Its server always opens: the option is there to be refused with a reason.
    #[command(mut_arg("target_action", |action| action.hide(true)))]
    Drill(Drill),
    /// List the drills, and check their evidence: numbers, chain, signatures, missed runs
    DrillList {
        #[command(flatten)]
        trust: Trust,
    },
    /// Show the report of a drill: the newest, or the one with this id
    DrillReport {
        /// Its id
        id: Option<String>,
        /// How: text, json, or html for a self-contained page
        #[arg(long, value_enum, default_value = "text")]
        format: ReportFormat,
        #[command(flatten)]
        trust: Trust,
    },
    /// Write down what was done about a failed drill; signed and chained like a report
    DrillNote {
        /// Its id
        id: String,
        /// What was done
        text: String,
    },
    /// Write the signed report of a drill into a file: a DSSE envelope
    DrillExport {
        /// Its id; by default the newest
        id: Option<String>,
        /// A new file
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        trust: Trust,
    },
    /// Check an exported report with a public key and nothing else
    DrillVerify {
        /// The envelope
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// As `drill-keygen` printed it
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
    /// Make a key that signs reports, and print its public half
    DrillKeygen {
        /// A new file for the private half; never over one that exists. Without it that is printed, too, first
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Say how safe the cluster is now: recovery window, RPO, last backup, what needs attention
    Status(Which),
    /// Say what a problem means and what to do about it (the runbook), or list all runbooks
    Explain {
        /// Its code, as `walproof status` shows it, such as wal_gap
        code: Option<String>,
    },
    /// Archive continuously, serve metrics, health and the status page
    Daemon,
    /// Print a new key, or write it into a new file
    Keygen {
        /// Write it into this file, which must not exist, readable by its owner alone
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Seal the identity under a new key, and say what still needs older ones
    ///
    /// Put the new key first into the key file and keep the older ones behind it. Before you run this, every host that
    /// uses the repository needs the new key in its key file, and a running daemon or backup has to have read it.
    KeyRotate,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of the program or of one command, or write all of them into a directory
    Man {
        /// The command, such as backup-push
        #[arg(conflicts_with = "to")]
        of: Option<String>,
        /// Write a page for the program and for each command here
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

/// Which repository, where several clusters had this name.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Which {
    /// The cluster with this system identifier; by default the live one, or the newest of this name
    #[arg(long, value_name = "NUMBER")]
    pub(crate) system_identifier: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WalFetch {
    /// Name of the file, as PostgreSQL's %f
    pub(crate) name: String,
    /// Where to put it, as PostgreSQL's %p
    pub(crate) path: PathBuf,
    /// Serve the unfinished segment too; only for a restored cluster, never on a standby
    #[arg(long, conflicts_with = "standby")]
    pub(crate) tail: bool,
    /// A standby's restore_command: failures do not stop the server
    #[arg(long)]
    pub(crate) standby: bool,
    /// System identifier of the cluster; by default from pg_control in the working directory, else in the configured
    /// data directory
    #[arg(long, value_name = "NUMBER")]
    pub(crate) system_identifier: Option<u64>,
    /// The timeline that recovery follows: the tail of an older one ends where the next begins
    #[arg(long, value_name = "TLI", requires = "tail")]
    pub(crate) timeline: Option<TimelineId>,
    /// Put tablespaces that are created in the WAL below this directory (used by drill)
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) redirect_tablespaces: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct HoldArguments {
    /// Its id
    pub(crate) id: BackupId,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Keep the WAL up to this instant too, so that any time until now stays restorable from it
    #[arg(long)]
    pub(crate) until_now: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Restore {
    /// The new data directory: missing or empty, but for --delta
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// The directory may be this very cluster's, with no server running in it: pages that match the
    /// backup stay, the rest is fetched or removed
    #[arg(long)]
    pub(crate) delta: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Start from this backup instead of the newest that stopped before the target
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<BackupId>,
    /// Put the tablespace that was at FROM into TO; an equals sign within a path is written \=
    #[arg(long, value_name = "FROM=TO")]
    pub(crate) tablespace: Vec<String>,
    /// Make a standby: it follows the newest timeline until it is promoted, by restore_command, and by streaming once
    /// you set primary_conninfo
    #[arg(long, conflicts_with_all = ["target", "target_timeline", "target_exclusive", "target_action"])]
    pub(crate) standby: bool,
    /// "off" for a rehearsal: the restored server archives nothing
    #[arg(long, value_name = "MODE")]
    pub(crate) archive_mode: Option<ArchiveMode>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Show the plan, touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What the restored server does with its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArchiveMode {
    /// It archives nothing
    Off,
}

/// An instant as operators write it.
fn instant(text: &str) -> Result<PgTime> {
    PgTime::parse_target(text, PgTime::now()).map_err(|error| match error.hint_text() {
        Some(hint) => Error::usage(format!("{error}; {hint}")),
        None => error,
    })
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Drill {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Draw the random target with this seed, to get the same one again
    #[arg(long, value_name = "NUMBER", conflicts_with = "target")]
    pub(crate) seed: Option<u64>,
    /// Start from this backup instead of the newest that stopped before the target
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<BackupId>,
    /// Time for checking all tables and indexes
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) amcheck_budget: Duration,
    /// Time for each query of the configuration
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub(crate) query_timeout: Duration,
    /// Also write the results for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub(crate) textfile: Option<PathBuf>,
}

/// Whose signatures count.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Trust {
    /// Trust this public key; may be repeated. By default the one that drill.signing_key_file belongs to
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Vec<PathBuf>,
}

/// How a report is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    Text,
    Json,
    Html,
}

#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_field_names, reason = "the fields are the names of the flags")]
pub(crate) struct Target {
    /// Recover to this instant, such as '2026-11-22 13:00:00+01' or 'now - 10 min'
    #[arg(long, value_name = "TIME", group = "target", value_parser = instant)]
    pub(crate) target_time: Option<PgTime>,
    /// Recover to this WAL position
    #[arg(long, value_name = "LSN", group = "target")]
    pub(crate) target_lsn: Option<Lsn>,
    /// Recover to the end of this transaction
    #[arg(long, value_name = "XID", group = "target")]
    pub(crate) target_xid: Option<u64>,
    /// Recover to this restore point
    #[arg(long, value_name = "NAME", group = "target")]
    pub(crate) target_name: Option<String>,
    /// Recover to the end of the backup, no further
    #[arg(long, group = "target")]
    pub(crate) target_immediate: bool,
    /// Follow this timeline instead of the newest
    #[arg(long, value_name = "TLI")]
    pub(crate) target_timeline: Option<TimelineId>,
    /// Stop just before the target (time, LSN, transaction) instead of just after
    #[arg(long)]
    pub(crate) target_exclusive: bool,
    /// What the server does at the target: pause (PostgreSQL's default), promote or shutdown
    #[arg(long, value_name = "ACTION")]
    pub(crate) target_action: Option<TargetAction>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Open every object, compare every page with its digest, read all WAL record by record
    #[arg(long)]
    pub(crate) content: bool,
    /// Print for each backup and each day of the window whether it can be restored, and why not
    #[arg(long)]
    pub(crate) restorable: bool,
    /// Bytes a second that --content reads, as 50MiB; 0 for no limit
    #[arg(long, requires = "content", default_value = "0", value_parser = crate::config::parse_bytes)]
    pub(crate) max_rate: u64,
    /// Bytes that --content reads at most, as 200GiB; 0 for no limit. The rest is left for the next run
    #[arg(long, requires = "content", default_value = "0", value_parser = crate::config::parse_bytes)]
    pub(crate) max_bytes: u64,
    /// Open again what earlier runs opened within the window
    #[arg(long, requires = "content")]
    pub(crate) again: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_parsed_alone_means_the_same() {
        for line in [
            "walproof wal-push pg_wal/000000010000000000000003",
            "walproof wal-push --config /etc/w.toml -vv --json pg_wal/000000010000000000000003",
            "walproof wal-fetch 000000010000000000000003 pg_wal/RECOVERYXLOG --quiet",
            "walproof wal-fetch --config=w.toml --system-identifier 7 --timeline 2 --tail 00000002.history to",
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let [alone, whole] = [Cli::of(&arguments), Cli::try_parse_from(&arguments)]
                .map(|parsed| format!("{:?}", parsed.unwrap()));
            assert_eq!(alone, whole);
        }
        for wrong in ["walproof wal-push", "walproof wal-push a b", "walproof wal-fetch --help"] {
            let arguments: Vec<OsString> = wrong.split(' ').map(OsString::from).collect();
            let [alone, whole] = [Cli::of(&arguments), Cli::try_parse_from(&arguments)]
                .map(|parsed| parsed.unwrap_err().to_string());
            assert_eq!(alone, whole);
        }
    }
}
