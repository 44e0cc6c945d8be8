//! From arguments to an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use super::backup;
use super::check;
use super::daemon;
use super::drill;
use super::drill_evidence;
use super::explain;
use super::generate;
use super::init;
use super::key_rotate;
use super::keygen;
use super::restore;
use super::retention;
use super::status;
use super::verify;
use super::wal;
use super::wal_fetch;
use crate::cli::{args::Cli, args::Command, args::Global, output, output::complain, start};
use crate::error::{Error, Kind, Result};

/// Parse the process's arguments, run the command, and say how it went.
pub fn main() -> ExitCode {
    start::forbid_core_dumps();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let exit = Exit::of(&arguments);
    let json = arguments.iter().any(|argument| argument == "--json");
    // A panic is a bug; it must not look like "absent" to recovery, which the usual 101 would (R6).
    let code = exit.code_of(Kind::Other);
    let usual_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual_hook(info);
        std::process::exit(i32::from(code));
    }));
    let cli = match Cli::of(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            return ExitCode::from(unparsed(&error, exit, json));
        }
    };
    ExitCode::from(finish(run(cli), exit, json))
}

/// Say how it went: on stderr, and with `--json` as the one document on stdout where there is none yet.
fn finish(result: Result<u8>, exit: Exit, json: bool) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    let absent = matches!(exit, Exit::Recovery | Exit::Standby) && error.kind() == Kind::NotFound;
    let code = if absent { 1 } else { exit.code_of(error.kind()) };
    if json {
        output::json_error(&error, code);
    }
    if !absent {
        complain(&error);
    }
    code
}

/// Help and the version are results; what is wrong with the arguments takes one line, and a hint.
fn unparsed(error: &clap::Error, exit: Exit, json: bool) -> u8 {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return if error.use_stderr() { exit.code_of(Kind::Usage) } else { 0 };
    }
    finish(Err(usage(&error.render().to_string())), exit, json)
}

/// The parser's message, which is several paragraphs: what is wrong, tips, the usage.
fn usage(text: &str) -> Error {
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    });
    let wrong = paragraphs.next().unwrap_or_default();
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong);
    let told: Vec<String> = paragraphs.collect();
    let tip = told.iter().find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let usage = told.iter().find_map(|paragraph| paragraph.strip_prefix("Usage: "));
    let hint = match (tip, usage) {
        (Some(tip), _) => tip.replace(" tip: ", "; "),
        (None, Some(usage)) => format!("usage: {usage}"),
        (None, None) => of_value(wrong).to_owned(),
    };
    Error::usage(wrong).hint(hint)
}

/// What would have been a value of that kind.
fn of_value(wrong: &str) -> &'static str {
    let fits = [
        ("'<ID>", "`walproof backup-list` shows the ids of backups"),
        ("'--backup <ID>'", "`walproof backup-list` shows the ids of backups"),
        ("'--target-time ", "as in '2026-11-22 13:00:00+01', or 'now - 10 min'"),
        ("'--target-lsn ", "as in 16/B374D848: two numbers in hexadecimal"),
        ("invalid value", "`walproof COMMAND --help` says what it takes"),
    ];
    let fitting = fits.iter().find(|(of, _)| wrong.contains(of));
    fitting
        .map_or("`walproof help` lists the commands, `walproof COMMAND --help` explains one", |(_, hint)| {
            hint
        })
}

/// What exit codes mean to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// The table of the README.
    Usual,
    /// `wal-fetch`: anything but success and proven absence must stop recovery, so it lies above 125.
    Recovery,
    /// `wal-fetch --standby`: the server asks again for ever.
    Standby,
    /// `wal-prefetch`: in a container the server may inherit it, and takes any other code for one of its own processes that
    /// crashed (`CleanupBackend`).
    Inherited,
}

impl Exit {
    /// Decided from the bare arguments, since even wrong ones must not look like absence.
    fn of(arguments: &[OsString]) -> Self {
        let has = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
        if has("wal-prefetch") {
            return Self::Inherited;
        }
        match (has("wal-fetch"), has("--standby")) {
            (false, _) => Self::Usual,
            (true, false) => Self::Recovery,
            (true, true) => Self::Standby,
        }
    }

