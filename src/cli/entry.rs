//! From arguments to an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::filter::LevelFilter;

use super::args::{Cli, Command, Global};
use super::output::{complain, json, line};
use super::quick::{self, Unanswered};
use super::{backup, check, daemon, init, restore, start, status, wal};
use crate::error::{Kind, Result};
use crate::seal::MasterKey;

/// Parse the process's arguments, run the command, and say how it went.
pub fn main() -> ExitCode {
    start::forbid_core_dumps();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let exit = Exit::of(&arguments);
    // A panic is a bug; it must not look like "absent" to recovery, which the usual 101 would (R6).
    let code = exit.code_of(Kind::Other);
    let usual_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual_hook(info);
        std::process::exit(i32::from(code));
    }));
    let asked = match quick::push(&arguments) {
        Some(Ok(result)) => return ExitCode::from(finish(result.map(|()| 0), exit)),
        Some(Err(asked)) => Some(asked),
        None => None,
    };
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit.code_of(Kind::Usage) } else { 0 });
        }
    };
    ExitCode::from(finish(run(cli, asked), exit))
}

fn finish(result: Result<u8>, exit: Exit) -> u8 {
    match result {
        Ok(code) => code,
        Err(error) if exit != Exit::Usual && error.kind() == Kind::NotFound => 1,
        Err(error) => {
            complain(&error);
            exit.code_of(error.kind())
        }
    }
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
}

impl Exit {
    /// Decided from the bare arguments, since even wrong ones must not look like absence.
    fn of(arguments: &[OsString]) -> Self {
        let has = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
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
        }
    }
}

fn run(cli: Cli, asked: Option<Unanswered>) -> Result<u8> {
    let global = cli.global;
    match cli.command {
        Command::Init => init::init(&global),
        Command::Check => check::check(&global),
        Command::WalPush { path } => wal::push(&global, &path, asked),
        Command::WalFetch(arguments) => wal::fetch(&global, &arguments),
        Command::WalPrefetch { name, system_identifier, spool } => {
            wal::prefetch(&global, &name, system_identifier, spool)
        }
        Command::WalList => wal::list(&global),
        Command::BackupPush { pgdata, full } => backup::push(&global, pgdata.as_deref(), full),
        Command::BackupList => backup::list(&global),
        Command::BackupShow { id } => backup::show(&global, &id),
        Command::Restore(arguments) => restore::restore(&global, arguments),
        Command::BackupFetch { directory, backup } => restore::backup_fetch(&global, directory, &backup),
        Command::Status => status::status(&global),
        Command::Daemon => daemon::daemon(&global),
        Command::Keygen => keygen(&global),
        Command::Completions { shell } => {
            // Into memory: on a full disk or a closed pipe the generator would panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "walproof", &mut script);
            line(String::from_utf8_lossy(&script).trim_end())?;
            Ok(0)
        }
        Command::Man => man(),
    }
}

fn keygen(global: &Global) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let text = MasterKey::generate()?.to_text();
    if global.json {
        json(&serde_json::json!({ "key": text.as_str() }))?;
    } else {
        line(text.as_str())?;
    }
    Ok(0)
}

/// The whole manual in one page: every command with its options.
fn man() -> Result<u8> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let render = |command: clap::Command, page: &mut Vec<u8>| clap_mangen::Man::new(command).render(page);
    let mut result = render(command.clone(), &mut page);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        result = result.and_then(|()| {
            let man = clap_mangen::Man::new(sub.clone());
            page.extend_from_slice(format!(".SH \"walproof {}\"\n", sub.get_name()).as_bytes());
            man.render_description_section(&mut page)?;
            man.render_synopsis_section(&mut page)?;
            man.render_options_section(&mut page)
        });
    }
    result.map_err(|cause| crate::error::Error::new(Kind::Other, format!("write the manual: {cause}")))?;
    line(String::from_utf8_lossy(&page).trim_end())?;
    Ok(0)
}
