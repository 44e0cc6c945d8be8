//! `completions` and `man`: what packagers install, made from the command line's own description.

use std::path::Path;

use clap::builder::Str;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{args::Cli, manual, output::line};
use crate::config::DEFAULT_PATH;
use crate::disk::durable;
use crate::error::{Error, Kind, Result};

pub(super) fn completions(shell: Shell) -> Result<u8> {
    let mut command = with_hints(described());
    // Into memory: on a full disk or a closed pipe the generator would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "walproof", &mut script);
    line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Without hidden commands, which the generators do not leave out by themselves.
fn described() -> Command {
    let whole = Cli::command();
    let hidden: Vec<String> = whole
        .get_subcommands()
        .filter(|command| command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect();
    let visible: Vec<Command> = whole
        .get_subcommands()
        .filter(|command| !hidden.contains(&command.get_name().to_owned()))
        .cloned()
        .collect();
    let mut command = Command::new("walproof")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(visible);
    for argument in whole.get_arguments() {
        command = command.arg(argument.clone());
    }
    if let Some(about) = whole.get_about() {
        command = command.about(about.clone());
    }
    if let Some(help) = whole.get_after_help() {
        command = command.after_help(help.clone());
    }
    command
}

/// Say what each value is, so that shells offer files for paths, directories for directories, and nothing for the rest.
fn with_hints(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let hint = hint(&argument);
        if argument.get_action().takes_values() { argument.value_hint(hint) } else { argument }
    });
    command.mut_subcommands(with_hints)
}

fn hint(argument: &Arg) -> ValueHint {
    let name = argument.get_value_names().and_then(|names| names.first()).map_or("", Str::as_str);
    match name {
        "FILE" => ValueHint::FilePath,
        "DIR" | "DIRECTORY" | "PGDATA" | "SPOOL" => ValueHint::DirPath,
        "PATH" => ValueHint::AnyPath,
        _ => ValueHint::Other,
    }
}

/// One page on stdout, or every page as a file in `to`.
pub(super) fn man(name: Option<&str>, to: Option<&Path>) -> Result<u8> {
    let pages = pages()?;
    if let Some(to) = to {
        durable::create_dir_all(to, 0o755)?;
        for (name, page) in &pages {
            let path = to.join(format!("{name}.1"));
            std::fs::write(&path, page).map_err(|cause| Error::io("write", &path, &cause))?;
        }
        return Ok(0);
    }
    let wanted = name.map_or_else(|| "walproof".to_owned(), |name| format!("walproof-{name}"));
    let Some((_, page)) = pages.iter().find(|(name, _)| *name == wanted) else {
        return Err(Error::usage(format!("there is no command \"{}\"", name.unwrap_or_default()))
            .hint("`walproof help` lists the commands"));
    };
    line(String::from_utf8_lossy(page).trim_end())?;
    Ok(0)
}

/// Name and text of every page: of the program, and of each command.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut whole = described();
    whole.build();
    let commands = whole.get_subcommands().map(|command| {
        let name = format!("walproof-{}", command.get_name());
        let shown = format!("walproof {}", command.get_name());
        (name.clone(), command.clone().display_name(name).bin_name(shown))
    });
    let all: Vec<(String, Command)> =
        std::iter::once(("walproof".to_owned(), whole.clone())).chain(commands).collect();
    all.into_iter()
        .map(|(name, command)| {
            let failed =
                |cause: std::io::Error| Error::new(Kind::Other, format!("write the manual: {cause}"));
            Ok((name, render(command).map_err(failed)?))
        })
        .collect()
}

/// In the usual order of a manual page; what the command line does not know of itself comes from [`manual`].
fn render(command: Command) -> std::io::Result<Vec<u8>> {
    let entry = manual::page(command.get_bin_name().unwrap_or_default().trim_start_matches("walproof "));
    let has_commands = command.has_subcommands();
    let man = Man::new(command).manual("walproof");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::default();
    if let Some(entry) = entry {
        examples(&mut rest, entry);
    }
    exit_status(&mut rest, entry);
    files(&mut rest);
    see_also(&mut rest, entry);
    rest.to_writer(&mut page)?;
    Ok(page)
}

fn examples(roff: &mut Roff, entry: &manual::Page) {
    roff.control("SH", ["EXAMPLES"]);
    for (what, line) in entry.examples {
        roff.control("PP", []);
        if !what.is_empty() {
            roff.text([roman(*what)]);
        }
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([roman(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

fn exit_status(roff: &mut Roff, entry: Option<&manual::Page>) {
    let of_program: &[(u8, &str)] = &[
        (0, "done; for check, verify, drill, drill-list, drill-report and status: and nothing is wrong"),
        (
            1,
            "wal-fetch: the repository answered that the file is not there; check, verify, drill, drill-list, drill-report, status: see the output",
        ),
        (10, "drill: inconclusive"),
    ];
    let verdicts = entry.map_or(of_program, |entry| entry.verdicts);
    let done = if verdicts.iter().any(|(code, _)| *code == 0) { None } else { Some((0, "done")) };
    let common =
        manual::COMMON.into_iter().filter(|(code, _)| entry.is_none_or(|entry| entry.codes.contains(code)));
    let mut codes: Vec<(u8, &str)> = done.into_iter().chain(verdicts.iter().copied()).chain(common).collect();
    codes.sort_by_key(|(code, _)| *code);
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in codes {
        roff.control("TP", ["6"]);
        roff.text([bold(code.to_string())]);
        roff.text([roman(meaning)]);
    }
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (path, what) in [
        (DEFAULT_PATH, "the configuration; the package installs an example with every key"),
        ("/etc/walproof/key", "the key: keep a copy where the host's loss does not reach it"),
    ] {
        roff.control("TP", []);
        roff.text([bold(path)]);
        roff.text([roman(what)]);
    }
}

fn see_also(roff: &mut Roff, entry: Option<&manual::Page>) {
    roff.control("SH", ["SEE ALSO"]);
    let first = if entry.is_some() { "walproof" } else { "walproof-explain" };
    roff.text([
        bold(first),
        roman("(1), "),
        bold("walproof-status"),
        roman("(1), "),
        bold("postgres"),
        roman("(1)"),
    ]);
}
