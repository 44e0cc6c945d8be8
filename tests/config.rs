//! What operators copy: the annotated configuration and the tables of the README are true.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use walproof::config::Config;
use walproof::error::{Kind, Result};

const EXAMPLE: &str = include_str!("../config/walproof.toml");
const README: &str = include_str!("../README.md");

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("/etc/walproof/walproof.toml"))
}

/// Lines of the example that are a commented-out key: `#key = value`, with no space.
fn alternatives() -> impl Iterator<Item = &'static str> {
    let is_key = |line: &&str| {
        line.strip_prefix('#')
            .is_some_and(|key| key.starts_with(|c: char| c.is_ascii_lowercase()) && key.contains(" = "))
    };
    EXAMPLE.lines().filter(is_key)
}

#[test]
fn the_example_parses_and_means_what_it_says() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.cluster.as_str(), "roadwave");
    assert_eq!(config.repository.prefix, "pg");
    assert_eq!(config.data_dir().unwrap(), Path::new("/var/lib/postgresql/15/main"));
    assert!(config.is_encrypted());
    assert_eq!(config.retention_window.as_secs(), 7 * 24 * 3600);
}

#[test]
fn every_commented_out_key_is_one() {
    let keys: Vec<&str> = alternatives().collect();
    assert!(keys.len() >= 6, "{keys:?}");
    for key in keys {
        let text = EXAMPLE.replace(key, &key[1..]);
        if let Err(error) = parse(&text) {
            // Alternatives may contradict what is set beside them; they must be known.
            let message = error.to_string();
            assert!(!message.contains("unknown field") && !message.contains("expected"), "{key}: {message}");
        }
    }
}

#[test]
fn what_is_left_out_has_the_default_that_the_example_names() {
    let least = "[cluster]\nname = \"roadwave\"\n[repository]\nurl = \"file:///srv/backups\"\n\
                 [encryption]\nmode = \"none\"\n";
    let (given, default) = (parse(EXAMPLE).unwrap(), parse(least).unwrap());
    assert_eq!(given.level, default.level);
    assert_eq!(given.archive.tail_interval, default.archive.tail_interval);
    assert_eq!(given.archive.heartbeat_interval, default.archive.heartbeat_interval);
    assert_eq!(given.archive.concurrency, default.archive.concurrency);
    assert_eq!(given.archive.timeout, default.archive.timeout);
    assert_eq!(given.archive.socket, default.archive.socket);
    assert_eq!(given.backup_concurrency, default.backup_concurrency);
    assert_eq!(given.backup_max_rate, default.backup_max_rate);
    assert_eq!(given.backup_on_rto_threat, default.backup_on_rto_threat);
    assert_eq!(given.retention_window, default.retention_window);
    assert_eq!(given.log_json, default.log_json);
    let (given, default) = (given.drill, default.drill);
    assert_eq!(
        (&given.directory, given.target, given.every),
        (&default.directory, default.target, default.every)
    );
    assert_eq!(given.amcheck, default.amcheck);
    assert_eq!((given.signing_key_file, given.queries[0].role.as_ref()), (default.signing_key_file, None));
}

#[test]
fn r27_an_unknown_key_is_refused_in_every_section() {
    let sections: Vec<&str> = EXAMPLE.lines().filter(|line| line.starts_with('[')).collect();
    assert!(sections.len() >= 12, "{sections:?}");
    for section in sections {
        let text = EXAMPLE.replacen(&format!("\n{section}\n"), &format!("\n{section}\nnonsense = 1\n"), 1);
        let error = parse(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("nonsense"), "{section}: {error}");
    }
    let error = parse(&format!("{EXAMPLE}\n[nonsense]\n")).unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

/// The kinds that end with this code, and a word that the README's line must have.
fn meaning(code: u8) -> (&'static [Kind], &'static str) {
    match code {
        0 => (&[], "done"),
        1 => (&[], "wal-fetch"),
        2 => (&[Kind::Usage], "usage"),
        3 => (&[Kind::Conflict], "conflict"),
        4 => (&[Kind::Unreachable, Kind::Denied], "store"),
        5 => (&[Kind::Corrupt, Kind::NotFound], "corrupt"),
        6 => (&[Kind::Server], "PostgreSQL"),
        7 => (&[Kind::Busy], "lease"),
        8 => (&[Kind::Impossible], "not possible"),
        9 => (&[Kind::Other], "anything else"),
        _ => (&[], "inconclusive"),
    }
}

#[test]
fn r26_the_exit_codes_of_the_readme_are_those_of_the_program() {
    let (_, section) = README.split_once("\n## Exit codes\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<(u8, &str)> = section
        .lines()
        .filter_map(|line| {
            let (code, text) = line.strip_prefix("| ")?.split_once(" | ")?;
            Some((code.parse().ok()?, text))
        })
        .collect();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (0..=10).collect::<Vec<_>>());
    for (code, text) in rows {
        let (kinds, word) = meaning(code);
        assert!(text.contains(word), "{code}: {text}");
        for kind in kinds {
            assert_eq!(kind.exit_code(), code, "{kind:?}");
        }
    }
}