    const fn code_of(self, kind: Kind) -> u8 {
        match self {
            Self::Usual | Self::Standby => kind.exit_code(),
            Self::Recovery => 200 + kind.exit_code(),
            Self::Inherited => 0,
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::WalPush(arguments) => wal::push(&cli.global, &arguments.path),
        other => run_larger(&cli.global, other),
    }
}

/// A function of its own: inlined, `wal-push` would touch as much stack as the largest command needs (60 kB).
#[inline(never)]
fn run_larger(global: &Global, command: Command) -> Result<u8> {
    match command {
        Command::Init => init::init(global),
        Command::Check => check::check(global),
        Command::WalPush(arguments) => wal::push(global, &arguments.path),
        Command::WalFetch(arguments) => wal_fetch::fetch(global, &arguments),
        Command::WalPrefetch { name, system_identifier, spool, timeline } => {
            wal_fetch::prefetch(global, &name, system_identifier, spool, timeline)
        }
        Command::WalList(which) => wal::list(global, which),
        Command::BackupPush { pgdata, full } => backup::push(global, pgdata.as_deref(), full),
        Command::BackupList(which) => backup::list(global, which),
        Command::BackupShow { id, which } => backup::show(global, &id, which),
        Command::BackupHold(arguments) => retention::hold(global, &arguments),
        Command::BackupUnhold { id } => retention::unhold(global, &id),
        Command::Expire { dry_run } => retention::run(global, dry_run),
        Command::Verify(arguments) => verify::run(global, &arguments),
        Command::Restore(arguments) => restore::restore(global, arguments),
        Command::BackupFetch { directory, backup } => restore::backup_fetch(global, directory, &backup),
        Command::Drill(arguments) => drill::drill(global, &arguments),
        Command::DrillList { trust } => drill_evidence::list(global, &trust),
        Command::DrillReport { id, format, trust } => {
            drill_evidence::report(global, id.as_deref(), format, &trust)
        }
        Command::DrillNote { id, text } => drill_evidence::note(global, &id, text),
        Command::DrillExport { id, to, trust } => drill_evidence::export(global, id.as_deref(), &to, &trust),
        Command::DrillVerify { file, public_key } => drill_evidence::verify(global, &file, &public_key),
        Command::DrillKeygen { to } => drill_evidence::keygen(global, to.as_deref()),
        Command::Status(which) => status::status(global, which),
        Command::Explain { code } => explain::explain(global, code.as_deref()),
        Command::Daemon => daemon::daemon(global),
        Command::Keygen { to } => keygen::keygen(global, to.as_deref()),
        Command::KeyRotate => key_rotate::rotate(global),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { of, to } => generate::man(of.as_deref(), to.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn wrong_arguments_take_one_line_and_a_hint() {
        for (arguments, wrong, hint) in [
            (&["wal-pus"][..], "unrecognized subcommand 'wal-pus'", "'wal-push'"),
            (
                &["--frobnicate"],
                "unexpected argument '--frobnicate' found",
                "usage: walproof [OPTIONS] <COMMAND>",
            ),
            (
                &["wal-push"],
                "the following required arguments were not provided: <PATH>",
                "usage: walproof wal-push <PATH>",
            ),
            (&["backup-show", "LATEST"], "invalid value 'LATEST' for '<ID>': ", "walproof backup-list"),
            (&["drill", "--backup", "x"], "invalid value 'x' for '--backup <ID>': ", "walproof backup-list"),
            (
                &["drill", "--target-time", "2026-11-22 13:00:00"],
                "invalid value '2026-11-22 13:00:00' for '--target-time <TIME>': ",
                "13:00:00+01",
            ),
            (
                &["drill", "--target-lsn", "xx"],
                "invalid value 'xx' for '--target-lsn <LSN>': ",
                "16/B374D848",
            ),
            (&["drill", "--seed", "x"], "invalid value 'x' for '--seed <NUMBER>': ", "COMMAND --help"),
        ] {
            let all = std::iter::once("walproof").chain(arguments.iter().copied());
            let error = usage(&Cli::try_parse_from(all).unwrap_err().render().to_string());
            assert!(error.to_string().starts_with(wrong), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
            assert!(error.hint_text().unwrap().contains(hint), "{arguments:?}: {:?}", error.hint_text());
        }
    }
}
